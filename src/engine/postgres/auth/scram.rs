//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 5929, 7677).
//!
//! One type per state; each step consumes the last, so that no message can be answered twice:
//!
//! ```text
//! ScramServer ──select(mechanism)──► AwaitClientFirst ──client_first──► AwaitClientFinal ──client_final──► AuthOutcome
//!   AuthenticationSASL                 SASLInitialResponse                SASLResponse                      Granted: AuthenticationSASLFinal
//!   with mechanisms()                  server-first goes out in           without a password error          Denied:  28P01
//!                                      AuthenticationSASLContinue
//! ```
//!
//! The rules and the wording are those of PostgreSQL's `auth-scram.c`. In short: the user name in the exchange is
//! ignored (the start-up packet has it), an authorization identity is refused, and a client that believes that the
//! server knows no channel binding although it was offered (flag `y`) is turned away, because somebody in between has
//! edited the offer.
//!
//! A SASLInitialResponse without a response (length -1) is legal: answer with an empty AuthenticationSASLContinue and
//! pass the next SASLResponse to [`AwaitClientFirst::client_first`].

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;
use zeroize::Zeroizing;

use super::attributes::{Attributes, is_printable, malformed, quoted_byte, quoted_text};
use super::{BASE64, KEY_LENGTH, ScramVerifier, hmac_sha256};
use base64::Engine as _;

/// Mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// Mechanism bound to the TLS channel.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Longest SASL message taken from a client, bytes (PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`).
///
/// The caller must refuse longer ones before buffering; the steps here refuse them once more.
pub const MAX_SASL_MESSAGE_LENGTH: usize = 1024;

/// Random bytes in the server's part of the nonce.
pub const NONCE_LENGTH: usize = 18;

/// The GS2 header of a client that binds to the channel; the hash of the certificate follows it in `c=`.
const BOUND_HEADER: &[u8] = b"p=tls-server-end-point,,";

/// Why an exchange ended before a proof could be judged. `Display` is PostgreSQL's primary message.
///
/// Safe to show to the client. All of them end the connection (FATAL).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScramError {
    /// A mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    InvalidMechanism,
    /// Longer than [`MAX_SASL_MESSAGE_LENGTH`].
    #[error("invalid message length")]
    TooLong,
    /// Not a SCRAM message.
    #[error("malformed SCRAM message")]
    Malformed {
        /// PostgreSQL's DETAIL.
        detail: String,
    },
    /// The client says `y` although channel binding was offered: the offer was edited on its way.
    #[error("SCRAM channel binding negotiation error")]
    NegotiationEdited,
    /// A binding type other than `tls-server-end-point`.
    #[error("unsupported SCRAM channel-binding type \"{0}\"")]
    UnsupportedBindingType(String),
    /// `a=` in the GS2 header.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// `m=` before the user name.
    #[error("client requires an unsupported SCRAM extension")]
    MandatoryExtension,
    /// A nonce outside RFC 5802's `printable`.
    #[error("non-printable characters in SCRAM nonce")]
    NonPrintableNonce,
    /// The client saw another certificate than the router's: somebody terminates TLS in between.
    #[error("SCRAM channel binding check failed")]
    ChannelBindingMismatch,
    /// `c=` does not repeat the GS2 header of the first message.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    UnexpectedBindingAttribute,
    /// `r=` is not the nonce of this exchange.
    #[error("invalid SCRAM response")]
    NonceMismatch,
}

impl ScramError {
    /// The SQLSTATE that PostgreSQL reports.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ScramError::NegotiationEdited | ScramError::ChannelBindingMismatch => "28000",
            ScramError::AuthorizationIdentity | ScramError::MandatoryExtension => "0A000",
            _ => "08P01",
        }
    }

    /// PostgreSQL's DETAIL, if it has one.
    pub fn detail(&self) -> Option<&str> {
        match self {
            ScramError::Malformed { detail } => Some(detail),
            ScramError::NegotiationEdited => Some(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding.",
            ),
            ScramError::NonceMismatch => Some("Nonce does not match."),
            _ => None,
        }
    }
}

/// How an exchange ended.
pub enum AuthOutcome {
    /// The client knows the password.
    Granted {
        /// Password equivalent for this cluster; lets the router log in again as this role. Keep in memory only.
        client_key: Zeroizing<[u8; KEY_LENGTH]>,
        /// Payload of AuthenticationSASLFinal: proves that the server knows the verifier.
        server_final: String,
    },
    /// A wrong password, an unknown role or a role without password; 28P01, and nothing may tell them apart.
    Denied,
}

impl fmt::Debug for AuthOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthOutcome::Granted { .. } => "Granted { .. }",
            AuthOutcome::Denied => "Denied",
        })
    }
}

/// An exchange about to be offered.
#[derive(Debug)]
pub struct ScramServer {
    verifier: ScramVerifier,
    channel_binding: Option<Vec<u8>>,
    server_nonce: String,
}

impl ScramServer {
    /// `channel_binding` is the `tls-server-end-point` hash of the certificate that *this* client saw; `None` (no TLS,
    /// or a certificate without one) means that PLUS is not offered. `nonce` must be fresh randomness.
    pub fn new(
        verifier: ScramVerifier,
        channel_binding: Option<&[u8]>,
        nonce: [u8; NONCE_LENGTH],
    ) -> ScramServer {
        let channel_binding = channel_binding.filter(|hash| !hash.is_empty()).map(<[u8]>::to_vec);
        ScramServer { verifier, channel_binding, server_nonce: BASE64.encode(nonce) }
    }

    /// The mechanisms for AuthenticationSASL, strongest first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.channel_binding {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        }
    }

    /// Takes the mechanism's name from SASLInitialResponse (without its NUL).
    ///
    /// # Errors
    /// [`ScramError::InvalidMechanism`] for one that was not offered.
    pub fn select(self, mechanism: &[u8]) -> Result<AwaitClientFirst, ScramError> {
        let plus = self.channel_binding.is_some() && mechanism == SCRAM_SHA_256_PLUS.as_bytes();
        if !plus && mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(ScramError::InvalidMechanism);
        }
        Ok(AwaitClientFirst { server: self, plus })
    }
}

/// Waits for client-first-message.
#[derive(Debug)]
pub struct AwaitClientFirst {
    server: ScramServer,
    plus: bool,
}

impl AwaitClientFirst {
    /// Takes client-first-message and makes the challenge.
    ///
    /// # Errors
    /// Whatever PostgreSQL refuses at this point; see [`ScramError`].
    pub fn client_first(self, message: &[u8]) -> Result<AwaitClientFinal, ScramError> {
        let mut reader = limited(message)?;
        let binding = self.read_gs2_header(&mut reader)?;
        let client_first_bare = reader.rest().to_vec();
        if reader.peek() == Some(b'm') {
            return Err(ScramError::MandatoryExtension);
        }
        reader.value_of(b'n')?; // the role is the start-up packet's, whatever stands here
        let client_nonce = reader.value_of(b'r')?;
        if !is_printable(client_nonce) {
            return Err(ScramError::NonPrintableNonce);
        }
        while reader.peek().is_some() {
            reader.any()?; // optional extensions: none is known, all are ignored
        }
        let ScramServer { verifier, server_nonce, .. } = self.server;
        let nonce = [client_nonce, server_nonce.as_bytes()].concat();
        let tail = format!(",s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let server_first = [b"r=", nonce.as_slice(), tail.as_bytes()].concat();
        Ok(AwaitClientFinal { verifier, binding, nonce, client_first_bare, server_first })
    }

    /// Reads `gs2-cbind-flag "," [authzid] ","` and says what `c=` must be in the client's last message.
    fn read_gs2_header(&self, reader: &mut Attributes<'_>) -> Result<ExpectedBinding, ScramError> {
        let flag = reader.peek();
        let binding = match flag {
            Some(b'n' | b'y') if self.plus => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include \
                     channel binding data.",
                ));
            }
            Some(b'y') if self.server.channel_binding.is_some() => return Err(ScramError::NegotiationEdited),
            Some(b'n' | b'y') => {
                reader.skip();
                reader.comma()?;
                // "n,," and "y,,": all that may be repeated when nothing is bound.
                ExpectedBinding::None { attribute: if flag == Some(b'n') { "biws" } else { "eSws" } }
            }
            Some(b'p') => {
                let hash = self.server.channel_binding.as_deref().filter(|_| self.plus).ok_or_else(|| {
                    malformed(
                        "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message \
                         includes channel binding data.",
                    )
                })?;
                let kind = reader.value_of(b'p')?;
                if kind != b"tls-server-end-point" {
                    return Err(ScramError::UnsupportedBindingType(quoted_text(kind)));
                }
                ExpectedBinding::EndPoint { attribute: BASE64.encode([BOUND_HEADER, hash].concat()) }
            }
            other => {
                let found = quoted_byte(other);
                return Err(malformed(format!("Unexpected channel-binding flag \"{found}\".")));
            }
        };
        match reader.peek() {
            Some(b',') => reader.skip(),
            Some(b'a') => return Err(ScramError::AuthorizationIdentity),
            other => {
                let found = quoted_byte(other);
                return Err(malformed(format!("Unexpected attribute \"{found}\" in client-first-message.")));
            }
        }
        Ok(binding)
    }
}

/// What `c=` must be.
#[derive(Debug)]
enum ExpectedBinding {
    None { attribute: &'static str },
    EndPoint { attribute: String },
}

impl ExpectedBinding {
    fn check(&self, attribute: &[u8]) -> Result<(), ScramError> {
        match self {
            ExpectedBinding::None { attribute: expected } if attribute != expected.as_bytes() => {
                Err(ScramError::UnexpectedBindingAttribute)
            }
            ExpectedBinding::EndPoint { attribute: expected } if attribute != expected.as_bytes() => {
                Err(ScramError::ChannelBindingMismatch)
            }
            _ => Ok(()),
        }
    }
}

/// Has made the challenge and waits for client-final-message.
#[derive(Debug)]
pub struct AwaitClientFinal {
    verifier: ScramVerifier,
    binding: ExpectedBinding,
    nonce: Vec<u8>,
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
}

impl AwaitClientFinal {
    /// Payload for AuthenticationSASLContinue.
    pub fn server_first(&self) -> &[u8] {
        &self.server_first
    }

    /// Takes client-final-message and judges the proof, in the same time whether the role exists or not.
    ///
    /// # Errors
    /// Whatever PostgreSQL refuses before it looks at the proof; a wrong proof is no error but
    /// [`AuthOutcome::Denied`].
    pub fn client_final(self, message: &[u8]) -> Result<AuthOutcome, ScramError> {
        let last = self.read_client_final(message)?;
        let auth_message: [&[u8]; 5] =
            [&self.client_first_bare, b",", &self.server_first, b",", last.without_proof];
        let client_signature = Zeroizing::new(hmac_sha256(&self.verifier.stored_key, &auth_message));
        let mut client_key = Zeroizing::new([0; KEY_LENGTH]);
        for (index, byte) in client_key.iter_mut().enumerate() {
            *byte = last.proof[index] ^ client_signature[index];
        }
        let proven = Sha256::digest(client_key.as_slice()).ct_eq(&self.verifier.stored_key);
        // Computed before the verdict is used: a denial must not be quicker for a decoy.
        let server_signature = hmac_sha256(&self.verifier.server_key, &auth_message);
        if bool::from(proven & Choice::from(u8::from(!self.verifier.decoy))) {
            let server_final = format!("v={}", BASE64.encode(server_signature));
            return Ok(AuthOutcome::Granted { client_key, server_final });
        }
        Ok(AuthOutcome::Denied)
    }

    fn read_client_final<'a>(&self, message: &'a [u8]) -> Result<ClientFinal<'a>, ScramError> {
        let mut reader = limited(message)?;
        self.binding.check(reader.value_of(b'c')?)?;
        let nonce = reader.value_of(b'r')?;
        let (without_proof, encoded) = loop {
            let before = reader.before_comma();
            if let (b'p', value) = reader.any()? {
                break (before, value);
            }
        };
        let proof =
            decoded_proof(encoded).ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        if reader.peek().is_some() {
            return Err(malformed("Garbage found at the end of client-final-message."));
        }
        if !bool::from(nonce.ct_eq(&self.nonce)) {
            return Err(ScramError::NonceMismatch);
        }
        Ok(ClientFinal { without_proof, proof })
    }
}

struct ClientFinal<'a> {
    without_proof: &'a [u8],
    proof: Zeroizing<[u8; KEY_LENGTH]>,
}

/// Only the one canonical spelling of a proof is taken, so that no changed message can pass.
fn decoded_proof(encoded: &[u8]) -> Option<Zeroizing<[u8; KEY_LENGTH]>> {
    let bytes = Zeroizing::new(BASE64.decode(encoded).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

fn limited(message: &[u8]) -> Result<Attributes<'_>, ScramError> {
    if message.len() > MAX_SASL_MESSAGE_LENGTH {
        return Err(ScramError::TooLong);
    }
    Attributes::new(message)
}

#[cfg(test)]
mod tests;
