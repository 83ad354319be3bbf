//! Takes the message: 354, the data to its end, and what is wrong with its form.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::background::alongside;
use super::metrics::{Ended, Outcome};
use super::receive::{Excess, Intake, Received, Stage};
use super::settings::BareNewline;
use super::state::State;
use super::{End, Session, pause};
use crate::envelope::Envelope;
use crate::message::spool;
use crate::smtp::reply::Reply;

/// Why a message that came to its end is not taken, whatever it says.
enum Unfit {
    /// The client's fault, for good.
    Refused(Reply),
    /// Ours, for now.
    Deferred(Reply),
}

impl Session {
    /// Sends 354, takes the message and gives the reply to its end of data.
    pub(super) async fn receive(&mut self, state: &State, envelope: Envelope) -> Result<Reply, End> {
        let State::Receiving(hello, _) = state else { return Err(End::silently(Ended::ClientGone)) };
        let intake = self.take_data().await?;
        let end_of_data = std::time::Instant::now();
        let gate = Arc::clone(&self.gate);
        let reply = match intake.and_then(|received| self.fit(received)) {
            Ok(received) => {
                self.announce(&received.subject);
                gate.metrics.octets.inc_by(received.size);
                self.conclude(hello, &envelope, received, end_of_data).await
            }
            Err(unfit) => {
                let (outcome, reply) = match unfit {
                    Unfit::Refused(reply) => (Outcome::Unacceptable, reply),
                    Unfit::Deferred(reply) => (Outcome::Failed, reply),
                };
                self.link.reset().await;
                self.turn_away(hello, &envelope, (outcome, &reply), end_of_data);
                reply
            }
        };
        gate.metrics.end_of_data.observe(end_of_data.elapsed().as_secs_f64());
        Ok(reply)
    }

    /// Reads the data to its end. The inner error is a message that can't be taken although it came whole.
    async fn take_data(&mut self) -> Result<Result<Received, Unfit>, End> {
        let Some(transaction) = &self.transaction else { return Err(End::silently(Ended::ClientGone)) };
        let settings = Arc::clone(&transaction.settings);
        let mut bounds = settings.message;
        bounds.message_size = self.message_size;
        if transaction.bypass.is_some() {
            bounds.signatures = None;
        }
        let mut intake = Intake::new(bounds, self.gate.spooler.spool());
        let mut unkept = None;
        self.say(&Reply::new(354, "", "End data with <CR><LF>.<CR><LF>"));
        self.flush(settings.timeouts.data_block).await?;
        let deadline = Instant::now() + settings.timeouts.data;
        loop {
            if !self.stream.buffered().is_empty() {
                let stage = intake.take(self.stream.buffered());
                match stage {
                    Stage::End(taken) => self.stream.consume(taken),
                    _ => self.stream.consume(self.stream.buffered().len()),
                }
                if let Some(subject) = intake.subject() {
                    self.announce(subject);
                }
                if unkept.is_none() {
                    let kept = alongside(&mut self.evaluation, intake.settle()).await;
                    unkept = kept.inspect_err(|_| intake.give_up(Excess::Message)).err();
                }
                match (stage, unkept) {
                    (Stage::End(_), Some(error)) => return Ok(Err(self.no_room(&error))),
                    (Stage::End(_), None) => {
                        return Ok(intake.finish().map_err(|excess| Unfit::Refused(excess.reply())));
                    }
                    (Stage::Hopeless, _) => {
                        return Err(End::saying(Ended::Excess, Excess::Message.reply()));
                    }
                    (Stage::Going, error) => unkept = error,
                }
            }
            self.more_data(deadline.min(Instant::now() + settings.timeouts.data_block)).await?;
        }
    }

    /// Waits for octets of the message, at most until `deadline`; lets the upstream go meanwhile if it waits too long.
    async fn more_data(&mut self, deadline: Instant) -> Result<(), End> {
        loop {
            let (hold, wanted) = (self.link.hold_left(), self.link.wanted());
            let read = async {
                tokio::select! {
                    biased;
                    read = self.stream.fill_large() => Some(read),
                    () = pause(hold) => None,
                    () = wanted => None,
                }
            };
            match timeout_at(deadline, alongside(&mut self.evaluation, read)).await {
                Ok(Some(Ok(1..))) => return Ok(()),
                // A client that goes inside the data leaves no message upstream: nothing was sent there yet.
                Ok(Some(_)) => return Err(End::silently(Ended::ClientGone)),
                Ok(None) => self.link.let_go().await,
                Err(_) => {
                    let reply = Reply::new(421, "4.4.2", "Timeout while waiting for data, closing");
                    return Err(End::saying(Ended::Timeout, reply));
                }
            }
        }
    }

    /// Whether the message may be taken by its form.
    fn fit(&self, received: Received) -> Result<Received, Unfit> {
        let bare_newline = self.transaction.as_ref().map_or(BareNewline::Normalize, |t| t.settings.bare_newline);
        received.objection(bare_newline).map_or(Ok(received), |reply| Err(Unfit::Refused(reply)))
    }

    fn no_room(&self, error: &spool::Error) -> Unfit {
        tracing::error!(session = &*self.id, error = %error, "message not taken: the spool can't keep it");
        Unfit::Deferred(Reply::new(452, "4.3.1", "Insufficient system storage, please try again later"))
    }
}
