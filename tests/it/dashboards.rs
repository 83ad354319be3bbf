//! Every query of the dashboards and of the rules asks for what a running gate shows: its metrics, with the labels
//! and label values that are written there.

use std::collections::BTreeMap;

use crate::docs::{DASHBOARDS, RULES};
use crate::source;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::{Gate, Scrape};
use crate::support::rules::Script;
use crate::support::upstream::Upstream;

#[tokio::test]
async fn dashboards_and_rules_ask_for_what_a_gate_shows() {
    let (dns, upstream) = (DnsServer::start(Zone::new()).await, Upstream::start(Script::default()).await);
    let gate = Gate::start(upstream.address(), dns.address(), |config| config).await;
    let series = series(&gate.metrics().await);
    let recorded = source::read("grafana/recording.yml");
    let mut wrong = Vec::new();
    for (place, query) in queries() {
        let selectors = selectors(&query);
        let recordings: Vec<_> = recordings(&query).collect();
        let is_asked = !selectors.is_empty() || !recordings.is_empty() || query.contains(SCRAPED);
        assert!(is_asked, "{place}: {query} asks for nothing of the gate");
        let unknown = recordings.iter().filter(|name| !recorded.contains(&format!("- record: {name}\n")));
        wrong.extend(unknown.map(|name| format!("{place}: {name} is not recorded")));
        wrong.extend(selectors.iter().flat_map(|s| s.faults(&series)).map(|fault| format!("{place}: {fault}")));
        let known = |label: &str| {
            COMMON.contains(&label)
                || selectors.iter().any(|s| series.get(&s.metric).is_some_and(|all| all.iter().any(|l| l.has(label))))
        };
        let unknown = grouping_labels(&query).into_iter().filter(|label| !known(label));
        wrong.extend(unknown.map(|label| format!("{place}: nothing in {query} has the label {label}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn queries_are_taken_apart() {
    let query = r#"sum by (le, at) (rate(dmarcgate_a_total{instance=~"$i",at!~"x|y"}[5m])) > 2 * dmarcgate_b"#;
    let found = selectors(query);
    let matchers = [("instance".to_owned(), "$i".to_owned()), ("at".to_owned(), "x|y".to_owned())];
    assert_eq!(found[0], Selector { metric: "dmarcgate_a_total".into(), matchers: matchers.into() });
    assert_eq!(found[1], Selector { metric: "dmarcgate_b".into(), matchers: Vec::new() });
    assert_eq!(grouping_labels(query), ["le", "at"]);
    let shown = series(&Scrape("# TYPE dmarcgate_a_total counter\ndmarcgate_a_total{at=\"x\"} 0\n".into()));
    assert_eq!(found[0].faults(&shown), [r#"dmarcgate_a_total never has at="y""#]);
    assert_eq!(found[1].faults(&shown), ["a gate shows no dmarcgate_b"]);
}

/// What a query asks of one metric.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    metric: String,
    matchers: Vec<(String, String)>,
}

/// The labels of one series.
struct Labels(Vec<(String, String)>);

impl Selector {
    fn faults(&self, series: &BTreeMap<String, Vec<Labels>>) -> Vec<String> {
        let Some(shown) = series.get(&self.metric) else { return vec![format!("a gate shows no {}", self.metric)] };
        let given = self.matchers.iter().filter(|(label, _)| !COMMON.contains(&label.as_str()));
        let values = given.flat_map(|(label, pattern)| pattern.split('|').map(move |value| (label, value)));
        let missing = values.filter(|(label, value)| {
            !shown.iter().any(|labels| labels.0.iter().any(|(l, v)| l == *label && v == value))
        });
        missing.map(|(label, value)| format!("{} never has {label}=\"{value}\"", self.metric)).collect()
    }
}

impl Labels {
    fn has(&self, label: &str) -> bool {
        self.0.iter().any(|(name, _)| name == label)
    }
}

/// What Prometheus itself says of the gate, under the name that docs/monitoring.md gives the job.
const SCRAPED: &str = "up{job=\"dmarcgate\"}";

/// Every query with the panel or alert that it belongs to.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for path in DASHBOARDS {
        let dashboard: serde_json::Value = serde_json::from_str(&source::read(path)).unwrap();
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let place = format!("{path}: {}", panel["title"]);
                queries.push((place, target["expr"].as_str().expect("a query").to_owned()));
            }
        }
    }
    for path in RULES {
        let rules = source::read(path).replace("- record: ", "- alert: ");
        for rule in rules.split("- alert: ").skip(1) {
            let (name, rest) = rule.split_once('\n').expect("a rule of several lines");
            // Up to the next key or comment: the rules are written in this order.
            let query = rest.split("expr:").nth(1).expect("a query");
            let end = ["labels:", " for:", "#"].iter().filter_map(|next| query.find(next)).min();
            queries.push((name.to_owned(), query[..end.unwrap_or(query.len())].to_owned()));
        }
    }
    assert!(queries.len() > 150, "{queries:?}");
    queries
}

/// The series of a scrape by name; histograms by the names of their parts.
fn series(scrape: &Scrape) -> BTreeMap<String, Vec<Labels>> {
    let mut series = BTreeMap::<_, Vec<_>>::new();
    for line in scrape.0.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, _) = line.rsplit_once(' ').expect("a value");
        let Selector { metric, matchers } = selectors(name).pop().unwrap_or_else(|| panic!("no metric in {line}"));
        series.entry(metric).or_default().push(Labels(matchers));
    }
    series
}

fn selectors(query: &str) -> Vec<Selector> {
    let starts = query.match_indices("dmarcgate_").map(|(at, _)| &query[at..]);
    let selector = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (metric, rest) = text.split_at(end);
        let inner = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let matchers = inner.split("\",").filter_map(|matcher| {
            let (label, value) = matcher.split_at(matcher.find(['=', '!'])?);
            Some((label.trim().to_owned(), value.trim_matches(['=', '!', '~', '"']).to_owned()))
        });
        Selector { metric: metric.to_owned(), matchers: matchers.collect() }
    };
    starts.map(selector).collect()
}

/// The names of recording rules in a query.
fn recordings(query: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':';
    query.match_indices("dmarcgate:").map(move |(at, _)| query[at..].split(ends).next().unwrap_or_default())
}

fn grouping_labels(query: &str) -> Vec<&str> {
    let lists = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',').map(str::trim)).collect()
}

/// Labels that Prometheus adds, or that the buckets of every histogram have.
const COMMON: [&str; 3] = ["instance", "job", "le"];
