//! `dmarcgate reload`: makes a running gate read its configuration again, and tells what became of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;

use clap::Args;

use super::healthcheck::{PATIENCE, ask, reachable};
use super::{ConfigFile, Failure, print};
use crate::admin::{RELOAD, RELOAD_FIELD, ReloadReport};
use crate::causes::Causes;
use crate::config;

/// Make a running gate read its configuration again.
///
/// Asks the gate at the admin address that the file names; it does what it does at SIGHUP, with the file that it was
/// started with. Exit code 0: the configuration is in force, and the keys are named that changed or need a restart; 2:
/// it is refused, with every problem, and the one before stays in force; 1: no gate answers, or a certificate can't be
/// read anew and the one from before is shown on.
#[derive(Debug, Args)]
pub struct Reload {
    #[command(flatten)]
    file: ConfigFile,
    /// The admin address of the running gate, if it is not the one in the file
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
}

impl Reload {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let path = &self.file.config;
        let unread = File::open(path).err();
        let note = unread.map(|error| {
            let path = path.display();
            format!("note: {path} can't be read ({error}), nor what it says of [admin]: the defaults are taken\n")
        });
        let note = note.unwrap_or_default();
        let admin = config::admin(path);
        let address = reachable(self.admin.unwrap_or(admin.address));
        let mut fields = format!("{RELOAD_FIELD}: 1\r\nContent-Length: 0\r\n");
        let token = admin.token().map_err(|error| Failure::Running(format!("admin.token_file: {}", Causes(&error))))?;
        if let Some(token) = token {
            // Writing to a String does not fail.
            let _ = write!(fields, "Authorization: Bearer {token}\r\n");
        }
        let (status, body) = ask(address, ("POST", RELOAD, &fields), PATIENCE).map_err(|error| {
            Failure::Running(format!(
                "{note}no gate answers at {address} (admin.address; see --admin if the running gate has another): {error}"
            ))
        })?;
        let report = match status {
            200 | 422 => serde_json::from_str::<ReloadReport>(&body),
            _ => return Err(Failure::Running(format!("{note}{address}: {}", body.trim_end()))),
        };
        let report = report.map_err(|_| Failure::Running(format!("what answers at {address} is not dmarcgate")))?;
        let mut text = note;
        let own = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        if own.display().to_string() != report.file {
            // Writing to a String does not fail.
            let _ = writeln!(text, "note: the gate has read {}, not {}", report.file, own.display());
        }
        match (report.applied, &*report.problems) {
            (true, []) => print(output, &(text + &applied(&report))),
            (true, _) => Err(Failure::Running(text + (applied(&report) + &problems(&report)).trim_end())),
            (false, _) => Err(Failure::Usage(text + &refused(&report))),
        }
    }
}

fn applied(report: &ReloadReport) -> String {
    let mut text = String::new();
    for warning in &report.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let _ = match &*report.changed {
        [] => writeln!(text, "{}: in force, nothing that a reload takes over has changed", report.file),
        changed => writeln!(text, "{}: in force, changed: {}", report.file, changed.join(" ")),
    };
    if !report.restart.is_empty() {
        let _ = writeln!(text, "a restart is needed for: {}", report.restart.join(" "));
    }
    text
}

fn refused(report: &ReloadReport) -> String {
    problems(report) + "the configuration is refused; the one before stays in force"
}

fn problems(report: &ReloadReport) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        let key = if problem.key.is_empty() { String::new() } else { format!(" {}:", problem.key) };
        let _ = writeln!(text, "{}{line}:{key} {}", report.file, problem.problem);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::run;

    #[test]
    fn what_needs_a_restart_does_not_stand_below_a_line_that_denies_any_change() {
        let report = ReloadReport {
            applied: true,
            file: "/f".to_owned(),
            restart: vec!["store.url".to_owned()],
            ..ReloadReport::default()
        };
        let expected =
            "/f: in force, nothing that a reload takes over has changed\na restart is needed for: store.url\n";
        assert_eq!(applied(&report), expected);
    }

    #[test]
    fn a_file_that_is_not_there_is_named_before_the_default_address_is_asked() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (code, text) = run(&["reload", "--config", "/nonexistent/gate.toml", "--admin", &nobody]).unwrap_err();
        assert_eq!(code, 1);
        assert!(text.starts_with("note: /nonexistent/gate.toml can't be read (No such file"), "{text}");
        assert!(text.contains("\nno gate answers at 127.0.0.1:"), "{text}");
    }
}
