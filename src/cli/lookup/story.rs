//! Tells the facts to people.

use super::dkim::Selector;
use super::dmarc::{Destination, Dmarc, Tag, Visited};
use super::facts::{Facts, Health};
use super::mx::Exchangers;
use super::spf::{Node, Spf};

/// The whole story, ended by a line end.
pub fn tell(facts: &Facts) -> String {
    let mut story = Story::default();
    story.spf(&facts.spf);
    story.dmarc(&facts.domain, &facts.dmarc);
    facts.dkim.iter().for_each(|selector| story.dkim(selector));
    story.mx(&facts.mx);
    story.end(facts);
    story.0
}

/// The story so far.
#[derive(Default)]
struct Story(String);

impl Story {
    fn spf(&mut self, spf: &Spf) {
        self.heading(&format!("SPF for {}", spf.record.name));
        self.record(&spf.record, 1);
        let Spf { terms, void_terms, void_terms_ipv6, .. } = spf;
        self.fact("costs", &format!("{terms} of 10 terms that ask DNS"));
        self.fact("in vain", &format!("{void_terms} of 2 for IPv4 clients, {void_terms_ipv6} of 2 for IPv6 clients"));
        if let Some(client) = &spf.client {
            let by = client.term.as_ref().map(|term| format!(" by {term}")).unwrap_or_default();
            self.fact("client", &format!("{}: {}{by}, {}", client.ip, client.result, client.reason));
        }
    }

    fn record(&mut self, node: &Node, depth: usize) {
        let indent = "  ".repeat(depth);
        match &node.text {
            Some(text) => {
                self.line(&format!("{indent}{}: {}  (holds for {} s)", node.name, cut(text), node.ttl_seconds))
            }
            None => self.line(&format!("{indent}{}: {}", node.name, outcome(node.said))),
        }
        for term in &node.terms {
            let found = if term.found.is_empty() { String::new() } else { format!("  -> {}", term.found.join(", ")) };
            self.line(&format!("{indent}  {}{}", cut(&term.text), cut(&found)));
            if let Some(record) = &term.record {
                self.record(record, depth + 2);
            }
        }
    }

    fn dmarc(&mut self, domain: &str, dmarc: &Dmarc) {
        self.heading(&format!("DMARC for {domain}"));
        let width = dmarc.walk.iter().map(|visited| visited.step.name.len()).max().unwrap_or_default();
        for (index, Visited { step, ttl_seconds }) in dmarc.walk.iter().enumerate() {
            let said = step.record.as_deref().map_or_else(|| outcome(step.said).to_owned(), cut);
            let label = if index == 0 { "walk" } else { "" };
            self.fact(label, &format!("{:width$}  {said}  (holds for {ttl_seconds} s)", step.name));
        }
        if let Some(organization) = &dmarc.organizational_domain {
            self.fact("organization", organization);
        }
        match &dmarc.policy {
            Some(policy) => {
                self.fact("policy", &format!("{}, by {}= at {}", policy.requested, policy.by, policy.domain));
            }
            None => self.fact("policy", &format!("{}: {}", dmarc.state, dmarc.reason)),
        }
        for (index, Tag { name, value, published }) in dmarc.tags.iter().enumerate() {
            let default = if *published { "" } else { "  (default)" };
            self.fact(if index == 0 { "tags" } else { "" }, &format!("{name:<5} {}{default}", cut(value)));
        }
        for (index, Destination { tag, uri, asked, standing }) in dmarc.reports.iter().enumerate() {
            let by = asked.as_ref().map(|asked| format!(", by {asked}")).unwrap_or_default();
            let standing = standing.replace('_', " ");
            self.fact(if index == 0 { "reports" } else { "" }, &format!("{tag} {}: {standing}{by}", cut(uri)));
        }
    }

    fn dkim(&mut self, selector: &Selector) {
        self.heading(&format!("DKIM selector {}", selector.selector));
        if selector.records.is_empty() {
            self.fact("key", &format!("{}: {}", selector.name, outcome(selector.said)));
        }
        for record in &selector.records {
            self.fact("record", &format!("{}  (holds for {} s)", cut(&record.text), selector.ttl_seconds));
            match (&record.key, record.fault) {
                (Some(key), _) => {
                    let testing = if key.testing { ", t=y: testing" } else { "" };
                    let strict = if key.strict_identity { ", t=s: i= in d= itself alone" } else { "" };
                    self.fact("key", &format!("{}, {} bits{testing}{strict}", key.algorithm, key.bits));
                }
                (None, fault) => self.fact("key", fault.unwrap_or("none")),
            }
        }
    }

    fn mx(&mut self, mx: &Exchangers) {
        self.heading("MX");
        if mx.is_null {
            self.fact("null MX", "the domain takes no mail");
        } else if mx.exchangers.is_empty() {
            self.fact("none", outcome(mx.said));
        }
        for exchanger in &mx.exchangers {
            let addresses =
                if exchanger.addresses.is_empty() { "no address".into() } else { exchanger.addresses.join(", ") };
            self.fact(&exchanger.preference.to_string(), &format!("{}  {addresses}", exchanger.name));
        }
        if !mx.exchangers.is_empty() {
            self.fact("holds", &format!("for {} s", mx.ttl_seconds));
        }
    }

    fn end(&mut self, facts: &Facts) {
        if facts.problems.is_empty() {
            return self.line("\nNothing is wrong.");
        }
        let heading = if facts.health == Health::Unknown { "What is wrong or not known" } else { "What is wrong" };
        self.heading(heading);
        for problem in &facts.problems {
            self.line(&format!("  {}: {}", problem.about, cut(&problem.what)));
            self.line(&format!("    -> {}", problem.remedy));
        }
    }

    fn heading(&mut self, text: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(&format!("{gap}{text}"));
    }

    fn fact(&mut self, label: &str, text: &str) {
        self.line(&format!("  {label:LABEL$}  {text}"));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }
}

/// The words for what a question came to.
fn outcome(said: &str) -> &str {
    match said {
        "nodata" => "NODATA: the name exists, without a record of this type",
        "nxdomain" => "NXDOMAIN: the name does not exist",
        "several_records" => "several records, of which there may be one",
        "other_records" => "no such record among the texts",
        "not_followed" => "not followed: there is too much of it",
        "timeout" => "FAILED: no answer in time",
        "servfail" => "FAILED: SERVFAIL",
        "refused" => "FAILED: REFUSED or another error code",
        "network" => "FAILED: the name server can't be reached",
        "malformed" => "FAILED: the answer can't be read",
        "budget" => "FAILED: out of time",
        other => other,
    }
}

/// At most [`MAX_TEXT`] characters.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}... ({} characters)", text.get(..end).unwrap_or_default(), text.chars().count()),
        None => text.to_owned(),
    }
}

/// Characters of the column of labels.
const LABEL: usize = 12;
/// Characters of one text of a peer, beyond a key of rsa-2048: `--json` has all of it.
const MAX_TEXT: usize = 500;
