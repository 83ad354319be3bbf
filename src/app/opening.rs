//! Opens the parts of a gate one by one, and gives for each what [`Running`](super::Running) keeps of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::error;

use super::Error;
use super::open_files::OpenFiles;
use super::reload::{ListenerSettings, Prober};
use crate::admin;
use crate::admin::status::{self, Status};
use crate::causes::Causes;
use crate::config::{Config, ReportsError};
use crate::dns::resolver::Resolver;
use crate::explain::Recorder;
use crate::listener::{self, Backlog, Listening, Room};
use crate::message::spool::Spooler;
use crate::metrics::Registry;
use crate::panics::lasting;
use crate::readiness::{Condition, Readiness};
use crate::report::delivery::{self, Delivery};
use crate::report::failure_reporter::FailureReporter;
use crate::report::inbound::Collector;
use crate::session::latest::Latest;
use crate::session::{self, Gate};
use crate::store::Store;
use crate::store::inbound::InboundStore;
use crate::upstream::probe::{self, Survey};
use crate::upstream::security::Security;
use crate::upstream::servers::Servers;
use crate::{dns, process, tls, upstream};

/// What every part is opened by.
pub(super) struct Opening<'a> {
    pub config: &'a Config,
    pub registry: &'a Registry,
    pub readiness: &'a Readiness,
}

/// The servers that are protected, and the task that probes them.
pub(super) struct Upstream {
    /// For connections to them and to the relay of reports.
    pub tls_metrics: tls::ClientMetrics,
    /// As the sessions' settings have them.
    pub servers: watch::Sender<Arc<Servers>>,
    pub prober: Prober,
}

/// The tasks that send reports, read those of others and draw up explanations.
pub(super) struct Reporting {
    /// What reports are sent by; none are sent without.
    pub settings: watch::Sender<Option<Arc<delivery::Settings>>>,
    reports_task: JoinHandle<()>,
    failure_reports_task: JoinHandle<()>,
    inbound_reports_task: JoinHandle<()>,
    /// None if no explanations are kept.
    explanations_task: Option<JoinHandle<()>>,
}

/// Where sessions hand in what the tasks of [`Reporting`] work on.
pub(super) struct Outlets {
    pub delivery: Delivery,
    pub failure_reporter: FailureReporter,
    pub inbound: Collector,
    pub explanations: Recorder,
}

/// The listeners, which accept connections.
pub(super) struct Listeners {
    /// In the order of the configuration; ports are the real ones.
    pub addresses: Vec<SocketAddr>,
    pub settings: Vec<ListenerSettings>,
    pub accepting: JoinSet<()>,
}

/// The admin listener.
pub(super) struct Admin {
    pub address: SocketAddr,
    /// Requests to read the configuration again.
    pub reload_requests: mpsc::Receiver<admin::Asked>,
    /// What the status page goes by.
    pub status: watch::Sender<Arc<status::Settings>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Opening<'_> {
    pub fn spooler(&self) -> Result<Spooler, Error> {
        let unusable = |source| Error::Spool {
            directory: self.config.spool.directory.display().to_string(),
            user: process::present_user(),
            source,
        };
        let spooler = Spooler::new(&self.config.spool()).map_err(unusable)?;
        spooler.register(self.registry);
        Ok(spooler)
    }

    pub fn resolver(&self, open_files: OpenFiles, tasks: &mut JoinSet<()>) -> Result<Resolver, Error> {
        let mut settings = self.config.resolver();
        // Spare ones last: without their own places networks would be at each other's mercy.
        settings.outstanding = settings.outstanding.min(open_files.questions());
        settings.spare = settings.spare.min(open_files.questions().saturating_sub(settings.outstanding));
        let resolver = Resolver::new(settings, dns::Metrics::new(self.registry))?;
        let watched = resolver.clone();
        tasks.spawn(lasting("name servers", move || watched.clone().watch()));
        Ok(resolver)
    }

    pub async fn store(&self) -> Result<Store, Error> {
        let closed = |source| Error::Store { user: process::present_user(), source: Box::new(source) };
        let store = Store::open(self.config.store(), self.registry).await.map_err(closed)?;
        self.readiness.holds(Condition::Store);
        Ok(store)
    }

    /// TLS towards clients; none without a certificate.
    pub fn tls(&self, tasks: &mut JoinSet<()>) -> Result<Option<tls::Server>, Error> {
        let metrics = tls::ServerMetrics::new(self.registry);
        let Some(settings) = self.config.tls() else { return Ok(None) };
        let unfit = |fault| Error::Tls { user: process::present_user(), fault };
        let tls = tls::Server::open(settings, metrics).map_err(unfit)?;
        let watched = tls.clone();
        tasks.spawn(lasting("certificates", move || watched.clone().watch()));
        Ok(Some(tls))
    }

    pub fn upstream(&self, security: Security, tls_metrics: tls::ClientMetrics, tasks: &mut JoinSet<()>) -> Upstream {
        let settings = Arc::new(self.config.upstream(security));
        let metrics = upstream::Metrics::new(self.registry);
        let servers = Arc::new(Servers::new(settings, metrics, self.readiness.clone()));
        let (survey, surveyed) = watch::channel(Survey::default());
        let (servers_in_force, known_servers) = watch::channel(Arc::clone(&servers));
        let readiness = self.readiness.clone();
        let watch = move || watch_survey(surveyed.clone(), known_servers.clone(), readiness.clone());
        tasks.spawn(lasting("upstream survey", watch));
        let relay_test = self.config.relay_test();
        let task = tasks.spawn(probe::run(servers, relay_test, survey.clone()));
        Upstream { tls_metrics, servers: servers_in_force, prober: Prober { survey, relay_test, task } }
    }

    /// What reports are sent by; an error, which has been logged, where their files can't be used. No mail waits for
    /// them, so the gate starts and sends no reports until a reload finds them mended.
    pub fn report_settings(&self, tls_metrics: tls::ClientMetrics) -> Result<Option<delivery::Settings>, ReportsError> {
        self.config.reports_in_force(tls_metrics).inspect_err(|cause| {
            error!(
                error = %Causes(cause),
                user = process::present_user(),
                "reports can't be sent as they are configured: none are sent before a reload finds that mended"
            );
        })
    }

    pub fn reporting(
        &self,
        delivery: Delivery,
        settings: Option<delivery::Settings>,
        store: &Store,
        spooler: &Spooler,
        stop: watch::Receiver<bool>,
    ) -> (Reporting, Outlets) {
        let (settings, in_force) = watch::channel(settings.map(Arc::new));
        let reports_task = tokio::spawn(delivery.clone().run(in_force, store.behind(), stop));
        let (failure_reporter, failure_reports_task) =
            FailureReporter::start(delivery.clone(), settings.subscribe(), spooler.allowance(), self.registry);
        let inbound_store = InboundStore::new(self.config.store.url.clone(), self.config.inbound_retention());
        let (inbound, inbound_reports_task) = Collector::start(inbound_store, spooler.allowance(), self.registry);
        let (explanations, explanations_task) = self.explanations(store);
        let reporting =
            Reporting { settings, reports_task, failure_reports_task, inbound_reports_task, explanations_task };
        (reporting, Outlets { delivery, failure_reporter, inbound, explanations })
    }

    /// What draws up explanations, if any are kept.
    fn explanations(&self, store: &Store) -> (Recorder, Option<JoinHandle<()>>) {
        if !self.config.explain.enabled {
            return (Recorder::idle(self.registry), None);
        }
        let (recorder, task) = Recorder::start(store.appender(), self.config.log.personal_data, self.registry);
        (recorder, Some(task))
    }

    /// Begins to accept connections.
    pub fn listeners(
        &self,
        sockets: Vec<(std::net::TcpListener, Backlog)>,
        gate: impl Fn(SocketAddr, watch::Receiver<Arc<session::Settings>>) -> Gate,
        servers: &Arc<Servers>,
        room: &Room,
    ) -> Result<Listeners, Error> {
        let metrics = listener::Metrics::new(self.registry);
        let mut listeners = Listeners { addresses: Vec::new(), settings: Vec::new(), accepting: JoinSet::new() };
        for ((socket, backlog), configured) in sockets.into_iter().zip(&self.config.listeners) {
            let socket = adopt(socket, configured.address)?;
            let address = socket.local_addr().unwrap_or(configured.address);
            let (sender, settings) = watch::channel(Arc::new(self.config.listener(configured)));
            let of_sessions = self.config.session_at(configured, Arc::clone(servers));
            let (sessions, sessions_settings) = watch::channel(Arc::new(of_sessions));
            listeners.addresses.push(address);
            let configured = self.config.kept(configured);
            listeners.settings.push(ListenerSettings { configured, settings: sender, sessions });
            let listening = Listening { socket, backlog, settings };
            let gate = Arc::new(gate(address, sessions_settings));
            listeners.accepting.spawn(listener::run(listening, gate, room.clone(), metrics.clone()));
        }
        self.readiness.holds(Condition::Listeners);
        Ok(listeners)
    }

    pub fn admin(
        &self,
        socket: std::net::TcpListener,
        latest: Latest,
        tasks: &mut JoinSet<()>,
    ) -> Result<Admin, Error> {
        let listener = adopt(socket, self.config.admin.address)?;
        let address = listener.local_addr().unwrap_or(self.config.admin.address);
        let (reloads, reload_requests) = mpsc::channel(1);
        let (status_settings, in_status) = watch::channel(Arc::new(self.config.status()));
        let (registry, readiness) = (self.registry.clone(), self.readiness.clone());
        let status = Status::new(in_status, registry.clone(), readiness.clone(), latest);
        let sampled = status.clone();
        tasks.spawn(lasting("status history", move || sampled.clone().run()));
        let token = self.config.admin_token().map_err(Error::AdminToken)?;
        let (stop, stopped) = watch::channel(false);
        let sources = admin::Sources { registry, readiness, reloads, status, token };
        let task = tokio::spawn(serve_admin(listener, sources, stopped));
        Ok(Admin { address, reload_requests, status: status_settings, stop, task })
    }
}

impl Reporting {
    /// Lets the tasks end what they have, each for a while. The sessions have ended.
    pub async fn close(self) {
        let last_words = async {
            // Both end with the last session.
            if let Some(explanations_task) = self.explanations_task {
                let _ = explanations_task.await;
            }
            let _ = self.failure_reports_task.await;
        };
        let _ = timeout(LAST_WORDS, last_words).await;
        // What is on its way to the relay may end; else it is taken up again when its lease has run out.
        let _ = timeout(REPORTS_CLOSE, self.reports_task).await;
        // So does this, but for reports that wait: their mail was delivered, and a report is no more than a report.
        let abort = self.inbound_reports_task.abort_handle();
        if timeout(INBOUND_CLOSE, self.inbound_reports_task).await.is_err() {
            abort.abort();
        }
    }
}

impl Admin {
    /// Stops to answer.
    pub async fn close(self) {
        self.stop.send_replace(true);
        // Requests that hang end with the process.
        let _ = timeout(ADMIN_CLOSE, self.task).await;
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
            error!(reason, "not ready");
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
const INBOUND_CLOSE: Duration = Duration::from_secs(2);
/// How long open requests to the admin listener may take at the end.
const ADMIN_CLOSE: Duration = Duration::from_secs(1);
