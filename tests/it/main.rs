//! The integration tests, one binary: real sockets on loopback, the built gate between a scripted client and a scripted
//! upstream, DNS from a zone written in the test.

mod citations;
mod dashboards;
mod docs;
mod harness;
mod layers;
mod source;
mod support;
