//! The configuration file.

use dmarcgate::config::Config;

/// Any text: a configuration or problems, and what is shown of a configuration is one that shows the same.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Config::parse(text) {
        Ok(loaded) => {
            loaded.config.warnings();
            let shown = loaded.to_toml();
            let again = Config::parse(&shown).unwrap_or_else(|problems| panic!("{problems:?} in\n{shown}"));
            assert_eq!(without_marks(&again.to_toml()), without_marks(&shown));
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.lines().count().max(1);
            assert!(problems.iter().all(|problem| problem.line.is_none_or(|line| (1..=lines + 1).contains(&line))));
        }
    }
}

fn without_marks(text: &str) -> String {
    text.replace("  # default", "")
}
