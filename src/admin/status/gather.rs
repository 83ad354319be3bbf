//! Facts out of metrics and memory.

use std::sync::Arc;

use super::facts::{Dns, Facts, Forwarders, Gate, Lacking, Mail, Refused, Reports, Section, Store, Times, Upstream};
use super::history::{Minute, counts};
use super::stored::Sums;
use super::text::Text;
use crate::dns::Failure;
use crate::dns::metrics::Source;
use crate::evaluation::{ArcResult, DkimResult, DmarcResult};
use crate::label::Label;
use crate::metrics::Samples;
use crate::readiness::Readiness;
use crate::session::latest::Refusal;
use crate::spf::SpfResult;

/// What facts are made of.
pub struct Now {
    /// In seconds since the epoch.
    pub now: i64,
    /// The metrics of this moment.
    pub samples: Samples,
    /// Mail a minute.
    pub minutes: Vec<Minute>,
    /// The gate.
    pub gate: Gate,
    /// What was refused lately.
    pub latest: Vec<Refusal>,
    /// What was read from the store.
    pub stored: (Arc<Sums>, Arc<Section<Forwarders>>),
}

/// All of them.
pub fn facts(of: Now) -> Facts {
    let Now { now, samples, minutes, gate, latest, stored: (sums, forwarders) } = of;
    let reports = Section {
        found: sums
            .reports
            .found
            .clone()
            .map(|found| Reports { last_run: whole(samples.sum("dmarcgate_reports_run_seconds")), ..found }),
        ..*sums.reports
    };
    Facts {
        now,
        gate,
        mail: mail(&samples, minutes),
        refusals: latest.into_iter().map(Refused::from).collect(),
        failing: Arc::clone(&sums.failing),
        forwarders,
        shadow: Arc::clone(&sums.shadow),
        dns: dns(&samples),
        upstream: upstream(&samples),
        store: store(&samples),
        reports: Arc::new(reports),
        inbound: Arc::clone(&sums.inbound),
    }
}

/// The gate with this name, which began at `started`.
pub fn gate(hostname: &str, started: i64, samples: &Samples, readiness: &Readiness) -> Gate {
    let lacking = readiness.lacking();
    Gate {
        hostname: Text::of(hostname),
        version: env!("CARGO_PKG_VERSION"),
        mode: Text::of(samples.fact("dmarcgate_build_info", "mode").unwrap_or_default()),
        started,
        configured: whole(samples.sum("dmarcgate_config_loaded_seconds")),
        ready: lacking.is_empty(),
        lacking: lacking
            .into_iter()
            .map(|(c, why)| Lacking { condition: c.as_str(), reason: Text::of(&*why) })
            .collect(),
        sessions: count(samples.sum("dmarcgate_sessions_active")),
        sessions_limit: count(samples.sum("dmarcgate_sessions_limit")),
        spool_bytes: count(samples.sum("dmarcgate_spool_memory_bytes")),
        spool_limit_bytes: count(samples.sum("dmarcgate_spool_memory_limit_bytes")),
        certificate_expires: whole(samples.sum("dmarcgate_tls_certificate_expiry_seconds")),
        panics: count(samples.sum("dmarcgate_panics_total")),
    }
}

fn mail(samples: &Samples, minutes: Vec<Minute>) -> Mail {
    Mail {
        messages: counts(samples),
        minutes,
        dmarc: samples.family::<DmarcResult>("dmarcgate_dmarc_results_total", "result"),
        spf: samples.family::<SpfResult>("dmarcgate_spf_results_total", "result"),
        dkim: samples.family::<DkimResult>("dmarcgate_dkim_results_total", "result"),
        arc: samples.family::<ArcResult>("dmarcgate_arc_results_total", "result"),
        evaluation: times(samples, "dmarcgate_evaluation_seconds"),
        end_of_data: times(samples, "dmarcgate_end_of_data_seconds"),
    }
}

fn dns(samples: &Samples) -> Dns {
    const FAILURES: &str = "dmarcgate_dns_failures_total";
    // What a message's own limits cut off is no question to a name server.
    let failures = Failure::ALL.iter().filter(|failure| !matches!(failure, Failure::Budget | Failure::Deadline));
    Dns {
        lookups: samples.family::<Source>("dmarcgate_dns_lookups_total", "source"),
        queries: count(samples.sum("dmarcgate_dns_queries_total")),
        failures: failures.map(|failure| count(samples.of(FAILURES, "failure", failure.as_str()))).sum(),
        cache_entries: count(samples.sum("dmarcgate_dns_cache_entries")),
        cache_evictions: count(samples.sum("dmarcgate_dns_cache_evictions_total")),
        outstanding: count(samples.sum("dmarcgate_dns_outstanding")),
        query: times(samples, "dmarcgate_dns_query_seconds"),
    }
}

fn upstream(samples: &Samples) -> Upstream {
    let attempts = samples.sum("dmarcgate_upstream_connections_total");
    let connected = samples.of("dmarcgate_upstream_connections_total", "result", "open");
    Upstream {
        down: count(samples.sum("dmarcgate_upstream_servers_down")),
        open: count(samples.sum("dmarcgate_upstream_connections_open")),
        connected: count(connected),
        failed: count(attempts - connected),
        lost: count(samples.sum("dmarcgate_upstream_lost_total")),
        slot_timeouts: count(samples.sum("dmarcgate_upstream_slot_timeouts_total")),
    }
}

fn store(samples: &Samples) -> Store {
    Store {
        up: samples.sum("dmarcgate_store_up") > 0.0,
        appended: count(samples.sum("dmarcgate_store_rows_appended_total")),
        written: count(samples.sum("dmarcgate_store_rows_written_total")),
        pending: count(samples.sum("dmarcgate_store_rows_pending")),
        lost: count(samples.sum("dmarcgate_store_rows_lost_total")),
        bytes: count(samples.sum("dmarcgate_store_bytes")),
    }
}

fn times(samples: &Samples, name: &str) -> Times {
    Times { median: samples.quantile(name, 0.5), p95: samples.quantile(name, 0.95) }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            id: Text::of(refusal.id),
            arrived: i64::try_from(refusal.arrived).unwrap_or(i64::MAX),
            ip: refusal.ip.to_string(),
            author_domain: refusal.author_domain.map(Text::of),
            outcome: refusal.outcome.as_str(),
            reply: Text::of(refusal.reply),
            explained: refusal.is_explained,
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates; these are whole")]
fn count(value: f64) -> u64 {
    value as u64
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates; these are whole")]
fn whole(value: f64) -> i64 {
    value as i64
}
