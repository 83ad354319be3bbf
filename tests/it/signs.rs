//! `policy.signs`: what a sign does that is switched off, and where it is told.

use crate::support::dns::Zone;
use crate::support::world::{Letter, World};

const STRANGER: &str = "198.51.100.66";

fn zone() -> Zone {
    Zone::new().txt("a.example", "v=spf1 -all").txt("_dmarc.a.example", "v=DMARC1; p=reject")
}

fn listed() -> Letter {
    Letter::new(STRANGER, "ceo@a.example").field("List-Id: <l.lists.example>\r\n")
}

#[tokio::test]
async fn a_sign_that_is_switched_off_is_told_and_saves_nothing() {
    let mut world =
        World::start(zone(), |config| config.set("policy.signs", vec!["broken_signature", "arc_chain"])).await;
    assert_eq!(world.send(&listed()).await.summary(), "550");
    let not_counted = "dmarcgate_signs_total{counting=\"not_counted\",sign=\"list_fields\"}";
    world.wait_for_count(not_counted, 1.0).await;
    let line = world.gate.wait_for_log("\"message\":\"message\"").await;
    let event: serde_json::Value = serde_json::from_str(&line).expect("an event");
    assert_eq!((&event["signs"], &event["rule"]), (&"list_fields (not counted)".into(), &"fail_reject".into()));

    let id = event["transaction"].as_str().expect("an id").to_owned();
    let story = crate::explain::story(&world, &id).await;
    assert!(story.contains("  not counted   list fields\n"), "{story}");
    let json = world.gate.run(&["explain", &id, "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["decision"]["signs"], serde_json::json!([{ "sign": "list_fields", "counted": false }]));

    world.gate.reloaded(|config| config.unset("policy.signs")).await;
    assert_eq!(world.send(&listed()).await.summary(), "250 quarantine");
    world.wait_for_count("dmarcgate_signs_total{counting=\"counted\",sign=\"list_fields\"}", 1.0).await;
    world.wait_for_count(not_counted, 1.0).await;
    // What passes needs no sign.
    let fine = Letter::new(STRANGER, "a@nothing.example").field("List-Id: <l.lists.example>\r\n");
    assert_eq!(world.send(&fine).await.summary(), "250");
    world.wait_for_count("dmarcgate_decisions_total{rule=\"no_record\"}", 1.0).await;
    world.wait_for_count("dmarcgate_signs_total{counting=\"counted\",sign=\"list_fields\"}", 1.0).await;
}
