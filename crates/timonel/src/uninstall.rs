//! `timonel uninstall`: ends everything and removes every trace of the instance that its flags name: processes, mounts, interfaces, rules,
//! routes, cgroups, files. What another instance has stays. Done twice it does nothing the second time.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{self, UninstallArgs};
use crate::instance;

/// Where `install.sh` keeps the number of the process that it started where there is no systemd.
const PID_FILE: &str = "/run/timonel.pid";

pub fn run(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root can remove what root installed: use sudo");
    }
    if !args.yes && !confirmed(args)? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let is_installed = is_installed(args);
    if is_installed {
        stop_service();
    }
    // Before its processes are gone, and with them what they say of it.
    let network = instance::network(&args.run_dir);
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
    remove_network(network.as_ref());
    let _ = runtime::remove_tree(&args.run_dir);
    for folder in ["plugins_registry", "plugins", "pods"] {
        let _ = runtime::remove_tree(&plugins.join(folder));
    }
    let _ = std::fs::remove_dir(&plugins);
    if !args.keep_data {
        let _ = runtime::remove_tree(&args.data.data_dir);
    }
    if is_installed {
        remove_installation(args.keep_data);
    }
    eprintln!("timonel is removed{}", if args.keep_data { "; its data was kept" } else { "" });
    Ok(ExitCode::SUCCESS)
}

/// Whether the instance is the one that `install.sh` made: that in the usual folders, or in those that its service was told.
fn is_installed(args: &UninstallArgs) -> bool {
    let named = bounded::text("/etc/timonel/environment", bounded::MAX_OWN_FILE_BYTES).unwrap_or_default();
    let named = named.lines().find_map(|line| line.strip_prefix("TIMONEL_DATA_DIR=")).unwrap_or(cli::DATA_DIR);
    let started = bounded::text(PID_FILE, bounded::MAX_OWN_FILE_BYTES).ok().and_then(|text| text.trim().parse().ok());
    let is_started = started.is_some_and(|pid| is_ours(args, pid, &instance::Described::of(pid)));
    is_started || args.data.data_dir == Path::new(named)
}

/// What `install.sh` puts on a machine.
fn remove_installation(keep_data: bool) {
    if !keep_data {
        let _ = runtime::remove_tree(Path::new("/etc/timonel"));
    }
    for file in ["/etc/systemd/system/timonel.service", "/usr/local/bin/timonel", PID_FILE] {
        let _ = std::fs::remove_file(file);
    }
    let kubectl = Path::new("/usr/local/bin/kubectl");
    if std::fs::read_link(kubectl).is_ok_and(|target| target.ends_with("timonel")) {
        let _ = std::fs::remove_file(kubectl);
    }
}

fn confirmed(args: &UninstallArgs) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this removes the cluster on this machine; say --yes to confirm");
    }
    let what = if args.keep_data { "all pods" } else { "all pods, volumes and the database" };
    eprint!("This ends and removes {what} on this machine. Go on? [y/N] ");
    std::io::stderr().flush()?;
    let answer = bounded::line(&mut std::io::stdin().lock(), 4096)?.unwrap_or_default();
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

/// Whether a process works on these folders: a shim, or a server or an agent, whose folder is a flag or a variable, or the usual one.
fn is_ours(args: &UninstallArgs, pid: i32, process: &instance::Described) -> bool {
    if instance::process(&args.run_dir).is_some_and(|recorded| recorded.pid == pid) {
        return true;
    }
    let below = |folder: &Path| {
        let folder = folder.display().to_string();
        process.words.iter().any(|word| {
            *word == folder || word.starts_with(&format!("{folder}/")) || word.ends_with(&format!("={folder}"))
        })
    };
    if process.program() == "timonel-shim" {
        return below(&args.run_dir);
    }
    let data = process.flag("--data-dir", "TIMONEL_DATA_DIR");
    process.is_daemon() && args.data.data_dir == Path::new(data.as_deref().unwrap_or(cli::DATA_DIR))
}

/// Ends the servers, agents and shims that work on these folders, and no others.
fn stop_processes(args: &UninstallArgs) {
    let ours = || -> Vec<i32> {
        instance::processes().filter(|pid| is_ours(args, *pid, &instance::Described::of(*pid))).collect()
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

/// What is in this network, if it is the instance's and no other one's agent is in it.
fn remove_network(network: Option<&instance::Network>) {
    if network.is_some_and(|network| !network.is_here()) {
        eprintln!("warning: the instance's interfaces and rules are in another network namespace, and stay there");
        return;
    }
    if instance::others_are_here() {
        eprintln!("warning: another instance runs in this network; the interfaces and rules stay for it");
        return;
    }
    // Ours if the rules are that make it harmless, and before they go.
    if quietly("nft", &["list", "table", "ip", crate::agent::TABLE]) {
        let _ = network::set_route_localnet(false);
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
    if let Some(network) = network {
        instance::restore_forwarding(network);
    }
}

/// Whether an interface is a pod's: their names are made of the pods' uids.
fn is_port(name: &str) -> bool {
    let uid = name.strip_prefix(network::VETH_PREFIX).unwrap_or("");
    uid.len() == 11 && uid.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(data: &Path, run: &Path) -> UninstallArgs {
        UninstallArgs {
            data: cli::DataArgs { data_dir: data.into() },
            run_dir: run.into(),
            cgroup_root: "x".into(),
            kubelet_dir: None,
            keep_data: false,
            yes: true,
        }
    }

    #[test]
    fn only_the_instances_own_processes_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        let args = arguments(&data, &run);
        let own = std::process::id() as i32;
        let is = |pid: i32, words: &str| {
            let process = instance::Described::new(words.split(' ').map(String::from).collect());
            is_ours(&args, pid, &process)
        };
        let (data, run) = (data.display(), run.display());
        for (words, ours) in [
            (format!("/usr/bin/timonel server --data-dir {data}"), true),
            (format!("timonel agent --data-dir={data} --run-dir x"), true),
            (format!("timonel agent --data-dir {data}2"), false),
            ("timonel agent".to_string(), false),
            (format!("timonel kubectl --data-dir {data}"), false),
            (format!("timonel-shim {run}/pods/1"), true),
            (format!("timonel-shim {run}2/pods/1"), false),
            (format!("vi {data}/server"), false),
        ] {
            assert_eq!(is(own, &words), ours, "{words}");
        }
        // Whatever it is called: the run folder says which process it is.
        instance::record_process(&args.run_dir).unwrap();
        assert!(is(own, "another-name server"));
        assert!(!is(own + 1, "another-name server"));
        assert!(!is_installed(&args), "what install.sh put on the machine is another instance's");
    }

    #[test]
    fn interfaces_of_others_are_left_alone() {
        assert!(is_port("tp0123456789a"));
        for name in ["tp0", "tp-link0", "tp0123456789ab", "eth0", "tp0123456789g"] {
            assert!(!is_port(name), "{name}");
        }
    }
}
