//! Discovery by a public suffix list: what it changes for a message, how the list renews itself, and that a gate that
//! walks the tree fetches nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::rows::{column, written};
use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

/// Serves one list to everyone and counts them.
fn serve(list: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, count) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", list.len());
            let _ = stream.write_all(&[head.as_bytes(), list.as_bytes()].concat());
        }
    });
    (address, count)
}

/// A list in which `host.example` is a suffix.
fn list() -> String {
    let filling: String = (0..6000).map(|i| format!("filling{i}\n")).collect();
    format!(
        "// ===BEGIN ICANN DOMAINS===\ncom\norg\nuk\nco.uk\n*.ck\n!www.ck\n{filling}// ===END ICANN DOMAINS===\n\
         // ===BEGIN PRIVATE DOMAINS===\nhost.example\n// ===END PRIVATE DOMAINS===\n"
    )
}

fn zone() -> Zone {
    let spf = "v=spf1 ip4:192.0.2.0/24 -all";
    Zone::new()
        .txt("host.example", spf)
        .txt("mine.host.example", spf)
        .txt("yours.host.example", spf)
        .txt("_dmarc.host.example", "v=DMARC1; p=reject; sp=reject")
        .txt("_dmarc.mine.host.example", "v=DMARC1; p=quarantine; sp=reject; psd=u")
}

fn by_list(url: SocketAddr) -> impl FnOnce(ConfigText) -> ConfigText {
    move |c| c.set("policy.discovery", "public-suffix").set("public_suffix.url", format!("http://{url}/list.dat"))
}

#[tokio::test]
async fn a_list_that_was_fetched_decides_who_is_one_organization() {
    let (address, _) = serve(list());
    let world = World::start(zone(), by_list(address)).await;
    world.wait_for_count("dmarcgate_suffix_list_fetches_total{result=\"replaced\"}", 1.0).await;
    let neighbour = Letter::new(GOOD, "a@mine.host.example").sender("b@yours.host.example");
    assert_eq!(world.send(&neighbour).await.summary(), "250 quarantine");
    let below = Letter::new(GOOD, "a@x.mine.host.example").sender("b@y.mine.host.example");
    assert_eq!(world.send(&below).await.summary(), "550", "sp of the organization");
    let honest = Letter::new(GOOD, "a@x.mine.host.example").sender("b@mine.host.example");
    let outcome = world.send(&honest).await;
    assert_eq!(outcome.results().one("dmarc"), "pass policy.dmarc=reject header.from=x.mine.host.example");
    for name in ["_dmarc.example", "_dmarc.yours.host.example", "_dmarc.host.example"] {
        assert_eq!(world.dns.count(name, RecordType::TXT), 0, "{name} is nobody's business");
    }
    let scrape = world.gate.metrics().await;
    assert!(scrape.value("dmarcgate_suffix_list_fetched_seconds") > 0.0);
    assert_eq!(scrape.value("dmarcgate_dmarc_discovery_total{agreement=\"same\"}"), 3.0);
}

#[tokio::test]
async fn a_row_says_how_its_policy_was_discovered() {
    let (address, _) = serve("no list".to_owned());
    let world = World::start(zone(), by_list(address)).await;
    world.wait_for_count("dmarcgate_suffix_list_fetches_total{result=\"unfit\"}", 1.0).await;
    world.send(&Letter::new(BAD, "a@mine.host.example")).await;
    written(&world.gate, 1).await;
    assert_eq!(column(world.gate.directory(), "discovery").await, "psl");
    assert_eq!(
        world.gate.metrics().await.value("dmarcgate_suffix_list_fetched_seconds"),
        0.0,
        "the built-in copy serves"
    );
}

#[tokio::test]
async fn a_gate_that_walks_the_tree_fetches_nothing_and_counts_where_a_list_would_differ() {
    let (address, fetched) = serve(list());
    let world = World::start(zone(), |c| c.set("public_suffix.url", format!("http://{address}/list.dat"))).await;
    // By the walk the host is the organization of all its customers.
    let neighbour = Letter::new(GOOD, "a@mine.host.example").sender("b@yours.host.example");
    let outcome = world.send(&neighbour).await;
    assert_eq!(outcome.results().one("dmarc"), "pass policy.dmarc=quarantine header.from=mine.host.example");
    world.dns.change(|zone| zone.txt("_dmarc.dept.corp.example", "v=DMARC1; p=none; psd=n"));
    world.send(&Letter::new(BAD, "a@dept.corp.example")).await;
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_dmarc_discovery_total{agreement=\"same\"}"), 1.0);
    assert_eq!(scrape.value("dmarcgate_dmarc_discovery_total{agreement=\"different\"}"), 1.0);
    written(&world.gate, 2).await;
    assert_eq!(fetched.load(Ordering::SeqCst), 0);
    assert!(!world.gate.directory().join("public_suffix_list.dat").exists());
}
