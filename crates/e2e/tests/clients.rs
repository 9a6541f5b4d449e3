//! Public clients, unchanged: what isn't on this machine is skipped with a line that says so.

use std::path::Path;

use testkit::Cluster;

fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name).display().to_string()
}

/// A Python that has the PyPI package `kubernetes`; `test.sh` makes one.
fn python() -> Option<String> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python3");
    let all = [std::env::var("TIMONEL_PYTHON").ok(), Some(made.display().to_string()), Some("python3".into())];
    all.into_iter().flatten().find(|program| {
        let output = std::process::Command::new(program).args(["-c", "import kubernetes, yaml"]).output();
        output.is_ok_and(|o| o.status.success())
    })
}

#[test]
fn the_python_client_works() -> anyhow::Result<()> {
    let Some(python) = python() else {
        testkit::clients::skip("no Python with the package kubernetes");
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let output = cluster.server.run(&[python, file("client.py"), kubeconfig], "");
    assert!(output.code == 0 && output.stdout == "all is well\n", "{}\n{}", output.stdout, output.stderr);
    Ok(())
}

/// A folder of Node packages with `@kubernetes/client-node`; `test.sh` makes one.
fn node_modules() -> Option<String> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/node");
    let all = [std::env::var("TIMONEL_NODE").ok(), Some(made.display().to_string())];
    let has_node = std::process::Command::new("node").arg("--version").output().is_ok_and(|o| o.status.success());
    let has_client = |folder: &String| Path::new(folder).join("node_modules/@kubernetes/client-node").is_dir();
    all.into_iter().flatten().find(|folder| has_node && has_client(folder))
}

#[test]
fn the_javascript_client_works() -> anyhow::Result<()> {
    let Some(folder) = node_modules() else {
        testkit::clients::skip("no Node with @kubernetes/client-node");
        return Ok(());
    };
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let modules = format!("NODE_MODULES={folder}");
    let output = cluster.server.run(&["env".into(), modules, "node".into(), file("client.mjs"), kubeconfig], "");
    assert!(output.code == 0 && output.stdout == "all is well\n", "{}\n{}", output.stdout, output.stderr);
    Ok(())
}

const WATCHED: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: watched}
spec:
  selector: {matchLabels: {app: watched}}
  template:
    metadata: {labels: {app: watched}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
";

/// What people do all day, each with a word of its answer.
const DAILY: &[(&str, &str)] = &[
    ("create deployment web --image=busybox:1.28 --replicas=2 -- sleep 3600", "created"),
    ("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    ("expose deployment web --port=80", "exposed"),
    ("set env deployment/web A=b", "env updated"),
    ("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    ("set resources deployment/web --limits=cpu=100m,memory=64Mi", "resource requirements updated"),
    ("rollout restart deployment/web", "restarted"),
    ("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    ("rollout history deployment/web --revision=2", "Pod Template"),
    ("rollout undo deployment/web --to-revision=2", "rolled back"),
    ("rollout pause deployment/web", "paused"),
    ("rollout resume deployment/web", "resumed"),
    ("scale deployment/web --replicas=3 --current-replicas=2", "scaled"),
    ("patch deployment web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":1}}", "patched"),
    ("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    ("label deployment web x=y", "labeled"),
    ("get deployment web -o kyaml", "kind: \"Deployment\""),
    ("get deployment -o custom-columns=N:.metadata.name,R:.spec.replicas", "web"),
    ("events --for deployment/web", "ScalingReplicaSet"),
    ("exec deploy/web -- echo heard", "heard"),
    ("describe deployment web", "NewReplicaSet:"),
    ("taint node server-1 a=b:PreferNoSchedule", "tainted"),
    ("taint node server-1 a-", "untainted"),
    ("create job j --image=busybox:1.28 -- echo well done", "created"),
    ("wait --for=condition=complete job/j --timeout=40s", "condition met"),
    ("logs job/j", "well done"),
    ("create cronjob c --image=busybox:1.28 --schedule=@hourly -- true", "created"),
    ("create job from-cron --from=cronjob/c", "created"),
    ("create configmap m --from-literal=a=b", "created"),
    ("create secret docker-registry s --docker-username=u --docker-password=p", "created"),
    ("create serviceaccount robot", "created"),
    ("create role r --verb=get,list --resource=pods", "created"),
    ("create rolebinding rb --role=r --serviceaccount=default:robot", "created"),
    ("auth can-i list pods --as=system:serviceaccount:default:robot", "yes"),
    ("create quota q --hard=pods=100", "created"),
    ("create poddisruptionbudget b --selector=app=web --min-available=0", "created"),
    ("create ingress i --rule=a.b/=web:80", "created"),
    ("create priorityclass class --value=100", "created"),
    ("run once --image=busybox:1.28 --restart=Never --labels=a=b -- sleep 3600", "created"),
    ("wait --for=condition=Ready pod/once --timeout=40s", "condition met"),
    ("debug once --image=busybox:1.28 --target=once -q -i -- echo seen", "seen"),
    ("drain server-1 --force --ignore-daemonsets --pod-selector=a=b --timeout=40s --grace-period=1", "drained"),
    ("uncordon server-1", "uncordoned"),
    ("top node", "CPU"),
    ("delete deployment web --cascade=orphan", "deleted"),
    ("get replicasets -l app=web -o name", "replicaset.apps/web-"),
    ("delete replicasets,pods -l app=web --grace-period=1 --timeout=40s", "deleted"),
    ("delete jobs,cronjobs,configmaps,secrets,services,ingress,pdb,quota --all -n default --timeout=40s", "deleted"),
    // What the cluster itself needs comes back.
    ("wait --for=create service/kubernetes --timeout=40s", "condition met"),
    ("wait --for=create configmap/kube-root-ca.crt --timeout=40s", "condition met"),
];

const HANGS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hangs}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600'], lifecycle: {postStart: {exec: {command: [sleep, '3600']}}}}]
";

#[test]
fn current_kubectl_gets_waits_and_watches() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    let watch = cluster.kubectl_beside(&["get", "deployments", "--watch", "--output-watch-events"])?;
    cluster.apply(WATCHED)?;
    cluster.ok(&["wait", "deployment/watched", "--for=condition=Available", "--timeout=30s"])?;
    cluster.ok(&["wait", "deployment/watched", "--for=jsonpath={.status.readyReplicas}=1", "--timeout=10s"])?;
    let waits = cluster.kubectl_beside(&["wait", "deployment/watched", "--for=delete", "--timeout=30s"])?;
    cluster.ok(&["delete", "deployment", "watched"])?;
    let mut waits = waits;
    cluster.eventually("the wait for the deletion ends", || Ok(waits.code().is_some()))?;
    assert_eq!(waits.code(), Some(0));
    cluster.eventually("the watch has told of all that", || {
        let lines = watch.lines();
        let told = |what: &str| lines.iter().any(|l| l.starts_with(what));
        Ok(told("ADDED") && told("MODIFIED") && told("DELETED"))
    })?;
    for (line, word) in DAILY {
        let output = cluster.kubectl(&line.split(' ').collect::<Vec<_>>());
        assert!(output.code == 0 && output.stdout.contains(word), "kubectl {line}: {output:?}");
    }
    // A hook that doesn't end: meanwhile its container is being created, and the pod goes when it is told to.
    cluster.apply(HANGS)?;
    cluster.eventually("it is told what the pod waits for", || {
        let state = cluster.get("pod", "hangs")?["status"]["containerStatuses"][0]["state"].clone();
        Ok(state["waiting"]["reason"] == "ContainerCreating")
    })?;
    cluster.ok(&["delete", "pod", "hangs", "--timeout=30s"])?;
    let allowed = cluster.ok(&["auth", "can-i", "--list"])?;
    assert!(allowed.contains("*.*") && allowed.contains("[*]"), "{allowed}");
    assert!(cluster.ok(&["auth", "can-i", "--list", "--as=nobody"])?.contains("selfsubjectaccessreviews"));
    assert_eq!(cluster.kubectl(&["auth", "can-i", "delete", "pods", "--as=nobody"]).stdout.trim(), "no");
    let token = cluster.ok(&["create", "token", "default", "--duration=1h"])?;
    let who = cluster.ok(&["--token", token.trim(), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    // The certificate of the kubeconfig is shown beside it: the token counts.
    assert_eq!(who, "system:serviceaccount:default:default");
    let kinds = cluster.ok(&["api-resources", "--no-headers", "-o", "name"])?;
    // kubectl takes the part behind `events` for a field, as there are events in the core group, too.
    for kind in kinds.lines().filter(|k| !k.ends_with("metrics.k8s.io") && *k != "events.events.k8s.io") {
        let text = cluster.ok(&["explain", kind, "--recursive"])?;
        assert!(text.contains("DESCRIPTION:") && text.contains("apiVersion"), "{kind}: {text}");
    }
    Ok(())
}
