//! `[replies]`: the operator's words on the wire, in the explanation, and at a reload.

use crate::explain::{id, story};
use crate::support::dns::{RecordType, Zone};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    Zone::new()
        .txt("victim.example", "v=spf1 -all")
        .txt("_dmarc.victim.example", "v=DMARC1; p=reject")
        .txt("s._domainkey.thief.example", &SigningKey::ed25519().record())
        .txt("_dmarc.doubt.example", "v=DMARC1; p=reject")
        .serv_fail("doubt.example", RecordType::TXT)
}

fn forged() -> Letter {
    Letter::new(BAD, "ceo@victim.example")
}

#[tokio::test]
async fn the_operators_words_are_what_clients_read() {
    let world = World::start(zone(), |config| {
        let refused = vec!["{domain} asks to refuse this ({policy} at {policy_domain}).", "Help: {help_url}"];
        config
            .set("replies.refused", refused)
            .set("replies.deferred", "Wait: {reason}")
            .set("replies.help_url", "https://example.net/dmarc?id={id}")
    });
    let world = world.await;

    let reply = world.send(&forged()).await.reply;
    let first = id(&world, 1).await;
    let expected = format!(
        "550-5.7.1 victim.example asks to refuse this (reject at victim.example).\r\n\
         550 5.7.1 Help: https://example.net/dmarc?id={first} (DMARC, id {first})\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&reply.raw), expected);
    let told = expected.trim_end().replace("\r\n", " / ");
    let story = story(&world, &first).await;
    assert!(story.contains(&format!("by the gate     {told}\n")), "{story}");
    assert!(story.contains(&format!("  reply         {told}\n")), "{story}");
    world.gate.wait_for_log("asks to refuse this").await;
    let event = world.gate.events().into_iter().find(|event| event["message"] == "message").unwrap();
    assert_eq!(event["transaction"].as_str(), Some(&*first));
    assert!(event["reply"].as_str().is_some_and(|text| text.starts_with("550 5.7.1 victim.example asks")), "{event}");

    let headless = Letter::with_header(BAD, "a@victim.example", "Subject: s\r\n");
    let reply = world.send(&headless).await.reply;
    assert_eq!(reply.lines.len(), 2, "{reply}");
    assert!(reply.lines[0].starts_with("5.7.1 Email rejected: DMARC needs a From"), "{reply}");
    assert_eq!(reply.lines[1], format!("5.7.1 For help see https://example.net/dmarc?id={}", id(&world, 2).await));

    let reply = world.send(&Letter::new(BAD, "a@doubt.example")).await.reply;
    let text = format!("451 4.7.0 Wait: temporary DNS failure (id {})\r\n", id(&world, 3).await);
    assert_eq!(String::from_utf8_lossy(&reply.raw), text);
}

#[tokio::test]
async fn a_limit_of_the_gates_own_is_not_told_as_a_failure_of_dns() {
    let world = World::start(zone(), |config| config.set("limits.lookups", 20)).await;
    // One question for SPF and one for each of twenty keys, none of which exists: the last is one too many.
    let mut letter = forged();
    for n in 0..20 {
        let selector = format!("s{n}");
        letter.content = Signer::new(SigningKey::ed25519(), "victim.example", &selector).sign(&letter.content);
    }
    let reply = world.send(&letter).await.reply;
    let id = id(&world, 1).await;
    let why = "DNS look-ups reached a limit of the receiver";
    let text = format!(
        "451 4.7.0 DMARC for victim.example could not be evaluated: {why}, please try again later (id {id})\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&reply.raw), text);
    let story = story(&world, &id).await;
    for told in [
        "temperror: key look-up failed: budget\n",
        "FAILED: too many look-ups for one message, or answers too large together\n",
        &format!("override      other: {why}\n"),
    ] {
        assert!(story.contains(told), "{told}\n{story}");
    }
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_dns_failures_total{failure=\"budget\"}"), 1.0);
    assert_eq!(scrape.value("dmarcgate_limits_reached_total{limit=\"lookups\"}"), 1.0);
}

#[tokio::test]
async fn where_both_checks_failed_the_code_says_so() {
    let world = World::start(zone(), |config| config.set("policy.reject", "always")).await;
    let mut letter = forged();
    letter.content = Signer::new(SigningKey::ed25519(), "thief.example", "s").sign(&letter.content);
    letter.content.extend_from_slice(b"more\r\n");
    let reply = world.send(&letter).await.reply;
    assert!(reply.code == 550 && reply.lines[0].starts_with("5.7.26 Email rejected per DMARC policy"), "{reply}");
    // Nothing failed but the policy where the message is not signed.
    let reply = world.send(&forged()).await.reply;
    assert!(reply.code == 550 && reply.lines[0].starts_with("5.7.1 Email rejected per DMARC policy"), "{reply}");
}

#[tokio::test]
async fn a_reload_takes_new_words_and_refuses_wrong_ones() {
    let mut world = World::start(zone(), |config| config).await;
    world.gate.reloaded(|config| config.set("replies.refused", "DMARC says no to {client_ip}, {id}")).await;
    let reply = world.send(&forged()).await.reply;
    assert_eq!(reply.lines, [format!("5.7.1 DMARC says no to {BAD}, {}", id(&world, 1).await)]);

    world.gate.reload(|config| config.set("replies.refused", vec!["fine", "not {fine}"]));
    world.gate.wait_for_log("all stays as it was").await;
    let events = world.gate.events();
    let event = events.iter().find(|event| event["message"] == "the configuration is wrong").unwrap();
    assert_eq!(event["key"], "replies.refused");
    let problem = event["problem"].as_str().unwrap();
    assert!(
        problem.starts_with("\"not {fine}\" is not allowed; expected one of the placeholders {domain}, "),
        "{problem}"
    );
    let reply = world.send(&forged()).await.reply;
    assert!(reply.lines[0].starts_with("5.7.1 DMARC says no to "), "{reply}");
}
