//! What others send, read to a limit.

use std::io::{BufRead, Error, Read as _, Result};
use std::path::Path;

/// The longest line that a tool takes.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The text of a file that is small.
pub fn small_file(path: impl AsRef<Path>) -> Result<String> {
    const MAX_BYTES: u64 = 64 << 10;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The next line without its end, or nothing at the end.
pub fn line(input: &mut dyn BufRead, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if input.take(bound).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > limit {
        return Err(Error::other(format!("a line is longer than {limit} bytes")));
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_their_end_and_are_bounded() {
        let mut input = &b"one\n\nlast"[..];
        let mut next = || line(&mut input, 4).unwrap();
        assert_eq!([next(), next(), next(), next()], [Some(b"one".into()), Some(vec![]), Some(b"last".into()), None]);
        assert!(line(&mut &b"longer"[..], 4).is_err());
        assert_eq!(line(&mut &b"four\n"[..], 4).unwrap(), Some(b"four".into()));
    }
}
