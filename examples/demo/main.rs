//! The demo: a small Internet on loopback, and what dmarcgate makes of six messages.
//!
//! `cargo run --release --example demo` sends them, shows what happens and checks it: exit code 0 only if each came out
//! as it should. With `-- --hold` everything keeps running, for mail of your own.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "what goes wrong here ends the program"
)]

mod letters;
mod show;
mod support;
mod world;

use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use dmarcgate::label::Label;
use tokio::time::interval;

use crate::letters::{Expected, Letter, RECIPIENT, letters};
use crate::show::Show;
use crate::support::client::{Client, Reply};
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::upstream::Message;
use crate::world::World;

fn main() -> ExitCode {
    let hold = match std::env::args().skip(1).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--hold"] => true,
        _ => {
            eprintln!("usage: cargo run --release --example demo [-- --hold]");
            return ExitCode::from(2);
        }
    };
    // The harness panics where a test would fail; here that is a message and exit code 1.
    panic::set_hook(Box::new(|why| eprintln!("\nThe demo can't go on: {why}")));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let ended = runtime.block_on(async { tokio::spawn(run(hold)).await });
    match ended {
        Ok(Ok(0)) => ExitCode::SUCCESS,
        Ok(Ok(failed)) => {
            eprintln!("\n{failed} expectation(s) did not hold: see the crosses above.");
            ExitCode::FAILURE
        }
        Ok(Err(why)) => {
            eprintln!("\nThe demo can't go on: {why}");
            ExitCode::FAILURE
        }
        // The hook has said why.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs the demo and gives how many expectations did not hold.
async fn run(hold: bool) -> Result<usize, String> {
    let show = Show::new();
    let world = World::start().await?;
    show.heading("dmarcgate demo: a DNS server, a mail server, and the gate before it, all on loopback.");
    show.dim("C is the sender, S the gate; + are the fields that the gate puts on top.");
    let mut failed = 0;
    let letters = letters();
    for (index, letter) in letters.iter().enumerate() {
        show.title(index + 1, letter.title, letter.why);
        failed += usize::from(!deliver(show, &world, letter).await);
    }
    failed += usize::from(!rows(show, &world, &letters).await?);
    failed += usize::from(!metrics(show, &world, &letters));
    if hold {
        keep_running(show, &world).await?;
    }
    world.gate.stop(std::future::pending()).await;
    if failed == 0 {
        show.heading(&format!("All {} messages came out as they should.", letters.len()));
    }
    Ok(failed)
}

/// Sends one message, shows what comes of it and tells whether that is what should.
async fn deliver(show: Show, world: &World, letter: &Letter) -> bool {
    let before = world.mta.messages().len();
    let reply = send(show, world, letter).await;
    let messages = world.mta.messages();
    let arrived = messages.get(before);
    let on_top = arrived.map(|message| added(message, letter));
    println!();
    match &on_top {
        None => show.dim("The mail server never saw it."),
        Some(None) => show.dim("The mail server got it CHANGED."),
        Some(Some(fields)) => {
            let client = arrived.and_then(|m| m.xclient.get("ADDR")).map_or("nobody", String::as_str);
            show.dim(&format!("The mail server got it unchanged, sent by {client} (XCLIENT), under:"));
            fields.lines().for_each(|line| show.field(line));
        }
    }
    let holds = is_as_expected(&letter.expected, &reply, on_top);
    show.check(holds, letter.expected.in_words);
    holds
}

async fn send(show: Show, world: &World, letter: &Letter) -> Reply {
    let client = letter.client.parse().expect("an address");
    let header = ProxyHeader::naming(ProxyVersion::V2, client);
    let mut session = Client::connect_through(world.gate.listeners()[0], header).await;
    show.dim(&format!("(connects from {client}, as the PROXY header of a balancer says)"));
    show.server(&session.expect(220).await);
    let mail = format!("MAIL FROM:<{}>", letter.from);
    let rcpt = format!("RCPT TO:<{RECIPIENT}>");
    for line in [&format!("EHLO {}", letter.name), &mail, &rcpt, "DATA"] {
        show.client(line);
        show.server(&session.command(line).await);
    }
    content(show, &letter.content);
    let reply = session.content(&letter.content).await;
    show.server(&reply);
    session.command("QUIT").await;
    reply
}

/// Shows a message without the tail of its signature.
fn content(show: Show, content: &[u8]) {
    let text = String::from_utf8_lossy(content);
    for line in text.lines().filter(|line| !line.starts_with('\t')) {
        let cut = if line.starts_with("DKIM-Signature") { " (...)" } else { "" };
        show.client(&format!("{line}{cut}"));
    }
    show.client(".");
}

/// The fields on top; none if what is below them is not the message as it was sent.
fn added(message: &Message, letter: &Letter) -> Option<String> {
    let fields = message.content.strip_suffix(&*letter.content)?;
    Some(String::from_utf8_lossy(fields).into_owned())
}

fn is_as_expected(expected: &Expected, reply: &Reply, on_top: Option<Option<String>>) -> bool {
    let Expected { code, added, marked, .. } = expected;
    let taken = match on_top {
        None => *code != 250,
        Some(None) => false,
        Some(Some(fields)) => {
            let unfolded = fields.replace("\r\n ", " ");
            let has_all = added.iter().all(|part| unfolded.contains(part));
            *code == 250 && has_all && unfolded.contains("X-DMARC-Fail-policy") == *marked
        }
    };
    taken && reply.code == *code
}

async fn rows(show: Show, world: &World, letters: &[Letter]) -> Result<bool, String> {
    show.heading("What was recorded, for reports to the domains' owners");
    let mut expected: Vec<_> = letters.iter().filter_map(|letter| letter.expected.row).collect();
    let rows = world.rows(expected.len().try_into().unwrap_or(i64::MAX)).await?;
    let mut found = Vec::new();
    for row in &rows {
        show.plain(&format!("{:14} {:10} {:>2}", row.policy_domain, row.disposition, row.messages));
        let times = usize::try_from(row.messages).unwrap_or_default();
        found.extend(std::iter::repeat_n((&*row.policy_domain, row.disposition.as_str()), times));
    }
    expected.sort_unstable();
    found.sort_unstable();
    show.check(found == expected, "one row for each evaluated message");
    Ok(found == expected)
}

fn metrics(show: Show, world: &World, letters: &[Letter]) -> bool {
    show.heading("Some of the metrics");
    let all = world.gate.registry().render();
    let shown = ["dmarcgate_messages_total", "dmarcgate_dmarc_results_total", "dmarcgate_bypassed_total"];
    let mut messages = 0;
    for line in all.lines().filter(|line| shown.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")) {
        show.plain(line);
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<usize>().ok()).unwrap_or_default();
        messages += if line.starts_with(shown[0]) { count } else { 0 };
    }
    show.check(messages == letters.len(), "every message is counted");
    messages == letters.len()
}

/// Keeps everything running until Ctrl-C, and shows what reaches the mail server.
async fn keep_running(show: Show, world: &World) -> Result<(), String> {
    let [proxied, smtp] = world.gate.listeners() else { return Err("two listeners were configured".into()) };
    show.heading("Everything keeps running until Ctrl-C.");
    show.plain(&format!("SMTP                {smtp}"));
    show.plain(&format!("SMTP behind PROXY   {proxied}   (v1 or v2, from 127.0.0.0/8: be any client)"));
    show.plain(&format!("admin               http://{}/metrics   /readyz   /healthz", world.gate.admin()));
    show.plain(&format!(
        "DNS                 {}   (dig -p {} @127.0.0.1 _dmarc.bank.example TXT)",
        world.dns.address(),
        world.dns.address().port()
    ));
    show.heading("Try:");
    let swaks = |port: u16, more: &str| format!("swaks --server 127.0.0.1 --port {port} --to {RECIPIENT} {more}");
    show.plain(&swaks(smtp.port(), "--from ceo@bank.example"));
    show.plain(&swaks(smtp.port(), "--from orders@shop.example"));
    let proxy = "--proxy 'TCP4 192.0.2.10 192.0.2.25 40025 25'";
    show.plain(&swaks(proxied.port(), &format!("--from news@bank.example {proxy}")));
    let mut seen = world.mta.messages().len();
    let mut again = interval(Duration::from_millis(200));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = &mut interrupt => return Ok(()),
            _ = again.tick() => {}
        }
        for message in world.mta.messages().iter().skip(seen) {
            seen += 1;
            show.heading(&format!("The mail server got message {seen}, from <{}>:", message.from));
            let text = String::from_utf8_lossy(&message.content);
            text.lines().take_while(|line| !line.is_empty()).for_each(|line| show.field(line));
        }
    }
}
