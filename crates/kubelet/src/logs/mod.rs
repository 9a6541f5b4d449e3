//! Logs of containers: files in the format of the CRI, read from the end that is asked for, across rotations ([`Lines`]).

mod lines;

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::Path;

use k8s_openapi::jiff::Timestamp;

pub use lines::{LAST_LINES_TIMEOUT, Lines};

/// What the client wants of the lines that follow.
#[derive(Debug)]
pub struct LineFilter {
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// Until a line is as new as this.
    pub since: Option<Timestamp>,
    /// Bytes.
    pub left: Option<usize>,
}

impl LineFilter {
    /// Appends what is wanted of one line of a log file.
    pub fn take(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(_), Some(tag), Some(content)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if let Some(since) = self.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
            self.since = None;
        }
        let begin = out.len();
        if self.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        // A partial line goes on in the next entry.
        let content = if tag == b"P" { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
        out.extend_from_slice(content);
        if let Some(left) = &mut self.left {
            out.truncate(begin.saturating_add(*left));
            *left = left.saturating_sub(out.len() - begin);
        }
    }

    /// Whether nothing more is wanted.
    pub fn is_all(&self) -> bool {
        self.left == Some(0)
    }
}

/// The end of a log, as far as a termination message has room for it: at most `limit` bytes, as upstream does.
///
/// # Errors
/// When there is no log.
pub fn last_words(log: &Path, limit: usize) -> std::io::Result<String> {
    const MAX_TAIL_LINES: usize = 80;
    const MAX_TAIL_BYTES: usize = 2048;
    let mut lines = Lines::open(log, Some(MAX_TAIL_LINES))?;
    let mut wanted = LineFilter { timestamps: false, since: None, left: None };
    let (mut said, mut line) = (Vec::new(), Vec::new());
    while lines.next(&mut line, false)? {
        wanted.take(&line, &mut said);
    }
    Ok(text_of(&said[said.len().saturating_sub(limit.min(MAX_TAIL_BYTES))..]))
}

/// The last `limit` bytes of a file, however large it is.
///
/// # Errors
/// When there is none.
pub fn end_of_file(path: &Path, limit: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
    Ok(text_of(&bounded::prefix(file, limit as u64)?))
}

/// A text that may begin in the middle of a character.
fn text_of(bytes: &[u8]) -> String {
    let begun = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    String::from_utf8_lossy(&bytes[begun..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_taken_of_what_a_container_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        std::fs::write(&path, "first äö").unwrap();
        let end = |limit| end_of_file(&path, limit).unwrap();
        assert_eq!((end(100).as_str(), end(4).as_str(), end(3).as_str(), end(1).as_str()), ("first äö", "äö", "ö", ""));
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(end(4), "\0\0\0\0");
        let log = dir.path().join("0.log");
        let lines: String = (1..=100).map(|n| format!("2026-11-28T06:00:00.000000001Z stderr F {n}\n")).collect();
        std::fs::write(&log, lines + "2026-11-28T06:00:00.000000001Z stderr P no end\n").unwrap();
        let said = last_words(&log, 100).unwrap();
        assert!(said.len() == 100 && said.ends_with("\n99\n100\nno end"), "{said:?}");
        assert!(last_words(&log, 4096).unwrap().starts_with("22\n23\n"));
    }
}
