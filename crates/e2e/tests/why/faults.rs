//! The faults, each with what makes it.

/// A fault: the code that the first line must have, and what makes it.
pub struct Fault {
    pub code: &'static str,
    pub yaml: String,
}

fn fault(code: &'static str, yaml: impl Into<String>) -> Fault {
    Fault { code, yaml: yaml.into() }
}

/// A pod of one busybox container: further fields of the container, and of the spec.
pub fn pod(container: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{app: a}}}}\nspec: {{terminationGracePeriodSeconds: 0{spec}, \
         containers: [{{name: c, image: 'busybox:1.28'{container}}}]}}\n"
    )
}

pub const SLEEP: &str = ", command: [sleep, '36000']";

pub fn script(line: &str) -> String {
    format!(", command: [sh, -c, '{line}']")
}

fn deployment(spec: &str, container: &str) -> String {
    format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{replicas: 1, selector: {{matchLabels: {{app: web}}}}, \
         template: {{metadata: {{labels: {{app: web}}}}, spec: {{terminationGracePeriodSeconds: 0{spec}, containers: [{{name: c, image: 'busybox:1.28', \
         command: [sleep, '36000']{container}}}]}}}}}}\n"
    )
}

fn service(spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{spec}}}\n")
}

fn claim(spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: d}}\nspec: {{accessModes: [ReadWriteOnce], \
         resources: {{requests: {{storage: 1Mi}}}}{spec}}}\n"
    )
}

const CLAIMED: &str = ", volumes: [{name: v, persistentVolumeClaim: {claimName: d}}]";

fn images() -> Vec<Fault> {
    let image = |name: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{name}'{more}}}]}}\n"
        )
    };
    vec![
        fault("W-IMAGE-NOT-FOUND", image("127.0.0.1:5000/team/app:nosuch", "")),
        fault("W-IMAGE-DENIED", image("127.0.0.1:5001/team/app:1", "")),
        fault("W-IMAGE-REGISTRY", image("127.0.0.1:5009/team/app:1", "")),
        fault("W-IMAGE-NEVER", image("nosuch:1", ", imagePullPolicy: Never")),
        fault("W-IMAGE-NAME", image("Not/A_Name:x", "")),
        fault("W-IMAGE-PULL-SECRET", pod(SLEEP, ", imagePullSecrets: [{name: gone}]")),
    ]
}

fn starting() -> Vec<Fault> {
    vec![
        fault("W-START-COMMAND", pod(", command: [nosuch]", "")),
        fault("W-START-COMMAND", pod(&script("nosuch"), "")),
        fault("W-START-PERMISSION", pod(", command: [/etc/passwd]", "")),
        fault("W-START-ROOT", pod(SLEEP, ", securityContext: {runAsNonRoot: true}")),
        fault("W-START-HOOK", pod(&format!("{SLEEP}, lifecycle: {{postStart: {{exec: {{command: ['false']}}}}}}"), "")),
        fault("W-CONFIG-MAP-MISSING", pod(&format!("{SLEEP}, envFrom: [{{configMapRef: {{name: gone}}}}]"), "")),
        fault("W-CONFIG-SECRET-MISSING", pod(SLEEP, ", volumes: [{name: v, secret: {secretName: gone}}]")),
        fault(
            "W-CONFIG-KEY-MISSING",
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: cm}}\ndata: {{a: b}}\n{}",
                pod(
                    &format!("{SLEEP}, env: [{{name: A, valueFrom: {{configMapKeyRef: {{name: cm, key: nokey}}}}}}]"),
                    ""
                )
            ),
        ),
        fault(
            "W-VOLUME-HOST-PATH",
            pod(SLEEP, ", volumes: [{name: v, hostPath: {path: /nosuch/at/all, type: Directory}}]"),
        ),
        fault("W-EXIT-CODE", pod(&script("echo cannot open database; exit 3"), "")),
        fault("W-EXIT-COMPLETED", pod(", command: ['true']", "")),
        fault("W-EXIT-SIGNAL", pod(&script(r#"sh -c "kill -11 \$\$"; exit $?"#), "")),
        fault("W-EXIT-OOM", pod(&format!("{}, resources: {{limits: {{memory: 16Mi}}}}", script("tail /dev/zero")), "")),
        fault(
            "W-EXIT-CODE",
            "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {initContainers: [{name: i, image: 'busybox:1.28', command: [sh, -c, 'exit 7']}], containers: [{name: c, image: 'busybox:1.28'}]}\n",
        ),
        fault(
            "W-RBAC-DENIED",
            pod(
                &script(
                    r#"echo pods is forbidden: User \"system:serviceaccount:x:default\" cannot list resource \"pods\" in API group \"\" in the namespace \"x\"; exit 1"#,
                ),
                "",
            ),
        ),
        fault("W-DNS-FAILED", pod(&script("wget http://nosuch.svc/; exit 1"), "")),
        fault(
            "W-PROBE-LIVENESS",
            pod(
                &format!(
                    "{SLEEP}, livenessProbe: {{exec: {{command: ['false']}}, periodSeconds: 1, failureThreshold: 1}}"
                ),
                "",
            ),
        ),
        fault(
            "W-PROBE-READINESS",
            pod(&format!("{SLEEP}, readinessProbe: {{tcpSocket: {{port: 81}}, periodSeconds: 1}}"), ""),
        ),
        fault(
            "W-PROBE-STARTUP",
            pod(
                &format!(
                    "{SLEEP}, startupProbe: {{exec: {{command: ['false']}}, periodSeconds: 1, failureThreshold: 600}}"
                ),
                "",
            ),
        ),
        fault("W-PROBE-GATE", pod(SLEEP, ", readinessGates: [{conditionType: example.com/open}]")),
        fault("W-POD-DEADLINE", pod(SLEEP, ", restartPolicy: Never, activeDeadlineSeconds: 1")),
        fault(
            "W-DNS-NAME",
            pod(&format!("{SLEEP}, env: [{{name: DB, value: 'http://db.nowhere.svc.cluster.local/'}}]"), ""),
        ),
    ]
}

fn scheduling() -> Vec<Fault> {
    let affinity = |kind: &str, labels: &str| {
        format!(
            ", affinity: {{{kind}: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {labels}}}}}]}}}}"
        )
    };
    let beside = pod(SLEEP, "").replace("name: a,", "name: first,");
    vec![
        fault("W-SCHED-RESOURCES", pod(&format!("{SLEEP}, resources: {{requests: {{cpu: '4000'}}}}"), "")),
        fault("W-SCHED-SELECTOR", pod(SLEEP, ", nodeSelector: {disk: ssd}")),
        fault("W-SCHED-AFFINITY", pod(SLEEP, &affinity("podAffinity", "{app: nobody}"))),
        fault(
            "W-SCHED-ANTI-AFFINITY",
            format!("{beside}{}", pod(SLEEP, &affinity("podAntiAffinity", "{app: a}")).replace("name: a,", "name: z,")),
        ),
        fault("W-SCHED-GATED", pod(SLEEP, ", schedulingGates: [{name: example.com/wait}]")),
        fault("W-SCHED-NODE-MISSING", deployment(", nodeName: nowhere", "")),
        fault("W-SCHED-PORT", {
            let with = |name: &str| {
                pod(&format!("{SLEEP}, ports: [{{containerPort: 80, hostPort: 18080}}]"), "")
                    .replace("name: a,", &format!("name: {name},"))
            };
            with("a") + &with("b")
        }),
        fault("W-CLAIM-MISSING", pod(SLEEP, CLAIMED)),
        fault("W-CLAIM-CLASS-MISSING", claim(", storageClassName: nosuch") + &pod(SLEEP, CLAIMED)),
        fault("W-CLAIM-NO-VOLUME", claim(", storageClassName: ''") + &pod(SLEEP, CLAIMED)),
    ]
}

fn admission() -> Vec<Fault> {
    vec![
        fault(
            "W-QUOTA-EXCEEDED",
            format!(
                "---\napiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: q}}\nspec: {{hard: {{pods: '0'}}}}\n{}",
                deployment("", "")
            ),
        ),
        fault(
            "W-LIMIT-RANGE",
            format!(
                "---\napiVersion: v1\nkind: LimitRange\nmetadata: {{name: l}}\nspec: {{limits: [{{type: Container, max: {{memory: 1Mi}}}}]}}\n{}",
                deployment("", ", resources: {limits: {memory: 2Mi}}")
            ),
        ),
        fault("W-SERVICE-ACCOUNT-MISSING", deployment(", serviceAccountName: gone", "")),
        fault("W-PRIORITY-CLASS-MISSING", deployment(", priorityClassName: gone", "")),
        fault("W-RUNTIME-CLASS-MISSING", deployment(", runtimeClassName: gone", "")),
        fault("W-POD-SECURITY", deployment("", ", securityContext: {privileged: true}")),
        fault("W-IMAGE-NEVER", deployment("", ", imagePullPolicy: Never").replace("busybox:1.28", "nosuch:1")),
    ]
}

fn ways() -> Vec<Fault> {
    let ready = || pod(&format!("{SLEEP}, ports: [{{name: http, containerPort: 80}}]"), "");
    let ingress = |spec: &str| {
        format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i}}\nspec: {{{spec}}}\n")
    };
    let to = |port: u16| format!("defaultBackend: {{service: {{name: s, port: {{number: {port}}}}}}}");
    let policy = |spec: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{podSelector: {{}}, {spec}}}\n"
        )
    };
    vec![
        fault("W-SERVICE-NO-PODS", ready() + &service("selector: {app: aa}, ports: [{port: 80}]")),
        fault("W-SERVICE-PORT", ready() + &service("selector: {app: a}, ports: [{port: 80, targetPort: htp}]")),
        fault("W-SERVICE-EXTERNAL-NAME", service("type: ExternalName, externalName: db.nowhere.svc.cluster.local")),
        fault("W-SERVICE-NO-ENDPOINTS", service("ports: [{port: 80}]")),
        fault(
            "W-INGRESS-CLASS",
            ready()
                + &service("selector: {app: a}, ports: [{port: 80}]")
                + &ingress(&format!("ingressClassName: nosuch, {}", to(80))),
        ),
        fault("W-INGRESS-SERVICE", ingress(&to(80))),
        fault("W-INGRESS-PORT", ready() + &service("selector: {app: a}, ports: [{port: 80}]") + &ingress(&to(81))),
        fault(
            "W-INGRESS-SECRET",
            ready()
                + &service("selector: {app: a}, ports: [{port: 80}]")
                + &ingress(&format!("tls: [{{secretName: gone}}], {}", to(80))),
        ),
        fault(
            "W-NETPOL-NOBODY",
            ready() + &service("selector: {app: a}, ports: [{port: 80}]") + &policy("policyTypes: [Ingress]"),
        ),
        fault("W-NETPOL-DNS", ready() + &policy("policyTypes: [Egress], egress: [{ports: [{port: 443}]}]")),
    ]
}

fn others() -> Vec<Fault> {
    let hpa = "---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}\n";
    let job = |spec: &str, line: &str| {
        format!(
            "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec: {{{spec}, template: {{spec: {{restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', command: [sh, -c, '{line}']}}]}}}}}}\n"
        )
    };
    vec![
        fault("W-HPA-TARGET", hpa),
        fault("W-HPA-REQUESTS", format!("{}{hpa}", deployment("", ""))),
        fault("W-JOB-DEADLINE", job("activeDeadlineSeconds: 1", "sleep 100")),
        fault("W-EXIT-CODE", job("backoffLimit: 0", "exit 4")),
        fault(
            "W-RBAC-ROLE-MISSING",
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gone}\nsubjects: [{kind: ServiceAccount, name: default, namespace: default}]\n",
        ),
        fault(
            "W-DNS-HEADLESS",
            "---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {replicas: 1, serviceName: gone, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'busybox:1.28', command: [sleep, '36000']}]}}}\n",
        ),
        fault(
            "W-PROBE-READINESS",
            deployment("", ", readinessProbe: {exec: {command: ['false']}, periodSeconds: 1}")
                + &service("selector: {app: web}, ports: [{port: 80}]"),
        ),
    ]
}

/// All of them.
pub fn all() -> Vec<Fault> {
    [images(), starting(), scheduling(), admission(), ways(), others()].into_iter().flatten().collect()
}
