//! A session on a standby that is to be promoted: what can be made of it before, and what after ("Hot Standby" in the manual).

use bytes::Bytes;

use super::{LAST, Restore, context};
use crate::engine::postgres::log_in::LoggedIn;
use crate::engine::postgres::state::State;
use crate::engine::postgres::statements::ParseContext;

/// What is made ahead. Equal for a session that has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    state: State,
    context: ParseContext,
}

impl Ahead {
    /// All but what a standby refuses (`LISTEN`, sequences), what others would meet (advisory locks), and what is another with
    /// every request (the unnamed statement). `None`: the rest could not be made under the session's own time-outs.
    pub fn of(state: &State, context: &ParseContext) -> Option<Ahead> {
        let hindered = state.settings.iter().any(|setting| LAST.contains(&setting.name.as_ref()));
        if hindered && !(state.locks.is_empty() && state.channels.is_empty() && state.sequences.is_empty()) {
            return None;
        }
        let state = State {
            channels: Vec::new(),
            locks: Vec::new(),
            sequences: Vec::new(),
            unnamed: None,
            more: crate::engine::postgres::introspection::More::default(),
            ..state.clone()
        };
        Some(Ahead { state, context: context.clone() })
    }

    /// Makes it on a standby; what fails there may not fail later, so all must succeed.
    pub fn make(&self, logged_in: &LoggedIn, nonce: u64) -> Restore {
        Restore::new(self.state.clone(), context(&self.context, &self.state, logged_in), nonce).strictly()
    }
}

/// Makes what is missing, after the promotion.
pub fn rest(
    state: &State,
    unnamed: Option<(Bytes, ParseContext)>,
    current: &ParseContext,
    logged_in: &LoggedIn,
    nonce: u64,
) -> Restore {
    let context = context(current, state, logged_in);
    let rest = State {
        channels: state.channels.clone(),
        locks: state.locks.clone(),
        sequences: state.sequences.clone(),
        unnamed,
        ..State::default()
    };
    // What the server has to report (that it takes writes now) is not to come before a client's own answer.
    Restore::new(rest, context, nonce).in_any_case()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::postgres::state::{AdvisoryLock, LockKey, Setting};

    fn setting(name: &'static str, value: &'static str) -> Setting {
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        Setting { name: text(name), value: text(value), own: true }
    }

    fn lock() -> AdvisoryLock {
        AdvisoryLock { shared: false, key: LockKey::One(42) }
    }

    #[test]
    fn what_comes_later_makes_no_difference() {
        let context = ParseContext::default();
        let plain = State { settings: vec![setting("work_mem", "7MB")], ..State::default() };
        let busy = State {
            locks: vec![lock()],
            channels: vec![Bytes::from_static(b"news")],
            unnamed: Some((Bytes::from_static(b"\0SELECT 1\0\0\0"), ParseContext::default())),
            ..plain.clone()
        };
        assert!(Ahead::of(&plain, &context) == Ahead::of(&busy, &context));
        let other = State { settings: vec![setting("work_mem", "8MB")], ..plain.clone() };
        assert!(Ahead::of(&plain, &context) != Ahead::of(&other, &context));
        let role = State { role: Some(Bytes::from_static(b"another")), ..plain.clone() };
        assert!(Ahead::of(&plain, &context) != Ahead::of(&role, &context));
    }

    #[test]
    fn a_lock_is_not_taken_under_the_sessions_own_time_out() {
        let context = ParseContext::default();
        let hasty = State { settings: vec![setting("lock_timeout", "1")], ..State::default() };
        assert!(Ahead::of(&hasty, &context).is_some());
        assert!(Ahead::of(&State { locks: vec![lock()], ..hasty }, &context).is_none());
    }
}
