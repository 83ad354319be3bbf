//! Handshakes on loopback: which certificate is shown to whom, what is read anew, whom the upstream side believes.

#[allow(dead_code, reason = "the harness of the integration tests has more than is needed here")]
#[path = "../../tests/it/support/certificates.rs"]
mod certificates;

use std::path::Path;
use std::time::{Duration, SystemTime};

use ::aws_lc_rs::digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use self::certificates::{Authority, Certificate, DAY, Handshake as Wish, Negotiated, Wanted};
use super::server::{Concern, concerns};
use super::*;
use crate::domain::Domain;
use crate::label::Label;
use crate::metrics::Registry;
use crate::smtp::stream::Stream;

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];

fn files(directory: &Path, name: &str) -> CertificateFiles {
    CertificateFiles { certificate: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) }
}

fn settings(certificates: Vec<CertificateFiles>) -> ServerSettings {
    ServerSettings {
        certificates,
        hide_from: vec!["192.0.2.0/24".parse().unwrap()],
        hostname: Domain::parse("mx.example.net").unwrap(),
        handshake: Duration::from_secs(20),
    }
}

/// A server that shows these, in this order; the files are `0.pem`, `0.key`, `1.pem` and so on.
fn server(directory: &Path, certificates: &[Certificate]) -> (Server, Registry) {
    let each = certificates.iter().enumerate().map(|(n, certificate)| {
        certificate.write(directory, &n.to_string());
        files(directory, &n.to_string())
    });
    let registry = Registry::new();
    (Server::open(settings(each.collect()), ServerMetrics::new(&registry)).unwrap(), registry)
}

async fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Stream::new(listener.accept().await.unwrap().0), peer)
}

/// What a client is shown; none if the handshake fails.
async fn shown(server: &Server, wish: &Wish) -> Option<Negotiated> {
    let (stream, peer) = pair().await;
    let (config, name) = wish.client();
    let connector = TlsConnector::from(config);
    let nobody = Named::default();
    let (accepted, connected) = tokio::join!(server.accept(stream, &nobody), connector.connect(name, peer));
    let (_, protection) = accepted.ok()?;
    let connected = connected.ok()?;
    let negotiated = Negotiated::of(connected.get_ref().1, None);
    assert_eq!(protection.version.as_str(), negotiated.version);
    Some(negotiated)
}

fn count(registry: &Registry, series: &str) -> bool {
    registry.render().lines().any(|line| line == series)
}

#[tokio::test]
async fn a_client_is_shown_what_it_asks_for_and_can_verify() {
    let directory = tempfile::tempdir().unwrap();
    let made = [
        Wanted::new(&["mx.example.net"]).self_signed(),
        Wanted::new(&["mx.example.net"]).rsa().self_signed(),
        Wanted::new(&["*.example.org", "example.org"]).self_signed(),
        Wanted::new(&["rsa.example.com"]).rsa().self_signed(),
    ];
    let (server, registry) = server(directory.path(), &made);
    let any = Wish::default;
    let cases: [(&str, Wish, Option<usize>); 15] = [
        ("no name", any(), Some(0)),
        ("no name, RSA alone", any().schemes(RSA), Some(1)),
        ("no name, RSA alone, TLS 1.2", any().schemes(RSA).version_1_2(), Some(1)),
        ("no name, ECDSA alone, TLS 1.2", any().schemes(ECDSA).version_1_2(), Some(0)),
        ("a name", any().name("mx.example.net"), Some(0)),
        ("a name in capitals", any().name("MX.Example.ORG"), Some(2)),
        ("a name, RSA alone", any().name("mx.example.net").schemes(RSA), Some(1)),
        ("a wildcard", any().name("a.example.org"), Some(2)),
        ("the name itself", any().name("example.org"), Some(2)),
        ("two labels for a wildcard", any().name("a.b.example.org"), Some(0)),
        ("another kind of key", any().name("rsa.example.com"), Some(3)),
        ("the name, but its key can't sign", any().name("rsa.example.com").schemes(ECDSA), Some(0)),
        ("the wildcard's key can't sign", any().name("a.example.org").schemes(RSA), Some(1)),
        ("an unknown name", any().name("nobody.example"), Some(0)),
        ("a signature that nobody has", any().schemes(&[SignatureScheme::ED25519]), None),
    ];
    for (case, wish, expected) in cases {
        let found = shown(&server, &wish).await.map(|negotiated| {
            made.iter().position(|certificate| negotiated.is_shown(certificate)).expect("one of ours")
        });
        assert_eq!(found, expected, "{case}");
    }
    assert!(count(&registry, "dmarcgate_tls_handshakes_total{result=\"ok\"} 14"));
    assert!(count(&registry, "dmarcgate_tls_handshakes_total{result=\"no_common_cipher\"} 1"));
    assert!(count(&registry, "dmarcgate_tls_connections_total{version=\"TLSv1.2\"} 2"));
}

#[tokio::test]
async fn what_was_read_in_the_clear_is_thrown_away() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _) = server(directory.path(), &[Certificate::new(&["mx.example.net"])]);
    let (mut stream, mut peer) = pair().await;
    peer.write_all(b"STARTTLS\r\nRSET\r\nMAIL").await.unwrap();
    assert_eq!(stream.read_line(100).await.unwrap(), b"STARTTLS");
    assert_eq!(stream.buffered(), b"RSET\r\nMAIL");
    stream.queue(b"never sent");
    let (config, name) = Wish::default().client();
    let connector = TlsConnector::from(config);
    let nobody = Named::default();
    let (accepted, connected) = tokio::join!(server.accept(stream, &nobody), connector.connect(name, peer));
    let (mut stream, protection) = accepted.unwrap();
    assert_eq!((protection.version, protection.cipher), (Version::Tls13, "TLS_AES_256_GCM_SHA384"));
    let mut peer = connected.unwrap();
    peer.write_all(b"EHLO x\r\n").await.unwrap();
    assert_eq!(stream.read_line(100).await.unwrap(), b"EHLO x");
    assert!(stream.is_secured() && stream.is_quiet());
    stream.write_all(b"250 x\r\n").await.unwrap();
    stream.shutdown().await;
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"250 x\r\n");
    assert!(matches!(server.accept(stream, &Named::default()).await, Err(HandshakeError::Twice)));
}

#[tokio::test]
async fn a_handshake_that_came_with_the_proxy_header_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _) = server(directory.path(), &[Certificate::new(&["mx.example.net"])]);
    let (mut stream, peer) = pair().await;
    let (config, name) = Wish::default().client();
    let connecting = tokio::spawn(TlsConnector::from(config).connect(name, peer));
    // Not one octet of the first message is left in the socket.
    let mut read = stream.fill().await.unwrap();
    while read < 5 || read < 5 + usize::from(u16::from_be_bytes([stream.buffered()[3], stream.buffered()[4]])) {
        read += stream.fill().await.unwrap();
    }
    assert_eq!(server.accept_first(stream, &Named::default()).await.unwrap().1.version, Version::Tls13);
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn failures_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let made = Certificate::new(&["mx.example.net"]);
    made.write(directory.path(), "0");
    let hasty = ServerSettings { handshake: Duration::from_millis(50), ..settings(vec![files(directory.path(), "0")]) };
    let server = Server::open(hasty, ServerMetrics::new(&Registry::new())).unwrap();
    // A ClientHello of TLS 1.0 with one of its ciphers and no extensions.
    let old = [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
    let alert = vec![0x15, 3, 1, 0, 2, 2, 40];
    let cases: [(&str, Option<Vec<u8>>, Handshake); 5] = [
        ("TLS 1.0", Some(old), Handshake::NoCommonVersion),
        ("no TLS", Some(b"EHLO client.example\r\n".to_vec()), Handshake::NotTls),
        ("an alert", Some(alert), Handshake::PeerAlert),
        ("nothing", Some(Vec::new()), Handshake::Timeout),
        ("the end", None, Handshake::Closed),
    ];
    for (case, octets, expected) in cases {
        let (stream, mut peer) = pair().await;
        let peer = match octets {
            Some(octets) => {
                peer.write_all(&octets).await.unwrap();
                Some(peer)
            }
            None => {
                drop(peer);
                None
            }
        };
        let cause = server.accept(stream, &Named::default()).await.unwrap_err();
        assert_eq!(cause.cause(), expected, "{case}: {cause}");
        drop(peer);
    }
    assert!(server.is_hidden_from("192.0.2.7".parse().unwrap()));
    assert!(!server.is_hidden_from("198.51.100.7".parse().unwrap()));
}

#[tokio::test]
async fn files_are_read_anew_when_they_are_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (old, new) = (Certificate::new(&["mx.example.net"]), Certificate::new(&["mx.example.net"]));
    let (server, registry) = server(path, std::slice::from_ref(&old));
    assert_eq!(server.look().await, None);

    // Only the certificate has been replaced yet: a moment later it is a fault.
    new.write(path, "new");
    std::fs::rename(path.join("new.pem"), path.join("0.pem")).unwrap();
    assert_eq!(server.look().await, None);
    assert!(shown(&server, &Wish::default()).await.unwrap().is_shown(&old));
    assert_eq!(server.look().await, Some(Reload::Failed));
    assert_eq!(server.look().await, None);
    std::fs::rename(path.join("new.key"), path.join("0.key")).unwrap();
    assert_eq!(server.look().await, Some(Reload::Done));
    assert!(shown(&server, &Wish::default()).await.unwrap().is_shown(&new));
    assert_eq!(server.look().await, None);

    // On demand nothing is waited for.
    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n", &old.chain] {
        std::fs::write(path.join("0.pem"), broken).unwrap();
        assert_eq!(server.reload().await.len(), 1, "{broken}");
        assert!(shown(&server, &Wish::default()).await.unwrap().is_shown(&new));
    }
    std::fs::remove_file(path.join("0.pem")).unwrap();
    assert_eq!(server.reload().await.len(), 1);
    old.write(path, "0");
    assert_eq!(server.reload().await.len(), 0);
    assert!(shown(&server, &Wish::default()).await.unwrap().is_shown(&old));
    assert_eq!(server.look().await, None);
    assert!(count(&registry, "dmarcgate_tls_reloads_total{result=\"failed\"} 5"));
    assert!(count(&registry, "dmarcgate_tls_reloads_total{result=\"done\"} 2"));
}

#[tokio::test]
async fn one_broken_pair_does_not_keep_another_from_being_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let (ecdsa, rsa) = (Certificate::new(&["a.example"]), Wanted::new(&["a.example"]).rsa().self_signed());
    let (server, _) = server(directory.path(), &[ecdsa, rsa.clone()]);
    let renewed = Certificate::new(&["a.example"]);
    renewed.write(directory.path(), "0");
    std::fs::write(directory.path().join("1.key"), "nonsense").unwrap();
    assert_eq!(server.reload().await.len(), 1);
    assert!(shown(&server, &Wish::default().schemes(ECDSA)).await.unwrap().is_shown(&renewed));
    assert!(shown(&server, &Wish::default().schemes(RSA)).await.unwrap().is_shown(&rsa));
}

#[test]
fn a_file_that_can_not_be_used_is_named_with_what_is_expected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let good = Certificate::new(&["a.example"]);
    let other = Certificate::new(&["a.example"]);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,CD90\n\nAAAA\n-----END RSA \
                 PRIVATE KEY-----\n";
    let cases: [(&str, &str, &str, &str); 9] = [
        ("swapped", &good.key, &good.chain, "a.pem: has no certificate; expected PEM with"),
        ("an empty key", &good.chain, "", "a.key: has no private key; expected PEM with"),
        ("another key", &good.chain, &other.key, "a.key: the key does not fit the certificate in "),
        ("a passphrase", &good.chain, encrypted, "a.key: has an encrypted private key; expected one without"),
        ("a passphrase in the older form", &good.chain, older, "a.key: has an encrypted private key; expected one"),
        ("cut off", &good.chain[..100], &good.key, "a.pem: is not PEM as it should be: "),
        ("no X.509", der, &good.key, "a.pem: has a certificate that can't be read: "),
        ("no key", &good.chain, &der.replace("CERTIFICATE", "PRIVATE KEY"), "a.key: has a private key that can't be"),
        ("huge", &"x".repeat((1 << 20) + 1), &good.key, "a.pem: is larger than a megabyte"),
    ];
    let open = || inspect(&settings(vec![files(path, "a")]));
    let missing = open().unwrap_err().to_string();
    assert!(missing.contains("a.pem: can't be read: No such file"), "{missing}");
    for (case, chain, key, expected) in cases {
        Certificate { chain: chain.to_owned(), key: key.to_owned() }.write(path, "a");
        let fault = open().unwrap_err().to_string();
        assert!(fault.starts_with(&path.display().to_string()) && fault.contains(expected), "{case}: {fault}");
    }
    good.write(path, "a");
    assert_eq!(open().unwrap().len(), 1, "it is not for mx.example.net");
    // As some editors begin a file.
    let marked = |text: &str| format!("\u{feff}{text}");
    Certificate { chain: marked(&good.chain) + &other.chain, key: marked(&good.key) }.write(path, "a");
    assert_eq!(open().unwrap().len(), 1, "the first certificate of the chain is seen");
}

#[test]
fn the_operator_is_told_of_dates_and_names() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let at = |wanted: Wanted| {
        wanted.self_signed().write(directory.path(), "0");
        let provider = provider();
        let read = certificate::Certificate::load(&files(directory.path(), "0"), &provider).unwrap();
        let now = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
        concerns(&[Arc::new(read)], &Domain::parse("mx.example.net").unwrap(), now)
    };
    let wanted = || Wanted::new(&["mx.example.net"]);
    assert_eq!(at(wanted()), []);
    assert_eq!(at(Wanted::new(&["*.example.net"])), []);
    let is = |found: &[Concern], words: &str| match found {
        [Concern::Grave(text)] => text.contains(words) && text.contains("is shown all the same"),
        [Concern::Slight(text)] => text.contains(words),
        _ => false,
    };
    assert!(is(&at(wanted().until(now + 13 * DAY + DAY / 2)), "expires in 13 days"));
    assert!(is(&at(wanted().until(now + DAY + DAY / 2)), "expires in 1 day"));
    assert!(is(&at(wanted().until(now + DAY / 2)), "expires in 0 days"));
    assert_eq!(at(wanted().until(now + 15 * DAY)), []);
    assert!(is(&at(wanted().from(now - 9 * DAY).until(now - 3 * DAY)), "EXPIRED 3 days ago"));
    assert!(is(&at(wanted().from(now + DAY)), "NOT YET VALID"));
    assert!(is(&at(wanted().from(now - 9 * DAY).until(now - DAY - DAY / 2)), "EXPIRED 1 day ago"));
    let of_another = at(Wanted::new(&["mx.example.com"]));
    assert!(is(&of_another, "no certificate is for mx.example.net") && !is(&of_another, "subjectAltName"));
    assert!(is(&at(Wanted::new(&[])), "may not deliver (names are in subjectAltName; the CN does not count)"));
}

#[tokio::test]
async fn an_expired_certificate_is_shown_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let expired = Wanted::new(&["mx.example.net"]).from(now - 9 * DAY).until(now - 3 * DAY).self_signed();
    let (server, registry) = server(directory.path(), &[expired.clone(), Certificate::new(&["mx.example.net"])]);
    assert!(shown(&server, &Wish::default()).await.unwrap().is_shown(&expired));
    let end = (now - 3 * DAY).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(count(&registry, &format!("dmarcgate_tls_certificate_expiry_seconds {end}")), "{}", registry.render());
}

/// How a handshake with a server that shows `certificate` ends under `trust`.
async fn judged(certificate: &Certificate, trust: Trust, name: &str) -> Result<Version, Handshake> {
    let settings = ClientSettings { trust, handshake: Duration::from_secs(20) };
    let client = Client::open(&settings, ClientMetrics::new(&Registry::new())).unwrap();
    let (stream, peer) = pair().await;
    let acceptor = TlsAcceptor::from(certificate.server());
    let (result, _) = tokio::join!(client.connect(stream, name), acceptor.accept(peer));
    result.map(|(_, protection)| protection.version).map_err(|error| error.cause())
}

#[tokio::test]
async fn the_upstream_is_believed_by_name_authority_or_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        Trust::File(path)
    };
    let now = SystemTime::now();
    let authority = Authority::new();
    let known = file("ca.pem", authority.pem());
    let stranger = file("stranger.pem", Authority::new().pem());
    let wanted = || Wanted::new(&["mail.example.net", "127.0.0.1"]);
    let issued = authority.issue(&wanted());
    let own = wanted().self_signed();
    // As `openssl req -x509` makes them: an authority that a server shows.
    let odd = wanted().authority().self_signed();
    let late = wanted().authority().from(now - 9 * DAY).until(now - DAY).self_signed();
    let pin = |certificate: &Certificate| {
        let der = certificate.der();
        let sum = digest::digest(&digest::SHA256, certificate::public_key(&der).unwrap());
        Trust::Pins(vec![Pin([0; 32]), Pin(sum.as_ref().try_into().unwrap())])
    };
    let no = Err(Handshake::Certificate);
    let yes = Ok(Version::Tls13);
    let name = "mail.example.net";
    let cases = [
        ("anyone", &own, Trust::Anyone, "other.example", yes),
        ("its authority", &issued, known.clone(), name, yes),
        ("its authority, by address", &issued, known.clone(), "127.0.0.1", yes),
        ("its authority, another name", &issued, known.clone(), "other.example", no),
        ("its authority, another address", &issued, known.clone(), "127.0.0.2", no),
        ("another authority", &issued, stranger, name, no),
        ("expired", &authority.issue(&wanted().from(now - 9 * DAY).until(now - DAY)), known, name, no),
        ("itself", &own, file("own.pem", &own.chain), name, yes),
        ("itself, an authority", &odd, file("odd.pem", &odd.chain), name, yes),
        ("itself, another name", &odd, file("odd.pem", &odd.chain), "other.example", no),
        ("itself, expired", &late, file("late.pem", &late.chain), name, no),
        ("its key", &own, pin(&own), name, yes),
        ("its key, another name", &own, pin(&own), "other.example", yes),
        ("its key, expired", &late, pin(&late), name, yes),
        ("another key", &own, pin(&issued), name, no),
    ];
    for (case, certificate, trust, name, expected) in cases {
        assert_eq!(judged(certificate, trust, name).await, expected, "{case}");
    }
}

#[test]
fn authorities_that_can_not_be_read_are_an_error_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, "nobody").unwrap();
    let settings = ClientSettings { trust: Trust::File(path), handshake: DAY };
    let error = Client::open(&settings, ClientMetrics::new(&Registry::new())).unwrap_err().to_string();
    assert!(error.contains("ca.pem: has no certificate; expected PEM with"), "{error}");

    // The system's are there, or their absence is told.
    let settings = ClientSettings { trust: Trust::System, handshake: DAY };
    let system = Client::open(&settings, ClientMetrics::new(&Registry::new()));
    assert!(matches!(system, Ok(_) | Err(TrustError::NoRoots)));
}

#[tokio::test]
async fn a_client_is_known_by_the_certificate_whose_key_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _) = server(directory.path(), &[Certificate::new(&["mx.example.net"])]);
    let partner = Wanted::new(&["partner.example"]).until(SystemTime::now() - DAY).from(SystemTime::now() - 2 * DAY);
    let (partner, rsa, stranger) = (
        partner.self_signed(),
        Wanted::new(&["rsa.example"]).rsa().self_signed(),
        Certificate::new(&["stranger.example"]),
    );
    let fingerprint = |certificate: &Certificate| ClientFingerprint::parse(&certificate.fingerprint()).unwrap();
    let named: Named = [fingerprint(&partner), fingerprint(&rsa)].into();
    let nobody = Named::default();
    let any = Wish::default;
    // Who is known in the end; none where the handshake fails.
    let cases: [(&str, Wish, &Named, Option<Option<ClientFingerprint>>); 8] = [
        ("a certificate that is named, expired", any().showing(&partner), &named, Some(Some(fingerprint(&partner)))),
        ("one with an RSA key", any().showing(&rsa), &named, Some(Some(fingerprint(&rsa)))),
        ("one that is not named", any().showing(&stranger), &named, Some(Some(fingerprint(&stranger)))),
        ("none", any(), &named, Some(None)),
        ("somebody else's that is named", any().claiming(&partner, &stranger.key), &named, None),
        ("somebody else's that is not", any().claiming(&stranger, &partner.key), &named, Some(None)),
        ("one where nobody is named", any().showing(&partner), &nobody, Some(None)),
        ("none where nobody is named", any(), &nobody, Some(None)),
    ];
    for (case, wish, named, expected) in cases {
        for (version, wish) in [("TLSv1.3", wish.clone()), ("TLSv1.2", wish.version_1_2())] {
            let (stream, peer) = pair().await;
            let (config, name) = wish.client();
            // In TLS 1.3 a client is through before the server has seen what it shows.
            let connecting = tokio::spawn(async move { TlsConnector::from(config).connect(name, peer).await });
            let known = server.accept(stream, named).await.ok().map(|(_, protection)| {
                assert_eq!(protection.version.as_str(), version);
                protection.certificate
            });
            assert_eq!(known, expected, "{case}, {version}");
            drop(connecting);
        }
    }
}
