//! Name servers, and others in their name, that lose, delay, cut and lie.

use std::sync::atomic::AtomicBool;

use hickory_resolver::proto::rr::rdata::NULL;

use super::*;
use crate::dns::Records;

/// The address that only a forger gives.
const FORGED: [u8; 4] = [203, 0, 113, 66];

fn forged(message: &Message) -> Message {
    let mut answer = reply(message, ResponseCode::NoError);
    let owner = question(message).name().clone();
    answer.add_answer(Record::from_rdata(owner, 60, RData::A(A::from(std::net::Ipv4Addr::from(FORGED)))));
    answer
}

fn truth(message: &Message) -> Message {
    match with_address(message) {
        Act::Answer(answer) => answer,
        _ => unreachable!("it answers"),
    }
}

fn is_true(answer: &Answer) -> bool {
    matches!(answer.outcome.as_deref(), Ok(Records::A(addresses)) if addresses[..] == [std::net::Ipv4Addr::new(192, 0, 2, 1)])
}

/// The other name of a question, in place of its own, in the question and in the records.
fn about_another_name(mut answer: Message) -> Message {
    let other = name("other.example.");
    answer.queries[0].name = other.clone();
    for record in &mut answer.answers {
        record.name = other.clone();
    }
    answer
}

#[tokio::test]
async fn forged_datagrams_are_never_believed() {
    type Forge = fn(&Message) -> Vec<u8>;
    let cases: [(&str, Forge, bool); 5] = [
        (
            "another identifier",
            |m| {
                let mut answer = forged(m);
                answer.metadata.id = m.metadata.id.wrapping_add(1);
                answer.to_vec().unwrap()
            },
            false,
        ),
        ("another port", |m| forged(m).to_vec().unwrap(), true),
        ("another question", |m| about_another_name(forged(m)).to_vec().unwrap(), false),
        (
            "another spelling",
            |m| {
                let mut answer = forged(m);
                answer.queries[0].name = question(m).name().to_lowercase();
                answer.to_vec().unwrap()
            },
            false,
        ),
        ("a question, no answer", |m| m.to_vec().unwrap(), false),
    ];
    for (case, forge, from_elsewhere) in cases {
        let (udp, tcp) = bind().await;
        let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        tokio::spawn(async move {
            let script: Arc<Script> = Arc::new(|m: &Message, _: Via, _: usize| Act::Answer(truth(m)));
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                tokio::spawn(serve_tcp(stream, Arc::clone(&script), Arc::default()));
            }
        });
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                let message = Message::from_vec(&buffer[..length]).unwrap();
                let liar = if from_elsewhere { &elsewhere } else { &udp };
                liar.send_to(&forge(&message), client).await.unwrap();
                udp.send_to(&truth(&message).to_vec().unwrap(), client).await.unwrap();
            }
        });
        let settings =
            Settings { servers: vec![address.into()], timeout: Duration::from_millis(500), ..Settings::default() };
        let answer = ask(settings, "abcdefghijklmnopqrstuvwxyz.example", RecordType::A).await;
        assert!(is_true(&answer), "{case}: {answer:?}");
    }
}

#[tokio::test]
async fn an_answer_to_another_question_over_a_stream_is_none() {
    type Edit = fn(Message) -> Message;
    let cases: [(&str, Edit); 3] = [
        ("another name", about_another_name),
        ("another name, NXDOMAIN", |mut answer| {
            answer.answers.clear();
            answer.metadata.response_code = ResponseCode::NXDomain;
            about_another_name(answer)
        }),
        ("no question at all", |mut answer| {
            answer.queries.clear();
            answer
        }),
    ];
    for (case, edit) in cases {
        let server = Server::start(move |message, via, _| {
            let mut answer = truth(message);
            answer.metadata.truncation = via == Via::Udp;
            Act::Answer(if via == Via::Udp { answer } else { edit(answer) })
        })
        .await;
        let answer = ask(settings(&[&server]), "a.example", RecordType::A).await;
        assert_eq!(miss(&answer), Miss::Failed(Failure::Malformed), "{case}");
    }
}

#[tokio::test]
async fn lost_questions_are_asked_again_and_late_answers_do_no_harm() {
    for (case, lost) in [("one lost", 1), ("two lost", 2)] {
        let server = Server::start(move |m, _, before| if before < lost { Act::Drop } else { with_address(m) }).await;
        let answer = ask(settings(&[&server]), "a.example", RecordType::A).await;
        assert!(is_true(&answer), "{case}");
        assert_eq!(server.udp(), lost + 1, "{case}");
    }
    // The answer to the first comes when the second is here, and says something else.
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut first: Option<(Message, SocketAddr)> = None;
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let message = Message::from_vec(&buffer[..length]).unwrap();
            match &first {
                None => first = Some((message, client)),
                Some((late, to)) => {
                    udp.send_to(&forged(late).to_vec().unwrap(), *to).await.unwrap();
                    udp.send_to(&truth(&message).to_vec().unwrap(), client).await.unwrap();
                }
            }
        }
    });
    let settings =
        Settings { servers: vec![address.into()], timeout: Duration::from_millis(300), ..Settings::default() };
    let answer = ask(settings, "a.example", RecordType::A).await;
    assert!(is_true(&answer), "{answer:?}");
}

#[tokio::test]
async fn what_is_cut_off_and_has_no_good_tcp_is_a_failure() {
    type Tcp = fn(&Message) -> Act;
    let cases: [(&str, Tcp, &[Failure]); 5] = [
        ("TCP is silent", |_| Act::Drop, &[Failure::Timeout]),
        ("TCP sends half", |m| Act::Half(truth(m)), &[Failure::Network, Failure::Timeout]),
        (
            "TCP sends garbage",
            |_| Act::Octets(b"\x81\x80\0\x01".to_vec()),
            &[Failure::Malformed, Failure::Network, Failure::Timeout],
        ),
        (
            "TCP is cut off, too",
            |m| {
                let mut answer = truth(m);
                answer.metadata.truncation = true;
                Act::Answer(answer)
            },
            &[Failure::Malformed],
        ),
        ("TCP says SERVFAIL", |m| Act::Answer(reply(m, ResponseCode::ServFail)), &[Failure::ServFail]),
    ];
    for (case, tcp, expected) in cases {
        let server = Server::start(move |message, via, _| match via {
            Via::Udp => {
                let mut answer = truth(message);
                answer.metadata.truncation = true;
                Act::Answer(answer)
            }
            Via::Tcp => tcp(message),
        })
        .await;
        let (resolver, registry) = resolver(Settings { attempts: 1, ..settings(&[&server]) });
        let answer = resolver.for_message(None).ask("a.example", RecordType::A).await;
        let Miss::Failed(failure) = miss(&answer) else { panic!("{case}: {answer:?}") };
        assert!(expected.contains(&failure), "{case}: {failure}");
        assert!(registry.render().contains("dmarcgate_dns_tcp_total{reason=\"truncated\"} 1\n"), "{case}");
    }
    // Nothing listens on the port by TCP.
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let mut answer = truth(&Message::from_vec(&buffer[..length]).unwrap());
            answer.metadata.truncation = true;
            udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let settings =
        Settings { servers: vec![address.into()], timeout: Duration::from_millis(300), ..Settings::default() };
    assert_eq!(miss(&ask(settings, "a.example", RecordType::A).await), Miss::Failed(Failure::Network));
}

#[tokio::test]
async fn the_reasons_for_tcp_are_counted_apart() {
    let server = Server::start(|message, via, _| {
        let mut message = message.clone();
        let name = question(&message).name().to_lowercase().to_ascii();
        match (name.as_str(), via) {
            ("cut.example.", Via::Udp) => {
                let mut answer = truth(&message);
                answer.metadata.truncation = true;
                Act::Answer(answer)
            }
            ("a-name-that-is-spelled-in-many-ways.example.", Via::Udp) => {
                message.queries[0].name = message.queries[0].name.to_lowercase();
                with_address(&message)
            }
            ("garbage.example.", Via::Udp) => Act::Octets(b"\x81\x80\0\x01\0\x01\0\0\0\0\xc0\xff".to_vec()),
            _ => with_address(&message),
        }
    })
    .await;
    let (resolver, registry) = resolver(settings(&[&server]));
    for name in ["cut.example", "a-name-that-is-spelled-in-many-ways.example", "garbage.example", "fine.example"] {
        assert!(resolver.for_message(None).ask(name, RecordType::A).await.outcome.is_ok(), "{name}");
    }
    let text = registry.render();
    for reason in ["truncated", "spelling", "unreadable"] {
        assert!(text.contains(&format!("dmarcgate_dns_tcp_total{{reason=\"{reason}\"}} 1\n")), "{reason}: {text}");
    }
}

#[tokio::test]
async fn texts_of_any_size_come_whole() {
    // Beyond what UDP carries for us, beyond what any UDP carries for others, nearly as much as DNS can carry.
    for size in [0, 1, 254, 255, 256, 1233, 4097, 60_000] {
        let text: Vec<u8> = (0..size).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
        let sent = text.clone();
        let server = Server::start(move |message, via, _| {
            let mut answer = reply(message, ResponseCode::NoError);
            let strings = if sent.is_empty() { vec![&b""[..]] } else { sent.chunks(255).collect() };
            let owner = question(message).name().clone();
            answer.add_answer(Record::from_rdata(owner, 60, RData::TXT(TXT::from_bytes(strings))));
            if via == Via::Udp && answer.to_vec().unwrap().len() > 1232 {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
            Act::Answer(answer)
        })
        .await;
        let (resolver, _) = resolver(settings(&[&server]));
        let records = resolver.for_message(None).txt("a.example").await.unwrap();
        assert_eq!(records.as_txt().unwrap().texts().collect::<Vec<_>>(), [&text[..]], "{size}");
        assert_eq!(server.tcp(), usize::from(size > 1200), "{size}");
    }
}

#[tokio::test]
async fn a_name_with_an_alias_and_records_of_its_own_has_the_records() {
    let server = Server::start(|message, _, _| {
        let mut answer = reply(message, ResponseCode::NoError);
        let owner = question(message).name().clone();
        answer.add_answer(Record::from_rdata(owner.clone(), 60, RData::CNAME(CNAME(name("t.example.")))));
        answer.add_answer(Record::from_rdata(owner, 60, address()));
        answer.add_answer(record("t.example.", 60, RData::A(A::from(std::net::Ipv4Addr::from(FORGED)))));
        Act::Answer(answer)
    })
    .await;
    assert!(is_true(&ask(settings(&[&server]), "a.example", RecordType::A).await));
}

#[tokio::test]
async fn records_of_other_owners_and_types_are_not_taken() {
    let server = Server::start(|message, _, _| {
        let mut answer = reply(message, ResponseCode::NoError);
        let owner = question(message).name().clone();
        let evil = || RData::A(A::from(std::net::Ipv4Addr::from(FORGED)));
        answer.add_answer(record("a.example.com.", 60, evil()));
        answer.add_answer(record("b.a.example.", 60, evil()));
        answer.add_answer(record("example.", 60, evil()));
        answer.add_answer(Record::from_rdata(owner.clone(), 60, RData::NULL(NULL::with(vec![0; 10]))));
        answer.add_answer(Record::from_rdata(owner.clone(), 60, RData::TXT(TXT::from_bytes(vec![b"192.0.2.9"]))));
        answer.add_answer(Record::from_rdata(owner, 60, address()));
        answer.add_additional(Record::from_rdata(question(message).name().clone(), 60, evil()));
        answer.add_authority(Record::from_rdata(question(message).name().clone(), 60, evil()));
        Act::Answer(answer)
    })
    .await;
    assert!(is_true(&ask(settings(&[&server]), "a.example", RecordType::A).await));
}

#[tokio::test]
async fn long_chains_end_at_their_record_and_endless_ones_at_a_bound() {
    let cname =
        |n: usize| record(&format!("n{n}.example."), 60, RData::CNAME(CNAME(name(&format!("n{}.example.", n + 1)))));
    let server = Server::start(move |message, _, _| {
        let mut answer = reply(message, ResponseCode::NoError);
        let asked = question(message).name().to_lowercase().to_ascii();
        let n: Option<usize> = asked.strip_prefix('n').and_then(|n| n.strip_suffix(".example.")?.parse().ok());
        match n {
            // All of the chain in one answer, out of order, and its end out of the bailiwick of the beginning.
            Some(0) => {
                (0..20).rev().for_each(|n| _ = answer.add_answer(cname(n)));
                answer.add_answer(record("n20.example.", 60, RData::CNAME(CNAME(name("end.elsewhere.test.")))));
                answer.add_answer(record("end.elsewhere.test.", 60, address()));
            }
            Some(n @ 1..100) => {
                (n..20).for_each(|n| _ = answer.add_answer(cname(n)));
                answer.add_answer(record("n20.example.", 60, RData::CNAME(CNAME(name("end.elsewhere.test.")))));
                answer.add_answer(record("end.elsewhere.test.", 60, address()));
            }
            // One link at a time, without an end.
            Some(n) => _ = answer.add_answer(cname(n)),
            None => {}
        }
        Act::Answer(answer)
    })
    .await;
    assert!(is_true(&ask(settings(&[&server]), "n0.example", RecordType::A).await));
    assert!(server.udp() <= 2, "{}", server.udp());
    let before = server.udp();
    let answer = ask(settings(&[&server]), "n1000.example", RecordType::A).await;
    assert_eq!(miss(&answer), Miss::Failed(Failure::Malformed));
    assert!(server.udp() - before <= 8, "{}", server.udp() - before);
}

#[tokio::test]
async fn a_server_that_will_not_is_passed_over() {
    use ResponseCode as Code;
    for code in [Code::Refused, Code::ServFail, Code::NotImp, Code::NotAuth, Code::FormErr, Code::Unknown(15)] {
        let bad = Server::start(move |message, _, _| Act::Answer(reply(message, code))).await;
        let good = Server::start(|message, _, _| with_address(message)).await;
        let answer = ask(settings(&[&bad, &good]), "a.example", RecordType::A).await;
        assert!(is_true(&answer), "{code}: {answer:?}");
    }
}

#[tokio::test]
async fn answers_hold_as_long_as_they_say_within_bounds() {
    let seconds = |ttl: u32| {
        move |m: &Message| {
            let mut answer = reply(m, ResponseCode::NoError);
            answer.add_answer(Record::from_rdata(question(m).name().clone(), ttl, address()));
            answer
        }
    };
    let negative = |code: ResponseCode, ttl: u32, minimum: u32| {
        move |m: &Message| {
            let mut answer = reply(m, code);
            let soa = SOA::new(name("ns.example."), name("h.example."), 1, 2, 3, 4, minimum);
            answer.add_authority(record("example.", ttl, RData::SOA(soa)));
            answer
        }
    };
    type Make = Box<dyn Fn(&Message) -> Message + Send + Sync>;
    let cases: Vec<(&str, Make, u64)> = vec![
        ("none: the lower bound", Box::new(seconds(0)), 5),
        ("a minute", Box::new(seconds(60)), 60),
        ("a year: the upper bound", Box::new(seconds(31_536_000)), 3600),
        ("the greatest: the upper bound", Box::new(seconds(0x7fff_ffff)), 3600),
        // RFC 2181 §8: as if it were zero.
        ("more than there is", Box::new(seconds(0x8000_0000)), 5),
        ("all bits", Box::new(seconds(u32::MAX)), 5),
        // RFC 2308 §5: the lesser of the two.
        ("NXDOMAIN by the SOA's own", Box::new(negative(ResponseCode::NXDomain, 30, 200)), 30),
        ("NXDOMAIN by its minimum", Box::new(negative(ResponseCode::NXDomain, 200, 30)), 30),
        ("NODATA by its minimum", Box::new(negative(ResponseCode::NoError, 200, 30)), 30),
        ("NODATA for days", Box::new(negative(ResponseCode::NoError, 604_800, 604_800)), 300),
        ("NXDOMAIN with all bits", Box::new(negative(ResponseCode::NXDomain, u32::MAX, u32::MAX)), 5),
    ];
    for (case, make, expected) in cases {
        let server = Server::start(move |message, _, _| Act::Answer(make(message))).await;
        let answer = ask(settings(&[&server]), "a.example", RecordType::A).await;
        assert_eq!(answer.ttl.as_secs(), expected, "{case}");
    }
}

#[tokio::test]
async fn a_message_waits_for_its_deadline_and_no_longer_whatever_servers_do() {
    let put = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&put);
    let server = Server::start(move |message, via, _| {
        seen.store(true, Ordering::SeqCst);
        let mut answer = truth(message);
        answer.metadata.truncation = via == Via::Udp;
        if via == Via::Udp { Act::Answer(answer) } else { Act::Drop }
    })
    .await;
    let (resolver, _) = resolver(Settings { timeout: Duration::from_secs(60), ..settings(&[&server]) });
    let lookup = resolver.for_message(None);
    let expire = async {
        while server.tcp() == 0 {
            tokio::task::yield_now().await;
        }
        lookup.expire();
    };
    let (answer, ()) = tokio::join!(lookup.ask("a.example", RecordType::A), expire);
    assert_eq!(miss(&answer), Miss::Failed(Failure::Deadline), "not a whole attempt has passed");
    assert!(put.load(Ordering::SeqCst));
}
