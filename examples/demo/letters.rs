//! The six messages, and what should become of each.

use crate::world::bank_signer;

/// One message, who sends it, and what should become of it.
pub struct Letter {
    pub title: &'static str,
    pub why: &'static str,
    pub client: &'static str,
    pub name: &'static str,
    pub from: &'static str,
    pub content: Vec<u8>,
    pub expected: Expected,
}

/// What should become of a message.
pub struct Expected {
    pub in_words: &'static str,
    /// The code of the reply to its end.
    pub code: u16,
    /// What the fields on top, joined into one line, have to hold.
    pub added: &'static [&'static str],
    /// Whether they mark it.
    pub marked: bool,
    /// Policy domain and disposition of its row; none if there is no row.
    pub row: Option<(&'static str, &'static str)>,
}

/// All of them, in the order in which they are sent.
pub fn letters() -> Vec<Letter> {
    vec![signed(), forged_none(), forged_quarantine(), forged_reject(), list(), trusted()]
}

fn signed() -> Letter {
    let content = plain("The Bank <news@bank.example>", "Your statement", "It is ready.");
    Letter {
        title: "An honest message",
        why: "bank.example publishes p=reject; this is its own server, and the message is signed.",
        client: "192.0.2.10",
        name: "mail.bank.example",
        from: "news@bank.example",
        content: bank_signer().sign(&content),
        expected: Expected {
            in_words: "passed on: SPF and DKIM pass, aligned",
            code: 250,
            added: &["spf=pass", "dkim=pass", "dmarc=pass", "header.from=bank.example"],
            marked: false,
            row: Some(("bank.example", "pass")),
        },
    }
}

fn forged_none() -> Letter {
    Letter {
        title: "A forgery under p=none",
        why: "blog.example only wants to know: the message passes, the failure is noted and recorded.",
        content: plain("Blog <editor@blog.example>", "Please log in", "Follow me."),
        expected: Expected {
            in_words: "passed on unmarked, as the domain's owner asks",
            code: 250,
            added: &["dmarc=fail", "policy.dmarc=none", "header.from=blog.example"],
            marked: false,
            row: Some(("blog.example", "none")),
        },
        ..attack("editor@blog.example")
    }
}

fn forged_quarantine() -> Letter {
    Letter {
        title: "A forgery under p=quarantine",
        why: "shop.example wants it set aside: the mail server gets it with a mark.",
        content: plain("Shop <orders@shop.example>", "Your order", "Open the attachment."),
        expected: Expected {
            in_words: "passed on, marked for the mail server to set aside",
            code: 250,
            added: &["dmarc=fail", "header.from=shop.example", "X-DMARC-Fail-policy: quarantine"],
            marked: true,
            row: Some(("shop.example", "quarantine")),
        },
        ..attack("orders@shop.example")
    }
}

fn forged_reject() -> Letter {
    Letter {
        title: "A forgery under p=reject",
        why: "bank.example wants it refused, and nothing speaks for a forwarder: the mail server never sees it.",
        content: plain("The Bank <security@bank.example>", "Confirm your card", "Hurry."),
        expected: Expected {
            in_words: "refused while the sender is on the line",
            code: 550,
            added: &[],
            marked: false,
            row: Some(("bank.example", "reject")),
        },
        ..attack("security@bank.example")
    }
}

/// The bank's employee wrote to a list, which put its name into the subject and a footer below: the signature breaks.
fn list() -> Letter {
    let original = bank_signer().sign(&plain("Ann <ann@bank.example>", "Meeting", "See you on Friday."));
    let original = String::from_utf8(original).expect("ASCII");
    let changed = original.replace("Subject: Meeting", "Subject: [club] Meeting") + "-- \r\nThe club's list\r\n";
    let content = format!("List-Id: <club.list.example>\r\nList-Post: <mailto:club@list.example>\r\n{changed}");
    Letter {
        title: "A mailing list under p=reject",
        why: "It fails just like the forgery, but the bank's broken signature and the list fields speak for a list.",
        client: "203.0.113.5",
        name: "mail.list.example",
        from: "club-bounces@list.example",
        content: content.into_bytes(),
        expected: Expected {
            in_words: "not refused but marked (policy.reject = \"corroborated\")",
            code: 250,
            added: &["spf=pass", "dkim=fail", "dmarc=fail", "X-DMARC-Fail-policy: quarantine"],
            marked: true,
            row: Some(("bank.example", "quarantine")),
        },
    }
}

fn trusted() -> Letter {
    Letter {
        title: "From a trusted network",
        why: "10.0.0.0/8 is in bypass.trusted_networks: the message is not evaluated, and the gate says so.",
        client: "10.1.2.3",
        name: "scanner.you.example",
        from: "scanner@you.example",
        content: plain("Scanner <scanner@you.example>", "A scan", "Page 1."),
        expected: Expected {
            in_words: "passed on without evaluation, and no row",
            code: 250,
            added: &["Authentication-Results: mx.you.example; none"],
            marked: false,
            row: None,
        },
    }
}

/// A client that nobody vouches for.
fn attack(from: &'static str) -> Letter {
    let expected = Expected { in_words: "", code: 0, added: &[], marked: false, row: None };
    let (client, name) = ("198.51.100.66", "cheap.attacker.example");
    Letter { title: "", why: "", client, name, from, content: Vec::new(), expected }
}

fn plain(from: &str, subject: &str, text: &str) -> Vec<u8> {
    format!("From: {from}\r\nTo: <{RECIPIENT}>\r\nSubject: {subject}\r\n\r\n{text}\r\n").into_bytes()
}

/// To whom all is sent.
pub const RECIPIENT: &str = "you@you.example";
