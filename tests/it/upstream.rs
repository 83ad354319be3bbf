//! Upstream trouble: whatever the MTA does, the client reads 451 or the MTA's own words, and no message is delivered
//! twice or lost with a 250.

use crate::support::client::{Client, encode};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::gate::Gate;
use crate::support::rules::{DOT, GREETING, Hold, Point, Rule, Script, on};
use crate::support::upstream::Upstream;
use crate::support::world::{MESSAGE, World};

const GROUP: [&str; 3] = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"];

async fn hasty(script: Script) -> World {
    let change =
        |config: ConfigText| config.set("timeouts.upstream_command", "150ms").set("timeouts.upstream_final", "150ms");
    World::with(script, Zone::new(), change).await
}

/// A rule that applies the first time.
fn once(at: &str) -> Point {
    on(at).once()
}

/// One transaction's last reply.
async fn outcome(client: &mut Client) -> String {
    let delivery = client.deliver("a@a.example", &["x@b.example"], MESSAGE).await;
    delivery.outcome().to_string()
}

fn lost(at: &str) -> String {
    format!("dmarcgate_upstream_lost_total{{at=\"{at}\"}}")
}

#[tokio::test]
async fn what_the_upstream_does_once_costs_at_most_a_451_and_the_next_message_passes() {
    // What it does at its first opportunity; what the client reads, whether the message came, and what is counted.
    let cases: Vec<(&str, Rule, &str, usize, &str)> = vec![
        ("closes at the greeting", once(GREETING).close(), "451 4.4.1", 0, ""),
        ("closes at EHLO", once("EHLO").close(), "451 4.4.1", 0, ""),
        ("says 421 for a greeting", once(GREETING).reply_and_close("421 4.3.2 busy"), "451 4.4.1", 0, ""),
        ("says 554 for a greeting", once(GREETING).reply_and_close("554 5.7.1 go away"), "451 4.3.0", 0, ""),
        ("refuses EHLO", once("EHLO").reply("550 5.7.1 go away"), "451 4.3.0", 0, ""),
        ("greets with nonsense", once(GREETING).reply("SSH-2.0-OpenSSH_9.9"), "451 4.4.1", 0, ""),
        ("closes at MAIL", once("MAIL").close(), "250", 1, ""),
        ("closes at RCPT", once("RCPT").close(), "250", 1, "replayed"),
        ("closes behind MAIL", once("MAIL").reply_and_close("250 2.1.0 Ok"), "250", 1, "replayed"),
        ("says 421 at MAIL", once("MAIL").reply_and_close("421 4.3.0 later"), "421 4.3.0 later", 0, ""),
        ("says 421 at RCPT", once("RCPT").reply_and_close("421 4.3.0 later"), "421 4.3.0 later", 0, ""),
        ("says 421 at DATA", once("DATA").reply_and_close("421 4.3.0 later"), "421 4.3.0 later", 0, ""),
        ("says 421 after the dot", once(DOT).reply_and_close("421 4.3.0 later"), "421 4.3.0 later", 1, ""),
        ("puts MAIL off", once("MAIL").reply("450 4.7.1 later"), "450 4.7.1 later", 0, ""),
        ("refuses RCPT", once("RCPT").reply("550-5.1.1 a\n550 5.1.1 b"), "550-5.1.1 a\r\n550 5.1.1 b", 0, ""),
        ("refuses DATA", once("DATA").reply("554-5.5.1 a\n554 5.5.1 b"), "554-5.5.1 a\r\n554 5.5.1 b", 0, ""),
        ("puts DATA off", once("DATA").reply("452 4.3.1 full"), "452 4.3.1 full", 0, ""),
        ("closes at DATA", once("DATA").close(), "451 4.4.2", 0, "in_data"),
        ("answers DATA with 250", once("DATA").reply("250 Ok"), "451 4.4.2", 0, "in_data"),
        ("answers DATA with nonsense", once("DATA").reply("go ahead"), "451 4.4.2", 0, "in_data"),
        ("answers DATA twice", once("DATA").reply("354 go\n250 2.0.0 queued"), "451 4.4.2", 0, "in_data"),
        ("refuses before the end", once("DATA").reply("354 go\n552 5.3.4 too big"), "552 5.3.4", 0, ""),
        ("dies in DATA", once("DATA").reply_and_close("354 go"), "451 4.4.2", 0, "in_data or after_end"),
        ("dies after the dot", once(DOT).close(), "451 4.4.2", 1, "after_end"),
        ("says nonsense after the dot", once(DOT).reply("queued"), "451 4.4.2", 1, "after_end"),
        ("says 354 after the dot", once(DOT).reply("354 more"), "451 4.4.2", 1, "after_end"),
        (
            "refuses after the dot",
            once(DOT).reply("554-5.7.1 a\n554-b\n554 5.7.1 c"),
            "554-5.7.1 a\r\n554-b\r\n554 5.7.1 c",
            1,
            "",
        ),
        ("puts off after the dot", once(DOT).reply("450-4.7.1 a\n450 4.7.1 b"), "450-4.7.1 a\r\n450 4.7.1 b", 1, ""),
        ("answers MAIL with 354", once("MAIL").reply("354 go"), "451 4.4.2", 0, "before_data"),
        ("answers MAIL with nonsense", once("MAIL").reply("ok"), "451 4.4.2", 0, "before_data"),
        ("answers RCPT with 334", once("RCPT").reply("334 go"), "451 4.4.2", 0, "before_data"),
        ("answers RCPT with nonsense", once("RCPT").reply("ok"), "451 4.4.2", 0, "before_data"),
        ("mixes codes", once("RCPT").reply("250-a\n550 b"), "451 4.4.2", 0, "before_data"),
        ("answers twice", once("MAIL").reply("250 a\n250 b"), "250", 1, "replayed"),
        ("answers with a bare code", once("RCPT").reply("250"), "250", 1, ""),
        ("answers at length", once("RCPT").reply(&format!("{}250 end", "250-line\n".repeat(150))), "250", 1, ""),
        ("answers without end", once("RCPT").reply(&"250-line\n".repeat(1_000)), "451 4.4.2", 0, "before_data"),
    ];
    let world = World::around(Script::new()).await;
    for (case, rule, expected, messages, counted) in cases {
        let (before, seen) = (world.gate.metrics().await, world.upstream.messages().len());
        let mut client = world.client().await;
        world.upstream.add(rule);
        let reply = outcome(&mut client).await;
        assert!(reply.starts_with(expected), "{case}: {reply}\n{}", world.upstream.transcript());
        if reply.starts_with("451 4.4.1") || reply.starts_with("451 4.3.0") {
            // A failed connection is followed by a probe, which must not meet the next case's rule.
            world.wait_for_readiness(200).await;
        }
        if reply.starts_with("421") {
            client.expect_close().await;
            client = world.client().await;
        }
        assert_eq!(world.upstream.messages().len() - seen, messages, "{case}\n{}", world.upstream.transcript());
        // The trouble is over: the same client is served.
        client.command("RSET").await.assert(250);
        let reply = outcome(&mut client).await;
        assert!(reply.starts_with("250 2.0.0 Ok: queued"), "{case}, then: {reply}\n{}", world.upstream.transcript());
        assert_eq!(world.upstream.messages().len() - seen, messages + 1, "{case}\n{}", world.upstream.transcript());
        let after = world.gate.metrics().await;
        // Where the upstream closes while the message is on its way, chance decides what the gate notices first.
        let now = |at: &&str| after.value(&lost(at)) - before.value(&lost(at)) > 0.0;
        let found: Vec<_> = ["replayed", "before_data", "in_data", "after_end"].into_iter().filter(now).collect();
        assert!(found.len() <= 1 && counted.contains(found.concat().as_str()), "{case}: {found:?}");
        assert_eq!(found.is_empty(), counted.is_empty(), "{case}");
    }
    world.upstream.assert_clean();
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_costs_a_451() {
    let never = Hold::new();
    let cases = [
        ("greeting", on(GREETING), "451 4.4.1"),
        ("EHLO", on("EHLO"), "451 4.4.1"),
        ("MAIL", on("MAIL"), "451 4.4.2"),
        ("RCPT", on("RCPT"), "451 4.4.2"),
        ("DATA", on("DATA"), "451 4.4.2"),
        ("the dot", on(DOT), "451 4.4.2"),
    ];
    let world = hasty(Script::new()).await;
    for (case, point, expected) in cases {
        let mut client = world.client().await;
        world.upstream.add(point.once().hold(&never, "250 late"));
        let reply = outcome(&mut client).await;
        assert!(reply.starts_with(expected), "{case}: {reply}");
        world.wait_for_readiness(200).await;
        client.command("RSET").await.assert(250);
        let reply = outcome(&mut client).await;
        assert!(reply.starts_with("250"), "{case}, then: {reply}");
    }
    // A refusal of ours does not wait for the upstream.
    let mut client = world.client().await;
    world.upstream.add(on("RSET").once().hold(&never, "250 late"));
    client.deliver("a@a.example", &["x@b.example"], b" x\r\n\r\n").await.outcome().assert(554);
    assert!(outcome(&mut client).await.starts_with("250"));
    assert_eq!(world.gate.metrics().await.value(&lost("after_end")), 1.0);
}

#[tokio::test]
async fn an_upstream_that_is_down_costs_a_451_and_the_session_goes_on() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    let World { dns: _dns, upstream, gate: _gate } = world;
    drop(upstream);
    assert!(outcome(&mut client).await.starts_with("451 4.4.1"));
    assert!(outcome(&mut client).await.starts_with("451 4.4.1"));
    client.command("QUIT").await.assert(221);
}

#[tokio::test]
async fn before_an_upstream_was_ever_seen_clients_are_told_to_come_again() {
    let script = Script::new().rule(on(GREETING).reply_and_close("554 5.3.2 no"));
    let world = World::unprobed(script, Zone::new(), |config| config).await;
    assert!(world.wait_for_readiness(503).await.contains("upstream"));
    let header = crate::support::proxy::ProxyHeader::naming(
        crate::support::proxy::ProxyVersion::V1,
        crate::support::world::STRANGER.parse().unwrap(),
    );
    let mut waiting = Client::connect_through(world.gate.address(), header).await;
    waiting.expect(220).await;
    waiting.send(b"EHLO client.example\r\n").await;
    // It comes up while the client waits for its EHLO.
    world.upstream.add(on(GREETING).reply("220 mta.example ESMTP"));
    assert!(waiting.expect(250).await.says("8BITMIME"));
    world.wait_for_readiness(200).await;
    assert!(outcome(&mut waiting).await.starts_with("250"));
}

#[tokio::test]
async fn the_second_server_serves_while_the_first_is_down() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dns = crate::support::dns::DnsServer::start(Zone::new()).await;
    let (first, second) = (Upstream::start(Script::new()).await, Upstream::start(Script::new()).await);
    let servers = vec![dead.to_string(), first.address().to_string(), second.address().to_string()];
    let gate = Gate::start(first.address(), dns.address(), |config| config.set("upstream.servers", servers)).await;
    second.wait_for_close().await;
    let mut client = Client::introduced(gate.address(), "198.51.100.7", "client.example").await;
    assert!(outcome(&mut client).await.starts_with("250"));
    assert_eq!((first.messages().len(), second.messages().len()), (1, 0));
    first.add(on(GREETING).reply_and_close("421 4.3.2 no"));
    client.command("EHLO client.example").await.assert(250);
    assert!(outcome(&mut client).await.starts_with("250"));
    assert_eq!((first.messages().len(), second.messages().len()), (1, 1));
    // In the middle of a transaction the other one is told it all.
    client.pipeline(&GROUP[..1]).await[0].assert(250);
    second.add(on(GREETING).reply_and_close("421 4.3.2 no"));
    first.add(on(GREETING).reply("220 mta.example ESMTP"));
    second.add(on("RCPT").close());
    client.command(GROUP[1]).await.assert(250);
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    assert_eq!((first.messages().len(), second.messages().len()), (2, 1));
}

#[tokio::test]
async fn an_extension_that_the_upstream_drops_after_the_probe_is_never_used() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(on("EHLO").reply("250-mta.example\n250 PIPELINING"));
    assert!(client.command("MAIL FROM:<a@a.example> BODY=8BITMIME").await.says("4.3.3"));
    client.command("MAIL FROM:<a@a.example> SIZE=100").await.assert(250);
    client.command("RCPT TO:<x@b.example>").await.assert(250);
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    assert_eq!(world.relayed()[0], "MAIL FROM:<a@a.example>", "SIZE is of no use to it");
    // An upstream that knows nothing of EHLO is spoken to in HELO.
    world.upstream.add(on("EHLO").reply("502 5.5.2 what"));
    client.command("EHLO client.example").await.assert(250);
    assert!(outcome(&mut client).await.starts_with("250"));
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_slow_sender_is_held_no_longer_than_allowed_and_delivered_once() {
    let world = World::with(Script::new(), Zone::new(), |config| config.set("upstream.hold", "50ms")).await;
    let mut client = world.client().await;
    for line in GROUP {
        client.command(line).await;
    }
    client.send(b"From: a@a.example\r\n\r\nslow").await;
    // The connection is let go while the client says nothing.
    world.wait_for_end(1).await;
    client.send(b"ly\r\n.\r\n").await;
    client.expect(250).await;
    let sessions = world.sessions();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0].commands[1..], ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "QUIT"]);
    assert_eq!(sessions[1].commands[1..4], ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]);
    assert_eq!(world.upstream.messages().len(), 1);
    // Between commands, too.
    client.command(GROUP[0]).await.assert(250);
    client.command(GROUP[1]).await.assert(250);
    world.wait_for_end(2).await;
    client.command("RCPT TO:<y@b.example>").await.assert(250);
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    assert_eq!(world.upstream.messages()[1].recipients, ["x@b.example", "y@b.example"]);
    let scrape = world.gate.metrics().await;
    assert!(["replayed", "before_data", "in_data", "after_end"].iter().all(|at| scrape.value(&lost(at)) == 0.0));
    assert_eq!(scrape.value("dmarcgate_limits_reached_total{limit=\"upstream_hold\"}"), 2.0);
    assert_eq!(scrape.value("dmarcgate_end_of_data_part_seconds_count{part=\"connect\"}"), 1.0);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_recipient_that_is_not_accepted_again_puts_the_message_off() {
    for refusal in ["550 5.1.1 no", "450 4.2.0 greylisted", "421 4.3.0 bye", "nonsense"] {
        let world = World::with(Script::new(), Zone::new(), |config| config.set("upstream.hold", "30ms")).await;
        let mut client = world.client().await;
        client.command(GROUP[0]).await.assert(250);
        client.command(GROUP[1]).await.assert(250);
        client.command("RCPT TO:<y@b.example>").await.assert(250);
        client.command("DATA").await.assert(354);
        world.wait_for_end(1).await;
        world.upstream.add(on("RCPT").with("<y@").reply(refusal));
        let reply = client.content(MESSAGE).await;
        assert_eq!(reply.code, 451, "{refusal}: {reply}");
        assert!(!world.relayed().iter().any(|line| line == "DATA"), "{refusal}");
        // It is over: what follows is a transaction of its own.
        client.command("RCPT TO:<y@b.example>").await.assert(503);
        assert!(outcome(&mut client).await.starts_with("250"), "{refusal}");
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_before_its_data_is_opened_anew() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(once("RCPT").reply_and_close("250 2.1.5 Ok"));
    client.command(GROUP[0]).await.assert(250);
    client.command(GROUP[1]).await.assert(250);
    world.wait_for_end(1).await;
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    assert_eq!(world.upstream.messages().len(), 1);
    assert_eq!(world.gate.metrics().await.value(&lost("replayed")), 1.0);
}

#[tokio::test]
async fn a_connection_that_is_lost_again_is_not_opened_a_third_time() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(on("RCPT").times(2).reply_and_close("250 2.1.5 Ok"));
    client.command(GROUP[0]).await.assert(250);
    client.command(GROUP[1]).await.assert(250);
    world.wait_for_end(1).await;
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(451);
    assert_eq!(world.upstream.messages().len(), 0);
    assert!(outcome(&mut client).await.starts_with("250"));
    assert!(!world.sessions()[1].commands.contains(&"DATA".to_owned()), "{}", world.upstream.transcript());
}

#[tokio::test]
async fn an_upstream_that_ends_an_idle_connection_is_not_noticed() {
    for goodbye in ["250 2.0.0 queued\n421 4.4.2 idle", "250 2.0.0 queued"] {
        let world = World::around(Script::new()).await;
        let mut client = world.client().await;
        world.upstream.add(on(DOT).once().reply_and_close(goodbye));
        assert!(outcome(&mut client).await.starts_with("250 2.0.0 queued"));
        world.wait_for_end(1).await;
        assert!(outcome(&mut client).await.starts_with("250"), "{goodbye}");
        assert_eq!(world.sessions().len(), 2);
        // It may also say so at the next MAIL.
        world.upstream.add(on("MAIL").once().reply_and_close("421 4.4.2 too many messages"));
        assert!(outcome(&mut client).await.starts_with("250"), "{goodbye}");
        assert_eq!(world.sessions().len(), 3);
    }
}

#[tokio::test]
async fn an_upstream_that_times_out_inside_a_transaction_is_told_again() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(on("MAIL").once().reply_and_close("250 2.1.0 Ok\n421 4.4.2 timeout"));
    client.command(GROUP[0]).await.assert(250);
    world.wait_for_end(1).await;
    client.command(GROUP[1]).await.assert(250);
    client.command("DATA").await.assert(354);
    client.send(&encode(MESSAGE)).await;
    client.expect(250).await;
    assert_eq!(world.upstream.messages().len(), 1);
}

/// Who waits on for the upstream when the client has given up makes a duplicate of what is taken then.
#[tokio::test]
async fn a_delivery_that_begins_too_late_is_not_ended() {
    let never = Hold::new();
    let script = Script::new().rule(on("DATA").hold(&never, "354 go"));
    let world = World::with(script, Zone::new(), |config| config.set("timeouts.upstream_final", "300ms")).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    client.send(&encode(MESSAGE)).await;
    client.expect(451).await;
    assert_eq!(world.upstream.messages(), []);
    world.wait_for_count("dmarcgate_upstream_lost_total{at=\"in_data\"}", 1.0).await;
}

#[tokio::test]
async fn a_replay_belongs_to_the_time_of_the_delivery() {
    let never = Hold::new();
    let change = |config: ConfigText| config.set("upstream.hold", "30ms").set("timeouts.upstream_final", "300ms");
    let world = World::with(Script::new(), Zone::new(), change).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    world.wait_for_end(1).await;
    world.upstream.add(on("RCPT").hold(&never, "250 late"));
    client.send(&encode(MESSAGE)).await;
    client.expect(451).await;
    assert_eq!(world.upstream.messages(), []);
    world.wait_for_count("dmarcgate_upstream_lost_total{at=\"before_data\"}", 1.0).await;
}

/// What an upstream wants of the gate's own link is never a bounce: TLS, at XCLIENT or at MAIL.
#[tokio::test]
async fn an_upstream_that_wants_tls_of_the_gate_bounces_nothing() {
    const REPLY: &str = "530 5.7.0 Must issue a STARTTLS command first";
    for (script, at) in [(Script::new(), "MAIL"), (Script::with_xclient(), "XCLIENT")] {
        let world = World::with(script, Zone::new(), |config| config).await;
        world.upstream.add(on(at).reply(REPLY));
        let mut client = world.client().await;
        let reply = client.command("MAIL FROM:<a@a.example>").await;
        assert!(reply.code == 451 && reply.says("4.3.0"), "{at}: {reply}");
        assert!(!reply.says("STARTTLS"), "{at}: {reply}");
    }
}

/// A server that can't read a PROXY header refuses that in the client's place, in whatever words.
#[tokio::test]
async fn a_refused_proxy_header_bounces_nothing_and_is_not_ready() {
    for (at, reply) in [(GREETING, "554 SMTP synchronization error"), ("EHLO", "503 Proxy negotiation failed")] {
        let script = Script::new().proxy().rule(on(at).reply(reply));
        let change = |config: ConfigText| config.set("upstream.identity", "proxy-v2");
        let world = World::with(script, Zone::new(), change).await;
        world.wait_for_readiness(503).await;
        assert_eq!(world.gate.metrics().await.value("dmarcgate_upstream_servers_down"), 1.0, "{at}");
    }
}

/// One that has read it, and does not any more: the next probe finds out that it is not about the client.
#[tokio::test]
async fn a_proxy_header_that_is_refused_after_all_does_not_bounce_for_long() {
    let change = |config: ConfigText| config.set("upstream.identity", "proxy-v2");
    let world = World::with(Script::new().proxy(), Zone::new(), change).await;
    world.client().await.command("MAIL FROM:<a@a.example>").await.assert(250);
    world.upstream.add(on(GREETING).reply("554 5.5.1 Protocol error"));
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example>").await.assert(554);
    world.wait_for_readiness(503).await;
    client.command("MAIL FROM:<a@a.example>").await.assert(451);
}
