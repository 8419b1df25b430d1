"""`handover = "standby"` with MariaDB and MySQL: a change promotes a copy that has followed by the binary log, or falls back to a
restart where the copy would lack something. As test_standby.py, for what these do differently.
"""

import contextlib
import threading
import time

import pymysql
import pytest
from conftest import running, wait_until
from crash_cases import (  # noqa: F401
    Ledger,
    share,
    test_a_server_that_hangs_is_replaced,
    test_the_database_killed_at_any_moment_of_a_change,
    test_the_router_killed_at_any_moment,
    test_whoever_is_killed_while_the_next_server_waits,
)
from crash_engines import Mysql
from mysqlserver import MysqlServer, behind_the_router, serving_mysql

PRODUCTS = ["mariadb", "mysql9"]


class Following(Mysql):
    rounds = 2

    def make(self, **options):
        self.server = MysqlServer(self.product, handover="standby", **options)
        return self.server

    def only_follows(self):
        copy = self.server.copy
        if copy is None or not self.main_processes_on(copy):
            return True
        with contextlib.suppress(pymysql.Error), behind_the_router(self.server, copy) as connection:
            return self.one(connection, "SELECT @@global.read_only") == 1
        return False


# A start of MySQL takes two seconds of a processor, and each change here is two of them: what is cut off and where is
# the router's affair, and the same for both.
@pytest.fixture(scope="module")
def shared():
    with share(Following("mariadb")) as engine:
        yield engine


@pytest.fixture(params=PRODUCTS)
def server(request):
    with running(MysqlServer(request.param, handover="standby")) as server:
        yield server


def run(connection, sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else None


def value(connection, sql, *values):
    return run(connection, sql, *values)[0][0]


def where(connection):
    return value(connection, "SELECT @@datadir").rstrip("/")


def promoted(server, connection, capacity):
    """Changes the capacity; the other volume must be the database then, and nobody has lost anything."""
    before = where(connection)
    # On a machine with six such tests a server takes ten seconds to start.
    wait_until(server.follows, "a standby", 90)
    report = server.scale(capacity)
    assert report["outcome"] == "scaled" and report["sessions"]["closed"] == report["sessions"]["aborted"] == 0
    assert where(connection) != before and where(connection) == str(server.volume), server.log()
    return report


def test_a_change_promotes_the_copy_and_the_session_stays(server):
    with server.connect() as connection:
        run(connection, "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, what text)")
        run(connection, "SET SESSION sort_buffer_size = 524288, @own = 'kept'")
        run(connection, "PREPARE own FROM 'INSERT INTO t (what) VALUES (?)'")
        number = value(connection, "SELECT CONNECTION_ID()")
        for count, capacity in enumerate((4, 8, 2, 4), 1):
            run(connection, "EXECUTE own USING @own")
            promoted(server, connection, capacity)
            assert run(connection, "SELECT @@sort_buffer_size, @own, LAST_INSERT_ID(), CONNECTION_ID()") == (
                (524288, "kept", count, number),
            )
            assert value(connection, "SELECT COUNT(*) FROM t") == count
        # What is made of a copy is a server like any other.
        expected = {"read_only": 0, "sync_binlog": 0, "innodb_flush_log_at_trx_commit": 2}
        expected["event_scheduler"] = "ON" if server.product == "mysql9" else "OFF"
        for name, wanted in expected.items():
            assert value(connection, f"SELECT @@global.{name}") == wanted, name
        assert "a setting of the server is lost" not in server.log()


def test_changes_without_a_pause_are_promotions_too(server):
    """The old server is made to follow by the next change itself, and nobody interferes."""
    with server.connect() as connection:
        for capacity in (4, 8, 2, 4, 8, 2):
            before = where(connection)
            assert server.scale(capacity)["outcome"] == "scaled"
            assert where(connection) != before, server.log()
            time.sleep(0.1 * (capacity - 2))


def test_what_a_copy_would_lack_makes_it_a_restart(server):
    """An event would be disabled on it, and what was written without a log is not on it at all."""
    with server.connect() as connection:
        run(connection, "CREATE TABLE t (id int PRIMARY KEY)")
        run(connection, "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t")
        before = where(connection)
        assert server.scale(4)["outcome"] == "scaled"
        assert where(connection) == before and "scheduled events" in server.log()
        run(connection, "DROP EVENT e")
        promoted(server, connection, 2)
        run(connection, "XA START 'x'")
        run(connection, "INSERT INTO t VALUES (1)")
        run(connection, "XA END 'x'")
        run(connection, "XA PREPARE 'x'")
        if server.product == "mysql9":
            before = where(connection)
            assert server.scale(4)["outcome"] == "scaled"
            assert where(connection) == before and "prepared transactions" in server.log()
        run(connection, "XA COMMIT 'x'")
        promoted(server, connection, 8)
        assert value(connection, "SELECT COUNT(*) FROM t") == 1


def test_what_was_written_without_a_log_is_not_lost(server):
    with server.connect() as connection, server.connect() as other:
        run(connection, "CREATE TABLE t (id int PRIMARY KEY)")
        run(connection, "SET SESSION sql_log_bin = 0")
        run(connection, "INSERT INTO t VALUES (1)")
        before = where(other)
        run(connection, "SET SESSION sql_log_bin = 1")
        assert server.scale(4)["outcome"] == "scaled"
        assert where(other) == before and value(other, "SELECT COUNT(*) FROM t") == 1, server.log()


def test_settings_of_the_server_go_with_it(server):
    with server.connect() as connection:
        run(connection, "SET GLOBAL max_allowed_packet = 33554432")
        if server.product == "mysql9":
            run(connection, "SET PERSIST max_connect_errors = 77")
        promoted(server, connection, 4)
        assert value(connection, "SELECT @@global.max_allowed_packet") == 33554432
        promoted(server, connection, 2)
        assert value(connection, "SELECT @@global.max_allowed_packet") == 33554432
        if server.product == "mysql9":
            assert value(connection, "SELECT @@global.max_connect_errors") == 77


def test_accounts_go_with_it(server):
    with server.connect() as master:
        run(master, "CREATE USER someone IDENTIFIED BY 'secret'")
        promoted(server, master, 4)
        with server.connect(user="someone", password="secret", database=None) as session:
            assert value(session, "SELECT 1") == 1
        run(master, "SET PASSWORD FOR someone = " + server.password_function("other"))
        promoted(server, master, 2)
        with pytest.raises(pymysql.err.OperationalError, match="1045"):
            server.connect(user="someone", password="secret", database=None)
        server.connect(user="someone", password="other", database=None).close()


def test_a_copy_that_does_not_get_on_harms_nobody(server):
    """Whenever there is a copy, a table is locked on it, so what is committed does not arrive. Then a change is made otherwise, and
    what was acknowledged is there."""
    with server.connect() as connection:
        run(connection, "CREATE TABLE slow (id int)")
        wait_until(server.follows, "a standby")
        ended = threading.Event()

        def lock():
            # There is none for most of the time, and to look for it must not take the machine.
            while not ended.wait(0.1):
                with contextlib.suppress(pymysql.Error, OSError):
                    with behind_the_router(server, server.copy) as locker:
                        locker.select_db(server.database)
                        run(locker, "LOCK TABLES slow READ")
                        # It may be no copy any more, and a client wait for this.
                        ended.wait(0.3)

        thread = threading.Thread(target=lock)
        thread.start()
        try:
            for count, capacity in enumerate((4, 2, 4), 1):
                run(connection, "INSERT INTO slow VALUES (1)")
                report = server.scale(capacity, seconds=30, action="rollback", exits=(0, 3))
                assert report["sessions"]["closed"] == report["sessions"]["aborted"] == 0
                assert value(connection, "SELECT COUNT(*) FROM slow") == count
        finally:
            ended.set()
            thread.join()


def test_nothing_is_written_on_the_old_server_after_the_position_was_read(server):
    """Somebody past the gate writes all the time. What was answered is there; what came later was never answered."""
    with server.connect() as connection:
        run(connection, "CREATE TABLE t (id int)")
        answered = 0
        for capacity in (4, 2, 8):
            writer = Writer(server, answered)
            wait_until(lambda: writer.answered > answered + 50, "writes")
            promoted(server, connection, capacity)
            writer.thread.join(10)
            assert not writer.thread.is_alive() and isinstance(writer.failure, pymysql.Error)
            answered = writer.answered
            there = {row[0] for row in run(connection, "SELECT id FROM t")}
            assert set(range(answered)) <= there, "what was acknowledged is lost"
            assert there <= set(range(answered + 1)), "a row that nobody wrote"
            run(connection, "DELETE FROM t WHERE id >= %s", answered)


class Writer:
    def __init__(self, server, first):
        self.answered = first
        self.failure = None
        self.thread = threading.Thread(target=self.write, args=(server, server.volume))
        self.thread.start()

    def write(self, server, volume):
        try:
            with behind_the_router(server, volume) as connection:
                connection.select_db(server.database)
                while True:
                    run(connection, "INSERT INTO t VALUES (%s)", self.answered)
                    self.answered += 1
        except pymysql.Error as error:
            self.failure = error


def test_a_copy_that_went_its_own_way_is_made_anew(server):
    with server.connect() as connection:
        run(connection, "CREATE TABLE t (id int)")
        promoted(server, connection, 4)
        wait_until(server.follows, "a standby again")
        with behind_the_router(server, server.copy) as astray:
            astray.select_db(server.database)
            run(astray, "SET GLOBAL read_only = 0")
            run(astray, "INSERT INTO t VALUES (666)")
            run(astray, "SET GLOBAL read_only = 1")
        run(connection, "INSERT INTO t VALUES (1)")
        assert server.scale(8, seconds=60)["outcome"] == "scaled"
        assert run(connection, "SELECT id FROM t") == ((1,),)
        promoted(server, connection, 2)
        assert run(connection, "SELECT id FROM t") == ((1,),)


def test_the_database_is_where_the_marker_says(server):
    """After a promotion the router is killed, and started anew; then without a standby, and then with one again."""
    with server.connect() as connection:
        run(connection, "CREATE TABLE t AS SELECT 1 AS id")
        promoted(server, connection, 4)
        run(connection, "INSERT INTO t VALUES (2)")
        second = server.volume
    server.kill()
    server.start()

    def configure(handover):
        server.stop()
        text = server.config.read_text()
        server.config.write_text(text.replace(f'"{server.handover}"', f'"{handover}"'))
        server.handover = handover
        server.start()

    configure("restart")
    with server.connect() as connection:
        assert where(connection) == str(second) and value(connection, "SELECT SUM(id) FROM t") == 3
        assert value(connection, "SELECT @@log_bin") == 0
        assert server.scale(8)["outcome"] == "scaled"
        # No log has this.
        run(connection, "INSERT INTO t VALUES (3)")
    configure("standby")
    with server.connect() as connection:
        promoted(server, connection, 2)
        assert value(connection, "SELECT SUM(id) FROM t") == 6


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_log_is_the_routers_own(product):
    with pytest.raises(AssertionError, match="server_id.{0,3} is governed by Scalepoint"):
        with serving_mysql(product, handover="standby", parameters={"server_id": "7"}):
            pass
