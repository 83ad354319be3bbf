//! Sums for the status page over real databases.

use super::*;
use crate::domain::Domain;
use crate::metrics::Registry;
use crate::record::{AlignmentOutcome, Record, sample};
use crate::store::inbound::{InboundStore, Report, Retention as Kept, Row};
use crate::store::jobs::{Jobs, NewJob, Room, Shares};
use crate::store::testing::{Home, on_both};
use crate::store::{Retention, Settings, Store};

on_both![failing_mail_is_summed_up_by_author_domain_and_address, jobs_are_tallied, others_tell_of_addresses];

/// The day of [`sample::record`], in seconds since the epoch.
const DAY: i64 = 1_767_225_600;

fn record(author: &str, address: [u8; 4], disposition: ReportDisposition, aligned: AlignmentOutcome) -> Record {
    let mut record = sample::record();
    record.header_from = Some(Domain::parse(author).unwrap());
    record.source_ip = address.into();
    record.evaluated.disposition = disposition;
    record.evaluated.spf = aligned;
    record
}

async fn failing_mail_is_summed_up_by_author_domain_and_address(home: Home) {
    let retention = Retention { keep_rows: Duration::from_secs(100 * 366 * 86_400), ..Retention::default() };
    let settings = Settings { retention, ..Settings::new(home.location.clone()) };
    let store = Store::open(settings, &Registry::new()).await.unwrap();
    let fail = |author, address, disposition| record(author, address, disposition, AlignmentOutcome::Fail);
    let all = [
        fail("b.example", [192, 0, 2, 1], ReportDisposition::Reject),
        fail("b.example", [192, 0, 2, 1], ReportDisposition::Reject),
        fail("b.example", [192, 0, 2, 1], ReportDisposition::Quarantine),
        fail("b.example", [192, 0, 2, 2], ReportDisposition::None),
        fail("a.example", [192, 0, 2, 3], ReportDisposition::None),
        record("a.example", [192, 0, 2, 4], ReportDisposition::Pass, AlignmentOutcome::Pass),
    ];
    all.into_iter().for_each(|record| store.appender().append(record));
    store.close(Duration::from_secs(10)).await;
    let reader = Reader::new(home.location.clone());
    let found = reader.failing(DAY, 10, 1).await.unwrap();
    let of = |author: &str, numbers: (i64, i64, i64), addresses, from: (&str, i64)| Failing {
        author_domain: author.into(),
        messages: numbers.0,
        refused: numbers.1,
        quarantined: numbers.2,
        addresses,
        from: vec![(from.0.into(), from.1)],
    };
    let expected = [of("b.example", (4, 2, 1), 2, ("192.0.2.1", 3)), of("a.example", (1, 0, 0), 1, ("192.0.2.3", 1))];
    assert_eq!(found, expected);
    assert_eq!(reader.failing(DAY, 1, 5).await.unwrap().len(), 1);
    assert_eq!(reader.failing(DAY + SECONDS_PER_DAY, 10, 5).await.unwrap(), []);
}

async fn jobs_are_tallied(home: Home) {
    let job = |id: &str, end| NewJob {
        id: id.into(),
        former_id: id.into(),
        report_id: format!("{id}ff"),
        policy_domain: "example.org".into(),
        configuration: "c".into(),
        begin: end - 86_399,
        end,
        destination: "mailto:d@example.org".into(),
        due: end + 10,
        deadline: end + 86_400,
    };
    let mut jobs = Jobs::open(&home.location).await.unwrap();
    let suffixes = crate::dmarc::public_suffix::List::default();
    let shares = Shares { suffixes: &suffixes, room: Room::First, of_organization: 10 };
    jobs.plan(&[job("a1", DAY), job("a2", DAY), job("a3", DAY - 1)], &shares, DAY).await.unwrap();
    let tally = Reader::new(home.location.clone()).report_tally(DAY).await.unwrap();
    assert_eq!(tally, [Tally { state: JobState::Due, reports: 2, messages: 0 }]);
}

async fn others_tell_of_addresses(home: Home) {
    let domain = |name: &str| Domain::parse(name).unwrap();
    let row = |address: [u8; 4], dkim, signers: &str| Row {
        source_ip: address.into(),
        header_from: Some(domain("example.net")),
        disposition: Some(ReportDisposition::None),
        dkim,
        spf: AlignmentOutcome::Fail,
        dkim_passed: signers.into(),
        spf_passed: String::new(),
        reasons: String::new(),
    };
    let report = |organization: &str, rows| Report {
        reporter: Some(domain("reporter.example")),
        organization: organization.into(),
        report_id: "1".into(),
        policy_domain: domain("example.net"),
        policy: "reject".into(),
        begin: DAY - 86_399,
        end: DAY,
        rows,
        left_out: 0,
    };
    let (pass, fail) = (AlignmentOutcome::Pass, AlignmentOutcome::Fail);
    let reader = Reader::new(home.location.clone());
    let mut store = InboundStore::new(home.location.clone(), Kept::default());
    let first = vec![(row([192, 0, 2, 1], pass, "example.net"), 40), (row([192, 0, 2, 2], fail, "bulk.example"), 3)];
    store.put(&report("One", first), DAY).await.unwrap();
    store.put(&report("Two", vec![(row([192, 0, 2, 2], fail, ""), 4)]), DAY).await.unwrap();
    let found = reader.inbound(DAY, 1).await.unwrap();
    let numbers = (found.reports, found.messages, found.last_end, found.reporters);
    assert_eq!(numbers, (2, 47, DAY, 2));
    let worst = Reported {
        policy_domain: "example.net".into(),
        source_ip: "192.0.2.2".into(),
        messages: 7,
        failed: 7,
        reporters: 2,
        signers: "bulk.example".into(),
    };
    assert_eq!(found.sources, [worst]);
    assert_eq!(reader.inbound(DAY + 1, 1).await.unwrap(), Inbound::default());
}
