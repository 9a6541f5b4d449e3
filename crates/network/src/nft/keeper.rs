//! Keeps a table in the kernel as it is wanted, and what can't be written from holding up the rest.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{NftError, Table, exists, nft, try_out, write};

/// How often `nft` is asked at most to find who is at fault.
const MOST_QUESTIONS: usize = 400;
/// A part that was refused is tried again after this time, and after twice as long each time, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Which of several things were refused, by their number, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub number: usize,
    pub why: String,
}

/// Finds out which of `count` things the kernel won't take. `script` writes those whose numbers it is given, from nothing.
/// Halves are tried on top of what was accepted before, so those that don't go together are found as well.
///
/// # Errors
/// When `nft` can't be run, when it refuses even a script of none of them, or when the search takes too long.
pub async fn find_refused(count: usize, script: impl Fn(&[usize]) -> String) -> Result<Vec<Refusal>, NftError> {
    try_out(&script(&[])).await?;
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut open: Vec<_> = std::iter::once(0..count).collect();
    let mut questions = 0;
    while let Some(range) = open.pop().filter(|range| !range.is_empty()) {
        questions += 1;
        let trial: Vec<usize> = accepted.iter().copied().chain(range.clone()).collect();
        match try_out(&script(&trial)).await {
            Ok(()) => accepted = trial,
            Err(error @ NftError::Spawn(_)) => return Err(error),
            Err(error) if questions > MOST_QUESTIONS => return Err(error),
            Err(error) if range.len() == 1 => {
                refused.push(Refusal { number: range.start, why: error.to_string() });
            }
            Err(_) => {
                let middle = range.start + range.len() / 2;
                open.push(middle..range.end);
                open.push(range.start..middle);
            }
        }
    }
    Ok(refused)
}

/// A part that was refused and isn't in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub part: Arc<str>,
    pub why: String,
}

/// A part that stays out until it is another one, or its time has come.
struct Aside {
    part: Arc<Table>,
    again: Instant,
    wait: Duration,
}

/// The parts that are in the first alone, and those in the second alone; one that is another than before is in both. One walk along
/// both, as they are in the same order.
fn differing(before: &Parts, after: &Parts) -> (Vec<Arc<Table>>, Vec<Arc<Table>>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return (gone, come),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) if Arc::ptr_eq(a, b) => Ordering::Equal,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let old = left.next_if(|_| order.is_le()).map(|(_, part)| part);
        let new = right.next_if(|_| order.is_ge()).map(|(_, part)| part);
        if old.zip(new).is_none_or(|(old, new)| !Arc::ptr_eq(old, new)) {
            gone.extend(old.cloned());
            come.extend(new.cloned());
        }
    }
}

/// Keeps a table in the kernel as it is wanted.
pub struct Keeper {
    name: String,
    /// A chain of the base, by which somebody else's removal of the table is noticed.
    witness: &'static str,
    written: Option<Table>,
    /// Base and parts, where the table is kept by parts.
    parts: Option<(Table, Parts)>,
    /// How many parts put an element into a set of the base.
    counts: HashMap<(String, String), usize>,
    /// Parts that were refused.
    aside: HashMap<Arc<str>, Aside>,
}

/// Parts of a table, by what they are for. Those that are the same `Arc` as before are taken to be unchanged.
pub type Parts = BTreeMap<Arc<str>, Arc<Table>>;

impl Keeper {
    pub fn new(name: &str, witness: &'static str) -> Self {
        let name = name.into();
        Keeper { name, witness, written: None, parts: None, counts: HashMap::new(), aside: HashMap::new() }
    }

    /// Writes what is new.
    ///
    /// # Errors
    /// Those of [`write`]; the next time everything is written.
    pub async fn keep(&mut self, wanted: Table) -> Result<(), NftError> {
        if self.written.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let outcome = write(&self.name, self.written.as_ref(), &wanted).await;
        // If the difference didn't fit what the kernel has, only all of it will do.
        self.written = outcome.is_ok().then_some(wanted);
        outcome
    }

    /// Writes what is new of a table that is put together from parts, which are only looked at where they are other ones
    /// than before. A part has sets of its own, with a header, and elements of the base's sets, without. Parts that the kernel
    /// refuses are left out, and told; they are tried again when they change, and from time to time.
    ///
    /// # Errors
    /// Those of [`write`](super::write()); the next time everything is written.
    pub async fn keep_parts(&mut self, base: Table, mut parts: Parts) -> Result<Vec<LeftOut>, NftError> {
        self.put_aside(&mut parts);
        let was_whole = self.parts.is_none();
        match self.write_step(base, parts).await {
            Ok(()) => Ok(Vec::new()),
            Err((error @ NftError::Spawn(_), _)) => Err(error),
            Err((_, (base, parts))) if was_whole => self.write_without_refused(base, parts).await,
            // The difference didn't fit what the kernel has; all of it will, unless a part is at fault.
            Err((_, (base, parts))) => match self.write_step(base, parts).await {
                Ok(()) => Ok(Vec::new()),
                Err((error @ NftError::Spawn(_), _)) => Err(error),
                Err((_, (base, parts))) => self.write_without_refused(base, parts).await,
            },
        }
    }

    /// Writes the difference to what is there, or everything. If that fails, what was wanted comes back.
    async fn write_step(&mut self, base: Table, parts: Parts) -> Result<(), (NftError, (Table, Parts))> {
        let script = self.step(base, parts);
        if script.is_empty() {
            return Ok(());
        }
        match nft(&["-f", "-"], &script).await {
            Ok(()) => Ok(()),
            Err(error) => Err((error, self.parts.take().unwrap_or_default())),
        }
    }

    async fn write_without_refused(&mut self, base: Table, mut parts: Parts) -> Result<Vec<LeftOut>, NftError> {
        let refused = {
            let all: Vec<&Arc<Table>> = parts.values().collect();
            let script = |numbers: &[usize]| {
                let mut whole = base.clone();
                numbers.iter().filter_map(|number| all.get(*number)).for_each(|part| whole.take_in(part));
                whole.full(&self.name)
            };
            find_refused(all.len(), script).await?
        };
        let names: Vec<Arc<str>> = parts.keys().cloned().collect();
        let mut left_out = Vec::new();
        for Refusal { number, why } in refused {
            let Some(name) = names.get(number) else { continue };
            let Some(part) = parts.remove(name) else { continue };
            let before = self.aside.get(name).filter(|aside| Arc::ptr_eq(&aside.part, &part));
            let wait = before.map_or(FIRST_WAIT, |aside| (aside.wait * 2).min(LONGEST_WAIT));
            self.aside.insert(name.clone(), Aside { part, again: Instant::now() + wait, wait });
            left_out.push(LeftOut { part: name.clone(), why });
        }
        self.write_step(base, parts).await.map_err(|(error, _)| error)?;
        Ok(left_out)
    }

    /// Takes out those parts that were refused and aren't to be tried yet.
    fn put_aside(&mut self, parts: &mut Parts) {
        if self.aside.is_empty() {
            return;
        }
        self.aside.retain(|name, aside| parts.get(name).is_some_and(|part| Arc::ptr_eq(part, &aside.part)));
        let now = Instant::now();
        for (name, _) in self.aside.iter().filter(|(_, aside)| aside.again > now) {
            parts.remove(name);
        }
    }

    /// The script that leads to the wanted parts from those of the last step.
    pub fn step(&mut self, base: Table, parts: Parts) -> String {
        let Some((written, present)) = self.parts.take().filter(|(written, _)| *written == base) else {
            let mut whole = base.clone();
            self.counts.clear();
            for part in parts.values() {
                whole.take_in(part);
                for (set, element) in part.shared() {
                    *self.counts.entry((set.clone(), element.clone())).or_default() += 1;
                }
            }
            self.parts = Some((base, parts));
            return whole.full(&self.name);
        };
        let (gone, come) = differing(&present, &parts);
        let (mut old, mut new) = (Table::default(), Table::default());
        gone.iter().for_each(|part| old.take_in(part));
        come.iter().for_each(|part| new.take_in(part));
        // What another part also has is there already, or stays.
        let keys = |parts: &[Arc<Table>]| -> Vec<(String, String)> {
            let of = |part: &Arc<Table>| part.shared().map(|(s, e)| (s.clone(), e.clone())).collect::<Vec<_>>();
            parts.iter().flat_map(of).collect()
        };
        let (lost, won) = (keys(&gone), keys(&come));
        for key in &lost {
            if let Some(count) = self.counts.get_mut(key) {
                *count -= 1;
            }
        }
        let counts = &self.counts;
        let elsewhere = |set: &str, element: &str| {
            counts.get(&(set.to_string(), element.to_string())).is_some_and(|count| *count > 0)
        };
        for table in [&mut old, &mut new] {
            for (name, set) in table.sets.iter_mut().filter(|(_, set)| set.header.is_empty()) {
                set.elements.retain(|element, _| !elsewhere(name, element));
            }
        }
        for key in won {
            *self.counts.entry(key).or_default() += 1;
        }
        for key in lost {
            if self.counts.get(&key) == Some(&0) {
                self.counts.remove(&key);
            }
        }
        let script = new.difference(&old, &self.name);
        self.parts = Some((written, parts));
        script
    }

    /// Looks whether somebody removed the table; if so, the next [`keep`](Self::keep) writes it anew.
    pub async fn check(&mut self) {
        let written = self.written.is_some() || self.parts.is_some();
        if written && !exists(&self.name, self.witness).await {
            tracing::warn!(table = self.name, "an nftables table was removed; writing it again");
            self.written = None;
            self.parts = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_a_network;

    fn part(element: &str) -> Arc<Table> {
        let mut table = Table::default();
        table.map("m", element, "accept");
        Arc::new(table)
    }

    fn base() -> Table {
        Table::new(
            "chain c {\n    type filter hook input priority filter; policy accept;\n    ip saddr vmap @m\n}\n".into(),
        )
        .with_set("m", "type ipv4_addr : verdict;")
    }

    async fn elements() -> String {
        let listed = tokio::process::Command::new("nft").args(["list", "map", "ip", "t", "m"]).output().await.unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let numbers: Vec<_> =
            (1..=9).filter(|n| text.contains(&format!("10.0.0.{n} "))).map(|n| n.to_string()).collect();
        numbers.concat()
    }

    #[test]
    fn a_part_that_is_refused_holds_up_no_other_and_comes_back_when_it_is_mended() {
        in_a_network(|| async {
            let mut keeper = Keeper::new("ip t", "c");
            let mut parts: Parts = (1..=7).map(|n| (format!("p{n}").into(), part(&format!("10.0.0.{n}")))).collect();
            assert_eq!(keeper.keep_parts(base(), parts.clone()).await.unwrap(), []);
            // One can't be a script, the other isn't an address.
            parts.insert("p3".into(), part("}; add table ip pwned; #"));
            parts.insert("p5".into(), part("nobody"));
            parts.insert("p8".into(), part("10.0.0.8"));
            let left_out = keeper.keep_parts(base(), parts.clone()).await.unwrap();
            let names: Vec<_> = left_out.iter().map(|one| one.part.as_ref()).collect();
            assert_eq!(names, ["p3", "p5"], "{left_out:?}");
            assert_eq!(elements().await, "124678");
            // They are told once, and what changes meanwhile is written.
            parts.insert("p9".into(), part("10.0.0.9"));
            assert_eq!(keeper.keep_parts(base(), parts.clone()).await.unwrap(), []);
            assert_eq!(elements().await, "1246789");
            parts.insert("p3".into(), part("10.0.0.3"));
            assert_eq!(keeper.keep_parts(base(), parts.clone()).await.unwrap(), []);
            assert_eq!(elements().await, "12346789");
            parts.remove("p5");
            assert_eq!(keeper.keep_parts(base(), parts).await.unwrap(), []);
        });
    }

    #[test]
    fn one_of_two_that_do_not_go_together_is_written() {
        in_a_network(|| async {
            let network = |text: &str| {
                let mut table = Table::default();
                table.add("nets", text);
                Arc::new(table)
            };
            let base = base().with_set("nets", "type ipv4_addr; flags interval;");
            let mut keeper = Keeper::new("ip t", "c");
            let parts: Parts = [("a".into(), network("10.0.0.0/8")), ("b".into(), network("10.1.0.0/16"))].into();
            let left_out = keeper.keep_parts(base, parts).await.unwrap();
            assert_eq!(left_out.len(), 1);
            assert_eq!(left_out[0].part.as_ref(), "b");
        });
    }

    #[test]
    fn a_table_that_fails_as_a_whole_is_an_error() {
        in_a_network(|| async {
            let mut keeper = Keeper::new("ip t", "c");
            let broken = Table::new("chain c { no such words }\n".into());
            assert!(matches!(keeper.keep_parts(broken, Parts::new()).await, Err(NftError::Refused(_))));
            assert_eq!(keeper.keep_parts(base(), Parts::new()).await.unwrap(), []);
        });
    }
}
