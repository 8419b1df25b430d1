//! Reads `src/` and holds it to the map: who may name whom, what the protocol modules may not touch, how long a file may
//! be, and that each says at its top what it is for.
//!
//! The arrows are those of ARCHITECTURE.md. A new arrow is a decision: it is drawn there and in [`ARROWS`] in one commit.
//!
//! ```text
//! file ──► code (comments and literals blanked, test items cut out) ──► paths (use trees unfolded) ──► judged
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod rust_text;

use rust_text::{TestsCut, blank_comments_and_literals, cut_tests, paths};

/// Who may name whom. A two-part name allows just that submodule.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli", "app"]),
    ("app", &["api", "cli", "compute", "engine", "router", "scaling"]),
    ("cli", &["app", "scaling::report"]),
    ("api", &["scaling"]),
    ("scaling", &["router", "compute"]),
    ("router", &["engine"]),
    ("engine", &[]),
    ("compute", &[]),
    ("config", &[]),
    ("telemetry", &[]),
];

/// Everybody may use these, but for `engine` and themselves.
const EVERYWHERE: &[&str] = &["config", "telemetry"];

/// What has no place in `engine/`: the runtime, the clock, the outside world. Time comes in as an argument.
const NOT_IN_ENGINE: &[&str] = &[
    "tokio",
    "tokio_rustls",
    "nix",
    "ureq",
    "axum",
    "std::net",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
];

const LONGEST_FILE: usize = 400;

#[test]
fn source_keeps_to_the_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = source_files(&root);
    assert!(!files.is_empty(), "no source found in {}", root.display());

    let sources: Vec<Source> = files.iter().map(|file| Source::read(&root, file)).collect();
    let test_only: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_files).collect();
    let complaints: Vec<String> = sources
        .iter()
        .filter(|source| !test_only.iter().any(|only| source.file.starts_with(only)))
        .flat_map(Source::complaints)
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// One file, relative to `src/`.
struct Source {
    file: PathBuf,
    text: String,
    /// The text with comments, literals and test items blanked; lines stay where they were.
    code: String,
    test_modules: Vec<String>,
    test_lines: usize,
}

impl Source {
    fn read(root: &Path, file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self::new(file.strip_prefix(root).unwrap(), &text)
    }

    fn new(file: &Path, text: &str) -> Self {
        let TestsCut { code, modules, lines } = cut_tests(&blank_comments_and_literals(text));
        Self { file: file.to_owned(), text: text.to_owned(), code, test_modules: modules, test_lines: lines }
    }

    /// `["router", "gate"]` for `router/gate.rs`, `["router"]` for `router/mod.rs`, `["main"]` for `main.rs`.
    fn module(&self) -> Vec<String> {
        let mut parts: Vec<String> =
            self.file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.len() > 1 && parts.last().is_some_and(|part| part == "mod") {
            parts.pop();
        }
        parts
    }

    /// Files and folders of modules that are declared for tests only.
    fn test_files(&self) -> Vec<PathBuf> {
        let folder: PathBuf = match self.file.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "lib.rs" | "main.rs") => self.file.parent().unwrap().to_owned(),
            _ => self.file.with_extension(""),
        };
        self.test_modules
            .iter()
            .flat_map(|name| [folder.join(name), folder.join(format!("{name}.rs"))])
            .collect()
    }

    fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.missing_doc());
        found.extend(self.too_long());
        for (line, path) in paths(&self.code) {
            if let Some(why) = self.judge(&path) {
                found.push(format!("src/{}:{line}: `{}` {why}", self.file.display(), path.join("::")));
            }
        }
        found
    }

    fn missing_doc(&self) -> Option<String> {
        let first = self.text.lines().find(|line| !line.trim().is_empty());
        let documented = first.is_some_and(|line| line.starts_with("//!"));
        (!documented)
            .then(|| format!("src/{}:1: has no //! doc that says what it is for", self.file.display()))
    }

    fn too_long(&self) -> Option<String> {
        let lines = self.text.lines().count() - self.test_lines;
        (lines > LONGEST_FILE).then(|| {
            format!(
                "src/{}:1: has {lines} lines without its tests; at most {LONGEST_FILE}",
                self.file.display()
            )
        })
    }

    /// Why this file may not name that path, if so.
    fn judge(&self, path: &[String]) -> Option<String> {
        let own = self.module();
        let layer = own[0].as_str();
        if layer == "engine"
            && let Some(banned) = NOT_IN_ENGINE.iter().find(|banned| starts_with(path, banned))
        {
            return Some(format!("is used in engine/, which has no runtime, clock or I/O ({banned})"));
        }
        let target = resolve(&own, path)?;
        let (top, rest) = target.split_first()?;
        if layer == "lib" || top == layer {
            return self.judge_engines(&own, &target);
        }
        if layer != "engine" && !EVERYWHERE.contains(&layer) && EVERYWHERE.contains(&top.as_str()) {
            return None;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == layer) else {
            return Some(format!(
                "is named by `{layer}`, which has no place on the map (ARROWS in tests/layering)"
            ));
        };
        let named: Vec<String> = std::iter::once(top).chain(rest).cloned().collect();
        let permitted = allowed.iter().any(|arrow| starts_with(&named, arrow));
        (!permitted).then(|| format!("is against the arrows: {layer} → {}", allowed.join(", ")))
    }

    /// The two protocols are two implementations of one trait; what they share belongs above them.
    fn judge_engines(&self, own: &[String], target: &[String]) -> Option<String> {
        let engine = |path: &[String]| match path {
            [top, name, ..] if top == "engine" && (name == "postgres" || name == "mysql") => {
                Some(name.clone())
            }
            _ => None,
        };
        let (mine, named) = (engine(own)?, engine(target)?);
        (mine != named).then(|| format!("is named by engine/{mine}, which knows nothing of engine/{named}"))
    }
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Whether the path begins with the names in `prefix` ("std::net").
fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut prefix = prefix.split("::");
    path.iter().zip(prefix.by_ref()).all(|(part, wanted)| part == wanted) && prefix.next().is_none()
}

/// The path from the crate's root that `path` means inside the module `own`; none for a foreign crate's.
fn resolve(own: &[String], path: &[String]) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" | "scalepoint" => Some(rest.to_vec()),
        "self" => Some([own, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let parents = own.len().checked_sub(ups)?;
            Some([&own[..parents], &path[ups..]].concat())
        }
        _ => None,
    }
}

/// The complaints about a file of that name and text.
fn complaints(file: &str, text: &str) -> Vec<String> {
    Source::new(Path::new(file), &format!("//! Doc.\n{text}")).complaints()
}

#[test]
fn forbidden_arrows_are_caught() {
    let caught = [
        ("compute/mod.rs", "use crate::scaling::Driver;"),
        ("compute/process.rs", "fn f() { crate::router::listen(); }"),
        ("router/gate.rs", "use super::super::scaling::Change;"),
        ("router/mod.rs", "use super::scaling::Change;"),
        ("router/gate.rs", "use crate::{config::Config, api::rds};"),
        ("engine/mod.rs", "use crate::config::Config;"),
        ("engine/mod.rs", "use tokio::sync::watch;"),
        ("engine/reader.rs", "use std::{fmt, time::{Duration, Instant}};"),
        ("engine/reader.rs", "fn now() { std::time::SystemTime::now(); }"),
        ("engine/postgres/greet.rs", "use super::super::mysql::greet::Greeting;"),
        ("engine/mysql/mod.rs", "use crate::engine::postgres;"),
        ("main.rs", "use scalepoint::router::listener;"),
        ("cli.rs", "use crate::scaling::driver::Driver;"),
        ("api/rds.rs", "use crate::router::registry;"),
        ("config.rs", "use crate::telemetry;"),
        ("novelty.rs", "use crate::router;"),
        ("router/gate.rs", "#[cfg(test)]\nmod tests { use crate::api; }\nuse crate::api::rds;"),
    ];
    for (file, text) in caught {
        assert_eq!(complaints(file, text).len(), 1, "src/{file}: {text}: {:?}", complaints(file, text));
    }
}

#[test]
fn permitted_arrows_pass() {
    let passes = [
        ("app.rs", "use crate::{api, cli, compute::process, config, engine::{mysql, postgres}, scaling};"),
        ("scaling/driver.rs", "use crate::{compute::ComputeProvider, router::Hold, telemetry};"),
        ("router/session.rs", "use crate::engine::Tracker; use super::gate::Gate; use tokio::time::Instant;"),
        ("cli.rs", "use crate::scaling::report::ChangeReport;"),
        ("main.rs", "use scalepoint::{app, cli};"),
        (
            "engine/postgres/greet.rs",
            "use super::message::Message; use crate::engine::reader; use std::time::Duration;",
        ),
        (
            "engine/mod.rs",
            "// tokio::time is not used here, nor crate::api::rds\n/* crate::api::x /* nested */ crate::api */",
        ),
        (
            "engine/mod.rs",
            "const TEXT: &str = \"crate::api::rds \\\" tokio::net\"; const RAW: &str = r#\"tokio::\"x\"\"#;",
        ),
        (
            "engine/mod.rs",
            "fn f<'a>(quote: &'a str) { g('\"', '\\'', b'\"'); } #[cfg(test)]\nmod tests { use tokio::net::X; }",
        ),
        ("lib.rs", "pub mod api; pub use crate::scaling::Driver;"),
    ];
    for (file, text) in passes {
        assert_eq!(complaints(file, text), Vec::<String>::new(), "src/{file}: {text}");
    }
}

#[test]
fn the_line_of_a_use_is_named() {
    let found =
        complaints("compute/mod.rs", "/* a\nb */\n#[cfg(test)]\nmod tests {\n}\n\nuse crate::api::rds;");
    assert_eq!(found, ["src/compute/mod.rs:8: `crate::api::rds` is against the arrows: compute → "]);
}

#[test]
fn long_and_undocumented_files_are_caught() {
    let text = "fn f() {}\n".repeat(LONGEST_FILE);
    assert_eq!(complaints("app.rs", &text).len(), 1);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
    assert_eq!(complaints("app.rs", &tests), Vec::<String>::new());
    assert_eq!(Source::new(Path::new("app.rs"), "fn f() {}").complaints().len(), 1);
}

#[test]
fn files_of_test_modules_are_known() {
    let source = Source::new(Path::new("router/gate.rs"), "//! Doc.\n#[cfg(test)]\nmod tests;\n");
    assert_eq!(
        source.test_files(),
        [PathBuf::from("router/gate/tests"), PathBuf::from("router/gate/tests.rs")]
    );
    let source = Source::new(Path::new("router/mod.rs"), "//! Doc.\n#[cfg(test)]\nmod simulation;\n");
    assert_eq!(source.test_files()[1], PathBuf::from("router/simulation.rs"));
}
