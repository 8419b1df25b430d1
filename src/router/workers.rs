//! The threads that sessions live on.
//!
//! Each has a runtime of its own: the client's socket and the server's are watched, and the bytes copied, by one thread,
//! and no other is woken to steal the work (`benches/README.md`, "A thread for each core"). What is not a session
//! (listeners, drivers, the API) lives on the runtime that the process was started with.
//!
//! Nothing on them may compute for long: a worker's other sessions would wait. What a log in has to compute has one more
//! thread for each worker, so that a crowd of them cannot take the cores from those who are in.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// As many threads as sessions need. Dropped, they end, and with them every session.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    load: Arc<AtomicUsize>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Counts a task while it lives.
struct Load(Arc<AtomicUsize>);

impl Workers {
    /// One for each core that we may use.
    ///
    /// # Errors
    /// The system has no more threads or descriptors.
    pub fn start() -> io::Result<Workers> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let all = (0..count).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Workers { all })
    }

    /// Has the one with the fewest tasks run this one. What it makes there (sockets, timers, tasks) lives there, too.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(worker) = self.all.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else {
            return;
        };
        let load = Load::on(worker);
        worker.handle.spawn(async move {
            let _load = load;
            task.await;
        });
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(format!("sessions-{number}")).spawn(move || {
            // Nothing is ever sent: the sender goes.
            let _gone = runtime.block_on(stopped);
            // Not waiting for what still reads a file.
            runtime.shutdown_background();
        })?;
        Ok(Worker { handle, load: Arc::default(), thread: Some((stop, thread)) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // One that panicked has ended as well.
            let _ended = thread.join();
        }
    }
}

impl Load {
    fn on(worker: &Worker) -> Load {
        worker.load.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(&worker.load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn tasks_go_where_the_fewest_are_and_end_with_their_thread() {
        let workers = Workers { all: vec![Worker::start(0).unwrap(), Worker::start(1).unwrap()] };
        let loads = || workers.all.iter().map(|worker| worker.load.load(Ordering::Relaxed));
        let (tell, mut told) = mpsc::channel(8);
        let stay = |release: oneshot::Receiver<()>| {
            let tell = tell.clone();
            async move {
                tell.send(thread::current().name().map(str::to_owned)).await.unwrap();
                let _released = release.await;
            }
        };
        let (first, release) = oneshot::channel();
        workers.spawn(stay(release));
        let (second, release) = oneshot::channel();
        workers.spawn(stay(release));
        let mut names = [told.recv().await.unwrap().unwrap(), told.recv().await.unwrap().unwrap()];
        names.sort();
        assert_eq!(names, ["sessions-0", "sessions-1"]);
        // One leaves: the next one goes where it was.
        drop(first);
        while loads().sum::<usize>() > 1 {
            tokio::task::yield_now().await;
        }
        let (_third, release) = oneshot::channel();
        workers.spawn(stay(release));
        told.recv().await.unwrap();
        assert!(loads().all(|load| load == 1));
        let counts: Vec<_> = workers.all.iter().map(|worker| Arc::clone(&worker.load)).collect();
        drop(workers);
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
        drop(second);
    }

    #[tokio::test]
    async fn what_takes_long_takes_turns_and_holds_up_nobody() {
        let workers = Workers { all: vec![Worker::start(0).unwrap()] };
        let (tell, mut told) = mpsc::channel(8);
        let (first, release) = oneshot::channel::<()>();
        let mut release = Some(release);
        for number in 0..2 {
            let (tell, release) = (tell.clone(), release.take());
            let long = move || {
                tell.blocking_send(number).unwrap();
                let _released = release.map(oneshot::Receiver::blocking_recv);
            };
            workers.spawn(async { tokio::task::spawn_blocking(long).await.unwrap() });
        }
        assert_eq!(told.recv().await, Some(0));
        for number in 2..4 {
            let tell = tell.clone();
            workers.spawn(async move { tell.send(number).await.unwrap() });
            assert_eq!(told.recv().await, Some(number));
        }
        drop(first);
        assert_eq!(told.recv().await, Some(1));
    }
}
