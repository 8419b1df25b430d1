//! Data directories that are made once and copied: making one costs seconds of processor time, and a run needs a hundred.
//!
//! ```text
//! copy(key) ──► is there $SCALEPOINT_TEST_TEMPLATES/<key>? ── no ──► made whole beside it, renamed
//!                                  └─ yes ─► cp -a
//! ```
//!
//! `scripts/test` sets the variable to a folder that goes with the run. Without it nothing is copied, and every server
//! makes its own. `tests/drivers/template.py` is the same for the drivers' tests.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fills `target`, which must not exist; `make` makes the first of `key`. False, and nothing done, without templates.
///
/// Processes that want the same wait for the one that makes it.
pub(crate) fn copy(key: &str, target: &Path, make: impl FnOnce(&Path)) -> bool {
    let Some(folder) = std::env::var_os("SCALEPOINT_TEST_TEMPLATES").map(PathBuf::from) else { return false };
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let template = folder.join(format!("rust-{:016x}", hasher.finish()));
    let lock = File::create(template.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !template.exists() {
        let fresh = template.with_extension("new");
        // What a test left that was ended meanwhile.
        drop(fs::remove_dir_all(&fresh));
        make(&fresh);
        // Much of a log is zeros: a copy need not write them.
        let sparse = template.with_extension("sparse");
        drop(fs::remove_dir_all(&sparse));
        copy_tree("always", &fresh, &sparse);
        fs::remove_dir_all(&fresh).unwrap();
        fs::rename(sparse, &template).unwrap();
    }
    drop(lock);
    copy_tree("auto", &template, target);
    true
}

/// `sparse`: `always` looks for zeros, `auto` for holes.
fn copy_tree(sparse: &str, from: &Path, to: &Path) {
    let how = ["-a", "--reflink=auto", &format!("--sparse={sparse}")];
    let copied = Command::new("cp").args(how).args([from, to]).status();
    assert!(copied.unwrap().success(), "{} cannot be copied", from.display());
}
