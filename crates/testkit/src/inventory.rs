//! What a node has on its machine, counted: to see that nothing is left over by what went wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::node::Node;

/// How many of each: mounts, network namespaces, interfaces, cgroups, shims.
pub type Inventory = BTreeMap<&'static str, usize>;

/// All folders below one, the folder itself left out.
fn below(path: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir());
    folders.flat_map(|p| std::iter::once(p.clone()).chain(below(&p))).collect()
}

/// The command line of a process; empty if it is gone.
fn line(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

impl Node {
    fn mounts(&self) -> Vec<String> {
        let (folder, run_dir) = (self.folder().display().to_string(), self.run_dir());
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        all.lines().filter(|l| l.contains(&folder) || l.contains(&run_dir)).map(String::from).collect()
    }

    /// Where something is mounted for the node, in the order of mounting.
    pub(crate) fn mount_points(&self) -> Vec<String> {
        let point = |line: &String| line.split(' ').nth(4).map(String::from);
        self.mounts().iter().filter_map(point).collect()
    }

    /// Removes the node's cgroups, the innermost first; false while there are processes in them.
    pub(crate) fn remove_cgroups(&self) -> bool {
        for root in self.cgroups() {
            let mut all = below(&root);
            all.insert(0, root);
            all.iter().rev().for_each(|group| _ = std::fs::remove_dir(group));
        }
        self.cgroups().is_empty()
    }

    /// The node's cgroup in each hierarchy that has it.
    fn cgroups(&self) -> Vec<PathBuf> {
        let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        roots.map(|root| root.path().join(self.cgroup())).filter(|path| path.exists()).collect()
    }

    fn command(&self, words: &[&str]) -> String {
        self.run(&words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>(), "").stdout
    }

    /// The processes of shims, be they our own runtime's or another's.
    pub fn shims(&self) -> Vec<u32> {
        if let Some(containerd) = &self.containerd {
            return containerd.shims();
        }
        let run_dir = self.run_dir();
        let is_shim = |line: String| line.contains(&run_dir) && line.starts_with("timonel-shim");
        processes().into_iter().filter(|pid| is_shim(line(*pid))).collect()
    }

    /// The processes in containers, those that hold a pod's namespaces included.
    pub fn contained(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self
            .cgroups()
            .iter()
            .flat_map(|root| below(root))
            .flat_map(|group| {
                let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<u32>>()
            })
            .collect();
        pids.sort_unstable();
        pids.dedup();
        let shims = self.shims();
        pids.retain(|pid| !shims.contains(pid));
        pids
    }

    pub fn inventory(&self) -> Inventory {
        let links = self.command(&["ip", "-o", "link"]);
        BTreeMap::from([
            ("mounts", self.mounts().len()),
            ("interfaces of pods", links.lines().filter(|l| l.contains(": tp")).count()),
            ("cgroups", self.cgroups().iter().map(|root| below(root).len()).max().unwrap_or(0)),
            ("shims", self.shims().len()),
            ("processes in containers", self.contained().len()),
        ])
    }

    /// What is left of a node after it was uninstalled: processes, mounts, cgroups, interfaces and rules, one a line.
    pub fn leftovers(&self) -> Vec<String> {
        let (folder, run_dir) = (self.folder().display().to_string(), self.run_dir());
        let mut left = Vec::new();
        if Path::new(&run_dir).exists() {
            left.push(format!("folder {run_dir}"));
        }
        left.extend(self.mounts().iter().map(|l| format!("mount {l}")));
        let lines = processes().into_iter().map(line);
        left.extend(lines.filter(|l| l.contains(&folder) && !l.contains("uninstall")).map(|l| format!("process {l}")));
        left.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
        left.extend(self.command(&["nft", "list", "tables"]).lines().map(|l| format!("rules {l}")));
        let links = self.command(&["ip", "-o", "link"]);
        left.extend(
            links.lines().filter(|l| l.contains("timonel0") || l.contains(": tp")).map(|l| format!("interface {l}")),
        );
        for family in ["-4", "-6"] {
            let routes = self.command(&["ip", family, "route", "show", "proto", "116"]);
            left.extend(routes.lines().map(|l| format!("route {l}")));
        }
        left
    }
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}
