"""A connection's number means the same wherever a client can see it, and stays the same.

With SCALEPOINT_TEST_DIRECT=1 the same is asked of the products themselves.
"""

import contextlib

import pytest
from conftest import wait_until
from mysqlserver import DIRECT, PRODUCTS, serving_mysql
from rawmysql import QUERY, ServerError

PROCESS_INFO = 10


@pytest.fixture(scope="module", params=PRODUCTS)
def server(request):
    with serving_mysql(request.param) as server:
        client = server.raw()
        client.query("CREATE TABLE noted (id bigint unsigned, name varchar(60))")
        client.close()
        yield server


def swap(server):
    if not DIRECT:
        server.swap()


def before_and_after(server):
    """Twice, with a swap in between."""
    yield
    swap(server)
    yield


def names(result):
    return [column.name for column in result.columns]


def test_it_is_the_same_in_every_statement(server):
    client = server.raw()
    own = str(client.id).encode()
    prepared = client.prepare("SELECT CONNECTION_ID(), ?")
    client.query("PREPARE own FROM 'SELECT CONCAT(''x'', CONNECTION_ID())'")
    for _ in before_and_after(server):
        result = client.query("SELECT CONNECTION_ID(), @@autocommit, connection_id() + 0 AS other")
        assert names(result) == ["CONNECTION_ID()", "@@autocommit", "other"]
        assert result.rows == [(own, b"1", own)]
        result = client.query("SELECT @@pseudo_thread_id, CONCAT('x', CONNECTION_ID())")
        assert names(result) == ["@@pseudo_thread_id", "CONCAT('x', CONNECTION_ID())"]
        assert result.rows == [(own, b"x" + own)]
        assert client.execute(prepared, [5]).rows == [(client.id, 5)]
        assert client.query("EXECUTE own").rows == [(b"x" + own,)]
        assert client.query("SELECT * FROM (SELECT CONNECTION_ID() UNION SELECT CONNECTION_ID()) x").rows == [(own,)]
        client.query("INSERT INTO noted VALUES (CONNECTION_ID(), 'CONNECTION_ID()')")
        client.query("UPDATE noted SET name = CONCAT(name, CONNECTION_ID()) WHERE id = CONNECTION_ID()")
        noted = client.query(f"SELECT id, name FROM noted WHERE id = {client.id}").rows
        assert noted == [(own, b"CONNECTION_ID()" + own)]
        assert client.query("DELETE FROM noted WHERE id = CONNECTION_ID()").affected == 1
        client.query("SET @own = CONNECTION_ID()")
        assert client.query("SELECT @own = CONNECTION_ID()").rows == [(b"1",)]
        many = client.query("SELECT CONNECTION_ID(); SELECT 1; SELECT 2, CONNECTION_ID()")
        assert [result.rows for result in (many, *client.more)] == [[(own,)], [(b"1",)], [(b"2", own)]]
        long = client.query(f"SELECT CONNECTION_ID() /* {'x' * 60000} */")
        assert long.rows == [(own,)]
    client.close()


def test_a_column_of_it_is_as_the_servers(server):
    """type, flags and length of the result, and of a table that is made of it"""
    client = server.raw()
    expected = (3, 161, 10) if server.product == "mariadb" else (8, 161, 21)
    statement = client.prepare("SELECT CONNECTION_ID()")
    for columns in (client.query("SELECT CONNECTION_ID()").columns, statement.columns):
        assert (columns[0].type, columns[0].flags, columns[0].length) == expected
    client.query("CREATE TABLE made AS SELECT CONNECTION_ID()")
    assert client.query("SELECT `CONNECTION_ID()` FROM made").rows == [(str(client.id).encode(),)]
    (kind,) = {"mariadb": ["int(10) unsigned"], "mysql9": ["bigint unsigned"], "mysql56": ["bigint(21) unsigned"]}[
        server.product
    ]
    assert kind.encode() in client.query("SHOW CREATE TABLE made").rows[0][1]
    client.query("DROP TABLE made")
    client.close()


def test_a_lock_of_that_name_is_ones_own(server):
    client = server.raw()
    for _ in before_and_after(server):
        assert client.one("SELECT GET_LOCK(CONCAT('of ', CONNECTION_ID()), 0)") == "1"
        name = f"of {client.id}"
        assert client.one(f"SELECT IS_USED_LOCK('{name}') = CONNECTION_ID()") == "1"
        assert client.one(f"SELECT IS_USED_LOCK('{name}')") == str(client.id)
        assert client.one(f"SELECT RELEASE_LOCK('{name}')") == "1"
    client.close()


def test_a_list_of_processes_has_it(server):
    client, other = server.raw(), server.raw()
    own = str(client.id).encode()
    lists = ["SHOW PROCESSLIST", "SHOW FULL PROCESSLIST", "SELECT * FROM information_schema.PROCESSLIST"]
    for _ in before_and_after(server):
        other.ping()
        for text in lists:
            rows = client.query(text).rows
            assert {own, str(other.id).encode()} <= {row[0] for row in rows}, text
            (row,) = [row for row in rows if row[0] == own]
            assert row[7].endswith(text.encode()), row
        numbers = {row[0] for row in client.execute(client.prepare("SHOW PROCESSLIST")).rows}
        assert {client.id, other.id} <= numbers
        with contextlib.suppress(ServerError):
            client.begin(PROCESS_INFO)
            assert own in {row[0] for row in client.result().rows}
        listed = "SELECT id, user FROM information_schema.processlist WHERE id = "
        assert client.query(listed + "CONNECTION_ID()").rows == [(own, b"master")]
        assert client.query(listed + str(client.id)).rows == [(own, b"master")]
        assert client.query(listed + str(other.id)).rows == [(str(other.id).encode(), b"master")]
        # What stands beside it is left alone.
        assert client.query("SHOW PROCESSLIST").rows[0][1] is not None
    client.close()
    other.close()


def test_a_transaction_is_found_by_it(server):
    client = server.raw()
    client.query("BEGIN")
    client.query("INSERT INTO noted VALUES (1, '')")
    listed = "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = "
    other = server.raw()
    # InnoDB answers from a copy that may be a tenth of a second old.
    for asking in (client, other):

        def found(asking=asking):
            return asking.query(listed + str(client.id)).rows == [(str(client.id).encode(),)]

        wait_until(found, "the transaction is listed")
    client.query("ROLLBACK")
    client.close()
    other.close()


def sleeping(server, text="SELECT SLEEP(600)"):
    client = server.raw()
    client.begin(QUERY, text)
    return client


def ends_early(client):
    """MariaDB says that it was interrupted, MySQL's SLEEP answers 1."""
    try:
        return client.result().rows == [(b"1",)]
    except ServerError as error:
        return error.code == 1317


def test_a_kill_among_other_statements_is_of_that_session(server):
    client = server.raw()
    for _ in before_and_after(server):
        one, two = sleeping(server), sleeping(server)
        running = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(600)'"
        wait_until(lambda: client.one(running) == "2", "both sleep")
        assert client.query(f"SELECT 1; KILL QUERY {one.id}; SELECT 2").rows == [(b"1",)]
        assert [result.rows for result in client.more] == [[], [(b"2",)]]
        assert ends_early(one)
        assert client.one(running) == "1"
        client.query(f"DO 0; KILL {two.id}")
        with pytest.raises((ConnectionError, ServerError)):
            two.result()
            two.ping()
        assert one.one("SELECT CONNECTION_ID()") == str(one.id)
        one.close()
    client.close()


def test_a_session_may_kill_itself(server):
    client = server.raw()
    with pytest.raises((ConnectionError, ServerError)):
        client.query("KILL CONNECTION_ID()")
        client.ping()


def test_a_number_of_a_server_that_has_gone_kills_nobody(server):
    assert not DIRECT, "without a router there is no server that has gone"
    client = server.raw()
    victims = [server.raw() for _ in range(3)]
    # So it is not for the number's sake.
    client.query("SELECT id + 0 FROM information_schema.processlist")
    with pytest.raises(ServerError, match=r"^1094 \(HY000\): Unknown thread id: 999999"):
        client.query("KILL 999999")
    theirs = "SELECT MAX(id) + 0 FROM information_schema.processlist WHERE id = "
    stale = [client.one(theirs + str(victim.id)) for victim in victims]
    client.query(f"SET @stale = {stale[0]}")
    server.swap()
    for number in [*stale, "@stale", f"QUERY {stale[0]}"]:
        with pytest.raises(ServerError, match="^1094.* SHOW PROCESSLIST"):
            client.query(f"KILL {number}")
    for text in ["KILL 5", f"KILL QUERY {victims[0].id}"]:
        with pytest.raises(ServerError, match="^1295"):
            client.prepare(text)
        with pytest.raises(ServerError, match="^1295"):
            client.query(f"PREPARE s FROM '{text}'")
    for victim in victims:
        assert victim.one("SELECT CONNECTION_ID()") == str(victim.id)
    # By a number of the server's own that was just asked for, one may be ended.
    fresh = client.one(theirs + str(victims[0].id))
    client.query(f"KILL {fresh}")
    with pytest.raises((ConnectionError, ServerError)):
        victims[0].ping()
    assert client.one("SELECT CONNECTION_ID()") == str(client.id)
