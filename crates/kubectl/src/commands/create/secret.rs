//! `create secret generic|tls|docker-registry`

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::{Command, run};
use super::configmap::{SOURCES, sources};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{many, switch, text, text_or};

pub const COMMAND: Command = Command {
    name: "secret",
    about: "Create a secret using a specified subcommand",
    commands: &[&GENERIC, &TLS, &DOCKER],
    ..Command::NONE
};

const GENERIC: Command = Command {
    name: "generic",
    about: "Create a secret from a local file, directory, or literal value",
    flags: &[FLAGS, SOURCES, &[text("type", "Type of the secret")]],
    run: run!(generic),
    ..Command::NONE
};

const TLS: Command = Command {
    name: "tls",
    about: "Create a TLS secret",
    flags: &[
        FLAGS,
        &[
            text("cert", "File with the certificate in PEM"),
            text("key", "File with the key in PEM"),
            switch("append-hash", "Append a hash to the name"),
        ],
    ],
    run: run!(tls),
    ..Command::NONE
};

const DOCKER: Command = Command {
    name: "docker-registry",
    about: "Create a secret for use with a Docker registry",
    flags: &[
        FLAGS,
        &[
            text("docker-username", "User"),
            text("docker-password", "Password"),
            text("docker-email", "Mail address"),
            text_or("docker-server", "https://index.docker.io/v1/", "Registry"),
            many("from-file", "A file with the configuration: [.dockerconfigjson=]path"),
            switch("append-hash", "Append a hash to the name"),
        ],
    ],
    run: run!(docker),
    ..Command::NONE
};

fn secret(name: &str, kind: &str, data: impl IntoIterator<Item = (String, Vec<u8>)>) -> Value {
    let data: Map<String, Value> = data.into_iter().map(|(k, v)| (k, STANDARD.encode(v).into())).collect();
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    if !kind.is_empty() {
        secret["type"] = kind.into();
    }
    if !data.is_empty() {
        secret["data"] = Value::Object(data);
    }
    secret
}

async fn generic(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    finish(&cx, "secrets", true, secret(&name, cx.args.text("type"), sources(&cx)?)).await
}

async fn tls(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    if cx.args.text("key").is_empty() || cx.args.text("cert").is_empty() {
        return fail("key and cert must be specified");
    }
    let read = |flag: &str| {
        let path = cx.args.text(flag);
        bounded::bytes(path, bounded::MAX_OWN_FILE_BYTES).map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            Error::Message(if missing {
                format!("Cannot read file {path}, open {path}: no such file or directory")
            } else {
                format!("open {path}: {error}")
            })
        })
    };
    let (cert, key) = (read("cert")?, read("key")?);
    if !String::from_utf8_lossy(&cert).contains("-----BEGIN") {
        return fail("tls: failed to find any PEM data in certificate input");
    }
    if !String::from_utf8_lossy(&key).contains("-----BEGIN") {
        return fail("tls: failed to find any PEM data in key input");
    }
    finish(
        &cx,
        "secrets",
        true,
        secret(&name, "kubernetes.io/tls", [("tls.crt".to_string(), cert), ("tls.key".to_string(), key)]),
    )
    .await
}

async fn docker(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let (user, password, mail) =
        (cx.args.text("docker-username"), cx.args.text("docker-password"), cx.args.text("docker-email"));
    let files = cx.args.many("from-file");
    let config = if files.is_empty() {
        if user.is_empty() || password.is_empty() {
            return fail(
                "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
            );
        }
        // In the order in which upstream writes the members.
        let text = |t: &str| crate::print::go_json(&t.into());
        let mail = if mail.is_empty() { String::new() } else { format!(",\"email\":{}", text(mail)) };
        let auth = STANDARD.encode(format!("{user}:{password}"));
        format!(
            "{{\"auths\":{{{}:{{\"username\":{},\"password\":{}{mail},\"auth\":{}}}}}}}",
            text(cx.args.text("docker-server")),
            text(user),
            text(password),
            text(&auth)
        )
        .into_bytes()
    } else {
        let path = files[0].strip_prefix(".dockerconfigjson=").unwrap_or(&files[0]);
        bounded::bytes(path, bounded::MAX_OWN_FILE_BYTES)?
    };
    let secret = secret(&name, "kubernetes.io/dockerconfigjson", [(".dockerconfigjson".to_string(), config)]);
    finish(&cx, "secrets", true, secret).await
}
