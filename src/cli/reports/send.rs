//! `dmarcgate reports send`: what a running gate does by itself, by hand.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::cli::reports::settings;
use crate::cli::{ConfigFile, Failure, print};
use crate::dns::{self, Resolver};
use crate::metrics::Registry;
use crate::report::delivery::Delivery;
use crate::suffix_list;
use crate::tls::ClientMetrics;

/// Send the reports that are due
///
/// What a running gate does by itself; it may run at the same time, since each report is taken up by one alone. It also
/// works while reports.enabled is false. After the database of several gates was away, leave it alone for a quarter of
/// an hour: rows that come in behind a report are in none. One line is printed for each attempt, as it ends. Started by
/// root, it goes on as the gate's user (process.user).
#[derive(Debug, Args)]
pub struct Send {
    #[command(flatten)]
    file: ConfigFile,
    /// Send all that waits now, whenever its time is
    #[arg(long)]
    now: bool,
    /// Say what would be tried, and send nothing
    #[arg(long)]
    dry_run: bool,
}

impl Send {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let config = self.file.load_as_gate()?.config;
        let registry = Registry::new();
        let settings = Arc::new(settings(&config, ClientMetrics::new(&registry))?);
        let rules = watch::Sender::new(Arc::new(suffix_list::rules(&config.suffix_list())));
        let (tell, mut told) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        runtime.block_on(async {
            let resolver = Resolver::new(config.resolver(), dns::Metrics::new(&registry));
            let resolver = resolver.map_err(|error| Failure::running(&error))?;
            let location = config.store.url.clone();
            let delivery = Delivery::new(location, resolver, rules.subscribe(), &registry).telling(tell);
            let failed = |error| Failure::running(&error);
            delivery.plan(&settings).await.map_err(failed)?;
            if self.dry_run {
                let until = if self.now { WHENEVER } else { delivery.now() };
                let waiting = delivery.waiting(until).await.map_err(failed)?;
                return print(output, &format!("{waiting} reports would be tried\n"));
            }
            if self.now {
                delivery.hasten().await.map_err(failed)?;
            }
            // Nobody stops it but the user.
            let (_stop, stopped) = watch::channel(false);
            let mut sum = 0;
            loop {
                let mut round = std::pin::pin!(delivery.round(&settings, &stopped));
                let count = loop {
                    tokio::select! {
                        Some(line) = told.recv() => print(output, &format!("{line}\n"))?,
                        count = &mut round => break count.map_err(failed)?,
                    }
                };
                while let Ok(line) = told.try_recv() {
                    print(output, &format!("{line}\n"))?;
                }
                sum += count;
                let waiting = delivery.waiting(delivery.now()).await.map_err(failed)?;
                if waiting == 0 {
                    if sum == 0 && self.now {
                        print(output, "what came today (UTC) is reported once the day is over\n")?;
                    }
                    return print(output, &format!("{sum} reports were tried\n"));
                }
                // The rate of a minute is used up.
                print(output, &format!("{waiting} reports wait for reports.rate\n"))?;
                sleep(PAUSE).await;
            }
        })
    }
}

/// A time behind all that is planned, in seconds since the epoch: the year 9999.
const WHENEVER: i64 = 253_370_764_800;
/// Between two looks at whether there is room for more.
const PAUSE: Duration = Duration::from_secs(10);
