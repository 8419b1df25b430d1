//! A session on a standby that is to be promoted: what can be made of it before, and what after ("Hot Standby" in the manual).

use bytes::Bytes;

use super::{LAST, Restore, context};
use crate::engine::postgres::log_in::LoggedIn;
use crate::engine::postgres::state::{Setting, State};
use crate::engine::postgres::statements::ParseContext;

/// What is made ahead. Equal for a session that has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    state: State,
    context: ParseContext,
}

impl Ahead {
    /// All but what a standby refuses (`LISTEN`, sequences), what others would meet (advisory locks), what is another with
    /// every request (the unnamed statement), and what would be in the way of these.
    pub fn of(state: &State, context: &ParseContext) -> Ahead {
        let early = |setting: &&Setting| !(setting.own && is_last(setting));
        let state = State {
            settings: state.settings.iter().filter(early).cloned().collect(),
            channels: Vec::new(),
            locks: Vec::new(),
            sequences: Vec::new(),
            unnamed: None,
            digest: None,
            more: crate::engine::postgres::introspection::More::default(),
            ..state.clone()
        };
        Ahead { state, context: context.clone() }
    }

    /// Makes it on a standby; what fails there may not fail later, so all must succeed.
    pub fn make(&self, logged_in: &LoggedIn, nonce: u64) -> Restore {
        Restore::new(self.state.clone(), context(&self.context, &self.state, logged_in), nonce).strictly()
    }
}

fn is_last(setting: &Setting) -> bool {
    LAST.contains(&setting.name.as_ref())
}

/// Makes what is missing, after the promotion.
///
/// All statements are made anew: to a promoted server none is valid that was parsed before, so it parses each once more at its
/// next use, under the settings that the session has then (seen with 15: a date that was read as `DMY` is one as `MDY`).
/// What it needs for that is in its caches since it was made ahead.
pub fn rest(
    state: &State,
    unnamed: Option<(Bytes, ParseContext)>,
    current: &ParseContext,
    logged_in: &LoggedIn,
    nonce: u64,
) -> Restore {
    let context = context(current, state, logged_in);
    let rest = State {
        settings: state.settings.iter().filter(|setting| is_last(setting)).cloned().collect(),
        prepared: state.prepared.clone(),
        channels: state.channels.clone(),
        locks: state.locks.clone(),
        sequences: state.sequences.clone(),
        unnamed,
        ..State::default()
    };
    // What the server has to report (that it takes writes now) is not to come before a client's own answer.
    Restore::new(rest, context, nonce).completing()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::postgres::state::{AdvisoryLock, LockKey, Prepared};

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

    /// What the completion sends.
    fn completion(state: &State) -> String {
        let logged_in = LoggedIn::default();
        let mut out = bytes::BytesMut::new();
        let context = ParseContext::default();
        crate::engine::Dialogue::open(&mut rest(state, None, &context, &logged_in, 1), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_lock_is_not_taken_under_the_sessions_own_time_out() {
        let context = ParseContext::default();
        let calm =
            State { settings: vec![setting("work_mem", "7MB")], locks: vec![lock()], ..State::default() };
        let mut hasty = calm.clone();
        hasty.settings.push(setting("lock_timeout", "1"));
        assert!(Ahead::of(&calm, &context) == Ahead::of(&hasty, &context));
        let sent = completion(&hasty);
        assert!(sent.find("pg_try_advisory_lock").unwrap() < sent.find("lock_timeout").unwrap());
        assert!(!sent.contains("work_mem"));
    }

    #[test]
    fn statements_are_made_anew_after_a_promotion() {
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let statement = Prepared {
            name: text("kept"),
            sql: text("SELECT 7"),
            types: Vec::new(),
            by_sql: false,
            description: None,
            context: None,
            surroundings: None,
        };
        let sent = completion(&State { prepared: vec![statement], ..State::default() });
        assert!(sent.find("Skept").unwrap() < sent.find("kept\0SELECT 7").unwrap());
    }
}
