//! Comparisons in real databases: added up, read back in sums, and deleted.

use std::time::Duration;

use super::*;
use crate::metrics::Registry;
use crate::store::testing::{Home, on_both};
use crate::store::{Reader, Retention, Settings, Store, database};

on_both![
    messages_add_up_by_how_they_came_out,
    of_what_differs_the_most_frequent_names_are_told,
    what_is_old_or_too_much_is_deleted,
];

/// A day of the tests.
const DAY: i64 = 20_454;

fn message(active: Treatment, shadow: Option<Treatment>, reply: Option<UpstreamReply>) -> Comparison {
    let origin = shadow.is_some_and(|shadow| shadow != active).then(|| origin("a.example", "d=f.example", ""));
    Comparison { arrived: DAY * SECONDS_PER_DAY + 7, opinion: Opinion::Fail, active, reply, shadow, origin }
}

fn origin(author_domain: &str, source: &str, list_id: &str) -> Origin {
    Origin { author_domain: author_domain.into(), source: source.into(), list_id: list_id.into() }
}

/// Has a gate write these, and stops it.
async fn written(home: &Home, comparisons: Vec<Comparison>) {
    // What the tests write is of a day of its own.
    let retention = Retention { comparisons: Duration::from_secs(u64::MAX / 4), ..Retention::default() };
    let settings = Settings { retention, ..Settings::new(home.location.clone()) };
    let store = Store::open(settings, &Registry::new()).await.unwrap();
    comparisons.into_iter().for_each(|comparison| store.appender().compare(comparison));
    store.close(Duration::from_secs(10)).await;
}

async fn read(home: &Home, days: (i64, i64), most: i64) -> Comparisons {
    let seconds = |day: i64| day * SECONDS_PER_DAY;
    Reader::new(home.location.clone()).comparisons(seconds(days.0), seconds(days.1), most).await.unwrap()
}

async fn messages_add_up_by_how_they_came_out(home: Home) {
    use Treatment::{PassedOn, Refused};
    use UpstreamReply::Accepted;
    let same = || message(PassedOn, Some(PassedOn), Some(Accepted));
    let other_day = Comparison { arrived: (DAY + 1) * SECONDS_PER_DAY, ..same() };
    let other_opinion = Comparison { opinion: Opinion::Pass, ..same() };
    let without = message(PassedOn, None, Some(Accepted));
    let not_asked = message(Refused, Some(Refused), None);
    written(&home, vec![same(), same(), other_day, other_opinion, without, not_asked]).await;
    // Another gate, or the same one later.
    written(&home, vec![same(), message(PassedOn, Some(Refused), Some(Accepted))]).await;

    let total = |opinion, active, shadow, reply, messages| Total { opinion, active, shadow, reply, messages };
    let all = read(&home, (DAY, DAY + 1), 10).await.totals;
    let expected = [
        total(Opinion::Fail, PassedOn, None, Some(Accepted), 1),
        total(Opinion::Fail, PassedOn, Some(PassedOn), Some(Accepted), 4),
        total(Opinion::Fail, PassedOn, Some(Refused), Some(Accepted), 1),
        total(Opinion::Fail, Refused, Some(Refused), None, 1),
        total(Opinion::Pass, PassedOn, Some(PassedOn), Some(Accepted), 1),
    ];
    assert_eq!(all, expected);
    let second_day = read(&home, (DAY + 1, DAY + 1), 10).await.totals;
    assert_eq!(second_day, [total(Opinion::Fail, PassedOn, Some(PassedOn), Some(Accepted), 1)]);
    assert_eq!(home.number("SELECT COUNT(*) FROM comparisons").await, 6);
}

async fn of_what_differs_the_most_frequent_names_are_told(home: Home) {
    use Treatment::{PassedOn, Refused};
    use UpstreamReply::{Accepted, Deferred, Refused as RefusedUpstream};
    let differs = |reply, author: &str, source: &str, list: &str| Comparison {
        origin: Some(origin(author, source, list)),
        ..message(PassedOn, Some(Refused), Some(reply))
    };
    let mut all = vec![
        differs(Accepted, "a.example", "d=f.example", "l.f.example"),
        differs(RefusedUpstream, "a.example", "d=f.example", "l.f.example"),
        differs(Accepted, "a.example", "192.0.2.0/24", ""),
        differs(Accepted, "b.example", "192.0.2.0/24", ""),
        differs(Deferred, "c.example", "spf=c.example", "c.example"),
        // What fares alike names nobody.
        message(PassedOn, Some(PassedOn), Some(Accepted)),
    ];
    all.extend((0..5).map(|n| differs(Accepted, &format!("z{n}.example"), "spf=z.example", "")));
    written(&home, all).await;

    let among = |name: &str, messages, accepted, refused| Among { name: name.into(), messages, accepted, refused };
    let found = read(&home, (DAY, DAY), 3).await;
    let domains = [among("a.example", 3, 2, 1), among("b.example", 1, 1, 0), among("z0.example", 1, 1, 0)];
    assert_eq!(found.author_domains, domains);
    let sources = [among("spf=z.example", 5, 5, 0), among("192.0.2.0/24", 2, 2, 0), among("d=f.example", 2, 1, 1)];
    assert_eq!(found.sources, sources);
    assert_eq!(found.lists, [among("l.f.example", 2, 1, 1)]);
}

async fn what_is_old_or_too_much_is_deleted(home: Home) {
    let on = |day: i64| Comparison {
        arrived: day * SECONDS_PER_DAY,
        ..message(Treatment::PassedOn, None, Some(UpstreamReply::Accepted))
    };
    written(&home, (0..10).map(|n| on(DAY + n)).collect()).await;
    let mut connection = database::open(&home.location).await.unwrap();
    prune(&mut connection, DAY + 2, 100).await.unwrap();
    assert_eq!(home.number("SELECT MIN(day) FROM comparisons").await, DAY + 2);
    prune(&mut connection, 0, 5).await.unwrap();
    assert_eq!(home.number("SELECT MIN(day) FROM comparisons").await, DAY + 5);
    assert_eq!(home.number("SELECT COUNT(*) FROM comparisons").await, 5);
}
