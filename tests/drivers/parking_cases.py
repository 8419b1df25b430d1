"""Sessions without servers: clients outnumber the server's connections, and none of them notices.

The tests that are the same for every engine; test_parking.py and test_mysql_parking.py run them. The fixtures `crowded` (a
server with 40 places for sessions), `full` (with four, and a short wait) and `eager` (every session is parked after every
statement) are theirs. Storms last SCALEPOINT_PARKING_SECONDS (2).
"""

import concurrent.futures
import contextlib
import os
import signal
import time

import pytest
from conftest import in_threads, running, wait_until

PLACES = 40
CLIENTS = 300
SECONDS = float(os.environ.get("SCALEPOINT_PARKING_SECONDS", "2"))
#: How many of its connections the router keeps from clients.
RESERVED = 10
#: How long a client waits where the test is about that, ms.
SHORT_WAIT = 1000


class Parked:
    """A server for several tests, and its engine."""

    def __init__(self, engine):
        self.engine = engine
        self.server = engine.server

    def states(self):
        return [session["state"] for session in self.server.sessions()]

    def metric(self, name):
        return self.server.metrics()[f'scalepoint_{name}{{cluster="test"}}']

    def clean(self):
        """What the test before this one has left must be gone."""
        wait_until(lambda: not self.server.sessions(), "nobody is there", 5)


@contextlib.contextmanager
def share(engine, *, wait_ms, after_ms=None, places=PLACES):
    cluster = f"full_wait_ms = {wait_ms}\n" + (f"park_after_ms = {after_ms}\n" if after_ms is not None else "")
    parameters = {"max_connections": str(places + RESERVED)}
    with running(engine.make(cluster=cluster, parameters=parameters, memory="512MiB")):
        yield Parked(engine)


def shared(make, **options):
    """A fixture: one such server for all tests of a file."""

    @pytest.fixture(scope="module")
    def fixture():
        with share(make(), **options) as parked:
            parked.engine.prepare()
            yield parked

    return fixture


def server_connections(engine):
    """How many sessions the server has, besides the one that asks."""
    with engine.server.connect() as connection:
        return engine.one(connection, engine.other_connections)


def until(end, keepers, others=()):
    """Runs all of them in threads; raises what the first of them raised."""
    in_threads([lambda keeper=keeper: keeper.work(end) for keeper in keepers] + list(others))


def connect_all(engine, count):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(engine.keeper, range(count)))


def close_all(keepers):
    for keeper in keepers:
        keeper.close()


def test_clients_outnumber_the_servers_connections(crowded):
    """Each with settings and statements that are looked for after every statement, while the capacity changes."""
    crowded.clean()
    begun = time.monotonic()
    keepers = connect_all(crowded.engine, CLIENTS)
    print(f"connected after {time.monotonic() - begun:.1f} s")
    assert len(crowded.server.sessions()) >= CLIENTS
    reports = []

    def change():
        for _ in range(2):
            time.sleep(SECONDS / 4)
            reports.append(crowded.server.scale(crowded.engine.other_capacity(), seconds=60, exits=(0, 3)))

    end = time.monotonic() + SECONDS
    until(end, keepers, [change])
    print(f"done after {time.monotonic() - begun:.1f} s")
    assert [report["outcome"] for report in reports] == ["scaled"] * 2, reports
    # Whoever is parked is carried with the others.
    for report in reports:
        sessions = report["sessions"]
        assert sessions["carried"] > PLACES and sessions["aborted"] == sessions["closed"] == 0, report
    assert all(keeper.rounds for keeper in keepers), "somebody was never served"
    for keeper in keepers[::20]:
        keeper.is_whole()
    # Who waited for a place when the storm ended is served, and parked, a moment later.
    wait_until(lambda: crowded.states().count("parked") >= CLIENTS - PLACES - 20, "the others are parked")
    assert crowded.metric("parkings_total") >= CLIENTS - PLACES
    assert crowded.metric("rebuilds_total") > 0 and crowded.metric("rebuild_seconds_count") > 0
    assert crowded.metric("place_waits_total") > 0 and crowded.metric("place_refusals_total") == 0
    print(f"{sum(keeper.rounds for keeper in keepers)} rounds of {CLIENTS} clients, {crowded.metric('rebuilds_total')} rebuilds")
    close_all(keepers)


def test_sessions_are_kept_when_the_database_dies(crowded):
    crowded.clean()
    keepers = connect_all(crowded.engine, PLACES * 2)
    wait_until(lambda: crowded.states().count("parked") >= PLACES, "half of them are parked")
    before = crowded.server.status()["backend_pid"]
    # What the others did last is looked at by then; who is parked has been.
    time.sleep(1.5)
    crowded.engine.kill_database()
    wait_until(lambda: crowded.server.status()["backend_pid"] not in (None, before), "another database")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for whole in [pool.submit(keeper.is_whole) for keeper in keepers]:
            whole.result(60)
    close_all(keepers)
    crowded.engine.clean_log()


def test_every_place_is_taken(full):
    """By sessions in transactions: whoever comes is told in the server's words, and everybody else goes on."""
    full.clean()
    engine = full.engine
    parked = engine.keeper(1001)
    busy = [engine.server.connect(autocommit=False) for _ in range(engine.few)]
    for connection in busy:
        engine.run(connection, "INSERT INTO t VALUES (1, 'busy')")
    assert full.states().count("parked") == 1
    for _ in range(2):
        begun = time.monotonic()
        with engine.told("full"):
            engine.server.connect()
        assert time.monotonic() - begun >= SHORT_WAIT / 1000
    # A session that speaks keeps what it has, and its statement was not run.
    with engine.told("full"):
        engine.run(parked.connection, "INSERT INTO t VALUES (2, 'refused')")
    assert full.metric("place_refusals_total") == 3
    # One waits; as soon as there is a place it is served.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waits = full.metric("place_waits_total")
        waiting = pool.submit(parked.is_whole)
        wait_until(lambda: full.metric("place_waits_total") > waits, "it waits")
        busy[0].commit()
        waiting.result(30)
    for connection in busy:
        connection.commit()
        assert engine.one(connection, "SELECT count(*) FROM t WHERE note = 'refused'") == 0
        connection.commit()
    for connection in busy:
        connection.close()
    parked.close()
    engine.clean_log()


def test_those_who_have_waited_longest_come_first(crowded):
    crowded.clean()
    engine = crowded.engine

    def begin(_):
        connection = engine.server.connect(autocommit=False)
        engine.run(connection, "SELECT count(*) FROM t")
        return connection

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        busy = list(pool.map(begin, range(PLACES)))
    served = []

    def come(number):
        with engine.server.connect() as connection:
            served.append(number)
            engine.run(connection, "SELECT 1")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        coming = []
        for number in range(4):
            waits = crowded.metric("place_waits_total")
            coming.append(pool.submit(come, number))
            wait_until(lambda: crowded.metric("place_waits_total") > waits, "it waits")
        busy[0].commit()
        busy.pop(0).close()
        for one in coming:
            one.result(30)
    assert served == [0, 1, 2, 3]
    for connection in busy:
        connection.rollback()
        connection.close()


def test_what_was_dropped_meanwhile_is_as_after_a_swap(eager):
    eager.clean()
    engine = eager.engine
    with engine.server.connect() as session, engine.server.connect() as other:
        engine.run(other, "CREATE TABLE goes (id int)")
        engine.run(session, engine.prepares.format("SELECT id FROM goes"))
        wait_until(lambda: eager.states().count("parked") == 2, "both are parked")
        engine.run(other, "DROP TABLE goes")
        with engine.told("gone"):
            engine.run(session, "EXECUTE gone_statement")
        assert engine.one(session, "SELECT 1") == 1


def test_sessions_are_parked_after_every_statement(eager):
    eager.clean()
    keepers = connect_all(eager.engine, 12)
    rebuilds = eager.metric("rebuilds_total")
    end = time.monotonic() + SECONDS
    until(end, keepers, [lambda: eager.server.swap()])
    print(f"{sum(keeper.rounds for keeper in keepers)} rounds, {eager.metric('rebuilds_total') - rebuilds} rebuilds")
    assert eager.metric("rebuilds_total") - rebuilds > sum(keeper.rounds for keeper in keepers)
    wait_until(lambda: set(eager.states()) == {"parked"}, "all are parked")
    assert server_connections(eager.engine) == 0
    for keeper in keepers:
        keeper.is_whole()
    close_all(keepers)
    eager.engine.clean_log()


def test_a_killed_database_with_everybody_parked(eager):
    eager.clean()
    keepers = connect_all(eager.engine, 12)
    for keeper in keepers:
        keeper.is_whole()
    wait_until(lambda: set(eager.states()) == {"parked"}, "all are parked")
    before = eager.server.status()["backend_pid"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: eager.server.status()["backend_pid"] not in (None, before), "another database")
    for keeper in keepers:
        keeper.is_whole()
    close_all(keepers)
    eager.engine.clean_log()
