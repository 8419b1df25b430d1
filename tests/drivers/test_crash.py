"""The tests of crashes (crash_cases.py) with PostgreSQL, and what only PostgreSQL has."""

import concurrent.futures
import os
import signal

import psycopg
import pytest
from crash_cases import *
from crash_cases import sessions_outlive, settle, share, until_another
from crash_engines import Postgres
from rawpg import Raw


@pytest.fixture
def engine():
    return Postgres("15")


@pytest.fixture(scope="module")
def shared():
    with share(Postgres("15")) as engine:
        yield engine


@pytest.fixture(scope="module", params=["10", "15", "18"])
def of_version(request):
    with share(Postgres(request.param)) as engine:
        yield engine


def process_of(connection):
    return connection.execute("SELECT pg_backend_pid()").fetchone()[0]


def test_sessions_outlive_the_end_of_one_process(of_version):
    """The server ends all its sessions and starts anew; its main process stays."""

    def arm(session):
        process = process_of(session)
        return lambda: os.kill(process, signal.SIGKILL)

    sessions_outlive(of_version, arm)


def raw(server):
    login = {"user": "master", "password": server.password, "dbname": server.database}
    return Raw(host="127.0.0.1", port=server.port, **login)


def test_settings_that_are_only_read_are_no_loss(shared):
    session = shared.server.connect(autocommit=False)
    session.execute("SELECT set_config('my.own', 'kept', false)")
    session.commit()
    settle(shared.server)
    for name in ("my.own", "work_mem"):
        session.execute("SELECT current_setting(%s)", [name])
    session.execute("SELECT current_setting('my.own')")
    session.execute("INSERT INTO t VALUES (1, 'lost')")
    before = shared.server.status()["backend_pid"]
    shared.kill_database()
    until_another(shared.server, before)
    with shared.told("aborted"):
        session.execute("SELECT 1")
    session.rollback()
    assert shared.one(session, "SELECT current_setting('my.own')") == "kept"
    session.close()


def test_a_statement_whose_result_has_changed_says_so_after_a_crash(of_version):
    with of_version.server.connect() as other:
        other.execute("CREATE TABLE IF NOT EXISTS changing (a int)")
        session = of_version.server.connect()
        session.execute("PREPARE drifts (int) AS SELECT * FROM changing WHERE a > $1")
        settle(of_version.server)
        other.execute("ALTER TABLE changing ADD COLUMN b int")
    for _ in range(2):
        before = of_version.server.status()["backend_pid"]
        of_version.kill_database()
        until_another(of_version.server, before)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not") as caught:
            session.execute("EXECUTE drifts (1)")
        # By this some drivers know that they must prepare it again.
        assert caught.value.diag.source_function == "RevalidateCachedQuery"
        settle(of_version.server)
        # As it would without a crash.
        assert [row["obstacle"] for row in of_version.server.sessions()] == [None]
    session.execute("DEALLOCATE drifts")
    session.execute("PREPARE drifts AS SELECT * FROM changing")
    session.execute("EXECUTE drifts")
    session.close()


@pytest.mark.parametrize("ending", ["sync", "flush"])
def test_the_unnamed_statement_after_a_crash_is_the_latest(shared, ending):
    server = shared.server
    session = raw(server)
    session.prepare("", "SELECT 1")
    settle(server)
    session.parse("", "SELECT 2")
    getattr(session, ending)()
    assert session.read()[0] == "1"
    if ending == "sync":
        assert session.read() == ("Z", b"I")
    before = server.status()["backend_pid"]
    shared.kill_database()
    until_another(server, before)
    assert session.run("") == [(b"2",)]
    session.close()


def test_a_session_that_hangs_in_a_hold_costs_the_change(shared):
    """It would have to be asked for its state, and does not answer."""
    server = shared.server
    rich = shared.rich(101)
    other = server.connect()
    process = process_of(rich.connection)
    os.kill(process, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            change = pool.submit(server.scale, shared.other_capacity(), seconds=10, action="rollback", exits=(3,))
            while not change.done():
                # Nobody waits longer than one hold for somebody else.
                assert other.execute("SELECT 1").fetchone() == (1,)
            assert change.result()["outcome"] == "rolled_back"
    finally:
        os.kill(process, signal.SIGCONT)
    other.close()
    rich.check()
    shared.one_writer()
    shared.clean_log()
