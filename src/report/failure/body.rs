//! What a failure report shows of a body: its text. Parts that are something else, or that can't be read as they stand,
//! are left out: they could harm whoever opens the report (RFC 9991 §7.3), and nothing in them could be redacted.

use crate::message::header::HeaderSection;
use crate::message::mime::MimeField;

/// The lines of a body that are shown, and notes in place of the others. `body` may be cut off anywhere.
pub fn shown(header: &HeaderSection, body: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut boundaries = Vec::new();
    let mut place = begin(header, &mut boundaries, &mut lines);
    for line in body.lines() {
        if let Some(end) = delimiter(line, &boundaries) {
            lines.push(line.to_owned());
            place = if end == Delimiter::Last { Place::Outside } else { Place::Header(String::new()) };
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
            Place::Shown if begins_uuencoded(line) => place = left_out(&mut lines),
            Place::Shown => lines.push(line.to_owned()),
            Place::Outside if line.trim().is_empty() => {}
            Place::Outside => place = left_out(&mut lines),
            Place::LeftOut => {}
        }
    }
    lines
}

enum Place {
    /// In the header of a part; its lines.
    Header(String),
    Shown,
    /// Before the first part or behind the last: of no meaning (RFC 2046 §5.1.1), unless whoever opens the report reads
    /// the boundary otherwise; then it may be anything.
    Outside,
    LeftOut,
}

#[derive(PartialEq, Eq)]
enum Delimiter {
    Next,
    Last,
}

/// What follows the header of a part, or of the message.
fn begin(header: &HeaderSection, boundaries: &mut Vec<String>, lines: &mut Vec<String>) -> Place {
    let kind = MimeField::first(header, "Content-Type");
    if kind.is_multipart() {
        if let Some(boundary) = kind.boundary()
            && boundaries.len() < MAX_BOUNDARIES
        {
            boundaries.push(String::from_utf8_lossy(boundary).into_owned());
            return Place::Outside;
        }
        // Its parts can't be told apart, so that none of them could be left out.
        return left_out(lines);
    }
    let is_text = kind.value.is_empty() || kind.value == "text/plain";
    let encoding = MimeField::first(header, "Content-Transfer-Encoding").value;
    let is_readable = matches!(&*encoding, "" | "7bit" | "8bit" | "binary" | "quoted-printable");
    let is_attached = MimeField::first(header, "Content-Disposition").value.starts_with("attachment")
        || kind.parameters.iter().any(|(name, _)| name.starts_with("name"));
    if is_text && is_readable && !is_attached {
        return Place::Shown;
    }
    left_out(lines)
}

fn left_out(lines: &mut Vec<String>) -> Place {
    lines.push("[left out: no plain text]".to_owned());
    Place::LeftOut
}

/// Whether a file begins inside the text: `begin`, its mode, its name. It is left out with what follows it.
fn begins_uuencoded(line: &str) -> bool {
    let mut words = line.split(' ');
    let is_mode = |mode: &str| (3..=4).contains(&mode.len()) && mode.bytes().all(|b| matches!(b, b'0'..=b'7'));
    words.next() == Some("begin") && words.next().is_some_and(is_mode) && words.next().is_some()
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
            ("Content-Type: Text/Plain; charset=x\r\n", "<p>\r\n", vec!["<p>"]),
            ("Content-Type: text/html; charset=x\r\n", "<p>\r\n", vec![LEFT_OUT]),
            ("Content-Type: text/calendar\r\n", "BEGIN:VCALENDAR\r\n", vec![LEFT_OUT]),
            ("Content-Type: application/pdf\r\n", "%PDF\r\n", vec![LEFT_OUT]),
            ("Content-Transfer-Encoding: BASE64\r\n", "am9l\r\n", vec![LEFT_OUT]),
            ("Content-Type: text/plain\r\nContent-Disposition: Attachment\r\n", "x\r\n", vec![LEFT_OUT]),
            ("Content-Type: text/plain; name*0*=us-ascii''a.exe\r\n", "MZ\r\n", vec![LEFT_OUT]),
            ("Content-Transfer-Encoding: x-uuencode\r\n", "M3\r\n", vec![LEFT_OUT]),
            ("Content-Transfer-Encoding: Quoted-Printable\r\n", "=3D\r\n", vec!["=3D"]),
            ("", "so\r\nbegin 644 a.exe\r\nM3\r\nend\r\n", vec!["so", LEFT_OUT]),
            ("", "begin 12 x\r\nbegin 644\r\nbegin again 1\r\n", vec!["begin 12 x", "begin 644", "begin again 1"]),
        ];
        for (header, body, expected) in cases {
            assert_eq!(lines(header, body), expected, "{header}");
        }
    }

    #[test]
    fn no_spelling_of_a_header_makes_an_attachment_text() {
        let part = "--b\r\nContent-Type: application/pdf\r\n\r\n%PDF\r\n--b--\r\n";
        for kind in ["x-boundary=a; boundary=b", "x=\"boundary=a\"; boundary=b", "(boundary=a) boundary = b"] {
            let header = format!("Content-Type: multipart/mixed; {kind}\r\n");
            let expected = ["--b", "Content-Type: application/pdf", "", LEFT_OUT, "--b--"];
            assert_eq!(lines(&header, part), expected, "{kind}");
        }
        // Parentheses without quotes: a comment for us, a part of the boundary for others.
        for kind in ["", "boundary=", "boundary*=us-ascii''b", "boundary*0=b", "boundary=a(1)b"] {
            let header = format!("Content-Type: multipart/mixed; {kind}\r\n");
            assert_eq!(lines(&header, part), [LEFT_OUT], "{kind}");
        }
        let header = "Content-Type: multipart/mixed; boundary=b\r\n";
        let around = "\r\nJVBERi0x\r\nLjQ=\r\n--b\r\n\r\ntext\r\n--b--\r\n \r\nJVBERi0x\r\n";
        assert_eq!(lines(header, around), [LEFT_OUT, "--b", "", "text", "--b--", LEFT_OUT]);
        for header in [
            "Content-Transfer-Encoding: base64 (it is)\r\n",
            "Content-Disposition: (an) attachment; filename=x\r\n",
            "Content-Disposition: attachment filename=x\r\n",
            "Content-Type: (text/plain) application/pdf\r\n",
        ] {
            assert_eq!(lines(header, "%PDF\r\n"), [LEFT_OUT], "{header}");
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
            LEFT_OUT,
        ];
        assert_eq!(lines(header, body), expected);
    }
}
