//! The command line: one file a subcommand. What it prints goes to standard output, what is wrong to standard error.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration; `check` has more, by its verdict, and
//! `lookup` ends with 3 if something is wrong.

mod check;
mod check_upstream;
mod config;
mod explain;
mod forwarders;
mod healthcheck;
mod init;
mod lookup;
mod man;
mod policy;
mod reload;
mod reports;
mod serve;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::lookup::facts::Health;
use crate::causes::Causes;
use crate::config::{Config, Error as ConfigError, Loaded};
use crate::explain::facts::decision::Fate;
use crate::process;

/// Settles who a message really comes from, while the sender is still on the line.
///
/// An inbound SMTP proxy filter: it stands before a mail server, evaluates SPF, DKIM, ARC and DMARC at end-of-data,
/// refuses forged mail, tags suspicious mail and passes everything else on.
#[derive(Debug, Parser)]
#[command(name = "dmarcgate", version, max_term_width = 80, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Evaluate a stored message and tell every step
    Check(Box<check::Check>),
    CheckUpstream(check_upstream::CheckUpstream),
    Completions(man::Completions),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Command),
    Explain(explain::Explain),
    /// Find out who forwards mail that fails DMARC
    #[command(subcommand)]
    Forwarders(forwarders::Command),
    /// Ask a running gate whether it is well
    Healthcheck(healthcheck::Healthcheck),
    Init(init::Init),
    Lookup(Box<lookup::Lookup>),
    Man(man::Man),
    /// Try the policy of a configuration
    #[command(subcommand)]
    Policy(policy::Command),
    Reload(reload::Reload),
    /// Show, preview and send reports to domain owners, and what they are made of
    #[command(subcommand)]
    Reports(reports::Command),
    /// Run the gate until it is told to stop by SIGTERM
    Serve(serve::Serve),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/dmarcgate/dmarcgate.toml")]
    config: PathBuf,
}

/// How a command ended that did what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// There is no more to say.
    Done,
    /// `check` came to a verdict.
    Verdict(Fate),
    /// It was told what is wrong.
    Unwell,
    /// `lookup` has found out how well it is with a domain.
    LookedUp(Health),
}

/// Why a command did not do what it was told; the message names all causes.
#[derive(Debug)]
enum Failure {
    /// The command line or the configuration is wrong: exit code 2.
    Usage(String),
    /// Something went wrong while running: exit code 1.
    Running(String),
}

/// Runs the process's command line; the only place that knows exit codes.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come here, too, and are no failure. If nobody reads it, nobody can be told.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(WRONG_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Not locked: the log has a thread of its own that writes to standard output, too.
    match cli.run(&mut io::stdout()) {
        Ok(ended) => ExitCode::from(ended.code()),
        Err(failure) => {
            let (code, message) = match failure {
                Failure::Running(message) => (FAILED, message),
                Failure::Usage(message) => (WRONG_USAGE, message),
            };
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::from(code)
        }
    }
}

impl Cli {
    fn run(self, output: &mut dyn Write) -> Result<Ended, Failure> {
        match self.command {
            Command::Check(command) => return command.run(output).map(Ended::Verdict),
            Command::CheckUpstream(command) => {
                return command.run(output).map(|well| if well { Ended::Done } else { Ended::Unwell });
            }
            Command::Completions(command) => command.run(output),
            Command::Config(command) => command.run(output),
            Command::Explain(command) => command.run(output),
            Command::Forwarders(command) => command.run(output),
            Command::Healthcheck(command) => command.run(output),
            Command::Init(command) => command.run(output),
            Command::Policy(command) => {
                return command.run(output).map(|well| if well { Ended::Done } else { Ended::Unwell });
            }
            Command::Lookup(command) => return command.run(output).map(Ended::LookedUp),
            Command::Man(command) => command.run(output),
            Command::Reload(command) => command.run(output),
            Command::Reports(command) => command.run(output),
            Command::Serve(command) => command.run(),
        }
        .map(|()| Ended::Done)
    }
}

impl Ended {
    fn code(self) -> u8 {
        match self {
            Self::Done | Self::Verdict(Fate::PassedOn) | Self::LookedUp(Health::Fine) => 0,
            Self::Unwell | Self::LookedUp(Health::Unknown) => FAILED,
            Self::LookedUp(Health::Faulty) => 3,
            Self::Verdict(Fate::Tagged) => 3,
            Self::Verdict(Fate::Refused) => 4,
            Self::Verdict(Fate::Deferred) => 5,
        }
    }
}

impl ConfigFile {
    fn load(&self) -> Result<Loaded, Failure> {
        Config::load(&self.config).map_err(|error| {
            let mut text = error.to_string();
            if let ConfigError::Unreadable { path, source } = &error
                && source.kind() == ErrorKind::NotFound
            {
                let path = path.display();
                text += &format!("; write one with `dmarcgate init --output {path}`, or name another by --config");
            }
            Failure::Usage(text)
        })
    }
}

impl ConfigFile {
    /// Reads the configuration and becomes the gate's user: for what writes files that the gate writes, too. Call it
    /// while there is one thread.
    fn load_as_gate(&self) -> Result<Loaded, Failure> {
        let loaded = self.load()?;
        process::become_user(&loaded.config.process(&self.config)).map_err(|error| Failure::running(&error))?;
        Ok(loaded)
    }
}

impl Failure {
    /// A failure while running, with all its causes.
    fn running(error: &(dyn Error + 'static)) -> Self {
        Self::Running(Causes(error).to_string())
    }
}

/// Writes a command's result. A reader that has seen enough (`| head`) is no failure.
fn print(output: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::running(&error)),
        _ => Ok(()),
    }
}

/// Failed while running.
const FAILED: u8 = 1;
/// Wrong usage or configuration; clap has the same.
const WRONG_USAGE: u8 = 2;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Runs a command line and gives its output, or its exit code and message.
    pub fn run(arguments: &[&str]) -> Result<String, (u8, String)> {
        let cli = Cli::try_parse_from([&["dmarcgate"], arguments].concat())
            .map_err(|error| (WRONG_USAGE, error.to_string()))?;
        let mut output = Vec::new();
        match cli.run(&mut output) {
            Ok(_) => Ok(String::from_utf8(output).unwrap()),
            Err(Failure::Running(message)) => Err((FAILED, message)),
            Err(Failure::Usage(message)) => Err((WRONG_USAGE, message)),
        }
    }

    /// A configuration in a directory of its own, with `more` after the upstream.
    pub fn configuration(more: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("gate.toml");
        let store = directory.path().join("store.db");
        let text = format!(
            "[upstream]\nservers = [\"127.0.0.1:10025\"]\n[store]\nurl = \"sqlite://{}\"\n{more}\n",
            store.display()
        );
        std::fs::write(&path, text).unwrap();
        (directory, path.display().to_string())
    }

    #[test]
    fn the_command_line_is_sound_and_its_help_fits_80_columns() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        let mut commands = vec![command];
        while let Some(mut command) = commands.pop() {
            let help = command.render_help().to_string();
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for arguments in [&[][..], &["nonsense"], &["config"], &["reports", "rows", "--since", "soon"]] {
            assert_eq!(run(arguments).unwrap_err().0, WRONG_USAGE, "{arguments:?}");
        }
        let missing = run(&["config", "check", "--config", "/nonexistent/gate.toml"]).unwrap_err();
        assert_eq!(missing.0, WRONG_USAGE);
        assert!(missing.1.contains("/nonexistent/gate.toml can't be read: No such file"), "{}", missing.1);
        let hint = "; write one with `dmarcgate init --output /nonexistent/gate.toml`, or name another by --config";
        assert!(missing.1.ends_with(hint), "{}", missing.1);
        let directory = run(&["config", "check", "--config", "/"]).unwrap_err().1;
        assert!(directory.contains("/ can't be read") && !directory.contains("init"), "{directory}");
    }
}
