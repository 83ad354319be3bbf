//! The status page and its API beside `/metrics`, after mail that is known; and hostile names and clients.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::PATIENCE;
use crate::support::dns::Zone;
use crate::support::gate::{Gate, POLL};
use crate::support::rules::{DOT, Script, on};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

fn zone() -> Zone {
    Zone::new()
        .txt("a.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt("_dmarc.q.example", "v=DMARC1; p=quarantine")
}

/// What the API says under a name, once `is_right`.
pub async fn api(gate: &Gate, name: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    let (mut again, deadline) = (tokio::time::interval(POLL), tokio::time::Instant::now() + PATIENCE);
    loop {
        again.tick().await;
        let (status, body) = gate.http_get(&format!("/api/{name}")).await;
        assert_eq!(status, 200, "{body}");
        let value = serde_json::from_str(&body).expect("JSON");
        if is_right(&value) {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} never was right: {value:#}");
    }
}

#[tokio::test]
async fn page_api_and_metrics_tell_the_same_numbers() {
    let script = Script::with_xclient().rule(on(DOT).with("refused@").reply("554 5.7.1 spam"));
    let world = World::unprobed(script, zone(), |c| c).await;
    let letters = [
        (Letter::new(GOOD, "a@a.example"), 250),
        (Letter::new(GOOD, "a@a.example"), 250),
        (Letter::new(BAD, "a@q.example"), 250),
        (Letter::new(BAD, "a@a.example"), 550),
        (Letter::new(GOOD, "a@a.example").to(&["refused@rcpt.example"]), 554),
        (Letter::new(GOOD, "a@a.example").field(" x\r\n"), 554),
    ];
    for (letter, code) in &letters {
        assert_eq!(world.send(letter).await.reply.code, *code);
    }
    // Rows first, so that the store is not looked at before they are there.
    world.gate.wait_for_metrics("five rows", |m| m.value("dmarcgate_store_rows_written_total") == 5.0).await;

    let scrape = world.gate.metrics().await;
    let outcomes = ["accepted", "accepted_tagged", "refused", "upstream_refused", "unacceptable", "deferred"];
    let mail = api(&world.gate, "mail", |mail| mail["messages"]["accepted"] == 2).await;
    let (status, page) = world.gate.http_get("/").await;
    assert_eq!(status, 200);
    for outcome in outcomes {
        let counted = scrape.value(&format!("dmarcgate_messages_total{{outcome=\"{outcome}\"}}"));
        assert_eq!(mail["messages"][outcome].as_f64().unwrap_or_default(), counted, "{outcome}");
        let minutes = mail["minutes"].as_array().unwrap().iter();
        assert_eq!(minutes.filter_map(|m| m["messages"][outcome].as_f64()).sum::<f64>(), counted, "{outcome}");
        let cell = format!("id=\"outcome-{outcome}\"><data value=\"{counted}\">");
        assert!(page.contains(&cell), "{cell}: {page}");
    }
    let dmarc: Vec<_> = mail["dmarc"].as_array().unwrap().iter().map(|r| (r[0].as_str(), r[1].as_f64())).collect();
    for result in ["pass", "fail"] {
        let counted = scrape.value(&format!("dmarcgate_dmarc_results_total{{result=\"{result}\"}}"));
        assert!(dmarc.contains(&(Some(result), Some(counted))), "{result}: {dmarc:?}");
    }

    // Of a.example one message failed, and of q.example one.
    let failing = api(&world.gate, "failing", |f| f["found"].as_array().is_some_and(|found| found.len() == 2)).await;
    let domain = &failing["found"][0];
    assert_eq!(
        (&domain["author_domain"], &domain["messages"], &domain["refused"]),
        (&"a.example".into(), &1.into(), &1.into())
    );
    assert_eq!(domain["from"][0]["ip"], BAD);

    let refusals = api(&world.gate, "refusals", |r| r.as_array().is_some_and(|all| all.len() == 3)).await;
    let found: Vec<_> = refusals.as_array().unwrap().iter().map(|r| r["outcome"].as_str().unwrap()).collect();
    assert_eq!(found, ["unacceptable", "upstream_refused", "refused"], "the newest first");
    let id = refusals[2]["id"].as_str().unwrap();
    assert!(page.contains(&format!("<a href=\"/explain/{id}\"")), "{page}");
    world.gate.wait_for_metrics("the story", |m| m.value("dmarcgate_store_explanations_written_total") >= 2.0).await;
    let (status, story) = world.gate.http_get(&format!("/explain/{id}")).await;
    assert!(status == 200 && story.contains(id) && story.contains(BAD), "{status}: {story}");
    let told = String::from_utf8(world.gate.run(&["explain", id, "--json"]).await.stdout).unwrap();
    assert_eq!(world.gate.http_get(&format!("/api/explain/{id}")).await, (200, told));
    assert_eq!(world.gate.http_get("/explain/0000000000000").await.0, 404);

    for view in ["/refusals", "/failing", "/forwarders", "/shadow", "/reports", "/inbound", "/api"] {
        let (status, page) = world.gate.http_get(view).await;
        assert!(status == 200 && page.contains("aria-current=\"page\""), "{view}: {status} {page}");
        assert!(!page.contains("can't be read"), "{view}: {page}");
    }
}

#[tokio::test]
async fn what_a_message_names_itself_stays_text() {
    let script = Script::with_xclient().rule(on(DOT).reply("554 5.7.1 <script>alert(1)</script>\" onload=\"x\x1b[31m"));
    let world = World::unprobed(script, zone(), |c| c.set("policy.mode", "monitor")).await;
    let evil = "<script>alert(2)</script>\"'><img src=x onerror=alert(3)>\u{202e}\x07";
    let content =
        format!("From: {evil} <a@xn--bcher-kva.example>\r\nMessage-ID: <{evil}>\r\nSubject: {evil}\r\n\r\nx\r\n");
    world.send(&Letter::new(BAD, "a@b.example").content(content)).await.reply.assert(554);
    let refusals = api(&world.gate, "refusals", |r| r.as_array().is_some_and(|all| all.len() == 1)).await;
    let id = refusals[0]["id"].as_str().unwrap();
    world.gate.wait_for_metrics("the story", |m| m.value("dmarcgate_store_explanations_written_total") >= 1.0).await;
    for path in ["/", "/refusals", &format!("/explain/{id}")] {
        let (status, page) = world.gate.http_get(path).await;
        assert_eq!(status, 200, "{path}");
        let lower = page.to_ascii_lowercase();
        assert!(
            !lower.contains("<script") && !lower.contains("<img") && !lower.contains("\" onload"),
            "{path}: {page}"
        );
        assert!(!page.contains(|c: char| c == '\u{202e}' || (c.is_control() && c != '\n')), "{path}: {page}");
        assert!(page.contains("&lt;script&gt;"), "{path}: it is shown all the same: {page}");
    }
}

#[tokio::test]
async fn a_token_guards_all_but_the_probes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    let world =
        World::unprobed(Script::with_xclient(), zone(), |c| c.set("admin.token_file", file.display().to_string()))
            .await;
    for (path, status) in [("/", 401), ("/metrics", 401), ("/api/status", 401), ("/healthz", 200)] {
        assert_eq!(world.gate.http_get(path).await.0, status, "{path}");
    }
    let mut stream = TcpStream::connect(world.gate.admin()).await.unwrap();
    let request = "GET /api/gate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.contains("mx.gate.example"), "{reply}");
    let admin = world.gate.admin().to_string();
    let reload = world.gate.run(&["reload", "--admin", &admin]).await;
    assert!(reload.status.success(), "it knows the token: {}", String::from_utf8_lossy(&reload.stderr));
    assert!(!world.gate.log().iter().any(|line| line.contains("0123456789abcdef")));
}

#[tokio::test]
async fn a_crowd_of_pollers_costs_one_look_at_the_store() {
    let world = World::unprobed(Script::with_xclient(), zone(), |c| c).await;
    let asked = (0..24).map(|_| world.gate.http_get("/api/status"));
    let mut read = Vec::new();
    let asked: Vec<_> = asked.collect();
    for answer in futures_of(asked).await {
        assert_eq!(answer.0, 200);
        let status: Value = serde_json::from_str(&answer.1).unwrap();
        read.extend(status["failing"]["read"].as_i64());
    }
    // Who has waited long enough is told that it is being read.
    read.dedup();
    assert!(read.len() <= 1, "one reading serves them all: {read:?}");
    // Mail goes on beside those who ask and never read.
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(world.gate.admin()).await.unwrap());
    }
    let letter = Letter::new(GOOD, "a@a.example");
    let sent = tokio::time::timeout(Duration::from_secs(10), world.send(&letter));
    sent.await.expect("in time").reply.assert(250);
}

/// All of them, side by side.
async fn futures_of<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        let is_done = futures.iter().all(|(_, output)| output.is_some());
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
