//! Writes messages that our test signer has signed, for `tests/conformance` to have them verified by dkimpy.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::signer::{Signer, SigningKey, base64};

/// `cargo test --test it -- --ignored signed::`; `DMARCGATE_SIGNED` names the file.
#[test]
#[ignore = "writes a file for tests/conformance: .ci/run does so"]
fn messages_of_our_signer_for_dkimpy() {
    let path = std::env::var("DMARCGATE_SIGNED").expect("DMARCGATE_SIGNED names the file");
    let keys = [("r", SigningKey::rsa()), ("e", SigningKey::ed25519())];
    let names = ["signer.example", "sealer1.example", "sealer2.example", "sealer3.example"];
    let records: BTreeMap<String, String> = names
        .iter()
        .flat_map(|domain| keys.map(|(selector, key)| (format!("{selector}._domainkey.{domain}"), key.record())))
        .collect();
    let mut messages = Vec::new();
    let mut add = |name: String, method: &str, result: &str, content: &[u8]| {
        messages.push(json!({ "name": name, "method": method, "result": result, "content": base64(content) }));
    };
    for (body_name, body) in BODIES {
        let message = [HEADER, body].concat();
        for (selector, key) in keys {
            for c in ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"] {
                for (h_name, h) in [("plain", "from:to:subject"), ("oversigned", "from:from:subject:to:x-none:to:to")] {
                    let signer = Signer::new(key, "signer.example", selector).set("c", c).set("h", h);
                    let signed = signer.sign(message.as_bytes());
                    let name = format!("{body_name}, {selector}, {c}, {h_name}");
                    let broken = with_last(&signed, b"Subject: a", b"Subject: b");
                    add(format!("{name}, changed"), "dkim", "fail", &broken);
                    add(name, "dkim", "pass", &signed);
                }
            }
        }
        // dkimpy 1.1.8 seals and verifies seals with RSA alone.
        let chain = (1..=3).fold(message.clone(), |message, instance| {
            let signer = Signer::new(SigningKey::rsa(), &format!("sealer{instance}.example"), "r");
            signer.arc_set(message.as_bytes(), instance, if instance == 1 { "none" } else { "pass" }) + &message
        });
        add(format!("{body_name}, sealed"), "arc", "pass", chain.as_bytes());
        let forged = chain.replacen("spf=pass", "spf=fail", 1);
        add(format!("{body_name}, sealed, changed"), "arc", "fail", forged.as_bytes());
    }
    let text = serde_json::to_string(&json!({ "records": records, "messages": messages })).expect("text");
    std::fs::write(path, text).expect("a file that can be written");
}

const HEADER: &str = "X-Other: x\r\nFrom: A <a@signer.example>\r\nTo:  b@b.example\r\nSubject: a\r\n\t folded  text \r\n\
    To: c@c.example\r\n\r\n";

const BODIES: [(&str, &str); 6] = [
    ("empty", ""),
    ("one empty line", "\r\n"),
    ("white space lines alone", " \r\n\t\r\n"),
    ("white space lines at the end", "x  y \r\n \r\n\t\r\n\r\n"),
    ("no line end", "x"),
    ("beyond ASCII", "\u{e4}\u{f6} \t .\r\n..\r\n"),
];

/// With the last `from` replaced.
fn with_last(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = text.windows(from.len()).rposition(|window| window == from).expect("it is there");
    [&text[..at], to, &text[at + from.len()..]].concat()
}
