//! What a client sees: order, verbs, replies, groups of commands, and the end of its session.

use crate::support::client::{Chunk, Client, bdat, encode};
use crate::support::dns::Zone;
use crate::support::rules::{DOT, Hold, Script, on};
use crate::support::world::{MESSAGE, World};

#[tokio::test]
async fn commands_out_of_order_are_refused_and_never_reach_the_upstream() {
    let world = World::with(Script::new(), Zone::new(), |config| config.set("limits.errors", 1000)).await;
    let mut client = world.client().await;
    // A line each; what is relayed is marked.
    let dialogue = [
        ("RCPT TO:<x@b.example>", 503),
        ("DATA", 503),
        ("NOOP", 250),
        ("NOOP with words", 250),
        ("RSET", 250),
        ("RSET now", 501),
        ("HELP", 214),
        ("VRFY someone", 252),
        ("VRFY", 501),
        ("EXPN list", 502),
        ("FROBNICATE", 500),
        ("", 500),
        ("EHLO", 501),
        ("EHLO a b", 501),
        ("HELO", 501),
        ("STARTTLS", 502),
        ("AUTH PLAIN AGEAYg==", 502),
        ("BDAT 0 LAST", 503),
        ("ETRN b.example", 502),
        ("XCLIENT ADDR=192.0.2.1", 502),
        ("XFORWARD ADDR=192.0.2.1", 502),
        ("MAIL", 501),
        ("MAIL FROM <a@a.example>", 501),
        ("MAIL FROM:<a@a.example", 501),
        ("MAIL FROM:<a@a.example> X=1", 555),
        ("MAIL FROM:<a@a.example> SMTPUTF8", 555),
        ("MAIL FROM:<a@a.example> RET=FULL", 555),
        ("MAIL FROM:<a@a.example> BODY=BINARYMIME", 501),
        ("MAIL FROM:<a@a.example> SIZE=x", 501),
        ("MAIL FROM:<\u{fc}@a.example>", 553),
        ("mail from:<a@a.example> body=8bitmime", 250),
        ("MAIL FROM:<a@a.example>", 503),
        ("DATA", 554),
        ("RCPT TO:<>", 501),
        ("RCPT TO:<x@b.example> NOTIFY=NEVER", 555),
        ("rcpt to:<x@b.example>", 250),
        ("DATA now", 501),
        ("VRFY someone", 252),
        ("RSET", 250),
        ("RSET", 250),
        ("DATA", 503),
        ("HELO client.example", 250),
        ("MAIL FROM:<a@a.example> SIZE=5", 555),
        ("MAIL FROM: <>", 250),
        ("RCPT TO: x@b.example", 250),
    ];
    for (line, code) in dialogue {
        let reply = client.command(line).await;
        assert_eq!(reply.code, code, "{line:?}: {reply}\n{}", client.transcript());
    }
    client.command("QUIT").await.assert(221);
    client.expect_close().await;

    let ends = world.wait_for_end(2).await;
    let relayed = [
        "MAIL FROM:<a@a.example> BODY=8BITMIME",
        "RCPT TO:<x@b.example>",
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<x@b.example>",
    ];
    assert_eq!(world.relayed(), relayed);
    assert!(
        ends.iter().all(|c| c.commands.last().is_some_and(|last| last == "QUIT")),
        "{}",
        world.upstream.transcript()
    );
    world.upstream.assert_clean();
}

#[tokio::test]
async fn mail_needs_ehlo_or_helo_first() {
    let world = World::around(Script::new()).await;
    let mut client = Client::connect_through(world.gate.address(), stranger()).await;
    assert!(client.expect(220).await.text().starts_with("mx.gate.example ESMTP"));
    for line in ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"] {
        client.command(line).await.assert(503);
    }
    client.command("NOOP").await.assert(250);
    client.command("RSET").await.assert(250);
    client.command("QUIT").await.assert(221);
    client.expect_close().await;
    assert_eq!(world.sessions().len(), 0, "the upstream hears of a client at its MAIL");
}

#[tokio::test]
async fn ehlo_offers_what_gate_and_upstream_both_do() {
    let cases: [(&[&str], &[&str]); 4] = [
        (
            &["PIPELINING", "SIZE 1000000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING", "VRFY"],
            &["PIPELINING", "SIZE 983616", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "DSN", "CHUNKING"],
        ),
        (&["SIZE 0", "8BITMIME"], &["PIPELINING", "SIZE 52428800", "8BITMIME", "CHUNKING"]),
        (
            &["XCLIENT NAME ADDR", "XFORWARD NAME", "AUTH PLAIN", "BINARYMIME", "REQUIRETLS", "STARTTLS"],
            &["PIPELINING", "SIZE 52428800", "CHUNKING"],
        ),
        (&[], &["PIPELINING", "SIZE 52428800", "CHUNKING"]),
    ];
    for (announced, offered) in cases {
        let world = World::around(Script::new().extensions(announced)).await;
        let mut client = world.client().await;
        let reply = client.command("EHLO client.example").await;
        assert_eq!(reply.lines[0], "mx.gate.example");
        assert_eq!(reply.lines[1..], *offered, "{announced:?}");
        let reply = client.command("HELO client.example").await;
        assert_eq!(reply.raw, b"250 mx.gate.example\r\n");
    }
}

#[tokio::test]
async fn a_group_of_commands_is_answered_in_one_write() {
    let hold = Hold::new();
    let script = Script::new().rule(on("RCPT").with("<last@").hold(&hold, "250 2.1.5 last"));
    let world = World::around(script).await;
    let mut client = world.client().await;
    client.send(b"MAIL FROM:<a@a.example>\r\nRCPT TO:<x@b.example>\r\nRCPT TO:<last@b.example>\r\nDATA\r\n").await;
    world.upstream.wait_for_command("RCPT TO:<last@b.example>").await;
    assert!(client.is_silent(), "replies wait until the group is done");
    hold.release();
    let replies = client.read_once().await;
    let lines: Vec<_> = replies.split_inclusive(|&b| b == b'\n').map(|line| &line[..3]).collect();
    assert_eq!(lines, [b"250", b"250", b"250", b"354"], "{}", replies.escape_ascii());
    client.content(MESSAGE).await.assert(250);
    client.send(b"RSET\r\nMAIL FROM:<b@a.example>\r\nNOOP\r\nQUIT\r\n").await;
    assert_eq!(client.read_once().await.iter().filter(|&&b| b == b'\n').count(), 4);
    client.expect_close().await;
}

#[tokio::test]
async fn what_became_of_a_message_waits_for_no_command_behind_it() {
    for chunking in [false, true] {
        let hold = Hold::new();
        let script = Script::new().rule(on("MAIL").with("<second@").hold(&hold, "250 2.1.0 slowly"));
        let world = World::around(script).await;
        let mut client = world.client().await;
        let message = match chunking {
            true => {
                client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>"]).await[1].assert(250);
                bdat(MESSAGE, Chunk::Last)
            }
            false => {
                client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
                encode(MESSAGE)
            }
        };
        let group = b"MAIL FROM:<second@a.example>\r\nRCPT TO:<x@b.example>\r\n";
        client.send(&[&message[..], group].concat()).await;
        assert!(client.expect(250).await.says("queued"), "{}", client.transcript());
        world.upstream.wait_for_command("MAIL FROM:<second@").await;
        assert!(client.is_silent());
        hold.release();
        assert!(client.expect(250).await.says("slowly"));
        client.expect(250).await;
    }
}

#[tokio::test]
async fn what_became_of_a_message_leaves_in_one_write_with_the_goodbye() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    client.send(&[&encode(MESSAGE)[..], b"QUIT\r\n"].concat()).await;
    let replies = client.read_once().await;
    assert_eq!(replies.iter().filter(|&&b| b == b'\n').count(), 2, "{}", replies.escape_ascii());
    client.expect_close().await;
}

#[tokio::test]
async fn a_reply_to_mail_does_not_wait_for_all_recipients_of_a_slow_upstream() {
    let hold = Hold::new();
    let world = World::around(Script::new().rule(on("RCPT").hold(&hold, "250 2.1.5 verified"))).await;
    let mut client = world.client().await;
    client.send(b"MAIL FROM:<a@a.example>\r\nRCPT TO:<x@b.example>\r\nRCPT TO:<y@b.example>\r\n").await;
    // The upstream says nothing to any recipient before this is there.
    client.expect(250).await;
    hold.release();
    assert!(client.expect(250).await.says("verified") && client.expect(250).await.says("verified"));
}

#[tokio::test]
async fn each_recipient_gets_the_upstreams_own_words() {
    let words = "550-5.1.1 <no@b.example>: no such user\n550-5.1.1 see\n550 5.1.1 https://b.example/?a=%20";
    let script = Script::new()
        .rule(on("RCPT").with("<no@").reply(words))
        .rule(on("RCPT").with("<later@").reply("450 4.2.0 greylisted"))
        .rule(on("RCPT").with("<away@").reply("251 2.1.5 will forward"))
        .rule(on(DOT).reply("250-2.0.0 Ok\n250 2.0.0 queued as 4711"));
    let world = World::around(script).await;
    let mut client = world.client().await;
    let recipients = ["no@b.example", "x@b.example", "later@b.example", "away@b.example", "no@b.example"];
    let delivery = client.deliver("a@a.example", &recipients, MESSAGE).await;
    assert_eq!(delivery.mail.raw, b"250 2.1.0 Ok\r\n");
    let refused = format!("{}\r\n", words.replace('\n', "\r\n")).into_bytes();
    let raw: Vec<_> = delivery.recipients.iter().map(|r| r.raw.clone()).collect();
    assert_eq!(raw[0], refused);
    assert_eq!(raw[1], b"250 2.1.5 Ok\r\n");
    assert_eq!(raw[2], b"450 4.2.0 greylisted\r\n");
    assert_eq!(raw[3], b"251 2.1.5 will forward\r\n");
    assert_eq!(raw[4], refused);
    assert_eq!(delivery.outcome().raw, b"250-2.0.0 Ok\r\n250 2.0.0 queued as 4711\r\n");
    let message = &world.upstream.messages()[0];
    assert_eq!(message.recipients, ["x@b.example", "away@b.example"]);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn without_an_accepted_recipient_there_is_no_data() {
    let world = World::around(Script::new().rule(on("RCPT").reply("550 5.1.1 no"))).await;
    let mut client = world.client().await;
    let replies = client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await;
    assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [250, 550, 554]);
    // RFC 2920 §3.1: such a client goes on with RSET or QUIT.
    client.command("RSET").await.assert(250);
    client.command("QUIT").await.assert(221);
    world.wait_for_end(1).await;
    assert_eq!(world.relayed(), ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "RSET"]);
}

#[tokio::test]
async fn a_refused_mail_leaves_the_session_usable() {
    let script = Script::new().rule(on("MAIL").with("<bad@").reply("550 5.7.1 not you"));
    let world = World::around(script).await;
    let mut client = world.client().await;
    let refused = ["MAIL FROM:<bad@a.example>", "RCPT TO:<x@b.example>", "DATA"];
    let replies = client.pipeline(&refused).await;
    assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [550, 503, 503]);
    assert_eq!(replies[0].raw, b"550 5.7.1 not you\r\n");
    client.deliver("good@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    assert_eq!(world.sessions().len(), 1);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_refusal_of_mail_does_not_wait_for_the_recipients_behind_it() {
    let hold = Hold::new();
    let script = Script::new()
        .rule(on("MAIL").with("<bad@").reply("550 5.7.1 not you"))
        .rule(on("RCPT").with("<slow@").hold(&hold, "503 5.5.1 need MAIL"));
    let world = World::with(script, Zone::new(), |config| config.set("timeouts.upstream_command", "1s")).await;
    let group = ["MAIL FROM:<bad@a.example>", "RCPT TO:<slow@b.example>", "RCPT TO:<slow@b.example>", "DATA"];
    for (is_slow, connections) in [(false, 1), (true, 2)] {
        let hold_on = if is_slow { Some(Hold::new()) } else { None };
        if let Some(hold) = &hold_on {
            world.upstream.add(on("RCPT").with("<slow@").hold(hold, "503 5.5.1 need MAIL"));
        }
        let before = world.sessions().len();
        let mut client = world.client().await;
        let codes: Vec<_> = client.pipeline(&group).await.iter().map(|reply| reply.code).collect();
        assert_eq!(codes, [550, 503, 503, 503]);
        if !is_slow {
            hold.release();
        }
        // What the upstream still owes is read first, or its connection is dropped: no reply answers another command.
        client.deliver("good@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
        assert_eq!(world.sessions().len() - before, connections, "{}", world.upstream.transcript());
    }
    world.upstream.assert_clean();
}

#[tokio::test]
async fn transactions_of_a_session_share_a_connection_and_nothing_else() {
    let script = Script::new().rule(on(DOT).with("spam@").reply("554-5.7.1 spam\n554 5.7.1 go away"));
    let world = World::around(script).await;
    let mut client = world.client().await;
    client.deliver("one@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    let refused = client.deliver("spam@a.example", &["y@b.example"], MESSAGE).await;
    assert_eq!(refused.outcome().raw, b"554-5.7.1 spam\r\n554 5.7.1 go away\r\n");
    // Its first line continues a field of ours: refused by the gate, so the upstream's transaction ends with RSET.
    client.deliver("two@a.example", &["y@b.example"], b" x\r\n\r\nbody\r\n").await.outcome().assert(554);
    client.command("MAIL FROM:<three@a.example>").await.assert(250);
    client.command("RCPT TO:<z@b.example>").await.assert(250);
    client.command("RSET").await.assert(250);
    client.deliver("four@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    client.command("QUIT").await.assert(221);
    let sessions = world.wait_for_end(1).await;
    let seen: Vec<_> = sessions[0].messages.iter().map(|m| (m.from.as_str(), m.recipients.join(" "))).collect();
    let expected =
        [("one@a.example", "x@b.example"), ("spam@a.example", "y@b.example"), ("four@a.example", "x@b.example")];
    assert_eq!(seen, expected.map(|(from, to)| (from, to.to_owned())));
    assert_eq!(sessions[0].commands.iter().filter(|line| *line == "RSET").count(), 2);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_second_ehlo_drops_transaction_and_upstream_connection() {
    let world = World::around(Script::with_xclient()).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>"]).await;
    client.command("EHLO other.example").await.assert(250);
    world.wait_for_end(1).await;
    client.command("RCPT TO:<x@b.example>").await.assert(503);
    client.command("DATA").await.assert(503);
    client.deliver("b@a.example", &["y@b.example"], MESSAGE).await.outcome().assert(250);
    let sessions = world.sessions();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0].xclient["HELO"], "client.example");
    assert_eq!(sessions[1].xclient["HELO"], "other.example");
    assert_eq!(sessions[1].messages[0].recipients, ["y@b.example"]);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn content_that_comes_with_data_is_the_message() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    let group = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<x@b.example>\r\nDATA\r\n";
    let again = b"MAIL FROM:<b@a.example>\r\nRCPT TO:<y@b.example>\r\nDATA\r\n";
    client.send(&[&group[..], &encode(MESSAGE), again, &encode(MESSAGE), b"QUIT\r\n"].concat()).await;
    for code in [250, 250, 354, 250, 250, 250, 354, 250, 221] {
        client.expect(code).await;
    }
    client.expect_close().await;
    let froms: Vec<_> = world.upstream.messages().into_iter().map(|m| m.from).collect();
    assert_eq!(froms, ["a@a.example", "b@a.example"]);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn quit_behind_the_dot_does_not_lose_the_reply() {
    let hold = Hold::new();
    let world = World::around(Script::new().rule(on(DOT).hold(&hold, "250 2.0.0 at last"))).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    client.send(&[&encode(MESSAGE)[..], b"QUIT\r\n"].concat()).await;
    // Nothing more will come from it; it waits for its replies all the same.
    client.finish().await;
    world.upstream.wait_until("the dot came", |seen| seen.iter().any(|c| shown(c, "octets of data"))).await;
    hold.release();
    assert_eq!(client.expect(250).await.raw, b"250 2.0.0 at last\r\n");
    client.expect(221).await;
    client.expect_close().await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_no_message_upstream() {
    let world = World::around(Script::new()).await;
    let mut in_data = world.client().await;
    in_data.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    in_data.send(b"From: a@a.example\r\n\r\nhalf\r\n.\r").await;
    drop(in_data);
    world.wait_for_end(1).await;
    let mut before_data = world.client().await;
    before_data.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>"]).await[1].assert(250);
    drop(before_data);
    world.wait_for_end(2).await;
    assert!(!world.relayed().iter().any(|line| line == "DATA"), "{}", world.upstream.transcript());
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"client_gone\"}", 2.0).await;
    world.wait_for_count("dmarcgate_sessions_active", 0.0).await;
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_session_begins_to_cost_the_upstream_something_at_mail() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    client.command("NOOP").await.assert(250);
    assert_eq!(world.sessions().len(), 0);
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    assert_eq!(world.sessions().len(), 1);
}

#[tokio::test]
async fn command_lines_may_end_in_a_bare_line_feed_and_a_bare_cr_ends_none() {
    let world = World::around(Script::new()).await;
    let mut client = world.client().await;
    client.send(b"MAIL FROM:<a@a.example>\nRCPT TO:<x@b.example>\nRSET\n").await;
    for _ in 0..3 {
        client.expect(250).await;
    }
    client.command("NOOP\rMAIL FROM:<a@a.example>").await.assert(500);
    client.command("MAIL FROM:<a@a.example>\rRCPT TO:<x@b.example>").await.assert(501);
    assert_eq!(world.relayed(), ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "RSET"]);
    world.upstream.assert_clean();
}

/// Whether the connection's transcript has a line with `text`.
fn shown(connection: &crate::support::upstream::Connection, text: &str) -> bool {
    connection.transcript.iter().any(|line| line.contains(text))
}

fn stranger() -> crate::support::proxy::ProxyHeader {
    use crate::support::proxy::{ProxyHeader, ProxyVersion};
    ProxyHeader::naming(ProxyVersion::V2, crate::support::world::STRANGER.parse().expect("an address"))
}
