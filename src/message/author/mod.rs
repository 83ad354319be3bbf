//! Reads From: the domains of the authors that DMARC protects (RFC 9989 §5.3.1), or why there are none.
//!
//! Two readers look at the field. The strict one follows the grammar of RFC 5322 §3.4 with those obsolete and sloppy
//! forms that honest mail has, where the domain is not in doubt. The lenient one knows next to no grammar and imitates
//! what mail clients pick out. Where they differ on the domains, somebody is trying to show one author to us and
//! another to the reader: the field is unusable. So it is where an address of another domain stands beside the author's
//! in a spot that yet other readers take apart differently (`ambiguity`). A field that can't be read is never 'no
//! policy'; it is unusable too.

mod ambiguity;
mod lenient;
mod strict;

use crate::domain::Domain;
use crate::label_enum;
use crate::message::header::{Field, HeaderSection, MAX_LINE};

label_enum! {
    /// Why From names no author domain.
    pub enum UnusableFrom {
        /// There is no From.
        Missing = "missing",
        /// There is more than one.
        Repeated = "repeated",
        /// It can't be read.
        Syntax = "syntax",
        /// It names nobody with a domain: an empty group, a bare word, a domain literal.
        NoDomain = "no_domain",
        /// Readers may show different domains: a strict and a lenient one do, or some find a stranger's address or
        /// overlook From.
        Disagreement = "disagreement",
        /// More than ten distinct domains.
        TooManyDomains = "too_many_domains",
        /// It has a line of more than 998 octets (RFC 5322 §2.1.1), or more than 8 KiB in all. Mail servers cut or
        /// break such a field, so that the reader is shown another author.
        TooLong = "too_long",
        /// The header section has a line that is neither field nor continuation, so that readers may differ on where
        /// it ends.
        MalformedHeader = "malformed_header",
    }
}

/// Who the header section says wrote the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// From can be read.
    Usable {
        /// The distinct domains in the order of their first appearance, one to ten.
        domains: Vec<Domain>,
        /// An unquoted address stands where a display name should, before an angle address that rules:
        /// `ceo@v.example <x@a.example>`.
        address_in_display_name: bool,
    },
    /// From names no author domain.
    Unusable(UnusableFrom),
}

impl Author {
    /// The author domains, in their order; none if From is unusable.
    pub fn domains(&self) -> &[Domain] {
        match self {
            Self::Usable { domains, .. } => domains,
            Self::Unusable(_) => &[],
        }
    }

    /// The author of a message that came with `mail_from`, the address of the reverse-path, empty if it is null. Where
    /// readers may overlook From, some show the reverse-path: then it has to be in an author's domain.
    #[must_use]
    pub fn with_reverse_path(self, section: &HeaderSection, mail_from: &str) -> Author {
        let sender = mail_from.rsplit_once('@').and_then(|(_, domain)| Domain::parse(domain).ok());
        let is_author = |sender: &Domain| self.domains().contains(sender);
        match sender {
            Some(sender) if !self.domains().is_empty() && !is_author(&sender) && may_be_overlooked(section) => {
                Self::Unusable(UnusableFrom::Disagreement)
            }
            _ => self,
        }
    }

    /// Reads From.
    pub fn read(section: &HeaderSection) -> Author {
        match from_value(section).and_then(read_value) {
            Ok(mailboxes) => Author::Usable {
                domains: mailboxes.domains,
                address_in_display_name: mailboxes.address_in_display_name,
            },
            Err(why) => Author::Unusable(why),
        }
    }
}

/// What the strict reader found.
#[derive(Debug, Default)]
struct Mailboxes {
    /// Distinct, at most one more than [`MAX_DOMAINS`].
    domains: Vec<Domain>,
    /// Where the at signs of the addresses stand, ascending.
    at_signs: Vec<usize>,
    /// An address without a domain name stands among them: `<root>`, `<>`, `x@[192.0.2.1]`.
    without_domain: bool,
    address_in_display_name: bool,
    /// Domains of unquoted addresses that begin a display name, with quotes or comments in or at them:
    /// `ceo@v.example (Boss) <x@a.example>`.
    adorned: Vec<Domain>,
}

/// Distinct domains that are evaluated (RFC 9989 §11.5 asks for a bound).
const MAX_DOMAINS: usize = 10;
/// Octets of the whole field: below what mail servers keep of one. Postfix drops what is beyond `header_size_limit`
/// (102,400) without a word, and reads `header_address_token_limit` (10,240) tokens.
const MAX_FROM: usize = 8 << 10;
/// Fields that readers show where they find no From; others show the reverse-path.
const INSTEAD_OF_FROM: [&str; 3] = ["Sender", "Resent-From", "Resent-Sender"];

/// The value of the one From field. Lines that only a lenient reader takes for From count as well.
fn from_value(section: &HeaderSection) -> Result<&[u8], UnusableFrom> {
    match section.lenient_count("From") {
        2.. => return Err(UnusableFrom::Repeated),
        _ if section.malformed_line().is_some() => return Err(UnusableFrom::MalformedHeader),
        _ => {}
    }
    let field = section.named("From").next().ok_or(UnusableFrom::Missing)?;
    if field.raw.len() > MAX_FROM || field.raw.split(|b| *b == b'\n').any(|line| line_length(line) > MAX_LINE) {
        return Err(UnusableFrom::TooLong);
    }
    if may_be_overlooked(section) && INSTEAD_OF_FROM.iter().any(|name| section.lenient_count(name) > 0) {
        return Err(UnusableFrom::Disagreement);
    }
    Ok(field.value)
}

/// Whether there are readers that find no From. RFC 5322 §4.5 allows white space before the colon, and not all know
/// that. To others a line ends at a NUL, so that the next belongs to it.
fn may_be_overlooked(section: &HeaderSection) -> bool {
    let is_from = |field: &Field<'_>| field.name.eq_ignore_ascii_case(b"From");
    let is_obsolete = |field: &Field<'_>| is_from(field) && field.raw.get(field.name.len()) != Some(&b':');
    let mut above = section.fields().take_while(|field| !is_from(field));
    section.fields().any(|field| is_obsolete(&field)) || above.any(|field| field.raw.contains(&0))
}

/// Without the CR of its end.
fn line_length(line: &[u8]) -> usize {
    line.strip_suffix(b"\r").unwrap_or(line).len()
}

fn read_value(value: &[u8]) -> Result<Mailboxes, UnusableFrom> {
    let value = unfold(value)?;
    // White space at the end says nothing, not even behind an encoded word that is cut off there.
    let value = value.trim_ascii_end();
    let mailboxes = strict::read(value)?;
    if mailboxes.without_domain || mailboxes.domains.is_empty() {
        return Err(UnusableFrom::NoDomain);
    }
    if mailboxes.domains.len() > MAX_DOMAINS {
        return Err(UnusableFrom::TooManyDomains);
    }
    let mut strict = mailboxes.domains.clone();
    strict.sort();
    let agreed = lenient::read(value) == Some(strict);
    // Some readers, Dovecot's for the ENVELOPE of IMAP among them, take the address that a display name begins with, and
    // a comment for its name. Honest mail has the plain address there, if at all.
    let misleads = !mailboxes.adorned.iter().all(|domain| mailboxes.domains.contains(domain));
    if !agreed || misleads || ambiguity::hides_address(value, &mailboxes.at_signs, &mailboxes.domains) {
        return Err(UnusableFrom::Disagreement);
    }
    Ok(mailboxes)
}

/// The value on one line (RFC 5322 §2.2.3). NUL, bare CR and other control characters have no place in From: what
/// follows one is shown by some readers and hidden by others.
fn unfold(value: &[u8]) -> Result<Vec<u8>, UnusableFrom> {
    let mut out = Vec::with_capacity(value.len());
    for line in value.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(line);
        if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            return Err(UnusableFrom::Syntax);
        }
        out.extend_from_slice(line);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::UnusableFrom::*;
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Author {
        Author::read(&HeaderSection::parse(text.as_ref().to_vec()))
    }

    fn read_from(value: impl AsRef<[u8]>) -> Author {
        read([b"To: t@example.org\r\nFrom:", value.as_ref(), b"\r\nSubject: s\r\n\r\n"].concat())
    }

    fn usable(domains: &[&str], address_in_display_name: bool) -> Author {
        let domains = domains.iter().map(|d| Domain::parse(d).unwrap()).collect();
        Author::Usable { domains, address_in_display_name }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn honest_fields_are_usable() {
        let cases: [(&str, &[u8]); 77] = [
            ("bare address", b" john@x.example"),
            ("angle address", b" <john@x.example>"),
            ("no space after the colon", b"john@x.example"),
            ("display name", b" John Doe <john@x.example>"),
            ("Outlook: quoted, last name first", b" \"Doe, John\" <john@x.example>"),
            ("Outlook: brackets in quotes", b" \"Doe, John [EXT] (DE)\" <john@x.example>"),
            ("Gmail", b" John Doe <john.doe+tag@x.example>"),
            ("Gmail: group alias", b" \"'John Doe' via Team\" <team@x.example>"),
            ("Gmail: address quoted in the display name", b" \"john@work.example via Team\" <team@x.example>"),
            ("angle address quoted in the display name", b" \"John <john@work.example>\" <team@x.example>"),
            ("GitHub", b" octocat <notifications@x.example>"),
            ("brackets in quotes, GitLab", b" \"John (@john)\" <gitlab@x.example>"),
            ("encoded words", b" =?UTF-8?Q?J=C3=B6rg_M=C3=BCller?= <joerg@x.example>"),
            ("encoded words, folded", b" =?UTF-8?B?SsO2cmc=?=\r\n =?UTF-8?B?IE0=?= <joerg@x.example>"),
            ("encoded word in quotes", b" \"=?UTF-8?Q?J=C3=B6rg?=\" <joerg@x.example>"),
            ("encoded word with an encoded address", b" =?UTF-8?Q?john=40work=2Eexample?= <joerg@x.example>"),
            ("raw UTF-8", "Jörg Müller <joerg@x.example>".as_bytes()),
            ("raw UTF-8 in quotes", " \"Müller, Jörg\" <joerg@x.example>".as_bytes()),
            ("raw Latin-1", b" J\xf6rg M\xfcller <joerg@x.example>"),
            ("raw emoji", " 🎉 Party <party@x.example>".as_bytes()),
            ("unquoted dots", b" John Q. Public <john@x.example>"),
            ("dots alone", b" J.R.R. <john@x.example>"),
            ("comment as a name", b" john@x.example (John Doe)"),
            ("comment that nests", b" john@x.example (John (Johnny) Doe)"),
            ("comment with a bracket", b" john@x.example (I <3 mail)"),
            ("comment with a bracket after an angle address", b" Bob <john@x.example> (I <3 mail)"),
            ("comment with two brackets", b" Bob <john@x.example> (<3 <3 mail)"),
            ("comment with an address", b" john@x.example (john@work.example)"),
            ("cron", b" root@x.example (Cron Daemon)"),
            ("comment after an angle address", b" John <john@x.example> (work)"),
            ("comment in the display name", b" John (Johnny (Jo)) Doe <john@x.example>"),
            ("brackets in the display name", b" [JIRA] John Doe <jira@x.example>"),
            ("brackets around a project", b" Bugs [web/app] <bugs@x.example>"),
            ("colon in the display name", b" Re: hello <john@x.example>"),
            ("two colons", b" Re: Fwd: hello <john@x.example>"),
            ("time in the display name", b" 12:30 News <news@x.example>"),
            ("apostrophe", b" John O'Hara <john@x.example>"),
            ("apostrophes around", b" 'John Doe' <john@x.example>"),
            ("slash, ampersand", b" R&D/IT <rd@x.example>"),
            ("closing bracket", b" John :) <john@x.example>"),
            ("backslash", b" John\\Doe <john@x.example>"),
            ("escaped quotes outside quotes", b" \\\"John\\\" <john@x.example>"),
            ("escaped quotes inside quotes", b" \"John \\\"Jo\\\" Doe\" <john@x.example>"),
            ("escaped backslash last", b" \"John\\\\\" <john@x.example>"),
            ("trailing comma", b" john@x.example,"),
            ("trailing semicolon", b" John <john@x.example>;"),
            ("leading comma", b" , john@x.example"),
            ("empty display name", b" \"\" <john@x.example>"),
            ("no space before the angle", b" John<john@x.example>"),
            ("no space after quotes", b" \"John\"<john@x.example>"),
            ("two spaces", b"  John  <john@x.example>  "),
            ("tabs", b"\tJohn\t<john@x.example>\t"),
            ("spaces inside the angle", b" John < john@x.example >"),
            ("folded before the angle", b" John Doe\r\n <john@x.example>"),
            ("folded after the colon", b"\r\n john@x.example"),
            ("folded, white space last", b" john@x.example\r\n "),
            ("unquoted comma", b" Doe, John <john@x.example>"),
            ("unquoted comma, encoded", b" =?utf-8?q?M=C3=BCller?=, =?utf-8?B?SsO2cmc=?= <joerg@x.example>"),
            ("unquoted comma, two encoded words", b" =?utf-8?q?M?= =?UTF-8*de?Q?C?=, Hans <hans@x.example>"),
            ("comment with an encoded name", b" joerg@x.example (=?iso-8859-1?Q?J=F6rg?=)"),
            ("at sign in the display name of words", b" \"John @ Work\" <john@x.example>"),
            ("Docomo: two dots", b" foo..bar@x.example"),
            ("Docomo: dot last", b" <foo.@x.example>"),
            ("quoted local part", b" \"john doe\"@x.example"),
            ("quoted local part in angles", b" John <\"john doe\"@x.example>"),
            ("Notes: at sign in a quoted local part", b" <\"John Doe/ORG@ORGNET\"@x.example>"),
            ("at sign and no domain in a quoted local part", b" \"a@b\"@x.example"),
            ("encoded line end", b" =?utf-8?Q?John=0A?= <john@x.example>"),
            ("right-to-left mark in the display name", " \u{202b}\u{5d0}\u{202c} <a@x.example>".as_bytes()),
            ("UTF-16 encoded", b" =?utf-16?B?AEoAbw==?= <john@x.example>"),
            ("odd local part", b" <bounce+a=b.example!c#d@x.example>"),
            ("mailto", b" mailto:john@x.example"),
            ("trailing dot", b" john@x.example."),
            ("upper case", b" JOHN@X.EXAMPLE"),
            ("group", b" Team: john@x.example, Jane <jane@x.example>;"),
            ("several of one domain", b" john@x.example, Jane <jane@x.example>"),
            ("white space around dots and at sign", b" john @ x . example"),
        ];
        for (name, value) in cases {
            assert_eq!(read_from(value), usable(&["x.example"], false), "{name}");
        }
    }

    #[test]
    fn domains_are_found_where_the_grammar_has_them() {
        let nested = format!("{}{} x@a.example", "(".repeat(32), ")".repeat(32));
        let cases: [(&str, &str, &[&str], bool); 28] = [
            ("U-label", " john@bücher.example", &["xn--bcher-kva.example"], false),
            ("U-label in upper case", " John <john@BÜCHER.example>", &["xn--bcher-kva.example"], false),
            ("UTF-8 local part", " <jörg@x.example>", &["x.example"], false),
            ("two addresses", " u@a.example,u@b.example", &["a.example", "b.example"], false),
            ("two angle addresses", " <a@b.example>, <c@d.example>", &["b.example", "d.example"], false),
            ("order of appearance", " a@z.example, b@a.example, c@Z.example", &["z.example", "a.example"], false),
            ("semicolon between", " a@z.example; b@a.example", &["z.example", "a.example"], false),
            ("two groups", " A: a@z.example; B: b@a.example;", &["z.example", "a.example"], false),
            ("obsolete route at home", " <@z.example,@z.example:u@z.example>", &["z.example"], false),
            ("address as display name", " ceo@v.example <x@a.example>", &["a.example"], true),
            ("the same, no space", " ceo@v.example<x@a.example>", &["a.example"], true),
            ("the same in apostrophes", " 'ceo@v.example' <x@a.example>", &["a.example"], true),
            ("the same, with words", " Ceo ceo@v.example via List <x@a.example>", &["a.example"], true),
            ("a company with a dot", " Team @ Acme.example <x@a.example>", &["a.example"], true),
            ("an author's address and words", " ceo@sub.a.example via List <x@a.example>", &["a.example"], true),
            ("address and then two", " ceo@v.example <x@a.example>, y@b.example", &["a.example", "b.example"], true),
            ("comment inside the address", " <u(c)@(d)v.example(e)>", &["v.example"], false),
            ("comment that looks like a domain", " admin@v.example(.a.example)", &["v.example"], false),
            ("at sign first in the display name", " @John <john@x.example>", &["x.example"], true),
            ("comments nested as deep as they may be", &nested, &["a.example"], false),
            ("backslash before the angle", r" John \<x@a.example>", &["a.example"], false),
            ("two backslashes before the angle", r" John \\<x@a.example>", &["a.example"], false),
            ("half-width full stop", " john@x\u{ff61}example", &["x.example"], false),
            ("full-width letters", " john@\u{ff58}.example", &["x.example"], false),
            ("soft hyphen in the domain", " john@x\u{ad}.example", &["x.example"], false),
            ("byte order mark in the domain", " john@x.exa\u{feff}mple", &["x.example"], false),
            ("ideographic full stop last", " john@x.example\u{3002}", &["x.example"], false),
            ("ideographic full stop", " john@x。example", &["x.example"], false),
        ];
        for (name, value, domains, in_display_name) in cases {
            let author = read_from(value);
            assert_eq!(author, usable(domains, in_display_name), "{name}");
            assert_eq!(author.domains().len(), domains.len(), "{name}");
        }
    }

    #[test]
    fn white_space_at_the_end_changes_nothing() {
        let cases: [(&[u8], Author); 5] = [
            (b" john@x.example", usable(&["x.example"], false)),
            (b" john@x.example, =?utf-8?b?", usable(&["x.example"], false)),
            (b" john@x.example, =?utf-8?b?Zm9v", usable(&["x.example"], false)),
            (b" john@x.example, =?utf-8?b?AA==", Author::Unusable(Disagreement)),
            (b" john@x.example, =?utf-8?b?=", Author::Unusable(Disagreement)),
        ];
        for (value, expected) in cases {
            for end in ["", " ", "\t", "\r\n "] {
                assert_eq!(read_from([value, end.as_bytes()].concat()), expected, "{} {end:?}", value.escape_ascii());
            }
        }
    }

    #[test]
    fn a_backslash_outside_of_quotes_beside_an_address_is_a_disagreement() {
        let cases: [&[u8]; 4] = [
            b" ceo@v.example\\\"<x@a.example>",
            b" \\\"\"ceo@v.example\"<x@a.example>",
            b" ceo@v.example\\ <x@a.example>",
            b" \\\"\"ceo@v.example\"<x@a.example> (<3)",
        ];
        for value in cases {
            assert_eq!(read_from(value), Author::Unusable(Disagreement), "{}", value.escape_ascii());
        }
        assert_eq!(read_from(b" \"a \\\"b@c\\\" d\" <j@x.example>"), usable(&["x.example"], false), "inside quotes");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn what_names_no_author_is_unusable() {
        let nested = format!("{}{} x@a.example", "(".repeat(33), ")".repeat(33));
        let cases: [(&str, &[u8], UnusableFrom); 94] = [
            ("empty", b"", NoDomain),
            ("white space", b" \r\n ", NoDomain),
            ("comment alone", b" (nobody)", NoDomain),
            ("a word", b" root", NoDomain),
            ("a name", b" John Doe", NoDomain),
            ("quoted name", b" \"John Doe\"", NoDomain),
            ("angle without a domain", b" John <root>", NoDomain),
            ("empty angle", b" MAILER-DAEMON <>", NoDomain),
            ("empty group", b" undisclosed-recipients:;", NoDomain),
            ("empty group, open", b" undisclosed:", NoDomain),
            ("comma alone", b" ,", NoDomain),
            ("domain literal", b" <john@[192.0.2.1]>", NoDomain),
            ("bare domain literal", b" john@[IPv6:2001:db8::1]", NoDomain),
            ("one without a domain among others", b" <root>, x@a.example", NoDomain),
            ("one domain literal among others", b" x@a.example, y@[192.0.2.1]", NoDomain),
            ("NUL", b" <u@v.example>\0@a.example", Syntax),
            ("NUL in the address", b" <u@v.example\0.a.example>", Syntax),
            ("NUL in the display name", b" J\0hn <u@a.example>", Syntax),
            ("vertical tab", b" u@a.example\x0b", Syntax),
            ("bare CR", b" u@v.example\r u@a.example", Syntax),
            ("DEL", b" <u\x7f@a.example>", Syntax),
            ("two at signs", b" a@v.example@a.example", Syntax),
            ("two at signs in angles", b" <a@v.example@a.example>", Syntax),
            ("no local part", b" @a.example", Syntax),
            ("no local part in angles", b" <@a.example>", Syntax),
            ("no local part behind a route", b" <@a.example:@a.example>", Syntax),
            ("no domain after the at sign", b" a@", Syntax),
            ("no domain in angles", b" <a@>", Syntax),
            ("closing angle alone", b" user@a.example>", Syntax),
            ("opening angle alone", b" John <user@a.example", Syntax),
            ("double angles", b" <<user@a.example>>", Syntax),
            ("double closing angle", b" <user@a.example>>", Syntax),
            ("two angle addresses without a comma", b" <u@v.example> <u@a.example>", Syntax),
            ("two angle addresses without a space", b" <u@v.example><u@a.example>", Syntax),
            ("words after the angle address", b" <u@a.example> John", Syntax),
            ("address after the angle address", b" <u@a.example> u@v.example", Syntax),
            ("two addresses without a comma", b" u@v.example u@a.example", Syntax),
            ("words and an address", b" John Doe u@a.example", Syntax),
            ("quoted words and an address", b" \"John\" u@a.example", Syntax),
            ("space inside the local part", b" <john doe@a.example>", Syntax),
            ("space inside the domain", b" <john@a. example x>", Syntax),
            ("empty label", b" u@a..example", Syntax),
            ("leading dot", b" u@.a.example", Syntax),
            ("bad character in the domain", b" u@a!b.example", Syntax),
            ("apostrophe after the domain", b" u@a.example'", Syntax),
            ("Latin-1 in the domain", b" u@b\xfccher.example", Syntax),
            ("bad U-label", b" u@\xe2\x80\xae.example", Syntax),
            ("quotes never closed", b" \"John <u@a.example>", Syntax),
            ("escaped closing quote", b" \"John\\\" <u@a.example>", Syntax),
            ("comment never closed", b" u@a.example (John", Syntax),
            ("comment swallows the address", b" John (x <u@a.example>", Syntax),
            ("comment closed by an escape", b" u@a.example (x\\)", Syntax),
            ("comments nested too deep", nested.as_bytes(), Syntax),
            ("escape outside quotes before an at sign", b" u\\@v.example@a.example", Syntax),
            ("address as the name of a group", b" ceo@v.example: x@a.example;", Syntax),
            ("escaped comma", b" u@v.example\\,@a.example", Syntax),
            ("quoted domain", b" u@\"a.example\"", Syntax),
            ("route without an address", b" <@v.example,@a.example>", Syntax),
            ("route without angles", b" @v.example:u@a.example", Syntax),
            ("literal never closed", b" u@[192.0.2.1", Syntax),
            ("text after a literal", b" u@[192.0.2.1]v.example", Syntax),
            ("mailto in angles", b" <mailto:u@a.example>", Syntax),
            ("obsolete route through elsewhere", b" <@v.example,@x.example:u@a.example>", Disagreement),
            ("angle address in a quoted local part", b" \"<ceo@v.example>\"@a.example", Disagreement),
            ("the same in angles", b" <\"x<ceo@v.example>\"@a.example>", Disagreement),
            ("angle address in a comment", b" u@a.example (<ceo@v.example>)", Disagreement),
            ("comment that ends early for some", b" u@a.example (b (c) @v.example)", Disagreement),
            ("address in a quoted local part", b" \"ceo@v.example\"@a.example", Disagreement),
            ("the same with a space", b" <\"ceo@v.example \"@a.example>", Disagreement),
            ("the same with words", b" <\"Ceo ceo@v.example (x)\"@a.example>", Disagreement),
            ("the same escaped", b" \"ceo\\@v.example\"@a.example", Disagreement),
            ("the same with a U-label", " \"ceo@b\u{fc}.example\"@a.example".as_bytes(), Disagreement),
            ("address in a comment of the local part", b" u(ceo@v.example)@a.example", Disagreement),
            ("right-to-left override in the local part", " <\u{202e}x@a.example>".as_bytes(), Disagreement),
            ("isolate in the local part", " x\u{2067}y@a.example".as_bytes(), Disagreement),
            ("a comment behind an address that comes first", b" ceo@v.example(Boss) <x@a.example>", Disagreement),
            ("a comment before one", b" (Boss) ceo@v.example <x@a.example>", Disagreement),
            ("empty quotes behind one", b" ceo@v.example \"\" <x@a.example>", Disagreement),
            ("one with quotes", b" \"ceo\" @v.example <x@a.example>", Disagreement),
            ("encoded NUL behind an address", b" =?utf-8?Q?ceo=40v.example=00?= <x@a.example>", Disagreement),
            ("encoded NUL in base64", b" =?utf-8?b?Y2VvAA==?= <x@a.example>", Disagreement),
            ("encoded NUL in quotes", b" \"=?utf-8?Q?ceo=00?=\" <x@a.example>", Disagreement),
            ("right-to-left override in the domain", " x@\u{202e}a.example".as_bytes(), Syntax),
            ("encoded word as local part", b" =?utf-8?q?ceo=40v.example=00?=@a.example", Disagreement),
            ("the same in angles", b" <=?utf-8?b?Y2VvQHYuZXhhbXBsZQ==?=@a.example>", Disagreement),
            ("encoded word as the first of two", b" =?utf-8?b?PGNlb0B2Pg==?=, <x@a.example>", Disagreement),
            ("encoded word as the last of two", b" <x@a.example>, =?utf-8?b?PGNlb0B2Pg==?=", Disagreement),
            ("the same in Q", b" =?utf-8?Q?x?= =?utf-8?q?ceo=40v.example?=, <x@a.example>", Disagreement),
            ("the same in UTF-7", b" =?utf-7?q?ceo+AEA-v.example?=, <x@a.example>", Disagreement),
            ("encoded word of no known encoding", b" =?utf-8?x?ceo?=, <x@a.example>", Disagreement),
            ("encoded word with broken base64", b" =?utf-8?b?Y?=, <x@a.example>", Disagreement),
            ("encoded word with broken escapes", b" =?utf-8?q?ceo=4?=, <x@a.example>", Disagreement),
            ("encoded word after an address", b" =?utf-8?b?Y2VvQHYu?=@v.example, u@a.example", Disagreement),
            ("angle in a comment in angles", b" <u@a.example (<ceo@v.example)>", Disagreement),
        ];
        for (name, value, expected) in cases {
            assert_eq!(read_from(value), Author::Unusable(expected), "{name}");
        }
    }

    #[test]
    fn there_is_exactly_one_from() {
        let cases: [(&str, &str, Author); 26] = [
            ("one", "From: a@x.example\r\n\r\n", usable(&["x.example"], false)),
            ("upper case", "FROM: a@x.example\r\n\r\n", usable(&["x.example"], false)),
            ("space before the colon", "From : a@x.example\r\n\r\n", usable(&["x.example"], false)),
            ("no other of similar name", "From: a@x.example\r\nX-From: b@y\r\n\r\n", usable(&["x.example"], false)),
            ("Sender counts for nothing", "Sender: a@x.example\r\n\r\n", Author::Unusable(Missing)),
            ("Resent-From counts for nothing", "Resent-From: a@x.example\r\n\r\n", Author::Unusable(Missing)),
            (
                "spaced beside a Sender",
                "From : a@x.example\r\nSender: b@y.example\r\n\r\n",
                Author::Unusable(Disagreement),
            ),
            (
                "spaced beside a Resent-From",
                "Resent-From: b@y.example\r\nFrom\t: a@x.example\r\n\r\n",
                Author::Unusable(Disagreement),
            ),
            (
                "bare CR beside a spaced Sender",
                "From\r: a@x.example\r\nSender : b@y.example\r\n\r\n",
                Author::Unusable(Disagreement),
            ),
            (
                "plain beside a Sender",
                "From: a@x.example\r\nSender: b@y.example\r\nResent-From: c@z.example\r\n\r\n",
                usable(&["x.example"], false),
            ),
            ("no-break space", "From\u{a0}: a@x.example\r\nFrom: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("NUL alone", "Fr\0om: a@x.example\r\n\r\n", Author::Unusable(MalformedHeader)),
            (
                "in a part of the body alone",
                "Content-Type: message/rfc822\r\n\r\nFrom: a@x.example\r\n\r\nhello\r\n",
                Author::Unusable(Missing),
            ),
            ("in the body", "To: t\r\n\r\nFrom: a@x.example\r\n", Author::Unusable(Missing)),
            ("nothing", "", Author::Unusable(Missing)),
            ("two", "From: a@x.example\r\nFrom: a@x.example\r\n\r\n", Author::Unusable(Repeated)),
            ("spaced", "From: a@x.example\r\nFrom : b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("spaced first", "From : a@x.example\r\nFROM: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("tabbed", "From\t: a@x.example\r\nfrom: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("bare CR", "From\r: a@x.example\r\nfrom: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("NUL", "From\0: a@x.example\r\nFrom: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("BOM", "\u{feff}From: a@x.example\r\nFrom: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("folded name", "From\r\n : a@x.example\r\nFrom: b@y.example\r\n\r\n", Author::Unusable(Repeated)),
            ("folded name alone", "From\r\n : a@x.example\r\n\r\n", Author::Unusable(MalformedHeader)),
            ("first line continues", " From: a@x.example\r\nTo: t\r\n\r\n", Author::Unusable(MalformedHeader)),
            ("a malformed line", "From: a@x.example\r\nhello\r\n\r\n", Author::Unusable(MalformedHeader)),
        ];
        for (name, text, expected) in cases {
            assert_eq!(read(text), expected, "{name}");
        }
    }

    #[test]
    fn domains_are_bounded() {
        let list = |n: usize| (0..n).map(|i| format!("a@d{i}.example")).collect::<Vec<_>>().join(", ");
        assert!(matches!(read_from(list(10)), Author::Usable { domains, .. } if domains.len() == 10));
        assert_eq!(read_from(list(11)), Author::Unusable(TooManyDomains));
        assert_eq!(read_from("a@x.example,".repeat(80)), usable(&["x.example"], false));
    }

    #[test]
    fn what_a_mail_server_would_cut_or_break_is_unusable() {
        // "From:", the value, CRLF: the longest line there may be, and the longest field.
        let padded = |length: usize| format!(" \"{}\" <a@x.example>", "n".repeat(length - " \"\" <a@x.example>".len()));
        let folded = |length: usize| {
            let line = "\r\n (comment)";
            let rest = length - "From:\r\n".len();
            let lines = (rest - 100) / line.len();
            let last = "\r\n a@x.example";
            let spaces = rest - lines * line.len() - last.len();
            [line.repeat(lines), " ".repeat(spaces), last.to_owned()].concat()
        };
        let cases = [
            ("the longest line", padded(MAX_LINE - "From:".len()), usable(&["x.example"], false)),
            ("one octet more", padded(MAX_LINE + 1 - "From:".len()), Author::Unusable(TooLong)),
            ("a long line further down", format!("\r\n{}", padded(MAX_LINE + 1)), Author::Unusable(TooLong)),
            ("the longest field", folded(MAX_FROM), usable(&["x.example"], false)),
            ("one octet more than that", folded(MAX_FROM + 1), Author::Unusable(TooLong)),
            (
                "another author where it is cut",
                format!(" ceo@v.example{} <x@a.example>", format!("\r\n ({})", "a".repeat(900)).repeat(115)),
                Author::Unusable(TooLong),
            ),
        ];
        for (name, value, expected) in cases {
            assert_eq!(read_from(value), expected, "{name}");
        }
    }

    #[test]
    fn huge_values_take_one_pass() {
        let half = 500_000;
        let cases: [(&str, Vec<u8>); 9] = [
            ("local part", b"a".repeat(half)),
            ("U-label", [b"a@".as_slice(), "\u{fc}".repeat(half / 2).as_bytes()].concat()),
            ("labels", [b"a@".as_slice(), &b"a.".repeat(half)].concat()),
            ("at signs", b"a@".repeat(half)),
            ("at signs in quotes", [b"\"".as_slice(), &b"@a.b".repeat(half / 4), b"\"@x.example"].concat()),
            ("angles", b"<a@b>".repeat(half / 5)),
            ("routes", [b"<".as_slice(), &b"@a.example,".repeat(half / 11), b":x@b.example>"].concat()),
            ("encoded words", b"=?utf-8?q?x?= ".repeat(half / 14)),
            ("comments", b"()".repeat(half)),
        ];
        for (name, value) in cases {
            assert_eq!(read_from(&value), Author::Unusable(TooLong), "{name}");
            // Nor do the readers need that bound.
            assert!(read_value(&value).is_err(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(value in proptest::collection::vec(proptest::sample::select(
            b"a.b@<>()\"\\,;:[] \t\r\n=?qB4\0\xc3\xa4".to_vec()), 0..40)) {
            read_from(value);
        }
    }
}
