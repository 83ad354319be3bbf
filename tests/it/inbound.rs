//! Reports of others, read in passing: their mail goes its way untouched, and what is in it is told by
//! `dmarcgate reports inbound`.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor};

use crate::support::client::{Chunk, Client, bdat};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::gate::Scrape;
use crate::support::rules::{DOT, Script, on};
use crate::support::world::{Letter, STRANGER, World};

const REPORTER: &str = "192.0.2.10";
const READ: &str = "dmarcgate_inbound_reports_total";

fn zone() -> Zone {
    Zone::new()
        .txt("reporter.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.reporter.example", "v=DMARC1; p=reject")
        .txt("plain.example", "v=spf1 ip4:192.0.2.10 -all")
}

async fn world() -> World {
    let script = Script::with_xclient().rule(on(DOT).with("refused@").reply("554 5.7.1 spam"));
    let configure = |config: ConfigText| {
        // So little that a body of some hundred kilobytes is in a file.
        config.set("reports.inbound.addresses", vec!["dmarc@rcpt.example"]).set("spool.memory", "1MiB")
    };
    World::unprobed(script, zone(), configure).await
}

/// A report whose period has just ended, with an id that stands behind a dot at the start of a line.
fn report(id: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    format!(
        "<?xml version=\"1.0\"?>\r\n<feedback><report_metadata><org_name>Reporter</org_name><report_id>\r\n.{id}\r\n\
         </report_id><date_range><begin>{}</begin><end>{now}</end></date_range></report_metadata><policy_published>\
         <domain>rcpt.example</domain><p>reject</p></policy_published><record><row><source_ip>203.0.113.5</source_ip>\
         <count>7</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf>\
         </policy_evaluated></row><identifiers><header_from>rcpt.example</header_from></identifiers></record><record>\
         <row><source_ip>203.0.113.6</source_ip><count>2</count><policy_evaluated><disposition>none</disposition>\
         <dkim>pass</dkim><spf>fail</spf></policy_evaluated></row></record></feedback>\r\n",
        now - 86_400
    )
}

/// A message with an attachment in base64.
fn message(author: &str, kind: &str, attachment: &[u8]) -> Vec<u8> {
    format!(
        "From: {author}\r\nSubject: Report Domain: rcpt.example\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\n--=_b\r\nContent-Type: text/plain\r\n\r\nhello\r\n\
         --=_b\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--=_b--\r\n",
        base64(attachment)
    )
    .into_bytes()
}

fn letter(id: &str) -> Letter {
    let author = "a@reporter.example";
    let content = message(author, "application/gzip", &gzip(report(id).as_bytes()));
    Letter::new(REPORTER, author).to(&["dmarc@rcpt.example"]).content(content)
}

/// In lines.
fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().chain([&0; 2]).take(3).fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet));
        let digit = |place: usize| char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
        (0..4).map(|place| if place <= group.len() { digit(place) } else { '=' }).collect::<String>()
    };
    octets.chunks(57).map(|line| line.chunks(3).map(group).collect::<String>() + "\r\n").collect()
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

fn refused(reason: &str) -> String {
    format!("dmarcgate_inbound_reports_refused_total{{reason=\"{reason}\"}}")
}

fn all_refused(scrape: &Scrape) -> f64 {
    let series = scrape.0.lines().filter(|line| line.starts_with("dmarcgate_inbound_reports_refused_total{"));
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// The ids of the reports that were stored.
async fn ids(world: &World) -> Vec<String> {
    let options = SqliteConnectOptions::new().filename(world.gate.directory().join("dmarcgate.db")).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("the gate's database");
    let query = sqlx::query_scalar("SELECT report_id FROM inbound_reports ORDER BY report_id");
    query.fetch_all(&mut connection).await.expect("its reports")
}

/// What `reports inbound --json` tells, as `source messages/failed reporters`.
async fn told(world: &World) -> Vec<String> {
    let output = world.gate.run(&["reports", "inbound", "--json"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {}/{} {}", line["source"].as_str().unwrap(), line["messages"], line["failed"], line["reporters"])
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn a_report_passes_untouched_and_what_it_says_is_told_once() {
    let mut world = world().await;
    let first = letter("1");
    let outcome = world.send(&first).await;
    assert_eq!(outcome.summary(), "250");
    assert!(outcome.added().starts_with("Authentication-Results:"), "below it, octet by octet what was sent");
    world.wait_for_count(READ, 1.0).await;
    let expected = ["203.0.113.5 7/7 [\"reporter.example\"]", "203.0.113.6 2/0 [\"reporter.example\"]"];
    assert_eq!(told(&world).await, expected);
    assert_eq!(world.gate.metrics().await.value("dmarcgate_inbound_rows_total"), 2.0);
    let line = world.gate.wait_for_log("a report of others was read").await;
    for part in ["reporter.example", ".1", "rcpt.example"] {
        assert!(line.contains(part), "{line}");
    }

    assert_eq!(world.send(&first).await.summary(), "250");
    world.wait_for_count(&refused("duplicate"), 1.0).await;
    assert_eq!(told(&world).await, expected);

    // What was spooled in a file, with dots at the start of lines, beside other recipients; the alignment of a domain
    // without a policy is enough.
    let author = "a@plain.example";
    let filler = format!("<!--\r\n{}-->\r\n", ".a line that begins with a dot\r\n".repeat(1000)).repeat(22);
    let large = format!("From: {author}\r\nContent-Type: text/xml\r\n\r\n{}{filler}", report("2"));
    let large = Letter::new(REPORTER, author).to(&["you@rcpt.example", "DMARC@rcpt.example"]).content(large);
    let outcome = world.send(&large).await;
    assert_eq!(outcome.summary(), "250");
    outcome.added();
    world.wait_for_count(READ, 2.0).await;
    assert_eq!(told(&world).await[0], "203.0.113.5 14/14 [\"plain.example\",\"reporter.example\"]");

    assert_eq!(ids(&world).await, [".1", ".2"]);

    world.gate.reloaded(|config| config.set("reports.inbound.message_size", "64KiB")).await;
    assert_eq!(world.send(&large).await.summary(), "250");
    world.wait_for_count(&refused("message_size"), 1.0).await;
}

#[tokio::test]
async fn what_is_hostile_passes_untouched_and_is_counted() {
    let mut world = world().await;
    let author = "a@reporter.example";
    let bomb = {
        let piece = format!("<!--{}-->", " ".repeat(60_000));
        let mut xml = b"<feedback>".to_vec();
        std::iter::repeat_n(piece.as_bytes(), 70).for_each(|mut piece| _ = piece.read_to_end(&mut xml).unwrap());
        gzip(&xml)
    };
    let laughs = b"<!DOCTYPE f [<!ENTITY a \"lol\"><!ENTITY b \"&a;&a;&a;&a;\">]><feedback>&b;</feedback>".to_vec();
    let from = |kind: &str, attachment: &[u8]| {
        Letter::new(REPORTER, author).to(&["dmarc@rcpt.example"]).content(message(author, kind, attachment))
    };
    let cases = [
        ("bomb", from("application/gzip", &bomb)),
        ("doctype", from("text/xml", &laughs)),
        ("compression", from("application/zip", b"PK\x03\x04 and no more")),
        ("malformed", from("application/xml", b"<feedback><report_metadata>")),
        ("no_report", from("image/png", b"hello")),
        ("content", from("text/xml", b"<feedback></feedback>")),
        (
            "unverified",
            Letter { ip: STRANGER.into(), sender: "a@nobody.example".into(), ..letter("3") }.content(message(
                "a@nobody.example",
                "application/gzip",
                &gzip(report("3").as_bytes()),
            )),
        ),
        ("period", {
            let old = report("4").replace("<end>1", "<end>").replace("<begin>1", "<begin>");
            from("text/xml", old.as_bytes())
        }),
    ];
    for (reason, letter) in &cases {
        let outcome = world.send(letter).await;
        assert_eq!(outcome.summary(), "250", "{reason}");
        outcome.added();
        world.wait_for_count(&refused(reason), 1.0).await;
    }

    // Other recipients' mail is not looked at, nor is what the upstream has refused.
    assert_eq!(world.send(&letter("5").to(&["you@rcpt.example"])).await.summary(), "250");
    assert_eq!(world.send(&letter("6").to(&["refused@rcpt.example", "dmarc@rcpt.example"])).await.reply.code, 554);
    assert_eq!(world.send(&letter("7")).await.summary(), "250");
    world.wait_for_count(READ, 1.0).await;
    assert_eq!(all_refused(&world.gate.metrics().await), cases.len() as f64);
    assert_eq!(told(&world).await[0], "203.0.113.5 7/7 [\"reporter.example\"]");

    // Who wants so believes everyone, and is told.
    world.gate.reloaded(|config| config.set("reports.inbound.senders", "any")).await;
    assert_eq!(world.send(&cases[6].1).await.summary(), "250");
    world.wait_for_count(READ, 2.0).await;
    assert!(told(&world).await[0].ends_with(r#"["\"Reporter\" (unverified)","reporter.example"]"#));
}

#[tokio::test]
async fn while_the_store_takes_nothing_mail_goes_on_and_reports_beyond_the_queue_are_counted() {
    let world = world().await;
    let options = SqliteConnectOptions::new().filename(world.gate.directory().join("dmarcgate.db"));
    let mut rival = SqliteConnection::connect_with(&options).await.unwrap();
    rival.execute("BEGIN IMMEDIATE").await.unwrap();

    // One is being read, and with an eighth of so little memory eight wait; every further one is one too many. Each client
    // has its reply all the same.
    for id in 0..36 {
        assert_eq!(world.send(&letter(&id.to_string())).await.summary(), "250");
    }
    let full = world.gate.wait_for_metrics("a full queue", |scrape| scrape.value(&refused("queue_full")) >= 2.0).await;
    assert_eq!(full.value(READ), 0.0, "nothing was stored, and nobody had to wait for it");
    let lost = full.value(&refused("queue_full"));
    // A unit for the header section of each that waits.
    world.wait_for_count("dmarcgate_spool_memory_bytes", f64::from(8 * 16_384)).await;

    rival.execute("ROLLBACK").await.unwrap();
    world.wait_for_count(READ, 36.0 - lost).await;
    assert_eq!(all_refused(&world.gate.metrics().await), lost);
    world.wait_for_count("dmarcgate_spool_memory_bytes", 0.0).await;
}

#[tokio::test]
async fn a_report_that_comes_in_chunks_is_read_too() {
    let script = Script::with_xclient().extension("CHUNKING");
    let change = |config: ConfigText| config.set("reports.inbound.addresses", vec!["dmarc@rcpt.example"]);
    let world = World::with(script, zone(), change).await;
    let Letter { content, .. } = letter("8");
    // Cut inside its header section, and inside a line of base64.
    let pieces = [&content[..30], &content[30..content.len() - 60], &content[content.len() - 60..]];
    let mut client = Client::introduced(world.gate.address(), REPORTER, "reporter.example").await;
    client.command("MAIL FROM:<a@reporter.example>").await.assert(250);
    client.command("RCPT TO:<dmarc@rcpt.example>").await.assert(250);
    for (n, piece) in pieces.iter().enumerate() {
        let place = if n == 2 { Chunk::Last } else { Chunk::Inner };
        client.send(&bdat(piece, place)).await;
        client.expect(250).await;
    }
    let messages = world.upstream.wait_for_messages(1).await;
    assert!(messages[0].content.ends_with(&content), "octet by octet what was sent");
    world.wait_for_count(READ, 1.0).await;
    assert_eq!(told(&world).await[0], "203.0.113.5 7/7 [\"reporter.example\"]");
}
