//! `dmarcgate init`: writes a first configuration for what it finds on this machine.
//!
//! It asks nothing and changes nothing. `look` reads files of mail servers, of the kernel and of certificates; `found`
//! makes values of them; `configuration` and `mta` write from those alone.

mod configuration;
mod found;
mod look;
mod mta;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::found::{ADMIN_PORT, Gate};
use self::look::Machine;
use super::healthcheck::ask;
use crate::cli::{Failure, print};
use crate::label::Label;
use crate::label_enum;

/// Write a first configuration for what is on this machine
///
/// Looks for the host's name, a mail server (Postfix, Exim, OpenSMTPD), the ports that are taken and a certificate, and
/// writes a commented configuration in mode "monitor", to standard output or to --output. Nothing is asked and nothing
/// else is changed. With --output the lines that the mail server needs are printed; --mta alone prints them and no
/// more.
#[derive(Debug, Args)]
pub struct Init {
    /// The mail server behind the gate; default: the one that is found
    #[arg(long, value_name = "MTA")]
    mta: Option<Mta>,
    /// Write the configuration into this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long, requires = "output")]
    force: bool,
}

label_enum! {
    /// A mail server that the gate may stand in front of.
    pub enum Mta {
        /// Postfix.
        Postfix = "postfix",
        /// Exim.
        Exim = "exim",
        /// OpenSMTPD.
        OpenSmtpd = "opensmtpd",
        /// Microsoft Exchange, on another machine.
        Exchange = "exchange",
        /// Any other.
        Other = "other",
    }
}

impl ValueEnum for Mta {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.as_str().into())
    }
}

impl Init {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let mut found = Machine::of_this_machine().look(self.mta);
        if found.taken.contains(&ADMIN_PORT) {
            let answers = is_gate((Ipv4Addr::LOCALHOST, ADMIN_PORT).into());
            found.gate = if answers { Gate::Runs } else { Gate::Unseen };
        }
        let configuration = configuration::write(&found);
        match (&self.output, self.mta) {
            (Some(path), _) => {
                save(path, &configuration, self.force)?;
                let path = path.display();
                print(
                    output,
                    &format!("{path} is written: look at it, then `dmarcgate config check --config {path}`.\n\n"),
                )?;
                print(output, &mta::lines(&found))
            }
            (None, Some(_)) => print(output, &mta::lines(&found)),
            (None, None) => print(output, &configuration),
        }
    }
}

/// Whether what listens there answers as the admin listener of a gate does.
pub fn is_gate(address: SocketAddr) -> bool {
    let says = |path: &str, expected: &[&str]| {
        let answer = ask(address, ("GET", path, ""), PATIENCE);
        answer.is_ok_and(|(_, body)| body.lines().next().is_some_and(|line| expected.contains(&line)))
    };
    says("/healthz", &["ok"]) && says("/readyz", &["ready", "not ready"])
}

/// Writes a file that is not there, or over one if that was said.
fn save(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).mode(MODE);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    match options.open(path).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Failure::Usage(format!("{} is there: --force writes over it", path.display())))
        }
        Err(error) => Err(Failure::Running(format!("{} can't be written: {error}", path.display()))),
    }
}

/// A gate of this machine answers at once; what else listens there may be silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// There is no secret in it, and the gate's user has to read it.
const MODE: u32 = 0o644;
