//! AppArmor, where the kernel has it: the profile that containers get who name no other, and whether a machine's profile is there.

use std::io;
use std::process::Command;

/// The name of our own profile.
pub const DEFAULT: &str = "timonel-default";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// What containers may do with files that name the kernel's own things, and to one another; the rest is left to capabilities and
/// system call filters. It denies what Docker's and containerd's denies.
const PROFILE: &str = r"
profile timonel-default flags=(attach_disconnected,mediate_deleted) {
  capability,
  network,
  file,
  umount,
  deny mount,

  # The node ends its containers, and the processes of one may signal and trace each other.
  signal (receive) peer=unconfined,
  signal (send,receive) peer=timonel-default,
  ptrace (trace,read,tracedby,readby) peer=timonel-default,

  # Of /proc, what isn't a process's own may not be written, but for shared memory's limits.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys, only what is below fs/cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// Whether the kernel has it, and it is on.
pub fn is_enabled() -> bool {
    let enabled = bounded::text("/sys/module/apparmor/parameters/enabled", bounded::MAX_KERNEL_FILE_BYTES);
    enabled.is_ok_and(|text| text.trim() == "Y")
}

/// Whether a profile is loaded; nothing, if the kernel's list can't be seen.
fn is_loaded(name: &str) -> Option<bool> {
    let list = bounded::text(LOADED, bounded::MAX_OWN_FILE_BYTES).ok()?;
    Some(list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(profile, _)| profile == name)))
}

/// Sees to it that our own profile is loaded.
///
/// # Errors
/// With what `apparmor_parser` says, or that there is none.
pub fn load_default() -> io::Result<()> {
    if is_loaded(DEFAULT) == Some(true) {
        return Ok(());
    }
    let missing =
        |e| io::Error::other(format!("apparmor_parser can't be run (is the package apparmor installed?): {e}"));
    let mut parser = Command::new("apparmor_parser");
    let parser = parser.args(["--replace", "--skip-cache"]);
    let output = bounded::output_blocking(parser, PROFILE.as_bytes(), 64 << 10).map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "apparmor_parser refused {DEFAULT}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// # Errors
/// When the machine has no such profile.
pub fn check(name: &str) -> io::Result<()> {
    match is_loaded(name) {
        Some(false) => Err(io::Error::other(format!("AppArmor profile {name:?} is not loaded on this machine"))),
        _ => Ok(()),
    }
}
