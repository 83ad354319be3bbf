//! `dmarcgate check`: the built binary, a message on its standard input, DNS from a zone written in the test.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::dns::{DnsServer, RecordType, Zone};
use crate::support::signer::{Signer, SigningKey};

const PLAIN: &str = "From: A <a@bank.example>\nTo: <you@you.example>\nSubject: s\n\ntext\n.\n";

fn zone() -> Zone {
    Zone::new()
        // The name above exists for it, without a record of its own.
        .txt("below._dmarc.example", "-")
        .txt("bank.example", "v=spf1 include:_spf.bank.example -all")
        .txt("_spf.bank.example", "v=spf1 ip4:192.0.2.0/28 -all")
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject; sp=quarantine; np=none; fo=x")
        .txt("s1._domainkey.bank.example", &SigningKey::ed25519().record())
        .a("exists.bank.example", "192.0.2.9")
        .txt("quiet.example", "v=spf1 -all")
        .txt("_dmarc.quiet.example", "v=DMARC1; p=none")
        .txt("_dmarc.shop.example", "v=DMARC1; p=quarantine")
        .txt("shop.example", "v=spf1 -all")
        .txt("doubt.example", "v=spf1 include:broken.example -all")
        .serv_fail("broken.example", RecordType::TXT)
        .txt("_dmarc.doubt.example", "v=DMARC1; p=reject")
        .time_out("silent.example", RecordType::TXT)
        .txt("_dmarc.silent.example", "v=DMARC1; p=reject")
        .txt("evil.example", "v=spf1 exists:\u{1b}[2J.evil.example ?all")
        .txt("_dmarc.evil.example", "v=DMARC1; p=none; rua=\u{1b}]0;x\u{7}")
}

fn signed() -> Vec<u8> {
    Signer::new(SigningKey::ed25519(), "bank.example", "s1").sign(PLAIN.replace('\n', "\r\n").as_bytes())
}

fn from(domain: &str) -> Vec<u8> {
    PLAIN.replace("bank.example", domain).into_bytes()
}

/// Runs `check` on a message from standard input, as from a client of nobody's unless `more` says otherwise.
async fn check(dns: &DnsServer, message: &[u8], mail_from: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
    let ip = if more.contains(&"--ip") { &[][..] } else { &["--ip", "198.51.100.1"] };
    command.args(["check", "--helo", "mail.bank.example", "--mail-from", mail_from]).args(ip).args(more);
    command.args(["--dns", &dns.address().to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let message = message.to_vec();
    // Not on this thread: the name server lives on it.
    let run = move || {
        let mut child = command.spawn().expect("cargo has built the binary");
        // Wrong usage ends the process before it reads.
        let _ = child.stdin.take().expect("piped").write_all(&message);
        child.wait_with_output().expect("our own child")
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

async fn facts(dns: &DnsServer, message: &[u8], mail_from: &str, more: &[&str]) -> Value {
    let output = check(dns, message, mail_from, &[more, &["--json"]].concat()).await;
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[tokio::test]
async fn the_exit_code_tells_the_verdict() {
    let dns = DnsServer::start(zone()).await;
    let directory = tempfile::tempdir().unwrap();
    let configured = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("[upstream]\nservers = [\"127.0.0.1:10025\"]\n{text}")).unwrap();
        path.display().to_string()
    };
    let monitor = configured("monitor.toml", "[policy]\nmode = \"monitor\"\n");
    let tag = configured("tag.toml", "[policy]\nmode = \"tag\"\n");
    let strict = configured("strict.toml", "[smtp]\nbare_newline = \"reject\"\n");
    let trusting = configured("trusting.toml", "[bypass]\ntrusted_networks = [\"198.51.100.0/24\"]\n");
    let hasty = configured("hasty.toml", "[timeouts]\nevaluation = \"200ms\"\n");
    let two = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\n[listener.policy]\nmode = \"tag\"\n";
    let two = configured("two.toml", two);
    let wrong = configured("wrong.toml", "[policy]\nmode = \"tog\"\n");
    let forged = from("bank.example");
    let list = [b"List-Id: <a.list.example>\n", &forged[..]].concat();
    let no_from = b"To: a@b.example\n\ntext\n".to_vec();
    let bare = b"From: a@quiet.example\r\n\r\na\nb\r\n".to_vec();
    type Case<'a> = (&'a str, &'a [u8], &'a str, &'a [&'a str], i32);
    let cases: &[Case<'_>] = &[
        ("a signed message", &signed(), "x@quiet.example", &[], 0),
        ("a forgery under none", &from("quiet.example"), "x@quiet.example", &[], 0),
        ("a forgery under quarantine", &from("shop.example"), "x@shop.example", &[], 3),
        ("a forgery under reject", &forged, "x@bank.example", &[], 4),
        ("the same, monitored", &forged, "x@bank.example", &["--config", &monitor], 0),
        ("the same, tagged", &forged, "x@bank.example", &["--config", &tag], 3),
        ("the same, at one listener", &forged, "x@bank.example", &["--config", &two, "--listener", "127.0.0.1:1"], 4),
        ("the same, at another", &forged, "x@bank.example", &["--config", &two, "--listener", "127.0.0.1:2"], 3),
        ("the same, at none", &forged, "x@bank.example", &["--config", &two, "--listener", "127.0.0.1:3"], 2),
        ("the same, for the postmaster", &forged, "x@bank.example", &["--rcpt", "postmaster@you.example"], 3),
        ("the same, from a trusted network", &forged, "x@bank.example", &["--config", &trusting], 0),
        ("the same, by a list", &list, "x@list.example", &[], 3),
        ("no From", &no_from, "x@bank.example", &[], 4),
        ("no From, null reverse-path", &no_from, "<>", &[], 3),
        ("DNS leaves SPF open", &from("doubt.example"), "x@doubt.example", &[], 5),
        ("DNS is silent until the deadline", &from("silent.example"), "x@silent.example", &["--config", &hasty], 5),
        ("a bare LF, normalized", &bare, "x@quiet.example", &[], 0),
        ("a bare LF, refused", &bare, "x@quiet.example", &["--config", &strict], 4),
        ("a wrong address", &forged, "x y@bank.example", &[], 2),
        ("a wrong configuration", &forged, "x@bank.example", &["--config", &wrong], 2),
        ("no such file", &forged, "x@bank.example", &["/nonexistent/mail.eml"], 1),
    ];
    for (case, message, mail_from, more, expected) in cases {
        let output = check(&dns, message, mail_from, more).await;
        let seen = format!("{case}\n{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        assert_eq!(output.status.code(), Some(*expected), "{seen}");
    }
}

#[tokio::test]
async fn a_pass_is_told_step_by_step() {
    let dns = DnsServer::start(zone()).await;
    let output = check(&dns, &signed(), "x@bank.example", &["--ip", "192.0.2.1", "-"]).await;
    let story = text(&output);
    for line in [
        "  client          192.0.2.1, EHLO mail.bank.example",
        "  From            A <a@bank.example>",
        "  author domain   bank.example",
        "SPF: pass",
        "  record          bank.example: v=spf1 include:_spf.bank.example -all",
        "  record          _spf.bank.example: v=spf1 ip4:192.0.2.0/28 -all",
        "  decided by      include:_spf.bank.example",
        "DKIM: pass",
        "DMARC for bank.example: pass",
        "                  _dmarc.example       NODATA: the name exists, without a record of this type",
        "  policy          reject, by p= at bank.example",
        "  SPF             bank.example: pass, aligned: the same domain",
        "  DKIM            bank.example: pass, aligned: the same domain",
        "  monitor: passed on",
        "  enforce, reject = \"corroborated\": passed on  <- built-in default",
        "The message is passed on.",
    ] {
        assert!(story.lines().any(|l| l == line), "{line:?}\n{story}");
    }
    assert!(story.contains("header.from=bank.example"), "{story}");
}

#[tokio::test]
async fn each_mode_and_each_answer_is_told_as_json() {
    let dns = DnsServer::start(zone()).await;
    let all = facts(&dns, &from("bank.example"), "x@sub.bank.example", &["--rcpt", "you@you.example"]).await;
    assert_eq!(all["fate"], "refused");
    assert_eq!(all["message"]["line_ends"], "lf");
    assert_eq!(all["envelope"], json!({"mail_from": "x@sub.bank.example", "recipients": ["you@you.example"]}));
    let modes: Vec<_> =
        all["decisions"].as_array().unwrap().iter().map(|d| [&d["mode"], &d["reject"], &d["fate"]]).collect();
    assert_eq!(
        json!(modes),
        json!([
            ["monitor", "corroborated", "passed_on"],
            ["tag", "corroborated", "tagged"],
            ["enforce", "corroborated", "refused"],
            ["enforce", "always", "refused"],
            ["enforce", "never", "tagged"],
        ])
    );
    assert_eq!(all["decisions"][2]["in_force"], true);
    let reply = all["decisions"][2]["reply"].as_str().unwrap();
    assert!(reply.starts_with("550 5.7.1 Email rejected per DMARC policy for bank.example"), "{reply}");
    assert_eq!(all["decisions"][4]["header_lines"].as_array().unwrap().last().unwrap(), "X-DMARC-Fail-policy: reject");
    let dmarc = &all["evaluation"]["dmarc"][0];
    assert_eq!(dmarc["walk"][0]["problems"], json!(["fo is invalid"]));
    assert_eq!(dmarc["policy"]["by"], "p");
    assert_eq!(dmarc["identifiers"][0]["alignment"], "relaxed");
    assert_eq!(dmarc["identifiers"][0]["organizational_domain"], "bank.example");
    let question = |name: &str| all["dns"].as_array().unwrap().iter().find(|q| q["name"] == name).unwrap().clone();
    assert_eq!(question("_dmarc.example")["outcome"], "nodata");
    assert_eq!(question("sub.bank.example")["outcome"], "nxdomain");
    assert_eq!(question("_dmarc.bank.example")["ttl_seconds"], 300);
}

#[tokio::test]
async fn the_deciding_tag_and_the_failure_of_a_walk_are_told() {
    let dns = DnsServer::start(zone().serv_fail("_dmarc.open.example", RecordType::TXT)).await;
    let cases = [
        ("bank.example", "p", "reject"),
        ("exists.bank.example", "sp", "quarantine"),
        ("missing.bank.example", "np", "none"),
    ];
    for (domain, by, requested) in cases {
        let all = facts(&dns, &from(domain), "x@quiet.example", &[]).await;
        let policy = &all["evaluation"]["dmarc"][0]["policy"];
        assert_eq!((&policy["by"], &policy["requested"]), (&json!(by), &json!(requested)), "{domain}");
    }
    let all = facts(&dns, &from("open.example"), "x@quiet.example", &[]).await;
    let dmarc = &all["evaluation"]["dmarc"][0];
    assert_eq!((&dmarc["result"], &dmarc["doubt"]), (&json!("temperror"), &json!("policy_discovery")));
    assert_eq!(
        dmarc["walk"],
        json!([
            {"name": "_dmarc.open.example", "said": "servfail", "record": null, "problems": []},
            {"name": "_dmarc.example", "said": "nodata", "record": null, "problems": []},
        ])
    );
}

#[tokio::test]
async fn nothing_from_message_or_dns_reaches_the_terminal_as_it_is() {
    let dns = DnsServer::start(zone()).await;
    let message = b"From: \"\x1b[31mA\" <a@evil.example>\r\nSubject: s\r\n\r\ntext\r\n";
    for more in [&[][..], &["--json"]] {
        let output = check(&dns, message, "x@evil.example", more).await;
        let text = text(&output);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("u{1b}[31mA"), "{text}");
        assert!(text.contains("u{1b}[2J"), "{text}");
    }
}

#[tokio::test]
async fn by_a_public_suffix_list_the_names_that_were_asked_are_told() {
    let dns = DnsServer::start(zone().txt("_dmarc.shop.co.uk", "v=DMARC1; p=reject; sp=quarantine")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let file = directory.path().join("none.dat").display().to_string();
    let text = format!(
        "hostname = \"mx.gate.example\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n\
         [policy]\ndiscovery = \"public-suffix\"\n[public_suffix]\nfile = {file:?}\n"
    );
    std::fs::write(&path, text).unwrap();
    let config = path.display().to_string();
    let message = from("a.b.shop.co.uk");
    let output = check(&dns, &message, "x@mail.shop.co.uk", &["--json", "--config", &config]).await;
    let facts: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let dmarc = &facts["evaluation"]["dmarc"][0];
    let names: Vec<_> = dmarc["walk"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["_dmarc.a.b.shop.co.uk", "_dmarc.shop.co.uk"], "{facts:#}");
    assert_eq!(dmarc["organizational_domain"], json!("shop.co.uk"));
    assert_eq!(dmarc["policy"]["discovery"], json!("public-suffix"));
    assert_eq!(dmarc["policy"]["requested"], json!("quarantine"));
    assert_eq!(dmarc["identifiers"][0]["organizational_domain"], json!("shop.co.uk"));
    assert_eq!(dmarc["identifiers"][0]["alignment"], json!("relaxed"));
}
