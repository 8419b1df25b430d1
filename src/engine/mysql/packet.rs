//! Packets: three bytes of length, one of sequence, a body of up to 16 MiB less one byte; a body of that length goes on in
//! the next packet (MySQL "Protocol Basics: MySQL Packets").

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of a packet's header.
pub const HEADER: usize = 4;
/// The length that says that the next packet goes on with the same body.
pub const SPLIT: usize = 0xff_ff_ff;

/// The whole length of the packet at the front of `bytes`, header included; `None`: the header is not there.
pub fn packet_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(header[0]) + (usize::from(header[1]) << 8) + (usize::from(header[2]) << 16))
}

/// A packet that was taken whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its sequence number.
    pub sequence: u8,
    /// Its body.
    pub body: Bytes,
}

/// Takes a whole packet of at most `limit` bytes of body. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// A text for the log, when it is longer (a split packet is, for whoever calls this).
pub fn take(input: &mut BytesMut, limit: usize) -> Result<Option<Packet>, &'static str> {
    let Some(length) = packet_length(input) else { return Ok(None) };
    if length - HEADER > limit {
        return Err("the packet is too long");
    }
    if input.len() < length {
        return Ok(None);
    }
    let sequence = input[3];
    let mut body = input.split_to(length).freeze();
    body.advance(HEADER);
    Ok(Some(Packet { sequence, body }))
}

/// Appends a packet; `write` writes its body, of less than 16 MiB.
pub fn put(out: &mut BytesMut, sequence: u8, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER);
    write(out);
    let length = u32::try_from(out.len() - start - HEADER).unwrap_or(0).to_le_bytes();
    out[start..start + 3].copy_from_slice(&length[..3]);
    out[start + 3] = sequence;
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut BytesMut, value: u64) {
    match value {
        #[expect(clippy::cast_possible_truncation, reason = "the arm bounds it")]
        0..=250 => out.put_u8(value as u8),
        251..=0xffff => {
            out.put_u8(0xfc);
            out.put_uint_le(value, 2);
        }
        0x1_0000..=0xff_ffff => {
            out.put_u8(0xfd);
            out.put_uint_le(value, 3);
        }
        _ => {
            out.put_u8(0xfe);
            out.put_u64_le(value);
        }
    }
}

/// Appends a length-encoded string.
pub fn put_string(out: &mut BytesMut, text: &[u8]) {
    put_lenenc(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Takes a length-encoded integer. `None`: malformed, or NULL (0xfb).
pub fn take_lenenc(rest: &mut &[u8]) -> Option<u64> {
    let (&first, mut tail) = rest.split_first()?;
    let value = match first {
        0..=250 => u64::from(first),
        0xfc if tail.len() >= 2 => tail.get_uint_le(2),
        0xfd if tail.len() >= 3 => tail.get_uint_le(3),
        0xfe if tail.len() >= 8 => tail.get_u64_le(),
        _ => return None,
    };
    *rest = tail;
    Some(value)
}

/// Takes a length-encoded string.
pub fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_lenenc(rest)?).ok()?;
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(text)
}

/// Takes a string that ends with a zero byte; the zero is taken too.
pub fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&byte| byte == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}

/// Appends an `ERR` packet with a state ("Protocol Basics: `ERR_Packet`").
pub fn put_error(out: &mut BytesMut, sequence: u8, code: u16, state: &str, text: &str) {
    put(out, sequence, |out| {
        out.put_u8(0xff);
        out.put_u16_le(code);
        out.put_u8(b'#');
        out.extend_from_slice(state.as_bytes());
        out.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenenc_round_trips() {
        for value in [0, 250, 251, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000, u64::MAX] {
            let mut out = BytesMut::new();
            put_lenenc(&mut out, value);
            let mut rest = &out[..];
            assert_eq!((take_lenenc(&mut rest), rest.len()), (Some(value), 0));
            assert_eq!(take_lenenc(&mut &out[..out.len() - 1]), None);
        }
    }

    #[test]
    fn packets_are_taken_whole() {
        let mut out = BytesMut::new();
        put_error(&mut out, 1, 1105, "HY000", "text");
        assert_eq!(&out[..], b"\x0d\0\0\x01\xff\x51\x04#HY000text");
        let mut part = BytesMut::from(&out[..out.len() - 1]);
        assert_eq!(take(&mut part, 100), Ok(None));
        assert_eq!(take(&mut out, 100).unwrap().unwrap().sequence, 1);
        assert!(out.is_empty());
    }
}
