//! `[[policy.override]]`: each kind of evidence, matched and nearly matched, over real sockets.

use toml::{Table, Value};

use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

/// The forwarder's address; its host name is confirmed.
const FORWARDER: &str = "192.0.2.10";
/// Somebody whose reverse name claims to be the forwarder's, which it is not.
const PRETENDER: &str = "198.51.100.66";
const VICTIM: &str = "ceo@victim.example";

fn zone() -> Zone {
    Zone::new()
        .txt("victim.example", "v=spf1 -all")
        .txt("_dmarc.victim.example", "v=DMARC1; p=reject; rua=mailto:r@victim.example")
        .txt("fwd.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("s._domainkey.fwd.example", &SigningKey::ed25519().record())
        .ptr(FORWARDER, "mx.fwd.example")
        .a("mx.fwd.example", FORWARDER)
        .ptr(PRETENDER, "mx.fwd.example")
        .txt("doubt.example", "v=spf1 include:broken.example -all")
        .serv_fail("broken.example", crate::support::dns::RecordType::TXT)
        .txt("_dmarc.doubt.example", "v=DMARC1; p=reject")
}

/// One table: criteria, action, note.
fn table(criteria: &[(&str, &str)], action: &str) -> Value {
    let mut table: Table = criteria.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    table.insert("action".into(), action.into());
    table.insert("note".into(), format!("{action} by the test").into());
    Value::Table(table)
}

async fn world(overrides: Vec<Value>) -> World {
    World::unprobed(Script::with_xclient(), zone(), |config| config.set("policy.override", overrides)).await
}

fn forged(ip: &str) -> Letter {
    Letter::with_header(ip, "bounce@fwd.example", &format!("From: {VICTIM}\r\nSubject: s\r\n"))
}

fn signed(mut letter: Letter) -> Letter {
    letter.content = Signer::new(SigningKey::ed25519(), "fwd.example", "s").sign(&letter.content);
    letter
}

#[tokio::test]
async fn each_kind_of_evidence_lets_by_what_it_fits_and_nothing_else() {
    let helo = |letter: Letter| letter.helo("mx.fwd.example");
    let listed = |letter: Letter| letter.field("List-Id: Talk <talk.fwd.example>\r\n");
    let cases = [
        ("network", vec![("network", "192.0.2.8/29")], forged(FORWARDER), helo(forged(PRETENDER))),
        ("host", vec![("host", "fwd.example")], forged(FORWARDER), helo(forged(PRETENDER))),
        ("dkim", vec![("dkim", "fwd.example")], signed(forged(PRETENDER)), {
            let mut broken = signed(forged(PRETENDER));
            broken.content.extend_from_slice(b"more\r\n");
            broken
        }),
        ("spf", vec![("spf", "fwd.example")], forged(FORWARDER), helo(forged(PRETENDER))),
        (
            "author and network",
            vec![("author_domain", "victim.example"), ("network", FORWARDER)],
            forged(FORWARDER),
            forged(PRETENDER),
        ),
        (
            "list and signature",
            vec![("list_id", "fwd.example"), ("dkim", "fwd.example")],
            listed(signed(forged(PRETENDER))),
            listed(forged(PRETENDER)),
        ),
        (
            "recipient",
            vec![("recipient_domain", "rcpt.example")],
            forged(PRETENDER),
            forged(PRETENDER).to(&["you@rcpt.example", "you@elsewhere.example"]),
        ),
    ];
    for (name, criteria, fits, nearly) in cases {
        let world = world(vec![table(&criteria, "pass")]).await;
        let outcome = world.send(&fits).await;
        assert_eq!(outcome.summary(), "250", "{name}: {}", outcome.reply);
        assert!(outcome.results().one("dmarc").starts_with("fail"), "{name}: the header tells the truth");
        let outcome = world.send(&nearly).await;
        assert_ne!(outcome.summary(), "250", "{name}, nearly: {}", outcome.reply);
    }
}

#[tokio::test]
async fn the_first_that_fits_rules_and_is_told() {
    let overrides = vec![
        table(&[("author_domain", "other.example")], "reject"),
        table(&[("network", FORWARDER)], "tag"),
        table(&[("spf", "fwd.example")], "pass"),
    ];
    let world = world(overrides).await;
    assert_eq!(world.send(&forged(FORWARDER)).await.summary(), "250 quarantine");
    world.gate.wait_for_log("tag by the test").await;
    let event = world.gate.events().into_iter().find(|event| event["message"] == "message").unwrap();
    assert_eq!(
        (&event["rule"], &event["override"]),
        (&"override".into(), &"trusted_forwarder (tag by the test)".into())
    );
    world.wait_for_count("dmarcgate_decisions_total{rule=\"override\"}", 1.0).await;
    crate::rows::written(&world.gate, 1).await;
    let reasons = crate::rows::column(world.gate.directory(), "reasons").await;
    assert_eq!(reasons, r#"[{"type":"trusted_forwarder","comment":"tag by the test"}]"#);
}

#[tokio::test]
async fn whom_the_operator_lets_by_is_not_deferred_for_dns() {
    let doubtful = |ip: &str| Letter::new(ip, "a@doubt.example");
    let world = world(vec![table(&[("network", FORWARDER)], "pass")]).await;
    assert_eq!(world.send(&doubtful(PRETENDER)).await.summary(), "451");
    assert_eq!(world.send(&doubtful(FORWARDER)).await.summary(), "250");
}

#[tokio::test]
async fn an_override_may_be_stricter_than_the_policy_and_the_signs() {
    let listed = forged(PRETENDER).field("List-Id: <l.lists.example>\r\n");
    let strict = world(vec![table(&[("author_domain", "victim.example")], "reject")]).await;
    assert_eq!(strict.send(&listed).await.summary(), "550");
    assert_eq!(strict.send(&listed.clone().to(&["postmaster@rcpt.example"])).await.summary(), "250 quarantine");
    let plain = world(Vec::new()).await;
    assert_eq!(plain.send(&listed).await.summary(), "250 quarantine");
}

/// A letter with an ARC chain of these sealers, each sealing what the one before has sent on.
fn sealed(letter: Letter, sealers: &[&str]) -> Letter {
    let content = sealers.iter().enumerate().fold(letter.content.clone(), |message, (index, sealer)| {
        let cv = if index == 0 { "none" } else { "pass" };
        let said = "dmarc=pass header.from=victim.example";
        let set = Signer::new(SigningKey::ed25519(), sealer, "s").arc_set_saying(&message, index + 1, cv, said);
        [set.as_bytes(), &message].concat()
    });
    letter.content(content)
}

#[tokio::test]
async fn a_sealer_counts_if_he_is_the_newest_of_a_chain_that_validates() {
    let zone = zone().txt("s._domainkey.stranger.example", &SigningKey::ed25519().record());
    let overrides = vec![table(&[("arc_sealer", "fwd.example")], "pass")];
    let world = World::start(zone, |config| config.set("policy.override", overrides)).await;
    let changed = |mut letter: Letter| {
        letter.content.extend_from_slice(b"more\r\n");
        letter
    };
    let cases = [
        ("he alone", sealed(forged(PRETENDER), &["fwd.example"]), "250"),
        ("he above a stranger", sealed(forged(PRETENDER), &["stranger.example", "fwd.example"]), "250"),
        ("a stranger above him", sealed(forged(PRETENDER), &["fwd.example", "stranger.example"]), "250 quarantine"),
        ("changed after his seal", changed(sealed(forged(PRETENDER), &["fwd.example"])), "550"),
        ("sealed by who has no key of his", sealed(forged(PRETENDER), &["sub.fwd.example"]), "550"),
    ];
    for (name, letter, expected) in cases {
        assert_eq!(world.send(&letter).await.summary(), expected, "{name}");
    }
}

/// Each kind of evidence that can be named, and trusted sealers besides: all that a forger may try to look like.
fn all_that_is_trusted() -> Vec<Value> {
    let kinds = ["host", "dkim", "spf", "arc_sealer"].map(|kind| table(&[(kind, "fwd.example")], "pass"));
    let mut overrides = Vec::from(kinds);
    overrides.push(table(&[("network", FORWARDER)], "pass"));
    overrides.push(table(&[("list_id", "fwd.example"), ("spf", "fwd.example")], "pass"));
    overrides
}

#[tokio::test]
async fn forged_evidence_never_gets_a_forgery_by_without_a_mark() {
    let zone =
        zone().txt("_dmarc.fwd.example", "v=DMARC1; p=none").txt("fake._domainkey.evil.example", "v=DKIM1; p=AAAA");
    let world = World::start(zone, |config| {
        let config = config.set("policy.override", all_that_is_trusted());
        config.set("policy.trusted_sealers", vec!["fwd.example"])
    });
    let world = world.await;
    let broken = |mut letter: Letter| {
        letter.content.extend_from_slice(b"more\r\n");
        letter
    };
    let by = |signer: Signer<'_>| {
        let letter = forged(PRETENDER);
        let content = signer.sign(&letter.content);
        letter.content(content)
    };
    let rsa = SigningKey::rsa();
    let results = "dkim=pass header.d=fwd.example; spf=pass smtp.mailfrom=fwd.example; \
                   dmarc=pass header.from=victim.example";
    let from_both = format!("From: {VICTIM}, a@fwd.example\r\nSubject: s\r\n");
    let cases = [
        ("the name in EHLO", forged(PRETENDER).helo("mx.fwd.example")),
        ("the name in EHLO, of a null reverse-path", forged(PRETENDER).helo("fwd.example").sender("")),
        ("the address in EHLO", forged(PRETENDER).helo("[192.0.2.10]")),
        ("a reverse-path that fails SPF", forged(PRETENDER)),
        ("a reverse-path of a name below that has no record", forged(PRETENDER).sender("x@sub.fwd.example")),
        ("a signature that does not fit", broken(signed(forged(PRETENDER)))),
        ("a signature by another key", by(Signer::new(rsa, "fwd.example", "s"))),
        ("a signature whose key does not exist", by(Signer::new(rsa, "fwd.example", "none"))),
        ("a signature of a neighbour's name", by(Signer::new(rsa, "fwd.example.evil.example", "fake"))),
        ("an i= of his", by(Signer::new(rsa, "evil.example", "fake").set("i", "@fwd.example"))),
        ("List-Id", forged(PRETENDER).field("List-Id: Talk <talk.fwd.example>\r\n")),
        ("a chain by another key", {
            let letter = forged(PRETENDER);
            let set = Signer::new(rsa, "fwd.example", "s").arc_set_saying(&letter.content, 1, "none", results);
            letter.field(&set)
        }),
        ("a chain that is broken", broken(sealed(forged(PRETENDER), &["fwd.example"]))),
        (
            "results in our name",
            forged(PRETENDER).field(&format!("Authentication-Results: mx.gate.example; {results}\r\n")),
        ),
        ("results in his", forged(PRETENDER).field(&format!("Authentication-Results: mx.fwd.example; {results}\r\n"))),
        (
            "ARC results alone",
            forged(PRETENDER).field(&format!("ARC-Authentication-Results: i=1; fwd.example; {results}\r\n")),
        ),
        ("Received-SPF", forged(PRETENDER).field("Received-SPF: pass (mx.gate.example: x) client-ip=192.0.2.10;\r\n")),
        ("a mark that says nothing", forged(PRETENDER).field("X-DMARC-Fail-policy: none\r\n")),
        (
            "Received by him",
            forged(PRETENDER).field("Received: from mx.fwd.example ([192.0.2.10]) by mx.gate.example; x\r\n"),
        ),
        ("Sender and Resent-From", forged(PRETENDER).field("Sender: a@fwd.example\r\nResent-From: a@fwd.example\r\n")),
        ("his author domain beside the victim's", Letter::with_header(PRETENDER, "bounce@fwd.example", &from_both)),
    ];
    for (name, letter) in cases {
        let outcome = world.send(&letter).await;
        let summary = outcome.summary();
        assert!(["550", "250 quarantine"].contains(&&*summary), "{name}: {}", outcome.reply);
        if outcome.relayed.is_some() {
            let relayed = String::from_utf8_lossy(&outcome.relayed().content).into_owned();
            assert_eq!(relayed.matches("X-DMARC-Fail-policy").count(), 1, "{name}: {relayed}");
        }
    }
    // What it would take.
    assert_eq!(world.send(&signed(forged(PRETENDER))).await.summary(), "250");
}

#[tokio::test]
async fn no_sign_and_not_all_of_them_make_a_pass_of_a_refusal() {
    let key = SigningKey::ed25519();
    let zone = zone().txt("s._domainkey.victim.example", &key.record());
    let world = World::start(zone, |config| config).await;
    let broken = |mut letter: Letter| {
        letter.content = Signer::new(key, "victim.example", "s").sign(&letter.content);
        letter.content.extend_from_slice(b"more\r\n");
        letter
    };
    let unsigned_end = |letter: Letter| {
        let content = Signer::new(key, "victim.example", "s").set("l", "Hello.\r\n".len()).sign(&letter.content);
        letter.content([&content, &b"more\r\n"[..]].concat())
    };
    let list = |letter: Letter| letter.field("List-Id: <l.fwd.example>\r\nList-Post: <mailto:l@fwd.example>\r\n");
    let cases = [
        ("nothing", forged(PRETENDER), "550"),
        ("a broken signature", broken(forged(PRETENDER)), "250 quarantine"),
        ("text beyond l=", unsigned_end(forged(PRETENDER)), "250 quarantine"),
        ("list fields", list(forged(PRETENDER)), "250 quarantine"),
        ("a chain", sealed(forged(PRETENDER), &["fwd.example"]), "250 quarantine"),
        ("all of them", sealed(list(broken(forged(PRETENDER))), &["fwd.example"]), "250 quarantine"),
        (
            "all of them, and SPF of the forwarder",
            sealed(list(broken(forged(FORWARDER))), &["fwd.example"]),
            "250 quarantine",
        ),
    ];
    for (name, letter, expected) in cases {
        let outcome = world.send(&letter).await;
        assert_eq!(outcome.summary(), expected, "{name}: {}", outcome.reply);
    }
}

#[tokio::test]
async fn an_override_that_has_ended_fits_no_more() {
    for (until, expected) in [("2999-12-31", "250"), ("2000-01-01", "550")] {
        let mut ends = table(&[("network", FORWARDER)], "pass");
        ends.as_table_mut().unwrap().insert("until".into(), until.into());
        assert_eq!(world(vec![ends]).await.send(&forged(FORWARDER)).await.summary(), expected, "{until}");
    }
}

#[tokio::test]
async fn reason_and_note_stand_in_row_and_log() {
    let listed = || signed(forged(PRETENDER)).field("List-Id: <talk.fwd.example>\r\n");
    let both = [("list_id", "fwd.example"), ("dkim", "fwd.example")];
    let cases = [
        ("verified", vec![("spf", "fwd.example")], "pass", None, forged(FORWARDER), "trusted_forwarder", "none"),
        (
            "verified, marked",
            vec![("network", FORWARDER)],
            "tag",
            None,
            forged(FORWARDER),
            "trusted_forwarder",
            "quarantine",
        ),
        ("a list", Vec::from(both), "pass", None, listed(), "mailing_list", "none"),
        (
            "a claim",
            vec![("author_domain", "victim.example")],
            "tag",
            None,
            forged(PRETENDER),
            "local_policy",
            "quarantine",
        ),
        (
            "refused",
            vec![("author_domain", "victim.example")],
            "reject",
            None,
            forged(PRETENDER),
            "local_policy",
            "reject",
        ),
        ("as it is set", vec![("network", FORWARDER)], "pass", Some("other"), forged(FORWARDER), "other", "none"),
    ];
    for (name, criteria, action, reason, letter, kind, disposition) in cases {
        let mut one = table(&criteria, action);
        if let Some(reason) = reason {
            one.as_table_mut().unwrap().insert("reason".into(), reason.into());
        }
        let world = world(vec![one]).await;
        world.send(&letter).await;
        let note = format!("{action} by the test");
        crate::rows::written(&world.gate, 1).await;
        let reasons = crate::rows::column(world.gate.directory(), "reasons").await;
        assert_eq!(reasons, format!(r#"[{{"type":"{kind}","comment":"{note}"}}]"#), "{name}");
        assert_eq!(crate::rows::column(world.gate.directory(), "disposition").await, disposition, "{name}");
        world.gate.wait_for_log(&format!("\"override\":\"{kind} ({note})\"")).await;
    }
}
