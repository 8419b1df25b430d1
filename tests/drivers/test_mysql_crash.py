"""The tests of crashes (crash_cases.py) with MariaDB and MySQL."""

import contextlib

import mysql.connector
import pymysql
import pytest
from crash_cases import *
from crash_cases import settle, share, until_another
from crash_engines import Mysql
from mysqlserver import PRODUCTS


@pytest.fixture(params=PRODUCTS[:2])
def engine(request):
    return Mysql(request.param)


@pytest.fixture(scope="module", params=PRODUCTS)
def shared(request):
    with share(Mysql(request.param)) as engine:
        yield engine


@pytest.fixture(scope="module")
def of_version(shared):
    return shared


def _ask(session, statement):
    with contextlib.closing(session.cursor()) as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else None


def test_what_the_wire_tells_exactly_is_no_loss(shared):
    """Nobody looks at a session in a transaction, so all that is known of these is what they have said since."""
    server = shared.server
    reads = server.connect()
    _ask(reads, "SET @kept = 5")
    settle(server)
    _ask(reads, "BEGIN")
    # The oldest server does not list variables: one that nobody has named before may have got its value in a routine.
    never = "" if shared.server.product == "mysql56" else ", @never"
    assert _ask(reads, f"SELECT @kept{never}")[0][0] == 5
    # Drivers say SET NAMES and SET autocommit = 0 themselves, straight after connecting.
    fresh = [
        server.connect(autocommit=False),
        server.connector(autocommit=False, use_pure=True),
        server.connector(autocommit=False, use_pure=False),
    ]
    for session in fresh:
        _ask(session, "SET SESSION time_zone = '+01:00', @own = 'mine'")
        _ask(session, "USE mysql")
        _ask(session, f"USE {server.database}")
    for session in [reads, *fresh]:
        _ask(session, "INSERT INTO t VALUES (1, 'lost')")
    before = server.status()["backend_pid"]
    shared.kill_database()
    until_another(server, before)
    for session in [reads, *fresh]:
        with pytest.raises((pymysql.err.OperationalError, mysql.connector.Error), match="1105.*aborted"):
            _ask(session, "SELECT 1")
    assert _ask(reads, "SELECT @kept, @@autocommit") == ((5, 1),)
    for session in fresh:
        (row,) = _ask(session, "SELECT @@autocommit, @@time_zone, @own, DATABASE()")
        assert tuple(row) == (0, "+01:00", "mine", server.database)
        assert list(_ask(session, "SELECT COUNT(*) FROM t WHERE note = 'lost'")) in ([(0,)], [[0]])
    # Once more, in the transaction of the last statement: what was told is still not looked at.
    before = server.status()["backend_pid"]
    shared.kill_database()
    until_another(server, before)
    for session in fresh:
        with pytest.raises((pymysql.err.OperationalError, mysql.connector.Error), match="1105.*aborted"):
            _ask(session, "SELECT 1")
        assert tuple(_ask(session, "SELECT @@autocommit, @own")[0]) == (0, "mine")
        session.close()
    reads.close()


def test_whoever_would_not_be_let_in_again_is_told_so_after_a_crash(shared):
    """No change was sought since the account was changed, so nobody has looked at it before."""
    server = shared.server
    with server.connect() as master:
        _ask(master, "CREATE USER was_changed IDENTIFIED BY 'old'")
        _ask(master, "CREATE USER was_dropped IDENTIFIED BY 'old'")
    changed, dropped = (
        server.connect(user=name, password="old", database=None) for name in ("was_changed", "was_dropped")
    )
    settle(server)
    new = "PASSWORD('new')" if server.product in ("mariadb", "mysql56") else "'new'"
    with server.connect() as master:
        _ask(master, f"SET PASSWORD FOR was_changed = {new}")
        _ask(master, "DROP USER was_dropped")
    before = server.status()["backend_pid"]
    shared.kill_database()
    until_another(server, before)
    for session in (changed, dropped):
        with pytest.raises(pymysql.err.OperationalError, match="The session was lost.*Access denied") as caught:
            _ask(session, "SELECT 1")
        assert caught.value.args[0] == 1105
        assert shared.is_closed(session)
    with server.connect(user="was_changed", password="new", database=None) as again:
        assert _ask(again, "SELECT 1") == ((1,),)
    with server.connect() as master:
        _ask(master, "DROP USER was_changed")
