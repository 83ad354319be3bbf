//! At each bound there is a clear reply, the session goes on where it can, and time runs out for who is silent.

use crate::support::client::{Client, encode};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{DOT, Hold, Script, on};
use crate::support::world::{MESSAGE, World};

async fn limited(change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::with(Script::new(), Zone::new(), change).await
}

async fn client_of(world: &World, ip: &str) -> Client {
    Client::introduced(world.gate.address(), ip, "client.example").await
}

async fn start(client: &mut Client) {
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
}

/// A message whose body has this many octets and whose lines are short.
fn message(octets: usize) -> Vec<u8> {
    let line = [&[b'x'; 62][..], b"\r\n"].concat();
    [b"From: a@a.example\r\n\r\n".to_vec(), line.repeat(octets / line.len())].concat()
}

#[tokio::test]
async fn a_line_that_is_too_long_is_dropped_whole() {
    let world = limited(|config| config.set("limits.errors", 100)).await;
    let mut client = world.client().await;
    for length in [2_047, 4_096, 100_000] {
        let line = format!("NOOP {}", "x".repeat(length - 5));
        let reply = client.command(&line).await;
        assert_eq!(reply.raw, b"500 5.5.2 Line too long\r\n", "{length}");
        client.command("NOOP").await.assert(250);
    }
    client.command(&format!("NOOP {}", "x".repeat(2_000))).await.assert(250);
    client.command(&format!("MAIL FROM:<{}@a.example>", "x".repeat(400))).await.assert(501);
    client.command(&format!("EHLO {}", "x".repeat(256))).await.assert(501);
    client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
}

#[tokio::test]
async fn a_client_that_errs_too_often_is_sent_away_and_reads_why() {
    let world = limited(|config| config.set("limits.errors", 5)).await;
    let mut client = world.client().await;
    // All in one go, with more behind: none of the replies is lost to a reset.
    client.send("NONSENSE\r\n".repeat(1_000).as_bytes()).await;
    for _ in 0..6 {
        client.expect(500).await;
    }
    assert!(client.expect(421).await.says("4.7.0"));
    client.expect_close().await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"errors\"}", 1.0).await;
}

#[tokio::test]
async fn what_a_client_had_sent_before_it_could_know_is_no_error() {
    let script = Script::new()
        .rule(on("MAIL").with("<later@").reply("451 4.7.1 later"))
        .rule(on("RCPT").with("<dead@").reply("550 5.1.1 no"))
        .rule(on("RCPT").with("<grey@").reply("450 4.2.0 greylisted"));
    let world = World::with(script, Zone::new(), |config| config.set("limits.errors", 3)).await;
    let recipients = "RCPT TO:<x@b.example>\r\n".repeat(25);
    let chunks = format!("BDAT 2000\r\n{}", "x".repeat(2000)).repeat(24);
    let cases = [
        ("MAIL is put off", format!("MAIL FROM:<later@a.example>\r\n{recipients}DATA\r\n"), 27),
        ("MAIL is refused", format!("MAIL FROM:<a@a.example> SIZE=999999999\r\n{recipients}DATA\r\n"), 27),
        ("no recipient", format!("MAIL FROM:<a@a.example>\r\nRCPT TO:<grey@b.example>\r\n{chunks}"), 26),
        ("no transaction", chunks, 24),
    ];
    for (case, group, replies) in cases {
        let mut client = world.client().await;
        client.send(format!("{group}RSET\r\n").as_bytes()).await;
        for n in 0..replies {
            assert_ne!(client.read_reply().await.code, 421, "{case}: {n}");
        }
        client.expect(250).await;
        client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    }
    // Nor does a list of dead addresses wear a session out that delivers mail beside it.
    let mut client = world.client().await;
    for _ in 0..10 {
        let dead = ["MAIL FROM:<a@a.example>", "RCPT TO:<dead@b.example>", "DATA", "NONSENSE", "RSET"];
        let codes: Vec<_> = client.pipeline(&dead).await.iter().map(|reply| reply.code).collect();
        assert_eq!(codes, [250, 550, 554, 500, 250]);
        client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    }
}

#[tokio::test]
async fn more_recipients_than_allowed_are_put_off() {
    let world = limited(|config| config.set("limits.recipients", 3)).await;
    let mut client = world.client().await;
    let recipients = ["a@b.example", "b@b.example", "c@b.example", "d@b.example", "e@b.example"];
    let delivery = client.deliver("a@a.example", &recipients, MESSAGE).await;
    let codes: Vec<_> = delivery.recipients.iter().map(|r| r.code).collect();
    assert_eq!(codes, [250, 250, 250, 452, 452]);
    assert!(delivery.recipients[3].says("4.5.3"));
    delivery.outcome().assert(250);
    assert_eq!(world.upstream.messages()[0].recipients, recipients[..3]);
    assert_eq!(world.gate.metrics().await.value("dmarcgate_limits_reached_total{limit=\"recipients\"}"), 2.0);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_session_goes_on() {
    let world = limited(|config| config.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB")).await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example> SIZE=65537").await.assert(552);
    client.command("MAIL FROM:<a@a.example> SIZE=65536").await.assert(250);
    client.command("RSET").await.assert(250);
    for (octets, code) in [(65_000, 250), (66_000, 552), (130_000, 552), (65_000, 250)] {
        start(&mut client).await;
        let reply = client.content(&message(octets)).await;
        assert_eq!(reply.code, code, "{octets}: {reply}");
    }
    assert_eq!(world.upstream.messages().len(), 2);
    assert!(world.relayed().iter().any(|line| line.ends_with(" SIZE=81920")), "room for our fields");
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_message_far_beyond_the_limit_is_cut_off_and_the_client_reads_why() {
    let world = limited(|config| config.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB")).await;
    let mut client = world.client().await;
    start(&mut client).await;
    // All of it is sent before the reply is read, and more than any socket buffer takes.
    client.send(&message(16 << 20)).await;
    assert!(client.expect(552).await.says("5.3.4"));
    client.expect_close().await;
    assert_eq!(world.wait_for_end(1).await[0].messages.len(), 0);
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"excess\"}", 1.0).await;
    // It is told like any other message.
    world.wait_for_count("dmarcgate_unacceptable_messages_total{reason=\"message_size\"}", 1.0).await;
    let event = world.gate.wait_for_log("\"message\":\"message\"").await;
    assert!(event.contains("\"reply\":\"552 5.3.4 ") && event.contains("unacceptable"), "{event}");
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>"]).await[1].assert(250);
    client.command("BDAT 500000 LAST").await.assert(552);
    client.expect_close().await;
    world.wait_for_count("dmarcgate_messages_total{outcome=\"unacceptable\"}", 2.0).await;
    // One that has no message is told as a command.
    let mut client = world.client().await;
    client.command("BDAT 500000 LAST").await.assert(552);
    client.expect_close().await;
    world.wait_for_count("dmarcgate_command_refusals_total{reason=\"message_size\"}", 1.0).await;
    assert!(!world.relayed().iter().any(|line| line == "DATA"));
}

#[tokio::test]
async fn the_upstreams_limit_holds_for_what_is_received() {
    let script = Script::new().extensions(&["SIZE 100000"]);
    let world = World::with(script, Zone::new(), |config| config).await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example> SIZE=83617").await.assert(552);
    start(&mut client).await;
    client.content(&message(84_000)).await.assert(552);
    start(&mut client).await;
    client.content(&message(83_000)).await.assert(250);
    // A client of old knows of no limit; it holds all the same.
    client.command("HELO client.example").await.assert(250);
    start(&mut client).await;
    client.content(&message(84_000)).await.assert(552);
    assert_eq!(world.upstream.messages().len(), 1);
}

#[tokio::test]
async fn a_header_section_beyond_the_limit_is_refused() {
    let world = limited(|config| config.set("limits.header_size", "16KiB")).await;
    let mut client = world.client().await;
    let field = |octets: usize| format!("X: {}\r\n", "y".repeat(octets - 5));
    let cases = [
        ("one field", field(16_300), 250),
        ("one long field", field(17_000), 552),
        ("many fields", field(100).repeat(170), 552),
        ("no end", format!("{}more\r\n", field(100).repeat(1_000)), 552),
    ];
    for (case, fields, code) in cases {
        start(&mut client).await;
        let end = if case == "no end" { "" } else { "\r\nbody\r\n" };
        let reply = client.content(format!("From: a@a.example\r\n{fields}{end}").as_bytes()).await;
        assert_eq!(reply.code, code, "{case}: {reply}");
    }
    assert_eq!(world.upstream.messages().len(), 1);
}

#[tokio::test]
async fn while_the_memory_of_all_is_used_up_messages_are_put_off() {
    let world = limited(|config| config.set("spool.memory", "1MiB")).await;
    // Clients that do not go on hold all of it, in units of 16 KiB: three times 20 for the room of a large piece and 1
    // for the header section, and once 1.
    let mut holders = Vec::new();
    for (n, octets) in [200_000, 200_000, 200_000, 5000].into_iter().enumerate() {
        let mut holder = client_of(&world, &format!("198.51.{n}.1")).await;
        start(&mut holder).await;
        holder.send(&message(octets)).await;
        holders.push(holder);
    }
    world.wait_for_count("dmarcgate_spool_memory_bytes", 1_048_576.0).await;
    let mut client = world.client().await;
    for _ in 0..3 {
        start(&mut client).await;
        assert!(client.content(&message(200_000)).await.assert(452).says("4.3.1"));
    }
    world.wait_for_count("dmarcgate_spool_refusals_total{reason=\"memory\"}", 3.0).await;
    for mut holder in holders {
        holder.send(b".\r\n").await;
        holder.expect(250).await;
    }
    start(&mut client).await;
    client.content(&message(200_000)).await.assert(250);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn one_network_does_not_hold_the_memory_of_all_others() {
    // In units of 16 KiB: 256 for all, and 16 for each of the lines.
    let world =
        limited(|config| config.set("spool.memory", "4MiB").set("bypass.trusted_networks", vec!["198.51.100.99/32"]));
    let world = world.await;
    let mut holders = Vec::new();
    for n in 1..=8 {
        let mut holder = client_of(&world, &format!("198.51.100.{n}")).await;
        start(&mut holder).await;
        // A header field that doesn't end: there is no file to which it could go.
        holder.send(&[b"From: a@a.example\r\nX: ".to_vec(), vec![b'a'; 250_000]].concat()).await;
        world.wait_for_count("dmarcgate_spool_memory_bytes", f64::from(n * 16 * 16_384)).await;
        holders.push(holder);
    }
    // It has half of all.
    let mut client = client_of(&world, "198.51.100.9").await;
    for _ in 0..2 {
        start(&mut client).await;
        assert!(client.content(MESSAGE).await.assert(452).says("4.3.1"));
    }
    world.wait_for_count("dmarcgate_spool_refusals_total{reason=\"network_memory\"}", 2.0).await;
    let said = world.gate.wait_for_log("message not taken: the spool can't keep it").await;
    assert!(["WARN", "network_memory", "198.51.100.9"].iter().all(|part| said.contains(part)), "{said}");
    // Others, and whom the operator knows, have the rest.
    for ip in ["203.0.113.1", "198.51.101.1", "198.51.100.99", "2001:db8::1"] {
        let mut client = client_of(&world, ip).await;
        for octets in [2000, 50_000, 500_000, 3 << 20] {
            start(&mut client).await;
            client.content(&message(octets)).await.assert(250);
        }
    }
    for holder in &mut holders {
        holder.send(b"\r\n.\r\n").await;
        holder.expect(250).await;
    }
    start(&mut client).await;
    client.content(MESSAGE).await.assert(250);
    world.wait_for_count("dmarcgate_spool_memory_bytes", 0.0).await;
    world.wait_for_count("dmarcgate_spool_file_bytes", 0.0).await;
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_header_section_counts_for_the_memory_of_all() {
    let world = limited(|config| {
        config.set("spool.memory", "1MiB").set("limits.header_size", "2MiB").set("limits.header_fields", 100_000)
    })
    .await;
    let mut client = world.client().await;
    start(&mut client).await;
    let fields = format!("X: {}\r\n", "y".repeat(90)).repeat(12_000);
    let reply = client.content(format!("From: a@a.example\r\n{fields}\r\nbody\r\n").as_bytes()).await;
    reply.assert(452);
    start(&mut client).await;
    client.content(MESSAGE).await.assert(250);
}

#[tokio::test]
async fn it_counts_until_the_upstream_has_answered() {
    let hold = Hold::new();
    let script = Script::new().rule(on(DOT).hold(&hold, "250 2.0.0 at last"));
    let set = |config: ConfigText| config.set("spool.memory", "1MiB").set("limits.header_fields", 100_000);
    let world = World::with(script, Zone::new(), set).await;
    let mut client = world.client().await;
    start(&mut client).await;
    let fields = format!("X: {}\r\n", "y".repeat(90)).repeat(5_000);
    client.send(&encode(format!("From: a@a.example\r\n{fields}\r\nbody\r\n").as_bytes())).await;
    let has_come = |line: &String| line.contains("octets of data");
    world.upstream.wait_until("the dot came", |seen| seen.iter().flat_map(|c| &c.transcript).any(has_come)).await;
    let counts = |octets: f64| octets >= fields.len() as f64;
    world.gate.wait_for_metrics("memory in use", |s| counts(s.value("dmarcgate_spool_memory_bytes"))).await;
    hold.release();
    client.expect(250).await;
    world.wait_for_count("dmarcgate_spool_memory_bytes", 0.0).await;
}

#[tokio::test]
async fn a_spool_directory_that_goes_puts_messages_off_until_it_is_back() {
    let world = limited(|config| config.set("spool.memory", "1MiB")).await;
    let spool = world.gate.directory().join("spool");
    std::fs::remove_dir_all(&spool).unwrap();
    let mut client = world.client().await;
    start(&mut client).await;
    assert!(client.content(&message(1 << 20)).await.says("4.3.1"));
    start(&mut client).await;
    client.content(MESSAGE).await.assert(250);
    std::fs::create_dir(&spool).unwrap();
    start(&mut client).await;
    client.content(&message(1 << 20)).await.assert(250);
    world.wait_for_count("dmarcgate_messages_total{outcome=\"failed\"}", 1.0).await;
    world.wait_for_count("dmarcgate_spool_refusals_total{reason=\"directory\"}", 1.0).await;
    world.upstream.assert_clean();
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_told_to_come_again() {
    let world = limited(|config| config.set("limits.sessions", 2)).await;
    let first = world.client().await;
    let _second = world.client().await;
    let header = ProxyHeader::naming(ProxyVersion::V2, "198.51.100.7".parse().unwrap());
    for _ in 0..3 {
        let mut third = Client::connect_through(world.gate.address(), header).await;
        assert!(third.expect(421).await.says("4.3.2"));
        third.expect_close().await;
    }
    drop(first);
    world.wait_for_count("dmarcgate_sessions_active", 1.0).await;
    world.wait_for_count("dmarcgate_connections_turned_away_total", 3.0).await;
    let said = world.gate.wait_for_log("connections are turned away: all sessions are in use").await;
    assert!(said.contains("WARN"), "{said}");
    // The slot is free a moment after its session is not counted any more.
    let admitted = async {
        loop {
            let mut client = Client::connect_through(world.gate.address(), header).await;
            if client.try_read_reply().await.is_some_and(|reply| reply.code == 220) {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, admitted).await.expect("a slot is free");
}

#[tokio::test]
async fn a_client_that_comes_when_all_slots_are_taken_gets_the_next_that_is_free() {
    let world = limited(|config| config.set("limits.sessions", 1)).await;
    let header = ProxyHeader::naming(ProxyVersion::V2, "198.51.100.7".parse().unwrap());
    // However often it has to come again on a slow machine: what it waits for comes before it is turned away.
    let admitted = async {
        loop {
            let mut first = world.client().await;
            let mut second = Client::connect_through(world.gate.address(), header).await;
            first.command("QUIT").await.assert(221);
            drop(first);
            let reply = second.read_reply().await;
            if reply.code == 220 {
                return second;
            }
            reply.assert(421);
        }
    };
    let mut second = tokio::time::timeout(crate::support::PATIENCE, admitted).await.expect("a slot for who waits");
    second.command("EHLO second.example").await.assert(250);
}

#[tokio::test]
async fn a_crowd_beyond_the_limit_is_told_to_the_last_client() {
    // More than may wait, and more than are told with patience.
    const CROWD: usize = 300;
    let world = limited(|config| config.set("limits.sessions", 1)).await;
    let _first = world.client().await;
    let header = ProxyHeader::naming(ProxyVersion::V2, "198.51.100.7".parse().unwrap());
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(Client::connect_through(world.gate.address(), header).await);
    }
    for mut client in crowd {
        assert!(client.expect(421).await.says("4.3.2"));
    }
    world.wait_for_count("dmarcgate_connections_turned_away_total", CROWD as f64).await;
}

#[tokio::test]
async fn a_silent_client_is_told_and_left() {
    let world = limited(|config| config.set("timeouts.command", "100ms")).await;
    let mut client = world.client().await;
    assert!(client.expect(421).await.says("4.4.2"));
    client.expect_close().await;
    // Inside a transaction, and with half a line.
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.send(b"RCPT TO:<x@b.ex").await;
    client.expect(421).await;
    client.expect_close().await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"timeout\"}", 2.0).await;
    world.wait_for_end(1).await;
}

#[tokio::test]
async fn a_client_that_is_silent_inside_data_is_told_and_left() {
    let world = limited(|config| config.set("timeouts.data_block", "100ms")).await;
    let mut client = world.client().await;
    start(&mut client).await;
    client.send(b"From: a@a.example\r\n\r\nhalf").await;
    assert!(client.expect(421).await.says("4.4.2"));
    client.expect_close().await;
    assert_eq!(world.wait_for_end(1).await[0].messages.len(), 0);
    assert!(!world.relayed().iter().any(|line| line == "DATA"));
}

#[tokio::test]
async fn a_client_that_drips_its_data_for_ever_is_told_and_left() {
    let world = limited(|config| config.set("timeouts.data_block", "10s").set("timeouts.data", "200ms")).await;
    let mut client = world.client().await;
    start(&mut client).await;
    let mut drops = tokio::time::interval(std::time::Duration::from_millis(5));
    while client.is_silent() {
        drops.tick().await;
        client.try_send(b"x").await;
    }
    client.expect(421).await;
    client.expect_close().await;
    assert_eq!(world.wait_for_end(1).await[0].messages.len(), 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_no_memory_for_its_replies() {
    let world =
        limited(|config| config.set("limits.errors", 10_000).set("limits.commands_without_mail", 100_000)).await;
    let mut client = world.client().await;
    client.send(&b"NOOP\r\n".repeat(50_000)).await;
    for _ in 0..50_000 {
        client.expect(250).await;
    }
    client.send(&encode(b"")).await;
    client.expect(500).await;
}
