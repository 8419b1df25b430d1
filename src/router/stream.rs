//! A client's socket behind one type: plain or encrypted, and perhaps with frames (compression) around the bytes.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::engine::Framing;

/// What one read of wrapped bytes may bring.
const READ: usize = 32 * 1024;

/// See the module.
pub enum ClientStream {
    /// As it came.
    Plain(TcpStream),
    /// After a TLS handshake.
    Tls(Box<TlsStream<TcpStream>>),
    /// With frames around the bytes.
    Framed(Box<Framed>),
    /// In the middle of a TLS handshake, or closed.
    Gone,
}

impl ClientStream {
    /// Whether written bytes may wait for a flush.
    pub fn holds_back(&self) -> bool {
        matches!(self, ClientStream::Tls(_) | ClientStream::Framed(_))
    }

    /// From here on there are frames around the bytes. `early`: what was read already.
    pub fn framed(self, framing: Box<dyn Framing>, early: BytesMut) -> ClientStream {
        let framed = Framed { stream: self, framing, from: early, to: BytesMut::new() };
        ClientStream::Framed(Box::new(framed))
    }

    /// For operators: the TLS version.
    pub fn tls_version(&self) -> Option<&'static str> {
        let stream = match self {
            ClientStream::Tls(stream) => stream,
            ClientStream::Framed(framed) => return framed.stream.tls_version(),
            ClientStream::Plain(_) | ClientStream::Gone => return None,
        };
        match stream.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => Some("TLSv1.3"),
            Some(rustls::ProtocolVersion::TLSv1_2) => Some("TLSv1.2"),
            _ => Some("TLS"),
        }
    }
}

/// A stream, and the frames around its bytes.
pub struct Framed {
    stream: ClientStream,
    framing: Box<dyn Framing>,
    /// Read and not yet unwrapped.
    from: BytesMut,
    /// Wrapped and not yet written.
    to: BytesMut,
}

impl Framed {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let count = self
                .framing
                .unwrap(&mut self.from, buf.initialize_unfilled())
                .map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
            if count > 0 {
                buf.advance(count);
                return Poll::Ready(Ok(()));
            }
            self.from.reserve(READ);
            let read = ready!(pin!(self.stream.read_buf(&mut self.from)).poll(cx))?;
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What is wrapped goes out before more is, so memory is bounded.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = self.framing.wrap(bytes, &mut self.to);
        // As much as goes at once; the rest with the next write or flush.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.to.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.to))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.to.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the client is gone")
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            ClientStream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            ClientStream::Framed(framed) => framed.poll_read(cx, buf),
            ClientStream::Gone => Poll::Ready(Err(gone())),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Framed(framed) => framed.poll_write(cx, bytes),
            ClientStream::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(_) | ClientStream::Gone => Poll::Ready(Ok(())),
            ClientStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            ClientStream::Framed(framed) => framed.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Framed(framed) => framed.poll_shutdown(cx),
            ClientStream::Gone => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::engine::BadFrame;

    /// Doubles every byte on the wire.
    struct Doubled;

    impl Framing for Doubled {
        fn unwrap(&mut self, input: &mut BytesMut, out: &mut [u8]) -> Result<usize, BadFrame> {
            let count = (input.len() / 2).min(out.len());
            for byte in &mut out[..count] {
                *byte = input[0];
                if input[1] != *byte {
                    return Err(BadFrame("not doubled"));
                }
                input.advance(2);
            }
            Ok(count)
        }

        fn wrap(&mut self, bytes: &[u8], out: &mut BytesMut) -> usize {
            let part = &bytes[..bytes.len().min(1000)];
            out.extend(part.iter().flat_map(|byte| [*byte, *byte]));
            part.len()
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, far)
    }

    #[tokio::test]
    async fn frames_go_around_the_bytes() {
        let (near, mut far) = pair().await;
        let mut near = ClientStream::Plain(near).framed(Box::new(Doubled), BytesMut::from(&b"aab"[..]));
        assert!(near.holds_back());
        far.write_all(b"bccd").await.unwrap();
        let mut read = [0; 3];
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abc");
        near.write_all(b"xyz").await.unwrap();
        near.flush().await.unwrap();
        let mut wire = [0; 6];
        far.read_exact(&mut wire).await.unwrap();
        assert_eq!(&wire, b"xxyyzz");
        far.write_all(b"e").await.unwrap();
        assert_eq!(near.read(&mut read).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// A client that does not read stops the writer long before its memory is full, and gets all of it in the end.
    #[tokio::test]
    async fn a_slow_reader_slows_the_writer() {
        let (near, mut far) = pair().await;
        let mut near = ClientStream::Plain(near).framed(Box::new(Doubled), BytesMut::new());
        let mut sent = 0;
        let block = [7; 5000];
        while let Ok(written) =
            tokio::time::timeout(std::time::Duration::from_millis(200), near.write(&block)).await
        {
            sent += written.unwrap();
        }
        let ClientStream::Framed(framed) = &near else { panic!("it was framed") };
        assert!(framed.to.len() <= 2000);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        near.shutdown().await.unwrap();
        drop(near);
        assert_eq!(reading.await.unwrap(), vec![7; 2 * sent]);
    }
}
