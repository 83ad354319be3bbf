//! What was found on a machine, and how it is read out of the files of mail servers and the kernel. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Mta;
use crate::domain::Domain;

/// Everything that a configuration is written from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name of the host, as far as it is one that others could know.
    pub hostname: Domain,
    /// The mail server, and whether it is there or was only named.
    pub mta: Mta,
    pub presence: Presence,
    /// Where it takes mail behind the gate already, and how it learns the client there.
    pub inside: Option<Inside>,
    /// TCP ports that something listens on.
    pub taken: BTreeSet<u16>,
    /// Whether a gate runs on this machine, with its admin listener at the default address.
    pub gate: Gate,
    /// Whether the kernel speaks IPv6.
    pub has_ipv6: bool,
    pub certificate: Option<Certificate>,
    /// Connections that the mail server serves at a time, if it says so.
    pub processes: Option<u32>,
}

/// Whether a gate runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Runs,
    /// None answers at the default address.
    Unseen,
}

/// Whether the mail server is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its configuration is here.
    Installed,
    /// It was named on the command line, or nothing was found.
    Assumed,
}

/// A listener of the mail server that is made for the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    pub address: SocketAddr,
    pub identity: Hint,
}

/// How a listener learns the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    Xclient,
    Proxy,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub source: CertificateSource,
    pub access: Access,
}

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateSource {
    /// The mail server has it in its own configuration.
    MailServer,
    /// Let's Encrypt's client has fetched it.
    LetsEncrypt,
    /// Debian's self-signed one.
    Snakeoil,
}

/// Whether the gate's user can read the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// He can.
    Granted,
    /// He could, as a member of this group.
    Group(String),
    /// Only root can.
    Root,
}

/// What Postfix's configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Postfix {
    pub hostname: Option<Domain>,
    pub inside: Option<Inside>,
    pub certificate: Option<(PathBuf, PathBuf)>,
    pub processes: Option<u32>,
}

impl Postfix {
    /// Reads `main.cf` and `master.cf` as far as it matters here.
    pub fn read(main: &str, master: &str) -> Self {
        let parameters = parameters(main);
        let value = |name: &str| Some(expand(parameters.get(name)?, &parameters, 0)).filter(|value| !value.is_empty());
        let first = |name: &str| value(name)?.split([',', ' ']).next().map(PathBuf::from);
        // From 3.4 on chains come first; one file then holds key and certificates.
        let chain = first("smtpd_tls_chain_files").map(|file| (file.clone(), file));
        let pair = first("smtpd_tls_cert_file").map(|cert| (cert.clone(), first("smtpd_tls_key_file").unwrap_or(cert)));
        let xclient = value("smtpd_authorized_xclient_hosts").is_some();
        Self {
            hostname: value("myhostname")
                .and_then(|name| Domain::parse(&name).ok())
                .filter(|name| name.label_count() > 1),
            inside: logical_lines(master).iter().find_map(|line| inside(line, xclient)),
            certificate: chain.or(pair),
            processes: value("default_process_limit").and_then(|value| value.parse().ok()),
        }
    }
}

/// A service of `master.cf` that is meant for the gate: on loopback, and told the client.
fn inside(line: &str, everywhere: bool) -> Option<Inside> {
    let words: Vec<_> = line.split_whitespace().collect();
    let &[name, "inet", _, _, _, _, _, "smtpd", ..] = words.as_slice() else { return None };
    let address: SocketAddr = name.replace("localhost:", "127.0.0.1:").parse().ok()?;
    if !address.ip().is_loopback() {
        return None;
    }
    let says = |option: &str| line.contains(option);
    let identity = match (says("smtpd_upstream_proxy_protocol=haproxy"), says("smtpd_authorized_xclient_hosts=")) {
        (true, _) => Hint::Proxy,
        (false, own) if own || everywhere => Hint::Xclient,
        _ => return None,
    };
    Some(Inside { address, identity })
}

/// `name = value`, with lines that go on.
fn parameters(main: &str) -> BTreeMap<String, String> {
    let lines = logical_lines(main);
    let pairs = lines.iter().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

/// A line that begins with white space belongs to the one before; comments and empty lines don't count.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.trim_end().to_owned()),
        }
    }
    lines
}

/// Puts `$name`, `${name}` and `$(name)` in; what is unknown is empty, as Postfix has it.
fn expand(value: &str, parameters: &BTreeMap<String, String>, depth: u8) -> String {
    let mut rest = value;
    let mut whole = String::new();
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        let inner = after.trim_start_matches(['{', '(']);
        let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        let (name, behind) = inner.split_at(end);
        rest = if inner.len() < after.len() { behind.strip_prefix(['}', ')']).unwrap_or(behind) } else { behind };
        if let Some(value) = parameters.get(name).filter(|_| depth < MAX_DEPTH) {
            whole.push_str(&expand(value, parameters, depth + 1));
        }
    }
    whole + rest
}

/// A listener of OpenSMTPD's that speaks the PROXY protocol on loopback.
pub fn opensmtpd_inside(configuration: &str) -> Option<Inside> {
    let lines = logical_lines(configuration);
    lines.iter().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["listen", "on", host, rest @ ..] = words.as_slice() else { return None };
        let host: IpAddr = if *host == "lo" { Ipv4Addr::LOCALHOST.into() } else { host.parse().ok()? };
        let port = rest.iter().skip_while(|word| **word != "port").nth(1)?.parse().ok()?;
        let speaks = rest.contains(&"proxy-v2") && host.is_loopback();
        speaks.then_some(Inside { address: (host, port).into(), identity: Hint::Proxy })
    })
}

/// A port of Exim's on loopback that `hosts_proxy` is about. `local_interfaces` has `[address]:port` or `address.port`.
pub fn exim_inside(configuration: &str) -> Option<Inside> {
    let lines = logical_lines(&configuration.replace("\\\n", " "));
    // Debian's template has an option again, from a macro, which is not for the one that stands there already.
    let values = |name| {
        let pairs = lines.iter().filter_map(|line| line.split_once('='));
        pairs.filter(move |(own, _)| own.trim() == name).map(|(_, value)| value.trim())
    };
    values("hosts_proxy").find(|value| !value.is_empty())?;
    let words = values("local_interfaces").flat_map(|interfaces| interfaces.split([';', ' ', '<']));
    let mut addresses = words.filter_map(|word| {
        let with_colon = word.replace(['[', ']'], "");
        let dotted = || with_colon.rsplit_once('.').map(|(address, port)| format!("{address}:{port}"));
        with_colon.parse::<SocketAddr>().ok().or_else(|| dotted()?.parse().ok())
    });
    let is_inner = |address: &SocketAddr| address.ip().is_loopback() && !SMTP_PORTS.contains(&address.port());
    addresses.find(is_inner).map(|address| Inside { address, identity: Hint::Proxy })
}

/// Ports that something listens on, of `/proc/net/tcp` or `/proc/net/tcp6`.
pub fn listening_ports(table: &str) -> BTreeSet<u16> {
    let rows = table.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, _, state) = (columns.next()?, columns.next()?, columns.next()?);
        let port = local.rsplit_once(':')?.1;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    });
    rows.collect()
}

/// The first of these names that has a domain; else the first that is a name at all; else an example.
#[expect(clippy::expect_used, reason = "the example is a domain name")]
pub fn hostname<'a>(candidates: impl IntoIterator<Item = &'a str>) -> Domain {
    let names: Vec<_> = candidates.into_iter().filter_map(|name| Domain::parse(name.trim()).ok()).collect();
    let is_local = |name: &Domain| {
        let last = name.labels().next_back().unwrap_or_default().to_owned();
        last == "localhost" || last == "localdomain"
    };
    let whole = names.iter().find(|name| name.label_count() > 1 && !is_local(name));
    whole
        .or(names.first())
        .cloned()
        .unwrap_or_else(|| Domain::parse("mx.example.net").expect("a literal of ours is a domain name"))
}

/// The names that `/etc/hosts` has beside a short one: the first is the canonical one.
pub fn hosts_name<'a>(hosts: &'a str, short: &str) -> Option<&'a str> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.into_iter().find_map(|line| {
        let mut names = line.split_whitespace();
        names.next()?.parse::<IpAddr>().ok()?;
        let names: Vec<_> = names.collect();
        names.contains(&short).then(|| names.first().copied())?
    })
}

impl Found {
    /// Where the mail server is to take mail behind the gate: where it does so already, else a port that is free.
    pub fn upstream(&self) -> SocketAddr {
        let free = || (INSIDE_PORT..).find(|port| !self.taken.contains(port)).unwrap_or(INSIDE_PORT);
        self.inside.map_or_else(|| (Ipv4Addr::LOCALHOST, free()).into(), |inside| inside.address)
    }

    /// Where the admin listener finds room; what a gate has that runs already is the gate's.
    pub fn admin(&self) -> SocketAddr {
        let is_free = |port: &u16| !self.taken.contains(port) || (*port == ADMIN_PORT && self.gate == Gate::Runs);
        let port = (ADMIN_PORT..).find(is_free).unwrap_or(ADMIN_PORT);
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The domain that mail is for, as far as the host's name says.
    pub fn domain(&self) -> Domain {
        self.hostname.parent().filter(|parent| parent.label_count() > 1).unwrap_or_else(|| self.hostname.clone())
    }
}

/// The port behind the gate, in all documents of ours.
const INSIDE_PORT: u16 = 10025;
/// The default of `admin.address`.
pub const ADMIN_PORT: u16 = 9125;
/// Ports for other servers and for users.
const SMTP_PORTS: [u16; 3] = [25, 465, 587];
/// The state of a socket that listens.
const LISTEN: &str = "0A";
/// Parameters within parameters; Postfix itself refuses deeper ones at some point.
const MAX_DEPTH: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "\
# a comment
myhostname = mx.$mydomain
mydomain = example.org
smtpd_tls_cert_file =
  ${certs}/mx.pem
certs = /etc/ssl/mail
default_process_limit = 50
";

    #[test]
    fn postfix_is_read_with_its_parameters_within_parameters_and_folded_lines() {
        let read = Postfix::read(MAIN, "smtp inet n - y - - smtpd\n");
        let pem = PathBuf::from("/etc/ssl/mail/mx.pem");
        let expected = Postfix {
            hostname: Domain::parse("mx.example.org").ok(),
            inside: None,
            certificate: Some((pem.clone(), pem)),
            processes: Some(50),
        };
        assert_eq!(read, expected);
        assert_eq!(Postfix::read("a = $b\nb = $a\nmyhostname = $a", ""), Postfix::default());
        assert_eq!(Postfix::read("myhostname = localhost", "").hostname, None);
    }

    #[test]
    fn a_service_for_the_gate_is_known_by_address_and_option() {
        let inside = |port, identity| Some(Inside { address: ([127, 0, 0, 1], port).into(), identity });
        let cases = [
            ("", "smtp inet n - y - - smtpd", None),
            ("", "127.0.0.1:10025 inet n - y - - smtpd", None),
            (
                "",
                "127.0.0.1:10025 inet n - y - - smtpd\n  -o smtpd_authorized_xclient_hosts=127.0.0.1",
                inside(10025, Hint::Xclient),
            ),
            (
                "",
                "localhost:26 inet n - y - - smtpd\n\t-o smtpd_upstream_proxy_protocol=haproxy",
                inside(26, Hint::Proxy),
            ),
            (
                "smtpd_authorized_xclient_hosts = 127.0.0.1",
                "127.0.0.1:10025 inet n - - - - smtpd",
                inside(10025, Hint::Xclient),
            ),
            ("", "192.0.2.1:10025 inet n - y - - smtpd -o smtpd_authorized_xclient_hosts=127.0.0.1", None),
            ("", "127.0.0.1:10025 inet n - y - - qmqpd -o smtpd_authorized_xclient_hosts=127.0.0.1", None),
        ];
        for (main, master, expected) in cases {
            assert_eq!(Postfix::read(main, master).inside, expected, "{main} {master}");
        }
    }

    #[test]
    fn listeners_of_others_are_known_by_the_proxy_protocol() {
        let inside = |port| Some(Inside { address: ([127, 0, 0, 1], port).into(), identity: Hint::Proxy });
        for (line, expected) in [
            ("listen on 127.0.0.1 port 10025 proxy-v2 hostname x", inside(10025)),
            ("listen on lo port 10027 proxy-v2", inside(10027)),
            ("listen on eth0 port 10025 proxy-v2", None),
            ("listen on 127.0.0.1 port 10025", None),
            ("# listen on 127.0.0.1 port 10025 proxy-v2", None),
        ] {
            assert_eq!(opensmtpd_inside(line), expected, "{line}");
        }
        let hosts = "hosts_proxy = 127.0.0.1\n";
        for (lines, expected) in [
            ("local_interfaces = <; [127.0.0.1]:10025 ; [0.0.0.0]:465", inside(10025)),
            ("local_interfaces = 127.0.0.1.10026", inside(10026)),
            ("local_interfaces = <; [127.0.0.1]:10025\nlocal_interfaces = MAIN_LOCAL_INTERFACES", inside(10025)),
            ("local_interfaces = <; [127.0.0.1]:587", None),
            ("local_interfaces = <; [192.0.2.1]:10025", None),
        ] {
            assert_eq!(exim_inside(&format!("{hosts}{lines}\n")), expected, "{lines}");
            assert_eq!(exim_inside(lines), None, "{lines}");
        }
    }

    #[test]
    fn ports_are_read_from_the_tables_of_the_kernel() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 0100007F:2729 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:2730 0100007F:1234 01 00000000:00000000\n\
                     2: 00000000000000000000000000000000:0019 00000000000000000000000000000000:0000 0A 0:0\n\
                     nonsense\n";
        assert_eq!(listening_ports(table), BTreeSet::from([0x2729, 25]));
    }

    #[test]
    fn a_name_with_a_domain_is_preferred() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 mx.example.org mx # ours\n";
        assert_eq!(hosts_name(hosts, "mx"), Some("mx.example.org"));
        assert_eq!(hosts_name(hosts, "other"), None);
        for (names, expected) in [
            (&["mx", "mx.example.org"][..], "mx.example.org"),
            (&["mx\n", "mx.localdomain"], "mx"),
            (&["a.example.org", "b.example.org"], "a.example.org"),
            (&["not a name"], "mx.example.net"),
        ] {
            assert_eq!(hostname(names.iter().copied()).as_str(), expected);
        }
    }
}
