//! Wires the parts together: what is opened in which order, and how it is stopped.
//!
//! [`bind`] comes before the runtime, so that privileges can be dropped between; [`start`] opens the rest and gives a
//! [`Running`] gate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::admin;
use crate::config::Config;
use crate::dns::resolver::{self, Resolver};
use crate::label::Label;
use crate::listener::networks::Networks;
use crate::listener::{self, Room};
use crate::message::spool::Spooler;
use crate::metrics::Registry;
use crate::readiness::{Condition, Readiness};
use crate::session::{self, Gate};
use crate::store::{self, Store};
use crate::upstream::probe::{self, Survey};
use crate::{dns, upstream};

/// The sockets of a gate, bound.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<std::net::TcpListener>,
    admin: std::net::TcpListener,
}

/// A gate that serves.
pub struct Running {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    store: Store,
    slots: Arc<Semaphore>,
    sessions: u32,
    shutdown: Duration,
    stop: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    tasks: JoinSet<()>,
    admin_task: JoinHandle<()>,
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
    /// The spool directory can't be used.
    #[error("spool.directory {directory} can't be used")]
    Spool {
        /// Which.
        directory: String,
        /// Why.
        source: io::Error,
    },
    /// DNS can't be set up.
    #[error("dns can't be set up")]
    Dns(#[from] resolver::Error),
    /// The store can't be opened.
    #[error("store.url: the store can't be opened")]
    Store(#[from] store::Error),
}

/// Binds all sockets.
///
/// # Errors
///
/// [`Error::Bind`].
pub fn bind(config: &Config) -> Result<Sockets, Error> {
    let bind = |address| listener::bind(address).map_err(|source| Error::Bind { address, source });
    let listeners = config.listeners.iter().map(|l| bind(l.address)).collect::<Result<_, _>>()?;
    Ok(Sockets { listeners, admin: bind(config.admin.address)? })
}

/// Opens everything else and begins to serve. Call it inside the runtime.
///
/// # Errors
///
/// What can't be opened; nothing is served then.
pub async fn start(config: &Config, sockets: Sockets, registry: Registry) -> Result<Running, Error> {
    registry.info(
        "dmarcgate_build_info",
        "Always 1; version and mode in its labels.",
        &[("version", env!("CARGO_PKG_VERSION")), ("mode", config.policy.mode.as_str())],
    );
    let awaited = [Condition::Listeners, Condition::RelayGuard, Condition::Store, Condition::Upstream];
    let readiness = Readiness::new(&awaited, &registry);
    let directory = || config.spool.directory.display().to_string();
    let spooler = Spooler::new(&config.spool()).map_err(|source| Error::Spool { directory: directory(), source })?;
    spooler.register(&registry);
    let resolver = Resolver::new(config.resolver(), dns::Metrics::new(&registry))?;
    let store = Store::open(config.store(), &registry).await?;
    readiness.holds(Condition::Store);

    let (stop, stopped) = watch::channel(false);
    let (stop_admin, admin_stopped) = watch::channel(false);
    let (survey, surveyed) = watch::channel(Survey::default());
    let session_settings = Arc::new(config.session());
    let upstream_settings = Arc::clone(&session_settings.upstream);
    let gate = Arc::new(Gate {
        settings: watch::channel(session_settings).1,
        resolver,
        spooler,
        survey: surveyed.clone(),
        rows: store.appender(),
        metrics: session::metrics::Metrics::new(&registry),
        upstream_metrics: upstream::Metrics::new(&registry),
        stop: stopped,
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(probe::run(upstream_settings, config.relay_test(), survey));
    tasks.spawn(watch_survey(surveyed, config.upstream().blind, readiness.clone()));
    let slots = Arc::new(Semaphore::new(usize::try_from(config.limits.sessions).unwrap_or(usize::MAX)));
    let room = Room { slots: Arc::clone(&slots), networks: Networks::new() };
    let metrics = listener::Metrics::new(&registry);
    let mut addresses = Vec::new();
    for (socket, settings) in sockets.listeners.into_iter().zip(&config.listeners) {
        let listener = adopt(socket, settings.address)?;
        addresses.push(listener.local_addr().unwrap_or(settings.address));
        let settings = Arc::new(config.listener(settings));
        tasks.spawn(listener::run(listener, settings, Arc::clone(&gate), room.clone(), metrics.clone()));
    }
    readiness.holds(Condition::Listeners);

    let admin_listener = adopt(sockets.admin, config.admin.address)?;
    let admin = admin_listener.local_addr().unwrap_or(config.admin.address);
    let sources = admin::Sources { registry: registry.clone(), readiness: readiness.clone() };
    let admin_task = tokio::spawn(serve_admin(admin_listener, sources, admin_stopped));

    info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = config.policy.mode.as_str(),
        reject = config.policy.reject.as_str(),
        listeners = ?addresses,
        admin = %admin,
        "dmarcgate serves"
    );
    Ok(Running {
        listeners: addresses,
        admin,
        registry,
        readiness,
        store,
        slots,
        sessions: config.limits.sessions,
        shutdown: config.timeouts.shutdown,
        stop,
        stop_admin,
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

    /// Stops: no new sessions, the running ones end their transactions, within the deadline; then rows are written and
    /// the admin listener goes.
    pub async fn stop(mut self) {
        info!("stopping: running transactions may end");
        self.readiness.lacks(Condition::NotDraining, "stopping");
        self.stop.send_replace(true);
        match timeout(self.shutdown, self.slots.acquire_many(self.sessions)).await {
            Ok(_) => info!("all sessions have ended"),
            // Clients of sessions that are cut off have had no 250, so they keep their mail.
            Err(_) => warn!("sessions are cut off at the shutdown deadline"),
        }
        self.tasks.shutdown().await;
        self.store.close(STORE_CLOSE).await;
        self.stop_admin.send_replace(true);
        // Requests that hang end with the process.
        let _ = timeout(ADMIN_CLOSE, self.admin_task).await;
        info!("stopped");
    }
}

/// Keeps readiness in step with what the probes find.
async fn watch_survey(mut survey: watch::Receiver<Survey>, blind: upstream::Blind, readiness: Readiness) {
    while survey.changed().await.is_ok() {
        let found = survey.borrow_and_update().clone();
        match found.reachable {
            true => readiness.holds(Condition::Upstream),
            false => readiness.lacks(Condition::Upstream, "no upstream server answers as it should"),
        }
        if found.capabilities.is_none() {
            continue;
        }
        if found.open_relay {
            readiness.lacks(Condition::RelayGuard, "the upstream relays for strangers to foreign domains");
        } else if found.blind && blind == upstream::Blind::Refused {
            let reason = "the upstream can't see the client, and smtp.recipient_domains is not set";
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

/// How long rows may take to be written at the end.
const STORE_CLOSE: Duration = Duration::from_secs(5);
/// How long open requests to the admin listener may take at the end.
const ADMIN_CLOSE: Duration = Duration::from_secs(1);
