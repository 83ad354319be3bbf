//! `dmarcgate check-upstream`: the built binary before scripted servers, one thing wrong with each.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::dns::{DnsServer, Zone};
use crate::support::rules::{GREETING, Hold, Script, on};
use crate::support::upstream::Upstream;

/// Runs the command before these servers, with `more` in its configuration.
async fn check(servers: &[String], identity: &str, more: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gate.toml");
    let text = format!(
        "hostname = \"mx.gate.example\"\n[upstream]\nservers = {servers:?}\nidentity = \"{identity}\"\n\
         [timeouts]\nupstream_command = \"2s\"\n{more}"
    );
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
    command.arg("check-upstream").args(arguments).arg("--config").arg(&path);
    // Not on this thread: the servers live on it.
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    output.expect("cargo has built the binary")
}

/// Exit code and what is told of one server as text and as JSON; nothing but questions may have come to it.
async fn asked(upstream: &Upstream, identity: &str, more: &str) -> (i32, String, Value) {
    let servers = [upstream.address().to_string()];
    let story = check(&servers, identity, more, &[]).await;
    let facts = check(&servers, identity, more, &["--json"]).await;
    assert!(story.stderr.is_empty() && facts.stderr.is_empty(), "{}", String::from_utf8_lossy(&story.stderr));
    assert_eq!(story.status.code(), facts.status.code());
    assert!(!upstream.commands().iter().any(|line| line == "DATA"), "{}", upstream.transcript());
    let story = String::from_utf8(story.stdout).expect("UTF-8");
    let facts: Value = serde_json::from_slice(&facts.stdout).expect("JSON");
    assert_eq!(facts["well"].as_bool(), facts_code(&facts));
    (i32::from(facts["well"] != true), story, facts["servers"][0].clone())
}

fn facts_code(facts: &Value) -> Option<bool> {
    let servers = facts["servers"].as_array()?;
    Some(servers.iter().all(|server| server["problems"].as_array().is_some_and(Vec::is_empty)))
}

const GUARDED: &str = "[smtp]\nrecipient_domains = [\"own.example\"]\n";

#[tokio::test]
async fn a_server_that_sees_the_client_and_guards_itself_is_well() {
    let script = Script::with_xclient().extension("STARTTLS").extension("VRFY").extension("X-ODD 1");
    let upstream = Upstream::start(script.rule(on("RCPT").reply("554 5.7.1 Relay access denied"))).await;
    let (code, story, server) = asked(&upstream, "auto", "").await;
    assert_eq!(code, 0, "{story}");
    assert!(story.ends_with("All is well.\n"), "{story}");
    assert_eq!(server["greeting"], "220 mta.example ESMTP scripted");
    assert_eq!(server["ehlo"][1], "PIPELINING");
    assert!(server["understood"].as_array().unwrap().contains(&json!("SIZE 104857600")), "{server}");
    assert_eq!(server["handover"]["sees_the_client"], true);
    assert_eq!(server["handover"]["xclient"][1], "ADDR");
    assert_eq!(server["relaying"], "refused, as it should be");
    assert_eq!((&server["consequences"], &server["remedies"]), (&json!([]), &json!([])));
    let words = |list: &str| -> Vec<String> {
        let all = server[list].as_array().unwrap().iter().map(|one| one["extension"].as_str().unwrap());
        all.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert!(words("offered").contains(&"8BITMIME".to_owned()), "{server}");
    for withheld in ["XCLIENT", "VRFY", "X-ODD"] {
        assert!(words("not_offered").contains(&withheld.to_owned()), "{withheld}: {server}");
    }
    assert!(server["tls"].as_str().unwrap().starts_with("STARTTLS is announced"), "{server}");
    let seen = upstream.connections();
    let told: Vec<_> = seen.iter().filter_map(|connection| connection.xclient.get("ADDR")).collect();
    assert_eq!(told, ["192.0.2.1", "IPV6:2001:db8::1", "192.0.2.1", "IPV6:2001:db8::1"]);
    upstream.assert_clean();
}

#[tokio::test]
async fn a_server_that_sees_the_gate_alone_is_told_to_get_things_wrong() {
    let postfix = Script::new().rule(on(GREETING).reply("220 mta.example ESMTP Postfix"));
    let upstream = Upstream::start(postfix).await;
    let (code, story, server) = asked(&upstream, "auto", "").await;
    assert_eq!(code, 1, "all mail would be deferred: {story}");
    assert_eq!(server["handover"]["sees_the_client"], false);
    for word in ["SPF", "block lists", "greylisting", "limits by address", "mynetworks", "log"] {
        assert!(story.contains(word), "{word}: {story}");
    }
    assert!(story.contains("smtpd_authorized_xclient_hosts = 127.0.0.1"), "{story}");
    assert!(!story.contains("hosts_proxy"), "it is not Exim: {story}");
    assert!(story.contains("PROBLEM") && story.contains("smtp.recipient_domains is not set"), "{story}");
    assert!(!upstream.commands().iter().any(|line| line.starts_with("MAIL")), "a stranger can't be shown to it");
    let small = Upstream::start(Script::with_xclient().extensions(&["XCLIENT ADDR"])).await;
    let (_, story, _) = asked(&small, "auto", "[smtp]\nrecipient_domains = [\"*\"]\n").await;
    assert!(story.lines().any(|l| l.contains("8BITMIME") && l.ends_with("the server does not announce it")), "{story}");
    // The gate guards the recipients: it works, and what is wrong is told all the same.
    for identity in ["auto", "received", "none"] {
        let (code, story, server) = asked(&upstream, identity, GUARDED).await;
        assert_eq!((code, server["problems"].clone()), (0, json!([])), "{identity}: {story}");
        assert_eq!(server["consequences"].as_array().map(Vec::len), Some(6), "{identity}");
    }
}

#[tokio::test]
async fn whether_bounces_of_reports_come_back_is_told() {
    let upstream = Upstream::start(Script::with_xclient().rule(on("RCPT").reply("554 5.7.1 no"))).await;
    let servers = [upstream.address().to_string()];
    let elsewhere = Zone::new().mx("bounces.gate.example", 10, "lb.example").a("lb.example", "192.0.2.77");
    let cases = [
        ("the gate's name", Zone::new().mx("bounces.gate.example", 10, "mx.gate.example"), true, "this gate"),
        ("another host", elsewhere, true, "bring them elsewhere"),
        ("nothing", Zone::new(), false, "PROBLEM       bounces to bounces.gate.example: it has neither MX"),
    ];
    for (name, zone, well, expected) in cases {
        let dns = DnsServer::start(zone).await;
        let more = format!(
            "[dns]\nservers = [\"{}\"]\n[reports]\nfrom = \"r@gate.example\"\nbounce_domain = \"bounces.gate.example\"\n",
            dns.address()
        );
        let story = check(&servers, "auto", &more, &[]).await;
        assert_eq!(story.status.code(), Some(if well { 0 } else { 1 }), "{name}");
        let story = String::from_utf8(story.stdout).expect("UTF-8");
        for part in
            [expected, "Bounces of reports, to bounces.gate.example", "bounces.gate.example smtp:[127.0.0.1]:2526"]
        {
            assert!(story.contains(part), "{name}: {part}: {story}");
        }
        let facts = check(&servers, "auto", &more, &["--json"]).await;
        let facts: Value = serde_json::from_slice(&facts.stdout).expect("JSON");
        assert_eq!(facts["well"], well, "{name}: {facts}");
        assert_eq!(facts["bounces"]["domain"], "bounces.gate.example", "{name}");
        assert_eq!(facts["bounces"]["problems"].as_array().map(Vec::is_empty), Some(well), "{name}");
    }
}

#[tokio::test]
async fn an_open_relay_and_a_refused_hand_over_are_problems() {
    let cases = [
        ("an open relay", Script::with_xclient(), "auto", "", "it relays for strangers to foreign domains"),
        ("no XCLIENT", Script::new(), "xclient", "", "XCLIENT ADDR is not announced to this gate"),
        (
            "XCLIENT refused",
            Script::with_xclient().rule(on("XCLIENT").reply("550 5.7.1 insufficient authorization")),
            "auto",
            "",
            "XCLIENT was refused: 550 5.7.1 insufficient authorization",
        ),
        ("PROXY v1 unknown", Script::new(), "proxy-v1", "", "the PROXY header was refused: 502"),
        ("no greeting", Script::new().rule(on(GREETING).close()), "auto", "", "no greeting"),
        (
            "a refusal",
            Script::new().rule(on(GREETING).reply("554 5.3.2 \x1b[31mno")),
            "auto",
            "",
            "greets with a refusal",
        ),
        (
            "a server that waits for PROXY",
            Script::new().rule(on(GREETING).hold(&Hold::new(), "")),
            "auto",
            "",
            "nothing came within 2s",
        ),
    ];
    for (case, script, identity, more, problem) in cases {
        let upstream = Upstream::start(script).await;
        let (code, story, server) = asked(&upstream, identity, more).await;
        assert_eq!(code, 1, "{case}: {story}");
        let problems = server["problems"].to_string();
        assert!(problems.contains(problem), "{case}: {problems}\n{story}");
        assert!(story.chars().all(|c| c == '\n' || !c.is_control()), "{case}: {story:?}");
    }
}

#[tokio::test]
async fn a_proxy_header_that_is_taken_and_a_relay_test_that_is_skipped_are_told() {
    for identity in ["proxy-v1", "proxy-v2"] {
        let upstream = Upstream::start(Script::new().proxy()).await;
        let (code, story, server) = asked(&upstream, identity, "[smtp]\nrecipient_domains = [\"*\"]\n").await;
        assert_eq!(code, 0, "{story}");
        assert_eq!(server["handover"]["sees_the_client"], true, "{server}");
        assert!(server["relaying"].as_str().unwrap().starts_with("skipped"), "{server}");
        assert!(!upstream.commands().iter().any(|line| line.starts_with("MAIL")));
        upstream.assert_clean();
    }
    let greylisting = Script::with_xclient().rule(on("RCPT").reply("450 4.2.0 later"));
    let (code, _, server) = asked(&Upstream::start(greylisting).await, "auto", "").await;
    assert!(code == 0 && server["relaying"].as_str().unwrap().starts_with("left open"), "{server}");
}

#[tokio::test]
async fn a_server_that_takes_no_clients_over_ipv6_is_warned_of_where_they_may_come() {
    let ipv4 = || on("XCLIENT").with("ADDR=IPV6:").reply("501 5.5.4 Bad ADDR syntax: IPV6:2001:db8::1");
    let refusal = || on("XCLIENT").with("ADDR=IPV6:").reply("554 5.7.1 not you");
    let both = "[smtp]\nrecipient_domains = [\"*\"]\n[[listener]]\naddress = \"[::1]:0\"\n";
    let four = "[smtp]\nrecipient_domains = [\"*\"]\n[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let cases = [("IPv6", both, ipv4(), true), ("no IPv6", four, ipv4(), false), ("a refusal", both, refusal(), false)];
    for (case, listeners, rule, is_warned_of) in cases {
        let upstream = Upstream::start(Script::with_xclient().rule(rule)).await;
        let (code, story, server) = asked(&upstream, "xclient", listeners).await;
        assert_eq!(code, 0, "{case}: {story}");
        assert_eq!(server["warnings"].to_string().contains("inet_protocols = all"), is_warned_of, "{case}: {server}");
        assert_eq!(story.contains("WARNING"), is_warned_of, "{case}: {story}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_stranger_is_asked_in_the_gate_s_name() {
    let cases = [
        ("bogons", on(GREETING).with("192.0.2.1").reply_and_close("554 5.7.1 bogon"), 0),
        ("everyone", on(GREETING).reply_and_close("554 5.7.1 go away"), 1),
    ];
    for (case, rule, expected) in cases {
        for identity in ["proxy-v1", "proxy-v2"] {
            let upstream = Upstream::start(Script::new().proxy().rule(rule.clone())).await;
            let (code, story, server) = asked(&upstream, identity, "").await;
            assert_eq!(code, expected, "{case}: {story}");
            let sees = server["handover"]["sees_the_client"].as_bool();
            assert_eq!(sees, (expected == 0).then_some(true), "{case}: {server}");
            assert_eq!(server["offered"].to_string().contains("8BITMIME"), expected == 0, "{case}: {server}");
        }
    }
}

#[tokio::test]
async fn every_server_is_tried_and_one_that_is_down_is_a_problem() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let small = Upstream::start(Script::with_xclient().extensions(&["SIZE 1000000"])).await;
    let good = Upstream::start(Script::with_xclient()).await;
    let servers = [nobody, small.address(), good.address()].map(|address| address.to_string());
    let any = "[smtp]\nrecipient_domains = [\"*\"]\n";
    let output = check(&servers, "auto", any, &[]).await;
    let story = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{story}");
    for server in &servers {
        assert!(story.contains(&format!("Server {server}\n")), "{story}");
    }
    assert!(story.contains("can't be reached: "), "{story}");
    let together = story.split_once("All servers together").expect("several").1;
    assert!(together.contains("SIZE 983616") && !together.contains("8BITMIME"), "{together}");

    let output = check(&["no-such-host.invalid:25".to_owned()], "auto", any, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let output = check(&[], "auto", any, &[]).await;
    assert_eq!(output.status.code(), Some(2), "no server: a wrong configuration");
}
