//! A black box before a lenient upstream: what it would have taken for messages, whatever octets a client sends, and
//! wherever it breaks off.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::client::{Chunk, Client, bdat, encode};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{CHALLENGE, Script, on};
use crate::support::world::{MESSAGE, STRANGER, World};

/// What a client sends behind its EHLO before it ends its side, the codes of the replies, and the senders of the
/// messages that the upstream takes.
struct Case {
    name: String,
    octets: Vec<u8>,
    codes: &'static str,
    senders: &'static [&'static str],
}

const M: &str = "MAIL FROM:<a@a.example>\r\n";
const R: &str = "RCPT TO:<x@b.example>\r\n";
const D: &str = "DATA\r\n";
const TEXT: &str = "From: a@a.example\r\n\r\nx\r\n";
const HIDDEN: &str =
    "MAIL FROM:<evil@a.example>\r\nRCPT TO:<victim@b.example>\r\nDATA\r\nFrom: evil\r\n\r\nevil\r\n.\r\n";
const QUIT: &[u8] = b"QUIT\r\n";
const ONE: &[&str] = &["a@a.example"];
const TWO: &[&str] = &["a@a.example", "b@a.example"];
const NONE: &[&str] = &[];

fn case(name: &str, octets: impl Into<Vec<u8>>, codes: &'static str, senders: &'static [&'static str]) -> Case {
    Case { name: name.to_owned(), octets: octets.into(), codes, senders }
}

/// Both ways to send `content` as the one message of a session.
fn both_ways(name: &str, content: &[u8], codes: [&'static str; 2], senders: &'static [&'static str]) -> [Case; 2] {
    let head = [M, R].concat();
    let data = [head.as_bytes(), D.as_bytes(), content, b"\r\n.\r\n"].concat();
    let chunk = [head.as_bytes(), &bdat(content, Chunk::Last)].concat();
    [
        case(&format!("{name} in DATA"), data, codes[0], senders),
        case(&format!("{name} in BDAT"), chunk, codes[1], senders),
    ]
}

fn smuggling() -> Vec<Case> {
    let (good, bad) = (["250 250 354 250", "250 250 250"], ["250 250 354 550", "250 250 550"]);
    let spellings: [(&str, &[u8], bool); 18] = [
        ("LF.LF", b"\n.\n", true),
        ("LF.CRLF", b"\n.\r\n", true),
        ("CRLF.LF", b"\r\n.\n", true),
        ("CR.CR", b"\r.\r", true),
        ("CR.LF", b"\r.\n", true),
        ("LF.CR", b"\n.\r", true),
        ("CRLF.CR", b"\r\n.\r", true),
        ("CR.CRLF", b"\r.\r\n", true),
        ("CRCRLF.CRLF", b"\r\r\n.\r\r\n", true),
        ("CRLF.CRCRLF", b"\r\n.\r\r\n", true),
        ("LFCR.LFCR", b"\n\r.\n\r", true),
        ("CRLF NUL.CRLF", b"\r\n\0.\r\n", false),
        ("CRLF.NUL CRLF", b"\r\n.\0\r\n", false),
        ("LF NUL.LF", b"\n\0.\n", false),
        ("CRLF space.CRLF", b"\r\n .\r\n", true),
        ("CRLF.space CRLF", b"\r\n. \r\n", true),
        ("vertical tab.", b"\x0b.\x0b", true),
        ("NEL.", b"\xc2\x85.\xc2\x85", true),
    ];
    let cases = spellings.into_iter().flat_map(|(name, spelling, taken)| {
        // Without an end of its own, so that the one true end is that of the message.
        let hidden = HIDDEN.strip_suffix(".\r\n").unwrap_or(HIDDEN).as_bytes();
        let content = [b"From: a@a.example\r\n\r\nfirst", spelling, hidden].concat();
        let (codes, senders) = if taken { (good, ONE) } else { (bad, NONE) };
        both_ways(name, &content, codes, senders)
    });
    let head = [b"Subject: x\n.\n" as &[u8], b"Subject: x\r.\r", b"X\r\n.\n\r\n"].map(|odd| {
        let content =
            [b"From: a@a.example\r\n", odd, HIDDEN.strip_suffix(".\r\n").unwrap_or(HIDDEN).as_bytes()].concat();
        both_ways(&format!("{} in the header", odd.escape_ascii()), &content, good, ONE)
    });
    cases.chain(head.into_iter().flatten()).collect()
}

fn text(parts: &[&str]) -> String {
    parts.concat()
}

fn ordering() -> Vec<Case> {
    let chunk = |octets: &str, place| String::from_utf8(bdat(octets.as_bytes(), place)).unwrap();
    let last = chunk(TEXT, Chunk::Last);
    let second = "MAIL FROM:<b@a.example>\r\nRCPT TO:<y@b.example>\r\nDATA\r\nFrom: b\r\n\r\nx\r\n.\r\n";
    let e = "EHLO client.example\r\n";
    vec![
        case("one message", text(&[M, R, D, TEXT, ".\r\n"]), "250 250 354 250", ONE),
        case("one message and QUIT", text(&[M, R, D, TEXT, ".\r\nQUIT\r\n"]), "250 250 354 250 221", ONE),
        case("two messages", text(&[M, R, D, TEXT, ".\r\n", second]), "250 250 354 250 250 250 354 250", TWO),
        case("two behind QUIT", text(&[M, R, D, TEXT, ".\r\nQUIT\r\n", second]), "250 250 354 250 221", ONE),
        case("chunk and message", text(&[M, R, &last, second]), "250 250 250 250 250 354 250", TWO),
        case("no recipient", text(&[M, D, "RSET\r\n"]), "250 554 250", NONE),
        case("refused recipient", text(&[M, "RCPT TO:<>\r\n", D, "QUIT\r\n"]), "250 501 554 221", NONE),
        case("DATA first", text(&[D, R, M, "QUIT\r\n"]), "503 503 250 221", NONE),
        case("RCPT first", text(&[R, M, R, D, TEXT, ".\r\n"]), "503 250 250 354 250", ONE),
        case("MAIL twice", text(&[M, M, R, D, TEXT, ".\r\n"]), "250 503 250 354 250", ONE),
        case("RSET between", text(&[M, R, "RSET\r\n", D, "QUIT\r\n"]), "250 250 250 503 221", NONE),
        case("EHLO between", text(&[M, R, e, D, "QUIT\r\n"]), "250 250 250 503 221", NONE),
        case("HELO between", text(&[M, R, "HELO x\r\n", D, "QUIT\r\n"]), "250 250 250 503 221", NONE),
        case("NOOP between", text(&[M, "NOOP\r\n", R, "VRFY x\r\n", D, TEXT, ".\r\n"]), "250 250 250 252 354 250", ONE),
        case("DATA with a word", text(&[M, R, "DATA now\r\n", "QUIT\r\n"]), "250 250 501 221", NONE),
        case("no end", text(&[M, R, D, TEXT]), "250 250 354", NONE),
        case("no CRLF behind the dot", text(&[M, R, D, TEXT, "."]), "250 250 354", NONE),
        case("no LF behind the dot", text(&[M, R, D, TEXT, ".\r"]), "250 250 354", NONE),
        case("only the dot", text(&[M, R, D, ".\r\n"]), "250 250 354 250", ONE),
        case("dots", text(&[M, R, D, "From: a\r\n\r\n..\r\n...\r\n.\r\n"]), "250 250 354 250", ONE),
        case("commands as content", text(&[M, R, D, TEXT, "QUIT\r\nRSET\r\n.\r\n"]), "250 250 354 250", ONE),
        case("HELO and message", text(&["HELO x\r\n", M, R, D, TEXT, ".\r\n"]), "250 250 250 354 250", ONE),
        case(
            "HELO and parameters",
            text(&["HELO x\r\n", "MAIL FROM:<a@a.example> SIZE=1\r\n", R]),
            "250 555 503",
            NONE,
        ),
        case("two dots", text(&[M, R, D, TEXT, ".\r\n.\r\nNOOP\r\n"]), "250 250 354 250 500 250", ONE),
        case("STARTTLS that is none", text(&["STARTTLS\r\n", M, R, D, TEXT, ".\r\n"]), "502 250 250 354 250", ONE),
        case("XCLIENT", text(&["XCLIENT ADDR=127.0.0.1 LOGIN=root\r\n", M]), "502 250", NONE),
        case("XFORWARD", text(&["XFORWARD ADDR=127.0.0.1\r\n", M]), "502 250", NONE),
        case("a PROXY header", text(&[M, "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", R]), "250 554", NONE),
        case("HTTP", "POST / HTTP/1.1\r\nHost: x\r\n\r\n", "500 500 500", NONE),
        case(
            "HTTP with mail in it",
            text(&["POST / HTTP/1.1\r\n\r\n", M, R, D, TEXT, ".\r\n"]),
            "500 500 250 250 354 250",
            ONE,
        ),
    ]
}

fn lines() -> Vec<Case> {
    let whole = text(&[M, R, D]);
    let bare = whole.replace("\r\n", "\n");
    let long = "x".repeat(5_000);
    vec![
        case("commands ending in LF", text(&[&bare, TEXT, ".\r\n"]), "250 250 354 250", ONE),
        case("data ending in LF", text(&[&bare, "From: a\n\nx\n.\n"]), "250 250 354", NONE),
        case("commands ending in CR", text(&[&whole.replace("\r\n", "\r"), "\r\n"]), "501", NONE),
        case("CR inside MAIL", "MAIL FROM:<a@a.example>\rRCPT TO:<evil@b.example>\r\n", "501", NONE),
        case("CR inside RCPT", text(&[M, "RCPT TO:<x@b.example>\rDATA\r\n"]), "250 501", NONE),
        case("CR inside a path", "MAIL FROM:<a\r@a.example>\r\n", "501", NONE),
        case("NUL inside a path", "MAIL FROM:<a\0@a.example>\r\n", "501", NONE),
        case("CR in quotes", "MAIL FROM:<\"a\rb\"@a.example>\r\n", "501", NONE),
        case("NUL line", text(&[M, "\0\r\n"]), "250 554", NONE),
        case("a line too long", text(&["NOOP ", &long, "\r\n", M, R, D, TEXT, ".\r\n"]), "500 250 250 354 250", ONE),
        case("MAIL too long", text(&["MAIL FROM:<a@a.example> ", &long, "\r\n", R]), "500 503", NONE),
        case("RCPT too long", text(&[M, "RCPT TO:<x@b.example> ", &long, "\r\n", D]), "250 500 554", NONE),
        case("BDAT too long", text(&[M, R, "BDAT 1", &" ".repeat(3_000), "\r\nRSET\r\n"]), "250 250 500 250", NONE),
        case("a line without an end", text(&[M, R, D, TEXT, ".\r\nNOOP"]), "250 250 354 250", ONE),
        case("empty lines", text(&["\r\n\r\n", M, R, D, TEXT, ".\r\n"]), "500 500 250 250 354 250", ONE),
        case("space before the verb", text(&[" ", M, R]), "500 503", NONE),
        case("white space behind the verb", text(&[M, R, "DATA \t\r\n", TEXT, ".\r\n"]), "250 250 354 250", ONE),
        case("high octets", b"\xff\xfe\r\nMAIL FROM:<\xff@a.example>\r\n".as_slice(), "500 501", NONE),
        case("a path of two", "MAIL FROM:<a@a.example> <b@a.example>\r\n", "555", NONE),
        case("a parameter with CR", "MAIL FROM:<a@a.example> SIZE=1\r2\r\n", "501", NONE),
        case("a first line of white space", text(&[M, R, D, " x\r\n", TEXT, ".\r\n"]), "250 250 354 554", NONE),
    ]
}

fn chunks() -> Vec<Case> {
    let chunk = |octets: &str, place| String::from_utf8(bdat(octets.as_bytes(), place)).unwrap();
    let (inner, last) = (|octets: &str| chunk(octets, Chunk::Inner), |octets: &str| chunk(octets, Chunk::Last));
    let (empty, whole) = (last(""), last(TEXT));
    let half = inner("From: a@a.example\r\n");
    let rest = last("\r\nx\r\n");
    vec![
        case("one chunk", text(&[M, R, &whole]), "250 250 250", ONE),
        case("two chunks", text(&[M, R, &half, &rest]), "250 250 250 250", ONE),
        case("last of nothing", text(&[M, R, &inner(TEXT), &empty]), "250 250 250 250", ONE),
        case("nothing at all", text(&[M, R, &empty]), "250 250 250", ONE),
        case(
            "empty chunks between",
            text(&[M, R, &inner(""), &half, &inner(""), &rest]),
            "250 250 250 250 250 250",
            ONE,
        ),
        case("never the last", text(&[M, R, &inner(TEXT), "QUIT\r\n"]), "250 250 250 221", NONE),
        case("fewer octets than said", text(&[M, R, "BDAT 1000 LAST\r\n", TEXT]), "250 250", NONE),
        case("more octets than said", text(&[M, R, "BDAT 5 LAST\r\nFrom:QUIT\r\n"]), "250 250 250 221", ONE),
        case("hidden behind the end", text(&[M, R, &last(&text(&[TEXT, ".\r\n", HIDDEN]))]), "250 250 250", ONE),
        case("hidden in the first", text(&[M, R, &inner(HIDDEN), &empty]), "250 250 250 250", ONE),
        case("hidden without MAIL", text(&[&last(HIDDEN), "NOOP\r\n"]), "503 250", NONE),
        case("hidden without RCPT", text(&[M, &last(HIDDEN), "NOOP\r\n"]), "250 554 250", NONE),
        case("hidden after HELO", text(&["HELO x\r\n", M, R, &last(HIDDEN), "NOOP\r\n"]), "250 250 250 502 250", NONE),
        case("hidden behind RSET", text(&[M, R, &half, "RSET\r\n", &last(HIDDEN)]), "250 250 250 250 503", NONE),
        case("hidden behind the last", text(&[M, R, &whole, &last(HIDDEN)]), "250 250 250 503", ONE),
        case("DATA between", text(&[M, R, &half, D, &rest]), "250 250 250 503 250", ONE),
        case("RCPT between", text(&[M, R, &half, "RCPT TO:<evil@b.example>\r\n", &rest]), "250 250 250 503 250", ONE),
        case("MAIL between", text(&[M, R, &half, "MAIL FROM:<evil@a.example>\r\n", &rest]), "250 250 250 503 250", ONE),
        case("EHLO between chunks", text(&[M, R, &half, "EHLO x\r\n", &rest]), "250 250 250 250 503", NONE),
        case("no size", text(&[M, R, "BDAT LAST\r\n", HIDDEN]), "250 250 501", NONE),
        case("a negative size", text(&[M, R, "BDAT -1 LAST\r\n", HIDDEN]), "250 250 501", NONE),
        case("a size with a plus", text(&[M, R, "BDAT +5 LAST\r\n", HIDDEN]), "250 250 501", NONE),
        case("a size in base 16", text(&[M, R, "BDAT 0x10 LAST\r\n", HIDDEN]), "250 250 501", NONE),
        case("a size and an odd word", text(&[M, R, "BDAT 5 LASTLY\r\n", HIDDEN]), "250 250 501", NONE),
        case("a size beyond 64 bits", text(&[M, R, "BDAT 18446744073709551617\r\n", HIDDEN]), "250 250 552", NONE),
        case("BDAT with LF alone", text(&[M, R, "BDAT 5 LAST\nFrom:NOOP\r\n"]), "250 250 250 250", ONE),
        case("octets cut inside CRLF", text(&[M, R, &inner("From: a\r"), &last("\n\r\nx")]), "250 250 250 250", ONE),
        case(
            "a dot over two chunks",
            text(&[M, R, &inner("From: a\r\n\r\nx\r\n."), &last("\r\nx")]),
            "250 250 250 250",
            ONE,
        ),
    ]
}

fn oversize() -> Vec<Case> {
    let body = |octets: usize| format!("{TEXT}{}\r\n", "x".repeat(octets));
    let (much, far) = (body(70_000), body(140_000));
    let field = format!("From: a@a.example\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let bdat = |octets: &str| String::from_utf8(bdat(octets.as_bytes(), Chunk::Last)).unwrap();
    vec![
        case("SIZE too much", text(&["MAIL FROM:<a@a.example> SIZE=65537\r\n", R]), "552 503", NONE),
        case(
            "SIZE that lies",
            text(&["MAIL FROM:<a@a.example> SIZE=1\r\n", R, D, TEXT, ".\r\n"]),
            "250 250 354 250",
            ONE,
        ),
        case("too much", text(&[M, R, D, &much, ".\r\nNOOP\r\n"]), "250 250 354 552 250", NONE),
        case(
            "too much, then a message",
            text(&[M, R, D, &much, ".\r\n", M, R, D, TEXT, ".\r\n"]),
            "250 250 354 552 250 250 354 250",
            ONE,
        ),
        case("far too much", text(&[M, R, D, &far, ".\r\n", M, R, D, TEXT, ".\r\n"]), "250 250 354 552", NONE),
        case("too much in a chunk", text(&[M, R, &bdat(&much), "NOOP\r\n"]), "250 250 552 250", NONE),
        case("far too much in a chunk", text(&[M, R, &bdat(&far), "NOOP\r\n"]), "250 250 552", NONE),
        case("too much of a header", text(&[M, R, D, &field, ".\r\nNOOP\r\n"]), "250 250 354 552 250", NONE),
        case("too much of a header in a chunk", text(&[M, R, &bdat(&field), "NOOP\r\n"]), "250 250 552 250", NONE),
        case(
            "too many fields",
            text(&[M, R, D, &"a:\r\n".repeat(1_001), "\r\nx\r\n.\r\nNOOP\r\n"]),
            "250 250 354 552 250",
            NONE,
        ),
    ]
}

async fn lenient(script: Script, change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    let bounds = |config: ConfigText| {
        let config = config.set("limits.message_size", "64KiB").set("limits.header_size", "16KiB");
        // What a message says is judged elsewhere.
        let config = config.set("policy.mode", "monitor");
        config.set("limits.errors", 1_000).set("limits.sessions_per_network", 0)
    };
    World::with(script.lenient(), Zone::new(), |config| change(bounds(config))).await
}

#[tokio::test]
async fn a_lenient_upstream_takes_what_the_client_has_sent_and_no_more() {
    let cases: Vec<_> = [smuggling(), ordering(), lines(), chunks(), oversize()].into_iter().flatten().collect();
    assert!(cases.len() > 120, "{}", cases.len());
    for script in [Script::new(), Script::new().extension("CHUNKING")] {
        let world = lenient(script, |c| c).await;
        let mut wrong = Vec::new();
        for case in &cases {
            let before = world.upstream.messages().len();
            let mut client = world.client().await;
            // One that the gate has closed inside need not take the rest.
            client.try_send(&case.octets).await;
            client.end().await;
            let mut codes = Vec::new();
            while let Some(reply) = client.try_read_reply().await {
                codes.push(reply.code.to_string());
            }
            let messages = world.upstream.messages().split_off(before);
            let senders: Vec<_> = messages.iter().map(|m| m.from.as_str()).collect();
            let known =
                messages.iter().all(|m| ["x@b.example", "y@b.example"].contains(&m.recipients.join(" ").as_str()));
            if codes.join(" ") != case.codes || senders != case.senders || !known {
                wrong.push(format!("{}: {} and {senders:?}", case.name, codes.join(" ")));
            }
        }
        let faults: Vec<_> = world.upstream.connections().into_iter().flat_map(|c| c.faults).collect();
        assert!(wrong.is_empty() && faults.is_empty(), "{faults:?}\n{}", wrong.join("\n"));
    }
}

/// How a client breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    Reset,
    HalfClose,
}

/// Breaks a dialogue off behind each of its octets, all of them at a time; the sender of each names the place.
async fn break_everywhere(world: &World, end: &[u8], how: Break) {
    let dialogue = |n: usize| {
        let head = format!("EHLO client.example\r\nMAIL FROM:<c{n:03}@a.example>\r\nRCPT TO:<x@b.example>\r\n");
        [head.as_bytes(), end].concat()
    };
    let length = dialogue(0).len();
    // What follows the end.
    let whole = length + QUIT.len();
    let mut clients = JoinSet::new();
    for cut in 0..=whole {
        let (address, octets) = (world.gate.address(), [&dialogue(cut)[..], QUIT].concat());
        clients.spawn(async move {
            let mut client = Client::connect_abruptly(address).await;
            client.send(&ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap()).encode()).await;
            client.expect(220).await;
            client.send(&octets[..cut]).await;
            if how == Break::HalfClose {
                client.end().await;
                while client.try_read_reply().await.is_some() {}
            }
        });
        if clients.len() >= 20 {
            clients.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    world.wait_for_count("dmarcgate_sessions_active", 0.0).await;
    let mut taken = BTreeMap::new();
    for message in world.upstream.messages() {
        *taken.entry(message.from).or_insert(0) += 1;
    }
    for cut in 0..=whole {
        let count = taken.remove(&format!("c{cut:03}@a.example")).unwrap_or(0);
        let expected = match how {
            _ if cut < length => 0..=0,
            Break::HalfClose => 1..=1,
            // The reset may overtake what was sent.
            Break::Reset => 0..=1,
        };
        assert!(expected.contains(&count), "{how:?} behind octet {cut} of {length}: {count}");
    }
    assert!(taken.is_empty(), "{taken:?}");
}

#[tokio::test]
async fn a_client_that_breaks_off_in_data_leaves_a_message_only_behind_its_end() {
    let end = [b"DATA\r\n", &encode(b"From: a@a.example\r\n\r\n.x\r\n")[..]].concat();
    for how in [Break::HalfClose, Break::Reset] {
        break_everywhere(&lenient(Script::new(), |c| c).await, &end, how).await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_in_chunks_leaves_a_message_only_behind_its_end() {
    let end = [bdat(b"From: a@a.example\r\n", Chunk::Inner), bdat(b"\r\n.\r\nx\r\n", Chunk::Last)].concat();
    for how in [Break::HalfClose, Break::Reset] {
        break_everywhere(&lenient(Script::new().extension("CHUNKING"), |c| c).await, &end, how).await;
    }
}

#[tokio::test]
async fn who_drips_is_ended_wherever_it_drips() {
    let script = Script::new().extension("AUTH PLAIN").rule(on(CHALLENGE).reply("535 5.7.8 no"));
    let world = lenient(script, |c| {
        let c = c.set("timeouts.command", "400ms").set("timeouts.first_command", "400ms").set("smtp.auth", "always");
        c.set("timeouts.data_block", "200ms").set("timeouts.data", "400ms").set("limits.data_rate", "0B")
    })
    .await;
    let e = "EHLO client.example\r\n";
    let dialogues = [
        ("the first command", String::new(), "x"),
        ("a command line", e.to_owned(), "x"),
        ("an argument", text(&[e, "MAIL FROM:<"]), "x"),
        ("the message", text(&[e, M, R, D]), "x"),
        ("lines of the message", text(&[e, M, R, D, TEXT]), "\r\n"),
        ("dots", text(&[e, M, R, D, TEXT]), "."),
        ("the size of a chunk", text(&[e, M, R, "BDAT 1"]), "1"),
        ("a chunk", text(&[e, M, R, "BDAT 60000 LAST\r\n"]), "x"),
        ("a chunk out of place", text(&[e, "BDAT 60000 LAST\r\n"]), "x"),
        ("a login", text(&[e, "AUTH PLAIN\r\n"]), "x"),
    ];
    let mut drips = JoinSet::new();
    for (name, begin, drop) in dialogues {
        let address = world.gate.address();
        drips.spawn(async move {
            let header = ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap());
            let mut client = Client::connect_through(address, header).await;
            client.send(begin.as_bytes()).await;
            let mut last = None;
            let mut beat = tokio::time::interval(Duration::from_millis(20));
            loop {
                beat.tick().await;
                if !client.try_send(drop.as_bytes()).await {
                    break;
                }
                while !client.is_silent() {
                    match client.try_read_reply().await {
                        Some(reply) => last = Some(reply.code),
                        None => return (name, last),
                    }
                }
            }
            while let Some(reply) = client.try_read_reply().await {
                last = Some(reply.code);
            }
            (name, last)
        });
    }
    while let Some(done) = drips.join_next().await {
        let (name, last) = done.unwrap();
        assert_eq!(last, Some(421), "{name}");
    }
    assert!(world.upstream.messages().is_empty());
    let mut client = world.client().await;
    client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
}
