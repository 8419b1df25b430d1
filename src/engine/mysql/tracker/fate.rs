//! What becomes of a session whose server is lost, and what its client is owed then.

use super::answer::{self, AUTOCOMMIT, IN_TRANSACTION};
use super::{Standing, Tracker};
use crate::engine::Fate;
use crate::engine::mysql::capability::Product;
use crate::engine::mysql::sql::Traits;

impl Tracker {
    /// The commands whose answers are owed, by the sequence number of the packet that is.
    pub(crate) fn owed(&self) -> impl Iterator<Item = u8> {
        self.pending.iter().map(|pending| pending.sequence)
    }

    /// The transaction is gone, and the client was told so by the last answer.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// The server waits for the client's file.
    pub(crate) fn awaits_file(&self) -> bool {
        self.answer.phase == answer::Phase::File
    }

    /// The status flags as they are without a transaction.
    pub(crate) fn free_status(&self) -> u16 {
        self.status & !IN_TRANSACTION & (AUTOCOMMIT | answer::NO_BACKSLASH | answer::ANSI_QUOTES)
    }

    pub(crate) fn product(&self) -> Product {
        self.product
    }

    /// A statement of the client's that it closes while its transaction is lost.
    pub(crate) fn closed_meanwhile(&mut self, id: u32) -> Option<u32> {
        let backend = self.statements.get(&self.wire, id).map(|live| live.backend);
        self.statements.close(&mut self.wire, id);
        backend
    }

    /// The name of the `XA` transaction that is open, as the client wrote it.
    pub(crate) fn xa(&self) -> Option<&[u8]> {
        self.xa.as_deref()
    }

    /// How much of the client's packet is still to come, and whether another goes on with it.
    pub(crate) fn rest_of_packet(&self) -> (usize, bool) {
        (self.client_skip, self.client_more)
    }

    /// Nothing is under way any more, in either direction.
    pub(super) fn forget_exchange(&mut self) {
        self.pending.clear();
        self.answer = answer::Answer::default();
        self.prepared = None;
        (self.client_skip, self.client_more, self.collecting) = (0, false, false);
        (self.server_skip, self.server_more) = (0, false);
    }

    pub(super) fn fate_now(&self) -> Fate {
        if self.awaits_file() && !self.is_mid_packet() {
            // Without the file's end the statement cannot have ended.
            return Fate::TransactionAborted;
        }
        // In the middle of a message nothing can be said.
        if !self.between_commands() || self.is_mid_packet() {
            return Fate::StatementUnknown;
        }
        if self.pending.is_empty() {
            return match self.standing {
                Standing::Free if self.told => Fate::StatementCancelled,
                Standing::Free => Fate::Carried,
                Standing::Open | Standing::Unsure => Fate::TransactionAborted,
            };
        }
        if !self.answer.may_fail() {
            return Fate::StatementUnknown;
        }
        let (mut commits, mut writes, mut ended) = (false, false, false);
        for traits in self.pending.iter().map(|pending| pending.traits) {
            // What follows the end of a transaction commits by itself, even if that end was a rollback.
            commits |= traits.has(Traits::COMMITS) || ended && traits.has(Traits::WRITES);
            commits |= traits.has(Traits::ENDS | Traits::SEVERAL);
            ended |= traits.has(Traits::ENDS);
            writes |= traits.has(Traits::WRITES) || traits.has(Traits::SUSPECT);
        }
        let in_transaction =
            self.standing != Standing::Free || self.wire.begun || self.status & AUTOCOMMIT == 0;
        match (in_transaction, commits) {
            (true, true) => Fate::CommitUnknown,
            (true, false) => Fate::StatementAborted,
            (false, _) if writes || commits => Fate::StatementUnknown,
            (false, _) => Fate::StatementAborted,
        }
    }
}
