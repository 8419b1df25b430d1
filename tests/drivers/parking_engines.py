"""What the tests of parked sessions (parking_cases.py) must know of an engine, besides crash_engines.py."""

import time

import crash_engines
import psycopg


class PostgresKeeper:
    """A client that looks for what its session has after every statement."""

    def __init__(self, engine, number):
        self.engine, self.number, self.rounds = engine, number, 0
        self.connection = engine.server.connect(sslmode="disable", sslrootcert=None)
        self.id = self.connection.info.backend_pid
        self.memory = 4096 + number
        self.connection.execute(f"SET my.number = '{number}'")
        self.connection.execute(f"SET work_mem = {self.memory}")
        self.connection.execute(f"PREPARE own (int) AS SELECT $1 + {number}")

    def work(self, end):
        while True:
            self.is_whole()
            self.rounds += 1
            if time.monotonic() > end:
                return
            with self.connection.transaction():
                self.connection.execute("SET LOCAL work_mem = 64")
                self.connection.execute("SELECT 1")
            if time.monotonic() > end:
                return
            self.memory = 4096 + (self.memory + 1) % 1000
            self.connection.execute(f"SET work_mem = {self.memory}")

    def is_whole(self):
        found = self.connection.execute(
            "SELECT current_setting('my.number')::int, pg_size_bytes(current_setting('work_mem')) / 1024", prepare=True
        ).fetchone()
        assert found == (self.number, self.memory), (found, self.number, self.memory)
        assert self.connection.execute("EXECUTE own (100)").fetchone() == (100 + self.number,)
        assert self.connection.info.backend_pid == self.id

    def close(self):
        self.connection.close()


class Postgres(crash_engines.Postgres):
    KINDS = {
        **crash_engines.Postgres.KINDS,
        "full": (psycopg.OperationalError, "sorry, too many clients already"),
        "gone": (psycopg.errors.InvalidSqlStatementName, ""),
    }
    few = 4
    prepares = "PREPARE gone_statement AS {}"
    other_connections = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )

    def keeper(self, number):
        return PostgresKeeper(self, number)


class MysqlKeeper:
    def __init__(self, engine, number):
        self.engine, self.number, self.rounds = engine, number, 0
        self.connection = engine.server.connect(ssl=None, ssl_disabled=True)
        self.id = self.connection.thread_id()
        self.size = 524288 + 1024 * number
        # Harmless statements come first: a session looks at itself by itself only after others, and a crash asks for no more.
        for sql in (
            f"SELECT LAST_INSERT_ID({number + 7})",
            f"SET SESSION sort_buffer_size = {self.size}, sql_mode = 'ANSI_QUOTES'",
            f"SET @own = 'thing {number}', @hundred = 100",
            f"PREPARE p FROM 'SELECT ? + {number}'",
        ):
            engine.run(self.connection, sql)
        # By the protocol; PyMySQL has none of these.
        self.client = engine.server.raw() if number % 10 == 0 else None
        self.statement = self.client.prepare(f"SELECT ? * {number}") if self.client else None

    def work(self, end):
        while True:
            self.is_whole()
            self.rounds += 1
            if time.monotonic() > end:
                return
            self.connection.begin()
            self.engine.run(self.connection, "SELECT count(*) FROM t")
            self.connection.commit()
            if time.monotonic() > end:
                return
            self.size = 524288 + (self.size + 1024) % 1024_000
            self.engine.run(self.connection, f"SET SESSION sort_buffer_size = {self.size}")

    def is_whole(self):
        found = self.engine.run(
            self.connection, "SELECT @own, @@sort_buffer_size, @@sql_mode, LAST_INSERT_ID(), CONNECTION_ID()"
        )
        assert found[0] == (f"thing {self.number}", self.size, "ANSI_QUOTES", self.number + 7, self.id), found
        assert float(self.engine.run(self.connection, "EXECUTE p USING @hundred")[0][0]) == 100 + self.number
        if self.client:
            rows = self.client.execute(self.statement, [21]).rows
            assert [float(value) for value in rows[0]] == [21.0 * self.number]

    def close(self):
        self.connection.close()
        if self.client:
            self.client.close()


class Mysql(crash_engines.Mysql):
    KINDS = {
        **crash_engines.Mysql.KINDS,
        "full": (1040, "Too many connections"),
        "gone": (1243, "Unknown prepared statement handler"),
    }
    few = 4
    prepares = "PREPARE gone_statement FROM '{}'"
    other_connections = (
        "SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = 'master' AND ID <> CONNECTION_ID()"
    )

    def keeper(self, number):
        return MysqlKeeper(self, number)
