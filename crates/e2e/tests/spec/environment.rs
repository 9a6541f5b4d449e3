//! Commands, variables, names and resources of a container.

use crate::rows::Look::{Event, Printed, Says, Status};
use crate::rows::check;

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
