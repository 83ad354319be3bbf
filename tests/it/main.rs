//! The integration tests, one binary: real sockets on loopback, the built gate between a scripted client and a scripted
//! upstream, DNS from a zone written in the test.

mod citations;
mod docs;
mod content;
mod harness;
mod identity;
mod layers;
mod limits;
mod session;
mod smuggling;
mod source;
mod stop;
mod support;
mod upstream;
