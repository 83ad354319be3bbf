//! SIGHUP: what a new configuration changes at once, what it can't change, and what a wrong one does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::Client;
use crate::support::config::ConfigText;
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
async fn bounds_of_sessions_reach_those_that_run_and_leave_a_transaction_as_it_is() {
    let mut world = World::with(Script::new(), Zone::new(), |c| c).await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.command("RCPT TO:<x@b.example>").await.assert(250);
    world.gate.reloaded(|c| c.set("limits.recipients", 1).set("limits.errors", 1)).await;
    client.command("RCPT TO:<y@b.example>").await.assert(250);
    for _ in 0..2 {
        client.command("NONSENSE").await.assert(500);
    }
    client.command("NOOP").await.assert(250);

    // The transaction is over; that errors of before it count is found out with the next command.
    client.send(b"RSET\r\n").await;
    client.expect(250).await;
    client.expect(421).await;
    client.expect_close().await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.command("RCPT TO:<x@b.example>").await.assert(250);
    client.command("RCPT TO:<y@b.example>").await.assert(452);
}

#[tokio::test]
async fn a_size_that_was_told_at_ehlo_holds_until_another_is_told() {
    let mut world = World::with(Script::new(), Zone::new(), |c| c).await;
    let mut client = world.client().await;
    world.gate.reloaded(|c| c.set("limits.message_size", "64KiB").set("limits.header_size", "64KiB")).await;
    client.command("MAIL FROM:<a@a.example> SIZE=100000").await.assert(250);
    client.command("RSET").await.assert(250);
    assert!(client.command("EHLO client.example").await.says("SIZE 65536"));
    client.command("MAIL FROM:<a@a.example> SIZE=100000").await.assert(552);
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
async fn a_session_from_before_xclient_tells_the_client_s_name_all_the_same() {
    let zone = Zone::new().ptr(STRANGER, "mail.client.example").a("mail.client.example", STRANGER);
    let mut world = World::with(Script::new().proxy(), zone, |c| c.set("upstream.identity", "proxy-v2")).await;
    let mut client = world.client().await;
    client.deliver("x@c.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
    let next = Upstream::start(Script::with_xclient()).await;
    let address = next.address().to_string();
    world.gate.reloaded(|c| c.set("upstream.identity", "xclient").set("upstream.servers", vec![address])).await;
    client.deliver("x@c.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
    assert_eq!(next.messages()[0].xclient["NAME"], "mail.client.example");
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

#[tokio::test]
async fn the_command_reloads_and_tells_what_became_of_it() {
    const SUCCESSFUL: &str = "dmarcgate_config_last_reload_successful";
    let mut world = World::start(zone(), |c| c).await;
    let admin = world.gate.admin().to_string();
    let reload = async |world: &World| {
        let output = world.gate.run(&["reload", "--admin", &admin]).await;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    assert_eq!(world.gate.metrics().await.value(SUCCESSFUL), 1.0);
    let good = world.gate.config().clone().set("policy.mode", "tag").set("spool.memory", "1MiB");
    world.gate.write_config(&good.text());
    let (code, text) = reload(&world).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("in force, changed: policy.mode\n"), "{text}");
    assert!(text.contains("a restart is needed for: spool.memory\n"), "{text}");
    assert!(text.contains("warning: policy.mode is tag"), "{text}");
    assert_eq!(world.send(&forged()).await.summary(), "250 reject");

    world.gate.write_config("[upstream]\nservers = [\"127.0.0.1:25\"]\n[policy]\nmode = \"tog\"\nrejct = 1\n");
    let (code, text) = reload(&world).await;
    assert_eq!(code, Some(2), "{text}");
    let parts =
        ["dmarcgate.toml:4: policy.mode: \"tog\" is not allowed", "dmarcgate.toml:5: policy.rejct: unknown key"];
    assert!(parts.iter().all(|part| text.contains(part)) && text.contains("the one before stays in force"), "{text}");
    let scrape = world.gate.metrics().await;
    assert_eq!((scrape.value(REFUSED), scrape.value(APPLIED), scrape.value(SUCCESSFUL)), (1.0, 1.0, 0.0));
    assert_eq!(world.send(&forged()).await.summary(), "250 reject");

    // SIGHUP goes the same way.
    world.gate.reloaded(|c| c).await;
    assert_eq!(world.gate.metrics().await.value(SUCCESSFUL), 1.0);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = world.gate.run(&["reload", "--admin", &nobody]).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two policies that differ in several keys, each seen in what becomes of a message.
fn first(config: ConfigText) -> ConfigText {
    config.set("authserv_id", "first.gate.example").set("policy.mode", "enforce").set("policy.reject", "always")
}

fn second(config: ConfigText) -> ConfigText {
    let keys = [("author_domain", "q.example"), ("action", "pass"), ("note", "by the second")];
    let table: toml::Table = keys.iter().map(|(key, value)| ((*key).to_owned(), toml::Value::from(*value))).collect();
    config
        .set("authserv_id", "second.gate.example")
        .set("policy.mode", "tag")
        .set("policy.override", vec![toml::Value::Table(table)])
        .set("results.received_spf", true)
}

#[tokio::test]
async fn a_storm_of_reloads_drops_no_session_and_no_message_has_half_a_policy() {
    const RELOADS: usize = 100;
    let zone = zone().txt("q.example", "v=spf1 -all").txt("_dmarc.q.example", "v=DMARC1; p=quarantine");
    let world = World::with(Script::with_xclient(), zone, first).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (over, gate) = (Arc::clone(&over), world.gate.address());
        senders.spawn(async move {
            let mut client = Client::introduced(gate, STRANGER, "client.example").await;
            let (mut accepted, mut refused) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                for author in ["a@a.example", "a@q.example"] {
                    let content = Letter::new(STRANGER, author).content;
                    let delivery = client.deliver(author, &["you@rcpt.example"], &content).await;
                    match delivery.outcome().code {
                        250 => accepted += 1,
                        550 if author == "a@a.example" => refused += 1,
                        code => panic!("{author}: {code}\n{}", client.transcript()),
                    }
                }
            }
            client.command("QUIT").await.assert(221);
            (accepted, refused)
        });
    }

    let base = world.gate.config().clone().unset("authserv_id").unset("policy.mode").unset("policy.reject");
    let (one, two) = (first(base.clone()).text(), second(base.clone()).text());
    let broken = ["[policy\n".to_owned(), format!("nonsense = 1\n{one}"), two.replace("\"tag\"", "\"tog\"")];
    for n in 0..RELOADS {
        let text = match n % 4 {
            0 => &two,
            2 => &one,
            _ => &broken[n % broken.len()],
        };
        world.gate.reload_text(text);
        let done = (n + 1) as f64;
        let is_done = |scrape: &crate::support::gate::Scrape| scrape.value(APPLIED) + scrape.value(REFUSED) == done;
        world.gate.wait_for_metrics("one more reload", is_done).await;
    }
    over.store(true, Ordering::Relaxed);
    let (mut accepted, mut refused) = (0, 0);
    while let Some(counts) = senders.join_next().await {
        let counts: (usize, usize) = counts.expect("no session is dropped");
        (accepted, refused) = (accepted + counts.0, refused + counts.1);
    }
    let scrape = world.gate.metrics().await;
    assert_eq!((scrape.value(APPLIED), scrape.value(REFUSED)), (50.0, 50.0));

    let messages = world.upstream.messages();
    assert_eq!(messages.len(), accepted);
    let mut kinds = std::collections::BTreeSet::new();
    for message in &messages {
        let text = String::from_utf8_lossy(&message.content);
        let tag = text.lines().find_map(|line| line.strip_prefix("X-DMARC-Fail-policy: "));
        let id = text.lines().find_map(|line| line.strip_prefix("Authentication-Results: "));
        let id = id.and_then(|line| line.split('.').next()).unwrap_or_default().to_owned();
        let seen = (id, message.from.clone(), tag.map(str::to_owned), text.contains("\nReceived-SPF: "));
        let (id, from, tag, spf) = (&*seen.0, &*seen.1, seen.2.as_deref(), seen.3);
        let whole = [
            ("first", "a@q.example", Some("quarantine"), false),
            ("second", "a@a.example", Some("reject"), true),
            ("second", "a@q.example", None, true),
        ];
        assert!(whole.contains(&(id, from, tag, spf)), "{seen:?}\n{text}");
        kinds.insert(seen);
    }
    assert!(kinds.len() == 3 && refused > 0, "both policies decided: {kinds:?}, {refused} refused");
}

#[tokio::test]
async fn files_of_reports_that_cannot_be_used_keep_no_mail_from_flowing() {
    let reports = |c: ConfigText| {
        let c = c.set("reports.from", "reports@rcpt.example").set("reports.organization", "E");
        let key = "/nonexistent/key.pem";
        c.set("reports.enabled", true).set("reports.dkim_key", key).set("reports.dkim_selector", "s")
    };
    let mut world = World::start(zone(), reports).await;
    assert_eq!(world.send(&forged()).await.summary(), "550");
    let line = world.gate.wait_for_log("reports can't be sent as they are configured").await;
    assert!(line.contains("reports.dkim_key: /nonexistent/key.pem can't be read"), "{line}");
    let successful = "dmarcgate_config_last_reload_successful";
    assert_eq!(world.gate.metrics().await.value(successful), 0.0);
    let scrape = world.gate.reloaded(|c| c.unset("reports.dkim_key").unset("reports.dkim_selector")).await;
    assert_eq!(scrape.value(successful), 1.0);
}
