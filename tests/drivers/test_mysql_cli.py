"""The stock command lines of MySQL and MariaDB against clusters of both: TLS, log in, and sessions that live through swaps.

A case is a generator: it brings its session into a state, yields, and goes on when the database has been swapped. All
cases of a product live through the same swap.
"""

import contextlib
import datetime
import hashlib
import os
import pathlib
import pty
import re
import subprocess
import tempfile
import threading
import traceback
import types

import mysql.connector
import pymysql
import pytest
from conftest import MASTER, wait_until
from mysqlserver import PRODUCTS, serving_mysql

MARIADB, MYSQL9, MYSQL56 = PRODUCTS
MODERN = PRODUCTS[:2]
#: Which command line goes with which server.
PAIRS = [("mysql", MARIADB), ("mysql", MYSQL9), ("mariadb", MARIADB), ("mariadb", MYSQL9), ("mariadb", MYSQL56)]
MEGABYTES = 1 << 20
DEADLINE = 60


def program(client, name=None):
    """The path of `name`, of the package that the client is in, and what all its programs are told."""
    if client == "mysql":
        folder = os.environ["SCALEPOINT_MYSQL9_CLIENT_BIN"]
        return [f"{folder}/{name or client}", "--no-defaults", f"--plugin-dir={folder}/../lib/mysql/plugin"]
    return [f"{os.environ['SCALEPOINT_MARIADB_CLIENT_BIN']}/{name or client}", "--no-defaults"]


def command(server, client, *options, name=None, user="plain", password="plain", host="localhost"):
    """A command line and the environment for it."""
    where = ["--protocol=TCP", f"--host={host}", f"--port={server.port}", f"--user={user}"]
    environment = {**os.environ, "MYSQL_PWD": password, "TERM": "dumb", "MYSQL_HISTFILE": "/dev/null"}
    # It reads no commands like `status` of its own unless told to.
    own = ["--commands"] if client == "mysql" and not name else []
    return [*program(client, name), *where, *own, *options], {**environment, "MARIADB_HISTFILE": "/dev/null"}


def run(server, client, *options, sql=None, exits=0, text=True, **who):
    """Runs a program to its end; what it printed, errors too."""
    line, environment = command(server, client, *options, **who)
    done = subprocess.run(
        line, input=sql, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=text, timeout=DEADLINE
    )
    assert done.returncode == exits, f"{line}: {done.returncode}\n{done.stdout[-2000:]}"
    return done.stdout


def status(server, client, *options, **who):
    """What `status` says, by its labels."""
    return labels(run(server, client, *options, sql="status\n", **who))


def labels(text):
    return dict(re.findall(r"^([A-Z][\w. ]+):\s+(.*?)\s*$", text, re.MULTILINE))


#: Those that are open.
SESSIONS = []


class Session:
    """A command line that is kept open; by a pipe, or on a terminal of its own."""

    usual = ("--batch", "--skip-column-names", "--force", "--unbuffered")
    number = re.compile(r"^(\d+)$", re.MULTILINE)

    def __init__(self, server, client, *options, database="app", ready=True, **who):
        self.line, environment = command(server, client, *self.usual, *options, database, **who)
        self.marks = 0
        self.seen = bytearray()
        self._start(environment)
        SESSIONS.append(self)
        if ready:
            self.ask("DO 0;")

    def _start(self, environment):
        self.process = subprocess.Popen(
            self.line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.input, self.output = self.process.stdin.fileno(), self.process.stdout.fileno()

    def type(self, text):
        data = memoryview(text.encode())
        while data:
            data = data[os.write(self.input, data) :]

    def until(self, mark):
        """What is printed up to this text."""
        mark, at = mark.encode(), 0
        with watched(self.process):
            while (found := self.seen.find(mark, at)) < 0:
                at = max(0, len(self.seen) - len(mark))
                more = self._more()
                assert more, f"{self.line} has ended: {self.seen[-2000:]!r}"
                self.seen += more
        text = self.seen[:found].decode(errors="replace")
        del self.seen[: found + len(mark)]
        return text.replace("\r", "")

    def _more(self):
        with contextlib.suppress(OSError):
            return os.read(self.output, 1 << 16)

    def ask(self, lines, end=";", seen=None):
        """Types these, and returns what was printed for them."""
        if seen:
            self.type(f"{lines}\n")
            return self.until(seen) + seen + self.until("\n")
        self.marks += 1
        self.type(f"{lines}\nSELECT CONCAT('ma', 'rk{self.marks}.'){end}\n")
        return self.until(f"mark{self.marks}.").strip("\n")

    def value(self, expression):
        text = self.ask(f"SELECT CONCAT('<', {expression}, '>');")
        found = re.search(r"<([^'<>]*)>", text)
        assert found, text[-1000:]
        return found[1]

    @property
    def id(self):
        """The connection's number; it is the router's only where the statement asks for nothing else."""
        return self.number.search(self.ask("SELECT CONNECTION_ID();"))[1]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        SESSIONS.remove(self)


class Terminal(Session):
    usual = ("--prompt=> ", "--no-auto-rehash")
    number = re.compile(r"\| +(\d+) \|")

    def _start(self, environment):
        self.input, end = pty.openpty()
        self.output = self.input
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *self.line], env=environment, stdin=end, stdout=end, stderr=end
        )
        os.close(end)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.input)
        SESSIONS.remove(self)


@contextlib.contextmanager
def watched(process):
    """Whoever waits for it does not wait for ever."""
    timer = threading.Timer(DEADLINE, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# The servers ----------------------------------------------------------------------------------------------------------

STAGES = {}


def stage(product):
    """A server; made by the first test that asks."""
    if product not in STAGES:
        serving = serving_mysql(product, parameters={"max_allowed_packet": 64 * MEGABYTES, "local_infile": 1})
        STAGES[product] = serving.__enter__(), serving
        prepare_server(STAGES[product][0])
    return STAGES[product][0]


@pytest.fixture(scope="module", autouse=True)
def curtain():
    yield
    for _, serving in STAGES.values():
        serving.__exit__(None, None, None)
    STAGES.clear()


def as_master(server, *statements):
    rows = None
    with server.connect() as master, master.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            rows = cursor.fetchall()
    return rows


def prepare_server(server):
    as_master(
        server,
        "CREATE USER plain IDENTIFIED BY 'plain'",
        "GRANT ALL ON app.* TO plain",
        "CREATE USER other IDENTIFIED BY 'other'",
        "GRANT ALL ON app.* TO other",
        "CREATE DATABASE dumped",
        "CREATE TABLE dumped.t (id int PRIMARY KEY, v varchar(20))",
        "INSERT INTO dumped.t VALUES (1, 'one'), (2, 'two')",
        "CREATE VIEW dumped.v AS SELECT v FROM dumped.t",
        "CREATE PROCEDURE dumped.p() SELECT 1",
        "CREATE TABLE numbers (n int PRIMARY KEY, v int)",
        "INSERT INTO numbers VALUES (1, 1), (2, 2), (3, 3)",
    )


def account(server, name, *, how="", password="secret"):
    """An account of its own; `how` replaces what stands behind its name."""
    how = how or f"IDENTIFIED BY '{password}'"
    as_master(server, f"CREATE USER {name} {how}", f"GRANT ALL ON app.* TO {name}")
    return {"user": name, "password": password}


def hashed(server, password):
    """As the right side of SET PASSWORD."""
    return f"'{password}'" if server.product == MYSQL9 else f"PASSWORD('{password}')"


def pairs(*, clients=("mysql", "mariadb"), products=PRODUCTS):
    return [pair for pair in PAIRS if pair[0] in clients and pair[1] in products]


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong_ca():
    """An authority that has signed nothing here."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(1))
    builder = builder.not_valid_after(now + datetime.timedelta(1))
    certificate = builder.add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        yield file.name


#: The router's address by a name that is not in its certificate.
ALIAS = "127.1"
VERIFIED = ["--ssl", "--ssl-verify-server-cert"]
#: Client, options ("CA", "WRONG": files), host, and: "": no TLS; a text in the cipher's line; or the error's number.
TLS = {
    "disabled": ("mysql", ["--ssl-mode=DISABLED"], None, ""),
    "by itself": ("mysql", [], None, "TLS_"),
    "preferred": ("mysql", ["--ssl-mode=PREFERRED"], None, "TLS_"),
    "required": ("mysql", ["--ssl-mode=REQUIRED"], None, "TLS_"),
    "version 1.2": ("mysql", ["--ssl-mode=REQUIRED", "--tls-version=TLSv1.2"], None, "ECDHE-"),
    "version 1.3": ("mysql", ["--ssl-mode=REQUIRED", "--tls-version=TLSv1.3"], None, "TLS_"),
    "authority": ("mysql", ["--ssl-mode=VERIFY_CA", "CA"], None, "TLS_"),
    "authority, alias": ("mysql", ["--ssl-mode=VERIFY_CA", "CA"], ALIAS, "TLS_"),
    "wrong authority": ("mysql", ["--ssl-mode=VERIFY_CA", "WRONG"], None, 2026),
    "identity": ("mysql", ["--ssl-mode=VERIFY_IDENTITY", "CA"], None, "TLS_"),
    "identity, address": ("mysql", ["--ssl-mode=VERIFY_IDENTITY", "CA"], "127.0.0.1", "TLS_"),
    "identity, alias": ("mysql", ["--ssl-mode=VERIFY_IDENTITY", "CA"], ALIAS, 2026),
    "identity, wrong authority": ("mysql", ["--ssl-mode=VERIFY_IDENTITY", "WRONG"], None, 2026),
    "mariadb, skip": ("mariadb", ["--skip-ssl"], None, ""),
    "mariadb": ("mariadb", ["--ssl"], None, "TLS_"),
    "mariadb, version 1.2": ("mariadb", ["--ssl", "--tls-version=TLSv1.2"], None, "ECDHE-"),
    "mariadb, authority": ("mariadb", ["--ssl", "CA"], None, "TLS_"),
    "mariadb, verified": ("mariadb", [*VERIFIED, "CA"], None, "TLS_"),
    "mariadb, verified address": ("mariadb", [*VERIFIED, "CA"], "127.0.0.1", "TLS_"),
    "mariadb, alias": ("mariadb", [*VERIFIED, "CA"], ALIAS, 2026),
    "mariadb, wrong authority": ("mariadb", [*VERIFIED, "WRONG"], None, 2026),
}


@pytest.mark.parametrize(
    ("product", "name"), [(product, name) for name in TLS for product in PRODUCTS if (TLS[name][0], product) in PAIRS]
)
def test_tls(product, name, wrong_ca):
    server = stage(product)
    client, options, host, expected = TLS[name]
    files = {"CA": f"--ssl-ca={server.ca}", "WRONG": f"--ssl-ca={wrong_ca}"}
    options = [files.get(option, option) for option in options]
    # The master's password: over TLS caching_sha2_password shows it, without it is known from before.
    who = {"user": MASTER, "password": server.password, **({"host": host} if host else {})}
    if isinstance(expected, int):
        said = run(server, client, *options, exits=1, sql="status\n", **who)
        assert f"ERROR {expected} (HY000)" in said
        return
    run(server, client, sql="DO 0;", **who)
    seen = status(server, client, *options, **who)
    wanted = f"Cipher in use is {expected}" if expected else "Not in use"
    assert seen["SSL"].startswith(wanted), seen


# Log in ---------------------------------------------------------------------------------------------------------------


def security(client):
    return {"mysql": [["--ssl-mode=DISABLED"], ["--ssl-mode=REQUIRED"]], "mariadb": [["--skip-ssl"], ["--ssl"]]}[client]


@pytest.mark.parametrize(("client", "product"), PAIRS)
def test_a_wrong_password_and_an_unknown_user_look_alike(client, product):
    server = stage(product)
    for options in security(client):
        options = [*options, *(["--get-server-public-key"] if client == "mysql" else [])]
        said = {
            user: run(server, client, *options, sql="DO 0;", exits=1, user=user, password=password)
            for user, password in [("plain", "wrong"), ("nobdy", "wrong"), ("nobdy", "")]
        }
        assert "1045 (28000)" in said["plain"] and "'plain'@" in said["plain"], said
        assert said["plain"].replace("plain", "nobdy").replace("YES", "NO") == said["nobdy"].replace("YES", "NO")


@pytest.mark.parametrize(("client", "product"), PAIRS)
def test_the_client_may_begin_by_any_plugin(client, product):
    server = stage(product)
    plugins = ["mysql_native_password", "caching_sha2_password", "sha256_password"]
    for plugin in plugins:
        seen = run(server, client, f"--default-auth={plugin}", security(client)[1][0], sql="SELECT CURRENT_USER();")
        assert "plain@%" in seen


@pytest.mark.parametrize("plugin", ["caching_sha2_password", "sha256_password"])
def test_a_password_is_sealed_where_others_can_listen(plugin):
    """as the server itself: the first log in needs TLS or the server's key"""
    server = stage(MYSQL9)
    who = account(server, f"sealed_{plugin[:4]}", how=f"IDENTIFIED WITH {plugin} BY 'secret'")
    plain = ["--ssl-mode=DISABLED"]
    ask = [*plain, "--get-server-public-key"]
    if plugin == "caching_sha2_password":
        assert "2061" in run(server, "mysql", *plain, sql="DO 0;", exits=1, **who)
    assert "1045" in run(server, "mysql", *ask, sql="DO 0;", exits=1, **{**who, "password": "wrong"})
    assert "1" in run(server, "mysql", *ask, sql="SELECT 1;", **who)
    # Now it is known; by the other plugin a client asks for the key in any case.
    assert "1" in run(server, "mysql", *plain, sql="SELECT 1;", **who)
    assert "1" in run(server, "mariadb", "--ssl", sql="SELECT 1;", **who)


@pytest.mark.parametrize("product", MODERN)
def test_a_locked_account(product):
    server = stage(product)
    who = account(server, "locked")
    client = {MARIADB: "mariadb", MYSQL9: "mysql"}[product]
    assert "1" in run(server, client, sql="SELECT 1;", **who)
    as_master(server, "ALTER USER locked ACCOUNT LOCK")
    said = run(server, client, sql="SELECT 1;", exits=1, **who)
    assert {MARIADB: "4151", MYSQL9: "3118"}[product] in said
    as_master(server, "ALTER USER locked ACCOUNT UNLOCK")
    assert "1" in run(server, client, sql="SELECT 1;", **who)


@pytest.mark.parametrize("product", MODERN)
def test_an_expired_password(product):
    """it can be changed, and nothing else; a driver that does not know how is not let in by MySQL"""
    server = stage(product)
    who = account(server, "expired")
    as_master(server, "ALTER USER expired PASSWORD EXPIRE")
    with pytest.raises(pymysql.MySQLError) as caught:
        with server.connect(**who) as connection:
            connection.query("SELECT 1")
    assert caught.value.args[0] == {MARIADB: 1820, MYSQL9: 1862}[product]
    client, *options = {MARIADB: ["mariadb"], MYSQL9: ["mysql", "--connect-expired-password"]}[product]
    session = Session(server, client, *options, **who, ready=False)
    assert "ERROR 1820" in session.ask("SELECT 1;", seen="ERROR 1820")
    assert session.ask(f"SET PASSWORD = {hashed(server, 'fresh')};") == ""
    assert session.value("CURRENT_USER()") == "expired@%"
    session.close()


def test_ed25519():
    """alone it is of no use to whoever must log in again; with a second way it is"""
    server = stage(MARIADB)
    as_master(server, "INSTALL SONAME 'auth_ed25519'")
    alone = account(server, "alone", how="IDENTIFIED VIA ed25519 USING PASSWORD('secret')")
    said = run(server, "mariadb", sql="SELECT 1;", exits=1, **alone)
    assert "OR mysql_native_password" in said
    assert "using password" in run(server, "mariadb", sql="DO 0;", exits=1, **{**alone, "password": "wrong"})
    ways = "ed25519 USING PASSWORD('secret') OR mysql_native_password USING PASSWORD('secret')"
    two_ways = account(server, "two_ways", how=f"IDENTIFIED VIA {ways}")
    assert "1" in run(server, "mariadb", sql="SELECT 1;", **two_ways)


# Sessions that live through a swap ------------------------------------------------------------------------------------

CASES = {}


def case(*, clients=("mysql", "mariadb"), products=PRODUCTS):
    """A generator of (server, client) that yields once, for the swap."""

    def register(function):
        for pair in pairs(clients=clients, products=products):
            CASES[function.__name__, *pair] = function
        return function

    return register


def of_products(*products):
    """The same, of no command line."""
    return case(clients=["mariadb"], products=products or PRODUCTS)


def is_running(server, mark):
    found = as_master(
        server,
        f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '%{mark}%' AND ID <> CONNECTION_ID()",
    )
    return found[0][0] > 0


def interrupt(server, session, mark):
    session.type(f"SELECT SLEEP(600), '{mark}';\n")
    wait_until(lambda: is_running(server, mark), f"{mark} runs")
    session.type("\x03")
    said = session.ask("DO 0;")
    assert "query killed" in said or "query aborted" in said, said
    assert not is_running(server, mark)


@case()
def an_interrupted_statement(server, client):
    """Ctrl-C sends KILL QUERY on a second connection, which has the same name and password"""
    session = Terminal(server, client)
    mark = f"{client} interrupts"
    interrupt(server, session, f"{mark} before")
    session.ask("SET @kept = 5;")
    before = session.id
    said = labels(session.ask("status"))
    yield
    interrupt(server, session, f"{mark} after")
    assert (session.id, session.value("@kept")) == (before, "5")
    again = labels(session.ask("status"))
    assert said["Connection id"] == again["Connection id"] == before
    for label in ("Current database", "Current user", "SSL", "Server version", "Protocol version", "TCP port"):
        assert said[label] == again[label], label
    assert said["Current database"] == "app" and said["Current user"].startswith("plain@")
    # Their sum may be another at once.
    assert "Uptime" in again or "Threads" in again
    session.close()


@case()
def a_killed_statement_and_a_killed_session(server, client):
    victim, killer = Session(server, client), Session(server, client)
    name = f"{client} is killed"

    def kill_query(mark):
        victim.type(f"SELECT SLEEP(600), '{mark}';\n")
        wait_until(lambda: is_running(server, mark), f"{mark} runs")
        assert "ERROR" not in killer.ask(f"KILL QUERY {number};")
        said = victim.ask("DO 0;")
        assert "1317" in said or said.startswith("1"), said

    number = victim.id
    assert number != killer.id
    kill_query(f"{name} before")
    yield
    assert victim.id == number
    kill_query(f"{name} after")
    assert "ERROR 1094" in killer.ask("KILL 4294967295;")
    assert "ERROR" not in killer.ask(f"KILL {number};")
    # It connects again by itself, as it would with the server.
    victim.type("SELECT 1;\n")
    victim.until("ERROR 20")
    killer.close()
    victim.close()


@case()
def loading_from_a_file_of_the_client(server, client):
    session = Session(server, client, "--local-infile=1")
    folder = pathlib.Path(tempfile.mkdtemp(dir=server.folder))
    rows = folder / "rows"
    rows.write_text("".join(f"{number}\t{'x' * 100}\n" for number in range(20_000)))
    table = f"loaded_{client}"
    session.ask(f"CREATE TABLE {table} (n int, v varchar(100));")

    def load():
        session.ask(f"TRUNCATE {table};")
        said = session.ask(f"LOAD DATA LOCAL INFILE '{rows}' INTO TABLE {table};")
        assert "ERROR" not in said, said
        assert session.value(f"(SELECT CONCAT(COUNT(*), ' ', SUM(n)) FROM {table})") == "20000 199990000"
        assert "ERROR" in session.ask(f"LOAD DATA LOCAL INFILE '{folder}/none' INTO TABLE {table};")
        assert session.value("1 + 1") == "2"

    load()
    yield
    load()
    session.close()


@case()
def compression(server, client):
    algorithms = ["--compress"]
    if client == "mysql":
        algorithms += ["--compression-algorithms=zlib"]
    if (client, server.product) == ("mysql", MYSQL9):
        # Without "uncompressed" besides, it is this or an error.
        algorithms += ["--compression-algorithms=zstd", "--compression-algorithms=zstd --zstd-compression-level=19"]
    sessions = [Session(server, client, *options.split()) for options in algorithms]

    def check(session):
        assert labels(session.ask("status"))["Protocol"].startswith("Compressed")
        assert session.value("@kept") == "6"
        for size in (10, 40_000, 3_000_000):
            assert len(session.ask(f"SELECT REPEAT('ab', {size});")) == 2 * size
            assert session.value(f"LENGTH('{'y' * size}')") == str(size)

    for session in sessions:
        session.ask("SET @kept = 6;")
        check(session)
    yield
    for session in sessions:
        check(session)
        session.close()


@case()
def many_statements_in_one(server, client):
    session = Session(server, client)
    name = f"many_{client}"
    session.ask(f"""DELIMITER //
CREATE PROCEDURE {name}(OUT found int)
BEGIN
    SELECT n FROM numbers ORDER BY n;
    SELECT v, 'second' FROM numbers ORDER BY n;
    SET found = (SELECT COUNT(*) FROM numbers);
END//
DELIMITER ;""")

    def check():
        said = session.ask(f"CALL {name}(@found);")
        assert said.splitlines() == ["1", "2", "3", *(f"{n}\tsecond" for n in (1, 2, 3))]
        assert session.value("@found") == "3"
        said = session.ask("DELIMITER //\nSELECT 1; SELECT 2; SET @a = 3; SELECT @a//", end="//")
        assert said.splitlines() == ["1", "2", "3"]
        session.ask("SELECT 1 FROM no_such_table; SELECT 2//", end="//")
        session.ask("DELIMITER ;")

    check()
    yield
    check()
    session.close()


@case()
def long_rows_and_packets(server, client):
    session = Session(server, client, "--max-allowed-packet=64M", "--quick")
    size = 20 * MEGABYTES
    text = "0123456789abcdef" * (size // 16)

    def check():
        assert session.ask(f"SELECT REPEAT('0123456789abcdef', {size // 16});") == text
        digest = session.value(f"SHA2('{text}', 256)")
        assert digest == hashlib.sha256(text.encode()).hexdigest()

    check()
    yield
    check()
    session.close()


@case()
def safe_updates(server, client):
    session = Session(server, client, "--safe-updates", "--select-limit=2")

    def check():
        assert "ERROR 1175" in session.ask("UPDATE numbers SET v = v;")
        assert session.ask("SELECT n FROM numbers ORDER BY n;").splitlines() == ["1", "2"]
        assert "ERROR" not in session.ask("UPDATE numbers SET v = v WHERE n = 1;")

    check()
    yield
    check()
    session.close()


@case()
def init_command_and_character_set(server, client):
    options = ["--init-command=SET @of_init = 8", "--default-character-set=latin1", "--compress"]
    session = Session(server, client, *options)

    def check():
        assert session.value("@of_init") == "8"
        assert session.value("@@character_set_client") == "latin1"
        assert session.ask("SELECT COUNT(*), SUM(v) FROM numbers;") == "3\t6"

    check()
    yield
    check()
    session.ask("connect app")
    check()
    session.close()


@case(clients=["mysql"], products=MODERN)
def a_reset_connection(server, client):
    """COM_RESET_CONNECTION"""
    session = Session(server, client, "--init-command=SET @of_init = 8")
    number = session.id

    def check():
        session.ask("SET @mine = 1, sql_mode = 'ANSI', group_concat_max_len = 99;")
        session.ask("PREPARE own FROM 'SELECT 1';")
        assert "ERROR" not in session.ask("resetconnection")
        assert session.value("@mine IS NULL") == "1"
        assert session.value("@@group_concat_max_len") != "99"
        assert "ERROR 1243" in session.ask("EXECUTE own;")
        assert (session.id, session.value("DATABASE()")) == (number, "app")

    check()
    session.ask("SET @after = 2;")
    yield
    assert session.value("@after") == "2"
    check()
    session.close()


# MariaDB's program asks MySQL 5.6 for a column that it does not have.
@case(products=MODERN)
def a_dump_during_a_swap(server, client):
    """over and over, whatever the moment"""
    name = {"mysql": "mysqldump", "mariadb": "mariadb-dump"}[client]
    options = ["--single-transaction", "--routines", "--skip-dump-date", "--no-tablespaces"]
    if client == "mysql":
        options += ["--column-statistics=0", "--set-gtid-purged=OFF"]
    who = {"name": name, "user": MASTER, "password": server.password}
    first = run(server, client, *options, "dumped", **who)
    assert "(1,'one'),(2,'two')" in first.replace("),\n(", "),(") and "PROCEDURE `p`" in first
    locked = [option for option in options if option != "--single-transaction"]
    ended, dumps = threading.Event(), []

    def dump():
        with contextlib.suppress(AssertionError):
            while not ended.is_set():
                for way in (options, locked):
                    dumps.append(None)
                    dumps[-1] = run(server, client, *way, "dumped", **who)

    thread = threading.Thread(target=dump)
    thread.start()
    yield
    ended.set()
    thread.join()
    assert set(dumps) == {first}, [text for text in dumps if text != first]


@case()
def administration(server, client):
    """ping, status, a list of sessions, and a kill, by the program for it"""
    name = {"mysql": "mysqladmin", "mariadb": "mariadb-admin"}[client]
    who = {"name": name, "user": MASTER, "password": server.password}
    session = Session(server, client)

    def check():
        assert "mysqld is alive" in run(server, client, "ping", **who)
        assert "Uptime" in run(server, client, "status", **who)
        # The server knows of a session when it has spoken since the swap.
        session.ask("DO 0;")
        assert "plain" in run(server, client, "processlist", **who)
        assert re.search(r"Server version\s+\d+\.", run(server, client, "version", **who))

    check()
    number = session.id
    yield
    check()
    assert session.id == number
    run(server, client, "kill", number, **who)
    session.type("SELECT 1;\n")
    session.until("ERROR 20")
    session.close()


# Changing the user on one connection ----------------------------------------------------------------------------------


def changes(server, **options):
    connection = server.connector(user="plain", password="plain", **options)
    cursor = connection.cursor()

    def one(sql):
        cursor.execute(sql)
        return cursor.fetchone()[0]

    number = one("SELECT CONNECTION_ID()")

    def change(name):
        cursor.execute("SET @mine = 1, group_concat_max_len = 99")
        connection.cmd_change_user(name, name, "app")
        assert one("SELECT CURRENT_USER()") == f"{name}@%"
        assert (one("SELECT @mine"), one("SELECT CONNECTION_ID()")) == (None, number)
        assert one("SELECT @@group_concat_max_len") != 99
        assert one("SELECT DATABASE()") == "app"
        cursor.execute("SET @mine = 2")

    def reset():
        cursor.execute("SET @mine = 1")
        if server.product != MYSQL56:
            connection.cmd_reset_connection()
            assert (one("SELECT @mine"), one("SELECT CONNECTION_ID()")) == (None, number)

    change("other")
    reset()
    change("other")
    yield
    assert (one("SELECT @mine"), one("SELECT CURRENT_USER()")) == (2, "other@%")
    reset()
    change("plain")
    with pytest.raises(mysql.connector.Error) as caught:
        connection.cmd_change_user("other", "wrong", "app")
    # Without TLS the driver does not show a password that the server does not know already.
    hidden = options.get("ssl_disabled") and server.product == MYSQL9
    assert caught.value.errno == (2061 if hidden else 1045)
    connection.close()


@of_products()
def a_changed_user_pure(server, client):
    yield from changes(server, use_pure=True)


@of_products()
def a_changed_user_c(server, client):
    yield from changes(server, use_pure=False)


@of_products()
def a_changed_user_compressed(server, client):
    yield from changes(server, use_pure=False, compress=True)


@of_products()
def a_changed_user_without_tls(server, client):
    options = {"ssl_disabled": True, "ssl_ca": None, "ssl_verify_identity": False, "host": "127.0.0.1"}
    yield from changes(server, use_pure=False, **options)


# How they come out ----------------------------------------------------------------------------------------------------

OUTCOMES = {}


def outcome(product):
    if product not in OUTCOMES:
        OUTCOMES[product] = play(product)
    return OUTCOMES[product]


def play(product):
    server = stage(product)
    made = types.SimpleNamespace(errors={}, report=None, error=None)
    going = {}
    for key, function in CASES.items():
        if key[2] == product:
            going[key] = function(server, key[1])
            step(made, key, going[key])
    try:
        made.report = server.swap()
    except BaseException:
        made.error = traceback.format_exc()
    for key, generator in going.items():
        if made.errors.get(key) is None:
            step(made, key, generator)
        generator.close()
    return made


def step(made, key, generator):
    before = list(SESSIONS)
    try:
        next(generator)
    except StopIteration:
        pass
    except (Exception, pytest.fail.Exception):
        made.errors[key] = traceback.format_exc()
        # What it has left is not to be in the others' way.
        for session in [session for session in SESSIONS if session not in before]:
            session.close()


@pytest.mark.parametrize("key", CASES, ids=lambda key: "-".join(key))
def test_goes_on_after_a_swap(key):
    error = outcome(key[2]).errors.get(key)
    if error:
        pytest.fail(error, pytrace=False)


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_swap_carried_everybody(product):
    made = outcome(product)
    assert made.error is None, made.error
    assert made.report["sessions"]["closed"] == made.report["sessions"]["aborted"] == 0
