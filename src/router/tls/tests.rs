use std::fs;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client, server};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "orders.cluster.localhost";
const ANY_VERSION: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

struct World {
    _root: tempfile::TempDir,
    files: DevelopmentCertificates,
    tls: Tls,
}

fn world() -> World {
    let root = tempfile::tempdir().unwrap();
    let files = DevelopmentCertificates::ensure(&root.path().join("certs")).unwrap();
    let tls = Tls::load(&files.certificate, &files.key).unwrap();
    World { _root: root, files, tls }
}

fn client_config(ca: &Path, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in identity::read_chain(ca).unwrap() {
        roots.add(root).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

type Ends =
    (io::Result<client::TlsStream<DuplexStream>>, Result<server::TlsStream<DuplexStream>, TlsRefusal>);

async fn handshake(tls: &Tls, config: &Arc<ClientConfig>, name: &str) -> Ends {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    let offer = tls.offer();
    let both = async { tokio::join!(connector.connect(name, near), offer.accept(far, &[])) };
    timeout(PATIENCE, both).await.unwrap()
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_accepts_every_name() {
    let world = world();
    let config = Arc::new(client_config(&world.files.ca, ANY_VERSION, &[]));
    for name in [NAME, "localhost", "127.0.0.1", "::1"] {
        let (client, server) = handshake(&world.tls, &config, name).await;
        client.unwrap();
        let server = server.unwrap();
        let connection = server.get_ref().1;
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let asked = connection.server_name();
        assert_eq!(asked, name.contains("localhost").then_some(name), "no SNI for addresses");
        assert!(!agreed_on_postgresql(connection));
    }
}

#[tokio::test]
async fn tls_1_2_alone_is_enough() {
    let world = world();
    let config = Arc::new(client_config(&world.files.ca, &[&rustls::version::TLS12], &[POSTGRESQL_ALPN]));
    let (client, server) = handshake(&world.tls, &config, NAME).await;
    assert_eq!(client.unwrap().get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(agreed_on_postgresql(server.unwrap().get_ref().1));
}

#[tokio::test]
async fn another_application_protocol_is_refused() {
    let world = world();
    let config = Arc::new(client_config(&world.files.ca, ANY_VERSION, &[b"http/1.1"]));
    let (client, server) = handshake(&world.tls, &config, NAME).await;
    assert!(client.is_err());
    assert_eq!(server.unwrap_err(), TlsRefusal::WrongApplicationProtocol);
    let config = Arc::new(client_config(&world.files.ca, ANY_VERSION, &[b"http/1.1", POSTGRESQL_ALPN]));
    assert!(agreed_on_postgresql(handshake(&world.tls, &config, NAME).await.1.unwrap().get_ref().1));
}

#[tokio::test]
async fn a_client_of_another_authority_refuses_and_the_log_says_so() {
    let (here, elsewhere) = (world(), world());
    let config = Arc::new(client_config(&elsewhere.files.ca, ANY_VERSION, &[]));
    let (client, server) = handshake(&here.tls, &config, NAME).await;
    assert!(client.is_err());
    let refusal = server.unwrap_err();
    assert!(matches!(refusal, TlsRefusal::CertificateRefused(_) | TlsRefusal::Alert(_)), "{refusal:?}");
}

#[tokio::test]
async fn sessions_resume_until_the_reload() {
    for version in ANY_VERSION {
        let world = world();
        let mut config = client_config(&world.files.ca, &[version], &[]);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for round in 0..3 {
            if round == 2 {
                world.tls.reload().unwrap();
            }
            let (client, server) = handshake(&world.tls, &config, NAME).await;
            let (mut client, mut server) = (client.unwrap(), server.unwrap());
            // TLS 1.3 tickets follow the handshake; a byte behind them makes sure that they have arrived.
            server.write_all(b"x").await.unwrap();
            server.flush().await.unwrap();
            timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap();
            kinds.push(server.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds[1], HandshakeKind::Resumed, "{version:?}");
        assert_ne!(kinds[0], HandshakeKind::Resumed);
        assert_ne!(kinds[2], HandshakeKind::Resumed);
    }
}

/// The smallest ClientHello of a TLS 1.0 or 1.1 client.
fn old_client_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([0x55; 32]); // random
    body.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]); // no session, two ciphers, no compression
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}

#[tokio::test]
async fn older_versions_get_the_alert_protocol_version() {
    let world = world();
    for minor in [1, 2] {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(&old_client_hello(minor)).await.unwrap();
        let refusal = timeout(PATIENCE, world.tls.offer().accept(far, &[])).await.unwrap().unwrap_err();
        assert_eq!(refusal, TlsRefusal::OldVersion);
        let mut answer = Vec::new();
        timeout(PATIENCE, near.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[0], 21, "an alert");
        assert_eq!(answer[5..], [2, 70], "fatal, protocol_version");
    }
}

#[tokio::test]
async fn bytes_read_before_the_handshake_are_not_lost() {
    let world = world();
    let connector =
        TlsConnector::from(Arc::new(client_config(&world.files.ca, ANY_VERSION, &[POSTGRESQL_ALPN])));
    for already in [1, 5, 40] {
        let (near, mut far) = duplex(64 * 1024);
        let connecting = connector.connect(ServerName::try_from(NAME).unwrap(), near);
        let serving = async {
            let mut first = vec![0; already];
            far.read_exact(&mut first).await.unwrap();
            let mut stream = world.tls.offer().accept(far, &first).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let both = Box::pin(async { tokio::join!(connecting, serving) });
        let (client, server) = timeout(PATIENCE, both).await.unwrap();
        assert_eq!(timeout(PATIENCE, client.unwrap().read_u8()).await.unwrap().unwrap(), b'x');
        assert!(agreed_on_postgresql(server.get_ref().1));
    }
}

#[tokio::test]
async fn other_refusals_are_told_apart() {
    let world = world();
    let refused = async |sent: &[u8]| {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(sent).await.unwrap();
        near.shutdown().await.unwrap();
        timeout(PATIENCE, world.tls.offer().accept(far, &[])).await.unwrap().unwrap_err()
    };
    assert_eq!(refused(b"").await, TlsRefusal::Disconnected);
    assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n").await, TlsRefusal::NotTls);
    assert!(TlsRefusal::OldVersion.to_string().contains("TLS 1.2"));
}

#[tokio::test]
async fn reload_takes_the_new_certificate_and_keeps_the_old_one_on_error() {
    let world = world();
    let before = world.tls.end_point_hash().unwrap();
    let certificate = identity::read_chain(&world.files.certificate).unwrap();
    assert_eq!(*before, *Sha256::digest(&certificate[0]), "ECDSA with SHA-256");

    fs::write(&world.files.certificate, b"garbage").unwrap();
    let error = world.tls.reload().unwrap_err().to_string();
    assert!(error.contains("server.pem") && error.contains("BEGIN CERTIFICATE"), "{error}");
    assert_eq!(world.tls.end_point_hash().unwrap(), before);
    let config = Arc::new(client_config(&world.files.ca, ANY_VERSION, &[]));
    handshake(&world.tls, &config, NAME).await.0.unwrap();

    DevelopmentCertificates::ensure(world.files.ca.parent().unwrap()).unwrap();
    let old_offer = world.tls.offer();
    world.tls.reload().unwrap();
    assert_ne!(world.tls.end_point_hash().unwrap(), before);
    assert_eq!(old_offer.end_point_hash.unwrap(), before);
    assert!(world.tls.expires() > SystemTime::now());
    handshake(&world.tls, &config, NAME).await.0.unwrap();
}

#[test]
fn errors_name_the_file_and_the_remedy() {
    let (here, elsewhere) = (world(), world());
    let folder = here.files.ca.parent().unwrap();
    let says = |certificate: &Path, key: &Path| TlsIdentity::load(certificate, key).unwrap_err().to_string();
    let absent = folder.join("absent.pem");
    assert!(says(&absent, &here.files.key).contains("cannot read"));
    assert!(says(&here.files.certificate, &absent).contains("absent.pem"));
    assert!(says(&here.files.certificate, &elsewhere.files.key).contains("issued together"));
    assert!(says(&here.files.key, &here.files.key).contains("no certificate in it"));
    assert!(says(&here.files.certificate, &here.files.ca).contains("no private key in it"));
    let odd = folder.join("odd.key");
    fs::write(&odd, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    assert!(says(&here.files.certificate, &odd).contains("openssl pkey"));
    fs::write(&odd, vec![b'x'; usize::try_from(MAX_PEM_BYTES).unwrap() + 1]).unwrap();
    assert!(says(&here.files.certificate, &odd).contains("1 MiB"));
}

#[test]
fn ed25519_has_no_channel_binding() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let parameters = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    fs::write(&certificate, parameters.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    assert_eq!(Tls::load(certificate, key).unwrap().end_point_hash(), None);
}
