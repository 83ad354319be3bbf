//! BDAT (RFC 3030) over sockets: chunks in every shape, what goes wrong between them, and both ways on.

use crate::support::client::{Chunk, Client, bdat};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::rules::{DOT, Hold, Script, on};
use crate::support::signer::{Signer, SigningKey};
use crate::support::upstream::Message;
use crate::support::world::{MESSAGE, World};

const ENVELOPE: [&str; 2] = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>"];

fn chunked() -> Script {
    Script::new().extension("CHUNKING")
}

async fn world(script: Script, change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    let patient = |config: ConfigText| config.set("limits.errors", 10_000).set("limits.commands_without_mail", 100_000);
    World::with(script, Zone::new(), |config| change(patient(config))).await
}

async fn start(client: &mut Client) {
    client.pipeline(&ENVELOPE).await[1].assert(250);
}

/// The one more message that the upstream has, without the fields that the gate has put on top.
#[track_caller]
fn last(world: &World, count: usize) -> (Message, Vec<u8>) {
    let mut messages = world.upstream.messages();
    assert_eq!(messages.len(), count, "{}", world.upstream.transcript());
    let message = messages.pop().unwrap();
    let start = memchr::memmem::find(&message.content, b"From: a@a.example").unwrap_or(message.content.len());
    let content = message.content[start..].to_vec();
    (message, content)
}

#[tokio::test]
async fn a_message_in_any_chunks_goes_on_whole_by_bdat_and_by_data() {
    let message = b"From: a@a.example\r\nSubject: x\r\n\r\n.\r\n..\r\n.x\r\n\r\n.\r\nQUIT\r\n.no end";
    for script in [chunked(), Script::new()] {
        let takes_chunks = script.extensions.iter().any(|line| line == "CHUNKING");
        let world = world(script, |c| c).await;
        let mut client = world.client().await;
        assert!(client.command("EHLO client.example").await.says("CHUNKING"), "whatever the upstream offers");
        let mut sent = 0;
        // Both halves of every cut, then each octet by itself, with and without a last chunk of nothing.
        for cut in 0..=message.len() {
            start(&mut client).await;
            let (a, b) = message.split_at(cut);
            client.chunk(a, Chunk::Inner).await.assert(250);
            client.chunk(b, Chunk::Last).await.assert(250);
            sent += 1;
        }
        start(&mut client).await;
        let octets: Vec<u8> = message.iter().flat_map(|octet| bdat(&[*octet], Chunk::Inner)).collect();
        client.send(&octets).await;
        for _ in message {
            client.expect(250).await;
        }
        client.chunk(b"", Chunk::Last).await.assert(250);
        sent += 1;
        for seen in world.upstream.messages() {
            let start = memchr::memmem::find(&seen.content, b"From: a@a.example").unwrap();
            let ending = if takes_chunks { &b""[..] } else { b"\r\n" };
            assert_eq!(
                seen.content[start..].escape_ascii().to_string(),
                [message, ending].concat().escape_ascii().to_string()
            );
            assert_eq!(seen.chunks, if takes_chunks { vec![seen.content.len()] } else { vec![] });
        }
        assert_eq!(world.upstream.messages().len(), sent);
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn a_large_message_keeps_every_octet() {
    for script in [chunked(), Script::new()] {
        let world = world(script, |c| c).await;
        let mut client = world.client().await;
        start(&mut client).await;
        let lines: Vec<u8> = (0..40_000u32)
            .flat_map(|n| format!("{}{n}\r\n", [".", "..", "x", ""][n as usize % 4]).into_bytes())
            .collect();
        let message = [b"From: a@a.example\r\n\r\n", &lines[..]].concat();
        let (chunks, rest) = message.as_chunks::<9_999>();
        for chunk in chunks {
            client.chunk(chunk, Chunk::Inner).await.assert(250);
        }
        client.chunk(rest, Chunk::Last).await.assert(250);
        assert!(last(&world, 1).1 == message, "the same octets");
        // What comes by DATA goes on by DATA.
        client.deliver("a@a.example", &["x@b.example"], &message).await.outcome().assert(250);
        let (seen, content) = last(&world, 2);
        assert!(content == message && seen.chunks.is_empty());
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn the_last_chunk_is_answered_when_the_upstream_has_answered() {
    let hold = Hold::new();
    let world = world(chunked().rule(on(DOT).hold(&hold, "250 2.0.0 taken")), |c| c).await;
    let mut client = world.client().await;
    let group = [
        ENVELOPE.join("\r\n").as_bytes(),
        b"\r\n",
        &bdat(b"From: a@a.example\r\n", Chunk::Inner),
        &bdat(b"\r\nbody\r\n", Chunk::Last),
        b"NOOP\r\n",
    ]
    .concat();
    client.send(&group).await;
    world.upstream.wait_for_command("BDAT").await;
    let replies = [client.expect(250).await, client.expect(250).await, client.expect(250).await];
    assert!(replies[2].says("19 octets"), "{}", replies[2]);
    assert!(client.is_silent(), "the last reply is not there yet");
    hold.release();
    assert!(client.expect(250).await.says("taken"));
    assert!(client.expect(250).await.says("2.0.0 OK"));
}

#[tokio::test]
async fn what_is_in_a_chunk_is_never_a_command_wherever_it_is_cut() {
    let hidden =
        b"From: a@a.example\r\n\r\nx\r\n.\r\nRSET\r\nMAIL FROM:<evil@a.example>\r\nRCPT TO:<victim@b.example>\r\n\
                   DATA\r\nevil\r\n.\r\nBDAT 4 LAST\r\nevil\n.\nBDAT 0 LAST\r\n";
    for lenient in [chunked().lenient(), Script::new().lenient()] {
        let world = world(lenient, |c| c).await;
        let mut client = world.client().await;
        let whole = bdat(hidden, Chunk::Last);
        for cut in 0..whole.len() {
            start(&mut client).await;
            let (a, b) = whole.split_at(cut);
            client.send(a).await;
            if cut % 8 == 0 {
                assert_eq!(world.gate.http_get("/healthz").await.0, 200);
            }
            client.send(b).await;
            client.expect(250).await;
        }
        client.command("NOOP").await.assert(250);
        assert_eq!(world.upstream.messages().len(), whole.len(), "{}", world.upstream.transcript());
        assert!(world.upstream.messages().iter().all(|m| m.from == "a@a.example" && m.recipients == ["x@b.example"]));
        assert!(world.upstream.connections().iter().all(|c| c.faults.is_empty()));
    }
}

#[tokio::test]
async fn bare_newlines_are_normalized_or_refused_as_in_data() {
    for script in [chunked(), Script::new()] {
        for (mode, code) in [("normalize", 250), ("reject", 550)] {
            let world = world(script.clone(), |c| c.set("smtp.bare_newline", mode)).await;
            let mut client = world.client().await;
            for octets in ["a\nb\r\n", "a\rb\r\n", "a\r\n\n.\nb\r\n", "a\r"] {
                start(&mut client).await;
                client.chunk(b"From: a@a.example\r\n\r\n", Chunk::Inner).await.assert(250);
                // The CR of a CRLF may end one chunk and the LF begin the next: that is no bare one.
                client.chunk(b"x\r", Chunk::Inner).await.assert(250);
                client.chunk(b"\n", Chunk::Inner).await.assert(250);
                client.chunk(octets.as_bytes(), Chunk::Last).await.assert(code);
                client.command("NOOP").await.assert(250);
            }
            let expected = if code == 250 { 4 } else { 0 };
            assert_eq!(world.upstream.messages().len(), expected, "{mode}");
            if code == 250 {
                let bodies: Vec<_> = world.upstream.messages().iter().map(|m| m.content.clone()).collect();
                assert!(bodies[0].ends_with(b"\r\n\r\nx\r\na\r\nb\r\n"));
                assert!(bodies[1].ends_with(b"\r\n\r\nx\r\na b\r\n"));
                assert!(bodies[2].ends_with(b"\r\n\r\nx\r\na\r\n\r\n.\r\nb\r\n"), "{}", bodies[2].escape_ascii());
            }
            world.upstream.assert_clean();
        }
    }
}

#[tokio::test]
async fn a_chunk_out_of_place_is_read_and_refused() {
    let world = world(chunked(), |c| c.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB")).await;
    let mut client = world.client().await;
    let crumbs = b"QUIT\r\n.\r\nRSET\r\n";
    client.chunk(crumbs, Chunk::Inner).await.assert(503);
    client.chunk(crumbs, Chunk::Last).await.assert(503);
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.chunk(crumbs, Chunk::Last).await.assert(554);
    client.command("RCPT TO:<x@b.example>").await.assert(250);
    client.chunk(b"From: a@a.example\r\n", Chunk::Inner).await.assert(250);
    for command in ["MAIL FROM:<b@a.example>", "RCPT TO:<y@b.example>", "DATA", "AUTH PLAIN AGEAYg=="] {
        assert_eq!(client.command(command).await.code, 503, "{command}");
    }
    client.command("NOOP").await.assert(250);
    client.chunk(b"\r\nbody\r\n", Chunk::Last).await.assert(250);
    assert_eq!(last(&world, 1).1, b"From: a@a.example\r\n\r\nbody\r\n");
    client.chunk(crumbs, Chunk::Last).await.assert(503);

    start(&mut client).await;
    client.chunk(b"From: forgotten@a.example\r\n", Chunk::Inner).await.assert(250);
    client.command("RSET").await.assert(250);
    client.chunk(crumbs, Chunk::Last).await.assert(503);
    start(&mut client).await;
    client.chunk(b"From: forgotten@a.example\r\n", Chunk::Inner).await.assert(250);
    client.command("EHLO client.example").await.assert(250);
    client.chunk(crumbs, Chunk::Last).await.assert(503);
    start(&mut client).await;
    client.chunk(MESSAGE, Chunk::Last).await.assert(250);
    assert_eq!(last(&world, 2).1, MESSAGE);

    client.command("HELO client.example").await.assert(250);
    start(&mut client).await;
    client.chunk(crumbs, Chunk::Last).await.assert(502);
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_size_that_cannot_be_read_or_waited_for_ends_the_session() {
    let world = world(chunked(), |c| c.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB")).await;
    for line in ["BDAT", "BDAT LAST", "BDAT x", "BDAT -1", "BDAT 1x", "BDAT 5 FIRST", "BDAT 5 LAST LAST", "BDAT 0x5"] {
        let mut client = world.client().await;
        start(&mut client).await;
        client.send(format!("{line}\r\nRSET\r\n").as_bytes()).await;
        assert!(client.expect(501).await.says("5.5.4"), "{line}");
        client.expect_close().await;
    }
    for size in ["131073", "99999999999999999999", "18446744073709551616"] {
        for envelope in [true, false] {
            let mut client = world.client().await;
            if envelope {
                start(&mut client).await;
            }
            client.send(format!("BDAT {size} LAST\r\n").as_bytes()).await;
            assert!(client.expect(552).await.says("5.3.4"), "{size}");
            client.expect_close().await;
        }
    }
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"excess\"}", 6.0).await;
    assert!(world.upstream.messages().is_empty());
}

#[tokio::test]
async fn more_octets_than_allowed_are_drained_and_refused() {
    let world = world(chunked(), |c| c.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB")).await;
    let mut client = world.client().await;
    let half = [b"From: a@a.example\r\n\r\n", &b"x".repeat(39_979)[..]].concat();
    start(&mut client).await;
    client.chunk(&half, Chunk::Inner).await.assert(250);
    // All in one go: what follows the chunk that is too much is read and refused, one reply each.
    client
        .send(
            &[bdat(&half, Chunk::Inner), bdat(&half, Chunk::Inner), bdat(b"", Chunk::Last), b"NOOP\r\n".to_vec()]
                .concat(),
        )
        .await;
    let codes = [client.read_reply().await.code, client.read_reply().await.code, client.read_reply().await.code];
    assert_eq!(codes, [552, 503, 503]);
    client.expect(250).await;
    start(&mut client).await;
    client.chunk(MESSAGE, Chunk::Last).await.assert(250);
    assert_eq!(last(&world, 1).1, MESSAGE);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_client_that_goes_between_or_inside_chunks_leaves_nothing() {
    let world = world(chunked(), |c| c).await;
    let tails: [&[u8]; 4] = [b"", b"BDAT 10", b"BDAT 10 LAST\r\n", b"BDAT 10 LAST\r\nbody\r\n"];
    for (n, tail) in tails.into_iter().enumerate() {
        let mut client = world.client().await;
        start(&mut client).await;
        client.chunk(b"From: a@a.example\r\n\r\n", Chunk::Inner).await.assert(250);
        client.send(tail).await;
        drop(client);
        assert!(world.wait_for_end(n + 1).await.iter().all(|c| c.messages.is_empty()));
    }
}

#[tokio::test]
async fn small_chunks_do_not_stretch_the_time_for_the_whole() {
    let world = world(chunked(), |c| c.set("timeouts.data", "300ms")).await;
    let mut client = world.client().await;
    start(&mut client).await;
    // A body bounds them by nothing but its size.
    client.send(&bdat(b"Subject: x\r\n\r\n", Chunk::Inner)).await;
    client.expect(250).await;
    let chunk = bdat(&b"x".repeat(1024), Chunk::Inner);
    let code = loop {
        if !client.try_send(&chunk).await {
            break 0;
        }
        let reply = client.read_reply().await;
        if reply.code != 250 {
            assert!(reply.says("4.4.2"), "{reply}");
            break reply.code;
        }
    };
    assert_eq!(code, 421);
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"timeout\"}", 1.0).await;
}

#[tokio::test]
async fn it_may_be_hidden() {
    let world = world(chunked(), |c| c.set("smtp.hide_extensions", vec!["CHUNKING"])).await;
    let mut client = world.client().await;
    assert!(!client.command("EHLO client.example").await.says("CHUNKING"));
    start(&mut client).await;
    client.chunk(b"QUIT\r\n", Chunk::Last).await.assert(502);
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
}

#[tokio::test]
async fn a_signature_stays_good_both_ways_and_policy_speaks_at_the_last_chunk() {
    let key = SigningKey::ed25519();
    let zone =
        || Zone::new().txt("_dmarc.a.example", "v=DMARC1; p=reject").txt("s._domainkey.a.example", &key.record());
    let body = ".dots\r\n..\r\n.\r\n\r\nlast\r\n";
    let letter = format!("From: a@a.example\r\nTo: x@b.example\r\nSubject: x\r\n\r\n{body}").into_bytes();
    let signed = Signer::new(key, "a.example", "s").sign(&letter);
    for script in [chunked(), Script::new()] {
        let world = World::with(script, zone(), |c| c.set("policy.reject", "always")).await;
        let mut client = world.client().await;
        // Wherever the header section is cut.
        for cut in (0..signed.len()).step_by(29) {
            start(&mut client).await;
            client.chunk(&signed[..cut], Chunk::Inner).await.assert(250);
            client.chunk(&signed[cut..], Chunk::Last).await.assert(250);
        }
        for message in world.upstream.messages() {
            let text = String::from_utf8(message.content).unwrap();
            assert!(text.contains("dkim=pass") && text.contains("dmarc=pass") && text.ends_with(body), "{text}");
        }
        let count = world.upstream.messages().len();
        assert!(count > 5);
        start(&mut client).await;
        client.chunk(&letter[..30], Chunk::Inner).await.assert(250);
        let reply = client.chunk(&letter[30..], Chunk::Last).await;
        assert!(reply.code == 550 && reply.says("5.7.1"), "{reply}");
        client.command("NOOP").await.assert(250);
        assert_eq!(world.upstream.messages().len(), count);
    }
}

#[tokio::test]
async fn an_upstream_that_answers_early_or_refuses_is_heard() {
    let world = world(chunked().rule(on(DOT).once().reply("552 5.2.2 Mailbox full")), |c| c).await;
    let mut client = world.client().await;
    start(&mut client).await;
    assert_eq!(client.chunk(MESSAGE, Chunk::Last).await.raw, b"552 5.2.2 Mailbox full\r\n");
    // RFC 3030 §2: what such a server still knows of the transaction is forgotten by RSET.
    world.upstream.wait_for_command("RSET").await;
    start(&mut client).await;
    client.chunk(MESSAGE, Chunk::Last).await.assert(250);
    world.upstream.add(on(DOT).once().close());
    start(&mut client).await;
    client.chunk(MESSAGE, Chunk::Last).await.assert(451);
    world.wait_for_count("dmarcgate_upstream_lost_total{at=\"after_end\"}", 1.0).await;
    assert!(!world.relayed().iter().any(|line| line == "DATA"));
    start(&mut client).await;
    client.chunk(MESSAGE, Chunk::Last).await.assert(250);
}
