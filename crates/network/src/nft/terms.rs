//! What texts of rules may be made of. Rules are made of addresses, networks, numbers and words of our own, never of texts that
//! somebody wrote into an object: those are parsed to such a value first, or stand as a digest. Here is what is asked once more of
//! everything on its way into a script, should a planner ever forget it.

use std::borrow::Cow;
use std::fmt;

/// A protocol of services and policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// TCP is what is meant where none is said. None for a word that isn't a protocol's.
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

/// A port's number, if it is one.
pub fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// Longest name of a set or chain (`NFT_NAME_MAXLEN` of Linux, with its end).
const LONGEST_NAME: usize = 255;
/// No word of nftables: a script with it is refused as a whole, so that the part that it came from is found.
const UNSOUND: &str = "unsound!";

/// The name of a set or chain, if it is one.
pub(super) fn name(text: &str) -> &str {
    let is_name = !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !text.starts_with(|c: char| c.is_ascii_digit());
    if is_name { text } else { UNSOUND }
}

/// What a set has in it, or leads to: addresses, networks, numbers, protocols, verdicts.
pub(super) fn element(text: &str) -> &str {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b" .:/_-".contains(&b);
    if !text.is_empty() && text.bytes().all(fits) { text } else { UNSOUND }
}

/// The type and flags of a set.
pub(super) fn header(text: &str) -> &str {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b" .:;,_".contains(&b);
    if text.bytes().all(fits) { text } else { UNSOUND }
}

/// A rule: one line, which ends none of the blocks that it stands in and begins no other command.
pub(super) fn rule(text: &str) -> &str {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b" .:,/_-@!={}[]".contains(&b);
    let mut depth = 0i32;
    let closes = text.bytes().all(|b| {
        depth += i32::from(b == b'{') - i32::from(b == b'}');
        depth >= 0
    });
    if !text.is_empty() && text.bytes().all(fits) && closes && depth == 0 { text } else { UNSOUND }
}

/// A name made of others': readable where their letters allow, told apart by the digest that the caller adds.
pub fn readable(text: &str, most: usize) -> Cow<'_, str> {
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
            assert_eq!([name(text), element(text), rule(text)], [UNSOUND; 3], "{text:?}");
        }
        assert_eq!(header("type ipv4_addr; }"), UNSOUND);
        for text in [
            "accept",
            "ip saddr { 10.0.0.0/8, 10.1.0.0/16 } accept",
            "th dport map @tcp_0",
            "ct mark set ct mark or 0x4000",
        ] {
            assert_eq!(rule(text), text);
        }
        assert_eq!(rule("ip saddr { 10.0.0.0/8 } } { accept"), UNSOUND);
        assert_eq!(element("10.43.0.5 . tcp . 80"), "10.43.0.5 . tcp . 80");
        assert_eq!(element("[fd42::2]"), UNSOUND);
        assert_eq!((name("svc_a_80"), name("8a"), name("a-b")), ("svc_a_80", UNSOUND, UNSOUND));
    }

    #[test]
    fn names_of_others_are_made_readable_within_limits() {
        assert_eq!(readable("shop", 10), "shop");
        assert_eq!(readable("a-b.c};ü", 10), "a_b_c___");
        assert_eq!(readable("longer than that", 6), "longer");
    }
}
