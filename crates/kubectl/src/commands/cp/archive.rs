//! Archives of `cp`: one is made of files here, one is unpacked that a pod has made. The latter is hostile: nothing of it is written outside of the
//! target, through a link or as one, and its headers are bounded.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::{Error, Result, fail};

/// More entries are refused.
const MAX_ENTRIES: u64 = 1_000_000;
/// More components of a path are refused.
const MAX_DEPTH: usize = 256;
/// The headers of one entry are no larger: the archive library reads long names into memory.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Writes what is at a path, as `name`; links stay links.
///
/// # Errors
/// When something can't be read, or nobody takes the archive.
pub fn write(source: &Path, name: &str, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    let mut waiting = vec![(source.to_path_buf(), PathBuf::from(name))];
    while let Some((path, name)) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        if metadata.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&path)?.collect::<io::Result<_>>()?;
            entries.sort_by_key(|e| std::cmp::Reverse(e.file_name()));
            if entries.is_empty() {
                archive.append_data(&mut header, &name, io::empty())?;
            }
            waiting.extend(entries.iter().map(|e| (e.path(), name.join(e.file_name()))));
        } else if metadata.is_symlink() {
            header.set_size(0);
            archive.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else if metadata.is_file() {
            let file = File::open(&path)?;
            // A file that becomes shorter meanwhile would shift all that follows.
            archive.append_data(&mut header, &name, file.chain(io::repeat(0)).take(metadata.len()))?;
        } else {
            eprintln!("warning: skipping special file: {:?}", path.display().to_string());
        }
    }
    archive.into_inner()?.flush()
}

/// A reader that gives no more than was granted.
struct Granted<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Granted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("a header of the archive is too large"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(&mut buffer[..most])?;
        self.left.set(left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX)));
        Ok(read)
    }
}

/// Unpacks an archive whose names begin with `prefix` to `target`. `hint` is the command that would copy links, too.
///
/// # Errors
/// When it is no such archive, or something can't be written.
pub fn unpack(from: impl Read, prefix: &str, target: &Path, hint: &str) -> Result<()> {
    let left = Rc::new(Cell::new(MAX_HEADER_BYTES));
    let mut archive = tar::Archive::new(Granted { reader: from, left: left.clone() });
    let (mut entries, mut count) = (archive.entries()?, 0_u64);
    let mut hint = Some(hint);
    loop {
        left.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry?;
        count = count.saturating_add(1);
        if count > MAX_ENTRIES {
            return fail(format!("the archive has more than {MAX_ENTRIES} entries"));
        }
        // Padding belongs to the data.
        left.set(entry.size().saturating_add(1024));
        place(&mut entry, prefix, target, &mut hint)?;
        // What isn't wanted is read all the same, so that the next header is what comes.
        io::copy(&mut entry, &mut io::sink())?;
    }
}

/// Where an entry goes; `None` for outside of the target.
fn inside(name: &str, prefix: &str, target: &Path) -> Result<Option<PathBuf>> {
    let corrupted = || Error::Message("tar contents corrupted".into());
    let rest = name.strip_prefix(prefix).ok_or_else(corrupted)?;
    if !prefix.is_empty() && !rest.is_empty() && !rest.starts_with('/') {
        return Err(corrupted());
    }
    let parts: Vec<&str> = rest.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.len() > MAX_DEPTH || rest.contains('\0') {
        return Err(corrupted());
    }
    let outside = parts.iter().any(|p| *p == ".." || p.contains('\\'));
    Ok((!outside).then(|| parts.iter().fold(target.to_path_buf(), |path, part| path.join(part))))
}

fn place<R: Read>(entry: &mut tar::Entry<R>, prefix: &str, target: &Path, hint: &mut Option<&str>) -> Result<()> {
    let name = String::from_utf8(entry.path_bytes().into_owned());
    let name = name.map_err(|_| Error::Message("tar contents corrupted".into()))?;
    let Some(path) = inside(&name, prefix, target)? else {
        eprintln!("warning: file {:?} is outside target destination, skipping", clean_name(&name));
        return Ok(());
    };
    let shown = path.display().to_string();
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    if let Some(link) = link_on_the_way(target, &path) {
        eprintln!("warning: file {shown:?} is behind the symlink {:?}, skipping", link.display().to_string());
        return Ok(());
    }
    if kind.is_dir() {
        fs::create_dir_all(&path)?;
        return Ok(());
    }
    let linked = entry.link_name_bytes().map(|l| String::from_utf8_lossy(&l).into_owned()).unwrap_or_default();
    if kind.is_symlink() {
        let hint = hint.take().map_or(String::new(), |hint| format!(" (consider using \"{hint}\")"));
        eprintln!("warning: skipping symlink: {shown:?} -> {linked:?}{hint}");
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    if kind.is_hard_link() {
        // The other name came before; here each has content of its own.
        let from = inside(&linked, prefix, target).ok().flatten();
        let from = from.filter(|f| link_on_the_way(target, f).is_none() && *f != path && f.is_file());
        match from {
            Some(from) => drop(fs::copy(from, &path)?),
            None => eprintln!("warning: skipping link: {shown:?} -> {linked:?}"),
        }
        return Ok(());
    }
    if !(kind.is_file() || kind.is_contiguous()) {
        eprintln!("warning: skipping special file: {shown:?}");
        return Ok(());
    }
    let file = File::create(&path);
    let mut file = file.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::IsADirectory => "is a directory".into(),
            io::ErrorKind::PermissionDenied => "permission denied".into(),
            _ => error.to_string(),
        };
        Error::Message(format!("open {shown}: {reason}"))
    })?;
    let copied = io::copy(entry, &mut file)?;
    if copied != entry.size() {
        return fail("unexpected EOF");
    }
    Ok(())
}

/// A symbolic link below the target by which a path leads.
fn link_on_the_way(target: &Path, path: &Path) -> Option<PathBuf> {
    let mut at = target.to_path_buf();
    for part in path.strip_prefix(target).ok()?.components() {
        at.push(part);
        if at.is_symlink() {
            return Some(at);
        }
    }
    None
}

/// A name without what a terminal would take for a command.
fn clean_name(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(1024).collect()
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
