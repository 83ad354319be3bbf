//! What is fuzzed, and what must hold of it: one function a target, which panics where something does not hold.
//!
//! `fuzz_targets/` hands them what libFuzzer makes up; `tests/it/fuzz.rs` runs them over the corpora, on stable.

mod config;
mod dmarc;
mod message;
mod proxy;
mod session;
mod smtp;

pub use config::config;
pub use dmarc::{author, dmarc_record};
pub use message::{bdat, data, header};
pub use proxy::proxy;
pub use session::session;
pub use smtp::{command, reply};
