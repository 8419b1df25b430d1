use super::*;
use crate::engine::mysql::auth::key;

const SALT_OF_HELLO: [u8; SALT] = *b"ABCDEFGHIJKLMNOPQRST";
/// Of `pw`, as a MySQL 9.7 keeps it.
const PW: &str =
    "$A$00A$(wT\x11C\x18\x09e\x08\x0d\x07Q%\x12xl[\x05\x01nKhnl4Pd/1RcHlIGz/7c4Xq4wVJkCWtMMCRYdZe1y3O4";

fn exam(methods: &[Method], is_secure: bool, vault: &Arc<Vault>) -> Exam {
    Exam::new(methods.to_vec(), [3; 24], is_secure, vault)
}

fn asked(verdict: Verdict) -> Vec<u8> {
    let Verdict::Ask(body) = verdict else { panic!("nothing is asked") };
    body
}

fn password(verdict: Verdict) -> Option<Vec<u8>> {
    match verdict {
        Verdict::Proved(Proof::Clear(password), _) => Some(password.to_vec()),
        _ => None,
    }
}

#[test]
fn a_password_is_shown_once_and_then_known() {
    let vault = Arc::default();
    let method = [Method::of(password::CACHING, &[PW])];
    let answer = password::answer(b"pw", &SALT_OF_HELLO);
    let mut first = exam(&method, true, &vault);
    assert_eq!(asked(first.begin(password::CACHING, SALT_OF_HELLO, &answer)), [1, 4]);
    assert_eq!(super::tests::password(first.receive(b"pw\0")).as_deref(), Some(&b"pw"[..]));
    let mut second = exam(&method, false, &vault);
    let known = second.begin(password::CACHING, SALT_OF_HELLO, &answer);
    assert!(matches!(known, Verdict::Proved(Proof::Clear(_), Some(&[1, 3]))));
    // Not by an answer to another challenge, nor when the password was changed.
    let mut replayed = exam(&method, false, &vault);
    assert_eq!(asked(replayed.begin(password::CACHING, [b'x'; SALT], &answer)), [1, 4]);
    let changed = [Method::of(password::CACHING, &[&PW.replace("$A$00A$", "$A$00B$")])];
    let mut changed = exam(&changed, true, &vault);
    assert_eq!(asked(changed.begin(password::CACHING, SALT_OF_HELLO, &answer)), [1, 4]);
    assert!(matches!(changed.receive(b"pw\0"), Verdict::Failed));
}

#[test]
fn without_tls_the_password_is_sealed() {
    let vault = Arc::default();
    let method = [Method::of(password::CACHING, &[PW])];
    let answer = password::answer(b"pw", &SALT_OF_HELLO);
    let mut exam = exam(&method, false, &vault);
    asked(exam.begin(password::CACHING, SALT_OF_HELLO, &answer));
    let given = asked(exam.receive(&[2]));
    let sealed = key::seal(&given[1..], b"pw", &SALT_OF_HELLO).unwrap();
    assert_eq!(super::tests::password(exam.receive(&sealed)).as_deref(), Some(&b"pw"[..]));
    // In the clear it is not looked at.
    let mut open = super::tests::exam(&method, false, &Arc::default());
    asked(open.begin(password::CACHING, SALT_OF_HELLO, &answer));
    assert!(matches!(open.receive(b"pw\0"), Verdict::Failed));
}

#[test]
fn accounts_without_a_password() {
    let vault = Arc::default();
    for (method, answer) in [
        (Method::of(password::CACHING, &[""]), &[0][..]),
        (Method::of(password::PLAIN, &[""]), &[]),
        (Method::of(native::PLUGIN, &[""]), &[]),
    ] {
        let plugin = method.plugin().to_owned();
        let mut right = exam(std::slice::from_ref(&method), true, &vault);
        assert!(matches!(right.begin(&plugin, SALT_OF_HELLO, answer), Verdict::Proved(..)));
        let mut wrong = exam(&[method], true, &vault);
        assert!(matches!(wrong.begin(&plugin, SALT_OF_HELLO, b"something"), Verdict::Failed));
    }
}

#[test]
fn salts_are_text() {
    let random: Vec<u8> = (0..=255).collect();
    let salt = salt::<256>(&random);
    assert!(salt.iter().all(|byte| *byte < 0x80 && !matches!(byte, 0 | b'$')));
}

#[test]
fn a_signature_alone_is_not_enough() {
    let method = Method::of(ed25519::PLUGIN, &["vRq+ROSzhW4MwhdoPvlkL1fHkT0w6ZDDbTpVQwSNQ90"]);
    let mut exam = exam(&[method], true, &Arc::default());
    let question = asked(exam.begin(native::PLUGIN, SALT_OF_HELLO, &[5; 20]));
    assert!(question.starts_with(b"\xfeclient_ed25519\0") && question.len() == 16 + ed25519::SALT);
    assert!(matches!(exam.receive(&[0; 64]), Verdict::Failed));
}
