//! The two algorithms. Inflating goes step by step in a room that the caller bounds, so that a small frame which claims to
//! be a large one costs nothing; deflating is done in one step.

use std::cell::RefCell;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::Compression;
use crate::engine::BadFrame;

/// A frame is shorter than 2^24 bytes, so it needs no larger window.
const WINDOW_LOG: u32 = 24;

/// Inflates one frame.
pub(super) enum Inflate {
    Zlib(Decompress),
    Zstd(Decoder<'static>),
}

/// One step of inflating.
pub(super) struct Step {
    pub(super) read: usize,
    pub(super) written: usize,
    /// The end of the compressed data has come.
    pub(super) done: bool,
}

impl Inflate {
    pub(super) fn new(algorithm: Compression) -> Result<Inflate, BadFrame> {
        let unavailable = |_| BadFrame("zstd cannot be set up");
        match algorithm {
            Compression::Zlib => Ok(Inflate::Zlib(Decompress::new(true))),
            Compression::Zstd(_) => {
                let mut decoder = Decoder::new().map_err(unavailable)?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(unavailable)?;
                Ok(Inflate::Zstd(decoder))
            }
        }
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, BadFrame> {
        match self {
            Inflate::Zlib(state) => {
                let (read, written) = (state.total_in(), state.total_out());
                let status = state
                    .decompress(input, out, FlushDecompress::None)
                    .map_err(|_| BadFrame("the compressed data are broken"))?;
                let since = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(0);
                Ok(Step {
                    read: since(state.total_in(), read),
                    written: since(state.total_out(), written),
                    done: status == Status::StreamEnd,
                })
            }
            Inflate::Zstd(state) => {
                let status = state
                    .run_on_buffers(input, out)
                    .map_err(|_| BadFrame("the compressed data are broken"))?;
                let done = status.remaining == 0;
                Ok(Step { read: status.bytes_read, written: status.bytes_written, done })
            }
        }
    }
}

/// What deflating needs, in each thread once: it is large, and nothing of it outlasts a frame.
#[derive(Default)]
struct Deflaters {
    zlib: Option<Compress>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

thread_local! {
    static DEFLATERS: RefCell<Deflaters> = RefCell::default();
}

/// Deflates `bytes` into `out`, which is as long as they are; says how long the result is. `None`: it is not shorter.
pub(super) fn deflate(algorithm: Compression, bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    DEFLATERS.with_borrow_mut(|deflaters| match algorithm {
        Compression::Zlib => {
            // The lowest level: what waits for these bytes waits for this, too.
            let state =
                deflaters.zlib.get_or_insert_with(|| Compress::new(flate2::Compression::fast(), true));
            state.reset();
            let status = state.compress(bytes, out, FlushCompress::Finish).ok()?;
            (status == Status::StreamEnd).then(|| usize::try_from(state.total_out()).ok()).flatten()
        }
        Compression::Zstd(level) => {
            if deflaters.zstd.is_none() {
                deflaters.zstd = zstd::bulk::Compressor::new(level.into()).ok();
            }
            let state = deflaters.zstd.as_mut()?;
            state.set_compression_level(level.into()).ok()?;
            state.compress_to_buffer(bytes, out).ok()
        }
    })
}
