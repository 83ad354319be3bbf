//! The gate as a process among others: its service manager, sockets that are passed on or shared, its limits.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::support::PATIENCE;
use crate::support::client::{Client, encode};
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::Gate;
use crate::support::rules::{DOT, Hold, Script, on};
use crate::support::upstream::Upstream;
use crate::support::world::MESSAGE;

/// What stands around the gates of a test.
struct Surroundings {
    dns: DnsServer,
    upstream: Upstream,
}

impl Surroundings {
    async fn start(script: Script) -> Self {
        Self { dns: DnsServer::start(Zone::new()).await, upstream: Upstream::start(script).await }
    }

    /// A directory and a configuration for one gate.
    fn configuration(&self) -> (TempDir, ConfigText) {
        let directory = tempfile::tempdir().unwrap();
        let config = ConfigText::new(self.upstream.address(), self.dns.address(), directory.path());
        (directory, config.listener("proxy_protocol_from", Vec::<String>::new()))
    }
}

/// A socket that listens, as a service manager has it.
fn bound() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Passes standard input on as a service manager does.
const PASS: &str = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$";

fn passed(socket: &TcpListener) -> Stdio {
    OwnedFd::from(socket.try_clone().unwrap()).into()
}

#[tokio::test]
async fn an_upgrade_on_a_passed_socket_drops_no_connection() {
    let hold = Hold::new();
    let around = Surroundings::start(Script::with_xclient().rule(on(DOT).hold(&hold, "250 2.0.0 at last"))).await;
    let (socket, address) = bound();
    let start = async || {
        let (directory, config) = around.configuration();
        let config = config.listener("address", address.to_string());
        Gate::start_under(directory, &config, PASS, |command| command.stdin(passed(&socket))).await
    };
    let mut old = start().await;
    assert_eq!(old.address(), address);
    let mut busy = Client::connect(address).await;
    busy.expect(220).await;
    busy.command("EHLO client.example").await.assert(250);
    busy.pipeline(&["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    busy.send(&encode(MESSAGE)).await;
    old.signal("TERM");
    old.wait_for_log("stopping").await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        // Nobody accepts, nobody refuses.
        idle.push(Client::connect(address).await);
    }
    let new = start().await;
    for client in &mut idle {
        client.expect(220).await;
        client.command("EHLO client.example").await.assert(250);
    }
    hold.release();
    assert_eq!(busy.expect(250).await.raw, b"250 2.0.0 at last\r\n");
    busy.expect(421).await;
    drop(busy);
    assert!(old.wait_for_exit().await.success());
    let delivery = idle[0].deliver("a@a.example", &["x@b.example"], MESSAGE).await;
    delivery.outcome().assert(250);
    assert_eq!(new.metrics().await.value("dmarcgate_sessions_total"), 20.0);
}

#[tokio::test]
async fn a_passed_socket_that_nobody_wants_is_no_start() {
    let around = Surroundings::start(Script::new()).await;
    let (socket, address) = bound();
    let cases: [(Stdio, String); 2] = [
        (passed(&socket), format!("passes on a socket at {address}, which is the address of no [[listener]]")),
        (Stdio::null(), "socket 1 of those that the service manager passes on is no listening TCP socket".into()),
    ];
    for (stdin, expected) in cases {
        let (directory, config) = around.configuration();
        let (code, errors) = failure(Gate::command(directory.path(), &config, PASS).stdin(stdin)).await;
        assert!(code == 1 && errors.contains(&expected), "{code} {errors}");
    }
}

/// Exit code and standard error of a gate that does not start.
async fn failure(command: &mut Command) -> (i32, String) {
    let child = command.spawn().expect("cargo has built the binary");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_directory_that_can_not_be_used_is_named_with_the_user() {
    let around = Surroundings::start(Script::new()).await;
    let (directory, config) = around.configuration();
    // A file stands in the way, for root, too.
    let taken = directory.path().join("taken");
    std::fs::write(&taken, "").unwrap();
    let spool = config.set("spool.directory", taken.display().to_string());
    let (code, errors) = failure(&mut Gate::command(directory.path(), &spool, "true")).await;
    let expected = format!("spool.directory {} can't be used by ", taken.display());
    assert!(code == 1 && errors.contains(&expected) && errors.contains(", as whom the gate runs: "), "{code} {errors}");
}

#[tokio::test]
async fn without_authorities_a_gate_starts_that_asks_dns_in_the_clear_and_no_other() {
    let around = Surroundings::start(Script::with_xclient()).await;
    let none = "export SSL_CERT_FILE=/nonexistent/ca.pem SSL_CERT_DIR=/nonexistent";
    let (directory, config) = around.configuration();
    let gate = Gate::start_under(directory, &config, none, |command| command).await;
    assert!(gate.stop().await.0.success());

    let (directory, config) = around.configuration();
    let encrypted = config.set("dns.servers", vec!["tls://127.0.0.1#dns.example.net"]);
    let (code, errors) = failure(&mut Gate::command(directory.path(), &encrypted, none)).await;
    assert!(code == 1 && errors.contains("the system has no certification authorities"), "{code} {errors}");
}

#[tokio::test]
async fn two_gates_share_a_port_if_both_are_told_to() {
    let around = Surroundings::start(Script::new()).await;
    let shared = |address: String| {
        let (directory, config) = around.configuration();
        (directory, config.listener("address", address).listener("reuse_port", true))
    };
    let (directory, config) = shared("127.0.0.1:0".into());
    let first = Gate::start_in(directory, &config).await;
    let address = first.address().to_string();
    let (directory, config) = shared(address.clone());
    let second = Gate::start_in(directory, &config).await;
    assert_eq!(second.address(), first.address());

    let (directory, config) = shared(address.clone());
    let alone = config.listener("reuse_port", false);
    let (code, errors) = failure(&mut Gate::command(directory.path(), &alone, "true")).await;
    assert!(code == 1 && errors.contains(&format!("can't listen on {address}")), "{code} {errors}");
    assert!(errors.contains("in use"), "{errors}");

    // With the first one gone the second one serves alone.
    assert!(first.stop().await.0.success());
    let mut client = Client::connect(second.address()).await;
    client.expect(220).await;
}

#[tokio::test]
async fn sessions_are_bounded_by_the_files_that_may_be_open() {
    let around = Surroundings::start(Script::new()).await;
    let (directory, config) = around.configuration();
    // Soft below hard: it is raised.
    let prelude = "ulimit -Sn 80; ulimit -Hn 100";
    let mut gate = Gate::start_under(directory, &config, prelude, |command| command).await;
    let fit = 16.0;
    assert_eq!(gate.metrics().await.value("dmarcgate_sessions_limit"), fit);
    let line = gate.wait_for_log("LimitNOFILE=").await;
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    let facts = ["limits_sessions", "sessions", "open_files", "needed"].map(|field| event[field].as_u64().unwrap());
    assert_eq!(facts, [10_000, 16, 100, 16_124]);
    let mut clients = Vec::new();
    for n in 0..16 {
        let mut client = Client::connect(gate.address()).await;
        client.expect(220).await;
        client.command("EHLO client.example").await.assert(250);
        if n < 7 {
            // With its connection to the upstream.
            client.command("MAIL FROM:<a@a.example>").await.assert(250);
        }
        clients.push(client);
    }
    Client::connect(gate.address()).await.expect(421).await;
    assert_eq!(gate.metrics().await.value("dmarcgate_accept_errors_total"), 0.0);
    // A reload can't get beyond it either.
    assert_eq!(gate.reloaded(|c| c.set("limits.sessions", 500)).await.value("dmarcgate_sessions_limit"), fit);
    assert_eq!(gate.reloaded(|c| c.set("limits.sessions", 5)).await.value("dmarcgate_sessions_limit"), 5.0);
}

#[tokio::test]
async fn the_service_manager_hears_how_the_gate_is() {
    let around = Surroundings::start(Script::with_xclient()).await;
    let (directory, config) = around.configuration();
    let (path, mut told) = manager(directory.path());
    let prelude = "export WATCHDOG_PID=$$ WATCHDOG_USEC=40000";
    let mut gate = Gate::start_under(directory, &config, prelude, |command| command.env("NOTIFY_SOCKET", path)).await;
    let mut seen = Vec::new();
    hear(&mut told, &mut seen, "READY=1").await;
    for _ in 0..5 {
        hear(&mut told, &mut seen, "WATCHDOG=1").await;
    }
    let mut client = Client::connect(gate.address()).await;
    client.expect(220).await;
    hear(&mut told, &mut seen, "STATUS=ready; 1 of ").await;

    gate.reload(|c| c.set("policy.mode", "tag"));
    hear(&mut told, &mut seen, "RELOADING=1").await;
    assert!(seen.last().unwrap().contains("\nMONOTONIC_USEC="), "{seen:?}");
    hear(&mut told, &mut seen, "READY=1").await;
    gate.reload_text("nonsense");
    hear(&mut told, &mut seen, "RELOADING=1").await;
    hear(&mut told, &mut seen, "READY=1").await;

    gate.signal("TERM");
    hear(&mut told, &mut seen, "STOPPING=1").await;
    assert!(seen.last().unwrap().contains("\nEXTEND_TIMEOUT_USEC=40000000"), "{seen:?}");
    client.expect(421).await;
    drop(client);
    assert!(gate.wait_for_exit().await.success());
}

/// A service manager's socket: its path and what it is told.
fn manager(directory: &Path) -> (PathBuf, mpsc::UnboundedReceiver<String>) {
    let path = directory.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            if sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                break;
            }
        }
    });
    (path, receiver)
}

/// Waits for a message that begins like this.
async fn hear(told: &mut mpsc::UnboundedReceiver<String>, seen: &mut Vec<String>, begin: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let Ok(Some(message)) = tokio::time::timeout_at(deadline, told.recv()).await else {
            panic!("the manager never hears {begin:?}: {seen:?}");
        };
        seen.push(message);
        if seen.last().is_some_and(|message| message.starts_with(begin)) {
            return;
        }
    }
}
