//! What the process gives up at its start: root, capabilities, files that it does not need, core dumps.
//!
//! Becoming another user needs root, and Landlock a kernel that has it: where either is missing, a test says that it
//! was skipped, past the test runner's capture.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::certificates::Certificate;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::Gate;
use crate::support::rules::Script;
use crate::support::upstream::Upstream;

/// A user that every system has, and that is not root.
const NOBODY: &str = "nobody";

struct Around {
    dns: DnsServer,
    upstream: Upstream,
}

impl Around {
    async fn start() -> Self {
        Self { dns: DnsServer::start(Zone::new()).await, upstream: Upstream::start(Script::with_xclient()).await }
    }

    fn configuration(&self, directory: &Path) -> ConfigText {
        let config = ConfigText::new(self.upstream.address(), self.dns.address(), directory);
        config.listener("proxy_protocol_from", Vec::<String>::new())
    }
}

/// Says that a test proves nothing here.
fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// The number of a user and his group in /etc/passwd, if root asks.
fn account(name: &str) -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok()? != 0 {
        skipped("needs root");
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(name)).expect("every system has it");
    let mut numbers = line.split(':').skip(2).map(|word| word.parse().unwrap());
    Some((numbers.next()?, numbers.next()?))
}

/// What `/proc` says of each thread of a process: the value of a field.
fn statuses(gate: &Gate, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gate.id())).unwrap();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let value = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::trim));
        line.unwrap_or_else(|| panic!("no {field}: {text}")).replace('\t', " ")
    };
    texts.map(|text| value(&text)).collect()
}

/// Whether the kernel has Landlock in force for this gate, as its log says.
async fn is_held(gate: &Gate) -> bool {
    let line = gate.wait_for_log("the process has given up what it does not need").await;
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    let state = event["landlock"].as_str().unwrap().to_owned();
    let held = state.starts_with("in force");
    if !held {
        skipped(&format!("Landlock is {state}"));
    }
    held
}

/// A message of 2 MiB, which goes to a file.
async fn deliver_large(gate: &Gate) {
    let mut client = Client::connect(gate.address()).await;
    client.expect(220).await;
    client.command("EHLO client.example").await.assert(250);
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    let message = [&b"From: a@a.example\r\n\r\n"[..], &line.repeat(2000)].concat();
    client.deliver("a@a.example", &["x@b.example"], &message).await.outcome().assert(250);
}

#[tokio::test]
async fn root_becomes_the_user_for_good_with_no_capability_and_no_group_of_root() {
    let Some((uid, gid)) = account(NOBODY) else { return };
    let around = Around::start().await;
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(uid), Some(gid)).unwrap();
    let config = around.configuration(directory.path()).set("process.user", NOBODY).set("spool.memory", "1MiB");
    let mut gate = Gate::start_in(directory, &config).await;

    let four = |id: u32| format!("{id} {id} {id} {id}");
    let expected = [("Uid", four(uid)), ("Gid", four(gid)), ("Groups", gid.to_string()), ("NoNewPrivs", "1".into())];
    let capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| (set, format!("{:016x}", 0)));
    for (field, value) in expected.into_iter().chain(capabilities) {
        let found = statuses(&gate, field);
        assert!(found.len() > 2 && found.iter().all(|found| *found == value), "{field}: {found:?}, not {value}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", gate.id())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);

    // It has made what it needs, and works.
    deliver_large(&gate).await;
    gate.reloaded(|config| config.set("policy.mode", "tag")).await;
    let log = gate.log().join("\n");
    assert!(!log.contains("runs as root") && log.contains("\"user\":\"nobody\""), "{log}");
}

#[tokio::test]
async fn what_a_command_of_root_leaves_behind_is_the_gates() {
    let Some((uid, _)) = account(NOBODY) else { return };
    let around = Around::start().await;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (store, reports) = (directory.path().join("state/gate.db"), directory.path().join("state/reports"));
    let config = around.configuration(directory.path()).set("process.user", NOBODY);
    let config = config.set("reports.from", "reports@gate.example").set("reports.organization", "Gate");
    let config = config.set("store.url", format!("sqlite://{}", store.display()));
    let config = config.set("reports.dry_run", reports.display().to_string());
    let file = directory.path().join("gate.toml");
    fs::write(&file, config.text()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
    command.args(["reports", "send", "--now", "--config"]).arg(&file);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let expected = "what came today (UTC) is reported once the day is over\n0 reports were tried\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    for path in [&store, &reports] {
        assert_eq!(path.metadata().unwrap().uid(), uid, "{}", path.display());
    }
    assert_eq!(reports.metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn another_user_who_may_not_read_the_store_is_told_who_may() {
    let Some((uid, _)) = account(NOBODY) else { return };
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let (file, binary) = (directory.path().join("gate.toml"), directory.path().join("dmarcgate"));
    let url = format!("sqlite://{}", state.join("gate.db").display());
    fs::write(&file, format!("[upstream]\nservers = [\"127.0.0.1:1\"]\n[store]\nurl = \"{url}\"\n")).unwrap();
    // Cargo's own directory may be closed to that user.
    fs::copy(env!("CARGO_BIN_EXE_dmarcgate"), &binary).unwrap();
    let mut command = Command::new(binary);
    command.uid(uid).args(["explain", "7ZK0Q4M1XW9TA", "--config"]).arg(&file);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("Permission denied"), "{errors}");
    assert!(errors.ends_with("; run this as root or as dmarcgate, the gate's user\n"), "{errors}");
}

#[tokio::test]
async fn a_configuration_that_the_user_cannot_read_again_is_told_at_the_start() {
    let Some((uid, gid)) = account(NOBODY) else { return };
    let around = Around::start().await;
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(uid), Some(gid)).unwrap();
    let config = around.configuration(directory.path()).set("process.user", NOBODY);
    let prelude = "chmod 600 \"$3\"";
    let gate = Gate::start_under(directory, &config, prelude, |command| command).await;
    gate.wait_for_log("can't be read by the gate's user, now or at a reload: Permission denied").await;
    gate.signal("HUP");
    gate.wait_for_log("the configuration can't be read").await;
}

#[tokio::test]
async fn a_user_that_the_system_does_not_know_is_no_start() {
    if account(NOBODY).is_none() {
        return;
    }
    let around = Around::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = around.configuration(directory.path()).set("process.user", "no-such-user");
    let mut command = Gate::command(directory.path(), &config, "true");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("process.user: the system knows no user no-such-user"), "{errors}");
}

/// A directory that nothing in a configuration names: not beside the gate's own, which it may change.
fn elsewhere() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[tokio::test]
async fn a_file_outside_is_out_of_reach_even_for_root() {
    let around = Around::start().await;
    let (directory, outside) = (tempfile::tempdir().unwrap(), elsewhere());
    let (chain, key) = Certificate::new(&["mx.gate.example"]).write(directory.path(), "inside");
    let config = around.configuration(directory.path());
    let config = config.listener("tls", "starttls");
    let config = config.set("tls.certificate", chain.display().to_string()).set("tls.key", key.display().to_string());
    let mut gate = Gate::start_in(directory, &config).await;
    if !is_held(&gate).await {
        return;
    }
    // The name still lies inside; what it leads to does not.
    let (other, _) = Certificate::new(&["mx.gate.example"]).write(outside.path(), "outside");
    fs::remove_file(&chain).unwrap();
    symlink(&other, &chain).unwrap();
    gate.reloaded(|config| config).await;
    gate.wait_for_log("process.landlock, which lets a gate read only").await;
    gate.wait_for_log("inside.pem: can't be read: Permission denied").await;
    assert!(fs::read(&chain).is_ok(), "the test itself can read it");
}

#[tokio::test]
async fn a_link_that_is_turned_to_the_next_release_is_followed() {
    let around = Around::start().await;
    let (directory, outside) = (tempfile::tempdir().unwrap(), elsewhere());
    let certs = outside.path().join("certs");
    for release in ["one", "two"] {
        fs::create_dir_all(certs.join(release)).unwrap();
        Certificate::new(&["mx.gate.example"]).write(&certs.join(release), "mx");
    }
    fs::create_dir(outside.path().join("live")).unwrap();
    let live = outside.path().join("live/mx.gate.example");
    symlink("../certs/one", &live).unwrap();
    let config = around.configuration(directory.path()).listener("tls", "starttls");
    let config = config.set("tls.certificate", live.join("mx.pem").display().to_string());
    let config = config.set("tls.key", live.join("mx.key").display().to_string());
    let mut gate = Gate::start_in(directory, &config).await;
    if !is_held(&gate).await {
        return;
    }
    fs::remove_file(&live).unwrap();
    symlink("../certs/two", &live).unwrap();
    let scrape = gate.reloaded(|config| config).await;
    assert_eq!(scrape.value("dmarcgate_tls_reloads_total{result=\"done\"}"), 1.0);

    // Where nothing has led before, it can't go. That is told to who asks, and what was read before goes on.
    let far = elsewhere();
    Certificate::new(&["mx.gate.example"]).write(far.path(), "mx");
    fs::remove_file(&live).unwrap();
    symlink(far.path(), &live).unwrap();
    let output = gate.run(&["reload", "--admin", &gate.admin().to_string()]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for part in ["in force, nothing that a reload", "mx.pem: can't be read: Permission denied", "process.landlock"] {
        assert!(errors.contains(part), "no {part}: {errors}");
    }
}

#[tokio::test]
async fn a_reload_that_names_a_file_outside_needs_a_restart() {
    let around = Around::start().await;
    let (directory, outside) = (tempfile::tempdir().unwrap(), elsewhere());
    let (authority, _) = Certificate::new(&["mail.example"]).write(outside.path(), "authority");
    let inside = directory.path().join("authority.pem");
    fs::copy(&authority, &inside).unwrap();
    let with = |config: ConfigText, path: &Path| {
        config.set("upstream.tls", "required").set("upstream.tls_ca", path.display().to_string())
    };
    let config = around.configuration(directory.path()).set("process.landlock", "best-effort");
    let mut gate = Gate::start_in(directory, &config).await;
    if is_held(&gate).await {
        gate.reload(|config| with(config, &authority));
        let line = gate.wait_for_log("needs a restart: when the gate was started").await;
        assert!(line.contains("upstream.tls_ca") && line.contains("authority.pem"), "{line}");
        gate.wait_for_log("the configuration was refused: all stays as it was").await;
        gate.reloaded(|config| with(config, &inside)).await;
    }

    // Where nothing is held, the same is taken over.
    let directory = tempfile::tempdir().unwrap();
    let config = around.configuration(directory.path()).set("process.landlock", "off");
    let mut gate = Gate::start_in(directory, &config).await;
    gate.reloaded(|config| with(config, &authority)).await;
    gate.wait_for_log("\"landlock\":\"off\"").await;
}
