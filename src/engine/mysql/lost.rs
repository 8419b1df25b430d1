//! Answers a client whose transaction a forced change or a crash has taken away.
//!
//! An `ERR` carries no status flags: the client takes its transaction for gone when it has read 1105, as after a deadlock,
//! and what it sends then is a new one. So there is one debt, and the first statement pays it:
//!
//! | what was under way | the client gets |
//! |---|---|
//! | commands whose answers are owed | 1105 for each, at once; for the one that sends a file, behind the file |
//! | nothing | 1105 for its next statement, `COMMIT`, `ROLLBACK` and `BEGIN` too; that one is not run |
//! | nothing, and the last answer was that 1105 | nothing more |
//!
//! What had come before the client could read the 1105 is refused with it: the tail of `INSERT, INSERT, COMMIT` must not
//! be committed. A ping is no statement; a reset of the session, a change of the user and a goodbye end the debt.

use bytes::{Buf, BufMut, BytesMut};

use super::capability::Product;
use super::farewell;
use super::packet::{self, HEADER, SPLIT, packet_length};
use super::tracker::{Tracker, command};

/// How many commands are refused at once.
const MAX_KEPT: usize = 64 * 1024;

/// See the module.
pub struct LostTransaction {
    product: Product,
    status: u16,
    /// The sequence numbers of answers that are owed.
    owed: Vec<u8>,
    /// The client is sending a file; its end is awaited before it is told anything.
    file: bool,
    /// The client has not been told: its next statement is refused, and everything that is there with it.
    due: bool,
    /// So much of a command that was refused is still to come, and another packet goes on with it.
    to_drop: usize,
    more: bool,
    /// The sequence number of the answer to the command that is being dropped; `None`: there is none.
    answer: Option<u8>,
    outlasting: BytesMut,
}

impl LostTransaction {
    /// What is owed follows from what was under way.
    pub fn new(tracker: &Tracker) -> LostTransaction {
        let owed: Vec<u8> = tracker.owed().collect();
        let told = tracker.is_told();
        let file = tracker.awaits_file();
        let (to_drop, more) = if file { tracker.rest_of_packet() } else { (0, false) };
        LostTransaction {
            product: tracker.product(),
            status: tracker.free_status(),
            due: !told && owed.is_empty(),
            file,
            owed,
            to_drop,
            more,
            answer: None,
            outlasting: BytesMut::new(),
        }
    }

    fn refuse(&self, sequence: u8, out: &mut BytesMut) {
        packet::put_error(out, sequence, 1105, "HY000", farewell::aborted(self.product));
    }

    /// Throws away what belongs to a command that was refused, and answers it at its end. `false`: more is to come.
    fn drop_rest(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        loop {
            let part = self.to_drop.min(input.len());
            input.advance(part);
            self.to_drop -= part;
            if self.to_drop > 0 {
                return false;
            }
            if !self.more {
                if let Some(sequence) = self.answer.take() {
                    self.refuse(sequence, out);
                }
                return true;
            }
            let Some(length) = packet_length(input) else { return false };
            self.answer = self.answer.map(|_| input[3].wrapping_add(1));
            (self.to_drop, self.more) = (length, length - HEADER == SPLIT);
        }
    }

    /// Throws the client's file away. `false`: more of it is to come.
    fn drop_file(&mut self, input: &mut BytesMut) -> bool {
        while self.file {
            let part = self.to_drop.min(input.len());
            input.advance(part);
            self.to_drop -= part;
            if self.to_drop > 0 {
                return false;
            }
            let Some(length) = packet_length(input) else { return false };
            if let Some(first) = self.owed.first_mut() {
                *first = input[3].wrapping_add(1);
            }
            self.file = length > HEADER || self.more;
            (self.to_drop, self.more) = (length, length - HEADER == SPLIT);
        }
        let part = self.to_drop.min(input.len());
        input.advance(part);
        self.to_drop -= part;
        self.to_drop == 0
    }

    /// One command, of which at least the kind is there. `false`: it stays, and the router has to see it.
    fn command(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Next {
        let Some(length) = packet_length(input) else { return Next::More };
        let kind = match input.get(HEADER) {
            Some(kind) => *kind,
            None if length > HEADER => return Next::More,
            None => 0,
        };
        let whole = input.len() >= length;
        match kind {
            command::QUIT => return Next::Goodbye,
            command::CHANGE_USER | command::RESET_CONNECTION => return Next::Over,
            command::PING | command::STATISTICS | command::CLOSE if !whole => return Next::More,
            command::PING => {
                self.put_ok(out);
                input.advance(length);
                return Next::Done;
            }
            command::STATISTICS => {
                packet::put(out, 1, |out| out.extend_from_slice(b"Uptime: 0"));
                input.advance(length);
                return Next::Done;
            }
            command::CLOSE => {
                let close = input.split_to(length);
                if self.outlasting.len() < MAX_KEPT {
                    self.outlasting.extend_from_slice(&close);
                }
                return Next::Done;
            }
            _ => {}
        }
        let sequence = input[3].wrapping_add(1);
        self.answer = (kind != command::LONG_DATA).then_some(sequence);
        (self.to_drop, self.more) = (length, length - HEADER == SPLIT);
        self.due &= self.answer.is_none();
        Next::Done
    }

    fn put_ok(&self, out: &mut BytesMut) {
        packet::put(out, 1, |out| {
            out.put_bytes(0, 3);
            out.put_u16_le(self.status);
            out.put_u16_le(0);
        });
    }
}

/// What becomes of the command at the front.
#[derive(PartialEq, Eq)]
enum Next {
    Done,
    More,
    /// The debt is gone without being paid.
    Over,
    Goodbye,
}

impl crate::engine::LostTransaction for LostTransaction {
    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        if !self.drop_file(input) {
            return false;
        }
        for sequence in std::mem::take(&mut self.owed) {
            self.refuse(sequence, out);
        }
        while self.drop_rest(input, out) {
            match self.command(input, out) {
                Next::Done => {}
                Next::More => {
                    // What has begun to come was sent before the client knew.
                    return !self.due && input.is_empty();
                }
                Next::Over => return true,
                Next::Goodbye => return false,
            }
        }
        false
    }

    fn outlasting(&mut self) -> BytesMut {
        self.outlasting.split()
    }
}

#[cfg(test)]
mod tests;
