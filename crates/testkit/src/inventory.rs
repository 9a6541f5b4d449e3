//! What a node has on its machine, counted: to see that nothing is left over by what went wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cluster::Node;

/// How many of each: mounts, network namespaces, interfaces, cgroups, shims.
pub type Inventory = BTreeMap<&'static str, usize>;

/// All folders below one, the folder itself left out.
fn below(path: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir());
    folders.flat_map(|p| std::iter::once(p.clone()).chain(below(&p))).collect()
}

impl Node {
    /// The processes of shims.
    pub fn shims(&self) -> Vec<u32> {
        let run_dir = self.run_dir();
        let line = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_shim = |pid: &u32| {
            let line = line(pid);
            line.contains(&run_dir) && line.starts_with("timonel-shim")
        };
        processes().into_iter().filter(is_shim).collect()
    }

    /// The processes in containers, those that hold a pod's namespaces included.
    pub fn contained(&self) -> Vec<u32> {
        let roots =
            std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path().join(self.cgroup()));
        let mut pids: Vec<u32> = roots
            .flat_map(|root| below(&root))
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
        let (folder, run_dir) = (self.folder().display().to_string(), self.run_dir());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = |line: &&str| line.contains(&folder) || line.contains(&run_dir);
        let links = self.run(&["ip", "-o", "link"].map(String::from), "").stdout;
        let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let groups = roots.map(|e| below(&e.path().join(self.cgroup())).len()).max().unwrap_or(0);
        BTreeMap::from([
            ("mounts", mounts.lines().filter(own).count()),
            ("interfaces of pods", links.lines().filter(|l| l.contains(": tp")).count()),
            ("cgroups", groups),
            ("shims", self.shims().len()),
            ("processes in containers", self.contained().len()),
        ])
    }
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}
