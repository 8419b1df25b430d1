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
        fs::rename(fresh, &template).unwrap();
    }
    drop(lock);
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto", "--sparse=always"])
        .arg(&template)
        .arg(target)
        .status();
    assert!(copied.unwrap().success(), "{} cannot be copied", template.display());
    true
}
