//! The server's side of one handshake.
//!
//! The first message is read here and not by `TlsAcceptor`, for two reasons: bytes that the caller had to read to tell a
//! direct TLS start from a start-up packet can be handed in, and an old client can be told what is wrong. The library
//! looks for the client's signature algorithms, which TLS 1.1 does not have, before it looks at the version, and would
//! answer `handshake_failure`.

use std::sync::Arc;

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::{TlsOffer, TlsRefusal};

/// Record header, handshake header and `client_version`.
const HEAD_LENGTH: usize = 11;

/// A fatal alert, `protocol_version`, in a record of TLS 1.0 (what clients of any age can read).
const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

impl TlsOffer {
    /// Makes the handshake on `stream`; `already_read` holds bytes of it that were read before (usually none).
    ///
    /// The deadline is the caller's. Not cancel-safe: a dropped handshake cannot be taken up again, close the stream.
    ///
    /// # Errors
    /// [`TlsRefusal`]; the client has been sent the alert.
    pub async fn accept<IO>(&self, mut stream: IO, already_read: &[u8]) -> Result<TlsStream<IO>, TlsRefusal>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = read_client_hello(&mut stream, already_read).await?;
        StartHandshake::from_parts(accepted, stream)
            .into_stream(Arc::clone(self.acceptor.config()))
            .await
            .map_err(|error| TlsRefusal::of(&error))
    }
}

/// The library limits how much it buffers, so this ends for any input.
async fn read_client_hello<IO>(stream: &mut IO, already_read: &[u8]) -> Result<Accepted, TlsRefusal>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut head = Vec::with_capacity(HEAD_LENGTH);
    let mut buffer = [0; 4096];
    let mut unread = already_read;
    loop {
        if unread.is_empty() {
            let length = stream.read(&mut buffer).await.map_err(|error| TlsRefusal::of(&error))?;
            if length == 0 {
                return Err(TlsRefusal::Disconnected);
            }
            unread = &buffer[..length];
        }
        let before = unread;
        acceptor.read_tls(&mut unread).map_err(|error| TlsRefusal::of(&error))?;
        let taken = before.len() - unread.len();
        head.extend_from_slice(&before[..taken.min(HEAD_LENGTH - head.len())]);
        match acceptor.accept() {
            Ok(Some(accepted)) if unread.is_empty() => return Ok(accepted),
            // More than the library took in one go cannot follow a ClientHello: the client must wait for the answer.
            Ok(Some(_)) => return Err(TlsRefusal::NotTls),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let old = is_older_than_tls_1_2(&head);
                let mut answer = Vec::new();
                if old {
                    answer.extend(PROTOCOL_VERSION_ALERT);
                } else {
                    // Into memory; it cannot fail.
                    let _ = alert.write_all(&mut answer);
                }
                // The refusal is the news, not that the client did not stay to hear it.
                let _ = stream.write_all(&answer).await;
                let _ = stream.flush().await;
                return Err(if old { TlsRefusal::OldVersion } else { TlsRefusal::of_library(&error) });
            }
        }
    }
}

/// Whether a ClientHello starts so and names a `client_version` below TLS 1.2. TLS 1.3 clients name 1.2 there.
fn is_older_than_tls_1_2(head: &[u8]) -> bool {
    matches!(head, [22, 3, _, _, _, 1, _, _, _, major, minor] if (*major, *minor) < (3, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_versions_apart() {
        let hello = |major, minor| [22, 3, 1, 0, 200, 1, 0, 0, 196, major, minor];
        assert!(is_older_than_tls_1_2(&hello(3, 0)));
        assert!(is_older_than_tls_1_2(&hello(3, 1)));
        assert!(is_older_than_tls_1_2(&hello(3, 2)));
        assert!(!is_older_than_tls_1_2(&hello(3, 3)));
        assert!(!is_older_than_tls_1_2(&hello(3, 3)[..10]));
        assert!(!is_older_than_tls_1_2(b"GET / HTTP/"));
    }
}
