//! Small images as `docker save` archives, made of programs that are installed on this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// A file system in the making, and how its container starts.
#[derive(Default)]
struct Recipe {
    name: &'static str,
    entrypoint: Vec<&'static str>,
    cmd: Vec<&'static str>,
    /// Paths in the image, each with the file of this machine that it is.
    files: BTreeMap<PathBuf, PathBuf>,
    links: Vec<(String, String)>,
    texts: Vec<(&'static str, &'static str)>,
    folders: Vec<&'static str>,
}

/// Writes the images that tests use into `folder`: `busybox:1.28` and `nginx:1.27`.
///
/// # Errors
/// When a package is missing, with its name.
pub fn build(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    busybox("busybox:1.28").write(&folder.join("busybox.tar"))?;
    nginx()?.write(&folder.join("nginx.tar"))
}

/// Writes the image of sandboxes, for runtimes that want one: `pause:test`.
///
/// # Errors
/// Those of [`build`].
pub fn pause(path: &Path) -> anyhow::Result<()> {
    let mut recipe = busybox("pause:test");
    (recipe.entrypoint, recipe.cmd) = (vec!["/bin/sleep", "2147483647"], Vec::new());
    recipe.write(path)
}

/// Writes an image of programs that ask for names and answer who asks, `programs:test`: `dig`, `getent` with glibc, `addresses` with
/// musl, and `whoami`.
///
/// # Errors
/// Those of [`build`], and of the compiler.
pub fn programs(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    let mut recipe = busybox("programs:test");
    recipe.add_program(Path::new("/usr/bin/dig"))?;
    recipe.add_program(Path::new("/usr/bin/getent"))?;
    recipe.texts.push(("/etc/nsswitch.conf", "hosts: files dns\n"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/addresses.c");
    let folder = tempfile::tempdir()?;
    let addresses = folder.path().join("addresses");
    let built = Command::new("musl-gcc").args(["-static", "-O1", "-o"]).arg(&addresses).arg(&source).status();
    if !built.context("musl-gcc can't be run: is musl-tools installed?")?.success() {
        bail!("musl-gcc can't build {}", source.display());
    }
    recipe.files.insert("/bin/addresses".into(), addresses);
    let whoami = crate::binaries::beside_test("whoami")?;
    recipe.add_libraries(&whoami)?;
    recipe.files.insert("/bin/whoami".into(), whoami);
    recipe.write(path)
}

/// Writes a busybox image into the storage of a docker-registry, with an OCI manifest and a gzip layer.
///
/// # Errors
/// Those of the file system, and busybox missing.
pub(crate) fn busybox_in_registry(storage: &Path, repository: &str, tag: &str) -> anyhow::Result<()> {
    large_in_registry(storage, repository, tag, 0, 0)
}

/// The same with further layers, each with a file of `bytes` by chance.
///
/// # Errors
/// Those of [`busybox_in_registry`].
pub(crate) fn large_in_registry(
    storage: &Path,
    repository: &str,
    tag: &str,
    layers: usize,
    bytes: usize,
) -> anyhow::Result<()> {
    use std::io::{Read as _, Write as _};
    let recipe = busybox("busybox");
    let write = |path: PathBuf, bytes: &[u8]| -> anyhow::Result<()> {
        std::fs::create_dir_all(path.parent().unwrap_or(storage))?;
        Ok(std::fs::write(path, bytes)?)
    };
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "size": bytes.len(),
               "digest": format!("sha256:{}", digest(bytes))})
    };
    let (mut diff_ids, mut described, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..=layers {
        let layer = match number {
            0 => recipe.layer()?,
            _ => {
                let mut content = vec![0; bytes];
                File::open("/dev/urandom")?.read_exact(&mut content)?;
                let mut tar = tar::Builder::new(Vec::new());
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                header.set_cksum();
                tar.append_data(&mut header, format!("large-{number}"), content.as_slice())?;
                tar.into_inner()?
            }
        };
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&layer)?;
        let packed = packed.finish()?;
        diff_ids.push(format!("sha256:{}", digest(&layer)));
        described.push(descriptor("layer.v1.tar+gzip", &packed));
        write(crate::registry_layout::blob(storage, &digest(&packed)), &packed)?;
        blobs.push(digest(&packed));
    }
    let config = recipe.config(&diff_ids);
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.as_bytes()), "layers": described})
    .to_string();
    for bytes in [config.as_bytes(), manifest.as_bytes()] {
        write(crate::registry_layout::blob(storage, &digest(bytes)), bytes)?;
    }
    blobs.push(digest(config.as_bytes()));
    let blobs: Vec<&str> = blobs.iter().map(String::as_str).collect();
    for (path, target) in crate::registry_layout::links(storage, repository, tag, &digest(manifest.as_bytes()), &blobs)
    {
        write(path, target.as_bytes())?;
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn busybox(name: &'static str) -> Recipe {
    let mut recipe = Recipe { name, cmd: vec!["sh"], ..Recipe::default() };
    recipe.add_busybox();
    recipe
}

fn nginx() -> anyhow::Result<Recipe> {
    let mut recipe = Recipe {
        name: "nginx:1.27",
        entrypoint: vec!["/usr/sbin/nginx", "-c", "/etc/nginx/test.conf", "-g", "daemon off;"],
        ..Recipe::default()
    };
    recipe.add_busybox();
    recipe.add_program(Path::new("/usr/sbin/nginx"))?;
    recipe.folders.extend(["/var/log/nginx", "/var/lib/nginx", "/usr/share/nginx/html", "/run"]);
    recipe.texts.push((
        "/etc/nginx/test.conf",
        "user root;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\n  access_log /dev/stdout;\n  \
         server { listen 80; root /usr/share/nginx/html; autoindex on; }\n}\n",
    ));
    Ok(recipe)
}

const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "sleep", "hostname", "nslookup", "wget", "nc", "httpd", "ps", "id", "env", "true",
    "false", "date", "mkdir", "rm", "touch", "grep", "seq", "test", "kill", "stat", "tr", "wc", "mount", "ip", "ping",
    "dd", "yes", "stty", "tty", "head", "tail", "sed", "cp", "mv", "sync", "od",
];

impl Recipe {
    fn add_busybox(&mut self) {
        self.files.insert("/bin/busybox".into(), "/bin/busybox".into());
        self.links.extend(APPLETS.iter().map(|a| (format!("/bin/{a}"), "/bin/busybox".to_string())));
        self.folders.extend(["/tmp", "/etc", "/root", "/proc", "/sys", "/dev", "/var"]);
        self.texts.push(("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"));
        self.texts.push(("/etc/group", "root:x:0:\nnogroup:x:65534:\n"));
    }

    /// A program with the libraries that it is linked to.
    fn add_program(&mut self, program: &Path) -> anyhow::Result<()> {
        self.files.insert(program.into(), program.into());
        self.add_libraries(program)
    }

    fn add_libraries(&mut self, program: &Path) -> anyhow::Result<()> {
        let output = Command::new("ldd").arg(program).output().context("ldd can't be run")?;
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
            self.files.insert(word.into(), word.into());
        }
        Ok(())
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let header = |kind: tar::EntryType, size: u64, mode: u32| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header
        };
        for folder in &self.folders {
            let mode = if *folder == "/tmp" { 0o1777 } else { 0o755 };
            let mut header = header(tar::EntryType::Directory, 0, mode);
            tar.append_data(&mut header, relative(Path::new(folder)), std::io::empty())?;
        }
        for (path, file) in &self.files {
            let content = std::fs::read(file)
                .with_context(|| format!("{} is missing: is its Debian package installed?", file.display()))?;
            let mut header = header(tar::EntryType::Regular, content.len() as u64, 0o755);
            tar.append_data(&mut header, relative(path), content.as_slice())?;
        }
        for (path, text) in &self.texts {
            let mut header = header(tar::EntryType::Regular, text.len() as u64, 0o644);
            tar.append_data(&mut header, relative(Path::new(path)), text.as_bytes())?;
        }
        for (path, target) in &self.links {
            let mut header = header(tar::EntryType::Symlink, 0, 0o777);
            tar.append_link(&mut header, relative(Path::new(path)), target)?;
        }
        Ok(tar.into_inner()?)
    }

    /// The image configuration (image-spec, config.md) of an image with these layers.
    fn config(&self, diff_ids: &[String]) -> String {
        let env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
        json!({"architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.cmd, "Env": env},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let layer = self.layer()?;
        let config = self.config(&[format!("sha256:{}", digest(&layer))]);
        let config_name = format!("{}.json", digest(config.as_bytes()));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]).to_string();
        // Written beside and moved, so that a watching server never sees half a file.
        let partial = path.with_extension("partial");
        let mut tar = tar::Builder::new(File::create(&partial)?);
        for (name, bytes) in
            [(config_name.as_str(), config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, bytes)?;
        }
        tar.finish()?;
        if !partial.exists() {
            bail!("{} wasn't written", partial.display());
        }
        std::fs::rename(partial, path)?;
        Ok(())
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
