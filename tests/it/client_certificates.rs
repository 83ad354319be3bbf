//! `bypass.client_certificates`: clients that are known by the certificate they show, over STARTTLS and implicit TLS.

use std::time::SystemTime;

use crate::support::certificates::{Certificate, DAY, Handshake, Wanted};
use crate::support::client::{Client, Reply};
use crate::support::dns::Zone;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::Script;
use crate::support::upstream::Message;
use crate::support::world::{Letter, STRANGER, World};

const BYPASSED: &str = "dmarcgate_bypassed_total{reason=\"client_certificate\"}";

fn zone() -> Zone {
    Zone::new().txt("a.example", "v=spf1 -all").txt("_dmarc.a.example", "v=DMARC1; p=reject")
}

fn expired() -> Certificate {
    Wanted::new(&["partner.example"]).from(SystemTime::now() - 9 * DAY).until(SystemTime::now() - DAY).self_signed()
}

/// What becomes of a forgery of a client that shakes hands like this.
async fn forge(world: &World, listener: usize, handshake: &Handshake) -> (Reply, Option<Message>) {
    let mut client = match listener {
        0 => {
            let mut client = Client::introduced(world.gate.address(), STRANGER, "client.example").await;
            client.start_tls_with(handshake).await;
            client
        }
        n => {
            let source = STRANGER.parse().expect("an address");
            let header = ProxyHeader::naming(ProxyVersion::V2, source);
            let mut client = Client::connect_through(world.gate.listener(n), header).await;
            client.handshake(handshake).await;
            client.expect(220).await;
            client
        }
    };
    client.command("EHLO client.example").await.assert(250);
    let before = world.upstream.messages().len();
    let forged = Letter::new(STRANGER, "a@a.example");
    let delivery = client.deliver("a@a.example", &["you@elsewhere.example"], &forged.content).await;
    let message = (world.upstream.messages().len() > before).then(|| world.upstream.messages().pop()).flatten();
    client.command("QUIT").await.assert(221);
    (delivery.outcome().clone(), message)
}

#[tokio::test]
async fn a_named_certificate_bypasses_and_nothing_else_does() {
    let (partner, stranger) = (expired(), Certificate::new(&["stranger.example"]));
    let (world, _directory) = World::with_starttls(Script::with_xclient(), zone(), |config| {
        config
            .set("bypass.client_certificates", vec![partner.fingerprint()])
            .another_listener()
            .listener("tls", "implicit")
            .listener("proxy_protocol_from", vec!["127.0.0.0/8"])
    })
    .await;
    let any = Handshake::default;
    for listener in [0, 1] {
        for old in [false, true] {
            let version = |handshake: Handshake| if old { handshake.version_1_2() } else { handshake };
            let (reply, message) = forge(&world, listener, &version(any().showing(&partner))).await;
            reply.assert(250);
            let text = String::from_utf8(message.expect("it went on").content).expect("ASCII");
            assert!(text.starts_with("Authentication-Results: mx.gate.example; none\r\n"), "{}", text);
            assert!(!text.contains("X-DMARC"), "{}", text);
            forge(&world, listener, &version(any().showing(&stranger))).await.0.assert(550);
            forge(&world, listener, &version(any())).await.0.assert(550);
            // Whose key it signs with is not the one that it shows.
            forge(&world, listener, &version(any().claiming(&stranger, &partner.key))).await.0.assert(550);
        }
    }
    world.wait_for_count(BYPASSED, 4.0).await;
    // Bypassed mail is no row; the others are, three for each of four.
    let count = |rows: &[serde_json::Value]| rows.iter().filter_map(|row| row["messages"].as_u64()).sum::<u64>();
    let rows = world.gate.wait_for_rows("twelve refusals", |rows| count(rows) >= 12).await;
    assert!(count(&rows) == 12 && rows.iter().all(|row| row["disposition"] == "reject"), "{rows:?}");
    let told = |lines: &[String]| lines.iter().filter(|line| line.contains("\"message\":\"message\"")).count() == 16;
    world.gate.wait_until_log(told).await;
    let events = world.gate.events();
    let bypassed: Vec<_> = events.iter().filter(|event| event["bypass"] == "client_certificate").collect();
    assert_eq!(bypassed.len(), 4);
    assert!(bypassed.iter().all(|event| event["client_certificate"] == partner.fingerprint().as_str()));
    let strangers = events.iter().filter(|event| event["client_certificate"] == stranger.fingerprint().as_str());
    assert_eq!(strangers.count(), 4, "who shows one is named, so that it can be listed");
}

#[tokio::test]
async fn who_is_named_may_relay_and_a_reload_names_another() {
    let (partner, other) = (expired(), Certificate::new(&["other.example"]));
    let (mut world, _directory) = World::with_starttls(Script::new(), zone(), |config| {
        config
            .set("smtp.recipient_domains", vec!["rcpt.example"])
            .set("bypass.client_certificates", vec![partner.fingerprint()])
    })
    .await;
    let any = Handshake::default;
    forge(&world, 0, &any().showing(&partner)).await.0.assert(250);
    // The relay guard refuses the recipient.
    forge(&world, 0, &any().showing(&other)).await.0.assert(550);
    assert_eq!(world.gate.metrics().await.value("dmarcgate_relay_guard_refusals_total"), 1.0);

    // In a session that has begun, too: it has proved whose it is.
    let mut client = Client::introduced(world.gate.address(), STRANGER, "client.example").await;
    client.start_tls_with(&any().showing(&other)).await;
    client.command("EHLO client.example").await.assert(250);
    world.gate.reloaded(|config| config.set("bypass.client_certificates", vec![other.fingerprint()])).await;
    let forged = Letter::new(STRANGER, "a@a.example");
    client.deliver("a@a.example", &["you@elsewhere.example"], &forged.content).await.outcome().assert(250);
    forge(&world, 0, &any().showing(&partner)).await.0.assert(550);
    world.wait_for_count(BYPASSED, 2.0).await;
}

#[tokio::test]
async fn only_the_listener_that_names_clients_asks() {
    let partner = expired();
    let (world, _directory) = World::with_starttls(Script::with_xclient(), zone(), |config| {
        config
            .another_listener()
            .listener("tls", "implicit")
            .listener("proxy_protocol_from", vec!["127.0.0.0/8"])
            .listener("bypass.client_certificates", vec![partner.fingerprint().replace(':', "").to_lowercase()])
    })
    .await;
    forge(&world, 0, &Handshake::default().showing(&partner)).await.0.assert(550);
    forge(&world, 1, &Handshake::default().showing(&partner)).await.0.assert(250);
    let told = |lines: &[String]| lines.iter().filter(|line| line.contains("\"message\":\"message\"")).count() == 2;
    world.gate.wait_until_log(told).await;
    let events = world.gate.events();
    let shown: Vec<_> = events.iter().filter(|e| e["message"] == "message").map(|e| &e["client_certificate"]).collect();
    assert_eq!(shown, ["", partner.fingerprint().as_str()]);
}
