//! How often failures are reported, and how many a report stands for (RFC 9991 §2 and §8.1): the owner is to see what
//! kinds of failure there are, not each one.
//!
//! Forgers own domains, too, with any number of subdomains and addresses, each with a record. So domains are counted by
//! [`organization`], and a limit for the hour applies to all reports together.

use std::collections::HashMap;
use std::hash::Hash;

use crate::dmarc::public_suffix::List;
use crate::domain::Domain;
use crate::label_enum;
use crate::report::recipient::Address;

/// What a limit allows in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Failures under policy domains of one organization that are reported.
    pub per_domain: u32,
    /// Reports to one address, whatever they are about.
    pub per_address: u32,
    /// Reports to all addresses of one organization.
    pub per_destination: u32,
    /// Reports to all addresses there are.
    pub overall: u32,
}

label_enum! {
    /// Whose share of the hour is used up.
    pub enum Share {
        /// The address's.
        Address = "address",
        /// That of all addresses of its organization.
        Destination = "destination",
        /// That of all reports.
        Overall = "overall",
    }
}

impl Share {
    /// As a note in the log says it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Address => "the address has had its share of the hour",
            Self::Destination => "the organization of the address has had its share of the hour",
            Self::Overall => "all reports of the hour have gone out",
        }
    }
}

/// The name under which a domain is counted: the organizational domain that the tree walk found, cut to the registered
/// domain by the list. The walk alone is not enough: with `psd=n` in its record any subdomain says that it is an
/// organization.
pub fn organization(list: &List, domain: &Domain, walked: Option<&Domain>) -> Domain {
    list.organizational_domain(walked.unwrap_or(domain))
}

/// What was reported of late, and what was held back since.
#[derive(Debug, Default)]
pub struct RateLimit {
    domains: HashMap<Domain, Window>,
    addresses: HashMap<Address, Window>,
    destinations: HashMap<Domain, Window>,
    overall: Option<Window>,
    /// Failures that an address was not told of, by organization.
    untold: HashMap<(Domain, Address), u64>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: i64,
    passed: u32,
    held_back: u64,
}

impl RateLimit {
    /// Whether a failure of the organization `domain` is reported at `now` (epoch seconds): then for how many failures
    /// it stands, itself among them. If not, it is counted for the next.
    pub fn admit(&mut self, rates: Rates, domain: &Domain, now: i64) -> Option<u64> {
        let window = window(&mut self.domains, domain, now)?;
        if !window.passes(rates.per_domain) {
            return None;
        }
        Some(std::mem::take(&mut window.held_back).saturating_add(1))
    }

    /// Whether a report that stands for so many failures of an organization may go to `address`, which is of the
    /// organization `destination`: then for how many it stands there, with what was held back from that address before.
    ///
    /// # Errors
    ///
    /// Whose share is used up; then nothing is taken from any share.
    pub fn admit_to(
        &mut self,
        rates: Rates,
        (domain, incidents): (&Domain, u64),
        (address, destination): (&Address, &Domain),
        now: i64,
    ) -> Result<u64, Share> {
        let key = (domain.clone(), address.clone());
        match self.shares(rates, (address, destination), now) {
            Ok(shares) => {
                shares.into_iter().for_each(|window| window.passed += 1);
                Ok(self.untold.remove(&key).unwrap_or_default().saturating_add(incidents))
            }
            Err(share) => {
                if self.untold.len() < MAX_WINDOWS || self.untold.contains_key(&key) {
                    let untold = self.untold.entry(key).or_default();
                    *untold = untold.saturating_add(incidents);
                }
                Err(share)
            }
        }
    }

    /// The windows that a report takes from, if all have room.
    fn shares(
        &mut self,
        rates: Rates,
        (address, destination): (&Address, &Domain),
        now: i64,
    ) -> Result<[&mut Window; 3], Share> {
        let room = |window: &&mut Window, most: u32| window.passed < most;
        let overall = self.overall.get_or_insert(Window::new(now));
        overall.turn(now);
        let overall = Some(overall).filter(|w| room(w, rates.overall)).ok_or(Share::Overall)?;
        let destination = window(&mut self.destinations, destination, now);
        let destination = destination.filter(|w| room(w, rates.per_destination)).ok_or(Share::Destination)?;
        let address = window(&mut self.addresses, address, now);
        let address = address.filter(|w| room(w, rates.per_address)).ok_or(Share::Address)?;
        Ok([overall, destination, address])
    }
}

/// The window of a key; none if there are too many: then nothing is reported.
fn window<'a, K: Clone + Eq + Hash>(windows: &'a mut HashMap<K, Window>, key: &K, now: i64) -> Option<&'a mut Window> {
    if windows.len() >= MAX_WINDOWS && !windows.contains_key(key) {
        windows.retain(|_, window| !window.is_over(now));
        if windows.len() >= MAX_WINDOWS {
            return None;
        }
    }
    let window = windows.entry(key.clone()).or_insert(Window::new(now));
    window.turn(now);
    Some(window)
}

impl Window {
    fn new(now: i64) -> Self {
        Self { began: now, passed: 0, held_back: 0 }
    }

    fn is_over(&self, now: i64) -> bool {
        now < self.began || now - self.began >= HOUR
    }

    /// Begins another hour if this one is over.
    fn turn(&mut self, now: i64) {
        if self.is_over(now) {
            (self.began, self.passed) = (now, 0);
        }
    }

    fn passes(&mut self, most: u32) -> bool {
        let passes = self.passed < most;
        match passes {
            true => self.passed += 1,
            false => self.held_back = self.held_back.saturating_add(1),
        }
        passes
    }
}

/// Seconds of a window.
const HOUR: i64 = 3600;
/// Domains, addresses, and pairs of them that are remembered.
const MAX_WINDOWS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    const RATES: Rates = Rates { per_domain: 9, per_address: 9, per_destination: 9, overall: 99 };

    #[test]
    fn subdomains_are_no_organizations_of_their_own() {
        let list = List::default();
        for (name, walked, expected) in [
            ("z1.w.example", None, "w.example"),
            ("z1.w.example", Some("z1.w.example"), "w.example"),
            ("a.b.co.uk", Some("a.b.co.uk"), "b.co.uk"),
            ("a.b.github.io", None, "b.github.io"),
            ("a.b.github.io", Some("github.io"), "github.io"),
        ] {
            let found = organization(&list, &domain(name), walked.map(domain).as_ref());
            assert_eq!(found.as_str(), expected, "{name} {walked:?}");
        }
    }

    #[test]
    fn what_is_held_back_is_told_by_the_next() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_domain: 2, ..RATES };
        let mut admit = |name: &str, now| limit.admit(rates, &domain(name), now);
        assert_eq!([0, 1, 2, 3].map(|now| admit("a.example", now)), [Some(1), Some(1), None, None]);
        assert_eq!(admit("b.example", 3), Some(1), "another domain");
        assert_eq!([3599, 3600, 3601, 3602].map(|now| admit("a.example", now)), [None, Some(4), Some(1), None]);
        assert_eq!(admit("a.example", 10), Some(2), "a clock that was set back holds nobody up");
    }

    #[test]
    fn an_address_of_many_domains_is_spared() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_address: 2, ..RATES };
        let mut admit = |name: &str, to: &str, now| {
            limit.admit_to(rates, (&domain(name), 3), (&address(to), &domain("c.example")), now).ok()
        };
        assert_eq!(admit("a.example", "f@c.example", 0), Some(3));
        assert_eq!(admit("b.example", "f@c.example", 1), Some(3));
        assert_eq!(admit("a.example", "f@c.example", 2), None);
        assert_eq!(admit("a.example", "g@c.example", 2), Some(3), "another address");
        assert_eq!(admit("a.example", "f@c.example", 3), None);
        assert_eq!(admit("a.example", "f@c.example", 3600), Some(9));
        assert_eq!(admit("b.example", "f@c.example", 3600), Some(3), "nothing was held back of this one");
    }

    #[test]
    fn fresh_addresses_and_fresh_hosts_have_shares_in_common() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_destination: 3, overall: 5, ..RATES };
        let about = domain("a.example");
        let mut admit = |place: usize, host: &str, now| {
            let to = address(&format!("x{place}@mx{place}.{host}"));
            limit.admit_to(rates, (&about, 1), (&to, &domain(host)), now)
        };
        let of_one = [0, 1, 2, 3].map(|place| admit(place, "b.example", 0));
        assert_eq!(of_one, [Ok(1), Ok(1), Ok(1), Err(Share::Destination)]);
        let of_many = ["c.example", "d.example", "e.example"].map(|host| admit(4, host, 1));
        assert_eq!(of_many, [Ok(1), Ok(1), Err(Share::Overall)], "what was refused took nothing");
        assert_eq!(admit(3, "b.example", HOUR), Ok(2), "with what was held back from it");
        assert_eq!(admit(5, "b.example", 10), Ok(1), "a clock that was set back holds nobody up");
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_domain: 1, ..RATES };
        for place in 0..MAX_WINDOWS {
            assert_eq!(limit.admit(rates, &domain(&format!("x{place}.example")), 0), Some(1));
        }
        assert_eq!(limit.admit(rates, &domain("y.example"), 1), None);
        assert_eq!(limit.admit(rates, &domain("x1.example"), 1), None, "a known one has its window");
        assert_eq!(limit.admit(rates, &domain("y.example"), HOUR), Some(1), "those of an hour ago are forgotten");
        assert_eq!(limit.domains.len(), 1);
    }
}
