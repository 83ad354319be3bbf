//! Turns a process of root into one of an ordinary user.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::Path;
use std::thread;

use nix::unistd::{Gid, Uid, User, getgrouplist, initgroups, setresgid, setresuid};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{Error, Needed, USER, Usage};

/// Whose the process is to be.
#[derive(Debug, Clone)]
pub struct Account {
    name: String,
    /// None: it stays whose it is.
    change: Option<Change>,
    /// That the configuration wants something else.
    doubt: Option<String>,
    root: Root,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    uid: Uid,
    gid: Gid,
}

/// How the user of a gate differs from the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otherness {
    /// The process will become this user's.
    Will(String),
    /// The system knows no user of this name: a gate that root starts ends at once.
    Unknown(String),
}

/// Whether the process will be root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// Somebody else's.
    No,
    /// Root's, as the configuration says.
    Wanted,
    /// Root's, for lack of another user.
    Left,
}

/// The name of the user that the process runs as now; the number, where there is no name.
pub fn present_user() -> String {
    let present = Uid::effective();
    match User::from_uid(present) {
        Ok(Some(user)) => user.name,
        _ => format!("user {present}"),
    }
}

/// What to do about a file system that nobody can write to, behind an error of one; else nothing.
pub fn read_only_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => " (under systemd, ReadWritePaths= in the unit has to name it)",
        _ => "",
    }
}

impl Account {
    /// Finds out which user the process has and which it is to have.
    pub fn of(wanted: Option<&str>) -> Result<Self, Error> {
        let present = Uid::effective();
        let own = present_user;
        let stays = |name, root, doubt| Ok(Self { name, change: None, doubt, root });
        if !present.is_root() {
            let name = own();
            let other = wanted.filter(|wanted| *wanted != name);
            let doubt = other.map(|w| format!("process.user = \"{w}\" has no effect: {name} has started the gate"));
            return stays(name, Root::No, doubt);
        }
        let user = match (wanted, look_up(wanted.unwrap_or(USER))?) {
            (_, Some(user)) => user,
            (Some(name), None) => return Err(Error::User { name: name.to_owned() }),
            (None, None) => return stays(own(), Root::Left, None),
        };
        if user.uid.is_root() {
            return stays(user.name, Root::Wanted, None);
        }
        Ok(Self { name: user.name, change: Some(Change { uid: user.uid, gid: user.gid }), doubt: None, root: Root::No })
    }

    /// Why the caller does not see the gate's files as the gate will, which runs as another user or as an unknown one.
    pub fn otherness(wanted: Option<&str>) -> Result<Option<Otherness>, Error> {
        let account = Self::of(wanted)?;
        if account.change.is_some() {
            return Ok(Some(Otherness::Will(account.name)));
        }
        // An unknown user and a user database that can't be read are errors for root alone: a gate that another user
        // starts stays that user's, and looks nobody up.
        match wanted {
            Some(name) if matches!(look_up(name), Ok(None)) => Ok(Some(Otherness::Unknown(name.to_owned()))),
            _ => Ok(None),
        }
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the process stays root although the configuration does not say so.
    pub fn is_root(&self) -> bool {
        self.root == Root::Left
    }

    /// Whether it is another than the present user.
    pub fn is_other(&self) -> bool {
        self.change.is_some()
    }

    /// Makes the directories that are not there yet, for the user, who could not make them below root's. What fails is
    /// reported when the file is opened.
    pub fn make_directories(&self, files: &[Needed]) {
        for file in files {
            let directory = match file.usage {
                Usage::Read => None,
                Usage::WriteBeside => file.path.parent().map(|above| (above, MODE)),
                Usage::WriteInto => Some((file.path.as_path(), PRIVATE)),
            };
            if let Some((directory, mode)) = directory {
                let _ = self.make_directory(directory, mode);
            }
        }
    }

    fn make_directory(&self, directory: &Path, mode: u32) -> io::Result<()> {
        if directory.as_os_str().is_empty() || directory.exists() {
            return Ok(());
        }
        if let Some(above) = directory.parent() {
            self.make_directory(above, MODE)?;
        }
        DirBuilder::new().mode(mode).create(directory)?;
        match self.change {
            // Never what a link leads to.
            Some(Change { uid, gid }) => lchown(directory, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        }
    }

    /// What keeps the user from writing where a gate has to, as far as that can be told without making anything; a
    /// directory that is missing would be made by whoever starts it.
    pub fn obstacle(&self, file: &Needed) -> Option<String> {
        let directory = match file.usage {
            Usage::Read => return None,
            Usage::WriteBeside => file.path.parent()?,
            Usage::WriteInto => file.path.as_path(),
        };
        let above = directory.ancestors().find(|above| above.exists())?;
        let said = |path: &Path, errno: Errno| {
            let error = io::Error::from(errno);
            format!("{}: {error}{}", path.display(), read_only_hint(&error))
        };
        if !above.is_dir() {
            return Some(format!("{} is no directory", above.display()));
        }
        if above != directory {
            let made = access(above, Access::WRITE_OK | Access::EXEC_OK).err();
            let unmade = made.map(|cause| format!("{} can't be made in {}", directory.display(), said(above, cause)));
            let entered = || self.as_user(|| access(above, Access::EXEC_OK)).err();
            return unmade.or_else(|| Some(format!("{} can't enter {}", self.name, said(above, entered()?))));
        }
        let writable = |path: &Path, more| {
            let cause = self.as_user(|| access(path, Access::WRITE_OK | more)).err()?;
            Some(format!("{} can't write to {}", self.name, said(path, cause)))
        };
        let beside = || {
            let is_file = file.usage == Usage::WriteBeside && file.path.exists();
            is_file.then(|| writable(&file.path, Access::READ_OK)).flatten()
        };
        writable(directory, Access::EXEC_OK).or_else(beside)
    }

    /// What `look` finds with the rights of the user, on a thread of its own: the others stay whose they are.
    fn as_user(&self, look: impl FnOnce() -> Result<(), Errno> + Send) -> Result<(), Errno> {
        let Some(Change { uid, gid }) = self.change else { return look() };
        let name = std::ffi::CString::new(self.name.as_str()).map_err(|_| Errno::INVAL)?;
        let groups = getgrouplist(&name, gid).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        let groups: Vec<_> = groups.into_iter().map(|group| rustix::process::Gid::from_raw(group.as_raw())).collect();
        let (uid, gid) = (rustix::process::Uid::from_raw(uid.as_raw()), rustix::process::Gid::from_raw(gid.as_raw()));
        let becoming = move || {
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
            look()
        };
        thread::scope(|scope| scope.spawn(becoming).join().unwrap_or(Err(Errno::INVAL)))
    }

    /// Becomes that user, for good, and gives up all capabilities; a process that stays root keeps them. Returns what
    /// is not as it should be.
    pub fn adopt(&self) -> Result<Vec<String>, Error> {
        let failed = |step| move |source| Error::Privileges { name: self.name.clone(), step, source };
        let mut doubts: Vec<String> = self.doubt.iter().cloned().collect();
        if let Some(change) = self.change {
            // While the right to do so is there. It is of use only to programs that are run, and none can be.
            empty_bounding_set().map_err(failed("giving up capabilities"))?;
            become_user(&self.name, change).map_err(failed("becoming that user"))?;
        }
        if self.root == Root::No
            && let Err(error) = drop_capabilities()
        {
            // A filter of system calls may forbid it; the one capability that is given to such a process binds low
            // ports.
            doubts.push(format!("capabilities can't be given up: {error}"));
        }
        if let Err(error) = set_no_new_privs(true) {
            doubts.push(format!("no_new_privs can't be set: {error}"));
        }
        Ok(doubts)
    }
}

fn look_up(name: &str) -> Result<Option<User>, Error> {
    User::from_name(name).map_err(|errno| Error::Users { name: name.to_owned(), source: errno.into() })
}

fn become_user(name: &str, Change { uid, gid }: Change) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    // Supplementary groups become the user's: those of root go.
    initgroups(&name, gid)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // Going back must fail.
    match setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)) {
        Ok(()) => Err(io::Error::other("the way back to root is open")),
        Err(_) => Ok(()),
    }
}

fn empty_bounding_set() -> Result<(), io::Error> {
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), io::Error> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Directories of ours.
const MODE: u32 = 0o750;
/// Those that files are made in: mail of others, and reports on it, lie there.
const PRIVATE: u32 = 0o700;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_system_that_nobody_can_write_to_the_unit_is_named() {
        let hint = |errno: Errno| read_only_hint(&io::Error::from(errno));
        assert!(hint(Errno::ROFS).contains("ReadWritePaths="));
        assert_eq!(hint(Errno::ACCESS), "");
    }

    #[test]
    fn a_user_that_nobody_knows_is_an_error_and_root_stays_root_only_by_name() {
        if !Uid::effective().is_root() {
            let own = User::from_uid(Uid::effective()).unwrap().unwrap().name;
            assert!(Account::of(Some(&own)).unwrap().doubt.is_none());
            let account = Account::of(Some("root")).unwrap();
            assert!(account.doubt.is_some() && account.change.is_none() && !account.is_root());
            assert_eq!(Account::otherness(Some(&own)).unwrap(), None);
            let unknown = Otherness::Unknown("no-such-user".to_owned());
            assert_eq!(Account::otherness(Some("no-such-user")).unwrap(), Some(unknown));
            return;
        }
        assert!(matches!(Account::of(Some("no-such-user")), Err(Error::User { .. })));
        let root = Account::of(Some("root")).unwrap();
        assert!(root.change.is_none() && !root.is_root() && root.name() == "root");
        let nobody = Account::of(Some("nobody")).unwrap();
        assert!(nobody.change.is_some_and(|change| !change.uid.is_root()) && !nobody.is_root());
        assert!(matches!(Account::otherness(Some("no-such-user")), Err(Error::User { .. })));
        assert_eq!(Account::otherness(Some("root")).unwrap(), None);
        assert_eq!(Account::otherness(Some("nobody")).unwrap(), Some(Otherness::Will("nobody".to_owned())));
    }

    #[test]
    fn where_nothing_can_be_written_is_told_without_making_anything() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let root = Uid::effective().is_root();
        let account = Account::of(root.then_some("nobody")).unwrap();
        let obstacle = |path: &str, usage| account.obstacle(&Needed { key: "k", path: place.path().join(path), usage });
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(obstacle("a/b", Usage::WriteInto), None, "it would be made");
        assert!(!place.path().join("a").exists());
        std::fs::write(place.path().join("file"), "").unwrap();
        assert!(obstacle("file/a", Usage::WriteInto).unwrap().ends_with("/file is no directory"));
        set(&place.path().join("file"), 0o400);
        set(place.path(), 0o777);
        assert_eq!(obstacle("new", Usage::WriteBeside), None);
        let refused = obstacle("file", Usage::WriteBeside).unwrap();
        assert!(refused.contains(" can't write to /") && refused.contains("/file: Permission denied"), "{refused}");
        set(place.path(), 0o555);
        let refused = obstacle("", Usage::WriteInto).unwrap();
        assert!(refused.starts_with(account.name()) && refused.contains(": Permission denied"), "{refused}");
        assert_eq!(obstacle("a", Usage::WriteInto).is_some(), !root, "root would make it for the user");
        assert_eq!(Uid::effective().is_root(), root);
        set(place.path(), 0o755);
        std::fs::create_dir(place.path().join("locked")).unwrap();
        set(&place.path().join("locked"), 0o700);
        let refused = obstacle("locked/spool", Usage::WriteInto);
        assert_eq!(refused.is_some(), root, "it would be made where the user can't go");
        assert!(refused.is_none_or(|refused| refused.contains("nobody can't enter /")));
    }

    #[test]
    fn directories_are_made_with_all_that_lead_to_them_and_belong_to_the_user() {
        use std::os::unix::fs::MetadataExt;
        let place = tempfile::tempdir().unwrap();
        let wanted = if Uid::effective().is_root() { Some("nobody") } else { None };
        let account = Account::of(wanted).unwrap();
        let path = place.path().join("a/b/c");
        let needed = |usage| Needed { key: "k", path: path.clone(), usage };
        account.make_directories(&[needed(Usage::Read)]);
        assert!(!place.path().join("a").exists(), "nothing is made for what is read");
        account.make_directories(&[needed(Usage::WriteBeside)]);
        assert!(place.path().join("a/b").exists() && !path.exists());
        account.make_directories(&[needed(Usage::WriteInto)]);
        let expected = account.change.map_or(Uid::effective(), |change| change.uid);
        for directory in ["a", "a/b", "a/b/c"] {
            let found = place.path().join(directory).metadata().unwrap();
            assert_eq!((found.uid(), found.mode() & 0o7777 & !0o750), (expected.as_raw(), 0), "{directory}");
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o077, 0, "mail of others lies there");
    }
}
