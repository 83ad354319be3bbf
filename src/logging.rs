//! Log lines: how they look, and that writing them never holds up mail.
//!
//! Lines go through a bounded queue to a thread of their own; when the reader of standard output stalls (a journal on a
//! full disk), lines are lost and counted, and sessions go on. Events may hold what a peer sent as it is: control
//! characters are escaped here, in every field and message, so that nothing makes two lines of one.

use std::borrow::Cow;
use std::env::{self, VarError};
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::subscriber::set_global_default;
use tracing::{Level, Metadata, Subscriber, error};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, FormatFields};
use tracing_subscriber::reload::Handle;

use crate::config::{Log, LogFormat};
use crate::label::Label;
use crate::metrics::{IntCounter, Registry};
use crate::personal::{PersonalData, Redactor};

/// Writes what waits when it is dropped, for a second at most: keep it until the process ends.
#[must_use]
pub struct Guard {
    filter: SetFilter,
    personal: Arc<Personal>,
    _worker: WorkerGuard,
}

impl Guard {
    /// Takes levels and the rule for personal data of another configuration over. The format stays, and the environment
    /// still has its say.
    pub fn follow(&self, log: &Log) {
        self.personal.follow(log.personal_data);
        // The environment was fine at the start, and a filter can't fail to be set while the subscriber lives.
        if let Ok(filter) = filter(log, env::var(VARIABLE)) {
            (self.filter)(filter);
        }
    }
}

/// What takes events and makes lines of them.
pub type BoxedSubscriber = Box<dyn Subscriber + Send + Sync>;

/// Replaces the filter of a subscriber.
type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// Why there can be no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's: the environment variable is no filter.
    #[error("{VARIABLE} is not a log filter; expected for example \"debug\" or \"info,dmarcgate::dns=debug\"")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Ours: the log was set up twice.
    #[error("the log is set up already")]
    Repeated(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Sets up the log of the whole process, on standard output.
///
/// # Errors
///
/// See [`Error`].
pub fn init(log: &Log, registry: &Registry) -> Result<Guard, Error> {
    let (subscriber, guard) = to(io::stdout(), Destination::of_stdout(), log, registry)?;
    set_global_default(subscriber)?;
    log_panics(registry);
    Ok(guard)
}

/// The log on any output, for those alone who enter its subscriber.
///
/// # Errors
///
/// See [`Error`].
pub fn to(
    output: impl Write + Send + 'static,
    destination: Destination,
    log: &Log,
    registry: &Registry,
) -> Result<(BoxedSubscriber, Guard), Error> {
    let filter = filter(log, env::var(VARIABLE))?;
    let personal = Arc::new(Personal::new(log.personal_data));
    let (lines, worker) = Lines::start(output, (log.format, destination), &personal, registry);
    let (subscriber, filter) = subscriber((log.format, destination), filter, lines);
    Ok((subscriber, Guard { filter, personal, _worker: worker }))
}

/// A panic is a fault of ours: it gets a line of the log like any other, where the default would write several to
/// standard error, and is counted wherever it happens. Who catches it says whose session or message it was.
fn log_panics(registry: &Registry) {
    let panics = registry.counter("dmarcgate_panics_total", "Faults of ours: panics, wherever they were caught.");
    panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or_default();
        let thread = thread::current().name().unwrap_or_default().to_owned();
        error!(place, thread, panic = text, "a fault of ours: panic");
    }));
}

/// The levels from the configuration, unless the environment says something else.
fn filter(log: &Log, variable: Result<String, VarError>) -> Result<EnvFilter, Error> {
    match variable {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(text).map_err(|e| Error::Filter(e.into())),
        Err(error @ VarError::NotUnicode(_)) => Err(Error::Filter(error.into())),
        // The libraries speak of what peers did, name by name; `dns` and `store` say what of it matters.
        _ => {
            let modules =
                log.modules.iter().map(|m| format!(",dmarcgate::{}={}", m.module, m.level)).collect::<String>();
            Ok(EnvFilter::new(format!("{LIBRARIES},dmarcgate={}{modules}", log.level)))
        }
    }
}

fn subscriber(
    (format, destination): (LogFormat, Destination),
    filter: EnvFilter,
    lines: Lines,
) -> (BoxedSubscriber, SetFilter) {
    let ansi = destination == Destination::Terminal;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    match format {
        LogFormat::Human if destination == Destination::Journal => {
            let builder = builder.with_target(false).with_ansi(false).fmt_fields(Fields).without_time();
            let builder = builder.with_filter_reloading();
            let set_filter = setter(builder.reload_handle());
            (Box::new(builder.finish()), set_filter)
        }
        LogFormat::Human => {
            let builder = builder.with_target(false).with_ansi(ansi).fmt_fields(Fields).with_filter_reloading();
            let set_filter = setter(builder.reload_handle());
            (Box::new(builder.finish()), set_filter)
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_span_list(false).with_filter_reloading();
            let set_filter = setter(builder.reload_handle());
            (Box::new(builder.finish()), set_filter)
        }
    }
}

fn setter<S: 'static>(handle: Handle<EnvFilter, S>) -> SetFilter {
    Box::new(move |filter| {
        // Fails only when the subscriber is gone.
        let _ = handle.reload(filter);
    })
}

/// Writes `name=value` with blanks between, escaped: the default leaves the control characters of a `%value` as they
/// are.
struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: format::Writer<'w>, fields: R) -> fmt::Result {
        // On its own, since each write into the writer goes through two tables of functions.
        let mut values = Values { text: String::with_capacity(USUAL_LINE), result: Ok(()) };
        fields.record(&mut values);
        values.result.and_then(|()| writer.write_str(&values.text))
    }
}

/// The values of one event, as they are visited.
struct Values {
    text: String,
    result: fmt::Result,
}

impl Values {
    fn name(&mut self, field: &Field) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        if field.name() != "message" {
            self.text.push_str(field.name());
            self.text.push('=');
        }
    }

    fn put(&mut self, value: fmt::Arguments<'_>) {
        self.result = self.result.and_then(|()| fmt::Write::write_fmt(&mut Escaping(&mut self.text), value));
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        self.put(format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        // Nearly all texts: `Debug`, which looks at each character, would find nothing to escape.
        if is_plain(value.as_bytes()) && !value.contains(['"', '\\']) {
            self.text.push('"');
            self.text.push_str(value);
            self.text.push('"');
        } else {
            self.put(format_args!("{value:?}"));
        }
    }
}

/// Writes on what is written into it, escaped.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text.as_bytes()) || !text.contains(steers) {
            self.0.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            if steers(c) { self.0.extend(c.escape_default()) } else { self.0.push(c) }
        }
        Ok(())
    }
}

/// Whether a character can steer a terminal or deceive an eye: control and formatting characters, and beyond ASCII
/// whatever is neither letter nor digit.
fn steers(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_control() } else { !c.is_alphanumeric() }
}

/// Whether all is ASCII that can be seen, and blanks.
fn is_plain(text: &[u8]) -> bool {
    // Without a way out of the loop, the compiler looks at many octets at once.
    text.iter().fold(true, |plain, b| plain & (b' '..=b'~').contains(b))
}

/// What lines are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// A terminal: they may hold escape sequences of ours.
    Terminal,
    /// Anything else: they hold none.
    Plain,
    /// systemd's journal, which has the time of each and takes its priority from the front of it (sd-daemon(3)).
    Journal,
}

impl Destination {
    /// What standard output is.
    fn of_stdout() -> Self {
        if env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stdout(&stream)) {
            return Self::Journal;
        }
        let wants_colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if io::stdout().is_terminal() && wants_colour { Self::Terminal } else { Self::Plain }
    }
}

/// Whether `stream`, device and inode of the journal's end as systemd names them, is standard output: a service may have
/// led it elsewhere.
fn is_stdout(stream: &str) -> bool {
    let stdout = fs::metadata("/proc/self/fd/1");
    stdout.is_ok_and(|stdout| stream == format!("{}:{}", stdout.dev(), stdout.ino()))
}

/// How characters are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As in Rust: `\u{9b}`.
    Human(Destination),
    /// As in JSON: `\u009b`. Its writer escapes those of ASCII, but leaves U+0080 to U+009F to us.
    Json,
}

impl Form {
    fn of(format: LogFormat, destination: Destination) -> Self {
        match format {
            LogFormat::Human => Self::Human(destination),
            LogFormat::Json => Self::Json,
        }
    }
}

/// What is done with personal data; may change while lines are written.
struct Personal {
    redactor: Redactor,
    /// The place in [`PersonalData::ALL`].
    rule: AtomicU8,
}

impl Personal {
    fn new(rule: PersonalData) -> Self {
        let personal = Self { redactor: Redactor::new(), rule: AtomicU8::default() };
        personal.follow(rule);
        personal
    }

    fn follow(&self, rule: PersonalData) {
        self.rule.store(u8::try_from(rule.index()).unwrap_or_default(), Ordering::Relaxed);
    }

    fn redact<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let rule = PersonalData::ALL.get(usize::from(self.rule.load(Ordering::Relaxed)));
        self.redactor.redact(line, rule.copied().unwrap_or(PersonalData::Drop))
    }
}

/// Where events are written: one write is one line.
#[derive(Clone)]
struct Lines {
    personal: Arc<Personal>,
    queue: NonBlocking,
    form: Form,
    is_journal: bool,
    /// What stands before the next line.
    priority: &'static str,
    full: ErrorCounter,
    /// How many of those that the queue refused are in the metric.
    counted: Arc<AtomicUsize>,
    lost: IntCounter,
}

impl Lines {
    fn start(
        output: impl Write + Send + 'static,
        (format, destination): (LogFormat, Destination),
        personal: &Arc<Personal>,
        registry: &Registry,
    ) -> (Self, WorkerGuard) {
        let lost = registry.counter("dmarcgate_log_lines_lost_total", "Log lines that could not be written in time.");
        let output = Batched::new(output, lost.clone());
        let (queue, worker) = NonBlockingBuilder::default()
            .buffered_lines_limit(QUEUED_LINES)
            .lossy(true)
            .thread_name("log")
            .finish(output);
        let full = queue.error_counter();
        let personal = Arc::clone(personal);
        let (form, is_journal) = (Form::of(format, destination), destination == Destination::Journal);
        (Self { personal, queue, form, is_journal, priority: "", full, counted: Arc::default(), lost }, worker)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self {
        Self { priority: if self.is_journal { priority(*event.level()) } else { "" }, ..self.clone() }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Far quicker than to look for what is lost, if nothing is: as always, but for a fault of a library.
        let text = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
        let escaped = escape(&text, self.form);
        let line_out = self.personal.redact(&escaped);
        match self.priority {
            "" => self.queue.write_all(line_out.as_bytes())?,
            // One write is one line.
            priority => self.queue.write_all(format!("{priority}{line_out}").as_bytes())?,
        }
        let refused = self.full.dropped_lines();
        let before = self.counted.fetch_max(refused, Ordering::Relaxed);
        self.lost.inc_by(u64::try_from(refused.saturating_sub(before)).unwrap_or(u64::MAX));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A level as journald reads it: the priorities of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Escapes every character that [`steers`] but the line's own end and, in colour, the escape sequences: those in values
/// are escaped already.
fn escape(line: &str, form: Form) -> Cow<'_, str> {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    let allowed = |c: char| !steers(c) || (c == '\u{1b}' && form == Form::Human(Destination::Terminal));
    // Nearly all lines.
    if is_plain(text.as_bytes()) || text.chars().all(allowed) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match form {
            _ if allowed(c) => escaped.push(c),
            Form::Human(_) => escaped.extend(c.escape_default()),
            Form::Json => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")))
            }
        }
    }
    escaped.push_str(end);
    Cow::Owned(escaped)
}

/// Writes lines many at a time, and counts those that an output does not take; the thread that writes to it tells
/// nobody.
///
/// That thread flushes when no line waits, and there it stays a moment: what comes meanwhile need not wake it, and is
/// written together. Under load that is one system call for a dozen lines instead of one and a switch of threads for
/// each.
struct Batched<W> {
    output: W,
    /// Whole lines.
    waiting: Vec<u8>,
    lost: IntCounter,
}

impl<W: Write> Batched<W> {
    fn new(output: W, lost: IntCounter) -> Self {
        Self { output, waiting: Vec::with_capacity(BATCH), lost }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let mut rest = &self.waiting[..];
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match self.output.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let lost = rest.iter().filter(|&&octet| octet == b'\n').count();
        self.lost.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
        self.waiting.clear();
        result
    }
}

impl<W: Write> Write for Batched<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(line);
        if self.waiting.len() >= BATCH {
            self.write_out()?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.write_out().and_then(|()| self.output.flush());
        thread::sleep(BREATH);
        result
    }
}

/// What is heard of the libraries at any level.
const LIBRARIES: &str = "error,hickory_net=off,hickory_proto=off,hickory_resolver=off";
/// Overrides the configured level; may name modules.
const VARIABLE: &str = "DMARCGATE_LOG";
/// Octets that most lines have room in.
const USUAL_LINE: usize = 1024;
/// Octets of lines that are written at once.
const BATCH: usize = 64 * 1024;
/// How long the thread that writes stays away once it has written all; as much later a line may be seen.
const BREATH: Duration = Duration::from_millis(2);
/// Lines that wait for the output: some seconds of a busy gate, a few megabytes.
const QUEUED_LINES: usize = 8192;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use tracing::subscriber::with_default;
    use tracing::{debug, info};

    use super::*;
    use crate::config::LogLevel;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(
        format: LogFormat,
        destination: Destination,
        variable: Result<String, VarError>,
        log: impl FnOnce(),
    ) -> String {
        let output = Output::default();
        let filter = filter(&settings(format), variable).unwrap();
        let personal = Arc::new(Personal::new(PersonalData::Full));
        let (lines, guard) = Lines::start(output.clone(), (format, destination), &personal, &Registry::new());
        with_default(subscriber((format, destination), filter, lines).0, log);
        drop(guard);
        String::from_utf8(output.0.lock().unwrap().clone()).unwrap()
    }

    fn settings(format: LogFormat) -> Log {
        Log { format, level: LogLevel::Info, modules: Vec::new(), personal_data: PersonalData::Full }
    }

    const UNSET: Result<String, VarError> = Err(VarError::NotPresent);

    #[test]
    fn nothing_that_a_peer_sends_makes_a_line_or_reaches_the_terminal() {
        let evil = "a\r\nINFO forged\u{1b}[31m\u{85}\u{9b}x\0\u{202e}gpj\u{2066}\u{200b}\u{e0041}J\u{f6}rg";
        for format in [LogFormat::Human, LogFormat::Json] {
            for colour in [Destination::Plain, Destination::Terminal] {
                let text = logged(format, colour, UNSET, || {
                    info!(shown = %evil, escaped = ?evil, plain = evil, error = %io::Error::other(evil), "evil {evil}");
                });
                assert_eq!(text.matches('\n').count(), 1, "{text:?}");
                assert!(!text.contains("\u{1b}[31m"), "{text:?}");
                assert!(text.contains("J\u{f6}rg"), "{text:?}");
                let control = |c: char| steers(c) && c != '\n' && c != '\u{1b}';
                assert!(!text.contains(control), "{format} {colour:?} {text:?}");
                if format == LogFormat::Json {
                    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(event["plain"], evil);
                }
                assert_eq!(
                    text.contains('\u{1b}'),
                    (format, colour) == (LogFormat::Human, Destination::Terminal),
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, Destination::Plain, UNSET, || info!(reply = 250, from = ?"\n", "message"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["message"], &value["reply"]), (&"message".into(), &250.into()));
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let log = || {
            tracing::error!("broken");
            tracing::warn!("odd");
            info!("done");
            debug!(reply = "a\nb", "seen");
        };
        let debug = || Ok("debug".to_owned());
        let lines = "<3>ERROR broken\n<4> WARN odd\n<6> INFO done\n<7>DEBUG seen reply=\"a\\nb\"\n";
        assert_eq!(logged(LogFormat::Human, Destination::Journal, debug(), log), lines);
        let json = logged(LogFormat::Json, Destination::Journal, debug(), log);
        let fronts: Vec<_> = json.lines().map(|line| line.split_once('{').unwrap().0).collect();
        assert_eq!(fronts, ["<3>", "<4>", "<6>", "<7>"]);
        assert!(!is_stdout("0:0"));
    }

    #[test]
    fn the_environment_overrides_the_level() {
        let log = || {
            debug!("fine");
            info!("coarse");
        };
        assert!(!logged(LogFormat::Human, Destination::Plain, UNSET, log).contains("fine"));
        assert!(logged(LogFormat::Human, Destination::Plain, Ok("debug".into()), log).contains("fine"));
        assert!(!logged(LogFormat::Human, Destination::Plain, Ok("error".into()), log).contains("coarse"));
        assert!(logged(LogFormat::Human, Destination::Plain, Ok("".into()), log).contains("coarse"));
        let log = settings(LogFormat::Human);
        assert!(matches!(filter(&log, Ok("info,,=,x=loud".into())), Err(Error::Filter(_))));
    }

    /// An output that takes nothing until it is told.
    struct Stalled(mpsc::Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_stalls_loses_lines_and_counts_them() {
        let registry = Registry::new();
        let (go_on, wait) = mpsc::channel();
        let personal = Arc::new(Personal::new(PersonalData::Full));
        let (mut lines, guard) =
            Lines::start(Stalled(wait), (LogFormat::Human, Destination::Plain), &personal, &registry);
        // What the thread holds for its next write is beside the queue.
        let held = BATCH / b"line\n".len() + 1;
        for _ in 0..QUEUED_LINES + held + 100 {
            lines.write_all(b"line\n").unwrap();
        }
        let lost = lines.lost.get();
        assert!((99..=100 + held as u64).contains(&lost), "{lost}");
        drop(go_on);
        drop(guard);
        assert!(lines.lost.get() > lost, "what the output refuses is counted, too");
    }

    #[test]
    fn lines_are_written_together_and_those_that_are_not_taken_whole_are_counted() {
        /// Takes so many octets, three at a time, and no more.
        struct Narrow(usize, Vec<u8>);

        impl Write for Narrow {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                let count = octets.len().min(3).min(self.0);
                self.0 -= count;
                self.1.extend_from_slice(&octets[..count]);
                if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        for (room, taken, lost) in [(100, "one\ntwo\nthree\n", 0), (10, "one\ntwo\nth", 1), (4, "one\n", 2), (0, "", 3)]
        {
            let counter = Registry::new().counter("lost_total", "Lines.");
            let mut lines = Batched::new(Narrow(room, Vec::new()), counter.clone());
            for line in ["one\n", "two\n", "three\n"] {
                lines.write_all(line.as_bytes()).unwrap();
            }
            assert_eq!(lines.output.1, b"", "nothing is written before all are there");
            assert_eq!(lines.flush().is_err(), lost > 0);
            assert_eq!((&*lines.output.1, counter.get()), (taken.as_bytes(), lost), "{room}");
            // What could not be written is not tried again.
            assert!(lines.flush().is_ok());
        }
    }

    #[test]
    fn values_look_as_rust_writes_them() {
        let text = logged(LogFormat::Human, Destination::Plain, UNSET, || {
            info!(plain = "a 'b'", quoted = "a \"b\" \\", empty = "", count = 7_u64, less = -7, is = true, none = None::<u64>,
                shown = %"a b", debug = ?Some("a\tb"), "text");
        });
        let expected =
            r#"text plain="a 'b'" quoted="a \"b\" \\" empty="" count=7 less=-7 is=true shown=a b debug=Some("a\tb")"#;
        assert!(text.ends_with(&format!("{expected}\n")), "{text}");
    }
}
