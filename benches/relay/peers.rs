//! Those who are compared, each on a port of its own.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bare_relay;
use crate::stage::bare::Bare;
use crate::stage::proxy::Proxy;
use crate::stage::{DATABASE, PASSWORD, Stage, USER, find_program, free_port};

/// Longer than any of them takes to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a pooler keeps a connection to the server that nobody uses. All poolers have one server, and a crowd needs it whole.
pub(crate) const POOLED: Duration = Duration::from_secs(1);

/// A way to the server. Dropping it ends its process.
pub(crate) struct Peer {
    /// As it is printed.
    pub(crate) name: &'static str,
    /// Where its clients connect.
    pub(crate) port: u16,
    /// Whether its clients can have TLS: a server has none on its Unix socket, and a relay passes on what it has.
    pub(crate) has_tls: bool,
    /// The process in the middle.
    pid: Option<u32>,
    child: Option<Child>,
}

impl Peer {
    /// Nothing in the middle.
    pub(crate) fn direct(bare: &Bare<'_>, has_tls: bool) -> Peer {
        Peer { name: "direct", port: bare.port, has_tls, pid: None, child: None }
    }

    /// What all this is about.
    pub(crate) fn scalepoint(proxy: &Proxy) -> Peer {
        Peer { name: "scalepoint", port: proxy.port, has_tls: true, pid: Some(proxy.pid()), child: None }
    }

    /// See [`bare_relay`]. It runs in this process, which does nothing else meanwhile.
    pub(crate) fn bare_relay(bare: &Bare<'_>) -> Peer {
        let port = free_port();
        bare_relay::start(port, bare.socket());
        Peer { name: "relay", port, has_tls: false, pid: Some(std::process::id()), child: None }
    }

    /// Two of them, in session mode: over the server's Unix socket and over its TCP port.
    pub(crate) fn pgbouncer(stage: &Stage, bare: &Bare<'_>, certificate: &Certificate) -> Vec<Peer> {
        let Certificate { certificate, key } = certificate;
        let Some(program) = find_program("pgbouncer") else {
            println!("pgbouncer is not installed: scripts/install-test-servers brings it");
            return Vec::new();
        };
        let ways = [("pgbouncer", bare.run_dir.to_string_lossy()), ("pgbouncer-tcp", "127.0.0.1".into())];
        let start = |(name, host): (&'static str, std::borrow::Cow<'_, str>)| {
            let home = stage.server_folder(name);
            let users = home.join("users");
            write_open(&users, &format!("\"{USER}\" \"{PASSWORD}\"\n"));
            let port = free_port();
            let settings = home.join("pgbouncer.ini");
            write_open(
                &settings,
                &format!(
                    "[databases]\n{DATABASE} = host={host} port={} dbname={DATABASE}\n[pgbouncer]\n\
                     listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = \nauth_type = scram-sha-256\n\
                     auth_file = {}\npool_mode = session\nmax_client_conn = 300\ndefault_pool_size = 220\n\
                     server_idle_timeout = {}\nclient_tls_sslmode = allow\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n\
                     server_tls_sslmode = disable\nlogfile = {}\n",
                    bare.port,
                    users.display(),
                    POOLED.as_secs(),
                    home.join("log").display(),
                ),
            );
            let mut command = Command::new(&program);
            if let Some((user, group)) = stage.server_user() {
                command.uid(user).gid(group);
            }
            Peer::begin(name, port, command.arg("-q").arg(&settings))
        };
        ways.into_iter().map(start).collect()
    }

    /// In TCP mode.
    pub(crate) fn haproxy(stage: &Stage, bare: &Bare<'_>) -> Option<Peer> {
        let Some(program) = find_program("haproxy") else {
            println!("haproxy is not installed: scripts/install-test-servers --bench brings it");
            return None;
        };
        let (port, settings) = (free_port(), stage.path("haproxy.cfg"));
        let text = format!(
            "global\n  nbthread 2\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
             timeout server 1h\nlisten bench\n  bind 127.0.0.1:{port}\n  server bare 127.0.0.1:{}\n",
            bare.port
        );
        fs::write(&settings, text).expect("a configuration");
        Some(Peer::begin("haproxy", port, Command::new(program).arg("-db").arg("-f").arg(&settings)))
    }

    fn begin(name: &'static str, port: u16, command: &mut Command) -> Peer {
        let said = Stdio::null;
        let mut child = command.stdin(said()).stdout(said()).stderr(said()).spawn().expect(name);
        let deadline = Instant::now() + PATIENCE;
        let address = ([127, 0, 0, 1], port).into();
        while TcpStream::connect_timeout(&address, PATIENCE).is_err() {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < deadline, "{name} does not start: {ended:?}");
        }
        Peer { name, port, has_tls: true, pid: Some(child.id()), child: Some(child) }
    }

    /// What the process in the middle has used so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let Some(pid) = self.pid else { return 0.0 };
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that runs");
        // Behind the name, which may contain anything: state, …, utime (14th of all), stime.
        let rest = text.rsplit(')').next().unwrap_or_default();
        let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        ticks / per_second as f64
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A certificate for the bare PostgreSQL, and its key, in its data directory.
pub(crate) struct Certificate {
    certificate: String,
    key: String,
}

impl Certificate {
    pub(crate) fn make(bare: &Bare<'_>) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let put = |name, text: String| bare.put(name, &text).to_string_lossy().into_owned();
        let certificate = put("bench.pem", made.cert.pem());
        Certificate { certificate, key: put("bench.key", made.signing_key.serialize_pem()) }
    }

    /// What makes the server use it.
    pub(crate) fn options(&self) -> Vec<OsString> {
        let settings = [("ssl", "on"), ("ssl_cert_file", &self.certificate), ("ssl_key_file", &self.key)];
        settings.iter().flat_map(|(name, value)| ["-c".into(), format!("{name}={value}").into()]).collect()
    }
}

/// In a folder that only the server's user can enter.
fn write_open(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).expect("a readable file");
}
