//! Aggregate reports as their readers get them, and mixed days of them for `tests/conformance`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use dmarcgate::domain::Domain;
use dmarcgate::label::Label;
use dmarcgate::record::{
    AlignmentMode, AlignmentOutcome, Counted, DiscoveryMethod, DkimAuthResult, FinalReply, OverrideKind,
    OverrideReason, Policy, PolicyEvaluated, PolicyPublished, Record, ReportDisposition, SpfAuthResult, SpfScope,
    TestMode,
};
use dmarcgate::report::aggregate::{
    Draft, Drafts, Feedback, Format, LeftOut, Limits, Period, PrivateAddresses, Reporter, check,
};
use serde_json::{Value, json};

use crate::cli::golden;

#[test]
fn a_report_in_both_formats_is_as_the_golden_files_have_it() {
    for (format, name) in [(Format::Rfc9990, "aggregate/rfc9990.xml"), (Format::Rfc7489, "aggregate/rfc7489.xml")] {
        let [feedback] = &reports(day(), format)[..] else { panic!("one configuration") };
        let xml = feedback.to_xml();
        check(&xml, format).unwrap();
        golden(name, &xml.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }
}

/// `cargo test --test it -- --ignored aggregate::`; `DMARCGATE_REPORTS` names the file. Each world is a JSON line: the
/// rows that went in, and the reports that came out.
#[test]
#[ignore = "writes a file for tests/conformance: .ci/run does so"]
fn mixed_days_for_other_readers() {
    let path = std::env::var("DMARCGATE_REPORTS").expect("DMARCGATE_REPORTS names the file");
    let mut lines = Vec::new();
    for seed in 0..300 {
        for format in Format::ALL {
            let rows = world(&mut Dice(seed));
            let shown: Vec<_> = rows.iter().map(show).collect();
            let reports: Vec<_> = reports(rows, *format).iter().map(show_report).collect();
            lines.push(json!({ "format": format.as_str(), "rows": shown, "reports": reports }).to_string());
        }
    }
    std::fs::write(path, lines.join("\n")).expect("a file that can be written");
}

/// What the gate writes it reads, row by row.
#[test]
fn our_own_reader_finds_each_row_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut files, mut expected) = (Vec::new(), Vec::new());
    for (n, format) in (0..40).flat_map(|seed| Format::ALL.iter().map(move |format| (seed, *format))) {
        let rows = world(&mut Dice(n));
        for feedback in reports(rows.clone(), format) {
            let record = &feedback.policy.record;
            let of_report = |row: &&Counted| row.record.policy.as_ref().is_some_and(|p| p.record == *record);
            let mut counted = BTreeMap::new();
            for Counted { record, count } in rows.iter().filter(of_report) {
                if !record.source_ip.to_string().starts_with("10.") {
                    *counted.entry(told(record, format)).or_insert(0) += count;
                }
            }
            let file = directory.path().join(format!("{}.xml", files.len()));
            std::fs::write(&file, feedback.to_xml()).unwrap();
            files.push(file);
            expected.push((feedback.id.as_str().to_owned(), counted));
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_dmarcgate"))
        .args(["reports", "inbound", "read", "--json"])
        .args(&files)
        .output()
        .expect("cargo has built the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<_> = text
        .lines()
        .map(|line| {
            let report: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&report["left_out"], &report["policy_domain"]), (&json!(0), &json!("reject.example")));
            let mut rows = BTreeMap::new();
            for row in report["rows"].as_array().unwrap() {
                let word = |key: &str| row[key].as_str().unwrap_or_else(|| panic!("{key}: {row}")).to_owned();
                let words =
                    |key: &str| row[key].as_array().unwrap().iter().map(|w| w.as_str().unwrap().into()).collect();
                let key = (
                    [word("source_ip"), word("header_from"), word("disposition"), word("dkim"), word("spf")],
                    [words("dkim_passed"), words("spf_passed")],
                );
                *rows.entry(key).or_insert(0) += row["messages"].as_u64().unwrap();
            }
            (report["report_id"].as_str().unwrap().to_owned(), rows)
        })
        .collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

/// What a reader learns of a row: where from, for whom, what was done, what passed and for which names.
type Told = ([String; 5], [BTreeSet<String>; 2]);

fn told(record: &Record, format: Format) -> Told {
    let evaluated = &record.evaluated;
    let disposition = match (format, evaluated.disposition) {
        (Format::Rfc7489, ReportDisposition::Pass) => ReportDisposition::None,
        (_, disposition) => disposition,
    };
    let passed = |name: &str, result: &str| {
        Domain::parse(name).ok().filter(|_| result == "pass").map(|domain| domain.as_str().to_owned())
    };
    let signatures = record.dkim.iter().filter(|signature| !signature.selector.trim().is_empty());
    (
        [
            record.source_ip.to_string(),
            record.header_from.as_ref().expect("an author domain").as_str().to_owned(),
            disposition.as_str().to_owned(),
            evaluated.dkim.as_str().to_owned(),
            evaluated.spf.as_str().to_owned(),
        ],
        [
            signatures.filter_map(|signature| passed(&signature.domain, &signature.result)).collect(),
            record.spf.iter().filter_map(|spf| passed(&spf.domain, &spf.result)).collect(),
        ],
    )
}

fn reports(rows: Vec<Counted>, format: Format) -> Vec<Feedback> {
    let mut drafts = Drafts::new(PrivateAddresses::Omit, Limits::default());
    rows.into_iter().for_each(|row| drafts.add(row));
    let reporter = Reporter {
        organization: "Example Networks <&> Söhne".into(),
        email: "dmarc-reports@rcpt.example".into(),
        extra_contact_info: Some("https://rcpt.example/dmarc?a&b".into()),
        receiver: domain("rcpt.example"),
        format,
    };
    let (drafts, left_out) = drafts.finish();
    assert_eq!(left_out, LeftOut::default());
    drafts.into_iter().filter_map(|draft: Draft| draft.finish(&reporter, Period::day(20_454)).0).collect()
}

fn show_report(feedback: &Feedback) -> Value {
    let xml = feedback.to_xml();
    check(&xml, feedback.reporter.format).unwrap();
    json!({
        "xml": xml,
        "file_name": feedback.file_name(),
        "id": feedback.id.as_str(),
        "record": feedback.policy.record,
    })
}

/// A row as what it was made of, for who counts on his own.
fn show(Counted { record, count }: &Counted) -> Value {
    let policy = record.policy.as_ref().expect("a policy");
    let evaluated = &record.evaluated;
    json!({
        "count": count,
        "record": policy.record,
        "source_ip": record.source_ip.to_string(),
        "disposition": evaluated.disposition.as_str(),
        "dkim_aligned": evaluated.dkim.as_str(),
        "spf_aligned": evaluated.spf.as_str(),
        "reasons": evaluated.reasons,
        "header_from": record.header_from.as_ref().map(Domain::as_str),
        "envelope_from": record.envelope_from,
        "envelope_to": record.envelope_to,
        "dkim": record.dkim,
        "spf": record.spf.as_ref().map(|spf| json!({ "domain": spf.domain, "result": spf.result })),
    })
}

/// A day in the life of one domain.
fn day() -> Vec<Counted> {
    let mut forged = row("reject", Policy::Reject);
    forged.record.dkim.clear();
    let mut honest = row("reject", Policy::Reject);
    honest.count = 240;
    honest.record.source_ip = "2001:db8::25".parse().unwrap();
    honest.record.evaluated.disposition = ReportDisposition::Pass;
    honest.record.evaluated.dkim = AlignmentOutcome::Pass;
    honest.record.evaluated.spf = AlignmentOutcome::Pass;
    honest.record.envelope_from = "bounce.reject.example".into();
    let signature = |domain: &str, selector: &str, result: &str| DkimAuthResult {
        domain: domain.into(),
        selector: selector.into(),
        result: result.into(),
    };
    honest.record.dkim = vec![
        signature("reject.example", "s1", "pass"),
        signature("esp.example", "<s&2>", "pass"),
        signature("reject.example", "old", "permerror"),
    ];
    let mut again = honest.clone();
    again.count = 2;
    again.record.arrived += 60;
    let mut bounce = row("reject", Policy::Reject);
    bounce.record.envelope_from.clear();
    bounce.record.spf =
        Some(SpfAuthResult { domain: "mail.example".into(), scope: SpfScope::Helo, result: "none".into() });
    let mut list = row("reject", Policy::Reject);
    list.record.source_ip = [203, 0, 113, 7].into();
    list.record.evaluated.disposition = ReportDisposition::Quarantine;
    list.record.evaluated.reasons = vec![
        OverrideReason { kind: OverrideKind::PolicyTestMode, comment: String::new() },
        OverrideReason { kind: OverrideKind::MailingList, comment: "List-Id & co".into() },
    ];
    list.record.spf = None;
    let mut inside = row("reject", Policy::Reject);
    inside.record.source_ip = [10, 0, 0, 1].into();
    vec![forged, honest, bounce, list, again, inside]
}

/// What a day may bring, rightly and hostilely.
fn world(dice: &mut Dice) -> Vec<Counted> {
    (0..dice.below(40) + 1)
        .map(|_| {
            let (name, p) = dice.of(&[("reject", Policy::Reject), ("none", Policy::None), ("old", Policy::Quarantine)]);
            let mut row = row(name, p);
            row.count = dice.below(1000) as u64 + 1;
            let record = &mut row.record;
            let low = dice.below(4) as u8;
            record.source_ip = match dice.below(4) {
                0 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low.into()).into(),
                1 => IpAddr::from([10, 0, 0, low]),
                _ => IpAddr::from([192, 0, 2, low]),
            };
            record.evaluated.disposition = dice.of(ReportDisposition::ALL);
            record.evaluated.dkim = dice.of(AlignmentOutcome::ALL);
            record.evaluated.spf = dice.of(AlignmentOutcome::ALL);
            let kinds: Vec<_> = (0..dice.below(3) + 1).map(|_| dice.of(OverrideKind::ALL)).collect();
            record.evaluated.reasons =
                kinds.into_iter().map(|kind| OverrideReason { kind, comment: dice.text() }).collect();
            record.header_from = Some(domain(dice.of(&["x.example", "a.x.example", "b.x.example"])));
            record.envelope_from = dice.text();
            record.envelope_to = (dice.below(2) == 0).then(|| "rcpt.example".into());
            record.dkim = (0..dice.below(4))
                .map(|_| DkimAuthResult { domain: dice.text(), selector: dice.text(), result: dice.result() })
                .collect();
            let scope = dice.of(SpfScope::ALL);
            record.spf =
                (dice.below(4) > 0).then(|| SpfAuthResult { domain: dice.text(), scope, result: dice.result() });
            row
        })
        .collect()
}

fn row(name: &str, p: Policy) -> Counted {
    let policy = PolicyPublished {
        domain: domain("reject.example"),
        discovery: DiscoveryMethod::TreeWalk,
        record: format!("v=DMARC1; p={p}; sp=x; pct=50; rua=mailto:{name}@reject.example"),
        adkim: AlignmentMode::Relaxed,
        aspf: AlignmentMode::Strict,
        p,
        sp: None,
        np: Some(Policy::Reject),
        fo: "1:d:s".into(),
        testing: TestMode::Off,
        requested: p,
    };
    let record = Record {
        arrived: 20_454 * 86_400,
        source_ip: IpAddr::from([198, 51, 100, 66]),
        policy: Some(policy),
        evaluated: PolicyEvaluated::new(ReportDisposition::Reject, (false, false), &[]),
        header_from: Some(domain("reject.example")),
        envelope_from: "evil.example".into(),
        envelope_to: None,
        dkim: vec![DkimAuthResult { domain: "evil.example".into(), selector: "x".into(), result: "fail".into() }],
        spf: Some(SpfAuthResult {
            domain: "evil.example".into(),
            scope: SpfScope::MailFrom,
            result: "softfail".into(),
        }),
        reply: FinalReply::RefusedByGate,
    };
    Counted { record, count: 7 }
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

/// Chance that comes out the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn result(&mut self) -> String {
        self.of(&["none", "pass", "fail", "neutral", "temperror", "permerror"]).into()
    }

    /// Some name; one time in four nothing that a name would be.
    fn text(&mut self) -> String {
        match self.below(4) {
            0 => self.of(HOSTILE).into(),
            _ => self.of(&["a.example", "b.example", "c.example"]).into(),
        }
    }
}

const HOSTILE: &[&str] = &[
    "",
    " ",
    "]]>",
    "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>&y;",
    "</domain><domain>b.example",
    "\u{0}\u{1}\u{1f}\u{7f}\u{85}",
    "a\r\nb\tc",
    "\u{FFFE}\u{FFFF}\u{FDD0}",
    "\u{202e}\u{1F600}\u{10FFFF}",
    "b\u{fc}cher.example",
    "\"'=&amp;&#0;&#x1;",
];
