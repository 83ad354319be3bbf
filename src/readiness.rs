//! Whether the gate should be sent mail: a few named conditions, each set by the part that knows it.
//!
//! A leaf, so that `upstream`, `session`, `listener` and `app` can set what `admin` shows. A balancer takes a gate that
//! is not ready out of the pool; so only what makes the gate useless *here* belongs in it. A store that breaks while
//! mail flows does not.

use std::sync::Arc;

use tokio::sync::watch;

use crate::label::Label;
use crate::label_enum;
use crate::metrics::{IntGauge, Registry};

label_enum! {
    /// What must hold for a gate to be ready.
    pub enum Condition {
        /// All listeners are bound and accept.
        Listeners = "listeners",
        /// The gate is not stopping.
        NotDraining = "not_draining",
        /// The upstream can't be made an open relay by us (`smtp.recipient_domains`, or it is told the client).
        RelayGuard = "relay_guard",
        /// The store was opened.
        Store = "store",
        /// An upstream server answers.
        Upstream = "upstream",
    }
}

/// The shared state of all conditions. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
    ready: IntGauge,
}

/// Why a condition does not hold: none if it does.
type State = Vec<Option<Arc<str>>>;

impl Readiness {
    /// A readiness in which each of `awaited` does not hold yet and everything else does; with its metric.
    pub fn new(awaited: &[Condition], registry: &Registry) -> Self {
        let ready = registry.gauge("dmarcgate_ready", "Whether the gate is ready for mail: 1 or 0.");
        ready.set(i64::from(awaited.is_empty()));
        let state = Condition::ALL.iter().map(|c| awaited.contains(c).then(|| Arc::from(NOT_CHECKED))).collect();
        Self { state: Arc::new(watch::Sender::new(state)), ready }
    }

    /// Says that `condition` holds.
    pub fn holds(&self, condition: Condition) {
        self.set(condition, None);
    }

    /// Says that `condition` does not hold, and why in a few words of ours, never text of a peer.
    pub fn lacks(&self, condition: Condition, reason: &str) {
        self.set(condition, Some(reason));
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().iter().all(Option::is_none)
    }

    /// The conditions that do not hold, with their reasons.
    pub fn lacking(&self) -> Vec<(Condition, Arc<str>)> {
        let state = self.state.borrow();
        Condition::ALL.iter().zip(state.iter()).filter_map(|(c, r)| r.clone().map(|r| (*c, r))).collect()
    }

    /// Waits until all conditions hold.
    pub async fn ready(&self) {
        // Fails only when the sender is gone, and we hold it.
        let _ = self.state.subscribe().wait_for(|state| state.iter().all(Option::is_none)).await;
    }

    fn set(&self, condition: Condition, reason: Option<&str>) {
        self.state.send_if_modified(|state| {
            let changed = match state.get_mut(condition.index()) {
                Some(slot) if slot.as_deref() != reason => {
                    *slot = reason.map(Arc::from);
                    true
                }
                _ => false,
            };
            // Under the lock, so that two callers at once can't leave the gauge behind the state.
            self.ready.set(i64::from(state.iter().all(Option::is_none)));
            changed
        });
    }
}

/// The reason of a condition that nobody has set yet.
const NOT_CHECKED: &str = "not checked yet";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_every_condition_holds() {
        let registry = Registry::new();
        let readiness = Readiness::new(&[Condition::Upstream, Condition::Store], &registry);
        assert!(!readiness.is_ready());
        readiness.holds(Condition::Store);
        assert_eq!(readiness.lacking(), [(Condition::Upstream, Arc::from("not checked yet"))]);
        assert!(registry.render().contains("dmarcgate_ready 0"));

        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        readiness.holds(Condition::Upstream);
        waiter.await.unwrap();
        assert!(registry.render().contains("dmarcgate_ready 1"));

        readiness.lacks(Condition::NotDraining, "stopping");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.lacking(), [(Condition::NotDraining, Arc::from("stopping"))]);
    }
}
