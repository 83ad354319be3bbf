//! TLS over sockets: implicit listeners, certificates read anew, and every kind of TLS towards the upstream.

use crate::support::certificates::{Certificate, Handshake};
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::gate::Gate;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::Script;
use crate::support::world::{MESSAGE, STRANGER, World};

/// Sets `[tls]` to this certificate, written into the gate's own directory by [`write`].
fn with_certificate(config: ConfigText, directory: &std::path::Path) -> ConfigText {
    let path = |name: &str| directory.join(name).display().to_string();
    config.set("tls.certificate", path("gate.pem")).set("tls.key", path("gate.key"))
}

/// A gate whose first listener has implicit TLS with this certificate, and the directory where that is.
async fn implicit(
    certificate: &Certificate,
    script: Script,
    change: impl FnOnce(ConfigText) -> ConfigText,
) -> (World, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    certificate.write(directory.path(), "gate");
    let world = World::with(script, Zone::new(), |config| {
        change(with_certificate(config, directory.path()).listener("tls", "implicit"))
    })
    .await;
    (world, directory)
}

/// A client at [`STRANGER`] behind a balancer, under TLS, that has said EHLO.
async fn secured(gate: &Gate, handshake: &Handshake) -> Client {
    let header = ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap());
    let mut client = Client::connect_through(gate.address(), header).await;
    client.handshake(handshake).await;
    client.expect(220).await;
    client.command("EHLO client.example").await.assert(250);
    client
}

#[tokio::test]
async fn a_listener_with_implicit_tls_takes_mail_and_says_so() {
    let shown = Certificate::new(&["mx.gate.example"]);
    let (world, _directory) =
        implicit(&shown, Script::new(), |config| config.set("upstream.identity", "received")).await;
    for (handshake, version) in [(Handshake::default(), "TLSv1.3"), (Handshake::default().version_1_2(), "TLSv1.2")] {
        let mut client = secured(&world.gate, &handshake).await;
        assert!(client.negotiated().is_shown(&shown));
        assert_eq!(client.negotiated().version, version);
        client.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
        client.command("QUIT").await.assert(221);
        client.expect_close().await;
        let message = world.upstream.messages().pop().unwrap();
        let text = String::from_utf8(message.content).unwrap();
        assert!(text.contains(&format!(" with ESMTPS ({version} TLS_")), "{text}");
        world.gate.wait_for_log(&format!("\"tls\":\"{version} TLS_")).await;
    }
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_tls_handshakes_total{result=\"ok\"}"), 2.0);
    assert_eq!(scrape.value("dmarcgate_tls_connections_total{version=\"TLSv1.2\"}"), 1.0);
    assert!(scrape.value("dmarcgate_tls_certificate_expiry_seconds") > 1.7e9);
}
