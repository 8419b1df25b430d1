//! The conversation with a client until it is authenticated.
//!
//! ```text
//!          SSLRequest: 'S', TLS        GSSENCRequest: 'N'
//!            ┌───────┐                   ┌───────┐
//!            ▼       │                   ▼       │
//! ──► Starting ──────┴───────────────────────────┘
//!        │ └─ CancelRequest ──► (cancel)
//!        ▼ StartupMessage
//!     LookingUp ──account──► Sasl ──client-first──► SaslFinal ──proof──► Welcome
//!                   └──────► Md5  ──response─────────────────────────────► Welcome
//!     whatever is wrong ──► Refused (an error message, then close)
//! ```
//!
//! Sources: PostgreSQL documentation, "Message Flow" (Start-up, SASL Authentication, SSL and GSSAPI session
//! encryption) and `src/backend/tcop/backend_startup.c`, `ProcessStartupPacket`.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::Postgres;
use super::auth::scram::{AuthOutcome, AwaitClientFinal, AwaitClientFirst, ScramServer};
use super::auth::{Md5Verifier, Verifier, md5_matches};
use super::message;
use super::query::Account;
use super::sql;
use crate::engine::{CancelClaim, Farewell, Greet, Refusal};

/// `MAX_STARTUP_PACKET_LENGTH` of the server.
const MAX_STARTUP: usize = 10_000;
/// The longest answer to an authentication request (`PG_MAX_AUTH_TOKEN_LENGTH`).
const MAX_PROOF: usize = 65_535;
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS_ENCRYPTION: u32 = 80_877_104;
/// The newest minor version of protocol 3 that is spoken here.
const NEWEST_MINOR: u32 = 2;

/// What a client asked for when it connected.
#[derive(Clone)]
pub struct Startup {
    parameters: Vec<(Bytes, Bytes)>,
    user: String,
    database: String,
    minor: u32,
}

impl std::fmt::Debug for Startup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Startup")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Startup {
    /// The router's own log in as `user` to `database`.
    pub fn of(user: &str, database: &str) -> Startup {
        let parameter = |name: &'static str, value: &str| {
            (Bytes::from_static(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
        };
        Startup {
            parameters: vec![
                parameter("user", user),
                parameter("database", database),
                parameter("application_name", "scalepoint"),
            ],
            user: user.to_owned(),
            database: database.to_owned(),
            minor: 0,
        }
    }

    /// The parameters to replay at a log in, in the client's order.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.parameters.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// The role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How long a cancel secret this client can take, bytes: 3.0 knows only four.
    pub fn secret_length(&self) -> usize {
        if self.minor >= 2 { 32 } else { 4 }
    }

    /// Custom settings that came with the log in, as parameters or in `options`.
    pub fn setting_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.parameters.iter().filter_map(|(name, _)| sql::dotted_name(name)).collect();
        let options = self.parameters.iter().find(|(name, _)| name.as_ref() == b"options");
        let options =
            options.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
        for word in options.split_whitespace() {
            let word = word.trim_start_matches("-c").trim_start_matches("--");
            names.extend(word.split('=').next().and_then(|name| sql::dotted_name(name.as_bytes())));
        }
        names
    }
}

enum Phase {
    Starting,
    LookingUp(Startup),
    Sasl(Startup, AwaitFirst),
    SaslFinal(Startup, AwaitClientFinal),
    Md5(Startup, Md5Verifier, [u8; 4]),
    Done,
}

/// The server's half of SCRAM before the client has chosen a mechanism, and after, when it sent no first message yet.
enum AwaitFirst {
    Mechanism(ScramServer),
    Message(AwaitClientFirst),
}

/// See the module.
pub struct Greeting {
    phase: Phase,
    secret: [u8; 32],
    secured: bool,
    end_point: Option<Arc<[u8]>>,
}

impl Greeting {
    /// `secret` makes the stand-ins for unknown roles.
    pub fn new(secret: [u8; 32]) -> Greeting {
        Greeting { phase: Phase::Starting, secret, secured: false, end_point: None }
    }

    fn starting(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Greet<Postgres> {
        let Some(head) = input.first_chunk::<4>() else { return Greet::More };
        let length = u32::from_be_bytes(*head) as usize;
        if !(8..=MAX_STARTUP).contains(&length) {
            return refuse(out, Refusal::Malformed, "08P01", "invalid length of startup packet");
        }
        if input.len() < length {
            return Greet::More;
        }
        let mut packet = input.split_to(length).freeze();
        packet.advance(4);
        match packet.get_u32() {
            SSL if self.secured || packet.has_remaining() => {
                refuse(out, Refusal::Malformed, "08P01", "unexpected SSL request")
            }
            code @ (SSL | GSS_ENCRYPTION) => {
                // Whatever came before the encryption could have been put there by anybody (CVE-2021-23222).
                if input.has_remaining() {
                    let text = "received unencrypted data after an encryption request";
                    return refuse(out, Refusal::Malformed, "08P01", text);
                }
                if code == SSL {
                    out.extend_from_slice(b"S");
                    return Greet::UpgradeTls;
                }
                out.extend_from_slice(b"N");
                Greet::More
            }
            CANCEL if (8..=260).contains(&packet.remaining()) => {
                Greet::Cancel(CancelClaim { id: packet.get_u32(), secret: packet.to_vec() })
            }
            CANCEL => refuse(out, Refusal::Malformed, "08P01", "invalid length of cancel request"),
            version => self.startup(version, &packet, out),
        }
    }

    fn startup(&mut self, version: u32, packet: &Bytes, out: &mut BytesMut) -> Greet<Postgres> {
        let (major, minor) = (version >> 16, version & 0xffff);
        if major != 3 {
            let text = format!(
                "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
            );
            return refuse(out, Refusal::Unsupported, "0A000", &text);
        }
        let (startup, unknown) = match read_parameters(packet, minor.min(NEWEST_MINOR)) {
            Ok(read) => read,
            Err((code, text)) => return refuse(out, Refusal::Malformed, code, text),
        };
        if minor > NEWEST_MINOR || !unknown.is_empty() {
            put_negotiate(out, minor.min(NEWEST_MINOR), &unknown);
        }
        if startup.parameters().any(|(name, value)| name == b"replication" && !is_false(value)) {
            let text = "replication connections cannot be moved between servers and are not offered here";
            return refuse(out, Refusal::Unsupported, "0A000", text);
        }
        let user = startup.user.clone();
        self.phase = Phase::LookingUp(startup);
        Greet::LookUp { user }
    }

    fn answer(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Greet<Postgres> {
        let message = match message::take(input, MAX_PROOF) {
            Ok(Some(message)) => message,
            Ok(None) => return Greet::More,
            Err(text) => return refuse(out, Refusal::Malformed, "08P01", text),
        };
        if message.kind != b'p' {
            let text = "expected an answer to the authentication request";
            return refuse(out, Refusal::Malformed, "08P01", text);
        }
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Sasl(startup, AwaitFirst::Mechanism(server)) => {
                self.mechanism(startup, server, &message.body, out)
            }
            Phase::Sasl(startup, AwaitFirst::Message(first)) => {
                self.client_first(startup, first, &message.body, out)
            }
            Phase::SaslFinal(startup, last) => match last.client_final(&message.body) {
                Ok(AuthOutcome::Granted { server_final, .. }) => {
                    put_authentication(out, 12, server_final.as_bytes());
                    Greet::Welcome(startup)
                }
                Ok(AuthOutcome::Denied) => deny(out, &startup),
                Err(error) => refuse(out, Refusal::Malformed, error.sqlstate(), &error.to_string()),
            },
            Phase::Md5(startup, verifier, salt) if md5_matches(&verifier, salt, &message.body) => {
                Greet::Welcome(startup)
            }
            Phase::Md5(startup, ..) => deny(out, &startup),
            Phase::Starting | Phase::LookingUp(_) | Phase::Done => Greet::More,
        }
    }

    fn mechanism(
        &mut self,
        startup: Startup,
        server: ScramServer,
        body: &[u8],
        out: &mut BytesMut,
    ) -> Greet<Postgres> {
        let mut rest = body;
        let name = message::take_text(&mut rest).unwrap_or_default();
        if rest.len() < 4 {
            return refuse(out, Refusal::Malformed, "08P01", "malformed SASLInitialResponse message");
        }
        let length = rest.get_i32();
        let first = match server.select(name) {
            Ok(first) => first,
            Err(error) => return refuse(out, Refusal::Malformed, error.sqlstate(), &error.to_string()),
        };
        if length < 0 {
            put_authentication(out, 11, b"");
            self.phase = Phase::Sasl(startup, AwaitFirst::Message(first));
            return Greet::More;
        }
        self.client_first(startup, first, rest, out)
    }

    fn client_first(
        &mut self,
        startup: Startup,
        first: AwaitClientFirst,
        body: &[u8],
        out: &mut BytesMut,
    ) -> Greet<Postgres> {
        match first.client_first(body) {
            Ok(last) => {
                put_authentication(out, 11, last.server_first());
                self.phase = Phase::SaslFinal(startup, last);
                Greet::More
            }
            Err(error) => refuse(out, Refusal::Malformed, error.sqlstate(), &error.to_string()),
        }
    }
}

impl crate::engine::Greeting<Postgres> for Greeting {
    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Greet<Postgres> {
        match self.phase {
            Phase::Starting => loop {
                let before = input.len();
                match self.starting(input, out) {
                    // A refused GSSENCRequest is followed by another first packet, perhaps in the same read.
                    Greet::More if input.len() < before && !input.is_empty() => {}
                    next => break next,
                }
            },
            Phase::LookingUp(_) | Phase::Done => Greet::More,
            Phase::Sasl(..) | Phase::SaslFinal(..) | Phase::Md5(..) => self.answer(input, out),
        }
    }

    fn secured(&mut self, end_point: Option<Arc<[u8]>>) {
        self.secured = true;
        self.end_point = end_point;
    }

    fn account(
        &mut self,
        account: Option<Account>,
        random: [u8; 24],
        _vault: &Arc<()>,
        out: &mut BytesMut,
    ) -> Greet<Postgres> {
        let Phase::LookingUp(startup) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return Greet::More;
        };
        let verifier = account.map_or(Verifier::None, |account| account.verifier);
        match verifier.or_decoy(&startup.user, &self.secret) {
            Verifier::Md5(verifier) => {
                let salt = [random[0], random[1], random[2], random[3]];
                put_authentication(out, 5, &salt);
                self.phase = Phase::Md5(startup, verifier, salt);
            }
            Verifier::Scram(verifier) => {
                let mut nonce = [0; 18];
                nonce.copy_from_slice(&random[..18]);
                let server = ScramServer::new(verifier, self.end_point.as_deref(), nonce);
                let mut names = Vec::new();
                for mechanism in server.mechanisms() {
                    names.extend_from_slice(mechanism.as_bytes());
                    names.push(0);
                }
                names.push(0);
                put_authentication(out, 10, &names);
                self.phase = Phase::Sasl(startup, AwaitFirst::Mechanism(server));
            }
            Verifier::None => return deny(out, &startup),
        }
        Greet::More
    }

    fn farewell(&self, why: &Farewell) -> Vec<u8> {
        super::farewell(why)
    }
}

type ReadParameters = (Startup, Vec<Bytes>);

fn read_parameters(packet: &Bytes, minor: u32) -> Result<ReadParameters, (&'static str, &'static str)> {
    let malformed = ("08P01", "invalid startup packet layout: expected terminator as last byte");
    let mut rest: &[u8] = packet;
    let (mut parameters, mut unknown) = (Vec::new(), Vec::new());
    loop {
        let name = message::take_text(&mut rest).ok_or(malformed)?;
        if name.is_empty() {
            break;
        }
        let value = message::take_text(&mut rest).ok_or(malformed)?;
        let (name, value) = (packet.slice_ref(name), packet.slice_ref(value));
        // Protocol extensions are between the client and the router; the backend is spoken to in plain 3.0.
        if name.starts_with(b"_pq_.") { unknown.push(name) } else { parameters.push((name, value)) }
    }
    if !rest.is_empty() {
        return Err(malformed);
    }
    // It stays as long as the session.
    parameters.shrink_to_fit();
    let text = |wanted: &[u8]| {
        let found = parameters.iter().rev().find(|(name, _)| name.as_ref() == wanted);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).filter(|text| !text.is_empty())
    };
    let user = text(b"user").ok_or(("28000", "no PostgreSQL user name specified in startup packet"))?;
    let database = text(b"database").unwrap_or_else(|| user.clone());
    Ok((Startup { parameters, user, database, minor }, unknown))
}

fn is_false(value: &[u8]) -> bool {
    ["false", "off", "no", "0", "f", "n"].iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

fn put_authentication(out: &mut BytesMut, kind: u32, data: &[u8]) {
    message::put(out, b'R', |out| {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(data);
    });
}

fn put_negotiate(out: &mut BytesMut, minor: u32, unknown: &[Bytes]) {
    message::put(out, b'v', |out| {
        out.extend_from_slice(&((3 << 16) | minor).to_be_bytes());
        out.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
        unknown.iter().for_each(|name| message::put_text(out, name));
    });
}

fn refuse(out: &mut BytesMut, refusal: Refusal, code: &str, text: &str) -> Greet<Postgres> {
    message::put_error(out, "FATAL", code, text);
    Greet::Refused(refusal)
}

fn deny(out: &mut BytesMut, startup: &Startup) -> Greet<Postgres> {
    let text = format!("password authentication failed for user \"{}\"", startup.user);
    refuse(out, Refusal::Authentication, "28P01", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Greeting as _;
    use proptest::prelude::*;

    fn greeting() -> Greeting {
        Greeting::new([7; 32])
    }

    fn packet(code: u32, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&u32::try_from(body.len() + 8).unwrap().to_be_bytes());
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn receive(mut input: BytesMut) -> (Greet<Postgres>, BytesMut) {
        let mut out = BytesMut::new();
        let greet = greeting().receive(&mut input, &mut out);
        (greet, out)
    }

    #[test]
    fn encryption_requests() {
        let (greet, out) = receive(packet(SSL, b""));
        assert!(matches!(greet, Greet::UpgradeTls) && out.as_ref() == b"S");
        let (greet, out) = receive(packet(GSS_ENCRYPTION, b""));
        assert!(matches!(greet, Greet::More) && out.as_ref() == b"N");
        let mut stuffed = packet(SSL, b"");
        stuffed.extend_from_slice(b"x");
        assert!(matches!(receive(stuffed).0, Greet::Refused(Refusal::Malformed)));
    }

    #[test]
    fn protocol_versions_are_negotiated() {
        let (greet, out) = receive(packet(196_608, b"user\0u\0\0"));
        assert!(matches!(greet, Greet::LookUp { user } if user == "u") && out.is_empty());
        let (greet, out) = receive(packet(196_610, b"user\0u\0\0"));
        assert!(matches!(greet, Greet::LookUp { .. }) && out.is_empty());
        let (_, out) = receive(packet(196_608 + 9999, b"user\0u\0_pq_.x\x001\0\0"));
        assert_eq!(out.as_ref(), b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0");
        let (greet, out) = receive(packet(131_072, b"x\0\0"));
        assert!(matches!(greet, Greet::Refused(Refusal::Unsupported)));
        assert_eq!(message::error_field(&out[5..], b'C'), b"0A000");
    }

    #[test]
    fn bad_startup_packets_are_refused() {
        for input in [
            BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]),
            packet(196_608, b"user\0u\0"),
            packet(196_608, b"database\0d\0\0"),
            packet(196_608, b"user\0u\0\0rest"),
            packet(CANCEL, b"123"),
        ] {
            let (greet, out) = receive(input.clone());
            assert!(matches!(greet, Greet::Refused(Refusal::Malformed)), "{input:?}");
            assert_eq!(out[0], b'E');
        }
        let (greet, _) = receive(packet(196_608, b"user\0u\0replication\0database\0\0"));
        assert!(matches!(greet, Greet::Refused(Refusal::Unsupported)));
    }

    #[test]
    fn setting_names_of_the_startup_packet() {
        let packet = packet(196_608, b"user\0u\0options\0-c my.app=1 --other.x=2 -csome.y=3\0own.z\0w\0\0");
        let body = Bytes::copy_from_slice(&packet[8..]);
        let names = read_parameters(&body, 0).unwrap().0.setting_names();
        assert_eq!(names, ["own.z", "my.app", "other.x", "some.y"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            receive(BytesMut::from(&bytes[..]));
        }
    }
}
