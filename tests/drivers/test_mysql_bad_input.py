"""The tests of bad input with MariaDB and MySQL: see test_bad_input.py."""

import concurrent.futures
import contextlib
import os
import random
import signal
import struct
import time

import pymysql
import pytest
from bad_input import LIMITS, Plain, crowd, memory, sent_away, trusting, vanish, watched
from conftest import wait_until
from mysqlserver import PRODUCTS, serving_mysql
from rawmysql import (
    BASE,
    CHANGE_USER,
    CLOSE,
    CONNECT_ATTRS,
    EXECUTE,
    FETCH,
    INIT_DB,
    LOCAL_FILES,
    LONG_DATA,
    PLUGIN_AUTH,
    PREPARE,
    QUERY,
    RESET,
    SET_OPTION,
    SPLIT,
    SSL,
    ServerError,
)

BAD_HANDSHAKE = 1043
OUT_OF_ORDER = 1156
CAPABILITIES = BASE | PLUGIN_AUTH


@pytest.fixture(scope="module", params=PRODUCTS[:2])
def server(request):
    parameters = {"max_allowed_packet": "128M", "local_infile": 1}
    with serving_mysql(request.param, top=LIMITS, parameters=parameters) as server:
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int, note text)")
            cursor.execute("CREATE TABLE numbers (n int)")
            cursor.execute("INSERT INTO numbers VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)")
            cursor.execute("CREATE USER known IDENTIFIED BY 'right'")
        yield server


def ask(session):
    with session.cursor() as cursor:
        cursor.execute("SELECT 42")
        return cursor.fetchone()[0]


@pytest.fixture(autouse=True)
def control(server):
    with watched(server, ask):
        yield


def count(server):
    with server.connect() as session, session.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM t")
        return cursor.fetchone()[0]


class Wire(Plain):
    """One that has read the greeting, unless told otherwise."""

    def __init__(self, server, greeted=True):
        super().__init__(server)
        self.hello = self.message() if greeted else None

    def message(self):
        """Number and body of the next packet; None at the end."""
        try:
            head = self.read_exactly(4)
            return head[3], self.read_exactly(int.from_bytes(head[:3], "little"))
        except (EOFError, ConnectionResetError):
            return None

    def refusal(self):
        """Code and text of an error, after which the connection must be closed."""
        message = self.message()
        assert message is not None and message[1][:1] == b"\xff", message
        assert self.message() is None
        error = ServerError(message[1])
        return error.code, error.text


def packet(sequence, body):
    return struct.pack("<I", len(body))[:3] + bytes([sequence]) + body


def front(capabilities):
    return struct.pack("<IIB23x", capabilities, 1 << 30, 45)


def response(user=b"master", answer=b"", *, capabilities=CAPABILITIES, plugin=b"mysql_native_password", more=b""):
    proof = bytes([len(answer)]) + answer
    return packet(1, front(capabilities) + user + b"\0" + proof + plugin + b"\0" + more)


SSL_REQUEST = packet(1, front(CAPABILITIES | SSL))
MALFORMED = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", BAD_HANDSHAKE),
    "an empty packet": (packet(1, b""), BAD_HANDSHAKE),
    "three bytes": (packet(1, b"abc"), BAD_HANDSHAKE),
    "capabilities alone": (packet(1, struct.pack("<I", CAPABILITIES)), BAD_HANDSHAKE),
    "no user": (packet(1, front(CAPABILITIES)), BAD_HANDSHAKE),
    "a user without an end": (packet(1, front(CAPABILITIES) + b"master"), BAD_HANDSHAKE),
    "no answer": (packet(1, front(CAPABILITIES) + b"master\0"), BAD_HANDSHAKE),
    "an answer cut off": (packet(1, front(CAPABILITIES) + b"master\0\x14short"), BAD_HANDSHAKE),
    "an answer of no length": (packet(1, front(CAPABILITIES) + b"master\0\xfb"), BAD_HANDSHAKE),
    "attributes cut off": (response(capabilities=CAPABILITIES | CONNECT_ATTRS, more=b"\x64\x03key"), BAD_HANDSHAKE),
    "attributes of a huge length": (
        response(capabilities=CAPABILITIES | CONNECT_ATTRS, more=b"\xfe" + b"\xff" * 8),
        BAD_HANDSHAKE,
    ),
    "100,001 bytes": (struct.pack("<I", 100_001)[:3] + b"\1", BAD_HANDSHAKE),
    "16 MiB": (b"\xff\xff\xff\1", BAD_HANDSHAKE),
    "number 0": (packet(0, response()[4:]), OUT_OF_ORDER),
    "number 2": (packet(2, response()[4:]), OUT_OF_ORDER),
    "number 255": (packet(255, SSL_REQUEST[4:]), OUT_OF_ORDER),
    "the protocol of 1999": (packet(1, struct.pack("<HBH", 0x05, 0, 0) + b"master\0"), 1251),
}


@pytest.mark.parametrize("data, code", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_response_is_refused(server, data, code):
    with Wire(server) as wire:
        wire.send(data)
        assert wire.refusal()[0] == code


def test_bad_tls_is_refused(server):
    hello = b"\x16\x03\x01\x02\x00" + bytes(512)
    for data in (hello, b"\x16\x03\x01\xff\xff" + bytes(70000), b"plain text, no TLS", response()):
        for together in (False, True):
            with Wire(server) as wire:
                # What stands behind the request is the client's hello, and nothing else.
                for part in [SSL_REQUEST + data] if together else [SSL_REQUEST, data]:
                    with contextlib.suppress(OSError):
                        wire.send(part)
                assert wire.is_closed()
    # Once is enough.
    with Wire(server) as wire:
        wire.send(SSL_REQUEST)
        wire.socket = trusting().wrap_socket(wire.socket, server_hostname="localhost")
        wire.send(packet(2, SSL_REQUEST[4:]))
        assert wire.refusal()[0] == BAD_HANDSHAKE


def test_wrong_answers_to_a_challenge_are_refused(server):
    def refused(user, first, later):
        with Wire(server) as wire:
            wire.send(response(user, first))
            while (message := wire.message()) and message[1][:1] in (b"\xfe", b"\x01"):
                wire.send(packet(message[0] + 1, later))
            assert message and message[1][:1] == b"\xff", message
            error = ServerError(message[1])
            assert wire.message() is None
            return error

    for first in (b"", b"x", b"x" * 20, b"x" * 32, b"x" * 250):
        for later in (b"", b"\0", b"\2", b"x" * 20, b"x" * 32, b"x" * 256, b"x" * 60_000):
            known, unknown = refused(b"known", first, later), refused(b"nobody", first, later)
            assert known.code in (1045, BAD_HANDSHAKE)
            # An account that is not there looks like one that is.
            assert (unknown.code, unknown.text.replace("nobody", "known")) == (known.code, known.text)
    with Wire(server) as wire:
        wire.send(response(b"known", b"x" * 20, plugin=b"no_such_plugin"))
        number, body = wire.message()
        assert body[:1] == b"\xfe"
        wire.send(packet(number, b"x" * 20))
        assert wire.refusal()[0] == OUT_OF_ORDER


def test_random_bytes_at_every_stage(server):
    chance = random.Random(13)
    for turn in range(60):
        garbage = chance.randbytes(chance.randrange(1, 3000))
        wire = server.raw(ca=None) if turn % 3 == 2 else Wire(server)
        if turn % 3 == 1:
            wire.send(SSL_REQUEST)
        # It may be closed while it still sends, and what looks like the start of a long packet is waited for.
        with contextlib.suppress(OSError):
            wire.socket.sendall(garbage)
        vanish(wire.socket)


#: Their bodies make no sense.
NONSENSE = [
    b"",
    b"\0",
    b"\x05x",
    b"\x7f",
    b"\xfe",
    *(bytes([code]) for code in (PREPARE, EXECUTE, RESET, FETCH, INIT_DB, 0x0C, 0x15, 0xFA)),
    *(bytes([code]) + b"\x01\0" for code in (EXECUTE, RESET, FETCH, 0x0C, 0xFA)),
    *(bytes([code]) + b"\x63\0\0\0" for code in (EXECUTE, RESET, FETCH, 0xFA)),
    bytes([EXECUTE]) + b"\x63\0\0\0" + b"\xff" * 300,
    bytes([SET_OPTION]) + b"\xff\xff",
    bytes([QUERY]),
    bytes([QUERY]) + b"\0\xff\xfe" * 100,
    b"\x12" + b"\xff" * 20,
    b"\x1e" + b"\xff" * 20,
]


def test_nonsense_is_answered_and_the_session_goes_on(server):
    """The server says what is wrong; whatever it does to the session, the next one is served."""
    closed = []
    wire = server.raw(ca=None)
    for body in NONSENSE:
        wire.sequence = 0
        wire.send(body)
        try:
            answer = wire.receive()
            assert answer[:1] == b"\xff", (body, answer)
            assert wire.one("SELECT 42") == "42"
        except ConnectionError:
            closed.append(body)
            wire = server.raw(ca=None)
    # They are never answered, nor is anything said about them; but MySQL 9 complains of one without a number.
    numberless = [] if server.product == "mysql9" else [bytes([CLOSE])]
    for body in (*numberless, bytes([CLOSE]) + b"\x63\0\0\0", bytes([LONG_DATA]) + b"\x63\0\0\0\0\0x"):
        wire.sequence = 0
        wire.send(body)
        assert wire.one("SELECT 42") == "42"
    wire.close()
    print(f"closed after {closed}")
    assert not closed


def test_a_statement_used_wrongly_harms_nobody(server):
    wire = server.raw(ca=None)
    statement = wire.prepare("SELECT ? + ?")
    number = struct.pack("<I", statement.id)
    for body in (b"", b"\0", b"\0\1\0\0\0", b"\0\1\0\0\0\0\1", b"\0\1\0\0\0\0\1\xff\xff\xff\xff"):
        wire.begin(EXECUTE, number + body)
        answer = wire.receive()
        assert answer[:1] == b"\xff", (body, answer)
    assert [float(value) for value in wire.execute(statement, [40, 2]).rows[0]] == [42.0]
    wire.close()


def test_packets_out_of_order_are_refused(server):
    for number in (1, 2, 255):
        with server.raw(ca=None).socket as connected:
            connected.sendall(packet(number, b"\x03SELECT 1"))
            answer = connected.recv(65536)
            assert ServerError(answer[4:]).text == "Got packets out of order"
            assert connected.recv(1) == b""


def test_a_change_of_user_that_makes_no_sense_is_refused(server):
    for body in (b"", b"known", b"known\0", b"known\0\x14short", b"known\0\xff", b"nobody\0\0\0", b"\xff" * 300, bytes(70_000)):
        wire = server.raw(ca=None)
        wire.begin(CHANGE_USER, body)
        answer = wire.receive()
        # Another method, or (caching_sha2_password) the password itself.
        while answer[:1] in (b"\xfe", b"\x01"):
            wire.send(b"x" * 20)
            answer = wire.receive()
        assert answer[:1] == b"\xff", (body, answer)
        wire.socket.close()


LONG = "SELECT REPEAT('x', 1000) FROM numbers a, numbers b, numbers c, numbers d, numbers e"
GREETING = ["connected", "greeted", "half a response", "after SSLRequest", "in the middle of TLS", "challenged"]
IN_SESSION = [
    "at rest",
    "half a header",
    "half a statement",
    "half of 16 MiB",
    "between packets of 16 MiB",
    "half a long parameter",
    "in a statement",
    "in a transaction",
    "in a file",
    "before a file",
    "in a big result",
    "changing its user",
]


def greeting(stage, server):
    """A client that has come as far as `stage`."""
    wire = Wire(server, greeted=stage != "connected")
    if stage == "half a response":
        wire.send(response()[:-30])
    elif stage in ("after SSLRequest", "in the middle of TLS"):
        wire.send(SSL_REQUEST)
        if stage == "in the middle of TLS":
            wire.begin_tls()
    elif stage == "challenged":
        wire.send(response(b"known", b"x" * 20, plugin=b"no_such_plugin"))
        assert wire.message()[1][:1] == b"\xfe"
    return wire


def in_session(stage, server):
    wire = server.raw(ca=None, add=LOCAL_FILES)
    send = wire.socket.sendall
    if stage == "half a header":
        send(b"\x10\0")
    elif stage == "half a statement":
        send(packet(0, b"\x03INSERT INTO t VALUES (1, 'vanished')")[:-8])
    elif stage == "half of 16 MiB":
        send(b"\xff\xff\xff\0\x03INSERT INTO t VALUES (1, '" + b"x" * (4 << 20))
    elif stage == "between packets of 16 MiB":
        text = b"\x03INSERT INTO t VALUES (1, '"
        send(b"\xff\xff\xff\0" + text + b"x" * (SPLIT - len(text)))
    elif stage == "half a long parameter":
        statement = wire.prepare("INSERT INTO t VALUES (1, ?)")
        wire.long_data(statement, 0, b"x" * 100_000)
        send(struct.pack("<I", 100_000)[:3] + b"\0" + bytes([LONG_DATA]) + bytes(50_000))
    elif stage == "in a statement":
        wire.begin(QUERY, "SELECT SLEEP(1)")
    elif stage == "in a transaction":
        wire.query("BEGIN")
        wire.query("INSERT INTO t VALUES (1, 'vanished')")
    elif stage in ("in a file", "before a file"):
        wire.begin(QUERY, "LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
        assert wire.receive()[:1] == b"\xfb"
        if stage == "in a file":
            send(packet(2, b"1\tvanished\n" * 1000) + struct.pack("<I", 100_000)[:3] + b"\3" + bytes(50_000))
    elif stage == "in a big result":
        wire.begin(QUERY, LONG)
    elif stage == "changing its user":
        wire.begin(CHANGE_USER, b"known\0\0\0\x2d\0no_such_plugin\0\0")
        assert wire.receive()[:1] == b"\xfe"
    return wire


@pytest.mark.parametrize("stage", GREETING + IN_SESSION)
def test_a_client_vanishes(server, stage):
    come_to = greeting if stage in GREETING else in_session
    for _ in range(2):
        vanish(come_to(stage, server).socket)
        come_to(stage, server).socket.close()
        wait_until(lambda: len(server.sessions()) == 1, "it is gone")
    assert count(server) == 0


def test_clients_vanish_while_the_server_hangs(server):
    process = server.status()["backend_pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        wires = [Wire(server) for _ in range(5)]
        for wire in wires:
            wire.send(response())
        time.sleep(0.2)
        for wire in wires:
            wire.vanish()
        wait_until(lambda: len(server.sessions()) == 1, "they are gone", deadline=10)
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_client_vanishes_at_the_gate(server):
    """While a change gathers sessions, one waits at the gate with a request, and leaves."""
    busy, waiting = server.raw(ca=None), server.raw(ca=None)
    busy.query("BEGIN")
    busy.query("SELECT * FROM t")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        change = pool.submit(server.scale, 4 if server.status()["capacity"] == 2 else 2, seconds=30)
        wait_until(lambda: server.status()["state"] in ("holding", "seeking"), "a change is under way")
        for _ in range(20):
            with contextlib.suppress(AssertionError, OSError):
                late = server.raw(ca=None)
                late.begin(QUERY, "SELECT 1")
                vanish(late.socket)
        waiting.query("BEGIN")
        waiting.query("INSERT INTO t VALUES (9, 'never')")
        vanish(waiting.socket)
        busy.query("COMMIT")
        assert change.result(60)["outcome"] == "scaled"
    busy.close()
    assert count(server) == 0


def test_slow_clients_are_sent_away(server):
    sent_away(server, [greeting(stage, server) for stage in GREETING for _ in range(20)], ask)


def test_a_client_that_never_reads(server):
    """Results of a gigabyte that nobody fetches take no memory and no turn of anybody else."""
    before = memory(server)
    wires = []
    for ca in (None, server.ca) * 4:
        wire = server.raw(ca=ca)
        wire.begin(QUERY, LONG.replace("1000", "10000"))
        wires.append(wire)
    # Requests whose answers nobody fetches either.
    for wire in wires[:4]:
        wire.socket.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                wire.socket.sendall(packet(0, b"\x03SELECT 1") * 100)
    time.sleep(0.5)
    grown = memory(server) - before
    print(f"{len(wires)} clients that do not read: {grown >> 20} MiB more")
    assert grown < 32 << 20
    for wire in wires:
        vanish(wire.socket)


def test_a_huge_statement_passes_without_being_stored(server):
    before = memory(server)
    wire = server.raw()
    for _ in range(2):
        assert wire.one("SELECT LENGTH('" + "x" * (64 << 20) + "')") == str(64 << 20)
    wire.close()
    grown = memory(server) - before
    print(f"a statement of 64 MiB: {grown >> 20} MiB more")
    assert grown < 16 << 20


def test_a_file_of_any_length_passes_without_being_stored(server):
    before = memory(server)
    wire = server.raw(ca=None, add=LOCAL_FILES)
    wire.file = (b"1\t" + b"x" * 10_000 + b"\n") * 2000
    wire.query("BEGIN")
    assert wire.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t").affected == 2000
    wire.query("ROLLBACK")
    wire.close()
    grown = memory(server) - before
    print(f"a file of 20 MiB: {grown >> 20} MiB more")
    assert grown < 16 << 20


def refused_for_lack_of_room(server):
    try:
        server.connect().close()
    except pymysql.OperationalError as error:
        return error.args[0] == 1040
    raise AssertionError("there should be no room")


def test_more_clients_than_may_be(server):
    crowd(server, ask, refused_for_lack_of_room, response())
