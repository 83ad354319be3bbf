//! The architecture as a table: which module may use which, and which are pure.

use crate::source;

/// The modules in the order in which data flows: each may use those above it, never those below.
pub const ORDER: [&str; 38] = [
    "calendar",
    "clock",
    "domain",
    "hex",
    "label",
    "secret",
    "throttle",
    "causes",
    "panics",
    "personal",
    "metrics",
    "readiness",
    "process",
    "smtp",
    "tls",
    "envelope",
    "message",
    "dns",
    "spf",
    "dmarc",
    "evaluation",
    "policy",
    "action",
    "record",
    "forwarders",
    "store",
    "upstream",
    "report",
    "suffix_list",
    "verdict",
    "explain",
    "session",
    "listener",
    "admin",
    "config",
    "app",
    "logging",
    "cli",
];

/// The wire knows nothing of mail: these are all that `smtp` may use.
const SMTP_MAY_USE: [&str; 4] = ["domain", "label", "secret", "smtp"];

/// Modules that are functions over values; with `::`, one file of a module.
const PURE: [&str; 28] = [
    "calendar",
    "domain",
    "message::mime",
    "message::trace",
    "spf::record",
    "spf::macros",
    "dmarc",
    "policy",
    "action",
    "record",
    "forwarders",
    "report::aggregate",
    "report::bounce",
    "report::failure",
    "report::inbound::feedback",
    "report::inbound::mime",
    "report::inbound::unpack",
    "report::mailbox",
    "report::schedule",
    "session::pace",
    "session::patience",
    "session::refusal",
    "session::state",
    "admin::status::page",
    "admin::status::plot",
    "cli::init::configuration",
    "cli::init::found",
    "cli::init::mta",
];

/// How the description of a pure module (its `//!` lines) says so: a sentence of its own.
const PURE_SENTENCE: &str = "Pure.";

/// What a pure module has no word for.
const IMPURE_WORDS: [&str; 7] = ["async", "await", "tokio", "Instant", "SystemTime", "tracing", "metrics"];

#[test]
fn modules_use_only_what_stands_above_them() {
    let mut violations = Vec::new();
    for (path, module, code) in modules() {
        violations.extend(misuses(&module, &code).into_iter().map(|misuse| format!("src/{path}: {misuse}")));
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn pure_modules_have_no_clock_no_runtime_no_log() {
    let mut violations = Vec::new();
    for (path, module, code) in modules() {
        violations.extend(impurities(&module, &code).into_iter().map(|word| format!("src/{path}: {word}")));
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn pure_modules_say_so_and_those_that_say_so_are_pure() {
    let described = source::sources().into_iter().map(|(path, text)| {
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        (module_of(&path).join("::"), lines.flat_map(str::split_whitespace).any(|word| word == PURE_SENTENCE))
    });
    let mut said: Vec<_> = described.filter_map(|(module, is_said)| is_said.then_some(module)).collect();
    let mut listed = PURE.map(str::to_owned).to_vec();
    said.sort();
    listed.sort();
    assert_eq!(said, listed, "modules whose //! says \"{PURE_SENTENCE}\", and those of PURE");
}

#[test]
fn lib_rs_lists_the_modules_in_their_order() {
    let code = source::code(&source::read("src/lib.rs"));
    let words: Vec<_> = source::words(&code).collect();
    let declared: Vec<_> = words.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1]).collect();
    let known: Vec<_> = ORDER.into_iter().filter(|module| declared.contains(module)).collect();
    assert_eq!(declared, known);
}

#[test]
fn a_breach_is_found_in_every_spelling() {
    let cases: &[(&str, &str, usize)] = &[
        ("dns", "use crate::domain::Domain; use crate::{label::Label, metrics};", 0),
        ("dns", "use crate::session::Session;", 1),
        ("dns", "use crate::{domain, session::Session, app};", 2),
        ("dns", "fn f() { crate::policy::decide() }", 1),
        ("dns::cache", "use super::Lookup; use super::super::policy;", 1),
        ("dns", "use super::policy::Decision;", 1),
        ("smtp::reply", "use crate::domain::Domain; use super::command::Verb;", 0),
        ("smtp::reply", "use crate::metrics::Registry;", 1),
        ("dns", "crate::label_enum! { enum A { B = } }", 0),
        ("novelty", "", 1),
    ];
    for (module, code, expected) in cases {
        assert_eq!(misuses(&path(module), code).len(), *expected, "{module}: {code}");
    }
    assert_eq!(impurities(&path("policy::bypass"), "async fn f() { x.await }"), ["async", "await"]);
    assert_eq!(impurities(&path("spf::macros"), "use std::time::Instant;"), ["Instant"]);
    assert_eq!(impurities(&path("spf::evaluate"), "use std::time::Instant;"), [""; 0]);
}

/// File, module path and code of every module that is compiled outside tests.
fn modules() -> Vec<(String, Vec<String>, String)> {
    let sources = source::sources();
    let mut only_in_tests = Vec::new();
    for (path, text) in &sources {
        // `dns/mod.rs` has its modules in `dns/`, and so has `dns.rs`.
        let module = path.strip_suffix(".rs").unwrap_or(path);
        let directory = module.strip_suffix("/mod").unwrap_or(module);
        only_in_tests.extend(source::test_modules(text).iter().map(|name| format!("{directory}/{name}.rs")));
    }
    let compiled = sources.into_iter().filter(|(path, _)| !only_in_tests.contains(path));
    let roots = ["lib.rs", "main.rs"];
    let inside = compiled.filter(|(path, _)| !roots.contains(&path.as_str()));
    inside.map(|(path, text)| (path.clone(), module_of(&path), source::code(&text))).collect()
}

/// `dns/mod.rs` is `dns`, `dns/cache.rs` is `dns::cache`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").expect("a Rust source");
    self::path(&path.strip_suffix("/mod").unwrap_or(path).replace('/', "::"))
}

fn path(module: &str) -> Vec<String> {
    module.split("::").map(str::to_owned).collect()
}

/// What a module uses although it may not.
fn misuses(module: &[String], code: &str) -> Vec<String> {
    let top = module[0].as_str();
    let Some(place) = ORDER.iter().position(|known| *known == top) else {
        return vec![format!("{top} has no place in the order")];
    };
    let allowed = |used: &str| match top {
        "smtp" => SMTP_MAY_USE.contains(&used),
        _ => ORDER[..=place].contains(&used),
    };
    let used = used_modules(module, code);
    used.into_iter().filter(|used| !allowed(used)).map(|used| format!("{top} uses {used}")).collect()
}

/// The modules at the crate's root that `code` names, by `crate::` or by enough `super::`.
fn used_modules(module: &[String], code: &str) -> Vec<String> {
    let ups = "super::".repeat(module.len());
    let mut used = Vec::new();
    for root in ["crate::", &ups] {
        for after in code.split(root).skip(1) {
            match after.strip_prefix('{') {
                Some(tree) => used.extend(heads(tree)),
                None => used.extend(source::words(after).next().map(str::to_owned)),
            }
        }
    }
    // An exported macro lives at the root, whatever file defines it.
    used.iter_mut().filter(|used| *used == "label_enum").for_each(|used| *used = "label".into());
    used
}

/// The first words of the branches of a use tree whose opening brace has been read.
fn heads(tree: &str) -> Vec<String> {
    let (mut depth, mut branch, mut heads) = (0, String::new(), Vec::new());
    for c in tree.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut branch)),
            _ if depth == 0 => branch.push(c),
            _ => {}
        }
    }
    heads.push(branch);
    heads.iter().filter_map(|branch| source::words(branch).next().map(str::to_owned)).collect()
}

/// The impure words of a module that has to be pure.
fn impurities<'a>(module: &[String], code: &'a str) -> Vec<&'a str> {
    let pure = PURE.iter().map(|pure| path(pure)).any(|pure| module.starts_with(&pure));
    source::words(code).filter(|word| pure && IMPURE_WORDS.contains(word)).collect()
}
