//! Reply texts as the operator writes them: lines with placeholders, checked once, so that whatever is put in later
//! can't make more of them than a valid reply.

use crate::domain;
use crate::label::Label;
use crate::label_enum;
use crate::smtp::reply::wrap;

label_enum! {
    /// What a text may name in braces.
    pub enum Placeholder {
        /// The author domain that decided.
        Domain = "domain",
        /// Where its policy record was found.
        PolicyDomain = "policy_domain",
        /// What that asks for, after `t` and `pct`.
        Policy = "policy",
        /// Why, in a few words of ours.
        Reason = "reason",
        /// Under which id `dmarcgate explain` and the log have the message.
        Id = "id",
        /// The site's help page.
        HelpUrl = "help_url",
        /// The client's address.
        ClientIp = "client_ip",
    }
}

/// The text of a reply, one or several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Line>);

/// The address of a help page, which may name the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelpUrl(Line);

/// What stands for the placeholders in one reply.
#[derive(Debug)]
pub struct Values([String; COUNT]);

/// Why a text is none for a reply. The operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A brace that belongs to no placeholder.
    Brace,
    /// A character that is not printable ASCII.
    Character(char),
    /// A line without anything in it.
    Empty,
    /// With the longest values the reply would have more lines than [`MAX_REPLY_LINES`].
    TooLarge,
    /// More octets in one line than it may have.
    TooLong,
    /// More lines than [`MAX_LINES`], or none.
    LineCount,
    /// A name in braces that is none of [`Placeholder`].
    Unknown(String),
    /// An address that does not begin with `https://` or `http://`, has blanks in it, or names something but the id.
    Url,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

impl Template {
    /// Reads the lines of a text.
    ///
    /// # Errors
    ///
    /// The first fault, with the index of its line; none where the text as a whole is at fault.
    pub fn parse(lines: &[&str]) -> Result<Self, (Option<usize>, Fault)> {
        if !(1..=MAX_LINES).contains(&lines.len()) {
            return Err((None, Fault::LineCount));
        }
        let read = |(index, line): (usize, &&str)| Line::parse(line, MAX_LINE).map_err(|fault| (Some(index), fault));
        let template = Self(lines.iter().enumerate().map(read).collect::<Result<_, _>>()?);
        // With the words that are added to texts which lack them.
        let longest = template.clone().ending(" (DMARC, id {id})").fill(&Values::longest());
        if longest.len() > MAX_REPLY_LINES {
            return Err((None, Fault::TooLarge));
        }
        Ok(template)
    }

    /// Whether it names this placeholder.
    pub fn names(&self, placeholder: Placeholder) -> bool {
        self.0.iter().any(|line| line.names(placeholder))
    }

    /// The lines as they were written.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(Line::to_string)
    }

    /// Whether the operator's own words, not what is put in, have this one, in whatever case.
    pub fn says(&self, word: &str) -> bool {
        let has = |text: &str| text.to_ascii_lowercase().contains(&word.to_ascii_lowercase());
        self.0.iter().flat_map(|line| &line.0).any(|piece| matches!(piece, Piece::Text(text) if has(text)))
    }

    /// With `text` behind its last line. For texts of ours, which are well-formed.
    pub fn ending(mut self, text: &str) -> Self {
        if let (Some(last), Ok(more)) = (self.0.last_mut(), Line::parse(text, MAX_LINE)) {
            last.0.extend(more.0);
        }
        self
    }

    /// With `text` as one more line. For texts of ours, which are well-formed.
    pub fn followed_by(mut self, text: &str) -> Self {
        self.0.extend(Line::parse(text, MAX_LINE));
        self
    }

    /// The lines of the reply, each short enough for the wire and of printable ASCII alone.
    pub fn fill(&self, values: &Values) -> Vec<String> {
        let filled = self.0.iter().map(|line| line.fill(values));
        filled.flat_map(|text| wrap(&text).map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

impl HelpUrl {
    /// Reads an address.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let line = Line::parse(text, MAX_URL)?;
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_address = host.is_some_and(|host| host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['));
        let names_id_alone = Placeholder::ALL.iter().all(|p| *p == Placeholder::Id || !line.names(*p));
        let is_sound = is_address && names_id_alone && !text.contains([' ', '<', '>', '"']);
        if is_sound { Ok(Self(line)) } else { Err(Fault::Url) }
    }

    /// The address for one message.
    pub fn fill(&self, values: &Values) -> String {
        self.0.fill(values)
    }
}

impl std::fmt::Display for HelpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Values {
    /// Nothing is known.
    pub fn unknown() -> Self {
        Self(std::array::from_fn(|_| "unknown".to_owned()))
    }

    /// The longest of each.
    fn longest() -> Self {
        let mut longest = Self::unknown();
        for placeholder in Placeholder::ALL {
            longest.put(*placeholder, &"x".repeat(placeholder.longest()));
        }
        longest
    }

    /// Takes a value: what of it is printable ASCII, up to the placeholder's bound. An empty one is as good as unknown.
    pub fn put(&mut self, placeholder: Placeholder, value: &str) {
        let sound: String = value.chars().filter(|c| matches!(c, ' '..='~')).take(placeholder.longest()).collect();
        if let Some(place) = self.0.get_mut(placeholder.index()).filter(|_| !sound.is_empty()) {
            *place = sound;
        }
    }

    fn of(&self, placeholder: Placeholder) -> &str {
        self.0.get(placeholder.index()).map_or("", String::as_str)
    }
}

impl Placeholder {
    /// Octets of its longest value.
    pub const fn longest(self) -> usize {
        match self {
            Self::Domain | Self::PolicyDomain => domain::MAX_LENGTH,
            Self::Policy => 10,
            Self::Reason => 80,
            Self::Id => 64,
            Self::HelpUrl => MAX_URL + 64,
            Self::ClientIp => 39,
        }
    }
}

impl Line {
    fn parse(text: &str, bound: usize) -> Result<Self, Fault> {
        if let Some(odd) = text.chars().find(|c| !matches!(c, ' '..='~')) {
            return Err(Fault::Character(odd));
        }
        if text.trim().is_empty() {
            return Err(Fault::Empty);
        }
        if text.len() > bound {
            return Err(Fault::TooLong);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(Fault::Brace)?;
            if before.contains('}') || name.contains('{') {
                return Err(Fault::Brace);
            }
            let placeholder = Placeholder::parse(name).ok_or_else(|| Fault::Unknown(name.to_owned()))?;
            pieces.extend((!before.is_empty()).then(|| Piece::Text(before.to_owned())));
            pieces.push(Piece::Value(placeholder));
            rest = after;
        }
        if rest.contains('}') {
            return Err(Fault::Brace);
        }
        pieces.extend((!rest.is_empty()).then(|| Piece::Text(rest.to_owned())));
        Ok(Self(pieces))
    }

    fn names(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&Piece::Value(placeholder))
    }

    fn fill(&self, values: &Values) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(placeholder) => values.of(*placeholder).to_owned(),
        };
        self.0.iter().map(text).collect()
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Value(placeholder) => write!(f, "{{{placeholder}}}"),
        })
    }
}

/// Lines of a text as it is written: enough for a few sentences in two languages, and nobody reads more.
pub const MAX_LINES: usize = 8;
/// Octets of one of them.
pub const MAX_LINE: usize = 400;
/// Octets of the address of a help page as it is written.
pub const MAX_URL: usize = 200;
/// Lines of a reply, whatever is put in; senders' software keeps some kilobytes of one at best.
pub const MAX_REPLY_LINES: usize = 12;
/// How many placeholders there are.
const COUNT: usize = Placeholder::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(lines: &[&str]) -> (Option<usize>, Fault) {
        Template::parse(lines).unwrap_err()
    }

    #[test]
    fn texts_that_are_none_for_a_reply() {
        let long = "x".repeat(401);
        let wide = "{domain} ".repeat(44);
        let cases: &[(&[&str], Option<usize>, Fault)] = &[
            (&[], None, Fault::LineCount),
            (&["x"; 9], None, Fault::LineCount),
            (&["x", ""], Some(1), Fault::Empty),
            (&["  "], Some(0), Fault::Empty),
            (&["a\r\n250 OK"], Some(0), Fault::Character('\r')),
            (&["a\tb"], Some(0), Fault::Character('\t')),
            (&["x", "abgelehnt f\u{fc}r"], Some(1), Fault::Character('\u{fc}')),
            (&["\u{7f}"], Some(0), Fault::Character('\u{7f}')),
            (&[&long], Some(0), Fault::TooLong),
            (&[&wide], None, Fault::TooLarge),
            (&["{domian}"], Some(0), Fault::Unknown("domian".into())),
            (&["{Domain}"], Some(0), Fault::Unknown("Domain".into())),
            (&["{}"], Some(0), Fault::Unknown(String::new())),
            (&["{domain"], Some(0), Fault::Brace),
            (&["domain}"], Some(0), Fault::Brace),
            (&["a } {id}"], Some(0), Fault::Brace),
            (&["{{id}}"], Some(0), Fault::Brace),
        ];
        for (lines, line, expected) in cases {
            assert_eq!(fault(lines), (*line, expected.clone()), "{lines:?}");
        }
        assert!(Template::parse(&["x"; 8]).is_ok());
        assert!(Template::parse(&[&"x".repeat(400)]).is_ok());
        // Lines of two domains at their longest are two lines of the reply.
        let of = |wide: usize| [vec!["{domain} {domain}"; wide], vec!["x"; 8 - wide]].concat();
        assert!(Template::parse(&of(4)).is_ok());
        assert_eq!(fault(&of(5)), (None, Fault::TooLarge));
    }

    #[test]
    fn what_is_written_is_shown_and_filled() {
        let text = ["Refused for {domain} ({policy}, by {policy_domain})", "{help_url}", "{reason}: {client_ip} {id}"];
        let template = Template::parse(&text).unwrap();
        assert_eq!(template.lines().collect::<Vec<_>>(), text);
        let mut values = Values::unknown();
        values.put(Placeholder::Domain, "a.example");
        values.put(Placeholder::Reason, "a\r\n250 b\u{fc}\0c");
        values.put(Placeholder::Policy, "");
        let filled = ["Refused for a.example (unknown, by unknown)", "unknown", "a250 bc: unknown unknown"];
        assert_eq!(template.fill(&values), filled);
    }

    #[test]
    fn a_value_is_no_template() {
        let mut values = Values::unknown();
        values.put(Placeholder::Domain, "{id}");
        values.put(Placeholder::Id, "7F");
        assert_eq!(Template::parse(&["{domain}"]).unwrap().fill(&values), ["{id}"]);
    }

    #[test]
    fn what_a_text_says_is_not_what_is_put_in() {
        let template = Template::parse(&["see {help_url}", "per dmarc"]).unwrap();
        assert!(template.says("DMARC") && !template.says("help") && template.names(Placeholder::HelpUrl));
        assert!(!template.names(Placeholder::Id));
        let more = template.ending(" (id {id})").followed_by("end");
        assert_eq!(more.lines().collect::<Vec<_>>(), ["see {help_url}", "per dmarc (id {id})", "end"]);
    }

    #[test]
    fn help_pages() {
        let cases = [
            ("https://example.net/dmarc", true),
            ("http://[2001:db8::1]/x?id={id}#top", true),
            ("https://example.net/{id}", true),
            ("https://example.net/{domain}", false),
            ("ftp://example.net/", false),
            ("https://", false),
            ("https:///x", false),
            ("https://example.net/a b", false),
            ("https://example.net/<x>", false),
            ("example.net", false),
            ("javascript:alert(1)", false),
        ];
        for (text, expected) in cases {
            assert_eq!(
                HelpUrl::parse(text).map(|url| url.to_string()),
                expected.then(|| text.to_owned()).ok_or(Fault::Url),
                "{text}"
            );
        }
        let long = |length: usize| format!("https://{}", "x".repeat(length - "https://".len()));
        assert!(HelpUrl::parse(&long(200)).is_ok());
        assert_eq!(HelpUrl::parse(&long(201)), Err(Fault::TooLong));
    }
}
