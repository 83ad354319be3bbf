//! What an operator sees: one log event a message, metrics, health.

use crate::docs;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::Gate;
use crate::support::rules::{DOT, Script, on};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    Zone::new()
        .txt("a.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt("s._domainkey.a.example", &SigningKey::rsa().record())
}

/// The events of messages, once there are `count` of them.
async fn message_events(gate: &Gate, count: usize) -> Vec<serde_json::Value> {
    let of_messages = || -> Vec<_> { gate.events().into_iter().filter(|e| e["message"] == "message").collect() };
    // Lines are written by a thread of their own; the last one carries the last session's end.
    gate.wait_until_log(|lines| lines.iter().filter(|l| l.contains("\"message\":\"message\"")).count() >= count).await;
    of_messages()
}

#[tokio::test]
async fn one_event_a_message_settles_a_support_case() {
    let world = World::start(zone(), |c| c).await;
    let letter = Letter::new(GOOD, "a@a.example").field("Message-ID: <1@a.example>\r\n");
    let content = Signer::new(SigningKey::rsa(), "a.example", "s").sign(&letter.content);
    let size = content.len();
    world.send(&letter.content(content).to(&["you@rcpt.example", "me@rcpt.example"])).await.reply.assert(250);
    let refused = world.send(&Letter::new(BAD, "a@a.example")).await.reply;

    let events = message_events(&world.gate, 2).await;
    assert_eq!(events.len(), 2, "{events:#?}");
    let passed = [
        ("level", "INFO"),
        ("client_ip", GOOD),
        ("ehlo", "client.example"),
        ("reverse_path", "<a@a.example>"),
        ("recipients", "<you@rcpt.example> <me@rcpt.example>"),
        ("message_id", "<1@a.example>"),
        ("author_domain", "a.example"),
        ("policy_domain", "a.example"),
        ("dkim", "pass:a.example (signature matches)"),
        ("policy", "reject"),
        ("mode", "enforce"),
        ("rule", "pass"),
        ("disposition", "pass"),
        ("override", ""),
        ("outcome", "accepted"),
        ("answered_by", "upstream"),
        ("reply", "250 2.0.0 Ok: queued as 0101"),
        ("bypass", ""),
    ];
    for (field, expected) in passed {
        let found = &events[0][field];
        assert!(
            field == "reply" && found.as_str().is_some_and(|r| r.starts_with("250 2.0.0 Ok")) || found == expected,
            "{field}: {found}"
        );
    }
    assert_eq!((events[0]["size"].as_u64(), events[0]["recipient_count"].as_u64()), (Some(size as u64), Some(2)));
    assert_eq!(events[0]["recipients_left_out"], 0);
    for field in ["elapsed_ms", "evaluation_ms", "transaction_ms"] {
        assert!(events[0][field].is_u64(), "{field}");
    }
    let failed = [("rule", "fail_reject"), ("disposition", "reject"), ("outcome", "refused"), ("answered_by", "gate")];
    for (field, expected) in failed {
        assert_eq!(events[1][field], expected, "{field}");
    }
    assert!(events[1]["spf"].as_str().unwrap().starts_with("fail:a.example (mailfrom: "), "{}", events[1]["spf"]);
    assert!(events[1]["dmarc"].as_str().unwrap().starts_with("fail ("), "{}", events[1]["dmarc"]);
    let id = events[1]["transaction"].as_str().unwrap();
    assert!(refused.says(&format!("(id {id})")), "{refused}");

    // Of many recipients the first are listed, and it says that there are more.
    let many: Vec<_> = (1..=23).map(|n| format!("r{n}@rcpt.example")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    world.send(&Letter::new(GOOD, "a@a.example").to(&many)).await.reply.assert(250);
    let event = &message_events(&world.gate, 3).await[2];
    assert!(event["recipients"].as_str().unwrap().ends_with("<r20@rcpt.example>"), "{event}");
    assert_eq!((event["recipient_count"].as_u64(), event["recipients_left_out"].as_u64()), (Some(23), Some(3)));
}

#[tokio::test]
async fn what_a_peer_sends_stays_in_one_line_without_control_characters() {
    let evil = "\x1b[31m red \x07 \x0b \u{9b}0m \u{85} \u{202e} \" }";
    let script = Script::with_xclient().rule(on(DOT).reply("250 2.0.0 \x1b[31mqueued\x07"));
    for format in ["json", "human"] {
        let world = World::unprobed(script.clone(), zone(), |c| c.set("log.format", format)).await;
        let mut client = Client::introduced(world.gate.address(), GOOD, "evil[31m.example\"}").await;
        for line in ["EHLO \x1b[31m", "EHLO a\u{9b}b", "MAIL FROM:<\x1b[31m@a.example>"] {
            assert_eq!(client.command(line).await.code / 100, 5, "{line:?}");
        }
        let content = format!(
            "From: {evil} <a@a.example>\r\nMessage-ID: <{evil}\r\n\tINFO forged@x>\r\nSubject: {evil}\r\n\
             DKIM-Signature: v=1; a={evil}; d={evil}; s={evil}; i={evil}; b=x; bh=x; h=from\r\n\r\nx\r\n"
        );
        let delivery = client.deliver("\"}\\\"{\"@a.example", &["\"a\\\"}b\"@rcpt.example"], content.as_bytes()).await;
        assert!(delivery.end.is_some(), "{format}: {}", delivery.outcome());
        let line = world.gate.wait_for_log("INFO forged").await;
        for line in world.gate.log() {
            assert!(!line.contains(|c: char| c.is_control()), "{format}: {line:?}");
        }
        match format {
            "json" => {
                let event: serde_json::Value = serde_json::from_str(&line).expect("one object");
                assert!(event["message_id"].as_str().unwrap().contains("\x1b[31m red"), "{event}");
                assert_eq!(event["reverse_path"], "<\"}\\\"{\"@a.example>");
                let all = world.gate.log();
                assert!(all.iter().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()), "{all:#?}");
            }
            _ => assert!(line.contains("\\u{1b}[31m") && line.contains("message"), "{line}"),
        }
    }
}

#[tokio::test]
async fn personal_data_leaves_the_log_at_a_reload_and_levels_of_modules_come_with_it() {
    let mut world = World::start(zone(), |c| c).await;
    drop(Client::introduced(world.gate.address(), GOOD, "client.example").await);
    world.wait_for_count("dmarcgate_sessions_ended_total{reason=\"client_gone\"}", 1.0).await;
    let letter = Letter::new(GOOD, "some.body@a.example").field("Message-ID: <mine@a.example>\r\n");
    let letter = letter.to(&["\"o'b rien\"@rcpt.example"]);
    let mut seen = Vec::new();
    for (count, rule) in [(1, "full"), (2, "hash"), (3, "drop")] {
        let modules = vec!["session=debug", "dns=trace"];
        world.gate.reloaded(|c| c.set("log.personal_data", rule).set("log.modules", modules)).await;
        world.send(&letter).await.reply.assert(250);
        let event = message_events(&world.gate, count).await.pop().unwrap();
        let field = |name: &str| event[name].as_str().unwrap().to_owned();
        seen.push(["reverse_path", "recipients", "message_id"].map(field));
    }
    assert_eq!(seen[0], ["<some.body@a.example>", "<\"o'b rien\"@rcpt.example>", "<mine@a.example>"]);
    assert_eq!(seen[2], ["<-@a.example>", "<-@rcpt.example>", "<-@a.example>"]);
    for ((hashed, full), dropped) in seen[1].iter().zip(&seen[0]).zip(&seen[2]) {
        assert_eq!(hashed.len(), dropped.len() + 9, "{hashed} of {full}");
    }
    // Of another domain: the cache has the answers for the one before.
    world.send(&Letter::new(GOOD, "some.body@unseen.example")).await;
    let asked = world.gate.wait_for_log("\"name\":\"_dmarc.unseen.example\"").await;
    assert!(asked.contains("\"outcome\":\"nxdomain\"") && asked.contains("\"record_type\":\"txt\""), "{asked}");
    // At level info nobody hears of a client that leaves without a word.
    assert!(!world.gate.log().iter().any(|line| line.contains("session ended")));
    drop(Client::introduced(world.gate.address(), GOOD, "client.example").await);
    let event = world.gate.wait_for_log("session ended").await;
    assert!(event.contains("\"level\":\"DEBUG\"") && event.contains("\"target\":\"dmarcgate::session\""), "{event}");
}

#[tokio::test]
async fn commands_that_the_gate_refuses_are_counted_and_told_now_and_then() {
    let world = World::with(Script::new(), Zone::new(), |c| {
        c.set("limits.errors", 1000).set("limits.commands_without_mail", 1000)
    })
    .await;
    let mut client = world.client().await;
    let cases = [
        ("MAIL FROM:<a@a.example> SIZE=99999999999", 552, "message_size"),
        ("MAIL FROM:<ü@a.example>", 553, "non_ascii"),
        ("MAIL FROM:<a@a.example> FOO=1", 555, "parameter"),
        ("MAIL FROM:<a@a..example>", 501, "syntax"),
        ("RCPT TO:<a b@a.example>", 501, "syntax"),
        ("MAIL FROM:<a@a.example>", 250, ""),
        ("RCPT TO:<ü@b.example>", 553, "non_ascii"),
    ];
    for (line, code, _) in cases {
        client.command(line).await.assert(code);
    }
    let scrape = world.gate.metrics().await;
    for reason in ["message_size", "non_ascii", "parameter", "syntax"] {
        let count = cases.iter().filter(|case| case.2 == reason).count() as f64;
        assert_eq!(
            scrape.value(&format!("dmarcgate_command_refusals_total{{reason=\"{reason}\"}}")),
            count,
            "{reason}"
        );
    }
    let event = world.gate.wait_for_log("command refused").await;
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    assert_eq!((event["command"].as_str(), event["reason"].as_str()), (Some(cases[0].0), Some("message_size")));
    assert_eq!((event["level"].as_str(), event["times"].as_u64()), (Some("INFO"), Some(1)));
    assert_eq!(event["reply"], "552 5.3.4 Message size exceeds the limit");
    // Thousands of them are no thousands of lines.
    client.send("RCPT TO:<a b@a.example>\r\n".repeat(500).as_bytes()).await;
    for _ in 0..500 {
        client.expect(501).await;
    }
    let told = world.gate.log().iter().filter(|line| line.contains("command refused")).count();
    assert!(told < 100, "{told}");
}

#[tokio::test]
async fn mail_that_comes_to_no_end_is_found_by_its_sender_and_recipient() {
    let begun = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>"];
    for (command, octets) in [("DATA", &b"From: a@a.example\r\n"[..]), ("BDAT 6", b"From: ")] {
        let script = Script::with_xclient().rule(on("RCPT").with("<lost@").close());
        let world = World::with(script, Zone::new(), |config| config).await;
        let mut client = world.client().await;
        let event = async |text| -> serde_json::Value {
            serde_json::from_str(&world.gate.wait_for_log(text).await).expect("an event")
        };
        for (line, code) in [(begun[0], 250), ("RCPT TO:<lost@b.example>", 451), ("RSET", 250)] {
            client.command(line).await.assert(code);
        }
        let told = event("transaction failed").await;
        let addresses = (told["reverse_path"].as_str(), told["recipient"].as_str());
        assert_eq!(addresses, (Some("<a@a.example>"), Some("<lost@b.example>")), "{told}");
        assert_eq!(told["transaction"].as_str().map(str::len), Some(13), "{told}");
        assert!(told["reply"].as_str().is_some_and(|reply| reply.starts_with("451 4.4.")), "{told}");

        client.pipeline(&begun).await[1].assert(250);
        client.send(format!("{command}\r\n").as_bytes()).await;
        if command == "DATA" {
            client.expect(354).await;
        }
        client.send(octets).await;
        drop(client);
        let told = event("message broken off before its end").await;
        let addresses = (told["reverse_path"].as_str(), told["recipients"].as_str());
        assert_eq!(addresses, (Some("<a@a.example>"), Some("<x@b.example>")), "{command}: {told}");
        assert_eq!((told["reason"].as_str(), told["level"].as_str()), (Some("client_gone"), Some("INFO")), "{told}");
    }
}

#[tokio::test]
async fn every_message_is_counted_by_what_became_of_it() {
    let script = Script::with_xclient()
        .rule(on(DOT).with("refused@").reply("554 5.7.1 spam"))
        .rule(on(DOT).with("later@").reply("451 4.3.0 later"))
        .rule(on(DOT).with("lost@").close());
    let zone = zone()
        .txt("_dmarc.q.example", "v=DMARC1; p=quarantine")
        .txt("_dmarc.doubt.example", "v=DMARC1; p=reject")
        .serv_fail("doubt.example", crate::support::dns::RecordType::TXT);
    let world =
        World::unprobed(script, zone, |c| c.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB"))
            .await;
    let good = Letter::new(GOOD, "a@a.example");
    let letters = [
        (good.clone(), 250),
        (Letter::new(BAD, "a@q.example"), 250),
        (Letter::new(BAD, "a@a.example"), 550),
        (Letter::new(BAD, "a@doubt.example"), 451),
        (good.clone().to(&["refused@rcpt.example"]), 554),
        (good.clone().to(&["later@rcpt.example"]), 451),
        (good.clone().to(&["lost@rcpt.example"]), 451),
        (good.clone().field(" x\r\n"), 554),
        (good.clone().content(vec![b'x'; 70_000]), 552),
    ];
    for (letter, code) in letters {
        assert_eq!(world.send(&letter).await.reply.code, code);
    }
    let scrape = world.gate.metrics().await;
    let outcomes = [
        ("accepted", 1.0),
        ("accepted_tagged", 1.0),
        ("refused", 1.0),
        ("deferred", 1.0),
        ("upstream_refused", 1.0),
        ("upstream_deferred", 1.0),
        ("failed", 1.0),
        ("unacceptable", 2.0),
    ];
    for (outcome, count) in outcomes {
        assert_eq!(scrape.value(&format!("dmarcgate_messages_total{{outcome=\"{outcome}\"}}")), count, "{outcome}");
    }
    assert_eq!(scrape.value("dmarcgate_dmarc_results_total{result=\"pass\"}"), 4.0);
    assert_eq!(scrape.value("dmarcgate_dmarc_results_total{result=\"fail\"}"), 2.0);
    assert_eq!(scrape.value("dmarcgate_dmarc_results_total{result=\"temperror\"}"), 1.0);
    assert_eq!(scrape.value("dmarcgate_spf_results_total{result=\"pass\"}"), 4.0);
    assert_eq!(scrape.value("dmarcgate_decisions_total{rule=\"fail_quarantine\"}"), 1.0);
    assert_eq!(scrape.value("dmarcgate_evaluation_seconds_count"), 7.0);
    assert_eq!(scrape.value("dmarcgate_end_of_data_seconds_count"), 9.0);
    let verdicts = [
        ("pass", "reject", "passed_on", "pass", 4.0),
        ("fail", "quarantine", "tagged_quarantine", "fail_quarantine", 1.0),
        ("fail", "reject", "refused", "fail_reject", 1.0),
        ("temperror", "reject", "deferred", "identifier_doubt", 1.0),
        ("fail", "reject", "tagged_quarantine", "indirect_flow", 0.0),
    ];
    for (result, policy, action, reason, count) in verdicts {
        let labels = format!("action=\"{action}\",policy=\"{policy}\",reason=\"{reason}\",result=\"{result}\"");
        assert_eq!(scrape.value(&format!("dmarcgate_verdicts_total{{{labels}}}")), count, "{labels}");
    }
    for name in ["transactions", "recipients"] {
        assert_eq!(scrape.value(&format!("dmarcgate_{name}_total{{reply=\"accepted\"}}")), 9.0, "{name}");
    }
    // One that is lost behind its last dot has waited for the reply, too.
    for (part, count) in [("verdict", 7.0), ("transfer", 5.0), ("upstream_reply", 5.0)] {
        let series = format!("dmarcgate_end_of_data_part_seconds_count{{part=\"{part}\"}}");
        assert_eq!(scrape.value(&series), count, "{part}");
    }
    // Each has its event, those too that were not taken for their form.
    let events = message_events(&world.gate, 9).await;
    let found: Vec<_> = events.iter().map(|e| e["outcome"].as_str().unwrap()).collect();
    let expected = [
        "accepted",
        "accepted_tagged",
        "refused",
        "deferred",
        "upstream_refused",
        "upstream_deferred",
        "failed",
        "unacceptable",
        "unacceptable",
    ];
    assert_eq!(found, expected);
    assert!(events[8]["reply"].as_str().unwrap().starts_with("552 5.3.4 "), "{}", events[8]);
    assert_eq!(events[8]["reverse_path"], "<a@a.example>");
    // A series that has never been counted is there, too.
    assert_eq!(scrape.value("dmarcgate_decisions_total{rule=\"indirect_flow\"}"), 0.0);
    assert_eq!(scrape.value("dmarcgate_dkim_results_total{result=\"policy\"}"), 0.0);
    docs::assert_tables_agree(&scrape);
}

#[tokio::test]
async fn health_and_readiness_are_told_apart() {
    let world = World::start(zone(), |c| c).await;
    assert_eq!(world.gate.http_get("/healthz").await, (200, "ok\n".into()));
    assert_eq!(world.wait_for_readiness(200).await, "ready\n");
    assert_eq!(world.gate.http_get("/nonsense").await.0, 404);
    assert_eq!(world.gate.metrics().await.value("dmarcgate_ready"), 1.0);

    // Before an upstream that is not there.
    let dns = DnsServer::start(zone()).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::start(nobody, dns.address(), |c: ConfigText| c).await;
    assert_eq!(gate.http_get("/healthz").await.0, 200);
    let (status, body) = gate.http_get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.starts_with("not ready\n") && body.contains("\nupstream: "), "{body}");
    assert_eq!(gate.metrics().await.value("dmarcgate_ready"), 0.0);
}
