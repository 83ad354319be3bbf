//! What is written about metrics and limits: README's tables, the dashboards and the rules agree with each other,
//! with a scrape and with the defaults.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use dmarcgate::cli::Cli;
use dmarcgate::config::{Config, Line};

use crate::citations::section;
use crate::source;
use crate::support::gate::Scrape;

#[test]
fn dashboards_and_rules_know_only_metrics_of_the_readme_and_panels_show_all_of_them() {
    let documented = readme_metrics();
    let mut shown = BTreeSet::new();
    for path in DASHBOARDS.into_iter().chain(RULES) {
        let used: BTreeSet<_> = metric_words(&source::read(path)).iter().map(|name| base(name)).collect();
        assert!(!used.is_empty(), "{path} queries nothing");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path} has metrics that README lacks: {unknown:?}");
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
    let unknown: Vec<_> = limit_series().iter().map(|s| name(s)).filter(|n| !readme_metrics().contains(n)).collect();
    assert!(unknown.is_empty(), "limits have metrics that README lacks: {unknown:?}");
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

/// README, SECURITY and all of docs: path and text.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs.map(|name| format!("docs/{}", name.to_str().unwrap())).filter(|name| name.ends_with(".md"));
    let all = docs.chain(["README.md", "SECURITY.md"].map(str::to_owned));
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
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let path = link.split('#').next().unwrap_or_default();
            assert!(directory.join(path).exists(), "{page} leads to {link}");
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

#[test]
fn configurations_in_the_pages_are_valid() {
    const TABLES: [&str; 6] = ["[upstream]", "[[listener]]", "[tls]", "[policy]", "[smtp]", "[store]"];
    let mut seen = 0;
    for (page, text) in pages() {
        for block in indented(&text).iter().filter(|block| TABLES.iter().any(|table| block.starts_with(table))) {
            let mut whole = block.clone();
            if !whole.contains("[upstream]") {
                whole = format!("upstream.servers = [\"127.0.0.1:10025\"]\n{whole}");
            } else if !whole.contains("servers") {
                whole = whole.replace("[upstream]", "[upstream]\nservers = [\"127.0.0.1:10025\"]");
            }
            if whole.starts_with("[tls]") || whole.contains("\n[tls]") && !whole.contains("[[listener]]") {
                whole.push_str("\n[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"starttls\"\n");
            }
            let whole = format!("hostname = \"mx.example.net\"\n{whole}");
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

/// Holds the tables of README to a scrape: the same names, no more and no less, and the series that limits count.
/// For the test that has a gate.
pub fn assert_readme_agrees(scrape: &Scrape) {
    for series in limit_series().iter().filter(|series| series.contains('{')) {
        scrape.value(series);
    }
    let scraped: BTreeSet<_> = scrape.names().into_iter().map(str::to_owned).collect();
    let documented = readme_metrics();
    let missing: Vec<_> = scraped.difference(&documented).collect();
    let idle: Vec<_> = documented.difference(&scraped).collect();
    assert!(missing.is_empty() && idle.is_empty(), "not in README: {missing:?}; not in the scrape: {idle:?}");
}

/// The names in the first column of README's table of metrics.
fn readme_metrics() -> BTreeSet<String> {
    let section = section(&source::read("README.md"), "## Metrics");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: BTreeSet<_> = rows.map(str::to_owned).collect();
    assert!(!names.is_empty(), "README has no metrics");
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
