//! Keeps the public suffix list fresh, for gates that discover policies by it (`policy.discovery = "public-suffix"`).
//!
//! Owns the file and when it is fetched; the rules are `dmarc::public_suffix`'s. The list in use is the last good one:
//! that of the file, else the copy that the gate was built with. Nothing that goes wrong here holds up mail. A gate
//! that walks the tree reads no file and fetches nothing.

mod fetch;
mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::causes::Causes;
use crate::clock;
use crate::dmarc::public_suffix::{Discovery, List, Unfit};
use crate::evaluation::discovery::Rules;
use crate::label_enum;
use crate::metrics::{Family, IntGauge, Registry};

/// What the operator sets for the list.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether the list is used at all.
    pub discovery: Discovery,
    /// Where it is kept; its directory must be writable for a list that is fetched to last.
    pub file: PathBuf,
    /// Where it comes from.
    pub url: Box<str>,
    /// How old the file may become before it is fetched again.
    pub max_age: Duration,
    /// How long to wait after a fetch that failed; the pause doubles up to [`LONGEST_PAUSE`].
    pub first_pause: Duration,
}

/// Why there is no new list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be fetched: the network, the server, or an answer beyond the bounds.
    #[error("the public suffix list can't be fetched")]
    Fetch(#[from] ureq::Error),
    /// It can't be written beside the file: the operator's to mend. The list is used until the gate stops.
    #[error("the public suffix list can't be kept")]
    Keep(#[source] std::io::Error),
    /// The file can't be read.
    #[error("the file of the public suffix list can't be read")]
    Read(#[source] std::io::Error),
    /// What was fetched or read is not fit for use.
    #[error("this is no public suffix list: {0}")]
    Unfit(Unfit),
}

label_enum! {
    /// What came of a fetch.
    pub enum Fetched {
        /// The list is in use and in the file.
        Replaced = "replaced",
        /// Nothing came.
        Failed = "failed",
        /// What came is no list.
        Unfit = "unfit",
        /// The list is in use, but can't be written to the file.
        NotKept = "not_kept",
    }
}

/// The list and what keeps it fresh. All copies give the same rules.
#[derive(Clone)]
pub struct SuffixList {
    settings: Settings,
    rules: watch::Sender<Arc<Rules>>,
    fetches: Family<Fetched>,
    fetched_at: IntGauge,
    /// When the list in use was fetched; none for the built-in copy.
    since: Option<SystemTime>,
}

impl SuffixList {
    /// Takes the list from the file if it is to be used and fit for it, else the built-in copy.
    pub fn open(settings: Settings, registry: &Registry) -> Self {
        let (list, since) = kept(&settings);
        let list = Self {
            rules: watch::Sender::new(Arc::new(Rules { discovery: settings.discovery, suffixes: Arc::new(list) })),
            settings,
            fetches: registry.family(
                "dmarcgate_suffix_list_fetches_total",
                "Fetches of the public suffix list.",
                "result",
            ),
            fetched_at: registry.gauge(
                "dmarcgate_suffix_list_fetched_seconds",
                "When the public suffix list in use was fetched, in seconds since 1970; 0: the built-in copy.",
            ),
            since,
        };
        list.tell();
        list
    }

    /// The rules in force, now and later.
    pub fn rules(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.subscribe()
    }

    /// Fetches the list whenever it is older than it may be, until it is aborted.
    pub async fn run(mut self) {
        let mut pause = self.settings.first_pause;
        loop {
            let left = self.left();
            if !left.is_zero() {
                // The clock may be set meanwhile: look again now and then.
                sleep(left.min(LONGEST_PAUSE)).await;
                continue;
            }
            if self.refresh().await {
                pause = self.settings.first_pause;
            } else {
                sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Whether the next fetch is due only by age.
    async fn refresh(&mut self) -> bool {
        let (result, (list, error)) = match renewed(&self.settings).await {
            Ok((list, None)) => (Fetched::Replaced, (Some(list), None)),
            Ok((list, Some(error))) => (Fetched::NotKept, (Some(list), Some(error))),
            Err(error @ Error::Unfit(_)) => (Fetched::Unfit, (None, Some(error))),
            Err(error) => (Fetched::Failed, (None, Some(error))),
        };
        self.fetches.inc(result);
        if let Some(error) = error {
            let used = if list.is_some() { "the one just fetched" } else { "the last good one" };
            warn!(url = &*self.settings.url, error = %Causes(&error), used, "the public suffix list was not renewed");
        }
        let Some(list) = list else { return false };
        info!(rules = list.rules(), "the public suffix list was fetched");
        self.since = Some(SystemTime::now());
        self.tell();
        let rules = Rules { discovery: self.settings.discovery, suffixes: Arc::new(list) };
        self.rules.send_replace(Arc::new(rules));
        true
    }

    /// How long the list in use may stay; nothing if it must go, or its age is not known.
    fn left(&self) -> Duration {
        let age = self.since.and_then(|since| since.elapsed().ok());
        age.map_or(Duration::ZERO, |age| self.settings.max_age.saturating_sub(age))
    }

    fn tell(&self) {
        self.fetched_at.set(self.since.map_or(0, |since| clock::signed(clock::since_epoch(since))));
    }
}

/// The rules that hold without anyone who keeps the list fresh, for commands that evaluate one message.
pub fn rules(settings: &Settings) -> Rules {
    Rules { discovery: settings.discovery, suffixes: Arc::new(kept(settings).0) }
}

/// The list of the file and when it was fetched, else the built-in copy.
fn kept(settings: &Settings) -> (List, Option<SystemTime>) {
    if settings.discovery == Discovery::TreeWalk {
        return (List::BuiltIn, None);
    }
    let file = settings.file.display();
    match file::read(&settings.file) {
        Ok(Some((list, since))) => {
            info!(file = %file, rules = list.rules(), "public suffix list read");
            (list, Some(since))
        }
        Ok(None) => {
            info!(file = %file, "no public suffix list yet: the built-in copy serves");
            (List::BuiltIn, None)
        }
        Err(error) => {
            warn!(file = %file, error = %Causes(&error), "public suffix list not used: the built-in copy serves");
            (List::BuiltIn, None)
        }
    }
}

/// Fetches, checks and keeps a list on a thread of its own, which nobody waits for when the gate stops. The second
/// value says why it could not be kept.
async fn renewed(settings: &Settings) -> Result<(List, Option<Error>), Error> {
    let (done, result) = oneshot::channel();
    let (url, path) = (settings.url.clone(), settings.file.clone());
    let work = move || {
        let renew = || {
            let octets = fetch::fetch(&url)?;
            let list = List::parse(&octets).map_err(Error::Unfit)?;
            let unkept = file::replace(&path, &octets).err().map(Error::Keep);
            Ok((list, unkept))
        };
        // Nobody waits any more: the gate stops.
        let _ = done.send(renew());
    };
    std::thread::Builder::new().name("suffix-list".into()).spawn(work).map_err(Error::Keep)?;
    result.await.unwrap_or_else(|_| Err(Error::Keep(std::io::Error::other("the thread that fetches it has panicked"))))
}

/// The longest pause between two fetches that fail.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The first pause after a fetch that failed.
pub const FIRST_PAUSE: Duration = Duration::from_secs(60);
