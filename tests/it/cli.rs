//! The command line as a user meets it: exit codes, what is printed where, and how a wrong configuration is told.

use std::path::Path;
use std::process::{Command, Output};

use crate::source;
use crate::support::dns::Zone;
use crate::support::world::{Letter, World};

/// Runs the binary in a directory without configuration.
fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmarcgate")).args(arguments).output().expect("cargo has built the binary")
}

/// Exit code, standard output, standard error.
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn written(directory: &Path, text: &str) -> String {
    let path = directory.join("gate.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn help_is_as_the_golden_file_has_it() {
    let mut text = String::new();
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(command) = commands.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let (code, help, errors) = outcome(&run(&arguments));
        assert_eq!((code, errors.as_str()), (0, ""), "{command:?}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        text.push_str(&format!("$ dmarcgate {}\n{help}\n", arguments.join(" ")));
        let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
        let names = listed.lines().take_while(|line| !line.is_empty());
        let names: Vec<_> = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
        let below = names.iter().rev().filter(|name| !name.is_empty());
        commands.extend(below.map(|name| [command.clone(), vec![(*name).to_owned()]].concat()));
    }
    golden("help.txt", &text);
}

/// Holds a text to a file of `tests/data`; `UPDATE_GOLDEN=1` writes it.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("tests/data")).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, known, "{name} differs; UPDATE_GOLDEN=1 cargo test rewrites it");
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_not() {
    for arguments in [&["--version"][..], &["-h"], &["serve", "-h"], &["reports", "--help"]] {
        let (code, out, errors) = outcome(&run(arguments));
        assert!(code == 0 && !out.is_empty() && errors.is_empty(), "{arguments:?}");
    }
    let wrong: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["serve", "--nonsense"],
        &["serve", "--config"],
        &["config"],
        &["config", "check", "--config", "/nonexistent/gate.toml"],
        &["config", "show", "--config", "/nonexistent/gate.toml"],
        &["serve", "--config", "/nonexistent/gate.toml"],
        &["reports", "list", "--config", "/nonexistent/gate.toml"],
        &["healthcheck", "--config", "/nonexistent/gate.toml"],
        &["reports", "list", "--since", "yesterday"],
    ];
    for arguments in wrong {
        let (code, out, errors) = outcome(&run(arguments));
        assert!(code == 2 && out.is_empty() && !errors.is_empty(), "{arguments:?}: {code} {out} {errors}");
    }
}

#[test]
fn the_shipped_configuration_is_valid_once_it_names_what_it_must() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/dmarcgate.toml").display().to_string();
    let (code, out, errors) = outcome(&run(&["config", "check", "--config", &shipped]));
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    assert!(out.ends_with(&format!("{shipped}: configuration is valid, mode enforce\n")), "{out}");
    let (code, out, _) = outcome(&run(&["config", "show", "--reference"]));
    assert_eq!((code, out), (0, source::read("config/dmarcgate.toml")));
}

#[test]
fn a_wrong_configuration_is_told_with_file_line_key_and_what_is_allowed() {
    let upstream = "[upstream]\nservers = [\"127.0.0.1:10025\"]\n";
    let cases = [
        ("", ": upstream.servers: is missing; write for example: servers = [\"127.0.0.1:10025\"]"),
        ("[upstream\n", ":1: not valid TOML: "),
        ("[upstream]\nservers = \"127.0.0.1\"\n", ":2: upstream.servers: "),
        (
            "[policy]\nmode = \"Enforce\"\n",
            ":4: policy.mode: \"Enforce\" is not allowed; expected one of \"monitor\", \"tag\", \"enforce\"",
        ),
        ("[policy]\nreject = true\n", ":4: policy.reject: "),
        ("[policy]\nrejct = \"always\"\n", ":4: policy.rejct: unknown key; did you mean policy.reject?"),
        (
            "[bypass]\ntrusted_networks = [\"192.0.2.0/33\"]\n",
            ":4: bypass.trusted_networks: \"192.0.2.0/33\" is not allowed",
        ),
        ("[timeouts]\nevaluation = 20\n", ":4: timeouts.evaluation: "),
        ("[timeouts]\nevaluation = \"20\"\n", ":4: timeouts.evaluation: \"20\" is not allowed"),
        ("[limits]\nmessage_size = \"50 apples\"\n", ":4: limits.message_size: \"50 apples\" is not allowed"),
        ("[limits]\nrecipients = 0\n", ":4: limits.recipients: 0 is out of range; expected 1 to "),
        ("[dns]\nservers = [\"ns.example\"]\n", ":4: dns.servers: \"ns.example\" is not allowed"),
        ("[[listener]]\naddress = \"25\"\n", ":4: listener.address: \"25\" is not allowed"),
        ("[admin]\naddress = \"127.0.0.1\"\n", ":4: admin.address: \"127.0.0.1\" is not allowed"),
        ("[store]\nurl = \"dmarcgate.db\"\n", ":4: store.url: "),
        ("[log]\nformat = \"xml\"\n", ":4: log.format: \"xml\" is not allowed; expected one of \"human\", \"json\""),
        ("[policy]\nexempt_recipients = [\"a@b@c d\"]\n", ":4: policy.exempt_recipients: "),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (text, expected) in cases {
        let is_whole = text.is_empty() || text.starts_with("[upstream");
        let path = written(directory.path(), &if is_whole { text.to_owned() } else { format!("{upstream}{text}") });
        for command in [&["config", "check"][..], &["config", "show"], &["serve"]] {
            let (code, out, errors) = outcome(&run(&[command, &["--config", &path]].concat()));
            assert_eq!((code, out.as_str()), (2, ""), "{text:?}: {errors}");
            assert!(errors.contains(&format!("{path}{expected}")), "{text:?} by {command:?}: {errors}");
        }
    }
}

#[test]
fn what_cannot_be_opened_at_the_start_is_exit_code_1_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("file"), "no directory").unwrap();
    let with = |listener: &str, store: &str| {
        format!(
            "[[listener]]\naddress = \"{listener}\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n\
             [spool]\ndirectory = \"{}\"\n[store]\nurl = \"sqlite://{store}\"\n[admin]\naddress = \"127.0.0.1:0\"\n",
            path("spool")
        )
    };
    let cases = [
        (with(&taken.local_addr().unwrap().to_string(), &path("db")), "in use"),
        (with("127.0.0.1:0", &path("file/db")), "file/db"),
        (with("127.0.0.1:0", &path("")).replace("/\"\n[admin]", "/file\"\n[admin]"), "file"),
    ];
    for (text, expected) in cases {
        let file = written(directory.path(), &text);
        let (code, out, errors) = outcome(&run(&["serve", "--config", &file]));
        assert_eq!(code, 1, "{out}{errors}");
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
}

#[tokio::test]
async fn recorded_rows_are_listed_by_day_domain_and_disposition() {
    let zone = Zone::new()
        .txt("a.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt("_dmarc.much-longer.example", "v=DMARC1; p=quarantine");
    let world = World::start(zone, |c| c).await;
    let (code, out, errors) = outcome(&world.gate.run(&["reports", "rows"]).await);
    assert_eq!((code, errors.as_str(), out.lines().count()), (0, "", 1), "{out}");
    let letters = [
        Letter::new("192.0.2.10", "a@a.example"),
        Letter::new("198.51.100.66", "a@a.example"),
        Letter::new("198.51.100.67", "a@a.example"),
        Letter::new("198.51.100.66", "a@much-longer.example"),
        Letter::new("198.51.100.66", "a@nowhere.example"),
    ];
    for letter in &letters {
        world.send(letter).await;
    }
    let all = |rows: &[serde_json::Value]| rows.iter().filter_map(|r| r["messages"].as_i64()).sum::<i64>() == 5;
    let rows = world.gate.wait_for_rows("five messages", all).await;
    let shown: Vec<_> = rows
        .iter()
        .map(|r| format!("{} {} {}", r["policy_domain"], r["disposition"].as_str().unwrap(), r["messages"]))
        .collect();
    let expected =
        ["null none 1", "\"a.example\" pass 1", "\"a.example\" reject 2", "\"much-longer.example\" quarantine 1"];
    assert_eq!(shown, expected);

    let (code, out, errors) = outcome(&world.gate.run(&["reports", "rows"]).await);
    assert_eq!((code, errors.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["day", "policy", "domain", "disposition", "messages"]);
    let day = rows[0]["day"].as_str().unwrap();
    assert_eq!(lines[1], [day, "-", "none", "1"]);
    assert_eq!(lines[3], [day, "a.example", "reject", "2"]);
    let (code, out, _) = outcome(&world.gate.run(&["healthcheck", "--ready"]).await);
    // The admin port of this configuration was chosen by the system; the command knows only what is written.
    assert!(code == 1 && out.is_empty());
}
