//! Every RFC that the code cites stands in the table of standards, and the table names none that it does not.

use std::collections::BTreeSet;

use crate::source;

#[test]
fn cited_standards_and_their_table_agree() {
    let cited: BTreeSet<u32> = source::sources().iter().flat_map(|(_, text)| numbers(text)).collect();
    let table: BTreeSet<u32> = numbers(&section(&source::read(STANDARDS), "## Standards")).into_iter().collect();
    let missing: Vec<_> = cited.difference(&table).collect();
    let idle: Vec<_> = table.difference(&cited).collect();
    assert!(missing.is_empty() && idle.is_empty(), "not in {STANDARDS}: {missing:?}; cited nowhere: {idle:?}");
}

#[test]
fn citations_are_read_in_the_form_of_the_house() {
    assert_eq!(numbers("RFC 5321 §4.1, RFC 9989 and (RFC 10000); RFCs, RFC x, RFC822"), [5321, 9989, 10_000]);
    assert_eq!(section("## A\none\n## B\ntwo\n### C\nthree\n## D\nfour\n", "## B"), "two\n### C\nthree");
}

/// Where the standards stand.
const STANDARDS: &str = "README.md";

/// The numbers of `RFC nnnn`, in order.
fn numbers(text: &str) -> Vec<u32> {
    let number = |after: &str| after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    text.split("RFC ").skip(1).filter_map(number).collect()
}

/// What stands under a heading of the second level.
pub fn section(text: &str, heading: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let lines: Vec<_> = lines.collect();
    assert!(!lines.is_empty(), "no section {heading:?}");
    lines.join("\n")
}
