//! The lines of a log that is written, and put aside when it is large, while it is read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Runtimes write lines of 16 KiB at most, and mark those that go on.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// How long is waited for who still has a file open that was put aside, or is of a container that has ended: a runtime may be
/// behind with what it writes. It may also never close one.
pub const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the lines of all files of a log, the oldest first, and goes on where it was when there are more.
pub struct Lines {
    path: PathBuf,
    current: BufReader<File>,
    /// Files that are newer than the current one, the oldest first.
    newer: VecDeque<File>,
    /// The current one has no writer any more: its end is final.
    complete: bool,
    /// Since when there are newer ones.
    left: Option<Instant>,
}

impl Lines {
    /// Begins with the first line that is still there, or with the last `tail` ones.
    ///
    /// # Errors
    /// When there is no such log.
    pub fn open(path: &Path, tail: Option<usize>) -> io::Result<Self> {
        let mut files = newer_than(path, None)?;
        if let Some(tail) = tail {
            seek_to_last(&mut files, tail)?;
        }
        let current = files.pop_front().ok_or(io::ErrorKind::NotFound)?;
        Ok(Lines { path: path.into(), current: BufReader::new(current), newer: files, complete: false, left: None })
    }

    /// Whether there may be more lines.
    pub fn are_written(&self) -> bool {
        File::open(&self.path).is_ok_and(|newest| runtime::files::is_written(&newest))
    }

    /// The next line with its end; false when there is none yet. A runtime may write to a file for a while after it began
    /// the next one: `all` says whether that is waited for, or what is there now is what was asked for.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn next(&mut self, line: &mut Vec<u8>, all: bool) -> io::Result<bool> {
        loop {
            line.clear();
            #[expect(clippy::disallowed_methods, reason = "this is the limit")]
            let length = self.current.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)?;
            // What is longer is read in parts.
            if line.last() == Some(&b'\n') || length as u64 == MAX_LINE_BYTES {
                return Ok(true);
            }
            if self.complete
                && let Some(file) = self.newer.pop_front()
            {
                self.current = BufReader::new(file);
                (self.complete, self.left) = (false, None);
                continue;
            }
            self.current.seek_relative(-(length as i64))?;
            let current = self.current.get_ref();
            if self.newer.is_empty() {
                self.newer = newer_than(&self.path, Some(current.metadata()?.ino()))?;
            }
            if self.newer.is_empty() {
                return Ok(false);
            }
            let waits = all && self.left.get_or_insert_with(Instant::now).elapsed() < LAST_LINES_TIMEOUT;
            if waits && runtime::files::is_written(current) {
                return Ok(false);
            }
            // What was written until now is read before the newer ones.
            self.complete = true;
        }
    }
}

/// The files of a log that are newer than that with the number `inode`, the oldest first; all if there is none such any more.
///
/// Files only ever become older, by a name with a higher number: read in that order, none is missed.
fn newer_than(path: &Path, inode: Option<u64>) -> io::Result<VecDeque<File>> {
    let mut files = VecDeque::new();
    let mut seen = Vec::new();
    for name in runtime::log_files(path) {
        let file = match File::open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let number = file.metadata()?.ino();
        if Some(number) == inode {
            break;
        }
        if !seen.contains(&number) {
            seen.push(number);
            files.push_front(file);
        }
    }
    Ok(files)
}

/// Leaves out of `files` what is before their last `wanted` lines.
fn seek_to_last(files: &mut VecDeque<File>, mut wanted: usize) -> io::Result<()> {
    for index in (0..files.len()).rev() {
        match last_lines(&mut files[index], wanted)? {
            Last::From(offset) => {
                files[index].seek(SeekFrom::Start(offset))?;
                files.drain(..index);
                return Ok(());
            }
            Last::All(count) => {
                files[index].rewind()?;
                wanted -= count;
            }
        }
    }
    Ok(())
}

enum Last {
    /// They begin here.
    From(u64),
    /// There are but so many.
    All(usize),
}

/// Where the last `wanted` lines of a file begin. It is read backwards, and no further than needed.
fn last_lines(file: &mut File, wanted: usize) -> io::Result<Last> {
    const BLOCK: u64 = 64 << 10;
    let mut block = vec![0; BLOCK as usize];
    let mut end = file.metadata()?.len();
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let block = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        for at in memchr::memrchr_iter(b'\n', block) {
            if found == wanted {
                return Ok(Last::From(start + at as u64 + 1));
            }
            found += 1;
        }
        end = start;
    }
    Ok(if found == wanted { Last::From(0) } else { Last::All(found) })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn append(path: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rest(lines: &mut Lines) -> String {
        let (mut all, mut line) = (String::new(), Vec::new());
        while lines.next(&mut line, true).unwrap() {
            all.push_str(std::str::from_utf8(&line).unwrap());
        }
        all
    }

    #[test]
    fn the_last_lines_may_be_of_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(&path, "1\n2\n");
        runtime::rotate_log(&path).unwrap();
        append(&path, "3\n4\nhal");
        let last = |tail| rest(&mut Lines::open(&path, tail).unwrap());
        assert_eq!(last(None), "1\n2\n3\n4\n");
        for (tail, want) in
            [(0, ""), (1, "4\n"), (2, "3\n4\n"), (3, "2\n3\n4\n"), (4, "1\n2\n3\n4\n"), (9, "1\n2\n3\n4\n")]
        {
            assert_eq!(last(Some(tail)), want, "{tail}");
        }
        let mut none = Lines::open(&path, Some(0)).unwrap();
        assert_eq!(rest(&mut none), "");
        append(&path, "f\n");
        assert_eq!(rest(&mut none), "half\n");
        assert!(Lines::open(&dir.path().join("1.log"), None).is_err());
    }

    #[test]
    fn what_is_written_late_is_read_before_what_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut writer = File::options().create(true).append(true).open(&path).unwrap();
        writer.write_all(b"1\n").unwrap();
        let mut lines = Lines::open(&path, None).unwrap();
        runtime::rotate_log(&path).unwrap();
        append(&path, "3\n");
        assert_eq!(rest(&mut lines), "1\n");
        writer.write_all(b"2\n").unwrap();
        assert_eq!(rest(&mut lines), "2\n");
        // A reader of what is there now doesn't wait.
        let (mut now, mut line) = (Lines::open(&path, None).unwrap(), Vec::new());
        for want in ["1\n", "2\n", "3\n"] {
            assert!(now.next(&mut line, false).unwrap() && line == want.as_bytes(), "{want}");
        }
        drop(writer);
        assert_eq!(rest(&mut lines), "3\n");
    }

    #[test]
    fn long_files_are_read_from_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text: String = (0..50_000).map(|n| format!("{n}\n")).collect();
        append(&path, &text);
        for tail in [1, 9_000, 20_000, 49_999, 50_000] {
            let want: String = (50_000 - tail..50_000).map(|n| format!("{n}\n")).collect();
            assert!(rest(&mut Lines::open(&path, Some(tail)).unwrap()) == want, "{tail}");
        }
    }

    proptest! {
        /// Whatever a writer does between two readings, nothing is lost or told twice, as long as the files are kept.
        #[test]
        fn who_follows_misses_nothing(steps in prop::collection::vec((0usize..4, 0usize..3), 1..40)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            append(&path, "");
            let mut lines = Lines::open(&path, None).unwrap();
            let (mut written, mut read) = (String::new(), String::new());
            for (number, (rotations, count)) in steps.into_iter().enumerate() {
                for rotation in 0..=rotations {
                    let text: String = (0..count).map(|n| format!("{number} {rotation} {n}\n")).collect();
                    // A line may be read when half of it is written.
                    let (first, second) = text.split_at(text.len() / 2);
                    append(&path, first);
                    if rotation == 0 {
                        read += &rest(&mut lines);
                    }
                    append(&path, second);
                    written += &text;
                    if rotation < rotations {
                        runtime::rotate_log(&path).unwrap();
                        append(&path, "");
                    }
                }
                read += &rest(&mut lines);
                prop_assert_eq!(&read, &written);
            }
        }
    }
}
