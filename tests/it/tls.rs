//! TLS over sockets: implicit listeners, certificates read anew, and every kind of TLS towards the upstream.

use std::time::SystemTime;

use crate::support::certificates::{Authority, Certificate, DAY, Handshake, Negotiated, Wanted};
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::gate::Gate;
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{HANDSHAKE, Hold, Script, on};
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

/// What a balancer says of a client at [`STRANGER`].
fn header() -> ProxyHeader {
    ProxyHeader::naming(ProxyVersion::V2, STRANGER.parse().unwrap())
}

/// A client at [`STRANGER`] behind a balancer, under TLS, that has said EHLO.
async fn secured(gate: &Gate, handshake: &Handshake) -> Client {
    let mut client = Client::connect_through(gate.address(), header()).await;
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
    // One that takes the port for another is not talked with.
    let mut client = Client::connect_through(world.gate.address(), header()).await;
    client.send(b"EHLO client.example\r\n").await;
    world.wait_for_count("dmarcgate_tls_handshakes_total{result=\"not_tls\"}", 1.0).await;
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_tls_handshakes_total{result=\"ok\"}"), 2.0);
    assert_eq!(scrape.value("dmarcgate_tls_connections_total{version=\"TLSv1.2\"}"), 1.0);
    assert!(scrape.value("dmarcgate_tls_certificate_expiry_seconds") > 1.7e9);
}

#[tokio::test]
async fn certificates_are_read_anew_without_dropping_a_session() {
    let (old, new) = (Certificate::new(&["mx.gate.example"]), Certificate::new(&["mx.gate.example"]));
    let (world, directory) = implicit(&old, Script::with_xclient(), |config| config).await;
    let mut before = secured(&world.gate, &Handshake::default()).await;
    before.command("MAIL FROM:<a@a.example>").await.assert(250);

    new.write(directory.path(), "gate");
    world.gate.signal("HUP");
    world.wait_for_count("dmarcgate_tls_reloads_total{result=\"done\"}", 1.0).await;
    let mut after = secured(&world.gate, &Handshake::default()).await;
    assert!(after.negotiated().is_shown(&new));

    std::fs::write(directory.path().join("gate.key"), "nonsense").unwrap();
    world.gate.signal("HUP");
    let line = world.gate.wait_for_log("is kept").await;
    assert!(line.contains("gate.key: has no private key; expected PEM"), "{line}");
    world.wait_for_count("dmarcgate_tls_reloads_total{result=\"failed\"}", 1.0).await;
    assert!(secured(&world.gate, &Handshake::default()).await.negotiated().is_shown(&new));

    before.command("RCPT TO:<b@b.example>").await.assert(250);
    before.command("DATA").await.assert(354);
    before.content(MESSAGE).await.assert(250);
    after.deliver("a@a.example", &["b@b.example"], MESSAGE).await.outcome().assert(250);
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let shown = Certificate::new(&["mx.gate.example"]);
    let (world, _directory) = implicit(&shown, Script::with_xclient(), |config| {
        config.set("timeouts.tls_handshake", "100ms").listener("proxy_protocol_from", Vec::<String>::new())
    })
    .await;
    let mut client = Client::connect(world.gate.address()).await;
    client.expect_close().await;
    world.wait_for_count("dmarcgate_tls_handshakes_total{result=\"timeout\"}", 1.0).await;
    assert_eq!(world.gate.metrics().await.value("dmarcgate_sessions_active"), 0.0);
}

/// A gate before an upstream with TLS of a kind, changed by `change`.
async fn before(script: Script, kind: &str, change: impl FnOnce(ConfigText) -> ConfigText) -> World {
    World::with(script, Zone::new(), |config| change(config.set("upstream.tls", kind))).await
}

/// Sends a message and says how it ended and what protected the last connection to the upstream.
async fn sent(world: &World) -> (u16, Option<Negotiated>) {
    let before = world.upstream.messages().len();
    let mut client = world.client().await;
    let delivery = client.deliver("a@a.example", &["b@b.example"], MESSAGE).await;
    let code = delivery.outcome().code;
    client.command("QUIT").await.assert(221);
    assert_eq!(world.upstream.messages().len(), before + usize::from(code == 250), "{}", world.upstream.transcript());
    (code, world.upstream.connections().pop().and_then(|connection| connection.tls))
}

/// What a server does that demands of TLS are held to, one after the other: all but the first is 451, and with the
/// first the message is delivered afterwards.
async fn assert_demanding(world: &World, good: &Script, bad: Vec<(&str, Script)>) {
    let (code, tls) = sent(world).await;
    assert_eq!((code, tls.is_some()), (250, true), "{}", world.upstream.transcript());
    for (case, script) in bad {
        world.upstream.change(|_| script);
        let mut client = world.client().await;
        let delivery = client.deliver("a@a.example", &["b@b.example"], MESSAGE).await;
        let reply = delivery.outcome();
        assert!(reply.code == 451 && reply.says("4."), "{case}: {reply}\n{}", world.upstream.transcript());
        // Not a word of the client or its mail was said to whom should not hear it.
        let last = world.upstream.connections().pop().unwrap();
        assert!(!last.commands.iter().any(|line| line.contains("a.example")), "{case}: {:?}", last.commands);
        world.gate.wait_for_log("no TLS: ").await;
        world.upstream.change(|_| good.clone());
        assert_eq!(sent(world).await.0, 250, "{case}: afterwards");
    }
}

#[tokio::test]
async fn required_tls_goes_to_a_verified_server_or_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let now = SystemTime::now();
    let names = Wanted::new(&["mail.example.net"]);
    let script = || Script::with_xclient();
    let good = script().starttls(&authority.issue(&names));
    let bad = vec![
        ("another name", script().starttls(&authority.issue(&Wanted::new(&["other.example"])))),
        ("another authority", script().starttls(&Authority::new().issue(&names))),
        ("self-signed", script().starttls(&names.clone().self_signed())),
        ("expired", script().starttls(&authority.issue(&names.clone().from(now - 9 * DAY).until(now - DAY)))),
        ("no STARTTLS", script()),
        ("refused for now", good.clone().rule(on("STARTTLS").reply("454 4.7.0 TLS not available"))),
        ("refused for good", good.clone().rule(on("STARTTLS").reply("502 5.5.1 not now"))),
        ("closed at STARTTLS", good.clone().rule(on("STARTTLS").close())),
        ("nonsense at STARTTLS", good.clone().rule(on("STARTTLS").reply("250 fine"))),
        ("closed in the handshake", good.clone().rule(on(HANDSHAKE).close())),
        ("no handshake", good.clone().rule(on(HANDSHAKE).reply("554 5.3.0 no memory"))),
        ("refused before TLS", good.clone().rule(on("EHLO").reply("550 5.7.1 go away"))),
    ];
    let world = before(good.clone(), "required", |config| {
        config.set("upstream.tls_name", "mail.example.net").set("upstream.tls_ca", path.display().to_string())
    })
    .await;
    let (code, tls) = sent(&world).await;
    assert_eq!((code, tls.unwrap().sni.as_deref()), (250, Some("mail.example.net")));
    let commands = world.wait_for_end(1).await.remove(0).commands;
    let verbs: Vec<_> = commands.iter().map(|line| line.get(..4).unwrap()).collect();
    assert_eq!(verbs, ["EHLO", "STAR", "EHLO", "XCLI", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]);
    assert_demanding(&world, &good, bad).await;
    world.upstream.assert_clean();
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_upstream_tls_handshakes_total{result=\"certificate\"}"), 4.0);
    assert!(scrape.value("dmarcgate_upstream_connections_total{result=\"tls\"}") >= 9.0);
    assert!(scrape.value("dmarcgate_upstream_tls_connections_total{version=\"TLSv1.3\"}") >= 10.0);
}

#[tokio::test]
async fn implicit_tls_goes_to_a_verified_server_or_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("own.pem");
    // Verified by the address in upstream.servers; a self-signed certificate is its own authority.
    let own = Wanted::new(&["127.0.0.1"]).self_signed();
    std::fs::write(&path, &own.chain).unwrap();
    let script = || Script::new().proxy();
    let good = script().implicit_tls(&own);
    let bad = vec![
        ("another", script().implicit_tls(&Wanted::new(&["127.0.0.1"]).self_signed())),
        ("STARTTLS instead", script().starttls(&own)),
        ("closed", good.clone().rule(on(HANDSHAKE).close())),
    ];
    let world = before(good.clone(), "implicit", |config| {
        config.set("upstream.identity", "proxy-v2").set("upstream.tls_ca", path.display().to_string())
    })
    .await;
    assert_demanding(&world, &good, bad).await;
    let first = world.sessions().remove(0);
    let named = first.proxy.and_then(|header| header.addresses).map(|(client, _)| client.ip().to_string());
    assert_eq!((first.tls.is_some(), named.as_deref()), (true, Some(STRANGER)));
    let verbs: Vec<_> = first.commands.iter().map(|line| line.get(..4).unwrap()).collect();
    assert_eq!(verbs, ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]);
}

#[tokio::test]
async fn a_pinned_key_stands_for_name_date_and_authority() {
    let now = SystemTime::now();
    let own = Wanted::new(&["nobody.example"]).rsa().from(now - 9 * DAY).until(now - DAY).self_signed();
    let good = Script::with_xclient().starttls(&own);
    let world = before(good.clone(), "required", |config| config.set("upstream.tls_pin", vec![own.pin()])).await;
    let other = Script::with_xclient().starttls(&Certificate::new(&["127.0.0.1"]));
    assert_demanding(&world, &good, vec![("another key", other)]).await;
}

#[tokio::test]
async fn opportunistic_tls_protects_where_it_can_and_never_holds_mail_up() {
    let any = Certificate::new(&["nobody.example"]);
    let good = Script::with_xclient().starttls(&any);
    let world = before(good.clone(), "opportunistic", |config| config).await;
    assert!(sent(&world).await.1.is_some());
    let cases = vec![
        ("no STARTTLS", Script::with_xclient(), 1),
        ("refused for now", good.clone().rule(on("STARTTLS").reply("454 4.7.0 TLS not available")), 1),
        ("refused for good", good.clone().rule(on("STARTTLS").reply("502 5.5.1 not now")), 1),
        ("closed at STARTTLS", good.clone().rule(on("STARTTLS").close()), 2),
        ("nonsense at STARTTLS", good.clone().rule(on("STARTTLS").reply("go ahead")), 2),
        ("closed in the handshake", good.clone().rule(on(HANDSHAKE).close()), 2),
        ("no handshake", good.clone().rule(on(HANDSHAKE).reply("554 5.3.0 no memory")), 2),
        (
            "closed behind the handshake",
            good.clone()
                .rule(on("EHLO").times(1).close())
                .rule(on("EHLO").times(1).reply("250-mta.example\n250 STARTTLS")),
            2,
        ),
    ];
    for (case, script, connections) in cases {
        let before = world.upstream.connections().len();
        world.upstream.change(|_| script);
        let (code, tls) = sent(&world).await;
        assert_eq!((code, tls.is_none()), (250, true), "{case}\n{}", world.upstream.transcript());
        assert_eq!(world.upstream.connections().len() - before, connections, "{case}");
    }
    let line = world.gate.wait_for_log("no TLS with the upstream; continuing in the clear").await;
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (event["session"].as_str().map(str::len), event["step"].as_str()),
        (Some(13), Some("STARTTLS")),
        "{line}"
    );
    world.upstream.change(|_| good);
    assert!(sent(&world).await.1.is_some());
    world.upstream.assert_clean();
}

#[tokio::test]
async fn an_upstream_that_never_ends_its_handshake_gets_the_mail_in_the_clear() {
    let never = Hold::new();
    let silent =
        Script::with_xclient().starttls(&Certificate::new(&["nobody.example"])).rule(on(HANDSHAKE).hold(&never, ""));
    let change =
        |config: ConfigText| config.set("upstream.tls", "opportunistic").set("timeouts.tls_handshake", "100ms");
    // The connections that are silent stay open at the upstream's side: nobody waits for their end.
    let world = World::unprobed(silent, Zone::new(), change).await;
    let (code, tls) = sent(&world).await;
    assert_eq!((code, tls.is_none()), (250, true));
    let scrape = world.gate.metrics().await;
    assert_eq!(scrape.value("dmarcgate_upstream_tls_handshakes_total{result=\"timeout\"}"), 2.0);
}

#[tokio::test]
async fn what_the_upstream_said_in_the_clear_is_not_believed_under_tls() {
    let own = Certificate::new(&["127.0.0.1"]);
    // Somebody between puts in a reply to the EHLO that will come, with an extension that the server does not have.
    let injected = "220 go ahead\n250-mta.example\n250 SIZE 1";
    let script = Script::with_xclient().starttls(&own).rule(on("STARTTLS").reply(injected));
    let world = before(script, "required", |config| config.set("upstream.tls_pin", vec![own.pin()])).await;
    // The probe has said what the server offers: nothing of SIZE 1.
    let mut client = world.client().await;
    assert!(client.command("EHLO client.example").await.says("SIZE 52428800"));
    assert_eq!(sent(&world).await.0, 250);
    world.upstream.assert_clean();
}

#[tokio::test]
async fn with_proxy_the_client_is_named_behind_starttls() {
    let own = Certificate::new(&["127.0.0.1"]);
    let good = Script::new().proxy().starttls(&own);
    let world = before(good.clone(), "opportunistic", |config| config.set("upstream.identity", "proxy-v1")).await;
    assert!(sent(&world).await.1.is_some());
    // Without it the client is named on the same connection.
    world.upstream.change(|_| Script::new().proxy());
    assert!(sent(&world).await.1.is_none());
    let [secured, plain] = &world.wait_for_end(2).await[..] else { panic!("{}", world.upstream.transcript()) };
    let ours = "EHLO mx.gate.example";
    assert_eq!(secured.commands[..4], [ours, "STARTTLS", "EHLO client.example", "MAIL FROM:<a@a.example>"]);
    assert_eq!(plain.commands[..3], [ours, "EHLO client.example", "MAIL FROM:<a@a.example>"]);
    // A server that does not like our own name has said nothing against the client.
    world.upstream.change(|_| good.rule(on("EHLO").with("mx.gate.example").reply("550 5.7.1 who?")));
    assert_eq!(sent(&world).await.0, 451);
}

#[tokio::test]
async fn a_configuration_is_checked_with_its_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    Wanted::new(&["mx.gate.example"])
        .from(now - 9 * DAY)
        .until(now - 3 * DAY)
        .self_signed()
        .write(directory.path(), "gate");
    // An expired certificate keeps no gate from starting.
    let (dns, nobody) = ("127.0.0.1:53".parse().unwrap(), "127.0.0.1:1".parse().unwrap());
    let gate =
        Gate::start(nobody, dns, |config| with_certificate(config, directory.path()).listener("tls", "implicit")).await;
    let line = gate.wait_for_log("EXPIRED 3 days ago").await;
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(event["concern"].as_str().is_some_and(|concern| concern.contains("EXPIRED 3 days ago")), "{line}");
    let check = gate.run(&["config", "check"]).await;
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(
        check.status.success() && text.contains("warning: the certificate in ") && text.contains("EXPIRED"),
        "{text}"
    );

    Certificate::new(&["mx.gate.example"]).write(directory.path(), "other");
    std::fs::rename(directory.path().join("other.key"), directory.path().join("gate.key")).unwrap();
    let check = gate.run(&["config", "check"]).await;
    let text = String::from_utf8(check.stderr).unwrap();
    assert_eq!(check.status.code(), Some(2), "{text}");
    assert!(text.contains("gate.key: the key does not fit the certificate in "), "{text}");
    let serve = gate.run(&["serve"]).await;
    let text = String::from_utf8(serve.stderr).unwrap();
    assert!(!serve.status.success() && text.contains("gate.key: the key does not fit"), "{text}");
    assert!(text.contains("tls (read by ") && text.contains(", as whom the gate runs): "), "{text}");
}
