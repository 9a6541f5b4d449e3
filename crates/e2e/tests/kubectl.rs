//! Upstream's kubectl and ours, beside each other: the command lines of `kubectl/lines.txt` run by both on one cluster, each in a namespace of its own, and
//! what they print is compared once ages, uids, versions and addresses are made alike. What may differ stands in `kubectl/allowed.txt`, with the reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use testkit::Cluster;

/// Of a hundred lines, no more than this many may differ.
const MOST_ALLOWED: usize = 1;
/// The namespaces: of one length, and no part of any word that is printed.
const UPSTREAMS: &str = "space-one";
const OURS: &str = "space-two";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl")
}

/// Words as a shell has them: apart by spaces, unless in single or double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, ' ') => {
                if begun || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (_, c) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        all.push(word);
    }
    all
}

/// What a program printed and how it ended.
type Outcome = (String, String, i32);

struct Programs<'a> {
    cluster: &'a Cluster,
    upstream: PathBuf,
    /// What differs between two runs, and what stands in its place.
    alike: Vec<(Regex, &'static str)>,
}

impl Programs<'_> {
    fn run(&self, ours: bool, namespace: &str, line: &str) -> Outcome {
        let line = line.replace("{ns}", namespace).replace("{files}", &folder().join("files").display().to_string());
        let server = &self.cluster.server;
        let mut command = vec![
            "env".to_string(),
            format!("HOME={}", server.folder().display()),
            format!("KUBECACHEDIR={}", server.folder().join("cache").display()),
        ];
        if ours {
            command.extend([server.binary().display().to_string(), "kubectl".into()]);
        } else {
            command.push(self.upstream.display().to_string());
        }
        command.extend([
            "--kubeconfig".into(),
            server.folder().join("kubeconfig").display().to_string(),
            "-n".into(),
            namespace.into(),
        ]);
        command.extend(words(&line));
        let output = server.run(&command, "");
        let alike = |text: &str| {
            let text = text.replace(namespace, "NS");
            self.alike.iter().fold(text, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
        };
        (alike(&output.stdout), alike(&output.stderr), output.code)
    }
}

/// The lines that may differ, with their reasons.
fn allowed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder().join("allowed.txt")).unwrap();
    let entries = text.lines().filter(|l| !l.is_empty() && !l.starts_with("# "));
    let pairs = entries.map(|l| l.split_once(" ## ").expect("a line, ' ## ' and the reason"));
    pairs.map(|(line, reason)| (line.into(), reason.into())).collect()
}

fn alike() -> anyhow::Result<Vec<(Regex, &'static str)>> {
    let patterns = [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ [+-]\d{4}", "TIME"),
        (r#"(?i)(resource ?version"?: *\t*"?)\d+"#, "${1}RV"),
        (r"10\.43\.\d+\.\d+", "IP"),
        (r#"(?i)(node ?port"?:.*?)\d{5}"#, "${1}PORT"),
        (r"pod-template-hash[=:] ?\w+", "pod-template-hash=HASH"),
        (r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}\b", "-HASH"),
        (r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-HASH"),
        (r"\b\d+[smh](\d+s)?\b", "AGE"),
        // Columns are as wide as what was replaced.
        (r" {2,}", "  "),
        (r" +\n", "\n"),
    ];
    patterns.into_iter().map(|(pattern, with)| Ok((Regex::new(pattern)?, with))).collect()
}

#[test]
fn ours_prints_what_upstreams_prints() -> anyhow::Result<()> {
    let Some(upstream) = testkit::clients::current_kubectl() else {
        testkit::clients::skip("no kubectl of today");
        return Ok(());
    };
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let programs = Programs { cluster: &cluster, upstream, alike: alike()? };
    for namespace in [UPSTREAMS, OURS] {
        programs.run(false, "default", &format!("create namespace {namespace}"));
        cluster.eventually("the namespace has its account", || {
            Ok(programs.run(false, namespace, "get sa default").2 == 0)
        })?;
    }
    let allowed = allowed();
    let text = std::fs::read_to_string(folder().join("lines.txt"))?;
    let (mut count, mut differ, mut unexpected) = (0_usize, Vec::new(), String::new());
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with("# ")) {
        if let Some(waits) = line.strip_prefix("@ ") {
            programs.run(false, UPSTREAMS, waits);
            programs.run(false, OURS, waits);
            continue;
        }
        count += 1;
        let (want, got) = (programs.run(false, UPSTREAMS, line), programs.run(true, OURS, line));
        if want == got {
            continue;
        }
        differ.push(line.to_string());
        if !allowed.contains_key(line) {
            unexpected += &format!(
                "kubectl {line}\n--- upstream ({})\n{}{}--- ours ({})\n{}{}\n",
                want.2, want.0, want.1, got.2, got.0, got.1
            );
        }
    }
    assert!(
        unexpected.is_empty(),
        "{} of {count} lines differ, of which these aren't allowed:\n{unexpected}",
        differ.len()
    );
    let stale: Vec<&String> = allowed.keys().filter(|line| !differ.contains(line)).collect();
    assert!(stale.is_empty(), "these don't differ any more: {stale:?}");
    assert!(differ.len() * 100 <= count * MOST_ALLOWED, "{} of {count} lines differ: {differ:?}", differ.len());
    Ok(())
}
