//! The integration tests, one binary: real sockets on loopback, the built gate between a scripted client and a scripted
//! upstream, DNS from a zone written in the test.

mod check;
mod check_upstream;
mod citations;
mod cli;
mod content;
mod dashboards;
mod dmarc;
mod docs;
mod doubt;
mod fields;
mod from;
mod fuzz;
mod harness;
mod hostile;
mod identity;
mod interop;
mod layers;
mod limits;
mod observability;
mod process;
mod reload;
mod rows;
mod session;
mod smuggling;
mod source;
mod stop;
mod support;
mod tls;
mod upstream;
mod upstream_servers;
mod upstream_trouble;
