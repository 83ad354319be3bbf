//! An authoritative DNS server for the whole name space, from a zone written in the test.
//!
//! UDP and TCP on one port of 127.0.0.1. Names that the zone does not hold are NXDOMAIN, names above one that it holds
//! exist without records (empty non-terminals, RFC 8020), a `*` label is a wildcard (RFC 4592), a CNAME is followed
//! inside the zone. A question can be told to fail in each way that the gate must tell apart.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
pub use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Names, their records, and the questions that fail. Names are written without the trailing dot.
#[derive(Clone, Default)]
pub struct Zone {
    names: BTreeMap<String, BTreeMap<RecordType, Vec<RData>>>,
    faults: HashMap<Question, Fault>,
}

/// A running server; it ends with this value.
pub struct DnsServer {
    address: SocketAddr,
    world: Arc<World>,
    _tasks: JoinSet<()>,
}

/// A name in lower case without the trailing dot, and a type.
pub type Question = (String, RecordType);

/// One question as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name as the client spelled it, without the trailing dot.
    pub spelled: String,
    /// Its type.
    pub record_type: RecordType,
    /// How it came.
    pub transport: Transport,
}

/// What carries a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// How a question fails.
#[derive(Clone)]
enum Fault {
    /// This response code and nothing else.
    Code(ResponseCode),
    /// No answer at all.
    Drop,
    /// Octets that are no DNS message.
    Garbage,
    /// TC over UDP whatever the size; TCP answers.
    Truncate,
    /// TC over UDP, and TCP never answers.
    TruncateAndDrop,
    /// TC over UDP, and TCP is closed without an answer.
    TruncateAndClose,
    /// The answer to another question, by any transport.
    OtherQuestion,
    /// The answer waits for [`DnsServer::release`].
    Delay(watch::Sender<bool>),
}

/// How a server takes any question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As its zone says.
    Ready,
    /// The same, this much later.
    Slow(Duration),
    /// Not until that changes.
    Holding,
    /// Never.
    Dead,
}

struct World {
    zone: Mutex<Zone>,
    asked: Mutex<Vec<Asked>>,
    changed: watch::Sender<()>,
    manner: watch::Sender<Manner>,
}

impl Zone {
    /// A zone without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// One TXT record, cut into strings of 255 octets. Called again, it adds a record.
    pub fn txt(self, name: &str, text: &str) -> Self {
        let strings = text.as_bytes().chunks(255).collect::<Vec<_>>();
        self.with(name, RData::TXT(TXT::from_bytes(strings)))
    }

    /// One TXT record of exactly these strings.
    pub fn txt_strings(self, name: &str, strings: &[&str]) -> Self {
        let strings = strings.iter().map(|s| s.as_bytes()).collect();
        self.with(name, RData::TXT(TXT::from_bytes(strings)))
    }

    /// One A record.
    pub fn a(self, name: &str, address: &str) -> Self {
        self.with(name, RData::A(A(address.parse().expect("an IPv4 address"))))
    }

    /// One AAAA record.
    pub fn aaaa(self, name: &str, address: &str) -> Self {
        self.with(name, RData::AAAA(AAAA(address.parse().expect("an IPv6 address"))))
    }

    /// One MX record; the exchange `.` is a null MX (RFC 7505).
    pub fn mx(self, name: &str, preference: u16, exchange: &str) -> Self {
        self.with(name, RData::MX(MX::new(preference, absolute(exchange))))
    }

    /// The name of an address, under `in-addr.arpa` or `ip6.arpa`.
    pub fn ptr(self, address: &str, target: &str) -> Self {
        let reverse = Name::from(address.parse::<IpAddr>().expect("an address"));
        self.with(&key(&reverse), RData::PTR(PTR(absolute(target))))
    }

    /// An alias.
    pub fn cname(self, name: &str, target: &str) -> Self {
        self.with(name, RData::CNAME(CNAME(absolute(target))))
    }

    /// The question is answered SERVFAIL.
    pub fn serv_fail(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::Code(ResponseCode::ServFail))
    }

    /// The question is answered REFUSED.
    pub fn refuse(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::Code(ResponseCode::Refused))
    }

    /// The question is never answered.
    pub fn time_out(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::Drop)
    }

    /// The question is answered with octets that are no DNS message.
    pub fn garbage(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::Garbage)
    }

    /// Over UDP the answer is cut off whatever its size.
    pub fn truncate(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::Truncate)
    }

    /// Over UDP the answer is cut off, and over TCP there is none.
    pub fn truncate_and_drop(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::TruncateAndDrop)
    }

    /// The question is answered with this response code.
    pub fn code(self, name: &str, record_type: RecordType, code: u16) -> Self {
        let [high, low] = code.to_be_bytes();
        self.fault(name, record_type, Fault::Code(ResponseCode::from(high, low)))
    }

    /// Over UDP the answer is cut off, and over TCP the connection is closed in place of one.
    pub fn truncate_and_close(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::TruncateAndClose)
    }

    /// What comes is the answer to another question.
    pub fn other_question(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::OtherQuestion)
    }

    /// The answer waits until the test calls [`DnsServer::release`].
    pub fn delay(self, name: &str, record_type: RecordType) -> Self {
        self.fault(name, record_type, Fault::Delay(watch::channel(false).0))
    }

    /// Takes away all records and faults of a name.
    pub fn remove(mut self, name: &str) -> Self {
        let name = name.to_lowercase();
        self.faults.retain(|(faulty, _), _| *faulty != name);
        self.names.remove(&name);
        self
    }

    fn with(mut self, name: &str, data: RData) -> Self {
        let records = self.names.entry(name.to_lowercase()).or_default();
        records.entry(data.record_type()).or_default().push(data);
        self
    }

    fn fault(mut self, name: &str, record_type: RecordType, fault: Fault) -> Self {
        self.faults.insert((name.to_lowercase(), record_type), fault);
        self
    }

    /// The records at a name, by wildcard if need be; `None` where the name does not exist.
    fn find(&self, name: &str) -> Option<BTreeMap<RecordType, Vec<RData>>> {
        if let Some(records) = self.names.get(name) {
            return Some(records.clone());
        }
        if self.exists(name) {
            return Some(BTreeMap::new());
        }
        let mut encloser = name;
        while let Some((_, parent)) = encloser.split_once('.') {
            if let Some(records) = self.names.get(&format!("*.{parent}")) {
                return Some(records.clone());
            }
            if self.exists(parent) {
                return None;
            }
            encloser = parent;
        }
        None
    }

    fn exists(&self, name: &str) -> bool {
        let below = format!(".{name}");
        // A name that can only fail exists as well: its records are merely not known.
        let mut known = self.names.keys().chain(self.faults.keys().map(|(faulty, _)| faulty));
        known.any(|known| known == name || known.ends_with(&below))
    }

    /// The answer section and the response code.
    fn answer(&self, question: &Name, record_type: RecordType) -> (Vec<Record>, ResponseCode) {
        let mut answers = Vec::new();
        let mut name = question.clone();
        // A chain longer than this is a loop.
        for _ in 0..16 {
            let Some(records) = self.find(&key(&name)) else {
                return (answers, ResponseCode::NXDomain);
            };
            let found = records.get(&record_type).cloned().unwrap_or_default();
            answers.extend(found.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)));
            let alias = records.get(&RecordType::CNAME).and_then(|aliases| aliases.first());
            let Some(RData::CNAME(CNAME(target))) = alias.filter(|_| record_type != RecordType::CNAME) else {
                return (answers, ResponseCode::NoError);
            };
            answers.push(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
            name = target.clone();
        }
        (answers, ResponseCode::ServFail)
    }
}

impl DnsServer {
    /// Serves `zone` on a free port.
    pub async fn start(zone: Zone) -> Self {
        let (tcp, udp) = bind().await;
        let address = tcp.local_addr().expect("a bound socket has an address");
        let changed = watch::channel(()).0;
        let manner = watch::channel(Manner::Ready).0;
        let world = Arc::new(World { zone: Mutex::new(zone), asked: Mutex::default(), changed, manner });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&world)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&world)));
        Self { address, world, _tasks: tasks }
    }

    /// Where it listens, by UDP and by TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the zone; questions from now on see it.
    pub fn change(&self, change: impl FnOnce(Zone) -> Zone) {
        let mut zone = self.world.zone.lock().expect("no test panics inside");
        *zone = change(std::mem::take(&mut zone));
    }

    /// Changes how it takes questions; those that it holds, too.
    pub fn turn(&self, manner: Manner) {
        self.world.manner.send_replace(manner);
    }

    /// Lets a delayed question be answered, those already here and those to come.
    pub fn release(&self, name: &str, record_type: RecordType) {
        let zone = self.world.zone.lock().expect("no test panics inside");
        match zone.faults.get(&(name.to_lowercase(), record_type)) {
            Some(Fault::Delay(released)) => _ = released.send_replace(true),
            _ => panic!("{name} {record_type} is not delayed"),
        }
    }

    /// Every question so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.world.asked.lock().expect("no test panics inside").clone()
    }

    /// How often a question came, by any transport.
    pub fn count(&self, name: &str, record_type: RecordType) -> usize {
        self.asked().iter().filter(|a| a.spelled.eq_ignore_ascii_case(name) && a.record_type == record_type).count()
    }

    /// Forgets the questions so far.
    pub fn forget(&self) {
        self.world.asked.lock().expect("no test panics inside").clear();
    }

    /// Waits until a question has come `count` times.
    pub async fn wait_for(&self, name: &str, record_type: RecordType, count: usize) {
        let mut changed = self.world.changed.subscribe();
        let enough = async {
            while self.count(name, record_type) < count {
                changed.changed().await.expect("the server lives as long as this value");
            }
        };
        if tokio::time::timeout(super::PATIENCE, enough).await.is_err() {
            panic!("{name} {record_type} was not asked {count} times; asked was: {:#?}", self.asked());
        }
    }
}

impl World {
    /// Whether the stream ends at this question.
    fn closes(&self, octets: &[u8]) -> bool {
        let Ok(request) = Message::from_vec(octets) else { return true };
        let Some(query) = request.queries.first() else { return true };
        let zone = self.zone.lock().expect("no test panics inside");
        matches!(zone.faults.get(&(key(query.name()), query.query_type())), Some(Fault::TruncateAndClose))
    }

    /// The octets of the answer, or none.
    async fn respond(&self, octets: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let request = Message::from_vec(octets).ok()?;
        let [query] = request.queries.as_slice() else {
            return Message::error_msg(request.id, request.op_code, ResponseCode::FormErr).to_vec().ok();
        };
        if request.message_type != MessageType::Query || request.op_code != OpCode::Query {
            return Message::error_msg(request.id, request.op_code, ResponseCode::NotImp).to_vec().ok();
        }
        let (name, record_type) = (query.name().clone(), query.query_type());
        let spelled = name.to_ascii().trim_end_matches('.').to_owned();
        self.asked.lock().expect("no test panics inside").push(Asked { spelled, record_type, transport });
        self.changed.send_replace(());

        let fault = self.zone.lock().expect("no test panics inside").faults.get(&(key(&name), record_type)).cloned();
        let mut response = response_to(&request);
        let mut manner = self.manner.subscribe();
        let manner = *manner.wait_for(|manner| *manner != Manner::Holding).await.ok()?;
        match manner {
            Manner::Slow(time) => tokio::time::sleep(time).await,
            Manner::Dead => return None,
            Manner::Ready | Manner::Holding => {}
        }
        match (&fault, transport) {
            (Some(Fault::Drop), _) | (Some(Fault::TruncateAndDrop | Fault::TruncateAndClose), Transport::Tcp) => {
                return None;
            }
            (Some(Fault::OtherQuestion), _) => {
                let mut other = response_to(&request);
                for query in &mut other.queries {
                    query.name = absolute("another.example");
                }
                other.metadata.response_code = ResponseCode::NXDomain;
                return other.to_vec().ok();
            }
            (Some(Fault::Garbage), _) => return Some(b"\xff\xfe no DNS message".to_vec()),
            (Some(Fault::Code(code)), _) => {
                response.metadata.response_code = *code;
                return response.to_vec().ok();
            }
            (Some(Fault::Truncate | Fault::TruncateAndDrop | Fault::TruncateAndClose), Transport::Udp) => {
                response.metadata.truncation = true;
                return response.to_vec().ok();
            }
            (Some(Fault::Delay(released)), _) => {
                released.subscribe().wait_for(|released| *released).await.ok()?;
            }
            (None | Some(Fault::Truncate), _) => {}
        }
        let (answers, code) = self.zone.lock().expect("no test panics inside").answer(&name, record_type);
        let negative = code == ResponseCode::NXDomain || !answers.iter().any(|a| a.record_type() == record_type);
        response.metadata.response_code = code;
        response.answers = answers;
        if negative {
            response.add_authority(Record::from_rdata(Name::root(), TTL, start_of_authority()));
        }
        let full = response.to_vec().ok()?;
        if transport == Transport::Tcp || full.len() <= room(&request) {
            return Some(full);
        }
        response.answers.clear();
        response.metadata.truncation = true;
        response.to_vec().ok()
    }
}

async fn serve_udp(socket: UdpSocket, world: Arc<World>) {
    let socket = Arc::new(socket);
    let mut answers = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        while answers.try_join_next().is_some() {}
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { return };
        let (octets, socket, world) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&world));
        answers.spawn(async move {
            if let Some(answer) = world.respond(&octets, Transport::Udp).await {
                // The asker may have gone; that is its own affair.
                _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(serve_stream(stream, Arc::clone(&world)));
    }
}

/// Answers the questions of one stream, each when it is ready (RFC 7766 §6.2.1.1).
async fn serve_stream(stream: TcpStream, world: Arc<World>) {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let mut answers = JoinSet::new();
    while let Ok(length) = reader.read_u16().await {
        let mut octets = vec![0; usize::from(length)];
        if reader.read_exact(&mut octets).await.is_err() {
            return;
        }
        let (world, writer) = (Arc::clone(&world), Arc::clone(&writer));
        if world.closes(&octets) {
            return;
        }
        answers.spawn(async move {
            if let Some(answer) = world.respond(&octets, Transport::Tcp).await {
                write_framed(&mut *writer.lock().await, &answer).await;
            }
        });
    }
    while answers.join_next().await.is_some() {}
}

async fn write_framed(writer: &mut OwnedWriteHalf, answer: &[u8]) {
    let length = u16::try_from(answer.len()).expect("a zone of a test fits in a DNS message");
    let framed = [&length.to_be_bytes(), answer].concat();
    // The asker may have gone; that is its own affair.
    _ = writer.write_all(&framed).await;
}

/// One free port for both transports: the OS gives one for TCP, and it is nearly always free for UDP too.
async fn bind() -> (TcpListener, UdpSocket) {
    for _ in 0..50 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("a bound socket has an address")).await {
            return (tcp, udp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

/// An empty answer that repeats the question letter by letter, so that case randomization holds.
fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.id, request.op_code);
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = request.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        response.set_edns(edns);
    }
    response
}

/// How long a UDP answer may be: what the asker takes (512 without EDNS) and no more than we send.
fn room(request: &Message) -> usize {
    usize::from(request.edns.as_ref().map_or(512, |edns| edns.max_payload().clamp(512, UDP_PAYLOAD)))
}

fn start_of_authority() -> RData {
    let server = absolute("ns.test");
    RData::SOA(SOA::new(server.clone(), server, 1, 3600, 600, 86_400, TTL))
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a test writes proper names");
    name.set_fqdn(true);
    name
}

fn key(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

/// Seconds that any answer holds, negative ones too: no test waits for it to pass.
const TTL: u32 = 300;

/// The usual bound that avoids fragments.
const UDP_PAYLOAD: u16 = 1232;
