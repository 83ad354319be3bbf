//! Whether bounces of reports find their way back to the gate: where the MX records of their domain lead, and what the
//! mail server needs for those that it makes itself.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde::Serialize;

use super::advice::transport;
use crate::cli::lookup::facts::addresses_of;
use crate::cli::lookup::mx::{self, Exchangers};
use crate::config::Config;
use crate::dns::{self, Lookup, RecordType, Resolver};
use crate::domain::Domain;
use crate::evaluation::gather::within;
use crate::metrics::Registry;

/// What was found of `reports.bounce_domain`. Texts of peers are escaped.
#[derive(Debug, Serialize)]
pub struct Bounces {
    pub domain: String,
    /// Where others bring its mail, the preferred first.
    pub exchangers: Vec<Exchanger>,
    /// What that comes to.
    pub outcome: &'static str,
    /// What to write where.
    pub advice: Vec<String>,
    /// What keeps every bounce away.
    pub problems: Vec<String>,
}

/// One host that others bring mail to.
#[derive(Debug, Serialize)]
pub struct Exchanger {
    pub name: String,
    pub addresses: Vec<String>,
    pub leads: &'static str,
}

/// The gate, as far as DNS can lead to it.
struct Gate<'a> {
    hostname: &'a str,
    listeners: Vec<SocketAddr>,
    /// Whether an address is of this machine.
    is_local: fn(IpAddr) -> bool,
}

impl Bounces {
    /// Asks DNS where mail for `domain` goes. `greeting` is that of the first mail server.
    pub async fn find(config: &Config, domain: &Domain, greeting: &str) -> Self {
        let gate = Gate {
            hostname: config.hostname.as_str(),
            listeners: config.listeners.iter().map(|listener| listener.address).collect(),
            is_local,
        };
        let found = match Resolver::new(config.resolver(), dns::Metrics::new(&Registry::new())) {
            Ok(resolver) => {
                let lookup = resolver.for_message(None);
                within(PATIENCE, &lookup, exchangers(&lookup, domain)).await
            }
            Err(_) => None,
        };
        let mut bounces = judge(domain, found.as_ref(), &gate);
        bounces.advice.extend(transport(greeting, domain.as_str()));
        bounces
    }
}

/// The exchangers; without MX records the domain itself is one (RFC 5321 §5.1).
async fn exchangers(lookup: &impl Lookup, domain: &Domain) -> Exchangers {
    let mut found = mx::find(lookup, domain).await;
    if found.said == "nodata" {
        let name = domain.as_str();
        let (four, six) = tokio::join!(lookup.ask(name, RecordType::A), lookup.ask(name, RecordType::Aaaa));
        let addresses = addresses_of(&four, &six);
        if !addresses.is_empty() {
            found.said = "records";
            found.exchangers.push(mx::Exchanger { preference: 0, name: name.to_owned(), addresses, failed: false });
        }
    }
    found
}

/// What the answers come to; none: DNS could not be asked.
fn judge(domain: &Domain, found: Option<&Exchangers>, gate: &Gate<'_>) -> Bounces {
    let exchangers: Vec<_> = found.iter().flat_map(|found| &found.exchangers).map(|one| exchanger(one, gate)).collect();
    let leads = |words: &str| exchangers.iter().any(|exchanger| exchanger.leads == words);
    let (outcome, problem) = match found.map(|found| (found.said, found.is_null)) {
        _ if leads(BY_NAME) || leads(BY_ADDRESS) => ("others bring them to this gate", None),
        Some(("records", false)) if leads(UNHEARD) => (
            "others bring them to this machine, where no listener of the gate has port 25",
            Some("nothing that the gate has listens where they come"),
        ),
        Some(("records", false)) if exchangers.iter().any(|exchanger| !exchanger.addresses.is_empty()) => (
            "others bring them elsewhere: right if another gate on this store stands there, or a balancer before it; else \
             none comes back",
            None,
        ),
        Some((_, true)) => ("none comes back", Some("the domain says that it takes no mail (null MX)")),
        Some(("records", _)) => ("none comes back", Some("no exchanger of it has an address")),
        Some(("nodata" | "nxdomain", _)) => ("none comes back", Some("it has neither MX records nor an address")),
        _ => ("not known", Some("DNS did not say where its mail goes")),
    };
    let mut advice = Vec::new();
    if !(leads(BY_NAME) || leads(BY_ADDRESS)) {
        advice.push(format!("DNS: {domain}. MX 10 {}.", gate.hostname));
    }
    Bounces {
        domain: domain.to_string(),
        outcome,
        advice,
        problems: problem.into_iter().map(|problem| format!("bounces to {domain}: {problem}")).collect(),
        exchangers,
    }
}

fn exchanger(found: &mx::Exchanger, gate: &Gate<'_>) -> Exchanger {
    let addresses = found.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
    let local: Vec<_> = addresses.filter(|address| (gate.is_local)(*address)).collect();
    let is_heard = |address: &IpAddr| {
        let hears = |listener: &SocketAddr| {
            let ip = listener.ip();
            let takes_all = ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4());
            listener.port() == SMTP_PORT && (ip == *address || takes_all)
        };
        gate.listeners.iter().any(hears)
    };
    let leads = if local.iter().any(is_heard) {
        BY_ADDRESS
    } else if found.name.trim_end_matches('.').eq_ignore_ascii_case(gate.hostname) {
        BY_NAME
    } else if !local.is_empty() {
        UNHEARD
    } else {
        "elsewhere"
    };
    Exchanger { name: found.name.clone(), addresses: found.addresses.clone(), leads }
}

/// Only an address of its own can be bound. No packet is sent.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

const BY_NAME: &str = "here: it is the gate's name";
const BY_ADDRESS: &str = "here: a listener has the address";
const UNHEARD: &str = "to this machine, but no listener has port 25 there";
/// Where servers bring mail.
const SMTP_PORT: u16 = 25;
/// How long DNS may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::Zone;

    fn gate(listeners: &[&str]) -> Gate<'static> {
        let listeners = listeners.iter().map(|listener| listener.parse().unwrap()).collect();
        Gate { hostname: "mx.gate.example", listeners, is_local: |address| address == IpAddr::from([192, 0, 2, 1]) }
    }

    async fn judged(zone: &Zone, listeners: &[&str]) -> Bounces {
        let domain = Domain::parse("b.gate.example").unwrap();
        judge(&domain, Some(&exchangers(zone, &domain).await), &gate(listeners))
    }

    #[tokio::test]
    async fn where_the_records_lead() {
        let all = &["0.0.0.0:25", "[::]:25"][..];
        let to = |name: &str, address: &str| Zone::new().mx("b.gate.example", &[(10, name)]).a(name, &[address]);
        let cases = [
            ("its name", to("mx.gate.example", "198.51.100.1"), all, "to this gate", true),
            ("its address", to("other.example", "192.0.2.1"), all, "to this gate", true),
            ("its very address", to("other.example", "192.0.2.1"), &["192.0.2.1:25"][..], "to this gate", true),
            ("another listener", to("other.example", "192.0.2.1"), &["192.0.2.9:25"][..], "to this machine", false),
            ("another port", to("other.example", "192.0.2.1"), &["0.0.0.0:2525"][..], "to this machine", false),
            ("IPv6 alone", to("other.example", "192.0.2.1"), &["[2001:db8::1]:25"][..], "to this machine", false),
            ("elsewhere", to("lb.example", "198.51.100.1"), all, "elsewhere", true),
            ("no MX", Zone::new().a("b.gate.example", &["192.0.2.1"]), all, "to this gate", true),
            ("no address", Zone::new().mx("b.gate.example", &[(10, "mx.other.example")]), all, "none", false),
            ("null MX", Zone::new().mx("b.gate.example", &[(0, "")]), all, "none", false),
            ("nothing", Zone::new(), all, "none", false),
            (
                "DNS fails",
                Zone::new().fail("b.gate.example", RecordType::Mx, dns::Failure::ServFail),
                all,
                "not known",
                false,
            ),
        ];
        for (name, zone, listeners, outcome, is_well) in cases {
            let found = judged(&zone, listeners).await;
            assert!(found.outcome.contains(outcome), "{name}: {found:?}");
            assert_eq!(found.problems.is_empty(), is_well, "{name}: {found:?}");
            assert_eq!(found.advice.is_empty(), outcome == "to this gate", "{name}: {found:?}");
        }
    }

    #[test]
    fn addresses_of_this_machine_are_known() {
        assert!(is_local([127, 0, 0, 1].into()));
        assert!(!is_local([192, 0, 2, 77].into()));
    }
}
