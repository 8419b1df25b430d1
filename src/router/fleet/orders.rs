//! What others ask of a session, on its way to it: a queue of four, in a hundred bytes.
//!
//! A channel of tokio's keeps a kilobyte for each session, filled or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

/// Further ones are turned away: a session with so many before it will look up soon anyway.
const MAX_WAITING: usize = 4;

/// What others may ask of a session.
#[derive(Debug)]
pub enum Order {
    /// Cancel what is running; answered when the server has been asked.
    Cancel(oneshot::Sender<()>),
    /// Get a backend.
    Wake,
    /// Give the backend up at the next quiet moment: somebody waits for its place.
    MakeRoom,
    /// Another session has the server end this one's connection.
    End,
}

/// The fleet's end.
pub(super) struct Post(Arc<Tray>);

/// The session's end. Dropping it drops what waits.
pub struct Orders(Arc<Tray>);

#[derive(Default)]
struct Tray {
    waiting: Mutex<Waiting>,
    /// Whether something waits: the session looks at every statement.
    some: AtomicBool,
    session: AtomicWaker,
}

#[derive(Default)]
struct Waiting {
    orders: Vec<Order>,
    closed: bool,
}

/// Both ends.
pub(super) fn orders() -> (Post, Orders) {
    let tray = Arc::new(Tray::default());
    (Post(Arc::clone(&tray)), Orders(tray))
}

impl Tray {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post {
    /// Leaves an order. `Err`: too many wait, or the session has ended.
    pub(super) fn send(&self, order: Order) -> Result<(), Order> {
        let mut waiting = self.0.waiting();
        if waiting.closed || waiting.orders.len() >= MAX_WAITING {
            return Err(order);
        }
        waiting.orders.push(order);
        self.0.some.store(true, Ordering::Release);
        drop(waiting);
        self.0.session.wake();
        Ok(())
    }
}

impl Orders {
    /// The next one.
    ///
    /// # Cancel safety
    /// What has not been returned waits on.
    pub async fn next(&mut self) -> Order {
        std::future::poll_fn(|context| {
            // First, so that nothing that comes meanwhile goes unnoticed.
            self.0.session.register(context.waker());
            match self.take() {
                Some(order) => Poll::Ready(order),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn take(&self) -> Option<Order> {
        if !self.0.some.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.0.waiting();
        let order = (!waiting.orders.is_empty()).then(|| waiting.orders.remove(0));
        if waiting.orders.is_empty() {
            self.0.some.store(false, Ordering::Release);
            waiting.orders = Vec::new();
        }
        order
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.closed = true;
        let orders = std::mem::take(&mut waiting.orders);
        drop(waiting);
        drop(orders);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn orders_come_in_turn_and_too_many_are_turned_away() {
        let (post, mut orders) = orders();
        assert!(orders.next().now_or_never().is_none());
        post.send(Order::Wake).unwrap();
        for _ in 1..MAX_WAITING {
            post.send(Order::MakeRoom).unwrap();
        }
        assert!(matches!(post.send(Order::End), Err(Order::End)));
        assert!(matches!(orders.next().await, Order::Wake));
        post.send(Order::End).unwrap();
        for _ in 1..MAX_WAITING {
            assert!(matches!(orders.next().await, Order::MakeRoom));
        }
        assert!(matches!(orders.next().await, Order::End));
        assert!(orders.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let (post, mut orders) = orders();
        let waits = tokio::spawn(async move { orders.next().await });
        tokio::task::yield_now().await;
        post.send(Order::Wake).unwrap();
        assert!(matches!(waits.await.unwrap(), Order::Wake));
        assert!(post.send(Order::Wake).is_err(), "it has ended");
    }

    #[tokio::test]
    async fn whoever_asked_a_session_that_ends_is_told() {
        let (post, orders) = orders();
        let (done, asked) = oneshot::channel();
        post.send(Order::Cancel(done)).unwrap();
        drop(orders);
        assert!(asked.await.is_err());
    }
}
