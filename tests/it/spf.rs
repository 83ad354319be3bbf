//! SPF of both identities, and what is written about it.

use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::results::ReceivedSpf;
use crate::support::rules::Script;
use crate::support::world::{Letter, Outcome, World, unfolded};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    Zone::new()
        .txt("bank.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject")
        .txt("evil.example", "v=spf1 ip4:198.51.100.0/24 -all")
        .txt("mail.evil.example", "v=spf1 ~all")
}

/// Sends a letter whose EHLO name has been asked for: no message waits for it, but one with a null reverse-path does.
async fn send(world: &World, letter: &Letter) -> Outcome {
    world.send(&letter.clone().sender("")).await;
    world.send(letter).await
}

#[tokio::test]
async fn both_identities_are_told_and_one_counts() {
    let world = World::start(zone(), |c| c).await;
    let letter = Letter::new(GOOD, "a@bank.example").helo("mail.evil.example");
    let outcome = send(&world, &letter).await;
    let results = outcome.results();
    assert_eq!(results.of("spf"), ["pass smtp.mailfrom=bank.example", "softfail smtp.helo=mail.evil.example"]);
    assert_eq!(results.of("dmarc"), ["pass policy.dmarc=reject header.from=bank.example"]);
    let event = world.gate.wait_for_log("\"spf_helo\":\"softfail:mail.evil.example (helo: matched)\"").await;
    assert!(event.contains("\"spf\":\"pass:bank.example (mailfrom: matched)\""), "{event}");
    // The name that the client gives itself passes for the author's domain, and speaks for nothing.
    let zone = zone().txt("mail.bank.example", "v=spf1 ip4:198.51.100.66 -all");
    let world = World::start(zone, |c| c).await;
    let forged = Letter::new(BAD, "a@bank.example").sender("x@evil.example").helo("mail.bank.example");
    assert_eq!(send(&world, &forged).await.summary(), "550");
    world.gate.wait_for_log("\"spf_helo\":\"pass:mail.bank.example (helo: matched)\"").await;
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_spf_helo_results_total{result=\"pass\"}"), 1.0);
    // Those of the two reverse-paths: the null one, and that of the forger's own domain.
    assert_eq!(scrape.value("dmarcgate_spf_results_total{result=\"pass\"}"), 2.0);
}

#[tokio::test]
async fn a_null_reverse_path_and_a_literal_have_one_result() {
    let world = World::start(zone(), |c| c).await;
    let bounce = world.send(&Letter::new(GOOD, "a@bank.example").sender("").helo("bank.example")).await;
    assert_eq!(bounce.results().of("spf"), ["pass smtp.helo=bank.example"]);
    assert_eq!(bounce.results().one("dmarc"), "pass policy.dmarc=reject header.from=bank.example");
    let literal = world.send(&Letter::new(GOOD, "a@bank.example").helo("[192.0.2.10]")).await;
    assert_eq!(literal.results().of("spf"), ["pass smtp.mailfrom=bank.example"]);
}

#[tokio::test]
async fn one_name_for_both_is_asked_for_once() {
    let world = World::start(zone(), |c| c).await;
    let outcome = world.send(&Letter::new(GOOD, "a@bank.example").helo("bank.example")).await;
    let expected = ["pass smtp.mailfrom=bank.example", "pass smtp.helo=bank.example"];
    assert_eq!(outcome.results().of("spf"), expected);
    assert_eq!(world.dns.count("bank.example", RecordType::TXT), 1);
}

#[tokio::test]
async fn no_message_waits_for_the_name_of_its_client() {
    let zone = zone().time_out("slow.example", RecordType::TXT);
    // Far longer than the harness waits for anything.
    let world = World::start(zone, |c| c.set("dns.timeout", "1m")).await;
    let outcome = world.send(&Letter::new(GOOD, "a@bank.example").helo("slow.example")).await;
    let results = outcome.results();
    assert_eq!(results.of("spf"), ["pass smtp.mailfrom=bank.example", "temperror smtp.helo=slow.example"]);
    assert!(outcome.added().contains("reason=\"not finished when all"), "{}", outcome.added());
    // Not even where nothing else is known: a failure is a failure.
    let forged = Letter::new(BAD, "a@bank.example").helo("slow.example");
    assert_eq!(world.send(&forged).await.summary(), "550");
}

#[tokio::test]
async fn the_name_of_the_client_uses_up_no_look_up_of_the_message() {
    let hosts = |zone: Zone, name: &str| {
        let host = |n| format!("h{n}.{name}");
        (0..10).fold(zone, |zone, n| zone.mx(name, 10, &host(n)).a(&host(n), BAD))
    };
    let zone = ["m1.example", "m2.example", "m3.example", "own.example"].into_iter().fold(zone(), hosts);
    let zone = zone
        .txt("costly.example", "v=spf1 mx:m1.example mx:m2.example mx:m3.example -all")
        .txt("own.example", "v=spf1 mx ip4:192.0.2.10 -all")
        .txt("_dmarc.own.example", "v=DMARC1; p=reject");
    let world = World::start(zone, |c| c.set("limits.lookups", 20)).await;
    let outcome = world.send(&Letter::new(GOOD, "a@own.example").helo("costly.example")).await;
    let spf = outcome.results().of("spf");
    assert_eq!(spf[0], "pass smtp.mailfrom=own.example");
    // It needs more than its thirty.
    assert_eq!(spf[1], "temperror smtp.helo=costly.example");
    assert_eq!(outcome.results().one("dmarc"), "pass policy.dmarc=reject header.from=own.example");
}

#[tokio::test]
async fn received_spf_is_written_on_request() {
    let configure = |c: ConfigText| {
        c.set("results.received_spf", true)
            .set("upstream.identity", "received")
            .set("bypass.trusted_networks", vec!["203.0.113.0/24"])
    };
    let world = World::unprobed(Script::new(), zone(), configure).await;
    let letter = Letter::new(BAD, "a@bank.example").sender("\"a;b=c \\\" (d\"@evil.example").helo("mail.evil.example");
    let letter = letter.content(b"From: x@none.example\r\nReceived-SPF: pass (theirs)\r\n\r\ntext\r\n");
    let outcome = world.send(&letter).await;
    let fields = unfolded(&outcome.added());
    let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Authentication-Results", "Received-SPF", "Received"]);
    let found = ReceivedSpf::read(&fields[1].1);
    let pairs = [
        ("identity", "mailfrom"),
        ("client-ip", BAD),
        ("envelope-from", "\"a;b=c \\\" (d\"@evil.example"),
        ("helo", "mail.evil.example"),
        ("receiver", "mx.gate.example"),
        ("mechanism", "ip4:198.51.100.0/24"),
    ];
    assert_eq!(found.pairs, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!((found.result.as_str(), found.comment.as_str()), ("pass", "mx.gate.example: matched"));
    let trusted = world.send(&Letter::new("203.0.113.5", "a@bank.example")).await;
    assert!(!trusted.added().contains("Received-SPF"), "{}", trusted.added());
}

#[tokio::test]
async fn records_as_dns_carries_them() {
    let zone = Zone::new()
        // RFC 7208 §3.3: the strings of one record are joined as they are.
        .txt_strings("split.example", &["v=spf1 ip4:192.0.", "2.10 -a", "ll"])
        .txt_strings("space.example", &["v=spf1", "ip4:192.0.2.10 -all"])
        .cname("alias.example", "split.example")
        .cname("lost.example", "nowhere.example")
        .txt("included.example", "v=spf1 include:alias.example include:alias.example -all")
        // §4.5: one among others, and two.
        .txt("others.example", "hello")
        .txt("others.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("two.example", "v=spf1 +all")
        .txt("two.example", "v=spf1 +all")
        .cname("hosts.example", "both.example")
        .a("both.example", GOOD)
        .txt("a.example", "v=spf1 a:hosts.example -all")
        .refuse("refused.example", RecordType::TXT)
        .garbage("garbage.example", RecordType::TXT)
        .truncate("large.example", RecordType::TXT)
        .txt("large.example", &format!("v=spf1 {}ip4:192.0.2.10 -all", "ip4:198.51.100.0/24 ".repeat(100)));
    let world = World::start(zone, |c| c.set("dns.timeout", "250ms")).await;
    let cases = [
        ("split.example", "pass"),
        ("space.example", "none"),
        ("alias.example", "pass"),
        ("lost.example", "none"),
        ("included.example", "pass"),
        ("others.example", "pass"),
        ("two.example", "permerror"),
        ("a.example", "pass"),
        ("refused.example", "temperror"),
        ("garbage.example", "temperror"),
        ("large.example", "pass"),
        ("gone.example", "none"),
    ];
    for (domain, expected) in cases {
        let outcome = world.send(&Letter::new(GOOD, "x@none.example").sender(&format!("x@{domain}"))).await;
        assert_eq!(outcome.results().one("spf"), format!("{expected} smtp.mailfrom={domain}"), "{}", outcome.added());
    }
}
