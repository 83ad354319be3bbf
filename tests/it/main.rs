//! The integration tests, one binary: real sockets on loopback, the built gate between a scripted client and a scripted
//! upstream, DNS from a zone written in the test.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests say by a panic what is wrong; a scenario is told in one piece"
)]

mod aggregate;
mod auth;
mod check;
mod check_upstream;
mod chunking;
mod client_certificates;
mod citations;
mod cli;
mod composition;
mod confinement;
mod content;
mod dashboards;
mod delivery;
mod dkim;
mod dmarc;
mod docs;
mod doubt;
mod explain;
mod extensions;
mod failure_reports;
mod fields;
mod from;
mod fuzz;
mod harness;
mod hostile;
mod identity;
mod inbound;
mod interop;
mod killed;
mod layers;
mod limits;
mod listeners;
mod lookup;
mod lookups;
mod loops;
mod observability;
mod overrides;
mod process;
mod public_suffix;
mod reload;
mod replies;
mod rfc9989;
mod rows;
mod sent;
mod session;
mod shadow;
mod signed;
mod signs;
mod smuggling;
mod source;
mod spf;
mod starttls;
mod status;
mod stop;
mod support;
mod tls;
mod units;
mod upstream;
mod upstream_servers;
mod upstream_trouble;
mod wire;
