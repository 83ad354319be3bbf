//! SPF, DKIM, ARC and DMARC, each for itself and all together, with every answer of DNS in the cache.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use dmarcgate::dmarc::alignment::DmarcResult;
use dmarcgate::evaluation::discovery::discover;
use dmarcgate::evaluation::subject::Claims;
use dmarcgate::evaluation::{ArcOutput, ArcResult, DkimOutput, DkimResult, DmarcOutput, Evaluation};
use dmarcgate::spf::evaluate::{Request, check_host};
use dmarcgate::spf::{SpfOutput, SpfResult};

use crate::letters::{self, Letter};
use crate::world::{Taken, World};

pub fn bench(criterion: &mut Criterion, world: &World) {
    let honest = world.take(&Letter::small());
    let twice = world.take(&Letter::signed_twice());
    let forwarded = world.take(&Letter::forwarded());
    let forged = world.take(&Letter::forged());
    let found = world.evaluated(&honest);
    assert_eq!((found.spf.result, &results(&found)[..]), (SpfResult::Pass, &[DkimResult::Pass][..]));
    assert_eq!((found.dmarc[0].result, found.evidence.asked.len()), (DmarcResult::Pass, 9), "{:#?}", found.evidence);
    assert_eq!(results(&world.evaluated(&twice)), [DkimResult::Pass; 2]);
    let passed_on = world.evaluated(&forwarded);
    assert_eq!((passed_on.arc.result, passed_on.arc.sets.len()), (ArcResult::Pass, 2), "{}", passed_on.arc.reason);
    assert_eq!((&results(&passed_on)[..], passed_on.dmarc[0].result), (&[DkimResult::Fail][..], DmarcResult::Fail));
    assert_eq!(world.evaluated(&forged).dmarc[0].result, DmarcResult::Fail);
    let asked = world.questions();

    let mut group = criterion.benchmark_group("evaluation");
    assert_eq!(world.run(spf(world, &honest)).result, SpfResult::Pass);
    group.bench_function("spf", |b| b.iter(|| world.run(spf(world, &honest))));

    for (name, taken) in [("rsa-2048", &honest), ("rsa-2048 and ed25519", &twice)] {
        assert!(world.run(dkim(world, taken)).iter().all(|output| output.result == DkimResult::Pass));
        group.bench_function(BenchmarkId::new("dkim", name), |b| b.iter(|| world.run(dkim(world, taken))));
    }

    assert_eq!(world.run(arc(world, &forwarded)).result, ArcResult::Pass);
    group.bench_function("arc of two sets", |b| b.iter(|| world.run(arc(world, &forwarded))));

    for (name, taken, found) in [("pass", &honest, &found), ("fail", &forwarded, &passed_on)] {
        assert_eq!(world.run(dmarc(world, taken, found))[0].result, found.dmarc[0].result);
        group.bench_function(BenchmarkId::new("dmarc", name), |b| b.iter(|| world.run(dmarc(world, taken, found))));
    }

    for (name, taken) in [("pass", &honest), ("signed twice", &twice), ("forwarded", &forwarded), ("forged", &forged)] {
        group.bench_function(BenchmarkId::new("all", name), |b| b.iter(|| world.run(world.evaluate(taken))));
    }
    group.finish();
    assert_eq!(world.questions(), asked, "the cache was warm all the time");
}

async fn spf(world: &World, taken: &Taken) -> SpfOutput {
    let sender = &taken.sender;
    let request = Request::mail_from(sender.ip, &sender.helo, &sender.mail_from);
    check_host(&world.lookup(taken), black_box(&request)).await
}

async fn dkim(world: &World, taken: &Taken) -> Vec<DkimOutput> {
    let signatures = &claims(taken).signatures;
    let keys = signatures.keys(&world.lookup(taken)).await;
    signatures.verify(black_box(&taken.subject.section), &keys, &taken.hashes, letters::now()).outputs
}

async fn arc(world: &World, taken: &Taken) -> ArcOutput {
    let chain = &claims(taken).chain;
    let keys = chain.keys(&world.lookup(taken)).await;
    chain.verify(black_box(&taken.subject.section), &keys, &taken.hashes, letters::now())
}

/// Policy discovery with the walks from the identifiers, then alignment.
async fn dmarc(world: &World, taken: &Taken, found: &Evaluation) -> Vec<DmarcOutput> {
    let signers = found.dkim.iter().filter_map(|signature| signature.domain.clone());
    let identifiers: Vec<_> = found.spf.domain.iter().cloned().chain(signers).collect();
    let lookup = world.lookup(taken);
    let authors = claims(taken).author.domains();
    let discoveries = discover(&lookup.unmetered(), &world.rules, authors, black_box(&identifiers)).await;
    discoveries.evaluate(&found.spf, &found.dkim)
}

fn claims(taken: &Taken) -> &Claims {
    taken.subject.claims.as_ref().expect("a message that is evaluated")
}

fn results(evaluation: &Evaluation) -> Vec<DkimResult> {
    evaluation.dkim.iter().map(|output| output.result).collect()
}
