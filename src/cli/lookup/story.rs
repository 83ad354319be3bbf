//! Tells the facts to people.

use super::dkim::Selector;
use super::dmarc::{Destination, Dmarc, Standing, Tag};
use super::facts::{Facts, Health};
use super::mx::Exchangers;
use super::spf::{Client, End, MAX_TERMS, MAX_VOIDS, Node, Spf};
use crate::explain::story::{self, Story, cut};
use crate::label::Label;
use crate::spf::SpfResult;

/// The whole story, ended by a line end.
pub fn tell(facts: &Facts) -> String {
    let mut story = Telling::default();
    story.spf(&facts.spf);
    story.dmarc(&facts.domain, &facts.dmarc);
    facts.dkim.iter().for_each(|selector| story.dkim(selector));
    story.mx(&facts.mx);
    story.end(facts);
    story.0.end()
}

/// The story so far.
#[derive(Default)]
struct Telling(Story);

impl Telling {
    fn spf(&mut self, spf: &Spf) {
        self.0.heading(&format!("SPF for {}", spf.record.name));
        self.record(&spf.record, 1);
        if spf.record.said == "record" {
            self.costs(spf);
        }
        if let Some(End { result, name, term }) = &spf.end {
            let term = term.as_deref().unwrap_or("no end");
            self.0.fact("others", &format!("{}, by {} at {name}", unnamed(*result), cut(term)));
        }
        if let Some(Client { ip, result, term, reason, terms, void_terms }) = &spf.client {
            let by = term.as_ref().map(|term| format!(" by {term}")).unwrap_or_default();
            self.0.fact("client", &format!("{ip}: {result}{by}, {reason}"));
            self.0.fact("", &format!("at {terms} of {MAX_TERMS} terms, {void_terms} of {MAX_VOIDS} in vain"));
        }
    }

    /// The counts, as what they are: where terms depend on the client or the sender, the least.
    fn costs(&mut self, spf: &Spf) {
        let Spf { terms, void_terms: four, void_terms_ipv6: six, depending_terms: terms_open, .. } = spf;
        let (least_terms, records_open) = match spf.depending_records {
            0 => (spf.cut_short, String::new()),
            records => (true, format!("; {records} lead(s) to records that {DEPEND}")),
        };
        let least = |is_least| if is_least { "at least " } else { "" };
        self.0.fact("costs", &format!("{}{terms} of {MAX_TERMS} terms that ask DNS{records_open}", least(least_terms)));
        let terms_open = if *terms_open == 0 { String::new() } else { format!("; {terms_open} term(s) {DEPEND}") };
        let least_voids = least(least_terms || !terms_open.is_empty());
        let voids = format!("{four} of {MAX_VOIDS} for IPv4 clients, {six} of {MAX_VOIDS} for IPv6 clients");
        self.0.fact("in vain", &format!("{least_voids}{voids}{terms_open}"));
    }

    fn record(&mut self, node: &Node, depth: usize) {
        let indent = "  ".repeat(depth);
        match &node.text {
            Some(text) => {
                self.0.line(&format!("{indent}{}: {}  (kept for {} s)", node.name, cut(text), node.ttl_seconds))
            }
            None => self.0.line(&format!("{indent}{}: {}", node.name, outcome(node.said))),
        }
        for term in &node.terms {
            let found = if term.found.is_empty() { String::new() } else { format!("  -> {}", term.found.join(", ")) };
            self.0.line(&format!("{indent}  {}{}", cut(&term.text), cut(&found)));
            if let Some(record) = &term.record {
                self.record(record, depth + 2);
            }
        }
    }

    fn dmarc(&mut self, domain: &str, dmarc: &Dmarc) {
        self.0.heading(&format!("DMARC for {domain}"));
        let kept = |ttl_seconds: u64| format!("  (kept for {ttl_seconds} s)");
        self.0.walk("walk", dmarc.walk.iter().map(|visited| (&visited.step, kept(visited.ttl_seconds))));
        if let Some(organization) = &dmarc.organizational_domain {
            self.0.fact("organization", organization);
        }
        match &dmarc.policy {
            Some(policy) => self.0.policy(policy),
            None => self.0.fact("policy", &format!("{}: {}", dmarc.state, dmarc.reason)),
        }
        let told = |Tag { name, value, published }: &Tag| {
            format!("{name:<5} {}{}", cut(value), if *published { "" } else { "  (default)" })
        };
        self.0.facts("tags", dmarc.tags.iter().map(told));
        let told = |Destination { tag, uri, asked, standing, instead }: &Destination| {
            let by = asked.as_ref().map(|asked| format!(", by {asked}")).unwrap_or_default();
            let instead = if instead.is_empty() { String::new() } else { format!(" -> {}", instead.join(", ")) };
            format!("{tag} {}: {}{by}{}", cut(uri), words(*standing), cut(&instead))
        };
        self.0.facts("reports", dmarc.reports.iter().map(told));
    }

    fn dkim(&mut self, selector: &Selector) {
        self.0.heading(&format!("DKIM selector {}", selector.selector));
        if selector.records.is_empty() {
            self.0.fact("key", &format!("{}: {}", selector.name, outcome(selector.said)));
        }
        for record in &selector.records {
            self.0.fact("record", &format!("{}  (kept for {} s)", cut(&record.text), selector.ttl_seconds));
            match (&record.key, record.fault) {
                (Some(key), _) => {
                    let testing = if key.testing { ", t=y: testing" } else { "" };
                    let strict = if key.strict_identity { ", t=s: i= in d= itself alone" } else { "" };
                    self.0.fact("key", &format!("{}, {} bits{testing}{strict}", key.algorithm, key.bits));
                }
                (None, fault) => self.0.fact("key", fault.unwrap_or("none")),
            }
        }
    }

    fn mx(&mut self, mx: &Exchangers) {
        self.0.heading("MX");
        if mx.is_null {
            self.0.fact("null MX", "the domain takes no mail");
        } else if mx.exchangers.is_empty() {
            self.0.fact("none", outcome(mx.said));
        }
        for exchanger in &mx.exchangers {
            let addresses =
                if exchanger.addresses.is_empty() { "no address".into() } else { exchanger.addresses.join(", ") };
            self.0.fact(&exchanger.preference.to_string(), &format!("{}  {addresses}", exchanger.name));
        }
        if !mx.exchangers.is_empty() {
            self.0.fact("kept", &format!("for {} s", mx.ttl_seconds));
        }
    }

    fn end(&mut self, facts: &Facts) {
        if facts.problems.is_empty() {
            return self.0.line("\nNothing is wrong.");
        }
        let heading = if facts.health == Health::Unknown { "What is wrong or not known" } else { "What is wrong" };
        self.0.heading(heading);
        for problem in &facts.problems {
            self.0.line(&format!("  {}: {}", problem.about, cut(&problem.what)));
            self.0.line(&format!("    -> {}", problem.remedy));
        }
    }
}

fn words(standing: Standing) -> String {
    match standing {
        Standing::PublicSuffix => "goes nowhere, for psd=y".to_owned(),
        Standing::Diverted => "goes nowhere, for it is diverted".to_owned(),
        other => other.as_str().replace('_', " "),
    }
}

/// What the result says of clients that the record does not name.
fn unnamed(result: SpfResult) -> &'static str {
    match result {
        SpfResult::Pass => "pass: everybody may send for the domain",
        SpfResult::SoftFail => "softfail: probably forged",
        SpfResult::Fail => "fail: forged",
        SpfResult::PermError => "permerror: the record leads back to itself",
        SpfResult::Neutral | SpfResult::None | SpfResult::TempError => "neutral: nothing is said of them",
    }
}

/// The words for what a question came to.
fn outcome(said: &str) -> &str {
    match said {
        "several_records" => "several records, of which there may be one",
        "other_records" => "no such record among the texts",
        "not_followed" => "not followed: there is too much of it",
        other => story::outcome(other),
    }
}

const DEPEND: &str = "depend on the client or the sender";
