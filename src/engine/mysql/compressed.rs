//! The compressed protocol: packets, cut anywhere, in frames of a seven byte header: three bytes of length, one of
//! sequence, three of the length before compression, or 0 if the frame is not compressed (MySQL "Compressed Packet").
//!
//! Frames have sequence numbers of their own. They begin at 0 with each command, and an answer goes on from the last
//! frame of its command, while the packets inside are numbered on as in the plain protocol. Clients and servers of both
//! products look at the frames' numbers only, so what clients write into the packets is not to be relied on: within an
//! exchange (a file for `LOAD DATA LOCAL`, an authentication) they number them by the frames, and MariaDB's library gives
//! 0 to each part of a command of 16 MiB and more. A server behind a plain connection looks, so they are numbered here.

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::capability::Compression;
use super::packet::{HEADER as PACKET_HEADER, SPLIT, packet_length};
use crate::engine::{BadFrame, Framing};
use codec::{Inflate, deflate};

mod codec;
#[cfg(test)]
mod tests;

/// Length of a frame's header.
const HEADER: usize = 7;
/// Less is not worth it; both products' servers and clients draw the line here.
const MIN_COMPRESSED: usize = 50;
/// Whole packets go into a frame up to this length: compressing it must not take long, because other sessions share the
/// thread.
const MAX_FRAME: usize = 32 * 1024;
/// A packet up to this length is not cut. Servers cut each once at most, and some clients (Connector/Python) rely on it; but
/// who compresses a packet has to have all of it. So a longer one is cut once, too, and its rest, whose length is known, goes
/// uncompressed as it comes; or it is cut often and compressed, for clients that are known to take that.
const MAX_WHOLE: usize = 1024 * 1024;

/// See the module.
pub struct Compressed {
    algorithm: Compression,
    reading: Reading,
    numbers: Numbers,
    incoming: Incoming,
    outgoing: Outgoing,
}

/// Where in the client's frames we are.
enum Reading {
    Header,
    Plain { left: usize },
    Packed { left: usize, room: usize, inflate: Box<Inflate> },
}

/// What a frame of the client's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The first of a command.
    Command,
    /// One that follows another one.
    More,
    /// The first after a part of an answer.
    Reply,
}

/// The numbers of the frames.
#[derive(Default)]
struct Numbers {
    /// The number of the next frame to the client.
    next: u8,
    /// Where the answer to what the client sent last begins.
    answer: Option<u8>,
    /// The number after the client's last frame.
    after_client: u8,
    /// Something was written since the client's last frame.
    answered: bool,
}

/// The packets in what the client sends.
#[derive(Default)]
struct Incoming {
    header: [u8; PACKET_HEADER],
    have: usize,
    left: usize,
    /// The number of the next packet.
    next: u8,
    /// Packets belong together: the client goes on where the server has asked it to.
    exchange: bool,
}

/// What of the packets to the client goes out next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// Nothing yet.
    Nothing,
    /// So much, in a frame of its own.
    Frame(usize),
    /// The header of a frame of this length that is not compressed.
    Opening(usize),
    /// So much of that frame.
    Plain(usize),
}

/// The packets in what the client is sent.
#[derive(Default)]
struct Outgoing {
    /// The client takes a packet in any number of frames.
    cuts: bool,
    /// So much of a frame whose header has gone out is still to come.
    plain: usize,
    /// The front of a packet whose rest has not come.
    stash: BytesMut,
    /// So much of a packet that is cut is still to come.
    left: usize,
    /// The number of the packet that began last.
    number: Option<u8>,
}

impl Compressed {
    /// For a client that has been let in. `cuts`: it is known to take a packet in any number of frames.
    pub fn new(algorithm: Compression, cuts: bool) -> Compressed {
        Compressed {
            algorithm,
            reading: Reading::Header,
            numbers: Numbers::default(),
            incoming: Incoming::default(),
            outgoing: Outgoing { cuts, ..Outgoing::default() },
        }
    }

    /// The frame that begins at the front of `input`.
    fn begin(&mut self, input: &mut BytesMut) -> Result<bool, BadFrame> {
        if input.len() < HEADER {
            return Ok(false);
        }
        let left = usize::try_from(input.get_uint_le(3)).unwrap_or(0);
        let number = input.get_u8();
        let room = usize::try_from(input.get_uint_le(3)).unwrap_or(0);
        self.incoming.frame(self.numbers.received(number)?, &self.outgoing);
        self.reading = match (left, room) {
            (0, 0) => Reading::Header,
            (_, 0) => Reading::Plain { left },
            (0, _) => return Err(BadFrame("a compressed frame is empty")),
            _ => Reading::Packed { left, room, inflate: Box::new(Inflate::new(self.algorithm)?) },
        };
        Ok(true)
    }
}

impl Framing for Compressed {
    fn unwrap(&mut self, input: &mut BytesMut, out: &mut [u8]) -> Result<usize, BadFrame> {
        loop {
            let written = match &mut self.reading {
                Reading::Header => {
                    if !self.begin(input)? {
                        return Ok(0);
                    }
                    continue;
                }
                Reading::Plain { left } => {
                    let count = (*left).min(input.len()).min(out.len());
                    out[..count].copy_from_slice(&input[..count]);
                    input.advance(count);
                    *left -= count;
                    if *left == 0 {
                        self.reading = Reading::Header;
                    }
                    count
                }
                Reading::Packed { left, room, inflate } => {
                    let (written, done) = unpack(input, out, left, room, inflate)?;
                    if done {
                        self.reading = Reading::Header;
                    }
                    written
                }
            };
            self.incoming.renumber(&mut out[..written]);
            if written > 0 || input.is_empty() {
                return Ok(written);
            }
        }
    }

    fn wrap(&mut self, bytes: &[u8], out: &mut BytesMut) -> usize {
        let taken = bytes.len().min(MAX_FRAME);
        self.outgoing.stash.extend_from_slice(&bytes[..taken]);
        loop {
            match self.outgoing.piece(&mut self.numbers) {
                Piece::Nothing => return taken,
                Piece::Frame(length) => {
                    let number = self.numbers.sent();
                    put_frame(out, self.algorithm, number, &self.outgoing.stash.split_to(length));
                }
                Piece::Opening(length) => {
                    let start = out.len();
                    out.put_bytes(0, HEADER);
                    write_header(&mut out[start..], length, self.numbers.sent(), 0);
                }
                Piece::Plain(length) => out.extend_from_slice(&self.outgoing.stash.split_to(length)),
            }
        }
    }
}

/// One step within a compressed frame: how much it wrote, and whether the frame is over.
fn unpack(
    input: &mut BytesMut,
    out: &mut [u8],
    left: &mut usize,
    room: &mut usize,
    inflate: &mut Inflate,
) -> Result<(usize, bool), BadFrame> {
    let part = &input[..input.len().min(*left)];
    let end = out.len().min(*room);
    // Even at the end there must be room: the last bytes in may be a checksum, or more than was said.
    let mut beyond = [0];
    let step = inflate.step(part, if *room == 0 { &mut beyond } else { &mut out[..end] })?;
    if step.written > *room {
        return Err(BadFrame("a frame is longer than it says"));
    }
    let stuck = step.read == 0 && step.written == 0 && !part.is_empty();
    input.advance(step.read);
    *left -= step.read;
    *room -= step.written;
    if step.done && (*left > 0 || *room > 0) {
        return Err(BadFrame("a frame is shorter than it says"));
    }
    if !step.done && (stuck || *left == 0 && step.written == 0) {
        return Err(BadFrame("a frame ends before its data do"));
    }
    Ok((step.written, step.done))
}

fn put_frame(out: &mut BytesMut, algorithm: Compression, number: u8, bytes: &[u8]) {
    let start = out.len();
    out.put_bytes(0, HEADER + bytes.len());
    let body = &mut out[start + HEADER..];
    let packed = (bytes.len() >= MIN_COMPRESSED).then(|| deflate(algorithm, bytes, body)).flatten();
    let (length, plain_length) = match packed {
        Some(length) => (length, bytes.len()),
        None => {
            body.copy_from_slice(bytes);
            (bytes.len(), 0)
        }
    };
    out.truncate(start + HEADER + length);
    write_header(&mut out[start..start + HEADER], length, number, plain_length);
}

fn write_header(mut header: &mut [u8], length: usize, number: u8, plain_length: usize) {
    header.put_uint_le(length as u64, 3);
    header.put_u8(number);
    header.put_uint_le(plain_length as u64, 3);
}

impl Numbers {
    /// A frame of the client's.
    fn received(&mut self, number: u8) -> Result<Place, BadFrame> {
        let expected = if self.answered { self.next } else { self.after_client };
        let place = match number {
            _ if number == expected && !self.answered => Place::More,
            0 => Place::Command,
            _ if number == expected => Place::Reply,
            _ => return Err(BadFrame("frames are out of order")),
        };
        self.after_client = number.wrapping_add(1);
        self.answer = Some(self.after_client);
        self.answered = false;
        Ok(place)
    }

    /// The number of a frame to the client.
    fn sent(&mut self) -> u8 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.answered = true;
        number
    }

    /// Whether a packet of this number begins an answer, `before` being the number of the one before.
    ///
    /// A client that sends further commands while a long answer comes in leaves a doubt where the numbers wrap: then
    /// the answer to a client that waits for answers is the one that must be right.
    fn begins(&self, number: u8, before: Option<u8>) -> bool {
        let follows = before.is_some_and(|before| number == before.wrapping_add(1));
        match self.answer {
            None => !follows,
            Some(1) => !follows || number == 1,
            Some(_) => true,
        }
    }

    /// An answer begins with the packet of this number.
    fn begin(&mut self, number: u8) {
        self.next = self.answer.take().unwrap_or(number);
    }
}

impl Incoming {
    /// A frame begins.
    fn frame(&mut self, place: Place, outgoing: &Outgoing) {
        match place {
            Place::Command => (self.next, self.exchange) = (0, false),
            Place::More => {}
            Place::Reply => {
                self.next = outgoing.number.map_or(0, |number| number.wrapping_add(1));
                self.exchange = true;
            }
        }
    }

    fn renumber(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let body = self.left.min(bytes.len());
                self.left -= body;
                bytes = &mut bytes[body..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            if self.have == PACKET_HEADER {
                self.have = 0;
                self.left = packet_length(&self.header).unwrap_or(0).saturating_sub(PACKET_HEADER);
                bytes[0] = self.next;
                let goes_on = self.exchange || self.left == SPLIT;
                self.next = if goes_on { self.next.wrapping_add(1) } else { 0 };
            }
            bytes = &mut bytes[1..];
        }
    }
}

impl Outgoing {
    fn piece(&mut self, numbers: &mut Numbers) -> Piece {
        let there = self.stash.len();
        match () {
            () if self.plain > 0 => {
                let part = self.plain.min(there);
                self.plain -= part;
                if part > 0 { Piece::Plain(part) } else { Piece::Nothing }
            }
            () if self.left > 0 && self.cuts => {
                let part = self.left.min(there);
                self.left -= part;
                if part > 0 { Piece::Frame(part) } else { Piece::Nothing }
            }
            () if self.left > 0 => {
                self.plain = std::mem::take(&mut self.left);
                Piece::Opening(self.plain)
            }
            () => match self.frame(numbers) {
                0 => Piece::Nothing,
                length => Piece::Frame(length),
            },
        }
    }

    /// How much of what is there goes into the next frame: whole packets of one answer, or the front of a long one; 0:
    /// nothing yet.
    fn frame(&mut self, numbers: &mut Numbers) -> usize {
        let mut end = 0;
        while let Some(length) = packet_length(&self.stash[end..]) {
            let number = self.stash[end + 3];
            let whole = end + length <= self.stash.len();
            let begins = numbers.begins(number, self.number);
            if end > 0 && (!whole || begins || end + length > MAX_FRAME) || !whole && length <= MAX_WHOLE {
                break;
            }
            if begins {
                numbers.begin(number);
            }
            self.number = Some(number);
            if !whole {
                self.left = length - self.stash.len();
                return self.stash.len();
            }
            end += length;
        }
        end
    }
}
