//! The control plane's part of a server: store, API, controllers and scheduler.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use apimachinery::AddressRanges;
use apiserver::audit::{self, Audit};
use apiserver::{ApiServer, User};
use pki::rotation::CertificateSpec;
use pki::{Authority, JoinToken, ManagedCertificate, TokenKey, Usage};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{AuditArgs, ServerArgs};
use crate::part::Part;
use crate::renewal::Renewal;
use crate::{agent, check, components, local_api, manifests, own_log, part, private, ranges, renewal, shutdown};

/// Everything that is derived from flags and files before anything runs.
struct Plan {
    args: ServerArgs,
    node_name: String,
    node_ips: Vec<IpAddr>,
    cluster_dns: IpAddr,
    authority: Arc<Authority>,
    serving: ManagedCertificate,
    kubelet_client: ManagedCertificate,
    front_proxy: ManagedCertificate,
    front_proxy_authority: String,
    admin: ManagedCertificate,
    token_key: Arc<TokenKey>,
    token: JoinToken,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("node", &self.node_name).finish_non_exhaustive()
    }
}

pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    if args.datastore_endpoint != "sqlite" {
        bail!("--datastore-endpoint {:?} isn't served by this version: only sqlite is", args.datastore_endpoint);
    }
    if !args.disable_agent {
        check::require(&args.node)?;
    }
    let stop = shutdown::on_signal()?;
    tasks::until_done("own-log", own_log::keep_small);
    let any = agent::any_address(args.service_cidr.families());
    let address = (args.bind_address.unwrap_or(any), args.https_listen_port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "can't listen on {}:{} (is another server running? --https-listen-port chooses another port)",
            address.0, address.1
        )
    })?;
    let database = folders(&args.node.data_dir)?;
    let plan = prepare(args).await?;
    let audit = open_audit(&plan.args.audit)?;
    let api = ApiServer::start(api_config(&plan, audit), open_store(&plan.args, &database)?).await?;
    // The API ends last: pods that end with their machine are still told of.
    let last = CancellationToken::new();
    let serving = tasks::spawn(
        "api-server",
        apiserver::serve(api.clone(), listener, plan.serving.rotating.clone(), last.clone()),
    );
    let listener = local_api::listen(&plan.args.node.run_dir)?;
    let local = apiserver::serve_local(api.clone(), listener, node_user(&plan.node_name), last.clone());
    let local = tasks::spawn("local-api-server", local);
    let folder = plan.args.node.data_dir.join("server");
    informer::quarantine::install(part::quarantine(Part::ControlPlane, &plan.args.node.run_dir, &folder)?);
    components::start_control_plane(&api, &plan.args, &plan.authority, &plan.token_key);
    write_kubeconfig(&plan)?;
    let renewal = Arc::new(plan.renewal());
    tasks::supervise("certificate-renewal", move || renewal.clone().run());
    let installer = User::new("system:manifests", &["system:masters", "system:authenticated"]);
    let folder = plan.args.node.data_dir.join("server/manifests");
    let client = components::client(&api, installer);
    tasks::until_done("manifests", move || manifests::run(client.clone(), folder.clone()));
    tracing::info!(kubeconfig = %plan.args.write_kubeconfig.display(), "the API is served on port {}", plan.args.https_listen_port);
    if !plan.args.disable_agent {
        let password = private::password(&plan.args.node.data_dir.join("agent"))?;
        let claimed = apiserver::joining::take(&api, &plan.node_name, &password).await;
        claimed.map_err(|status| anyhow::anyhow!("{}", status.message))?;
    }
    part::ready();
    stop.cancelled().await;
    last.cancel();
    serving.await??;
    local.await?;
    Ok(())
}

/// As whom this machine's node part acts: a node like any other, and a server's.
fn node_user(name: &str) -> User {
    let mut user = User::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
    user.extra.push((apiserver::SERVER.into(), vec!["true".into()]));
    user
}

/// Reads the audit policy and opens its log, if there is a policy.
fn open_audit(args: &AuditArgs) -> anyhow::Result<Option<Arc<Audit>>> {
    let Some(path) = &args.audit_policy_file else { return Ok(None) };
    let text =
        bounded::text(path, bounded::MAX_OWN_FILE_BYTES).with_context(|| format!("can't read {}", path.display()))?;
    let policy = audit::Policy::read(&text).with_context(|| format!("{} can't be used", path.display()))?;
    let (size, files, days) = (args.audit_log_maxsize, args.audit_log_maxbackup, args.audit_log_maxage);
    let log = audit::Log::open(&args.audit_log_path, size, files, days)?;
    Ok(Some(Arc::new(Audit { policy, log })))
}

fn open_store(args: &ServerArgs, folder: &Path) -> anyhow::Result<Arc<dyn store::Store>> {
    let encryption = args.encryption_provider_config.as_deref().map(|path| {
        let text = bounded::text(path, bounded::MAX_OWN_FILE_BYTES)
            .with_context(|| format!("can't read {}", path.display()))?;
        store::Encryption::read(&text).with_context(|| format!("{} can't be used", path.display()))
    });
    let encryption = encryption.transpose()?;
    let file = folder.join("state.db");
    let floor = store::sqlite::floor(apimachinery::clock::now().as_second());
    private::file(&file)?;
    private::files(folder)?;
    let store = store::SqliteStore::open(&file, store::sqlite::Options { floor, ..Default::default() })?;
    tasks::supervise("store-check", move || store::sqlite::keep_verified(file.clone()));
    Ok(match encryption {
        Some(encryption) => Arc::new(store::EncryptedStore::new(store, encryption)),
        None => Arc::new(store),
    })
}

/// The place of the cluster's DNS server among the services' addresses, as kubeadm has it.
const DNS: u32 = 10;

/// Refuses ranges that don't go together.
fn check_ranges(pods: &AddressRanges, services: &AddressRanges, cluster_dns: IpAddr) -> anyhow::Result<()> {
    if !services.contains(cluster_dns) {
        bail!("--cluster-dns {cluster_dns} must be one of the services' addresses (--service-cidr {services})");
    }
    if services.overlaps(pods) {
        bail!(
            "--cluster-cidr {pods} and --service-cidr {services} overlap: choose ranges that have no address in common"
        );
    }
    if !pods.families().eq(services.families()) {
        bail!("--cluster-cidr {pods} and --service-cidr {services} must be of the same families, in the same order");
    }
    Ok(())
}

/// The names and addresses in the API server's certificate.
fn serving_names(args: &ServerArgs, node_name: &str, node_ips: &[IpAddr]) -> Vec<String> {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"]
            .map(String::from)
            .into();
    names.push(format!("kubernetes.default.svc.{}", args.cluster_domain));
    names.extend(node_ips.iter().map(ToString::to_string));
    names.push(args.service_cidr.nth(1).to_string());
    names.push(node_name.into());
    names.extend(args.tls_sans.iter().cloned());
    names
}

async fn prepare(args: ServerArgs) -> anyhow::Result<Plan> {
    let tls = args.node.data_dir.join("server/tls");
    let authority = Arc::new(Authority::load_or_create(&tls, "ca")?);
    let node_name = agent::node_name(args.node.node_name.as_deref())?;
    let (pods, services) = (&args.cluster_cidr, &args.service_cidr);
    let node_ips = agent::node_ips(&args.node.node_ip).await?;
    let node_ips = agent::addresses_for(pods, services, &node_name, &node_ips)?;
    let cluster_dns = args.cluster_dns.unwrap_or_else(|| services.nth(DNS));
    check_ranges(pods, services, cluster_dns)?;
    // Only ranges that a cluster can have are those of this one.
    ranges::check_or_record(&args.node.data_dir.join("server"), pods, services)?;
    let mut names = serving_names(&args, &node_name, &node_ips);
    names.extend(renewal::former_addresses(&tls.join("apiserver.crt"), &names));
    let (masters, client) = (Some("system:masters"), Usage::Client);
    let wanted = |file, common_name, organization, usage, names| CertificateSpec {
        folder: tls.clone(),
        file,
        common_name,
        organization,
        usage,
        names,
        with_chain: usage == Usage::Server,
    };
    let none = Vec::new;
    let serving =
        ManagedCertificate::new(&authority, wanted("apiserver", "kube-apiserver", None, Usage::Server, names))?;
    let kubelets = wanted("kubelet-client", "kube-apiserver-kubelet-client", masters, client, none());
    let kubelet_client = ManagedCertificate::new(&authority, kubelets)?;
    let admin = ManagedCertificate::new(&authority, wanted("admin", "kubernetes-admin", masters, client, none()))?;
    let front_authority = Arc::new(Authority::load_or_create(&tls, "front-proxy-ca")?);
    let front = wanted("front-proxy-client", "front-proxy-client", None, client, none());
    let front_proxy = ManagedCertificate::new(&front_authority, front)?;
    let front_proxy_authority = front_authority.certificate_pem().to_string();
    let token_key = keep_secret(&tls.join("service-account.key"), || Ok(pki::new_key()?))?;
    let token_key = TokenKey::new(&token_key).context("can't use server/tls/service-account.key")?;
    let token = join_token(&args, &authority)?;
    Ok(Plan {
        args,
        node_name,
        node_ips,
        cluster_dns,
        authority,
        serving,
        kubelet_client,
        front_proxy,
        front_proxy_authority,
        admin,
        token_key: Arc::new(token_key),
        token,
    })
}

/// Reads a secret file, or makes it.
fn keep_secret(path: &Path, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    if let Ok(text) = bounded::text(path, bounded::MAX_OWN_FILE_BYTES) {
        return Ok(text);
    }
    let secret = make()?;
    bounded::durable::create(path, secret.as_bytes()).with_context(|| format!("can't write {}", path.display()))?;
    Ok(secret)
}

/// The token that `server/node-token` holds; `--token` may set its secret.
fn join_token(args: &ServerArgs, authority: &Authority) -> anyhow::Result<JoinToken> {
    let path: PathBuf = args.node.data_dir.join("server/node-token");
    let present =
        bounded::text(&path, bounded::MAX_OWN_FILE_BYTES).ok().and_then(|text| text.parse::<JoinToken>().ok());
    let given = args.token.as_deref().map(|t| t.parse::<JoinToken>().map_or(t.to_string(), |t| t.secret));
    let secret = given.or_else(|| present.as_ref().map(|t| t.secret.clone())).unwrap_or_else(pki::random_secret);
    let token = JoinToken::new(authority.certificate_pem(), &secret);
    if present.as_ref() != Some(&token) {
        bounded::durable::create(&path, format!("{token}\n").as_bytes())
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(token)
}

fn api_config(plan: &Plan, audit: Option<Arc<Audit>>) -> apiserver::Config {
    apiserver::Config {
        authority: plan.authority.clone(),
        token_key: plan.token_key.clone(),
        front_proxy: plan.front_proxy.rotating.clone(),
        front_proxy_authority: plan.front_proxy_authority.clone(),
        kubelet_client: plan.kubelet_client.rotating.clone(),
        join_secret: plan.token.secret.clone(),
        service_cidr: plan.args.service_cidr.clone(),
        node_ports: plan.args.service_node_port_range,
        cluster_domain: plan.args.cluster_domain.clone(),
        advertise: (plan.node_ips[0], plan.args.https_listen_port),
        cluster_dns: plan.cluster_dns,
        cluster_cidr: plan.args.cluster_cidr.clone(),
        audit,
        disabled: plan.args.disable.clone(),
        plugins: plan.args.enable_admission_plugins.clone(),
        external_ips: plan.args.external_ips_allow.clone(),
    }
}

fn write_kubeconfig(plan: &Plan) -> anyhow::Result<()> {
    kubeconfig(&plan.args, plan.authority.certificate_pem(), &plan.admin)
}

fn kubeconfig(args: &ServerArgs, authority_pem: &str, admin: &ManagedCertificate) -> anyhow::Result<()> {
    let url = format!("https://127.0.0.1:{}", args.https_listen_port);
    let text = pki::kubeconfig(&url, authority_pem, &admin.rotating.identity());
    let path = &args.write_kubeconfig;
    bounded::durable::create(path, text.as_bytes()).with_context(|| format!("can't write {}", path.display()))
}

impl Plan {
    /// The certificates that are renewed while the server runs; with the administrator's comes another kubeconfig.
    fn renewal(&self) -> Renewal {
        let (args, authority, admin) = (self.args.clone(), self.authority.clone(), self.admin.clone());
        let write = move || kubeconfig(&args, authority.certificate_pem(), &admin);
        let plain = |kept: &ManagedCertificate| (kept.clone(), None);
        Renewal {
            certificates: vec![
                plain(&self.serving),
                plain(&self.kubelet_client),
                plain(&self.front_proxy),
                (self.admin.clone(), Some(Box::new(write))),
            ],
        }
    }
}

/// Makes the server's folders, for root alone; returns the database's.
fn folders(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let server = data_dir.join("server");
    let database = server.join("db");
    for folder in [data_dir, &server, &server.join("tls"), &database] {
        private::folder(folder)?;
    }
    Ok(database)
}
