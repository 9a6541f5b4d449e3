//! Users, rights, devices and namespaces of a container.

use crate::rows::Look::{Printed, Says, Status};
use crate::rows::check;

#[test]
fn who_a_container_is_and_what_it_may() -> anyhow::Result<()> {
    let selinux = std::path::Path::new("/sys/fs/selinux/enforce").exists();
    let app_armor = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with(b"Y"));
    check(
        "",
        &[
            (
                "user",
                "securityContext: {runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000], fsGroup: 2000}",
                Says("id -u; id -g; id -G | tr ' ' '\\n' | sort | tr '\\n' ' '"),
                "1000\n3000\n2000 3000 4000",
            ),
            (
                "user-own",
                "securityContext: {runAsUser: 1000}\nc: securityContext: {runAsUser: 2000, runAsGroup: 5}",
                Says("id -u; id -g"),
                "2000\n5",
            ),
            (
                "non-root",
                "c: securityContext: {runAsNonRoot: true}",
                Status("/containerStatuses/0/state/waiting/reason"),
                "CreateContainerConfigError",
            ),
            ("non-root-user", "securityContext: {runAsNonRoot: true, runAsUser: 7}", Says("id -u"), "7"),
            (
                "strict-groups",
                "securityContext: {runAsUser: 0, supplementalGroupsPolicy: Strict, supplementalGroups: [9]}",
                Says("id -G"),
                "0 9",
            ),
            (
                "fs-group",
                "securityContext: {fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch}\nvolumes: [{name: v, emptyDir: {}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("stat -c '%g %a' /v; touch /v/f; stat -c %g /v/f"),
                "2000 2777\n2000",
            ),
            (
                "no-rights",
                "c: securityContext: {capabilities: {drop: [ALL]}}",
                Says("grep CapEff /proc/self/status | cut -f2"),
                "0000000000000000",
            ),
            (
                "one-right",
                "c: securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}",
                Says("grep CapEff /proc/self/status | cut -f2"),
                "0000000000001000",
            ),
            ("plain-rights", "", Says("grep CapEff /proc/self/status | cut -f2"), "00000000a80425fb"),
            (
                "privileged",
                "c: securityContext: {privileged: true}",
                Says("test -c /dev/kmsg && mount -t tmpfs x /tmp && echo may"),
                "may",
            ),
            (
                "plain-devices",
                "",
                Says("test -e /dev/kmsg || mknod /tmp/d c 1 11 && cat /tmp/d | head -c1; ls /dev | tr '\\n' ' '"),
                "~null",
            ),
            (
                "root-read-only",
                "c: securityContext: {readOnlyRootFilesystem: true}",
                Says("touch /x"),
                "~Read-only file system",
            ),
            (
                "no-new-rights",
                "c: securityContext: {allowPrivilegeEscalation: false}",
                Says("grep NoNewPrivs /proc/self/status | cut -f2"),
                "1",
            ),
            (
                "seccomp",
                "securityContext: {seccompProfile: {type: RuntimeDefault}}",
                Says("grep Seccomp: /proc/self/status | cut -f2"),
                "2",
            ),
            (
                "seccomp-own",
                "c: securityContext: {seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}}",
                Says("touch /tmp/f && mkdir /tmp/d"),
                "~Read-only file system",
            ),
            (
                "seccomp-none",
                "c: securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}",
                Status("/containerStatuses/0/state/waiting/message"),
                "~none.json\": No such file or directory",
            ),
            (
                "seccomp-bad",
                "c: securityContext: {seccompProfile: {type: Localhost, localhostProfile: bad.json}}",
                Status("/containerStatuses/0/state/waiting/message"),
                "~the action \"SCMP_ACT_MAYBE\" isn't known",
            ),
            (
                "unconfined",
                "c: securityContext: {seccompProfile: {type: Unconfined}}",
                Says("grep Seccomp: /proc/self/status | cut -f2"),
                "0",
            ),
            (
                "sysctls",
                "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '1'}, {name: kernel.shm_rmid_forced, value: '1'}]}",
                Says("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"),
                "1\n1",
            ),
            ("masked", "", Says("echo 0 > /proc/sys/kernel/panic; ls /sys/firmware | wc -l"), "~Read-only file system"),
            (
                // Who says nothing has the runtime's profile, too, unless he is privileged.
                "app-armor-unsaid",
                "",
                Says("echo here; cat /proc/self/attr/current"),
                if app_armor { "here\ntimonel-default (enforce)" } else { "~here" },
            ),
            (
                "app-armor-privileged",
                "c: securityContext: {privileged: true}",
                Says("echo here; cat /proc/self/attr/current"),
                if app_armor { "here\nunconfined" } else { "~here" },
            ),
            if app_armor {
                let row = "cat /proc/self/attr/current; echo 1 > /proc/sys/kernel/panic";
                (
                    "app-armor",
                    "securityContext: {appArmorProfile: {type: RuntimeDefault}}",
                    Says(row),
                    "~timonel-default (enforce)",
                )
            } else {
                (
                    "app-armor",
                    "securityContext: {appArmorProfile: {type: RuntimeDefault}}",
                    Status("/reason"),
                    "AppArmor",
                )
            },
            (
                // Where the kernel has none, nobody minds.
                "selinux",
                "securityContext: {seLinuxOptions: {level: 's0:c1,c2'}}",
                Says(
                    "cat /proc/self/attr/current | tr '\\0' '\\n'; grep ' / ' /proc/mounts | grep -o container_file_t:s0:c1,c2; echo here",
                ),
                if selinux {
                    "system_u:system_r:container_t:s0:c1,c2\ncontainer_file_t:s0:c1,c2\nhere"
                } else {
                    "~here"
                },
            ),
            ("windows", "os: {name: windows}", Status("/reason"), "PodOSNotSupported"),
            ("linux", "os: {name: linux}", Says("echo here"), "here"),
            (
                "own-users",
                "hostUsers: false",
                Says(
                    "awk '{print ($2 >= 65536), $3}' /proc/self/uid_map; id -u; touch /f; stat -c %u /f /bin/busybox /dev/null; test $(readlink /proc/1/ns/user) = $(readlink /proc/self/ns/user) && echo same",
                ),
                "1 65536\n0\n0\n0\n65534\nsame",
            ),
            // The end of a container writes out nobody's data.
            ("layer-is-volatile", "", Says("grep ' / ' /proc/mounts | grep -o volatile"), "volatile"),
            (
                "own-users-unmasked",
                "hostUsers: false\nc: securityContext: {procMount: Unmasked}",
                Says("unshare -Urmpf mount -t proc proc /proc && echo may; grep ' /proc/' /proc/mounts | wc -l"),
                "may\n0",
            ),
            (
                // As programs do that log to `/dev/stdout`, whoever they are.
                "streams-by-name",
                "securityContext: {runAsUser: 1000}\nrestartPolicy: Never\nc: command: [sh, -c, 'echo out > /dev/stdout; sleep 0.3; echo err > /dev/stderr']",
                Printed,
                "out\nerr",
            ),
            (
                "own-users-streams-by-name",
                "hostUsers: false\nsecurityContext: {runAsUser: 1000}\nrestartPolicy: Never\nc: command: [sh, -c, 'echo out > /dev/stdout; sleep 0.3; echo err > /dev/stderr']",
                Printed,
                "out\nerr",
            ),
            ("streams-of-exec", "securityContext: {runAsUser: 1000}", Says("echo out > /dev/stdout"), "out"),
            (
                "own-users-volumes",
                "hostUsers: false\nsecurityContext: {fsGroup: 2000, runAsUser: 1000}\nvolumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]\nc: volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}]",
                Says(
                    "cd /var/run/secrets/kubernetes.io/serviceaccount; test -s token && ! touch x; touch /v/f /m/f; stat -c '%u %g' /v /v/f /m/f",
                ),
                "~0 2000\n1000 2000\n1000 2000",
            ),
            (
                "own-users-rights",
                "hostUsers: false\nshareProcessNamespace: true\nc: securityContext: {capabilities: {add: [SYS_ADMIN, NET_ADMIN]}}",
                Says(
                    "mkdir -p /w && mount -t tmpfs x /w && ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu /proc/1/comm; mknod /w/n c 1 3 || echo no device",
                ),
                "~1400\npause",
            ),
            (
                "own-users-device",
                "hostUsers: false\nvolumes: [{name: v, hostPath: {path: /sys/kernel}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Status("/containerStatuses/0/state/waiting/message"),
                "~its file system can't show other users' names",
            ),
            (
                "own-users-sysctl",
                "hostUsers: false\nsecurityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '1'}]}",
                Says("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"),
                "1",
            ),
            ("host-pids", "hostPID: true", Says("tr '\\0' ' ' < /proc/1/cmdline | grep -c sleep"), "~0"),
            (
                "host-ipc",
                "hostIPC: true\nrestartPolicy: Never\nc: command: [sh, -c, 'readlink /proc/self/ns/ipc > /tmp/own; readlink /proc/1/ns/ipc; test -d /dev/shm && echo shm']",
                Printed,
                "~shm",
            ),
            (
                "host-network",
                "hostNetwork: true",
                Says("hostname; cat /sys/class/net/timonel0/flags"),
                "server-1\n0x1003",
            ),
        ],
    )
}
