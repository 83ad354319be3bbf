//! Peers that mean harm: they come in crowds, talk without sending mail, drip, never read. Each is told why it has to
//! go where it can be told, and each is counted; honest ones beside it are served.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::Script;
use crate::support::world::{MESSAGE, STRANGER, World};

const NEIGHBOUR: &str = "198.51.100.8";
const TRUSTED: &str = "192.0.2.9";

async fn limited(change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::with(Script::new(), Zone::new(), |c| change(c).set("bypass.trusted_networks", vec!["192.0.2.9/32"])).await
}

async fn from(world: &World, address: &str) -> Client {
    let header = ProxyHeader::naming(ProxyVersion::V2, address.parse().unwrap());
    Client::connect_through(world.gate.address(), header).await
}

async fn is_crowded(world: &World, address: &str) -> bool {
    let mut client = from(world, address).await;
    let reply = client.read_reply().await;
    if reply.code == 421 {
        assert_eq!(reply.raw, b"421 4.7.0 Too many sessions from your network, please try again later\r\n");
        client.expect_close().await;
        return true;
    }
    reply.assert(220);
    client.command("QUIT").await.assert(221);
    client.expect_close().await;
    false
}

async fn deliver(client: &mut Client, content: &[u8]) -> u16 {
    client.deliver("a@a.example", &["x@b.example"], content).await.outcome().code
}

#[tokio::test]
async fn one_network_has_its_bound_of_sessions_and_no_other_pays_for_it() {
    let world = limited(|c| c.set("limits.sessions_per_network", 2)).await;
    let mut holders = Vec::new();
    for address in [STRANGER, STRANGER, "2001:db8::1", "2001:db8::ffff:2", TRUSTED, TRUSTED] {
        let mut client = from(&world, address).await;
        client.expect(220).await;
        holders.push(client);
    }
    assert!(is_crowded(&world, STRANGER).await);
    assert!(is_crowded(&world, "2001:db8::3").await, "of the same /64");
    for address in [NEIGHBOUR, "2001:db8:0:1::1", TRUSTED] {
        assert!(!is_crowded(&world, address).await, "{address}");
    }
    let health_check = ProxyHeader::without_addresses(ProxyVersion::V2);
    for _ in 0..3 {
        let mut client = Client::connect_through(world.gate.address(), health_check).await;
        client.expect(220).await;
        holders.push(client);
    }
    world.wait_for_count("dmarcgate_connections_refused_total{reason=\"network_sessions\"}", 2.0).await;
    let said = world.gate.wait_for_log("their network has reached a limit").await;
    assert!(said.contains("WARN") && said.contains("network_sessions") && said.contains(STRANGER), "{said}");
    holders.clear();
    world.wait_for_count("dmarcgate_sessions_active", 0.0).await;
    // A place is free a moment after its session is not counted any more.
    let admitted = async { while is_crowded(&world, STRANGER).await {} };
    tokio::time::timeout(crate::support::PATIENCE, admitted).await.expect("a place is free");
}

#[tokio::test]
async fn one_network_begins_no_more_sessions_than_its_rate_allows() {
    let world = limited(|c| c.set("limits.session_rate", 1).set("limits.network_prefix_v4", 24)).await;
    assert!(!is_crowded(&world, STRANGER).await);
    assert!(is_crowded(&world, STRANGER).await);
    assert!(is_crowded(&world, NEIGHBOUR).await, "of the same /24");
    assert!(!is_crowded(&world, "203.0.113.1").await);
    for _ in 0..3 {
        assert!(!is_crowded(&world, TRUSTED).await);
    }
    world.wait_for_count("dmarcgate_connections_refused_total{reason=\"network_rate\"}", 2.0).await;
    world.wait_for_count("dmarcgate_connections_refused_total{reason=\"network_sessions\"}", 0.0).await;
}

#[tokio::test]
async fn a_client_that_talks_without_sending_mail_is_sent_away() {
    let world = limited(|c| c.set("limits.commands_without_mail", 10).set("limits.recipients", 3)).await;
    let mut client = world.client().await;
    for _ in 0..3 {
        for command in ["NOOP", "RSET", "VRFY x", "HELP"] {
            assert_eq!(client.command(command).await.code / 100, 2, "{command}");
        }
        // More recipients than fit are put off, and are no idle talk.
        let recipients = ["a@b.example", "b@b.example", "c@b.example", "d@b.example", "e@b.example", "f@b.example"];
        client.deliver("a@a.example", &recipients, MESSAGE).await.outcome().assert(250);
    }
    for _ in 0..10 {
        client.command("NOOP").await.assert(250);
    }
    client.send(b"NOOP\r\n").await;
    client.expect(250).await;
    assert_eq!(client.expect(421).await.raw, b"421 4.7.0 Too many commands without mail\r\n");
    client.expect_close().await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"commands\"}", 1.0).await;
}

#[tokio::test]
async fn a_client_that_never_introduces_itself_is_told_and_left() {
    let world = limited(|c| c.set("timeouts.first_command", "300ms")).await;
    let (mut client, mut introduced) = (from(&world, STRANGER).await, world.client().await);
    client.expect(220).await;
    let mut again = tokio::time::interval(Duration::from_millis(50));
    loop {
        again.tick().await;
        // It may have closed in between.
        if !client.try_send(b"NOOP\r\n").await {
            break;
        }
        let reply = client.read_reply().await;
        if reply.code == 421 {
            assert!(reply.says("4.4.2"), "{reply}");
            break;
        }
        reply.assert(250);
        introduced.command("NOOP").await.assert(250);
    }
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"timeout\"}", 1.0).await;
    assert_eq!(deliver(&mut introduced, MESSAGE).await, 250, "who has said EHLO has all the time of other commands");
}

#[tokio::test]
async fn a_client_that_drips_is_left_long_before_its_data_must_end() {
    let world = limited(|c| c.set("timeouts.data_block", "1s").set("limits.data_rate", "1MiB")).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    let mut drops = tokio::time::interval(Duration::from_millis(5));
    while client.is_silent() {
        drops.tick().await;
        client.try_send(b"x").await;
    }
    assert_eq!(client.expect(421).await.raw, b"421 4.4.2 Data comes too slowly, closing\r\n");
    client.expect_close().await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"slow\"}", 1.0).await;
    // What comes whole within the window is never slow, however short.
    let mut client = world.client().await;
    assert_eq!(deliver(&mut client, MESSAGE).await, 250);
}

#[tokio::test]
async fn a_client_that_never_reads_is_left() {
    let world = limited(|c| c.set("timeouts.command", "500ms").set("limits.commands_without_mail", 1_000_000)).await;
    let mut client = Client::connect_narrowly(world.gate.address()).await;
    client.send(&ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap()).encode()).await;
    let flood = b"EHLO a.example\r\n".repeat(1 << 16);
    let counted = world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"timeout\"}", 1.0);
    tokio::select! {
        () = async { while client.try_send(&flood).await {} std::future::pending().await } => {}
        () = counted => {}
    }
    drop(client);
    world.wait_for_count("dmarcgate_sessions_active", 0.0).await;
}

#[tokio::test]
async fn a_client_that_speaks_before_the_greeting_is_told_off() {
    let world = limited(|c| c.set("smtp.pregreet_delay", "10s")).await;
    let told_off: &[u8] = b"554 5.5.1 Protocol error: wait for the greeting before you speak\r\n";
    let mut client = from(&world, STRANGER).await;
    client.send(b"EHLO a.example\r\n").await;
    assert_eq!(client.read_reply().await.raw, told_off);
    client.expect_close().await;
    // In one piece with the header of the balancer.
    let header = ProxyHeader::naming(ProxyVersion::V1, STRANGER.parse().unwrap()).encode();
    let mut client = Client::connect(world.gate.address()).await;
    client.send(&[&header[..], b"EHLO a.example\r\n"].concat()).await;
    assert_eq!(client.read_reply().await.raw, told_off);
    client.expect_close().await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"pregreet\"}", 2.0).await;
    // Own servers and health checks are not kept waiting.
    let mut client = from(&world, TRUSTED).await;
    client.send(b"EHLO a.example\r\n").await;
    client.expect(220).await;
    client.expect(250).await;

    let world = limited(|c| c.set("smtp.pregreet_delay", "200ms")).await;
    let mut client = world.client().await;
    assert_eq!(deliver(&mut client, MESSAGE).await, 250, "who waits is served");
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"pregreet\"}", 0.0).await;
}

#[tokio::test]
async fn a_header_section_of_too_many_fields_is_refused() {
    let world = limited(|c| c.set("limits.header_fields", 100)).await;
    let fields = |count: usize| "X:\r\n".repeat(count);
    let cases = [
        ("as many as allowed", format!("From: a@a.example\r\n{}\r\nbody\r\n", fields(99)), 250),
        ("long ones", format!("From: a@a.example\r\nTo: a{}\r\n\r\nbody\r\n", ",\r\n b".repeat(500)), 250),
        ("one too many", format!("From: a@a.example\r\n{}\r\nbody\r\n", fields(100)), 552),
        ("lines that are no fields", format!("From: a@a.example\r\n{}\r\nbody\r\n", "x\r\n".repeat(100)), 552),
        ("no end", fields(50_000), 552),
        ("many lines in the body", format!("From: a@a.example\r\n\r\n{}", fields(500)), 250),
    ];
    for address in [STRANGER, TRUSTED] {
        let mut client = Client::introduced(world.gate.address(), address, "client.example").await;
        for (case, content, code) in &cases {
            // What a device in a trusted network sends before its first empty line is for the mail server to read.
            let code = if (*case, address) == ("lines that are no fields", TRUSTED) { 250 } else { *code };
            assert_eq!(deliver(&mut client, content.as_bytes()).await, code, "{case} from {address}");
        }
    }
    world.wait_for_count("dmarcgate_unacceptable_messages_total{reason=\"header_fields\"}", 5.0).await;
    assert_eq!(world.upstream.messages().len(), 7);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_message_that_loops_is_refused_from_whomever_it_comes() {
    let world = limited(|c| c.set("limits.received_fields", 10)).await;
    let hops = |count: usize| "received: from a by b;\r\n date\r\n".repeat(count);
    for (n, address) in [STRANGER, TRUSTED].into_iter().enumerate() {
        let mut client = Client::introduced(world.gate.address(), address, "client.example").await;
        let message = |count| format!("{}From: a@a.example\r\n\r\n{}", hops(count), hops(50));
        assert_eq!(deliver(&mut client, message(10).as_bytes()).await, 250);
        let delivery = client.deliver("a@a.example", &["x@b.example"], message(11).as_bytes()).await;
        assert!(delivery.outcome().assert(554).says("5.4.6"), "{}", delivery.outcome());
        // A message without a body.
        assert_eq!(deliver(&mut client, hops(11).as_bytes()).await, 554);
        assert_eq!(deliver(&mut client, MESSAGE).await, 250, "the session goes on");
        let count = 2.0 * (n + 1) as f64;
        world.wait_for_count("dmarcgate_unacceptable_messages_total{reason=\"received_fields\"}", count).await;
    }
    world.upstream.assert_clean();
}

#[tokio::test]
async fn memory_in_use_is_seen_while_it_is_and_so_is_who_was_put_off() {
    let world = limited(|c| {
        c.set("spool.memory", "1MiB").set("limits.header_size", "2MiB").set("limits.header_fields", 100_000)
    })
    .await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    client.send(&[b"From: a@a.example\r\n\r\n".to_vec(), b"x\r\n".repeat(70_000)].concat()).await;
    let seen = world.gate.wait_for_metrics("memory in use", |s| s.value("dmarcgate_spool_memory_bytes") > 200_000.0);
    assert_eq!(seen.await.value("dmarcgate_spool_memory_limit_bytes"), 1_048_576.0);
    client.send(&b"x\r\n".repeat(100_000)).await;
    world.gate.wait_for_metrics("files in use", |s| s.value("dmarcgate_spool_file_bytes") > 250_000.0).await;
    drop(client);
    world.wait_for_count("dmarcgate_spool_memory_bytes", 0.0).await;
    world.wait_for_count("dmarcgate_spool_file_bytes", 0.0).await;
    let mut client = world.client().await;
    assert_eq!(
        deliver(&mut client, format!("From: a@a.example\r\n{}", "X: y\r\n".repeat(20_000)).as_bytes()).await,
        250
    );
    assert_eq!(deliver(&mut client, format!("X: {}\r\n", "y".repeat(90)).repeat(12_000).as_bytes()).await, 452);
    world.wait_for_count("dmarcgate_spool_refusals_total{reason=\"memory\"}", 1.0).await;
}

#[tokio::test]
async fn a_proxy_header_of_something_else_than_a_tcp_connection_is_refused() {
    let world = limited(|c| c).await;
    let mut datagram = ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap()).encode();
    datagram[13] = 0x12;
    // 60,000 octets are announced, and not waited for.
    let mut endless = ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap()).encode();
    endless[14..16].copy_from_slice(&60_000_u16.to_be_bytes());
    for header in [datagram, endless] {
        let mut client = Client::connect(world.gate.address()).await;
        client.send(&header).await;
        client.expect_close().await;
    }
    world.wait_for_count("dmarcgate_connections_refused_total{reason=\"proxy_header\"}", 2.0).await;
}
