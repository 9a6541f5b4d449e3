//! Tables of nftables as values: the desired table is compared with the written one, and the difference goes to the kernel, in one
//! transaction of `nft`. The name of a table includes its family (`ip timonel`).

mod sync;
mod syntax;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use apimachinery::Family;
use tokio::process::Command;

pub use sync::{RejectedItem, RejectedPart, TableParts, TableSync, find_rejected};
pub use syntax::{Protocol, port, sanitize_name};

/// Keywords and constants of rules that differ between the families.
#[derive(Debug, Clone, Copy)]
pub struct FamilySyntax {
    /// Keyword of the family's tables and packet headers.
    pub ip: &'static str,
    /// The type of an address in sets.
    pub address: &'static str,
    /// The loopback network.
    pub loopback: &'static str,
    /// The multicast network.
    pub multicast: &'static str,
    /// The ICMP type that `reject` sends for a service without endpoints.
    pub unreachable: &'static str,
}

impl FamilySyntax {
    /// The keywords of a family.
    pub fn of(family: Family) -> Self {
        match family {
            Family::V4 => FamilySyntax {
                ip: "ip",
                address: "ipv4_addr",
                loopback: "127.0.0.0/8",
                multicast: "224.0.0.0/4",
                unreachable: "icmp type port-unreachable",
            },
            Family::V6 => FamilySyntax {
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

/// A digest that makes the names of chains unique, which are limited in letters and length. It must be collision resistant: whoever found two
/// texts with one digest could replace the rules of one by those of the other.
pub fn digest(text: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(text);
    hash.iter().take(16).fold(String::with_capacity(32), |mut all, byte| {
        let _ = write!(all, "{byte:02x}");
        all
    })
}

/// An address with the letters that names of chains and sets can have.
pub fn address_label(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "_")
}

/// A set or a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Its declaration between the braces: `type ipv4_addr : verdict;`.
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
    /// The text of base chains (with hooks) and other constant chains; they can refer to sets and chains by name.
    pub base: String,
    /// Sets and maps, by name.
    pub sets: BTreeMap<String, Set>,
    /// Rules of further chains, by name.
    pub chains: BTreeMap<String, Vec<String>>,
}

impl Table {
    /// A table with base chains.
    pub fn new(base: String) -> Self {
        Table { base, ..Table::default() }
    }

    /// Declares a set that the base uses.
    #[must_use]
    pub fn with_set(mut self, name: &str, header: &str) -> Self {
        self.sets.insert(name.into(), Set { header: header.into(), elements: BTreeMap::new() });
        self
    }

    /// Adds an element to a set.
    pub fn add(&mut self, set: &str, element: impl Into<String>) {
        self.sets.entry(set.into()).or_default().elements.insert(element.into(), None);
    }

    /// Adds an element to a map.
    pub fn map(&mut self, map: &str, key: impl Into<String>, value: impl Into<String>) {
        self.sets.entry(map.into()).or_default().elements.insert(key.into(), Some(value.into()));
    }

    /// Whether a set or map has an element.
    pub fn has(&self, set: &str, element: &str) -> bool {
        self.sets.get(set).is_some_and(|s| s.elements.contains_key(element))
    }

    /// Merges the sets and chains of a part into this table.
    fn merge(&mut self, part: &Table) {
        for (name, set) in &part.sets {
            let into = self.sets.entry(name.clone()).or_default();
            if into.header.is_empty() {
                into.header = set.header.clone();
            }
            into.elements.extend(set.elements.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        self.chains.extend(part.chains.iter().map(|(k, v)| (k.clone(), v.clone())));
    }

    /// Its elements of the base's sets, which other parts may have, too.
    fn shared(&self) -> impl Iterator<Item = (&String, &String)> {
        let of_base = self.sets.iter().filter(|(_, set)| set.header.is_empty());
        of_base.flat_map(|(name, set)| set.elements.keys().map(move |element| (name, element)))
    }

    /// A script that replaces the whole table.
    pub fn full_script(&self, name: &str) -> String {
        let mut script = format!("add table {name}\ndelete table {name}\nadd table {name}\n");
        // Sets and chains must be declared before the base refers to them.
        for (set, Set { header, .. }) in &self.sets {
            let (set, header, word) = (syntax::name(set), syntax::header(header), self.sets[set].word());
            let _ = writeln!(script, "add {word} {name} {set} {{ {header} }}");
        }
        let _ = writeln!(script, "table {name} {{\n{}}}", self.base);
        let empty = |of: &Set| Set { header: of.header.clone(), elements: BTreeMap::new() };
        let sets = self.sets.iter().map(|(set, of)| (set.clone(), empty(of))).collect();
        let bare = Table { base: self.base.clone(), sets, chains: BTreeMap::new() };
        script.push_str(&self.diff_script(&bare, name));
        script
    }

    /// A script that changes the table `present` into this one. Empty if they are equal.
    pub fn diff_script(&self, present: &Table, name: &str) -> String {
        let changed_header = |(set, of): (&String, &Set)| present.sets.get(set).is_some_and(|p| p.header != of.header);
        if self.base != present.base || self.sets.iter().any(changed_header) {
            return self.full_script(name);
        }
        let mut out = String::new();
        // Order: additions, then rules that refer to them, then removals of what isn't referred to any more.
        let own = |(set, of): &(&String, &Set), other: &Table| !of.header.is_empty() && !other.sets.contains_key(*set);
        for (set, of) in self.sets.iter().filter(|set| own(set, present)) {
            let (set, header) = (syntax::name(set), syntax::header(&of.header));
            let _ = writeln!(out, "add {} {name} {set} {{ {header} }}", of.word());
        }
        let changed: Vec<_> = self.chains.iter().filter(|(n, rules)| present.chains.get(*n) != Some(rules)).collect();
        for (chain, _) in changed.iter().filter(|(chain, _)| present.chains.contains_key(*chain)) {
            let _ = writeln!(out, "flush chain {name} {chain}");
        }
        // Chains may refer to each other, so all are declared before the rules. Many chains go in one block, which nft parses many times
        // faster than as many commands; for few chains it is the other way round.
        if changed.len() <= 20 {
            changed.iter().for_each(|(chain, _)| _ = writeln!(out, "add chain {name} {}", syntax::name(chain)));
            for (chain, rules) in &changed {
                let chain = syntax::name(chain);
                rules.iter().for_each(|rule| _ = writeln!(out, "add rule {name} {chain} {}", syntax::rule(rule)));
            }
        } else {
            let _ = writeln!(out, "table {name} {{");
            changed.iter().for_each(|(chain, _)| _ = writeln!(out, "chain {} {{ }}", syntax::name(chain)));
            for (chain, rules) in &changed {
                let _ = writeln!(out, "chain {} {{", syntax::name(chain));
                rules.iter().for_each(|rule| _ = writeln!(out, "{}", syntax::rule(rule)));
                out.push_str("}\n");
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
        // Elements of the base's sets that this part doesn't have any more.
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

/// One command that adds or deletes elements.
fn elements<'a>(
    out: &mut String,
    what: &str,
    table: &str,
    set: &str,
    list: impl Iterator<Item = (&'a String, &'a Option<String>)>,
) {
    let all: Vec<String> = list.map(|(key, value)| element(key, value.as_deref())).collect();
    if !all.is_empty() {
        let _ = writeln!(out, "{what} element {table} {} {{ {} }}", syntax::name(set), all.join(", "));
    }
}

fn element(key: &str, value: Option<&str>) -> String {
    let key = syntax::element(key);
    value.map_or_else(|| key.to_string(), |value| format!("{key} : {}", syntax::element(value)))
}

/// Why a table can't be written.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the program nft can't be run (is the package nftables installed?): {0}")]
    /// `nft` can't be started.
    Spawn(std::io::Error),
    #[error("nft refused the rules: {0}")]
    /// `nft` or the kernel rejected the script; the text is its error output.
    Refused(String),
}

/// Limit of the error output of `nft`.
const MAX_ERROR_BYTES: u64 = 64 << 10;

async fn nft(arguments: &[&str], script: &str) -> Result<(), NftError> {
    let mut program = Command::new("nft");
    let output = bounded::output(program.args(arguments), script.as_bytes(), MAX_ERROR_BYTES).await;
    let output = output.map_err(NftError::Spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(text.lines().take(6).collect::<Vec<_>>().join(" | ")))
}

/// Changes the kernel's table from `present` into `wanted`. Without `present` the table is replaced.
///
/// # Errors
/// [`NftError`] when `nft` can't be run or rejects the rules; nothing is changed then.
pub async fn write(name: &str, present: Option<&Table>, wanted: &Table) -> Result<(), NftError> {
    let script = match present {
        Some(present) => wanted.diff_script(present, name),
        None => wanted.full_script(name),
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

/// Checks a script without applying it (`nft --check`).
///
/// # Errors
/// [`NftError`] when `nft` can't be run or rejects the script.
async fn check_script(script: &str) -> Result<(), NftError> {
    nft(&["-c", "-f", "-"], script).await
}

/// Removes the tables of this name (without a family) of both families, if they exist.
///
/// # Errors
/// [`NftError`] when `nft` fails.
pub async fn remove(name: &str) -> Result<(), NftError> {
    // Deleting a missing table is an error, so it is added first.
    let both = ["ip", "ip6"].map(|family| format!("add table {family} {name}\ndelete table {family} {name}\n"));
    nft(&["-f", "-"], &both.concat()).await
}
