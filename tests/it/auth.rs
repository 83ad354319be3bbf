//! AUTH over sockets: relayed to an upstream that knows who may log in, and what a login changes.

use crate::support::client::{Client, plain};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::gate::Gate;
use crate::support::rules::{CHALLENGE, Hold, Script, on};
use crate::support::signer::base64;
use crate::support::upstream::Connection;
use crate::support::world::{Letter, MESSAGE, STRANGER, World};

const PASSWORD: &str = "correct.Horse-Battery7";

fn script() -> Script {
    Script::new().extension("XCLIENT NAME ADDR").user("joe", PASSWORD)
}

/// A domain that refuses what is not its own.
fn strict() -> Zone {
    Zone::new().txt("_dmarc.a.example", "v=DMARC1; p=reject").txt("a.example", "v=spf1 -all")
}

/// A gate that offers AUTH in the clear.
async fn world(script: Script, change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::with(script, strict(), |config| change(config.set("smtp.auth", "always").set("policy.reject", "always")))
        .await
}

async fn deliver(client: &mut Client) -> u16 {
    client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().code
}

#[tokio::test]
async fn it_is_offered_under_tls_alone_unless_configured_otherwise() {
    let (world, _directory) = World::with_starttls(script(), Zone::new(), |c| c).await;
    let mut client = world.client().await;
    assert!(!client.command("EHLO client.example").await.says("AUTH"));
    assert_eq!(client.auth_plain("joe", PASSWORD).await.raw, b"538 5.7.11 Encryption required for AUTH\r\n");
    client.start_tls().await;
    assert!(client.command("EHLO client.example").await.says("AUTH PLAIN LOGIN"));
    client.auth_plain("joe", PASSWORD).await.assert(235);
    client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
    assert_eq!(world.upstream.messages()[0].login.as_deref(), Some("joe"));
    // What was sent in the clear went no further.
    let said: Vec<_> = world.sessions().into_iter().flat_map(|c| c.responses).collect();
    assert_eq!(said, [plain("joe", PASSWORD)]);

    for (mode, offered, code) in [("off", false, 502), ("always", true, 235)] {
        let (world, _directory) = World::with_starttls(script(), Zone::new(), |c| c.set("smtp.auth", mode)).await;
        for mut client in [world.client().await, world.secured_client().await] {
            assert_eq!(client.command("EHLO client.example").await.says("AUTH"), offered, "{mode}");
            client.auth_plain("joe", PASSWORD).await.assert(code);
        }
    }
    let hidden =
        World::with(script(), Zone::new(), |c| c.set("smtp.auth", "always").set("smtp.hide_extensions", vec!["AUTH"]));
    hidden.await.client().await.auth_plain("joe", PASSWORD).await.assert(502);
}

#[tokio::test]
async fn every_form_of_the_exchange_is_relayed() {
    let world = world(script(), |c| c).await;
    let (response, name, password) = (plain("joe", PASSWORD), base64(b"joe"), base64(PASSWORD.as_bytes()));
    let forms = [
        vec![format!("AUTH PLAIN {response}")],
        vec![format!("auth plain   {response}")],
        vec!["AUTH PLAIN".into(), response.clone()],
        vec!["AUTH LOGIN".into(), name.clone(), password.clone()],
        vec![format!("AUTH LOGIN {name}"), password.clone()],
    ];
    for (n, form) in forms.iter().enumerate() {
        let mut client = world.client().await;
        let (last, begun) = form.split_last().unwrap();
        for line in begun {
            client.command(line).await.assert(334);
        }
        assert_eq!(client.command(last).await.raw, b"235 2.7.0 Welcome\r\n", "{form:?}");
        assert_eq!(deliver(&mut client).await, 250, "a forgery, were it not for the login");
        client.command("QUIT").await.assert(221);
        let seen = world.upstream.messages().pop().unwrap();
        assert_eq!((seen.login.as_deref(), world.upstream.messages().len()), (Some("joe"), n + 1));
        let text = String::from_utf8(seen.content).unwrap();
        assert!(text.starts_with("Authentication-Results: mx.gate.example;"), "{text}");
        assert!(text.split("\r\nFrom:").next().unwrap().contains("auth=pass"), "{text}");
    }
    let commands = &world.sessions()[0].commands;
    let place = |verb: &str| commands.iter().position(|line| line.starts_with(verb)).unwrap();
    assert!(place("XCLIENT") < place("AUTH") && place("AUTH") < place("MAIL"), "{commands:?}");
    world.wait_for_count("dmarcgate_logins_total{result=\"accepted\"}", 5.0).await;
    world.wait_for_count("dmarcgate_bypassed_total{reason=\"authenticated\"}", 5.0).await;
    world.gate.wait_for_log("\"login\":\"joe\"").await;
    // One who did not log in is judged.
    assert_eq!(deliver(&mut world.client().await).await, 550);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn what_ends_an_exchange_early_is_told_on_both_sides() {
    let world = world(script(), |c| c).await;
    let mut client = world.client().await;
    client.command("AUTH LOGIN").await.assert(334);
    assert_eq!(client.command("*").await.raw, b"501 5.7.0 Authentication aborted\r\n");
    for bad in ["not base64!", "", "a b", "\u{fc}", "AGpvZQ== x"] {
        client.command("AUTH LOGIN").await.assert(334);
        let reply = client.command(bad).await;
        // An empty line is a response without content: the upstream judges it.
        if bad.is_empty() {
            reply.assert(334);
            client.command("*").await.assert(501);
        } else {
            assert_eq!(reply.raw, b"501 5.5.2 Not a base64 string\r\n", "{bad:?}");
        }
    }
    for line in ["AUTH", "AUTH PLAIN *", "AUTH PLAIN !", "AUTH PL/AIN", "AUTH PLAIN a b", "AUTH \u{fc}"] {
        assert_eq!(client.command(line).await.code, 501, "{line:?}");
    }
    client.command("AUTH CRAM-MD5").await.assert(504);
    client.auth_plain("joe", PASSWORD).await.assert(235);
    let said: Vec<_> = world.sessions().into_iter().flat_map(|c| c.responses).collect();
    assert_eq!(said, ["*", "*", "", "*", "*", "*", "*", &plain("joe", PASSWORD)]);
    world.wait_for_count("dmarcgate_logins_total{result=\"cancelled\"}", 6.0).await;
    world.upstream.assert_clean();
}

#[tokio::test]
async fn what_the_upstream_says_is_what_the_client_hears() {
    let world = world(script(), |c| c.set("limits.errors", 3)).await;
    let mut client = world.client().await;
    assert_eq!(client.auth_plain("joe", "wrong").await.raw, b"535 5.7.8 Error: authentication failed\r\n");
    world.upstream.add(on("AUTH").once().reply("454 4.7.0 Temporary\n454 4.7.0 failure"));
    client.auth_plain("joe", PASSWORD).await.assert(454);
    world.upstream.add(on("AUTH").once().reply("454-4.7.0 Temporary\n454 4.7.0 failure"));
    assert_eq!(client.auth_plain("joe", PASSWORD).await.raw, b"454-4.7.0 Temporary\r\n454 4.7.0 failure\r\n");
    for _ in 0..2 {
        client.auth_login("joe", "wrong").await.assert(535);
    }
    assert_eq!(client.command("NOOP").await.code, 250, "three errors are allowed");
    client.auth_plain("jim", "wrong").await.assert(535);
    client.expect(421).await;
    client.expect_close().await;
    world.wait_for_count("dmarcgate_logins_total{result=\"refused\"}", 4.0).await;
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"errors\"}", 1.0).await;
}

#[tokio::test]
async fn an_upstream_that_is_lost_or_never_content_is_a_temporary_failure() {
    let world = world(script(), |c| c.set("timeouts.upstream_command", "300ms")).await;
    for (rule, line) in [
        (on("AUTH").close(), "AUTH PLAIN"),
        (on(CHALLENGE).close(), "AUTH PLAIN"),
        (on(CHALLENGE).reply("354 go on"), "AUTH PLAIN"),
        (on(CHALLENGE).reply("nonsense"), "AUTH PLAIN"),
    ] {
        world.upstream.add(rule.clone());
        let mut client = world.client().await;
        let mut reply = client.command(line).await;
        if reply.code == 334 {
            reply = client.command(&plain("joe", PASSWORD)).await;
        }
        assert_eq!(reply.raw, b"454 4.7.0 Temporary authentication failure\r\n");
        client.command("NOOP").await.assert(250);
        assert_eq!(deliver(&mut client).await, 550, "nobody has logged in");
        world.upstream.change(|mut script| {
            script.rules.clear();
            script
        });
    }
    world.upstream.add(on(CHALLENGE).reply("334 bW9yZQ=="));
    let mut client = world.client().await;
    let mut reply = client.command("AUTH PLAIN").await;
    for _ in 0..20 {
        if reply.code == 334 {
            reply = client.command("bW9yZQ==").await;
        }
    }
    reply.assert(454);
    world.upstream.add(on(CHALLENGE).reply_and_close("421 4.3.2 Going down"));
    let mut client = world.client().await;
    client.command("AUTH PLAIN").await.assert(334);
    assert_eq!(client.command("AGEAYg==").await.raw, b"421 4.3.2 Going down\r\n");
    client.expect_close().await;
    // However an exchange ends, it counts once and is told once.
    let mut client = world.client().await;
    client.command("AUTH NONESUCH").await.assert(504);
    client.command("AUTH PLAIN").await.assert(334);
    drop(client);
    for (result, count) in [("failed", 6.0), ("refused", 1.0), ("cancelled", 1.0), ("accepted", 0.0)] {
        world.wait_for_count(&format!("dmarcgate_logins_total{{result=\"{result}\"}}"), count).await;
    }
    let logins = |lines: &[String]| lines.iter().filter(|line| line.contains("\"message\":\"login\"")).count();
    world.gate.wait_until_log(|lines| logins(lines) >= 8).await;
    assert_eq!(logins(&world.gate.log()), 8);
    assert!(!world.gate.log().iter().any(|line| line.contains("NONESUCH")), "it may be a password");
}

#[tokio::test]
async fn a_login_lifts_the_relay_guard_and_may_be_evaluated_all_the_same() {
    let world =
        world(script(), |c| c.set("smtp.recipient_domains", vec!["b.example"]).set("bypass.authenticated", false))
            .await;
    let mut client = world.client().await;
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.command("RCPT TO:<x@elsewhere.example>").await.assert(550);
    client.command("RSET").await.assert(250);
    client.auth_plain("joe", PASSWORD).await.assert(235);
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.command("RCPT TO:<x@elsewhere.example>").await.assert(250);
    client.command("RSET").await.assert(250);
    assert_eq!(deliver(&mut client).await, 550, "evaluated");
    client.deliver("a@c.example", &["b@b.example"], b"From: a@c.example\r\n\r\nx\r\n").await.outcome().assert(250);
    assert!(world.upstream.messages()[0].content.starts_with(b"Authentication-Results: mx.gate.example;"));
}

#[tokio::test]
async fn it_has_its_place_in_a_session() {
    let world = world(script(), |c| c).await;
    let mut client = Client::connect_through(
        world.gate.address(),
        crate::support::proxy::ProxyHeader::naming(crate::support::proxy::ProxyVersion::V2, STRANGER.parse().unwrap()),
    )
    .await;
    client.expect(220).await;
    client.auth_plain("joe", PASSWORD).await.assert(503);
    client.command("HELO client.example").await.assert(250);
    client.auth_plain("joe", PASSWORD).await.assert(502);
    client.command("EHLO client.example").await.assert(250);
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.auth_plain("joe", PASSWORD).await.assert(503);
    client.command("RSET").await.assert(250);
    client.auth_plain("joe", PASSWORD).await.assert(235);
    client.auth_plain("joe", PASSWORD).await.assert(503);
    assert!(client.command("MAIL FROM:<a@a.example> AUTH=joe+40a.example").await.code == 250);
    assert!(world.relayed().contains(&"MAIL FROM:<a@a.example> AUTH=joe+40a.example".to_owned()));
    client.command("RSET").await.assert(250);
    // RFC 4954 §4: a second EHLO does not undo it, and the connection that knows of it stays.
    client.command("EHLO client.example").await.assert(250);
    client.auth_plain("joe", PASSWORD).await.assert(503);
    assert_eq!(deliver(&mut client).await, 250);
    assert_eq!(world.upstream.messages()[0].login.as_deref(), Some("joe"));
    world.upstream.assert_clean();
}

#[tokio::test]
async fn mechanisms_that_no_relay_can_carry_are_cut() {
    let offer = "AUTH EXTERNAL GSSAPI SCRAM-SHA-256-PLUS PLAIN DIGEST-MD5 SCRAM-SHA-256 SCRAM-SHA-1-PLUS XOAUTH2";
    let world = world(Script::with_xclient().extension(offer), |c| c).await;
    let mut client = world.client().await;
    let reply = client.command("EHLO client.example").await;
    assert!(reply.lines.iter().any(|line| line == "AUTH PLAIN SCRAM-SHA-256 XOAUTH2"), "{reply}");
    for mechanism in ["EXTERNAL =", "GSSAPI", "DIGEST-MD5", "SCRAM-SHA-256-PLUS", "scram-sha-1-plus", "LOGIN"] {
        client.command(&format!("AUTH {mechanism}")).await.assert(504);
    }
    assert_eq!(world.relayed(), [""; 0]);
    let none = self::world(Script::with_xclient().extension("AUTH EXTERNAL GSSAPI"), |c| c).await;
    assert!(!none.client().await.command("EHLO client.example").await.says("AUTH"));
}

#[tokio::test]
async fn the_connection_of_a_login_is_kept_however_long_it_waits() {
    let world = world(script(), |c| c.set("upstream.idle", "50ms").set("upstream.hold", "50ms")).await;
    let (mut joe, mut clock) = (world.client().await, world.client().await);
    joe.auth_plain("joe", PASSWORD).await.assert(235);
    // Another one's connection that began to idle later is closed first, were not the login in the way.
    clock.deliver("x@c.example", &["b@b.example"], b"From: x@c.example\r\n\r\nx\r\n").await.outcome().assert(250);
    world.upstream.wait_until("the idle one is closed", |seen| seen.len() == 3 && seen[2].closed).await;
    joe.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>"]).await[1].assert(250);
    clock.pipeline(&["MAIL FROM:<x@c.example>", "RCPT TO:<b@b.example>"]).await[1].assert(250);
    world.upstream.wait_until("the held one is closed", |seen| seen.len() == 4 && seen[3].closed).await;
    joe.command("DATA").await.assert(354);
    joe.content(MESSAGE).await.assert(250);
    let seen = world.sessions();
    assert!(!seen[0].closed && seen[0].messages.len() == 1, "{}", world.upstream.transcript());
    joe.command("QUIT").await.assert(221);
    world.upstream.wait_until("it is over", |seen| seen[1].closed).await;
}

#[tokio::test]
async fn the_connection_of_a_login_is_kept_awake_while_a_long_message_comes() {
    let world = world(script().extension("CHUNKING"), |c| c.set("timeouts.command", "1s")).await;
    let nooped = |n: usize| move |seen: &[_]| noops(seen) >= n;
    let mut joe = world.client().await;
    joe.auth_plain("joe", PASSWORD).await.assert(235);
    joe.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>", "DATA"]).await[2].assert(354);
    joe.send(MESSAGE).await;
    world.upstream.wait_until("it is said inside DATA, time and again", nooped(2)).await;
    joe.content(b"more\r\n").await.assert(250);
    joe.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>"]).await[1].assert(250);
    let before = noops(&world.upstream.connections());
    joe.send(b"BDAT 100 LAST\r\nFrom: a@a.example\r\n\r\n").await;
    world.upstream.wait_until("it is said inside a chunk", nooped(before + 1)).await;
    joe.send(&[b'x'; 79]).await;
    joe.expect(250).await;
    assert_eq!((world.sessions().len(), world.upstream.messages().len()), (1, 2), "{}", world.upstream.transcript());
    world.upstream.assert_clean();

    // One that it fails on is lost, and that is said, not hidden by a message without a login.
    world.upstream.add(on("NOOP").reply_and_close("421 4.4.2 timeout"));
    joe.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>", "DATA"]).await[2].assert(354);
    joe.send(MESSAGE).await;
    world.upstream.wait_until("it is over", |seen| seen[1].closed).await;
    joe.content(b"more\r\n").await.assert(421);
    assert_eq!(world.upstream.messages().len(), 2);
}

fn noops(seen: &[Connection]) -> usize {
    seen.iter().flat_map(|connection| &connection.commands).filter(|line| *line == "NOOP").count()
}

#[tokio::test]
async fn the_connection_of_a_login_outlives_a_refused_mail() {
    let (hold, bad) = (Hold::new(), on("MAIL").with("<bad@").reply("550 5.7.1 not you"));
    let script = script().rule(bad).rule(on("RCPT").with("<slow@").hold(&hold, "503 5.5.1 need MAIL"));
    let world = world(script, |c| c).await;
    let mut joe = world.client().await;
    joe.auth_plain("joe", PASSWORD).await.assert(235);
    let group = ["MAIL FROM:<bad@a.example>", "RCPT TO:<slow@b.example>", "RCPT TO:<slow@b.example>", "DATA"];
    let codes: Vec<_> = joe.pipeline(&group).await.iter().map(|reply| reply.code).collect();
    assert_eq!(codes, [550, 503, 503, 503], "before the upstream has said anything to recipients");
    hold.release();
    assert_eq!(deliver(&mut joe).await, 250);
    assert_eq!(world.sessions().len(), 1, "{}", world.upstream.transcript());
    world.upstream.assert_clean();
}

#[tokio::test]
async fn a_login_that_is_lost_is_said_to_be() {
    let world = world(script(), |c| c).await;
    for rule in [on("MAIL").once().close(), on("RCPT").once().close(), on("NOOP").close()] {
        let mut client = world.client().await;
        client.auth_plain("joe", PASSWORD).await.assert(235);
        world.upstream.add(rule);
        let mut replies = Vec::new();
        for command in ["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>"] {
            replies.push(client.command(command).await.code);
            if replies.last() == Some(&421) {
                client.expect_close().await;
                break;
            }
        }
        assert!(matches!(replies[..], [421] | [250, 421] | [250, 250]), "{replies:?}");
        if replies == [250, 250] {
            client.command("DATA").await.assert(354);
            client.content(MESSAGE).await.assert(250);
        }
    }
    assert!(world.upstream.messages().iter().all(|m| m.login.is_some()), "{}", world.upstream.transcript());
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"unavailable\"}", 2.0).await;
}

#[tokio::test]
async fn who_is_logged_in_for_good_hears_why_the_upstream_ends_it() {
    let world = world(script(), |c| c).await;
    let mut client = world.client().await;
    client.auth_plain("joe", PASSWORD).await.assert(235);
    assert_eq!(deliver(&mut client).await, 250);
    world.upstream.add(on("MAIL").once().reply_and_close("421 4.7.0 Too much mail from joe"));
    let reply = client.command("MAIL FROM:<a@a.example>").await;
    assert_eq!(reply.to_string(), "421 4.7.0 Too much mail from joe");
    client.expect_close().await;
}

#[tokio::test]
async fn an_upstream_that_hides_auth_from_one_client_takes_its_mail() {
    let world = world(script(), |c| c).await;
    let mut client = world.client().await;
    world.upstream.add(on("EHLO").with("client.example").reply("250-mta.example\n250 PIPELINING"));
    client.command("MAIL FROM:<a@a.example> AUTH=<>").await.assert(250);
    assert_eq!(world.relayed(), ["MAIL FROM:<a@a.example>"]);
}

#[tokio::test]
async fn an_upstream_that_can_be_told_of_a_login_is_told_again() {
    for (attributes, login) in [("NAME ADDR LOGIN", true), ("NAME ADDR", false), ("LOGIN", false)] {
        let script = Script::new().extension(&format!("XCLIENT {attributes}")).user("joe", PASSWORD);
        let world = world(script, |c| c).await;
        let mut client = world.client().await;
        client.auth_plain("joe", PASSWORD).await.assert(235);
        world.upstream.add(on("MAIL").once().close());
        let reply = client.command("MAIL FROM:<a@a.example>").await;
        assert_eq!(reply.code, if login { 250 } else { 421 }, "{attributes}: {reply}");
        if login {
            let seen = world.sessions();
            assert_eq!((seen.len(), seen[1].xclient["LOGIN"].as_str()), (2, "joe"));
        }
    }
}

#[tokio::test]
async fn starttls_forgets_a_login() {
    let (world, _directory) =
        World::with_starttls(script(), strict(), |c| c.set("smtp.auth", "always").set("policy.reject", "always")).await;
    let mut client = world.client().await;
    client.auth_plain("joe", PASSWORD).await.assert(235);
    client.start_tls().await;
    assert!(client.command("EHLO client.example").await.says("AUTH PLAIN LOGIN"));
    assert_eq!(deliver(&mut client).await, 550);
    client.deliver("c@c.example", &["b@b.example"], b"From: c@c.example\r\n\r\nx\r\n").await.outcome().assert(250);
    assert_eq!(world.upstream.messages()[0].login, None);
    client.auth_plain("joe", PASSWORD).await.assert(235);
    assert_eq!(deliver(&mut client).await, 250);
}

#[tokio::test]
async fn no_password_is_in_the_log_whatever_is_logged() {
    let mut text = None;
    let (World { dns, upstream, gate }, _directory) = World::with_starttls(script(), strict(), |config| {
        text.insert(config.set("smtp.auth", "always").set("log.level", "trace")).clone()
    })
    .await;
    // Every module of every library, not ours alone.
    let (directory, config) = (gate.kill(), text.unwrap());
    let gate = Gate::start_under(directory, &config, "true", |c| c.env("DMARCGATE_LOG", "trace")).await;
    let world = World { dns, upstream, gate };
    world.upstream.wait_until("the second probe is over", |seen| seen.len() == 2 && seen[1].closed).await;
    let wrong = "wrong.Staple-Horse8";
    for mut client in [world.client().await, world.secured_client().await] {
        client.auth_plain("joe", wrong).await.assert(535);
        client.auth_login("joe", wrong).await.assert(535);
        // A password where the name belongs, and one that is no base64.
        client.auth_login(wrong, "x").await.assert(535);
        client.command("AUTH LOGIN").await.assert(334);
        client.command(wrong).await.assert(501);
        client.command(&format!("AUTH PLAIN {wrong}")).await.assert(501);
        client.command(&format!("AUTH {wrong} x")).await.assert(501);
        world.upstream.add(on(CHALLENGE).once().close());
        client.command("AUTH PLAIN").await.assert(334);
        client.command(&plain("joe", PASSWORD)).await.assert(454);
        client.auth_login("joe", PASSWORD).await.assert(235);
        client.auth_plain("joe", PASSWORD).await.assert(503);
        client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
        client.command("QUIT").await.assert(221);
    }
    let letter = Letter::new(STRANGER, "x@c.example");
    world.send(&letter).await.reply.assert(250);
    world
        .gate
        .wait_until_log(|lines| lines.iter().filter(|l| l.contains("\"result\":\"accepted\"")).count() >= 2)
        .await;
    let log = world.gate.log().join("\n");
    assert!(log.contains("\"level\":\"TRACE\""), "the log is as loud as can be");
    for secret in [PASSWORD, wrong] {
        for form in [secret.to_owned(), base64(secret.as_bytes()), plain("joe", secret)] {
            assert!(!log.contains(&form), "{form}\n{log}");
        }
    }
}

#[tokio::test]
async fn a_line_of_auth_may_be_long_and_no_longer() {
    let world = world(script(), |c| c).await;
    let mut client = world.client().await;
    let line = |octets: usize| format!("AUTH PLAIN {}", "A".repeat(octets - "AUTH PLAIN \r\n".len()));
    client.command(&line(12_288)).await.assert(535);
    assert_eq!(client.command(&line(12_289)).await.raw, b"500 5.5.2 Line too long\r\n");
    client.command("AUTH PLAIN").await.assert(334);
    client.command(&"A".repeat(12_286)).await.assert(535);
    client.command("AUTH PLAIN").await.assert(334);
    client.command(&"A".repeat(12_287)).await.assert(501);
    client.command("AUTH PLAIN").await.assert(334);
    client.command(&"A".repeat(100_000)).await.assert(501);
    client.auth_plain("joe", PASSWORD).await.assert(235);
    let said: Vec<_> = world.sessions().into_iter().flat_map(|c| c.responses).map(|text| text.len()).collect();
    assert_eq!(said, [12_288 - 13, 12_286, 1, 1, plain("joe", PASSWORD).len()]);
}

/// A login that comes to no end gives its connection up to who has need of one.
#[tokio::test]
async fn who_is_silent_inside_auth_holds_no_connection() {
    let script = Script::with_xclient().user("joe", "secret");
    let change = |config: crate::support::config::ConfigText| {
        config.set("smtp.auth", "always").set("upstream.hold", "50ms").set("upstream.connections", 1)
    };
    let world = World::with(script, Zone::new(), change).await;
    let mut silent = world.client().await;
    silent.command("AUTH LOGIN").await.assert(334);
    let mut other = world.client().await;
    other.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    silent.command("am9l").await.assert(454);
    silent.command("NOOP").await.assert(250);
}
