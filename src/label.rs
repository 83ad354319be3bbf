//! Enums whose variants name metric labels, log values and words in reports.
//!
//! One spelling per variant, fixed at compile time: no domain, address or error text of a peer can become a label.

/// A closed set of names, each with one spelling.
pub trait Label: Copy + 'static {
    /// Every variant, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// The spelling: lower case, as metrics, log, reports and documents write it.
    fn as_str(self) -> &'static str;

    /// The variant's place in [`Label::ALL`].
    fn index(self) -> usize;

    /// The variant with this spelling.
    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|label| label.as_str() == text)
    }

    /// The variant with this spelling in ASCII letters of any case.
    fn parse_ignore_case(text: impl AsRef<[u8]>) -> Option<Self> {
        let text = text.as_ref();
        Self::ALL.iter().copied().find(|label| label.as_str().as_bytes().eq_ignore_ascii_case(text))
    }
}

/// Defines an enum together with its [`Label`] and `Display` implementations.
#[macro_export]
macro_rules! label_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $crate::label::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($crate::label::Label::as_str(*self))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Label;

    label_enum! {
        enum Colour {
            Red = "red",
            DarkBlue = "dark_blue",
        }
    }

    #[test]
    fn spellings_are_read_back() {
        for colour in Colour::ALL {
            assert_eq!(Colour::parse(colour.as_str()), Some(*colour));
        }
        for other in ["", "Red", "red ", "green"] {
            assert_eq!(Colour::parse(other), None, "{other}");
        }
    }

    #[test]
    fn case_is_ignored_on_request() {
        assert_eq!(Colour::parse_ignore_case("rED"), Some(Colour::Red));
        assert_eq!(Colour::parse_ignore_case(b"Dark_Blue"), Some(Colour::DarkBlue));
        assert_eq!(Colour::parse_ignore_case(b"r\xe9d"), None);
    }
}
