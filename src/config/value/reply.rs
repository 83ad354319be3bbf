//! Reply texts as values: one line or a list of them.

use toml::Spanned;
use toml::de::DeValue;

use super::{OneOrMore, Setting, ValueFault, fault, quoted};
use crate::action::template::{self, HelpUrl, MAX_LINE, MAX_LINES, MAX_REPLY_LINES, MAX_URL, Placeholder, Template};
use crate::config::problem::suggestion;
use crate::label::Label;

/// A line as it is written; what a line may be is for the text as a whole to say.
struct Written(String);

impl Setting for Written {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let text = value.get_ref().as_str();
        text.map(|text| Self(text.to_owned())).ok_or_else(|| fault(value, "a text, or a list of texts, one a line"))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Setting for Template {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let OneOrMore::<Written>(written) = OneOrMore::read(value)?;
        let lines: Vec<&str> = written.iter().map(|line| line.0.as_str()).collect();
        Self::parse(&lines).map_err(|(index, wrong)| {
            let item = index.and_then(|index| value.get_ref().as_array()?.get(index));
            fault(item.unwrap_or(value), expected(&wrong))
        })
    }

    fn show(&self) -> String {
        OneOrMore(self.lines().map(Written).collect()).show()
    }
}

impl Setting for HelpUrl {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let parsed = value.get_ref().as_str().map(Self::parse);
        match parsed {
            Some(Ok(url)) => Ok(url),
            Some(Err(template::Fault::TooLong)) => Err(fault(value, format!("at most {MAX_URL} characters"))),
            Some(Err(_)) | None => {
                let form = "an address such as \"https://example.net/help?id={id}\", in ASCII, without blanks, of whose \
                            placeholders there is but {id}";
                Err(fault(value, form))
            }
        }
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

/// What is allowed where that was found.
fn expected(wrong: &template::Fault) -> String {
    let names = || Placeholder::ALL.iter().map(|placeholder| placeholder.as_str());
    let known = || names().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ");
    match wrong {
        template::Fault::Brace => format!("braces around a placeholder alone, one of {}", known()),
        template::Fault::Character(odd) => format!("printable ASCII alone, without {}", odd.escape_default()),
        template::Fault::Empty => "something in each line".to_owned(),
        template::Fault::TooLarge => {
            format!("less: with the longest values a reply has {MAX_REPLY_LINES} lines of 480 characters at most")
        }
        template::Fault::TooLong => format!("at most {MAX_LINE} characters in a line; write a list of several"),
        template::Fault::LineCount => format!("1 to {MAX_LINES} lines"),
        template::Fault::Unknown(name) => {
            let near = suggestion(name, names()).map(|near| format!("; did you mean {{{near}}}?"));
            format!("one of the placeholders {}, not {{{name}}}{}", known(), near.unwrap_or_default())
        }
        // For a text as a whole there is no such fault.
        template::Fault::Url => "an address".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Setting>(text: &str) -> Result<String, String> {
        let value = DeValue::parse(text).unwrap();
        T::read(&value).map(|value| value.show()).map_err(|faults| {
            let place = |fault: &ValueFault| format!("{}: {}", &text[fault.span.clone()], fault.expected);
            faults.iter().map(place).collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn texts_are_shown_as_they_are_written() {
        for text in [r#""refused for {domain}""#, r#"['a "b"', "{id}"]"#] {
            assert_eq!(read::<Template>(text).as_deref(), Ok(text));
        }
        assert_eq!(read::<Template>(r#"["a"]"#).as_deref(), Ok(r#""a""#));
        assert_eq!(read::<HelpUrl>(r#""https://a.example/{id}""#).as_deref(), Ok(r#""https://a.example/{id}""#));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_what_is_allowed() {
        let known = "{domain}, {policy_domain}, {policy}, {reason}, {id}, {help_url}, {client_ip}";
        let cases = [
            (
                r#"["a", "{domian}"]"#,
                format!("\"{{domian}}\": one of the placeholders {known}, not {{domian}}; did you mean {{domain}}?"),
            ),
            (r#""a {b""#, format!("\"a {{b\": braces around a placeholder alone, one of {known}")),
            (r#"["a", "b\u0000"]"#, r#""b\u0000": printable ASCII alone, without \u{0}"#.into()),
            (r#""a\r\n250 b""#, r#""a\r\n250 b": printable ASCII alone, without \r"#.into()),
            (r#"["a", ""]"#, "\"\": something in each line".into()),
            ("[]", "[]: 1 to 8 lines".into()),
            ("1", "1: a text, or a list of texts, one a line".into()),
            (r#"["a", 1]"#, "1: a text, or a list of texts, one a line".into()),
        ];
        for (text, expected) in cases {
            assert_eq!(read::<Template>(text), Err(expected), "{text}");
        }
        for text in [r#""x""#, "1", r#""https://a.example/{domain}""#, r#""https://a.example/f\u00fcr""#] {
            assert!(read::<HelpUrl>(text).unwrap_err().contains("an address such as"), "{text}");
        }
    }
}
