//! Reverse names of addresses, and the name that a client can prove.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::domain::Domain;

use super::{Answer, Failure, Lookup, Miss, RecordType};

/// The outcome of iprev (RFC 8601 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfirmedName {
    /// The address's name, which has the address.
    Confirmed(Domain),
    /// The address has no name, or none that has the address; the first one that it claims.
    None(Option<Domain>),
    /// DNS gave no answer that would decide it; the first name that the address claims, if that is known.
    TempError(Option<Domain>),
}

impl ConfirmedName {
    /// The name, if it is confirmed.
    pub fn confirmed(self) -> Option<Domain> {
        match self {
            Self::Confirmed(name) => Some(name),
            Self::None(_) | Self::TempError(_) => None,
        }
    }
}

/// The name under which DNS keeps the names of an address (RFC 1035 §3.5, RFC 3596 §2.5); IPv4-mapped addresses are
/// unmapped.
pub fn reverse_name(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let mut name = String::with_capacity(72);
            for octet in ip.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            }
            name.push_str("ip6.arpa");
            name
        }
    }
}

/// Looks for the first name of `ip` that has `ip` among its addresses (forward-confirmed reverse DNS). Takes one
/// question and one for each of the first few names.
pub async fn confirmed_name(lookup: &impl Lookup, ip: IpAddr) -> ConfirmedName {
    match claimed_names(lookup, ip).await {
        Ok(names) => confirm(lookup, ip, names).await,
        Err(_) => ConfirmedName::TempError(None),
    }
}

/// The same within `limit`; what the address claims is kept when the rest takes longer.
pub async fn confirmed_name_within(limit: Duration, lookup: &impl Lookup, ip: IpAddr) -> ConfirmedName {
    let deadline = Instant::now() + limit;
    let Ok(Ok(names)) = timeout_at(deadline, claimed_names(lookup, ip)).await else {
        return ConfirmedName::TempError(None);
    };
    let first = names.first().cloned();
    timeout_at(deadline, confirm(lookup, ip, names)).await.unwrap_or(ConfirmedName::TempError(first))
}

/// The first names of `ip`, as its PTR records have them.
async fn claimed_names(lookup: &impl Lookup, ip: IpAddr) -> Result<Vec<Domain>, Failure> {
    let answer = lookup.ask(&reverse_name(ip), RecordType::Ptr).await;
    match &answer.outcome {
        Ok(records) => {
            Ok(records.as_ptr().iter().filter_map(|name| Domain::parse(name).ok()).take(MAX_NAMES).collect())
        }
        Err(Miss::Failed(failure)) => Err(*failure),
        Err(_) => Ok(Vec::new()),
    }
}

/// Which of the names that `ip` claims has it.
async fn confirm(lookup: &impl Lookup, ip: IpAddr, names: Vec<Domain>) -> ConfirmedName {
    let (ip, first) = (ip.to_canonical(), names.first().cloned());
    let mut doubt = false;
    for name in names {
        match has_address(lookup, name.as_str(), ip).await {
            Ok(true) => return ConfirmedName::Confirmed(name),
            Ok(false) => {}
            Err(_) => doubt = true,
        }
    }
    if doubt { ConfirmedName::TempError(first) } else { ConfirmedName::None(first) }
}

/// Whether `name` has the address `ip`; a missing name has none.
pub(crate) async fn has_address(lookup: &impl Lookup, name: &str, ip: IpAddr) -> Result<bool, Failure> {
    let answer = ask_addresses(lookup, name, ip).await;
    match &answer.outcome {
        Ok(records) => Ok(records.contains_address(ip)),
        Err(Miss::Failed(failure)) => Err(*failure),
        Err(_) => Ok(false),
    }
}

/// The addresses of `name` in the family of `ip`.
pub(crate) async fn ask_addresses(lookup: &impl Lookup, name: &str, ip: IpAddr) -> Answer {
    lookup.ask(name, address_type(ip)).await
}

/// The type of the records that hold addresses in the family of `ip`.
pub(crate) fn address_type(ip: IpAddr) -> RecordType {
    if ip.is_ipv4() { RecordType::A } else { RecordType::Aaaa }
}

/// Names of a client that are tried: a client with more is a web host, and its first names are as good as any.
const MAX_NAMES: usize = 5;

#[cfg(test)]
mod tests {
    use super::super::zone::Zone;
    use super::*;

    #[test]
    fn addresses_have_reverse_names() {
        let cases = [
            ("192.0.2.3", "3.2.0.192.in-addr.arpa"),
            ("::ffff:192.0.2.3", "3.2.0.192.in-addr.arpa"),
            ("2001:db8::cb01", "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"),
        ];
        for (ip, expected) in cases {
            assert_eq!(reverse_name(ip.parse().unwrap()), expected);
        }
    }

    #[tokio::test]
    async fn a_name_counts_only_if_it_has_the_address() {
        let ip = "192.0.2.3".parse().unwrap();
        let reverse = reverse_name(ip);
        let six = "2001:db8::3".parse().unwrap();
        let claimed = |name: &str| Domain::parse(name).ok();
        let cases = [
            ("no name", Zone::new(), ip, ConfirmedName::None(None)),
            (
                "the second name has the address",
                Zone::new()
                    .ptr(&reverse, &["other.example", "mail.example"])
                    .a("other.example", &["192.0.2.4"])
                    .a("mail.example", &["192.0.2.9", "192.0.2.3"]),
                ip,
                ConfirmedName::Confirmed(Domain::parse("mail.example").unwrap()),
            ),
            (
                "claimed only",
                Zone::new().ptr(&reverse, &["bank.example", "other.example"]).a("bank.example", &["192.0.2.4"]),
                ip,
                ConfirmedName::None(claimed("bank.example")),
            ),
            ("not a host name", Zone::new().ptr(&reverse, &["a b.example"]), ip, ConfirmedName::None(None)),
            (
                "reverse fails",
                Zone::new().fail(&reverse, RecordType::Ptr, Failure::Timeout),
                ip,
                ConfirmedName::TempError(None),
            ),
            (
                "forward fails",
                Zone::new().ptr(&reverse, &["mail.example"]).fail("mail.example", RecordType::A, Failure::ServFail),
                ip,
                ConfirmedName::TempError(claimed("mail.example")),
            ),
            (
                "over IPv6",
                Zone::new().ptr(&reverse_name(six), &["mail.example"]).aaaa("mail.example", &["2001:db8::3"]),
                six,
                ConfirmedName::Confirmed(Domain::parse("mail.example").unwrap()),
            ),
        ];
        for (case, zone, ip, expected) in cases {
            assert_eq!(confirmed_name(&zone, ip).await, expected, "{case}");
            assert_eq!(confirmed_name_within(Duration::from_secs(60), &zone, ip).await, expected, "{case}");
        }
    }

    #[tokio::test]
    async fn the_names_that_are_tried_are_few() {
        let ip = "192.0.2.3".parse().unwrap();
        let names = (0..100).map(|n| format!("n{n}.example")).collect::<Vec<_>>();
        let names = names.iter().map(String::as_str).collect::<Vec<_>>();
        let zone = Zone::new().ptr(&reverse_name(ip), &names);
        assert_eq!(confirmed_name(&zone, ip).await, ConfirmedName::None(Domain::parse("n0.example").ok()));
        assert_eq!(zone.asked().len(), 1 + MAX_NAMES);
    }
}
