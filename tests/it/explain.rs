//! `dmarcgate explain`: what is kept about messages, and how it is told.

use std::process::Output;

use serde_json::Value;

use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::rules::{DOT, Script, on};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    let spf = "v=spf1 ip4:192.0.2.0/24 -all";
    let policies =
        [("reject", "v=DMARC1; p=reject"), ("quarantine", "v=DMARC1; p=quarantine"), ("none", "v=DMARC1; p=none")];
    let zone = policies.into_iter().fold(Zone::new(), |zone, (name, policy)| {
        zone.txt(&format!("{name}.example"), spf).txt(&format!("_dmarc.{name}.example"), policy)
    });
    zone.txt("s._domainkey.reject.example", &SigningKey::rsa().record())
        .txt("_dmarc.doubt.example", "v=DMARC1; p=reject")
        .serv_fail("doubt.example", RecordType::TXT)
        .txt("evil.example", "v=spf1 a:\u{1b}[2J.example -all")
        .txt("_dmarc.evil.example", "v=DMARC1; p=reject; rua=\u{1b}]0;x\u{7}")
}

async fn world() -> World {
    let script = Script::with_xclient().rule(on(DOT).with("refused@").reply("554 5.7.1 We don't want this"));
    World::unprobed(script, zone(), |config| config.set("bypass.trusted_networks", vec!["203.0.113.0/24"])).await
}

/// The id that the log has of the `n`th message, counted from 1.
pub async fn id(world: &World, n: usize) -> String {
    let messages = |lines: &[String]| lines.iter().filter(|line| line.contains("\"message\":\"message\"")).count();
    world.gate.wait_until_log(|lines| messages(lines) >= n).await;
    let events = world.gate.events();
    let mut ids = events.iter().filter(|e| e["message"] == "message").map(|e| &e["transaction"]);
    ids.nth(n - 1).and_then(Value::as_str).expect("an id").to_owned()
}

async fn explain(world: &World, id: &str, more: &[&str]) -> Output {
    world.gate.run(&[&["explain", id][..], more].concat()).await
}

/// The story of a message, once it is written.
pub async fn story(world: &World, id: &str) -> String {
    let count = "dmarcgate_store_explanations_written_total";
    let pending = |output: &Output| String::from_utf8_lossy(&output.stderr).contains("nothing is kept");
    let mut output = explain(world, id, &[]).await;
    let mut seen = 0.0;
    while pending(&output) {
        // Each batch that is written may have it.
        world.gate.wait_for_metrics("one more explanation", |scrape| scrape.value(count) > seen).await;
        seen = world.gate.metrics().await.value(count);
        output = explain(world, id, &[]).await;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test]
async fn a_refusal_is_told_as_a_story_under_the_id_of_the_reply() {
    let world = world().await;
    let outcome = world.send(&Letter::new(BAD, "ceo@reject.example").helo("mail.thief.example")).await;
    assert_eq!(outcome.reply.code, 550);
    let reply = outcome.reply.to_string();
    let id = reply.split_once("(id ").expect("an id").1.split(')').next().expect("its end").to_owned();
    assert_eq!(id, self::id(&world, 1).await, "log and reply carry one id");

    let story = story(&world, &id).await;
    for line in [
        &format!("Message {id}\n"),
        "client          198.51.100.66, EHLO mail.thief.example\n",
        "reverse-path    <ceo@reject.example>\n",
        "recipient       <you@rcpt.example>\n",
        "From            ceo@reject.example\n",
        "SPF: fail\n",
        "decided by      -all\n",
        "DKIM: none\n",
        "DMARC for reject.example: fail\n",
        "policy          reject, by p= at reject.example\n",
        "SPF             reject.example: fail, aligned: the same domain\n",
        "  enforce, reject = \"corroborated\": refused\n",
        "  rule          fail_reject\n",
        &format!("by the gate     {}\n", reply.trim_end()),
        "TXT  _dmarc.reject.example",
        "v=DMARC1; p=reject\n",
    ] {
        assert!(story.contains(line), "{line:?} is missing in\n{story}");
    }
    // As people read it out.
    let spelled = format!("id={}-{}", &id[..5].to_lowercase(), &id[5..]);
    assert_eq!(String::from_utf8(explain(&world, &spelled, &[]).await.stdout).unwrap(), story);
}

#[tokio::test]
async fn the_received_field_is_among_what_was_added() {
    let world = World::with(Script::new(), zone(), |config| config.set("upstream.identity", "received")).await;
    let outcome = world.send(&Letter::new(BAD, "a@none.example")).await;
    let story = story(&world, &id(&world, 1).await).await;
    for line in outcome.added().lines() {
        assert!(story.contains(line.trim_start()), "{line:?} is missing in\n{story}");
    }
    assert!(story.contains("Received: from client.example ([198.51.100.66])"), "{story}");
}

#[tokio::test]
async fn programs_get_the_same_as_json() {
    let world = world().await;
    let signer = Signer::new(SigningKey::rsa(), "reject.example", "s");
    let letter = Letter::new(BAD, "a@reject.example");
    let broken = [&signer.sign(&letter.content), &b"more\r\n"[..]].concat();
    let outcome = world.send(&letter.content(broken)).await;
    assert_eq!(outcome.summary(), "250 quarantine");
    let id = id(&world, 1).await;
    assert!(outcome.results().comments.iter().any(|comment| comment.contains(&format!("id={id}"))));
    story(&world, &id).await;

    let json = explain(&world, &id, &["--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let cases = [
        ("/id", Value::from(&*id)),
        ("/client/ip", BAD.into()),
        ("/evaluation/dkim/0/result", "fail".into()),
        ("/evaluation/dkim/0/reason", "body hash does not match".into()),
        ("/evaluation/dmarc/0/signs/0", "broken_signature".into()),
        ("/decision/rule", "indirect_flow".into()),
        ("/decision/overrides/0/type", "local_policy".into()),
        ("/decision/mark", "quarantine".into()),
        ("/outcome", "accepted_tagged".into()),
        ("/answered_by", "upstream".into()),
        ("/dns_left_out", 0.into()),
    ];
    for (pointer, expected) in cases {
        assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}: {json:#}");
    }
    let names: Vec<_> = json["dns"].as_array().unwrap().iter().map(|q| q["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"s._domainkey.reject.example"), "{names:?}");
}

#[tokio::test]
async fn everything_but_a_plain_pass_is_kept() {
    let world = world().await;
    let passing = Letter::new(GOOD, "a@none.example");
    let cases = [
        ("plain pass", passing.clone(), 250, false),
        ("trusted network", Letter::new("203.0.113.5", "a@reject.example"), 250, false),
        ("fail under p=none", Letter::new(BAD, "a@none.example"), 250, true),
        ("no policy", Letter::new(BAD, "a@nowhere.example"), 250, true),
        ("marked", Letter::new(BAD, "a@quarantine.example"), 250, true),
        ("deferred", Letter::new(BAD, "a@doubt.example"), 451, true),
        ("no author", Letter::with_header(BAD, "a@none.example", "Subject: s\r\n"), 550, true),
        ("a pass that the server refuses", passing.clone().to(&["refused@rcpt.example"]), 554, true),
        ("refused for its form", passing.field(" continuation\r\n"), 554, true),
    ];
    let mut kept = 0.0;
    for (n, (case, letter, code, is_kept)) in cases.into_iter().enumerate() {
        let outcome = world.send(&letter).await;
        assert_eq!(outcome.reply.code, code, "{case}: {}", outcome.reply);
        let id = id(&world, n + 1).await;
        if is_kept {
            kept += 1.0;
            let story = story(&world, &id).await;
            assert!(story.contains(&outcome.reply.to_string().trim_end().replace("\r\n", " / ")), "{case}: {story}");
        }
        let written = world.gate.metrics().await.value("dmarcgate_store_explanations_written_total");
        assert_eq!(written, kept, "{case}");
        if !is_kept {
            let output = explain(&world, &id, &[]).await;
            assert_eq!(output.status.code(), Some(1), "{case}");
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(message.contains(&format!("nothing is kept about {id}: it may")), "{message}");
        }
    }
}

#[tokio::test]
async fn local_parts_are_not_kept_where_the_operator_drops_them() {
    for (rule, expected) in [("full", "some.body@"), ("drop", "-@")] {
        let configure = |config: ConfigText| config.set("log.personal_data", rule);
        let world = World::unprobed(Script::with_xclient(), zone(), configure).await;
        let letter = Letter::new(BAD, "some.body@reject.example").to(&["any.body@rcpt.example"]);
        world.send(&letter).await.reply.assert(550);
        let story = story(&world, &id(&world, 1).await).await;
        assert!(story.contains(&format!("{expected}reject.example")), "{story}");
        assert_eq!(story.contains("any.body"), rule == "full", "{story}");
    }
}

#[tokio::test]
async fn nothing_of_peers_steers_the_terminal() {
    let world = world().await;
    let header = "From: \u{1b}[2J <a@evil.example>\r\nMessage-ID: <\u{1b}[1m>\r\n";
    world.send(&Letter::with_header(BAD, "a@evil.example", header)).await;
    let story = story(&world, &id(&world, 1).await).await;
    assert!(!story.contains('\u{1b}') && !story.contains('\u{7}'), "{story}");
    assert!(story.contains("\\u{1b}[2J"), "{story}");
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let world = World::start(zone(), |config| config.set("explain.enabled", false)).await;
    world.send(&Letter::new(BAD, "a@reject.example")).await;
    let output = explain(&world, &id(&world, 1).await, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("explain.enabled is false"), "{output:?}");
}

#[tokio::test]
async fn what_was_kept_before_the_stop_can_be_told_after_it() {
    let world = world().await;
    let mut ids = Vec::new();
    for n in 1..=20 {
        world.send(&Letter::new(BAD, "a@reject.example")).await;
        ids.push(id(&world, n).await);
    }
    let World { gate, .. } = world;
    let (status, directory) = gate.stop().await;
    assert!(status.success());
    for id in ids {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
        command.args(["explain", &id, "--config"]).arg(directory.path().join("dmarcgate.toml"));
        let output = command.output().expect("cargo has built the binary");
        assert!(output.status.success(), "{output:?}");
    }
}
