//! SMTPUTF8, DSN and PIPELINING over sockets: carried through as they came, and only where both sides know them.

use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::rules::{Hold, Script, on};
use crate::support::world::{Letter, MESSAGE, World};

async fn world(script: Script, change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::with(script, Zone::new(), change).await
}

fn international() -> Script {
    Script::with_xclient().extension("SMTPUTF8").extension("DSN")
}

#[tokio::test]
async fn addresses_beyond_ascii_go_on_as_they_came_and_are_judged_by_their_a_labels() {
    let zone = Zone::new()
        .txt("xn--bcher-kva.example", "v=spf1 ip4:198.51.100.7 -all")
        .txt("_dmarc.xn--bcher-kva.example", "v=DMARC1; p=reject");
    let world = World::with(international(), zone, |c| c.set("policy.reject", "always")).await;
    let mut client = world.client().await;
    assert!(client.command("EHLO client.example").await.says("SMTPUTF8"));
    client.command("MAIL FROM:<käthe@bücher.example> SMTPUTF8 BODY=8BITMIME").await.assert(250);
    client.command("RCPT TO:<jürgen@straße.example>").await.assert(250);
    client.command("DATA").await.assert(354);
    let content = "From: Käthe <käthe@bücher.example>\r\nTo: jürgen@straße.example\r\nSubject: ü\r\n\r\nü\r\n";
    client.content(content.as_bytes()).await.assert(250);
    let seen = world.upstream.messages().pop().unwrap();
    assert_eq!((seen.from.as_str(), seen.recipients[0].as_str()), ("käthe@bücher.example", "jürgen@straße.example"));
    let mut parameters = seen.parameters.clone();
    parameters.sort();
    assert_eq!(parameters, ["BODY=8BITMIME", "SMTPUTF8"]);
    let text = String::from_utf8(seen.content).unwrap();
    assert!(text.ends_with(content), "{text}");
    assert!(text.contains("spf=pass") && text.contains("dmarc=pass"), "{text}");
    // From elsewhere it is a forgery.
    let mut thief = Client::introduced(world.gate.address(), "203.0.113.5", "client.example").await;
    thief.command("MAIL FROM:<käthe@bücher.example> SMTPUTF8").await.assert(250);
    thief.command("RCPT TO:<x@b.example>").await.assert(250);
    thief.command("DATA").await.assert(354);
    thief.content(content.as_bytes()).await.assert(550);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn without_the_parameter_addresses_are_ascii() {
    let world = world(international(), |c| c).await;
    let mut client = world.client().await;
    assert!(client.command("MAIL FROM:<ü@a.example>").await.raw.starts_with(b"553 5.6.7 "));
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    assert!(client.command("RCPT TO:<ü@b.example>").await.raw.starts_with(b"553 5.6.7 "));
    client.command("RCPT TO:<b@bü.example>").await.assert(553);
    client.send(b"RCPT TO:<\xfc@b.example>\r\n").await;
    assert_eq!(client.read_reply().await.code / 100, 5);
    client.command("RSET").await.assert(250);
    client.command("MAIL FROM:<a@a.example> SMTPUTF8=1").await.assert(501);
    client.command("HELO client.example").await.assert(250);
    client.command("MAIL FROM:<a@a.example> SMTPUTF8").await.assert(555);
    client.command("MAIL FROM:<ü@a.example>").await.assert(553);
    // In one group with MAIL, neither of the bad ones leaves.
    client.command("EHLO client.example").await.assert(250);
    let group = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "RCPT TO:<ü@b.example>", "RCPT TO:<y@b.example>"];
    let codes: Vec<_> = client.pipeline(&group).await.iter().map(|r| r.code).collect();
    assert_eq!(codes, [250, 250, 553, 250]);
    assert!(!world.relayed().iter().any(|line| line.contains('ü')), "{:?}", world.relayed());
}

#[tokio::test]
async fn an_upstream_at_hand_without_an_extension_in_use_is_a_temporary_failure() {
    let world = world(international(), |c| c).await;
    world.upstream.change(|script| script.extensions(&["PIPELINING", "XCLIENT NAME ADDR"]));
    let mut client = world.client().await;
    for line in [
        "MAIL FROM:<ü@a.example> SMTPUTF8",
        "MAIL FROM:<a@a.example> BODY=8BITMIME",
        "MAIL FROM:<a@a.example> RET=FULL",
        "MAIL FROM:<a@a.example> ENVID=x",
    ] {
        assert_eq!(client.command(line).await.raw[..10], *b"451 4.3.3 ", "{line}");
    }
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.command("RCPT TO:<b@b.example> NOTIFY=NEVER").await.assert(451);
    client.command("RSET").await.assert(250);
    client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn dsn_parameters_go_on_as_they_came() {
    let world = world(international(), |c| c).await;
    let mut client = world.client().await;
    assert!(client.command("EHLO client.example").await.says("DSN"));
    let replies = client
        .pipeline(&[
            "MAIL FROM:<a@a.example> RET=HDRS ENVID=QQ+2B31",
            "RCPT TO:<x@b.example> notify=SUCCESS,failure ORCPT=rfc822;X+2Bx@c.example",
            "RCPT TO:<y@b.example> NOTIFY=NEVER",
            "RCPT TO:<z@b.example>",
            "RCPT TO:<v@b.example> NOTIFY=NEVER NOTIFY=NEVER",
            "DATA",
        ])
        .await;
    assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [250, 250, 250, 250, 501, 354]);
    client.content(MESSAGE).await.assert(250);
    let seen = world.upstream.messages().pop().unwrap();
    assert_eq!(seen.parameters, ["RET=HDRS", "ENVID=QQ+2B31"]);
    let none: &[&str] = &[];
    let expected = [&["notify=SUCCESS,failure", "ORCPT=rfc822;X+2Bx@c.example"], &["NOTIFY=NEVER"][..], none];
    assert_eq!(seen.recipient_parameters, expected);
}

#[tokio::test]
async fn what_is_hidden_is_neither_announced_nor_taken() {
    let hidden = vec!["SMTPUTF8", "DSN", "8BITMIME", "PIPELINING", "SIZE", "CHUNKING", "ENHANCEDSTATUSCODES"];
    let world = world(international(), |c| c.set("smtp.hide_extensions", hidden)).await;
    let mut client = world.client().await;
    assert_eq!(client.command("EHLO client.example").await.raw, b"250 mx.gate.example\r\n");
    for parameter in ["SMTPUTF8", "RET=FULL", "ENVID=x", "BODY=8BITMIME", "AUTH=<>"] {
        client.command(&format!("MAIL FROM:<a@a.example> {parameter}")).await.assert(555);
    }
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.command("RCPT TO:<b@b.example> NOTIFY=NEVER").await.assert(555);
}

/// The commands of each reply that the upstream was made to wait with: what it had before it answered MAIL.
async fn before_the_answer(script: Script, group: &[&str]) -> (World, Client, Vec<String>, Hold) {
    let hold = Hold::new();
    let world = world(script.rule(on("MAIL").once().hold(&hold, "250 2.1.0 Ok")), |c| c).await;
    let mut client = world.client().await;
    let octets: String = group.iter().flat_map(|line| [*line, "\r\n"]).collect();
    client.send(octets.as_bytes()).await;
    world.upstream.wait_for_command("MAIL").await;
    (world, client, group.iter().map(|line| (*line).to_owned()).collect(), hold)
}

#[tokio::test]
async fn a_group_leaves_in_one_write_where_the_upstream_pipelines() {
    let group = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "RCPT TO:<y@b.example>", "RCPT TO:<z@b.example>"];
    let (world, mut client, sent, hold) = before_the_answer(Script::with_xclient(), &group).await;
    hold.release();
    for _ in &sent {
        client.expect(250).await;
    }
    assert_eq!(world.relayed(), sent);
    // One read of the upstream had all of them.
    assert_eq!(world.sessions()[0].waiting, [3], "{}", world.upstream.transcript());
    client.command("DATA").await.assert(354);
    client.content(MESSAGE).await.assert(250);
    assert_eq!(world.upstream.messages()[0].recipients.len(), 3);
    assert_eq!(world.sessions().len(), 1);

    let plain = Script::new().extensions(&["SIZE 1000000", "XCLIENT NAME ADDR"]);
    let (world, mut client, sent, hold) = before_the_answer(plain, &group).await;
    hold.release();
    for _ in &sent {
        client.expect(250).await;
    }
    assert_eq!(world.relayed(), sent);
    assert_eq!(world.sessions()[0].waiting, [0], "nothing goes ahead where it is not offered");
}

#[tokio::test]
async fn a_group_whose_mail_is_refused_leaves_nothing_behind() {
    for (code, closes) in [("550 5.7.1 No", false), ("451 4.3.0 Later", false), ("421 4.3.2 Bye", true)] {
        let rule = on("MAIL").with("bad").reply(code);
        let world = world(Script::with_xclient().rule(rule), |c| c).await;
        let mut client = world.client().await;
        client.send(b"MAIL FROM:<bad@a.example>\r\nRCPT TO:<x@b.example>\r\nRCPT TO:<y@b.example>\r\nDATA\r\n").await;
        assert!(client.read_reply().await.raw.starts_with(code.as_bytes()));
        if closes {
            client.expect_close().await;
            continue;
        }
        for _ in 0..3 {
            client.expect(503).await;
        }
        client.deliver("good@a.example", &["z@b.example"], MESSAGE).await.outcome().assert(250);
        let messages = world.upstream.messages();
        assert_eq!((messages.len(), messages[0].recipients.as_slice()), (1, &["z@b.example".to_owned()][..]));
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn the_upstream_knows_the_recipients_that_the_client_was_told_of_and_no_others() {
    let world = world(Script::with_xclient(), |c| {
        c.set("limits.recipients", 2).set("smtp.recipient_domains", vec!["b.example"])
    })
    .await;
    type Case<'a> = (&'a [&'a str], &'a [u16], &'a [&'a str]);
    let cases: [Case<'_>; 6] = [
        (&["x@b.example", "y@b.example", "z@b.example"], &[250, 250, 452], &["x@b.example", "y@b.example"]),
        (&["x@b.example", "y@c.example", "z@b.example"], &[250, 550, 250], &["x@b.example", "z@b.example"]),
        (&["y@c.example", "x@b.example"], &[550, 250], &["x@b.example"]),
        (&["x@b.example", "", "y@b.example"], &[250, 501, 250], &["x@b.example", "y@b.example"]),
        (&["x%c.example@b.example", "y@b.example"], &[550, 250], &["y@b.example"]),
        (&["x@b.example", "x@b.example"], &[250, 250], &["x@b.example", "x@b.example"]),
    ];
    for (n, (recipients, codes, known)) in cases.into_iter().enumerate() {
        let mut client = world.client().await;
        let lines: Vec<_> = recipients.iter().map(|to| format!("RCPT TO:<{to}>")).collect();
        let mut group = vec!["MAIL FROM:<a@a.example>"];
        group.extend(lines.iter().map(String::as_str));
        let replies = client.pipeline(&group).await;
        assert_eq!(replies[1..].iter().map(|r| r.code).collect::<Vec<_>>(), codes, "{recipients:?}");
        client.command("DATA").await.assert(354);
        client.content(MESSAGE).await.assert(250);
        assert_eq!(world.upstream.messages()[n].recipients, known, "{recipients:?}");
        client.command("QUIT").await.assert(221);
    }
    let told = world.relayed();
    assert!(!told.iter().any(|line| line.contains("c.example") || line.contains("<z@b.example> ")), "{told:?}");
    assert_eq!(told.iter().filter(|line| line.contains("z@b.example")).count(), 1, "{told:?}");
    assert_eq!(world.sessions().len(), 6, "no connection was lost over any of it");
}

#[tokio::test]
async fn a_line_that_is_too_long_inside_a_group_tells_the_upstream_nothing() {
    let world = world(Script::with_xclient(), |c| c).await;
    for length in 2_040..2_052 {
        let mut client = world.client().await;
        let rcpt = |to: &str, octets: usize| format!("RCPT TO:<{to}>{}", " ".repeat(octets.saturating_sub(24)));
        let group = [
            "MAIL FROM:<a@a.example>".to_owned(),
            rcpt("x1@b.example", 0),
            rcpt("x2@b.example", length),
            rcpt("x3@b.example", 0),
        ];
        let replies = client.pipeline(&group.each_ref().map(String::as_str)).await;
        let code = replies[2].code;
        assert_eq!(code, if group[2].len() + 2 > 2_048 { 500 } else { 250 }, "{length}");
        replies[3].assert(250);
        client.command("DATA").await.assert(354);
        client.content(MESSAGE).await.assert(250);
        let recipients = world.upstream.messages().pop().unwrap().recipients;
        assert_eq!(recipients.len(), if code == 250 { 3 } else { 2 });
        client.command("QUIT").await.assert(221);
    }
    assert_eq!(world.sessions().len(), 12, "no connection was lost over it");
}

#[tokio::test]
async fn a_client_that_names_a_domain_in_u_labels_in_from_alone_is_judged_too() {
    let zone = Zone::new().txt("_dmarc.xn--bcher-kva.example", "v=DMARC1; p=reject");
    let world = World::with(international(), zone, |c| c.set("policy.reject", "always")).await;
    let letter = Letter::new("203.0.113.5", "x@c.example").content("From: x@bücher.example\r\n\r\nx\r\n");
    assert_eq!(world.send(&letter).await.summary(), "550");
}
