//! Reports as they arrive: over a relay that wants TLS and a login, signed, and read by who verifies signatures.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use serde_json::json;

use crate::delivery::{Site, one};
use crate::support::certificates::{Authority, Wanted};
use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::rules::Script;
use crate::support::signer::{SigningKey, base64};
use crate::support::upstream::{Connection, Message};
use crate::support::world::{Letter, Outcome, STRANGER, World};

/// What the world knows of who reports.
fn zone(zone: Zone) -> Zone {
    keys().into_iter().fold(zone.txt("_dmarc.gate.example", "v=DMARC1; p=reject; adkim=s"), |zone, (selector, key)| {
        zone.txt(&format!("{selector}._domainkey.gate.example"), &key.record())
    })
}

fn keys() -> [(&'static str, &'static SigningKey); 2] {
    [("r", SigningKey::rsa()), ("e", SigningKey::ed25519())]
}

/// A configuration that signs with keys in this directory.
pub fn signing(config: ConfigText, directory: &std::path::Path) -> ConfigText {
    let files = keys().map(|(selector, key)| {
        let path = directory.join(format!("{selector}.key"));
        std::fs::write(&path, pem(key)).expect("a writable directory");
        path.display().to_string()
    });
    config.set("reports.dkim_key", files.to_vec()).set("reports.dkim_selector", keys().map(|(s, _)| s).to_vec())
}

/// A private key as a file has it: PKCS #8 in PEM form.
fn pem(key: &SigningKey) -> String {
    let der = match key {
        SigningKey::Rsa(key) => AsDer::<Pkcs8V1Der<'_>>::as_der(key).unwrap(),
        SigningKey::Ed25519(key) => AsDer::<Pkcs8V1Der<'_>>::as_der(key).unwrap(),
    };
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", base64(der.as_ref()))
}

/// A report on one domain, over a relay that takes mail under TLS and from who has logged in alone.
async fn sent() -> (Message, Connection) {
    let authority = Authority::new();
    let script = Script::new().starttls(&authority.issue(&Wanted::new(&["127.0.0.1"]))).user("gate", "secret");
    let (domains, records) = one();
    let mut site = Site::new(zone(domains), script, records).await;
    let write = |name: &str, text: &str| {
        let path = site.directory.path().join(name);
        std::fs::write(&path, text).expect("a writable directory");
        path.display().to_string()
    };
    let config = signing(site.config.clone(), site.directory.path())
        .set("reports.relay", site.relay.address().to_string())
        .set("reports.relay_tls", "required")
        .set("reports.relay_user", "gate")
        .set("reports.relay_password_file", write("password", "secret\n"));
    // Another's certificate is no good.
    site.config = config.clone().set("reports.relay_ca", write("other.pem", Authority::new().pem()));
    assert_eq!(site.send().await, ["postponed"]);
    assert_eq!(site.relay.messages(), []);
    site.config = config.set("reports.relay_ca", write("ca.pem", authority.pem()));
    assert_eq!(site.send().await, ["sent"]);
    site.relay.assert_clean();
    let connection = site.relay.connections().pop().expect("one took it");
    let [message] = &connection.messages[..] else { panic!("{}", site.relay.transcript()) };
    (message.clone(), connection)
}

/// What a gate that knows nothing else of the sender makes of a message.
pub async fn evaluated(from: &str, content: Vec<u8>) -> Outcome {
    let world = World::start(zone(Zone::new()), |config| config.set("policy.mode", "enforce")).await;
    world.send(&Letter::new(STRANGER, from).content(content)).await
}

#[tokio::test]
async fn a_signed_report_over_tls_and_a_login_passes_dmarc_by_its_signatures() {
    let (message, connection) = sent().await;
    let verbs: Vec<_> = connection.commands.iter().map(|line| line.get(..4).unwrap_or(line)).collect();
    assert_eq!(verbs[..6], ["EHLO", "STAR", "EHLO", "AUTH", "MAIL", "RCPT"], "{verbs:?}");
    assert!(connection.tls.is_some());
    assert_eq!(message.login.as_deref(), Some("gate"));
    assert_eq!(message.from, "reports@gate.example");

    let outcome = evaluated(&message.from, message.content.clone()).await;
    outcome.reply.assert(250);
    let results = outcome.results();
    let signatures = results.of("dkim");
    assert_eq!(signatures.len(), 2, "{results:?}");
    assert!(signatures.iter().all(|result| result.starts_with("pass ")), "{results:?}");
    assert!(results.one("dmarc").starts_with("pass "), "{results:?}");
    assert!(results.one("spf").starts_with("none "), "by its signatures alone: {results:?}");

    let text = String::from_utf8(message.content.clone()).expect("ASCII");
    for (from, to) in [("Report Domain: a.example", "Report Domain: b.example"), ("Auto-Submitted:", "X-Other:")] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        // Broken signatures speak against a forgery, so it is passed on; but it does not pass.
        let results = evaluated(&message.from, changed.into_bytes()).await.results();
        assert!(results.one("dmarc").starts_with("fail "), "{results:?}");
    }
}

/// `cargo test --test it -- --ignored sent::`; `DMARCGATE_SENT` names the file.
#[tokio::test]
#[ignore = "writes a file for tests/conformance: .ci/run does so"]
async fn a_report_as_it_arrived_for_dkimpy() {
    let path = std::env::var("DMARCGATE_SENT").expect("DMARCGATE_SENT names the file");
    let (message, _) = sent().await;
    let record = |(selector, key): (&str, &SigningKey)| (format!("{selector}._domainkey.gate.example"), key.record());
    let records: std::collections::BTreeMap<_, _> = keys().into_iter().map(record).collect();
    let text = json!({ "records": records, "content": base64(&message.content) }).to_string();
    std::fs::write(path, text).expect("a file that can be written");
}
