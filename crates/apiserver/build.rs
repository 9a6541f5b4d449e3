//! What `/version` says of the build: the commit, whether files differed from it, and when it was made.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TIMONEL_COMMIT");
    // Of other builds an older commit is told rather than that all is built again with each one.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        for path in ["HEAD", "index"] {
            if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", path]) {
                println!("cargo:rerun-if-changed={path}");
            }
        }
    }
    let commit = std::env::var("TIMONEL_COMMIT").ok().or_else(|| git(&["rev-parse", "HEAD"]));
    let state =
        git(&["status", "--porcelain", "--untracked-files=no"]).map_or("archive", |changed| match changed.is_empty() {
            true => "clean",
            false => "dirty",
        });
    let date = git(&["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"]);
    println!("cargo:rustc-env=TIMONEL_COMMIT={}", commit.unwrap_or_else(|| "unknown".into()));
    println!("cargo:rustc-env=TIMONEL_TREE_STATE={state}");
    println!("cargo:rustc-env=TIMONEL_BUILD_DATE={}", date.unwrap_or_else(|| "1970-01-01T00:00:00Z".into()));
}

/// What git says; none where there is no repository.
fn git(arguments: &[&str]) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "git tells of our own repository, on the machine that builds")]
    let done = Command::new("git").env("TZ", "UTC").args(arguments).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_string())
}
