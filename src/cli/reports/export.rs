//! `dmarcgate reports export`: the rows, for other programs.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::cli::reports::{before, block_on, duration};
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::domain::Domain;
use crate::label::Label;
use crate::record::{Counted, DkimAuthResult, OverrideReason};
use crate::store::Error;
use crate::store::jobs::{Jobs, PageCursor};

/// Print the recorded rows for other programs
///
/// One line for each row: messages of one UTC day that a report would not tell apart, with their count. Rows under no
/// DMARC policy are left out, as no report tells of them.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back: "12h", "7d"; whole days are printed
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    since: Duration,
    /// Only rows under this policy domain
    #[arg(long, value_parser = |text: &str| Domain::parse(text).map_err(|error| error.to_string()))]
    domain: Option<Domain>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Format {
    /// As comma-separated values with a heading (RFC 4180)
    #[arg(long)]
    csv: bool,
    /// As one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A row as it is printed.
#[derive(Serialize)]
struct Line<'a> {
    day: String,
    policy_domain: &'a str,
    source_ip: String,
    messages: u64,
    header_from: &'a str,
    envelope_from: &'a str,
    disposition: &'static str,
    dkim_aligned: &'static str,
    spf_aligned: &'static str,
    reasons: &'a [OverrideReason],
    dkim: &'a [DkimAuthResult],
    spf_domain: &'a str,
    spf: &'a str,
    reply: &'static str,
    policy_record: &'a str,
}

impl Export {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let location = self.file.load()?.config.store.url;
        let now = epoch_seconds_signed();
        let days = before(now, self.since).div_euclid(SECONDS_PER_DAY)..=now.div_euclid(SECONDS_PER_DAY);
        if self.format.csv {
            print(output, HEADING)?;
        }
        let mut result = Ok(());
        block_on(async {
            let mut jobs = Jobs::open_read_only(&location).await?;
            for day in days {
                for domain in domains(&mut jobs, day, self.domain.as_ref()).await? {
                    let mut cursor = Some(PageCursor::default());
                    while let Some(from) = cursor {
                        let (page, next) = jobs.rows(day, None, &domain, &from).await?;
                        let text: String = page.iter().map(|row| self.line(day, row)).collect();
                        result = print(output, &text);
                        if result.is_err() {
                            return Ok(());
                        }
                        cursor = next;
                    }
                }
            }
            Ok::<_, Error>(())
        })?;
        result
    }

    fn line(&self, day: i64, row: &Counted) -> String {
        let Counted { record, count } = row;
        let policy = record.policy.as_ref();
        let line = Line {
            day: Date::of_day(day).to_string(),
            policy_domain: policy.map_or("", |policy| policy.domain.as_str()),
            source_ip: record.source_ip.to_string(),
            messages: *count,
            header_from: record.header_from.as_ref().map_or("", Domain::as_str),
            envelope_from: &record.envelope_from,
            disposition: record.evaluated.disposition.as_str(),
            dkim_aligned: record.evaluated.dkim.as_str(),
            spf_aligned: record.evaluated.spf.as_str(),
            reasons: &record.evaluated.reasons,
            dkim: &record.dkim,
            spf_domain: record.spf.as_ref().map_or("", |spf| &spf.domain),
            spf: record.spf.as_ref().map_or("", |spf| &spf.result),
            reply: record.reply.as_str(),
            policy_record: policy.map_or("", |policy| &policy.record),
        };
        if self.format.json {
            // Fails only for maps with keys that are no strings; there are none.
            return serde_json::to_string(&line).unwrap_or_default() + "\n";
        }
        line.to_csv()
    }
}

async fn domains(jobs: &mut Jobs, day: i64, only: Option<&Domain>) -> Result<Vec<String>, Error> {
    if let Some(domain) = only {
        return Ok(vec![domain.to_string()]);
    }
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = jobs.policy_domains(day, all.last().map_or("", String::as_str)).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

impl Line<'_> {
    fn to_csv(&self) -> String {
        let reason = |reason: &OverrideReason| match &*reason.comment {
            "" => reason.kind.to_string(),
            comment => format!("{} ({comment})", reason.kind),
        };
        let dkim = |dkim: &DkimAuthResult| format!("{} {}/{}", dkim.result, dkim.domain, dkim.selector);
        let fields = [
            self.day.clone(),
            self.policy_domain.to_owned(),
            self.source_ip.clone(),
            self.messages.to_string(),
            self.header_from.to_owned(),
            self.envelope_from.to_owned(),
            self.disposition.to_owned(),
            self.dkim_aligned.to_owned(),
            self.spf_aligned.to_owned(),
            self.reasons.iter().map(reason).collect::<Vec<_>>().join("; "),
            self.dkim.iter().map(dkim).collect::<Vec<_>>().join("; "),
            self.spf_domain.to_owned(),
            self.spf.to_owned(),
            self.reply.to_owned(),
            self.policy_record.to_owned(),
        ];
        fields.iter().map(|field| quoted(field)).collect::<Vec<_>>().join(",") + "\r\n"
    }
}

/// A field as RFC 4180 has it. One that a spreadsheet would take for a formula is made a text: peers write some of
/// them.
fn quoted(field: &str) -> String {
    let is_formula = field.starts_with(['=', '+', '-', '@']);
    let mark = if is_formula { "'" } else { "" };
    if is_formula || field.contains(['"', ',', '\r', '\n']) {
        return format!("\"{mark}{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

const HEADING: &str = "day,policy_domain,source_ip,messages,header_from,envelope_from,disposition,dkim_aligned,\
                       spf_aligned,reasons,dkim,spf_domain,spf,reply,policy_record\r\n";
