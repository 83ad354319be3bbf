//! What several keys say together.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::clock::epoch_seconds_signed;
use crate::config::document::Document;
use crate::config::{
    Config, Host, Identity, ListenerTls, Mode, OnTempError, OnUnusableFrom, Override, Policy, RecipientDomain, Reject,
    ServerAddress, SwitchableSign, UpstreamTls,
};
use crate::label::Label;
use crate::policy::LocalPolicy;
use crate::policy::corroboration::Sign;
use crate::policy::overrides::OverrideAction;

/// Adds what is wrong to the document's problems.
pub fn check(config: &Config, document: &Document<'_>) {
    relay_guard(config, document);
    addresses(config, document);
    times(config, document);
    listeners(config, document);
    reports(config, document);
    if config.limits.header_size > config.limits.message_size {
        document.problem("limits.header_size", "is more than limits.message_size");
    }
}

/// What is allowed, but probably not meant.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.hostname.label_count() == 1 {
        let name = &config.hostname;
        warnings.push(format!("hostname is {name}, without a domain: other servers may refuse it as an EHLO name"));
    }
    let name = config.hostname.as_str();
    let oddity = match name.parse::<Ipv4Addr>() {
        Ok(_) => Some("an address"),
        Err(_) => name.contains('_').then_some("with an underscore"),
    };
    if let Some(oddity) = oddity {
        warnings
            .push(format!("hostname is {name}, {oddity}: no host has such a name, and other servers may refuse it"));
    }
    judgement_warnings(config, &mut warnings);
    listener_warnings(config, &mut warnings);
    if config.replies.help_url.is_some() && !config.replies().name_help_page() {
        warnings.push("replies.help_url has no effect: no text names {help_url}".to_owned());
    }
    tls_warnings(config, &mut warnings);
    report_warnings(config, &mut warnings);
    admin_warnings(config, &mut warnings);
    if config.policy.mode == Mode::Enforce && !config.explain.enabled {
        warnings.push("explain.enabled is false: nobody can look up the id that a refusal gives the sender".to_owned());
    }
    warnings
}

/// Who can see what the admin listener shows.
fn admin_warnings(config: &Config, warnings: &mut Vec<String>) {
    let address = config.admin.address;
    if address.ip().to_canonical().is_loopback() {
        return;
    }
    warnings.push(match config.admin.token_file {
        None => format!(
            "admin.address is {address}: whoever reaches it sees who sends mail here and what became of it; set \
             admin.token_file, or keep it on loopback"
        ),
        Some(_) => format!(
            "admin.address is {address}: token and pages cross the network in the clear; let a proxy with TLS stand before \
             it on loopback, or trust that network"
        ),
    });
}

/// What is odd about how messages are judged: in general, or at a listener, whose own tables then are the general ones.
fn judgement_warnings(config: &Config, warnings: &mut Vec<String>) {
    let policy = &config.policy;
    let shadow = policy.shadow.as_deref();
    if policy.mode != Mode::Enforce {
        warnings.push(format!("policy.mode is {}: nothing is refused", policy.mode));
    }
    // What the shadow takes over may be meant for it.
    if shadow.is_none_or(|shadow| shadow.mode.index() <= policy.mode.index()) {
        mode_warnings(policy, warnings);
    }
    network_warnings(config, warnings);
    if shadow.is_none_or(|shadow| shadow.signs != policy.signs || shadow.reject == policy.reject) {
        sign_warnings("policy", policy, warnings);
    }
    override_warnings(config, "policy", policy, warnings);
    if policy.mode == Mode::Monitor
        && !policy.overrides.is_empty()
        && shadow.is_none_or(|shadow| shadow.mode == Mode::Monitor || shadow.overrides != policy.overrides)
    {
        warnings.push("policy.override has no effect: policy.mode is monitor".to_owned());
    }
    shadow_warnings(config, warnings);
}

/// Keys that have no effect because of what others say.
fn mode_warnings(policy: &Policy, warnings: &mut Vec<String>) {
    let enforces = policy.mode == Mode::Enforce;
    let of_enforce = [
        ("policy.reject", policy.reject != Reject::Corroborated),
        ("policy.on_temperror", policy.on_temperror != OnTempError::DeferIfItMatters),
        ("policy.unusable_from", policy.unusable_from != OnUnusableFrom::Reject),
    ];
    for (key, _) in of_enforce.iter().filter(|(_, is_set)| *is_set && !enforces) {
        warnings.push(format!("{key} has no effect: policy.mode is {}", policy.mode));
    }
    let of_any =
        [("policy.honor_pct", policy.honor_pct), ("policy.trusted_sealers", !policy.trusted_sealers.is_empty())];
    for (key, _) in of_any.iter().filter(|(_, is_set)| *is_set && policy.mode == Mode::Monitor) {
        warnings.push(format!("{key} has no effect: policy.mode is monitor"));
    }
    if policy.defer_at_most != LocalPolicy::default().defer_at_most
        && (!enforces || policy.on_temperror == OnTempError::Pass)
    {
        let cause =
            if enforces { "policy.on_temperror is \"pass\"" } else { "nothing is deferred in this policy.mode" };
        warnings.push(format!("policy.defer_at_most has no effect: {cause}"));
    }
}

/// Networks whose trust is more, or less, than it seems.
fn network_warnings(config: &Config, warnings: &mut Vec<String>) {
    let trusted = &config.bypass.trusted_networks;
    if trusted.iter().any(|network| network.prefix_len() == 0) {
        warnings.push("bypass.trusted_networks holds the whole Internet: nothing is evaluated".to_owned());
        return;
    }
    for network in trusted {
        if network.network().is_loopback() {
            warnings.push(format!(
                "bypass.trusted_networks holds {network}, this machine: what comes through a proxy or a tunnel on it is not \
                 evaluated, wherever it comes from"
            ));
        }
        let covers = |balancers: &Vec<IpNet>| balancers.iter().any(|balancer| balancer.contains(network));
        if let Some(listener) = config.listeners.iter().find(|listener| covers(&listener.proxy_protocol_from)) {
            warnings.push(format!(
                "bypass.trusted_networks holds {network}, which is in proxy_protocol_from of the listener {}: there the client \
                 counts that the PROXY header names, not the balancer",
                listener.address
            ));
        }
        let has_upstream = |server: &&ServerAddress| match server.host {
            Host::Address(ip) => !ip.is_loopback() && network.contains(&ip),
            Host::Name(_) => false,
        };
        if let Some(server) = config.upstream.servers.iter().find(has_upstream) {
            warnings.push(format!(
                "bypass.trusted_networks holds {network}, with the upstream {server}: what it forwards through the gate is \
                 not evaluated"
            ));
        }
    }
}

/// What is odd about a listener's own settings.
fn listener_warnings(config: &Config, warnings: &mut Vec<String>) {
    for listener in &config.listeners {
        let at = |text: &str| format!("at the listener {}: {text}", listener.address);
        let repeats = [
            ("policy", listener.policy.as_ref() == Some(&config.policy)),
            ("bypass", listener.bypass.as_ref() == Some(&config.bypass)),
            ("recipient_domains", listener.recipient_domains.as_ref() == Some(&config.smtp.recipient_domains)),
        ];
        for (name, _) in repeats.iter().filter(|(_, repeats)| *repeats) {
            warnings.push(at(&format!("listener.{name} has no effect: it says what holds in general")));
        }
        let here = config.at(listener);
        let mut own = Vec::new();
        judgement_warnings(&here, &mut own);
        let named = here.bypass.client_certificates.len();
        if named > 0 && listener.tls == ListenerTls::Off && (listener.bypass.is_some() || config.listeners.len() == 1) {
            own.push("bypass.client_certificates has no effect: listener.tls is \"off\"".to_owned());
        }
        // What holds in general was said.
        own.retain(|warning| !warnings.contains(warning));
        warnings.extend(own.iter().map(|warning| at(warning)));
    }
    let has_tls = config.listeners.iter().any(|listener| listener.tls != ListenerTls::Off);
    if !config.bypass.client_certificates.is_empty() && !has_tls && config.listeners.len() > 1 {
        warnings.push("bypass.client_certificates has no effect: every listener.tls is \"off\"".to_owned());
    }
}

/// Signs that are switched off where none would count, and all of them.
fn sign_warnings(name: &str, policy: &Policy, warnings: &mut Vec<String>) {
    let counts = |sign| policy.signs.contains(&SwitchableSign(sign));
    let off = Sign::SWITCHABLE.into_iter().filter(|sign| !counts(*sign));
    // It counts under any policy.reject.
    let off = off.filter(|sign| *sign != Sign::UnsignedEnd).count();
    if off > 0 && policy.reject != Reject::Corroborated {
        warnings.push(format!("{name}.signs has no effect: {name}.reject is \"{}\"", policy.reject));
    } else if policy.signs.is_empty() {
        warnings.push(format!(
            "{name}.signs is empty, so that {name}.reject = \"corroborated\" is much as \"always\", against RFC 9989 \
             section 7.4"
        ));
    }
}

/// A shadow policy that says nothing new, or that can't see what it asks for.
fn shadow_warnings(config: &Config, warnings: &mut Vec<String>) {
    let policy = &config.policy;
    let Some(shadow) = policy.shadow.as_deref() else { return };
    let name = "policy.shadow";
    if *shadow == (Policy { shadow: None, ..policy.clone() }) {
        warnings.push(format!("{name} says nothing new: it is as [policy]"));
    }
    if (&shadow.signs, shadow.reject) != (&policy.signs, policy.reject) {
        sign_warnings(name, shadow, warnings);
    }
    if shadow.overrides == policy.overrides {
        return;
    }
    override_warnings(config, name, shadow, warnings);
    if shadow.mode == Mode::Monitor && !shadow.overrides.is_empty() {
        warnings.push(format!("{name}.override has no effect: {name}.mode is monitor"));
    }
    let asks = |one: &Override| !one.host.is_empty();
    if shadow.overrides.iter().any(asks) && !policy.overrides.iter().any(asks) {
        let identity = config.upstream.identity;
        let known = if identity.tells_name() { "may come too late" } else { "is not looked up" };
        warnings.push(format!(
            "{name}.override with host may not match: for a shadow no name is asked for, and with upstream.identity = \
             \"{identity}\" it {known}"
        ));
    }
}

/// Overrides that can never fit, fit no more, or let forgeries through.
fn override_warnings(config: &Config, policy_name: &str, policy: &Policy, warnings: &mut Vec<String>) {
    let overrides = &policy.overrides;
    let today = Date::of_day(epoch_seconds_signed() / SECONDS_PER_DAY);
    for (place, one) in overrides.iter().enumerate() {
        let name = format!("{policy_name}.override {} (\"{}\")", place + 1, one.note);
        let criteria = one.criteria();
        if let Some(until) = one.until.filter(|until| *until <= today) {
            warnings.push(format!("{name} has no effect any more: it held until {until}"));
        }
        let earlier = overrides.iter().take(place).position(|o| o.until.is_none() && o.criteria().cover(&criteria));
        if let Some(earlier) = earlier {
            warnings.push(format!(
                "{name} has no effect: whatever it fits is taken by {policy_name}.override {}",
                earlier + 1
            ));
        }
        if one.action == OverrideAction::Pass && criteria.hang_on_claims_alone() {
            warnings
                .push(format!("{name} lets anyone's mail through that claims to be what it fits: nothing is verified"));
        }
        let trusted = |network: &IpNet| config.bypass.trusted_networks.iter().any(|trusted| trusted.contains(network));
        if !criteria.networks.is_empty() && criteria.networks.iter().all(trusted) {
            warnings.push(format!("{name} has no effect: its networks are in bypass.trusted_networks"));
        }
    }
}

/// Reports that their readers will not trust, or that go nowhere.
fn report_warnings(config: &Config, warnings: &mut Vec<String>) {
    let reports = &config.reports;
    if !reports.enabled {
        if reports.failure.enabled {
            warnings.push("reports.failure.enabled has no effect: reports.enabled is false".to_owned());
        }
        return;
    }
    if reports.dkim_key.0.is_empty() {
        warnings.push("reports.dkim_key is not set: reports are not signed, and many readers refuse them".to_owned());
    }
    if let Some(directory) = &reports.dry_run {
        let directory = directory.display();
        warnings.push(format!("reports.dry_run is set: reports are written to {directory}, and none is sent"));
    }
}

/// What would have no effect, and be believed to have one.
fn tls_warnings(config: &Config, warnings: &mut Vec<String>) {
    let upstream = &config.upstream;
    let verifies = matches!(upstream.tls, UpstreamTls::Required | UpstreamTls::Implicit);
    let pins = !upstream.tls_pin.is_empty();
    let name = "upstream.tls_name";
    let keys = [(name, upstream.tls_name.is_some()), ("upstream.tls_ca", upstream.tls_ca.is_some())];
    for (key, is_set) in keys.into_iter().chain([("upstream.tls_pin", pins)]).filter(|_| !verifies) {
        if is_set {
            warnings.push(format!("{key} has no effect: with upstream.tls = \"{}\" nothing is verified", upstream.tls));
        }
    }
    if verifies && pins && upstream.tls_ca.is_some() {
        warnings.push("upstream.tls_ca has no effect: upstream.tls_pin says which keys are believed".to_owned());
    }
    let serves = |tls| config.listeners.iter().any(|listener| listener.tls == tls);
    if !config.tls.certificate.0.is_empty() && !serves(ListenerTls::StartTls) && !serves(ListenerTls::Implicit) {
        warnings.push("tls.certificate has no effect: every listener.tls is \"off\"".to_owned());
    }
    if config.listeners.iter().any(|listener| listener.require_tls) && !config.tls.hide_from.is_empty() {
        warnings.push("clients in tls.hide_from can send nothing where listener.require_tls is true".to_owned());
    }
}

/// An upstream that can't see the client must not relay for everyone (README, relay guard): at no port.
fn relay_guard(config: &Config, document: &Document<'_>) {
    let identity = config.upstream.identity;
    let hides = matches!(identity, Identity::Received | Identity::None);
    let unguarded: Vec<_> = config.listeners.iter().filter(|listener| config.guard_at(listener).is_empty()).collect();
    if hides && !unguarded.is_empty() {
        let addresses = unguarded.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>().join(", ");
        let message = format!(
            "\"{}\" hides the client from the upstream, which then may relay for everyone: set \
             smtp.recipient_domains to the domains that it takes mail for (or to [\"*\"] if it is known to guard \
             itself), or recipient_domains of each listener; now nothing guards {addresses}",
            identity.as_str()
        );
        document.problem("upstream.identity", &message);
    }
    let message = "\"*\" stands for every domain and can't have others beside it";
    let is_odd = |domains: &[RecipientDomain]| domains.contains(&RecipientDomain::Any) && domains.len() > 1;
    if is_odd(&config.smtp.recipient_domains) {
        document.problem("smtp.recipient_domains", message);
    }
    for (place, listener) in config.listeners.iter().enumerate() {
        if listener.recipient_domains.as_deref().is_some_and(is_odd) {
            document.problem_in(place, "listener.recipient_domains", message);
        }
    }
}

/// TLS that nothing could be shown for, or that is demanded where it is not offered.
fn listeners(config: &Config, document: &Document<'_>) {
    for (place, listener) in config.listeners.iter().enumerate() {
        if listener.tls != ListenerTls::Off && config.tls.certificate.0.is_empty() {
            let message = format!("\"{}\" needs tls.certificate and tls.key; without them only \"off\"", listener.tls);
            document.problem_in(place, "listener.tls", &message);
        }
        if listener.require_tls && listener.tls != ListenerTls::StartTls {
            let message = format!("goes with tls = \"starttls\" alone; here it is \"{}\"", listener.tls);
            document.problem_in(place, "listener.require_tls", &message);
        }
    }
}

/// A way to the relay that can't work, or that tells a password to whoever listens.
fn reports(config: &Config, document: &Document<'_>) {
    let reports = &config.reports;
    if reports.enabled && reports.relay.is_none() && config.upstream.identity.is_proxy() {
        let message = format!(
            "is not set, and with upstream.identity = \"{}\" the upstream wants a client named for each connection: \
             name a server, or another port of the upstream, that takes reports as they come",
            config.upstream.identity
        );
        document.problem("reports.relay", &message);
    }
    let is_safe = match &reports.relay {
        Some(relay) => is_loopback(relay) || matches!(reports.relay_tls, UpstreamTls::Required | UpstreamTls::Implicit),
        None => config.auth_offer() != crate::config::AuthOffer::Never,
    };
    if reports.relay_user.is_some() && !is_safe {
        let message = "the password would be told in the clear: set relay_tls to \"required\" or \"implicit\"";
        document.problem("reports.relay_user", message);
    }
}

fn is_loopback(server: &ServerAddress) -> bool {
    match &server.host {
        Host::Address(ip) => ip.is_loopback(),
        Host::Name(name) => name.as_str() == "localhost",
    }
}

/// Two listeners, or listener and admin, that the kernel does not let have their addresses both; an upstream that is
/// ourselves.
fn addresses(config: &Config, document: &Document<'_>) {
    for (place, listener) in config.listeners.iter().enumerate().filter(|(_, listener)| listener.address.port() != 0) {
        let clash = config.listeners.iter().take(place).find(|other| {
            // Of two that both share their port the kernel takes the one that says more.
            let is_shared = listener.reuse_port && other.reuse_port && listener.address != other.address;
            !is_shared && clash(listener.address, other.address)
        });
        if let Some(other) = clash {
            let message = match listener.address == other.address {
                true => format!("{} is used by another listener, too", listener.address),
                false => format!("{} and another listener's {} are one port", listener.address, other.address),
            };
            document.problem_in(place, "listener.address", &message);
        }
        if let Some(server) = config.upstream.servers.iter().find(|server| is_own(server, listener.address)) {
            document.problem("upstream.servers", &format!("{server} is a listener of this gate: mail would loop"));
        }
    }
    let admin = config.admin.address;
    if let Some(listener) = config.listeners.iter().find(|listener| clash(listener.address, admin)) {
        let message = match listener.address == admin {
            true => format!("{admin} is used by a listener, too"),
            false => format!("{admin} and a listener's {} are one port", listener.address),
        };
        document.problem("admin.address", &message);
    }
}

/// Whether the kernel lets only one of two sockets have its address: 0.0.0.0 takes the port of all of IPv4, `[::]` that
/// of all of IPv6 and nothing of IPv4. A link-local address is another on each interface.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address| if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 };
    let is_everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (is_everywhere || one.ip() == other.ip() && scope(one) == scope(other))
}

/// Whether a connection to `server` would come to the listener at `address`.
fn is_own(server: &ServerAddress, address: SocketAddr) -> bool {
    let Host::Address(host) = server.host else { return false };
    let everywhere = address.ip().is_unspecified() && host.is_loopback() && host.is_ipv4() == address.is_ipv4();
    server.port == address.port() && (host == address.ip() || everywhere)
}

/// A client waits ten minutes for the reply to its final dot, then sends the message again (RFC 5321 §4.5.3.2.6).
fn times(config: &Config, document: &Document<'_>) {
    let timeouts = &config.timeouts;
    if timeouts.evaluation + timeouts.upstream_final >= CLIENT_PATIENCE {
        let message = "together with timeouts.evaluation this is ten minutes or more: clients give up by then and send \
                       the message again (RFC 5321 section 4.5.3.2.6)";
        document.problem("timeouts.upstream_final", message);
    }
}

/// How long a client waits for the reply after the dot.
const CLIENT_PATIENCE: Duration = Duration::from_secs(600);
