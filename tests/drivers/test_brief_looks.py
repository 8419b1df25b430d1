"""A session that has only run statements which look harmless is asked a brief question first: whether it is as it was.

Here what such statements call (a trigger) changes the session behind its back, between two looks at the same backend. A
session in a transaction keeps the first change from being made, so that everybody is looked at and stays.
"""

import re
import time
from pathlib import Path

import pytest
from conftest import Server, running, wait_until

TRIPWIRES = {
    "setting": "PERFORM set_config('work_mem', '5432kB', false);",
    "set_back": "RESET work_mem;",
    "custom": "PERFORM set_config('hidden.value', 'kept', false);",
    "lock": "PERFORM pg_advisory_lock(4711);",
    "statement": "EXECUTE 'PREPARE hidden AS SELECT 42';",
    "again": "EXECUTE 'DEALLOCATE named'; EXECUTE 'PREPARE named AS SELECT 2';",
    "sequence": "PERFORM nextval('drawn');",
    "channel": "EXECUTE 'LISTEN hidden';",
    "role": "PERFORM set_config('role', 'team', false);",
    "nothing": "",
}


def one(connection, sql):
    return connection.execute(sql).fetchone()[0]


CHECKS = {
    "setting": lambda c: one(c, "SHOW work_mem") == "5432kB",
    "set_back": lambda c: one(c, "SELECT setting = reset_val FROM pg_settings WHERE name = 'work_mem'"),
    "custom": lambda c: one(c, "SHOW hidden.value") == "kept",
    "lock": lambda c: one(c, "SELECT pg_advisory_unlock(4711)"),
    "statement": lambda c: one(c, "EXECUTE hidden") == 42,
    "again": lambda c: one(c, "EXECUTE named") == 2,
    "sequence": lambda c: one(c, "SELECT lastval()") == 1,
    "channel": lambda c: one(c, "SELECT pg_listening_channels()") == "hidden",
    "role": lambda c: one(c, "SELECT current_user") == "team",
    "nothing": lambda c: one(c, "SHOW work_mem") == "6MB",
}


@pytest.fixture(scope="module", params=["10", "15", "18"])
def server(request):
    with running(Server(request.param)) as started:
        yield started


@pytest.fixture(scope="module")
def table(server):
    with server.connect() as admin:
        admin.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'; CREATE ROLE team; GRANT team TO plain")
        admin.execute("GRANT ALL ON SCHEMA public TO plain")
        with server.connect(user="plain", password="plain") as owner:
            # What it has drawn can be given back to a session only if that owns the sequence.
            owner.execute("CREATE SEQUENCE drawn")
        for name, body in TRIPWIRES.items():
            admin.execute(f"CREATE TABLE {name}_wire (a int)")
            admin.execute(f"GRANT ALL ON {name}_wire TO plain, team")
            admin.execute(
                f"CREATE FUNCTION {name}_trips() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {body} RETURN NEW; END $$"
            )
            admin.execute(
                f"CREATE TRIGGER trip BEFORE INSERT ON {name}_wire FOR EACH ROW EXECUTE PROCEDURE {name}_trips()"
            )
    sessions = {name: server.connect(user="plain", password="plain") for name in TRIPWIRES}
    for connection in sessions.values():
        connection.execute("SET work_mem = '6MB'")
        connection.execute("PREPARE named AS SELECT 1")
    with server.connect() as busy:
        busy.execute("BEGIN")
        server.scale(4, seconds=10, action="rollback", wait=False)
        # While it is sought everybody is looked at every second: for what is known to have changed, for what the next
        # look can be compared with, and for what is the same.
        for _ in range(2):
            time.sleep(2)
            for connection in sessions.values():
                assert one(connection, "SELECT 1") == 1
        time.sleep(2)
        for name, connection in sessions.items():
            connection.execute(f"INSERT INTO {name}_wire VALUES (1)")
        wait_until(lambda: server.status()["state"] == "available", "the end of the search")
        busy.execute("COMMIT")
    server.swap()
    yield sessions
    for connection in sessions.values():
        connection.close()


@pytest.mark.parametrize("name", TRIPWIRES)
def test_what_happened_behind_the_back_is_carried(table, name):
    assert CHECKS[name](table[name])


def test_every_setting_that_a_session_may_change_is_asked_for(server):
    """The names are written down in the program: a version that brings others must not go unnoticed."""
    source = (Path(__file__).parents[2] / "src/engine/postgres/digest.rs").read_text()
    known = set(re.findall(r"\w+", "".join(re.findall(r'const (?:SETTINGS|HIDDEN): &str =\s*"(.*?)";', source, re.DOTALL))))
    with server.connect() as connection:
        rows = connection.execute("SELECT name FROM pg_settings WHERE context IN ('user', 'superuser')").fetchall()
    names = {name for (name,) in rows if "." not in name}
    assert names - known == {"transaction_isolation", "transaction_read_only", "transaction_deferrable"}
