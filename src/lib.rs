//! dmarcgate: an inbound SMTP proxy filter that settles, while the sender is still on the line, who a message really
//! comes from.
//!
//! The modules stand in the order in which data flows through them; a module uses what stands above it, never below
//! (`tests/it/layers.rs` holds them to it).

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::string_slice, reason = "tests say by a panic what is wrong"))]

pub mod calendar;
pub mod clock;
pub mod domain;
pub mod hex;
pub mod label;
pub mod secret;
pub mod throttle;
pub mod causes;
pub mod panics;
pub mod personal;
pub mod metrics;
pub mod readiness;
pub mod process;
pub mod smtp;
pub mod tls;
pub mod envelope;
pub mod message;
pub mod dns;
pub mod spf;
pub mod dmarc;
pub mod evaluation;
pub mod policy;
pub mod action;
pub mod record;
pub mod forwarders;
pub mod store;
pub mod upstream;
pub mod report;
pub mod suffix_list;
pub mod verdict;
pub mod explain;
pub mod session;
pub mod listener;
pub mod admin;
pub mod config;
pub mod app;
pub mod logging;
pub mod cli;
