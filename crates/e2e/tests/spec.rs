//! A pod is on its node what its spec says: a row for each field, on real containers. `docs/conformance.md` lists the fields.

use testkit::Cluster;

use crate::rows::Look::{Event, Printed, Says, Status};
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

#[test]
fn what_a_container_knows() -> anyhow::Result<()> {
    check(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\ndata: {one: '1', two: '2'}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: secret}\nstringData: {pass: word}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot}\n---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: known}\nhandler: runc\noverhead: {podFixed: {memory: 8Mi, cpu: 10m}}\n---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: strange}\nhandler: gvisor\n",
        &[
            ("command", "restartPolicy: Never\nc: command: [echo, one]\nc: args: [two]", Printed, "one two"),
            (
                "args",
                "restartPolicy: Never\nc: args: [echo, $(A) $$(A) $(NONE)]\nc: env: [{name: A, value: a}]",
                Printed,
                "a $(A) $(NONE)",
            ),
            ("working-dir", "c: workingDir: /usr/new", Says("pwd"), "/usr/new"),
            ("env", "c: env: [{name: A, value: a}, {name: B, value: $(A)b}]", Says("echo $A $B"), "a ab"),
            (
                "env-from",
                "c: envFrom: [{prefix: P_, configMapRef: {name: map}}, {secretRef: {name: secret}}, {configMapRef: {name: none, optional: true}}]",
                Says("echo $P_one $P_two $pass"),
                "1 2 word",
            ),
            (
                "env-keys",
                "c: env: [{name: A, valueFrom: {configMapKeyRef: {name: map, key: one}}}, {name: B, valueFrom: {secretKeyRef: {name: secret, key: pass}}}, {name: C, valueFrom: {configMapKeyRef: {name: map, key: none, optional: true}}}]",
                Says("echo $A $B ${C-unset}"),
                "1 word unset",
            ),
            (
                "env-missing",
                "c: env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: one}}}]",
                Status("/containerStatuses/0/state/waiting/message"),
                "configmap \"none\" not found",
            ),
            (
                "env-fields",
                "c: env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: B, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: C, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['row']\"}}}, {name: D, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}, {name: E, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}, {name: F, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}]",
                Says("echo $A $B $C $D $E $F"),
                "env-fields server-1 env-fields hello default default",
            ),
            (
                "env-ip",
                "c: env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: B, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]",
                Says("test $A = $(hostname -i) && echo $B"),
                "192.0.2.1",
            ),
            (
                "env-resources",
                "c: resources: {limits: {cpu: 1500m, memory: 64Mi}, requests: {cpu: 250m, memory: 32Mi}}\nc: env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}, {name: B, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}, {name: C, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}]",
                Says("echo $A $B $C"),
                "2 32 250",
            ),
            (
                "env-file",
                "volumes: [{name: v, emptyDir: {}}]\ninitContainers: [{name: w, image: 'busybox:1.28', command: [sh, -c, 'echo A=from-file > /v/env'], volumeMounts: [{name: v, mountPath: /v}]}]\nc: env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: A}}}]",
                Says("echo $A"),
                "from-file",
            ),
            (
                "links",
                "c: env: []",
                Says("echo $KUBERNETES_SERVICE_HOST $KUBERNETES_PORT_443_TCP_PORT"),
                "10.43.0.1 443",
            ),
            ("no-links", "enableServiceLinks: false", Says("echo $KUBERNETES_SERVICE_HOST"), "10.43.0.1"),
            (
                "hostname",
                "hostname: other\nsubdomain: sub",
                Says("hostname; grep -c other.sub.default.svc.cluster.local /etc/hosts"),
                "other\n1",
            ),
            (
                "fqdn",
                "hostname: other\nsubdomain: sub\nsetHostnameAsFQDN: true",
                Says("hostname"),
                "other.sub.default.svc.cluster.local",
            ),
            (
                "fqdn-long",
                "hostname: a-name-that-is-rather-long-for-a-host\nsubdomain: sub\nsetHostnameAsFQDN: true",
                Event("FailedCreatePodSandBox"),
                "~is too long (64 characters is the max",
            ),
            ("hosts", "", Says("head -1 /etc/hosts"), "# Kubernetes-managed hosts file."),
            (
                "hosts-host",
                "hostNetwork: true",
                Says("head -1 /etc/hosts"),
                "# Kubernetes-managed hosts file (host network).",
            ),
            ("home", "", Says("echo $HOME"), "/root"),
            ("home-of-nobody", "securityContext: {runAsUser: 12345}", Says("echo $HOME"), "/"),
            (
                "env-without-end",
                "c: env: [{name: A, value: abcdefghij}, {name: B, value: $(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)}, {name: C, value: $(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)}, {name: D, value: $(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)$(C)}, {name: E, value: $(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)$(D)}]",
                Status("/containerStatuses/0/state/waiting/message"),
                "~the environment of container \"c\" is too large",
            ),
            ("name-override", "hostnameOverride: any.name.at.all", Says("hostname"), "any.name.at.all"),
            (
                "aliases",
                "hostAliases: [{ip: 192.0.2.77, hostnames: [far, away]}]",
                Says("grep 192.0.2.77 /etc/hosts | tr '\\t' ' '"),
                "192.0.2.77 far away",
            ),
            (
                "dns",
                "",
                Says("cat /etc/resolv.conf"),
                "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:5",
            ),
            (
                "dns-own",
                "dnsPolicy: None\ndnsConfig: {nameservers: [192.0.2.53], searches: [a.b], options: [{name: ndots, value: '2'}, {name: edns0}]}",
                Says("cat /etc/resolv.conf"),
                "search a.b\nnameserver 192.0.2.53\noptions ndots:2 edns0",
            ),
            (
                "dns-more",
                "dnsConfig: {searches: [a.b], options: [{name: ndots, value: '3'}]}",
                Says("cat /etc/resolv.conf"),
                "search default.svc.cluster.local svc.cluster.local cluster.local a.b\nnameserver 10.43.0.10\noptions ndots:3",
            ),
            (
                "dns-host",
                "dnsPolicy: ClusterFirstWithHostNet\nhostNetwork: true",
                Says("grep -c 10.43.0.10 /etc/resolv.conf"),
                "1",
            ),
            (
                "account",
                "serviceAccountName: robot",
                Says(
                    "cut -d. -f2 /var/run/secrets/kubernetes.io/serviceaccount/token | tr _- /+ | base64 -d 2>/dev/null | grep -o 'system:serviceaccount:default:[a-z]*'",
                ),
                "system:serviceaccount:default:robot",
            ),
            (
                "no-token",
                "automountServiceAccountToken: false",
                Says("ls /var/run/secrets/kubernetes.io 2>&1 | wc -l"),
                "1",
            ),
            (
                "message-path",
                "restartPolicy: Never\nc: command: [sh, -c, 'echo last words > /tmp/m; exit 3']\nc: terminationMessagePath: /tmp/m",
                Status("/containerStatuses/0/state/terminated/message"),
                "last words",
            ),
            (
                "message-logs",
                "restartPolicy: Never\nc: command: [sh, -c, 'echo it broke; exit 3']\nc: terminationMessagePolicy: FallbackToLogsOnError",
                Status("/containerStatuses/0/state/terminated/message"),
                "it broke",
            ),
            (
                // However much somebody writes there.
                "message-large",
                "restartPolicy: Never\nc: command: [sh, -c, 'printf end | dd of=/dev/termination-log bs=1 seek=1000000000000; exit 3']",
                Status("/containerStatuses/0/state/terminated/message"),
                "~\0end",
            ),
            ("class", "runtimeClassName: known", Says("echo here"), "here"),
            (
                "class-unknown",
                "runtimeClassName: strange",
                Event("FailedCreatePodSandBox"),
                "~no runtime for \"gvisor\" is configured",
            ),
        ],
    )
}

#[test]
fn how_a_container_lives_and_ends() -> anyhow::Result<()> {
    check(
        "",
        &[
            (
                "started",
                "c: command: [sh, -c, 'sleep 1; touch /tmp/up; sleep 36000']\nc: startupProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 30}\nc: livenessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 1}",
                Status("/containerStatuses/0/started"),
                "true",
            ),
            (
                "never-started",
                "c: startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}",
                Event("Unhealthy"),
                "~Startup probe failed",
            ),
            (
                "not-alive",
                "c: livenessProbe: {tcpSocket: {port: 81}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}",
                Status("/containerStatuses/0/restartCount"),
                "~1",
            ),
            (
                "ready-late",
                "c: readinessProbe: {exec: {command: ['true']}, initialDelaySeconds: 1, periodSeconds: 1, successThreshold: 2}",
                Status("/containerStatuses/0/ready"),
                "true",
            ),
            (
                "by-http",
                "c: command: [sh, -c, 'mkdir /w; echo ok > /w/ok; httpd -f -p 80 -h /w']\nc: readinessProbe: {httpGet: {path: ok, port: 80, httpHeaders: [{name: X-A, value: b}]}, periodSeconds: 1}",
                Status("/containerStatuses/0/ready"),
                "true",
            ),
            (
                "by-http-not",
                "c: command: [sh, -c, 'httpd -f -p 80 -h /tmp']\nc: readinessProbe: {httpGet: {path: /none, port: 80}, periodSeconds: 1}",
                Event("Unhealthy"),
                "~HTTP probe failed with statuscode: 404",
            ),
            (
                "by-grpc-not",
                "c: readinessProbe: {grpc: {port: 9000}, periodSeconds: 1}",
                Event("Unhealthy"),
                "~Readiness probe failed",
            ),
            (
                "init-fails",
                "restartPolicy: Never\ninitContainers: [{name: w, image: 'busybox:1.28', command: ['false']}]",
                Status("/conditions/1/message"),
                "containers with incomplete status: [w]",
            ),
            (
                "any-patience",
                "terminationGracePeriodSeconds: 9223372036854775807\nc: livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 9223372036854775807}\nc: command: [sh, -c, \"trap 'exit 7' TERM; while :; do sleep 0.1; done\"]",
                Status("/containerStatuses/0/lastState/terminated/exitCode"),
                "7",
            ),
            (
                "post-start",
                "c: lifecycle: {postStart: {exec: {command: [sh, -c, 'echo hook > /tmp/hook']}}}",
                Says("cat /tmp/hook"),
                "hook",
            ),
            (
                "post-start-not",
                "c: lifecycle: {postStart: {exec: {command: ['false']}}}",
                Event("FailedPostStartHook"),
                "~PostStartHook failed",
            ),
            (
                "on-failure",
                "restartPolicy: OnFailure\nvolumes: [{name: v, emptyDir: {}}]\nc: command: [sh, -c, 'echo x >> /v/n; test $(wc -l < /v/n) -ge 3']\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Status("/containerStatuses/0/restartCount"),
                "2",
            ),
            ("never", "restartPolicy: Never\nc: command: ['false']", Status("/phase"), "Failed"),
            (
                "rules",
                "restartPolicy: Never\nvolumes: [{name: v, emptyDir: {}}]\nc: command: [sh, -c, 'echo x >> /v/n; test $(wc -l < /v/n) -ge 3 && exit 1; exit 42']\nc: volumeMounts: [{name: v, mountPath: /v}]\nc: restartPolicy: Never\nc: restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]",
                Status("/containerStatuses/0/restartCount"),
                "2",
            ),
            (
                "own-policy",
                "restartPolicy: Always\nc: command: ['true']\nc: restartPolicy: Never",
                Status("/phase"),
                "Succeeded",
            ),
            ("deadline", "activeDeadlineSeconds: 2\nrestartPolicy: Never", Status("/reason"), "DeadlineExceeded"),
            ("gates", "readinessGates: [{conditionType: example.com/gate}]", Status("/conditions/0/status"), "~True"),
            (
                "image-never",
                "c: image: none:1\nc: imagePullPolicy: Never",
                Status("/containerStatuses/0/state/waiting/reason"),
                "~ErrImageNeverPull",
            ),
            (
                "sidecar",
                "restartPolicy: Never\ninitContainers: [{name: s, image: 'busybox:1.28', restartPolicy: Always, command: [sleep, '36000']}]\nc: command: [echo, done]",
                Status("/phase"),
                "Succeeded",
            ),
            (
                "init-not",
                "restartPolicy: Never\ninitContainers: [{name: i, image: 'busybox:1.28', command: ['false']}]",
                Status("/phase"),
                "Failed",
            ),
        ],
    )
}

#[test]
fn what_a_container_finds_in_its_volumes() -> anyhow::Result<()> {
    check(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\ndata: {one: '1', two: '2'}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: secret}\nstringData: {pass: word}\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: claim}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n",
        &[
            (
                "empty",
                "volumes: [{name: v, emptyDir: {}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("echo x > /v/f && cat /v/f"),
                "x",
            ),
            (
                "memory",
                "volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says(
                    "grep ' /v ' /proc/mounts | cut -d' ' -f3; dd if=/dev/zero of=/v/f bs=1M count=2 2>&1 | grep -o 'No space left'",
                ),
                "tmpfs\nNo space left",
            ),
            (
                "map",
                "volumes: [{name: v, configMap: {name: map, defaultMode: 0400, items: [{key: one, path: sub/first}]}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("cat /v/sub/first; stat -L -c %a /v/sub/first; ls /v"),
                "1400\nsub",
            ),
            (
                "map-missing",
                "volumes: [{name: v, configMap: {name: none}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Event("FailedMount"),
                "~configmap \"none\" not found",
            ),
            (
                "map-optional",
                "volumes: [{name: v, configMap: {name: none, optional: true}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("ls /v | wc -l"),
                "0",
            ),
            (
                "secret",
                "volumes: [{name: v, secret: {secretName: secret}}]\nc: volumeMounts: [{name: v, mountPath: /v, readOnly: true}]",
                Says("cat /v/pass; echo; stat -f -c %T /v; touch /v/x"),
                "~word\ntmpfs",
            ),
            (
                "downward",
                "volumes: [{name: v, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}, mode: 0440}, {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}]}}]\nc: resources: {limits: {cpu: 100m}}\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("cat /v/name /v/cpu; stat -L -c ' %a' /v/name"),
                "downward100 440",
            ),
            (
                "projected",
                "volumes: [{name: v, projected: {sources: [{configMap: {name: map}}, {secret: {name: secret, items: [{key: pass, path: deep/pass}]}}, {downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}}, {serviceAccountToken: {path: token, audience: them, expirationSeconds: 600}}]}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says(
                    "cat /v/one /v/deep/pass /v/ns; cut -d. -f2 /v/token | tr _- /+ | base64 -d 2>/dev/null | grep -o '\"aud\":.\"[a-z]*\"'",
                ),
                "1worddefault\"aud\":[\"them\"",
            ),
            (
                "host-path",
                "volumes: [{name: v, hostPath: {path: FOLDER/host-path, type: DirectoryOrCreate}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("echo y > /v/f; cat /v/f; rm /v/f"),
                "y",
            ),
            (
                "host-file",
                "volumes: [{name: v, hostPath: {path: /etc/hostname, type: File}}]\nc: volumeMounts: [{name: v, mountPath: /v, readOnly: true}]",
                Says("test -f /v && echo file; echo x > /v"),
                "~file",
            ),
            (
                "host-missing",
                "volumes: [{name: v, hostPath: {path: /no/such/folder, type: Directory}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Event("FailedMount"),
                "~hostPath type check failed: /no/such/folder is not a directory",
            ),
            (
                "claim",
                "volumes: [{name: v, persistentVolumeClaim: {claimName: claim}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("echo z > /v/f && cat /v/f"),
                "z",
            ),
            (
                "ephemeral",
                "volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("echo e > /v/f && cat /v/f"),
                "e",
            ),
            (
                "image",
                "volumes: [{name: v, image: {reference: 'nginx:1.27', pullPolicy: IfNotPresent}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("test -e /v/usr/sbin/nginx && touch /v/x"),
                "~Read-only file system",
            ),
            (
                "sub-path",
                "volumes: [{name: v, emptyDir: {}}]\nc: env: [{name: DIR, value: dir}]\nc: volumeMounts: [{name: v, mountPath: /a, subPath: one/two}, {name: v, mountPath: /b, subPathExpr: $(DIR)/x}, {name: v, mountPath: /v}]",
                Says("touch /a/f /b/g; cd /v; find . -type f | sort"),
                "./dir/x/g\n./one/two/f",
            ),
            (
                "sub-path-file",
                "volumes: [{name: v, configMap: {name: map}}]\nc: volumeMounts: [{name: v, mountPath: /etc/two, subPath: two}]",
                Says("cat /etc/two"),
                "2",
            ),
            (
                // Links within a volume never lead out of it.
                "sub-path-out",
                "volumes: [{name: v, emptyDir: {}}]\ninitContainers: [{name: i, image: 'busybox:1.28', command: [busybox, ln, -s, /etc, /v/out], volumeMounts: [{name: v, mountPath: /v}]}]\nc: volumeMounts: [{name: v, mountPath: /o, subPath: out}]",
                Status("/containerStatuses/0/state/waiting/message"),
                "~failed to prepare subPath for volumeMount \"v\"",
            ),
            (
                "sub-path-back",
                "volumes: [{name: v, emptyDir: {}}]\nc: env: [{name: UP, value: ../..}]\nc: volumeMounts: [{name: v, mountPath: /o, subPathExpr: $(UP)/x}]",
                Status("/containerStatuses/0/state/waiting/message"),
                "~must not contain '..'",
            ),
            (
                // What the agent writes is nobody else's to change, whatever the mount says.
                "kept",
                "volumes: [{name: a, configMap: {name: map}}, {name: b, secret: {secretName: secret}}, {name: d, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}, {name: p, projected: {sources: [{configMap: {name: map}}]}}]\nc: volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}, {name: d, mountPath: /d}, {name: p, mountPath: /p}, {name: p, mountPath: /s, subPath: two}]",
                Says("for f in /a/x /b/x /d/x /p/x /s; do touch $f 2>&1 | grep -o Read-only; done"),
                "Read-only\nRead-only\nRead-only\nRead-only\nRead-only",
            ),
            (
                "read-only",
                "volumes: [{name: v, emptyDir: {}}]\nc: volumeMounts: [{name: v, mountPath: /v, readOnly: true}]",
                Says("touch /v/f"),
                "~Read-only file system",
            ),
            (
                "read-only-below",
                "volumes: [{name: v, hostPath: {path: /sys/fs/cgroup}}]\nc: volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: None}]",
                Says("grep ' /v' /proc/mounts | grep -vc ' ro,'"),
                "~0",
            ),
            (
                "propagated",
                "volumes: [{name: v, hostPath: {path: /tmp}}]\nc: volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]",
                Says("grep -c ' /v ' /proc/self/mountinfo"),
                "1",
            ),
            (
                "of-a-group",
                "securityContext: {fsGroup: 2000, runAsUser: 1000}\nvolumes: [{name: v, secret: {secretName: secret, defaultMode: 256}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Says("stat -Lc '%a %g' /v/*"),
                "440 2000",
            ),
            (
                // Where this machine has no NFS, as here, that is said.
                "of-a-server",
                "volumes: [{name: v, nfs: {server: 127.0.0.1, path: /nowhere, readOnly: true}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Event("FailedMount"),
                "~mount -t nfs -o ro -- 127.0.0.1:/nowhere ",
            ),
            (
                "unserved",
                "volumes: [{name: v, iscsi: {targetPortal: '192.0.2.1', iqn: iqn.2001-04.com.example:s, lun: 0}}]\nc: volumeMounts: [{name: v, mountPath: /v}]",
                Event("FailedMount"),
                "~isn't served by this version",
            ),
            (
                "devices",
                "volumes: [{name: v, persistentVolumeClaim: {claimName: claim}}]\nc: volumeDevices: [{name: v, devicePath: /dev/x}]",
                Status("/containerStatuses/0/state/waiting/message"),
                "~is specified in volumeDevices",
            ),
        ],
    )
}

#[test]
fn ports_of_the_machine_lead_to_its_pods() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join()?;
    let pod = |name: &str, node: &str, port: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: busybox:1.28\n    command: [sh, -c, 'hostname > /tmp/index.html; httpd -f -p 80 -h /tmp']\n    ports: [{{containerPort: 80, {port}}}]\n"
        )
    };
    let address = cluster.agents.first().map(testkit::Node::address).unwrap_or_default();
    let one = pod("any", "agent-2", "hostPort: 8080");
    let other = pod("one", "agent-2", &format!("hostPort: 8081, hostIP: {address}"));
    cluster.apply(&format!("{one}---\n{other}"))?;
    let fetch_at = |from: &testkit::Node, address: &str, port: u16| {
        let words = ["curl", "-s", "--max-time", "2", &format!("http://{address}:{port}/")].map(String::from);
        from.run(&words, "").stdout.trim().to_string()
    };
    let fetch = |from: &testkit::Node, port: u16| fetch_at(from, &address, port);
    let agent = cluster.agents.first().ok_or_else(|| anyhow::anyhow!("no agent"))?;
    for from in [&cluster.server, agent] {
        cluster.eventually("the ports answer", || Ok(fetch(from, 8080) == "any" && fetch(from, 8081) == "one"))?;
    }
    // The machine's own programs come by its loopback, too, unless the port is of another address.
    assert_eq!((fetch_at(agent, "127.0.0.1", 8080).as_str(), fetch_at(agent, "127.0.0.1", 8081).as_str()), ("any", ""));
    // A pod reaches itself that way, too.
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} 8080");
    assert!(cluster.ok(&["exec", "any", "--", "sh", "-c", &ask])?.ends_with("any\n"));
    // Who wants a port that another pod has isn't taken in, and may have it after that pod.
    cluster.apply(&pod("late", "agent-2", "hostPort: 8080"))?;
    let told = "jsonpath={.status.phase} {.status.reason} {.status.message}";
    let refused = "Failed NodePorts Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    cluster
        .eventually("the pod is refused", || Ok(cluster.ok(&["get", "pod", "late", "-o", told])?.trim() == refused))?;
    cluster.ok(&["delete", "pod", "any", "late"])?;
    cluster.apply(&pod("next", "agent-2", "hostPort: 8080"))?;
    cluster.eventually("the next pod has the port", || Ok(fetch(&cluster.server, 8080) == "next"))?;
    cluster.ok(&["delete", "pod", "next", "one"])?;
    cluster.eventually("the ports are closed", || {
        Ok(fetch(&cluster.server, 8080).is_empty() && fetch(&cluster.server, 8081).is_empty())
    })
}

/// Two sidecars and a main container whose end takes longest.
const SIDECARS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: ordered}
spec:
  terminationGracePeriodSeconds: 30
  volumes: [{name: v, hostPath: {path: FOLDER, type: DirectoryOrCreate}}]
  initContainers:
  - name: first
    image: busybox:1.28
    restartPolicy: Always
    volumeMounts: [{name: v, mountPath: /v}]
    command: [sh, -c, \"trap 'echo first >> /v/order; exit 0' TERM; touch /v/first.up; while :; do sleep 0.1; done\"]
  - name: second
    image: busybox:1.28
    restartPolicy: Always
    volumeMounts: [{name: v, mountPath: /v}]
    command: [sh, -c, \"trap 'echo second >> /v/order; exit 0' TERM; touch /v/second.up; while :; do sleep 0.1; done\"]
  containers:
  - name: main
    image: busybox:1.28
    volumeMounts: [{name: v, mountPath: /v}]
    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook >> /v/order; sleep 1']}}}
    command: [sh, -c, \"trap 'sleep 1; echo main >> /v/order; exit 0' TERM; touch /v/main.up; while :; do sleep 0.1; done\"]
";

/// What containers write where it stays after them.
#[test]
fn what_a_pod_does_at_its_end() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let folder = cluster.server.folder().join("kept");
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  volumes: [{{name: v, hostPath: {{path: {}, type: DirectoryOrCreate}}}}]\n  containers:\n  - name: c\n    image: busybox:1.28\n    volumeMounts: [{{name: v, mountPath: /v}}]\n    command: [sh, -c, \"trap 'echo term >> /v/{name}; exit 0' TERM; trap 'echo usr1 >> /v/{name}; exit 0' USR1; touch /v/{name}.up; while :; do sleep 0.1; done\"]\n{more}",
            folder.display()
        )
    };
    let hook = "    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook >> /v/hooked']}}}\n";
    let signal = "    lifecycle: {stopSignal: SIGUSR1}\n  os: {name: linux}\n";
    let deaf = pod("deaf", "").replace("exit 0", "echo stays >> /v/deaf");
    // Its start never comes to an end; nobody has to wait for that.
    let slow = "    lifecycle: {postStart: {exec: {command: [sh, -c, 'touch /v/slow.begun; sleep 36000']}}}\n";
    cluster.apply(&[pod("hooked", hook), pod("signalled", signal), deaf, pod("slow", slow)].join("---\n"))?;
    // A registry that takes connections and says nothing: nobody has to wait for an image of a pod that is deleted.
    let silent = cluster.server.inside(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
    let image = format!("image: {}/none:v1", silent.local_addr()?);
    cluster.apply(&pod("pulls", "").replace("image: busybox:1.28", &image))?;
    // The main container takes its time; what it leans on stays until then, also for its hook.
    let ordered = SIDECARS.replace("FOLDER", &folder.display().to_string());
    cluster.apply(&ordered)?;
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    for name in ["hooked", "signalled", "deaf"] {
        cluster.eventually("its traps are set", || Ok(folder.join(format!("{name}.up")).exists()))?;
    }
    cluster.eventually("a hook runs", || Ok(folder.join("slow.begun").exists()))?;
    for name in ["main", "first", "second"] {
        cluster.eventually("its traps are set", || Ok(folder.join(format!("{name}.up")).exists()))?;
    }
    cluster.eventually("an image is pulled", || {
        let select = "involvedObject.name=pulls,reason=Pulling";
        Ok(!cluster.ok(&["get", "events", "--field-selector", select, "-o", "name"])?.is_empty())
    })?;
    cluster.ok(&["delete", "pod", "pulls", "--timeout=15s"])?;
    cluster.ok(&["delete", "pod", "ordered"])?;
    assert_eq!(read("order"), "hook\nmain\nsecond\nfirst\n");
    cluster.ok(&["delete", "pod", "hooked", "signalled", "deaf", "slow"])?;
    assert_eq!(read("slow"), "term\n");
    assert_eq!(read("hooked"), "hook\nterm\n", "the hook comes before the signal");
    assert_eq!(read("signalled"), "usr1\n");
    assert!(read("deaf").starts_with("term\n"), "it was told, and killed when its time was over");
    Ok(())
}

#[test]
fn a_resize_restarts_whom_it_should() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    let container = |name: &str, policy: &str| {
        format!(
            "  - {{name: {name}, image: 'busybox:1.28', command: [sleep, '36000'], resources: {{limits: {{memory: 32Mi, cpu: 100m}}}}, resizePolicy: [{{resourceName: memory, restartPolicy: {policy}}}]}}\n"
        )
    };
    let (stays, restarts) = (container("stays", "NotRequired"), container("restarts", "RestartContainer"));
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: grows}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n{stays}{restarts}"
    ))?;
    cluster.wait_pod("grows")?;
    let limits = |name: &str| {
        format!(r#"{{"name":"{name}","resources":{{"limits":{{"memory":"48Mi"}},"requests":{{"memory":"48Mi"}}}}}}"#)
    };
    let patch = format!(r#"{{"spec":{{"containers":[{},{}]}}}}"#, limits("stays"), limits("restarts"));
    cluster.ok(&["patch", "pod", "grows", "--subresource", "resize", "-p", &patch])?;
    cluster.eventually("both have more", || {
        let status = cluster.get("pod", "grows")?["status"]["containerStatuses"].clone();
        let of = |name: &str| status.as_array().into_iter().flatten().find(|s| s["name"] == name).cloned();
        let fits = |name: &str, restarts: i64| {
            of(name).is_some_and(|s| s["restartCount"] == restarts && s["resources"]["limits"]["memory"] == "48Mi")
        };
        Ok(fits("stays", 0) && fits("restarts", 1))
    })
}

/// `docs/conformance.md` names every field, and tests that there are.
#[test]
fn the_list_of_fields_is_whole() {
    let doc = include_str!("../../../docs/conformance.md");
    let listed: Vec<(&str, &str)> = doc
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().trim_end_matches('`'), cells.nth(1)?.trim()))
        })
        .collect();
    let (types, _) = api::schema::raw();
    for kind in ["PodSpec", "Container", "PodSecurityContext", "SecurityContext"] {
        let name = format!("io.k8s.api.core.v1.{kind}");
        let fields = types[&name]["properties"].as_object().cloned().unwrap_or_default();
        assert!(fields.len() > 5, "{name} has fields");
        for field in fields.keys() {
            assert!(listed.iter().any(|(known, _)| known == field), "{kind}.{field} isn't in docs/conformance.md");
        }
    }
    for (field, test) in listed.iter().filter(|(_, test)| *test != "–") {
        let (file, function) = test.trim_matches('`').split_once("::").unwrap_or_default();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
        let path =
            if file == "loops" { format!("{folder}/loops/scheduling.rs") } else { format!("{folder}/{file}.rs") };
        let source = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(source.contains(&format!("fn {function}()")), "{field}: there is no test {test}");
    }
}
