//! Reads an Authentication-Results field as a reader of RFC 8601 §2.2 would, and a Received-SPF field as one of RFC
//! 7208 §9.1: comments are white space, quoted strings are one word, methods and pairs are parted by semicolons.

/// A field that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    /// The authserv-id.
    pub id: String,
    /// The results in their order; none for `none`.
    pub results: Vec<MethodResult>,
    /// What the comments say, in their order.
    pub comments: Vec<String>,
}

/// One result with its properties, `reason` among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodResult {
    /// `spf`, `dkim`, `arc`, `dmarc`.
    pub method: String,
    /// The result word.
    pub result: String,
    /// Names and values in their order.
    pub properties: Vec<(String, String)>,
}

impl Results {
    /// Reads the value of a field, folded as it came. Panics where RFC 8601 allows no such field.
    #[track_caller]
    pub fn read(value: &str) -> Self {
        let (words, comments) = words(value);
        let mut parts = words.split(|word| word == ";");
        let id = parts.next().expect("split yields one part at least");
        assert_eq!(id.len(), 1, "an authserv-id and nothing beside it: {value:?}");
        let parts: Vec<_> = parts.collect();
        let results = match parts.as_slice() {
            [only] if *only == ["none"] => Vec::new(),
            parts => parts.iter().map(|part| MethodResult::read(part)).collect(),
        };
        Self { id: id[0].clone(), results, comments }
    }

    /// All results of a method, as `result property=value ...` without reasons.
    pub fn of(&self, method: &str) -> Vec<String> {
        let of_method = self.results.iter().filter(|result| result.method == method);
        of_method
            .map(|result| {
                let shown = result.properties.iter().filter(|(name, _)| name != "reason");
                shown.fold(result.result.clone(), |text, (name, value)| format!("{text} {name}={value}"))
            })
            .collect()
    }

    /// The one result of a method; of SPF the one that counts, which stands before that of the EHLO name.
    #[track_caller]
    pub fn one(&self, method: &str) -> String {
        let mut all = self.of(method);
        if method == "spf" && all.len() == 2 && all[1].contains(" smtp.helo=") && !all[0].contains(" smtp.helo=") {
            all.truncate(1);
        }
        assert_eq!(all.len(), 1, "one {method} result: {self:#?}");
        all[0].clone()
    }

    /// The reason that a method's first result gives; empty if it gives none.
    pub fn reason(&self, method: &str) -> String {
        let of_method = self.results.iter().find(|result| result.method == method);
        let reason = of_method.and_then(|r| r.properties.iter().find(|(name, _)| name == "reason"));
        reason.map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

/// A Received-SPF field that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpf {
    /// The result word.
    pub result: String,
    /// What its comment says.
    pub comment: String,
    /// Keys and values in their order.
    pub pairs: Vec<(String, String)>,
}

impl ReceivedSpf {
    /// Reads the value of a field, folded as it came. Panics where RFC 7208 allows no such field.
    #[track_caller]
    pub fn read(value: &str) -> Self {
        let (words, comments) = words(value);
        let (result, rest) = words.split_first().expect("a result");
        assert_eq!(comments.len(), 1, "one comment: {value:?}");
        // A comment and white space stand between the result and the pairs.
        let lead = value.split_once('(').expect("a comment").0;
        assert!(lead.trim() == result && lead.ends_with([' ', '\t']), "{value:?}");
        let pairs = rest.split(|word| word == ";").map(|pair| {
            assert_eq!(pair.len(), 1, "a pair between semicolons: {value:?}");
            let (key, value) = pair[0].split_once('=').unwrap_or_else(|| panic!("{value:?}"));
            (key.to_owned(), value.to_owned())
        });
        Self { result: result.clone(), comment: comments.concat(), pairs: pairs.collect() }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl MethodResult {
    #[track_caller]
    fn read(words: &[String]) -> Self {
        let pair = |word: &String| {
            let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{word:?} is no pair"));
            (name.to_owned(), value.to_owned())
        };
        let (method, result) = pair(words.first().expect("a result between semicolons"));
        Self { method, result, properties: words[1..].iter().map(pair).collect() }
    }
}

/// Words, with `;` as words of their own, and comments.
#[track_caller]
fn words(value: &str) -> (Vec<String>, Vec<String>) {
    let (mut words, mut comments, mut word) = (Vec::new(), Vec::new(), String::new());
    let mut end = |word: &mut String| {
        if !word.is_empty() {
            words.push(std::mem::take(word));
        }
    };
    let mut characters = value.chars();
    let (mut quoted, mut depth, mut comment) = (false, 0, String::new());
    while let Some(c) = characters.next() {
        match c {
            '\r' | '\n' => {} // folding
            '\\' if quoted => word.push(characters.next().expect("a character behind a backslash")),
            '"' if depth == 0 => quoted = !quoted,
            _ if quoted => word.push(c),
            '(' => {
                end(&mut word);
                depth += 1;
            }
            ')' => {
                depth -= 1;
                comments.push(std::mem::take(&mut comment));
            }
            _ if depth > 0 => comment.push(c),
            ';' => {
                end(&mut word);
                end(&mut ";".to_owned());
            }
            ' ' | '\t' => end(&mut word),
            _ => word.push(c),
        }
    }
    end(&mut word);
    assert!(!quoted && depth == 0, "an open quote or comment: {value:?}");
    (words, comments)
}

/// What RFC 6008 §4 asks of `header.b`: which signatures are reported, and by how much of their `b=`. Given are, for
/// each, whether it passed and what is known of its `b=`.
pub fn told_apart<'a>(signatures: &[(bool, &'a str)]) -> Vec<(usize, &'a str)> {
    let is_first_of_its_kind = |at: usize| {
        let (passed, start) = signatures[at];
        let is_copy = |other: &&(bool, &str)| other.1 == start;
        let is_better_after = !passed && signatures[at..].iter().filter(is_copy).any(|(passed, _)| *passed);
        start.is_empty() || (!is_better_after && !signatures[..at].iter().filter(is_copy).any(|(p, _)| *p || !passed))
    };
    let reported: Vec<usize> = (0..signatures.len()).filter(|at| is_first_of_its_kind(*at)).collect();
    let told = |at: usize| {
        let start = signatures[at].1;
        let is_unique = |prefix: &&str| {
            reported.iter().all(|other| signatures[*other].1 == start || !signatures[*other].1.starts_with(*prefix))
        };
        (at, (8..=start.len()).filter_map(|length| start.get(..length)).find(is_unique).unwrap_or(start))
    };
    reported.iter().map(|at| told(*at)).collect()
}
