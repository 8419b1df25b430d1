//! Which libraries in a backend's memory may keep session state that nothing can read back.

use crate::engine::Obstacle;

/// Libraries that hold state of the session: procedural languages with per-session globals, named remote connections,
/// session variables.
const STATEFUL: [&str; 12] = [
    "plperl",
    "plpython2",
    "plpython3",
    "pltcl",
    "plv8",
    "dblink",
    "orafce",
    "pg_variables",
    "set_user",
    "sepgsql",
    "age",
    "plr",
];

/// Judges by the file names of the libraries that a backend has loaded.
pub fn obstacle(paths: &[String]) -> Option<Obstacle> {
    let stateful = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let name = name.split(".so").next().unwrap_or(name);
        STATEFUL.iter().any(|library| name == *library || name.starts_with(&format!("{library}-")))
    };
    paths.iter().any(stateful).then_some(Obstacle::LoadedLibrary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stateful_libraries_are_told_from_harmless_ones() {
        let of = |path: &str| obstacle(&[path.to_owned()]);
        assert_eq!(of("/usr/lib/postgresql/15/lib/plperl.so"), Some(Obstacle::LoadedLibrary));
        assert_eq!(of("/usr/lib/postgresql/15/lib/dblink.so (deleted)"), Some(Obstacle::LoadedLibrary));
        assert_eq!(of("/usr/lib/postgresql/15/lib/plpgsql.so"), None);
        assert_eq!(of("/usr/lib/x86_64-linux-gnu/libpackage.so.1"), None);
    }
}
