//! The table of a mail server's trouble (docs/failures.md), a test for each row, named after what happens.

use std::collections::BTreeSet;

use crate::citations::section;
use crate::source;
use crate::support::client::{Client, encode};
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::Gate;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{DOT, GREETING, Hold, INSIDE, Rule, Script, on};
use crate::support::world::{MESSAGE, STRANGER, World};

#[test]
fn each_row_of_the_table_has_its_test() {
    let page = source::read("docs/failures.md");
    let table = section(&page, "## When the mail server is in trouble");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let rows: BTreeSet<_> = rows.filter(|row| *row != "What happens" && !row.starts_with("---")).map(name).collect();
    let tests: BTreeSet<_> = include_str!("upstream_trouble.rs")
        .split("#[tokio::test]\nasync fn ")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .map(str::to_owned)
        .collect();
    assert!(!rows.is_empty() && rows == tests, "{rows:#?}\n{tests:#?}");
}

/// A row as the name of a function.
fn name(row: &str) -> String {
    let words = row.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

const GROUP: [&str; 3] = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"];
/// What a scripted upstream says when it has taken a message.
const TAKEN: &str = "250 2.0.0 Ok: queued";

/// One transaction's last reply.
async fn outcome(client: &mut Client) -> String {
    client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().to_string()
}

fn connections(result: &str) -> String {
    format!("dmarcgate_upstream_connections_total{{result=\"{result}\"}}")
}

fn lost(at: &str) -> String {
    format!("dmarcgate_upstream_lost_total{{at=\"{at}\"}}")
}

const NONSENSE: &str = "dmarcgate_upstream_nonsense_total";

/// The upstream does by `rule` what it does: the client reads `expected`, each of `counted` is counted once, and what
/// follows passes as if nothing had been.
async fn costs(world: &World, rule: Rule, expected: &str, counted: &[&str]) {
    let before = world.gate.metrics().await;
    let mut client = world.client().await;
    world.upstream.add(rule);
    let reply = outcome(&mut client).await;
    assert!(reply.starts_with(expected), "{reply}\n{}", world.upstream.transcript());
    let after = world.gate.metrics().await;
    for series in counted {
        assert_eq!(after.value(series) - before.value(series), 1.0, "{series}\n{}", world.upstream.transcript());
    }
    // Where the connection failed, only a probe makes the gate ready again.
    world.wait_for_readiness(200).await;
    let reply = outcome(&mut world.client().await).await;
    assert!(reply.starts_with(TAKEN), "then: {reply}\n{}", world.upstream.transcript());
}

/// A gate that waits for a reply for a moment only.
async fn hasty() -> World {
    let change =
        |config: ConfigText| config.set("timeouts.upstream_command", "400ms").set("timeouts.upstream_final", "400ms");
    World::with(Script::new(), Zone::new(), change).await
}

#[tokio::test]
async fn it_refuses_the_connection() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    let World { dns: _dns, upstream, gate } = world;
    let address = upstream.address();
    drop(upstream);
    // Its socket is closed by the runtime, a moment later.
    while tokio::net::TcpStream::connect(address).await.is_ok() {}
    let reply = outcome(&mut client).await;
    assert!(reply.starts_with("451 4.4.1 Mail server not available"), "{reply}");
    assert!(gate.metrics().await.value(&connections("unreachable")) >= 1.0);
    client.command("QUIT").await.assert(221);
}

#[tokio::test]
async fn it_closes_at_the_greeting() {
    let world = World::around(Script::new()).await;
    costs(&world, on(GREETING).once().close(), "451 4.4.1", &[&connections("setup")]).await;
}

#[tokio::test]
async fn it_closes_without_a_word_once_it_knows_the_client() {
    let change = |config: ConfigText| config.set("upstream.identity", "proxy-v2");
    let world = World::with(Script::new().proxy(), Zone::new(), change).await;
    world.wait_for_readiness(200).await;
    let mut client = world.client().await;
    world.upstream.add(on(GREETING).once().close());
    assert!(outcome(&mut client).await.starts_with("451 4.4.1"));
    assert_eq!(world.gate.http_get("/readyz").await.0, 200);
    let scrape = world.gate.metrics().await;
    assert_eq!((scrape.value(&connections("setup")), scrape.value("dmarcgate_upstream_servers_down")), (1.0, 0.0));
    // Where it does so with everyone, a probe finds out soon: the next regular one is a minute away.
    world.upstream.add(on(GREETING).close());
    assert!(outcome(&mut client).await.starts_with("451 4.4.1"));
    world.wait_for_readiness(503).await;
}

#[tokio::test]
async fn it_greets_with_4xx() {
    let world = World::around(Script::new()).await;
    for greeting in ["421 4.3.2 busy", "450 4.3.2 later"] {
        let rule = on(GREETING).once().reply_and_close(greeting);
        costs(&world, rule, "451 4.4.1", &[&connections("gate_refused")]).await;
    }
}

#[tokio::test]
async fn it_greets_with_5xx() {
    let world = World::around(Script::new()).await;
    let rule = on(GREETING).once().reply_and_close("554 5.7.1 go away");
    costs(&world, rule, "451 4.3.0", &[&connections("gate_refused")]).await;
    world.gate.wait_for_log("the upstream refuses this gate").await;
}

#[tokio::test]
async fn it_announces_no_xclient_which_identity_xclient_wants() {
    let change = |config: ConfigText| config.set("upstream.identity", "xclient");
    let world = World::with(Script::with_xclient(), Zone::new(), change).await;
    let rule = on("EHLO").once().reply("250 mta.example");
    costs(&world, rule, "451 4.3.0", &[&connections("no_xclient")]).await;
    let line = world.gate.wait_for_log("the upstream can't be told who the client is").await;
    assert!(line.contains("ERROR") && line.contains("XCLIENT ADDR is not announced to this gate"), "{line}");
    // No reply that the upstream has not given stands in the log as its own.
    assert!(!line.contains("502"), "{line}");
}

#[tokio::test]
async fn it_dies_between_commands_before_data() {
    let world = World::around(Script::new()).await;
    for verb in ["RCPT", "MAIL"] {
        let rule = on(verb).once().reply_and_close("250 2.0.0 Ok");
        costs(&world, rule, TAKEN, &[&lost("replayed")]).await;
    }
    costs(&world, on("MAIL").once().close(), TAKEN, &[]).await;
}

#[tokio::test]
async fn it_dies_between_commands_again_or_does_not_accept_it_all_again() {
    let world = World::around(Script::new()).await;
    costs(&world, on("RCPT").times(2).close(), "451 4.4.2", &[&lost("before_data")]).await;
    // Begun before the rule that refuses the second time.
    let mut client = world.client().await;
    world.upstream.add(on("RCPT").once().reply_and_close("250 2.1.5 Ok"));
    client.command(GROUP[0]).await.assert(250);
    client.command(GROUP[1]).await.assert(250);
    world.upstream.add(on("RCPT").once().reply("550 5.1.1 no"));
    client.command("DATA").await.assert(354);
    let reply = client.content(MESSAGE).await;
    assert!(reply.code == 451 && reply.says("4.4.2"), "{reply}");
    assert_eq!(world.gate.metrics().await.value(&lost("before_data")), 2.0);
}

#[tokio::test]
async fn it_dies_inside_data() {
    let world = World::around(Script::new()).await;
    costs(&world, on("DATA").once().close(), "451 4.4.2", &[&lost("in_data")]).await;
    assert_eq!(world.upstream.messages().len(), 1, "the one that follows");
}

#[tokio::test]
async fn it_refuses_a_message_inside_data_and_closes() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(on(INSIDE).once().reply_and_close("552 5.3.4 too big"));
    let delivery = client.deliver("a@a.example", &["x@b.example"], &large()).await;
    assert_eq!(delivery.outcome().to_string(), "552 5.3.4 too big");
    world.wait_for_count("dmarcgate_messages_total{outcome=\"upstream_refused\"}", 1.0).await;
    assert!(outcome(&mut client).await.starts_with(TAKEN));
}

#[tokio::test]
async fn it_takes_no_more_of_a_message() {
    // Far less than one block of it may take.
    let change = |config: ConfigText| config.set("timeouts.upstream_final", "1s");
    let world = World::with(Script::new(), Zone::new(), change).await;
    let never = Hold::new();
    world.upstream.add(on(INSIDE).once().hold(&never, ""));
    let mut client = world.client().await;
    let delivery = client.deliver("a@a.example", &["x@b.example"], &large()).await;
    assert!(delivery.outcome().to_string().starts_with("451 4.4.2"), "{}", delivery.outcome());
    world.wait_for_count(&lost("in_data"), 1.0).await;
}

/// A message that no socket buffers.
fn large() -> Vec<u8> {
    [MESSAGE, format!("{}\r\n", "x".repeat(998)).repeat(16_000).as_bytes()].concat()
}

#[tokio::test]
async fn it_dies_after_the_final_dot_without_an_answer() {
    let world = World::around(Script::new()).await;
    costs(&world, on(DOT).once().close(), "451 4.4.2", &[&lost("after_end")]).await;
    let count = |line: &String| line.starts_with("DATA");
    assert_eq!(world.relayed().iter().filter(|line| count(line)).count(), 2, "nothing is told again");
}

#[tokio::test]
async fn it_answers_slowly_within_the_timeouts() {
    for (at, command) in [(GREETING, None), ("MAIL", Some(0)), ("RCPT", Some(1)), (DOT, None)] {
        let world = World::around(Script::new()).await;
        let slow = Hold::new();
        let reply = match at {
            GREETING => "220 mta.example ESMTP",
            _ => "250 2.0.0 in the end",
        };
        world.upstream.add(on(at).once().hold(&slow, reply));
        let mut client = world.client().await;
        let delivery = tokio::spawn(async move { outcome(&mut client).await });
        match command {
            Some(n) => world.upstream.wait_for_command(GROUP[n]).await,
            None if at == DOT => world.upstream.wait_for_command("DATA").await,
            None => _ = world.upstream.wait_until("it was called", |seen| seen.len() == 2).await,
        }
        slow.release();
        let reply = delivery.await.unwrap();
        assert!(reply.starts_with("250 2.0.0"), "{at}: {reply}");
    }
}

#[tokio::test]
async fn it_answers_too_slowly() {
    let never = Hold::new();
    let world = hasty().await;
    let cases = [
        (GREETING, "451 4.4.1", connections("setup")),
        ("EHLO", "451 4.4.1", connections("setup")),
        ("MAIL", "451 4.4.2", lost("before_data")),
        ("RCPT", "451 4.4.2", lost("before_data")),
        ("DATA", "451 4.4.2", lost("in_data")),
        (DOT, "451 4.4.2", lost("after_end")),
    ];
    for (at, expected, counted) in cases {
        costs(&world, on(at).once().hold(&never, "250 late"), expected, &[&counted]).await;
    }
}

#[tokio::test]
async fn it_answers_nonsense() {
    let world = World::around(Script::new()).await;
    costs(&world, on(GREETING).once().reply("SSH-2.0-OpenSSH_9.9"), "451 4.4.1", &[&connections("setup")]).await;
    let cases = [
        ("MAIL", "ok", "before_data"),
        ("MAIL", "354 go", "before_data"),
        ("RCPT", "334 go", "before_data"),
        ("RCPT", "999 no", "before_data"),
        ("RCPT", "", "before_data"),
        ("DATA", "250 Ok", "in_data"),
        ("DATA", "go ahead", "in_data"),
        ("DATA", "354 go\n250 2.0.0 queued", "in_data"),
        (DOT, "queued", "after_end"),
        (DOT, "354 more", "after_end"),
    ];
    for (at, nonsense, place) in cases {
        let rule = on(at).once().raw(format!("{}\r\n", nonsense.replace('\n', "\r\n")).as_bytes());
        costs(&world, rule, "451 4.4.2", &[&lost(place), NONSENSE]).await;
    }
}

#[tokio::test]
async fn it_answers_with_multi_line_oddities() {
    let world = World::around(Script::new()).await;
    let lines = |count: usize| format!("{}250 end\r\n", "250-line\r\n".repeat(count - 1));
    let (most, long) = (lines(200), |octets: usize| [b"250 ", &vec![b'x'; octets][..], b"\r\n"].concat());
    let (within, beyond, too_many) = (long(8000), long(9000), lines(201));
    let understood: [&[u8]; 7] = [
        b"250\r\n",
        b"250 2.1.5 a\n",
        b"250-a\n250-b\n250 c\n",
        b"250-\r\n250-\r\n250 \r\n",
        b"250 2.1.5 a\0b\r\n",
        most.as_bytes(),
        &within,
    ];
    for reply in understood {
        costs(&world, on("RCPT").once().raw(reply), TAKEN, &[]).await;
    }
    let nonsense: [&[u8]; 5] =
        [b"250-a\r\n550 b\r\n", b"250-a\r\nb\r\n", b"250-a\r\n\r\n250 b\r\n", too_many.as_bytes(), &beyond];
    for reply in nonsense {
        costs(&world, on("RCPT").once().raw(reply), "451 4.4.2", &[&lost("before_data"), NONSENSE]).await;
    }
    // The client's lines are whole, whatever the server's were.
    world.upstream.add(on("RCPT").once().raw(b"550-5.1.1 a\rb\n550 5.1.1 c\0d\n"));
    let mut client = world.client().await;
    client.command(GROUP[0]).await.assert(250);
    assert_eq!(client.command(GROUP[1]).await.raw, b"550-5.1.1 a b\r\n550 5.1.1 c d\r\n");
}

#[tokio::test]
async fn it_drops_an_extension_between_probe_and_use() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(on("EHLO").reply("250-mta.example\n250 PIPELINING"));
    let reply = client.command("MAIL FROM:<a@a.example> BODY=8BITMIME").await;
    assert!(reply.code == 451 && reply.says("4.3.3"), "{reply}");
    assert!(outcome(&mut client).await.starts_with(TAKEN), "without it all is well");
}

#[tokio::test]
async fn it_says_421_inside_a_transaction() {
    let world = World::around(Script::new()).await;
    for at in ["MAIL", "RCPT", "DATA", DOT] {
        world.upstream.add(on(at).once().reply_and_close("421 4.3.0 later"));
        let mut client = world.client().await;
        assert_eq!(outcome(&mut client).await, "421 4.3.0 later", "{at}");
        client.expect_close().await;
    }
}

#[tokio::test]
async fn it_says_421_between_transactions() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    world.upstream.add(on(DOT).once().reply_and_close("250 2.0.0 Ok: queued\n421 4.4.2 idle"));
    assert!(outcome(&mut client).await.starts_with(TAKEN));
    world.wait_for_end(1).await;
    assert!(outcome(&mut client).await.starts_with(TAKEN));
    world.upstream.add(on("MAIL").once().reply_and_close("421 4.4.2 too many messages"));
    assert!(outcome(&mut client).await.starts_with(TAKEN));
    assert_eq!(world.sessions().len(), 3);
}

#[tokio::test]
async fn it_replies_4xx_or_5xx_to_the_dot() {
    let world = World::around(Script::new()).await;
    let refused = "dmarcgate_messages_total{outcome=\"upstream_refused\"}";
    let deferred = "dmarcgate_messages_total{outcome=\"upstream_deferred\"}";
    for (reply, verbatim, counted) in [
        ("554-5.7.1 a\n554-b\n554 5.7.1 c", "554-5.7.1 a\r\n554-b\r\n554 5.7.1 c", refused),
        ("450-4.7.1 a\n450 4.7.1 b", "450-4.7.1 a\r\n450 4.7.1 b", deferred),
    ] {
        costs(&world, on(DOT).once().reply(reply), verbatim, &[counted]).await;
    }
}

#[tokio::test]
async fn all_upstream_connections_are_in_use() {
    let change = |config: ConfigText| config.set("upstream.connections", 1);
    let world =
        World::with(Script::new(), Zone::new(), |config| change(config).set("timeouts.upstream_slot", "500ms")).await;
    let (mut first, mut second) = (world.client().await, world.client().await);
    first.command(GROUP[0]).await.assert(250);
    world.wait_for_count("dmarcgate_upstream_connections_open", 1.0).await;
    let reply = outcome(&mut second).await;
    assert!(reply.starts_with("451 4.3.2 Mail server is busy"), "{reply}");
    world.wait_for_count("dmarcgate_upstream_slot_timeouts_total", 1.0).await;
    drop(first);
    // Given back when it is closed.
    world.wait_for_count("dmarcgate_upstream_connections_open", 0.0).await;
    assert!(outcome(&mut second).await.starts_with(TAKEN));

    // Who waits gets what others keep: at once what idles, after a moment what a slow client holds up.
    let world = World::with(Script::new(), Zone::new(), change).await;
    let (mut first, mut second) = (world.client().await, world.client().await);
    assert!(outcome(&mut first).await.starts_with(TAKEN));
    assert!(outcome(&mut second).await.starts_with(TAKEN));
    for line in GROUP {
        first.command(line).await;
    }
    assert!(outcome(&mut second).await.starts_with(TAKEN));
    assert!(first.content(MESSAGE).await.says("queued"), "told again");
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_upstream_slot_timeouts_total"), 0.0);
    assert_eq!(scrape.value(&lost("replayed")), 0.0);
    assert_eq!(world.upstream.messages().len(), 4);
}

#[tokio::test]
async fn it_waits_for_a_slow_client_longer_than_upstream_hold() {
    let world = World::with(Script::new(), Zone::new(), |config| config.set("upstream.hold", "50ms")).await;
    let mut client = world.client().await;
    for line in GROUP {
        client.command(line).await;
    }
    client.send(b"From: a@a.example\r\n\r\nslow").await;
    world.wait_for_end(1).await;
    world.wait_for_count("dmarcgate_upstream_connections_open", 0.0).await;
    client.send(b"ly\r\n.\r\n").await;
    client.expect(250).await;
    assert_eq!(world.upstream.messages().len(), 1);
}

#[tokio::test]
async fn all_servers_are_down() {
    let world = World::around(Script::new()).await;
    world.wait_for_readiness(200).await;
    let mut client = world.client().await;
    world.upstream.add(on(GREETING).reply_and_close("421 4.3.2 down"));
    let reply = outcome(&mut client).await;
    assert!(reply.starts_with("451 4.4.1 Mail server not available"), "{reply}");
    // At once, by real use: the next regular probe is a minute away.
    let (status, body) = world.gate.http_get("/readyz").await;
    assert!(status == 503 && body.contains("upstream: no upstream server answers"), "{body}");
    assert_eq!(world.gate.metrics().await.value("dmarcgate_upstream_servers_down"), 1.0);
    // Who comes now is offered what was there.
    let mut next = world.client().await;
    world.upstream.add(on(GREETING).reply("220 mta.example ESMTP"));
    world.wait_for_readiness(200).await;
    assert!(outcome(&mut next).await.starts_with(TAKEN));
    assert_eq!(world.gate.metrics().await.value("dmarcgate_upstream_servers_down"), 0.0);

    // Never seen: nobody knows what could be offered.
    let dns = DnsServer::start(Zone::new()).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::start(nobody, dns.address(), |config| config).await;
    let stranger = ProxyHeader::naming(ProxyVersion::V1, STRANGER.parse().unwrap());
    let mut client = Client::connect_through(gate.address(), stranger).await;
    client.expect(220).await;
    let reply = client.command("EHLO client.example").await;
    assert!(reply.code == 421 && reply.says("try again"), "{reply}");
}

#[tokio::test]
async fn the_client_vanishes_in_data() {
    let world = World::around(Script::new()).await;
    for ending in ["half a message", "a whole one\r\n.\r", "."] {
        let mut client = world.client().await;
        for line in GROUP {
            client.command(line).await;
        }
        client.send(b"From: a@a.example\r\n\r\n").await;
        client.send(ending.as_bytes()).await;
    }
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"client_gone\"}", 3.0).await;
    world.wait_for_end(3).await;
    assert!(!world.relayed().iter().any(|line| line == "DATA"), "{}", world.upstream.transcript());
    assert_eq!(world.upstream.messages().len(), 0);
}

#[tokio::test]
async fn the_client_s_quit_comes_with_the_final_dot() {
    let world = World::around(Script::new()).await;
    for (reply, code) in [("250 2.0.0 Ok: queued", 250), ("554 5.7.1 no", 554), ("421 4.3.0 later", 421)] {
        world.upstream.add(on(DOT).once().reply(reply));
        let mut client = world.client().await;
        for line in GROUP {
            client.command(line).await;
        }
        client.send(&[&encode(MESSAGE)[..], b"QUIT\r\n"].concat()).await;
        client.expect(code).await;
        if code != 421 {
            client.expect(221).await;
        }
        client.expect_close().await;
    }
    // Nor is it lost with a client that ends its side at once.
    let mut client = world.client().await;
    for line in GROUP {
        client.command(line).await;
    }
    client.send(&[&encode(MESSAGE)[..], b"QUIT\r\n"].concat()).await;
    client.finish().await;
    client.expect(250).await;
    client.expect(221).await;
}
