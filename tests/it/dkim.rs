//! Keys as DNS has them, and messages as the wire has them, through the whole gate.

use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const BAD: &str = "198.51.100.66";

/// A domain under p=reject whose mail passes by DKIM alone.
fn zone() -> Zone {
    Zone::new().txt("v.example", "v=spf1 -all").txt("_dmarc.v.example", "v=DMARC1; p=reject")
}

fn letter() -> Letter {
    Letter::new(BAD, "a@v.example")
}

fn signed(selector: &str, content: &[u8]) -> Letter {
    letter().content(Signer::new(SigningKey::rsa(), "v.example", selector).sign(content))
}

/// The result of the one signature, without what follows it.
fn word(outcome: &crate::support::world::Outcome) -> String {
    let results = outcome.results();
    let result = results.one("dkim");
    result.split(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn keys_as_dns_has_them() {
    let record = SigningKey::rsa().record();
    let key = |selector: &str| format!("{selector}._domainkey.v.example");
    let (first, rest) = record.split_at(20);
    let (second, third) = rest.split_at(200);
    let zone = zone()
        .txt_strings(&key("split"), &[first, second, third])
        .cname(&key("alias"), "key.host.example")
        .txt("key.host.example", &record)
        .cname(&key("dangling"), "nothing.host.example")
        .a(&key("address"), "192.0.2.1")
        .txt(&key("revoked"), "v=DKIM1; p=")
        .txt(&key("several"), "v=DKIM1; p=")
        .txt(&key("several"), "something else")
        .txt(&key("several"), &record)
        .serv_fail(&key("servfail"), RecordType::TXT)
        .refuse(&key("refused"), RecordType::TXT)
        .garbage(&key("garbage"), RecordType::TXT)
        .time_out(&key("silent"), RecordType::TXT)
        .txt(&key("long"), &record)
        .truncate(&key("long"), RecordType::TXT);
    let world = World::start(zone, |c: ConfigText| c.set("dns.timeout", "200ms")).await;
    let cases = [
        ("split", "pass", "250"),
        ("alias", "pass", "250"),
        ("several", "pass", "250"),
        ("long", "pass", "250"),
        ("dangling", "permerror", "550"),
        ("address", "permerror", "550"),
        ("revoked", "permerror", "550"),
        ("missing", "permerror", "550"),
        ("servfail", "temperror", "451"),
        ("refused", "temperror", "451"),
        ("garbage", "temperror", "451"),
        ("silent", "temperror", "451"),
    ];
    for (selector, result, reply) in cases {
        let outcome = world.send(&signed(selector, &letter().content)).await;
        assert_eq!(outcome.summary(), reply, "{selector}");
        if reply == "250" {
            assert_eq!(word(&outcome), result, "{selector}");
        }
        // A signature that is broken as well is no less in doubt, and no less a sign that the key's owner sent it.
        let broken = signed(selector, &letter().content);
        let broken = broken.clone().content([broken.content.as_slice(), b"more\r\n"].concat());
        let expected = if result == "pass" { "250 quarantine" } else { reply };
        assert_eq!(world.send(&broken).await.summary(), expected, "{selector}, broken");
    }
}

#[tokio::test]
async fn header_sections_as_the_wire_has_them() {
    let record = SigningKey::rsa().record();
    let world = World::start(zone().txt("s._domainkey.v.example", &record), |c| c).await;
    let message =
        |field: &str, body: &str| format!("{field}From: a@v.example\r\nTo: b@b.example\r\n{body}").into_bytes();
    let cases = [
        ("obsolete white space", message("Subject : x\r\n", "\r\nbody\r\n")),
        ("octets beyond ASCII", message("Subject: \u{e4}\u{20ac}\r\n", "\r\nbody \u{e4}\r\n")),
        ("NUL in a value", message("Subject: a\0b\r\n", "\r\na\0b\r\n")),
        ("bare CR in a value", message("Subject: a\rb\r\n", "\r\na\rb\r\n")),
        ("a line of white space in a field", message("Subject: a\r\n \r\n b\r\n", "\r\nbody\r\n")),
        ("no empty line", message("Subject: x\r\n", "")),
        ("no body", message("Subject: x\r\n", "\r\n")),
    ];
    for (name, content) in cases {
        for c in ["simple/simple", "relaxed/relaxed"] {
            let signer = Signer::new(SigningKey::rsa(), "v.example", "s").set("c", c);
            let content = signer.sign(&content);
            let outcome = world.send(&letter().content(content.clone())).await;
            let relayed = String::from_utf8(content).unwrap().replace("a\rb", "a b");
            assert!(outcome.added_to(relayed.as_bytes()).contains("dkim=pass"), "{name}, {c}");
        }
    }
    // A bare LF is a line end, in the body hash too; so this is the message that was signed.
    let whole = signed("s", &message("Subject: x\r\n", "\r\none\r\ntwo\r\n")).content;
    let bare = String::from_utf8(whole.clone()).unwrap().replace("one\r\n", "one\n");
    let outcome = world.send(&letter().content(bare.into_bytes())).await;
    assert!(outcome.added_to(&whole).contains("dkim=pass"));
}

#[tokio::test]
async fn signatures_beyond_the_limit_are_counted_and_the_author_s_come_first() {
    let record = SigningKey::rsa().record();
    let zone = zone().txt("s._domainkey.v.example", &record).txt("s._domainkey.other.example", &record);
    let world = World::start(zone, |c| c.set("limits.signatures", 3)).await;
    // With a tag each of its own, or they would be copies of one.
    let other = |n: usize| Signer::new(SigningKey::rsa(), "other.example", "s").set("n", n);
    let own = signed("s", &letter().content).content;
    let all = (0..30).fold(own, |content, n| other(n).sign(&content));
    let outcome = world.send(&letter().content(all)).await;
    assert_eq!(outcome.summary(), "250");
    let field = outcome.added().replace("\r\n ", " ");
    assert_eq!(field.matches("dkim=pass").count(), 3, "{field}");
    assert!(field.contains("header.d=v.example") && field.contains("(more=28)"), "{field}");
    assert_eq!(world.gate.metrics().await.value("dmarcgate_limits_reached_total{limit=\"signatures\"}"), 1.0);
}
