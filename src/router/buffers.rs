//! Buffers that sessions borrow while bytes pass, so that a session that idles has none.
//!
//! A worker thread runs one session at a time, so the few buffers that it keeps serve all of its sessions, and stay in
//! the processor's cache between them. Nothing of one session is ever seen by another: only an empty buffer is given
//! back, and only what was read into it since is looked at.

use std::cell::RefCell;

use bytes::BytesMut;

/// What a buffer has room for when it is lent, bytes.
pub const ROOM: usize = 32 * 1024;
/// A buffer that has grown beyond this, for one large message, is freed rather than kept, bytes.
const LARGEST: usize = 4 * ROOM;
/// How many each thread keeps.
const KEPT: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Makes sure of [`ROOM`] for the next read.
pub fn lend(bytes: &mut BytesMut) {
    if bytes.capacity() == 0
        && let Some(spare) = SPARE.with_borrow_mut(Vec::pop)
    {
        *bytes = spare;
    }
    bytes.reserve(ROOM);
}

/// Takes the buffer back if nothing is in it.
pub fn give_back(bytes: &mut BytesMut) {
    if !bytes.is_empty() || bytes.capacity() == 0 {
        return;
    }
    let spare = std::mem::take(bytes);
    if spare.capacity() <= LARGEST {
        SPARE.with_borrow_mut(|spares| {
            if spares.len() < KEPT {
                spares.push(spare);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_buffer_is_lent_again_and_a_full_one_stays() {
        let (mut one, mut other) = (BytesMut::new(), BytesMut::new());
        lend(&mut one);
        let place = one.as_ptr();
        one.extend_from_slice(b"half a message");
        give_back(&mut one);
        assert_eq!(one, b"half a message"[..]);
        one.clear();
        give_back(&mut one);
        assert_eq!(one.capacity(), 0);
        lend(&mut other);
        assert!(other.is_empty() && other.capacity() >= ROOM && other.as_ptr() == place);
    }

    #[test]
    fn what_has_grown_is_freed_and_no_more_are_kept_than_said() {
        let mut grown = BytesMut::with_capacity(LARGEST + 1);
        give_back(&mut grown);
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
        for _ in 0..2 * KEPT {
            give_back(&mut BytesMut::with_capacity(ROOM));
        }
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}
