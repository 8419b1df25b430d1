//! Copies bytes between a client and a backend, whole buffers at a time, past the tracker.
//!
//! Each direction reads only when what it read before is written, so memory is bounded and a slow reader slows the
//! writer. Neither direction waits for the other, so neither can block it.
//!
//! Everything that was read and not written stays in the two buffers: [`pump`] may be dropped at any time. An empty
//! buffer goes back to where it was borrowed (`buffers.rs`) before the session waits.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::backend::Backend;
use super::buffers;
use super::stream::ClientStream;
use super::turns::Turn;
use crate::engine::{Admission, Engine, Rest, Tracker};
use crate::telemetry::ClusterMetrics;

/// A buffer that holds a request at the gate is not filled further than this.
const MAX_HELD: usize = 128 * 1024;

/// Why the pump stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The client closed its connection, or it broke.
    ClientGone,
    /// The client said goodbye.
    Goodbye,
    /// The client broke the protocol.
    Violation(&'static str),
    /// The backend closed its connection, or it broke.
    BackendGone,
    /// The backend's last words are at the front of its buffer, not forwarded.
    Farewell,
    /// The request at the front is for the session to look at; all before it is answered.
    Intercept,
    /// What was asked for with [`Report`] has come.
    Reported,
}

/// What the pump is to stop for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Nothing in particular.
    Nothing,
    /// Nothing is under way in either direction, and no transaction is open.
    Quiet,
    /// The same, and the session may have changed since it was captured.
    Drifted,
    /// Every request that was forwarded is answered, and nobody is in the middle of a message.
    Answered,
}

/// One direction's bytes.
#[derive(Default)]
pub struct Flow {
    /// Read and not yet written on.
    pub bytes: BytesMut,
    /// How many of them, at the front, may be written on.
    pub cleared: usize,
}

/// The client's end of a session.
pub struct ClientEnd {
    /// Its socket.
    pub stream: ClientStream,
    /// What it sent.
    pub from: Flow,
    /// Written, but perhaps still in a layer of the stream.
    unflushed: bool,
    held: bool,
    turn: Turn,
}

impl ClientEnd {
    /// A client that has been greeted; `from` may hold what it sent early.
    pub fn new(stream: ClientStream, from: BytesMut, turn: Turn) -> ClientEnd {
        ClientEnd { stream, from: Flow { bytes: from, cleared: 0 }, unflushed: false, held: false, turn }
    }
}

/// How the pump is to behave.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// What of the client's is let past.
    pub admission: Admission,
    /// Stop for this.
    pub report: Report,
    /// A statement that would begin from rest waits for its turn.
    pub in_turn: bool,
}

/// Whoever looks on while bytes pass.
pub trait Onlooker<T>: Send {
    /// Something passed that the tracker has looked at.
    fn seen(&mut self, tracker: &T);
    /// Nothing is under way: the pump is to stop, too. Asked often.
    fn stops(&self) -> bool;
}

/// Everything that is pumped.
pub struct Pump<'a, E: Engine> {
    /// The client.
    pub client: &'a mut ClientEnd,
    /// The backend; its `input` holds what it sent.
    pub backend: &'a mut Backend<E>,
    /// How much of `backend.input` may be written on.
    pub cleared: &'a mut usize,
    /// The tracker.
    pub tracker: &'a mut E::Tracker,
    /// Connection ids behind backends' process ids.
    pub names: &'a (dyn Fn(u32) -> Option<u32> + Sync),
    /// Looks on.
    pub watch: &'a mut (dyn Onlooker<E::Tracker> + 'a),
    /// Counts bytes.
    pub metrics: &'a ClusterMetrics,
}

/// Pumps until something happens that the session must decide on.
///
/// # Cancel safety
/// Safe: see the module.
pub async fn pump<E: Engine>(mut pump: Pump<'_, E>, manner: Manner) -> Event {
    // A gate that has opened lets go what it held.
    pump.client.held = false;
    // What came with the last answer of a conversation of our own was not looked at yet.
    if *pump.cleared == 0
        && !pump.backend.input.is_empty()
        && let Err(event) = pump.scan_backend()
    {
        return event;
    }
    std::future::poll_fn(|cx| pump.poll(cx, manner)).await
}

impl<E: Engine> Pump<'_, E> {
    fn poll(&mut self, cx: &mut Context<'_>, manner: Manner) -> Poll<Event> {
        loop {
            let mut moved = match self.poll_to_client(cx) {
                Ok(moved) => moved,
                Err(event) => return Poll::Ready(event),
            };
            match self.poll_to_backend(cx, manner) {
                Ok(also) => moved |= also,
                Err(event) => return Poll::Ready(event),
            }
            if self.is_due(manner.report) {
                return Poll::Ready(Event::Reported);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.tracker.is_answered() && self.is_written()
    }

    /// All that may be written is.
    fn is_written(&self) -> bool {
        *self.cleared == 0 && !self.client.unflushed && self.client.from.cleared == 0
    }

    fn is_due(&self, report: Report) -> bool {
        let due = match report {
            Report::Nothing => false,
            Report::Quiet => self.tracker.is_quiet(),
            Report::Drifted => self.tracker.drift().calls_for_a_look() && self.tracker.is_quiet(),
            Report::Answered => self.tracker.is_answered(),
        };
        let due = due || (self.tracker.is_quiet() && self.watch.stops());
        due && self.is_written()
    }

    /// One step from the backend to the client. `Ok(true)`: something moved.
    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Event> {
        let gone = |_: io::Error| Event::ClientGone;
        if *self.cleared > 0 {
            let part = &self.backend.input[..*self.cleared];
            let Poll::Ready(written) = Pin::new(&mut self.client.stream).poll_write(cx, part) else {
                return Ok(false);
            };
            let written = nonzero(written).map_err(gone)?;
            consume(&mut self.backend.input, written);
            *self.cleared -= written;
            self.client.unflushed = self.client.stream.holds_back();
            self.metrics.bytes_to_clients.inc_by(written as u64);
            return Ok(true);
        }
        if self.client.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.client.stream).poll_flush(cx)
        {
            flushed.map_err(gone)?;
            self.client.unflushed = false;
        }
        match poll_fill(cx, &mut self.backend.stream, &mut self.backend.input) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0) | Err(_)) => return Err(Event::BackendGone),
            Poll::Ready(Ok(_)) => {}
        }
        self.scan_backend()?;
        Ok(true)
    }

    fn scan_backend(&mut self) -> Result<(), Event> {
        let scan = self.tracker.server_bytes(&mut self.backend.input, self.names);
        *self.cleared = scan.forward;
        self.watch.seen(self.tracker);
        if self.client.turn.is_running() && !self.tracker.is_running() {
            self.client.turn.end();
        }
        match scan {
            // First what comes before it, then the farewell is scanned again and decided on.
            _ if scan.farewell && scan.forward == 0 => Err(Event::Farewell),
            _ if scan.violation => Err(Event::BackendGone),
            _ => Ok(()),
        }
    }

    /// One step from the client to the backend. `Ok(true)`: something moved.
    fn poll_to_backend(&mut self, cx: &mut Context<'_>, manner: Manner) -> Result<bool, Event> {
        let from = &mut self.client.from;
        if from.cleared > 0 {
            let Poll::Ready(written) =
                Pin::new(&mut self.backend.stream).poll_write(cx, &from.bytes[..from.cleared])
            else {
                return Ok(false);
            };
            // A backend that does not take bytes any more may have said why: let that be read.
            let Ok(written) = nonzero(written) else { return self.drained_of_farewell(cx) };
            consume(&mut from.bytes, written);
            from.cleared -= written;
            self.metrics.bytes_from_clients.inc_by(written as u64);
            return Ok(true);
        }
        let before = from.bytes.len();
        if !from.bytes.is_empty() && !self.client.held && self.scan_client(cx, manner)? {
            return Ok(true);
        }
        let from = &mut self.client.from;
        if from.bytes.len() >= MAX_HELD {
            return Ok(false);
        }
        match poll_fill(cx, &mut self.client.stream, &mut from.bytes) {
            Poll::Pending => Ok(before != from.bytes.len()),
            Poll::Ready(Ok(0) | Err(_)) => Err(Event::ClientGone),
            Poll::Ready(Ok(_)) if self.client.held => Ok(true),
            Poll::Ready(Ok(_)) => {
                self.scan_client(cx, manner)?;
                Ok(true)
            }
        }
    }

    /// `Ok(true)`: there is something to write.
    fn scan_client(&mut self, cx: &mut Context<'_>, manner: Manner) -> Result<bool, Event> {
        let from_rest = manner.in_turn && self.tracker.is_quiet();
        if from_rest && self.client.turn.poll_begin(cx).is_pending() {
            return Ok(false);
        }
        let from = &mut self.client.from;
        let scan = self.tracker.client_bytes(&mut from.bytes, manner.admission);
        from.cleared = scan.forward;
        self.client.held = scan.rest == Rest::Held && scan.forward == 0;
        if scan.forward == 0 || !self.tracker.is_running() {
            // Nothing has begun, or nothing that will be answered.
            self.client.turn.end();
        }
        if scan.forward > 0 {
            self.watch.seen(self.tracker);
            return Ok(true);
        }
        match scan.rest {
            Rest::Goodbye => Err(Event::Goodbye),
            Rest::Violation(text) => Err(Event::Violation(text)),
            Rest::Intercept if self.is_answered() => Err(Event::Intercept),
            Rest::Incomplete | Rest::Held | Rest::Draining | Rest::Intercept => Ok(false),
        }
    }

    fn drained_of_farewell(&mut self, cx: &mut Context<'_>) -> Result<bool, Event> {
        if *self.cleared > 0 {
            // The client has not taken what came before; it will wake us.
            return Ok(false);
        }
        match poll_fill(cx, &mut self.backend.stream, &mut self.backend.input) {
            Poll::Ready(Ok(read)) if read > 0 => self.scan_backend().map(|()| true),
            Poll::Pending => Ok(false),
            Poll::Ready(_) => Err(Event::BackendGone),
        }
    }
}

fn nonzero(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}

fn consume(bytes: &mut BytesMut, count: usize) {
    if count == bytes.len() {
        bytes.clear();
    } else {
        bytes::Buf::advance(bytes, count);
    }
}

/// Reads once, into a buffer that is borrowed only while there is something in it.
///
/// # Cancel safety
/// Safe: what was read is in `bytes`.
pub(super) async fn fill(
    stream: &mut (impl AsyncReadExt + Unpin),
    bytes: &mut BytesMut,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| poll_fill(cx, stream, bytes)).await
}

/// One read into the buffer's spare room.
fn poll_fill(
    cx: &mut Context<'_>,
    stream: &mut (impl AsyncReadExt + Unpin),
    bytes: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    buffers::lend(bytes);
    let read = pin!(stream.read_buf(bytes)).poll(cx);
    if read.is_pending() {
        buffers::give_back(bytes);
    }
    read
}
