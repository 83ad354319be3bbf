//! The rows that reports are made of: which messages have one, what it says, and that it lasts.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};

use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::gate::{Gate, Scrape};
use crate::support::rules::{DOT, Script, on};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    let spf = "v=spf1 ip4:192.0.2.0/24 -all";
    let names = [
        ("reject", "v=DMARC1; p=reject; rua=mailto:r@reject.example"),
        ("quarantine", "v=DMARC1; p=quarantine"),
        ("none", "v=DMARC1; p=none"),
        ("testing", "v=DMARC1; p=reject; t=y"),
        ("sub", "v=DMARC1; p=none; sp=reject"),
    ];
    let zone = names.into_iter().fold(Zone::new(), |zone, (name, policy)| {
        zone.txt(&format!("{name}.example"), spf).txt(&format!("_dmarc.{name}.example"), policy)
    });
    zone.a("www.sub.example", GOOD)
        .txt("s._domainkey.reject.example", &SigningKey::rsa().record())
        .txt("_dmarc.doubt.example", "v=DMARC1; p=reject")
        .serv_fail("doubt.example", RecordType::TXT)
}

/// All rows below `directory`, each as `policy_domain header_from disposition dkim/spf reasons reply xN`, sorted.
async fn rows(directory: &Path) -> Vec<String> {
    let options = SqliteConnectOptions::new().filename(directory.join("dmarcgate.db")).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("the gate's database");
    let rows = sqlx::query("SELECT * FROM report_rows").fetch_all(&mut connection).await.expect("its rows");
    let mut shown: Vec<String> = rows
        .iter()
        .map(|row| {
            let text = |column: &str| match row.get::<String, _>(column) {
                empty if empty.is_empty() => "-".to_owned(),
                text => text,
            };
            let reasons: Vec<serde_json::Value> = serde_json::from_str(&row.get::<String, _>("reasons")).unwrap();
            let reasons: Vec<_> = reasons.iter().map(|r| r["type"].as_str().unwrap()).collect();
            let words = [
                text("policy_domain"),
                text("header_from"),
                text("disposition"),
                format!("{}/{}", text("dkim_aligned"), text("spf_aligned")),
                format!("[{}]", reasons.join(",")),
                text("reply"),
                format!("x{}", row.get::<i64, _>("n")),
            ];
            words.join(" ")
        })
        .collect();
    shown.sort();
    shown
}

/// One column of the only row.
pub async fn column(directory: &Path, name: &str) -> String {
    let options = SqliteConnectOptions::new().filename(directory.join("dmarcgate.db")).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("the gate's database");
    let query = format!("SELECT {name} FROM report_rows");
    let row = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_one(&mut connection).await.expect("a row");
    row.get(0)
}

/// Waits until `count` rows were written.
pub async fn written(gate: &Gate, count: u32) {
    let enough =
        |scrape: &crate::support::gate::Scrape| scrape.value("dmarcgate_store_rows_written_total") >= f64::from(count);
    gate.wait_for_metrics("enough rows written", enough).await;
}

#[tokio::test]
async fn each_final_answer_is_a_row_with_what_was_done_and_why() {
    let script = Script::with_xclient()
        .rule(on(DOT).with("refused@").reply("554 5.7.1 spam"))
        .rule(on(DOT).with("later@").reply("451 4.3.0 later"))
        .rule(on(DOT).with("lost@").close());
    let world = World::unprobed(script, zone(), |c| c).await;
    let to = |letter: Letter, recipient: &str| letter.to(&[recipient]);
    let list = Letter::new(BAD, "a@reject.example").field("List-Id: <l.lists.example>\r\n");
    let broken = {
        let letter = Letter::new(BAD, "a@reject.example");
        let content = Signer::new(SigningKey::rsa(), "reject.example", "s").sign(&letter.content);
        letter.content([content, b"footer\r\n".to_vec()].concat())
    };
    let letters = [
        (Letter::new(GOOD, "a@reject.example"), 250, "reject.example reject.example pass fail/pass [] accepted x1"),
        (Letter::new(GOOD, "a@none.example"), 250, "none.example none.example none fail/pass [] accepted x1"),
        (
            Letter::new(BAD, "a@reject.example"),
            550,
            "reject.example reject.example reject fail/fail [] refused_by_gate x1",
        ),
        (list, 250, "reject.example reject.example quarantine fail/fail [mailing_list] accepted x1"),
        (broken, 250, "reject.example reject.example quarantine fail/fail [local_policy] accepted x1"),
        (
            Letter::new(BAD, "a@quarantine.example"),
            250,
            "quarantine.example quarantine.example quarantine fail/fail [] accepted x1",
        ),
        (
            Letter::new(BAD, "a@testing.example"),
            250,
            "testing.example testing.example quarantine fail/fail [policy_test_mode] accepted x1",
        ),
        (
            Letter::new(BAD, "a@www.sub.example"),
            550,
            "sub.example www.sub.example reject fail/fail [] refused_by_gate x1",
        ),
        (Letter::new(BAD, "a@no-record.example"), 250, "- no-record.example none fail/fail [] accepted x1"),
        (
            Letter::with_header(BAD, "a@none.example", "From: nobody\r\n"),
            550,
            "- - reject fail/fail [] refused_by_gate x1",
        ),
        (Letter::with_header(BAD, "", "From: nobody\r\n"), 250, "- - quarantine fail/fail [] accepted x1"),
        (
            to(Letter::new(GOOD, "a@quarantine.example"), "refused@rcpt.example"),
            554,
            "quarantine.example quarantine.example pass fail/pass [] refused_by_upstream x1",
        ),
        // Not final: they come again.
        (to(Letter::new(GOOD, "a@reject.example"), "later@rcpt.example"), 451, ""),
        (to(Letter::new(GOOD, "a@reject.example"), "lost@rcpt.example"), 451, ""),
        (Letter::new(BAD, "a@doubt.example"), 451, ""),
        // Not evaluated.
        (Letter::new(GOOD, "a@reject.example").field(" continuation\r\n"), 554, ""),
    ];
    let mut expected = Vec::new();
    for (letter, code, row) in letters {
        let outcome = world.send(&letter).await;
        assert_eq!(outcome.reply.code, code, "{row}: {}", outcome.reply);
        expected.extend((!row.is_empty()).then(|| row.to_owned()));
    }
    written(&world.gate, u32::try_from(expected.len()).unwrap()).await;
    expected.sort();
    assert_eq!(rows(world.gate.directory()).await, expected);
    let appended = world.gate.metrics().await.value("dmarcgate_store_rows_appended_total");
    assert_eq!(appended, expected.len() as f64);
}

#[tokio::test]
async fn what_is_not_done_for_the_mode_has_its_reason() {
    let cases = [
        (
            "monitor",
            "corroborated",
            [
                "quarantine.example quarantine.example none fail/fail [local_policy] accepted x1",
                "reject.example reject.example none fail/fail [local_policy] accepted x1",
                "testing.example testing.example none fail/fail [policy_test_mode,local_policy] accepted x1",
            ],
        ),
        (
            "tag",
            "corroborated",
            [
                "quarantine.example quarantine.example quarantine fail/fail [] accepted x1",
                "reject.example reject.example quarantine fail/fail [local_policy] accepted x1",
                "testing.example testing.example quarantine fail/fail [policy_test_mode] accepted x1",
            ],
        ),
        (
            "enforce",
            "never",
            [
                "quarantine.example quarantine.example quarantine fail/fail [] accepted x1",
                "reject.example reject.example quarantine fail/fail [local_policy] accepted x1",
                "testing.example testing.example quarantine fail/fail [policy_test_mode] accepted x1",
            ],
        ),
    ];
    for (mode, reject, expected) in cases {
        let configure = |c: ConfigText| c.set("policy.mode", mode).set("policy.reject", reject);
        let world = World::start(zone(), configure).await;
        for name in ["quarantine", "reject", "testing"] {
            world.send(&Letter::new(BAD, &format!("a@{name}.example"))).await.reply.assert(250);
        }
        written(&world.gate, 3).await;
        assert_eq!(rows(world.gate.directory()).await, expected, "{mode} {reject}");
    }
}

#[tokio::test]
async fn doubt_that_was_let_pass_says_so() {
    let world = World::start(zone(), |c| c.set("policy.on_temperror", "pass")).await;
    world.send(&Letter::new(BAD, "a@doubt.example")).await.reply.assert(250);
    written(&world.gate, 1).await;
    let expected = ["doubt.example doubt.example none fail/fail [other] accepted x1"];
    assert_eq!(rows(world.gate.directory()).await, expected);
}

#[tokio::test]
async fn several_author_domains_have_a_row_each() {
    let world = World::start(zone(), |c| c).await;
    let header = "From: a@none.example, a@quarantine.example, a@no-record.example\r\n";
    world.send(&Letter::with_header(GOOD, "a@none.example", header)).await.reply.assert(250);
    written(&world.gate, 3).await;
    let expected = [
        "- no-record.example quarantine fail/fail [local_policy] accepted x1",
        "none.example none.example quarantine fail/pass [local_policy] accepted x1",
        "quarantine.example quarantine.example quarantine fail/fail [] accepted x1",
    ];
    assert_eq!(rows(world.gate.directory()).await, expected);
}

#[tokio::test]
async fn a_row_has_all_identifiers_and_like_ones_add_up() {
    let world = World::start(zone(), |c| c).await;
    let letter = Letter::new(GOOD, "a@reject.example").sender("").helo("mta.reject.example");
    let aligned = Signer::new(SigningKey::rsa(), "reject.example", "s").sign(&letter.content);
    let twice = Signer::new(SigningKey::rsa(), "other.example", "none").sign(&aligned);
    for _ in 0..3 {
        world.send(&letter.clone().content(twice.clone())).await.reply.assert(250);
    }
    written(&world.gate, 3).await;
    let directory = world.gate.directory();
    assert_eq!(rows(directory).await, ["reject.example reject.example pass pass/fail [] accepted x3"]);
    let expected = [
        ("source_ip", GOOD),
        ("envelope_from", ""),
        ("envelope_to", ""),
        ("spf_domain", "mta.reject.example"),
        ("spf_scope", "helo"),
        ("spf_result", "none"),
        ("policy_record", "v=DMARC1; p=reject; rua=mailto:r@reject.example"),
        ("discovery", "treewalk"),
        (
            "dkim_results",
            r#"[{"domain":"reject.example","selector":"s","result":"pass"},{"domain":"other.example","selector":"none","result":"permerror"}]"#,
        ),
    ];
    for (name, value) in expected {
        assert_eq!(column(directory, name).await, value, "{name}");
    }
}

#[tokio::test]
async fn an_address_literal_is_not_the_null_reverse_path() {
    let world = World::start(zone(), |c| c).await;
    let letter = Letter::new(GOOD, "a@none.example").sender("a@[192.0.2.9]");
    world.send(&letter).await.reply.assert(250);
    written(&world.gate, 1).await;
    assert_eq!(column(world.gate.directory(), "envelope_from").await, "[]");
}

#[tokio::test]
async fn written_rows_survive_a_killed_process() {
    let world = World::start(zone(), |c| c).await;
    world.send(&Letter::new(GOOD, "a@reject.example")).await.reply.assert(250);
    written(&world.gate, 1).await;
    let World { dns, upstream, gate } = world;
    let directory = gate.kill();
    let config = ConfigText::new(upstream.address(), dns.address(), directory.path());
    let world = World { gate: Gate::start_in(directory, &config).await, dns, upstream };
    world.send(&Letter::new(GOOD, "a@reject.example")).await.reply.assert(250);
    let (status, directory) = world.gate.stop().await;
    assert!(status.success());
    assert_eq!(rows(directory.path()).await, ["reject.example reject.example pass fail/pass [] accepted x2"]);
}

#[tokio::test]
async fn a_store_that_breaks_holds_up_no_mail_is_loud_and_recovers() {
    let world = World::start(zone(), |c| c).await;
    world.send(&Letter::new(GOOD, "a@none.example")).await.reply.assert(250);
    written(&world.gate, 1).await;

    let file = world.gate.directory().join("dmarcgate.db");
    std::fs::rename(&file, world.gate.directory().join("taken-away.db")).unwrap();
    std::fs::create_dir(&file).unwrap();
    world.send(&Letter::new(GOOD, "a@reject.example")).await.reply.assert(250);
    let scrape = world.gate.wait_for_metrics("a broken store", |s| s.value("dmarcgate_store_up") == 0.0).await;
    assert!(scrape.value("dmarcgate_store_failed_batches_total") >= 1.0);
    // It waits in memory, and from the first failure on in the spill file.
    let waiting = |s: &Scrape| s.value("dmarcgate_store_rows_pending") + s.value("dmarcgate_store_spill_rows");
    world.gate.wait_for_metrics("a row that waits", |s| waiting(s) == 1.0).await;
    let line = world.gate.wait_for_log("the database does not take rows").await;
    assert!(line.contains("\"level\":\"ERROR\"") && line.contains("dmarcgate.db"), "{line}");
    world.send(&Letter::new(BAD, "a@reject.example")).await.reply.assert(550);

    std::fs::remove_dir(&file).unwrap();
    world.gate.wait_for_metrics("a store that works", |s| s.value("dmarcgate_store_up") == 1.0).await;
    written(&world.gate, 3).await;
    let expected = [
        "reject.example reject.example pass fail/pass [] accepted x1",
        "reject.example reject.example reject fail/fail [] refused_by_gate x1",
    ];
    assert_eq!(rows(world.gate.directory()).await, expected);
}

#[tokio::test]
async fn domains_of_recipients_are_told_on_request_alone() {
    let recipients = ["a@one.example", "b@two.example", "c@ONE.example"];
    let letter = Letter::new(GOOD, "a@none.example").to(&recipients);
    for (is_on, expected) in [(false, vec![" x1"]), (true, vec!["one.example x1", "two.example x1"])] {
        let world = World::start(zone(), |c| c.set("store.envelope_to", is_on)).await;
        world.send(&letter).await.reply.assert(250);
        written(&world.gate, u32::try_from(expected.len()).unwrap()).await;
        let options = SqliteConnectOptions::new().filename(world.gate.directory().join("dmarcgate.db")).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await.expect("the gate's database");
        let query = "SELECT envelope_to, n FROM report_rows ORDER BY envelope_to";
        let rows = sqlx::query(query).fetch_all(&mut connection).await.expect("its rows");
        let shown: Vec<_> = rows.iter().map(|r| format!("{} x{}", r.get::<String, _>(0), r.get::<i64, _>(1))).collect();
        assert_eq!(shown, expected);
    }
}
