//! Reports: those to domain owners (what they say, where they may go, the messages that carry them), and those of others
//! that arrive.

pub mod aggregate;
pub mod inbound;
pub mod message;
mod mime;
pub mod recipient;
pub mod signing;
pub mod verp;
