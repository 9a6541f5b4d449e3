//! Questions to the name servers of `/etc/resolv.conf` (RFC 1035), by UDP. The C library's resolver would load modules that a static program hasn't.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::error::Error;

pub const A: u16 = 1;
pub const AAAA: u16 = 28;
const PTR: u16 = 12;
const NAME_ERROR: u8 = 3;

const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 2;
/// Name servers and search domains that count, as in the C library.
const MAX_SERVERS: usize = 3;
const MAX_DOMAINS: usize = 32;
/// Answers that are read of one message.
const MAX_ANSWERS: usize = 100;
/// A name's length, and how often it may point to another place (RFC 1035 section 2.3.4; each pointer leads to at least one label).
const MAX_NAME_BYTES: usize = 255;
const MAX_POINTERS: usize = 32;

/// What `/etc/resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    ndots: usize,
}

impl Resolver {
    pub fn of_pod() -> Result<Self, Error> {
        let text = crate::input::small_file("/etc/resolv.conf").map_err(Error::on("/etc/resolv.conf"))?;
        Ok(Self::read(&text))
    }

    pub fn read(text: &str) -> Self {
        let mut resolver = Resolver { ndots: 1, ..Resolver::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search") => resolver.search = words.take(MAX_DOMAINS).map(String::from).collect(),
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    resolver.ndots = ndots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver.servers.truncate(MAX_SERVERS);
        resolver
    }

    /// The full names that a name may stand for, in the order in which they are asked for (resolv.conf(5)).
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.into()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let own = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(own, name.into());
        names
    }

    /// The addresses of a name, and the full name that has them.
    pub fn addresses(&self, name: &str) -> Result<(String, Vec<IpAddr>), Error> {
        if let Ok(address) = name.parse() {
            return Ok((name.into(), vec![address]));
        }
        for full in self.candidates(name) {
            let mut found = Vec::new();
            for kind in [A, AAAA] {
                found.extend(self.ask(&full, kind)?.into_iter().filter_map(|answer| match answer {
                    Answer::Address(address) => Some(address),
                    Answer::Name(_) => None,
                }));
            }
            if !found.is_empty() {
                return Ok((full, found));
            }
        }
        Err(Error::answer(format!("no name server knows {name}")))
    }

    /// The names of an address.
    pub fn names(&self, address: IpAddr) -> Result<Vec<String>, Error> {
        let answers = self.ask(&reverse_name(address), PTR)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| if let Answer::Name(name) = answer { Some(name) } else { None })
            .collect())
    }

    fn ask(&self, name: &str, kind: u16) -> Result<Vec<Answer>, Error> {
        let id = random();
        let question = question(id, name, kind)?;
        let mut why = Error::answer("/etc/resolv.conf names no name server");
        for server in self.servers.iter().cycle().take(self.servers.len().saturating_mul(TRIES)) {
            match exchange(*server, &question).map_err(Error::from).and_then(|answer| read(&answer, &question, kind)) {
                Ok(answers) => return Ok(answers),
                Err(error) => why = Error::answer(format!("the name server {server}: {error}")),
            }
        }
        Err(why)
    }
}

/// Not to be guessed by who would like to answer in the server's place.
fn random() -> u16 {
    let hash = std::collections::hash_map::RandomState::new().build_hasher().finish();
    u16::try_from(hash & 0xffff).unwrap_or_default()
}

fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let digits = v6.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            format!("{}ip6.arpa", digits.collect::<String>())
        }
    }
}

fn question(id: u16, name: &str, kind: u16) -> Result<Vec<u8>, Error> {
    // One question, recursion wanted.
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        message.push(length.ok_or_else(|| Error::arguments(format!("{name:?} is no name")))?);
        message.extend(label.as_bytes());
    }
    if name.len() > MAX_NAME_BYTES - 2 {
        return Err(Error::arguments(format!("{name:?} is too long for a name")));
    }
    message.push(0);
    message.extend([kind.to_be_bytes(), [0, 1]].concat());
    Ok(message)
}

fn exchange(server: IpAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Connected: the kernel drops what comes from elsewhere.
    socket.connect(SocketAddr::new(server, 53))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Address(IpAddr),
    Name(String),
}

/// The answers of a kind in a message. A name that doesn't exist has none.
fn read(message: &[u8], question: &[u8], kind: u16) -> Result<Vec<Answer>, Error> {
    let short = || Error::answer("its answer is cut off");
    let header = message.get(..12).ok_or_else(short)?;
    if header.get(..2) != question.get(..2)
        || header[2] & 0x80 == 0
        || message.get(12..question.len()) != question.get(12..)
    {
        return Err(Error::answer("its answer is to another question"));
    }
    match header[3] & 0x0f {
        0 => {}
        NAME_ERROR => return Ok(Vec::new()),
        code => return Err(Error::answer(format!("it failed with the code {code}"))),
    }
    let count = usize::from(u16::from_be_bytes([header[6], header[7]])).min(MAX_ANSWERS);
    let (mut at, mut answers) = (question.len(), Vec::new());
    for _ in 0..count {
        let (_, after) = name_at(message, at).ok_or_else(short)?;
        let fixed = message.get(after..after.saturating_add(10)).ok_or_else(short)?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let begin = after.saturating_add(10);
        at = begin.saturating_add(length);
        let data = message.get(begin..at).ok_or_else(short)?;
        if u16::from_be_bytes([fixed[0], fixed[1]]) != kind {
            continue;
        }
        answers.push(match kind {
            A => Answer::Address(IpAddr::from(<[u8; 4]>::try_from(data).map_err(|_| short())?)),
            AAAA => Answer::Address(IpAddr::from(<[u8; 16]>::try_from(data).map_err(|_| short())?)),
            _ => Answer::Name(name_at(message, begin).ok_or_else(short)?.0),
        });
    }
    Ok(answers)
}

/// The name at a place, and the place after it.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut after, mut pointers) = (String::new(), None, 0);
    loop {
        let length = usize::from(*message.get(at)?);
        if length >= 0xc0 {
            pointers += 1;
            if pointers > MAX_POINTERS {
                return None;
            }
            after = after.or(at.checked_add(2));
            at = (length & 0x3f) << 8 | usize::from(*message.get(at.checked_add(1)?)?);
            continue;
        }
        let begin = at.checked_add(1)?;
        at = begin.checked_add(length)?;
        if length == 0 {
            return Some((name, after.unwrap_or(at)));
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(message.get(begin..at)?));
        if name.len() > MAX_NAME_BYTES {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_as_resolv_conf_says() {
        let text = "search default.svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:2\n";
        let resolver = Resolver::read(text);
        assert_eq!(resolver.servers, ["10.43.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolver.candidates("web"), ["web.default.svc.cluster.local", "web.cluster.local", "web"]);
        assert_eq!(resolver.candidates("a.b.c")[0], "a.b.c");
        assert_eq!(resolver.candidates("web."), ["web"]);
        assert_eq!(reverse_name("10.42.0.5".parse().unwrap()), "5.0.42.10.in-addr.arpa");
        assert!(reverse_name("2001:db8::1".parse().unwrap()).starts_with("1.0.0.0."));
        assert!(question(1, "a..b", A).is_err() && question(1, &"a".repeat(64), A).is_err());
    }

    #[test]
    fn answers_are_read_and_hostile_ones_refused() {
        let asked = question(7, "web", A).unwrap();
        let mut answer = asked.clone();
        (answer[2], answer[7]) = (0x81, 2);
        // An alias first, whose name points into the question.
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 42, 0, 5]);
        assert_eq!(read(&answer, &asked, A).unwrap(), [Answer::Address("10.42.0.5".parse().unwrap())]);
        for end in 0..answer.len() {
            assert!(read(&answer[..end], &asked, A).is_err(), "{end}");
        }
        assert!(read(&answer, &question(8, "web", A).unwrap(), A).is_err(), "another question");
        let mut missing = answer.clone();
        missing[3] = NAME_ERROR;
        assert_eq!(read(&missing, &asked, A).unwrap(), []);
        // A name that points to itself.
        let mut circle = asked.clone();
        (circle[2], circle[7]) = (0x81, 1);
        let here = u8::try_from(circle.len()).unwrap();
        circle.extend([0xc0, here, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 42, 0, 5]);
        assert!(read(&circle, &asked, A).is_err());
    }
}
