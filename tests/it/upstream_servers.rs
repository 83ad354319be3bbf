//! Several upstream servers: which is tried first, which is left alone, and what is known of them.

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::Gate;
use crate::support::rules::{DOT, GREETING, Hold, Script, on};
use crate::support::upstream::Upstream;
use crate::support::world::{MESSAGE, STRANGER, World};

/// A gate before two servers.
struct Pair {
    _dns: DnsServer,
    first: Upstream,
    second: Upstream,
    gate: Gate,
}

impl Pair {
    async fn start(first: Script, second: Script, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        let dns = DnsServer::start(Zone::new()).await;
        let (first, second) = (Upstream::start(first).await, Upstream::start(second).await);
        let servers = vec![first.address().to_string(), second.address().to_string()];
        let change = |config: ConfigText| change(config.set("upstream.servers", servers));
        let gate = Gate::start(first.address(), dns.address(), change).await;
        Self { _dns: dns, first, second, gate }
    }

    async fn client(&self) -> Client {
        Client::introduced(self.gate.address(), STRANGER, "client.example").await
    }

    fn messages(&self) -> (usize, usize) {
        (self.first.messages().len(), self.second.messages().len())
    }

    async fn wait_for_down(&self, count: f64) {
        let series = "dmarcgate_upstream_servers_down";
        self.gate.wait_for_metrics(&format!("{series} {count}"), |scrape| scrape.value(series) == count).await;
    }
}

async fn outcome(client: &mut Client) -> String {
    client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().to_string()
}

#[tokio::test]
async fn a_balanced_load_is_spread_and_an_ordered_one_is_not() {
    for (selection, expected) in [("balanced", (2, 2)), ("ordered", (4, 0))] {
        let change = |config: ConfigText| config.set("upstream.selection", selection);
        let pair = Pair::start(Script::new(), Script::new(), change).await;
        pair.first.wait_for_close().await;
        pair.second.wait_for_close().await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = pair.client().await;
            client.command("MAIL FROM:<a@a.example>").await.assert(250);
            clients.push(client);
        }
        let mails = |server: &Upstream| server.commands().iter().filter(|line| line.starts_with("MAIL")).count();
        assert_eq!((mails(&pair.first), mails(&pair.second)), expected, "{selection}");
    }
}

#[tokio::test]
async fn one_that_hangs_holds_up_neither_clients_nor_probes() {
    let never = Hold::new();
    let hanging = Script::new().rule(on(GREETING).hold(&never, "220 late"));
    let change = |config: ConfigText| config.set("timeouts.upstream_open", "600ms");
    let pair = Pair::start(hanging, Script::new(), change).await;
    let mut client = pair.client().await;
    assert!(outcome(&mut client).await.starts_with("250"));
    assert_eq!(pair.messages(), (0, 1));
    pair.wait_for_down(1.0).await;
    assert_eq!(pair.gate.http_get("/readyz").await.0, 200);
}

#[tokio::test]
async fn one_that_fails_is_left_alone_for_a_while() {
    let pair = Pair::start(Script::new(), Script::new(), |config| config).await;
    pair.first.wait_for_close().await;
    pair.second.wait_for_close().await;
    pair.first.add(on(GREETING).close());
    for _ in 0..10 {
        assert!(outcome(&mut pair.client().await).await.starts_with("250"));
    }
    assert_eq!(pair.messages(), (0, 10));
    let tried = pair.gate.metrics().await.value("dmarcgate_upstream_connections_total{result=\"setup\"}");
    assert!((1.0..5.0).contains(&tried), "ten sessions tried it {tried} times");
    // It is the first again as soon as a probe finds it well.
    pair.first.add(on(GREETING).reply("220 mta.example ESMTP"));
    pair.wait_for_down(0.0).await;
    assert!(outcome(&mut pair.client().await).await.starts_with("250"));
    assert_eq!(pair.messages(), (1, 10));
}

#[tokio::test]
async fn a_transaction_goes_on_with_another_server_before_data() {
    let pair = Pair::start(Script::new(), Script::new(), |config| config).await;
    pair.first.wait_for_close().await;
    pair.second.wait_for_close().await;
    let mut client = pair.client().await;
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    // It greets well ever after: that it lost the transaction is reason enough.
    pair.first.add(on("RCPT").close());
    client.command("RCPT TO:<x@b.example>").await.assert(250);
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    assert_eq!(pair.messages(), (0, 1));
    assert_eq!(pair.gate.metrics().await.value("dmarcgate_upstream_lost_total{at=\"replayed\"}"), 1.0);
    // After DATA nothing is told to anyone again.
    pair.second.add(on(DOT).close());
    assert!(outcome(&mut client).await.starts_with("451 4.4.2"));
    assert_eq!(pair.messages(), (0, 2));
}

#[tokio::test]
async fn a_refusal_of_the_client_is_no_fault_of_the_server() {
    let pair = Pair::start(Script::with_xclient(), Script::with_xclient(), |config| config).await;
    pair.first.wait_for_close().await;
    pair.second.wait_for_close().await;
    pair.first.add(on("XCLIENT").once().reply("450 4.7.1 come again"));
    assert!(outcome(&mut pair.client().await).await.starts_with("250"));
    assert_eq!(pair.messages(), (0, 1), "it may be welcome elsewhere");
    pair.first.add(on("XCLIENT").once().reply("554 5.7.1 go away"));
    assert_eq!(outcome(&mut pair.client().await).await, "554 5.7.1 go away");
    pair.first.add(on("XCLIENT").once().reply("450 4.7.1 come again"));
    pair.second.add(on("XCLIENT").once().reply("450 4.7.2 come again"));
    assert_eq!(outcome(&mut pair.client().await).await, "450 4.7.2 come again");
    assert!(outcome(&mut pair.client().await).await.starts_with("250"));
    assert_eq!(pair.messages(), (1, 1), "and it is the first one still");
    assert_eq!(pair.gate.metrics().await.value("dmarcgate_upstream_servers_down"), 0.0);
}

#[tokio::test]
async fn what_a_server_offers_counts_from_the_probe_on_that_finds_it_back() {
    let down = Script::new().extensions(&["PIPELINING"]).rule(on(GREETING).reply_and_close("421 4.3.2 down"));
    let change = |config: ConfigText| config.set("limits.commands_without_mail", 100_000);
    let pair = Pair::start(Script::new(), down, change).await;
    pair.wait_for_down(1.0).await;
    let mut client = pair.client().await;
    assert!(client.command("EHLO client.example").await.says("8BITMIME"));
    pair.second.add(on(GREETING).reply("220 mta.example ESMTP"));
    pair.wait_for_down(0.0).await;
    assert!(!client.command("EHLO client.example").await.says("8BITMIME"));
    // And no longer once a probe finds it gone, which a session's failure brings about.
    pair.first.add(on(GREETING).once().reply_and_close("421 4.3.2 down"));
    pair.second.add(on(GREETING).reply_and_close("421 4.3.2 down"));
    assert!(outcome(&mut client).await.starts_with("451 4.4.1"));
    let offered_again = async { while !client.command("EHLO client.example").await.says("8BITMIME") {} };
    tokio::time::timeout(PATIENCE, offered_again).await.expect("a probe soon, not in a minute");
}

#[tokio::test]
async fn a_connection_idles_no_longer_than_allowed() {
    let world = World::with(Script::new(), Zone::new(), |config| config.set("upstream.idle", "50ms")).await;
    let mut client = world.client().await;
    assert!(outcome(&mut client).await.starts_with("250"));
    let sessions = world.wait_for_end(1).await;
    assert_eq!(sessions[0].commands.last().map(String::as_str), Some("QUIT"));
    assert!(outcome(&mut client).await.starts_with("250"));
    world.wait_for_end(2).await;
    client.command("QUIT").await.assert(221);
}

#[tokio::test]
async fn what_the_log_says_of_the_upstream_names_the_session() {
    let world = World::around(Script::new()).await;
    let session = |line: String| {
        let event: serde_json::Value = serde_json::from_str(&line).expect("an event");
        event["session"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned()
    };
    world.upstream.add(on(GREETING).once().close());
    assert!(outcome(&mut world.client().await).await.starts_with("451"));
    let failed = session(world.gate.wait_for_log("\"upstream connection failed\"").await);
    let told = session(world.gate.wait_for_log("\"transaction failed\"").await);
    assert!(failed == told && failed.len() == 13, "{failed} {told}");
    world.wait_for_readiness(200).await;
    world.upstream.add(on("RCPT").once().reply("nonsense"));
    assert!(outcome(&mut world.client().await).await.starts_with("451"));
    let lost = session(world.gate.wait_for_log("\"upstream connection lost\"").await);
    assert!(lost != failed && lost.len() == 13);
}
