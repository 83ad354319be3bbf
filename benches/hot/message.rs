//! Header section and body: scanned, read for evaluation, edited, hashed.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use dmarcgate::evaluation::subject::Subject;
use dmarcgate::message::author::Author;
use dmarcgate::message::body_hash::{BodyHashSpec, BodyHasher, Canonicalization, HashAlgorithm, canonical};
use dmarcgate::message::header::HeaderSection;
use dmarcgate::smtp::data::Encoder;

use crate::letters::{self, Letter};
use crate::world::World;

pub fn bench(criterion: &mut Criterion, world: &World) {
    header(criterion, world);
    body_hash(criterion);
}

fn header(criterion: &mut Criterion, world: &World) {
    let mut group = criterion.benchmark_group("header");
    for letter in [Letter::small(), Letter::forwarded()] {
        let head = letter.parts().0;
        let section = HeaderSection::parse(head.to_vec());
        assert_eq!(section.as_bytes(), head);
        assert_eq!(section.received_count(), 2);
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(BenchmarkId::new("scan", letter.name), |b| {
            b.iter_batched(|| head.to_vec(), HeaderSection::parse, BatchSize::SmallInput);
        });

        assert_eq!(Author::read(&section).domains(), [letters::author_domain()]);
        group.bench_function(BenchmarkId::new("author", letter.name), |b| {
            b.iter(|| Author::read(black_box(&section)));
        });

        let signatures = world.config.message().signatures;
        let read = |head| Subject::read(HeaderSection::parse(head), signatures);
        assert_eq!(read(head.to_vec()).body_hash_specs().len(), 1 + usize::from(letter.name == "forwarded"));
        group.bench_function(BenchmarkId::new("scan and read claims", letter.name), |b| {
            b.iter_batched(|| head.to_vec(), read, BatchSize::SmallInput);
        });

        let settings = world.config.verdict();
        let mut relayed = Vec::with_capacity(2 * head.len());
        let mut edit = |section: &HeaderSection| {
            relayed.clear();
            let removals = settings.removals(section, letter.sender.ip);
            let mut encoder = Encoder::default();
            section.relayed(&removals).for_each(|piece| encoder.encode(piece, &mut relayed));
            relayed.len()
        };
        assert_eq!(edit(&section), head.len(), "nobody has forged results of ours");
        group.bench_function(BenchmarkId::new("edit", letter.name), |b| b.iter(|| edit(black_box(&section))));
    }
    group.finish();
}

fn body_hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body hash");
    for letter in Letter::of_all_sizes() {
        let body = letter.parts().1;
        group.throughput(Throughput::Bytes(body.len() as u64));
        for (name, canonicalization) in [("relaxed", Canonicalization::Relaxed), ("simple", Canonicalization::Simple)] {
            let spec = BodyHashSpec { canonicalization, algorithm: HashAlgorithm::Sha256, length: None };
            assert_eq!(hash(spec, body), canonical(&spec, body).len() as u64);
            group.bench_function(BenchmarkId::new(name, letter.name), |b| b.iter(|| hash(spec, black_box(body))));
        }
    }
    // HTML as programs write it; and the worst that a sender can do, nothing that could be hashed in one piece.
    let indented = b"          <td style=\"padding: 8px\">Your statement of account is ready.</td>\r\n";
    for (name, line) in [("indented", &indented[..]), ("white space", b"a  b \t c\r\n")] {
        let body = line.repeat(LINES);
        let (canonicalization, algorithm) = (Canonicalization::Relaxed, HashAlgorithm::Sha256);
        let spec = BodyHashSpec { canonicalization, algorithm, length: None };
        assert_eq!(hash(spec, &body), canonical(&spec, &body).len() as u64);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("relaxed", name), |b| b.iter(|| hash(spec, black_box(&body))));
    }
    group.finish();
}

/// Hashes a body in one piece; how long it is once it is canonical.
fn hash(spec: BodyHashSpec, body: &[u8]) -> u64 {
    let mut hasher = BodyHasher::new(vec![spec]);
    hasher.update(body);
    hasher.finish().get(&spec).expect("what was asked for").canonical_length
}

const LINES: usize = 4 << 10;
