//! What all metrics say at one moment, to be asked by name: so that no page tells other numbers than a scrape.

use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::label::Label;

/// The metrics of a registry at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<Series>);

/// One series; of a histogram the number of observations.
#[derive(Debug, Clone, PartialEq)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
    /// Of a histogram: upper bounds, each with the number of observations up to it.
    buckets: Vec<(f64, u64)>,
}

impl Samples {
    pub(super) fn new(families: &[MetricFamily]) -> Self {
        let all =
            families.iter().flat_map(|family| family.get_metric().iter().map(|metric| Series::new(family, metric)));
        Self(all.collect())
    }

    /// The sum of all series of this name; 0 if there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.named(name).map(|series| series.value).sum()
    }

    /// The series of this name that has `value` under `label`, summed up over its other labels; 0 if there is none.
    pub fn of(&self, name: &str, label: &str, value: &str) -> f64 {
        self.named(name).filter(|series| series.label(label) == Some(value)).map(|series| series.value).sum()
    }

    /// The value that an [`Info`](super::Info) has under `label`.
    pub fn fact(&self, name: &str, label: &str) -> Option<&str> {
        self.named(name).find_map(|series| series.label(label))
    }

    /// The counters of this name by the variants of `L` under `label`, whole as counters are; those at 0 are left out.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counters are whole and never negative"
    )]
    pub fn family<L: Label>(&self, name: &str, label: &str) -> Vec<(&'static str, u64)> {
        let counts = L::ALL.iter().map(|l| (l.as_str(), self.of(name, label, l.as_str()) as u64));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The value below which the share `share` of a histogram's observations lies, all series of its name together;
    /// between two bounds by interpolation, and none without observations. Of what lies beyond the last bound no more
    /// can be told than that bound.
    #[expect(clippy::cast_precision_loss, reason = "observations beyond 2^53 are no reality")]
    pub fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for series in self.named(name) {
            buckets.resize(buckets.len().max(series.buckets.len()), (0.0, 0));
            for (sum, (bound, count)) in buckets.iter_mut().zip(&series.buckets) {
                *sum = (*bound, sum.1 + count);
            }
        }
        let all = self.sum(name);
        if all == 0.0 {
            return None;
        }
        let rank = all * share;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in buckets.into_iter().filter(|(bound, _)| bound.is_finite()) {
            let count = count as f64;
            if count >= rank && count > below {
                return Some(low + (bound - low) * ((rank - below) / (count - below)).clamp(0.0, 1.0));
            }
            (low, below) = (bound, count);
        }
        Some(low)
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Series> {
        self.0.iter().filter(move |series| series.name == name)
    }
}

impl Series {
    #[expect(clippy::cast_precision_loss, reason = "observations beyond 2^53 are no reality")]
    fn new(family: &MetricFamily, metric: &Metric) -> Self {
        let labels = metric.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        let value = match family.get_field_type() {
            MetricType::COUNTER => metric.get_counter().get_value(),
            MetricType::HISTOGRAM => histogram.get_sample_count() as f64,
            _ => metric.get_gauge().get_value(),
        };
        Self {
            name: family.name().to_owned(),
            labels: labels.collect(),
            value,
            buckets: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
        }
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::{Family, Pairs, Registry};

    crate::label_enum! {
        enum Colour { Red = "red", Green = "green" }
    }

    #[test]
    fn what_is_counted_is_found_by_name_and_label() {
        let registry = Registry::new();
        let family: Family<Colour> = registry.family("dmarcgate_a_total", "Things.", "colour");
        let pairs: Pairs<Colour, Colour> = registry.pairs("dmarcgate_b_total", "Things.", ["from", "to"]);
        registry.info("dmarcgate_build_info", "Facts.", &["version"]).set(&["1.2"]);
        family.of(Colour::Green).inc_by(3);
        family.inc(Colour::Red);
        pairs.inc(Colour::Red, Colour::Green);
        pairs.inc(Colour::Red, Colour::Red);
        let samples = registry.samples();
        assert_eq!(samples.sum("dmarcgate_a_total"), 4.0);
        assert_eq!(samples.of("dmarcgate_a_total", "colour", "green"), 3.0);
        assert_eq!(samples.family::<Colour>("dmarcgate_a_total", "colour"), [("red", 1), ("green", 3)]);
        assert_eq!(samples.of("dmarcgate_b_total", "from", "red"), 2.0);
        assert_eq!(samples.of("dmarcgate_b_total", "to", "blue"), 0.0);
        assert_eq!(samples.fact("dmarcgate_build_info", "version"), Some("1.2"));
        assert_eq!((samples.sum("none"), samples.fact("none", "version")), (0.0, None));
    }

    #[test]
    fn quantiles_lie_between_bounds() {
        let registry = Registry::new();
        let histogram = registry.histogram("dmarcgate_seconds", "Times.", &[1.0, 2.0, 4.0]);
        let quantile = |share| registry.samples().quantile("dmarcgate_seconds", share);
        assert_eq!(quantile(0.5), None);
        for seconds in [0.5, 1.5, 1.5, 3.0] {
            histogram.observe(seconds);
        }
        assert_eq!((quantile(0.25), quantile(0.5), quantile(1.0)), (Some(1.0), Some(1.5), Some(4.0)));
        histogram.observe(100.0);
        assert_eq!(quantile(1.0), Some(4.0), "the last bound that there is");
    }
}
