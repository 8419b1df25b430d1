//! Requests that wait at the gate, or for a place on the server: answered without having been run.

use bytes::BytesMut;

use super::message;

/// Answers the request at the front of `input` as cancelled. `false`: it is not there whole, so there is nothing to
/// cancel yet.
pub(super) fn cancel(input: &mut BytesMut, out: &mut BytesMut) -> bool {
    answer(input, out, "57014", "canceling statement due to user request")
}

/// Answers all requests that are there as a server answers that has no place, so that what was sent behind the first one
/// does not run without it. `false`: the first one is not there whole.
pub(super) fn refuse(input: &mut BytesMut, out: &mut BytesMut) -> bool {
    let mut refused = false;
    while input.first().is_some_and(|kind| *kind != b'X')
        && answer(input, out, "53300", "sorry, too many clients already")
    {
        refused = true;
    }
    refused
}

/// One request: a `Query`, or everything up to and including `Sync`.
fn answer(input: &mut BytesMut, out: &mut BytesMut, code: &str, text: &str) -> bool {
    let mut length = 0;
    // A `Sync` alone asks for nothing that could fail.
    let asks = input.first().is_some_and(|kind| *kind != b'S');
    loop {
        let Ok(Some(frame)) = message::frame_length(&input[length..]) else { return false };
        let kind = input[length];
        length += frame;
        if input.len() < length {
            return false;
        }
        if matches!(kind, b'Q' | b'S' | b'F') {
            break;
        }
    }
    let _answered = input.split_to(length);
    if asks {
        message::put_error(out, "ERROR", code, text);
    }
    message::put_ready(out, b'I');
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kinds: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        kinds.iter().for_each(|kind| message::put(&mut bytes, *kind, |out| out.extend_from_slice(b"x\0")));
        bytes
    }

    #[test]
    fn all_that_was_sent_is_refused_and_what_is_not_whole_stays() {
        let mut input = request(b"QPBESSQ");
        input.extend_from_slice(b"Q\0\0");
        let mut out = BytesMut::new();
        assert!(refuse(&mut input, &mut out));
        assert_eq!(&input[..], b"Q\0\0");
        let mut kinds = Vec::new();
        while let Ok(Some(message)) = message::take(&mut out, message::MAX_MESSAGE) {
            if message.kind == b'E' {
                assert_eq!(message::error_field(&message.body, b'C'), b"53300");
                assert!(!message::is_fatal(&message.body));
            }
            kinds.push(message.kind);
        }
        assert_eq!(kinds, b"EZEZZEZ");
        assert!(!refuse(&mut input, &mut out) && out.is_empty());
        // A `Flush` wants an answer before the request has ended.
        assert!(!refuse(&mut request(b"PDH"), &mut out) && !refuse(&mut request(b"X"), &mut out));
    }

    #[test]
    fn one_request_is_cancelled() {
        let (mut input, mut out) = (request(b"QQ"), BytesMut::new());
        assert!(cancel(&mut input, &mut out));
        assert_eq!(input, request(b"Q"));
    }
}
