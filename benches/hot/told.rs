//! What is written down about each message: its line in the log, and its explanation unless it is a plain pass.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use criterion::{BenchmarkId, Criterion};
use dmarcgate::config::{Log, LogFormat};
use dmarcgate::envelope::{Client, Hello, Protocol};
use dmarcgate::explain::{self, Case, Drafter, Explanation};
use dmarcgate::logging::{self, Destination};
use dmarcgate::metrics::Registry;
use dmarcgate::readiness::Readiness;
use dmarcgate::session;
use dmarcgate::session::aftermath::{Origin, log};
use dmarcgate::session::metrics::Outcome;
use dmarcgate::session::transaction::{Answer, AnsweredBy, EndOfData, Ending, Mail, Taken, Transaction};
use dmarcgate::smtp::reply::Reply;
use dmarcgate::tls::ClientMetrics;
use dmarcgate::upstream;
use dmarcgate::upstream::servers::Servers;
use dmarcgate::verdict::{Verdict, conclude};
use tracing::subscriber::with_default;

use crate::letters::{self, Letter};
use crate::world::World;

pub fn bench(criterion: &mut Criterion, world: &World) {
    log_line(criterion, world);
    explanation(criterion, world);
}

fn log_line(criterion: &mut Criterion, world: &World) {
    let letter = Letter::small();
    let taken = world.take(&letter);
    let transaction = Transaction::new(Arc::new(session_settings(world)), None);
    let envelope = letter.envelope();
    let client = Client::new((letter.sender.ip, 40_123).into(), LISTENER);
    let hello = Hello { name: letter.client_name(), protocol: Protocol::Esmtp };
    let origin = Origin { session: "7Z3K9Q0V5T8WX", client: &client, listener: LISTENER };
    let reply = Reply::new(250, "2.0.0", "Ok: queued as 4fWk2Q1Zr0z9vQ");
    let ending = Ending {
        mail: Mail { transaction: &transaction, hello: &hello, envelope: &envelope, end_of_data: EndOfData::now() },
        answer: Answer { reply: &reply, by: AnsweredBy::Upstream, outcome: Outcome::Accepted },
        taken: Some(Taken { subject: taken.subject, size: letter.content.len() as u64, hop: String::new() }),
        verdict: Some(verdict(world, &letter)),
        claim: None,
    };
    let write = || log(&origin, &ending);

    let mut group = criterion.benchmark_group("log line");
    for format in [LogFormat::Json, LogFormat::Human] {
        let settings = Log { format, ..world.config.log.clone() };
        let lines = Lines::default();
        let (subscriber, guard) =
            logging::to(lines.clone(), Destination::Plain, &settings, &Registry::new()).expect("a log");
        with_default(subscriber, write);
        // It waits for what is under way.
        drop(guard);
        let text = lines.text();
        assert!(text.contains("bank.example") && text.lines().count() == 1, "{text}");

        // Lines that come faster than their thread takes them are dropped there; making them is what is measured.
        let (subscriber, _guard) =
            logging::to(io::sink(), Destination::Plain, &settings, &Registry::new()).expect("a log");
        with_default(subscriber, || _ = group.bench_function(format.to_string(), |b| b.iter(write)));
    }
    group.finish();
}

fn explanation(criterion: &mut Criterion, world: &World) {
    let mut drafter = Drafter::new(world.config.log.personal_data);
    let mut group = criterion.benchmark_group("explanation");
    for letter in [Letter::forwarded(), Letter::forged()] {
        let taken = world.take(&letter);
        let case = Case {
            id: "7Z3K9Q0V5T8WX".into(),
            session: "2B6M1C4D0F9GH".into(),
            gate: world.config.hostname.as_str().into(),
            listener: LISTENER,
            policy_table: "policy",
            arrived: letters::now(),
            ip: letter.sender.ip,
            hello: letter.sender.helo.clone(),
            letter: explain::Letter::new(&letter.envelope(), Some(&taken.subject.section)),
            octets: Some(letter.content.len() as u64),
            verdict: Some(verdict(world, &letter)),
            rules: Arc::new(world.rules.clone()),
            received: String::new(),
            removed: 0,
            outcome: "accepted",
            answered_by: "upstream",
            reply: Reply::new(250, "2.0.0", "Ok: queued as 4fWk2Q1Zr0z9vQ"),
        };
        let told = Explanation::decode(&drafter.draw_up(&case)).expect("what was encoded").tell();
        assert!(told.contains("bank.example") && told.contains("DNS:"), "{told}");
        group.bench_function(BenchmarkId::from_parameter(letter.name), |b| b.iter(|| drafter.draw_up(&case)));
    }
    group.finish();
}

fn verdict(world: &World, letter: &Letter) -> Verdict {
    let (settings, envelope) = (world.config.verdict(), letter.envelope());
    let circumstances = settings.circumstances(&envelope, letters::now());
    conclude(world.evaluated(&world.take(letter)), &envelope, &circumstances, &settings, "7Z3K9Q0V5T8WX")
}

/// The settings of sessions, with servers that nobody asks.
fn session_settings(world: &World) -> session::Settings {
    let (registry, config) = (Registry::new(), &world.config);
    let security = config.security(ClientMetrics::new(&registry)).expect("certification authorities");
    let upstream = Arc::new(config.upstream(security));
    let servers = Servers::new(upstream, upstream::Metrics::new(&registry), Readiness::new(&[], &registry));
    config.session_at(&config.listeners[0], Arc::new(servers))
}

/// Keeps the lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nothing panics inside").clone()).expect("UTF-8")
    }
}

impl io::Write for Lines {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nothing panics inside").write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const LISTENER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)), 25);
