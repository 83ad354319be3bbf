//! Jobs over real databases.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;

use super::*;
use crate::metrics::Registry;
use crate::record::{Record, sample};
use crate::store::testing::{Home, on_both};
use crate::store::{Periods, Settings, Store};

on_both![
    planning_twice_changes_nothing,
    of_eight_rivals_one_has_the_job,
    what_a_dead_gate_held_goes_on_when_its_lease_has_run_out,
    only_the_holder_settles,
    the_message_is_kept_as_long_as_it_may_be_sent_again,
    all_gates_together_keep_to_the_rate,
    a_flood_of_subdomains_is_bounded_and_does_not_come_first,
    a_part_of_a_day_is_such_a_part_of_the_share,
    what_an_earlier_version_planned_is_not_planned_again,
    what_is_on_its_way_counts_and_what_only_waits_does_not,
    a_clock_that_is_ahead_is_found_out,
    what_takes_the_place_of_a_job_takes_no_room_of_others,
    what_was_spared_does_not_use_up_the_rate,
    refusals_suppress_for_longer_each_time,
    rows_come_back_in_pages_with_their_policies,
    jobs_are_found_counted_and_pruned,
    a_secret_is_made_once,
    rows_of_parts_of_a_day_are_told_apart,
    failure_reports_are_known_until_they_are_too_old_or_too_many,
];

const NOW: i64 = 1_800_000_000;

fn job(id: &str) -> NewJob {
    NewJob {
        id: id.into(),
        former_id: id.into(),
        report_id: format!("{id}ff"),
        policy_domain: "example.org".into(),
        configuration: "c".into(),
        begin: NOW - 2 * 86_400,
        end: NOW - 86_401,
        destination: "mailto:d@example.org".into(),
        due: NOW - 10,
        deadline: NOW + 86_400,
    }
}

fn claim(holder: &str, now: i64) -> Claim<'_> {
    Claim { holder, now, lease: 600, rate: 1000 }
}

fn settlement<'a>(holder: &'a str, state: JobState) -> Settlement<'a> {
    Settlement { holder, now: NOW, state, due: NOW + 900, answered: 1, effort: Effort::Spent, note: "so it was" }
}

fn departure(holder: &str) -> Departure<'_> {
    Departure { holder, lease: NOW + 1200, recipient: "d@example.org", messages: 3, message: b"Subject: x" }
}

/// With room for all.
async fn plan(jobs: &mut Jobs, planned: &[NewJob]) -> Planned {
    plan_within(jobs, planned, 1000).await
}

async fn plan_within(jobs: &mut Jobs, planned: &[NewJob], limit: i64) -> Planned {
    plan_in(jobs, Room::First, planned, limit).await
}

async fn plan_in(jobs: &mut Jobs, room: Room, planned: &[NewJob], of_organization: i64) -> Planned {
    let suffixes = List::default();
    let shares = Shares { suffixes: &suffixes, room, of_organization };
    jobs.plan(planned, &shares, NOW).await.unwrap()
}

async fn open(home: &Home) -> Jobs {
    Jobs::open(&home.location).await.unwrap()
}

async fn planning_twice_changes_nothing(home: Home) {
    let mut jobs = open(&home).await;
    let planned = [job("a2"), job("a1")];
    assert_eq!(plan(&mut jobs, &planned).await.new, 2);
    let taken = jobs.claim(&claim("one", NOW)).await.unwrap().unwrap();
    assert_eq!((&*taken.planned.id, taken.state, taken.attempts, &*taken.holder), ("a1", JobState::Claimed, 1, "one"));
    assert_eq!(plan(&mut open(&home).await, &planned).await.new, 0);
    assert_eq!(jobs.find("a1").await.unwrap(), [taken], "still his");
}

async fn of_eight_rivals_one_has_the_job(home: Home) {
    let mut jobs = open(&home).await;
    let count = 20;
    let planned: Vec<_> = (0..count).map(|i| job(&format!("a{i:02}"))).collect();
    plan(&mut jobs, &planned).await;
    let mut rivals = tokio::task::JoinSet::new();
    for rival in 0..8 {
        let mut jobs = open(&home).await;
        rivals.spawn(async move {
            let holder = format!("rival {rival}");
            let mut taken = Vec::new();
            while let Some(job) = jobs.claim(&claim(&holder, NOW)).await.unwrap() {
                assert_eq!(job.holder, holder);
                taken.push(job.planned.id);
            }
            taken
        });
    }
    let taken = rivals.join_all().await.concat();
    assert_eq!(taken.len(), count, "none twice");
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), count, "none left out");
}

async fn what_a_dead_gate_held_goes_on_when_its_lease_has_run_out(home: Home) {
    let mut jobs = open(&home).await;
    plan(&mut jobs, &[job("a1")]).await;
    jobs.claim(&claim("dead", NOW)).await.unwrap().unwrap();
    assert!(jobs.depart("a1", &departure("dead")).await.unwrap());
    let lease = NOW + 1200;
    // One whose clock is ahead doesn't take it away.
    for now in [NOW + 601, lease, lease + CLOCK_TOLERANCE] {
        assert_eq!(jobs.claim(&claim("other", now)).await.unwrap(), None, "{now}");
    }
    let taken = jobs.claim(&claim("other", lease + CLOCK_TOLERANCE + 1)).await.unwrap().unwrap();
    assert_eq!((taken.attempts, taken.unanswered, &*taken.message), (2, 1, &b"Subject: x"[..]));
    assert!(!jobs.settle("a1", &settlement("dead", JobState::Sent)).await.unwrap(), "it comes too late");
    assert!(!jobs.depart("a1", &departure("dead")).await.unwrap());
    assert!(jobs.settle("a1", &settlement("other", JobState::Due)).await.unwrap());
}

async fn only_the_holder_settles(home: Home) {
    let mut jobs = open(&home).await;
    plan(&mut jobs, &[job("a1")]).await;
    assert!(!jobs.settle("a1", &settlement("", JobState::Sent)).await.unwrap(), "nobody has it");
    jobs.claim(&claim("one", NOW)).await.unwrap().unwrap();
    assert!(!jobs.settle("a1", &settlement("two", JobState::Sent)).await.unwrap());
    assert!(!jobs.depart("a1", &departure("two")).await.unwrap());
    assert!(jobs.settle("a1", &settlement("one", JobState::Failed)).await.unwrap());
    let ended = &jobs.find("a1").await.unwrap()[0];
    assert_eq!((ended.state, &*ended.note, &*ended.holder), (JobState::Failed, "so it was", ""));
    assert_eq!(jobs.claim(&claim("one", NOW + 90_000)).await.unwrap(), None, "what has ended stays so");
}

async fn the_message_is_kept_as_long_as_it_may_be_sent_again(home: Home) {
    let mut jobs = open(&home).await;
    plan(&mut jobs, &[job("a1")]).await;
    jobs.claim(&claim("one", NOW)).await.unwrap().unwrap();
    jobs.depart("a1", &departure("one")).await.unwrap();
    let unanswered = Settlement { answered: 0, ..settlement("one", JobState::Due) };
    jobs.settle("a1", &unanswered).await.unwrap();
    assert_eq!(jobs.claim(&claim("one", NOW + 899)).await.unwrap(), None, "not before its time");
    let again = jobs.claim(&claim("one", NOW + 900)).await.unwrap().unwrap();
    assert_eq!((&*again.message, again.unanswered, again.messages), (&b"Subject: x"[..], 1, 3));
    jobs.depart("a1", &departure("one")).await.unwrap();
    jobs.settle("a1", &settlement("one", JobState::Sent)).await.unwrap();
    let sent = &jobs.find("a1").await.unwrap()[0];
    assert_eq!((&*sent.message, sent.unanswered, sent.attempts), (&b""[..], 1, 2), "one reply was never heard");
}

async fn all_gates_together_keep_to_the_rate(home: Home) {
    let mut jobs = open(&home).await;
    plan(&mut jobs, &(0..5).map(|i| job(&format!("a{i}"))).collect::<Vec<_>>()).await;
    let slow = |holder, now| Claim { rate: 2, ..claim(holder, now) };
    assert!(jobs.claim(&slow("one", NOW)).await.unwrap().is_some());
    assert!(jobs.claim(&slow("two", NOW + 30)).await.unwrap().is_some());
    assert!(jobs.claim(&slow("one", NOW + 59)).await.unwrap().is_none());
    assert!(jobs.claim(&slow("one", NOW + 60)).await.unwrap().is_some(), "the first is a minute ago");
    assert!(jobs.claim(&slow("one", NOW + 60)).await.unwrap().is_none());
}

async fn a_flood_of_subdomains_is_bounded_and_does_not_come_first(home: Home) {
    let mut jobs = open(&home).await;
    let about = |id: String, policy_domain: &str, destination: &str, due| NewJob {
        policy_domain: policy_domain.into(),
        destination: destination.into(),
        due,
        ..job(&id)
    };
    let flood: Vec<_> = (0..30)
        .map(|n| about(format!("a{n:02}"), &format!("z{n}.w.example"), "mailto:d@w.example", NOW - 1000))
        .collect();
    let room = 20;
    assert_eq!(plan_within(&mut jobs, &flood, room).await, Planned { new: 20, left_out: 10 });
    assert_eq!(plan_within(&mut jobs, &flood, room).await, Planned { new: 0, left_out: 10 }, "and so it stays");
    let honest = about("ff".into(), "honest.example", "mailto:d@honest.example", NOW - 10);
    assert_eq!(plan_within(&mut jobs, &[honest], room).await.new, 1);
    let tomorrow: Vec<_> = flood
        .iter()
        .map(|job| NewJob {
            id: format!("c{}", job.id),
            former_id: String::new(),
            begin: job.begin + 86_400,
            end: job.end + 86_400,
            ..job.clone()
        })
        .collect();
    assert_eq!(plan_within(&mut jobs, &tomorrow, room).await.new, 20, "another day has a share of its own");

    let mut order = Vec::new();
    while let Some(job) = jobs.claim(&claim("one", NOW)).await.unwrap() {
        order.push(job.planned.policy_domain);
    }
    let place = order.iter().position(|domain| domain == "honest.example").unwrap();
    assert!(place < 8, "{place} of {}", order.len());
}

async fn what_takes_the_place_of_a_job_takes_no_room_of_others(home: Home) {
    let mut jobs = open(&home).await;
    let several = |name: &str, count: usize| (0..count).map(|n| job(&format!("{name}{n:02}"))).collect::<Vec<_>>();
    let room = 10;
    assert_eq!(plan_within(&mut jobs, &several("a", 6), room).await, Planned { new: 6, left_out: 0 });
    let replacements = several("b", 12);
    let planned = plan_in(&mut jobs, Room::Replacing, &replacements, room).await;
    assert_eq!(planned, Planned { new: 10, left_out: 2 }, "as many again");
    assert_eq!(plan_within(&mut jobs, &several("c", 5), room).await, Planned { new: 4, left_out: 1 }, "ten in all");
    let honest = NewJob { policy_domain: "honest.example".into(), due: NOW - 1, ..job("d") };
    assert_eq!(plan_in(&mut jobs, Room::Replacing, &[honest], room).await, Planned { new: 1, left_out: 0 });

    let mut order = Vec::new();
    while let Some(job) = jobs.claim(&claim("one", NOW)).await.unwrap() {
        order.push(job.planned.policy_domain);
    }
    assert_eq!(order.iter().position(|domain| domain == "honest.example"), Some(1), "turns are of both together");
}

async fn a_part_of_a_day_is_such_a_part_of_the_share(home: Home) {
    let mut jobs = open(&home).await;
    let midnight = NOW - NOW.rem_euclid(86_400) - 86_400;
    let hours: Vec<_> = (0..60)
        .map(|n| {
            let begin = midnight + 3600 * (n % 24);
            NewJob { begin, end: begin + 3599, ..job(&format!("a{n:02}")) }
        })
        .collect();
    let day = |id| NewJob { begin: midnight, end: midnight + 86_399, ..job(id) };
    assert_eq!(plan_within(&mut jobs, &hours[..47], 2).await, Planned { new: 47, left_out: 0 });
    assert_eq!(plan_within(&mut jobs, &[day("b1"), day("b2")], 2).await, Planned { new: 1, left_out: 1 });
    assert_eq!(plan_within(&mut jobs, &hours, 2).await, Planned { new: 0, left_out: 13 });
}

async fn what_an_earlier_version_planned_is_not_planned_again(home: Home) {
    let mut jobs = open(&home).await;
    assert_eq!(plan(&mut jobs, &[job("a1")]).await.new, 1);
    let renamed = |id: &str, former: &str| NewJob { former_id: former.into(), ..job(id) };
    assert_eq!(plan(&mut jobs, &[renamed("b1", "a1")]).await, Planned::default());
    assert_eq!(plan(&mut jobs, &[renamed("b2", "a2")]).await.new, 1);
}

async fn what_is_on_its_way_counts_and_what_only_waits_does_not(home: Home) {
    let mut jobs = open(&home).await;
    let to = |id: &str, destination: &str| NewJob { destination: destination.into(), ..job(id) };
    let (d, e) = ("mailto:d@svc.example", "mailto:e@mx.svc.example");
    plan(&mut jobs, &[to("a1", d), to("a2", d), to("a3", e), to("a4", d), to("b1", "mailto:d@example.org")]).await;
    for _ in 0..5 {
        jobs.claim(&claim("one", NOW)).await.unwrap().unwrap();
    }
    let with = |id, address| Reservation { id, holder: "one", address, since: NOW - 5 };
    let sent = |to_address, to_organization| Sent { to_address, to_organization };
    let (d, e) = ("d@svc.example", "e@mx.svc.example");
    assert_eq!(jobs.sent(&with("a1", d)).await.unwrap(), sent(0, 0), "claimed, and no more");
    assert_eq!(jobs.reserve(&with("a1", d)).await.unwrap(), Some(sent(0, 0)));
    assert_eq!(jobs.reserve(&with("a2", d)).await.unwrap(), Some(sent(1, 1)), "the other is on its way");
    assert_eq!(jobs.reserve(&with("a3", e)).await.unwrap(), Some(sent(0, 2)));
    assert_eq!(jobs.reserve(&with("b1", "d@example.org")).await.unwrap(), Some(sent(0, 0)));
    assert_eq!(jobs.reserve(&Reservation { holder: "two", ..with("a1", d) }).await.unwrap(), None);
    // One arrives, another is put off before its message was on its way.
    assert!(jobs.depart("a1", &Departure { recipient: d, ..departure("one") }).await.unwrap());
    assert!(jobs.settle("a1", &settlement("one", JobState::Sent)).await.unwrap());
    let put_off = Settlement { answered: 0, ..settlement("one", JobState::Due) };
    assert!(jobs.settle("a2", &put_off).await.unwrap());
    assert_eq!(jobs.find("a1").await.unwrap()[0].recipient, d);
    assert_eq!(jobs.find("a2").await.unwrap()[0].recipient, "", "it went nowhere");
    assert_eq!(jobs.sent(&with("a4", d)).await.unwrap(), sent(1, 2));
    let later = Reservation { since: NOW + 1, ..with("a4", d) };
    assert_eq!(jobs.sent(&later).await.unwrap(), sent(0, 2), "an organization's are those of the day");
}

async fn a_clock_that_is_ahead_is_found_out(home: Home) {
    let mut jobs = open(&home).await;
    let now = crate::clock::epoch_seconds_signed();
    assert_eq!(jobs.ahead(|| now - 3600).await.unwrap(), 0, "one that is behind goes by itself");
    let found = jobs.ahead(|| now + 3600).await.unwrap();
    match home.location {
        // Its clock is ours.
        Location::Sqlite(_) => assert_eq!(found, 0),
        Location::Postgres(_) => assert!((3500..=3600).contains(&found), "{found}"),
    }
}

async fn what_was_spared_does_not_use_up_the_rate(home: Home) {
    let mut jobs = open(&home).await;
    plan(&mut jobs, &(0..5).map(|i| job(&format!("a{i}"))).collect::<Vec<_>>()).await;
    let slow = Claim { rate: 1, ..claim("one", NOW) };
    for id in ["a0", "a1", "a2"] {
        assert_eq!(jobs.claim(&slow).await.unwrap().unwrap().planned.id, id);
        assert_eq!(jobs.claim(&slow).await.unwrap(), None);
        let spared = Settlement { answered: 0, effort: Effort::Spared, ..settlement("one", JobState::Skipped) };
        assert!(jobs.settle(id, &spared).await.unwrap());
    }
    jobs.claim(&slow).await.unwrap().unwrap();
    jobs.settle("a3", &Settlement { answered: 0, ..settlement("one", JobState::Due) }).await.unwrap();
    assert_eq!(jobs.claim(&slow).await.unwrap(), None, "that one went out");
}

async fn refusals_suppress_for_longer_each_time(home: Home) {
    let mut jobs = open(&home).await;
    let day = 86_400;
    let mut now = NOW;
    for (strikes, days) in [(1, 7), (2, 30), (3, 90), (4, 365), (5, 365)] {
        jobs.suppress("D@Example.org", now, "550 no such user").await.unwrap();
        jobs.suppress("d@example.org", now + 5, "another bounce of the same time").await.unwrap();
        let found = jobs.suppression("d@EXAMPLE.org", now + days * day - 1).await.unwrap().unwrap();
        assert_eq!((found.strikes, found.until - found.since), (strikes, days * day));
        assert_eq!(found.reason, "550 no such user");
        assert_eq!(jobs.suppression("d@example.org", now + days * day).await.unwrap(), None);
        now += days * day;
    }
    assert_eq!(jobs.suppressions().await.unwrap().len(), 1);
    assert!(jobs.forgive("d@example.ORG").await.unwrap());
    assert!(!jobs.forgive("d@example.org").await.unwrap());
    jobs.suppress("d@example.org", now, "again").await.unwrap();
    assert_eq!(jobs.suppressions().await.unwrap()[0].strikes, 1, "from the beginning");
}

async fn rows_come_back_in_pages_with_their_policies(home: Home) {
    let store = Store::open(Settings::new(home.location.clone()), &crate::metrics::Registry::new()).await.unwrap();
    let other = |record: &mut Record| record.policy.as_mut().unwrap().record.push_str("; t=y");
    for i in 0..2500_u32 {
        let mut record = Record { source_ip: std::net::Ipv4Addr::from_bits(i).into(), ..sample::record() };
        if i % 2 == 0 {
            other(&mut record);
        }
        store.appender().append(record);
    }
    store.appender().append(Record { policy: None, ..sample::record() });
    store.close(std::time::Duration::from_secs(20)).await;

    let mut jobs = open(&home).await;
    let day = sample::record().day();
    assert_eq!(jobs.policy_domains(day, "").await.unwrap(), ["example.org"], "those without a policy are nobody's");
    assert_eq!(jobs.policy_domains(day, "example.org").await.unwrap(), [""; 0]);
    assert_eq!(jobs.policy_domains(day + 1, "").await.unwrap(), [""; 0]);
    let policies = jobs.policies(day, "example.org").await.unwrap();
    let mut record = sample::record();
    let mut expected = vec![record.policy.clone().unwrap()];
    other(&mut record);
    expected.push(record.policy.unwrap());
    assert_eq!(policies, expected.into_iter().map(|policy| (policy, Part::default())).collect::<Vec<_>>());

    let (mut pages, mut cursor, mut sources) = (0, Some(PageCursor::default()), BTreeSet::new());
    while let Some(from) = cursor {
        let (page, next) = jobs.rows(day, None, "example.org", &from).await.unwrap();
        sources.extend(page.iter().map(|row| row.record.source_ip));
        (pages, cursor) = (pages + 1, next);
    }
    assert_eq!((pages, sources.len()), (3, 2500));
}

async fn rows_of_parts_of_a_day_are_told_apart(home: Home) {
    let mut settings = crate::store::tests::lasting(home.location.clone());
    settings.periods = Periods::AsRequested;
    let store = Store::open(settings, &Registry::new()).await.unwrap();
    let midnight = sample::record().day() * 86_400;
    for (second, tag) in [(10, "ri=43200; "), (20, "ri=43200; "), (50_000, "ri=43200; "), (50_000, "")] {
        let mut record = Record { arrived: midnight + second, ..sample::record() };
        record.policy.as_mut().unwrap().record = format!("v=DMARC1; p=reject; {tag}rua=mailto:d@example.org");
        store.appender().append(record);
    }
    store.close(std::time::Duration::from_secs(20)).await;

    let mut jobs = open(&home).await;
    let day = sample::record().day();
    let halves = [Part { begin_hour: 0, hours: 12 }, Part { begin_hour: 12, hours: 12 }];
    let policies = jobs.policies(day, "example.org").await.unwrap();
    let parts: Vec<_> = policies.iter().map(|(policy, part)| (policy.record.contains("ri="), *part)).collect();
    assert_eq!(parts, [(true, halves[0]), (true, halves[1]), (false, Part::default())]);
    for (part, expected) in [(Some(halves[0]), 2), (Some(halves[1]), 1), (Some(Part::default()), 1), (None, 4)] {
        let (page, _) = jobs.rows(day, part, "example.org", &PageCursor::default()).await.unwrap();
        assert_eq!(page.iter().map(|row| row.count).sum::<u64>(), expected, "{part:?}");
    }
}

async fn jobs_are_found_counted_and_pruned(home: Home) {
    let mut jobs = open(&home).await;
    let late = NewJob { end: NOW + 86_400, begin: NOW, ..job("b1") };
    plan(&mut jobs, &[job("a1"), job("a2"), late]).await;
    let ids = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.planned.id).collect::<Vec<_>>();
    assert_eq!(ids(jobs.list(&Selection { since: 0, limit: 10 }).await.unwrap()), ["b1", "a1", "a2"]);
    assert_eq!(ids(jobs.list(&Selection { since: NOW, limit: 10 }).await.unwrap()), ["b1"]);
    assert_eq!(ids(jobs.list(&Selection { since: 0, limit: 2 }).await.unwrap()), ["b1", "a1"]);
    assert_eq!(ids(jobs.find("a").await.unwrap()), ["a1", "a2"]);
    assert_eq!(ids(jobs.find("B1FF").await.unwrap()), ["b1"], "by the report's id, too");
    for nonsense in ["", "%", "a_", "x"] {
        assert_eq!(ids(jobs.find(nonsense).await.unwrap()), [""; 0], "{nonsense}");
    }
    jobs.claim(&claim("one", NOW)).await.unwrap().unwrap();
    jobs.settle("a1", &settlement("one", JobState::Sent)).await.unwrap();
    assert_eq!(jobs.prune(NOW).await.unwrap(), 1);
    assert_eq!(ids(jobs.list(&Selection { since: 0, limit: 10 }).await.unwrap()), ["b1", "a2"], "what is open stays");

    let waiting = NewJob { due: NOW + 5000, ..job("c1") };
    plan(&mut jobs, &[waiting]).await;
    assert_eq!(jobs.hasten(NOW).await.unwrap(), 1);
    assert_eq!(jobs.find("c1").await.unwrap()[0].planned.due, NOW);
}

async fn a_secret_is_made_once(home: Home) {
    let (mut one, mut other) = (open(&home).await, open(&home).await);
    assert_eq!(one.secret("bounce", b"first").await.unwrap(), b"first");
    assert_eq!(other.secret("bounce", b"second").await.unwrap(), b"first");
    assert_eq!(other.secret("else", b"second").await.unwrap(), b"second");
}

async fn failure_reports_are_known_until_they_are_too_old_or_too_many(home: Home) {
    let (mut one, mut other) = (open(&home).await, open(&home).await);
    for (id, sent) in [("f1", NOW - 100), ("f2", NOW - 50), ("f3", NOW - 20), ("f4", NOW)] {
        one.note_failure_report(id, &format!("{id}@example.org"), sent).await.unwrap();
    }
    one.note_failure_report("f4", "another@example.org", NOW).await.unwrap();
    let mut known = async |id: &str| other.failure_report(id).await.unwrap();
    assert_eq!(known("f1").await.as_deref(), Some("f1@example.org"));
    assert_eq!(known("f4").await.as_deref(), Some("f4@example.org"), "the first word counts");
    assert_eq!(known("f").await, None);
    assert_eq!(one.forget_failure_reports(NOW - 50).await.unwrap(), 1);
    assert_eq!((known("f1").await, known("f2").await.is_some()), (None, true));
    assert_eq!(one.forget_failure_reports_beyond(0, 2).await.unwrap(), 1);
    assert_eq!((known("f2").await, known("f3").await.is_some(), known("f4").await.is_some()), (None, true, true));
}

/// However many jobs wait, one is taken up by looking at the first entry of an index: with 10,000 due it took 16 ms
/// before.
#[tokio::test]
async fn to_take_a_job_up_none_are_sorted() {
    let home = Home::sqlite();
    let mut jobs = Jobs::open(&home.location).await.unwrap();
    let query = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {CLAIM}")));
    let rows = query.fetch_all(&mut jobs.connection).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(3)).collect();
    for index in ["report_jobs_by_due", "report_jobs_by_turn"] {
        assert_eq!(plan.iter().filter(|step| step.contains(index)).count(), 1, "{plan:#?}");
    }
    assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE") || step.starts_with("SCAN report_jobs")), "{plan:#?}");
}
