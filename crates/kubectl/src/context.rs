//! What a command works with: its flags, the cluster of the kubeconfig, the namespace, and what the server serves. All of it is read when it is
//! first asked for, so that what needs no cluster works without one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::OnceCell;

use crate::error::{Error, Result, fail};
use crate::flags::{Args, Flag, many, optional_text, switch, text, text_or};
use crate::resources::Resources;

/// Where a server of this program writes its administrator's kubeconfig.
const OWN_KUBECONFIG: &str = "/etc/timonel/kubeconfig.yaml";
/// The folder of an in-cluster configuration.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Flags that every command has.
pub const FLAGS: &[Flag] = &[
    text("kubeconfig", "File that says where the cluster is"),
    text("namespace", "Namespace to work in").short('n'),
    text("context", "Context of the kubeconfig"),
    text("cluster", "Cluster of the kubeconfig"),
    text("user", "User of the kubeconfig"),
    text("server", "Address of the API server").short('s'),
    text("token", "Bearer token"),
    text("as", "User to impersonate"),
    many("as-group", "Group to impersonate"),
    text("as-uid", "UID to impersonate"),
    many("as-user-extra", "Extra of the user to impersonate: key=value"),
    text("certificate-authority", "File with the certificate of the authority"),
    text("client-certificate", "File with the client's certificate"),
    text("client-key", "File with the client's key"),
    switch("insecure-skip-tls-verify", "Don't check the server's certificate"),
    text("tls-server-name", "Name in the server's certificate"),
    text_or("request-timeout", "0", "How long a request may take; 0 is no limit"),
    text("username", "User for basic authentication"),
    text("password", "Password for basic authentication"),
    switch("disable-compression", "Don't ask for compressed answers"),
    switch("warnings-as-errors", "End with an error after a warning"),
    switch("match-server-version", "Only talk to a server of this version"),
    text("cache-dir", "Accepted for scripts' sake: nothing is cached"),
    text("kuberc", "File with preferences, or off"),
    text("profile", "Accepted for scripts' sake"),
    text("profile-output", "Accepted for scripts' sake"),
    optional_text("v", "0", "0", "Accepted for scripts' sake").short('v'),
    text("vmodule", "Accepted for scripts' sake"),
    text("log-flush-frequency", "Accepted for scripts' sake"),
];

pub struct Context {
    pub args: Args,
    connection: OnceCell<Connection>,
    pub(crate) resources: OnceCell<Resources>,
    configured: std::sync::OnceLock<std::result::Result<String, String>>,
}

/// A client, and the server's address as errors tell it.
pub struct Connection {
    pub client: Client,
    pub host: String,
    pub url: String,
}

impl Context {
    pub fn new(args: Args) -> Arc<Self> {
        Arc::new(Context {
            args,
            connection: OnceCell::new(),
            resources: OnceCell::new(),
            configured: std::sync::OnceLock::new(),
        })
    }

    /// The files that a kubeconfig is read from, in the order of precedence.
    pub fn kubeconfig_files(&self) -> Vec<PathBuf> {
        let given = self.args.text("kubeconfig");
        if !given.is_empty() {
            return vec![given.into()];
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
            return std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
        }
        let home = std::env::home_dir().map(|home| home.join(".kube/config"));
        let own = PathBuf::from(OWN_KUBECONFIG);
        match home {
            Some(home) if home.exists() || !own.exists() => vec![home],
            _ => vec![own],
        }
    }

    /// The kubeconfig, merged of its files.
    ///
    /// # Errors
    /// When a file can't be read, or one that was named isn't there.
    pub fn kubeconfig(&self) -> Result<Kubeconfig> {
        let mut merged = Kubeconfig::default();
        for path in self.kubeconfig_files() {
            let size = match std::fs::metadata(&path) {
                Ok(found) => found.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.args.given("kubeconfig") => {
                    continue;
                }
                Err(error) => {
                    let what = if error.kind() == std::io::ErrorKind::NotFound {
                        "no such file or directory".into()
                    } else {
                        error.to_string()
                    };
                    return fail(format!("stat {}: {what}", path.display()));
                }
            };
            if size > bounded::MAX_OWN_FILE_BYTES {
                return fail(format!(
                    "error loading config file {:?}: it has {size} bytes",
                    path.display().to_string()
                ));
            }
            let read = Kubeconfig::read_from(&path).map_err(|error| {
                Error::Message(format!("error loading config file {:?}: {}", path.display().to_string(), chain(&error)))
            })?;
            merged = merged.merge(read).map_err(|error| Error::Message(chain(&error)))?;
        }
        Ok(merged)
    }

    /// The namespace, and whether it was asked for by a flag.
    pub fn namespace(&self) -> Result<String> {
        if !self.args.text("namespace").is_empty() {
            return Ok(self.args.text("namespace").into());
        }
        let read = || -> Result<String> {
            let config = self.kubeconfig()?;
            let wanted = self.args.text("context");
            let name =
                if wanted.is_empty() { config.current_context.clone().unwrap_or_default() } else { wanted.into() };
            let context = config.contexts.iter().find(|c| c.name == name).and_then(|c| c.context.clone());
            let own = || {
                bounded::text(format!("{SERVICE_ACCOUNT}/namespace"), 4096).ok().filter(|_| config.contexts.is_empty())
            };
            Ok(context
                .and_then(|c| c.namespace)
                .or_else(own)
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| "default".into()))
        };
        let read = self.configured.get_or_init(|| read().map_err(|error| error.text()));
        read.clone().map_err(Error::Message)
    }

    pub fn has_explicit_namespace(&self) -> bool {
        self.args.given("namespace")
    }

    /// The configuration of the client: the kubeconfig with the flags on top.
    ///
    /// # Errors
    /// When there is none, or it is broken.
    pub async fn config(&self) -> Result<Config> {
        let kubeconfig = self.kubeconfig()?;
        let flag = |name: &str| Some(self.args.common(name).to_string()).filter(|v| !v.is_empty());
        let mut config = if kubeconfig.clusters.is_empty() && kubeconfig.contexts.is_empty() {
            self.config_without_file(flag("server"))?
        } else {
            let options = KubeConfigOptions { context: flag("context"), cluster: flag("cluster"), user: flag("user") };
            if let Some(context) = flag("context").filter(|c| !kubeconfig.contexts.iter().any(|named| named.name == *c))
            {
                return fail(format!("context {context:?} does not exist"));
            }
            let made = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            made.map_err(|error| Error::Message(chain(&error)))?
        };
        if let Some(server) = flag("server") {
            let address = if server.contains("://") { server } else { format!("http://{server}") };
            config.cluster_url =
                address.parse().map_err(|error| Error::Message(format!("--server {address:?}: {error}")))?;
        }
        if let Some(name) = flag("tls-server-name") {
            config.tls_server_name = Some(name);
        }
        config.accept_invalid_certs |= self.args.is("insecure-skip-tls-verify");
        if let Some(file) = flag("certificate-authority") {
            config.root_cert_file = Some(file.into());
            config.root_cert = None;
        }
        self.authenticate(&mut config);
        // The server names the manager of fields after the client where none is given.
        let agent = concat!("kubectl/v1.37.1 (timonel ", env!("CARGO_PKG_VERSION"), ")");
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
        // Watches and logs may be silent for long.
        config.read_timeout = None;
        let limit = self.args.duration("request-timeout")?;
        if limit > 0 {
            config.read_timeout = Some(Duration::from_nanos(limit.unsigned_abs()));
            config.connect_timeout = config.read_timeout;
        }
        config.disable_compression |= self.args.is("disable-compression");
        Ok(config)
    }

    fn config_without_file(&self, server: Option<String>) -> Result<Config> {
        if server.is_some() {
            return Ok(Config::new(http::Uri::from_static("http://localhost:8080")));
        }
        if std::path::Path::new(SERVICE_ACCOUNT).exists() {
            return Config::incluster().map_err(|error| Error::Message(chain(&error)));
        }
        // What upstream asks where nothing says anything.
        Ok(Config::new(http::Uri::from_static("http://localhost:8080")))
    }

    fn authenticate(&self, config: &mut Config) {
        let flag = |name: &str| Some(self.args.common(name).to_string()).filter(|v| !v.is_empty());
        let auth = &mut config.auth_info;
        if let Some(token) = flag("token") {
            (auth.token, auth.token_file) = (Some(token.into()), None);
        }
        if let Some(file) = flag("client-certificate") {
            (auth.client_certificate, auth.client_certificate_data) = (Some(file), None);
        }
        if let Some(file) = flag("client-key") {
            (auth.client_key, auth.client_key_data) = (Some(file), None);
        }
        if let Some(user) = flag("username") {
            (auth.username, auth.password) = (Some(user), Some(self.args.text("password").to_string().into()));
        }
        if let Some(user) = flag("as") {
            auth.impersonate = Some(user);
        }
        if let Some(uid) = flag("as-uid") {
            auth.impersonate_uid = Some(uid);
        }
        if !self.args.many("as-group").is_empty() {
            auth.impersonate_groups = Some(self.args.many("as-group").to_vec());
        }
    }

    pub async fn connection(&self) -> Result<&Connection> {
        let connect = || async {
            let config = self.config().await?;
            let host = config.cluster_url.authority().map_or(String::new(), ToString::to_string);
            let url = config.cluster_url.to_string().trim_end_matches('/').to_string();
            let client = Client::try_from(config).map_err(|error| Error::Message(chain(&error)))?;
            Ok(Connection { client, host, url })
        };
        self.connection.get_or_try_init(connect).await
    }
}

/// An error with what caused it, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        at = source.source();
    }
    text
}
