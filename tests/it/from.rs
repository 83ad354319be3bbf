//! Who a message says wrote it: tricks never pass untagged, honest oddities pass.

use crate::support::dns::Zone;
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

/// The victim refuses; the attacker's own domain passes all that it sends from [`BAD`].
fn zone() -> Zone {
    let key = SigningKey::rsa().record();
    let own = "v=spf1 ip4:198.51.100.0/24 -all";
    Zone::new()
        .txt("bank.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject")
        .txt("s._domainkey.bank.example", &key)
        .txt("evil.example", own)
        .txt("_dmarc.evil.example", "v=DMARC1; p=reject")
        .txt("s._domainkey.evil.example", &key)
        .txt("soft.example", own)
        .txt("_dmarc.soft.example", "v=DMARC1; p=quarantine")
        .txt("open.example", own)
}

fn from(ip: &str, field: &[u8]) -> Letter {
    let sender = if ip == GOOD { "a@bank.example" } else { "a@evil.example" };
    let content = [field, b"\r\nTo: you@rcpt.example\r\nSubject: s\r\n\r\nHello.\r\n"].concat();
    Letter::with_header(ip, sender, "").content(content)
}

#[tokio::test]
async fn no_trick_with_from_passes_untagged() {
    let world = World::start(zone(), |c| c).await;
    let cases: &[(&str, &[u8])] = &[
        ("the plain forgery", b"From: a@bank.example"),
        ("two fields", b"From: a@evil.example\r\nFrom: a@bank.example"),
        ("two fields, the victim first", b"From: a@bank.example\r\nFrom: a@evil.example"),
        ("two fields, one with a space", b"From: a@evil.example\r\nFrom : a@bank.example"),
        ("two fields, one in capitals", b"From: a@evil.example\r\nFROM: a@bank.example"),
        ("two fields, one with a NUL", b"From: a@evil.example\r\nFrom\0: a@bank.example"),
        (
            "two fields, one behind a bare CR",
            b"From: a@evil.example\r\nX: y\rFrom: a@bank.example\r\nFrom\r: a@bank.example",
        ),
        ("a space before the name", b"X: y\r\n From: a@evil.example\r\nFrom: a@bank.example"),
        ("a line without a colon above", b"nonsense\r\nFrom: a@evil.example"),
        ("a line without a colon below", b"From: a@evil.example\r\nnonsense"),
        ("no From", b"Sender: a@evil.example"),
        ("an empty From", b"From:"),
        ("an empty group", b"From: undisclosed:;"),
        ("a word", b"From: bank"),
        ("an address literal", b"From: a@[192.0.2.1]"),
        ("two addresses", b"From: a@evil.example, a@bank.example"),
        ("two addresses, the victim first", b"From: a@bank.example, a@evil.example"),
        ("two addresses in a group", b"From: g: a@evil.example, a@bank.example;"),
        ("two angle addresses", b"From: <a@evil.example> <a@bank.example>"),
        ("two angle addresses without a space", b"From: <a@bank.example><a@evil.example>"),
        ("a stray bracket", b"From: a@bank.example>"),
        ("a missing bracket", b"From: <a@bank.example"),
        ("an address in a quoted local part", b"From: \"<a@bank.example>\"@evil.example, x@bank.example"),
        ("a comment inside the domain", b"From: a@bank.example(.evil.example)"),
        ("a comment that opens the domain", b"From: a@(evil.example)bank.example"),
        ("a NUL in the address", b"From: a@bank.example\0.evil.example"),
        ("a NUL behind the address", b"From: <a@bank.example\0>, <a@evil.example>"),
        ("a bare CR in the address", b"From: a@bank.example\r.evil.example"),
        ("a route", b"From: <@evil.example:a@bank.example>"),
        ("a percent sign is no route", b"From: a%evil.example@bank.example"),
        ("an encoded word as address", b"From: =?utf-8?q?a=40bank.example?="),
        ("an encoded word around the address", b"From: =?utf-8?q?=3Ca=40bank.example=3E?= <a@[evil.example]>"),
        ("a semicolon", b"From: a@bank.example; a@evil.example"),
        ("a trailing dot", b"From: a@bank.example."),
        ("capitals", b"From: A@BANK.EXAMPLE"),
        ("folding inside the address", b"From: a@bank\r\n .example"),
        ("a full-width dot", "From: a@bank\u{ff0e}example".as_bytes()),
        ("a full-width at sign", "From: a\u{ff20}bank.example".as_bytes()),
        ("a soft hyphen", "From: a@ba\u{ad}nk.example".as_bytes()),
        ("a missing domain", b"From: a@"),
        ("several at signs", b"From: a@evil.example@bank.example"),
        ("several at signs, the other way", b"From: a@bank.example@evil.example"),
        ("invalid UTF-8 in the domain", b"From: a@bank\xff.example"),
        ("a backslash", b"From: a@bank\\.example"),
        ("an unclosed quote", b"From: \"a <a@bank.example>"),
        ("an unclosed comment", b"From: a@evil.example (a@bank.example"),
        (
            "eleven domains",
            b"From: a@a.example,a@b.example,a@c.example,a@d.example,a@e.example,a@f.example,a@g.example,\
            a@h.example,a@i.example,a@j.example,a@k.example",
        ),
    ];
    for (case, field) in cases {
        let outcome = world.send(&from(BAD, field)).await;
        let summary = outcome.summary();
        assert!(["550", "250 quarantine"].contains(&summary.as_str()), "{case}: {summary}: {}", outcome.reply);
        assert!(outcome.reply.code == 250 || outcome.reply.says("DMARC"), "{case}: {}", outcome.reply);
    }
    world.upstream.assert_clean();
}

#[tokio::test]
async fn honest_shapes_of_from_pass() {
    let world = World::start(zone(), |c| c).await;
    let cases: &[(&str, &[u8])] = &[
        ("a bare address", b"From: a@bank.example"),
        ("quoted comma", b"From: \"Bank, The\" <a@bank.example>"),
        ("quoted quotes", b"From: \"The \\\"Bank\\\"\" <a@bank.example>"),
        ("quoted address", b"From: \"ceo@other.example\" <a@bank.example>"),
        ("unquoted address before the angle address", b"From: ceo@other.example <a@bank.example>"),
        ("a comment", b"From: a@bank.example (The Bank)"),
        ("several addresses of one domain", b"From: a@bank.example, b@bank.example"),
        ("encoded words, folded", b"From: =?UTF-8?B?w4Q=?=\r\n =?UTF-8?B?w5Y=?= <a@bank.example>"),
        ("raw UTF-8", "From: J\u{f6}rg <a@bank.example>".as_bytes()),
        ("VERP signs", b"From: <a+b=c.example@bank.example>"),
        ("space before the colon", b"From : a@bank.example"),
        ("capitals", b"FROM: A@Bank.Example"),
        ("a quoted local part", b"From: \"a b\"@bank.example"),
        ("a group of one", b"From: g: a@bank.example;"),
    ];
    for (case, field) in cases {
        let outcome = world.send(&from(GOOD, field)).await;
        assert_eq!(outcome.summary(), "250", "{case}");
        let expected = "pass policy.dmarc=reject header.from=bank.example";
        assert_eq!(outcome.results().one("dmarc"), expected, "{case}");
    }
    world.gate.wait_for_log("an address stands before the angle address").await;
}

#[tokio::test]
async fn of_several_author_domains_each_is_told_and_the_strictest_failure_rules() {
    let world = World::start(zone(), |c| c).await;
    let evil = "pass policy.dmarc=reject header.from=evil.example";
    let soft = "fail policy.dmarc=quarantine header.from=soft.example";
    let open = "none header.from=open.example";
    let cases: [(&[u8], &str, &[&str]); 4] = [
        (b"From: a@evil.example, a@soft.example, a@open.example", "250 quarantine", &[soft, evil, open]),
        (b"From: a@evil.example, a@open.example", "250", &[evil, open]),
        (b"From: a@soft.example, a@evil.example, a@bank.example", "550", &[]),
        (b"From: a@evil.example, b@EVIL.example", "250", &[evil]),
    ];
    for (field, summary, dmarc) in cases {
        let outcome = world.send(&from(BAD, field)).await;
        assert_eq!(outcome.summary(), summary, "{}", field.escape_ascii());
        match outcome.relayed {
            Some(_) => assert_eq!(outcome.results().of("dmarc"), dmarc, "{}", field.escape_ascii()),
            None => assert!(outcome.reply.says("policy for bank.example"), "{}", outcome.reply),
        }
    }
    // Each needs an identifier of its own: one signature does not speak for two.
    let both = from(BAD, b"From: a@evil.example, a@bank.example");
    let content = Signer::new(SigningKey::rsa(), "bank.example", "s").sign(&both.content);
    let outcome = world.send(&both.content(content)).await;
    let expected =
        ["pass policy.dmarc=reject header.from=evil.example", "pass policy.dmarc=reject header.from=bank.example"];
    assert_eq!(
        (outcome.summary().as_str(), outcome.results().of("dmarc")),
        ("250", expected.map(String::from).to_vec())
    );
}

#[tokio::test]
async fn an_unusable_from_is_treated_by_mode_reverse_path_and_configuration() {
    let reasons: [(&str, &[u8]); 7] = [
        ("missing", b"X: y"),
        ("repeated", b"From: a@evil.example\r\nFrom: a@evil.example"),
        ("syntax", b"From: a@b@c <"),
        ("no domain", b"From: undisclosed:;"),
        ("disagreement", b"From: a@evil.example (<a@bank.example>)"),
        (
            "too many domains",
            b"From: a@a.example,a@b.example,a@c.example,a@d.example,a@e.example,a@f.example,\
            a@g.example,a@h.example,a@i.example,a@j.example,a@k.example",
        ),
        ("malformed header", b"From: a@evil.example\r\nnonsense"),
    ];
    let modes = [
        ("enforce", "reject", "550", "250 quarantine"),
        ("enforce", "tag", "250 quarantine", "250 quarantine"),
        ("tag", "reject", "250 quarantine", "250 quarantine"),
        ("monitor", "reject", "250", "250"),
    ];
    for (mode, unusable_from, mail, bounce) in modes {
        let configure = |c: crate::support::config::ConfigText| {
            c.set("policy.mode", mode).set("policy.unusable_from", unusable_from)
        };
        let world = World::start(zone(), configure).await;
        for (reason, field) in reasons {
            for (sender, expected) in [("a@evil.example", mail), ("", bounce)] {
                let outcome = world.send(&from(BAD, field).sender(sender)).await;
                let name = format!("{reason} from <{sender}>, {mode}, {unusable_from}");
                assert_eq!(outcome.summary(), expected, "{name}");
                if outcome.relayed.is_some() {
                    let results = outcome.results();
                    assert_eq!(results.one("dmarc"), "permerror", "{name}");
                    let expected = format!("From names no usable author domain: {reason}");
                    assert_eq!(results.reason("dmarc"), expected, "{name}");
                } else {
                    assert!(outcome.reply.says("one usable author domain; the"), "{name}: {}", outcome.reply);
                }
            }
        }
    }
}

#[tokio::test]
async fn mail_to_exempt_recipients_alone_is_never_refused() {
    let world =
        World::start(zone(), |c| c.set("policy.exempt_recipients", vec!["postmaster", "abuse@rcpt.example"])).await;
    let cases: [(&[&str], &str); 6] = [
        (&["postmaster@rcpt.example"], "250 quarantine"),
        (&["Postmaster"], "250 quarantine"),
        (&["POSTMASTER@other.example", "Abuse@RCPT.example"], "250 quarantine"),
        (&["abuse@other.example"], "550"),
        (&["postmaster@rcpt.example", "you@rcpt.example"], "550"),
        (&["you@rcpt.example", "postmaster@rcpt.example"], "550"),
    ];
    for field in [&b"From: a@bank.example"[..], b"From: nobody"] {
        for (recipients, expected) in cases {
            let outcome = world.send(&from(BAD, field).to(recipients)).await;
            assert_eq!(outcome.summary(), expected, "{recipients:?} {}", field.escape_ascii());
        }
    }
}

#[tokio::test]
async fn a_recipient_that_the_upstream_refused_does_not_count() {
    use crate::support::rules::{Script, on};
    let script = Script::with_xclient().rule(on("RCPT").with("<you@").reply("550 5.1.1 no such user"));
    let world = World::unprobed(script, zone(), |c| c).await;
    let letter = from(BAD, b"From: a@bank.example").to(&["you@rcpt.example", "postmaster@rcpt.example"]);
    assert_eq!(world.send(&letter).await.summary(), "250 quarantine");
}
