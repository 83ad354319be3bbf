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
