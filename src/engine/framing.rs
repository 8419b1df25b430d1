//! Frames around a protocol's bytes on a client's socket: compression.

/// Why a client's frames cannot be read. The text is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFrame(pub &'static str);

/// Wraps what goes to a client and unwraps what comes from it, from the end of its greeting to the end of its session.
///
/// Buffers are the caller's, and bounded: neither method yields more than it was given room or bytes for.
pub trait Framing: Send + Sync {
    /// Unwraps from the front of `input` into `out`, which is not empty; says how many bytes it wrote there. 0: more
    /// input is needed, and what is there was taken as far as possible.
    ///
    /// # Errors
    /// The frames are broken; nothing can be read from this client any more.
    fn unwrap(&mut self, input: &mut bytes::BytesMut, out: &mut [u8]) -> Result<usize, BadFrame>;

    /// Wraps some bytes from the front of `bytes`, which are not empty; says how many, at least one.
    fn wrap(&mut self, bytes: &[u8], out: &mut bytes::BytesMut) -> usize;
}
