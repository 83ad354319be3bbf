//! `dmarcgate check-upstream`: connects to each mail server as sessions do, and tells what works and what is missing.
//!
//! `look` shows what the server says to anyone, `facts` adds what comes of the hand-over by the code that sessions use,
//! `bounces` where DNS leads bounces of reports, `advice` knows what an MTA gets wrong without all that, and `story`
//! tells all of it to people, `--json` to programs.

mod advice;
mod bounces;
mod facts;
mod look;
mod story;

use std::io::Write;

use clap::Args;
use tokio::runtime;

use self::facts::Facts;
use crate::cli::{ConfigFile, Failure, print};
use crate::metrics::Registry;
use crate::tls::ClientMetrics;

/// Try the mail servers behind the gate and tell what they get
///
/// For each configured server: its addresses, its greeting and extensions, what of them clients are offered and what
/// not and why, whether the client is handed over (as 192.0.2.1, and as 2001:db8::1 where a listener has an IPv6
/// address) and what the server gets wrong if it is not, and whether it relays for strangers (MAIL, RCPT to a foreign
/// domain, RSET). With reports.bounce_domain also whether DNS leads bounces of reports back to the gate. No message is
/// ever sent. It asks once and no running gate is needed; run it on the gate's host, whose address the servers know.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct CheckUpstream {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl CheckUpstream {
    /// Tells what the servers do, and whether all is well.
    pub fn run(self, output: &mut dyn Write) -> Result<bool, Failure> {
        let config = self.file.load()?.config;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        let security =
            config.security(ClientMetrics::new(&Registry::new())).map_err(|error| Failure::running(&error))?;
        let facts = runtime.block_on(Facts::find(&config, security));
        let text = if self.json { facts.to_json() } else { story::tell(&facts) };
        print(output, &text).map(|()| facts.well)
    }
}

const EXIT_CODES: &str = "\
Exit code:
  0  every server takes mail as it is configured, and bounces come back
  1  something is wrong with one of these
  2  wrong usage or configuration";
