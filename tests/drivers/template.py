"""Data directories that are made once and copied: making one costs seconds of processor time, and a run needs a hundred.

scripts/test sets SCALEPOINT_TEST_TEMPLATES to a folder that goes with the run. Without it nothing is copied, and every
server makes its own. tests/live/harness/template.rs is the same for the Rust tests.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess


def copy(key, target, make):
    """Fills `target`, which must not exist, unless there are no templates; `make(folder)` makes the first of `key`.

    Processes that want the same wait for the one that makes it.
    """
    folder = os.environ.get("SCALEPOINT_TEST_TEMPLATES")
    if not folder:
        return
    template = pathlib.Path(folder, f"drivers-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}")
    with template.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            fresh = template.with_suffix(".new")
            # What a test left that was ended meanwhile.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(fresh)
            make(fresh)
            # Much of a log is zeros: a copy need not write them.
            sparse = template.with_suffix(".sparse")
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(sparse)
            copy_tree("always", fresh, sparse)
            shutil.rmtree(fresh)
            sparse.rename(template)
    copy_tree("auto", template, target)


def copy_tree(sparse, source, target):
    """`sparse`: `always` looks for zeros, `auto` for holes."""
    subprocess.run(["cp", "-a", "--reflink=auto", f"--sparse={sparse}", source, target], check=True)
