//! `dmarcgate lookup`: what a domain publishes, as the gate sees it, and what is wrong with it.
//!
//! `spf`, `dmarc`, `dkim` and `mx` ask and note what is wrong, each by the code that evaluates messages; `facts` holds
//! all of it, which `story` tells to people and `--json` to programs.

mod dkim;
mod dmarc;
pub mod facts;
pub mod mx;
mod near_miss;
mod spf;
mod story;

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::runtime;

use self::facts::{Facts, Health};
use crate::cli::check::{configuration, dns_server};
use crate::cli::{Failure, print};
use crate::config::{Config, DnsServer};
use crate::dns::{self, Resolver};
use crate::domain::Domain;
use crate::evaluation::gather::within;
use crate::metrics::Registry;
use crate::suffix_list;

/// Show what a domain publishes, and what is wrong with it
///
/// SPF: the record with all that it includes, what each term comes to, and how many terms ask DNS. DMARC: the walk up
/// the tree, the record that applies with every tag, and whether each address for reports may get them. DKIM: the key
/// of each selector given. MX: the mail servers. All with the time for which the gate remembers it, which is that of
/// DNS within bounds (5 seconds to an hour), read by the code that evaluates messages; at the end what is wrong and
/// what to do about it.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Lookup {
    /// The domain
    #[arg(value_name = "DOMAIN", value_parser = domain)]
    domain: Domain,
    /// A DKIM selector (s= of a signature), any number of times
    #[arg(long, value_name = "SELECTOR", value_parser = selector)]
    selector: Vec<String>,
    /// The address of a client: tells what SPF says of it
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// A name server to ask instead of the configured ones or the system's
    #[arg(long, value_name = "SERVER", value_parser = dns_server)]
    dns: Vec<DnsServer>,
    /// The configuration file; without one the built-in defaults hold
    ///
    /// Unlike other commands, this one does not read /etc/dmarcgate/dmarcgate.toml unless it is named: the answer
    /// is to be the same on any machine.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Lookup {
    /// Reports what is published, and whether it is sound.
    pub fn run(self, output: &mut dyn Write) -> Result<Health, Failure> {
        let config = configuration(self.config.as_deref(), &self.dns)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        let facts = runtime.block_on(self.find_out(&config))?;
        let text = if self.json { facts.to_json() } else { story::tell(&facts) };
        print(output, &text).map(|()| facts.health)
    }

    async fn find_out(&self, config: &Config) -> Result<Facts, Failure> {
        let resolver = Resolver::new(config.resolver(), dns::Metrics::new(&Registry::new()));
        let lookup = resolver.map_err(|error| Failure::running(&error))?.for_message(None);
        let rules = suffix_list::rules(&config.suffix_list());
        let asked = within(PATIENCE, &lookup, Facts::find(self, &lookup, &rules)).await;
        asked.ok_or_else(|| Failure::Running("the look-ups did not come to an end".to_owned()))
    }
}

fn domain(text: &str) -> Result<Domain, &'static str> {
    let domain = text.trim_end_matches('.');
    Domain::parse(domain).map_err(|_| "expected a domain such as \"example.net\"")
}

/// RFC 6376 §3.1: labels, as in a domain.
fn selector(text: &str) -> Result<String, &'static str> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if text.len() <= 200 && text.split('.').all(is_label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected a selector such as \"s1\" or \"2026.mail\"")
    }
}

const EXIT_CODES: &str = "\
Exit code:
  0  nothing is wrong
  1  something could not be asked: no name server, DNS fails
  2  wrong usage or configuration
  3  something is wrong

Example:
  dmarcgate lookup example.net --selector s1 --ip 192.0.2.1";

/// How long all questions together may take: nobody at a terminal should wait for ten dead servers in turn.
const PATIENCE: Duration = Duration::from_mins(1);
