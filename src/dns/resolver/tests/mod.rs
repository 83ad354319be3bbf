//! The resolver against a name server of our own on loopback.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, NS, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType as WireType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;

use super::*;
use crate::dns::{Lookup, Miss, RecordType};
use crate::metrics::Registry;

mod bounds;
mod encrypted;
mod lanes;
mod lies;

/// What the server makes of one question.
enum Act {
    Answer(Message),
    /// These octets instead of a message, after the identifier.
    Octets(Vec<u8>),
    /// The first half of this answer, then the end of the stream; over UDP the half.
    Half(Message),
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Udp,
    Tcp,
}

type Script = dyn Fn(&Message, Via, usize) -> Act + Send + Sync;

/// A name server that does as its script says, and counts.
struct Server {
    address: SocketAddr,
    udp: Arc<AtomicUsize>,
    tcp: Arc<AtomicUsize>,
}

impl Server {
    /// The script gets the question, how it came and how many came before it that way.
    async fn start(script: impl Fn(&Message, Via, usize) -> Act + Send + Sync + 'static) -> Self {
        let script: Arc<Script> = Arc::new(script);
        let (udp, listener) = bind().await;
        let address = udp.local_addr().unwrap();
        let server = Self { address, udp: Arc::default(), tcp: Arc::default() };
        let (udp_count, tcp_count) = (Arc::clone(&server.udp), Arc::clone(&server.tcp));
        let udp_script = Arc::clone(&script);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                let before = udp_count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = respond(&*udp_script, &buffer[..length], Via::Udp, before) {
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve_tcp(stream, Arc::clone(&script), Arc::clone(&tcp_count)));
            }
        });
        server
    }

    fn udp(&self) -> usize {
        self.udp.load(Ordering::SeqCst)
    }

    fn tcp(&self) -> usize {
        self.tcp.load(Ordering::SeqCst)
    }
}

/// A UDP and a TCP socket of one port.
async fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

/// One answer, then the connection is closed, as simple servers do.
async fn serve_tcp(mut stream: TcpStream, script: Arc<Script>, count: Arc<AtomicUsize>) {
    let Ok(length) = stream.read_u16().await else { return };
    let mut question = vec![0; length.into()];
    stream.read_exact(&mut question).await.unwrap();
    let before = count.fetch_add(1, Ordering::SeqCst);
    match script(&Message::from_vec(&question).unwrap(), Via::Tcp, before) {
        // The connection stays, and says nothing.
        Act::Drop => std::future::pending().await,
        Act::Half(answer) => {
            let answer = answer.to_vec().unwrap();
            stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&answer[..answer.len() / 2]).await.unwrap();
        }
        act => {
            let answer = octets(act, &question).unwrap();
            stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }
}

fn respond(script: &Script, question: &[u8], via: Via, before: usize) -> Option<Vec<u8>> {
    let message = Message::from_vec(question).unwrap();
    octets(script(&message, via, before), question)
}

fn octets(act: Act, question: &[u8]) -> Option<Vec<u8>> {
    match act {
        Act::Answer(answer) => Some(answer.to_vec().unwrap()),
        Act::Octets(octets) => Some([&question[..2], &octets].concat()),
        Act::Half(answer) => {
            let answer = answer.to_vec().unwrap();
            Some(answer[..answer.len() / 2].to_vec())
        }
        Act::Drop => None,
    }
}

/// An answer to `question` without records yet.
fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.response_code = code;
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.clone());
    answer
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn soa(ttl: u32) -> Record {
    record("example.", ttl, RData::SOA(SOA::new(name("ns.example."), name("h.example."), 1, 2, 3, 4, ttl)))
}

fn address() -> RData {
    RData::A(A::new(192, 0, 2, 1))
}

fn question(message: &Message) -> &Query {
    message.queries.first().unwrap()
}

/// Answers each question for an address.
fn with_address(message: &Message) -> Act {
    let mut answer = reply(message, ResponseCode::NoError);
    answer.add_answer(Record::from_rdata(question(message).name().clone(), 60, address()));
    Act::Answer(answer)
}

fn settings(servers: &[&Server]) -> Settings {
    Settings {
        servers: servers.iter().map(|server| server.address.into()).collect(),
        timeout: Duration::from_millis(200),
        spare: 0,
        ..Settings::default()
    }
}

fn resolver(settings: Settings) -> (Resolver, Registry) {
    let registry = Registry::new();
    (Resolver::new(settings, Metrics::new(&registry)).unwrap(), registry)
}

async fn ask(settings: Settings, name: &str, record_type: RecordType) -> Answer {
    resolver(settings).0.for_message(None).ask(name, record_type).await
}

/// Questions that are not answered yet.
fn under_way(resolver: &Resolver) -> usize {
    resolver.0.under_way().len()
}

/// A client of the n-th network.
fn client(n: usize) -> Option<IpAddr> {
    Some(IpAddr::from([10, 0, u8::try_from(n).unwrap(), 1]))
}

/// Tasks of the identifiers' lane, and of the policies'.
fn tasks(resolver: &Resolver) -> [usize; 2] {
    let under_way = resolver.0.under_way();
    [under_way.tasks(Purpose::Identifier), under_way.tasks(Purpose::Policy)]
}

fn miss(answer: &Answer) -> Miss {
    *answer.outcome.as_ref().unwrap_err()
}

#[tokio::test]
async fn what_servers_say_is_told_apart() {
    type Edit = fn(&mut Message);
    let cname = |answer: &mut Message| {
        let owner = question(answer).name().clone();
        answer.add_answer(Record::from_rdata(owner, 60, RData::CNAME(CNAME(name("t.example.")))));
    };
    let _: Edit = cname;
    let cases: [(&str, ResponseCode, Edit, Miss); 11] = [
        ("NXDOMAIN", ResponseCode::NXDomain, |a| _ = a.add_authority(soa(60)), Miss::NxDomain),
        ("NXDOMAIN without SOA", ResponseCode::NXDomain, |_| {}, Miss::NxDomain),
        ("NODATA", ResponseCode::NoError, |a| _ = a.add_authority(soa(60)), Miss::NoData),
        ("nothing at all", ResponseCode::NoError, |_| {}, Miss::NoData),
        (
            "a referral",
            ResponseCode::NoError,
            |a| _ = a.add_authority(record("example.", 60, RData::NS(NS(name("ns.example."))))),
            Miss::NoData,
        ),
        (
            "records of other names",
            ResponseCode::NoError,
            |a| _ = a.add_answer(record("other.example.", 60, address())).add_authority(soa(60)),
            Miss::NoData,
        ),
        ("SERVFAIL", ResponseCode::ServFail, |_| {}, Miss::Failed(Failure::ServFail)),
        ("REFUSED", ResponseCode::Refused, |_| {}, Miss::Failed(Failure::Refused)),
        ("NOTIMP", ResponseCode::NotImp, |_| {}, Miss::Failed(Failure::Refused)),
        ("NOTAUTH", ResponseCode::NotAuth, |_| {}, Miss::Failed(Failure::Refused)),
        ("an unknown code", ResponseCode::Unknown(12), |_| {}, Miss::Failed(Failure::Refused)),
    ];
    for (case, code, edit, expected) in cases {
        let server = Server::start(move |message, _, _| {
            let mut answer = reply(message, code);
            edit(&mut answer);
            Act::Answer(answer)
        })
        .await;
        let answer = ask(settings(&[&server]), "a.example", RecordType::A).await;
        assert_eq!(miss(&answer), expected, "{case}");
        // NOTIMP is given a second chance without EDNS; all else is final.
        assert_eq!(server.udp(), if code == ResponseCode::NotImp { 2 } else { 1 }, "{case}");
    }
}

#[tokio::test]
async fn a_server_that_chokes_on_edns_is_asked_without() {
    let server = Server::start(|message, _, _| match message.edns {
        Some(_) => Act::Answer(reply(message, ResponseCode::FormErr)),
        None => with_address(message),
    })
    .await;
    assert!(ask(settings(&[&server]), "a.example", RecordType::A).await.outcome.is_ok());
    assert_eq!(server.udp(), 2);
}

#[tokio::test]
async fn silence_garbage_and_closed_ports_are_failures() {
    let silent = Server::start(|_, _, _| Act::Drop).await;
    let one = Settings { attempts: 1, ..settings(&[&silent]) };
    assert_eq!(miss(&ask(one, "a.example", RecordType::A).await), Miss::Failed(Failure::Timeout));

    let garbage = Server::start(|_, _, _| Act::Octets(b"\x81\x80\0\x01\0\x01\0\0\0\0\xc0\xff".to_vec())).await;
    let answer = ask(settings(&[&garbage]), "a.example", RecordType::A).await;
    assert_eq!(miss(&answer), Miss::Failed(Failure::Malformed));
    assert_eq!(garbage.udp(), 1);
    assert!(garbage.tcp() >= 1, "asked again by TCP");

    let answer = ask(settings(&[&silent, &garbage]), "a.example", RecordType::A).await;
    assert_eq!(miss(&answer), Miss::Failed(Failure::Malformed), "what tells more is reported");
}

#[tokio::test]
async fn the_next_server_is_asked_and_kept() {
    let dead = Server::start(|_, _, _| Act::Drop).await;
    let failing = Server::start(|message, _, _| Act::Answer(reply(message, ResponseCode::ServFail))).await;
    let good = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, _) = resolver(settings(&[&dead, &failing, &good]));
    let lookup = resolver.for_message(None);
    assert!(lookup.ask("a.example", RecordType::A).await.outcome.is_ok());
    let asked = dead.udp();
    assert!(asked >= 1);
    assert_eq!((failing.udp(), good.udp()), (1, 1));
    for n in 0..5 {
        assert!(lookup.ask(&format!("n{n}.example"), RecordType::A).await.outcome.is_ok());
    }
    assert_eq!((dead.udp(), failing.udp(), good.udp()), (asked, 1, 6), "the one that answered goes first");
}

#[tokio::test]
async fn negative_answers_are_final_whatever_other_servers_know() {
    let first = Server::start(|message, _, _| Act::Answer(reply(message, ResponseCode::NXDomain))).await;
    let second = Server::start(|message, _, _| with_address(message)).await;
    assert_eq!(miss(&ask(settings(&[&first, &second]), "a.example", RecordType::A).await), Miss::NxDomain);
    assert_eq!(second.udp(), 0);
}

#[tokio::test]
async fn names_are_spelled_at_random_and_answers_in_another_spelling_come_by_tcp() {
    let lower = |message: &Message| {
        let mut message = message.clone();
        message.queries[0].name = message.queries[0].name.to_lowercase();
        with_address(&message)
    };
    let asked = "abcdefghijklmnopqrstuvwxyz.example";
    let spelled = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&spelled);
    let server = Server::start(move |message, via, _| {
        if via == Via::Udp {
            *seen.lock().unwrap() = question(message).name().to_ascii();
        }
        lower(message)
    })
    .await;
    let (resolver, _) = resolver(settings(&[&server]));
    let answer = resolver.for_message(None).ask(asked, RecordType::A).await;
    assert!(answer.outcome.is_ok(), "{answer:?}");
    assert_eq!((server.udp(), server.tcp()), (1, 1));
    let spelled = spelled.lock().unwrap().clone();
    assert_ne!(spelled, format!("{asked}."), "2 to the 33 spellings");
    assert_eq!(spelled.to_lowercase(), format!("{asked}."));
}

#[tokio::test]
async fn a_server_that_changes_the_spelling_and_has_no_tcp_is_asked_plainly_in_the_end() {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let lower = |message: &Message, _: Via, _: usize| {
                let mut message = message.clone();
                message.queries[0].name = message.queries[0].name.to_lowercase();
                with_address(&message)
            };
            udp.send_to(&respond(&lower, &buffer[..length], Via::Udp, 0).unwrap(), client).await.unwrap();
        }
    });
    let settings =
        Settings { servers: vec![address.into()], timeout: Duration::from_millis(500), ..Settings::default() };
    let answer = ask(settings, "abcdefghijklmnopqrstuvwxyz.example", RecordType::A).await;
    assert!(answer.outcome.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn cut_and_large_answers_come_by_tcp() {
    let texts = (0..60).map(|n| format!("{n:03}-{}", "x".repeat(900))).collect::<Vec<_>>();
    let sent = texts.clone();
    for (case, cut) in [("truncated", true), ("too large for UDP", false)] {
        let sent = sent.clone();
        let server = Server::start(move |message, via, _| {
            let mut answer = reply(message, ResponseCode::NoError);
            let owner = question(message).name().clone();
            let count = if via == Via::Udp { 2 } else { sent.len() };
            for text in sent.iter().take(count) {
                let strings = text.as_bytes().chunks(255).collect();
                answer.add_answer(Record::from_rdata(owner.clone(), 60, RData::TXT(TXT::from_bytes(strings))));
            }
            answer.metadata.truncation = via == Via::Udp && cut;
            Act::Answer(answer)
        })
        .await;
        let (resolver, _) = resolver(settings(&[&server]));
        let lookup = resolver.for_message(None);
        // The second question finds the TCP connection of the first closed.
        for name in ["a.example", "b.example"] {
            let records = lookup.txt(name).await.expect(case);
            let got = records.as_txt().unwrap().texts().map(|t| String::from_utf8(t.to_vec()).unwrap());
            assert_eq!(got.collect::<Vec<_>>(), texts, "{case} {name}");
        }
        assert_eq!(server.tcp(), 2, "{case}");
    }
}

#[tokio::test]
async fn chains_of_cnames_are_followed() {
    let server = Server::start(|message, _, _| {
        let asked = question(message).name().to_lowercase();
        let cname = |owner: &str, target: &str| record(owner, 30, RData::CNAME(CNAME(name(target))));
        let (code, answers, negative): (_, Vec<Record>, bool) = match asked.to_ascii().as_str() {
            "whole.example." => (
                ResponseCode::NoError,
                vec![
                    record("t.example.", 60, address()),
                    cname("whole.example.", "M.example."),
                    cname("m.example.", "t.example."),
                ],
                false,
            ),
            "part.example." => (ResponseCode::NoError, vec![cname("part.example.", "end.example.")], false),
            "end.example." => (ResponseCode::NoError, vec![record("end.example.", 20, address())], false),
            "gone.example." => (ResponseCode::NXDomain, vec![cname("gone.example.", "nothing.example.")], true),
            "part-gone.example." => {
                (ResponseCode::NoError, vec![cname("part-gone.example.", "nothing.example.")], false)
            }
            "empty.example." => (ResponseCode::NoError, vec![cname("empty.example.", "t.example.")], true),
            "loop.example." => (ResponseCode::NoError, vec![cname("loop.example.", "loop.example.")], false),
            "ping.example." => (ResponseCode::NoError, vec![cname("ping.example.", "pong.example.")], false),
            "pong.example." => (ResponseCode::NoError, vec![cname("pong.example.", "ping.example.")], false),
            _ => (ResponseCode::NXDomain, vec![], true),
        };
        let mut answer = reply(message, code);
        answer.insert_answers(answers);
        if negative {
            answer.add_authority(soa(90));
        }
        Act::Answer(answer)
    })
    .await;
    let cases = [
        ("whole.example", Ok(30)),
        ("part.example", Ok(20)),
        ("gone.example", Err(Miss::NoData)),
        ("part-gone.example", Err(Miss::NoData)),
        ("empty.example", Err(Miss::NoData)),
        ("loop.example", Err(Miss::Failed(Failure::Malformed))),
        ("ping.example", Err(Miss::Failed(Failure::Malformed))),
        ("nothing.example", Err(Miss::NxDomain)),
    ];
    let (resolver, _) = resolver(settings(&[&server]));
    let lookup = resolver.for_message(None);
    for (name, expected) in cases {
        let answer = lookup.ask(name, RecordType::A).await;
        let got = answer.outcome.map(|_| answer.ttl.as_secs());
        assert_eq!(got, expected, "{name}");
    }
    assert!(server.udp() < 40, "loops end: {}", server.udp());
}

#[tokio::test]
async fn records_of_each_type_are_read() {
    let server = Server::start(|message, _, _| {
        let asked = question(message);
        let owner = asked.name().clone();
        let data = match asked.query_type() {
            WireType::MX => vec![
                RData::MX(MX::new(20, name("B.Example."))),
                RData::MX(MX::new(10, name("a.example."))),
                RData::MX(MX::new(30, Name::root())),
            ],
            WireType::TXT => {
                vec![RData::TXT(TXT::from_bytes(vec![b"one ", b"\xfftwo"])), RData::TXT(TXT::from_bytes(vec![b""]))]
            }
            WireType::PTR => vec![RData::PTR(hickory_resolver::proto::rr::rdata::PTR(name("Mail.Example.")))],
            WireType::AAAA => vec![RData::AAAA("2001:db8::1".parse().unwrap())],
            _ => vec![address()],
        };
        let mut answer = reply(message, ResponseCode::NoError);
        answer.insert_answers(data.into_iter().map(|data| Record::from_rdata(owner.clone(), 60, data)).collect());
        Act::Answer(answer)
    })
    .await;
    let (resolver, _) = resolver(settings(&[&server]));
    let lookup = resolver.for_message(None);
    let cases = [
        (RecordType::A, "A([192.0.2.1])"),
        (RecordType::Aaaa, "Aaaa([2001:db8::1])"),
        (RecordType::Ptr, r#"Ptr(["mail.example"])"#),
        (
            RecordType::Mx,
            r#"Mx([Mx { preference: 10, exchange: "a.example" }, Mx { preference: 20, exchange: "b.example" }, Mx { preference: 30, exchange: "" }])"#,
        ),
    ];
    for (record_type, expected) in cases {
        let records = lookup.ask("x.example", record_type).await.outcome.unwrap();
        assert_eq!(format!("{records:?}"), expected);
    }
    let records = lookup.txt("x.example").await.unwrap();
    assert_eq!(records.as_txt().unwrap().texts().collect::<Vec<_>>(), [b"one \xfftwo".as_slice(), b""]);
}

#[tokio::test]
async fn odd_octets_in_names_reach_the_server() {
    let server = Server::start(|message, _, _| {
        let labels = question(message).name().to_lowercase();
        let first = labels.iter().next().unwrap().to_vec();
        let mut answer = reply(message, ResponseCode::NoError);
        let owner = question(message).name().clone();
        answer.add_answer(Record::from_rdata(owner, 60, RData::TXT(TXT::from_bytes(vec![&first]))));
        Act::Answer(answer)
    })
    .await;
    let (resolver, _) = resolver(settings(&[&server]));
    let lookup = resolver.for_message(None);
    for label in ["joe smith", "o'neill@b\\c", "grün", "a\u{0}b"] {
        let records = lookup.txt(&format!("{label}.example")).await.expect(label);
        assert_eq!(records.as_txt().unwrap().texts().next().unwrap(), label.as_bytes(), "{label}");
    }
}

#[tokio::test]
async fn a_thousand_askers_are_one_query() {
    // The answer is held back until all have asked.
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, registry) = resolver(settings(&[&server]));
    let (ready, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let askers = (0..1000)
        .map(|_| {
            let (resolver, ready, go) = (resolver.clone(), Arc::clone(&ready), Arc::clone(&go));
            tokio::spawn(async move {
                let lookup = resolver.for_message(None);
                let waiting = go.notified();
                ready.fetch_add(1, Ordering::SeqCst);
                waiting.await;
                lookup.ask("a.example", RecordType::A).await
            })
        })
        .collect::<Vec<_>>();
    while ready.load(Ordering::SeqCst) < 1000 {
        tokio::task::yield_now().await;
    }
    go.notify_waiters();
    for asker in askers {
        assert!(asker.await.unwrap().outcome.is_ok());
    }
    assert_eq!(server.udp(), 1);
    let text = registry.render();
    assert!(text.contains("dmarcgate_dns_queries_total{type=\"a\"} 1\n"), "{text}");
    assert!(text.contains("dmarcgate_dns_lookups_total{source=\"server\"} 1\n"), "{text}");
    assert!(text.contains("dmarcgate_dns_lookups_total{source=\"shared\"} 999\n"), "{text}");
    assert!(text.contains("dmarcgate_dns_outstanding 0\n"), "{text}");
}

#[tokio::test]
async fn many_names_at_one_time_all_get_their_answers() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let settings =
        Settings { outstanding: 50, timeout: Duration::from_secs(5), lookups_per_message: 700, ..settings(&[&server]) };
    let (resolver, _) = resolver(settings);
    let lookup = Arc::new(resolver.for_message(None));
    let askers = (0..700)
        .map(|n| {
            let lookup = Arc::clone(&lookup);
            tokio::spawn(async move { lookup.ask(&format!("n{n}.example"), RecordType::A).await })
        })
        .collect::<Vec<_>>();
    for asker in askers {
        let answer = asker.await.unwrap();
        assert!(answer.outcome.is_ok(), "{answer:?}");
    }
    assert_eq!(lookup.evidence().asked.len(), 700);
}

#[tokio::test]
async fn questions_beyond_the_queue_are_turned_away() {
    let silent = Server::start(|_, _, _| Act::Drop).await;
    let settings = Settings { outstanding: 1, timeout: Duration::from_secs(60), ..settings(&[&silent]) };
    let (resolver, _) = resolver(settings);
    for n in 0..QUEUE {
        let lookup = resolver.for_message(client(n));
        tokio::spawn(async move { lookup.ask(&format!("n{n}.example"), RecordType::A).await });
    }
    while under_way(&resolver) < QUEUE {
        tokio::task::yield_now().await;
    }
    let answer = resolver.for_message(None).ask("one-more.example", RecordType::A).await;
    assert_eq!(miss(&answer), Miss::Failed(Failure::Overload));
}

#[tokio::test]
async fn the_policy_does_not_wait_behind_identifiers() {
    let put = Arc::new(Notify::new());
    let told = Arc::clone(&put);
    let silent = Server::start(move |message, _, _| {
        if question(message).name().to_lowercase().to_ascii().starts_with("_dmarc.") {
            told.notify_one();
        }
        Act::Drop
    })
    .await;
    let settings = Settings { outstanding: 1, timeout: Duration::from_millis(800), ..settings(&[&silent]) };
    let (resolver, _) = resolver(settings);
    let lookup = resolver.for_message(None);
    let policy = lookup.unmetered();
    let asked = async {
        tokio::join!(
            lookup.ask("first.example", RecordType::A),
            lookup.ask("waiting.example", RecordType::A),
            policy.ask("_dmarc.example", RecordType::Txt),
        )
    };
    let expire = async {
        put.notified().await;
        tokio::time::sleep(Duration::from_millis(850)).await;
        lookup.expire();
    };
    let ((_, waiting, policy), ()) = tokio::join!(asked, expire);
    assert_eq!(miss(&policy), Miss::Failed(Failure::Timeout), "it was put to the server");
    assert_eq!(miss(&waiting), Miss::Failed(Failure::Deadline), "it was not");
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_is_not_put() {
    let (first, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, _) = resolver(Settings { outstanding: 1, ..settings(&[&server]) });
    let permit = resolver.0.permits.of(Purpose::Identifier).acquire().await.unwrap();
    let (told, may_end) = (Arc::clone(&first), Arc::clone(&go));
    let lookup = resolver.for_message(None);
    let gone = async {
        tokio::select! {
            _ = lookup.ask("left.example", RecordType::A) => panic!("there is no permit"),
            () = may_end.notified() => {}
        }
    };
    let watcher = async {
        while under_way(&resolver) == 0 {
            tokio::task::yield_now().await;
        }
        told.notify_one();
        first.notified().await;
        go.notify_one();
    };
    tokio::join!(gone, watcher);
    drop(permit);
    while under_way(&resolver) > 0 {
        tokio::task::yield_now().await;
    }
    assert!(resolver.for_message(None).ask("stayed.example", RecordType::A).await.outcome.is_ok());
    assert_eq!(server.udp(), 1, "only the second was put");
}

#[tokio::test]
async fn an_asker_who_leaves_cancels_nothing() {
    let (release, held) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    // UDP goes unanswered until the asker has left: the second try of the transport is answered.
    let (left, count) = (Arc::clone(&release), Arc::clone(&held));
    let server = Server::start(move |message, _, _| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            left.notify_one();
            return Act::Drop;
        }
        with_address(message)
    })
    .await;
    let (resolver, _) = resolver(Settings { timeout: Duration::from_millis(300), ..settings(&[&server]) });
    let lookup = resolver.for_message(None);
    tokio::select! {
        _ = lookup.ask("a.example", RecordType::A) => panic!("answered too early"),
        () = release.notified() => {}
    }
    let key: Key = ("a.example".into(), RecordType::A);
    while under_way(&resolver) > 0 {
        tokio::task::yield_now().await;
    }
    assert!(resolver.0.cache.get(&key).await.is_some_and(|answer| answer.outcome.is_ok()));
}

#[tokio::test]
async fn what_was_answered_is_remembered_across_messages() {
    let server = Server::start(|message, _, _| match question(message).name().to_lowercase().to_ascii().as_str() {
        "a.example." => with_address(message),
        "fail.example." => Act::Answer(reply(message, ResponseCode::ServFail)),
        _ => Act::Answer(reply(message, ResponseCode::NXDomain)),
    })
    .await;
    let (resolver, registry) = resolver(settings(&[&server]));
    for name in ["a.example", "fail.example", "gone.example"] {
        let before = server.udp();
        let first = resolver.for_message(None);
        let answer = first.ask(name, RecordType::A).await;
        let again = resolver.for_message(None);
        let cached = again.ask(name, RecordType::A).await;
        assert_eq!(answer.outcome.as_ref().err(), cached.outcome.as_ref().err(), "{name}");
        assert_eq!(server.udp(), before + 1, "{name}");
        assert_eq!((first.evidence().asked[0].cached, again.evidence().asked[0].cached), (false, true), "{name}");
        if let (Ok(one), Ok(two)) = (&answer.outcome, &cached.outcome) {
            assert!(Arc::ptr_eq(one, two), "the parsed value is shared");
        }
    }
    let text = registry.render();
    assert!(text.contains("dmarcgate_dns_lookups_total{source=\"cache\"} 3\n"), "{text}");
    assert!(text.contains("dmarcgate_dns_failures_total{failure=\"servfail\"} 1\n"), "{text}");
    assert!(text.contains("dmarcgate_dns_query_seconds_count{type=\"a\"} 3\n"), "{text}");
}

#[tokio::test]
async fn a_message_has_its_own_budget_and_evidence() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, _) = resolver(Settings { lookups_per_message: 2, ..settings(&[&server]) });
    let lookup = resolver.for_message(None);
    for _ in 0..5 {
        assert!(lookup.ask("A.example.", RecordType::A).await.outcome.is_ok());
    }
    assert_eq!(miss(&lookup.ask("a..example", RecordType::A).await), Miss::NxDomain, "costs nothing");
    assert!(lookup.ask("b.example", RecordType::A).await.outcome.is_ok());
    assert_eq!(miss(&lookup.ask("c.example", RecordType::A).await), Miss::Failed(Failure::Budget));
    assert!(lookup.ask("a.example", RecordType::A).await.outcome.is_ok(), "what is known stays known");
    assert!(lookup.unmetered().ask("a.example", RecordType::A).await.outcome.is_ok(), "the same evidence");
    let evidence = lookup.evidence().asked;
    let names = evidence.iter().map(|asked| (&*asked.name, asked.record_type)).collect::<Vec<_>>();
    assert_eq!(names, ["a.example", "b.example", "c.example"].map(|name| (name, RecordType::A)), "put or not");
    assert_eq!(server.udp(), 2);
    assert!(lookup.unmetered().ask("d.example", RecordType::A).await.outcome.is_ok(), "beyond the budget");
    assert!(resolver.for_message(None).ask("c.example", RecordType::A).await.outcome.is_ok(), "of this message alone");
}

#[tokio::test]
async fn once_expired_a_message_waits_for_nothing() {
    let asked = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&asked);
    let silent = Server::start(move |_, _, _| {
        told.notify_one();
        Act::Drop
    })
    .await;
    let (resolver, _) = resolver(Settings { timeout: Duration::from_secs(60), ..settings(&[&silent]) });
    let lookup = resolver.for_message(None);
    let ask = async {
        let open = lookup.ask("a.example", RecordType::A).await;
        let later = lookup.ask("b.example", RecordType::A).await;
        [miss(&open), miss(&later)]
    };
    let expire = async {
        asked.notified().await;
        lookup.expire();
    };
    let (misses, ()) = tokio::join!(ask, expire);
    // The server had no time to answer the first; to the second we did not come any more.
    assert_eq!(misses, [Miss::Failed(Failure::Deadline); 2]);
    assert_eq!(lookup.evidence().asked.len(), 2);
}

#[tokio::test]
async fn without_servers_there_is_no_resolver() {
    assert!(matches!(
        Transport::new(&[], &Settings::default(), Metrics::new(&Registry::new()).tcp),
        Err(Error::NoServers)
    ));
    // Whatever the machine's configuration is, there is a server to ask.
    assert!(Resolver::new(Settings::default(), Metrics::new(&Registry::new())).is_ok());
}

#[tokio::test]
async fn the_systems_servers_are_read_anew_and_kept_while_the_file_names_none() {
    let directory = tempfile::tempdir().unwrap();
    let system = directory.path().join("resolv.conf");
    std::fs::write(&system, "search foo..bar\nnameserver 192.0.2.1\n").unwrap();
    let (resolver, _) = resolver(Settings { system: system.clone(), ..Settings::default() });
    let asked = || resolver.0.system.as_ref().unwrap().servers.lock().unwrap().clone();
    let servers = |text: &[&str]| text.iter().map(|text| NameServer::parse(text).unwrap()).collect::<Vec<_>>();
    assert_eq!(asked(), servers(&["192.0.2.1"]));
    let former = resolver.0.transport();
    resolver.reread().await;
    assert!(Arc::ptr_eq(&former, &resolver.0.transport()), "nothing has changed");
    std::fs::write(&system, "nameserver 192.0.2.2\nnameserver 2001:db8::53\n").unwrap();
    resolver.reread().await;
    assert_eq!(asked(), servers(&["192.0.2.2", "2001:db8::53"]));
    assert!(!Arc::ptr_eq(&former, &resolver.0.transport()), "the others are asked");
    for present in [true, false] {
        if present {
            std::fs::write(&system, "").unwrap();
        } else {
            std::fs::remove_file(&system).unwrap();
        }
        resolver.reread().await;
        assert_eq!(asked(), servers(&["192.0.2.2", "2001:db8::53"]), "{present}");
    }
}
