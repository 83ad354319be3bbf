//! One in, at most one out: every spelling of an end of data, split everywhere, with a second transaction behind it,
//! before an upstream that takes any dot between any line ends for the end.

use crate::support::client::{Client, encode};
use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::world::World;

/// What could be taken for an end of data by somebody.
fn spellings() -> Vec<Vec<u8>> {
    let ends: [&[u8]; 7] = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\0", b"\0\r\n"];
    let dots: [&[u8]; 4] = [b".", b"..", b"\0.", b".\0"];
    let mut all = Vec::new();
    for before in ends {
        for dot in dots {
            for after in ends {
                let spelling = [before, dot, after].concat();
                // The one true end is no attempt at smuggling.
                if memchr::memmem::find(&spelling, b"\r\n.\r\n").is_none() {
                    all.push(spelling);
                }
            }
        }
    }
    all
}

fn hidden(spelling: &[u8]) -> Vec<u8> {
    let behind =
        b"MAIL FROM:<evil@a.example>\r\nRCPT TO:<victim@b.example>\r\nDATA\r\nFrom: evil@a.example\r\n\r\nevil\r\n";
    [b"From: a@a.example\r\n\r\nfirst", spelling, behind, b".\r\n"].concat()
}

async fn world(mode: &str) -> World {
    let change = |config: crate::support::config::ConfigText| {
        config.set("smtp.bare_newline", mode).set("limits.errors", 10_000).set("limits.commands_without_mail", 100_000)
    };
    World::with(Script::new().lenient(), Zone::new(), change).await
}

async fn start(client: &mut Client) {
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
}

/// Gives the gate a reason to run, so that in most runs it reads what came apart from what comes; what is asserted
/// holds if it does not, too.
async fn let_it_read(world: &World) {
    assert_eq!(world.gate.http_get("/healthz").await.0, 200);
}

/// The upstream has seen this many messages, each with its own envelope.
fn assert_honest(world: &World, accepted: usize, case: &str) {
    let messages = world.upstream.messages();
    assert!(messages.iter().all(|m| m.from == "a@a.example"), "{case}\n{}", world.upstream.transcript());
    assert_eq!(messages.len(), accepted, "{case}\n{}", world.upstream.transcript());
}

#[tokio::test]
async fn no_spelling_of_end_of_data_makes_two_messages_of_one() {
    for mode in ["normalize", "reject"] {
        let world = world(mode).await;
        let mut client = world.client().await;
        let mut accepted = 0;
        for spelling in spellings() {
            start(&mut client).await;
            client.send(&hidden(&spelling)).await;
            let reply = client.read_reply().await;
            accepted += usize::from(reply.code == 250);
            // One reply to one message; the next one answers this.
            client.command("NOOP").await.assert(250);
            assert_honest(&world, accepted, &format!("{} in {mode}: {reply}", spelling.escape_ascii()));
        }
        assert!(accepted > 0, "some of them are harmless content");
        let faults: Vec<_> = world.upstream.connections().into_iter().flat_map(|c| c.faults).collect();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

#[tokio::test]
async fn no_split_of_the_octets_makes_two_messages_of_one() {
    let spellings: [&[u8]; 9] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r\n.\r",
        b"\r.\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\r\n",
    ];
    for mode in ["normalize", "reject"] {
        let world = world(mode).await;
        let mut client = world.client().await;
        let mut accepted = 0;
        for spelling in spellings {
            let octets = hidden(spelling);
            let from = memchr::memmem::find(&octets, b"first").expect("there");
            for cut in from + 4..from + 5 + spelling.len() + 2 {
                start(&mut client).await;
                let (a, b) = octets.split_at(cut);
                client.send(a).await;
                let_it_read(&world).await;
                client.send(b).await;
                accepted += usize::from(client.read_reply().await.code == 250);
            }
            client.command("NOOP").await.assert(250);
            assert_honest(&world, accepted, &format!("{} in {mode}", spelling.escape_ascii()));
        }
    }
}

#[tokio::test]
async fn the_true_end_is_found_wherever_it_is_split() {
    let world = world("reject").await;
    let mut client = world.client().await;
    let end = encode(b"From: a@a.example\r\n\r\n..\r\n.x\r\nlast");
    for cut in end.len() - 12..end.len() {
        start(&mut client).await;
        let (a, b) = end.split_at(cut);
        client.send(a).await;
        let_it_read(&world).await;
        client.send(&[b, b"NOOP\r\n"].concat()).await;
        client.expect(250).await;
        assert!(client.expect(250).await.says("2.0.0 OK"));
    }
    assert_honest(&world, 12, "the true end");
}
