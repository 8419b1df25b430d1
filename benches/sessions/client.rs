//! A client with or without TLS, and settings of its own.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls, Statement};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::stage::{DATABASE, PASSWORD, Stage, USER};

/// Asks for TLS: PostgreSQL documentation, "Message Formats", `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What a session is made of.
pub(crate) struct Settings {
    statements: &'static [&'static str],
    prepared: &'static [&'static str],
}

impl Settings {
    /// Nothing of its own.
    pub(crate) const NONE: Settings = Settings { statements: &["select 1"], prepared: &[] };
    /// What drivers and applications usually set.
    pub(crate) const SOME: Settings = Settings {
        statements: &[
            "set application_name = 'orders'",
            "set search_path = 'public', 'pg_catalog'",
            "set timezone = 'Europe/Berlin'",
            "set statement_timeout = '30s'",
            "set work_mem = '16MB'",
        ],
        prepared: &["select 1 from pg_class where oid = $1", "select $1::text"],
    };
}

/// A client's.
pub(crate) struct Session {
    client: Client,
    /// The server forgets them when they are dropped.
    _statements: Vec<Statement>,
}

impl Session {
    /// Which process of the server has it now.
    pub(crate) async fn backend(&self) -> i32 {
        self.client.query_one("select pg_backend_pid()", &[]).await.expect("an answer").get(0)
    }
}

/// How to get to a server.
pub(crate) struct Connect {
    port: u16,
    tls: Option<TlsConnector>,
}

impl Connect {
    /// Without TLS.
    pub(crate) fn to(port: u16) -> Connect {
        Connect { port, tls: None }
    }

    /// With it; the certificate's authority is Scalepoint's own.
    pub(crate) fn by_tls(port: u16, stage: &Stage) -> Connect {
        let mut roots = RootCertStore::empty();
        let file = stage.path("scalepoint").join("certs/ca.pem");
        roots.add(CertificateDer::from_pem_file(file).expect("a certificate")).expect("an authority");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Connect { port, tls: Some(TlsConnector::from(Arc::new(config))) }
    }

    /// A session that has these settings, one statement after the other.
    pub(crate) async fn with(&self, settings: &Settings) -> Session {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let client = match &self.tls {
            None => log_in(stream).await,
            Some(connector) => {
                stream.write_all(&SSL_REQUEST).await.expect("a router that reads");
                assert_eq!(stream.read_u8().await.expect("an answer"), b'S', "it has TLS");
                let name = ServerName::try_from("localhost").expect("a name");
                log_in(connector.connect(name, stream).await.expect("a handshake")).await
            }
        };
        for statement in settings.statements {
            client.batch_execute(statement).await.expect("a setting");
        }
        let mut statements = Vec::new();
        for text in settings.prepared {
            statements.push(client.prepare(text).await.expect("a statement"));
        }
        Session { client, _statements: statements }
    }
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.user(USER).password(PASSWORD).dbname(DATABASE).ssl_mode(tokio_postgres::config::SslMode::Disable);
    let (client, connection) = config.connect_raw(stream, NoTls).await.expect("a log in");
    // Its errors come to the client as well.
    tokio::spawn(async move { drop(connection.await) });
    client
}
