//! What the portals that are bound would do to the transaction: one that was bound to a `COMMIT` before a `Sync` may be
//! executed behind it.

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Portals {
    /// The unnamed one may end the transaction.
    unnamed: bool,
    /// One of the others may. Which, and whether it was closed since, is not remembered.
    named: bool,
}

impl Portals {
    /// A portal is bound to a statement that may end the transaction, or to one that cannot; `body` is the `Bind`.
    pub(super) fn bound(&mut self, body: &[u8], ends: bool) {
        match body.first() {
            Some(0) => self.unnamed = ends,
            _ => self.named |= ends,
        }
    }

    /// Whether executing a portal may end the transaction; `body` is what is there of the `Execute`.
    pub(super) fn may_commit(self, body: &[u8]) -> bool {
        match body.first() {
            Some(0) => self.unnamed,
            Some(_) => self.named,
            None => self.unnamed || self.named,
        }
    }

    /// A `Query` drops the unnamed one.
    pub(super) fn query(&mut self) {
        self.unnamed = false;
    }

    /// Nothing is under way. Outside of a transaction no portal outlasts that.
    pub(super) fn outlast(&mut self, status: u8) {
        if status == b'I' {
            *self = Portals::default();
        }
    }
}
