//! Watches the packets of one session go by and knows when it may be moved.
//!
//! Every command is answered by itself and in order, so the commands that are under way are a queue ([`Pending`]), and the
//! front one's answer is read packet by packet ([`answer`]). What a command's text says it does
//! ([`sql`](super::sql)) is believed when the server has said that it was done.
//!
//! ```text
//!   quiet ──a command──► running ──answered: no transaction──► quiet
//!                           ├─────answered: IN_TRANS─────────► in transaction (BEGIN alone: still quiet)
//!                           └─────ERR in a transaction───────► unsure: the next look at the session asks
//! ```

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::capability::{Product, bit};
use super::farewell;
use super::greet::Startup;
use super::lexer::Mode;
use super::log_in::LoggedIn;
use super::sql::identity::Edit;
use super::sql::{Effect, Traits};
use super::state::{Names, Wire};
use crate::engine::{
    Admission, ClientScan, Directory, Drift, Farewell, Fate, Intercepted, Loss, Obstacle, ServerScan,
};

mod answer;
mod attributes;
mod changed;
mod client;
mod commands;
mod context;
mod effects;
mod fate;
mod intercept;
mod looked;
mod numbers;
mod server;
mod statements;
mod texts;
mod virtually;

pub(crate) use client::command;

use answer::{AUTOCOMMIT, Answer, Form, Shape};
use context::Known;
use statements::{Preparing, Statements};

/// Commands up to this length are read whole; of longer ones only this much is looked at.
pub const INSPECTED: usize = 64 * 1024;
/// How many commands may be under way before the client must read answers.
const MAX_PENDING: usize = 4096;
/// How many names of a kind one session may contribute.
const MAX_NAMES: usize = 1024;
/// How many statements are remembered that told what they did.
const MAX_TOLD: usize = 16;
/// How much of a statement operators are shown.
const SHOWN: usize = 160;

/// A command that the server has not answered.
#[derive(Debug)]
struct Pending {
    shape: Shape,
    command: u8,
    traits: Traits,
    /// The sequence number of the next packet to the client.
    sequence: u8,
    /// The client's id of the statement that it is about.
    id: u32,
    /// What it does if it succeeds.
    effects: Vec<Effect>,
    preparing: Option<Box<Preparing>>,
}

impl Pending {
    /// What it does to the session stands in its text.
    fn is_told(&self) -> bool {
        effects::is_told(self.traits, &self.effects)
    }
}

/// What was found out about the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// None is open, or one that has done nothing and can be begun anew.
    Free,
    /// One is open.
    Open,
    /// The last answer was an error and did not say.
    Unsure,
}

/// What the router answers in the server's place after a move.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Echo {
    /// Rows of `SHOW WARNINGS`.
    warnings: Vec<[Bytes; 3]>,
    row_count: i64,
    /// `FOUND_ROWS()`, where the server has another.
    found_rows: Option<u64>,
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "what was seen; the states proper are enums")]
pub struct Tracker {
    wire: Wire,
    product: Product,
    capabilities: u64,
    form: Form,
    /// The connection id that the client knows.
    id: u32,
    pending: VecDeque<Pending>,
    answer: Answer,
    /// The definitions of a statement that is being prepared.
    definitions: BytesMut,
    /// The answered half of a `PREPARE`.
    prepared: Option<(u32, answer::Prepared)>,
    /// This much of the client's packet is still to come, and another one goes on with it.
    client_skip: usize,
    client_more: bool,
    /// What passes is the text of the statement that is being prepared.
    collecting: bool,
    /// How much of what passes next is not its text.
    collect_from: usize,
    /// The packet that another one goes on with is of the command at the back of the queue.
    splitting: bool,
    server_skip: usize,
    server_more: bool,
    statements: Statements,
    known: Known,
    /// The keys under which each of the wire's named statements was prepared.
    named_keys: Vec<[u64; 3]>,
    /// More user variables were named than are remembered.
    names_overflown: bool,
    standing: Standing,
    status: u16,
    drift: Drift,
    /// A look has found a transaction open and asked for nothing more: when it is over, the session is to be asked.
    look_again: bool,
    /// What `SHOW` would say, had the session not been moved or asked.
    echo: Option<Echo>,
    /// The server's `FOUND_ROWS()` is not what the last statement with rows left.
    found_rows_lost: bool,
    /// The command at the front was looked at and may pass, with these changes of what follows its first byte.
    passing: Option<Vec<Edit>>,
    /// The number and the state of the error that the last command was answered with.
    failure: Option<(u16, [u8; 5])>,
    /// The columns of a result that has connections' numbers in it.
    columns: Vec<numbers::Column>,
    /// What any statement had. One that has asked this server what it keeps of connections may name one as the server does.
    seen: Traits,
    forced: bool,
    /// The name of the `XA` transaction that is open.
    xa: Option<Bytes>,
    /// The last thing that the client was told is that its transaction was aborted.
    told: bool,
    shown: Vec<u8>,
}

/// What a backend that went away said last tells about the server.
pub fn loss(bytes: &[u8]) -> Loss {
    server::loss(bytes)
}

impl Tracker {
    /// A session that has just logged in; `id` is the connection id that the client knows.
    pub fn new(startup: &Startup, logged_in: &LoggedIn, id: u32) -> Tracker {
        let mut wire = Wire { collation: startup.collation, ..Wire::default() };
        wire.context.database =
            startup.database.as_ref().filter(|name| !name.is_empty()).map(|name| Bytes::from(name.clone()));
        let mut known = Known::default();
        wire.context.era = known.era();
        wire.context.names = Names::LogIn;
        let capabilities = startup.capabilities;
        Tracker {
            wire,
            product: logged_in.product(),
            capabilities,
            form: Form {
                no_eof: capabilities & bit::DEPRECATE_EOF != 0,
                progress: capabilities & bit::MARIADB_PROGRESS != 0,
            },
            id,
            pending: VecDeque::new(),
            answer: Answer::default(),
            definitions: BytesMut::new(),
            prepared: None,
            client_skip: 0,
            client_more: false,
            collecting: false,
            collect_from: 0,
            splitting: false,
            server_skip: 0,
            server_more: false,
            statements: Statements::default(),
            known,
            named_keys: Vec::new(),
            names_overflown: false,
            standing: Standing::Free,
            status: AUTOCOMMIT,
            drift: Drift::None,
            look_again: false,
            echo: None,
            found_rows_lost: false,
            passing: None,
            failure: None,
            columns: Vec::new(),
            seen: Traits::default(),
            forced: false,
            xa: None,
            told: false,
            shown: Vec::new(),
        }
    }

    /// What only the wire knows.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// How the session's texts are read.
    pub(crate) fn mode(&self) -> Mode {
        let ansi = self
            .wire
            .context
            .sql_mode
            .as_ref()
            .is_some_and(|mode| mode.windows(4).any(|word| word.eq_ignore_ascii_case(b"ANSI")));
        Mode {
            no_escapes: self.status & answer::NO_BACKSLASH != 0,
            ansi_quotes: match self.product {
                Product::MariaDb => self.status & answer::ANSI_QUOTES != 0,
                Product::MySql | Product::MySql56 => ansi,
            },
        }
    }

    fn has(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    /// Where the text begins in the body of a `COM_QUERY`.
    pub(crate) fn text_at(&self, body: &[u8]) -> usize {
        if self.has(bit::QUERY_ATTRIBUTES) { attributes::text_at(body) } else { 1 }
    }

    /// What stands between the command and the text of a `COM_QUERY` without attributes.
    pub(crate) fn put_attributes(&self, out: &mut BytesMut) {
        if self.has(bit::QUERY_ATTRIBUTES) {
            out.extend_from_slice(&[0, 1]);
        }
    }

    /// Nothing is under way.
    fn at_rest(&self) -> bool {
        self.pending.is_empty() && self.between_commands()
    }

    /// The client is not in the middle of a command.
    fn between_commands(&self) -> bool {
        self.client_skip == 0 && !self.client_more
    }

    fn is_mid_packet(&self) -> bool {
        self.server_skip > 0 || self.server_more
    }

    /// Cursors and data sent ahead are soon done with, and nothing can make them anew.
    fn is_holding(&self) -> bool {
        self.statements.any_holding(|live| live.cursor || live.long_data)
    }

    /// The client may end what it has begun.
    fn is_open(&self) -> bool {
        self.standing != Standing::Free || self.is_holding()
    }

    fn show(&mut self, text: &[u8]) {
        self.shown.clear();
        self.shown.extend_from_slice(&text[..text.len().min(SHOWN)]);
    }
}

impl crate::engine::Tracker for Tracker {
    fn client_bytes(&mut self, bytes: &mut BytesMut, admission: Admission) -> ClientScan {
        self.scan_client(bytes, admission)
    }

    fn server_bytes(&mut self, bytes: &mut BytesMut, names: &dyn Fn(u32) -> Option<u32>) -> ServerScan {
        self.scan_server(bytes, names)
    }

    fn intercept(
        &mut self,
        input: &mut BytesMut,
        directory: &dyn Directory,
        out: &mut BytesMut,
    ) -> Intercepted {
        self.look_at(input, directory, out)
    }

    fn obstacle(&self) -> Option<Obstacle> {
        match () {
            () if !self.at_rest() => Some(Obstacle::StatementInProgress),
            () if self.standing != Standing::Free => Some(Obstacle::OpenTransaction),
            () if self.statements.any_holding(|live| live.cursor) => Some(Obstacle::Cursor),
            () if self.statements.any_holding(|live| live.long_data) => Some(Obstacle::LongData),
            () => None,
        }
    }

    fn is_quiet(&self) -> bool {
        // One that is unsure has to be asked.
        self.at_rest() && !self.is_mid_packet() && self.standing != Standing::Open && !self.is_holding()
    }

    fn is_running(&self) -> bool {
        !self.pending.is_empty()
    }

    fn unanswered(&self) -> usize {
        self.pending.len()
    }

    fn is_answered(&self) -> bool {
        self.at_rest() && !self.is_mid_packet()
    }

    fn is_mid_answer(&self) -> bool {
        self.is_mid_packet()
    }

    fn drift(&self) -> Drift {
        let over = self.look_again && self.standing != Standing::Open;
        // Whether it was done, only its answer says.
        let on_its_way = self.pending.iter().any(Pending::is_told);
        if over || on_its_way || self.standing == Standing::Unsure { Drift::Possible } else { self.drift }
    }

    fn captured(&mut self) {
        self.drift = Drift::None;
    }

    fn shown(&self) -> &[u8] {
        &self.shown
    }

    fn fate(&self) -> Fate {
        self.fate_now()
    }

    fn reattached(&mut self) {
        self.forget_exchange();
        self.statements.forget_open();
        self.settle();
        // A number that the client has from the other server would now hit somebody else.
        self.passing = None;
        self.seen.remove(Traits::SERVER_NUMBERS);
        (self.forced, self.told) = (false, false);
        // What was told is repeated behind the restore, and still not looked at.
        let drift = if self.wire.told.is_empty() { Drift::None } else { Drift::Known };
        (self.drift, self.look_again) = (drift, false);
    }

    fn succeeds(&mut self, former: &Self) {
        self.statements.count_on(&former.statements);
    }

    fn rolled_back(&mut self) {
        // A file that the client was sending is not awaited any more.
        self.forget_exchange();
        self.settle();
        self.told = false;
        // Nobody will be able to go on with them.
        self.statements.forget_open();
        self.drift = Drift::Possible;
    }

    fn is_unlogged(&self) -> bool {
        self.seen.has(Traits::UNLOGGED)
    }

    fn abort_copy(&mut self) -> Option<&'static [u8]> {
        // The end of a file that is cut off would have it loaded. KILL QUERY fails the statement at the file's end.
        None
    }

    fn forcing(&mut self, forced: bool) {
        self.forced = forced;
    }

    fn farewell(&self, why: &Farewell) -> Vec<u8> {
        // Where nothing is asked it is the answer to what will be: drivers do not read a packet of number 0.
        let sequence = self.pending.front().map_or(1, |pending| pending.sequence);
        farewell::farewell(sequence, self.product, why)
    }
}

#[cfg(test)]
pub(crate) mod tests;
