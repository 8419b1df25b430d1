//! What a server and a copy that follows it are asked, on connections of the router's own.

/// A statement, and what a copy would lack if it yields a row.
pub type Objection = (&'static str, &'static str);

/// How a server is copied while it runs, and the copy follows it.
#[derive(Debug, Clone, Copy)]
pub struct Replicating {
    /// From here on its files may be copied one by one, until …
    pub begin_copy: &'static str,
    /// … this, on the same connection. Yields what each of `copy_files` is to contain.
    pub end_copy: &'static str,
    /// Names in the copy's folder; an empty or missing text makes no file.
    pub copy_files: &'static [&'static str],
    /// What a copy would lack.
    pub objections: &'static [Objection],
    /// What a copy that is made now would lack.
    pub objections_anew: &'static [Objection],
    /// Yields the processes that a server needs to say how far it is, and to send its log.
    pub needed_processes: &'static str,
    /// Waits for what writes, and keeps everybody from it for as long as the connection lasts.
    pub hold_still: &'static [&'static str],
    /// Yields what [`Engine::written`](super::Engine::written) reads.
    pub written: &'static str,
    /// Has all of the log written to disk.
    pub write_out: &'static str,
    /// On the copy: yields what [`Engine::repeated`](super::Engine::repeated) reads; nothing, if it does not follow.
    pub repeated: &'static str,
    /// On the copy: yields `t` once it takes writes.
    pub is_writable: &'static str,
    /// Yields whom the server follows: as whom it logs in there is in the third column; empty where that is nobody's concern.
    pub source: &'static str,
    /// Ends what is left of the time in which it followed.
    pub settle: &'static [&'static str],
}

/// Where a server's log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// Comparable between a server and its copy.
    pub end: u64,
    /// What the log is made of, if that is more than its end.
    pub history: String,
    /// Whether that much is on disk.
    pub on_disk: bool,
}
