//! Everything that was found out about the servers, as one value.

use std::net::SocketAddr;

use serde::Serialize;

use super::advice::{BLINDNESS, IPV6_REMEDY, remedies, withheld};
use super::bounces::Bounces;
use super::look::Look;
use crate::config::{AuthOffer, Config, Identity, ListenerTls};
use crate::explain::escape::escaped;
use crate::label::Label;
use crate::smtp::extension::{Capabilities, Offer, Terms};
use crate::smtp::reply::Reply;
use crate::upstream::connection::{OpenError, Sight};
use crate::upstream::probe::{RelayTest, STRANGER, STRANGER_BY_IPV6, offered_to_gate, relays, stranger};
use crate::upstream::security::Security;
use crate::upstream::{Blind, Settings, open_within};

/// All of it. Texts of peers are escaped.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Whether every server takes mail as it is configured, and bounces of reports come back.
    pub well: bool,
    pub identity: &'static str,
    pub servers: Vec<Server>,
    /// What clients are offered with all of these servers, as the EHLO list has it; empty if none answers.
    pub offered: Vec<String>,
    /// Whether bounces of reports come back; none without `reports.bounce_domain`.
    pub bounces: Option<Bounces>,
}

/// One server.
#[derive(Debug, Serialize)]
pub struct Server {
    pub server: String,
    pub addresses: Vec<SocketAddr>,
    pub connected: Option<SocketAddr>,
    pub greeting: Option<String>,
    /// The lines of its EHLO reply without their code.
    pub ehlo: Vec<String>,
    /// What the gate understood of them.
    pub understood: Vec<String>,
    /// What clients are offered because of it, were it the only server.
    pub offered: Vec<Extension>,
    pub not_offered: Vec<Extension>,
    pub tls: String,
    pub handover: HandOver,
    pub relaying: &'static str,
    /// What it gets wrong since it can't see the client.
    pub consequences: Vec<&'static str>,
    /// What would let it see the client.
    pub remedies: Vec<String>,
    /// What keeps the gate from using it as configured.
    pub problems: Vec<String>,
    /// What keeps it from serving clients that may never come.
    pub warnings: Vec<String>,
}

/// An extension, and why clients are offered it or not.
#[derive(Debug, Serialize)]
pub struct Extension {
    pub extension: String,
    pub why: &'static str,
}

/// How the client was handed over.
#[derive(Debug, Serialize)]
pub struct HandOver {
    /// The attributes of XCLIENT that the server announces to the gate.
    pub xclient: Option<Vec<String>>,
    /// Whether the server sees the client; none if that could not be found out.
    pub sees_the_client: Option<bool>,
    pub outcome: String,
}

/// What came of opening a connection as sessions do.
struct Opened {
    capabilities: Option<Capabilities>,
    handover: HandOver,
    relaying: &'static str,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Facts {
    /// Tries every server, one after the other.
    pub async fn find(config: &Config, security: Security) -> Self {
        let settings = &config.upstream(security);
        let terms = Terms {
            size: config.limits.message_size,
            hidden: &config.smtp.hide_extensions,
            starttls: config.listeners.iter().any(|listener| listener.tls == ListenerTls::StartTls),
            auth: config.auth_offer() != AuthOffer::Never,
        };
        let mut servers = Vec::new();
        let mut common: Option<Capabilities> = None;
        for name in &settings.servers {
            let look = Look::take(name, settings).await;
            let opened = Opened::find(name, &look, settings, config).await;
            common = match (common, &opened.capabilities) {
                (Some(others), Some(found)) => Some(others.intersection(found)),
                (others, found) => others.or_else(|| found.clone()),
            };
            let tls = config.upstream.tls.as_str();
            servers.push(Server::new(name, look, opened, settings, (terms, tls)));
        }
        let offered = common.map_or_else(Vec::new, |common| offer(&common, terms));
        let greeting = servers.iter().find_map(|server| server.greeting.as_deref()).unwrap_or_default();
        let bounces = match &config.reports.bounce_domain {
            Some(domain) => Some(Bounces::find(config, domain, greeting).await),
            None => None,
        };
        let well = servers.iter().all(|server| server.problems.is_empty())
            && bounces.iter().all(|bounces| bounces.problems.is_empty());
        Self { well, identity: settings.identity.as_str(), servers, offered, bounces }
    }

    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl Opened {
    /// Opens a connection as sessions do, and asks for relaying as the probes do.
    async fn find(name: &str, look: &Look, settings: &Settings, config: &Config) -> Self {
        let announced = look.ehlo.as_ref().filter(|reply| reply.is_positive()).map(Capabilities::read);
        let xclient = announced.as_ref().and_then(|found| found.xclient.as_ref());
        let mut opened = Self {
            handover: HandOver {
                xclient: xclient.map(|all| all.iter().map(|word| escaped(word.as_bytes())).collect()),
                sees_the_client: None,
                outcome: "not tried".to_owned(),
            },
            capabilities: None,
            relaying: "not asked",
            problems: look.trouble.iter().map(|trouble| escaped(trouble.as_bytes())).collect(),
            warnings: Vec::new(),
        };
        if look.trouble.is_none() {
            opened.hand_over(name, settings, config.relay_test()).await;
            let has_ipv6 = config.listeners.iter().any(|listener| listener.address.is_ipv6());
            if has_ipv6 && opened.handover.sees_the_client == Some(true) {
                opened.hand_over_by_ipv6(name, settings).await;
            }
        }
        opened
    }

    async fn hand_over(&mut self, name: &str, settings: &Settings, relay_test: RelayTest) {
        match open_within(settings.timeouts.open, settings, name, &stranger(STRANGER)).await {
            Ok(mut connection) => {
                self.capabilities = Some(connection.capabilities().clone());
                self.relaying = match (connection.sight(), relay_test) {
                    (Sight::Gate, _) => "not asked: it can't tell a stranger from the gate",
                    (_, RelayTest::Skip) => "skipped: smtp.recipient_domains = [\"*\"] says that it guards itself",
                    _ => match relays(&mut connection, settings).await {
                        Some(false) => "refused, as it should be",
                        Some(true) => "OPEN RELAY: it takes a stranger's mail for a foreign domain",
                        None => "left open: it neither took nor refused a stranger's mail for a foreign domain",
                    },
                };
                if self.relaying.starts_with("OPEN") {
                    self.problems.push("it relays for strangers to foreign domains".to_owned());
                }
                self.seen(connection.sight(), settings);
                connection.quit().await;
            }
            Err(OpenError::ClientRefused(reply, announced)) => {
                let to_gate = offered_to_gate(settings.timeouts.open, settings, name).await;
                self.capabilities = to_gate.ok().flatten().or(announced);
                let words = escaped(reply.summary().as_bytes());
                if self.capabilities.is_none() {
                    self.handover.outcome = format!("failed: it refuses everybody: {words}");
                    self.problems.push(format!("sessions can't use it, or it can't read PROXY headers: {words}"));
                    return;
                }
                self.handover.sees_the_client = Some(true);
                self.relaying = "not asked: it refuses the client 192.0.2.1 altogether, as it may";
                self.handover.outcome = format!("the server sees the client and refuses it: {words}");
            }
            Err(error) => {
                let cause = escaped(error.to_string().as_bytes());
                self.handover.outcome = format!("failed: {cause}");
                self.problems.push(format!("sessions can't use it: {cause}"));
                if settings.identity == Identity::Xclient {
                    self.handover.sees_the_client = Some(false);
                }
            }
        }
    }

    /// Whether a client over IPv6 can be handed over as well. That it is refused is another matter.
    async fn hand_over_by_ipv6(&mut self, name: &str, settings: &Settings) {
        match open_within(settings.timeouts.open, settings, name, &stranger(STRANGER_BY_IPV6)).await {
            Ok(connection) => connection.quit().await,
            // Postfix greets a client with 421 whose PROXY header it does not take.
            Err(OpenError::ClientRefused(reply, _)) if reply.code() != 421 => {}
            Err(error) => {
                let cause = escaped(error.to_string().as_bytes());
                self.warnings.push(format!("clients over IPv6 can't be handed over: {cause}; {IPV6_REMEDY}"));
            }
        }
    }

    fn seen(&mut self, sight: Sight, settings: &Settings) {
        self.handover.sees_the_client = Some(sight == Sight::Client);
        let outcome = match (sight, settings.identity) {
            (Sight::Client, Identity::ProxyV1 | Identity::ProxyV2) => {
                "the server took the PROXY header and sees the client"
            }
            (Sight::Client, _) => "the server took XCLIENT and sees the client",
            (Sight::Gate, Identity::Auto) => "XCLIENT ADDR is not announced to this gate: it can't see the client",
            (Sight::Gate, _) => "none, as configured: it can't see the client",
        };
        outcome.clone_into(&mut self.handover.outcome);
        if sight == Sight::Gate && settings.blind == Blind::Refused {
            let problem = "all mail is deferred: it can't see the client, and smtp.recipient_domains is not set";
            self.problems.push(problem.to_owned());
        }
    }
}

impl Server {
    fn new(name: &str, look: Look, opened: Opened, settings: &Settings, (terms, tls): (Terms<'_>, &str)) -> Self {
        let Opened { capabilities, handover, relaying, problems, warnings } = opened;
        let greeting = look.greeting.as_ref().map(|reply| escaped(reply.summary().as_bytes()));
        let ehlo: Vec<_> = look.ehlo.iter().flat_map(Reply::texts).map(escaped).collect();
        let keywords: Vec<_> = ehlo.iter().skip(1).filter_map(|line| line.split(' ').next()).collect();
        let is_announced = |keyword: &str| keywords.iter().any(|found| found.eq_ignore_ascii_case(keyword));
        let offered = capabilities.as_ref().map_or_else(Vec::new, |found| offer(found, terms));
        let is_offered = |keyword: &str| {
            offered.iter().any(|line| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
        };
        let known = capabilities.as_ref().map_or_else(Vec::new, |_| offer(&everything(), terms));
        let lacking = known.iter().filter_map(|line| line.split(' ').next()).filter(|keyword| !is_offered(keyword));
        let lacking = lacking.filter(|keyword| !is_announced(keyword));
        let lacking = lacking.map(|keyword| (keyword, "the server does not announce it"));
        let hidden = keywords.iter().filter(|keyword| capabilities.is_some() && !is_offered(keyword));
        let hidden = hidden.map(|keyword| (*keyword, withheld(&keyword.to_ascii_uppercase())));
        let not_offered = hidden.chain(lacking);
        let not_offered: Vec<_> =
            not_offered.map(|(keyword, why)| Extension { extension: keyword.to_owned(), why }).collect();
        let why = |line: &str| match line.split(' ').next() {
            Some(keyword) if is_announced(keyword) => "both sides know it",
            _ => "the gate does it by itself",
        };
        let tls = match is_announced("STARTTLS") {
            _ if matches!(settings.security, Security::Implicit(_)) => {
                format!("from the first octet; upstream.tls is \"{tls}\"")
            }
            true => format!("STARTTLS is announced; upstream.tls is \"{tls}\""),
            false => format!("STARTTLS is not announced; upstream.tls is \"{tls}\""),
        };
        let blind = handover.sees_the_client == Some(false);
        let gate = look.ends.map(|(_, own)| own.ip());
        let remedies =
            if blind { remedies(greeting.as_deref().unwrap_or(""), settings.identity, gate) } else { vec![] };
        Self {
            server: name.to_owned(),
            addresses: look.addresses,
            connected: look.ends.map(|(peer, _)| peer),
            understood: understood(look.ehlo.as_ref()),
            offered: offered.iter().map(|line| Extension { extension: line.clone(), why: why(line) }).collect(),
            not_offered,
            tls,
            handover,
            relaying,
            consequences: if blind { BLINDNESS.to_vec() } else { Vec::new() },
            remedies,
            problems,
            warnings,
            greeting,
            ehlo,
        }
    }
}

/// The EHLO list of the gate in front of these capabilities.
fn offer(capabilities: &Capabilities, terms: Terms<'_>) -> Vec<String> {
    Offer::new(capabilities, terms).reply("").texts().skip(1).map(escaped).collect()
}

/// A server that announces all that the gate may carry through.
fn everything() -> Capabilities {
    Capabilities::read(&Reply::lines(250, std::iter::once("all").chain(CARRIED)))
}

/// What the gate has use for in an EHLO reply.
fn understood(reply: Option<&Reply>) -> Vec<String> {
    let Some(reply) = reply.filter(|reply| reply.is_positive()) else { return Vec::new() };
    let found = Capabilities::read(reply);
    let flags = [
        ("8BITMIME", found.eight_bit_mime),
        ("ENHANCEDSTATUSCODES", found.enhanced_status_codes),
        ("PIPELINING", found.pipelining),
        ("SMTPUTF8", found.smtp_utf8),
        ("DSN", found.dsn),
        ("CHUNKING", found.chunking),
        ("STARTTLS", found.starttls),
    ];
    let size = found.size.map(|size| if size == 0 { "SIZE".to_owned() } else { format!("SIZE {size}") });
    let flags = flags.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name.to_owned());
    let xclient = found.xclient.map(|attributes| escaped(format!("XCLIENT {}", attributes.join(" ")).as_bytes()));
    let auth = Some(found.auth).filter(|mechanisms| !mechanisms.is_empty());
    let auth = auth.map(|mechanisms| escaped(format!("AUTH {}", mechanisms.join(" ")).as_bytes()));
    size.into_iter().chain(flags).chain(auth).chain(xclient).collect()
}

/// Extensions that need both sides.
const CARRIED: [&str; 7] =
    ["8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "DSN", "CHUNKING", "PIPELINING", "AUTH PLAIN LOGIN"];
