//! Tables of nftables as values: what is wanted is compared with what was written, and only the difference goes to the
//! kernel, in one transaction of `nft`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

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

    /// A script that writes the whole table.
    pub fn full(&self, name: &str) -> String {
        let mut script = format!("add table ip {name}\ndelete table ip {name}\nadd table ip {name}\n");
        // What the base uses must be there before it.
        for (set, Set { header, .. }) in &self.sets {
            let _ = writeln!(script, "add {} ip {name} {set} {{ {header} }}", self.sets[set].word());
        }
        let _ = writeln!(script, "table ip {name} {{\n{}}}", self.base);
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
        for (set, of) in self.sets.iter().filter(|(set, _)| !present.sets.contains_key(*set)) {
            let _ = writeln!(out, "add {} ip {name} {set} {{ {} }}", of.word(), of.header);
        }
        let changed: Vec<_> = self.chains.iter().filter(|(n, rules)| present.chains.get(*n) != Some(rules)).collect();
        for (chain, _) in changed.iter().filter(|(chain, _)| present.chains.contains_key(*chain)) {
            let _ = writeln!(out, "flush chain ip {name} {chain}");
        }
        // In one block, which nft reads many times faster than as many commands. Chains may name one another, so all are
        // declared before the rules.
        if !changed.is_empty() {
            let _ = writeln!(out, "table ip {name} {{");
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
        let gone: Vec<_> = present.chains.keys().filter(|n| !self.chains.contains_key(*n)).collect();
        for chain in &gone {
            let _ = writeln!(out, "flush chain ip {name} {chain}");
        }
        for chain in gone {
            let _ = writeln!(out, "delete chain ip {name} {chain}");
        }
        for (set, of) in present.sets.iter().filter(|(set, _)| !self.sets.contains_key(*set)) {
            let _ = writeln!(out, "delete {} ip {name} {set}", of.word());
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
        let _ = writeln!(out, "{what} element ip {table} {set} {{ {} }}", all.join(", "));
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
    nft(&["list", "chain", "ip", name, chain], "").await.is_ok()
}

/// Removes a table, if it is there.
///
/// # Errors
/// When `nft` fails.
pub async fn remove(name: &str) -> Result<(), NftError> {
    // Adding first makes deleting right whether the table was there or not.
    nft(&["-f", "-"], &format!("add table ip {name}\ndelete table ip {name}\n")).await
}

/// Keeps a table in the kernel as it is wanted.
pub struct Keeper {
    name: String,
    /// A chain of the base, by which somebody else's removal of the table is noticed.
    witness: &'static str,
    written: Option<Table>,
}

impl Keeper {
    pub fn new(name: &str, witness: &'static str) -> Self {
        Keeper { name: name.into(), witness, written: None }
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

    /// Looks whether somebody removed the table; if so, the next [`keep`](Self::keep) writes it anew.
    pub async fn check(&mut self) {
        if self.written.is_some() && !exists(&self.name, self.witness).await {
            tracing::warn!(table = self.name, "the table of rules is gone; writing it anew");
            self.written = None;
        }
    }
}
