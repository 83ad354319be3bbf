//! `dmarcgate serve`: runs the gate until it is told to stop.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{ConfigFile, Failure};
use crate::app::{self, Running};
use crate::config::Loaded;
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
        let Loaded { config, .. } = self.file.load()?;
        let registry = Registry::new();
        let _log = logging::init(&config.log, &registry).map_err(|e| Failure::running(&e))?;
        for warning in config.warnings() {
            warn!("{warning}");
        }
        let sockets = app::bind(&config).map_err(|e| Failure::running(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::running(&e))?;
        let result = runtime.block_on(async {
            // Before anything is served, so that a signal that comes early is not missed.
            let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::running(&e))?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::running(&e))?;
            let mut hangup = signal(SignalKind::hangup()).map_err(|e| Failure::running(&e))?;
            let running = app::start(&config, sockets, registry).await.map_err(|e| Failure::running(&e))?;
            tell_addresses(&running);
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => {
                        info!("SIGHUP: certificates are read anew; this version reads its configuration at start only");
                        if let Some(tls) = running.tls() {
                            tls.reload().await;
                        }
                    }
                }
            }
            running.stop().await;
            Ok(())
        });
        // A blocking thread that hangs on a dead disk must not keep the process.
        runtime.shutdown_background();
        result
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
