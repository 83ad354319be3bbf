//! Notices that no name server answers any more, and that one does again.

use std::time::{Duration, Instant};

/// What is remembered of the last questions.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Questions in a row that no server has answered.
    questions: u32,
    /// When the operator was told of it.
    told: Option<Instant>,
    /// Whether that is how it was left: told, and no answer since.
    is_open: bool,
}

/// What the operator should be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody has answered so many questions in a row.
    Silent(u32),
    /// After that, somebody has.
    Heard,
}

impl Silence {
    /// A question was answered, in whatever way: a bad answer is one, too.
    pub fn heard(&mut self) -> Option<Turn> {
        self.questions = 0;
        std::mem::take(&mut self.is_open).then_some(Turn::Heard)
    }

    /// A question was not answered by anybody. One alone says little: a server may wait in vain for a distant one.
    pub fn unanswered(&mut self, now: Instant) -> Option<Turn> {
        self.questions = self.questions.saturating_add(1);
        let is_recent = self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_AGAIN);
        if self.questions < IN_A_ROW || is_recent {
            return None;
        }
        self.told = Some(now);
        self.is_open = true;
        Some(Turn::Silent(self.questions))
    }
}

/// Unanswered questions in a row from which on it is no chance: about those of one message.
const IN_A_ROW: u32 = 5;
/// How often the log tells of it.
const TELL_AGAIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_a_minute_and_its_end_once() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let cases = [
            // (second, whether it is answered, what is told)
            (0, true, None),
            (1, false, None),
            (1, false, None),
            (1, true, None),
            (2, false, None),
            (2, false, None),
            (2, false, None),
            (2, false, None),
            (3, false, Some(Turn::Silent(5))),
            (4, false, None),
            (62, false, None),
            (63, false, Some(Turn::Silent(8))),
            (64, true, Some(Turn::Heard)),
            (64, true, None),
            // Within the minute it is not told again, nor is its end.
            (65, false, None),
            (65, false, None),
            (65, false, None),
            (65, false, None),
            (65, false, None),
            (66, true, None),
        ];
        for (row, (second, is_answered, told)) in cases.into_iter().enumerate() {
            let now = start + Duration::from_secs(second);
            let turn = if is_answered { silence.heard() } else { silence.unanswered(now) };
            assert_eq!(turn, told, "row {row}");
        }
    }
}
