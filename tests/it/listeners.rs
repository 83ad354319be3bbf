//! Listeners with settings of their own: `[listener.policy]`, `[listener.bypass]`, `listener.recipient_domains`.

use toml::{Table, Value};

use crate::explain::story;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::world::{Letter, STRANGER, World};

fn zone() -> Zone {
    Zone::new().txt("a.example", "v=spf1 -all").txt("_dmarc.a.example", "v=DMARC1; p=reject")
}

fn forged() -> Letter {
    Letter::new(STRANGER, "a@a.example")
}

/// A second listener, for clients that a balancer names, too.
fn two(config: ConfigText) -> ConfigText {
    config.another_listener().listener("proxy_protocol_from", vec!["127.0.0.0/8"])
}

async fn world(change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::unprobed(Script::with_xclient(), zone(), |config| change(two(config))).await
}

/// The events of messages, once there are so many.
async fn messages(world: &World, count: usize) -> Vec<serde_json::Value> {
    let is_message = |line: &&String| line.contains("\"message\":\"message\"");
    world.gate.wait_until_log(|lines| lines.iter().filter(is_message).count() >= count).await;
    world.gate.events().into_iter().filter(|event| event["message"] == "message").collect()
}

#[tokio::test]
async fn each_listener_judges_by_its_own_policy_and_says_which() {
    let world = world(|config| config.listener("policy.mode", "tag").set("policy.reject", "always")).await;
    assert_eq!(world.send_to(0, &forged()).await.summary(), "550");
    assert_eq!(world.send_to(1, &forged()).await.summary(), "250 reject");

    let events = messages(&world, 2).await;
    let told: Vec<_> = events.iter().map(|e| (&e["listener"], &e["mode"], &e["policy_table"])).collect();
    let addresses = [0, 1].map(|n| serde_json::Value::from(world.gate.listener(n).to_string()));
    let [enforce, tag, general, own] = ["enforce", "tag", "policy", "listener.policy"].map(serde_json::Value::from);
    assert_eq!(told, [(&addresses[0], &enforce, &general), (&addresses[1], &tag, &own)]);
    let scrape = world.gate.metrics().await;
    assert!(scrape.0.contains("dmarcgate_build_info{mode=\"mixed\""), "{}", scrape.0);
    let count = |mode: &str| scrape.value(&format!("dmarcgate_listeners{{mode=\"{mode}\"}}"));
    assert_eq!([count("monitor"), count("tag"), count("enforce")], [0.0, 1.0, 1.0]);

    let ids: Vec<_> = events.iter().map(|event| event["transaction"].as_str().unwrap()).collect();
    for (n, table) in ["[policy]", "[listener.policy]"].into_iter().enumerate() {
        let story = story(&world, ids[n]).await;
        let expected = format!("{table}, at the listener {}", world.gate.listener(n));
        assert!(story.contains(&expected), "{expected}\n{story}");
    }
    world.gate.wait_for_log("a listener has a policy of its own").await;
}

#[tokio::test]
async fn overrides_of_a_listener_take_the_place_of_the_general_ones() {
    let table = |action: &str| {
        let keys = [("author_domain", "a.example"), ("action", action), ("note", "by the test")];
        let table: Table = keys.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        vec![Value::Table(table)]
    };
    let none: Vec<Value> = Vec::new();
    let world = world(|config| {
        two(config.set("policy.override", table("pass")).listener("policy.override", table("tag")))
            .listener("policy.override", none)
    })
    .await;
    let mut summaries = Vec::new();
    for n in 0..3 {
        summaries.push(world.send_to(n, &forged()).await.summary());
    }
    assert_eq!(summaries, ["250", "250 quarantine", "550"]);
}

#[tokio::test]
async fn trust_in_networks_is_of_one_listener() {
    let world = world(|config| config.listener("bypass.trusted_networks", vec![format!("{STRANGER}/32")])).await;
    assert_eq!(world.send_to(0, &forged()).await.summary(), "550");
    assert_eq!(world.send_to(1, &forged()).await.summary(), "250");
    let events = messages(&world, 2).await;
    assert_eq!((&events[0]["bypass"], &events[1]["bypass"]), (&"".into(), &"trusted_network".into()));
}

#[tokio::test]
async fn each_listener_has_its_relay_guard_and_no_unguarded_one_goes_on_blindly() {
    // The upstream can't see the client.
    let guarded = |config: ConfigText| {
        two(config.set("smtp.recipient_domains", vec!["in.example"])).listener("recipient_domains", vec!["out.example"])
    };
    let mut world = World::with(Script::new(), zone(), guarded).await;
    let try_both = async |world: &World, n: usize| {
        let mut client = Client::introduced(world.gate.listener(n), STRANGER, "client.example").await;
        let codes = [
            client.command("MAIL FROM:<a@b.example>").await.code,
            client.command("RCPT TO:<you@in.example>").await.code,
            client.command("RCPT TO:<you@out.example>").await.code,
        ];
        client.command("QUIT").await.assert(221);
        codes
    };
    assert_eq!(try_both(&world, 0).await, [250, 250, 550]);
    assert_eq!(try_both(&world, 1).await, [250, 550, 250]);

    // Without its own list, that of all holds.
    world.gate.reloaded(|config| config.without_in_listener("recipient_domains")).await;
    assert_eq!(try_both(&world, 1).await, [250, 250, 550]);

    // One port alone is enough for an open relay.
    world.gate.reloaded(|config| config.listener("recipient_domains", Vec::<String>::new())).await;
    assert!(world.wait_for_readiness(503).await.contains("not for every listener"));
    assert_eq!(try_both(&world, 1).await[0], 451);
}

#[tokio::test]
async fn a_reload_changes_each_listener_and_transactions_keep_what_they_began_with() {
    let mut world = world(|config| config.listener("policy.mode", "tag")).await;
    let commands = ["MAIL FROM:<a@a.example>", "RCPT TO:<you@rcpt.example>", "DATA"];
    let mut client = Client::introduced(world.gate.listener(1), STRANGER, "client.example").await;
    client.pipeline(&commands).await[2].assert(354);

    // Its own table is gone: it falls back, from its next transaction on.
    let scrape = world.gate.reloaded(|config| config.without_in_listener("policy")).await;
    assert!(scrape.0.contains("dmarcgate_build_info{mode=\"enforce\""), "{}", scrape.0);
    client.content(&forged().content).await.assert(250);
    client.pipeline(&commands).await[2].assert(354);
    client.content(&forged().content).await.assert(550);
    assert_eq!(world.send_to(1, &forged()).await.summary(), "550");

    // It has one again, and the general one changes beside it.
    let both = |config: ConfigText| config.listener("policy.reject", "never").set("policy.mode", "monitor");
    world.gate.reloaded(both).await;
    assert_eq!(world.send_to(0, &forged()).await.summary(), "250");
    assert_eq!(world.send_to(1, &forged()).await.summary(), "250", "the mode is that of all");
    world.gate.reloaded(|config| config.listener("policy.mode", "enforce")).await;
    assert_eq!(world.send_to(1, &forged()).await.summary(), "250 reject");

    let text = "the configuration was read again";
    let told = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).count() == 3;
    world.gate.wait_until_log(told).await;
    let events = world.gate.events();
    let changed: Vec<_> = events.iter().filter(|e| e["message"] == text).map(|e| e["changed"].clone()).collect();
    assert_eq!(changed, ["listener.policy.mode", "listener.policy.reject policy.mode", "listener.policy.mode"]);
}

#[tokio::test]
async fn a_listener_that_the_file_forgets_goes_on_guarded_until_the_restart() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound").to_string();
    drop(other);
    let mut world = World::with(Script::new(), zone(), |config| {
        config
            .set("smtp.recipient_domains", vec!["in.example"])
            .another_listener()
            .listener("address", address.as_str())
            .listener("policy.mode", "monitor")
    })
    .await;
    let forget = |config: ConfigText| config.without_listener().unset("smtp.recipient_domains");
    world.gate.reloaded(|config| forget(config).listener("recipient_domains", vec!["in.example"])).await;
    world.gate.wait_for_log("needs a restart").await;
    let mut client = Client::connect(world.gate.listener(1)).await;
    client.expect(220).await;
    client.command("EHLO client.example").await.assert(250);
    client.command("MAIL FROM:<a@b.example>").await.assert(250);
    client.command("RCPT TO:<you@out.example>").await.assert(550);
    client.command("RCPT TO:<you@in.example>").await.assert(250);
}
