//! Stand-in.
pub mod record;
