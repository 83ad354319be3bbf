//! What the process may do, and what it has to reach while it runs.

use std::path::Path;

use super::{Config, Discovery};
use crate::process::{self, Landlock, Needed, Usage};
use crate::store::Location;

/// `[process]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Process {
    pub user: Option<String>,
    pub landlock: Landlock,
}

impl Config {
    /// For the process itself, whose configuration is in `file`.
    pub fn process(&self, file: &Path) -> process::Settings {
        process::Settings {
            user: self.process.user.clone(),
            landlock: self.process.landlock,
            files: self.files(file),
            demand: process::Demand { file: self.limits.message_size.saturating_mul(2), memory: self.spool.memory },
        }
    }

    /// Every file and directory that a gate needs while it runs: what is missing here can't be reached.
    fn files(&self, file: &Path) -> Vec<Needed> {
        let needed = |key, path: &Path, usage| Needed { key, path: path.to_owned(), usage };
        let read = |key, path: &Path| needed(key, path, Usage::Read);
        let mut files =
            vec![read("--config", file), needed("spool.directory", &self.spool.directory, Usage::WriteInto)];
        files.extend(self.tls.certificate.0.iter().map(|path| read("tls.certificate", path)));
        files.extend(self.tls.key.0.iter().map(|path| read("tls.key", path)));
        files.extend(self.upstream.tls_ca.iter().map(|path| read("upstream.tls_ca", path)));
        files.extend(self.dns.ca.iter().map(|path| read("dns.ca", path)));
        match &self.store.url {
            Location::Sqlite(path) => files.push(needed("store.url", path, Usage::WriteBeside)),
            Location::Postgres(server) => {
                files.extend(server.files().map(|(key, path)| needed(key, &path, Usage::Read)))
            }
        }
        files.extend(self.reports.dkim_key.0.iter().map(|path| read("reports.dkim_key", path)));
        files.extend(self.reports.relay_ca.iter().map(|path| read("reports.relay_ca", path)));
        files.extend(self.reports.relay_password_file.iter().map(|path| read("reports.relay_password_file", path)));
        files.extend(self.reports.dry_run.iter().map(|path| needed("reports.dry_run", path, Usage::WriteInto)));
        files.extend(self.admin.token_file.iter().map(|path| read("admin.token_file", path)));
        if self.policy.discovery == Discovery::PublicSuffix {
            files.push(needed("public_suffix.file", &self.public_suffix.file, Usage::WriteBeside));
        }
        files
    }
}
