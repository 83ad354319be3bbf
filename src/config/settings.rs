//! Makes the settings of each module from the configuration.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Config, Denied, Host, Identity, Inbound, Override, Policy, RecipientDomain, ServerAddress, SwitchableSign,
    UpstreamTls,
};
use crate::action;
use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::dns::resolver;
use crate::domain::Domain;
use crate::listener::networks;
use crate::message::header::AuthservIds;
use crate::message::spool;
use crate::policy::bypass::Bypass;
use crate::policy::corroboration::Sign;
use crate::policy::overrides::{Criteria, LocalOverride};
use crate::policy::{LocalPolicy, Pct};
use crate::report::aggregate::Reporter;
use crate::report::delivery::{self, Denial};
use crate::report::failure::limit::Rates;
use crate::report::failure::{Canonicalized, Extent};
use crate::report::message::Author;
use crate::report::recipient::Address;
use crate::report::{failure_reporter, inbound, relay, signing};
use crate::secret::Secret;
use crate::session;
use crate::session::patience;
use crate::session::receive::Bounds;
use crate::session::settings::{AuthOffer, PolicyTable, RelayGuard, Timeouts};
use crate::suffix_list;
use crate::tls::{self, CertificateFiles, Trust, TrustError};
use crate::upstream::probe::RelayTest;
use crate::upstream::security::Security;
use crate::upstream::servers::Servers;
use crate::upstream::{self, Blind};
use crate::verdict::{self, ExemptRecipient, RecipientsInRows, ShadowPolicy};
use crate::{listener, store};

/// Why reports can't be sent as they are configured; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ReportsError {
    /// Nobody is known who could vouch for the relay.
    #[error("reports.relay_tls: {0}")]
    Trust(#[from] TrustError),
    /// A key can't be read.
    #[error("reports.dkim_key: {path} can't be read", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key signs nothing.
    #[error("reports.dkim_key: {path} can't be used", path = path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        source: signing::Error,
    },
}

impl Override {
    /// What has to fit.
    pub fn criteria(&self) -> Criteria {
        Criteria {
            author_domains: self.author_domain.clone(),
            networks: self.network.clone(),
            hosts: self.host.clone(),
            dkim_domains: self.dkim.clone(),
            spf_domains: self.spf.clone(),
            arc_sealers: self.arc_sealer.clone(),
            list_ids: self.list_id.clone(),
            recipient_domains: self.recipient_domain.clone(),
        }
    }

    fn local(&self) -> LocalOverride {
        let end = |date: Date| u64::try_from(date.to_day().saturating_mul(SECONDS_PER_DAY)).unwrap_or_default();
        LocalOverride {
            criteria: self.criteria(),
            action: self.action,
            kind: self.reason,
            note: self.note.as_str().into(),
            until: self.until.map(end),
        }
    }
}

impl Policy {
    fn local(&self) -> LocalPolicy {
        LocalPolicy {
            mode: self.mode,
            reject: self.reject,
            on_temperror: self.on_temperror,
            defer_at_most: self.defer_at_most,
            unusable_from: self.unusable_from,
            pct: if self.honor_pct { Pct::Honored } else { Pct::Ignored },
            ignored_signs: self.ignored_signs(),
            trusted_sealers: self.trusted_sealers.clone(),
            overrides: self.overrides.iter().map(Override::local).collect(),
        }
    }

    fn exempt(&self) -> Vec<ExemptRecipient> {
        let exempt = self.exempt_recipients.iter().map(|mailbox| match &mailbox.domain {
            None => ExemptRecipient::LocalPart(mailbox.local_part.as_str().into()),
            Some(_) => ExemptRecipient::Address(mailbox.to_string().into()),
        });
        exempt.collect()
    }

    fn ignored_signs(&self) -> Vec<Sign> {
        Sign::SWITCHABLE.into_iter().filter(|sign| !self.signs.contains(&SwitchableSign(*sign))).collect()
    }
}

impl Config {
    /// For the sessions of one listener.
    pub fn session_at(&self, listener: &super::Listener, servers: Arc<Servers>) -> session::Settings {
        let policy_table = match listener.policy {
            Some(_) => PolicyTable::Listener,
            None => PolicyTable::General,
        };
        session::Settings { policy_table, ..self.at(listener).session(servers) }
    }

    /// For sessions, which hand them on to all that they call.
    fn session(&self, servers: Arc<Servers>) -> session::Settings {
        session::Settings {
            policy_table: PolicyTable::General,
            hostname: self.hostname.as_str().into(),
            banner: self.smtp.banner.as_deref().map(Into::into),
            patience: patience::Bounds {
                errors: size(self.limits.errors),
                commands: size(self.limits.commands_without_mail),
                recipients: size(self.limits.recipients),
            },
            data_rate: self.limits.data_rate,
            pregreet_delay: self.smtp.pregreet_delay,
            message: self.message(),
            bare_newline: self.smtp.bare_newline,
            relay_guard: self.relay_guard(),
            report_address: self.reports.from.as_ref().map(|from| from.to_string().into()),
            bounce_domain: self.reports.bounce_domain.clone(),
            failure_reports: self.failure_reports(),
            bypass: self.bypass(),
            hidden: self.smtp.hide_extensions.clone(),
            auth: self.auth_offer(),
            timeouts: Timeouts {
                first_command: self.timeouts.first_command,
                command: self.timeouts.command,
                data_block: self.timeouts.data_block,
                data: self.timeouts.data,
                evaluation: self.timeouts.evaluation,
            },
            verdict: self.verdict(),
            inbound: self.inbound(),
            servers,
        }
    }

    fn inbound(&self) -> inbound::Settings {
        let inbound = &self.reports.inbound;
        inbound::Settings {
            addresses: inbound.addresses.iter().map(|address| address.to_string().into()).collect(),
            senders: inbound.senders,
            message_size: inbound.message_size,
        }
    }

    /// What is kept of reports that arrive.
    pub fn inbound_retention(&self) -> store::inbound::Retention {
        let Inbound { keep, rows, .. } = self.reports.inbound;
        store::inbound::Retention { keep, rows }
    }

    /// What bounds a message.
    pub fn message(&self) -> Bounds {
        Bounds {
            message_size: self.limits.message_size,
            header_size: usize::try_from(self.limits.header_size).unwrap_or(usize::MAX),
            header_fields: size(self.limits.header_fields),
            received_fields: size(self.limits.received_fields),
            signatures: Some(size(self.limits.signatures)),
        }
    }

    /// For the judgement of messages.
    pub fn verdict(&self) -> verdict::Settings {
        let ids = std::iter::once(&self.authserv_id).chain(&self.strip_authserv_ids);
        verdict::Settings {
            policy: self.policy.local(),
            authserv_id: self.authserv_id.as_str().into(),
            receiver: self.results.received_spf.then(|| self.hostname.as_str().into()),
            own_ids: AuthservIds::new(ids),
            keep_results_from: self.bypass.keep_results_from.clone(),
            exempt_recipients: self.policy.exempt(),
            shadow: self
                .policy
                .shadow
                .as_ref()
                .map(|shadow| ShadowPolicy { policy: shadow.local(), exempt_recipients: shadow.exempt() }),
            replies: self.replies(),
            recipients_in_rows: match self.store.envelope_to {
                true => RecipientsInRows::ByDomain,
                false => RecipientsInRows::Omitted,
            },
        }
    }

    /// Whose mail is not evaluated.
    pub fn bypass(&self) -> Bypass {
        Bypass {
            trusted_networks: self.bypass.trusted_networks.clone(),
            client_certificates: self.bypass.client_certificates.as_slice().into(),
            authenticated: self.bypass.authenticated,
        }
    }

    /// What is said to clients whose message is refused or deferred.
    pub fn replies(&self) -> action::Replies {
        let super::Replies { refused, overridden, unusable_from, deferred, help_url } = self.replies.clone();
        action::Replies::new(refused, overridden, unusable_from, deferred, help_url)
    }

    /// For the link to the upstream.
    pub fn upstream(&self, security: Security) -> upstream::Settings {
        upstream::Settings {
            servers: self.upstream.servers.iter().map(|server| server.to_string().into()).collect(),
            security,
            tls_name: self.upstream.tls_name.as_ref().map(|name| name.to_string().into()),
            selection: self.upstream.selection,
            connections: size(self.upstream.connections),
            identity: self.upstream.identity,
            blind: if self.is_guarded() || self.hands_over() { Blind::Allowed } else { Blind::Refused },
            hostname: self.hostname.as_str().into(),
            hold: self.upstream.hold,
            idle: self.upstream.idle,
            // What the gate takes of its clients is what the upstream would.
            silence: self.timeouts.command.mul_f64(0.8),
            timeouts: upstream::Timeouts {
                slot: self.timeouts.upstream_slot,
                open: self.timeouts.upstream_open,
                connect: self.timeouts.upstream_connect,
                greeting: self.timeouts.upstream_command,
                command: self.timeouts.upstream_command,
                block: self.timeouts.data_block,
                final_reply: self.timeouts.upstream_final,
            },
        }
    }

    /// For TLS towards clients; none without a certificate.
    pub fn tls(&self) -> Option<tls::ServerSettings> {
        let pairs = self.tls.certificate.0.iter().zip(&self.tls.key.0);
        let certificates: Vec<_> = pairs
            .map(|(certificate, key)| CertificateFiles { certificate: certificate.clone(), key: key.clone() })
            .collect();
        (!certificates.is_empty()).then(|| tls::ServerSettings {
            certificates,
            hide_from: self.tls.hide_from.clone(),
            hostname: self.hostname.clone(),
            handshake: self.timeouts.tls_handshake,
        })
    }

    /// For TLS towards the upstream; none without it.
    pub fn upstream_tls(&self) -> Option<tls::ClientSettings> {
        let trust = match (self.upstream.tls, &*self.upstream.tls_pin, &self.upstream.tls_ca) {
            (UpstreamTls::Off, ..) => return None,
            (UpstreamTls::Opportunistic, ..) => Trust::Anyone,
            (UpstreamTls::Required | UpstreamTls::Implicit, [], None) => Trust::System,
            (UpstreamTls::Required | UpstreamTls::Implicit, [], Some(path)) => Trust::File(path.clone()),
            (UpstreamTls::Required | UpstreamTls::Implicit, pins, _) => Trust::Pins(pins.to_vec()),
        };
        Some(tls::ClientSettings { trust, handshake: self.timeouts.tls_handshake })
    }

    /// How the link to the upstream is protected.
    ///
    /// # Errors
    ///
    /// Whom to believe can't be read.
    pub fn security(&self, metrics: tls::ClientMetrics) -> Result<Security, TrustError> {
        let Some(settings) = self.upstream_tls() else { return Ok(Security::Off) };
        secured(self.upstream.tls, &settings, metrics)
    }

    /// Whether the probes try what the upstream relays: not if the operator says anywhere that it guards itself.
    pub fn relay_test(&self) -> RelayTest {
        let guards = self.listeners.iter().map(|listener| self.guard_at(listener));
        let trusts = guards.chain([&*self.smtp.recipient_domains]).any(|guard| guard.contains(&RecipientDomain::Any));
        if trusts { RelayTest::Skip } else { RelayTest::Run }
    }

    /// For the resolver.
    pub fn resolver(&self) -> resolver::Settings {
        resolver::Settings {
            servers: self.dns.servers.iter().map(|server| server.0.clone()).collect(),
            ca: self.dns.ca.clone(),
            timeout: self.dns.timeout,
            cache_entries: self.dns.cache_entries.into(),
            lookups_per_message: size(self.limits.lookups),
            ..resolver::Settings::default()
        }
    }

    /// For the spools.
    pub fn spool(&self) -> spool::Settings {
        spool::Settings { directory: self.spool.directory.clone(), memory: self.spool.memory }
    }

    /// For the store.
    pub fn store(&self) -> store::Settings {
        // A server's database holds other things too, and does not shrink when rows are deleted: what it holds is
        // bounded by age alone.
        let is_bounded = self.store.size > 0 && matches!(self.store.url, store::Location::Sqlite(_));
        let retention = store::Retention {
            keep: self.explain.keep,
            octets: self.explain.size,
            comparisons: self.store.keep_comparisons,
            keep_rows: self.store.keep,
            size: is_bounded.then_some(self.store.size),
            most: is_bounded.then(|| store::Retention::most(self.store.size)),
        };
        let path = self.spool.directory.join(SPILL_FILE);
        let spill = (self.store.spill > 0).then_some(store::SpillSettings { path, octets: self.store.spill });
        let periods = if self.reports.honor_ri { store::Periods::AsRequested } else { store::Periods::Days };
        store::Settings { retention, spill, periods, ..store::Settings::new(self.store.url.clone()) }
    }

    /// For reports of a gate that runs; none while it is to send none, and then no file of theirs is read.
    ///
    /// # Errors
    ///
    /// A file can't be read, or is not what it should be.
    pub fn reports_in_force(&self, metrics: tls::ClientMetrics) -> Result<Option<delivery::Settings>, ReportsError> {
        if self.reports.enabled { self.reports(metrics) } else { Ok(None) }
    }

    /// For reports; none as long as they lack a sender or a name.
    ///
    /// # Errors
    ///
    /// A file can't be read, or is not what it should be.
    pub fn reports(&self, metrics: tls::ClientMetrics) -> Result<Option<delivery::Settings>, ReportsError> {
        let reports = &self.reports;
        let (Some(from), Some(organization)) = (&reports.from, &reports.organization) else { return Ok(None) };
        // What is no address was refused when the file was read.
        let Ok(address) = Address::parse(&from.to_string()) else { return Ok(None) };
        let receiver = address.domain().clone();
        let pairs = reports.dkim_key.0.iter().zip(&reports.dkim_selector.0);
        let keys: Result<Vec<_>, _> = pairs.map(|(path, selector)| signing_key(path, &receiver, selector)).collect();
        let denied = reports.deny.iter().map(|denied| match denied {
            Denied::Domain(domain) => Denial::Domain(domain.clone()),
            Denied::Address(address) => Denial::Address(address.clone()),
        });
        Ok(Some(delivery::Settings {
            enabled: reports.enabled,
            reporter: Reporter {
                organization: organization.clone(),
                email: from.to_string(),
                extra_contact_info: reports.contact.clone(),
                receiver,
                format: reports.format,
            },
            private: reports.private_addresses,
            window: whole_seconds(reports.window),
            rate: reports.rate.into(),
            daily_cap: reports.daily_cap.into(),
            denied: denied.collect(),
            reputation: reports.reputation,
            dry_run: reports.dry_run.clone(),
            bounce_domain: reports.bounce_domain.clone(),
            keep: whole_seconds(reports.keep),
            author: Author { address, name: organization.clone() },
            keys: keys?.into(),
            relay: self.relay(metrics)?,
            failure: failure_reporter::Settings {
                enabled: reports.failure.enabled,
                extent: reports.failure.content,
                canonicalized: reports.failure.canonicalized,
                redact: reports.failure.redact,
                rates: Rates {
                    per_domain: reports.failure.per_domain_per_hour,
                    per_address: reports.failure.per_address_per_hour,
                    per_destination: reports.failure.per_destination_per_hour,
                    overall: reports.failure.per_hour,
                },
            },
        }))
    }

    /// What is kept of a message for failure reports; none if there are none.
    fn failure_reports(&self) -> Option<Extent> {
        let failure = &self.reports.failure;
        let kept = if failure.canonicalized == Canonicalized::Message { Extent::Message } else { failure.content };
        (self.reports.enabled && failure.enabled).then_some(kept)
    }

    /// The way to the server that sends reports: the first upstream, or one that is named.
    fn relay(&self, metrics: tls::ClientMetrics) -> Result<relay::Settings, TrustError> {
        let reports = &self.reports;
        let (security, server, tls_name) = match &reports.relay {
            None => (self.security(metrics)?, self.upstream.servers.first(), self.upstream.tls_name.as_ref()),
            Some(server) => {
                let trust = match (reports.relay_tls, &reports.relay_ca) {
                    (UpstreamTls::Off | UpstreamTls::Opportunistic, _) => Trust::Anyone,
                    (_, None) => Trust::System,
                    (_, Some(path)) => Trust::File(path.clone()),
                };
                let settings = tls::ClientSettings { trust, handshake: self.timeouts.tls_handshake };
                (secured(reports.relay_tls, &settings, metrics)?, Some(server), None)
            }
        };
        let link = upstream::Settings {
            servers: server.iter().map(|server| server.to_string().into()).collect(),
            tls_name: tls_name.map(|name| name.to_string().into()),
            identity: Identity::None,
            blind: Blind::Allowed,
            ..self.upstream(security)
        };
        let login = reports.relay_user.clone().zip(reports.relay_password_file.clone());
        Ok(relay::Settings { link, login: login.map(|(user, password_file)| relay::Login { user, password_file }) })
    }

    /// For the public suffix list.
    pub fn suffix_list(&self) -> suffix_list::Settings {
        suffix_list::Settings {
            discovery: self.policy.discovery,
            file: self.public_suffix.file.clone(),
            url: self.public_suffix.url.0.as_str().into(),
            max_age: self.public_suffix.max_age,
            first_pause: suffix_list::FIRST_PAUSE,
        }
    }

    /// For one listener.
    pub fn listener(&self, listener: &super::Listener) -> listener::Settings {
        listener::Settings {
            proxy_protocol_from: listener.proxy_protocol_from.clone(),
            proxy_header: self.timeouts.proxy_header,
            tls: listener.tls,
            require_tls: listener.require_tls,
            networks: networks::Bounds {
                sessions: self.limits.sessions_per_network,
                rate: self.limits.session_rate,
                prefix_v4: u8::try_from(self.limits.network_prefix_v4).unwrap_or(u8::MAX),
                prefix_v6: u8::try_from(self.limits.network_prefix_v6).unwrap_or(u8::MAX),
            },
        }
    }

    /// A list that is set always holds; without one, or with `*`, the upstream guards itself.
    fn relay_guard(&self) -> RelayGuard {
        let domains = self.smtp.recipient_domains.iter().map(|entry| match entry {
            RecipientDomain::Any => None,
            RecipientDomain::Domain(domain) => Some(domain.clone()),
        });
        match domains.collect::<Option<Vec<_>>>() {
            Some(domains) if !domains.is_empty() => RelayGuard::Domains(domains),
            _ => RelayGuard::Upstream,
        }
    }

    /// Where the link to the upstream could be overheard, no password goes over it unless the operator says so.
    pub fn auth_offer(&self) -> AuthOffer {
        let is_local = |server: &ServerAddress| match &server.host {
            Host::Address(ip) => ip.is_loopback(),
            Host::Name(name) => name.as_str() == "localhost",
        };
        let is_safe = self.upstream.auth_over_plain
            || matches!(self.upstream.tls, UpstreamTls::Required | UpstreamTls::Implicit)
            || self.upstream.servers.iter().all(is_local);
        if is_safe { self.smtp.auth } else { AuthOffer::Never }
    }

    /// The domains that recipients may be in at a listener; empty: not set.
    pub(super) fn guard_at<'a>(&'a self, listener: &'a super::Listener) -> &'a [RecipientDomain] {
        listener.recipient_domains.as_ref().unwrap_or(&self.smtp.recipient_domains)
    }

    /// A listener of this file with the guard that holds there for its own, which it keeps when the file forgets it.
    pub fn kept(&self, listener: &super::Listener) -> super::Listener {
        super::Listener { recipient_domains: Some(self.guard_at(listener).to_vec()), ..listener.clone() }
    }

    /// A listener that is not in this file any more but goes on until the restart. One without a guard takes any that
    /// the file has: an upstream that can't see the client may need it now.
    pub fn forgotten(&self, listener: &super::Listener) -> super::Listener {
        let guards = [self.guard_at(listener), &*self.smtp.recipient_domains].into_iter();
        let mut guards = guards.chain(self.listeners.iter().map(|listener| self.guard_at(listener)));
        let guard = guards.find(|guard| !guard.is_empty()).unwrap_or_default().to_vec();
        super::Listener { recipient_domains: Some(guard), ..listener.clone() }
    }

    /// Whether no listener lets anyone's mail through to whomever an upstream that can't see the client may relay it.
    fn is_guarded(&self) -> bool {
        self.listeners.iter().all(|listener| !self.guard_at(listener).is_empty())
    }

    /// Whether the client is handed over for certain, or not a single connection is used.
    fn hands_over(&self) -> bool {
        matches!(self.upstream.identity, Identity::Xclient | Identity::ProxyV1 | Identity::ProxyV2)
    }
}

fn signing_key(path: &Path, domain: &Domain, selector: &Domain) -> Result<signing::Key, ReportsError> {
    let unreadable = |source| ReportsError::Unreadable { path: path.to_owned(), source };
    let pem = Secret::new(std::fs::read(path).map_err(unreadable)?);
    let unfit = |source| ReportsError::Key { path: path.to_owned(), source };
    signing::Key::from_pem(domain.clone(), selector.as_str(), pem.expose()).map_err(unfit)
}

fn secured(
    tls: UpstreamTls,
    settings: &tls::ClientSettings,
    metrics: tls::ClientMetrics,
) -> Result<Security, TrustError> {
    let open = || tls::Client::open(settings, metrics);
    Ok(match tls {
        UpstreamTls::Off => Security::Off,
        UpstreamTls::Opportunistic => Security::Opportunistic(open()?),
        UpstreamTls::Required => Security::Required(open()?),
        UpstreamTls::Implicit => Security::Implicit(open()?),
    })
}

fn whole_seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The name of the store's spill file in the spool's directory.
const SPILL_FILE: &str = "rows.spill";
