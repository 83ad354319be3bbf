//! Remembers since when mail of one sender and author domain has been deferred for temporary DNS failures.
//!
//! A domain whose records stay broken must not be cut off for ever: `policy.defer_at_most` says how long its mail is
//! put off. Of each network and author domain the first deferral is kept, until a message of theirs is not in doubt or
//! none comes for so long that nobody is trying any more. Bounded, and of this process alone: after a restart, and with
//! each gate of a fleet, the time begins anew.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use moka::future::Cache;

use crate::domain::Domain;
use crate::envelope::sender_network;
use crate::evaluation::DmarcOutput;
use crate::policy::{Assessment, Disposition, Rule};

/// The deferrals that go on.
pub struct Doubts(Cache<(IpNet, Domain), Instant>);

impl Default for Doubts {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_idle(FORGOTTEN_AFTER).build())
    }
}

impl Doubts {
    /// For each author domain, how long its mail from this client has been deferred; none where the last was not.
    pub async fn last(&self, client: IpAddr, dmarc: &[DmarcOutput], now: Instant) -> Vec<Option<Duration>> {
        let network = sender_network(client);
        let mut times = Vec::with_capacity(dmarc.len());
        for output in dmarc {
            let since = self.0.get(&(network, output.author_domain.clone())).await;
            times.push(since.map(|since| now.saturating_duration_since(since)));
        }
        times
    }

    /// Notes what became of a message: where it is deferred the time begins or goes on, where it is settled it ends.
    pub async fn note(&self, client: IpAddr, dmarc: &[DmarcOutput], assessments: &[Assessment], now: Instant) {
        let network = sender_network(client);
        for (output, assessment) in dmarc.iter().zip(assessments) {
            let key = (network, output.author_domain.clone());
            let is_known = self.0.contains_key(&key);
            if assessment.disposition == Disposition::Defer {
                if !is_known {
                    self.0.insert(key, now).await;
                }
            } else if is_known && assessment.rule != Rule::LastingDoubt {
                self.0.invalidate(&key).await;
            }
        }
    }
}

/// Networks and author domains that are remembered: some ten megabytes.
const MAX_ENTRIES: u64 = 50_000;
/// Senders try again at least every few hours (RFC 5321 §4.5.4.1).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(12 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{DmarcResult, sample};
    use crate::policy::ReportDisposition;

    fn output(author: &str) -> DmarcOutput {
        sample::dmarc(author, DmarcResult::TempError)
    }

    fn assessment(disposition: Disposition, rule: Rule) -> Assessment {
        Assessment {
            policy: None,
            disposition,
            rule,
            reported: ReportDisposition::None,
            overrides: Vec::new(),
            voucher: None,
            overridden_by: None,
        }
    }

    #[tokio::test]
    async fn the_time_runs_from_the_first_deferral_to_the_first_message_that_is_settled() {
        let doubts = Doubts::default();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lasts = |seconds| vec![Some(Duration::from_secs(seconds))];
        let a = [output("a.example")];
        let deferred = [assessment(Disposition::Defer, Rule::IdentifierDoubt)];
        assert_eq!(doubts.last(ip, &a, at(0)).await, [None]);
        doubts.note(ip, &a, &deferred, at(0)).await;
        doubts.note(ip, &a, &deferred, at(5)).await;
        assert_eq!(doubts.last(ip, &a, at(10)).await, lasts(10));
        assert_eq!(doubts.last("192.0.2.200".parse().unwrap(), &a, at(10)).await, lasts(10), "a neighbour");
        assert_eq!(doubts.last("198.51.100.1".parse().unwrap(), &a, at(10)).await, [None], "a stranger");
        assert_eq!(doubts.last(ip, &[output("b.example"), output("a.example")], at(10)).await, [None, lasts(10)[0]]);

        let marked = [assessment(Disposition::Accept, Rule::LastingDoubt)];
        doubts.note(ip, &a, &marked, at(11)).await;
        assert_eq!(doubts.last(ip, &a, at(12)).await, lasts(12), "that it is deferred no more does not end it");
        doubts.note(ip, &a, &[assessment(Disposition::Accept, Rule::Pass)], at(13)).await;
        assert_eq!(doubts.last(ip, &a, at(14)).await, [None], "it was settled in between");
    }
}
