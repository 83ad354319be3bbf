//! The examples of RFC 9989 over sockets, each by name: what the RFC says of a message is what the upstream reads.

use std::fmt::Write as _;

use crate::rows::{column, written};
use crate::support::dns::{RecordType, Zone};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, Outcome, World};

/// A client that SPF lets send for every domain that publishes [`SPF`], and one that it does not.
const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";
const SPF: &str = "v=spf1 ip4:192.0.2.0/24 -all";

/// The RFC's own letter: `sender` in MAIL FROM, `author` in From.
fn letter(ip: &str, sender: &str, author: &str) -> Letter {
    let header = format!(
        "From: {author}\r\nDate: Fri, Feb 15 2002 16:54:30 -0800\r\nTo: receiver@example.org\r\n\
         Subject: here's a sample\r\n"
    );
    Letter::with_header(ip, sender, &header)
}

/// A letter that passes no SPF, with a signature of `domain` that is good.
fn signed(author: &str, domain: &str) -> Letter {
    let letter = letter(BAD, "x@unrelated.example", author);
    let content = Signer::new(SigningKey::rsa(), domain, "s").sign(&letter.content);
    letter.content(content)
}

/// Everyone publishes SPF and a key; nobody a policy.
fn senders(names: &[&str]) -> Zone {
    names.iter().fold(Zone::new(), |zone, name| {
        zone.txt(name, SPF).txt(&format!("s._domainkey.{name}"), &SigningKey::rsa().record())
    })
}

/// What the RFC's three organizations publish.
fn example() -> Zone {
    senders(&["example.com", "child.example.com", "mail.example.com", "signing.example.com", "example.net"])
}

fn policy(zone: Zone, name: &str, record: &str) -> Zone {
    zone.txt(&format!("_dmarc.{name}"), record)
}

async fn send(zone: Zone, letter: &Letter) -> Outcome {
    World::start(zone, |c| c).await.send(letter).await
}

/// The one dmarc= result without header.from.
fn dmarc(outcome: &Outcome) -> String {
    let result = outcome.results().one("dmarc");
    result.split(" header.from=").next().unwrap_or_default().to_owned()
}

/// The names below `_dmarc` that were asked for, each once, in the order of the RFC: from the longest up.
fn walked(world: &World) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for asked in world.dns.asked() {
        let name = asked.spelled.to_ascii_lowercase();
        if let Some(name) = name.strip_prefix("_dmarc.").map(str::to_owned)
            && asked.record_type == RecordType::TXT
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names.sort_by_key(|name| std::cmp::Reverse(name.split('.').count()));
    names
}

#[tokio::test]
async fn rfc9989_4_10_a_name_of_thirteen_labels_is_walked_in_eight_questions() {
    let author = "a.b.c.d.e.f.g.h.i.j.mail.example.com";
    let world = World::start(Zone::new(), |c| c).await;
    let outcome = world.send(&letter(BAD, "x@unrelated.example", &format!("x@{author}"))).await;
    assert_eq!(dmarc(&outcome), "none");
    let expected = [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
        "h.i.j.mail.example.com",
        "i.j.mail.example.com",
        "j.mail.example.com",
        "mail.example.com",
        "example.com",
        "com",
    ];
    assert_eq!(walked(&world), expected);
}

#[tokio::test]
async fn rfc9989_4_10_2_examples_of_organizational_domains() {
    // What is published; who signs; whether that is aligned with an author at a.mail.example.com.
    let cases: [(&str, &[(&str, &str)], &str, &str); 5] = [
        (
            "two records: the upper one",
            &[("mail.example.com", "v=DMARC1; p=reject"), ("example.com", "v=DMARC1; p=reject")],
            "example.com",
            "pass",
        ),
        (
            "psd=n ends the organization",
            &[("mail.example.com", "v=DMARC1; p=reject; psd=n"), ("example.com", "v=DMARC1; p=reject")],
            "example.com",
            "refused",
        ),
        ("psd=n begins one", &[("mail.example.com", "v=DMARC1; p=reject; psd=n")], "mail.example.com", "pass"),
        ("psd=y at the top: one label below", &[("com", "v=DMARC1; p=reject; psd=y")], "example.com", "pass"),
        ("psd=y at the top: not itself", &[("com", "v=DMARC1; p=reject; psd=y")], "evil.com", "refused"),
    ];
    for (name, records, signer, expected) in cases {
        let zone = senders(&["example.com", "mail.example.com", "evil.com"]);
        let zone = records.iter().fold(zone, |zone, (at, record)| policy(zone, at, record));
        let outcome = send(zone, &signed("x@a.mail.example.com", signer)).await;
        match expected {
            "pass" => assert_eq!(dmarc(&outcome), "pass policy.dmarc=reject", "{name}"),
            _ => assert_eq!(outcome.summary(), "550", "{name}"),
        }
    }
}

#[tokio::test]
async fn rfc9989_5_1_8_a_zone_cut_below_the_jump_is_never_seen() {
    let author = "mail.a.b.c.d.e.f.g.example.com";
    let zone = policy(example(), "b.c.d.e.f.g.example.com", "v=DMARC1; p=reject; psd=n");
    let zone = policy(zone, "example.com", "v=DMARC1; p=quarantine").a(author, GOOD);
    let world = World::start(zone, |c| c).await;
    let outcome = world.send(&letter(BAD, "x@unrelated.example", &format!("x@{author}"))).await;
    assert_eq!(outcome.summary(), "250 quarantine");
    assert_eq!(dmarc(&outcome), "fail policy.dmarc=quarantine");
    let expected = [
        "mail.a.b.c.d.e.f.g.example.com",
        "c.d.e.f.g.example.com",
        "d.e.f.g.example.com",
        "e.f.g.example.com",
        "f.g.example.com",
        "g.example.com",
        "example.com",
        "com",
    ];
    assert_eq!(walked(&world), expected);

    // The remedy that the RFC names: a record at the author domain itself.
    world.dns.change(|zone| policy(zone, "mail.a.b.c.d.e.f.g2.example.com", "v=DMARC1; p=reject"));
    let outcome = world.send(&letter(BAD, "x@unrelated.example", "x@mail.a.b.c.d.e.f.g2.example.com")).await;
    assert_eq!(outcome.summary(), "550");
}

#[tokio::test]
async fn rfc9989_7_2_a_refusal_names_dmarc_and_the_domain() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject");
    let outcome = send(zone, &letter(BAD, "x@unrelated.example", "x@example.com")).await;
    assert_eq!(outcome.reply.code, 550);
    assert!(outcome.reply.text().starts_with("5.7.1 "), "{}", outcome.reply);
    assert!(outcome.reply.says("DMARC policy for example.com"), "{}", outcome.reply);
}

#[tokio::test]
async fn rfc9989_11_5_each_author_domain_is_checked_and_the_strictest_failure_rules() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject");
    let zone = policy(zone, "example.net", "v=DMARC1; p=quarantine");
    let world = World::start(zone, |c| c).await;
    // (From, MAIL FROM, what comes of it): the first address passes, or the second, or none.
    let both = "x@example.com, y@example.net";
    let cases =
        [(both, "x@example.com", "250 quarantine"), (both, "y@example.net", "550"), (both, "z@else.example", "550")];
    for (author, sender, expected) in cases {
        assert_eq!(world.send(&letter(GOOD, sender, author)).await.summary(), expected, "{sender}");
    }
    // More than the bound: not evaluated in part, but refused.
    let many = (0..11).fold(String::new(), |mut list, i| {
        let _ = write!(list, "{}x@d{i}.example", if i == 0 { "" } else { ", " });
        list
    });
    world.dns.forget();
    assert_eq!(world.send(&letter(GOOD, "x@example.com", &many)).await.summary(), "550");
    assert_eq!(walked(&world), Vec::<String>::new(), "no policy is asked for");
}

#[tokio::test]
async fn rfc9989_11_8_who_holds_a_subdomain_speaks_for_all_under_relaxed_alignment() {
    let zone = || senders(&["evil.example.com"]);
    let forgery = letter(GOOD, "x@evil.example.com", "foo@example.com");
    let relaxed = policy(zone(), "example.com", "v=DMARC1; p=reject");
    assert_eq!(dmarc(&send(relaxed, &forgery).await), "pass policy.dmarc=reject");
    let strict = policy(zone(), "example.com", "v=DMARC1; p=reject; aspf=s");
    assert_eq!(send(strict, &forgery).await.summary(), "550", "the remedy that the RFC names");
}

#[tokio::test]
async fn rfc9989_11_8_psd_n_keeps_a_neighbour_out_where_the_parent_has_a_record() {
    let zone = senders(&["mail.example.com"]);
    let zone =
        policy(zone, "example.com", "v=DMARC1; p=reject").a("evil.example.com", BAD).a("a.mail.example.com", GOOD);
    let forgery = letter(GOOD, "x@mail.example.com", "x@evil.example.com");
    let honest = letter(GOOD, "x@mail.example.com", "x@a.mail.example.com");
    // What goes wrong where the owner says nothing: the parent is the organizational domain of both.
    let unstated = policy(zone.clone(), "mail.example.com", "v=DMARC1; p=reject");
    assert_eq!(dmarc(&send(unstated, &forgery).await), "pass policy.dmarc=reject");
    let stated = policy(zone, "mail.example.com", "v=DMARC1; p=reject; psd=n");
    assert_eq!(send(stated.clone(), &forgery).await.summary(), "550");
    assert_eq!(dmarc(&send(stated, &honest).await), "pass policy.dmarc=reject");
}

#[tokio::test]
async fn rfc9989_a_3_the_sender_field_is_never_used() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject");
    let zone = policy(zone, "example.net", "v=DMARC1; p=reject");
    let forged = letter(GOOD, "x@example.net", "x@example.com").field("Sender: x@example.net\r\n");
    let honest = letter(GOOD, "x@example.com", "x@example.com").field("Sender: x@example.net\r\n");
    assert_eq!(send(zone.clone(), &forged).await.summary(), "550");
    assert_eq!(dmarc(&send(zone, &honest).await), "pass policy.dmarc=reject");
}

#[tokio::test]
async fn rfc9989_a_4_any_record_makes_a_domain_exist_and_nxdomain_alone_does_not() {
    let zone = policy(Zone::new(), "example.com", "v=DMARC1; p=none; np=reject");
    let zone = zone.aaaa("six.example.com", "2001:db8::1").mx("mx.example.com", 10, "mx.example.net");
    let zone =
        zone.txt("text.example.com", "hello").ptr("192.0.2.1", "host.example.com").txt("x.node.example.com", "y");
    let world = World::start(zone, |c| c).await;
    for name in ["six", "mx", "text", "node", "x.node"] {
        let outcome = world.send(&letter(BAD, "x@unrelated.example", &format!("x@{name}.example.com"))).await;
        assert_eq!(dmarc(&outcome), "fail policy.dmarc=none", "{name}");
    }
    for name in ["ghost", "below.six"] {
        let outcome = world.send(&letter(BAD, "x@unrelated.example", &format!("x@{name}.example.com"))).await;
        assert_eq!(outcome.summary(), "550", "{name}");
    }
}

#[tokio::test]
async fn rfc9989_a_6_and_c_5_2_historic_tags_change_nothing() {
    let plain = "v=DMARC1; p=reject";
    for record in ["v=DMARC1; p=reject; pct=0", "v=DMARC1; p=reject; pct=50; ri=86400; rf=afrf", plain] {
        let outcome =
            send(policy(example(), "example.com", record), &letter(BAD, "x@e.example", "x@example.com")).await;
        assert_eq!(outcome.summary(), "550", "{record}");
    }
    let testing = policy(example(), "example.com", "v=DMARC1; p=reject; t=y");
    let outcome = send(testing, &letter(BAD, "x@e.example", "x@example.com")).await;
    assert_eq!(outcome.summary(), "250 quarantine", "t=y takes the place of pct=0");
}

#[tokio::test]
async fn rfc9989_b_1_1_example_1_spf_in_strict_alignment() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject; aspf=s");
    let outcome = send(zone, &letter(GOOD, "sender@example.com", "sender@example.com")).await;
    assert_eq!(dmarc(&outcome), "pass policy.dmarc=reject");
}

#[tokio::test]
async fn rfc9989_b_1_1_example_2_spf_in_relaxed_alignment() {
    let sample = letter(GOOD, "sender@child.example.com", "sender@example.com");
    let relaxed = policy(example(), "example.com", "v=DMARC1; p=reject");
    assert_eq!(dmarc(&send(relaxed, &sample).await), "pass policy.dmarc=reject");
    let strict = policy(example(), "example.com", "v=DMARC1; p=reject; aspf=s");
    assert_eq!(send(strict, &sample).await.summary(), "550");
}

#[tokio::test]
async fn rfc9989_b_1_1_example_3_no_spf_alignment() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject");
    let sample = letter(GOOD, "sender@example.net", "sender@child.example.com");
    assert_eq!(send(zone, &sample).await.summary(), "550");
}

#[tokio::test]
async fn rfc9989_b_1_2_example_1_dkim_in_strict_alignment() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject; adkim=s");
    let outcome = send(zone, &signed("sender@example.com", "example.com")).await;
    assert_eq!(dmarc(&outcome), "pass policy.dmarc=reject");
}

#[tokio::test]
async fn rfc9989_b_1_2_example_2_dkim_in_relaxed_alignment() {
    let sample = signed("sender@child.example.com", "example.com");
    let relaxed = policy(example(), "example.com", "v=DMARC1; p=reject");
    assert_eq!(dmarc(&send(relaxed, &sample).await), "pass policy.dmarc=reject");
    let strict = policy(example(), "example.com", "v=DMARC1; p=reject; adkim=s");
    assert_eq!(send(strict, &sample).await.summary(), "550");
}

#[tokio::test]
async fn rfc9989_b_1_2_example_3_no_dkim_alignment() {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject");
    assert_eq!(send(zone, &signed("sender@child.example.com", "example.net")).await.summary(), "550");
}

/// One column of the only row.
async fn row(world: &World, name: &str) -> String {
    written(&world.gate, 1).await;
    column(world.gate.directory(), name).await
}

/// A failing letter under the strings of a zone file at `_dmarc.<at>`; and the record as the row has it.
async fn published(at: &str, strings: &[&str], author: &str) -> (Outcome, String) {
    let world = World::start(example().txt_strings(&format!("_dmarc.{at}"), strings), |c| c).await;
    let outcome = world.send(&letter(BAD, "x@unrelated.example", author)).await;
    let record = row(&world, "policy_record").await;
    (outcome, record)
}

#[tokio::test]
async fn rfc9989_b_2_1_entire_domain_monitoring_mode() {
    let strings = ["v=DMARC1; p=none; ", "rua=mailto:dmarc-feedback@example.com"];
    let (outcome, record) = published("example.com", &strings, "x@example.com").await;
    assert_eq!((outcome.summary().as_str(), dmarc(&outcome).as_str()), ("250", "fail policy.dmarc=none"));
    assert_eq!(record, strings.concat());
}

#[tokio::test]
async fn rfc9989_b_2_2_failure_reports_are_asked_for() {
    let strings =
        ["v=DMARC1; p=none; ", "rua=mailto:dmarc-feedback@example.com; ", "ruf=mailto:auth-reports@example.com"];
    let (outcome, record) = published("example.com", &strings, "x@example.com").await;
    assert_eq!(dmarc(&outcome), "fail policy.dmarc=none");
    assert_eq!(record, strings.concat());
}

#[tokio::test]
async fn rfc9989_b_2_3_failure_reports_go_to_a_third_party() {
    let strings = [
        "v=DMARC1; p=none; ",
        "rua=mailto:dmarc-feedback@example.com; ",
        "ruf=mailto:auth-reports@thirdparty.example.net",
    ];
    let (outcome, record) = published("example.com", &strings, "x@example.com").await;
    assert_eq!(dmarc(&outcome), "fail policy.dmarc=none");
    assert_eq!(record, strings.concat());
}

#[tokio::test]
async fn rfc9989_b_2_5_a_subdomain_under_test_and_afterwards() {
    let rua = ["rua=mailto:dmarc-feedback@example.com,", "mailto:tld-test@thirdparty.example.net"];
    let testing = ["v=DMARC1; p=quarantine; ", rua[0], "mailto:tld-test@thirdparty.example.net; ", "t=y"];
    let (outcome, _) = published("test.example.com", &testing, "x@test.example.com").await;
    assert_eq!((outcome.summary().as_str(), dmarc(&outcome).as_str()), ("250", "fail policy.dmarc=none"));
    let meant = ["v=DMARC1; p=reject; ", rua[0], rua[1]];
    let (outcome, _) = published("test.example.com", &meant, "x@test.example.com").await;
    assert_eq!(outcome.summary(), "550");
    // It is applied to this subdomain alone.
    let (outcome, _) = published("test.example.com", &meant, "x@example.com").await;
    assert_eq!(dmarc(&outcome), "none");
}

#[tokio::test]
async fn rfc9989_b_3_1_the_session_passes_by_both_identifiers() {
    let record = "v=DMARC1; p=reject; aspf=r;\n rua=mailto:dmarc-feedback@example.com".replace('\n', "");
    let zone = policy(example(), "example.com", &record);
    let sample = letter(GOOD, "sender@mail.example.com", "sender@example.com");
    let content = Signer::new(SigningKey::rsa(), "example.com", "s").sign(&sample.content);
    let world = World::start(zone.clone(), |c| c).await;
    let outcome = world.send(&sample.content(content)).await;
    assert_eq!(dmarc(&outcome), "pass policy.dmarc=reject");
    assert_eq!((row(&world, "dkim_aligned").await, row(&world, "spf_aligned").await), ("pass".into(), "pass".into()));

    // The three replies to DATA: 5xx for a failure, 4xx for doubt, the upstream's for a pass.
    let failing = letter(BAD, "sender@mail.example.com", "sender@example.com");
    assert_eq!(world.send(&failing).await.reply.code, 550);
    let doubtful = World::start(zone.serv_fail("mail.example.com", RecordType::TXT), |c| c).await;
    assert_eq!(doubtful.send(&failing).await.reply.code, 451);
}

/// What came of an example of B.4.
struct Walked {
    dmarc: String,
    /// Alignment of DKIM and SPF, and the policy domain, as the row has them.
    row: [String; 3],
    names: Vec<String>,
}

/// Sends what the examples of B.4 receive.
async fn walks(zone: Zone, author: &str, sender: &str, signer: &str) -> Walked {
    let world = World::start(zone, |c| c).await;
    let sample = letter(GOOD, &format!("x@{sender}"), &format!("x@{author}"));
    let content = Signer::new(SigningKey::rsa(), signer, "s").sign(&sample.content);
    let dmarc = dmarc(&world.send(&sample.content(content)).await);
    let mut columns = Vec::new();
    for name in ["dkim_aligned", "spf_aligned", "policy_domain"] {
        columns.push(row(&world, name).await);
    }
    Walked { dmarc, row: columns.try_into().expect("three of them"), names: walked(&world) }
}

fn with_two_policies() -> Zone {
    let zone = policy(example(), "example.com", "v=DMARC1; p=reject");
    policy(zone, "signing.example.com", "v=DMARC1; p=quarantine")
}

#[tokio::test]
async fn rfc9989_b_4_1_simple_organizational_and_policy_example() {
    let found = walks(with_two_policies(), "example.com", "example.com", "signing.example.com").await;
    assert_eq!(found.dmarc, "pass policy.dmarc=reject");
    assert_eq!(found.row, ["pass", "pass", "example.com"]);
    assert_eq!(found.names, ["signing.example.com", "example.com", "com"]);
}

#[tokio::test]
async fn rfc9989_b_4_2_deep_tree_walk_example() {
    let author = "a.b.c.d.e.f.g.h.i.j.k.example.com";
    let found = walks(with_two_policies(), author, "example.com", "signing.example.com").await;
    assert_eq!(found.dmarc, "pass policy.dmarc=reject");
    assert_eq!(found.row, ["pass", "pass", "example.com"]);
    let expected = [
        author,
        "g.h.i.j.k.example.com",
        "h.i.j.k.example.com",
        "i.j.k.example.com",
        "j.k.example.com",
        "k.example.com",
        "signing.example.com",
        "example.com",
        "com",
    ];
    let mut sorted = found.names;
    sorted.sort_by_key(|name| (std::cmp::Reverse(name.split('.').count()), name.starts_with('s')));
    assert_eq!(sorted, expected);
}

#[tokio::test]
async fn rfc9989_b_4_3_example_with_a_psd_policy_record() {
    let zone = senders(&["giant.bank.example", "mail.giant.bank.example", "mail.mega.bank.example"]);
    let zone = policy(zone, "bank.example", "v=DMARC1; p=reject; psd=y");
    let zone = policy(zone, "giant.bank.example", "v=DMARC1; p=quarantine");
    let sender = "mail.giant.bank.example";
    let found = walks(zone, "giant.bank.example", sender, "mail.mega.bank.example").await;
    assert_eq!(found.dmarc, "pass policy.dmarc=quarantine");
    assert_eq!(found.row, ["fail", "pass", "giant.bank.example"], "the organization's record is the policy");
}
