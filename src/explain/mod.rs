//! Tells what happened to a message and why.

pub(crate) mod escape;
pub(crate) mod facts;
pub(crate) mod story;
