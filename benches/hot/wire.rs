//! The codec of DATA, and all that is done with the octets of a message while they come in.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use dmarcgate::message::spool::Spooler;
use dmarcgate::session::receive::{Intake, Received, Stage};
use dmarcgate::smtp::data::{Decoder, Encoder, Framing, Progress, Sink, Unstuffer};

use crate::letters::Letter;
use crate::world::World;

pub fn bench(criterion: &mut Criterion, world: &World) {
    let letters = Letter::of_all_sizes();
    codec(criterion, &letters);
    intake(criterion, world, &letters);
}

fn codec(criterion: &mut Criterion, letters: &[Letter]) {
    let mut group = criterion.benchmark_group("data");
    for letter in letters {
        let (content, wire) = (&letter.content, letter.wire());
        assert_eq!(decoded(&wire), *content);
        assert_eq!(unstuffed(&wire), [content, &b"\r\n"[..]].concat(), "the last dot is data here");
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(BenchmarkId::new("decode", letter.name), |b| {
            b.iter(|| decode(&wire, &mut Counter::default()));
        });
        let mut encoded = Vec::with_capacity(wire.len());
        group.bench_function(BenchmarkId::new("encode", letter.name), |b| {
            b.iter(|| {
                encoded.clear();
                Encoder::default().encode(black_box(content), &mut encoded);
            });
        });
        group.bench_function(BenchmarkId::new("unstuff", letter.name), |b| {
            b.iter(|| {
                encoded.clear();
                Unstuffer::default().unstuff(black_box(&wire), &mut encoded);
            });
        });
    }
    // The worst that a sender can do: nothing but dots at the beginning of short lines, and nothing but bare LF.
    for (name, line, content) in [("dots", &b"..\r\n"[..], &b".\r\n"[..]), ("bare LF", b"a\n", b"a\r\n")] {
        let wire = [&line.repeat(LINES)[..], b"\r\n.\r\n"].concat();
        assert_eq!(decoded(&wire), [&content.repeat(LINES)[..], b"\r\n"].concat());
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| decode(&wire, &mut Counter::default()));
        });
    }
    group.finish();
}

/// DATA codec, header section with its bounds, signatures, body hashes and spool together: what the octets of a message
/// cost from the socket to the end of data.
fn intake(criterion: &mut Criterion, world: &World, letters: &[Letter]) {
    let spooler = Spooler::new(&world.config.spool()).expect("a directory");
    let mut group = criterion.benchmark_group("intake");
    for letter in letters {
        let wire = letter.wire();
        let received = world.run(take(world, &spooler, &wire));
        assert_eq!(received.size, letter.content.len() as u64);
        assert_eq!(received.body.len(), (letter.parts().1.len() + dots(letter.parts().1)) as u64);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(letter.name, |b| b.iter(|| world.run(take(world, &spooler, &wire))));
    }
    group.finish();
}

async fn take(world: &World, spooler: &Spooler, wire: &[u8]) -> Received {
    let mut intake = Intake::new(Framing::Dot, world.config.message(), spooler.spool());
    for piece in wire.chunks(PIECE) {
        let stage = intake.take(piece);
        intake.settle().await.expect("room");
        if let Stage::End(_) = stage {
            break;
        }
    }
    intake.finish().unwrap_or_else(|fault| panic!("{fault:?}"))
}

/// How many dots are doubled on the wire.
fn dots(content: &[u8]) -> usize {
    content.split_inclusive(|octet| *octet == b'\n').filter(|line| line.starts_with(b".")).count()
}

fn decode(wire: &[u8], sink: &mut impl Sink) {
    let mut decoder = Decoder::new(Framing::Dot);
    for piece in wire.chunks(PIECE) {
        if let Progress::End(_) = decoder.decode(black_box(piece), sink) {
            return;
        }
    }
    panic!("no end");
}

fn decoded(wire: &[u8]) -> Vec<u8> {
    let mut collected = Collected::default();
    decode(wire, &mut collected);
    collected.0
}

fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    Unstuffer::default().unstuff(wire, &mut content);
    content
}

/// Takes pieces as cheaply as can be.
#[derive(Default)]
struct Counter(usize);

impl Sink for Counter {
    fn piece(&mut self, content: &[u8], wire: &[u8]) {
        self.0 += black_box(content).len() + black_box(wire).len();
    }
}

#[derive(Default)]
struct Collected(Vec<u8>);

impl Sink for Collected {
    fn piece(&mut self, content: &[u8], _: &[u8]) {
        self.0.extend_from_slice(content);
    }
}

/// Octets that a session reads at once of a message.
const PIECE: usize = 64 << 10;
const LINES: usize = 16 << 10;
