//! How often failures are reported, and how many stand behind a report (RFC 9991 §2 and §8.1): the owner is to see what
//! kinds of failure there are, not each one.

use std::collections::HashMap;
use std::hash::Hash;

use crate::domain::Domain;
use crate::report::recipient::Address;

/// What a limit allows in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Failures under one policy domain that are reported.
    pub per_domain: u32,
    /// Reports to one address, whatever they are about.
    pub per_address: u32,
}

/// What was reported of late, and what was held back since.
#[derive(Debug, Default)]
pub struct RateLimit {
    domains: HashMap<Domain, Window>,
    addresses: HashMap<Address, Window>,
    /// Failures that an address was not told of, by policy domain.
    untold: HashMap<(Domain, Address), u64>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: i64,
    passed: u32,
    held_back: u64,
}

impl RateLimit {
    /// Whether a failure under `domain` is reported at `now` (epoch seconds): then for how many failures it stands, itself
    /// among them. If not, it is counted for the next.
    pub fn admit(&mut self, rates: Rates, domain: &Domain, now: i64) -> Option<u64> {
        let window = window(&mut self.domains, domain, now)?;
        if !window.passes(rates.per_domain) {
            return None;
        }
        Some(std::mem::take(&mut window.held_back).saturating_add(1))
    }

    /// Whether a report that stands for so many failures under `domain` may go to `address`: then for how many it stands
    /// there, with what was held back from that address before.
    pub fn admit_to(
        &mut self,
        rates: Rates,
        (domain, incidents): (&Domain, u64),
        address: &Address,
        now: i64,
    ) -> Option<u64> {
        let passes = window(&mut self.addresses, address, now).is_some_and(|w| w.passes(rates.per_address));
        let key = (domain.clone(), address.clone());
        if passes {
            return Some(self.untold.remove(&key).unwrap_or_default().saturating_add(incidents));
        }
        if self.untold.len() < MAX_WINDOWS || self.untold.contains_key(&key) {
            let untold = self.untold.entry(key).or_default();
            *untold = untold.saturating_add(incidents);
        }
        None
    }
}

/// The window of a key; none if there are too many: whoever makes us remember so many gets nothing told.
fn window<'a, K: Clone + Eq + Hash>(windows: &'a mut HashMap<K, Window>, key: &K, now: i64) -> Option<&'a mut Window> {
    let is_over = |window: &Window| now < window.began || now - window.began >= HOUR;
    if windows.len() >= MAX_WINDOWS && !windows.contains_key(key) {
        windows.retain(|_, window| !is_over(window));
        if windows.len() >= MAX_WINDOWS {
            return None;
        }
    }
    let window = windows.entry(key.clone()).or_insert(Window { began: now, passed: 0, held_back: 0 });
    if is_over(window) {
        (window.began, window.passed) = (now, 0);
    }
    Some(window)
}

impl Window {
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

    #[test]
    fn what_is_held_back_is_told_by_the_next() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_domain: 2, per_address: 9 };
        let mut admit = |name: &str, now| limit.admit(rates, &domain(name), now);
        assert_eq!([0, 1, 2, 3].map(|now| admit("a.example", now)), [Some(1), Some(1), None, None]);
        assert_eq!(admit("b.example", 3), Some(1), "another domain");
        assert_eq!([3599, 3600, 3601, 3602].map(|now| admit("a.example", now)), [None, Some(4), Some(1), None]);
        assert_eq!(admit("a.example", 10), Some(2), "a clock that was set back holds nobody up");
    }

    #[test]
    fn an_address_of_many_domains_is_spared() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_domain: 9, per_address: 2 };
        let mut admit = |name: &str, to: &str, now| limit.admit_to(rates, (&domain(name), 3), &address(to), now);
        assert_eq!(admit("a.example", "f@c.example", 0), Some(3));
        assert_eq!(admit("b.example", "f@c.example", 1), Some(3));
        assert_eq!(admit("a.example", "f@c.example", 2), None);
        assert_eq!(admit("a.example", "g@c.example", 2), Some(3), "another address");
        assert_eq!(admit("a.example", "f@c.example", 3), None);
        assert_eq!(admit("a.example", "f@c.example", 3600), Some(9));
        assert_eq!(admit("b.example", "f@c.example", 3600), Some(3), "nothing was held back of this one");
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let mut limit = RateLimit::default();
        let rates = Rates { per_domain: 1, per_address: 1 };
        for place in 0..MAX_WINDOWS {
            assert_eq!(limit.admit(rates, &domain(&format!("x{place}.example")), 0), Some(1));
        }
        assert_eq!(limit.admit(rates, &domain("y.example"), 1), None);
        assert_eq!(limit.admit(rates, &domain("x1.example"), 1), None, "a known one has its window");
        assert_eq!(limit.admit(rates, &domain("y.example"), HOUR), Some(1), "those of an hour ago are forgotten");
        assert_eq!(limit.domains.len(), 1);
    }
}
