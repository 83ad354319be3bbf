//! Keeps questions for identifiers and those for policies apart.

/// What a question is for. Each purpose has a lane of its own: a sender decides how many questions its identifiers cost
/// and how slowly they are answered, and must not be able to keep those for the policy of the domain that it forges
/// waiting behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// SPF, DKIM, ARC, the client's name.
    Identifier,
    /// DMARC.
    Policy,
}

/// What each lane has one of.
#[derive(Debug, Default)]
pub(super) struct PerLane<T> {
    identifiers: T,
    policies: T,
}

impl<T> PerLane<T> {
    /// The same for both lanes.
    pub fn new(make: impl Fn() -> T) -> Self {
        Self { identifiers: make(), policies: make() }
    }

    /// The value for `purpose`.
    pub fn of(&self, purpose: Purpose) -> &T {
        match purpose {
            Purpose::Identifier => &self.identifiers,
            Purpose::Policy => &self.policies,
        }
    }

    /// The value for `purpose`, to be changed.
    pub fn of_mut(&mut self, purpose: Purpose) -> &mut T {
        match purpose {
            Purpose::Identifier => &mut self.identifiers,
            Purpose::Policy => &mut self.policies,
        }
    }
}
