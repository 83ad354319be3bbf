//! Reads what is on a machine: a few files, each bounded, none of them changed.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, User, getgrouplist};

use super::Mta;
use super::found::{
    Access, Certificate, CertificateSource, Found, Gate, Inside, Postfix, Presence, exim_inside, hostname, hosts_name,
    listening_ports, opensmtpd_inside,
};
use crate::label::Label;
use crate::process::USER;

/// A machine, and who the gate will be on it.
pub struct Machine {
    root: PathBuf,
    user: Option<GateUser>,
}

/// The gate's user.
pub struct GateUser {
    uid: u32,
    groups: BTreeSet<u32>,
}

/// What a mail server's own files say.
#[derive(Default)]
struct Installed {
    hostname: Option<String>,
    inside: Option<Inside>,
    certificate: Option<(PathBuf, PathBuf)>,
    processes: Option<u32>,
}

impl Machine {
    /// The machine that this runs on.
    pub fn of_this_machine() -> Self {
        let user = User::from_name(USER).ok().flatten();
        Self { root: PathBuf::from("/"), user: user.map(|user| GateUser::of(&user)) }
    }

    /// Looks around; `wanted` is the mail server that was named.
    pub fn look(&self, wanted: Option<Mta>) -> Found {
        let present = self.mail_server();
        let mta = wanted.or(present).unwrap_or(Mta::Other);
        let installed = self.installed(mta);
        let presence = if installed.is_some() { Presence::Installed } else { Presence::Assumed };
        let Installed { hostname: named, inside, certificate, processes } = installed.unwrap_or_default();
        let short = self.read("proc/sys/kernel/hostname").unwrap_or_default();
        let hosts = self.read("etc/hosts").unwrap_or_default();
        let names = [named.as_deref(), Some(short.as_str()), hosts_name(&hosts, short.trim())];
        let hostname = hostname(names.into_iter().flatten());
        let tables = ["proc/net/tcp", "proc/net/tcp6"].map(|table| self.read(table).unwrap_or_default());
        Found {
            certificate: self.certificate(certificate, hostname.as_str()),
            hostname,
            mta,
            presence,
            inside,
            taken: tables.iter().flat_map(|table| listening_ports(table)).collect(),
            gate: Gate::Unseen,
            has_ipv6: self.at("proc/net/if_inet6").exists(),
            processes,
        }
    }

    /// The mail server whose files are here; of several, one that runs.
    fn mail_server(&self) -> Option<Mta> {
        let here: Vec<_> = Mta::ALL.iter().copied().filter(|mta| self.installed(*mta).is_some()).collect();
        let running = if here.len() > 1 { self.running() } else { BTreeSet::new() };
        let runs = |mta: &&Mta| match mta {
            Mta::Postfix => running.contains("master"),
            Mta::Exim => running.contains("exim4") || running.contains("exim"),
            Mta::OpenSmtpd => running.contains("smtpd"),
            Mta::Exchange | Mta::Other => false,
        };
        here.iter().find(runs).or(here.first()).copied()
    }

    fn installed(&self, mta: Mta) -> Option<Installed> {
        match mta {
            Mta::Postfix => {
                let read = Postfix::read(&self.read("etc/postfix/main.cf")?, &self.read("etc/postfix/master.cf")?);
                Some(Installed {
                    hostname: read.hostname.map(|name| name.to_string()),
                    inside: read.inside,
                    certificate: read.certificate,
                    processes: read.processes,
                })
            }
            Mta::Exim => {
                let parts = self.names(EXIM_PARTS).into_iter().map(|name| format!("{EXIM_PARTS}/{name}"));
                let files = EXIM.into_iter().map(str::to_owned).chain(parts).filter_map(|file| self.read(&file));
                let whole = files.reduce(|all, one| all + "\n" + &one)?;
                Some(Installed { inside: exim_inside(&whole), ..Installed::default() })
            }
            Mta::OpenSmtpd => {
                let configuration = OPENSMTPD.iter().find_map(|file| self.read(file))?;
                Some(Installed { inside: opensmtpd_inside(&configuration), ..Installed::default() })
            }
            Mta::Exchange | Mta::Other => None,
        }
    }

    /// What is in a directory, in the order of the names.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(directory)).into_iter().flatten().filter_map(Result::ok).take(MAX_PARTS);
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Names of the processes that run.
    fn running(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.at("proc")) else { return BTreeSet::new() };
        let processes = entries.filter_map(Result::ok).take(MAX_PROCESSES);
        let names = processes.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// The mail server's own, one of Let's Encrypt for this host, any of Let's Encrypt, the self-signed one.
    fn certificate(&self, own: Option<(PathBuf, PathBuf)>, hostname: &str) -> Option<Certificate> {
        let lineage =
            |name: &Path| (name.join("fullchain.pem"), name.join("privkey.pem"), CertificateSource::LetsEncrypt);
        let live = Path::new(LETS_ENCRYPT);
        let mut others: Vec<_> =
            fs::read_dir(self.at(LETS_ENCRYPT)).into_iter().flatten().filter_map(Result::ok).collect();
        others.sort_by_key(fs::DirEntry::file_name);
        let own = own.map(|(certificate, key)| (certificate, key, CertificateSource::MailServer));
        let own = own.filter(|(certificate, ..)| certificate != Path::new(SNAKEOIL.0));
        let snakeoil = (SNAKEOIL.0.into(), SNAKEOIL.1.into(), CertificateSource::Snakeoil);
        let candidates = own.into_iter().chain([lineage(&live.join(hostname))]);
        let candidates = candidates.chain(others.iter().map(|entry| lineage(&live.join(entry.file_name()))));
        candidates.chain([snakeoil]).find_map(|(certificate, key, source)| {
            let there = self.at(&certificate).is_file() && self.at(&key).is_file();
            there.then(|| Certificate { access: self.access(&key), certificate, key, source })
        })
    }

    /// Whether the gate's user can read a file, by the modes of the file and of all directories that lead to it.
    fn access(&self, file: &Path) -> Access {
        let Ok(path) = self.at(file).canonicalize() else { return Access::Root };
        let way = path.ancestors().skip(1).take_while(|above| above.starts_with(&self.root));
        let steps = way.map(|directory| (directory, EXECUTE)).chain([(path.as_path(), READ)]);
        let mut worst = Access::Granted;
        for (step, bit) in steps {
            let Ok(metadata) = fs::metadata(step) else { return Access::Root };
            match self.may(&metadata, bit) {
                Access::Granted => {}
                Access::Root => return Access::Root,
                group => worst = group,
            }
        }
        worst
    }

    fn may(&self, metadata: &Metadata, bit: u32) -> Access {
        let mode = metadata.mode();
        let user = self.user.as_ref();
        let owns = user.is_some_and(|user| user.uid == metadata.uid()) && mode & (bit << 6) != 0;
        let is_member = user.is_some_and(|user| user.groups.contains(&metadata.gid()));
        let group_may = mode & (bit << 3) != 0;
        if owns || mode & bit != 0 || (is_member && group_may) {
            return Access::Granted;
        }
        match Group::from_gid(Gid::from_raw(metadata.gid())) {
            // Nobody should become a member of root's group for a key.
            Ok(Some(group)) if group_may && metadata.gid() != 0 => Access::Group(group.name),
            _ => Access::Root,
        }
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file; none if it is not there, or can't be read.
    fn read(&self, path: &str) -> Option<String> {
        let mut octets = Vec::new();
        File::open(self.at(path)).ok()?.take(MAX_FILE).read_to_end(&mut octets).ok()?;
        Some(String::from_utf8_lossy(&octets).into_owned())
    }
}

impl GateUser {
    fn of(user: &User) -> Self {
        let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
        let groups = getgrouplist(&name, user.gid).unwrap_or_default();
        Self { uid: user.uid.as_raw(), groups: groups.into_iter().map(Gid::as_raw).collect() }
    }
}

/// Exim's configuration: what people write on Debian, what is made of it there, then everybody else's.
const EXIM: [&str; 5] = [
    "etc/exim4/exim4.conf",
    "etc/exim4/exim4.conf.template",
    "etc/exim4/exim4.conf.localmacros",
    "var/lib/exim4/config.autogenerated",
    "etc/exim/exim.conf",
];
/// Debian's main section in parts.
const EXIM_PARTS: &str = "etc/exim4/conf.d/main";
/// OpenSMTPD's.
const OPENSMTPD: [&str; 2] = ["etc/smtpd.conf", "etc/mail/smtpd.conf"];
/// Where Let's Encrypt's client keeps what is in force.
const LETS_ENCRYPT: &str = "/etc/letsencrypt/live";
/// Debian's self-signed certificate and its key.
const SNAKEOIL: (&str, &str) = ("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key");
/// Permission to read, for others.
const READ: u32 = 0o4;
/// Permission to pass a directory, for others.
const EXECUTE: u32 = 0o1;
/// Octets of a file: a configuration is shorter, a table of sockets is cut.
const MAX_FILE: u64 = 4 << 20;
/// Files of a configuration in parts.
const MAX_PARTS: usize = 1000;
/// Entries of /proc.
const MAX_PROCESSES: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A machine in a directory.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = directory.path().canonicalize().unwrap();
        (directory, Machine { root, user: Some(GateUser { uid: 4_000_000, groups: BTreeSet::from([4_000_000]) }) })
    }

    #[test]
    fn an_empty_machine_has_no_mail_server_and_a_name_all_the_same() {
        let (_directory, machine) = machine(&[]);
        let found = machine.look(None);
        assert_eq!((found.mta, found.presence), (Mta::Other, Presence::Assumed));
        assert_eq!((found.hostname.as_str(), found.certificate), ("mx.example.net", None));
        assert_eq!(machine.look(Some(Mta::Exim)).mta, Mta::Exim);
    }

    #[test]
    fn of_two_mail_servers_the_one_that_runs_is_found() {
        let files = [
            ("etc/postfix/main.cf", "myhostname = mx.example.org\n"),
            ("etc/postfix/master.cf", "smtp inet n - y - - smtpd\n"),
            ("etc/smtpd.conf", "listen on 127.0.0.1 port 10026 proxy-v2\n"),
            ("proc/7/comm", "smtpd\n"),
        ];
        let (_directory, both) = machine(&files);
        assert_eq!(both.look(None).mta, Mta::OpenSmtpd);
        let named = both.look(Some(Mta::Postfix));
        assert_eq!((named.hostname.as_str(), named.presence), ("mx.example.org", Presence::Installed));
        let (_directory, idle) = machine(&files[..3]);
        assert_eq!(idle.look(None).mta, Mta::Postfix);
    }

    #[test]
    fn exim_set_up_for_the_gate_is_known_in_parts_and_in_one_file() {
        let ours = "local_interfaces = <; [127.0.0.1]:10025 ; [0.0.0.0]:465\nhosts_proxy = 127.0.0.1\n";
        let debian = "MAIN_HOST = x\n.ifdef MAIN_LOCAL_INTERFACES\nlocal_interfaces = MAIN_LOCAL_INTERFACES\n.endif\n";
        let whole = format!("{ours}{debian}");
        let template = "etc/exim4/exim4.conf.template";
        let cases: [&[(&str, &str)]; 3] = [
            &[(template, debian), ("etc/exim4/conf.d/main/00_gate", ours), ("etc/exim4/conf.d/main/01_x", debian)],
            &[(template, &whole), ("etc/exim4/conf.d/main/01_x", debian)],
            &[(template, debian), ("var/lib/exim4/config.autogenerated", &whole)],
        ];
        for files in cases {
            let (_directory, machine) = machine(files);
            let found = machine.look(None);
            let inside = found.inside.map(|inside| inside.address.to_string());
            assert_eq!((found.mta, inside.as_deref()), (Mta::Exim, Some("127.0.0.1:10025")), "{files:?}");
        }
    }

    #[test]
    fn a_key_is_for_the_gate_if_all_that_leads_to_it_is() {
        let live = "etc/letsencrypt/live/mx.example.org";
        let archive = "etc/letsencrypt/archive/mx.example.org/privkey1.pem";
        let files = [
            ("proc/sys/kernel/hostname", "mx.example.org\n"),
            (archive, "key"),
            ("etc/letsencrypt/live/mx.example.org/fullchain.pem", "chain"),
        ];
        let (directory, mut machine) = machine(&files);
        symlink("../../archive/mx.example.org/privkey1.pem", directory.path().join(live).join("privkey.pem")).unwrap();
        let set = |path: &str, mode| {
            fs::set_permissions(directory.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        let cases = [(0o755, 0o644, Access::Granted), (0o755, 0o600, Access::Root), (0o700, 0o644, Access::Root)];
        for (above, key, expected) in cases {
            set("etc/letsencrypt/archive", above);
            set(archive, key);
            let found = machine.look(None).certificate.unwrap();
            assert_eq!((found.source, found.access), (CertificateSource::LetsEncrypt, expected), "{above:o} {key:o}");
        }
        set("etc/letsencrypt/archive", 0o755);
        set(archive, 0o640);
        let owner = fs::metadata(directory.path().join(archive)).unwrap();
        machine.user = Some(GateUser { uid: 4_000_000, groups: BTreeSet::from([owner.gid()]) });
        assert_eq!(machine.look(None).certificate.unwrap().access, Access::Granted);
        machine.user = Some(GateUser { uid: owner.uid(), groups: BTreeSet::new() });
        assert_eq!(machine.look(None).certificate.unwrap().access, Access::Granted);
        machine.user = None;
        assert_ne!(machine.look(None).certificate.unwrap().access, Access::Granted);
    }
}
