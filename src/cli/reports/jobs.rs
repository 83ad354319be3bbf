//! `dmarcgate reports list` and `dmarcgate reports show`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::cli::reports::{before, block_on, duration, moment};
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::explain::escape::escaped;
use crate::label::Label;
use crate::store::jobs::{Job, JobState, Jobs, Selection};

/// List reports and what became of them
///
/// One line for each report to one destination, the latest day first. Times are UTC: that of the next attempt, or when
/// it ended.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back: "12h", "7d"
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    since: Duration,
    /// Only those in this state: due, claimed, sent, failed, suppressed, skipped
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<JobState>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Show all that is known of a report
///
/// By its id in `reports list`, or by the Report-ID that its reader names; the first digits will do.
#[derive(Debug, Args)]
pub struct Show {
    /// The id, or its first digits
    id: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A job as `--json` prints it.
#[derive(Serialize)]
struct JsonLine<'a> {
    id: &'a str,
    report_id: &'a str,
    day: String,
    begin: i64,
    end: i64,
    policy_domain: &'a str,
    destination: &'a str,
    recipient: &'a str,
    state: &'static str,
    attempts: i64,
    due: i64,
    deadline: i64,
    changed: i64,
    holder: &'a str,
    messages: i64,
    unanswered: i64,
    note: &'a str,
}

impl List {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let location = self.file.load()?.config.store.url;
        let selection = Selection { since: before(epoch_seconds_signed(), self.since), limit: MOST };
        let jobs = block_on(async { Jobs::open_read_only(&location).await?.list(&selection).await })?;
        let jobs: Vec<_> = jobs.into_iter().filter(|job| self.state.is_none_or(|state| job.state == state)).collect();
        print(output, &if self.json { json(&jobs) } else { table(&jobs) })
    }
}

impl Show {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let location = self.file.load()?.config.store.url;
        let jobs = block_on(async { Jobs::open_read_only(&location).await?.find(&self.id).await })?;
        if jobs.is_empty() {
            return Err(Failure::Running(format!("no report has an id that begins with {:?}", self.id)));
        }
        let told = || jobs.iter().map(tell).collect::<Vec<_>>().join("\n");
        print(output, &if self.json { json(&jobs) } else { told() })
    }
}

/// Everything about one job, a line each.
fn tell(job: &Job) -> String {
    let planned = &job.planned;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name:16}{value}\n"));
        }
    };
    line("id", planned.id.clone());
    line("Report-ID", planned.report_id.clone());
    line("policy domain", planned.policy_domain.clone());
    line("period", format!("{} to {} UTC", moment(planned.begin), moment(planned.end)));
    line("destination", plain(&planned.destination));
    line("recipient", plain(&job.recipient));
    line("state", job.state.to_string());
    line("why", plain(&job.note));
    line("attempts", job.attempts.to_string());
    if job.messages > 0 {
        line("messages", job.messages.to_string());
    }
    if job.unanswered > 0 {
        line("unanswered", format!("{}; so many times it may have arrived without our knowing", job.unanswered));
    }
    match job.state {
        JobState::Due => line("next attempt", moment(planned.due)),
        JobState::Claimed => line("held by", format!("{} until {}", job.holder, moment(job.lease))),
        JobState::Sent | JobState::Failed | JobState::Suppressed | JobState::Skipped => {
            line("ended", moment(planned.due));
        }
    }
    line("given up at", moment(planned.deadline));
    text
}

fn table(jobs: &[Job]) -> String {
    let width = |heading: &str, of: &dyn Fn(&Job) -> usize| jobs.iter().map(of).max().unwrap_or(0).max(heading.len());
    let domains = width("policy domain", &|job| job.planned.policy_domain.len());
    let destinations = width("destination", &|job| plain(&job.planned.destination).len());
    let periods = width("day", &|job| period(job).len());
    let mut text = format!(
        "{:12}  {:periods$}  {:domains$}  {:destinations$}  {:10}  {:>8}  {:16}  why\n",
        "id", "day", "policy domain", "destination", "state", "attempts", "next or ended"
    );
    for job in jobs {
        let planned = &job.planned;
        let line = format!(
            "{:12}  {:periods$}  {:domains$}  {:destinations$}  {:10}  {:>8}  {:16}  {}",
            planned.id.get(..12).unwrap_or(&planned.id),
            period(job),
            planned.policy_domain,
            plain(&planned.destination),
            job.state,
            job.attempts,
            moment(planned.due),
            plain(&job.note),
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn json(jobs: &[Job]) -> String {
    let mut text = String::new();
    for job in jobs {
        let planned = &job.planned;
        let line = JsonLine {
            id: &planned.id,
            report_id: &planned.report_id,
            day: day(job),
            begin: planned.begin,
            end: planned.end,
            policy_domain: &planned.policy_domain,
            destination: &planned.destination,
            recipient: &job.recipient,
            state: job.state.as_str(),
            attempts: job.attempts,
            due: planned.due,
            deadline: planned.deadline,
            changed: job.changed,
            holder: &job.holder,
            messages: job.messages,
            unanswered: job.unanswered,
            note: &job.note,
        };
        // Fails only for maps with keys that are no strings; there are none.
        text.push_str(&serde_json::to_string(&line).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// The day, and the hours of it if it is not the whole.
fn period(job: &Job) -> String {
    let second = |moment: i64| moment.rem_euclid(SECONDS_PER_DAY);
    match (second(job.planned.begin), second(job.planned.end + 1)) {
        (0, 0) => day(job),
        (begin, _) => {
            let end = begin + job.planned.end + 1 - job.planned.begin;
            format!("{} {:02}-{:02}h", day(job), begin / 3600, end / 3600)
        }
    }
}

fn day(job: &Job) -> String {
    Date::of_day(job.planned.begin.div_euclid(SECONDS_PER_DAY)).to_string()
}

/// What others wrote, for a terminal.
fn plain(text: &str) -> String {
    escaped(text.as_bytes())
}

fn state(text: &str) -> Result<JobState, &'static str> {
    JobState::parse(text).ok_or("expected due, claimed, sent, failed, suppressed or skipped")
}

/// Jobs that one list shows at most.
const MOST: i64 = 100_000;
