//! Settings of the kernel (ip-sysctl).

use crate::error::{NetworkError, system};

/// Sets `net.ipv4.conf.all.route_localnet` (ip-sysctl), so that programs of this machine reach node ports and host ports at 127.0.0.1. Rules must
/// drop packets of other machines to such addresses then (CVE-2020-8558).
///
/// # Errors
/// When /proc can't be written.
pub fn set_route_localnet(route: bool) -> Result<(), NetworkError> {
    let path = "/proc/sys/net/ipv4/conf/all/route_localnet";
    std::fs::write(path, if route { "1" } else { "0" }).map_err(system(format!("writing {path}")))
}

/// Enables IP forwarding (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`).
///
/// # Errors
/// When /proc can't be written, or IPv6 is requested and disabled.
pub fn enable_forwarding(ipv6: bool) -> Result<(), NetworkError> {
    let write = |path: &str, value: &str| std::fs::write(path, value).map_err(system(format!("writing {path}")));
    write("/proc/sys/net/ipv4/ip_forward", "1")?;
    if !ipv6 {
        return Ok(());
    }
    let of_all = |name: &str| format!("/proc/sys/net/ipv6/conf/all/{name}");
    if bounded::text(of_all("disable_ipv6"), bounded::MAX_KERNEL_FILE_BYTES).is_ok_and(|off| off.trim() != "0") {
        return Err(NetworkError::NoIpv6);
    }
    // With forwarding enabled, Linux ignores router advertisements unless accept_ra is 2, and the machine would lose its default route.
    for link in std::fs::read_dir("/proc/sys/net/ipv6/conf").map_err(|_| NetworkError::NoIpv6)?.flatten() {
        let path = link.path().join("accept_ra");
        if bounded::text(&path, bounded::MAX_KERNEL_FILE_BYTES).is_ok_and(|accepts| accepts.trim() == "1") {
            let _ = std::fs::write(&path, "2");
        }
    }
    write(&of_all("forwarding"), "1")
}
