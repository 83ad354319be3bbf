//! Writes a report as XML, elements in the order of the RFC's tables.

use quick_xml::escape::partial_escape;

use crate::label::Label;
use crate::report::aggregate::{Configuration, Feedback, Format, Line, Period, clean};

/// The namespace of RFC 9990 §6.1.
pub(super) const NAMESPACE: &str = "urn:ietf:params:xml:ns:dmarc-2.0";
/// What wrote the report (RFC 9990 §3.1.1.3).
const GENERATOR: &str = concat!("dmarcgate ", env!("CARGO_PKG_VERSION"));

/// The document.
pub(super) fn write(feedback: &Feedback) -> String {
    let octets = feedback.lines.iter().map(|(line, _)| line.octets()).sum::<usize>();
    let mut xml = Xml { text: String::with_capacity(octets + 2048), depth: 0 };
    xml.text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let format = feedback.reporter.format;
    match format {
        Format::Rfc9990 => xml.line(&format!("<feedback xmlns=\"{NAMESPACE}\">")),
        // The older schema leaves its elements unqualified, and its readers look for them so (RFC 7489, appendix C).
        Format::Rfc7489 => xml.line("<feedback>"),
    }
    xml.depth += 1;
    xml.leaf("version", "1.0");
    xml.group("report_metadata", |xml| metadata(xml, feedback));
    xml.group("policy_published", |xml| match format {
        Format::Rfc9990 => policy_published(xml, &feedback.policy),
        Format::Rfc7489 => older_policy_published(xml, &feedback.policy),
    });
    for (line, count) in &feedback.lines {
        xml.group("record", |xml| record(xml, line, *count));
    }
    xml.depth = 0;
    xml.line("</feedback>");
    xml.text
}

fn metadata(xml: &mut Xml, Feedback { reporter, id, period, error, .. }: &Feedback) {
    let Period { begin, end } = period;
    xml.leaf("org_name", &clean(&reporter.organization));
    xml.leaf("email", &clean(&reporter.email));
    xml.optional("extra_contact_info", reporter.extra_contact_info.as_deref().map(clean).as_deref());
    xml.leaf("report_id", id.as_str());
    xml.group("date_range", |xml| {
        xml.leaf("begin", &begin.to_string());
        xml.leaf("end", &end.to_string());
    });
    xml.optional("error", error.as_deref().map(clean).as_deref());
    if reporter.format == Format::Rfc9990 {
        xml.leaf("generator", GENERATOR);
    }
}

/// RFC 9990 §3.1.1.5: what is not published has its default value.
fn policy_published(xml: &mut Xml, policy: &Configuration) {
    xml.leaf("domain", policy.domain.as_str());
    xml.leaf("discovery_method", policy.discovery.as_str());
    xml.leaf("p", policy.p.as_str());
    xml.leaf("sp", policy.effective_sp().as_str());
    xml.leaf("np", policy.effective_np().as_str());
    xml.leaf("fo", &policy.fo);
    xml.leaf("adkim", policy.adkim.as_str());
    xml.leaf("aspf", policy.aspf.as_str());
    xml.leaf("testing", policy.testing.as_str());
}

/// RFC 7489, appendix C.
fn older_policy_published(xml: &mut Xml, policy: &Configuration) {
    xml.leaf("domain", policy.domain.as_str());
    xml.leaf("adkim", policy.adkim.as_str());
    xml.leaf("aspf", policy.aspf.as_str());
    xml.leaf("p", policy.p.as_str());
    xml.leaf("sp", policy.effective_sp().as_str());
    xml.leaf("pct", &policy.pct().to_string());
    xml.leaf("fo", &policy.fo);
}

fn record(xml: &mut Xml, line: &Line, count: u64) {
    xml.group("row", |xml| {
        xml.leaf("source_ip", &line.source.to_string());
        xml.leaf("count", &count.to_string());
        xml.group("policy_evaluated", |xml| policy_evaluated(xml, line));
    });
    xml.group("identifiers", |xml| {
        xml.leaf("header_from", line.header_from.as_str());
        xml.optional("envelope_from", line.envelope_from.as_deref());
        xml.optional("envelope_to", line.envelope_to.as_deref());
    });
    xml.group("auth_results", |xml| {
        for dkim in &line.dkim {
            xml.group("dkim", |xml| {
                xml.leaf("domain", &dkim.domain);
                xml.leaf("selector", &dkim.selector);
                xml.leaf("result", &dkim.result);
            });
        }
        if let Some(spf) = &line.spf {
            xml.group("spf", |xml| {
                xml.leaf("domain", &spf.domain);
                xml.leaf("scope", spf.scope.as_str());
                xml.leaf("result", &spf.result);
            });
        }
    });
}

fn policy_evaluated(xml: &mut Xml, line: &Line) {
    xml.leaf("disposition", line.disposition.as_str());
    xml.leaf("dkim", line.dkim_aligned.as_str());
    xml.leaf("spf", line.spf_aligned.as_str());
    for reason in &line.reasons {
        xml.group("reason", |xml| {
            xml.leaf("type", reason.kind.as_str());
            xml.optional("comment", Some(reason.comment.as_str()).filter(|comment| !comment.is_empty()));
        });
    }
}

/// A document that grows.
struct Xml {
    text: String,
    depth: usize,
}

impl Xml {
    fn line(&mut self, line: &str) {
        self.text.extend(std::iter::repeat_n(' ', self.depth));
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// An element with elements in it.
    fn group(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.line(&format!("<{name}>"));
        self.depth += 1;
        content(self);
        self.depth -= 1;
        self.line(&format!("</{name}>"));
    }

    /// An element with text in it, which is clean.
    fn leaf(&mut self, name: &str, text: &str) {
        self.line(&format!("<{name}>{}</{name}>", partial_escape(text)));
    }

    fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.leaf(name, text);
        }
    }
}
