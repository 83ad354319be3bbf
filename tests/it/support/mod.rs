//! The harness: a world on loopback around the gate. A DNS server with a zone written in the test, the MTA behind the
//! gate, the client before it, and the gate itself as the built binary.
//!
//! Nothing here sleeps: every wait is for an event, under [`PATIENCE`], and a wait in vain panics with what was seen.
//! `examples/demo` takes the files that it needs by `#[path]`; `gate` alone needs the test runner's environment.

// Each test uses a part of the harness; the whole is exercised by `harness.rs`.
#![allow(dead_code)]

pub mod certificates;
pub mod client;
pub mod config;
pub mod dns;
pub mod gate;

pub mod proxy;
pub mod results;
pub mod rules;
pub mod signer;
pub mod upstream;
pub mod world;

/// How long any wait of the harness lasts at most. It is reached only when something is broken, or by a machine that is
/// overloaded beyond reason; no test measures against it.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
