"""Whatever is killed, at whatever moment of a change: the data are whole, one database writes, clients are served.

The tests that are the same for every engine; test_crash.py and test_mysql_crash.py run them. The fixtures are theirs:
`engine` (a product, no server yet) and `shared` (one with a server that several tests share); see crash_engines.py.
"""

import concurrent.futures
import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time

import pytest
from conftest import running, wait_until


class Ledger:
    """Writers that note what they were promised. Rows come singly and in pairs; half a pair must never be seen."""

    def __init__(self, engine, writers=4):
        self.engine = engine
        self.acknowledged = set()
        self.doubtful = set()
        self.failures = 0
        self.lock = threading.Lock()
        self.next = 0
        self.running = False
        with engine.server.connect() as connection:
            engine.run(connection, "DROP TABLE IF EXISTS ledger")
            engine.run(connection, "CREATE TABLE ledger (entry bigint, part int)")
            engine.run(connection, "CREATE INDEX by_entry ON ledger (entry)")
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
            assert not thread.is_alive(), f"a client hangs: {self.engine.server.sessions()}"

    def write(self, number):
        connection = None
        while self.running:
            with self.lock:
                self.next += 1
                entry = self.next
            try:
                if connection is None:
                    connection = self.engine.server.connect()
                self.insert(connection, entry, pair=number % 2 == 1)
                with self.lock:
                    self.acknowledged.add(entry)
            except self.engine.errors as error:
                self.failures += 1
                if self.engine.is_told(error, "aborted"):
                    # "Certainly not committed": it may neither be there nor count as doubtful.
                    continue
                with self.lock:
                    self.doubtful.add(entry)
                if connection is not None and self.engine.is_closed(connection):
                    connection = None
                time.sleep(0.01)
        if connection is not None:
            connection.close()

    def insert(self, connection, entry, pair):
        statement = "INSERT INTO ledger VALUES (%s, %s)"
        if not pair:
            self.engine.run(connection, statement, entry, 0)
            return
        with self.engine.transaction(connection):
            self.engine.run(connection, statement, entry, 1)
            self.engine.run(connection, statement, entry, 2)

    def goes_on(self):
        """Clients are served."""
        seen = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > seen + 20, "writes")

    def check(self):
        found = {}
        with self.engine.server.connect() as connection:
            for entry, part in self.engine.run(connection, "SELECT entry, part FROM ledger ORDER BY entry, part"):
                found.setdefault(entry, []).append(part)
            self.engine.check_table(connection, "ledger")
        assert not self.acknowledged - found.keys(), "acknowledged rows are lost"
        assert not found.keys() - self.acknowledged - self.doubtful, "rows that were certainly not committed are there"
        assert all(parts in ([0], [1, 2]) for parts in found.values()), "a row twice, or half a transaction"


def scale_in_background(server, capacity, **options):
    def scale():
        with contextlib.suppress(subprocess.SubprocessError):
            return server.scale(capacity, exits=(0, 1, 3, 4, 5), **options)

    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(scale)
    pool.shutdown(wait=False)
    return future


def settle(server):
    """Until every session at rest has been looked at: what the router knows of it is then what it is."""
    # Sessions look at themselves shortly after they come to rest, but not more often than every second.
    looks, since, end = None, time.monotonic(), time.monotonic() + 10
    while time.monotonic() < min(since + 1.5, end):
        before, looks = looks, looks_at_sessions(server)
        if looks != before:
            # On a busy machine the next one may be late, too.
            since = time.monotonic()
        time.sleep(0.2)


def looks_at_sessions(server):
    counts = [value for name, value in server.metrics().items() if name.startswith("scalepoint_capture_seconds_count")]
    assert counts, "the metric has another name now"
    return sum(counts)


def until_another(server, before):
    wait_until(lambda: server.status()["backend_pid"] not in (None, before), "another database")


def share(engine):
    """A server for several tests."""
    return prepared(engine, running(engine.make(cluster="start_timeout_seconds = 5\nstop_timeout_seconds = 3")))


@contextlib.contextmanager
def prepared(engine, server):
    with server:
        engine.prepare()
        yield engine


def test_the_router_killed_at_any_moment(shared):
    engine, server = shared, shared.server
    ledger = Ledger(engine)
    chance = random.Random(5)
    moments = []
    for number in range(engine.rounds):
        ledger.start()
        ledger.goes_on()
        to = engine.other_capacity()
        before = engine.main_processes()
        command = [os.environ["SCALEPOINT_BIN"], "--admin", f"127.0.0.1:{server.admin_port}", "scale"]
        command += [server.name, str(to)]
        scaling = threading.Thread(target=subprocess.run, args=(command,), kwargs={"capture_output": True, "timeout": 60})
        scaling.start()
        if number % 2:
            # The point of no return is passed. (The next server is there before, and waits.)
            wait_until(lambda: before[0] not in engine.main_processes(), "the hand-over")
            time.sleep(chance.uniform(0.0, 0.05))
        else:
            time.sleep(chance.uniform(0.02, 0.3))
        server.kill()
        # One that waited for its turn does not outlive the router.
        wait_until(lambda: len(engine.main_processes()) <= 1, "one database at most")
        now = engine.main_processes()
        moments.append("between" if not now else "before" if now == before else "after")
        scaling.join()
        server.start()
        engine.one_writer()
        # Those who lost their connection have come back.
        ledger.goes_on()
        ledger.stop()
        ledger.check()
    print(f"{len(ledger.acknowledged)} acknowledged, {len(ledger.doubtful)} doubtful; killed {moments}")
    server.swap()
    ledger.check()
    engine.clean_log()


def test_the_database_killed_at_any_moment_of_a_change(shared):
    engine, server = shared, shared.server
    ledger = Ledger(engine)
    chance = random.Random(7)
    ledger.start()
    outcomes = []
    for _ in range(engine.rounds):
        change = scale_in_background(server, engine.other_capacity())
        time.sleep(chance.uniform(0.0, 0.3))
        for pid in engine.main_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        outcomes.append(change.result(60)["outcome"])
        wait_until(lambda: server.status()["state"] == "available", "a database again")
        ledger.goes_on()
        wait_until(lambda: len(engine.main_processes()) == 1, "one database")
    ledger.stop()
    counts = f"{len(ledger.acknowledged)} acknowledged, {len(ledger.doubtful)} doubtful, {ledger.failures} told"
    print(f"{counts}; {outcomes}")
    engine.one_writer()
    ledger.check()
    engine.clean_log()


def next_server(engine, old):
    """The server that waits for the end of the old one, as soon as it is there, or the one that follows it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        copy = engine.server.copy
        for pid in engine.main_processes() + (engine.main_processes_on(copy) if copy else []):
            if pid not in old:
                return pid
    raise AssertionError("no server was started ahead")


def test_whoever_is_killed_while_the_next_server_waits(shared):
    engine, server = shared, shared.server
    ledger = Ledger(engine)
    ledger.start()
    for victim in ("next", "old", "router", "both servers"):
        ledger.goes_on()
        volume, old = server.volume, engine.main_processes()
        change = scale_in_background(server, engine.other_capacity())
        waits = next_server(engine, old)
        killed = {"next": [waits], "old": old, "router": [], "both servers": [*old, waits]}[victim]
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim == "router":
            server.kill()
            # It never works on the volume: it goes with the router, whatever becomes of the old one. (One that follows, or
            # was just promoted, has a volume of its own, and stays.)
            wait_until(lambda: waits not in engine.main_processes_on(volume), "the end of the one that waited")
            server.start()
        else:
            assert change.result(60)["outcome"] in ("scaled", "failed")
        # Its death may not have been noticed yet.
        wait_until(lambda: engine.main_processes() == [server.status()["backend_pid"]], "one database, and no other")
    ledger.goes_on()
    ledger.stop()
    ledger.check()
    engine.clean_log()


def sessions_outlive(engine, arm):
    """Everybody who can be there when a database dies. `arm` is given one of them, and returns what kills."""
    server, connect = engine.server, engine.server.connect
    rich = engine.rich(11)
    plain, temporary, outside = connect(), connect(), connect()
    open_one, failed, in_statement, committing = (connect(autocommit=False) for _ in range(4))
    kill = arm(plain)
    # Some drivers change their session when they connect, and none can be looked at in a transaction.
    settle(server)
    engine.run(temporary, "CREATE TEMPORARY TABLE mine (id int)")
    engine.run(open_one, "INSERT INTO t VALUES (1, 'lost')")
    engine.run(failed, "INSERT INTO t VALUES (1, 'lost')")
    told_next = engine.fail(failed)
    engine.run(in_statement, "INSERT INTO t VALUES (2, 'lost')")
    engine.run(committing, "INSERT INTO slow VALUES (1)")
    with concurrent.futures.ThreadPoolExecutor(3) as pool, engine.stall():
        running_one = pool.submit(engine.run, in_statement, engine.sleep)
        alone = pool.submit(engine.run, outside, "INSERT INTO slow VALUES (2)")
        commit = pool.submit(committing.commit)
        settle(server)
        kill()

        # A transaction that certainly did not commit: the session goes on.
        with engine.told("aborted"):
            running_one.result(30)
        # Nobody knows.
        with engine.told("commit unknown"):
            commit.result(30)
        with engine.told("statement unknown"):
            alone.result(30)
    assert engine.is_closed(committing) and engine.is_closed(outside)
    # Until the router has seen the end of its own backend, a session passes on what it is sent, and nobody knows.
    wait_until(lambda: len(server.sessions()) == 5, "those who cannot go on are closed")
    with engine.told("temporary table lost"):
        engine.run(temporary, "SELECT 1")
    assert engine.is_closed(temporary)

    rich.check()
    assert engine.one(plain, "SELECT 1") == 1
    with engine.told("aborted"):
        engine.run(open_one, "SELECT 1")
    with engine.told(told_next):
        engine.run(failed, "SELECT 1")
    for session in (open_one, failed, in_statement):
        engine.check_aborted(session)
        session.rollback()
        assert engine.one(session, "SELECT count(*) FROM t WHERE note = 'lost'") == 0
        session.commit()
        session.close()
    plain.close()
    wait_until(lambda: server.status()["state"] == "available", "available")
    engine.one_writer()
    engine.clean_log()


def test_sessions_outlive_a_crash_of_their_database(of_version):
    sessions_outlive(of_version, lambda _: of_version.kill_database)


def test_a_crash_after_a_change_is_told_as_any_other(shared):
    """A session that was carried by a change, and runs a statement that may outlive its server for a while."""
    server = shared.server
    busy, waiting = server.connect(autocommit=False), server.connect(autocommit=False)
    server.swap()
    shared.run(busy, "INSERT INTO t VALUES (3, 'lost')")
    shared.run(waiting, "INSERT INTO t VALUES (4, 'lost')")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # It never looks up, so it does not notice that the server is gone; the router notices first.
        counted = pool.submit(shared.run, busy, shared.long_read)
        wait_until(lambda: "statement_in_progress" in [s["obstacle"] for s in server.sessions()], "it runs")
        shared.kill_database()
        with shared.told("aborted"):
            counted.result(30)
    with shared.told("aborted"):
        shared.run(waiting, "SELECT 1")
    for session in (busy, waiting):
        session.rollback()
        assert shared.one(session, "SELECT count(*) FROM t WHERE note = 'lost'") == 0
        session.close()
    shared.one_writer()


def test_a_long_statement_after_the_loss_is_answered(shared):
    server = shared.server
    session = server.connect(autocommit=False)
    settle(server)
    shared.run(session, "INSERT INTO t VALUES (1, 'lost')")
    before = server.status()["backend_pid"]
    shared.kill_database()
    # What is under way when the database dies is another matter.
    until_another(server, before)
    with shared.told("aborted"):
        shared.run(session, "INSERT INTO t VALUES (2, %s)", "x" * 1_000_000)
    shared.check_aborted(session)
    session.rollback()
    assert shared.one(session, "SELECT count(*) FROM t WHERE note = 'lost'") == 0
    session.close()


def test_a_session_that_is_terminated_alone_is_told_so(shared):
    one, other = shared.server.connect(), shared.server.connect()
    before = shared.server.status()["backend_pid"]
    shared.terminate(other, one)
    with shared.told("terminated"):
        shared.run(one, "SELECT 1")
    assert shared.is_closed(one)
    assert shared.one(other, "SELECT 1") == 1
    assert shared.server.status()["backend_pid"] == before
    other.close()
    shared.clean_log()


def test_a_client_vanishes_in_a_transaction(shared):
    """Before a crash, and while there is no server: nothing of it stays, and nothing waits for it."""
    server = shared.server
    for moment in ("before", "between"):
        session = server.connect(autocommit=False)
        shared.run(session, "INSERT INTO t VALUES (6, 'lost')")
        before = server.status()["backend_pid"]
        if moment == "before":
            shared.vanish(session)
        shared.kill_database()
        if moment == "between":
            shared.vanish(session)
        until_another(server, before)
        wait_until(lambda: not server.sessions(), "it is gone")
        with server.connect() as other:
            assert shared.one(other, "SELECT count(*) FROM t WHERE note = 'lost'") == 0
        wait_until(lambda: not server.sessions(), "nobody is there")
    shared.one_writer()
    shared.clean_log()


class Switched:
    """A copy of an installation whose server can be told to fail."""

    REAL = 'exec {real} "$@"'
    FAILURES = {
        "ends": "echo 'FATAL:  told to fail' >&2; exit 1",
        "hangs": "exec sleep 600",
    }

    def __init__(self, engine, root):
        self.engine = engine
        real = engine.programs_folder()
        # What belongs to the programs is found beside their folder.
        self.folder = root / "installation" / real.name
        self.folder.mkdir(parents=True)
        for entry in real.parent.iterdir():
            if entry.name != real.name:
                (self.folder.parent / entry.name).symlink_to(entry)
        for program in real.iterdir():
            if program.name != engine.program:
                (self.folder / program.name).symlink_to(program)
        self.real = real / engine.program
        self.program = self.folder / engine.program
        self.write(self.REAL)

    def write(self, body):
        fresh = self.folder / "fresh"
        fresh.write_text("#!/bin/sh\n" + body.format(real=self.real) + "\n")
        fresh.chmod(0o755)
        fresh.rename(self.program)

    def fail(self, how, capacity):
        """Only starts with this capacity fail, so that the old one can come back."""
        self.write(f'case "$*" in *{self.engine.mark_of(capacity)}*) {self.FAILURES[how]} ;; esac\n{self.REAL}')

    def use(self, server):
        text = server.config.read_text()
        server.config.write_text(re.sub(r'^server = ".*"$', f'server = "{self.folder}"', text, flags=re.MULTILINE))


def test_a_new_capacity_that_never_gets_ready_is_given_up(engine):
    server = engine.make(cluster="start_timeout_seconds = 4")
    programs = Switched(engine, server.folder)
    programs.use(server)
    with running(server):
        rich = engine.rich(1)
        ledger = Ledger(engine, writers=2)
        settle(server)
        ledger.start()
        ledger.goes_on()
        wait_until(lambda: len(server.sessions()) == 3, "everybody is there")
        capacity = server.status()["capacity"]
        for how, words in (("ends", "told to fail"), ("hangs", "not ready after 4 s")):
            programs.fail(how, 4)
            # A session that has nothing to say has no backend after the first of them.
            assert rich.ask("SELECT 1") == 1
            report = server.scale(4, exits=(1,))
            assert report["outcome"] == "failed" and words in report["error"], report
            # Whoever was there is there.
            assert report["sessions"] == {"carried": 3, "aborted": 0, "closed": 0}
            assert server.status()["capacity"] == capacity and server.status()["state"] == "available"
            engine.one_writer()
            ledger.goes_on()
        programs.write(programs.REAL)
        assert server.scale(4)["outcome"] == "scaled"
        ledger.stop()
        assert not ledger.failures
        ledger.check()
        rich.check()
        engine.clean_log()


def test_a_new_database_killed_while_it_starts(shared):
    engine, server = shared, shared.server
    rich = engine.rich(1)
    ledger = Ledger(engine, writers=2)
    settle(server)
    ledger.start()
    outcomes = []
    for _ in range(4):
        old = engine.main_processes()
        change = scale_in_background(server, engine.other_capacity())
        new = wait_until(lambda: change.done() or set(engine.main_processes()) - set(old), "a new database")
        with contextlib.suppress(ProcessLookupError, TypeError):
            for pid in new:
                os.kill(pid, signal.SIGKILL)
        outcomes.append(change.result(60)["outcome"])
        wait_until(lambda: server.status()["state"] == "available", "a database again")
        wait_until(lambda: len(engine.main_processes()) == 1, "one database")
        ledger.goes_on()
    ledger.stop()
    print(outcomes)
    assert set(outcomes) <= {"failed", "scaled"}
    ledger.check()
    rich.check()
    engine.one_writer()
    engine.clean_log()


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing(engine):
    server = engine.make(parameters=engine.small_parameters)
    filler = server.data_dir / "filler"
    with small_disk(server.data_dir, engine.small_disk), running(server):
        rich = engine.rich(1)
        ledger = Ledger(engine, writers=2)
        ledger.start()
        wait_until(lambda: len(ledger.acknowledged) > 20, "writes")
        ledger.stop()
        settle(server)
        # There may be no room for what a log in takes.
        writer = server.connect()
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        # The change is refused before anything is touched; whoever reads goes on reading.
        before = server.status()["backend_pid"]
        report = server.scale(4, exits=(1,))
        assert report["outcome"] == "failed" and "the disk is full" in report["error"], report
        assert server.status()["backend_pid"] == before
        assert engine.one(writer, "SELECT count(*) FROM ledger") >= len(ledger.acknowledged)
        with writer, engine.told("disk full"):
            engine.fill(writer)
        # Even if its database dies now and cannot be started, nothing is lost.
        engine.kill_database()
        filler.unlink()
        until_another(server, before)
        ledger.check()
        rich.check()
        assert server.scale(4)["outcome"] == "scaled"
        ledger.check()
        engine.one_writer()


def test_a_server_that_hangs_is_replaced(shared):
    server = shared.server
    rich = shared.rich(100)
    settle(server)
    process = server.status()["backend_pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        report = server.scale(shared.other_capacity(), **shared.replaces_hanging)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
    assert report["outcome"] == shared.replaced and report["sessions"] == {"carried": 1, "aborted": 0, "closed": 0}
    rich.check()
    shared.one_writer()
    shared.clean_log()
