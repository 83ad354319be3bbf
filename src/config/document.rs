//! Reads a TOML document key by key and gathers everything that is wrong with it.
//!
//! Each key is named once, with its default, where it is read; from that come the values, the problems with their
//! lines, the keys that are known (an unknown one is refused with a suggestion), and the effective configuration. A
//! derived deserializer would stop at the first problem and knows no ranges.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::problem::{Problem, suggestion};
use crate::config::value::Setting;

/// A parsed file.
pub struct Document<'a> {
    text: &'a str,
    root: DeTable<'a>,
    found: Findings,
}

/// What comes out of reading besides the values.
#[derive(Default)]
pub struct Findings {
    problems: RefCell<Vec<(usize, Problem)>>,
    unknown: RefCell<Vec<(usize, String)>>,
    lines: RefCell<Vec<Line>>,
    /// Where a key's value begins: by path and which of several tables around it.
    places: RefCell<BTreeMap<(String, usize), usize>>,
}

/// One key of the effective configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The table: `policy`, `listener`, `listener.policy`, or empty for the top.
    pub table: &'static str,
    /// Which of several tables `[[...]]` the outermost one around the key is, from 0.
    pub outer: usize,
    /// Which of several tables of that name inside the outermost, from 0.
    pub instance: usize,
    /// The key within it.
    pub key: &'static str,
    /// The value as TOML; none if there is none and no default.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The file.
    File,
    /// The table of that name, which holds for all that say nothing else.
    General(&'static str),
}

/// One table of the document, or the absence of it.
pub struct Section<'a> {
    text: &'a str,
    found: &'a Findings,
    name: &'static str,
    outer: usize,
    instance: usize,
    /// Where its first line is; none if it isn't in the file.
    place: Option<usize>,
    table: Option<&'a DeTable<'a>>,
    /// The table whose values hold for keys that aren't set here; none: the built-in defaults do.
    general: Option<&'static str>,
    asked: Vec<&'static str>,
}

impl<'a> Document<'a> {
    /// Parses the text.
    ///
    /// # Errors
    ///
    /// What isn't TOML, in the order of the text.
    pub fn parse(text: &'a str) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { text, root: root.into_inner(), found: Findings::default() });
        }
        // What follows the first few is mostly their consequence.
        let problems = errors.iter().take(MAX_SYNTAX_PROBLEMS).map(|error| {
            // Without the key it could be any of a line, and the parser does not say it. Of a table, it is the last
            // part.
            let key = error.span().filter(|_| error.message() == "duplicate key").and_then(|span| text.get(span));
            Problem {
                line: error.span().map(|span| line_of(text, span.start)),
                key: String::new(),
                message: format!(
                    "not valid TOML: {}{}",
                    error.message(),
                    key.map(|k| format!(" {k}")).unwrap_or_default()
                ),
            }
        });
        Err(problems.collect())
    }

    /// Parses what can be parsed of the text.
    pub fn whatever(text: &'a str) -> Self {
        let (root, _) = DeTable::parse_recoverable(text);
        Self { text, root: root.into_inner(), found: Findings::default() }
    }

    /// Reads the keys at the top, above all tables. `tables` are the tables that may follow.
    pub fn top<T>(&'a self, tables: &[&'static str], read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let mut section = self.section("", 0, Some(0), Some(&self.root));
        section.asked.extend(tables);
        section.read(read)
    }

    /// Reads the table `name`, there or not.
    pub fn table<T>(&'a self, name: &'static str, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        self.section("", 0, Some(0), Some(&self.root)).table(name, name, None, read)
    }

    /// Reads each of the tables `[[name]]`.
    pub fn tables<T>(&'a self, name: &'static str, read: impl Fn(&mut Section<'a>) -> T) -> Vec<T> {
        let Some(value) = self.root.get(name) else { return Vec::new() };
        let tables = value.get_ref().as_array().into_iter().flat_map(|array| array.iter());
        let tables: Vec<_> = tables.filter_map(|item| Some((item.span().start, item.get_ref().as_table()?))).collect();
        if tables.is_empty() {
            self.found.problem(value.span().start, name, &format!("expected tables [[{name}]]"));
        }
        let each = tables.into_iter().enumerate();
        each.map(|(i, (place, table))| self.section(name, i, Some(place), Some(table)).read(&read)).collect()
    }

    /// Reads a table that isn't in the file, one of several by that name: for its defaults.
    pub fn absent<T>(&'a self, name: &'static str, instance: usize, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        self.section(name, instance, None, None).read(read)
    }

    /// Adds a problem of how several keys relate to each other; `key` is the full path of one of them.
    pub fn problem(&self, key: &str, message: &str) {
        self.problem_in(0, key, message);
    }

    /// As [`problem`](Self::problem), with a key inside one of several tables `[[...]]`, counted from 0.
    pub fn problem_in(&self, outer: usize, key: &str, message: &str) {
        let place = self.found.places.borrow().get(&(key.to_owned(), outer)).copied();
        self.found.problem(place.unwrap_or(NOWHERE), key, message);
    }

    /// The line of each key that was read, by its path; of several tables `[[...]]`, the first one's.
    pub fn places(&self) -> BTreeMap<String, usize> {
        let places = self.found.places.borrow();
        let first = places.iter().filter(|((_, outer), _)| *outer == 0);
        first.map(|((key, _), place)| (key.clone(), line_of(self.text, *place))).collect()
    }

    /// The effective configuration, its tables in the order `tables`, and everything that is wrong, in the order of the
    /// file.
    pub fn finish(self, tables: &[&str]) -> (Vec<Line>, Vec<Problem>) {
        let mut lines = self.found.lines.into_inner();
        // Keys at the top are in no table, and come first; what is inside a table stays in the order of reading.
        lines.sort_by_key(|line| tables.iter().position(|table| *table == outermost(line.table)));
        let mut problems = self.found.problems.into_inner();
        for (place, key) in self.found.unknown.into_inner() {
            problems.push((place, Problem { line: None, message: unknown_key(&key, &lines), key }));
        }
        problems.sort_by_key(|(place, _)| *place);
        let problems = problems
            .into_iter()
            .map(|(place, problem)| Problem { line: (place != NOWHERE).then(|| line_of(self.text, place)), ..problem });
        (lines, problems.collect())
    }

    fn section(
        &'a self,
        name: &'static str,
        instance: usize,
        place: Option<usize>,
        table: Option<&'a DeTable<'a>>,
    ) -> Section<'a> {
        let (text, found, outer) = (self.text, &self.found, instance);
        Section { text, found, name, outer, instance, place, table, general: None, asked: Vec::new() }
    }
}

impl<'a> Section<'a> {
    /// The value of `key`, or the default.
    pub fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        let value = self.value(key);
        self.note(key, Some(value.as_ref().unwrap_or(&default)), value.is_some());
        value.unwrap_or(default)
    }

    /// As [`get`](Self::get), with the value of the table `general` for the default.
    pub fn inherit<T: Setting>(&mut self, key: &'static str, general: &'static str, default: T) -> T {
        let before = self.general.replace(general);
        let value = self.get(key, default);
        self.general = before;
        value
    }

    /// As [`get`](Self::get), for a value that has to lie in a range.
    pub fn within<T: Setting + PartialOrd>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T {
        let value = self.get(key, default);
        if !range.contains(&value) {
            let (least, most) = (range.start().show(), range.end().show());
            self.problem(key, &format!("{} is out of range; expected {least} to {most}", value.show()));
        }
        value
    }

    /// The value of `key`, if it is there.
    pub fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.value(key);
        self.note(key, value.as_ref(), value.is_some());
        value
    }

    /// The value of `key`, which has no default; none, and a problem, without it.
    pub fn required<T: Setting>(&mut self, key: &'static str, example: &str) -> Option<T> {
        if !self.is_set(key) {
            let path = self.path(key);
            let place = self.place.unwrap_or(NOWHERE);
            self.found.problem(place, &path, &format!("is missing; write for example: {key} = {example}"));
        }
        self.optional(key)
    }

    /// Reads the table `[this.key]`, whose full name is `name`, there or not. What isn't set in it holds as in the
    /// table `general`, if one is named.
    pub fn table<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        general: Option<&'static str>,
        read: impl FnOnce(&mut Section<'a>) -> T,
    ) -> T {
        self.asked.push(key);
        let value = self.entry(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            self.found.problem(value.span().start, name, &format!("expected a table [{name}]"));
        }
        let place = value.map(|value| value.span().start);
        Section { general, ..self.inner(name, 0, place, table) }.read(read)
    }

    /// Reads each of the tables `[[this.key]]`, whose full name is `name`.
    pub fn tables<T>(&mut self, key: &'static str, name: &'static str, read: impl Fn(&mut Section<'a>) -> T) -> Vec<T> {
        self.asked.push(key);
        let Some(value) = self.entry(key) else { return Vec::new() };
        let items = value.get_ref().as_array().into_iter().flat_map(|array| array.iter());
        let tables: Vec<_> = items.filter_map(|item| Some((item.span().start, item.get_ref().as_table()?))).collect();
        if value.get_ref().as_array().is_none_or(|array| array.len() > tables.len()) {
            self.problem(key, &format!("expected tables [[{name}]]"));
        } else if tables.is_empty() {
            // That there are none is said, too: it may not be what holds without a word.
            self.line(key, Some("[]".to_owned()), Origin::File);
        }
        let each = tables.into_iter().enumerate();
        each.map(|(i, (place, table))| self.inner(name, i, Some(place), Some(table)).read(&read)).collect()
    }

    /// Adds a problem with the table as a whole.
    pub fn problem_of_all(&self, message: &str) {
        self.found.problem(self.place.unwrap_or(NOWHERE), self.name, message);
    }

    /// Adds a problem with the value of `key`.
    pub fn problem(&self, key: &'static str, message: &str) {
        let place = self.entry(key).map(|value| value.span().start).or(self.place);
        self.found.problem(place.unwrap_or(NOWHERE), &self.path(key), message);
    }

    /// The line in which the table begins, from 1; that of the end of the file if it isn't there.
    pub fn first_line(&self) -> usize {
        line_of(self.text, self.place.unwrap_or(NOWHERE))
    }

    /// Whether the file has the key.
    pub fn is_set(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// A table inside this one.
    fn inner(
        &self,
        name: &'static str,
        instance: usize,
        place: Option<usize>,
        table: Option<&'a DeTable<'a>>,
    ) -> Section<'a> {
        let (text, found, outer) = (self.text, self.found, self.outer);
        Section { text, found, name, outer, instance, place, table, general: None, asked: Vec::new() }
    }

    /// Reads by `read`, then notes which keys of the table nobody asked for.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let result = read(&mut self);
        for (key, _) in self.table.into_iter().flatten() {
            if !self.asked.iter().any(|asked| key.get_ref() == asked) {
                let path = join(self.name, key.get_ref());
                self.found.unknown.borrow_mut().push((key.span().start, path));
            }
        }
        result
    }

    fn value<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.asked.push(key);
        let value = self.entry(key)?;
        self.found.places.borrow_mut().insert((self.path(key), self.outer), value.span().start);
        match T::read(value) {
            Ok(value) => Some(value),
            Err(faults) => {
                for fault in faults {
                    let message =
                        format!("{} is not allowed; expected {}", excerpt(self.text, &fault.span), fault.expected);
                    self.found.problem(fault.span.start, &self.path(key), &message);
                }
                None
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn note<T: Setting>(&self, key: &'static str, value: Option<&T>, in_file: bool) {
        let origin = match self.general {
            _ if in_file => Origin::File,
            Some(general) => Origin::General(general),
            None => Origin::Default,
        };
        self.line(key, value.map(T::show), origin);
    }

    fn line(&self, key: &'static str, value: Option<String>, origin: Origin) {
        let (table, outer, instance) = (self.name, self.outer, self.instance);
        self.found.lines.borrow_mut().push(Line { table, outer, instance, key, value, origin });
    }

    fn path(&self, key: &str) -> String {
        join(self.name, key)
    }
}

impl Findings {
    fn problem(&self, place: usize, key: &str, message: &str) {
        let problem = Problem { line: None, key: key.to_owned(), message: message.to_owned() };
        self.problems.borrow_mut().push((place, problem));
    }
}

impl Line {
    /// The key's path: `policy.mode`.
    pub fn path(&self) -> String {
        join(self.table, self.key)
    }
}

/// Says that a key is unknown, and which known one may have been meant: one like it in the same table, else the same
/// key in another table.
fn unknown_key(path: &str, lines: &[Line]) -> String {
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    let beside = lines.iter().filter(|line| line.table == table).map(|line| line.key);
    let tables = lines.iter().map(|line| outermost(line.table)).filter(|name| table.is_empty() && !name.is_empty());
    let near = suggestion(key, beside.chain(tables)).map(|key| join(table, key));
    let depth = |line: &&Line| line.table.matches('.').count();
    let elsewhere = || lines.iter().filter(|line| line.key == key).min_by_key(depth).map(Line::path);
    match near.or_else(elsewhere) {
        Some(known) => format!("unknown key; did you mean {known}?"),
        None => format!("unknown key{}", possible(table, lines)),
    }
}

/// What the table of that name may have in it, or the top of the file.
fn possible(table: &str, lines: &[Line]) -> String {
    let keys = lines.iter().filter(|line| line.table == table).map(|line| line.key);
    let tables = lines.iter().map(|line| outermost(line.table)).filter(|name| table.is_empty() && !name.is_empty());
    let mut words: Vec<_> = keys.map(str::to_owned).chain(tables.map(|name| format!("[{name}]"))).collect();
    words.sort_unstable();
    words.dedup();
    if words.is_empty() { String::new() } else { format!("; expected one of {}", words.join(", ")) }
}

/// The outermost table that a table is, or is in.
fn outermost(table: &str) -> &str {
    table.split('.').next().unwrap_or(table)
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// The text of a value, on one line, not too long and without a password.
fn excerpt(text: &str, span: &Range<usize>) -> String {
    let value = without_password(text.get(span.clone()).unwrap_or_default());
    let cut = value.floor_char_boundary(MAX_EXCERPT);
    let mark = if cut < value.len() { "..." } else { "" };
    let shown: String =
        value.get(..cut).unwrap_or_default().chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    shown + mark
}

/// A URL that is wrong may still have the right password in it; too much is hidden rather than too little.
fn without_password(value: &str) -> String {
    let value = value.split_once("password=").map_or(value.into(), |(before, _)| format!("{before}password=***\""));
    let parts = value.split_once("://").and_then(|(scheme, rest)| {
        let (login, host) = rest.rsplit_once('@')?;
        Some((scheme, login.split_once(':')?.0, host))
    });
    parts.map(|(scheme, user, host)| format!("{scheme}://{user}:***@{host}")).unwrap_or(value)
}

fn line_of(text: &str, place: usize) -> usize {
    text.as_bytes().iter().take(place).filter(|byte| **byte == b'\n').count() + 1
}

/// The place of what is missing: after everything else.
const NOWHERE: usize = usize::MAX;
/// Octets of a value that are repeated in a message.
const MAX_EXCERPT: usize = 60;
/// Problems named in a file that isn't TOML.
const MAX_SYNTAX_PROBLEMS: usize = 5;
