//! STARTTLS over sockets: where it is offered, that nothing from before the handshake lives on behind it, and that it
//! can be demanded.

use crate::support::certificates::Handshake;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::world::{MESSAGE, STRANGER, World};

async fn world(change: impl FnOnce(ConfigText) -> ConfigText) -> (World, tempfile::TempDir) {
    World::with_starttls(Script::with_xclient(), Zone::new(), change).await
}

#[tokio::test]
async fn it_is_offered_once_and_only_where_it_is_set() {
    let (world, _directory) =
        world(|c| c.set("tls.hide_from", vec!["198.51.100.9/32"]).another_listener().listener("tls", "off")).await;
    let mut client = world.client().await;
    assert!(client.command("EHLO client.example").await.says("STARTTLS"));
    assert!(client.command("STARTTLS now").await.says("5.5.4"));
    client.start_tls().await;
    assert!(!client.command("EHLO client.example").await.says("STARTTLS"));
    assert_eq!(client.command("STARTTLS").await.raw, b"503 5.5.1 TLS is active already\r\n");
    client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);

    let mut hidden = Client::introduced(world.gate.address(), "198.51.100.9", "old.example").await;
    assert!(!hidden.command("EHLO old.example").await.says("STARTTLS"));
    hidden.command("STARTTLS").await.assert(502);
    let mut plain = Client::connect(world.gate.listener(1)).await;
    plain.expect(220).await;
    assert!(!plain.command("EHLO client.example").await.says("STARTTLS"));
    plain.command("STARTTLS").await.assert(502);
}

/// CVE-2011-0411 and its kin: what a man in the middle puts behind STARTTLS is not said by the client under TLS.
#[tokio::test]
async fn what_was_injected_behind_it_is_never_answered() {
    let (world, _directory) = world(|c| c).await;
    let injected = [
        "NOOP\r\n",
        "RSET\r\nMAIL FROM:<evil@a.example>\r\n",
        "EHLO evil.example\r\nMAIL FROM:<evil@a.example>\r\nRCPT TO:<victim@b.example>\r\nDATA\r\nFrom: evil\r\n\r\n.\r\n",
        "EHLO evil.example\r\nMAIL FROM:<evil@a.example>\r\nRCPT TO:<victim@b.example>\r\nBDAT 3 LAST\r\nabc",
        "MAIL FROM:<evil@a.example",
        "QUIT\r\n",
        "\n",
        "BDAT 100000 LAST\r\n",
    ];
    for octets in injected {
        let mut client = world.client().await;
        client.send(format!("STARTTLS\r\n{octets}").as_bytes()).await;
        client.expect(220).await;
        client.handshake(&Handshake::default()).await;
        // The first word under TLS answers the first word under TLS.
        assert_eq!(client.command("HELP").await.code, 214, "{octets:?}");
        client.command("MAIL FROM:<a@a.example>").await.assert(503);
        client.command("EHLO client.example").await.assert(250);
        client.command("QUIT").await.assert(221);
        client.expect_close().await;
    }
    assert_eq!(world.relayed(), [""; 0]);
}

#[tokio::test]
async fn more_than_one_read_behind_it_breaks_the_handshake_and_no_more() {
    let (world, _directory) = world(|c| c).await;
    let mut client = world.client().await;
    client.send(format!("STARTTLS\r\n{}", "RSET\r\n".repeat(3_000)).as_bytes()).await;
    client.expect(220).await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"handshake\"}", 1.0).await;
    assert_eq!(world.relayed(), [""; 0]);
}

#[tokio::test]
async fn the_transaction_before_it_is_forgotten_on_both_sides() {
    let (world, _directory) = world(|c| c).await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<old@a.example>").await.assert(250);
    client.command("RCPT TO:<old@b.example>").await.assert(250);
    client.start_tls().await;
    let seen = world.wait_for_end(1).await;
    assert!(seen[0].commands.ends_with(&["RCPT TO:<old@b.example>".into(), "QUIT".into()]), "{:?}", seen[0].commands);
    for command in ["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>", "DATA"] {
        client.command(command).await.assert(503);
    }
    // What was offered is forgotten, too.
    client.command("BDAT 0 LAST").await.assert(502);
    client.command("EHLO new.example").await.assert(250);
    client.deliver("new@a.example", &["new@b.example"], MESSAGE).await.outcome().assert(250);
    let messages = world.upstream.messages();
    assert_eq!((messages.len(), messages[0].recipients.as_slice()), (1, &["new@b.example".to_owned()][..]));
    assert_eq!(messages[0].xclient["HELO"], "new.example");
    world.upstream.assert_clean();
}

#[tokio::test]
async fn between_chunks_it_leaves_nothing_upstream() {
    let (world, _directory) = world(|c| c).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<old@a.example>", "RCPT TO:<old@b.example>"]).await[1].assert(250);
    client.send(b"BDAT 10\r\nFrom: a@a.").await;
    client.expect(250).await;
    client.start_tls().await;
    client.command("EHLO client.example").await.assert(250);
    client.command("BDAT 0 LAST").await.assert(503);
    client.command("QUIT").await.assert(221);
    assert!(world.wait_for_end(1).await[0].messages.is_empty());
}

#[tokio::test]
async fn where_it_is_demanded_nothing_goes_before_it() {
    let (world, _directory) = world(|c| c.listener("require_tls", true).set("smtp.auth", "always")).await;
    let mut client = world.client().await;
    for command in [
        "MAIL FROM:<a@a.example>",
        "RCPT TO:<b@b.example>",
        "DATA",
        "RSET",
        "VRFY x",
        "HELP",
        "AUTH PLAIN AGEAYg==",
        "BDAT 0 LAST",
    ] {
        assert_eq!(
            client.command(command).await.raw,
            b"530 5.7.0 Must issue a STARTTLS command first\r\n",
            "{command}"
        );
    }
    // Mail that is kept out leaves a trace.
    world.wait_for_count("dmarcgate_command_refusals_total{reason=\"needs_tls\"}", 2.0).await;
    let event = world.gate.wait_for_log("command refused").await;
    assert!(event.contains("\"command\":\"MAIL\"") && event.contains("530 5.7.0 Must issue"), "{event}");
    client.send(b"BDAT 6\r\nQUIT\r\n").await;
    client.expect(530).await;
    client.command("NOOP").await.assert(250);
    client.command("HELO client.example").await.assert(250);
    client.command("EHLO client.example").await.assert(250);
    client.start_tls().await;
    client.command("EHLO client.example").await.assert(250);
    client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
    assert_eq!(world.upstream.messages().len(), 1);
    let mut client = world.client().await;
    client.command("QUIT").await.assert(221);
}

#[tokio::test]
async fn a_handshake_that_fails_ends_the_session() {
    let (world, _directory) = world(|c| c.set("timeouts.tls_handshake", "300ms")).await;
    let ended = "dmarcgate_sessions_ended_total{reason=\"handshake\"}";
    let mut client = world.client().await;
    client.command("STARTTLS").await.assert(220);
    client.send(b"EHLO client.example\r\n").await;
    world.wait_for_count(ended, 1.0).await;
    world.wait_for_count("dmarcgate_tls_handshakes_total{result=\"not_tls\"}", 1.0).await;

    let mut client = world.client().await;
    client.command("STARTTLS").await.assert(220);
    client.finish().await;
    world.wait_for_count(ended, 2.0).await;

    let mut silent = Client::introduced(world.gate.address(), STRANGER, "client.example").await;
    silent.command("STARTTLS").await.assert(220);
    silent.expect_close().await;
    world.wait_for_count(ended, 3.0).await;
    world.wait_for_count("dmarcgate_sessions_active", 0.0).await;
}
