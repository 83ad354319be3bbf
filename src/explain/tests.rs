//! What is kept can be read back, and is bounded whatever DNS said.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::dns::{Answer, Failure, RecordType, Records, TxtRecords};
use crate::evaluation::{Evaluation, sample};
use crate::label::Label;
use crate::message::author::{Author, UnusableFrom};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::MailParameters;
use crate::spf::{Identity, SpfOutput, SpfResult};
use crate::store::{Location, Settings, Store};

fn case(verdict: Option<Verdict>) -> Case {
    let (reverse_path, _) = ReversePath::parse(b"<a@b.example>").unwrap();
    let mut envelope = Envelope::new(reverse_path, MailParameters::default());
    let recipient = |n: usize| ForwardPath::parse(format!("<r{n}@c.example>").as_bytes()).unwrap().0;
    envelope.recipients = (0..150).map(recipient).collect();
    let section = HeaderSection::parse(b"From: x\r\nMessage-ID: <m@\x1b>\r\n\r\n".to_vec());
    Case {
        id: "7ZK0Q4M1XW9TA".into(),
        session: "S".into(),
        gate: "mx.example".into(),
        listener: "192.0.2.9:25".parse().unwrap(),
        policy_table: "policy",
        arrived: 1_795_361_999,
        ip: "192.0.2.1".parse().unwrap(),
        hello: "mail.example".into(),
        letter: Letter::new(&envelope, Some(&section)),
        octets: Some(1000),
        verdict,
        rules: Arc::default(),
        received: String::new(),
        removed: 0,
        outcome: "refused",
        answered_by: "gate",
        reply: Reply::new(550, "5.7.1", "no"),
    }
}

fn verdict(evidence: Vec<Asked>) -> Verdict {
    let evaluation = Evaluation {
        author: Author::Unusable(UnusableFrom::Missing),
        spf: SpfOutput {
            records: vec![("b.example".into(), "v=spf1 ".repeat(10_000).into())],
            ..sample::spf(SpfResult::None, Identity::MailFrom, "")
        },
        evidence: crate::dns::Evidence { asked: evidence, left_out: 7 },
        elapsed: Duration::from_millis(3),
        ..sample::evaluation(Vec::new())
    };
    let settings = crate::config::Config::built_in().verdict();
    let (reverse_path, _) = ReversePath::parse(b"<a@b.example>").unwrap();
    let envelope = Envelope::new(reverse_path, MailParameters::default());
    crate::verdict::conclude(evaluation, &envelope, &settings.circumstances(&envelope, 0), &settings, "ID")
}

fn asked(n: usize, text: &[u8]) -> Asked {
    let records = Records::Txt(TxtRecords::new(vec![text.into()]));
    let answer = Answer { outcome: Ok(Arc::new(records)), ttl: Duration::from_secs(300) };
    Asked {
        name: format!("n{n}.example").into(),
        record_type: RecordType::Txt,
        answer,
        waited: Duration::from_millis(2),
        cached: false,
    }
}

#[test]
fn what_is_kept_is_what_is_told_later() {
    // One for all, as the gate has it: what was before must leave no trace.
    let mut deflater = Deflater::default();
    for case in [case(None), case(Some(verdict(vec![asked(1, b"v=DMARC1"), asked(2, b"\xff")])))] {
        let explanation = Explanation::new(&case);
        let body = explanation.encode(&Redactor::new(), PersonalData::Full, &mut deflater);
        let kept = Explanation::decode(&body).unwrap();
        assert_eq!(kept, explanation);
        let story = kept.tell();
        for line in [
            "arrived         Sun, 22 Nov 2026 15:39:59 +0000 by mx.example (session S)\n",
            "and 50 more\n",
            "<m@\\u{1b}>\n",
        ] {
            assert!(story.contains(line), "{line:?} is missing in {story}");
        }
        assert_eq!(story.contains("DNS: 2 question(s)"), case.verdict.is_some());
    }
}

#[test]
fn nothing_that_dns_says_decides_how_much_is_kept() {
    let long = "x".repeat(60_000);
    let evidence: Vec<_> = (0..300).map(|n| asked(n, long.as_bytes())).collect();
    let explanation = Explanation::new(&case(Some(verdict(evidence))));
    assert!(explanation.dns.iter().all(|q| q.records[0].ends_with("... (60000 octets)")));
    assert_eq!(explanation.dns.len() + explanation.dns_left_out, 300 + 7, "with those that the message left out");
    let json = serde_json::to_vec(&explanation).unwrap();
    assert!(json.len() < MAX_EVIDENCE + 64 * 1024, "{}", json.len());
    assert!(explanation.tell().contains("more are not kept"));
}

#[test]
fn each_failure_of_dns_has_its_words() {
    for failure in Failure::ALL {
        assert!(story::outcome(failure.as_str()).starts_with("FAILED: "), "{failure}");
    }
}

#[test]
fn what_is_damaged_is_an_error() {
    assert!(matches!(Explanation::decode(b"\xff\xff"), Err(Error::Inflate(_))));
    let empty = Deflater::default().deflate(b"{}");
    assert!(matches!(Explanation::decode(&empty), Err(Error::Read(_))));
}

#[tokio::test]
async fn cases_beyond_what_may_wait_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let location = Location::Sqlite(directory.path().join("store.db"));
    let store = Store::open(Settings::new(location), &registry).await.unwrap();
    let (recorder, task) = Recorder::start(store.appender(), PersonalData::Full, &registry);
    // The task has no turn before this one waits.
    for _ in 0..MAX_WAITING + 3 {
        recorder.keep(Box::new(case(None)));
    }
    assert!(registry.render().contains("dmarcgate_explanations_lost_total 3\n"), "{}", registry.render());
    drop(recorder);
    task.await.unwrap();
    store.close(Duration::from_secs(10)).await;
    assert!(registry.render().contains("dmarcgate_store_explanations_written_total 256\n"), "{}", registry.render());
}
