//! `dmarcgate man` and `dmarcgate completions`: what packages ship beside the binary, made from the command line
//! itself.
//!
//! Neither is in the help: users don't need them.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, print};

/// Write manual pages, one a command, into a directory
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Man {
    /// The directory; it is made if it is not there
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Man {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::Running(format!("{} can't be written: {error}", self.directory.display()));
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        let mut whole = Cli::command();
        // From then on each command knows the names of those above it.
        whole.build();
        let mut pages = Vec::new();
        gather(&whole, &mut pages);
        for command in pages {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
            let page = clap_mangen::Man::new(command).section("8").source(SOURCE).manual("dmarcgate");
            let mut text = Vec::new();
            page.render(&mut text).map_err(failed)?;
            std::fs::write(self.directory.join(format!("{name}.8")), text).map_err(failed)?;
            print(output, &format!("{name}.8\n"))?;
        }
        Ok(())
    }
}

/// Every command that is in the help.
fn gather(command: &clap::Command, pages: &mut Vec<clap::Command>) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        gather(below, pages);
    }
    pages.push(command.clone());
}

impl Completions {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let mut command = Cli::command();
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "dmarcgate", &mut text);
        print(output, &String::from_utf8_lossy(&text))
    }
}

const SOURCE: &str = concat!("dmarcgate ", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use crate::cli::tests::run;

    #[test]
    fn every_command_has_a_page_that_names_it_as_it_is_typed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("man");
        let listed = run(&["man", &path.display().to_string()]).unwrap();
        for name in ["dmarcgate", "dmarcgate-serve", "dmarcgate-check-upstream", "dmarcgate-config-check"] {
            assert!(listed.lines().any(|line| line == format!("{name}.8")), "{listed}");
            let page = std::fs::read_to_string(path.join(format!("{name}.8"))).unwrap();
            let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
            assert!(title.contains(name) && title.contains(" 8 "), "{title}");
            let typed = name.replace("dmarcgate-", "dmarcgate ").replace("config-", "config ");
            let synopsis = page.split(".SH SYNOPSIS").nth(1).unwrap().replace('\\', "");
            assert!(synopsis.lines().nth(1).unwrap().contains(&typed), "{typed}: {synopsis}");
        }
        assert!(!listed.contains("completions") && !listed.contains("dmarcgate-man"), "{listed}");
    }

    #[test]
    fn each_shell_is_told_of_the_commands() {
        for shell in ["bash", "zsh", "fish"] {
            let text = run(&["completions", shell]).unwrap();
            assert!(text.contains("check-upstream") && text.contains("healthcheck"), "{shell}");
        }
        assert_eq!(run(&["completions", "csh"]).unwrap_err().0, 2);
    }
}
