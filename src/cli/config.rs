//! `dmarcgate config check|show`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand};

use crate::action::Replies;
use crate::causes::Causes;
use crate::cli::{ConfigFile, Failure, print};
use crate::config::{Config, Error as ConfigError, Loaded, Mode, Problem, REFERENCE};
use crate::dns::Resolver;
use crate::metrics::Registry;
use crate::process::{Account, Needed, Otherness, USER, Usage, present_user};
use crate::{dns, tls, verdict};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say everything that is wrong with the configuration
    Check(Check),
    /// Print what holds, defaults included
    Show(Show),
}

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the documented reference instead of a file
    #[arg(long)]
    reference: bool,
}

impl Command {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::Check(check) => check.run(output),
            Self::Show(Show { reference: true, .. }) => print(output, REFERENCE),
            Self::Show(show) => print(output, &show.file.load()?.to_toml()),
        }
    }
}

impl Check {
    fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let loaded = self.file.load()?;
        let mut text = String::new();
        let warnings = loaded.config.warnings().into_iter();
        let warnings =
            warnings.chain(needs(&loaded.config, &self.file.config)?).chain(user(&loaded, &self.file.config)?);
        let warnings = warnings.chain(unwritable(&loaded, &self.file.config)?);
        for warning in warnings.chain(silence(&loaded.config)) {
            text.push_str(&format!("warning: {warning}\n"));
        }
        text.push_str(&replies(&loaded.config.replies()));
        let mode = loaded.config.policy.mode;
        text.push_str(&format!("{}: configuration is valid, mode {mode}", self.file.config.display()));
        for listener in &loaded.config.listeners {
            if let Some(policy) = &listener.policy {
                text.push_str(&format!(", at {} mode {}", listener.address, policy.mode));
            }
        }
        text.push('\n');
        print(output, &text)
    }
}

/// Enforcing without a word to those in whose name mail is refused. Said here alone: it is how every site begins, and
/// need not stand in the log at each start.
fn silence(config: &Config) -> Option<String> {
    let enforces = config.policy.mode == Mode::Enforce && !config.reports.enabled;
    enforces.then(|| {
        "policy.mode is enforce and reports.enabled is false: domain owners are not told what is refused in their name"
            .to_owned()
    })
}

/// The caller may read files that the gate's user may not, or there is no such user.
///
/// # Errors
///
/// What keeps a gate from starting that the same user would start.
fn user(loaded: &Loaded, file: &Path) -> Result<Option<String>, Failure> {
    let settings = loaded.config.process(file);
    let otherness = Account::otherness(settings.user.as_deref());
    let unknown = |error| Failure::Usage(loaded.placed(file, "process.user", &Causes(&error)));
    let warning = match otherness.map_err(unknown)? {
        None => return Ok(None),
        Some(Otherness::Unknown(name)) => {
            format!("process.user: the system knows no user {name}: a gate that root starts ends at once")
        }
        Some(Otherness::Will(name)) => {
            let mut files = settings.files.iter().filter(|file| file.usage == Usage::Read && file.key != "--config");
            let Some(one) = files.next() else { return Ok(None) };
            format!(
                "the gate runs as {name}, and nobody has tried here whether {name} can read {} and the like: run it as \
                 that user: runuser -u {name} -- dmarcgate config check --config {}",
                one.key,
                file.display()
            )
        }
    };
    Ok(Some(warning))
}

/// Where the gate has to write and can't. Another user than the gate's can't tell what would be so for that one: these
/// are warnings then.
///
/// # Errors
///
/// What keeps a gate from starting that the same user would start.
fn unwritable(loaded: &Loaded, file: &Path) -> Result<Vec<String>, Failure> {
    let settings = loaded.config.process(file);
    // Who the user is has been found out before.
    let Ok(account) = Account::of(settings.user.as_deref()) else { return Ok(Vec::new()) };
    let obstacles = settings.files.iter().filter_map(|needed| Some((needed, account.obstacle(needed)?)));
    let (mut wrong, mut odd) = (Vec::new(), Vec::new());
    let present = present_user();
    let is_able = present == "root" || present == settings.user.as_deref().unwrap_or(USER);
    for (needed, obstacle) in obstacles {
        let message = format!("{obstacle}; expected a place where the gate's user can write");
        // Without the others it goes on.
        if is_able && ["spool.directory", "store.url"].contains(&needed.key) {
            let line = loaded.places.get(needed.key).copied();
            wrong.push(Problem { line, key: needed.key.to_owned(), message });
        } else {
            odd.push(format!("{}: {message}", needed.key));
        }
    }
    match wrong.is_empty() {
        true => Ok(odd),
        false => Err(Failure::Usage(ConfigError::Invalid { path: file.to_owned(), problems: wrong }.to_string())),
    }
}

/// What clients will read, if it is not what they read anywhere.
fn replies(replies: &Replies) -> String {
    if *replies == Replies::default() {
        return String::new();
    }
    let mut text = String::new();
    for (key, example) in replies.examples() {
        text.push_str(&format!("replies.{key}, for example:\n"));
        let wire = String::from_utf8_lossy(verdict::reply(&example).as_wire()).into_owned();
        wire.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// Reads, as a gate would at its start, the files that it needs, and says what is odd about them.
///
/// # Errors
///
/// What keeps a gate from starting, or from doing all that it is told to.
fn needs(config: &Config, file: &Path) -> Result<Vec<String>, Failure> {
    let metrics = tls::ClientMetrics::new(&Registry::new());
    let mut wrong = Vec::new();
    let mut odd = Vec::new();
    match config.tls().map(|settings| tls::inspect(&settings)) {
        Some(Ok(found)) => odd = found,
        Some(Err(fault)) => wrong.push(format!("tls: {fault}")),
        None => {}
    }
    match config.security(metrics.clone()) {
        Err(fault) => wrong.push(format!("upstream.tls: {fault}")),
        // By which reports go, too, unless they have a way of their own.
        Ok(_) => wrong.extend(config.reports_in_force(metrics).err().map(|fault| Causes(&fault).to_string())),
    }
    let dns = config.resolver();
    odd.extend(dns.oddity());
    if let Err(fault) = Resolver::new(dns, dns::Metrics::new(&Registry::new())) {
        wrong.push(format!("dns: {}", Causes(&fault)));
    }
    wrong.extend(unopened(config, file));
    if let Err(fault) = config.admin_token() {
        wrong.push(format!("admin.token_file: {}", Causes(&fault)));
    }
    if wrong.is_empty() { Ok(odd) } else { Err(Failure::Usage(wrong.join("\n"))) }
}

/// Files that are read when somebody is connected to, so that nothing else looks at them here.
fn unopened(config: &Config, file: &Path) -> Vec<String> {
    let is_asked_for = |key| match key {
        "store.url" | "store.password_file" => true,
        "reports.relay_password_file" => config.reports.enabled,
        _ => false,
    };
    let files = config.process(file).files.into_iter();
    let files = files.filter(|file| file.usage == Usage::Read && is_asked_for(file.key));
    let fault = |file: Needed| {
        let cause = File::open(&file.path).err()?;
        Some(format!("{}: {} can't be read: {cause}", file.key, file.path.display()))
    };
    files.filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::cli::tests::{configuration, run};

    #[test]
    fn a_valid_file_is_said_to_be_with_its_mode_and_warnings() {
        let (_directory, path) = configuration("[policy]\nmode = \"tag\"");
        let text = run(&["config", "check", "--config", &path]).unwrap();
        assert!(text.ends_with(&format!("{path}: configuration is valid, mode tag\n")), "{text}");
        assert!(text.contains("warning: policy.mode is tag: nothing is refused\n"), "{text}");
        assert!(!text.contains("reports.enabled"), "{text}");
        let (_directory, path) = configuration("");
        let text = run(&["config", "check", "--config", &path]).unwrap();
        assert!(text.contains("warning: policy.mode is enforce and reports.enabled is false: "), "{text}");
    }

    #[test]
    fn the_user_of_the_gate_has_to_be_there_and_to_read_its_files() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "0123456789abcdef\n").unwrap();
        let admin = format!("[admin]\ntoken_file = \"{}\"", token.path().display());
        let check = |user: &str, more: &str| {
            // Not that of a gate which this machine may have.
            let spool = std::env::temp_dir().join("no-such-gate/spool");
            let places = format!("[process]\nuser = \"{user}\"\n[spool]\ndirectory = \"{}\"", spool.display());
            let (directory, path) = configuration(&format!("{places}\n{more}"));
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
            run(&["config", "check", "--config", &path])
        };
        let unknown = "process.user: the system knows no user no-such-user";
        if crate::process::present_user() != "root" {
            // A gate that somebody else starts takes no notice.
            assert!(check("no-such-user", "").unwrap().contains(&format!("warning: {unknown}")));
            return;
        }
        let (code, text) = check("no-such-user", "").unwrap_err();
        assert!(code == 2 && text.ends_with(&format!(".toml:6: {unknown}")), "{text}");
        let text = check("nobody", &admin).unwrap();
        assert!(text.contains("warning: the gate runs as nobody, and nobody has tried"), "{text}");
        assert!(text.contains("nobody can read admin.token_file and the like"), "{text}");
        assert!(text.contains(": runuser -u nobody -- dmarcgate config check --config /"), "{text}");
        for (user, more) in [("nobody", ""), ("root", &*admin)] {
            assert!(!check(user, more).unwrap().contains("runuser"), "{user}");
        }
    }

    #[test]
    fn a_place_where_the_gate_cannot_write_is_a_problem_with_its_line() {
        let (directory, path) = configuration("[spool]\ndirectory = \"/dev/null/spool\"");
        let text = run(&["config", "check", "--config", &path]);
        let problem = "spool.directory: /dev/null is no directory; expected a place where the gate's user can write";
        match crate::process::present_user().as_str() {
            "root" => {
                let (code, text) = text.unwrap_err();
                assert_eq!((code, text), (2, format!("{path}:6: {problem}")));
            }
            _ => assert!(text.unwrap().contains(&format!("warning: {problem}"))),
        }
        let made: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(made.len(), 1, "{made:?}");
    }

    #[test]
    fn files_that_a_start_would_miss_are_missed() {
        let reports = "from = \"r@example.net\"\norganization = \"E\"";
        let key = "dkim_key = \"/nonexistent/key.pem\"\ndkim_selector = \"s\"";
        let relay = "relay = \"127.0.0.1:587\"\nrelay_tls = \"required\"";
        let postgres = "[store]\nurl = \"postgres://u@h/db";
        let encrypted = "[dns]\nservers = [\"tls://192.0.2.53#dns.example.net\"]";
        let cases = [
            (format!("[reports]\nenabled = true\n{reports}\n{key}"), "reports.dkim_key: /nonexistent/key.pem can't be"),
            (
                format!("[reports]\nenabled = true\n{reports}\n{relay}\nrelay_ca = \"/nonexistent/ca.pem\""),
                "reports.relay_tls: /nonexistent/ca.pem",
            ),
            (
                format!(
                    "[reports]\nenabled = true\n{reports}\n{relay}\nrelay_user = \"u\"\nrelay_password_file = \
                     \"/nonexistent/password\""
                ),
                "reports.relay_password_file: /nonexistent/password can't be read",
            ),
            (
                format!("{encrypted}\nca = \"/nonexistent/ca.pem\""),
                "dns: can't verify name servers over TLS: /nonexist",
            ),
            (
                format!("{postgres}\"\npassword_file = \"/nonexistent/password\""),
                "store.password_file: /nonexistent/password can't be read",
            ),
            (
                format!("{postgres}?sslmode=verify-full&sslrootcert=/nonexistent/ca.pem\""),
                "store.url: /nonexistent/ca.pem can't be read",
            ),
        ];
        for (more, expected) in cases {
            let (directory, path) = configuration("");
            let own = format!("[store]\nurl = \"sqlite://{}\"", directory.path().join("store.db").display());
            let store = if more.starts_with("[store]") { "" } else { &own };
            let text = std::fs::read_to_string(&path).unwrap().replace(&own, store);
            std::fs::write(&path, format!("{text}{more}\n")).unwrap();
            let (code, text) = run(&["config", "check", "--config", &path]).unwrap_err();
            assert_eq!(code, 2, "{text}");
            assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
        }
        // Nobody reads it.
        let (_directory, path) = configuration(&format!("[reports]\n{reports}\n{key}"));
        run(&["config", "check", "--config", &path]).unwrap();
    }

    #[test]
    fn what_clients_will_read_is_shown() {
        let texts = "refused = [\"Refused.\", \"See {help_url}\"]\nhelp_url = \"https://example.net/{id}\"";
        let (_directory, path) = configuration(&format!("[replies]\n{texts}"));
        let text = run(&["config", "check", "--config", &path]).unwrap();
        let refused =
            "550-5.7.1 Refused.\n  550 5.7.1 See https://example.net/4ZQ0N8M2T7W1K (DMARC, id 4ZQ0N8M2T7W1K)\n";
        assert!(text.contains(&format!("replies.refused, for example:\n  {refused}")), "{text}");
        assert!(text.contains("  550 5.7.1 For help see https://example.net/4ZQ0N8M2T7W1K\n"), "{text}");
        assert!(text.contains("  451 4.7.0 DMARC for mail.example.org could not be evaluated: "), "{text}");
        let (_directory, path) = configuration("");
        assert!(!run(&["config", "check", "--config", &path]).unwrap().contains("replies"));
    }

    #[test]
    fn an_invalid_file_is_exit_code_2_with_every_problem() {
        let (_directory, path) = configuration("[policy]\nmode = \"tog\"\ncolour = 1");
        for command in ["check", "show"] {
            let (code, message) = run(&["config", command, "--config", &path]).unwrap_err();
            assert_eq!(code, 2);
            assert!(message.contains(&format!("{path}:6: policy.mode: \"tog\" is not allowed")), "{message}");
            assert!(message.contains(&format!("{path}:7: policy.colour: unknown key")), "{message}");
        }
    }

    #[test]
    fn show_prints_what_holds_or_the_reference() {
        let (_directory, path) = configuration("[policy]\nmode = \"tag\"");
        let text = run(&["config", "show", "--config", &path]).unwrap();
        assert!(text.contains("\n[policy]\nmode = \"tag\"\nreject = \"corroborated\"  # default\n"), "{text}");
        assert!(run(&["config", "show", "--reference"]).unwrap().starts_with("# dmarcgate: the reference"));
    }
}
