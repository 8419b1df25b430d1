use super::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// A folder with fresh certificates.
fn fresh() -> (tempfile::TempDir, PathBuf, DevelopmentCertificates) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data/certs");
    let made = DevelopmentCertificates::ensure(&dir).unwrap();
    (root, dir, made)
}

#[test]
fn first_start_makes_everything_with_tight_modes() {
    let (_root, dir, made) = fresh();
    assert!(made.made_authority && made.made_certificate);
    assert_eq!(mode(&dir) & 0o077 & !0o055, 0);
    assert_eq!(mode(dir.parent().unwrap()), 0o700);
    assert_eq!(mode(&dir.join("ca.key")), 0o600);
    assert_eq!(mode(&made.key), 0o600);
    assert_eq!(mode(&made.ca), 0o644);
    assert_eq!(mode(&made.certificate), 0o644);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
}

#[test]
fn second_start_changes_nothing_but_closes_keys() {
    let (_root, dir, made) = fresh();
    let before = (bytes(&made.ca), bytes(&made.certificate), bytes(&made.key));
    fs::set_permissions(&made.key, Permissions::from_mode(0o644)).unwrap();
    let again = DevelopmentCertificates::ensure(&dir).unwrap();
    assert!(!again.made_authority && !again.made_certificate);
    assert_eq!(before, (bytes(&made.ca), bytes(&made.certificate), bytes(&made.key)));
    assert_eq!(mode(&made.key), 0o600);
}

#[test]
fn a_certificate_about_to_expire_is_made_anew_under_the_same_authority() {
    let (_root, dir, made) = fresh();
    let (ca, server) = (bytes(&made.ca), bytes(&made.certificate));
    let later = |days: u32| SystemTime::now() + DAY * days;
    assert!(!DevelopmentCertificates::ensure_at(&dir, later(SERVER_DAYS - 31)).unwrap().made_certificate);
    let renewed = DevelopmentCertificates::ensure_at(&dir, later(SERVER_DAYS - 29)).unwrap();
    assert!(renewed.made_certificate && !renewed.made_authority);
    assert_eq!(ca, bytes(&made.ca));
    assert_ne!(server, bytes(&made.certificate));
}

#[test]
fn broken_missing_and_mixed_up_files_are_made_anew() {
    type Damage = fn(&DevelopmentCertificates);
    let damages: [Damage; 4] = [
        |made| fs::write(&made.certificate, b"garbage").unwrap(),
        |made| fs::remove_file(&made.key).unwrap(),
        |made| assert!(fs::copy(made.ca.with_extension("key"), &made.key).is_ok()),
        |made| assert!(fs::copy(&made.ca, &made.certificate).is_ok()),
    ];
    for damage in damages {
        let (_root, dir, made) = fresh();
        damage(&made);
        let repaired = DevelopmentCertificates::ensure(&dir).unwrap();
        assert!(repaired.made_certificate && !repaired.made_authority);
        assert!(!DevelopmentCertificates::ensure(&dir).unwrap().made_certificate);
    }
}

#[test]
fn a_lost_authority_key_matters_only_when_something_must_be_signed() {
    let (_root, dir, made) = fresh();
    fs::remove_file(dir.join("ca.key")).unwrap();
    assert!(!DevelopmentCertificates::ensure(&dir).unwrap().made_certificate);
    fs::remove_file(&made.certificate).unwrap();
    let repaired = DevelopmentCertificates::ensure(&dir).unwrap();
    assert!(repaired.made_authority && repaired.made_certificate);
}

#[test]
fn an_authority_of_other_keys_or_about_to_expire_is_replaced() {
    let (_root, dir, made) = fresh();
    let (_other_root, _, other) = fresh();
    fs::copy(&other.ca, &made.ca).unwrap();
    assert!(DevelopmentCertificates::ensure(&dir).unwrap().made_authority);
    assert!(DevelopmentCertificates::ensure_at(&dir, SystemTime::now() + YEAR * 10).unwrap().made_authority);
}

#[test]
fn an_unwritable_folder_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = DevelopmentCertificates::ensure(&file.join("certs")).unwrap_err();
    assert!(error.to_string().contains("certs"), "{error}");
}
