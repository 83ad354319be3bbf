//! Reports to domain owners: what they say, where they may go, and the messages that carry them.

pub mod aggregate;
