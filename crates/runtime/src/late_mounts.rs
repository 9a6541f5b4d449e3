//! The machine's `/dev` in a container, as storage drivers want it. `libcontainer` makes devices in what is mounted there and fails
//! where they are already; so this mount is made by a hook after all else (runtime-spec, `createContainer`), and the hook is this
//! same program.

use std::path::Path;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};

use crate::resources::{Hook, Mount};

/// `timonel __bind SOURCE TARGET PROPAGATION MODE`
const ARGUMENT: &str = "__bind";

/// Whether a mount is one of those.
pub fn is_late(mount: &Mount) -> bool {
    mount.target == Path::new("/dev")
}

/// The hooks that make those mounts of a container.
pub fn hooks(mounts: &[Mount], rootfs: &Path) -> Vec<Hook> {
    // What runs is found by its process: the file may have been replaced by a newer one.
    let program = format!("/proc/{}/exe", std::process::id());
    let hook = |m: &Mount| {
        let target = rootfs.join(m.target.strip_prefix("/").unwrap_or(&m.target));
        let mode = if m.read_only { "ro" } else { "rw" };
        let (source, target) = (m.source.display().to_string(), target.display().to_string());
        let args = ["timonel", ARGUMENT, &source, &target, m.propagation, mode].map(String::from).into();
        Hook { point: "createContainer", path: program.clone().into(), args, env: Vec::new(), timeout: None }
    };
    mounts.iter().filter(|m| is_late(m)).map(hook).collect()
}

/// Makes such a mount if this process was started for that.
pub fn bind_main() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let rest: Vec<String> = arguments.collect();
    let [source, target, propagation, mode] = rest.as_slice() else { return Some(ExitCode::FAILURE) };
    match bind(Path::new(source), Path::new(target), propagation, mode) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{source} can't be mounted at {target}: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn bind(source: &Path, target: &Path, propagation: &str, mode: &str) -> nix::Result<()> {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    let kind = match propagation {
        "rshared" => MsFlags::MS_SHARED,
        "rslave" => MsFlags::MS_SLAVE,
        _ => MsFlags::MS_PRIVATE,
    };
    mount(none, target, none, kind | MsFlags::MS_REC, none)?;
    if mode == "ro" {
        mount(none, target, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)?;
    }
    Ok(())
}
