//! Takes a message apart as it comes: the header section into memory, the body into hashes and spool.

use std::sync::Arc;

use super::fault::Fault;
use super::settings::BareNewline;
use crate::evaluation::subject::Subject;
use crate::message::body_hash::{BodyHasher, BodyHashes};
use crate::message::header::{HeaderSection, begins_field};
use crate::message::spool::{self, Spool};
use crate::smtp::data::{Decoder, Framing, Irregularities, Progress, Sink};

/// What bounds a message.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Octets of content.
    pub message_size: u64,
    /// Octets of the header section.
    pub header_size: usize,
    /// Fields of the header section, with the lines that are none: readers differ on where such a section ends.
    /// They don't count in a message that is not evaluated: a mail server takes the first for the end of the section,
    /// and of a message that nobody judges there is little to read.
    pub header_fields: usize,
    /// Received fields: beyond them the message is taken to loop.
    pub received_fields: usize,
    /// DKIM signatures that are evaluated; none at all if the message is not evaluated.
    pub signatures: Option<usize>,
}

/// A message on its way in.
pub struct Intake {
    decoder: Decoder,
    parts: Parts,
}

/// A message that came whole.
pub struct Received {
    /// The header section and what is to be evaluated of it.
    pub subject: Arc<Subject>,
    /// The body hashes that its signatures ask for.
    pub hashes: BodyHashes,
    /// The body as it goes on.
    pub body: Spool,
    /// Octets of content.
    pub size: u64,
    /// Octets of the body that the encoding added: doubled dots.
    pub dots: u64,
    /// Whether the last line has an end.
    pub ends_with_line: bool,
    /// How it came.
    pub framing: Framing,
    /// What RFC 5321 forbids and was met.
    pub irregularities: Irregularities,
}

/// How far an intake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// More is to come.
    Going,
    /// More is to come, and it is far too much: nobody is to wait for its end.
    Hopeless,
    /// The end was met behind this many octets of the input.
    End(usize),
}

struct Parts {
    bounds: Bounds,
    /// The header section as far as it came, while it is coming.
    head: Vec<u8>,
    /// Where the line begins that is coming.
    line_start: usize,
    /// How many lines of it were no continuations: fields, or what is taken for them.
    fields: usize,
    subject: Option<Arc<Subject>>,
    hasher: BodyHasher,
    body: Spool,
    size: u64,
    dots: u64,
    /// The bound that was passed first.
    fault: Option<Fault>,
    /// Nothing more is kept: for the fault, or since there is no room.
    is_discarded: bool,
}

impl Intake {
    /// Ready for the first octet.
    pub fn new(framing: Framing, bounds: Bounds, body: Spool) -> Self {
        let parts = Parts {
            bounds,
            head: Vec::new(),
            line_start: 0,
            fields: 0,
            subject: None,
            hasher: BodyHasher::new(Vec::new()),
            body,
            size: 0,
            dots: 0,
            fault: None,
            is_discarded: false,
        };
        Self { decoder: Decoder::new(framing), parts }
    }

    /// Takes octets from the wire.
    pub fn take(&mut self, input: &[u8]) -> Stage {
        match self.decoder.decode(input, &mut self.parts) {
            Progress::End(taken) => Stage::End(taken),
            Progress::More if self.parts.size > self.parts.bounds.message_size.saturating_mul(2) => Stage::Hopeless,
            Progress::More => Stage::Going,
        }
    }

    /// Bounds the memory that the message takes; called after each [`Intake::take`].
    ///
    /// # Errors
    ///
    /// The message can't be kept; the rest may be read all the same.
    pub async fn settle(&mut self) -> Result<(), spool::Error> {
        self.parts.body.settle().await
    }

    /// Drops what was kept: the message can't be taken, and the rest of it is read for its end alone.
    pub fn discard(&mut self) {
        self.parts.discard();
    }

    /// The bound that was passed, if one was.
    pub fn fault(&self) -> Option<Fault> {
        self.parts.fault
    }

    /// Octets that may still come before nobody is to wait for the end any more.
    pub fn patience(&self) -> u64 {
        self.parts.bounds.message_size.saturating_mul(2).saturating_sub(self.parts.size)
    }

    /// What is to be evaluated, once the header section is complete.
    pub fn subject(&self) -> Option<&Arc<Subject>> {
        self.parts.subject.as_ref()
    }

    /// The message, once its end was met.
    ///
    /// # Errors
    ///
    /// The bound that it passed; the data was read to its end all the same.
    pub fn finish(mut self) -> Result<Received, Fault> {
        let framing = self.decoder.framing();
        if framing == Framing::Count {
            self.decoder.finish(&mut self.parts);
        }
        // A message without an empty line is all header section.
        if self.parts.fault.is_none() && self.parts.subject.is_none() {
            self.parts.head_complete();
        }
        let subject = match (self.parts.fault, self.parts.subject) {
            (None, Some(subject)) => subject,
            (fault, _) => return Err(fault.unwrap_or(Fault::HeaderSize)),
        };
        if let Some(memory) = self.parts.body.hand_over_apart() {
            subject.hold(memory);
        }
        Ok(Received {
            subject,
            hashes: self.parts.hasher.finish(),
            body: self.parts.body,
            size: self.parts.size,
            dots: self.parts.dots,
            ends_with_line: self.decoder.ends_with_line(),
            framing,
            irregularities: self.decoder.irregularities(),
        })
    }
}

impl Received {
    /// Why a message is not taken for its form, whatever it says.
    pub fn objection(&self, bare_newline: BareNewline) -> Option<Fault> {
        let Irregularities { bare_lf, bare_cr, nul_dot_line } = self.irregularities;
        if nul_dot_line {
            Some(Fault::NulDotLine)
        } else if bare_newline == BareNewline::Reject && (bare_lf || bare_cr) {
            Some(Fault::BareNewline)
        } else if self.subject.section.begins_with_continuation() {
            Some(Fault::WhiteSpaceFirst)
        } else {
            None
        }
    }
}

impl Sink for Parts {
    fn piece(&mut self, content: &[u8], wire: &[u8]) {
        self.size = self.size.saturating_add(content.len() as u64);
        if self.size > self.bounds.message_size {
            self.give_up(Fault::MessageSize);
        }
        if self.is_discarded {
            return;
        }
        if self.subject.is_some() {
            self.hasher.update(content);
            self.body.push(wire);
            self.dots = self.dots.saturating_add((wire.len() - content.len().min(wire.len())) as u64);
            return;
        }
        let taken = self.take_head(content);
        if self.subject.is_some() {
            // The header section ended inside a piece that is the same as content and on the wire: only dots and bare
            // CR differ, and neither ends a line.
            let rest = content.get(taken..).unwrap_or_default();
            self.hasher.update(rest);
            self.body.push(rest);
        }
    }
}

impl Parts {
    /// Takes header lines up to the empty one and gives how much was taken.
    fn take_head(&mut self, content: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = content.get(taken..).filter(|r| !r.is_empty() && !self.is_discarded) {
            let Some(found) = memchr::memchr(b'\n', rest) else {
                self.push_head(rest);
                return content.len();
            };
            let line = rest.get(..=found).unwrap_or(rest);
            taken += line.len();
            self.push_head(line);
            if self.head.get(self.line_start..) == Some(b"\r\n") {
                self.head_complete();
                return taken;
            }
            self.count_field();
            self.line_start = self.head.len();
        }
        taken
    }

    fn push_head(&mut self, line: &[u8]) {
        if self.head.len() + line.len() > self.bounds.header_size {
            self.give_up(Fault::HeaderSize);
        } else {
            self.head.extend_from_slice(line);
            self.body.keep_apart(self.head.len());
        }
    }

    /// Counts the line that has come. What is read later takes time for each field, however short.
    fn count_field(&mut self) {
        let line = self.head.get(self.line_start..).unwrap_or_default();
        let is_continuation = matches!(line.first(), Some(b' ' | b'\t' | b'\r'));
        let counts = !is_continuation && (self.bounds.signatures.is_some() || begins_field(line));
        self.fields += usize::from(counts);
        if self.fields > self.bounds.header_fields {
            self.give_up(Fault::HeaderFields);
        }
    }

    fn head_complete(&mut self) {
        let section = HeaderSection::parse(std::mem::take(&mut self.head));
        // RFC 5321 §6.3: counting Received fields is how a loop is found, with a threshold of 100 or more.
        if section.received_count() > self.bounds.received_fields {
            self.give_up(Fault::ReceivedFields);
            return;
        }
        let subject = Arc::new(Subject::read(section, self.bounds.signatures));
        self.hasher = BodyHasher::new(subject.body_hash_specs());
        self.subject = Some(subject);
    }

    fn give_up(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.discard();
    }

    fn discard(&mut self) {
        self.is_discarded = true;
        self.head = Vec::new();
        self.body.clear();
    }
}
