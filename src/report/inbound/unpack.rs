//! Gives the XML of a report, whatever it is packed in, as a stream of UTF-8 that can't grow beyond its bounds.
//!
//! The first octets tell what it is packed in, since reporters get their own media types wrong. Packed twice is never a
//! report. Pure.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::{DeflateDecoder, GzDecoder};
use rawzip::{CompressionMethod, ZipArchive};

use crate::report::inbound::Refusal;

/// XML out of gzip, ZIP or nothing. Reading it fails with a [`Refusal`] inside the error, which [`refusal_in`] finds.
///
/// # Errors
///
/// It is packed in an unknown way, or its character set is not supported.
pub fn xml(packed: &[u8]) -> Result<Box<dyn BufRead + '_>, Refusal> {
    if packed.starts_with(GZIP) {
        return text(metered(GzDecoder::new(packed), packed.len()));
    }
    if packed.starts_with(ZIP) {
        return zipped(packed);
    }
    text(metered(packed, packed.len()))
}

/// Whether it begins as gzip and ZIP do.
pub fn is_packed(octets: &[u8]) -> bool {
    octets.starts_with(GZIP) || octets.starts_with(ZIP)
}

/// Whether it begins as XML does, in whatever character set.
pub fn is_xml(octets: &[u8]) -> bool {
    let octets = octets.strip_prefix(BOM).unwrap_or(octets).trim_ascii_start();
    octets.starts_with(b"<")
        || octets.starts_with(b"\xff\xfe")
        || octets.starts_with(b"\xfe\xff")
        || octets.starts_with(b"\0<")
}

/// Why reading failed, if it was a bound of ours.
pub fn refusal_in(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref::<Refusal>().copied()
}

/// The first file of the archive that has the name of a report, or the only one.
fn zipped(packed: &[u8]) -> Result<Box<dyn BufRead + '_>, Refusal> {
    let broken = |_| Refusal::Compression;
    let archive = ZipArchive::from_slice(packed).map_err(broken)?;
    let mut wanted = None;
    for entry in archive.entries().take(MAX_FILES) {
        let entry = entry.map_err(broken)?;
        let is_named = entry.file_path().as_ref().to_ascii_lowercase().ends_with(b".xml");
        if !entry.is_dir() && (is_named || wanted.is_none()) {
            wanted = Some((entry.wayfinder(), entry.compression_method()));
        }
        if is_named {
            break;
        }
    }
    let (wayfinder, method) = wanted.ok_or(Refusal::NoReport)?;
    let file = archive.get_entry(wayfinder).map_err(broken)?;
    // The slice outlives the archive, which only says where the file lies in it.
    let (start, end) = file.compressed_data_range();
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let data = range.and_then(|(start, end)| packed.get(start..end)).ok_or(Refusal::Compression)?;
    // The checksum is verified at the end: what was read is thrown away if it is wrong.
    match method {
        CompressionMethod::STORE => text(metered(file.verifying_reader(data), data.len())),
        CompressionMethod::DEFLATE => text(metered(file.verifying_reader(DeflateDecoder::new(data)), data.len())),
        _ => Err(Refusal::Compression),
    }
}

/// Counts what comes out of so many octets, and ends it where it is too much.
struct Metered<R> {
    inner: R,
    left: u64,
}

fn metered<R: Read>(inner: R, packed: usize) -> BufReader<Metered<R>> {
    let packed = u64::try_from(packed).unwrap_or(u64::MAX);
    let left = packed.saturating_mul(MAX_RATIO).clamp(LEAST_BOUND, MAX_XML);
    BufReader::with_capacity(BUFFER, Metered { inner, left })
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(|error| io::Error::new(error.kind(), Refusal::Compression))?;
        self.left = self
            .left
            .checked_sub(u64::try_from(read).unwrap_or(u64::MAX))
            .ok_or_else(|| io::Error::other(Refusal::Bomb))?;
        Ok(read)
    }
}

/// The character set by what the first octets say of it.
fn text<'a>(mut octets: impl BufRead + 'a) -> Result<Box<dyn BufRead + 'a>, Refusal> {
    let mut head = Vec::with_capacity(HEAD);
    let read = (&mut octets).take(HEAD as u64).read_to_end(&mut head);
    read.map_err(|error| refusal_in(&error).unwrap_or(Refusal::Compression))?;
    if is_packed(&head) {
        return Err(Refusal::Compression);
    }
    let set = character_set(&head)?;
    if let Some(rest) = head.strip_prefix(BOM) {
        head = rest.to_vec();
    }
    let whole = Cursor::new(head).chain(octets);
    Ok(match set {
        CharacterSet::Utf8 => Box::new(whole),
        CharacterSet::Latin1 => Box::new(Latin1 { inner: whole, out: Vec::new(), at: 0 }),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharacterSet {
    Utf8,
    Latin1,
}

/// By the XML declaration, if there is one; UTF-16 has NULs in its first octets, and is not read.
fn character_set(head: &[u8]) -> Result<CharacterSet, Refusal> {
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") || head.iter().take(4).any(|b| *b == 0) {
        return Err(Refusal::Charset);
    }
    let head = String::from_utf8_lossy(head.strip_prefix(BOM).unwrap_or(head));
    match declared(head.trim_ascii_start()).as_deref().unwrap_or("utf-8") {
        "utf-8" | "utf8" | "us-ascii" | "ascii" => Ok(CharacterSet::Utf8),
        "iso-8859-1" | "iso8859-1" | "iso_8859-1" | "latin1" | "iso-8859-15" | "windows-1252" | "cp1252" => {
            Ok(CharacterSet::Latin1)
        }
        _ => Err(Refusal::Charset),
    }
}

/// The value of `encoding` in `<?xml ... ?>`, lower case.
fn declared(head: &str) -> Option<String> {
    let (declaration, _) = head.strip_prefix("<?xml")?.split_once("?>")?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_ascii_start().strip_prefix('=')?.trim_ascii_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (name, _) = value.get(1..)?.split_once(quote)?;
    Some(name.trim_ascii().to_ascii_lowercase())
}

/// ISO 8859-1 as UTF-8; its relatives differ in characters that only names of organizations have.
struct Latin1<R> {
    inner: R,
    out: Vec<u8>,
    at: usize,
}

impl<R: BufRead> BufRead for Latin1<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.out.len() {
            (self.at, self.out) = (0, Vec::new());
            let octets = self.inner.fill_buf()?;
            let taken = octets.len();
            self.out = octets.iter().copied().map(char::from).collect::<String>().into_bytes();
            self.inner.consume(taken);
        }
        Ok(self.out.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, taken: usize) {
        self.at = self.at.saturating_add(taken);
    }
}

impl<R: BufRead> Read for Latin1<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// What a gzip file begins with (RFC 1952 §2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";
/// What a ZIP archive with a file in it begins with.
const ZIP: &[u8] = b"PK\x03\x04";
/// What UTF-8 may begin with.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Octets of XML: a report on a hundred thousand sources has half as many.
pub const MAX_XML: u64 = 64 * 1024 * 1024;
/// How many octets one may become: reports come to some 30, deflate to 1032 at most.
const MAX_RATIO: u64 = 200;
/// Octets that anything may become: small files of like lines shrink most.
const LEAST_BOUND: u64 = 1024 * 1024;
/// Files of an archive that are looked at: one is in use.
const MAX_FILES: usize = 16;
/// Octets that an XML declaration stands in.
const HEAD: usize = 256;
/// Octets that are inflated at a time.
const BUFFER: usize = 32 * 1024;
