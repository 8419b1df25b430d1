"""The table of what a MySQL or MariaDB session is made of, one row each: carried to the next process, or what blocks it.

As test_session_state.py does with PostgreSQL: all rows of a product share one server. Every row sets up a session of its
own; then the database process is swapped twice, with one look at every session after each swap. Rows that block come
first, all in one change that is rolled back for them.

A row of the first kind is a function that sets the session up and returns its check, which leaves the session as it
found it; one of the second kind returns its connection and what takes the obstacle away again.
"""

import asyncio
import contextlib
import time
import traceback
import types

import aiomysql
import asyncmy
import mysql.connector
import pymysql
import pytest
from conftest import wait_until
from mysqlserver import DIRECT, PRODUCTS, serving_mysql
from rawmysql import (
    CURSOR_EXISTS,
    DEPRECATE_EOF,
    FOUND_ROWS,
    INTERACTIVE,
    LOCAL_FILES,
    MULTI_STATEMENTS,
    QUERY,
    SESSION_TRACK,
    Raw,
    ServerError,
)

MARIADB, MYSQL9, MYSQL56 = PRODUCTS
STANDBY = "-standby"
#: By product; with `-standby` the table moves to a copy that is promoted.
TABLES = [*PRODUCTS] if DIRECT else [*PRODUCTS, f"{MARIADB}{STANDBY}"]
#: They have roles, window functions, and the rest of what came after 5.6.
MODERN = (MARIADB, MYSQL9)
PLAIN = {"user": "plain", "password": "plain"}

CARRIED = []
BLOCKED = []


def carried(setup=None, *, on=PRODUCTS):
    """A row whose session must be the same after a swap."""
    if setup is None:
        return lambda function: carried(function, on=on)
    CARRIED.append(types.SimpleNamespace(name=setup.__name__, setup=setup, on=on))
    return setup


def blocked(obstacle, *, on=PRODUCTS, alone=False):
    """A row whose session keeps the cluster where it is. `alone`: it is in the way of other rows, too."""

    def register(setup):
        row = types.SimpleNamespace(name=setup.__name__, setup=setup, on=on, obstacle=obstacle, alone=alone)
        BLOCKED.append(row)
        return setup

    return register


def run(connection, sql, *values):
    """The rows, by PyMySQL."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchall()


def one(connection, sql, *values):
    return run(connection, sql, *values)[0][0]


def isolation(server):
    return "transaction_isolation" if server.product == MYSQL9 else "tx_isolation"


def user(server, name, privileges="ALL ON app.*"):
    with server.connect() as master:
        run(master, f"CREATE USER {name} IDENTIFIED BY '{name}'")
        run(master, f"GRANT {privileges} TO {name}")


def prepare_server(server):
    user(server, "plain")
    user(server, "other", "SELECT ON app.*")
    with server.connect() as master:
        for statement in PREPARATION:
            run(master, statement)
        if server.product == MYSQL56:
            run(master, "GRANT PROCESS, RELOAD ON *.* TO plain")
            return
        run(master, "GRANT PROCESS, RELOAD ON *.* TO plain")
        for role in ("reader", "usual"):
            run(master, f"CREATE ROLE {role}")
            run(master, f"GRANT {role} TO plain")
        if server.product == MYSQL9:
            run(master, "GRANT BACKUP_ADMIN ON *.* TO plain")
            run(master, "GRANT SELECT ON performance_schema.* TO plain")
            # The others have it on by themselves.
            run(master, "SET GLOBAL local_infile = 1")


PREPARATION = [
    "CREATE TABLE app.numbers (id int AUTO_INCREMENT PRIMARY KEY, n int)",
    "INSERT INTO app.numbers (n) VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9),(10)",
    "CREATE TABLE app.scratch (id int AUTO_INCREMENT PRIMARY KEY, n int)",
    "CREATE TABLE app.locked (n int)",
    "CREATE TABLE app.flushed (n int)",
    "CREATE TABLE app.handled (n int)",
    "CREATE TABLE app.loaded (n int)",
    "CREATE TABLE app.vanishing (n int)",
    "CREATE DATABASE second",
    "CREATE TABLE second.t AS SELECT 2 AS a",
    "CREATE TABLE app.t AS SELECT 1 AS a",
    "CREATE PROCEDURE app.remember(v int) SET @from_a_procedure = v",
    "CREATE PROCEDURE app.fetch_into() SELECT 7 INTO @into_in_a_procedure",
    "CREATE PROCEDURE app.temporary() CREATE TEMPORARY TABLE hidden (a int)",
    "GRANT ALL ON second.* TO plain",
]


# What is carried: settings --------------------------------------------------------------------------------------------


@carried
def session_variables(server):
    connection = server.connect(**PLAIN)
    values = {
        "sql_mode": "PIPES_AS_CONCAT,ANSI_QUOTES",
        "time_zone": "+05:30",
        isolation(server): "READ-COMMITTED",
        "wait_timeout": 4321,
        "lock_wait_timeout": 17,
        "sort_buffer_size": 524288,
        "group_concat_max_len": 12345,
        "div_precision_increment": 9,
        "lc_time_names": "de_DE",
        "foreign_key_checks": 0,
        "unique_checks": 0,
        "sql_auto_is_null": 1,
        "default_week_format": 3,
        "auto_increment_increment": 7,
        "max_sort_length": 2000,
    }
    for name, value in values.items():
        run(connection, f"SET SESSION {name} = %s", value)

    def check():
        for name, value in values.items():
            assert one(connection, f"SELECT @@SESSION.{name}") == value, name

    return check


@carried
def variables_that_cripple_introspection(server):
    """sql_select_limit cuts the answers of the router's own questions, too"""
    connection = server.connect(**PLAIN)
    for setting in ("sql_select_limit = 1", "max_join_size = 1", "sql_big_selects = 0", "sql_safe_updates = 1"):
        run(connection, f"SET SESSION {setting}")
    run(connection, "SET @one = 1, @two = 2")

    def check():
        assert run(connection, "SELECT @@sql_select_limit, @@max_join_size, @@sql_big_selects") == ((1, 1, 0),)
        assert run(connection, "SELECT @one, @two, @@sql_safe_updates") == ((1, 2, 1),)

    return check


@carried
def a_variable_set_to_its_default_again(server):
    connection = server.connect(**PLAIN)
    run(connection, "SET div_precision_increment = 9")
    run(connection, "SET div_precision_increment = DEFAULT")

    def check():
        assert one(connection, "SELECT @@div_precision_increment") == 4

    return check


@carried
def privileged_variable(server):
    connection = server.connect()
    run(connection, "SET sql_log_off = 1")

    def check():
        assert one(connection, "SELECT @@sql_log_off") == 1

    return check


@carried
def variable_of_the_whole_server(server):
    """SET GLOBAL does not outlive a server; it outlives a swap"""
    with server.connect() as master:
        run(master, "SET GLOBAL long_query_time = 7")

    def check():
        with server.connect() as other:
            assert one(other, "SELECT @@GLOBAL.long_query_time") == 7

    return check


# What the router itself changes for a while, to have dirty pages written before the stop.
OF_THE_FLUSH = "innodb_max_dirty_pages_pct_lwm = 7, GLOBAL innodb_max_dirty_pages_pct = 77, GLOBAL innodb_io_capacity = 555"


def of_the_flush(connection):
    names = ("max_dirty_pages_pct_lwm", "max_dirty_pages_pct", "io_capacity")
    return [one(connection, f"SELECT @@GLOBAL.innodb_{name}") for name in names]


@carried
def variables_that_a_flush_changes(server):
    with server.connect() as master:
        run(master, f"SET GLOBAL {OF_THE_FLUSH}")

    def check():
        with server.connect() as other:
            assert of_the_flush(other) == [7, 77, 555]

    return check


@carried
def character_sets(server):
    """statements and answers are of another character set than the router's"""
    connection = server.raw(**PLAIN)
    connection.query("SET NAMES latin1 COLLATE latin1_german2_ci")

    def check():
        row = connection.query(
            "SELECT @@character_set_client, @@character_set_results, @@character_set_connection, @@collation_connection"
        ).rows[0]
        assert row == (b"latin1", b"latin1", b"latin1", b"latin1_german2_ci")
        assert connection.query(b"SELECT HEX(CONVERT('\xe9' USING utf8)), '\xe9'").rows == [(b"C3A9", b"\xe9")]

    return check


@carried
def character_set_of_the_handshake(server):
    connection = server.raw(**PLAIN, collation=8)

    def check():
        assert connection.one("SELECT @@character_set_client") == "latin1"
        assert connection.one("SELECT @@collation_connection") == "latin1_swedish_ci"

    return check


@carried
def results_without_conversion(server):
    connection = server.raw(**PLAIN)
    connection.query("SET character_set_results = NULL")

    def check():
        assert connection.query("SELECT _latin1 X'E9'").rows == [(b"\xe9",)]

    return check


@carried
def results_of_two_bytes(server):
    """what the router asks comes as utf16, too"""
    connection = server.raw(**PLAIN)
    connection.query("SET @kept = 'yes'")
    connection.query("SET character_set_results = utf16")

    def check():
        assert connection.query("SELECT @kept").rows == [("yes".encode("utf-16-be"),)]

    return check


@carried
def current_database(server):
    by_name, by_statement = server.raw(**PLAIN), server.raw(**PLAIN)
    by_name.init_db("second")
    by_statement.query("USE second")
    nowhere = server.raw(**PLAIN, database=None)

    def check():
        for connection in (by_name, by_statement):
            assert connection.one("SELECT DATABASE()") == "second"
            assert connection.one("SELECT a FROM t") == "2"
        assert nowhere.one("SELECT DATABASE()") is None

    return check


@carried
def current_database_that_is_gone(server):
    connection = server.raw()
    connection.query("CREATE DATABASE gone")
    connection.query("USE gone")
    connection.query("DROP DATABASE gone")
    first, entered = (server.raw(database=None) for _ in range(2))
    first.query("CREATE DATABASE first")
    logged_in_there = server.raw(database="first")
    logged_in_there.query("USE app")
    entered.query("CREATE DATABASE entered")
    entered.query("USE entered")
    first.query("DROP DATABASE first")
    first.query("DROP DATABASE entered")

    def check():
        assert connection.one("SELECT DATABASE()") is None
        assert logged_in_there.one("SELECT DATABASE()") == "app"
        # The old server says the name that was, until one enters another; an error is all there is in it.
        with pytest.raises(ServerError, match="^1046|^1049"):
            entered.query("CREATE TABLE made (a int)")

    return check


# Transactions that have done nothing ----------------------------------------------------------------------------------


def seen_isolation(connection):
    # InnoDB answers from a copy that may be a tenth of a second old.
    time.sleep(0.2)
    connection.query("SELECT COUNT(*) FROM app.numbers")
    return connection.one(
        "SELECT trx_isolation_level FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = CONNECTION_ID()"
    )


@carried(on=MODERN)
def transaction_that_has_just_begun(server):
    connection = server.raw(**PLAIN)

    def begin():
        connection.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        connection.query("START TRANSACTION READ ONLY")

    begin()

    def check():
        assert connection.ping().status & 1
        with pytest.raises(ServerError, match="^1792"):
            connection.query("INSERT INTO scratch (n) VALUES (1)")
        assert seen_isolation(connection) == "SERIALIZABLE"
        connection.query("ROLLBACK")
        begin()

    return check


@carried
def characteristics_of_the_next_transaction(server):
    connection = server.raw(**PLAIN)
    connection.query("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")

    def check():
        connection.query("BEGIN")
        assert seen_isolation(connection) == "READ UNCOMMITTED"
        connection.query("COMMIT")
        connection.query("BEGIN")
        assert seen_isolation(connection) == "REPEATABLE READ"
        connection.query("COMMIT")
        connection.query("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")

    return check


@carried
def autocommit_off(server):
    connection = server.connect(autocommit=False, **PLAIN)
    run(connection, "SELECT 1")

    def check():
        assert one(connection, "SELECT @@autocommit") == 0
        run(connection, "INSERT INTO scratch (n) VALUES (4711)")
        connection.rollback()
        assert one(connection, "SELECT COUNT(*) FROM scratch WHERE n = 4711") == 0
        connection.rollback()

    return check


@carried(on=[MYSQL9])
def prepared_transaction(server):
    """XA PREPARE: outlives its session, and whoever knows its name ends it (MySQL has it detached at once)"""
    connection = server.raw()

    def prepare():
        connection.query("XA START 'row'")
        connection.query("INSERT INTO app.scratch (n) VALUES (1234)")
        connection.query("XA END 'row'")
        connection.query("XA PREPARE 'row'")

    prepare()

    def check():
        connection.query("XA COMMIT 'row'")
        assert connection.one("SELECT COUNT(*) FROM app.scratch WHERE n = 1234") == "1"
        connection.query("DELETE FROM app.scratch WHERE n = 1234")
        prepare()

    return check


# Variables of the user ------------------------------------------------------------------------------------------------

#: As a statement makes it, and how it is to be seen again.
VALUES = {
    "whole": "-5",
    "large": "18446744073709551615",
    "exact": "12.340",
    "rough": "0.1e0 + 0.2e0",
    "nothing": "NULL",
    "empty": "''",
    "latin": "_latin1 X'E9' COLLATE latin1_german2_ci",
    "wide": "_utf8mb4 X'F09F9880' COLLATE utf8mb4_bin",
    "bytes": "X'00FF27225C0A'",
    "long": "REPEAT('ab', 5000)",
    "odd `name'\"": "'odd'",
    "Größe": "7",
}


def seen(connection, name):
    quoted = "@`" + name.replace("`", "``") + "`"
    result = connection.query(f"SELECT {quoted}, HEX({quoted}), COLLATION({quoted}), COERCIBILITY({quoted})")
    column = result.columns[0]
    return result.rows, column.type, column.unsigned, column.charset


@carried
def user_variables(server):
    """byte for byte, with type, collation and sign"""
    connection = server.raw(**PLAIN)
    for name, value in VALUES.items():
        connection.query(f"SET @`{name.replace('`', '``')}` = {value}")
    before = {name: seen(connection, name) for name in VALUES}

    def check():
        for name in VALUES:
            assert seen(connection, name) == before[name], name
        assert connection.one("SELECT @`GRÖSSE` IS NULL OR @`größe` = 7") == "1"

    return check


@carried
def user_variables_by_the_way(server):
    """:= and INTO, which no session tracker tells of"""
    connection = server.raw(**PLAIN)
    connection.query("SELECT @assigned := 42")
    connection.query("SELECT 43, 'x' INTO @into, @AndThis")
    connection.query("SELECT @last := n FROM numbers ORDER BY id")

    def check():
        assert connection.query("SELECT @assigned, @into, @andthis, @last").rows == [(b"42", b"43", b"x", b"10")]

    return check


@carried(on=MODERN)
def user_variables_of_a_procedure(server):
    connection = server.raw(**PLAIN)
    connection.query("CALL remember(5)")
    connection.query("CALL fetch_into()")

    def check():
        assert connection.query("SELECT @from_a_procedure, @into_in_a_procedure").rows == [(b"5", b"7")]

    return check


# What a statement leaves ----------------------------------------------------------------------------------------------


@carried
def last_insert_id(server):
    inserted, said = server.raw(**PLAIN), server.raw(**PLAIN)
    expected = str(inserted.query("INSERT INTO scratch (n) VALUES (1), (2)").insert_id)
    said.query("SELECT LAST_INSERT_ID(77)")

    def check():
        assert inserted.one("SELECT LAST_INSERT_ID()") == expected
        assert said.one("SELECT LAST_INSERT_ID()") == "77"

    return check


@carried
def found_rows(server):
    many, few, none, long = (server.raw(**PLAIN) for _ in range(4))
    five = ", ".join(f"numbers n{place}" for place in range(5))
    statements = {
        many: ("SELECT SQL_CALC_FOUND_ROWS n FROM numbers LIMIT 2", "10"),
        long: (f"SELECT SQL_CALC_FOUND_ROWS 1 FROM {five} WHERE n0.id > 3 LIMIT 2", "70000"),
        few: ("SELECT n FROM numbers LIMIT 3", "3"),
        none: ("SELECT n FROM numbers WHERE n < 0", "0"),
    }
    for connection, (statement, _) in statements.items():
        connection.query(statement)

    def check():
        for connection, (statement, expected) in statements.items():
            assert connection.one("SELECT FOUND_ROWS()") == expected, statement
            connection.query(statement)

    return check


@carried
def more_found_rows_than_a_server_can_be_told(server):
    """right in a statement of its own; what asks later, or among other things, is refused and not told something else"""
    alone, later = server.raw(**PLAIN), server.raw(**PLAIN)
    asks = later.prepare("SELECT FOUND_ROWS() + 0")
    pairs = "(SELECT 0 UNION ALL SELECT 1) two"
    finds = f"SELECT SQL_CALC_FOUND_ROWS 1 FROM {', '.join(f'numbers n{place}' for place in range(6))}, {pairs} LIMIT 1"

    def find():
        for connection in (alone, later):
            connection.query(finds)

    def check():
        assert alone.one("SELECT FOUND_ROWS()") == "2000000"
        assert alone.one("SELECT FOUND_ROWS()") == "1"
        later.query("SET @x = 5")
        if not server.direct:
            for ask in (
                lambda: later.query("SELECT FOUND_ROWS()"),
                lambda: later.query("SELECT FOUND_ROWS() + 1"),
                lambda: later.execute(asks),
            ):
                with pytest.raises(ServerError, match="^1105.*not known any more"):
                    ask()
        for connection in (alone, later):
            connection.query("SELECT n FROM numbers LIMIT 3")
            assert connection.one("SELECT FOUND_ROWS() + 0") == "3"
        find()

    find()
    return check


@carried
def row_count_of_a_query(server):
    connection = server.raw(**PLAIN)
    connection.query("SELECT 1")

    def check():
        assert connection.one("SELECT ROW_COUNT()") == "-1"

    return check


@carried
def row_count_of_a_setting(server):
    connection = server.raw(**PLAIN)
    connection.query("SET @a = 1")

    def check():
        assert connection.one("SELECT ROW_COUNT()") == "0"
        connection.query("SET @a = 1")

    return check


@carried
def row_count_of_a_change(server):
    connection = server.raw(**PLAIN)
    connection.query("UPDATE scratch SET n = n WHERE false")
    statement = "INSERT INTO scratch (n) VALUES (1), (2), (3)"
    connection.query(statement)

    def check():
        assert connection.one("SELECT ROW_COUNT()") == "3"
        connection.query(statement)

    return check


@carried
def warnings_of_a_statement(server):
    connection = server.raw(**PLAIN)
    statement = "SELECT CAST('abc' AS SIGNED), 1 / 0"
    connection.query("SET sql_mode = 'ERROR_FOR_DIVISION_BY_ZERO'")
    connection.query(statement)
    before = connection.query("SHOW WARNINGS").rows
    assert [row[1] for row in before] == [b"1292", b"1365"]

    def check():
        assert connection.query("SHOW WARNINGS").rows == before
        # It does not clear them.
        assert connection.query("SHOW WARNINGS LIMIT 1").rows == before[:1]
        assert connection.one("SHOW COUNT(*) WARNINGS") == "2"
        assert connection.one("SELECT @@warning_count") == "2"
        connection.query(statement)

    return check


@carried
def error_of_a_statement(server):
    connection = server.raw(**PLAIN)

    def fail():
        with pytest.raises(ServerError, match="^1146"):
            connection.query("SELECT * FROM no_such_table")

    fail()

    def check():
        ((level, code, text),) = connection.query("SHOW ERRORS").rows
        assert (level, code, text) == (b"Error", b"1146", b"Table 'app.no_such_table' doesn't exist")
        assert connection.one("SELECT @@error_count") == "1"
        fail()

    return check


@carried
def fixed_time(server):
    connection = server.raw(**PLAIN)
    connection.query("SET time_zone = '+00:00'")
    connection.query("SET timestamp = 1000000000.25")
    moving = server.raw(**PLAIN)

    def check():
        assert connection.one("SELECT NOW()") == "2001-09-09 01:46:40"
        assert connection.one("SELECT @@timestamp = 1000000000.25") == "1"
        assert moving.one("SELECT ABS(UNIX_TIMESTAMP(SYSDATE()) - UNIX_TIMESTAMP()) < 2") == "1"

    return check


@carried
def id_of_the_next_insert(server):
    connection = server.raw(**PLAIN)
    ids = iter([5000, 6000, 7000])
    expected = next(ids)
    connection.query(f"SET insert_id = {expected}")

    def check():
        nonlocal expected
        assert connection.query("INSERT INTO scratch (n) VALUES (1)").insert_id == expected
        expected = next(ids)
        connection.query(f"SET insert_id = {expected}")

    return check


@carried(on=[MARIADB])
def seeds_of_the_random_numbers(server):
    connection, twin = server.raw(**PLAIN), server.raw(**PLAIN)
    for each in (connection, twin):
        each.query("SET rand_seed1 = 17, rand_seed2 = 4711")
    series = twin.query("SELECT RAND() FROM numbers").rows
    assert connection.query("SELECT RAND()").rows == series[:1]
    drawn = 1

    def check():
        nonlocal drawn
        assert connection.query("SELECT RAND()").rows == series[drawn : drawn + 1]
        drawn += 1

    return check


# Roles and accounts ---------------------------------------------------------------------------------------------------


@carried(on=MODERN)
def role(server):
    connection = server.raw(**PLAIN)
    connection.query("SET ROLE reader")
    before = connection.one("SELECT CURRENT_ROLE()")
    assert "reader" in before

    def check():
        assert connection.one("SELECT CURRENT_ROLE()") == before

    return check


@carried(on=MODERN)
def no_role_where_there_is_a_default(server):
    user(server, "defaulted")
    with server.connect() as master:
        run(master, "GRANT usual TO defaulted")
        run(master, "SET DEFAULT ROLE usual " + ("FOR" if server.product == MARIADB else "TO") + " defaulted")
    usual, without = (server.raw(user="defaulted", password="defaulted") for _ in range(2))
    without.query("SET ROLE NONE")
    before = usual.one("SELECT CURRENT_ROLE()")
    assert "usual" in before

    def check():
        assert usual.one("SELECT CURRENT_ROLE()") == before
        assert without.one("SELECT CURRENT_ROLE()") in (None, "NONE")

    return check


@carried
def another_account(server):
    """COM_CHANGE_USER: from then on the session is the other account's, and empty"""
    connection = server.raw(**PLAIN)
    connection.query("SET @left = 1, time_zone = '+01:00'")
    statement = connection.prepare("SELECT 1")
    connection.change_user("other", "other", "app")
    connection.query("SET @own = 2")
    own = connection.prepare("SELECT 2")
    # A driver may close only now what it had prepared before: that must not be another statement by now.
    connection.close_statement(statement)

    def check():
        assert connection.one("SELECT CURRENT_USER()").startswith("other@")
        assert connection.query("SELECT @left, @own, @@time_zone").rows == [(None, b"2", b"SYSTEM")]
        with pytest.raises(ServerError, match="^1243"):
            connection.execute(statement)
        assert connection.execute(own).rows == [(2,)]

    return check


@carried(on=MODERN)
def reset_connection(server):
    connection = server.raw(**PLAIN)
    connection.query("SET @left = 1, time_zone = '+01:00'")
    statement = connection.prepare("SELECT 1")
    connection.reset_connection()
    connection.query("SET @own = 2")

    def check():
        assert connection.query("SELECT @left, @own, @@time_zone, DATABASE()").rows == [(None, b"2", b"SYSTEM", b"app")]
        with pytest.raises(ServerError, match="^1243"):
            connection.execute(statement)

    return check


# Prepared statements --------------------------------------------------------------------------------------------------


@carried
def prepared_statements(server):
    """the ids that the client knows, in any order, with closed ones between"""
    connection = server.raw(**PLAIN)
    texts = ["SELECT ? AS text", "SELECT 'closed'", "SELECT ? + 1", "INSERT INTO scratch (n) VALUES (?)", "SELECT a FROM t"]
    statements = [connection.prepare(text) for text in texts]
    connection.close_statement(statements[1])

    def check():
        assert connection.execute(statements[2], [41]).rows == [(42,)]
        assert connection.execute(statements[0], ["ü"]).rows == [("ü".encode(),)]
        assert connection.execute(statements[3], [99]).affected == 1
        assert connection.execute(statements[4]).rows == [(1,)]
        with pytest.raises(ServerError, match="^1243"):
            connection.execute(statements[1])
        fresh = connection.prepare("SELECT 'fresh'")
        assert fresh.id not in [statement.id for statement in statements]
        assert connection.execute(fresh).rows == [(b"fresh",)]
        connection.close_statement(fresh)

    return check


@carried
def types_of_the_execution_before(server):
    """an execution may leave out the types that it has said before (5.6 takes NULL for all then, silently)"""
    connection = server.raw(**PLAIN)
    statement = connection.prepare("SELECT ?, ?, ?")
    connection.execute(statement, [1, "a", 2.5])

    def check():
        assert connection.execute(statement, [-7, "bc", 0.1], types=False).rows == [(-7, b"bc", 0.1)]

    return check


@carried
def statements_of_other_contexts(server):
    """database, SQL mode and character set are those of the time when it was prepared"""
    connection = server.raw(**PLAIN)
    connection.query("SET sql_mode = 'ANSI_QUOTES'")
    quoted = connection.prepare('SELECT "a" FROM "t"')
    connection.query("SET sql_mode = ''")
    connection.query("USE second")
    there = connection.prepare("SELECT a FROM t")
    connection.query("SET NAMES latin1")
    accent = connection.prepare(b"SELECT HEX(CONVERT('\xe9' USING utf8))")
    connection.query("SET NAMES utf8mb4")
    connection.query("USE app")
    here = connection.prepare("SELECT a, 'x\\'y' FROM t")

    def check():
        assert connection.execute(quoted).rows == [(1,)]
        assert connection.execute(there).rows == [(2,)]
        assert connection.execute(accent).rows == [(b"C3A9",)]
        assert connection.execute(here).rows == [(1, b"x'y")]
        assert connection.one("SELECT a FROM t") == "1"

    return check


@carried
def statements_of_drivers(server):
    connection = server.connector(**PLAIN, use_pure=True)
    prepared = connection.cursor(prepared=True)
    prepared.execute("SELECT %s + 1, %s", (1, "x"))
    prepared.fetchall()

    def check():
        # The cursor alone does not keep it.
        assert connection.in_transaction is False
        prepared.execute("SELECT %s + 1, %s", (41, "ü"))
        assert [tuple(row) for row in prepared.fetchall()] == [(42, "ü")]

    return check


@carried
def named_statements(server):
    connection = server.raw(**PLAIN)
    connection.query("PREPARE plus FROM 'SELECT ? + 1'")
    connection.query("PREPARE quoted FROM 'SELECT a, \\'quo\"ted\\' FROM t'")
    connection.query("PREPARE gone FROM 'SELECT 1'")
    connection.query("DEALLOCATE PREPARE gone")
    connection.query("PREPARE twice FROM 'SELECT 1'")
    connection.query("PREPARE twice FROM 'SELECT 2'")
    connection.query("SET @n = 41")

    def check():
        assert connection.one("EXECUTE plus USING @n") == "42"
        assert connection.query("EXECUTE quoted").rows == [(b"1", b'quo"ted')]
        assert connection.one("EXECUTE twice") == "2"
        with pytest.raises(ServerError, match="^1243"):
            connection.query("EXECUTE gone")

    return check


def of_a_variable(server):
    connection = server.raw(**PLAIN)
    connection.query("SET @text = 'SELECT a, \\'quo\"ted\\' FROM t'")
    connection.query("PREPARE `of a variable` FROM @text")
    connection.query("SET @text = NULL")
    return connection


@carried(on=[MYSQL9])
def named_statement_of_a_variable(server):
    """its text is in no statement of the client's; performance_schema has it"""
    connection = of_a_variable(server)

    def check():
        assert connection.query("EXECUTE `of a variable`").rows == [(b"1", b'quo"ted')]

    return check


@carried
def statement_whose_long_data_were_used(server):
    connection = server.raw(**PLAIN)
    statement = connection.prepare("SELECT LENGTH(?)")
    connection.long_data(statement, 0, b"x" * 1000)
    assert connection.execute(statement, [b""], sent_long=[0]).rows == [(1000,)]
    connection.reset_statement(statement)

    def check():
        assert connection.execute(statement, [b"abc"]).rows == [(3,)]

    return check


@carried
def statement_whose_table_is_gone(server):
    """it cannot be prepared again, and running it is the same error as ever"""
    connection = server.raw(**PLAIN)
    statement = connection.prepare("SELECT * FROM vanishing")
    connection.query("DROP TABLE vanishing")

    def check():
        with pytest.raises(ServerError, match="^1146"):
            connection.execute(statement)

    return check


@carried
def statement_whose_cursor_is_closed(server):
    connection = server.raw(**PLAIN)
    statement = connection.prepare("SELECT n FROM numbers WHERE n > ? ORDER BY n")
    assert connection.execute(statement, [0], cursor=True).status & CURSOR_EXISTS
    assert len(connection.fetch(statement, 3).rows) == 3
    connection.reset_statement(statement)

    def check():
        assert connection.execute(statement, [8], cursor=True).status & CURSOR_EXISTS
        assert connection.fetch(statement, 9).rows == [(9,), (10,)]
        connection.reset_statement(statement)

    return check


# The protocol ---------------------------------------------------------------------------------------------------------


@carried
def multi_statements(server):
    """COM_SET_OPTION, both ways"""
    on, off = server.raw(**PLAIN, drop=MULTI_STATEMENTS), server.raw(**PLAIN)
    on.set_option(True)
    off.set_option(False)

    def check():
        assert on.query("SELECT 1; SELECT 2").rows == [(b"1",)]
        assert on.more[0].rows == [(b"2",)]
        with pytest.raises(ServerError, match="^1064"):
            off.query("SELECT 1; SELECT 2")

    return check


@carried
def capability_found_rows(server):
    """rows that an UPDATE finds count, though it changes none"""
    found, changed = server.raw(**PLAIN, add=FOUND_ROWS), server.raw(**PLAIN)

    def check():
        assert found.query("UPDATE numbers SET n = n").affected == 10
        assert changed.query("UPDATE numbers SET n = n").affected == 0

    return check


@carried
def capability_interactive(server):
    """wait_timeout is another one for interactive clients"""
    with server.connect() as master:
        run(master, "SET GLOBAL interactive_timeout = 7777")
    connection = server.raw(**PLAIN, add=INTERACTIVE)

    def check():
        assert connection.one("SELECT @@wait_timeout") == "7777"

    return check


@carried
def capabilities_of_old_clients(server):
    old = server.raw(**PLAIN, drop=DEPRECATE_EOF | SESSION_TRACK)
    statement = old.prepare("SELECT n FROM numbers WHERE n > ? ORDER BY n")

    def check():
        assert old.query("SELECT 1 UNION SELECT 2").rows == [(b"1",), (b"2",)]
        assert old.execute(statement, [8]).rows == [(9,), (10,)]
        assert old.execute(statement, [8], cursor=True).status & CURSOR_EXISTS
        assert old.fetch(statement, 9).rows == [(9,), (10,)]
        old.reset_statement(statement)

    return check


@carried(on=MODERN)
def capability_session_track(server):
    """a client that asked for it is told of changes, and of nothing that a swap does"""
    connection = server.raw(**PLAIN, add=SESSION_TRACK)

    def check():
        assert b"second" in connection.query("USE second").info
        assert connection.query("DO 1").info == b""
        assert b"app" in connection.query("USE app").info

    return check


@carried(on=[MYSQL9])
def connection_attributes(server):
    connection = server.raw(**PLAIN, attributes={"program_name": "row", "_odd": "ü"})

    def check():
        rows = connection.query(
            "SELECT attr_name, attr_value FROM performance_schema.session_connect_attrs"
            " WHERE processlist_id = CONNECTION_ID() ORDER BY attr_name"
        ).rows
        assert rows == [(b"_odd", "ü".encode()), (b"program_name", b"row")]

    return check


@carried
def compressed_connections(server):
    """one by the driver's own code, one by the C library's"""
    connections = [server.connector(**PLAIN, compress=True, use_pure=pure) for pure in (True, False)]
    for connection in connections:
        with connection.cursor() as cursor:
            cursor.execute("SET @kept = REPEAT('x', 100000)")

    def check():
        for connection in connections:
            with connection.cursor() as cursor:
                cursor.execute("SELECT @kept, REPEAT('y', 300000)")
                assert cursor.fetchall() == [("x" * 100000, "y" * 300000)]
                # Servers send such a packet in two frames, and the driver's own code reads no third.
                cursor.execute("SELECT REPEAT('z', 3000000), 5 UNION ALL SELECT REPEAT('y', 1048577), 6")
                assert cursor.fetchall() == [("z" * 3000000, 5), ("y" * 1048577, 6)]

    return check


@carried
def diagnostics_of_an_error(server):
    """by SHOW WARNINGS, and by GET DIAGNOSTICS"""
    connection = server.raw(**PLAIN)

    def fail():
        connection.query("SET @number = NULL, @rows = NULL, @state = NULL, @code = NULL, @message = NULL")
        with pytest.raises(ServerError, match="^1146"):
            connection.query("SELECT * FROM no_such_table")

    fail()

    def check():
        connection.query("GET DIAGNOSTICS @number = NUMBER, @rows = ROW_COUNT")
        connection.query(
            "GET DIAGNOSTICS CONDITION 1 @state = RETURNED_SQLSTATE, @code = MYSQL_ERRNO, @message = MESSAGE_TEXT"
        )
        with pytest.raises(ServerError, match="^1758"):
            connection.query("GET DIAGNOSTICS CONDITION 9 @message = MESSAGE_TEXT")
        row = connection.query("SELECT @number, @rows, @state, @code, @message").rows[0]
        assert row == (b"1", b"-1", b"42S02", b"1146", b"Table 'app.no_such_table' doesn't exist")
        fail()

    return check


@carried
def diagnostics_of_a_warning(server):
    """what of it nobody can know after a look is refused, not made up"""
    connection = server.raw(**PLAIN)

    def warn():
        connection.query("SET @number = NULL, @rows = NULL, @code = NULL, @message = NULL, @state = NULL")
        truncating = "SELECT CAST('x1' AS SIGNED), CAST('x2' AS SIGNED) FROM numbers LIMIT 1"
        assert connection.query(truncating).warnings == 2

    warn()

    def check():
        connection.query("GET DIAGNOSTICS @number = NUMBER, @rows = ROW_COUNT")
        connection.query("GET DIAGNOSTICS CONDITION 2 @code = MYSQL_ERRNO, @message = MESSAGE_TEXT")
        try:
            connection.query("GET DIAGNOSTICS CONDITION 2 @state = RETURNED_SQLSTATE")
            state = b"22007"
        except ServerError as error:
            assert error.code == 1105 and "is not known any more" in error.text
            state = None
        row = connection.query("SELECT @number, @rows, @code, @message, @state").rows[0]
        assert row == (b"2", b"-1", b"1292", b"Truncated incorrect INTEGER value: 'x2'", state)
        warn()

    return check


@carried
def connection_id(server):
    connection = server.raw(**PLAIN)

    def check():
        assert int(connection.one("SELECT CONNECTION_ID()")) == connection.id
        connection.begin(QUERY, "SELECT SLEEP(600)")
        with server.connect(**PLAIN) as other:
            asleep = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(600)'"
            wait_until(lambda: one(other, asleep), "it sleeps")
            run(other, f"KILL QUERY {connection.id}")
        # MariaDB says that it was interrupted; MySQL's SLEEP answers 1.
        with contextlib.suppress(ServerError):
            assert connection.result().rows == [(b"1",)]
        assert connection.one("SELECT 1") == "1"

    return check


@carried
def asynchronous_drivers(server):
    loop = asyncio.new_event_loop()
    connections = []
    for driver in (aiomysql, asyncmy):
        parameters = server.parameters(**PLAIN)
        parameters["db"] = parameters.pop("database")
        connections.append(loop.run_until_complete(driver.connect(**parameters, autocommit=True)))

    async def ask(connection, sql):
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return await cursor.fetchall()

    for connection in connections:
        loop.run_until_complete(ask(connection, "SET @kept = 5"))

    def check():
        for connection in connections:
            rows = loop.run_until_complete(ask(connection, "SELECT @kept"))
            assert [tuple(row) for row in rows] == [(5,)]

    return check


# What was given back --------------------------------------------------------------------------------------------------


@carried
def what_was_given_back(server):
    """locks, handlers and temporary tables of the past are no obstacle"""
    connection = server.connect(**PLAIN)
    for statement in (
        "SELECT GET_LOCK('given_back', 1)",
        "SELECT RELEASE_LOCK('given_back')",
        "LOCK TABLES t READ",
        "UNLOCK TABLES",
        "HANDLER t OPEN",
        "HANDLER t CLOSE",
        "CREATE TEMPORARY TABLE brief (a int)",
        "DROP TEMPORARY TABLE brief",
        "CREATE TABLE lasting (a int)",
        "DROP TABLE lasting",
        "BEGIN",
        "INSERT INTO scratch (n) VALUES (1)",
        "ROLLBACK",
    ):
        run(connection, statement)

    def check():
        assert one(connection, "SELECT 1") == 1

    return check


# What blocks ----------------------------------------------------------------------------------------------------------


def by_statements(obstacle, name, begin, end, *, on=PRODUCTS, alone=False):
    """A row of statements that raise an obstacle, and some that take it away."""

    def setup(server):
        connection = server.raw(**PLAIN)
        for statement in begin:
            connection.query(statement)

        def unblock():
            for statement in end:
                connection.query(statement)

        return connection, unblock

    setup.__name__ = name
    blocked(obstacle, on=on, alone=alone)(setup)


_WORK = "INSERT INTO scratch (n) VALUES (1)"
by_statements("open_transaction", "open_transaction", ["BEGIN", _WORK], ["ROLLBACK"])
by_statements("open_transaction", "transaction_that_has_read", ["BEGIN", "SELECT * FROM numbers"], ["COMMIT"])
by_statements("open_transaction", "transaction_of_autocommit_off", ["SET autocommit = 0", _WORK], ["ROLLBACK"])
by_statements("open_transaction", "snapshot", ["START TRANSACTION WITH CONSISTENT SNAPSHOT"], ["ROLLBACK"])
by_statements("open_transaction", "xa_transaction", ["XA START 'b'", _WORK], ["XA END 'b'", "XA ROLLBACK 'b'"])
# In MariaDB it would outlive the session, too; but the session says that it has a transaction open, and answers nothing
# else until that is over.
by_statements(
    "open_transaction",
    "xa_prepared_and_not_detached",
    ["XA START 'p'", _WORK, "XA END 'p'", "XA PREPARE 'p'"],
    ["XA ROLLBACK 'p'"],
    on=[MARIADB, MYSQL56],
)
_DROP = ["DROP TEMPORARY TABLE b"]
by_statements("temporary_table", "temporary", ["CREATE TEMPORARY TABLE b (a int)"], _DROP)
by_statements("temporary_table", "temporary_as_select", ["CREATE TEMPORARY TABLE b AS SELECT 1 AS a"], _DROP)
by_statements("temporary_table", "temporary_like", ["CREATE TEMPORARY TABLE b LIKE numbers"], _DROP)
by_statements("table_lock", "lock_tables", ["LOCK TABLES locked READ"], ["UNLOCK TABLES"])
by_statements("table_lock", "flush_with_read_lock", ["FLUSH TABLES flushed WITH READ LOCK"], ["UNLOCK TABLES"])
by_statements("named_lock", "named_lock", ["SELECT GET_LOCK('blocks', 1)"], ["SELECT RELEASE_LOCK('blocks')"])
by_statements("handler", "handler", ["HANDLER handled OPEN"], ["HANDLER handled CLOSE"])
by_statements("table_lock", "backup_lock", ["BACKUP LOCK app.locked"], ["BACKUP UNLOCK"], on=[MARIADB])


@blocked("temporary_table", on=MODERN)
def temporary_of_a_procedure(server):
    """nobody can see that it was dropped again, so only a reset helps"""
    connection = server.raw(**PLAIN)
    connection.query("CALL temporary()")
    return connection, connection.reset_connection


@blocked("open_transaction")
def failed_statement_in_a_transaction(server):
    """an error has no flags: the transaction must be remembered, or asked for"""
    connection = server.raw(**PLAIN)
    connection.query("BEGIN")
    connection.query(_WORK)
    with pytest.raises(ServerError, match="^1054"):
        connection.query("SELECT no_such_column FROM numbers")
    return connection, lambda: connection.query("ROLLBACK")


@blocked("statement_in_progress")
def running_statement(server):
    connection = server.raw(**PLAIN)
    connection.begin(QUERY, "SELECT SLEEP(601)")

    def end():
        with server.connect(**PLAIN) as other:
            run(other, f"KILL QUERY {connection.id}")
        with contextlib.suppress(ServerError):
            connection.result()

    return connection, end


@blocked("statement_in_progress")
def load_data_local(server):
    connection = server.raw(**PLAIN, add=LOCAL_FILES, file=None)
    assert connection.query("LOAD DATA LOCAL INFILE 'row' INTO TABLE loaded").info == b"row"

    def end():
        connection.file = b"1\n2\n"
        assert connection.send_file().affected == 2

    return connection, end


@blocked("cursor")
def cursor(server):
    connection = server.raw(**PLAIN)
    statement = connection.prepare("SELECT n FROM numbers")
    assert connection.execute(statement, cursor=True).status & CURSOR_EXISTS
    connection.fetch(statement, 1)
    return connection, lambda: connection.reset_statement(statement)


@blocked("long_data")
def long_data(server):
    connection = server.raw(**PLAIN)
    statement = connection.prepare("SELECT ?")
    connection.long_data(statement, 0, b"x")
    connection.ping()
    return connection, lambda: connection.reset_statement(statement)


@blocked("prepared_statement", on=[MARIADB, MYSQL56])
def named_statement_of_a_hidden_text(server):
    """nobody tells what the variable was when the statement was prepared"""
    connection = of_a_variable(server)
    return connection, lambda: connection.query("DEALLOCATE PREPARE `of a variable`")


# Who takes one of these waits for others, and lets others wait.
_UNLOCK = ["UNLOCK TABLES"]
by_statements("table_lock", "flush_all_with_read_lock", ["FLUSH TABLES WITH READ LOCK"], _UNLOCK, alone=True)
_INSTANCE = ["LOCK INSTANCE FOR BACKUP"]
by_statements("table_lock", "lock_instance", _INSTANCE, ["UNLOCK INSTANCE"], on=[MYSQL9], alone=True)
_STAGES = ["BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL"]
by_statements("backup", "backup_stage", _STAGES, ["BACKUP STAGE END"], on=[MARIADB], alone=True)


# The tables -----------------------------------------------------------------------------------------------------------


def attempt(function, *arguments):
    """The result, or the exception as a value: one row's failure is not another's."""
    try:
        return function(*arguments), None
    except (Exception, pytest.fail.Exception):
        return None, traceback.format_exc()


def as_master(server, *statements):
    with server.connect() as master:
        for statement in statements:
            run(master, statement)


def changed_account(name, change, again, *, setup=(), session=(), on=PRODUCTS):
    """A session whose account is changed behind it: the server lets it go on, and would not let it in again. `change`,
    `again`: statements."""

    def row(server):
        user(server, name)
        as_master(server, *setup)
        connection = server.raw(user=name, password=name)
        for statement in session:
            connection.query(statement)
        as_master(server, *change(server))
        connection.query("SELECT 1")
        return connection, lambda: as_master(server, *again(server))

    row.__name__ = name
    blocked("account", on=on)(row)


changed_account(
    "other_password",
    lambda server: [f"SET PASSWORD FOR other_password = {server.password_function('new')}"],
    lambda server: [
        "SET PASSWORD FOR other_password = "
        + server.password_function("other_password")
    ],
)
changed_account(
    "locked_account",
    lambda _: ["ALTER USER locked_account ACCOUNT LOCK"],
    lambda _: ["ALTER USER locked_account ACCOUNT UNLOCK"],
    on=MODERN,
)
changed_account(
    "moved_account",
    lambda _: ["RENAME USER moved_account TO moved_account@'10.9.8.7'"],
    lambda _: ["RENAME USER moved_account@'10.9.8.7' TO moved_account"],
)
changed_account(
    "without_role",
    lambda _: ["REVOKE seldom FROM without_role"],
    lambda _: ["GRANT seldom TO without_role"],
    setup=["CREATE ROLE seldom", "GRANT seldom TO without_role"],
    session=["SET ROLE seldom"],
    on=[MARIADB],
)
changed_account(
    "without_database",
    lambda _: ["REVOKE ALL ON app.* FROM without_database"],
    lambda _: ["GRANT ALL ON app.* TO without_database"],
)


@carried
def accounts_that_changed_and_let_their_sessions_in(server):
    """more rights, a second password, and so few connections that a trial finds no place: that proves nothing"""
    few = {
        MARIADB: "ALTER USER limited WITH MAX_USER_CONNECTIONS 1",
        MYSQL9: "ALTER USER limited WITH MAX_USER_CONNECTIONS 1",
        MYSQL56: "GRANT USAGE ON *.* TO limited WITH MAX_USER_CONNECTIONS 1",
    }
    second = {
        MARIADB: "ALTER USER twice IDENTIFIED VIA mysql_native_password USING PASSWORD('new') "
        "OR mysql_native_password USING PASSWORD('twice')",
        MYSQL9: "ALTER USER twice IDENTIFIED BY 'new' RETAIN CURRENT PASSWORD",
        MYSQL56: "SET PASSWORD FOR twice = PASSWORD('twice')",
    }
    changes = {
        "granted": "GRANT SELECT, PROCESS ON *.* TO granted",
        "limited": few[server.product],
        "twice": second[server.product],
    }
    connections = []
    for name, change in changes.items():
        user(server, name)
        connections.append(server.connect(user=name, password=name))
        as_master(server, change)

    def check():
        for connection in connections:
            assert one(connection, "SELECT 5") == 5

    return check


def seek_in_vain(server, rows):
    """One change that must be rolled back for all `rows`; then their obstacles are taken away."""
    found, kept, before, reasons = {}, [], {}, {}
    setups = [(row, *attempt(row.setup, server)) for row in rows]
    if not server.direct:
        with server.connect() as master:
            settings = of_the_flush(master)
        report = server.scale(4, seconds=10, action="rollback", exits=(3,))
        with server.connect() as master:
            assert of_the_flush(master) == settings, "what a change in vain has set is put back"
        reasons = {obstacle["session"]: obstacle["reason"] for obstacle in report["obstacles"]}
        before = {session["id"]: session["obstacle"] for session in server.sessions()}
    for row, made, error in reversed(setups):
        if error:
            found[row.name] = error
            continue
        connection, unblock = made
        session = connection.id
        _, error = attempt(unblock)

        def unblocked(session=session):
            now = next((each for each in server.sessions() if each["id"] == session), None)
            return now is None or now["obstacle"] is None

        if not error and not server.direct:
            _, error = attempt(wait_until, unblocked, f"{row.name} is no obstacle any more")
        elif not error:
            # Without a router only the statements can be wrong.
            before[session] = reasons[session] = row.obstacle
        found[row.name] = error or (before.get(session), reasons.get(session))
        if error or row.obstacle == "account":
            # There is not place for all; a changed account that lets its session in is a row of its own.
            connection.close()
        kept.append(connection)
    return found, kept


def ids(server):
    return set() if server.direct else {session["id"] for session in server.sessions()}


def swap(server, table, owners):
    """To another process. A row that blocks fails, and is ended, so that the others are swapped all the same."""
    for _ in range(5):
        if server.handover == "standby":
            wait_until(server.follows, "a standby", 60)
        before = server.volume
        capacity = 4 if server.status()["capacity"] != 4 else 2
        report = server.scale(capacity, seconds=10, action="rollback", exits=(0, 3))
        if report["outcome"] == "scaled":
            table.promoted.append(server.volume != before)
            return report
        for obstacle in report["obstacles"]:
            name = owners[obstacle["session"]]
            table.carried[name] = table.carried[name] or f"blocks the swap: {obstacle}"
            with server.connect() as master, contextlib.suppress(pymysql.Error):
                run(master, f"KILL {obstacle['session']}")
    raise AssertionError(f"no swap: {report}\n{server.log()}")


#: By table: how every row came out. Made by the first test that asks.
RESULTS = {}


def outcome(name):
    if name not in RESULTS:
        RESULTS[name] = run_table(name)
    return RESULTS[name]


def run_table(name):
    table = types.SimpleNamespace(carried={}, blocked={}, reports=[], promoted=[], error=None)
    product = name.removesuffix(STANDBY)
    options = {"handover": "standby"} if name.endswith(STANDBY) else {}
    try:
        with serving_mysql(product, **options) as server:
            prepare_server(server)
            if not server.direct:
                # The least capacity has too few places.
                server.scale(2)
            kept = []
            rows = [row for row in BLOCKED if product in row.on]
            for group in [[row for row in rows if not row.alone], *([row] for row in rows if row.alone)]:
                found, connections = seek_in_vain(server, group)
                table.blocked.update(found)
                kept += connections
            rows = [row for row in CARRIED if product in row.on]
            checks, owners = {}, {}
            for row in rows:
                before = ids(server)
                checks[row.name] = attempt(row.setup, server)
                owners.update(dict.fromkeys(ids(server) - before, row.name))
            table.carried = {name: error for name, (_, error) in checks.items()}
            for each in ("first", "second"):
                table.reports.append(None if server.direct else swap(server, table, owners))
                for name, (check, _) in checks.items():
                    if table.carried[name] is None:
                        _, error = attempt(check)
                        if error is not None:
                            table.carried[name] = f"after the {each} swap: {error}"
            for connection in kept:
                with contextlib.suppress(OSError, pymysql.Error, mysql.connector.Error):
                    connection.close()
    except (Exception, pytest.fail.Exception):
        table.error = traceback.format_exc()
    return table


def table_rows(rows):
    return [
        pytest.param(table, row, id=f"{row.name}-{table}")
        for table in TABLES
        for row in rows
        if table.removesuffix(STANDBY) in row.on
    ]


@pytest.mark.parametrize(("product", "row"), table_rows(CARRIED))
def test_is_carried(product, row):
    table = outcome(product)
    if len(table.reports) < 2:
        pytest.fail(table.carried.get(row.name) or "the table was not swapped twice", pytrace=False)
    if table.carried[row.name]:
        pytest.fail(table.carried[row.name], pytrace=False)


@pytest.mark.parametrize(("product", "row"), table_rows(BLOCKED))
def test_blocks(product, row):
    table = outcome(product)
    found = table.blocked.get(row.name, "the change was not sought")
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    # In the list of sessions, and in the report of the change that was rolled back.
    assert found == (row.obstacle, row.obstacle)


@pytest.mark.parametrize("product", TABLES)
def test_the_whole_table_moved_together(product):
    table = outcome(product)
    if table.error:
        pytest.fail(table.error, pytrace=False)
    for report in table.reports if not DIRECT else []:
        assert report["sessions"]["closed"] == report["sessions"]["aborted"] == 0
        assert report["sessions"]["carried"] >= len(table.carried)
    if product.endswith(STANDBY):
        assert table.promoted == [True, True]
