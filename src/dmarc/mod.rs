//! DMARC (RFC 9989): what a policy record says, which names to ask, what the answers mean. Pure.
//!
//! Nothing here asks DNS or waits: `evaluation::discovery` asks, and hands the answers down.

pub mod alignment;
pub mod public_suffix;
pub mod record;
pub mod report_destination;
pub mod report_uri;
#[cfg(test)]
mod rfc9989;
pub mod tree_walk;
