//! TLS as clients meet it: real psql with every `sslmode`, and by hand what psql does not do.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::tls_client::{Tls, trusting};
use crate::harness::{PATIENCE, Server, cluster, eventually, folder, stderr, stdout};

/// psql's `\conninfo` with these settings.
fn conninfo(server: &Server, settings: &[(&str, &str)]) -> Output {
    server.psql().envs(settings.iter().copied()).args(["-c", "\\conninfo"]).output().unwrap()
}

fn is_encrypted(output: &Output) -> bool {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output).contains("SSL connection (protocol: TLSv1.")
}

/// The client ended with exit code 2 (no connection) and these words.
fn is_refused(output: &Output, words: &str) {
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(output), stderr(output));
    assert!(stderr(output).contains(words), "{}", stderr(output));
}

/// An authority of this name and a certificate of its for `localhost`, as PEM files `ca`, `certificate`, `key` in `folder`.
fn issue(folder: &Path, name: &str) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Clients look for the issuer by its name.
    authority.distinguished_name.push(DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("ca"), authority.pem()).unwrap();
    std::fs::write(folder.join("certificate"), certificate.pem()).unwrap();
    std::fs::write(folder.join("key"), key.serialize_pem()).unwrap();
}

#[test]
fn every_mode_of_psql() {
    let server = Server::start();
    for (mode, encrypted) in [
        ("disable", false),
        ("allow", false),
        ("prefer", true),
        ("require", true),
        ("verify-ca", true),
        ("verify-full", true),
    ] {
        let output = conninfo(&server, &[("PGSSLMODE", mode)]);
        assert_eq!(is_encrypted(&output), encrypted, "sslmode={mode}: {}", stdout(&output));
    }
    for (binding, mode) in [
        ("disable", "require"),
        ("prefer", "require"),
        ("require", "require"),
        ("prefer", "disable"),
        ("disable", "disable"),
    ] {
        let output = conninfo(&server, &[("PGCHANNELBINDING", binding), ("PGSSLMODE", mode)]);
        assert_eq!(is_encrypted(&output), mode == "require", "channel_binding={binding}");
    }
    let output = conninfo(&server, &[("PGCHANNELBINDING", "require"), ("PGSSLMODE", "disable")]);
    is_refused(&output, "channel binding required");
    let output =
        conninfo(&server, &[("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"), ("PGCHANNELBINDING", "require")]);
    assert!(is_encrypted(&output) && stdout(&output).contains("TLSv1.2"), "{}", stdout(&output));
    // Without Kerberos tickets the client does not even ask; with them it would be told no, see below.
    assert!(is_encrypted(&conninfo(&server, &[("PGGSSENCMODE", "prefer")])));
    let rows = server.psql().args(["-c", "SELECT 1"]).env("PGPASSWORD", "wrong").output().unwrap();
    is_refused(&rows, "password authentication failed for user \"admin\"");
}

#[test]
fn clients_refuse_what_they_do_not_trust() {
    let server = Server::start();
    let other = server.path().join("other");
    issue(&other, "other");
    let ca = other.join("ca").to_string_lossy().into_owned();
    for mode in ["verify-ca", "verify-full"] {
        let output = conninfo(&server, &[("PGSSLROOTCERT", &ca), ("PGSSLMODE", mode)]);
        is_refused(&output, "certificate verify failed");
    }
    let wrong = [("PGHOST", "db.example.org"), ("PGSSLMODE", "verify-full")];
    is_refused(&conninfo(&server, &wrong), "does not match host name \"db.example.org\"");
    assert!(is_encrypted(&conninfo(&server, &[("PGHOST", "db.example.org"), ("PGSSLMODE", "verify-ca")])));
    // Any cluster's name is good, as the certificate has a wildcard.
    assert!(is_encrypted(&conninfo(&server, &[("PGHOST", "orders.cluster.localhost")])));
}

#[test]
fn the_name_that_is_asked_for_chooses_the_cluster() {
    let server = Server::of(&(cluster("orders", "") + &cluster("billing", "")));
    assert_eq!(server.endpoints.len(), 1, "{:?}", server.endpoints);
    let ask = |name: &str, settings: &[(&str, &str)]| {
        server
            .psql()
            .env("PGHOST", format!("{name}.cluster.localhost"))
            .env("PGPASSWORD", server.password(if name == "billing" { "billing" } else { "orders" }))
            .envs(settings.iter().copied())
            .args(["-c", "SHOW cluster_name"])
            .output()
            .unwrap()
    };
    for name in ["orders", "billing"] {
        let output = ask(name, &[]);
        assert_eq!(stdout(&output).trim(), name, "{}", stderr(&output));
    }
    let nobody = "no cluster of this name is served here: connect over TLS to a host name that begins with";
    is_refused(&ask("nobody", &[]), nobody);
    is_refused(&ask("orders", &[("PGSSLMODE", "disable")]), nobody);
    is_refused(&ask("orders", &[("PGSSLSNI", "0")]), nobody);
    // One cluster's password is nothing to the other.
    is_refused(
        &ask("orders", &[("PGPASSWORD", &server.password("billing"))]),
        "password authentication failed",
    );
    // Both change their capacity, each for itself.
    assert_eq!(server.json(&["scale", "billing", "8", "--json"])["outcome"], "scaled");
    let capacities = server.json(&["status", "--json"]);
    assert_eq!(
        (&capacities["clusters"][0]["capacity"], &capacities["clusters"][1]["capacity"]),
        (&2.into(), &8.into())
    );
    assert_eq!(stdout(&ask("billing", &[])).trim(), "billing");
}

async fn dial(server: &Server) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(server.address())).await.unwrap().unwrap()
}

/// A first packet of four bytes after its length.
fn request(code: u32) -> [u8; 8] {
    let mut packet = [0, 0, 0, 8, 0, 0, 0, 0];
    packet[4..].copy_from_slice(&code.to_be_bytes());
    packet
}

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

async fn read_byte(stream: &mut (impl AsyncReadExt + Unpin)) -> u8 {
    timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap()
}

/// Reads to the end; a reset is an end, too.
async fn read_rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    let _end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    rest
}

#[tokio::test]
async fn tls_from_the_first_byte() {
    let server = Server::start();
    let mut config = trusting(&server.ca());
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let mut stream = connector.connect(name.clone(), dial(&server).await).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    let mut packet = bytes::BytesMut::new();
    let parameters = [("user", "admin"), ("database", "app")];
    postgres_protocol::message::frontend::startup_message(parameters, &mut packet).unwrap();
    stream.write_all(&packet).await.unwrap();
    assert_eq!(read_byte(&mut stream).await, b'R', "an authentication request");

    // Without the name of the protocol the bytes could be meant for another one.
    config.alpn_protocols = Vec::new();
    let connector = TlsConnector::from(Arc::new(config.clone()));
    if let Ok(mut stream) = connector.connect(name.clone(), dial(&server).await).await {
        let _refused = stream.write_all(&packet).await;
        assert_eq!(read_rest(&mut stream).await, b"");
    }
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refused = TlsConnector::from(Arc::new(config)).connect(name, dial(&server).await).await;
    assert!(refused.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn what_is_not_offered_is_refused_politely() {
    let server = Server::start();
    let mut stream = dial(&server).await;
    stream.write_all(&request(GSSENC_REQUEST)).await.unwrap();
    assert_eq!(read_byte(&mut stream).await, b'N');
    stream.write_all(&request(SSL_REQUEST)).await.unwrap();
    assert_eq!(read_byte(&mut stream).await, b'S');
    let connector = TlsConnector::from(Arc::new(trusting(&server.ca())));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();

    // TLS 1.1: a ClientHello of that version with one cipher suite, AES128-SHA.
    let mut hello = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 47, 0, 255, 1, 0]);
    let mut stream = dial(&server).await;
    stream.write_all(&request(SSL_REQUEST)).await.unwrap();
    assert_eq!(read_byte(&mut stream).await, b'S');
    stream.write_all(&hello).await.unwrap();
    assert_eq!(read_rest(&mut stream).await, [21, 3, 1, 0, 2, 2, 70], "the alert protocol_version");

    // Bytes before the handshake could be anybody's (CVE-2021-23222).
    let mut stream = dial(&server).await;
    stream.write_all(&[&request(SSL_REQUEST)[..], b"Q\0\0\0\x0dSELECT 1\0"].concat()).await.unwrap();
    let answer = read_rest(&mut stream).await;
    assert!(!answer.starts_with(b"S") && String::from_utf8_lossy(&answer).contains("08P01"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_exchanged_under_running_sessions() {
    let folder = folder();
    let files = folder.path().join("own");
    issue(&files, "first");
    let old_ca = folder.path().join("old-ca");
    std::fs::copy(files.join("ca"), &old_ca).unwrap();
    let section = "[tls]\ncertificate = \"own/certificate\"\nkey = \"own/key\"\n";
    let server = Server::in_folder(folder, &format!("{section}{}", cluster("orders", "")));
    let trusted = |ca: &Path| conninfo(&server, &[("PGSSLROOTCERT", &ca.to_string_lossy())]);
    assert!(is_encrypted(&trusted(&old_ca)));

    let mut config = server.rust_client();
    config.ssl_mode(tokio_postgres::config::SslMode::Require);
    let (client, connection) = config.connect(Tls::new(&old_ca)).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("SET my.own = 'kept'").await.unwrap();

    issue(&files, "second");
    server.signal(Signal::SIGHUP);
    eventually("new certificates", || server.log().contains("certificates reloaded"));
    assert!(is_encrypted(&trusted(&files.join("ca"))));
    is_refused(&trusted(&old_ca), "certificate verify failed");

    std::fs::write(files.join("key"), "no key").unwrap();
    server.signal(Signal::SIGHUP);
    eventually("a complaint", || server.log().contains("the certificates stay as they are"));
    assert!(is_encrypted(&trusted(&files.join("ca"))));

    server.scale(4);
    let row = client.query_one("SELECT current_setting('my.own')", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "kept");
    drop(client);
    connection.await.unwrap().unwrap();
    assert!(tokio::task::spawn_blocking(|| server.stop()).await.unwrap().success());
}
