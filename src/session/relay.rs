//! Relays MAIL and RCPT to the upstream live, and begins the evaluation beside it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::background::{Background, alongside};
use super::metrics::Limit;
use super::state::{Event, State};
use super::transaction::Transaction;
use super::{End, LINE_END, MAX_COMMAND_LINE, Session};
use crate::envelope::{Envelope, Hello};
use crate::evaluation::gather::{HELO_LOOKUPS, Lookups, Sender, gather};
use crate::panics::caught;
use crate::record::UpstreamReply;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::{Command, MailParameters, RcptParameters};
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::Reply;
use crate::smtp::stream::Stream;
use crate::upstream::handover::Introduction;
use crate::upstream::{self, Group};

impl Session {
    /// Relays MAIL, and with it the recipients that the client has sent behind it already.
    pub(super) async fn relay_mail(
        &mut self,
        state: &State,
        path: &ReversePath,
        parameters: &MailParameters,
    ) -> Result<Reply, End> {
        let State::MailSent(hello, envelope) = state else { return Err(self.broken("MAIL where none was due")) };
        self.begin(hello, path);
        if let Some(transaction) = &self.transaction {
            self.link.follow(&transaction.settings.servers).await;
        }
        let introduction = self.introduction(hello).await;
        let recipients = self.waiting_recipients(envelope);
        let group = |found: &Capabilities| {
            let mail = format!("MAIL FROM:{path}{}", parameters.for_upstream(found)?);
            let ahead = recipients.iter().take_while(|_| found.pipelining);
            Some(Group {
                mail,
                recipients: ahead.map_while(|(path, parameters)| rcpt(path, parameters, found)).collect(),
            })
        };
        let reply = {
            let exchange = pin!(self.link.mail(&introduction, group));
            let wait = pin!(alongside(&mut self.evaluation, exchange));
            handing_out(&mut self.stream, &mut self.held_since, wait).await
        };
        let id = self.transaction.as_ref().map_or("", |transaction| &transaction.id);
        let reply = reply.unwrap_or_else(|error| self.told(&error, id, path, None));
        self.gate.metrics.transactions.inc(UpstreamReply::of(&reply));
        Ok(reply)
    }

    pub(super) async fn relay_recipient(
        &mut self,
        state: &State,
        path: &ForwardPath,
        parameters: &RcptParameters,
    ) -> Result<Event, End> {
        let State::RcptSent(hello, envelope, _) = state else { return Err(self.broken("RCPT where none was due")) };
        if self.is_bounce_domain(path) {
            return Ok(self.catch(envelope, path).await);
        }
        if !self.may_send_to(path) {
            self.gate.metrics.guarded.inc();
            self.tell_of_guard(path);
            return Ok(Event::Guarded);
        }
        let introduction = self.introduction(hello).await;
        let line = |found: &Capabilities| rcpt(path, parameters, found);
        let reply = {
            let exchange = pin!(self.link.recipient(&introduction, line));
            let wait = pin!(alongside(&mut self.evaluation, exchange));
            handing_out(&mut self.stream, &mut self.held_since, wait).await
        };
        let id = self.transaction.as_ref().map_or("", |transaction| &transaction.id);
        let reply = reply.unwrap_or_else(|error| self.told(&error, id, &envelope.reverse_path, Some(path)));
        self.gate.metrics.recipients.inc(UpstreamReply::of(&reply));
        Ok(Event::Answer(reply))
    }

    /// The recipients that the client has sent behind its MAIL and that will be relayed next, whatever is answered to
    /// those before: none behind the first line that is anything else.
    fn waiting_recipients(&self, envelope: &Envelope) -> Vec<(ForwardPath, RcptParameters)> {
        let bound = self.settings().patience.recipients.min(upstream::MAX_GROUP);
        let lines = self.stream.waiting_lines().take(bound).filter(|line| line.len() + LINE_END <= MAX_COMMAND_LINE);
        let commands = lines.map_while(|line| Command::parse(line, self.offer.as_ref()).ok());
        let recipients = commands.map_while(|command| match command {
            Command::Rcpt { forward_path, parameters } => Some((forward_path, parameters)),
            _ => None,
        });
        let is_relayed = |path: &ForwardPath, parameters: &RcptParameters| {
            (envelope.parameters.smtp_utf8 || path.is_ascii() && parameters.is_ascii())
                && !self.is_bounce_domain(path)
                && self.may_send_to(path)
        };
        recipients.take_while(|(path, parameters)| is_relayed(path, parameters)).collect()
    }

    /// Begins a transaction, and with it the evaluation: SPF needs no more than this.
    fn begin(&mut self, hello: &Hello, path: &ReversePath) {
        let settings = Arc::clone(&self.gate.settings.borrow());
        let ip = self.client.ip();
        let bypass = settings.bypass(&self.client);
        let mut transaction = Transaction::new(settings, bypass);
        if transaction.bypass.is_none() {
            if transaction.settings.verdict.policy.wants_host() {
                self.reverse.begin(&self.gate.resolver, &self.client);
            }
            let (subject, subject_comes) = oneshot::channel();
            let lookup = Arc::new(self.gate.resolver.for_message(Some(ip)));
            let sender = Sender {
                ip,
                helo: hello.name.as_str().into(),
                mail_from: path.mailbox().map_or("", |m| m.as_str()).into(),
            };
            (transaction.subject, transaction.lookup) = (Some(subject), Some(Arc::clone(&lookup)));
            let rules = Arc::clone(&self.gate.discovery.borrow());
            self.evaluation = Some(Background::new(async move {
                let lookups =
                    Lookups { identifiers: &*lookup, helo: &lookup.apart(HELO_LOOKUPS), policy: &lookup.unmetered() };
                caught(Box::pin(gather(lookups, sender, &rules, async { subject_comes.await.ok() }))).await
            }));
        }
        self.transaction = Some(transaction);
    }

    /// The relay guard: with it, mail from strangers goes to the configured domains alone.
    fn may_send_to(&self, path: &ForwardPath) -> bool {
        let settings = self.transaction.as_ref().map(|t| &t.settings);
        let Some(settings) = settings else { return false };
        settings.lets_relay(&self.client) || settings.relay_guard.admits(path)
    }

    /// The first refusal of a session is told to the operator, who may be asked about it; a flood is not.
    fn tell_of_guard(&mut self, path: &ForwardPath) {
        self.guarded += 1;
        if self.guarded == 1 {
            info!(
                session = &*self.id,
                client_ip = %self.client.ip(),
                listener = %self.gate.listener,
                recipient = path.to_string(),
                "recipient refused by smtp.recipient_domains"
            );
        }
    }

    /// What the upstream is told about the client; waits for its name by DNS, which was asked for at the beginning, or is
    /// now if it is told only since a reload.
    pub(super) async fn introduction(&mut self, hello: &Hello) -> Introduction {
        if self.link.identity().tells_name() {
            self.reverse.begin(&self.gate.resolver, &self.client);
        }
        let name = alongside(&mut self.evaluation, pin!(self.reverse.name())).await;
        // What was said on the connection at hand needs no telling; a new one is told.
        Introduction { client: Some(self.client.clone()), name, hello: hello.clone(), login: self.client.login.clone() }
    }

    /// Gives the upstream's connection to others while this client is slow; one that must be kept is kept awake.
    pub(super) async fn let_upstream_go(&mut self) {
        if self.link.is_pinned() {
            return alongside(&mut self.evaluation, pin!(self.link.keep_alive())).await;
        }
        if self.link.is_open() && self.transaction.is_some() {
            self.gate.metrics.limits.inc(Limit::UpstreamHold);
        }
        self.link.park().await;
    }

    /// What the client is told of a failure of ours or the upstream's, in which transaction, and at which recipient if
    /// at one. The log has it, too: where no message comes of it, there is nothing else to find it by.
    pub(super) fn told(
        &self,
        error: &upstream::Error,
        transaction: &str,
        reverse_path: &ReversePath,
        recipient: Option<&ForwardPath>,
    ) -> Reply {
        let reply = trouble(error);
        warn!(
            session = &*self.id,
            transaction,
            client_ip = %self.client.ip(),
            reverse_path = %reverse_path,
            recipient = recipient.map(ToString::to_string).unwrap_or_default(),
            reply = reply.summary(),
            error = %error,
            "transaction failed"
        );
        reply
    }
}

/// Waits for the upstream, while replies to commands before may wait to be sent: in one write with those that follow,
/// but no longer than [`LONGEST_HOLD`] since `held_since`. The client waits for the first of them as for a command of
/// its own (RFC 5321 §4.5.3.2.2: five minutes for MAIL), however long the rest of its group takes.
async fn handing_out<T>(
    stream: &mut Stream,
    held_since: &mut Option<Instant>,
    wait: Pin<&mut impl Future<Output = T>>,
) -> T {
    if stream.queued() == 0 {
        return wait.await;
    }
    let by = *held_since.get_or_insert_with(Instant::now) + LONGEST_HOLD;
    let hand_out = async {
        sleep_until(by).await;
        // A client that has gone is met by whoever reads or writes next.
        if stream.flush().await.is_ok() {
            *held_since = None;
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        output = wait => output,
        output = hand_out => output,
    }
}

/// What a client is told of a failure that is not its own. A temporary doubt never ends in 5xx.
pub fn trouble(error: &upstream::Error) -> Reply {
    if matches!(error, upstream::Error::LoginLost) {
        return Reply::new(421, "4.4.2", "Lost the mail server, please log in again");
    }
    let (enhanced, text) = match error {
        upstream::Error::Busy => ("4.3.2", "Mail server is busy, please try again later"),
        upstream::Error::Unavailable => ("4.4.1", "Mail server not available, please try again later"),
        upstream::Error::Refused => ("4.3.0", "Mail system can't take mail now, please try again later"),
        upstream::Error::Lost | upstream::Error::LoginLost | upstream::Error::Delivery(_) => {
            ("4.4.2", "Lost the mail server inside the transaction, please try again later")
        }
        upstream::Error::Unguarded => ("4.3.5", "Service is not configured completely, please try again later"),
        upstream::Error::Extension => ("4.3.3", "An extension in use is not available now, please try again later"),
    };
    Reply::new(451, enhanced, text)
}

/// RCPT for an upstream with these capabilities; none if it lacks what is in use.
fn rcpt(path: &ForwardPath, parameters: &RcptParameters, found: &Capabilities) -> Option<String> {
    Some(format!("RCPT TO:{path}{}", parameters.for_upstream(found)?))
}

/// How long a reply waits for those that will leave with it, while the upstream is slow.
const LONGEST_HOLD: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn replies_wait_for_a_slow_upstream_for_a_moment_and_no_longer() {
        let (ours, mut client) = tokio::io::duplex(1024);
        let mut stream = Stream::over(Box::new(ours));
        let mut since = None;
        handing_out(&mut stream, &mut since, pin!(async {})).await;
        assert_eq!(since, None, "nothing is held back");
        for reply in [b"250 1\r\n", b"250 2\r\n"] {
            stream.queue(reply);
            handing_out(&mut stream, &mut since, pin!(tokio::task::yield_now())).await;
        }
        assert_eq!(stream.queued(), 14, "a fast upstream costs one write for all");
        // Each wait is short, but all of them together are not.
        since = since.and_then(|since| since.checked_sub(LONGEST_HOLD));
        assert!(since.is_some());
        let answered = Notify::new();
        let mut got = [0; 14];
        let read = async {
            client.read_exact(&mut got).await.unwrap();
            answered.notify_one();
        };
        let wait = pin!(answered.notified());
        tokio::join!(handing_out(&mut stream, &mut since, wait), read);
        assert_eq!((&got, stream.queued(), since), (b"250 1\r\n250 2\r\n", 0, None));
    }
}
