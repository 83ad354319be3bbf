//! What is written about metrics and limits: the tables of the pages, the dashboards and the rules agree with each other,
//! with a scrape and with the defaults.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use dmarcgate::cli::Cli;
use dmarcgate::config::reload::is_taken;
use dmarcgate::config::{Config, Line, REFERENCE};

use crate::citations::section;
use crate::layers::ORDER;
use crate::source;
use crate::support::gate::Scrape;

#[test]
fn dashboards_and_rules_know_only_documented_metrics_and_panels_show_all_of_them() {
    let documented = documented_metrics();
    let mut shown = BTreeSet::new();
    for path in DASHBOARDS.into_iter().chain(RULES) {
        let used: BTreeSet<_> = metric_words(&source::read(path)).iter().map(|name| base(name)).collect();
        assert!(!used.is_empty(), "{path} queries nothing");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path} has metrics that {METRICS} lacks: {unknown:?}");
        shown.extend(if path.ends_with(".json") { used } else { BTreeSet::new() });
    }
    let unseen: Vec<_> = documented.difference(&shown).filter(|name| !UNSEEN.contains(&name.as_str())).collect();
    assert!(unseen.is_empty(), "on no dashboard: {unseen:?}");
}

#[test]
fn panels_say_what_they_show_and_alerts_what_to_do() {
    let mut identifiers = BTreeSet::new();
    for path in DASHBOARDS {
        let dashboard: serde_json::Value = serde_json::from_str(&source::read(path)).unwrap();
        assert!(identifiers.insert(dashboard["uid"].as_str().expect("a uid").to_owned()), "{path} shares its uid");
        let panels = dashboard["panels"].as_array().expect("panels");
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            let title = panel["title"].as_str().expect("a title");
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{path}: {title} has no unit");
            let targets = panel["targets"].as_array().expect("targets");
            assert!(targets.iter().all(|target| target["legendFormat"].is_string()), "{path}: {title}");
        }
    }
    let alerts = source::read("grafana/alerts.yml");
    let fired = source::read("tests/prometheus/alerts_test.yml");
    let mut names = BTreeSet::new();
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.split_whitespace().next().expect("a name");
        for line in ["severity:", "summary:", "description:", "runbook:"] {
            assert!(alert.contains(line), "{name} has no {line}");
        }
        assert!(fired.contains(&format!("alertname=\"{name}\"")), "{name} is fired by no test");
        names.insert(name.to_owned());
    }
    let tested: BTreeSet<_> = fired.split("- name: ").skip(1).filter_map(|test| test.lines().next()).collect();
    assert_eq!(tested, names.iter().map(String::as_str).collect(), "tests and alerts");
}

#[test]
fn the_table_of_limits_has_every_bound_with_its_default() {
    let loaded = Config::parse("hostname = \"a.example\"\nupstream.servers = [\"127.0.0.1:10025\"]\n").unwrap();
    let default = |key: &str| loaded.lines.iter().find(|line| line.path() == key)?.value.clone();
    let documented = limits();
    for (key, shown) in &documented {
        let Some(default) = default(key) else { panic!("README has a limit {key} that is no key") };
        assert_eq!(*shown, format!("`{}`", default.trim_matches('"')), "README's default of {key}");
    }
    let keys = loaded.lines.iter().filter(|line| ["limits", "timeouts"].contains(&line.table)).map(Line::path);
    let missing: Vec<_> = keys.filter(|key| !documented.iter().any(|(found, _)| found == key)).collect();
    assert!(missing.is_empty(), "not in README's table of limits: {missing:?}");
    let unknown: Vec<_> =
        limit_series().iter().map(|s| name(s)).filter(|n| !documented_metrics().contains(n)).collect();
    assert!(unknown.is_empty(), "limits have metrics that {METRICS} lacks: {unknown:?}");
}

#[test]
fn the_table_of_modules_has_all_of_them_in_their_order() {
    let modules = section(&source::read(ARCHITECTURE), "## Modules");
    let cells = modules.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let names = cells.flat_map(|(names, _)| names.split(", ")).filter_map(|name| name.strip_prefix('`'));
    let names: Vec<_> = names.map(|name| name.trim_end_matches('`')).collect();
    assert_eq!(names, ORDER);
}

#[test]
fn the_page_of_the_architecture_names_what_the_sources_have() {
    let sources: Vec<_> = source::sources().into_iter().map(|(path, text)| (path, source::code(&text))).collect();
    let page = source::read(ARCHITECTURE);
    let names: BTreeSet<_> = page.split('`').filter_map(declared_in).collect();
    let lost: Vec<_> = names.iter().filter(|(place, name)| !is_declared(place, name, &sources)).collect();
    assert!(names.len() > 50 && lost.is_empty(), "in no source: {lost:?}");
    let cases = [
        ("state", "step", true),
        ("Session", "next_line", true),
        ("Action", "Relay", true),
        ("state", "next_line", false),
        ("Session", "step", false),
        ("Action", "Lost", false),
    ];
    for (place, name, expected) in cases {
        assert_eq!(is_declared(place, name, &sources), expected, "{place}::{name}");
    }
}

/// Of a path in code, arguments aside: the module or type in which something is declared, and its name.
fn declared_in(path: &str) -> Option<(&str, &str)> {
    let path = path.split('(').next()?;
    let (before, name) = path.rsplit_once("::")?;
    let is_path = path.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
    is_path.then(|| (before.rsplit("::").next().unwrap_or(before), name))
}

/// Whether `name` is declared in a module `place` or handed on by it, in a file with methods of a type `place`, or as its
/// variant.
fn is_declared(place: &str, name: &str, sources: &[(String, String)]) -> bool {
    const DECLARATIONS: [&str; 6] = ["fn", "struct", "enum", "trait", "mod", "const"];
    let declares = |code: &str, kinds: &[&str], name: &str| {
        let words: Vec<_> = source::words(code).collect();
        words.windows(2).any(|pair| kinds.contains(&pair[0]) && pair[1] == name)
    };
    let has_word = |code: &str| source::words(code).any(|word| word == name);
    sources.iter().filter(|(_, code)| has_word(code)).any(|(path, code)| {
        let is_module = path.trim_end_matches(".rs").trim_end_matches("/mod").rsplit('/').next() == Some(place);
        let is_handed_on = code.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next()).any(has_word);
        let has_methods = code.contains(&format!("impl {place} "));
        (is_module || has_methods) && declares(code, &DECLARATIONS, name)
            || is_module && is_handed_on
            || declares(code, &["enum"], place)
    })
}

#[test]
fn the_rollout_guide_is_what_the_gate_takes() {
    let guide = source::read("docs/rollout.md");
    let (mut configurations, mut commands) = (0, 0);
    for (language, text) in blocks(&guide) {
        match language {
            "toml" => {
                let smallest = "hostname = \"mx.example.net\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n";
                let whole = if text.contains("[upstream]") { text } else { format!("{smallest}{text}") };
                let loaded = Config::parse(&whole).unwrap_or_else(|problems| panic!("{whole}\n{problems:?}"));
                let idle: Vec<_> =
                    loaded.config.warnings().into_iter().filter(|warning| warning.contains("no effect")).collect();
                assert!(idle.is_empty(), "{whole}\n{idle:?}");
                configurations += 1;
            }
            "sh" => {
                let of_gate = |line: &str| line.starts_with("dmarcgate ").then(|| line.to_owned());
                let behind = |line: &str| line.split_once("-- dmarcgate ").map(|(_, rest)| format!("dmarcgate {rest}"));
                for line in text.lines().filter_map(|line| of_gate(line).or_else(|| behind(line))) {
                    if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                        panic!("{line}: {error}");
                    }
                    commands += 1;
                }
            }
            _ => {}
        }
    }
    assert!(configurations >= 5 && commands >= 5, "{configurations} configurations, {commands} commands");
}

/// The fenced blocks of a page, each with its language.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language, text.join("\n") + "\n"));
        }
    }
    blocks
}

/// README, CONTRIBUTING, SECURITY and all of docs: path and text.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs.map(|name| format!("docs/{}", name.to_str().unwrap())).filter(|name| name.ends_with(".md"));
    let all = docs.chain(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned));
    all.map(|path| (path.clone(), source::read(&path))).collect()
}

/// Each indented block of a page, without the indentation.
fn indented(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        let last = blocks.last_mut().expect("there is one");
        match line.strip_prefix("    ") {
            Some(code) => *last += &format!("{code}\n"),
            None if line.is_empty() && !last.is_empty() => last.push('\n'),
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.trim().is_empty());
    blocks
}

#[test]
fn what_the_pages_refer_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (page, text) in pages() {
        let directory = root.join(&page).parent().expect("a file").to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { root.join(&page) } else { directory.join(path) };
            assert!(target.exists(), "{page} leads to {link}");
            let is_there = || anchors(&std::fs::read_to_string(&target).unwrap()).iter().any(|known| known == anchor);
            assert!(anchor.is_empty() || is_there(), "{page} leads to {link}, a heading that is not there");
            seen += 1;
        }
        let ours = ["tests/", "contrib/", "grafana/"];
        let words = text.split('`').filter(|word| ours.iter().any(|directory| word.starts_with(directory)));
        for path in words.filter(|word| !word.contains([' ', '*', '\n'])) {
            assert!(root.join(path).exists(), "{page} names {path}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

/// What the headings of a page are called in links to them: lower case, spaces as hyphens, no punctuation.
fn anchors(page: &str) -> Vec<String> {
    let headings = page
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let kept = |heading: &str| {
        heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c)).collect::<String>()
    };
    headings.map(|heading| kept(heading).to_lowercase().replace(' ', "-")).collect()
}

#[test]
fn links_to_headings_are_read_as_they_are_shown() {
    let page = "# A page\n## `[policy]`, \"quoted\"\n    # no heading\n#neither\n### Twice-told tables";
    assert_eq!(anchors(page), ["a-page", "policy-quoted", "twice-told-tables"]);
}

#[test]
fn configurations_in_the_pages_are_valid() {
    const TABLES: [&str; 7] = ["hostname = ", "[upstream]", "[[listener]]", "[tls]", "[policy]", "[smtp]", "[store]"];
    let mut seen = 0;
    for (page, text) in pages() {
        for block in indented(&text).iter().filter(|block| TABLES.iter().any(|table| block.starts_with(table))) {
            let mut whole = block.clone();
            if !whole.contains("[upstream]") && whole.starts_with("hostname = ") {
                whole.push_str("\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n");
            } else if !whole.contains("[upstream]") {
                whole = format!("upstream.servers = [\"127.0.0.1:10025\"]\n{whole}");
            } else if !whole.contains("servers") {
                whole = whole.replace("[upstream]", "[upstream]\nservers = [\"127.0.0.1:10025\"]");
            }
            if whole.starts_with("[tls]") || whole.contains("\n[tls]") && !whole.contains("[[listener]]") {
                whole.push_str("\n[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"starttls\"\n");
            }
            if !whole.starts_with("hostname = ") {
                whole = format!("hostname = \"mx.example.net\"\n{whole}");
            }
            Config::parse(&whole).unwrap_or_else(|problems| panic!("{page}: {problems:?}\n{whole}"));
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn commands_in_the_pages_are_commands() {
    let mut seen = 0;
    for (page, text) in pages() {
        let blocks = indented(&text);
        let lines = blocks.iter().flat_map(|block| block.lines()).filter(|line| line.starts_with("dmarcgate "));
        for line in lines {
            let command = line.split(['#', '|', '&', '>']).next().unwrap_or_default();
            let parsed = Cli::try_parse_from(command.split_whitespace());
            assert!(parsed.is_ok(), "{page}: {line}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen}");
}

/// Who reads a refusal looks its words up: those that the gate itself may say stand there, each with its code.
#[test]
fn the_table_of_replies_has_all_that_the_gate_says() {
    let page = section(&source::read("docs/troubleshooting.md"), "## \"My mail was refused\"");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| ")).collect();
    let mut said = 0;
    for (path, text) in source::sources() {
        let is_session = ["session/", "listener/"].iter().any(|folder| path.starts_with(folder));
        if !is_session && !["smtp/command.rs", "verdict.rs"].contains(&&*path) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (reply, words) in refusals(code) {
            // What is asked of the client behind it is the same everywhere.
            let words = words.split(", please try again").next().unwrap_or_default();
            let row =
                rows.iter().find(|row| row.contains(&format!("`{words}")) || row.contains(&format!(": {words}`")));
            let Some(row) = row else { panic!("{path}: {reply} {words:?} stands in no row") };
            assert!(reply.split(' ').all(|code| row.contains(code)), "{path}: {reply} {words:?}: {row}");
            said += 1;
        }
    }
    assert!(said > 45, "{said}");
}

/// The negative replies in the code of a module: the codes as far as they stand there, and the text.
fn refusals(code: &str) -> Vec<(String, String)> {
    let literal = |text: &str| {
        let text = text.trim_start().trim_start_matches("vec![").trim_start_matches("format!(");
        Some(text.strip_prefix('"')?.split('"').next()?.to_owned())
    };
    let mut found = Vec::new();
    // Reply::new(550, "5.7.1", "No"), or both codes elsewhere.
    for (at, _) in code.match_indices("\"4.").chain(code.match_indices("\"5.")) {
        let (before, rest) = (&code[..at], &code[at + 1..]);
        let Some((enhanced, rest)) = rest.split_once('"') else { continue };
        let basic = before.trim_end_matches([',', ' ', '\n']).rsplit(|c: char| !c.is_ascii_digit()).next();
        let reply = format!("{} {enhanced}", basic.unwrap_or_default());
        let text = rest.trim_start_matches([',', ' ', '\n']);
        found.extend(literal(text).map(|words| (reply.trim().to_owned(), words)));
    }
    // A text that stands apart from its codes.
    for (start, reply) in
        [("out_of_sequence(", "503"), ("OutOfSequence(", "503"), ("let text = ", ""), ("lines: ", "451")]
    {
        let texts = code.split(start).skip(1).filter_map(literal);
        found.extend(texts.map(|words| (reply.to_owned(), words)));
    }
    found
}

/// docs/configuration.md is drawn from the reference, from what the typed configuration says it expects of each key,
/// and from what a reload takes over.
#[test]
fn the_page_of_the_configuration_is_what_the_gate_knows() {
    let page = configuration_page();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/configuration.md is not up to date: UPDATE_GOLDEN=1 cargo test --test it docs::");
}

fn configuration_page() -> String {
    let mut page = CONFIGURATION.to_owned();
    let (mut table, mut comment, mut described) = (String::new(), Vec::new(), String::new());
    let (mut seen, mut last) = (BTreeSet::new(), "");
    // Their keys are those of another table.
    let is_copy = |table: &str| table.starts_with("listener.") || table.starts_with("policy.shadow");
    for line in REFERENCE.lines() {
        if let Some(text) = line.strip_prefix("# ").or_else(|| (line == "#").then_some("")) {
            comment.push(text);
            continue;
        }
        let setting = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = setting.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
            described = comment.join("\n");
            if !is_copy(&table) && seen.insert(table.clone()) {
                let about = first_sentence(&described);
                page += &format!(
                    "\n## `{setting}`\n\n{about}{TABLE}",
                    about = if about.is_empty() { about } else { about + "\n\n" }
                );
            }
        } else if let Some((key, value)) = setting.split_once(" = ") {
            let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            if !is_copy(&table) && seen.insert(path.clone()) {
                let told = first_sentence(&comment.join("\n"));
                let told = if told.is_empty() { of_list(&described, key) } else { told };
                // One explanation may stand above two keys.
                let told = if told.is_empty() { format!("see `{last}`") } else { told };
                last = key;
                let (kind, takes) = (expected(&table, key), if is_taken(&path) { "reload" } else { "restart" });
                let default = match line.starts_with('#') {
                    true => String::new(),
                    false if comment.iter().any(|text| text.contains("Required")) => "(required)".to_owned(),
                    false => format!("`{value}`"),
                };
                let row =
                    [format!("`{key}`"), kind, default, told, takes.to_owned()].map(|cell| cell.replace('|', "\\|"));
                page += &format!("| {} |\n", row.join(" | "));
            }
        }
        comment.clear();
    }
    page
}

/// What the typed configuration says when the key has a value of a kind that no key has.
fn expected(table: &str, key: &str) -> String {
    const NO_SUCH: &str = "1979-05-27";
    let asked = |value: &str| {
        let header = match table {
            "" => String::new(),
            "listener" | "policy.override" => format!("[[{table}]]\n"),
            _ => format!("[{table}]\n"),
        };
        let problems = Config::parse(&format!("{header}{key} = {value}\n")).expect_err("no key takes a date");
        let mut told = problems.into_iter().filter(|problem| problem.message.starts_with(NO_SUCH));
        told.find_map(|problem| Some(problem.message.split_once("expected ")?.1.to_owned()))
    };
    let told = asked(NO_SUCH).unwrap_or_else(|| panic!("{table} {key} takes everything"));
    if told.starts_with("a list such as") {
        return asked(&format!("[{NO_SUCH}]")).map_or(told, |of| format!("a list, each {of}"));
    }
    told
}

/// The first sentence of an explanation.
fn first_sentence(text: &str) -> String {
    let paragraph = text.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let end = paragraph.match_indices(". ").map(|(at, _)| at).find(|at| !paragraph[..*at].ends_with("e.g"));
    let sentence = end.map_or(&*paragraph, |at| &paragraph[..at]).trim_end_matches(['.', ':']);
    // What follows a colon is a list of words, which the kind of the key names.
    let sentence = sentence.split_once(":   ").map_or(sentence, |(before, _)| before);
    sentence.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a list in an explanation says of `key`: "   key   what it is".
fn of_list(text: &str, key: &str) -> String {
    let rows = text.lines().filter_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix("  "));
    rows.map(|row| row.trim().to_owned()).next().unwrap_or_default()
}

/// What stands above the tables.
const CONFIGURATION: &str = "\
# Every key of the configuration

Drawn from the program by a test (`UPDATE_GOLDEN=1 cargo test --test it docs::`): the first sentence about each key, what is
expected of its value, its default, and whether `systemctl reload dmarcgate` takes a change over. The reference itself,
[config/dmarcgate.toml](../config/dmarcgate.toml), says more: ranges, consequences, examples. The binary has it, too:

    dmarcgate config show --reference     # the reference, commented
    dmarcgate config show                 # what holds with the file at hand, defaults included
    dmarcgate config check                # everything that is wrong with it

`[listener.policy]` and `[listener.bypass]` below a `[[listener]]` take the keys of `[policy]` (but `discovery`) and `[bypass]`,
`[policy.shadow]` those of `[policy]`; what is not set there is as in the general table.

## At the top

| Key | Value | Default | What it does | A change needs |
| --- | --- | --- | --- | --- |
";
const TABLE: &str = "\
| Key | Value | Default | What it does | A change needs |
| --- | --- | --- | --- | --- |
";

/// Holds the tables of metrics and of limits to a scrape: the same names, no more and no less, and the series that limits count.
/// For the test that has a gate.
pub fn assert_tables_agree(scrape: &Scrape) {
    for series in limit_series().iter().filter(|series| series.contains('{')) {
        scrape.value(series);
    }
    let scraped: BTreeSet<_> = scrape.names().into_iter().map(str::to_owned).collect();
    let documented = documented_metrics();
    let missing: Vec<_> = scraped.difference(&documented).collect();
    let idle: Vec<_> = documented.difference(&scraped).collect();
    assert!(missing.is_empty() && idle.is_empty(), "not in {METRICS}: {missing:?}; not in the scrape: {idle:?}");
}

/// The names in the first column of the table of metrics.
fn documented_metrics() -> BTreeSet<String> {
    let section = section(&source::read(METRICS), "## Metrics");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: BTreeSet<_> = rows.map(str::to_owned).collect();
    assert!(!names.is_empty(), "{METRICS} has no metrics");
    names
}

/// Keys and defaults of README's table of limits; rows without a key are left out.
fn limits() -> Vec<(String, String)> {
    let section = section(&source::read("README.md"), "## Limits");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let found = rows.map(|(key, rest)| (key.to_owned(), rest.split(" | ").nth(1).unwrap_or_default().to_owned()));
    found.collect()
}

/// The series in README's table of limits.
fn limit_series() -> Vec<String> {
    let section = section(&source::read("README.md"), "## Limits");
    let words = section.split('`').filter(|word| word.starts_with("dmarcgate_"));
    words.map(str::to_owned).collect()
}

/// The name of a series, without its labels.
fn name(series: &str) -> String {
    series.split('{').next().unwrap_or_default().to_owned()
}

fn metric_words(text: &str) -> Vec<String> {
    let names = source::words(text).filter(|word| word.starts_with("dmarcgate_"));
    names.map(str::to_owned).collect()
}

/// The metric that a series of a histogram belongs to.
fn base(series: &str) -> String {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    histogram.unwrap_or(series).to_owned()
}

/// Where modules and tasks stand.
const ARCHITECTURE: &str = "docs/architecture.md";
/// Where every metric stands.
const METRICS: &str = "README.md";
/// What Grafana shows.
pub const DASHBOARDS: [&str; 4] = [
    "grafana/dashboards/dmarcgate-overview.json",
    "grafana/dashboards/dmarcgate-dmarc.json",
    "grafana/dashboards/dmarcgate-health.json",
    "grafana/dashboards/dmarcgate-reports.json",
];
/// What Prometheus records and watches.
pub const RULES: [&str; 2] = ["grafana/recording.yml", "grafana/alerts.yml"];
/// Metrics that are seen when something else is asked, and on no panel: reloads by whether the last one was refused.
/// The list's age is 0 without a list.
const UNSEEN: [&str; 2] = ["dmarcgate_config_reloads_total", "dmarcgate_suffix_list_fetched_seconds"];
