//! The SMTP wire: addresses, commands, replies, extensions, the DATA codec and buffered line I/O.
//!
//! It knows RFC 5321 and its extensions and has no opinion about mail: who may send what is decided elsewhere.

pub mod address;
pub mod command;
pub mod data;
pub mod extension;
pub mod parameter;
pub mod reply;
pub mod stream;
