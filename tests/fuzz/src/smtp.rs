//! Command lines of clients, and replies of servers.

use dmarcgate::smtp::command::{AuthLine, Command};
use dmarcgate::smtp::extension::{ADDED_FIELDS, Capabilities, Extension, Offer, Terms};
use dmarcgate::smtp::reply::{Reply, ReplyReader};

/// One command line: what goes on to the upstream is a command line again, and says the same.
pub fn command(line: &[u8]) {
    for offer in [Some(&everything(SIZE)), None] {
        match Command::parse(line, offer) {
            Ok(command) => parsed(&command, line),
            Err(error) => well_formed(&error.reply()),
        }
    }
    if let Some(secret) = AuthLine::parse(line) {
        assert_eq!(format!("{secret:?}"), "AuthLine(Secret(..))");
        assert!(secret.expose().bytes().all(|b| b.is_ascii_graphic()), "{}", secret.expose());
    }
}

fn parsed(command: &Command, line: &[u8]) {
    match command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!(name.as_str().bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
            assert!((1..=255).contains(&name.as_str().len()), "{name:?}");
        }
        Command::Auth { mechanism, initial } => {
            assert!(mechanism.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_lowercase()), "{mechanism}");
            let secret = initial.as_ref().map_or("None", |_| "Some(AuthLine(Secret(..)))");
            let shown = format!("Auth {{ mechanism: {mechanism:?}, initial: {secret} }}");
            assert_eq!(format!("{command:?}"), shown, "logs show nothing of what was said");
        }
        Command::Mail { reverse_path, parameters } => {
            let text = parameters.for_upstream(&capable()).expect("the upstream can do all of it");
            let text = format!("MAIL FROM:{reverse_path}{text}");
            is_a_line(&text, parameters.smtp_utf8);
            let again = Command::parse(text.as_bytes(), Some(&everything(u64::MAX)));
            let mut parameters = parameters.clone();
            parameters.size = parameters.size.map(|size| size.saturating_add(ADDED_FIELDS));
            assert_eq!(again, Ok(Command::Mail { reverse_path: reverse_path.clone(), parameters }), "{text}");
        }
        Command::Rcpt { forward_path, parameters } => {
            let text = parameters.for_upstream(&capable()).expect("the upstream can do all of it");
            let text = format!("RCPT TO:{forward_path}{text}");
            is_a_line(&text, !line.is_ascii());
            assert_eq!(Command::parse(text.as_bytes(), Some(&everything(SIZE))).as_ref(), Ok(command), "{text}");
        }
        _ => {}
    }
}

/// What can stand in a command line, and be neither less nor more than one.
fn is_a_line(text: &str, smtp_utf8: bool) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(smtp_utf8 || text.is_ascii(), "{text:?} without SMTPUTF8");
}

/// Lines of a server: a reply that can be read is one to everybody, and so is an offer made of it.
pub fn reply(input: &[u8]) {
    let mut reader = ReplyReader::default();
    for line in input.split(|b| *b == b'\n') {
        let Ok(read) = reader.line(line) else { return };
        let Some(reply) = read else { continue };
        well_formed(&reply);
        assert_eq!(read_again(&reply), reply);
        let found = Capabilities::read(&reply);
        let hidden: &[Extension] = &[];
        for (starttls, auth) in [(true, true), (false, false)] {
            let offer = Offer::new(&found, Terms { size: SIZE, hidden, starttls, auth });
            assert!(offer.size <= SIZE);
            well_formed(&offer.reply("gate.example"));
        }
        let both = found.intersection(&found);
        assert_eq!((&both.size, &both.auth, both.dsn), (&found.size, &found.auth, found.dsn));
    }
}

/// Lines of one code with CRLF, a hyphen behind the code of all but the last, and no other CR, LF or NUL.
pub fn well_formed(reply: &Reply) {
    let wire = reply.as_wire();
    let lines: Vec<&[u8]> = wire.split_inclusive(|b| *b == b'\n').collect();
    let code = reply.code().to_string();
    assert!(code.len() == 3 && wire.len() < 70_000 && (1..=200).contains(&lines.len()), "{reply}");
    for (at, line) in lines.iter().enumerate() {
        let text = line.strip_suffix(b"\r\n").expect("CRLF");
        assert!(!text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{}", text.escape_ascii());
        let mark = if at + 1 == lines.len() { b' ' } else { b'-' };
        assert_eq!((text.get(..3), text.get(3)), (Some(code.as_bytes()), Some(&mark)), "{}", text.escape_ascii());
    }
    let summary = reply.summary();
    assert!(summary.len() <= 512 && summary.bytes().all(|b| (b' '..=b'~').contains(&b)), "{summary:?}");
}

fn read_again(reply: &Reply) -> Reply {
    let mut reader = ReplyReader::default();
    let lines = reply.as_wire().split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let read: Vec<_> = lines.filter_map(|line| reader.line(line).expect("a reply")).collect();
    assert_eq!(read.len(), 1);
    read.into_iter().next().expect("one")
}

/// An offer of everything, for messages of at most `size` octets.
pub fn everything(size: u64) -> Offer {
    Offer { size, ..Offer::new(&capable(), Terms { size, hidden: &[], starttls: true, auth: true }) }
}

fn capable() -> Capabilities {
    let lines = ["mx", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "AUTH PLAIN LOGIN"];
    Capabilities::read(&Reply::lines(250, lines))
}

const SIZE: u64 = 50_000_000;
