//! The configuration: what the operator writes, typed and checked.
//!
//! [`Config::load`] reads one TOML file and says everything that is wrong with it at once. `file` names each key with
//! its default and range, `check` holds what several keys say together; [`REFERENCE`] documents them all. Nobody takes
//! `&Config`: each module has settings of its own, which are made from it.

mod admin;
pub mod cases;
mod check;
mod document;
mod file;
mod problem;
mod reach;
pub mod reload;
mod settings;
mod value;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;
use std::time::Duration;

use ipnet::IpNet;

use crate::action::template::{HelpUrl, Template};
use crate::calendar::Date;
pub use crate::config::admin::{Admin, TokenError, admin};
pub use crate::config::document::{Line, Origin};
pub use crate::config::problem::{Error, Problem};
pub use crate::config::reach::Process;
pub use crate::config::settings::ReportsError;
pub use crate::config::value::{
    ByteSize, Denied, DnsServer, Host, ListUrl, Mailbox, ModuleLevel, OneOrMore, RecipientDomain, ServerAddress,
    SwitchableSign, parse_duration,
};
pub use crate::dmarc::public_suffix::Discovery;
use crate::domain::Domain;
use crate::label_enum;
pub use crate::personal::PersonalData;
use crate::policy::OverrideKind;
use crate::policy::overrides::OverrideAction;
pub use crate::policy::{Mode, OnTempError, OnUnusableFrom, Reject};
pub use crate::report::aggregate::{Format, PrivateAddresses};
pub use crate::report::delivery::Reputation;
pub use crate::report::failure::{Canonicalized, Extent};
pub use crate::report::inbound::Senders;
pub use crate::session::settings::{AuthOffer, BareNewline};
pub use crate::smtp::extension::Extension;
use crate::store::Location;
pub use crate::tls::{ClientFingerprint, ListenerTls, Pin};
pub use crate::upstream::handover::Identity;
pub use crate::upstream::pool::Selection;
pub use crate::upstream::security::UpstreamTls;

/// The reference: every key with its meaning, default and range. Parses, and says what holds without it.
pub const REFERENCE: &str = include_str!("../../config/dmarcgate.toml");

/// All that the operator sets. The fields are documented in [`REFERENCE`]; names are those of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Config {
    pub hostname: Domain,
    pub authserv_id: Domain,
    pub strip_authserv_ids: Vec<Domain>,
    pub listeners: Vec<Listener>,
    pub tls: Tls,
    pub upstream: Upstream,
    pub dns: Dns,
    pub policy: Policy,
    pub public_suffix: PublicSuffix,
    pub bypass: Bypass,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub results: Results,
    pub replies: Replies,
    pub smtp: Smtp,
    pub spool: Spool,
    pub store: Store,
    pub explain: Explain,
    pub reports: Reports,
    pub process: Process,
    pub admin: Admin,
    pub log: Log,
}

/// `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: ListenerTls,
    pub require_tls: bool,
    pub proxy_protocol_from: Vec<IpNet>,
    pub reuse_port: bool,
    /// None: those of `[smtp]`.
    pub recipient_domains: Option<Vec<RecipientDomain>>,
    /// None: `[policy]`. What it does not set is that of `[policy]` already.
    pub policy: Option<Policy>,
    /// None: `[bypass]`. As above.
    pub bypass: Option<Bypass>,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Tls {
    pub certificate: OneOrMore<PathBuf>,
    pub key: OneOrMore<PathBuf>,
    pub hide_from: Vec<IpNet>,
}

/// `[upstream]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Upstream {
    pub servers: Vec<ServerAddress>,
    pub selection: Selection,
    pub connections: u32,
    pub identity: Identity,
    pub tls: UpstreamTls,
    pub auth_over_plain: bool,
    pub tls_name: Option<Host>,
    pub tls_ca: Option<PathBuf>,
    pub tls_pin: Vec<Pin>,
    pub hold: Duration,
    pub idle: Duration,
}

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Dns {
    /// Empty: the system's.
    pub servers: Vec<DnsServer>,
    pub ca: Option<PathBuf>,
    pub timeout: Duration,
    pub cache_entries: u32,
}

/// `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Policy {
    pub mode: Mode,
    pub reject: Reject,
    pub on_temperror: OnTempError,
    pub defer_at_most: Duration,
    pub unusable_from: OnUnusableFrom,
    pub honor_pct: bool,
    pub signs: Vec<SwitchableSign>,
    pub discovery: Discovery,
    pub exempt_recipients: Vec<Mailbox>,
    pub trusted_sealers: Vec<Domain>,
    pub overrides: Vec<Override>,
    /// Without one of its own.
    pub shadow: Option<Box<Policy>>,
}

/// `[[policy.override]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Override {
    pub author_domain: Vec<Domain>,
    pub network: Vec<IpNet>,
    pub host: Vec<Domain>,
    pub dkim: Vec<Domain>,
    pub spf: Vec<Domain>,
    pub arc_sealer: Vec<Domain>,
    pub list_id: Vec<Domain>,
    pub recipient_domain: Vec<Domain>,
    pub action: OverrideAction,
    pub note: String,
    pub reason: Option<OverrideKind>,
    pub until: Option<Date>,
}

/// `[public_suffix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct PublicSuffix {
    pub file: PathBuf,
    pub url: ListUrl,
    pub max_age: Duration,
}

/// `[bypass]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Bypass {
    pub trusted_networks: Vec<IpNet>,
    pub client_certificates: Vec<ClientFingerprint>,
    pub authenticated: bool,
    pub keep_results_from: Vec<IpNet>,
}

impl Default for Bypass {
    fn default() -> Self {
        Self {
            trusted_networks: Vec::new(),
            client_certificates: Vec::new(),
            authenticated: true,
            keep_results_from: Vec::new(),
        }
    }
}

/// `[limits]`. Sizes are octets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Limits {
    pub message_size: u64,
    pub header_size: u64,
    pub header_fields: u32,
    pub received_fields: u32,
    pub recipients: u32,
    pub signatures: u32,
    pub sessions: u32,
    pub sessions_per_network: u32,
    pub session_rate: u32,
    pub network_prefix_v4: u32,
    pub network_prefix_v6: u32,
    pub errors: u32,
    pub commands_without_mail: u32,
    pub data_rate: u64,
    pub lookups: u32,
}

/// `[timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Timeouts {
    pub proxy_header: Duration,
    pub tls_handshake: Duration,
    pub first_command: Duration,
    pub command: Duration,
    pub data_block: Duration,
    pub data: Duration,
    pub evaluation: Duration,
    pub upstream_slot: Duration,
    pub upstream_open: Duration,
    pub upstream_connect: Duration,
    pub upstream_command: Duration,
    pub upstream_final: Duration,
    pub shutdown: Duration,
}

/// `[results]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Results {
    pub received_spf: bool,
}

/// `[replies]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Replies {
    pub refused: Template,
    pub overridden: Template,
    pub unusable_from: Template,
    pub deferred: Template,
    pub help_url: Option<HelpUrl>,
}

/// `[smtp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Smtp {
    pub bare_newline: BareNewline,
    pub recipient_domains: Vec<RecipientDomain>,
    pub banner: Option<String>,
    pub auth: AuthOffer,
    pub hide_extensions: Vec<Extension>,
    pub pregreet_delay: Duration,
}

/// `[spool]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Spool {
    pub directory: PathBuf,
    /// Octets.
    pub memory: u64,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Store {
    pub url: Location,
    pub keep_comparisons: Duration,
    /// Octets; 0: none.
    pub spill: u64,
    pub keep: Duration,
    /// Octets; 0: no bound.
    pub size: u64,
    pub envelope_to: bool,
}

/// `[explain]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Explain {
    pub enabled: bool,
    pub keep: Duration,
    /// Octets.
    pub size: u64,
}

/// `[reports]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Reports {
    pub enabled: bool,
    pub from: Option<Mailbox>,
    pub organization: Option<String>,
    pub contact: Option<String>,
    pub format: Format,
    pub private_addresses: PrivateAddresses,
    pub dkim_key: OneOrMore<PathBuf>,
    pub dkim_selector: OneOrMore<Domain>,
    pub bounce_domain: Option<Domain>,
    pub relay: Option<ServerAddress>,
    pub relay_tls: UpstreamTls,
    pub relay_ca: Option<PathBuf>,
    pub relay_user: Option<String>,
    pub relay_password_file: Option<PathBuf>,
    pub window: Duration,
    pub honor_ri: bool,
    pub rate: u32,
    pub daily_cap: u32,
    pub deny: Vec<Denied>,
    pub reputation: Reputation,
    pub dry_run: Option<PathBuf>,
    pub keep: Duration,
    pub inbound: Inbound,
    pub failure: FailureReports,
}

/// `[reports.inbound]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Inbound {
    pub addresses: Vec<Mailbox>,
    pub senders: Senders,
    /// Octets.
    pub message_size: u64,
    pub keep: Duration,
    pub rows: u32,
}

/// `[reports.failure]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct FailureReports {
    pub enabled: bool,
    pub content: Extent,
    pub canonicalized: Canonicalized,
    pub redact: bool,
    pub per_domain_per_hour: u32,
    pub per_address_per_hour: u32,
    pub per_destination_per_hour: u32,
    pub per_hour: u32,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
    pub modules: Vec<ModuleLevel>,
    pub personal_data: PersonalData,
}

label_enum! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

label_enum! {
    /// The least important log lines that are written.
    pub enum LogLevel {
        /// Faults of ours.
        Error = "error",
        /// And what is degraded but served.
        Warn = "warn",
        /// And one line a message.
        Info = "info",
        /// And peers' faults.
        Debug = "debug",
        /// And everything else.
        Trace = "trace",
    }
}

/// A configuration with where each value comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Each key with its value, in the order of the reference.
    pub lines: Vec<Line>,
    /// The line of the file that each key in it is on, by its path.
    pub places: BTreeMap<String, usize>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The operator's: everything that is wrong.
    pub fn load(path: &Path) -> Result<Loaded, Error> {
        let octets = fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        let invalid = |problems| Error::Invalid { path: path.to_owned(), problems };
        let text = String::from_utf8(octets).map_err(|error| invalid(vec![not_utf8(&error)]))?;
        Self::parse(&text).map_err(invalid)
    }

    /// Reads and checks a file's text.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text; at least one problem.
    pub fn parse(text: &str) -> Result<Loaded, Vec<Problem>> {
        let document = document::Document::parse(text)?;
        let config = file::read(&document);
        check::check(&config, &document);
        let places = document.places();
        let (lines, problems) = document.finish(file::TABLES);
        if problems.is_empty() { Ok(Loaded { config, lines, places }) } else { Err(problems) }
    }

    /// What holds where nothing is set, for commands that connect to no upstream: the one in it is that of
    /// [`REFERENCE`].
    #[expect(clippy::expect_used, reason = "the defaults are valid, as tests show")]
    pub fn built_in() -> Self {
        let upstream = "[upstream]\nservers = [\"127.0.0.1:10025\"]\n";
        // A system without a host name that is a domain name needs one; with it both texts are valid, whatever the
        // system.
        let named = || Self::parse(&format!("hostname = \"localhost\"\n{upstream}"));
        Self::parse(upstream).or_else(|_| named()).expect("the defaults are valid").config
    }

    /// What holds at one listener: its own tables in place of the general ones.
    pub fn at(&self, listener: &Listener) -> Self {
        let mut config = self.clone();
        config.policy = listener.policy.clone().unwrap_or(config.policy);
        config.bypass = listener.bypass.clone().unwrap_or(config.bypass);
        config.smtp.recipient_domains = listener.recipient_domains.clone().unwrap_or(config.smtp.recipient_domains);
        config
    }

    /// What is allowed, but probably not meant; one line each.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(self)
    }
}

/// Where a file stops being text.
fn not_utf8(error: &FromUtf8Error) -> Problem {
    let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
    Problem {
        line: Some(before.filter(|octet| **octet == b'\n').count() + 1),
        key: String::new(),
        message: "not UTF-8: expected a text in that encoding, comments included".to_owned(),
    }
}

impl Loaded {
    /// What is found wrong with a key later on, behind the name of the file and, if it stands there, its line.
    pub fn placed(&self, path: &Path, key: &str, fault: &dyn fmt::Display) -> String {
        let line = self.places.get(key).map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line}: {fault}", path.display())
    }

    /// The effective configuration as TOML, each value that isn't in the file marked with where it comes from. What
    /// holds because it holds in general is a comment; tables that have nothing else are left out.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let place = |line: &Line| (line.table, line.outer, line.instance);
        for lines in self.lines.chunk_by(|a, b| place(a) == place(b)) {
            // That there is a shadow says something, even if it is as what it stands beside.
            let is_shadow = lines.iter().any(|line| line.table == file::SHADOW);
            if !is_shadow && lines.iter().all(|line| matches!(line.origin, Origin::General(_))) {
                continue;
            }
            for (number, line) in lines.iter().enumerate() {
                // Writing to a string can't fail.
                let _ = match line.table {
                    _ if number > 0 => Ok(()),
                    "" => Ok(()),
                    table if file::is_repeated(table) => writeln!(text, "\n[[{table}]]"),
                    table => writeln!(text, "\n[{table}]"),
                };
                let _ = match (&line.value, line.origin) {
                    (Some(value), Origin::File) => writeln!(text, "{} = {value}", line.key),
                    (Some(value), Origin::Default) => writeln!(text, "{} = {value}  # default", line.key),
                    (Some(value), Origin::General(table)) => {
                        writeln!(text, "# {} = {value}, as in [{table}]", line.key)
                    }
                    (None, _) => writeln!(text, "# {} is not set", line.key),
                };
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
