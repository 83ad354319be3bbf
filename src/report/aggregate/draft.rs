//! Adds rows up to reports, within bounds that no flood of forgeries exceeds.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::record::{Counted, PolicyPublished};
use crate::report::aggregate::line::{Line, Unreported};
use crate::report::aggregate::{Configuration, Feedback, Period, PrivateAddresses, ReportId, Reporter};

/// How large a report gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Octets of XML, uncompressed.
    pub octets: usize,
}

/// Messages of rows that are in no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// From private addresses.
    pub private: u64,
    /// In more records than a report holds, or of more configurations than are reported.
    pub surplus: u64,
    /// Without a policy or an author domain.
    pub subjectless: u64,
}

/// The reports on all configurations that the rows of a period show.
#[derive(Debug)]
pub struct Drafts {
    private: PrivateAddresses,
    limits: Limits,
    drafts: BTreeMap<Configuration, Draft>,
    left_out: LeftOut,
}

/// What is in one report so far.
#[derive(Debug)]
pub struct Draft {
    configuration: Configuration,
    private: PrivateAddresses,
    limits: Limits,
    lines: BTreeMap<Line, u64>,
    /// Of all lines.
    octets: usize,
    left_out: LeftOut,
}

impl Drafts {
    /// None yet.
    pub fn new(private: PrivateAddresses, limits: Limits) -> Self {
        Self { private, limits, drafts: BTreeMap::new(), left_out: LeftOut::default() }
    }

    /// Takes a row of the period, of whatever domain and configuration. One of a configuration beyond
    /// `MAX_CONFIGURATIONS` is left out: no owner changes a record that often, but a name server may well make one up
    /// for each query.
    pub fn add(&mut self, row: Counted) {
        let Some(configuration) = row.record.policy.as_ref().map(Configuration::from) else {
            return self.left_out.subjectless = self.left_out.subjectless.saturating_add(row.count);
        };
        let of_domain = self.drafts.keys().filter(|known| known.domain == configuration.domain).count();
        if let Some(draft) = self.drafts.get_mut(&configuration) {
            draft.take(row);
        } else if of_domain < MAX_CONFIGURATIONS {
            let mut draft = Draft::new(configuration.clone(), self.private, self.limits);
            draft.take(row);
            self.drafts.insert(configuration, draft);
        } else {
            self.left_out.surplus = self.left_out.surplus.saturating_add(row.count);
        }
    }

    /// The drafts in the order of their configurations, and what is in none of them.
    pub fn finish(self) -> (Vec<Draft>, LeftOut) {
        (self.drafts.into_values().collect(), self.left_out)
    }
}

impl Draft {
    /// An empty one.
    pub fn new(configuration: Configuration, private: PrivateAddresses, limits: Limits) -> Self {
        Self { configuration, private, limits, lines: BTreeMap::new(), octets: 0, left_out: LeftOut::default() }
    }

    /// Takes a row; one of another configuration is left out.
    pub fn add(&mut self, row: Counted) {
        let configuration = |policy: &PolicyPublished| Configuration::from(policy) == self.configuration;
        if row.record.policy.as_ref().is_some_and(configuration) {
            self.take(row);
        } else {
            self.left_out.subjectless = self.left_out.subjectless.saturating_add(row.count);
        }
    }

    /// What it is about.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The report, unless nothing is left to report, and what is not in it.
    pub fn finish(mut self, reporter: &Reporter, period: Period) -> (Option<Feedback>, LeftOut) {
        self.shorten(self.limits);
        let left_out = self.left_out;
        if self.lines.is_empty() {
            return (None, left_out);
        }
        let error = self.error();
        let mut lines = BTreeMap::new();
        for (line, count) in self.lines {
            let sum: &mut u64 = lines.entry(line.in_format(reporter.format)).or_default();
            *sum = sum.saturating_add(count);
        }
        let feedback = Feedback {
            reporter: reporter.clone(),
            id: ReportId::new(&reporter.receiver, &self.configuration, period),
            period,
            error,
            policy: self.configuration,
            lines: lines.into_iter().collect(),
        };
        (Some(feedback), left_out)
    }

    fn take(&mut self, row: Counted) {
        let left_out = match Line::new(row.record, self.private) {
            Ok(line) => {
                let octets = line.octets();
                let count = self.lines.entry(line).or_insert_with(|| {
                    self.octets += octets;
                    0
                });
                *count = count.saturating_add(row.count);
                // Twice the room, so that lines are seldom dropped; a line that is dropped and comes back has lost its
                // count, which the report mentions.
                if self.lines.len() > 2 * self.limits.records || self.octets > 2 * self.limits.octets {
                    self.shorten(self.limits);
                }
                return;
            }
            Err(Unreported::Private) => &mut self.left_out.private,
            Err(Unreported::Subjectless) => &mut self.left_out.subjectless,
        };
        *left_out = left_out.saturating_add(row.count);
    }

    /// Keeps what fits: aligned lines first, which no forger can make, then those that count most.
    fn shorten(&mut self, limits: Limits) {
        if self.lines.len() <= limits.records && self.octets <= limits.octets {
            return;
        }
        let mut lines: Vec<_> = std::mem::take(&mut self.lines).into_iter().collect();
        lines.sort_by_key(|(line, count)| (Reverse(line.is_aligned()), Reverse(*count)));
        self.octets = 0;
        for (line, count) in lines {
            let octets = self.octets.saturating_add(line.octets());
            if self.lines.len() < limits.records && octets <= limits.octets {
                self.octets = octets;
                self.lines.insert(line, count);
            } else {
                self.left_out.surplus = self.left_out.surplus.saturating_add(count);
            }
        }
    }

    /// What is wrong with the record (RFC 9990 §3.1.5), and what the report has no room for.
    fn error(&self) -> Option<String> {
        let surplus = match self.left_out.surplus {
            0 => String::new(),
            count => format!("{count} more messages are not in this report, which is limited in size"),
        };
        let parts = [self.configuration.problems(), surplus];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl Default for Limits {
    /// Some megabytes when compressed, which consumers take; a day's records of most domains are a few dozen.
    fn default() -> Self {
        Self { records: 50_000, octets: 48 * 1024 * 1024 }
    }
}

/// Configurations of one policy domain in one period.
pub const MAX_CONFIGURATIONS: usize = 10;
