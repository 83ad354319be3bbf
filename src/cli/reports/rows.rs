//! `dmarcgate reports rows`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::calendar::Date;
use crate::cli::reports::{before, block_on, duration};
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::store::{Reader, SummaryLine};

/// List the recorded messages by day, policy domain and disposition.
///
/// Days are UTC. Messages under no DMARC policy stand under the policy domain "-". What a running gate has recorded
/// within the last second may be missing.
#[derive(Debug, Args)]
pub struct Rows {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back: "12h", "7d"; whole days are shown
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    since: Duration,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A line as `--json` prints it.
#[derive(Serialize)]
struct JsonLine<'a> {
    day: String,
    /// None where no policy applied.
    policy_domain: Option<&'a str>,
    disposition: &'a str,
    messages: i64,
}

impl Rows {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let reader = Reader::new(self.file.load()?.config.store.url);
        let now = epoch_seconds_signed();
        let lines = block_on(reader.summary(before(now, self.since), now))?;
        print(output, &if self.json { json(&lines) } else { table(&lines) })
    }
}

fn table(lines: &[SummaryLine]) -> String {
    let domain =
        |line: &SummaryLine| if line.policy_domain.is_empty() { "-".into() } else { line.policy_domain.clone() };
    let width = lines.iter().map(|line| domain(line).len()).max().unwrap_or_default().max("policy domain".len());
    let mut text = format!("{:10}  {:width$}  {:11}  {:>10}\n", "day", "policy domain", "disposition", "messages");
    for line in lines {
        let (day, domain) = (Date::of_day(line.day).to_string(), domain(line));
        text.push_str(&format!("{day:10}  {domain:width$}  {:11}  {:>10}\n", line.disposition, line.messages));
    }
    text
}

fn json(lines: &[SummaryLine]) -> String {
    let mut text = String::new();
    for line in lines {
        let line = JsonLine {
            day: Date::of_day(line.day).to_string(),
            policy_domain: (!line.policy_domain.is_empty()).then_some(&line.policy_domain),
            disposition: crate::label::Label::as_str(line.disposition),
            messages: line.messages,
        };
        // Fails only for maps with keys that are no strings; there are none.
        text.push_str(&serde_json::to_string(&line).unwrap_or_default());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::runtime;

    use super::*;
    use crate::cli::tests::{configuration, run};
    use crate::metrics::Registry;
    use crate::record::{Record, ReportDisposition, sample};
    use crate::store::{Location, Settings, Store};

    #[test]
    fn what_was_recorded_is_listed_beside_a_running_gate() {
        let (directory, path) = configuration("");
        let arguments = ["reports", "rows", "--config", &path];
        let (code, message) = run(&arguments).unwrap_err();
        assert_eq!(code, 1, "no gate has run");
        assert!(message.contains("store.db can't be opened as a database: "), "{message}");
        assert!(message.ends_with("No such file or directory (os error 2)"), "{message}");

        let runtime = runtime::Runtime::new().unwrap();
        let location = Location::Sqlite(directory.path().join("store.db"));
        let store = runtime.block_on(Store::open(Settings::new(location), &Registry::new())).unwrap();
        assert_eq!(run(&arguments).unwrap().lines().count(), 1, "nothing recorded: the heading alone");
        let now = epoch_seconds_signed();
        let mut pass = sample::record();
        pass.evaluated.disposition = ReportDisposition::Pass;
        for record in [sample::record(), pass] {
            store.appender().append(Record { arrived: now, ..record });
        }
        store.appender().append(Record { arrived: now, policy: None, ..sample::record() });
        store.appender().append(Record { arrived: now - 30 * 86_400, ..sample::record() });
        runtime.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await });

        let today = Date::of_day(now.div_euclid(86_400)).to_string();
        let expected = format!(
            "day         policy domain  disposition    messages\n\
             {today}  -              reject                1\n\
             {today}  example.org    pass                  1\n\
             {today}  example.org    reject                1\n"
        );
        assert_eq!(run(&arguments).unwrap(), expected);
        let json = run(&[&arguments[..], &["--json", "--since", "1h"]].concat()).unwrap();
        let first = format!(r#"{{"day":"{today}","policy_domain":null,"disposition":"reject","messages":1}}"#);
        assert_eq!(json.lines().next(), Some(&*first));
        let all = run(&[&arguments[..], &["--since", "40d"]].concat()).unwrap();
        assert_eq!(all.lines().count(), 5);
        runtime.block_on(store.close(Duration::from_secs(5)));
    }
}
