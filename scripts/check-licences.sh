#!/usr/bin/env bash
# Every dependency must come from crates.io and be under a licence of the Apache, MIT or BSD class.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo metadata --format-version 1 --locked --offline --filter-platform x86_64-unknown-linux-gnu | python3 -c '
import json, re, sys

ALLOWED = {
    "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD",
    "BSL-1.0", "CC0-1.0", "Unlicense", "Unicode-3.0", "CDLA-Permissive-2.0", "OpenSSL", "bzip2-1.0.6",
}

# Of libcontainer: pathrs is linked unmodified (MPL-2.0 asks nothing more), rust-criu is MIT by its file LICENSE.
EXCEPTIONS = {"pathrs": "MPL-2.0 OR LGPL-3.0-or-later", "rust-criu": None}

def allowed(expression):
    """SPDX expressions as crates write them: OR, AND, parentheses, and a slash for OR."""
    words = re.findall(r"\(|\)|/|[^\s()/]+", expression)
    tokens, i = [], 0
    while i < len(words):
        if i + 2 < len(words) and words[i + 1] == "WITH":
            tokens.append(" ".join(words[i:i + 3]))
            i += 3
        else:
            tokens.append({"/": "OR"}.get(words[i], words[i]))
            i += 1
    python = ["(" if t == "(" else ")" if t == ")" else t.lower() if t in ("OR", "AND") else str(t in ALLOWED) for t in tokens]
    return eval(" ".join(python), {"__builtins__": {}})

bad = []
for package in json.load(sys.stdin)["packages"]:
    name = "%s %s" % (package["name"], package["version"])
    source = package["source"]
    if source is None:
        continue
    if not source.startswith("registry+https://github.com/rust-lang/crates.io-index"):
        bad.append("%s comes from %s, not from crates.io" % (name, source))
    licence = package["license"]
    if package["name"] in EXCEPTIONS and EXCEPTIONS[package["name"]] == licence:
        continue
    if not licence:
        bad.append("%s names no licence" % name)
    elif not allowed(licence):
        bad.append("%s is under %s, which is not on the list in scripts/check-licences.sh" % (name, licence))
if bad:
    sys.exit("\n".join(["error: " + b for b in bad]))
'
