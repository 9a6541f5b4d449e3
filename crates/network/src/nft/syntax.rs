//! Validation of the text of rules. Planners build rules of addresses, networks, numbers and keywords, never of the text of objects, which is
//! parsed into such a value or replaced by a digest first. As a second line of defence, everything that goes into a script is validated here.

use std::borrow::Cow;
use std::fmt;

/// A protocol of services and policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Parses a protocol; TCP is the default. `None` for an unknown one.
    pub fn of(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// A valid port number.
pub fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// Limit of names of sets and chains (`NFT_NAME_MAXLEN` of Linux, without the terminating zero).
const MAX_NAME_BYTES: usize = 255;
/// Not a token of nftables: `nft` rejects a script with it, so that the part that it came from is found.
const INVALID_TOKEN: &str = "unsound!";

/// A valid name of a set or chain, else [`INVALID_TOKEN`].
pub(super) fn name(text: &str) -> &str {
    let is_name = !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !text.starts_with(|c: char| c.is_ascii_digit());
    if is_name { text } else { INVALID_TOKEN }
}

/// A valid element or value of a set or map (addresses, networks, numbers, protocols, verdicts), else [`INVALID_TOKEN`].
pub(super) fn element(text: &str) -> &str {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b" .:/_-".contains(&b);
    if !text.is_empty() && text.bytes().all(fits) { text } else { INVALID_TOKEN }
}

/// A valid declaration of a set's type and flags, else [`INVALID_TOKEN`].
pub(super) fn header(text: &str) -> &str {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b" .:;,_".contains(&b);
    if text.bytes().all(fits) { text } else { INVALID_TOKEN }
}

/// A valid rule, else [`INVALID_TOKEN`]: one line that doesn't close its block or begin another command.
pub(super) fn rule(text: &str) -> &str {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b" .:,/_-@!={}[]".contains(&b);
    let mut depth = 0i32;
    let closes = text.bytes().all(|b| {
        depth += i32::from(b == b'{') - i32::from(b == b'}');
        depth >= 0
    });
    if !text.is_empty() && text.bytes().all(fits) && closes && depth == 0 { text } else { INVALID_TOKEN }
}

/// The letters and digits of an object's name, cut to a length. The caller adds a digest to make it unique.
pub fn sanitize_name(text: &str, most: usize) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.len() <= most && text.chars().all(fits) {
        return Cow::Borrowed(text);
    }
    text.chars().take(most).map(|c| if fits(c) { c } else { '_' }).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_begin_another_command_is_refused() {
        for text in
            ["}; add table ip x; #", "a\nadd table ip x", "1.1.1.1 }", "a;b", "\"x\"", "a#", "$x", "`x`", "ä", ""]
        {
            assert_eq!([name(text), element(text), rule(text)], [INVALID_TOKEN; 3], "{text:?}");
        }
        assert_eq!(header("type ipv4_addr; }"), INVALID_TOKEN);
        for text in [
            "accept",
            "ip saddr { 10.0.0.0/8, 10.1.0.0/16 } accept",
            "th dport map @tcp_0",
            "ct mark set ct mark or 0x4000",
        ] {
            assert_eq!(rule(text), text);
        }
        assert_eq!(rule("ip saddr { 10.0.0.0/8 } } { accept"), INVALID_TOKEN);
        assert_eq!(element("10.43.0.5 . tcp . 80"), "10.43.0.5 . tcp . 80");
        assert_eq!(element("[fd42::2]"), INVALID_TOKEN);
        assert_eq!((name("svc_a_80"), name("8a"), name("a-b")), ("svc_a_80", INVALID_TOKEN, INVALID_TOKEN));
    }

    #[test]
    fn names_of_others_are_made_readable_within_limits() {
        assert_eq!(sanitize_name("shop", 10), "shop");
        assert_eq!(sanitize_name("a-b.c};ü", 10), "a_b_c___");
        assert_eq!(sanitize_name("longer than that", 6), "longer");
    }
}
