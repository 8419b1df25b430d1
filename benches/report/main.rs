//! Puts what the benchmarks wrote down (`--json`) together: one JSON document, a page of tables, and pictures.
//!
//! It measures nothing; `scripts/bench` runs it last.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

mod picture;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

const HELP: &str = "\
cargo bench --bench report -- PARTS.json... [OPTION VALUE]...
  --json FILE       all figures, by their keys
  --markdown FILE   tables
  --svg FILE        pictures";

/// So many measurements make a median that may be called one.
const ENOUGH: u64 = 10;

/// What the command line names.
#[derive(Default)]
struct Wanted {
    parts: Vec<PathBuf>,
    json: Option<PathBuf>,
    markdown: Option<PathBuf>,
    svg: Option<PathBuf>,
}

fn main() {
    let wanted = read_words();
    if wanted.parts.is_empty() {
        println!("{HELP}");
        return;
    }
    let (mut figures, mut curves) = (Map::new(), Map::new());
    for part in &wanted.parts {
        let text =
            std::fs::read_to_string(part).unwrap_or_else(|error| panic!("{}: {error}", part.display()));
        let part: Value = serde_json::from_str(&text).expect("a benchmark's figures");
        figures.extend(part["figures"].as_object().expect("figures").clone());
        for (group, more) in part["curves"].as_object().expect("curves") {
            let all = curves.entry(group).or_insert_with(|| json!([]));
            all.as_array_mut().expect("curves").extend(more.as_array().expect("curves").iter().cloned());
        }
    }
    let page = page(&figures, wanted.svg.as_deref());
    put(wanted.json.as_deref(), &format!("{:#}\n", Value::Object(figures)));
    put(wanted.markdown.as_deref(), &page);
    put(wanted.svg.as_deref(), &picture::draw(&curves));
    println!("{page}");
}

fn read_words() -> Wanted {
    let mut wanted = Wanted::default();
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let mut value =
            || Some(PathBuf::from(words.next().unwrap_or_else(|| panic!("{word} needs a value"))));
        match word.as_str() {
            "--json" => wanted.json = value(),
            "--markdown" => wanted.markdown = value(),
            "--svg" => wanted.svg = value(),
            _ if word.starts_with("--") => panic!("unknown option {word}\n{HELP}"),
            _ => wanted.parts.push(PathBuf::from(word)),
        }
    }
    wanted
}

fn put(file: Option<&Path>, text: &str) {
    if let Some(file) = file {
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// Tables of ratios: those with a target first.
fn page(figures: &Map<String, Value>, svg: Option<&Path>) -> String {
    let mut page = String::from(
        "# Benchmark report\n\nMade by `scripts/bench`. Each ratio is Scalepoint's median by the other's, of the same run. What \
         is of fewer than ten measurements (column *n*) is an impression: whether it is met stands in brackets.\n",
    );
    if let Some(name) = svg.and_then(Path::file_name) {
        write!(page, "\n![latency, throughput and stall]({})\n", name.to_string_lossy()).unwrap();
    }
    for (title, promised) in [("With a target", true), ("Others", false)] {
        write!(page, "\n## {title}\n\n| what | ratio | target | met | Scalepoint | other | unit | n |\n")
            .unwrap();
        page.push_str("|---|---|---|---|---|---|---|---|\n");
        for (key, figure) in figures.iter().filter(|(_, figure)| figure["target"].is_object() == promised) {
            row(&mut page, key, figure);
        }
    }
    page
}

fn row(page: &mut String, key: &str, figure: &Value) {
    let number = |name: &str| figure[name].as_f64().unwrap_or(f64::NAN);
    let target = match (&figure["target"]["at_most"], &figure["target"]["at_least"]) {
        (Value::Number(most), _) => format!("≤ {most}"),
        (_, Value::Number(least)) => format!("≥ {least}"),
        _ => String::new(),
    };
    let few = figure["runs"].as_u64().unwrap_or_default() < ENOUGH;
    let met = match figure["met"].as_bool() {
        Some(true) if few => "(yes)",
        Some(false) if few => "(no)",
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    writeln!(
        page,
        "| {} (`{key}`) | {:.2} | {target} | {met} | {:.2} | {:.2} | {} | {} |",
        figure["what"].as_str().unwrap_or_default(),
        number("ratio"),
        number("ours"),
        number("theirs"),
        figure["unit"].as_str().unwrap_or_default(),
        figure["runs"],
    )
    .unwrap();
}
