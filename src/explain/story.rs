//! Tells facts to people: what was read, what was found, what follows from it, what DNS said.

use super::facts::decision::{Decision, Fate};
use super::facts::walks::{Policy, Step};
use super::facts::{ArcSet, Dkim, Dmarc, From, Identifier, Question, Results};

/// A story so far: headings, and below them lines of a label and a text.
#[derive(Debug, Default)]
pub struct Story(String);

impl Story {
    /// All of it, ended by a line end.
    pub fn end(self) -> String {
        self.0
    }

    /// What an evaluation found.
    pub fn results(&mut self, results: &Results) {
        self.from(&results.from);
        self.spf(results);
        self.dkim(results);
        self.heading(&format!("ARC: {}", results.arc.result));
        self.fact("reason", &results.arc.reason);
        for ArcSet { instance, sealer, dmarc, author_domain } in &results.arc.sets {
            let found = dmarc.as_ref().zip(author_domain.as_ref());
            let found = found.map(|(dmarc, author)| format!("DMARC {dmarc} for {author}"));
            let found = found.as_deref().unwrap_or("nothing of DMARC");
            self.fact("sealer", &format!("{instance}: {sealer}, who found {found}"));
        }
        results.dmarc.iter().for_each(|dmarc| self.dmarc(dmarc));
    }

    fn from(&mut self, from: &From) {
        from.fields.iter().for_each(|field| self.fact("From", &cut(field)));
        match &from.unusable {
            Some(why) => self.fact("author domain", &format!("none: {}", unusable(why))),
            None => self.fact("author domain", &from.domains.join(", ")),
        }
        if from.address_in_display_name {
            self.fact("", "another address stands where a display name should");
        }
    }

    fn spf(&mut self, results: &Results) {
        let spf = &results.spf;
        self.heading(&format!("SPF: {}", spf.result));
        let whose = if spf.identity == "helo" { "EHLO name, for the reverse-path is null" } else { "reverse-path" };
        self.fact("domain", &format!("{} ({whose})", spf.domain.as_deref().unwrap_or("none")));
        spf.records.iter().for_each(|record| self.fact("record", &format!("{}: {}", record.name, cut(&record.text))));
        if let Some(term) = &spf.term {
            self.fact("decided by", &cut(term));
        }
        self.fact("reason", &spf.reason);
        if let Some(helo) = &results.spf_helo {
            let domain = helo.domain.as_deref().unwrap_or("none");
            self.fact("EHLO name", &format!("{domain}: {}, {} (for information alone)", helo.result, helo.reason));
        }
    }

    fn dkim(&mut self, results: &Results) {
        match &*results.dkim {
            [] => self.heading("DKIM: none"),
            [one] => self.heading(&format!("DKIM: {}", one.result)),
            several => self.heading(&format!("DKIM: {} signatures", several.len())),
        }
        for Dkim { result, domain, selector, identity, algorithm, signature_start, key, reason } in &results.dkim {
            let domain = domain.as_deref().unwrap_or("none");
            let algorithm = algorithm.as_deref().unwrap_or("unknown");
            self.fact("signature", &format!("d={domain} s={} a={algorithm} b={signature_start}...", cut(selector)));
            if let Some(identity) = identity {
                self.fact("", &format!("i={}", cut(identity)));
            }
            // Where nobody asked, or DNS did not tell, the reason has it all.
            let key = match &**key {
                "found" => " (key found)",
                "missing" => " (no usable key)",
                _ => "",
            };
            self.fact("", &format!("{result}: {reason}{key}"));
        }
        if results.dkim.is_empty() {
            self.fact("reason", "the message is not signed");
        }
        if results.dkim_skipped > 0 {
            self.fact(
                "skipped",
                &format!("{} more, beyond limits.signatures or the octets that are hashed", results.dkim_skipped),
            );
        }
    }

    fn dmarc(&mut self, dmarc: &Dmarc) {
        self.heading(&format!("DMARC for {}: {}", dmarc.author_domain, dmarc.result));
        self.walk("policy walk", dmarc.walk.iter().map(|step| (step, String::new())));
        if let Some(domain) = &dmarc.organizational_domain {
            self.fact("organization", domain);
        }
        match &dmarc.policy {
            Some(policy) => self.policy(policy),
            None => self.fact("policy", "none applies"),
        }
        dmarc.identifiers.iter().for_each(|identifier| self.identifier(identifier));
        self.fact("result", &format!("{}: {}", dmarc.result, dmarc.reason));
        if !dmarc.signs.is_empty() {
            let signs = dmarc.signs.join(", ").replace('_', " ");
            self.fact("indirect flow", &format!("{signs}: it may have come by a forwarder or a list"));
        }
    }

    /// A walk, with a remark behind what was said at each name.
    pub fn walk<'a>(&mut self, label: &str, steps: impl Iterator<Item = (&'a Step, String)> + Clone) {
        let width = steps.clone().map(|(step, _)| step.name.len()).max().unwrap_or_default();
        for (index, (Step { name, said, record, problems }, remark)) in steps.enumerate() {
            let what = record.as_deref().map_or_else(|| outcome(said).to_owned(), cut);
            self.fact(if index == 0 { label } else { "" }, &format!("{name:width$}  {what}{remark}"));
            problems.iter().for_each(|problem| self.fact("", &format!("{:width$}  wrong: {problem}", "")));
        }
    }

    /// The policy that applies.
    pub fn policy(&mut self, policy: &Policy) {
        let Policy { domain, requested, by, testing, adkim, aspf, .. } = policy;
        let testing = if *testing { ", in test mode (t=y)" } else { "" };
        self.fact("policy", &format!("{requested}, by {by}= at {domain}{testing}"));
        let mode = |mode: &str| if mode == "s" { "strict" } else { "relaxed" };
        self.fact("alignment", &format!("{} for SPF, {} for DKIM", mode(aspf), mode(adkim)));
    }

    fn identifier(&mut self, identifier: &Identifier) {
        let Identifier { method, domain, result, alignment, organizational_domain, walk } = identifier;
        let aligned = match &**alignment {
            "strict" => "aligned: the same domain",
            "relaxed" => "aligned: the same organization",
            "unknown" => "perhaps aligned: DNS left it open",
            _ => "not aligned",
        };
        self.fact(&method.to_uppercase(), &format!("{domain}: {result}, {aligned}"));
        self.walk("  its walk", walk.iter().map(|step| (step, String::new())));
        if let Some(domain) = organizational_domain {
            self.fact("  organization", domain);
        }
    }

    /// A decision under the mode that it was made in, with a remark behind it.
    pub fn decision(&mut self, decision: &Decision, remark: &str) {
        let mode = match &*decision.mode {
            "enforce" => format!("enforce, reject = \"{}\"", decision.reject),
            mode => mode.to_owned(),
        };
        self.line(&format!("  {mode}: {}{remark}", fate(decision)));
        self.fact("  rule", &decision.rule);
        // Where nothing is refused, no sign could make a difference.
        let ignored = decision.signs.iter().filter(|sign| decision.mode == "enforce" && !sign.counted);
        let ignored: Vec<_> = ignored.map(|sign| sign.sign.replace('_', " ")).collect();
        if !ignored.is_empty() {
            self.fact("  not counted", &ignored.join(", "));
        }
        decision.overrides.iter().for_each(|o| self.fact("  override", &format!("{}: {}", o.kind, o.comment)));
        if let Some(sealer) = &decision.voucher {
            self.fact("  vouched for", &format!("by {sealer} in the ARC chain"));
        }
        match &decision.reply {
            Some(reply) => self.fact("  reply", reply),
            None => self.fact("  reply", "the mail server's own"),
        }
        self.facts("  added", decision.header_lines.iter().cloned());
        if decision.removed_fields > 0 {
            self.fact(
                "  removed",
                &format!("{} incoming field(s), forged or of an unknown version", decision.removed_fields),
            );
        }
    }

    /// What the shadow policy would have done, and how that differs from the decision in force.
    pub fn shadow(&mut self, shadow: &Decision, in_force: &Decision) {
        self.heading("Shadow policy, which is not acted on");
        let same = (shadow.fate, &shadow.mark) == (in_force.fate, &in_force.mark);
        self.decision(shadow, if same { ", the same" } else { ", which differs" });
    }

    /// What DNS was asked and what it said.
    pub fn dns(&mut self, questions: &[Question]) {
        self.heading(&format!("DNS: {} question(s), in the order of the answers", questions.len()));
        for Question { name, record_type, outcome: said, records, ttl_seconds, milliseconds } in questions {
            let record_type = record_type.to_uppercase();
            self.line(&format!("  {record_type:<4} {name}  ({milliseconds:.1} ms, kept for {ttl_seconds} s)"));
            if records.is_empty() {
                self.line(&format!("         {}", outcome(said)));
            }
            records.iter().for_each(|record| self.line(&format!("         {}", cut(record))));
        }
    }

    /// What becomes of the message.
    pub fn fate(&mut self, fate: Fate) {
        let fate = match fate {
            Fate::PassedOn => "is passed on",
            Fate::Tagged => "is passed on with a mark",
            Fate::Refused => "is refused",
            Fate::Deferred => "is deferred",
        };
        self.line(&format!("\nThe message {fate}."));
    }

    /// A heading, with an empty line before it but for the first.
    pub fn heading(&mut self, text: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(&format!("{gap}{text}"));
    }

    /// A line of a label and a text.
    pub fn fact(&mut self, label: &str, text: &str) {
        self.line(&format!("  {label:LABEL$}  {text}"));
    }

    /// Texts below one another, the first behind the label.
    pub fn facts(&mut self, label: &str, texts: impl Iterator<Item = String>) {
        texts.enumerate().for_each(|(index, text)| self.fact(if index == 0 { label } else { "" }, &text));
    }

    /// A line.
    pub fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }
}

fn fate(decision: &Decision) -> String {
    match (decision.fate, decision.mark.as_deref()) {
        (Fate::PassedOn, _) => "passed on".to_owned(),
        (Fate::Tagged, mark) => format!("passed on, marked {}", mark.unwrap_or_default()),
        (Fate::Refused, _) => "refused".to_owned(),
        (Fate::Deferred, _) => "deferred".to_owned(),
    }
}

/// The words for what a question came to.
pub fn outcome(said: &str) -> &str {
    match said {
        "nodata" => "NODATA: the name exists, without a record of this type",
        "nxdomain" => "NXDOMAIN: the name does not exist",
        "several_records" => "several DMARC records, which count as none",
        "other_records" => "no DMARC record among the texts",
        "timeout" => "FAILED: no answer in time",
        "servfail" => "FAILED: SERVFAIL",
        "refused" => "FAILED: REFUSED or another error code",
        "network" => "FAILED: the name server can't be reached",
        "malformed" => "FAILED: the answer can't be read",
        "budget" => "FAILED: too many look-ups for one message, or answers too large together",
        "deadline" => "FAILED: the message's time was up before DNS had a chance to answer",
        "overload" => "FAILED: the gate itself had too much to do",
        other => other,
    }
}

/// The words for why From names no author domain.
fn unusable(why: &str) -> &str {
    match why {
        "missing" => "there is no From",
        "repeated" => "there is more than one From",
        "syntax" => "From can't be read",
        "no_domain" => "From names nobody with a domain",
        "disagreement" => "readers may find different domains",
        "too_many_domains" => "From names too many domains",
        "too_long" => "From has a line of more than 998 octets, or more than 8 KiB",
        "malformed_header" => "the header section has a line that is neither field nor continuation",
        other => other,
    }
}

/// At most [`MAX_TEXT`] characters.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}... ({} characters)", text.get(..end).unwrap_or_default(), text.chars().count()),
        None => text.to_owned(),
    }
}

/// Characters of the column of labels.
const LABEL: usize = 14;
/// Characters of one text of a peer, beyond a key of rsa-2048: `--json` has all of it.
const MAX_TEXT: usize = 500;
