//! PEM (RFC 7468) as Go's `encoding/pem` reads it, since that decides what upstream accepts: text around the blocks and blocks that are
//! malformed are passed over, and headers of RFC 1421 are seen.

use base64::Engine as _;

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemBlock<'a> {
    /// What it is, as `CERTIFICATE`.
    pub label: &'a str,
    /// Whether it has headers before its content.
    pub has_headers: bool,
    /// What it holds.
    pub contents: Vec<u8>,
}

/// The blocks of a text, in their order. Every line is looked at once.
pub fn pem_blocks(text: &str) -> impl Iterator<Item = PemBlock<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut open: Option<Open<'_>> = None;
        for line in lines.by_ref() {
            if let Some(label) = marker(line, "-----BEGIN ") {
                open = Some(Open { label, has_headers: false, body: String::new() });
            } else if let Some(label) = marker(line, "-----END ") {
                let block = open.take().filter(|block| block.label == label);
                if let Some(block) = block.and_then(Open::close) {
                    return Some(block);
                }
            } else if let Some(block) = &mut open {
                block.add(line);
            }
        }
        None
    })
}

/// A block whose end hasn't been read.
struct Open<'a> {
    label: &'a str,
    has_headers: bool,
    body: String,
}

impl<'a> Open<'a> {
    fn add(&mut self, line: &str) {
        if self.body.is_empty() && line.contains(':') {
            self.has_headers = true;
        } else {
            self.body.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
        }
    }

    fn close(self) -> Option<PemBlock<'a>> {
        let contents = base64::engine::general_purpose::STANDARD.decode(&self.body).ok()?;
        Some(PemBlock { label: self.label, has_headers: self.has_headers, contents })
    }
}

/// The label of a line that begins or ends a block.
fn marker<'a>(line: &'a str, begins: &str) -> Option<&'a str> {
    line.strip_prefix(begins)?.trim_end().strip_suffix("-----")
}

/// One block as text.
pub fn to_pem(label: &str, contents: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(contents);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_other_text_as_go_finds_them() {
        let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let found = |text: &str| -> Vec<(String, bool, Vec<u8>)> {
            pem_blocks(text).map(|b| (b.label.to_string(), b.has_headers, b.contents)).collect()
        };
        let a = || ("A".to_string(), false, b"abc".to_vec());
        assert_eq!(found(&block("A", "YWJj")), [a()]);
        assert_eq!(found(&format!("words\n{}more\n{}", block("A", "YW\nJj"), block("A", "YWJj\r"))), [a(), a()]);
        assert_eq!(found(&block("A", "Proc-Type: 4\n\nYWJj")), [("A".into(), true, b"abc".to_vec())]);
        assert_eq!(found(&format!("{}{}", block("A", "not base64!"), block("A", "YWJj"))), [a()]);
        assert_eq!(found("-----BEGIN A-----\nYWJj\n-----END B-----\n"), []);
        assert_eq!(found(&format!("-----BEGIN B-----\nYWJj\n{}", block("A", "YWJj"))), [a()]);
        assert_eq!(found("-----BEGIN A-----\nYWJj"), []);
    }

    #[test]
    fn what_is_written_is_read() {
        let contents: Vec<u8> = (0..=255).collect();
        let text = to_pem("X", &contents);
        assert!(text.lines().all(|line| line.len() <= 64), "{text}");
        assert_eq!(pem_blocks(&text).next().unwrap().contents, contents);
    }
}
