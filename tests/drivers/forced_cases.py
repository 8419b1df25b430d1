"""The cast of a forced change: client states that are set up before it and looked at after it.

A case is a generator. It brings a session into its state, yields what is to become of the session ("carried", "aborted"
or "closed"), and goes on when the change is done. All cases of one mode live through the same change.
"""

import asyncio
import struct
import threading
import time

from rawpg import Raw

ROLLBACK = b"C\0\0\0\x0dROLLBACK\0"
ZI = b"Z\0\0\0\x05I"
ZT = b"Z\0\0\0\x05T"
ZE = b"Z\0\0\0\x05E"
PARSED = b"1\0\0\0\x04"
BOUND = b"2\0\0\0\x04"
CLOSED = b"3\0\0\0\x04"
NO_DATA = b"n\0\0\0\x04"


def error(severity, code, text):
    body = f"S{severity}\0V{severity}\0C{code}\0M{text}\0\0".encode()
    return b"E" + struct.pack("!I", len(body) + 4) + body


E40001 = bytes.fromhex("45 00000057") + (
    b"SERROR\0VERROR\0C40001\0Mcould not serialize access: transaction lost in server move\0\0"
)
E25P02 = bytes.fromhex("45 0000006b") + (
    b"SERROR\0VERROR\0C25P02\0Mcurrent transaction is aborted, commands ignored until end of transaction block\0\0"
)
E57014 = bytes.fromhex("45 00000043") + b"SERROR\0VERROR\0C57014\0Mcanceling statement due to user request\0\0"
FATAL08007 = bytes.fromhex("45 00000056") + (
    b"SFATAL\0VFATAL\0C08007\0Mconnection lost during COMMIT: transaction outcome unknown\0\0"
)
FATAL40003 = bytes.fromhex("45 00000058") + (
    b"SFATAL\0VFATAL\0C40003\0Mconnection lost while statement was running: outcome unknown\0\0"
)
FATAL57P01 = error("FATAL", "57P01", "terminating connection due to serverless scale event timeout")


def message(kind, body=b""):
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def query(sql):
    return message("Q", sql.encode() + b"\0")


def parse(name, sql):
    return message("P", f"{name}\0{sql}\0".encode() + b"\0\0")


def bind(name=""):
    return message("B", b"\0" + name.encode() + b"\0" + bytes(6))


DESCRIBE = message("D", b"P\0")
EXECUTE = message("E", bytes(5))
SYNC = message("S")
FLUSH = message("H")


def extended(sql):
    """As drivers send a statement that they have not prepared."""
    return parse("", sql) + bind() + DESCRIBE + EXECUTE + SYNC


def prepared(name):
    """As drivers send a statement that they have prepared before."""
    return bind(name) + EXECUTE + SYNC


class Wire(Raw):
    """A session of which every byte counts."""

    def expect(self, *expected):
        """Exactly these bytes come next."""
        expected = b"".join(expected)
        while len(self.buffer) < len(expected):
            more = self.socket.recv(65536)
            assert more, f"closed after {self.buffer!r}, expected {expected!r}"
            self.buffer += more
        got, self.buffer = self.buffer[: len(expected)], self.buffer[len(expected) :]
        assert got == expected, f"\n     got {got!r}\nexpected {expected!r}"

    def ask(self, request, *expected):
        self.send(request)
        self.expect(*expected)

    def done(self, sql):
        """Runs a statement that must succeed; the messages."""
        self.send(query(sql))
        messages = self.until_ready()
        assert "E" not in [kind for kind, _ in messages], messages
        return messages

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

    def over(self):
        """The connection is closed, and nothing was said before."""
        got = self.buffer + self.socket.recv(65536)
        assert got == b"", f"instead of an end: {got!r}"

    def kinds_until_ready(self):
        """The kinds of the messages up to ReadyForQuery, the codes of errors, and the status."""
        found = []
        for kind, body in self.until_ready():
            fields = body.split(b"\0") if kind in "EN" else []
            codes = [field[1:].decode() for field in fields if field.startswith(b"C")]
            found += codes[:1] or [kind + body.decode() if kind == "Z" else kind]
        return found


class World:
    """What the cases of one mode share."""

    def __init__(self, server):
        self.server = server
        self.kept = set()
        self.observer = server.connect()
        self.observer.execute("CREATE TABLE believed (what text)")
        self.observer.execute("CREATE TABLE slow (what text)")
        self.observer.execute("CREATE TABLE waiting (what text)")
        for table, does in (("slow", "pg_sleep(600)"), ("waiting", "pg_advisory_xact_lock(77)")):
            self.observer.execute(f"""
                CREATE FUNCTION {table}_does() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM {does}; RETURN NULL; END $$""")
            self.observer.execute(f"""
                CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE PROCEDURE {table}_does()""")
        # A statement that no cancel request ends; one that comes between two turns of a loop finds the loop around it.
        stubborn = "PERFORM pg_sleep(600);"
        for _ in range(4):
            stubborn = f"LOOP BEGIN {stubborn} EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;"
        self.observer.execute("CREATE TABLE stubborn (what text)")
        self.observer.execute(f"""
            CREATE FUNCTION stubborn_does() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                {stubborn}
            END $$""")
        self.observer.execute(
            "CREATE TRIGGER runs AFTER INSERT ON stubborn FOR EACH ROW EXECUTE PROCEDURE stubborn_does()"
        )
        self.observer.execute(f"""
            CREATE FUNCTION stubborn_loop() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                {stubborn}
            END $$""")
        self.wires = []
        self.loop = asyncio.new_event_loop()
        self.looping = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.looping.start()

    def wire(self, **parameters):
        server = self.server
        login = {"user": "master", "password": server.password, "dbname": server.database}
        wire = Wire(host="127.0.0.1", port=server.port, **login, **parameters)
        self.wires.append(wire)
        return wire

    def in_transaction(self, what):
        """A session with an open transaction that has written something."""
        wire = self.wire()
        wire.done("BEGIN")
        wire.done(f"INSERT INTO believed VALUES ($$lost: {what}$$)")
        return wire

    def goes_on(self, wire, what):
        """The session is usable, and what it writes now stays."""
        wire.done(f"INSERT INTO believed VALUES ($${what}$$)")
        self.kept.add(what)

    def keep(self, what):
        self.kept.add(what)
        return what

    def until_running(self, mark, count=1):
        """Waits until statements with this mark in their text run."""
        end = time.monotonic() + 20
        running = """SELECT count(*) FROM pg_stat_activity
            WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"""
        while self.observer.execute(running, [f"%{mark}%"]).fetchone()[0] < count:
            assert time.monotonic() < end, f"{mark} does not run"
            time.sleep(0.02)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def begin(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self):
        self.observer.close()
        for wire in self.wires:
            wire.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.looping.join(10)


class Cast:
    """The cases of one mode, by name."""

    def __init__(self):
        self.cases = {}

    def only(self, *names):
        """A smaller cast."""
        cast = Cast()
        cast.cases = {name: self.cases[name] for name in names}
        return cast

    def case(self, function):
        name = function.__name__
        assert name not in self.cases
        self.cases[name] = lambda world: function(world, name)
        return function

    def add(self, name, function):
        assert name not in self.cases
        self.cases[name] = lambda world: function(world, name)


class Play:
    """One forced change with everybody on stage."""

    def __init__(self, server, cast, world=World):
        self.world = world(server)
        self.running = {name: case(self.world) for name, case in cast.cases.items()}
        self.fates = {name: next(case) for name, case in self.running.items()}
        self.before = server.status()
        self.report = server.scale(4, seconds=10, action="force")
        self.after = server.status()

    def end(self, name):
        """The rest of a case."""
        for _ in self.running[name]:
            raise AssertionError("a case has two parts")
