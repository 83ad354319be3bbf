//! What reports of others come to, by domain and source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::envelope::network;
use crate::explain::escape::escaped;
use crate::record::{AlignmentOutcome, ReportDisposition};
use crate::store::inbound::{Reporting, Source};

/// All that was reported.
pub struct Summary {
    domains: BTreeMap<String, OfDomain>,
    reporters: BTreeSet<String>,
    by_network: bool,
}

/// What was reported on one policy domain.
#[derive(Default)]
struct OfDomain {
    policies: BTreeSet<String>,
    reports: u64,
    last_end: i64,
    whole: Tally,
    sources: BTreeMap<IpNet, OfSource>,
}

/// What was reported on one source under it.
#[derive(Default)]
struct OfSource {
    tally: Tally,
    passed_for: BTreeSet<String>,
    reporters: BTreeSet<String>,
}

/// Messages.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Tally {
    messages: u64,
    /// With an aligned pass.
    passed: u64,
    failed: u64,
    dkim_passed: u64,
    spf_passed: u64,
    rejected: u64,
    quarantined: u64,
}

/// A source as `--json` prints it.
#[derive(Serialize)]
struct JsonSource<'a> {
    policy_domain: &'a str,
    source: String,
    #[serde(flatten)]
    tally: Tally,
    passed_for: &'a BTreeSet<String>,
    reporters: &'a BTreeSet<String>,
}

impl Summary {
    /// Nothing yet; sources are addresses, or networks.
    pub fn new(by_network: bool) -> Self {
        Self { domains: BTreeMap::new(), reporters: BTreeSet::new(), by_network }
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Adds how much was reported by whom.
    pub fn add_reporting(&mut self, reporting: Reporting) {
        let domain = self.domains.entry(reporting.policy_domain).or_default();
        if !reporting.policy.is_empty() {
            domain.policies.insert(reporting.policy);
        }
        domain.reports = domain.reports.saturating_add(reporting.reports);
        domain.last_end = domain.last_end.max(reporting.last_end);
        insert(&mut self.reporters, reporter(&reporting.reporter, &reporting.organization), MAX_REPORTERS);
    }

    /// Adds what was reported of one source.
    pub fn add(&mut self, source: Source) {
        let key = match self.by_network {
            true => network(source.source_ip, 24, 48),
            false => IpNet::from(source.source_ip),
        };
        let domain = self.domains.entry(source.policy_domain).or_default();
        let of_source = domain.sources.entry(key).or_default();
        for tally in [&mut domain.whole, &mut of_source.tally] {
            tally.add(source.messages, (source.dkim, source.spf), source.disposition);
        }
        for passed in [&source.dkim_passed, &source.spf_passed] {
            for name in passed.split_ascii_whitespace() {
                insert(&mut of_source.passed_for, name.to_owned(), MAX_NAMES);
            }
        }
        insert(&mut of_source.reporters, reporter(&source.reporter, &source.organization), MAX_NAMES);
    }

    /// One JSON object a line.
    pub fn json(&self) -> String {
        let mut text = String::new();
        for (policy_domain, domain) in &self.domains {
            for (source, OfSource { tally, passed_for, reporters }) in &domain.sources {
                let source = shown(*source);
                let line = JsonSource { policy_domain, source, tally: *tally, passed_for, reporters };
                // Fails only for maps with keys that are no strings; there are none.
                text.push_str(&serde_json::to_string(&line).unwrap_or_default());
                text.push('\n');
            }
        }
        text
    }

    /// For people: at most `top` sources that fail and `top` that don't, for each domain.
    pub fn table(&self, top: usize) -> String {
        let reports: u64 = self.domains.values().map(|domain| domain.reports).sum();
        let mut text = format!("{reports} reports of {} reporters", self.reporters.len());
        let last = self.domains.values().map(|domain| domain.last_end).max();
        if let Some(last) = last {
            let _ = write!(text, ", to {}", Date::of_day(last.div_euclid(SECONDS_PER_DAY)));
        }
        text.push('\n');
        for (name, domain) in &self.domains {
            let policies = domain.policies.iter().map(String::as_str).collect::<Vec<_>>().join(", p=");
            let policies = if policies.is_empty() { "unknown" } else { &policies };
            let Tally { messages, passed, failed, rejected, quarantined, .. } = domain.whole;
            let _ = write!(
                text,
                "\n{name}, p={policies}: {} reports, {messages} messages\n  {passed} passed ({}), {failed} failed: \
                 {rejected} rejected, {quarantined} quarantined\n",
                domain.reports,
                share(passed, messages)
            );
            let (mut failing, mut fine): (Vec<_>, Vec<_>) =
                domain.sources.iter().partition(|(_, source)| source.tally.failed > 0);
            failing.sort_by_key(|(_, source)| (u64::MAX - source.tally.failed, u64::MAX - source.tally.messages));
            fine.sort_by_key(|(_, source)| u64::MAX - source.tally.messages);
            list(&mut text, "sources that fail", &failing, top);
            list(&mut text, "sources that pass", &fine, top);
        }
        text
    }
}

impl Tally {
    fn add(
        &mut self,
        messages: u64,
        (dkim, spf): (AlignmentOutcome, AlignmentOutcome),
        disposition: Option<ReportDisposition>,
    ) {
        let passes = |outcome| outcome == AlignmentOutcome::Pass;
        let add = |sum: &mut u64, counts: bool| *sum = sum.saturating_add(if counts { messages } else { 0 });
        add(&mut self.messages, true);
        add(if passes(dkim) || passes(spf) { &mut self.passed } else { &mut self.failed }, true);
        add(&mut self.dkim_passed, passes(dkim));
        add(&mut self.spf_passed, passes(spf));
        match disposition {
            Some(ReportDisposition::Reject) => add(&mut self.rejected, true),
            Some(ReportDisposition::Quarantine) => add(&mut self.quarantined, true),
            Some(ReportDisposition::None | ReportDisposition::Pass) | None => {}
        }
    }
}

fn list(text: &mut String, heading: &str, sources: &[(&IpNet, &OfSource)], top: usize) {
    if sources.is_empty() {
        return;
    }
    let mut line = |cells: [&str; 8]| {
        let [source, messages, failed, dkim, spf, done, passed, reporters] = cells;
        let line = format!(
            "  {source:24}  {messages:>9}  {failed:>9}  {dkim:>5}  {spf:>5}  {done:>9}  {passed:28}  {reporters}"
        );
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line([heading, "messages", "failed", "DKIM", "SPF", "stopped", "passed for", "reported by"]);
    for (source, OfSource { tally, passed_for, reporters }) in sources.iter().take(top) {
        line([
            &shown(**source),
            &tally.messages.to_string(),
            &tally.failed.to_string(),
            &share(tally.dkim_passed, tally.messages),
            &share(tally.spf_passed, tally.messages),
            &(tally.rejected + tally.quarantined).to_string(),
            &some(passed_for),
            &some(reporters),
        ]);
    }
    let rest = sources.get(top..).unwrap_or_default();
    if !rest.is_empty() {
        let sum = |figure: fn(&Tally) -> u64| rest.iter().map(|(_, source)| figure(&source.tally)).sum::<u64>();
        let more = format!("{} more", rest.len());
        let (messages, failed) = (sum(|tally| tally.messages).to_string(), sum(|tally| tally.failed).to_string());
        line([&more, &messages, &failed, "", "", "", "", ""]);
    }
}

/// The first few names, and how many there are beside them.
fn some(names: &BTreeSet<String>) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ");
    match names.len() {
        0 => "-".to_owned(),
        few if few <= SHOWN => shown,
        many => format!("{shown} +{}", many - SHOWN),
    }
}

/// The verified domain; what is only claimed says so.
fn reporter(verified: &str, claimed: &str) -> String {
    match verified {
        "" => format!("\"{}\" (unverified)", escaped(claimed.as_bytes())),
        _ => verified.to_owned(),
    }
}

/// An address, or a network with its length.
fn shown(source: IpNet) -> String {
    let whole = match source.addr() {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    if source.prefix_len() == whole { source.addr().to_string() } else { source.to_string() }
}

/// A share in whole per cent; only all is 100 and only none is 0.
fn share(part: u64, whole: u64) -> String {
    let percent = match u128::from(part) * 100 / u128::from(whole.max(1)) {
        0 if part > 0 => 1,
        percent => percent,
    };
    format!("{percent}%")
}

fn insert(names: &mut BTreeSet<String>, name: String, most: usize) {
    if names.len() < most {
        names.insert(name);
    }
}

/// Names of one source that are kept.
const MAX_NAMES: usize = 20;
/// Reporters that are counted.
const MAX_REPORTERS: usize = 10_000;
/// Names that a line shows.
const SHOWN: usize = 3;
