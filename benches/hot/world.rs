//! What a gate has at hand when a message comes: its settings, DNS with a warm cache, a directory.

use std::future::{Future, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dmarcgate::config::Config;
use dmarcgate::dns::{self, MessageLookup, Resolver};
use dmarcgate::evaluation::discovery::Rules;
use dmarcgate::evaluation::gather::{HELO_LOOKUPS, Lookups, gather};
use dmarcgate::evaluation::subject::Subject;
use dmarcgate::evaluation::{Evaluation, Sender};
use dmarcgate::message::body_hash::{BodyHasher, BodyHashes};
use dmarcgate::message::header::HeaderSection;
use dmarcgate::metrics::Registry;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::letters::{self, Letter};
use crate::support::config::ConfigText;
use crate::support::dns::DnsServer;

/// The whole of it. What is in it ends with this value.
pub struct World {
    pub config: Config,
    pub resolver: Resolver,
    pub rules: Rules,
    dns: DnsServer,
    runtime: Runtime,
    _directory: TempDir,
}

/// A message as far as it is known at its end of data.
pub struct Taken {
    pub sender: Sender,
    pub subject: Arc<Subject>,
    pub hashes: BodyHashes,
}

impl World {
    /// With the settings of a fresh configuration, but in the mode that refuses.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let dns = runtime.block_on(DnsServer::start(letters::zone()));
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let text = ConfigText::new(nobody, dns.address(), directory.path()).set("policy.mode", "enforce").text();
        let config = Config::parse(&text).expect("a configuration").config;
        // Nothing is to be asked again while it is measured.
        let settings = dns::Settings { min_ttl: DAY, max_ttl: DAY, max_negative_ttl: DAY, ..config.resolver() };
        let resolver = Resolver::new(settings, dns::Metrics::new(&Registry::new())).expect("a resolver");
        Self { config, resolver, rules: Rules::default(), dns, runtime, _directory: directory }
    }

    /// Runs what is asynchronous, in this thread.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Takes a message in, all at once.
    pub fn take(&self, letter: &Letter) -> Taken {
        let (head, body) = letter.parts();
        let subject = Arc::new(Subject::read(HeaderSection::parse(head.to_vec()), self.config.message().signatures));
        let mut hasher = BodyHasher::new(subject.body_hash_specs());
        hasher.update(body);
        Taken { sender: letter.sender.clone(), subject, hashes: hasher.finish() }
    }

    /// Finds out about a message what a session finds out about it.
    pub async fn evaluate(&self, taken: &Taken) -> Evaluation {
        let lookup = self.lookup(taken);
        let helo = lookup.apart(HELO_LOOKUPS);
        let lookups = Lookups { identifiers: &lookup, helo: &helo, policy: &lookup.unmetered() };
        let subject = ready(Some(Arc::clone(&taken.subject)));
        let gathered = gather(lookups, taken.sender.clone(), &self.rules, subject).await;
        let evaluation = gathered.evaluate(&taken.hashes, letters::now(), lookup.take_evidence(), Duration::ZERO);
        evaluation.expect("a header section")
    }

    /// The same, once DNS knows the message: from now on its answers are in the cache.
    pub fn evaluated(&self, taken: &Taken) -> Evaluation {
        self.run(self.evaluate(taken));
        let evaluation = self.run(self.evaluate(taken));
        assert!(evaluation.evidence.asked.iter().all(|asked| asked.cached), "{:#?}", evaluation.evidence);
        evaluation
    }

    /// The look-ups of a message.
    pub fn lookup(&self, taken: &Taken) -> MessageLookup {
        self.resolver.for_message(Some(taken.sender.ip))
    }

    /// How many questions came to DNS so far.
    pub fn questions(&self) -> usize {
        self.dns.asked().len()
    }
}

const DAY: Duration = Duration::from_secs(86_400);
