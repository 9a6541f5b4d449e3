//! The machine that asks, where it is one of the cluster's.

use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::machine::{CERTIFICATE_DAYS, Machine};
use crate::object::since;
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of what this machine lacks.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    let Some(machine) = &s.machine else { return };
    let object = ObjectRef::new(Kind::Node, "", &machine.node);
    disk(machine, &object, out);
    kernel(machine, &object, out);
    if let Some(firewall) = &machine.firewall {
        let says = format!("this machine runs the firewall {firewall}");
        let finding = Finding::new(&codes::MACHINE_FIREWALL, object.clone(), says);
        out.push(finding.follows("what it doesn't know of pods and Services it drops").next("timonel check"));
    }
    if machine.clock_unsynchronized {
        let says = "this machine's clock isn't kept by a time server";
        let finding = Finding::new(&codes::MACHINE_CLOCK, object.clone(), says);
        out.push(
            finding.follows("certificates and tokens fail when it is off by minutes").next("timedatectl set-ntp true"),
        );
    }
    for certificate in &machine.certificates {
        let left = certificate.expires.duration_since(s.now).as_hours() / 24;
        if certificate.expires <= s.now {
            let says =
                format!("the certificate {} expired {} ago", certificate.file, since(Some(certificate.expires), s.now));
            let finding = Finding::new(&codes::CERTIFICATE_EXPIRED, object.clone(), says);
            out.push(
                finding
                    .follows("connections that use it are refused")
                    .next("systemctl restart timonel  (it renews its certificates)"),
            );
        } else if left < CERTIFICATE_DAYS && certificate.is_short_of_life(s.now) {
            let says = format!("the certificate {} expires in {left} days", certificate.file);
            let finding = Finding::new(&codes::CERTIFICATE_EXPIRES, object.clone(), says);
            out.push(
                finding
                    .follows("it should have been renewed by now")
                    .next("journalctl -u timonel | grep -i certificate"),
            );
        }
    }
}

fn disk(machine: &Machine, object: &ObjectRef, out: &mut Vec<Finding>) {
    let Some((free, size)) = machine.disk else { return };
    if size == 0 || free.saturating_mul(20) >= size || free > 5 << 30 {
        return;
    }
    let says = format!("the disk of {} has {} MiB left of {} MiB", machine.data_dir, free >> 20, size >> 20);
    let finding = Finding::new(&codes::MACHINE_DISK, object.clone(), says);
    let finding = finding.details(machine.largest.iter().map(|(path, bytes)| format!("{path}: {} MiB", bytes >> 20)));
    out.push(
        finding
            .follows("pods are evicted, and the database can't grow")
            .next(format!("du -xsh {}/*/*", machine.data_dir)),
    );
}

fn kernel(machine: &Machine, object: &ObjectRef, out: &mut Vec<Finding>) {
    let nearly = |figures: Option<(u64, u64)>| {
        figures.filter(|(used, limit)| used.saturating_mul(10) >= limit.saturating_mul(9))
    };
    if let Some((used, limit)) = nearly(machine.inotify) {
        let says = format!("{used} of {limit} instances of inotify are in use (fs.inotify.max_user_instances)");
        let finding = Finding::new(&codes::MACHINE_INOTIFY, object.clone(), says);
        let next = format!("sysctl -w fs.inotify.max_user_instances={}", limit.saturating_mul(8));
        out.push(finding.follows("programs in pods fail with \"too many open files\"").next(next));
    }
    if let Some((used, limit)) = nearly(machine.files) {
        let says = format!("{used} of {limit} files are open (fs.file-max)");
        let finding = Finding::new(&codes::MACHINE_FILES, object.clone(), says);
        out.push(
            finding
                .follows("nothing can open files when they are used up")
                .next(format!("sysctl -w fs.file-max={}", limit.saturating_mul(2))),
        );
    }
    if machine.forwards == Some(false) {
        let says = "this machine doesn't forward packets (net.ipv4.ip_forward is 0)";
        let finding = Finding::new(&codes::MACHINE_FORWARDING, object.clone(), says);
        out.push(finding.follows("pods reach nothing outside their node").next("sysctl -w net.ipv4.ip_forward=1"));
    }
    if !machine.missing_modules.is_empty() {
        let says = format!("this machine's kernel lacks {}", machine.missing_modules.join(", "));
        let finding = Finding::new(&codes::MACHINE_MODULES, object.clone(), says);
        out.push(
            finding
                .follows("pods or Services don't work on it")
                .next(format!("modprobe {}", machine.missing_modules.join(" "))),
        );
    }
}
