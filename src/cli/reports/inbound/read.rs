//! `dmarcgate reports inbound read`: reads reports from files.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::cli::{Failure, print};
use crate::domain::Domain;
use crate::explain::escape::escaped;
use crate::label::Label;
use crate::report::inbound::{self, Report};

/// Read aggregate reports from files.
///
/// Reads what a running gate would read in passing, by the same rules and within the same bounds: a report as XML, in
/// gzip or ZIP, or a message that one is attached to. Nobody vouches for what is in a file: whether a message comes
/// from whom it says is not looked at here.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Read {
    /// Reports or messages; "-" is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object a report, each on a line
    #[arg(long)]
    json: bool,
}

/// A report as `--json` prints it.
#[derive(Serialize)]
struct JsonReport<'a> {
    file: String,
    organization: &'a str,
    report_id: &'a str,
    begin: i64,
    end: i64,
    policy_domain: &'a str,
    policy: &'a str,
    messages: u64,
    left_out: u64,
    rows: Vec<JsonRow<'a>>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    messages: u64,
    source_ip: String,
    header_from: Option<&'a str>,
    disposition: Option<&'a str>,
    dkim: &'a str,
    spf: &'a str,
    dkim_passed: Vec<&'a str>,
    spf_passed: Vec<&'a str>,
    reasons: Vec<&'a str>,
}

impl Read {
    /// What can be read is printed, whatever is wrong with other files.
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        for path in &self.files {
            match read(path) {
                Ok(report) if self.json => print(output, &json(path, &report))?,
                Ok(report) => print(output, &table(path, &report))?,
                Err(why) => wrong.push(format!("{}: {why}", path.display())),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Failure::Running(wrong.join("\n"))) }
    }
}

fn read(path: &Path) -> Result<Report, String> {
    let mut octets = Vec::new();
    let read = match path.to_str() {
        Some("-") => io::stdin().lock().take(MAX_FILE).read_to_end(&mut octets),
        _ => File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut octets)),
    };
    read.map_err(|error| error.to_string())?;
    inbound::read_any(&octets).map_err(|refusal| format!("not read: {refusal} ({})", refusal.meaning()))
}

fn table(path: &Path, report: &Report) -> String {
    let date = |seconds: i64| Date::of_day(seconds.div_euclid(SECONDS_PER_DAY));
    let policy = if report.policy.is_empty() { "unknown" } else { &report.policy };
    let mut text = format!(
        "{}: {} ({}) about {}, p={policy}, {} to {}: {} messages\n",
        path.display(),
        escaped(report.organization.as_bytes()),
        escaped(report.report_id.as_bytes()),
        report.policy_domain,
        date(report.begin),
        date(report.end),
        report.messages(),
    );
    let line = |cells: [&str; 8]| {
        let [ip, messages, dkim, spf, disposition, from, passed, reasons] = cells;
        let text =
            format!("  {ip:39}  {messages:>10}  {dkim:4}  {spf:4}  {disposition:10}  {from:24}  {passed}  {reasons}");
        format!("{}\n", text.trim_end())
    };
    text.push_str(&line(["source", "messages", "DKIM", "SPF", "done", "author domain", "passed for", ""]));
    for (row, messages) in &report.rows {
        let mut passed = [words(&row.dkim_passed), words(&row.spf_passed)].concat();
        passed.sort_unstable();
        passed.dedup();
        let passed = if passed.is_empty() { "-".to_owned() } else { passed.join(" ") };
        let reasons = if row.reasons.is_empty() { String::new() } else { format!("({})", row.reasons) };
        text.push_str(&line([
            &row.source_ip.to_string(),
            &messages.to_string(),
            row.dkim.as_str(),
            row.spf.as_str(),
            row.disposition.map_or("-", Label::as_str),
            row.header_from.as_ref().map_or("-", Domain::as_str),
            &passed,
            &reasons,
        ]));
    }
    if report.left_out > 0 {
        text.push_str(&format!("  {} records could not be read\n", report.left_out));
    }
    text
}

/// The words of a list with spaces between.
fn words(list: &str) -> Vec<&str> {
    list.split_ascii_whitespace().collect()
}

fn json(path: &Path, report: &Report) -> String {
    let rows = report.rows.iter().map(|(row, messages)| JsonRow {
        messages: *messages,
        source_ip: row.source_ip.to_string(),
        header_from: row.header_from.as_ref().map(Domain::as_str),
        disposition: row.disposition.map(Label::as_str),
        dkim: row.dkim.as_str(),
        spf: row.spf.as_str(),
        dkim_passed: words(&row.dkim_passed),
        spf_passed: words(&row.spf_passed),
        reasons: words(&row.reasons),
    });
    let report = JsonReport {
        file: path.display().to_string(),
        organization: &report.organization,
        report_id: &report.report_id,
        begin: report.begin,
        end: report.end,
        policy_domain: report.policy_domain.as_str(),
        policy: &report.policy,
        messages: report.messages(),
        left_out: report.left_out,
        rows: rows.collect(),
    };
    // Fails only for maps with keys that are no strings; there are none.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

const EXIT_CODES: &str = "\
Exit code:
  0  all were read
  1  some were not, for the reasons told
  2  wrong usage";

/// Octets of a file that are read: more than any message that a gate reads.
const MAX_FILE: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use crate::cli::tests::run;

    const REPORT: &str = "<feedback><report_metadata><org_name>A \u{1b}[31m&amp; B</org_name><report_id>id 1</report_id>\
        <date_range><begin>1767225600</begin><end>1767311999</end></date_range></report_metadata><policy_published>\
        <domain>example.net</domain><p>reject</p></policy_published><record><row><source_ip>192.0.2.1</source_ip>\
        <count>12</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf><reason><type>\
        local_policy</type></reason></policy_evaluated></row><identifiers><header_from>example.net</header_from>\
        </identifiers><auth_results><spf><domain>forger.example</domain><result>pass</result></spf></auth_results>\
        </record><record><row><source_ip>X.X.X.X</source_ip><count>1</count></row></record></feedback>";

    #[test]
    fn reports_and_messages_are_read_and_what_is_wrong_with_others_is_told() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name).display().to_string();
            std::fs::write(&path, text).unwrap();
            path
        };
        let report = file("report.xml", REPORT);
        let message = file("message.eml", &format!("Subject: x\nContent-Type: text/xml\n\n{REPORT}"));
        let letter = file("letter.eml", "Subject: hello\n\nhello\n");
        let rows = "\
            \x20 source                                     messages  DKIM  SPF   done        author domain             passed for\n\
            \x20 192.0.2.1                                        12  fail  fail  reject      example.net               forger.example  (local_policy)\n\
            \x20 1 records could not be read\n";
        let head = "A \u{FFFD}[31m& B (id 1) about example.net, p=reject, 2026-01-01 to 2026-01-01: 12 messages";
        let head = head.replace('\u{FFFD}', "\\u{fffd}");
        let expected = format!("{report}: {head}\n{rows}{message}: {head}\n{rows}");
        assert_eq!(run(&["reports", "inbound", "read", &report, &message]).unwrap(), expected);

        let (code, why) = run(&["reports", "inbound", "read", &letter, &report, "/nonexistent"]).unwrap_err();
        assert_eq!(code, 1);
        let expected = format!(
            "{letter}: not read: no_report (no part of it could be a report)\n\
             /nonexistent: No such file or directory (os error 2)"
        );
        assert_eq!(why, expected);
        assert_eq!(run(&["reports", "inbound", "read"]).unwrap_err().0, 2);

        let json = run(&["reports", "inbound", "read", "--json", &report]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((value["messages"].as_u64(), value["left_out"].as_u64()), (Some(12), Some(1)));
        let row = serde_json::json!({
            "messages": 12, "source_ip": "192.0.2.1", "header_from": "example.net", "disposition": "reject",
            "dkim": "fail", "spf": "fail", "dkim_passed": [], "spf_passed": ["forger.example"],
            "reasons": ["local_policy"],
        });
        assert_eq!(value["rows"], serde_json::json!([row]));
    }
}
