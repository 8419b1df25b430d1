"""Forced changes of MySQL clusters: what a client gets to hear in every state it can be in, to the byte, and what drivers
make of it.

As test_forced.py does with PostgreSQL: all cases of a product live through one change. No lost COMMIT is ever believed:
whatever a client takes for committed is there afterwards, and nothing else.
"""

import contextlib
import struct
import threading

import _mysql_connector
import mysql.connector
import pymysql
import pytest
from conftest import wait_until
from forced_cases import Cast, Play
from mysqlserver import PRODUCTS, serving_mysql
from rawmysql import (
    CLOSE,
    CURSOR_EXISTS,
    EXECUTE,
    FETCH,
    IN_TRANS,
    INIT_DB,
    LOCAL_FILES,
    LONG_DATA,
    MORE_RESULTS,
    PREPARE,
    QUERY,
    SPLIT,
    STATISTICS,
    Raw,
    ServerError,
)

MODERN = PRODUCTS[:2]
ABORTED = b"The last transaction was aborted due to Seamless Scaling. Please retry."
ABORTED_56 = b"The last transaction was aborted due to an unknown error. Please retry."

GENTLE = Cast()
CLOSED = Cast()
#: By name; the others are for all products.
ONLY_ON = {}


def packet(sequence, body):
    return struct.pack("<I", len(body))[:3] + bytes([sequence]) + body


def command(code, body=b""):
    return packet(0, bytes([code]) + (body if isinstance(body, bytes) else body.encode()))


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def query(sql):
    return command(QUERY, sql)


class Wire(Raw):
    """A session of which every byte counts."""

    def __init__(self, world, **options):
        self.aborted_text = ABORTED_56 if world.server.product == "mysql56" else ABORTED
        super().__init__(**{**world.server.parameters(), **options})

    def aborted(self, sequence=1):
        """What the original said, as the answer's packet of that number."""
        return packet(sequence, b"\xff\x51\x04#HY000" + self.aborted_text)

    def expect(self, *expected):
        """Exactly these bytes come next."""
        expected = b"".join(expected)
        got = self._read(len(expected))
        assert got == expected, f"\n     got {got!r}\nexpected {expected!r}"

    def ask(self, request, *expected):
        self.socket.sendall(request)
        self.expect(*expected)

    def failed(self):
        """The command that was sent first is answered so; a server may have described the result already."""
        self.sequence = 1
        with pytest.raises(ServerError, match="^1105") as caught:
            self.result(binary=True)
        assert caught.value.text.encode() == self.aborted_text

    def silent(self):
        """Nothing has come."""
        self.socket.settimeout(0.05)
        try:
            got = self.buffer or self.socket.recv(65536)
            assert got == b"nothing", f"unasked: {got!r}"
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(30)

    def over(self, reason=b""):
        """The session was ended, and the client told: one error, then the end."""
        got = self.buffer
        while more := self.socket.recv(65536):
            got += more
        assert got[4:7] == b"\xff\x51\x04" and len(got) == 4 + int.from_bytes(got[:3], "little"), got
        assert reason in got


class World:
    """What the cases of one product share."""

    def __init__(self, server):
        self.server = server
        self.kept = set()
        self.observer = server.connect()
        self.ask("CREATE TABLE believed (what varchar(200))")
        self.ask("CREATE TABLE numbers (n int)")
        self.ask("INSERT INTO numbers VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)")
        self.ask("CREATE TABLE locked (n int)")
        self.wires, self.threads = [], []

    def ask(self, sql, *values):
        with self.observer.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall()

    def wire(self, **options):
        wire = Wire(self, **options)
        self.wires.append(wire)
        return wire

    def in_transaction(self, what):
        """A session with an open transaction that has written something."""
        wire = self.wire()
        wire.query("BEGIN")
        wire.query(f"INSERT INTO believed VALUES ({quoted('lost: ' + what)})")
        return wire

    def goes_on(self, wire, what):
        """The session is usable, in no transaction, and what it writes now stays."""
        result = wire.query(f"INSERT INTO believed VALUES ({quoted(what)})")
        assert (result.affected, result.status & IN_TRANS) == (1, 0)
        self.kept.add(what)

    def until_running(self, mark):
        """Waits until a statement with this mark in its text runs."""
        running = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE %s AND ID <> CONNECTION_ID()"
        wait_until(lambda: self.ask(running, f"%{mark}%")[0][0], f"{mark} runs")

    def begin(self, function):
        """Runs it aside; what it returns, or raises, is the value of the function that is returned."""
        outcome = []

        def run():
            try:
                outcome.append(function())
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def wait():
            thread.join(60)
            assert outcome, "it has not come back"
            return outcome[0]

        return wait

    def close(self):
        self.observer.close()
        for wire in self.wires:
            wire.close()


def long_query(mark, of="COUNT(*)"):
    """Runs for hours, and ends when it is killed. Not as a hash join: a dozen of them fill the disk."""
    tables = ", ".join(f"numbers t{index}" for index in range(12))
    return f"SELECT /*+ NO_BNL() */ /* {mark} */ {of} FROM {tables} WHERE {'+'.join(f't{index}.n' for index in range(12))} >= 0"


# Nothing is under way -------------------------------------------------------------------------------------------------


@GENTLE.case
def idle(world, name):
    wire = world.wire()
    wire.query("SET @kept = 5")
    yield "carried"
    wire.silent()
    assert wire.one("SELECT @kept") == "5"
    world.goes_on(wire, name)


@GENTLE.case
def autocommit_off_and_nothing_done(world, name):
    wire = world.wire()
    wire.query("SET autocommit = 0")
    yield "carried"
    wire.query(f"INSERT INTO believed VALUES ('{name}')")
    wire.query("COMMIT")
    world.kept.add(name)


# In a transaction: the next statement is refused, and not run ---------------------------------------------------------


def refused(request):
    """In a transaction that was lost `request` is refused, and then the session goes on."""

    def case(world, name):
        wire = world.in_transaction(name)
        yield "aborted"
        wire.silent()
        wire.ask(request, wire.aborted())
        wire.silent()
        world.goes_on(wire, name)

    return case


for _sql in [
    "SELECT 1",
    "INSERT INTO believed VALUES ('lost: later')",
    "COMMIT",
    "/* and */ commit work",
    "COMMIT AND CHAIN",
    "ROLLBACK",
    "ROLLBACK TO SAVEPOINT s",
    "BEGIN",
    "START TRANSACTION",
    "INSERT INTO believed VALUES ('lost: later'); COMMIT",
    "CREATE TABLE implicit_commit (a int)",
    "SET autocommit = 1",
    "PREPARE q FROM 'SELECT 1'",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE believed",
    "",
]:
    GENTLE.add(f"lost, {_sql}", refused(query(_sql)))
GENTLE.add("lost, a long statement", refused(query(f"SELECT '{'x' * 400_000}'")))
GENTLE.add("lost, preparing", refused(command(PREPARE, "SELECT 1")))
GENTLE.add("lost, changing the database", refused(command(INIT_DB, "app")))


@GENTLE.case
def lost_and_a_statement_of_two_packets(world, name):
    wire = world.in_transaction(name)
    yield "aborted"
    sql = b"\x03SELECT '" + b"x" * SPLIT + b"'"
    wire.ask(packet(0, sql[:SPLIT]) + packet(1, sql[SPLIT:]), wire.aborted(2))
    world.goes_on(wire, name)


@GENTLE.case
def lost_and_executing(world, name):
    """the statement outlives the transaction"""
    wire = world.wire()
    statement = wire.prepare("INSERT INTO believed VALUES (?)")
    wire.query("BEGIN")
    wire.execute(statement, [f"lost: {name}"])
    yield "aborted"
    wire.ask(command(EXECUTE, wire.execution(statement, ["lost: later"])), wire.aborted())
    assert wire.execute(statement, [name]).affected == 1
    world.kept.add(name)


@GENTLE.case
def lost_and_fetching(world, name):
    wire = world.in_transaction(name)
    statement = wire.prepare("SELECT n FROM numbers")
    assert wire.execute(statement, cursor=True).status & CURSOR_EXISTS
    yield "aborted"
    wire.ask(command(FETCH, struct.pack("<II", statement.id, 1)), wire.aborted())
    world.goes_on(wire, name)


@GENTLE.case
def lost_and_what_is_no_statement(world, name):
    """a ping is answered, without a transaction; what is never answered stays so; the COMMIT is refused all the same"""
    wire = world.wire()
    statement = wire.prepare("SELECT ?")
    wire.query("BEGIN")
    wire.query(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "aborted"
    assert wire.ping().status & IN_TRANS == 0
    wire.begin(STATISTICS)
    assert wire.receive().startswith(b"Uptime")
    wire.socket.sendall(command(LONG_DATA, struct.pack("<IH", statement.id, 0) + b"x"))
    wire.socket.sendall(command(CLOSE, struct.pack("<I", statement.id)))
    wire.silent()
    wire.ask(query("COMMIT"), wire.aborted())
    with pytest.raises(ServerError, match="^1243"):
        wire.execute(statement, [1])
    world.goes_on(wire, name)


@GENTLE.case
def lost_and_a_burst(world, name):
    """what was sent before the error could be read is refused, too: its tail would be committed"""
    wire = world.in_transaction(name)
    yield "aborted"
    insert = query("INSERT INTO believed VALUES ('lost: burst')")
    wire.ask(insert + insert + query("COMMIT"), *[wire.aborted()] * 3)
    world.goes_on(wire, name)


@GENTLE.case
def lost_and_reset(world, name):
    wire = world.in_transaction(name)
    yield "aborted"
    wire.reset_connection()
    world.goes_on(wire, name)


ONLY_ON["lost_and_reset"] = MODERN


@GENTLE.case
def lost_and_another_user(world, name):
    wire = world.in_transaction(name)
    yield "aborted"
    parameters = world.server.parameters()
    wire.change_user(parameters["user"], parameters["password"], "app")
    world.goes_on(wire, name)


@GENTLE.case
def lost_and_gone(world, name):
    wire = world.in_transaction(name)
    yield "aborted"
    wire.close()


@GENTLE.case
def autocommit_off(world, name):
    wire = world.wire()
    wire.query("SET autocommit = 0")
    wire.query(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "aborted"
    wire.ask(query("COMMIT"), wire.aborted())
    assert wire.one("SELECT @@autocommit") == "0"
    wire.query(f"INSERT INTO believed VALUES ('{name}')")
    wire.query("COMMIT")
    world.kept.add(name)


@GENTLE.case
def xa_transaction(world, name):
    wire = world.wire()
    wire.query("XA START 'x'")
    wire.query(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "aborted"
    wire.ask(query("XA END 'x'"), wire.aborted())
    world.goes_on(wire, name)


@GENTLE.case
def state_is_carried_though_the_transaction_is_lost(world, name):
    wire = world.wire()
    wire.query("SET @kept = 5, time_zone = '+02:00'")
    statement = wire.prepare("SELECT ? + @kept")
    wire.query("BEGIN")
    wire.query(f"INSERT INTO believed VALUES ('lost: {name}')")
    wire.query("SET @in_it = 6")
    yield "aborted"
    wire.ask(query("COMMIT"), wire.aborted())
    assert wire.query("SELECT @kept, @in_it, @@time_zone").rows == [(b"5", b"6", b"+02:00")]
    assert wire.execute(statement, [37]).rows == [(42,)]
    world.goes_on(wire, name)


# A statement is under way ---------------------------------------------------------------------------------------------


def running(before=()):
    def case(world, name):
        wire = world.wire()
        for sql in before:
            wire.query(sql)
        wire.socket.sendall(query(long_query(name)))
        world.until_running(name)
        yield "aborted"
        wire.failed()
        wire.silent()
        world.goes_on(wire, name)

    return case


GENTLE.add("running", running())
GENTLE.add("running_in_a_transaction", running(["BEGIN", "INSERT INTO believed VALUES ('lost: running')"]))


@GENTLE.case
def running_insert(world, name):
    wire = world.wire()
    sql = long_query(name, "COUNT(*)").replace("SELECT", "INSERT INTO believed SELECT", 1)
    wire.socket.sendall(query(sql))
    world.until_running(name)
    yield "aborted"
    wire.expect(wire.aborted())
    world.goes_on(wire, name)


@GENTLE.case
def running_execution(world, name):
    wire = world.wire()
    statement = wire.prepare(long_query(name))
    wire.socket.sendall(command(EXECUTE, wire.execution(statement)))
    world.until_running(name)
    yield "aborted"
    wire.failed()
    world.goes_on(wire, name)


@GENTLE.case
def rows_have_come(world, name):
    """the error comes in the place of the next row"""
    wire = world.wire()
    # MySQL 9 would join by hashing, and say nothing for long.
    wire.begin(QUERY, long_query(name, "REPEAT('x', 200)").replace("SELECT", "SELECT /*+ NO_BNL() */", 1))
    begun = threading.Event()

    def read():
        assert wire.receive() == b"\x01"
        wire.receive()
        rows = 0
        while (body := wire.receive())[0] != 0xFF:
            rows += 1
            begun.set()
        return rows, body

    wait = world.begin(read)
    world.until_running(name)
    begun.wait(5)
    yield "aborted"
    rows, error = wait()
    assert (rows > 0, error) == (True, b"\xff\x51\x04#HY000" + wire.aborted_text)
    world.goes_on(wire, name)


@GENTLE.case
def second_of_two_results(world, name):
    wire = world.wire()
    wire.begin(QUERY, f"SELECT 1; {long_query(name)}")
    assert wire.result().status & MORE_RESULTS
    world.until_running(name)
    yield "aborted"
    with pytest.raises(ServerError, match="^1105"):
        wire.result()
    world.goes_on(wire, name)


@GENTLE.case
def burst_behind_a_running_statement(world, name):
    wire = world.in_transaction(name)
    wire.socket.sendall(query(long_query(name)) + query("INSERT INTO believed VALUES ('lost: tail')") + query("COMMIT"))
    world.until_running(name)
    yield "aborted"
    wire.failed()
    wire.expect(*[wire.aborted()] * 2)
    world.goes_on(wire, name)


@GENTLE.case
def load_data_local(world, name):
    """the file is taken to its end, then comes the error: drivers read nothing before they have sent it"""
    wire = world.wire(add=LOCAL_FILES, file=None)
    assert wire.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE believed").info == b"x"
    wire.send(b"lost: first\n")
    yield "aborted"
    wire.silent()
    wire.send(b"lost: second\n")
    wire.silent()
    wire.send(b"")
    wire.expect(wire.aborted(wire.sequence))
    world.goes_on(wire, name)


@GENTLE.case
def load_data_local_in_a_transaction(world, name):
    """the change comes in the middle of a packet of the file"""
    wire = world.wire(add=LOCAL_FILES, file=None)
    wire.query("BEGIN")
    wire.query(f"INSERT INTO believed VALUES ('lost: {name}')")
    wire.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE believed")
    wire.send(b"lost: first\n")
    packets = wire.packets(b"lost: second\n" * 10_000)
    wire.socket.sendall(packets[:5000])
    yield "aborted"
    wire.silent()
    wire.socket.sendall(packets[5000:])
    wire.silent()
    wire.ask(wire.packets(b"") + query("COMMIT"), wire.aborted(wire.sequence), wire.aborted())
    world.goes_on(wire, name)


@GENTLE.case
def load_data_local_that_does_not_end(world, name):
    """the client sends all the time"""
    wire = world.wire(add=LOCAL_FILES, file=None)
    wire.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE believed")
    enough = threading.Event()

    def send():
        while not enough.wait(0.002):
            wire.send(b"lost: row\n" * 5_000)

    wait = world.begin(send)
    yield "aborted"
    enough.set()
    assert wait() is None
    wire.send(b"")
    wire.expect(wire.aborted(wire.sequence))
    world.goes_on(wire, name)


# What cannot be carried -----------------------------------------------------------------------------------------------


def ended(*statements):
    def case(world, name):
        wire = world.wire()
        for sql in statements:
            wire.query(sql)
        yield "closed"
        wire.over()

    return case


for _name, _sql in {
    "temporary_table": "CREATE TEMPORARY TABLE b (a int)",
    "table_lock": "LOCK TABLES locked READ",
    "named_lock": "SELECT GET_LOCK('forced', 1)",
    "handler": "HANDLER numbers OPEN",
}.items():
    GENTLE.add(_name, ended(_sql))


@GENTLE.case
def account_that_would_not_let_it_in(world, name):
    world.ask("CREATE USER leaver IDENTIFIED BY 'leaver'")
    wire = world.wire(user="leaver", password="leaver", database=None, ca=str(world.server.ca))
    world.ask("DROP USER leaver")
    yield "closed"
    wire.over(b"its account was dropped")


@GENTLE.case
def account_that_would_not_let_it_in_and_a_transaction(world, name):
    """there is nothing to go on with after the error"""
    world.ask("CREATE USER mover IDENTIFIED BY 'mover'")
    world.ask("GRANT ALL ON app.* TO mover")
    wire = world.wire(user="mover", password="mover", ca=str(world.server.ca))
    wire.query("BEGIN")
    wire.query(f"INSERT INTO believed VALUES ('lost: {name}')")
    world.ask("SET PASSWORD FOR mover = " + world.server.password_function("moved"))
    yield "closed"
    wire.over(b"the password of its account was changed")


# Drivers --------------------------------------------------------------------------------------------------------------


#: The C extension lets its own error through where it commits.
CONNECTOR = (mysql.connector.errors.DatabaseError, _mysql_connector.MySQLInterfaceError)


def code(error):
    return getattr(error, "errno", error.args[0])


def driver(connect, error):
    """A transaction is lost, the commit says so, and the connection is good."""

    def case(world, name):
        connection = connect(world.server)
        cursor = connection.cursor()
        cursor.execute(f"INSERT INTO believed VALUES ('lost: {name}')")
        yield "aborted"
        with pytest.raises(error) as caught:
            connection.commit()
        assert code(caught.value) == 1105
        cursor.execute(f"INSERT INTO believed VALUES ('{name}')")
        connection.commit()
        world.kept.add(name)
        connection.close()

    return case


def driver_running(connect, error):
    def case(world, name):
        connection = connect(world.server)
        cursor = connection.cursor()
        wait = world.begin(lambda: (cursor.execute(long_query(name)), cursor.fetchall()))
        world.until_running(name)
        yield "aborted"
        caught = wait()
        assert isinstance(caught, error) and code(caught) == 1105, caught
        cursor.execute(f"INSERT INTO believed VALUES ('{name}')")
        connection.commit()
        world.kept.add(name)
        connection.close()

    return case


DRIVERS = {
    "pymysql": (lambda server: server.connect(autocommit=False), pymysql.OperationalError),
    "connector": (
        lambda server: server.connector(autocommit=False, use_pure=True),
        CONNECTOR,
    ),
    "connector_c": (
        lambda server: server.connector(autocommit=False, use_pure=False),
        CONNECTOR,
    ),
    "compressed": (
        lambda server: server.connector(autocommit=False, use_pure=False, compress=True),
        CONNECTOR,
    ),
}
for _name, (_connect, _error) in DRIVERS.items():
    GENTLE.add(f"{_name}_commit", driver(_connect, _error))
    GENTLE.add(f"{_name}_running", driver_running(_connect, _error))


# The other manner: connections are closed -----------------------------------------------------------------------------


@CLOSED.case
def closed_in_a_transaction(world, name):
    wire = world.in_transaction(name)
    yield "closed"
    wire.over()


@CLOSED.case
def running_where_connections_are_closed(world, name):
    """cancelled and told so, it stands in nobody's way any more, and is carried like others that do not"""
    wire = world.wire()
    wire.socket.sendall(query(long_query(name)))
    world.until_running(name)
    yield "aborted"
    wire.failed()
    wire.silent()
    world.goes_on(wire, name)


@CLOSED.case
def closed_driver(world, name):
    connection = world.server.connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "closed"
    with pytest.raises(pymysql.Error):
        connection.commit()


CLOSED.cases["idle"] = GENTLE.cases["idle"]


# The plays ------------------------------------------------------------------------------------------------------------

PLAYS = {}


def play(product, manner):
    """One forced change with everybody on stage; made by the first test that asks."""
    cast = GENTLE if manner == "abort_transaction" else CLOSED
    if (product, manner) not in PLAYS:
        cast = cast.only(*(name for name in cast.cases if product in ONLY_ON.get(name, PRODUCTS)))
        # The newest product does not load clients' files unless it is told to.
        orders = f'forced_change = "{manner}"'
        # It waits for a file half a minute by default, and on a busy machine it takes longer until all are on stage.
        parameters = {"local_infile": "ON", "net_read_timeout": "600"}
        stage = serving_mysql(product, cluster=orders, parameters=parameters)
        server = stage.__enter__()
        try:
            made = Play(server, cast, World)
        except Exception as error:
            stage.__exit__(type(error), error, error.__traceback__)
            # Tried once: those who ask later hear the same.
            made, stage = error, contextlib.nullcontext()
        PLAYS[product, manner] = made, stage
    made = PLAYS[product, manner][0]
    if isinstance(made, Exception):
        raise made
    return made


@pytest.fixture(scope="module", autouse=True)
def curtain():
    yield
    for made, stage in PLAYS.values():
        if isinstance(made, Play):
            made.world.close()
        stage.__exit__(None, None, None)
    PLAYS.clear()


def everybody(cast, products=PRODUCTS):
    return [
        pytest.param(product, name, id=f"{name}-{product}")
        for product in products
        for name in cast.cases
        if product in ONLY_ON.get(name, PRODUCTS)
    ]


@pytest.mark.parametrize(("product", "name"), everybody(GENTLE))
def test_gentle(product, name):
    play(product, "abort_transaction").end(name)


@pytest.mark.parametrize(("product", "name"), everybody(CLOSED, ["mariadb"]))
def test_close(product, name):
    play(product, "close").end(name)


def check(made):
    report, fates = made.report, list(made.fates.values())
    assert (report["outcome"], report["to"]) == ("forced", 4)
    # Besides: who watches.
    counts = {fate: fates.count(fate) for fate in ("carried", "aborted", "closed")}
    assert report["sessions"] == {**counts, "carried": counts["carried"] + 1}
    assert made.before["backend_pid"] != made.after["backend_pid"]
    assert (made.after["capacity"], made.after["state"]) == (4, "available")
    believed = sorted(what for (what,) in made.world.ask("SELECT what FROM believed"))
    assert believed == sorted(made.world.kept)


@pytest.mark.parametrize("product", PRODUCTS)
def test_gentle_report_and_belief(product):
    """What somebody takes for committed is there, and nothing else."""
    check(play(product, "abort_transaction"))


@pytest.mark.parametrize("product", ["mariadb"])
def test_close_report_and_belief(product):
    check(play(product, "close"))
