//! Failure reports on their way: a message that fails comes in, and its owner is told by a relay of the test's own.

use crate::delivery::BOUNCE;
use crate::sent::{evaluated, signing};
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::gate::Gate;
use crate::support::rules::{DOT, Script, on};
use crate::support::upstream::{Message, Upstream};
use crate::support::world::{Letter, Outcome, World, unfolded};

/// Nothing but what the zone says of `bank.example` speaks for this client.
const FORGER: &str = "203.0.113.66";

struct Site {
    world: World,
    relay: Upstream,
}

impl Site {
    async fn new(zone: Zone, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        Self::with_relay(Script::new(), zone, change).await
    }

    async fn with_relay(script: Script, zone: Zone, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        let relay = Upstream::start(script).await;
        let address = relay.address().to_string();
        let world = World::start(zone, |config| change(telling(config, address))).await;
        Self { world, relay }
    }

    /// Another gate on the same store.
    async fn another_gate(&self, change: impl FnOnce(ConfigText) -> ConfigText) -> Gate {
        let World { dns, upstream, gate } = &self.world;
        let store = format!("sqlite://{}", gate.directory().join("dmarcgate.db").display());
        let relay = self.relay.address().to_string();
        let config = |config| change(telling(config, relay)).set("store.url", store);
        Gate::start(upstream.address(), dns.address(), config).await
    }

    async fn send(&self, letter: &Letter) -> Outcome {
        self.world.send(letter).await
    }

    async fn wait_for(&self, outcome: &str, count: u32) {
        self.world.wait_for_count(&series(outcome), f64::from(count)).await;
    }

    async fn count(&self, outcome: &str) -> f64 {
        self.world.gate.metrics().await.value(&series(outcome))
    }
}

/// The configuration of a gate that sends failure reports over this relay.
fn telling(config: ConfigText, relay: String) -> ConfigText {
    config
        .set("policy.mode", "enforce")
        .set("reports.enabled", true)
        .set("reports.from", "reports@gate.example")
        .set("reports.organization", "Gate & Sons")
        .set("reports.relay", relay)
        .set("reports.relay_tls", "off")
        .set("reports.failure.enabled", true)
        .set("timeouts.upstream_command", "2s")
}

fn series(outcome: &str) -> String {
    format!("dmarcgate_failure_reports_total{{outcome=\"{outcome}\"}}")
}

/// A domain that refuses forgeries and wants to hear of them.
fn bank(tags: &str) -> Zone {
    Zone::new()
        .txt("bank.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.bank.example", &format!("v=DMARC1; p=reject; {tags}"))
}

fn forgery() -> Letter {
    let header =
        "From: \"The Bank\" <ceo@bank.example>\r\nTo: you@rcpt.example\r\nSubject: pay http://evil.example/\r\n";
    Letter::with_header(FORGER, "ceo@bank.example", header)
}

/// The header fields and the three parts of a report, each with its own header fields.
fn parts(message: &Message) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let text = String::from_utf8(message.content.clone()).expect("ASCII");
    assert!(text.is_ascii(), "{text}");
    let (header, body) = text.split_once("\r\n\r\n").expect("a header section");
    let header = unfolded(&format!("{header}\r\n"));
    let kind = value(&header, "Content-Type");
    assert!(kind.starts_with("multipart/report; report-type=feedback-report;"), "{kind}");
    let boundary = kind.split('"').nth(1).expect("a quoted boundary");
    let (body, end) = body.split_once(&format!("\r\n--{boundary}--\r\n")).expect("a last boundary");
    assert_eq!(end, "");
    let separator = format!("\r\n--{boundary}\r\n");
    let split = body.split(&separator).skip(1);
    let part = |part: &str| {
        let (header, body) = part.split_once("\r\n\r\n").expect("a header");
        (header.strip_prefix("Content-Type: ").expect("a type alone").to_owned(), body.to_owned())
    };
    (header, split.map(part).collect())
}

fn value(fields: &[(String, String)], name: &str) -> String {
    let found: Vec<_> = fields.iter().filter(|(known, _)| known == name).collect();
    let [(_, value)] = &found[..] else { panic!("{name}: {fields:?}") };
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_owner_of_a_forged_domain_is_told_at_once() {
    let site = Site::new(bank("fo=1; ruf=mailto:forensics@bank.example"), |config| config).await;
    site.send(&forgery()).await.reply.assert(550);
    site.wait_for("sent", 1).await;
    let messages = site.relay.messages();
    let [message] = &messages[..] else { panic!("{}", site.relay.transcript()) };
    site.relay.assert_clean();
    assert_eq!(
        (&*message.from, &message.recipients[..]),
        ("reports@gate.example", &["forensics@bank.example".to_owned()][..])
    );
    let (header, parts) = parts(message);
    for (name, expected) in [
        ("From", "\"Gate & Sons\" <reports@gate.example>"),
        ("To", "<forensics@bank.example>"),
        ("Subject", "DMARC failure report for bank.example"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
    ] {
        assert_eq!(value(&header, name), expected);
    }
    let kinds: Vec<_> = parts.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(kinds, ["text/plain; charset=us-ascii", "message/feedback-report", "text/rfc822-headers"]);
    let feedback = unfolded(&parts[1].1);
    for (name, expected) in [
        ("Feedback-Type", "auth-failure"),
        ("Version", "1"),
        ("Auth-Failure", "dmarc"),
        ("Identity-Alignment", "dkim, spf"),
        ("Delivery-Result", "reject"),
        ("SPF-DNS", "txt : bank.example : \"v=spf1 ip4:192.0.2.0/24 -all\""),
        ("Source-IP", FORGER),
        ("Reported-Domain", "bank.example"),
        ("Incidents", "1"),
    ] {
        assert_eq!(value(&feedback, name), expected);
    }
    assert!(value(&feedback, "User-Agent").starts_with("dmarcgate/"));
    assert!(value(&feedback, "Source-Port").parse::<u16>().is_ok());
    let results = value(&feedback, "Authentication-Results");
    assert!(results.starts_with("mx.gate.example; spf=fail ") && results.contains("dmarc=fail "), "{results}");
    let id = value(&feedback, "Original-Envelope-Id");
    assert!(site.world.gate.log().iter().any(|line| line.contains("\"message\"") && line.contains(&id)));
    let sender = value(&feedback, "Original-Mail-From");
    assert!(sender.ends_with("@bank.example>") && !sender.contains("ceo"), "{sender}");
    let evidence = unfolded(&parts[2].1);
    let code = sender.trim_start_matches('<').split('@').next().expect("a code").to_owned();
    assert_eq!(value(&evidence, "From"), format!("\"The Bank\" <{code}@bank.example>"));
    assert!(!value(&evidence, "To").contains("you@"));
    assert_eq!(value(&evidence, "Subject"), "pay hxxp://evil.example/");
}

#[tokio::test]
async fn a_whole_message_is_told_on_request() {
    let change = |config: ConfigText| {
        config
            .set("reports.failure.content", "message")
            .set("reports.failure.redact", false)
            .set("reports.bounce_domain", "bounces.gate.example")
            .set("policy.mode", "tag")
    };
    let site = Site::new(bank("ruf=mailto:f@bank.example"), change).await;
    let content = "From: ceo@bank.example\r\n\r\n.\r\n..two\r\nwrite to ceo@bank.example\r\n";
    let outcome = site.send(&forgery().content(content)).await;
    outcome.reply.assert(250);
    assert!(outcome.relayed().content.ends_with(content.as_bytes()), "it went on untouched");
    site.wait_for("sent", 1).await;
    let message = &site.relay.messages()[0];
    assert!(message.from.starts_with("r-f") && message.from.ends_with("@bounces.gate.example"), "{}", message.from);
    let (_, parts) = parts(message);
    assert_eq!(value(&unfolded(&parts[1].1), "Delivery-Result"), "delivered");
    assert_eq!((&*parts[2].0, &*parts[2].1), ("message/rfc822", content));
}

#[tokio::test]
async fn what_a_broken_signature_was_made_over_is_told_on_request() {
    let broken = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=bank.example; s=s1;\r\n h=from:subject; bh=AAAA; \
                  b=AAAA\r\n";
    let change = |config: ConfigText| config.set("reports.failure.redact", false);
    let mut site = Site::new(bank("ruf=mailto:f@bank.example"), change).await;
    for (n, (canonicalized, header, body)) in
        [("none", false, false), ("header", true, false), ("message", true, true)].into_iter().enumerate()
    {
        site.world.gate.reloaded(|config| config.set("reports.failure.canonicalized", canonicalized)).await;
        site.send(&forgery().field(broken)).await.reply.assert(550);
        site.wait_for("sent", u32::try_from(n + 1).expect("few")).await;
        let messages = site.relay.messages();
        let (_, parts) = parts(messages.last().expect("one was sent"));
        let feedback = unfolded(&parts[1].1);
        let is_there = |name: &str| feedback.iter().any(|(known, _)| known == name);
        assert_eq!(is_there("DKIM-Canonicalized-Header"), header, "{canonicalized}: {feedback:?}");
        assert_eq!(is_there("DKIM-Canonicalized-Body"), body, "{canonicalized}: {feedback:?}");
        assert_eq!(value(&feedback, "DKIM-Domain"), "bank.example");
        assert_eq!(parts[2].0, "text/rfc822-headers", "the body is not shown for that");
        if header {
            // "from:"The Ban", and so on: RFC 6376 §3.7.
            assert!(value(&feedback, "DKIM-Canonicalized-Header").starts_with("ZnJvbToiVGhlIEJhb"), "{feedback:?}");
        }
    }
}

#[tokio::test]
async fn nobody_is_told_who_must_not_be() {
    let cases = [
        ("no consent elsewhere", bank("fo=1; ruf=mailto:f@other.example"), forgery(), Some("no_consent")),
        ("DNS in doubt", bank("fo=1; ruf=mailto:f@doubt.example"), forgery(), Some("unverified")),
        ("the sender itself", bank("fo=1; ruf=mailto:reports@gate.example"), forgery(), Some("own_address")),
        ("an operator's word", bank("fo=1; ruf=mailto:f@denied.example"), forgery(), Some("denied")),
        ("a public suffix", bank("psd=y; fo=1; ruf=mailto:f@bank.example"), forgery(), None),
        ("another fo", bank("fo=d; ruf=mailto:f@bank.example"), forgery(), None),
        ("no ruf", bank("fo=1; rua=mailto:f@bank.example"), forgery(), None),
        ("a null reverse-path", bank("fo=1; ruf=mailto:f@bank.example"), forgery().sender(""), None),
        (
            "sent by a machine",
            bank("fo=1; ruf=mailto:f@bank.example"),
            forgery().field("Auto-Submitted: auto-generated\r\n"),
            None,
        ),
        ("mail about reports", bank("fo=1; ruf=mailto:f@bank.example"), forgery().to(&["reports@gate.example"]), None),
    ];
    for (name, zone, letter, outcome) in cases {
        let zone = ["gate", "denied"].into_iter().fold(zone, |zone, consents| {
            zone.txt(&format!("bank.example._report._dmarc.{consents}.example"), "v=DMARC1")
        });
        let zone = zone
            .txt("witness.example", "v=spf1 -all")
            .txt("_dmarc.witness.example", "v=DMARC1; p=reject; ruf=mailto:w@witness.example")
            .serv_fail("bank.example._report._dmarc.doubt.example", crate::support::dns::RecordType::TXT);
        let site = Site::new(zone, |config| config.set("reports.deny", vec!["denied.example"])).await;
        site.send(&letter).await;
        if let Some(outcome) = outcome {
            site.wait_for(outcome, 1).await;
        }
        // What comes after it is told, so it is not only late.
        let header = "From: a@witness.example\r\n";
        site.send(&Letter::with_header(FORGER, "a@witness.example", header)).await;
        site.wait_for("sent", 1).await;
        let messages = site.relay.messages();
        assert_eq!(messages.len(), 1, "{name}: {}", site.relay.transcript());
        assert_eq!(messages[0].recipients, ["w@witness.example"], "{name}");
    }
}

#[tokio::test]
async fn an_address_elsewhere_that_agrees_is_told() {
    let zone = bank("ruf=mailto:f@other.example").txt("bank.example._report._dmarc.other.example", "v=DMARC1");
    let site = Site::new(zone, |config| config).await;
    site.send(&forgery()).await;
    site.wait_for("sent", 1).await;
    assert_eq!(site.relay.messages()[0].recipients, ["f@other.example"]);
}

#[tokio::test]
async fn a_flood_makes_few_reports() {
    let site =
        Site::new(bank("ruf=mailto:f@bank.example"), |config| config.set("reports.failure.per_domain_per_hour", 2))
            .await;
    for _ in 0..5 {
        site.send(&forgery()).await.reply.assert(550);
    }
    site.wait_for("held_back", 3).await;
    site.wait_for("sent", 2).await;
    assert_eq!(site.relay.messages().len(), 2);
}

#[tokio::test]
async fn reports_that_wait_count_for_the_spools_memory_and_take_no_more_than_their_part_of_it() {
    const CONSENT: &str = "bank.example._report._dmarc.slow.example";
    const MEMORY: &str = "dmarcgate_spool_memory_bytes";
    let zone = bank("ruf=mailto:f@slow.example").txt(CONSENT, "v=DMARC1").delay(CONSENT, RecordType::TXT);
    let change = |config: ConfigText| config.set("spool.memory", "1MiB").set("dns.timeout", "30s");
    let site = Site::new(zone, change).await;
    let letter = forgery().field(&format!("X-Fill: {}\r\n", "x".repeat(900)).repeat(60));
    for _ in 0..4 {
        site.send(&letter).await.reply.assert(550);
    }
    // Four units of 16 KiB each, where eight are for failure reports.
    site.wait_for("lost", 2).await;
    site.world.wait_for_count(MEMORY, f64::from(2 * 4 * 16_384)).await;
    assert_eq!(site.count("sent").await, 0.0);
    site.world.dns.release(CONSENT, RecordType::TXT);
    site.wait_for("sent", 2).await;
    site.world.wait_for_count(MEMORY, 0.0).await;
}

/// A forger with a domain of his own has subdomains, records and addresses as he likes.
#[tokio::test]
async fn subdomains_and_fresh_addresses_do_not_multiply_reports() {
    let names: Vec<_> = (0..8).map(|n| format!("z{n}.w.example")).collect();
    let zone = names.iter().enumerate().fold(Zone::new().txt("w.example", "v=spf1 -all"), |zone, (n, name)| {
        let to = format!("mailto:a{n}@{name},mailto:b{n}@{name},mailto:c{n}@w.example");
        zone.txt(&format!("_dmarc.{name}"), &format!("v=DMARC1; p=reject; psd=n; ruf={to}"))
            .txt(&format!("{name}._report._dmarc.w.example"), "v=DMARC1")
    });
    let change = |config: ConfigText| config.set("reports.failure.per_destination_per_hour", 6);
    let site = Site::new(zone, change).await;
    let from: Vec<_> = names.iter().take(2).map(|name| format!("x@{name}")).collect();
    let letter = Letter::with_header(FORGER, "x@w.example", &format!("From: {}\r\n", from.join(", ")));
    // All addresses of one author domain's record, and none of the other's.
    for sent in [3, 6] {
        site.send(&letter).await;
        site.wait_for("sent", sent).await;
        site.wait_for("repeated", sent).await;
    }
    site.send(&letter).await;
    site.wait_for("capped", 6).await;
    for name in &names[2..] {
        site.send(&Letter::with_header(FORGER, "x@w.example", &format!("From: x@{name}\r\n"))).await;
    }
    site.wait_for("held_back", 2).await;
    assert_eq!(site.relay.messages().len(), 6, "{}", site.relay.transcript());
}

#[tokio::test]
async fn each_address_of_a_record_is_told() {
    let zone = bank("ruf=mailto:one@bank.example,mailto:two@bank.example,mailto:three@sub.bank.example");
    let site = Site::new(zone, |config| config).await;
    site.send(&forgery()).await.reply.assert(550);
    site.wait_for("sent", 3).await;
    let mut told: Vec<_> = site.relay.messages().into_iter().flat_map(|message| message.recipients).collect();
    told.sort();
    assert_eq!(told, ["one@bank.example", "three@sub.bank.example", "two@bank.example"]);
}

/// An hour is too long for a test: here the operator raises the limits.
#[tokio::test]
async fn a_report_says_for_how_many_failures_it_stands() {
    let change = |config: ConfigText| config.set("reports.failure.per_domain_per_hour", 1);
    let mut site = Site::new(bank("ruf=mailto:f@bank.example"), change).await;
    for _ in 0..3 {
        site.send(&forgery()).await.reply.assert(550);
    }
    site.wait_for("held_back", 2).await;
    site.world.gate.reloaded(|config| config.set("reports.failure.per_domain_per_hour", 2)).await;
    site.send(&forgery()).await.reply.assert(550);
    site.wait_for("sent", 2).await;
    assert_eq!(incidents(&site), ["1", "3"]);
}

#[tokio::test]
async fn an_address_that_many_domains_name_has_a_limit_of_its_own() {
    let names = ["one", "two", "three"];
    let zone = names.iter().fold(Zone::new(), |zone, name| {
        zone.txt(&format!("{name}.example"), "v=spf1 -all")
            .txt(&format!("_dmarc.{name}.example"), "v=DMARC1; p=reject; ruf=mailto:f@reader.example")
            .txt(&format!("{name}.example._report._dmarc.reader.example"), "v=DMARC1")
    });
    let mut site = Site::new(zone, |config| config.set("reports.failure.per_address_per_hour", 1)).await;
    let forged = |name: &str| {
        let author = format!("a@{name}.example");
        Letter::with_header(FORGER, &author, &format!("From: {author}\r\n"))
    };
    site.send(&forged("one")).await.reply.assert(550);
    site.wait_for("sent", 1).await;
    for (n, name) in ["two", "three", "two"].iter().enumerate() {
        site.send(&forged(name)).await.reply.assert(550);
        site.wait_for("held_back", u32::try_from(n + 1).expect("few")).await;
    }
    site.world.gate.reloaded(|config| config.set("reports.failure.per_address_per_hour", 2)).await;
    site.send(&forged("two")).await.reply.assert(550);
    site.wait_for("sent", 2).await;
    // Those of the third domain are another matter.
    assert_eq!(incidents(&site), ["1", "3"]);
}

/// For how many failures each report stands.
fn incidents(site: &Site) -> Vec<String> {
    let messages = site.relay.messages();
    messages.iter().map(|message| value(&unfolded(&parts(message).1[1].1), "Incidents")).collect()
}

#[tokio::test]
async fn a_signed_report_passes_dmarc_where_it_arrives() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let site = Site::new(bank("ruf=mailto:f@bank.example"), |config| signing(config, directory.path())).await;
    site.send(&forgery()).await.reply.assert(550);
    site.wait_for("sent", 1).await;
    let message = site.relay.messages().remove(0);
    let outcome = evaluated(&message.from, message.content).await;
    outcome.reply.assert(250);
    let results = outcome.results();
    assert_eq!(results.of("dkim").iter().filter(|result| result.starts_with("pass ")).count(), 2, "{results:?}");
    assert!(results.one("dmarc").starts_with("pass "), "{results:?}");
}

#[tokio::test]
async fn a_relay_that_fails_is_tried_again_and_one_that_refuses_is_heeded() {
    let script = Script::new()
        .rule(on(DOT).once().reply("451 later"))
        .rule(on("RCPT").with("gone@").reply("550 5.1.1 no such user"));
    let zone = bank("ruf=mailto:f@bank.example,mailto:gone@other.example")
        .txt("bank.example._report._dmarc.other.example", "v=DMARC1");
    let site = Site::with_relay(script, zone, |config| config).await;
    site.send(&forgery()).await;
    site.wait_for("destination_refused", 1).await;
    assert_eq!(site.count("sent").await, 1.0);
    let messages = site.relay.messages();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].content, messages[1].content, "the very same report");
    site.send(&forgery()).await;
    site.wait_for("suppressed", 1).await;
}

/// A night in which the mail server has lost its `mynetworks` is not the owners' fault.
#[tokio::test]
async fn a_relay_that_does_not_relay_for_the_gate_silences_nobody() {
    let script = Script::new().rule(on("RCPT").once().reply("550 5.7.54 Unable to relay"));
    let site = Site::with_relay(script, bank("ruf=mailto:f@bank.example"), |config| config).await;
    site.send(&forgery()).await.reply.assert(550);
    site.wait_for("sent", 1).await;
    assert_eq!(site.count("destination_refused").await, 0.0);
    assert_eq!(site.relay.messages().len(), 1);
    let listed = site.world.gate.run(&["reports", "suppressions", "list", "--json"]).await;
    assert_eq!(String::from_utf8(listed.stdout).expect("UTF-8"), "");
}

#[tokio::test]
async fn a_bounce_quiets_the_address_whichever_gate_it_comes_to() {
    let change = |config: ConfigText| config.set("reports.bounce_domain", "bounces.gate.example");
    let site = Site::new(bank("ruf=mailto:f@bank.example"), change).await;
    let other = site.another_gate(change).await;
    site.send(&forgery()).await.reply.assert(550);
    site.wait_for("sent", 1).await;
    let address = site.relay.messages()[0].from.clone();
    let mut client = Client::introduced(other.address(), FORGER, "mx.bank.example").await;
    for (action, status, expected) in [("delayed", "4.4.1", "sent"), ("failed", "5.1.1", "suppressed")] {
        let content = BOUNCE.replace("ACTION", action).replace("STATUS", status);
        client.deliver("", &[&address], content.as_bytes()).await.outcome().assert(250);
        site.send(&forgery()).await.reply.assert(550);
        let count = if expected == "sent" { 2 } else { 1 };
        site.wait_for(expected, count).await;
    }
    let listed = other.run(&["reports", "suppressions", "list", "--json"]).await;
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    assert!(listed.contains(r#""address":"f@bank.example""#), "{listed}");
    assert_eq!(site.relay.messages().len(), 2);
}

#[tokio::test]
async fn failure_reports_are_off_by_default_and_switched_while_the_gate_runs() {
    let unset = |config: ConfigText| config.unset("reports.failure.enabled");
    let mut site = Site::new(bank("ruf=mailto:f@bank.example"), unset).await;
    site.send(&forgery()).await;
    site.world.gate.reloaded(|config| config.set("reports.failure.enabled", true)).await;
    site.send(&forgery()).await;
    site.wait_for("sent", 1).await;
    assert_eq!(site.relay.messages().len(), 1);
    // The master switch stands above it.
    site.world.gate.reloaded(|config| config.set("reports.enabled", false)).await;
    site.send(&forgery()).await;
    site.world.gate.reloaded(|config| config.set("reports.enabled", true)).await;
    site.send(&forgery()).await;
    site.wait_for("sent", 2).await;
    assert_eq!(site.relay.messages().len(), 2);
}
