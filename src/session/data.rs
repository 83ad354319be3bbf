//! Takes the message: 354, the data to its end, and what is wrong with its form.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::background::alongside;
use super::fault::Fault;
use super::metrics::{Ended, Outcome};
use super::pace::Pace;
use super::receive::{Intake, Received, Stage};
use super::settings::BareNewline;
use super::state::State;
use super::{End, Session, pause};
use crate::envelope::Envelope;
use crate::message::spool;
use crate::smtp::reply::Reply;

/// Why a message that came to its end is not taken, whatever it says.
enum Unfit {
    /// The client's fault, for good.
    Refused(Fault),
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
                    Unfit::Refused(fault) => {
                        gate.metrics.unacceptable.inc(fault);
                        (Outcome::Unacceptable, fault.reply())
                    }
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
        let mut pace = Pace::new(settings.data_rate, settings.timeouts.data_block);
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
                    unkept = kept.inspect_err(|_| intake.give_up(Fault::MessageSize)).err();
                }
                match (stage, unkept) {
                    (Stage::End(_), Some(error)) => return Ok(Err(self.no_room(&error))),
                    (Stage::End(_), None) => {
                        return Ok(intake.finish().map_err(Unfit::Refused));
                    }
                    (Stage::Hopeless, _) => {
                        return Err(End::saying(Ended::Excess, Fault::MessageSize.reply()));
                    }
                    (Stage::Going, error) => unkept = error,
                }
            }
            self.more_data(deadline.min(Instant::now() + settings.timeouts.data_block), &mut pace).await?;
        }
    }

    /// Waits for octets of the message, at most until `deadline` and as long as the client keeps up its pace; lets the
    /// upstream go meanwhile if it waits too long.
    async fn more_data(&mut self, deadline: Instant, pace: &mut Pace) -> Result<(), End> {
        loop {
            let (began, hold) = (Instant::now(), self.link.hold_left());
            let look = began.checked_add(pace.left()).map_or(deadline, |end| end.min(deadline));
            let read = async {
                tokio::select! {
                    biased;
                    read = self.stream.fill_large() => Some(read),
                    () = pause(hold) => None,
                }
            };
            let read = timeout_at(look, alongside(&mut self.evaluation, read)).await;
            let octets = if let Ok(Some(Ok(octets))) = read { octets } else { 0 };
            let keeps_up = pace.keeps_up(began.elapsed(), octets);
            match read {
                // A client that goes inside the data leaves no message upstream: nothing was sent there yet.
                Ok(Some(Ok(0) | Err(_))) => return Err(End::silently(Ended::ClientGone)),
                Err(_) if Instant::now() >= deadline => {
                    let reply = Reply::new(421, "4.4.2", "Timeout while waiting for data, closing");
                    return Err(End::saying(Ended::Timeout, reply));
                }
                _ if !keeps_up => {
                    let reply = Reply::new(421, "4.4.2", "Data comes too slowly, closing");
                    return Err(End::saying(Ended::Slow, reply));
                }
                Ok(Some(Ok(_))) => return Ok(()),
                Ok(None) => self.link.let_go().await,
                Err(_) => {}
            }
        }
    }

    /// Whether the message may be taken by its form.
    fn fit(&self, received: Received) -> Result<Received, Unfit> {
        let bare_newline = self.transaction.as_ref().map_or(BareNewline::Normalize, |t| t.settings.bare_newline);
        received.objection(bare_newline).map_or(Ok(received), |fault| Err(Unfit::Refused(fault)))
    }

    fn no_room(&self, error: &spool::Error) -> Unfit {
        self.gate.metrics.unkept.inc();
        tracing::error!(session = &*self.id, error = %error, "message not taken: the spool can't keep it");
        Unfit::Deferred(Reply::new(452, "4.3.1", "Insufficient system storage, please try again later"))
    }
}
