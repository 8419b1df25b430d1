//! Values: sizes, numbers in a range, names from a list, addresses, paths.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml_edit::Item;

use super::read::Wrong;

/// The unit names of [`parse_size`], in bytes.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads "2GiB", "512 MiB", "64MB" or "1.5GiB" as bytes; units regardless of case.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let scale =
        if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1 };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let bytes = number.parse::<f64>().ok()? * scale as f64;
    // 2^53: up to there a float holds every whole number of bytes.
    (bytes.is_finite() && (0.0..9e15).contains(&bytes)).then_some(bytes as u64)
}

/// The inverse of [`parse_size`] for people: the largest binary unit that divides it, else bytes.
pub fn format_size(bytes: u64) -> String {
    let unit = UNITS[..4].iter().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale));
    match unit {
        Some((name, scale)) => format!("{}{name}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

pub(super) fn text(item: &Item) -> Result<String, Wrong> {
    item.as_str().map(str::to_owned).ok_or_else(|| wrong_type(item, "a string", "put it in \"quotes\""))
}

pub(super) fn boolean(item: &Item) -> Result<bool, Wrong> {
    item.as_bool().ok_or_else(|| wrong_type(item, "true or false", "write true or false, without quotes"))
}

/// A whole number in a range; `unit` is for the message ("seconds").
pub(super) fn number(
    range: RangeInclusive<i64>,
    unit: &'static str,
) -> impl FnOnce(&Item) -> Result<i64, Wrong> {
    move |item| {
        let value = item
            .as_integer()
            .ok_or_else(|| wrong_type(item, "a whole number", "write a number without quotes"))?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (low, high) = (range.start(), range.end());
        Err(Wrong::new(format!("{value} is out of range"), format!("{low} to {high} {unit}")))
    }
}

/// A size in a range, bytes.
pub(super) fn size(range: RangeInclusive<u64>) -> impl FnOnce(&Item) -> Result<u64, Wrong> {
    move |item| {
        let bytes = match (item.as_str(), item.as_integer()) {
            (Some(text), _) => parse_size(text),
            (_, Some(bytes)) => u64::try_from(bytes).ok(),
            _ => return Err(wrong_type(item, "a size", "write \"2GiB\", \"512MiB\" or a number of bytes")),
        };
        let shown = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
        let shown = shown.trim();
        let bytes = bytes.ok_or_else(|| {
            Wrong::new(
                format!("`{shown}` is not a size"),
                "write \"2GiB\", \"512MiB\", \"64MB\" or a number of bytes",
            )
        })?;
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        let (low, high) = (format_size(*range.start()), format_size(*range.end()));
        Err(Wrong::new(format!("{shown} is out of range"), format!("{low} to {high}")))
    }
}

/// One of a list of names.
pub(super) fn one_of<T: Copy>(names: &'static [(&'static str, T)]) -> impl FnOnce(&Item) -> Result<T, Wrong> {
    move |item| {
        let given = text(item)?;
        if let Some((_, value)) = names.iter().find(|(name, _)| *name == given) {
            return Ok(*value);
        }
        let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let hint = match nearest(&given, &known) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("one of \"{}\"", known.join("\", \"")),
        };
        Err(Wrong::new(format!("`{given}` is not known"), hint))
    }
}

/// An address with its port; names are not looked up, so that a start never waits for DNS.
pub(super) fn address(item: &Item) -> Result<SocketAddr, Wrong> {
    let given = text(item)?;
    given.parse().map_err(|_| {
        Wrong::new(
            format!("`{given}` is not an address"),
            "write an IP address and a port: \"127.0.0.1:5432\", \"0.0.0.0:5432\" or \"[::1]:5432\"",
        )
    })
}

/// A path; a relative one is relative to `base`.
pub(super) fn path(base: &Path) -> impl FnOnce(&Item) -> Result<PathBuf, Wrong> + '_ {
    move |item| {
        let given = text(item)?;
        if given.is_empty() || given.contains('\0') {
            return Err(Wrong::new("is not a path", "write the path of a file or folder"));
        }
        Ok(base.join(given))
    }
}

/// A path of a file that must be there.
pub(super) fn file(base: &Path) -> impl FnOnce(&Item) -> Result<PathBuf, Wrong> + '_ {
    move |item| {
        let path = path(base)(item)?;
        if path.is_file() {
            return Ok(path);
        }
        Err(Wrong::new(
            format!("there is no file {}", path.display()),
            "relative paths are relative to the folder of the configuration",
        ))
    }
}

fn wrong_type(item: &Item, wanted: &str, hint: &str) -> Wrong {
    Wrong::new(format!("must be {wanted}, not {}", article(item.type_name())), hint)
}

fn article(name: &str) -> String {
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}

/// The known word that a typo most likely meant.
pub(super) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let (distance, word) = known
        .iter()
        .map(|word| (edits(&given, &word.to_ascii_lowercase()), *word))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= (given.chars().count() / 3).max(1)).then_some(word)
}

/// Edit distance (insert, delete, replace, swap of neighbours).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("2GiB", Some(2 << 30)),
            ("512 MiB", Some(512 << 20)),
            ("64MB", Some(64_000_000)),
            ("64mb", Some(64_000_000)),
            ("1.5KiB", Some(1536)),
            ("123", Some(123)),
            ("0", Some(0)),
            ("", None),
            ("GiB", None),
            ("2 XB", None),
            ("-2GiB", None),
            ("1.2.3MiB", None),
            ("99999999999TiB", None),
            ("9e9", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for text in ["2GiB", "512MiB", "3KiB", "1TiB", "1000B", "0B"] {
            assert_eq!(parse_size(text).map(format_size).as_deref(), Some(text));
        }
    }

    #[test]
    fn typos() {
        let known = ["listen", "min_capacity", "max_capacity", "engine"];
        let cases = [
            ("lsiten", Some("listen")),
            ("min-capacity", Some("min_capacity")),
            ("MaxCapacity", Some("max_capacity")),
            ("enginge", Some("engine")),
            ("colour", None),
            ("", None),
        ];
        for (given, meant) in cases {
            assert_eq!(nearest(given, &known), meant, "{given:?}");
        }
    }
}
