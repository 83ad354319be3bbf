//! Reports on their way: rows of a past day in the store, the built binary, DNS, and a relay that fails at each step.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use dmarcgate::domain::Domain;
use dmarcgate::metrics::Registry;
use dmarcgate::record::{
    AlignmentMode, AlignmentOutcome, DiscoveryMethod, FinalReply, Policy, PolicyEvaluated, PolicyPublished, Record,
    ReportDisposition, SpfAuthResult, SpfScope, TestMode,
};
use dmarcgate::store::{Location, Periods, Settings, Store};
use flate2::read::GzDecoder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

use crate::status::api;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, RecordType, Zone};
use crate::support::gate::Gate;
use crate::support::rules::{DOT, GREETING, Hold, Rule, Script, on};
use crate::support::upstream::{Connection, Message, Upstream};
use crate::support::world::{Letter, STRANGER, World};

const BINARY: &str = env!("CARGO_BIN_EXE_dmarcgate");

/// A store with rows, a zone, a relay, and a configuration that names them.
pub struct Site {
    _dns: DnsServer,
    pub relay: Upstream,
    pub directory: tempfile::TempDir,
    pub config: ConfigText,
}

impl Site {
    /// With rows of the day before yesterday under each of `domains`, whose records name `rua`.
    pub async fn new(zone: Zone, script: Script, records: Vec<Record>) -> Self {
        Self::over(Periods::Days, zone, script, records).await
    }

    /// The same, with rows over these periods.
    async fn over(periods: Periods, zone: Zone, script: Script, records: Vec<Record>) -> Self {
        let dns = DnsServer::start(zone).await;
        let relay = Upstream::start(script).await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = ConfigText::new(relay.address(), dns.address(), directory.path())
            .set("reports.from", "reports@gate.example")
            .set("reports.organization", "Gate & Sons")
            .set("reports.rate", 10_000)
            .set("timeouts.upstream_command", "2s")
            .set("timeouts.upstream_final", "2s");
        let location = Location::Sqlite(directory.path().join("dmarcgate.db"));
        let settings = Settings { periods, ..Settings::new(location) };
        let store = Store::open(settings, &Registry::new()).await.expect("a fresh store");
        for record in records {
            store.appender().append(record);
        }
        store.close(Duration::from_secs(20)).await;
        Self { _dns: dns, relay, directory, config }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let file = self.directory.path().join("dmarcgate.toml");
        std::fs::write(&file, self.config.text()).expect("a writable directory");
        let mut command = Command::new(BINARY);
        command.arg("reports").args(arguments).arg("--config").arg(file).stdin(Stdio::null());
        command
    }

    /// What a command prints.
    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.command(arguments);
        // Not on this thread: DNS and relay live on it.
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("cargo has built the binary");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Sends all that waits; one word for each attempt, sorted.
    pub async fn send(&self) -> Vec<String> {
        let printed = self.run(&["send", "--now"]).await;
        let mut words: Vec<_> = printed.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect();
        let tried = format!("{} reports were tried", words.len());
        assert_eq!(printed.lines().last(), Some(&*tried), "{printed}");
        words.sort();
        words
    }

    /// The jobs as `reports list --json` has them: state and note by domain.
    async fn jobs(&self) -> BTreeMap<String, (String, String)> {
        let text = self.run(&["list", "--json"]).await;
        let job = |line: &str| {
            let job: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = |key: &str| job[key].as_str().expect("a text").to_owned();
            (format!("{} {}", text("policy_domain"), text("destination")), (text("state"), text("note")))
        };
        text.lines().map(job).collect()
    }

    async fn execute(&self, sql: &'static str) -> Vec<i64> {
        let options = SqliteConnectOptions::new()
            .filename(self.directory.path().join("dmarcgate.db"))
            .busy_timeout(Duration::from_secs(10));
        let mut connection = SqliteConnection::connect_with(&options).await.expect("the store");
        let rows = sqlx::query(sql).fetch_all(&mut connection).await.expect("a statement");
        connection.close().await.expect("no more to do");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The day before yesterday, at noon.
fn then() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    (i64::try_from(now).expect("before the year 2^63") / 86_400 - 2) * 86_400 + 43_200
}

/// A forgery under `domain`, refused; its record asks for reports at `rua`.
fn forgery(domain: &str, rua: &str) -> Record {
    let domain = Domain::parse(domain).expect("a domain");
    Record {
        arrived: then(),
        source_ip: [203, 0, 113, 9].into(),
        policy: Some(PolicyPublished {
            domain: domain.clone(),
            discovery: DiscoveryMethod::TreeWalk,
            record: format!("v=DMARC1; p=reject; rua={rua}"),
            adkim: AlignmentMode::Relaxed,
            aspf: AlignmentMode::Relaxed,
            p: Policy::Reject,
            sp: None,
            np: None,
            fo: "0".into(),
            testing: TestMode::Off,
            requested: Policy::Reject,
        }),
        evaluated: PolicyEvaluated {
            disposition: ReportDisposition::Reject,
            dkim: AlignmentOutcome::Fail,
            spf: AlignmentOutcome::Fail,
            reasons: Vec::new(),
        },
        header_from: Some(domain),
        envelope_from: "bad.example".into(),
        envelope_to: None,
        dkim: Vec::new(),
        spf: Some(SpfAuthResult { domain: "bad.example".into(), scope: SpfScope::MailFrom, result: "fail".into() }),
        reply: FinalReply::RefusedByGate,
    }
}

fn own_mail(domain: &str, rua: &str, reply: FinalReply) -> Record {
    let mut record = Record { reply, ..forgery(domain, rua) };
    record.evaluated.spf = AlignmentOutcome::Pass;
    record.evaluated.disposition = ReportDisposition::Pass;
    record
}

/// One domain that asks for reports at an address of its own.
pub fn one() -> (Zone, Vec<Record>) {
    (Zone::new().txt("_dmarc.a.example", "v=DMARC1; p=reject"), vec![forgery("a.example", "mailto:dmarc@a.example")])
}

/// The text of a header field, unfolded.
fn field(message: &Message, name: &str) -> String {
    let text = String::from_utf8_lossy(&message.content).replace("\r\n ", " ").replace("\r\n\t", " ");
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    let found = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    found.unwrap_or_else(|| panic!("no {name}: {head}"))
}

fn report_id(message: &Message) -> String {
    let subject = field(message, "Subject");
    subject.split("Report-ID: ").nth(1).unwrap_or_else(|| panic!("{subject}")).to_owned()
}

/// The report in its attachment.
fn xml(message: &Message) -> String {
    let text = String::from_utf8_lossy(&message.content).into_owned();
    let part = text.split("application/gzip").nth(1).expect("an attachment");
    let base64: String =
        part.split("\r\n\r\n").nth(1).expect("a body").lines().take_while(|l| !l.starts_with("--")).collect();
    let mut xml = String::new();
    let octets = unbase64(&base64);
    GzDecoder::new(&*octets).read_to_string(&mut xml).expect("gzip");
    xml
}

/// The octets of base64, line ends left out.
fn unbase64(text: &str) -> Vec<u8> {
    let value = |b: u8| ALPHABET.iter().position(|known| *known == b).map(|value| value as u32);
    let values: Vec<u32> = text.bytes().filter_map(value).collect();
    let group = |group: &[u32]| {
        let bits = group.iter().fold(0, |bits, value| bits << 6 | value) << (6 * (4 - group.len()));
        let [_, octets @ ..] = bits.to_be_bytes();
        octets[..group.len() - 1].to_vec()
    };
    values.chunks(4).flat_map(group).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[tokio::test]
async fn a_due_report_arrives_once() {
    let (zone, records) = one();
    let site = Site::new(zone, Script::new(), [&records[..], &records[..]].concat()).await;
    assert_eq!(site.run(&["send", "--dry-run", "--now"]).await, "1 reports would be tried\n");
    assert_eq!(site.relay.messages(), []);
    assert_eq!(site.send().await, ["sent"]);
    assert_eq!(site.send().await, [""; 0], "once and no more");
    let messages = site.relay.messages();
    let [message] = &messages[..] else { panic!("{}", site.relay.transcript()) };
    site.relay.assert_clean();
    assert_eq!(message.recipients, ["dmarc@a.example"]);
    let subject = field(message, "Subject");
    assert!(subject.starts_with("Report Domain: a.example Submitter: gate.example Report-ID: "), "{subject}");
    let xml = xml(message);
    for part in
        ["<org_name>Gate &amp; Sons</org_name>", "<domain>a.example</domain>", "<count>2</count>", "203.0.113.9"]
    {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    let jobs = site.jobs().await;
    assert_eq!(jobs["a.example mailto:dmarc@a.example"].0, "sent");
    let id = report_id(message);
    let shown = site.run(&["show", id.trim_matches(['<', '>'])]).await;
    assert!(shown.contains("recipient       dmarc@a.example\n") && shown.contains("messages        2\n"), "{shown}");
}

#[tokio::test]
async fn an_address_in_quotation_marks_gets_its_report() {
    let site = Site::new(one().0, Script::new(), vec![forgery("a.example", "mailto:%22a%20%3Eb%22@a.example")]).await;
    assert_eq!(site.send().await, ["sent"]);
    let expected = r#"RCPT TO:<"a >b"@a.example>"#;
    assert!(site.relay.commands().iter().any(|line| line == expected), "{:?}", site.relay.commands());
}

#[tokio::test]
async fn who_asks_for_reports_by_the_hour_gets_them_where_the_operator_allows() {
    let midnight = then() - then().rem_euclid(86_400);
    let at = |hour: i64, second: i64| {
        let mut record = forgery("a.example", "mailto:dmarc@a.example; ri=3600");
        record.arrived = midnight + 3600 * hour + second;
        record
    };
    let hour = |hour: i64| (midnight + 3600 * hour, midnight + 3600 * hour + 3599);
    let cases = [
        (Periods::Days, vec![((midnight, midnight + 86_399), 3)]),
        (Periods::AsRequested, vec![(hour(5), 2), (hour(23), 1)]),
    ];
    for (periods, expected) in cases {
        let (zone, _) = one();
        let site = Site::over(periods, zone, Script::new(), vec![at(5, 0), at(5, 3599), at(23, 3599)]).await;
        assert_eq!(site.send().await, vec!["sent"; expected.len()], "{periods}");
        assert_eq!(site.send().await, [""; 0], "{periods}");
        let mut found: Vec<_> = site.relay.messages().iter().map(xml).collect();
        found.sort_by_key(|xml| xml.split("<begin>").nth(1).map(str::to_owned));
        assert_eq!(found.len(), expected.len(), "{periods}");
        for (xml, ((begin, end), count)) in found.iter().zip(expected) {
            for part in
                [format!("<begin>{begin}</begin>"), format!("<end>{end}</end>"), format!("<count>{count}</count>")]
            {
                assert!(xml.contains(&part), "{periods}: {part}: {xml}");
            }
        }
        let ids: BTreeMap<_, _> = site.relay.messages().iter().map(|m| (report_id(m), ())).collect();
        assert_eq!(ids.len(), found.len(), "{periods}");
    }
}

#[tokio::test]
async fn a_gate_makes_rows_of_hours_where_the_operator_allows() {
    let zone = Zone::new().txt("_dmarc.a.example", "v=DMARC1; p=none; rua=mailto:d@a.example; ri=7200");
    for (honored, expected) in [(false, 24), (true, 2)] {
        let world = World::start(zone.clone(), |config| config.set("reports.honor_ri", honored)).await;
        world.send(&Letter::with_header(STRANGER, "x@a.example", "From: x@a.example\r\n")).await.reply.assert(250);
        world.gate.wait_for_rows("its row", |rows| rows.len() == 1).await;
        let options = SqliteConnectOptions::new().filename(world.gate.directory().join("dmarcgate.db"));
        let mut store = SqliteConnection::connect_with(&options).await.expect("the store");
        let hours = sqlx::query("SELECT hours FROM report_rows").fetch_one(&mut store).await.expect("a row");
        assert_eq!(hours.get::<i64, _>(0), expected, "{honored}");
    }
}

#[tokio::test]
async fn a_relay_that_fails_at_any_step_costs_a_delay_and_nothing_else() {
    let cases: [(&str, Rule, &str, usize); 13] = [
        ("greeting refused", on(GREETING).once().reply_and_close("554 no"), "postponed", 1),
        ("greeting lost", on(GREETING).once().close(), "postponed", 1),
        ("EHLO lost", on("EHLO").once().close(), "postponed", 1),
        ("sender put off", on("MAIL").once().reply("451 later"), "postponed", 1),
        ("sender refused", on("MAIL").once().reply("550 who are you"), "postponed", 1),
        ("recipient put off", on("RCPT").once().reply("450 greylisted"), "postponed", 1),
        ("relaying refused", on("RCPT").once().reply("550 5.7.54 Unable to relay"), "postponed", 1),
        ("relaying refused in words", on("RCPT").once().reply("550 relay not permitted"), "postponed", 1),
        ("recipient lost", on("RCPT").once().close(), "postponed", 1),
        ("DATA put off", on("DATA").once().reply("421 bye"), "postponed", 1),
        ("DATA lost", on("DATA").once().close(), "postponed", 1),
        ("message put off", on(DOT).once().reply("452 full"), "postponed", 2),
        ("final reply lost", on(DOT).once().close(), "unanswered", 2),
    ];
    for (name, rule, expected, arrived) in cases {
        let (zone, records) = one();
        let site = Site::new(zone, Script::new().rule(rule), records).await;
        assert_eq!(site.send().await, [expected], "{name}");
        assert_eq!(site.jobs().await["a.example mailto:dmarc@a.example"].0, "due", "{name}");
        // Due anew by --now alone.
        assert_eq!(site.run(&["send"]).await, "0 reports were tried\n", "{name}");
        // What is on its way again is what was on its way before, whatever has changed since.
        site.execute("UPDATE report_rows SET n = n + 5").await;
        assert_eq!(site.send().await, ["sent"], "{name}");
        let messages = site.relay.messages();
        assert_eq!(messages.len(), arrived, "{name}");
        assert!(messages.iter().all(|m| m.content == messages[0].content), "{name}");
        let lost = i64::from(expected == "unanswered");
        assert_eq!(site.execute("SELECT unanswered FROM report_jobs").await, [lost], "{name}");
    }
}

#[tokio::test]
async fn a_relay_that_is_not_there_makes_reports_wait() {
    let (zone, records) = one();
    let mut site = Site::new(zone, Script::new(), records).await;
    let config = site.config.clone();
    site.config = config.clone().set("reports.relay", "127.0.0.1:1");
    assert_eq!(site.send().await, ["postponed"]);
    site.config = config;
    assert_eq!(site.send().await, ["sent"]);
}

#[tokio::test]
async fn a_report_that_has_no_time_for_another_attempt_is_given_up() {
    let (zone, records) = one();
    let mut site = Site::new(zone, Script::new(), records).await;
    site.config = site.config.clone().set("reports.relay", "127.0.0.1:1");
    assert_eq!(site.send().await, ["postponed"]);
    // Another attempt would be a quarter of an hour from now.
    site.execute("UPDATE report_jobs SET deadline = unixepoch() + 120").await;
    assert_eq!(site.send().await, ["given_up"]);
    assert_eq!(site.jobs().await["a.example mailto:dmarc@a.example"].0, "failed");
}

#[tokio::test]
async fn an_address_that_is_refused_gets_nothing_for_a_week() {
    let zone = Zone::new()
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt("b.example._report._dmarc.a.example", "v=DMARC1")
        .txt("_dmarc.b.example", "v=DMARC1; p=reject");
    let records = vec![forgery("a.example", "mailto:Dmarc@a.example")];
    let script = Script::new().rule(on("RCPT").reply("550 5.1.1 no such user"));
    let site = Site::new(zone, script, records).await;
    assert_eq!(site.send().await, ["destination_refused"]);
    let listed = site.run(&["suppressions", "list", "--json"]).await;
    assert!(listed.contains(r#""address":"dmarc@a.example","strikes":1"#), "{listed}");
    // Another domain's report to the same address.
    let location = Location::Sqlite(site.directory.path().join("dmarcgate.db"));
    let store = Store::open(Settings::new(location), &Registry::new()).await.expect("the store");
    store.appender().append(forgery("b.example", "mailto:dmarc@a.example"));
    store.close(Duration::from_secs(20)).await;
    assert_eq!(site.send().await, ["suppressed"]);
    assert_eq!(site.run(&["suppressions", "remove", "dmarc@a.example"]).await, "dmarc@a.example gets reports again\n");
    assert_eq!(site.run(&["suppressions", "list", "--json"]).await, "");
    assert_eq!(site.relay.messages(), []);
}

#[tokio::test]
async fn a_message_that_is_refused_is_given_up_and_the_address_is_not() {
    let (zone, records) = one();
    let site = Site::new(zone, Script::new().rule(on(DOT).reply("552 5.3.4 too big")), records).await;
    assert_eq!(site.send().await, ["message_refused"]);
    let (state, note) = &site.jobs().await["a.example mailto:dmarc@a.example"];
    assert_eq!((&**state, &**note), ("failed", "552 5.3.4 too big"));
    assert_eq!(site.run(&["suppressions", "list", "--json"]).await, "");
}

#[tokio::test]
async fn destinations_elsewhere_get_what_they_agree_to() {
    let record = "v=DMARC1; p=reject";
    let zone = Zone::new()
        .txt("_dmarc.a.example", record)
        .txt("_dmarc.given.example", record)
        .txt("a.example._report._dmarc.given.example", "v=DMARC1")
        .txt("_dmarc.silent.example", record)
        .txt("_dmarc.moved.example", record)
        .txt("a.example._report._dmarc.moved.example", "v=DMARC1; rua=mailto:new@moved.example")
        .txt("_dmarc.diverted.example", record)
        .txt("a.example._report._dmarc.diverted.example", "v=DMARC1; rua=mailto:x@victim.example")
        .txt("_dmarc.doubt.example", record)
        .serv_fail("a.example._report._dmarc.doubt.example", RecordType::TXT);
    let rua = ["given", "silent", "moved", "diverted", "doubt"].map(|name| format!("mailto:d@{name}.example"));
    // Of one record five count.
    let rua = format!("{},mailto:one.too.many@sixth.example", rua.join(","));
    let odd = forgery("c.example", "https://c.example/report,mailto:d%2Bx@c.example");
    let site = Site::new(zone, Script::new(), vec![forgery("a.example", &rua), odd]).await;
    assert_eq!(site.send().await, ["postponed", "sent", "sent", "sent", "skipped", "skipped", "skipped", "skipped"]);
    let mut recipients: Vec<_> = site.relay.messages().into_iter().flat_map(|m| m.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, ["d+x@c.example", "d@given.example", "new@moved.example"]);
    let of_a = site.relay.messages().into_iter().filter(|message| message.recipients != ["d+x@c.example"]);
    let ids: Vec<_> = of_a.map(|message| report_id(&message)).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "one report, whoever gets it: {ids:?}");
    let jobs = site.jobs().await;
    assert_eq!(jobs["c.example https://c.example/report"], ("skipped".to_owned(), "no_address: not_mail".to_owned()));
    let notes = [
        ("mailto:d@silent.example", "skipped", "no_consent: not_confirmed"),
        ("mailto:d@moved.example", "skipped", "replaced: new@moved.example"),
        ("mailto:d@diverted.example", "skipped", "no_consent: diverted"),
        ("mailto:d@doubt.example", "due", "DNS does not say whether the destination takes reports"),
    ];
    for (destination, state, note) in notes {
        assert_eq!(jobs[&format!("a.example {destination}")], (state.to_owned(), note.to_owned()));
    }
}

#[tokio::test]
async fn what_takes_the_place_of_a_report_has_room_of_its_own_or_the_report_waits() {
    let names: Vec<_> = (0..21).map(|n| format!("s{n}.owner.example")).collect();
    let zone =
        Zone::new().txt("_dmarc.moved.example", "v=DMARC1; p=reject").txt("_dmarc.owner.example", "v=DMARC1; p=none");
    let zone = names.iter().enumerate().fold(zone, |zone, (n, name)| {
        let instead: Vec<_> = (0..5).map(|i| format!("mailto:new-{n}-{i}@moved.example")).collect();
        zone.txt(&format!("{name}._report._dmarc.moved.example"), &format!("v=DMARC1; rua={}", instead.join(",")))
    });
    let records = names.iter().map(|name| forgery(name, "mailto:old@moved.example")).collect();
    let site = Site::new(zone, Script::new(), records).await;
    // One organization has room for a hundred reports, and for a hundred in their place.
    let expected = [["capped"].as_slice(), &["sent"; 100], &["skipped"; 20]].concat();
    assert_eq!(site.send().await, expected);
    assert_eq!(site.relay.messages().len(), 100);
    let waiting: Vec<_> = site.jobs().await.into_values().filter(|(state, _)| state == "due").collect();
    assert_eq!(waiting.len(), 1);
    assert!(waiting[0].1.ends_with("had its share of the day"), "{waiting:?}");
}

#[tokio::test]
async fn a_destination_that_names_itself_and_others_gets_a_report_at_each_once() {
    let zone = Zone::new()
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt("_dmarc.both.example", "v=DMARC1; p=reject")
        .txt("a.example._report._dmarc.both.example", "v=DMARC1; rua=mailto:R@both.example,mailto:second@both.example")
        .txt("_dmarc.svc.example", "v=DMARC1; p=reject")
        .txt("a.example._report._dmarc.svc.example", "v=DMARC1; rua=mailto:new@svc.example");
    // The very address that takes the place of another, written otherwise.
    let rua = "mailto:%52@both.example,mailto:r@svc.example,mailto:new@SVC.example";
    let site = Site::new(zone, Script::new(), vec![forgery("a.example", rua)]).await;
    assert_eq!(site.send().await, ["sent", "sent", "sent", "skipped"]);
    let mut recipients: Vec<_> = site.relay.messages().into_iter().flat_map(|m| m.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, ["R@both.example", "new@svc.example", "second@both.example"]);
    assert_eq!(site.send().await, [""; 0], "and no more");
}

#[tokio::test]
async fn an_address_gets_no_more_than_its_share_from_attempts_at_the_same_time() {
    let names: Vec<_> = (0..8).map(|n| format!("d{n}.example")).collect();
    let zone = names.iter().fold(Zone::new().txt("_dmarc.svc.example", "v=DMARC1; p=none"), |zone, name| {
        zone.txt(&format!("_dmarc.{name}"), "v=DMARC1; p=reject")
            .txt(&format!("{name}._report._dmarc.svc.example"), "v=DMARC1")
    });
    let records = names.iter().map(|name| forgery(name, "mailto:one@svc.example")).collect();
    let hold = Hold::new();
    let mut site = Site::new(zone, Script::new().rule(on(DOT).hold(&hold, "250 ok")), records).await;
    site.config = site.config.clone().set("reports.daily_cap", 2).set("timeouts.upstream_final", "60s");
    // While two are on their way.
    let waiting = async {
        loop {
            let settled = "SELECT COUNT(*) FROM report_jobs WHERE state = 'due' AND note <> ''";
            if site.execute(settled).await == [6] {
                break hold.release();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waiting =
        async { tokio::time::timeout(crate::support::PATIENCE, waiting).await.expect("six that are told to wait") };
    let ((), sent) = tokio::join!(waiting, site.send());
    assert_eq!(sent, [["capped"; 6].as_slice(), &["sent"; 2]].concat());
    assert_eq!(site.relay.messages().len(), 2);
}

#[tokio::test]
async fn strangers_take_no_room_from_those_whose_reports_are_wanted() {
    let strangers: Vec<_> = (0..40).map(|n| format!("d{n}.example")).collect();
    let zone = Zone::new()
        .txt("_dmarc.svc.example", "v=DMARC1; p=none")
        .txt("_dmarc.honest.example", "v=DMARC1; p=none")
        .txt("honest.example._report._dmarc.svc.example", "v=DMARC1");
    let zone = strangers.iter().fold(zone, |zone, name| zone.txt(&format!("_dmarc.{name}"), "v=DMARC1; p=none"));
    let mut records: Vec<_> = strangers.iter().map(|name| forgery(name, "mailto:x@svc.example")).collect();
    records.push(forgery("honest.example", "mailto:h@svc.example"));
    let mut site = Site::new(zone, Script::new(), records).await;
    // The organization has room for ten.
    site.config = site.config.clone().set("reports.daily_cap", 1);
    assert_eq!(site.send().await, [["sent"].as_slice(), &["skipped"; 40]].concat());
    assert_eq!(site.relay.messages()[0].recipients, ["h@svc.example"]);
}

#[tokio::test]
async fn all_addresses_of_an_organization_get_no_more_than_their_share() {
    let names: Vec<_> = (0..12).map(|n| format!("d{n}.example")).collect();
    let zone = names.iter().fold(Zone::new().txt("_dmarc.svc.example", "v=DMARC1; p=none"), |zone, name| {
        zone.txt(&format!("_dmarc.{name}"), "v=DMARC1; p=none")
            .txt(&format!("{name}._report._dmarc.svc.example"), "v=DMARC1")
    });
    let records = names.iter().map(|name| forgery(name, &format!("mailto:{name}@svc.example"))).collect();
    let mut site = Site::new(zone, Script::new(), records).await;
    site.config = site.config.clone().set("reports.daily_cap", 1);
    assert_eq!(site.send().await, [["capped"; 2].as_slice(), &["sent"; 10]].concat());
}

#[tokio::test]
async fn a_refusal_that_the_store_does_not_take_at_once_is_not_forgotten() {
    let (zone, records) = one();
    let hold = Hold::new();
    let script = Script::with_xclient().rule(on("RCPT").with("dmarc@a.example").hold(&hold, "550 5.1.1 no such user"));
    let site = Site::new(zone, script, records).await;
    let config = site.config.clone().set("reports.window", "0s").set("reports.enabled", true);
    let Site { _dns, relay, directory, .. } = site;
    std::fs::create_dir(directory.path().join("spool")).expect("a fresh directory");
    let gate = Gate::start_in(directory, &config).await;
    relay.wait_for_command("RCPT TO:<dmarc@a.example>").await;
    let options = SqliteConnectOptions::new().filename(gate.directory().join("dmarcgate.db"));
    let mut lock = SqliteConnection::connect_with(&options).await.expect("the store");
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut lock).await.expect("nobody else writes");
    hold.release();
    gate.wait_for_log("the store does not take what became of a report").await;
    sqlx::query("COMMIT").execute(&mut lock).await.expect("our own transaction");
    gate.wait_for_metrics("it is settled", |scrape| {
        scrape.value("dmarcgate_reports_attempts_total{outcome=\"destination_refused\"}") == 1.0
    })
    .await;
    assert!(suppressed(&gate).await.contains("dmarc@a.example"));
}

#[tokio::test]
async fn who_is_denied_or_has_no_good_name_or_has_had_enough_gets_none() {
    let names = ["a", "denied", "spammer", "forged", "mixed"];
    let zone =
        names.iter().fold(Zone::new(), |zone, name| zone.txt(&format!("_dmarc.{name}.example"), "v=DMARC1; p=reject"));
    let rua = |name: &str| format!("mailto:d@{name}.example");
    let mut site = Site::new(
        zone,
        Script::new(),
        vec![
            forgery("denied.example", &rua("denied")),
            forgery("forged.example", &rua("forged")),
            own_mail("spammer.example", &rua("spammer"), FinalReply::RefusedByUpstream),
            own_mail("mixed.example", &rua("mixed"), FinalReply::RefusedByUpstream),
            own_mail("mixed.example", &rua("mixed"), FinalReply::Accepted),
            forgery("a.example", "mailto:reports@gate.example,mailto:d@a.example,mailto:no@a.example"),
        ],
    )
    .await;
    site.config = site.config.clone().set("reports.deny", vec!["denied.example", "no@a.example"]);
    assert_eq!(site.send().await, ["sent", "sent", "sent", "skipped", "skipped", "skipped", "skipped"]);
    let jobs = site.jobs().await;
    let note = |job: &str| jobs[job].1.split(':').next().unwrap_or_default().to_owned();
    assert_eq!(note("denied.example mailto:d@denied.example"), "denied");
    assert_eq!(note("a.example mailto:no@a.example"), "denied");
    assert_eq!(note("a.example mailto:reports@gate.example"), "own_address");
    assert_eq!(note("spammer.example mailto:d@spammer.example"), "reputation");
    assert_eq!(jobs["mixed.example mailto:d@mixed.example"].0, "sent");

    // One more report to an address that has had its share.
    site.config = site.config.clone().set("reports.daily_cap", 1);
    let location = Location::Sqlite(site.directory.path().join("dmarcgate.db"));
    let store = Store::open(Settings::new(location), &Registry::new()).await.expect("the store");
    let mut another = forgery("a.example", "mailto:d@a.example");
    another.policy.as_mut().expect("a policy").np = Some(Policy::Reject);
    store.appender().append(another);
    store.close(Duration::from_secs(20)).await;
    assert_eq!(site.send().await, ["capped"]);
}

#[tokio::test]
async fn the_relay_may_ask_for_a_login() {
    let (zone, records) = one();
    let mut site = Site::new(zone, Script::new().user("gate", "secret"), records).await;
    let path: PathBuf = site.directory.path().join("password");
    std::fs::write(&path, "wrong\n").expect("a writable directory");
    site.config = site
        .config
        .clone()
        .set("reports.relay", site.relay.address().to_string())
        .set("reports.relay_user", "gate")
        .set("reports.relay_password_file", path.display().to_string());
    assert_eq!(site.send().await, ["postponed"]);
    std::fs::write(&path, "secret\n").expect("a writable directory");
    assert_eq!(site.send().await, ["sent"]);
    assert_eq!(site.relay.messages()[0].login.as_deref(), Some("gate"));
}

#[tokio::test]
async fn a_dry_run_writes_files_and_sends_nothing() {
    let (zone, records) = one();
    let mut site = Site::new(zone, Script::new(), records).await;
    let directory = site.directory.path().join("dry");
    site.config = site.config.clone().set("reports.dry_run", directory.display().to_string());
    assert_eq!(site.send().await, ["written"]);
    assert_eq!(site.relay.messages(), []);
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).expect("it was made").map(|f| f.expect("a file").path()).collect();
    files.sort();
    let ends: Vec<_> = files.iter().map(|f| f.extension().expect("one").to_string_lossy().into_owned()).collect();
    assert_eq!(ends, ["eml", "xml"]);
    let xml = std::fs::read_to_string(&files[1]).expect("a text");
    let day = dmarcgate::calendar::Date::of_day(then() / 86_400).to_string();
    assert_eq!(site.run(&["preview", "a.example", "--period", &day]).await, xml, "what a preview shows");
    let csv = site.run(&["export", "--csv"]).await;
    assert!(
        csv.lines().nth(1).is_some_and(|line| line.starts_with(&format!("{day},a.example,203.0.113.9,1,"))),
        "{csv}"
    );
}

#[tokio::test]
async fn a_dry_run_writes_reports_on_the_longest_domains() {
    let domain = format!("{}.example", [&*"a".repeat(60); 4].join("."));
    let zone = Zone::new().txt(&format!("_dmarc.{domain}"), "v=DMARC1; p=reject");
    let mut site = Site::new(zone, Script::new(), vec![forgery(&domain, &format!("mailto:d@{domain}"))]).await;
    let directory = site.directory.path().join("dry");
    site.config = site.config.clone().set("reports.dry_run", directory.display().to_string());
    assert_eq!(site.send().await, ["written"]);
}

/// Domains of their own, each with one report.
pub fn many(count: usize) -> (Zone, Vec<Record>) {
    let name = |i: usize| format!("d{i}.example");
    let zone = (0..count).fold(Zone::new(), |zone, i| zone.txt(&format!("_dmarc.{}", name(i)), "v=DMARC1; p=reject"));
    (zone, (0..count).map(|i| forgery(&name(i), &format!("mailto:r@{}", name(i)))).collect())
}

#[tokio::test]
async fn two_gates_on_one_store_send_each_report_once() {
    let (zone, records) = many(30);
    let site = Site::new(zone, Script::new(), records).await;
    let (one, two) = tokio::join!(site.run(&["send", "--now"]), site.run(&["send", "--now"]));
    let sent = |printed: &str| printed.lines().filter(|line| line.starts_with("sent: ")).count();
    assert_eq!(sent(&one) + sent(&two), 30, "{one}\n{two}");
    let mut recipients: Vec<_> = site.relay.messages().into_iter().flat_map(|m| m.recipients).collect();
    assert_eq!(recipients.len(), 30);
    recipients.sort();
    recipients.dedup();
    assert_eq!(recipients.len(), 30);
}

#[tokio::test]
async fn killed_at_any_moment_every_report_arrives_and_twice_only_where_that_is_known() {
    let (zone, records) = many(25);
    let site = Site::new(zone, Script::new(), records).await;
    let mut random = StdRng::seed_from_u64(9990);
    let heard = |seen: &[Connection]| seen.iter().map(|c| c.commands.len() + c.messages.len()).sum::<usize>();
    let mut kills = 0;
    loop {
        let mut child = site.command(&["send", "--now"]).stdout(Stdio::piped()).spawn().expect("cargo has built it");
        let mut stdout = child.stdout.take().expect("it is piped");
        // Its output ends when it does.
        let ended = tokio::task::spawn_blocking(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        // Now and then before it says anything, else some words later, and a little behind the last of them.
        let words = random.random_range(0..12);
        let until = heard(&site.relay.connections()) + words;
        tokio::select! {
            ended = ended => drop(ended.expect("no panic")),
            _ = site.relay.wait_until("the gate has said enough to die", |seen| heard(seen) >= until) => {
                tokio::time::sleep(Duration::from_micros(random.random_range(0..4000))).await;
                child.kill().expect("our own child");
            }
        }
        // One that was faster ended as it wanted to.
        kills += usize::from(child.wait().expect("our own child").code().is_none());
        // As if the leases of the dead had run out.
        site.execute("UPDATE report_jobs SET lease = 0 WHERE state = 'claimed'").await;
        if kills >= 40 || site.execute("SELECT COUNT(*) FROM report_jobs WHERE state = 'sent'").await == [25] {
            break;
        }
    }
    site.run(&["send", "--now"]).await;
    assert!(kills > 5, "{kills}");
    assert_eq!(site.execute("SELECT COUNT(*) FROM report_jobs WHERE state = 'sent'").await, [25]);
    let mut arrived: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in site.relay.messages() {
        arrived.entry(message.recipients.concat()).or_default().push(message);
    }
    assert_eq!(arrived.len(), 25);
    let surplus: usize = arrived.values().map(|messages| messages.len() - 1).sum();
    assert!(arrived.values().all(|all| all.iter().all(|m| m.content == all[0].content)), "twice the very same");
    let known = site.execute("SELECT SUM(unanswered) FROM report_jobs").await;
    assert!(surplus <= usize::try_from(known[0]).expect("a count"), "{surplus} duplicates, {known:?} known");
}

#[tokio::test]
async fn a_running_gate_sends_by_itself_when_it_is_told_to() {
    let (zone, mut records) = one();
    let inner = Record { source_ip: [10, 0, 0, 9].into(), ..records[0].clone() };
    records.push(inner);
    let site = Site::new(zone, Script::new(), records).await;
    let config = site.config.clone().set("reports.window", "0s");
    let Site { relay, directory, .. } = site;
    std::fs::create_dir(directory.path().join("spool")).expect("a fresh directory");
    let mut gate = Gate::start_in(directory, &config).await;
    assert_eq!(gate.metrics().await.value("dmarcgate_reports_run_seconds"), 0.0, "the master switch is off");
    gate.reloaded(|config| config.set("reports.enabled", true)).await;
    gate.wait_for_log("\"report\"").await;
    let messages = relay.messages();
    assert_eq!(messages.len(), 1);
    let scrape = gate
        .wait_for_metrics("one report sent", |scrape| {
            scrape.value("dmarcgate_reports_attempts_total{outcome=\"sent\"}") == 1.0
        })
        .await;
    assert_eq!(scrape.value("dmarcgate_reports_planned_total"), 1.0);
    assert_eq!(scrape.value("dmarcgate_reports_messages_total"), 1.0);
    assert_eq!(scrape.value("dmarcgate_reports_omitted_messages_total{reason=\"private_address\"}"), 1.0);
    assert_eq!(scrape.value("dmarcgate_reports_possible_duplicates_total"), 0.0);
    let (status, _directory) = gate.stop().await;
    assert!(status.success());
}

/// A delivery status notification whose action and status stand for what a test wants.
pub const BOUNCE: &str = "From: MAILER-DAEMON@mx.a.example\r\nSubject: Undelivered\r\nContent-Type: multipart/report;\r\n \
                      report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n--b\r\n\
                      Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.a.example\r\n\r\n\
                      Final-Recipient: rfc822; dmarc@a.example\r\nAction: ACTION\r\nStatus: STATUS\r\n\
                      Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b--\r\n";

/// A gate that has sent a report, and the address that bounces of it come to.
async fn sent_from_an_address_of_its_own(rules: Vec<Rule>) -> (Gate, Upstream, DnsServer, String) {
    let (zone, records) = one();
    let script = rules.into_iter().fold(Script::with_xclient(), Script::rule);
    let site = Site::new(zone, script, records).await;
    let config = site
        .config
        .clone()
        .set("reports.window", "0s")
        .set("reports.enabled", true)
        .set("reports.bounce_domain", "bounces.gate.example");
    let Site { _dns, relay, directory, .. } = site;
    std::fs::create_dir(directory.path().join("spool")).expect("a fresh directory");
    let gate = Gate::start_in(directory, &config).await;
    gate.wait_for_log("\"report\"").await;
    let sender = relay.messages()[0].from.clone();
    assert!(sender.starts_with("r-") && sender.ends_with("@bounces.gate.example"), "{sender}");
    (gate, relay, _dns, sender)
}

async fn suppressed(gate: &Gate) -> String {
    let output = gate.run(&["reports", "suppressions", "list", "--json"]).await;
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test]
async fn a_bounce_comes_back_to_the_gate_and_quiets_the_address() {
    let (gate, relay, _dns, address) = sent_from_an_address_of_its_own(Vec::new()).await;
    let mut client = Client::introduced(gate.address(), STRANGER, "mx.a.example").await;
    for (action, status, code, kind) in [("delayed", "4.4.1", 250, "notice"), ("failed", "4.4.7", 250, "temporary")] {
        let content = BOUNCE.replace("ACTION", action).replace("STATUS", status);
        client.deliver("", &[&address], content.as_bytes()).await.outcome().assert(code);
        gate.wait_for_metrics(kind, |scrape| {
            scrape.value(&format!("dmarcgate_reports_bounces_total{{kind=\"{kind}\"}}")) == 1.0
        })
        .await;
        assert_eq!(suppressed(&gate).await, "", "{action} {status}");
    }
    let reply = "From: a@a.example\r\nAuto-Submitted: auto-replied\r\n\r\nI am away. Action: failed\r\n";
    client.deliver("", &[&address], reply.as_bytes()).await.outcome().assert(250);
    assert_eq!(suppressed(&gate).await, "");
    let content = BOUNCE.replace("ACTION", "failed").replace("STATUS", "5.1.1");
    client.deliver("", &[&address.to_uppercase()], content.as_bytes()).await.outcome().assert(250);
    let listed = suppressed(&gate).await;
    assert!(listed.contains(r#""address":"dmarc@a.example","strikes":1"#), "{listed}");
    assert!(listed.contains("bounce: 5.1.1 550 5.1.1 no such user"), "{listed}");
    assert_eq!(relay.messages().len(), 1, "nothing of it has gone upstream: {}", relay.transcript());
    assert!(!relay.commands().iter().any(|line| line.to_lowercase().contains("rcpt to:<r-")), "{}", relay.transcript());
    assert_eq!(gate.rows().await.len(), 1, "the row of the forgery is all there is");
    relay.assert_clean();
}

#[tokio::test]
async fn an_address_for_bounces_takes_nothing_else() {
    let (gate, relay, _dns, address) = sent_from_an_address_of_its_own(Vec::new()).await;
    let mut client = Client::introduced(gate.address(), STRANGER, "mx.a.example").await;
    let rcpt = |to: &str| format!("RCPT TO:<{to}>");
    let forged = address.replace("r-", "r-0");
    for (commands, codes) in [
        (vec!["MAIL FROM:<x@y.example>".to_owned(), rcpt(&address), "RSET".into()], [250, 550, 250]),
        (vec!["MAIL FROM:<>".to_owned(), rcpt(&forged), "RSET".into()], [250, 550, 250]),
        (vec!["MAIL FROM:<>".to_owned(), rcpt("postmaster@bounces.gate.example"), "RSET".into()], [250, 550, 250]),
        (vec!["MAIL FROM:<>".to_owned(), rcpt(&address), rcpt("user@gate.example")], [250, 250, 452]),
        (vec![rcpt(&address), "DATA".to_owned(), ".".into()], [452, 354, 250]),
        (vec!["MAIL FROM:<>".to_owned(), rcpt("user@gate.example"), rcpt(&address)], [250, 250, 452]),
    ] {
        for (command, code) in commands.iter().zip(codes) {
            client.command(command).await.assert(code);
        }
    }
    // Sent as a group, the address never goes ahead of its answer either.
    let mut client = Client::introduced(gate.address(), STRANGER, "mx.a.example").await;
    client
        .send(format!("MAIL FROM:<>\r\n{}\r\n{}\r\nDATA\r\n", rcpt(&address), rcpt("user@gate.example")).as_bytes())
        .await;
    for code in [250, 250, 452, 354] {
        client.read_reply().await.assert(code);
    }
    assert!(!relay.commands().iter().any(|line| line.starts_with("RCPT TO:<r-")), "{}", relay.transcript());
    // Each refusal counts, and the log has the first of them.
    let refusals = gate.metrics().await.value("dmarcgate_command_refusals_total{reason=\"bounce_address\"}");
    assert_eq!(refusals, 7.0);
    let event = gate.wait_for_log("command refused").await;
    for told in [&*rcpt(&address), "\"reason\":\"bounce_address\"", "\"reply\":\"550 5.1.1 No such user here\""] {
        assert!(event.contains(told), "{event}");
    }
}

#[tokio::test]
async fn a_bounce_that_can_not_be_written_down_is_put_off() {
    let (gate, _relay, _dns, address) = sent_from_an_address_of_its_own(Vec::new()).await;
    let mut client = Client::introduced(gate.address(), STRANGER, "mx.a.example").await;
    let content = BOUNCE.replace("ACTION", "failed").replace("STATUS", "5.1.1");
    // The key is known from now on.
    client.deliver("", &[&address], b"Subject: hello\r\n\r\n").await.outcome().assert(250);
    let options = SqliteConnectOptions::new().filename(gate.directory().join("dmarcgate.db"));
    let mut lock = SqliteConnection::connect_with(&options).await.expect("the store");
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut lock).await.expect("nobody else writes");
    client.deliver("", &[&address], content.as_bytes()).await.outcome().assert(451);
    // It is among what was refused, as any other message.
    let event = gate.wait_for_log("\"outcome\":\"failed\"").await;
    for told in
        ["\"message\":\"bounce of a report\"", "\"reverse_path\":\"<>\"", &format!("\"recipients\":\"<{address}>\"")]
    {
        assert!(event.contains(told), "{told}: {event}");
    }
    let refusals = api(&gate, "refusals", |all| all.as_array().is_some_and(|all| all.len() == 1)).await;
    assert_eq!((&refusals[0]["outcome"], &refusals[0]["explained"]), (&"failed".into(), &false.into()), "{refusals}");
    sqlx::query("COMMIT").execute(&mut lock).await.expect("our own transaction");
    assert_eq!(suppressed(&gate).await, "");
    client.deliver("", &[&address], content.as_bytes()).await.outcome().assert(250);
    assert!(suppressed(&gate).await.contains("dmarc@a.example"));
}

#[tokio::test]
async fn mail_about_reports_leaves_no_rows() {
    let zone = Zone::new()
        .txt("good.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.good.example", "v=DMARC1; p=reject; rua=mailto:r@good.example");
    let world = World::start(zone, |config| {
        config.set("reports.from", "reports@gate.example").set("reports.organization", "Gate")
    })
    .await;
    let report = "From: r@good.example\r\nSubject: Report Domain: gate.example Submitter: good.example Report-ID: <1>\r\n\
                  Content-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\n";
    let letter = |ip: &str, to: &str, content: &str| {
        let mut letter = Letter::new(ip, "r@good.example");
        (letter.recipients, letter.content) = (vec![to.into()], content.as_bytes().to_vec());
        letter
    };
    let plain = "From: r@good.example\r\nSubject: hello\r\n\r\nhello\r\n";
    let (good, bad) = ("192.0.2.10", "198.51.100.66");
    for (name, letter, leaves_a_row) in [
        ("a report that passes", letter(good, "user@gate.example", report), false),
        ("mail to the sender of reports", letter(good, "Reports@gate.example", plain), false),
        ("a forgery to it", letter(bad, "reports@gate.example", plain), false),
        ("a forgery in the form of a report", letter(bad, "user@gate.example", report), true),
        ("other mail", letter(good, "user@gate.example", plain), true),
    ] {
        let before = world.gate.metrics().await.value("dmarcgate_store_rows_appended_total");
        world.send(&letter).await;
        let after = world.gate.metrics().await.value("dmarcgate_store_rows_appended_total");
        assert_eq!(after - before, f64::from(u8::from(leaves_a_row)), "{name}");
    }
}
