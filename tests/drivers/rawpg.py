"""A PostgreSQL client that sends exactly the messages it is told to send. For tests where drivers hide the bytes."""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct

TIMEOUT = 30


def text(value):
    return (value if isinstance(value, bytes) else value.encode()) + b"\0"


class ServerError(Exception):
    def __init__(self, fields):
        self.code = fields.get("C", "")
        super().__init__(f"{self.code}: {fields.get('M', '')}")


def error_fields(body):
    fields = {}
    for part in body.split(b"\0"):
        if part:
            fields[chr(part[0])] = part[1:].decode(errors="replace")
    return fields


def row(body):
    (count,) = struct.unpack_from("!H", body)
    at, values = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if length < 0 else body[at : at + length])
        at += max(length, 0)
    return tuple(values)


class Raw:
    """Connects and logs in. `parameters` are further start-up parameters."""

    def __init__(self, *, host, port, user, password, dbname, ca=None, **parameters):
        self.address = (host, port)
        self.context = ssl.create_default_context(cafile=ca) if ca else None
        self.socket = self._dial()
        self.buffer = b""
        self.status = {}
        self.notifications = []
        self.pid = self.key = None
        start = {"user": user, "database": dbname, **parameters}
        body = b"".join(text(k) + text(v) for k, v in start.items()) + b"\0"
        self.send(struct.pack("!II", len(body) + 8, 196608) + body)
        self._log_in(password)

    def _dial(self):
        plain = socket.create_connection(self.address, timeout=TIMEOUT)
        if not self.context:
            return plain
        plain.sendall(struct.pack("!II", 8, 80877103))
        assert plain.recv(1) == b"S", "no TLS"
        return self.context.wrap_socket(plain, server_hostname="localhost")

    def _log_in(self, password):
        while True:
            kind, body = self.read()
            if kind == "E":
                raise ServerError(error_fields(body))
            if kind == "R":
                (method,) = struct.unpack_from("!I", body)
                if method == 10:
                    self._scram(password)
                elif method not in (0, 12):
                    raise AssertionError(f"authentication method {method}")
            elif kind == "K":
                self.pid, self.key = struct.unpack("!I", body[:4])[0], body[4:]
            elif kind == "Z":
                return

    def _scram(self, password):
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n=,r={nonce}"
        initial = ("n,," + first).encode()
        self.message("p", text("SCRAM-SHA-256") + struct.pack("!i", len(initial)) + initial)
        kind, body = self.read()
        assert kind == "R", error_fields(body)
        challenge = body[4:].decode()
        fields = dict(part.split("=", 1) for part in challenge.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        stored = hashlib.sha256(client_key).digest()
        final = f"c=biws,r={fields['r']}"
        signature = hmac.digest(stored, f"{first},{challenge},{final}".encode(), "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
        self.message("p", f"{final},p={proof}".encode())

    # Bytes

    def send(self, data):
        self.socket.sendall(data)

    def message(self, kind, body=b""):
        self.send(kind.encode() + struct.pack("!I", len(body) + 4) + body)

    def read(self):
        """The next message; parameters and notifications are also remembered."""
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack_from("!I", self.buffer, 1)[0]:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed the connection")
            self.buffer += more
        (length,) = struct.unpack_from("!I", self.buffer, 1)
        kind, body = chr(self.buffer[0]), self.buffer[5 : 1 + length]
        self.buffer = self.buffer[1 + length :]
        if kind == "S":
            name, value = body.split(b"\0")[:2]
            self.status[name.decode()] = value.decode(errors="replace")
        elif kind == "A":
            channel, payload = body[4:].split(b"\0")[:2]
            self.notifications.append((struct.unpack("!I", body[:4])[0], channel, payload))
        return kind, body

    def until_ready(self):
        """All messages up to ReadyForQuery."""
        messages = []
        while not messages or messages[-1][0] != "Z":
            messages.append(self.read())
        return messages

    # Messages

    def parse(self, name, sql, types=()):
        oids = b"".join(struct.pack("!I", oid) for oid in types)
        self.message("P", text(name) + text(sql) + struct.pack("!H", len(types)) + oids)

    def bind(self, name, values=(), portal=""):
        packed = b""
        for value in values:
            value = value if isinstance(value, bytes) or value is None else str(value).encode()
            packed += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
        body = text(portal) + text(name) + struct.pack("!HH", 0, len(values)) + packed + struct.pack("!H", 0)
        self.message("B", body)

    def execute(self, portal=""):
        self.message("E", text(portal) + struct.pack("!I", 0))

    def close_statement(self, name):
        self.message("C", b"S" + text(name))

    def sync(self):
        self.message("S")

    def flush(self):
        self.message("H")

    # Conversations

    def query(self, sql):
        """A simple Query; the rows as bytes."""
        self.message("Q", text(sql))
        return self.rows()

    def rows(self):
        messages = self.until_ready()
        for kind, body in messages:
            if kind == "E":
                raise ServerError(error_fields(body))
        return [row(body) for kind, body in messages if kind == "D"]

    def prepare(self, name, sql, types=()):
        self.parse(name, sql, types)
        self.sync()
        self.rows()

    def run(self, name, *values):
        """Binds and executes a prepared statement; the rows as bytes."""
        self.bind(name, values)
        self.execute()
        self.sync()
        return self.rows()

    def cancel(self):
        """A cancel request on a connection of its own; returns when the server has taken it."""
        with self._dial() as other:
            other.sendall(struct.pack("!III", 12 + len(self.key), 80877102, self.pid) + self.key)
            other.settimeout(TIMEOUT)
            while other.recv(1024):
                pass

    def close(self):
        try:
            self.message("X")
        except OSError:
            pass
        self.socket.close()
