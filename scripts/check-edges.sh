#!/usr/bin/env bash
# Dependencies point down only, and services never depend on each other (ARCHITECTURE.md, "Map"). Also: each dependency is named in the
# sources of its crate, the paths that ARCHITECTURE.md names exist, no import cycle is new, and the API server writes in one place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

layer() {
  case $1 in
    bounded | apimachinery | expressions | pki | api | tasks) echo 1 ;;
    cri | csi | plugins | gateway | http1 | store | placement | runtime | network | informer) echo 2 ;;
    apiserver | controllers | scheduler | kubelet | ingress | policy | proxy | dns | kubectl | why) echo 3 ;;
    timonel) echo 4 ;;
    testkit | e2e | bench | hello) echo 5 ;;
    *) echo "error: crate $1 has no layer; add it to scripts/check-edges.sh and ARCHITECTURE.md" >&2; exit 1 ;;
  esac
}

bad=0
crates=$(ls crates)
for crate in $crates; do
  own=$(layer "$crate")
  for other in $crates; do
    grep -q "^$other\.workspace = true" "crates/$crate/Cargo.toml" || continue
    theirs=$(layer "$other")
    # Within layers 1, 2 and 5 siblings may build on each other; services (3) may not.
    if [ "$theirs" -gt "$own" ] || { [ "$own" = 3 ] && [ "$theirs" = 3 ]; }; then
      echo "error: $crate (layer $own) may not depend on $other (layer $theirs)" >&2
      bad=1
    fi
  done
done
# Named by generated code alone. (cargo-machete and cargo-shear look for the same; this needs nothing to be installed.)
# k8s-pb is read as a file.
unnamed=" cri:prost cri:tonic-prost csi:prost csi:tonic-prost plugins:prost plugins:tonic-prost xtask:k8s-pb "
for folder in crates/* fuzz xtask; do
  for dependency in $(sed -n 's/^\([a-z0-9_-]*\)\(\.workspace\)\{0,1\} = .*/\1/p' <(sed -n '/dependencies\]$/,/^$/p' "$folder/Cargo.toml") | sort -u); do
    case $unnamed in *" ${folder#crates/}:$dependency "*) continue ;; esac
    grep -rqw --include='*.rs' --exclude-dir=target "${dependency//-/_}" "$folder" ||
      { echo "error: $folder/Cargo.toml names the dependency $dependency, which its sources don't" >&2; bad=1; }
  done
done
for path in $(grep -o '`[a-z.][a-zA-Z0-9_./-]*/[a-zA-Z0-9_./-]*`' ARCHITECTURE.md | tr -d '`' | sort -u); do
  [ -e "$path" ] || { echo "error: ARCHITECTURE.md names $path, which doesn't exist" >&2; bad=1; }
done
# Every write goes through the API server's pipeline; events alone vanish without it.
writers=$(grep -rl 'store\.write(' crates/apiserver/src | sort | tr '\n' ' ')
[ "$writers" = "crates/apiserver/src/bootstrap/events.rs crates/apiserver/src/pipeline/commit.rs " ] ||
  { echo "error: only pipeline/commit.rs and bootstrap/events.rs of the API server may write to the store, but these do: $writers" >&2; bad=1; }
# What lists and watches is the reflector of crates/informer; kube's watchers end at the first object that can't be decoded.
watchers=$(grep -rl 'kube::runtime\|kube_runtime' crates/*/src | grep -v '^crates/testkit/' || true)
[ -z "$watchers" ] || { echo "error: use informer::follow or an Informer in place of kube::runtime: $watchers" >&2; bad=1; }
python3 scripts/check-cycles.py || bad=1
exit $bad
