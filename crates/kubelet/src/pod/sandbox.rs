//! What a pod's containers share: namespaces, address, hosts and resolver files, shared memory.

use std::io;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use runtime::rootfs;

use super::context::Context;
use crate::container_runtime::{cgroups, runtime_class};
use crate::spec::names::hostname;
use crate::spec::{dns, hosts};
use crate::state::{PodDirs, Sandbox};

impl Context {
    /// Makes a pod's sandbox, or makes it anew if it isn't whole.
    ///
    /// # Errors
    /// The RuntimeClass isn't there or of no use, a cgroup, the network or a file can't be made, or the host name is too long.
    pub async fn make_sandbox(&self, pod: &Pod, dirs: &PodDirs, lost: Option<&Sandbox>) -> io::Result<Sandbox> {
        let spec = pod.spec.clone().unwrap_or_default();
        runtime_class::check(&self.client, &self.runtime.features(), &spec).await?;
        cgroups::create(&self.config, pod)?;
        let sandbox = self.runtime.create_sandbox(pod, dirs, lost).await?;
        self.write_files(pod, &spec, dirs, &sandbox.ips)?;
        Ok(sandbox)
    }

    fn write_files(&self, pod: &Pod, spec: &PodSpec, dirs: &PodDirs, ips: &[IpAddr]) -> io::Result<()> {
        let etc = dirs.data.join("etc");
        std::fs::create_dir_all(&etc)?;
        let name = hostname(&self.config, pod);
        let domain = &self.config.cluster_domain;
        let namespace = pod.namespace().unwrap_or_default();
        let of_machine = (spec.host_network == Some(true)).then(|| {
            let file = std::fs::File::open("/etc/hosts");
            let read = file.and_then(|file| bounded::prefix(file, hosts::MAX_HOSTS_BYTES));
            read.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
        });
        let full = spec.subdomain.as_ref().map(|s| format!("{name}.{s}.{namespace}.svc.{domain}"));
        let hosts = hosts::hosts(of_machine.as_deref(), ips, &name, full.as_deref(), spec);
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("hostname"), format!("{name}\n"))?;
        let (resolver, told) = dns::resolver(&self.config, spec, &namespace);
        for why in told {
            self.events.warning(pod, "DNSConfigForming", why);
        }
        std::fs::write(etc.join("resolv.conf"), resolver.text())
    }

    /// Removes all that a pod had on this node except, with `keep_logs`, its logs.
    pub async fn remove_sandbox(&self, uid: &str, dirs: &PodDirs, sandbox: Option<&Sandbox>, keep_logs: bool) {
        self.runtime.remove_sandbox(uid, dirs, sandbox).await;
        self.local.remove(uid);
        self.user_namespaces.release(uid);
        let (dirs, cgroup_root) = (dirs.clone(), format!("/{}", self.config.cgroup_root.trim_matches('/')));
        let uid = uid.to_string();
        let _ = tokio::task::spawn_blocking(move || {
            for qos in ["", "/burstable", "/besteffort"] {
                let cgroup = format!("{cgroup_root}{qos}/pod{uid}");
                runtime::cgroup::destroy(&cgroup);
            }
            if let Err(error) = rootfs::unmount_below(&[&dirs.data, &dirs.run]) {
                tracing::error!(%uid, %error, "failed to clean up after a pod");
                return;
            }
            dirs.namespaces().remove();
            let _ = runtime::remove_tree(&dirs.run);
            if keep_logs {
                for part in ["containers", "volumes", "etc"] {
                    let _ = runtime::remove_tree(&dirs.data.join(part));
                }
            } else {
                let _ = runtime::remove_tree(&dirs.data);
            }
        })
        .await;
    }
}
