//! SIGHUP: what a new configuration changes at once, what it can't change, and what a wrong one does not.

use crate::support::client::Client;
use crate::support::dns::Zone;
use crate::support::gate::APPLIED;
use crate::support::rules::Script;
use crate::support::upstream::Upstream;
use crate::support::world::{Letter, MESSAGE, STRANGER, World};

const REFUSED: &str = "dmarcgate_config_reloads_total{result=\"refused\"}";
const LOADED: &str = "dmarcgate_config_loaded_seconds";

fn forged() -> Letter {
    Letter::new(STRANGER, "a@a.example")
}

fn zone() -> Zone {
    Zone::new().txt("a.example", "v=spf1 -all").txt("_dmarc.a.example", "v=DMARC1; p=reject")
}

#[tokio::test]
async fn a_transaction_keeps_what_it_began_with_and_the_next_has_the_new() {
    let mut world = World::start(zone(), |c| c).await;
    world.wait_for_readiness(200).await;
    let mut client = world.client().await;
    let commands = ["MAIL FROM:<a@a.example>", "RCPT TO:<you@rcpt.example>", "DATA"];
    client.pipeline(&commands).await[2].assert(354);
    let scrape = world.gate.reloaded(|c| c.set("policy.mode", "tag").set("smtp.banner", "hello")).await;
    let told = |mode: &str| scrape.0.contains(&format!("dmarcgate_build_info{{mode=\"{mode}\""));
    assert!(told("tag") && !told("enforce"), "{}", scrape.0);
    assert!(scrape.value(LOADED) > 1.7e9);
    client.content(&forged().content).await.assert(550);
    client.pipeline(&commands).await[2].assert(354);
    client.content(&forged().content).await.assert(250);
    assert_eq!(world.send(&forged()).await.summary(), "250 reject");

    world.gate.wait_for_log("the configuration was read again").await;
    let events = world.gate.events();
    let event = events.iter().find(|e| e["message"] == "the configuration was read again").unwrap();
    assert_eq!(event["changed"], "policy.mode smtp.banner");
    assert!(!world.gate.log().iter().any(|line| line.contains("needs a restart")));
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing_and_is_told_in_full() {
    let world = World::start(zone(), |c| c).await;
    let loaded = world.gate.metrics().await.value(LOADED);
    world.gate.reload_text("[upstream]\nservers = [\"127.0.0.1:25\"]\n[policy]\nmode = \"tog\"\nrejct = 1\n");
    world.gate.wait_for_log("all stays as it was").await;
    let events = world.gate.events();
    let wrong: Vec<_> = events.iter().filter(|e| e["message"] == "the configuration is wrong").collect();
    let told = |key: &str, line: u64, part: &str| {
        wrong.iter().any(|e| {
            e["level"] == "ERROR"
                && e["key"] == key
                && e["line"] == line
                && e["file"].as_str().is_some_and(|f| f.ends_with("dmarcgate.toml"))
                && e["problem"].as_str().is_some_and(|p| p.contains(part))
        })
    };
    assert!(told("policy.mode", 4, "expected one of \"monitor\", \"tag\", \"enforce\""), "{wrong:#?}");
    assert!(told("policy.rejct", 5, "did you mean policy.reject?"), "{wrong:#?}");
    let scrape = world.gate.metrics().await;
    assert_eq!((scrape.value(REFUSED), scrape.value(APPLIED), scrape.value(LOADED)), (1.0, 0.0, loaded));
    assert_eq!(world.send(&forged()).await.summary(), "550");

    std::fs::remove_file(world.gate.directory().join("dmarcgate.toml")).unwrap();
    world.gate.signal("HUP");
    world.gate.wait_for_log("the configuration can't be read").await;
    world.wait_for_count(REFUSED, 2.0).await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_left() {
    let mut world = World::start(zone(), |c| c).await;
    let change = |c: crate::support::config::ConfigText| {
        c.set("spool.memory", "1MiB").set("log.format", "human").another_listener().set("policy.mode", "monitor")
    };
    world.gate.reloaded(change).await;
    let text = "what was changed in the configuration needs a restart";
    let line = world.gate.wait_for_log(text).await;
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&event["keys"], &event["level"]), (&"listener.address spool.memory log.format".into(), &"WARN".into()));
    assert_eq!(world.send(&forged()).await.summary(), "250");
    // It is said again as long as it is so.
    world.gate.reloaded(|c| c).await;
    world.gate.wait_until_log(|lines| lines.iter().filter(|line| line.contains(text)).count() == 2).await;
}

#[tokio::test]
async fn another_upstream_takes_the_next_transaction() {
    let mut world = World::with(Script::with_xclient(), zone(), |c| c.set("policy.mode", "monitor")).await;
    let mut client = world.client().await;
    client.deliver("a@a.example", &["one@rcpt.example"], MESSAGE).await.outcome().assert(250);
    let other = Upstream::start(Script::with_xclient()).await;
    let address = other.address().to_string();
    world.gate.reloaded(|c| c.set("upstream.servers", vec![address])).await;
    // The session goes on, and the new server is probed.
    client.deliver("a@a.example", &["two@rcpt.example"], MESSAGE).await.outcome().assert(250);
    other.wait_until("a probe and a session", |seen| seen.len() >= 2).await;
    assert_eq!((world.upstream.messages().len(), other.messages().len()), (1, 1));
    world.wait_for_readiness(200).await;

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    world.gate.reloaded(|c| c.set("upstream.servers", vec![nobody])).await;
    assert!(world.wait_for_readiness(503).await.contains("\nupstream: "));
}

#[tokio::test]
async fn an_upstream_that_is_left_unguarded_gets_nothing_more_in_any_session() {
    // It can't be told who the client is, so the list of recipients guards it.
    let mut world = World::with(Script::new(), zone(), |c| c.set("smtp.recipient_domains", vec!["rcpt.example"])).await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@b.example>").await.assert(250);
    client.command("RCPT TO:<you@elsewhere.example>").await.assert(550);
    client.command("RSET").await.assert(250);
    world.gate.reloaded(|c| c.unset("smtp.recipient_domains")).await;
    client.command("MAIL FROM:<a@b.example>").await.assert(451);
    assert!(world.wait_for_readiness(503).await.contains("\nrelay_guard: "));
    world.gate.reloaded(|c| c.set("smtp.recipient_domains", vec!["elsewhere.example"])).await;
    client.command("MAIL FROM:<a@b.example>").await.assert(250);
    client.command("RCPT TO:<you@rcpt.example>").await.assert(550);
    client.command("RCPT TO:<you@elsewhere.example>").await.assert(250);
    world.wait_for_readiness(200).await;
}

#[tokio::test]
async fn the_bound_on_sessions_grows_and_shrinks() {
    const LIMIT: &str = "dmarcgate_sessions_limit";
    let mut world = World::with(Script::new(), zone(), |c| c.set("limits.sessions", 1)).await;
    assert_eq!(world.gate.metrics().await.value(LIMIT), 1.0);
    let first = world.client().await;
    Client::connect(world.gate.address()).await.expect(421).await;
    assert_eq!(world.gate.reloaded(|c| c.set("limits.sessions", 2)).await.value(LIMIT), 2.0);
    let mut second = world.client().await;
    assert_eq!(world.gate.reloaded(|c| c.set("limits.sessions", 1)).await.value(LIMIT), 1.0);
    second.command("NOOP").await.assert(250);
    second.command("QUIT").await.assert(221);
    drop(second);
    world.wait_for_count("dmarcgate_sessions_active", 1.0).await;
    Client::connect(world.gate.address()).await.expect(421).await;
    drop(first);
}

#[tokio::test]
async fn a_listener_takes_its_settings_over_by_its_address() {
    let mut world = World::with(Script::new(), zone(), |c| {
        c.another_listener().listener("proxy_protocol_from", vec!["127.0.0.0/8"])
    })
    .await;
    world.gate.reloaded(|c| c.listener("proxy_protocol_from", Vec::<String>::new())).await;
    // Without a header, since none is due any more; at the first listener it still is.
    Client::connect(world.gate.listener(1)).await.expect(220).await;
    world.client().await.command("QUIT").await.assert(221);
}

#[tokio::test]
async fn the_log_says_more_when_it_is_told_to() {
    for format in ["json", "human"] {
        let mut world = World::with(Script::new(), zone(), |c| c.set("log.format", format)).await;
        let mut client = world.client().await;
        client.command("QUIT").await.assert(221);
        drop(client);
        world.gate.reloaded(|c| c.set("log.level", "debug")).await;
        assert!(!world.gate.log().iter().any(|line| line.contains("DEBUG")), "{format}");
        // A client that goes without a word is a debug line.
        drop(world.client().await);
        world.gate.wait_for_log("session ended").await;
    }
}
