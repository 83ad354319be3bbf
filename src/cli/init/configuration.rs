//! Writes the configuration for what was found: what has to be said, with the reason, and what is worth a look. Pure.

use std::fmt::Write as _;

use super::Mta;
use super::found::{ADMIN_PORT, Access, Certificate, CertificateSource, Found, Gate, Hint, Presence};
use crate::process::USER;

/// The whole file. It is a valid one.
pub fn write(found: &Found) -> String {
    let mut text = head(found);
    listeners(found, &mut text);
    tls(found, &mut text);
    upstream(found, &mut text);
    text.push_str(POLICY);
    if guards_recipients(found.mta) {
        let domain = found.domain();
        // Writing to a string can't fail, here and below.
        let _ = write!(
            text,
            "\n[smtp]\n# The domains that your mail server takes mail for: what is for others is refused. Where the server can't see\n\
             # the client it might believe that all mail comes from a neighbour, and relay it.\n\
             recipient_domains = [\"{domain}\"]   # CHANGE: all of yours\n"
        );
    }
    let admin = found.admin();
    let moved = match admin.port() {
        ADMIN_PORT => String::new(),
        port => format!("# {port}: something else than a gate has port {ADMIN_PORT}, the default, at present.\n"),
    };
    let _ = write!(
        text,
        "\n[admin]\n# The status page, /metrics for Prometheus, /healthz and /readyz. See token_file before you take it off loopback.\n{moved}address = \"{admin}\"\n"
    );
    text
}

/// How to name the mail server in a sentence.
pub fn name(mta: Mta) -> &'static str {
    match mta {
        Mta::Postfix => "Postfix",
        Mta::Exim => "Exim",
        Mta::OpenSmtpd => "OpenSMTPD",
        Mta::Exchange => "Exchange",
        Mta::Other => "your mail server",
    }
}

/// Whether the gate has to know the domains that mail is for: where nobody can be sure that the server sees the client.
pub fn guards_recipients(mta: Mta) -> bool {
    matches!(mta, Mta::Exchange | Mta::Other)
}

fn head(found: &Found) -> String {
    let server = match (found.mta, found.presence) {
        (Mta::Other, Presence::Assumed) => "no mail server was found on this machine".to_owned(),
        (mta, Presence::Installed) => format!("{} was found on this machine", name(mta)),
        (mta, Presence::Assumed) => format!("for {}, which is not on this machine", name(mta)),
    };
    let named = match found.hostname.label_count() {
        1 => "   # CHANGE: this one has no domain, and other servers may refuse it",
        _ => "",
    };
    format!(
        "# The configuration of dmarcgate, written by `dmarcgate init`: {server}.\n\
         #\n\
         # Everything else has a default; `dmarcgate config show --reference` explains every key.\n\
         #   dmarcgate config check       says what is wrong with this file\n\
         #   dmarcgate check-upstream     says how gate and mail server get on\n\
         #   systemctl reload dmarcgate   takes a change over, without a restart\n\
         \n\
         # The name in greetings and results: the one that your MX record has.\n\
         hostname = \"{}\"{named}\n",
        found.hostname
    )
}

fn listeners(found: &Found, text: &mut String) {
    let holder = match (found.taken.contains(&25), found.gate, found.mta) {
        (false, ..) => String::new(),
        (true, Gate::Runs, _) => "\n# A gate runs on this machine already: probably it has this port.".to_owned(),
        (true, Gate::Unseen, mta) => {
            format!("\n# At present something else has it, probably {}: see `dmarcgate init --mta {mta}`.", name(mta))
        }
    };
    let _ = write!(text, "\n# Port 25, where other servers deliver.{holder}\n");
    let tls = if usable(found).is_some() { "starttls" } else { "off" };
    let all = ["0.0.0.0:25", "[::]:25"];
    let addresses = if found.has_ipv6 { &all[..] } else { &all[..1] };
    let tables: Vec<_> =
        addresses.iter().map(|address| format!("[[listener]]\naddress = \"{address}\"\ntls = \"{tls}\"\n")).collect();
    text.push_str(&tables.join("\n"));
}

/// The certificate, if the gate can show it.
fn usable(found: &Found) -> Option<&Certificate> {
    found.certificate.as_ref().filter(|certificate| certificate.access == Access::Granted)
}

fn tls(found: &Found, text: &mut String) {
    let Some(certificate) = &found.certificate else {
        text.push_str(
            "\n# No certificate was found, so TLS is off. With one, set tls = \"starttls\" above and:\n\
             #[tls]\n#certificate = \"/etc/dmarcgate/cert.pem\"\n#key = \"/etc/dmarcgate/key.pem\"\n",
        );
        return;
    };
    let whose = match certificate.source {
        CertificateSource::MailServer => "The certificate that the mail server has in its configuration.",
        CertificateSource::LetsEncrypt => "Let's Encrypt's; a renewed one is read within a minute.",
        CertificateSource::Snakeoil => {
            "Debian's self-signed one: as good as any for senders, who hardly ever verify. Get a real one."
        }
    };
    let _ = write!(text, "\n# {whose}\n");
    let sign = match &certificate.access {
        Access::Granted => "",
        Access::Group(group) => {
            let _ = writeln!(
                text,
                "# TLS is off until the user {USER} can read the key: `adduser {USER} {group}`, then set tls = \"starttls\" above\n\
                 # and take the \"#\" off the three lines below."
            );
            "#"
        }
        Access::Root => {
            let _ = writeln!(
                text,
                "# TLS is off, since only root can read the key. Let the user {USER} read it (with setfacl: the file, and every\n\
                 # directory on the way), also after it is renewed; then set tls = \"starttls\" above and take the \"#\" off\n\
                 # the three lines below."
            );
            "#"
        }
    };
    let (chain, key) = (certificate.certificate.display(), certificate.key.display());
    let _ = write!(text, "{sign}[tls]\n{sign}certificate = \"{chain}\"\n{sign}key = \"{key}\"\n");
}

fn upstream(found: &Found, text: &mut String) {
    let server = match found.mta {
        Mta::Exchange => "192.0.2.25:25".to_owned(),
        _ => found.upstream().to_string(),
    };
    let place = match (found.mta, found.inside) {
        (Mta::Exchange, _) => "# Your Exchange server.   CHANGE: its address".to_owned(),
        (mta, Some(_)) => format!("# Where {} takes mail behind the gate; it is set up so already.", name(mta)),
        (mta, None) => {
            format!("# Where {} is to take mail behind the gate: see `dmarcgate init --mta {mta}`.", name(mta))
        }
    };
    let (identity, how) = match (found.mta, found.inside.map(|inside| inside.identity)) {
        (_, Some(Hint::Proxy)) | (Mta::Exim | Mta::OpenSmtpd, _) => {
            ("proxy-v2", "By the PROXY protocol it learns who the real client is.")
        }
        (Mta::Postfix, _) => ("xclient", "By XCLIENT it learns who the real client is."),
        (Mta::Exchange, _) => {
            ("received", "It can't be told who the real client is: a Received field says so, no more.")
        }
        (Mta::Other, _) => {
            ("auto", "If it announces XCLIENT, it learns who the real client is; else nothing but a Received field.")
        }
    };
    let _ = write!(text, "\n[upstream]\n{place}\nservers = [\"{server}\"]\n# {how}\nidentity = \"{identity}\"\n");
    let processes = match (found.mta, found.processes) {
        (Mta::Postfix, found) => Some(found.unwrap_or(POSTFIX_PROCESSES)),
        _ => None,
    };
    if let Some(processes) = processes {
        let _ = write!(
            text,
            "# As many as Postfix serves at a time (default_process_limit).\nconnections = {}\n",
            processes.clamp(1, 100_000)
        );
    }
}

const POLICY: &str = "
[policy]
# Begin by looking on: nothing is refused or marked, everything is evaluated, recorded and counted. When the results look
# right: \"tag\", then \"enforce\".
mode = \"monitor\"

[bypass]
# Hosts of your own that send by port 25, such as programs on this machine: their mail is not evaluated.
trusted_networks = [\"127.0.0.0/8\", \"::1/128\"]
";

/// Postfix's own default.
const POSTFIX_PROCESSES: u32 = 100;

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::cli::init::{found::Inside, mta};
    use crate::config::Config;
    use crate::domain::Domain;

    /// A machine on which nothing is.
    pub fn bare(mta: Mta) -> Found {
        Found {
            hostname: Domain::parse("mx.example.net").unwrap(),
            mta,
            presence: Presence::Assumed,
            inside: None,
            taken: BTreeSet::new(),
            gate: Gate::Unseen,
            has_ipv6: true,
            certificate: None,
            processes: None,
        }
    }

    fn with_certificate(found: Found, source: CertificateSource, access: Access) -> Found {
        let path = |name: &str| PathBuf::from(format!("/etc/letsencrypt/live/mx.example.net/{name}.pem"));
        let certificate = Certificate { certificate: path("fullchain"), key: path("privkey"), source, access };
        Found { certificate: Some(certificate), ..found }
    }

    fn cases() -> Vec<(&'static str, Found)> {
        let installed = |mta| Found { presence: Presence::Installed, taken: BTreeSet::from([25]), ..bare(mta) };
        let inside = |port, identity| Some(Inside { address: ([127, 0, 0, 1], port).into(), identity });
        let postfix = with_certificate(installed(Mta::Postfix), CertificateSource::LetsEncrypt, Access::Granted);
        let group = Access::Group("ssl-cert".to_owned());
        vec![
            ("postfix", postfix.clone()),
            ("postfix-behind", Found { inside: inside(10025, Hint::Proxy), processes: Some(50), ..postfix }),
            ("exim", with_certificate(installed(Mta::Exim), CertificateSource::MailServer, Access::Root)),
            (
                "opensmtpd",
                Found {
                    has_ipv6: false,
                    ..with_certificate(installed(Mta::OpenSmtpd), CertificateSource::Snakeoil, group)
                },
            ),
            ("exchange", bare(Mta::Exchange)),
            (
                "other",
                Found {
                    hostname: Domain::parse("mx").unwrap(),
                    taken: BTreeSet::from([25, 9125, 10025]),
                    ..bare(Mta::Other)
                },
            ),
        ]
    }

    #[test]
    fn each_configuration_and_its_lines_are_as_the_golden_files_have_them() {
        for (name, found) in cases() {
            golden(&format!("{name}.toml"), &write(&found));
            golden(&format!("{name}.txt"), &mta::lines(&found));
        }
    }

    #[test]
    fn a_gate_that_runs_is_no_stranger() {
        let found = Found { taken: BTreeSet::from([25, 9125]), ..bare(Mta::Postfix) };
        let text = write(&Found { gate: Gate::Runs, ..found.clone() });
        assert!(text.contains("A gate runs on this machine already") && !text.contains("something else"), "{text}");
        assert!(text.ends_with("loopback.\naddress = \"127.0.0.1:9125\"\n"), "{text}");
        let text = write(&found);
        assert!(text.contains("At present something else has it, probably Postfix"), "{text}");
        let moved = "# 9126: something else than a gate has port 9125, the default, at present.\naddress = \"127.0.0.1:9126\"\n";
        assert!(text.ends_with(moved), "{text}");
    }

    #[test]
    fn each_configuration_is_valid_in_mode_monitor_and_fits_the_width() {
        for (name, found) in cases() {
            let text = write(&found);
            let loaded = Config::parse(&text).unwrap_or_else(|problems| panic!("{name}: {problems:?}\n{text}"));
            assert_eq!(loaded.config.policy.mode, crate::config::Mode::Monitor);
            assert!(text.lines().all(|line| line.chars().count() <= 130), "{name}");
            let listens = loaded.config.listeners.len();
            assert_eq!(listens, if found.has_ipv6 { 2 } else { 1 }, "{name}");
            assert!(!loaded.config.admin.address.eq(&found.upstream()), "{name}");
        }
    }

    /// Holds a text to a file of `tests/data/init`; `UPDATE_GOLDEN=1` writes it.
    fn golden(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/init").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, known, "{name} differs; UPDATE_GOLDEN=1 cargo test rewrites it");
    }
}
