//! `timonel check`: what this machine lacks, each with its remedy.

use std::path::Path;
use std::process::{Command, ExitCode};

use informer::Quarantine;

use crate::{cli, firewall, part};

struct Finding {
    what: &'static str,
    ok: bool,
    /// Without it nothing works; otherwise something is slower or missing.
    needed: bool,
    remedy: &'static str,
}

fn capability(bit: u32) -> bool {
    let status = bounded::text("/proc/self/status", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or("0");
    u64::from_str_radix(line.trim(), 16).unwrap_or(0) & (1 << bit) != 0
}

fn file_system(name: &str) -> bool {
    let list = bounded::text("/proc/filesystems", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    list.lines().any(|l| l.split_whitespace().last() == Some(name))
        || Command::new("modprobe").arg(name).status().is_ok_and(|s| s.success())
}

fn findings() -> Vec<Finding> {
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const SYS_RESOURCE: u32 = 24;
    let finding = |what, ok, needed, remedy| Finding { what, ok, needed, remedy };
    let nft = bounded::output_blocking(Command::new("nft").args(["list", "tables"]), b"", 1 << 20);
    let cgroups =
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new("/sys/fs/cgroup/memory").exists();
    let namespaces = ["net", "ipc", "uts", "pid", "mnt"].iter().all(|n| Path::new("/proc/self/ns").join(n).exists());
    vec![
        finding("root", nix::unistd::geteuid().is_root(), true, "run it as root, as with sudo"),
        finding("CAP_SYS_ADMIN", capability(SYS_ADMIN), true, "in a container, start that with --privileged"),
        finding("CAP_NET_ADMIN", capability(NET_ADMIN), true, "in a container, start that with --privileged"),
        finding(
            "CAP_SYS_RESOURCE",
            capability(SYS_RESOURCE),
            false,
            "without it pods can't have a lower OOM score than this process",
        ),
        finding("namespaces", namespaces, true, "use a kernel with CONFIG_NAMESPACES"),
        finding("overlayfs", file_system("overlay"), true, "load the module: modprobe overlay"),
        finding("cgroups", cgroups, true, "mount them: mount -t cgroup2 none /sys/fs/cgroup"),
        finding("the program nft", nft.is_ok(), true, "install it: apt-get install nftables, dnf install nftables"),
        finding(
            "nf_tables in the kernel",
            nft.is_ok_and(|o| o.status.success()),
            true,
            "load the module: modprobe nf_tables",
        ),
    ]
}

/// What an agent can't do without, and what it can't keep from pods.
///
/// # Errors
/// With everything that this machine lacks, each with its remedy.
pub fn require(args: &cli::NodeArgs) -> anyhow::Result<()> {
    args.reserved().check(&kubelet::MachineInfo::gather(&args.data_dir))?;
    let missing: Vec<String> = findings()
        .into_iter()
        .filter(|f| f.needed && !f.ok)
        .map(|f| format!("{} is missing: {}", f.what, f.remedy))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    anyhow::bail!("no pods can run on this machine: {} (timonel check shows all)", missing.join("; "))
}

/// Names the objects that a part of this machine's role leaves alone, and the way out.
fn report_quarantine(data_dir: &Path) {
    for part in ["server", "agent"] {
        let file = data_dir.join(part).join(part::QUARANTINE);
        let suspects = Quarantine::read(&file);
        for (key, suspect) in suspects.iter().filter(|(_, suspect)| suspect.is_quarantined()) {
            println!("quarantined  {key}: handling it ended the {part}'s process {} times", suspect.crashes);
            println!(
                "         change or delete the object; else remove it from {} and start timonel again",
                file.display()
            );
        }
    }
}

/// Names the tasks that a part of this machine's role has to start again and again.
fn report_tasks(data_dir: &Path) {
    for part in ["server", "agent"] {
        for (name, task) in tasks::read_report(&data_dir.join(part).join(part::TASKS)) {
            println!(
                "restarted    {name}: this task of the {part} was started again {} times ({})",
                task.restarts, task.reason
            );
            println!(
                "         the {part}'s log says why it ends, and the metric timonel_task_restarts_total how often"
            );
        }
    }
}

pub fn run(args: &cli::DataArgs) -> anyhow::Result<ExitCode> {
    let mut missing = false;
    for finding in findings() {
        let state = if finding.ok {
            "ok"
        } else if finding.needed {
            "missing"
        } else {
            "limited"
        };
        println!("{state:8} {}", finding.what);
        if !finding.ok {
            println!("         {}", finding.remedy);
            missing |= finding.needed;
        }
    }
    report_quarantine(&args.data_dir);
    report_tasks(&args.data_dir);
    if let Some(firewall) = firewall::active() {
        println!("firewall {} is active; what lets a cluster with the usual addresses through:", firewall.name());
        let needs = firewall::Needs {
            pods: cli::DEFAULT_CLUSTER_CIDR.parse()?,
            services: cli::DEFAULT_SERVICE_CIDR.parse()?,
            is_server: true,
        };
        firewall.commands(&needs).iter().for_each(|command| println!("         {command}"));
    }
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
