//! The harness itself, without a gate: a test of the gate is worth what its harness is.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;

use crate::support::certificates::{Certificate, Handshake};
use crate::support::client::{Chunk, Client, encode, plain};
use crate::support::dns::{DnsServer, RecordType, Transport, Zone};
use crate::support::proxy::{ProxyHeader, ProxyVersion};
use crate::support::rules::{DOT, GREETING, HANDSHAKE, Hold, Script, on};
use crate::support::upstream::{Connection, Upstream};

#[tokio::test]
async fn the_name_server_tells_every_outcome_apart() {
    let long = "x".repeat(2_000);
    let zone = Zone::new()
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt_strings("split.example", &["v=spf1 ", "-all"])
        .txt("two.example", "one")
        .txt("two.example", "two")
        .txt("long.example", &long)
        .txt("*.wild.example", "any")
        .a("host.wild.example", "192.0.2.1")
        .cname("alias.example", "split.example")
        .cname("dangling.example", "nothing.example")
        .mx("a.example", 10, "mx.a.example")
        .ptr("192.0.2.7", "seven.example")
        .ptr("2001:db8::7", "seven.example")
        .serv_fail("broken.example", RecordType::TXT)
        .refuse("refused.example", RecordType::TXT)
        .truncate("cut.example", RecordType::TXT)
        .txt("cut.example", "whole by TCP")
        .time_out("silent.example", RecordType::TXT);
    let dns = DnsServer::start(zone).await;
    let resolver = resolver(dns.address());
    let long = format!("txt {long}");
    let cases: &[(&str, &str, RecordType, &str)] = &[
        ("a record", "_dmarc.a.example", RecordType::TXT, "txt v=DMARC1; p=reject"),
        ("another case of letters", "_DMARC.A.Example", RecordType::TXT, "txt v=DMARC1; p=reject"),
        ("strings of one record", "split.example", RecordType::TXT, "txt v=spf1 |-all"),
        ("two records", "two.example", RecordType::TXT, "txt one, txt two"),
        ("too long for UDP", "long.example", RecordType::TXT, &long),
        ("a wildcard", "x.y.wild.example", RecordType::TXT, "txt any"),
        ("a name keeps the wildcard off", "host.wild.example", RecordType::TXT, "NODATA"),
        ("an alias", "alias.example", RecordType::TXT, "cname split.example., txt v=spf1 |-all"),
        ("an alias to nothing", "dangling.example", RecordType::TXT, "NXDOMAIN"),
        ("another type of the name", "_dmarc.a.example", RecordType::A, "NODATA"),
        ("an empty non-terminal", "wild.example", RecordType::TXT, "NODATA"),
        ("no such name", "b.example", RecordType::TXT, "NXDOMAIN"),
        ("nothing below a name", "x.a.example", RecordType::TXT, "NXDOMAIN"),
        ("an exchanger", "a.example", RecordType::MX, "mx 10 mx.a.example."),
        ("a reverse name", "7.2.0.192.in-addr.arpa", RecordType::PTR, "ptr seven.example."),
        ("SERVFAIL", "broken.example", RecordType::TXT, "ServFail"),
        ("REFUSED", "refused.example", RecordType::TXT, "Refused"),
        ("cut off over UDP", "cut.example", RecordType::TXT, "txt whole by TCP"),
        ("no answer", "silent.example", RecordType::TXT, "time-out"),
    ];
    for (case, name, record_type, expected) in cases {
        assert_eq!(ask(&resolver, name, *record_type).await, *expected, "{case}");
    }
    let by_tcp: Vec<_> = dns.asked().into_iter().filter(|a| a.transport == Transport::Tcp).map(|a| a.spelled).collect();
    assert_eq!(by_tcp.len(), 2, "the long and the cut answer: {by_tcp:?}");
    assert_eq!(dns.count("two.example", RecordType::TXT), 1);
}

#[tokio::test]
async fn a_zone_changes_and_a_delayed_answer_comes_when_released() {
    let dns = DnsServer::start(Zone::new().txt("slow.example", "at last").delay("slow.example", RecordType::TXT)).await;
    let resolver = resolver(dns.address());
    assert_eq!(ask(&resolver, "new.example", RecordType::A).await, "NXDOMAIN");
    dns.change(|zone| zone.a("new.example", "192.0.2.9"));
    assert_eq!(ask(&resolver, "new.example", RecordType::A).await, "a 192.0.2.9");

    let answer = tokio::spawn(async move { ask(&resolver, "slow.example", RecordType::TXT).await });
    dns.wait_for("slow.example", RecordType::TXT, 1).await;
    assert!(!answer.is_finished());
    dns.release("slow.example", RecordType::TXT);
    assert_eq!(answer.await.unwrap(), "txt at last");
}

#[tokio::test]
async fn client_and_upstream_carry_a_message_octet_by_octet() {
    let script = Script::with_xclient().rule(on("RCPT").with("<bad@").reply("550-5.1.1 no\n550 5.1.1 such user"));
    let upstream = Upstream::start(script).await;
    let mut client = Client::connect(upstream.address()).await;
    client.expect(220).await;
    assert!(client.command("EHLO gate.example").await.says("XCLIENT NAME ADDR"));
    client.command("XCLIENT ADDR=192.0.2.5 NAME=a+2Bb.example HELO=[UNAVAILABLE]").await.assert(220);
    client.command("EHLO client.example").await.assert(250);

    let content = b".dot\r\n..two\r\n\r\nnot the end: .\r\n.x\r\n\x00\xff\r\n";
    let delivery = client.deliver("a@a.example", &["bad@b.example", "good@b.example"], content).await;
    assert_eq!(delivery.recipients[0].raw, b"550-5.1.1 no\r\n550 5.1.1 such user\r\n");
    delivery.outcome().assert(250);
    client.command("QUIT").await.assert(221);
    client.expect_close().await;

    let messages = upstream.wait_for_messages(1).await;
    let message = &messages[0];
    assert_eq!((message.from.as_str(), message.recipients.as_slice()), ("a@a.example", &["good@b.example".into()][..]));
    assert_eq!(message.content, content);
    assert_eq!(message.raw, encode(content));
    assert_eq!(message.xclient["ADDR"], "192.0.2.5");
    assert_eq!(message.xclient["NAME"], "a+b.example");
    upstream.wait_for_close().await;
    upstream.assert_clean();
}

#[tokio::test]
async fn rules_of_the_upstream_act_where_they_are_told_to() {
    let hold = Hold::new();
    let script = Script::new()
        .rule(on(GREETING).once().reply_and_close("421 4.3.2 busy"))
        .rule(on("MAIL").with("tempfail@").reply("451 4.3.0 later"))
        .rule(on(DOT).with("spam@").reply("554 5.7.1 spam"))
        .rule(on(DOT).with("lost@").close())
        .rule(on(DOT).with("slow@").hold(&hold, "250 2.0.0 slowly"));
    let upstream = Upstream::start(script).await;

    let mut client = Client::connect(upstream.address()).await;
    client.expect(421).await;
    client.expect_close().await;

    let mut client = Client::connect(upstream.address()).await;
    client.expect(220).await;
    client.command("EHLO gate.example").await.assert(250);
    client.deliver("tempfail@a.example", &["x@b.example"], b"").await.outcome().assert(451);
    client.deliver("spam@a.example", &["x@b.example"], b"x\r\n").await.outcome().assert(554);
    client.pipeline(&["MAIL FROM:<slow@a.example>", "RCPT TO:<x@b.example>", "DATA"]).await[2].assert(354);
    client.send(&encode(b"slow\r\n")).await;
    upstream.wait_until("the second dot came", |seen| shown(seen, "octets of data") == 2).await;
    assert_eq!(upstream.messages().len(), 1, "the second is not answered yet");
    hold.release();
    client.expect(250).await;
    upstream.add(on("RSET").reply("nonsense"));
    client.send(b"RSET\r\n").await;
    upstream.wait_until("nonsense was said", |seen| shown(seen, "S: nonsense") == 1).await;

    let mut client = Client::connect(upstream.address()).await;
    client.expect(220).await;
    client.command("EHLO gate.example").await.assert(250);
    client.deliver("a@a.example", &["x@b.example"], b"").await.outcome().assert(250);
    client.command("MAIL FROM:<lost@a.example>").await.assert(250);
    client.command("RCPT TO:<x@b.example>").await.assert(250);
    client.command("DATA").await.assert(354);
    client.send(b".\r\n").await;
    assert_eq!(client.try_read_reply().await, None);
    let replies: Vec<_> = upstream.messages().iter().map(|m| m.reply.get(..3).unwrap_or("").to_owned()).collect();
    assert_eq!(replies, ["554", "250", "250", ""]);
}

#[tokio::test]
async fn a_lenient_upstream_is_fooled_by_every_odd_end_of_data_and_a_strict_one_is_not() {
    let ends: [&[u8]; 8] = [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r.\n"];
    for end in ends {
        let smuggled = [b"one", end, b"MAIL FROM:<evil@a.example>\r\nRCPT TO:<x@b.example>\r\nDATA\r\ntwo"].concat();
        for (script, expected) in [(Script::new(), 1), (Script::new().lenient(), 2)] {
            let upstream = Upstream::start(script).await;
            let mut client = Client::connect(upstream.address()).await;
            client.expect(220).await;
            client.command("EHLO gate.example").await.assert(250);
            let start = ["MAIL FROM:<a@a.example>", "RCPT TO:<x@b.example>", "DATA"];
            client.pipeline(&start).await[2].assert(354);
            client.send(&smuggled).await;
            client.send(b"\r\n.\r\nQUIT\r\n").await;
            upstream.wait_for_close().await;
            let count = upstream.messages().len();
            assert_eq!(count, expected, "{}\n{}", end.escape_ascii(), upstream.transcript());
        }
    }
}

#[tokio::test]
async fn proxy_headers_come_out_as_they_went_in() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        for client in ["198.51.100.7", "2001:db8::7"] {
            let header = ProxyHeader::naming(version, client.parse::<IpAddr>().unwrap());
            let octets = [header.encode(), b"EHLO x\r\n".to_vec()].concat();
            assert_eq!(ProxyHeader::decode(&octets), Ok(Some((octets.len() - 8, header))));
            for cut in 0..octets.len() - 8 {
                assert_eq!(ProxyHeader::decode(&octets[..cut]), Ok(None), "{cut} octets");
            }
        }
        let header = ProxyHeader::without_addresses(version);
        assert_eq!(ProxyHeader::decode(&header.encode()).unwrap().unwrap().1, header);
    }
    assert!(ProxyHeader::decode(b"EHLO x\r\n").is_err());

    let upstream = Upstream::start(Script::new().proxy()).await;
    let header = ProxyHeader::naming(ProxyVersion::V2, "198.51.100.7".parse().unwrap());
    let mut client = Client::connect_through(upstream.address(), header).await;
    client.expect(220).await;
    assert_eq!(upstream.connections()[0].proxy, Some(header));
}

#[tokio::test]
async fn client_and_upstream_speak_tls_with_each_other() {
    let shown = Certificate::new(&["mta.example"]);
    let offering = Upstream::start(Script::new().starttls(&shown)).await;
    let mut client = Client::connect(offering.address()).await;
    client.expect(220).await;
    assert!(client.command("EHLO client.example").await.says("STARTTLS"));
    client.start_tls_with(&Handshake::default().name("mta.example").version_1_2()).await;
    assert_eq!(client.negotiated().version, "TLSv1.2");
    assert!(client.negotiated().is_shown(&shown));
    assert!(!client.command("EHLO client.example").await.says("STARTTLS"));
    assert!(client.is_silent());
    client.deliver("a@a.example", &["b@b.example"], b"a: b\r\n\r\nc\r\n").await.outcome().assert(250);
    client.command("QUIT").await.assert(221);
    client.expect_close().await;
    let seen = offering.wait_for_close().await.remove(0);
    let tls = seen.tls.expect("a handshake");
    assert_eq!((tls.version, tls.sni.as_deref()), ("TLSv1.2", Some("mta.example")));
    offering.assert_clean();

    let implicit = Upstream::start(Script::new().implicit_tls(&shown)).await;
    let mut client = Client::connect_tls(implicit.address()).await;
    client.expect(220).await;
    assert_eq!((client.negotiated().version, client.negotiated().sni.as_deref()), ("TLSv1.3", None));
    client.command("QUIT").await.assert(221);

    // One that goes away instead, and one that talks in the clear.
    implicit.add(on(HANDSHAKE).once().close());
    let mut client = Client::connect(implicit.address()).await;
    assert!(client.try_handshake(&Handshake::default()).await.is_err());
    implicit.add(on(HANDSHAKE).once().reply("554 no TLS here"));
    let mut client = Client::connect(implicit.address()).await;
    assert!(client.try_handshake(&Handshake::default()).await.is_err());
}

/// How many lines of the transcripts hold `text`.
fn shown(seen: &[Connection], text: &str) -> usize {
    seen.iter().flat_map(|c| &c.transcript).filter(|line| line.contains(text)).count()
}

fn resolver(server: SocketAddr) -> TokioResolver {
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    name_server.connections.iter_mut().for_each(|connection| connection.port = server.port());
    let config = ResolverConfig::from_name_servers(vec![name_server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options: &mut ResolverOpts = builder.options_mut();
    options.cache_size = 0;
    options.attempts = 0;
    options.case_randomization = true;
    options.timeout = std::time::Duration::from_millis(300);
    builder.build().unwrap()
}

/// The answer's records, or the kind of miss, in words.
async fn ask(resolver: &TokioResolver, name: &str, record_type: RecordType) -> String {
    match resolver.lookup(format!("{name}."), record_type).await {
        Ok(lookup) => lookup.answers().iter().map(|r| data(&r.data)).collect::<Vec<_>>().join(", "),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.response_code == ResponseCode::NXDomain => {
            "NXDOMAIN".into()
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => "NODATA".into(),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => format!("{code:?}"),
        Err(NetError::Timeout) => "time-out".into(),
        Err(other) => format!("{other:?}"),
    }
}

fn data(data: &RData) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match data {
        RData::TXT(txt) => {
            // Strings of one record are shown apart; the cuts of a long text are not.
            let separator = if txt.txt_data.iter().any(|s| s.len() == 255) { "" } else { "|" };
            format!("txt {}", txt.txt_data.iter().map(|s| text(s)).collect::<Vec<_>>().join(separator))
        }
        other => format!("{} {other}", other.record_type().to_string().to_lowercase()),
    }
}

#[tokio::test]
async fn the_upstream_takes_chunks_and_logins() {
    let upstream = Upstream::start(Script::new().extension("CHUNKING").user("joe", "secret")).await;
    let mut client = Client::connect(upstream.address()).await;
    client.expect(220).await;
    assert!(client.command("EHLO client.example").await.says("AUTH PLAIN LOGIN"));
    client.auth_plain("joe", "wrong").await.assert(535);
    client.command("AUTH LOGIN").await.assert(334);
    client.command("*").await.assert(501);
    client.auth_login("joe", "secret").await.assert(235);
    client.command("MAIL FROM:<a@a.example>").await.assert(250);
    client.chunk(b"x", Chunk::Last).await.assert(503);
    client.command("RCPT TO:<b@b.example> NOTIFY=NEVER").await.assert(250);
    client.chunk(b"From: a\r\n\r\n..\r\n", Chunk::Inner).await.assert(250);
    client.chunk(b".\r\nBDAT", Chunk::Last).await.assert(250);
    client.command("QUIT").await.assert(221);
    let connection = upstream.wait_for_close().await.remove(0);
    assert_eq!(connection.faults, [""; 0]);
    assert_eq!(connection.responses, [&plain("joe", "wrong"), "*", "am9l", "c2VjcmV0"]);
    let message = &connection.messages[0];
    assert_eq!((message.chunks.as_slice(), message.login.as_deref()), (&[15, 7][..], Some("joe")));
    assert_eq!(message.recipient_parameters, [["NOTIFY=NEVER"]]);
    assert_eq!(message.content, b"From: a\r\n\r\n..\r\n.\r\nBDAT");
}
