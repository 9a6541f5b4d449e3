// What programs do with the JavaScript client: an informer that sees objects come, change and go; patches; errors.

import { createRequire } from 'node:module';
import assert from 'node:assert/strict';

const require = createRequire(`${process.env.NODE_MODULES}/`);
const k8s = await import(require.resolve('@kubernetes/client-node'));

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'default';

const seen = [];
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  core.listNamespacedConfigMap({ namespace }));
for (const what of ['add', 'update', 'delete']) {
  informer.on(what, (object) => seen.push(`${what} ${object.metadata.name} ${object.data?.k ?? ''}`));
}
let stopping = false;
// Stopping aborts the watch, which is an error to this client.
informer.on('error', (error) => { if (!stopping) throw error; });
await informer.start();

async function eventually(what, check) {
  for (let i = 0; i < 200; i++) {
    if (check()) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.fail(`it did not happen that ${what}: ${seen}`);
}

await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'j' }, data: { k: '1' } } });
await eventually('it is added', () => seen.includes('add j 1'));
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
await objects.patch({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'j', namespace }, data: { k: '2' } },
  undefined, undefined, 'node', true, k8s.PatchStrategy.ServerSideApply);
await eventually('it is changed', () => seen.includes('update j 2'));
assert.equal(informer.get('j', namespace).data.k, '2');
await core.deleteNamespacedConfigMap({ name: 'j', namespace });
await eventually('it is deleted', () => seen.includes('delete j 2'));
stopping = true;
await informer.stop();

await assert.rejects(core.readNamespacedConfigMap({ name: 'none', namespace }), (error) => error.code === 404);
const review = await config.makeApiClient(k8s.AuthorizationV1Api).createSelfSubjectAccessReview({
  body: { spec: { resourceAttributes: { verb: 'get', resource: 'pods', namespace } } } });
assert.ok(review.status.allowed);
console.log('all is well');
process.exit(0);
