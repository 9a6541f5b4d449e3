//! `timonel uninstall`: ends everything and removes every trace: processes, mounts, interfaces, rules, cgroups, files.
//! Done twice it does nothing the second time.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{self, UninstallArgs};

pub fn run(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root can remove what root installed: use sudo");
    }
    if !args.yes && !confirmed(args)? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    stop_service();
    stop_processes(args);
    // Without this the network plugin would wait for the agent to come back.
    let _ = std::fs::remove_file(args.run_dir.join("cni.sock"));
    let removed = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(crate::runtimes::remove_pods(&args.data.data_dir.join("agent")));
    if let Err(error) = removed {
        eprintln!("warning: pods may be left in the container runtime: {error:#}");
    }
    let cgroup = format!("/{}", args.cgroup_root.trim_matches('/'));
    runtime::cgroup::destroy(&cgroup);
    runtime::cgroup::destroy(&crate::supervisor::cgroup(&cgroup));
    let plugins = cli::kubelet_dir(args.kubelet_dir.as_deref(), &args.data.data_dir);
    runtime::rootfs::unmount_below(&[&args.run_dir, &args.data.data_dir, &plugins])?;
    remove_network();
    let _ = runtime::remove_tree(&args.run_dir);
    for folder in ["plugins_registry", "plugins", "pods"] {
        let _ = runtime::remove_tree(&plugins.join(folder));
    }
    let _ = std::fs::remove_dir(&plugins);
    if !args.keep_data {
        let _ = runtime::remove_tree(&args.data.data_dir);
        let _ = runtime::remove_tree(Path::new("/etc/timonel"));
    }
    for file in ["/etc/systemd/system/timonel.service", "/usr/local/bin/timonel", "/run/timonel.pid"] {
        let _ = std::fs::remove_file(file);
    }
    let kubectl = Path::new("/usr/local/bin/kubectl");
    if std::fs::read_link(kubectl).is_ok_and(|target| target.ends_with("timonel")) {
        let _ = std::fs::remove_file(kubectl);
    }
    eprintln!("timonel is removed{}", if args.keep_data { "; its data was kept" } else { "" });
    Ok(ExitCode::SUCCESS)
}

fn confirmed(args: &UninstallArgs) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this removes the cluster on this machine; say --yes to confirm");
    }
    let what = if args.keep_data { "all pods" } else { "all pods, volumes and the database" };
    eprint!("This ends and removes {what} on this machine. Go on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Runs a program; whether it succeeded.
fn quietly(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn stop_service() {
    if Path::new("/run/systemd/system").exists() {
        quietly("systemctl", &["disable", "--now", "timonel.service"]);
    }
}

/// Ends the servers, agents and shims that work on these folders, and no others.
fn stop_processes(args: &UninstallArgs) {
    let (data, run) = (args.data.data_dir.display().to_string(), args.run_dir.display().to_string());
    let default = data == cli::DATA_DIR;
    let ours = || -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|p| p.file_name().to_string_lossy().parse::<i32>().ok())
            .filter(|pid| *pid != std::process::id() as i32)
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let words: Vec<String> =
                    line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
                let program = words.first().and_then(|w| w.rsplit('/').next()).unwrap_or("");
                let role = words.get(1).map(String::as_str).unwrap_or("");
                let names = |folder: &str| {
                    words
                        .iter()
                        .any(|w| w == folder || w.contains(&format!("{folder}/")) || w.ends_with(&format!("={folder}")))
                };
                match (program, role) {
                    ("timonel-shim", _) => names(&run),
                    ("timonel", "server" | "agent") => {
                        names(&data) || (default && !words.iter().any(|w| w.starts_with("--data-dir")))
                    }
                    _ => false,
                }
            })
            .collect()
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for pid in ours() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        // A server may start a shim with its last breath, behind the back of who looks just then: two looks in a row.
        let mut quiet = 0;
        for _ in 0..100 {
            quiet = if ours().is_empty() { quiet + 1 } else { 0 };
            if quiet == 2 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn remove_network() {
    // Ours if the rules are that make it harmless, and before they go.
    if quietly("nft", &["list", "table", "ip", crate::agent::TABLE]) {
        let _ = network::route_loopback(false);
    }
    for table in [crate::agent::TABLE, crate::agent::POLICY_TABLE] {
        quietly("nft", &["delete", "table", "ip", table]);
        quietly("nft", &["delete", "table", "ip6", table]);
    }
    for link in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = link.file_name().to_string_lossy().into_owned();
        if is_port(&name) {
            quietly("ip", &["link", "delete", &name]);
        }
    }
    let protocol = network::ROUTE_PROTOCOL.to_string();
    for family in ["-4", "-6"] {
        quietly("ip", &[family, "route", "flush", "proto", &protocol]);
    }
    quietly("ip", &["link", "delete", crate::bridge::NAME]);
    quietly("ip", &["link", "delete", crate::routes::OVERLAY]);
}

/// Whether an interface is a pod's: their names are made of the pods' uids.
fn is_port(name: &str) -> bool {
    let uid = name.strip_prefix(network::PORTS).unwrap_or("");
    uid.len() == 11 && uid.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::is_port;

    #[test]
    fn interfaces_of_others_are_left_alone() {
        assert!(is_port("tp0123456789a"));
        for name in ["tp0", "tp-link0", "tp0123456789ab", "eth0", "tp0123456789g"] {
            assert!(!is_port(name), "{name}");
        }
    }
}
