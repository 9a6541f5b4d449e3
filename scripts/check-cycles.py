#!/usr/bin/env python3
"""Import cycles between the top-level modules of each crate.

A module imports another one when a path `crate::OTHER` stands in it. The cycles of scripts/cycles.txt are there and are to go; a module that
joins a cycle, or a new cycle, is an error, and so is a line of that file that is no longer true. Where ARCHITECTURE.md says the order of a
crate's modules ("Rooms of `crates/NAME`, each imports only those after it: ..."), an import against that order is an error, too.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KNOWN = ROOT / "scripts" / "cycles.txt"


def without_comments_and_tests(text):
    """Lines that are code and not in a test module at the end of the file."""
    text = re.split(r"^#\[cfg\(test\)\]\s*\nmod \w+ \{", text, maxsplit=1, flags=re.M)[0]
    return re.sub(r"^\s*//.*$", "", text, flags=re.M)


def modules(source):
    """Each top-level module of a crate with those that it imports. The crate's root is none: it knows all of them."""
    names, code = set(), {}
    roots = [source / name for name in ("lib.rs", "main.rs") if (source / name).exists()]
    tests = {name for root in roots for name in re.findall(r"^#\[cfg\(test\)\]\s*\nmod (\w+);", root.read_text(), flags=re.M)}
    for path in source.rglob("*.rs"):
        parts = path.relative_to(source).parts
        name = parts[0].removesuffix(".rs")
        if name in ("lib", "main", "bin") or name in tests or "tests" in parts or path.name == "tests.rs":
            continue
        names.add(name)
        code[name] = code.get(name, "") + without_comments_and_tests(path.read_text())
    imports = {}
    for name, text in code.items():
        found = set(re.findall(r"\bcrate::(\w+)", text))
        for group in re.findall(r"\bcrate::\{([^;]*?)\};", text, flags=re.S):
            depth, word = 0, ""
            for c in group + ",":
                depth += (c == "{") - (c == "}")
                if c == "," and depth == 0:
                    found.add(re.split(r"::| ", word.strip())[0])
                    word = ""
                else:
                    word += c
        imports[name] = (found & names) - {name}
    return imports


def components(graph):
    """Strongly connected components of more than one module (Tarjan, without recursion)."""
    index, low, on_stack, stack, out = {}, {}, set(), [], []
    for root in sorted(graph):
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(graph[other]))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        other = stack.pop()
                        on_stack.discard(other)
                        component.append(other)
                        if other == node:
                            break
                    if len(component) > 1:
                        out.append(sorted(component))
    return sorted(out)


def against_the_order():
    """Imports of modules that stand before the importing one in ARCHITECTURE.md, and modules that it doesn't name or that aren't there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for crate, line in re.findall(r"Rooms of `crates/(\w+)`, each imports only those after it: (.*)", text):
        order, graph = re.findall(r"`(\w+)`", line), modules(ROOT / "crates" / crate / "src")
        for name in sorted(set(order) ^ set(graph)):
            yield f"{crate}: the order of rooms in ARCHITECTURE.md and the crate don't agree about {name}"
        places = {name: place for place, name in enumerate(order)}
        for name, imports in sorted(graph.items()):
            for other in sorted(imports):
                if places.get(other, 0) < places.get(name, 0):
                    yield f"{crate}: {name} imports {other}, which is above it in ARCHITECTURE.md"


found = []
for crate in sorted((ROOT / "crates").iterdir()):
    for component in components(modules(crate / "src")):
        found.append(f"{crate.name}: {' '.join(component)}")
if sys.argv[1:] == ["--write"]:
    KNOWN.write_text("".join(line + "\n" for line in found))
    sys.exit()
known = KNOWN.read_text().splitlines()
bad = 0
for line in against_the_order():
    print(f"error: {line}", file=sys.stderr)
    bad = 1
for line in found:
    name, inside = line.split(": ")
    if not any(k.split(": ")[0] == name and set(inside.split()) <= set(k.split(": ")[1].split()) for k in known):
        print(f"error: {name} has an import cycle that scripts/cycles.txt doesn't have: {inside}", file=sys.stderr)
        bad = 1
for line in known:
    if line not in found:
        print(f"error: scripts/cycles.txt is out of date (run scripts/check-cycles.py --write): {line}", file=sys.stderr)
        bad = 1
sys.exit(bad)
