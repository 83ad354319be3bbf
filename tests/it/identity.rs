//! Who the client was: what the upstream is told, who answers for a refusal, and that nobody relays through the gate.

use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{GREETING, Proxy, Script, on};
use crate::support::world::{MESSAGE, STRANGER, World};

fn by(identity: &'static str) -> impl FnOnce(ConfigText) -> ConfigText {
    move |config| config.set("upstream.identity", identity)
}

/// The domains that the relay guard lets through are `own.example` alone; the stranger's neighbour is trusted.
fn guarded(identity: &'static str) -> impl FnOnce(ConfigText) -> ConfigText {
    move |config| {
        by(identity)(config)
            .set("smtp.recipient_domains", vec!["own.example"])
            .set("bypass.trusted_networks", vec!["192.0.2.9/32"])
    }
}

async fn outcome(client: &mut Client) -> String {
    client.deliver("a@a.example", &["x@own.example"], MESSAGE).await.outcome().to_string()
}

#[tokio::test]
async fn xclient_hands_the_client_over_before_its_mail() {
    let zone = Zone::new()
        .ptr(STRANGER, "mail.client.example")
        .a("mail.client.example", STRANGER)
        // Claims a name that does not know it.
        .ptr("198.51.100.8", "liar.example")
        .a("liar.example", "192.0.2.1")
        .serv_fail("9.100.51.198.in-addr.arpa", RecordType::PTR)
        // No host is called so (RFC 1123 §2.1), and Postfix does not take it.
        .ptr("198.51.100.11", "123.456")
        .a("123.456", "198.51.100.11")
        .ptr("198.51.100.12", "slow.example")
        .serv_fail("slow.example", RecordType::A)
        .ptr("2001:db8::7", "six.client.example")
        .aaaa("six.client.example", "2001:db8::7");
    let cases = [
        (STRANGER, STRANGER, "mail.client.example", "mail.client.example"),
        ("198.51.100.8", "198.51.100.8", "[UNAVAILABLE]", "liar.example"),
        ("198.51.100.9", "198.51.100.9", "[TEMPUNAVAIL]", "[TEMPUNAVAIL]"),
        ("198.51.100.10", "198.51.100.10", "[UNAVAILABLE]", "[UNAVAILABLE]"),
        ("198.51.100.11", "198.51.100.11", "[UNAVAILABLE]", "[UNAVAILABLE]"),
        ("198.51.100.12", "198.51.100.12", "[TEMPUNAVAIL]", "slow.example"),
        ("2001:db8::7", "IPV6:2001:db8::7", "six.client.example", "six.client.example"),
        ("::ffff:198.51.100.7", STRANGER, "mail.client.example", "mail.client.example"),
    ];
    for identity in ["auto", "xclient"] {
        let world = World::with(Script::with_xclient(), zone.clone(), by(identity)).await;
        for (n, (client_ip, address, name, reverse)) in cases.into_iter().enumerate() {
            let mut client = Client::introduced(world.gate.address(), client_ip, "he+lo.example").await;
            assert!(outcome(&mut client).await.starts_with("250"));
            let connection = &world.sessions()[n];
            let attribute = |name: &str| connection.xclient[name].as_str();
            assert_eq!((attribute("ADDR"), attribute("NAME")), (address, name), "{identity}");
            assert_eq!(attribute("REVERSE_NAME"), reverse, "{identity}, {client_ip}");
            assert_eq!((attribute("HELO"), attribute("PROTO")), ("he+lo.example", "ESMTP"));
            assert_eq!((attribute("PORT"), attribute("LOGIN")), ("40025", "[UNAVAILABLE]"));
            assert_eq!(attribute("DESTPORT"), "25");
            let verbs: Vec<_> = connection.commands.iter().map(|line| line.get(..14).unwrap_or(line)).collect();
            assert_eq!(
                verbs[..4],
                ["EHLO mx.gate.e", "XCLIENT NAME=m", "EHLO he+lo.exa", "MAIL FROM:<a@a"]
                    .map(|expected| { if expected.starts_with("XCLIENT") { verbs[1] } else { expected } })
            );
            assert!(verbs[1].starts_with("XCLIENT NAME="));
            let content = String::from_utf8(connection.messages[0].content.clone()).unwrap();
            assert!(!content.contains("Received:"), "the upstream writes its own: {content}");
        }
        // A client of old is handed over as one.
        let mut client = Client::connect_through(world.gate.address(), from(STRANGER)).await;
        client.expect(220).await;
        client.command("HELO old.example").await.assert(250);
        assert!(outcome(&mut client).await.starts_with("250"));
        assert_eq!(world.sessions().last().unwrap().xclient["PROTO"], "SMTP");
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn only_announced_attributes_are_handed_over() {
    let world = World::with(Script::new().extension("XCLIENT ADDR HELO"), Zone::new(), by("auto")).await;
    let mut client = world.client().await;
    assert!(outcome(&mut client).await.starts_with("250"));
    assert_eq!(world.sessions()[0].commands[1], format!("XCLIENT ADDR={STRANGER} HELO=client.example"));
    // A name that makes the line too long is left to the EHLO that follows.
    for (n, length) in [(1, 160), (2, 255)] {
        let name = "=".repeat(length);
        client.command(&format!("EHLO {name}")).await.assert(250);
        assert!(outcome(&mut client).await.starts_with("250"));
        assert_eq!(world.sessions()[n].commands.iter().filter(|line| line.starts_with("XCLIENT")).count(), 1);
        assert_eq!(world.sessions()[n].xclient["HELO"], "[UNAVAILABLE]");
        assert!(world.sessions()[n].commands.contains(&format!("EHLO {name}")));
    }
    assert_eq!(world.gate.http_get("/readyz").await.0, 200);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_refused_hand_over_is_our_fault_and_a_refused_client_its_own() {
    let refused = "554 5.7.1 <client.example[198.51.100.7]>: Client host rejected";
    let cases = [
        ("XCLIENT not permitted", on("XCLIENT").reply("550 5.7.1 Error: insufficient authorization"), "451 4.3.0"),
        ("XCLIENT not understood", on("XCLIENT").reply("501 5.5.4 Bad XCLIENT syntax"), "451 4.3.0"),
        ("XCLIENT unknown", on("XCLIENT").reply("502 5.5.1 Error: not implemented"), "451 4.3.0"),
        ("gate refused at the greeting", on(GREETING).reply("554 5.7.1 no"), "451 4.3.0"),
        ("gate refused at EHLO", on("EHLO").with("mx.gate").reply("550 5.7.1 no"), "451 4.3.0"),
        ("gate put off at EHLO", on("EHLO").with("mx.gate").reply("450 4.7.1 no"), "451 4.4.1"),
        ("client refused at XCLIENT", on("XCLIENT").reply(refused), refused),
        ("client listed at XCLIENT", on("XCLIENT").reply("550 5.7.1 You are listed"), "550 5.7.1 You are listed"),
        ("client put off at XCLIENT", on("XCLIENT").reply("450 4.7.1 later"), "450 4.7.1 later"),
        ("client refused at EHLO", on("EHLO").with("client.example").reply("550 5.7.1 bad name"), "550 5.7.1 bad name"),
        ("client put off at EHLO", on("EHLO").with("client.example").reply("450 4.7.1 wait"), "450 4.7.1 wait"),
    ];
    let world = World::with(Script::with_xclient(), Zone::new(), by("xclient")).await;
    for (case, rule, expected) in cases {
        let mut client = world.client().await;
        world.upstream.add(rule);
        let reply = outcome(&mut client).await;
        assert!(reply.starts_with(expected), "{case}: {reply}");
        assert_eq!(world.upstream.messages().len(), 0, "{case}");
        client.command("NOOP").await.assert(250);
        // Later rules come before earlier ones: all is as it was.
        world.upstream.add(on("XCLIENT").reply("220 mta.example ESMTP"));
        world.upstream.add(on(GREETING).reply("220 mta.example ESMTP"));
        world.upstream.add(
            on("EHLO")
                .reply("250-mta.example\n250 XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT"),
        );
    }
    let line = world.gate.wait_for_log("the upstream refuses this gate").await;
    assert!(line.contains("ERROR") && line.contains("554 5.7.1 no"), "{line}");
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_upstream_connections_total{result=\"client_refused\"}"), 5.0);
    assert_eq!(scrape.value("dmarcgate_upstream_connections_total{result=\"gate_refused\"}"), 6.0);
}

#[tokio::test]
async fn a_550_to_xclient_is_no_clients_before_one_was_taken() {
    let script = Script::with_xclient().rule(on("XCLIENT").reply("550 5.7.1 Access denied"));
    let world = World::with(script, Zone::new(), by("xclient")).await;
    world.upstream.wait_for_command("XCLIENT").await;
    let mut client = world.client().await;
    assert!(outcome(&mut client).await.starts_with("451 4.3.0"));
    world.upstream.add(on("XCLIENT").reply("220 mta.example ESMTP"));
    assert!(outcome(&mut client).await.starts_with("250"));
    world.upstream.add(on("XCLIENT").reply("550 5.7.1 Access denied"));
    let mut client = world.client().await;
    assert_eq!(outcome(&mut client).await, "550 5.7.1 Access denied");
}

#[tokio::test]
async fn the_proxy_protocol_hands_the_client_over() {
    for (identity, version) in [("proxy-v1", ProxyVersion::V1), ("proxy-v2", ProxyVersion::V2)] {
        let world = World::with(Script::new().proxy(), Zone::new(), by(identity)).await;
        for client in [STRANGER, "2001:db8::7"] {
            let mut client = Client::introduced(world.gate.address(), client, "client.example").await;
            assert!(outcome(&mut client).await.starts_with("250"));
        }
        let seen: Vec<_> = world.sessions().iter().map(|c| c.proxy).collect();
        let expected =
            [STRANGER, "2001:db8::7"].map(|client| Some(ProxyHeader::naming(version, client.parse().unwrap())));
        assert_eq!(seen, expected);
        assert_eq!(world.sessions()[0].commands[0], "EHLO client.example");
        let content = String::from_utf8(world.upstream.messages()[0].content.clone()).unwrap();
        assert!(!content.contains("Received:"), "{content}");
        // It knows the client from the first octet on, so what it says is meant for the client.
        let mut client = world.client().await;
        world.upstream.add(on(GREETING).once().reply_and_close("554 5.7.1 blocked"));
        assert_eq!(outcome(&mut client).await, "554 5.7.1 blocked");
        world.upstream.add(on(GREETING).once().reply_and_close("450 4.7.1 greylisted"));
        assert_eq!(outcome(&mut client).await, "450 4.7.1 greylisted");
        world.upstream.add(on("EHLO").once().reply("550 5.7.1 bad name"));
        assert_eq!(outcome(&mut client).await, "550 5.7.1 bad name");
        assert!(outcome(&mut client).await.starts_with("250"));
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn a_received_field_names_the_client_where_nothing_else_does() {
    let zone = Zone::new().ptr(STRANGER, "mail.client.example").a("mail.client.example", STRANGER);
    for (identity, has_field) in [("auto", true), ("received", true), ("none", false)] {
        let world = World::with(Script::new(), zone.clone(), guarded(identity)).await;
        let mut client = Client::introduced(world.gate.address(), STRANGER, "he(lo.example").await;
        assert!(outcome(&mut client).await.starts_with("250"));
        let message = &world.upstream.messages()[0];
        let content = String::from_utf8(message.content.clone()).unwrap();
        let field =
            "Received: from he?lo.example (mail.client.example [198.51.100.7])\r\n\tby mx.gate.example with ESMTP id ";
        assert_eq!(content.contains(field), has_field, "{identity}: {content}");
        assert!(content.ends_with("From: a@a.example\r\nSubject: x\r\n\r\nbody\r\n"));
        assert_eq!(world.sessions()[0].commands[0], "EHLO mx.gate.example");
        assert!(!world.sessions()[0].commands.iter().any(|line| line.starts_with("XCLIENT")));
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn the_relay_guard_stops_strangers_and_no_one_else() {
    for identity in ["auto", "received", "none"] {
        let world = World::with(Script::new(), Zone::new(), guarded(identity)).await;
        let cases = [
            ("<x@own.example>", 250),
            ("<x@OWN.example>", 250),
            ("<postmaster>", 250),
            ("<Postmaster>", 250),
            ("<x@foreign.example>", 550),
            ("<x@sub.own.example>", 550),
            ("<x@own.example.foreign.example>", 550),
            ("<x>", 550),
            ("<x@[192.0.2.1]>", 550),
            ("<x@[127.0.0.1]>", 550),
            ("<x%foreign.example@own.example>", 550),
            ("<foreign.example!x@own.example>", 550),
            ("<\"x@foreign.example\"@own.example>", 550),
            ("<@own.example:x@foreign.example>", 550),
            ("<@foreign.example:x@own.example>", 550),
            ("<@foreign.example,@own.example:x@own.example>", 550),
        ];
        for (stranger, client) in [(true, STRANGER), (false, "192.0.2.9")] {
            let mut client = Client::introduced(world.gate.address(), client, "client.example").await;
            client.command("MAIL FROM:<a@a.example>").await.assert(250);
            for (path, code) in cases {
                let reply = client.command(&format!("RCPT TO:{path}")).await;
                let expected = if stranger { code } else { 250 };
                assert_eq!(reply.code, expected, "{path}, {identity}, stranger: {stranger}");
                assert!(reply.code == 250 || reply.says("5.7.1"), "{reply}");
            }
            client.command("QUIT").await.assert(221);
        }
        let asked = |commands: &[String]| commands.iter().filter(|line| line.starts_with("RCPT")).count();
        let sessions = world.wait_for_end(2).await;
        assert_eq!((asked(&sessions[0].commands), asked(&sessions[1].commands)), (4, cases.len()));
        world.wait_for_count("dmarcgate_relay_guard_refusals_total", 12.0).await;
    }
}

#[tokio::test]
async fn auto_without_xclient_and_without_a_guard_serves_nobody() {
    let change = |config: ConfigText| config.unset("smtp.recipient_domains");
    let world = World::with(Script::new(), Zone::new(), change).await;
    assert!(world.wait_for_readiness(503).await.contains("relay_guard"));
    world.gate.wait_for_log("the upstream can't see the client").await;
    let mut client = world.client().await;
    let reply = outcome(&mut client).await;
    assert!(reply.starts_with("451 4.3.5"), "{reply}");
    assert!(world.relayed().is_empty(), "not even MAIL is tried");
}

#[tokio::test]
async fn an_upstream_that_relays_for_strangers_makes_the_gate_unready() {
    let foreign = || on("RCPT").with("@dmarcgate.invalid").reply("554 5.7.1 Relay access denied");
    let probe = ["MAIL FROM:<>", "RCPT TO:<relay-test@dmarcgate.invalid>", "RSET"];
    for (identity, script) in [("auto", Script::with_xclient()), ("proxy-v2", Script::new().proxy())] {
        let change = |config: ConfigText| by(identity)(config).unset("smtp.recipient_domains");
        let world = World::with(script.clone(), Zone::new(), change).await;
        assert!(world.wait_for_readiness(503).await.contains("relay_guard"));
        world.gate.wait_for_log("OPEN RELAY").await;

        let world = World::with(script.clone().rule(foreign()), Zone::new(), change).await;
        world.wait_for_readiness(200).await;
        let connection = &world.upstream.connections()[0];
        let asked: Vec<_> = connection.commands.iter().filter(|line| probe.contains(&line.as_str())).collect();
        assert_eq!(asked, probe);
        let told = connection.xclient.get("ADDR").cloned();
        let by_proxy = connection.proxy.and_then(|p| p.addresses).map(|(client, _)| client.ip().to_string());
        assert_eq!(told.or(by_proxy).as_deref(), Some("192.0.2.1"));
        // Not by the gate's name, of which nobody but the gate may speak, to many a server.
        assert!(connection.commands.contains(&"EHLO [192.0.2.1]".to_owned()), "{:?}", connection.commands);
        let mut client = world.client().await;
        assert!(outcome(&mut client).await.starts_with("250"));

        // The operator says that it guards itself.
        let world = World::with(script, Zone::new(), by(identity)).await;
        world.wait_for_readiness(200).await;
        assert!(!world.upstream.commands().iter().any(|line| line.starts_with("MAIL")));
    }
}

#[tokio::test]
async fn an_upstream_that_puts_the_question_off_is_asked_again() {
    let greylist = on("RCPT").with("@dmarcgate.invalid").reply("450 4.2.0 come again");
    let change = |config: ConfigText| by("xclient")(config).unset("smtp.recipient_domains");
    let world = World::with(Script::with_xclient().rule(greylist), Zone::new(), change).await;
    world.gate.wait_for_log("did not say yet whether it relays").await;
    world.wait_for_readiness(200).await;
}

#[tokio::test]
async fn an_upstream_that_defers_what_it_would_never_relay_has_answered() {
    let postfix =
        on("RCPT").with("@dmarcgate.invalid").reply("454 4.7.1 <relay-test@dmarcgate.invalid>: Relay access denied");
    let change = |config: ConfigText| by("xclient")(config).unset("smtp.recipient_domains");
    let world = World::with(Script::with_xclient().rule(postfix), Zone::new(), change).await;
    world.wait_for_readiness(200).await;
    assert!(!world.gate.log().concat().contains("did not say yet whether it relays"));
}

#[tokio::test]
async fn an_upstream_that_refuses_the_probe_takes_mail_of_others() {
    let refusals = [
        ("auto", Script::with_xclient().rule(on("XCLIENT").with("192.0.2.1").reply("554 5.7.1 bogon"))),
        ("xclient", Script::with_xclient().rule(on("XCLIENT").with("192.0.2.1").reply_and_close("421 4.7.1 bogon"))),
    ];
    for (identity, script) in refusals {
        let change = |config: ConfigText| by(identity)(config).unset("smtp.recipient_domains");
        let world = World::with(script, Zone::new(), change).await;
        world.wait_for_readiness(200).await;
        assert!(outcome(&mut world.client().await).await.starts_with("250"), "{identity}");
    }
    // Before it says what it offers: it is asked again in the gate's own name.
    for identity in ["proxy-v1", "proxy-v2"] {
        let bogon = on(GREETING).with("192.0.2.1").reply_and_close("554 5.7.1 bogon");
        let change = |config: ConfigText| by(identity)(config).unset("smtp.recipient_domains");
        let world = World::with(Script::new().proxy().rule(bogon), Zone::new(), change).await;
        world.wait_for_readiness(200).await;
        let seen = world.upstream.connections();
        assert_eq!(seen[1].commands[0], "EHLO mx.gate.example");
        let (client, server) = seen[1].proxy.and_then(|header| header.addresses).expect("addresses");
        assert!(client.ip().is_loopback() && client.port() != 0 && server == world.upstream.address());
        let mut client = world.client().await;
        assert!(client.command("EHLO client.example").await.says("8BITMIME"), "{identity}");
        assert!(outcome(&mut client).await.starts_with("250"), "{identity}");
        // That it reads the header is known, so its refusals are for the client.
        world.upstream.add(on(GREETING).with(STRANGER).reply_and_close("554 5.7.1 blocked"));
        assert_eq!(outcome(&mut world.client().await).await, "554 5.7.1 blocked");
    }
}

/// Has the upstream probed, by a session that fails, until one probe that began after now is over.
async fn probed_again(world: &World) {
    for _ in 0..2 {
        let is_probe = |seen: &crate::support::upstream::Connection| {
            let proxied = seen.proxy.and_then(|header| header.addresses);
            proxied.is_some_and(|(client, _)| client.ip().to_string() == "192.0.2.1")
                || seen.xclient.get("ADDR").is_some_and(|address| address == "192.0.2.1")
        };
        let probes = |seen: &[_]| seen.iter().filter(|seen| is_probe(seen)).count();
        let before = probes(&world.upstream.connections());
        let at = if world.upstream.connections()[0].proxy.is_some() { GREETING } else { "XCLIENT" };
        // One that fails while a probe is at its end is no reason for another.
        loop {
            world.upstream.add(on(at).with(STRANGER).once().close());
            assert!(outcome(&mut world.client().await).await.starts_with("451 4.4.1"));
            let probed = world.upstream.wait_until("it is probed again", |seen| probes(seen) > before);
            if tokio::time::timeout(std::time::Duration::from_secs(2), probed).await.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_of_the_probe_takes_no_extension_away() {
    let refusals = ["421 4.3.2 All server ports are busy", "554 5.7.1 bogon"];
    for refusal in refusals {
        let world = World::with(Script::new().proxy(), Zone::new(), by("proxy-v2")).await;
        world.wait_for_readiness(200).await;
        world.upstream.add(on(GREETING).with("192.0.2.1").reply_and_close(refusal));
        probed_again(&world).await;
        assert!(world.client().await.command("EHLO client.example").await.says("8BITMIME"), "{refusal}");
        assert_eq!(world.gate.http_get("/readyz").await.0, 200, "{refusal}");
        // Nor where nobody is let in for a moment.
        world.upstream.add(on(GREETING).with("192.0.2.1").reply_and_close(refusal));
        world.upstream.add(on(GREETING).with("127.0.0.1").reply_and_close(refusal));
        probed_again(&world).await;
        assert!(world.client().await.command("EHLO client.example").await.says("8BITMIME"), "{refusal}");
    }
}

#[tokio::test]
async fn a_stranger_who_has_to_come_again_does_not_hide_an_open_relay() {
    for (identity, at) in [("xclient", "XCLIENT"), ("proxy-v2", GREETING)] {
        let script = if identity == "xclient" { Script::with_xclient() } else { Script::new().proxy() };
        let busy = on(at).with("192.0.2.1").once().reply_and_close("421 4.7.0 too many connections");
        let change = |config: ConfigText| by(identity)(config).unset("smtp.recipient_domains");
        let world = World::with(script.rule(busy), Zone::new(), change).await;
        world.gate.wait_for_log("did not say yet whether it relays").await;
        world.wait_for_readiness(200).await;
        probed_again(&world).await;
        world.gate.wait_for_log("OPEN RELAY").await;
        world.wait_for_readiness(503).await;
    }
}

#[tokio::test]
async fn an_upstream_that_lets_the_gate_hand_nobody_over_any_more_is_found_out_by_a_probe() {
    let world = World::with(Script::with_xclient(), Zone::new(), by("xclient")).await;
    world.wait_for_readiness(200).await;
    let mut client = world.client().await;
    world.upstream.add(on("XCLIENT").reply("550 5.7.0 Error: insufficient authorization"));
    assert!(outcome(&mut client).await.starts_with("451 4.3.0"));
    let line = world.gate.wait_for_log("upstream probe failed: it refuses this gate").await;
    assert!(line.contains("ERROR") && line.contains("insufficient authorization"), "{line}");
    world.wait_for_readiness(503).await;
}

#[tokio::test]
async fn one_of_two_upstreams_that_relays_makes_the_gate_unready() {
    let dns = crate::support::dns::DnsServer::start(Zone::new()).await;
    let relay = crate::support::upstream::Upstream::start(Script::with_xclient()).await;
    let guard = Script::with_xclient().rule(on("RCPT").reply("554 5.7.1 no"));
    let guard = crate::support::upstream::Upstream::start(guard).await;
    let servers = vec![relay.address().to_string(), guard.address().to_string()];
    let change = |config: ConfigText| config.unset("smtp.recipient_domains").set("upstream.servers", servers);
    let gate = crate::support::gate::Gate::start(relay.address(), dns.address(), change).await;
    guard.wait_for_close().await;
    gate.wait_for_log("OPEN RELAY").await;
    assert_eq!(gate.http_get("/readyz").await.0, 503);
    gate.wait_for_metrics("ready 0", |scrape| scrape.value("dmarcgate_ready") == 0.0).await;
}

#[tokio::test]
async fn an_upstream_that_does_not_know_our_proxy_header_is_not_taken_for_one_that_sees_the_client() {
    for (identity, unknown) in [("proxy-v1", "502 5.5.2 what"), ("proxy-v1", "500 what"), ("proxy-v2", "500 what")] {
        let script = Script::new().rule(on("PROXY").reply(unknown));
        let world = World::unprobed(script, Zone::new(), by(identity)).await;
        let body = world.wait_for_readiness(503).await;
        assert!(body.contains("upstream"), "{body}");
        world.gate.wait_for_log("upstream probe failed").await;
        assert!(!world.upstream.commands().iter().any(|line| line.starts_with("MAIL")), "{identity}");
    }
}

#[tokio::test]
async fn no_client_makes_an_upstream_look_ill_that_knows_it() {
    // What the upstream does to the one client, and what that client hears.
    let bad_name = "501 Syntactically invalid EHLO argument(s)";
    let cases = [
        ("proxy-v1", on("EHLO").with("foo_bar").reply(bad_name), bad_name),
        ("proxy-v2", on("EHLO").with("foo_bar").reply("504 5.5.2 bad name"), "504 5.5.2 bad name"),
        ("proxy-v2", on(GREETING).once().close(), "451 4.4.1"),
        ("proxy-v2", on("EHLO").with("foo_bar").close(), "451 4.4.1"),
        ("proxy-v2", on("EHLO").with("foo_bar").reply("nonsense"), "451 4.4.1"),
        ("xclient", on("EHLO").with("foo_bar").close(), "451 4.4.1"),
        ("xclient", on("XCLIENT").with("HELO=foo_bar").close(), "451 4.4.1"),
        ("xclient", on("XCLIENT").with("HELO=foo_bar").reply("501 5.5.4 Bad NAME syntax"), "451 4.3.0"),
        ("xclient", on("XCLIENT").with("HELO=foo_bar").reply("550 5.7.1 listed"), "550 5.7.1 listed"),
        ("xclient", on("XCLIENT").with("HELO=foo_bar").reply("550 5.7.1 you are not authorized"), "451 4.3.0"),
    ];
    for (identity, rule, expected) in cases {
        let script = if identity == "xclient" { Script::with_xclient() } else { Script::new().proxy() };
        let world = World::with(script, Zone::new(), by(identity)).await;
        world.wait_for_readiness(200).await;
        world.upstream.add(rule);
        let mut client = Client::introduced(world.gate.address(), STRANGER, "foo_bar").await;
        let reply = outcome(&mut client).await;
        assert!(reply.starts_with(expected), "{identity}: {reply}\n{}", world.upstream.transcript());
        let (status, body) = world.gate.http_get("/readyz").await;
        assert_eq!(status, 200, "{identity}, {expected}: {body}");
        assert_eq!(world.gate.metrics().await.value("dmarcgate_upstream_servers_down"), 0.0);
        assert!(!world.gate.log().concat().contains("\"ERROR\""), "{}", world.gate.transcript());
        assert!(outcome(&mut world.client().await).await.starts_with("250"));
    }
}

#[tokio::test]
async fn an_upstream_that_reads_proxy_headers_no_more_bounces_nothing_and_is_found_out_by_a_probe() {
    let world = World::with(Script::new().proxy(), Zone::new(), by("proxy-v1")).await;
    world.wait_for_readiness(200).await;
    let mut client = world.client().await;
    world.upstream.add(on("PROXY").reply("502 5.5.2 what"));
    world.upstream.change(|script| Script { proxy: Proxy::Unknown, ..script });
    let reply = outcome(&mut client).await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    let line = world.gate.wait_for_log("upstream probe failed: it refuses this gate").await;
    assert!(line.contains("ERROR") && line.contains("502 5.5.2 what"), "{line}");
    world.wait_for_readiness(503).await;
}

#[tokio::test]
async fn a_proxy_header_from_one_who_may_not_send_it_ends_the_session() {
    let change = |config: ConfigText| config.another_listener();
    let world = World::with(Script::with_xclient(), Zone::new(), change).await;
    let plain = world.gate.listener(1);
    for header in [from(STRANGER), ProxyHeader::naming(ProxyVersion::V1, STRANGER.parse().unwrap())] {
        let mut client = Client::connect(plain).await;
        client.expect(220).await;
        client.send(&[&header.encode()[..], b"EHLO x\r\nMAIL FROM:<a@a.example>\r\n"].concat()).await;
        let mut last = client.read_reply().await;
        while let Some(reply) = client.try_read_reply().await {
            assert!(last.code >= 500, "{last}");
            last = reply;
        }
        last.assert(554);
    }
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"proxy_header\"}", 2.0).await;
    assert_eq!(world.sessions().len(), 0);
    // At the level that everybody has, and not each time.
    let said = world.gate.wait_for_log("proxy_protocol_from lacks their network").await;
    assert!(said.contains("WARN") && said.contains("127.0.0.1"), "{said}");
    // Without one it is a client like any other, seen by its own address.
    let mut client = Client::connect(plain).await;
    client.expect(220).await;
    client.command("EHLO client.example").await.assert(250);
    client.command("XCLIENT ADDR=192.0.2.1").await.assert(502);
    client.command("XFORWARD ADDR=192.0.2.1").await.assert(502);
    assert!(outcome(&mut client).await.starts_with("250"));
    assert_eq!(world.sessions()[0].xclient["ADDR"], "127.0.0.1");
}

#[tokio::test]
async fn where_a_proxy_header_is_due_nothing_else_is_served() {
    let world = World::with(Script::new(), Zone::new(), |config| config.set("timeouts.proxy_header", "100ms")).await;
    let openings: [&[u8]; 8] = [
        b"EHLO client.example\r\n",
        b"",
        b"PROXY TCP4 198.51.100.7",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 70000 25\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 25\r\n",
        b"PROXY\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c000000000000",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02xx",
    ];
    for opening in openings {
        let mut client = Client::connect(world.gate.address()).await;
        client.send(opening).await;
        assert_eq!(client.try_read_reply().await, None, "{}", opening.escape_ascii());
    }
    // A balancer that only tries the port does nothing wrong.
    let mut trying = Client::connect(world.gate.address()).await;
    trying.finish().await;
    trying.expect_close().await;
    let refused = "dmarcgate_connections_refused_total{reason=\"proxy_header\"}";
    world.wait_for_count(refused, openings.len() as f64).await;
    let said = world.gate.wait_for_log("no PROXY header came in time").await;
    assert!(said.contains("WARN") && said.contains("127.0.0.1"), "{said}");
    let scrape = world.gate.metrics().await;
    let ended = "dmarcgate_sessions_ended_total{reason=\"proxy_header\"}";
    assert_eq!((scrape.value("dmarcgate_sessions_total"), scrape.value(ended)), (0.0, 0.0));
}

#[tokio::test]
async fn a_balancers_health_check_is_served_but_sends_no_mail() {
    // Not even where the balancer itself is trusted.
    let change = |config: ConfigText| config.set("bypass.trusted_networks", vec!["127.0.0.0/8"]);
    let world = World::with(Script::new(), Zone::new(), change).await;
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = ProxyHeader::without_addresses(version);
        let mut check = Client::connect_through(world.gate.address(), header).await;
        check.expect(220).await;
        check.command("QUIT").await.assert(221);
        let mut check = Client::connect_through(world.gate.address(), header).await;
        check.expect(220).await;
        check.command("EHLO check.example").await.assert(250);
        check.command("MAIL FROM:<a@a.example>").await.assert(421);
        check.expect_close().await;
    }
    assert_eq!(world.sessions().len(), 0);
}

fn from(client: &str) -> ProxyHeader {
    ProxyHeader::naming(ProxyVersion::V2, client.parse().expect("an address"))
}
