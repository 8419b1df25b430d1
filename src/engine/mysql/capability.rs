//! What client and server can, and what one cluster's clients are told of its server.
//!
//! Source: MySQL "Protocol::CapabilityFlags"; MariaDB "Connection: initial handshake packet".

use std::sync::Arc;

/// One capability bit each; the upper 32 bits are MariaDB's extended ones.
pub mod bit {
    #![expect(missing_docs, reason = "the names are the protocol's own")]
    pub const LONG_PASSWORD: u64 = 1;
    pub const FOUND_ROWS: u64 = 1 << 1;
    pub const LONG_FLAG: u64 = 1 << 2;
    pub const CONNECT_WITH_DB: u64 = 1 << 3;
    pub const NO_SCHEMA: u64 = 1 << 4;
    pub const COMPRESS: u64 = 1 << 5;
    pub const ODBC: u64 = 1 << 6;
    pub const LOCAL_FILES: u64 = 1 << 7;
    pub const IGNORE_SPACE: u64 = 1 << 8;
    pub const PROTOCOL_41: u64 = 1 << 9;
    pub const INTERACTIVE: u64 = 1 << 10;
    pub const SSL: u64 = 1 << 11;
    pub const IGNORE_SIGPIPE: u64 = 1 << 12;
    pub const TRANSACTIONS: u64 = 1 << 13;
    pub const RESERVED: u64 = 1 << 14;
    pub const SECURE_CONNECTION: u64 = 1 << 15;
    pub const MULTI_STATEMENTS: u64 = 1 << 16;
    pub const MULTI_RESULTS: u64 = 1 << 17;
    pub const PS_MULTI_RESULTS: u64 = 1 << 18;
    pub const PLUGIN_AUTH: u64 = 1 << 19;
    pub const CONNECT_ATTRS: u64 = 1 << 20;
    pub const PLUGIN_AUTH_LENENC: u64 = 1 << 21;
    pub const EXPIRED_PASSWORDS: u64 = 1 << 22;
    pub const SESSION_TRACK: u64 = 1 << 23;
    pub const DEPRECATE_EOF: u64 = 1 << 24;
    pub const OPTIONAL_METADATA: u64 = 1 << 25;
    pub const ZSTD: u64 = 1 << 26;
    pub const QUERY_ATTRIBUTES: u64 = 1 << 27;
    pub const MULTI_FACTOR: u64 = 1 << 28;
    pub const MARIADB_PROGRESS: u64 = 1 << 32;
    pub const MARIADB_BULK: u64 = 1 << 34;
    pub const MARIADB_METADATA_TYPES: u64 = 1 << 35;
    pub const MARIADB_CACHE_METADATA: u64 = 1 << 36;
}

/// How a client's packets are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zlib.
    Zlib,
    /// zstd, of the level that the client asked for.
    Zstd(u8),
}

/// Which server it is. What the two products and the old release do differently hangs on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Product {
    /// MariaDB, 10.3 or newer.
    #[default]
    MariaDb,
    /// MySQL 8 or newer.
    MySql,
    /// MySQL 5.6 (no session tracking, no `caching_sha2_password`).
    MySql56,
}

/// What every client of a cluster is told, the same whichever backend it gets, and before there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contract {
    /// Which server it is.
    pub product: Product,
    /// The version string of the handshake, with MariaDB's `5.5.5-` where the server says it.
    pub version: String,
    /// What is offered; a client's own flags are cut down to these before they mean anything.
    pub capabilities: u64,
    /// The server's default collation id.
    pub collation: u8,
    /// The server's default authentication plugin.
    pub plugin: String,
}

/// What can be carried from one backend to the next.
///
/// Left out: what belongs to the leg (TLS, compression), several factors of authentication, rows without metadata, and
/// MariaDB's progress reports and cached metadata: after a move the server would count on metadata that the client was
/// never sent.
const CARRIED: u64 = bit::FOUND_ROWS
    | bit::LONG_FLAG
    | bit::CONNECT_WITH_DB
    | bit::NO_SCHEMA
    | bit::ODBC
    | bit::LOCAL_FILES
    | bit::IGNORE_SPACE
    | bit::PROTOCOL_41
    | bit::INTERACTIVE
    | bit::IGNORE_SIGPIPE
    | bit::TRANSACTIONS
    | bit::RESERVED
    | bit::SECURE_CONNECTION
    | bit::MULTI_STATEMENTS
    | bit::MULTI_RESULTS
    | bit::PS_MULTI_RESULTS
    | bit::PLUGIN_AUTH
    | bit::CONNECT_ATTRS
    | bit::PLUGIN_AUTH_LENENC
    | bit::EXPIRED_PASSWORDS
    | bit::SESSION_TRACK
    | bit::DEPRECATE_EOF
    | bit::QUERY_ATTRIBUTES
    | bit::MARIADB_BULK
    | bit::MARIADB_METADATA_TYPES;

/// What the router itself speaks in a handshake, whatever the server does.
const OWN: u64 = bit::PROTOCOL_41
    | bit::SECURE_CONNECTION
    | bit::PLUGIN_AUTH
    | bit::PLUGIN_AUTH_LENENC
    | bit::CONNECT_ATTRS
    | bit::CONNECT_WITH_DB
    | bit::SSL
    | bit::COMPRESS;

/// MariaDB's extended capabilities; a side has them if its [`bit::LONG_PASSWORD`] is clear.
pub const EXTENDED: u64 = 0xffff_ffff << 32;

impl Contract {
    /// What of a server's capabilities can be carried.
    pub fn carried(capabilities: u64) -> u64 {
        capabilities & CARRIED
    }

    /// What clients are told of servers that may all stand behind one address: what each of them can. The rest is the
    /// first's, for want of a better.
    pub fn common(contracts: &[Arc<Contract>]) -> Arc<Contract> {
        let Some(first) = contracts.first() else { return Arc::default() };
        let capabilities = contracts.iter().fold(u64::MAX, |all, contract| all & contract.capabilities);
        if capabilities == first.capabilities {
            return Arc::clone(first);
        }
        Arc::new(Contract { capabilities, ..Contract::clone(first) })
    }

    /// The capabilities in the router's greeting.
    pub fn offer(&self) -> u64 {
        let zstd = if self.product == Product::MySql { bit::ZSTD } else { 0 };
        // A MariaDB leaves this bit out to say that it has extended ones.
        let plain = if self.product == Product::MariaDb { 0 } else { bit::LONG_PASSWORD };
        Contract::carried(self.capabilities) | OWN | zstd | plain
    }
}

impl Product {
    /// By the version string of the handshake.
    pub fn of(version: &str) -> Product {
        let major = || version.split('.').next().and_then(|text| text.parse::<u32>().ok());
        if version.contains("MariaDB") {
            Product::MariaDb
        } else if major().is_some_and(|major| major < 8) {
            Product::MySql56
        } else {
            Product::MySql
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_told_by_their_versions() {
        for (version, product) in [
            ("5.5.5-10.11.19-MariaDB-0+deb12u1", Product::MariaDb),
            ("11.8.2-MariaDB", Product::MariaDb),
            ("9.7.4-2", Product::MySql),
            ("8.0.36", Product::MySql),
            ("5.6.24-log", Product::MySql56),
        ] {
            assert_eq!(Product::of(version), product, "{version}");
        }
    }

    #[test]
    fn an_offer_is_what_all_servers_can() {
        let contract = |capabilities| Arc::new(Contract { capabilities, ..Contract::default() });
        let both = [contract(bit::SESSION_TRACK | bit::DEPRECATE_EOF), contract(bit::SESSION_TRACK)];
        let offer = Contract::common(&both).offer();
        assert_eq!(offer & (bit::SESSION_TRACK | bit::DEPRECATE_EOF), bit::SESSION_TRACK);
        assert_eq!(offer & bit::LONG_PASSWORD, 0);
        let all = Contract { capabilities: u64::MAX, product: Product::MySql, ..Contract::default() }.offer();
        assert_eq!(all & (bit::MARIADB_CACHE_METADATA | bit::MULTI_FACTOR | bit::OPTIONAL_METADATA), 0);
        assert_eq!(all & bit::LONG_PASSWORD, bit::LONG_PASSWORD);
    }
}
