//! How the binary is linked, and the program of the built-in image, which becomes a part of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What of the surroundings would make another program of the same sources, or run a checker in the compiler's place.
const LEFT_OUT: [&str; 4] = ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"];

/// Small before fast. By the environment, so that the workspace's own release profile stays what it is.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // At a fixed place: else each process writes three megabytes of addresses when it starts, and there is a shim for every
    // pod. The stack, the heap and the libraries are where chance puts them all the same.
    println!("cargo:rustc-link-arg-bin=timonel=-no-pie");
    match hello() {
        Ok(program) => println!("cargo:rustc-env=HELLO={}", program.display()),
        Err(why) => println!("cargo::error={}", why.replace('\n', " | ")),
    }
}

/// Builds the program of the built-in image, linked statically, as nothing else is in the image. By a cargo of its own: a dependency of this crate
/// would be built with this crate's profile and flags.
fn hello() -> Result<PathBuf, String> {
    let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let (own, out, target) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?, variable("TARGET")?);
    let workspace = Path::new(&own).join("../..").canonicalize().map_err(|error| format!("{own}/../..: {error}"))?;
    for input in ["crates/hello/src", "crates/hello/Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    let folder = Path::new(&out).join("hello");
    let registry = variable("CARGO_HOME").or_else(|_| variable("HOME").map(|home| format!("{home}/.cargo")));
    let flags = [
        "-Ctarget-feature=+crt-static".to_string(),
        "-Crelocation-model=static".into(),
        // The same bytes wherever it is built.
        format!("--remap-path-prefix={}=/cargo", registry.unwrap_or_else(|_| "/root/.cargo".into())),
        format!("--remap-path-prefix={}=/timonel", workspace.display()),
    ];
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(&workspace).args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--offline",
        "--package",
        "hello",
    ]);
    cargo.args(["--bin", "hello", "--target", &target, "--target-dir"]).arg(&folder);
    for name in LEFT_OUT {
        cargo.env_remove(name);
    }
    cargo.envs(PROFILE).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    #[allow(clippy::disallowed_methods, reason = "it is cargo that prints")]
    let output = cargo.output().map_err(|error| format!("cargo can't be run: {error}"))?;
    if output.status.success() {
        return Ok(folder.join(target).join("release/hello"));
    }
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if ["find -lc", "library -lc", "library 'c'", "find -lpthread"].iter().any(|words| told.contains(words)) {
        return Err("the built-in image's program is linked statically, and this machine has no static C library: install libc6-dev (Debian, Ubuntu), glibc-static (Fedora, RHEL) or glibc-devel-static (openSUSE)".into());
    }
    Err(format!("the built-in image's program can't be built: {told}"))
}
