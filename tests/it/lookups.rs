//! How often DNS is asked, and when: one question for all who wait, all of it beside the transfer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::client::{Client, encode};
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Manner, RecordType, Zone};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const CLIENT: &str = "192.0.2.10";

/// A domain whose mail takes every kind of question: SPF by address and include, two keys, the walk up from a subdomain
/// without a record, and its existence, which `np` makes matter; the address is asked for in both lanes.
fn zone() -> Zone {
    Zone::new()
        .txt("news.big.example", "v=spf1 a mx include:spf.big.example -all")
        .a("news.big.example", "192.0.2.99")
        .mx("news.big.example", 10, "mx.big.example")
        .a("mx.big.example", "192.0.2.98")
        .txt("spf.big.example", "v=spf1 ip4:192.0.2.0/28 -all")
        .txt("_dmarc.big.example", "v=DMARC1; p=reject; sp=reject; np=none")
        .txt("one._domainkey.big.example", &SigningKey::ed25519().record())
        .txt("two._domainkey.news.big.example", &SigningKey::rsa().record())
        .ptr(CLIENT, "client.big.example")
        .a("client.big.example", CLIENT)
}

/// The questions that such a message takes.
const QUESTIONS: [(&str, RecordType); 12] = [
    ("news.big.example", RecordType::TXT),
    ("news.big.example", RecordType::A),
    ("news.big.example", RecordType::MX),
    ("mx.big.example", RecordType::A),
    ("spf.big.example", RecordType::TXT),
    ("one._domainkey.big.example", RecordType::TXT),
    ("two._domainkey.news.big.example", RecordType::TXT),
    ("_dmarc.news.big.example", RecordType::TXT),
    ("_dmarc.big.example", RecordType::TXT),
    ("_dmarc.example", RecordType::TXT),
    ("10.2.0.192.in-addr.arpa", RecordType::PTR),
    ("client.big.example", RecordType::A),
];

fn letter(n: usize) -> Letter {
    let sender = format!("n{n}@news.big.example");
    let letter = Letter::new(CLIENT, &sender);
    let content = format!(
        "From: {sender}\r\nTo: you@rcpt.example\r\nSubject: letter {n}\r\n\r\n{}Body {n}.\r\n",
        "A line of some length, so that the body is not the whole of it.\r\n".repeat(20)
    );
    let once = Signer::new(SigningKey::ed25519(), "big.example", "one").sign(content.as_bytes());
    letter.content(Signer::new(SigningKey::rsa(), "news.big.example", "two").sign(&once))
}

/// How often each question was asked.
fn counts(dns: &DnsServer) -> HashMap<(String, RecordType), usize> {
    let mut counts = HashMap::new();
    for asked in dns.asked() {
        *counts.entry((asked.spelled.to_ascii_lowercase(), asked.record_type)).or_default() += 1;
    }
    counts
}

/// Sockets for both ends of a thousand sessions.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(8192, |maximum| maximum.min(8192));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).expect("within the hard limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_messages_ask_each_question_once() {
    raise_limit();
    let configure = |c: ConfigText| c.set("upstream.connections", 2000).set("dns.timeout", "20s");
    let world = Arc::new(World::start(zone(), configure).await);
    // The cache is as cold as it can be: nothing is answered before all have asked.
    world.dns.turn(Manner::Holding);
    let all_have_sent = Arc::new(Barrier::new(SENDERS + 1));
    let mut senders = JoinSet::new();
    for n in 0..SENDERS {
        let (world, all_have_sent) = (Arc::clone(&world), Arc::clone(&all_have_sent));
        senders.spawn(async move {
            let letter = letter(n);
            let mut client = Client::introduced(world.gate.address(), &letter.ip, &letter.helo).await;
            client.command(&format!("MAIL FROM:<{}>", letter.sender)).await.assert(250);
            client.command("RCPT TO:<you@rcpt.example>").await.assert(250);
            client.command("DATA").await.assert(354);
            client.send(&encode(&letter.content)).await;
            all_have_sent.wait().await;
            client.read_reply().await.code
        });
    }
    all_have_sent.wait().await;
    world.dns.turn(Manner::Slow(Duration::from_millis(20)));
    while let Some(code) = senders.join_next().await {
        assert_eq!(code.expect("no panic"), 250);
    }
    let counts = counts(&world.dns);
    let repeated = counts.iter().filter(|(_, count)| **count != 1).collect::<Vec<_>>();
    assert!(repeated.is_empty(), "{repeated:?}");
    for (name, record_type) in ["news.big.example", "_dmarc.big.example"].map(|name| (name, RecordType::TXT)) {
        assert_eq!(counts.get(&(name.to_owned(), record_type)), Some(&1), "{name}");
    }
    assert_eq!(counts.get(&("news.big.example".to_owned(), RecordType::A)), Some(&1), "for SPF and for np alike");
    let scrape = world.gate.metrics().await;
    let queries = ["a", "aaaa", "mx", "ptr", "txt"]
        .map(|kind| scrape.value(&format!("dmarcgate_dns_queries_total{{type=\"{kind}\"}}")));
    assert_eq!(queries.iter().sum::<f64>(), f64::from(u32::try_from(counts.len()).unwrap()));
}

const SENDERS: usize = 1000;

#[tokio::test]
async fn all_is_known_of_a_message_before_its_final_dot() {
    let world = World::start(zone(), |c| c).await;
    let letter = letter(1);
    let wire = encode(&letter.content);
    let header = wire.windows(4).position(|octets| octets == b"\r\n\r\n").expect("a header section") + 4;
    let (first, rest) = wire.split_at(header + 100);

    let mut client = Client::introduced(world.gate.address(), &letter.ip, &letter.helo).await;
    client.command(&format!("MAIL FROM:<{}>", letter.sender)).await.assert(250);
    client.command("RCPT TO:<you@rcpt.example>").await.assert(250);
    client.command("DATA").await.assert(354);
    client.send(first).await;
    // Half of the body is still to come, and every question is asked and answered.
    for (name, record_type) in QUESTIONS {
        world.dns.wait_for(name, record_type, 1).await;
    }
    world.wait_for_count("dmarcgate_dns_outstanding", 0.0).await;
    world.dns.turn(Manner::Dead);
    let asked = world.dns.asked().len();

    client.send(rest).await;
    client.read_reply().await.assert(250);
    let relayed = world.upstream.wait_for_messages(1).await.remove(0);
    let header = String::from_utf8_lossy(&relayed.content).into_owned();
    for result in ["spf=pass", "dmarc=pass"] {
        assert!(header.contains(result), "{result} in\n{header}");
    }
    assert_eq!(header.matches("dkim=pass").count(), 2, "{header}");
    assert!(!header.contains("temperror"), "{header}");
    assert_eq!(world.dns.asked().len(), asked, "no question was left for the end");
}

#[tokio::test]
async fn name_servers_that_fall_silent_are_told_and_so_is_their_return() {
    let change = |c: ConfigText| c.set("dns.timeout", "20ms").set("policy.mode", "monitor");
    let world = World::start(Zone::new(), change).await;
    world.dns.turn(Manner::Dead);
    for number in 0..5 {
        let letter = Letter::new(CLIENT, &format!("me@silent{number}.example"));
        assert!(world.send(&letter).await.summary().starts_with("250"));
    }
    let line = world.gate.wait_for_log("no name server answers").await;
    assert!(line.contains("\"level\":\"WARN\""), "{line}");
    world.dns.turn(Manner::Ready);
    world.send(&Letter::new(CLIENT, "me@loud.example")).await;
    world.gate.wait_for_log("name servers answer again").await;
    assert_eq!(world.gate.log().iter().filter(|line| line.contains("no name server answers")).count(), 1);
}

/// Not a test of right and wrong, but a measurement: `cargo test --test it -- --ignored --nocapture at_the_dot`.
#[tokio::test]
#[ignore = "a measurement"]
async fn time_at_the_dot_beside_relaying_alone() {
    let rounds = 40;
    let mut medians = Vec::new();
    for (case, bypass) in [("relaying alone", true), ("evaluated, DNS at 50 ms, cold", false)] {
        let trusted = if bypass { vec!["192.0.2.0/24"] } else { Vec::new() };
        let mut times = Vec::new();
        let mut ready = Vec::new();
        for n in 0..rounds {
            // A gate of its own each time, so that its cache is cold.
            let world = World::start(zone(), |c| c.set("bypass.trusted_networks", trusted.clone())).await;
            world.dns.turn(Manner::Slow(Duration::from_millis(50)));
            let letter = letter(n);
            let wire = encode(&letter.content);
            let (first, dot) = wire.split_at(wire.len() - 5);
            let mut client = Client::introduced(world.gate.address(), &letter.ip, &letter.helo).await;
            client.command(&format!("MAIL FROM:<{}>", letter.sender)).await.assert(250);
            client.command("RCPT TO:<you@rcpt.example>").await.assert(250);
            client.command("DATA").await.assert(354);
            client.send(first).await;
            let begun = Instant::now();
            if !bypass {
                for (name, record_type) in QUESTIONS {
                    world.dns.wait_for(name, record_type, 1).await;
                }
                world.wait_for_count("dmarcgate_dns_outstanding", 0.0).await;
                ready.push(begun.elapsed());
            } else {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let begun = Instant::now();
            client.send(dot).await;
            client.read_reply().await.assert(250);
            times.push(begun.elapsed());
        }
        times.sort();
        ready.sort();
        let (median, most) = (times[rounds / 2], times[rounds * 95 / 100]);
        println!(
            "{case}: dot to reply {median:?} median, {most:?} at 95 %; DNS done after the header {:?}",
            ready.get(rounds / 2)
        );
        medians.push(median);
    }
    println!("the evaluation adds {:?}", medians[1].saturating_sub(medians[0]));
}
