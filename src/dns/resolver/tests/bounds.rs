//! What hostile messages can hold of the resolver, and what their load may not do to others.

use std::time::Instant;

use super::*;
use crate::dns::Evidence;
use crate::dns::message_lookup::MAX_UNASKED;

const NAME: &str = "_dmarc.victim.example";

fn name_of(message: &Message) -> String {
    question(message).name().to_lowercase().to_ascii()
}

#[tokio::test]
async fn a_deadline_that_leaves_dns_no_time_is_no_time_out_of_dns() {
    let silent = Server::start(|_, _, _| Act::Drop).await;
    let timeout = Duration::from_millis(600);
    let (resolver, _) = resolver(Settings { timeout, attempts: 50, ..settings(&[&silent]) });
    let (early, late, joined) = (resolver.for_message(None), resolver.for_message(None), resolver.for_message(None));
    let deadlines = async {
        while silent.udp() == 0 {
            tokio::task::yield_now().await;
        }
        early.expire();
        tokio::time::sleep(timeout).await;
        // It has just begun to wait; but the question has been out all the while.
        let joins_late = async {
            tokio::task::yield_now().await;
            joined.expire();
        };
        let policy = joined.unmetered();
        let (joined, ()) = tokio::join!(policy.ask(NAME, RecordType::Txt), joins_late);
        late.expire();
        joined
    };
    let (early_policy, late_policy) = (early.unmetered(), late.unmetered());
    let (early, late, joined) =
        tokio::join!(early_policy.ask(NAME, RecordType::Txt), late_policy.ask(NAME, RecordType::Txt), deadlines,);
    assert_eq!(miss(&early), Miss::Failed(Failure::Deadline), "put a moment ago");
    assert_eq!(miss(&late), Miss::Failed(Failure::Timeout), "put a whole attempt ago");
    assert_eq!(miss(&joined), Miss::Failed(Failure::Timeout), "what counts is how long the question is out");
}

#[tokio::test]
async fn one_network_holds_a_fraction_of_a_lane_and_its_others_wait_outside() {
    let server = Server::start(|message, _, _| match name_of(message).as_str() {
        "_dmarc.victim.example." => with_address(message),
        _ => Act::Drop,
    })
    .await;
    let settings = Settings { outstanding: 16, timeout: Duration::from_secs(60), ..settings(&[&server]) };
    let (resolver, _) = resolver(settings);
    let flood = Arc::new(resolver.for_message(client(1)));
    let askers = (0..40).map(|n| {
        let flood = Arc::clone(&flood);
        tokio::spawn(async move { flood.unmetered().ask(&format!("n{n}.slow.example"), RecordType::A).await })
    });
    let askers = askers.collect::<Vec<_>>();
    while server.udp() < 2 {
        tokio::task::yield_now().await;
    }
    // Another network has its turn at once, and so has whoever asks what is under way or known.
    let other = resolver.for_message(client(2));
    assert!(other.unmetered().ask(NAME, RecordType::A).await.outcome.is_ok());
    assert!(flood.unmetered().ask(NAME, RecordType::A).await.outcome.is_ok());
    assert_eq!((under_way(&resolver), tasks(&resolver)), (2, [0, 2]), "an eighth of sixteen");
    flood.expire();
    for asker in askers {
        assert_eq!(miss(&asker.await.unwrap()), Miss::Failed(Failure::Deadline));
    }
}

#[tokio::test]
async fn places_go_round() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, _) = resolver(Settings { outstanding: 8, ..settings(&[&server]) });
    let lookup = resolver.for_message(client(1));
    let (a, b, c) = tokio::join!(
        lookup.ask("a.example", RecordType::A),
        lookup.ask("b.example", RecordType::A),
        lookup.ask("c.example", RecordType::A),
    );
    assert!([a, b, c].iter().all(|answer| answer.outcome.is_ok()));
}

#[tokio::test]
async fn failures_in_a_crowd_are_ours_and_are_not_remembered() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let server = Server::start(move |message, _, _| match name_of(message).as_str() {
        "_dmarc.victim.example." if count.fetch_add(1, Ordering::SeqCst) < 2 => {
            Act::Answer(reply(message, ResponseCode::Refused))
        }
        "_dmarc.victim.example." => with_address(message),
        _ => Act::Drop,
    })
    .await;
    let settings = Settings { outstanding: 16, timeout: Duration::from_secs(60), ..settings(&[&server]) };
    let (alone, _) = resolver(settings.clone());
    let victim = alone.for_message(None);
    assert_eq!(miss(&victim.unmetered().ask(NAME, RecordType::A).await), Miss::Failed(Failure::Refused));
    // Eight networks with two questions each, on the other lane: the server does not know of lanes.
    let (resolver, registry) = resolver(settings);
    for n in 0..16 {
        let flood = resolver.for_message(client(n / 2));
        tokio::spawn(async move { flood.ask(&format!("n{n}.slow.example"), RecordType::A).await });
    }
    while server.udp() < 17 {
        tokio::task::yield_now().await;
    }
    let victim = resolver.for_message(None);
    assert_eq!(miss(&victim.unmetered().ask(NAME, RecordType::A).await), Miss::Failed(Failure::Overload));
    let text = registry.render();
    assert!(text.contains("dmarcgate_dns_failures_total{failure=\"refused\"} 1\n"), "{text}");
    let next = resolver.for_message(None);
    assert!(next.unmetered().ask(NAME, RecordType::A).await.outcome.is_ok(), "asked anew");
}

#[tokio::test]
async fn a_question_that_all_have_left_ends_soon_and_keeps_its_place_a_little_longer() {
    let silent = Server::start(|_, _, _| Act::Drop).await;
    let settings = Settings { outstanding: 8, timeout: Duration::from_secs(60), ..settings(&[&silent]) };
    let (resolver, registry) = resolver(settings);
    let lookup = resolver.for_message(client(1));
    tokio::select! {
        _ = lookup.ask("a.example", RecordType::A) => panic!("nobody answers"),
        () = async { while silent.udp() == 0 { tokio::task::yield_now().await } } => {}
    }
    let left = Instant::now();
    while tasks(&resolver) != [0, 0] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(left.elapsed() < Duration::from_secs(10), "not when the transport gives up");
    assert_eq!(under_way(&resolver), 0);
    assert!(registry.render().contains("dmarcgate_dns_outstanding 0\n"));
    assert_eq!(resolver.0.permits.of(Purpose::Identifier).available_permits(), 8);
    // The server is still busy with it: who comes and goes does not get around the bound of its network.
    let next = async { lookup.ask("b.example", RecordType::A).await };
    assert!(tokio::time::timeout(Duration::from_millis(50), next).await.is_err());
    assert_eq!(under_way(&resolver), 0);
}

#[tokio::test]
async fn a_question_goes_on_for_one_who_stays_or_comes_in_time() {
    // Nothing is answered but the repetition, which comes after a second.
    let server = Server::start(|message, _, before| if before == 0 { Act::Drop } else { with_address(message) }).await;
    let (resolver, _) = resolver(Settings { timeout: Duration::from_secs(5), ..settings(&[&server]) });
    let (one, two) = (resolver.for_message(None), resolver.for_message(None));
    tokio::select! {
        _ = one.ask("a.example", RecordType::A) => panic!("answered too early"),
        () = async { while server.udp() == 0 { tokio::task::yield_now().await } } => {}
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(two.ask("a.example", RecordType::A).await.outcome.is_ok());
    assert_eq!(server.udp(), 2, "one question and its repetition");
}

#[tokio::test]
async fn what_one_message_holds_of_answers_is_bounded() {
    let text = vec![b'x'; 255];
    let server = Server::start(move |message, via, _| {
        let mut answer = reply(message, ResponseCode::NoError);
        let owner = question(message).name().clone();
        let strings = vec![text.as_slice(); if via == Via::Udp { 1 } else { 200 }];
        answer.add_answer(Record::from_rdata(owner, 60, RData::TXT(TXT::from_bytes(strings))));
        answer.metadata.truncation = via == Via::Udp;
        Act::Answer(answer)
    })
    .await;
    let (resolver, _) = resolver(settings(&[&server]));
    let lookup = resolver.for_message(None);
    let (policy, apart) = (lookup.unmetered(), lookup.apart(100));
    for n in 0..8 {
        // 51 kilobytes each: five fit.
        let answer = lookup.txt(&format!("i{n}.example")).await;
        assert_eq!(answer.err(), (n >= 5).then_some(Miss::Failed(Failure::Budget)), "{n}");
        let answer = apart.txt(&format!("h{n}.example")).await;
        assert_eq!(answer.err(), (n >= 5).then_some(Miss::Failed(Failure::Budget)), "{n} apart");
        assert!(policy.txt(&format!("p{n}.example")).await.is_ok(), "{n}: the policy is always told");
    }
    let evidence = lookup.evidence();
    assert_eq!((evidence.asked.len(), evidence.left_out), (15, 9));
    assert!(policy.txt("i7.example").await.is_ok(), "a refusal for one purpose is none for another");
}

#[tokio::test]
async fn a_question_beyond_the_budget_is_evidence_counts_and_binds_nobody_else() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, registry) = resolver(Settings { lookups_per_message: 1, ..settings(&[&server]) });
    let lookup = resolver.for_message(None);
    let told = |evidence: &Evidence, name: &str| {
        let mut asked = evidence.asked.iter().filter(|asked| &*asked.name == name);
        let outcome = asked.next().map(|asked| asked.answer.outcome.as_ref().err().copied());
        assert!(asked.next().is_none(), "{name} is told once");
        outcome
    };
    let beyond = Some(Miss::Failed(Failure::Budget));
    assert!(lookup.ask("a.example", RecordType::A).await.outcome.is_ok());
    for _ in 0..2 {
        assert_eq!(lookup.ask("b.example", RecordType::A).await.outcome.err(), beyond);
    }
    assert!(lookup.is_exhausted());
    assert_eq!(told(&lookup.evidence(), "b.example"), Some(beyond), "though it was not put");
    // Whoever has a budget of its own asks all the same, and what is known then is known to all.
    assert!(lookup.unmetered().ask("b.example", RecordType::A).await.outcome.is_ok());
    assert_eq!(told(&lookup.evidence(), "b.example"), Some(None));
    assert!(lookup.ask("b.example", RecordType::A).await.outcome.is_ok());
    let text = registry.render();
    assert!(text.contains("dmarcgate_dns_failures_total{failure=\"budget\"} 2\n"), "{text}");
    for n in 0..MAX_UNASKED + 3 {
        lookup.ask(&format!("n{n}.example"), RecordType::A).await;
    }
    let evidence = lookup.evidence();
    assert_eq!((evidence.asked.len(), evidence.left_out), (2 + MAX_UNASKED, 3), "their number is bounded");
}
