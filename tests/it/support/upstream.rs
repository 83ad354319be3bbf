//! The MTA behind the gate: a scripted SMTP server that keeps everything that it saw.
//!
//! What the gate must never do (a bare newline, a command out of turn, octets before a reply that it had to wait for)
//! is noted as a fault of the connection; [`Upstream::assert_clean`] shows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::certificates::Negotiated;
use super::client::Transport;
use super::proxy::ProxyHeader;
use super::rules::{Act, CHALLENGE, DOT, EndOfData, GREETING, HANDSHAKE, INSIDE, INSIDE_AT, Proxy, Rule, Script, Tls};
use super::signer::base64;

/// A running scripted MTA; it ends with this value.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    _task: JoinSet<()>,
}

/// What was seen of one connection.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The PROXY header that opened it.
    pub proxy: Option<ProxyHeader>,
    /// What its TLS handshake came to; none in the clear.
    pub tls: Option<Negotiated>,
    /// Every command line without its line end, in order; octets beyond UTF-8 replaced.
    pub commands: Vec<String>,
    /// The attributes of every XCLIENT command, decoded (xtext), names in upper case.
    pub xclient: BTreeMap<String, String>,
    /// How many whole lines had come behind each MAIL when it was read: the rest of its group.
    pub waiting: Vec<usize>,
    /// Every response inside AUTH, initial ones too, in order.
    pub responses: Vec<String>,
    /// Who has logged in.
    pub login: Option<String>,
    /// Every message that came to its end.
    pub messages: Vec<Message>,
    /// What the gate did against the protocol.
    pub faults: Vec<String>,
    /// Whether it is over.
    pub closed: bool,
    /// Both sides' lines, as a failing test shows them.
    pub transcript: Vec<String>,
}

/// A message as it came to its end-of-data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The reverse-path between its angle brackets.
    pub from: String,
    /// What followed it in MAIL: `SIZE=..`, `BODY=..`.
    pub parameters: Vec<String>,
    /// The accepted forward-paths between their angle brackets.
    pub recipients: Vec<String>,
    /// The parameters of the RCPT of each of them.
    pub recipient_parameters: Vec<Vec<String>>,
    /// The size of each BDAT chunk; none if it came by DATA.
    pub chunks: Vec<usize>,
    /// Every octet after the 354, end-of-data included; those of all chunks.
    pub raw: Vec<u8>,
    /// The content: dots unstuffed, end-of-data off.
    pub content: Vec<u8>,
    /// The reply to end-of-data; empty where the connection was closed instead.
    pub reply: String,
    /// The attributes of the client as handed over by XCLIENT so far.
    pub xclient: BTreeMap<String, String>,
    /// Who had logged in on its connection.
    pub login: Option<String>,
}

struct State {
    script: Mutex<Script>,
    connections: watch::Sender<Vec<Connection>>,
}

impl Upstream {
    /// Serves `script` on a free port of 127.0.0.1.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State { script: Mutex::new(script), connections: watch::channel(Vec::new()).0 });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, _task: task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds an exception while running; it overrides those before it.
    pub fn add(&self, rule: Rule) {
        self.state.script.lock().expect("no test panics inside").rules.push(rule);
    }

    /// Changes the script while running; connections that are open go on by what they have begun with.
    pub fn change(&self, change: impl FnOnce(Script) -> Script) {
        let mut script = self.state.script.lock().expect("no test panics inside");
        *script = change(script.clone());
    }

    /// Everything seen so far, by connection in the order of their opening.
    pub fn connections(&self) -> Vec<Connection> {
        self.state.connections.borrow().clone()
    }

    /// Every message that came to its end so far, accepted or not.
    pub fn messages(&self) -> Vec<Message> {
        self.connections().into_iter().flat_map(|c| c.messages).collect()
    }

    /// Every command so far, over all connections.
    pub fn commands(&self) -> Vec<String> {
        self.connections().into_iter().flat_map(|c| c.commands).collect()
    }

    /// Waits until `condition` holds of what was seen.
    pub async fn wait_until(&self, what: &str, condition: impl Fn(&[Connection]) -> bool) -> Vec<Connection> {
        let mut connections = self.state.connections.subscribe();
        let met = async { connections.wait_for(|seen| condition(seen)).await.expect("we hold the sender").clone() };
        match tokio::time::timeout(super::PATIENCE, met).await {
            Ok(seen) => seen,
            Err(_) => panic!("the upstream waited in vain until {what}\n{}", self.transcript()),
        }
    }

    /// Waits until `count` messages have come to their end and been answered.
    pub async fn wait_for_messages(&self, count: usize) -> Vec<Message> {
        let enough = |seen: &[Connection]| seen.iter().map(|c| c.messages.len()).sum::<usize>() >= count;
        let seen = self.wait_until(&format!("{count} messages came"), enough).await;
        seen.into_iter().flat_map(|c| c.messages).collect()
    }

    /// Waits for a command line that holds `text`, on any connection.
    pub async fn wait_for_command(&self, text: &str) {
        let seen = |seen: &[Connection]| seen.iter().flat_map(|c| &c.commands).any(|line| line.contains(text));
        self.wait_until(&format!("{text:?} came"), seen).await;
    }

    /// Waits until every connection is over, one at least.
    pub async fn wait_for_close(&self) -> Vec<Connection> {
        let over = |seen: &[Connection]| !seen.is_empty() && seen.iter().all(|c| c.closed);
        self.wait_until("every connection is over", over).await
    }

    /// Panics if the gate did anything against the protocol.
    pub fn assert_clean(&self) {
        let clean = self.connections().iter().all(|c| c.faults.is_empty());
        assert!(clean, "the gate broke the protocol\n{}", self.transcript());
    }

    /// All connections for a failing test to show.
    pub fn transcript(&self) -> String {
        let mut text = String::new();
        for (n, connection) in self.connections().iter().enumerate() {
            let end = if connection.closed { "closed" } else { "open" };
            _ = writeln!(text, "upstream connection {n} ({end}), PROXY {:?}", connection.proxy);
            for line in &connection.transcript {
                _ = writeln!(text, "  {line}");
            }
            for fault in &connection.faults {
                _ = writeln!(text, "  FAULT {fault}");
            }
        }
        text
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { return };
        let mut number = 0;
        state.connections.send_modify(|all| {
            number = all.len();
            all.push(Connection::default());
        });
        let state = Arc::clone(&state);
        sessions.spawn(async move {
            let stream = Box::new(stream);
            let mut session = Session { stream, state, number, buffer: Vec::new(), transaction: None, greeted: false };
            session.run().await;
            session.note(|c| c.closed = true);
        });
    }
}

/// One connection. Methods yield `None` when it is over.
struct Session {
    stream: Box<dyn Transport>,
    state: Arc<State>,
    number: usize,
    buffer: Vec<u8>,
    transaction: Option<Transaction>,
    greeted: bool,
}

#[derive(Default)]
struct Transaction {
    from: String,
    parameters: Vec<String>,
    recipients: Vec<String>,
    recipient_parameters: Vec<Vec<String>>,
    /// The sizes of the chunks so far, and their octets.
    chunks: Vec<usize>,
    octets: Vec<u8>,
}

impl Session {
    async fn run(&mut self) -> Option<()> {
        if self.state.script.lock().expect("no test panics inside").proxy == Proxy::Required {
            self.read_proxy_header().await?;
        }
        let tls = self.state.script.lock().expect("no test panics inside").tls.clone();
        if let Tls::Implicit(config) = tls {
            self.handshake(config).await?;
        }
        let proxied = self.state.connections.borrow()[self.number].proxy.and_then(|header| header.addresses);
        let client = proxied.map_or_else(String::new, |(client, _)| client.ip().to_string());
        self.answer(GREETING, &client, "220 mta.example ESMTP scripted").await?;
        loop {
            let line = self.read_line().await?;
            self.note(|c| c.commands.push(line.clone()));
            let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.ehlo(&line).await?,
                "HELO" => self.helo(&line).await?,
                "STARTTLS" => self.start_tls(&line).await?,
                "XCLIENT" => self.xclient(&line, argument).await?,
                "MAIL" => self.mail(&line, argument).await?,
                "RCPT" => self.rcpt(&line, argument).await?,
                "DATA" => self.data(&line).await?,
                "BDAT" => self.bdat(&line, argument).await?,
                "AUTH" => self.auth(&line, argument).await?,
                "RSET" => {
                    self.transaction = None;
                    self.answer("RSET", &line, "250 2.0.0 Ok").await?;
                }
                "NOOP" => _ = self.answer("NOOP", &line, "250 2.0.0 Ok").await?,
                "VRFY" => _ = self.answer("VRFY", &line, "252 2.0.0 Cannot verify").await?,
                "QUIT" => {
                    self.answer("QUIT", &line, "221 2.0.0 Bye").await?;
                    return None;
                }
                other => {
                    let reply = self.answer(other, &line, "502 5.5.2 Command not recognized").await?;
                    if reply.starts_with("502 5.5.2") {
                        self.fault(format!("unknown command {line:?}"));
                    }
                }
            }
        }
    }

    async fn read_proxy_header(&mut self) -> Option<()> {
        loop {
            match ProxyHeader::decode(&self.buffer) {
                Ok(Some((length, header))) => {
                    self.buffer.drain(..length);
                    self.note(|c| c.proxy = Some(header));
                    return Some(());
                }
                Ok(None) => self.fill().await?,
                Err(wrong) => {
                    self.fault(wrong);
                    return None;
                }
            }
        }
    }

    async fn ehlo(&mut self, line: &str) -> Option<()> {
        (self.greeted, self.transaction) = (true, None);
        let mut lines = vec!["mta.example".to_owned()];
        {
            let script = self.state.script.lock().expect("no test panics inside");
            lines.extend(script.extensions.iter().cloned());
            if matches!(script.tls, Tls::Offered(_)) && !self.is_secured() {
                lines.push("STARTTLS".into());
            }
        }
        let last = lines.len() - 1;
        let reply = lines.iter().enumerate().map(|(n, l)| format!("250{}{l}", if n == last { ' ' } else { '-' }));
        let reply = reply.collect::<Vec<_>>().join("\n");
        self.answer("EHLO", line, &reply).await.map(drop)
    }

    async fn start_tls(&mut self, line: &str) -> Option<()> {
        let tls = self.state.script.lock().expect("no test panics inside").tls.clone();
        let Tls::Offered(config) = tls else {
            // A test may have changed the script since this connection was told of it.
            let was_told =
                self.state.connections.borrow()[self.number].transcript.iter().any(|l| l == "S: 250 STARTTLS");
            if !was_told {
                self.fault("STARTTLS was not offered".into());
            }
            return self.answer("STARTTLS", line, "502 5.5.1 Error: not implemented").await.map(drop);
        };
        if self.is_secured() {
            self.fault("STARTTLS under TLS".into());
            return self.answer("STARTTLS", line, "503 5.5.1 TLS already active").await.map(drop);
        }
        if !self.buffer.is_empty() {
            self.fault("octets came before the reply to STARTTLS".into());
        }
        let reply = self.answer("STARTTLS", line, "220 2.0.0 Ready to start TLS").await?;
        if reply.starts_with("220") {
            (self.greeted, self.transaction) = (false, None);
            self.handshake(config).await?;
        }
        Some(())
    }

    async fn handshake(&mut self, config: Arc<ServerConfig>) -> Option<()> {
        self.answer(HANDSHAKE, "", "").await?;
        let begun = std::mem::take(&mut self.buffer);
        let (reader, writer) = tokio::io::split(std::mem::replace(&mut self.stream, Box::new(tokio::io::empty())));
        // What came in one piece with the PROXY header is the beginning of the handshake.
        let socket = tokio::io::join(std::io::Cursor::new(begun).chain(reader), writer);
        match TlsAcceptor::from(config).accept(socket).await {
            Ok(secured) => {
                let connection = secured.get_ref().1;
                let negotiated = Negotiated::of(connection, connection.server_name());
                self.note(|c| {
                    c.transcript.push(format!("-- {} {}", negotiated.version, negotiated.cipher));
                    c.tls = Some(negotiated);
                });
                self.stream = Box::new(secured);
                Some(())
            }
            Err(error) => {
                self.note(|c| c.transcript.push(format!("-- no TLS: {error}")));
                None
            }
        }
    }

    fn is_secured(&self) -> bool {
        self.state.connections.borrow()[self.number].tls.is_some()
    }

    async fn helo(&mut self, line: &str) -> Option<()> {
        (self.greeted, self.transaction) = (true, None);
        self.answer("HELO", line, "250 mta.example").await.map(drop)
    }

    async fn xclient(&mut self, line: &str, argument: &str) -> Option<()> {
        let extensions = self.state.script.lock().expect("no test panics inside").extensions.clone();
        if line.len() > 510 {
            self.fault(format!("an XCLIENT line of {} octets", line.len()));
        }
        let Some(offer) = extensions.iter().find_map(|e| e.strip_prefix("XCLIENT ")) else {
            self.fault("XCLIENT was not offered".into());
            return self.answer("XCLIENT", line, "502 5.5.1 Error: not implemented").await.map(drop);
        };
        if self.transaction.is_some() {
            self.fault("XCLIENT inside a transaction".into());
        }
        if self.state.connections.borrow()[self.number].xclient.contains_key("ADDR") {
            // As Postfix has it: the client that was named has no right to name another.
            return self.answer("XCLIENT", line, "550 5.7.0 Error: insufficient authorization").await.map(drop);
        }
        for attribute in argument.split(' ') {
            match attribute.split_once('=') {
                Some((name, value)) if offer.split(' ').any(|o| o.eq_ignore_ascii_case(name)) => {
                    let value = decode_xtext(value);
                    self.note(|c| _ = c.xclient.insert(name.to_ascii_uppercase(), value));
                }
                _ => self.fault(format!("XCLIENT attribute {attribute:?} was not offered")),
            }
        }
        let reply = self.answer("XCLIENT", line, "220 mta.example ESMTP scripted").await?;
        if reply.starts_with("220") {
            (self.greeted, self.transaction) = (false, None);
        }
        Some(())
    }

    async fn mail(&mut self, line: &str, argument: &str) -> Option<()> {
        if !self.greeted {
            self.fault("MAIL before EHLO".into());
        }
        if self.transaction.is_some() {
            self.fault("MAIL inside a transaction".into());
            return self.answer("MAIL", line, "503 5.5.1 Nested MAIL command").await.map(drop);
        }
        let Some((from, parameters)) = path(argument, "FROM:") else {
            self.fault(format!("MAIL {argument:?}"));
            return self.answer("MAIL", line, "501 5.5.4 Syntax").await.map(drop);
        };
        let behind = memchr::memchr_iter(b'\n', &self.buffer).count();
        self.note(|c| c.waiting.push(behind));
        let reply = self.answer("MAIL", line, "250 2.1.0 Ok").await?;
        if reply.starts_with('2') {
            self.transaction = Some(Transaction { from, parameters, ..Transaction::default() });
        }
        Some(())
    }

    async fn rcpt(&mut self, line: &str, argument: &str) -> Option<()> {
        if self.transaction.is_none() {
            // With PIPELINING a RCPT may follow a MAIL that is refused later: no fault.
            return self.answer("RCPT", line, "503 5.5.1 Need MAIL command").await.map(drop);
        }
        let Some((to, parameters)) = path(argument, "TO:") else {
            self.fault(format!("RCPT {argument:?}"));
            return self.answer("RCPT", line, "501 5.5.4 Syntax").await.map(drop);
        };
        let reply = self.answer("RCPT", line, "250 2.1.5 Ok").await?;
        if let Some(transaction) = self.transaction.as_mut().filter(|_| reply.starts_with('2')) {
            transaction.recipients.push(to);
            transaction.recipient_parameters.push(parameters);
        }
        Some(())
    }

    async fn data(&mut self, line: &str) -> Option<()> {
        let ready = self.transaction.as_ref().is_some_and(|t| !t.recipients.is_empty());
        if !self.buffer.is_empty() {
            self.fault("octets came before the reply to DATA".into());
        }
        let default = if ready { "354 End data with <CR><LF>.<CR><LF>" } else { "554 5.5.1 No valid recipients" };
        let reply = self.answer("DATA", line, default).await?;
        if !reply.starts_with("354") {
            return Some(());
        }
        let raw = self.read_data().await?;
        let content = decode(&raw);
        self.note(|c| c.transcript.push(format!("C: [{} octets of data]", raw.len())));
        self.end_message(raw, content).await
    }

    /// RFC 3030 §2: the octets are read whatever the answer.
    async fn bdat(&mut self, line: &str, argument: &str) -> Option<()> {
        let mut words = argument.split(' ');
        let size = words.next().and_then(|size| size.parse().ok());
        let (Some(size), last @ (None | Some("LAST")), None) = (size, words.next(), words.next()) else {
            self.fault(format!("BDAT {argument:?}"));
            return None;
        };
        while self.buffer.len() < size {
            self.fill().await?;
        }
        let octets: Vec<u8> = self.buffer.drain(..size).collect();
        self.note(|c| c.transcript.push(format!("C: [a chunk of {size} octets]")));
        if !self.state.script.lock().expect("no test panics inside").extensions.iter().any(|e| e == "CHUNKING") {
            self.fault("CHUNKING was not offered".into());
        }
        let Some(transaction) = self.transaction.as_mut().filter(|t| !t.recipients.is_empty()) else {
            return self.answer("BDAT", line, "503 5.5.1 No valid recipients").await.map(drop);
        };
        transaction.chunks.push(size);
        transaction.octets.extend(octets);
        if last.is_none() {
            let reply = self.answer("BDAT", line, &format!("250 2.0.0 {size} octets")).await?;
            if !reply.starts_with('2') {
                self.transaction = None;
            }
            return Some(());
        }
        let raw = std::mem::take(&mut transaction.octets);
        let content = raw.clone();
        self.end_message(raw, content).await
    }

    /// Answers a message that has come whole.
    async fn end_message(&mut self, raw: Vec<u8>, content: Vec<u8>) -> Option<()> {
        let transaction = self.transaction.take().unwrap_or_default();
        let (count, xclient, login) = {
            let seen = &self.state.connections.borrow()[self.number];
            (seen.messages.len() + 1, seen.xclient.clone(), seen.login.clone())
        };
        if self.state.script.lock().expect("no test panics inside").end_of_data == EndOfData::Strict && bare(&raw) {
            self.fault("a bare CR or LF in the data".into());
        }
        let queued = format!("250 2.0.0 Ok: queued as {:02}{count:02}", self.number);
        let Transaction { from, parameters, recipients, recipient_parameters, chunks, .. } = transaction;
        let reply = String::new();
        let mut message =
            Message { from, parameters, recipients, recipient_parameters, chunks, raw, content, reply, xclient, login };
        // Rules for the dot look at the envelope, so that a test may refuse one message of many.
        let envelope = format!("{} {}", message.from, message.recipients.join(" "));
        let reply = self.answer_before(DOT, &envelope, &queued, |connection, reply| {
            message.reply = reply.to_owned();
            connection.messages.push(message);
        });
        reply.await.map(drop)
    }

    /// AUTH to the end of its exchange; rules decide first, the list of users otherwise.
    async fn auth(&mut self, line: &str, argument: &str) -> Option<()> {
        let script = self.state.script.lock().expect("no test panics inside").clone();
        let (mechanism, initial) = argument.split_once(' ').map_or((argument, None), |(m, rest)| (m, Some(rest)));
        let offered = script.extensions.iter().filter_map(|e| e.strip_prefix("AUTH "));
        if !offered.flat_map(|list| list.split(' ')).any(|offered| offered == mechanism) {
            self.fault(format!("AUTH {mechanism} was not offered"));
        }
        if self.transaction.is_some() {
            self.fault("AUTH inside a transaction".into());
        }
        if self.state.connections.borrow()[self.number].login.is_some() {
            self.fault("AUTH twice".into());
        }
        let mut said: Vec<String> = initial.map(str::to_owned).into_iter().collect();
        self.note(|c| c.responses.extend(said.clone()));
        let (mut at, mut line) = ("AUTH", line.to_owned());
        loop {
            let (default, user) = script.judge(mechanism, &said);
            let reply = self.answer(at, &line, &default).await?;
            if reply.starts_with("235") {
                self.note(|c| c.login = Some(user.unwrap_or_else(|| "?".into())));
            }
            if !reply.starts_with("334") {
                return Some(());
            }
            line = self.read_line().await?;
            self.note(|c| c.responses.push(line.clone()));
            said.push(line.clone());
            at = CHALLENGE;
        }
    }

    /// Reads up to and including the end of the data.
    async fn read_data(&mut self) -> Option<Vec<u8>> {
        let kind = self.state.script.lock().expect("no test panics inside").end_of_data;
        let mut seen = 0;
        loop {
            let end = match kind {
                EndOfData::Strict => strict_end(&self.buffer, seen),
                EndOfData::Lenient => lenient_end(&self.buffer),
            };
            if let Some(end) = end {
                return Some(self.buffer.drain(..end).collect());
            }
            // A terminator that is half there begins at most four octets before the end.
            seen = self.buffer.len().saturating_sub(4);
            let before = self.buffer.len();
            self.fill().await?;
            if before < INSIDE_AT && self.buffer.len() >= INSIDE_AT {
                self.answer(INSIDE, "", "").await?;
            }
        }
    }

    async fn read_line(&mut self) -> Option<String> {
        let end = loop {
            match memchr::memchr(b'\n', &self.buffer) {
                Some(end) => break end,
                None => self.fill().await?,
            }
        };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        let content = match line.strip_suffix(b"\r\n") {
            Some(content) => content,
            None => {
                self.fault("a command line ends in a bare LF".into());
                &line[..end]
            }
        };
        if content.contains(&b'\r') {
            self.fault("a bare CR in a command line".into());
        }
        let text = String::from_utf8_lossy(content).into_owned();
        self.note(|c| c.transcript.push(format!("C: {}", text.escape_debug())));
        Some(text)
    }

    async fn fill(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(1..) => Some(()),
            _ => None,
        }
    }

    /// Answers by the rules or else by `default`; yields the lines sent.
    async fn answer(&mut self, at: &str, line: &str, default: &str) -> Option<String> {
        self.answer_before(at, line, default, |_, _| {}).await
    }

    /// As [`Session::answer`]; `record` notes what was decided, before the other side can know.
    async fn answer_before(
        &mut self,
        at: &str,
        line: &str,
        default: &str,
        record: impl FnOnce(&mut Connection, &str),
    ) -> Option<String> {
        let act = self.state.script.lock().expect("no test panics inside").act(at, line);
        let wire = |text: &str| format!("{}\r\n", text.replace('\n', "\r\n")).into_bytes();
        let (text, close) = match act.clone() {
            None => (default.to_owned(), false),
            Some(Act::Raw(octets)) => (String::from_utf8_lossy(&octets).into_owned(), false),
            Some(Act::Reply(text)) => (text, false),
            Some(Act::ReplyAndClose(text)) => (text, true),
            Some(Act::Close) => (String::new(), true),
            Some(Act::Hold(hold, text)) => {
                hold.wait().await;
                (text, false)
            }
        };
        self.note(|c| {
            c.transcript.extend(text.lines().map(|l| format!("S: {}", l.escape_debug())));
            record(c, &text);
        });
        if !text.is_empty() {
            let octets = if let Some(Act::Raw(octets)) = act { octets } else { wire(&text) };
            self.stream.write_all(&octets).await.ok()?;
            // What is written under TLS may wait for more.
            self.stream.flush().await.ok()?;
        }
        if close { None } else { Some(text) }
    }

    fn fault(&self, fault: String) {
        self.note(|c| c.faults.push(fault));
    }

    fn note(&self, change: impl FnOnce(&mut Connection)) {
        self.state.connections.send_modify(|all| change(&mut all[self.number]));
    }
}

impl Script {
    /// The reply to what a client has said under this mechanism so far, and as whom it is known then.
    fn judge(&self, mechanism: &str, said: &[String]) -> (String, Option<String>) {
        let known = |fits: &dyn Fn(&str, &str) -> bool| {
            let user = self.users.iter().find(|(name, password)| fits(name, password)).map(|(name, _)| name.clone());
            let reply = if user.is_some() { "235 2.7.0 Welcome" } else { "535 5.7.8 Error: authentication failed" };
            (reply.to_owned(), user)
        };
        let plain = |name: &str, password: &str| base64(format!("\0{name}\0{password}").as_bytes());
        let more = |challenge: &str| (format!("334 {challenge}"), None);
        match (mechanism, said) {
            (_, [.., last]) if last == "*" => ("501 5.7.0 Authentication aborted".to_owned(), None),
            ("PLAIN", []) => more(""),
            ("PLAIN", [response]) => known(&|name, password| plain(name, password) == *response),
            ("LOGIN", []) => more(&base64(b"Username:")),
            ("LOGIN", [_]) => more(&base64(b"Password:")),
            ("LOGIN", [first, second]) => {
                known(&|name, password| base64(name.as_bytes()) == *first && base64(password.as_bytes()) == *second)
            }
            _ => ("504 5.5.4 Mechanism not known".to_owned(), None),
        }
    }
}

/// The path and the parameters of `FROM:<path> parameters`.
fn path(argument: &str, keyword: &str) -> Option<(String, Vec<String>)> {
    let rest =
        argument.get(..keyword.len()).filter(|k| k.eq_ignore_ascii_case(keyword)).map(|k| &argument[k.len()..])?;
    let (path, parameters) = rest.strip_prefix('<')?.rsplit_once('>')?;
    Some((path.to_owned(), parameters.split_ascii_whitespace().map(str::to_owned).collect()))
}

/// Where `<CRLF>.<CRLF>` ends; the first line may be the dot itself.
fn strict_end(data: &[u8], from: usize) -> Option<usize> {
    if data.starts_with(b".\r\n") {
        return Some(3);
    }
    memchr::memmem::find(&data[from..], b"\r\n.\r\n").map(|at| from + at + 5)
}

/// Where the first dot between two line ends of any kind, CRLF, LF or CR, ends.
fn lenient_end(data: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'.', data).find_map(|dot| {
        let at_line_start = dot == 0 || matches!(data[dot - 1], b'\r' | b'\n');
        match &data[dot + 1..] {
            _ if !at_line_start => None,
            // A CR that nothing follows yet may be half a CRLF.
            [b'\r', b'\n', ..] => Some(dot + 3),
            [b'\r', _, ..] | [b'\n', ..] => Some(dot + 2),
            _ => None,
        }
    })
}

/// The content of data that ended by `[<CRLF>].<CRLF>` (RFC 5321 §4.5.2); data that ended otherwise lose their last
/// dot.
fn decode(raw: &[u8]) -> Vec<u8> {
    let end = raw.iter().rposition(|&o| o == b'.').unwrap_or(raw.len());
    let mut content = Vec::with_capacity(end);
    let mut rest = &raw[..end];
    while !rest.is_empty() {
        let length = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, next) = rest.split_at(length);
        content.extend(line.strip_prefix(b".").unwrap_or(line));
        rest = next;
    }
    content
}

/// Whether there is a CR without LF or an LF without CR.
fn bare(data: &[u8]) -> bool {
    let crlf = memchr::memmem::find_iter(data, b"\r\n").count();
    memchr::memchr_iter(b'\r', data).count() != crlf || memchr::memchr_iter(b'\n', data).count() != crlf
}

/// Undoes xtext (RFC 3461 §4), which XCLIENT's values are written in.
fn decode_xtext(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&octet, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| octet == b'+') {
            Some(value) => {
                decoded.push(value);
                rest = &after[2..];
            }
            None => {
                decoded.push(octet);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
