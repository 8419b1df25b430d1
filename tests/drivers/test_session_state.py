"""The table of what a PostgreSQL session is made of, one row each: carried to the next process, or what blocks it.

All rows of a server version share one server. Every row sets up a session of its own; then the database process is
swapped twice, with one look at every session after each swap. Rows that block come first, all in one change that is
rolled back for them.

A row of the first kind is a function that sets the session up and returns its check; one of the second kind returns
its connection and what takes the obstacle away again.
"""

import asyncio
import contextlib
import time
import traceback
import types

import asyncpg
import psycopg
import pytest
from conftest import serving, wait_until
from rawpg import Raw, ServerError

STANDBY = "-standby"
#: With `-standby` the table moves to a copy that is promoted.
VERSIONS = ["10", "12", "14", "15", f"15{STANDBY}", "16", "17", "18"]
#: Blocked rows cost the shortest time that a change can be asked to seek.
BLOCKING_VERSIONS = ["10", "15", "18"]
PLAIN = {"user": "plain", "password": "plain"}

CARRIED = []
BLOCKED = []


def carried(setup=None, *, since=10):
    """A row whose session must be the same after a swap."""
    if setup is None:
        return lambda function: carried(function, since=since)
    CARRIED.append(types.SimpleNamespace(name=setup.__name__, setup=setup, since=since))
    return setup


def blocked(obstacle, *, since=10):
    """A row whose session keeps the cluster where it is."""

    def register(setup):
        BLOCKED.append(types.SimpleNamespace(name=setup.__name__, setup=setup, since=since, obstacle=obstacle))
        return setup

    return register


def one(connection, sql, *values):
    return connection.execute(sql, values or None).fetchone()[0]


def show(connection, name):
    return one(connection, "SELECT current_setting(%s)", name)


def raw(server, **changes):
    return Raw(**{
        "host": "127.0.0.1",
        "port": server.port,
        "ca": str(server.ca),
        **{k: v for k, v in server.parameters().items() if k in ("user", "password", "dbname")},
        **changes,
    })


def backup(server, start):
    if server.version >= 15:
        return "SELECT pg_backup_start('row', true)" if start else "SELECT pg_backup_stop()"
    return "SELECT pg_start_backup('row', true, false)" if start else "SELECT pg_stop_backup(false)"


PREPARATION = '''
CREATE ROLE plain LOGIN PASSWORD 'plain';
CREATE ROLE team;
CREATE ROLE "Tëam ""Q""";
GRANT team TO plain;
GRANT ALL ON SCHEMA public TO PUBLIC;
GRANT CREATE, TEMPORARY ON DATABASE app TO plain;
CREATE TABLE numbers (id serial PRIMARY KEY, n int);
GRANT ALL ON numbers, numbers_id_seq TO plain;
INSERT INTO numbers (n) SELECT generate_series(1, 10);
CREATE UNLOGGED TABLE unlogged AS SELECT 7 AS n;
CREATE SCHEMA first; CREATE TABLE first.t AS SELECT 1 AS a;
CREATE SCHEMA second; CREATE TABLE second.t AS SELECT 2 AS a;
CREATE TABLE drifting (a int);
CREATE TABLE vanishing (a int);
CREATE TABLE drifts_later (a int);
CREATE FUNCTION remember(v text) RETURNS text LANGUAGE sql AS $$SELECT set_config('stored.secret', v, false)$$;
CREATE FUNCTION recall() RETURNS text LANGUAGE sql AS $$SELECT current_setting('stored.secret', true)$$;
CREATE FUNCTION assemble(v text) RETURNS text LANGUAGE sql AS
    $$SELECT set_config(concat('pol', 'icy', '.tenant'), v, false)$$;
CREATE TABLE tenants AS SELECT 'blue'::text AS tenant UNION SELECT 'red';
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON tenants USING (tenant = current_setting('policy.tenant', true));
GRANT SELECT ON tenants TO plain;
CREATE FUNCTION trace() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
    $$BEGIN PERFORM set_config('log_min_duration_statement', '12345', false); END$$;
CREATE FUNCTION widen() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
    $$BEGIN PERFORM set_config('work_mem', '11MB', false); END$$;
'''


# What is carried ------------------------------------------------------------------------------------------------------


@carried
def settings_of_the_session(server):
    """source = session: values as they were, and RESET goes back to what the client logged in with"""
    connection = server.connect(options="-c work_mem=5MB")
    values = {
        "work_mem": "7MB",
        "application_name": r"""it's "quoted" \ and ünïcode""",
        "search_path": '"$user", "odd, ""schema""", public',
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "TimeZone": "Asia/Kolkata",
        "standard_conforming_strings": "off",
        "extra_float_digits": "2",
        "random_page_cost": "1.25",
        "enable_seqscan": "off",
        "bytea_output": "escape",
        "temp_buffers": "1MB",
        "lock_timeout": "7s",
        "default_transaction_isolation": "repeatable read",
    }
    for name, value in values.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    values["application_name"] = show(connection, "application_name")  # The server keeps ASCII only, before 16 as "?".

    def check():
        for name, value in values.items():
            assert show(connection, name) == value
        status = connection.info.parameter_status
        assert (status("DateStyle"), status("TimeZone")) == ("SQL, DMY", "Asia/Kolkata")
        assert one(connection, "SELECT reset_val FROM pg_settings WHERE name = 'work_mem'") == "5120"

    return check


@carried
def settings_of_the_client(server):
    """source = client: from the start-up packet, options and parameters"""
    connection = server.connect(application_name="from the packet", options="-c work_mem=5MB -c my.option=x\\ y")

    def check():
        assert (show(connection, "work_mem"), show(connection, "my.option")) == ("5MB", "x y")
        assert show(connection, "application_name") == "from the packet"
        assert one(connection, "SELECT source FROM pg_settings WHERE name = 'work_mem'") == "client"

    return check


@carried
def settings_of_user_and_database(server):
    """source = user: what held at log in holds on, whatever ALTER ROLE says since"""
    with server.connect() as master:
        master.execute("CREATE ROLE tuned LOGIN PASSWORD 'tuned'")
        master.execute("ALTER ROLE tuned SET work_mem = '3MB'")
        master.execute("ALTER ROLE tuned SET enable_hashjoin = off")
    connection = server.connect(user="tuned", password="tuned")
    assert show(connection, "work_mem") == "3MB"
    connection.execute("SELECT recall()")  # Anything that makes the router look.
    with server.connect() as master:
        master.execute("ALTER ROLE tuned SET work_mem = '9MB'")
        master.execute("ALTER ROLE tuned RESET enable_hashjoin")
        # What had no value of the role's before.
        master.execute("ALTER ROLE tuned SET enable_sort = off")
        master.execute("ALTER ROLE tuned SET statement_timeout = '7s'")

    def check():
        assert (show(connection, "work_mem"), show(connection, "enable_hashjoin")) == ("3MB", "off")
        assert (show(connection, "enable_sort"), show(connection, "statement_timeout")) == ("on", "0")
        with server.connect(user="tuned", password="tuned") as fresh:
            assert (show(fresh, "enable_sort"), show(fresh, "statement_timeout")) == ("off", "7s")

    return check


@carried
def custom_settings(server):
    """placeholders that no view shows: set, empty after RESET or SET LOCAL, by bound names, with odd values"""
    connection = server.connect(prepare_threshold=None)
    connection.execute("SET myapp.user_id = '42'")
    connection.execute("SET \"Other App\".ignored = 'x'") if server.version < 14 else None
    connection.execute("SET myapp.gone = 'x'")
    connection.execute("RESET myapp.gone")
    connection.execute("SELECT set_config(%s, %s, false)", ("bound.name", "it's \"x\" \\ é"))
    with connection.transaction():
        connection.execute("SET LOCAL myapp.local = 'x'")

    def check():
        for name, value in {
            "myapp.user_id": "42",
            "myapp.gone": "",
            "bound.name": "it's \"x\" \\ é",
            "myapp.local": "",
            "myapp.never": None,
        }.items():
            assert one(connection, "SELECT current_setting(%s, true)", name) == value, name

    return check


@carried
def custom_setting_named_in_a_function_only(server):
    """the client's text never names it: the function's body does"""
    connection = server.connect(**PLAIN)
    connection.execute("SELECT remember('kept')")

    def check():
        assert one(connection, "SELECT recall()") == "kept"

    return check


@carried
def custom_setting_named_in_a_policy_only(server):
    """row level security reads it; the name that sets it is put together at run time"""
    connection = server.connect(**PLAIN)
    connection.execute("SELECT assemble('blue')")

    def check():
        assert connection.execute("SELECT tenant FROM tenants").fetchall() == [("blue",)]

    return check


@carried
def custom_setting_named_in_a_function_made_since(server):
    """a function that is made while the session is there, by somebody else"""
    connection = server.connect(**PLAIN)
    with server.connect() as master:
        master.execute(
            "CREATE FUNCTION late(v text) RETURNS text LANGUAGE plpgsql AS "
            "$f$BEGIN RETURN set_config('late.secret', v, false); END$f$"
        )
    connection.execute("SELECT late('kept')")

    def check():
        assert one(connection, "SELECT current_setting(concat('late', '.secret'), true)") == "kept"

    return check


@carried
def hidden_setting_of_a_superuser(server):
    """dynamic_library_path is shown to superusers only"""
    connection = server.connect()
    connection.execute("SET dynamic_library_path = '$libdir:/nowhere'")
    connection.execute("SET session_replication_role = replica")

    def check():
        assert show(connection, "dynamic_library_path") == "$libdir:/nowhere"
        assert show(connection, "session_replication_role") == "replica"

    return check


@carried
def client_encoding_with_other_letters(server):
    """LATIN1, with letters beyond ASCII in values, names and statements"""
    connection = raw(server, client_encoding="UTF8")
    connection.query("SET client_encoding = 'LATIN1'")
    connection.query("SET myapp.letters = 'é'".encode("latin1"))
    connection.query('LISTEN "é"'.encode("latin1"))
    connection.query("PREPARE é AS SELECT 'ü'::text".encode("latin1"))
    connection.prepare("ö".encode("latin1"), "SELECT 'ä'::text".encode("latin1"))
    connection.query('SET search_path = "ñ", public'.encode("latin1"))

    def check():
        assert connection.query("SHOW client_encoding") == [(b"LATIN1",)]
        assert connection.status["client_encoding"] == "LATIN1"
        assert connection.query("SELECT current_setting('myapp.letters')") == [("é".encode("latin1"),)]
        assert connection.query("SELECT * FROM pg_listening_channels()") == [("é".encode("latin1"),)]
        assert connection.query("EXECUTE é".encode("latin1")) == [("ü".encode("latin1"),)]
        assert connection.run("ö".encode("latin1")) == [("ä".encode("latin1"),)]
        assert connection.query("SHOW search_path") == [('"ñ", public'.encode("latin1"),)]

    return check


@carried
def set_role(server):
    """SET ROLE, and settings that were made before it"""
    connection = server.connect(**PLAIN)
    connection.execute("SET work_mem = '6MB'; SET ROLE team")

    def check():
        assert connection.execute("SELECT session_user, current_user").fetchone() == ("plain", "team")
        assert show(connection, "work_mem") == "6MB"
        connection.execute("RESET ROLE")
        assert one(connection, "SELECT current_user") == "plain"
        connection.execute("SET ROLE team")

    return check


@carried
def set_session_authorization(server):
    """a superuser becomes somebody else, takes a role, and comes back by RESET"""
    connection = server.connect()
    connection.execute("SET log_min_duration_statement = 77777")
    connection.execute("SET SESSION AUTHORIZATION plain; SET ROLE team")

    def check():
        users = "SELECT session_user, current_user, current_setting('is_superuser')"
        assert connection.execute(users).fetchone() == ("plain", "team", "off")
        connection.execute("RESET SESSION AUTHORIZATION")
        assert connection.execute(users).fetchone() == ("master", "master", "on")
        assert show(connection, "log_min_duration_statement") == "77777ms"
        connection.execute("SET SESSION AUTHORIZATION plain; SET ROLE team")

    return check


@carried
def role_with_an_odd_name(server):
    connection = server.connect()
    connection.execute('SET ROLE "Tëam ""Q"""')

    def check():
        assert one(connection, "SELECT current_user") == 'Tëam "Q"'

    return check


@carried
def driver_prepared_statements(server):
    """psycopg's own prepared statements go on being used"""
    connection = server.connect(prepare_threshold=0)
    sql = "SELECT n + %s FROM numbers WHERE id = %s"
    assert connection.execute(sql, (1, 3)).fetchone() == (4,)

    def check():
        names = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT n + $1%'"
        assert connection.execute(names, prepare=False).fetchone() == (1,)
        assert connection.execute(sql, (1, 5)).fetchone() == (6,)

    return check


@carried
def asyncpg_session(server):
    """asyncpg: a prepared statement object, its cache, a listener"""
    loop = asyncio.new_event_loop()
    heard = []

    async def start():
        connection = await asyncpg.connect(
            host="127.0.0.1", port=server.port, user="plain", password="plain", database="app", ssl="require"
        )
        await connection.add_listener("async_news", lambda *news: heard.append(news[3]))
        statement = await connection.prepare("SELECT n FROM numbers WHERE id = $1")
        # A Sync comes with the first use only; until then the session is in the middle of a request.
        assert await statement.fetchval(4) == 4
        return connection, statement

    connection, statement = loop.run_until_complete(start())

    async def look():
        heard.clear()
        assert await statement.fetchval(4) == 4
        assert await connection.fetchval("SELECT $1::int + n FROM numbers WHERE id = 1", 5) == 6
        async with connection.transaction():
            assert [r["id"] async for r in connection.cursor("SELECT id FROM numbers WHERE id < 3 ORDER BY 1")] == [1, 2]
        await connection.execute("NOTIFY async_news, 'heard'")
        while not heard:
            await asyncio.sleep(0.01)
        assert heard == ["heard"]

    def check():
        loop.run_until_complete(asyncio.wait_for(look(), 30))

    return check


@carried
def statements_parsed_under_other_settings(server):
    """what a literal meant when the statement was parsed, it means for ever"""
    connection = raw(server)
    connection.query("SET DateStyle = 'ISO, DMY'; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'sql_standard'")
    connection.query("SET standard_conforming_strings = off; SET escape_string_warning = off")
    connection.prepare("day", "SELECT to_char(date '01/02/2023', 'YYYY-MM-DD')")
    connection.prepare("moment", "SELECT extract(epoch FROM timestamptz '2023-01-01 00:00')::int::text")
    connection.prepare("tab", r"SELECT length('a\tb')::text")
    connection.prepare("span", "SELECT extract(epoch FROM interval '-1 2:00:00')::int::text")
    connection.query(r"PREPARE by_sql AS SELECT length('a\tb'), date '03/04/2023' - date '2023-04-03'")
    connection.query("SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'")
    connection.query("SET standard_conforming_strings = on")
    connection.prepare("tab_now", r"SELECT length('a\tb')::text")
    names = ("day", "moment", "tab", "span", "tab_now")
    before = [connection.run(name) for name in names]
    assert before[:3] == [[(b"2023-02-01",)], [(b"1672498800",)], [(b"3",)]] and before[4] == [(b"4",)]

    def check():
        assert [connection.run(name) for name in names] == before
        assert connection.query("EXECUTE by_sql") == [(b"3", b"0")]
        assert connection.status["DateStyle"] == "ISO, MDY"

    return check


@carried
def parameter_types_of_statements(server):
    """types that the client gave, types that were inferred, none; empty and utility statements"""
    connection = raw(server)
    connection.prepare("given", "SELECT pg_typeof($1)::text", [23])
    connection.prepare("inferred", "SELECT n::text FROM numbers WHERE id = $1")
    connection.prepare("", "SELECT 1")
    connection.prepare("empty", "")
    connection.prepare("utility", "SET work_mem = '8MB'")
    connection.prepare("transaction", "BEGIN")

    def check():
        assert connection.run("given", 1) == [(b"integer",)]
        assert connection.run("inferred", 6) == [(b"6",)]
        assert connection.run("empty") == [] and connection.run("utility") == []
        assert connection.query("SHOW work_mem") == [(b"8MB",)]
        assert connection.run("transaction") == []
        connection.query("ROLLBACK")

    return check


@carried
def sql_prepare(server):
    """PREPARE: alone, among other statements, with a quoted name, with parameters; its neighbours do not run again"""
    connection = raw(server)
    connection.query("CREATE TABLE witnesses (n int)")
    connection.query("INSERT INTO witnesses VALUES (1); PREPARE among AS SELECT ';' || count(*) FROM witnesses; SELECT 1")
    connection.query('/* first */ PREPARE "Odd ""Name" (int, text) AS SELECT $1 + 1, $2')
    connection.query("PREPARE inserting AS INSERT INTO witnesses VALUES (2)")

    def check():
        assert connection.query("EXECUTE among") == [(b";1",)]
        assert connection.query("""EXECUTE "Odd ""Name" (4, 'x')""") == [(b"5", b"x")]
        listed = connection.query("SELECT name, from_sql FROM pg_prepared_statements ORDER BY name")
        assert sorted(listed) == sorted([(b'Odd "Name', b"t"), (b"among", b"t"), (b"inserting", b"t")])

    return check


@carried
def unnamed_statement(server):
    """Parse and Sync, a swap, then Bind"""
    connection = raw(server)
    connection.query("SET DateStyle = 'ISO, DMY'")
    connection.query("SET DateStyle = 'ISO, MDY'")
    connection.prepare("", "SELECT $1::int + 1")

    def check():
        for value in (1, 2):
            assert connection.run("", value) == [(str(value + 1).encode(),)]

    return check


@carried
def statement_whose_tables_are_found_no_more(server):
    """it fails as it failed before, and works again once its schema is in the path"""
    connection = server.connect(prepare_threshold=0)
    connection.execute("SET search_path = first")
    backend = one(connection, "SELECT pg_backend_pid()")
    assert one(connection, "SELECT a FROM t") == 1
    wait_for_a_look(server, backend)
    connection.execute("SET search_path = second")

    def check():
        assert one(connection, "SELECT a FROM t") == 2

    return check


@carried
def listen(server):
    """LISTEN: what is sent after the swap arrives, under the connection id that clients know"""
    connection = raw(server, user="plain", password="plain")
    notifier = raw(server)
    connection.query('LISTEN news; LISTEN "Odd ""Channel"')
    counter = iter(range(10))

    def check():
        payload = f"n{next(counter)}".encode()
        notifier.query(f"SELECT pg_notify('news', '{payload.decode()}'), pg_notify('Odd \"Channel', 'x')")
        connection.notifications.clear()
        while len(connection.notifications) < 2:
            connection.read()
        assert sorted(connection.notifications) == sorted(
            [(notifier.pid, b"news", payload), (notifier.pid, b'Odd "Channel', b"x")]
        )
        own = raw(server)
        own.query("LISTEN mine")
        own.query("NOTIFY mine")
        assert own.notifications[0][0] == own.pid
        own.close()

    return check


@carried
def pending_notifications(server):
    """sent just before the swap, to a client that does not read meanwhile"""
    connection = raw(server)
    connection.query("LISTEN early")
    with server.connect() as other:
        other.execute("SELECT pg_notify('early', i::text) FROM generate_series(1, 100) AS i")

    def check():
        connection.query("SELECT 1")
        while len(connection.notifications) < 100:
            connection.read()
        assert [payload for _, _, payload in connection.notifications] == [str(i).encode() for i in range(1, 101)]

    return check


KEYS = [
    ("pg_advisory_lock", "5"),
    ("pg_advisory_lock", "-9223372036854775808"),
    ("pg_advisory_lock", "9223372036854775807"),
    ("pg_advisory_lock", "-1"),
    ("pg_advisory_lock", "-2147483648, 2147483647"),
    ("pg_advisory_lock_shared", "6"),
    ("pg_advisory_lock_shared", "-7, 8"),
]


@carried
def advisory_locks(server):
    """all forms of keys: still held against others, and unlocking works"""
    connection = server.connect(**PLAIN)
    for function, key in KEYS:
        connection.execute(f"SELECT {function}({key})")

    def check():
        with server.connect() as other:
            for function, key in KEYS:
                shared = "_shared" if function.endswith("shared") else ""
                assert one(other, f"SELECT pg_try_advisory_lock({key})") is False, key
                assert one(other, f"SELECT pg_try_advisory_lock_shared({key})") is bool(shared), key
            other.execute("SELECT pg_advisory_unlock_all()")
            function, key = KEYS[0]
            assert one(connection, f"SELECT pg_advisory_unlock({key})") is True
            assert one(other, f"SELECT pg_try_advisory_lock({key})") is True
            other.execute("SELECT pg_advisory_unlock_all()")
        connection.execute(f"SELECT {function}({key})")

    return check


@carried
def sequence_values_of_the_owner(server):
    """lastval and currval, with nothing drawn by the swap"""
    connection = server.connect(**PLAIN)
    connection.execute("CREATE SEQUENCE first_seq CACHE 10; CREATE TABLE owned (id serial, t text)")
    connection.execute("SELECT nextval('first_seq'); SELECT nextval('first_seq')")
    drawn = one(connection, "INSERT INTO owned (t) VALUES ('x') RETURNING id")

    def check():
        values = "SELECT lastval(), currval('owned_id_seq'), currval('first_seq')"
        assert connection.execute(values).fetchone() == (drawn, drawn, 2)
        last = one(connection, "SELECT last_value FROM owned_id_seq")
        # The log says 32 values ahead what is drawn, and a copy knows only the log (sequence.c, SEQ_LOG_VALS).
        assert drawn <= last <= drawn + 32 if server.handover == "standby" else last == drawn

    return check


@carried
def sequence_values_of_others(server):
    """not the owner: the value may be lost, the session and the sequence are not"""
    connection = server.connect(**PLAIN)
    connection.execute("INSERT INTO numbers (n) VALUES (11)")
    assert one(connection, "SELECT lastval()") > 10

    def check():
        last = one(connection, "SELECT last_value FROM numbers_id_seq")
        with contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState):
            assert one(connection, "SELECT lastval()") == last
        connection.execute("INSERT INTO numbers (n) VALUES (12)")
        assert one(connection, "SELECT lastval()") > 10

    return check


@carried
def loaded_library(server):
    """LOAD of a library without state, and its settings"""
    connection = server.connect()
    connection.execute("LOAD 'auto_explain'")
    connection.execute("SET auto_explain.log_min_duration = '99s'")

    def check():
        assert show(connection, "auto_explain.log_min_duration") == "99s"
        loaded = "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_min_duration'"
        assert one(connection, loaded) == 1

    return check


@carried(since=15)
def setting_that_was_granted(server):
    """GRANT SET ON PARAMETER lets the user set it again"""
    with server.connect() as master:
        master.execute("CREATE ROLE granted LOGIN PASSWORD 'granted'")
        master.execute("GRANT SET ON PARAMETER log_min_duration_statement TO granted")
    connection = server.connect(user="granted", password="granted")
    connection.execute("SET log_min_duration_statement = 88888")

    def check():
        assert show(connection, "log_min_duration_statement") == "88888ms"

    return check


@carried
def setting_by_a_definers_function(server):
    """anybody may set it again, whoever set it first"""
    connection = server.connect(**PLAIN)
    connection.execute("SELECT widen()")

    def check():
        assert show(connection, "work_mem") == "11MB"

    return check


@carried
def cancel_key(server):
    """the key from before the swap cancels what runs after it; at rest it does nothing"""
    connection = raw(server)

    def check():
        connection.cancel()
        assert connection.query("SELECT 1") == [(b"1",)]
        connection.message("Q", b"SELECT pg_sleep(60)\0")
        with server.connect() as other:
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
            wait_until(lambda: one(other, sleeping), "the statement runs")
        connection.cancel()
        with pytest.raises(ServerError, match="57014"):
            connection.rows()
        connection.cancel()
        assert connection.query("SELECT 2") == [(b"2",)]

    return check


@carried
def reported_parameters(server):
    """a changed default of the cluster is told to the client; a statement keeps what it was parsed with"""
    connection = raw(server)
    connection.prepare("moment", "SELECT extract(epoch FROM timestamptz '2023-01-01 00:00')::int::text")
    before, zone = connection.run("moment"), connection.status["TimeZone"]
    with server.connect() as master:
        master.execute("ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'")

    def check():
        assert zone != "Asia/Tokyo" == connection.query("SHOW TimeZone")[0][0].decode()
        assert connection.status["TimeZone"] == "Asia/Tokyo"
        assert connection.run("moment") == before

    return check


@carried
def hostile_search_path(server):
    """functions, operators, views and domains that shadow the catalogue's do not mislead the capture"""
    connection = server.connect()
    connection.execute("SET work_mem = '13MB'; SELECT pg_advisory_lock(1301); LISTEN evil")
    connection.execute("PREPARE kept AS SELECT 1")
    connection.execute("""
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''evil''::pg_catalog.text';
        CREATE FUNCTION evil.current_setting(text, bool) RETURNS text LANGUAGE sql AS 'SELECT ''evil''::pg_catalog.text';
        CREATE FUNCTION evil.set_config(text, text, bool) RETURNS text LANGUAGE sql AS 'SELECT ''evil''::pg_catalog.text';
        CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''evil''::pg_catalog.text';
        CREATE FUNCTION evil.never(name, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE FUNCTION evil.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE FUNCTION evil.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE FUNCTION evil.never(int, int) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, PROCEDURE = evil.never);
        CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, PROCEDURE = evil.never);
        CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, PROCEDURE = evil.never);
        CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, PROCEDURE = evil.never);
        CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, PROCEDURE = evil.never);
        CREATE VIEW evil.pg_settings AS SELECT 'x'::text AS name;
        CREATE VIEW evil.pg_locks AS SELECT 'x'::text AS locktype;
        CREATE VIEW evil.pg_prepared_statements AS SELECT 'x'::text AS name;
        CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false);
        CREATE DOMAIN evil.oid AS pg_catalog.oid CHECK (false);
    """)
    connection.execute("SET search_path = evil, pg_catalog, public")

    def check():
        assert one(connection, "SELECT pg_catalog.current_setting('search_path')") == "evil, pg_catalog, public"
        assert one(connection, "SELECT current_setting('x')") == "evil"
        assert one(connection, "SELECT pg_catalog.current_setting('work_mem')") == "13MB"
        assert connection.execute("EXECUTE kept").fetchone() == (1,)
        assert connection.execute("SELECT * FROM pg_catalog.pg_listening_channels()").fetchall() == [("evil",)]
        assert one(connection, "SELECT pg_catalog.pg_advisory_unlock(1301)") is True
        connection.execute("SELECT pg_catalog.pg_advisory_lock(1301)")

    return check


@carried
def defaults_that_wait(server):
    """SERIALIZABLE READ ONLY DEFERRABLE would make the router's own question wait"""
    connection = server.connect()
    connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE")
    writer = server.connect(autocommit=False)
    writer.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    writer.execute("INSERT INTO numbers (n) VALUES (99)")
    time.sleep(1.5)  # The router looks at the session while a safe snapshot cannot be had.
    writer.rollback()

    def check():
        assert show(connection, "default_transaction_isolation") == "serializable"
        assert show(connection, "default_transaction_read_only") == "on"
        assert show(connection, "default_transaction_deferrable") == "on"
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO numbers (n) VALUES (99)")

    return check


@carried
def statement_timeout_of_a_millisecond(server):
    connection = raw(server)
    connection.query("SET myapp.hasty = 'x'")
    connection.query("SET statement_timeout = 1")

    def check():
        def value():
            with contextlib.suppress(ServerError):
                return connection.query("SELECT current_setting('statement_timeout'), current_setting('myapp.hasty')")

        assert wait_until(value, "an answer within a millisecond") == [(b"1ms", b"x")]
        with pytest.raises(ServerError, match="57014"):
            connection.query("SELECT pg_sleep(5)")

    return check


@carried
def password_changed_since(server):
    """logged in once, a session needs no password again"""
    with server.connect() as master:
        master.execute("CREATE ROLE renewed LOGIN PASSWORD 'old'")
        connection = server.connect(user="renewed", password="old")
        master.execute("ALTER ROLE renewed PASSWORD 'new'")

    def check():
        assert one(connection, "SELECT session_user") == "renewed"

    return check


@carried
def temporary_objects_of_others_and_of_the_past(server):
    """ON COMMIT DROP, dropped and discarded ones are gone"""
    connection = server.connect(**PLAIN)
    with connection.transaction():
        connection.execute("CREATE TEMP TABLE brief (a int) ON COMMIT DROP")
    connection.execute("CREATE TEMP TABLE dropped AS SELECT 1; DROP TABLE dropped")
    connection.execute("CREATE TEMP SEQUENCE discarded; DISCARD TEMP")

    def check():
        assert one(connection, "SELECT 1") == 1

    return check


@carried
def state_that_outlives_a_rollback(server):
    """advisory locks and prepared statements do; SET and LISTEN do not"""
    connection = server.connect(autocommit=False, prepare_threshold=None)
    connection.execute("SELECT pg_advisory_lock(1401)")
    connection.execute("PREPARE survivor AS SELECT 5")
    connection.execute("SET work_mem = '14MB'")
    connection.execute("LISTEN nothing")
    connection.rollback()

    def check():
        assert connection.execute("EXECUTE survivor").fetchone() == (5,)
        assert show(connection, "work_mem") != "14MB"
        assert one(connection, "SELECT count(*) FROM pg_listening_channels()") == 0
        assert one(connection, "SELECT pg_advisory_unlock(1401)") is True
        connection.execute("SELECT pg_advisory_lock(1401)")
        connection.commit()

    return check


@carried
def unlogged_table(server):
    """not session state, but lost by a hand-over that is not clean"""
    connection = server.connect()

    def check():
        assert one(connection, "SELECT n FROM unlogged") == 7

    return check


@carried
def statement_prepared_without_sync(server):
    """asyncpg's prepare() ends with a Flush"""
    connection = raw(server)

    def prepare(name, answers):
        connection.parse(name, "SELECT $1::int + 1")
        connection.message("D", f"S{name}\0".encode())
        connection.flush()
        assert "".join(connection.read()[0] for _ in answers) == answers

    prepare("flushed", "1tT")

    def check():
        assert connection.run("flushed", 41) == [(b"42",)]
        prepare("", "1tT")
        assert connection.run("", 1) == [(b"2",)]
        connection.close_statement("flushed")
        prepare("flushed", "31tT")

    return check


@carried
def statement_that_drifts_while_idle(server):
    """somebody else alters its table while the session is idle: an error for the statement, never for the session"""
    connection = raw(server)
    ((backend,),) = connection.query("SELECT pg_backend_pid()")
    connection.prepare("drift", "SELECT * FROM drifts_later WHERE $1::int > 0")
    connection.prepare("steady", "SELECT 1")
    wait_for_a_look(server, int(backend))
    with server.connect() as master:
        master.execute("ALTER TABLE drifts_later ADD COLUMN b int")

    def check():
        for _ in range(2):
            with pytest.raises(ServerError, match="0A000: cached plan must not change result type"):
                connection.run("drift", 1)
        assert connection.run("steady") == [(b"1",)]

    return check


# What blocks ----------------------------------------------------------------------------------------------------------


def temporary(sql, drop):
    def setup(server):
        connection = server.connect()
        connection.execute(sql)
        return connection, lambda: connection.execute(drop)

    return setup


for _name, _sql, _drop in [
    ("temp_table", "CREATE TEMP TABLE b (a int)", "DROP TABLE b"),
    ("temp_table_as", "CREATE TEMPORARY TABLE b AS SELECT 1 AS a", "DISCARD TEMP"),
    ("select_into_temp", "SELECT 1 AS a INTO TEMP b", "DISCARD ALL"),
    ("temp_view", "CREATE TEMP VIEW b AS SELECT 1 AS a", "DROP VIEW b"),
    ("temp_sequence", "CREATE TEMP SEQUENCE b", "DROP SEQUENCE b"),
    ("temp_function", "CREATE FUNCTION pg_temp.b() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION pg_temp.b()"),
    ("temp_type", "CREATE TYPE pg_temp.b AS ENUM ('x')", "DROP TYPE pg_temp.b"),
    ("temp_table_in_a_function", "DO $$BEGIN CREATE TEMP TABLE b (a int); END$$", "DROP TABLE b"),
]:
    _setup = temporary(_sql, _drop)
    _setup.__name__ = _name
    blocked("temporary_table")(_setup)


def changed_role(name, change, again=None, database=None):
    """A session whose role is changed behind it, so that it would not be let in again. `again` puts that right; where
    nothing does, the session must end."""

    def row(server):
        with server.connect() as master:
            master.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
            if database:
                master.execute(f"CREATE DATABASE {database}")
        connection = server.connect(user=name, password="pw", dbname=database or server.database)
        with server.connect() as master:
            master.execute(change)

        def put_right():
            with server.connect() as master:
                master.execute(again)

        return connection, put_right if again else connection.close

    row.__name__ = name
    blocked("account")(row)


changed_role("role_without_login", "ALTER ROLE role_without_login NOLOGIN", "ALTER ROLE role_without_login LOGIN")
# One that is made anew is another role.
changed_role("dropped_role", "DROP ROLE dropped_role")
changed_role(
    "role_without_its_database",
    "REVOKE CONNECT ON DATABASE closing FROM PUBLIC",
    "GRANT CONNECT ON DATABASE closing TO PUBLIC",
    database="closing",
)


@carried
def roles_that_clients_could_not_log_in_to_again(server):
    """the server lets sessions live on that logged in with an older password, or before VALID UNTIL"""
    with server.connect() as master:
        for name in ("expired", "other_password"):
            master.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    connections = [server.connect(user=name, password="pw") for name in ("expired", "other_password")]
    with server.connect() as master:
        master.execute("ALTER ROLE expired VALID UNTIL '2001-01-01'")
        master.execute("ALTER ROLE other_password PASSWORD 'new'")

    def check():
        for connection in connections:
            assert one(connection, "SELECT 5") == 5

    return check


@blocked("held_cursor")
def held_cursor(server):
    connection = server.connect()
    connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT * FROM numbers")
    return connection, lambda: connection.execute("CLOSE held")


@blocked("open_transaction")
def open_transaction(server):
    connection = server.connect(autocommit=False)
    connection.execute("SELECT 1")
    return connection, connection.rollback


@blocked("open_transaction")
def failed_transaction(server):
    connection = server.connect(autocommit=False)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")
    return connection, connection.rollback


@blocked("statement_in_progress")
def running_statement(server):
    connection = raw(server)
    connection.message("Q", b"SELECT pg_sleep(600)\0")

    def end():
        connection.cancel()
        connection.until_ready()

    return connection, end


@blocked("statement_in_progress")
def executed_without_sync(server):
    connection = raw(server)
    connection.parse("", "SELECT 1")
    connection.bind("")
    connection.execute()
    connection.flush()
    assert [connection.read()[0] for _ in range(4)] == ["1", "2", "D", "C"]

    def end():
        connection.sync()
        connection.until_ready()

    return connection, end


@blocked("statement_in_progress")
def copy_from_the_client(server):
    connection = raw(server)
    connection.message("Q", b"COPY numbers (n) FROM STDIN\0")
    connection.read()
    connection.message("d", b"77\n")

    def end():
        connection.message("f", b"enough\0")
        connection.until_ready()

    return connection, end


@blocked("prepared_statement")
def statement_with_another_result_now(server):
    connection = raw(server)
    connection.prepare("drifted", "SELECT * FROM drifting")
    with server.connect() as master:
        master.execute("ALTER TABLE drifting ADD COLUMN b int")
    return connection, lambda: connection.query("DEALLOCATE drifted")


@blocked("prepared_statement")
def statement_whose_table_is_gone(server):
    connection = raw(server)
    connection.prepare("vanished", "SELECT * FROM vanishing")
    connection.query("DROP TABLE vanishing")
    return connection, lambda: connection.query("DEALLOCATE ALL")


@blocked("prepared_statement")
def statement_that_cannot_be_cut_out(server):
    connection = raw(server)
    connection.query("PREPARE twice AS SELECT 1; DEALLOCATE twice; PREPARE twice AS SELECT 2")
    return connection, lambda: connection.query("DEALLOCATE twice")


@blocked("setting")
def setting_that_only_a_superuser_may_set(server):
    connection = server.connect(**PLAIN)
    connection.execute("SELECT trace()")
    return connection, connection.close


@blocked("loaded_library")
def remote_connections(server):
    connection = server.connect()
    connection.execute("CREATE EXTENSION dblink")
    connection.execute("SELECT dblink_get_connections()")
    return connection, connection.close


@blocked("backup")
def online_backup(server):
    connection = server.connect(prepare_threshold=None)
    connection.execute(backup(server, True))
    return connection, lambda: connection.execute(backup(server, False))


@blocked("replication")
def temporary_slot(server):
    connection = server.connect()
    connection.execute("SELECT pg_create_physical_replication_slot('row', false, true)")
    return connection, lambda: connection.execute("SELECT pg_drop_replication_slot('row')")


@blocked("replication")
def replication_origin(server):
    connection = server.connect()
    connection.execute("SELECT pg_replication_origin_create('row'), pg_replication_origin_session_setup('row')")
    return connection, lambda: connection.execute("SELECT pg_replication_origin_session_reset()")


# The tables -----------------------------------------------------------------------------------------------------------


def session_id(connection):
    return connection.pid if isinstance(connection, Raw) else connection.info.backend_pid


def listed(server, session):
    return next((s for s in server.sessions() if s["id"] == session), None)


def wait_for_a_look(server, backend):
    """Until the router has asked a session at rest for its state: then its backend's last statement is the router's."""
    with server.connect() as master:
        last = "SELECT query FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: one(master, last, backend) == "ROLLBACK", "the router has looked")


def attempt(function, *arguments):
    """The result, or the exception as a value: one row's failure is not another's."""
    try:
        return function(*arguments), None
    except (Exception, pytest.fail.Exception):
        return None, traceback.format_exc()


def seek_in_vain(server, rows):
    """One change that must be rolled back for all `rows`; then their obstacles are taken away."""
    found = {}
    setups = [(row, *attempt(row.setup, server)) for row in rows]
    report = server.scale(4, seconds=10, action="rollback", exits=(3,))
    reasons = {obstacle["session"]: obstacle["reason"] for obstacle in report["obstacles"]}
    for row, made, error in setups:
        if error:
            found[row.name] = error
            continue
        connection, unblock = made
        session = session_id(connection)
        before = listed(server, session)["obstacle"]
        _, error = attempt(unblock)

        def unblocked(session=session):
            now = listed(server, session)
            return now is None or now["obstacle"] is None

        if not error:
            _, error = attempt(wait_until, unblocked, f"{row.name} is no obstacle any more")
        found[row.name] = error or (before, reasons.get(session))
        if error:
            connection.close()
    return found, [made[0] for _, made, _ in setups if made]


def moved(server):
    """To another process, and whether that was a copy. Rows may have left something that a copy would lack."""
    if server.handover == "standby":
        wait_until(server.follows, "a standby", 30)
    before = server.volume
    report = server.swap(seconds=20)
    return report, server.volume != before


#: By version: how every row came out. Made by the first test that asks.
RESULTS = {}


def outcome(version):
    if version not in RESULTS:
        RESULTS[version] = run_table(version)
    return RESULTS[version]


def run_table(version):
    table = types.SimpleNamespace(carried={}, blocked={}, reports=[], promoted=[], error=None)
    handover = "standby" if version.endswith(STANDBY) else None
    try:
        with serving(version.removesuffix(STANDBY), handover=handover) as server:
            with server.connect() as master:
                master.execute(PREPARATION)
                if handover:
                    # A copy would lack its rows, so there would be none.
                    master.execute("DROP TABLE unlogged")
            kept = []
            if version in BLOCKING_VERSIONS:
                rows = [row for row in BLOCKED if server.version >= row.since]
                table.blocked, kept = seek_in_vain(server, rows)
            rows = [row for row in CARRIED if server.version >= row.since]
            if handover:
                rows = [row for row in rows if row.setup is not unlogged_table]
            checks = {row.name: attempt(row.setup, server) for row in rows}
            table.carried = {name: error for name, (_, error) in checks.items()}
            for swap in ("first", "second"):
                report, promoted = moved(server)
                table.reports.append(report)
                table.promoted.append(promoted)
                for name, (check, _) in checks.items():
                    if table.carried[name] is None:
                        _, error = attempt(check)
                        if error is not None:
                            table.carried[name] = f"after the {swap} swap: {error}"
            for connection in kept:
                with contextlib.suppress(OSError, psycopg.Error):
                    connection.close()
    except (Exception, pytest.fail.Exception):
        table.error = traceback.format_exc()
    return table


def table_rows(rows, versions):
    return [
        pytest.param(version, row, id=f"{row.name}-{version}")
        for version in versions
        for row in rows
        if int(version.removesuffix(STANDBY)) >= row.since
        if not (version.endswith(STANDBY) and row.setup is unlogged_table)
    ]


@pytest.mark.parametrize(("version", "row"), table_rows(CARRIED, VERSIONS))
def test_is_carried(version, row):
    table = outcome(version)
    if len(table.reports) < 2:
        pytest.fail(table.carried.get(row.name) or "the table was not swapped twice", pytrace=False)
    if table.carried[row.name]:
        pytest.fail(table.carried[row.name], pytrace=False)


@pytest.mark.parametrize(("version", "row"), table_rows(BLOCKED, BLOCKING_VERSIONS))
def test_blocks(version, row):
    table = outcome(version)
    found = table.blocked.get(row.name, "the change was not sought")
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    # In the list of sessions, and in the report of the change that was rolled back.
    assert found == (row.obstacle, row.obstacle)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_table_moved_together(version):
    table = outcome(version)
    if table.error:
        pytest.fail(table.error, pytrace=False)
    for report in table.reports:
        assert report["sessions"]["closed"] == report["sessions"]["aborted"] == 0
        assert report["sessions"]["carried"] >= len(table.carried)
    if version.endswith(STANDBY):
        assert table.promoted == [True, True]
