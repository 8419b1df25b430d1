//! As much of MySQL's protocol as a log in without a password and `SELECT 1` take.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::restart::PATIENCE;
use crate::stage::mysql::ROOT;

/// CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION and CLIENT_PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x200 | 0x8000 | 0x8_0000;
/// utf8mb4_general_ci, which all of them know.
const COLLATION: u8 = 45;
const LARGEST_PACKET: u32 = 1 << 24;
/// The first byte of a packet.
const OK: u8 = 0;
const ERROR: u8 = 0xff;
const END: u8 = 0xfe;
const QUERY: u8 = 3;

/// Logs in as the user that needs no password, and has `SELECT 1` answered.
pub(crate) fn greet(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let (_, greeting) = read(&mut stream);
    // The greeting ends with the name of the server's usual method.
    let method = greeting.strip_suffix(b"\0").and_then(|rest| rest.rsplit(|&byte| byte == 0).next());
    let mut reply = CAPABILITIES.to_le_bytes().to_vec();
    reply.extend_from_slice(&LARGEST_PACKET.to_le_bytes());
    reply.push(COLLATION);
    reply.extend_from_slice(&[0; 23]);
    reply.extend_from_slice(ROOT.as_bytes());
    // The end of the name, and no bytes of a password.
    reply.extend_from_slice(b"\0\0");
    reply.extend_from_slice(method.unwrap_or_default());
    reply.push(0);
    write(&mut stream, 1, &reply);
    loop {
        match read(&mut stream) {
            (_, packet) if packet[0] == OK => break,
            // Another method for this user: no password is no bytes with every one.
            (number, packet) if packet[0] == END => write(&mut stream, number + 1, &[]),
            (_, packet) => panic!("the bare server: {}", String::from_utf8_lossy(&packet)),
        }
    }
    write(&mut stream, 0, &[&[QUERY], b"SELECT 1".as_slice()].concat());
    // The columns end with one of these, and the rows with another.
    let mut ends = 0;
    while ends < 2 {
        let (_, packet) = read(&mut stream);
        assert!(packet[0] != ERROR, "the bare server: {}", String::from_utf8_lossy(&packet));
        ends += u8::from(packet[0] == END);
    }
    stream
}

/// A packet and its number.
fn read(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; 4];
    stream.read_exact(&mut header).expect("an answer");
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).expect("an answer");
    assert!(!packet.is_empty(), "the bare server sends an empty packet");
    (header[3], packet)
}

fn write(stream: &mut UnixStream, number: u8, body: &[u8]) {
    let mut packet = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
    packet[3] = number;
    packet.extend_from_slice(body);
    stream.write_all(&packet).expect("a server that reads");
}
