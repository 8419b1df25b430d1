"""Clients of a MySQL storm, one class for every driver: each looks for everything its session has after every statement.

Runs as a program, too, for a driver that has a Python of its own: it reads what to do as JSON, and prints how far it came.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback


#: Seconds between two rounds of a client, which leave room for other tests on a small machine; SCALEPOINT_STORM_FULL: none.
BREATH = 0 if "SCALEPOINT_STORM_FULL" in os.environ else 0.1


class Pymysql:
    """As every driver here: statements without and with values; the id that an INSERT was answered with."""

    def __init__(self, secure, **where):
        import pymysql

        security = {"ssl": {"ca": where["ca"]}} if secure else {}
        self.connection = pymysql.connect(**account(where), autocommit=True, **security)
        self.number = self.connection.thread_id()

    def run(self, sql, values=()):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            self.last_id = cursor.lastrowid
            return [tuple(row) for row in cursor.fetchall()]

    def prepared(self, sql, values):
        """By the protocol's prepared statements, if the driver has any."""
        return self.run(sql.replace("?", "%s"), values)

    def close(self):
        self.connection.close()


class Connector:
    def __init__(self, secure, use_pure=True, compress=False, **where):
        import mysql.connector

        security = {"ssl_ca": where["ca"], "ssl_verify_identity": True} if secure else {"ssl_disabled": True}
        self.connection = mysql.connector.connect(
            **account(where), autocommit=True, use_pure=use_pure, compress=compress, **security
        )
        self.number = self.connection.connection_id
        self.statements = {}

    def run(self, sql, values=()):
        cursor = self.connection.cursor()
        cursor.execute(sql, values or ())
        self.last_id = cursor.lastrowid
        rows = [tuple(row) for row in cursor.fetchall()] if cursor.with_rows else []
        cursor.close()
        return rows

    def prepared(self, sql, values):
        if sql not in self.statements:
            self.statements[sql] = self.connection.cursor(prepared=True)
        cursor = self.statements[sql]
        cursor.execute(sql, values)
        return [tuple(row) for row in cursor.fetchall()]

    def close(self):
        self.connection.close()


class Asynchronous:
    """asyncmy and aiomysql, which are alike."""

    def __init__(self, secure, module="asyncmy", **where):
        import importlib
        import ssl

        module = importlib.import_module(module)
        context = ssl.create_default_context(cafile=where["ca"]) if secure else None
        who = account(where)
        self.loop = asyncio.new_event_loop()
        connect = module.connect(
            host=who["host"],
            port=who["port"],
            user=who["user"],
            password=who["password"],
            db=who["database"],
            autocommit=True,
            ssl=context,
        )
        self.connection = self.loop.run_until_complete(self._connected(connect))
        self.number = self.connection.thread_id()

    @staticmethod
    async def _connected(connect):
        return await connect

    async def _run(self, sql, values):
        async with self.connection.cursor() as cursor:
            await cursor.execute(sql, values or None)
            self.last_id = cursor.lastrowid
            return [tuple(row) for row in await cursor.fetchall()] if cursor.description else []

    def run(self, sql, values=()):
        return self.loop.run_until_complete(self._run(sql, values))

    def prepared(self, sql, values):
        return self.run(sql.replace("?", "%s"), values)

    def close(self):
        self.connection.close()
        self.loop.close()


def account(where):
    return {name: where[name] for name in ("host", "port", "user", "password", "database")}


DRIVERS = {
    "pymysql": (Pymysql, {}),
    "connector": (Connector, {"use_pure": True}),
    "connector_c": (Connector, {"use_pure": False}),
    "connector_compressed": (Connector, {"use_pure": False, "compress": True}),
    "asyncmy": (Asynchronous, {"module": "asyncmy"}),
    "aiomysql": (Asynchronous, {"module": "aiomysql"}),
}


class Keeper:
    """One client; every other one over TLS."""

    def __init__(self, driver, number, where):
        make, options = DRIVERS[driver]
        self.name, self.number, self.round, self.limit = f"{driver} {number}", number, 0, 1000
        self.client = make(number % 2 == 0, **options, **where)
        self.inserted = 0
        self.id = self.client.number
        run = self.client.run
        run("SET time_zone = %s", [f"+{self.number % 12:02}:00"])
        run("SET NAMES utf8mb4")
        run("SET @number = %s, @text = %s, @round = 0", [number, f"é{number}"])
        run(f"SET SESSION group_concat_max_len = {self.limit}")
        run(f"PREPARE own FROM 'SELECT ? + {number}'")
        self.is_whole()

    def work(self, end):
        while time.time() < end:
            self.round += 1
            # Every other time in a transaction.
            if self.round % 2:
                self.insert()
            else:
                self.client.run("BEGIN")
                self.insert(whole=False)
                self.client.run("COMMIT")
                self.is_whole()
            self.run(f"SET @round = {self.round}")
            self.limit = 1000 + self.round % 100
            self.run(f"SET SESSION group_concat_max_len = {self.limit}")
            time.sleep(BREATH)

    def insert(self, whole=True):
        self.client.run("INSERT INTO kept (keeper, round) VALUES (%s, %s)", [self.number, self.round])
        self.inserted = self.client.last_id
        assert self.inserted
        if whole:
            self.is_whole()

    def run(self, sql):
        self.client.run(sql)
        self.is_whole()

    def is_whole(self):
        """Everything that the session had is there."""
        what = (
            "SELECT @number, @text, @@time_zone, @@group_concat_max_len, LAST_INSERT_ID(), DATABASE(), @@autocommit,"
            " @@character_set_client"
        )
        (found,) = self.client.run(what)
        zone = f"+{self.number % 12:02}:00"
        wanted = (self.number, f"é{self.number}", zone, self.limit, self.inserted, "app", 1, "utf8mb4")
        assert found == wanted, (found, wanted)
        assert self.client.run("SELECT CONNECTION_ID()") == [(self.id,)]
        ((found,),) = self.client.run("EXECUTE own USING @number")
        assert int(found) == 2 * self.number, found
        ((one, two),) = self.client.prepared("SELECT ? + 1, ?", (self.number, f"x{self.number}"))
        assert (int(one), two) == (self.number + 1, f"x{self.number}"), (one, two)
        if self.round > 1:
            ((found,),) = self.client.prepared("SELECT MAX(round) FROM kept WHERE keeper = ?", (self.number,))
            assert found in (self.round, self.round - 1), (found, self.round)


def keep(keepers, end):
    """All at once; by their numbers, how many rounds each has made, and what went wrong first."""
    failures = []

    def guarded(keeper):
        try:
            keeper.work(end)
        except BaseException:
            failures.append(f"{keeper.name}, round {keeper.round}: {traceback.format_exc()}")

    threads = [threading.Thread(target=guarded, args=[keeper]) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {keeper.number: keeper.round for keeper in keepers}, failures


def main():
    task = json.load(sys.stdin)
    keepers = [Keeper(task["driver"], number, task["where"]) for number in task["numbers"]]
    print("ready", flush=True)
    rounds, failures = keep(keepers, task["end"])
    for keeper in keepers:
        keeper.client.close()
    print(json.dumps({"rounds": rounds, "failures": failures}), flush=True)


if __name__ == "__main__":
    main()
