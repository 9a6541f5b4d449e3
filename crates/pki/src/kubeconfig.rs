//! Kubeconfig files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Identity;

/// A kubeconfig for `identity`, with all certificates embedded.
pub fn kubeconfig(server: &str, ca_pem: &str, identity: &Identity) -> String {
    let b64 = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: default\nclusters:\n- name: default\n  cluster:\n    \
         server: {server}\n    certificate-authority-data: {}\nusers:\n- name: default\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: default\n  context:\n    \
         cluster: default\n    user: default\n",
        b64(ca_pem),
        b64(&identity.certificate_pem),
        b64(&identity.key_pem),
    )
}
