//! The command line of `check` and what it says without a network: its DNS tests are in `tests/it/check.rs`.

use super::*;
use crate::cli::tests::{configuration, run};

const CLIENT: [&str; 6] = ["--ip", "192.0.2.1", "--helo", "mail.example.net", "--mail-from", "a@b.example"];

#[test]
fn wrong_usage_is_told_with_what_is_expected() {
    let cases: &[(&[&str], &str)] = &[
        (&["check"], "--ip <ADDRESS>"),
        (&["check", "--ip", "192.0.2", "--helo", "x", "--mail-from", "<>"], "invalid value '192.0.2'"),
        (&["check", "--ip", "192.0.2.1", "--helo", "a b", "--mail-from", "<>"], "expected a name such as"),
        (&["check", "--ip", "192.0.2.1", "--helo", "x", "--mail-from", "a@b> SIZE=1"], "expected an address such as"),
        (&[&["check"][..], &CLIENT, &["--rcpt", "<>"]].concat(), "expected an address such as"),
        (&[&["check"][..], &CLIENT, &["--dns", "dns.example"]].concat(), "\"192.0.2.53:5353\""),
        (&[&["check"][..], &CLIENT, &["--config", "/nonexistent/gate.toml"]].concat(), "/nonexistent/gate.toml can't"),
    ];
    for (arguments, expected) in cases {
        let (code, message) = run(arguments).unwrap_err();
        assert_eq!(code, 2, "{arguments:?}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_exit_code_1() {
    let (code, message) = run(&[&["check", "/nonexistent/mail.eml"][..], &CLIENT].concat()).unwrap_err();
    assert_eq!(code, 1);
    assert!(message.starts_with("/nonexistent/mail.eml can't be read: No such file"), "{message}");
}

#[test]
fn addresses_are_taken_with_and_without_brackets() {
    for null in ["", "<>"] {
        assert_eq!(reverse_path(null), Ok(ReversePath::Null));
    }
    assert_eq!(reverse_path("a@b.example"), reverse_path("<a@b.example>"));
    assert!(forward_path("").is_err());
    for wrong in ["<a@b.example", "a@b\r\n.example", "<a@b.example> SIZE=1"] {
        assert!(reverse_path(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_message_that_is_too_big_is_refused_unseen() {
    let (directory, config) = configuration("[limits]\nmessage_size = \"64KiB\"\nheader_size = \"16KiB\"");
    let path = directory.path().join("mail.eml");
    let cases = [
        ("Subject: x\n\n".to_owned() + &"text\n".repeat(20_000), "552 5.3.4 Message too big"),
        ("Subject: x\n".to_owned() + &" folded\n".repeat(3000) + "\n", "552 5.3.4 Header section too big"),
        ("Subject: x\n".repeat(1001) + "\n", "552 5.3.4 Header section has too many fields"),
        ("Received: x\n".repeat(101) + "\n", "554 5.4.6 Too many hops"),
    ];
    for (text, expected) in cases {
        std::fs::write(&path, text).unwrap();
        let arguments = [&["check", path.to_str().unwrap(), "--config", &config][..], &CLIENT].concat();
        let text = run(&arguments).unwrap();
        assert!(text.contains(expected) && text.ends_with("The message is refused.\n"), "{text}");
        let json = run(&[&arguments[..], &["--json"]].concat()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["fate"], &json["evaluation"]), (&"refused".into(), &serde_json::Value::Null));
    }
}
