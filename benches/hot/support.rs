//! What the benches share with the integration tests: DNS server, signer and configuration of their harness.

#![allow(dead_code, reason = "the benches use a part of it")]

#[path = "../../tests/it/support/config.rs"]
pub mod config;
#[path = "../../tests/it/support/dns.rs"]
pub mod dns;
#[path = "../../tests/it/support/signer.rs"]
pub mod signer;

/// How long any wait lasts at most: reached only when something is broken.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
