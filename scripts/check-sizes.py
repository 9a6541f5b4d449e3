#!/usr/bin/env python3
"""Files have at most 400 lines and functions at most 60; tests and benchmarks, which are tables of cases or one story on one cluster, at most 120.

The exceptions below have a reason each; one that isn't needed any more is an error. A function ends, in formatted code, at the first line that
closes a brace at the indentation of its `fn`.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_FILE = 400
MAX_FUNCTION = 60
MAX_TEST = 120
TESTS = re.compile(r"^(e2e|bench|testkit)/|/tests/|(^|/)tests\.rs$")
FN = re.compile(r"^( *)(?:pub(?:\([^)]*\))? )?(?:default |const |async |unsafe |extern \"C\" )*fn (\w+)")

FILES = {
}
ROWS = "a table: one row for each case, on one server or cluster"
FUNCTIONS = {
    ("api/tests/columns.rs", "cells_say_what_upstreams_say"): ROWS,
    ("apiserver/tests/api/access/credentials.rs", "credentials_make_a_user_or_are_refused"): ROWS,
    ("apiserver/tests/api/policies.rs", "policies_are_refused_for_what_upstream_refuses"): ROWS,
    ("apiserver/tests/api/validation/cluster.rs", "cluster"): ROWS,
    ("apiserver/tests/api/validation/pods.rs", "pods"): ROWS,
    ("apiserver/tests/api/validation/workloads.rs", "workloads"): ROWS,
    ("e2e/tests/spec/environment.rs", "what_a_container_knows"): ROWS,
    ("e2e/tests/spec/security.rs", "who_a_container_is_and_what_it_may"): ROWS,
    ("e2e/tests/spec/volumes.rs", "what_a_container_finds_in_its_volumes"): ROWS,
    ("kubelet/src/pod/probes/mod.rs", "run_probe"): "one match: what each outcome of a probe leads to, side by side",
    ("proxy/src/plan/base.rs", "base"): "one text: the chains of the table, as nft reads them",
}


def functions(lines):
    """Name, first line and length of each function."""
    for number, line in enumerate(lines):
        match = FN.match(line)
        if not match:
            continue
        end = match.group(1) + "}"
        for last in range(number, len(lines)):
            if lines[last].rstrip() == end or (last == number and line.rstrip().endswith(("}", ";"))):
                yield match.group(2), number + 1, last - number + 1
                break
            # A declaration without a body.
            if lines[last].rstrip().endswith(";") and "{" not in "".join(lines[number:last + 1]):
                break


def main():
    bad, files, long = [], set(), set()
    for path in sorted(ROOT.glob("crates/**/*.rs")):
        name = str(path.relative_to(ROOT / "crates"))
        lines = path.read_text().splitlines()
        if len(lines) > MAX_FILE:
            files.add(name)
            if name not in FILES:
                bad.append(f"crates/{name} has {len(lines)} lines; split it by what it is about ({MAX_FILE} at most)")
        limit = MAX_TEST if TESTS.search(name) else MAX_FUNCTION
        for function, line, length in functions(lines):
            if length > limit:
                long.add((name, function))
                if (name, function) not in FUNCTIONS:
                    bad.append(f"crates/{name}:{line}: {function} has {length} lines; give its steps names ({limit} at most)")
    bad += [f"crates/{name} isn't too long any more: remove it from scripts/check-sizes.py" for name in sorted(FILES.keys() - files)]
    bad += [f"{one} isn't too long any more: remove it from scripts/check-sizes.py" for one in sorted(FUNCTIONS.keys() - long)]
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 1 if bad else 0


sys.exit(main())
