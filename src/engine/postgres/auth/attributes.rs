//! The `a=value,b=value` text of SCRAM messages (RFC 5802 section 7), read with PostgreSQL's rules and wording.

use super::scram::ScramError;

/// Longest piece of a client's text that is repeated in an error message, as in PostgreSQL.
const QUOTED_LENGTH: usize = 30;

/// A reader over one message that cannot run off its end: past it, [`Attributes::peek`] is `None`.
#[derive(Debug, Clone)]
pub(super) struct Attributes<'a> {
    message: &'a [u8],
    position: usize,
}

impl<'a> Attributes<'a> {
    /// Starts at the first byte of `message`; refuses what PostgreSQL's C strings could not hold.
    pub(super) fn new(message: &'a [u8]) -> Result<Attributes<'a>, ScramError> {
        if message.is_empty() {
            return Err(malformed("The message is empty."));
        }
        if message.contains(&0) {
            return Err(malformed("Message length does not match input length."));
        }
        Ok(Attributes { message, position: 0 })
    }

    /// The next byte, left where it is.
    pub(super) fn peek(&self) -> Option<u8> {
        self.message.get(self.position).copied()
    }

    /// Everything not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.message[self.position..]
    }

    /// Everything up to the comma before the next attribute, without that comma.
    pub(super) fn before_comma(&self) -> &'a [u8] {
        &self.message[..self.position.saturating_sub(1)]
    }

    /// Steps over the byte that [`Attributes::peek`] showed.
    pub(super) fn skip(&mut self) {
        self.position = (self.position + 1).min(self.message.len());
    }

    /// Steps over a comma.
    pub(super) fn comma(&mut self) -> Result<(), ScramError> {
        if self.peek() != Some(b',') {
            let found = quoted_byte(self.peek());
            return Err(malformed(format!("Comma expected, but found character \"{found}\".")));
        }
        self.skip();
        Ok(())
    }

    /// The value of the next attribute, which must be called `name`.
    pub(super) fn value_of(&mut self, name: u8) -> Result<&'a [u8], ScramError> {
        if self.peek() != Some(name) {
            let (name, found) = (char::from(name), quoted_byte(self.peek()));
            return Err(malformed(format!("Expected attribute \"{name}\" but found \"{found}\".")));
        }
        self.value_after_name(name)
    }

    /// Name and value of the next attribute, whatever it is.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), ScramError> {
        let Some(name) = self.peek() else {
            return Err(malformed("Attribute expected, but found end of string."));
        };
        if !name.is_ascii_alphabetic() {
            let found = quoted_byte(Some(name));
            return Err(malformed(format!("Attribute expected, but found invalid character \"{found}\".")));
        }
        Ok((name, self.value_after_name(name)?))
    }

    fn value_after_name(&mut self, name: u8) -> Result<&'a [u8], ScramError> {
        self.skip();
        if self.peek() != Some(b'=') {
            let name = char::from(name);
            return Err(malformed(format!("Expected character \"=\" for attribute \"{name}\".")));
        }
        self.skip();
        let rest = self.rest();
        let length = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        self.position += length;
        self.skip();
        Ok(&rest[..length])
    }
}

/// `malformed SCRAM message` with this detail.
pub(super) fn malformed(detail: impl Into<String>) -> ScramError {
    ScramError::Malformed { detail: detail.into() }
}

/// Whether a nonce is RFC 5802's `printable`: visible ASCII without the comma.
pub(super) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// One byte for an error message; the end of the message reads as the NUL that PostgreSQL would see there.
pub(super) fn quoted_byte(byte: Option<u8>) -> String {
    let byte = byte.unwrap_or(0);
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("0x{byte:02x}") }
}

/// A client's text for an error message: short, and nothing but visible ASCII.
pub(super) fn quoted_text(text: &[u8]) -> String {
    let visible = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    text.iter().take(QUOTED_LENGTH).map(visible).collect()
}
