//! Wires the parts together: what is opened in which order, and how it is stopped.
//!
//! [`bind`] comes before the runtime, so that privileges can be dropped between; [`start`] opens the rest and gives a
//! [`Running`] gate. `sockets` takes what the service manager has bound, `open_files` adapts to the limit of
//! descriptors, `opening` opens one part after the other, `reload` changes what can be changed while the gate runs,
//! `service` tells the manager of all that.

mod open_files;
mod opening;
mod reload;
pub mod service;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use self::open_files::OpenFiles;
use self::opening::{Admin, Listeners, Opening, Reporting, Upstream};
pub use self::sockets::{Passed, Sockets, bind};
use crate::config::reload::InForce;
use crate::config::{Config, Loaded, TokenError};
use crate::dmarc::public_suffix::Discovery;
use crate::dns::resolver::{self, Resolver};
use crate::label::Label;
use crate::listener::Room;
use crate::listener::networks::Networks;
use crate::listener::slots::Slots;
use crate::metrics::Registry;
use crate::panics::lasting;
use crate::readiness::{Condition, Readiness};
use crate::report::delivery::Delivery;
use crate::session::complaints::Complaints;
use crate::session::doubts::Doubts;
use crate::session::latest::Latest;
use crate::session::{self, Gate};
use crate::store::{self, Store};
use crate::suffix_list::SuffixList;
use crate::{process, tls};

/// A gate that serves.
pub struct Running {
    listeners: Listeners,
    admin: Admin,
    registry: Registry,
    readiness: Readiness,
    tls: Option<tls::Server>,
    upstream: Upstream,
    store: Store,
    reporting: Reporting,
    resolver: Resolver,
    slots: Arc<Slots>,
    open_files: OpenFiles,
    shutdown: Duration,
    in_force: InForce,
    metrics: reload::Metrics,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
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
    #[error(
        "spool.directory {directory} can't be used by {user}, as whom the gate runs{hint}",
        hint = process::read_only_hint(source)
    )]
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
    let Loaded { config, lines, .. } = loaded;
    let metrics = reload::Metrics::new(&registry);
    process::usage::register(&registry);
    let awaited = [Condition::Listeners, Condition::RelayGuard, Condition::Store, Condition::Upstream];
    let readiness = Readiness::new(&awaited, &registry);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();

    let opening = Opening { config: &config, registry: &registry, readiness: &readiness };
    let spooler = opening.spooler()?;
    let resolver = opening.resolver(sockets.open_files, &mut tasks)?;
    let suffix_list = SuffixList::open(config.suffix_list(), &registry);
    let discovery = suffix_list.rules();
    let store = opening.store().await?;
    let tls = opening.tls(&mut tasks)?;
    let upstream_tls_metrics = tls::ClientMetrics::new(&registry);
    let security = config.security(upstream_tls_metrics.clone()).map_err(Error::UpstreamTls)?;
    let report_settings = opening.report_settings(upstream_tls_metrics.clone());
    let are_reports_usable = report_settings.is_ok();
    let upstream = opening.upstream(security, upstream_tls_metrics, &mut tasks);
    let delivery = Delivery::new(config.store.url.clone(), resolver.clone(), discovery.clone(), &registry);
    let report_settings = report_settings.ok().flatten();
    let (reporting, outlets) = opening.reporting(delivery, report_settings, &store, &spooler, stopped.clone());
    if config.policy.discovery == Discovery::PublicSuffix {
        tasks.spawn(lasting("public suffix list", move || suffix_list.clone().run()));
    }

    let session_metrics = session::metrics::Metrics::new(&registry);
    let active = session_metrics.active.clone();
    let latest = Latest::default();
    let complaints = Arc::<Complaints>::default();
    let gate = |listener, settings| Gate {
        listener,
        settings,
        resolver: resolver.clone(),
        discovery: discovery.clone(),
        spooler: spooler.clone(),
        survey: upstream.prober.survey.subscribe(),
        rows: store.appender(),
        reports: outlets.delivery.clone(),
        failure_reporter: outlets.failure_reporter.clone(),
        explanations: outlets.explanations.clone(),
        latest: latest.clone(),
        inbound: outlets.inbound.clone(),
        doubts: Doubts::default(),
        tls: tls.clone(),
        metrics: session_metrics.clone(),
        complaints: Arc::clone(&complaints),
        stop: stopped.clone(),
    };
    let sessions = sockets.open_files.sessions(config.limits.sessions, config.upstream.connections);
    let slots = Arc::new(Slots::new(sessions, &registry));
    let room = Room { slots: Arc::clone(&slots), networks: Networks::new() };
    let servers = Arc::clone(&upstream.servers.borrow());
    let listeners = opening.listeners(sockets.listeners, gate, &servers, &room)?;
    let sources = service::Sources { readiness: readiness.clone(), slots: Arc::clone(&slots), active };
    tasks.spawn(lasting("service manager", move || service::run(sources.clone())));
    let admin = opening.admin(sockets.admin, latest, &mut tasks)?;

    metrics.tell(&listeners.settings);
    metrics.tell_whole(are_reports_usable);
    tell_start(&config, &listeners.addresses, admin.address);
    Ok(Running {
        listeners,
        admin,
        tls,
        upstream,
        store,
        reporting,
        resolver,
        slots,
        open_files: sockets.open_files,
        shutdown: config.timeouts.shutdown,
        in_force: InForce::new(lines),
        metrics,
        stop,
        tasks,
        registry,
        readiness,
    })
}

impl Running {
    /// The addresses listened on, in the order of the configuration; ports are the real ones.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners.addresses
    }

    /// The admin listener's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address
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
        let ended = async { while self.listeners.accepting.join_next().await.is_some() {} };
        let ended = tokio::select! {
            ended = timeout(self.shutdown, ended) => ended.map_err(|_| "timeouts.shutdown has passed"),
            () = hurry => Err("a second signal came"),
        };
        match ended {
            Ok(()) => info!("all sessions have ended"),
            Err(reason) => {
                self.cut_off().await;
                warn!(reason, "sessions were cut off");
            }
        }
        self.tasks.shutdown().await;
        self.reporting.close().await;
        self.store.close(STORE_CLOSE).await;
        self.admin.close().await;
        info!("stopped");
    }

    /// Ends what still runs, before the store closes: none may say 250 for a message whose row would be lost. Clients that
    /// have had no 250 keep their mail; one whose message the upstream has just taken sends it again.
    async fn cut_off(&mut self) {
        self.listeners.accepting.shutdown().await;
        // Each ends at its next wait.
        if timeout(CUT_OFF, self.slots.all_free()).await.is_err() {
            error!("a session can't be cut off: it does not come to a wait");
        }
    }
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

/// How long sessions may take to come to a wait, at which they are cut off.
const CUT_OFF: Duration = Duration::from_secs(2);
/// How long rows may take to be written at the end.
const STORE_CLOSE: Duration = Duration::from_secs(5);
