//! Commands that the router looks at itself: those that name another session, those that only it can answer.

use bytes::{Buf, BytesMut};

use super::Tracker;
use super::client::command;
use crate::engine::mysql::packet::{self, HEADER, packet_length};
use crate::engine::mysql::sql::special::{Special, special};
use crate::engine::{Directory, Intercepted, Whereabouts};

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
            self.passing = Some(None);
            return Intercepted::Pass;
        };
        match input.get(HEADER).copied().unwrap_or(0) {
            command::CHANGE_USER => {
                let mut request = input.split_to(length).freeze();
                request.advance(HEADER);
                Intercepted::Reauthenticate(request)
            }
            command::PROCESS_KILL => {
                let id = super::client::statement_id(&input[HEADER..length]);
                self.kill(id, true, directory)
            }
            command::EXECUTE | command::BULK_EXECUTE => {
                let id = super::client::statement_id(&input[HEADER..length]);
                let gone = self.statements.get(&self.wire, id).and_then(|live| live.gone.clone());
                let Some(error) = gone else {
                    self.passing = Some(None);
                    return Intercepted::Pass;
                };
                input.advance(length);
                packet::put(out, 1, |out| out.extend_from_slice(&error));
                Intercepted::Answered
            }
            command::QUERY => {
                let body = &input[HEADER..length];
                let found = special(&body[self.text_at(body)..], self.mode());
                match found {
                    Some(Special::Kill { id, connection, .. }) => self.kill(id, connection, directory),
                    Some(special) if self.say(&special, out) => {
                        input.advance(length);
                        Intercepted::Answered
                    }
                    _ => {
                        self.passing = Some(None);
                        Intercepted::Pass
                    }
                }
            }
            _ => {
                input.advance(length);
                let text = "Replication is not served here: it is a stream and no session";
                packet::put_error(out, 1, 1235, "42000", text);
                Intercepted::Answered
            }
        }
    }

    fn kill(&mut self, id: u32, connection: bool, directory: &dyn Directory) -> Intercepted {
        let backend = match directory.find(id) {
            Whereabouts::At(backend) => Some(backend),
            Whereabouts::Detached => return Intercepted::Wakes(id),
            // Perhaps one that the server itself has named.
            Whereabouts::Unknown => None,
        };
        self.passing = Some(backend);
        match backend {
            Some(_) if connection => Intercepted::Ends(id),
            _ => Intercepted::Pass,
        }
    }
}
