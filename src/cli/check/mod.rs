//! `dmarcgate check`: evaluates a stored message by the code that sessions use, and tells every step.
//!
//! `input` reads the message, `facts` gathers what was found and decided into one value, which `story` tells to people
//! and `--json` to programs.

mod facts;
mod input;
mod story;

use std::env;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tokio::runtime;

use self::facts::{Facts, Findings};
use self::input::Input;
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds;
use crate::config::cases::ORDINARY_RECIPIENT;
use crate::config::{Config, DnsServer};
use crate::dns::{self, MessageLookup, Resolver, confirmed_name, server};
use crate::envelope::Envelope;
use crate::evaluation::Evaluation;
use crate::evaluation::discovery::Rules;
use crate::evaluation::gather::{HELO_LOOKUPS, Lookups, Sender, gather, within};
use crate::explain::facts::decision::Fate;
use crate::message::spool::{self, Spooler};
use crate::metrics::Registry;
use crate::session::fault::Fault;
use crate::session::receive::{Intake, Received};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::{ClientName, Command, MailParameters};
use crate::smtp::data::Framing;
use crate::spf::{Request, check_host};
use crate::suffix_list;

/// Evaluate a stored message and tell every step.
///
/// The message is taken, evaluated and judged by the very code that sessions use, with the DNS of now. What is told:
/// how From was read; SPF, each DKIM signature and ARC with their reasons; how the DMARC policy was found; the decision
/// in each mode with the reply or the added header fields; and every DNS question with its answer. No mail server is
/// needed, nothing is sent and nothing is recorded.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES, override_usage = USAGE)]
pub struct Check {
    /// The message; "-" or nothing: standard input
    ///
    /// Line ends may be CRLF or LF. An mbox separator ("From ...") above the message is taken off. Fields that were
    /// added when the message was delivered do no harm, but what the mail server or a mail program has changed in it
    /// may break signatures that were good when it came in.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The address of the client that sent it
    #[arg(long, value_name = "ADDRESS")]
    ip: IpAddr,
    /// The client's name for itself, from EHLO or HELO
    #[arg(long, value_name = "NAME", value_parser = client_name)]
    helo: ClientName,
    /// The reverse-path; "<>" if it is null
    #[arg(long, value_name = "ADDRESS", value_parser = reverse_path)]
    mail_from: ReversePath,
    /// A recipient, any number of times
    ///
    /// Without one an ordinary recipient is assumed. It makes a difference where policy.exempt_recipients does.
    #[arg(long, value_name = "ADDRESS", value_parser = forward_path)]
    rcpt: Vec<ForwardPath>,
    /// A name server to ask instead of the configured ones or the system's
    #[arg(long, value_name = "SERVER[:PORT]", value_parser = dns_server)]
    dns: Vec<DnsServer>,
    /// The configuration file; without one the built-in defaults hold
    ///
    /// Unlike other commands, this one does not read /etc/dmarcgate/dmarcgate.toml unless it is named: the answer
    /// is to be the same on any machine.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Judge as at the listener with this address
    ///
    /// It makes a difference where the listener has a policy, a bypass or recipient domains of its own.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "config")]
    listener: Option<SocketAddr>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Tells what would become of the message.
    pub fn run(self, output: &mut dyn Write) -> Result<Fate, Failure> {
        let config = at_listener(configuration(self.config.as_deref(), &self.dns)?, self.listener)?;
        let path = self.file.as_deref().filter(|path| *path != Path::new("-"));
        let name = path.map_or("standard input".into(), |path| path.display().to_string());
        let input = Input::read(path, config.limits.message_size)
            .map_err(|error| Failure::Running(format!("{name} can't be read: {error}")))?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        let facts = runtime.block_on(self.find_out(&config, &input, &name))?;
        let text = if self.json { facts.to_json() } else { story::tell(&facts) };
        print(output, &text).map(|()| facts.fate)
    }

    async fn find_out(&self, config: &Config, input: &Input, name: &str) -> Result<Facts, Failure> {
        let envelope = self.envelope();
        let received = match take(config, input).await? {
            Ok(received) => received,
            Err(fault) => return Ok(Facts::too_big(self, input, name, &fault.reply())),
        };
        let resolver = Resolver::new(config.resolver(), dns::Metrics::new(&Registry::new()));
        let lookup = resolver.map_err(|error| Failure::running(&error))?.for_message(Some(self.ip()));
        let rules = suffix_list::rules(&config.suffix_list());
        let evaluation = self.evaluate(config, &rules, &received, &lookup).await;
        let evaluation =
            evaluation.ok_or_else(|| Failure::Running("the evaluation did not come to an end".to_owned()))?;
        // A session knows it, too, where it is told to the upstream.
        let settings = config.verdict();
        let for_shadow = settings.shadow.as_ref().is_some_and(|shadow| shadow.policy.wants_host());
        let wants_host = settings.policy.wants_host() || (for_shadow && config.upstream.identity.tells_name());
        let host = match wants_host {
            true => confirmed_name(&lookup, self.ip()).await.confirmed(),
            false => None,
        };
        let findings = Findings {
            config,
            envelope: &envelope,
            received: &received,
            evaluation: &evaluation,
            rules: &rules,
            host: host.as_ref(),
        };
        Ok(Facts::new(self, input, name, &findings))
    }

    async fn evaluate(
        &self,
        config: &Config,
        rules: &Rules,
        received: &Received,
        lookup: &MessageLookup,
    ) -> Option<Evaluation> {
        let sender = Sender {
            ip: self.ip(),
            helo: self.helo.as_str().into(),
            mail_from: self.mail_from.mailbox().map_or("", |mailbox| mailbox.as_str()).into(),
        };
        let start = Instant::now();
        let helo = lookup.apart(HELO_LOOKUPS);
        let subject = async {
            // The time that a sender takes for its message is, as a rule, enough for the EHLO name; here nobody sends.
            if let Some(request) = Request::helo(self.ip(), self.helo.as_str()) {
                check_host(&helo, &request).await;
            }
            Some(received.subject.clone())
        };
        let lookups = Lookups { identifiers: lookup, helo: &helo, policy: &lookup.unmetered() };
        let gathered = within(config.timeouts.evaluation, lookup, gather(lookups, sender, rules, subject)).await?;
        gathered.evaluate(&received.hashes, epoch_seconds(), lookup.evidence(), start.elapsed())
    }

    fn envelope(&self) -> Envelope {
        let mut envelope = Envelope::new(self.mail_from.clone(), MailParameters::default());
        envelope.recipients.clone_from(&self.rcpt);
        if envelope.recipients.is_empty() {
            // Nobody is not everybody: without a recipient, all recipients would be exempt.
            envelope.recipients.extend(forward_path(ORDINARY_RECIPIENT));
        }
        envelope
    }

    fn ip(&self) -> IpAddr {
        self.ip.to_canonical()
    }
}

/// Takes the message as a session does. The inner error is a bound that it passed.
async fn take(config: &Config, input: &Input) -> Result<Result<Received, Fault>, Failure> {
    let settings = spool::Settings { directory: env::temp_dir(), memory: SPOOL_MEMORY };
    let spooler = Spooler::new(&settings).map_err(|error| Failure::running(&error))?;
    let mut intake = Intake::new(Framing::Dot, config.message(), spooler.spool());
    for piece in input.as_data().chunks(PIECE) {
        intake.take(piece);
        intake.settle().await.map_err(|error| Failure::running(&error))?;
    }
    Ok(intake.finish())
}

fn client_name(text: &str) -> Result<ClientName, &'static str> {
    match Command::parse(format!("EHLO {text}").as_bytes(), None) {
        Ok(Command::Ehlo(name)) => Ok(name),
        _ => Err("expected a name such as \"mail.example.net\" or an address literal such as \"[192.0.2.1]\""),
    }
}

fn reverse_path(text: &str) -> Result<ReversePath, &'static str> {
    ReversePath::of_text(text)
        .ok_or("expected an address such as \"someone@example.net\", or \"<>\" for the null reverse-path")
}

fn forward_path(text: &str) -> Result<ForwardPath, &'static str> {
    ForwardPath::of_text(text).ok_or("expected an address such as \"someone@example.net\"")
}

/// The configuration of the file, or the built-in defaults without one; `servers`, if there are any, take the place of
/// its name servers.
pub fn configuration(path: Option<&Path>, servers: &[DnsServer]) -> Result<Config, Failure> {
    let mut config = match path {
        Some(path) => ConfigFile { config: path.to_owned() }.load()?.config,
        None => Config::built_in(),
    };
    if !servers.is_empty() {
        config.dns.servers = servers.to_vec();
    }
    Ok(config)
}

/// What holds at the listener with this address; without one, what holds in general.
pub fn at_listener(config: Config, address: Option<SocketAddr>) -> Result<Config, Failure> {
    let Some(address) = address else { return Ok(config) };
    match config.listeners.iter().find(|listener| listener.address == address) {
        Some(listener) => Ok(config.at(listener)),
        None => {
            let known = config.listeners.iter().map(|listener| listener.address.to_string());
            let known = known.collect::<Vec<_>>().join(", ");
            Err(Failure::Usage(format!("no [[listener]] has the address {address}; there are {known}")))
        }
    }
}

pub fn dns_server(text: &str) -> Result<DnsServer, String> {
    DnsServer::parse(text).ok_or_else(|| format!("expected {}", server::FORMS))
}

/// Clap writes it on one line, which is longer than 80 characters.
const USAGE: &str =
    "dmarcgate check [OPTIONS] --ip <ADDRESS> --helo <NAME>\n                       --mail-from <ADDRESS> [FILE]";

const EXIT_CODES: &str = "\
Exit code, by the mode in force:
  0  the message is passed on
  1  it could not be evaluated: no such file, no name server
  2  wrong usage or configuration
  3  it is passed on with a mark (X-DMARC-Fail-policy)
  4  it is refused (5xx)
  5  it is deferred (4xx); a gate that has deferred such mail for
     policy.defer_at_most already would pass it on with a mark

Example:
  dmarcgate check forged.eml --ip 192.0.2.1 --helo mail.example.net \\
      --mail-from someone@example.net";

/// Octets that are taken at one time.
const PIECE: usize = 64 * 1024;
/// Octets of memory for the body; beyond that it goes to an unlinked file in the system's temporary directory.
const SPOOL_MEMORY: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests;
