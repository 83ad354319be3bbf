//! What becomes of a message once all is known about it: decision, header fields or reply, rows.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use dmarcgate::action::{Action, Names, authentication_results};
use dmarcgate::policy::decide;
use dmarcgate::record::FinalReply;
use dmarcgate::verdict::{conclude, records};

use crate::letters::{self, Letter};
use crate::world::World;

pub fn bench(criterion: &mut Criterion, world: &World) {
    let settings = world.config.verdict();
    let names = Names { authserv_id: &settings.authserv_id, explain_id: ID, receiver: settings.receiver.as_deref() };
    let mut group = criterion.benchmark_group("verdict");
    for (name, letter, expected) in [
        ("pass", Letter::small(), "dmarc=pass"),
        ("forwarded", Letter::forwarded(), "dmarc=fail"),
        ("forged", Letter::forged(), "dmarc=fail"),
    ] {
        let evaluation = world.evaluated(&world.take(&letter));
        let envelope = letter.envelope();
        let circumstances = settings.circumstances(&envelope, letters::now());

        let decision = decide(&evaluation, &circumstances, &settings.policy);
        group.bench_function(BenchmarkId::new("decision", name), |b| {
            b.iter(|| decide(black_box(&evaluation), &circumstances, &settings.policy));
        });

        let field = authentication_results::evaluated(&evaluation, &decision, &names);
        assert!(field.contains(expected), "{field}");
        group.bench_function(BenchmarkId::new("Authentication-Results", name), |b| {
            b.iter(|| authentication_results::evaluated(black_box(&evaluation), &decision, &names));
        });

        let action = Action::of(&evaluation, &decision, &names, &settings.replies);
        assert_eq!(matches!(action, Action::Reject(_)), name == "forged", "{action:?}");
        group.bench_function(BenchmarkId::new("action", name), |b| {
            b.iter(|| Action::of(black_box(&evaluation), &decision, &names, &settings.replies));
        });

        let verdict = conclude(evaluation, &envelope, &circumstances, &settings, ID);
        let rows = || records(black_box(&verdict), letter.sender.ip, &envelope, FinalReply::Accepted, ARRIVED);
        assert_eq!(rows()[0].header_from, Some(letters::author_domain()));
        group.bench_function(BenchmarkId::new("rows", name), |b| b.iter(rows));
    }
    group.finish();
}

const ID: &str = "7Z3K9Q0V5T8WX";
/// In the morning of a day, in epoch seconds.
const ARRIVED: i64 = 1_795_767_300;
