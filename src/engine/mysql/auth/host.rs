//! The host part of an account: which clients it is for, and which of several accounts comes first.
//!
//! Source: MySQL "Access Control, Stage 1: Connection Verification" and "Specifying Account Names"; MariaDB "CREATE USER",
//! host name component. What "most specific" means is different in every product: MariaDB's order was tried with a live
//! server, MySQL's two follow their documentation.

use core::net::{IpAddr, Ipv4Addr};
use std::cmp::Reverse;

use crate::engine::mysql::capability::Product;

/// Longest host name that MariaDB counts with.
const LONGEST: usize = 255;

/// Where a client comes from, as a server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address; `None`: a Unix socket.
    pub address: Option<IpAddr>,
    /// The server calls it `localhost`.
    pub is_local: bool,
}

impl Client {
    /// A client that came by TCP. Names other than `localhost` are not looked up: `resolves` is whether the server gives
    /// out that one.
    pub fn tcp(address: IpAddr, resolves: bool) -> Client {
        let address = address.to_canonical();
        // Only these two: other addresses of 127.0.0.0/8 are asked of the name service.
        let is_local = match address {
            IpAddr::V4(address) => address == Ipv4Addr::LOCALHOST,
            IpAddr::V6(address) => address.is_loopback(),
        };
        Client { address: Some(address), is_local: is_local && resolves }
    }

    /// A client that came by a Unix socket.
    pub fn unix() -> Client {
        Client { address: None, is_local: true }
    }

    /// What the server calls it in messages.
    pub fn name(&self) -> String {
        match self.address {
            Some(address) if !self.is_local => address.to_string(),
            _ => "localhost".to_owned(),
        }
    }

    /// Whether an account of this host is for this client.
    pub fn matches(&self, host: &str) -> bool {
        if host.is_empty() {
            return true;
        }
        if let (Some((network, mask)), Some(IpAddr::V4(address))) = (network(host), self.address)
            && address.to_bits() & mask == network
        {
            return true;
        }
        let host = host.as_bytes();
        (self.is_local && is_like(b"localhost", host))
            || self.address.is_some_and(|address| is_like(address.to_string().as_bytes(), host))
    }
}

/// `address/mask` and `address/bits`.
fn network(host: &str) -> Option<(u32, u32)> {
    let (network, mask) = host.split_once('/')?;
    let mask = match mask.parse::<u32>() {
        Ok(bits @ 1..=32) => u32::MAX << (32 - bits),
        Ok(_) => return None,
        Err(_) => mask.parse::<Ipv4Addr>().ok()?.to_bits(),
    };
    Some((network.parse::<Ipv4Addr>().ok()?.to_bits(), mask))
}

/// `LIKE` without regard to case.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'%', rest @ ..] => (0..=text.len()).any(|from| is_like(&text[from..], rest)),
        [b'_', rest @ ..] => !text.is_empty() && is_like(&text[1..], rest),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => {
            text.first().is_some_and(|byte| byte.eq_ignore_ascii_case(literal)) && is_like(&text[1..], rest)
        }
    }
}

/// Sorts the accounts of one name as the server does: the smallest comes first.
pub fn rank(product: Product, host: &str) -> impl Ord + use<> {
    match product {
        Product::MariaDb => (0, by_freedom(host), Reverse(host.to_owned())),
        // An address or a network comes before every name and pattern, and a smaller network before a larger one.
        Product::MySql => match (host.parse::<Ipv4Addr>(), network(host)) {
            (Ok(_), _) => (0, [0; 4], Reverse(String::new())),
            (_, Some((_, mask))) => (1, [0, 0, 0, u64::from(!mask)], Reverse(String::new())),
            (..) => (2, by_prefix(host), Reverse(String::new())),
        },
        Product::MySql56 => (0, by_prefix(host), Reverse(String::new())),
    }
}

/// MySQL: by the length of what comes before the first wildcard.
fn by_prefix(host: &str) -> [u64; 4] {
    let prefix = literals(host).0;
    [if host.is_empty() { 129 } else { prefix.map_or(0, |prefix| 128 - prefix.min(126) as u64) }, 0, 0, 0]
}

/// MariaDB: by how many names it matches. With a `%`, as many as it leaves characters free, and more with more of them;
/// without, as many as it has `_`.
fn by_freedom(host: &str) -> [u64; 4] {
    let (prefix, many, ones, fixed) = literals(host);
    let free = if many > 0 { LONGEST.saturating_sub(fixed + ones) } else { 0 };
    let ranked = match free > ones {
        true => [2 * free + 1, many, ones, prefix.unwrap_or(0)],
        false => [2 * ones, free, many, prefix.unwrap_or(0)],
    };
    ranked.map(|number| number as u64)
}

/// How many bytes come before the first wildcard, if there is one; how many `%`, how many `_`, how many bytes that stand
/// for themselves.
fn literals(host: &str) -> (Option<usize>, usize, usize, usize) {
    let (mut prefix, mut many, mut ones, mut fixed) = (None, 0, 0, 0);
    let mut bytes = host.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                prefix = prefix.or(Some(fixed));
                many += 1;
                while bytes.next_if_eq(&b'%').is_some() {}
            }
            b'_' => {
                prefix = prefix.or(Some(fixed));
                ones += 1;
            }
            b'\\' if bytes.next().is_some() => fixed += 1,
            _ => fixed += 1,
        }
    }
    (prefix, many, ones, fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Client {
        Client::tcp(address.parse().unwrap(), true)
    }

    #[test]
    fn hosts_match_as_in_a_server() {
        for (host, address, expected) in [
            ("%", "10.0.0.1", true),
            ("", "10.0.0.1", true),
            ("10.%", "10.0.0.1", true),
            ("10.%", "110.0.0.1", false),
            ("10.0.0._", "10.0.0.7", true),
            ("10.0.0._", "10.0.0.17", false),
            ("10.%.1", "10.2.3.1", true),
            ("10.0.0.0/255.255.255.0", "10.0.0.9", true),
            ("10.0.0.0/255.255.255.0", "10.0.1.9", false),
            ("10.0.0.0/24", "10.0.0.9", true),
            ("10.0.0.0/33", "10.0.0.9", false),
            ("localhost", "127.0.0.1", true),
            ("LocalHost", "::1", true),
            ("localhost", "127.0.0.2", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("localhost", "10.0.0.1", false),
            ("fd00::%", "fd00::5", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("db\\_1", "10.0.0.1", false),
        ] {
            assert_eq!(tcp(address).matches(host), expected, "{host} {address}");
        }
        assert!(Client::unix().matches("localhost") && Client::unix().matches("%"));
        assert!(!Client::unix().matches("127.0.0.1") && !Client::unix().matches("10.%"));
        assert!(!Client::tcp("127.0.0.1".parse().unwrap(), false).matches("localhost"));
    }

    #[test]
    fn the_first_is_the_one_that_servers_choose() {
        // MariaDB's were seen on a live server; MySQL's are those of its documentation.
        for (product, order) in [
            (Product::MariaDb, &["10.0.0.0/255.255.255.0", "10.%.1", "10.0.%", "10.%", "%"][..]),
            (Product::MariaDb, &["localhost", "127.0.0.1", "%"]),
            (
                Product::MySql,
                &["10.0.0.1", "10.0.0.0/24", "10.0.0.0/255.0.0.0", "localhost", "10.0.%", "10.%", "%", ""],
            ),
            (Product::MySql56, &["localhost", "10.0.%", "10.%.1", "%", ""]),
        ] {
            assert!(order.is_sorted_by_key(|host| rank(product, host)), "{product:?} {order:?}");
        }
    }

    #[test]
    fn names_in_messages() {
        assert_eq!(
            (tcp("127.0.0.1").name(), tcp("10.0.0.1").name()),
            ("localhost".into(), "10.0.0.1".into())
        );
    }
}
