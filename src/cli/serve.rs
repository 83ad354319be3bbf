//! `dmarcgate serve`: runs the gate until it is told to stop.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::{env, fs, io};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{ConfigFile, Failure};
use crate::admin::ReloadReport;
use crate::app::service::Reloading;
use crate::app::{self, Passed, Running};
use crate::config::Config;
use crate::config::reload::is_taken;
use crate::logging;
use crate::metrics::Registry;
use crate::process::{self, Confined};

/// Run the gate.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    file: ConfigFile,
}

/// The signals that somebody may send.
struct Signals {
    /// Those that end the gate.
    end: AnyOf,
    /// The one that makes it read its configuration again.
    hangup: Signal,
    /// Those that would end it at once if nobody listened.
    others: AnyOf,
}

/// Signals that mean the same.
struct AnyOf(Vec<Signal>);

impl Signals {
    fn listen() -> io::Result<Self> {
        let any = |kinds: &[SignalKind]| kinds.iter().map(|kind| signal(*kind)).collect::<io::Result<_>>().map(AnyOf);
        Ok(Self {
            end: any(&[SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()])?,
            hangup: signal(SignalKind::hangup())?,
            others: any(&[SignalKind::user_defined1(), SignalKind::user_defined2()])?,
        })
    }
}

impl AnyOf {
    /// Waits for the next of them.
    async fn any(&mut self) {
        poll_fn(|context| match self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

impl Serve {
    /// Serves until SIGTERM, SIGINT or SIGQUIT. What can't be opened at the start ends it at once.
    pub fn run(self) -> Result<(), Failure> {
        // First of all: it clears the environment, which only a process with one thread may do.
        let passed = Passed::take();
        let loaded = self.file.load()?;
        let passed = passed.map_err(|e| Failure::running(&e))?;
        let sockets = app::bind(&loaded.config, passed).map_err(|e| Failure::running(&e))?;
        let settings = loaded.config.process(&self.file.config);
        let confined = process::confine(&settings, &scratch()).map_err(|error| match error {
            process::Error::User { .. } => Failure::Running(loaded.placed(&self.file.config, "process.user", &error)),
            error => Failure::running(&error),
        })?;
        // The log has a thread of its own: none may be older than what holds for all.
        let registry = Registry::new();
        let log = logging::init(&loaded.config.log, &registry).map_err(|e| Failure::running(&e))?;
        confined.tell();
        warn_of(&loaded.config);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::running(&e))?;
        let result = runtime.block_on(async {
            // Before anything is served, so that a signal that comes early is not missed.
            let Signals { mut end, mut hangup, mut others } = Signals::listen().map_err(|e| Failure::running(&e))?;
            let mut running = app::start(loaded, sockets, registry).await.map_err(|e| Failure::running(&e))?;
            tell_addresses(&running);
            running.tell_ready();
            loop {
                tokio::select! {
                    () = end.any() => break,
                    () = others.any() => info!("SIGUSR1 and SIGUSR2 tell the gate nothing"),
                    _ = hangup.recv() => drop(self.reload(&mut running, &log, &confined).await),
                    asked = running.asked_to_reload() => {
                        let report = self.reload(&mut running, &log, &confined).await;
                        // Who asked may have gone.
                        let _ = asked.send(ReloadReport { file: self.whole_path(), ..report });
                    }
                }
            }
            // Who says it twice does not want to wait.
            running.stop(end.any()).await;
            Ok(())
        });
        // A blocking thread that is stuck on a dead disk must not keep the process alive.
        runtime.shutdown_background();
        result
    }

    fn whole_path(&self) -> String {
        let path = fs::canonicalize(&self.file.config).unwrap_or_else(|_| self.file.config.clone());
        path.display().to_string()
    }

    /// Reads the file again. This is the process's first thread, which serves nobody.
    async fn reload(&self, running: &mut Running, log: &logging::Guard, confined: &Confined) -> ReloadReport {
        let _reloading = Reloading::begin();
        match Config::load(&self.file.config) {
            Ok(loaded) => {
                let mut files = loaded.config.process(&self.file.config).files;
                // The others are not looked at before a restart.
                files.retain(|file| is_taken(file.key));
                let out_of_reach = confined.out_of_reach(&files);
                if !out_of_reach.is_empty() {
                    return running.refuse_files(&out_of_reach);
                }
                let adopt = |config: &Config| {
                    log.follow(&config.log);
                    warn_of(config);
                };
                running.reload(loaded, adopt).await
            }
            Err(error) => running.refuse(&error),
        }
    }
}

fn warn_of(config: &Config) {
    for warning in config.warnings() {
        warn!(warning, "the configuration allows what is probably not meant");
    }
}

/// Where [`tell_addresses`] writes.
fn scratch() -> Vec<PathBuf> {
    let path = env::var_os(ADDRESS_FILE).map(PathBuf::from);
    path.as_deref().and_then(Path::parent).map(Path::to_owned).into_iter().collect()
}

/// Writes the addresses that were bound, for those who let the system choose the ports, into the file that the
/// environment names.
fn tell_addresses(running: &Running) {
    let Some(path) = env::var_os(ADDRESS_FILE) else { return };
    let mut text = String::new();
    for address in running.listeners() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "listener {address}");
    }
    let _ = writeln!(text, "admin {}", running.admin());
    if let Err(cause) = replace(Path::new(&path), &text) {
        error!(error = %cause, "the addresses can't be written to the file that {ADDRESS_FILE} names");
    }
}

/// Whole or not at all: a waiting reader reads it as soon as it is there.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, text)?;
    fs::rename(&draft, path)
}

/// The environment variable that names the file.
const ADDRESS_FILE: &str = "DMARCGATE_ADDRESS_FILE";
