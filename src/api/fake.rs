//! A control plane without clusters behind it: policy only, for tests of the API and of the command line.

use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::config::{Engine, TimeoutAction};
use crate::scaling::control_plane::{ControlPlane, Refusal, ScaleRequest};
use crate::scaling::report::*;

/// One cluster `orders`, 2 to 16 ACUs, at 2.
pub(crate) struct FakeControlPlane {
    pub(crate) outcome: Mutex<Outcome>,
    pub(crate) asked: Mutex<Vec<ScaleRequest>>,
    pub(crate) takes: Mutex<Duration>,
    pub(crate) events: Mutex<Option<broadcast::Sender<Event>>>,
}

impl Default for FakeControlPlane {
    fn default() -> Self {
        Self {
            outcome: Mutex::new(Outcome::Scaled),
            asked: Mutex::default(),
            takes: Mutex::default(),
            events: Mutex::new(Some(broadcast::channel(4).0)),
        }
    }
}

pub(crate) fn obstacle() -> ObstacleRow {
    ObstacleRow {
        session: 7,
        user: "app".into(),
        reason: "open_transaction".into(),
        since_ms: 4200,
        statement: Some("update t\n\u{1b}[31mset x = 1".into()),
    }
}

pub(crate) fn report(to: u32, outcome: Outcome) -> ScaleReport {
    let obstacles = if outcome == Outcome::RolledBack { vec![obstacle()] } else { Vec::new() };
    ScaleReport {
        cluster: "orders".into(),
        from: 2,
        to,
        outcome,
        sessions: SessionCounts { carried: 3, aborted: 0, closed: 0 },
        hold_ms: 12,
        handover_ms: 170,
        stall_ms: 182,
        waited_ms: 900,
        obstacles,
        error: (outcome == Outcome::Failed).then(|| "the server did not start".into()),
    }
}

#[async_trait]
impl ControlPlane for FakeControlPlane {
    fn clusters(&self) -> Vec<ClusterStatus> {
        vec![ClusterStatus {
            name: "orders".into(),
            engine: "postgres".into(),
            version: Some("15.20".into()),
            listen: "127.0.0.1:5432".into(),
            state: ClusterState::Available,
            capacity: 2,
            min_capacity: 2,
            max_capacity: 16,
            sessions: 1,
            paused: false,
            backend_pid: Some(4242),
            last_change: Some(report(2, Outcome::Scaled)),
            change: None,
        }]
    }

    fn cluster(&self, name: &str) -> Option<ClusterStatus> {
        self.clusters().into_iter().find(|cluster| cluster.name == name)
    }

    fn sessions(&self, name: &str) -> Option<Vec<SessionRow>> {
        let row = SessionRow {
            id: 7,
            user: "app".into(),
            database: "shop".into(),
            client: "127.0.0.1:50000".into(),
            tls: Some("TLSv1.3".into()),
            state: "active".into(),
            age_ms: 61_000,
            obstacle: Some("open_transaction".into()),
            obstacle_since_ms: Some(4200),
            statement: obstacle().statement,
            tie: None,
        };
        (name == "orders").then(|| vec![row])
    }

    async fn scale(&self, name: &str, request: ScaleRequest) -> Result<ScaleReport, Refusal> {
        let ladder = Engine::Postgres.ladder();
        let capacity = request.capacity;
        if name != "orders" {
            return Err(Refusal::UnknownCluster { name: name.to_owned() });
        }
        if !ladder.contains(capacity) {
            return Err(Refusal::NotOnLadder { capacity, ladder });
        }
        if capacity > 16 {
            return Err(Refusal::OutOfRange { capacity, min: 2, max: 16 });
        }
        if request.timeout_action == Some(TimeoutAction::ForceApplyCapacityChange) && capacity == 16 {
            return Err(Refusal::ChangeInProgress { to: 8 });
        }
        let takes = *self.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        let outcome = if request.wait { *self.outcome.lock().unwrap() } else { Outcome::Started };
        self.asked.lock().unwrap().push(request);
        Ok(report(capacity, outcome))
    }

    fn events(&self, name: &str) -> Option<(Vec<Event>, broadcast::Receiver<Event>)> {
        let past = vec![
            Event::rds(UNIX_EPOCH, "orders", &RdsEvent::Resuming),
            Event::rds(UNIX_EPOCH, "orders", &RdsEvent::Scaled { from: 2, to: 4 }),
        ];
        let sender = self.events.lock().unwrap();
        let coming = sender.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        (name == "orders").then_some((past, coming))
    }

    fn metrics_text(&self) -> String {
        crate::telemetry::Metrics::new().encode()
    }
}

/// The API on a loopback port, on a thread of its own; stops when it is dropped.
pub(crate) struct FakeServer {
    pub(crate) control: std::sync::Arc<FakeControlPlane>,
    pub(crate) address: std::net::SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeServer {
    pub(crate) fn start() -> Self {
        let control = std::sync::Arc::new(FakeControlPlane::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let router = super::router(control.clone(), vec!["scale.example.org".into()]);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                super::serve(listener, router, async { drop(stopped.await) }).await;
            });
        });
        Self { control, address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
