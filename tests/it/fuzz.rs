//! The corpora of the fuzz targets, run as plain tests on stable: what fuzzing has found once stays found.

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 19] = [
    ("arc", targets::arc),
    ("arc_results", targets::arc_results),
    ("authentication_results", targets::authentication_results),
    ("author", targets::author),
    ("bdat", targets::bdat),
    ("bounce", targets::bounce),
    ("command", targets::command),
    ("config", targets::config),
    ("data", targets::data),
    ("dkim_key", targets::dkim_key),
    ("dkim_signature", targets::dkim_signature),
    ("dmarc_record", targets::dmarc_record),
    ("header", targets::header),
    ("inbound", targets::inbound),
    ("proxy", targets::proxy),
    ("reply", targets::reply),
    ("session", targets::session),
    ("spf", targets::spf),
    ("suffix_list", targets::suffix_list),
];

#[test]
fn corpora_of_the_fuzz_targets_hold() {
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!((1..=MAX_FILES).contains(&corpus.len()), "{name}: {} files", corpus.len());
        let octets: usize = corpus.iter().map(|(_, input)| input.len()).sum();
        assert!(octets <= MAX_OCTETS, "{name}: {octets} octets");
        for (path, input) in corpus {
            if std::panic::catch_unwind(|| target(&input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "targets do not hold of {broken:#?}");
}

#[test]
fn no_reader_is_shown_a_stranger_in_the_place_of_the_author() {
    // It can be misled, which the target says that a usable field never does.
    for misleading in [
        r#"Boss (a "(" ) <ceo@v.example> ) <x@a.example>"#,
        "Boss [ (] <ceo@v.example> ) <x@a.example>",
        "Boss =? <x@a.example> (<ceo@v.example> <x@a.example> =?utf-8?q?xxxxx?=)",
    ] {
        assert!(targets::shows_stranger(misleading.as_bytes()), "{misleading}");
    }
    const PIECES: [&str; 32] = [
        "ceo@v.example",
        "<ceo@v.example>",
        "x@a.example",
        "<x@a.example>",
        "<x@a.example>",
        " <x@a.example>",
        "Boss",
        " ",
        " ",
        "(",
        ")",
        "(c)",
        "\"",
        "\"",
        "[",
        "]",
        "[(]",
        "\"(\"",
        "\\",
        "\\\"",
        ",",
        ";",
        ":",
        ".",
        "@",
        "=?",
        "?=",
        "=?utf-8?q?x?=",
        "=?utf-8?q?\"?=",
        "=?utf-8?q?ceo=40v.example?=",
        "(<",
        ">)",
    ];
    // Numerical Recipes' generator: the same fields each time.
    let mut state = 1_u32;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % bound
    };
    for _ in 0..60_000 {
        let pieces = below(8) + 1;
        let mut field: String = (0..pieces).map(|_| PIECES[below(PIECES.len())]).collect();
        if below(2) == 0 {
            field.push_str(" <x@a.example>");
        }
        targets::author(field.as_bytes());
    }
}

#[test]
fn each_fuzz_target_is_built_and_has_a_corpus() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(entries("fuzz_targets"), names.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>());
    assert_eq!(entries("corpus"), names);
    let manifest = crate::source::read("tests/fuzz/Cargo.toml");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

/// The files of a corpus, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let path = format!("{}/corpus/{target}/{name}", directory());
        let input = std::fs::read(&path).expect("a readable file");
        (path, input)
    };
    entries(&format!("corpus/{target}")).into_iter().map(read).collect()
}

/// What is in a directory of the fuzz package, sorted.
fn entries(of: &str) -> Vec<String> {
    let found = std::fs::read_dir(Path::new(directory()).join(of)).expect("a readable directory");
    let mut names: Vec<String> =
        found.map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn directory() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz")
}

/// Files of a corpus: enough to reach each branch, few enough to be read.
const MAX_FILES: usize = 40;
/// Octets of a corpus.
const MAX_OCTETS: usize = 64 * 1024;
