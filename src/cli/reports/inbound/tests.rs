//! What the command shows of a store.

use super::*;
use crate::cli::tests::{configuration, run};
use crate::record::{AlignmentOutcome, ReportDisposition};
use crate::store::Location;
use crate::store::inbound::{InboundStore, Report, Retention, Row};

fn row(source_ip: &str, outcome: AlignmentOutcome, disposition: ReportDisposition, passed: &str) -> Row {
    Row {
        source_ip: source_ip.parse().unwrap(),
        header_from: None,
        disposition: Some(disposition),
        dkim: outcome,
        spf: AlignmentOutcome::Fail,
        dkim_passed: passed.into(),
        spf_passed: String::new(),
        reasons: String::new(),
    }
}

#[test]
fn who_sends_in_our_name_is_shown_by_domain_and_source() {
    use AlignmentOutcome::{Fail, Pass};
    let (directory, path) = configuration("[reports.inbound]\naddresses = [\"dmarc@example.net\"]\n");
    let arguments = ["reports", "inbound", "--config", &path];
    assert_eq!(run(&arguments).unwrap_err().0, 1, "no gate has run");

    let now = epoch_seconds_signed();
    let report = |id: &str, reporter: Option<&str>, rows: &[(Row, u64)]| Report {
        reporter: reporter.map(|name| Domain::parse(name).unwrap()),
        organization: "Big \u{1f4e7}".into(),
        report_id: id.into(),
        policy_domain: Domain::parse("example.net").unwrap(),
        policy: "reject".into(),
        begin: now - 86_400,
        end: now,
        rows: rows.to_vec(),
        left_out: 0,
    };
    let ours = row("192.0.2.1", Pass, ReportDisposition::None, "example.net");
    let forger = row("198.51.100.7", Fail, ReportDisposition::Reject, "");
    let list = row("198.51.100.8", Fail, ReportDisposition::None, "list.example esp.example");
    let reports = [
        report("1", Some("a.example"), &[(ours.clone(), 980), (forger.clone(), 5), (list, 10)]),
        report("2", Some("b.example"), &[(ours, 4), (forger.clone(), 1)]),
        Report { policy_domain: Domain::parse("other.example").unwrap(), ..report("3", None, &[(forger.clone(), 1)]) },
        Report { end: now - 40 * 86_400, ..report("4", Some("a.example"), &[(forger, 1000)]) },
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let location = Location::Sqlite(directory.path().join("store.db"));
    let mut store = InboundStore::new(location, Retention::default());
    for report in &reports {
        runtime.block_on(store.put(report, now)).unwrap();
    }

    let today = crate::calendar::Date::of_day(now.div_euclid(86_400));
    let expected = format!(
        "3 reports of 3 reporters, to {today}\n\
         \n\
         example.net, p=reject: 2 reports, 1000 messages\n\
         \x20 984 passed (98%), 16 failed: 6 rejected, 0 quarantined\n\
         \x20 sources that fail          messages     failed   DKIM    SPF    stopped  passed for                    reported by\n\
         \x20 198.51.100.8                     10         10     0%     0%          0  esp.example list.example      a.example\n\
         \x20 198.51.100.7                      6          6     0%     0%          6  -                             a.example b.example\n\
         \x20 sources that pass          messages     failed   DKIM    SPF    stopped  passed for                    reported by\n\
         \x20 192.0.2.1                       984          0   100%     0%          0  example.net                   a.example b.example\n\
         \n\
         other.example, p=reject: 1 reports, 1 messages\n\
         \x20 0 passed (0%), 1 failed: 1 rejected, 0 quarantined\n\
         \x20 sources that fail          messages     failed   DKIM    SPF    stopped  passed for                    reported by\n\
         \x20 198.51.100.7                      1          1     0%     0%          1  -                             \"Big \\u{{1f4e7}}\" (unverified)\n"
    );
    assert_eq!(run(&arguments).unwrap(), expected);

    let with = |more: &[&str]| run(&[&arguments[..], more].concat()).unwrap();
    let networks = with(&["--networks", "--domain", "example.net", "--top", "1"]);
    assert!(
        networks.contains("  198.51.100.0/24                  16         16     0%     0%          6"),
        "{networks}"
    );
    assert!(!networks.contains("other.example"), "{networks}");
    let first = with(&["--domain", "EXAMPLE.net", "--top", "1"]);
    assert!(first.contains("  1 more                            6          6\n"), "{first}");
    assert!(with(&["--since", "60d"]).contains("1006 rejected"));

    let json = with(&["--json", "--domain", "example.net"]);
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let expected = serde_json::json!({
        "policy_domain": "example.net", "source": "198.51.100.7", "messages": 6, "passed": 0, "failed": 6,
        "dkim_passed": 0, "spf_passed": 0, "rejected": 6, "quarantined": 0, "passed_for": [],
        "reporters": ["a.example", "b.example"],
    });
    assert_eq!(lines[1], expected);
}

#[test]
fn without_addresses_the_command_says_why_there_is_nothing() {
    let (directory, path) = configuration("");
    let location = Location::Sqlite(directory.path().join("store.db"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = crate::store::Settings::new(location);
    let store = runtime.block_on(crate::store::Store::open(settings, &crate::metrics::Registry::new())).unwrap();
    runtime.block_on(store.close(Duration::from_secs(5)));
    let told = run(&["reports", "inbound", "--config", &path]).unwrap();
    assert_eq!(told, "no reports: reports.inbound.addresses is empty in the configuration\n");
    assert_eq!(run(&["reports", "inbound", "--json", "--config", &path]).unwrap(), "");
    assert_eq!(run(&["reports", "inbound", "--domain", "..", "--config", &path]).unwrap_err().0, 2);
}
