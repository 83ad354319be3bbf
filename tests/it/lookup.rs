//! `dmarcgate lookup`: the built binary, DNS from a zone written in the test.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::dns::{DnsServer, RecordType, Zone};
use crate::support::signer::SigningKey;

fn zone() -> Zone {
    Zone::new()
        .txt("good.example", "v=spf1 a mx include:_spf.good.example exists:%{i}.list.good.example -all")
        .txt("_spf.good.example", "v=spf1 ip4:192.0.2.0/28 redirect=_more.good.example")
        .txt("_more.good.example", "v=spf1 ip6:2001:db8::/32 ~all")
        .a("good.example", "192.0.2.80")
        .aaaa("good.example", "2001:db8::80")
        .mx("good.example", 10, "mx.good.example")
        .a("mx.good.example", "192.0.2.25")
        .txt(
            "_dmarc.good.example",
            "v=DMARC1; p=reject; sp=quarantine; rua=mailto:r@good.example,mailto:r@reports.example; fo=1:d; \
             ruf=mailto:f@good.example",
        )
        .txt("good.example._report._dmarc.reports.example", "v=DMARC1")
        .txt("s1._domainkey.good.example", &SigningKey::rsa().record())
        .txt("s2._domainkey.good.example", &SigningKey::ed25519().record())
        .txt(
            "bad.example",
            "v=spf1 ptr a:nothing.bad.example a:none.bad.example a:no.bad.example include:empty.example",
        )
        .txt("empty.example", "not a policy")
        .mx("bad.example", 10, "gone.bad.example")
        .txt("_dmarc.bad.example", "v=DMARC1; p=reject; adkim=x; rua=mailto:x@elsewhere.example,https://bad.example/r")
        .txt("old._domainkey.bad.example", "v=DKIM1; p=")
        .txt("evil.example", "v=spf1 exists:\u{1b}[2J.evil.example ?all")
        .txt("_dmarc.evil.example", "v=DMARC1; p=none; rua=\u{1b}]0;x\u{7}")
        .serv_fail("broken.example", RecordType::TXT)
        .txt("_dmarc.broken.example", "v=DMARC1; p=none")
        .txt("heavy.example", &format!("v=spf1 {} -all", "include:heavy.example ".repeat(3)))
}

async fn lookup(dns: &DnsServer, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
    command.arg("lookup").args(arguments).args(["--dns", &dns.address().to_string()]);
    // Not on this thread: the name server lives on it.
    let run = move || command.output().expect("cargo has built the binary");
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

async fn facts(dns: &DnsServer, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = lookup(dns, &[arguments, &["--json"]].concat()).await;
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let facts = serde_json::from_str(&text);
    let facts = facts.unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), facts)
}

fn problems(facts: &Value) -> Vec<String> {
    let problems = facts["problems"].as_array().expect("a list");
    problems.iter().map(|p| format!("{}: {}", p["about"].as_str().unwrap(), p["what"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_domain_where_nothing_is_wrong() {
    let dns = DnsServer::start(zone()).await;
    let arguments = ["good.example", "--selector", "s1", "--selector", "S2", "--ip", "192.0.2.5"];
    let (code, facts) = facts(&dns, &arguments).await;
    assert_eq!((problems(&facts), code, &facts["health"]), (Vec::new(), Some(0), &json!("fine")));

    let spf = &facts["spf"];
    assert_eq!((&spf["terms"], &spf["void_terms"], &spf["void_terms_ipv6"]), (&json!(5), &json!(0), &json!(1)));
    let terms = spf["record"]["terms"].as_array().unwrap();
    assert_eq!(terms[0]["found"], json!(["192.0.2.80", "2001:db8::80"]));
    assert_eq!(terms[1]["found"], json!(["mx.good.example (192.0.2.25)"]));
    assert_eq!(terms[2]["record"]["terms"][1]["record"]["text"], json!("v=spf1 ip6:2001:db8::/32 ~all"));
    assert_eq!(terms[3]["found"], json!(["depends on the client or the sender"]));
    assert_eq!(spf["client"]["result"], json!("pass"));
    assert_eq!(spf["client"]["term"], json!("include:_spf.good.example"));

    let dmarc = &facts["dmarc"];
    assert_eq!((&dmarc["policy"]["requested"], &dmarc["policy"]["by"]), (&json!("reject"), &json!("p")));
    assert_eq!(dmarc["organizational_domain"], json!("good.example"));
    assert_eq!(dmarc["walk"][0]["name"], json!("_dmarc.good.example"));
    assert_eq!(dmarc["walk"][0]["ttl_seconds"], json!(300));
    let tag = |name: &str| {
        let tags = dmarc["tags"].as_array().unwrap();
        let tag = tags.iter().find(|tag| tag["name"] == json!(name)).unwrap();
        (tag["value"].as_str().unwrap().to_owned(), tag["published"] == json!(true))
    };
    assert_eq!(tag("p"), ("reject".to_owned(), true));
    assert_eq!(tag("np"), ("quarantine".to_owned(), false));
    assert_eq!(tag("fo"), ("1:d".to_owned(), true));
    assert_eq!(tag("adkim"), ("r".to_owned(), false));
    let standings = dmarc["reports"].as_array().unwrap().iter().map(|report| report["standing"].as_str().unwrap());
    assert_eq!(standings.collect::<Vec<_>>(), ["same_organization", "authorised", "same_organization"]);

    assert_eq!(
        (&facts["dkim"][0]["records"][0]["key"]["bits"], &facts["dkim"][1]["selector"]),
        (&json!(2048), &json!("s2"))
    );
    assert_eq!(facts["dkim"][1]["records"][0]["key"]["algorithm"], json!("ed25519"));
    assert_eq!(facts["mx"]["exchangers"][0]["addresses"], json!(["192.0.2.25"]));
}

#[tokio::test]
async fn what_is_wrong_is_told_with_what_to_do() {
    let dns = DnsServer::start(zone()).await;
    let (code, facts) = facts(&dns, &["bad.example", "--selector", "old", "--selector", "none"]).await;
    assert_eq!((code, &facts["health"]), (Some(3), &json!("faulty")));
    let expected = [
        "SPF: ptr depends on the client's own zone and should not be used (RFC 7208 §5.5)",
        "SPF: a:nothing.bad.example finds nothing",
        "SPF: a:none.bad.example finds nothing",
        "SPF: a:no.bad.example finds nothing",
        "SPF: empty.example is included and has no SPF record: permerror (RFC 7208 §5.2)",
        "SPF: the record has no end: for unknown clients it says nothing",
        "SPF: for clients with IPv4 3 terms find nothing, two are allowed: permerror (RFC 7208 §4.6.4)",
        "SPF: for clients with IPv6 3 terms find nothing, two are allowed: permerror (RFC 7208 §4.6.4)",
        "DMARC: _dmarc.bad.example: adkim is invalid",
        "DMARC: rua: mailto:x@elsewhere.example gets no reports, for bad.example._report._dmarc.elsewhere.example has \
         no record that allows it (RFC 9990 §4)",
        "DMARC: rua: https://bad.example/r is no mailto: URI, and reports go by mail alone",
        "DKIM: old._domainkey.bad.example: key is revoked",
        "DKIM: there is no key at none._domainkey.bad.example",
        "MX: gone.bad.example has no address",
    ];
    assert_eq!(problems(&facts), expected);
    assert!(facts["problems"].as_array().unwrap().iter().all(|problem| problem["remedy"].as_str().unwrap().len() > 5));
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_known_are_told_apart() {
    let dns = DnsServer::start(zone()).await;
    let (code, facts_of_none) = facts(&dns, &["nowhere.example"]).await;
    assert_eq!(code, Some(3));
    let expected = ["SPF: nowhere.example does not exist", "DMARC: no policy applies: no policy record"];
    assert_eq!(problems(&facts_of_none), expected);

    let (code, facts_of_broken) = facts(&dns, &["broken.example"]).await;
    assert_eq!((code, &facts_of_broken["health"]), (Some(1), &json!("unknown")));
    assert_eq!(problems(&facts_of_broken), ["SPF: the question for broken.example failed: servfail"]);
}

#[tokio::test]
async fn a_record_that_includes_itself_comes_to_an_end() {
    let dns = DnsServer::start(zone()).await;
    let (code, facts) = facts(&dns, &["heavy.example"]).await;
    assert_eq!(code, Some(3));
    let terms = facts["spf"]["terms"].as_u64().unwrap();
    assert!((11..200).contains(&terms), "{terms}");
    assert!(problems(&facts).iter().any(|problem| problem.contains("terms ask DNS, ten are allowed")));
    assert_eq!(dns.count("heavy.example", RecordType::TXT), 1, "one question for all of them");
}

#[tokio::test]
async fn the_story_is_for_people_and_no_peer_steers_their_terminal() {
    let dns = DnsServer::start(zone()).await;
    let output = lookup(&dns, &["good.example", "--selector", "s1"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "SPF for good.example",
        "    include:_spf.good.example",
        "      _spf.good.example: v=spf1 ip4:192.0.2.0/28 redirect=_more.good.example  (kept for 300 s)",
        "  costs           5 of 10 terms that ask DNS",
        "DMARC for good.example",
        "  organization    good.example",
        "  policy          reject, by p= at good.example",
        "  tags            p     reject",
        "                  np    quarantine  (default)",
        "  reports         rua mailto:r@good.example: same organization",
        "  key             rsa, 2048 bits",
        "  10              mx.good.example  192.0.2.25",
        "Nothing is wrong.",
    ] {
        assert!(text.lines().any(|there| there == line), "{line:?} in\n{text}");
    }
    let output = lookup(&dns, &["evil.example"]).await;
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    assert!(text.contains("What is wrong\n"), "{text}");
}

#[tokio::test]
async fn wrong_usage_is_told() {
    let dns = DnsServer::start(Zone::new()).await;
    for arguments in [&["a..b"][..], &["good.example", "--selector", "a b"], &["good.example", "--ip", "x"], &[]] {
        assert_eq!(lookup(&dns, arguments).await.status.code(), Some(2), "{arguments:?}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
    let output = command.args(["lookup", "a.example", "--dns", "tls://192.0.2.1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a name to verify is missing");
}
