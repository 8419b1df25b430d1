//! The packets of a handshake, both ways.
//!
//! ```text
//! server                         client
//! Hello (handshake v10) ───────►
//!                       ◄─────── SSLRequest, then TLS
//!                       ◄─────── Response (HandshakeResponse41)
//! ```
//!
//! Sources: MySQL "Protocol::HandshakeV10", "Protocol::SSLRequest", "Protocol::HandshakeResponse41" and
//! `COM_CHANGE_USER`; MariaDB "Connection: initial handshake packet" (where its extended capabilities lie).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::capability::{Compression, Contract, EXTENDED, Product, bit};
use super::packet::{self, put_lenenc, put_string, take_lenenc, take_string, take_text};

/// Length of a challenge.
pub const SALT: usize = 20;
/// Length of the body of an SSLRequest, and of what every response begins with.
const FIXED: usize = 32;
/// The largest packet that either side may send, as far as it says; servers have a limit of their own.
const MAX_PACKET: u32 = 1 << 30;

/// What a server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The connection id.
    pub id: u32,
    /// The challenge.
    pub salt: [u8; SALT],
    /// All that it can.
    pub capabilities: u64,
    /// Version, collation, default plugin.
    pub version: String,
    /// See above.
    pub collation: u8,
    /// See above.
    pub plugin: String,
}

impl Hello {
    /// The router's own.
    pub fn of(contract: &Contract, id: u32, salt: [u8; SALT]) -> Hello {
        let Contract { version, collation, plugin, .. } = contract;
        let (version, plugin) = (version.clone(), plugin.clone());
        Hello { id, salt, capabilities: contract.offer(), version, collation: *collation, plugin }
    }

    /// What it says of the server.
    pub fn contract(&self) -> Contract {
        Contract {
            product: Product::of(&self.version),
            version: self.version.clone(),
            capabilities: Contract::carried(self.capabilities),
            collation: self.collation,
            plugin: self.plugin.clone(),
        }
    }

    /// Writes the packet.
    pub fn put(&self, out: &mut BytesMut) {
        let words = self.capabilities.to_le_bytes();
        packet::put(out, 0, |out| {
            out.put_u8(10);
            out.put_slice(self.version.as_bytes());
            out.put_u8(0);
            out.put_u32_le(self.id);
            out.put_slice(&self.salt[..8]);
            out.put_u8(0);
            out.put_slice(&words[..2]);
            out.put_u8(self.collation);
            // The status: autocommit.
            out.put_u16_le(2);
            out.put_slice(&words[2..4]);
            out.put_u8(21);
            out.put_bytes(0, 6);
            match Product::of(&self.version) {
                Product::MariaDb => out.put_slice(&words[4..]),
                Product::MySql | Product::MySql56 => out.put_bytes(0, 4),
            }
            out.put_slice(&self.salt[8..]);
            out.put_u8(0);
            out.put_slice(self.plugin.as_bytes());
            out.put_u8(0);
        });
    }

    /// Reads the body of a server's first packet. `None`: it is not the protocol's, or older than 4.1.
    pub fn read(body: &[u8]) -> Option<Hello> {
        let mut rest = body.strip_prefix(&[10])?;
        let version = String::from_utf8_lossy(take_text(&mut rest)?).into_owned();
        if rest.len() < 31 {
            return None;
        }
        let id = rest.get_u32_le();
        let mut salt = [0; SALT];
        rest.copy_to_slice(&mut salt[..8]);
        rest.advance(1);
        let low = u64::from(rest.get_u16_le());
        let collation = rest.get_u8();
        rest.advance(2);
        let mut capabilities = low | u64::from(rest.get_u16_le()) << 16;
        rest.advance(7);
        let extended = u64::from(rest.get_u32_le()) << 32;
        if capabilities & bit::LONG_PASSWORD == 0 {
            capabilities |= extended;
        }
        if capabilities & bit::PROTOCOL_41 == 0 || rest.len() < SALT - 8 {
            return None;
        }
        rest.copy_to_slice(&mut salt[8..]);
        let rest = rest.strip_prefix(&[0]).unwrap_or(rest);
        let plugin = rest.split(|&byte| byte == 0).next().unwrap_or_default();
        let plugin = String::from_utf8_lossy(plugin).into_owned();
        Some(Hello { id, salt, capabilities, version, collation, plugin })
    }
}

/// What a client says of itself, in a handshake or in `COM_CHANGE_USER`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// Its capabilities, cut down to what was offered; [`bit::LONG_PASSWORD`] as it came.
    pub capabilities: u64,
    /// Its collation id; `COM_CHANGE_USER` has larger ones.
    pub collation: u16,
    /// The account's name.
    pub user: String,
    /// The answer to the challenge.
    pub answer: Bytes,
    /// The database; `None`: none.
    pub database: Option<String>,
    /// By which plugin the challenge was answered; empty: the client knows none but the oldest.
    pub plugin: String,
    /// The connection attributes without the length before them.
    pub attributes: Bytes,
    /// What it can pack and unpack.
    pub compression: Option<Compression>,
}

/// What the first packet of a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// It wants TLS first.
    Tls,
    /// It has answered.
    Response(Box<Response>),
    /// It speaks a protocol that is older than 4.1.
    Old,
    /// Something else.
    Malformed,
}

impl First {
    /// Reads the body of a client's packet.
    ///
    /// The layout goes by the flags *after* they were cut down to the offer, as in the server: there are clients that
    /// set flags which were not offered (the command line client of 9.7 does) and send nothing for them.
    pub fn read(body: &Bytes, offer: u64) -> First {
        let Some(low) = body.first_chunk::<2>() else { return First::Malformed };
        if u64::from(u16::from_le_bytes(*low)) & bit::PROTOCOL_41 == 0 {
            return First::Old;
        }
        if body.len() < FIXED {
            return First::Malformed;
        }
        let capabilities = cut(body, offer);
        if body.len() == FIXED && capabilities & bit::SSL != 0 {
            return First::Tls;
        }
        Response::read(body, capabilities)
            .map_or(First::Malformed, |response| First::Response(response.into()))
    }
}

/// The capabilities in the front of a client's packet.
fn cut(body: &[u8], offer: u64) -> u64 {
    let word = |at: usize| {
        let bytes = body.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        u64::from(u32::from_le_bytes(bytes.copied().unwrap_or_default()))
    };
    let plain = word(0);
    let extended = if plain & bit::LONG_PASSWORD == 0 { word(FIXED - 4) << 32 } else { 0 };
    (plain | extended) & offer | plain & bit::LONG_PASSWORD
}

impl Response {
    fn read(body: &Bytes, capabilities: u64) -> Option<Response> {
        let has = |bits| capabilities & bits != 0;
        let collation = u16::from(*body.get(8)?);
        let mut rest = body.get(FIXED..)?;
        let user = text(take_text(&mut rest)?);
        let answer = if has(bit::PLUGIN_AUTH_LENENC) {
            take_string(&mut rest)?
        } else if has(bit::SECURE_CONNECTION) {
            take_short(&mut rest)?
        } else {
            take_text(&mut rest)?
        };
        let answer = body.slice_ref(answer);
        // Drivers leave the last zero away.
        let database = has(bit::CONNECT_WITH_DB).then(|| text(take_last_text(&mut rest)));
        let plugin = if has(bit::PLUGIN_AUTH) { text(take_last_text(&mut rest)) } else { String::new() };
        let attributes =
            if has(bit::CONNECT_ATTRS) { take_attributes(body, &mut rest)? } else { Bytes::new() };
        let compression = if has(bit::COMPRESS) {
            Some(Compression::Zlib)
        } else if has(bit::ZSTD) {
            Some(Compression::Zstd(rest.first().copied().unwrap_or_default().clamp(1, 22)))
        } else {
            None
        };
        let database = database.filter(|name| !name.is_empty());
        Some(Response { capabilities, collation, user, answer, database, plugin, attributes, compression })
    }

    /// Reads the body of `COM_CHANGE_USER` from a client with these capabilities.
    pub fn read_change(body: &Bytes, capabilities: u64) -> Option<Response> {
        let mut rest = body.get(1..)?;
        let user = text(take_text(&mut rest)?);
        let answer = body.slice_ref(take_short(&mut rest)?);
        let database = Some(text(take_last_text(&mut rest))).filter(|name| !name.is_empty());
        let mut response = Response { capabilities, user, answer, database, ..Response::default() };
        if rest.len() >= 2 {
            response.collation = rest.get_u16_le();
        }
        if capabilities & bit::PLUGIN_AUTH != 0 {
            response.plugin = text(take_last_text(&mut rest));
        }
        if capabilities & bit::CONNECT_ATTRS != 0 {
            response.attributes = take_attributes(body, &mut rest)?;
        }
        Some(response)
    }

    /// Writes the packet that logs in.
    pub fn put(&self, out: &mut BytesMut, sequence: u8) {
        let mut capabilities = self.capabilities;
        if capabilities & EXTENDED == 0 {
            capabilities |= bit::LONG_PASSWORD;
        } else {
            capabilities &= !bit::LONG_PASSWORD;
        }
        let words = capabilities.to_le_bytes();
        packet::put(out, sequence, |out| {
            out.put_slice(&words[..4]);
            out.put_u32_le(MAX_PACKET);
            out.put_u8(u8::try_from(self.collation).unwrap_or(u8::MAX));
            out.put_bytes(0, 19);
            out.put_slice(&words[4..]);
            put_text(out, self.user.as_bytes());
            // The offer of a server that cannot take longer answers leaves the bit away; none is longer than 250 bytes.
            put_string(out, &self.answer);
            if let Some(database) = &self.database {
                put_text(out, database.as_bytes());
            }
            put_text(out, self.plugin.as_bytes());
            if capabilities & bit::CONNECT_ATTRS != 0 {
                put_lenenc(out, self.attributes.len() as u64);
                out.put_slice(&self.attributes);
            }
        });
    }
}

fn put_text(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Takes a string with one byte of length.
fn take_short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&length, tail) = rest.split_first()?;
    let (taken, tail) = tail.split_at_checked(usize::from(length))?;
    *rest = tail;
    Some(taken)
}

/// Takes a string that ends with a zero byte or with the packet.
fn take_last_text<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    take_text(rest).unwrap_or_else(|| std::mem::take(rest))
}

fn take_attributes(body: &Bytes, rest: &mut &[u8]) -> Option<Bytes> {
    if rest.is_empty() {
        return Some(Bytes::new());
    }
    let length = usize::try_from(take_lenenc(rest)?).ok()?;
    let (attributes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(body.slice_ref(attributes))
}

#[cfg(test)]
mod tests;
