//! Syncs a table with the kernel. Parts that the kernel rejects don't hold up the others.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Backoff, ExponentialBackoff};
use tokio::time::Instant;

use super::{NftError, Table, check_script, exists, nft, write};

/// Limit of runs of `nft` in a search for rejected parts.
const MAX_TRIAL_RUNS: usize = 400;
/// Back-off of a rejected part.
const RETRY_BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(30), Duration::from_secs(3600));

/// An item that the kernel rejected.
#[derive(Debug, PartialEq, Eq)]
pub struct RejectedItem {
    /// Its index.
    pub number: usize,
    /// The error output of `nft`.
    pub why: String,
}

/// Finds out which of `count` items the kernel rejects, by bisection. `script` makes a full script of the items of these numbers. Each half is
/// tried together with the items that were accepted before, so that incompatible items are found as well.
///
/// # Errors
/// When `nft` can't be run, when it rejects even a script of no items, or when the search takes too many runs.
pub async fn find_rejected(count: usize, script: impl Fn(&[usize]) -> String) -> Result<Vec<RejectedItem>, NftError> {
    check_script(&script(&[])).await?;
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut open: Vec<_> = std::iter::once(0..count).collect();
    let mut questions = 0;
    while let Some(range) = open.pop().filter(|range| !range.is_empty()) {
        questions += 1;
        let trial: Vec<usize> = accepted.iter().copied().chain(range.clone()).collect();
        match check_script(&script(&trial)).await {
            Ok(()) => accepted = trial,
            Err(error @ NftError::Spawn(_)) => return Err(error),
            Err(error) if questions > MAX_TRIAL_RUNS => return Err(error),
            Err(error) if range.len() == 1 => {
                refused.push(RejectedItem { number: range.start, why: error.to_string() });
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

/// A part that the kernel rejected, so that it isn't written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedPart {
    /// Its name.
    pub part: Arc<str>,
    /// The error output of `nft`.
    pub why: String,
}

/// A rejected part that isn't written until it changes or its back-off has elapsed.
struct Withheld {
    part: Arc<Table>,
    again: Instant,
    backoff: Backoff,
}

/// The parts that are in the first alone, and those in the second alone; a changed part is in both. One merge pass, as both are sorted.
fn differing(before: &TableParts, after: &TableParts) -> (Vec<Arc<Table>>, Vec<Arc<Table>>) {
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

/// Syncs one table with the kernel.
pub struct TableSync {
    name: String,
    /// A chain of the base, whose absence shows that another program has removed the table (kube-proxy's canary chain).
    canary_chain: &'static str,
    written: Option<Table>,
    /// Base and parts as they were written, where the table is synced by parts.
    parts: Option<(Table, TableParts)>,
    /// How many parts have an element of a set of the base.
    counts: HashMap<(String, String), usize>,
    /// Rejected parts.
    withheld: HashMap<Arc<str>, Withheld>,
}

/// Parts of a table, by name. A part that is the same `Arc` as before is unchanged.
pub type TableParts = BTreeMap<Arc<str>, Arc<Table>>;

impl TableSync {
    /// For the table `name` (with its family), with a chain of its base as canary.
    pub fn new(name: &str, canary_chain: &'static str) -> Self {
        let name = name.into();
        TableSync { name, canary_chain, written: None, parts: None, counts: HashMap::new(), withheld: HashMap::new() }
    }

    /// Writes the difference to the table of the last sync.
    ///
    /// # Errors
    /// As [`write`](super::write()); the next sync writes the whole table.
    pub async fn sync(&mut self, wanted: Table) -> Result<(), NftError> {
        if self.written.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let outcome = write(&self.name, self.written.as_ref(), &wanted).await;
        // If this fails, the difference may not fit the kernel's state, so the next sync writes the whole table.
        self.written = outcome.is_ok().then_some(wanted);
        outcome
    }

    /// Syncs a table that consists of a base and parts; only changed parts are compared. A part has sets of its own, with a header, and
    /// elements of the base's sets, without a header. Parts that the kernel rejects are left out and returned; they are retried when they
    /// change, and after a back-off.
    ///
    /// # Errors
    /// As [`write`](super::write()); the next sync writes the whole table.
    pub async fn sync_parts(&mut self, base: Table, mut parts: TableParts) -> Result<Vec<RejectedPart>, NftError> {
        self.withhold(&mut parts);
        let was_whole = self.parts.is_none();
        match self.write_step(base, parts).await {
            Ok(()) => Ok(Vec::new()),
            Err((error @ NftError::Spawn(_), _)) => Err(error),
            Err((_, (base, parts))) if was_whole => self.write_without_refused(base, parts).await,
            // The difference may not fit the kernel's state: retry with the whole table. If that fails, a part is at fault.
            Err((_, (base, parts))) => match self.write_step(base, parts).await {
                Ok(()) => Ok(Vec::new()),
                Err((error @ NftError::Spawn(_), _)) => Err(error),
                Err((_, (base, parts))) => self.write_without_refused(base, parts).await,
            },
        }
    }

    /// Writes the difference to the last sync, or the whole table. If that fails, it returns the base and parts.
    async fn write_step(&mut self, base: Table, parts: TableParts) -> Result<(), (NftError, (Table, TableParts))> {
        let script = self.diff_script(base, parts);
        if script.is_empty() {
            return Ok(());
        }
        match nft(&["-f", "-"], &script).await {
            Ok(()) => Ok(()),
            Err(error) => Err((error, self.parts.take().unwrap_or_default())),
        }
    }

    async fn write_without_refused(
        &mut self,
        base: Table,
        mut parts: TableParts,
    ) -> Result<Vec<RejectedPart>, NftError> {
        let refused = {
            let all: Vec<&Arc<Table>> = parts.values().collect();
            let script = |numbers: &[usize]| {
                let mut whole = base.clone();
                numbers.iter().filter_map(|number| all.get(*number)).for_each(|part| whole.merge(part));
                whole.full_script(&self.name)
            };
            find_rejected(all.len(), script).await?
        };
        let names: Vec<Arc<str>> = parts.keys().cloned().collect();
        let mut rejected = Vec::new();
        for RejectedItem { number, why } in refused {
            let Some(name) = names.get(number) else { continue };
            let Some(part) = parts.remove(name) else { continue };
            let before = self.withheld.get(name).filter(|withheld| Arc::ptr_eq(&withheld.part, &part));
            let mut backoff = before.map_or(Backoff::new(RETRY_BACKOFF), |withheld| withheld.backoff);
            let again = Instant::now() + backoff.failed();
            self.withheld.insert(name.clone(), Withheld { part, again, backoff });
            rejected.push(RejectedPart { part: name.clone(), why });
        }
        self.write_step(base, parts).await.map_err(|(error, _)| error)?;
        Ok(rejected)
    }

    /// Removes the rejected parts whose back-off hasn't elapsed.
    fn withhold(&mut self, parts: &mut TableParts) {
        if self.withheld.is_empty() {
            return;
        }
        self.withheld.retain(|name, withheld| parts.get(name).is_some_and(|part| Arc::ptr_eq(part, &withheld.part)));
        let now = Instant::now();
        for (name, _) in self.withheld.iter().filter(|(_, withheld)| withheld.again > now) {
            parts.remove(name);
        }
    }

    /// The script from the parts of the last sync to these.
    pub fn diff_script(&mut self, base: Table, parts: TableParts) -> String {
        let Some((written, present)) = self.parts.take().filter(|(written, _)| *written == base) else {
            let mut whole = base.clone();
            self.counts.clear();
            for part in parts.values() {
                whole.merge(part);
                for (set, element) in part.shared() {
                    *self.counts.entry((set.clone(), element.clone())).or_default() += 1;
                }
            }
            self.parts = Some((base, parts));
            return whole.full_script(&self.name);
        };
        let (gone, come) = differing(&present, &parts);
        let (mut old, mut new) = (Table::default(), Table::default());
        gone.iter().for_each(|part| old.merge(part));
        come.iter().for_each(|part| new.merge(part));
        // An element that another part has, too, exists already, or stays.
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
        let script = new.diff_script(&old, &self.name);
        self.parts = Some((written, parts));
        script
    }

    /// Checks whether another program has removed the table; if so, the next sync writes it again.
    pub async fn check(&mut self) {
        let written = self.written.is_some() || self.parts.is_some();
        if written && !exists(&self.name, self.canary_chain).await {
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
            let mut table_sync = TableSync::new("ip t", "c");
            let mut parts: TableParts =
                (1..=7).map(|n| (format!("p{n}").into(), part(&format!("10.0.0.{n}")))).collect();
            assert_eq!(table_sync.sync_parts(base(), parts.clone()).await.unwrap(), []);
            // One can't be a script, the other isn't an address.
            parts.insert("p3".into(), part("}; add table ip pwned; #"));
            parts.insert("p5".into(), part("nobody"));
            parts.insert("p8".into(), part("10.0.0.8"));
            let rejected = table_sync.sync_parts(base(), parts.clone()).await.unwrap();
            let names: Vec<_> = rejected.iter().map(|one| one.part.as_ref()).collect();
            assert_eq!(names, ["p3", "p5"], "{rejected:?}");
            assert_eq!(elements().await, "124678");
            // They are told once, and what changes meanwhile is written.
            parts.insert("p9".into(), part("10.0.0.9"));
            assert_eq!(table_sync.sync_parts(base(), parts.clone()).await.unwrap(), []);
            assert_eq!(elements().await, "1246789");
            parts.insert("p3".into(), part("10.0.0.3"));
            assert_eq!(table_sync.sync_parts(base(), parts.clone()).await.unwrap(), []);
            assert_eq!(elements().await, "12346789");
            parts.remove("p5");
            assert_eq!(table_sync.sync_parts(base(), parts).await.unwrap(), []);
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
            let mut table_sync = TableSync::new("ip t", "c");
            let parts: TableParts = [("a".into(), network("10.0.0.0/8")), ("b".into(), network("10.1.0.0/16"))].into();
            let rejected = table_sync.sync_parts(base, parts).await.unwrap();
            assert_eq!(rejected.len(), 1);
            assert_eq!(rejected[0].part.as_ref(), "b");
        });
    }

    #[test]
    fn a_table_that_fails_as_a_whole_is_an_error() {
        in_a_network(|| async {
            let mut table_sync = TableSync::new("ip t", "c");
            let broken = Table::new("chain c { no such words }\n".into());
            assert!(matches!(table_sync.sync_parts(broken, TableParts::new()).await, Err(NftError::Refused(_))));
            assert_eq!(table_sync.sync_parts(base(), TableParts::new()).await.unwrap(), []);
        });
    }
}
