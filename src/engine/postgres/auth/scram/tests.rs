use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;

const HASH: &[u8] = &[7; 32];
const NONCE: [u8; NONCE_LENGTH] = [9; NONCE_LENGTH];

/// What a server stores for `password`, with few iterations to keep the tests quick.
fn verifier(password: &[u8], salt: &[u8], iterations: u32) -> ScramVerifier {
    let mut block = hmac_sha256(password, &[salt, &[0, 0, 0, 1]]);
    let mut salted = block;
    for _ in 1..iterations {
        block = hmac_sha256(password, &[&block]);
        salted.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    ScramVerifier {
        iterations,
        salt: salt.to_vec(),
        stored_key: Sha256::digest(hmac_sha256(&salted, &[b"Client Key"])).into(),
        server_key: hmac_sha256(&salted, &[b"Server Key"]),
        decoy: false,
    }
}

fn pencil() -> ScramVerifier {
    verifier(b"pencil", b"salt-salt-salt-s", 8)
}

fn await_first(binding: Option<&[u8]>, mechanism: &str) -> AwaitClientFirst {
    ScramServer::new(pencil(), binding, NONCE).select(mechanism.as_bytes()).unwrap()
}

/// A whole exchange with the client of `postgres-protocol`.
fn exchange(
    verifier: ScramVerifier,
    offered: Option<&[u8]>,
    seen: ChannelBinding,
    mechanism: &str,
    password: &[u8],
) -> Result<(AuthOutcome, ScramSha256), ScramError> {
    let mut client = ScramSha256::new(password, seen);
    let server = ScramServer::new(verifier, offered, NONCE).select(mechanism.as_bytes())?;
    let server = server.client_first(client.message())?;
    client.update(server.server_first()).unwrap();
    Ok((server.client_final(client.message())?, client))
}

#[test]
fn rfc_7677_vector() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let server = ScramServer {
        verifier: verifier(b"pencil", &salt, 4096),
        channel_binding: None,
        server_nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
    };
    let server = server.select(b"SCRAM-SHA-256").unwrap();
    let server = server.client_first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
    assert_eq!(
        server.server_first(),
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let outcome = server
        .client_final(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    let AuthOutcome::Granted { client_key, server_final } = outcome else { panic!("denied") };
    assert_eq!(server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    let expected = verifier(b"pencil", &salt, 4096);
    assert_eq!(<[u8; 32]>::from(Sha256::digest(client_key.as_slice())), expected.stored_key);
}

#[test]
fn stock_client_with_and_without_binding() {
    for (offered, seen, mechanism) in [
        (None, ChannelBinding::unsupported(), SCRAM_SHA_256),
        (None, ChannelBinding::unrequested(), SCRAM_SHA_256),
        (Some(HASH), ChannelBinding::unsupported(), SCRAM_SHA_256),
        (Some(HASH), ChannelBinding::tls_server_end_point(HASH.to_vec()), SCRAM_SHA_256_PLUS),
    ] {
        let (outcome, mut client) = exchange(pencil(), offered, seen, mechanism, b"pencil").unwrap();
        let AuthOutcome::Granted { server_final, .. } = outcome else { panic!("denied") };
        client.finish(server_final.as_bytes()).expect("the client accepts the server's signature");
    }
}

#[test]
fn wrong_password_and_decoys_are_denied() {
    let denied = |verifier, password: &[u8]| {
        let (outcome, _) =
            exchange(verifier, None, ChannelBinding::unsupported(), SCRAM_SHA_256, password).unwrap();
        assert!(matches!(outcome, AuthOutcome::Denied));
    };
    denied(pencil(), b"Pencil");
    denied(ScramVerifier::decoy("nobody", b"secret"), b"pencil");
    let mut doomed = pencil();
    doomed.decoy = true;
    denied(doomed, b"pencil");
}

#[test]
fn offers_plus_only_with_a_hash() {
    let offer = |hash| ScramServer::new(pencil(), hash, NONCE).mechanisms();
    assert_eq!(offer(Some(HASH)), [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]);
    assert_eq!(offer(None), [SCRAM_SHA_256]);
    assert_eq!(offer(Some(&[])), [SCRAM_SHA_256]);
    let refused = ScramServer::new(pencil(), None, NONCE).select(SCRAM_SHA_256_PLUS.as_bytes());
    assert_eq!(refused.unwrap_err(), ScramError::InvalidMechanism);
    assert!(ScramServer::new(pencil(), Some(HASH), NONCE).select(b"SCRAM-SHA-1").is_err());
}

#[test]
fn a_client_that_saw_another_certificate_is_refused() {
    let seen = ChannelBinding::tls_server_end_point(vec![8; 32]);
    let refused = exchange(pencil(), Some(HASH), seen, SCRAM_SHA_256_PLUS, b"pencil").err().unwrap();
    assert_eq!(refused, ScramError::ChannelBindingMismatch);
    assert_eq!(refused.sqlstate(), "28000");
}

#[test]
fn flag_y_is_an_edited_offer_only_if_plus_was_offered() {
    let seen = ChannelBinding::unrequested;
    let refused = exchange(pencil(), Some(HASH), seen(), SCRAM_SHA_256, b"pencil").err().unwrap();
    assert_eq!(refused.to_string(), "SCRAM channel binding negotiation error");
    assert_eq!(refused.sqlstate(), "28000");
    assert!(refused.detail().unwrap().ends_with("this server does support channel binding."));
}

/// Message, offered binding, mechanism; then SQLSTATE, primary message and DETAIL.
type RefusedFirst =
    (&'static str, Option<&'static [u8]>, &'static str, &'static str, &'static str, Option<&'static str>);

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn first_messages_are_refused_in_postgres_words() {
    let cases: &[RefusedFirst] = &[
        ("", None, SCRAM_SHA_256, "08P01", "malformed SCRAM message", Some("The message is empty.")),
        (
            "n,,n=,r=a\0",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Message length does not match input length."),
        ),
        (
            "n,a=admin,n=,r=a",
            None,
            SCRAM_SHA_256,
            "0A000",
            "client uses authorization identity, but it is not supported",
            None,
        ),
        (
            "n,,m=x,n=,r=a",
            None,
            SCRAM_SHA_256,
            "0A000",
            "client requires an unsupported SCRAM extension",
            None,
        ),
        ("n,,n=,r=\u{e9}", None, SCRAM_SHA_256, "08P01", "non-printable characters in SCRAM nonce", None),
        (
            "x,,n=,r=a",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Unexpected channel-binding flag \"'x'\"."),
        ),
        (
            "nx,n=,r=a",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Comma expected, but found character \"'x'\"."),
        ),
        (
            "n,b=1,n=,r=a",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Unexpected attribute \"'b'\" in client-first-message."),
        ),
        (
            "n,,r=a",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Expected attribute \"n\" but found \"'r'\"."),
        ),
        (
            "n,,n=",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Expected attribute \"r\" but found \"0x00\"."),
        ),
        (
            "n,,n=,rx",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Expected character \"=\" for attribute \"r\"."),
        ),
        (
            "n,,n=,r=a,1=2",
            None,
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some("Attribute expected, but found invalid character \"'1'\"."),
        ),
        (
            "p=tls-server-end-point,,n=,r=a",
            Some(HASH),
            SCRAM_SHA_256,
            "08P01",
            "malformed SCRAM message",
            Some(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
            ),
        ),
        (
            "n,,n=,r=a",
            Some(HASH),
            SCRAM_SHA_256_PLUS,
            "08P01",
            "malformed SCRAM message",
            Some(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
            ),
        ),
        (
            "y,,n=,r=a",
            Some(HASH),
            SCRAM_SHA_256_PLUS,
            "08P01",
            "malformed SCRAM message",
            Some(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
            ),
        ),
        (
            "p=tls-unique,,n=,r=a",
            Some(HASH),
            SCRAM_SHA_256_PLUS,
            "08P01",
            "unsupported SCRAM channel-binding type \"tls-unique\"",
            None,
        ),
    ];
    for (message, offered, mechanism, sqlstate, primary, detail) in cases {
        let error = await_first(*offered, mechanism).client_first(message.as_bytes()).unwrap_err();
        assert_eq!(error.sqlstate(), *sqlstate, "{message}");
        assert_eq!(error.to_string(), *primary, "{message}");
        assert_eq!(error.detail(), *detail, "{message}");
    }
}

#[test]
fn user_name_and_unknown_extensions_are_ignored() {
    assert!(await_first(None, SCRAM_SHA_256).client_first(b"n,,n=somebody,r=abc,x=1,Y=").is_ok());
}

#[test]
fn overlong_messages_are_refused() {
    let long = [b"n,,n=,r=".as_slice(), &[b'a'; MAX_SASL_MESSAGE_LENGTH]].concat();
    assert_eq!(await_first(None, SCRAM_SHA_256).client_first(&long).unwrap_err(), ScramError::TooLong);
}

/// A challenge sent, and the client's right answer to it.
fn before_final() -> (AwaitClientFinal, Vec<u8>) {
    let mut client = ScramSha256::new(b"pencil", ChannelBinding::unsupported());
    let server = await_first(None, SCRAM_SHA_256).client_first(client.message()).unwrap();
    client.update(server.server_first()).unwrap();
    (server, client.message().to_vec())
}

#[test]
fn final_messages_are_refused_in_postgres_words() {
    let edited = |edit: &dyn Fn(String) -> String| {
        let (server, message) = before_final();
        server.client_final(edit(String::from_utf8(message).unwrap()).as_bytes()).unwrap_err()
    };
    assert_eq!(edited(&|m| m.replace("biws", "eSws")), ScramError::UnexpectedBindingAttribute);
    assert_eq!(edited(&|m| m.replace("r=", "r=x")), ScramError::NonceMismatch);
    assert_eq!(edited(&|m| m.replace(",p=", "x,p=")), ScramError::NonceMismatch);
    let detail = |error: ScramError| error.detail().unwrap_or_default().to_owned();
    assert_eq!(detail(edited(&|m| m + ",x=1")), "Garbage found at the end of client-final-message.");
    assert_eq!(detail(edited(&|m| m + "=")), "Malformed proof in client-final-message.");
    assert_eq!(
        detail(edited(&|m| m.split(",p=").next().unwrap().into())),
        "Attribute expected, but found end of string."
    );
    assert_eq!(edited(&|m| m.replace("r=", "r=x")).detail(), Some("Nonce does not match."));
}

#[test]
fn an_extension_before_the_proof_is_signed_with_the_rest() {
    let (server, message) = before_final();
    let edited = String::from_utf8(message).unwrap().replace(",p=", ",x=1,p=");
    assert!(matches!(server.client_final(edited.as_bytes()), Ok(AuthOutcome::Denied)));
}

#[test]
fn debug_shows_no_secret() {
    let (server, message) = before_final();
    assert!(!format!("{server:?}").contains("stored_key"));
    assert_eq!(format!("{:?}", server.client_final(&message).unwrap()), "Granted { .. }");
}

fn granted(result: &Result<AuthOutcome, ScramError>) -> bool {
    matches!(result, Ok(AuthOutcome::Granted { .. }))
}

proptest! {
    #[test]
    fn a_changed_answer_is_never_granted(position in any::<prop::sample::Index>(), mask in 1u8..) {
        let (server, mut message) = before_final();
        let position = position.index(message.len());
        message[position] ^= mask;
        prop_assert!(!granted(&server.client_final(&message)));
    }

    #[test]
    fn a_shortened_answer_is_never_granted(position in any::<prop::sample::Index>()) {
        let (server, message) = before_final();
        let shortened = &message[..position.index(message.len())];
        prop_assert!(!granted(&server.client_final(shortened)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(first in proptest::collection::vec(any::<u8>(), 0..1100),
                                   last in proptest::collection::vec(any::<u8>(), 0..1100)) {
        let _ = await_first(None, SCRAM_SHA_256).client_first(&first);
        let _ = await_first(Some(HASH), SCRAM_SHA_256_PLUS).client_first(&first);
        prop_assert!(!granted(&before_final().0.client_final(&last)));
    }

    #[test]
    fn text_like_scram_never_panics(first in "[nyp],?[a=]{0,3},?[nrm=,a-z]{0,40}",
                                    last in "c=[a-zA-Z0-9=]{0,8},r=[ -~]{0,40}(,p=[a-zA-Z0-9+/=]{0,48})?") {
        let _ = await_first(None, SCRAM_SHA_256).client_first(first.as_bytes());
        prop_assert!(!granted(&before_final().0.client_final(last.as_bytes())));
    }
}
