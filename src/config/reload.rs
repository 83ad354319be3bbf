//! Says what a new configuration changes, and which of that a running gate can take over.
//!
//! `KEYS` is the one place that says it for each key; the reference repeats it, and a test holds both together.

use std::collections::BTreeMap;

use super::{Line, Origin, file};

/// What a gate was started with and what holds now.
#[derive(Debug)]
pub struct InForce {
    started: Vec<Line>,
    current: Vec<Line>,
}

/// The paths of the keys whose values a new configuration changes, in the order of the reference.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that hold from now on.
    pub applied: Vec<String>,
    /// Those that are not as the gate was started with, and hold after a restart.
    pub restart: Vec<String>,
}

/// When a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Reload,
    Restart,
}

impl InForce {
    /// What a gate is started with.
    pub fn new(lines: Vec<Line>) -> Self {
        Self { current: lines.clone(), started: lines }
    }

    /// Takes a new configuration over and says what it changes.
    pub fn replace(&mut self, lines: Vec<Line>) -> Changes {
        let changes = Changes {
            applied: differences(&self.current, &lines, Takes::Reload),
            restart: differences(&self.started, &lines, Takes::Restart),
        };
        self.current = lines;
        changes
    }
}

/// The keys of one kind with different values. Settings of listeners are compared by address; one that comes or goes is
/// a change of `listener.address` alone. What holds at a listener because it holds for all is a change of the general
/// key.
fn differences(old: &[Line], new: &[Line], takes: Takes) -> Vec<String> {
    let (before, after) = (values(old), values(new));
    let is_known = |place: &KeyPlace<'_>| {
        let address = KeyPlace { path: ADDRESS.to_owned(), instance: 0, ..place.clone() };
        !place.path.starts_with("listener.") || before.contains_key(&address) && after.contains_key(&address)
    };
    let is_general = |line: &Line| matches!(line.origin, Origin::General(_));
    let mut paths = Vec::new();
    for line in new.iter().chain(old) {
        let path = line.path();
        if paths.contains(&path) || kind(&path) != takes {
            continue;
        }
        let mut of_key = before.keys().chain(after.keys()).filter(|place| place.path == path);
        let differs = of_key.any(|place| match (before.get(place), after.get(place)) {
            (Some(before), Some(after)) if is_general(before) && is_general(after) => false,
            (Some(before), Some(after)) => before.value != after.value,
            _ => path == ADDRESS || is_known(place),
        });
        if differs {
            paths.push(path);
        }
    }
    paths
}

/// Where a key stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct KeyPlace<'a> {
    path: String,
    /// For a listener, its address and how many before it have the same (several may have port 0).
    listener: (&'a str, usize),
    /// Which of several tables of its name inside that.
    instance: usize,
}

fn values(lines: &[Line]) -> BTreeMap<KeyPlace<'_>, &Line> {
    let mut listeners = BTreeMap::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.path() == ADDRESS) {
        let address = line.value.as_deref().unwrap_or_default();
        let count = seen.entry(address).or_default();
        listeners.insert(line.outer, (address, *count));
        *count += 1;
    }
    let place = |line: &Line| {
        let path = line.path();
        let listener = path.starts_with("listener.").then(|| listeners.get(&line.outer)).flatten();
        let instance = if line.table == file::LISTENER { 0 } else { line.instance };
        KeyPlace { path, listener: listener.copied().unwrap_or_default(), instance }
    };
    lines.iter().map(|line| (place(line), line)).collect()
}

/// Whether a running gate takes over a change of this key.
pub fn is_taken(path: &str) -> bool {
    kind(path) == Takes::Reload
}

/// A key that the table lacks is none that a running gate takes over. What a listener has of its own is of the kind of
/// what it replaces.
fn kind(path: &str) -> Takes {
    let general = general(path);
    // That there are no tables of overrides, where it is said.
    let overrides = general.ends_with(".override").then_some(Takes::Reload);
    let known = KEYS.iter().find(|(key, _)| *key == general).map(|(_, takes)| *takes);
    known.or(overrides).unwrap_or(Takes::Restart)
}

/// The key that holds where a listener has none of its own.
fn general(path: &str) -> &str {
    let own = path.strip_prefix("listener.");
    own.filter(|own| own.starts_with("policy.") || own.starts_with("bypass.")).unwrap_or(path)
}

const ADDRESS: &str = "listener.address";

/// Every key. One that is marked `Restart` says so in the reference.
const KEYS: &[(&str, Takes)] = &[
    ("hostname", Takes::Reload),
    ("authserv_id", Takes::Reload),
    ("strip_authserv_ids", Takes::Reload),
    (ADDRESS, Takes::Restart),
    ("listener.tls", Takes::Restart),
    ("listener.require_tls", Takes::Reload),
    ("listener.proxy_protocol_from", Takes::Reload),
    ("listener.reuse_port", Takes::Restart),
    ("listener.recipient_domains", Takes::Reload),
    ("tls.certificate", Takes::Restart),
    ("tls.key", Takes::Restart),
    ("tls.hide_from", Takes::Restart),
    ("upstream.servers", Takes::Reload),
    ("upstream.identity", Takes::Reload),
    ("upstream.tls", Takes::Reload),
    ("upstream.selection", Takes::Reload),
    ("upstream.connections", Takes::Reload),
    ("upstream.tls_name", Takes::Reload),
    ("upstream.tls_ca", Takes::Reload),
    ("upstream.tls_pin", Takes::Reload),
    ("upstream.auth_over_plain", Takes::Reload),
    ("upstream.hold", Takes::Reload),
    ("upstream.idle", Takes::Reload),
    ("dns.servers", Takes::Restart),
    ("dns.ca", Takes::Restart),
    ("dns.timeout", Takes::Restart),
    ("dns.cache_entries", Takes::Restart),
    ("policy.mode", Takes::Reload),
    ("policy.reject", Takes::Reload),
    ("policy.on_temperror", Takes::Reload),
    ("policy.defer_at_most", Takes::Reload),
    ("policy.unusable_from", Takes::Reload),
    ("policy.honor_pct", Takes::Reload),
    ("policy.signs", Takes::Reload),
    ("policy.exempt_recipients", Takes::Reload),
    ("policy.trusted_sealers", Takes::Reload),
    ("policy.override", Takes::Reload),
    ("policy.override.author_domain", Takes::Reload),
    ("policy.override.network", Takes::Reload),
    ("policy.override.host", Takes::Reload),
    ("policy.override.dkim", Takes::Reload),
    ("policy.override.spf", Takes::Reload),
    ("policy.override.arc_sealer", Takes::Reload),
    ("policy.override.list_id", Takes::Reload),
    ("policy.override.recipient_domain", Takes::Reload),
    ("policy.override.action", Takes::Reload),
    ("policy.override.note", Takes::Reload),
    ("policy.override.reason", Takes::Reload),
    ("policy.override.until", Takes::Reload),
    ("policy.discovery", Takes::Restart),
    ("policy.shadow.mode", Takes::Reload),
    ("policy.shadow.reject", Takes::Reload),
    ("policy.shadow.on_temperror", Takes::Reload),
    ("policy.shadow.defer_at_most", Takes::Reload),
    ("policy.shadow.unusable_from", Takes::Reload),
    ("policy.shadow.honor_pct", Takes::Reload),
    ("policy.shadow.signs", Takes::Reload),
    ("policy.shadow.exempt_recipients", Takes::Reload),
    ("policy.shadow.trusted_sealers", Takes::Reload),
    ("policy.shadow.override.author_domain", Takes::Reload),
    ("policy.shadow.override.network", Takes::Reload),
    ("policy.shadow.override.host", Takes::Reload),
    ("policy.shadow.override.dkim", Takes::Reload),
    ("policy.shadow.override.spf", Takes::Reload),
    ("policy.shadow.override.arc_sealer", Takes::Reload),
    ("policy.shadow.override.list_id", Takes::Reload),
    ("policy.shadow.override.recipient_domain", Takes::Reload),
    ("policy.shadow.override.action", Takes::Reload),
    ("policy.shadow.override.note", Takes::Reload),
    ("policy.shadow.override.reason", Takes::Reload),
    ("policy.shadow.override.until", Takes::Reload),
    ("public_suffix.file", Takes::Restart),
    ("public_suffix.url", Takes::Restart),
    ("public_suffix.max_age", Takes::Restart),
    ("bypass.trusted_networks", Takes::Reload),
    ("bypass.client_certificates", Takes::Reload),
    ("bypass.authenticated", Takes::Reload),
    ("bypass.keep_results_from", Takes::Reload),
    ("limits.message_size", Takes::Reload),
    ("limits.header_size", Takes::Reload),
    ("limits.recipients", Takes::Reload),
    ("limits.signatures", Takes::Reload),
    ("limits.sessions", Takes::Reload),
    ("limits.sessions_per_network", Takes::Reload),
    ("limits.session_rate", Takes::Reload),
    ("limits.network_prefix_v4", Takes::Reload),
    ("limits.network_prefix_v6", Takes::Reload),
    ("limits.commands_without_mail", Takes::Reload),
    ("limits.header_fields", Takes::Reload),
    ("limits.received_fields", Takes::Reload),
    ("limits.data_rate", Takes::Reload),
    ("limits.errors", Takes::Reload),
    ("limits.lookups", Takes::Reload),
    ("timeouts.proxy_header", Takes::Reload),
    ("timeouts.first_command", Takes::Reload),
    ("timeouts.command", Takes::Reload),
    ("timeouts.data_block", Takes::Reload),
    ("timeouts.data", Takes::Reload),
    ("timeouts.evaluation", Takes::Reload),
    ("timeouts.tls_handshake", Takes::Restart),
    ("timeouts.upstream_connect", Takes::Reload),
    ("timeouts.upstream_slot", Takes::Reload),
    ("timeouts.upstream_open", Takes::Reload),
    ("timeouts.upstream_command", Takes::Reload),
    ("timeouts.upstream_final", Takes::Reload),
    ("timeouts.shutdown", Takes::Reload),
    ("results.received_spf", Takes::Reload),
    ("replies.refused", Takes::Reload),
    ("replies.overridden", Takes::Reload),
    ("replies.unusable_from", Takes::Reload),
    ("replies.deferred", Takes::Reload),
    ("replies.help_url", Takes::Reload),
    ("smtp.bare_newline", Takes::Reload),
    ("smtp.recipient_domains", Takes::Reload),
    ("smtp.banner", Takes::Reload),
    ("smtp.pregreet_delay", Takes::Reload),
    ("smtp.auth", Takes::Reload),
    ("smtp.hide_extensions", Takes::Reload),
    ("spool.directory", Takes::Restart),
    ("spool.memory", Takes::Restart),
    ("store.url", Takes::Restart),
    ("store.password_file", Takes::Restart),
    ("store.keep_comparisons", Takes::Restart),
    ("store.spill", Takes::Restart),
    ("store.keep", Takes::Restart),
    ("store.size", Takes::Restart),
    ("store.envelope_to", Takes::Reload),
    ("explain.enabled", Takes::Restart),
    ("explain.keep", Takes::Restart),
    ("explain.size", Takes::Restart),
    ("reports.enabled", Takes::Reload),
    ("reports.from", Takes::Reload),
    ("reports.organization", Takes::Reload),
    ("reports.contact", Takes::Reload),
    ("reports.format", Takes::Reload),
    ("reports.private_addresses", Takes::Reload),
    ("reports.dkim_key", Takes::Reload),
    ("reports.dkim_selector", Takes::Reload),
    ("reports.bounce_domain", Takes::Reload),
    ("reports.relay", Takes::Reload),
    ("reports.relay_tls", Takes::Reload),
    ("reports.relay_ca", Takes::Reload),
    ("reports.relay_user", Takes::Reload),
    ("reports.relay_password_file", Takes::Reload),
    ("reports.window", Takes::Reload),
    ("reports.honor_ri", Takes::Restart),
    ("reports.rate", Takes::Reload),
    ("reports.daily_cap", Takes::Reload),
    ("reports.deny", Takes::Reload),
    ("reports.reputation", Takes::Reload),
    ("reports.dry_run", Takes::Reload),
    ("reports.keep", Takes::Reload),
    ("reports.inbound.addresses", Takes::Reload),
    ("reports.inbound.senders", Takes::Reload),
    ("reports.inbound.message_size", Takes::Reload),
    ("reports.inbound.keep", Takes::Restart),
    ("reports.inbound.rows", Takes::Restart),
    ("reports.failure.enabled", Takes::Reload),
    ("reports.failure.content", Takes::Reload),
    ("reports.failure.canonicalized", Takes::Reload),
    ("reports.failure.redact", Takes::Reload),
    ("reports.failure.per_domain_per_hour", Takes::Reload),
    ("reports.failure.per_address_per_hour", Takes::Reload),
    ("reports.failure.per_destination_per_hour", Takes::Reload),
    ("reports.failure.per_hour", Takes::Reload),
    ("process.user", Takes::Restart),
    ("process.landlock", Takes::Restart),
    ("admin.address", Takes::Restart),
    ("admin.token_file", Takes::Restart),
    ("log.format", Takes::Restart),
    ("log.level", Takes::Reload),
    ("log.modules", Takes::Reload),
    ("log.personal_data", Takes::Reload),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Config, REFERENCE};

    const UPSTREAM: &str = "[upstream]\nservers = [\"127.0.0.1:10025\"]\n";

    fn lines(more: &str) -> Vec<Line> {
        Config::parse(&format!("hostname = \"mx.example.net\"\n{UPSTREAM}{more}")).unwrap().lines
    }

    #[test]
    fn every_key_has_its_place_in_the_table_and_no_other_has() {
        let one_override = "[[policy.override]]\nspf = \"a.example\"\naction = \"pass\"\nnote = \"n\"\n";
        let one_more = one_override.replace("policy.", "policy.shadow.");
        let a_listener = "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.policy]\noverride = []\n";
        let all = format!("{one_override}{one_more}{a_listener}");
        let known: BTreeSet<_> = lines(&all).iter().map(|line| general(&line.path()).to_owned()).collect();
        let table: BTreeSet<_> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
        assert_eq!(known, table);
        assert_eq!(KEYS.len(), table.len(), "a key stands in the table twice");
    }

    #[test]
    fn the_reference_says_of_each_key_whether_it_needs_a_restart() {
        let (mut table, mut comment) = (String::new(), String::new());
        let mut found = BTreeSet::new();
        for line in REFERENCE.lines() {
            let key = line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key);
            match (line.strip_prefix("# "), key) {
                (Some(text), _) => comment.push_str(text),
                (None, _) if line.trim_start_matches('#').starts_with('[') => {
                    (table, comment) = (line.replace(['[', ']', '#'], ""), String::new());
                }
                // The second table of a name shows no comments again.
                (None, Some(key)) => {
                    let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
                    if found.insert(general(&path).to_owned()) {
                        let said = comment.contains("needs a restart");
                        assert_eq!(said, kind(&path) == Takes::Restart, "{path}: {comment}");
                    }
                    comment.clear();
                }
                (None, None) => comment.clear(),
            }
        }
        assert_eq!(found.len(), KEYS.len());
    }

    #[test]
    fn a_change_is_named_by_its_key_and_kind() {
        let cases: &[(&str, &str, &[&str], &[&str])] = &[
            ("", "", &[], &[]),
            ("", "[policy]\nmode = \"enforce\"\n", &[], &[]),
            ("", "[policy]\nmode = \"tag\"\n[log]\nlevel = \"debug\"\n", &["policy.mode", "log.level"], &[]),
            ("[smtp]\nbanner = \"x\"\n", "", &["smtp.banner"], &[]),
            ("", "[dns]\ntimeout = \"1s\"\n[limits]\nlookups = 20\n", &["limits.lookups"], &["dns.timeout"]),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\n",
                "[[listener]]\naddress = \"127.0.0.1:2\"\n[[listener]]\naddress = \"127.0.0.1:1\"\n",
                &[],
                &[],
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\n",
                "[[listener]]\naddress = \"127.0.0.1:2\"\nproxy_protocol_from = [\"10.0.0.0/8\"]\n",
                &["listener.proxy_protocol_from"],
                &["listener.address"],
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n",
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nreuse_port = true\n",
                &[],
                &["listener.reuse_port"],
            ),
            // A listener's own settings.
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n",
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.policy]\nmode = \"tag\"\n",
                &["listener.policy.mode"],
                &[],
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.policy]\nmode = \"tag\"\n",
                "[policy]\nmode = \"tag\"\nreject = \"always\"\n[[listener]]\naddress = \"127.0.0.1:1\"\n",
                &["policy.mode", "policy.reject"],
                &[],
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.bypass]\nauthenticated = false\n\
                 [[listener]]\naddress = \"127.0.0.1:2\"\n",
                "[[listener]]\naddress = \"127.0.0.1:2\"\n[listener.bypass]\nauthenticated = false\n\
                 [[listener]]\naddress = \"127.0.0.1:1\"\nrecipient_domains = [\"a.example\"]\n",
                &["listener.recipient_domains", "listener.bypass.authenticated"],
                &[],
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n",
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.policy]\noverride = []\n",
                &["listener.policy.override"],
                &[],
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\n[listener.policy]\n\
                 mode = \"tag\"\n[[listener.policy.override]]\nspf = \"a.example\"\naction = \"pass\"\nnote = \"n\"\n",
                "[[listener]]\naddress = \"127.0.0.1:1\"\n",
                &[],
                &["listener.address"],
            ),
        ];
        for (old, new, applied, restart) in cases {
            let changes = InForce::new(lines(old)).replace(lines(new));
            assert_eq!((changes.applied, changes.restart), (owned(applied), owned(restart)), "{old} -> {new}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_said_until_it_is_taken_back() {
        let mut in_force = InForce::new(lines(""));
        let moved = "[admin]\naddress = \"127.0.0.1:1\"\n[policy]\nmode = \"tag\"\n";
        let expected =
            |applied: &[&str], restart: &[&str]| Changes { applied: owned(applied), restart: owned(restart) };
        assert_eq!(in_force.replace(lines(moved)), expected(&["policy.mode"], &["admin.address"]));
        assert_eq!(in_force.replace(lines(moved)), expected(&[], &["admin.address"]));
        assert_eq!(in_force.replace(lines("")), expected(&["policy.mode"], &[]));
    }

    fn owned(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }
}
