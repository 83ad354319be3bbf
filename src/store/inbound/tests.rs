//! Reports of others against real databases.

use super::*;
use crate::store::testing::{Home, on_both};

on_both![
    the_same_report_counts_once_and_a_forged_copy_apart,
    the_largest_report_goes_in_whole_and_is_told_by_source,
    what_is_too_old_goes_and_beyond_the_bound_the_oldest,
    numbers_beyond_belief_do_not_stop_the_reading,
    nothing_is_read_before_the_first_start,
];

const NOW: i64 = 1_767_400_000;

fn row(source_ip: IpAddr, dkim: AlignmentOutcome) -> Row {
    Row {
        source_ip,
        header_from: Some(domain("example.net")),
        disposition: Some(ReportDisposition::None),
        dkim,
        spf: AlignmentOutcome::Fail,
        dkim_passed: "example.net".into(),
        spf_passed: String::new(),
        reasons: "forwarded other".into(),
    }
}

fn report(id: &str, rows: Vec<(Row, u64)>) -> Report {
    Report {
        reporter: Some(domain("reporter.example")),
        organization: "Reporter B\u{fc}ro".into(),
        report_id: id.into(),
        policy_domain: domain("example.net"),
        policy: "reject".into(),
        begin: 1_767_225_600,
        end: 1_767_311_999,
        rows,
        left_out: 0,
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn rows(count: u32) -> Vec<(Row, u64)> {
    (0..count).map(|n| (row(std::net::Ipv4Addr::from_bits(n).into(), AlignmentOutcome::Pass), 2)).collect()
}

async fn sources(home: &Home, since: i64) -> Vec<Source> {
    let mut sources = Vec::new();
    let reader = Reader::new(home.location.clone());
    reader.inbound_sources(since, |source| sources.push(source)).await.unwrap();
    sources
}

async fn the_same_report_counts_once_and_a_forged_copy_apart(home: Home) {
    let mut store = InboundStore::new(home.location.clone(), Retention::default());
    let original = report("1", vec![(row([192, 0, 2, 1].into(), AlignmentOutcome::Fail), 3)]);
    assert_eq!(store.put(&original, NOW).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&original, NOW + 60).await.unwrap(), Put::Known);
    let shouted = Report { organization: "REPORTER B\u{dc}RO".into(), rows: rows(2), ..original.clone() };
    assert_eq!(store.put(&shouted, NOW).await.unwrap(), Put::Known);
    for other in [
        Report { reporter: None, ..original.clone() },
        Report { report_id: "2".into(), ..original.clone() },
        Report { policy_domain: domain("example.com"), ..original.clone() },
        Report { organization: "Another".into(), ..original.clone() },
    ] {
        assert_eq!(store.put(&other, NOW).await.unwrap(), Put::Stored);
        let mut again = InboundStore::new(home.location.clone(), Retention::default());
        assert_eq!(again.put(&other, NOW).await.unwrap(), Put::Known, "another gate, or a later start");
    }

    let reporting = Reader::new(home.location.clone()).inbound_reporting(0).await.unwrap();
    let told: Vec<_> =
        reporting.iter().map(|r| (&*r.policy_domain, &*r.reporter, &*r.organization, r.reports, r.messages)).collect();
    let expected = [
        ("example.com", "reporter.example", "Reporter B\u{fc}ro", 1, 3),
        ("example.net", "", "Reporter B\u{fc}ro", 1, 3),
        ("example.net", "reporter.example", "Another", 1, 3),
        ("example.net", "reporter.example", "Reporter B\u{fc}ro", 2, 6),
    ];
    assert_eq!(told, expected);
    assert_eq!((&*reporting[0].policy, reporting[0].last_end), ("reject", 1_767_311_999));
    assert_eq!(Reader::new(home.location.clone()).inbound_reporting(1_767_312_000).await.unwrap(), []);
}

async fn the_largest_report_goes_in_whole_and_is_told_by_source(home: Home) {
    let mut store = InboundStore::new(home.location.clone(), Retention::default());
    // The last statement of a report has fewer rows than the others.
    let largest = report("1", rows(2_503));
    assert_eq!(store.put(&largest, NOW).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&report("2", rows(1)), NOW).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&report("3", Vec::new()), NOW).await.unwrap(), Put::Stored);

    let told = sources(&home, 0).await;
    assert_eq!(told.len(), 2_503);
    assert_eq!(told.iter().map(|source| source.messages).sum::<u64>(), 2 * 2_504);
    let first = Source {
        policy_domain: "example.net".into(),
        source_ip: [0, 0, 0, 0].into(),
        reporter: "reporter.example".into(),
        organization: "Reporter B\u{fc}ro".into(),
        disposition: Some(ReportDisposition::None),
        dkim: AlignmentOutcome::Pass,
        spf: AlignmentOutcome::Fail,
        dkim_passed: "example.net".into(),
        spf_passed: String::new(),
        messages: 4,
    };
    assert_eq!(told[0], first);
    assert_eq!(sources(&home, 1_767_312_000).await, []);
    assert_eq!(home.number("SELECT COUNT(*) FROM inbound_rows").await, 2_504);
}

async fn numbers_beyond_belief_do_not_stop_the_reading(home: Home) {
    let mut store = InboundStore::new(home.location.clone(), Retention::default());
    for id in ["1", "2", "3"] {
        let rows = vec![(row([192, 0, 2, 1].into(), AlignmentOutcome::Fail), u64::MAX)];
        store.put(&report(id, rows), NOW).await.unwrap();
    }
    // As an earlier version would have stored them.
    home.execute("UPDATE inbound_rows SET n = 9000000000000000000").await;
    home.execute("UPDATE inbound_reports SET messages = 9000000000000000000").await;
    let told = sources(&home, 0).await;
    assert_eq!(told.iter().map(|source| source.messages).collect::<Vec<_>>(), [3 * MAX_MESSAGES]);
    let reporting = Reader::new(home.location.clone()).inbound_reporting(0).await.unwrap();
    assert_eq!(reporting.iter().map(|r| r.messages).collect::<Vec<_>>(), [3 * MAX_MESSAGES]);
}

async fn what_is_too_old_goes_and_beyond_the_bound_the_oldest(home: Home) {
    let day = 86_400;
    let retention = Retention { keep: Duration::from_secs(10 * 86_400), rows: 100 };
    let ids = || async {
        let sum = home.number("SELECT CAST(SUM(CAST(report_id AS BIGINT)) AS BIGINT) FROM inbound_reports").await;
        (sum, home.number("SELECT COUNT(*) FROM inbound_rows").await)
    };
    // Each store prunes with its first report.
    for (id, received) in [("1", NOW - 11 * day), ("10", NOW - 9 * day), ("100", NOW)] {
        let mut store = InboundStore::new(home.location.clone(), retention);
        store.put(&report(id, rows(30)), received).await.unwrap();
    }
    assert_eq!(ids().await, (110, 60), "the first was too old");
    let mut store = InboundStore::new(home.location.clone(), retention);
    for id in 1000..1025 {
        store.put(&report(&id.to_string(), Vec::new()), NOW + 1).await.unwrap();
    }
    store = InboundStore::new(home.location.clone(), retention);
    store.put(&report("10000", rows(40)), NOW + 2).await.unwrap();
    // 3 reports of 100 rows and 25 without any are 128; the twenty oldest went, 30 + 30 rows with two of them.
    assert_eq!(home.number("SELECT COUNT(*) FROM inbound_reports").await, 8);
    assert_eq!(home.number("SELECT COUNT(*) FROM inbound_rows").await, 40);
    assert_eq!(home.number("SELECT COUNT(*) FROM inbound_reports WHERE report_id = '10000'").await, 1);
}

async fn nothing_is_read_before_the_first_start(home: Home) {
    let reader = Reader::new(home.location.clone());
    assert!(reader.inbound_reporting(0).await.is_err());
    assert!(reader.inbound_sources(0, |_| panic!("nothing is there")).await.is_err());
}
