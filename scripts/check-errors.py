#!/usr/bin/env python3
"""An error is a type of its own (an enum by `thiserror`), not a text: `Result<_, String>` says nothing of what can go wrong, and whoever matches on it
matches on words. The files below still have that; each has the number of places, which may only fall: a file that has fewer is an error until its
number is lowered here. Tests, and what follows `#[cfg(test)]` in a file, are left out.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEFT = {
    "api/src/custom/scale.rs": 1,
    "api/src/kinds/core/pod/container.rs": 1,
    "api/src/kinds/strategy.rs": 1,
    "api/src/managed/faults.rs": 1,
    "api/src/protobuf/decode.rs": 7,
    "api/src/validate/field.rs": 2,
    "api/src/validate/meta.rs": 1,
    "api/src/validate/signer.rs": 2,
    "apimachinery/src/cron.rs": 7,
    "apimachinery/src/fields.rs": 2,
    "apimachinery/src/jsonpath.rs": 10,
    "apimachinery/src/jsonpath/parser.rs": 5,
    "apimachinery/src/names.rs": 1,
    "apimachinery/src/yaml/scalar.rs": 3,
    "apiserver/src/admission/dynamic/conditions.rs": 4,
    "apiserver/src/admission/dynamic/policies.rs": 3,
    "apiserver/src/admission/dynamic/webhooks.rs": 2,
    "apiserver/src/admission/mod.rs": 1,
    "apiserver/src/authentication/tokens.rs": 5,
    "apiserver/src/conversion.rs": 2,
    "apiserver/src/egress/tls.rs": 2,
    "apiserver/src/egress/webhook.rs": 2,
    "apiserver/src/pipeline/allocator.rs": 2,
    "apiserver/src/pipeline/managed.rs": 2,
    "controllers/src/cluster/certificates/signers.rs": 7,
    "controllers/src/network/gateway/mod.rs": 1,
    "controllers/src/network/gateway/plan.rs": 2,
    "controllers/src/storage/origin.rs": 4,
    "controllers/src/storage/snapshots/content.rs": 3,
    "controllers/src/workloads/autoscaler/figures.rs": 11,
    "controllers/src/workloads/autoscaler/metrics.rs": 1,
    "controllers/src/workloads/autoscaler/plan.rs": 1,
    "controllers/src/workloads/autoscaler/target.rs": 3,
    "csi/src/local_path.rs": 1,
    "expressions/src/admission.rs": 3,
    "expressions/src/check/mod.rs": 2,
    "expressions/src/depth.rs": 3,
    "expressions/src/device.rs": 3,
    "expressions/src/lib.rs": 6,
    "expressions/src/library/addresses.rs": 1,
    "expressions/src/library/authorizer.rs": 3,
    "expressions/src/library/format.rs": 1,
    "expressions/src/library/texts.rs": 1,
    "expressions/src/library/urls.rs": 1,
    "expressions/src/library/versions.rs": 1,
    "expressions/src/value.rs": 1,
    "gateway/src/certificate.rs": 1,
    "ingress/src/services.rs": 1,
    "ingress/src/tls.rs": 1,
    "kubectl/src/context.rs": 1,
    "kubectl/src/print/gotemplate/eval.rs": 1,
    "kubectl/src/print/gotemplate/parse.rs": 1,
    "kubectl/src/print/jsonpath.rs": 3,
    "network/src/cni.rs": 2,
    "pki/src/tls.rs": 1,
    "placement/src/volumes.rs": 1,
    "plugins/src/cdi.rs": 1,
    "runtime/src/image/pull.rs": 4,
    "runtime/src/image/registries.rs": 1,
    "runtime/src/image/registry/manifest.rs": 1,
    "runtime/src/shim/container.rs": 3,
    "runtime/src/shim/enter.rs": 2,
    "runtime/src/shim/helper.rs": 3,
    "runtime/src/shim/launch.rs": 9,
    "runtime/src/shim/profile.rs": 5,
    "runtime/src/shim/requests.rs": 2,
    "runtime/src/shim/seccomp.rs": 2,
    "scheduler/src/devices/selectors.rs": 2,
    "scheduler/src/preemption.rs": 1,
    "store/src/encrypted/config.rs": 2,
    "store/src/encrypted/mod.rs": 1,
    "store/src/sqlite/open.rs": 2,
    "timonel/src/runtimes.rs": 1,
}
START = re.compile(r"\bResult<")
SKIP = re.compile(r"^(e2e|bench|testkit)/|/tests/|(^|/)tests\.rs$|/build\.rs$")


def arguments(text, at):
    """The top-level generic arguments that begin at `at`, after `<`."""
    depth, part, parts = 0, "", []
    for index in range(at, min(at + 400, len(text))):
        char = text[index]
        if char in "<([{":
            depth += 1
        elif char in ")]}" or (char == ">" and text[index - 1] != "-"):
            if depth == 0:
                return parts + [part.strip()]
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(part.strip())
            part = ""
            continue
        part += char
    return []


def places(path):
    """Lines in which an error is a text."""
    text = path.read_text().split("\n#[cfg(test)]")[0]
    for match in START.finditer(text):
        found = [one for one in arguments(text, match.end()) if one]
        if len(found) == 2 and found[1] == "String":
            yield text.count("\n", 0, match.start()) + 1


def main():
    bad, seen = [], set()
    for path in sorted(ROOT.glob("crates/**/*.rs")):
        name = str(path.relative_to(ROOT / "crates"))
        if SKIP.search(name):
            continue
        lines = list(places(path))
        seen.add(name)
        allowed = LEFT.get(name, 0)
        if len(lines) > allowed:
            bad += [f"crates/{name}:{line}: an error is a text here; give it a type ({allowed} such places are left in this file)" for line in lines]
        elif len(lines) < allowed:
            bad.append(f"crates/{name} has {len(lines)} errors that are texts, not {allowed}: lower its number in scripts/check-errors.py")
    bad += [f"crates/{name} isn't there: remove it from scripts/check-errors.py" for name in sorted(LEFT.keys() - seen)]
    if "--count" in sys.argv:
        for path in sorted(ROOT.glob("crates/**/*.rs")):
            name = str(path.relative_to(ROOT / "crates"))
            lines = [] if SKIP.search(name) else list(places(path))
            if lines:
                print(f'    "{name}": {len(lines)},')
        return 0
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 1 if bad else 0


sys.exit(main())
