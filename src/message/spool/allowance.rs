//! Bounds what reports that wait keep of the spool's memory: mail is never put off for them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::UNIT;

/// How much of the spool's memory may be kept, all together, by those who keep header sections beyond the end of their
/// messages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<Semaphore>);

/// A piece of an allowance, given back when it is dropped.
#[derive(Debug)]
pub struct Allotment {
    _units: OwnedSemaphorePermit,
}

impl Allowance {
    /// That of a spool with so many units of memory.
    pub(super) fn of(units: usize) -> Self {
        Self(Arc::new(Semaphore::new((units / PART).min(Semaphore::MAX_PERMITS))))
    }

    /// Takes as much as so many octets count in the spool; none if that is not left. Never waits.
    pub fn take(&self, octets: usize) -> Option<Allotment> {
        let units = u32::try_from(octets.div_ceil(UNIT)).ok()?;
        Some(Allotment { _units: Arc::clone(&self.0).try_acquire_many_owned(units).ok()? })
    }
}

/// The part of the budget that an allowance is.
const PART: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_part_in_whole_units_and_comes_back() {
        let allowance = Allowance::of(4 * PART + 1);
        let taken = [UNIT + 1, 1, 0].map(|octets| allowance.take(octets));
        assert!(taken.iter().all(Option::is_some));
        assert!(allowance.take(UNIT + 1).is_none() && allowance.take(usize::MAX).is_none());
        let last = allowance.take(UNIT);
        assert!(last.is_some() && allowance.take(1).is_none());
        drop((taken, last));
        assert!(allowance.take(4 * UNIT).is_some());
        assert!(Allowance::of(PART - 1).take(1).is_none());
    }
}
