//! Finds the packets in what the server sends.

use bytes::BytesMut;

use super::answer::{Found, HEAD, Phase, Prepared, Shape};
use super::commands::Outcome;
use super::{INSPECTED, Tracker};
use crate::engine::mysql::packet::{HEADER, SPLIT, packet_length};
use crate::engine::mysql::sql::Traits;
use crate::engine::{Loss, ServerScan};

/// A statement's definitions are kept up to this length.
const MAX_DEFINITIONS: usize = 256 * 1024;
/// `ER_QUERY_INTERRUPTED`
const INTERRUPTED: u16 = 1317;

/// Errors after which the server closes the connection: `ER_SERVER_SHUTDOWN`, MariaDB's `ER_CONNECTION_KILLED`,
/// MySQL's `ER_CLIENT_INTERACTION_TIMEOUT`.
fn is_farewell(code: u16) -> bool {
    matches!(code, 1053 | 1927 | 4031)
}

/// See [`super::loss`].
pub(super) fn loss(bytes: &[u8]) -> Loss {
    // What is no whole error are not last words: it was cut off in the middle of something else.
    let whole = packet_length(bytes).is_some_and(|length| length <= bytes.len());
    match bytes.get(HEADER..HEADER + 3) {
        Some(&[0xff, low, high]) if whole => match u16::from_le_bytes([low, high]) {
            1053 => Loss::Unclear,
            _ => Loss::Session,
        },
        _ => Loss::Unclear,
    }
}

/// The number of the error that a packet is.
fn error_of(body: &[u8]) -> Option<u16> {
    match body {
        [0xff, low, high, ..] => Some(u16::from_le_bytes([*low, *high])),
        _ => None,
    }
}

/// The state of the error that a packet is.
fn state_of(body: &[u8]) -> Option<[u8; 5]> {
    body.get(4..9)?.try_into().ok()
}

/// What comes while nothing is asked can only be last words.
fn unasked(body: &[u8], length: usize) -> Passes {
    match error_of(body) {
        Some(_) if body.len() == length => Passes::Farewell,
        Some(_) if length < INSPECTED => Passes::Incomplete,
        _ => Passes::Violation,
    }
}

/// What becomes of one packet.
enum Passes {
    /// It goes to the client; so many bytes of it are there (it may have been changed), and so many are to come.
    On {
        present: usize,
        missing: usize,
    },
    /// More of it is needed.
    Incomplete,
    Farewell,
    Violation,
}

impl Tracker {
    pub(super) fn scan_server(
        &mut self,
        bytes: &mut BytesMut,
        names: &dyn Fn(u32) -> Option<u32>,
    ) -> ServerScan {
        let (mut at, mut farewell, mut violation) = (0, false, false);
        loop {
            let part = self.server_skip.min(bytes.len() - at);
            (at, self.server_skip) = (at + part, self.server_skip - part);
            if self.server_skip > 0 {
                break;
            }
            let Some(length) = packet_length(&bytes[at..]) else { break };
            match self.server_packet(bytes, at, length - HEADER, names) {
                Passes::On { present, missing } => {
                    self.server_more = length - HEADER == SPLIT;
                    (at, self.server_skip) = (at + present, missing);
                }
                Passes::Incomplete => break,
                Passes::Farewell => {
                    farewell = true;
                    break;
                }
                Passes::Violation => {
                    violation = true;
                    break;
                }
            }
        }
        ServerScan { forward: at, farewell, violation }
    }

    fn server_packet(
        &mut self,
        bytes: &mut BytesMut,
        at: usize,
        length: usize,
        names: &dyn Fn(u32) -> Option<u32>,
    ) -> Passes {
        let here = (bytes.len() - at - HEADER).min(length);
        let sequence = bytes[at + 3].wrapping_add(1);
        let passes = Passes::On { present: HEADER + here, missing: length - here };
        if self.server_more {
            self.next_sequence(sequence);
            return passes;
        }
        if here < length.min(HEAD) {
            return Passes::Incomplete;
        }
        let body = at + HEADER..at + HEADER + here;
        let Some(front) = self.pending.front() else { return unasked(&bytes[body], length) };
        let (shape, traits, numbered) = (front.shape, front.traits, front.has_numbers());
        let error = error_of(&bytes[body.clone()]).filter(|_| shape != Shape::Text);
        let replaced = self.forced && error == Some(INTERRUPTED);
        let parting = error.is_some_and(is_farewell);
        let defines = shape == Shape::Prepared && self.answer.phase != Phase::First;
        let whole = (replaced || parting || defines) && length < INSPECTED;
        if whole && here < length || numbered && here < length.min(INSPECTED) {
            return Passes::Incomplete;
        }
        if parting {
            return Passes::Farewell;
        }
        let phase = self.answer.phase;
        let found = self.read_head(shape, &bytes[body.clone()], length);
        self.next_sequence(sequence);
        match found {
            Found::Row if numbered => return self.numbered_row(bytes, at, here, length, names),
            Found::Part if numbered => self.learn_columns(phase, &bytes[body], traits.has(Traits::KEEPS)),
            Found::Nonsense => return Passes::Violation,
            Found::Definition => self.define(&bytes[body], here == length),
            Found::Prepared(prepared, _) => {
                let id = self.give_id(prepared);
                bytes[body.start + 1..body.start + 5].copy_from_slice(&id.to_le_bytes());
            }
            Found::Error(_) if replaced && here == length => {
                let present = self.say_aborted(bytes, at..body.end);
                self.answered(Outcome::Failed(INTERRUPTED));
                self.told = true;
                return Passes::On { present, missing: 0 };
            }
            Found::Error(code) => self.failure = state_of(&bytes[body]).map(|state| (code, state)),
            Found::Part | Found::Row | Found::End(..) | Found::EndOfText => {}
            Found::EndOfPrepared | Found::File => {}
        }
        self.progress(found);
        passes
    }

    fn numbered_row(
        &self,
        bytes: &mut BytesMut,
        at: usize,
        here: usize,
        length: usize,
        names: &dyn Fn(u32) -> Option<u32>,
    ) -> Passes {
        let present = HEADER + self.translate_row(bytes, at, here, names);
        Passes::On { present, missing: length - here }
    }

    fn read_head(&mut self, shape: Shape, body: &[u8], length: usize) -> Found {
        self.answer.packet(shape, self.form, &body[..body.len().min(HEAD)], length)
    }

    fn next_sequence(&mut self, sequence: u8) {
        if let Some(pending) = self.pending.front_mut() {
            pending.sequence = sequence;
        }
    }

    /// The answer is read on, or is over.
    fn progress(&mut self, found: Found) {
        let outcome = match found {
            Found::End(status, true) => return self.one_result(status),
            Found::End(status, false) => Outcome::Done(status),
            Found::EndOfText | Found::EndOfPrepared | Found::Prepared(_, true) => Outcome::Said,
            // The last definition may be the end.
            Found::Definition if self.answer.phase == Phase::First => Outcome::Said,
            Found::Error(code) => Outcome::Failed(code),
            Found::Part
            | Found::Row
            | Found::Definition
            | Found::Prepared(_, false)
            | Found::File
            | Found::Nonsense => {
                return;
            }
        };
        self.told = false;
        self.answered(outcome);
    }

    fn give_id(&mut self, prepared: Prepared) -> u32 {
        let id = self.statements.next_id();
        self.prepared = Some((id, prepared));
        self.definitions.clear();
        id
    }

    fn define(&mut self, body: &[u8], whole: bool) {
        if whole && self.definitions.len() + body.len() <= MAX_DEFINITIONS {
            self.definitions.extend_from_slice(body);
        }
    }
}
