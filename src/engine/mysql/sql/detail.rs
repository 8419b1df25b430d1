//! Statements that may touch the session by what they are.

use bytes::Bytes;

use super::{Effect, Field, Hold, Scan, Stop, Traits, lower, told};
use crate::engine::mysql::lexer::{self, Mode, Token};

/// How a statement that changes something in the database ends a transaction: by committing it.
const COMMITTING: Traits = Traits(Traits::COMMITS.0 | Traits::WRITES.0 | Traits::ENDS.0);

/// Reads a statement that is at hand as `tokens`; `text` is all of it.
pub(super) fn detail(tokens: &[Token<'_>], text: &[u8], mode: Mode, scan: &mut Scan) -> Stop {
    let Some((Token::Word(verb), rest)) = tokens.split_first() else {
        scan.traits.add(Traits::ANYTHING);
        return Stop::No;
    };
    match lower(verb, &mut [0; 24]) {
        b"set" => set(rest, text, scan),
        b"use" => {
            scan.traits.add(Traits::SUSPECT | Traits::KEEPS);
            scan.effects.extend(rest.first().and_then(Token::name).map(|name| Effect::Use(plain(name))));
            told::tells(rest.len() == 1, text, scan);
        }
        b"begin" | b"start" => begin(tokens, text, scan),
        b"rollback" => rollback(rest, scan),
        b"create" => return create(rest, scan),
        b"drop" => drop_something(rest, scan),
        b"rename" => rename(rest, scan),
        b"alter" | b"truncate" | b"optimize" | b"analyze" | b"repair" | b"check" | b"grant" | b"revoke" => {
            scan.traits.add(COMMITTING);
        }
        b"prepare" => prepare(rest, mode, scan),
        // What it assigns is found as in any other statement.
        b"get" => scan.traits.add(Traits::SUSPECT | Traits::KEEPS | Traits::ASKS_DIAGNOSTICS),
        b"execute" => execute(rest, mode, scan),
        b"deallocate" => deallocate(rest, scan),
        b"xa" => xa(rest, text, scan),
        b"lock" | b"unlock" | b"flush" | b"backup" | b"handler" => hold(tokens, scan),
        _ => scan.traits.add(Traits::ANYTHING),
    }
    Stop::No
}

/// A name without quotes.
fn plain(name: &[u8]) -> Bytes {
    Bytes::from(lexer::unescaped(name, b'`', Mode { no_escapes: true, ansi_quotes: false }))
}

fn is(tokens: &[Token<'_>], at: usize, word: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.is(word))
}

fn has(tokens: &[Token<'_>], word: &str) -> bool {
    tokens.iter().any(|token| token.is(word))
}

/// `a` or `a.b`, as written; and how many tokens that took.
fn table(tokens: &[Token<'_>]) -> Option<(Bytes, usize)> {
    let first = tokens.first()?.name()?;
    match (tokens.get(1), tokens.get(2).and_then(Token::name)) {
        (Some(Token::Symbol(b'.')), Some(second)) => {
            Some(([&plain(first)[..], b".", &plain(second)[..]].concat().into(), 3))
        }
        _ => Some((plain(first), 1)),
    }
}

fn set(rest: &[Token<'_>], text: &[u8], scan: &mut Scan) {
    scan.traits.add(Traits::SUSPECT | Traits::WRITES);
    let of_server = is(rest, 0, "global") || is(rest, 0, "password") || is(rest, 0, "default");
    match rest.first() {
        Some(first) if first.is("transaction") => {
            scan.traits.add(Traits::KEEPS);
            scan.effects.push(Effect::Characteristic(Bytes::copy_from_slice(text)));
        }
        // What follows FOR is a statement of its own.
        Some(first) if first.is("statement") => scan.traits.add(Traits::ANYTHING),
        Some(_) if of_server && !has(rest, "session") => scan.traits.add(Traits::COMMITS),
        Some(_) => {
            // A value may be the result of a query.
            if !has(rest, "select") {
                scan.traits.add(Traits::KEEPS);
            }
            let assignments = rest.split(|token| *token == Token::Symbol(b','));
            let is_told = assignments.clone().all(told::is_told);
            assignments.for_each(|assignment| assign(assignment, text, scan));
            told::tells(is_told, text, scan);
        }
        None => {}
    }
}

fn assign(tokens: &[Token<'_>], text: &[u8], scan: &mut Scan) {
    if is(tokens, 0, "names") {
        return names(tokens, scan);
    }
    if is(tokens, 0, "charset") || is(tokens, 0, "character") && is(tokens, 1, "set") {
        scan.effects.push(Effect::Set(Field::CharacterSet, None));
        return scan.effects.push(Effect::Set(Field::Collation, None));
    }
    let scoped = ["session", "local", "global"].iter().any(|scope| is(tokens, 0, scope));
    let tokens = &tokens[usize::from(scoped)..];
    let (name, once) = match tokens.first() {
        Some(Token::System(name)) => {
            let last = name.rsplit(|&b| b == b'.').next().unwrap_or(name);
            (last, last.len() == name.len())
        }
        Some(token) => (token.name().unwrap_or_default(), false),
        None => return,
    };
    let value = value(&tokens[1..]);
    match lower(name, &mut [0; 24]) {
        b"sql_mode" => scan.effects.push(Effect::Set(Field::SqlMode, value)),
        b"character_set_client" => scan.effects.push(Effect::Set(Field::CharacterSet, value)),
        b"collation_connection" => scan.effects.push(Effect::Set(Field::Collation, value)),
        b"character_set_connection" => scan.effects.push(Effect::Set(Field::Collation, None)),
        b"autocommit" => {
            scan.traits.add(Traits::COMMITS);
            scan.traits.remove(Traits::KEEPS);
        }
        // Without a scope these hold for the next transaction only.
        b"transaction_isolation" | b"tx_isolation" | b"transaction_read_only" | b"tx_read_only" if once => {
            scan.effects.push(Effect::Characteristic(Bytes::copy_from_slice(text)));
        }
        _ => {}
    }
}

/// The literal that is assigned, if it is one and nothing else.
fn value(tokens: &[Token<'_>]) -> Option<Bytes> {
    let ([Token::Symbol(b':'), Token::Symbol(b'='), tokens @ ..] | [Token::Symbol(b'='), tokens @ ..]) =
        tokens
    else {
        return None;
    };
    match tokens {
        [Token::Literal(value)] if !value.iter().any(|b| matches!(b, b'\\' | b'\'' | b'"')) => {
            Some(Bytes::copy_from_slice(value))
        }
        [Token::Word(value)] if !value.eq_ignore_ascii_case(b"default") => {
            Some(Bytes::copy_from_slice(value))
        }
        _ => None,
    }
}

fn names(tokens: &[Token<'_>], scan: &mut Scan) {
    let said = |token: Option<&Token<'_>>| match token {
        Some(Token::Word(name) | Token::Literal(name) | Token::Quoted(name)) => {
            Some(Bytes::from(name.to_ascii_lowercase()))
        }
        _ => None,
    };
    match said(tokens.get(1)) {
        Some(name) if name != "default" => {
            let collation = if is(tokens, 2, "collate") { said(tokens.get(3)) } else { None };
            scan.effects.push(Effect::Names(name, collation));
        }
        _ => {
            scan.effects.push(Effect::Set(Field::CharacterSet, None));
            scan.effects.push(Effect::Set(Field::Collation, None));
        }
    }
}

fn begin(tokens: &[Token<'_>], text: &[u8], scan: &mut Scan) {
    let begins = match tokens {
        [begin, rest @ ..] if begin.is("begin") => rest.is_empty() || rest.len() == 1 && is(rest, 0, "work"),
        _ => is(tokens, 1, "transaction"),
    };
    if !begins {
        // A block, or START REPLICA.
        return scan.traits.add(Traits::ANYTHING);
    }
    scan.traits.add(Traits::BEGINS | Traits::COMMITS | Traits::WRITES);
    if !has(tokens, "snapshot") {
        scan.effects.push(Effect::Begin(Bytes::copy_from_slice(text)));
    }
}

fn xa(rest: &[Token<'_>], text: &[u8], scan: &mut Scan) {
    scan.traits.add(COMMITTING | Traits::SUSPECT | Traits::BEGINS);
    if is(rest, 0, "start") || is(rest, 0, "begin") {
        // Where a comment stands in between this is no name, and nothing can be done with it.
        let after_verb = text.get(2..).unwrap_or_default().trim_ascii_start();
        let name = after_verb.get(5..).unwrap_or_default().trim_ascii();
        scan.effects.push(Effect::BeginXa(Bytes::copy_from_slice(name)));
    } else if !is(rest, 0, "end") && !is(rest, 0, "recover") {
        scan.effects.push(Effect::EndXa);
    }
}

fn rollback(rest: &[Token<'_>], scan: &mut Scan) {
    match has(rest, "to") {
        true => scan.traits.add(Traits::default()),
        false => scan.traits.add(Traits::ENDS),
    }
}

fn create(rest: &[Token<'_>], scan: &mut Scan) -> Stop {
    let routine = ["procedure", "function", "trigger", "event", "package"];
    let what = rest.iter().take(12).find(|token| {
        ["table", "temporary", "index", "view", "database", "schema", "user", "role"]
            .iter()
            .chain(&routine)
            .any(|word| token.is(word))
    });
    let Some(what) = what else {
        scan.traits.add(COMMITTING);
        return Stop::No;
    };
    if routine.iter().any(|word| what.is(word)) {
        scan.traits.add(COMMITTING | Traits::SUSPECT);
        return Stop::Here;
    }
    let temporary = what.is("temporary");
    if what.is("table") || temporary {
        scan.effects.push(Effect::CreateTable);
    }
    if !temporary {
        scan.traits.add(COMMITTING);
        return Stop::No;
    }
    scan.traits.add(Traits::SUSPECT | Traits::WRITES);
    let mut name = rest.iter().position(|token| token.is("table")).map_or(&[][..], |at| &rest[at + 1..]);
    if is(name, 0, "if") {
        name = name.get(3..).unwrap_or_default();
    }
    scan.effects.extend(table(name).map(|(name, _)| Effect::MakeTemporary(name)));
    Stop::No
}

fn drop_something(rest: &[Token<'_>], scan: &mut Scan) {
    if is(rest, 0, "prepare") {
        return deallocate(rest, scan);
    }
    let temporary = is(rest, 0, "temporary");
    let rest = &rest[usize::from(temporary)..];
    scan.traits.add(if temporary { Traits::SUSPECT | Traits::WRITES } else { COMMITTING });
    if is(rest, 0, "database") || is(rest, 0, "schema") {
        let at = if is(rest, 1, "if") { 3 } else { 1 };
        scan.traits.add(Traits::SUSPECT);
        let name = rest.get(at).and_then(Token::name);
        return scan.effects.extend(name.map(|name| Effect::DropDatabase(plain(name))));
    }
    if !is(rest, 0, "table") && !is(rest, 0, "tables") {
        return;
    }
    let mut names = &rest[1..];
    if is(names, 0, "if") {
        names = names.get(2..).unwrap_or_default();
    }
    for name in names.split(|token| *token == Token::Symbol(b',')) {
        scan.effects.extend(table(name).map(|(name, _)| Effect::Drop(name)));
    }
}

fn rename(rest: &[Token<'_>], scan: &mut Scan) {
    scan.traits.add(COMMITTING);
    if !is(rest, 0, "table") && !is(rest, 0, "tables") {
        return;
    }
    for pair in rest[1..].split(|token| *token == Token::Symbol(b',')) {
        let Some((from, length)) = table(pair) else { continue };
        let to = pair.get(length + 1..).and_then(table);
        scan.effects.extend(to.map(|(to, _)| Effect::Rename(from, to)));
    }
}

fn statement_name(token: Option<&Token<'_>>) -> Option<Bytes> {
    token.and_then(Token::name).map(|name| plain(name).to_ascii_lowercase().into())
}

fn prepare(rest: &[Token<'_>], mode: Mode, scan: &mut Scan) {
    scan.traits.add(Traits::SUSPECT);
    let Some(name) = statement_name(rest.first()) else { return };
    let text: Option<Bytes> = match rest.get(2..) {
        // Which of the two quotes it was does not matter where neither is inside.
        Some([Token::Literal(text)]) if !text.windows(2).any(|two| matches!(two, b"''" | b"\"\"")) => {
            Some(lexer::unescaped(text, 0, mode).into())
        }
        Some([Token::Literal(text)]) => {
            let quote = if text.windows(2).any(|two| two == b"''") { b'\'' } else { b'"' };
            Some(lexer::unescaped(text, quote, mode).into())
        }
        _ => None,
    };
    if let Some(text) = &text {
        prepares(text, mode, scan);
    }
    scan.effects.push(Effect::Prepare(name, text));
}

/// What of a text that runs later is to be changed or refused now.
fn prepares(text: &[u8], mode: Mode, scan: &mut Scan) {
    let traits = super::scan(text, mode).traits;
    if traits.has(Traits::OWN_NUMBER) {
        scan.traits.add(Traits::OWN_NUMBER);
    }
    if traits.has(Traits::KILLS) || traits.has(Traits::ASKS_DIAGNOSTICS) {
        scan.traits.add(Traits::PREPARES_REFUSED);
    }
}

fn execute(rest: &[Token<'_>], mode: Mode, scan: &mut Scan) {
    scan.traits.add(Traits::ANYTHING);
    if let [first, Token::Literal(text), ..] = rest
        && first.is("immediate")
    {
        // Doubled quotes are no hindrance to what is looked for.
        prepares(&lexer::unescaped(text, 0, mode), mode, scan);
    }
    if !is(rest, 0, "immediate") {
        scan.traits.remove(Traits::CALLS);
        scan.effects.extend(statement_name(rest.first()).map(Effect::Run));
    }
}

/// `rest` begins with PREPARE.
fn deallocate(rest: &[Token<'_>], scan: &mut Scan) {
    scan.traits.add(Traits::SUSPECT);
    scan.effects.extend(statement_name(rest.get(1)).map(Effect::Deallocate));
}

fn hold(tokens: &[Token<'_>], scan: &mut Scan) {
    scan.traits.add(COMMITTING | Traits::SUSPECT);
    let first = |word| is(tokens, 0, word);
    let instance = is(tokens, 1, "instance");
    let effect = match () {
        () if first("lock") && instance => Effect::Hold(Hold::Backup),
        () if first("lock") => Effect::Hold(Hold::Tables),
        () if first("unlock") && instance => Effect::GiveUp(Hold::Backup),
        () if first("unlock") => Effect::GiveUp(Hold::Tables),
        () if first("backup") && (has(tokens, "unlock") || has(tokens, "end")) => {
            Effect::GiveUp(Hold::Backup)
        }
        () if first("backup") => Effect::Hold(Hold::Backup),
        () if first("handler") && has(tokens, "open") => Effect::Hold(Hold::Handler),
        () if first("handler") && has(tokens, "close") => Effect::GiveUp(Hold::Handler),
        () if first("flush") && (has(tokens, "lock") || has(tokens, "export")) => Effect::Hold(Hold::Tables),
        () if first("flush") && has(tokens, "status") => Effect::ForgetCounts,
        () => return,
    };
    if first("handler") {
        scan.traits.remove(Traits::COMMITS);
        scan.traits.remove(Traits::ENDS);
    }
    scan.effects.push(effect);
}
