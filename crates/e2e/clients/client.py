"""What programs do with the Python client: CRUD, watches, patches, dynamic client, logs and exec."""

import sys
import time

import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream
from kubernetes.utils import create_from_yaml

config.load_kube_config(sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()
namespace = "default"

# Discovery and versions.
assert client.VersionApi().get_code().major == "1"
groups = {g.name for g in client.ApisApi().get_api_versions().groups}
assert {"apps", "batch", "apiextensions.k8s.io"} <= groups, groups

# Typed create, read, replace with a conflict, patch in all forms, delete.
made = core.create_namespaced_config_map(namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="m"), data={"a": "1"}))
stale = core.read_namespaced_config_map("m", namespace)
core.patch_namespaced_config_map("m", namespace, {"data": {"b": "2"}})
core.patch_namespaced_config_map("m", namespace, [{"op": "add", "path": "/data/c", "value": "3"}])
assert core.read_namespaced_config_map("m", namespace).data == {"a": "1", "b": "2", "c": "3"}
try:
    core.replace_namespaced_config_map("m", namespace, stale)
    raise AssertionError("a stale object was taken")
except ApiException as error:
    assert error.status == 409, error
try:
    core.create_namespaced_config_map(namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Bad_Name")))
    raise AssertionError("a bad name was taken")
except ApiException as error:
    assert error.status == 422 and "metadata.name" in error.body, error

# Paged lists.
for i in range(5):
    core.create_namespaced_config_map(namespace, {"metadata": {"name": f"page-{i}", "labels": {"paged": "yes"}}})
names, token = [], None
while True:
    page = core.list_namespaced_config_map(namespace, label_selector="paged=yes", limit=2, _continue=token)
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
assert names == [f"page-{i}" for i in range(5)], names

# A watch sees what happens from a revision on.
begun = core.list_namespaced_config_map(namespace).metadata.resource_version
core.create_namespaced_config_map(namespace, {"metadata": {"name": "seen"}})
core.delete_namespaced_config_map("seen", namespace)
seen = []
for event in watch.Watch().stream(core.list_namespaced_config_map, namespace, resource_version=begun, timeout_seconds=10):
    seen.append((event["type"], event["object"].metadata.name))
    if len(seen) == 2:
        break
assert seen == [("ADDED", "seen"), ("DELETED", "seen")], seen

# A custom resource by the dynamic client, with server-side apply.
definition = yaml.safe_load("""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {masts: {type: integer}}}}}}
""")
client.ApiextensionsV1Api().create_custom_resource_definition(definition)
for _ in range(100):
    conditions = client.ApiextensionsV1Api().read_custom_resource_definition("boats.example.com").status.conditions or []
    if any(c.type == "Established" and c.status == "True" for c in conditions):
        break
    time.sleep(0.1)
dyn = dynamic.DynamicClient(client.ApiClient())
boats = dyn.resources.get(api_version="example.com/v1", kind="Boat")
boats.server_side_apply({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"masts": 2}},
                        namespace=namespace, field_manager="python")
assert boats.get(name="b", namespace=namespace).spec.masts == 2
objects = client.CustomObjectsApi()
assert objects.get_namespaced_custom_object("example.com", "v1", namespace, "boats", "b")["spec"]["masts"] == 2

# Rights.
review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
    resource_attributes=client.V1ResourceAttributes(verb="create", resource="pods", namespace=namespace)))
assert client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed

# A Deployment on real containers: scale, logs, exec over a WebSocket, eviction.
create_from_yaml(client.ApiClient(), yaml_objects=[yaml.safe_load("""
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 1
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: 'busybox:1.28', command: [sh, -c, 'echo hello from the pod; sleep 3600']}]
""")])


def pods():
    return core.list_namespaced_pod(namespace, label_selector="app=d").items


def eventually(what, check):
    for _ in range(300):
        if check():
            return
        time.sleep(0.1)
    raise AssertionError(f"it did not happen that {what}")


eventually("one is available", lambda: apps.read_namespaced_deployment_status("d", namespace).status.available_replicas == 1)
apps.patch_namespaced_deployment_scale("d", namespace, {"spec": {"replicas": 2}})
eventually("two are available", lambda: apps.read_namespaced_deployment_status("d", namespace).status.available_replicas == 2)
pod = pods()[0].metadata.name
assert core.read_namespaced_pod_log(pod, namespace) == "hello from the pod\n"
answer = stream(core.connect_get_namespaced_pod_exec, pod, namespace, command=["sh", "-c", "echo out; echo err >&2"],
                stdout=True, stderr=True, stdin=False, tty=False)
assert "out" in answer and "err" in answer, answer
core.create_namespaced_pod_eviction(pod, namespace, client.V1Eviction(metadata=client.V1ObjectMeta(name=pod)))
eventually("another took its place", lambda: pod not in [p.metadata.name for p in pods()])
apps.delete_namespaced_deployment("d", namespace, propagation_policy="Foreground")
eventually("all are gone", lambda: not pods())
print("all is well")
