//! What a benchmark found out, for the report: `--json FILE` has it written down.
//!
//! ```text
//! {"figures": {KEY: {"what", "ratio", "ours", "theirs", "unit", "runs", "target", "met"}},
//!  "curves":  {GROUP: [{"name", "points": [[x, y], …]}]}}
//! ```

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::options::Options;

/// What a ratio should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Nothing was promised.
    None,
    /// Smaller is better.
    AtMost(f64),
    /// Larger is better.
    AtLeast(f64),
}

/// One comparison; both sides are medians of the same run.
pub struct Figure<'a> {
    /// Stable: scripts look for it.
    pub key: String,
    /// In words.
    pub what: String,
    /// Scalepoint's.
    pub ours: f64,
    /// What it is compared with.
    pub theirs: f64,
    /// Of both.
    pub unit: &'a str,
    /// Over how many measurements each median is.
    pub runs: usize,
    /// What the ratio should be.
    pub target: Target,
}

/// Everything that one program found.
pub struct Figures {
    file: Option<PathBuf>,
    figures: Map<String, Value>,
    curves: Map<String, Value>,
}

impl Figures {
    /// Nothing yet; written to what `--json` names.
    pub fn new(options: &Options) -> Figures {
        Figures { file: options.value("--json"), figures: Map::new(), curves: Map::new() }
    }

    /// Adds a ratio.
    pub fn add(&mut self, figure: Figure<'_>) {
        let Figure { key, what, ours, theirs, unit, runs, target } = figure;
        let ratio = ours / theirs;
        let (target, met) = match target {
            Target::None => (Value::Null, Value::Null),
            Target::AtMost(most) => (json!({"at_most": most}), json!(ratio <= most)),
            Target::AtLeast(least) => (json!({"at_least": least}), json!(ratio >= least)),
        };
        let value = json!({
            "what": what, "ratio": ratio, "ours": ours, "theirs": theirs, "unit": unit, "runs": runs,
            "target": target, "met": met,
        });
        self.figures.insert(key, value);
    }

    /// Adds a line of a picture.
    pub fn curve(&mut self, group: &str, name: &str, points: &[(f64, f64)]) {
        let curves = self.curves.entry(group).or_insert_with(|| json!([]));
        if let Value::Array(curves) = curves {
            curves.push(json!({"name": name, "points": points}));
        }
    }

    /// Writes it all down, if that was asked for.
    pub fn write(&self) {
        if let Some(file) = &self.file {
            let all = json!({"figures": self.figures, "curves": self.curves});
            std::fs::write(file, format!("{all:#}\n"))
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}
