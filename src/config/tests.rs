//! The file as a whole: defaults, the reference, problems.

use std::collections::BTreeSet;

use super::*;

const SMALLEST: &str = "[upstream]\nservers = [\"127.0.0.1:10025\"]\n";

fn problems(text: &str) -> Vec<String> {
    let problems = Config::parse(text).err().unwrap_or_default();
    let line = |problem: &Problem| problem.line.map_or(String::new(), |line| line.to_string());
    problems.iter().map(|problem| format!("{}: {}: {}", line(problem), problem.key, problem.message)).collect()
}

/// The reference with each example put into force.
fn with_examples() -> String {
    let is_key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase()) || line.starts_with('[');
    let lines = REFERENCE.lines().map(|line| line.strip_prefix('#').filter(is_key).unwrap_or(line));
    // Keys at the top come before all tables, as in the reference.
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_upstream_alone_is_a_working_configuration() {
    let config = Config::parse(SMALLEST).unwrap().config;
    assert_eq!(config.upstream.servers[0].to_string(), "127.0.0.1:10025");
    assert_eq!(config.authserv_id, config.hostname);
    let listeners: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(listeners, ["0.0.0.0:25", "[::]:25"]);
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9125");
    assert_eq!(config.policy.mode, Mode::Enforce);
    assert_eq!(Config::built_in(), config);
}

#[test]
fn what_is_not_text_is_told_with_its_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"# a\n# M\xfcller\n").unwrap();
    let text = Config::load(file.path()).unwrap_err().to_string();
    assert_eq!(
        text,
        format!("{}:2: not UTF-8: expected a text in that encoding, comments included", file.path().display())
    );
}

#[test]
fn a_host_name_that_none_can_be_is_a_warning() {
    for (name, expected) in [
        ("192.0.2.1", Some("hostname is 192.0.2.1, an address: ")),
        ("mail_1.example.net", Some("hostname is mail_1.example.net, with an underscore: ")),
        ("mail.example.net", None),
    ] {
        let config = Config::parse(&format!("hostname = \"{name}\"\n{SMALLEST}"))
            .unwrap_or_else(|problems| panic!("{name}: {problems:?}"))
            .config;
        let warning = config.warnings().into_iter().find(|warning| warning.starts_with("hostname"));
        let fits = match (&warning, expected) {
            (Some(warning), Some(expected)) => warning.starts_with(expected),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(fits, "{name}: {warning:?}");
    }
}

#[test]
fn the_reference_is_what_holds_without_it() {
    assert_eq!(Config::parse(REFERENCE).unwrap().config, Config::parse(SMALLEST).unwrap().config);
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let text = with_examples();
    let loaded = Config::parse(&text).unwrap();
    let missing: BTreeSet<_> = loaded.lines.iter().filter(|l| l.origin == Origin::Default).map(Line::path).collect();
    assert_eq!(missing, BTreeSet::new(), "keys that the reference does not show");
    // That it shows no other is what parsing has proved: unknown keys are refused.
    assert!(Config::parse(&format!("unknown = 1\n{text}")).is_err());
}

#[test]
fn the_effective_configuration_reads_as_itself() {
    let loaded = Config::parse(&with_examples()).unwrap();
    assert_eq!(Config::parse(&loaded.to_toml()).unwrap().config, loaded.config);
    let shown = Config::parse(SMALLEST).unwrap().to_toml();
    assert_eq!(Config::parse(&shown).unwrap().config, Config::parse(SMALLEST).unwrap().config);
    assert!(shown.contains("servers = [\"127.0.0.1:10025\"]\n"), "{shown}");
    assert!(shown.contains("mode = \"enforce\"  # default\n"), "{shown}");
    assert!(shown.contains("# from is not set\n"), "{shown}");
}

#[test]
fn the_example_of_the_design_is_understood() {
    let text = r#"
        hostname = "mx.example.net"
        [[listener]]
        address = "127.0.0.1:2525"
        tls = "off"
        proxy_protocol_from = ["127.0.0.0/8"]
        [upstream]
        servers = ["127.0.0.1:10025"]
        identity = "proxy-v2"
        hold = "30s"
        [dns]
        servers = ["127.0.0.1:5353"]
        [policy]
        mode = "tag"
        reject = "always"
        [bypass]
        trusted_networks = ["192.0.2.0/24", "2001:db8::/32"]
        [smtp]
        bare_newline = "reject"
        recipient_domains = ["*"]
    "#;
    let config = Config::parse(text).unwrap().config;
    assert_eq!(config.upstream.identity, Identity::ProxyV2);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.bypass.trusted_networks.len(), 2);
    assert_eq!(config.smtp.recipient_domains, [RecipientDomain::Any]);
    assert_eq!(config.dns.servers[0].0.address.port(), 5353);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn each_problem_is_named_with_line_key_value_and_what_is_allowed() {
    let cases = [
        ("", "no upstream", ": upstream.servers: is missing; write for example: servers = [\"127.0.0.1:10025\"]"),
        ("[upstream]\n", "an empty table", "1: upstream.servers: is missing"),
        ("[upstream]\nservers = []\n", "an empty list", "2: upstream.servers: needs at least one server"),
        (
            "[upstream]\nservers = [\n  \"127.0.0.1:25000\",\n  \"nowhere\",\n]\n",
            "one wrong item",
            "4: upstream.servers: \"nowhere\" is not allowed; expected a server with a port",
        ),
        (
            "[policy]\nmode = \"enforced\"\n",
            "a word",
            "2: policy.mode: \"enforced\" is not allowed; expected one of \"monitor\", \"tag\", \"enforce\"; did you \
             mean \"enforce\"?",
        ),
        (
            "[policy]\nsigns = [\"list_fields\", \"skipped_signature\"]\n",
            "a sign that always counts",
            "2: policy.signs: \"skipped_signature\" is not allowed; expected one of \"broken_signature\", \
             \"unsigned_end\", \"list_fields\", \"arc_chain\"; skipped_signature is a bound of the gate's own",
        ),
        (
            "[policy]\nsigns = [\"arc_undecided\"]\n",
            "a sign that goes with another",
            "2: policy.signs: \"arc_undecided\" is not allowed; expected one of",
        ),
        ("[policy]\nmdoe = \"tag\"\n", "a key", "2: policy.mdoe: unknown key; did you mean policy.mode?"),
        (
            "[reports.inbound]\naddreses = []\n",
            "a key of a table in a table",
            "2: reports.inbound.addreses: unknown key; did you mean reports.inbound.addresses?",
        ),
        ("[reports]\ninbound = 3\n", "no table", "2: reports.inbound: expected a table [reports.inbound]"),
        (
            "[reports.inbound]\naddresses = [\"dmarc\"]\n",
            "half an address",
            "2: reports.inbound.addresses: dmarc has no domain; expected addresses such as \"dmarc@example.net\"",
        ),
        ("[polcy]\nmode = \"tag\"\n", "a table", "1: polcy: unknown key; did you mean policy?"),
        ("message_size = \"1MiB\"\n", "a key at the top", "unknown key; did you mean limits.message_size?"),
        ("[log]\nmode = \"tag\"\n", "a key elsewhere", "2: log.mode: unknown key; did you mean policy.mode?"),
        ("[log]\ncolour = true\n", "nothing like it", "2: log.colour: unknown key; expected one of format, level, "),
        ("colour = true\n", "nothing like it at the top", ": colour: unknown key; expected one of [admin], [bypass], "),
        (
            "[tls]\ncertificate = \"/c\"\n",
            "a certificate without a key",
            ": tls.key: is missing: tls.certificate needs its key",
        ),
        ("[tls]\nkey = \"/k\"\n", "a key without a certificate", ": tls.certificate: is missing: tls.key needs"),
        (
            "[tls]\ncertificate = [\"/c\", \"/d\"]\nkey = \"/k\"\n",
            "two certificates and a key",
            "3: tls.key: has 1 keys for 2 certificates; expected as many, in the same order",
        ),
        (
            "[tls]\ncertificate = [\"/c\", \"d\"]\n",
            "one of two certificates",
            "2: tls.certificate: \"d\" is not allowed; expected an absolute path",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\ntls = \"starttls\"\n",
            "listener TLS",
            "3: listener.tls: \"starttls\" needs tls.certificate and tls.key; without them only \"off\"",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\nrequire_tls = true\n",
            "what is not offered is demanded",
            "3: listener.require_tls: goes with tls = \"starttls\" alone; here it is \"off\"",
        ),
        (
            "[upstream]\ntls_pin = [\"abc\"]\n",
            "a pin",
            "2: upstream.tls_pin: \"abc\" is not allowed; expected the SHA-256 of a public key",
        ),
        ("[[listener]]\ntls = \"off\"\n", "no address", "1: listener.address: is missing"),
        ("[listener]\naddress = \"127.0.0.1:1\"\n", "one table", "listener: expected tables [[listener]]"),
        ("listener = []\n", "no tables", "1: listener: expected tables [[listener]]"),
        ("policy = 1\n", "no table", "1: policy: expected a table [policy]"),
        (
            "[reports]\nenabled = true\n",
            "reports by nobody",
            "2: reports.enabled: reports can't be sent without reports.from",
        ),
        (
            "[reports]\nenabled = true\nfrom = \"r@a.example\"\n",
            "nobody's reports",
            "2: reports.enabled: reports can't be sent without reports.organization",
        ),
        ("[reports]\ndkim_selector = \"s1\"\n", "no key", "2: reports.dkim_selector: has 1 selectors for 0 keys"),
        (
            "[reports]\nfrom = \"r@a.example\"\nbounce_domain = \"a.example\"\n",
            "bounces among mail",
            "3: reports.bounce_domain: is the domain of from",
        ),
        ("[reports]\nrelay_user = \"u\"\n", "no password", "2: reports.relay_user: goes together with"),
        (
            "[reports]\nrelay = \"192.0.2.1:587\"\nrelay_user = \"u\"\nrelay_password_file = \"/p\"\n",
            "a password in the clear",
            "3: reports.relay_user: the password would be told in the clear",
        ),
        ("[reports]\ndeny = [\"not a domain\"]\n", "denied", "2: reports.deny: "),
        ("[reports]\nfrom = \"me\"\n", "no address", "2: reports.from: has no domain"),
        ("[store]\nurl = \"postgres://h/db\"\n", "no user", "expected \"postgres://user@host/database\", with user"),
        (
            "[store]\nurl = \"postgres://u:hunter2@h/db?sslmode=no\"\n",
            "a password in what is wrong",
            "2: store.url: \"postgres://u:***@h/db?sslmode=no\" is not allowed; expected sslmode=disable",
        ),
        ("[limits]\nsignatures = 101\n", "a range", "2: limits.signatures: 101 is out of range; expected 1 to 100"),
        (
            "[limits]\nmessage_size = \"1MiB\"\nheader_size = \"2MiB\"\n",
            "a size in a size",
            "3: limits.header_size: is more than limits.message_size",
        ),
        (
            "[timeouts]\nevaluation = \"2m\"\n",
            "the client's patience",
            ": timeouts.upstream_final: together with timeouts.evaluation this is ten minutes or more",
        ),
        (
            "[upstream]\nservers = [\"127.0.0.1:10025\"]\nidentity = \"none\"\n",
            "an open relay",
            "3: upstream.identity: \"none\" hides the client from the upstream",
        ),
        (
            "[smtp]\nrecipient_domains = [\"*\", \"example.net\"]\n",
            "all and one",
            "2: smtp.recipient_domains: \"*\" stands for every domain",
        ),
        (
            "[upstream]\nservers = [\"127.0.0.1:25\"]\n",
            "a loop",
            "2: upstream.servers: 127.0.0.1:25 is a listener of this gate: mail would loop",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:9125\"\n",
            "one address twice",
            ": admin.address: 127.0.0.1:9125 is used by a listener, too",
        ),
        (
            "[[listener]]\naddress = \"0.0.0.0:9125\"\n",
            "all of IPv4 and the admin listener",
            ": admin.address: 127.0.0.1:9125 and a listener's 0.0.0.0:9125 are one port",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:25\"\n[[listener]]\naddress = \"0.0.0.0:25\"\nreuse_port = true\n",
            "all of IPv4 and one of it",
            "4: listener.address: 0.0.0.0:25 and another listener's 127.0.0.1:25 are one port",
        ),
        ("[policy]\nmode = \n", "no TOML", "2: : not valid TOML: "),
        ("[policy]\nmode = \"tag\"\nmode = \"tag\"\n", "a key twice", "3: : not valid TOML: duplicate key mode"),
        ("[policy]\n[dns]\n[policy]\n", "a table twice", "3: : not valid TOML: duplicate key policy"),
        ("hostname = \"not a name\"\n", "a host name", "1: hostname: \"not a name\" is not allowed"),
        ("hostname = \"\"\"\na\nb\"\"\"\n", "several lines", "expected a domain name such as \"mx.example.net\""),
    ];
    for (text, name, expected) in cases {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{name}: {expected}\n{found:#?}");
    }
}

#[test]
fn addresses_that_the_kernel_keeps_apart_are_no_problem() {
    let cases = [
        [("[::]:25", false), ("0.0.0.0:25", false)],
        [("[::]:25", false), ("127.0.0.1:25", false)],
        [("127.0.0.1:25", false), ("127.0.0.2:25", false)],
        [("0.0.0.0:25", false), ("127.0.0.1:26", false)],
        [("0.0.0.0:0", false), ("127.0.0.1:0", false)],
        [("0.0.0.0:25", true), ("127.0.0.1:25", true)],
        [("[fe80::1%2]:25", false), ("[fe80::1%3]:25", false)],
    ];
    for listeners in cases {
        let table =
            |(address, reuse_port)| format!("[[listener]]\naddress = \"{address}\"\nreuse_port = {reuse_port}\n");
        let text = listeners.map(table).concat();
        let found = problems(&text);
        assert!(!found.iter().any(|problem| problem.contains("address")), "{text}{found:#?}");
    }
}

#[test]
fn all_problems_are_named_at_once_in_the_order_of_the_file() {
    let text = "[policy]\nmode = 1\nrejct = \"always\"\n[dns]\nservers = [\"x\"]\n[upstream]\nidentity = \"none\"\n";
    let lines: Vec<String> = problems(text).iter().map(|p| p.chars().take_while(|c| *c != ':').collect()).collect();
    assert_eq!(lines, ["2", "3", "5", "6", "7"]);
}

#[test]
fn an_error_shows_the_file_and_no_control_characters() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("gate.toml");
    std::fs::write(&path, "[log]\nlevel = \"\"\"\n\u{1b}[31m loud \u{85}\"\"\"\n").unwrap_or_default();
    let text = Config::load(&path).unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}:", path.display())), "{text}");
    assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text:?}");

    let missing = Config::load(&directory.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml can't be read"), "{missing}");
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let warnings = |text: &str| Config::parse(text).unwrap().config.warnings().join("\n");
    let quiet = "hostname = \"mx.example.net\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\nidentity = \"xclient\"\n";
    assert_eq!(warnings(quiet), "");
    assert!(warnings(&quiet.replace("mx.example.net", "mx")).contains("hostname"));
    assert!(warnings(&format!("{quiet}[policy]\nmode = \"monitor\"\n")).contains("nothing is refused"));
    for key in ["tls_name = \"a.example\"", "tls_ca = \"/ca.pem\""] {
        let text = format!("{quiet}tls = \"opportunistic\"\n{key}\n");
        assert!(warnings(&text).contains("with upstream.tls = \"opportunistic\" nothing is verified"), "{key}");
        assert_eq!(warnings(&text.replace("opportunistic", "required")), "", "{key}");
    }
    for (keys, expected) in [
        ("signs = [\"list_fields\"]", ""),
        ("signs = []", "policy.reject = \"corroborated\" is much as \"always\""),
        ("signs = [\"unsigned_end\"]\nreject = \"always\"", "policy.signs has no effect: policy.reject is \"always\""),
        ("signs = [\"broken_signature\", \"list_fields\", \"arc_chain\"]\nreject = \"always\"", ""),
    ] {
        let found = warnings(&format!("{quiet}[policy]\n{keys}\n"));
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{keys}: {found}");
    }
    assert!(warnings(&format!("{quiet}[tls]\ncertificate = \"/c\"\nkey = \"/k\"\n")).contains("every listener.tls"));
    let admin = |keys: &str| warnings(&format!("{quiet}[admin]\n{keys}\n"));
    assert_eq!(admin("address = \"[::1]:9125\""), "");
    assert_eq!(admin("token_file = \"/t\""), "");
    assert!(admin("address = \"0.0.0.0:9125\"").contains("set admin.token_file"));
    assert!(admin("address = \"192.0.2.1:9125\"\ntoken_file = \"/t\"").contains("in the clear"));
    assert!(warnings(&format!("{quiet}[bypass]\ntrusted_networks = [\"::/0\"]\n")).contains("whole Internet"));
    let page = format!("{quiet}[replies]\nhelp_url = \"https://a.example/\"\n");
    let own = "refused = \"no\"\noverridden = \"no\"\nunusable_from = \"no\"\n";
    assert_eq!(warnings(&page), "", "the built-in refusals name it");
    assert!(warnings(&format!("{page}{own}")).contains("replies.help_url has no effect"));
    assert_eq!(warnings(&format!("{page}{own}deferred = \"later: {{help_url}}\"\n")), "");
}

#[test]
fn a_list_comes_by_https_or_from_loopback() {
    let cases = [
        ("https://publicsuffix.org/list/public_suffix_list.dat", true),
        ("https://mirror.example:8443/psl?x=1", true),
        ("http://127.0.0.1:8080/psl", true),
        ("http://[::1]/psl", true),
        ("http://localhost/psl", true),
        ("http://publicsuffix.org/list", false),
        ("http://127.0.0.1.evil.example/", false),
        ("http://localhost@evil.example/", false),
        ("http://127.0.0.1:x/", false),
        ("https://", false),
        ("https:///list", false),
        ("https://a b/", false),
        ("ftp://publicsuffix.org/", false),
        ("file:///etc/passwd", false),
        ("publicsuffix.org", false),
    ];
    for (url, expected) in cases {
        let text = format!(
            "hostname = \"mx.example\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n[public_suffix]\nurl = \"{url}\"\n"
        );
        assert_eq!(Config::parse(&text).is_ok(), expected, "{url}");
    }
}

#[test]
fn overrides_are_read_and_what_is_wrong_with_them_is_told() {
    let with = |table: &str| format!("{SMALLEST}[[policy.override]]\n{table}");
    let sound =
        "dkim = \"Fwd.Example\"\nnetwork = [\"192.0.2.1\"]\naction = \"pass\"\nnote = \"n\"\nuntil = \"2999-01-01\"\n";
    let config = Config::parse(&with(sound)).unwrap().config;
    let local = &config.verdict().policy.overrides[0];
    assert_eq!(local.criteria.dkim_domains, [Domain::parse("fwd.example").unwrap()]);
    assert_eq!(local.kind, None, "by what fits");
    let given = Config::parse(&with(&format!("{sound}reason = \"other\"\n"))).unwrap().config;
    assert_eq!(given.verdict().policy.overrides[0].kind, Some(OverrideKind::Other));
    assert_eq!(local.until, Some(32_472_144_000));
    let cases = [
        ("spf = \"a.example\"\nnote = \"n\"\n", "policy.override.action: is missing"),
        ("spf = \"a.example\"\naction = \"pass\"\n", "policy.override.note: is missing"),
        ("action = \"pass\"\nnote = \"n\"\n", "policy.override: fits every message"),
        ("list_id = \"l.a.example\"\naction = \"tag\"\nnote = \"n\"\n", "policy.override.list_id: anyone can write"),
        ("dkim = \"com\"\naction = \"tag\"\nnote = \"n\"\n", "policy.override.dkim: a name of one label"),
        ("dkim = \"a.example\"\naction = \"drop\"\nnote = \"n\"\n", "expected one of \"pass\", \"tag\", \"reject\""),
        ("dkim = \"a.example\"\naction = \"tag\"\nnote = \"\"\n", "expected one line of 1 to 200 characters"),
        ("dkim = \"a.example\"\naction = \"tag\"\nnote = \"n\"\nuntil = \"2026-02-30\"\n", "a date such as"),
        ("helo = \"a.example\"\naction = \"tag\"\nnote = \"n\"\n", "policy.override.helo: unknown key"),
    ];
    for (table, expected) in cases {
        let problems = problems(&with(table));
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{table}: {problems:?}");
    }
}

#[test]
fn a_shadow_takes_over_what_it_does_not_set() {
    let policy = "[policy]\nmode = \"monitor\"\nsigns = [\"list_fields\"]\ntrusted_sealers = [\"a.example\"]\n";
    let one = "[[policy.override]]\nspf = \"a.example\"\naction = \"pass\"\nnote = \"active\"\n";
    let read = |more: &str| Config::parse(&format!("{SMALLEST}{policy}{one}{more}")).unwrap();
    assert!(read("").config.verdict().shadow.is_none());

    let loaded = read("[policy.shadow]\nmode = \"enforce\"\nexempt_recipients = []\n");
    let verdict = loaded.config.verdict();
    let shadow = verdict.shadow.unwrap();
    let expected = crate::policy::LocalPolicy { mode: Mode::Enforce, ..verdict.policy };
    assert_eq!(shadow.policy, expected, "all else, the override too, is as in force");
    assert_eq!((shadow.exempt_recipients.len(), verdict.exempt_recipients.len()), (0, 2));
    let shown = loaded.to_toml();
    let table = shown.split("[policy.shadow]\n").nth(1).unwrap().split("\n[").next().unwrap();
    assert!(table.starts_with("mode = \"enforce\"\n# reject = \"corroborated\", as in [policy]\n"), "{shown}");
    assert_eq!(Config::parse(&shown).unwrap().config, loaded.config);

    let cases = [
        ("[policy.shadow]\n", vec!["active"]),
        ("[policy.shadow]\noverride = []\n", vec![]),
        ("[[policy.shadow.override]]\ndkim = \"b.example\"\naction = \"tag\"\nnote = \"own\"\n", vec!["own"]),
    ];
    for (more, expected) in cases {
        let loaded = read(more);
        let overrides = loaded.config.verdict().shadow.unwrap().policy.overrides;
        assert_eq!(overrides.iter().map(|o| &*o.note).collect::<Vec<_>>(), expected, "{more}");
        assert_eq!(Config::parse(&loaded.to_toml()).unwrap().config, loaded.config, "{more}\n{}", loaded.to_toml());
    }
    for (more, expected) in [
        ("[policy.shadow]\nmdoe = \"tag\"\n", "policy.shadow.mdoe: unknown key; did you mean policy.shadow.mode?"),
        ("[policy.shadow]\ndiscovery = \"tree-walk\"\n", "policy.shadow.discovery: unknown key"),
        ("[policy]\nshadow = 1\n", "policy.shadow: expected a table [policy.shadow]"),
        ("[policy.shadow.shadow]\nmode = \"tag\"\n", "policy.shadow.shadow: unknown key"),
    ] {
        let found = problems(&format!("{SMALLEST}{more}"));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{more}: {found:?}");
    }
}

#[test]
fn a_shadow_that_is_of_no_use_is_warned_of() {
    let start = "hostname = \"mx.example.net\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n";
    let host = "[[policy.shadow.override]]\nhost = \"a.example\"\naction = \"pass\"\nnote = \"n\"\n";
    let list = "[[policy.override]]\ndkim = \"a.example\"\naction = \"pass\"\nnote = \"n\"\n";
    let cases = [
        ("[policy.shadow]\nreject = \"always\"\n".to_owned(), ""),
        ("[policy.shadow]\n".to_owned(), "policy.shadow says nothing new"),
        (host.to_owned(), "policy.shadow.override with host may not match"),
        (format!("{}{host}", host.replace(".shadow", "").replace("\"pass\"", "\"tag\"")), ""),
        ("[policy.shadow]\nsigns = []\n".to_owned(), "policy.shadow.signs is empty"),
        (
            format!("[policy]\nmode = \"monitor\"\n{list}"),
            "policy.mode is monitor\npolicy.override has no effect: policy.mode is monitor",
        ),
        (format!("[policy]\nmode = \"monitor\"\n{list}[policy.shadow]\nmode = \"tag\"\n"), "policy.mode is monitor"),
        (
            format!("{}[policy.shadow]\nmode = \"monitor\"\n", list.replace("policy.", "policy.shadow.")),
            "policy.shadow.override has no effect: policy.shadow.mode is monitor",
        ),
    ];
    for (more, expected) in cases {
        let mut warnings = Config::parse(&format!("{start}{more}")).unwrap().config.warnings();
        warnings.sort();
        let fit = warnings.iter().zip(expected.lines()).all(|(warning, expected)| warning.contains(expected));
        assert!(fit && warnings.len() == expected.lines().count(), "{more}: {warnings:?}");
    }
}

#[test]
fn a_listener_has_what_it_sets_and_the_rest_of_all() {
    let text = format!(
        "{SMALLEST}[policy]\nreject = \"always\"\nexempt_recipients = [\"root\"]\n[bypass]\nauthenticated = false\n\
         [[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\nrecipient_domains = [\"*\"]\n\
         [listener.policy]\nmode = \"tag\"\n[listener.bypass]\ntrusted_networks = [\"10.0.0.0/8\"]\n\
         [[listener.policy.override]]\nspf = \"a.example\"\naction = \"pass\"\nnote = \"n\"\n"
    );
    let loaded = Config::parse(&text).unwrap();
    let config = &loaded.config;
    assert_eq!(config.at(&config.listeners[0]), *config);
    let own = config.at(&config.listeners[1]);
    assert_eq!((own.policy.mode, own.policy.reject), (Mode::Tag, Reject::Always));
    assert_eq!(own.policy.exempt_recipients, config.policy.exempt_recipients);
    assert_eq!((own.policy.overrides.len(), config.policy.overrides.len()), (1, 0));
    assert_eq!((own.bypass.trusted_networks.len(), own.bypass.authenticated), (1, false));
    assert_eq!(own.smtp.recipient_domains, [RecipientDomain::Any]);
    assert_eq!((config.policy.mode, config.smtp.recipient_domains.len()), (Mode::Enforce, 0));

    let shown = loaded.to_toml();
    assert!(shown.contains("\n[listener.policy]\nmode = \"tag\"\n# reject = \"always\", as in [policy]\n"), "{shown}");
    assert!(shown.contains("\n[[listener.policy.override]]\n"), "{shown}");
    assert_eq!(shown.matches("[listener.policy]").count(), 1, "{shown}");
    assert_eq!(Config::parse(&shown).unwrap().config, *config);
}

#[test]
fn what_is_wrong_with_a_listeners_own_settings_is_told_at_its_line() {
    let text = |more: &str| {
        format!("{SMALLEST}[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\n{more}")
    };
    let hides = "[upstream]\nservers = [\"127.0.0.1:10025\"]\nidentity = \"none\"\n[smtp]\nrecipient_domains = []\n";
    let cases = [
        (
            text("[listener.policy]\nmdoe = 1\n"),
            "8: listener.policy.mdoe: unknown key; did you mean listener.policy.mode?",
        ),
        (text("[listener.policy]\ndiscovery = \"tree-walk\"\n"), "8: listener.policy.discovery: unknown key"),
        (text("[listener.policy]\nmode = \"off\"\n"), "8: listener.policy.mode: \"off\" is not allowed"),
        (text("policy = 1\n"), "7: listener.policy: expected a table [listener.policy]"),
        (text("recipient_domains = [\"*\", \"a.example\"]\n"), "7: listener.recipient_domains: \"*\" stands for every"),
        (
            text("[[listener.policy.override]]\naction = \"tag\"\nnote = \"n\"\n"),
            "listener.policy.override: fits every",
        ),
        (text("require_tls = true\n"), "7: listener.require_tls: goes with"),
        (
            format!(
                "{hides}[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"\n\
                 recipient_domains = [\"a.example\"]\n"
            ),
            "now nothing guards 127.0.0.1:1",
        ),
    ];
    for (text, expected) in cases {
        let problems = problems(&text);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
    let guarded = format!("{hides}[[listener]]\naddress = \"127.0.0.1:1\"\nrecipient_domains = [\"a.example\"]\n");
    assert_eq!(problems(&guarded), Vec::<String>::new());
}

#[test]
fn contradictions_are_warned_of_and_nothing_else_is() {
    let start = "hostname = \"mx.example.net\"\n[upstream]\nservers = [\"10.0.0.9:25\"]\n";
    let listener = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    let fingerprint = "AB:".repeat(31) + "AB";
    // The text, and what each warning says.
    let cases: &[(&str, String, &[&str])] = &[
        ("nothing", String::new(), &[]),
        ("enforce with all else", "[policy]\nreject = \"always\"\non_temperror = \"defer\"\nunusable_from = \"tag\"\nhonor_pct = true\ntrusted_sealers = [\"a.example\"]\ndefer_at_most = \"1h\"\n".into(), &[]),
        ("reject in tag", "[policy]\nmode = \"tag\"\nreject = \"always\"\n".into(), &["nothing is refused", "policy.reject has no effect"]),
        ("doubt in tag", "[policy]\nmode = \"tag\"\non_temperror = \"pass\"\n".into(), &["nothing is refused", "policy.on_temperror has no effect"]),
        ("From in monitor", "[policy]\nmode = \"monitor\"\nunusable_from = \"tag\"\n".into(), &["nothing is refused", "policy.unusable_from has no effect"]),
        ("pct in tag", "[policy]\nmode = \"tag\"\nhonor_pct = true\n".into(), &["nothing is refused"]),
        ("pct in monitor", "[policy]\nmode = \"monitor\"\nhonor_pct = true\n".into(), &["nothing is refused", "policy.honor_pct has no effect"]),
        ("sealers in monitor", "[policy]\nmode = \"monitor\"\ntrusted_sealers = [\"a.example\"]\n".into(), &["nothing is refused", "policy.trusted_sealers has no effect"]),
        ("a bound on what never is", "[policy]\non_temperror = \"pass\"\ndefer_at_most = \"1h\"\n".into(), &["policy.defer_at_most has no effect: policy.on_temperror"]),
        ("the same in tag", "[policy]\nmode = \"tag\"\ndefer_at_most = \"1h\"\n".into(), &["nothing is refused", "policy.defer_at_most has no effect: nothing"]),
        ("an inner network", "[bypass]\ntrusted_networks = [\"192.168.0.0/16\"]\n".into(), &[]),
        ("loopback", "[bypass]\ntrusted_networks = [\"127.0.0.0/8\"]\n".into(), &["this machine"]),
        ("the upstream", "[bypass]\ntrusted_networks = [\"10.0.0.0/24\"]\n".into(), &["with the upstream 10.0.0.9:25"]),
        ("a balancer", format!("[bypass]\ntrusted_networks = [\"10.1.0.1\"]\n{listener}proxy_protocol_from = [\"10.1.0.0/16\"]\n"), &["not the balancer"]),
        ("failure reports alone", "[reports.failure]\nenabled = true\n".into(), &["reports.failure.enabled has no effect"]),
        ("no explanations", "[explain]\nenabled = false\n".into(), &["explain.enabled"]),
        ("certificates without TLS", format!("[bypass]\nclient_certificates = [\"{fingerprint}\"]\n"), &["every listener.tls is \"off\""]),
        ("the same at one listener", format!("{listener}[listener.bypass]\nclient_certificates = [\"{fingerprint}\"]\n"), &["127.0.0.1:1: bypass.client_certificates has no effect"]),
        ("a listener of its own", format!("{listener}recipient_domains = [\"a.example\"]\n[listener.policy]\nreject = \"never\"\n[listener.bypass]\nauthenticated = false\n"), &[]),
        ("one that only repeats", format!("{listener}recipient_domains = []\n[listener.policy]\nmode = \"enforce\"\n[listener.bypass]\nauthenticated = true\n"), &["listener.policy has no effect", "listener.bypass has no effect", "listener.recipient_domains has no effect"]),
        ("one that is odd", format!("{listener}[listener.policy]\nmode = \"tag\"\nreject = \"always\"\n"), &["127.0.0.1:1: policy.mode is tag", "127.0.0.1:1: policy.reject has no effect"]),
        ("one as odd as all", format!("[policy]\nmode = \"tag\"\n{listener}[listener.policy]\nhonor_pct = true\n"), &["policy.mode is tag"]),
    ];
    for (case, text, expected) in cases {
        let warnings = Config::parse(&format!("{start}{text}")).unwrap().config.warnings();
        let told = warnings.len() == expected.len() && warnings.iter().zip(*expected).all(|(w, part)| w.contains(part));
        assert!(told, "{case}: {warnings:#?}");
    }
    assert_eq!(Config::built_in().at(&Config::built_in().listeners[0]).warnings(), Config::built_in().warnings());
}

#[test]
fn overrides_that_do_nothing_or_too_much_are_warned_of() {
    let start = "hostname = \"mx.example.net\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n";
    let table = |more: &str| format!("[[policy.override]]\naction = \"pass\"\nnote = \"n\"\n{more}\n");
    let one = table("dkim = \"a.example\"");
    let cases = [
        (one.clone(), ""),
        (format!("{one}{}", table("dkim = \"x.a.example\"\nspf = \"b.example\"")), "taken by policy.override 1"),
        (table("author_domain = \"a.example\""), "nothing is verified"),
        (table("dkim = \"a.example\"\nuntil = \"2020-01-01\""), "it held until 2020-01-01"),
        (
            format!("{}[bypass]\ntrusted_networks = [\"192.0.2.0/24\"]\n", table("network = \"192.0.2.1\"")),
            "are in bypass",
        ),
    ];
    for (tables, expected) in cases {
        let warnings = Config::parse(&format!("{start}{tables}")).unwrap().config.warnings();
        assert_eq!(warnings.is_empty(), expected.is_empty(), "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(expected)), "{expected}: {warnings:?}");
    }
}

#[test]
fn every_file_that_a_key_can_name_is_within_reach_of_the_process() {
    let text = with_examples().replace("discovery = \"tree-walk\"", "discovery = \"public-suffix\"");
    let loaded = Config::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut files = loaded.config.process(Path::new("/etc/dmarcgate/dmarcgate.toml")).files;
    // What belongs to a database server is not looked at where the store is a file.
    let server = text.replace("sqlite:///var/lib/dmarcgate/dmarcgate.db", "postgres://gate@db.example.net/gate");
    files.extend(Config::parse(&server).unwrap().config.process(Path::new("/etc/dmarcgate/dmarcgate.toml")).files);
    let mut named = 0;
    for line in &loaded.lines {
        let value = line.value.as_deref().unwrap_or_default();
        for path in value.split('"').filter_map(|word| word.strip_prefix("sqlite://").or(Some(word))) {
            if path.starts_with('/') {
                named += 1;
                let is_needed = files.iter().any(|file| file.key == line.path() && file.path == Path::new(path));
                assert!(
                    is_needed,
                    "{} names {path}: Config::files has to list it, or Landlock will hide it",
                    line.path()
                );
            }
        }
    }
    assert!(named >= 7, "{named}");
}

#[test]
fn reply_texts_name_only_what_there_is() {
    let start = "hostname = \"mx.example.net\"\n[upstream]\nservers = [\"127.0.0.1:10025\"]\n[replies]\n";
    let cases = [
        ("refused = \"see {help_url}\"", "names {help_url}, but replies.help_url is not set"),
        ("unusable_from = \"{domain} is not usable\"", "names {domain}, but such a message has none"),
        ("unusable_from = [\"no\", \"{policy}\"]", "names {policy}, but such a message has none"),
        ("help_url = \"https://a.example/{domain}\"", "of whose placeholders there is but {id}"),
        ("refusal = \"no\"", "unknown key; did you mean replies.refused?"),
    ];
    for (line, expected) in cases {
        let problems = Config::parse(&format!("{start}{line}\n")).unwrap_err();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.line == Some(5) && problem.message.contains(expected), "{line}: {problem:?}");
    }
}
