#!/usr/bin/env python3
"""Functions that call themselves use up the stack as deep as somebody nests what they are given. Each must be iterative, or stand here with what
bounds its depth. The search knows no types: names that only look alike stand here, too."""
import glob
import re
import sys

DEPTH = "values are no deeper than bounded::MAX_DEPTH: bodies, patches and webhooks' answers are refused before"
SCHEMA = "as deep as our own schema"
AST = "expressions are no deeper than expressions::depth allows, asked before they are parsed"
NAME = "another function of that name"
STATUS = "as deep as the type of a status"
BOUND = {
    "api/src/managed.rs": {"compare": DEPTH, "merge": DEPTH, "prune": DEPTH, "all": DEPTH},
    "api/src/managed/faults.rs": {"faults": DEPTH},
    "api/src/protobuf/decode.rs": {"members": SCHEMA, "value": "`message` counts the depth"},
    "api/src/protobuf/encode.rs": {"fields": DEPTH, "single": DEPTH},
    "api/src/protobuf/mod.rs": {"layout": SCHEMA},
    "api/src/schema/check.rs": {"value": DEPTH, "go_type": SCHEMA},
    "api/src/schema/mod.rs": {"read_type": SCHEMA},
    "api/src/structural/rules.rs": {"compile_at": DEPTH},
    "api/src/structural/correlation.rs": {"same": DEPTH},
    "api/src/structural/validation/embedded.rs": {"check": DEPTH},
    "api/src/structural/validation/lists.rs": {"duplicates": DEPTH, "canonical": DEPTH},
    "api/src/structural/values.rs": {"prune": DEPTH, "coerce": DEPTH, "drop_nulls": DEPTH, "apply_defaults": DEPTH},
    "api/src/type_checking.rs": {"expand": DEPTH},
    "apimachinery/src/addresses.rs": {"nth": NAME},
    "apimachinery/src/cron.rs": {"number": NAME},
    "apimachinery/src/fields.rs": {"read": "it counts the depth"},
    "apimachinery/src/object.rs": {"str_at": NAME},
    "apimachinery/src/patch/mod.rs": {"merge_patch": DEPTH, "merge_object": DEPTH},
    "apiserver/src/authorization/node.rs": {"mentions": DEPTH},
    "apiserver/src/registry/catalog.rs": {"typed": NAME},
    "apiserver/src/registry/canonical.rs": {"around": NAME},
    "apiserver/src/streams/links.rs": {"take": NAME},
    "apiserver/src/openapi/mod.rs": {"visit_mut": DEPTH},
    "apiserver/src/openapi/v2.rs": {"write": DEPTH},
    "controllers/src/toolkit/adoption.rs": {"selector": NAME},
    "controllers/src/toolkit/controller.rs": {"reconcile": NAME},
    "controllers/src/toolkit/status.rs": {"is_same": STATUS, "merge_patch": STATUS},
    "controllers/src/workloads/replica_set.rs": {"replicas": NAME, "min_ready_seconds": NAME, "template": NAME, "status": NAME, "next_status": NAME},
    "expressions/src/budget.rs": {"weigh": DEPTH},
    "expressions/src/check/cost/mod.rs": {"cost": AST},
    "expressions/src/check/declared.rs": {"read": "types of our own table"},
    "expressions/src/check/mod.rs": {"instance": AST},
    "expressions/src/check/names.rs": {"visit": AST},
    "expressions/src/check/sets.rs": {"compare_as_sets": AST},
    "expressions/src/check/types.rs": {"apply": AST, "fits": AST, "is_free_of": AST},
    "expressions/src/lower.rs": {"visit": AST, "replace_names": AST},
    "expressions/src/value.rs": {"untyped": DEPTH, "typed": DEPTH, "to_json": AST},
    "kubectl/src/commands/explain.rs": {"descriptions": "it counts the depth", "list": "as deep as --recursive shows: MAX_DEPTH"},
    "kubectl/src/describe/generic.rs": {"content": DEPTH},
    "kubectl/src/print/gotemplate/eval.rs": {"nodes": "as deep as templates are read: MAX_DEPTH"},
    "kubectl/src/print/jsonpath.rs": {"fill": "as deep as templates are read: MAX_DEPTH"},
    "kubectl/src/print/kyaml.rs": {"node": DEPTH},
    "kubectl/src/print/mod.rs": {"go_text": DEPTH},
    "kubectl/src/print/yaml.rs": {"node": DEPTH},
    "kubectl/src/threeway.rs": {"object": DEPTH},
    "kubelet/src/events.rs": {"container": NAME},
    "kubelet/src/pod/static_pods.rs": {"read": NAME},
    "kubelet/src/pod/worker/mod.rs": {"save": NAME, "save_manifest": NAME},
    "kubelet/src/state/mod.rs": {"disk_usage": NAME},
    "network/src/lib.rs": {"sh": NAME},
    "network/src/link.rs": {"index": NAME, "add_address": NAME},
    "pki/src/tls.rs": {"verify_tls12_signature": NAME, "verify_tls13_signature": NAME},
    "runtime/src/shim/logs.rs": {"open": NAME, "rotate": NAME},
    "scheduler/src/snapshot.rs": {"count": NAME},
    "store/src/lib.rs": {"page_at": NAME},
    "store/src/sqlite.rs": {"page_at": NAME},
    "timonel/src/joining.rs": {"sign": NAME, "write": NAME},
}


def body(text, start):
    """From the brace at or behind `start` to the one that closes it, without texts and comments."""
    begin = text.find("{", start)
    if begin < 0:
        return ""
    depth, at = 1, begin + 1
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return re.sub(r"//.*", "", re.sub(r'"(\\.|[^"\\])*"', '""', text[begin:at]))


def main():
    found, bad = set(), []
    for path in sorted(glob.glob("crates/*/src/**/*.rs", recursive=True)):
        name = path.removeprefix("crates/")
        if re.match(r"(testkit|bench|e2e)/|.*(tests|extremes|kinds/paths)(\.rs|/)", name):
            continue
        text = open(path, encoding="utf-8").read().split("#[cfg(test)]\nmod tests {")[0]
        for match in re.finditer(r"\bfn (\w+)\s*(<[^>]*>)?\(", text):
            own = match.group(1)
            of = body(text, match.end())
            if re.search(rf"(?<![\w.:]){own}\(", of) or re.search(rf"\b[sS]elf(::|\.){own}\(", of):
                found.add((name, own))
                if own not in BOUND.get(name, {}):
                    line = text.count("\n", 0, match.start()) + 1
                    bad.append(f"{path}:{line}: {own} calls itself: make it iterative, or say in {sys.argv[0]} what bounds it")
    bad += [f"{name}: {own} doesn't call itself any more: remove it from {sys.argv[0]}"
            for name, all in BOUND.items() for own in all if (name, own) not in found]
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 1 if bad else 0


sys.exit(main())
