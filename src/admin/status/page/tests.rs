//! Pages of made-up facts: what stands where, what an empty gate says, and that no text of a peer becomes a tag.

use std::sync::Arc;

use super::*;
use crate::admin::status::facts::{Difference, Forwarder, Job, Lacking, Reported, SourceAddress, Tally};
use crate::admin::status::history::Minute;

const NOW: i64 = 1_767_225_600;

fn section<T>(found: T) -> Arc<Section<T>> {
    Arc::new(Section { read: Some(NOW - 5), days: 7, found: Some(found), error: None })
}

/// What a gate says that has just begun, over a store that was read.
fn empty() -> Facts {
    Facts {
        now: NOW,
        gate: Gate { hostname: Text::of("mx.example.net"), version: "1", ready: true, started: NOW, ..Gate::default() },
        mail: Mail::default(),
        refusals: Vec::new(),
        failing: section(Vec::new()),
        forwarders: section(Forwarders::default()),
        shadow: section(Shadow::default()),
        dns: Dns::default(),
        upstream: Upstream::default(),
        store: Store::default(),
        reports: section(Reports::default()),
        inbound: section(Inbound::default()),
    }
}

/// Facts whose every text of a peer is `text`.
fn full(text: &str) -> Facts {
    let text = || Text::of(text);
    let mut messages = [0; Outcome::ALL.len()];
    (messages[Outcome::Accepted.index()], messages[Outcome::Refused.index()]) = (1234, 7);
    let lacking = vec![Lacking { condition: "upstream", reason: text() }];
    let refused = Refused {
        id: Text::of("7ZK0Q4M1XW9TA"),
        arrived: NOW - 60,
        ip: "192.0.2.66".to_owned(),
        author_domain: Some(text()),
        outcome: "refused",
        reply: text(),
        explained: true,
    };
    let from = vec![SourceAddress { ip: text(), messages: 3 }];
    let failing = Failing { author_domain: text(), messages: 4, refused: 2, quarantined: 1, addresses: 3, from };
    let toml = Snippet("[[policy.override]]\n".to_owned());
    let (domain, identity) = (text(), "dkim");
    let forwarder = Forwarder {
        identity,
        domain,
        policy_domains: 6,
        days: 4,
        failed: 24,
        messages: 30,
        accepted: 20,
        refused: 0,
        toml,
    };
    let among = || Among { name: text(), messages: 5, accepted: 4, refused: 1 };
    let (active, shadow) = ("passed_on", "refused");
    let difference = Difference { active, shadow, messages: 5, accepted: 4, refused: 1 };
    let shadow = Shadow {
        compared: 50,
        different: 5,
        differences: vec![difference],
        author_domains: vec![among()],
        sources: vec![among()],
        replies: Vec::new(),
    };
    let job = Job {
        id: text(),
        begin: NOW,
        policy_domain: text(),
        destination: text(),
        state: "sent",
        attempts: 2,
        due: NOW,
        note: text(),
    };
    let states = vec![Tally { state: "sent", reports: 1, messages: 9 }];
    let reported =
        Reported { policy_domain: text(), ip: text(), messages: 9, failed: 8, reporters: 2, signers: text() };
    Facts {
        gate: Gate { hostname: text(), mode: text(), ready: false, lacking, ..empty().gate },
        mail: Mail { messages, minutes: vec![Minute { begins: NOW - 60, messages }], ..Mail::default() },
        refusals: vec![refused],
        failing: section(vec![failing]),
        forwarders: section(Forwarders { suggestions: vec![forwarder], is_cut: true }),
        shadow: section(shadow),
        reports: section(Reports { enabled: true, last_run: NOW - 300, states, latest: vec![job] }),
        inbound: section(Inbound {
            enabled: true,
            reports: 2,
            messages: 9,
            last_end: NOW,
            reporters: 2,
            sources: vec![reported],
        }),
        ..empty()
    }
}

#[test]
fn whatever_peers_write_stays_text() {
    let plain = full("a.example");
    for hostile in HOSTILE {
        let facts = full(hostile);
        for view in View::ALL {
            let (page, plain) = (page(*view, &facts), page(*view, &plain));
            assert_eq!(tags(&page), tags(&plain), "{view}: {hostile}");
            assert!(
                !page.contains(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\0')),
                "{view}"
            );
        }
        for name in API {
            let text = api(name, &facts).unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{name}: {hostile}");
        }
    }
}

/// What stands between `<` and `>`, up to the first space: names of tags, in their order; and the names of attributes.
fn tags(page: &str) -> Vec<String> {
    let names = |tag: &str| tag.split(['"']).step_by(2).collect::<String>();
    page.split('<').skip(1).map(|tag| names(tag.split('>').next().unwrap_or_default())).collect()
}

#[test]
fn the_overview_says_what_there_is() {
    let page = page(View::Overview, &full("a.example"));
    let expected = [
        "<title>a.example - dmarcgate</title>",
        "upstream: a.example",
        "not ready",
        "<data value=\"1234\">1\u{202f}234</data></b> passed on",
        "id=\"outcome-refused\"><data value=\"7\">7</data>",
        "<a href=\"/explain/7ZK0Q4M1XW9TA\"",
        "2025-12-31 23:59:00",
        "<bdi>a.example</bdi>",
        "and 2 more",
        "24 messages of 6 domains failed on 4 days",
        "[[policy.override]]",
        "would fare otherwise",
        "http-equiv=\"refresh\"",
    ];
    for part in expected {
        let page = page.replace("<data value=\"24\">24</data>", "24");
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn what_is_empty_says_why() {
    let page = page(View::Overview, &empty());
    let expected = [
        "ready for mail",
        "No message has come to its end since the start.",
        "Nothing was refused or deferred since this process began.",
        "No mail has failed DMARC in the last 7 days.",
        "No forwarder stands out",
        "there was no <code>[policy.shadow]</code>",
        "<code>reports.enabled</code> is false",
        "<code>reports.inbound.addresses</code> is empty",
        "No message was evaluated yet.",
    ];
    for part in expected {
        assert!(page.contains(part), "{part}: {page}");
    }
    let mut facts = empty();
    facts.failing = Arc::new(Section { error: Some("it is away"), ..Section::unread(7) });
    facts.inbound = Arc::new(Section::unread(30));
    let page = super::page(View::Overview, &facts);
    assert!(page.contains("it is away") && page.contains("Being read from the store"), "{page}");
}

#[test]
fn numbers_and_times_are_for_people() {
    let cases = [(0, "0"), (999, "999"), (1000, "1\u{202f}000"), (1_234_567, "1\u{202f}234\u{202f}567")];
    for (n, expected) in cases {
        assert_eq!(grouped(n), expected);
    }
    assert_eq!([0.0003, 0.25, 2.5].map(seconds), ["0.3\u{202f}ms", "250\u{202f}ms", "2.5\u{202f}s"]);
    assert_eq!([5, 600, 9000, 400_000].map(span_of), ["5\u{202f}s", "10\u{202f}min", "2\u{202f}h", "4 days"]);
    assert_eq!([5, 1 << 20, 64 << 20].map(octets), ["5\u{202f}B", "1\u{202f}024\u{202f}KiB", "64\u{202f}MiB"]);
    assert_eq!((share(999, 1000), share(0, 0)), ("99\u{202f}%".to_owned(), "0\u{202f}%".to_owned()));
    assert_eq!(moment(NOW + 3661).into_string(), "<time datetime=\"2026-01-01T01:01:01Z\">2026-01-01 01:01:01</time>");
}

#[test]
fn the_api_has_each_part() {
    let facts = full("a.example");
    let all: serde_json::Value = serde_json::from_str(&api("status", &facts).unwrap()).unwrap();
    assert_eq!(all["mail"]["messages"]["accepted"], 1234);
    assert_eq!(all["mail"]["minutes"][0]["messages"]["refused"], 7);
    assert_eq!(all["failing"]["found"][0]["from"][0]["messages"], 3);
    for name in API.into_iter().filter(|name| *name != "status") {
        let part: serde_json::Value = serde_json::from_str(&api(name, &facts).unwrap()).unwrap();
        assert_eq!(part, all[name], "{name}");
    }
    assert!(api("nothing", &facts).is_none());
}

/// No text in facts but [`Text`], addresses that we write ourselves, and what is made of domains alone.
#[test]
fn facts_hold_no_other_text() {
    let source = include_str!("../facts.rs");
    let strings: Vec<_> = source.lines().filter(|line| line.contains("String")).map(str::trim).collect();
    assert_eq!(strings, ["pub ip: String,", "pub struct Snippet(pub(super) String);"]);
}

const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='x",
    "\" onmouseover=\"x",
    "</pre></td></table><h1>",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "a\r\n\r\n<b>",
    "\0\u{8}\u{1b}[31m",
    "\u{202e}elpmaxe.a\u{2066}",
    "javascript:alert(1)",
    "{{7*7}}${7*7}",
];
