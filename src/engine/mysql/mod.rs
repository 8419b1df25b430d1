//! MySQL and MariaDB, protocol 10.
//!
//! In reading order: [`packet`] says how bytes become packets, and [`compressed`] wraps them; [`capability`] says what
//! both sides can; [`hello`] has the packets of a handshake; [`greet`] lets a client in by [`auth`], as its [`startup`]
//! says; [`log_in`] opens a backend, and [`entry`] tries whether it would again; [`tracker`] watches the session; [`capture`] and [`restore`] move its [`state`];
//! [`lost`] answers for a transaction that is gone; [`query`] asks in the router's own name, [`interlude`] in the
//! client's, [`replicating`] keeps a copy, and [`farewell`] has the last words.

use bytes::{Bytes, BytesMut};

pub mod answer;
pub mod auth;
pub mod capability;
pub mod capture;
pub mod compressed;
pub mod entry;
pub mod farewell;
pub mod globals;
pub mod greet;
pub mod held;
pub mod hello;
pub mod interlude;
pub mod lexer;
pub mod literal;
pub mod log_in;
pub mod lost;
pub mod packet;
pub mod query;
mod replicating;
pub mod restore;
pub mod save;
pub mod sql;
pub mod startup;
pub mod state;
pub mod tracker;

use crate::engine::{
    Access, Arrival, CancelKey, Engine, Farewell, Flush, Framing, Inquiry, LogEnd, Loss, Never, Obstacle,
    Replicating, RouterLogin, Tie,
};

/// The engine.
#[derive(Debug, Clone, Copy)]
pub struct Mysql;

impl Engine for Mysql {
    const SERVER_SPEAKS_FIRST: bool = true;
    // Its shutdown sleeps two seconds if a connection is left.
    const STOPS_WHEN_EMPTY: bool = true;
    const VOLATILE_SETTINGS: bool = true;
    const DIRECT_TLS: Option<&'static [u8]> = None;

    type Contract = capability::Contract;
    type Vault = greet::Vault;
    type Startup = greet::Startup;
    type Account = greet::Account;
    type Greeting = greet::Greeting;
    type Tracker = tracker::Tracker;
    type LoggedIn = log_in::LoggedIn;
    type LogIn = log_in::LogIn;
    type State = state::State;
    type Cancel = query::Cancel;
    type Capture = capture::Capture;
    type Restore = restore::Restore;
    type Restored = restore::Restored;
    type Ahead = Never;
    type Drain = query::Drain;
    type AccountQuery = query::AccountQuery;
    type AdminQuery = query::AdminQuery;
    type Entry = entry::Entry;
    type Lost = lost::LostTransaction;
    type Interlude = interlude::Interlude;

    fn greet(arrival: &Arrival<'_, Mysql>) -> greet::Greeting {
        greet::Greeting::new(arrival)
    }

    fn greet_again(startup: &greet::Startup, request: Bytes, secret: [u8; 32]) -> greet::Greeting {
        greet::Greeting::again(startup, request, secret)
    }

    fn contract(logged_in: &log_in::LoggedIn) -> capability::Contract {
        logged_in.contract()
    }

    fn log_in(startup: &greet::Startup) -> log_in::LogIn {
        log_in::LogIn::new(startup)
    }

    fn log_in_again(startup: &greet::Startup, state: &state::State) -> log_in::LogIn {
        log_in::LogIn::again(startup, state.captured)
    }

    fn log_in_as_router(login: &RouterLogin) -> log_in::LogIn {
        log_in::LogIn::of_router(login)
    }

    fn welcome(
        startup: &greet::Startup,
        logged_in: &log_in::LoggedIn,
        key: CancelKey,
        out: &mut BytesMut,
    ) -> tracker::Tracker {
        startup.put_welcome(logged_in, out);
        tracker::Tracker::new(startup, logged_in, key.id)
    }

    fn framing(startup: &greet::Startup) -> Option<Box<dyn Framing>> {
        let algorithm = startup.compression?;
        Some(Box::new(compressed::Compressed::new(algorithm, startup.takes_cut_packets())))
    }

    fn secret_length(_: &greet::Startup) -> usize {
        // A statement is cancelled by KILL QUERY on a connection that has logged in.
        0
    }

    fn observable(logged_in: &log_in::LoggedIn) -> Option<u32> {
        capture::observable(logged_in)
    }

    fn observation(connection_ids: &[u32]) -> String {
        capture::observation(connection_ids)
    }

    fn capture(inquiry: &Inquiry<'_, Mysql>) -> capture::Capture {
        capture::Capture::new(inquiry)
    }

    fn captured(tracker: &mut tracker::Tracker, state: &mut state::State) {
        tracker.complete(state);
    }

    fn stored_texts(_: &log_in::LoggedIn) -> Vec<String> {
        Vec::new()
    }

    fn stored_names(_: &str) -> Vec<String> {
        Vec::new()
    }

    fn setting_names(_: &tracker::Tracker) -> &[String] {
        &[]
    }

    fn restore(
        tracker: &tracker::Tracker,
        logged_in: &log_in::LoggedIn,
        state: &state::State,
        _nonce: u64,
    ) -> restore::Restore {
        // The wire knows of those, too, that were prepared since.
        let statements = tracker.wire().statements.clone();
        restore::Restore::new(tracker.wire(), logged_in, &state::State { statements, ..state.clone() })
    }

    fn rehearse(ahead: &Never, _: &log_in::LoggedIn, _: u64) -> restore::Restore {
        match *ahead {}
    }

    fn reattach(
        tracker: &mut tracker::Tracker,
        logged_in: &log_in::LoggedIn,
        restored: restore::Restored,
        _out: &mut BytesMut,
    ) {
        tracker.restored(logged_in, restored);
    }

    fn state_obstacle(state: &state::State) -> Option<Obstacle> {
        state.obstacle
    }

    fn library_obstacle(_: &[String]) -> Option<Obstacle> {
        None
    }

    fn is_visible(_: &state::State) -> bool {
        // What others can see (locks) is not carried.
        false
    }

    fn tie(_: &state::State) -> Option<Tie> {
        None
    }

    fn drain(_: &state::State) -> Option<query::Drain> {
        None
    }

    fn weaken(state: &mut state::State) {
        state.weaken();
    }

    fn account_query(router: &log_in::LoggedIn, user: &str) -> query::AccountQuery {
        query::AccountQuery::new(router.product(), user)
    }

    fn access(startup: &greet::Startup, account: Option<&greet::Account>) -> Access {
        match account.map_or(0, |account| account.mark) {
            mark if mark == startup.mark => Access::Unchanged,
            mark => Access::Changed(mark),
        }
    }

    fn objection(startup: &greet::Startup, account: Option<&greet::Account>) -> Option<String> {
        account?.objection(startup.address, &startup.proof).map(str::to_owned)
    }

    fn entry(logged_in: &log_in::LoggedIn, state: &state::State) -> Option<entry::Entry> {
        entry::Entry::new(logged_in, state)
    }

    fn admin_query(sql: &str, parameters: &[&str]) -> query::AdminQuery {
        query::AdminQuery::with(sql, parameters)
    }

    fn flush() -> &'static Flush {
        &globals::FLUSH
    }

    fn server_obstacle() -> Option<(Obstacle, &'static str)> {
        Some((Obstacle::MemoryTable, globals::MEMORY_TABLES))
    }

    fn volatile_settings(router: &log_in::LoggedIn) -> &'static str {
        globals::query(router.product())
    }

    fn set_volatile(name: &str, value: &str) -> Option<String> {
        globals::set(name, value)
    }

    fn database_statements(name: &str) -> (String, String) {
        // The name is a plain identifier, so quoting is for reserved words.
        (
            format!("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = '{name}'"),
            format!("CREATE DATABASE `{name}`"),
        )
    }

    fn lost_transaction(tracker: &tracker::Tracker) -> lost::LostTransaction {
        lost::LostTransaction::new(tracker)
    }

    fn roll_back(tracker: &tracker::Tracker) -> interlude::Interlude {
        interlude::Interlude::roll_back(tracker)
    }

    fn repeat(tracker: &mut tracker::Tracker, requests: &Bytes) -> interlude::Interlude {
        interlude::Interlude::repeat(tracker, requests)
    }

    fn replicating(router: &log_in::LoggedIn) -> Option<&'static Replicating> {
        replicating::statements(router)
    }

    fn written(row: &[Option<String>]) -> Option<LogEnd> {
        replicating::written(row)
    }

    fn repeated(row: &[Option<String>], history: &str) -> Option<u64> {
        replicating::repeated(row, history)
    }

    fn follow(router: &log_in::LoggedIn, port: u16, since: Option<&str>, login: &RouterLogin) -> Vec<String> {
        replicating::follow(router.product(), port, since, login)
    }

    fn clone_to(folder: &str) -> String {
        replicating::clone_to(folder)
    }

    fn cancel(logged_in: &log_in::LoggedIn, router: &RouterLogin) -> query::Cancel {
        query::Cancel::of(logged_in, router)
    }

    fn backend_id(logged_in: &log_in::LoggedIn) -> u32 {
        logged_in.connection_id
    }

    fn process_id(_: &log_in::LoggedIn) -> Option<u32> {
        // A connection is a thread.
        None
    }

    fn cancel_held(_: &mut BytesMut, _: &mut BytesMut) -> bool {
        // There is no cancel request but KILL QUERY, and that reaches the server.
        false
    }

    fn refuse_held(input: &mut BytesMut, out: &mut BytesMut) -> bool {
        held::refuse(input, out)
    }

    fn turn_away(startup: &greet::Startup, why: &Farewell) -> Vec<u8> {
        startup.turn_away(why)
    }

    fn loss(bytes: &[u8]) -> Loss {
        tracker::loss(bytes)
    }

    fn goodbye() -> &'static [u8] {
        // COM_QUIT.
        &[1, 0, 0, 0, 1]
    }

    fn describe(startup: &greet::Startup) -> (&str, &str) {
        startup.describe()
    }
}
