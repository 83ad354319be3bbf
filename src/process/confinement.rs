//! Has the kernel hold the process to the files that it needs (Landlock), and to the ports that it has bound.
//!
//! Landlock knows files, not names: a file that is replaced by renaming is another one, and so is what a link leads to
//! once somebody has turned it to the next release. So whole directories are granted: that of each file, that of what
//! it is behind all links, and for a file that is read also that of each link and of what each leads to. No program can
//! be run: no directory is granted for that.

use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Error, Landlock, Needed, Usage};

/// What the process may reach from now on.
#[derive(Debug)]
pub struct Granted {
    state: State,
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// All that is asked for.
    Full(ABI),
    /// As much as this kernel knows.
    Partial(ABI),
    /// Nothing, and why.
    Nothing(String),
    /// The operator wants it so.
    Off,
}

impl Granted {
    /// Whether the file can be used as it is to be.
    pub fn covers(&self, file: &Needed) -> bool {
        let within = |granted: &[PathBuf], path: &Path| granted.iter().any(|one| path.starts_with(one));
        match self.state {
            State::Off | State::Nothing(_) => true,
            State::Full(_) | State::Partial(_) => places(file).iter().all(|place| match file.usage {
                Usage::Read => within(&self.readable, place) || within(&self.writable, place),
                Usage::WriteBeside | Usage::WriteInto => within(&self.writable, place),
            }),
        }
    }

    /// Whether nothing is in force although it could be.
    pub fn lacks_all(&self) -> bool {
        matches!(self.state, State::Nothing(_))
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Full(abi) => write!(f, "in force (ABI {})", *abi as i32),
            State::Partial(abi) => write!(f, "in force as far as this kernel goes (ABI {})", *abi as i32),
            State::Nothing(why) => write!(f, "not in force: {why}"),
            State::Off => f.write_str("off"),
        }
    }
}

/// Grants what is needed and gives up everything else, for this thread and all that it starts.
///
/// # Errors
///
/// [`Error::Landlock`], where it is demanded and the kernel does not do it.
pub fn enter(mode: Landlock, files: &[Needed], scratch: &[PathBuf]) -> Result<Granted, Error> {
    let mut granted = Granted { state: State::Off, readable: Vec::new(), writable: scratch.to_vec() };
    if mode == Landlock::Off {
        return Ok(granted);
    }
    for file in files {
        let list = if file.usage == Usage::Read { &mut granted.readable } else { &mut granted.writable };
        list.extend(places(file));
        if file.usage == Usage::Read {
            granted.readable.extend(turns(&file.path));
        }
    }
    granted.readable.extend(SYSTEM.iter().map(PathBuf::from));
    granted.readable.extend(SYSTEM_LINKS.iter().flat_map(|link| turns(Path::new(link))));
    granted.readable.extend(SYSTEM_LINKS.iter().filter_map(|link| parent(&Path::new(link).canonicalize().ok()?)));
    granted.writable.extend(temporary());
    granted.state = match restrict(&granted) {
        Ok(status) => state(&status),
        Err(error) => State::Nothing(super::Causes(&error).to_string()),
    };
    match granted.state {
        State::Nothing(_) if mode == Landlock::Required => Err(Error::Landlock(granted.to_string())),
        _ => Ok(granted),
    }
}

fn restrict(granted: &Granted) -> Result<RestrictionStatus, RulesetError> {
    let all = AccessFs::from_all(WANTED);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut ruleset = Ruleset::default()
        .handle_access(all)?
        // The sockets are bound: no port is ever taken again.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?;
    if !notifies_an_abstract_socket() {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    }
    let devices = AccessFs::ReadFile | AccessFs::WriteFile;
    ruleset
        .create()?
        .add_rules(rules(&granted.readable, read))?
        .add_rules(rules(&granted.writable, write))?
        .add_rules(rules(&DEVICES.map(PathBuf::from), devices))?
        .restrict_self()
}

/// What is not there needs no rule.
fn rules(
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<PathBeneath<PathFd>, RulesetError>> {
    landlock::path_beneath_rules(paths.to_vec(), access)
}

fn state(status: &RestrictionStatus) -> State {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled => return State::Nothing("the kernel has it, switched off (lsm=)".to_owned()),
        LandlockStatus::NotImplemented => {
            return State::Nothing(
                "the kernel does not have it, or a filter of system calls (seccomp) forbids it".to_owned(),
            );
        }
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced => State::Full(abi),
        RulesetStatus::PartiallyEnforced => State::Partial(abi),
        RulesetStatus::NotEnforced => State::Nothing("the kernel does not do it".to_owned()),
    }
}

/// The directories that have to be granted for a file.
fn places(file: &Needed) -> Vec<PathBuf> {
    let behind_links = file.path.canonicalize().ok();
    let paths = [Some(&file.path), behind_links.as_ref()].into_iter().flatten();
    let mut places: Vec<_> = match file.usage {
        Usage::WriteInto => paths.cloned().collect(),
        Usage::Read | Usage::WriteBeside => paths.filter_map(|path| parent(path)).collect(),
    };
    places.dedup();
    places
}

/// For each link on the way to a file, its directory and that of what it leads to: where the next one that it leads to
/// will be, as a rule. What lies right below the root is much of a system, and is not granted for a link's sake.
fn turns(path: &Path) -> Vec<PathBuf> {
    let mut turns = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let ancestors: Vec<_> = path.ancestors().collect();
        let Some(link) = ancestors.into_iter().rev().find(|above| above.is_symlink()) else { break };
        let (Some(directory), Ok(target), Ok(rest)) = (link.parent(), link.read_link(), path.strip_prefix(link)) else {
            break;
        };
        let target = directory.join(target);
        let both = [Some(directory), target.parent()].into_iter().flatten();
        turns.extend(both.filter_map(|place| place.canonicalize().ok()));
        path = if rest.as_os_str().is_empty() { target } else { target.join(rest) };
    }
    turns.retain(|place| place.parent().is_some_and(|above| above.parent().is_some()));
    turns
}

/// A file's directory; for one at the root, the file itself, since all would be granted with the root.
fn parent(path: &Path) -> Option<PathBuf> {
    let directory = path.parent()?;
    match directory.parent() {
        Some(_) => Some(directory.to_owned()),
        None if directory.as_os_str().is_empty() => Some(PathBuf::from(".")),
        None => Some(path.to_owned()),
    }
}

/// The directory in which SQLite sorts what is too much for memory: the first of these that is there, as it chooses.
fn temporary() -> Option<PathBuf> {
    let set = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp"].into_iter().map(PathBuf::from);
    set.chain(usual).find(|directory| directory.is_dir())
}

/// Whether the service manager listens where names don't belong to files; then it must stay in reach.
fn notifies_an_abstract_socket() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| path.to_string_lossy().starts_with('@'))
}

/// The version up to which the rights asked for are known to do what they should; newer ones are not asked for.
const WANTED: ABI = ABI::V5;
/// What the system's own libraries read: names of hosts and how to look them up (files that come and go by renaming, so
/// the whole of /etc, where who may read what is for their owners to say), authorities, time zones, libraries that
/// the C library loads at need; for the runtime, how many cores there are.
const SYSTEM: &[&str] = &[
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/proc/self",
    "/proc/sys/kernel/hostname",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];
/// Files of the system that are often links to others, in directories that come and go.
const SYSTEM_LINKS: &[&str] = &["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"];
/// Links that are followed on the way to a file, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Devices that libraries may open.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(path: &str, usage: Usage) -> Needed {
        Needed { key: "k", path: PathBuf::from(path), usage }
    }

    #[test]
    fn the_directory_of_a_file_is_granted_but_never_the_root() {
        let cases = [
            ("/etc/dmarcgate/cert.pem", Usage::Read, "/etc/dmarcgate"),
            ("/cert.pem", Usage::Read, "/cert.pem"),
            ("gate.toml", Usage::Read, "."),
            ("/nonexistent/dmarcgate.db", Usage::WriteBeside, "/nonexistent"),
            ("/nonexistent/spool", Usage::WriteInto, "/nonexistent/spool"),
        ];
        for (path, usage, expected) in cases {
            assert_eq!(places(&needed(path, usage)), [PathBuf::from(expected)], "{path}");
        }
    }

    #[test]
    fn behind_a_link_both_directories_are_granted() {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().canonicalize().unwrap();
        for directory in ["live", "archive"] {
            std::fs::create_dir(base.join(directory)).unwrap();
        }
        std::fs::write(base.join("archive/cert1.pem"), "").unwrap();
        std::os::unix::fs::symlink("../archive/cert1.pem", base.join("live/cert.pem")).unwrap();
        let file = Needed { key: "k", path: base.join("live/cert.pem"), usage: Usage::Read };
        assert_eq!(places(&file), [base.join("live"), base.join("archive")]);
    }

    #[test]
    fn where_links_are_and_where_they_lead_the_next_release_is_granted_too() {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().canonicalize().unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, base.join(name)).unwrap();
        for directory in ["live", "certs/one", "volume/..1"] {
            std::fs::create_dir_all(base.join(directory)).unwrap();
        }
        link("../certs/one", "live/host");
        link("..1", "volume/..data");
        link("..data/cert.pem", "volume/cert.pem");
        link("round", "round");
        link("/", "root");
        let cases: [(&str, &[&str]); 5] = [
            ("live/host/cert.pem", &["live", "certs"]),
            ("volume/cert.pem", &["volume", "volume/..1", "volume", "volume"]),
            ("certs/one/cert.pem", &[]),
            // Nothing right below the root, nor the root.
            ("root/etc/os-release", &[""]),
            ("missing/cert.pem", &[]),
        ];
        for (path, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|place| base.join(place)).collect();
            let mut found = turns(&base.join(path));
            found.retain(|found| found.starts_with(&base));
            assert_eq!(found.iter().map(|p| p.components().collect()).collect::<Vec<PathBuf>>(), expected, "{path}");
        }
        assert!(turns(&base.join("round/cert.pem")).iter().all(|found| *found == base), "it ends");
    }

    #[test]
    fn what_is_granted_covers_what_lies_below_and_reading_is_not_writing() {
        let granted = |state| Granted {
            state,
            readable: vec![PathBuf::from("/nonexistent/read")],
            writable: vec![PathBuf::from("/nonexistent/write")],
        };
        let cases = [
            ("/nonexistent/read/a.pem", Usage::Read, true),
            ("/nonexistent/read/below/a.pem", Usage::Read, true),
            ("/nonexistent/write/a.pem", Usage::Read, true),
            ("/nonexistent/reader/a.pem", Usage::Read, false),
            ("/nonexistent/read/a.db", Usage::WriteBeside, false),
            ("/nonexistent/write/a.db", Usage::WriteBeside, true),
            ("/nonexistent/write", Usage::WriteInto, true),
            ("/nonexistent", Usage::WriteInto, false),
        ];
        for (path, usage, expected) in cases {
            assert_eq!(granted(State::Full(ABI::V6)).covers(&needed(path, usage)), expected, "{path} {usage:?}");
            assert!(granted(State::Off).covers(&needed(path, usage)), "nothing is held, everything is in reach");
        }
    }
}
