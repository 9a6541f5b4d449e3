//! Probes, hooks, restarts, and the end of a pod.

use testkit::Cluster;

use crate::rows::Look::{Event, Says, Status};
use crate::rows::check;

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
