//! What a message costs, part by part.
//!
//! `cargo bench` measures all of it in five minutes; `cargo bench -- dkim` what has "dkim" in its name; `cargo bench --
//! --save-baseline before` and later `--baseline before` tell what a change has done. Each part is first run once and
//! its result checked, then measured, in one thread, with the binary's allocator and the settings of a fresh
//! configuration. DNS is a server on loopback that is asked before the clock runs: what is measured finds its answers
//! in the cache.
//!
//! The whole gate under load is what `benches/load.py` measures.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "what goes wrong here ends the measurement"
)]

mod evaluation;
mod letters;
mod message;
mod store;
mod support;
mod told;
mod verdict;
mod wire;
mod world;

use std::time::Duration;

use criterion::Criterion;
use mimalloc::MiMalloc;

use crate::world::World;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    let world = World::new();
    let criterion = Criterion::default().without_plots();
    let criterion = criterion.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    wire::bench(&mut criterion, &world);
    message::bench(&mut criterion, &world);
    evaluation::bench(&mut criterion, &world);
    verdict::bench(&mut criterion, &world);
    told::bench(&mut criterion, &world);
    store::bench(&mut criterion, &world);
    criterion.final_summary();
}
