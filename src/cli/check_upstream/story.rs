//! Tells the facts to people.

use super::bounces::Bounces;
use super::facts::{Extension, Facts, Server};

/// The whole story, ended by a line end.
pub fn tell(facts: &Facts) -> String {
    let mut story = Story::default();
    for server in &facts.servers {
        story.server(server, facts.identity);
    }
    if let [_, _, ..] = &*facts.servers {
        story.line("\nAll servers together");
        story.list("clients get", &facts.offered);
    }
    facts.bounces.iter().for_each(|bounces| story.bounces(bounces));
    story.line(if facts.well { "\nAll is well." } else { "\nSomething is wrong: see the lines marked PROBLEM." });
    story.0
}

/// The story so far.
#[derive(Default)]
struct Story(String);

impl Story {
    fn server(&mut self, server: &Server, identity: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(&format!("{gap}Server {}", server.server));
        let addresses = server.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.fact("addresses", if addresses.is_empty() { "none" } else { "" }, &addresses.join(", "));
        if let Some(address) = server.connected {
            self.fact("connected to", "", &address.to_string());
        }
        if let Some(greeting) = &server.greeting {
            self.fact("greeting", "", greeting);
        }
        self.list("EHLO list", &server.ehlo);
        if !server.understood.is_empty() {
            self.fact("understood", "", &server.understood.join(", "));
        }
        self.extensions("clients get", &server.offered);
        self.extensions("withheld", &server.not_offered);
        if !server.ehlo.is_empty() {
            self.fact("TLS", "", &server.tls);
        }
        if let Some(attributes) = &server.handover.xclient {
            self.fact("XCLIENT", "announced: ", &attributes.join(" "));
        }
        self.fact("hand-over", &format!("upstream.identity = \"{identity}\": "), &server.handover.outcome);
        self.fact("relaying", "", server.relaying);
        if !server.consequences.is_empty() {
            self.line("  It sees the gate in place of every client, so that");
            server.consequences.iter().for_each(|text| self.line(&format!("    - {text}")));
            self.line("  To let it see the client:");
            server.remedies.iter().for_each(|text| self.line(&format!("    {text}")));
        }
        server.warnings.iter().for_each(|text| self.fact("WARNING", "", text));
        server.problems.iter().for_each(|text| self.fact("PROBLEM", "", text));
    }

    fn bounces(&mut self, bounces: &Bounces) {
        self.line(&format!("\nBounces of reports, to {}", bounces.domain));
        for exchanger in &bounces.exchangers {
            let addresses = exchanger.addresses.join(", ");
            self.fact("MX", "", &format!("{} ({addresses}) leads {}", exchanger.name, exchanger.leads));
        }
        self.fact("outcome", "", bounces.outcome);
        if !bounces.advice.is_empty() {
            self.line("  For those that it makes itself the mail server can't be asked. What the way back needs:");
            bounces.advice.iter().for_each(|text| self.line(&format!("    {text}")));
        }
        bounces.problems.iter().for_each(|text| self.fact("PROBLEM", "", text));
    }

    fn extensions(&mut self, label: &str, all: &[Extension]) {
        let lines: Vec<_> = all.iter().map(|one| format!("{:WORD$} {}", one.extension, one.why)).collect();
        self.list(label, &lines);
    }

    fn list(&mut self, label: &str, lines: &[String]) {
        for (n, line) in lines.iter().enumerate() {
            self.fact(if n == 0 { label } else { "" }, "", line);
        }
    }

    fn fact(&mut self, label: &str, lead: &str, text: &str) {
        self.line(&format!("  {label:LABEL$}  {lead}{text}"));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }
}

/// Characters of the column of labels.
const LABEL: usize = 12;
/// Characters of the column of extensions.
const WORD: usize = 20;
