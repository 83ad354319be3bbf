//! Reads the list's file, and replaces it so that a reader sees the old one or the new one, whatever happens between.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::Error;
use super::fetch::MAX_SIZE;
use crate::dmarc::public_suffix::List;

/// The list in the file and when it was written; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<(List, SystemTime)>, Error> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(Error::Read)?,
    };
    let since = file.metadata().and_then(|metadata| metadata.modified()).map_err(Error::Read)?;
    let mut octets = Vec::new();
    // What is longer is cut off, and thereby no list.
    file.take(MAX_SIZE).read_to_end(&mut octets).map_err(Error::Read)?;
    let list = List::parse(&octets).map_err(Error::Unfit)?;
    Ok(Some((list, since)))
}

/// Puts a list in the place of the file, on the disk before it has the name.
pub(super) fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(octets)?;
    // The list is no secret, and who looks into the state directory may want to see it.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}
