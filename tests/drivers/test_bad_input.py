"""Whatever a client sends, or stops sending: it is refused in words or closed, and everybody else is served."""

import base64
import concurrent.futures
import contextlib
import hashlib
import hmac
import os
import random
import signal
import socket
import struct
import time

import psycopg
import pytest
from bad_input import LIMITS, Plain, crowd, memory, readable, sent_away, trusting, watched
from conftest import wait_until

SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSS_REQUEST = struct.pack("!II", 8, 80877104)


@pytest.fixture(scope="module")
def server(serve_module):
    server = serve_module("15", top=LIMITS)
    with server.connect() as connection:
        connection.execute("CREATE TABLE t (id int, note text)")
        connection.execute("CREATE ROLE known LOGIN PASSWORD 'right'")
        connection.execute("SET password_encryption = 'md5'")
        connection.execute("CREATE ROLE old LOGIN PASSWORD 'right'")
    return server


def ask(session):
    return session.execute("SELECT 42").fetchone()[0]


@pytest.fixture(autouse=True)
def control(server):
    with watched(server, ask) as session:
        yield session


class Wire(Plain):
    def __init__(self, server, tls=False):
        super().__init__(server)
        if tls:
            self.upgrade()

    def upgrade(self):
        self.socket.sendall(SSL_REQUEST)
        assert self.socket.recv(1) == b"S"
        self.socket = trusting().wrap_socket(self.socket, server_hostname="localhost")

    def message(self):
        """The kind and the body of the next message; None at the end."""
        try:
            head = self.read_exactly(5)
            return head[:1], self.read_exactly(struct.unpack("!I", head[1:])[0] - 4)
        except (EOFError, ConnectionResetError):
            return None

    def until(self, kind):
        messages = []
        while not messages or messages[-1][0] != kind:
            message = self.message()
            assert message is not None, f"closed after {messages}"
            messages.append(message)
        return messages

    def refusal(self):
        """The fields of a fatal error, after which the connection must be closed."""
        message = self.message()
        assert message is not None and message[0] == b"E", message
        fields = error_fields(message[1])
        assert fields["S"] == "FATAL"
        assert self.message() is None
        return fields

    def log_in(self, user="master", password=None, **parameters):
        """Starts up and proves itself; returns the messages up to ReadyForQuery."""
        self.send(startup(user=user, database=self.server.database, **parameters))
        return self.prove(password or self.server.password, user)

    def prove(self, password, user):
        kind, body = self.message()
        if kind == b"v":
            kind, body = self.message()
        method = struct.unpack("!I", body[:4])[0]
        if method == 5:
            inner = hashlib.md5((password + user).encode()).hexdigest()
            outer = hashlib.md5(inner.encode() + body[4:8]).hexdigest()
            self.send(typed(b"p", b"md5" + outer.encode() + b"\0"))
        else:
            assert method == 10
            self.scram(password)
        return self.until(b"Z")

    def scram(self, password):
        first = b"n=,r=" + b"client-nonce-0123456789"
        initial = b"n,," + first
        self.send(typed(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(initial)) + initial))
        kind, body = self.message()
        assert kind == b"R", body
        challenge = body[4:]
        fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
        def sign(key, text):
            return hmac.new(key, text, hashlib.sha256).digest()

        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields[b"s"]), int(fields[b"i"]))
        client_key = sign(salted, b"Client Key")
        bare = b"c=biws,r=" + fields[b"r"]
        signature = sign(hashlib.sha256(client_key).digest(), first + b"," + challenge + b"," + bare)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self.send(typed(b"p", bare + b",p=" + base64.b64encode(proof)))


def packet(code, body=b""):
    return struct.pack("!II", len(body) + 8, code) + body


def startup(version=196608, **parameters):
    pairs = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in parameters.items())
    return packet(version, pairs + b"\0")


def typed(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


def query(text):
    return typed(b"Q", text.encode() + b"\0")


def error_fields(body):
    return {part[:1].decode(): part[1:].decode() for part in body.rstrip(b"\0").split(b"\0")}


MALFORMED = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "length zero": bytes(8),
    "length seven": struct.pack("!I", 7) + b"xyz",
    "a huge length": struct.pack("!II", 0x7FFFFFFF, 196608),
    "a negative length": struct.pack("!iI", -1, 196608),
    "10001 bytes": struct.pack("!II", 10001, 196608),
    "no terminator": packet(196608, b"user\0master\0"),
    "a name without a value": packet(196608, b"user\0"),
    "no user": packet(196608, b"database\0app\0\0"),
    "more after the end": packet(196608, b"user\0master\0\0more"),
    "a tiny cancel request": packet(80877102, b"123"),
    "a huge cancel request": packet(80877102, bytes(1000)),
    "data behind SSLRequest": SSL_REQUEST + b"x",
    "SSLRequest with a body": packet(80877103, b"x"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_first_packet_is_refused(server, data):
    with Wire(server) as wire:
        wire.send(data)
        assert wire.refusal()["C"] in ("08P01", "28000")


@pytest.mark.parametrize("version", [0x00010000, 0x00020000, 0x00040000, 0xFFFF0000])
def test_other_protocols_are_refused(server, version):
    with Wire(server) as wire:
        wire.send(packet(version, b"user\0master\0\0"))
        fields = wire.refusal()
        assert fields["C"] == "0A000" and "unsupported frontend protocol" in fields["M"]


def test_replication_is_refused_clearly(server):
    for value in ("database", "true", "1", "on"):
        with Wire(server) as wire:
            wire.send(startup(user="master", replication=value))
            fields = wire.refusal()
            assert fields["C"] == "0A000" and "replication" in fields["M"]
    with Wire(server) as wire:
        wire.log_in(replication="false")


def test_random_bytes_at_every_stage(server):
    chance = random.Random(11)
    for turn in range(60):
        garbage = chance.randbytes(chance.randrange(1, 3000))
        with Wire(server, tls=turn % 2 == 1) as wire:
            if turn % 3 == 1:
                wire.send(startup(user="master", database=server.database))
                assert wire.message()[0] == b"R"
            elif turn % 3 == 2:
                wire.log_in()
            # It may be closed while it still sends, and what looks like the start of a long message is waited for.
            with contextlib.suppress(OSError):
                wire.send(garbage)
            wire.vanish()


def test_wrong_messages_are_refused(server):
    with Wire(server) as wire:
        wire.send(startup(user="master", database=server.database))
        assert wire.message()[0] == b"R"
        wire.send(query("SELECT 1"))
        assert wire.refusal()["C"] == "08P01"
    for answer in (b"", b"NO-SUCH-MECHANISM\0" + struct.pack("!i", -1), b"SCRAM-SHA-256\0" + struct.pack("!i", 3) + b"x,,"):
        with Wire(server) as wire:
            wire.send(startup(user="master", database=server.database))
            assert wire.message()[0] == b"R"
            wire.send(typed(b"p", answer))
            assert wire.refusal()["C"] in ("08P01", "28000")
    for data in (b"\0\0\0\0\5", b"Q\0\0\0\1", b"Q\xff\xff\xff\xff", b"!\0\0\0\4"):
        with Wire(server) as wire:
            wire.log_in()
            wire.send(data)
            assert wire.refusal()["C"] == "08P01"
    # Well-formed, but out of turn: the server says so, and the session goes on.
    with Wire(server) as wire:
        wire.log_in()
        wire.send(typed(b"d", b"copy data without a copy") + typed(b"c"))
        wire.send(typed(b"E", b"nothing\0" + bytes(4)) + typed(b"S"))
        messages = wire.until(b"Z")
        assert error_fields(messages[0][1])["C"] == "34000"
        wire.send(typed(b"B", b"short") + typed(b"S"))
        assert error_fields(wire.until(b"Z")[0][1])["C"] == "08P01"
        wire.send(query("SELECT 1"))
        assert [kind for kind, _ in wire.until(b"Z")] == [b"T", b"D", b"C", b"Z"]


def test_bad_tls_is_refused(server):
    for data in (b"\x16\x03\x01\x02\x00" + bytes(512), b"\x16\x03\x01\xff\xff" + bytes(70000), b"plain text, no TLS"):
        with Wire(server) as wire:
            wire.send(SSL_REQUEST)
            assert wire.socket.recv(1) == b"S"
            with contextlib.suppress(OSError):
                wire.send(data)
            assert wire.is_closed()
    # A TLS client that does not name the protocol may have been led here by somebody else.
    context = trusting()
    for names in (None, ["http/1.1"]):
        if names:
            context.set_alpn_protocols(names)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
            with pytest.raises((OSError, EOFError)):
                with context.wrap_socket(plain, server_hostname="localhost") as secure:
                    secure.sendall(startup(user="master", database=server.database))
                    if not secure.recv(1):
                        raise EOFError
    context = trusting()
    context.set_alpn_protocols(["postgresql"])
    with Wire(server) as wire:
        wire.socket = context.wrap_socket(wire.socket, server_hostname="localhost")
        wire.log_in()


def test_an_unknown_role_looks_like_a_wrong_password(server):
    def refused(user):
        with Wire(server) as wire:
            wire.send(startup(user=user, database=server.database))
            kind, offered = wire.message()
            wire.scram("wrong")
            return kind, offered, wire.refusal()

    def challenge(user):
        with Wire(server) as wire:
            wire.send(startup(user=user, database=server.database))
            wire.message()
            first = b"n,,n=,r=abc"
            wire.send(typed(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first))
            _, body = wire.message()
            fields = dict(part.split(b"=", 1) for part in body[4:].split(b","))
            return fields[b"s"], fields[b"i"], len(fields[b"r"])

    kind, offered, fields = refused("known")
    other = refused("nobody")
    assert other[:2] == (kind, offered)
    assert fields["C"] == "28P01" and fields["M"] == 'password authentication failed for user "known"'
    other[2]["M"] = other[2]["M"].replace("nobody", "known")
    assert other[2] == fields
    # The salt of an account that is not there is as long, and as constant, as a real one.
    real, decoy = challenge("known"), challenge("nobody")
    assert challenge("known") == real and challenge("nobody") == decoy and real[0] != decoy[0]
    assert len(real[0]) == len(decoy[0]) and real[1:] == decoy[1:]


def test_md5_roles_log_in(server):
    with Wire(server) as wire:
        wire.log_in("old", "right")
    with server.connect(user="old", password="right") as session:
        assert session.execute("SELECT current_user").fetchone() == ("old",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        server.connect(user="old", password="wrong")


def backend_key(messages):
    (body,) = [body for kind, body in messages if kind == b"K"]
    return body[:4], body[4:]


def test_cancel_keys(server):
    """The long key of protocol 3.2 and the short one of 3.0; a wrong one does nothing at all."""
    for version, length in ((196608, 4), (196610, 32)):
        with Wire(server) as wire:
            wire.send(startup(version, user="master", database=server.database))
            number, secret = backend_key(wire.prove(server.password, "master"))
            assert len(secret) == length
            wire.send(query("SELECT pg_sleep(60)"))
            wait_until(lambda: any("pg_sleep" in (s["statement"] or "") for s in server.sessions()), "a statement runs")
            wrong = bytes([secret[0] ^ 1]) + secret[1:]
            for guess in (wrong, secret[:-1] + bytes([secret[-1] ^ 1]), secret + b"x", secret[:4] * 2, bytes(256)):
                with Wire(server) as stranger:
                    stranger.send(packet(80877102, number + guess))
                    assert stranger.is_closed()
            assert wire.socket.gettimeout() and not readable(wire.socket, 0.2)
            with Wire(server) as friend:
                friend.send(packet(80877102, number + secret))
                assert friend.is_closed()
            assert error_fields(wire.until(b"Z")[-2][1])["C"] == "57014"
    # What is newer than 3.2 is answered with 3.2, and what is unknown is named.
    with Wire(server) as wire:
        wire.send(startup(196608 + 99, user="master", database=server.database, **{"_pq_.odd": "1"}))
        kind, body = wire.message()
        assert (kind, body) == (b"v", struct.pack("!II", 196610, 1) + b"_pq_.odd\0")
        wire.prove(server.password, "master")


def at(stage, server):
    """A client that has come as far as `stage`."""
    wire = Wire(server)
    if stage == "connected":
        return wire
    if stage == "half a packet":
        wire.send(startup(user="master")[:-3])
        return wire
    if stage == "after SSLRequest":
        wire.send(SSL_REQUEST)
        assert wire.socket.recv(1) == b"S"
        return wire
    if stage == "in the middle of TLS":
        wire.send(SSL_REQUEST)
        assert wire.socket.recv(1) == b"S"
        wire.begin_tls()
        return wire
    if stage == "after start-up":
        wire.send(startup(user="master", database=server.database))
        return wire
    if stage == "in the middle of SCRAM":
        wire.send(startup(user="master", database=server.database))
        wire.message()
        first = b"n,,n=,r=abc"
        wire.send(typed(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first))
        wire.message()
        return wire
    wire.log_in()
    wire.send(query(STATEMENTS[stage]))
    if stage == "in COPY":
        wire.until(b"G")
        wire.send(typed(b"d", b"1\tx\n") + b"d\0\0\xff\xff1\t")
    elif stage == "in a transaction":
        wire.until(b"Z")
    return wire


STATEMENTS = {
    "in a statement": "SELECT pg_sleep(1)",
    "in a transaction": "BEGIN; LOCK TABLE t; INSERT INTO t VALUES (1, 'vanished')",
    "in COPY": "COPY t FROM STDIN",
    "in a big result": "SELECT repeat('x', 1000) FROM generate_series(1, 100000)",
}
GREETING = [
    "connected",
    "half a packet",
    "after SSLRequest",
    "in the middle of TLS",
    "after start-up",
    "in the middle of SCRAM",
]


@pytest.mark.parametrize("stage", GREETING + list(STATEMENTS))
def test_a_client_vanishes(server, control, stage):
    for _ in range(3):
        at(stage, server).vanish()
        at(stage, server).socket.close()
        wait_until(lambda: len(server.sessions()) == 1, "it is gone")
    assert control.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_client_vanishes_before_it_has_a_backend(server):
    process = server.status()["backend_pid"]
    wires = []
    os.kill(process, signal.SIGSTOP)
    try:
        for _ in range(5):
            wires.append(Wire(server))
            wires[-1].send(startup(user="master", database=server.database))
            assert wires[-1].message()[0] == b"R"
            wires[-1].scram(server.password)
        wait_until(lambda: len(server.sessions()) == 6, "they wait")
        for wire in wires:
            wire.vanish()
        wait_until(lambda: len(server.sessions()) == 1, "they are gone", deadline=10)
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_client_vanishes_at_the_gate(server):
    """While a change gathers sessions, one waits at the gate with a request, and leaves."""
    with server.connect(autocommit=False) as busy, Wire(server) as waiting:
        waiting.log_in()
        busy.execute("SELECT 1")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            # The transaction ends a moment before the hold would be given up.
            change = pool.submit(server.scale, 4 if server.status()["capacity"] == 2 else 2, seconds=30)
            wait_until(lambda: server.status()["state"] in ("holding", "seeking"), "a change is under way")
            for _ in range(20):
                with contextlib.suppress(AssertionError, OSError):
                    late = Wire(server)
                    late.log_in()
                    late.send(query("SELECT 1"))
                    late.vanish()
            waiting.send(query("INSERT INTO t VALUES (9, 'never'); SELECT pg_sleep(0.01); ROLLBACK"))
            waiting.vanish()
            busy.commit()
            assert change.result(60)["outcome"] == "scaled"
    with server.connect() as session:
        session.execute("TRUNCATE t")


def test_slow_clients_are_sent_away(server):
    sent_away(server, [at(stage, server) for stage in GREETING for _ in range(20)], ask)


def test_a_client_that_never_reads(server, control):
    """Results of a gigabyte that nobody fetches take no memory and no turn of anybody else."""
    before = memory(server)
    wires = []
    for tls in (False, True) * 4:
        wire = Wire(server, tls=tls)
        wire.log_in()
        wire.send(query("SELECT repeat('x', 10000) FROM generate_series(1, 100000)"))
        wires.append(wire)
    # Requests whose answers nobody fetches either.
    for wire in wires[:4]:
        wire.socket.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                wire.send(query("SELECT 1") * 100)
    time.sleep(0.5)
    grown = memory(server) - before
    print(f"{len(wires)} clients that do not read: {grown >> 20} MiB more")
    assert grown < 32 << 20
    for wire in wires:
        wire.vanish()


def test_a_huge_statement_passes_without_being_stored(server):
    before = memory(server)
    with server.connect() as session:
        for _ in range(2):
            assert session.execute("SELECT length(%s)", ("x" * (64 << 20),)).fetchone() == (64 << 20,)
    grown = memory(server) - before
    print(f"a statement of 64 MiB: {grown >> 20} MiB more")
    assert grown < 16 << 20


def refused_for_lack_of_room(server):
    try:
        server.connect().close()
    except psycopg.OperationalError as error:
        return "too many clients already" in str(error)
    raise AssertionError("there should be no room")


def test_more_clients_than_may_be(server):
    crowd(server, ask, refused_for_lack_of_room, startup(user="master", database=server.database))
