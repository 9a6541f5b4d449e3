//! Files and other readers that are read to their end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// When it can't be read, or is larger (`FileTooLarge`).
pub fn bytes(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    bytes_of(File::open(path)?, limit)
}

/// Reads a file of at most `limit` bytes in UTF-8.
///
/// # Errors
/// When it can't be read, is larger (`FileTooLarge`), or isn't UTF-8.
pub fn text(path: impl AsRef<Path>, limit: u64) -> io::Result<String> {
    text_of(File::open(path)?, limit)
}

/// Reads `reader` to its end, which must come within `limit` bytes.
///
/// # Errors
/// Errors of the reader, and `FileTooLarge` when it has more.
pub fn bytes_of(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let content = prefix(reader, limit.saturating_add(1))?;
    if content.len() as u64 > limit { Err(too_large(limit)) } else { Ok(content) }
}

/// Reads `reader` to its end, which must come within `limit` bytes of UTF-8.
///
/// # Errors
/// Errors of the reader, `FileTooLarge` when it has more, and `InvalidData` when it isn't UTF-8.
pub fn text_of(reader: impl Read, limit: u64) -> io::Result<String> {
    String::from_utf8(bytes_of(reader, limit)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads at most the first `limit` bytes of `reader`.
///
/// # Errors
/// Errors of the reader.
pub fn prefix(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "this is the limit")]
    reader.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

pub(crate) fn too_large(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_is_refused_and_never_read_to_its_end() {
        assert_eq!(bytes_of(&b"1234"[..], 4).unwrap(), b"1234");
        assert_eq!(bytes_of(&b"12345"[..], 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // An endless one.
        assert_eq!(text_of(io::repeat(b'a'), 1 << 20).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(bytes("/dev/zero", 10).unwrap_err().to_string(), "it is larger than 10 bytes");
        assert_eq!(prefix(io::repeat(b'a'), 3).unwrap(), b"aaa");
        assert_eq!(text_of(&b"\xff"[..], 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(bytes_of(&b"x"[..], u64::MAX).unwrap(), b"x");
    }
}
