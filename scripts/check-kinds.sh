#!/usr/bin/env bash
# Kinds are compared as kinds (`kind == kinds::PODS`), never by the text of their plural or of a resource (ARCHITECTURE.md,
# "Invariants"). What is particular to a kind is in its module below crates/api/src/kinds. Tests may name kinds as clients do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bad=0
fail() {
  echo "error: $1" >&2
  echo "$2" >&2
  bad=1
}

# kubectl is a client: its command lines and the texts of its answers name resources of any cluster, and it decides nothing by them here.
# Sources without tests: what follows `#[cfg(test)]` in a file is its tests.
sources() {
  find crates fuzz xtask -name '*.rs' -not -path '*/tests/*' -not -name tests.rs -not -path '*/target/*' -not -path 'crates/kubectl/*' | sort
}
code() {
  for file in $(sources); do
    awk -v file="$file" '/^#\[cfg\(test\)\]/ { exit } { print file ":" FNR ": " $0 }' "$file"
  done
}
all=$(code)

found=$(grep -E 'plural\(\) *(==|!=)|(==|!=) *[a-z_.]*plural\(\)|match [^{]*plural\(\)|plural\(\)\.(eq|ne|starts_with|ends_with|contains)|contains\(&[a-z_.]*plural\(\)\)' <<<"$all" \
  | grep -v '^crates/api/src/kinds/' || true)
[ -z "$found" ] || fail "a kind is compared by its plural; compare the kind (or use Kind::is_named for what a client names)" "$found"

# The plural of a kind as text stands in its module, and in few other places that name what clients do.
for plural in services nodes; do
  files=$(grep -F "\"$plural\"" <<<"$all" | grep -E '^crates/(api|apiserver|controllers|kubelet|scheduler|informer|placement|gateway|timonel|kubectl)/' | cut -d: -f1 | sort -u)
  [ "$(grep -c . <<<"$files")" -le 3 ] || fail "\"$plural\" as text is in more than three files; use its kind" "$files"
done
exit $bad
