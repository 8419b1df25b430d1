//! A client whose transaction is gone.

use bytes::BytesMut;

use super::tracker::Tracker;

/// See the module.
pub struct LostTransaction;

impl LostTransaction {
    /// What is owed follows from what was under way.
    pub fn new(_tracker: &Tracker) -> LostTransaction {
        LostTransaction
    }
}

impl crate::engine::LostTransaction for LostTransaction {
    fn receive(&mut self, _input: &mut BytesMut, _out: &mut BytesMut) -> bool {
        true
    }

    fn outlasting(&mut self) -> BytesMut {
        BytesMut::new()
    }
}
