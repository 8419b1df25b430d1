"""Whatever is killed, at whatever moment of a change: the data are whole, one database writes, clients are served."""

import concurrent.futures
import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time

import psycopg
import pytest
from conftest import Server, server_folder, serving, wait_until
from psycopg.pq import TransactionStatus

ROUNDS = 12


def postmasters(server):
    """Main processes on the volume: those that were started with `-D`, and not by another of them."""
    volume = (server.data_dir / server.name / "volume").stat()
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            home = os.stat(f"{entry.path}/cwd")
            if (home.st_dev, home.st_ino) != (volume.st_dev, volume.st_ino):
                continue
            if os.path.basename(os.readlink(f"{entry.path}/exe")).split()[0] != "postgres":
                continue
            stat = pathlib.Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
            if stat[0] == "Z":
                continue
            line = pathlib.Path(entry.path, "cmdline").read_bytes().split(b"\0")
            found[int(entry.name)] = (int(stat[1]), line)
    return [pid for pid, (parent, line) in found.items() if b"-D" in line and parent not in found]


def one_writer(server):
    assert len(postmasters(server)) == 1
    assert postmasters(server) == [server.status()["backend_pid"]]


def clean_log(server):
    log = server.log_path.read_text(errors="replace")
    assert not re.findall(r"^.*(?:panicked|RUST_BACKTRACE| ERROR ).*$", log, re.MULTILINE)


class Ledger:
    """Writers that note what they were promised. Rows come singly and in pairs; half a pair must never be seen."""

    def __init__(self, server, writers=4):
        self.server = server
        self.acknowledged = set()
        self.doubtful = set()
        self.failures = 0
        self.lock = threading.Lock()
        self.next = 0
        self.running = False
        with server.connect() as connection:
            connection.execute("CREATE TABLE ledger (entry bigint, part int)")
            connection.execute("CREATE INDEX ON ledger (entry)")
        self.writers = writers

    def start(self):
        self.running = True
        self.threads = [threading.Thread(target=self.write, args=(number,)) for number in range(self.writers)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.running = False
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def write(self, number):
        connection = None
        while self.running:
            with self.lock:
                self.next += 1
                entry = self.next
            try:
                if connection is None or connection.closed:
                    connection = self.server.connect()
                self.insert(connection, entry, pair=number % 2 == 1)
                with self.lock:
                    self.acknowledged.add(entry)
            except psycopg.errors.SerializationFailure:
                # "Certainly not committed": it may neither be there nor count as doubtful.
                self.failures += 1
            except psycopg.Error:
                self.failures += 1
                with self.lock:
                    self.doubtful.add(entry)
                time.sleep(0.01)
        if connection is not None:
            connection.close()

    @staticmethod
    def insert(connection, entry, pair):
        statement = "INSERT INTO ledger VALUES (%s, %s)"
        if not pair:
            connection.execute(statement, (entry, 0))
            return
        with connection.transaction():
            connection.execute(statement, (entry, 1))
            connection.execute(statement, (entry, 2))

    def check(self):
        with self.server.connect() as connection:
            rows = connection.execute("SELECT entry, array_agg(part ORDER BY part) FROM ledger GROUP BY entry").fetchall()
            connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
            connection.execute("SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = 'ledger'::regclass")
        found = {entry for entry, _ in rows}
        assert not self.acknowledged - found, "acknowledged rows are lost"
        assert not found - self.acknowledged - self.doubtful, "rows that were certainly not committed are there"
        assert all(parts in ([0], [1, 2]) for _, parts in rows), "a row twice, or half a transaction"


def scale_in_background(server, capacity, **options):
    def scale():
        with contextlib.suppress(subprocess.SubprocessError):
            return server.scale(capacity, exits=(0, 1, 3, 4, 5), **options)

    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(scale)
    pool.shutdown(wait=False)
    return future


def other_capacity(server):
    return 4 if server.status()["capacity"] == 2 else 2


def test_the_router_killed_at_any_moment(serve):
    server = serve("15")
    ledger = Ledger(server)
    chance = random.Random(5)
    moments = []
    for _ in range(ROUNDS):
        ledger.start()
        wait_until(lambda: len(ledger.acknowledged) > 20, "writes")
        to = other_capacity(server)
        before = postmasters(server)
        scaling = threading.Thread(
            target=lambda: subprocess.run(
                [os.environ["SCALEPOINT_BIN"], "--admin", f"127.0.0.1:{server.admin_port}", "scale", server.name, str(to)],
                capture_output=True,
                timeout=60,
            )
        )
        scaling.start()
        time.sleep(chance.uniform(0.02, 0.45))
        server.kill()
        now = postmasters(server)
        assert len(now) <= 1
        moments.append("between" if not now else "before" if now == before else "after")
        scaling.join()
        server.start()
        one_writer(server)
        # Those who lost their connection have come back.
        seen = len(ledger.acknowledged)
        wait_until(lambda: len(ledger.acknowledged) > seen + 20, "writes after the restart")
        ledger.stop()
        ledger.check()
    print(f"{len(ledger.acknowledged)} acknowledged, {len(ledger.doubtful)} doubtful; killed {moments}")
    server.swap()
    ledger.check()
    clean_log(server)


def test_the_database_killed_at_any_moment_of_a_change(serve):
    server = serve("15")
    ledger = Ledger(server)
    chance = random.Random(7)
    ledger.start()
    outcomes = []
    for _ in range(ROUNDS):
        change = scale_in_background(server, other_capacity(server))
        time.sleep(chance.uniform(0.0, 0.3))
        for pid in postmasters(server):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        report = change.result(60)
        outcomes.append(report["outcome"])
        wait_until(lambda: server.status()["state"] == "available", "a database again")
        seen = len(ledger.acknowledged)
        wait_until(lambda: len(ledger.acknowledged) > seen + 20, "writes after it")
        wait_until(lambda: len(postmasters(server)) == 1, "one database")
    ledger.stop()
    print(f"{len(ledger.acknowledged)} acknowledged, {len(ledger.doubtful)} doubtful, {ledger.failures} told; {outcomes}")
    one_writer(server)
    ledger.check()
    clean_log(server)
