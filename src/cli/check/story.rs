//! Tells the facts to people.

use super::facts::Facts;
use crate::explain::story::Story;

/// The whole story, ended by a line end.
pub fn tell(facts: &Facts) -> String {
    let mut story = Story::default();
    message(&mut story, facts);
    if let Some(results) = &facts.evaluation {
        story.results(results);
        story.heading("Decision");
        let mark = if facts.built_in { "  <- built-in default" } else { "  <- configured" };
        for decision in &facts.decisions {
            story.decision(decision, if decision.in_force { mark } else { "" });
        }
        let in_force = facts.decisions.iter().find(|decision| decision.in_force);
        if let Some((shadow, in_force)) = facts.shadow.as_ref().zip(in_force) {
            story.shadow(shadow, in_force);
        }
        story.dns(&facts.dns);
    }
    story.fate(facts.fate);
    story.end()
}

fn message(story: &mut Story, facts: &Facts) {
    let message = &facts.message;
    story.heading("Message");
    let line_ends = if message.line_ends == "lf" { ", LF line ends read as CRLF" } else { "" };
    let separator = if message.mbox_separator { ", without its mbox separator" } else { "" };
    story.fact("read", &format!("{}, {} octets{line_ends}{separator}", message.file, message.octets));
    story.fact("client", &format!("{}, EHLO {}", facts.client.ip, facts.client.helo));
    story.fact("reverse-path", &format!("<{}>", facts.envelope.mail_from));
    match &*facts.envelope.recipients {
        [] => story.fact("recipient", "an ordinary one (no --rcpt)"),
        all => all.iter().for_each(|recipient| story.fact("recipient", &format!("<{recipient}>"))),
    }
    if !message.irregularities.is_empty() {
        story.fact("irregular", &message.irregularities.join(", ").replace('_', " "));
    }
    if let Some(reply) = &facts.objection {
        story.fact("refused", &format!("for its form or size, whatever else it says: {reply}"));
    }
    if facts.trusted_network {
        story.fact("trusted", "a session would not evaluate it: the client is in bypass.trusted_networks");
    }
}
