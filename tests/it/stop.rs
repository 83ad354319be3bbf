//! SIGTERM: no new sessions, running transactions end with their reply, and the process ends in time.

use std::time::Instant;

use crate::support::client::{Client, encode};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{DOT, Hold, Script, on};
use crate::support::world::{MESSAGE, World};

#[tokio::test]
async fn a_running_transaction_ends_with_its_reply_and_the_others_are_told() {
    let hold = Hold::new();
    let mut world = World::around(Script::new().rule(on(DOT).hold(&hold, "250 2.0.0 at last"))).await;
    let mut idle = world.client().await;
    let mut open = world.client().await;
    open.command("MAIL FROM:<open@a.example>").await.assert(250);
    let mut busy = world.client().await;
    busy.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    // A client that never pauses does not hold up the stop either.
    busy.send(&[&encode(MESSAGE)[..], b"MAIL FROM:<again@a.example>\r\n"].concat()).await;
    world.gate.signal("TERM");

    assert!(idle.expect(421).await.says("4.3.2"));
    idle.expect_close().await;
    world.wait_for_readiness(503).await;
    assert!(tokio::net::TcpStream::connect(world.gate.address()).await.is_err(), "nobody new is let in");
    open.command("RCPT TO:<y@b.example>").await.assert(250);
    open.command("RSET").await.assert(250);
    open.expect(421).await;
    hold.release();
    assert_eq!(busy.expect(250).await.raw, b"250 2.0.0 at last\r\n");
    busy.expect(421).await;
    busy.expect_close().await;
    drop((idle, open, busy));
    assert!(world.gate.wait_for_exit().await.success());
    assert!(!world.relayed().iter().any(|line| line.contains("again@")));
    assert_eq!(world.upstream.messages().len(), 1);
}

#[tokio::test]
async fn at_the_deadline_what_still_runs_is_cut_off_without_a_250() {
    let change = |config: ConfigText| config.set("timeouts.shutdown", "200ms");
    let mut world = World::with(Script::new(), Zone::new(), change).await;
    let mut client = world.client().await;
    client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    client.send(b"From: a@a.example\r\n\r\nhalf").await;
    let began = Instant::now();
    world.gate.signal("TERM");
    world.gate.wait_for_log("sessions were cut off").await;
    // Whatever the gate still has to do: the store takes no row any more.
    client.try_send(b"\r\n.\r\n").await;
    assert_eq!(client.try_read_reply().await, None);
    assert!(world.gate.wait_for_exit().await.success());
    assert!(began.elapsed() < crate::support::PATIENCE / 2);
    world.wait_for_end(1).await;
    assert_eq!(world.upstream.messages().len(), 0);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for signal in ["TERM", "INT", "QUIT"] {
        let mut world = World::around(Script::new()).await;
        let mut client = world.client().await;
        client.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
        world.gate.signal("TERM");
        world.wait_for_readiness(503).await;
        let began = Instant::now();
        world.gate.signal(signal);
        assert!(world.gate.wait_for_exit().await.success());
        // It would wait for timeouts.shutdown, 30 seconds.
        assert!(began.elapsed() < crate::support::PATIENCE / 2);
        assert_eq!(client.try_read_reply().await, None);
        world.wait_for_end(1).await;
        assert_eq!(world.upstream.messages().len(), 0);
    }
}

#[tokio::test]
async fn those_who_have_not_been_greeted_or_do_not_close_hold_nothing_up() {
    let mut world = World::around(Script::new()).await;
    let mut nameless = Client::connect(world.gate.address()).await;
    nameless.send(b"PROXY TCP4 ").await;
    let mut lingering = world.client().await;
    lingering.command("QUIT").await.assert(221);
    // A third that is served shows that the gate has seen the first two.
    let mut idle = world.client().await;
    let began = Instant::now();
    world.gate.signal("TERM");
    for client in [&mut nameless, &mut idle] {
        assert!(client.expect(421).await.says("4.3.2"));
        client.expect_close().await;
    }
    assert!(world.gate.wait_for_exit().await.success());
    // Not timeouts.proxy_header, which is ten seconds, nor the time that a client may take to close.
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_told_to_come_again() {
    let mut world = World::around(Script::new()).await;
    // While it stands still, the kernel lets clients in.
    world.gate.signal("STOP");
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(Client::connect(world.gate.address()).await);
    }
    world.gate.signal("TERM");
    world.gate.signal("CONT");
    for client in &mut waiting {
        client.expect(421).await;
        client.expect_close().await;
    }
    assert!(world.gate.wait_for_exit().await.success());
}

#[tokio::test]
async fn who_waits_for_a_slot_is_told_to_come_again() {
    /// As many as may wait.
    const WAITING: usize = 128;
    let header = ProxyHeader::naming(ProxyVersion::V2, "198.51.100.7".parse().unwrap());
    // On a slow machine they may have waited too long before the gate stops.
    let told_of_the_stop = async {
        loop {
            let change = |config: ConfigText| config.set("limits.sessions", 1);
            let mut world = World::with(Script::new(), Zone::new(), change).await;
            let mut served = world.client().await;
            let mut waiting = Vec::new();
            for _ in 0..WAITING {
                waiting.push(Client::connect_through(world.gate.address(), header).await);
            }
            // One more is told at once, behind all who came before.
            let mut surplus = Client::connect_through(world.gate.address(), header).await;
            assert!(surplus.expect(421).await.says("Too many sessions"));
            world.gate.signal("TERM");
            served.expect(421).await;
            let mut told = 0;
            for client in &mut waiting {
                let reply = client.expect(421).await;
                assert!(reply.says("4.3.2"));
                told += usize::from(reply.says("is being restarted"));
                client.expect_close().await;
            }
            assert!(world.gate.wait_for_exit().await.success());
            if told > 0 {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, told_of_the_stop).await.expect("some who were still waiting");
}

#[tokio::test]
async fn an_idle_gate_ends_at_once() {
    let world = World::around(Script::new()).await;
    let mut client = Client::connect(world.gate.address()).await;
    client.send(b"PROXY TCP4 198.51.100.7 192.0.2.1 1 25\r\n").await;
    client.expect(220).await;
    client.command("QUIT").await.assert(221);
    drop(client);
    assert!(world.gate.stop().await.0.success());
}

#[tokio::test]
async fn signals_that_tell_the_gate_nothing_do_no_harm() {
    let mut world = World::start(Zone::new(), |c| c).await;
    for signal in ["USR1", "USR2"] {
        world.gate.signal(signal);
    }
    let text = "SIGUSR1 and SIGUSR2 tell the gate nothing";
    world.gate.wait_for_log(text).await;
    let mut client = world.client().await;
    client.deliver("a@a.example", &["x@b.example"], MESSAGE).await.outcome().assert(250);
    world.gate.signal("TERM");
    assert!(world.gate.wait_for_exit().await.success());
}
