//! Name servers over TLS (RFC 7858) and HTTPS (RFC 8484), and what stands in their place.

use std::path::PathBuf;

use axum::body::Bytes;
use axum::http;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use super::*;

const NAME: &str = "dns.example.net";

/// A name server under TLS that does as its script says, and counts connections and questions.
struct Secure {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    questions: Arc<AtomicUsize>,
    directory: TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tls,
    Https,
}

/// Whether a connection serves one question or as many as there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    One,
    All,
}

impl Secure {
    /// Shows a certificate for `certified`.
    async fn start(speaks: Speaks, certified: &str, keeps: Keeps, script: fn(&Message) -> Act) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([certified.to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        if speaks == Speaks::Https {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, connections: Arc::default(), questions: Arc::default(), directory };
        let (connections, questions) = (Arc::clone(&server.connections), Arc::clone(&server.questions));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, questions) = (acceptor.clone(), Arc::clone(&questions));
                tokio::spawn(async move {
                    // A client that does not believe the certificate goes.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    match speaks {
                        Speaks::Tls => serve_tls(stream, keeps, script, questions).await,
                        Speaks::Https => serve_https(stream, script, questions).await,
                    }
                });
            }
        });
        server
    }

    fn settings(&self, speaks: Speaks) -> Settings {
        let address = self.address;
        let server = match speaks {
            Speaks::Tls => format!("tls://{address}#{NAME}"),
            Speaks::Https => format!("https://{address}/dns-query#{NAME}"),
        };
        Settings {
            servers: vec![NameServer::parse(&server).unwrap()],
            ca: Some(self.ca()),
            timeout: Duration::from_secs(5),
            ..Settings::default()
        }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn counts(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.questions.load(Ordering::SeqCst))
    }
}

async fn serve_tls(
    mut stream: TlsStream<TcpStream>,
    keeps: Keeps,
    script: fn(&Message) -> Act,
    questions: Arc<AtomicUsize>,
) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        questions.fetch_add(1, Ordering::SeqCst);
        let Some(answer) = octets(script(&Message::from_vec(&question).unwrap()), &question) else { continue };
        stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
        if keeps == Keeps::One {
            return;
        }
    }
}

async fn serve_https(stream: TlsStream<TcpStream>, script: fn(&Message) -> Act, questions: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((mut request, mut respond))) = connection.accept().await {
        let questions = Arc::clone(&questions);
        tokio::spawn(async move {
            assert_eq!((request.method(), request.uri().path()), (&http::Method::POST, "/dns-query"));
            assert_eq!(request.uri().host(), Some(NAME));
            assert_eq!(request.headers()["content-type"], "application/dns-message");
            let mut question = Vec::new();
            while let Some(data) = request.body_mut().data().await {
                let data = data.unwrap();
                request.body_mut().flow_control().release_capacity(data.len()).unwrap();
                question.extend_from_slice(&data);
            }
            questions.fetch_add(1, Ordering::SeqCst);
            let status = |status: u16| {
                http::Response::builder()
                    .status(status)
                    .header("content-type", "application/dns-message")
                    .body(())
                    .unwrap()
            };
            match octets(script(&Message::from_vec(&question).unwrap()), &question) {
                Some(answer) => {
                    let mut stream = respond.send_response(status(200), false).unwrap();
                    stream.send_data(Bytes::from(answer), true).unwrap();
                }
                None => _ = respond.send_response(status(503), true).unwrap(),
            }
        });
    }
}

#[tokio::test]
async fn questions_go_over_one_connection_that_is_kept() {
    for speaks in [Speaks::Tls, Speaks::Https] {
        let server = Secure::start(speaks, NAME, Keeps::All, with_address).await;
        let (resolver, _) = resolver(server.settings(speaks));
        // All at once and with nothing open yet: still one.
        let askers = (0..50)
            .map(|n| {
                let lookup = resolver.for_message(None);
                tokio::spawn(async move { lookup.ask(&format!("n{n}.example"), RecordType::A).await })
            })
            .collect::<Vec<_>>();
        for asker in askers {
            let answer = asker.await.unwrap();
            assert!(answer.outcome.is_ok(), "{answer:?}");
        }
        assert!(resolver.for_message(None).ask("later.example", RecordType::A).await.outcome.is_ok());
        assert_eq!(server.counts(), (1, 51));
    }
}

#[tokio::test]
async fn questions_without_an_answer_hold_up_no_other_one() {
    let script = |message: &Message| match question(message).name().to_ascii().starts_with("slow") {
        true => Act::Drop,
        false => with_address(message),
    };
    // Once with a connection that stands already, once without.
    for warm in [false, true] {
        let server = Secure::start(Speaks::Tls, NAME, Keeps::All, script).await;
        // Long enough that none of the slow ones ends before the other one has been answered.
        let settings = Settings { timeout: Duration::from_secs(20), attempts: 1, ..server.settings(Speaks::Tls) };
        let (resolver, _) = resolver(settings);
        if warm {
            assert!(resolver.for_message(None).ask("before.example", RecordType::A).await.outcome.is_ok());
        }
        let lookup = Arc::new(resolver.for_message(None));
        for n in 0..20 {
            let lookup = Arc::clone(&lookup);
            tokio::spawn(async move { lookup.ask(&format!("slow{n}.example"), RecordType::A).await });
        }
        while under_way(&resolver) < 20 {
            tokio::task::yield_now().await;
        }
        let other = resolver.for_message(None);
        let answer = tokio::time::timeout(Duration::from_secs(10), other.ask("other.example", RecordType::A)).await;
        assert!(answer.expect("it waits for the slow ones").outcome.is_ok(), "warm: {warm}");
    }
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_opened_anew() {
    let server = Secure::start(Speaks::Tls, NAME, Keeps::One, with_address).await;
    let (resolver, _) = resolver(server.settings(Speaks::Tls));
    for n in 0..5 {
        let answer = resolver.for_message(None).ask(&format!("n{n}.example"), RecordType::A).await;
        assert!(answer.outcome.is_ok(), "{n}: {answer:?}");
    }
    assert_eq!(server.questions.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn names_come_as_they_are_and_texts_whole() {
    for speaks in [Speaks::Tls, Speaks::Https] {
        let server = Secure::start(speaks, NAME, Keeps::All, |message| {
            assert!(message.edns.is_some());
            let owner = question(message).name().clone();
            assert_eq!(owner.to_ascii(), "abcdefghijklmnopqrstuvwxyz.example.", "there is nothing to guess");
            let mut answer = reply(message, ResponseCode::NoError);
            let text = vec![b'x'; 40_000];
            answer.add_answer(Record::from_rdata(owner, 60, RData::TXT(TXT::from_bytes(text.chunks(255).collect()))));
            Act::Answer(answer)
        })
        .await;
        let (resolver, _) = resolver(server.settings(speaks));
        let records = resolver.for_message(None).txt("abcdefghijklmnopqrstuvwxyz.example").await.unwrap();
        assert_eq!(records.as_txt().unwrap().texts().next().unwrap().len(), 40_000);
    }
}

#[tokio::test]
async fn what_servers_say_is_told_apart_under_encryption_too() {
    type Case = (&'static str, fn(&Message) -> Act, &'static [Miss]);
    let cases: [Case; 6] = [
        ("NXDOMAIN", |m| Act::Answer(reply(m, ResponseCode::NXDomain)), &[Miss::NxDomain]),
        ("NODATA", |m| Act::Answer(reply(m, ResponseCode::NoError)), &[Miss::NoData]),
        ("SERVFAIL", |m| Act::Answer(reply(m, ResponseCode::ServFail)), &[Miss::Failed(Failure::ServFail)]),
        ("REFUSED", |m| Act::Answer(reply(m, ResponseCode::Refused)), &[Miss::Failed(Failure::Refused)]),
        (
            "another question's answer",
            |m| {
                let mut answer = reply(m, ResponseCode::NXDomain);
                answer.queries[0].name = name("other.example.");
                Act::Answer(answer)
            },
            &[Miss::Failed(Failure::Malformed)],
        ),
        // Over TLS nothing comes; over HTTPS 503 does.
        ("nothing", |_| Act::Drop, &[Miss::Failed(Failure::Timeout), Miss::Failed(Failure::Network)]),
    ];
    for (case, script, expected) in cases {
        for speaks in [Speaks::Tls, Speaks::Https] {
            let server = Secure::start(speaks, NAME, Keeps::All, script).await;
            let settings = Settings { timeout: Duration::from_millis(400), attempts: 1, ..server.settings(speaks) };
            let got = miss(&ask(settings, "a.example", RecordType::A).await);
            assert!(expected.contains(&got), "{case}: {got:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_a_failure_and_nothing_is_asked() {
    let (clear, other) = (
        Server::start(|m, _, _| with_address(m)).await,
        Secure::start(Speaks::Tls, NAME, Keeps::All, with_address).await,
    );
    for speaks in [Speaks::Tls, Speaks::Https] {
        let wrong_name = Secure::start(speaks, "dns.elsewhere.example", Keeps::All, with_address).await;
        let unknown = Secure::start(speaks, NAME, Keeps::All, with_address).await;
        let cases = [
            ("another name", &wrong_name, wrong_name.settings(speaks)),
            ("another authority", &unknown, Settings { ca: Some(other.ca()), ..unknown.settings(speaks) }),
        ];
        for (case, server, settings) in cases {
            let answer = ask(Settings { attempts: 2, ..settings }, "a.example", RecordType::A).await;
            assert_eq!(miss(&answer), Miss::Failed(Failure::Network), "{case}");
            assert_eq!(server.questions.load(Ordering::SeqCst), 0, "{case}");
        }
    }
    // The very port speaks DNS in the clear, over UDP and TCP: it is not spoken to.
    for server in ["tls://{}#dns.example.net", "https://{}/dns-query#dns.example.net"] {
        let server = NameServer::parse(&server.replace("{}", &clear.address.to_string())).unwrap();
        let settings = Settings {
            servers: vec![server],
            ca: Some(other.ca()),
            timeout: Duration::from_millis(400),
            attempts: 2,
            ..Settings::default()
        };
        let Miss::Failed(_) = miss(&ask(settings, "a.example", RecordType::A).await) else { panic!("no fallback") };
        assert_eq!((clear.udp(), clear.tcp()), (0, 0));
    }
}

#[tokio::test]
async fn after_an_encrypted_server_the_next_of_the_list_has_its_turn() {
    let wrong = Secure::start(Speaks::Tls, "dns.elsewhere.example", Keeps::All, with_address).await;
    let good = Secure::start(Speaks::Https, NAME, Keeps::All, with_address).await;
    let mut settings = good.settings(Speaks::Https);
    settings.servers.splice(..0, wrong.settings(Speaks::Tls).servers);
    assert!(ask(settings, "a.example", RecordType::A).await.outcome.is_ok());
}

#[tokio::test]
async fn without_anyone_to_believe_there_is_no_resolver() {
    let settings = Settings {
        servers: vec![NameServer::parse("tls://127.0.0.1#dns.example.net").unwrap()],
        ca: Some("/nonexistent/ca.pem".into()),
        ..Settings::default()
    };
    assert!(matches!(Resolver::new(settings.clone(), Metrics::new(&Registry::new())), Err(Error::Trust(_))));
    let clear = Settings { servers: vec![SocketAddr::from(([127, 0, 0, 1], 53)).into()], ..settings };
    assert!(Resolver::new(clear, Metrics::new(&Registry::new())).is_ok(), "in the clear nobody is");
}
