//! What is known of a session before it is asked what it is made of.

use bytes::Bytes;

use super::Postgres;
use super::digest;
use super::introspection::More;
use super::state::{Prepared, State};
use crate::engine::{Drift, Inquiry, Tracker as _};

/// See the module.
pub struct Question {
    /// Who logged in.
    pub login_user: Bytes,
    /// Whether that user is a superuser.
    pub superuser: bool,
    /// `standard_conforming_strings` is on.
    pub standard_strings: bool,
    /// Major version of the server.
    pub major: u32,
    /// Candidate names of custom settings, and names of ordinary ones (without a dot) that a log in may bring.
    pub names: Vec<String>,
    /// What the session had when it was captured last.
    pub more: More,
    /// What the tracker knows and the server does not: unnamed statement, libraries, obstacles.
    pub from_wire: State,
    /// Statements that were captured before and are the same still.
    pub described: Vec<Prepared>,
    /// The client has prepared statements since its last `Sync`, and nothing else.
    pub begun: bool,
    /// By the answer to this the session is to be known again the next time.
    pub again: Option<String>,
    /// What was captured before, if the brief question may do.
    pub last: Option<State>,
    /// The backend's process id.
    pub process: u32,
}

impl Question {
    /// For a look at a session.
    pub fn of(inquiry: &Inquiry<'_, Postgres>) -> Question {
        let Inquiry { startup, logged_in, tracker, last, names, .. } = inquiry;
        let mut all = tracker.setting_names.clone();
        all.extend(names.iter().filter(|name| !tracker.setting_names.contains(name)).cloned());
        let described = last.prepared.iter().filter(|p| tracker.statements.is_settled(&p.name));
        let (process, major) = (logged_in.backend_id, logged_in.major_version());
        let benign = tracker.drift() <= Drift::Benign;
        Question {
            login_user: Bytes::copy_from_slice(startup.user().as_bytes()),
            superuser: logged_in.parameter("is_superuser") == b"on",
            standard_strings: tracker.parameter("standard_conforming_strings") != b"off",
            major,
            names: all,
            more: last.more,
            from_wire: tracker.wire_state(),
            described: described.cloned().collect(),
            begun: tracker.is_between_syncs(),
            again: if inquiry.again { digest::question(major) } else { None },
            last: (benign && may_be_known(last, process)).then(|| (*last).clone()),
            process,
        }
    }

    /// The question is to be asked in a transaction of a kind of its own: one of the session's usual kind might wait,
    /// whether the session, its role or the configuration has chosen it.
    pub fn is_shielded(&self) -> bool {
        self.last.as_ref().is_none_or(|last| last.digest.is_none_or(|digest| !digest.is_prompt()))
    }

    /// What the session is made of, as far as it is known before the answer.
    pub fn to_begin_with(&self) -> State {
        let State { unnamed, loads, obstacle, .. } = self.from_wire.clone();
        match &self.last {
            // Sequences are asked for in any case.
            Some(last) => {
                State { unnamed, loads, obstacle, sequences: Vec::new(), digest: None, ..last.clone() }
            }
            None => self.from_wire.clone(),
        }
    }
}

/// What stands in the way of a session, or is about to, is to be looked at in full.
fn may_be_known(last: &State, process: u32) -> bool {
    let same = last.digest.is_some_and(|digest| digest.is_of(process));
    same && last.obstacle.is_none() && !last.more.temporary
}
