//! What is fuzzed, and what must hold of it: one function a target, which panics where something does not hold.
//!
//! `fuzz_targets/` hands them what libFuzzer makes up; `tests/it/fuzz.rs` runs them over the corpora, on stable.

mod action;
mod config;
mod dmarc;
mod inbound;
mod message;
mod proxy;
mod reader;
mod session;
mod signatures;
mod smtp;
mod spf;

pub use action::authentication_results;
pub use config::config;
pub use dmarc::{author, dmarc_record, suffix_list};
pub use inbound::{bounce, inbound};
pub use message::{bdat, data, header};
pub use proxy::proxy;
#[allow(unused_imports, reason = "the plain tests show that it is misled")]
pub use reader::shows_stranger;
pub use session::session;
pub use signatures::{arc, arc_results, dkim_key, dkim_signature};
pub use smtp::{command, reply};
pub use spf::spf;
