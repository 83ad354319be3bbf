//! Puts a new configuration into force while the gate runs.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::Running;
use crate::admin::{Asked, ReloadProblem, ReloadReport};
use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::config::{self, Loaded};
use crate::label::Label;
use crate::label_enum;
use crate::listener;
use crate::metrics::{Family, Gauges, Info, IntGauge, Registry};
use crate::policy::Mode;
use crate::process::Needed;
use crate::session;
use crate::tls::FileError;
use crate::upstream::probe::{self, RelayTest, Survey};
use crate::upstream::security::Security;
use crate::upstream::servers::Servers;

label_enum! {
    /// What became of a configuration that was read again.
    pub enum ReloadOutcome {
        /// It is in force.
        Applied = "applied",
        /// Something is wrong with it, and the one before stays in force.
        Refused = "refused",
    }
}

/// What is told about the configuration in force.
pub(super) struct Metrics {
    build: Info,
    listeners: Gauges<Mode>,
    reloads: Family<ReloadOutcome>,
    started: IntGauge,
    loaded: IntGauge,
    successful: IntGauge,
}

/// The task that probes the upstream, which is started anew where its settings change.
pub(super) struct Prober {
    pub survey: watch::Sender<Survey>,
    pub relay_test: RelayTest,
    pub task: AbortHandle,
}

/// The settings of one listener, to be changed.
pub(super) struct ListenerSettings {
    /// As configured: the port may be 0.
    pub configured: config::Listener,
    pub settings: watch::Sender<Arc<listener::Settings>>,
    /// For the sessions.
    pub sessions: watch::Sender<Arc<session::Settings>>,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            build: registry.info(
                "dmarcgate_build_info",
                "Always 1; version and mode in its labels, \"mixed\" where listeners differ.",
                &["version", "mode"],
            ),
            started: registry.gauge("dmarcgate_start_seconds", "When the gate was started, in seconds since 1970."),
            listeners: registry.gauges("dmarcgate_listeners", "Listeners that serve.", "mode"),
            reloads: registry.family(
                "dmarcgate_config_reloads_total",
                "Configurations read again, at SIGHUP or by dmarcgate reload.",
                "result",
            ),
            successful: registry.gauge(
                "dmarcgate_config_last_reload_successful",
                "Whether the configuration that was read last is in force: 1 or 0.",
            ),
            loaded: registry.gauge(
                "dmarcgate_config_loaded_seconds",
                "When the configuration in force was read, in seconds since 1970.",
            ),
        }
    }

    /// Tells of a configuration that comes into force.
    pub(super) fn tell(&self, listeners: &[ListenerSettings]) {
        let modes: Vec<_> = listeners.iter().map(|l| l.sessions.borrow().verdict.policy.mode).collect();
        let mode = match &*modes {
            [first, others @ ..] if others.iter().all(|mode| mode == first) => first.as_str(),
            _ => "mixed",
        };
        self.build.set(&[env!("CARGO_PKG_VERSION"), mode]);
        for mode in Mode::ALL {
            let count = modes.iter().filter(|other| *other == mode).count();
            self.listeners.of(*mode).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let now = epoch_seconds_signed();
        self.successful.set(1);
        self.loaded.set(now);
        if self.started.get() == 0 {
            self.started.set(now);
        }
    }

    /// Tells whether the configuration is in force as a whole.
    pub(super) fn tell_whole(&self, is_whole: bool) {
        self.successful.set(i64::from(is_whole));
    }
}

impl Running {
    /// Puts into force what can be changed while the gate runs, and says what can't. Transactions keep what they began
    /// with. `adopt` does the rest, outside the gate, before the new configuration is reported to hold.
    pub async fn reload(&mut self, loaded: Loaded, adopt: impl FnOnce(&config::Config)) -> ReloadReport {
        let Loaded { config, lines, .. } = loaded;
        // First what can fail.
        let security = match config.security(self.upstream.tls_metrics.clone()) {
            Ok(security) => security,
            Err(cause) => {
                error!(error = %Causes(&cause), "upstream.tls: nobody is known who could vouch for the upstream");
                return self.refused(vec![problem("upstream.tls", Causes(&cause).to_string())]);
            }
        };
        let reports = match config.reports_in_force(self.upstream.tls_metrics.clone()) {
            Ok(reports) => reports,
            Err(cause) => {
                error!(error = %Causes(&cause), "reports can't be sent as they are configured");
                return self.refused(vec![problem("reports", Causes(&cause).to_string())]);
            }
        };
        // A broken file keeps what was read from it before, and is logged and counted there.
        let faults = match &self.tls {
            Some(tls) => tls.reload().await,
            None => Vec::new(),
        };
        self.resolver.reread().await;
        let changes = self.in_force.replace(lines);
        self.resolver.set_lookups_per_message(usize::try_from(config.limits.lookups).unwrap_or(usize::MAX));
        self.slots.resize(self.open_files.sessions(config.limits.sessions, config.upstream.connections));
        self.shutdown = config.timeouts.shutdown;
        let servers = self.reload_servers(&config, security);
        self.reload_listeners(&config, &servers);
        self.reporting.settings.send_replace(reports.map(Arc::new));
        self.admin.status.send_replace(Arc::new(config.status()));

        adopt(&config);
        self.metrics.tell(&self.listeners.settings);
        // Last: who sees it counted sees it in force.
        self.metrics.reloads.inc(ReloadOutcome::Applied);
        info!(changed = changes.applied.join(" "), "the configuration was read again");
        if !changes.restart.is_empty() {
            warn!(keys = changes.restart.join(" "), "what was changed in the configuration needs a restart");
        }
        ReloadReport {
            applied: true,
            changed: changes.applied,
            restart: changes.restart,
            warnings: config.warnings(),
            problems: faults.iter().map(kept).collect(),
            ..ReloadReport::default()
        }
    }

    /// Waits for a request to read the configuration again.
    pub async fn asked_to_reload(&mut self) -> Asked {
        match self.admin.reload_requests.recv().await {
            Some(asked) => asked,
            // The admin listener is gone: nobody will ask.
            None => std::future::pending().await,
        }
    }

    /// Says what is wrong with a configuration that was to be put into force; the one before stays.
    pub fn refuse(&self, error: &config::Error) -> ReloadReport {
        let told = match error {
            config::Error::Invalid { path, problems } => {
                for problem in problems {
                    error!(
                        file = %path.display(),
                        line = problem.line,
                        key = problem.key,
                        problem = problem.message,
                        "the configuration is wrong"
                    );
                }
                let told = |problem: &config::Problem| ReloadProblem {
                    line: problem.line,
                    key: problem.key.clone(),
                    problem: problem.message.clone(),
                };
                problems.iter().map(told).collect()
            }
            config::Error::Unreadable { path, source } => {
                error!(file = %path.display(), error = %source, "the configuration can't be read");
                vec![problem("", format!("can't be read: {source}"))]
            }
        };
        self.refused(told)
    }

    /// Says which files of a configuration that was to be put into force the process can't reach; the one before stays.
    pub fn refuse_files(&self, files: &[&Needed]) -> ReloadReport {
        for file in files {
            error!(
                key = file.key,
                file = %file.path.display(),
                "needs a restart: when the gate was started nothing named a file in this directory, and process.landlock \
                 keeps it out of reach"
            );
        }
        let told = |file: &&Needed| {
            problem(file.key, format!("needs a restart: {} is out of reach (process.landlock)", file.path.display()))
        };
        self.refused(files.iter().map(told).collect())
    }

    fn refused(&self, problems: Vec<ReloadProblem>) -> ReloadReport {
        self.metrics.successful.set(0);
        self.metrics.reloads.inc(ReloadOutcome::Refused);
        error!("the configuration was refused: all stays as it was");
        ReloadReport { problems, ..ReloadReport::default() }
    }

    /// Listeners are known by their addresses; of several with one address, the first in the file is the first here.
    /// One that is gone from the file goes on until the restart, with what it had of its own.
    fn reload_listeners(&mut self, config: &config::Config, servers: &Arc<Servers>) {
        let mut rest: Vec<_> = config.listeners.iter().collect();
        for listener in &mut self.listeners.settings {
            match rest.iter().position(|l| l.address == listener.configured.address) {
                Some(place) => {
                    listener.configured = config.kept(rest.remove(place));
                    let tls = listener.settings.borrow().tls;
                    let settings = listener::Settings { tls, ..config.listener(&listener.configured) };
                    listener.settings.send_replace(Arc::new(settings));
                }
                None => listener.configured = config.forgotten(&listener.configured),
            }
            let settings = config.session_at(&listener.configured, Arc::clone(servers));
            listener.sessions.send_replace(Arc::new(settings));
        }
    }

    /// The servers stay the same ones, with what is known of their health, unless something about them has changed; the
    /// authorities in a file are read anew each time.
    fn reload_servers(&mut self, config: &config::Config, security: Security) -> Arc<Servers> {
        let relay_test = config.relay_test();
        let upstream = config.upstream(security);
        let present = Arc::clone(&self.upstream.servers.borrow());
        let same = **present.settings() == upstream && config.upstream.tls_ca.is_none();
        let servers = match same {
            true => present,
            false => {
                present.retire();
                let metrics = present.metrics().clone();
                Arc::new(Servers::new(Arc::new(upstream), metrics, self.readiness.clone()))
            }
        };
        self.upstream.servers.send_replace(Arc::clone(&servers));
        if !same || self.upstream.prober.relay_test != relay_test {
            self.upstream.prober.task.abort();
            let survey = self.upstream.prober.survey.clone();
            self.upstream.prober.relay_test = relay_test;
            self.upstream.prober.task = self.tasks.spawn(probe::run(Arc::clone(&servers), relay_test, survey));
        }
        servers
    }
}

/// A certificate from before that is shown on.
fn kept(fault: &FileError) -> ReloadProblem {
    let hint = fault.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    problem("tls", format!("{fault}{hint}; the certificate from before is kept"))
}

/// A problem that is in no line of the file.
fn problem(key: &str, problem: String) -> ReloadProblem {
    ReloadProblem { line: None, key: key.to_owned(), problem }
}
