//! Failure reports, as values and as text.

use std::path::Path;

use super::*;
use crate::evaluation::sample;
use crate::spf::Identity;

fn section(text: &str) -> HeaderSection {
    HeaderSection::parse(text.as_bytes().to_vec())
}

fn path(text: &str) -> ReversePath {
    ReversePath::parse(text.as_bytes()).unwrap().0
}

fn author() -> Author {
    Author { address: Address::parse("reports@rcpt.example").unwrap(), name: "Example Networks".into() }
}

#[test]
fn what_owners_ask_for() {
    use SpfResult::{Fail, Pass, PermError, TempError};
    // fo, DKIM aligned, SPF aligned, a failed signature, SPF's result, wanted
    use AuthFailure::{Dmarc, Signature, Spf};
    let cases = [
        ("", false, false, false, Fail, Some(Dmarc)),
        ("", true, false, false, Fail, None),
        ("fo=0; ", false, true, true, Pass, None),
        ("fo=1; ", true, false, false, Pass, Some(Dmarc)),
        ("fo=1; ", false, true, false, Pass, Some(Dmarc)),
        ("fo=1; ", true, true, false, Pass, None),
        ("fo=d; ", true, true, true, Pass, Some(Signature)),
        ("fo=d; ", false, false, false, Fail, None),
        ("fo=s; ", true, false, false, Fail, Some(Spf)),
        ("fo=s; ", true, false, false, PermError, Some(Spf)),
        ("fo=s; ", true, false, false, TempError, None),
        ("fo=s; ", false, false, true, Pass, None),
        ("fo=1:d:s; ", true, true, false, Fail, Some(Spf)),
        ("fo=d:s; ", true, true, true, Fail, Some(Signature)),
        ("fo=1:d:s; ", true, false, true, Fail, Some(Dmarc)),
        ("psd=y; ", false, false, false, Fail, None),
    ];
    for (fo, dkim, spf, signature, spf_result, expected) in cases {
        let result = if dkim || spf { DmarcResult::Pass } else { DmarcResult::Fail };
        let mut dmarc = sample::dmarc("a.example", result);
        (dmarc.dkim_aligned, dmarc.spf_aligned) = (dkim, spf);
        dmarc.policy = Some(sample::published("a.example", &format!("p=reject; {fo}ruf=mailto:f@a.example")));
        let mut evaluation = sample::evaluation(vec![dmarc.clone()]);
        evaluation.spf = sample::spf(spf_result, Identity::MailFrom, "b.example");
        evaluation.dkim.extend(signature.then(|| sample::signature(DkimResult::Fail, "b.example")));
        assert_eq!(wanted(&evaluation, &dmarc), expected, "{fo} {dkim} {spf} {signature} {spf_result}");
        let in_doubt = DmarcOutput { result: DmarcResult::TempError, ..dmarc.clone() };
        assert_eq!(wanted(&evaluation, &in_doubt), None, "DNS left it open");
        let without = Some(sample::published("a.example", &format!("p=reject; {fo}rua=mailto:f@a.example")));
        assert_eq!(wanted(&evaluation, &DmarcOutput { policy: without, ..dmarc }), None, "no ruf");
    }
}

#[test]
fn what_is_never_reported() {
    let plain = "From: a@a.example\r\nSubject: Report Domain: x\r\n\r\n";
    let dmarc = "Subject: Report Domain: a.example\r\n Submitter: b.example\r\n Report-ID: <x>\r\n";
    let cases = [
        ("an ordinary message", "<a@a.example>", plain.to_owned(), true),
        ("a null reverse-path", "<>", plain.to_owned(), false),
        ("sent by a machine", "<a@a.example>", "Auto-Submitted: auto-replied\r\n\r\n".into(), false),
        ("said to be by hand", "<a@a.example>", "Auto-Submitted:  No (really)\r\n\r\n".into(), true),
        ("said so with a comment behind", "<a@a.example>", "Auto-Submitted: no(really)\r\n\r\n".into(), true),
        ("said so with a parameter", "<a@a.example>", "Auto-Submitted: no;x=y\r\n\r\n".into(), true),
        ("nearly said so", "<a@a.example>", "Auto-Submitted: not-by-hand\r\n\r\n".into(), false),
        ("a bounce", "<a@a.example>", "Content-Type: multipart/report; report-type=x\r\n\r\n".into(), false),
        ("an aggregate report", "<a@a.example>", format!("{dmarc}Content-Type: application/gzip\r\n\r\n"), false),
        ("its subject alone", "<a@a.example>", format!("{dmarc}Content-Type: text/plain\r\n\r\n"), true),
    ];
    for (name, reverse_path, header, expected) in cases {
        assert_eq!(may_be_reported(&path(reverse_path), &section(&header)), expected, "{name}");
    }
}

#[test]
fn an_identity_that_passed_unaligned_has_failed() {
    let cases = [(false, false, "dkim, spf"), (true, false, "spf"), (false, true, "dkim"), (true, true, "none")];
    for (dkim, spf, expected) in cases {
        let mut dmarc = sample::dmarc("a.example", DmarcResult::Fail);
        (dmarc.dkim_aligned, dmarc.spf_aligned) = (dkim, spf);
        assert_eq!(alignment(&dmarc), expected);
    }
}

/// A broken signature of the author's domain, an SPF failure of it, and a signature of another that passes.
fn facts() -> Evaluation {
    let mut dmarc = sample::dmarc("a.example", DmarcResult::Fail);
    dmarc.policy = Some(sample::published("a.example", "p=reject; fo=1; ruf=mailto:f@a.example"));
    dmarc.spf_alignment = Alignment::Relaxed;
    dmarc.dkim_alignment = vec![Alignment::Unaligned, Alignment::Relaxed];
    let mut evaluation = sample::evaluation(vec![dmarc]);
    evaluation.spf = sample::spf(SpfResult::Fail, Identity::MailFrom, "m.a.example");
    evaluation.spf.records = vec![
        ("m.a.example".into(), "v=spf1 include:x.a.example \"odd\\ -all".into()),
        ("x.a.example".into(), "v=spf1 ip4:192.0.2.0/24 -all".into()),
    ];
    let mut broken = sample::signature(DkimResult::Fail, "m.a.example");
    broken.identity = Some("joe@m.a.example".into());
    evaluation.dkim = vec![sample::signature(DkimResult::Pass, "list.example"), broken];
    evaluation.sender.ip = "2001:db8::7".parse().unwrap();
    evaluation
}

const HEADER: &str = "Received: from x (x [2001:db8::7])\r\n\tby list.example for <you@rcpt.example>;\r\n\tMon\r\n\
                      DKIM-Signature: v=1; d=m.a.example; i=joe@m.a.example; s=s1;\r\n b=abc/d+f=\r\n\
                      From: \"Joe\" <joe@a.example>\r\nTo: you@rcpt.example\r\nSubject: caf\u{e9} HTTP://evil.example/\r\n\
                      Content-Type: multipart/mixed; boundary=b\r\n\r\n";
const BODY: &str = "--b\r\n\r\nDear you@rcpt.example, go to https://evil.example/\r\n.\r\n--b\r\n\
                    Content-Type: application/zip\r\n\r\nPK\r\n--b--\r\n";

fn report(evaluation: &Evaluation, body: Option<&[u8]>, redaction: Option<&Redaction>) -> String {
    report_on(AuthFailure::Dmarc, evaluation, body, redaction)
}

fn report_on(
    failure: AuthFailure,
    evaluation: &Evaluation,
    body: Option<&[u8]>,
    redaction: Option<&Redaction>,
) -> String {
    report_of(&section(HEADER), failure, evaluation, body, redaction)
}

fn report_of(
    header: &HeaderSection,
    failure: AuthFailure,
    evaluation: &Evaluation,
    body: Option<&[u8]>,
    redaction: Option<&Redaction>,
) -> String {
    let reverse_path = path("<joe@m.a.example>");
    let incident = Incident {
        evaluation,
        dmarc: &evaluation.dmarc[0],
        header,
        body,
        signed: None,
        reverse_path: &reverse_path,
        source_port: Some(40_000),
        delivered: Delivered::Refused,
        results: "Authentication-Results: mx.rcpt.example;\r\n\tspf=fail smtp.mailfrom=m.a.example;\r\n\tdkim=fail \
                  header.i=joe@m.a.example; dmarc=fail header.from=a.example\r\n",
        id: "0123456789ABC",
        arrived: 1_767_312_000,
        failure,
        incidents: 3,
    };
    let to = Address::parse("f@a.example").unwrap();
    String::from_utf8(build(&incident, redaction, &author(), &to, "f00d", 1_767_312_060)).unwrap()
}

/// Holds a report to a file; `UPDATE_GOLDEN=1` writes it.
#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/failure").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, known, "{name} differs; UPDATE_GOLDEN=1 cargo test rewrites it");
}

#[test]
fn reports_are_what_they_were() {
    let redaction = Redaction::new(b"site key");
    assert_golden("headers.eml", &report(&facts(), None, Some(&redaction)));
    assert_golden("message.eml", &report(&facts(), Some(BODY.as_bytes()), Some(&redaction)));
    assert_golden("unredacted.eml", &report(&facts(), Some(BODY.as_bytes()), None));
}

#[test]
fn a_redacted_report_names_nobody() {
    let redaction = Redaction::new(b"site key");
    let text = report(&facts(), Some(BODY.as_bytes()), Some(&redaction));
    let (_, told) = text.split_once("\r\n\r\n").unwrap();
    assert!(!told.contains("joe@") && !told.contains("you@"), "{told}");
    let code = redaction.apply("joe@").replace('@', "");
    assert!(told.matches(&code).count() >= 5, "one text for one local part: {told}");
    assert!(!told.to_ascii_lowercase().contains("http"), "{told}");
    assert!(!told.contains("PK"), "{told}");
}

#[test]
fn the_header_section_is_shown_up_to_a_bound_and_broken_where_a_line_is_too_long() {
    let shown = |header: &str, redaction: Option<&Redaction>| {
        report_of(&section(header), AuthFailure::Dmarc, &facts(), None, redaction)
    };
    let field = format!("X: {}\r\n", "x".repeat(512 - "X: \r\n".len()));
    let fitting = MAX_HEADER / field.len();
    for count in [fitting, fitting + 1] {
        let text = shown(&format!("{}\r\n", field.repeat(count)), None);
        assert_eq!(text.matches(&field).count(), fitting, "{count}");
    }
    let numbers: String = (100..900).map(|number| number.to_string()).collect();
    let text = shown(&format!("X: {numbers}\r\n\r\n"), None);
    let broken = [&numbers[..897], &numbers[897..1797], &numbers[1797..]].join("\r\n\t");
    assert!(text.contains(&format!("X: {broken}\r\n")), "{text}");
    // A bare CR that continues a field does not begin one here.
    assert!(shown("X: a\r\n\rFrom: b\r\n\r\n", None).contains("X: a\r\n\t?From: b\r\n"));
    // What stands before an at sign is a local part, but for tags.
    let redaction = Redaction::new(b"site key");
    let text = shown("X: i=joe@a.example\r\nReceived-SPF: i=joe@a.example\r\n\r\n", Some(&redaction));
    for expected in [redaction.apply("X: i=joe@a.example"), redaction.apply_to_tags("Received-SPF: i=joe@a.example")] {
        assert!(text.contains(&expected), "{expected} in {text}");
    }
}

#[test]
fn fields_are_there_only_for_what_failed() {
    let mut evaluation = facts();
    evaluation.spf.result = SpfResult::Pass;
    evaluation.dkim[1].result = DkimResult::Pass;
    let text = report(&evaluation, None, None);
    assert!(!text.contains("SPF-DNS:") && !text.contains("DKIM-Domain:"), "{text}");
    let mut evaluation = facts();
    evaluation.dmarc[0].spf_alignment = Alignment::Unaligned;
    evaluation.dmarc[0].dkim_alignment = vec![Alignment::Unaligned; 2];
    let text = report(&evaluation, None, None);
    assert!(!text.contains("SPF-DNS:") && !text.contains("DKIM-Domain:"), "not the owner's to mend: {text}");
    assert!(text.contains("Identity-Alignment: dkim, spf\r\n"), "{text}");
}

/// `fo=d` and `fo=s`: the failure of a mechanism, aligned or not, of a message that may have passed DMARC.
#[test]
fn a_mechanism_that_failed_is_reported_as_what_it_is() {
    let mut evaluation = facts();
    evaluation.dmarc[0].spf_alignment = Alignment::Unaligned;
    evaluation.dmarc[0].dkim_alignment = vec![Alignment::Unaligned; 2];
    let has = |failure, lines: &[&str]| {
        let text = report_on(failure, &evaluation, None, None);
        lines.iter().for_each(|line| assert!(text.contains(line), "no {line} in {text}"));
    };
    has(
        AuthFailure::BodyHash,
        &["Auth-Failure: bodyhash\r\n", "DKIM-Domain: m.a.example\r\n", "A DKIM signature of it"],
    );
    has(AuthFailure::Signature, &["Auth-Failure: signature\r\n", "DKIM-Selector: "]);
    has(AuthFailure::Spf, &["Auth-Failure: spf\r\n", "SPF-DNS: txt : m.a.example", "It failed SPF."]);
}

#[test]
fn whatever_the_message_is_the_report_is_sound() {
    let long = "x".repeat(5000);
    let headers = [
        format!("X: {long}\r\nFrom: a@a.example\r\n\r\n"),
        format!("X: a\r\n {long}@{long}\r\n \r\n\tb\r\n\r\n"),
        "X: \u{0}\u{7}\r\n\u{e9}: y\r\nFrom: \"a\r\n b\"@c.example\r\n\r\n".to_owned(),
        format!("A: b\nC: d\r\n{}\r\n", "Y: z\r\n".repeat(20_000)),
        "no field\r\n\r\n".to_owned(),
    ];
    for header in headers {
        for redaction in [None, Some(Redaction::new(b"site key"))] {
            let mut evaluation = facts();
            evaluation.spf.records.push((long.as_str().into(), long.as_str().into()));
            evaluation.dkim[1].selector = long.as_str().into();
            let (reverse_path, section) = (path("<joe@m.a.example>"), section(&header));
            let body = format!("{long}\r\n{}\r\n--=_f00d--\r\n", "\u{e9}\u{0}\n".repeat(100_000));
            let incident = Incident {
                evaluation: &evaluation,
                dmarc: &evaluation.dmarc[0],
                header: &section,
                body: Some(body.as_bytes()),
                signed: None,
                reverse_path: &reverse_path,
                source_port: None,
                delivered: Delivered::Taken,
                results: "Authentication-Results: x; none\r\n",
                id: "0",
                arrived: -1,
                failure: AuthFailure::Dmarc,
                incidents: 1,
            };
            let to = Address::parse("f@a.example").unwrap();
            let octets = build(&incident, redaction.as_ref(), &author(), &to, "unguessable", 0);
            let text = String::from_utf8(octets).unwrap();
            assert!(text.is_ascii() && text.len() < MAX_HEADER + 4 * MAX_BODY, "{}", text.len());
            assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n', '\0'])), "{text}");
            let evidence = text.split("Content-Type: message/rfc822\r\n\r\n").nth(1).unwrap();
            let fields = if evidence.starts_with("\r\n") { "" } else { evidence.split("\r\n\r\n").next().unwrap() };
            let is_field = |line: &str| line.starts_with(['\t', ' ']) || line.contains(':') || line.is_empty();
            assert!(fields.split("\r\n").all(is_field), "{fields}");
        }
    }
}

/// The field of this name in base64, decoded.
fn decoded(report: &str, name: &str) -> Option<String> {
    let unfolded = report.replace("\r\n\t", "");
    let value = unfolded.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?.replace(' ', "");
    Some(String::from_utf8(base64::decode(value.as_bytes()).unwrap()).unwrap())
}

#[test]
fn what_a_failed_signature_was_made_over_is_told_on_request() {
    let header = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=m.a.example; s=s1;\r\n i=joe@m.a.example; \
                  h=From:subject:To; bh=AAAA; b=AA\r\n AA\r\nFROM:  Joe\r\n <joe@a.example>\r\nSubject: x  y\r\n\
                  Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let body =
        "--b\r\n\r\nwrite to \t joe@a.example  \r\n\r\n--b\r\nContent-Type: image/png\r\n\r\nPNG\r\n--b--\r\n\r\n";
    let (section, reverse_path) = (section(header), path("<joe@m.a.example>"));
    let signatures = Signatures::read(&section, &[], 10);
    let mut evaluation = facts();
    (evaluation.dkim[0].place, evaluation.dkim[1].place) = (1, 0);
    let to = Address::parse("f@a.example").unwrap();
    let redaction = Redaction::new(b"site key");
    let report = |signed, redaction: Option<&Redaction>| {
        let incident = Incident {
            evaluation: &evaluation,
            dmarc: &evaluation.dmarc[0],
            header: &section,
            body: None,
            signed,
            reverse_path: &reverse_path,
            source_port: None,
            delivered: Delivered::Refused,
            results: "Authentication-Results: x; none\r\n",
            id: "0",
            arrived: 0,
            failure: AuthFailure::Dmarc,
            incidents: 1,
        };
        String::from_utf8(build(&incident, redaction, &author(), &to, "id", 0)).unwrap()
    };
    let found = |report: &str| {
        let [header, body] = ["DKIM-Canonicalized-Header", "DKIM-Canonicalized-Body"].map(|name| decoded(report, name));
        (header, body)
    };
    assert_eq!(found(&report(None, None)), (None, None));

    let signed_header = "from:Joe <joe@a.example>\r\nsubject:x y\r\ndkim-signature:v=1; a=rsa-sha256; c=relaxed/relaxed; \
                         d=m.a.example; s=s1; i=joe@m.a.example; h=From:subject:To; bh=AAAA; b=";
    let signed_body = "--b\r\n\r\nwrite to joe@a.example\r\n\r\n--b\r\nContent-Type: image/png\r\n\r\nPNG\r\n--b--\r\n";
    let signed = |body| Some(Signed { signatures: &signatures, body });
    assert_eq!(found(&report(signed(None), None)), (Some(signed_header.into()), None));
    let whole = report(signed(Some(body.as_bytes())), None);
    assert_eq!(found(&whole), (Some(signed_header.into()), Some(signed_body.into())));
    assert!(whole.split("\r\n").all(|line| line.len() <= 100), "{whole}");

    let hidden = |text: &str| redaction.apply_to_tags(text);
    let (header, shown) = found(&report(signed(Some(body.as_bytes())), Some(&redaction)));
    let (header, shown) = (header.unwrap(), shown.unwrap());
    assert!(
        header.contains(&hidden("i=joe@m.a.example;")) && header.contains(&hidden("Joe <joe@a.example>")),
        "{header}"
    );
    assert!(shown.contains(&hidden("write to joe@a.example\r\n")) && !shown.contains("PNG"), "{shown}");
    assert!(!header.contains("joe@") && !shown.contains("joe@"), "{header}{shown}");

    // The canonical body has a line end more.
    let long = "x".repeat(2 * MAX_BODY - 1);
    for (length, is_told) in [(2 * MAX_BODY - 2, true), (2 * MAX_BODY - 1, false)] {
        let (header, body) = found(&report(signed(long.as_bytes().get(..length)), None));
        assert_eq!((header.is_some(), body.is_some()), (true, is_told), "{length}");
    }
}
