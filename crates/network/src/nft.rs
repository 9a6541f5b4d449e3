//! Tables of nftables as values (a name here is that of a family and a table, `ip timonel`): what is wanted is compared with what was written, and only the difference goes to the
//! kernel, in one transaction of `nft`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::Arc;

use apimachinery::Family;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The words of rules that differ between the families.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// Of the family's tables and headers.
    pub ip: &'static str,
    /// The type of an address.
    pub address: &'static str,
    pub loopback: &'static str,
    /// Addresses of groups.
    pub multicast: &'static str,
    /// The message to who can't be served.
    pub unreachable: &'static str,
}

impl Words {
    pub fn of(family: Family) -> Self {
        match family {
            Family::V4 => Words {
                ip: "ip",
                address: "ipv4_addr",
                loopback: "127.0.0.0/8",
                multicast: "224.0.0.0/4",
                unreachable: "icmp type port-unreachable",
            },
            Family::V6 => Words {
                ip: "ip6",
                address: "ipv6_addr",
                loopback: "::1",
                multicast: "ff00::/8",
                unreachable: "icmpv6 type port-unreachable",
            },
        }
    }

    /// The full name of a table of this family.
    pub fn table(&self, name: &str) -> String {
        format!("{} {name}", self.ip)
    }
}

/// Keeps apart what names of chains, which have their limits, can't say in full (FNV-1a).
pub fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// An address, as far as names of chains and sets may have it.
pub fn label(address: &str) -> String {
    address.replace(['.', ':'], "_")
}

/// A set or a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// What stands between its braces: `type ipv4_addr : verdict;`.
    pub header: String,
    /// Elements; those of a map have a value.
    pub elements: BTreeMap<String, Option<String>>,
}

impl Set {
    fn word(&self) -> &'static str {
        if self.header.contains(" : ") { "map" } else { "set" }
    }
}

/// The content of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Chains that are always there, hooks among them; they may use sets and chains by name.
    pub base: String,
    pub sets: BTreeMap<String, Set>,
    /// Further chains: name → rules.
    pub chains: BTreeMap<String, Vec<String>>,
}

impl Table {
    pub fn new(base: String) -> Self {
        Table { base, ..Table::default() }
    }

    /// Declares a set that the base uses.
    #[must_use]
    pub fn with_set(mut self, name: &str, header: &str) -> Self {
        self.sets.insert(name.into(), Set { header: header.into(), elements: BTreeMap::new() });
        self
    }

    pub fn add(&mut self, set: &str, element: impl Into<String>) {
        self.sets.entry(set.into()).or_default().elements.insert(element.into(), None);
    }

    pub fn map(&mut self, map: &str, key: impl Into<String>, value: impl Into<String>) {
        self.sets.entry(map.into()).or_default().elements.insert(key.into(), Some(value.into()));
    }

    pub fn has(&self, set: &str, element: &str) -> bool {
        self.sets.get(set).is_some_and(|s| s.elements.contains_key(element))
    }

    /// Takes in what another table has. Its base stays out.
    fn take_in(&mut self, part: &Table) {
        for (name, set) in &part.sets {
            let into = self.sets.entry(name.clone()).or_default();
            if into.header.is_empty() {
                into.header = set.header.clone();
            }
            into.elements.extend(set.elements.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        self.chains.extend(part.chains.iter().map(|(k, v)| (k.clone(), v.clone())));
    }

    /// The elements that it puts into sets of the base, which other parts may put there too.
    fn shared(&self) -> impl Iterator<Item = (&String, &String)> {
        let of_base = self.sets.iter().filter(|(_, set)| set.header.is_empty());
        of_base.flat_map(|(name, set)| set.elements.keys().map(move |element| (name, element)))
    }

    /// A script that writes the whole table.
    pub fn full(&self, name: &str) -> String {
        let mut script = format!("add table {name}\ndelete table {name}\nadd table {name}\n");
        // What the base uses must be there before it.
        for (set, Set { header, .. }) in &self.sets {
            let _ = writeln!(script, "add {} {name} {set} {{ {header} }}", self.sets[set].word());
        }
        let _ = writeln!(script, "table {name} {{\n{}}}", self.base);
        let empty = |of: &Set| Set { header: of.header.clone(), elements: BTreeMap::new() };
        let sets = self.sets.iter().map(|(set, of)| (set.clone(), empty(of))).collect();
        let bare = Table { base: self.base.clone(), sets, chains: BTreeMap::new() };
        script.push_str(&self.difference(&bare, name));
        script
    }

    /// A script that leads from `present` to this. Empty if there is no difference.
    pub fn difference(&self, present: &Table, name: &str) -> String {
        let changed_header = |(set, of): (&String, &Set)| present.sets.get(set).is_some_and(|p| p.header != of.header);
        if self.base != present.base || self.sets.iter().any(changed_header) {
            return self.full(name);
        }
        let mut out = String::new();
        // What is new comes first, what refers to it next, and what is no longer referred to is removed last.
        let own = |(set, of): &(&String, &Set), other: &Table| !of.header.is_empty() && !other.sets.contains_key(*set);
        for (set, of) in self.sets.iter().filter(|set| own(set, present)) {
            let _ = writeln!(out, "add {} {name} {set} {{ {} }}", of.word(), of.header);
        }
        let changed: Vec<_> = self.chains.iter().filter(|(n, rules)| present.chains.get(*n) != Some(rules)).collect();
        for (chain, _) in changed.iter().filter(|(chain, _)| present.chains.contains_key(*chain)) {
            let _ = writeln!(out, "flush chain {name} {chain}");
        }
        // Chains may name one another, so all are declared before the rules. Many go in one block, which nft reads many
        // times faster than as many commands; for few it is the other way round.
        if changed.len() <= 20 {
            changed.iter().for_each(|(chain, _)| _ = writeln!(out, "add chain {name} {chain}"));
            for (chain, rules) in &changed {
                rules.iter().for_each(|rule| _ = writeln!(out, "add rule {name} {chain} {rule}"));
            }
        } else {
            let _ = writeln!(out, "table {name} {{");
            changed.iter().for_each(|(chain, _)| _ = writeln!(out, "chain {chain} {{ }}"));
            for (chain, rules) in &changed {
                let _ = writeln!(out, "chain {chain} {{\n{}\n}}", rules.join("\n"));
            }
            out.push_str("}\n");
        }
        let none = BTreeMap::new();
        for (set, of) in &self.sets {
            let before = present.sets.get(set).map_or(&none, |s| &s.elements);
            let gone = before.iter().filter(|(k, v)| of.elements.get(*k) != Some(v));
            elements(&mut out, "delete", name, set, gone);
            let new = of.elements.iter().filter(|(k, v)| before.get(*k) != Some(v));
            elements(&mut out, "add", name, set, new);
        }
        // Elements of a set of the base that this part has nothing in any more.
        for (set, of) in present.sets.iter().filter(|(set, of)| of.header.is_empty() && !self.sets.contains_key(*set)) {
            elements(&mut out, "delete", name, set, of.elements.iter());
        }
        let gone: Vec<_> = present.chains.keys().filter(|n| !self.chains.contains_key(*n)).collect();
        for chain in &gone {
            let _ = writeln!(out, "flush chain {name} {chain}");
        }
        for chain in gone {
            let _ = writeln!(out, "delete chain {name} {chain}");
        }
        for (set, of) in present.sets.iter().filter(|set| own(set, self)) {
            let _ = writeln!(out, "delete {} {name} {set}", of.word());
        }
        out
    }
}

/// One command for all elements that come or go.
fn elements<'a>(
    out: &mut String,
    what: &str,
    table: &str,
    set: &str,
    list: impl Iterator<Item = (&'a String, &'a Option<String>)>,
) {
    let all: Vec<String> = list.map(|(key, value)| element(key, value.as_deref())).collect();
    if !all.is_empty() {
        let _ = writeln!(out, "{what} element {table} {set} {{ {} }}", all.join(", "));
    }
}

fn element(key: &str, value: Option<&str>) -> String {
    value.map_or_else(|| key.to_string(), |value| format!("{key} : {value}"))
}

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the program nft can't be run (is the package nftables installed?): {0}")]
    Spawn(std::io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

async fn nft(arguments: &[&str], script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NftError::Spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(text.lines().take(6).collect::<Vec<_>>().join(" | ")))
}

/// Makes the kernel's table, which is as `present` says, as `wanted` says. Without `present` it is written anew.
///
/// # Errors
/// When `nft` isn't there or refuses the rules; then nothing was changed.
pub async fn write(name: &str, present: Option<&Table>, wanted: &Table) -> Result<(), NftError> {
    let script = match present {
        Some(present) => wanted.difference(present, name),
        None => wanted.full(name),
    };
    if script.is_empty() {
        return Ok(());
    }
    nft(&["-f", "-"], &script).await
}

/// Whether a table has a chain.
pub async fn exists(name: &str, chain: &str) -> bool {
    let words: Vec<&str> = ["list", "chain"].into_iter().chain(name.split(' ')).chain([chain]).collect();
    nft(&words, "").await.is_ok()
}

/// Removes a table of either family, if it is there; here the name is without family.
///
/// # Errors
/// When `nft` fails.
pub async fn remove(name: &str) -> Result<(), NftError> {
    // Adding first makes deleting right whether the table was there or not.
    let both = ["ip", "ip6"].map(|family| format!("add table {family} {name}\ndelete table {family} {name}\n"));
    nft(&["-f", "-"], &both.concat()).await
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
}

/// Parts of a table, by what they are for. Those that are the same `Arc` as before are taken to be unchanged.
pub type Parts = BTreeMap<Arc<str>, Arc<Table>>;

impl Keeper {
    pub fn new(name: &str, witness: &'static str) -> Self {
        Keeper { name: name.into(), witness, written: None, parts: None, counts: HashMap::new() }
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
    /// than before. A part has sets of its own, with a header, and elements of the base's sets, without.
    ///
    /// # Errors
    /// Those of [`write`]; the next time everything is written.
    pub async fn keep_parts(&mut self, base: Table, parts: Parts) -> Result<(), NftError> {
        let script = self.step(base, parts);
        if script.is_empty() {
            return Ok(());
        }
        let outcome = nft(&["-f", "-"], &script).await;
        if outcome.is_err() {
            // If the difference didn't fit what the kernel has, only all of it will do.
            self.parts = None;
        }
        outcome
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
            tracing::warn!(table = self.name, "the table of rules is gone; writing it anew");
            self.written = None;
            self.parts = None;
        }
    }
}
