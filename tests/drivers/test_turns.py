"""Statements outside a transaction take turns: nobody waits for ever, nothing is lost, and a change of capacity carries all.

With two turns at once (`statements_at_once`), so that a handful of clients is a crowd.
"""

import contextlib
import os
import socket
import threading
import time

import pytest
from conftest import Server, in_threads, running, wait_until
from mysqlserver import MysqlServer

TURNS = "statements_at_once = 2"
CLIENTS = 24


class Postgres:
    lock, unlock = "SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)"

    @staticmethod
    def make():
        return Server("15", cluster=TURNS)

    @staticmethod
    def run(connection, sql):
        cursor = connection.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None

    @staticmethod
    def vanish(connection):
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)


class Mysql:
    lock, unlock = "SELECT GET_LOCK('turns', 60)", "SELECT RELEASE_LOCK('turns')"

    def __init__(self, product):
        self.product = product

    def make(self):
        return MysqlServer(self.product, cluster=TURNS)

    @staticmethod
    def run(connection, sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            row = cursor.fetchone()
            return row[0] if row else None

    @staticmethod
    def vanish(connection):
        with socket.socket(fileno=os.dup(connection._sock.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)


ENGINES = {"15": Postgres(), "mariadb": Mysql("mariadb"), "mysql9": Mysql("mysql9")}


@pytest.fixture(scope="module", params=list(ENGINES))
def crowd(request):
    engine = ENGINES[request.param]
    with running(engine.make()) as server:
        with server.connect() as connection:
            engine.run(connection, "CREATE TABLE counted (id int PRIMARY KEY, n int)")
            engine.run(connection, "INSERT INTO counted VALUES (1, 0), (2, 0)")
        yield engine, server


def metric(server, name):
    return server.metrics()[f'scalepoint_{name}{{cluster="test"}}']


def busy(server):
    return [session["state"] for session in server.sessions()].count("active")


def test_those_who_wait_for_a_lock_do_not_keep_its_holder_out(crowd):
    """Every turn is taken by waiters, and the holder, outside any transaction, needs one to let go."""
    engine, server = crowd
    assert metric(server, "statements_at_once") == 2
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(server.connect())
        engine.run(holder, engine.lock)
        waiters = [stack.enter_context(server.connect()) for _ in range(8)]
        got = []

        def wait(connection):
            engine.run(connection, engine.lock)
            got.append(connection)
            engine.run(connection, engine.unlock)

        def release():
            wait_until(lambda: busy(server) >= len(waiters), "all of them wait for the lock")
            others = [stack.enter_context(server.connect()) for _ in range(4)]
            for other in [holder, *others]:
                assert engine.run(other, "SELECT 7") == 7
            assert not got
            engine.run(holder, engine.unlock)

        in_threads([lambda connection=connection: wait(connection) for connection in waiters] + [release], 60)
        assert len(got) == len(waiters)


def test_nothing_is_lost_in_a_crowd(crowd):
    engine, server = crowd
    waits = metric(server, "statement_waits_total")
    before = 0
    with server.connect() as connection:
        before = engine.run(connection, "SELECT sum(n) FROM counted")
    end = time.monotonic() + 4
    done = []

    def work(number):
        count = 0
        with server.connect() as connection:
            while time.monotonic() < end:
                engine.run(connection, f"UPDATE counted SET n = n + 1 WHERE id = {1 + number % 2}")
                count += 1
                if number % 4 == 0:
                    engine.run(connection, "BEGIN")
                    engine.run(connection, f"UPDATE counted SET n = n + 1 WHERE id = {1 + number % 2}")
                    engine.run(connection, "COMMIT")
                    count += 1
        done.append(count)

    def change():
        time.sleep(1)
        server.swap()
        server.swap()

    in_threads([lambda number=number: work(number) for number in range(CLIENTS)] + [change], 60)
    assert len(done) == CLIENTS and all(done), "somebody was never served"
    with server.connect() as connection:
        assert engine.run(connection, "SELECT sum(n) FROM counted") == before + sum(done)
    assert metric(server, "statement_waits_total") > waits
    print(f"{sum(done)} updates, {metric(server, 'statement_waits_total') - waits} waited")


def test_a_client_that_vanishes_gives_its_turn_away(crowd):
    engine, server = crowd
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(server.connect())
        engine.run(holder, engine.lock)
        gone = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(6)]

        def wait(connection):
            with contextlib.suppress(Exception):
                engine.run(connection, engine.lock)

        threads = [threading.Thread(target=wait, args=[connection]) for connection in gone]
        for thread in threads:
            thread.start()
        wait_until(lambda: busy(server) >= len(gone), "they wait for the lock")
        for connection in gone:
            engine.vanish(connection)
        other = stack.enter_context(server.connect())
        assert engine.run(other, "SELECT 7") == engine.run(holder, "SELECT 7") == 7
        engine.run(holder, engine.unlock)
        for thread in threads:
            thread.join(30)
        wait_until(lambda: len(server.sessions()) == 2, "they are gone")
        engine.run(other, engine.lock)
        engine.run(other, engine.unlock)
