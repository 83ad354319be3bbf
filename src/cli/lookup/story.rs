//! Tells the facts to people.

use super::dkim::Selector;
use super::dmarc::{Destination, Dmarc, Tag, Visited};
use super::facts::{Facts, Health};
use super::mx::Exchangers;
use super::spf::{Node, Spf};
use crate::explain::story::{self, Story, cut};

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
        let Spf { terms, void_terms, void_terms_ipv6, .. } = spf;
        self.0.fact("costs", &format!("{terms} of 10 terms that ask DNS"));
        self.0.fact("in vain", &format!("{void_terms} of 2 for IPv4 clients, {void_terms_ipv6} of 2 for IPv6 clients"));
        if let Some(client) = &spf.client {
            let by = client.term.as_ref().map(|term| format!(" by {term}")).unwrap_or_default();
            self.0.fact("client", &format!("{}: {}{by}, {}", client.ip, client.result, client.reason));
        }
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
        let width = dmarc.walk.iter().map(|visited| visited.step.name.len()).max().unwrap_or_default();
        for (index, Visited { step, ttl_seconds }) in dmarc.walk.iter().enumerate() {
            let said = step.record.as_deref().map_or_else(|| outcome(&step.said).to_owned(), cut);
            let label = if index == 0 { "walk" } else { "" };
            self.0.fact(label, &format!("{:width$}  {said}  (kept for {ttl_seconds} s)", step.name));
        }
        if let Some(organization) = &dmarc.organizational_domain {
            self.0.fact("organization", organization);
        }
        match &dmarc.policy {
            Some(policy) => {
                self.0.fact("policy", &format!("{}, by {}= at {}", policy.requested, policy.by, policy.domain));
            }
            None => self.0.fact("policy", &format!("{}: {}", dmarc.state, dmarc.reason)),
        }
        for (index, Tag { name, value, published }) in dmarc.tags.iter().enumerate() {
            let default = if *published { "" } else { "  (default)" };
            self.0.fact(if index == 0 { "tags" } else { "" }, &format!("{name:<5} {}{default}", cut(value)));
        }
        for (index, Destination { tag, uri, asked, standing }) in dmarc.reports.iter().enumerate() {
            let by = asked.as_ref().map(|asked| format!(", by {asked}")).unwrap_or_default();
            let standing = standing.replace('_', " ");
            self.0.fact(if index == 0 { "reports" } else { "" }, &format!("{tag} {}: {standing}{by}", cut(uri)));
        }
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

/// The words for what a question came to.
fn outcome(said: &str) -> &str {
    match said {
        "several_records" => "several records, of which there may be one",
        "other_records" => "no such record among the texts",
        "not_followed" => "not followed: there is too much of it",
        other => story::outcome(other),
    }
}
