"""The tests of parked sessions (parking_cases.py) with MariaDB, and what only the MySQL protocol has."""

import os
import subprocess

import pytest
from conftest import wait_until
from parking_cases import *
from parking_cases import SHORT_WAIT, shared
from parking_engines import Mysql


def of_mariadb():
    return Mysql("mariadb")


crowded = shared(of_mariadb, wait_ms=20_000)
full = shared(of_mariadb, wait_ms=SHORT_WAIT, places=Mysql.few)
eager = shared(of_mariadb, wait_ms=20_000, after_ms=0)


@pytest.mark.parametrize("statements", ["disable", "auto"])
def test_sysbench(eager, statements):
    eager.clean()
    server = eager.server
    command = [
        os.environ["SCALEPOINT_SYSBENCH"],
        "oltp_read_write",
        "--mysql-host=127.0.0.1",
        f"--mysql-port={server.port}",
        "--mysql-user=master",
        f"--mysql-password={server.password}",
        f"--mysql-db={server.database}",
        "--mysql-ssl=off",
        f"--db-ps-mode={statements}",
        "--table-size=1000",
        "--threads=8",
        "--time=4",
    ]
    run = {"capture_output": True, "text": True, "timeout": 60}
    with server.connect() as connection:
        eager.engine.run(connection, "DROP TABLE IF EXISTS sbtest1")
    assert subprocess.run([*command, "prepare"], **run).returncode == 0
    done = subprocess.run([*command, "run"], **run)
    print(*[line.strip() for line in done.stdout.splitlines() if "transactions:" in line or "errors" in line])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_parked_session_can_be_killed(eager):
    eager.clean()
    victim, killer = eager.server.connect(), eager.server.connect()
    wait_until(lambda: eager.states() == ["parked"] * 2, "both are parked")
    eager.engine.run(killer, f"KILL {victim.thread_id()}")
    with eager.engine.told("terminated"):
        eager.engine.run(victim, "SELECT 1")
    wait_until(lambda: len(eager.server.sessions()) == 1, "it has gone")
    killer.close()


def test_warnings_and_counts_outlast_a_parking(eager):
    eager.clean()
    with eager.server.connect() as connection:
        run = lambda sql: eager.engine.run(connection, sql)
        run("SELECT CAST('x' AS SIGNED)")
        wait_until(lambda: eager.states() == ["parked"], "it is parked")
        assert [row[1] for row in run("SHOW WARNINGS")] == [1292]
        run("INSERT INTO t VALUES (1, 'a'), (2, 'a'), (3, 'a')")
        wait_until(lambda: eager.states() == ["parked"], "it is parked")
        assert run("SELECT ROW_COUNT()") == ((3,),)
        run("DELETE FROM t WHERE note = 'a'")


def test_a_lock_keeps_a_session_on_its_server(eager):
    eager.clean()
    with eager.server.connect() as connection:
        assert eager.engine.one(connection, "SELECT GET_LOCK('mine', 1)") == 1
        wait_until(lambda: [s["obstacle"] for s in eager.server.sessions()] == ["named_lock"], "it is kept")
        assert eager.engine.one(connection, "SELECT RELEASE_LOCK('mine')") == 1
        wait_until(lambda: eager.states() == ["parked"], "it is parked")
