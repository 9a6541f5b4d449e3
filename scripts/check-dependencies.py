#!/usr/bin/env python3
"""What deny.toml says of dependencies: where they come from, under which licences they are, which are banned, and which may be there twice.

`cargo deny check licenses bans sources` reads the same file and says the same; this needs nothing to be installed.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = tomllib.loads((ROOT / "deny.toml").read_text())


def is_allowed(expression, licences):
    """SPDX expressions as crates write them: OR, AND, WITH, parentheses, and a slash for OR."""
    tokens = re.findall(r"\(|\)|/|[^\s()/]+(?: WITH [^\s()/]+)?", expression)
    # AND binds closer than OR: a list of alternatives, each true as long as all of its parts are. One entry for each open parenthesis.
    open_ = [[True]]
    for token in tokens:
        if token == "(":
            open_.append([True])
        elif token in ("OR", "/"):
            open_[-1].append(True)
        elif token != "AND":
            value = any(open_.pop()) if token == ")" else token in licences
            open_[-1][-1] = open_[-1][-1] and value
    return any(open_[0])


def matches(version, wanted):
    """Whether a version is one of `1` or `0.99`."""
    return version == wanted or version.startswith(wanted + ".")


def main():
    target = RULES["graph"]["targets"][0]
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    packages = [package for package in metadata["packages"] if package["id"] in used and package["source"]]

    licences = set(RULES["licenses"]["allow"])
    exceptions = {one["crate"]: set(one["allow"]) for one in RULES["licenses"]["exceptions"]}
    clarified = {one["crate"]: one["expression"] for one in RULES["licenses"]["clarify"]}
    registries = tuple(f"registry+{url}" for url in RULES["sources"]["allow-registry"])
    banned = {one["crate"]: one["reason"] for one in RULES["bans"]["deny"]}
    skipped = [one["crate"].split("@") for one in RULES["bans"]["skip"]]

    bad = []
    versions = collections.defaultdict(set)
    for package in packages:
        name, version = package["name"], package["version"]
        versions[name].add(version)
        if not package["source"].startswith(registries):
            bad.append(f"{name} {version} comes from {package['source']}, not from crates.io")
        licence = clarified.get(name, package["license"])
        if not licence:
            bad.append(f"{name} {version} names no licence")
        elif not is_allowed(licence, licences | exceptions.get(name, set())):
            bad.append(f"{name} {version} is under {licence}, which deny.toml doesn't allow")
        if name in banned:
            bad.append(f"{name} is banned: {banned[name]}")
    for name, all_ in sorted(versions.items()):
        rest = [v for v in all_ if not any(name == skip and matches(v, wanted) for skip, wanted in skipped)]
        if len(rest) > 1:
            bad.append(f"{name} is there in the versions {', '.join(sorted(rest))}; agree on one, or say why not in deny.toml")
    for name, wanted in skipped:
        if len(versions[name]) < 2 or not any(matches(v, wanted) for v in versions[name]):
            bad.append(f"deny.toml skips {name}@{wanted}, which isn't a second version any more")
    for name in sorted(set(exceptions) | set(clarified)):
        if name not in versions:
            bad.append(f"deny.toml has an exception for {name}, which is no dependency")
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 1 if bad else 0


sys.exit(main())
