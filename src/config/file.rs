//! The file as written: every key, once, with its default and range.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::action::reply_text::{DEFERRED, OVERRIDDEN, REFUSED, UNUSABLE_FROM, text_of_ours};
use crate::action::template::{HelpUrl, Placeholder};
use crate::config::document::{Document, Section};
use crate::config::reach::Process;
use crate::config::{
    Admin, AuthOffer, BareNewline, Bypass, ByteSize, Canonicalized, Config, Discovery, Dns, Explain, Extent,
    FailureReports, Format, Identity, Inbound, Limits, ListUrl, Listener, ListenerTls, Log, LogFormat, LogLevel,
    Mailbox, Mode, OnTempError, OnUnusableFrom, OneOrMore, Override, PersonalData, Policy, PrivateAddresses,
    PublicSuffix, Reject, Replies, Reports, Reputation, Results, Selection, Senders, Smtp, Spool, Store,
    SwitchableSign, Timeouts, Tls, Upstream, UpstreamTls,
};
use crate::domain::Domain;
use crate::policy::corroboration::Sign;
use crate::policy::overrides::{Criteria, OverrideAction};
use crate::process::Landlock;
use crate::report::recipient::Address;
use crate::store::{Location, Retention, inbound};

/// Reads all tables. Problems are in the document afterwards; the values are then of no use.
pub fn read<'a>(document: &'a Document<'a>) -> Config {
    let (hostname, authserv_id, strip_authserv_ids) = document.top(TABLES, names);
    // First what listeners fall back on.
    let policy = document.table(POLICY, policy);
    let bypass = document.table(BYPASS, |section| bypass(section, &Bypass::default()));
    let smtp = document.table(SMTP, smtp);
    Config {
        hostname,
        authserv_id,
        strip_authserv_ids,
        listeners: listeners(document, (&policy, &bypass, &smtp)),
        tls: document.table("tls", tls),
        upstream: document.table("upstream", upstream),
        dns: document.table("dns", dns),
        policy,
        public_suffix: document.table("public_suffix", public_suffix),
        bypass,
        limits: document.table("limits", limits),
        timeouts: document.table("timeouts", timeouts),
        results: document.table("results", results),
        replies: document.table("replies", replies),
        smtp,
        spool: document.table("spool", spool),
        store: document.table("store", store),
        explain: document.table("explain", explain),
        reports: document.table("reports", reports),
        process: document.table("process", process),
        admin: document.table("admin", admin),
        log: document.table("log", log),
    }
}

#[expect(clippy::expect_used, reason = "the literal is a domain name")]
fn names(top: &mut Section<'_>) -> (Domain, Domain, Vec<Domain>) {
    let system = system_hostname();
    let known = system.is_some();
    // The fallback is never used: without a name there is a problem.
    let hostname = top.get("hostname", system.unwrap_or_else(|| Domain::parse("localhost").expect(SOUND)));
    if !known && !top.is_set("hostname") {
        top.problem("hostname", "is missing, and the system's host name is no domain name");
    }
    let authserv_id = top.get("authserv_id", hostname.clone());
    (hostname, authserv_id, top.get("strip_authserv_ids", Vec::new()))
}

/// The tables that a listener may replace for itself.
type General<'a> = (&'a Policy, &'a Bypass, &'a Smtp);

/// Without a `[[listener]]`: port 25 on every address.
fn listeners<'a>(document: &'a Document<'a>, general: General<'_>) -> Vec<Listener> {
    let any: [SocketAddr; 2] = [(Ipv4Addr::UNSPECIFIED, SMTP_PORT).into(), (Ipv6Addr::UNSPECIFIED, SMTP_PORT).into()];
    let listeners = document.tables(LISTENER, |section| listener(section, None, general));
    if !listeners.is_empty() {
        return listeners;
    }
    let each = any.into_iter().enumerate();
    each.map(|(i, address)| document.absent(LISTENER, i, |section| listener(section, Some(address), general))).collect()
}

fn listener(section: &mut Section<'_>, default: Option<SocketAddr>, general: General<'_>) -> Listener {
    let (policy, bypass, smtp) = general;
    let address = match default {
        Some(address) => section.get("address", address),
        None => section.required("address", r#""0.0.0.0:25""#).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()),
    };
    let tls = section.get("tls", ListenerTls::Off);
    let require_tls = section.get("require_tls", false);
    let proxy_protocol_from = section.get("proxy_protocol_from", Vec::new());
    let reuse_port = section.get("reuse_port", false);
    let recipient_domains = section.inherit("recipient_domains", SMTP, smtp.recipient_domains.clone());
    let own_policy = section.table("policy", LISTENER_POLICY, Some(POLICY), |section| {
        let keys = policy_keys(section, policy);
        match section.is_set("override") {
            true => Policy { overrides: section.tables("override", LISTENER_OVERRIDE, read_override), ..keys },
            false => keys,
        }
    });
    let own_bypass = section.table("bypass", LISTENER_BYPASS, Some(BYPASS), |section| self::bypass(section, bypass));
    Listener {
        address,
        tls,
        require_tls,
        proxy_protocol_from,
        reuse_port,
        recipient_domains: section.is_set("recipient_domains").then_some(recipient_domains),
        policy: section.is_set("policy").then_some(own_policy),
        bypass: section.is_set("bypass").then_some(own_bypass),
    }
}

fn tls(section: &mut Section<'_>) -> Tls {
    let none = || OneOrMore(Vec::new());
    let certificate: OneOrMore<PathBuf> = section.optional("certificate").unwrap_or_else(none);
    let key: OneOrMore<PathBuf> = section.optional("key").unwrap_or_else(none);
    if certificate.0.len() != key.0.len() {
        let (certificates, keys) = (certificate.0.len(), key.0.len());
        match (certificates, keys) {
            (_, 0) => section.problem("key", "is missing: tls.certificate needs its key"),
            (0, _) => section.problem("certificate", "is missing: tls.key needs its certificate"),
            _ => section.problem(
                "key",
                &format!("has {keys} keys for {certificates} certificates; expected as many, in the same order"),
            ),
        }
    }
    Tls { certificate, key, hide_from: section.get("hide_from", Vec::new()) }
}

fn upstream(section: &mut Section<'_>) -> Upstream {
    let servers = section.required("servers", r#"["127.0.0.1:10025"] in the table [upstream]"#);
    if servers.as_ref().is_some_and(Vec::is_empty) {
        section.problem("servers", "needs at least one server");
    }
    let selection = section.get("selection", Selection::Ordered);
    let connections = section.within("connections", 1000, 1..=100_000);
    let identity = section.get("identity", Identity::Auto);
    let tls = section.get("tls", UpstreamTls::Off);
    let (tls_name, tls_ca) = (section.optional("tls_name"), section.optional("tls_ca"));
    let tls_pin = section.get("tls_pin", Vec::new());
    let auth_over_plain = section.get("auth_over_plain", false);
    let hold = section.within("hold", seconds(30), SHORTEST..=minutes(30));
    let idle = section.within("idle", seconds(10), SHORTEST..=minutes(5));
    Upstream {
        servers: servers.unwrap_or_default(),
        selection,
        connections,
        identity,
        tls,
        tls_name,
        tls_ca,
        tls_pin,
        auth_over_plain,
        hold,
        idle,
    }
}

fn dns(section: &mut Section<'_>) -> Dns {
    Dns {
        servers: section.get("servers", Vec::new()),
        ca: section.optional("ca"),
        timeout: section.within("timeout", seconds(5), SHORTEST..=minutes(1)),
        cache_entries: section.within("cache_entries", 200_000, 1000..=100_000_000),
    }
}

fn policy(section: &mut Section<'_>) -> Policy {
    let exempt = ["postmaster", "abuse"].map(|name| Mailbox { local_part: name.to_owned(), domain: None });
    let built_in = Policy {
        mode: Mode::Enforce,
        reject: Reject::Corroborated,
        on_temperror: OnTempError::DeferIfItMatters,
        defer_at_most: minutes(4 * 60),
        unusable_from: OnUnusableFrom::Reject,
        honor_pct: false,
        signs: Sign::SWITCHABLE.map(SwitchableSign).into(),
        discovery: Discovery::TreeWalk,
        exempt_recipients: exempt.into(),
        trusted_sealers: Vec::new(),
        overrides: Vec::new(),
        shadow: None,
    };
    let keys = policy_keys(section, &built_in);
    let discovery = section.get("discovery", built_in.discovery);
    let policy = Policy { discovery, overrides: section.tables("override", OVERRIDE, read_override), ..keys };
    let shadow = section.is_set("shadow").then(|| {
        let read = |section: &mut Section<'_>| shadow(section, &policy);
        Box::new(section.table("shadow", SHADOW, Some("policy"), read))
    });
    Policy { shadow, ..policy }
}

/// What isn't set is as in the policy in force, and so are the overrides if it has none of its own.
fn shadow(section: &mut Section<'_>, in_force: &Policy) -> Policy {
    let keys = policy_keys(section, in_force);
    if !section.is_set("override") {
        return keys;
    }
    Policy { overrides: section.tables("override", SHADOW_OVERRIDE, read_override), ..keys }
}

/// The keys that say what is done with a message, wherever they stand, without tables of overrides; what isn't set is
/// as in `general`.
fn policy_keys(section: &mut Section<'_>, general: &Policy) -> Policy {
    let longest = minutes(7 * 24 * 60);
    Policy {
        mode: section.get("mode", general.mode),
        reject: section.get("reject", general.reject),
        on_temperror: section.get("on_temperror", general.on_temperror),
        defer_at_most: section.within("defer_at_most", general.defer_at_most, SHORTEST..=longest),
        unusable_from: section.get("unusable_from", general.unusable_from),
        honor_pct: section.get("honor_pct", general.honor_pct),
        signs: section.get("signs", general.signs.clone()),
        discovery: general.discovery,
        exempt_recipients: section.get("exempt_recipients", general.exempt_recipients.clone()),
        trusted_sealers: section.get("trusted_sealers", general.trusted_sealers.clone()),
        overrides: general.overrides.clone(),
        shadow: None,
    }
}

fn read_override(section: &mut Section<'_>) -> Override {
    let domains = |section: &mut Section<'_>, key| {
        let OneOrMore(domains): OneOrMore<Domain> = section.get(key, OneOrMore(Vec::new()));
        if domains.iter().any(|domain| domain.label_count() < 2) {
            section.problem(key, "a name of one label stands for a whole top-level domain, and all below it");
        }
        domains
    };
    let read = Override {
        author_domain: domains(section, "author_domain"),
        network: section.get("network", OneOrMore(Vec::new())).0,
        host: domains(section, "host"),
        dkim: domains(section, "dkim"),
        spf: domains(section, "spf"),
        arc_sealer: domains(section, "arc_sealer"),
        list_id: domains(section, "list_id"),
        recipient_domain: domains(section, "recipient_domain"),
        action: section.required("action", r#""pass""#).unwrap_or(OverrideAction::Reject),
        note: section.required("note", r#""our own newsletter service""#).unwrap_or_default(),
        reason: section.optional("reason"),
        until: section.optional("until"),
    };
    if section.is_set("note") && !is_note(&read.note) {
        section.problem("note", "expected one line of 1 to 200 characters");
    }
    let criteria = read.criteria();
    if criteria == Criteria::default() {
        section.problem_of_all("fits every message: name a network, a host, a domain or whatever else it is about");
    } else if !criteria.list_ids.is_empty() && criteria.hang_on_claims_alone() {
        let message =
            "anyone can write a List-Id: name what is verified beside it (network, host, dkim, spf, arc_sealer)";
        section.problem("list_id", message);
    }
    read
}

/// Whether a text can stand in a line of the log and in a report.
fn is_note(text: &str) -> bool {
    (1..=200).contains(&text.chars().count()) && !text.contains(char::is_control)
}

fn public_suffix(section: &mut Section<'_>) -> PublicSuffix {
    PublicSuffix {
        file: section.get("file", PathBuf::from("/var/lib/dmarcgate/public_suffix_list.dat")),
        url: section.get("url", ListUrl(publicsuffix::LIST_URL.to_owned())),
        max_age: section.within("max_age", minutes(15 * 24 * 60), minutes(60)..=minutes(365 * 24 * 60)),
    }
}

fn bypass(section: &mut Section<'_>, general: &Bypass) -> Bypass {
    Bypass {
        trusted_networks: section.get("trusted_networks", general.trusted_networks.clone()),
        client_certificates: section.get("client_certificates", general.client_certificates.clone()),
        authenticated: section.get("authenticated", general.authenticated),
        keep_results_from: section.get("keep_results_from", general.keep_results_from.clone()),
    }
}

fn limits(section: &mut Section<'_>) -> Limits {
    let mut size =
        |key, default, least, most| section.within(key, ByteSize(default), ByteSize(least)..=ByteSize(most)).0;
    Limits {
        message_size: size("message_size", 50 * MEBI, 64 * KIBI, 2 * GIBI),
        header_size: size("header_size", MEBI, 16 * KIBI, 64 * MEBI),
        data_rate: size("data_rate", 100, 0, MEBI),
        header_fields: section.within("header_fields", 1000, 100..=100_000),
        received_fields: section.within("received_fields", 100, 10..=10_000),
        recipients: section.within("recipients", 1000, 1..=100_000),
        signatures: section.within("signatures", 20, 1..=100),
        sessions: section.within("sessions", 10_000, 1..=1_000_000),
        sessions_per_network: section.within("sessions_per_network", 5000, 0..=1_000_000),
        session_rate: section.within("session_rate", 0, 0..=1_000_000),
        network_prefix_v4: section.within("network_prefix_v4", 32, 8..=32),
        network_prefix_v6: section.within("network_prefix_v6", 64, 16..=128),
        errors: section.within("errors", 20, 1..=10_000),
        commands_without_mail: section.within("commands_without_mail", 100, 10..=1_000_000),
        lookups: section.within("lookups", 300, 20..=10_000),
    }
}

fn timeouts(section: &mut Section<'_>) -> Timeouts {
    let mut time = |key, default, most| section.within(key, default, SHORTEST..=most);
    Timeouts {
        proxy_header: time("proxy_header", seconds(10), minutes(5)),
        tls_handshake: time("tls_handshake", seconds(30), minutes(5)),
        first_command: time("first_command", minutes(5), minutes(60)),
        command: time("command", minutes(5), minutes(60)),
        data_block: time("data_block", minutes(3), minutes(60)),
        data: time("data", minutes(30), minutes(24 * 60)),
        evaluation: time("evaluation", seconds(20), minutes(5)),
        upstream_slot: time("upstream_slot", seconds(5), minutes(1)),
        upstream_open: time("upstream_open", minutes(2), minutes(4)),
        upstream_connect: time("upstream_connect", seconds(10), minutes(4)),
        upstream_command: time("upstream_command", minutes(4), minutes(5)),
        upstream_final: time("upstream_final", minutes(9), minutes(10)),
        shutdown: time("shutdown", seconds(30), minutes(60)),
    }
}

fn results(section: &mut Section<'_>) -> Results {
    Results { received_spf: section.get("received_spf", false) }
}

fn replies(section: &mut Section<'_>) -> Replies {
    let help_url: Option<HelpUrl> = section.optional("help_url");
    // A placeholder that could never have a value is a mistake.
    let read = |section: &mut Section<'_>, key, default, never: &[Placeholder]| {
        let template = section.get(key, text_of_ours(default));
        for placeholder in never.iter().filter(|placeholder| template.names(**placeholder)) {
            section.problem(key, &format!("names {{{placeholder}}}, but such a message has none"));
        }
        if template.names(Placeholder::HelpUrl) && !section.is_set("help_url") {
            section.problem(key, "names {help_url}, but replies.help_url is not set");
        }
        template
    };
    let of_author = [Placeholder::Domain, Placeholder::PolicyDomain, Placeholder::Policy];
    Replies {
        refused: read(section, "refused", REFUSED, &[]),
        overridden: read(section, "overridden", OVERRIDDEN, &[]),
        unusable_from: read(section, "unusable_from", UNUSABLE_FROM, &of_author),
        deferred: read(section, "deferred", DEFERRED, &[]),
        help_url,
    }
}

fn smtp(section: &mut Section<'_>) -> Smtp {
    let banner: Option<String> = section.optional("banner");
    if banner.as_ref().is_some_and(|banner| !banner.is_ascii()) {
        section.problem("banner", "has characters that are not ASCII");
    }
    Smtp {
        bare_newline: section.get("bare_newline", BareNewline::Normalize),
        recipient_domains: section.get("recipient_domains", Vec::new()),
        banner,
        auth: section.get("auth", AuthOffer::UnderTls),
        hide_extensions: section.get("hide_extensions", Vec::new()),
        pregreet_delay: section.within("pregreet_delay", Duration::ZERO, Duration::ZERO..=seconds(10)),
    }
}

fn spool(section: &mut Section<'_>) -> Spool {
    Spool {
        directory: section.get("directory", PathBuf::from("/var/lib/dmarcgate/spool")),
        memory: section.within("memory", ByteSize(256 * MEBI), ByteSize(MEBI)..=ByteSize(1024 * GIBI)).0,
    }
}

fn store(section: &mut Section<'_>) -> Store {
    let url = section.get("url", Location::Sqlite(PathBuf::from("/var/lib/dmarcgate/dmarcgate.db")));
    let Retention { keep_rows, size, comparisons, .. } = Retention::default();
    // Below the least room a file can hold next to nothing; zero is none at all.
    let size = ByteSize(size.unwrap_or_default());
    let day = minutes(24 * 60);
    Store {
        url: url.with_password_file(section.optional("password_file")),
        spill: section.within("spill", ByteSize(256 * MEBI), ByteSize(0)..=ByteSize(64 * GIBI)).0,
        keep: section.within("keep", keep_rows, minutes(3 * 24 * 60)..=minutes(3660 * 24 * 60)),
        size: section.within("size", size, ByteSize(0)..=ByteSize(1024 * GIBI)).0,
        keep_comparisons: section.within("keep_comparisons", comparisons, day..=day * 365),
        envelope_to: section.get("envelope_to", false),
    }
}

fn explain(section: &mut Section<'_>) -> Explain {
    let Retention { keep, octets, .. } = Retention::default();
    Explain {
        enabled: section.get("enabled", true),
        keep: section.within("keep", keep, minutes(60)..=minutes(365 * 24 * 60)),
        size: section.within("size", ByteSize(octets), ByteSize(MEBI)..=ByteSize(1024 * GIBI)).0,
    }
}

fn reports(section: &mut Section<'_>) -> Reports {
    let enabled = section.get("enabled", false);
    let from: Option<Mailbox> = section.optional("from");
    match &from {
        Some(from) if from.domain.is_none() => {
            section.problem("from", "has no domain; expected an address such as \"dmarc-reports@example.net\"");
        }
        Some(from) if Address::parse(&from.to_string()).is_err() => {
            section.problem("from", "is no address that every mail server takes; expected one in ASCII");
        }
        _ => {}
    }
    let organization: Option<String> = section.optional("organization");
    let contact: Option<String> = section.optional("contact");
    for (key, text) in [("organization", &organization), ("contact", &contact)] {
        if text.as_ref().is_some_and(|text| !is_note(text)) {
            section.problem(key, "expected one line of 1 to 200 characters");
        }
    }
    for (key, is_set) in [("from", from.is_some()), ("organization", organization.is_some())] {
        if enabled && !is_set {
            section.problem("enabled", &format!("reports can't be sent without reports.{key}"));
        }
    }
    let none = || OneOrMore(Vec::new());
    let dkim_key: OneOrMore<PathBuf> = section.optional("dkim_key").unwrap_or_else(none);
    let dkim_selector: OneOrMore<Domain> = section.optional("dkim_selector").unwrap_or_else(|| OneOrMore(Vec::new()));
    if dkim_key.0.len() != dkim_selector.0.len() {
        let (keys, selectors) = (dkim_key.0.len(), dkim_selector.0.len());
        let message = format!("has {selectors} selectors for {keys} keys; expected as many, in the same order");
        section.problem("dkim_selector", &message);
    }
    let (relay_user, relay_password_file) = (section.optional("relay_user"), section.optional("relay_password_file"));
    if relay_user.is_some() != relay_password_file.is_some() {
        section.problem("relay_user", "goes together with relay_password_file");
    }
    let bounce_domain: Option<Domain> = section.optional("bounce_domain");
    if bounce_domain.is_some() && from.as_ref().is_some_and(|from| from.domain == bounce_domain) {
        section.problem("bounce_domain", "is the domain of from; expected one that is for bounces alone");
    }
    Reports {
        enabled,
        from,
        organization,
        contact,
        format: section.get("format", Format::Rfc9990),
        private_addresses: section.get("private_addresses", PrivateAddresses::Omit),
        dkim_key,
        dkim_selector,
        bounce_domain,
        relay: section.optional("relay"),
        relay_tls: section.get("relay_tls", UpstreamTls::Opportunistic),
        relay_ca: section.optional("relay_ca"),
        relay_user,
        relay_password_file,
        window: section.within("window", minutes(4 * 60), Duration::ZERO..=minutes(20 * 60)),
        honor_ri: section.get("honor_ri", false),
        rate: section.within("rate", 60, 1..=10_000),
        daily_cap: section.within("daily_cap", 500, 1..=1_000_000),
        deny: section.get("deny", Vec::new()),
        reputation: section.get("reputation", Reputation::On),
        dry_run: section.optional("dry_run"),
        keep: section.within("keep", minutes(90 * 24 * 60), minutes(7 * 24 * 60)..=minutes(3650 * 24 * 60)),
        inbound: section.table("inbound", INBOUND, None, inbound),
        failure: section.table("failure", "reports.failure", None, failure_reports),
    }
}

fn inbound(section: &mut Section<'_>) -> Inbound {
    let addresses: Vec<Mailbox> = section.get("addresses", Vec::new());
    for address in addresses.iter().filter(|address| address.domain.is_none()) {
        let message = format!("{address} has no domain; expected addresses such as \"dmarc@example.net\"");
        section.problem("addresses", &message);
    }
    let inbound::Retention { keep, rows } = inbound::Retention::default();
    Inbound {
        addresses,
        senders: section.get("senders", Senders::Verified),
        message_size: section.within("message_size", ByteSize(10 * MEBI), ByteSize(64 * KIBI)..=ByteSize(64 * MEBI)).0,
        keep: section.within("keep", keep, minutes(24 * 60)..=minutes(3650 * 24 * 60)),
        rows: section.within("rows", rows, 50_000..=100_000_000),
    }
}

fn failure_reports(section: &mut Section<'_>) -> FailureReports {
    FailureReports {
        enabled: section.get("enabled", false),
        content: section.get("content", Extent::Headers),
        canonicalized: section.get("canonicalized", Canonicalized::Nothing),
        redact: section.get("redact", true),
        per_domain_per_hour: section.within("per_domain_per_hour", 10, 1..=10_000),
        per_address_per_hour: section.within("per_address_per_hour", 50, 1..=10_000),
        per_destination_per_hour: section.within("per_destination_per_hour", 100, 1..=10_000),
        per_hour: section.within("per_hour", 500, 1..=100_000),
    }
}

fn process(section: &mut Section<'_>) -> Process {
    let user: Option<String> = section.optional("user");
    if user.as_ref().is_some_and(|user| user.is_empty() || user.contains(['\0', ':'])) {
        section.problem("user", "is no name of a user");
    }
    Process { user, landlock: section.get("landlock", Landlock::BestEffort) }
}

/// The admin listener, whatever else is wrong.
pub fn admin_of<'a>(document: &'a Document<'a>) -> Admin {
    document.table("admin", admin)
}

fn admin(section: &mut Section<'_>) -> Admin {
    Admin {
        address: section.get("address", (Ipv4Addr::LOCALHOST, ADMIN_PORT).into()),
        token_file: section.optional("token_file"),
    }
}

fn log(section: &mut Section<'_>) -> Log {
    Log {
        format: section.get("format", LogFormat::Human),
        level: section.get("level", LogLevel::Info),
        modules: section.get("modules", Vec::new()),
        personal_data: section.get("personal_data", PersonalData::Full),
    }
}

/// The name that the kernel has, if it can be a domain name.
fn system_hostname() -> Option<Domain> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    Domain::parse(name.ok()?.trim()).ok()
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// Whether there may be several tables of a name.
pub fn is_repeated(table: &str) -> bool {
    table == LISTENER || table.ends_with(".override")
}

/// The table of which there may be several.
pub const LISTENER: &str = "listener";
/// The names of tables that a listener may have for itself.
const LISTENER_POLICY: &str = "listener.policy";
const LISTENER_BYPASS: &str = "listener.bypass";
const LISTENER_OVERRIDE: &str = "listener.policy.override";
/// The names of those that hold where a listener says nothing.
const POLICY: &str = "policy";
const BYPASS: &str = "bypass";
const SMTP: &str = "smtp";
/// The table of reports that arrive.
const INBOUND: &str = "reports.inbound";
/// The name of the tables of overrides.
const OVERRIDE: &str = "policy.override";
/// The table of the policy that is never acted on; there is none without it.
pub const SHADOW: &str = "policy.shadow";
/// The name of its tables of overrides.
const SHADOW_OVERRIDE: &str = "policy.shadow.override";
/// All tables, in the order of the reference; a name that is missing here would be refused as an unknown key, which the
/// test of the reference shows.
pub const TABLES: &[&str] = &[
    LISTENER,
    "tls",
    "upstream",
    "dns",
    POLICY,
    "public_suffix",
    BYPASS,
    "limits",
    "timeouts",
    "results",
    "replies",
    SMTP,
    "spool",
    "store",
    "explain",
    "reports",
    "process",
    "admin",
    "log",
];
/// The shortest time that can be set: enough for tests, too short for anything else.
const SHORTEST: Duration = Duration::from_millis(10);
/// The port of SMTP.
const SMTP_PORT: u16 = 25;
/// The default port of the admin listener.
const ADMIN_PORT: u16 = 9125;
const KIBI: u64 = 1 << 10;
const MEBI: u64 = 1 << 20;
const GIBI: u64 = 1 << 30;
/// Literals of ours are well-formed.
const SOUND: &str = "a literal of ours is a domain name";
