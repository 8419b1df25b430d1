//! The last message to a client.

use bytes::BytesMut;

use super::capability::Product;
use super::packet;
use crate::engine::Farewell;

/// The words of the original for a transaction that a forced change took.
pub const ABORTED: &str = "The last transaction was aborted due to Seamless Scaling. Please retry.";
/// The same of its oldest generation.
pub const ABORTED_56: &str = "The last transaction was aborted due to an unknown error. Please retry.";

/// What clients of that server are told when their transaction is gone, with code 1105 and state `HY000`.
pub fn aborted(product: Product) -> &'static str {
    match product {
        Product::MySql56 => ABORTED_56,
        Product::MariaDb | Product::MySql => ABORTED,
    }
}

/// The `ERR` packet. Codes and states are those that a server would use, so that drivers know what to make of them:
/// `08S01` is a connection that is lost, `HY000` says nothing about it.
pub fn farewell(sequence: u8, product: Product, why: &Farewell) -> Vec<u8> {
    let lost;
    let (code, state, text): (u16, &str, &str) = match why {
        Farewell::ForcedChange => (1105, "HY000", aborted(product)),
        Farewell::StateLost(what) => {
            lost = format!("The session was lost with its server: {what}. Please reconnect.");
            (1105, "HY000", &lost)
        }
        Farewell::CommitUnknown => {
            (1105, "HY000", "The server was lost during COMMIT. The outcome of the transaction is unknown.")
        }
        Farewell::StatementUnknown => (
            1105,
            "HY000",
            "The server was lost during a statement. The outcome of the statement is unknown.",
        ),
        Farewell::ShuttingDown => (1053, "08S01", "Server shutdown in progress"),
        Farewell::NotAvailable => (1105, "HY000", "The database is not available. Please try again later."),
        Farewell::TooManySessions => (1040, "08004", "Too many connections"),
        Farewell::UnknownCluster => (
            1045,
            "28000",
            "Access denied: no cluster of that name. With TLS, ask for the cluster's own host name.",
        ),
        Farewell::Violation(text) => (1105, "HY000", text),
        Farewell::TooSlow => (1159, "08S01", "Got timeout reading communication packets"),
    };
    let mut out = BytesMut::new();
    packet::put_error(&mut out, sequence, code, state, text);
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_change_speaks_like_the_original() {
        let message = farewell(1, Product::MariaDb, &Farewell::ForcedChange);
        assert_eq!(&message[..13], b"\x50\0\0\x01\xff\x51\x04#HY000");
        assert_eq!(&message[13..], ABORTED.as_bytes());
        let message = farewell(3, Product::MySql56, &Farewell::ForcedChange);
        assert_eq!((message[3], &message[13..]), (3, ABORTED_56.as_bytes()));
    }
}
