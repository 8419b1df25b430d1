//! Commands that the router looks at itself: those that name another session, those that only it can answer.

use bytes::{Buf, BytesMut};

use super::Tracker;
use super::client::command;
use super::virtually::LOST;
use crate::engine::mysql::packet::{self, HEADER, packet_length};
use crate::engine::mysql::sql::kill::{self, Naming, Purpose, Who};
use crate::engine::mysql::sql::special::special;
use crate::engine::mysql::sql::{self, Traits};
use crate::engine::{Directory, FIRST_CONNECTION_ID, Intercepted, Whereabouts};

/// `ER_NO_SUCH_THREAD`
const NO_SUCH_THREAD: u16 = 1094;
/// `ER_UNSUPPORTED_PS`
const NOT_PREPARED: u16 = 1295;

/// What becomes of the connections that a command names.
enum Named {
    Resolved(Intercepted),
    /// The number in question, if there is one: it may be of a server that has gone.
    Refused(Option<u64>),
}

impl Tracker {
    /// The command at the front is there whole, and nothing is under way.
    pub(super) fn look_at(
        &mut self,
        input: &mut BytesMut,
        directory: &dyn Directory,
        out: &mut BytesMut,
    ) -> Intercepted {
        let Some(length) = packet_length(input).filter(|length| *length <= input.len()) else {
            // It is too long to be one of these.
            return self.pass_as_it_is();
        };
        match input.get(HEADER).copied().unwrap_or(0) {
            command::CHANGE_USER => {
                let mut request = input.split_to(length).freeze();
                request.advance(HEADER);
                Intercepted::Reauthenticate(request)
            }
            command::PROCESS_KILL => {
                let who = Who::Number(u64::from(super::client::statement_id(&input[HEADER..length])));
                let naming = Naming { at: 0..4, purpose: Purpose::End, who };
                self.pass_named(input, length, vec![naming], directory, out)
            }
            command::EXECUTE | command::BULK_EXECUTE => {
                let id = super::client::statement_id(&input[HEADER..length]);
                let live = self.statements.get(&self.wire, id);
                let asks = live.is_some_and(|live| live.scan.traits.has(Traits::ASKS_FOUND_ROWS));
                if asks && self.misses_found_rows() {
                    return refuse(input, length, out, (1105, "HY000"), LOST);
                }
                let gone = live.and_then(|live| live.gone.clone());
                let Some(error) = gone else { return self.pass_as_it_is() };
                input.advance(length);
                packet::put(out, 1, |out| out.extend_from_slice(&error));
                Intercepted::Answered
            }
            command::QUERY | command::PREPARE => self.look_at_text(input, length, directory, out),
            _ => {
                let text = "Replication is not served here: it is a stream and no session";
                refuse(input, length, out, (1235, "42000"), text)
            }
        }
    }

    fn pass_as_it_is(&mut self) -> Intercepted {
        self.passing = Some(Vec::new());
        Intercepted::Pass
    }

    fn look_at_text(
        &mut self,
        input: &mut BytesMut,
        length: usize,
        directory: &dyn Directory,
        out: &mut BytesMut,
    ) -> Intercepted {
        let body = &input[HEADER..length];
        let prepares = body[0] == command::PREPARE;
        let text = &body[if prepares { 1 } else { self.text_at(body) }..];
        let traits = sql::scan(text, self.mode()).traits;
        let not_later = traits.has(Traits::KILLS) || traits.has(Traits::ASKS_DIAGNOSTICS);
        if traits.has(Traits::PREPARES_REFUSED) || prepares && not_later {
            // The backend, its number and what it remembers of statements may have changed when it runs.
            let text = "This command is not supported in the prepared statement protocol yet";
            return refuse(input, length, out, (NOT_PREPARED, "HY000"), text);
        }
        if let Some(special) = special(text, self.mode())
            && self.say(&special, out)
        {
            input.advance(length);
            return Intercepted::Answered;
        }
        if traits.has(Traits::ASKS_DIAGNOSTICS) {
            let said = self.say_diagnostics(text);
            return match said {
                Ok(with) => {
                    self.passing = Some(vec![(0..text.len(), with)]);
                    Intercepted::Pass
                }
                Err((code, state, text)) => refuse(input, length, out, (code, state), text),
            };
        }
        if traits.has(Traits::ASKS_FOUND_ROWS) && self.misses_found_rows() && !prepares {
            return refuse(input, length, out, (1105, "HY000"), LOST);
        }
        let namings = kill::namings(text, self.mode());
        self.pass_named(input, length, namings, directory, out)
    }

    /// Has the command pass with the numbers of backends in it.
    fn pass_named(
        &mut self,
        input: &mut BytesMut,
        length: usize,
        namings: Vec<Naming>,
        directory: &dyn Directory,
        out: &mut BytesMut,
    ) -> Intercepted {
        let binary = input.get(HEADER) == Some(&command::PROCESS_KILL);
        match self.resolve(namings, binary, directory) {
            Named::Resolved(intercepted) => intercepted,
            Named::Refused(id) => {
                let id = id.map_or_else(|| "one that only the server knows".to_owned(), |id| id.to_string());
                let text = format!(
                    "Unknown thread id: {id} (it may be of a server that has gone; ask SHOW PROCESSLIST first)"
                );
                refuse(input, length, out, (NO_SUCH_THREAD, "HY000"), &text)
            }
        }
    }

    fn resolve(&mut self, namings: Vec<Naming>, binary: bool, directory: &dyn Directory) -> Named {
        let (mut edits, mut ends) = (Vec::new(), Vec::new());
        for Naming { at, purpose, who } in namings {
            let id = match who {
                Who::Own => u64::from(self.id),
                Who::Number(id) => id,
                Who::Unknown if self.seen.has(Traits::SERVER_NUMBERS) => continue,
                Who::Unknown => return Named::Refused(None),
            };
            let known = u32::try_from(id).ok();
            match (known.map_or(Whereabouts::Unknown, |id| directory.find(id)), purpose) {
                (Whereabouts::At(backend), _) => {
                    edits.push((
                        at,
                        if binary { backend.to_le_bytes().to_vec() } else { backend.to_string().into() },
                    ));
                    ends.extend(known.filter(|_| purpose == Purpose::End));
                }
                // It has none that could be found.
                (Whereabouts::Detached | Whereabouts::Unknown, Purpose::Compare) => {}
                (Whereabouts::Detached, _) => return Named::Resolved(Intercepted::Wakes(known.unwrap_or(0))),
                // The server says so: no number of its own is as high.
                (Whereabouts::Unknown, _)
                    if id >= u64::from(FIRST_CONNECTION_ID) || self.seen.has(Traits::SERVER_NUMBERS) => {}
                (Whereabouts::Unknown, _) => return Named::Refused(Some(id)),
            }
        }
        self.passing = Some(edits);
        Named::Resolved(if ends.is_empty() { Intercepted::Pass } else { Intercepted::Ends(ends) })
    }
}

/// Takes the command and answers with an error.
fn refuse(
    input: &mut BytesMut,
    length: usize,
    out: &mut BytesMut,
    (code, state): (u16, &str),
    text: &str,
) -> Intercepted {
    input.advance(length);
    packet::put_error(out, 1, code, state, text);
    Intercepted::Answered
}
