//! The metrics registry and the few shapes of metric that the drivers use.
//!
//! Each driver owns a `Metrics` struct of its own and registers it once at start; `app` passes the [`Registry`] round.
//! Labels come from [`Label`] enums only, so that no peer can grow the number of series; every series starts at 0.

mod samples;

use std::marker::PhantomData;

use prometheus::core::Collector;
pub use prometheus::{Histogram, IntCounter, IntGauge};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, PullingGauge, TextEncoder};

pub use self::samples::Samples;
use crate::label::Label;

/// Where drivers register their metrics and the admin listener reads them.
#[derive(Clone, Default)]
pub struct Registry(prometheus::Registry);

/// Counters of one name, one for each variant of `L`.
#[derive(Clone)]
pub struct Family<L> {
    counters: Vec<IntCounter>,
    label: PhantomData<L>,
}

/// Gauges of one name, one for each variant of `L`.
#[derive(Clone)]
pub struct Gauges<L> {
    gauges: Vec<IntGauge>,
    label: PhantomData<L>,
}

/// Counters of one name, one for each pair of variants of `L` and `M`.
#[derive(Clone)]
pub struct Pairs<L, M> {
    /// By the first label.
    counters: Vec<Family<M>>,
    label: PhantomData<L>,
}

/// Counters of one name under four labels. Those that are announced start at 0; any other begins with what it first
/// counts, so there are never more than the variants of all four allow.
#[derive(Clone)]
pub struct Quads<A, B, C, D> {
    vector: IntCounterVec,
    labels: PhantomData<(A, B, C, D)>,
}

/// Histograms of one name, one for each variant of `L`.
#[derive(Clone)]
pub struct Histograms<L> {
    histograms: Vec<Histogram>,
    label: PhantomData<L>,
}

/// A gauge that is always 1 and tells facts by its labels.
#[derive(Clone)]
pub struct Info(IntGaugeVec);

#[expect(clippy::expect_used, reason = "names are literals of ours, each once: a fault would show at every start")]
impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter; `name` ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help).expect(METRIC_NAME))
    }

    /// A gauge in base units.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help).expect(METRIC_NAME))
    }

    /// A gauge in base units whose value is asked for at each scrape.
    #[expect(clippy::cast_precision_loss, reason = "octets beyond 2^53 are no reality")]
    pub fn gauge_of(&self, name: &str, help: &str, value: impl Fn() -> u64 + Send + Sync + 'static) {
        let value = Box::new(move || value() as f64);
        self.register(PullingGauge::new(name, help, value).expect(METRIC_NAME));
    }

    /// A gauge that is always 1 and tells facts by its labels, which are set afterwards.
    pub fn info(&self, name: &str, help: &str, labels: &[&str]) -> Info {
        Info(self.register(IntGaugeVec::new(Opts::new(name, help), labels).expect(METRIC_NAME)))
    }

    /// A histogram in seconds or bytes with the given upper bounds.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts).expect(METRIC_NAME))
    }

    /// A family of counters under the label `label`; the help text gets the label's values.
    pub fn family<L: Label>(&self, name: &str, help: &str, label: &str) -> Family<L> {
        let opts = Opts::new(name, with_values::<L>(help, label));
        let vector = self.register(IntCounterVec::new(opts, &[label]).expect(METRIC_NAME));
        let counters = L::ALL.iter().map(|l| vector.with_label_values(&[l.as_str()])).collect();
        Family { counters, label: PhantomData }
    }

    /// A family of gauges under the label `label`; the help text gets the label's values.
    pub fn gauges<L: Label>(&self, name: &str, help: &str, label: &str) -> Gauges<L> {
        let opts = Opts::new(name, with_values::<L>(help, label));
        let vector = self.register(IntGaugeVec::new(opts, &[label]).expect(METRIC_NAME));
        let gauges = L::ALL.iter().map(|l| vector.with_label_values(&[l.as_str()])).collect();
        Gauges { gauges, label: PhantomData }
    }

    /// Counters under two labels; the help text gets the values of both.
    pub fn pairs<L: Label, M: Label>(&self, name: &str, help: &str, labels: [&str; 2]) -> Pairs<L, M> {
        let [first, second] = labels;
        let opts = Opts::new(name, with_values::<M>(&with_values::<L>(help, first), second));
        let vector = self.register(IntCounterVec::new(opts, &labels).expect(METRIC_NAME));
        let family = |l: &L| {
            let counters = M::ALL.iter().map(|m| vector.with_label_values(&[l.as_str(), m.as_str()]));
            Family { counters: counters.collect(), label: PhantomData }
        };
        Pairs { counters: L::ALL.iter().map(family).collect(), label: PhantomData }
    }

    /// Counters under four labels; the help text gets the values of all. None is there before it is announced.
    pub fn quads<A: Label, B: Label, C: Label, D: Label>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; 4],
    ) -> Quads<A, B, C, D> {
        let [first, second, third, fourth] = labels;
        let help = with_values::<B>(&with_values::<A>(help, first), second);
        let help = with_values::<D>(&with_values::<C>(&help, third), fourth);
        let vector = self.register(IntCounterVec::new(Opts::new(name, help), &labels).expect(METRIC_NAME));
        Quads { vector, labels: PhantomData }
    }

    /// Histograms under the label `label`, all with the same upper bounds; the help text gets the label's values.
    pub fn histograms<L: Label>(&self, name: &str, help: &str, label: &str, buckets: &[f64]) -> Histograms<L> {
        let opts = HistogramOpts::new(name, with_values::<L>(help, label)).buckets(buckets.to_vec());
        let vector = self.register(HistogramVec::new(opts, &[label]).expect(METRIC_NAME));
        let histograms = L::ALL.iter().map(|l| vector.with_label_values(&[l.as_str()])).collect();
        Histograms { histograms, label: PhantomData }
    }

    /// All metrics in the text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).unwrap_or_default()
    }

    /// What all metrics say now, for the status page.
    pub fn samples(&self) -> Samples {
        Samples::new(&self.0.gather())
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.0.register(Box::new(metric.clone())).expect("metric names are unique");
        metric
    }
}

impl<L: Label> Family<L> {
    /// The counter of one variant.
    #[expect(clippy::indexing_slicing, reason = "`index` is the place in `ALL`, and there is a counter for each")]
    pub fn of(&self, label: L) -> &IntCounter {
        &self.counters[label.index()]
    }

    /// Adds one to the counter of `label`.
    pub fn inc(&self, label: L) {
        self.of(label).inc();
    }
}

impl<L: Label> Gauges<L> {
    /// The gauge of one variant.
    #[expect(clippy::indexing_slicing, reason = "`index` is the place in `ALL`, and there is a gauge for each")]
    pub fn of(&self, label: L) -> &IntGauge {
        &self.gauges[label.index()]
    }
}

impl<L: Label, M: Label> Pairs<L, M> {
    /// Adds one to the counter of both labels.
    #[expect(clippy::indexing_slicing, reason = "`index` is the place in `ALL`, and there is a family for each")]
    pub fn inc(&self, first: L, second: M) {
        self.counters[first.index()].inc(second);
    }
}

impl<A: Label, B: Label, C: Label, D: Label> Quads<A, B, C, D> {
    /// Lets the counter of these labels start at 0.
    pub fn announce(&self, (a, b, c, d): (A, B, C, D)) {
        self.vector.with_label_values(&[a.as_str(), b.as_str(), c.as_str(), d.as_str()]);
    }

    /// Adds one to the counter of these labels.
    pub fn inc(&self, (a, b, c, d): (A, B, C, D)) {
        self.vector.with_label_values(&[a.as_str(), b.as_str(), c.as_str(), d.as_str()]).inc();
    }
}

impl<L: Label> Histograms<L> {
    /// The histogram of one variant.
    #[expect(clippy::indexing_slicing, reason = "`index` is the place in `ALL`, and there is a histogram for each")]
    pub fn of(&self, label: L) -> &Histogram {
        &self.histograms[label.index()]
    }
}

impl Info {
    /// The facts that hold now, in place of those before.
    pub fn set(&self, values: &[&str]) {
        self.0.reset();
        self.0.with_label_values(values).set(1);
    }
}

fn with_values<L: Label>(help: &str, label: &str) -> String {
    let values = L::ALL.iter().map(|l| l.as_str()).collect::<Vec<_>>().join(", ");
    format!("{help} By {label}: {values}.")
}

/// Metric names are literals of ours; a bad one fails at every start.
const METRIC_NAME: &str = "metric names and labels are well-formed literals";

#[cfg(test)]
mod tests {
    use super::*;

    crate::label_enum! {
        enum Colour { Red = "red", Green = "green" }
    }

    #[test]
    fn series_of_a_family_start_at_zero_and_count_apart() {
        let registry = Registry::new();
        let family: Family<Colour> = registry.family("dmarcgate_test_total", "Things.", "colour");
        family.inc(Colour::Green);
        let text = registry.render();
        assert!(text.contains("# HELP dmarcgate_test_total Things. By colour: red, green."), "{text}");
        assert!(text.contains("dmarcgate_test_total{colour=\"red\"} 0"), "{text}");
        assert!(text.contains("dmarcgate_test_total{colour=\"green\"} 1"), "{text}");
    }

    #[test]
    fn series_of_pairs_start_at_zero_and_count_apart() {
        let registry = Registry::new();
        let pairs: Pairs<Colour, Colour> = registry.pairs("dmarcgate_test_total", "Things.", ["from", "to"]);
        pairs.inc(Colour::Green, Colour::Red);
        let text = registry.render();
        let help = "# HELP dmarcgate_test_total Things. By from: red, green. By to: red, green.";
        assert!(text.contains(help), "{text}");
        assert_eq!(text.matches("dmarcgate_test_total{").count(), 4, "{text}");
        assert!(text.contains("dmarcgate_test_total{from=\"green\",to=\"red\"} 1"), "{text}");
        assert!(text.contains("dmarcgate_test_total{from=\"red\",to=\"green\"} 0"), "{text}");
    }

    #[test]
    fn of_four_labels_those_announced_start_at_zero_and_others_when_they_count() {
        use Colour::{Green, Red};
        let registry = Registry::new();
        let quads: Quads<Colour, Colour, Colour, Colour> =
            registry.quads("dmarcgate_test_total", "Things.", ["a", "b", "c", "d"]);
        quads.announce((Red, Red, Red, Green));
        quads.inc((Green, Red, Red, Red));
        let text = registry.render();
        assert!(text.contains("By a: red, green. By b: red, green. By c: red, green. By d: red, green."), "{text}");
        assert!(text.contains("dmarcgate_test_total{a=\"red\",b=\"red\",c=\"red\",d=\"green\"} 0"), "{text}");
        assert!(text.contains("dmarcgate_test_total{a=\"green\",b=\"red\",c=\"red\",d=\"red\"} 1"), "{text}");
        assert_eq!(text.matches("dmarcgate_test_total{").count(), 2, "{text}");
    }

    #[test]
    fn histograms_of_a_label_start_at_zero_and_count_apart() {
        let registry = Registry::new();
        let histograms: Histograms<Colour> = registry.histograms("dmarcgate_test", "Times.", "colour", &[1.0]);
        histograms.of(Colour::Red).observe(0.5);
        let text = registry.render();
        assert!(text.contains("# HELP dmarcgate_test Times. By colour: red, green."), "{text}");
        assert!(text.contains("dmarcgate_test_bucket{colour=\"red\",le=\"1\"} 1"), "{text}");
        assert!(text.contains("dmarcgate_test_count{colour=\"green\"} 0"), "{text}");
    }
}
