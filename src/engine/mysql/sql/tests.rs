use super::*;

/// What is told by the whole text has tests of its own (`told`).
fn of(text: &str) -> Scan {
    let mut scan = scan(text.as_bytes(), Mode::default());
    scan.effects.retain(|effect| !matches!(effect, Effect::Tells(_)));
    scan
}

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn ordinary_statements_are_told_from_suspect_ones() {
    for text in [
        "SELECT c FROM sbtest1 WHERE id=5",
        "INSERT INTO sbtest1 (id, k) VALUES (1, 2) ON DUPLICATE KEY UPDATE k = VALUES(k)",
        "INSERT INTO d.t (a) SELECT count(*) FROM x WHERE a IN (1,2)",
        "UPDATE t SET a = (a + 1) WHERE b = coalesce(c, 1)",
        "SELECT DISTINCT c FROM t WHERE id BETWEEN 1 AND 5 ORDER BY c",
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "SHOW VARIABLES LIKE 'x'",
        "(SELECT 1) UNION (SELECT 2)",
        "CREATE TABLE t (a int)",
        "SELECT @@version",
        "",
    ] {
        assert!(!of(text).traits.has(Traits::SUSPECT), "{text}");
    }
    for text in [
        "SELECT @a := 1",
        "SELECT 1 INTO @a",
        "SELECT f(1)",
        "SELECT d.f(1)",
        "SELECT `f`(1)",
        "SELECT GET_LOCK('x', 1)",
        "SET x = 1",
        "USE d",
        "CALL p()",
        "CREATE TEMPORARY TABLE t (a int)",
        "SELECT 1; SET x = 1",
        "/*! SET x = 1 */",
        "FOO",
    ] {
        assert!(of(text).traits.has(Traits::SUSPECT), "{text}");
    }
    assert_eq!(of("SELECT a, count(*) FROM t").effects.capacity(), 0);
}

#[test]
fn what_commits_and_what_is_without_effect() {
    for text in [
        "COMMIT",
        "CREATE TABLE t (a int)",
        "DROP TABLE t",
        "SET autocommit=1",
        "BEGIN",
        "CALL p()",
        "EXECUTE s",
    ] {
        assert!(of(text).traits.has(Traits::COMMITS), "{text}");
    }
    for text in
        ["SELECT 1", "INSERT INTO t VALUES (1)", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a", "SET x = 1"]
    {
        assert!(!of(text).traits.has(Traits::COMMITS), "{text}");
    }
    for text in ["SELECT a FROM t WHERE b = 'into'", "SHOW TABLES", "SELECT now()", "DESC t"] {
        assert!(!of(text).traits.has(Traits::WRITES), "{text}");
    }
    for text in
        ["SELECT 1 INTO OUTFILE 'x'", "SELECT f()", "WITH x AS (SELECT 1) DELETE FROM t", "SELECT NEXTVAL(s)"]
    {
        assert!(of(text).traits.has(Traits::WRITES), "{text}");
    }
    assert!(of("ROLLBACK; INSERT INTO t VALUES (1)").traits.has(Traits::ENDS | Traits::SEVERAL));
    assert!(!of("SELECT 1;").traits.has(Traits::SEVERAL));
}

#[test]
fn settings_of_the_context() {
    use Effect::{Names, Set};
    assert_eq!(of("SET NAMES utf8mb4").effects, [Names(name("utf8mb4"), None)]);
    assert_eq!(
        of("set names 'UTF8' collate utf8_bin").effects,
        [Names(name("utf8"), Some(name("utf8_bin")))]
    );
    assert_eq!(
        of("SET @@session.sql_mode = 'ANSI', autocommit=0").effects,
        [Set(Field::SqlMode, Some(name("ANSI")))]
    );
    assert_eq!(of("SET sql_mode = concat(@@sql_mode, ',x')").effects, [Set(Field::SqlMode, None)]);
    assert_eq!(
        of("SET CHARACTER SET latin1").effects,
        [Set(Field::CharacterSet, None), Set(Field::Collation, None)]
    );
    assert_eq!(of("USE `a``b`").effects, [Effect::Use(name("a`b"))]);
}

#[test]
fn transactions_that_are_to_come() {
    let text = "SET TRANSACTION READ ONLY";
    assert_eq!(of(text).effects, [Effect::Characteristic(name(text))]);
    assert!(of(text).traits.has(Traits::KEEPS));
    assert_eq!(of("SET SESSION TRANSACTION READ ONLY").effects, []);
    let text = "SET @@transaction_isolation = 'SERIALIZABLE'";
    assert_eq!(of(text).effects, [Effect::Characteristic(name(text))]);
    assert_eq!(of("SET @@session.transaction_isolation = 'SERIALIZABLE'").effects, []);
    assert_eq!(
        of("START TRANSACTION READ ONLY;").effects,
        [Effect::Begin(name("START TRANSACTION READ ONLY"))]
    );
    assert_eq!(of("START TRANSACTION WITH CONSISTENT SNAPSHOT").effects, []);
    assert!(of("BEGIN NOT ATOMIC SELECT 1; END").traits.has(Traits::CALLS));
}

#[test]
fn tables_statements_and_variables() {
    use Effect::*;
    assert_eq!(
        of("CREATE OR REPLACE TEMPORARY TABLE IF NOT EXISTS d.`t` (a int)").effects,
        [CreateTable, MakeTemporary(name("d.t"))]
    );
    assert_eq!(of("CREATE TABLE t AS SELECT 1").effects, [CreateTable]);
    assert_eq!(of("DROP TEMPORARY TABLE IF EXISTS a, b.c").effects, [Drop(name("a")), Drop(name("b.c"))]);
    assert_eq!(of("RENAME TABLE a TO b").effects, [Rename(name("a"), name("b"))]);
    assert_eq!(of("PREPARE S FROM 'SELECT ''a'''").effects, [Prepare(name("s"), Some(name("SELECT 'a'")))]);
    assert_eq!(of("PREPARE s FROM \"SELECT 'a'\"").effects, [Prepare(name("s"), Some(name("SELECT 'a'")))]);
    assert_eq!(of("PREPARE s FROM @x").effects, [Variable(name("x")), Prepare(name("s"), None)]);
    assert_eq!(of("EXECUTE s").effects, [Run(name("s"))]);
    assert_eq!(of("DROP PREPARE s").effects, [Deallocate(name("s"))]);
    assert_eq!(of("SET @A = 1").effects, [Variable(name("a"))]);
    // Either may be meant: the quotes are not known any more.
    assert_eq!(of("SET @`a``b` = 1").effects, [Variable(name("a`b")), Variable(name("a``b"))]);
}

#[test]
fn what_is_held() {
    use Effect::{GiveUp, Hold as Holds};
    for (text, effect) in [
        ("LOCK TABLES t READ", Holds(Hold::Tables)),
        ("FLUSH TABLES WITH READ LOCK", Holds(Hold::Tables)),
        ("UNLOCK TABLES", GiveUp(Hold::Tables)),
        ("BACKUP STAGE START", Holds(Hold::Backup)),
        ("BACKUP STAGE END", GiveUp(Hold::Backup)),
        ("LOCK INSTANCE FOR BACKUP", Holds(Hold::Backup)),
        ("HANDLER t OPEN", Holds(Hold::Handler)),
        ("HANDLER t CLOSE", GiveUp(Hold::Handler)),
        ("SELECT get_lock('a', 1)", Holds(Hold::Named)),
        ("DO RELEASE_LOCK('a')", GiveUp(Hold::Named)),
    ] {
        assert_eq!(of(text).effects, [effect], "{text}");
    }
}

#[test]
fn the_body_of_a_routine_is_not_read() {
    let found = of("CREATE PROCEDURE p() BEGIN SET @x = 1; USE d; END");
    assert_eq!(found.effects, [Effect::Variable(name("x"))]);
    assert!(found.traits.has(Traits::SEVERAL | Traits::SUSPECT));
}
