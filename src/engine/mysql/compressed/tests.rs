//! Frames as the C client library makes and expects them, cut anywhere.

use bytes::{Buf as _, BytesMut};
use proptest::prelude::*;

use super::super::packet;
use super::*;

const BOTH: [Compression; 2] = [Compression::Zlib, Compression::Zstd(3)];

fn packets(first: u8, lengths: &[usize]) -> BytesMut {
    let mut out = BytesMut::new();
    for (index, length) in lengths.iter().enumerate() {
        let number = first.wrapping_add(u8::try_from(index % 256).unwrap());
        packet::put(&mut out, number, |out| out.resize(out.len() + length, b'x'));
    }
    out
}

fn frame(algorithm: Compression, number: u8, bytes: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put_frame(&mut out, algorithm, number, bytes);
    out
}

/// All that comes out, with room for `room` bytes at a time and `chunk` bytes coming in at a time.
fn unwrap_all(
    framing: &mut Compressed,
    bytes: &[u8],
    chunk: usize,
    room: usize,
) -> Result<Vec<u8>, BadFrame> {
    let (mut input, mut result, mut out) = (BytesMut::new(), Vec::new(), vec![0; room]);
    for part in bytes.chunks(chunk) {
        input.extend_from_slice(part);
        loop {
            let count = framing.unwrap(&mut input, &mut out)?;
            if count == 0 {
                break;
            }
            result.extend_from_slice(&out[..count]);
        }
    }
    Ok(result)
}

/// The frames that `bytes` are wrapped in, given in chunks: number and content.
fn wrap_all(framing: &mut Compressed, bytes: &[u8], chunk: usize) -> Vec<(u8, Vec<u8>)> {
    let mut out = BytesMut::new();
    for mut part in bytes.chunks(chunk) {
        while !part.is_empty() {
            let taken = framing.wrap(part, &mut out);
            assert!((1..=part.len()).contains(&taken));
            part = &part[taken..];
        }
    }
    frames(framing.algorithm, out)
}

fn frames(algorithm: Compression, mut bytes: BytesMut) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let left = usize::try_from(bytes.get_uint_le(3)).unwrap();
        let number = bytes.get_u8();
        let room = usize::try_from(bytes.get_uint_le(3)).unwrap();
        let body = bytes.split_to(left);
        if room == 0 {
            found.push((number, body.to_vec()));
            continue;
        }
        assert!(left < room && room >= MIN_COMPRESSED);
        let mut out = vec![0; room];
        let step = Inflate::new(algorithm).unwrap().step(&body, &mut out).unwrap();
        assert_eq!((step.read, step.written), (left, room));
        found.push((number, out));
    }
    found
}

fn numbers(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    frames.iter().map(|(number, _)| *number).collect()
}

#[test]
fn small_ones_go_as_they_are() {
    assert_eq!(&frame(Compression::Zlib, 7, b"abc")[..], b"\x03\0\0\x07\0\0\0abc");
    let packed = frame(Compression::Zlib, 0, &[b'x'; 50]);
    assert_eq!((packed.len() < 50, &packed[4..7]), (true, &b"\x32\0\0"[..]));
    // What does not shrink goes as it is, too.
    let random: Vec<u8> =
        (0..600u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[1]).collect();
    for algorithm in BOTH {
        let bytes = frame(algorithm, 0, &random[..60]);
        assert_eq!((bytes.len(), &bytes[4..7]), (67, &b"\0\0\0"[..]));
    }
}

#[test]
fn an_answer_goes_on_from_its_command() {
    for algorithm in BOTH {
        let mut framing = Compressed::new(algorithm, true);
        // A command in three frames, as the C library cuts a long one.
        let command = packets(0, &[40_000]);
        let parts: Vec<_> = command.chunks(16_000).collect();
        let wire: Vec<u8> =
            (0u8..).zip(&parts).flat_map(|(number, part)| frame(algorithm, number, part)).collect();
        assert_eq!(unwrap_all(&mut framing, &wire, 1000, 700).unwrap(), &command[..]);
        let frames = wrap_all(&mut framing, &packets(1, &[10, 20, 30]), 1000);
        assert_eq!((frames.len(), frames[0].0), (1, 3));
        assert_eq!(frames[0].1, &packets(1, &[10, 20, 30])[..]);
        // And begins anew with the next command.
        unwrap_all(&mut framing, &frame(algorithm, 0, &packets(0, &[5])), 99, 99).unwrap();
        assert_eq!(numbers(&wrap_all(&mut framing, &packets(1, &[7; 3]), 1000)), [1]);
    }
}

#[test]
fn a_long_answer_wraps() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
    let answer = packets(1, &[99; 600]);
    let frames = wrap_all(&mut framing, &answer, 100);
    let expected: Vec<u8> = (0..frames.len()).map(|n| u8::try_from((n + 1) % 256).unwrap()).collect();
    assert_eq!(numbers(&frames), expected);
    assert!(frames.len() > 512);
    let content: Vec<u8> = frames.into_iter().flat_map(|(_, content)| content).collect();
    assert_eq!(content, &answer[..]);
}

#[test]
fn the_client_waits_and_an_answer_of_256_packets_is_followed_by_another() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    for _ in 0..3 {
        unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
        assert_eq!(numbers(&wrap_all(&mut framing, &packets(1, &[9; 256]), 10_000)), [1]);
    }
}

#[test]
fn answers_to_commands_in_one_burst_begin_anew_each() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    let one = frame(Compression::Zlib, 0, &packets(0, &[5]));
    unwrap_all(&mut framing, &[&one[..], &one[..], &one[..]].concat(), 999, 99).unwrap();
    let answers = [packets(1, &[7]), packets(1, &[90; 300]), packets(1, &[7])].concat();
    let frames = wrap_all(&mut framing, &answers, 100_000);
    assert_eq!(numbers(&frames), [1, 1, 1]);
    assert_eq!(frames[1].1.len(), 300 * 94);
}

#[test]
fn commands_without_an_answer() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    // COM_STMT_SEND_LONG_DATA in two frames, then COM_STMT_EXECUTE.
    let long = packets(0, &[20_000]);
    for (number, part) in [(0, &long[..16_384]), (1, &long[16_384..]), (0, &packets(0, &[30])[..])] {
        unwrap_all(&mut framing, &frame(Compression::Zlib, number, part), 999, 999).unwrap();
    }
    assert_eq!(numbers(&wrap_all(&mut framing, &packets(1, &[7]), 100)), [1]);
}

#[test]
fn what_the_client_sends_within_an_exchange_is_renumbered() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[60])), 99, 99).unwrap();
    // A first result of 8 packets and the request for a file in one frame: the library numbers the file from 2.
    assert_eq!(numbers(&wrap_all(&mut framing, &packets(1, &[9; 9]), 999)), [1]);
    let file = packets(2, &[100; 300]);
    let (one, two) = file.split_at(777);
    let wire = [frame(Compression::Zlib, 2, one), frame(Compression::Zlib, 3, two)].concat();
    assert_eq!(unwrap_all(&mut framing, &wire, 500, 333).unwrap(), &packets(10, &[100; 300])[..]);
    let last = frame(Compression::Zlib, 4, &packets(46, &[0]));
    assert_eq!(unwrap_all(&mut framing, &last, 99, 99).unwrap(), &packets(54, &[0])[..]);
    // The answer goes on from the frames.
    assert_eq!(numbers(&wrap_all(&mut framing, &packets(55, &[7]), 999)), [5]);
    // And the next command is numbered as it comes.
    let next = frame(Compression::Zlib, 0, &packets(0, &[60]));
    assert_eq!(unwrap_all(&mut framing, &next, 99, 99).unwrap(), &packets(0, &[60])[..]);
}

/// A command of more than 16 MiB as MariaDB's library numbers it.
#[test]
fn the_parts_of_a_long_command_are_renumbered() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    let (first, last) = (packets(0, &[packet::SPLIT]), packets(0, &[77]));
    let mut wire = BytesMut::new();
    for (number, part) in (0u8..).zip(first.chunks(1 << 23).chain([&last[..]])) {
        put_frame(&mut wire, Compression::Zlib, number, part);
    }
    let plain = unwrap_all(&mut framing, &wire, 10_000, 10_000).unwrap();
    assert_eq!(plain[..first.len()], first[..]);
    assert_eq!(plain[first.len()..], packets(1, &[77])[..]);
    assert_eq!(numbers(&wrap_all(&mut framing, &packets(2, &[7]), 999)), [4]);
    unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
    assert_eq!(numbers(&wrap_all(&mut framing, &packets(1, &[7]), 999)), [1]);
}

#[test]
fn an_error_that_nobody_asked_for() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    assert_eq!(numbers(&wrap_all(&mut framing, &packets(0, &[30]), 100)), [0]);
}

/// Packets of 400 kB are not cut, longer ones than a mebibyte are, and nothing waits that nobody waits for.
#[test]
fn packets_are_not_cut_without_need() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
    let answer = packets(1, &[10, 400_000, 20, 30, 3_000_000, 40]);
    let frames = wrap_all(&mut framing, &answer, 20_000);
    let lengths: Vec<usize> = frames.iter().map(|(_, content)| content.len()).collect();
    assert_eq!(lengths[..3], [14, 400_004, 24 + 34]);
    assert!(lengths[3..].iter().all(|length| *length <= MAX_WHOLE + 2 * MAX_FRAME), "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), answer.len());
}

/// Connector/Python joins two frames of a packet, and no third.
#[test]
fn a_packet_is_cut_once_for_who_may_not_take_more() {
    for chunk in [7_000, 32_768, 2_000_000] {
        let mut framing = Compressed::new(Compression::Zlib, false);
        unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
        // The longest packet there is, and what goes on with it.
        let answer = packets(1, &[10, 3_000_000, SPLIT, 40, MAX_WHOLE, 1_048_577, 0]);
        let frames = wrap_all(&mut framing, &answer, chunk);
        let expected: Vec<u8> = (0..frames.len()).map(|n| u8::try_from(n + 1).unwrap()).collect();
        assert_eq!(numbers(&frames), expected);
        let mut frames = frames.into_iter().map(|(_, content)| content);
        let mut read = Vec::new();
        while let Some(mut content) = frames.next() {
            let mut at = 0;
            while at < content.len() {
                let length = packet::packet_length(&content[at..]).unwrap();
                if at + length > content.len() {
                    content.extend(frames.next().unwrap());
                }
                at += length;
                assert!(at <= content.len());
            }
            read.extend(content);
        }
        assert_eq!(read, &answer[..]);
    }
}

#[test]
fn a_long_packet_does_not_wait_for_its_end() {
    let mut framing = Compressed::new(Compression::Zlib, false);
    unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
    let answer = packets(1, &[10_000_000]);
    let mut out = BytesMut::new();
    let (mut wrapped, mut written) = (0, 0);
    for part in answer.chunks(30_000) {
        wrapped += framing.wrap(part, &mut out);
        written += out.len();
        assert!(framing.outgoing.stash.is_empty() && out.len() <= part.len() + 2 * HEADER);
        out.clear();
    }
    assert_eq!(wrapped, answer.len());
    // All but the front goes as it is.
    assert!(written > answer.len() - MAX_FRAME);
}

#[test]
fn a_header_in_pieces() {
    let mut framing = Compressed::new(Compression::Zlib, true);
    unwrap_all(&mut framing, &frame(Compression::Zlib, 0, &packets(0, &[5])), 99, 99).unwrap();
    let answer = packets(1, &[3, 3]);
    let frames = wrap_all(&mut framing, &answer, 1);
    assert_eq!(frames.into_iter().flat_map(|(_, content)| content).collect::<Vec<u8>>(), &answer[..]);
}

#[test]
fn broken_frames_are_refused() {
    for algorithm in BOTH {
        let good = frame(algorithm, 0, &packets(0, &[200]));
        let lie = |room: u8| {
            let mut bytes = good.clone();
            bytes[4] = room;
            bytes
        };
        let mut garbage = good.clone();
        garbage[HEADER..].fill(0xee);
        let mut short = good.clone();
        short[0] -= 1;
        let mut long = good.clone();
        long[0] += 1;
        long.extend_from_slice(b"\0");
        let out_of_order = frame(algorithm, 3, b"x");
        let empty = BytesMut::from(&b"\0\0\0\0\x01\0\0"[..]);
        for (what, bytes) in [
            ("longer", lie(203)),
            ("shorter", lie(205)),
            ("garbage", garbage),
            ("cut", short),
            ("more", long),
            ("order", out_of_order),
            ("empty", empty),
        ] {
            for chunk in [1, 7, 1000] {
                let result = unwrap_all(&mut Compressed::new(algorithm, true), &bytes, chunk, 64);
                assert!(result.is_err(), "{algorithm:?} {what} {chunk}: {result:?}");
            }
        }
    }
}

/// A frame of a few kilobytes that holds 16 MiB is unpacked into the room there is, and no more.
#[test]
fn a_bomb_goes_off_slowly() {
    for algorithm in BOTH {
        let size = (1 << 24) - 1;
        let mut body = vec![0; size];
        let length = deflate(algorithm, &vec![0; size], &mut body).unwrap();
        let mut input = BytesMut::new();
        input.put_uint_le(length as u64, 3);
        input.put_u8(0);
        input.put_uint_le(size as u64, 3);
        input.extend_from_slice(&body[..length]);
        let mut framing = Compressed::new(algorithm, true);
        let (mut out, mut sum) = ([0; 1000], 0);
        while let count @ 1.. = framing.unwrap(&mut input, &mut out).unwrap() {
            sum += count;
        }
        assert_eq!((sum, input.len()), (size, 0));
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        lengths in proptest::collection::vec(0usize..3000, 1..20),
        (cut, chunk, room) in (1usize..5000, 1usize..3000, 1usize..3000),
        zlib: bool,
    ) {
        let algorithm = if zlib { Compression::Zlib } else { Compression::Zstd(1) };
        let bytes = packets(0, &lengths);
        let wire: Vec<u8> = bytes
            .chunks(cut)
            .enumerate()
            .flat_map(|(number, part)| frame(algorithm, u8::try_from(number % 256).unwrap(), part))
            .collect();
        let mut framing = Compressed::new(algorithm, true);
        let unwrapped = unwrap_all(&mut framing, &wire, chunk, room).unwrap();
        let commands: BytesMut = lengths.iter().flat_map(|length| packets(0, &[*length])).collect();
        prop_assert_eq!(&unwrapped[..], &commands[..]);
        let answer = packets(1, &lengths);
        let frames = wrap_all(&mut framing, &answer, chunk);
        let content: Vec<u8> = frames.iter().flat_map(|(_, content)| content.clone()).collect();
        prop_assert_eq!(&content[..], &answer[..]);
        let first = bytes.chunks(cut).count();
        for (index, (number, _)) in frames.iter().enumerate() {
            prop_assert_eq!(usize::from(*number), (first + index) % 256);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), zlib: bool, chunk in 1usize..50) {
        let algorithm = if zlib { Compression::Zlib } else { Compression::Zstd(1) };
        let _ = unwrap_all(&mut Compressed::new(algorithm, true), &bytes, chunk, 40);
        let mut framing = Compressed::new(algorithm, true);
        for mut part in bytes.chunks(chunk) {
            while !part.is_empty() {
                let taken = framing.wrap(part, &mut BytesMut::new());
                part = &part[taken..];
            }
        }
    }
}
