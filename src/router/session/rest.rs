//! When a session last looked at itself, when it should again, and whether it holds still for a change.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::account::{Admittance, Verdict};
use super::{End, Session};
use crate::engine::{DialogueError, Drift, Engine, Inquiry, Obstacle, Tracker};
use crate::router::admin::Rows;
use crate::router::backend::BackendError;
use crate::router::fleet::{Attachment, Membership, Surveying};
use crate::router::gate::{Phase, Signal};
use crate::router::nonce;

/// A session looks at itself when it has been at rest this long after something that may have changed it …
const SETTLED: Duration = Duration::from_millis(50);
/// … not more often than this …
const INTERVAL: Duration = Duration::from_secs(1);
/// … unless it stands in the way of a change, and perhaps does no more …
const INTERVAL_IF_STANDING: Duration = Duration::from_millis(200);
/// … and, if it is never at rest that long, at the next quiet moment after this.
const OVERDUE: Duration = Duration::from_secs(5);
/// A look that takes longer waits for a lock, or for a defunct setting of the session: it is cancelled and given up.
const LOOK: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Rest {
    /// The database that the session's backend belongs to.
    pub era: u64,
    survey: u64,
    /// It has still to look at itself for that.
    surveying: Option<Surveying>,
    /// The backend was never asked, or the session would not be known again by a brief answer: the next answer takes
    /// several times as long as the one after it.
    cold: bool,
    still: Option<u64>,
    /// What becomes of the session in this change is in the report already.
    counted: bool,
    standing: Option<Obstacle>,
    /// Whether the session would be let in again.
    pub(super) account: Admittance,
    shown: Option<Obstacle>,
    looked: Instant,
    /// How many setting names were known when the session last looked; `None`: it never had to.
    names: Option<usize>,
    due: Option<Instant>,
    /// Since when something may have changed the session that was not looked at.
    drifted_since: Option<Instant>,
    /// Since when backends turn the session away.
    pub refused_since: Option<Instant>,
    cancelling: Option<JoinHandle<()>>,
}

impl Rest {
    /// A session that has just got a backend of `era`.
    pub(crate) fn new(era: u64) -> Rest {
        Rest {
            era,
            survey: 0,
            surveying: None,
            cold: true,
            still: None,
            counted: false,
            standing: None,
            account: Admittance::default(),
            shown: None,
            looked: Instant::now(),
            names: None,
            due: None,
            drifted_since: None,
            refused_since: None,
            cancelling: None,
        }
    }

    /// A backend of `era` was put in the place of the old one.
    pub(super) fn reattached(&mut self, era: u64) {
        self.era = era;
        (self.surveying, self.cold) = (None, true);
        self.still = None;
        self.counted = false;
    }

    /// A survey asks the session to look at itself. One that is busy will have to look again when it is held; it looks
    /// now, too, if that would take long then.
    pub(super) fn surveyed(&mut self, survey: u64, stale_and_quiet: bool, membership: &Membership) {
        if self.survey != survey {
            self.survey = survey;
            self.surveying = (stale_and_quiet || self.cold).then(|| membership.surveying());
        }
    }

    /// A survey is to be answered at the next quiet moment.
    pub(super) fn survey_due(&self) -> bool {
        self.surveying.is_some()
    }

    /// The gate is open: whatever the session held still for is over, and it may be anywhere from now on.
    pub(crate) fn goes_on(&mut self) {
        (self.still, self.counted) = (None, false);
    }

    /// What becomes of the session is in the report.
    pub(super) fn was_counted(&mut self) {
        self.counted = true;
    }

    /// Whether it was, before this.
    pub(super) fn take_counted(&mut self) -> bool {
        std::mem::take(&mut self.counted)
    }

    /// The session holds still for this round, as well as it can.
    pub(super) fn stands_still(&mut self, round: u64) {
        self.still = Some(round);
    }

    /// The session holds still for this round.
    pub(crate) fn holds_still(&self, round: u64) -> bool {
        self.still == Some(round)
    }

    /// What was found in the session's state, or of its account, that keeps it where it is.
    pub(crate) fn standing(&self) -> Option<Obstacle> {
        // Of a role that was dropped the server cannot even say what the session is made of.
        self.account.obstacle().or(self.standing)
    }

    /// When the session should look at itself.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It never came to rest for long enough.
    pub(crate) fn is_overdue(&self) -> bool {
        self.drifted_since.is_some_and(|since| since.elapsed() > OVERDUE)
    }

    /// Something may have changed the session.
    pub(crate) fn drifted(&mut self) {
        if self.due.is_none() {
            let now = Instant::now();
            let interval = if self.standing.is_some() { INTERVAL_IF_STANDING } else { INTERVAL };
            self.due = Some((now + SETTLED).max(self.looked + interval));
            self.drifted_since = self.drifted_since.or(Some(now));
        }
    }

    /// A cancel request is on its way to the backend.
    pub(crate) fn cancelling(&mut self, task: JoinHandle<()>) {
        self.cancelling = Some(task);
    }

    /// Tells operators when what keeps the session from being moved has changed.
    pub(crate) fn seen<T: Tracker>(&mut self, membership: &Membership, tracker: &T) {
        self.apart().0.seen(membership, tracker);
    }

    /// What shows obstacles, and the next verdict on the session's account, to be waited for at the same time.
    pub(super) fn apart(&mut self) -> (Shown<'_>, impl Future<Output = Verdict> + '_) {
        let standing = self.standing();
        (Shown { standing, shown: &mut self.shown }, self.account.verdict())
    }
}

/// What keeps the session from being moved, as operators see it.
pub(super) struct Shown<'a> {
    standing: Option<Obstacle>,
    shown: &'a mut Option<Obstacle>,
}

impl Shown<'_> {
    /// Tells them when it has changed.
    pub(super) fn seen<T: Tracker>(&mut self, membership: &Membership, tracker: &T) {
        let obstacle = tracker.obstacle().or(self.standing);
        if obstacle != *self.shown {
            *self.shown = obstacle;
            membership.doing(obstacle, tracker.shown());
        }
    }
}

/// Waits for a look; when it takes too long, has it cancelled and waits on for what then comes.
async fn cancelled_when_late<T, C: Future<Output = bool>>(
    look: impl Future<Output = T>,
    cancel: impl Fn() -> C,
) -> T {
    tokio::pin!(look);
    loop {
        match timeout(LOOK, &mut look).await {
            Ok(looked) => return looked,
            Err(_) => {
                let _heard = cancel().await;
            }
        }
    }
}

impl<E: Engine> Session<E> {
    /// The gate is shut and the session is at rest: it holds still from here on.
    pub(super) async fn at_rest(&mut self, signal: &Signal) -> Result<(), End> {
        if !matches!(signal.phase, Phase::Shut { .. }) {
            return Ok(());
        }
        if self.is_stale() {
            self.look_at_itself(false).await?;
        }
        // The backend may have been lost while it was asked, or have said that a transaction is open after all.
        if self.backend.is_none() || !self.tracker.is_quiet() {
            return Ok(());
        }
        self.rest.still = Some(signal.round);
        let forced = signal.phase == Phase::Shut { forced: true };
        let how = match self.rest.standing() {
            Some(_) => Attachment::Blocked,
            // A hold that comes too early for it ends at once, and the next one finds it decided.
            None if self.rest.account.is_on_trial() && !forced => Attachment::Blocked,
            None if E::drain(&self.state).is_some() => Attachment::Fetching,
            None => Attachment::Still,
        };
        self.membership.keep_still(signal.round, how);
        Ok(())
    }

    /// The timer says that the session should look at itself; it does if it is at rest.
    pub(super) async fn ring(&mut self) -> Result<(), End> {
        // A question of our own must not land inside a message that is half written.
        let written = self.cleared == 0 && self.client.from.cleared == 0;
        let quiet = self.tracker.is_quiet() && written;
        if self.tracker.drift() == Drift::None {
            self.rest.due = None;
            return Ok(());
        }
        if self.rest.due.is_none_or(|due| due > Instant::now()) {
            // It rang for another reason.
            return Ok(());
        }
        if quiet {
            return self.look_at_itself(false).await;
        }
        // Overdue ones are reported at their next quiet moment; until then the timer need not ring.
        self.rest.due = Some(Instant::now() + SETTLED);
        Ok(())
    }

    /// What was last captured may not be all that the session is made of.
    pub(super) fn is_stale(&self) -> bool {
        let (_, database) = E::describe(&self.startup);
        let more_names = |asked: usize| self.membership.known_setting_names(database) > asked;
        self.tracker.drift() > Drift::None || self.rest.names.is_some_and(more_names)
    }

    /// Captures. The session must be at rest. `again`: it is to be known again when it is asked the next time.
    pub(super) async fn look_at_itself(&mut self, again: bool) -> Result<(), End> {
        if let Some(cancelling) = self.rest.cancelling.take() {
            // A late signal would hit our own question. It has a deadline of its own.
            let _done = cancelling.await;
        }
        let started = Instant::now();
        let observed = match self.observed().await {
            Ok(observed) => observed,
            Err(error) => {
                self.looked(started);
                self.cannot_be_asked(&error);
                return Ok(());
            }
        };
        let (_, database) = E::describe(&self.startup);
        let names = self.membership.share_setting_names(database, E::setting_names(&self.tracker));
        self.rest.names = Some(names.len());
        let Some(backend) = &mut self.backend else { return Ok(()) };
        let question = E::capture(&Inquiry {
            startup: &self.startup,
            logged_in: &backend.logged_in,
            tracker: &self.tracker,
            last: &self.state,
            names: &names,
            observed: &observed,
            again,
            nonce: nonce(),
        });
        let cancel = backend.canceller();
        let captured = cancelled_when_late(backend.converse(question), cancel).await;
        let of_libraries = backend.library_obstacle();
        self.looked(started);
        match captured {
            Ok(mut captured) => {
                E::captured(&mut self.tracker, &mut captured.state);
                self.rest.standing = E::state_obstacle(&captured.state).or(of_libraries);
                self.state = captured.state;
                self.rest.cold = !E::is_known_again(&self.state);
                self.membership.tied(E::tie(&self.state));
                self.pass_aside(captured.aside).await
            }
            Err(error @ BackendError::Dialogue(DialogueError::Refused { .. })) => {
                self.cannot_be_asked(&error);
                Ok(())
            }
            Err(error) => {
                tracing::debug!(session = self.membership.key().id, %error, "lost while looking");
                self.backend_lost().await
            }
        }
    }

    /// What the router sees of it in its own name.
    async fn observed(&mut self) -> Result<Rows, Arc<BackendError>> {
        match self.backend.as_ref().and_then(|backend| E::observable(&backend.logged_in)) {
            Some(id) => {
                let observing = timeout(LOOK, self.cluster.observer.observe(id)).await;
                observing.unwrap_or_else(|_| Err(Arc::new(BackendError::TooSlow)))
            }
            None => Ok(Rows::new()),
        }
    }

    fn looked(&mut self, started: Instant) {
        self.rest.looked = Instant::now();
        (self.rest.due, self.rest.drifted_since) = (None, None);
        self.rest.surveying = None;
        self.cluster.metrics.capture_seconds.observe(started.elapsed().as_secs_f64());
    }

    fn cannot_be_asked(&mut self, error: &BackendError) {
        // It will be asked again and again while a change is sought; once is enough to be told.
        if self.rest.standing != Some(Obstacle::Unknown) {
            let session = self.membership.key().id;
            tracing::warn!(session, %error, "a session cannot be asked for its state");
        }
        self.rest.standing = Some(Obstacle::Unknown);
        self.rest.seen(&self.membership, &self.tracker);
    }

    /// Messages that came in between our own are the client's.
    pub(super) async fn pass_aside(&mut self, mut aside: BytesMut) -> Result<(), End> {
        self.rest.seen(&self.membership, &self.tracker);
        if aside.is_empty() {
            return Ok(());
        }
        let membership = &self.membership;
        self.tracker.server_bytes(&mut aside, &|backend_id| membership.name_of(backend_id));
        if self.tell(&aside).await { Ok(()) } else { Err(End::Client) }
    }
}
