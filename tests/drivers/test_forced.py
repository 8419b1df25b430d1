"""Forced changes: what a client gets to hear in every state it can be in, to the byte, and what drivers make of it.

No lost COMMIT is ever believed: whatever a client takes for committed is there afterwards, and nothing else.
"""

import concurrent.futures
import contextlib
import os
import signal
import threading
import time

import asyncpg
import psycopg
import pytest
from conftest import wait_until
from forced_cases import (
    BOUND,
    CLOSED,
    DESCRIBE,
    E25P02,
    E40001,
    E57014,
    EXECUTE,
    FATAL08007,
    FATAL40003,
    FATAL57P01,
    FLUSH,
    NO_DATA,
    PARSED,
    ROLLBACK,
    SYNC,
    ZE,
    ZI,
    ZT,
    Cast,
    Play,
    Wire,
    World,
    bind,
    error,
    extended,
    message,
    parse,
    prepared,
    query,
)
from psycopg import errors
from psycopg.pq import TransactionStatus
from rawpg import row

GENTLE = Cast()
CLOSE = Cast()

# One request in a lost transaction, and its answer.

ENDS_IN_ERROR = [
    "COMMIT",
    "END",
    "/* and */ commit work ;",
    "PREPARE TRANSACTION 'x'",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "COMMIT; INSERT INTO believed VALUES ('lost: second')",
    "ROLLBACK; INSERT INTO believed VALUES ('lost: second')",
]
FAILS = [
    "SELECT 1",
    "INSERT INTO believed VALUES ('lost: later')",
    "INSERT INTO believed VALUES ('lost: later'); COMMIT",
    "ROLLBACK TO s",
    "RELEASE s",
    "COMMIT PREPARED 'x'",
    "COPY believed FROM STDIN",
    "BEGIN",
    "",
]


def lost(request, *answers):
    """In a lost transaction `request` is answered so, and then the session goes on."""

    def case(world, name):
        wire = world.in_transaction(name)
        yield "aborted"
        wire.silent()
        wire.ask(request, *answers)
        if answers[-1] == ZE:
            wire.ask(query("ROLLBACK"), ROLLBACK, ZI)
        world.goes_on(wire, name)

    return case


for end in ["ROLLBACK", "abort work", "ROLLBACK AND NO CHAIN;"]:
    GENTLE.add(f"lost, {end}", lost(query(end), ROLLBACK, ZI))
    GENTLE.add(f"lost, extended {end}", lost(extended(end), PARSED, BOUND, NO_DATA, ROLLBACK, ZI))
for end in ENDS_IN_ERROR:
    GENTLE.add(f"lost, {end}", lost(query(end), E40001, ZI))
for end in ENDS_IN_ERROR[:6]:
    GENTLE.add(f"lost, extended {end}", lost(extended(end), PARSED, BOUND, NO_DATA, E40001, ZI))
for sql in FAILS:
    GENTLE.add(f"lost, {sql}", lost(query(sql), E40001, ZE))
    GENTLE.add(f"lost, extended {sql}", lost(extended(sql), E40001, ZE))
GENTLE.add("lost, function call", lost(message("F", bytes(12)), E40001, ZE))
GENTLE.add("lost, a long statement", lost(query(f"SELECT '{'x' * 400_000}'"), E40001, ZE))
GENTLE.add(
    "lost, a pipeline with a COMMIT of its own",
    lost(
        extended("INSERT INTO believed VALUES ('lost: piped')") + extended("COMMIT"),
        E40001,
        ZE,
        PARSED,
        BOUND,
        NO_DATA,
        E40001,
        ZI,
    ),
)
GENTLE.add(
    "lost, a pipeline in one segment",
    lost(parse("", "SELECT 1") + bind() + EXECUTE + parse("", "COMMIT") + bind() + EXECUTE + SYNC, E40001, ZE),
)


# The two phases of a lost transaction


def then(*answers):
    def case(world, name):
        wire = world.in_transaction(name)
        wire.done("SAVEPOINT s")
        yield "aborted"
        wire.ask(query("INSERT INTO believed VALUES ('lost: first')"), E40001, ZE)
        for request, expected in answers:
            wire.ask(query(request), *expected)
        world.goes_on(wire, name)

    return case


GENTLE.add(
    "failed, ROLLBACK TO",
    then(
        ("ROLLBACK TO s", (E40001, ZE)),
        ("INSERT INTO believed VALUES ('lost: revived')", (E25P02, ZE)),
        ("COMMIT", (E40001, ZI)),
    ),
)
GENTLE.add(
    "failed, statements, ROLLBACK",
    then(("SELECT 1", (E25P02, ZE)), ("SELECT 1", (E25P02, ZE)), ("ROLLBACK", (ROLLBACK, ZI))),
)
GENTLE.add("failed, COMMIT AND CHAIN", then(("COMMIT AND CHAIN", (E40001, ZI))))


def already_failed(world, name):
    wire = world.in_transaction(name)
    wire.done("SAVEPOINT s")
    wire.send(query("SELECT 1/0"))
    assert wire.kinds_until_ready()[-2:] == ["22012", "ZE"]
    return wire


@GENTLE.case
def really_failed_and_revived(world, name):
    wire = already_failed(world, name)
    yield "aborted"
    wire.silent()
    wire.ask(query("ROLLBACK TO SAVEPOINT s"), E40001, ZE)
    wire.ask(query("SELECT 1"), E25P02, ZE)
    wire.ask(query("COMMIT"), E40001, ZI)
    world.goes_on(wire, name)


@GENTLE.case
def really_failed_and_rolled_back(world, name):
    """Without savepoints nobody notices anything."""
    wire = already_failed(world, name)
    yield "aborted"
    wire.ask(query("SELECT 1"), E25P02, ZE)
    wire.ask(query("ROLLBACK"), ROLLBACK, ZI)
    world.goes_on(wire, name)


# Prepared statements


def prepared_before(ending, *answers):
    """pgjdbc prepares COMMIT when it first commits, and binds it from then on."""

    def case(world, name):
        wire = world.wire()
        wire.ask(parse("S_1", ending) + SYNC, PARSED, ZI)
        wire.ask(parse("S_2", "INSERT INTO believed VALUES ('lost: prepared')") + SYNC, PARSED, ZI)
        wire.done("BEGIN")
        wire.done(f"INSERT INTO believed VALUES ('lost: {name}')")
        yield "aborted"
        wire.ask(prepared("S_1"), *answers)
        world.goes_on(wire, name)

    return case


GENTLE.add("lost, prepared COMMIT", prepared_before("COMMIT", BOUND, E40001, ZI))
GENTLE.add("lost, prepared ROLLBACK", prepared_before("ROLLBACK", BOUND, ROLLBACK, ZI))


@GENTLE.case
def lost_prepared_insert_then_prepared_commit(world, name):
    wire = world.wire()
    wire.ask(
        parse("c", "COMMIT") + parse("i", "INSERT INTO believed VALUES ('lost: prepared')") + SYNC, PARSED, PARSED, ZI
    )
    wire.done("BEGIN")
    wire.ask(prepared("i"), BOUND, b"C\0\0\0\x0fINSERT 0 1\0", ZT)
    yield "aborted"
    wire.ask(prepared("i"), E40001, ZE)
    wire.ask(prepared("i"), E25P02, ZE)
    wire.ask(bind("c") + DESCRIBE + EXECUTE + SYNC, BOUND, NO_DATA, E40001, ZI)
    world.goes_on(wire, name)


@GENTLE.case
def prepared_in_the_lost_transaction(world, name):
    """What is prepared and closed while a transaction is lost, is so afterwards."""
    wire = world.wire()
    wire.ask(parse("old", "SELECT 1") + SYNC, PARSED, ZI)
    wire.done("BEGIN")
    wire.ask(parse("inside", "SELECT 2") + SYNC, PARSED, ZT)
    wire.done(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "aborted"
    wire.ask(parse("S_3", "ROLLBACK") + message("C", b"Sold\0") + SYNC, PARSED, CLOSED, ZE)
    wire.ask(prepared("S_3"), BOUND, ROLLBACK, ZI)
    wire.ask(parse("old", "SELECT 3") + SYNC, PARSED, ZI)
    wire.send(prepared("inside"))
    assert wire.kinds_until_ready() == ["2", "D", "C", "ZI"]
    wire.done("BEGIN")
    wire.ask(prepared("S_3"), BOUND, ROLLBACK, ZI)
    world.goes_on(wire, name)


# State that others can see: such a session has its next backend before it has ended its transaction.


@GENTLE.case
def advisory_lock_and_a_lost_commit(world, name):
    wire = world.wire()
    wire.done("SELECT pg_advisory_lock(5)")
    wire.done("BEGIN")
    wire.done(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "aborted"
    locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 5"
    assert world.observer.execute(locked).fetchone() == (1,)
    wire.silent()
    wire.ask(query("COMMIT"), E40001, ZI)
    world.goes_on(wire, name)
    assert world.observer.execute(locked).fetchone() == (1,)
    wire.done("SELECT pg_advisory_unlock(5)")


@GENTLE.case
def advisory_lock_statement_and_prepared_rollback(world, name):
    wire = world.wire()
    wire.done("SELECT pg_advisory_lock(6)")
    wire.done("BEGIN")
    wire.done(f"INSERT INTO believed VALUES ('lost: {name}')")
    yield "aborted"
    wire.ask(query("INSERT INTO believed VALUES ('lost: locked')"), E40001, ZE)
    wire.ask(parse("r", "ROLLBACK") + bind("r") + EXECUTE + SYNC, PARSED, BOUND, ROLLBACK, ZI)
    wire.done("BEGIN")
    wire.ask(prepared("r"), BOUND, ROLLBACK, ZI)
    world.goes_on(wire, name)


@GENTLE.case
def notification_that_waited_for_the_end(world, name):
    wire = world.wire()
    wire.done("LISTEN news")
    wire.done("BEGIN")
    wire.done(f"INSERT INTO believed VALUES ('lost: {name}')")
    world.observer.execute("NOTIFY news, 'heard'")
    yield "aborted"
    kind, body = wire.read()
    assert (kind, body[4:]) == ("A", b"news\0heard\0")
    wire.ask(query("COMMIT"), E40001, ZI)
    world.goes_on(wire, name)


# What runs is cancelled, and the server's own answer is forwarded.


def in_flight(request, *, opening=(), expected, fate, ending=None):
    """Something runs; the answer is the server's own."""

    def case(world, name):
        wire = world.wire()
        for sql in opening:
            wire.done(sql)
        mark = f"mark{len(world.wires)}"
        wire.send(request(f"INSERT INTO believed SELECT 'lost: run' FROM pg_sleep(600) AS {mark}"))
        world.until_running(mark)
        yield fate
        assert wire.kinds_until_ready() == expected
        if ending:
            ending(world, wire)
        if fate != "closed":
            world.goes_on(wire, name)

    return case


def commit_is_refused(world, wire):
    wire.ask(query("COMMIT"), E40001, ZI)


def told_and_closed(world, wire):
    wire.expect(FATAL57P01)
    wire.over()


BEGUN = ["BEGIN", "INSERT INTO believed VALUES ('lost: before')"]
for cast in (GENTLE, CLOSE):
    cast.add("running", in_flight(query, expected=["57014", "ZI"], fate="carried"))
    cast.add("running, extended", in_flight(extended, expected=["1", "2", "n", "57014", "ZI"], fate="carried"))
GENTLE.add(
    "running in a transaction",
    in_flight(query, opening=BEGUN, expected=["57014", "ZE"], fate="aborted", ending=commit_is_refused),
)
GENTLE.add(
    "running in a transaction, extended",
    in_flight(
        extended, opening=BEGUN, expected=["1", "2", "n", "57014", "ZE"], fate="aborted", ending=commit_is_refused
    ),
)
CLOSE.add(
    "running in a transaction",
    in_flight(query, opening=BEGUN, expected=["57014", "ZE"], fate="closed", ending=told_and_closed),
)


def pipeline(world, name):
    """Only the segment that runs is affected; those behind it run, here or there."""
    wire = world.wire()
    mark = f"mark{len(world.wires)}"
    later = world.keep(f"{name}, behind")
    wire.send(
        extended(f"INSERT INTO believed SELECT 'lost: run' FROM pg_sleep(600) AS {mark}")
        + extended(f"INSERT INTO believed VALUES ('{later}')")
        + extended(f"INSERT INTO believed SELECT 'lost: run' FROM pg_sleep(600) AS second{mark}")
        + extended("SELECT 1")
    )
    world.until_running(mark)
    yield "carried"
    assert wire.kinds_until_ready() == ["1", "2", "n", "57014", "ZI"]
    assert wire.kinds_until_ready() == ["1", "2", "n", "C", "ZI"]
    assert wire.kinds_until_ready() == ["1", "2", "n", "57014", "ZI"]
    assert wire.kinds_until_ready() == ["1", "2", "T", "D", "C", "ZI"]
    world.goes_on(wire, name)


GENTLE.case(pipeline)
CLOSE.case(pipeline)


@GENTLE.case
def pipeline_with_a_commit_on_its_way(world, name):
    """BEGIN, a statement that runs, and a COMMIT on its way: it cannot be known what a cancel request would hit."""
    wire = world.wire()
    mark = f"mark{len(world.wires)}"
    wire.send(
        extended("BEGIN")
        + extended(f"INSERT INTO believed SELECT 'lost: run' FROM pg_sleep(600) AS {mark}")
        + extended("COMMIT")
    )
    world.until_running(mark)
    yield "closed"
    assert wire.kinds_until_ready() == ["1", "2", "n", "C", "ZT"]
    wire.expect(FATAL08007)
    wire.over()


# COPY


def copying(world, name, *opening):
    wire = world.wire()
    for sql in opening:
        wire.done(sql)
    wire.send(query("COPY believed FROM STDIN"))
    assert wire.read()[0] == "G"
    wire.send(message("d", b"lost: copied\n"))
    return wire


def copy_in(world, name):
    wire = copying(world, name)
    yield "carried"
    assert wire.kinds_until_ready() == ["57014", "ZI"]
    wire.send(message("d", b"lost: copied too\n") + message("d", b"lost: and this\n") + message("c"))
    world.goes_on(wire, name)


GENTLE.case(copy_in)
CLOSE.case(copy_in)


@GENTLE.case
def copy_in_in_a_transaction(world, name):
    wire = copying(world, name, "BEGIN")
    yield "aborted"
    assert wire.kinds_until_ready() == ["57014", "ZE"]
    wire.send(message("d", b"lost: copied too\n") + message("c"))
    wire.ask(query("COMMIT"), E40001, ZI)
    world.goes_on(wire, name)


def extended_copy_in(opening, fate, *rest):
    """The server discards everything up to the Sync, which has not come; that, too, is carried."""

    def case(world, name):
        wire = world.wire()
        for sql in opening:
            wire.done(sql)
        wire.send(parse("", "COPY believed FROM STDIN") + bind() + EXECUTE + SYNC)
        assert [wire.read()[0] for _ in range(3)] == ["1", "2", "G"]
        wire.send(message("d", b"lost: copied\n"))
        yield fate
        kind, body = wire.read()
        assert kind == "E" and b"\0C57014\0" in body
        wire.silent()
        wire.ask(message("d", b"lost: copied too\n") + message("c") + SYNC, *rest)
        if fate == "aborted":
            wire.ask(query("COMMIT"), E40001, ZI)
        world.goes_on(wire, name)

    return case


GENTLE.add("extended copy in", extended_copy_in([], "carried", ZI))
CLOSE.add("extended copy in", extended_copy_in([], "carried", ZI))
GENTLE.add("extended copy in in a transaction", extended_copy_in(["BEGIN"], "aborted", ZE))


def failed_before_sync(opening, fate, rest):
    def case(world, name):
        wire = world.wire()
        for sql in opening:
            wire.done(sql)
        wire.send(parse("", "SELECT 1/0") + bind() + EXECUTE + FLUSH)
        kinds = []
        while not kinds or kinds[-1] != "E":
            kinds.append(wire.read()[0])
        wire.send(parse("", "INSERT INTO believed VALUES ('lost: skipped')") + FLUSH)
        yield fate
        wire.silent()
        wire.ask(bind() + EXECUTE + SYNC, rest)
        if fate == "aborted":
            wire.ask(query("COMMIT"), E40001, ZI)
        world.goes_on(wire, name)

    return case


GENTLE.add("failed before Sync", failed_before_sync([], "carried", ZI))
CLOSE.add("failed before Sync", failed_before_sync([], "carried", ZI))
GENTLE.add("failed before Sync in a transaction", failed_before_sync(["BEGIN"], "aborted", ZE))


def copy_in_full_flow(world, name):
    """The client goes on sending, and the change may find it in the middle of a message."""
    wire = copying(world, name)
    stop = threading.Event()

    def send():
        block = message("d", b"lost: streamed\n" * 50)
        while not stop.is_set():
            wire.send(block[:100])
            stop.wait(0.02)
            wire.send(block[100:])

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    yield "carried"
    assert wire.kinds_until_ready() == ["57014", "ZI"]
    stop.set()
    sender.join(30)
    wire.send(message("c"))
    world.goes_on(wire, name)


GENTLE.case(copy_in_full_flow)
CLOSE.case(copy_in_full_flow)


def copy_out(world, name):
    wire = world.wire()
    mark = f"mark{len(world.wires)}"
    wire.send(
        query(
            f"COPY (SELECT i, CASE WHEN i > 2 THEN pg_sleep(600) END FROM generate_series(1, 5) AS {mark}(i)) TO STDOUT"
        )
    )
    world.until_running(mark)
    yield "carried"
    assert wire.kinds_until_ready() == ["H", "d", "d", "57014", "ZI"]
    world.goes_on(wire, name)


GENTLE.case(copy_out)
CLOSE.case(copy_out)


def does_not_read(world, name):
    """A client that takes no answers cannot be told anything. It is not given half a row and a farewell in it."""
    wire = world.wire()
    mark = f"mark{len(world.wires)}"
    wire.send(query(f"SELECT repeat('x', 1000000) FROM generate_series(1, 1000) AS {mark}"))
    world.until_running(mark)
    yield "closed"
    assert wire.read()[0] == "T"
    with pytest.raises(ConnectionError):
        while True:
            kind, body = wire.read()
            assert kind == "D" and row(body) == (b"x" * 1000000,)
    assert b"FATAL" not in wire.buffer


GENTLE.case(does_not_read)
CLOSE.case(does_not_read)

# What cannot be carried


@GENTLE.case
def role_that_would_not_be_let_in(world, name):
    world.observer.execute("CREATE ROLE leaver LOGIN PASSWORD 'leaver'")
    wire = Wire(
        host="127.0.0.1", port=world.server.port, user="leaver", password="leaver", dbname=world.server.database
    )
    world.wires.append(wire)
    world.observer.execute("ALTER ROLE leaver NOLOGIN")
    yield "closed"
    kind, body = wire.read()
    assert kind == "E" and b'role "leaver" is not permitted to log in' in body
    wire.over()


CLOSE.case(role_that_would_not_be_let_in)


def at_rest_and_closed(*opening):
    def case(world, name):
        wire = world.wire()
        for sql in opening:
            wire.done(sql)
        yield "closed"
        wire.expect(FATAL57P01)
        wire.over()

    return case


for cast in (GENTLE, CLOSE):
    cast.add("temporary table", at_rest_and_closed("CREATE TEMP TABLE own (a int)"))
    cast.add("cursor with hold", at_rest_and_closed("DECLARE held CURSOR WITH HOLD FOR SELECT 1"))
GENTLE.add(
    "temporary table behind a transaction",
    at_rest_and_closed("CREATE TEMP TABLE own (a int)", "BEGIN", "INSERT INTO believed VALUES ('lost: with a table')"),
)
CLOSE.add("idle in transaction", at_rest_and_closed("BEGIN", "INSERT INTO believed VALUES ('lost: open')"))


@CLOSE.case
def idle_in_a_failed_transaction(world, name):
    wire = already_failed(world, name)
    yield "closed"
    wire.expect(FATAL57P01)
    wire.over()


@GENTLE.case
def temporary_table_of_the_lost_transaction(world, name):
    """It goes with the transaction, so the session can be carried."""
    wire = world.in_transaction(name)
    wire.done("CREATE TEMP TABLE own (a int)")
    yield "aborted"
    wire.ask(query("COMMIT"), E40001, ZI)
    world.goes_on(wire, name)


def without_sync(opening, farewell, status):
    """Executed, answered, but not synced: only the server would know."""

    def case(world, name):
        wire = world.wire()
        for sql in opening:
            wire.done(sql)
        wire.ask(
            parse("", "INSERT INTO believed VALUES ('lost: not synced')") + bind() + EXECUTE + FLUSH,
            PARSED,
            BOUND,
            b"C\0\0\0\x0fINSERT 0 1\0",
        )
        yield "closed"
        wire.expect(farewell)
        wire.over()

    return case


GENTLE.add("without Sync", without_sync([], FATAL40003, ZI))
GENTLE.add("without Sync in a transaction", without_sync(["BEGIN"], FATAL40003, ZT))
CLOSE.add("without Sync", without_sync([], FATAL57P01, ZI))


# What is not answered: the next server knows what became of it.


def unanswered(sql, *answers, fate, opening=(), request=query):
    """The old server undoes it when it stops."""

    def case(world, name):
        wire = world.wire()
        for earlier in opening:
            wire.done(earlier)
        wire.send(request(sql.format(mark=f"/* {name} */")))
        world.until_running(name)
        yield fate
        wire.expect(*answers)
        if fate == "closed":
            wire.over()
        else:
            world.goes_on(wire, name)

    return case


SLOW = ["BEGIN", "INSERT INTO slow VALUES ('lost')"]
GENTLE.add("commit in flight", unanswered("COMMIT {mark}", E40001, ZI, opening=SLOW, fate="aborted"))
GENTLE.add(
    "commit in flight, extended",
    unanswered("COMMIT {mark}", E40001, ZI, opening=SLOW, fate="aborted", request=extended),
)
GENTLE.add(
    "commit in flight and a statement behind it",
    unanswered("COMMIT {mark}; SELECT 1", FATAL08007, opening=SLOW, fate="closed"),
)
GENTLE.add(
    "commit in flight of a table that dies",
    unanswered(
        "COMMIT {mark}",
        E40001,
        ZI,
        error(
            "FATAL",
            "57P01",
            "terminating connection: session state was lost with the server: it had changed since it was last looked at",
        ),
        opening=["BEGIN", "CREATE TEMP TABLE own (a int)", "INSERT INTO slow VALUES ('lost')"],
        fate="closed",
    ),
)
CLOSE.add("commit in flight", unanswered("COMMIT {mark}", FATAL57P01, opening=SLOW, fate="closed"))
GENTLE.add(
    "statement that is not to be cancelled",
    unanswered("INSERT INTO stubborn VALUES ('lost') {mark}", E40001, ZI, fate="aborted"),
)
GENTLE.add(
    "statement that has touched nothing yet",
    unanswered("SELECT stubborn_loop() {mark}", FATAL40003, fate="closed"),
)
GENTLE.add(
    "procedure that is not to be cancelled",
    unanswered(
        "DO $$ BEGIN INSERT INTO stubborn VALUES ('lost'); END $$ {mark}", FATAL40003, fate="closed"
    ),
)


def commit_that_is_on_disk(request):
    """It waits for a standby that there is not; when its server stops, it waits no longer, and has committed."""

    def case(world, name):
        wire = world.wire(synchronous_commit="on")
        wire.done("BEGIN")
        wire.done(f"INSERT INTO believed VALUES ('{name}, earlier')")
        wire.send(request(f"COMMIT /* {name} */"))
        world.until_running(name)
        yield "carried"
        # The server may have had the time to warn.
        found = [kind for kind in wire.kinds_until_ready() if kind != "01000"]
        assert found == (["C", "ZI"] if request is query else ["1", "2", "n", "C", "ZI"])
        world.keep(f"{name}, earlier")
        wire.done("SET synchronous_commit = local")
        world.goes_on(wire, name)

    return case


GENTLE.add("commit that is on disk", commit_that_is_on_disk(query))
GENTLE.add("commit that is on disk, extended", commit_that_is_on_disk(extended))


def commit_that_ends_in_time(world, name):
    """A COMMIT is never cancelled: when what it waits for goes, the server's own answer comes, and it is true."""
    holder = world.wire()
    holder.done("BEGIN")
    holder.done("SELECT pg_advisory_xact_lock(77)")
    wire = world.wire()
    wire.done("BEGIN")
    wire.done(f"INSERT INTO waiting VALUES ('x'); INSERT INTO believed VALUES ('{name}')")
    wire.send(query(f"COMMIT /* {name} */"))
    world.until_running(name)
    yield "carried"
    wire.expect(b"C\0\0\0\x0bCOMMIT\0", ZI)
    world.keep(name)
    world.goes_on(wire, f"{name}, later")


GENTLE.case(commit_that_ends_in_time)
CLOSE.case(commit_that_ends_in_time)


def idle(world, name):
    wire = world.wire()
    wire.done("SET application_name = 'idle one'")
    wire.done("LISTEN idlers")
    wire.ask(parse("s", "SELECT 1") + SYNC, PARSED, ZI)
    yield "carried"
    wire.silent()
    wire.send(query("SHOW application_name"))
    assert [row(body) for kind, body in wire.until_ready() if kind == "D"] == [(b"idle one",)]
    wire.send(prepared("s"))
    assert wire.kinds_until_ready() == ["2", "D", "C", "ZI"]
    world.goes_on(wire, name)


GENTLE.case(idle)
CLOSE.case(idle)


# psycopg


def psycopg_in_transaction(world, name):
    connection = world.server.connect(autocommit=False)
    connection.execute("INSERT INTO believed VALUES (%s)", [f"lost: {name}"])
    return connection


def psycopg_goes_on(world, connection, name):
    connection.execute("INSERT INTO believed VALUES (%s)", [name])
    connection.commit()
    world.keep(name)
    connection.close()


@GENTLE.case
def psycopg_commit(world, name):
    connection = psycopg_in_transaction(world, name)
    yield "aborted"
    with pytest.raises(errors.SerializationFailure):
        connection.commit()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    psycopg_goes_on(world, connection, name)


@GENTLE.case
def psycopg_rollback(world, name):
    connection = psycopg_in_transaction(world, name)
    yield "aborted"
    connection.rollback()
    psycopg_goes_on(world, connection, name)


@GENTLE.case
def psycopg_swallows_the_error(world, name):
    connection = psycopg_in_transaction(world, name)
    yield "aborted"
    with pytest.raises(errors.SerializationFailure):
        connection.execute("SELECT 1")
    with pytest.raises(errors.InFailedSqlTransaction):
        connection.execute("INSERT INTO believed VALUES ('lost: swallowed')")
    with pytest.raises(errors.SerializationFailure):
        connection.commit()
    psycopg_goes_on(world, connection, name)


@GENTLE.case
def psycopg_savepoint(world, name):
    """The inner block cannot be rolled back alone, so the outer one does not commit its half."""
    connection = world.server.connect(autocommit=True)
    ready, go = threading.Event(), threading.Event()
    seen = []

    def work():
        try:
            with connection.transaction():
                connection.execute("INSERT INTO believed VALUES ('lost: outer')")
                try:
                    with connection.transaction():
                        connection.execute("INSERT INTO believed VALUES ('lost: inner')")
                        ready.set()
                        go.wait(60)
                        connection.execute("INSERT INTO believed VALUES ('lost: inner')")
                except psycopg.Error as error:
                    seen.append(error.sqlstate)
                connection.execute("INSERT INTO believed VALUES ('lost: half')")
        except psycopg.Error as error:
            seen.append(error.sqlstate)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert ready.wait(30)
    yield "aborted"
    go.set()
    worker.join(30)
    assert seen == ["40001", "25P02"]
    psycopg_goes_on(world, connection, name)


@GENTLE.case
def psycopg_running(world, name):
    connection = psycopg_in_transaction(world, name)
    seen = []

    def work():
        try:
            connection.execute("INSERT INTO believed SELECT 'lost: run' FROM pg_sleep(600) AS psycopgruns")
        except psycopg.Error as error:
            seen.append(type(error))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    world.until_running("psycopgruns")
    yield "aborted"
    worker.join(30)
    assert seen == [errors.QueryCanceled]
    with pytest.raises(errors.SerializationFailure):
        connection.commit()
    psycopg_goes_on(world, connection, name)


@GENTLE.case
def psycopg_pipeline(world, name):
    connection = psycopg_in_transaction(world, name)
    yield "aborted"
    with pytest.raises(errors.SerializationFailure):
        with connection.pipeline():
            connection.execute("INSERT INTO believed VALUES ('lost: piped')")
            connection.execute("INSERT INTO believed VALUES ('lost: piped')")
            connection.commit()
    connection.rollback()
    psycopg_goes_on(world, connection, name)


def psycopg_copy(fate, error):
    def case(world, name):
        connection = world.server.connect(autocommit=True)
        cursor = connection.cursor()
        copy = cursor.copy("COPY believed FROM STDIN")
        entered = copy.__enter__()
        entered.write_row(["lost: copied"])
        yield fate
        with pytest.raises(error):
            for _ in range(1000):
                entered.write_row(["lost: copied"] * 1)
            copy.__exit__(None, None, None)
        psycopg_goes_on(world, connection, name)

    return case


GENTLE.add("psycopg copy", psycopg_copy("carried", errors.QueryCanceled))
CLOSE.add("psycopg copy", psycopg_copy("carried", errors.QueryCanceled))


@CLOSE.case
def psycopg_is_closed(world, name):
    connection = psycopg_in_transaction(world, name)
    yield "closed"
    with pytest.raises(errors.AdminShutdown) as caught:
        connection.commit()
    assert "serverless scale event timeout" in str(caught.value)
    assert connection.closed and connection.broken


@CLOSE.case
def psycopg_idle(world, name):
    connection = world.server.connect(autocommit=False)
    yield "carried"
    psycopg_goes_on(world, connection, name)


# asyncpg


async def asyncpg_connect(server):
    import ssl

    return await asyncpg.connect(
        host="localhost",
        port=server.port,
        user="master",
        password=server.password,
        database=server.database,
        ssl=ssl.create_default_context(cafile=str(server.ca)),
    )


def asyncpg_in_transaction(world, name):
    async def begin():
        connection = await asyncpg_connect(world.server)
        # Known to the statement cache before the change.
        await connection.fetchval("SELECT $1::int", 1)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO believed VALUES ($1)", f"lost: {name}")
        return connection, transaction

    return world.run(begin())


def asyncpg_goes_on(world, connection, name):
    async def go_on():
        assert not connection.is_closed()
        async with connection.transaction():
            assert await connection.fetchval("SELECT $1::int", 7) == 7
            await connection.execute("INSERT INTO believed VALUES ($1)", name)
        await connection.close()

    world.run(go_on())
    world.keep(name)


@GENTLE.case
def asyncpg_commit(world, name):
    connection, transaction = asyncpg_in_transaction(world, name)
    yield "aborted"
    with pytest.raises(asyncpg.SerializationError):
        world.run(transaction.commit())
    asyncpg_goes_on(world, connection, name)


@GENTLE.case
def asyncpg_rollback(world, name):
    connection, transaction = asyncpg_in_transaction(world, name)
    yield "aborted"
    world.run(transaction.rollback())
    asyncpg_goes_on(world, connection, name)


@GENTLE.case
def asyncpg_swallows_the_error(world, name):
    connection, transaction = asyncpg_in_transaction(world, name)
    yield "aborted"
    with pytest.raises(asyncpg.SerializationError):
        world.run(connection.fetchval("SELECT $1::int", 1))
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        world.run(connection.execute("INSERT INTO believed VALUES ($1)", "lost: swallowed"))
    with pytest.raises(asyncpg.SerializationError):
        world.run(transaction.commit())
    asyncpg_goes_on(world, connection, name)


@GENTLE.case
def asyncpg_savepoint(world, name):
    connection, transaction = asyncpg_in_transaction(world, name)
    inner = connection.transaction()
    world.run(inner.start())
    world.run(connection.execute("INSERT INTO believed VALUES ($1)", "lost: inner"))
    yield "aborted"
    with pytest.raises(asyncpg.SerializationError):
        world.run(inner.rollback())
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        world.run(connection.execute("INSERT INTO believed VALUES ($1)", "lost: half"))
    with pytest.raises(asyncpg.SerializationError):
        world.run(transaction.commit())
    asyncpg_goes_on(world, connection, name)


@GENTLE.case
def asyncpg_running(world, name):
    connection, transaction = asyncpg_in_transaction(world, name)
    running = world.begin(
        connection.execute("INSERT INTO believed SELECT $1 FROM pg_sleep(600) AS asyncpgruns", "lost: run")
    )
    world.until_running("asyncpgruns")
    yield "aborted"
    with pytest.raises(asyncpg.QueryCanceledError):
        running.result(30)
    with pytest.raises(asyncpg.SerializationError):
        world.run(transaction.commit())
    asyncpg_goes_on(world, connection, name)


@GENTLE.case
def asyncpg_prepared(world, name):
    """It ends with a Flush, and nothing is begun with that."""
    connection = world.run(asyncpg_connect(world.server))
    statement = world.run(connection.prepare("SELECT $1::int + 1"))
    yield "carried"
    assert world.run(statement.fetchval(41)) == 42
    asyncpg_goes_on(world, connection, name)


@CLOSE.case
def asyncpg_is_closed(world, name):
    connection, transaction = asyncpg_in_transaction(world, name)
    yield "closed"
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        world.run(transaction.commit())
    assert connection.is_closed()


# The performances


def perform(serve_module, forced_change, cast, version="15"):
    # Only who asks for it waits for a standby.
    parameters = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
    server = serve_module(version, cluster=f'forced_change = "{forced_change}"', parameters=parameters)
    return Play(server, cast)


@pytest.fixture(scope="module")
def gentle(serve_module):
    play = perform(serve_module, "abort_transaction", GENTLE)
    yield play
    play.world.close()


# What hangs on the server's own behaviour, for the oldest and the newest version.
OF_THE_SERVER = [
    "lost, COMMIT",
    "lost, prepared COMMIT",
    "really_failed_and_revived",
    "prepared_in_the_lost_transaction",
    "advisory_lock_and_a_lost_commit",
    "notification_that_waited_for_the_end",
    "running, extended",
    "running in a transaction",
    "pipeline",
    "copy_in",
    "extended copy in in a transaction",
    "failed before Sync in a transaction",
    "copy_out",
    "temporary table",
    "temporary_table_of_the_lost_transaction",
    "without Sync in a transaction",
    "commit in flight",
    "commit in flight, extended",
    "commit in flight and a statement behind it",
    "commit that is on disk",
    "commit that is on disk, extended",
    "commit_that_ends_in_time",
    "statement that is not to be cancelled",
    "idle",
    "psycopg_commit",
    "asyncpg_commit",
    "asyncpg_prepared",
]


@pytest.fixture(scope="module", params=["10", "18"])
def version(request, serve_module):
    play = perform(serve_module, "abort_transaction", GENTLE.only(*OF_THE_SERVER), request.param)
    yield play
    play.world.close()


def test_other_versions(version):
    failed = {}
    for name in version.running:
        try:
            version.end(name)
        except (Exception, pytest.fail.Exception) as error:
            failed[name] = error
    assert not failed
    sessions = version.report["sessions"]
    fates = list(version.fates.values())
    # Besides: who watches, and who holds what a COMMIT waits for.
    assert sessions["carried"] == fates.count("carried") + 1
    assert sessions["aborted"] == fates.count("aborted") + 1
    assert sessions["closed"] == fates.count("closed")
    check_belief(version)


@pytest.fixture(scope="module")
def close(serve_module):
    play = perform(serve_module, "close", CLOSE)
    yield play
    play.world.close()


def check_report(play):
    report = play.report
    assert (report["outcome"], report["from"], report["to"]) == ("forced", 2, 4)
    fates = list(play.fates.values())
    # Besides the cases' own: who watches, and who holds what a COMMIT waits for.
    others = {"carried": 1, "aborted": 0, "closed": 0}
    others["aborted" if "psycopg_commit" in play.fates else "closed"] += 1
    expected = {fate: fates.count(fate) + others[fate] for fate in ("carried", "aborted", "closed")}
    assert report["sessions"] == expected
    assert {row["reason"] for row in report["obstacles"]} == {
        "open_transaction",
        "statement_in_progress",
        "temporary_table",
        "held_cursor",
        "account",
    }
    for row in report["obstacles"]:
        assert row["user"] == ("leaver" if row["reason"] == "account" else "master") and row["since_ms"] > 0
    assert 10_000 <= report["waited_ms"] and 0 < report["stall_ms"]
    assert play.before["backend_pid"] != play.after["backend_pid"]
    assert (play.after["capacity"], play.after["state"]) == (4, "available")
    assert "scaled_forced" in str(play.world.server.events())


def check_belief(play):
    """What somebody takes for committed is there, and nothing else."""
    found = play.world.observer.execute("SELECT what FROM believed").fetchall()
    assert sorted(what for (what,) in found) == sorted(play.world.kept)
    assert play.world.observer.execute("SELECT what FROM slow UNION SELECT what FROM stubborn").fetchall() == []


def test_gentle_report(gentle):
    check_report(gentle)


@pytest.mark.parametrize("name", GENTLE.cases)
def test_gentle(gentle, name):
    gentle.end(name)


def test_gentle_belief(gentle):
    check_belief(gentle)


def test_close_report(close):
    check_report(close)


@pytest.mark.parametrize("name", CLOSE.cases)
def test_close(close, name):
    close.end(name)


def test_close_belief(close):
    check_belief(close)


# Nobody is forced


def test_rolled_back_change_is_not_noticed(serve):
    """Every kind of obstacle is there to the end; the change is given up, and nobody has noticed it."""
    server = serve("15", cluster="stall_budget_ms = 100")
    world = World(server)
    open_one, failed_one, owner, busy, lister = (world.wire() for _ in range(5))
    open_one.done("BEGIN")
    open_one.done("INSERT INTO believed VALUES ('open')")
    failed_one.done("BEGIN")
    failed_one.send(query("SELECT 1/0"))
    assert failed_one.kinds_until_ready()[-2:] == ["22012", "ZE"]
    owner.done("CREATE TEMP TABLE own (a int)")
    lister.ask(parse("s", "SELECT 1") + SYNC, PARSED, ZI)
    busy.send(query("SELECT pg_sleep(11)"))
    before = server.status()
    # Not a standby's.
    left = "SELECT pid FROM pg_stat_activity WHERE client_port = -1 AND backend_type = 'client backend' ORDER BY 1"
    pids = world.observer.execute(left).fetchall()
    report = server.scale(8, seconds=10, action="rollback", exits=(3,))
    assert report["outcome"] == "rolled_back"
    assert report["sessions"] == {"carried": 0, "aborted": 0, "closed": 0}
    assert {row["reason"] for row in report["obstacles"]} == {
        "open_transaction",
        "statement_in_progress",
        "temporary_table",
    }
    for wire in (open_one, failed_one, owner, lister):
        wire.silent()
    assert busy.kinds_until_ready() == ["T", "D", "C", "ZI"]
    open_one.ask(query("COMMIT"), b"C\0\0\0\x0bCOMMIT\0", ZI)
    failed_one.ask(query("ROLLBACK"), ROLLBACK, ZI)
    owner.done("INSERT INTO own VALUES (1)")
    lister.send(prepared("s"))
    assert lister.kinds_until_ready() == ["2", "D", "C", "ZI"]
    after = server.status()
    assert (after["backend_pid"], after["capacity"]) == (before["backend_pid"], before["capacity"])
    assert world.observer.execute(left).fetchall() == pids
    assert world.observer.execute("SELECT what FROM believed").fetchall() == [("open",)]
    world.close()


def test_forced_by_a_router_that_stood_still(serve):
    """The machine stops for longer than an answer is waited for. What was not given a chance has not used it up."""
    server = serve("15", cluster='forced_change = "abort_transaction"')
    world = World(server)
    cast = GENTLE.only("pipeline", "copy_in_full_flow", "running in a transaction")
    cases = [case(world) for case in cast.cases.values()]
    fates = [next(case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        change = pool.submit(server.scale, 4, seconds=10, action="force")
        # About when the first answers have come, and the second cancel request is not sent yet.
        time.sleep(10.6)
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(server.process.pid, signal.SIGCONT)
        report = change.result()
    sessions = report["sessions"]
    assert report["outcome"] == "forced"
    # Besides the cases' own: who watches.
    assert (sessions["carried"], sessions["aborted"]) == (fates.count("carried") + 1, fates.count("aborted"))
    for case in cases:
        assert list(case) == []
    found = world.observer.execute("SELECT what FROM believed").fetchall()
    assert sorted(what for (what,) in found) == sorted(world.kept)
    world.close()


def test_commit_of_a_server_that_is_killed(serve):
    """Its process hangs, so the server does not stop and is killed. Recovery decides, and the truth is told."""
    server = serve("15", cluster='stop_timeout_seconds = 2\nforced_change = "abort_transaction"')
    world = World(server)
    wire = world.wire()
    wire.done("BEGIN")
    wire.done("INSERT INTO slow VALUES ('lost')")
    mark = "COMMIT /* hangs */"
    wire.send(query(mark))
    world.until_running("hangs")
    ((pid,),) = world.observer.execute("SELECT pid FROM pg_stat_activity WHERE query = %s", [mark]).fetchall()
    os.kill(pid, signal.SIGSTOP)
    try:
        report = server.scale(4, seconds=10, action="force")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert (report["outcome"], report["sessions"]) == ("forced", {"carried": 1, "aborted": 1, "closed": 0})
    wire.expect(E40001, ZI)
    world.goes_on(wire, "afterwards")
    assert world.observer.execute("SELECT what FROM slow").fetchall() == []
    world.close()


def test_held_request_is_cancelled_without_running(serve):
    server = serve("15", cluster="stall_budget_ms = 30000")
    world = World(server)
    holder, waiting, piped = (world.wire() for _ in range(3))
    holder.done("BEGIN")
    changed = []
    changing = threading.Thread(target=lambda: changed.append(server.scale(4, seconds=60, action="rollback")))
    changing.start()
    wait_until(lambda: server.status()["state"] == "holding", "a hold")
    waiting.send(query("INSERT INTO believed VALUES ('held')"))
    piped.send(extended("INSERT INTO believed VALUES ('held')") + extended("INSERT INTO believed VALUES ('behind')"))
    waiting.silent()
    piped.silent()
    waiting.cancel()
    waiting.expect(E57014, ZI)
    piped.cancel()
    piped.expect(E57014, ZI)
    piped.silent()
    holder.ask(query("ROLLBACK"), ROLLBACK, ZI)
    changing.join(60)
    assert changed[0]["outcome"] == "scaled"
    assert piped.kinds_until_ready() == ["1", "2", "n", "C", "ZI"]
    world.goes_on(waiting, "afterwards")
    found = world.observer.execute("SELECT what FROM believed ORDER BY 1").fetchall()
    assert found == [("afterwards",), ("behind",)]
    world.close()
