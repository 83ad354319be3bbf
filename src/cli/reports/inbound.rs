//! `dmarcgate reports inbound`: what others report about our domains.

mod read;

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::Failure;

/// Read what others report about our domains.
#[derive(Debug, Args)]
pub struct Inbound {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Read(read::Read),
}

impl Inbound {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        match self.command {
            Command::Read(command) => command.run(output),
        }
    }
}
