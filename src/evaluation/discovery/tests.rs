use super::*;
use crate::dns::zone::Zone;
use crate::evaluation::KeySearch;
use crate::label::Label;
use crate::spf::Identity;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn spf(result: SpfResult, domain_text: &str) -> SpfOutput {
    SpfOutput {
        result,
        identity: Identity::MailFrom,
        domain: (!domain_text.is_empty()).then(|| domain(domain_text)),
        term: None,
        reason: "".into(),
        unsettled: false,
        records: Vec::new(),
        failure: None,
    }
}

fn dkim(result: DkimResult, domain_text: &str) -> DkimOutput {
    DkimOutput {
        place: 0,
        result,
        domain: Some(domain(domain_text)),
        selector: "s".into(),
        identity: None,
        algorithm: Some("rsa-sha256"),
        signature_start: "abcdefgh".into(),
        key: if result == DkimResult::TempError { KeySearch::Unknown } else { KeySearch::Found },
        reason: "",
        failure: None,
    }
}

async fn run(zone: &Zone, authors: &[&str], spf: &SpfOutput, dkim: &[DkimOutput]) -> Vec<DmarcOutput> {
    let authors: Vec<_> = authors.iter().map(|a| domain(a)).collect();
    let identifiers: Vec<_> = spf.domain.iter().chain(dkim.iter().filter_map(|d| d.domain.as_ref())).cloned().collect();
    discover(zone, &Rules::default(), &authors, &identifiers).await.evaluate(spf, dkim)
}

/// What is told of the domain alone is what the message was judged by.
async fn agrees_without_a_message(zone: &Zone, output: &DmarcOutput) {
    let alone = of_domain(zone, &Rules::default(), &output.author_domain).await;
    assert_eq!(alone.organizational_domain, output.organizational_domain);
    match (&alone.policy, &output.policy) {
        (Ok(alone), Some(policy)) => {
            assert_eq!(
                (&alone.domain, &alone.record, alone.requested),
                (&policy.domain, &policy.record, policy.requested)
            );
        }
        (Err(without), None) => assert_eq!(*without, (output.result, output.reason)),
        (alone, policy) => panic!("{alone:?}, {policy:?}"),
    }
}

async fn one(zone: &Zone, author: &str, spf: &SpfOutput, dkim: &[DkimOutput]) -> DmarcOutput {
    run(zone, &[author], spf, dkim).await.remove(0)
}

fn no_spf() -> SpfOutput {
    spf(SpfResult::None, "")
}

const R: &str = "v=DMARC1; p=reject";

fn simple() -> Zone {
    Zone::new().txt("_dmarc.example.com", &[R])
}

fn failing(zone: Zone, name: &str) -> Zone {
    zone.fail(name, RecordType::Txt, Failure::ServFail)
}

#[tokio::test]
async fn results_of_an_author_domain_with_a_record() {
    use DkimResult as D;
    use DmarcResult::{Fail, Pass, TempError};
    use SpfResult as S;
    let cases: &[(&str, SpfOutput, Vec<DkimOutput>, DmarcResult)] = &[
        ("nothing passed", spf(S::Fail, "example.com"), vec![], Fail),
        ("SPF passed, identical", spf(S::Pass, "example.com"), vec![], Pass),
        ("SPF passed, subdomain", spf(S::Pass, "bounce.example.com"), vec![], Pass),
        ("SPF passed, elsewhere", spf(S::Pass, "evil.example.net"), vec![], Fail),
        ("SPF softfail", spf(S::SoftFail, "example.com"), vec![], Fail),
        ("SPF permerror is no identifier", spf(S::PermError, "example.com"), vec![], Fail),
        (
            "SPF failed, but a name that may have matched could not be asked for",
            SpfOutput { unsettled: true, ..spf(S::Fail, "example.com") },
            vec![],
            TempError,
        ),
        ("the same elsewhere", SpfOutput { unsettled: true, ..spf(S::Fail, "example.net") }, vec![], Fail),
        ("SPF temperror, aligned", spf(S::TempError, "example.com"), vec![], TempError),
        ("SPF temperror, subdomain", spf(S::TempError, "a.example.com"), vec![], TempError),
        ("SPF temperror, elsewhere", spf(S::TempError, "example.net"), vec![], Fail),
        ("SPF temperror without a domain", spf(S::TempError, ""), vec![], Fail),
        ("DKIM passed", no_spf(), vec![dkim(D::Pass, "example.com")], Pass),
        ("DKIM passed, subdomain", no_spf(), vec![dkim(D::Pass, "x.example.com")], Pass),
        ("DKIM passed, name that only ends alike", no_spf(), vec![dkim(D::Pass, "badexample.com")], Fail),
        ("DKIM failed", no_spf(), vec![dkim(D::Fail, "example.com")], Fail),
        ("DKIM policy is no identifier and no doubt", no_spf(), vec![dkim(D::Policy, "example.com")], Fail),
        ("DKIM permerror", no_spf(), vec![dkim(D::PermError, "example.com")], Fail),
        ("DKIM temperror, aligned", no_spf(), vec![dkim(D::TempError, "example.com")], TempError),
        ("DKIM temperror, elsewhere", no_spf(), vec![dkim(D::TempError, "example.net")], Fail),
        (
            "one of several signatures",
            no_spf(),
            vec![dkim(D::Fail, "example.com"), dkim(D::Pass, "example.com"), dkim(D::TempError, "example.com")],
            Pass,
        ),
        ("SPF passed, DKIM in doubt", spf(S::Pass, "example.com"), vec![dkim(D::TempError, "example.com")], Pass),
        ("SPF in doubt, DKIM passed", spf(S::TempError, "example.com"), vec![dkim(D::Pass, "example.com")], Pass),
        ("SPF in doubt, DKIM failed", spf(S::TempError, "example.com"), vec![dkim(D::Fail, "example.com")], TempError),
    ];
    for (name, spf, dkim, expected) in cases {
        let output = one(&simple(), "example.com", spf, dkim).await;
        assert_eq!(output.result, *expected, "{name}");
        assert_eq!(output.doubt, (*expected == TempError).then_some(Doubt::Identifier), "{name}");
        assert_eq!(output.organizational_domain, Some(domain("example.com")), "{name}");
        assert!(!output.reason.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn what_nothing_but_our_own_limits_left_open_is_told_apart() {
    let limited = |failure, output: DkimOutput| DkimOutput { failure: Some(failure), ..output };
    let key = |failure| limited(failure, dkim(DkimResult::TempError, "example.com"));
    let spf_by = |failure| SpfOutput { failure: Some(failure), ..spf(SpfResult::TempError, "example.com") };
    let elsewhere = limited(Failure::ServFail, dkim(DkimResult::TempError, "example.net"));
    let unsettled = SpfOutput { unsettled: true, ..spf(SpfResult::Fail, "example.com") };
    let cases = [
        ("a key", no_spf(), vec![key(Failure::Budget)], Doubt::IdentifierOwnLimits),
        ("SPF and a key", spf_by(Failure::Deadline), vec![key(Failure::Overload)], Doubt::IdentifierOwnLimits),
        ("DNS failed as well", spf_by(Failure::Budget), vec![key(Failure::Timeout)], Doubt::Identifier),
        ("a name of the client", unsettled, vec![key(Failure::Budget)], Doubt::Identifier),
        (
            "DNS failed where nothing is aligned",
            no_spf(),
            vec![key(Failure::Budget), elsewhere],
            Doubt::IdentifierOwnLimits,
        ),
    ];
    for (name, spf, dkim, expected) in cases {
        let output = one(&simple(), "example.com", &spf, &dkim).await;
        assert_eq!((output.result, output.doubt), (DmarcResult::TempError, Some(expected)), "{name}");
    }
    // An identifier passed, and its walk was cut short.
    for (failure, expected) in [(Failure::Budget, Doubt::IdentifierOwnLimits), (Failure::ServFail, Doubt::Identifier)] {
        let zone = simple().fail("_dmarc.a.example.com", RecordType::Txt, failure);
        let output = one(&zone, "example.com", &spf(SpfResult::Pass, "a.example.com"), &[]).await;
        assert_eq!((output.result, output.doubt), (DmarcResult::TempError, Some(expected)), "{failure}");
    }
}

#[tokio::test]
async fn a_name_of_the_client_that_is_not_known_is_doubt_whatever_ended_the_check() {
    let voids = "a:x.example a:y.example a:z.example";
    let many = (0..10).map(|i| format!("a:h{i}.example.com")).collect::<Vec<_>>().join(" ");
    let cases = [
        ("nothing else matches", "v=spf1 ptr -all".to_owned()),
        ("an included domain without a record", "v=spf1 ptr include:gone.example -all".to_owned()),
        ("too many look-ups in vain", format!("v=spf1 ptr {voids} -all")),
        ("too many terms", format!("v=spf1 ptr {many} -all")),
        ("a redirect to nowhere", "v=spf1 ptr redirect=gone.example".to_owned()),
        ("a redirect to the name", "v=spf1 redirect=%{p}".to_owned()),
        ("an include of the name", "v=spf1 include:%{p} -all".to_owned()),
        (
            "look-ups in vain for the name",
            "v=spf1 exists:a.%{p} exists:b.%{p} exists:c.%{p} exists:%{p} -all".to_owned(),
        ),
    ];
    let zone = |record: &str| {
        let hosts = (0..10).fold(simple(), |zone, i| zone.a(&format!("h{i}.example.com"), &["192.0.2.200"]));
        hosts
            .txt("example.com", &[record])
            .ptr("1.2.0.192.in-addr.arpa", &["mx.example.com"])
            .a("mx.example.com", &["192.0.2.1"])
            .txt("mx.example.com", &["v=spf1 +all"])
            .a("a.mx.example.com", &["192.0.2.3"])
    };
    let request = crate::spf::Request::mail_from("192.0.2.1".parse().unwrap(), "mx.example.com", "x@example.com");
    for (name, record) in cases {
        let healthy = zone(&record);
        let sound = crate::spf::check_host(&healthy, &request).await;
        assert_eq!(one(&healthy, "example.com", &sound, &[]).await.result, DmarcResult::Pass, "{name}");
        for (failing, record_type) in [("1.2.0.192.in-addr.arpa", RecordType::Ptr), ("mx.example.com", RecordType::A)] {
            let failing = zone(&record).fail(failing, record_type, Failure::ServFail);
            let spf = crate::spf::check_host(&failing, &request).await;
            let output = one(&failing, "example.com", &spf, &[]).await;
            let found = (output.result, output.doubt);
            assert_eq!(found, (DmarcResult::TempError, Some(Doubt::Identifier)), "{name}: SPF {}", spf.result.as_str());
        }
    }
}

#[tokio::test]
async fn policy_discovery_settles_none_permerror_and_doubt() {
    use DmarcResult::{None, Pass, PermError, TempError};
    let broken = "v=DMARC1; p=bogus";
    let cases: Vec<(&str, Zone, &str, DmarcResult)> = vec![
        ("no record", Zone::new(), "example.com", None),
        ("several records", Zone::new().txt("_dmarc.example.com", &[R, R]), "example.com", None),
        ("broken record", Zone::new().txt("_dmarc.example.com", &[broken]), "example.com", PermError),
        ("broken record, sound one above", simple().txt("_dmarc.a.example.com", &[broken]), "a.example.com", PermError),
        ("broken record above", Zone::new().txt("_dmarc.example.com", &[broken]), "a.example.com", PermError),
        ("record look-up fails", failing(Zone::new(), "_dmarc.example.com"), "example.com", TempError),
        ("look-up above fails, no record", failing(Zone::new(), "_dmarc.com"), "example.com", TempError),
        ("look-up above fails, record there", failing(simple(), "_dmarc.com"), "example.com", Pass),
        ("author without a record", simple(), "a.example.com", Pass),
    ];
    for (name, zone, author, expected) in cases {
        let output = one(&zone, author, &spf(SpfResult::Pass, "example.com"), &[]).await;
        assert_eq!(output.result, expected, "{name}");
        assert_eq!(output.doubt, (expected == TempError).then_some(Doubt::PolicyDiscovery), "{name}");
        assert_eq!(output.policy.is_some(), expected == Pass, "{name}");
        agrees_without_a_message(&zone, &output).await;
    }
}

/// What it is to be without an answer where a record above may apply: zone, author domain, expectation by the tree walk
/// and by a list. `Q`: quarantine.
fn records_above() -> Vec<(&'static str, Zone, &'static str, [Doubt; 2])> {
    use Doubt::{EnforcingAbove as Above, OwnLimits, PolicyDiscovery as Harmless};
    let dead = |record: &str| failing(Zone::new().txt("_dmarc.example.com", &[record]), "_dmarc.dead.example.com");
    let unknown = |record: &str| dead(record).fail("dead.example.com", RecordType::A, Failure::ServFail);
    let (author, below) = ("dead.example.com", "x.dead.example.com");
    vec![
        ("reject", dead(R), author, [Above; 2]),
        ("reject, two labels above", failing(dead(R), "_dmarc.x.dead.example.com"), below, [Above; 2]),
        ("none", dead("v=DMARC1; p=none"), author, [Harmless; 2]),
        ("no record", failing(Zone::new(), "_dmarc.dead.example.com"), author, [Harmless; 2]),
        ("sp=none", dead("v=DMARC1; p=reject; sp=none"), author, [Harmless; 2]),
        ("sp=quarantine", dead("v=DMARC1; p=none; sp=quarantine"), author, [Above; 2]),
        ("in test mode", dead("v=DMARC1; p=reject; t=y"), author, [Above; 2]),
        ("quarantine in test mode", dead("v=DMARC1; p=quarantine; t=y"), author, [Harmless; 2]),
        ("a record that can't be used", dead("v=DMARC1; p=bogus"), author, [Harmless; 2]),
        (
            "np of a name that does not exist",
            failing(Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=none; np=reject"]), "_dmarc.y.example.com"),
            "x.y.example.com",
            [Above, Harmless],
        ),
        (
            "np of a name that exists",
            dead("v=DMARC1; p=none; np=reject").a(author, &["192.0.2.1"]),
            author,
            [Harmless; 2],
        ),
        ("np, and whether it exists is not known", unknown("v=DMARC1; p=none; np=reject"), author, [Above; 2]),
        ("sp, and whether it exists is not known", unknown("v=DMARC1; p=reject; np=none"), author, [Above; 2]),
        (
            "whether it exists is not known, in test mode",
            unknown("v=DMARC1; p=quarantine; np=none; t=y"),
            author,
            [Harmless; 2],
        ),
        (
            "np, and our own bounds keep from us whether it exists",
            dead("v=DMARC1; p=none; np=reject").fail(author, RecordType::A, Failure::Budget),
            author,
            [OwnLimits; 2],
        ),
        (
            "our own bounds kept us from its own",
            simple().fail("_dmarc.dead.example.com", RecordType::Txt, Failure::Deadline),
            author,
            [OwnLimits; 2],
        ),
        (
            "the failure is in between, which a list does not look at",
            failing(simple(), "_dmarc.dead.example.com"),
            below,
            [Above, Harmless],
        ),
        ("the failure is above", failing(simple(), "_dmarc.com"), author, [Above, Harmless]),
    ]
}

#[tokio::test]
async fn a_lame_name_below_a_policy_that_asks_for_something_is_a_doubt_that_matters() {
    for (name, zone, author, [by_walk, listed]) in records_above() {
        let walked = one(&zone, author, &no_spf(), &[]).await;
        assert_eq!((walked.result, walked.doubt), (DmarcResult::TempError, Some(by_walk)), "{name}");
        assert!(walked.policy.is_none(), "{name}");
        let found = by_list(&zone, author, &no_spf(), &[]).await;
        match found.result {
            // The list asks at two names alone, and these answered.
            DmarcResult::Fail => {
                assert_eq!((by_walk, listed), (Doubt::EnforcingAbove, Doubt::PolicyDiscovery), "{name}")
            }
            result => assert_eq!((result, found.doubt), (DmarcResult::TempError, Some(listed)), "{name}, by a list"),
        }
        // The author domain itself has passed: no policy can matter.
        if by_walk != Doubt::OwnLimits {
            for (spf, dkim) in
                [(spf(SpfResult::Pass, author), vec![]), (no_spf(), vec![dkim(DkimResult::Pass, author)])]
            {
                let passed = one(&zone, author, &spf, &dkim).await;
                let expected = (DmarcResult::TempError, Some(Doubt::PolicyDiscovery));
                assert_eq!((passed.result, passed.doubt), expected, "{name}, passed");
            }
            let other = one(&zone, author, &spf(SpfResult::Pass, "evil.example"), &[]).await;
            assert_eq!(other.doubt, Some(by_walk), "{name}, somebody else passed");
        }
    }
    // Where the record is known, and only the existence is not, its alignment is known as well.
    let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=none; np=reject"]).fail(
        "www.example.com",
        RecordType::A,
        Failure::ServFail,
    );
    let passed = one(&zone, "www.example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
    assert_eq!((passed.result, passed.doubt), (DmarcResult::Pass, None));
    assert_eq!(passed.policy.unwrap().domain, domain("example.com"), "its row has a policy domain");
    for (spf, dkim) in [
        (spf(SpfResult::Pass, "evil.example"), vec![]),
        (no_spf(), vec![dkim(DkimResult::Pass, "evil.example"), dkim(DkimResult::Fail, "mail.example.com")]),
    ] {
        let failed = one(&zone, "www.example.com", &spf, &dkim).await;
        assert_eq!((failed.result, failed.doubt), (DmarcResult::TempError, Some(Doubt::EnforcingAbove)));
    }
}

#[tokio::test]
async fn the_reason_tells_what_decided() {
    let several = || Zone::new().txt("_dmarc.example.com", &[R, R]);
    let cases = [
        (simple(), no_spf(), "no identifier passed"),
        (simple(), spf(SpfResult::Pass, "example.net"), "no identifier that passed is aligned"),
        (Zone::new(), no_spf(), "no policy record"),
        (several(), no_spf(), "several policy records at one name count as none"),
        (failing(Zone::new(), "_dmarc.example.com"), no_spf(), "a look-up of the policy record failed"),
    ];
    for (zone, spf, reason) in cases {
        assert_eq!(one(&zone, "example.com", &spf, &[]).await.reason, reason);
    }
    let output = one(&failing(simple(), "_dmarc.a.example.com"), "a.example.com", &no_spf(), &[]).await;
    assert_eq!(output.reason, "a look-up of the policy record failed, and a record above asks for a policy");
}

/// A top-level domain whose name servers answer nothing at `_dmarc` keeps nobody below it from being aligned.
#[tokio::test]
async fn a_suffix_that_does_not_answer_leaves_subdomains_aligned() {
    let lame = |zone: Zone| zone.fail("_dmarc.com", RecordType::Txt, Failure::Refused);
    let own = |mode| lame(Zone::new().txt("_dmarc.example.com", &[&format!("v=DMARC1; p=reject; aspf={mode}")]));
    let siblings = || own("r").txt("_dmarc.www.example.com", &["v=DMARC1; p=reject"]);
    let (pass, temperror) = ((DmarcResult::Pass, None), |doubt| (DmarcResult::TempError, Some(doubt)));
    let cases = [
        ("a subdomain", own("r"), "example.com", "mail.example.com", pass),
        ("strict", own("s"), "example.com", "mail.example.com", (DmarcResult::Fail, None)),
        ("siblings, one with a record", siblings(), "www.example.com", "mail.example.com", pass),
        // The suffix might have the record that applies.
        ("the domain above", own("r"), "www.example.com", "example.com", temperror(Doubt::PolicyDiscovery)),
        ("the domain above, strict", own("s"), "www.example.com", "example.com", temperror(Doubt::EnforcingAbove)),
        ("somebody else", own("r"), "example.com", "evil.com", temperror(Doubt::Identifier)),
        (
            "no record in common",
            lame(Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject"])),
            "example.com",
            "other.com",
            temperror(Doubt::Identifier),
        ),
    ];
    for (name, zone, author, passing, expected) in cases {
        let output = one(&zone, author, &spf(SpfResult::Pass, passing), &[]).await;
        assert_eq!((output.result, output.doubt), expected, "{name}");
    }
}

#[tokio::test]
async fn a_signature_that_was_left_out_is_noted_where_it_may_be_aligned() {
    let strict = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; adkim=s"]);
    let cases = [
        ("the same domain", simple(), "example.com", "example.com", true),
        ("below", simple(), "example.com", "mail.example.com", true),
        ("a sibling", simple(), "a.example.com", "b.example.com", true),
        ("somebody else", simple(), "example.com", "evil.example", false),
        ("below, but strict", strict, "example.com", "mail.example.com", false),
    ];
    for (name, zone, author, skipped, expected) in cases {
        let found = discover(&zone, &Rules::default(), &[domain(author)], &[]).await;
        let mut outputs = found.evaluate(&no_spf(), &[]);
        found.note_skipped(&[domain(skipped)], &mut outputs);
        assert_eq!(outputs[0].dkim_skipped_may_be_aligned, expected, "{name}");
    }
}

#[tokio::test]
async fn our_own_bounds_are_a_doubt_of_their_own() {
    let record = "v=DMARC1; p=none; np=reject";
    let cases = [
        ("policy", Zone::new().fail("_dmarc.a.example.com", RecordType::Txt, Failure::Budget)),
        ("policy above", Zone::new().fail("_dmarc.example.com", RecordType::Txt, Failure::Deadline)),
        (
            "existence",
            Zone::new().txt("_dmarc.example.com", &[record]).fail("a.example.com", RecordType::A, Failure::Overload),
        ),
    ];
    for (name, zone) in cases {
        let output = one(&zone, "a.example.com", &no_spf(), &[]).await;
        assert_eq!((output.result, output.doubt), (DmarcResult::TempError, Some(Doubt::OwnLimits)), "{name}");
    }
}

#[tokio::test]
async fn a_failed_walk_of_a_passing_identifier_is_doubt_only_where_it_may_be_aligned() {
    let zone = failing(simple(), "_dmarc.mail.example.com");
    let inside = one(&zone, "example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
    assert_eq!((inside.result, inside.doubt), (DmarcResult::TempError, Some(Doubt::Identifier)));
    assert_eq!(inside.spf_alignment, Alignment::Unknown);

    let failed = one(&zone, "example.com", &spf(SpfResult::Fail, "mail.example.com"), &[]).await;
    assert_eq!(failed.result, DmarcResult::Fail, "an identifier that failed needs no walk");

    let zone = failing(simple(), "_dmarc.evil.example.net");
    let outside = one(&zone, "example.com", &spf(SpfResult::Pass, "evil.example.net"), &[]).await;
    assert_eq!(outside.result, DmarcResult::Fail);
    assert!(zone.asked().iter().all(|(name, _)| !name.contains("evil")), "no one asks for it");
}

#[tokio::test]
async fn np_applies_to_names_that_do_not_exist() {
    let record = "v=DMARC1; p=none; sp=quarantine; np=reject";
    let zone = || Zone::new().txt("_dmarc.example.com", &[record]);
    let cases: Vec<(&str, Zone, &str, Option<Policy>)> = vec![
        ("the name itself", zone(), "example.com", Some(Policy::None)),
        ("NXDOMAIN", zone(), "ghost.example.com", Some(Policy::Reject)),
        ("an address", zone().a("real.example.com", &["192.0.2.1"]), "real.example.com", Some(Policy::Quarantine)),
        (
            "NODATA: a name below exists",
            zone().a("x.real.example.com", &["192.0.2.1"]),
            "real.example.com",
            Some(Policy::Quarantine),
        ),
        ("not known", zone().fail("real.example.com", RecordType::A, Failure::Timeout), "real.example.com", None),
    ];
    for (name, zone, author, expected) in cases {
        let output = one(&zone, author, &no_spf(), &[]).await;
        agrees_without_a_message(&zone, &output).await;
        assert_eq!(output.policy.map(|p| p.requested), expected, "{name}");
        let doubt = expected.is_none().then_some(Doubt::EnforcingAbove);
        assert_eq!(output.doubt, doubt, "{name}");
    }
    let zone = Zone::new().txt("_dmarc.example.com", &[R]);
    one(&zone, "ghost.example.com", &no_spf(), &[]).await;
    assert!(zone.asked().iter().all(|(_, record_type)| *record_type == RecordType::Txt), "existence is not asked");
}

#[tokio::test]
async fn strict_alignment_compares_names() {
    let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; adkim=s; aspf=r"]);
    let signed = one(&zone, "example.com", &no_spf(), &[dkim(DkimResult::Pass, "a.example.com")]).await;
    assert_eq!((signed.result, signed.dkim_alignment[0]), (DmarcResult::Fail, Alignment::Unaligned));
    let sent = one(&zone, "example.com", &spf(SpfResult::Pass, "a.example.com"), &[]).await;
    assert_eq!(sent.result, DmarcResult::Pass);
    let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; adkim=s; aspf=s"]);
    one(&zone, "example.com", &spf(SpfResult::Pass, "a.example.com"), &[]).await;
    assert!(zone.asked().iter().all(|(name, _)| name != "_dmarc.a.example.com"), "no walk in strict mode");
}

#[tokio::test]
async fn the_session_of_appendix_b_3_1_passes_by_both() {
    let record = "v=DMARC1; p=reject; aspf=r; rua=mailto:dmarc-feedback@example.com";
    let zone = Zone::new().txt("_dmarc.example.com", &[record]);
    let output =
        one(&zone, "example.com", &spf(SpfResult::Pass, "mail.example.com"), &[dkim(DkimResult::Pass, "example.com")])
            .await;
    assert!(output.spf_aligned && output.dkim_aligned);
    assert_eq!(output.result, DmarcResult::Pass);
}

#[tokio::test]
async fn the_walks_of_appendix_b_4() {
    let signer = || [dkim(DkimResult::Pass, "signing.example.com")];
    let zone = || simple().txt("_dmarc.signing.example.com", &[R]);
    let sender = spf(SpfResult::Pass, "example.com");
    for author in ["example.com", "a.b.c.d.e.f.g.h.i.j.k.example.com"] {
        let output = one(&zone(), author, &sender, &signer()).await;
        assert!(output.spf_aligned && output.dkim_aligned, "{author}");
        assert_eq!(output.policy.unwrap().domain, domain("example.com"), "{author}");
    }
    let zone =
        Zone::new().txt("_dmarc.bank.example", &["v=DMARC1; p=reject; psd=y"]).txt("_dmarc.giant.bank.example", &[R]);
    let output = one(
        &zone,
        "giant.bank.example",
        &spf(SpfResult::Pass, "mail.giant.bank.example"),
        &[dkim(DkimResult::Pass, "mail.mega.bank.example")],
    )
    .await;
    assert_eq!((output.spf_alignment, output.dkim_alignment[0]), (Alignment::Relaxed, Alignment::Unaligned));
    assert_eq!((output.result, output.policy.unwrap().domain), (DmarcResult::Pass, domain("giant.bank.example")));
}

#[tokio::test]
async fn the_warning_of_section_11_8() {
    // mail.example.com is an organizational domain of its own: its identifiers don't vouch for siblings.
    let zone = simple().txt("_dmarc.mail.example.com", &["v=DMARC1; p=reject; psd=n"]);
    let evil = one(&zone, "evil.example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
    assert_eq!(evil.result, DmarcResult::Fail);
    let honest = one(&zone, "a.mail.example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
    assert_eq!(honest.result, DmarcResult::Pass);
    // A subdomain in other hands vouches for the whole organization in relaxed mode.
    let subdomain = one(&simple(), "example.com", &spf(SpfResult::Pass, "evil.example.com"), &[]).await;
    assert_eq!(subdomain.result, DmarcResult::Pass);
}

#[tokio::test]
async fn several_author_domains_are_each_evaluated() {
    let outputs = run(&simple(), &["example.com", "other.example"], &spf(SpfResult::Pass, "other.example"), &[]).await;
    let results: Vec<_> = outputs.iter().map(|o| (o.author_domain.as_str(), o.result)).collect();
    assert_eq!(results, [("example.com", DmarcResult::Fail), ("other.example", DmarcResult::None)]);
}

#[tokio::test]
async fn no_domain_is_walked_twice_and_no_name_beyond_the_stop_is_asked() {
    let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; psd=n"]);
    let signatures = vec![dkim(DkimResult::Pass, "s.example.com"); 5];
    one(&zone, "example.com", &spf(SpfResult::Pass, "s.example.com"), &signatures).await;
    let asked: Vec<_> = zone.asked().into_iter().map(|(name, _)| name).collect();
    assert_eq!(asked, ["_dmarc.example.com", "_dmarc.s.example.com", "_dmarc.example.com"]);
}

/// The more labels a name has, the later its answer comes.
struct Backwards(Zone);

impl Lookup for Backwards {
    async fn ask(&self, name: &str, record_type: RecordType) -> crate::dns::Answer {
        let answer = self.0.ask(name, record_type).await;
        for _ in 0..name.split('.').count() {
            tokio::task::yield_now().await;
        }
        answer
    }
}

#[tokio::test]
async fn names_of_a_walk_are_asked_together_and_taken_in_order() {
    let lookup = Backwards(simple());
    let authors = [domain("a.b.example.com")];
    let rules = Rules::default();
    let discovery = discover(&lookup, &rules, &authors, &[]);
    fn is_send<T: Send>(_: &T) {}
    is_send(&discovery);
    let output = discovery.await.evaluate(&no_spf(), &[]).remove(0);
    assert_eq!(output.policy.unwrap().domain, domain("example.com"));
    let asked: Vec<_> = lookup.0.asked().into_iter().map(|(name, _)| name).collect();
    assert_eq!(asked, ["_dmarc.a.b.example.com", "_dmarc.b.example.com", "_dmarc.example.com", "_dmarc.com"]);
}

/// By a list: each author domain with the identifiers that passed.
async fn by_list(zone: &Zone, author: &str, spf: &SpfOutput, dkim: &[DkimOutput]) -> DmarcOutput {
    let rules = Rules { discovery: Discovery::PublicSuffix, ..Rules::default() };
    let identifiers: Vec<_> = spf.domain.iter().chain(dkim.iter().filter_map(|d| d.domain.as_ref())).cloned().collect();
    discover(zone, &rules, &[domain(author)], &identifiers).await.evaluate(spf, dkim).remove(0)
}

#[tokio::test]
async fn by_a_list_the_policy_is_the_author_domains_or_the_organizational_domains() {
    let two = &["v=DMARC1; p=reject", "v=DMARC1; p=none"];
    let record = "v=DMARC1; p=none; sp=quarantine; np=reject";
    let cases: Vec<(&str, Zone, &str, DmarcResult, Option<(&str, Policy)>)> = vec![
        ("its own", simple(), "example.com", DmarcResult::Fail, Some(("example.com", Policy::Reject))),
        ("the organization's", simple(), "a.b.example.com", DmarcResult::Fail, Some(("example.com", Policy::Reject))),
        (
            "its own before the organization's",
            simple().txt("_dmarc.a.example.com", &["v=DMARC1; p=none"]),
            "a.example.com",
            DmarcResult::Fail,
            Some(("a.example.com", Policy::None)),
        ),
        ("none between", Zone::new().txt("_dmarc.b.example.com", &[R]), "a.b.example.com", DmarcResult::None, None),
        ("none of a suffix", Zone::new().txt("_dmarc.com", &[R]), "example.com", DmarcResult::None, None),
        (
            "below a suffix of two labels",
            Zone::new().txt("_dmarc.co.uk", &[R]).txt("_dmarc.a.co.uk", &["v=DMARC1; p=quarantine"]),
            "x.a.co.uk",
            DmarcResult::Fail,
            Some(("a.co.uk", Policy::Quarantine)),
        ),
        (
            "several at the author domain end it",
            simple().txt("_dmarc.a.example.com", two),
            "a.example.com",
            DmarcResult::None,
            None,
        ),
        (
            "several at the organizational domain",
            Zone::new().txt("_dmarc.example.com", two),
            "a.example.com",
            DmarcResult::None,
            None,
        ),
        (
            "sp",
            Zone::new().txt("_dmarc.example.com", &[record]).a("a.example.com", &["192.0.2.1"]),
            "a.example.com",
            DmarcResult::Fail,
            Some(("example.com", Policy::Quarantine)),
        ),
        (
            "np",
            Zone::new().txt("_dmarc.example.com", &[record]),
            "a.example.com",
            DmarcResult::Fail,
            Some(("example.com", Policy::Reject)),
        ),
        ("broken", Zone::new().txt("_dmarc.example.com", &["v=DMARC1"]), "a.example.com", DmarcResult::PermError, None),
        ("a look-up fails", failing(simple(), "_dmarc.a.example.com"), "a.example.com", DmarcResult::TempError, None),
        ("the second fails", failing(Zone::new(), "_dmarc.example.com"), "a.example.com", DmarcResult::TempError, None),
        (
            "what is not asked may fail",
            failing(simple(), "_dmarc.b.example.com"),
            "a.b.example.com",
            DmarcResult::Fail,
            Some(("example.com", Policy::Reject)),
        ),
    ];
    for (name, zone, author, result, policy) in cases {
        let output = by_list(&zone, author, &no_spf(), &[]).await;
        let found = output.policy.as_ref().map(|p| (p.domain.as_str(), p.requested));
        assert_eq!((output.result, found), (result, policy), "{name}");
        let doubt = if name == "a look-up fails" { Doubt::EnforcingAbove } else { Doubt::PolicyDiscovery };
        assert_eq!(output.doubt, (result == DmarcResult::TempError).then_some(doubt), "{name}");
        let questions = zone.asked().iter().filter(|(_, record_type)| *record_type == RecordType::Txt).count();
        assert!((1..=2).contains(&questions), "{name}: {questions}");
    }
    let bounded = Zone::new().fail("_dmarc.example.com", RecordType::Txt, Failure::Overload);
    assert_eq!(by_list(&bounded, "a.example.com", &no_spf(), &[]).await.doubt, Some(Doubt::OwnLimits));
}

#[tokio::test]
async fn by_a_list_identifiers_are_aligned_by_it_and_psd_means_nothing() {
    let psd = Zone::new()
        .txt("_dmarc.a.example.com", &["v=DMARC1; p=reject; psd=n"])
        .txt("_dmarc.example.com", &["v=DMARC1; p=reject; psd=y"]);
    let passes = |name: &'static str| spf(SpfResult::Pass, name);
    let output = by_list(&psd, "a.example.com", &passes("b.example.com"), &[]).await;
    assert_eq!((output.result, output.spf_alignment), (DmarcResult::Pass, Alignment::Relaxed));
    let hosts = Zone::new().txt("_dmarc.mine.github.io", &[R]);
    let output = by_list(&hosts, "mine.github.io", &passes("yours.github.io"), &[]).await;
    assert_eq!((output.result, output.spf_alignment), (DmarcResult::Fail, Alignment::Unaligned));
    // An identifier's name is never asked for, so that its DNS can't leave anything open.
    let zone = failing(simple(), "_dmarc.mail.example.com");
    let output = by_list(&zone, "example.com", &passes("mail.example.com"), &[]).await;
    assert_eq!(output.result, DmarcResult::Pass);
    let signed = by_list(&simple(), "example.com", &no_spf(), &[dkim(DkimResult::Pass, "x.example.com")]).await;
    assert_eq!((signed.result, signed.dkim_alignment[0]), (DmarcResult::Pass, Alignment::Relaxed));
}

#[tokio::test]
async fn where_walk_and_list_would_differ_is_known_without_a_question() {
    let zone = |records: &[(&str, &str)]| {
        records.iter().fold(Zone::new(), |zone, (name, record)| zone.txt(&format!("_dmarc.{name}"), &[record]))
    };
    let psd = |value: &str| format!("v=DMARC1; p=reject; psd={value}");
    let (yes, no) = (psd("y"), psd("n"));
    use Agreement::{Different, Same, Unknown};
    let cases: [(&str, &[(&str, &str)], &str, Agreement, Agreement); 8] = [
        ("plain", &[("example.com", R)], "example.com", Same, Same),
        ("below", &[("example.com", R)], "a.example.com", Same, Same),
        ("the author's own alone", &[("a.example.com", R)], "a.example.com", Different, Unknown),
        ("both", &[("a.example.com", R), ("example.com", R)], "a.example.com", Same, Unknown),
        ("psd=n below", &[("a.example.com", &no), ("example.com", R)], "a.example.com", Different, Different),
        ("psd=y at what the list takes for one", &[("example.com", &yes)], "a.b.example.com", Different, Different),
        ("psd=y of its own", &[("example.com", &yes)], "example.com", Same, Same),
        ("a record above", &[("com", R), ("example.com", R)], "example.com", Different, Same),
    ];
    for (name, records, author, by_walk, listed) in cases {
        let walked = one(&zone(records), author, &no_spf(), &[]).await.policy.unwrap();
        assert_eq!((walked.discovery, walked.agreement), (Discovery::TreeWalk, by_walk), "{name}");
        let found = by_list(&zone(records), author, &no_spf(), &[]).await.policy.unwrap();
        assert_eq!((found.discovery, found.agreement), (Discovery::PublicSuffix, listed), "{name}");
    }
    let open = failing(zone(&[("example.com", R)]), "_dmarc.com");
    assert_eq!(one(&open, "example.com", &no_spf(), &[]).await.policy.unwrap().agreement, Unknown);
}
