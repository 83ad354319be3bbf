//! What the demo shares with the integration tests: DNS server, mail server, client and signer of their harness.

#![allow(dead_code, reason = "the demo uses a part of it")]

#[path = "../../tests/it/support/certificates.rs"]
pub mod certificates;
#[path = "../../tests/it/support/client.rs"]
pub mod client;
#[path = "../../tests/it/support/config.rs"]
pub mod config;
#[path = "../../tests/it/support/dns.rs"]
pub mod dns;
#[path = "../../tests/it/support/proxy.rs"]
pub mod proxy;
#[path = "../../tests/it/support/rules.rs"]
pub mod rules;
#[path = "../../tests/it/support/signer.rs"]
pub mod signer;
#[path = "../../tests/it/support/upstream.rs"]
pub mod upstream;

/// How long any wait lasts at most: reached only when something is broken.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
