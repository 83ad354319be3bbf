//! The octets of a message: what goes in comes out, below the fields of the gate.

use crate::support::client::{Client, encode};
use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::upstream::Message;
use crate::support::world::World;

/// Nothing is refused by what it says, so that any content may pass.
async fn monitoring(bare_newline: &str) -> World {
    let change = |config: crate::support::config::ConfigText| {
        config.set("policy.mode", "monitor").set("smtp.bare_newline", bare_newline)
    };
    World::with(Script::new(), Zone::new(), change).await
}

/// What the gate put on top, and the rest.
fn below_our_fields(message: &Message) -> (String, &[u8]) {
    let content = &message.content;
    let mut end = 0;
    let ours =
        |rest: &[u8]| rest.starts_with(b"Authentication-Results:") || rest.starts_with(b"Received: from client.");
    while ours(&content[end..]) {
        loop {
            end += memchr::memchr(b'\n', &content[end..]).expect("a field ends with a line") + 1;
            if !matches!(content.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
    }
    (String::from_utf8(content[..end].to_vec()).expect("our fields are ASCII"), &content[end..])
}

async fn send(client: &mut Client, content: &[u8]) {
    let start = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"];
    client.pipeline(&start).await[2].assert(354);
    client.content(content).await.assert(250);
}

#[tokio::test]
async fn every_octet_of_a_message_arrives_as_it_was_sent() {
    let long_line = [b"From: a@a.example\r\n\r\n".to_vec(), vec![b'x'; 100_000], b"\r\n".to_vec()].concat();
    let long_field = [b"From: a@a.example\r\nX: ".to_vec(), vec![b'y'; 100_000], b"\r\n\r\nz\r\n".to_vec()].concat();
    let dots = b"From: a@a.example\r\n.: dot\r\n..: dots\r\n\r\n.\r\n..\r\n...\r\n.a\r\n..a\r\n \r\n.\r\n".to_vec();
    let octets: Vec<u8> = (0..=255u8).filter(|b| !b"\r\n".contains(b)).collect();
    let large: Vec<u8> = (0..5 << 20u32).map(|i| if i % 997 == 0 { b'.' } else { (i % 251) as u8 }).collect();
    let large = large.split(|b| b"\r\n".contains(b)).collect::<Vec<_>>().join(&b"\r\n"[..]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("ordinary", b"From: a@a.example\r\nSubject: x\r\n\r\nbody\r\n".to_vec()),
        ("nothing", Vec::new()),
        ("an empty line", b"\r\n".to_vec()),
        ("empty lines", b"\r\n\r\n\r\n".to_vec()),
        ("header section only", b"From: a@a.example\r\nSubject: x\r\n".to_vec()),
        ("header section and empty line", b"From: a@a.example\r\n\r\n".to_vec()),
        ("body only", b"\r\nbody\r\n".to_vec()),
        ("no field at all", b"hello\r\nworld\r\n".to_vec()),
        ("a field with a space before its colon", b"From : a@a.example\r\nX:\r\n\r\nbody\r\n".to_vec()),
        ("folding of all kinds", b"From:\r\n\ta@a.example\r\nX: a\r\n \r\n b\r\n\r\nbody\r\n".to_vec()),
        ("dots", dots),
        ("a long line", long_line),
        ("a long field", long_field),
        ("octets of all values", [b"From: a@a.example\r\nX: ", &octets[..], b"\r\n\r\n", &octets, b"\r\n"].concat()),
        ("white space at line ends", b"From: a@a.example  \r\n\r\nbody \t \r\n \r\n\t\r\n".to_vec()),
        ("empty lines at the end", b"From: a@a.example\r\n\r\nbody\r\n\r\n\r\n\r\n".to_vec()),
        ("of some pieces", [b"From: a@a.example\r\n\r\n", &large[..1 << 20], b"\r\n"].concat()),
        ("large", [b"From: a@a.example\r\n\r\n", &large[..], b"\r\n"].concat()),
    ];
    for mode in ["normalize", "reject"] {
        let world = monitoring(mode).await;
        let mut client = world.client().await;
        for (n, (case, content)) in cases.iter().enumerate() {
            send(&mut client, content).await;
            let messages = world.upstream.messages();
            assert_eq!(messages.len(), n + 1);
            let (fields, rest) = below_our_fields(&messages[n]);
            assert!(rest == content, "{case}, {mode}: {} octets came of {}", rest.len(), content.len());
            assert!(fields.starts_with("Authentication-Results: mx.gate.example"), "{case}: {fields}");
            assert!(fields.contains("Received: from client.example ([198.51.100.7])"), "{case}: {fields}");
            let wire = [encode(fields.as_bytes()).strip_suffix(b".\r\n").expect("an end"), &encode(content)].concat();
            assert!(messages[n].raw == wire, "{case}, {mode}: encoded as it should be");
        }
        let files = std::fs::read_dir(world.gate.directory().join("spool")).unwrap();
        let left: Vec<_> = files.map(|file| file.unwrap().file_name()).filter(|name| name != "rows.spill").collect();
        assert!(left.is_empty(), "spools are unlinked: {left:?}");
        world.wait_for_count("dmarcgate_sessions_active", 1.0).await;
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn bare_newlines_go_on_as_line_ends_and_spaces() {
    let world = monitoring("normalize").await;
    let mut client = world.client().await;
    let head = b"From: a@a.example\r\n\r\n".to_vec();
    let cases: [(&[u8], &[u8]); 12] = [
        (b"a\nb\r\n", b"a\r\nb\r\n"),
        (b"a\rb\r\n", b"a b\r\n"),
        (b"a\r\r\nb\r\n", b"a \r\nb\r\n"),
        (b"\n\n\r\n", b"\r\n\r\n\r\n"),
        (b"a\n.\nb\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n.b\r\n", b"a\r\n.b\r\n"),
        (b"a\n..b\r\n", b"a\r\n..b\r\n"),
        (b"a\r.\rb\r\n", b"a . b\r\n"),
        (b"a\r.\r\nb\r\n", b"a .\r\nb\r\n"),
        (b"a\r\n\nb\r\n", b"a\r\n\r\nb\r\n"),
        (b"\r\r\r\r\n", b"   \r\n"),
        (b"a\n\r\n", b"a\r\n\r\n"),
    ];
    for (n, (sent, expected)) in cases.into_iter().enumerate() {
        send(&mut client, &[&head[..], sent].concat()).await;
        let messages = world.upstream.messages();
        let (_, rest) = below_our_fields(&messages[n]);
        assert_eq!(rest.escape_ascii().to_string(), [&head[..], expected].concat().escape_ascii().to_string());
    }
    // In the header section, too: a bare LF ends its lines and the section itself.
    send(&mut client, b"From: a@a.example\nX: a\rb\n\nbody\r\n").await;
    let messages = world.upstream.messages();
    let (_, rest) = below_our_fields(messages.last().unwrap());
    assert_eq!(rest, b"From: a@a.example\r\nX: a b\r\n\r\nbody\r\n");
    world.upstream.assert_clean();
}

#[tokio::test]
async fn what_can_not_be_handed_on_safely_is_refused_and_the_session_goes_on() {
    let world = monitoring("reject").await;
    let mut client = world.client().await;
    let cases: [(&str, &[u8], u16, &str); 9] = [
        ("bare LF", b"From: a@a.example\r\n\r\na\nb\r\n", 550, "5.6.0"),
        ("bare CR", b"From: a@a.example\r\n\r\na\rb\r\n", 550, "5.6.0"),
        ("bare LF in the header section", b"From: a@a.example\nX: y\r\n\r\nb\r\n", 550, "5.6.0"),
        ("bare LF at the very beginning", b"\nFrom: a@a.example\r\n\r\nb\r\n", 550, "5.6.0"),
        ("NUL and dot", b"From: a@a.example\r\n\r\na\r\n\0.\r\nb\r\n", 550, "5.6.0"),
        ("dot and NUL", b"From: a@a.example\r\n\r\na\r\n.\0\r\nb\r\n", 550, "5.6.0"),
        ("space first", b" a\r\nFrom: a@a.example\r\n\r\nb\r\n", 554, "5.6.0"),
        ("tab first", b"\ta\r\nFrom: a@a.example\r\n\r\nb\r\n", 554, "5.6.0"),
        ("folding first", b" \r\nFrom: a@a.example\r\n\r\nb\r\n", 554, "5.6.0"),
    ];
    for (case, content, code, enhanced) in cases {
        let start = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"];
        client.pipeline(&start).await[2].assert(354);
        // Not stuffed: what stands there is what the gate reads.
        client.send(&[content, b".\r\n"].concat()).await;
        let reply = client.read_reply().await;
        assert_eq!(reply.code, code, "{case}: {reply}");
        assert!(reply.says(enhanced), "{case}: {reply}");
    }
    send(&mut client, b"From: a@a.example\r\n\r\nfine\r\n").await;
    assert_eq!(world.upstream.messages().len(), 1);
    world.upstream.assert_clean();
}
