//! Takes from the process what it no longer needs once its sockets are bound: root, capabilities, files, core dumps.
//!
//! A leaf that `cli` calls once, between [`bind`](crate::app::bind) and the first thread: what the kernel is told here
//! holds for the calling thread and for those that it starts. None of it can be undone. What can't be had (an older
//! kernel, no such user) is logged, or ends the start where the operator demands it.

mod confinement;
mod limits;
mod privileges;
pub mod usage;

use std::io;
use std::path::PathBuf;

use tracing::{info, warn};

use self::confinement::Granted;
pub use self::limits::{Demand, core_dumps_off};
pub use self::privileges::{Account, Otherness, present_user, read_only_hint};
use crate::causes::Causes;
use crate::label_enum;

label_enum! {
    /// Whether the kernel has to hold the process to the files that it needs.
    pub enum Landlock {
        /// As far as the kernel can; what it can't is logged.
        BestEffort = "best-effort",
        /// The same, but the gate doesn't start where the kernel can't do it at all.
        Required = "required",
        /// Not at all.
        Off = "off",
    }
}

/// What the process is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its user when root has started it; none: [`USER`], if there is one.
    pub user: Option<String>,
    /// Whether files that it doesn't need are out of reach.
    pub landlock: Landlock,
    /// The files that it needs.
    pub files: Vec<Needed>,
    /// What its limits have to hold.
    pub demand: Demand,
}

/// A file or directory that the process needs while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The configuration key that names it.
    pub key: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// What for.
    pub usage: Usage,
}

/// What is done with a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The file is read, now and when it has been replaced: its directory can be read.
    Read,
    /// The file is written, and others beside it (a journal, a draft): its directory can be changed.
    WriteBeside,
    /// It is a directory in which files are made.
    WriteInto,
}

/// Why the process can't be what it is to be; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not do what is demanded.
    #[error("process.landlock is \"required\", but it is {0}")]
    Landlock(String),
    /// What root may do can't be given up.
    #[error("process.user: {step} fails for {name}")]
    Privileges {
        /// Whose the process was to be.
        name: String,
        /// What failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no such user.
    #[error("process.user: the system knows no user {name}")]
    User {
        /// The name.
        name: String,
    },
    /// The system can't say who its users are.
    #[error("process.user: {name} can't be looked up")]
    Users {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// What the process has become.
#[derive(Debug)]
pub struct Confined {
    account: Account,
    granted: Granted,
    doubts: Vec<String>,
}

/// Gives up what is no more needed. Call it while there is one thread; `scratch` are directories that are written to
/// although no key names them.
///
/// # Errors
///
/// What was demanded and can't be had. The process is of no use then.
pub fn confine(settings: &Settings, scratch: &[PathBuf]) -> Result<Confined, Error> {
    let account = Account::of(settings.user.as_deref())?;
    let mut doubts = limits::doubts(&settings.demand);
    account.make_directories(&settings.files);
    doubts.extend(account.adopt()?);
    // After the change of user, which sets it anew.
    doubts.extend(core_dumps_off());
    let granted = confinement::enter(settings.landlock, &settings.files, scratch)?;
    doubts.extend(unreadable(&settings.files));
    Ok(Confined { account, granted, doubts })
}

/// Becomes the user that a gate runs as, if that is another than the present one: what a command leaves behind is then
/// the gate's. Directories that are missing are made as for a gate. Call it while there is one thread.
///
/// # Errors
///
/// There is no such user, or root's rights can't be given up.
pub fn become_user(settings: &Settings) -> Result<(), Error> {
    let account = Account::of(settings.user.as_deref())?;
    if account.is_other() {
        account.make_directories(&settings.files);
        account.adopt()?;
    }
    Ok(())
}

impl Confined {
    /// Says in the log what is in force.
    pub fn tell(&self) {
        info!(user = self.account.name(), landlock = %self.granted, "the process has given up what it does not need");
        if self.account.is_root() {
            warn!(
                hint = %format_args!("make a user {USER}, or name another one in process.user"),
                "the gate runs as root: what goes wrong in it goes wrong with all rights"
            );
        }
        if self.granted.lacks_all() {
            warn!(landlock = %self.granted, "the kernel does not hold the process to the files that it needs");
        }
        for doubt in &self.doubts {
            warn!(warning = doubt, "the process is not set up as it should be");
        }
    }

    /// Those of `files` that are out of reach until a restart, since nothing named their directories at the start.
    pub fn out_of_reach<'a>(&self, files: &'a [Needed]) -> Vec<&'a Needed> {
        files.iter().filter(|file| !self.granted.covers(file)).collect()
    }
}

/// Files that are there but not for this user: a reload will want them.
fn unreadable(files: &[Needed]) -> Vec<String> {
    let read = files.iter().filter(|file| file.usage == Usage::Read);
    let faults = read.filter_map(|file| match std::fs::File::open(&file.path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(format!(
            "{} {} can't be read by the gate's user, now or at a reload: {}",
            file.key,
            file.path.display(),
            Causes(&error)
        )),
        _ => None,
    });
    faults.collect()
}

/// The user that the process becomes when root starts it and the configuration names none.
pub const USER: &str = "dmarcgate";
