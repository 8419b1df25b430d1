"""What the tests of crashes must know of an engine; everything else in them is the same for all (crash_cases.py).

An object is one product, and the server of it that a test has made.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket

import psycopg
import pymysql
from conftest import Server, server_folder, wait_until
from mysqlserver import MysqlServer
from mysqlserver import server_folder as mysql_folder
from psycopg.pq import TransactionStatus


class Engine:
    #: How often something is killed at some moment of a change.
    rounds = 12
    #: Of the main process's program, and how one of its arguments begins.
    programs = ()
    main_argument = b""
    #: What psycopg or PyMySQL raise.
    errors = ()
    #: What tells a disk of this size that is full from one that is not, and the parameters that let it be so small.
    small_disk = "200m"
    small_parameters = {}
    #: How a change gets rid of a server that hangs, and what that is called then.
    replaces_hanging = {}
    replaced = "scaled"

    def __init__(self, product):
        self.product = product
        self.server = None

    def make(self, **options):
        """A server that is not started yet."""
        raise NotImplementedError

    def run(self, connection, sql, *values):
        """The rows, if there are any."""
        raise NotImplementedError

    def one(self, connection, sql, *values):
        return self.run(connection, sql, *values)[0][0]

    @contextlib.contextmanager
    def told(self, kind):
        """What is done in it fails, in the words for this kind of failure."""
        try:
            yield
        except self.errors as error:
            assert self.is_told(error, kind), f"instead of {kind}: {error!r}"
            return
        raise AssertionError(f"it was not told: {kind}")

    def main_processes(self):
        """Main processes on the volume: those that were started on it, and not by another of them."""
        return self.main_processes_on(self.server.volume)

    def main_processes_on(self, volume):
        volume = volume.stat()
        found = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                home = os.stat(f"{entry.path}/cwd")
                if (home.st_dev, home.st_ino) != (volume.st_dev, volume.st_ino):
                    continue
                if os.path.basename(os.readlink(f"{entry.path}/exe")).split()[0] not in self.programs:
                    continue
                stat = pathlib.Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
                if stat[0] == "Z":
                    continue
                line = pathlib.Path(entry.path, "cmdline").read_bytes().split(b"\0")
                found[int(entry.name)] = (int(stat[1]), line)

        def is_main(parent, line):
            return parent not in found and any(part.startswith(self.main_argument) for part in line)

        return [pid for pid, (parent, line) in found.items() if is_main(parent, line)]

    def one_writer(self):
        assert len(self.main_processes()) == 1
        assert self.main_processes() == [self.server.status()["backend_pid"]]
        # After a promotion the old server is stopped, and soon killed.
        wait_until(self.only_follows, "that what runs on the other volume follows")

    def only_follows(self):
        copy = self.server.copy
        return copy is None or not self.main_processes_on(copy) or (copy / "standby.signal").exists()

    def clean_log(self):
        log = self.server.log_path.read_text(errors="replace")
        assert not re.findall(r"^.*(?:panicked|RUST_BACKTRACE| ERROR ).*$", log, re.MULTILINE)

    def vanish(self, connection):
        """The client's connection ends without a goodbye."""
        with socket.socket(fileno=os.dup(self.descriptor(connection))) as copy:
            copy.shutdown(socket.SHUT_RDWR)

    def kill_database(self):
        os.kill(self.server.status()["backend_pid"], signal.SIGKILL)

    def other_capacity(self):
        return 4 if self.server.status()["capacity"] == 2 else 2


class Postgres(Engine):
    programs = ("postgres",)
    main_argument = b"-D"
    errors = psycopg.Error
    small_parameters = {"max_wal_size": "64MB", "min_wal_size": "32MB"}
    program = "postgres"
    long_read = "SELECT count(*) FROM generate_series(1, 1000000000)"
    sleep = "SELECT pg_sleep(60)"
    KINDS = {
        # "Certainly not committed."
        "aborted": (psycopg.errors.SerializationFailure, ""),
        "failed": (psycopg.errors.InFailedSqlTransaction, ""),
        "commit unknown": (psycopg.errors.TransactionResolutionUnknown, ""),
        "statement unknown": (psycopg.errors.StatementCompletionUnknown, ""),
        "temporary table lost": (psycopg.OperationalError, "session state was lost with the server: .*temporary table"),
        "disk full": (psycopg.errors.DiskFull, ""),
        "terminated": (psycopg.errors.AdminShutdown, "terminating connection due to administrator command"),
    }

    def make(self, **options):
        self.server = Server(self.product, **options)
        return self.server

    def run(self, connection, sql, *values):
        cursor = connection.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else None

    def is_told(self, error, kind):
        wanted, words = self.KINDS[kind]
        return isinstance(error, wanted) and re.search(words, str(error))

    def is_closed(self, connection):
        return connection.closed

    def descriptor(self, connection):
        return connection.fileno()

    def transaction(self, connection):
        return connection.transaction()

    def prepare(self):
        """What the tests that share a server need in it. After `stall`, what is written to `slow` hangs in its COMMIT."""
        with self.server.connect() as connection:
            connection.execute("CREATE TABLE t (id int, note text)")
            connection.execute("CREATE TABLE slow (id int)")
            connection.execute(
                "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$"
            )
            connection.execute(
                "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE PROCEDURE wait()"
            )

    @contextlib.contextmanager
    def stall(self):
        yield

    def fail(self, connection):
        """Something goes wrong in a transaction, which is all that it can be used for from now on."""
        try:
            connection.execute("SELECT 1 / 0")
        except psycopg.errors.DivisionByZero:
            return "failed"
        raise AssertionError("it should fail")

    def check_aborted(self, connection):
        """The client was told that its transaction is lost."""
        assert connection.info.transaction_status == TransactionStatus.INERROR
        with self.told("failed"):
            connection.execute("SELECT %s::text", ("x" * 1_000_000,))

    def check_table(self, connection, table):
        """Whether table and index agree."""
        connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        check = "SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = %s::regclass"
        connection.execute(check, (table,))

    def fill(self, connection):
        connection.execute("CREATE TABLE big AS SELECT repeat('x', 500) FROM generate_series(1, 100000)")

    def terminate(self, connection, victim):
        number = self.one(victim, "SELECT pg_backend_pid()")
        assert self.one(connection, "SELECT pg_terminate_backend(%s)", number) is True

    def programs_folder(self):
        return pathlib.Path(server_folder(self.product))

    def mark_of(self, capacity):
        """Is on the command line of a server of this capacity alone."""
        # A quarter of the memory (256 MiB for each unit) is the server's cache.
        return f"shared_buffers={capacity * 256 // 4 * 1024}kB"

    def rich(self, key):
        return PostgresRich(self.server, key)


class PostgresRich:
    """A session with everything that must outlive its server."""

    def __init__(self, server, key):
        self.server, self.key = server, key
        self.connection = server.connect()
        self.connection.execute("SET work_mem = '7MB'")
        self.connection.execute("SET my.own = 'thing'")
        self.connection.execute("PREPARE p (int) AS SELECT $1 + 1")
        self.connection.execute("LISTEN news")
        self.connection.execute("SELECT pg_advisory_lock(%s)", (key,))

    def ask(self, sql):
        return self.connection.execute(sql).fetchone()[0]

    def check(self):
        # The lock was restored before anybody could take it.
        with self.server.connect() as other:
            assert other.execute("SELECT pg_try_advisory_lock(%s)", (self.key,)).fetchone() == (False,)
            other.execute("NOTIFY news, 'hello'")
        assert self.ask("SHOW work_mem") == "7MB"
        assert self.ask("SHOW my.own") == "thing"
        assert self.ask("EXECUTE p (41)") == 42
        assert [note.payload for note in self.connection.notifies(timeout=10, stop_after=1)] == ["hello"]
        self.connection.close()


class Mysql(Engine):
    programs = ("mariadbd", "mysqld")
    main_argument = b"--datadir="
    errors = pymysql.Error
    long_read = sleep = "SELECT SLEEP(60)"
    # All of it is one process. Nobody can say what a restart would lose, so it must be forced.
    replaces_hanging = {"seconds": 10, "action": "force"}
    replaced = "forced"
    ABORTED = r"The last transaction was aborted due to (Seamless Scaling|an unknown error)\. Please retry\."
    KINDS = {
        "aborted": (1105, ABORTED),
        "commit unknown": (1105, r"The server was lost during COMMIT\. The outcome of the transaction is unknown\."),
        "statement unknown": (1105, r"The server was lost during a statement\. The outcome of the statement is unknown\."),
        "temporary table lost": (1105, r"The session was lost with its server: temporary table\. Please reconnect\."),
    }

    @property
    def rounds(self):
        return {"mariadb": 8, "mysql9": 5, "mysql56": 3}[self.product]

    @property
    def program(self):
        return "mariadbd" if self.product == "mariadb" else "mysqld"

    @property
    def small_disk(self):
        # A new volume of MySQL's has a log of 100 MB before it is told to have a smaller one.
        return "400m" if self.product == "mysql9" else "200m"

    @property
    def small_parameters(self):
        log = {"mysql9": "innodb_redo_log_capacity"}.get(self.product, "innodb_log_file_size")
        return {log: "8M"}

    def make(self, **options):
        self.server = MysqlServer(self.product, **options)
        return self.server

    def run(self, connection, sql, *values):
        with connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else None

    def is_told(self, error, kind):
        if kind == "terminated":
            # A server says something, or nothing, to a session that is killed.
            return error.args[0] in (1927, 2006, 2013)
        if kind == "disk full":
            # The table is full, a file cannot be written, or the temporary folder has no room.
            return error.args[0] in (1114, 3, 1021, 1030, 3675)
        code, words = self.KINDS[kind]
        return error.args[0] == code and re.search(words, error.args[1])

    def is_closed(self, connection):
        try:
            connection.ping(reconnect=False)
        except pymysql.Error:
            return True
        return False

    def descriptor(self, connection):
        return connection._sock.fileno()

    @contextlib.contextmanager
    def transaction(self, connection):
        connection.begin()
        try:
            yield
        except BaseException:
            with contextlib.suppress(pymysql.Error):
                connection.rollback()
            raise
        connection.commit()

    def prepare(self):
        with self.server.connect() as connection:
            self.run(connection, "CREATE TABLE t (id int, note text)")
            self.run(connection, "CREATE TABLE slow (id int)")

    @contextlib.contextmanager
    def stall(self):
        with self.server.connect() as locker:
            # Whatever writes or commits waits from now on.
            self.run(locker, "FLUSH TABLES WITH READ LOCK")
            yield

    def fail(self, connection):
        try:
            self.run(connection, "SELECT 1 FROM missing")
        except pymysql.err.ProgrammingError:
            # The transaction stays open here.
            return "aborted"
        raise AssertionError("it should fail")

    def check_aborted(self, connection):
        # With that the transaction is over, and what comes next is another.
        assert self.one(connection, "SELECT LENGTH(%s)", "x" * 1_000_000) == 1_000_000

    def check_table(self, connection, table):
        rows = self.run(connection, f"CHECK TABLE {table} EXTENDED")
        assert [row[-2:] for row in rows] == [("status", "OK")], rows

    def fill(self, connection):
        self.run(connection, "CREATE TABLE big (filling varchar(500))")
        self.run(connection, "INSERT INTO big VALUES (REPEAT('x', 500))")
        for _ in range(20):
            self.run(connection, "INSERT INTO big SELECT * FROM big")

    def terminate(self, connection, victim):
        self.run(connection, f"KILL {victim.thread_id()}")

    def programs_folder(self):
        return pathlib.Path(mysql_folder(self.product))

    def mark_of(self, capacity):
        return f"--max-connections={90 * capacity.bit_length()}"

    def rich(self, key):
        return MysqlRich(self.server, key)


class MysqlRich:
    """As above. Statements are prepared both in SQL and by the protocol."""

    def __init__(self, server, key):
        self.key = key
        self.client = server.raw()
        for sql in (
            "SET SESSION sort_buffer_size = 524288, sql_mode = 'ANSI_QUOTES'",
            f"SET @own = 'thing {key}'",
            "PREPARE p FROM 'SELECT ? + 1'",
            f"SELECT LAST_INSERT_ID({key + 7})",
        ):
            self.client.query(sql)
        self.statement = self.client.prepare("SELECT ? * 2")

    def ask(self, sql):
        return json.loads(self.client.one(sql))

    def check(self):
        assert self.client.one("SELECT LAST_INSERT_ID()") == str(self.key + 7)
        assert self.client.one("SELECT @@sort_buffer_size") == "524288"
        assert self.client.one("SELECT @@sql_mode") == "ANSI_QUOTES"
        assert self.client.one("SELECT @own") == f"thing {self.key}"
        assert self.client.query("SET @n = 41; EXECUTE p USING @n") and self.client.more[0].rows in ([(b"42",)], [(b"42.0",)])
        assert [float(value) for value in self.client.execute(self.statement, [21]).rows[0]] == [42.0]
        self.client.close()
