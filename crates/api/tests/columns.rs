//! What `kubectl get` prints of kinds, as upstream's `printers` and table convertors have it: a row of an object, and its cells by
//! their columns.

use serde_json::{Value, json};

/// The kind by its resource, an object of it, and cells that it must have (`Column=text`).
type Row = (&'static str, &'static str, &'static [&'static str]);

fn check(rows: &[Row]) {
    for (plural, text, cells) in rows {
        let kind = api::KINDS.iter().find(|k| k.plural() == *plural).unwrap();
        let mut object: Value = apimachinery::yaml::from_str(text).unwrap();
        if object["metadata"].get("name").is_none() {
            object["metadata"]["name"] = json!("x");
        }
        let table = api::columns::table(&kind.strategy.printer, &[object], |_| Value::Null, Value::Null);
        let names: Vec<&str> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        let row = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(names.len(), row.len(), "{plural}");
        for cell in *cells {
            let (column, want) = cell.split_once('=').unwrap();
            let at = names
                .iter()
                .position(|n| *n == column)
                .unwrap_or_else(|| panic!("{plural} has no {column}: {names:?}"));
            let is = row[at].as_str().map_or_else(|| row[at].to_string(), String::from);
            assert_eq!(is, want, "{plural} {text}: {column}");
        }
    }
}

fn titles(plural: &str) -> String {
    let kind = api::KINDS.iter().find(|k| k.plural() == plural).unwrap();
    kind.strategy.printer.columns.iter().map(|c| c.name).collect::<Vec<_>>().join(" ")
}

#[test]
fn kinds_have_the_columns_that_upstream_prints() {
    for (plural, want) in [
        ("customresourcedefinitions", "Name Group Scope Versions Created At"),
        ("serviceaccounts", "Name Age"),
        ("podtemplates", "Name Containers Images Pod Labels"),
        ("roles", "Name Created At"),
        ("csidrivers", "Name AttachRequired PodInfoOnMount StorageCapacity TokenRequests RequiresRepublish Modes Age"),
        ("csinodes", "Name Drivers Age"),
        ("csistoragecapacities", "Name StorageClassName Capacity"),
        ("volumeattachments", "Name Attacher PV Node Attached Age"),
        ("volumeattributesclasses", "Name DriverName Age"),
        ("ipaddresses", "Name ParentRef"),
        ("servicecidrs", "Name CIDRs Age"),
        ("validatingwebhookconfigurations", "Name Webhooks Age"),
        ("mutatingwebhookconfigurations", "Name Webhooks Age"),
        ("validatingadmissionpolicies", "Name Validations ParamKind Age"),
        ("validatingadmissionpolicybindings", "Name PolicyName ParamRef Age"),
        ("mutatingadmissionpolicies", "Name Mutations ParamKind Age"),
        ("mutatingadmissionpolicybindings", "Name PolicyName ParamRef Age"),
        ("resourceclaims", "Name State Age"),
        ("resourceclaimtemplates", "Name Age"),
        ("deviceclasses", "Name Age"),
        ("devicetaintrules", "Name Age"),
        ("resourceslices", "Name Node Driver Pool Age"),
    ] {
        assert_eq!(titles(plural), want, "{plural}");
    }
}

#[test]
fn cells_say_what_upstreams_say() {
    check(&[
        (
            "services",
            "{spec: {type: LoadBalancer, externalIPs: [9.9.9.9]}, status: {loadBalancer: {ingress: [{ip: 5.5.5.5}, {hostname: a.b}, {ip: 5.5.5.5}]}}}",
            &["External-IP=5.5.5.5,a.b,9.9.9.9"],
        ),
        (
            "services",
            "{spec: {type: LoadBalancer}}",
            &["External-IP=<pending>", "Cluster-IP=<none>", "Port(s)=<none>", "Selector=<none>"],
        ),
        ("services", "{spec: {type: ExternalName, externalName: a.example}}", &["External-IP=a.example"]),
        ("endpoints", "{}", &["Endpoints=<none>"]),
        ("endpoints", "{subsets: [{notReadyAddresses: [{ip: 1.1.1.1}]}]}", &["Endpoints="]),
        (
            "endpoints",
            "{subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 'fd00::1'}], ports: [{port: 80}, {port: 90}]}]}",
            &["Endpoints=1.1.1.1:80,[fd00::1]:80,1.1.1.1:90 + 1 more..."],
        ),
        (
            "endpointslices",
            "{ports: [{port: 1}, {name: all}, {name: ''}, {port: 4}], endpoints: []}",
            &["Ports=1,all,* + 1 more...", "Endpoints=<unset>"],
        ),
        (
            "endpointslices",
            "{endpoints: [{addresses: [a, b, c]}, {addresses: [d, e]}]}",
            &["Ports=<unset>", "Endpoints=a,b,c + 2 more..."],
        ),
        (
            "ingresses",
            "{spec: {rules: [{host: a}, {host: b}, {}, {host: c}, {host: d}], tls: [{}]}, status: {loadBalancer: {ingress: [{ip: 2.2.2.2}, {hostname: 1.h}]}}}",
            &["Hosts=a,b,c + 1 more...", "Address=1.h,2.2.2.2", "Ports=80, 443", "Class=<none>"],
        ),
        ("ingresses", "{spec: {defaultBackend: {}}}", &["Hosts=*", "Address=", "Ports=80"]),
        (
            "ingressclasses",
            "{metadata: {annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: a/b, parameters: {apiGroup: k.example, kind: P, name: nn}}}",
            &["Name=x (default)", "Parameters=P.k.example/nn"],
        ),
        ("ingressclasses", "{spec: {parameters: {kind: P, name: nn}}}", &["Name=x", "Parameters=P/nn"]),
        (
            "persistentvolumes",
            "{spec: {accessModes: [ReadWriteMany, ReadWriteOnce, ReadWriteMany]}}",
            &["Access Modes=RWO,RWX"],
        ),
        (
            "nodes",
            "{metadata: {labels: {kubernetes.io/role: zeta, node-role.kubernetes.io/alpha: ''}}, status: {nodeInfo: {kernelVersion: 6.1.0, architecture: amd64}}}",
            &["Kernel-Version=6.1.0 (amd64)", "Roles=alpha,zeta", "Status=Unknown", "OS-Image=<unknown>"],
        ),
        (
            "apiservices",
            "{status: {conditions: [{type: Available, status: 'False', reason: ServiceNotFound}]}}",
            &["Available=False (ServiceNotFound)", "Service=Local"],
        ),
        (
            "apiservices",
            "{spec: {service: {name: s, namespace: nn}}, status: {conditions: [{type: Available, status: 'True', reason: Passed}]}}",
            &["Available=True", "Service=nn/s"],
        ),
        (
            "controllerrevisions",
            "{metadata: {ownerReferences: [{controller: true, apiVersion: apps/v1, kind: StatefulSet, name: s}]}}",
            &["Controller=statefulset.apps/s"],
        ),
        (
            "controllerrevisions",
            "{metadata: {ownerReferences: [{controller: true, apiVersion: v1, kind: Thing, name: s}]}}",
            &["Controller=thing/s"],
        ),
        (
            "customresourcedefinitions",
            "{spec: {group: g.example, scope: Cluster, versions: [{name: v1, served: true}, {name: v0, served: false}, {name: v1beta1, served: true}]}}",
            &["Group=g.example", "Scope=Cluster", "Versions=v1,v1beta1"],
        ),
        (
            "csidrivers",
            "{spec: {attachRequired: false, volumeLifecycleModes: [Persistent, Ephemeral], tokenRequests: [{audience: a}, {audience: b}]}}",
            &["AttachRequired=false", "Modes=Persistent,Ephemeral", "TokenRequests=a,b", "RequiresRepublish=false"],
        ),
        ("csidrivers", "{}", &["AttachRequired=true", "TokenRequests=<unset>", "Modes=<none>"]),
        (
            "volumeattachments",
            "{spec: {attacher: a, nodeName: nn, source: {persistentVolumeName: p}}, status: {attached: true}}",
            &["Attacher=a", "PV=p", "Node=nn", "Attached=true"],
        ),
        ("csistoragecapacities", "{storageClassName: s}", &["StorageClassName=s", "Capacity=<unset>"]),
        (
            "ipaddresses",
            "{spec: {parentRef: {resource: services, namespace: default, name: kubernetes}}}",
            &["ParentRef=services/default/kubernetes"],
        ),
        (
            "ipaddresses",
            "{spec: {parentRef: {group: g.example, resource: things, name: t}}}",
            &["ParentRef=things.g.example/t"],
        ),
        ("servicecidrs", "{spec: {cidrs: [10.0.0.0/16, 'fd00::/108']}}", &["CIDRs=10.0.0.0/16,fd00::/108"]),
        (
            "validatingadmissionpolicies",
            "{spec: {validations: [{}, {}], paramKind: {apiVersion: v1, kind: ConfigMap}}}",
            &["Validations=2", "ParamKind=v1/ConfigMap"],
        ),
        (
            "validatingadmissionpolicybindings",
            "{spec: {policyName: p, paramRef: {name: nn, namespace: s}}}",
            &["PolicyName=p", "ParamRef=s/nn"],
        ),
        ("mutatingadmissionpolicybindings", "{spec: {policyName: p}}", &["ParamRef=<unset>"]),
        ("resourceclaims", "{status: {allocation: {}, reservedFor: [{}]}}", &["State=allocated,reserved"]),
        ("resourceclaims", "{}", &["State=pending"]),
        (
            "resourcequotas",
            "{status: {hard: {pods: '3', limits.cpu: '1'}}}",
            &["Request=pods: 0/3", "Limit=limits.cpu: 0/1"],
        ),
        (
            "podtemplates",
            "{template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}",
            &["Containers=c", "Images=i", "Pod Labels=a=b"],
        ),
    ]);
}
