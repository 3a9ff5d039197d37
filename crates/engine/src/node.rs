//! A node: what the agent's API calls.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use drover_api::{ExecRequest, LogQuery, LogRecord, MigrateRequest, RunRequest};
use drover_container::{Layout, Runc};
use drover_disk::{ImageStore, Token};
use drover_memory::Backend;
use drover_model::{
    Action, Bandwidth, Caller, Check, ContainerId, ContainerRecord, ContainerStats, MigrationId, MigrationState,
    MoveLimits, NodeFeatures, NodeInfo, NodeName, Phase, Plan, Priority, Side,
};
use drover_protocol::{Source, Verdict};
use drover_registry::Access;
use drover_sys::cgroup::Hierarchies;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use crate::admission::Admissions;
use crate::container::{Container, Registry, Stored, lock};
use crate::copies::Copies;
use crate::drain::Drain;
use crate::error::NodeError;
use crate::experience::Experience;
use crate::features::features;
use crate::journal::{Journal, JournalFile};
use crate::lead::Lead;
use crate::lifecycle::own_program;
use crate::receive::{self, Word};
use crate::session::Session;
use crate::sharing::Sharing;
use crate::turns::{Places, Turns};
use crate::volumes::Volumes;

/// How a node is set up; the agent reads it from its configuration file.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The node's name.
    pub name: NodeName,
    /// Where containers, images and the journal live; must survive a reboot.
    pub state: PathBuf,
    /// Sockets and mounts; must not survive a reboot.
    pub run: PathBuf,
    /// The link that containers' interfaces stand on.
    pub uplink: String,
    /// Addresses that containers get when none is asked for.
    pub pool: Option<Pool>,
    /// Nodes that containers may move to and come from, as they are at any moment.
    pub peers: watch::Receiver<Arc<[Peer]>>,
    /// The certificates for the link to peers, as they are at any moment.
    pub tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    /// How registries are reached.
    pub registries: Arc<Access>,
    /// For how many days copies of files of containers that are elsewhere are kept; 0 for not at all.
    pub keep_copies_days: u32,
    /// How many moves may be under way at one time.
    pub limits: MoveLimits,
    /// The most that all moves away may send together.
    pub bandwidth: Option<Bandwidth>,
}

/// Addresses to give out.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The range.
    pub range: IpNet,
    /// The prefix length of the network that it is a part of.
    pub prefix: u8,
    /// The default gateway, if there is one.
    pub gateway: Option<IpAddr>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, which its certificate must carry.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The enrolment that its certificate must carry; absent: any, where no cluster's document names one.
    pub enrolment: Option<String>,
}

/// What `Inner` knows beside what the agent configured.
#[derive(Debug)]
pub(crate) struct Config {
    pub name: NodeName,
    pub state: PathBuf,
    pub run: PathBuf,
    pub uplink: String,
    pub pool: Option<Pool>,
    pub peers: watch::Receiver<Arc<[Peer]>>,
    pub tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    /// How many moves may be under way at one time.
    pub limits: MoveLimits,
    /// The program that shims are started from.
    pub program: PathBuf,
    /// The directory beneath which control groups lie, in every hierarchy.
    pub cgroup_base: String,
}

impl Config {
    /// The nodes that containers may move to and come from now.
    pub fn peers(&self) -> Arc<[Peer]> {
        Arc::clone(&self.peers.borrow())
    }
}

pub(crate) type Arrivals = HashMap<MigrationId, Coming>;

/// A migration that left this node, or is leaving.
#[derive(Debug)]
struct Leaving {
    container: ContainerId,
    state: watch::Receiver<MigrationState>,
    orders: mpsc::Sender<Order>,
}

/// What somebody orders of a migration that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Give up.
    Cancel,
    /// The container is whose the verdict says, whatever the target knows.
    Resolve(Verdict),
}

/// A migration towards this node that is under way.
#[derive(Debug)]
pub(crate) struct Coming {
    pub peer: NodeName,
    pub word: mpsc::Sender<Word>,
    /// As this node sees it, once it has a container.
    pub state: watch::Receiver<Option<MigrationState>>,
}

/// How many migrations that ended are remembered for `drover migrations`.
const REMEMBERED: usize = 200;

#[derive(Debug)]
pub(crate) struct Inner {
    pub config: Config,
    pub images: ImageStore,
    pub volumes: Arc<Volumes>,
    pub registries: Arc<Access>,
    pub copies: Copies,
    pub runc: Runc,
    pub registry: Registry,
    pub closing: watch::Sender<()>,
    pub hierarchies: Hierarchies,
    /// How writes are followed on this machine, if they can be.
    pub backend: Option<Backend>,
    /// The moves that wait here, or are under way.
    pub turns: Arc<Turns>,
    /// The places of those that come.
    pub places: Arc<Places>,
    /// What those that leave share.
    pub sharing: Arc<Sharing>,
    pub drain: Drain,
    journal: Mutex<Journal>,
    arrivals: Mutex<Arrivals>,
    links: Arc<Admissions>,
    migrations: Mutex<Vec<Leaving>>,
    /// What moves have taught.
    pub experience: Mutex<Experience>,
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Does the work to its end, even when whoever asked for it goes away: what is half done would be nobody's.
pub(crate) async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Now, as RFC 3339 in UTC.
pub(crate) fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// The time since then, by the same clock; none when it was set back.
pub(crate) fn since(time: &str) -> Duration {
    let then = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339);
    let passed = then.map(|then| time::OffsetDateTime::now_utc() - then);
    passed.ok().and_then(|passed| passed.try_into().ok()).unwrap_or_default()
}

/// A fresh id of so many bytes, in hexadecimal digits.
pub(crate) fn fresh_id<const N: usize>() -> String {
    rand::random::<[u8; N]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Inner {
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    pub fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        lock(&self.arrivals)
    }

    pub fn new_container(&self, stored: Stored) -> Result<Arc<Container>, NodeError> {
        let layout = Layout::new(&self.config.state, &self.config.run, &stored.spec.id);
        Container::new(layout, &self.hierarchies, Arc::clone(&self.volumes), stored)
            .map_err(|error| NodeError::failed("cannot find the node's control groups", &error))
    }

    /// Leads a migration that the journal knows, on a task of its own.
    pub fn lead(
        self: &Arc<Self>,
        container: Arc<Container>,
        peer: Peer,
        (id, began_at): (MigrationId, String),
        machine: Source,
        operation: tokio::sync::OwnedMutexGuard<()>,
        tokens: Vec<Token>,
    ) {
        let state = self.new_state(&container, &peer, id.clone(), began_at, Priority::Normal);
        let (state, orders) = self.remember(container.id.clone(), state);
        let (inner, traffic, flow) = (Arc::clone(self), Arc::default(), self.sharing.join(Priority::Normal));
        let lead =
            Lead { inner, container, peer, id, state, orders, traffic, flow, reserved: None, tokens, predicted: None };
        tokio::spawn(async move {
            lead.run(machine, operation).await;
        });
    }

    /// Lists a migration: where its state is to be shown, and where it hears what is ordered of it.
    pub fn remember(
        &self,
        container: ContainerId,
        state: MigrationState,
    ) -> (watch::Sender<MigrationState>, mpsc::Receiver<Order>) {
        let id = state.id.clone();
        let (sender, receiver) = watch::channel(state);
        let (orders, ordered) = mpsc::channel(1);
        let mut migrations = lock(&self.migrations);
        // One that had failed may be taken up again.
        migrations.retain(|leaving| leaving.state.borrow().id != id);
        let ended = migrations.iter().filter(|leaving| leaving.state.borrow().report.is_some()).count();
        let mut too_many = ended.saturating_sub(REMEMBERED);
        migrations.retain(|leaving| {
            let forget = too_many > 0 && leaving.state.borrow().report.is_some();
            too_many -= usize::from(forget);
            !forget
        });
        migrations.push(Leaving { container, state: receiver, orders });
        (sender, ordered)
    }

    /// The move of a container that waits for its turn or is under way.
    pub fn move_of(&self, container: &ContainerId) -> Option<MigrationState> {
        let migrations = lock(&self.migrations);
        let own = migrations.iter().filter(|leaving| leaving.container == *container);
        own.map(|leaving| leaving.state.borrow().clone()).find(|state| state.report.is_none())
    }

    /// Follows one migration.
    pub fn migration(&self, id: &MigrationId) -> Result<watch::Receiver<MigrationState>, NodeError> {
        let migrations = lock(&self.migrations);
        let found = migrations.iter().find(|leaving| &leaving.state.borrow().id == id);
        found.map(|leaving| leaving.state.clone()).ok_or_else(|| NodeError::no_migration(id))
    }

    /// A migration away from this node: where it takes orders, and its state.
    pub fn leaving(&self, id: &MigrationId) -> Option<(mpsc::Sender<Order>, MigrationState)> {
        let migrations = lock(&self.migrations);
        let found = migrations.iter().find(|leaving| &leaving.state.borrow().id == id);
        found.map(|leaving| (leaving.orders.clone(), leaving.state.borrow().clone()))
    }

    /// Asks a migration to give up.
    pub async fn cancel(&self, id: &MigrationId) -> Result<(), NodeError> {
        let (orders, state) = self.leaving(id).ok_or_else(|| NodeError::no_migration(id))?;
        if state.report.is_none() && is_decided(&state) {
            let reason = format!("cannot cancel migration {id}: it is decided, and {} has the container", state.to);
            return Err(NodeError::conflict(reason, "wait for its end, and move the container back"));
        }
        orders
            .send(Order::Cancel)
            .await
            .map_err(|_| NodeError::conflict(format!("cannot cancel migration {id}: it has ended"), ""))
    }
}

/// A node.
#[derive(Debug)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

impl Node {
    /// Opens the node: takes up what runs, finishes what was under way, restarts what is to be restarted.
    ///
    /// # Errors
    /// When its directories cannot be used or its control groups cannot be found.
    pub async fn open(config: NodeConfig) -> Result<Arc<Self>, NodeError> {
        let inner = blocking(move || Self::open_blocking(config)).await?;
        inner.recover().await;
        tokio::spawn(Arc::clone(&inner).watch_volumes());
        tokio::spawn(Arc::clone(&inner).sweep_copies());
        Ok(Arc::new(Self { inner }))
    }

    fn open_blocking(config: NodeConfig) -> Result<Arc<Inner>, NodeError> {
        let failed = |error: &(dyn std::error::Error + 'static)| NodeError::failed("cannot open the node", error);
        let NodeConfig { name, state, run, uplink, pool, peers, tls, registries, keep_copies_days, limits, bandwidth } =
            config;
        for directory in [state.join("containers"), run.join("containers")] {
            std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        }
        // Beneath the mount points, as runc does: in a control group namespace that is the namespace's root.
        let cgroup_base = "/".to_owned();
        let hierarchies = Hierarchies::detect(Path::new("/"), &cgroup_base).map_err(|error| failed(&error))?;
        let program = own_program().map_err(|error| failed(&error))?;
        let shims = drover_sys::cgroup::Cgroup::at(&hierarchies, crate::container::SHIMS_CGROUP);
        let shims = shims.and_then(|group| group.create().map(|()| group)).map_err(|error| failed(&error))?;
        let backend = Backend::probe();
        match backend {
            Some(backend) => tracing::info!(backend = backend.name(), "writes of containers can be followed"),
            None => tracing::warn!("writes of containers cannot be followed: `drover agent features` says why"),
        }
        Ok(Arc::new(Inner {
            images: ImageStore::open(&state.join("images")).map_err(|error| failed(&error))?,
            volumes: Arc::new(Volumes::open(&state, &run, shims).map_err(|error| failed(&error))?),
            registries,
            copies: Copies::open(&state, keep_copies_days).map_err(|error| failed(&error))?,
            journal: Mutex::new(JournalFile::open(&state.join("migrations.jsonl")).map_err(|error| failed(&error))?),
            runc: Runc::new(&run),
            registry: Registry::default(),
            closing: watch::Sender::new(()),
            hierarchies,
            backend,
            turns: Turns::new(limits.outgoing),
            places: Places::new(limits),
            sharing: Sharing::new(bandwidth),
            drain: Drain::open(&state).map_err(|error| failed(&error))?,
            arrivals: Mutex::default(),
            links: Arc::default(),
            migrations: Mutex::default(),
            experience: Mutex::default(),
            config: Config { name, state, run, uplink, pool, peers, tls, limits, program, cgroup_base },
        }))
    }

    /// What the node says about itself.
    pub async fn info(&self) -> NodeInfo {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.info()).await
    }

    /// What its machine can do, probed anew.
    pub async fn features(&self) -> NodeFeatures {
        let inner = Arc::clone(&self.inner);
        blocking(move || features(inner.config.name.clone(), inner.backend)).await
    }

    fn record(&self, container: &Container) -> ContainerRecord {
        container.record(&self.inner.config.name)
    }

    /// Makes a container, which becomes its caller's, and starts it. A container whose program cannot be started is not kept.
    ///
    /// # Errors
    /// When the request makes no sense, contradicts what is there, or the container cannot be started.
    pub async fn run(&self, request: RunRequest, caller: Caller) -> Result<ContainerRecord, NodeError> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move { inner.run(request, caller).await }).await.map(|container| self.record(&container))
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerRecord> {
        self.inner.registry.all().iter().map(|container| self.record(container)).collect()
    }

    /// One container, by name, id, or the beginning of an id that is no other's.
    ///
    /// # Errors
    /// When there is none.
    pub fn container(&self, name: &str) -> Result<ContainerRecord, NodeError> {
        self.inner.registry.find(name).map(|container| self.record(&container))
    }

    /// One container that `caller` means: for whoever has only its own, others do not exist.
    ///
    /// # Errors
    /// When there is none.
    pub fn container_of(&self, caller: &Caller, name: &str) -> Result<ContainerRecord, NodeError> {
        let exists = |container: &Container| {
            !caller.has_only_own() || caller.sees(Action::LookAtContainer, container.spec().owner.as_ref())
        };
        self.inner.registry.find_among(name, exists).map(|container| self.record(&container))
    }

    /// Starts a container whose program has ended.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub async fn start(&self, name: &str) -> Result<ContainerRecord, NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        to_the_end(async move { inner.start(&name).await }).await.map(|container| self.record(&container))
    }

    /// Asks the program to end, and after `timeout` ends it.
    ///
    /// # Errors
    /// When there is no such container or it does not end.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<ContainerRecord, NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        to_the_end(async move { inner.stop(&name, timeout).await }).await.map(|container| self.record(&container))
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// When it does not run or there is no such signal.
    pub async fn kill(&self, name: &str, signal: i32) -> Result<(), NodeError> {
        self.inner.kill(name, signal).await
    }

    /// Removes a container with all its files.
    ///
    /// # Errors
    /// When it runs and `force` is not given, or something of it cannot be removed.
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        to_the_end(async move { inner.remove(&name, force).await }).await
    }

    /// What a container uses now.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stats(&self, name: &str) -> Result<ContainerStats, NodeError> {
        let container = self.inner.registry.find(name)?;
        if !container.runs() {
            let reason = format!("cannot measure container {name}: it is {}", container.state());
            return Err(NodeError::conflict(reason, ""));
        }
        let attempt = format!("cannot measure container {name}");
        blocking(move || container.stats().map_err(|error| NodeError::failed(&attempt, &error))).await
    }

    /// What all containers use that run and that `caller` may look at. One that ends meanwhile is left out.
    pub async fn all_stats(&self, caller: &Caller) -> Vec<(ContainerId, ContainerStats)> {
        let mut running = self.inner.registry.all();
        running.retain(|container| {
            container.runs() && caller.sees(Action::LookAtContainer, container.spec().owner.as_ref())
        });
        blocking(move || {
            let stats = running.iter().map(|container| Some((container.id.clone(), container.stats().ok()?)));
            stats.flatten().collect()
        })
        .await
    }

    /// Waits until the program has ended; gives its exit status.
    ///
    /// # Errors
    /// When there is no such container, or it leaves the node.
    pub async fn wait(&self, name: &str) -> Result<i32, NodeError> {
        self.inner.unless_closing(name, self.inner.wait(name)).await
    }

    /// The log so far and, when following, what comes, until the receiver is dropped or the container is gone.
    ///
    /// # Errors
    /// When there is no such container or its log cannot be read.
    pub async fn logs(&self, name: &str, query: LogQuery) -> Result<mpsc::Receiver<LogRecord>, NodeError> {
        self.inner.logs(name, query).await
    }

    /// Connects to a program's standard streams.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn attach(&self, name: &str) -> Result<Session, NodeError> {
        self.inner.attach(name).await
    }

    /// Runs another program beside the container's own.
    ///
    /// # Errors
    /// When the container does not run or the request makes no sense.
    pub async fn exec(&self, name: &str, request: ExecRequest) -> Result<Session, NodeError> {
        self.inner.exec(name, request).await
    }

    /// Begins to move a container to another node.
    ///
    /// # Errors
    /// When there is no such container or node, or the container does not run.
    pub async fn migrate(&self, request: MigrateRequest) -> Result<MigrationState, NodeError> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move { inner.migrate(&request).await }).await
    }

    /// Whether a container can be moved as the request says: nothing is.
    ///
    /// # Errors
    /// When there is no such container or node, or the container does not run.
    pub async fn check(&self, request: MigrateRequest) -> Result<Check, NodeError> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move { inner.check(&request).await }).await
    }

    /// What the move of a container would take; nothing is moved.
    ///
    /// # Errors
    /// When there is no such container or node, or the container does not run.
    pub async fn plan(&self, request: MigrateRequest) -> Result<Plan, NodeError> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move { inner.plan(&request).await }).await
    }

    /// Migrations away from this node: those under way, and the last that ended; and those towards it that are in doubt.
    #[must_use]
    pub fn migrations(&self) -> Vec<MigrationState> {
        let leaving = lock(&self.inner.migrations);
        let leaving = leaving.iter().map(|leaving| leaving.state.borrow().clone());
        leaving.chain(self.inner.coming_in_doubt()).collect()
    }

    /// Says whose the container of a migration in doubt is. This node does its part; the other one hears of it when the
    /// two see each other.
    ///
    /// # Errors
    /// When it is not known here, or is not in doubt.
    pub async fn resolve(&self, id: &MigrationId, keeps: Side) -> Result<(), NodeError> {
        self.inner.resolve(id, keeps).await
    }

    /// Follows one migration.
    ///
    /// # Errors
    /// When it is not known.
    pub fn migration(&self, id: &MigrationId) -> Result<watch::Receiver<MigrationState>, NodeError> {
        self.inner.migration(id)
    }

    /// Asks a migration to give up. It does unless the decision has been made.
    ///
    /// # Errors
    /// When it is not known, or has ended.
    pub async fn cancel(&self, id: &MigrationId) -> Result<(), NodeError> {
        self.inner.cancel(id).await
    }

    /// Serves a peer that opened a migration link; returns when the link is done.
    pub async fn serve_link(&self, peer: NodeName, link: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        if self.inner.config.peers().iter().all(|known| known.name != peer) {
            tracing::warn!(%peer, "a stranger opened a migration link");
            return;
        }
        let Some(_admitted) = self.inner.links.admit(&peer) else {
            tracing::warn!(%peer, "a peer has too many links; one more is refused");
            return;
        };
        receive::serve(Arc::clone(&self.inner), peer, link).await;
    }

    /// Ends what runs in the agent; containers go on. Migrations that are not decided yet are rolled back first.
    pub async fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        /// How long those who are attached have to hear of the end.
        const FAREWELL: Duration = Duration::from_secs(2);
        // What waits is forgotten: nothing was done of it, and nothing promised.
        self.inner.turns.close();
        let leaving: Vec<_> = {
            let migrations = lock(&self.inner.migrations);
            let under_way = migrations.iter().filter(|leaving| leaving.state.borrow().report.is_none());
            under_way.map(|leaving| (leaving.orders.clone(), leaving.state.clone())).collect()
        };
        for (orders, mut state) in leaving {
            // One that is decided goes on, and is finished by the next agent.
            let _ = orders.try_send(Order::Cancel);
            let ended = state.wait_for(|state| state.report.is_some() || is_decided(state));
            let _ = tokio::time::timeout(PATIENCE, ended).await;
        }
        self.inner.closing.send_replace(());
        // Whoever was to hear of it lets go of its receiver when it has done so.
        let _ = tokio::time::timeout(FAREWELL, self.inner.closing.closed()).await;
    }
}

/// Whether nothing can call it back any more.
fn is_decided(state: &MigrationState) -> bool {
    state.in_doubt || state.phase >= Phase::Settle
}
