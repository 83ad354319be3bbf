//! Reports: those to domain owners (what they say, where they may go, the messages that carry them), and those of
//! others that arrive.

pub mod aggregate;
mod attempt;
pub mod bounce;
pub mod delivery;
pub mod failure;
pub mod form;
pub mod inbound;
mod mailbox;
pub mod message;
pub mod failure_reporter;
pub mod metrics;
mod mime;
pub mod recipient;
pub mod relay;
pub mod schedule;
pub mod signing;
