//! Keeps for some days what was found out about each message that is no plain pass, and tells it as a story.
//!
//! A session hands in a [`Case`] once its client has the reply; a task draws an [`Explanation`] from it, which goes to
//! the store under the id that the client and the log were told. `dmarcgate explain` reads it back. Mail never waits
//! for it: where cases come faster than they can be drawn up, they are counted as lost. `dmarcgate check` tells what it
//! finds by the same facts and in the same words.

pub(crate) mod escape;
pub(crate) mod facts;
pub(crate) mod story;

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tracing::error;

use self::escape::escaped_start;
use self::facts::decision::Decision;
use self::facts::{Addresses, Client, From, Question, Results, Word, one_line};
use self::story::Story;
use crate::dns::Asked;
use crate::envelope::Envelope;
use crate::evaluation::discovery::Rules;
use crate::message::header::HeaderSection;
use crate::message::trace::date;
use crate::metrics::{IntCounter, Registry};
use crate::panics::caught_in;
use crate::personal::{PersonalData, Redactor};
use crate::smtp::reply::Reply;
use crate::store::{self, Appender};
use crate::verdict::Verdict;

/// One message, as the session leaves it.
pub struct Case {
    /// The id of the transaction, which log and reply carry.
    pub id: Box<str>,
    /// The id of the session.
    pub session: Box<str>,
    /// The gate's name.
    pub gate: Box<str>,
    /// Which listener the client came to.
    pub listener: SocketAddr,
    /// Which table of the configuration decided.
    pub policy_table: &'static str,
    /// When end-of-data came, in seconds since the epoch.
    pub arrived: u64,
    /// The client's address.
    pub ip: IpAddr,
    /// What it called itself.
    pub hello: Box<str>,
    /// What envelope and header section say, cut to what is told of them.
    pub letter: Letter,
    /// Octets of content, if they were counted.
    pub octets: Option<u64>,
    /// What was found and decided; none if it was not evaluated.
    pub verdict: Option<Verdict>,
    /// How its policy was discovered.
    pub rules: Arc<Rules>,
    /// The Received field that was added; empty if none was.
    pub received: String,
    /// Incoming fields that were removed, if the message went on.
    pub removed: usize,
    /// What became of it, as the metrics name it.
    pub outcome: &'static str,
    /// Who gave the reply: the gate or the upstream.
    pub answered_by: &'static str,
    /// The reply to end-of-data.
    pub reply: Reply,
}

/// What envelope and header section tell: recipients beyond the first hundred are counted alone.
#[derive(Debug)]
pub struct Letter {
    envelope: Addresses,
    recipient_count: usize,
    from: Vec<String>,
    message_id: Option<String>,
}

/// All that can be told about one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    id: String,
    gate: String,
    session: String,
    arrived: u64,
    /// None in those of versions before there were listeners with a policy of their own; so with `policy_table`.
    #[serde(default)]
    listener: Option<String>,
    #[serde(default)]
    policy_table: Option<Word>,
    client: Client,
    envelope: Addresses,
    recipient_count: usize,
    message_id: Option<String>,
    octets: Option<u64>,
    evaluation: Option<Results>,
    decision: Option<Decision>,
    /// What the shadow policy would have done.
    #[serde(default)]
    shadow: Option<Decision>,
    outcome: Word,
    answered_by: Word,
    reply: String,
    dns: Vec<Question>,
    /// Questions that are not told.
    dns_left_out: usize,
}

/// Why what was stored can't be told: of a later version, or damaged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be inflated.
    #[error("what is stored can't be inflated")]
    Inflate(#[from] std::io::Error),
    /// It is no explanation.
    #[error("what is stored is no explanation of this version")]
    Read(#[from] serde_json::Error),
}

/// Where sessions hand their cases in; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    /// None if nothing is kept.
    cases: Option<mpsc::Sender<Box<Case>>>,
    lost: IntCounter,
}

impl Recorder {
    /// Starts the task that draws up explanations and hands them to the store, on the current runtime. It ends when all
    /// recorders are gone. Of addresses it keeps what `personal_data` says.
    pub fn start(store: Appender, personal_data: PersonalData, registry: &Registry) -> (Self, JoinHandle<()>) {
        let (sender, cases) = mpsc::channel(MAX_WAITING);
        let recorder = Self { cases: Some(sender), ..Self::idle(registry) };
        (recorder, tokio::spawn(run(cases, store, personal_data)))
    }

    /// One that keeps nothing.
    pub fn idle(registry: &Registry) -> Self {
        let help = "Messages that `dmarcgate explain` will not find, since more came than could be drawn up.";
        Self { cases: None, lost: registry.counter("dmarcgate_explanations_lost_total", help) }
    }

    /// Whether anything is kept: else there is no case to make.
    pub fn is_active(&self) -> bool {
        self.cases.is_some()
    }

    /// Hands in a case; never waits.
    pub fn keep(&self, case: Box<Case>) {
        if let Some(cases) = &self.cases
            && cases.try_send(case).is_err()
        {
            self.lost.inc();
        }
    }
}

/// One case in each turn of the task: sessions have theirs in between, however many cases wait.
async fn run(mut cases: mpsc::Receiver<Box<Case>>, store: Appender, personal_data: PersonalData) {
    let mut drafter = Drafter::new(personal_data);
    while let Some(case) = cases.recv().await {
        let (id, arrived) = (case.id.clone(), i64::try_from(case.arrived).unwrap_or(i64::MAX));
        match caught_in(|| drafter.draw_up(&case)) {
            Ok(body) => store.explain(store::Explanation { id, arrived, body }),
            Err(_) => error!(transaction = &*id, "a fault of ours: what is known of this message could not be kept"),
        }
        drop(case);
        yield_now().await;
    }
}

/// Draws explanations up, one after the other.
pub struct Drafter {
    redactor: Redactor,
    personal_data: PersonalData,
    deflater: Deflater,
}

impl Drafter {
    /// One that keeps of addresses what `personal_data` says.
    pub fn new(personal_data: PersonalData) -> Self {
        Self { redactor: Redactor::new(), personal_data, deflater: Deflater::default() }
    }

    /// What is stored of a case; [`Explanation::decode`] reads it.
    pub fn draw_up(&mut self, case: &Case) -> Box<[u8]> {
        Explanation::new(case).encode(&self.redactor, self.personal_data, &mut self.deflater)
    }
}

/// What makes explanations small, about half as large. Its tables, more than a hundred kilobytes, are made once: for
/// each text anew they would cost as much as the rest. Level 1 has fixed codes; level 2 would save another fifth of the
/// room, and twice the time would go into codes for each text.
struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        Self(Compress::new(Compression::fast(), false))
    }
}

impl Deflater {
    fn deflate(&mut self, text: &[u8]) -> Box<[u8]> {
        self.0.reset();
        let mut out = Vec::with_capacity(text.len() / 2 + 64);
        let mut taken = 0;
        // Deflating into memory can't fail; each turn either ends it or has used up the room that there was.
        while let Ok(Status::Ok | Status::BufError) =
            self.0.compress_vec(text.get(taken..).unwrap_or_default(), &mut out, FlushCompress::Finish)
        {
            taken = usize::try_from(self.0.total_in()).unwrap_or(usize::MAX);
            out.reserve(text.len() / 4 + 64);
        }
        out.into()
    }
}

impl Letter {
    /// Takes what is told out of envelope and header section; there is none of a message that was not taken.
    pub fn new(envelope: &Envelope, section: Option<&HeaderSection>) -> Self {
        let message_id = section.and_then(HeaderSection::message_id);
        Self {
            envelope: Addresses::new(envelope),
            recipient_count: envelope.recipients.len(),
            from: section.map(|section| From::fields(section, MAX_TEXT)).unwrap_or_default(),
            message_id: message_id.map(|id| escaped_start(id, MAX_TEXT)),
        }
    }
}

impl Explanation {
    fn new(case: &Case) -> Self {
        let evaluation = case.verdict.as_ref().map(|verdict| &verdict.evaluation);
        let evidence = evaluation.map_or(&[][..], |evaluation| &evaluation.evidence.asked);
        let (dns, left_out) = questions(evidence);
        let dns_left_out = left_out + evaluation.map_or(0, |evaluation| evaluation.evidence.left_out);
        Self {
            id: case.id.to_string(),
            gate: case.gate.to_string(),
            session: case.session.to_string(),
            arrived: case.arrived,
            listener: Some(case.listener.to_string()),
            policy_table: Some(case.policy_table.into()),
            client: Client::new(case.ip, &case.hello),
            envelope: case.letter.envelope.clone(),
            recipient_count: case.letter.recipient_count,
            message_id: case.letter.message_id.clone(),
            octets: case.octets,
            evaluation: evaluation.map(|e| Results::new(e, case.letter.from.clone(), &case.rules, MAX_TEXT)),
            decision: case
                .verdict
                .as_ref()
                .map(|verdict| Decision::new(verdict, case.removed).with_received(&case.received)),
            shadow: case.verdict.as_ref().and_then(|verdict| Decision::of_shadow(verdict, case.removed)),
            outcome: case.outcome.into(),
            answered_by: case.answered_by.into(),
            reply: one_line(&case.reply),
            dns,
            dns_left_out,
        }
    }

    fn encode(&self, redactor: &Redactor, personal_data: PersonalData, deflater: &mut Deflater) -> Box<[u8]> {
        // Fails only for maps with keys that are no strings; there are none.
        let json = serde_json::to_string(self).unwrap_or_default();
        deflater.deflate(redactor.redact(&json, personal_data).as_bytes())
    }

    /// Reads what was stored.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let mut json = Vec::new();
        DeflateDecoder::new(body).take(MAX_JSON).read_to_end(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }

    /// One JSON object on several lines.
    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The story, ended by a line end.
    pub fn tell(&self) -> String {
        let mut story = Story::default();
        self.message(&mut story);
        if let Some(results) = &self.evaluation {
            story.results(results);
        }
        if let Some(decision) = &self.decision {
            story.heading("Decision");
            if let Some((table, listener)) = self.policy_table.as_ref().zip(self.listener.as_ref()) {
                story.fact("by", &format!("[{table}], at the listener {listener}"));
            }
            story.decision(decision, "");
            if let Some(shadow) = &self.shadow {
                story.shadow(shadow, decision);
            }
        }
        story.heading("Reply to the client");
        story.fact(if self.answered_by == "gate" { "by the gate" } else { "by the server" }, &self.reply);
        story.fact("outcome", &self.outcome.replace('_', " "));
        if self.evaluation.is_some() {
            story.dns(&self.dns);
        }
        if self.dns_left_out > 0 {
            story.line(&format!("  {} more are not kept", self.dns_left_out));
        }
        story.end()
    }

    fn message(&self, story: &mut Story) {
        story.heading(&format!("Message {}", self.id));
        story.fact("arrived", &format!("{} by {} (session {})", date(self.arrived), self.gate, self.session));
        story.fact("client", &format!("{}, EHLO {}", self.client.ip, self.client.helo));
        story.fact("reverse-path", &format!("<{}>", self.envelope.mail_from));
        for recipient in &self.envelope.recipients {
            story.fact("recipient", &format!("<{recipient}>"));
        }
        let left_out = self.recipient_count.saturating_sub(self.envelope.recipients.len());
        if left_out > 0 {
            story.fact("", &format!("and {left_out} more"));
        }
        if let Some(id) = &self.message_id {
            story.fact("Message-ID", &story::cut(id));
        }
        if let Some(octets) = self.octets {
            story.fact("size", &format!("{octets} octets"));
        }
    }
}

/// As many questions as the bounds allow, and how many are left out.
fn questions(evidence: &[Asked]) -> (Vec<Question>, usize) {
    let mut told = Vec::new();
    let mut octets = 0;
    for asked in evidence {
        let question = Question::new(asked, MAX_TEXT);
        octets += question.name.len() + question.records.iter().map(String::len).sum::<usize>();
        if octets > MAX_EVIDENCE {
            break;
        }
        told.push(question);
    }
    let left_out = evidence.len() - told.len();
    (told, left_out)
}

/// Cases that may wait: some hundred kilobytes at most each, some kilobytes as a rule.
const MAX_WAITING: usize = 256;
/// Octets that are kept of a text of a peer: a key of rsa-4096 or a long SPF record is whole.
const MAX_TEXT: usize = 2048;
/// Octets of all questions and answers of one message.
const MAX_EVIDENCE: usize = 128 * 1024;
/// Octets of a whole explanation, inflated, that are read: what was stored is less.
const MAX_JSON: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
