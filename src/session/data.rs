//! Takes the message, over DATA or in chunks, to its end, and what is wrong with its form.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::background::alongside;
use super::fault::Fault;
use super::metrics::{Ended, Outcome};
use super::objection::Objection;
use super::pace::Pace;
use super::receive::{Intake, Received, Stage};
use super::settings::{BareNewline, Settings};
use super::state::State;
use super::transaction::EndOfData;
use super::{End, Session, pause};
use crate::envelope::{Envelope, Hello};
use crate::message::spool::{self, Cause};
use crate::smtp::command::{Chunk, ChunkPosition};
use crate::smtp::data::Framing;
use crate::smtp::reply::Reply;

/// A message on its way in.
pub struct Incoming {
    intake: Intake,
    /// Why it can't be kept; the rest of it is read all the same.
    unkept: Option<spool::Error>,
    /// When the whole of it must be there.
    deadline: Instant,
    /// How fast it comes, over all its chunks.
    pace: Pace,
    settings: Arc<Settings>,
}

impl Incoming {
    /// When the whole of it must be there.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Why a message that came to its end is not taken, whatever it says.
enum Unfit {
    /// The client's fault, for good.
    Refused(Fault),
    /// Ours, for now.
    Deferred(Reply),
}

impl Session {
    /// Sends 354, takes the message and gives the reply to its end of data.
    pub(super) async fn receive(&mut self, state: &State) -> Result<Reply, End> {
        let State::Receiving(hello, envelope) = state else { return Err(self.broken("DATA where none was due")) };
        let mut incoming = self.expect_message(Framing::Dot)?;
        self.say(&Reply::new(354, "", "End data with <CR><LF>.<CR><LF>"));
        self.flush(incoming.settings.timeouts.data_block).await?;
        loop {
            if !self.stream.buffered().is_empty() {
                match self.take(&mut incoming, usize::MAX).await {
                    Stage::End(_) => break,
                    Stage::Hopeless => return Err(self.excess(hello, envelope)),
                    Stage::Going => {}
                }
            }
            self.more_data(&mut incoming).await?;
        }
        self.end_of_message(hello, envelope, incoming).await
    }

    /// Takes the octets of one chunk (RFC 3030 §2) and gives the reply to it: behind the last one that to the message.
    pub(super) async fn receive_chunk(&mut self, state: &State, chunk: Chunk) -> Result<Reply, End> {
        let State::ChunkSent(hello, envelope, position) = state else {
            return Err(self.broken("a chunk where none was due"));
        };
        let mut incoming = match self.incoming.take() {
            Some(incoming) => *incoming,
            None => self.expect_message(Framing::Count)?,
        };
        // Octets that come with their command are not waited for; small chunks must not stretch the time for all of
        // them.
        if Instant::now() >= incoming.deadline {
            return Err(too_late());
        }
        if chunk.size > incoming.intake.patience() {
            return Err(self.excess(hello, envelope));
        }
        let mut left = chunk.size;
        while left > 0 {
            let waiting = self.stream.buffered().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if waiting == 0 {
                self.more_data(&mut incoming).await?;
                continue;
            }
            if self.take(&mut incoming, waiting).await == Stage::Hopeless {
                return Err(self.excess(hello, envelope));
            }
            left = left.saturating_sub(waiting as u64);
        }
        let is_lost = incoming.unkept.is_some() || incoming.intake.fault().is_some();
        if *position == ChunkPosition::Last || is_lost {
            // RFC 2920 §3.2: what the client has earned already does not wait for the upstream's last word.
            self.flush(incoming.settings.timeouts.data_block).await?;
            return self.end_of_message(hello, envelope, incoming).await;
        }
        self.incoming = Some(Box::new(incoming));
        Ok(Reply::new(250, "2.0.0", &format!("{} octets received", chunk.size)))
    }

    /// Drops the octets of a chunk that is out of place.
    pub(super) async fn skip(&mut self, chunk: Chunk) -> Result<(), End> {
        let settings = self.settings();
        if chunk.size > self.message_size.saturating_mul(2) {
            let reply = Fault::MessageSize.reply();
            self.object(Objection::MessageSize, &format!("BDAT {}", chunk.size), &reply);
            return Err(End::saying(Ended::Excess, reply));
        }
        let deadline = Instant::now() + settings.timeouts.data;
        let mut pace = Pace::new(settings.data_rate, settings.timeouts.data_block);
        let mut left = chunk.size;
        while left > 0 {
            let waiting = self.stream.buffered().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.stream.consume(waiting);
            left = left.saturating_sub(waiting as u64);
            if left > 0 {
                self.fill(deadline.min(Instant::now() + settings.timeouts.data_block), &mut pace).await?;
            }
        }
        Ok(())
    }

    /// The end of a session whose client sends far more than it may. What becomes of its message is told like the end of
    /// any other.
    fn excess(&mut self, hello: &Hello, envelope: &Envelope) -> End {
        let reply = Fault::MessageSize.reply();
        self.gate.metrics.unacceptable.inc(Fault::MessageSize);
        self.turn_away(hello, envelope, EndOfData::now(), Outcome::Unacceptable, &reply);
        End::saying(Ended::Excess, reply)
    }

    fn expect_message(&mut self, framing: Framing) -> Result<Incoming, End> {
        let Some(transaction) = &self.transaction else { return Err(self.broken("data without transaction")) };
        let settings = Arc::clone(&transaction.settings);
        let mut bounds = settings.message;
        bounds.message_size = self.message_size;
        if transaction.bypass.is_some() {
            bounds.signatures = None;
        }
        let spooler = &self.gate.spooler;
        // Whom the operator knows is bounded by what there is alone, and takes nothing from strangers of its network.
        let body = match settings.lets_relay(&self.client) {
            true => spooler.spool(),
            false => self.share.get_or_insert_with(|| spooler.share(self.client.ip())).spool(),
        };
        let intake = Intake::new(framing, bounds, body);
        let deadline = Instant::now() + settings.timeouts.data;
        let pace = Pace::new(settings.data_rate, settings.timeouts.data_block);
        Ok(Incoming { intake, unkept: None, deadline, pace, settings })
    }

    /// Takes what is buffered, at most `limit` octets.
    async fn take(&mut self, incoming: &mut Incoming, limit: usize) -> Stage {
        let waiting = self.stream.buffered();
        let waiting = waiting.get(..limit.min(waiting.len())).unwrap_or_default();
        let (intake, length) = (&mut incoming.intake, waiting.len());
        let stage = intake.take(waiting);
        self.stream.consume(if let Stage::End(taken) = stage { taken } else { length });
        if let Some(subject) = intake.subject() {
            self.announce(subject);
        }
        if incoming.unkept.is_none() {
            let kept = alongside(&mut self.evaluation, pin!(intake.settle())).await;
            incoming.unkept = kept.inspect_err(|_| intake.discard()).err();
        }
        stage
    }

    /// Ends the transaction of a message that has come whole, or whose rest would be of no use.
    async fn end_of_message(&mut self, hello: &Hello, envelope: &Envelope, incoming: Incoming) -> Result<Reply, End> {
        let end_of_data = EndOfData::now();
        let gate = Arc::clone(&self.gate);
        let bare_newline = incoming.settings.bare_newline;
        let intake = match incoming.unkept {
            Some(error) => Err(self.no_room(&error)),
            None => incoming.intake.finish().map_err(Unfit::Refused),
        };
        let reply = match intake.and_then(|received| fit(received, bare_newline)) {
            Ok(received) => {
                self.announce(&received.subject);
                gate.metrics.octets.inc_by(received.size);
                self.conclude(hello, envelope, received, end_of_data).await?
            }
            Err(unfit) => {
                let (outcome, reply) = match unfit {
                    Unfit::Refused(fault) => {
                        gate.metrics.unacceptable.inc(fault);
                        (Outcome::Unacceptable, fault.reply())
                    }
                    Unfit::Deferred(reply) => (Outcome::Failed, reply),
                };
                self.link.reset().await;
                self.turn_away(hello, envelope, end_of_data, outcome, &reply);
                reply
            }
        };
        gate.metrics.end_of_data.observe(end_of_data.at.elapsed().as_secs_f64());
        Ok(reply)
    }

    /// Waits for octets of the message.
    async fn more_data(&mut self, incoming: &mut Incoming) -> Result<(), End> {
        let deadline = incoming.deadline.min(Instant::now() + incoming.settings.timeouts.data_block);
        self.fill(deadline, &mut incoming.pace).await
    }

    /// Waits for octets, at most until `deadline` and as long as the client keeps up its pace; lets the upstream go
    /// meanwhile if it waits too long.
    async fn fill(&mut self, deadline: Instant, pace: &mut Pace) -> Result<(), End> {
        // The replies to chunks before this one.
        self.flush(deadline.saturating_duration_since(Instant::now())).await?;
        loop {
            let (began, hold, wanted) = (Instant::now(), self.link.hold_left(), self.link.wanted());
            let look = began.checked_add(pace.left()).map_or(deadline, |end| end.min(deadline));
            let read = async {
                tokio::select! {
                    biased;
                    read = self.stream.fill_large() => Some(read),
                    () = pause(hold) => None,
                    () = wanted => None,
                }
            };
            let read = timeout_at(look, alongside(&mut self.evaluation, pin!(read))).await;
            let octets = if let Ok(Some(Ok(octets))) = read { octets } else { 0 };
            let keeps_up = pace.keeps_up(began.elapsed(), octets);
            match read {
                // A client that goes inside the data leaves no message upstream: nothing was sent there yet.
                Ok(Some(Ok(0) | Err(_))) => return Err(End::silently(Ended::ClientGone)),
                Err(_) if Instant::now() >= deadline => {
                    return Err(too_late());
                }
                _ if !keeps_up => {
                    let reply = Reply::new(421, "4.4.2", "Data comes too slowly, closing");
                    return Err(End::saying(Ended::Slow, reply));
                }
                Ok(Some(Ok(_))) => return Ok(()),
                Ok(None) => self.let_upstream_go().await,
                Err(_) => {}
            }
        }
    }

    fn no_room(&self, error: &spool::Error) -> Unfit {
        let (cause, ip) = (error.cause(), self.client.ip());
        self.gate.metrics.unkept.inc(cause);
        match cause {
            // The rest is there for others: nothing of ours is wrong.
            Cause::NetworkMemory | Cause::NetworkDisk => tracing::warn!(
                session = &*self.id, client_ip = %ip, reason = %cause, error = %error,
                "message not taken: the spool can't keep it"
            ),
            Cause::Memory | Cause::Disk | Cause::Directory => tracing::error!(
                session = &*self.id, client_ip = %ip, reason = %cause, error = %error,
                "message not taken: the spool can't keep it"
            ),
        }
        Unfit::Deferred(Reply::new(452, "4.3.1", "Insufficient system storage, please try again later"))
    }
}

fn too_late() -> End {
    End::saying(Ended::Timeout, Reply::new(421, "4.4.2", "Timeout while waiting for data, closing"))
}

/// Whether the message may be taken by its form.
fn fit(received: Received, bare_newline: BareNewline) -> Result<Received, Unfit> {
    received.objection(bare_newline).map_or(Ok(received), |fault| Err(Unfit::Refused(fault)))
}
