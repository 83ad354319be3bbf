//! A message as it is received: its header section, its author, the hashes of its body.

pub mod author;
pub(crate) mod base64;
pub mod body_hash;
pub mod header;
