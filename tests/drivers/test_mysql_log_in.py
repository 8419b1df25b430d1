"""Who a client is, and becomes, on MariaDB and MySQL behind the router."""

import mysql.connector
import pymysql
import pytest
from mysqlserver import DIRECT, PRODUCTS, serving_mysql


@pytest.fixture(scope="module", params=PRODUCTS)
def server(request):
    with serving_mysql(request.param) as server:
        with server.connect() as connection, connection.cursor() as cursor:
            for statement in [
                "CREATE USER other@'%' IDENTIFIED BY 'of the other'",
                "GRANT SELECT ON app.* TO other@'%'",
                "CREATE USER no_password@'%' IDENTIFIED BY ''",
                "CREATE USER elsewhere@'10.9.8.7' IDENTIFIED BY 'pw'",
                "CREATE USER two_hosts@'127.0.0.1' IDENTIFIED BY 'pw'",
                "CREATE USER safe@'%' IDENTIFIED BY 'pw' REQUIRE SSL"
                if request.param != "mysql56"
                else "GRANT USAGE ON *.* TO safe@'%' IDENTIFIED BY 'pw' REQUIRE SSL",
            ]:
                cursor.execute(statement)
        yield server


def rows(connection, statement):
    cursor = connection.cursor()
    cursor.execute(statement)
    return list(cursor.fetchall())


def refusal(connect, **parameters):
    with pytest.raises((pymysql.err.MySQLError, mysql.connector.Error)) as refused:
        connect(**parameters)
    return refused.value.args[0], str(refused.value)


@pytest.mark.parametrize("compress", [False, True])
def test_a_client_becomes_another_account(server, compress):
    connection = server.connector(compress=compress)
    id = connection.connection_id
    rows(connection, "SELECT @a := 5")
    connection.cmd_change_user(username="other", password="of the other", database="app")
    assert rows(connection, "SELECT CURRENT_USER(), @a, DATABASE()") == [("other@%", None, "app")]
    connection.cmd_change_user(username="no_password", password="", database="")
    assert rows(connection, "SELECT CURRENT_USER(), DATABASE()") == [("no_password@%", None)]
    connection.cmd_change_user(username="other", password="of the other", database="app")
    assert rows(connection, "SELECT CURRENT_USER()") == [("other@%",)]
    assert connection.connection_id == id
    connection.close()


def test_an_open_transaction_ends_with_its_account(server):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS app.ends (a INT) ENGINE=InnoDB")
        changing = server.connector()
        rows(changing, "SET autocommit = 0")
        changing.cursor().execute("INSERT INTO ends VALUES (1)")
        changing.cmd_change_user(username="other", password="of the other", database="app")
        assert rows(changing, "SELECT * FROM ends") == []
        changing.close()
        # Its lock is gone as well.
        cursor.execute("DROP TABLE app.ends")


@pytest.mark.parametrize(
    ("user", "password", "database", "code"),
    [("other", "wrong", "app", 1045), ("nobody", "x", "app", 1045), ("other", "of the other", "mysql", 1044)],
)
def test_who_cannot_become_another_is_let_go(server, user, password, database, code):
    connection = server.connector()
    with pytest.raises(mysql.connector.Error) as refused:
        connection.cmd_change_user(username=user, password=password, database=database)
    assert refused.value.errno == code
    with pytest.raises(mysql.connector.Error):
        rows(connection, "SELECT 1")


def test_refusals_have_the_servers_codes(server):
    assert refusal(server.connect, password="wrong")[0] == 1045
    assert refusal(server.connect, user="nobody")[0] == 1045
    assert refusal(server.connect, user="elsewhere", password="pw", database=None)[0] == 1045
    assert refusal(server.connect, database="nowhere")[0] == 1049


@pytest.mark.skipif(DIRECT, reason="what only the router has to say")
def test_accounts_that_cannot_be_used_are_told_why(server):
    code, text = refusal(server.connect, user="safe", password="pw", database=None)
    assert code == 1045 and "REQUIRE NONE" in text
    two_hosts = {"user": "two_hosts", "password": "pw", "database": None}
    if server.product == "mariadb":
        server.connect(**two_hosts).close()
    else:
        code, text = refusal(server.connect, **two_hosts)
        assert code == 1045 and "one account with host '%'" in text
