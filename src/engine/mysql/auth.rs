//! How the router verifies a client against the server's own accounts, and gains what it needs to log in again as the
//! client.
//!
//! ```text
//! plugin                  the server keeps          the client shows                what logs in again
//! mysql_native_password   SHA1(SHA1(p))             SHA1(p) ⊕ SHA1(salt ‖ kept)     SHA1(p), found on the way
//! caching_sha2_password   SHA-crypt of p            SHA256(p) ⊕ …; or p             p
//! sha256_password         SHA-crypt of p            p                               p
//! ed25519 (MariaDB)       a public key              a signature                     nothing: such accounts need a
//!                                                                                   second way to log in
//! ```
//!
//! Everything here is bytes in, bytes out: randomness is an argument, framing is the caller's.
//!
//! In reading order: [`account`] says which of the server's accounts a client is, by [`host`]; [`exam`] leads the
//! exchange with the client by [`native`], [`sha2`] or [`ed25519`], and [`key`] where the password would be seen; the
//! [`vault`] remembers what was proved; [`reply`] is the other side, to a backend.

pub mod account;
pub mod ed25519;
pub mod exam;
pub mod host;
pub mod key;
pub mod native;
pub mod reply;
pub mod sha2;
pub mod vault;
