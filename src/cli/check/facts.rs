//! All that `check` tells, as one value: what people read and what programs read are drawn from it.
//!
//! The field names are those of `--json` and stay as they are.

use serde::Serialize;

use super::Check;
use super::input::Input;
use crate::clock::epoch_seconds;
use crate::config::{Config, Mode, Reject};
use crate::domain::Domain;
use crate::envelope::Envelope;
use crate::evaluation::Evaluation;
use crate::evaluation::discovery::Rules;
use crate::explain::escape::escaped;
use crate::explain::facts::decision::{Decision, Fate};
use crate::explain::facts::{Addresses, Client, From, Question, Results, one_line};
use crate::label::Label;
use crate::policy::Circumstances;
use crate::session::receive::Received;
use crate::smtp::reply::Reply;
use crate::verdict;

#[derive(Debug, Serialize)]
pub struct Facts {
    pub message: Message,
    pub client: Client,
    pub envelope: Addresses,
    /// The reply to a message that is refused for its form or size, whatever it says.
    pub objection: Option<String>,
    /// Whether a session would not evaluate it, since it trusts the client.
    pub trusted_network: bool,
    /// None of a message that is too big to be evaluated.
    pub evaluation: Option<Results>,
    /// In the order of the modes; of enforce one for each value of `policy.reject`.
    pub decisions: Vec<Decision>,
    /// That of the shadow policy, if there is one.
    pub shadow: Option<Decision>,
    /// In the mode that is in force.
    pub fate: Fate,
    pub dns: Vec<Question>,
    /// Whether the built-in defaults are in force, for want of a configuration file.
    #[serde(skip)]
    pub built_in: bool,
}

#[derive(Debug, Serialize)]
pub struct Message {
    pub file: String,
    pub octets: usize,
    pub line_ends: &'static str,
    pub mbox_separator: bool,
    pub irregularities: Vec<&'static str>,
}

/// What the facts are drawn from.
pub struct Findings<'a> {
    pub config: &'a Config,
    pub envelope: &'a Envelope,
    pub received: &'a Received,
    pub evaluation: &'a Evaluation,
    pub rules: &'a Rules,
    /// The client's confirmed name, if an override depends on it.
    pub host: Option<&'a Domain>,
}

impl Facts {
    /// Of an evaluated message.
    pub fn new(check: &Check, input: &Input, name: &str, findings: &Findings<'_>) -> Self {
        let Findings { config, received, evaluation, rules, .. } = findings;
        let irregularities = received.irregularities;
        let met = [
            (irregularities.bare_cr, "bare_cr"),
            (irregularities.bare_lf, "bare_lf"),
            (irregularities.nul_dot_line, "nul_dot_line"),
        ];
        let objection = received.objection(config.smtp.bare_newline);
        let trusted_network = config.bypass().trusts(check.ip());
        let (decisions, shadow) = findings.decisions(check);
        let in_force = decisions.iter().find(|decision| decision.in_force).map_or(Fate::PassedOn, |d| d.fate);
        Self {
            message: Message {
                irregularities: met.iter().filter(|(met, _)| *met).map(|(_, word)| *word).collect(),
                ..Message::new(input, name)
            },
            fate: match (&objection, trusted_network) {
                (Some(_), _) => Fate::Refused,
                (None, true) => Fate::PassedOn,
                (None, false) => in_force,
            },
            objection: objection.map(|fault| one_line(&fault.reply())),
            trusted_network,
            evaluation: Some(Results::new(
                evaluation,
                From::fields(&received.subject.section, usize::MAX),
                rules,
                usize::MAX,
            )),
            decisions,
            shadow,
            dns: evaluation.evidence.asked.iter().map(|asked| Question::new(asked, usize::MAX)).collect(),
            ..Self::envelope(check, input, name)
        }
    }

    /// Of a message that is not taken for its size or its header section.
    pub fn too_big(check: &Check, input: &Input, name: &str, reply: &Reply) -> Self {
        Self { objection: Some(one_line(reply)), fate: Fate::Refused, ..Self::envelope(check, input, name) }
    }

    /// One object on several lines, the fields in the order in which they stand here.
    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn envelope(check: &Check, input: &Input, name: &str) -> Self {
        let envelope = Envelope { recipients: check.rcpt.clone(), ..check.envelope() };
        Self {
            message: Message::new(input, name),
            client: Client::new(check.ip(), check.helo.as_str()),
            envelope: Addresses::new(&envelope),
            objection: None,
            trusted_network: false,
            evaluation: None,
            decisions: Vec::new(),
            shadow: None,
            fate: Fate::PassedOn,
            dns: Vec::new(),
            built_in: check.config.is_none(),
        }
    }
}

impl Message {
    fn new(input: &Input, name: &str) -> Self {
        Self {
            file: escaped(name.as_bytes()),
            octets: input.octets,
            line_ends: input.line_ends.as_str(),
            mbox_separator: input.separator,
            irregularities: Vec::new(),
        }
    }
}

impl Findings<'_> {
    /// The decision in each mode, and that of the shadow policy, all under the same circumstances.
    fn decisions(&self, check: &Check) -> (Vec<Decision>, Option<Decision>) {
        let configured = self.config.policy.reject;
        let enforced = Reject::ALL.iter().map(|reject| (Mode::Enforce, *reject));
        let cases = [(Mode::Monitor, configured), (Mode::Tag, configured)].into_iter().chain(enforced);
        let circumstances = Circumstances {
            host: self.host.cloned(),
            ..self.config.verdict().circumstances(self.envelope, epoch_seconds())
        };
        let decision = |(mode, reject)| {
            let mut config = self.config.clone();
            (config.policy.mode, config.policy.reject) = (mode, reject);
            let settings = config.verdict();
            let removed = settings.removals(&self.received.subject.section, check.ip()).count();
            let verdict = verdict::conclude(self.evaluation.clone(), self.envelope, &circumstances, &settings, ID);
            let in_force = mode == self.config.policy.mode && reject == configured;
            let shadow = Decision::of_shadow(&verdict, removed).filter(|_| in_force);
            (Decision { in_force, ..Decision::new(&verdict, removed) }, shadow)
        };
        let (decisions, shadows): (_, Vec<_>) = cases.map(decision).unzip();
        (decisions, shadows.into_iter().flatten().next())
    }
}

/// Stands where a session puts the id of the message.
const ID: &str = "check";
