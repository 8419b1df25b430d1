use super::*;
use proptest::prelude::*;

const RFC_7677: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

#[test]
fn reads_scram_md5_and_null() {
    let Verifier::Scram(scram) = Verifier::parse(Some(RFC_7677)) else { panic!("not SCRAM") };
    assert_eq!(scram.iterations, 4096);
    assert_eq!(scram.salt.len(), 16);
    assert!(!scram.is_decoy());
    let md5 = "md5a6343a68d964ca596d9752250d54bb8a";
    assert!(matches!(Verifier::parse(Some(md5)), Verifier::Md5(Md5Verifier(d)) if d == md5.as_bytes()[3..]));
    assert_eq!(Verifier::parse(None), Verifier::None);
}

#[test]
fn unusable_text_is_no_verifier() {
    for text in [
        "",
        "md5",
        "md5A6343A68D964CA596D9752250D54BB8A",
        "md5a6343a68d964ca596d9752250d54bb8a0",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
        "SCRAM-SHA-1$4096:W22Z$AAAA:AAAA",
        "plaintext",
    ] {
        assert_eq!(Verifier::parse(Some(text)), Verifier::None, "{text}");
    }
}

#[test]
fn debug_redacts() {
    let scram = format!("{:?}", Verifier::parse(Some(RFC_7677)));
    assert_eq!(scram, "Scram(ScramVerifier { iterations: 4096, .. })");
    let md5 = format!("{:?}", Verifier::parse(Some("md5a6343a68d964ca596d9752250d54bb8a")));
    assert_eq!(md5, "Md5(Md5Verifier(..))");
}

#[test]
fn decoys_are_stable_and_differ_by_user_and_secret() {
    let salt = |user, secret| ScramVerifier::decoy(user, secret).salt.clone();
    assert_eq!(salt("ann", b"s1"), salt("ann", b"s1"));
    assert_ne!(salt("ann", b"s1"), salt("bob", b"s1"));
    assert_ne!(salt("ann", b"s1"), salt("ann", b"s2"));
    assert_eq!(salt("ann", b"s1").len(), 16);
    assert!(matches!(Verifier::None.or_decoy("ann", b"s"), Verifier::Scram(v) if v.is_decoy()));
}

#[test]
fn md5_response_of_a_client_matches() {
    let stored = postgres_protocol::authentication::md5_hash(b"ann", b"secret", [0; 4]);
    assert_eq!(stored.len(), 35);
    let plain = hex::encode(Md5::digest(b"secretann"));
    let verifier = Md5Verifier::parse(&format!("md5{plain}")).unwrap();
    let salt = [1, 2, 3, 4];
    let response = postgres_protocol::authentication::md5_hash(b"ann", b"secret", salt);
    assert!(md5_matches(&verifier, salt, response.as_bytes()));
    assert!(md5_matches(&verifier, salt, &[response.as_bytes(), b"\0"].concat()));
    assert!(!md5_matches(&verifier, [1, 2, 3, 5], response.as_bytes()));
    assert!(!md5_matches(&verifier, salt, plain.as_bytes()));
    assert!(!md5_matches(&verifier, salt, b""));
    assert!(!md5_matches(&verifier, salt, &response.as_bytes()[..34]));
}

proptest! {
    #[test]
    fn any_text_parses_or_not_without_panic(text in "\\PC*") {
        Verifier::parse(Some(&text));
        Verifier::parse(Some(&format!("SCRAM-SHA-256${text}")));
    }

    #[test]
    fn any_md5_response_is_refused(response in proptest::collection::vec(any::<u8>(), 0..64)) {
        let verifier = Md5Verifier(*b"a6343a68d964ca596d9752250d54bb8a");
        prop_assert!(!md5_matches(&verifier, [1, 2, 3, 4], &response));
    }
}
