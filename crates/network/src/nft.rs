//! Tables of nftables as values (a name here is that of a family and a table, `ip timonel`): what is wanted is compared with what was written, and only the difference goes to the
//! kernel, in one transaction of `nft`.

mod keeper;
mod terms;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use apimachinery::Family;
use tokio::process::Command;

pub use keeper::{Keeper, LeftOut, Parts, Refusal, find_refused};
pub use terms::{Protocol, port, readable};

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

/// Keeps apart what names of chains, which have their limits, can't say in full. Nobody may find two texts with one digest: the rules of
/// one would stand in the other's place.
pub fn digest(text: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(text);
    hash.iter().take(16).fold(String::with_capacity(32), |mut all, byte| {
        let _ = write!(all, "{byte:02x}");
        all
    })
}

/// An address, as far as names of chains and sets may have it.
pub fn label(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "_")
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
            let (set, header, word) = (terms::name(set), terms::header(header), self.sets[set].word());
            let _ = writeln!(script, "add {word} {name} {set} {{ {header} }}");
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
            let (set, header) = (terms::name(set), terms::header(&of.header));
            let _ = writeln!(out, "add {} {name} {set} {{ {header} }}", of.word());
        }
        let changed: Vec<_> = self.chains.iter().filter(|(n, rules)| present.chains.get(*n) != Some(rules)).collect();
        for (chain, _) in changed.iter().filter(|(chain, _)| present.chains.contains_key(*chain)) {
            let _ = writeln!(out, "flush chain {name} {chain}");
        }
        // Chains may name one another, so all are declared before the rules. Many go in one block, which nft reads many
        // times faster than as many commands; for few it is the other way round.
        if changed.len() <= 20 {
            changed.iter().for_each(|(chain, _)| _ = writeln!(out, "add chain {name} {}", terms::name(chain)));
            for (chain, rules) in &changed {
                let chain = terms::name(chain);
                rules.iter().for_each(|rule| _ = writeln!(out, "add rule {name} {chain} {}", terms::rule(rule)));
            }
        } else {
            let _ = writeln!(out, "table {name} {{");
            changed.iter().for_each(|(chain, _)| _ = writeln!(out, "chain {} {{ }}", terms::name(chain)));
            for (chain, rules) in &changed {
                let _ = writeln!(out, "chain {} {{", terms::name(chain));
                rules.iter().for_each(|rule| _ = writeln!(out, "{}", terms::rule(rule)));
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
        let _ = writeln!(out, "{what} element {table} {} {{ {} }}", terms::name(set), all.join(", "));
    }
}

fn element(key: &str, value: Option<&str>) -> String {
    let key = terms::element(key);
    value.map_or_else(|| key.to_string(), |value| format!("{key} : {}", terms::element(value)))
}

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the program nft can't be run (is the package nftables installed?): {0}")]
    Spawn(std::io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// What is kept of the reasons why rules are refused, in bytes.
const COMPLAINT: u64 = 64 << 10;

async fn nft(arguments: &[&str], script: &str) -> Result<(), NftError> {
    let mut program = Command::new("nft");
    let output = bounded::output(program.args(arguments), script.as_bytes(), COMPLAINT).await;
    let output = output.map_err(NftError::Spawn)?;
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

/// Whether the kernel would take a script. Nothing is changed.
///
/// # Errors
/// When `nft` isn't there, or with what it says against the script.
async fn try_out(script: &str) -> Result<(), NftError> {
    nft(&["-c", "-f", "-"], script).await
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
