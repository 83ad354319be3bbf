//! A message as it is received: its header section, its author, the hashes of its body, its spool.

pub mod author;
pub(crate) mod base64;
pub mod body_hash;
pub(crate) mod encoded_word;
pub mod header;
pub mod mime;
pub mod spool;
pub mod trace;
