//! Public clients at fixed versions, which `test.sh` unpacks into `target/clients`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kubectl that is no older than this knows all that tests ask of one.
const CURRENT: u32 = 37;

/// The program of `test.sh`'s making: `kubectl` 1.37 or `helm` 4.
fn unpacked(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients/bin").join(name);
    path.is_file().then_some(path)
}

/// Helm 4: that of `TIMONEL_HELM`, or of `test.sh`.
pub fn helm() -> Option<PathBuf> {
    std::env::var_os("TIMONEL_HELM").map(PathBuf::from).or_else(|| unpacked("helm"))
}

/// A kubectl of today: that of `TIMONEL_KUBECTL`, of `test.sh`, or of this machine.
pub fn current_kubectl() -> Option<PathBuf> {
    let named = std::env::var_os("TIMONEL_KUBECTL").map(PathBuf::from);
    let all = [named, unpacked("kubectl"), Some("kubectl".into())];
    all.into_iter().flatten().find(|program| minor_of(program).is_some_and(|minor| minor >= CURRENT))
}

/// The minor version of a kubectl, if there is one.
pub(crate) fn minor_of(kubectl: &Path) -> Option<u32> {
    let output = Command::new(kubectl).args(["version", "--client"]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Old ones print a Go structure.
    let version = text.split("Client Version: v1.").nth(1).or_else(|| text.split("Minor:\"").nth(1))?;
    version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Tells that a test isn't run because a program is missing that `test.sh` installs. Where all tests have to run, `test.sh` fails then.
pub fn skip(what: &str) {
    report_skipped("missing", what);
}

/// Tells that a part of a test isn't run because the machine or its kernel can't do what it needs.
pub fn skip_unsupported(what: &str) {
    report_skipped("unsupported", what);
}

/// Tells it at once, past the harness, which keeps what tests print to itself; and in the file of `TEST_SKIPPED`, which `test.sh` reads
/// at its end.
fn report_skipped(why: &str, what: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(std::io::stderr(), "skipped ({why}): {test}: {what}");
    if let Some(path) = std::env::var_os("TEST_SKIPPED")
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{why}: {test}: {what}");
    }
}
