"""Starts `scalepoint serve` for a test, asks it things through its command line, and ends it cleanly.

Tests use the fixture `serve`, or `serving` where a fixture of a wider scope shares one server:

    def test_something(serve):
        server = serve("15")
        with server.connect() as connection:
            ...
            assert server.scale(4)["outcome"] == "scaled"

`serve_mysql("mariadb")` does the same with MariaDB ("mysql9", "mysql56": MySQL's); see mysqlserver.py.

Environment: SCALEPOINT_BIN (the program), SCALEPOINT_PG<version>_BIN and the like (see scripts/README.md), and optionally
SCALEPOINT_TEST_PORTS ("21000-21999": where free ports are looked for), SCALEPOINT_TEST_KEEP (keep data and logs),
SCALEPOINT_TEST_HANDOVER ("standby": the clusters of all tests that do not say themselves).
"""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import psycopg
import pytest
import template
from xdist.scheduler import LoadScopeScheduling

# They are full of assertions, too.
pytest.register_assert_rewrite("bad_input", "crash_cases", "crash_engines", "parking_cases", "parking_engines")

# What a test's parameters may name: MySQL's products as in mysqlserver.py, PostgreSQL's versions.
SERVERS = {"mariadb", "mysql9", "mysql56", "10", "12", "14", "15", "16", "17", "18"}


class ByServer(LoadScopeScheduling):
    """Tests of one file and one server share what they start, so they stay on one worker.

    By the name of a test, because pytest 9 keeps xdist's `loadgroup` from marking it.
    """

    def _split_scope(self, nodeid):
        return scope(nodeid)


def scope(nodeid):
    path, _, name = nodeid.partition("::")
    values = name.partition("[")[2].rstrip("]").split("-")
    servers = [value for value in values if value in SERVERS]
    return "-".join([path.rpartition("/")[2].removesuffix(".py"), *servers[:1]])


#: Whose tests last longest together, in this order: a worker that begins one of them last would keep everybody waiting.
LONGEST = [
    "test_mysql_crash-mysql9",
    "test_crash",
    "test_mysql_standby-mysql9",
    "test_standby",
    "test_mysql_crash-mariadb",
    "test_mysql_cli-mariadb",
    "test_forced",
    "test_parking",
    "test_mysql_standby-mariadb",
    "test_mysql_crash-mysql56",
    "test_mysql_session_state-mysql9",
    "test_mysql_cli-mysql9",
    "test_storm",
]


def pytest_xdist_make_scheduler(config, log):
    # By how long they last, not by how many they are.
    config.option.loadscopereorder = False
    return ByServer(config, log)


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LONGEST)}
    # Within a scope, and of those that are not listed, the order stays.
    items.sort(key=lambda item: rank.get(scope(item.nodeid), len(rank)))


START_DEADLINE = 60
STOP_DEADLINE = 60
MASTER = "master"


def binary():
    program = os.environ.get("SCALEPOINT_BIN")
    assert program, "SCALEPOINT_BIN must name the program under test"
    return program


def server_folder(version):
    folder = os.environ.get(f"SCALEPOINT_PG{version}_BIN")
    assert folder, f"SCALEPOINT_PG{version}_BIN must name the folder of PostgreSQL {version}'s programs"
    return folder


def free_ports(count):
    """Below the ports that outgoing connections get, so that none of those takes one meanwhile."""
    first, last = map(int, os.environ.get("SCALEPOINT_TEST_PORTS", "20000-31999").split("-"))
    found = []
    for port in random.sample(range(first, last + 1), last + 1 - first):
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} free ports from {first} to {last}")


def wait_until(condition, what, deadline=30):
    """Asks again and again until the answer is true; returns it."""
    end = time.monotonic() + deadline
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(0.02)


def in_threads(calls, deadline=None):
    """Runs all of them at once, `deadline` seconds at most; raises what the first of them raised."""
    failures = []

    def guarded(call):
        try:
            call()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline)
    assert not any(thread.is_alive() for thread in threads), f"somebody is not done within {deadline} s"
    if failures:
        raise failures[0]


class Refused(AssertionError):
    """A subcommand ended with another exit code than expected."""


class Serve:
    """A running `scalepoint serve` with one cluster; what is special to an engine is in the classes below it."""

    name = "test"
    engine = None
    min_capacity = 2
    #: Names of the server's programs, to find its processes.
    programs = ()
    #: Of the parameter group.
    usual_parameters = {}

    def __init__(self, programs_folder, *, memory="256MiB", database="app", parameters=None, cluster="", top=""):
        """`cluster`: further lines of the cluster's section; `top`: further sections of the file."""
        self.database = database
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="scalepoint-test-", dir=os.environ.get("TMPDIR", "/tmp")))
        self.folder.chmod(0o755)
        self.port, self.admin_port = free_ports(2)
        self.data_dir = self.folder / "data"
        self.password_file = self.folder / "password"
        self.password = "correct horse"
        self.password_file.write_text(self.password + "\n")
        self.password_file.chmod(0o600)
        parameters = {**self.usual_parameters, **(parameters or {})}
        group = "".join(f"{name} = {json.dumps(value)}\n" for name, value in parameters.items())
        self.config = self.folder / "scalepoint.toml"
        self.config.write_text(f"""
data_dir = "{self.data_dir}"

[admin]
listen = "127.0.0.1:{self.admin_port}"

[acu]
memory = "{memory}"

[router]
shutdown_grace_seconds = 2
{top}
[[cluster]]
name = "{self.name}"
engine = "{self.engine}"
listen = "127.0.0.1:{self.port}"
server = "{programs_folder}"
min_capacity = {self.min_capacity}
max_capacity = 16
auto_pause = false
master_username = "{MASTER}"
master_password_file = "{self.password_file}"
database_name = "{database}"
{cluster}
[cluster.parameters]
{group}
""")
        self.log_path = self.folder / "serve.log"
        self.process = None
        #: What is in a volume, of all that a server is made with.
        self.of_the_volume = (str(programs_folder), self.engine, self.min_capacity, database, group)

    # Life

    def start(self):
        """Starts and waits for the line `ready`."""
        if not self.data_dir.exists():
            template.copy(self.of_the_volume, self.data_dir, self._make)
        return self._start()

    def _make(self, folder):
        """The data directory, as a first start and stop leave it."""
        self._start().stop()
        for own in ("certs", f"{self.name}/run", f"{self.name}/log", f"{self.name}/second"):
            shutil.rmtree(self.data_dir / own, ignore_errors=True)
        # Another file system, perhaps.
        shutil.move(self.data_dir, folder)
        self.log_path.unlink()

    def _start(self):
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [binary(), "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.printed = []
        ready = threading.Event()

        def read():
            for line in self.process.stdout:
                self.printed.append(line.rstrip("\n"))
                if line == "ready\n":
                    ready.set()

        threading.Thread(target=read, daemon=True).start()
        wait_until(lambda: ready.is_set() or self.process.poll() is not None, "the line `ready`", START_DEADLINE)
        assert ready.is_set(), f"serve ended with exit code {self.process.poll()}:\n{self.log()}"
        return self

    def stop(self, expected=0):
        """SIGTERM; it must end with `expected` and leave no database process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_DEADLINE)
        finally:
            self.end()
        assert code == expected, f"serve ended with exit code {code}:\n{self.log()}"
        assert not self.database_processes(), "database processes are left"

    def kill(self):
        """SIGKILL to the router alone."""
        self.process.kill()
        self.process.wait()

    def end(self):
        """Whatever happened: nothing of it runs any more."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.left_over = self.database_processes()
        for pid in self.left_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
                # A promotion that the router did not live to see the end of has left the old server stopped.
                os.kill(pid, signal.SIGCONT)

    def remove(self):
        if "SCALEPOINT_TEST_KEEP" in os.environ:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def database_processes(self):
        """Processes that were started on this server's data directory."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                with contextlib.suppress(OSError):
                    line = pathlib.Path(entry.path, "cmdline").read_bytes()
                    if os.fsencode(self.data_dir) in line and any(name in line for name in self.programs):
                        found.append(int(entry.name))
        return found

    def log(self):
        return self.log_path.read_text(errors="replace")[-20000:]

    def follows(self):
        return False

    @property
    def volume(self):
        """The data directory that is the database."""
        return self._volumes()[0]

    @property
    def copy(self):
        """The one that follows it; None: there is none (yet)."""
        other = self._volumes()[1]
        return other if other.exists() else None

    def _volumes(self):
        home = self.data_dir / self.name
        first, second = home / "volume", home / "second" / "volume"
        marker = home / "primary"
        is_second = marker.exists() and marker.read_text() == "second\n"
        return (second, first) if is_second else (first, second)

    @property
    def ca(self):
        return self.data_dir / "certs" / "ca.pem"

    # The command line

    def run(self, *arguments, exits=(0,), deadline=150):
        """Runs a subcommand; returns what it printed."""
        command = [binary(), "--admin", f"127.0.0.1:{self.admin_port}", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, stdin=subprocess.DEVNULL)
        if done.returncode not in exits:
            raise Refused(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}")
        return done.stdout

    def scale(self, capacity, *, seconds=None, action=None, wait=True, exits=(0,)):
        """The report of `scale --json`; `exits=(3,)` for one that must be rolled back."""
        arguments = ["scale", self.name, capacity, "--json"]
        if seconds is not None:
            arguments += ["--seconds-before-timeout", seconds]
        if action is not None:
            arguments += ["--timeout-action", action]
        if not wait:
            arguments += ["--no-wait"]
        return json.loads(self.run(*arguments, exits=exits))

    def swap(self, seconds=60):
        """To another capacity and, at the same time, to another process; everybody must be carried."""
        capacity = 4 if self.status()["capacity"] == 2 else 2
        before = self.status()["backend_pid"]
        report = self.scale(capacity, seconds=seconds, action="rollback", exits=(0, 3))
        assert report["outcome"] == "scaled", f"{report}\n{self.log()}"
        assert self.status()["backend_pid"] != before
        return report

    def status(self):
        return json.loads(self.run("status", self.name, "--json"))["clusters"][0]

    def sessions(self):
        return json.loads(self.run("sessions", self.name, "--json"))["sessions"]

    def events(self):
        return json.loads(self.run("events", self.name, "--json"))["events"]

    def metrics(self):
        """Every sample of the metrics page, by its name with labels."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as page:
            text = page.read().decode()
        samples = re.findall(r"^([^#\s]\S*(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in samples}


#: The first version of PostgreSQL with `handover = "standby"`.
FIRST_FOLLOWED = 13


class Server(Serve):
    """PostgreSQL."""

    engine = "postgres"
    programs = (b"postgres",)
    usual_parameters = {"fsync": "off"}

    def __init__(self, version="15", *, handover=None, cluster="", **options):
        self.version = int(version)
        usual = "restart" if self.version < FIRST_FOLLOWED else os.environ.get("SCALEPOINT_TEST_HANDOVER", "restart")
        self.handover = handover or usual
        cluster += f'\nhandover = "{self.handover}"'
        super().__init__(server_folder(version), cluster=cluster, **options)
        # A first start makes other files for one that is followed.
        self.of_the_volume = (*self.of_the_volume, self.handover)

    def start(self):
        super().start()
        if self.handover == "standby":
            wait_until(self.follows, "a standby")
        return self

    def follows(self):
        """Whether there is a standby that follows."""
        with contextlib.suppress(OSError, IndexError, TypeError):
            lock = (self.copy / "postmaster.pid").read_text().splitlines()
            return (
                (self.copy / "standby.signal").exists()
                and lock[7].strip() == "ready"
                and os.path.exists(f"/proc/{lock[0]}")
            )
        return False

    def parameters(self, **changes):
        """What libpq needs to connect as the master user over verified TLS; None removes one."""
        parameters = {
            "host": "localhost",
            "hostaddr": "127.0.0.1",
            "port": self.port,
            "user": MASTER,
            "password": self.password,
            "dbname": self.database,
            "sslmode": "verify-full",
            "sslrootcert": str(self.ca),
        }
        parameters.update(changes)
        return {name: value for name, value in parameters.items() if value is not None}

    def connect(self, autocommit=True, row_factory=None, **changes):
        """A psycopg connection, as the master user unless told otherwise."""
        keywords = {"row_factory": row_factory} if row_factory else {}
        return psycopg.connect(**self.parameters(**changes), autocommit=autocommit, **keywords)


@contextlib.contextmanager
def running(server):
    """Runs a server for the length of a `with`; ends with the checks of `Serve.stop`."""
    try:
        yield server.start()
        if server.process.poll() is None:
            server.stop()
    except BaseException:
        if server.process is not None:
            print(server.log())
        raise
    finally:
        if server.process is not None:
            server.end()
        server.remove()


def serving(version="15", **options):
    """A PostgreSQL server for the length of a `with`."""
    return running(Server(version, **options))


@pytest.fixture
def serve():
    """Starts servers that end with the test: `serve("15", parameters={...})`."""
    with contextlib.ExitStack() as stack:
        yield lambda version="15", **options: stack.enter_context(serving(version, **options))


@pytest.fixture(scope="module")
def serve_module():
    """As `serve`, for fixtures of a module's scope."""
    with contextlib.ExitStack() as stack:
        yield lambda version="15", **options: stack.enter_context(serving(version, **options))


@pytest.fixture
def serve_mysql():
    """As `serve`, of MariaDB or MySQL: `serve_mysql("mariadb")`."""
    from mysqlserver import serving_mysql

    with contextlib.ExitStack() as stack:
        yield lambda product, **options: stack.enter_context(serving_mysql(product, **options))
