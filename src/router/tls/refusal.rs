//! Why a handshake failed, in words for the operator's log. The client has had its TLS alert by then.

use std::fmt;
use std::io;

use rustls::{AlertDescription, Error, PeerIncompatible};

/// Why a client got no TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsRefusal {
    /// It offers nothing newer than TLS 1.1 (alert `protocol_version`).
    OldVersion,
    /// No cipher suite, key exchange or signature scheme in common.
    NothingInCommon,
    /// It offers application protocols, but not `postgresql` (alert `no_application_protocol`).
    WrongApplicationProtocol,
    /// It does not trust the router's certificate, or the name in it; holds the client's alert.
    CertificateRefused(&'static str),
    /// It sent another alert.
    Alert(String),
    /// What it sent is not TLS.
    NotTls,
    /// It went away.
    Disconnected,
    /// Anything else.
    Other(String),
}

impl TlsRefusal {
    /// Reads the error of `TlsAcceptor::accept`.
    pub fn of(error: &io::Error) -> TlsRefusal {
        if let Some(error) = error.get_ref().and_then(|source| source.downcast_ref::<Error>()) {
            return TlsRefusal::of_library(error);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => TlsRefusal::Disconnected,
            _ => TlsRefusal::Other(error.to_string()),
        }
    }

    pub(super) fn of_library(error: &Error) -> TlsRefusal {
        match error {
            Error::PeerIncompatible(reason) => match reason {
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired => TlsRefusal::OldVersion,
                PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoEcPointFormatsInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired => TlsRefusal::NothingInCommon,
                other => TlsRefusal::Other(format!("{other:?}")),
            },
            Error::NoApplicationProtocol => TlsRefusal::WrongApplicationProtocol,
            Error::AlertReceived(alert) => TlsRefusal::of_alert(*alert),
            Error::InvalidMessage(_) => TlsRefusal::NotTls,
            other => TlsRefusal::Other(other.to_string()),
        }
    }

    fn of_alert(alert: AlertDescription) -> TlsRefusal {
        match alert {
            AlertDescription::UnknownCA => TlsRefusal::CertificateRefused("unknown_ca"),
            AlertDescription::BadCertificate => TlsRefusal::CertificateRefused("bad_certificate"),
            AlertDescription::CertificateExpired => TlsRefusal::CertificateRefused("certificate_expired"),
            AlertDescription::CertificateUnknown => TlsRefusal::CertificateRefused("certificate_unknown"),
            AlertDescription::UnsupportedCertificate => {
                TlsRefusal::CertificateRefused("unsupported_certificate")
            }
            other => TlsRefusal::Alert(format!("{other:?}")),
        }
    }
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsRefusal::OldVersion => {
                f.write_str("the client offers nothing newer than TLS 1.1; TLS 1.2 or 1.3 is required")
            }
            TlsRefusal::NothingInCommon => {
                f.write_str("the client offers no cipher suite, key exchange or signature scheme in use here")
            }
            TlsRefusal::WrongApplicationProtocol => {
                f.write_str("the client asks for an application protocol (ALPN) other than postgresql")
            }
            TlsRefusal::CertificateRefused(alert) => {
                write!(f, "the client does not accept the certificate ({alert}); check its root certificate")
            }
            TlsRefusal::Alert(alert) => write!(f, "the client gave up with the alert {alert}"),
            TlsRefusal::NotTls => f.write_str("what the client sent is not TLS"),
            TlsRefusal::Disconnected => f.write_str("the client went away during the handshake"),
            TlsRefusal::Other(reason) => f.write_str(reason),
        }
    }
}
