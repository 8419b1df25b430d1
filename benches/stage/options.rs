//! Options of a benchmark: `--name value`, or `--name` alone. `cargo bench` adds a `--bench` of its own.

use std::str::FromStr;

/// The command line.
pub struct Options(Vec<String>);

impl Options {
    /// Reads it; refuses what is not in `known`.
    pub fn read(known: &[&str]) -> Options {
        let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        for word in words.iter().filter(|word| word.starts_with("--")) {
            assert!(known.contains(&word.as_str()), "unknown option {word}; there are {}", known.join(" "));
        }
        Options(words)
    }

    /// Whether a word is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    /// The value after a word.
    pub fn value<T: FromStr>(&self, name: &str) -> Option<T> {
        let at = self.0.iter().position(|word| word == name)?;
        let value = self.0.get(at + 1).and_then(|value| value.parse().ok());
        Some(value.unwrap_or_else(|| panic!("{name} needs a value")))
    }
}
