//! What client and server can, and what one cluster's clients are told of its server.
//!
//! Source: MySQL "Protocol::CapabilityFlags"; MariaDB "Connection: initial handshake packet".

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
