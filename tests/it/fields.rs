//! The header fields that are added and removed: exactly those, on every path (RFC 8601 §5).

use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World, unfolded};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";
const TRUSTED: &str = "203.0.113.5";

fn zone() -> Zone {
    Zone::new()
        .txt("a.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.a.example", "v=DMARC1; p=quarantine")
        .txt("s._domainkey.a.example", &SigningKey::rsa().record())
}

fn trusting(config: ConfigText) -> ConfigText {
    config.set("bypass.trusted_networks", vec!["203.0.113.0/24", "2001:db8:1::/48"])
}

#[tokio::test]
async fn the_added_fields_are_exactly_these() {
    let world = World::start(zone(), |c| c.set("authserv_id", "fleet.example")).await;
    let letter = Letter::new(GOOD, "a@a.example");
    let signature = Signer::new(SigningKey::rsa(), "a.example", "s").set("i", "news@a.example").field(&letter.content);
    let start: String = signature.rsplit_once("b=").unwrap().1.chars().take(8).collect();
    // No message waits for its EHLO name, but one with a null reverse-path does: then the answer is at hand.
    world.send(&letter.clone().sender("")).await;
    let outcome = world.send(&letter.field(&signature)).await;
    let plain = |c: char| c.is_ascii_alphanumeric();
    let start = if start.chars().all(plain) || start.contains('+') && !start.contains('/') {
        start
    } else {
        format!("\"{start}\"")
    };
    let added = outcome.added();
    let expected = format!(
        "Authentication-Results: fleet.example;\r\n spf=pass smtp.mailfrom=a.example;\r\n \
         spf=none reason=\"domain does not exist\" smtp.helo=client.example;\r\n \
         dkim=pass header.d=a.example header.i=news@a.example header.s=s\r\n \
         header.a=rsa-sha256 header.b={start};\r\n \
         dmarc=pass (p=quarantine dis=pass) policy.dmarc=quarantine\r\n header.from=a.example\r\n"
    );
    assert_eq!(added, expected);
}

#[tokio::test]
async fn a_tagged_message_carries_results_with_an_id_and_the_mark() {
    let world = World::start(zone(), |c| c).await;
    let outcome = world.send(&Letter::new(BAD, "a@a.example")).await;
    let fields = unfolded(&outcome.added());
    let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Authentication-Results", "X-DMARC-Fail-policy"]);
    let results = outcome.results();
    assert_eq!(results.id, "mx.gate.example");
    assert_eq!((results.one("spf"), results.one("dkim")), ("fail smtp.mailfrom=a.example".into(), "none".into()));
    let comment = results.comments.iter().find(|c| c.contains("id=")).expect("an id for support");
    let id = comment.rsplit_once("id=").unwrap().1;
    world.gate.wait_for_log(&format!("\"transaction\":\"{id}\"")).await;
}

#[tokio::test]
async fn forged_results_and_marks_are_gone_and_those_of_others_stay() {
    let ours: &[&str] = &[
        "Authentication-Results: mx.gate.example; dmarc=pass header.from=a.example\r\n",
        "authentication-results: MX.Gate.Example; spf=pass\r\n",
        "Authentication-Results : mx.gate.example; spf=pass\r\n",
        "Authentication-Results\t:\tmx.gate.example 1; spf=pass\r\n",
        "Authentication-Results:\r\n mx.gate.example;\r\n\tspf=pass\r\n",
        "Authentication-Results: (a comment) mx.gate.example (another); none\r\n",
        "Authentication-Results: (a (nested) comment) mx.gate.example; none\r\n",
        "Authentication-Results: \"mx.gate.example\"; none\r\n",
        "Authentication-Results: mx.gate.example.; none\r\n",
        "Authentication-Results: mx.gate.example\r\n",
        "Authentication-Results: mx(c).gate.example; none\r\n",
        "Authentication-Results: mx . gate . example; none\r\n",
        "Authentication-Results: former.example; none\r\n",
        "Authentication-Results: mx.other.example 2; none\r\n",
        "X-DMARC-Fail-policy: none\r\n",
        "x-dmarc-fail-POLICY : reject\r\n",
        "X-DMARC-Fail-policy:\r\n quarantine\r\n",
        "X-DMARC-Fail-policy\0: none\r\n",
    ];
    let others: &[&str] = &[
        "Authentication-Results: mx.other.example; dmarc=pass header.from=a.example\r\n",
        "Authentication-Results: gate.example; none\r\n",
        "Authentication-Results: mx.other.example 1; none\r\n",
        "Authentication-Results: x.mx.gate.example; none\r\n",
        "ARC-Authentication-Results: i=1; mx.gate.example; none\r\n",
        "X-Authentication-Results: mx.gate.example; none\r\n",
        "Authentication-Results-Original: mx.gate.example; none\r\n",
        "X-DMARC-Fail-policy-Original: reject\r\n",
        "X-DMARC-Fail: reject\r\n",
        "Received: from x by mx.gate.example; Mon, 1 Jan 2024 00:00:00 +0000\r\n",
    ];
    let world = World::start(zone(), |c| trusting(c).set("strip_authserv_ids", vec!["former.example"])).await;
    for ip in [GOOD, BAD, TRUSTED, "2001:db8:1::25"] {
        for field in others {
            let letter = Letter::new(ip, "a@a.example").field(field);
            let outcome = world.send(&letter).await;
            outcome.added(); // what was sent follows octet by octet
            assert_eq!(outcome.reply.code, 250, "{field:?}");
        }
        for field in ours {
            let clean = Letter::new(ip, "a@a.example");
            let bottom = [b"X-Above: 1\r\n", field.as_bytes(), &clean.content].concat();
            for content in [clean.clone().field(field).content, bottom] {
                let above: &[u8] = if content.starts_with(b"X-Above") { b"X-Above: 1\r\n" } else { b"" };
                let outcome = world.send(&clean.clone().content(content)).await;
                // A NUL in the header section makes From unusable: refused is as good as removed.
                if outcome.reply.code == 550 && field.contains('\0') {
                    continue;
                }
                let added = outcome.added_to(&[above, &clean.content].concat());
                let results = added.matches("Authentication-Results: mx.gate.example").count();
                assert_eq!(results, 1, "{field:?} from {ip}: {added}");
            }
        }
    }
}

#[tokio::test]
async fn a_trusted_client_is_not_evaluated_but_what_it_forges_is_removed() {
    let world = World::start(zone(), trusting).await;
    for ip in [TRUSTED, "2001:db8:1::25", "::ffff:203.0.113.77"] {
        let letter = Letter::new(ip, "a@a.example").field("X-DMARC-Fail-policy: reject\r\n");
        let outcome = world.send(&letter).await;
        let added = outcome.added_to(&Letter::new(ip, "a@a.example").content);
        assert_eq!(added, "Authentication-Results: mx.gate.example; none\r\n", "{ip}");
    }
    // A From that nobody can read is theirs to send.
    let outcome = world.send(&Letter::with_header(TRUSTED, "a@a.example", "From: nobody\r\n")).await;
    assert_eq!(outcome.added(), "Authentication-Results: mx.gate.example; none\r\n");
    assert_eq!(world.dns.count("_dmarc.a.example", crate::support::dns::RecordType::TXT), 0);
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_bypassed_total{reason=\"trusted_network\"}"), 4.0);
    assert_eq!(scrape.value("dmarcgate_messages_total{outcome=\"accepted\"}"), 4.0);
    assert_eq!(scrape.value("dmarcgate_store_rows_appended_total"), 0.0);
    let event = world.gate.wait_for_log("\"bypass\":\"trusted_network\"").await;
    assert!(event.contains("\"client_ip\":\"203.0.113.5\"") && event.contains("\"dmarc\":\"\""), "{event}");
}

#[tokio::test]
async fn a_host_whose_results_are_kept_keeps_them() {
    let configure = |c: ConfigText| trusting(c).set("bypass.keep_results_from", vec!["203.0.113.0/28"]);
    let world = World::start(zone(), configure).await;
    let forged = "Authentication-Results: mx.gate.example; dmarc=fail header.from=a.example\r\n\
                  X-DMARC-Fail-policy: quarantine\r\n";
    let letter = Letter::new(TRUSTED, "a@a.example").field(forged);
    assert_eq!(world.send(&letter).await.added(), "Authentication-Results: mx.gate.example; none\r\n");
    let outcome = world.send(&Letter::new("203.0.113.99", "a@a.example").field(forged)).await;
    outcome.added_to(&Letter::new(TRUSTED, "a@a.example").content);
}

#[tokio::test]
async fn a_message_that_would_continue_our_field_is_refused() {
    let world = World::start(zone(), trusting).await;
    for ip in [GOOD, TRUSTED] {
        for start in [" x: y\r\n", "\t; dmarc=pass\r\n", " \r\n", "\rFrom: a@a.example\r\n"] {
            let outcome = world.send(&Letter::new(ip, "a@a.example").field(start)).await;
            assert_eq!(outcome.reply.code, 554, "{start:?}");
            assert!(outcome.reply.text().starts_with("5.6.0 ") && outcome.relayed.is_none(), "{}", outcome.reply);
        }
    }
}

#[tokio::test]
async fn our_results_stand_above_our_received() {
    let configure = |c: ConfigText| c.set("upstream.identity", "received");
    let world = World::unprobed(Script::new(), zone(), configure).await;
    let outcome = world.send(&Letter::new(BAD, "a@a.example")).await;
    let names: Vec<_> = unfolded(&outcome.added()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Authentication-Results", "X-DMARC-Fail-policy", "Received"]);
}

#[tokio::test]
async fn hostile_identifiers_write_nothing_but_what_they_are() {
    let key = SigningKey::rsa();
    let world = World::start(zone(), |c| c).await;
    let letter = Letter::new(GOOD, "a@a.example");
    let hostile = [
        ("s", "s; dmarc=pass header.from=bank.example"),
        ("s", "s (comment"),
        ("s", "\"s"),
        ("i", "\"a b; dmarc=pass\"@a.example"),
        ("i", "x@a.example (c)"),
        ("d", "a.example;dmarc=pass"),
        ("d", "a.example(.bank.example"),
        ("a", "rsa-sha256; dmarc=pass"),
        ("b", "a\"(;dmarc=pass"),
    ];
    for (tag, value) in hostile {
        let field = Signer::new(key, "a.example", "s").set(tag, value).field(&letter.content);
        let outcome = world.send(&letter.clone().field(&field)).await;
        let added = outcome.added();
        let results = outcome.results();
        assert_eq!(
            results.of("dmarc"),
            ["pass policy.dmarc=quarantine header.from=a.example"],
            "{tag}={value}: {added}"
        );
        assert_eq!(results.of("dkim").len(), 1, "{added}");
        assert!(added.lines().all(|line| line.len() <= 998 && line.is_ascii()), "{added}");
    }
}

#[tokio::test]
async fn lines_are_folded_at_78_where_words_allow() {
    let label = "a-label-of-a-good-length-that-is-still-allowed-by-everybody";
    let long = format!("{label}.{label}.{label}.example");
    let zone = zone().txt(&format!("_dmarc.{long}"), "v=DMARC1; p=quarantine");
    let world = World::start(zone, |c| c).await;
    let author = format!("a@{long}");
    let letter = Letter::new(BAD, &author).sender(&author).helo(&long);
    let outcome = world.send(&letter).await;
    for line in outcome.added().lines() {
        assert!(line.len() <= 78 || !line.trim_start().contains(' '), "{line:?}");
        assert!(line.len() <= 998);
    }
    assert_eq!(outcome.results().one("dmarc"), format!("fail policy.dmarc=quarantine header.from={long}"));
}
