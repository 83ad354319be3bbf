//! Facts as HTML; everything that a page says comes in as [`Facts`]. Pure.
//!
//! maud escapes every text and closes every tag; texts of peers come as [`Text`], without what could
//! reorder or hide them. Pages have no script and name nothing outside themselves but links to others of them.

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use super::facts::{
    Among, Dns, Facts, Failing, Forwarders, Gate, Inbound, Mail, Refused, Reports, Section, Shadow, Snippet, Store,
    Times, Upstream,
};
use super::history::MINUTES;
use super::plot::{Kind, bar, minutes};
use super::text::Text;
use super::{ALL, FEW};
use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::explain::Explanation;
use crate::label::Label;
use crate::label_enum;
use crate::session::Outcome;

/// The style sheet, as it stands in each page.
pub const STYLE: &str = include_str!("style.css");

/// What `/api/` has: everything, and each part of it.
pub const API: [&str; 12] = [
    "status",
    "gate",
    "mail",
    "refusals",
    "failing",
    "forwarders",
    "shadow",
    "dns",
    "upstream",
    "store",
    "reports",
    "inbound",
];

label_enum! {
    /// The pages, by their paths.
    pub enum View {
        /// All at a glance.
        Overview = "/",
        /// The last refusals.
        Refusals = "/refusals",
        /// Author domains that fail.
        Failing = "/failing",
        /// Forwarders.
        Forwarders = "/forwarders",
        /// The shadow policy.
        Shadow = "/shadow",
        /// Reports that are sent.
        Reports = "/reports",
        /// Reports of others.
        Inbound = "/inbound",
        /// What the API has.
        Api = "/api",
    }
}

impl View {
    /// The page of a path.
    pub fn of(path: &str) -> Option<Self> {
        Self::parse(path)
    }

    /// How many refusals it shows at most.
    pub fn refusals(self) -> usize {
        if self == Self::Refusals { ALL } else { FEW }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Refusals => "Refusals",
            Self::Failing => "Failing domains",
            Self::Forwarders => "Forwarders",
            Self::Shadow => "Shadow policy",
            Self::Reports => "Reports sent",
            Self::Inbound => "Reports received",
            Self::Api => "API",
        }
    }
}

/// What the API says under a name of [`API`].
pub fn api(name: &str, facts: &Facts) -> Option<String> {
    // Fails only for maps with keys that are no strings; there are none.
    let all = serde_json::to_value(facts).ok()?;
    let part = if name == "status" { &all } else { all.get(name)? };
    Some(serde_json::to_string_pretty(part).ok()? + "\n")
}

/// A page.
pub fn page(view: View, facts: &Facts) -> String {
    let body = html! {
        @match view {
            View::Overview => (overview(facts)),
            View::Refusals => (card("Refused or deferred", None, refusals(&facts.refusals))),
            View::Failing => (card("Author domains that fail DMARC", Some(age(facts, &facts.failing)),
                failing(&facts.failing, usize::MAX))),
            View::Forwarders => (card("Forwarders", Some(age(facts, &facts.forwarders)),
                forwarders(&facts.forwarders, usize::MAX))),
            View::Shadow => (card("Shadow policy", Some(age(facts, &facts.shadow)), shadow(&facts.shadow, usize::MAX))),
            View::Reports => (card("Reports sent", Some(age(facts, &facts.reports)), reports(facts, usize::MAX))),
            View::Inbound => (card("What others report", Some(age(facts, &facts.inbound)),
                inbound(&facts.inbound, usize::MAX))),
            View::Api => (card("API", None, api_list())),
        }
    };
    let name = if view == View::Overview {
        html! { (facts.gate.hostname) }
    } else {
        html! { (view.name()) }
    };
    document(&name, &facts.gate.hostname, Some(view), &html! { (banner(facts)) (body) })
}

/// The page of one message's story.
pub fn story(explanation: &Explanation, hostname: &Text) -> String {
    let body = html! {
        section.card {
            h2 { "What became of this message" }
            pre.story { (explanation.tell()) }
            p.note { "As kept under " code { "explain.keep" } "; the same as " code { "dmarcgate explain" } " tells." }
        }
    };
    document(&html! { "Message" }, hostname, None, &body)
}

fn document(name: &Markup, hostname: &Text, view: Option<View>, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex, nofollow";
                @if view == Some(View::Overview) { meta http-equiv="refresh" content="60"; }
                title { (name) " - dmarcgate" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    a.brand href="/" { (PreEscaped(MARK)) span { b { "dmarcgate" } small { (hostname) } } }
                    nav {
                        @for other in View::ALL {
                            @if view == Some(*other) {
                                a href=(other.as_str()) aria-current="page" { (other.name()) }
                            } @else {
                                a href=(other.as_str()) { (other.name()) }
                            }
                        }
                    }
                }
                main { (body) }
                footer { "All times are UTC. This page changes nothing and is the same as " a href="/api" { "the API" } "." }
            }
        }
    };
    page.into_string()
}

/// Whether all is well, in one line.
fn banner(facts: &Facts) -> Markup {
    let Gate { ready, lacking, mode, version, started, sessions, sessions_limit, panics, .. } = &facts.gate;
    html! {
        section.banner {
            @if *ready { span.pill.good { "ready for mail" } } @else { span.pill.bad { "not ready" } }
            @for lack in lacking { span.pill.bad { (lack.condition) ": " (lack.reason) } }
            @if *panics > 0 { span.pill.bad { (count(*panics)) " faults of ours: see the log" } }
            @if facts.store.lost > 0 { span.pill.bad { (count(facts.store.lost)) " rows lost" } }
            @if !facts.store.up && facts.store.appended > 0 { span.pill.bad { "the store takes no rows" } }
            @if facts.upstream.down > 0 { span.pill.bad { (count(facts.upstream.down)) " mail servers down" } }
            (certificate(facts))
            span { "mode " b { (mode) } }
            span { (count(*sessions)) " of " (count(*sessions_limit)) " sessions" }
            span { "version " (version) ", up " (span_of(facts.now - started)) }
            span.now { (moment(facts.now)) }
        }
    }
}

fn certificate(facts: &Facts) -> Markup {
    let left = facts.gate.certificate_expires - facts.now;
    html! {
        @if facts.gate.certificate_expires > 0 {
            @if left <= 0 { span.pill.bad { "a certificate has expired" } }
            @else if left < 14 * SECONDS_PER_DAY { span.pill.bad { "a certificate expires in " (span_of(left)) } }
        }
    }
}

fn overview(facts: &Facts) -> Markup {
    html! {
        (mail(facts))
        div.columns {
            (card("Refused or deferred", Some(more(View::Refusals)), refusals(&facts.refusals)))
            (card("Author domains that fail DMARC", Some(more(View::Failing)), failing(&facts.failing, FEW)))
            (card("Mail server", None, upstream(&facts.upstream)))
            (card("DNS", None, dns(&facts.dns)))
            (card("Forwarders", Some(more(View::Forwarders)), forwarders(&facts.forwarders, 3)))
            (card("Shadow policy", Some(more(View::Shadow)), shadow(&facts.shadow, 5)))
            (card("Reports sent", Some(more(View::Reports)), reports(facts, 5)))
            (card("What others report", Some(more(View::Inbound)), inbound(&facts.inbound, FEW)))
            (card("Results", None, results(&facts.mail)))
            (card("Store and memory", None, store(&facts.store, &facts.gate)))
        }
    }
}

fn card(name: &str, beside: Option<Markup>, body: Markup) -> Markup {
    html! { section.card { div.head { h2 { (name) } @if let Some(beside) = beside { (beside) } } (body) } }
}

fn more(view: View) -> Markup {
    html! { a.more href=(view.as_str()) { "all" } }
}

fn age<T>(facts: &Facts, section: &Section<T>) -> Markup {
    html! {
        span.more {
            "last " (section.days) " days"
            @if let Some(read) = section.read { ", read " (span_of(facts.now - read)) " ago" }
        }
    }
}

/// Mail a minute, and what became of it since the start.
fn mail(facts: &Facts) -> Markup {
    let Mail { messages, minutes: all, end_of_data, evaluation, .. } = &facts.mail;
    let (drawing, scale) = minutes(all, facts.now);
    let total: u64 = messages.iter().sum();
    let hours = MINUTES / 60;
    html! {
        section.card.mail {
            div.head { h2 { "Mail a minute" } span.more { "last " (hours) " hours" } }
            ul.legend {
                @for kind in Kind::ALL {
                    @let (name, meaning) = kind.words();
                    li title=(meaning) {
                        span class=(format!("key {kind}")) {} b { (count(kind.sum(messages))) } " " (name)
                    }
                }
            }
            figure {
                span.scale { (count(scale)) }
                (drawing)
                figcaption {
                    @for hour in (0..=MINUTES).step_by(60) {
                        @let back = i64::try_from(MINUTES - hour).unwrap_or_default() * 60;
                        span { (clock(facts.now - back)) }
                    }
                }
            }
            p.note {
                @if total == 0 {
                    "No message has come to its end since the start. Send one to a listener, and it shows up here. "
                } @else {
                    (count(total)) " messages since the start. "
                    @if let Some(median) = end_of_data.median {
                        "A reply takes " (seconds(median)) " in the middle"
                        @if let Some(p95) = end_of_data.p95 { ", " (seconds(p95)) " at most for 19 of 20" }
                        @if let Some(median) = evaluation.median { "; the verdict alone " (seconds(median)) }
                        "."
                    }
                }
            }
            details {
                summary { "By outcome" }
                table {
                    @for (outcome, n) in Outcome::ALL.iter().zip(messages) {
                        tr { td { (words(outcome.as_str())) } td.n id=(format!("outcome-{outcome}")) { (count(*n)) } }
                    }
                }
            }
        }
    }
}

fn refusals(refusals: &[Refused]) -> Markup {
    html! {
        @if refusals.is_empty() {
            p.empty { "Nothing was refused or deferred since this process began." }
        } @else {
            ul.events {
                @for refused in refusals {
                    li {
                        span class=(format!("key {}", kind_of(refused.outcome))) {}
                        @if refused.explained {
                            a href=(format!("/explain/{}", refused.id.as_str())) title="its story" {
                                (moment(refused.arrived))
                            }
                        } @else { (moment(refused.arrived)) }
                        " " b { (words(refused.outcome)) } " "
                        @match &refused.author_domain {
                            Some(domain) => bdi { (domain) },
                            None => span.dim { "unknown author" },
                        }
                        " from " (refused.ip)
                        div.reply { (refused.reply) }
                    }
                }
            }
        }
    }
}

fn failing(section: &Section<Vec<Failing>>, most: usize) -> Markup {
    let whole = |domains: &[Failing]| domains.iter().map(|d| d.messages).max().unwrap_or_default();
    sectioned(section, |domains| {
        html! {
            @if domains.is_empty() {
                p.empty { "No mail has failed DMARC in the last " (section.days) " days." }
            } @else {
                table {
                    thead { tr { th { "author domain, and from where" } th.n { "messages" } th.n { "refused" } } }
                    @for domain in domains.iter().take(most) {
                        tr {
                            td.name {
                                @if domain.author_domain.is_empty() { span.dim { "no usable From" } }
                                @else { bdi { (domain.author_domain) } }
                                (bar(domain.messages, whole(domains), "refused"))
                                div.sources {
                                    @for source in &domain.from {
                                        span { (source.ip) " " b { (number(source.messages)) } } " "
                                    }
                                    @if domain.addresses > domain.from.len() {
                                        span { "and " (domain.addresses - domain.from.len()) " more" }
                                    }
                                }
                            }
                            td.n { (number(domain.messages)) }
                            td.n { (number(domain.refused)) }
                        }
                    }
                }
            }
        }
    })
}

fn forwarders(section: &Section<Forwarders>, most: usize) -> Markup {
    sectioned(section, |found| {
        html! {
            @if found.suggestions.is_empty() {
                p.empty {
                    "No forwarder stands out: nobody brings mail of many domains that fails, day after day, with a signature or "
                    "SPF domain of its own that passes, and that the mail server accepts."
                }
            }
            @for forwarder in found.suggestions.iter().take(most) {
                details.forwarder open[most > FEW] {
                    summary { b { (forwarder.identity) " " bdi { (forwarder.domain) } } " "
                        (count(forwarder.failed)) " messages of " (forwarder.policy_domains) " domains failed on "
                        (forwarder.days) " days; the mail server accepted " (count(forwarder.accepted)) ", refused "
                        (count(forwarder.refused))
                    }
                    pre { (forwarder.toml) }
                    p.note { "Look at who it is before you paste this: a patient spammer looks the same." }
                }
            }
            @if found.is_cut { p.note { "Not everything could be looked at; " code { "dmarcgate forwarders suggest" } " can." } }
        }
    })
}

fn shadow(section: &Section<Shadow>, most: usize) -> Markup {
    let names = |heading: &'static str, all: &[Among]| {
        html! {
            @if !all.is_empty() {
                div.scroll { table {
                    thead { tr { th { (heading) } th.n { "messages" } th.n { "accepted" } th.n { "refused" } } }
                    @for name in all.iter().take(most) {
                        tr { td.name { bdi { (name.name) } } td.n { (number(name.messages)) } td.n { (number(name.accepted)) }
                            td.n { (number(name.refused)) } }
                    }
                } }
            }
        }
    };
    sectioned(section, |found| {
        html! {
            @if found.compared == 0 {
                p.empty { "No message was judged twice: there was no " code { "[policy.shadow]" } "." }
            } @else {
                p { b { (number(found.different)) } " of " (number(found.compared)) " messages would fare otherwise." }
                (bar(found.different, found.compared, "marked"))
                @if !found.differences.is_empty() {
                    div.scroll { table {
                        thead { tr { th { "in force" } th { "shadow" } th.n { "messages" } th.n { "accepted" }
                            th.n { "refused" } } }
                        @for d in &found.differences {
                            tr { td { (words(d.active)) } td { (words(d.shadow)) } td.n { (number(d.messages)) }
                                td.n { (number(d.accepted)) } td.n { (number(d.refused)) } }
                        }
                    } }
                }
                (names("author domain", &found.author_domains))
                @if most > FEW { (names("source", &found.sources)) }
            }
            @if most > FEW {
                h3 { "What DMARC says, and what the mail server said" }
                div.scroll { table {
                    thead { tr { th { "DMARC" } th.n { "accepted" } th.n { "refused" } th.n { "deferred" } } }
                    @for r in &found.replies {
                        tr { td { (words(r.verdict)) } td.n { (number(r.accepted)) } td.n { (number(r.refused)) }
                            td.n { (number(r.deferred)) } }
                    }
                } }
            }
        }
    })
}

fn reports(facts: &Facts, most: usize) -> Markup {
    let section: &Section<Reports> = &facts.reports;
    sectioned(section, |found| {
        html! {
            @if !found.enabled {
                p.empty { "No reports are sent: " code { "reports.enabled" } " is false." }
            } @else if found.last_run > 0 {
                p { "Last looked for reports that are due " (span_of(facts.now - found.last_run)) " ago." }
            } @else {
                p { "Not yet looked for reports that are due: just started, or the log says why none can be sent." }
            }
            @if found.states.is_empty() {
                @if found.enabled { p.empty { "There were none to send in the last " (section.days) " days." } }
            } @else {
                ul.legend { @for tally in &found.states { li { b { (number(tally.reports)) } " " (tally.state) } } }
            }
            @if !found.latest.is_empty() {
                table {
                    thead { tr { th { "day" } th { "policy domain, and where to" } th { "state" } } }
                    @for job in found.latest.iter().take(most) {
                        tr {
                            td.when { (day(job.begin)) }
                            td.name {
                                bdi { (job.policy_domain) }
                                div.sources { bdi { (job.destination) } }
                                @if !job.note.is_empty() { div.reply { (job.note) } }
                            }
                            td { (job.state) @if job.attempts > 1 { div.sources { (job.attempts) " tries" } } }
                        }
                    }
                }
            }
        }
    })
}

fn inbound(section: &Section<Inbound>, most: usize) -> Markup {
    sectioned(section, |found| {
        html! {
            @if found.reports == 0 {
                p.empty {
                    @if found.enabled { "No report about our domains has arrived in the last " (section.days) " days." }
                    @else { "Reports of others are not read: " code { "reports.inbound.addresses" } " is empty." }
                }
            } @else {
                p {
                    b { (number(found.reports)) } " reports of " (number(found.reporters)) " organizations on "
                    (number(found.messages)) " messages, until " (day(found.last_end)) "."
                }
                table {
                    thead { tr { th { "source, our domain" } th.n { "messages" } th.n { "failed" } } }
                    @for source in found.sources.iter().take(most) {
                        tr {
                            td.name {
                                (source.ip)
                                (bar(source.failed, source.messages, "refused"))
                                div.sources {
                                    bdi { (source.policy_domain) }
                                    @if !source.signers.is_empty() { ", signed by " bdi { (source.signers) } }
                                    ", told by " (number(source.reporters))
                                }
                            }
                            td.n { (number(source.messages)) }
                            td.n { (number(source.failed)) }
                        }
                    }
                }
            }
        }
    })
}

fn upstream(upstream: &Upstream) -> Markup {
    html! {
        table.facts {
            (fact("servers down", upstream.down))
            (fact("connections open", upstream.open))
            (fact("connected", upstream.connected))
            (fact("attempts that failed", upstream.failed))
            (fact("lost inside a transaction", upstream.lost))
            (fact("waits for a connection in vain", upstream.slot_timeouts))
        }
    }
}

fn dns(dns: &Dns) -> Markup {
    let all: u64 = dns.lookups.iter().map(|(_, n)| n).sum();
    let cached: u64 = dns.lookups.iter().filter(|(source, _)| *source != "server").map(|(_, n)| n).sum();
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    html! {
        @if all == 0 { p.empty { "No message has asked DNS anything yet." } } @else {
            p { (share(cached, all)) " of " (count(all)) " questions were answered without asking a server." }
            (bar(signed(cached), signed(all), "accepted"))
        }
        table.facts {
            @for (source, n) in &dns.lookups { (fact(source, *n)) }
            (fact("answers in the cache", dns.cache_entries))
            (fact("left it for want of room", dns.cache_evictions))
            (fact("queries", dns.queries))
            (fact("without a usable answer", dns.failures))
            (fact("under way", dns.outstanding))
            (time("an answer takes", &dns.query))
        }
    }
}

fn results(mail: &Mail) -> Markup {
    let lists = [("DMARC", &mail.dmarc), ("SPF", &mail.spf), ("DKIM", &mail.dkim), ("ARC", &mail.arc)];
    html! {
        @if lists.iter().all(|(_, results)| results.is_empty()) {
            p.empty { "No message was evaluated yet." }
        }
        div.results {
            @for (name, results) in lists {
                @if !results.is_empty() {
                    table.facts {
                        thead { tr { th colspan="2" { (name) } } }
                        @for (result, n) in results { (fact(result, *n)) }
                    }
                }
            }
        }
    }
}

fn store(store: &Store, gate: &Gate) -> Markup {
    html! {
        table.facts {
            tr { td { "the database takes rows" } td.n { @if store.up { "yes" } @else { "not yet" } } }
            (fact("rows for reports", store.appended))
            (fact("written", store.written))
            (fact("waiting", store.pending))
            (fact("lost", store.lost))
            tr { td { "size of the database" } td.n { (octets(store.bytes)) } }
            tr { td { "memory for messages" } td.n { (octets(gate.spool_bytes)) " of " (octets(gate.spool_limit_bytes)) } }
            tr { td { "configuration read" } td.n { (moment(gate.configured)) } }
        }
    }
}

fn api_list() -> Markup {
    html! {
        p { "Everything on these pages as JSON, one object each, by GET. Times are seconds since 1970; the fields are "
            "described in " code { "docs/status-page.md" } "." }
        table {
            @for name in API {
                tr { td { a href=(format!("/api/{name}")) { "/api/" (name) } } }
            }
            tr { td { "/api/explain/ID" } }
        }
    }
}

/// What was read from the store, or why there is nothing.
fn sectioned<T>(section: &Section<T>, show: impl FnOnce(&T) -> Markup) -> Markup {
    match (&section.found, section.error) {
        (Some(found), _) => show(found),
        (None, Some(error)) => html! { p.empty.bad { (error) } },
        (None, None) => html! { p.empty { "Being read from the store; look again in a moment." } },
    }
}

fn fact(name: &str, n: u64) -> Markup {
    html! { tr { td { (words(name)) } td.n { (count(n)) } } }
}

fn time(name: &str, times: &Times) -> Markup {
    html! {
        @if let Some(median) = times.median {
            tr { td { (name) } td.n { (seconds(median)) @if let Some(p95) = times.p95 { small.dim { ", 19 of 20 below " (seconds(p95)) } } } }
        }
    }
}

fn words(label: &str) -> String {
    label.replace('_', " ")
}

fn kind_of(outcome: &str) -> Kind {
    Outcome::parse(outcome).map_or(Kind::Server, Kind::of)
}

/// A number for people, with the plain one beside it for programs.
fn count(n: u64) -> Markup {
    html! { data value=(n) { (grouped(n)) } }
}

fn number(n: i64) -> Markup {
    count(n.unsigned_abs())
}

/// Three digits at a time.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            // Narrow, and no place for a line to break.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a share for the eye")]
fn share(part: u64, whole: u64) -> String {
    // Rounded down: 100 % is all.
    format!("{:.0}\u{202f}%", (part as f64 * 100.0 / whole.max(1) as f64).floor())
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.1}\u{202f}ms", s * 1000.0),
        s if s < 1.0 => format!("{:.0}\u{202f}ms", s * 1000.0),
        s => format!("{s:.1}\u{202f}s"),
    }
}

fn octets(octets: u64) -> String {
    match octets {
        n if n < 10 << 10 => format!("{n}\u{202f}B"),
        n if n < 10 << 20 => format!("{}\u{202f}KiB", grouped(n >> 10)),
        n => format!("{}\u{202f}MiB", grouped(n >> 20)),
    }
}

/// How long, in the one unit that says most.
fn span_of(seconds: i64) -> String {
    match seconds.max(0) {
        s if s < 120 => format!("{s}\u{202f}s"),
        s if s < 7200 => format!("{}\u{202f}min", s / 60),
        s if s < 2 * SECONDS_PER_DAY => format!("{}\u{202f}h", s / 3600),
        s => format!("{} days", s / SECONDS_PER_DAY),
    }
}

/// Hours and minutes.
pub fn clock(seconds: i64) -> String {
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    format!("{:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

fn day(seconds: i64) -> String {
    Date::of_day(seconds.div_euclid(SECONDS_PER_DAY)).to_string()
}

fn moment(seconds: i64) -> Markup {
    let (day, clock, second) = (day(seconds), clock(seconds), seconds.rem_euclid(60));
    html! { time datetime=(format!("{day}T{clock}:{second:02}Z")) { (day) " " (clock) ":" (format!("{second:02}")) } }
}

impl Render for Snippet {
    fn render_to(&self, buffer: &mut String) {
        self.0.as_str().render_to(buffer);
    }
}

/// A gate with a dot in it.
const MARK: &str = r#"<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><path d="M3 21V10a9 9 0 0 1 18 0v11h-4V10a5 5 0 0 0-10 0v11z"/><circle cx="12" cy="17" r="2.5"/></svg>"#;
/// The same, so that no browser asks for one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Cpath fill='%230072b2' d='M3 21V10a9 9 0 0 1 18 0v11h-4V10a5 5 0 0 0-10 0v11z'/%3E%3Ccircle cx='12' cy='17' r='2.5' fill='%23d55e00'/%3E%3C/svg%3E";

#[cfg(test)]
mod tests;
