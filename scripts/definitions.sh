#!/usr/bin/env bash
# Takes what a product publishes through its life on a cluster: definitions, then samples, each file of a folder (YAML that isn't a
# template) applied by the server, compared, applied by the client, compared, applied by the server again, and deleted.
# Says of each file what was refused (judge by upstream whether that is right) or differed (which nothing should).
#
#   KUBECTL="kubectl --kubeconfig FILE" scripts/definitions.sh FOLDER
#
# The exit code is 1 if something differed or stayed. Nothing else should be on the cluster.
set -uo pipefail
KUBECTL=${KUBECTL:-kubectl}
folder=${1:?usage: definitions.sh FOLDER}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
differs=0 foreign=0
k() { $KUBECTL "$@"; }
say() { printf '%-9s %s: %s\n' "$1" "${2#"$folder"/}" "$(head -c 600 "$work/said" | tr '\n' ' ')"; }

# What kubectl can read by itself: no templates, no values of charts, no patches without a name.
plain() { ! grep -qE '\{\{|\$\{' "$1" && grep -qE '^apiVersion:' "$1" && grep -qE '^kind:' "$1" && ! grep -qE '^kind: (Kustomization|List$)' "$1"; }
mapfile -t all < <(find "$folder" -type f \( -name '*.yaml' -o -name '*.yml' \) | sort)
definitions=() samples=()
for file in "${all[@]}"; do
  plain "$file" || continue
  if ! grep -qE '^kind: ["'\'']?CustomResourceDefinition' "$file"; then
    samples+=("$file")
  # What has no names is a patch for kustomize.
  elif grep -qE '^ +plural:' "$file"; then
    definitions+=("$file")
  fi
done

# try WORD FILE ARGS…: runs kubectl with a file; tells with WORD if it fails.
try() {
  local word=$1 file=$2
  shift 2
  k "$@" -f "$file" >"$work/said" 2>&1 && return 0
  # Of somebody else's kinds and namespaces nothing can be said.
  if grep -qE 'no matches for kind|namespaces ".*" not found' "$work/said"; then foreign=$((foreign + 1)); else say "$word" "$file"; fi
  return 1
}

# same FILE FLAGS…: no difference between a file and the cluster.
same() {
  local file=$1
  shift
  k diff "$@" -f "$file" >"$work/said" 2>&1 && return 0
  say DIFFERS "$file"
  differs=1
}

life() {
  local file=$1
  try refused "$file" apply --server-side --force-conflicts --field-manager=first || return 1
  same "$file" --server-side --force-conflicts --field-manager=first
  # Objects above the size of annotations can't be applied by the client, anywhere.
  if k apply -f "$file" >"$work/said" 2>&1; then
    same "$file"
  elif ! grep -q 'Too long: may not be more than 262144 bytes' "$work/said"; then
    say REFUSED "$file"
    differs=1
  fi
  try REFUSED "$file" apply --server-side --force-conflicts --field-manager=kubectl || differs=1
  same "$file" --server-side --force-conflicts
}

accepted=()
for file in "${definitions[@]}"; do life "$file" && accepted+=("$file"); done
k wait --for=condition=Established crd --all --timeout=30s >"$work/said" 2>&1 || { say UNREADY "$folder"; differs=1; }
echo "definitions: ${#accepted[@]} of ${#definitions[@]} files"
if [ -z "${DEFINITIONS_ONLY:-}" ]; then
  kept=0
  # Samples have names in common, so each goes before the next comes.
  for file in "${samples[@]}"; do
    life "$file" && kept=$((kept + 1))
    k delete --ignore-not-found --timeout=30s -f "$file" >"$work/said" 2>&1 || grep -q 'no matches for kind' "$work/said" || say undeleted "$file"
  done
  echo "samples: $kept of ${#samples[@]} files, $foreign of kinds or namespaces that aren't there"
fi
[ -n "${KEEP:-}" ] && exit $differs
for file in "${accepted[@]}"; do
  k delete --ignore-not-found --timeout=60s -f "$file" >"$work/said" 2>&1 || { say STAYS "$file"; differs=1; }
done
exit $differs
