//! Letting a client in.
//!
//! ```text
//! open: Hello ──► Greeted ──SSLRequest──► (TLS) ──► Greeted
//!                    └──response──► LookingUp ──account──► Examining ──answer──► Welcome
//!                                                              │  ▲ what takes long
//!                                                              ▼  │
//!                                                           Computing
//! again: Changing (COM_CHANGE_USER) ──► LookingUp                 └──► Examining
//!                    whatever is wrong ──► Refused (an ERR packet, then close)
//! ```

use core::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};

use super::Mysql;
use super::auth::account::{Encryption, Entry, Method};
use super::auth::exam::{Exam, Verdict, salt};
use super::auth::host::Client;
use super::capability::{Contract, Product, bit};
use super::farewell::farewell;
use super::hello::{First, Hello, Response, SALT};
use super::packet;
use crate::engine::{Arrival, Farewell, Greet, Refusal, Work};

pub use super::auth::account::Account;
pub use super::auth::vault::Vault;
pub use super::startup::{Proof, Startup};

/// The longest packet that a client may send before it is let in; its attributes may have 64 KiB.
const MAX_PACKET: usize = 100_000;
/// `ER_HANDSHAKE_ERROR`, `ER_NET_PACKETS_OUT_OF_ORDER`, `ER_NOT_SUPPORTED_AUTH_MODE`, `ER_ACCESS_DENIED_ERROR`.
const BAD_HANDSHAKE: (u16, &str, &str) = (1043, "08S01", "Bad handshake");
const OUT_OF_ORDER: (u16, &str, &str) = (1156, "08S01", "Got packets out of order");
const TOO_OLD: (u16, &str, &str) = (
    1251,
    "08004",
    "Client does not support authentication protocol requested by server; consider upgrading MySQL client",
);
const ACCESS_DENIED: u16 = 1045;

/// A client that has said who it is.
struct Candidate {
    response: Response,
    contract: Arc<Contract>,
    /// Of the account.
    mark: u64,
    exam: Exam,
    /// What the server calls it.
    host: String,
    /// It has shown something for a password.
    used_password: bool,
    /// Why it will not be let in whatever it proves; with no text, in the words for a wrong password.
    objection: Option<Option<String>>,
}

enum Phase {
    Greeted,
    Changing(Bytes),
    LookingUp(Box<Response>),
    Examining(Box<Candidate>),
    /// Until there is something in it.
    Computing(Computed),
    Done,
}

/// What has come of an exam that is under way elsewhere.
type Computed = Arc<Mutex<Option<(Box<Candidate>, Verdict)>>>;

/// See the module.
pub struct Greeting {
    phase: Phase,
    contracts: Vec<Arc<Contract>>,
    hello: Hello,
    secret: [u8; 32],
    address: IpAddr,
    is_secure: bool,
    /// Of the next packet, whoever sends it.
    sequence: u8,
    /// Who the client was before.
    before: Option<Box<Startup>>,
}

impl Greeting {
    /// A client that has just connected.
    pub fn new(arrival: &Arrival<'_, Mysql>) -> Greeting {
        let common = Contract::common(arrival.contracts);
        Greeting {
            phase: Phase::Greeted,
            contracts: arrival.contracts.to_vec(),
            hello: Hello::of(&common, arrival.id, salt::<SALT>(&arrival.random)),
            secret: arrival.secret,
            address: arrival.address,
            is_secure: false,
            sequence: 0,
            before: None,
        }
    }

    /// `COM_CHANGE_USER`: `request` is the packet's body.
    pub fn again(startup: &Startup, request: Bytes, secret: [u8; 32]) -> Greeting {
        Greeting {
            phase: Phase::Changing(request),
            contracts: vec![Arc::clone(&startup.contract)],
            // Nobody sees it.
            hello: Hello::of(&startup.contract, startup.id, [0; SALT]),
            secret,
            address: startup.address,
            is_secure: false,
            sequence: 1,
            before: Some(Box::new(startup.clone())),
        }
    }

    /// The first packets of a client.
    fn greeted(&mut self, body: &Bytes, out: &mut BytesMut) -> Greet<Mysql> {
        match First::read(body, self.hello.capabilities) {
            First::Tls if !self.is_secure => Greet::UpgradeTls,
            First::Response(response) => self.look_up(response),
            First::Old => self.refuse(out, Refusal::Unsupported, TOO_OLD),
            First::Tls | First::Malformed => self.refuse(out, Refusal::Malformed, BAD_HANDSHAKE),
        }
    }

    fn changing(&mut self, body: &Bytes, out: &mut BytesMut) -> Greet<Mysql> {
        let read = self.before.as_ref().and_then(|before| Response::read_change(body, before.capabilities));
        match read {
            Some(response) => self.look_up(Box::new(response)),
            None => self.refuse(out, Refusal::Malformed, (1047, "08S01", "Unknown command")),
        }
    }

    fn look_up(&mut self, response: Box<Response>) -> Greet<Mysql> {
        let user = response.user.clone();
        self.phase = Phase::LookingUp(response);
        Greet::LookUp { user }
    }

    /// Why this account cannot be used from here although it proves itself.
    fn objection(&self, account: &Account, entry: &Entry) -> Option<Option<String>> {
        if entry.encryption == Encryption::Required {
            let text = "the account demands TLS (REQUIRE), which its server does not see behind the router: use \
                        ALTER USER ... REQUIRE NONE";
            return Some(self.is_secure.then(|| text.to_owned()));
        }
        if account.product == Product::MariaDb {
            return None;
        }
        let behind = account.behind(self.address);
        let same = behind.is_some_and(|behind| behind.is_of(entry));
        let instead =
            behind.map_or("none".to_owned(), |behind| format!("'{}'@'{}'", behind.user, behind.host));
        (!same).then(|| {
            Some(format!(
                "behind the router the server sees 'localhost' and would choose account {instead} instead of \
                 '{}'@'{}': use one account with host '%'",
                entry.user, entry.host
            ))
        })
    }

    /// Puts the candidate through a step of the exam: here, or elsewhere if that takes long.
    fn examine(
        &mut self,
        mut candidate: Box<Candidate>,
        step: impl FnOnce(&mut Exam) -> Verdict + Send + 'static,
        out: &mut BytesMut,
    ) -> Greet<Mysql> {
        if !candidate.exam.takes_long() {
            let verdict = step(&mut candidate.exam);
            return self.judge(candidate, verdict, out);
        }
        let computed = Computed::default();
        self.phase = Phase::Computing(Arc::clone(&computed));
        Greet::Compute(Work::new(move || {
            let verdict = step(&mut candidate.exam);
            *computed.lock().unwrap_or_else(PoisonError::into_inner) = Some((candidate, verdict));
        }))
    }

    /// What the exam wants.
    fn judge(&mut self, mut candidate: Box<Candidate>, verdict: Verdict, out: &mut BytesMut) -> Greet<Mysql> {
        match verdict {
            Verdict::Ask(body) => {
                self.put(out, &body);
                self.phase = Phase::Examining(candidate);
                Greet::More
            }
            Verdict::Proved(proof, last) => match candidate.objection.take() {
                Some(Some(text)) => self.refuse_account(&candidate, &text, out),
                Some(None) => self.deny(&candidate, out),
                None => {
                    if let Some(last) = last {
                        self.put(out, last);
                    }
                    Greet::Welcome(self.startup(*candidate, proof))
                }
            },
            Verdict::Failed => self.deny(&candidate, out),
            Verdict::Hopeless(text) => self.refuse_account(&candidate, &text, out),
        }
    }

    fn startup(&self, candidate: Candidate, proof: Proof) -> Startup {
        let Candidate { response, contract, mark, .. } = candidate;
        let before = self.before.as_deref();
        let collation = match u8::try_from(response.collation) {
            Ok(0) => before.map_or(contract.collation, |before| before.collation),
            Ok(id) => id,
            // A log in has no room for it. All of these are of the same character set as the default.
            Err(_) => contract.collation,
        };
        let attributes = match before {
            Some(before) if response.attributes.is_empty() => before.attributes.clone(),
            _ => response.attributes,
        };
        Startup {
            user: response.user,
            database: response.database,
            capabilities: response.capabilities,
            collation,
            attributes,
            compression: before.map_or(response.compression, |before| before.compression),
            address: self.address,
            proof,
            id: self.hello.id,
            sequence: self.sequence,
            contract,
            mark,
        }
    }

    fn put(&mut self, out: &mut BytesMut, body: &[u8]) {
        packet::put(out, self.sequence, |out| out.put_slice(body));
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn refuse(&self, out: &mut BytesMut, refusal: Refusal, error: (u16, &str, &str)) -> Greet<Mysql> {
        let (code, state, text) = error;
        packet::put_error(out, self.sequence, code, state, text);
        Greet::Refused(refusal)
    }

    /// An unknown account and a wrong password look alike.
    fn deny(&self, candidate: &Candidate, out: &mut BytesMut) -> Greet<Mysql> {
        let Candidate { response: Response { user, .. }, host, used_password, .. } = candidate;
        let used = if *used_password { "YES" } else { "NO" };
        let text = format!("Access denied for user '{user}'@'{host}' (using password: {used})");
        self.refuse(out, Refusal::Authentication, (ACCESS_DENIED, "28000", &text))
    }

    fn refuse_account(&self, candidate: &Candidate, why: &str, out: &mut BytesMut) -> Greet<Mysql> {
        let Candidate { response: Response { user, .. }, host, .. } = candidate;
        let text = format!("Access denied for user '{user}'@'{host}': {why}");
        self.refuse(out, Refusal::Unsupported, (ACCESS_DENIED, "28000", &text))
    }
}

impl crate::engine::Greeting<Mysql> for Greeting {
    fn open(&mut self, out: &mut BytesMut) {
        if matches!(self.phase, Phase::Greeted) {
            self.hello.put(out);
            self.sequence = 1;
        }
    }

    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Greet<Mysql> {
        if let Phase::Changing(request) = &mut self.phase {
            let request = std::mem::take(request);
            return self.changing(&request, out);
        }
        if let Phase::Computing(computed) = &self.phase {
            let computed = computed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((candidate, verdict)) = computed else { return Greet::More };
            self.phase = Phase::Done;
            return self.judge(candidate, verdict, out);
        }
        if matches!(self.phase, Phase::LookingUp(_) | Phase::Done) {
            return Greet::More;
        }
        let packet = match packet::take(input, MAX_PACKET) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Greet::More,
            Err(_) => return self.refuse(out, Refusal::Malformed, BAD_HANDSHAKE),
        };
        if packet.sequence != self.sequence {
            return self.refuse(out, Refusal::Malformed, OUT_OF_ORDER);
        }
        self.sequence = self.sequence.wrapping_add(1);
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Examining(mut candidate) => {
                candidate.used_password |= !is_empty(&packet.body);
                self.examine(candidate, move |exam| exam.receive(&packet.body), out)
            }
            Phase::Greeted | Phase::Changing(_) | Phase::LookingUp(_) | Phase::Computing(_) | Phase::Done => {
                self.phase = Phase::Greeted;
                self.greeted(&packet.body, out)
            }
        }
    }

    fn secured(&mut self, _end_point: Option<Arc<[u8]>>) {
        self.is_secure = true;
    }

    fn account(
        &mut self,
        account: Option<Account>,
        random: [u8; 24],
        vault: &Arc<Vault>,
        out: &mut BytesMut,
    ) -> Greet<Mysql> {
        let Phase::LookingUp(response) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return Greet::More;
        };
        let account = account.unwrap_or_default();
        let client = Client::tcp(self.address, account.resolves);
        // An account for anybody is nobody's.
        let entry = account.choose(client).filter(|entry| !entry.user.is_empty());
        let methods = entry.map(|entry| entry.methods.clone());
        let methods =
            methods.unwrap_or_else(|| vec![Method::decoy(account.product, &response.user, &self.secret)]);
        let objection = entry.and_then(|entry| self.objection(&account, entry));
        let mut exam = Exam::new(methods, random, self.is_secure, vault);
        let of_server = self.contracts.iter().find(|contract| contract.product == account.product);
        let contract = of_server.or(self.contracts.first()).cloned().unwrap_or_default();
        let host = client.name();
        let knows_plugins = response.capabilities & bit::PLUGIN_AUTH != 0;
        if !knows_plugins && !exam.keep_oldest() {
            return self.refuse(out, Refusal::Unsupported, TOO_OLD);
        }
        // Whoever becomes somebody else has answered a challenge that is long gone.
        let is_again = self.before.is_some();
        let oldest = Method::Native(vec![]);
        let plugin = if knows_plugins { &response.plugin } else { oldest.plugin() }.to_owned();
        let (challenge, answer) = (self.hello.salt, response.answer.clone());
        let used_password = !is_empty(&response.answer);
        let mark = account.mark;
        let candidate =
            Candidate { response: *response, contract, mark, exam, host, used_password, objection };
        let begin = move |exam: &mut Exam| match is_again {
            true => exam.ask(),
            false => exam.begin(&plugin, challenge, &answer),
        };
        self.examine(Box::new(candidate), begin, out)
    }

    fn farewell(&self, why: &Farewell) -> Vec<u8> {
        farewell(self.sequence, self.hello.contract().product, why)
    }
}

/// What a client answers that has no password.
fn is_empty(answer: &[u8]) -> bool {
    matches!(answer, [] | [0])
}

#[cfg(test)]
mod tests;
