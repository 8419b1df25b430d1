//! Events as lines of JSON (NDJSON), first those that were, then those that come.

use std::convert::Infallible;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::HEARTBEAT;
use crate::scaling::report::Event;

struct Follower {
    cluster: String,
    past: Vec<Event>,
    coming: Receiver<Event>,
    /// Held as long as the stream lives: the number of followers is limited.
    _permit: OwnedSemaphorePermit,
}

/// The stream ends when the cluster is gone. An empty line is sent in silence, so that either side notices when the
/// other has died.
pub(super) fn lines(
    cluster: String,
    past: Vec<Event>,
    coming: Receiver<Event>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let follower = Follower { cluster, past, coming, _permit: permit };
    stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next_chunk().await?;
        Some((Ok(chunk), follower))
    })
}

impl Follower {
    /// # Cancel safety
    /// Safe: `recv` takes an event only when it returns it.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        if !self.past.is_empty() {
            let past = std::mem::take(&mut self.past);
            return Some(past.iter().map(line).collect::<String>().into());
        }
        match tokio::time::timeout(HEARTBEAT, self.coming.recv()).await {
            Ok(Ok(event)) => Some(line(&event).into()),
            Ok(Err(RecvError::Closed)) => None,
            Ok(Err(RecvError::Lagged(lost))) => {
                let message = format!("{lost} events were lost because this reader is slow");
                let event = Event::new(SystemTime::now(), &self.cluster, "events_lost", message);
                Some(line(&event.with("lost", lost)).into())
            }
            Err(_) => Some(Bytes::from_static(b"\n")),
        }
    }
}

fn line(event: &Event) -> String {
    // An event is made of strings and JSON values, which always serialise.
    serde_json::to_string(event).map(|json| json + "\n").unwrap_or_default()
}
