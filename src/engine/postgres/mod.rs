//! PostgreSQL, protocol 3.
//!
//! In reading order: [`message`] frames; [`greet`] and [`auth`] let a client in; [`log_in`] opens a backend;
//! [`tracker`] (with [`statements`], [`sql`] and [`lexer`]) watches the session; [`capture`] (with [`introspection`])
//! and [`restore`] move its [`state`]; [`stored`] finds names of settings in the catalogue; [`lost`] answers for a
//! transaction that is gone; [`query`] asks in the router's own name, [`interlude`] in the client's; [`replicating`] keeps a standby.

use bytes::{Bytes, BytesMut};

pub mod auth;
pub mod capture;
pub mod digest;
pub mod greet;
pub mod held;
pub mod interlude;
pub mod introspection;
pub mod lexer;
pub mod libraries;
pub mod log_in;
pub mod lost;
pub mod message;
pub mod query;
pub mod question;
mod replicating;
pub mod restore;
pub mod sql;
pub mod state;
pub mod statements;
pub mod stored;
pub mod tracker;

use crate::engine::{
    Access, Arrival, CancelKey, Engine, Farewell, Fate, Flush, Framing, Inquiry, LogEnd, Loss, Never,
    Obstacle, Replicating, RouterLogin, Tie, Tracker as _,
};

/// The engine.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Engine for Postgres {
    const SERVER_SPEAKS_FIRST: bool = false;
    const STOPS_WHEN_EMPTY: bool = false;
    // ALTER SYSTEM, ALTER DATABASE and ALTER ROLE are on disk.
    const VOLATILE_SETTINGS: bool = false;
    // Registered with IANA; PostgreSQL 17's direct TLS insists on it.
    const DIRECT_TLS: Option<&'static [u8]> = Some(b"postgresql");

    type Contract = ();
    type Vault = ();
    type Startup = greet::Startup;
    type Account = query::Account;
    type Greeting = greet::Greeting;
    type Tracker = tracker::Tracker;
    type LoggedIn = log_in::LoggedIn;
    type LogIn = log_in::LogIn;
    type State = state::State;
    type Cancel = query::Cancel;
    type Capture = capture::Capture;
    type Restore = restore::Restore;
    type Restored = restore::Restored;
    type Ahead = restore::Ahead;
    type Drain = query::Drain;
    type AccountQuery = query::AccountQuery;
    type AdminQuery = query::AdminQuery;
    type Entry = Never;
    type Lost = lost::LostTransaction;
    type Interlude = interlude::Interlude;

    fn greet(arrival: &Arrival<'_, Postgres>) -> greet::Greeting {
        greet::Greeting::new(arrival.secret)
    }

    fn greet_again(_: &greet::Startup, _: Bytes, secret: [u8; 32]) -> greet::Greeting {
        // Never asked for: the protocol knows no change of user.
        greet::Greeting::new(secret)
    }

    fn contract(_: &log_in::LoggedIn) {}

    fn log_in(startup: &greet::Startup) -> log_in::LogIn {
        log_in::LogIn::new(startup)
    }

    fn log_in_as_router(login: &RouterLogin) -> log_in::LogIn {
        log_in::LogIn::new(&greet::Startup::of(&login.user, &login.database))
    }

    fn welcome(
        startup: &greet::Startup,
        logged_in: &log_in::LoggedIn,
        key: CancelKey,
        out: &mut BytesMut,
    ) -> tracker::Tracker {
        message::put(out, b'R', |out| out.extend_from_slice(&[0; 4]));
        out.extend_from_slice(&logged_in.notices);
        for (name, value) in &logged_in.parameters {
            message::put_parameter_status(out, name, value);
        }
        message::put(out, b'K', |out| {
            out.extend_from_slice(&key.id.to_be_bytes());
            out.extend_from_slice(&key.secret[..startup.secret_length()]);
        });
        message::put_ready(out, b'I');
        tracker::Tracker::new(logged_in.parameters.clone(), startup.setting_names())
    }

    fn framing(_: &greet::Startup) -> Option<Box<dyn Framing>> {
        None
    }

    fn secret_length(startup: &greet::Startup) -> usize {
        startup.secret_length()
    }

    fn observable(_: &log_in::LoggedIn) -> Option<u32> {
        None
    }

    fn observation(_: &[u32]) -> String {
        String::new()
    }

    fn capture(inquiry: &Inquiry<'_, Postgres>) -> capture::Capture {
        capture::Capture::new(question::Question::of(inquiry), inquiry.nonce)
    }

    fn captured(tracker: &mut tracker::Tracker, state: &mut state::State) {
        tracker.complete(state);
        tracker.captured();
    }

    fn stored_texts(logged_in: &log_in::LoggedIn) -> Vec<String> {
        stored::queries(logged_in.major_version())
    }

    fn stored_names(text: &str) -> Vec<String> {
        stored::names(text)
    }

    fn setting_names(tracker: &tracker::Tracker) -> &[String] {
        &tracker.setting_names
    }

    fn restore(
        tracker: &tracker::Tracker,
        logged_in: &log_in::LoggedIn,
        state: &state::State,
        nonce: u64,
    ) -> restore::Restore {
        let context = restore::context(tracker.statements.current_context(), state, logged_in);
        // Of the unnamed statement the wire always knows; when the session was last looked at it may have been another.
        let state = state::State { unnamed: tracker.wire_state().unnamed, ..state.clone() };
        restore::Restore::new(state, context, nonce)
    }

    fn ahead(tracker: &tracker::Tracker, state: &state::State) -> Option<restore::Ahead> {
        Some(restore::Ahead::of(state, tracker.statements.current_context()))
    }

    fn rehearse(ahead: &restore::Ahead, logged_in: &log_in::LoggedIn, nonce: u64) -> restore::Restore {
        ahead.make(logged_in, nonce)
    }

    fn complete(
        tracker: &tracker::Tracker,
        logged_in: &log_in::LoggedIn,
        state: &state::State,
        nonce: u64,
    ) -> restore::Restore {
        let unnamed = tracker.wire_state().unnamed;
        restore::rest(state, unnamed, tracker.statements.current_context(), logged_in, nonce)
    }

    fn joined(ahead: restore::Restored, rest: restore::Restored) -> restore::Restored {
        ahead.and(rest)
    }

    fn reattach(
        tracker: &mut tracker::Tracker,
        logged_in: &log_in::LoggedIn,
        restored: restore::Restored,
        out: &mut BytesMut,
    ) {
        tracker.reattached();
        let mut now = logged_in.parameters.clone();
        for (name, value) in restored.parameters {
            match now.iter_mut().find(|(n, _)| *n == name) {
                Some((_, old)) => *old = value,
                None => now.push((name, value)),
            }
        }
        for (name, value) in now {
            if tracker.parameter(&name) != value.as_ref() {
                message::put_parameter_status(out, &name, &value);
                tracker.learn(&name, value);
            }
        }
        out.extend_from_slice(&restored.aside);
    }

    fn is_known_again(state: &state::State) -> bool {
        state.digest.is_some()
    }

    fn state_obstacle(state: &state::State) -> Option<Obstacle> {
        state.obstacle
    }

    fn library_obstacle(paths: &[String]) -> Option<Obstacle> {
        libraries::obstacle(paths)
    }

    fn is_visible(state: &state::State) -> bool {
        !state.locks.is_empty() || !state.channels.is_empty() || !state.sequences.is_empty()
    }

    fn tie(state: &state::State) -> Option<Tie> {
        state.tie()
    }

    fn drain(state: &state::State) -> Option<query::Drain> {
        (!state.channels.is_empty()).then(query::Drain::default)
    }

    fn weaken(state: &mut state::State) {
        // A default or a trigger may have drawn from a sequence: "not yet defined" is better than an old value.
        state.sequences.clear();
    }

    fn account_query(_: &log_in::LoggedIn, user: &str) -> query::AccountQuery {
        query::AccountQuery::new(user)
    }

    fn standing_query(_: &log_in::LoggedIn, user: &str) -> query::AccountQuery {
        query::AccountQuery::of_standing(user)
    }

    fn access(startup: &greet::Startup, account: Option<&query::Account>) -> Access {
        query::access(startup, account)
    }

    fn admin_query(sql: &str, parameters: &[&str]) -> query::AdminQuery {
        query::AdminQuery::with(sql, parameters)
    }

    fn flush() -> &'static Flush {
        &Flush { begin: &["CHECKPOINT"], left: None, changes: None }
    }

    fn server_obstacle() -> Option<(Obstacle, &'static str)> {
        None
    }

    fn volatile_settings(_: &log_in::LoggedIn) -> &'static str {
        ""
    }

    fn replicating(router: &log_in::LoggedIn) -> Option<&'static Replicating> {
        replicating::statements(router.major_version())
    }

    fn written(row: &[Option<String>]) -> Option<LogEnd> {
        replicating::written(row)
    }

    fn set_volatile(_: &str, _: &str) -> Option<String> {
        None
    }

    fn database_statements(name: &str) -> (String, String) {
        // The name is a plain identifier, so quoting is for reserved words.
        (
            format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = '{name}'"),
            format!("CREATE DATABASE \"{name}\""),
        )
    }

    fn transaction_query(logged_in: &log_in::LoggedIn) -> Option<String> {
        Some(query::transaction_of(logged_in.backend_id))
    }

    fn outcome_query(transaction: u64) -> Option<String> {
        Some(query::outcome_of(transaction))
    }

    fn outcome(answer: &str) -> Option<bool> {
        query::outcome(answer)
    }

    fn lost_transaction(tracker: &tracker::Tracker) -> lost::LostTransaction {
        let owed = match tracker.fate() {
            _ if tracker.is_skipping() => lost::Owed::Ready,
            Fate::StatementAborted if tracker.is_between_syncs() => lost::Owed::UntilSync,
            Fate::StatementAborted => lost::Owed::Answer,
            _ => lost::Owed::Nothing,
        };
        lost::LostTransaction::new(tracker.standing(), owed, tracker.statements.enders())
    }

    fn roll_back(tracker: &tracker::Tracker) -> interlude::Interlude {
        interlude::Interlude::roll_back(tracker.is_skipping())
    }

    fn repeat(tracker: &mut tracker::Tracker, requests: &Bytes) -> interlude::Interlude {
        tracker.repeated(requests);
        interlude::Interlude::repeat(requests)
    }

    fn cancel(logged_in: &log_in::LoggedIn, _: &RouterLogin) -> query::Cancel {
        query::Cancel::of(logged_in)
    }

    fn backend_id(logged_in: &log_in::LoggedIn) -> u32 {
        logged_in.backend_id
    }

    fn process_id(logged_in: &log_in::LoggedIn) -> Option<u32> {
        Some(logged_in.backend_id)
    }

    fn cancel_held(input: &mut BytesMut, out: &mut BytesMut) -> bool {
        held::cancel(input, out)
    }

    fn refuse_held(input: &mut BytesMut, out: &mut BytesMut) -> bool {
        held::refuse(input, out)
    }

    fn turn_away(_: &greet::Startup, why: &Farewell) -> Vec<u8> {
        farewell(why)
    }

    fn loss(bytes: &[u8]) -> Loss {
        // What is no whole error message are not last words: it was cut off in the middle of something else.
        let whole = message::frame_length(bytes).is_ok_and(|length| length.is_some_and(|l| l <= bytes.len()));
        let said = bytes.first().is_some_and(|kind| matches!(kind, b'E' | b'N'));
        let Some(body) = bytes.get(message::HEADER..).filter(|_| whole && said) else { return Loss::Server };
        match message::error_field(body, b'C') {
            // admin_shutdown: `pg_terminate_backend`, or the whole server stops.
            b"57P01" if message::is_fatal(body) => Loss::Unclear,
            b"57P01" | b"57P02" | b"57P03" => Loss::Server,
            _ => Loss::Session,
        }
    }

    fn goodbye() -> &'static [u8] {
        b"X\0\0\0\x04"
    }

    fn describe(startup: &greet::Startup) -> (&str, &str) {
        (startup.user(), startup.database())
    }
}

/// The last message of a connection.
fn farewell(why: &Farewell) -> Vec<u8> {
    let (code, text) = farewell_text(why);
    let mut out = BytesMut::new();
    message::put_error(&mut out, "FATAL", code, &text);
    out.to_vec()
}

/// Codes as the server would choose them; HikariCP and others evict a connection on any of these.
fn farewell_text(why: &Farewell) -> (&'static str, String) {
    let (code, text) = match why {
        Farewell::ForcedChange => ("57P01", "terminating connection due to serverless scale event timeout"),
        Farewell::StateLost(what) => {
            return (
                "57P01",
                format!("terminating connection: session state was lost with the server: {what}"),
            );
        }
        Farewell::CommitUnknown => ("08007", "connection lost during COMMIT: transaction outcome unknown"),
        Farewell::StatementUnknown => {
            ("40003", "connection lost while statement was running: outcome unknown")
        }
        Farewell::ShuttingDown => ("57P01", "terminating connection due to administrator command"),
        Farewell::NotAvailable => ("57P03", "the database system is not available at the moment"),
        Farewell::TooManySessions => ("53300", "sorry, too many clients already"),
        Farewell::UnknownCluster => (
            "08004",
            "no cluster of this name is served here: connect over TLS to a host name that begins with the cluster's name",
        ),
        Farewell::Violation(text) => ("08P01", *text),
        Farewell::TooSlow => ("57014", "canceling authentication due to timeout"),
    };
    (code, text.to_owned())
}
