//! One question in flight for a name and type, over both lanes.

use super::*;

/// A server that answers once it is let, and tells of each question.
struct Held {
    server: Server,
    came: Arc<Notify>,
}

impl Held {
    /// The first answer is lost: the transport asks again after its time-out, so that what is asked stays under way.
    async fn start() -> Self {
        let came = Arc::new(Notify::new());
        let told = Arc::clone(&came);
        let server = Server::start(move |message, _, before| {
            told.notify_one();
            if before == 0 { Act::Drop } else { with_address(message) }
        })
        .await;
        Self { server, came }
    }
}

const NAME: &str = "_dmarc.example";

#[tokio::test]
async fn a_question_that_is_with_a_server_is_shared_by_both_purposes() {
    for (case, first_is_policy) in [("the identifier first", false), ("the policy first", true)] {
        let held = Held::start().await;
        let (resolver, registry) = resolver(settings(&[&held.server]));
        let (one, two) = (resolver.for_message(None), resolver.for_message(None));
        let (one_policy, two_policy) = (one.unmetered(), two.unmetered());
        let first = async {
            if first_is_policy { one_policy.ask(NAME, RecordType::A).await } else { one.ask(NAME, RecordType::A).await }
        };
        let second = async {
            held.came.notified().await;
            if first_is_policy { two.ask(NAME, RecordType::A).await } else { two_policy.ask(NAME, RecordType::A).await }
        };
        let (first, second) = tokio::join!(first, second);
        assert!(first.outcome.is_ok() && second.outcome.is_ok(), "{case}");
        let text = registry.render();
        assert!(text.contains("dmarcgate_dns_queries_total{type=\"a\"} 1\n"), "{case}: {text}");
        assert!(text.contains("dmarcgate_dns_lookups_total{source=\"shared\"} 1\n"), "{case}: {text}");
        assert_eq!(held.server.udp(), 2, "{case}: the lost one and its repetition");
    }
}

#[tokio::test]
async fn the_policy_overtakes_an_identifier_that_only_waits_and_answers_it() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, registry) = resolver(Settings { outstanding: 1, ..settings(&[&server]) });
    let busy = resolver.0.permits.of(Purpose::Identifier).acquire().await.unwrap();
    let (one, two) = (resolver.for_message(None), resolver.for_message(None));
    let policy = two.unmetered();
    let asked = async {
        while under_way(&resolver) == 0 {
            tokio::task::yield_now().await;
        }
        policy.ask(NAME, RecordType::A).await
    };
    // The identifier lane has no permit to give all the while.
    let (identifier, policy) = tokio::join!(one.ask(NAME, RecordType::A), asked);
    assert!(identifier.outcome.is_ok() && policy.outcome.is_ok());
    assert_eq!(tasks(&resolver), [1, 0], "the identifier's task still waits for its turn");
    drop(busy);
    while tasks(&resolver) != [0, 0] {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.udp(), 1, "at its turn it has nothing left to ask");
    assert!(registry.render().contains("dmarcgate_dns_outstanding 0\n"));
}

#[tokio::test]
async fn an_identifier_waits_for_the_policys_question_even_if_that_is_queued() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, _) = resolver(Settings { outstanding: 1, ..settings(&[&server]) });
    let busy = resolver.0.permits.of(Purpose::Policy).acquire().await.unwrap();
    let (one, two) = (resolver.for_message(None), resolver.for_message(None));
    let policy = one.unmetered();
    let asked = async {
        while under_way(&resolver) == 0 {
            tokio::task::yield_now().await;
        }
        let asked = two.ask(NAME, RecordType::A);
        let let_go = async {
            tokio::task::yield_now().await;
            drop(busy);
        };
        tokio::join!(asked, let_go).0
    };
    let (policy, identifier) = tokio::join!(policy.ask(NAME, RecordType::A), asked);
    assert!(policy.outcome.is_ok() && identifier.outcome.is_ok());
    assert_eq!(server.udp(), 1);
}

#[tokio::test]
async fn what_both_lanes_wait_for_and_nobody_wants_any_more_is_not_put() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, registry) = resolver(Settings { outstanding: 1, ..settings(&[&server]) });
    let identifiers = resolver.0.permits.of(Purpose::Identifier).acquire().await.unwrap();
    let policies = resolver.0.permits.of(Purpose::Policy).acquire().await.unwrap();
    let lookup = resolver.for_message(None);
    let other = resolver.for_message(None);
    let policy = other.unmetered();
    tokio::select! {
        biased;
        _ = lookup.ask(NAME, RecordType::A) => panic!("there is no permit"),
        _ = policy.ask(NAME, RecordType::A) => panic!("there is no permit"),
        () = async { while tasks(&resolver) != [1, 1] { tokio::task::yield_now().await } } => {}
    }
    drop(policies);
    while tasks(&resolver) != [1, 0] {
        tokio::task::yield_now().await;
    }
    assert_eq!((under_way(&resolver), server.udp()), (0, 0), "it is off the list");
    // A new question of that name is not confused with the one that is gone.
    assert!(policy.ask(NAME, RecordType::A).await.outcome.is_ok());
    drop(identifiers);
    while tasks(&resolver) != [0, 0] {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.udp(), 1);
    assert!(registry.render().contains("dmarcgate_dns_outstanding 0\n"));
}

#[tokio::test]
async fn a_flood_of_identifiers_leaves_the_policy_lane_free() {
    let silent = Server::start(|message, _, _| match question(message).name().to_lowercase().to_ascii().as_str() {
        "_dmarc.example." => with_address(message),
        _ => Act::Drop,
    })
    .await;
    let settings = Settings { outstanding: 1, timeout: Duration::from_secs(60), ..settings(&[&silent]) };
    let (resolver, _) = resolver(settings);
    // The lane and its queue are full, the policy's name among those that wait.
    for n in 0..QUEUE {
        let (flood, name) =
            (resolver.for_message(client(n)), if n == QUEUE - 1 { NAME.into() } else { format!("n{n}.example") });
        tokio::spawn(async move { flood.ask(&name, RecordType::A).await });
        while under_way(&resolver) <= n {
            tokio::task::yield_now().await;
        }
    }
    let victim = resolver.for_message(None);
    assert!(victim.unmetered().ask(NAME, RecordType::A).await.outcome.is_ok());
    assert!(
        resolver.for_message(client(1)).ask(NAME, RecordType::A).await.outcome.is_ok(),
        "known to the flood as well"
    );
}

#[tokio::test]
async fn a_thousand_askers_of_both_purposes_are_one_query() {
    let server = Server::start(|message, _, _| with_address(message)).await;
    let (resolver, registry) = resolver(settings(&[&server]));
    let askers = (0..1000)
        .map(|n| {
            let lookup = resolver.for_message(None);
            tokio::spawn(async move {
                if n % 2 == 0 {
                    lookup.ask(NAME, RecordType::A).await
                } else {
                    lookup.unmetered().ask(NAME, RecordType::A).await
                }
            })
        })
        .collect::<Vec<_>>();
    for asker in askers {
        assert!(asker.await.unwrap().outcome.is_ok());
    }
    assert_eq!(server.udp(), 1);
    assert!(registry.render().contains("dmarcgate_dns_queries_total{type=\"a\"} 1\n"));
}

#[tokio::test]
async fn at_the_moment_of_expiry_a_thousand_askers_are_one_query() {
    let server = Server::start(|message, _, before| {
        // So short that the bounds decide: below a millisecond nothing is kept.
        let mut answer = reply(message, ResponseCode::NoError);
        answer.add_answer(Record::from_rdata(question(message).name().clone(), u32::from(before > 0) * 300, address()));
        Act::Answer(answer)
    })
    .await;
    let (resolver, _) = resolver(Settings { min_ttl: Duration::from_millis(1), ..settings(&[&server]) });
    assert!(resolver.for_message(None).ask(NAME, RecordType::A).await.outcome.is_ok());
    let key: Key = (NAME.into(), RecordType::A);
    while resolver.0.cache.get(&key).await.is_some() {
        tokio::task::yield_now().await;
    }
    let askers = (0..1000).map(|_| {
        let lookup = resolver.for_message(None);
        tokio::spawn(async move { lookup.ask(NAME, RecordType::A).await })
    });
    for asker in askers.collect::<Vec<_>>() {
        assert!(asker.await.unwrap().outcome.is_ok());
    }
    assert_eq!(server.udp(), 2, "the first, and one after its end");
}
