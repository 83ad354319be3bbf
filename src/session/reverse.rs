//! The client's name by DNS, looked up while the client talks.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::state::ClientKind;
use crate::dns::resolver::Resolver;
use crate::dns::reverse::{ConfirmedName, confirmed_name_within};
use crate::envelope::Client;
use crate::upstream::handover::Identity;

/// The client's name, looked up from the session's beginning.
pub enum ReverseLookup {
    /// Nobody wants to know so far.
    Unasked,
    /// Not known yet.
    Running(JoinHandle<ConfirmedName>),
    /// Known.
    Done(ConfirmedName),
}

impl ReverseLookup {
    /// Begins the look-up, if the name will be told to the upstream.
    pub fn start(resolver: &Resolver, client: &Client, identity: Identity, kind: ClientKind) -> Self {
        if kind == ClientKind::HealthCheck || !identity.tells_name() {
            return Self::Unasked;
        }
        let mut reverse = Self::Unasked;
        reverse.begin(resolver, client);
        reverse
    }

    /// Begins the look-up, if that was not done.
    pub fn begin(&mut self, resolver: &Resolver, client: &Client) {
        if let Self::Unasked = self {
            let (lookup, ip) = (resolver.for_message(Some(client.ip())), client.ip());
            *self =
                Self::Running(tokio::spawn(async move { confirmed_name_within(REVERSE_LOOKUP, &lookup, ip).await }));
        }
    }

    /// The name, if it is known already.
    pub async fn known(&mut self) -> ConfirmedName {
        match self {
            Self::Running(task) if !task.is_finished() => ConfirmedName::TempError(None),
            Self::Running(_) | Self::Done(_) | Self::Unasked => self.name().await,
        }
    }

    /// The name; waits for it.
    pub async fn name(&mut self) -> ConfirmedName {
        if let Self::Running(task) = self {
            // The task ends only by itself; should it have panicked, the name is as unknown as after a time-out.
            *self = Self::Done(task.await.unwrap_or(ConfirmedName::TempError(None)));
        }
        match self {
            Self::Done(name) => name.clone(),
            // Who never asked doesn't know that there is none.
            Self::Running(_) | Self::Unasked => ConfirmedName::TempError(None),
        }
    }
}

/// How long the look-up of the client's name may take, from the beginning of the session.
const REVERSE_LOOKUP: Duration = Duration::from_secs(5);
