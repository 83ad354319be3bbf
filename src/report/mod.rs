//! Reports to domain owners: what they say, where they may go, and the messages that carry them.

pub mod aggregate;
pub mod message;
mod mime;
pub mod recipient;
pub mod relay;
pub mod schedule;
pub mod signing;
pub mod verp;
