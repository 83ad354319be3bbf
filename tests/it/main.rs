//! The integration tests, one binary: real sockets on loopback, the built gate between a scripted client and a scripted
//! upstream, DNS from a zone written in the test.

mod check;
mod citations;
mod cli;
mod dashboards;
mod dmarc;
mod docs;
mod doubt;
mod fields;
mod from;
mod harness;
mod layers;
mod observability;
mod rows;
mod source;
mod support;
