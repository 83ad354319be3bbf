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
        .txt("wide.example", &format!("v=spf1 {} -all", "a:good.example ".repeat(60)))
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
        "SPF: the record of bad.example has no end: of clients that it does not name it says nothing (neutral), so that SPF \
         tells nobody which mail is forged",
        "SPF: for clients with IPv4 3 terms find nothing, two are allowed: permerror (RFC 7208 §4.6.4)",
        "SPF: for clients with IPv6 3 terms find nothing, two are allowed: permerror (RFC 7208 §4.6.4)",
        "DMARC: _dmarc.bad.example: adkim is invalid",
        "DMARC: rua: mailto:x@elsewhere.example gets no reports, for bad.example._report._dmarc.elsewhere.example has \
         no record that allows it (RFC 9990 §4)",
        "DMARC: rua: https://bad.example/r is no mailto: URI, and reports go by mail alone",
        "DKIM: old._domainkey.bad.example: key is revoked (p= is empty): whatever is signed with this selector counts as not \
         validly signed (RFC 6376 §3.6.1)",
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
    let (code, heavy) = facts(&dns, &["heavy.example"]).await;
    assert_eq!((code, &heavy["spf"]["cut_short"]), (Some(3), &json!(true)));
    let expected = "SPF: the record of heavy.example leads back to itself: permerror for whoever gets there";
    assert_eq!(problems(&heavy)[0], expected);
    assert_eq!(dns.count("heavy.example", RecordType::TXT), 1, "one question for all of them");

    let (_, wide) = facts(&dns, &["wide.example"]).await;
    assert_eq!(wide["spf"]["cut_short"], json!(true));
    let expected = "SPF: at least 60 terms ask DNS, ten are allowed: permerror (RFC 7208 §4.6.4)";
    assert!(problems(&wide).contains(&expected.to_owned()), "{:?}", problems(&wide));
}

#[tokio::test]
async fn a_circle_is_a_permerror_for_all_that_get_there() {
    let cases = [
        ("v=spf1 include:a.example -all", "include:a.example", "a.example"),
        ("v=spf1 ip4:192.0.2.1 include:b.example -all", "include:a.example", "b.example"),
        ("v=spf1 redirect=a.example", "redirect=a.example", "a.example"),
    ];
    for (text, term, name) in cases {
        let zone = Zone::new().txt("a.example", text).txt("b.example", "v=spf1 ip4:192.0.2.2 include:a.example -all");
        let dns = DnsServer::start(zone).await;
        let (_, found) = facts(&dns, &["a.example", "--ip", "198.51.100.9"]).await;
        assert_eq!(found["spf"]["end"], json!({ "result": "permerror", "name": name, "term": term }), "{text}");
        assert_eq!(found["spf"]["client"]["result"], json!("permerror"), "{text}");
        let story = String::from_utf8(lookup(&dns, &["a.example"]).await.stdout).unwrap();
        let line = format!("  others          permerror: the record leads back to itself, by {term} at {name}");
        assert!(story.lines().any(|there| there == line), "{line:?} in\n{story}");
    }
}

#[tokio::test]
async fn an_included_record_that_lets_everybody_in_is_the_end() {
    let cases = [
        ("v=spf1 ip4:192.0.2.1 include:b.example -all", "v=spf1 +all", "pass", "b.example", "+all"),
        ("v=spf1 include:b.example include:a.example ~all", "v=spf1 all include:a.example", "pass", "b.example", "all"),
        ("v=spf1 ?include:b.example -all", "v=spf1 +all", "fail", "a.example", "-all"),
        ("v=spf1 include:b.example -all", "v=spf1 ?all", "fail", "a.example", "-all"),
    ];
    for (text, included, result, name, term) in cases {
        let dns = DnsServer::start(Zone::new().txt("a.example", text).txt("b.example", included)).await;
        let (_, found) = facts(&dns, &["a.example"]).await;
        assert_eq!(found["spf"]["end"], json!({ "result": result, "name": name, "term": term }), "{text}, {included}");
    }
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

fn standings(facts: &Value) -> Vec<(String, Value)> {
    let reports = facts["dmarc"]["reports"].as_array().unwrap().iter();
    reports
        .map(|r| (format!("{} {}", r["tag"].as_str().unwrap(), r["standing"].as_str().unwrap()), r["instead"].clone()))
        .collect()
}

#[tokio::test]
async fn reports_go_only_where_the_receiver_wants_them() {
    let record =
        "v=DMARC1; p=none; rua=mailto:x@b.test,mailto:x@c.test,mailto:x@d.test,mailto:x@e.test; ruf=mailto:x@b.test";
    let zone = Zone::new()
        .txt("a.example", "v=spf1 -all")
        .txt("_dmarc.a.example", record)
        .txt("a.example._report._dmarc.b.test", "v=DMARC1; rua=mailto:o@other.test")
        .txt("a.example._report._dmarc.c.test", "v=DMARC1; rua=mailto:new@c.test")
        .txt("a.example._report._dmarc.d.test", "v=dmarc1")
        .txt("a.example._report._dmarc.e.test", "v=DMARC1; rua=https://e.test/")
        .txt("_dmarc.example", "v=DMARC1; p=none; psd=y; rua=mailto:x@c.test; ruf=mailto:x@c.test")
        .txt("example._report._dmarc.c.test", "v=DMARC1")
        .txt("m.example", "v=spf1 -all");
    let dns = DnsServer::start(zone).await;
    let (code, found) = facts(&dns, &["a.example"]).await;
    let expected = [
        ("rua diverted".to_owned(), json!(["mailto:o@other.test"])),
        ("rua replaced".to_owned(), json!(["mailto:new@c.test"])),
        ("rua not_authorised".to_owned(), json!([])),
        ("rua not_mail".to_owned(), json!(["https://e.test/"])),
        // The rua of the confirming record is no matter to failure reports.
        ("ruf authorised".to_owned(), json!([])),
    ];
    assert_eq!((standings(&found), code), (expected.to_vec(), Some(3)));
    let expected = [
        "DMARC: a.example._report._dmarc.d.test has \"v=dmarc1\", which counts as no DMARC record: DMARC1 has to be in \
         capitals",
        "DMARC: rua: neither mailto:x@b.test nor mailto:o@other.test gets reports, for a.example._report._dmarc.b.test \
         names the latter, which is at another host (RFC 9990 §4)",
        "DMARC: rua: mailto:x@d.test gets no reports, for a.example._report._dmarc.d.test has no record that allows it \
         (RFC 9990 §4)",
        "DMARC: rua: mailto:x@e.test gets no reports, for a.example._report._dmarc.e.test replaces it by \
         https://e.test/, and reports go by mail alone",
    ];
    assert_eq!(problems(&found), expected);

    let (_, found) = facts(&dns, &["m.example"]).await;
    let expected = [("rua authorised".to_owned(), json!([])), ("ruf public_suffix".to_owned(), json!([]))];
    assert_eq!(standings(&found), expected);
    let expected = "DMARC: ruf: mailto:x@c.test gets no failure reports, for the record is a public suffix domain's \
                    (psd=y, RFC 9991 §2)";
    assert_eq!(problems(&found), [expected]);
}

#[tokio::test]
async fn counts_are_the_least_where_terms_depend_on_the_client() {
    let zone = Zone::new()
        .txt("a.example", "v=spf1 a:%{i}.x.example include:%{l}.y.example ptr a:none.example ~all")
        .txt("postmaster.y.example", "v=spf1 a:void.example -all");
    let dns = DnsServer::start(zone).await;
    let (_, found) = facts(&dns, &["a.example", "--ip", "192.0.2.77"]).await;
    let spf = &found["spf"];
    let counts =
        ["terms", "void_terms", "depending_terms", "depending_records"].map(|name| spf[name].as_u64().unwrap());
    assert_eq!(counts, [4, 1, 3, 1]);
    assert_eq!((&spf["client"]["terms"], &spf["client"]["void_terms"]), (&json!(4), &json!(3)));
    assert_eq!(spf["client"]["result"], json!("permerror"));
    let text = String::from_utf8(lookup(&dns, &["a.example"]).await.stdout).unwrap();
    for line in [
        "  costs           at least 4 of 10 terms that ask DNS; 1 lead(s) to records that depend on the client or the sender",
        "  in vain         at least 1 of 2 for IPv4 clients, 1 of 2 for IPv6 clients; 3 term(s) depend on the client or the \
         sender",
        "  others          softfail: probably forged, by ~all at a.example",
    ] {
        assert!(text.lines().any(|there| there == line), "{line:?} in\n{text}");
    }
}

#[tokio::test]
async fn records_that_leave_the_door_open_are_told() {
    let neutral =
        "of clients that it does not name it says nothing (neutral), so that SPF tells nobody which mail is forged";
    let open = |whose: &str| format!("\"+all\" in the record of {whose} lets the whole world send for the domain");
    let cases = [
        ("v=spf1 +all", Some("pass"), vec![open("a.example")]),
        ("v=spf1 redirect=all.example", Some("pass"), vec![open("all.example")]),
        ("v=spf1 include:all.example -all", Some("pass"), vec![open("all.example, which is included,")]),
        ("v=spf1 include:to-all.example -all", Some("pass"), vec![open("all.example, which is included,")]),
        ("v=spf1 ?include:all.example -all", Some("fail"), vec![]),
        ("v=spf1 ip4:0.0.0.0/0 -all", Some("fail"), vec![open("a.example").replace("+all", "ip4:0.0.0.0/0")]),
        (
            "v=spf1 redirect=open.example",
            Some("neutral"),
            vec![format!("the record of open.example has no end: {neutral}")],
        ),
        ("v=spf1 include:open.example -all", Some("fail"), vec![]),
        ("v=spf1", Some("neutral"), vec![format!("the record of a.example has no end: {neutral}")]),
        (
            "v=spf1 ?all",
            Some("neutral"),
            vec![format!("\"?all\" in the record of a.example says no more than no end would: {neutral}")],
        ),
        (
            "v=spf1 redirect=gone.example",
            None,
            vec!["redirect= leads to gone.example, which does not exist: permerror (RFC 7208 §6.1)".to_owned()],
        ),
        (
            "v=spf1 include=all.example -all",
            Some("fail"),
            vec!["include=all.example in the record of a.example is no mechanism".to_owned()],
        ),
        (
            "v=spf1 mx ip:192.0.2.1 -all",
            None,
            vec!["the record of a.example can't be read: ip:192.0.2.1: unknown mechanism (permerror)".to_owned()],
        ),
        (
            "v=spf10 -all",
            None,
            vec![
                "a.example has \"v=spf10 -all\", which counts as no SPF record: the version is not spf1".to_owned(),
                "there is no SPF record".to_owned(),
            ],
        ),
        ("v=spf1 -all", Some("fail"), vec![]),
    ];
    for (text, end, expected) in cases {
        let zone = Zone::new()
            .txt("a.example", text)
            .txt("all.example", "v=spf1 +all")
            .txt("to-all.example", "v=spf1 redirect=all.example")
            .txt("open.example", "v=spf1 ip4:192.0.2.1")
            .txt("_dmarc.a.example", "v=DMARC1; p=none");
        let (_, found) = facts(&DnsServer::start(zone).await, &["a.example"]).await;
        let expected: Vec<String> = expected.iter().map(|what| format!("SPF: {what}")).collect();
        assert_eq!((problems(&found), found["spf"]["end"]["result"].as_str()), (expected, end), "{text}");
    }
}

#[tokio::test]
async fn texts_that_were_meant_as_records_are_named() {
    let zone = Zone::new()
        .txt("a.example", "v=spf1 -all")
        .txt("a.example", "v=DMARC1; p=none")
        .txt("_dmarc.a.example", "v=DMARC1 p=reject")
        .txt("s._domainkey.a.example", "k=rsa; v=DKIM1; p=AAAA");
    let dns = DnsServer::start(zone).await;
    let (_, found) = facts(&dns, &["a.example", "--selector", "s"]).await;
    let expected = [
        "DMARC: _dmarc.a.example has \"v=DMARC1 p=reject\", which counts as no DMARC record: a semicolon is missing \
         behind v=DMARC1",
        "DMARC: \"v=DMARC1; p=none\" stands at a.example itself, where nobody looks for it",
        "DMARC: no policy applies: no policy record",
        "DKIM: s._domainkey.a.example: key record has another version: v= does not come first",
    ];
    assert_eq!(problems(&found), expected);
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
