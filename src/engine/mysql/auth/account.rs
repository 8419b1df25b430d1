//! The server's accounts: which of those of one name a client is, and how that one proves itself.

use core::net::IpAddr;

use ::sha2::{Digest, Sha256};
use serde::Deserialize;

use super::host::{Client, rank};
use super::{ed25519, native, sha2};
use crate::engine::mysql::capability::Product;
use crate::engine::mysql::startup::Proof;

/// One way of an account to prove itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Method {
    /// `mysql_native_password`. Any of these will do; none: there is no password.
    Native(Vec<native::Stored>),
    /// A plugin of SHA-256: its name, and what is kept, the same as text too. Likewise.
    Sha2(&'static str, Vec<(sha2::Stored, String)>),
    /// MariaDB's `ed25519`.
    Ed25519(ed25519::Stored),
    /// The router does not know this plugin, or not this form of what it keeps.
    Unknown(String),
}

impl Method {
    /// By the plugin's name and what it keeps.
    pub fn of(plugin: &str, kept: &[&str]) -> Method {
        let kept = kept.iter().filter(|text| !text.is_empty());
        let sha2 = |name| {
            let read = |text: &&str| Some((sha2::Stored::parse(text)?, (*text).to_owned()));
            kept.clone().map(read).collect::<Option<_>>().map(|all| Method::Sha2(name, all))
        };
        let method = match plugin {
            "" | native::PLUGIN => {
                kept.map(|text| native::parse(text)).collect::<Option<_>>().map(Method::Native)
            }
            sha2::CACHING => sha2(sha2::CACHING),
            sha2::PLAIN => sha2(sha2::PLAIN),
            ed25519::PLUGIN => {
                kept.clone().next().and_then(|text| ed25519::Stored::parse(text)).map(Method::Ed25519)
            }
            _ => None,
        };
        method.unwrap_or_else(|| Method::Unknown(plugin.to_owned()))
    }

    /// Of an account that does not exist: of the plugin that most accounts have, and no password fits. The same at every
    /// attempt.
    pub fn decoy(product: Product, user: &str, secret: &[u8]) -> Method {
        let random = Sha256::new().chain_update(secret).chain_update(user).finalize();
        let random = random.first_chunk().copied().unwrap_or_default();
        match product {
            Product::MariaDb | Product::MySql56 => Method::Native(vec![random]),
            Product::MySql => Method::Sha2(sha2::CACHING, vec![(sha2::Stored::decoy(random), String::new())]),
        }
    }

    /// Whether what a client once proved is what this wants; `None`: that cannot be seen. Takes some milliseconds for the
    /// plugins of SHA-256.
    pub fn fits(&self, proof: &Proof) -> Option<bool> {
        Some(match (self, proof) {
            (Method::Ed25519(_) | Method::Unknown(_), _) => return None,
            (Method::Native(kept), _) if kept.is_empty() => proof.is_empty(),
            (Method::Sha2(_, kept), _) if kept.is_empty() => proof.is_empty(),
            (Method::Native(kept), Proof::Native(Some(secret))) => native::fits(kept, secret),
            (Method::Native(kept), Proof::Clear(password)) => native::fits(kept, &native::secret(password)),
            (Method::Sha2(_, kept), Proof::Clear(password)) => {
                kept.iter().any(|(kept, _)| kept.fits(password))
            }
            (Method::Native(_), Proof::Native(None)) | (Method::Sha2(..), Proof::Native(_)) => false,
        })
    }

    /// What the client calls it.
    pub fn plugin(&self) -> &str {
        match self {
            Method::Native(_) => native::PLUGIN,
            Method::Sha2(name, _) => name,
            Method::Ed25519(_) => ed25519::CLIENT_PLUGIN,
            Method::Unknown(plugin) => plugin,
        }
    }
}

/// What an account demands of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// Nothing.
    #[default]
    Any,
    /// `REQUIRE SSL`, `X509`, `SUBJECT` and so on.
    Required,
}

/// A row of the server's table of accounts.
#[derive(Clone)]
pub struct Entry {
    /// The account's name; empty: anybody.
    pub user: String,
    /// The pattern of where it may come from.
    pub host: String,
    /// How it proves itself: any of them will do.
    pub methods: Vec<Method>,
    /// See there.
    pub encryption: Encryption,
}

/// All that a server knows by one name, and the accounts for anybody, which may come first.
#[derive(Clone, Default)]
pub struct Account {
    /// The rows.
    pub entries: Vec<Entry>,
    /// Whose they are.
    pub product: Product,
    /// The server gives names to addresses.
    pub resolves: bool,
    /// A sum of all that a log in depends on: the rows, and rights to databases and roles.
    pub mark: u64,
}

impl Account {
    /// The row that the server chooses for a client, however it will prove itself.
    pub fn choose(&self, client: Client) -> Option<&Entry> {
        let matching = self.entries.iter().filter(|entry| client.matches(&entry.host));
        matching.min_by_key(|entry| (rank(self.product, &entry.host), entry.user.is_empty()))
    }

    /// The row that the server chooses for a client at `address` when the router logs in for it. A MariaDB is told the
    /// address; a MySQL sees every client come from the router's Unix socket.
    pub fn behind(&self, address: IpAddr) -> Option<&Entry> {
        self.choose(match self.product {
            Product::MariaDb => Client::tcp(address, self.resolves),
            Product::MySql | Product::MySql56 => Client::unix(),
        })
    }

    /// Why a client at `address` would not be let in again with its proof, or as somebody else; `None`: only a log in
    /// tells.
    pub fn objection(&self, address: IpAddr, proof: &Proof) -> Option<&'static str> {
        let entry = self.choose(Client::tcp(address, self.resolves));
        let Some(entry) = entry.filter(|entry| !entry.user.is_empty()) else {
            return Some("its account was dropped");
        };
        if !self.behind(address).is_some_and(|behind| behind.is_of(entry)) {
            return Some("the server would take it for another account");
        }
        let is_refused = |method: &Method| method.fits(proof) == Some(false);
        entry.methods.iter().all(is_refused).then_some("the password of its account was changed")
    }
}

/// What MariaDB keeps of an account, as JSON (`mysql.global_priv`, column `Priv`).
#[derive(Deserialize, Default)]
#[serde(default)]
struct Priv {
    plugin: String,
    authentication_string: String,
    /// Further ways to prove itself; an empty one stands for the two fields above.
    auth_or: Vec<Way>,
    ssl_type: u8,
    is_role: bool,
}

#[derive(Deserialize)]
struct Way {
    plugin: Option<String>,
    #[serde(default)]
    authentication_string: String,
}

impl Entry {
    /// Whether both are the same account.
    pub fn is_of(&self, other: &Entry) -> bool {
        (&self.user, &self.host) == (&other.user, &other.host)
    }

    /// A row of MariaDB. `None`: it is a role, or cannot be read.
    pub fn of_mariadb(user: String, host: String, json: &str) -> Option<Entry> {
        let kept: Priv = serde_json::from_str(json).ok().filter(|kept: &Priv| !kept.is_role)?;
        let first = || Method::of(&kept.plugin, &[&kept.authentication_string]);
        let mut methods: Vec<Method> = kept
            .auth_or
            .iter()
            .map(|way| {
                way.plugin
                    .as_ref()
                    .map_or_else(first, |plugin| Method::of(plugin, &[&way.authentication_string]))
            })
            .collect();
        if methods.is_empty() {
            methods.push(first());
        }
        let encryption = if kept.ssl_type == 0 { Encryption::Any } else { Encryption::Required };
        Some(Entry { user, host, methods, encryption })
    }

    /// A row of MySQL. `attributes` is JSON and may hold a second password (`RETAIN CURRENT PASSWORD`).
    pub fn of_mysql(row: MySqlRow<'_>) -> Entry {
        #[derive(Deserialize)]
        struct Attributes {
            additional_password: Option<String>,
        }
        let MySqlRow { user, host, plugin, kept, ssl_type, attributes } = row;
        let second =
            serde_json::from_str::<Attributes>(attributes).ok().and_then(|all| all.additional_password);
        let method = Method::of(plugin, &[kept, second.as_deref().unwrap_or_default()]);
        let encryption = if ssl_type.is_empty() { Encryption::Any } else { Encryption::Required };
        Entry { user, host, methods: vec![method], encryption }
    }
}

/// Columns of `mysql.user`.
pub struct MySqlRow<'a> {
    /// `User`.
    pub user: String,
    /// `Host`.
    pub host: String,
    /// `plugin`.
    pub plugin: &'a str,
    /// `authentication_string`, or what older servers have for it.
    pub kept: &'a str,
    /// `ssl_type`.
    pub ssl_type: &'a str,
    /// `User_attributes`, where there are any.
    pub attributes: &'a str,
}

#[cfg(test)]
mod tests;
