//! A database server of its own for one test, and a door in front of it: the engine's greeting, look-ups and log ins over
//! real sockets, and nothing of the router's sessions.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use scalepoint::engine::mysql::Mysql;
use scalepoint::engine::mysql::greet::{Startup, Vault};
use scalepoint::engine::{Arrival, DialogueError, Engine, Greet, Greeting as _, RouterLogin};
use scalepoint::router::backend::{Backend, BackendError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The router's account in these tests.
const ROUTER: (&str, &str) = ("router", "the router's own");

fn programs(name: &str) -> PathBuf {
    std::env::var(name)
        .map(PathBuf::from)
        .unwrap_or_else(|_| panic!("{name} is not set; scripts/test sets it"))
}

/// A server that runs.
pub(crate) struct Live {
    folder: TempDir,
    child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) login: Arc<RouterLogin>,
    vault: Arc<Vault>,
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::os::unix::fs::chown(folder.path(), uid(), None).unwrap();
    folder
}

/// Servers refuse to run as root.
fn uid() -> Option<u32> {
    nix::unistd::Uid::effective().is_root().then(|| {
        let user = nix::unistd::User::from_name("mysql").unwrap().expect("the account mysql");
        user.uid.as_raw()
    })
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Live {
    pub(crate) async fn mariadb(setup: &[&str]) -> Live {
        let folder = folder();
        let data = folder.path().join("data");
        let installer = programs("SCALEPOINT_MARIADB_CLIENT_BIN").join("mariadb-install-db");
        run(Command::new(installer)
            // A server that starts clears other servers' temporary tables out of a folder that they share.
            .env("TMPDIR", folder.path())
            .args([
                "--no-defaults",
                "--user=mysql",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .arg(format!("--datadir={}", data.display())));
        let mut server = Command::new(programs("SCALEPOINT_MARIADB_BIN").join("mariadbd"));
        server
            .args(["--no-defaults", "--user=mysql", "--proxy-protocol-networks=localhost"])
            .arg("--plugin-load-add=auth_ed25519");
        Live::start(folder, server, &data, setup).await
    }

    pub(crate) async fn mysql9(setup: &[&str]) -> Live {
        let folder = folder();
        let data = folder.path().join("data");
        let bin = programs("SCALEPOINT_MYSQL9_BIN");
        let prefix = bin.parent().unwrap().to_owned();
        let server = || {
            let mut server = Command::new(bin.join("mysqld"));
            server
                .args(["--no-defaults", "--user=mysql", "--secure-file-priv=NULL"])
                .arg(format!("--basedir={}", prefix.display()))
                .arg(format!("--lc-messages-dir={}", prefix.join("share/mysql").display()))
                .arg(format!("--plugin-dir={}", prefix.join("lib/mysql/plugin").display()))
                .arg(format!("--character-sets-dir={}", prefix.join("share/mysql/charsets").display()));
            server
        };
        run(server().arg("--initialize-insecure").arg(format!("--datadir={}", data.display())));
        let mut server = server();
        server.args(["--mysqlx=OFF", "--performance-schema=OFF"]);
        Live::start(folder, server, &data, setup).await
    }

    pub(crate) async fn mysql56(setup: &[&str]) -> Live {
        let folder = folder();
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("mysql")).unwrap();
        for path in [data.clone(), data.join("mysql")] {
            std::os::unix::fs::chown(path, uid(), None).unwrap();
        }
        let home = programs("SCALEPOINT_MYSQL56_BIN");
        let server = || {
            let mut server = Command::new(home.join("mysqld"));
            server
                .env("LD_LIBRARY_PATH", &home)
                .args(["--no-defaults", "--user=mysql", "--performance-schema=OFF"])
                .arg(format!("--basedir={}", home.display()))
                .arg(format!("--lc-messages-dir={}", home.join("share").display()));
            server
        };
        let script = folder.path().join("bootstrap.sql");
        let part = |name: &str| std::fs::read_to_string(home.join("share").join(name)).unwrap();
        let tables = part("mysql_system_tables.sql") + &part("mysql_system_tables_data.sql");
        std::fs::write(&script, format!("use mysql;\n{tables}")).unwrap();
        let mut bootstrap = server();
        bootstrap.arg("--bootstrap").arg(format!("--datadir={}", data.display()));
        let output = bootstrap.stdin(std::fs::File::open(script).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Live::start(folder, server(), &data, setup).await
    }

    async fn start(folder: TempDir, mut server: Command, data: &Path, setup: &[&str]) -> Live {
        let socket = folder.path().join("s");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = server
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .env("TMPDIR", folder.path())
            .arg(format!("--pid-file={}", folder.path().join("pid").display()))
            .args(["--skip-networking", "--innodb-buffer-pool-size=64M"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let login = |user: &str, password: &str| {
            let password = Zeroizing::new(password.to_owned());
            Arc::new(RouterLogin { user: user.into(), password, database: "mysql".into() })
        };
        let root = login("root", "");
        let vault = Arc::default();
        let live = Live { folder, child, socket, login: login(ROUTER.0, ROUTER.1), vault };
        let deadline = Instant::now() + PATIENCE;
        let mut backend = loop {
            match Backend::<Mysql>::connect(&live.socket, Mysql::log_in_as_router(&root), &root).await {
                Ok(backend) => break backend,
                Err(error) => assert!(Instant::now() < deadline, "{error}: {}", live.log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let (user, password) = ROUTER;
        for sql in [
            &*format!("CREATE USER {user}@localhost IDENTIFIED BY \"{password}\""),
            &*format!("GRANT ALL ON *.* TO {user}@localhost WITH GRANT OPTION"),
            "CREATE DATABASE app",
        ]
        .iter()
        .chain(setup)
        {
            backend
                .converse(Mysql::admin_query(sql, &[]))
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        live
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// As the router.
    pub(crate) async fn router(&self) -> Backend<Mysql> {
        Backend::connect(&self.socket, Mysql::log_in_as_router(&self.login), &self.login).await.unwrap()
    }

    /// As a client that was let in.
    pub(crate) async fn log_in(&self, startup: &Startup) -> Result<Backend<Mysql>, BackendError> {
        Backend::connect(&self.socket, Mysql::log_in(startup), &self.login).await
    }

    /// Lets one client in that pretends to come from `from`, and copies bytes until it leaves.
    async fn serve(self: Arc<Live>, mut client: TcpStream, from: IpAddr) -> std::io::Result<()> {
        let mut router = self.router().await;
        let contracts = [Arc::new(Mysql::contract(&router.logged_in))];
        let random = random();
        let arrival = Arrival { secret: [7; 32], id: 4711, random, address: from, contracts: &contracts };
        let mut greeting = Mysql::greet(&arrival);
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        greeting.open(&mut out);
        let mut next = Greet::More;
        let startup = loop {
            client.write_all(&out.split()).await?;
            next = match next {
                Greet::More => {
                    // A byte at a time: packets may come in any pieces.
                    input.extend_from_slice(&[client.read_u8().await?]);
                    greeting.receive(&mut input, &mut out)
                }
                Greet::LookUp { user } => {
                    let query = Mysql::account_query(&router.logged_in, &user);
                    let account = router.converse(query).await.unwrap();
                    greeting.account(account, random, &self.vault, &mut out)
                }
                Greet::Welcome(startup) => break startup,
                Greet::Refused(_) => {
                    client.write_all(&out).await?;
                    return client.shutdown().await;
                }
                Greet::Compute(work) => {
                    work.run();
                    greeting.receive(&mut input, &mut out)
                }
                Greet::UpgradeTls | Greet::Cancel(_) => panic!("not in this test"),
            };
        };
        match self.log_in(&startup).await {
            Ok(mut backend) => {
                startup.put_welcome(&backend.logged_in, &mut out);
                client.write_all(&out).await?;
                tokio::io::copy_bidirectional(&mut client, &mut backend.stream).await.map(|_| ())
            }
            Err(BackendError::Dialogue(DialogueError::Refused { message, .. })) => {
                client.write_all(&out).await?;
                client.write_all(&message).await?;
                client.shutdown().await
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// An address at which every client seems to come from `from`.
    pub(crate) async fn door(self: &Arc<Live>, from: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (live, from) = (Arc::clone(self), from.parse().unwrap());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&live).serve(client, from));
            }
        });
        address
    }
}

fn random() -> [u8; 24] {
    let mut random = [0; 24];
    getrandom::fill(&mut random).unwrap();
    random
}
