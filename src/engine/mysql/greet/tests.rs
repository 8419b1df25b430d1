use proptest::prelude::*;

use super::*;
use crate::engine::Greeting as _;
use crate::engine::mysql::auth::{native, sha2};

const SECRET: [u8; 32] = [7; 32];

fn contract(product: Product) -> Arc<Contract> {
    let (version, plugin) = match product {
        Product::MariaDb => ("5.5.5-10.11.1-MariaDB", native::PLUGIN),
        Product::MySql => ("9.7.4", sha2::CACHING),
        Product::MySql56 => ("5.6.24", native::PLUGIN),
    };
    let (version, plugin) = (version.into(), plugin.into());
    Arc::new(Contract { product, version, capabilities: u64::MAX, collation: 45, plugin })
}

/// A client in front of a greeting.
struct Client {
    greeting: Greeting,
    hello: Hello,
    vault: Arc<Vault>,
    account: Account,
    sequence: u8,
    said: BytesMut,
    /// How often something had to be computed elsewhere.
    computed: usize,
}

/// What the client gets in the end.
#[derive(Debug)]
enum End {
    In(Startup),
    Asked(Bytes),
    Error(Refusal, u16, String),
    Tls,
}

impl Client {
    fn new(product: Product, from: &str, entries: Vec<Entry>) -> Client {
        let contracts = [contract(product)];
        let address = from.parse().unwrap();
        let arrival =
            Arrival { secret: SECRET, id: 4711, random: [0x24; 24], address, contracts: &contracts };
        let mut greeting = Greeting::new(&arrival);
        let mut out = BytesMut::new();
        greeting.open(&mut out);
        let hello = Hello::read(&packet::take(&mut out, 1000).unwrap().unwrap().body).unwrap();
        assert!(out.is_empty() && hello.id == 4711);
        assert!(!hello.salt.iter().any(|byte| matches!(byte, 0 | b'$')));
        let account = Account { entries, product, resolves: true, mark: 0 };
        Client {
            greeting,
            hello,
            vault: Arc::default(),
            account,
            sequence: 1,
            said: BytesMut::new(),
            computed: 0,
        }
    }

    /// Says something, a byte at a time, and gets what comes of it.
    fn say(&mut self, body: &[u8]) -> End {
        let (mut bytes, mut input) = (BytesMut::new(), BytesMut::new());
        packet::put(&mut bytes, self.sequence, |out| out.put_slice(body));
        let mut next = Greet::More;
        for byte in bytes {
            assert!(matches!(next, Greet::More));
            input.extend_from_slice(&[byte]);
            next = self.greeting.receive(&mut input, &mut self.said);
        }
        self.follow(next)
    }

    fn follow(&mut self, next: Greet<Mysql>) -> End {
        match next {
            Greet::LookUp { .. } => {
                let account = Some(self.account.clone());
                let next = self.greeting.account(account, [1; 24], &self.vault, &mut self.said);
                self.follow(next)
            }
            Greet::More => {
                let asked = packet::take(&mut self.said, 10_000).unwrap().unwrap();
                assert_eq!(asked.sequence, self.sequence + 1);
                self.sequence = asked.sequence + 1;
                End::Asked(asked.body)
            }
            Greet::Compute(work) => {
                // Until it is done, bytes that come are nobody's.
                let mut early = BytesMut::from(&b"\x01\0\0\xff!"[..]);
                assert!(matches!(self.greeting.receive(&mut early, &mut self.said), Greet::More));
                work.run();
                self.computed += 1;
                let next = self.greeting.receive(&mut early, &mut self.said);
                assert_eq!(early.len(), 5);
                self.follow(next)
            }
            Greet::UpgradeTls => {
                self.sequence += 1;
                self.greeting.secured(None);
                End::Tls
            }
            Greet::Welcome(startup) => End::In(startup),
            Greet::Refused(refusal) => {
                let error = packet::take(&mut self.said, 10_000).unwrap().unwrap();
                assert!(error.body[0] == 0xff && self.said.is_empty());
                assert!(error.sequence > 0);
                let code = u16::from_le_bytes([error.body[1], error.body[2]]);
                End::Error(refusal, code, String::from_utf8_lossy(&error.body[9..]).into_owned())
            }
            Greet::Cancel(_) => panic!("no such thing"),
        }
    }

    fn response(&self, plugin: &str, answer: Vec<u8>, capabilities: u64) -> Vec<u8> {
        let response = Response {
            capabilities: capabilities
                | bit::PROTOCOL_41
                | bit::SECURE_CONNECTION
                | bit::PLUGIN_AUTH
                | bit::PLUGIN_AUTH_LENENC,
            collation: 45,
            user: "u".into(),
            answer: answer.into(),
            plugin: plugin.into(),
            ..Response::default()
        };
        let mut out = BytesMut::new();
        response.put(&mut out, 1);
        packet::take(&mut out, 10_000).unwrap().unwrap().body.to_vec()
    }

    /// Logs in by the native plugin.
    fn native(&mut self, password: &[u8]) -> End {
        let answer = native::answer(&native::secret(password), &self.hello.salt).to_vec();
        let response = self.response(native::PLUGIN, answer, 0);
        self.say(&response)
    }
}

fn entry(user: &str, host: &str, methods: Vec<Method>) -> Entry {
    Entry { user: user.into(), host: host.into(), methods, encryption: Encryption::Any }
}

fn of_native(password: &[u8]) -> Method {
    let stored = format!("*{}", hex::encode(<sha1::Sha1 as sha1::Digest>::digest(*native::secret(password))));
    Method::of(native::PLUGIN, &[&stored])
}

fn is_denied(end: &End, user: &str, host: &str, used: &str) -> bool {
    let expected = format!("Access denied for user '{user}'@'{host}' (using password: {used})");
    matches!(end, End::Error(Refusal::Authentication, 1045, text) if *text == expected)
}

#[test]
fn a_client_with_the_right_plugin_is_in_at_once() {
    let mut client = Client::new(Product::MariaDb, "10.0.0.1", vec![entry("u", "%", vec![of_native(b"pw")])]);
    let End::In(startup) = client.native(b"pw") else { panic!("not in") };
    assert_eq!((&*startup.user, startup.sequence, startup.id), ("u", 2, 4711));
    assert_ne!(startup.capabilities & bit::LONG_PASSWORD, 0);
    assert_eq!(client.computed, 0);
    assert!(matches!(startup.proof, Proof::Native(Some(secret)) if secret == native::secret(b"pw")));
    assert_eq!(startup.contract.product, Product::MariaDb);
}

#[test]
fn unknown_accounts_and_wrong_passwords_look_alike() {
    for product in [Product::MariaDb, Product::MySql56] {
        let known = || vec![entry("u", "%", vec![of_native(b"pw")])];
        assert!(is_denied(&Client::new(product, "10.0.0.1", known()).native(b"no"), "u", "10.0.0.1", "YES"));
        assert!(is_denied(&Client::new(product, "127.0.0.1", vec![]).native(b"pw"), "u", "localhost", "YES"));
        let anonymous = vec![entry("", "%", vec![Method::Native(vec![])])];
        let mut client = Client::new(product, "10.0.0.1", anonymous);
        let response = client.response(native::PLUGIN, vec![], 0);
        assert!(is_denied(&client.say(&response), "u", "10.0.0.1", "NO"));
    }
    // The newer plugin lets both go the whole way.
    let kept = format!("$A$005$12345678901234567890{}", "x".repeat(43));
    let method = Method::of(sha2::CACHING, &[&kept]);
    for entries in [vec![], vec![entry("u", "%", vec![method])]] {
        let mut client = Client::new(Product::MySql, "10.0.0.1", entries);
        tls(&mut client);
        let response = client.response(sha2::CACHING, vec![5; 32], 0);
        assert!(matches!(client.say(&response), End::Asked(body) if body[..] == [1, 4]));
        assert_eq!(client.computed, 0);
        assert!(is_denied(&client.say(b"pw\0"), "u", "10.0.0.1", "YES"));
        assert_eq!(client.computed, 1);
    }
    // The oldest one shows the password at once, here sealed for another key.
    let method = Method::of(sha2::PLAIN, &[&format!("$5$12345678901234567890${}", "x".repeat(43))]);
    let mut client = Client::new(Product::MySql, "10.0.0.1", vec![entry("u", "%", vec![method])]);
    let response = client.response(sha2::PLAIN, vec![5; 256], 0);
    assert!(is_denied(&client.say(&response), "u", "10.0.0.1", "YES"));
    assert_eq!(client.computed, 1);
}

/// Asks for TLS.
fn tls(client: &mut Client) {
    let mut request = [0; 32];
    request[..4].copy_from_slice(&u32::try_from(bit::PROTOCOL_41 | bit::SSL).unwrap().to_le_bytes());
    assert!(matches!(client.say(&request), End::Tls));
}

#[test]
fn other_plugins_are_asked_for() {
    let mut client = Client::new(Product::MariaDb, "10.0.0.1", vec![entry("u", "%", vec![of_native(b"pw")])]);
    tls(&mut client);
    let response = client.response(sha2::CACHING, vec![5; 32], 0);
    let End::Asked(body) = client.say(&response) else { panic!("not asked") };
    let salt =
        body.strip_prefix(b"\xfemysql_native_password\0").and_then(|rest| rest.strip_suffix(&[0])).unwrap();
    assert_eq!(salt.len(), SALT);
    let End::In(startup) = client.say(&native::answer(&native::secret(b"pw"), salt)) else {
        panic!("not in")
    };
    assert_eq!(startup.sequence, 5);
}

#[test]
fn another_method_is_tried_after_the_first() {
    let methods = vec![Method::Unknown("pam".into()), of_native(b"one"), of_native(b"two")];
    let mut client = Client::new(Product::MariaDb, "10.0.0.1", vec![entry("u", "%", methods)]);
    let End::Asked(body) = client.native(b"two") else { panic!("not asked") };
    let salt = &body[body.len() - SALT - 1..body.len() - 1];
    let answer = native::answer(&native::secret(b"two"), salt);
    assert!(matches!(client.say(&answer), End::In(_)));
}

#[test]
fn what_cannot_be_served_says_why() {
    let mut safe = entry("u", "%", vec![of_native(b"pw")]);
    safe.encryption = Encryption::Required;
    let mut plain = Client::new(Product::MariaDb, "10.0.0.1", vec![safe.clone()]);
    assert!(is_denied(&plain.native(b"pw"), "u", "10.0.0.1", "YES"));
    let mut secure = Client::new(Product::MariaDb, "10.0.0.1", vec![safe]);
    tls(&mut secure);
    let answer = native::answer(&native::secret(b"pw"), &secure.hello.salt).to_vec();
    let response = secure.response(native::PLUGIN, answer, 0);
    let end = secure.say(&response);
    assert!(matches!(&end, End::Error(_, 1045, text) if text.contains("REQUIRE NONE")), "{end:?}");

    let of_host = |host| vec![entry("u", host, vec![of_native(b"pw")])];
    let end = Client::new(Product::MySql56, "10.0.0.1", of_host("10.%")).native(b"pw");
    assert!(matches!(&end, End::Error(_, 1045, text) if text.contains("host '%'")), "{end:?}");
    let end = Client::new(Product::MySql56, "10.0.0.1", of_host("10.%")).native(b"wrong");
    assert!(is_denied(&end, "u", "10.0.0.1", "YES"));
    assert!(matches!(
        Client::new(Product::MySql56, "127.0.0.1", of_host("localhost")).native(b"pw"),
        End::In(_)
    ));
}

#[test]
fn bad_packets_are_refused() {
    let client = || Client::new(Product::MariaDb, "10.0.0.1", vec![]);
    assert!(matches!(client().say(b""), End::Error(Refusal::Malformed, 1043, _)));
    assert!(matches!(client().say(b"GET / HTTP/1.1"), End::Error(_, 1251 | 1043, _)));
    assert!(matches!(client().say(b"\x85\x04\0\0\0root\0"), End::Error(Refusal::Unsupported, 1251, _)));
    let mut late = client();
    late.sequence = 3;
    assert!(matches!(late.say(b"x"), End::Error(Refusal::Malformed, 1156, _)));
    let mut twice = client();
    tls(&mut twice);
    let mut request = [0; 32];
    request[..4].copy_from_slice(&u32::try_from(bit::PROTOCOL_41 | bit::SSL).unwrap().to_le_bytes());
    assert!(matches!(twice.say(&request), End::Error(Refusal::Malformed, 1043, _)));
    let mut long = client();
    let mut input = BytesMut::from(&b"\xff\xff\xff\x01"[..]);
    let refused = long.greeting.receive(&mut input, &mut BytesMut::new());
    assert!(matches!(refused, Greet::Refused(Refusal::Malformed)));
}

#[test]
fn a_change_of_user_begins_with_a_question() {
    let mut client = Client::new(Product::MariaDb, "10.0.0.1", vec![entry("u", "%", vec![of_native(b"pw")])]);
    let End::In(startup) = client.native(b"pw") else { panic!("not in") };
    let body = Bytes::from_static(b"\x11v\0\0db\0\x21\0mysql_native_password\0");
    client.greeting = Greeting::again(&startup, body, SECRET);
    client.account.entries = vec![entry("v", "%", vec![of_native(b"other")])];
    let mut out = BytesMut::new();
    client.greeting.open(&mut out);
    assert!(out.is_empty());
    client.sequence = 0;
    let next = client.greeting.receive(&mut BytesMut::new(), &mut client.said);
    let End::Asked(body) = client.follow(next) else { panic!("not asked") };
    let salt = &body[body.len() - SALT - 1..body.len() - 1];
    let End::In(again) = client.say(&native::answer(&native::secret(b"other"), salt)) else {
        panic!("not in")
    };
    assert_eq!((&*again.user, again.database.as_deref(), again.collation), ("v", Some("db"), 33));
    assert_eq!((again.id, again.sequence, again.capabilities), (4711, 3, startup.capabilities));
}

#[test]
fn farewells_go_on_with_the_sequence() {
    let client = Client::new(Product::MariaDb, "10.0.0.1", vec![]);
    assert_eq!(client.greeting.farewell(&Farewell::TooSlow)[3], 1);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut client = Client::new(Product::MySql, "10.0.0.1", vec![]);
        let mut input = BytesMut::from(&bytes[..]);
        client.greeting.receive(&mut input, &mut BytesMut::new());
    }
}
