//! `create token`

use std::sync::Arc;

use serde_json::json;

use super::super::{Command, run};
use super::name;
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, many, text};
use crate::print::{Printer, line, say};

pub const COMMAND: Command = Command {
    name: "token",
    about: "Request a service account token",
    flags: &[&[
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        many("audience", "For whom it is"),
        text("duration", "How long it is good"),
        text("bound-object-kind", "Pod, Secret or Node whose end is the token's"),
        text("bound-object-name", "Its name"),
        text("bound-object-uid", "Its UID"),
    ]],
    run: run!(create),
    ..Command::NONE
};

async fn create(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let args = &cx.args;
    let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    if !args.many("audience").is_empty() {
        request["spec"]["audiences"] = json!(args.many("audience"));
    }
    if args.given("duration") {
        let nanos = args.duration("duration")?;
        if nanos % 1_000_000_000 != 0 {
            return fail("--duration cannot be expressed in units less than seconds");
        }
        request["spec"]["expirationSeconds"] = (nanos / 1_000_000_000).into();
    }
    let kind = args.text("bound-object-kind");
    if kind.is_empty() {
        if !args.text("bound-object-name").is_empty() {
            return fail("--bound-object-name can only be set if --bound-object-kind is provided");
        }
        if !args.text("bound-object-uid").is_empty() {
            return fail("--bound-object-uid can only be set if --bound-object-kind is provided");
        }
    } else {
        if !["Pod", "Secret", "Node"].contains(&kind) {
            return fail("supported --bound-object-kind values are Node, Pod, Secret");
        }
        if args.text("bound-object-name").is_empty() {
            return fail("--bound-object-name is required if --bound-object-kind is provided");
        }
        request["spec"]["boundObjectRef"] =
            json!({"kind": kind, "apiVersion": "v1", "name": args.text("bound-object-name")});
        if !args.text("bound-object-uid").is_empty() {
            request["spec"]["boundObjectRef"]["uid"] = args.text("bound-object-uid").into();
        }
    }
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", cx.namespace()?);
    let made = cx
        .json(Call::new("POST", &path).body(&request))
        .await
        .map_err(|error| Error::Message(format!("failed to create token: {}", error.text())))?;
    match Printer::of(args, false)? {
        Some(printer) => say(&printer.text(&made, true)?),
        None => line(made["status"]["token"].as_str().unwrap_or("")),
    }
}
