//! Images from registries (distribution-spec), through mirrors if there are some.

use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::registries::Endpoint;
use super::{Credentials, Image, ImageError, ImageStore, parse};

/// Layers that are fetched at a time.
const PARALLEL: usize = 4;

fn client(endpoint: &Endpoint) -> Client {
    let protocol = if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
    let certificate = |pem: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() };
    Client::new(ClientConfig {
        protocol,
        accept_invalid_certificates: endpoint.insecure,
        extra_root_certificates: endpoint.ca_pem.iter().map(certificate).collect(),
        connect_timeout: Some(std::time::Duration::from_secs(15)),
        ..ClientConfig::default()
    })
}

/// The reference at an endpoint: same repository and tag, another host.
fn at_endpoint(reference: &Reference, host: &str) -> Reference {
    let (host, repository) = (host.to_string(), reference.repository().to_string());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Reference::with_digest(host, repository, digest.into()),
        (None, tag) => Reference::with_tag(host, repository, tag.unwrap_or("latest").into()),
    }
}

/// The registry's words, and what to do where it wants credentials.
fn told(error: &OciDistributionError) -> String {
    let remedy = match error {
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
            " (unauthorized: give credentials with an imagePullSecret or in registries.yaml)"
        }
        _ => "",
    };
    format!("{}{remedy}", chain(error))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Fetches one layer into a file; the client checks its digest.
async fn fetch(client: Client, place: Reference, layer: OciDescriptor, path: PathBuf) -> Result<PathBuf, String> {
    let file = tokio::fs::File::create(&path).await.map_err(|e| e.to_string())?;
    client.pull_blob(&place, &layer, file).await.map_err(|e| told(&e))?;
    Ok(path)
}

impl ImageStore {
    /// Pulls an image, from the first endpoint that has it. `given` are credentials for the image's own registry, from
    /// a pull secret.
    ///
    /// # Errors
    /// With the words of each registry that was asked.
    pub async fn pull(self: &Arc<Self>, name: &str, given: Option<Credentials>) -> Result<Image, ImageError> {
        let reference = parse(name)?;
        let mut reasons = Vec::new();
        for endpoint in self.registries.endpoints(reference.registry()) {
            // A pull secret is for the image's own registry and is shown to no mirror.
            let own = endpoint.host == reference.resolve_registry() || endpoint.host == reference.registry();
            let credentials = match (&given, self.registries.credentials(&endpoint.host)) {
                (Some(given), Credentials::Anonymous) if own => given.clone(),
                (_, configured) => configured,
            };
            match self.pull_from(&reference, &endpoint, credentials).await {
                Ok(image) => return Ok(image),
                Err(reason) => reasons.push(format!("{}: {reason}", endpoint.host)),
            }
        }
        Err(ImageError::Pull { image: name.into(), reason: reasons.join("; ") })
    }

    async fn pull_from(
        self: &Arc<Self>,
        reference: &Reference,
        endpoint: &Endpoint,
        credentials: Credentials,
    ) -> Result<Image, String> {
        let auth = match credentials {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Basic(user, password) => RegistryAuth::Basic(user, password),
            Credentials::Bearer(token) => RegistryAuth::Bearer(token),
        };
        let client = client(endpoint);
        let place = at_endpoint(reference, &endpoint.host);
        let (manifest, digest, config) = client.pull_manifest_and_config(&place, &auth).await.map_err(|e| told(&e))?;
        let folder = tempfile::tempdir_in(self.folder.join("incoming")).map_err(|e| e.to_string())?;
        let files: Vec<_> = futures::stream::iter(manifest.layers.into_iter().enumerate())
            .map(|(i, layer)| fetch(client.clone(), place.clone(), layer, folder.path().join(i.to_string())))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        let digests = vec![format!("{repository}@{digest}")];
        let names = if reference.digest().is_some() { Vec::new() } else { vec![reference.whole()] };
        let _one_at_a_time = self.unpacking.lock().await;
        let store = self.clone();
        let assembled = tokio::task::spawn_blocking(move || {
            let image = store.assemble(config.as_bytes(), &files, names, digests)?;
            drop(folder);
            store.add(image)
        });
        assembled.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}
