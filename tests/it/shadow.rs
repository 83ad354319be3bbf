//! `[policy.shadow]`: a policy that is asked and never acted on, over real sockets; and the gate's verdict beside what
//! the upstream says.

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::gate::POLL;
use crate::support::rules::{DOT, Script, on};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    let spf = "v=spf1 ip4:192.0.2.0/24 -all";
    ["reject", "quarantine", "none"].into_iter().fold(Zone::new(), |zone, name| {
        let policy = format!("v=DMARC1; p={name}");
        zone.txt(&format!("{name}.example"), spf).txt(&format!("_dmarc.{name}.example"), &policy)
    })
}

/// An upstream that refuses mail to `refused@` and puts off mail to `later@`.
fn script() -> Script {
    Script::with_xclient()
        .rule(on(DOT).with("refused@").reply("554 5.7.1 spam"))
        .rule(on(DOT).with("later@").reply("451 4.3.0 later"))
}

async fn world(change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::unprobed(script(), zone(), change).await
}

/// The events of messages.
async fn events(world: &World, count: usize) -> Vec<Value> {
    let message = "\"message\":\"message\"";
    world.gate.wait_until_log(|lines| lines.iter().filter(|line| line.contains(message)).count() >= count).await;
    world.gate.events().into_iter().filter(|event| event["message"] == "message").collect()
}

/// What `reports shadow` says, once it has so many messages that were passed on: they are written in batches.
async fn summed_up(world: &World, messages: i64) -> Value {
    let (mut again, deadline) = (tokio::time::interval(POLL), tokio::time::Instant::now() + PATIENCE);
    loop {
        again.tick().await;
        let output = world.gate.run(&["reports", "shadow", "--since", "1d", "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let replies = told["replies"].as_array().expect("an array").iter();
        let number = |row: &Value, key: &str| row[key].as_i64().expect("a number");
        let counted =
            replies.map(|row| ["accepted", "refused", "deferred"].map(|key| number(row, key)).iter().sum::<i64>());
        if counted.sum::<i64>() == messages {
            return told;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {messages} messages: {told:#}");
    }
}

fn differences(active: &str, shadow: &str) -> String {
    format!("dmarcgate_shadow_differences_total{{active=\"{active}\",shadow=\"{shadow}\"}}")
}

#[tokio::test]
async fn monitor_with_a_shadow_that_enforces_acts_on_nothing_and_knows_the_numbers() {
    let world = world(|c| c.set("policy.mode", "monitor").set("policy.shadow.mode", "enforce")).await;
    let listed = Letter::new(BAD, "a@reject.example").field("List-Id: <l.lists.example>\r\n");
    let letters = [
        (Letter::new(GOOD, "a@reject.example"), "250", "same"),
        (Letter::new(BAD, "a@reject.example"), "250", "refused (fail_reject)"),
        (listed, "250", "tagged_quarantine (indirect_flow)"),
        (Letter::new(BAD, "a@quarantine.example"), "250", "tagged_quarantine (fail_quarantine)"),
        (Letter::new(BAD, "a@none.example"), "250", "same"),
        (Letter::new(BAD, "a@reject.example").to(&["refused@rcpt.example"]), "554", "refused (fail_reject)"),
        (
            Letter::new(BAD, "a@reject.example").to(&["postmaster@rcpt.example"]),
            "250",
            "tagged_quarantine (exempt_recipients)",
        ),
    ];
    for (count, (letter, done, shadow)) in letters.iter().enumerate() {
        let outcome = world.send(letter).await;
        // Nothing of the shadow is on the wire: no mark, no refusal of the gate's own.
        assert_eq!(outcome.reply.code.to_string(), *done, "{shadow}");
        assert_eq!(outcome.mark(), None);
        let event = &events(&world, count + 1).await[count];
        assert_eq!((&event["shadow"], &event["mode"]), (&Value::from(*shadow), &"monitor".into()));
    }
    world.wait_for_count("dmarcgate_shadow_compared_total", 7.0).await;
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value(&differences("passed_on", "refused")), 2.0);
    assert_eq!(scrape.value(&differences("passed_on", "tagged_quarantine")), 3.0);
    let all: f64 = scrape
        .0
        .lines()
        .filter_map(|line| {
            line.strip_prefix("dmarcgate_shadow_differences_total{")?.rsplit(' ').next()?.parse::<f64>().ok()
        })
        .sum();
    assert_eq!(all, 5.0, "nothing else differs");
    // What DMARC says of a message beside the upstream's reply.
    let replies = |verdict: &str, reply: &str| {
        scrape.value(&format!("dmarcgate_verdict_replies_total{{reply=\"{reply}\",verdict=\"{verdict}\"}}"))
    };
    assert_eq!((replies("pass", "accepted"), replies("fail", "accepted"), replies("fail", "refused")), (1.0, 5.0, 1.0));

    let told = summed_up(&world, 7).await;
    assert_eq!((&told["compared"], &told["different"]), (&7.into(), &5.into()));
    let numbers = |messages: i64, accepted: i64, refused: i64, more: Value| {
        let mut value = json!({ "messages": messages, "accepted": accepted, "refused": refused });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    let differences = json!([
        numbers(3, 3, 0, json!({ "active": "passed_on", "shadow": "tagged_quarantine" })),
        numbers(2, 1, 1, json!({ "active": "passed_on", "shadow": "refused" })),
    ]);
    assert_eq!(told["differences"], differences);
    let domains = json!([
        numbers(4, 3, 1, json!({ "name": "reject.example" })),
        numbers(1, 1, 0, json!({ "name": "quarantine.example" })),
    ]);
    assert_eq!(told["author_domains"], domains);
    assert_eq!(told["sources"], json!([numbers(5, 4, 1, json!({ "name": "198.51.100.0/24" }))]));
    assert_eq!(told["lists"], json!([numbers(1, 1, 0, json!({ "name": "l.lists.example" }))]));
    let pass = json!({ "verdict": "pass", "accepted": 1, "refused": 0, "deferred": 0 });
    let fail = json!({ "verdict": "fail", "accepted": 5, "refused": 1, "deferred": 0 });
    assert_eq!((&told["replies"][0], &told["replies"][2]), (&pass, &fail));

    let text = world.gate.run(&["reports", "shadow"]).await;
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    for line in [
        "7 messages compared, 5 would fare otherwise:\n",
        "in force           shadow              messages   accepted    refused\n",
        "passed_on          tagged_quarantine          3          3          0\n",
        "passed_on          refused                    2          1          1\n",
        "reject.example              4          3          1\n",
        "fail                    5          1          0\n",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
}

#[tokio::test]
async fn without_a_shadow_verdicts_and_replies_are_summed_up_all_the_same() {
    let world = world(|config| config).await;
    let to = |recipient: &'static str| Letter::new(GOOD, "a@reject.example").to(&[recipient]);
    assert_eq!(world.send(&to("you@rcpt.example")).await.reply.code, 250);
    assert_eq!(world.send(&to("refused@rcpt.example")).await.reply.code, 554);
    assert_eq!(world.send(&to("later@rcpt.example")).await.reply.code, 451);
    assert_eq!(world.send(&Letter::new(BAD, "a@reject.example")).await.reply.code, 550);
    let told = summed_up(&world, 3).await;
    let pass = json!({ "verdict": "pass", "accepted": 1, "refused": 1, "deferred": 1 });
    assert_eq!((&told["replies"][0], &told["compared"]), (&pass, &0.into()));
    let text = world.gate.run(&["reports", "shadow"]).await;
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains("No message was compared: there was no [policy.shadow].\n"), "{text}");
}

#[tokio::test]
async fn explain_and_check_tell_what_the_shadow_would_have_done() {
    let world = world(|c| c.set("policy.mode", "monitor").set("policy.shadow.mode", "enforce")).await;
    let letter = Letter::new(BAD, "a@reject.example");
    world.send(&letter).await.reply.assert(250);
    let id = events(&world, 1).await[0]["transaction"].as_str().expect("an id").to_owned();
    let story = crate::explain::story(&world, &id).await;
    let shadow = "Shadow policy, which is not acted on\n  enforce, reject = \"corroborated\": refused, which differs\n";
    for line in [shadow, "  monitor: passed on\n", "    rule          fail_reject\n", "    reply         550 5.7."] {
        assert!(story.contains(line), "{line:?} is missing in\n{story}");
    }
    let json = world.gate.run(&["explain", &id, "--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["shadow"]["fate"], "refused");
    assert_eq!((&json["decision"]["fate"], &json["decision"]["mode"]), (&"passed_on".into(), &"monitor".into()));

    let file = world.gate.directory().join("letter.eml");
    std::fs::write(&file, &letter.content).expect("a writable directory");
    let check = |more: &'static [&'static str]| {
        let file = file.display().to_string();
        let world = &world;
        async move {
            let client = ["check", &file, "--ip", BAD, "--helo", "x", "--mail-from", "a@reject.example"];
            world.gate.run(&[&client[..], more].concat()).await
        }
    };
    let told = check(&[]).await;
    assert_eq!(told.status.code(), Some(0), "the mode in force decides the exit code");
    let told = String::from_utf8(told.stdout).expect("UTF-8");
    assert!(told.contains(shadow), "{told}");
    let json: Value = serde_json::from_slice(&check(&["--json"]).await.stdout).expect("JSON");
    assert_eq!((&json["shadow"]["fate"], &json["fate"]), (&"refused".into(), &"passed_on".into()));
}

#[tokio::test]
async fn a_shadow_may_be_milder_than_what_is_in_force() {
    let world = world(|c| c.set("policy.reject", "always").set("policy.shadow.mode", "tag")).await;
    assert_eq!(world.send(&Letter::new(BAD, "a@reject.example")).await.summary(), "550");
    assert_eq!(world.send(&Letter::new(BAD, "a@quarantine.example")).await.summary(), "250 quarantine");
    let later = Letter::new(BAD, "a@quarantine.example").to(&["later@rcpt.example"]);
    assert_eq!(world.send(&later).await.reply.code, 451);
    let events = events(&world, 3).await;
    let shadows: Vec<_> = events.iter().map(|event| event["shadow"].as_str().unwrap()).collect();
    assert_eq!(shadows, ["tagged_reject (fail_reject)", "same", "same"]);
    world.wait_for_count(&differences("refused", "tagged_reject"), 1.0).await;
    let replies = "dmarcgate_verdict_replies_total";
    world.wait_for_count(&format!("{replies}{{reply=\"accepted\",verdict=\"fail_tagged\"}}"), 1.0).await;
    world.wait_for_count(&format!("{replies}{{reply=\"deferred\",verdict=\"fail_tagged\"}}"), 1.0).await;
}

#[tokio::test]
async fn a_reload_switches_the_shadow_on_and_off() {
    let mut world = world(|config| config.set("policy.mode", "monitor")).await;
    let letter = Letter::new(BAD, "a@reject.example");
    world.send(&letter).await.reply.assert(250);
    world.gate.reloaded(|config| config.set("policy.shadow.mode", "enforce")).await;
    world.send(&letter).await.reply.assert(250);
    world.gate.reloaded(|config| config.set("policy.shadow.mode", "tag")).await;
    world.send(&letter).await.reply.assert(250);
    world.gate.reloaded(|config| config.unset("policy.shadow")).await;
    world.send(&letter).await.reply.assert(250);
    let events = events(&world, 4).await;
    let shadows: Vec<_> = events.iter().map(|event| event["shadow"].as_str().unwrap()).collect();
    assert_eq!(shadows, ["", "refused (fail_reject)", "tagged_reject (fail_reject)", ""]);
    world.wait_for_count("dmarcgate_shadow_compared_total", 2.0).await;
}

#[tokio::test]
async fn for_a_shadow_no_host_name_is_looked_up() {
    let by_host = toml::Value::from(toml::Table::from_iter([
        ("host".to_owned(), toml::Value::from("client.example")),
        ("action".to_owned(), "pass".into()),
        ("note".to_owned(), "by name".into()),
    ]));
    let named = || zone().ptr(BAD, "mx.client.example").a("mx.client.example", BAD);
    let shadow_of = |identity: &'static str| {
        let by_host = by_host.clone();
        async move {
            let script = if identity == "none" { Script::default() } else { Script::with_xclient() };
            let world = World::unprobed(script, named(), |config| {
                config.set("upstream.identity", identity).set("policy.shadow.override", vec![by_host])
            })
            .await;
            let summary = world.send(&Letter::new(BAD, "a@reject.example")).await.summary();
            assert_eq!(summary, "550", "{identity}");
            let event = events(&world, 1).await.remove(0);
            let asked = world.dns.count("66.100.51.198.in-addr.arpa", RecordType::PTR);
            (event["shadow"].as_str().unwrap().to_owned(), asked > 0)
        }
    };
    // Nobody else wants to know: it does not fit.
    assert_eq!(shadow_of("none").await, ("same".to_owned(), false));
    // The upstream is told the name, so that it is known.
    assert_eq!(shadow_of("xclient").await, ("passed_on (override)".to_owned(), true));
}
