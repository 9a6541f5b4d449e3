//! Links of what is served through a proxy: a path that a page or a redirect names is one of the pod, and has to become one below the path by
//! which the pod is asked (upstream's `k8s.io/apimachinery/pkg/util/proxy`, `Transport`).

use std::borrow::Cow;
use std::mem::take;

/// The most bytes of one tag that are looked at; a longer one stays as it is.
const MAX_TAG_BYTES: usize = 16 << 10;

/// Which attributes of which elements are links.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content has no tags.
const RAW: &[&str] = &["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// Where a proxied target is, seen from the client.
#[derive(Debug, Clone)]
pub struct Place {
    /// The path of the proxy.
    pub prefix: String,
    /// How the target is called, by this server and by the client: `host:port`.
    pub hosts: Vec<String>,
}

impl Place {
    /// A link as the client has to see it, unless it stays as it is: relative links do, and those to others.
    pub fn moved(&self, link: &str) -> Option<String> {
        let after_scheme = ["http:", "https:"].iter().find_map(|scheme| {
            let begins = link.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
            begins.then(|| &link[scheme.len()..])
        });
        let path = match after_scheme.unwrap_or(link).strip_prefix("//") {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                self.hosts.iter().any(|own| own == host).then_some(path)?
            }
            None if after_scheme.is_some() => return None,
            None => link,
        };
        let is_absolute = path.starts_with('/') && !link.contains(|c: char| c.is_ascii_control());
        let is_below =
            path.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let prefix = if is_below { "" } else { self.prefix.trim_end_matches('/') };
        is_absolute.then(|| format!("{prefix}{path}"))
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    /// After `<`, as long as it isn't known what it begins.
    Open,
    /// In a start tag; whether its next value may be quoted, and the quote that it is in.
    Tag { is_value: bool, quote: Option<u8> },
    /// In an end tag or a declaration.
    Markup,
    /// How many dashes were the last.
    Comment(u8),
    /// In an element without tags: its end, and how much of that has been seen.
    Raw { end: String, seen: usize },
}

/// Moves the links of an HTML page while it passes. What it holds back is no more than one tag.
#[derive(Debug)]
pub struct Page {
    place: Place,
    state: State,
    held: Vec<u8>,
}

impl Page {
    /// A page of a target.
    pub fn new(place: Place) -> Self {
        Page { place, state: State::default(), held: Vec::new() }
    }

    /// What may be sent on once this has come.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + self.held.len());
        for byte in bytes {
            self.state = self.take(*byte, &mut out);
        }
        out
    }

    /// What was held back when the page ended.
    pub fn end(&mut self) -> Vec<u8> {
        take(&mut self.held)
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) -> State {
        let state = take(&mut self.state);
        let is_held =
            matches!(state, State::Open | State::Tag { .. }) || (byte == b'<' && matches!(state, State::Text));
        if !is_held {
            out.push(byte);
        }
        match state {
            State::Text if byte == b'<' => {
                self.held.push(byte);
                State::Open
            }
            State::Text => State::Text,
            State::Open => self.open(byte, out),
            State::Tag { is_value, quote } => self.in_tag(byte, is_value, quote, out),
            State::Markup => {
                if byte == b'>' {
                    State::Text
                } else {
                    State::Markup
                }
            }
            State::Comment(dashes) => match byte {
                b'-' => State::Comment((dashes + 1).min(2)),
                b'>' if dashes == 2 => State::Text,
                _ => State::Comment(0),
            },
            State::Raw { end, seen } => {
                let seen = match end.as_bytes().get(seen) {
                    Some(next) if byte.eq_ignore_ascii_case(next) => seen + 1,
                    _ => usize::from(byte == b'<'),
                };
                if seen == end.len() { State::Markup } else { State::Raw { end, seen } }
            }
        }
    }

    fn open(&mut self, byte: u8, out: &mut Vec<u8>) -> State {
        self.held.push(byte);
        let state = match self.held.as_slice() {
            [_, first] if first.is_ascii_alphabetic() => return State::Tag { is_value: false, quote: None },
            [_, b'!'] | [_, b'!', b'-'] => return State::Open,
            [_, b'!', b'-', b'-'] => State::Comment(0),
            [_, b'!', .., b'>'] | [_, b'>'] => State::Text,
            [_, b'!', ..] | [_, b'/' | b'?'] => State::Markup,
            [_, b'<'] => {
                out.push(b'<');
                self.held.truncate(1);
                return State::Open;
            }
            _ => State::Text,
        };
        out.append(&mut self.held);
        state
    }

    fn in_tag(&mut self, byte: u8, is_value: bool, quote: Option<u8>, out: &mut Vec<u8>) -> State {
        self.held.push(byte);
        let is_over = quote.is_none() && byte == b'>';
        if is_over {
            let tag = Tag::read(&self.held);
            out.extend_from_slice(&tag.moved(&self.place));
            let raw = RAW.iter().find(|name| tag.name == **name && !self.held.ends_with(b"/>"));
            let state = raw.map_or(State::Text, |name| State::Raw { end: format!("</{name}"), seen: 0 });
            self.held.clear();
            return state;
        }
        if self.held.len() > MAX_TAG_BYTES {
            out.append(&mut self.held);
            return State::Text;
        }
        let quote = match quote {
            Some(open) => Some(open).filter(|open| *open != byte),
            None => Some(byte).filter(|byte| is_value && matches!(byte, b'"' | b'\'')),
        };
        let is_value = quote.is_none() && (byte == b'=' || (is_value && byte.is_ascii_whitespace()));
        State::Tag { is_value, quote }
    }
}

/// A start tag: its name, and where its attributes' values are.
struct Tag<'a> {
    text: &'a [u8],
    name: String,
    /// Name, place of the value with its quotes, and whether it has any.
    values: Vec<(String, std::ops::Range<usize>, bool)>,
}

impl<'a> Tag<'a> {
    fn read(text: &'a [u8]) -> Self {
        let until = |from: usize, ends: &dyn Fn(u8) -> bool| {
            let rest = text.get(from..).unwrap_or_default();
            from + rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len())
        };
        let lower = |from: usize, to: usize| String::from_utf8_lossy(&text[from..to]).to_ascii_lowercase();
        let after_name = until(1, &|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>'));
        let mut tag = Tag { text, name: lower(1, after_name), values: Vec::new() };
        let mut at = after_name;
        while at < text.len() {
            let start = until(at, &|b| !b.is_ascii_whitespace() && b != b'/');
            let end = until(start, &|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>' | b'='));
            let equals = until(end, &|b| !b.is_ascii_whitespace());
            // Whatever it is, it is passed.
            at = end.max(start + 1);
            if text.get(equals) != Some(&b'=') {
                continue;
            }
            let value = until(equals + 1, &|b| !b.is_ascii_whitespace());
            let quote = text.get(value).copied().filter(|b| matches!(b, b'"' | b'\''));
            let value_end = match quote {
                Some(quote) => until(value + 1, &|b| b == quote) + 1,
                None => until(value, &|b| b.is_ascii_whitespace() || b == b'>'),
            };
            at = value_end.min(text.len());
            tag.values.push((lower(start, end), value..at, quote.is_some()));
        }
        tag
    }

    fn moved(&self, place: &Place) -> Cow<'a, [u8]> {
        let links = LINKS.iter().find(|(name, _)| self.name == *name).map_or(&[][..], |(_, links)| *links);
        let mut moved = Vec::new();
        let mut done = 0;
        for (_, range, is_quoted) in self.values.iter().filter(|(name, ..)| links.contains(&name.as_str())) {
            let inner = if *is_quoted { range.start + 1..range.end.saturating_sub(1) } else { range.clone() };
            let value = self.text.get(inner).and_then(|value| std::str::from_utf8(value).ok());
            let Some(link) = value.and_then(|value| place.moved(value)) else { continue };
            moved.extend_from_slice(&self.text[done..range.start]);
            // What stood there is escaped already, as far as its quotes ask; the rest is harmless to escape once more.
            let link = link.replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;");
            moved.extend_from_slice(format!("\"{link}\"").as_bytes());
            done = range.end;
        }
        if done == 0 {
            return self.text.into();
        }
        moved.extend_from_slice(&self.text[done..]);
        moved.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { prefix: "/api/p/proxy".into(), hosts: vec!["10.0.0.1:80".into(), "server:6443".into()] }
    }

    #[test]
    fn links_to_the_target_are_moved_and_others_stay() {
        for (link, moved) in [
            ("/", Some("/api/p/proxy/")),
            ("/a/b?c=/d#e", Some("/api/p/proxy/a/b?c=/d#e")),
            ("http://10.0.0.1:80/a", Some("/api/p/proxy/a")),
            ("HTTPS://server:6443/a", Some("/api/p/proxy/a")),
            ("//10.0.0.1:80/a", Some("/api/p/proxy/a")),
            // It knows its prefix itself.
            ("/api/p/proxy/a", Some("/api/p/proxy/a")),
            ("http://10.0.0.1:80/api/p/proxy", Some("/api/p/proxy")),
            ("/api/p/proxyless", Some("/api/p/proxy/api/p/proxyless")),
            ("http://10.0.0.1:80", None),
            ("http://10.0.0.1:81/a", None),
            ("//example.com/a", None),
            ("https://example.com/", None),
            ("http:/a", None),
            ("a/b", None),
            ("?q", None),
            ("#top", None),
            ("mailto:a@b", None),
            ("", None),
            ("/a\r\nb", None),
        ] {
            assert_eq!(place().moved(link).as_deref(), moved, "{link}");
        }
    }

    /// The page as it is however it comes.
    fn passed(page: &str) -> String {
        let whole = {
            let mut passing = Page::new(place());
            [passing.pass(page.as_bytes()), passing.end()].concat()
        };
        for size in [1, 2, 3, 7] {
            let mut passing = Page::new(place());
            let mut out: Vec<u8> = page.as_bytes().chunks(size).flat_map(|part| passing.pass(part)).collect();
            out.extend(passing.end());
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&whole), "in pieces of {size}");
        }
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn links_of_pages_are_moved() {
        let p = "/api/p/proxy";
        for (page, wanted) in [
            (r#"<a href="/x">test</a>"#, format!(r#"<a href="{p}/x">test</a>"#)),
            ("<A class=k HREF = '/x' id=i>", format!(r#"<A class=k HREF = "{p}/x" id=i>"#)),
            ("<img src=/x/y.png><br/>", format!(r#"<img src="{p}/x/y.png"><br/>"#)),
            (r#"<video poster="/p" src="/s">"#, format!(r#"<video poster="{p}/p" src="{p}/s">"#)),
            (r#"<form action="/go?a=1&amp;b=2">"#, format!(r#"<form action="{p}/go?a=1&amp;b=2">"#)),
            (
                r#"<script src="/s.js">x = '<a href="/no">';</script><a href="/x">"#,
                format!(r#"<script src="{p}/s.js">x = '<a href="/no">';</script><a href="{p}/x">"#),
            ),
            (
                r#"<base href="/"/><link rel=x href="/c.css" />"#,
                format!(r#"<base href="{p}/"/><link rel=x href="{p}/c.css" />"#),
            ),
            (r#"a < b <<a href="/x">"#, format!(r#"a < b <<a href="{p}/x">"#)),
            (r#"<a title="a > b" href="/x">"#, format!(r#"<a title="a > b" href="{p}/x">"#)),
            (r#"<a href='/"x"'>"#, format!(r#"<a href="{p}/&#34;x&#34;">"#)),
        ] {
            assert_eq!(passed(page), wanted, "{page}");
        }
    }

    #[test]
    fn all_else_of_pages_stays_to_the_byte() {
        let long = format!("<a {}href=\"/x\">", "x ".repeat(MAX_TAG_BYTES));
        for page in [
            "<!DOCTYPE html><html><body>text</body></html>",
            r#"<!-- <a href="/x"> -- > --><p>"#,
            r#"<a href="relative">, <a href="//example.com/">, <p href="/x">, <a name="/x">, </a href="/x">"#,
            "<style>a > b {} <a href='/x'></STYLE >",
            "<a href=\"/unfinished",
            "<a href=",
            "<>< ><3 <!><!-><?xml?>",
            "<a href=\"\u{e4}/x\" =/x = '/x'/ />",
            long.as_str(),
            "<",
            "",
        ] {
            assert_eq!(passed(page), page);
        }
        let mut passing = Page::new(place());
        let bytes = b"<a href=\"/\xff\">\xfe";
        assert_eq!([passing.pass(bytes), passing.end()].concat(), bytes);
    }
}
