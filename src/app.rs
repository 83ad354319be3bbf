//! Wires the parts together: what is opened in which order, and how it is stopped.
//!
//! [`bind`] comes before the runtime, so that privileges can be dropped between; [`start`] opens the rest and gives a
//! [`Running`] gate. `sockets` takes what the service manager has bound, `open_files` adapts to the limit of
//! descriptors, `reload` changes what can be changed while the gate runs, `service` tells the manager of all that.

mod open_files;
mod reload;
pub mod service;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{error, info, warn};

use self::open_files::OpenFiles;
use self::reload::{ListenerSettings, Prober};
pub use self::sockets::{Passed, Sockets, bind};
use crate::admin;
use crate::admin::status::{self, Status};
use crate::config::reload::InForce;
use crate::config::{Config, Loaded, ReportsError, TokenError};
use crate::dmarc::public_suffix::Discovery;
use crate::dns::resolver::{self, Resolver};
use crate::explain::Recorder;
use crate::label::Label;
use crate::listener::networks::Networks;
use crate::listener::slots::Slots;
use crate::listener::{self, Backlog, Listening, Room};
use crate::message::spool::Spooler;
use crate::metrics::Registry;
use crate::readiness::{Condition, Readiness};
use crate::report::delivery::{self, Delivery};
use crate::report::failure_reporter::FailureReporter;
use crate::report::inbound::Collector;
use crate::session::complaints::Complaints;
use crate::session::doubts::Doubts;
use crate::session::latest::Latest;
use crate::session::{self, Gate};
use crate::store::inbound::InboundStore;
use crate::store::{self, Store};
use crate::suffix_list::SuffixList;
use crate::upstream::probe::{self, Survey};
use crate::upstream::servers::Servers;
use crate::{dns, process, tls, upstream};

/// A gate that serves.
pub struct Running {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    tls: Option<tls::Server>,
    upstream_tls_metrics: tls::ClientMetrics,
    store: Store,
    reports: Reports,
    /// Sends failure reports.
    telling: JoinHandle<()>,
    /// Draws up explanations; none if none are kept.
    recorder: Option<JoinHandle<()>>,
    /// Reads reports that arrive.
    collector: JoinHandle<()>,
    resolver: Resolver,
    slots: Arc<Slots>,
    open_files: OpenFiles,
    shutdown: Duration,
    in_force: InForce,
    /// The upstream servers, as the sessions' settings have them.
    servers: watch::Sender<Arc<Servers>>,
    listener_settings: Vec<ListenerSettings>,
    prober: Prober,
    metrics: reload::Metrics,
    stop: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    /// Who wants the configuration to be read again.
    asked: mpsc::Receiver<admin::Asked>,
    /// What the status page goes by.
    status: watch::Sender<Arc<status::Settings>>,
    accepting: JoinSet<()>,
    tasks: JoinSet<()>,
    admin_task: JoinHandle<()>,
}

/// The task that sends reports, and what it goes by.
struct Reports {
    settings: watch::Sender<Option<Arc<delivery::Settings>>>,
    task: JoinHandle<()>,
}

/// Why a gate can't start. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address can't be listened on.
    #[error("can't listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// What was passed on is no socket that listens.
    #[error("socket {place} of those that the service manager passes on is no listening TCP socket")]
    NoListener {
        /// Which, from 1.
        place: usize,
    },
    /// A socket was passed on that has no use.
    #[error(
        "the service manager passes on a socket at {address}, which is the address of no [[listener]] and not \
         admin.address: let the .socket unit and the configuration name the same"
    )]
    Unclaimed {
        /// Where it listens.
        address: SocketAddr,
    },
    /// The spool directory can't be used.
    #[error("spool.directory {directory} can't be used by {user}, as whom the gate runs")]
    Spool {
        /// Which.
        directory: String,
        /// Whose the process is by then, whoever has started it.
        user: String,
        /// Why.
        source: io::Error,
    },
    /// DNS can't be set up.
    #[error("dns can't be set up")]
    Dns(#[from] resolver::Error),
    /// A certificate for clients, or its key, can't be used.
    #[error("tls (read by {user}, as whom the gate runs): {fault}")]
    Tls {
        /// Whose the process is.
        user: String,
        /// What is wrong with which.
        fault: tls::FileError,
    },
    /// Nobody is known who could vouch for the upstream.
    #[error("upstream.tls: {0}")]
    UpstreamTls(tls::TrustError),
    /// Reports can't be sent as they are configured.
    #[error("reports can't be sent")]
    Reports(#[from] ReportsError),
    /// The file with the token of the admin listener can't be used.
    #[error("admin.token_file can't be used")]
    AdminToken(#[source] TokenError),
    /// The store can't be opened.
    #[error("store.url: the store can't be opened by {user}, as whom the gate runs")]
    Store {
        /// Whose the process is.
        user: String,
        /// Why.
        source: Box<store::Error>,
    },
}

/// Opens everything else and begins to serve. Call it inside the runtime.
///
/// # Errors
///
/// What can't be opened; nothing is served then.
pub async fn start(loaded: Loaded, sockets: Sockets, registry: Registry) -> Result<Running, Error> {
    let Loaded { config, lines } = loaded;
    let metrics = reload::Metrics::new(&registry);
    process::usage::register(&registry);
    let awaited = [Condition::Listeners, Condition::RelayGuard, Condition::Store, Condition::Upstream];
    let readiness = Readiness::new(&awaited, &registry);
    let unusable = |source| Error::Spool {
        directory: config.spool.directory.display().to_string(),
        user: process::present_user(),
        source,
    };
    let spooler = Spooler::new(&config.spool()).map_err(unusable)?;
    spooler.register(&registry);
    let resolver = open_resolver(&config, sockets.open_files, &registry)?;
    let suffix_list = SuffixList::open(config.suffix_list(), &registry);
    let closed = |source| Error::Store { user: process::present_user(), source: Box::new(source) };
    let store = Store::open(config.store(), &registry).await.map_err(closed)?;
    readiness.holds(Condition::Store);
    let (explanations, recorder) = recorder(&config, &store, &registry);
    let inbound_store = InboundStore::new(config.store.url.clone(), config.inbound_retention());
    let (inbound, collector) = Collector::start(inbound_store, &registry);

    let (stop, stopped) = watch::channel(false);
    let (stop_admin, admin_stopped) = watch::channel(false);
    let (survey, surveyed) = watch::channel(Survey::default());
    let tls_metrics = tls::ServerMetrics::new(&registry);
    let tls = match config.tls() {
        Some(settings) => {
            let unfit = |fault| Error::Tls { user: process::present_user(), fault };
            Some(tls::Server::open(settings, tls_metrics).map_err(unfit)?)
        }
        None => None,
    };
    let upstream_tls_metrics = tls::ClientMetrics::new(&registry);
    let security = config.security(upstream_tls_metrics.clone()).map_err(Error::UpstreamTls)?;
    let report_settings = config.reports(upstream_tls_metrics.clone())?;
    let upstream_settings = Arc::new(config.upstream(security));
    let servers = Servers::new(upstream_settings, upstream::Metrics::new(&registry), readiness.clone());
    let servers = Arc::new(servers);
    let delivery = Delivery::new(config.store.url.clone(), resolver.clone(), suffix_list.rules(), &registry);
    let reports = start_reports(delivery.clone(), report_settings, store.behind(), stopped.clone());
    let (failure_reporter, telling) = FailureReporter::start(delivery.clone(), reports.settings.subscribe(), &registry);
    let session_metrics = session::metrics::Metrics::new(&registry);
    let active = session_metrics.active.clone();
    let latest = Latest::default();
    let discovery = suffix_list.rules();
    let complaints = Arc::<Complaints>::default();
    let gate = |listener, settings| Gate {
        listener,
        settings,
        resolver: resolver.clone(),
        discovery: discovery.clone(),
        spooler: spooler.clone(),
        survey: surveyed.clone(),
        rows: store.appender(),
        reports: delivery.clone(),
        failure_reporter: failure_reporter.clone(),
        explanations: explanations.clone(),
        latest: latest.clone(),
        inbound: inbound.clone(),
        doubts: Doubts::default(),
        tls: tls.clone(),
        metrics: session_metrics.clone(),
        complaints: Arc::clone(&complaints),
        stop: stopped.clone(),
    };

    let mut tasks = JoinSet::new();
    if config.policy.discovery == Discovery::PublicSuffix {
        tasks.spawn(suffix_list.run());
    }
    let relay_test = config.relay_test();
    if let Some(tls) = &tls {
        tasks.spawn(tls.clone().watch());
    }
    let task = tasks.spawn(probe::run(Arc::clone(&servers), relay_test, survey.clone()));
    let (servers_in_force, known_servers) = watch::channel(Arc::clone(&servers));
    tasks.spawn(watch_survey(surveyed.clone(), known_servers, readiness.clone()));
    let slots = Arc::new(Slots::new(
        sockets.open_files.sessions(config.limits.sessions, config.upstream.connections),
        &registry,
    ));
    let room = Room { slots: Arc::clone(&slots), networks: Networks::new() };
    let served = serve_listeners((&config, &servers), sockets.listeners, gate, &room, &registry)?;
    drop((explanations, failure_reporter));
    readiness.holds(Condition::Listeners);
    tasks.spawn(service::run(service::Sources { readiness: readiness.clone(), slots: Arc::clone(&slots), active }));

    let admin_listener = adopt(sockets.admin, config.admin.address)?;
    let admin = admin_listener.local_addr().unwrap_or(config.admin.address);
    let (reloads, asked) = mpsc::channel(1);
    let (status_settings, in_status) = watch::channel(Arc::new(config.status()));
    let status = Status::new(in_status, registry.clone(), readiness.clone(), latest);
    tasks.spawn(status.clone().run());
    let token = config.admin_token().map_err(Error::AdminToken)?;
    let sources = admin::Sources { registry: registry.clone(), readiness: readiness.clone(), reloads, status, token };
    let admin_task = tokio::spawn(serve_admin(admin_listener, sources, admin_stopped));

    metrics.tell(&served.settings);
    tell_start(&config, &served.addresses, admin);
    Ok(Running {
        listeners: served.addresses,
        admin,
        registry,
        readiness,
        tls,
        upstream_tls_metrics,
        store,
        reports,
        telling,
        recorder,
        collector,
        resolver,
        slots,
        open_files: sockets.open_files,
        shutdown: config.timeouts.shutdown,
        in_force: InForce::new(lines),
        servers: servers_in_force,
        listener_settings: served.settings,
        prober: Prober { survey, relay_test, task },
        metrics,
        stop,
        stop_admin,
        asked,
        status: status_settings,
        accepting: served.tasks,
        tasks,
        admin_task,
    })
}

impl Running {
    /// The addresses listened on, in the order of the configuration; ports are the real ones.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The admin listener's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What is measured.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether the gate should be sent mail.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Stops: no new sessions, the running ones end their transactions, within the deadline or until `hurry` is done;
    /// then rows are written and the admin listener goes.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.tell_stopping();
        self.readiness.lacks(Condition::NotDraining, "stopping");
        self.stop.send_replace(true);
        // From here on nobody is accepted.
        info!("stopping: running transactions may end");
        let ended = async {
            while self.accepting.join_next().await.is_some() {}
            self.slots.all_free().await;
        };
        // Clients of sessions that are cut off have had no 250, so they keep their mail.
        tokio::select! {
            ended = timeout(self.shutdown, ended) => match ended {
                Ok(()) => info!("all sessions have ended"),
                Err(_) => warn!("sessions are cut off at the shutdown deadline"),
            },
            () = hurry => warn!("sessions are cut off, as told"),
        }
        self.tasks.shutdown().await;
        let last_words = async {
            // Both end with the last session.
            if let Some(recorder) = self.recorder {
                let _ = recorder.await;
            }
            let _ = self.telling.await;
        };
        let _ = timeout(LAST_WORDS, last_words).await;
        // What is on its way to the relay may end; else it is taken up again when its lease has run out.
        let _ = timeout(REPORTS_CLOSE, self.reports.task).await;
        // So does this, but for reports that wait: their mail was delivered, and a report is no more than a report.
        let abort = self.collector.abort_handle();
        if timeout(COLLECTOR_CLOSE, self.collector).await.is_err() {
            abort.abort();
        }
        self.store.close(STORE_CLOSE).await;
        self.stop_admin.send_replace(true);
        // Requests that hang end with the process.
        let _ = timeout(ADMIN_CLOSE, self.admin_task).await;
        info!("stopped");
    }
}

/// What draws up explanations, if any are kept.
fn recorder(config: &Config, store: &Store, registry: &Registry) -> (Recorder, Option<JoinHandle<()>>) {
    if !config.explain.enabled {
        return (Recorder::idle(registry), None);
    }
    let (recorder, task) = Recorder::start(store.appender(), config.log.personal_data, registry);
    (recorder, Some(task))
}

fn start_reports(
    delivery: Delivery,
    settings: Option<delivery::Settings>,
    behind: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
) -> Reports {
    let (settings, in_force) = watch::channel(settings.map(Arc::new));
    Reports { settings, task: tokio::spawn(delivery.run(in_force, behind, stop)) }
}

/// What became of the listeners.
struct Served {
    addresses: Vec<SocketAddr>,
    settings: Vec<ListenerSettings>,
    tasks: JoinSet<()>,
}

fn serve_listeners(
    (config, servers): (&Config, &Arc<Servers>),
    sockets: Vec<(std::net::TcpListener, Backlog)>,
    gate: impl Fn(SocketAddr, watch::Receiver<Arc<session::Settings>>) -> Gate,
    room: &Room,
    registry: &Registry,
) -> Result<Served, Error> {
    let metrics = listener::Metrics::new(registry);
    let mut served = Served { addresses: Vec::new(), settings: Vec::new(), tasks: JoinSet::new() };
    for ((socket, backlog), configured) in sockets.into_iter().zip(&config.listeners) {
        let socket = adopt(socket, configured.address)?;
        let address = socket.local_addr().unwrap_or(configured.address);
        let (sender, settings) = watch::channel(Arc::new(config.listener(configured)));
        let of_sessions = config.session_at(configured, Arc::clone(servers));
        let (sessions, sessions_settings) = watch::channel(Arc::new(of_sessions));
        served.addresses.push(address);
        served.settings.push(ListenerSettings { configured: config.kept(configured), settings: sender, sessions });
        let listening = Listening { socket, backlog, settings };
        let gate = Arc::new(gate(address, sessions_settings));
        served.tasks.spawn(listener::run(listening, gate, room.clone(), metrics.clone()));
    }
    Ok(served)
}

fn open_resolver(config: &Config, open_files: OpenFiles, registry: &Registry) -> Result<Resolver, Error> {
    let mut settings = config.resolver();
    // Spare ones last: without their own places networks would be at each other's mercy.
    settings.outstanding = settings.outstanding.min(open_files.questions());
    settings.spare = settings.spare.min(open_files.questions().saturating_sub(settings.outstanding));
    Ok(Resolver::new(settings, dns::Metrics::new(registry))?)
}

fn tell_start(config: &Config, listeners: &[SocketAddr], admin: SocketAddr) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = config.policy.mode.as_str(),
        reject = config.policy.reject.as_str(),
        listeners = ?listeners,
        admin = %admin,
        "dmarcgate serves"
    );
    for (listener, address) in config.listeners.iter().zip(listeners) {
        if let Some(policy) = &listener.policy {
            let (mode, reject) = (policy.mode.as_str(), policy.reject.as_str());
            info!(listener = %address, mode, reject, "a listener has a policy of its own");
        }
    }
}

/// Keeps readiness in step with what the probes find, and with what the configuration in force makes of it.
async fn watch_survey(
    mut survey: watch::Receiver<Survey>,
    mut servers: watch::Receiver<Arc<Servers>>,
    readiness: Readiness,
) {
    loop {
        tokio::select! {
            changed = survey.changed() => if changed.is_err() { return },
            changed = servers.changed() => if changed.is_err() { return },
        }
        let blind = servers.borrow_and_update().settings().blind;
        let found = survey.borrow_and_update().clone();
        if found.capabilities.is_none() {
            continue;
        }
        if found.open_relay {
            readiness.lacks(Condition::RelayGuard, "the upstream relays for strangers to foreign domains");
        } else if found.blind && blind == upstream::Blind::Refused {
            let reason =
                "the upstream can't see the client, and smtp.recipient_domains is not set, or not for every listener";
            error!("not ready: {reason}");
            readiness.lacks(Condition::RelayGuard, reason);
        } else {
            readiness.holds(Condition::RelayGuard);
        }
    }
}

async fn serve_admin(listener: TcpListener, sources: admin::Sources, mut stopped: watch::Receiver<bool>) {
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Err(cause) = admin::serve(listener, sources, stop).await {
        error!(error = %cause, "the admin listener ended");
    }
}

fn adopt(socket: std::net::TcpListener, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::from_std(socket).map_err(|source| Error::Bind { address, source })
}

/// How long explanations of the last messages may take to be drawn up, and failure reports on them to be sent.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long reports that are under way may take to arrive at the end.
const REPORTS_CLOSE: Duration = Duration::from_secs(5);
/// How long reports that have come may take to be read.
const COLLECTOR_CLOSE: Duration = Duration::from_secs(2);
/// How long rows may take to be written at the end.
const STORE_CLOSE: Duration = Duration::from_secs(5);
/// How long open requests to the admin listener may take at the end.
const ADMIN_CLOSE: Duration = Duration::from_secs(1);
