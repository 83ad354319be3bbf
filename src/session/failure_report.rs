//! Hands messages that failed to who tells the owners of their author domains.

use std::sync::Arc;

use super::Session;
use super::receive::Received;
use super::transaction::{Ending, Mail};
use crate::action::Names;
use crate::action::authentication_results::evaluated;
use crate::clock;
use crate::record::FinalReply;
use crate::report::failure::{Beginning, Delivered, Extent, MAX_BODY, may_be_reported, wanted};
use crate::report::failure_reporter::{Case, QueueSlot};
use crate::smtp::data::Unstuffer;
use crate::verdict::Verdict;

/// Room for a report, and the beginning of the body if that is to be told.
pub struct Claim {
    slot: QueueSlot,
    body: Option<Beginning>,
}

impl Session {
    /// Takes room for a report, if the owner of an author domain wants one and it could not become part of a loop.
    /// Before the message goes on, for then its body is gone.
    pub(super) async fn claim(
        &mut self,
        mail: &Mail<'_>,
        verdict: Option<&Verdict>,
        received: &Received,
    ) -> Option<Claim> {
        let Mail { transaction, envelope, .. } = *mail;
        let extent = transaction.settings.failure_reports?;
        let evaluation = &verdict?.evaluation;
        if !evaluation.dmarc.iter().any(|dmarc| wanted(evaluation, dmarc).is_some()) {
            return None;
        }
        let is_about_reports = envelope.recipients.iter().any(|path| transaction.settings.is_for_reports(path));
        if is_about_reports || !may_be_reported(&envelope.reverse_path, &received.subject.section) {
            return None;
        }
        let most_of_body = if extent == Extent::Message { MAX_BODY } else { 0 };
        let slot = self.gate.failure_reporter.slot(received.subject.section.as_bytes().len() + most_of_body)?;
        let body = match extent {
            Extent::Headers => None,
            Extent::Message => received
                .body
                .beginning(MAX_BODY)
                .await
                .ok()
                .map(|wire| Beginning { octets: content(&wire), is_whole: wire.len() < MAX_BODY }),
        };
        Some(Claim { slot, body })
    }

    /// Uses the room, unless the message will come again.
    pub(super) fn tell_owner(&self, ending: &mut Ending<'_>) {
        let Mail { transaction, envelope, end_of_data, .. } = ending.mail;
        let Some(Claim { slot, body }) = ending.claim.take() else { return };
        let (Some(verdict), Some(taken)) = (&ending.verdict, &ending.taken) else { return };
        let delivered = match ending.final_reply() {
            Some(FinalReply::Accepted) => Delivered::Taken,
            Some(FinalReply::RefusedByUpstream | FinalReply::RefusedByGate) => Delivered::Refused,
            None => return,
        };
        let authserv_id = &transaction.settings.verdict.authserv_id;
        let names = Names { authserv_id, explain_id: "", receiver: None };
        slot.put(Case {
            results: evaluated(&verdict.evaluation, &verdict.decision, &names),
            evaluation: verdict.evaluation.clone(),
            subject: Arc::clone(&taken.subject),
            body,
            reverse_path: envelope.reverse_path.clone(),
            source_port: Some(self.client.address.port()).filter(|port| *port != 0),
            delivered,
            id: transaction.id.clone(),
            arrived: clock::signed(end_of_data.arrived),
        });
    }
}

/// The content in the beginning of what goes over the wire.
fn content(wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(wire.len());
    Unstuffer::default().unstuff(wire, &mut content);
    content
}
