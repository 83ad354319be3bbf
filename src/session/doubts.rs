//! Remembers since when mail of one sender and author domain has been deferred for temporary DNS failures.
//!
//! A domain whose records stay broken must not be cut off for ever: `policy.defer_at_most` says how long its mail is put
//! off. Of each network and author domain the first deferral is kept, until a message of theirs is not in doubt or none
//! comes for so long that nobody is trying any more. Bounded, and of this process alone: after a restart, and with each
//! gate of a fleet, the time begins anew.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use moka::future::Cache;

use crate::domain::Domain;
use crate::evaluation::{DmarcOutput, Doubt};

/// The deferrals that go on.
pub struct Doubts(Cache<(IpNet, Domain), Instant>);

impl Default for Doubts {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_idle(FORGOTTEN_AFTER).build())
    }
}

impl Doubts {
    /// How long mail of this client has been deferred for each author domain that is in doubt now: the shortest time, and
    /// none if one of them is new or none is in doubt. What is settled by now is forgotten.
    pub async fn last(&self, client: IpAddr, dmarc: &[DmarcOutput], now: Instant) -> Option<Duration> {
        let network = network(client);
        let (mut shortest, mut is_new) = (None::<Duration>, false);
        for output in dmarc {
            let key = (network, output.author_domain.clone());
            if !is_lasting(output) {
                if self.0.contains_key(&key) {
                    self.0.invalidate(&key).await;
                }
                continue;
            }
            match self.0.get(&key).await {
                Some(since) => {
                    let lasted = now.saturating_duration_since(since);
                    shortest = Some(shortest.map_or(lasted, |shortest| shortest.min(lasted)));
                }
                None => is_new = true,
            }
        }
        shortest.filter(|_| !is_new)
    }

    /// Notes that a message was deferred for what is in doubt.
    pub async fn deferred(&self, client: IpAddr, dmarc: &[DmarcOutput], now: Instant) {
        let network = network(client);
        for output in dmarc.iter().filter(|output| is_lasting(output)) {
            let key = (network, output.author_domain.clone());
            if !self.0.contains_key(&key) {
                self.0.insert(key, now).await;
            }
        }
    }
}

/// Whether it is DNS that left the result open: our own bounds are ours to mend, and whoever fills them must not profit.
fn is_lasting(output: &DmarcOutput) -> bool {
    output.doubt.is_some_and(|doubt| doubt != Doubt::OwnLimits)
}

/// The network of a sender, whose hosts take turns in trying again.
fn network(client: IpAddr) -> IpNet {
    let prefix = if client.is_ipv4() { 24 } else { 48 };
    IpNet::new(client, prefix).map_or_else(|_| client.into(), |network| network.trunc())
}

/// Networks and author domains that are remembered: some ten megabytes.
const MAX_ENTRIES: u64 = 50_000;
/// Senders try again at least every few hours (RFC 5321 §4.5.4.1).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(12 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmarc::alignment::{Alignment, DmarcResult};

    fn output(author: &str, doubt: Option<Doubt>) -> DmarcOutput {
        DmarcOutput {
            author_domain: Domain::parse(author).unwrap(),
            organizational_domain: None,
            result: DmarcResult::TempError,
            doubt,
            reason: "",
            policy: None,
            spf_alignment: Alignment::Unaligned,
            dkim_alignment: Vec::new(),
            spf_aligned: false,
            dkim_aligned: false,
        }
    }

    #[tokio::test]
    async fn the_time_runs_from_the_first_deferral_to_the_first_message_without_doubt() {
        let doubts = Doubts::default();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let broken = [output("a.example", Some(Doubt::Identifier))];
        assert_eq!(doubts.last(ip, &broken, at(0)).await, None);
        doubts.deferred(ip, &broken, at(0)).await;
        doubts.deferred(ip, &broken, at(5)).await;
        assert_eq!(doubts.last(ip, &broken, at(10)).await, Some(Duration::from_secs(10)));
        let neighbour = "192.0.2.200".parse().unwrap();
        assert_eq!(doubts.last(neighbour, &broken, at(10)).await, Some(Duration::from_secs(10)));
        let stranger = "198.51.100.1".parse().unwrap();
        assert_eq!(doubts.last(stranger, &broken, at(10)).await, None);

        let two = [output("a.example", Some(Doubt::Identifier)), output("b.example", Some(Doubt::PolicyDiscovery))];
        assert_eq!(doubts.last(ip, &two, at(10)).await, None, "one of them is new");
        doubts.deferred(ip, &[output("c.example", Some(Doubt::OwnLimits))], at(0)).await;
        assert_eq!(doubts.last(ip, &[output("c.example", Some(Doubt::OwnLimits))], at(10)).await, None);

        assert_eq!(doubts.last(ip, &[output("a.example", None)], at(11)).await, None);
        assert_eq!(doubts.last(ip, &broken, at(12)).await, None, "it was settled in between");
    }
}
