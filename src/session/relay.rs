//! Relays MAIL and RCPT to the upstream live, and begins the evaluation beside it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Session;
use super::background::{Background, alongside};
use super::metrics::BypassReason;
use super::state::{Event, State};
use super::transaction::Transaction;
use crate::envelope::Hello;
use crate::evaluation::caught::caught;
use crate::evaluation::gather::{Lookups, Sender, gather};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::MailParameters;
use crate::smtp::extension::{ADDED_FIELDS, Capabilities};
use crate::smtp::reply::Reply;
use crate::upstream;
use crate::upstream::handover::Introduction;

impl Session {
    pub(super) async fn relay_mail(&mut self, state: &State, path: &ReversePath, parameters: &MailParameters) -> Reply {
        let State::MailSent(hello, _) = state else { return trouble(&upstream::Error::Unavailable) };
        self.begin(hello, path);
        let introduction = self.introduction(hello).await;
        let line = |found: &Capabilities| {
            // RFC 6152 §3: what a server has not offered must not be used; nothing is ever converted.
            (parameters.body.is_none() || found.eight_bit_mime)
                .then(|| format!("MAIL FROM:{path}{}", parameters.for_upstream(found.size.is_some(), ADDED_FIELDS)))
        };
        let reply = alongside(&mut self.evaluation, self.link.mail(&introduction, line)).await;
        reply.unwrap_or_else(|error| self.told(&error))
    }

    pub(super) async fn relay_recipient(&mut self, state: &State, path: &ForwardPath) -> Event {
        let State::RcptSent(hello, ..) = state else { return Event::Answer(trouble(&upstream::Error::Unavailable)) };
        if !self.may_send_to(path) {
            self.gate.metrics.guarded.inc();
            self.tell_of_guard(path);
            return Event::Guarded;
        }
        let introduction = self.introduction(hello).await;
        let text = path.to_string();
        let reply = alongside(&mut self.evaluation, self.link.recipient(&introduction, &text)).await;
        Event::Answer(reply.unwrap_or_else(|error| self.told(&error)))
    }

    /// Begins a transaction, and with it the evaluation: SPF needs no more than this.
    fn begin(&mut self, hello: &Hello, path: &ReversePath) {
        let settings = self.settings();
        let ip = self.client.ip();
        let trusted = settings.trusts(ip);
        let mut transaction = Transaction::new(settings, trusted.then_some(BypassReason::TrustedNetwork));
        if transaction.bypass.is_none() {
            let (subject, subject_comes) = oneshot::channel();
            let lookup = Arc::new(self.gate.resolver.for_message());
            let sender = Sender {
                ip,
                helo: hello.name.as_str().into(),
                mail_from: path.mailbox().map_or("", |m| m.as_str()).into(),
            };
            (transaction.subject, transaction.lookup) = (Some(subject), Some(Arc::clone(&lookup)));
            self.evaluation = Some(Background::new(async move {
                let lookups = Lookups { identifiers: &*lookup, policy: &lookup.unmetered() };
                caught(gather(lookups, &sender, async { subject_comes.await.ok() })).await
            }));
        }
        self.transaction = Some(transaction);
    }

    /// The relay guard: with it, mail from strangers goes to the configured domains alone.
    fn may_send_to(&self, path: &ForwardPath) -> bool {
        let settings = self.transaction.as_ref().map(|t| &t.settings);
        let Some(settings) = settings else { return false };
        settings.trusts(self.client.ip()) || settings.relay_guard.admits(path)
    }

    /// The first refusal of a session is told to the operator, who may be asked about it; a flood is not.
    fn tell_of_guard(&mut self, path: &ForwardPath) {
        self.guarded += 1;
        if self.guarded == 1 {
            info!(
                session = &*self.id,
                client_ip = %self.client.ip(),
                recipient = path.to_string(),
                "recipient refused by smtp.recipient_domains"
            );
        }
    }

    /// What the upstream is told about the client; waits for its name by DNS, which was asked for at the beginning.
    pub(super) async fn introduction(&mut self, hello: &Hello) -> Introduction {
        let name = alongside(&mut self.evaluation, self.reverse.name()).await;
        Introduction { client: self.client.clone(), name, hello: hello.clone() }
    }

    /// What the client is told of a failure of ours or the upstream's.
    pub(super) fn told(&self, error: &upstream::Error) -> Reply {
        warn!(session = &*self.id, client_ip = %self.client.ip(), error = %error, "transaction failed");
        trouble(error)
    }
}

/// What a client is told of a failure that is not its own. A temporary doubt never ends in 5xx.
pub fn trouble(error: &upstream::Error) -> Reply {
    let (enhanced, text) = match error {
        upstream::Error::Unavailable => ("4.4.1", "Mail server not available, please try again later"),
        upstream::Error::Refused => ("4.3.0", "Mail system can't take mail now, please try again later"),
        upstream::Error::Lost | upstream::Error::Delivery(_) => {
            ("4.4.2", "Lost the mail server inside the transaction, please try again later")
        }
        upstream::Error::Unguarded => ("4.3.5", "Service is not configured completely, please try again later"),
        upstream::Error::Extension => ("4.3.3", "An extension in use is not available now, please try again later"),
    };
    Reply::new(451, enhanced, text)
}
