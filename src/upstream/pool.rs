//! Decides which server is tried first, by how well and how busy each is. Time comes in as an argument.

use std::time::{Duration, Instant};

use crate::label_enum;

label_enum! {
    /// Which of several servers that are well is tried first.
    pub enum Selection {
        /// The first of the list; the others stand by.
        Ordered = "ordered",
        /// The one with the fewest open connections.
        Balanced = "balanced",
    }
}

/// What is known of all servers.
#[derive(Debug)]
pub struct Pool {
    members: Vec<Member>,
    selection: Selection,
    /// Where the round among equals goes on.
    turn: usize,
}

/// What is known of one server.
#[derive(Debug, Default)]
struct Member {
    /// Connections open or being opened.
    open: usize,
    /// Whether the last attempt succeeded; none before the first.
    answers: Option<bool>,
    /// Failures in a row.
    failures: u32,
    /// When the last failure was noted, and until when it is not believed in.
    aside: Option<(Instant, Instant)>,
}

impl Pool {
    /// `count` servers, none of them known to be ill.
    pub fn new(count: usize, selection: Selection) -> Self {
        Self { members: (0..count).map(|_| Member::default()).collect(), selection, turn: 0 }
    }

    /// All servers in the order in which they are to be tried; those that are set aside, and behind the others `avoid`,
    /// come last.
    ///
    /// Where a server's pause is over, this caller is the one who tries it: for all others the pause begins anew.
    pub fn order(&mut self, now: Instant, avoid: Option<usize>) -> Vec<usize> {
        let count = self.members.len();
        let turn = match self.selection {
            Selection::Ordered => 0,
            Selection::Balanced => self.turn,
        };
        self.turn = self.turn.wrapping_add(1);
        let key = |index: usize, member: &Member| {
            let load = if self.selection == Selection::Balanced { member.open } else { 0 };
            let place = (index + count - turn % count.max(1)) % count.max(1);
            (member.is_aside(now) || avoid == Some(index), load, place)
        };
        let mut order: Vec<_> = self.members.iter().enumerate().map(|(i, m)| (key(i, m), i)).collect();
        order.sort_unstable();
        let order: Vec<_> = order.into_iter().map(|(_, index)| index).collect();
        // Of several whose pause is over only the first is sure to be tried.
        if let Some(first) = order.first().and_then(|first| self.members.get_mut(*first)) {
            first.begin_trial(now);
        }
        order
    }

    /// Notes that a server was reached. Gives whether it had been ill.
    pub fn answered(&mut self, index: usize) -> bool {
        let Some(member) = self.members.get_mut(index) else { return false };
        member.failures = 0;
        member.aside = None;
        member.answers.replace(true) == Some(false)
    }

    /// Notes that an attempt to connect failed.
    pub fn failed(&mut self, index: usize, began: Instant, now: Instant) {
        let Some(member) = self.members.get_mut(index) else { return };
        member.answers = Some(false);
        // Many sessions that fail at one time are one failure.
        if member.aside.is_some_and(|(noted, _)| began < noted) {
            return;
        }
        member.failures = member.failures.saturating_add(1);
        member.aside = Some((now, now + pause(member.failures)));
    }

    /// Notes that a connection is opened, closed, or tried elsewhere.
    pub fn moved(&mut self, from: Option<usize>, to: Option<usize>) {
        if let Some(member) = from.and_then(|index| self.members.get_mut(index)) {
            member.open = member.open.saturating_sub(1);
        }
        if let Some(member) = to.and_then(|index| self.members.get_mut(index)) {
            member.open += 1;
        }
    }

    /// Whether a server is known to answer; none as long as none is known not to.
    pub fn is_up(&self) -> Option<bool> {
        let known = |is: bool| self.members.iter().any(|member| member.answers == Some(is));
        match (known(true), self.down() == self.members.len()) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }

    /// How many servers did not answer when last tried.
    pub fn down(&self) -> usize {
        self.members.iter().filter(|member| member.answers == Some(false)).count()
    }
}

impl Member {
    fn is_aside(&self, now: Instant) -> bool {
        self.aside.is_some_and(|(_, until)| now < until)
    }

    fn begin_trial(&mut self, now: Instant) {
        if let Some((_, until)) = self.aside.as_mut().filter(|(_, until)| *until <= now) {
            *until = now + pause(self.failures);
        }
    }
}

/// How long a server is set aside after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// After the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// After many. A probe that succeeds ends any pause at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn later(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_that_is_well_is_tried_first() {
        let now = Instant::now();
        let mut pool = Pool::new(3, Selection::Ordered);
        assert_eq!(pool.order(now, None), [0, 1, 2]);
        pool.moved(None, Some(0));
        assert_eq!(pool.order(now, None), [0, 1, 2], "load is of no interest");
        pool.failed(0, now, now);
        assert_eq!(pool.order(now, None), [1, 2, 0]);
        assert_eq!(pool.order(now, Some(1)), [2, 0, 1], "what lost a transaction is not asked to go on with it");
        pool.failed(1, now, now);
        pool.failed(2, now, now);
        assert_eq!(pool.order(now, None), [0, 1, 2], "all are ill: all are tried");
        assert!(pool.answered(1));
        assert!(!pool.answered(1));
        assert_eq!(pool.order(now, None), [1, 0, 2]);
        assert_eq!(Pool::new(0, Selection::Balanced).order(now, None), [0; 0]);
    }

    #[test]
    fn the_least_busy_that_is_well_is_tried_first_and_equals_take_turns() {
        let now = Instant::now();
        let mut pool = Pool::new(3, Selection::Balanced);
        assert_eq!(pool.order(now, None), [0, 1, 2]);
        assert_eq!(pool.order(now, None), [1, 2, 0]);
        assert_eq!(pool.order(now, None), [2, 0, 1]);
        for server in [0, 0, 2] {
            pool.moved(None, Some(server));
        }
        for _ in 0..3 {
            assert_eq!(pool.order(now, None), [1, 2, 0]);
        }
        pool.moved(Some(0), Some(1));
        pool.moved(Some(0), None);
        pool.moved(Some(2), None);
        assert_eq!(pool.order(now, None)[2], 1);
        pool.failed(0, now, now);
        assert_eq!(pool.order(now, None), [2, 1, 0]);
    }

    #[test]
    fn pauses_grow_and_one_session_finds_out_whether_they_are_over() {
        let start = Instant::now();
        let mut pool = Pool::new(2, Selection::Ordered);
        let mut now = start;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            pool.failed(0, now, now);
            assert_eq!(pool.order(later(now, expected) - Duration::from_millis(1), None), [1, 0], "{expected}");
            now = later(now, expected);
            assert_eq!(pool.order(now, None), [0, 1], "{expected}");
            assert_eq!(pool.order(now, None), [1, 0], "{expected}: another one tries it already");
        }
        pool.answered(0);
        assert_eq!(pool.order(now, None), [0, 1]);
        pool.failed(0, now, now);
        assert_eq!(pool.order(later(now, 1), None), [0, 1], "a success clears the past");
    }

    #[test]
    fn sessions_that_fail_together_count_once() {
        let start = Instant::now();
        let mut pool = Pool::new(2, Selection::Ordered);
        for _ in 0..50 {
            pool.failed(0, start, later(start, 10));
        }
        assert_eq!(pool.order(later(start, 11), None), [0, 1]);
    }

    #[test]
    fn one_that_answers_is_enough_and_all_must_have_failed() {
        let now = Instant::now();
        let mut pool = Pool::new(2, Selection::Ordered);
        assert_eq!(pool.is_up(), None);
        pool.failed(0, now, now);
        assert_eq!((pool.is_up(), pool.down()), (None, 1));
        pool.failed(1, now, now);
        assert_eq!((pool.is_up(), pool.down()), (Some(false), 2));
        pool.answered(1);
        assert_eq!((pool.is_up(), pool.down()), (Some(true), 1));
    }
}
