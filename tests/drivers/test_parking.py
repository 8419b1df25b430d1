"""The tests of parked sessions (parking_cases.py) with PostgreSQL, and what only PostgreSQL has."""

import asyncio
import contextlib
import os
import random
import subprocess

import asyncpg
import psycopg
import pytest
from conftest import in_threads, wait_until
from parking_cases import *
from parking_cases import SHORT_WAIT, server_connections, shared
from parking_engines import Postgres


def of_postgres():
    return Postgres("15")


crowded = shared(of_postgres, wait_ms=20_000)
full = shared(of_postgres, wait_ms=SHORT_WAIT, places=Postgres.few)
eager = shared(of_postgres, wait_ms=20_000, after_ms=0)


@pytest.mark.parametrize("protocol", ["simple", "prepared"])
def test_pgbench(eager, protocol):
    eager.clean()
    server = eager.server
    environment = {**os.environ, "PGPASSWORD": server.password, "PGSSLMODE": "disable"}
    folder = os.environ["SCALEPOINT_PG_CLIENT_BIN"]
    target = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "master", server.database]
    subprocess.run([f"{folder}/pgbench", "-i", "-q", *target], env=environment, check=True, capture_output=True)
    command = [f"{folder}/pgbench", "-c", "8", "-j", "2", "-T", "4", "-M", protocol, "-n", *target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "aborted" not in done.stderr, done.stderr
    with server.connect() as connection:
        balances = connection.execute(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
            " (SELECT sum(delta) FROM pgbench_history)"
        ).fetchone()
    assert balances[0] == balances[1] == balances[2], balances
    print(*[line for line in done.stdout.splitlines() if "tps" in line or "processed" in line])


TIES = [
    ("listening", "LISTEN news", "UNLISTEN *"),
    ("advisory_lock", "SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)"),
    ("sequence_value", "INSERT INTO counted (note) VALUES ('x')", "DISCARD SEQUENCES"),
]


@pytest.mark.parametrize("tie, begin, end", TIES, ids=[tie for tie, _, _ in TIES])
def test_what_others_would_miss_keeps_a_session_on_its_server(eager, tie, begin, end):
    eager.clean()
    with eager.server.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS counted (id serial, note text)")
        wait_until(lambda: eager.states() == ["parked"], "it is parked")
        connection.execute(begin)
        wait_until(lambda: [session["tie"] for session in eager.server.sessions()] == [tie], "it is tied")
        assert eager.states() == ["idle"]
        if tie == "sequence_value":
            assert connection.execute("SELECT lastval() = max(id) FROM counted").fetchone() == (True,)
        # It is carried by a change all the same.
        eager.server.swap()
        connection.execute(end)
        wait_until(lambda: eager.states() == ["parked"], "it is parked")
        assert [session["tie"] for session in eager.server.sessions()] == [None]


def test_a_transaction_and_a_temporary_table_keep_it_too(eager):
    eager.clean()
    with eager.server.connect() as connection:
        with connection.transaction():
            connection.execute("SELECT 1")
            wait_until(lambda: eager.states() == ["in_transaction"], "a transaction")
        wait_until(lambda: eager.states() == ["parked"], "it is parked")
        connection.execute("CREATE TEMP TABLE mine (id int)")
        wait_until(lambda: [s["obstacle"] for s in eager.server.sessions()] == ["temporary_table"], "an obstacle")
        assert connection.execute("SELECT count(*) FROM mine").fetchone() == (0,)
        connection.execute("DROP TABLE mine")
        wait_until(lambda: eager.states() == ["parked"], "it is parked")


def test_tied_sessions_must_fit_the_new_capacity(full):
    """Who can be parked takes turns; who cannot needs a place."""
    full.clean()
    listeners = [full.server.connect() for _ in range(full.engine.few)]
    for listener in listeners:
        listener.execute("LISTEN news")
    wait_until(lambda: [s["tie"] for s in full.server.sessions()] == ["listening"] * full.engine.few, "all are tied")
    with full.engine.told("full"):
        full.server.connect()
    full.server.swap()
    for listener in listeners:
        listener.execute("UNLISTEN *")
    with full.server.connect() as connection:
        connection.execute("SELECT 1")
    for listener in listeners:
        listener.close()


def test_a_pipeline_is_refused_whole(full):
    full.clean()
    parked = full.engine.keeper(3)
    busy = [full.server.connect(autocommit=False) for _ in range(full.engine.few)]
    for connection in busy:
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="too many clients"), parked.connection.pipeline() as pipeline:
        parked.connection.execute("INSERT INTO t VALUES (9, 'piped')")
        pipeline.sync()
        parked.connection.execute("INSERT INTO t VALUES (10, 'piped')")
    for connection in busy:
        connection.close()
    parked.is_whole()
    assert full.engine.one(parked.connection, "SELECT count(*) FROM t WHERE note = 'piped'") == 0
    parked.close()


def test_clients_that_leave_while_they_log_in_cost_nobody_a_place(crowded):
    crowded.clean()
    server, moments = crowded.server, random.Random(5)

    async def leaves():
        for _ in range(25):
            patience = moments.uniform(0.001, 0.05)
            with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError):
                connecting = asyncpg.connect(
                    host="127.0.0.1",
                    port=server.port,
                    user="master",
                    password=server.password,
                    database=server.database,
                    ssl=False,
                )
                connection = await asyncio.wait_for(connecting, patience)
                connection.terminate()

    async def all_leave():
        await asyncio.gather(*(leaves() for _ in range(48)))

    def stays():
        for _ in range(60):
            with server.connect() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)

    in_threads([lambda: asyncio.run(all_leave()), stays], 60)
    crowded.clean()
    wait_until(lambda: server_connections(crowded.engine) == 0, "the server has ended them all")
