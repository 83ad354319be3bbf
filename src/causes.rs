//! Writes an error with all its causes on one line, for log and standard error. A leaf.

use std::error::Error;
use std::fmt;

/// An error, shown as `what failed: why: why that`. A cause that the text before it ends with is left out: some
/// libraries name it in both places.
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        cause: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_named_once() {
        let cases: &[(&[&str], &str)] =
            &[(&["a"], "a"), (&["b", "a"], "a: b"), (&["c", "b: c", "a"], "a: b: c"), (&["c", "c", "a"], "a: c")];
        for (texts, expected) in cases {
            let layers = texts.iter().fold(None, |cause, text| Some(Box::new(Layer { text, cause })));
            assert_eq!(Causes(&*layers.unwrap()).to_string(), *expected);
        }
    }
}
