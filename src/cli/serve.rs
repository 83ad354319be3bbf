//! `dmarcgate serve`: runs the gate until it is told to stop.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, warn};

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

impl Serve {
    /// Serves until SIGTERM or SIGINT. What can't be opened at the start ends it at once.
    pub fn run(self) -> Result<(), Failure> {
        // First of all: it clears the environment, which only a process with one thread may do.
        let passed = Passed::take();
        let loaded = self.file.load()?;
        let passed = passed.map_err(|e| Failure::running(&e))?;
        let sockets = app::bind(&loaded.config, passed).map_err(|e| Failure::running(&e))?;
        let settings = loaded.config.process(&self.file.config);
        let confined = process::confine(&settings, &scratch()).map_err(|e| Failure::running(&e))?;
        // The log has a thread of its own: none may be older than what holds for all.
        let registry = Registry::new();
        let log = logging::init(&loaded.config.log, &registry).map_err(|e| Failure::running(&e))?;
        confined.tell();
        warn_of(&loaded.config);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::running(&e))?;
        let result = runtime.block_on(async {
            // Before anything is served, so that a signal that comes early is not missed.
            let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::running(&e))?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::running(&e))?;
            let mut hangup = signal(SignalKind::hangup()).map_err(|e| Failure::running(&e))?;
            let mut running = app::start(loaded, sockets, registry).await.map_err(|e| Failure::running(&e))?;
            tell_addresses(&running);
            running.tell_ready();
            let mut told_to_end = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            loop {
                tokio::select! {
                    () = told_to_end() => break,
                    _ = hangup.recv() => drop(self.reload(&mut running, &log, &confined).await),
                    asked = running.asked_to_reload() => {
                        let report = self.reload(&mut running, &log, &confined).await;
                        // Who asked may have gone.
                        let _ = asked.send(ReloadReport { file: self.whole_path(), ..report });
                    }
                }
            }
            // Who says it twice does not want to wait.
            running.stop(told_to_end()).await;
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
