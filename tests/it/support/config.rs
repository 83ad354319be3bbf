//! Configuration text for a gate in a test or in the demo: loopback, ports from the OS, a directory of its own.

use std::net::SocketAddr;
use std::path::Path;

/// A configuration under construction, by key paths as the reference file has them.
#[derive(Clone, Debug)]
pub struct ConfigText(toml::Table);

impl ConfigText {
    /// A gate before `upstream` that asks `dns` and keeps its files below `directory`: clients are named by PROXY
    /// headers from loopback, the upstream guards itself against relaying.
    pub fn new(upstream: SocketAddr, dns: SocketAddr, directory: &Path) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        Self(toml::Table::new())
            .set("hostname", "mx.gate.example")
            .listener("address", "127.0.0.1:0")
            .listener("proxy_protocol_from", vec!["127.0.0.0/8"])
            .set("upstream.servers", vec![upstream.to_string()])
            .set("dns.servers", vec![dns.to_string()])
            .set("smtp.recipient_domains", vec!["*"])
            .set("spool.directory", path("spool"))
            .set("public_suffix.file", path("public_suffix_list.dat"))
            .set("store.url", format!("sqlite://{}", path("dmarcgate.db")))
            // Whoever starts it, and whatever users the system has.
            .set("process.user", "root")
            .set("admin.address", "127.0.0.1:0")
            .set("log.format", "json")
    }

    /// Sets the key at a dotted path, in place of any value before.
    pub fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        Self::set_in(&mut self.0, path, value);
        self
    }

    fn set_in(mut table: &mut toml::Table, path: &str, value: impl Into<toml::Value>) {
        let mut words = path.split('.').peekable();
        while let Some(word) = words.next() {
            if words.peek().is_none() {
                table.insert(word.to_owned(), value.into());
                break;
            }
            let section = table.entry(word).or_insert_with(|| toml::Table::new().into());
            table = section.as_table_mut().expect("a section");
        }
    }

    /// Takes the key at a dotted path away, so that its default holds.
    pub fn unset(mut self, path: &str) -> Self {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let mut words = section.split('.').filter(|word| !word.is_empty());
        let table = words.try_fold(&mut self.0, |table, word| table.get_mut(word)?.as_table_mut());
        table.and_then(|table| table.remove(key)).unwrap_or_else(|| panic!("{path} is not set"));
        self
    }

    /// Sets the key at a dotted path inside the last listener.
    pub fn listener(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        let first = || vec![toml::Value::Table(toml::Table::new())].into();
        let listeners = self.0.entry("listener").or_insert_with(first).as_array_mut().expect("an array");
        let last = listeners.last_mut().and_then(toml::Value::as_table_mut).expect("a table");
        Self::set_in(last, key, value);
        self
    }

    /// Adds a listener on a free port; further [`ConfigText::listener`] calls are about it.
    pub fn another_listener(mut self) -> Self {
        let listener = toml::Table::from_iter([("address".to_owned(), toml::Value::from("127.0.0.1:0"))]);
        self.0.get_mut("listener").and_then(toml::Value::as_array_mut).expect("an array").push(listener.into());
        self
    }

    /// Takes a key of the last listener away, a whole table of it, too.
    pub fn without_in_listener(mut self, key: &str) -> Self {
        let listeners = self.0.get_mut("listener").and_then(toml::Value::as_array_mut).expect("an array");
        let last = listeners.last_mut().and_then(toml::Value::as_table_mut).expect("a table");
        last.remove(key).unwrap_or_else(|| panic!("the listener has no {key}"));
        self
    }

    /// Takes the last listener away.
    pub fn without_listener(mut self) -> Self {
        self.0.get_mut("listener").and_then(toml::Value::as_array_mut).and_then(Vec::pop).expect("a listener");
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        toml::to_string(&self.0).expect("tables, strings and numbers")
    }
}
