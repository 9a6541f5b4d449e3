//! The Pod Security Standards: what a pod of a level must not ask for, in upstream's words and order
//! (`k8s.io/pod-security-admission/policy`, v1.37).

mod baseline;
mod restricted;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use apimachinery::{Cause, ObjectExt as _};
use serde_json::Value;

/// A profile of the Pod Security Standards, each stricter than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything is allowed.
    Privileged,
    /// Known ways out of a container are closed.
    Baseline,
    /// A pod is hardened as far as is usual.
    Restricted,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Level::Privileged, Level::Baseline, Level::Restricted].into_iter().find(|level| level.as_str() == text)
    }
}

/// A level as the standard had it in `v1.MINOR`; the latest one if no version is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// The profile.
    pub level: Level,
    minor: Option<u32>,
}

impl Standard {
    /// Any pod is allowed.
    pub const PRIVILEGED: Standard = Standard { level: Level::Privileged, minor: None };

    /// A profile in its latest version.
    pub fn latest(level: Level) -> Self {
        Standard { level, minor: None }
    }

    /// Whether it may refuse a pod that `old` lets in.
    pub fn is_stricter_than(self, old: Standard) -> bool {
        let relaxed = self.minor == old.minor && self.level <= old.level;
        self.level != Level::Privileged && !relaxed
    }

    /// Whether the standard is that of `v1.MINOR` or a later one.
    fn since(self, minor: u32) -> bool {
        self.minor.is_none_or(|own| own >= minor)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            None => write!(f, "{}:latest", self.level.as_str()),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// What the labels of a namespace demand of its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What pods must follow to be created (`pod-security.kubernetes.io/enforce`).
    pub enforce: Standard,
    /// What is noted in the audit log when a pod doesn't follow it (`audit`).
    pub audit: Standard,
    /// What clients are warned of when a pod doesn't follow it (`warn`).
    pub warn: Standard,
}

const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policy {
    /// Reads the labels, and returns what is wrong with them. A bad level is the strictest where it is enforced, and
    /// none where it only informs.
    pub fn read<'a>(label: impl Fn(&str) -> Option<&'a str>) -> (Self, Vec<Cause>) {
        let mut causes = Vec::new();
        let mut refuse = |key: &str, value: &str, why: &str| {
            causes.push(Cause::invalid(format!("metadata.labels[{key}]"), &value.into(), why));
        };
        let mut mode = |name: &str, otherwise: Level| {
            let (of_level, of_version) = (format!("{PREFIX}{name}"), format!("{PREFIX}{name}-version"));
            let (said, version) = (label(&of_level), label(&of_version));
            let level = said.map(|text| {
                let level = Level::read(text);
                if level.is_none() {
                    refuse(&of_level, text, "must be one of privileged, baseline, restricted");
                }
                level
            });
            let minor = version.and_then(|text| {
                let minor = minor(text);
                if minor.is_none() && text != "latest" {
                    refuse(&of_version, text, "must be \"latest\" or \"v1.x\"");
                }
                minor
            });
            let standard =
                Standard { level: level.map_or(Level::Privileged, |level| level.unwrap_or(otherwise)), minor };
            (standard, level, version.is_some())
        };
        let (enforce, enforced, _) = mode("enforce", Level::Restricted);
        let (audit, _, _) = mode("audit", Level::Privileged);
        let (mut warn, warned, versioned) = mode("warn", Level::Privileged);
        // What is refused when it is a pod is warned of when it is a template.
        if warned.is_none() && enforced.flatten().is_some_and(|level| level > warn.level) {
            warn.level = enforce.level;
            if !versioned {
                warn.minor = enforce.minor;
            }
        }
        (Policy { enforce, audit, warn }, causes)
    }
}

/// The minor version in `v1.MINOR`.
fn minor(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("v1.")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which control of the standard it breaks, in upstream's words.
    pub reason: &'static str,
    /// Which containers or fields break it, and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// What in a pod, or in the template of one, goes beyond a standard.
pub fn violations(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { metadata, spec };
    let mut found = Vec::new();
    if standard.level >= Level::Baseline {
        found.extend(baseline::check(standard, &pod));
    }
    if standard.level >= Level::Restricted {
        found.extend(restricted::check(standard, &pod));
    }
    found
}

/// Whether an update of a pod can make it violate what it didn't before: of what a pod is checked for, only its
/// containers change, by their images and by new ephemeral ones.
pub fn is_significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value| -> Vec<(usize, String, String)> {
        let mut all = Vec::new();
        for (i, list) in LISTS.into_iter().enumerate() {
            let containers = pod.array_at(&["spec", list]).iter();
            all.extend(containers.map(|c| (i, c.str_at(&["name"]).to_string(), c.str_at(&["image"]).to_string())));
        }
        all
    };
    images(new) != images(old)
}

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        LISTS.into_iter().flat_map(move |list| spec.array_at(&[list]))
    }

    /// The containers that a check doesn't like.
    fn containers_that(&self, bad: impl Fn(&Value) -> bool) -> Names {
        Names::of("container", self.containers().filter(|c| bad(c)).map(|c| c.str_at(&["name"])))
    }

    /// `pod`, `container "a"` or both: whose security context a check doesn't like.
    fn setters(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let pod = bad(&self.spec["securityContext"]).then(|| "pod".to_string());
        let containers = self.containers_that(|c| bad(&c["securityContext"])).text();
        pod.into_iter().chain(containers).collect()
    }

    /// Whether its users are strangers on the machine, for which some rules are relaxed (KEP-127).
    fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    fn is_windows(&self) -> bool {
        self.spec.at(&["os", "name"]) == "windows"
    }
}

/// Things of one sort by their names, in upstream's writing.
struct Names {
    of: &'static str,
    quoted: Vec<String>,
}

impl Names {
    fn of<'a>(of: &'static str, names: impl Iterator<Item = &'a str>) -> Self {
        Names { of, quoted: names.map(|name| format!("\"{name}\"")).collect() }
    }

    fn is_empty(&self) -> bool {
        self.quoted.is_empty()
    }

    /// `container "a"`, `containers "a", "b"`, or nothing.
    fn text(&self) -> Option<String> {
        let plural = plural(self.of, self.quoted.len());
        (!self.is_empty()).then(|| format!("{plural} {}", self.quoted.join(", ")))
    }

    /// `uses` for one, `use` for several.
    fn uses(&self) -> &'static str {
        if self.quoted.len() == 1 { "uses" } else { "use" }
    }
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}

/// `"a", "b"` of a set.
fn quoted(values: &BTreeSet<String>) -> String {
    values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ")
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}
