//! A DNS zone written in a test: answers without a network, counts the questions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Answer, Failure, Lookup, Miss, Mx, RecordType, Records, TxtRecords};

/// Names and their records; a name with records of another type is NODATA, one above a known name too, else NXDOMAIN.
#[derive(Default)]
pub struct Zone {
    records: HashMap<(String, RecordType), Result<Arc<Records>, Miss>>,
    asked: Mutex<Vec<(String, RecordType)>>,
}

impl Zone {
    /// An empty zone.
    pub fn new() -> Self {
        Self::default()
    }

    /// One TXT record for each text.
    pub fn txt(self, name: &str, texts: &[&str]) -> Self {
        let texts = texts.iter().map(|t| t.as_bytes().into()).collect();
        self.with(name, RecordType::Txt, Ok(Records::Txt(TxtRecords::new(texts))))
    }

    /// IPv4 addresses.
    pub fn a(self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.with(name, RecordType::A, Ok(Records::A(addresses)))
    }

    /// IPv6 addresses.
    pub fn aaaa(self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.with(name, RecordType::Aaaa, Ok(Records::Aaaa(addresses)))
    }

    /// Exchangers with their preferences.
    pub fn mx(self, name: &str, exchanges: &[(u16, &str)]) -> Self {
        let mx =
            exchanges.iter().map(|(preference, e)| Mx { preference: *preference, exchange: (*e).into() }).collect();
        self.with(name, RecordType::Mx, Ok(Records::Mx(mx)))
    }

    /// Names of a reverse name.
    pub fn ptr(self, name: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|n| (*n).into()).collect();
        self.with(name, RecordType::Ptr, Ok(Records::Ptr(names)))
    }

    /// The question for `name` and `record_type` fails.
    pub fn fail(self, name: &str, record_type: RecordType, failure: Failure) -> Self {
        self.with(name, record_type, Err(Miss::Failed(failure)))
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<(String, RecordType)> {
        self.asked.lock().unwrap().clone()
    }

    fn with(mut self, name: &str, record_type: RecordType, outcome: Result<Records, Miss>) -> Self {
        self.records.insert((name.to_lowercase(), record_type), outcome.map(Arc::new));
        self
    }
}

impl Lookup for Zone {
    async fn ask(&self, name: &str, record_type: RecordType) -> Answer {
        let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        self.asked.lock().unwrap().push((name.clone(), record_type));
        let outcome = self.records.get(&(name.clone(), record_type)).cloned().unwrap_or_else(|| {
            let suffix = format!(".{name}");
            let exists = self.records.keys().any(|(known, _)| *known == name || known.ends_with(&suffix));
            Err(if exists { Miss::NoData } else { Miss::NxDomain })
        });
        Answer { outcome, ttl: Duration::from_secs(300) }
    }
}
