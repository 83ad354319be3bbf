//! `dmarcgate explain`: tells what is kept about one message.

use std::error::Error;
use std::fs::File;
use std::io::{ErrorKind, Write};

use clap::Args;
use tokio::runtime;

use crate::causes::Causes;
use crate::cli::{ConfigFile, Failure, print};
use crate::config::Config;
use crate::explain::Explanation;
use crate::process::USER;
use crate::store::{Location, Reader};

/// Tell why a message was refused, marked or let through.
///
/// The gate keeps, for some days (explain.keep in the configuration), what it found out about each message that was no
/// plain pass: how From was read; SPF, each signature and ARC with their reasons; how the policy was found; the rule
/// that decided; the reply; and every DNS question with the answer that was seen then. Messages that passed DMARC and
/// were accepted, and those of trusted or authenticated clients, are in the log alone.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Explain {
    /// The id that stands in the reply to the sender, in the log ("transaction") and, of a marked message, in
    /// Authentication-Results
    ///
    /// In upper or lower case, with or without "id"; a hyphen or a space in it does no harm.
    #[arg(value_name = "ID", value_parser = canonical)]
    id: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        let body = runtime.block_on(Reader::new(config.store.url.clone()).explanation(&self.id));
        let Some(body) = body.map_err(|error| unread(&config, &error))? else {
            return Err(Failure::Running(self.missing(config.explain.enabled)));
        };
        let explanation = Explanation::decode(&body)
            .map_err(|error| Failure::Running(format!("{} can't be told: {}", self.id, Causes(&error))))?;
        print(output, &if self.json { explanation.to_json() } else { explanation.tell() })
    }

    fn missing(&self, enabled: bool) -> String {
        let id = &self.id;
        let why = match enabled {
            true => {
                "it may be older than explain.keep, have passed DMARC and been accepted, have come from a trusted or \
                 authenticated client, or be of another gate that has a store of its own; the log has every message, with \
                 this id in \"transaction\" (not in \"session\": the id of a session finds nothing)"
            }
            false => "explain.enabled is false in the configuration",
        };
        format!("nothing is kept about {id}: {why}")
    }
}

/// Why nothing could be read, and who could.
fn unread(config: &Config, error: &(dyn Error + 'static)) -> Failure {
    let mut text = Causes(error).to_string();
    if let Location::Sqlite(path) = &config.store.url
        && File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    {
        let user = config.process.user.as_deref().filter(|user| *user != "root");
        text += &format!("; run this as root or as {}, the gate's user", user.unwrap_or(USER));
    }
    Failure::Running(text)
}

/// The id as the gate writes it (Crockford's base 32): what people confuse is put right.
fn canonical(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let text =
        text.trim_start_matches('(').strip_prefix("id").filter(|rest| rest.starts_with([' ', '='])).unwrap_or(text);
    let digits = text.chars().filter(|c| !matches!(c, ' ' | '-' | '=' | '(' | ')'));
    let id: String = digits
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect();
    let fits = id.len() == ID && id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if fits { Ok(id) } else { Err("expected the 13 letters and digits of an id, such as \"7ZK0Q4M1XW9TA\"") }
}

const EXIT_CODES: &str = "\
Exit code:
  0  it was told
  1  nothing is kept under this id, or the store can't be read
  2  wrong usage or configuration";

/// Characters of an id.
const ID: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{configuration, run};

    #[test]
    fn ids_are_taken_as_people_write_them() {
        let cases = [
            ("7ZK0Q4M1XW9TA", Some("7ZK0Q4M1XW9TA")),
            ("7zko-q4ml-xw9ta", Some("7ZK0Q4M1XW9TA")),
            (" (id 7ZK0Q4M1XW9TA)", Some("7ZK0Q4M1XW9TA")),
            ("id=7ZK0Q4M1XW9TA", Some("7ZK0Q4M1XW9TA")),
            ("7ZK0Q4M1XW9T", None),
            ("7ZK0Q4M1XW9TAA", None),
            ("7ZK0Q4M1XW9T%", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_kept_is_said_with_what_may_be_the_reason() {
        let (_kept, config) = configuration("");
        let (code, message) = run(&["explain", "7ZK0Q4M1XW9TA", "--config", &config]).unwrap_err();
        assert_eq!(code, 1);
        assert!(message.contains("store.db can't be opened as a database"), "{message}");
        assert!(message.contains("No such file"), "{message}");
        assert!(!message.contains("run this as root"), "{message}");
        let explain = Explain {
            id: "7ZK0Q4M1XW9TA".to_owned(),
            file: crate::cli::ConfigFile { config: config.clone().into() },
            json: false,
        };
        assert!(
            explain
                .missing(true)
                .ends_with("this id in \"transaction\" (not in \"session\": the id of a session finds nothing)")
        );
        let (code, message) = run(&["explain", "7ZK", "--config", &config]).unwrap_err();
        assert_eq!(code, 2);
        assert!(message.contains("expected the 13 letters and digits of an id"), "{message}");
    }
}
