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
from rawpg import Raw

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
            assert not thread.is_alive(), f"a client hangs: {self.server.sessions()}"

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
    for number in range(ROUNDS):
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
        if number % 2:
            # The point of no return is passed.
            wait_until(lambda: postmasters(server) != before, "the hand-over")
            time.sleep(chance.uniform(0.0, 0.05))
        else:
            time.sleep(chance.uniform(0.02, 0.3))
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


def shared_server(serve_module, version):
    server = serve_module(version, cluster="start_timeout_seconds = 3\nstop_timeout_seconds = 3")
    with server.connect() as connection:
        connection.execute("CREATE TABLE t (id int, note text)")
        # A COMMIT that takes as long as a test needs.
        connection.execute("CREATE TABLE slow (id int)")
        connection.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE PROCEDURE wait()"
        )
    return server


@pytest.fixture(scope="module")
def shared(serve_module):
    return shared_server(serve_module, "15")


@pytest.fixture(scope="module", params=["10", "15", "18"])
def of_version(request, serve_module):
    return shared_server(serve_module, request.param)


def settle(server):
    """Until every session at rest has been looked at: what the router knows of it is then what it is."""
    # Sessions look at themselves shortly after they come to rest, but not more often than every second.
    time.sleep(1.5)


class Rich:
    """A session with everything that must outlive its server."""

    def __init__(self, server, key):
        self.server, self.key = server, key
        self.connection = server.connect()
        self.connection.execute("SET work_mem = '7MB'")
        self.connection.execute("SET my.own = 'thing'")
        self.connection.execute("PREPARE p (int) AS SELECT $1 + 1")
        self.connection.execute("LISTEN news")
        self.connection.execute("SELECT pg_advisory_lock(%s)", (key,))
        self.backend = self.ask("SELECT pg_backend_pid()")

    def ask(self, *statement):
        return self.connection.execute(*statement).fetchone()[0]

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


def raw(server):
    login = {"user": "master", "password": server.password, "dbname": server.database}
    return Raw(host="127.0.0.1", port=server.port, **login)


def process_of(connection):
    return connection.execute("SELECT pg_backend_pid()").fetchone()[0]


def kill_postmaster(server, _process=None):
    os.kill(server.status()["backend_pid"], signal.SIGKILL)


def kill_one_process(_server, process):
    """The server ends all its sessions and starts anew; its main process stays."""
    os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_postmaster, kill_one_process])
def test_sessions_outlive_a_crash_of_their_database(of_version, kill):
    shared = of_version
    rich = Rich(shared, len(kill.__name__))
    plain = shared.connect()
    process = process_of(plain)
    temporary = shared.connect()
    temporary.execute("CREATE TEMPORARY TABLE mine (id int)")
    open_one = shared.connect(autocommit=False)
    open_one.execute("INSERT INTO t VALUES (1, 'lost')")
    failed = shared.connect(autocommit=False)
    with pytest.raises(psycopg.errors.DivisionByZero):
        failed.execute("SELECT 1 / 0")
    in_statement = shared.connect(autocommit=False)
    in_statement.execute("INSERT INTO t VALUES (2, 'lost')")
    outside = shared.connect()
    committing = shared.connect(autocommit=False)
    committing.execute("INSERT INTO slow VALUES (1)")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        running = pool.submit(in_statement.execute, "SELECT pg_sleep(60)")
        alone = pool.submit(outside.execute, "SELECT pg_sleep(60)")
        commit = pool.submit(committing.commit)
        settle(shared)
        kill(shared, process)

        # A transaction that certainly did not commit: the session goes on.
        with pytest.raises(psycopg.errors.SerializationFailure):
            running.result(30)
        # Nobody knows.
        with pytest.raises(psycopg.errors.TransactionResolutionUnknown):
            commit.result(30)
        with pytest.raises(psycopg.errors.StatementCompletionUnknown):
            alone.result(30)
    assert committing.closed and outside.closed
    with pytest.raises(psycopg.OperationalError, match="session state was lost with the server: .*temporary table"):
        temporary.execute("SELECT 1")
    assert temporary.closed

    rich.check()
    assert plain.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.errors.SerializationFailure):
        open_one.execute("SELECT 1")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        failed.execute("SELECT 1")
    for session in (open_one, failed, in_statement):
        assert session.info.transaction_status == TransactionStatus.INERROR
        session.rollback()
        assert session.execute("SELECT count(*) FROM t WHERE note = 'lost'").fetchone() == (0,)
        session.commit()
        session.close()
    plain.close()
    wait_until(lambda: shared.status()["state"] == "available", "available")
    one_writer(shared)
    clean_log(shared)


def test_a_statement_whose_result_has_changed_says_so_after_a_crash(of_version):
    with of_version.connect() as other:
        other.execute("CREATE TABLE IF NOT EXISTS changing (a int)")
        session = of_version.connect()
        session.execute("PREPARE drifts (int) AS SELECT * FROM changing WHERE a > $1")
        settle(of_version)
        other.execute("ALTER TABLE changing ADD COLUMN b int")
    for _ in range(2):
        before = of_version.status()["backend_pid"]
        kill_postmaster(of_version)
        wait_until(lambda: of_version.status()["backend_pid"] not in (None, before), "another database")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not") as caught:
            session.execute("EXECUTE drifts (1)")
        # By this some drivers know that they must prepare it again.
        assert caught.value.diag.source_function == "RevalidateCachedQuery"
        settle(of_version)
        # As it would without a crash.
        assert [row["obstacle"] for row in of_version.sessions()] == [None]
    session.execute("DEALLOCATE drifts")
    session.execute("PREPARE drifts AS SELECT * FROM changing")
    session.execute("EXECUTE drifts")
    session.close()


@pytest.mark.parametrize("ending", ["sync", "flush"])
def test_the_unnamed_statement_after_a_crash_is_the_latest(shared, ending):
    session = raw(shared)
    session.prepare("", "SELECT 1")
    settle(shared)
    session.parse("", "SELECT 2")
    getattr(session, ending)()
    assert session.read()[0] == "1"
    if ending == "sync":
        assert session.read() == ("Z", b"I")
    before = shared.status()["backend_pid"]
    kill_postmaster(shared)
    wait_until(lambda: shared.status()["backend_pid"] not in (None, before), "another database")
    assert session.run("") == [(b"2",)]
    session.close()


def test_a_crash_after_a_change_is_told_as_any_other(shared):
    """A session that was carried by a change, and runs a statement that outlives its server for a while."""
    running, waiting = shared.connect(autocommit=False), shared.connect(autocommit=False)
    shared.swap()
    running.execute("INSERT INTO t VALUES (3, 'lost')")
    waiting.execute("INSERT INTO t VALUES (4, 'lost')")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # It never looks up, so it does not notice that the server is gone; the router notices first.
        counted = pool.submit(running.execute, "SELECT count(*) FROM generate_series(1, 1000000000)")
        wait_until(lambda: "statement_in_progress" in [s["obstacle"] for s in shared.sessions()], "it runs")
        kill_postmaster(shared)
        with pytest.raises(psycopg.errors.SerializationFailure):
            counted.result(30)
    with pytest.raises(psycopg.errors.SerializationFailure):
        waiting.execute("SELECT 1")
    for session in (running, waiting):
        session.rollback()
        assert session.execute("SELECT count(*) FROM t WHERE note = 'lost'").fetchone() == (0,)
        session.close()
    one_writer(shared)


def test_a_long_statement_after_the_loss_is_answered(shared):
    session = shared.connect(autocommit=False)
    session.execute("INSERT INTO t VALUES (1, 'lost')")
    settle(shared)
    before = shared.status()["backend_pid"]
    kill_postmaster(shared)
    # What is under way when the database dies is another matter.
    wait_until(lambda: shared.status()["backend_pid"] not in (None, before), "another database")
    with pytest.raises(psycopg.errors.SerializationFailure):
        session.execute("INSERT INTO t VALUES (2, %s)", ("x" * 1_000_000,))
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        session.execute("SELECT %s::text", ("x" * 1_000_000,))
    session.rollback()
    assert session.execute("SELECT count(*) FROM t WHERE note = 'lost'").fetchone() == (0,)
    session.close()


def test_a_session_that_is_terminated_alone_is_told_so(shared):
    one, other = shared.connect(), shared.connect()
    number = process_of(one)
    before = shared.status()["backend_pid"]
    assert other.execute("SELECT pg_terminate_backend(%s)", (number,)).fetchone() == (True,)
    with pytest.raises(psycopg.errors.AdminShutdown, match="terminating connection due to administrator command"):
        one.execute("SELECT 1")
    assert one.closed
    assert other.execute("SELECT 1").fetchone() == (1,)
    assert shared.status()["backend_pid"] == before
    other.close()
    clean_log(shared)


class Switched:
    """A folder of server programs whose `postgres` can be told to fail."""

    REAL = "exec {real} \"$@\""
    FAILURES = {
        "ends": "echo 'FATAL:  told to fail' >&2; exit 1",
        "hangs": "exec sleep 600",
    }

    def __init__(self, folder, version="15"):
        self.folder = folder / "programs"
        self.folder.mkdir()
        real = pathlib.Path(server_folder(version))
        for program in real.iterdir():
            if program.name != "postgres":
                (self.folder / program.name).symlink_to(program)
        self.real = real / "postgres"
        self.program = self.folder / "postgres"
        self.write(self.REAL)

    def write(self, body):
        fresh = self.folder / "postgres.new"
        fresh.write_text("#!/bin/sh\n" + body.format(real=self.real) + "\n")
        fresh.chmod(0o755)
        fresh.rename(self.program)

    def fail(self, how, capacity):
        """Only starts with this capacity fail, so that the old one can come back."""
        # A quarter of the memory (256 MiB for each unit) is the server's cache, and that is on its command line.
        cache = f"shared_buffers={capacity * 256 // 4 * 1024}kB"
        self.write(f'case "$*" in *{cache}*) {self.FAILURES[how]} ;; esac\n{self.REAL}')


def use_programs(server, folder):
    text = server.config.read_text()
    server.config.write_text(re.sub(r'^server = ".*"$', f'server = "{folder}"', text, flags=re.MULTILINE))


@contextlib.contextmanager
def ended(server):
    """Ends a server that was set up by hand; its database must end with it."""
    try:
        yield server
        server.stop()
    except BaseException:
        print(server.log())
        raise
    finally:
        server.end()
        server.remove()


def test_a_new_capacity_that_never_gets_ready_is_given_up():
    server = Server("15", cluster="start_timeout_seconds = 3")
    programs = Switched(server.folder)
    use_programs(server, programs.folder)
    with ended(server.start()):
        rich = Rich(server, 1)
        ledger = Ledger(server, writers=2)
        settle(server)
        ledger.start()
        for how, words in (("ends", "told to fail"), ("hangs", "not ready after 3 s")):
            programs.fail(how, 4)
            report = server.scale(4, exits=(1,))
            assert report["outcome"] == "failed" and words in report["error"], report
            # Whoever was there is there.
            assert report["sessions"] == {"carried": 3, "aborted": 0, "closed": 0}
            assert server.status()["capacity"] == 2 and server.status()["state"] == "available"
            one_writer(server)
            seen = len(ledger.acknowledged)
            wait_until(lambda: len(ledger.acknowledged) > seen + 20, "writes after it")
        programs.write(programs.REAL)
        assert server.scale(4)["outcome"] == "scaled"
        ledger.stop()
        assert not ledger.failures
        ledger.check()
        rich.check()
        clean_log(server)


def test_a_new_database_killed_while_it_starts(serve):
    server = serve("15")
    rich = Rich(server, 1)
    ledger = Ledger(server, writers=2)
    settle(server)
    ledger.start()
    outcomes = []
    for _ in range(4):
        old = postmasters(server)
        change = scale_in_background(server, other_capacity(server))
        new = wait_until(lambda: change.done() or set(postmasters(server)) - set(old), "a new database")
        with contextlib.suppress(ProcessLookupError, TypeError):
            for pid in new:
                os.kill(pid, signal.SIGKILL)
        outcomes.append(change.result(60)["outcome"])
        wait_until(lambda: server.status()["state"] == "available", "a database again")
        wait_until(lambda: len(postmasters(server)) == 1, "one database")
        seen = len(ledger.acknowledged)
        wait_until(lambda: len(ledger.acknowledged) > seen + 20, "writes after it")
    ledger.stop()
    print(outcomes)
    assert set(outcomes) <= {"failed", "scaled"}
    ledger.check()
    rich.check()
    one_writer(server)
    clean_log(server)


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing():
    server = Server("15", parameters={"max_wal_size": "64MB", "min_wal_size": "32MB"})
    filler = server.data_dir / "filler"
    with small_disk(server.data_dir, "200m"), ended(server.start()):
        rich = Rich(server, 1)
        ledger = Ledger(server, writers=2)
        ledger.start()
        wait_until(lambda: len(ledger.acknowledged) > 20, "writes")
        ledger.stop()
        settle(server)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        # The change is refused before anything is touched; whoever reads goes on reading.
        before = server.status()["backend_pid"]
        report = server.scale(4, exits=(1,))
        assert report["outcome"] == "failed" and "the disk is full" in report["error"], report
        assert server.status()["backend_pid"] == before
        assert rich.ask("SELECT count(*) FROM ledger") >= len(ledger.acknowledged)
        with server.connect() as connection, pytest.raises(psycopg.errors.DiskFull):
            connection.execute("CREATE TABLE big AS SELECT repeat('x', 500) FROM generate_series(1, 100000)")
        # Even if its database dies now and cannot be started, nothing is lost.
        kill_postmaster(server)
        filler.unlink()
        wait_until(lambda: server.status()["state"] == "available", "a database again")
        ledger.check()
        rich.check()
        assert server.scale(4)["outcome"] == "scaled"
        ledger.check()
        one_writer(server)


def test_a_server_that_hangs_is_replaced(shared):
    rich = Rich(shared, 100)
    settle(shared)
    process = shared.status()["backend_pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        report = shared.scale(other_capacity(shared))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
    assert report["outcome"] == "scaled" and report["sessions"] == {"carried": 1, "aborted": 0, "closed": 0}
    rich.check()
    one_writer(shared)
    clean_log(shared)


def test_a_session_that_hangs_in_a_hold_costs_the_change(shared):
    """It would have to be asked for its state, and does not answer."""
    rich = Rich(shared, 101)
    other = shared.connect()
    process = process_of(rich.connection)
    os.kill(process, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            change = pool.submit(shared.scale, other_capacity(shared), seconds=10, action="rollback", exits=(3,))
            while not change.done():
                # Nobody waits longer than one hold for somebody else.
                assert other.execute("SELECT 1").fetchone() == (1,)
            assert change.result()["outcome"] == "rolled_back"
    finally:
        os.kill(process, signal.SIGCONT)
    other.close()
    rich.check()
    one_writer(shared)
    clean_log(shared)
