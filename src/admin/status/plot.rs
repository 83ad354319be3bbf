//! Small plots as SVG inside the page. Pure.
//!
//! They are drawn without text, so that they may be stretched to any width; what stands beside them is HTML.

use maud::{Markup, Render, html};

use super::history::{Counts, MINUTE, MINUTES, Minute};
use crate::label::Label;
use crate::label_enum;
use crate::session::Outcome;

label_enum! {
    /// What became of messages, as few kinds as an eye can tell apart; the words are classes of the style sheet.
    pub enum Kind {
        /// The mail server took it.
        Accepted = "accepted",
        /// It took it with a mark.
        Marked = "marked",
        /// The gate refused it by policy.
        Refused = "refused",
        /// The gate put it off, since DNS left the verdict open.
        Deferred = "deferred",
        /// The gate refused it for its form or size.
        Unfit = "unfit",
        /// The mail server refused or deferred it, or was lost.
        Server = "server",
    }
}

impl Kind {
    /// The kind of an outcome.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted | Outcome::Bounce => Self::Accepted,
            Outcome::AcceptedTagged => Self::Marked,
            Outcome::Refused => Self::Refused,
            Outcome::Deferred => Self::Deferred,
            Outcome::Unacceptable => Self::Unfit,
            Outcome::UpstreamRefused | Outcome::UpstreamDeferred | Outcome::Failed => Self::Server,
        }
    }

    /// What it is called, and what that means.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Accepted => ("passed on", "the mail server took it"),
            Self::Marked => ("marked", "passed on with X-DMARC-Fail-policy"),
            Self::Refused => ("refused", "by policy, at the end of data"),
            Self::Deferred => ("deferred", "DNS left the verdict open"),
            Self::Unfit => ("unfit", "refused for form or size"),
            Self::Server => ("mail server", "it refused or deferred, or was lost"),
        }
    }

    /// The messages of this kind.
    pub fn sum(self, counts: &Counts) -> u64 {
        let of = Outcome::ALL.iter().zip(counts).filter(|(outcome, _)| Self::of(**outcome) == self);
        of.map(|(_, count)| *count).sum()
    }
}

/// A column for each minute, the last on the right, with the kinds on top of each other; and the highest one's
/// messages.
pub fn minutes(minutes: &[Minute], now: i64) -> (Markup, u64) {
    let sum = |minute: &Minute| minute.messages.iter().sum::<u64>();
    let top = minutes.iter().map(sum).max().unwrap_or_default();
    let scale = nice(top);
    let last = now - now.rem_euclid(MINUTE);
    let columns = i64::try_from(MINUTES).unwrap_or(i64::MAX);
    let drawing = html! {
        svg.minutes viewBox=(format!("0 0 {} {HEIGHT}", columns * WIDTH)) preserveAspectRatio="none" role="img"
            aria-label="Mail a minute" {
            @for quarter in 1..4 {
                line.grid x1="0" x2=(columns * WIDTH) y1=(HEIGHT / 4 * quarter) y2=(HEIGHT / 4 * quarter) {}
            }
            @for minute in minutes {
                @let place = columns - 1 - (last - minute.begins) / MINUTE;
                @if place >= 0 {
                    g {
                        title { (super::page::clock(minute.begins)) ": " (told(&minute.messages)) }
                        (Column { place, messages: &minute.messages, scale })
                    }
                }
            }
        }
    };
    (drawing, scale)
}

/// A bar whose length is the share of `part` in `whole`.
pub fn bar(part: i64, whole: i64, class: &'static str) -> Markup {
    let share = if whole > 0 { part.clamp(0, whole).saturating_mul(100) / whole } else { 0 };
    // What is there is seen.
    let share = if part > 0 { share.max(1) } else { 0 };
    html! {
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="100" height="8" {}
            rect class=(class) width=(share) height="8" {}
        }
    }
}

/// The messages of a minute, from the bottom up.
struct Column<'a> {
    place: i64,
    messages: &'a Counts,
    scale: u64,
}

impl Render for Column<'_> {
    fn render(&self) -> Markup {
        let height = |count: u64| count.saturating_mul(HEIGHT.unsigned_abs() * 10) / self.scale.max(1);
        let mut below = 0;
        let parts = Kind::ALL.iter().map(|kind| (kind, kind.sum(self.messages))).filter(|(_, count)| *count > 0);
        let parts: Vec<_> = parts
            .map(|(kind, count)| {
                let (from, to) = (height(below), height(below + count));
                below += count;
                (kind, to, to - from)
            })
            .collect();
        html! {
            @for (kind, top, high) in parts {
                rect class=(kind.as_str()) x=(self.place * WIDTH) width=(WIDTH - 1)
                    y=(tenths((HEIGHT.unsigned_abs() * 10).saturating_sub(top))) height=(tenths(high)) {}
            }
        }
    }
}

fn tenths(tenths: u64) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn told(counts: &Counts) -> String {
    let parts = Kind::ALL.iter().map(|kind| (kind, kind.sum(counts))).filter(|(_, count)| *count > 0);
    parts.map(|(kind, count)| format!("{count} {}", kind.words().0)).collect::<Vec<_>>().join(", ")
}

/// The next of 4, 8, 20, 40, 80, 200 ..., so that a quarter is a whole number.
fn nice(top: u64) -> u64 {
    let mut step = 4_u64;
    let mut factors = [2, 5, 2].into_iter().cycle();
    while step < top {
        // 4, 8, 20 (8 * 5 / 2), 40, 80, 200 ...
        let factor = factors.next().unwrap_or(2);
        step = if factor == 5 { step.saturating_mul(5) / 2 } else { step.saturating_mul(2) };
        if step == u64::MAX {
            break;
        }
    }
    step
}

/// Units of one minute's column.
const WIDTH: i64 = 4;
/// Units of the plot's height.
const HEIGHT: i64 = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_high_enough() {
        let scales: Vec<_> = [0, 4, 5, 9, 21, 41, 81, 201, 401].map(nice).into();
        assert_eq!(scales, [4, 4, 8, 20, 40, 80, 200, 400, 800]);
        assert!(nice(u64::MAX) >= u64::MAX / 5);
    }

    #[test]
    fn columns_stand_on_each_other_and_end_on_the_right() {
        let mut messages = Counts::default();
        messages[Outcome::Accepted.index()] = 1;
        messages[Outcome::Refused.index()] = 3;
        let (drawing, scale) = minutes(&[Minute { begins: 6000, messages }], 6059);
        let drawing = drawing.into_string();
        assert_eq!(scale, 4);
        assert!(drawing.contains(r#"<rect class="accepted" x="716" width="3" y="120.0" height="40.0">"#), "{drawing}");
        assert!(drawing.contains(r#"<rect class="refused" x="716" width="3" y="0.0" height="120.0">"#), "{drawing}");
        assert!(drawing.contains("01:40: 1 passed on, 3 refused"), "{drawing}");
        let (old, _) = minutes(&[Minute { begins: 6000, messages }], 6000 + 181 * MINUTE);
        assert!(!old.into_string().contains("<g>"));
    }

    #[test]
    fn bars_show_what_is_there() {
        for (part, whole, width) in [(0, 10, 0), (1, 1000, 1), (5, 10, 50), (20, 10, 100), (0, 0, 0)] {
            let bar = bar(part, whole, "refused").into_string();
            assert!(bar.contains(&format!("width=\"{width}\" height=\"8\"></rect></svg>")), "{part}/{whole}: {bar}");
        }
    }
}
