//! Text of peers on its way to a page: the only texts that facts can hold.

use std::fmt;

use maud::{Escaper, Render};
use serde::Serialize;

use crate::explain::escape::escaped_start;

/// A text that somebody else wrote: bounded, and without control characters, line ends and characters that reorder what
/// stands beside them. A page escapes it for HTML, whatever stands in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Text(Box<str>);

impl Text {
    /// The text, made harmless; at most [`MAX_TEXT`] octets of it.
    pub fn of(text: impl AsRef<str>) -> Self {
        Self(escaped_start(text.as_ref().as_bytes(), MAX_TEXT).into())
    }

    /// As it is shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Render for Text {
    fn render_to(&self, buffer: &mut String) {
        // Writing to a string can't fail.
        let _ = fmt::Write::write_str(&mut Escaper::new(buffer), &self.0);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Octets of one text, roughly: a name has 255 at most.
const MAX_TEXT: usize = 300;

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    #[test]
    fn whatever_stands_in_it_is_text() {
        let cases = [
            ("a.example", "a.example"),
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            ("\" onmouseover=\"x", "&quot; onmouseover=&quot;x"),
            ("a&amp;b", "a&amp;amp;b"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("a\0b\r\nc\u{7f}\u{9b}", "a\\u{0}b\\r\\nc\\u{7f}\\u{9b}"),
            ("\u{200b}\u{feff}\u{2066}x", "\\u{200b}\\u{feff}\\u{2066}x"),
            ("b\u{fc}cher.example", "b\u{fc}cher.example"),
        ];
        for (text, expected) in cases {
            let text = Text::of(text);
            assert_eq!(html! { (text) }.into_string(), expected);
            assert_eq!(html! { p title=(text) {} }.into_string(), format!("<p title=\"{expected}\"></p>"));
        }
        let long = Text::of("x".repeat(5000));
        assert!(long.as_str().len() < 2 * MAX_TEXT && long.as_str().ends_with("(5000 octets)"), "{long:?}");
    }
}
