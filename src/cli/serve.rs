//! `dmarcgate serve`: runs the gate until it is told to stop.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, warn};

use super::{ConfigFile, Failure};
use crate::app::service::Reloading;
use crate::app::{self, Passed, Running};
use crate::config::Config;
use crate::logging;
use crate::metrics::Registry;

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
        let registry = Registry::new();
        let log = logging::init(&loaded.config.log, &registry).map_err(|e| Failure::running(&e))?;
        warn_of(&loaded.config);
        let passed = passed.map_err(|e| Failure::running(&e))?;
        let sockets = app::bind(&loaded.config, passed).map_err(|e| Failure::running(&e))?;
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
                    _ = hangup.recv() => self.reload(&mut running, &log).await,
                }
            }
            // Who says it twice does not want to wait.
            running.stop(told_to_end()).await;
            Ok(())
        });
        // A blocking thread that hangs on a dead disk must not keep the process.
        runtime.shutdown_background();
        result
    }

    /// Reads the file again. This is the process's first thread, which serves nobody.
    async fn reload(&self, running: &mut Running, log: &logging::Guard) {
        let _reloading = Reloading::begin();
        match Config::load(&self.file.config) {
            Ok(loaded) => {
                let adopt = |config: &Config| {
                    log.follow(&config.log);
                    warn_of(config);
                };
                running.reload(loaded, adopt).await;
            }
            Err(error) => running.refuse(&error),
        }
    }
}

fn warn_of(config: &Config) {
    for warning in config.warnings() {
        warn!("{warning}");
    }
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

/// Whole or not at all: who waits for the file reads it as soon as it is there.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, text)?;
    fs::rename(&draft, path)
}

/// The environment variable that names the file.
const ADDRESS_FILE: &str = "DMARCGATE_ADDRESS_FILE";
