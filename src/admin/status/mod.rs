//! The status page and its API: what the gate does, at a glance, for those who may see the admin listener.
//!
//! Read-only. Everything that can be told without the store comes from the metrics of this moment (`facts`), so that
//! the page and a scrape agree; the rest is read from the store in the background, now and then, however often somebody
//! asks (`cached`). Mail never waits for any of it. `page` turns facts into HTML and knows nothing else.

mod cached;
mod facts;
mod gather;
pub mod history;
mod page;
mod plot;
mod stored;
mod text;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Semaphore, watch};
use tokio::time::{interval, timeout};
use tracing::warn;

use self::facts::Facts;
use self::history::{History, counts};
pub use self::page::STYLE;
use self::stored::Stored;
use self::text::Text;
use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::explain::Explanation;
use crate::metrics::Registry;
use crate::policy::overrides::Criteria;
use crate::readiness::Readiness;
use crate::session::latest::{self, Latest};
use crate::store::{Location, Reader};

/// What the pages need of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The gate's name.
    pub hostname: Box<str>,
    /// The store.
    pub location: Location,
    /// What overrides grant already, each until a day since the epoch, or for good.
    pub granted: Vec<(Criteria, Option<i64>)>,
    /// Networks whose mail is not evaluated.
    pub trusted: Vec<IpNet>,
    /// Whether reports are sent.
    pub reports: bool,
    /// Whether reports of others are read.
    pub inbound: bool,
}

/// What the page is made of. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    settings: watch::Receiver<Arc<Settings>>,
    registry: Registry,
    readiness: Readiness,
    latest: Latest,
    history: Mutex<History>,
    stored: Stored,
    started: i64,
    /// Stories that are read from the store at a time.
    stories: Semaphore,
}

/// What a path leads to.
pub enum Resource {
    /// A page.
    Html(String),
    /// What the API says.
    Json(String),
    /// There is nothing.
    Nothing,
    /// There may be something, but not now.
    Busy,
}

impl Status {
    /// A status page over these; [`Status::run`] keeps its minutes.
    pub fn new(
        settings: watch::Receiver<Arc<Settings>>,
        registry: Registry,
        readiness: Readiness,
        latest: Latest,
    ) -> Self {
        let (history, stories) = (Mutex::default(), Semaphore::new(MOST_STORIES));
        let stored = Stored::default();
        Self(Arc::new(Inner {
            settings,
            registry,
            readiness,
            latest,
            history,
            stored,
            started: epoch_seconds_signed(),
            stories,
        }))
    }

    /// Looks at the counters every few seconds, for ever, so that each message belongs to its minute.
    pub async fn run(self) {
        let mut ticks = interval(LOOK);
        loop {
            ticks.tick().await;
            let samples = self.0.registry.samples();
            self.history(|history| history.look(epoch_seconds_signed(), counts(&samples)));
        }
    }

    /// What a path leads to; a path that is none of the page's leads to nothing.
    pub async fn find(&self, path: &str) -> Resource {
        if let Some(id) = path.strip_prefix("/explain/") {
            return self
                .story(id, |explanation| Resource::Html(page::story(explanation, &Text::of(self.hostname()))))
                .await;
        }
        if let Some(id) = path.strip_prefix("/api/explain/") {
            return self.story(id, |explanation| Resource::Json(explanation.to_json())).await;
        }
        if let Some(name) = path.strip_prefix("/api/") {
            if !page::API.contains(&name) {
                return Resource::Nothing;
            }
            let facts = self.facts(usize::MAX).await;
            return page::api(name, &facts).map_or(Resource::Nothing, Resource::Json);
        }
        let Some(view) = page::View::of(path) else { return Resource::Nothing };
        Resource::Html(page::page(view, &self.facts(view.refusals()).await))
    }

    /// Everything, with at most `refusals` of them.
    async fn facts(&self, refusals: usize) -> Facts {
        let settings = Arc::clone(&self.0.settings.borrow());
        let samples = self.0.registry.samples();
        let now = epoch_seconds_signed();
        let minutes = self.history(|history| {
            history.look(now, counts(&samples));
            history.minutes()
        });
        let stored = self.0.stored.read(&settings).await;
        let gate = gather::gate(&settings.hostname, self.0.started, &samples, &self.0.readiness);
        gather::facts(gather::Now { now, samples, minutes, gate, latest: self.0.latest.list(refusals), stored })
    }

    /// The story of a message, if one is kept.
    async fn story(&self, id: &str, tell: impl FnOnce(&Explanation) -> Resource) -> Resource {
        // As the gate writes them: nothing else is asked of the store.
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Resource::Nothing;
        }
        let location = self.0.settings.borrow().location.clone();
        let Ok(_place) = self.0.stories.try_acquire() else { return Resource::Busy };
        match timeout(STORY, Reader::new(location).explanation(&id.to_ascii_uppercase())).await {
            Ok(Ok(Some(body))) => match Explanation::decode(&body) {
                Ok(explanation) => tell(&explanation),
                Err(error) => {
                    warn!(error = %Causes(&error), "an explanation can't be told");
                    Resource::Nothing
                }
            },
            Ok(Ok(None)) => Resource::Nothing,
            Ok(Err(error)) => {
                warn!(error = %Causes(&error), "the status page can't read the store");
                Resource::Busy
            }
            Err(_) => Resource::Busy,
        }
    }

    /// The gate's name.
    pub fn hostname(&self) -> Box<str> {
        self.0.settings.borrow().hostname.clone()
    }

    fn history<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.0.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How often the counters are looked at: a message may be told under the next minute by so much.
const LOOK: Duration = Duration::from_secs(2);
/// How long reading one story may take.
const STORY: Duration = Duration::from_secs(5);
/// Stories that are read at a time; further requests are told to try again.
const MOST_STORIES: usize = 4;
/// Letters of an id, at most.
const MAX_ID: usize = 32;
/// Refusals that the overview shows.
const FEW: usize = 8;
/// Those that a page of its own shows.
const ALL: usize = latest::MOST;
