//! `dmarcgate reports shadow`: what another policy would have done, and what the mail server said, in numbers.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{before, block_on, duration};
use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::label::Label;
use crate::policy::treatment::{Opinion, Treatment};
use crate::record::UpstreamReply;
use crate::store::Reader;
use crate::store::comparison::{Among, Comparisons, Total};

/// Tell what the shadow policy would have done, and how verdicts and the mail server's replies agree.
///
/// Messages are counted from the UTC day on that lies so far back, as long as they are kept (store.keep_comparisons).
/// Of those that [policy.shadow] judged: how many it would have treated otherwise, and how; from which author domains,
/// sources (d= of a signature that passed, else the SPF domain that passed, else the client's network) and lists these
/// came; and how many of them the mail server accepted or refused. Then what DMARC said of all messages that were
/// passed on, beside the mail server's reply. A message that the gate defers is counted at each attempt; one that the
/// mail server defers stands in the last table alone. What a running gate has recorded within the last second may be
/// missing.
#[derive(Debug, Args)]
pub struct Shadow {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back: "12h", "7d"; whole days are counted
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    since: Duration,
    /// How many author domains, sources and lists are named
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All that is told, in the names of `--json`.
#[derive(Debug, Serialize)]
struct Told {
    /// The first day, UTC.
    first: String,
    /// The last one.
    last: String,
    /// Messages that the shadow policy judged.
    compared: i64,
    /// Those of them that it would have treated otherwise.
    different: i64,
    differences: Vec<Difference>,
    author_domains: Vec<Name>,
    sources: Vec<Name>,
    lists: Vec<Name>,
    replies: Vec<Replies>,
}

/// Messages that were treated one way and would have been another.
#[derive(Debug, Serialize)]
struct Difference {
    active: &'static str,
    shadow: &'static str,
    #[serde(flatten)]
    numbers: Numbers,
}

/// One of the author domains, sources or lists.
#[derive(Debug, Serialize)]
struct Name {
    name: String,
    #[serde(flatten)]
    numbers: Numbers,
}

/// How many messages, and what the mail server said; of the others it was not asked.
#[derive(Debug, Default, Serialize)]
struct Numbers {
    messages: i64,
    accepted: i64,
    refused: i64,
}

/// What the mail server said to messages of which DMARC says one thing.
#[derive(Debug, Serialize)]
struct Replies {
    verdict: &'static str,
    accepted: i64,
    refused: i64,
    deferred: i64,
}

impl Shadow {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let reader = Reader::new(self.file.load()?.config.store.url);
        let now = epoch_seconds_signed();
        let since = before(now, self.since);
        let told = Told::new((since, now), block_on(reader.comparisons(since, now, self.top.into()))?);
        print(output, &if self.json { told.to_json() } else { told.to_text() })
    }
}

impl Told {
    fn new((since, until): (i64, i64), found: Comparisons) -> Self {
        let date = |seconds: i64| Date::of_day(seconds.div_euclid(SECONDS_PER_DAY)).to_string();
        // What the mail server defers comes again.
        let compared = found.totals.iter().filter(|total| total.reply != Some(UpstreamReply::Deferred));
        let compared: Vec<&Total> = compared.filter(|total| total.shadow.is_some()).collect();
        let pairs = Treatment::ALL.iter().flat_map(|active| Treatment::ALL.iter().map(move |shadow| (active, shadow)));
        let difference = |(active, shadow): (&Treatment, &Treatment)| {
            let same = |total: &&&Total| total.active == *active && total.shadow == Some(*shadow);
            let numbers = Numbers::of(compared.iter().filter(same).copied());
            let differs = active != shadow && numbers.messages > 0;
            differs.then_some(Difference { active: active.as_str(), shadow: shadow.as_str(), numbers })
        };
        let differences: Vec<Difference> = pairs.filter_map(difference).collect();
        let names = |names: Vec<Among>| names.into_iter().map(Name::new).collect();
        Self {
            first: date(since),
            last: date(until),
            compared: compared.iter().map(|total| total.messages).sum(),
            different: differences.iter().map(|difference| difference.numbers.messages).sum(),
            differences,
            author_domains: names(found.author_domains),
            sources: names(found.sources),
            lists: names(found.lists),
            replies: Opinion::ALL.iter().map(|opinion| Replies::new(*opinion, &found.totals)).collect(),
        }
    }

    /// One object on several lines.
    fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn to_text(&self) -> String {
        let mut text = format!("{} to {} (UTC)\n\n", self.first, self.last);
        match (self.compared, self.different) {
            (0, _) => text.push_str("No message was compared: there was no [policy.shadow].\n"),
            (compared, 0) => text.push_str(&format!("{compared} messages compared, none would fare otherwise.\n")),
            (compared, different) => {
                text.push_str(&format!("{compared} messages compared, {different} would fare otherwise:\n\n"));
            }
        }
        let treatments = self.differences.iter();
        let treatments = treatments.map(|d| (format!("{:17}  {}", d.active, d.shadow), &d.numbers));
        table(&mut text, &format!("{:17}  {}", "in force", "shadow"), treatments.collect());
        let lists = [("author domain", &self.author_domains), ("source", &self.sources), ("list", &self.lists)];
        for (heading, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
            text.push('\n');
            table(&mut text, heading, names.iter().map(|name| (name.name.clone(), &name.numbers)).collect());
        }
        text.push_str("\nWhat DMARC says of messages that were passed on, and what the mail server said:\n\n");
        let row = |word: &str, [a, b, c]: [&str; 3]| format!("{word:14}  {a:>9}  {b:>9}  {c:>9}\n");
        text.push_str(&row("DMARC", ["accepted", "refused", "deferred"]));
        for Replies { verdict, accepted, refused, deferred } in &self.replies {
            let numbers = [accepted, refused, deferred].map(i64::to_string);
            text.push_str(&row(&verdict.replace('_', ", "), numbers.each_ref().map(String::as_str)));
        }
        text
    }
}

impl Numbers {
    fn of<'a>(totals: impl Iterator<Item = &'a Total>) -> Self {
        totals.fold(Self::default(), |sum, total| {
            let of = |reply| if total.reply == Some(reply) { total.messages } else { 0 };
            Self {
                messages: sum.messages.saturating_add(total.messages),
                accepted: sum.accepted.saturating_add(of(UpstreamReply::Accepted)),
                refused: sum.refused.saturating_add(of(UpstreamReply::Refused)),
            }
        })
    }
}

impl Name {
    fn new(Among { name, messages, accepted, refused }: Among) -> Self {
        Self { name, numbers: Numbers { messages, accepted, refused } }
    }
}

impl Replies {
    fn new(opinion: Opinion, totals: &[Total]) -> Self {
        let sum = |reply| {
            let alike = totals.iter().filter(|total| total.opinion == opinion && total.reply == Some(reply));
            alike.map(|total| total.messages).sum()
        };
        Self {
            verdict: opinion.as_str(),
            accepted: sum(UpstreamReply::Accepted),
            refused: sum(UpstreamReply::Refused),
            deferred: sum(UpstreamReply::Deferred),
        }
    }
}

/// Lines of a text and the numbers behind it, under a heading; none without lines.
fn table(text: &mut String, heading: &str, lines: Vec<(String, &Numbers)>) {
    if lines.is_empty() {
        return;
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default().max(heading.len());
    text.push_str(&format!("{heading:width$}  {:>9}  {:>9}  {:>9}\n", "messages", "accepted", "refused"));
    for (name, Numbers { messages, accepted, refused }) in lines {
        text.push_str(&format!("{name:width$}  {messages:>9}  {accepted:>9}  {refused:>9}\n"));
    }
}
