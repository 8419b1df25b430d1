"""`handover = "standby"`: a change promotes a copy that has followed, or falls back to a restart where the copy would lose something.

The tests of PostgreSQL's other files run with it, too, if SCALEPOINT_TEST_HANDOVER says `standby`. Here is what only it has,
and of the others what is likeliest to fail.
"""

import contextlib
import os
import signal
import threading
import time

import psycopg
import pytest
from conftest import MASTER, Server, running, wait_until
from crash_cases import (  # noqa: F401
    Ledger,
    share,
    test_a_server_that_hangs_is_replaced,
    test_the_database_killed_at_any_moment_of_a_change,
    test_the_router_killed_at_any_moment,
    test_whoever_is_killed_while_the_next_server_waits,
)
from crash_engines import Postgres


class Following(Postgres):
    rounds = 4

    def make(self, **options):
        self.server = Server(self.product, handover="standby", **options)
        return self.server


@pytest.fixture(scope="module")
def shared():
    with share(Following("15")) as engine:
        yield engine


@pytest.fixture(params=["14", "15", "18"])
def of_version(request):
    with running(Server(request.param, handover="standby")) as server:
        yield server


@pytest.fixture
def server(serve):
    return serve("15", handover="standby")


def value(connection, query, *parameters):
    return connection.execute(query, parameters or None).fetchone()[0]


def where(connection):
    return value(connection, "SHOW data_directory")


@contextlib.contextmanager
def behind_the_router(server, volume):
    """A connection past the router, as only root has it."""
    socket = volume.parent / "run"
    with psycopg.connect(host=str(socket), port=5432, user=MASTER, dbname=server.database, autocommit=True) as connection:
        yield connection


def promoted(server, connection, capacity):
    """Changes the capacity; the other volume must be the database then, and nobody has lost anything."""
    before = where(connection)
    wait_until(server.follows, "a standby")
    report = server.scale(capacity)
    assert report["outcome"] == "scaled" and report["sessions"]["closed"] == report["sessions"]["aborted"] == 0
    assert where(connection) != before and where(connection) == str(server.volume)
    return report


def test_a_change_promotes_the_copy_and_the_session_stays(of_version):
    server = of_version
    with server.connect() as connection, server.connect() as listener:
        connection.execute("CREATE TABLE t (id serial, what text)")
        connection.execute("SET work_mem = '7MB'; SET my.own = 'kept'; SELECT pg_advisory_lock(42)")
        connection.execute("PREPARE own AS INSERT INTO t (what) VALUES ($1) RETURNING id")
        listener.execute("LISTEN news")
        pid, last = connection.info.backend_pid, 0
        for capacity in (4, 8, 2, 4):
            number = value(connection, "EXECUTE own ('row')")
            # A promotion skips what a crash would.
            assert last < number <= last + 34
            last = number
            promoted(server, connection, capacity)
            assert value(connection, "SHOW work_mem") == "7MB" and value(connection, "SHOW my.own") == "kept"
            assert value(connection, "SELECT currval('t_id_seq')") == last
            assert value(listener, "SELECT pg_try_advisory_lock(42)") is False
            assert connection.info.backend_pid == pid
            assert connection.info.parameter_status("in_hot_standby") in ("off", None)
            connection.execute("NOTIFY news, 'after'")
            assert [note.payload for note in listener.notifies(timeout=5, stop_after=1)] == ["after"]
        # A session may have been looked at too late for one change, or have done something since; not for all of them.
        assert server.metrics()['scalepoint_sessions_made_ahead_total{cluster="test"}'] > 0
        assert value(connection, "SELECT count(*) FROM t") == 4


def test_changes_without_a_pause_are_promotions_too(server):
    """The old server is made to follow by the next change itself, and nobody interferes."""
    with server.connect() as connection:
        for capacity in (4, 8, 2, 4, 8, 2):
            before = where(connection)
            assert server.scale(capacity)["outcome"] == "scaled"
            assert where(connection) != before
            # The next one also comes while what is done behind a change is under way.
            time.sleep(0.1 * (capacity - 2))


def test_what_a_standby_would_lose_makes_it_a_restart(server):
    with server.connect() as connection:
        connection.execute("CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 10) AS n")
        before = where(connection)
        assert server.scale(4)["outcome"] == "scaled"
        assert where(connection) == before and value(connection, "SELECT count(*) FROM fleeting") == 10
        assert "unlogged tables" in server.log()
        connection.execute("DROP TABLE fleeting")
        # The files go with the next checkpoint, which a change begins with.
        server.scale(2)
        promoted(server, connection, 8)


def test_settings_of_the_server_go_with_it(server):
    with server.connect() as connection:
        connection.execute("ALTER SYSTEM SET vacuum_cost_page_miss = 7")
        promoted(server, connection, 4)
        assert value(connection, "SHOW vacuum_cost_page_miss") == "7"
        connection.execute("ALTER SYSTEM RESET vacuum_cost_page_miss")
        promoted(server, connection, 2)
        assert value(connection, "SHOW vacuum_cost_page_miss") == "2"


def test_a_copy_that_lags_gives_the_change_up(serve):
    """Commits reach it two seconds late, and there is always another one."""
    server = serve("15", handover="standby", parameters={"recovery_min_apply_delay": "2s"})
    engine = Following("15")
    engine.server = server
    ledger = Ledger(engine)
    with server.connect() as idle:
        before = where(idle)
        ledger.start()
        ledger.goes_on()
        report = server.scale(4, seconds=10, action="rollback", exits=(3,))
        assert report["outcome"] == "rolled_back" and "the copy lags behind" in server.log()
        assert report["sessions"] == {"carried": 0, "aborted": 0, "closed": 0}
        ledger.goes_on()
        ledger.stop()
        assert not ledger.failures and where(idle) == before and server.status()["capacity"] == 2
        ledger.check()
        # Where it must be, it is done otherwise.
        ledger.start()
        ledger.goes_on()
        report = server.scale(4, seconds=10, action="force")
        assert report["outcome"] == "forced" and where(idle) == before
        ledger.stop()


def test_nothing_is_written_on_the_old_server_after_the_position_was_read(serve):
    """Somebody past the gate writes all the time. What was answered is there; what came later was never answered."""
    server = serve("15", handover="standby")
    with server.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
        answered = 0
        for capacity in (4, 2, 8, 2, 4):
            writer = Writer(server, answered)
            wait_until(lambda: writer.answered > answered + 50, "writes")
            promoted(server, connection, capacity)
            writer.thread.join(10)
            assert not writer.thread.is_alive() and isinstance(writer.failure, psycopg.OperationalError)
            answered = writer.answered
            there = {row[0] for row in connection.execute("SELECT id FROM t")}
            assert set(range(answered)) <= there, "what was acknowledged is lost"
            assert there <= set(range(answered + 1)), "a row that nobody wrote"
            connection.execute("DELETE FROM t WHERE id >= %s", [answered])


class Writer:
    def __init__(self, server, first):
        self.answered = first
        self.failure = None
        self.thread = threading.Thread(target=self.write, args=(server, server.volume))
        self.thread.start()

    def write(self, server, volume):
        try:
            with behind_the_router(server, volume) as connection:
                while True:
                    connection.execute("INSERT INTO t VALUES (%s)", [self.answered])
                    self.answered += 1
        except psycopg.Error as error:
            self.failure = error


def test_a_copy_that_went_its_own_way_is_made_anew(serve):
    server = serve("15", handover="standby")
    with server.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
        promoted(server, connection, 4)
        wait_until(server.follows, "a standby again")
        copy = server.copy
        # Somebody promotes it.
        with behind_the_router(server, copy) as astray:
            astray.execute("SELECT pg_promote()")
            astray.execute("INSERT INTO t VALUES (666)")
        connection.execute("INSERT INTO t VALUES (1)")
        assert server.scale(8, seconds=60)["outcome"] == "scaled"
        assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]
        promoted(server, connection, 2)
        assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]


def test_the_database_is_where_the_marker_says(serve):
    """After a promotion the router is killed, and started anew, also without a standby."""
    server = serve("15", handover="standby")
    with server.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
        promoted(server, connection, 4)
        connection.execute("INSERT INTO t VALUES (2)")
        second = server.volume
    server.kill()
    server.start()
    server.stop()
    server.config.write_text(server.config.read_text().replace('handover = "standby"', 'handover = "restart"'))
    server.handover = "restart"
    server.start()
    with server.connect() as connection:
        assert where(connection) == str(second) and value(connection, "SELECT sum(id) FROM t") == 3
        assert server.scale(8)["outcome"] == "scaled"
        assert value(connection, "SELECT sum(id) FROM t") == 3
    server.stop()
    marker = server.data_dir / server.name / "primary"
    marker.write_text("third\n")
    server.process = None
    with pytest.raises(AssertionError, match="neither `first` nor `second`"):
        server.start()
    marker.write_text("second\n")
    server.start()
