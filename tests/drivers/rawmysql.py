"""A MySQL client that sends exactly the packets it is told to send. For tests where drivers hide the bytes.

    client = Raw(host="127.0.0.1", port=3306, user="plain", password="plain", database="app")
    client.query("SELECT 1").rows            # [(b"1",)]
    statement = client.prepare("SELECT ? + 1")
    client.execute(statement, [41]).rows     # [(42,)]
"""

import hashlib
import socket
import ssl
import struct

TIMEOUT = 30

# Capabilities
FOUND_ROWS = 1 << 1
CONNECT_WITH_DB = 1 << 3
COMPRESS = 1 << 5
LOCAL_FILES = 1 << 7
IGNORE_SPACE = 1 << 8
INTERACTIVE = 1 << 10
SSL = 1 << 11
TRANSACTIONS = 1 << 13
MULTI_STATEMENTS = 1 << 16
MULTI_RESULTS = 1 << 17
PS_MULTI_RESULTS = 1 << 18
PLUGIN_AUTH = 1 << 19
CONNECT_ATTRS = 1 << 20
SESSION_TRACK = 1 << 23
DEPRECATE_EOF = 1 << 24
#: LONG_PASSWORD, LONG_FLAG, PROTOCOL_41, SECURE_CONNECTION: everybody's.
BASE = 1 | 1 << 2 | 1 << 9 | 1 << 15
USUAL = BASE | TRANSACTIONS | MULTI_STATEMENTS | MULTI_RESULTS | PS_MULTI_RESULTS | PLUGIN_AUTH | DEPRECATE_EOF

# Status flags
IN_TRANS = 0x0001
AUTOCOMMIT = 0x0002
MORE_RESULTS = 0x0008
CURSOR_EXISTS = 0x0040
LAST_ROW_SENT = 0x0080

# Commands
QUIT, INIT_DB, QUERY, STATISTICS, PING, CHANGE_USER = 1, 2, 3, 9, 14, 17
PREPARE, EXECUTE, LONG_DATA, CLOSE, RESET, SET_OPTION, FETCH, RESET_CONNECTION = 22, 23, 24, 25, 26, 27, 28, 31

SPLIT = 0xFFFFFF
#: Binary types of a fixed length, as struct formats (signed, unsigned).
FIXED = {1: "bB", 2: "hH", 3: "iI", 4: "ff", 5: "dd", 8: "qQ", 9: "iI", 13: "hH"}


class ServerError(Exception):
    def __init__(self, body):
        (self.code,) = struct.unpack_from("<H", body, 1)
        text = body[3:]
        self.state = text[1:6].decode() if text[:1] == b"#" else ""
        self.text = (text[6:] if self.state else text).decode(errors="replace")
        super().__init__(f"{self.code} ({self.state}): {self.text}")


class Result:
    """What a statement was answered with."""

    def __init__(self):
        self.columns, self.rows = [], []
        self.affected = self.insert_id = self.status = self.warnings = 0
        self.info = b""


class Statement:
    def __init__(self, id, columns, parameters, warnings):
        self.id, self.columns, self.parameters, self.warnings = id, columns, parameters, warnings


class Column:
    def __init__(self, body):
        at, names = 0, []
        for _ in range(6):
            value, at = string(body, at)
            names.append(value)
        self.name = names[4].decode(errors="replace")
        _, at = integer(body, at)
        self.charset, self.length, self.type, self.flags = struct.unpack_from("<HIBH", body, at)

    @property
    def unsigned(self):
        return bool(self.flags & 32)


def integer(body, at=0):
    """A length-encoded integer (None: NULL) and where it ends."""
    first = body[at]
    if first < 0xFB:
        return first, at + 1
    if first == 0xFB:
        return None, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    return int.from_bytes(body[at + 1 : at + 1 + size], "little"), at + 1 + size


def string(body, at=0):
    """A length-encoded string and where it ends."""
    length, at = integer(body, at)
    if length is None:
        return None, at
    return bytes(body[at : at + length]), at + length


def encoded(value):
    """A length-encoded string."""
    value = data(value)
    size = len(value)
    if size < 0xFB:
        return bytes([size]) + value
    return (b"\xfc" + struct.pack("<H", size) if size < 1 << 16 else b"\xfd" + struct.pack("<I", size)[:3]) + value


def data(value):
    return value if isinstance(value, (bytes, bytearray)) else str(value).encode()


def xor(one, other):
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def proof(plugin, password, salt):
    """The answer to a challenge."""
    if not password:
        return b""
    if plugin == "mysql_native_password":
        once = hashlib.sha1(password).digest()
        return xor(once, hashlib.sha1(salt + hashlib.sha1(once).digest()).digest())
    if plugin == "caching_sha2_password":
        once = hashlib.sha256(password).digest()
        return xor(once, hashlib.sha256(hashlib.sha256(once).digest() + salt).digest())
    raise AssertionError(f"authentication by {plugin}")


class Raw:
    """Connects and logs in. `ca`: with TLS. `add` and `drop`: capabilities besides the usual ones."""

    def __init__(
        self,
        *,
        host,
        port,
        user,
        password,
        database=None,
        ca=None,
        add=0,
        drop=0,
        collation=45,
        attributes=None,
        plugin=None,
        file=b"",
    ):
        self.user, self.password, self.database, self.ca = user, data(password), database, ca
        #: What is sent for LOAD DATA LOCAL; None: nothing, for now.
        self.file = file
        self.buffer, self.sequence = b"", 0
        self.socket = socket.create_connection((host, port), timeout=TIMEOUT)
        self._greeting(self.receive())
        self.capabilities = (USUAL | add | (CONNECT_WITH_DB if database else 0)) & ~drop
        if attributes is not None:
            self.capabilities |= CONNECT_ATTRS
        self.capabilities &= self.offered
        if ca:
            self._secure(collation)
        self._log_in(collation, attributes, plugin)

    def _greeting(self, body):
        if body[0] == 0xFF:
            raise ServerError(body)
        assert body[0] == 10, "protocol version"
        end = body.index(b"\0", 1)
        self.version = body[1:end].decode()
        self.id, first = struct.unpack_from("<I8s", body, end + 1)
        low, self.default_collation, self.status, high, length = struct.unpack_from("<HBHHB", body, end + 14)
        self.offered = low | high << 16
        rest = body[end + 32 :]
        self.salt = first + rest[: max(12, length - 9)]
        self.plugin = rest[max(13, length - 8) :].rstrip(b"\0").decode() or "mysql_native_password"

    def _front(self, collation):
        return struct.pack("<IIB23x", self.capabilities, 1 << 30, collation)

    def _secure(self, collation):
        assert self.offered & SSL, "no TLS"
        self.capabilities |= SSL
        self.send(self._front(collation))
        context = ssl.create_default_context(cafile=self.ca)
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def _log_in(self, collation, attributes, plugin):
        plugin = plugin or self.plugin
        answer = proof(plugin, self.password, self.salt)
        body = self._front(collation) + data(self.user) + b"\0" + bytes([len(answer)]) + answer
        if self.capabilities & CONNECT_WITH_DB:
            body += data(self.database) + b"\0"
        if self.capabilities & PLUGIN_AUTH:
            body += plugin.encode() + b"\0"
        if self.capabilities & CONNECT_ATTRS:
            body += encoded(b"".join(encoded(k) + encoded(v) for k, v in (attributes or {}).items()))
        self.send(body)
        self._authenticate(plugin)

    def _authenticate(self, plugin):
        while True:
            body = self.receive()
            if body[0] == 0:
                return self._ok(body, Result())
            if body[0] == 0xFF:
                raise ServerError(body)
            if body[0] == 0xFE:
                name, _, self.salt = body[1:].partition(b"\0")
                plugin, self.salt = name.decode(), self.salt.rstrip(b"\0")
                self.send(proof(plugin, self.password, self.salt))
            elif body == b"\x01\x04":
                self._full_authentication()
            elif body != b"\x01\x03":
                raise AssertionError(f"authentication: {body!r}")

    def _full_authentication(self):
        clear = self.password + b"\0"
        if isinstance(self.socket, ssl.SSLSocket):
            return self.send(clear)
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding

        self.send(b"\x02")
        key = serialization.load_pem_public_key(self.receive()[1:])
        mask = (self.salt * (len(clear) // len(self.salt) + 1))[: len(clear)]
        sha1 = hashes.SHA1()
        self.send(key.encrypt(xor(clear, mask), padding.OAEP(padding.MGF1(sha1), sha1, None)))

    # Bytes

    def send(self, body):
        """One packet (or what it takes of them), numbered on from what came last."""
        self.socket.sendall(self.packets(body))

    def packets(self, body):
        out = b""
        while True:
            part, body = body[:SPLIT], body[SPLIT:]
            out += struct.pack("<I", len(part))[:3] + bytes([self.sequence]) + part
            self.sequence = (self.sequence + 1) % 256
            if len(part) < SPLIT:
                return out

    def _read(self, count):
        while len(self.buffer) < count:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed the connection")
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive(self):
        """The next packet's body, parts put together; its number must be the next."""
        body = b""
        while True:
            header = self._read(4)
            length = int.from_bytes(header[:3], "little")
            assert header[3] == self.sequence, f"packet {header[3]} came instead of {self.sequence}"
            self.sequence = (header[3] + 1) % 256
            body += self._read(length)
            if length < SPLIT:
                return body

    def begin(self, command, body=b""):
        """Sends a command; the answer is to be read."""
        self.sequence = 0
        self.send(bytes([command]) + data(body))

    # Answers

    def _ok(self, body, result):
        result.affected, at = integer(body, 1)
        result.insert_id, at = integer(body, at)
        result.status, result.warnings = struct.unpack_from("<HH", body, at)
        result.info = body[at + 4 :]
        self.status = result.status
        return result

    def _eof(self, body, result):
        if self.capabilities & DEPRECATE_EOF:
            return self._ok(body, result)
        result.warnings, result.status = struct.unpack_from("<HH", body, 1)
        self.status = result.status
        return result

    def result(self, binary=False):
        """The answer to a statement."""
        body, result = self.receive(), Result()
        if body[0] == 0xFF:
            raise ServerError(body)
        if body[0] == 0:
            return self._ok(body, result)
        if body[0] == 0xFB:
            #: The file's name.
            result.info = body[1:]
            return self.send_file() if self.file is not None else result
        result.columns = self._columns(integer(body)[0], result)
        return self._rows(result, binary)

    def send_file(self):
        """What LOAD DATA LOCAL asked for, and the answer."""
        if self.file:
            self.send(self.file)
        self.send(b"")
        return self.result()

    def _columns(self, count, result):
        columns = [Column(self.receive()) for _ in range(count)]
        if not self.capabilities & DEPRECATE_EOF:
            self._eof(self.receive(), result)
        return columns

    def _rows(self, result, binary):
        while True:
            body = self.receive()
            if body[0] == 0xFF:
                raise ServerError(body)
            if body[0] == 0xFE and len(body) < SPLIT and (binary or len(body) < 9 or self.capabilities & DEPRECATE_EOF):
                return self._eof(body, result)
            result.rows.append(self._binary(body, result.columns) if binary else self._text(body, result.columns))

    @staticmethod
    def _text(body, columns):
        at, values = 0, []
        for _ in columns:
            value, at = string(body, at)
            values.append(value)
        return tuple(values)

    @staticmethod
    def _binary(body, columns):
        at, values = 1 + (len(columns) + 9) // 8, []
        for index, column in enumerate(columns):
            if body[1 + (index + 2) // 8] >> (index + 2) % 8 & 1:
                values.append(None)
            elif column.type in FIXED:
                form = "<" + FIXED[column.type][column.unsigned]
                values.append(struct.unpack_from(form, body, at)[0])
                at += struct.calcsize(form)
            else:
                value, at = string(body, at)
                values.append(value)
        return tuple(values)

    # Statements

    def query(self, sql):
        """COM_QUERY; the first result. Others are read, too, and kept in `more`."""
        self.begin(QUERY, sql)
        results = [self.result()]
        while results[-1].status & MORE_RESULTS:
            results.append(self.result())
        self.more = results[1:]
        return results[0]

    def one(self, sql):
        """The first value, as text."""
        value = self.query(sql).rows[0][0]
        return None if value is None else value.decode(errors="surrogateescape")

    def prepare(self, sql):
        self.begin(PREPARE, sql)
        body = self.receive()
        if body[0] == 0xFF:
            raise ServerError(body)
        id, columns, parameters, warnings = struct.unpack_from("<xIHHxH", body)
        scratch = Result()
        described = self._columns(parameters, scratch) if parameters else []
        described_columns = self._columns(columns, scratch) if columns else []
        return Statement(id, described_columns, described, warnings)

    def execution(self, statement, values=(), *, types=True, cursor=False, sent_long=()):
        """The body of COM_STMT_EXECUTE. `types=False`: those of the time before; `sent_long`: indices of long data."""
        body = struct.pack("<IBI", statement.id, 1 if cursor else 0, 1)
        if not values:
            return body
        nulls = bytearray((len(values) + 7) // 8)
        kinds, packed = b"", b""
        for index, value in enumerate(values):
            kind, part = self._parameter(value)
            kinds += kind
            if value is None:
                nulls[index // 8] |= 1 << index % 8
            elif index not in sent_long:
                packed += part
        return body + bytes(nulls) + (b"\x01" + kinds if types else b"\x00") + packed

    @staticmethod
    def _parameter(value):
        if value is None:
            return b"\x06\0", b""
        if isinstance(value, int):
            return (b"\x08\0", struct.pack("<q", value)) if value < 1 << 63 else (b"\x08\x80", struct.pack("<Q", value))
        if isinstance(value, float):
            return b"\x05\0", struct.pack("<d", value)
        return (b"\xfc\0" if isinstance(value, bytes) else b"\xfd\0"), encoded(value)

    def execute(self, statement, values=(), **options):
        self.begin(EXECUTE, self.execution(statement, values, **options))
        return self._cursor_result() if options.get("cursor") else self.result(binary=True)

    def _cursor_result(self):
        """The columns, and the packet that says whether a cursor is open."""
        body, result = self.receive(), Result()
        if body[0] == 0xFF:
            raise ServerError(body)
        if body[0] == 0:
            return self._ok(body, result)
        result.columns = [Column(self.receive()) for _ in range(integer(body)[0])]
        body = self.receive()
        if body[0] == 0xFF:
            raise ServerError(body)
        self._eof(body, result)
        return result if result.status & CURSOR_EXISTS else self._rows(result, True)

    def fetch(self, statement, count):
        """The next rows of a cursor."""
        self.begin(FETCH, struct.pack("<II", statement.id, count))
        result = Result()
        result.columns = statement.columns
        return self._rows(result, True)

    def long_data(self, statement, index, value):
        """Is never answered."""
        self.begin(LONG_DATA, struct.pack("<IH", statement.id, index) + data(value))

    def close_statement(self, statement):
        """Is never answered."""
        self.begin(CLOSE, struct.pack("<I", statement.id))

    def reset_statement(self, statement):
        return self.command(RESET, struct.pack("<I", statement.id))

    # Other commands

    def command(self, command, body=b""):
        """One that is answered with OK or an error."""
        self.begin(command, body)
        answer, result = self.receive(), Result()
        if answer[0] == 0xFF:
            raise ServerError(answer)
        return self._ok(answer, result) if answer[0] == 0 else self._eof(answer, result)

    def ping(self):
        return self.command(PING)

    def init_db(self, database):
        return self.command(INIT_DB, database)

    def set_option(self, multi_statements):
        return self.command(SET_OPTION, struct.pack("<H", 0 if multi_statements else 1))

    def reset_connection(self):
        return self.command(RESET_CONNECTION)

    def change_user(self, user, password, database="", collation=45):
        self.user, self.password = user, data(password)
        body = data(user) + b"\0\0" + data(database) + b"\0" + struct.pack("<H", collation)
        if self.capabilities & PLUGIN_AUTH:
            body += self.plugin.encode() + b"\0"
        if self.capabilities & CONNECT_ATTRS:
            body += b"\0"
        self.begin(CHANGE_USER, body)
        self._authenticate(self.plugin)

    def close(self):
        try:
            self.begin(QUIT)
        except OSError:
            pass
        self.socket.close()
