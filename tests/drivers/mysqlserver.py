"""MariaDB and MySQL behind `scalepoint serve`, and (to know that a test itself is right) without it.

    with serving_mysql("mariadb") as server:
        with server.connect() as connection: ...       # PyMySQL
        client = server.raw()                          # bytes

With SCALEPOINT_TEST_DIRECT=1 the same is a server of the product itself, and a swap does nothing: rows of a table that
fail then are wrong themselves.

Environment: SCALEPOINT_MARIADB_BIN, SCALEPOINT_MYSQL9_BIN and SCALEPOINT_MYSQL56_BIN.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import mysql.connector
import pymysql
from conftest import MASTER, START_DEADLINE, STOP_DEADLINE, Serve, free_ports, running, wait_until
from rawmysql import Raw

PRODUCTS = ["mariadb", "mysql9", "mysql56"]
DIRECT = bool(os.environ.get("SCALEPOINT_TEST_DIRECT"))


def server_folder(product):
    name = f"SCALEPOINT_{product.upper()}_BIN"
    folder = os.environ.get(name)
    assert folder, f"{name} must name the folder of {product}'s server"
    return folder


def behind_the_router(server, volume):
    """A connection past the router, as only root has it."""
    socket = volume.parent / "run" / "mysql.sock"
    # A server that a promotion has stopped takes the connection, and says nothing.
    own = {"unix_socket": str(socket), "user": MASTER, "password": server.password}
    return pymysql.connect(**own, autocommit=True, read_timeout=10)


class Clients:
    """Connections to a server of MariaDB or MySQL, as the master user unless told otherwise."""

    ca = None

    def parameters(self, **changes):
        known = {"host": "127.0.0.1", "port": self.port, "user": MASTER, "password": self.password}
        return {**known, "database": self.database, **changes}

    def password_function(self, text):
        """What `SET PASSWORD FOR … =` takes."""
        return f"'{text}'" if self.product == "mysql9" else f"PASSWORD('{text}')"

    def connect(self, autocommit=True, **changes):
        """PyMySQL; over verified TLS where there is a router."""
        options = {"ssl": {"ca": str(self.ca)}, "host": "localhost"} if self.ca else {}
        return pymysql.connect(**{**self.parameters(), "autocommit": autocommit, **options, **changes})

    def connector(self, **changes):
        """mysql-connector-python."""
        options = {"ssl_disabled": True}
        if self.ca:
            options = {"ssl_ca": str(self.ca), "ssl_verify_identity": True, "host": "localhost"}
        return mysql.connector.connect(**{**self.parameters(), "autocommit": True, **options, **changes})

    def raw(self, **changes):
        return Raw(**{**self.parameters(), "ca": str(self.ca) if self.ca else None, **changes})


class MysqlServer(Clients, Serve):
    """A running `scalepoint serve` with one cluster of such a product."""

    engine = "mysql"
    min_capacity = 1
    programs = (b"mariadbd", b"mysqld")
    #: Nothing here outlives the machine.
    usual_parameters = {"innodb_flush_log_at_trx_commit": 2, "sync_binlog": 0}
    direct = False

    def __init__(self, product="mariadb", *, handover=None, cluster="", **options):
        self.product = product
        usual = "restart" if product == "mysql56" else os.environ.get("SCALEPOINT_TEST_HANDOVER", "restart")
        self.handover = handover or usual
        cluster += f'\nhandover = "{self.handover}"'
        super().__init__(server_folder(product), cluster=cluster, **options)
        # A copy may only be made of what was written with a log.
        self.of_the_volume = (*self.of_the_volume, self.handover)

    def start(self):
        super().start()
        if self.handover == "standby":
            wait_until(self.follows, "a standby", START_DEADLINE)
        return self

    def follows(self):
        """Whether there is a standby that follows."""
        if self.copy is None:
            return False
        with contextlib.suppress(pymysql.Error), behind_the_router(self, self.copy) as copy:
            cursor = copy.cursor(pymysql.cursors.DictCursor)
            cursor.execute("SHOW SLAVE STATUS" if self.product == "mariadb" else "SHOW REPLICA STATUS")
            running = [value for row in cursor for name, value in row.items() if name.endswith(("_IO_Running", "_SQL_Running"))]
            return running == ["Yes", "Yes"]
        return False

    @property
    def ca(self):
        return self.data_dir / "certs" / "ca.pem"


class DirectServer(Clients):
    """The product's own server, with a master user as a cluster has."""

    direct = True
    database = "app"
    password = "correct horse"
    process = None

    def __init__(self, product="mariadb", **_):
        self.product = product
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="scalepoint-direct-", dir=os.environ.get("TMPDIR", "/tmp")))
        self.user = pwd.getpwnam("mysql")
        os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        (self.port,) = free_ports(1)
        self.program, self.options, self.environment = getattr(self, f"_{product}")()
        self.options += [f"--datadir={self.folder}/data", f"--socket={self.folder}/socket"]

    @staticmethod
    def _mariadb():
        return f"{server_folder('mariadb')}/mariadbd", ["--no-defaults"], {}

    @staticmethod
    def _mysql9():
        usr = pathlib.Path(server_folder("mysql9")).parent
        own = {"basedir": "", "lc-messages-dir": "share/mysql", "plugin-dir": "lib/mysql/plugin"}
        own["character-sets-dir"] = "share/mysql/charsets"
        options = [f"--{name}={usr / path}" for name, path in own.items()]
        return f"{usr}/sbin/mysqld", ["--no-defaults", "--secure-file-priv=NULL", *options], {}

    @staticmethod
    def _mysql56():
        folder = server_folder("mysql56")
        options = ["--no-defaults", f"--basedir={folder}", f"--lc-messages-dir={folder}/share"]
        return f"{folder}/mysqld", options, {"LD_LIBRARY_PATH": folder}

    def _create(self):
        data = self.folder / "data"
        run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **self._identity()}
        if self.product == "mariadb":
            # The installer reads a folder that it would like to be its own.
            install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
            subprocess.run([*install, "--auth-root-authentication-method=normal"], **run)
        elif self.product == "mysql9":
            subprocess.run([self.program, *self.options, "--initialize-insecure"], **run)
        else:
            (data / "mysql").mkdir(parents=True)
            for folder in (data, data / "mysql"):
                os.chown(folder, self.user.pw_uid, self.user.pw_gid)
            share = pathlib.Path(server_folder("mysql56"), "share")
            tables = [(share / f"mysql_system_tables{part}.sql").read_bytes() for part in ("", "_data")]
            subprocess.run([self.program, *self.options, "--bootstrap"], input=b"use mysql;\n" + b"".join(tables), **run)

    def _identity(self):
        # The folder that pytest was started in may be closed to this user.
        return {
            "user": self.user.pw_uid,
            "group": self.user.pw_gid,
            "extra_groups": [],
            "cwd": self.folder,
            "env": {**os.environ, **self.environment},
        }

    def start(self):
        self._create()
        extra = {"mariadb": ["--plugin-load-add=metadata_lock_info"], "mysql9": ["--mysqlx=OFF"], "mysql56": []}
        options = [*self.options, f"--port={self.port}", "--bind-address=127.0.0.1", "--local-infile=1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, *options, *extra[self.product]], stdout=log, stderr=log, **self._identity()
            )

        def connected():
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(pymysql.OperationalError):
                return pymysql.connect(unix_socket=f"{self.folder}/socket", user="root", autocommit=True)

        with wait_until(connected, "the server answers", START_DEADLINE) as root:
            cursor = root.cursor()
            cursor.execute(f"CREATE DATABASE {self.database}")
            if self.product == "mysql56":
                cursor.execute("DELETE FROM mysql.user WHERE user = ''")
                cursor.execute("FLUSH PRIVILEGES")
            cursor.execute(f"CREATE USER {MASTER} IDENTIFIED BY '{self.password}'")
            cursor.execute(f"GRANT ALL ON *.* TO {MASTER} WITH GRANT OPTION")
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(STOP_DEADLINE)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        return (self.folder / "log").read_text(errors="replace")[-20000:]


def serving_mysql(product="mariadb", **options):
    """A server of MariaDB or MySQL for the length of a `with`."""
    return running((DirectServer if DIRECT else MysqlServer)(product, **options))
