//! What a failure report shows of a body: its text. Parts that are something else, or that can't be read as they stand,
//! are left out: they are what harms who opens a report (RFC 9991 §7.3), and nothing in them could be redacted.

use crate::message::header::HeaderSection;

/// The lines of a body that are shown, and notes in place of the others. `body` may be cut off anywhere.
pub fn shown(header: &HeaderSection, body: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut boundaries = Vec::new();
    let mut place = begin(header, &mut boundaries, &mut lines);
    for line in body.lines() {
        if let Some(end) = delimiter(line, &boundaries) {
            lines.push(line.to_owned());
            place = if end == Delimiter::Last { Place::Shown } else { Place::Header(String::new()) };
            continue;
        }
        match &mut place {
            Place::Header(text) => {
                lines.push(line.to_owned());
                if line.is_empty() {
                    let part = HeaderSection::parse(std::mem::take(text).into_bytes());
                    place = begin(&part, &mut boundaries, &mut lines);
                } else {
                    text.push_str(line);
                    text.push_str("\r\n");
                }
            }
            Place::Shown => lines.push(line.to_owned()),
            Place::LeftOut => {}
        }
    }
    lines
}

enum Place {
    /// In the header of a part; its lines.
    Header(String),
    Shown,
    LeftOut,
}

#[derive(PartialEq, Eq)]
enum Delimiter {
    Next,
    Last,
}

/// What follows the header of a part, or of the message.
fn begin(header: &HeaderSection, boundaries: &mut Vec<String>, lines: &mut Vec<String>) -> Place {
    let value = |name| {
        let field = header.named(name).next();
        field.map(|field| String::from_utf8_lossy(field.value).trim().to_owned()).unwrap_or_default()
    };
    let kind = value("Content-Type");
    let word = kind.split([';', ' ', '\t', '\r', '\n']).next().unwrap_or_default().to_ascii_lowercase();
    if word.starts_with("multipart/") {
        if let Some(boundary) = boundary(&kind)
            && boundaries.len() < MAX_BOUNDARIES
        {
            boundaries.push(boundary);
        }
        return Place::Shown;
    }
    let is_text = word.is_empty() || word.starts_with("text/");
    let is_encoded = value("Content-Transfer-Encoding").eq_ignore_ascii_case("base64");
    let is_attached = value("Content-Disposition").to_ascii_lowercase().starts_with("attachment");
    if is_text && !is_encoded && !is_attached {
        return Place::Shown;
    }
    lines.push("[left out: no plain text]".to_owned());
    Place::LeftOut
}

/// The parameter of a Content-Type (RFC 2045 §5.1).
fn boundary(kind: &str) -> Option<String> {
    let at = kind.to_ascii_lowercase().find("boundary=")? + "boundary=".len();
    let rest = kind.get(at..)?;
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([';', ' ', '\t', '\r', '\n']).next()?,
    };
    (!value.is_empty()).then(|| value.to_owned())
}

fn delimiter(line: &str, boundaries: &[String]) -> Option<Delimiter> {
    let rest = line.strip_prefix("--")?;
    boundaries.iter().find_map(|boundary| match rest.strip_prefix(boundary.as_str())?.trim_end() {
        "" => Some(Delimiter::Next),
        "--" => Some(Delimiter::Last),
        _ => None,
    })
}

/// Parts within parts: few messages have more than three.
const MAX_BOUNDARIES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT_OUT: &str = "[left out: no plain text]";

    fn lines(header: &str, body: &str) -> Vec<String> {
        shown(&HeaderSection::parse(format!("{header}\r\n").into_bytes()), body)
    }

    #[test]
    fn a_body_of_one_part() {
        let cases = [
            ("", "text\r\n-- \r\nme\r\n", vec!["text", "-- ", "me"]),
            ("Content-Type: text/html; charset=x\r\n", "<p>\r\n", vec!["<p>"]),
            ("Content-Type: application/pdf\r\n", "%PDF\r\n", vec![LEFT_OUT]),
            ("Content-Transfer-Encoding: BASE64\r\n", "am9l\r\n", vec![LEFT_OUT]),
            ("Content-Type: text/plain\r\nContent-Disposition: Attachment\r\n", "x\r\n", vec![LEFT_OUT]),
        ];
        for (header, body, expected) in cases {
            assert_eq!(lines(header, body), expected, "{header}");
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let header = "Content-Type: multipart/mixed;\r\n boundary=\"a b\"\r\n";
        let body = "--a b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\nplain\r\n--c\r\nContent-Type: \
                    image/png\r\n\r\nPNG\r\n--c--\r\n--a b\r\nContent-Disposition: attachment\r\n\r\n-- \r\nevil\r\n--a b--\r\nend";
        let expected = [
            "--a b",
            "Content-Type: multipart/alternative; boundary=c",
            "",
            "--c",
            "",
            "plain",
            "--c",
            "Content-Type: image/png",
            "",
            LEFT_OUT,
            "--c--",
            "--a b",
            "Content-Disposition: attachment",
            "",
            LEFT_OUT,
            "--a b--",
            "end",
        ];
        assert_eq!(lines(header, body), expected);
    }
}
