//! What a container finds in its volumes.

use crate::rows::Look::{Event, Says, Status};
use crate::rows::check;

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
