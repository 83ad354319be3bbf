//! What is written about metrics: README's table, the dashboard and the alert rules agree with each other and with a
//! scrape.

use std::collections::BTreeSet;

use crate::citations::section;
use crate::source;
use crate::support::gate::Scrape;

#[test]
fn dashboard_and_alerts_know_only_metrics_of_the_readme() {
    let documented = readme_metrics();
    for path in ["grafana/dmarcgate-overview.json", "grafana/alerts.yml"] {
        let used: BTreeSet<_> = metric_words(&source::read(path)).iter().map(|name| base(name)).collect();
        assert!(!used.is_empty(), "{path} queries nothing");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path} has metrics that README lacks: {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&source::read("grafana/dmarcgate-overview.json")).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
}

/// Holds the table of README to a scrape: the same names, no more and no less. For the test that has a gate.
pub fn assert_readme_agrees(scrape: &Scrape) {
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

fn metric_words(text: &str) -> Vec<String> {
    let names = source::words(text).filter(|word| word.starts_with("dmarcgate_"));
    names.map(str::to_owned).collect()
}

/// The metric that a series of a histogram belongs to.
fn base(series: &str) -> String {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    histogram.unwrap_or(series).to_owned()
}
