//! Container logs in the CRI format: `TIME STREAM F|P TEXT`, one line each, `P` for a line that goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Longer lines are written in parts.
const MAX_LINE_BYTES: usize = 16 << 10;
/// A file that reaches this size is put aside, and a new one begun.
pub const MAX_LOG_BYTES: u64 = 10 << 20;
/// Files that are kept, the present one included.
const MAX_ROTATED_FILES: usize = 5;

pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    /// The beginnings of lines whose ends haven't come yet, by stream.
    pending: [Vec<u8>; 2],
    out: Vec<u8>,
    stamp: Stamp,
}

/// Writes times. Every line has its own, as who collects logs takes equal lines of equal times for one; what a second's
/// lines have in common is made once.
#[derive(Default)]
struct Stamp {
    second: i64,
    text: String,
}

impl Stamp {
    fn write(&mut self, now: jiff::Timestamp, out: &mut Vec<u8>) {
        if self.text.is_empty() || self.second != now.as_second() {
            self.second = now.as_second();
            self.text = now.strftime("%Y-%m-%dT%H:%M:%S.").to_string();
        }
        out.extend_from_slice(self.text.as_bytes());
        let mut nanoseconds = now.subsec_nanosecond().unsigned_abs();
        let mut digits = *b"000000000Z";
        for digit in digits[..9].iter_mut().rev() {
            *digit += (nanoseconds % 10) as u8;
            nanoseconds /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

impl LogWriter {
    /// Opens the log at `path`, and makes its folder if there is none.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(LogWriter {
            path: path.into(),
            file,
            size,
            pending: Default::default(),
            out: Vec::new(),
            stamp: Stamp::default(),
        })
    }

    pub fn write(&mut self, stream: &str, bytes: &[u8]) {
        let mut pending = std::mem::take(&mut self.pending[slot(stream)]);
        self.out.clear();
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if pending.is_empty() {
                self.line(stream, &rest[..end]);
            } else {
                pending.extend_from_slice(&rest[..end]);
                self.line(stream, &pending);
                pending.clear();
            }
            rest = &rest[end + 1..];
        }
        pending.extend_from_slice(rest);
        let whole = pending.len() / MAX_LINE_BYTES * MAX_LINE_BYTES;
        for part in pending[..whole].chunks(MAX_LINE_BYTES) {
            self.entry(stream, "P", part);
        }
        pending.drain(..whole);
        self.pending[slot(stream)] = pending;
        self.flush();
    }

    /// The stream ended; a line without its end is written as it is.
    pub fn end(&mut self, stream: &str) {
        let pending = std::mem::take(&mut self.pending[slot(stream)]);
        if !pending.is_empty() {
            self.out.clear();
            self.entry(stream, "P", &pending);
            self.flush();
        }
    }

    fn line(&mut self, stream: &str, line: &[u8]) {
        let mut rest = line;
        while rest.len() > MAX_LINE_BYTES {
            let (part, after) = rest.split_at(MAX_LINE_BYTES);
            self.entry(stream, "P", part);
            rest = after;
        }
        self.entry(stream, "F", rest);
    }

    fn entry(&mut self, stream: &str, tag: &str, text: &[u8]) {
        self.stamp.write(jiff::Timestamp::now(), &mut self.out);
        // Writing to memory can't fail.
        let _ = write!(self.out, " {stream} {tag} ");
        self.out.extend_from_slice(text);
        self.out.push(b'\n');
    }

    fn flush(&mut self) {
        // A full disk loses log lines, not the container.
        if self.file.write_all(&self.out).is_ok() {
            self.size += self.out.len() as u64;
        }
        if self.size >= MAX_LOG_BYTES
            && let Err(error) = self.rotate()
        {
            eprintln!("{} can't be rotated: {error}", self.path.display());
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        rotate(&self.path)?;
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// The names of a log's files, from the one that is written to the oldest.
pub fn files(path: &Path) -> impl Iterator<Item = PathBuf> {
    let aside = (1..MAX_ROTATED_FILES).map(|n| numbered(path, n));
    std::iter::once(path.to_path_buf()).chain(aside)
}

fn numbered(path: &Path, n: usize) -> PathBuf {
    PathBuf::from(format!("{}.{n}", path.display()))
}

/// Gives a log's file the next free name, so that a new one can be begun; the oldest one goes.
///
/// # Errors
/// Those of the file system.
pub fn rotate(path: &Path) -> io::Result<()> {
    for n in (1..MAX_ROTATED_FILES - 1).rev() {
        if numbered(path, n).exists() {
            #[expect(clippy::disallowed_methods, reason = "a log is put aside; what is in it is there already")]
            std::fs::rename(numbered(path, n), numbered(path, n + 1))?;
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a log is put aside; what is in it is there already")]
    std::fs::rename(path, numbered(path, 1))?;
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn slot(stream: &str) -> usize {
    usize::from(stream == "stderr")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_string()).collect()
    }

    #[test]
    fn times_are_written_to_the_nanosecond() {
        let mut stamp = Stamp::default();
        for time in
            ["2026-11-28T06:22:48.000000007Z", "2026-11-28T06:22:48.999999999Z", "2026-11-28T06:22:49.120000000Z"]
        {
            let mut out = Vec::new();
            stamp.write(time.parse().unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), time);
        }
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.write("stdout", b"one\ntw");
        log.write("stderr", b"bad\n");
        log.write("stdout", b"o\n\nrest");
        log.end("stdout");
        assert_eq!(lines(&path), ["stdout F one", "stderr F bad", "stdout F two", "stdout F ", "stdout P rest"]);
    }

    #[test]
    fn long_lines_come_in_parts_and_files_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = LogWriter::open(&path).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..60 {
            log.write("stdout", &chunk);
        }
        log.write("stdout", b"\n");
        assert!(lines(&path).iter().all(|l| l.len() <= MAX_LINE_BYTES + 64));
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert!(files <= MAX_ROTATED_FILES, "{files} files");
    }
}
