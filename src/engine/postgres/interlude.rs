//! A few requests in the client's stead, at rest: their answers are swallowed, what comes in between is the client's.

use bytes::{Bytes, BytesMut};

use super::log_in::{refused, unexpected};
use super::message::{self, Message};
use crate::engine::{Dialogue, DialogueError};

/// The longest message that may come in between: a notification.
const MAX_ANSWER: usize = 64 * 1024;

/// See the module.
pub struct Interlude {
    requests: BytesMut,
    aside: BytesMut,
    /// How many are still to come.
    answers: usize,
    error: Option<DialogueError>,
}

impl Interlude {
    /// Ends the open transaction, also a failed one. `skipping`: the server discards everything up to a `Sync`.
    pub(crate) fn roll_back(skipping: bool) -> Interlude {
        let mut requests = BytesMut::new();
        if skipping {
            message::put_sync(&mut requests);
        }
        message::put_parse(&mut requests, "", b"ROLLBACK", &[]);
        message::put_bind(&mut requests, "", &[]);
        message::put_execute(&mut requests);
        Interlude { answers: 1 + usize::from(skipping), ..Interlude::of(requests) }
    }

    /// Sends requests of the extended protocol again that the client has had its answers to.
    pub(crate) fn repeat(requests: &Bytes) -> Interlude {
        Interlude::of(BytesMut::from(requests.as_ref()))
    }

    fn of(mut requests: BytesMut) -> Interlude {
        message::put_sync(&mut requests);
        Interlude { requests, aside: BytesMut::new(), answers: 1, error: None }
    }

    fn ready(&mut self, body: &[u8]) -> Result<BytesMut, DialogueError> {
        match self.error.take() {
            Some(error) => Err(error),
            None if body != b"I" => Err(DialogueError::Protocol("the session does not come to rest".into())),
            None => Ok(std::mem::take(&mut self.aside)),
        }
    }

    fn take(&mut self, message: &Message) -> Result<(), DialogueError> {
        match message.kind {
            b'A' | b'S' => {
                message::put(&mut self.aside, message.kind, |out| out.extend_from_slice(&message.body));
            }
            b'E' => self.error = Some(refused(message)),
            b'1' | b'2' | b'3' | b'C' | b'N' => {}
            kind => return Err(unexpected(kind)),
        }
        Ok(())
    }
}

impl Dialogue for Interlude {
    type Output = BytesMut;

    fn open(&mut self, out: &mut BytesMut) {
        out.unsplit(std::mem::take(&mut self.requests));
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        _out: &mut BytesMut,
    ) -> Result<Option<BytesMut>, DialogueError> {
        while let Some(message) =
            message::take(input, MAX_ANSWER).map_err(|e| DialogueError::Protocol(e.into()))?
        {
            if message.kind == b'Z' && self.answers > 1 {
                self.answers -= 1;
            } else if message.kind == b'Z' {
                return self.ready(&message.body).map(Some);
            } else {
                self.take(&message)?;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_between_is_the_clients() {
        let mut interlude = Interlude::roll_back(false);
        let mut out = BytesMut::new();
        interlude.open(&mut out);
        assert!(out.ends_with(b"S\0\0\0\x04"));
        let mut input =
            BytesMut::from(&b"1\0\0\0\x04A\0\0\0\x0b\0\0\0\x01c\0\0C\0\0\0\x0dROLLBACK\0Z\0\0\0\x05I"[..]);
        let aside = interlude.receive(&mut input, &mut out).unwrap().unwrap();
        assert_eq!(&aside[..], b"A\0\0\0\x0b\0\0\0\x01c\0\0");
        let mut input = BytesMut::from(&b"Z\0\0\0\x05T"[..]);
        assert!(Interlude::roll_back(false).receive(&mut input, &mut out).is_err());
    }
}
