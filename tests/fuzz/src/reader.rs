//! A reader of From that is none of ours: what Thunderbird picks out (jsmime's `parseAddressingHeader`, 2026-11), quirks
//! and all. It takes brackets for one token, reads quotes in comments, and looks for encoded words from where one seems
//! to begin, not at it.

/// Whether it shows an address of [`STRANGER`] or of a domain below.
pub fn shows_stranger(value: &[u8]) -> bool {
    addresses(value).iter().filter_map(|address| address.rsplit_once('@')).any(|(_, domain)| {
        let domain = domain.trim_matches([' ', '\t', '.', '>']).to_ascii_lowercase();
        domain.strip_suffix(STRANGER).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// The domain that seeds have for the one that is to be shown.
pub const STRANGER: &str = "v.example";

enum Token {
    Special(char),
    Text(String),
}

fn addresses(value: &[u8]) -> Vec<String> {
    let value: Vec<char> = String::from_utf8_lossy(value).chars().collect();
    let mut found = Vec::new();
    let (mut local, mut address) = (String::new(), String::new());
    let (mut in_angle, mut in_comment, mut closed, mut after) = (false, false, false, false);
    let (mut space, mut kept) = (false, false);
    for token in tokens(&value) {
        let text = match token {
            Token::Special(':') => {
                local.clear();
                String::new()
            }
            Token::Special('<') if !after && in_angle => {
                local.clear();
                address.clear();
                String::new()
            }
            Token::Special('<') if !after => {
                in_angle = true;
                String::new()
            }
            Token::Special('>') if !after => {
                (in_angle, after) = (false, true);
                String::new()
            }
            Token::Special('(') => {
                (in_comment, closed, kept) = (true, false, space);
                String::new()
            }
            Token::Special(')') => {
                (in_comment, closed, space) = (false, true, !in_angle || kept);
                continue;
            }
            Token::Special('@') if after => continue,
            Token::Special('@') => {
                if !in_angle {
                    address = std::mem::take(&mut local);
                    in_angle = true;
                }
                address.push('@');
                String::new()
            }
            Token::Special(',' | ';') => {
                found.push(std::mem::take(&mut address));
                local.clear();
                (in_angle, in_comment, after) = (false, false, false);
                String::new()
            }
            Token::Special(other) => other.to_string(),
            Token::Text(text) => text,
        };
        if text.is_empty() {
            space = false;
            continue;
        }
        let joins = text.starts_with('.');
        let spaced = if space && !joins { format!(" {text}") } else { text.clone() };
        match (in_comment, in_angle) {
            (true, _) => {}
            (false, true) => address.push_str(&spaced),
            (false, false) if std::mem::take(&mut closed) => local.push_str(&text),
            (false, false) => local.push_str(&spaced),
        }
        space = !joins;
    }
    found.push(address);
    found
}

fn tokens(value: &[char]) -> Vec<Token> {
    let mut found = Vec::new();
    let (mut start, mut end_quote, mut depth, mut i) = (None, None, 0_usize, 0);
    let text = |slice: &[char]| Token::Text(unescaped(slice));
    while let Some(&c) = value.get(i) {
        i += 1;
        let at = i - 1;
        if c == '\\' {
            i += 1;
            continue;
        }
        if let Some(end) = end_quote {
            if c == end {
                let from = start.take().unwrap_or(at);
                let slice = if end == '"' { &value[from + 1..at] } else { &value[from..=at] };
                found.push(text(slice));
                end_quote = None;
            }
            continue;
        }
        if c == '='
            && value.get(i) == Some(&'?')
            && let Some(length) = encoded_words(&value[at..])
        {
            if let Some(from) = start.take() {
                found.push(text(&value[from..at]));
            }
            // What it decodes to is text, whatever that looks like.
            found.push(Token::Text("encoded".into()));
            i = at + length;
            continue;
        }
        let (ends, starts, special) = match c {
            ' ' | '\t' => (true, false, false),
            ':' | ',' | ';' | '<' | '>' | '@' if depth == 0 => (true, false, true),
            '"' | '[' => {
                end_quote = Some(if c == '"' { c } else { ']' });
                (true, true, false)
            }
            '(' => {
                depth += 1;
                (depth == 1, depth > 1, depth == 1)
            }
            ')' => {
                depth = depth.saturating_sub(1);
                (depth == 0, depth > 0, depth == 0)
            }
            _ => (false, true, false),
        };
        if ends && let Some(from) = start.take() {
            found.push(text(&value[from..at]));
        }
        if special {
            found.push(Token::Special(c));
        }
        if starts && start.is_none() {
            start = Some(at);
        }
    }
    if let Some(from) = start {
        let from = if end_quote == Some('"') { from + 1 } else { from };
        found.push(text(&value[from.min(value.len())..]));
    }
    found
}

/// How long the first run of encoded words is, wherever it begins.
fn encoded_words(value: &[char]) -> Option<usize> {
    let one = |from: usize| {
        let white = value[from..].iter().take_while(|c| matches!(c, ' ' | '\t')).count();
        let mut at = from + white;
        at += usize::from(value.get(at..at + 2)? == ['=', '?']) * 2;
        let question = |from: usize| Some(from + value.get(from..)?.iter().position(|c| *c == '?')?);
        (at > from + white).then_some(())?;
        let encoding = question(at)? + 1;
        let is_known = matches!(value.get(encoding..encoding + 2)?, ['b' | 'B' | 'q' | 'Q', '?']);
        let end = question(encoding + 2)? + 1;
        (is_known && value.get(end) == Some(&'=')).then_some(end + 1)
    };
    (0..value.len()).find_map(|from| {
        let first = one(from)?;
        Some(std::iter::successors(Some(first), |at| one(*at)).last()? - from)
    })
}

/// Without the backslashes that escape.
fn unescaped(text: &[char]) -> String {
    let mut escaped = false;
    let mut out = String::new();
    for c in text {
        escaped = *c == '\\' && !escaped;
        if !escaped {
            out.push(*c);
        }
    }
    out
}
