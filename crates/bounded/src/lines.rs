//! Lines from a socket or a pipe.

use std::io::{self, BufRead, Read as _};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use crate::files::too_large;

/// Reads a line of at most `limit` bytes, without its line feed. `None` at the end of the input.
///
/// # Errors
/// Errors of the reader, and when the line is longer or isn't UTF-8.
pub fn line(reader: &mut impl BufRead, limit: u64) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "this is the limit")]
    reader.take(limit.saturating_add(1)).read_until(b'\n', &mut line)?;
    finish_line(line, limit)
}

/// [`line()`] for an asynchronous reader.
///
/// # Errors
/// As [`line()`].
pub async fn line_async(reader: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "this is the limit")]
    reader.take(limit.saturating_add(1)).read_until(b'\n', &mut line).await?;
    finish_line(line, limit)
}

fn finish_line(mut line: Vec<u8>, limit: u64) -> io::Result<Option<String>> {
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > limit {
        return Err(too_large(limit));
    }
    let text = String::from_utf8(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_without_an_end_is_refused() {
        let mut reader = &b"one\n\ntwo"[..];
        let lines: Vec<_> = std::iter::from_fn(|| line(&mut reader, 3).unwrap()).collect();
        assert_eq!(lines, ["one", "", "two"]);
        let refused = line(&mut io::BufReader::new(io::repeat(b'a')), 1 << 16).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
        let mut endless = tokio::io::BufReader::new(tokio::io::repeat(b'a'));
        assert_eq!(line_async(&mut endless, 1 << 16).await.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(line_async(&mut &b"one\ntwo"[..], 3).await.unwrap().as_deref(), Some("one"));
    }
}
