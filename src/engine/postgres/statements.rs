//! The prepared statements of a session as the wire shows them: under which settings each was parsed, and the whole
//! of the unnamed one, which the server lists nowhere.

use std::collections::HashMap;

use bytes::Bytes;

use super::message;
use super::sql::{self, Hints, TransactionCommand};

/// Reported settings that shape how a text is parsed. A statement keeps what they were when it was parsed.
pub const PARSE_SETTINGS: [&str; 4] =
    ["DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings"];
/// More statements than this in one session are not remembered one by one.
const MAX_STATEMENTS: usize = 65_536;

/// The values of [`PARSE_SETTINGS`].
pub type ParseContext = [Bytes; 4];

/// Where a statement's parse context is in [`Statements::contexts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContextOf {
    Known(u32),
    /// Settings were changing while it was on its way.
    Unsure,
}

#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "findings that do not exclude each other")]
struct Known {
    context: ContextOf,
    /// It was there when the session was last captured, and not made again since.
    captured: bool,
    suspect: bool,
    commits: bool,
    /// It ends a transaction.
    ends: Option<TransactionCommand>,
    several: bool,
    binds_setting_names: bool,
}

/// What binding a statement tells.
pub struct Bound {
    /// Running it may change what the session is made of.
    pub suspect: bool,
    /// Running it may commit.
    pub commits: bool,
    /// Running it ends a transaction so; what it does is not known: in the worst way.
    pub ends: Option<TransactionCommand>,
    /// Running it may be more than one transaction, or touch one that is open.
    pub several: bool,
    /// Bound values that may be names of settings.
    pub names: Vec<String>,
}

/// See the module.
pub struct Statements {
    contexts: Vec<ParseContext>,
    current: u32,
    named: HashMap<Box<[u8]>, Known>,
    overflown: bool,
    unnamed: Option<Known>,
    /// The `Parse` message of the unnamed statement, contents only. Kept allocated.
    unnamed_parse: Vec<u8>,
    unnamed_whole: bool,
    /// The unnamed statement's place among all `Parse` messages; 0: there is none.
    unnamed_at: u64,
    unnamed_confirmed: bool,
    parses: u64,
    completed: u64,
    /// Parsed while settings may have been changing, and under which context the client sent them.
    unsettled: Vec<(Box<[u8]>, u32)>,
}

impl Statements {
    /// No statements yet.
    pub fn new(view: &[(String, Bytes)]) -> Statements {
        let value =
            |name: &str| view.iter().find(|(n, _)| n == name).map_or_else(Bytes::new, |(_, v)| v.clone());
        Statements {
            contexts: vec![PARSE_SETTINGS.map(value)],
            current: 0,
            named: HashMap::new(),
            overflown: false,
            unnamed: None,
            unnamed_parse: Vec::new(),
            unnamed_whole: false,
            unnamed_at: 0,
            unnamed_confirmed: false,
            parses: 0,
            completed: 0,
            unsettled: Vec::new(),
        }
    }

    /// How many `Parse` messages were forwarded.
    pub fn parses(&self) -> u64 {
        self.parses
    }

    /// A reported parameter has a new value.
    pub fn parameter_changed(&mut self, name: &str, value: &Bytes) {
        let Some(index) = PARSE_SETTINGS.iter().position(|setting| *setting == name) else { return };
        let mut context = self.contexts[self.current as usize].clone();
        context[index] = value.clone();
        let known = self.contexts.iter().position(|c| *c == context);
        let place = known.unwrap_or_else(|| {
            self.contexts.push(context);
            self.contexts.len() - 1
        });
        self.current = u32::try_from(place).unwrap_or(0);
    }

    /// A `Parse` is about to be forwarded; `body` is its contents if they are at hand whole.
    pub fn parse(&mut self, name: &[u8], body: Option<&[u8]>, hints: &Hints, unsure: bool) {
        self.parses += 1;
        let known = Known {
            context: ContextOf::Known(self.current),
            captured: false,
            suspect: hints.suspect || body.is_none(),
            commits: hints.commits || body.is_none(),
            ends: body.and_then(text_of).and_then(sql::transaction_command),
            several: hints.several || body.is_none(),
            binds_setting_names: hints.binds_setting_names || body.is_none(),
        };
        if unsure {
            self.unsettled.push((name.into(), self.current));
        }
        if !name.is_empty() {
            return self.remember(name, known);
        }
        self.unnamed = Some(known);
        self.unnamed_at = self.parses;
        self.unnamed_confirmed = false;
        self.unnamed_whole = body.is_some();
        self.unnamed_parse.clear();
        self.unnamed_parse.extend_from_slice(body.unwrap_or_default());
    }

    fn remember(&mut self, name: &[u8], known: Known) {
        if self.named.len() >= MAX_STATEMENTS {
            self.overflown = true;
            return;
        }
        self.named.insert(name.into(), known);
    }

    /// `PREPARE name` is about to be forwarded in a `Query`.
    pub fn prepared_by_sql(&mut self, name: &[u8], unsure: bool) {
        if unsure {
            self.unsettled.push((name.into(), self.current));
        }
        let context = ContextOf::Known(self.current);
        self.remember(
            name,
            Known {
                context,
                captured: false,
                suspect: true,
                commits: true,
                ends: None,
                several: true,
                binds_setting_names: false,
            },
        );
    }

    /// A `Query` drops the unnamed statement (`src/backend/tcop/postgres.c`, `exec_simple_query`).
    pub fn query(&mut self) {
        self.unnamed = None;
        self.unnamed_at = 0;
    }

    /// A `Close` is about to be forwarded.
    pub fn close(&mut self, body: &[u8]) {
        let Some((b'S', mut rest)) = body.split_first() else { return };
        match message::take_text(&mut rest) {
            Some(b"") => self.query(),
            Some(name) => {
                self.named.remove(name);
            }
            None => {}
        }
    }

    /// A `Bind` is about to be forwarded. `None`: malformed, the server will say so.
    pub fn bind(&self, body: &[u8]) -> Option<Bound> {
        let mut rest = body;
        message::take_text(&mut rest)?;
        let name = message::take_text(&mut rest)?;
        let known = if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) };
        let Some(known) = known else {
            let (ends, names) = (Some(TransactionCommand::Chain), Vec::new());
            return Some(Bound { suspect: true, commits: true, several: true, ends, names });
        };
        Some(Bound {
            suspect: known.suspect,
            commits: known.commits,
            ends: known.ends,
            several: known.several,
            names: if known.binds_setting_names { bound_names(rest) } else { Vec::new() },
        })
    }

    /// The statements that end transactions, by name: pgjdbc prepares `COMMIT` long before it runs it.
    pub(crate) fn enders(&self) -> HashMap<Bytes, TransactionCommand> {
        let unnamed = self.unnamed.filter(|_| self.unnamed_confirmed).and_then(|known| known.ends);
        let named =
            self.named.iter().filter_map(|(name, known)| Some((Bytes::copy_from_slice(name), known.ends?)));
        named.chain(unnamed.map(|ends| (Bytes::new(), ends))).collect()
    }

    /// `ParseComplete` came.
    pub fn parse_complete(&mut self) {
        self.completed += 1;
        if self.completed == self.unnamed_at {
            self.unnamed_confirmed = true;
        }
    }

    /// A segment was answered; whatever `Parse` it held and was not completed has failed.
    pub fn answered(&mut self, parses: u64) {
        self.completed = parses;
        if self.unnamed_at != 0 && self.unnamed_at <= parses && !self.unnamed_confirmed {
            self.query();
        }
    }

    /// Nothing is under way: what settings did in between shows now.
    pub fn settled(&mut self) {
        for (name, context) in std::mem::take(&mut self.unsettled) {
            if context == self.current {
                continue;
            }
            let known = if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(&name) };
            if let Some(known) = known {
                known.context = ContextOf::Unsure;
            }
        }
    }

    /// The unnamed statement: contents of its `Parse` and its context. `Some(Err)`: there is one, but it cannot be
    /// repeated.
    pub fn unnamed(&self) -> Option<Result<(&[u8], &ParseContext), ()>> {
        let known = self.unnamed.filter(|_| self.unnamed_at != 0 && self.unnamed_confirmed)?;
        Some(match known.context {
            ContextOf::Known(context) if self.unnamed_whole => {
                Ok((self.unnamed_parse.as_slice(), &self.contexts[context as usize]))
            }
            _ => Err(()),
        })
    }

    /// Under which settings a statement was parsed; `None` if that is not known.
    pub fn context(&self, name: &[u8]) -> Option<&ParseContext> {
        let context = match self.named.get(name) {
            Some(Known { context: ContextOf::Known(context), .. }) => *context,
            Some(Known { context: ContextOf::Unsure, .. }) => return None,
            // Made out of the wire's sight (a function, a quoted name); sure only if there was never another context.
            None if self.contexts.len() == 1 => 0,
            None => return None,
        };
        self.contexts.get(context as usize)
    }

    /// A statement of this name was captured and is still the same one.
    pub fn is_settled(&self, name: &[u8]) -> bool {
        self.named.get(name).is_some_and(|known| known.captured)
    }

    /// The session was captured.
    pub fn all_settled(&mut self) {
        self.named.values_mut().for_each(|known| known.captured = true);
    }

    /// Forgets the statements that the server does not have.
    pub fn retain(&mut self, exists: impl Fn(&[u8]) -> bool) {
        self.named.retain(|name, _| exists(name));
        self.overflown = false;
    }

    /// The settings in force, for comparison with a statement's own.
    pub fn current_context(&self) -> &ParseContext {
        &self.contexts[self.current as usize]
    }
}

/// The statement's text in the contents of a `Parse`.
fn text_of(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    message::take_text(&mut rest)?;
    message::take_text(&mut rest)
}

/// Values of a `Bind` that look like names of custom settings; `rest` begins at the parameter formats.
fn bound_names(rest: &[u8]) -> Vec<String> {
    let word = |at: usize| rest.get(at..at + 2).map(|w| usize::from(u16::from_be_bytes([w[0], w[1]])));
    let Some(formats) = word(0) else { return Vec::new() };
    let mut at = 2 + 2 * formats;
    let Some(count) = word(at) else { return Vec::new() };
    at += 2;
    let mut names = Vec::new();
    for _ in 0..count {
        let Some(length) = rest.get(at..at + 4).and_then(|l| <[u8; 4]>::try_from(l).ok()) else { break };
        at += 4;
        let Ok(length) = usize::try_from(i32::from_be_bytes(length)) else { continue };
        let Some(value) = rest.get(at..at + length) else { break };
        names.extend(sql::dotted_name(value));
        at += length;
    }
    names
}
