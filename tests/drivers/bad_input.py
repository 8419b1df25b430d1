"""What the tests of bad input share: clients that speak bytes, a session that must not notice them, and crowds."""

import contextlib
import pathlib
import re
import resource
import select
import socket
import ssl
import struct
import threading
import time

from conftest import wait_until

MAX_SESSIONS = 50
HANDSHAKE_MS = 1500
#: The configuration has one [router] section; these lines become part of it.
LIMITS = f"max_sessions = {MAX_SESSIONS}\nhandshake_timeout_ms = {HANDSHAKE_MS}"


class Plain:
    """A client that speaks bytes."""

    def __init__(self, server):
        self.server = server
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def vanish(self):
        vanish(self.socket)

    def read_exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return data

    def is_closed(self):
        """Everything that is still to come, up to the end."""
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass
        return True

    def begin_tls(self):
        """The first bytes of a TLS handshake, and not the rest."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        self.send(outgoing.read()[:100])


def vanish(connected):
    """No goodbye: a reset."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connected.close()


def trusting():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def readable(plain, seconds):
    return bool(select.select([plain], [], [], seconds)[0])


def memory(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


@contextlib.contextmanager
def watched(server, ask):
    """A session from before must work all the time; new ones must be served after it, and the log be clean.

    `ask(session)` asks for 42 and returns what came.
    """
    with server.connect() as session:
        stop = threading.Event()
        failures = []
        slowest = 0.0

        def work():
            nonlocal slowest
            while not stop.is_set():
                try:
                    begin = time.monotonic()
                    assert ask(session) == 42
                    slowest = max(slowest, time.monotonic() - begin)
                except Exception as error:
                    failures.append(error)
                    return
                time.sleep(0.005)

        thread = threading.Thread(target=work)
        thread.start()
        yield session
        stop.set()
        thread.join(60)
        assert not failures and not thread.is_alive()
        print(f"control session: slowest answer {slowest * 1000:.0f} ms")
    with server.connect() as session:
        assert ask(session) == 42
    wait_until(lambda: not server.sessions(), "every session is gone")
    log = server.log_path.read_text(errors="replace")
    assert not re.findall(r"^.*(?:panicked| ERROR ).*$", log, re.MULTILINE)


def sent_away(server, wires, ask):
    """A greeting has a deadline, however it is stretched, and holds up nobody meanwhile."""
    drips = threading.Event()

    def drip():
        # A byte now and then does not make the time longer.
        while not drips.wait(0.1):
            for wire in wires:
                with contextlib.suppress(OSError):
                    wire.socket.send(b"\0" if wire is wires[0] else b"")

    thread = threading.Thread(target=drip)
    thread.start()
    with server.connect() as session:
        assert ask(session) == 42
    for wire in wires:
        assert wire.is_closed()
        wire.socket.close()
    drips.set()
    thread.join()


def crowd(server, ask, refused, hello):
    """The limit is said in words; connections beyond what can be greeted are closed; then all is as before.

    `refused(server)`: whether a client is told that there is no room. `hello`: what each of the crowd says.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    sessions = []
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_SESSIONS - 1):
            sessions.append(stack.enter_context(server.connect()))
        assert refused(server)
        before = memory(server)
        most = 0
        for _ in range(2):
            wires = []
            for _ in range(5000):
                wire = Plain(server)
                with contextlib.suppress(OSError):
                    wire.send(hello)
                wires.append(wire)
            most = max(most, memory(server))
            assert ask(sessions[0]) == 42
            for wire in wires:
                wire.vanish()
        print(f"10000 connections beyond the limit: {(most - before) >> 20} MiB more at most")
        assert most - before < 64 << 20
        # As soon as the crowd is gone the limit is said in words again.
        wait_until(lambda: refused(server), "a refusal in words")
        for session in sessions:
            assert ask(session) == 42
    # As many are served as before.
    with contextlib.ExitStack() as stack:
        wait_until(lambda: len(server.sessions()) == 1, "places are free")
        for _ in range(MAX_SESSIONS - 1):
            assert ask(stack.enter_context(server.connect())) == 42
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
