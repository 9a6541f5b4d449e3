#!/usr/bin/env bash
# The tests of the crates that changed since BASE and of those that depend on them, without root and without containers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo >/dev/null || PATH=$PATH:${HOME}/.cargo/bin

base=${BASE:-$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)}
changed=$({ git diff --name-only "$base"; git ls-files --others --exclude-standard; } | sort -u)
packages=$(cargo metadata --format-version 1 --no-deps --locked --offline | CHANGED=$changed python3 -c '
import json, os, sys

packages = json.load(sys.stdin)["packages"]
uses = {p["name"]: {d["name"] for d in p["dependencies"] if d.get("path")} for p in packages}
paths = os.environ["CHANGED"].split("\n")
if any(p in ("Cargo.toml", "Cargo.lock", "clippy.toml") for p in paths):
    chosen = set(uses)
else:
    chosen = {p.split("/")[1] for p in paths if p.startswith("crates/")} & set(uses)
while True:
    more = {name for name, on in uses.items() if on & chosen} - chosen
    if not more:
        break
    chosen |= more
# These have tests on real containers, or measurements, alone.
print(*sorted(chosen - {"e2e", "bench", "testkit"}))')
if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "skipped: cargo fmt isn't installed" >&2; fi
./scripts/check-edges.sh
./scripts/check-sizes.py
./scripts/check-errors.py
if [ -z "$packages" ]; then
  echo "no crate changed since $base; BASE=COMMIT compares with another commit" >&2
  exit 0
fi
echo "testing: $packages" >&2
# Always the same selection of packages, so that cargo builds nothing twice with other features; what didn't change isn't built again.
if cargo nextest --version >/dev/null 2>&1; then
  filter=$(printf '+package(=%s)' $packages)
  exec cargo nextest run --locked --workspace --lib --bins --test api --no-tests pass -E "${filter#+}"
fi
programs=$(cargo test --locked --workspace --lib --bins --test api --no-run --message-format json | PACKAGES=$packages python3 -c '
import json, os, sys

chosen = set(os.environ["PACKAGES"].split())
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message.get("executable") or not message["profile"]["test"]:
        continue
    folder = os.path.dirname(message["manifest_path"])
    if os.path.basename(folder) in chosen:
        print(folder, message["executable"])')
while read -r folder program; do
  [ -n "$program" ] || continue
  (cd "$folder" && "$program" --quiet)
done <<<"$programs"
