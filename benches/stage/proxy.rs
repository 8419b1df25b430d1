//! A Scalepoint with one cluster, and its command line.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scalepoint::scaling::report::ScaleReport;

use super::{DATABASE, PASSWORD, Stage, USER, free_port};

/// The program that is measured: cargo builds it for the benchmark; `SCALEPOINT_BIN` names another one.
fn program() -> OsString {
    std::env::var_os("SCALEPOINT_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_scalepoint").into())
}

/// The cluster's name.
const CLUSTER: &str = "bench";

/// Options that say where something is, and what a bare server has otherwise.
const PLACES: [&str; 12] = [
    "--no-defaults",
    "--basedir=",
    "--lc-messages-dir=",
    "--character-sets-dir=",
    "--plugin-dir=",
    "--datadir=",
    "--pid-file=",
    "--socket=",
    "--tmpdir=",
    "--secure-file-priv=",
    "--skip-networking",
    "--proxy-protocol-networks=",
];

/// A running `scalepoint serve`. Dropping it stops it and waits.
pub struct Proxy {
    server: Child,
    admin: String,
    /// Where clients connect.
    pub port: u16,
    /// Where its log goes.
    pub log: PathBuf,
    /// How the option begins that gives a server its volume.
    volume_option: String,
}

impl Proxy {
    /// Starts it; `level` is what it logs.
    pub fn start(stage: &Stage, level: &str) -> Proxy {
        Proxy::start_with(stage, level, "")
    }

    /// The same; `more`: further lines of the cluster's section.
    pub fn start_with(stage: &Stage, level: &str, more: &str) -> Proxy {
        let (port, admin) = (free_port(), format!("127.0.0.1:{}", free_port()));
        let password = stage.path("master_password");
        std::fs::write(&password, PASSWORD).expect("a password file");
        let mut parameters = String::new();
        for (name, value) in stage.engine.settings() {
            writeln!(parameters, "{name} = \"{value}\"").expect("text");
        }
        // Two cores for each capacity unit, and room for 9,000 idle sessions beside the busy ones: these limits are not
        // what is measured.
        let config = format!(
            "data_dir = \"{data}\"\n[admin]\nlisten = \"{admin}\"\n\
             [router]\nmax_sessions = 9900\n[acu]\nmemory = \"1GiB\"\ncpu = 2.0\n\
             [[cluster]]\nname = \"{CLUSTER}\"\nengine = \"{engine}\"\nlisten = \"127.0.0.1:{port}\"\n\
             server = \"{programs}\"\nmin_capacity = 2\nmax_capacity = 16\nauto_pause = false\n\
             master_username = \"{USER}\"\nmaster_password_file = \"{password}\"\n\
             database_name = \"{DATABASE}\"\n{more}[cluster.parameters]\n{parameters}",
            data = stage.path("scalepoint").display(),
            engine = stage.engine.name(),
            programs = stage.engine.programs().display(),
            password = password.display(),
        );
        let file = stage.path("scalepoint.toml");
        std::fs::write(&file, config).expect("a configuration");
        let log = stage.path("scalepoint.log");
        let mut server = Command::new(program())
            .args(["serve", "--log", level, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("the scalepoint program");
        let said = BufReader::new(server.stdout.take().expect("its output"));
        let ready = said.lines().map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "scalepoint did not start: {}", std::fs::read_to_string(&log).unwrap_or_default());
        let volume_option = format!("--datadir={}", stage.path("scalepoint").display());
        Proxy { server, admin, port, log, volume_option }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The options that it gives its MariaDB or MySQL, apart from places and the network: with them a bare server
    /// answers as fast.
    pub fn own_options(&self) -> Vec<OsString> {
        let own =
            |words: &Vec<Vec<u8>>| words.iter().any(|word| word.starts_with(self.volume_option.as_bytes()));
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let mut commands = commands.map(|words| words.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect());
        let words: Vec<Vec<u8>> = commands.find(own).expect("the server of scalepoint");
        let is_place = |word: &[u8]| PLACES.iter().any(|place| word.starts_with(place.as_bytes()));
        let options = words.into_iter().skip(1).filter(|word| word.starts_with(b"--") && !is_place(word));
        options.map(OsString::from_vec).collect()
    }

    /// Changes the capacity and waits for the report.
    pub fn scale(&self, capacity: u32) -> ScaleReport {
        let asked = Command::new(program())
            .args(["scale", CLUSTER, &capacity.to_string(), "--json", "--admin", &self.admin])
            .stdin(Stdio::null())
            .output()
            .expect("the scalepoint program");
        let said = String::from_utf8_lossy(&asked.stdout);
        let complaint = String::from_utf8_lossy(&asked.stderr);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("scale: {error}: {said}{complaint}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // If it has ended already, waiting says so.
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGTERM);
        let _ = self.server.wait();
    }
}
