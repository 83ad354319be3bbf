//! `policy test` as it is run: files in, text and exit code out.

use clap::Parser;

use crate::cli::tests::{configuration, run};
use crate::cli::{Cli, Ended};

/// Runs the cases under a configuration with `more` after the upstream; yields the text and whether all is as expected.
fn test(more: &str, cases: &str, arguments: &[&str]) -> (String, bool) {
    let (directory, config) = configuration(more);
    let path = directory.path().join("cases.toml");
    std::fs::write(&path, cases).unwrap();
    let all = [&["dmarcgate", "policy", "test", path.to_str().unwrap(), "--config", &config][..], arguments].concat();
    let mut output = Vec::new();
    let ended = Cli::try_parse_from(all).unwrap().run(&mut output).unwrap_or_else(|failure| panic!("{failure:?}"));
    let text = String::from_utf8(output).unwrap().replace(path.to_str().unwrap(), "cases.toml");
    assert_eq!(ended.code(), if ended == Ended::Done { 0 } else { 1 });
    (text, ended == Ended::Done)
}

/// The outcome of a case of these lines.
fn outcome(more: &str, lines: &str) -> String {
    let (text, _) = test(more, &format!("[[case]]\nname = \"n\"\n{lines}"), &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let case = &json["cases"][0];
    let rule = case["decision"]["rule"].as_str().or(case["bypass"].as_str()).unwrap();
    format!("{}: {rule}", case["outcome"].as_str().unwrap())
}

#[test]
fn the_example_comes_out_as_it_says() {
    let arguments = ["policy", "test", "contrib/policy/cases.toml", "--config", "contrib/policy/dmarcgate.toml"];
    let text = run(&arguments).unwrap();
    let count = include_str!("../../../contrib/policy/cases.toml").matches("[[case]]\nname").count();
    let count = count + include_str!("../../../contrib/policy/cases.toml").matches("[[case]]\n#").count();
    assert!(
        text.ends_with(&format!("\n{count} case(s): {count} as expected, 0 otherwise, 0 without an expectation\n")),
        "{text}"
    );
    assert!(text.contains("550-5.7.1 bank.example.com asks us to refuse this message: neither SPF"), "{text}");
}

#[test]
fn what_differs_is_told_with_why() {
    let cases = "
[[case]]
name = \"as expected\"
from = \"a.example\"
policy = \"reject\"
expect = \"refuse\"

[[case]]
name = \"not so\"
from = \"a.example\"
record = [{ at = \"a.example\", text = \"v=DMARC1; p=reject; t=y\" }]
expect = \"refuse\"
expect_rule = \"fail_reject\"
expect_note = \"t=n\"

[[case]]
name = \"only told\"
from = \"a.example\"
";
    let (text, all) = test("", cases, &[]);
    assert!(!all);
    let expected = "cases.toml:2: ok: as expected
  DMARC           a.example: fail, no identifier passed; policy reject (record at a.example)
  enforce, reject = \"corroborated\": refused
    rule          fail_reject
    reply         550 5.7.1 Email rejected per DMARC policy for a.example: neither SPF nor DKIM gave an aligned pass (id test)

cases.toml:8: DIFFERS: not so
  expected        outcome \"refuse\", not \"tag quarantine\"
  expected        rule \"fail_reject\", not \"fail_quarantine\"
  expected        note \"t=n\", not \"t=y\"
  DMARC           a.example: fail, no identifier passed; policy quarantine (record at a.example)
  enforce, reject = \"corroborated\": passed on, marked quarantine
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("\ncases.toml:16: told: only told\n"), "{text}");
    assert!(text.ends_with("\n3 case(s): 1 as expected, 1 otherwise, 1 without an expectation\n"), "{text}");
    let (json, _) = test("", cases, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["as_expected"], &json["differ"]), (&1.into(), &1.into()));
    assert_eq!(json.pointer("/cases/1/differences/1/found"), Some(&"fail_quarantine".into()));
    assert_eq!(json.pointer("/cases/2/as_expected"), Some(&serde_json::Value::Null));
}

#[test]
fn alignment_and_policy_are_worked_out_and_not_believed() {
    let reject = "from = \"mail.a.example\"\nrecord = [{ at = \"a.example\", text = \"v=DMARC1; p=reject\" }]\n";
    let strict = "from = \"mail.a.example\"\nrecord = [{ at = \"a.example\", text = \"v=DMARC1; p=reject; adkim=s; aspf=s\" }]\n";
    let cases = [
        (reject, "signature = [{ d = \"a.example\", result = \"pass\" }]", "pass: pass"),
        (reject, "signature = [{ d = \"x.a.example\", result = \"pass\" }]", "pass: pass"),
        (strict, "signature = [{ d = \"a.example\", result = \"pass\" }]", "refuse: fail_reject"),
        (reject, "signature = [{ d = \"b.example\", result = \"pass\" }]", "refuse: fail_reject"),
        (reject, "spf = \"pass\"", "pass: pass"),
        (strict, "spf = \"pass\"\nmail_from = \"x@a.example\"", "refuse: fail_reject"),
        (reject, "spf = \"pass\"\nmail_from = \"x@b.example\"", "refuse: fail_reject"),
        (reject, "spf = \"pass\"\nmail_from = \"<>\"\nhelo = \"mx.a.example\"", "pass: pass"),
        (reject, "spf = \"pass\"\nmail_from = \"x@b.example\"\nhelo = \"mx.a.example\"", "refuse: fail_reject"),
        (reject, "signature = [{ d = \"a.example\", result = \"temperror\" }]", "defer: identifier_doubt"),
        (reject, "signature = [{ d = \"b.example\", result = \"temperror\" }]", "refuse: fail_reject"),
        (
            reject,
            "dns_fails = [\"example\"]\nsignature = [{ d = \"b.example\", result = \"pass\" }]",
            "defer: policy_doubt",
        ),
        ("from = [\"a.example\", \"b.example\"]\npolicy = \"quarantine\"", "", "tag quarantine: fail_quarantine"),
        ("from = \"a.example\"", "", "pass: no_record"),
        ("from = \"a.example\"\nrecord = [{ at = \"a.example\", text = \"v=DMARC1\" }]", "", "pass: broken_record"),
    ];
    for (one, more, expected) in cases {
        assert_eq!(outcome("", &format!("{one}\n{more}\n")), expected, "{one} {more}");
    }
}

#[test]
fn the_configuration_decides() {
    let forged = "from = \"a.example\"\npolicy = \"reject\"\nauthenticated = true\n";
    let cases = [
        ("", "bypass: authenticated"),
        ("[bypass]\nauthenticated = false", "refuse: fail_reject"),
        ("[bypass]\nauthenticated = false\ntrusted_networks = [\"192.0.2.0/24\"]", "bypass: trusted_network"),
        ("[bypass]\nauthenticated = false\n[policy]\nmode = \"tag\"", "tag reject: fail_reject"),
        ("[bypass]\nauthenticated = false\n[policy]\nmode = \"monitor\"", "pass: fail_reject"),
        ("[bypass]\nauthenticated = false\n[policy]\nreject = \"never\"", "tag reject: never_reject"),
        (
            "[bypass]\nauthenticated = false\n[[policy.override]]\nhost = \"fwd.example\"\naction = \"pass\"\nnote = \"n\"",
            "pass: override",
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(outcome(config, &format!("{forged}host = \"mx.fwd.example\"\n")), expected, "{config}");
    }
}

#[test]
fn the_shadow_is_told_and_decides_nothing() {
    let case = "[[case]]\nname = \"n\"\nfrom = \"a.example\"\npolicy = \"reject\"\nexpect = \"pass\"\n";
    let (text, all) = test("[policy]\nmode = \"monitor\"\n[policy.shadow]\nmode = \"enforce\"", case, &[]);
    assert!(all && text.contains("  monitor: passed on\n"), "{text}");
    assert!(text.contains("refused, which differs\n"), "{text}");
}

#[test]
fn a_listener_has_rules_of_its_own_and_must_be_there() {
    let (directory, config) = configuration("[[listener]]\naddress = \"127.0.0.1:2525\"\npolicy.mode = \"tag\"");
    let path = directory.path().join("cases.toml");
    let case = "[[case]]\nname = \"n\"\nfrom = \"a.example\"\npolicy = \"reject\"\nexpect = \"tag reject\"\n";
    let at = |port| {
        std::fs::write(&path, format!("{case}listener = \"127.0.0.1:{port}\"\n")).unwrap();
        run(&["policy", "test", path.to_str().unwrap(), "--config", &config])
    };
    assert!(at(2525).unwrap().contains(": ok: n\n"));
    let (code, message) = at(25).unwrap_err();
    let expected = ":1: case.listener: no [[listener]] has the address 127.0.0.1:25; there are 127.0.0.1:2525";
    assert!(code == 2 && message.ends_with(expected), "{message}");
}

#[test]
fn wrong_cases_are_wrong_usage() {
    let (directory, config) = configuration("");
    let path = directory.path().join("cases.toml");
    std::fs::write(&path, "[[case]]\nname = \"n\"\nfrom = \"a.example\"\nexpekt = \"pass\"\n").unwrap();
    let (code, message) = run(&["policy", "test", path.to_str().unwrap(), "--config", &config]).unwrap_err();
    assert_eq!(code, 2);
    assert_eq!(message, format!("{}:4: case.expekt: unknown key; did you mean case.expect?", path.display()));
    assert_eq!(run(&["policy", "test", "/nonexistent.toml", "--config", &config]).unwrap_err().0, 2);
}
