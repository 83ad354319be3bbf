//! Finds forwarders in the recorded rows: identities that are verified steadily while mail of many author domains fails
//! DMARC through them.
//!
//! An identity is the `d=` of a signature that passes, or an SPF domain that passes, where neither is aligned. A
//! spammer who signs forged mail with a domain of their own looks the same; what distinguishes them is time, the number
//! of policy domains and what the upstream did with their mail. So there are thresholds for all of these, and nothing
//! is suggested that the upstream mostly refused, or never saw. Pure. The caller has the rows and prints the result.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::calendar::Date;
use crate::domain::Domain;
use crate::policy::overrides::Criteria;
use crate::record::FinalReply;

/// Messages of one day that are alike in everything that counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Days since the epoch, UTC.
    pub day: i64,
    /// The client.
    pub source_ip: IpAddr,
    /// Where the policy was found; none where none applied. Stands for the author domain: who owns one domain can write
    /// from any below it.
    pub policy_domain: Option<Domain>,
    /// Whether neither DKIM nor SPF gave an aligned pass.
    pub is_unaligned: bool,
    /// The identities that were looked at, and whether they passed. One that is named twice counts once.
    pub identities: Vec<(Identity, bool)>,
    /// How end-of-data was answered, and by whom.
    pub reply: FinalReply,
    /// How many.
    pub messages: u64,
}

/// Who may be a forwarder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// `d=` of a signature.
    Dkim(Domain),
    /// The SPF domain.
    Spf(Domain),
}

/// What makes a forwarder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Policy domains whose mail fails through it.
    pub domains: usize,
    /// Days on which it did.
    pub days: usize,
    /// Failing messages.
    pub messages: u64,
    /// The share of its mail that the upstream accepts, of what the upstream saw.
    pub accepted: f64,
    /// The share of messages that name the identity in which it passes.
    pub steady: f64,
}

/// A forwarder that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// Who.
    pub identity: Identity,
    /// Where its failing mail comes from; empty if it comes from too many places to be named.
    pub networks: Vec<IpNet>,
    /// Policy domains whose mail fails through it.
    pub domains: usize,
    /// Messages that fail.
    pub failed: u64,
    /// All messages in which the identity passes.
    pub messages: u64,
    /// Of the failing ones those that the upstream accepted.
    pub accepted: u64,
    /// Of the failing ones those that the upstream refused; what the gate refused is in neither.
    pub refused: u64,
    /// Days on which mail failed.
    pub days: usize,
    /// The last of them, since the epoch.
    pub last_day: i64,
}

/// What was observed of all identities.
#[derive(Debug, Default)]
pub struct Observations {
    found: BTreeMap<Identity, Found>,
    /// Whether there were more identities than are kept.
    is_cut: bool,
}

/// What was observed of one.
#[derive(Debug, Default)]
struct Found {
    domains: BTreeSet<Domain>,
    days: BTreeSet<i64>,
    /// Failing messages by client.
    clients: BTreeMap<IpAddr, u64>,
    passed: u64,
    not_passed: u64,
    failed: u64,
    failed_accepted: u64,
    failed_refused: u64,
    accepted: u64,
    refused: u64,
    /// Failing messages in which another identity passed, too.
    beside: BTreeMap<Identity, u64>,
}

impl Observations {
    /// Adds what was observed.
    pub fn add(&mut self, observation: &Observation) {
        let mut identities: BTreeMap<&Identity, bool> = BTreeMap::new();
        for (identity, passed) in observation.identities.iter().take(MAX_IDENTITIES_OF_ONE) {
            *identities.entry(identity).or_default() |= passed;
        }
        let passing: Vec<&Identity> = identities.iter().filter(|(_, passed)| **passed).map(|(who, _)| *who).collect();
        for (identity, passed) in identities {
            if self.found.len() >= MAX_IDENTITIES && !self.found.contains_key(identity) {
                self.is_cut = true;
                continue;
            }
            let found = self.found.entry(identity.clone()).or_default();
            if passed {
                found.add(observation);
                found.add_beside(&passing, identity, observation);
            } else {
                found.not_passed += observation.messages;
            }
        }
    }

    /// Whether there was more than is kept.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The forwarders, those whose failing mail the upstream accepts most first, then those with most policy domains.
    /// Left out is what one of `granted` fits already, or what comes from `trusted` networks alone; of two identities
    /// of the same mail the second is.
    pub fn suggest(&self, thresholds: &Thresholds, granted: &[Criteria], trusted: &[IpNet]) -> Vec<Suggestion> {
        let mut candidates: Vec<Suggestion> = self
            .found
            .iter()
            .filter(|(_, found)| found.meets(thresholds))
            .map(|(identity, found)| (found, found.suggestion(identity)))
            .filter(|(found, suggestion)| !found.is_granted(suggestion, granted, trusted))
            .map(|(_, suggestion)| suggestion)
            .collect();
        candidates.sort_by(|a, b| {
            let share = |s: &Suggestion| s.accepted_share().unwrap_or_default();
            let order = share(b).total_cmp(&share(a)).then(b.domains.cmp(&a.domains));
            order.then(b.failed.cmp(&a.failed)).then(a.identity.cmp(&b.identity))
        });
        let mut kept: Vec<Suggestion> = Vec::new();
        for candidate in candidates {
            let is_same = |other: &Suggestion| self.share_of_mail(&candidate.identity, &other.identity) >= SAME_MAIL;
            if !kept.iter().any(is_same) {
                kept.push(candidate);
            }
        }
        kept
    }

    /// The share of the failing mail of one in which the other passes, too.
    fn share_of_mail(&self, one: &Identity, other: &Identity) -> f64 {
        let Some(found) = self.found.get(one) else { return 0.0 };
        share(found.beside.get(other).copied().unwrap_or_default(), found.failed).unwrap_or_default()
    }
}

impl Found {
    fn add(&mut self, observation: &Observation) {
        let messages = observation.messages;
        self.passed += messages;
        match observation.reply {
            FinalReply::Accepted => self.accepted += messages,
            FinalReply::RefusedByUpstream => self.refused += messages,
            FinalReply::RefusedByGate => {}
        }
        let (true, Some(domain)) = (observation.is_unaligned, &observation.policy_domain) else { return };
        self.failed += messages;
        match observation.reply {
            FinalReply::Accepted => self.failed_accepted += messages,
            FinalReply::RefusedByUpstream => self.failed_refused += messages,
            FinalReply::RefusedByGate => {}
        }
        self.days.insert(observation.day);
        if self.domains.len() < MAX_DOMAINS {
            self.domains.insert(domain.clone());
        }
        if self.clients.len() < MAX_CLIENTS || self.clients.contains_key(&observation.source_ip) {
            *self.clients.entry(observation.source_ip).or_default() += messages;
        }
    }

    fn add_beside(&mut self, passing: &[&Identity], own: &Identity, observation: &Observation) {
        if !observation.is_unaligned || observation.policy_domain.is_none() {
            return;
        }
        for other in passing.iter().filter(|other| **other != own) {
            if self.beside.len() < MAX_BESIDE || self.beside.contains_key(*other) {
                *self.beside.entry((*other).clone()).or_default() += observation.messages;
            }
        }
    }

    fn meets(&self, thresholds: &Thresholds) -> bool {
        // Where the gate refuses what fails, the upstream's replies to the rest of that mail have to do.
        let failed = (self.failed_accepted, self.failed_refused);
        let (accepted, refused) =
            if failed.0 + failed.1 >= FEWEST_REPLIES { failed } else { (self.accepted, self.refused) };
        self.domains.len() >= thresholds.domains
            && self.days.len() >= thresholds.days
            && self.failed >= thresholds.messages
            && accepted + refused >= FEWEST_REPLIES
            && share(accepted, accepted + refused).is_some_and(|share| share >= thresholds.accepted)
            && share(self.passed, self.passed + self.not_passed).is_some_and(|share| share >= thresholds.steady)
    }

    fn suggestion(&self, identity: &Identity) -> Suggestion {
        Suggestion {
            identity: identity.clone(),
            networks: self.networks(),
            domains: self.domains.len(),
            failed: self.failed,
            messages: self.passed,
            accepted: self.failed_accepted,
            refused: self.failed_refused,
            days: self.days.len(),
            last_day: self.days.last().copied().unwrap_or_default(),
        }
    }

    /// Whether it, or another identity of the same mail, is granted.
    fn is_granted(&self, suggestion: &Suggestion, granted: &[Criteria], trusted: &[IpNet]) -> bool {
        let networks = &suggestion.networks;
        let is_trusted = |network: &IpNet| trusted.iter().any(|wider| wider.contains(network));
        let same = self.beside.iter().filter(|(_, messages)| share(**messages, self.failed) >= Some(SAME_MAIL));
        let mut identities = same.map(|(identity, _)| identity).chain([&suggestion.identity]);
        let is_covered = |identity: &Identity| granted.iter().any(|g| g.cover(&identity.criteria(networks)));
        (!networks.is_empty() && networks.iter().all(is_trusted)) || identities.any(is_covered)
    }

    /// The networks of nearly all of the mail, if they are few: single addresses, or what several share.
    fn networks(&self) -> Vec<IpNet> {
        let mut networks: BTreeMap<IpNet, (BTreeSet<IpAddr>, u64)> = BTreeMap::new();
        for (ip, messages) in &self.clients {
            let (clients, sum) = networks.entry(network(*ip)).or_default();
            clients.insert(*ip);
            *sum += messages;
        }
        let mut largest_first: Vec<_> = networks.into_iter().collect();
        largest_first.sort_by(|a, b| b.1.1.cmp(&a.1.1).then(a.0.cmp(&b.0)));
        let (mut named, mut covered) = (Vec::new(), 0);
        for (network, (clients, messages)) in largest_first {
            if share(covered, self.failed).is_some_and(|share| share >= NEARLY_ALL) {
                break;
            }
            if named.len() == MAX_NETWORKS {
                return Vec::new();
            }
            covered += messages;
            named.push(match (clients.len(), clients.first()) {
                (1, Some(ip)) => IpNet::from(*ip),
                _ => network,
            });
        }
        // Clients beyond those that are kept are in no network.
        let is_covered = share(covered, self.failed).is_some_and(|share| share >= NEARLY_ALL);
        named.sort();
        if is_covered { named } else { Vec::new() }
    }
}

impl Suggestion {
    /// The share of the failing mail that the upstream accepted; none if it has seen none of it.
    pub fn accepted_share(&self) -> Option<f64> {
        share(self.accepted, self.accepted + self.refused)
    }

    /// The share of the identity's mail that failed.
    pub fn failed_share(&self) -> f64 {
        share(self.failed, self.messages).unwrap_or_default()
    }

    /// The override as it stands in a configuration.
    pub fn to_toml(&self) -> String {
        let networks: Vec<String> = self.networks.iter().map(|network| format!("\"{network}\"")).collect();
        let networks =
            if networks.is_empty() { String::new() } else { format!("network = [{}]\n", networks.join(", ")) };
        let (key, domain) = self.identity.parts();
        format!(
            "[[policy.override]]\n{networks}{key} = [\"{domain}\"]\naction = \"pass\"\nnote = \"forwarder: {} messages \
             of {} domains failed until {}\"\nreason = \"trusted_forwarder\"\n",
            self.failed,
            self.domains,
            Date::of_day(self.last_day),
        )
    }
}

impl Identity {
    /// What an override would match on: the identity, and the networks if they can be named.
    fn criteria(&self, networks: &[IpNet]) -> Criteria {
        let mut criteria = Criteria { networks: networks.to_vec(), ..Criteria::default() };
        match self {
            Self::Dkim(domain) => criteria.dkim_domains.push(domain.clone()),
            Self::Spf(domain) => criteria.spf_domains.push(domain.clone()),
        }
        criteria
    }

    /// The key of an override, and its value.
    pub fn parts(&self) -> (&'static str, &Domain) {
        match self {
            Self::Dkim(domain) => ("dkim", domain),
            Self::Spf(domain) => ("spf", domain),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { domains: 5, days: 3, messages: 20, accepted: 0.8, steady: 0.95 }
    }
}

/// What usually belongs to one operator: /24 and /64.
fn network(ip: IpAddr) -> IpNet {
    let length = if ip.is_ipv4() { 24 } else { 64 };
    IpNet::new(ip, length).map_or_else(|_| IpNet::from(ip), |network| network.trunc())
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Identities that are kept; what a month of a large site has. A flood of throw-away domains fills that and no more.
const MAX_IDENTITIES: usize = 200_000;
/// Identities of one message that are looked at: real forwarders are among the first.
const MAX_IDENTITIES_OF_ONE: usize = 12;
/// Policy domains that are counted of one identity; beyond that one has many.
const MAX_DOMAINS: usize = 10_000;
/// Clients of one identity that are told apart.
const MAX_CLIENTS: usize = 1_000;
/// Other identities of the same mail that are told apart.
const MAX_BESIDE: usize = 32;
/// Networks that a suggestion names; one with more names none.
const MAX_NETWORKS: usize = 8;
/// Replies of the upstream needed to tell its opinion.
const FEWEST_REPLIES: u64 = 5;
/// The share of mail that the named networks have to be the source of.
const NEARLY_ALL: f64 = 0.95;
/// The share of mail in common from which on two identities are one forwarder's.
const SAME_MAIL: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn dkim(text: &str) -> Identity {
        Identity::Dkim(domain(text))
    }

    fn spf(text: &str) -> Identity {
        Identity::Spf(domain(text))
    }

    /// Mail of one author domain through a list on one day.
    fn listed(day: i64, author: &str) -> Observation {
        Observation {
            day,
            source_ip: [203, 0, 113, 7].into(),
            policy_domain: Some(domain(author)),
            is_unaligned: true,
            identities: vec![(dkim("lists.example"), true), (dkim(author), false), (spf("bounce.lists.example"), true)],
            reply: FinalReply::Accepted,
            messages: 2,
        }
    }

    /// Six author domains on each of four days: 48 messages.
    fn a_list() -> Vec<Observation> {
        let authors = (0..6).map(|n| format!("author{n}.example"));
        authors.flat_map(|author| (100..104).map(move |day| listed(day, &author))).collect()
    }

    fn suggested(observations: &[Observation]) -> Vec<String> {
        suggested_beside(observations, &[], &[])
    }

    fn suggested_beside(observations: &[Observation], granted: &[Criteria], trusted: &[IpNet]) -> Vec<String> {
        let mut all = Observations::default();
        observations.iter().for_each(|observation| all.add(observation));
        let suggestions = all.suggest(&Thresholds::default(), granted, trusted);
        suggestions.iter().map(|s| format!("{}={}", s.identity.parts().0, s.identity.parts().1)).collect()
    }

    #[test]
    fn a_list_is_suggested_once_with_its_numbers() {
        let mut all = Observations::default();
        a_list().iter().for_each(|observation| all.add(observation));
        // Mail of its own, which does not fail.
        all.add(&Observation { is_unaligned: false, messages: 48, ..listed(100, "lists.example") });
        let suggestions = all.suggest(&Thresholds::default(), &[], &[]);
        let expected = Suggestion {
            identity: dkim("lists.example"),
            networks: vec!["203.0.113.7/32".parse().unwrap()],
            domains: 6,
            failed: 48,
            messages: 96,
            accepted: 48,
            refused: 0,
            days: 4,
            last_day: 103,
        };
        assert_eq!(suggestions, [expected], "the SPF domain stands for the same mail");
        assert_eq!((suggestions[0].failed_share(), suggestions[0].accepted_share()), (0.5, Some(1.0)));
        assert_eq!(
            suggestions[0].to_toml(),
            "[[policy.override]]\nnetwork = [\"203.0.113.7/32\"]\ndkim = [\"lists.example\"]\naction = \"pass\"\nnote = \
             \"forwarder: 48 messages of 6 domains failed until 1970-04-14\"\nreason = \"trusted_forwarder\"\n"
        );
    }

    #[test]
    fn what_is_no_forwarder_is_not_suggested() {
        type Change<'a> = &'a dyn Fn(usize, &mut Observation);
        let cases: &[(&str, Change<'_>)] = &[
            ("four author domains", &|n, o| o.policy_domain = Some(domain(&format!("author{}.example", n % 4)))),
            ("two days", &|_, o| o.day = 100 + o.day % 2),
            ("a day's spam run", &|_, o| (o.day, o.messages) = (100, 1000)),
            ("few messages", &|n, o| o.messages = u64::from(n < 10)),
            ("the upstream refuses half", &|n, o| {
                o.reply = if n % 2 == 0 { FinalReply::Accepted } else { FinalReply::RefusedByUpstream };
            }),
            ("the upstream refuses all", &|_, o| o.reply = FinalReply::RefusedByUpstream),
            ("the upstream has seen nothing", &|_, o| o.reply = FinalReply::RefusedByGate),
            ("no identity passes", &|_, o| o.identities.iter_mut().for_each(|(_, passed)| *passed = false)),
            ("they pass now and then", &|n, o| o.identities.iter_mut().for_each(|i| i.1 &= n % 2 == 0)),
            ("aligned", &|_, o| o.is_unaligned = false),
            ("no policy", &|_, o| o.policy_domain = None),
        ];
        assert_eq!(suggested(&a_list()), ["dkim=lists.example"]);
        for (name, change) in cases {
            let mut observations = a_list();
            observations.iter_mut().enumerate().for_each(|(n, observation)| change(n, observation));
            assert_eq!(suggested(&observations), [] as [&str; 0], "{name}");
        }
    }

    #[test]
    fn where_the_gate_refuses_all_that_fails_the_rest_of_the_mail_speaks() {
        let mut observations = a_list();
        observations.iter_mut().for_each(|o| o.reply = FinalReply::RefusedByGate);
        let own = Observation { is_unaligned: false, messages: 40, ..listed(100, "lists.example") };
        observations.push(own.clone());
        assert_eq!(suggested(&observations), ["dkim=lists.example"]);
        observations.pop();
        observations.push(Observation { reply: FinalReply::RefusedByUpstream, ..own });
        assert_eq!(suggested(&observations), [] as [&str; 0]);
    }

    #[test]
    fn what_is_granted_already_is_left_out() {
        let network = |text: &str| text.parse::<IpNet>().unwrap();
        let networks = |text: &str| Criteria { networks: vec![network(text)], ..Criteria::default() };
        let signer = |text: &str| Criteria { dkim_domains: vec![domain(text)], ..Criteria::default() };
        let narrow = Criteria { author_domains: vec![domain("author1.example")], ..signer("lists.example") };
        let cases: &[(&str, Vec<Criteria>, Vec<IpNet>, bool)] = &[
            ("its signer", vec![signer("lists.example")], vec![], false),
            ("a domain above it", vec![signer("example")], vec![], false),
            ("another signer", vec![signer("other.example")], vec![], true),
            ("its network", vec![networks("203.0.113.0/24")], vec![], false),
            ("another network", vec![networks("198.51.100.0/24")], vec![], true),
            ("one author domain of its", vec![narrow], vec![], true),
            ("a trusted network", vec![], vec![network("203.0.113.0/24")], false),
            ("another trusted network", vec![], vec![network("203.0.113.8/32")], true),
        ];
        for (name, granted, trusted, is_suggested) in cases {
            let found = suggested_beside(&a_list(), granted, trusted);
            assert_eq!(!found.is_empty(), *is_suggested, "{name}: {found:?}");
        }
    }

    #[test]
    fn networks_are_named_if_few_are_the_source_of_nearly_all() {
        let from = |ips: &[[u8; 4]]| {
            let mut all = Observations::default();
            let mut ips = ips.iter().cycle();
            for observation in a_list() {
                all.add(&Observation { source_ip: (*ips.next().unwrap()).into(), ..observation });
            }
            let networks = all.suggest(&Thresholds::default(), &[], &[])[0].networks.clone();
            networks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(from(&[[203, 0, 113, 1]]), ["203.0.113.1/32"]);
        assert_eq!(from(&[[203, 0, 113, 1], [203, 0, 113, 9]]), ["203.0.113.0/24"]);
        assert_eq!(from(&[[203, 0, 113, 1], [198, 51, 100, 1]]), ["198.51.100.1/32", "203.0.113.1/32"]);
        let many: Vec<[u8; 4]> = (0..12).map(|n| [10, n, 0, 1]).collect();
        assert_eq!(from(&many), [] as [&str; 0]);
    }

    #[test]
    fn the_most_accepted_comes_first_and_two_forwarders_are_two() {
        let mut observations = a_list();
        for (n, observation) in a_list().into_iter().enumerate() {
            let reply = if n % 10 == 0 { FinalReply::RefusedByUpstream } else { FinalReply::Accepted };
            let identities = vec![(spf("srs.alumni.example"), true)];
            observations.push(Observation { source_ip: [192, 0, 2, 1].into(), reply, identities, ..observation });
        }
        assert_eq!(suggested(&observations), ["dkim=lists.example", "spf=srs.alumni.example"]);
    }
}
