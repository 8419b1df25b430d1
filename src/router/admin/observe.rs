//! What the router sees of sessions in its own name: those who ask at the same time get one answer.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{Ask, Rows, Task};
use crate::engine::{DialogueError, Engine, MAX_ROWS};
use crate::router::backend::BackendError;

/// How many sessions one question is about, at most.
const TOGETHER: usize = 64;

/// Who asks about a session, by its id at the server.
pub(super) type Observer = (u32, oneshot::Sender<Result<Rows, Arc<BackendError>>>);

impl<E: Engine> Task<E> {
    /// Answers it, together with those that came right after it.
    pub(super) async fn observe(&mut self, first: Observer, asks: &mut mpsc::Receiver<Ask<E>>) {
        let (mut together, mut other) = (vec![first], None);
        while together.len() < TOGETHER {
            match asks.try_recv() {
                Ok(Ask::Observe(next)) => together.push(next),
                Ok(ask) => {
                    other = Some(ask);
                    break;
                }
                Err(_) => break,
            }
        }
        self.observe_all(together).await;
        if let Some(ask) = other {
            self.answer(ask).await;
        }
    }

    pub(super) async fn observe_all(&mut self, mut askers: Vec<Observer>) {
        askers.retain(|(_, answer)| !answer.is_closed());
        if askers.is_empty() {
            return;
        }
        let ids: Vec<u32> = askers.iter().map(|(id, _)| *id).collect();
        let observation = E::observation(&ids);
        let nobody_waits = join_all(askers.iter_mut().map(|(_, answer)| answer.closed()));
        let seen = tokio::select! {
            seen = self.run_one(&observation) => seen,
            _ = nobody_waits => Err(BackendError::TooSlow),
        };
        self.keep_if_sound(&seen);
        // What one session has too much of must not be missed in another.
        let cut = seen.as_ref().is_ok_and(|rows| rows.len() >= MAX_ROWS);
        if cut && askers.len() > 1 {
            for asker in askers {
                Box::pin(self.observe_all(vec![asker])).await;
            }
            return;
        }
        let too_many = || BackendError::Dialogue(DialogueError::Protocol("too much to look at".to_owned()));
        let seen = if cut { Err(too_many()) } else { seen };
        let mut seen = seen.map(by_id).map_err(Arc::new);
        for (id, answer) in askers {
            let rows = seen.as_mut().map(|seen| seen.remove(&id).unwrap_or_default());
            drop(answer.send(rows.map_err(|error| Arc::clone(error))));
        }
    }
}

/// Rows by the id in their first column.
fn by_id(rows: Rows) -> HashMap<u32, Rows> {
    let mut sorted: HashMap<u32, Rows> = HashMap::new();
    for row in rows {
        let id = row.first().and_then(Option::as_deref).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            sorted.entry(id).or_default().push(row);
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_those_who_asked() {
        let row = |words: &[&str]| words.iter().map(|word| Some((*word).to_owned())).collect::<Vec<_>>();
        let rows =
            vec![row(&["7", "a"]), row(&["9", "b"]), row(&["7", "c"]), vec![None], vec![], row(&["x"])];
        let sorted = by_id(rows);
        assert_eq!(sorted[&7], [row(&["7", "a"]), row(&["7", "c"])]);
        assert_eq!(sorted[&9], [row(&["9", "b"])]);
        assert_eq!(sorted.len(), 2);
    }
}
