//! The gate as a process: the built binary with a configuration file in a directory of its own.
//!
//! The binary tells its addresses in the file that `DMARCGATE_ADDRESS_FILE` names, one `listener HOST:PORT` a line in
//! the order of the configuration and one `admin HOST:PORT`, written whole (renamed into place) once it is ready.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::config::ConfigText;

/// A running gate; it is killed with this value.
pub struct Gate {
    child: Child,
    directory: TempDir,
    config: ConfigText,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    log: watch::Sender<Vec<String>>,
}

/// A scrape of `/metrics`.
#[derive(Debug, Clone)]
pub struct Scrape(pub String);

impl Gate {
    /// Starts the gate before `upstream`, asking `dns`, with the defaults of [`ConfigText::new`] changed by `change`,
    /// and waits until it is ready.
    pub async fn start(upstream: SocketAddr, dns: SocketAddr, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("spool")).expect("a fresh directory");
        let config = change(ConfigText::new(upstream, dns, directory.path()));
        Self::start_in(directory, &config).await
    }

    /// Starts a gate in a directory that another one left by [`Gate::kill`] or [`Gate::stop`].
    pub async fn start_in(directory: TempDir, config: &ConfigText) -> Self {
        Self::start_under(directory, config, "true", |command| command).await
    }

    /// As [`Gate::start_in`], from a shell that first does what `prelude` says (it has the process id and standard
    /// input that the gate will have), with a command changed by `change`.
    pub async fn start_under(
        directory: TempDir,
        config: &ConfigText,
        prelude: &str,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let addresses = directory.path().join("addresses");
        _ = std::fs::remove_file(&addresses);
        let mut command = Self::command(directory.path(), config, prelude);
        command.env("DMARCGATE_ADDRESS_FILE", &addresses);
        let mut child = change(&mut command).spawn().expect("cargo has built the binary");
        // What it was given of ours is its own now.
        drop(command);
        let log = watch::channel(Vec::new()).0;
        collect(child.stdout.take().expect("piped"), log.clone());
        collect(child.stderr.take().expect("piped"), log.clone());
        let mut gate = Self { child, directory, config: config.clone(), listeners: Vec::new(), admin: None, log };
        gate.wait_until_ready(&addresses).await;
        gate
    }

    /// The command that serves with this configuration, after a shell's `prelude`.
    pub fn command(directory: &Path, config: &ConfigText, prelude: &str) -> Command {
        let file = directory.join(CONFIG);
        std::fs::write(&file, config.text()).expect("a writable directory");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\""), BINARY, "serve", "--config"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Has it read a configuration changed by `change`.
    pub fn reload(&mut self, change: impl FnOnce(ConfigText) -> ConfigText) {
        self.config = change(self.config.clone());
        self.reload_text(&self.config.text());
    }

    /// Has it read this text.
    pub fn reload_text(&self, text: &str) {
        self.write_config(text);
        self.signal("HUP");
    }

    /// Puts this text into the place of its configuration, whole.
    pub fn write_config(&self, text: &str) {
        let draft = self.directory.path().join("dmarcgate.new");
        std::fs::write(&draft, text).expect("a writable directory");
        std::fs::rename(&draft, self.directory.path().join(CONFIG)).expect("a writable directory");
    }

    /// The configuration that it was started with, or was made to read last.
    pub fn config(&self) -> &ConfigText {
        &self.config
    }

    /// Has it read a configuration changed by `change`, and waits until it has taken it over.
    pub async fn reloaded(&mut self, change: impl FnOnce(ConfigText) -> ConfigText) -> Scrape {
        let before = self.metrics().await.value(APPLIED);
        self.reload(change);
        self.wait_for_metrics("one more reload", |scrape| scrape.value(APPLIED) == before + 1.0).await
    }

    /// Where the first listener is.
    pub fn address(&self) -> SocketAddr {
        self.listener(0)
    }

    /// Where the listener is that stands at place `n` of the configuration.
    pub fn listener(&self, n: usize) -> SocketAddr {
        *self.listeners.get(n).unwrap_or_else(|| panic!("no listener {n}\n{}", self.transcript()))
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.admin.unwrap_or_else(|| panic!("no admin listener\n{}", self.transcript()))
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Every line that it has printed, from both streams.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// The log as JSON; lines that are none are left out.
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.log().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the log that holds `text`, and yields it.
    pub async fn wait_for_log(&self, text: &str) -> String {
        let mut log = self.log.subscribe();
        let holds = |lines: &Vec<String>| lines.iter().any(|line| line.contains(text));
        match tokio::time::timeout(super::PATIENCE, log.wait_for(holds)).await {
            Ok(lines) => {
                let lines = lines.expect("we hold the sender");
                lines.iter().find(|line| line.contains(text)).expect("just found").clone()
            }
            Err(_) => panic!("the log has no {text:?}\n{}", self.transcript()),
        }
    }

    /// Waits until `condition` holds of the log.
    pub async fn wait_until_log(&self, condition: impl Fn(&[String]) -> bool) {
        let mut log = self.log.subscribe();
        if tokio::time::timeout(super::PATIENCE, log.wait_for(|lines| condition(lines))).await.is_err() {
            panic!("the log never was as it had to be\n{}", self.transcript());
        }
    }

    /// Scrapes `/metrics`.
    pub async fn metrics(&self) -> Scrape {
        let (status, body) = self.http_get("/metrics").await;
        assert_eq!(status, 200, "{body}");
        Scrape(body)
    }

    /// Scrapes until `condition` holds: some figures follow the reply that they count.
    pub async fn wait_for_metrics(&self, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        let (mut again, deadline) = (tokio::time::interval(POLL), tokio::time::Instant::now() + super::PATIENCE);
        loop {
            again.tick().await;
            let scrape = self.metrics().await;
            if condition(&scrape) {
                return scrape;
            }
            assert!(tokio::time::Instant::now() < deadline, "metrics never had {what}\n{}", scrape.0);
        }
    }

    /// GET at the admin listener: status and body.
    pub async fn http_get(&self, path: &str) -> (u16, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(self.admin()).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await?;
            std::io::Result::Ok(response)
        };
        let response = tokio::time::timeout(super::PATIENCE, exchange).await.expect("HTTP in time").expect("HTTP");
        let (head, body) = response.split_once("\r\n\r\n").expect("an HTTP response");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an HTTP status");
        (status, if head.to_ascii_lowercase().contains("chunked") { unchunk(body) } else { body.to_owned() })
    }

    /// The recorded rows, by `dmarcgate reports rows --json`.
    pub async fn rows(&self) -> Vec<serde_json::Value> {
        let output = self.run(&["reports", "rows", "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        match serde_json::from_str(&text) {
            Ok(serde_json::Value::Array(rows)) => rows,
            // One object a line is as good.
            _ => {
                text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {text}"))).collect()
            }
        }
    }

    /// The rows as soon as `condition` holds of them: they are written in batches.
    pub async fn wait_for_rows(
        &self,
        what: &str,
        condition: impl Fn(&[serde_json::Value]) -> bool,
    ) -> Vec<serde_json::Value> {
        let (mut again, deadline) = (tokio::time::interval(POLL), tokio::time::Instant::now() + super::PATIENCE);
        loop {
            again.tick().await;
            let rows = self.rows().await;
            if condition(&rows) {
                return rows;
            }
            assert!(tokio::time::Instant::now() < deadline, "the store never had {what}\n{rows:#?}");
        }
    }

    /// Runs another command of the binary with this gate's configuration.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.directory.path().join(CONFIG)).stdin(Stdio::null());
        // Not on this thread: the DNS server and the upstream of the test live on it.
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        output.expect("cargo has built the binary")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal (`TERM`, `HUP`, `KILL`) by the shell's own `kill`.
    pub fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status().expect("a shell");
        assert!(status.success(), "{script}");
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let (mut again, deadline) = (tokio::time::interval(POLL), tokio::time::Instant::now() + super::PATIENCE);
        loop {
            again.tick().await;
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "the gate does not end\n{}", self.transcript());
        }
    }

    /// Stops it by SIGTERM and leaves its directory to another one.
    pub async fn stop(mut self) -> (ExitStatus, TempDir) {
        self.signal("TERM");
        let status = self.wait_for_exit().await;
        (status, self.take_directory())
    }

    /// Ends it by SIGKILL and leaves its directory to another one.
    pub fn kill(mut self) -> TempDir {
        self.take_directory()
    }

    /// Its output for a failing test to show.
    pub fn transcript(&self) -> String {
        format!("output of the gate:\n{}", self.log.borrow().join("\n"))
    }

    fn take_directory(&mut self) -> TempDir {
        // The directory goes with its value, so a fresh one takes its place in the gate that is being dropped.
        std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a temporary directory"))
    }

    async fn wait_until_ready(&mut self, addresses: &PathBuf) {
        let (mut again, deadline) = (tokio::time::interval(POLL), tokio::time::Instant::now() + super::PATIENCE);
        let text = loop {
            again.tick().await;
            if let Ok(text) = std::fs::read_to_string(addresses) {
                break text;
            }
            if let Some(status) = self.child.try_wait().expect("our own child") {
                panic!("the gate ended with {status} before it was ready\n{}", self.transcript());
            }
            assert!(tokio::time::Instant::now() < deadline, "the gate is never ready\n{}", self.transcript());
        };
        for line in text.lines() {
            let (kind, address) = line.split_once(' ').unwrap_or_else(|| panic!("address file: {text:?}"));
            let address = address.parse().unwrap_or_else(|e| panic!("address file: {e}: {text:?}"));
            match kind {
                "listener" => self.listeners.push(address),
                "admin" => self.admin = Some(address),
                _ => panic!("address file: {text:?}"),
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Scrape {
    /// The value of a series as it is written: name and labels. A series that is not there is a failure.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        let found = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no series {series}\n{}", self.0))
    }

    /// The names of the metrics, as their `# TYPE` lines have them.
    pub fn names(&self) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
    }
}

/// Collects lines on a thread of its own, so that a chatty child never blocks on its pipe.
fn collect(stream: impl Read + Send + 'static, log: watch::Sender<Vec<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            log.send_modify(|lines| lines.push(String::from_utf8_lossy(&line).into_owned()));
        }
    });
}

/// Undoes the chunked transfer coding (RFC 9112 §7.1).
fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        let (chunk, rest) = rest.split_at(size.min(rest.len()));
        whole.push_str(chunk);
        body = rest.strip_prefix("\r\n").unwrap_or(rest);
    }
    whole
}

const BINARY: &str = env!("CARGO_BIN_EXE_dmarcgate");
const CONFIG: &str = "dmarcgate.toml";

/// Counts configurations that were taken over.
pub const APPLIED: &str = "dmarcgate_config_reloads_total{result=\"applied\"}";

/// How often a state is looked at that nothing announces: a file, a child's end, a counter.
pub const POLL: Duration = Duration::from_millis(10);
