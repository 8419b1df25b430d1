//! What a statement's text tells about the session, before the server has run it.
//!
//! Everything here is a *hint*: it decides when to look at a session again and what to ask for. What a session is made of
//! is the server's to say (`capture`), wherever it can be asked.

use bytes::Bytes;

use super::lexer::{self, Mode, Token, Tokens};

mod detail;
pub mod diagnostics;
mod functions;
pub mod identity;
pub mod kill;
pub mod special;
mod told;
mod unlogged;
mod verb;

use verb::Verb;

/// Findings that do not exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traits(u32);

impl Traits {
    /// It may change what the session is made of.
    pub const SUSPECT: Traits = Traits(1);
    /// It may end a transaction with a commit.
    pub const COMMITS: Traits = Traits(1 << 1);
    /// It ends a transaction; what comes behind it commits by itself.
    pub const ENDS: Traits = Traits(1 << 2);
    /// It may open a transaction, even if it fails in the end.
    pub const BEGINS: Traits = Traits(1 << 3);
    /// It is not certain to be without effect on data.
    pub const WRITES: Traits = Traits(1 << 4);
    /// It may run a routine, which can do nearly everything.
    pub const CALLS: Traits = Traits(1 << 5);
    /// The server may ask the client for a file.
    pub const LOADS: Traits = Traits(1 << 6);
    /// More than one statement.
    pub const SEVERAL: Traits = Traits(1 << 7);
    /// A transaction that was begun and has done nothing still has done nothing, and what was said of the next one holds.
    pub const KEEPS: Traits = Traits(1 << 8);
    /// It asks for the value that a sequence gave last.
    pub const ASKS_SEQUENCE: Traits = Traits(1 << 9);
    /// It draws a value from a sequence.
    pub const DRAWS_SEQUENCE: Traits = Traits(1 << 10);
    /// Both of them.
    pub const SEQUENCE: Traits = Traits(Self::ASKS_SEQUENCE.0 | Self::DRAWS_SEQUENCE.0);
    /// Perhaps one of the texts that the router answers.
    pub const SPECIAL: Traits = Traits(1 << 11);
    /// It asks for the connection's own number, or prepares what does.
    pub const OWN_NUMBER: Traits = Traits(1 << 12);
    /// It reads what the server keeps of connections, by its own numbers.
    pub const SERVER_NUMBERS: Traits = Traits(1 << 13);
    /// `KILL`
    pub const KILLS: Traits = Traits(1 << 14);
    /// It prepares a text that must not run later.
    pub const PREPARES_REFUSED: Traits = Traits(1 << 15);
    /// `GET DIAGNOSTICS`
    pub const ASKS_DIAGNOSTICS: Traits = Traits(1 << 16);
    /// `FOUND_ROWS()`
    pub const ASKS_FOUND_ROWS: Traits = Traits(1 << 17);
    /// What is written may not be in the server's log from here on.
    pub const UNLOGGED: Traits = Traits(1 << 18);
    /// What is certain of a text that was not read.
    pub const ANYTHING: Traits =
        Traits(Self::SUSPECT.0 | Self::COMMITS.0 | Self::BEGINS.0 | Self::WRITES.0 | Self::CALLS.0);

    /// All of `other` was found.
    pub fn has(self, other: Traits) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds findings.
    pub fn add(&mut self, other: Traits) {
        self.0 |= other.0;
    }

    /// Takes findings back.
    pub fn remove(&mut self, other: Traits) {
        self.0 &= !other.0;
    }
}

impl std::ops::BitOr for Traits {
    type Output = Traits;

    fn bitor(self, other: Traits) -> Traits {
        Traits(self.0 | other.0)
    }
}

/// What a prepared statement's meaning hangs on, apart from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `sql_mode`
    SqlMode,
    /// `character_set_client`
    CharacterSet,
    /// `collation_connection`
    Collation,
}

/// What a session holds that cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// LOCK TABLES, FLUSH TABLES … WITH READ LOCK.
    Tables,
    /// GET_LOCK.
    Named,
    /// HANDLER.
    Handler,
    /// BACKUP STAGE, BACKUP LOCK, LOCK INSTANCE FOR BACKUP.
    Backup,
}

/// What a statement does to the session if it succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Another current database.
    Use(Bytes),
    /// `DROP DATABASE`
    DropDatabase(Bytes),
    /// A setting of the context has this value; `None`: one that the text does not tell.
    Set(Field, Option<Bytes>),
    /// `SET NAMES`: the character set, and the collation if it was said.
    Names(Bytes, Option<Bytes>),
    /// `PREPARE`; `None`: the text is in a variable.
    Prepare(Bytes, Option<Bytes>),
    /// `DEALLOCATE PREPARE`
    Deallocate(Bytes),
    /// `EXECUTE` of such a statement.
    Run(Bytes),
    /// A user variable is named.
    Variable(Bytes),
    /// `CREATE TEMPORARY TABLE`
    MakeTemporary(Bytes),
    /// Any `CREATE TABLE`.
    CreateTable,
    /// `DROP TABLE`
    Drop(Bytes),
    /// `RENAME TABLE`
    Rename(Bytes, Bytes),
    /// `SET TRANSACTION`
    Characteristic(Bytes),
    /// `BEGIN`
    Begin(Bytes),
    /// `XA START` of this name, as written.
    BeginXa(Bytes),
    /// The server may know an `XA` transaction no longer, or from now on whoever comes.
    EndXa,
    /// Something is held from now on.
    Hold(Hold),
    /// It is given up.
    GiveUp(Hold),
    /// `FLUSH STATUS`: the server's counters begin anew.
    ForgetCounts,
    /// This text is all that the statement does to the session: repeated in another one that is the same, it makes the
    /// same of it.
    Tells(Bytes),
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Findings.
    pub traits: Traits,
    /// What it does if it succeeds. Empty for ordinary statements, and then not allocated.
    pub effects: Vec<Effect>,
}

/// The word in lower case, if it is short enough to mean anything.
fn lower<'b>(word: &[u8], buffer: &'b mut [u8; 24]) -> &'b [u8] {
    let Some(front) = buffer.get_mut(..word.len()) else { return &[] };
    front.copy_from_slice(word);
    front.make_ascii_lowercase();
    front
}

/// Reads a text.
pub fn scan(text: &[u8], mode: Mode) -> Scan {
    let mut scan = Scan::default();
    let mut tokens = Tokens::new(text, mode);
    let mut statements = 0;
    let mut kept = Traits::KEEPS;
    while let Some(first) = tokens.next() {
        if first == Token::End {
            continue;
        }
        statements += 1;
        let before = std::mem::take(&mut scan.traits);
        if statement(first, &mut tokens, text, &mut scan) == Stop::Here {
            scan.traits.add(Traits::SEVERAL);
        }
        if !scan.traits.has(Traits::KEEPS) {
            kept = Traits::default();
        }
        scan.traits.add(before);
    }
    scan.traits.remove(Traits::KEEPS);
    scan.traits.add(kept);
    if statements > 1 {
        scan.traits.add(Traits::SEVERAL | Traits::BEGINS);
        scan.traits.remove(Traits::KEEPS);
    }
    scan
}

/// Whether the text can be read on.
#[derive(PartialEq, Eq)]
enum Stop {
    /// The next statement follows.
    No,
    /// What follows is the body of a routine.
    Here,
}

fn statement<'a>(first: Token<'a>, tokens: &mut Tokens<'a>, text: &'a [u8], scan: &mut Scan) -> Stop {
    let start = tokens.start();
    let verb = match first {
        Token::Word(word) => Verb::of(word),
        // A bracket before SELECT.
        Token::Symbol(b'(') => Verb::Rows(Traits::default()),
        _ => Verb::Detailed,
    };
    let mut expressions = Expressions { loads: first.is("load"), ..Expressions::default() };
    match verb {
        Verb::Rows(traits) => {
            scan.traits.add(traits);
            expressions.take(first, scan);
            for token in tokens.by_ref().take_while(|token| *token != Token::End) {
                expressions.take(token, scan);
            }
            Stop::No
        }
        Verb::Detailed => {
            let mut all = vec![first];
            expressions.take(first, scan);
            for token in tokens.by_ref().take_while(|token| *token != Token::End) {
                expressions.take(token, scan);
                all.push(token);
            }
            let whole = text[start..tokens.end()].trim_ascii_end();
            let whole = whole.strip_suffix(b";").unwrap_or(whole);
            let stop = detail::detail(&all, whole, tokens.mode(), scan);
            if unlogged::is_unlogged(first, &text[start..]) {
                scan.traits.add(Traits::UNLOGGED);
            }
            if stop == Stop::Here {
                // Nobody knows where the body ends.
                for _ in tokens.by_ref() {}
            }
            stop
        }
    }
}

/// What may stand in any statement: calls, variables, `INTO`.
#[derive(Default)]
struct Expressions<'a> {
    /// The last four tokens, oldest first.
    last: [Option<Token<'a>>; 4],
    /// Variables of a list behind `INTO` are being read.
    targets: bool,
    /// Any variable may be given a value (`LOAD DATA … (@a)`).
    loads: bool,
}

impl<'a> Expressions<'a> {
    fn take(&mut self, token: Token<'a>, scan: &mut Scan) {
        match token {
            Token::Word(word) => Self::word(word, scan),
            Token::Symbol(b'(') => self.call(scan),
            Token::Symbol(b'.') => self.qualify(scan),
            Token::Quoted(name) if identity::is_of_server(name) => scan.traits.add(Traits::SERVER_NUMBERS),
            Token::Variable(name) => {
                self.targets = self.targets && self.last[3] == Some(Token::Symbol(b','))
                    || self.last[3].is_some_and(|token| token.is("into"));
                if self.targets || self.loads {
                    scan.traits.add(Traits::SUSPECT);
                }
                let name = name.to_ascii_lowercase();
                // Which quotes stood around it is not known; a name that there is not does no harm.
                for quote in *b"`'\"" {
                    if name.windows(2).any(|two| two == [quote; 2] || quote == b'\'' && two[0] == b'\\') {
                        let other = lexer::unescaped(
                            &name,
                            quote,
                            Mode { no_escapes: quote == b'`', ansi_quotes: false },
                        );
                        scan.effects.push(Effect::Variable(other.into()));
                    }
                }
                scan.effects.push(Effect::Variable(name.into()));
            }
            Token::System(name) => Self::system(name, scan),
            Token::Symbol(b'=')
                if matches!(self.last[2..], [Some(Token::Variable(_)), Some(Token::Symbol(b':'))]) =>
            {
                scan.traits.add(Traits::SUSPECT);
            }
            _ => {}
        }
        self.last = [self.last[1], self.last[2], self.last[3], Some(token)];
    }

    fn word(word: &[u8], scan: &mut Scan) {
        if identity::is_of_server(word) {
            scan.traits.add(Traits::SERVER_NUMBERS);
        }
        // The words in question have these lengths.
        if !matches!(word.len(), 4 | 5 | 6 | 8) {
            return;
        }
        match lower(word, &mut [0; 24]) {
            b"into" | b"share" => scan.traits.add(Traits::WRITES),
            // SHOW COUNT(*) WARNINGS, SHOW ERRORS.
            b"warnings" | b"errors" => scan.traits.add(Traits::SPECIAL),
            b"previous" => scan.traits.add(Traits::ASKS_SEQUENCE),
            // NEXT VALUE FOR.
            b"next" => scan.traits.add(Traits::DRAWS_SEQUENCE | Traits::WRITES),
            _ => {}
        }
    }

    fn system(name: &[u8], scan: &mut Scan) {
        if identity::is_own_variable(name) {
            scan.traits.add(Traits::OWN_NUMBER);
        }
        let name = name.rsplit(|&b| b == b'.').next().unwrap_or(name);
        if matches!(lower(name, &mut [0; 24]), b"warning_count" | b"error_count") {
            scan.traits.add(Traits::SPECIAL);
        }
    }

    /// `sys.`: a schema of the server's own.
    fn qualify(&self, scan: &mut Scan) {
        if self.last[3].and_then(|token| token.name()).is_some_and(|name| name.eq_ignore_ascii_case(b"sys")) {
            scan.traits.add(Traits::SERVER_NUMBERS);
        }
    }

    /// A call of anything that is not known to be harmless makes the statement suspect.
    fn call(&self, scan: &mut Scan) {
        let name = match self.last[3] {
            Some(Token::Word(word)) => word,
            Some(Token::Quoted(_)) if !self.names_a_target() => {
                return scan.traits.add(Traits::SUSPECT | Traits::WRITES);
            }
            _ => return,
        };
        let mut buffer = [0; 24];
        let name = lower(name, &mut buffer);
        if functions::is_harmless(name) {
            return;
        }
        match name {
            b"connection_id" => scan.traits.add(Traits::OWN_NUMBER),
            b"found_rows" => scan.traits.add(Traits::SPECIAL | Traits::ASKS_FOUND_ROWS),
            b"row_count" | b"count" => scan.traits.add(Traits::SPECIAL),
            b"get_lock" => Self::hold(scan, Effect::Hold(Hold::Named)),
            b"release_lock" | b"release_all_locks" => Self::hold(scan, Effect::GiveUp(Hold::Named)),
            b"nextval" => scan.traits.add(Traits::DRAWS_SEQUENCE | Traits::WRITES),
            b"lastval" => scan.traits.add(Traits::ASKS_SEQUENCE),
            _ if self.names_a_target() => {}
            _ => scan.traits.add(Traits::SUSPECT | Traits::WRITES),
        }
    }

    fn hold(scan: &mut Scan, effect: Effect) {
        scan.traits.add(Traits::SUSPECT | Traits::WRITES);
        scan.effects.push(effect);
    }

    /// `INTO t (`, `INTO s.t (`, `AS x (`: a list of columns follows, not arguments.
    fn names_a_target(&self) -> bool {
        let introduces = |token: Option<Token<'_>>| {
            token.is_some_and(|t| {
                ["into", "as", "with", "table", "exists", "insert", "replace", "index", "ignore", "recursive"]
                    .iter()
                    .any(|word| t.is(word))
            })
        };
        introduces(self.last[2]) || self.last[2] == Some(Token::Symbol(b'.')) && introduces(self.last[0])
    }
}

#[cfg(test)]
mod tests;
