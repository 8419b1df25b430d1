"""The tests of crashes (crash_cases.py) with PostgreSQL, and what only PostgreSQL has."""

import concurrent.futures
import contextlib
import os
import pathlib
import signal

import psycopg
import pytest
from conftest import Server, running, wait_until
from crash_cases import *
from crash_cases import sessions_outlive, settle, share, until_another
from crash_engines import Postgres
from mysqlserver import MysqlServer
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


@pytest.fixture
def incapable(tmp_path, monkeypatch):
    """A router without CAP_SYS_ADMIN, as in most containers: the kernel lets it hold nobody up, nor look into them. To be called for its end."""
    capable = os.environ["SCALEPOINT_BIN"]
    program = tmp_path / "scalepoint"
    drop = "setpriv --bounding-set -sys_admin,-sys_ptrace --inh-caps -sys_admin,-sys_ptrace"
    program.write_text(f'#!/bin/sh\nexec {drop} "{capable}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("SCALEPOINT_BIN", str(program))
    return lambda: monkeypatch.setenv("SCALEPOINT_BIN", capable)


def held_up_by_settings(server):
    """Servers that read their settings from a FIFO."""
    found = []
    for pid in server.database_processes():
        with contextlib.suppress(OSError):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            files = [word.removeprefix(b"config_file=") for word in words if word.startswith(b"config_file=")]
            if files and pathlib.Path(os.fsdecode(files[0])).is_fifo():
                found.append(pid)
    return found


@pytest.mark.parametrize("version", ["10", "15", "18"])
def test_a_server_is_held_up_by_its_settings_where_the_kernel_does_not_do_it(incapable, version):
    with running(Server(version)) as server:
        assert "is held up by its settings, not by the kernel" in server.log()
        session, busy = server.connect(), server.connect()
        session.execute("SET work_mem = '5MB'")
        for _ in range(2):
            server.swap()
            assert session.execute("SHOW work_mem").fetchone() == ("5MB",)
            settings = pathlib.Path(session.execute("SHOW config_file").fetchone()[0])
            assert settings.parent == server.data_dir / server.name / "run"
            assert settings.resolve() == server.volume / "postgresql.conf"
        busy.execute("BEGIN")
        server.scale(2 if server.status()["capacity"] != 2 else 4, seconds=60, wait=False)
        wait_until(lambda: held_up_by_settings(server), "a server that waits")
        assert len(held_up_by_settings(server)) == 1
        server.kill()
        wait_until(lambda: not held_up_by_settings(server), "its end")
        session.close()
        busy.close()
        # A router takes over from one that was killed only where it may look into what that has left.
        incapable()
        server.start()
        with server.connect() as session:
            assert session.execute("SHOW work_mem").fetchone() == ("4MB",)
        assert list((server.data_dir / server.name / "run").glob("settings.*")) == []


def test_a_server_that_cannot_be_held_up_is_started_in_its_turn(incapable):
    with running(MysqlServer("mariadb")) as server:
        assert "the next server is not started ahead" in server.log()
        with server.connect() as session:
            session.cursor().execute("SET @kept = 5")
            server.swap()
            cursor = session.cursor()
            cursor.execute("SELECT @kept")
            assert cursor.fetchall() == ((5,),)
