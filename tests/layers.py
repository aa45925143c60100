#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks who includes whom, and that no source file is forgotten.

    core <- kernel <- {enrich, events, store, root} <- {targets, web} <- agent <- cli <- main

A room may include itself and what stands to the left of it; rooms in braces, and event kinds, don't
include each other. The BPF side (src/bpf, *.bpf.c and every header that these reach) may include only
src/bpf, what core shares with it (SHARED) and, for an event kind, its own folder.

usage: layers.py [--junit FILE] [--root TREE]
"""

import argparse
import itertools
import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LEVELS = [
    {"core"},
    {"kernel"},
    {"enrich", "events", "store", "root"},
    {"targets", "web"},
    {"agent"},
    {"cli"},
    {"main"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
SHARED = {"core/cgroup.h", "core/packet.h", "core/sockets.h", "core/wire.h"}
SOURCES = {".c", ".h", ".in", ".py", ".sh", ".js", ".css"}
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')


class Tree:
    """The sources of a tree: paths are texts relative to src/, as in #include."""

    def __init__(self, root):
        self.root = root
        self.src = root / "src"
        self.files = sorted(
            str(path.relative_to(self.src)) for path in self.src.rglob("*.[ch]") if path.is_file()
        )
        self.includes = {name: list(self.includes_of(name)) for name in self.files}

    def includes_of(self, name):
        """(line, what it includes) for each include that is not a library's."""
        for number, line in enumerate(self.read(self.src / name).splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            bracket, what = match.groups()
            beside = str(Path(name).parent / what)
            if (self.src / what).is_file():
                yield number, what
            elif bracket == '"':
                yield number, beside if (self.src / beside).is_file() else what

    @staticmethod
    def read(path):
        return path.read_text(encoding="utf-8", errors="replace")

    def bpf_side(self):
        """Every file that is compiled for BPF."""
        reached = set()
        todo = [n for n in self.files if n.endswith(".bpf.c") or n.startswith("bpf/")]
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                todo += [what for _, what in self.includes.get(name, [])]
        return reached


def room(name):
    """The first folder; an event kind is a room of its own: events/oom/oom.c -> events/oom."""
    parts = name.split("/")
    if len(parts) == 1:
        return parts[0].split(".")[0]
    return "/".join(parts[:2]) if parts[0] == "events" and len(parts) > 2 else parts[0]


def check_layers(tree):
    """Each room includes only what is below it."""
    bpf_side = tree.bpf_side()
    for name, includes in tree.includes.items():
        mine = room(name)
        level = LEVEL.get(mine.split("/")[0])
        if level is None and mine != "bpf":
            yield f"src/{name}:1: the room '{mine}' has no place in the layers (tests/layers.py)"
            continue
        for line, what in includes:
            skeleton = re.fullmatch(r"(?:.*/)?(\w+)\.skel\.h", what)
            if skeleton and what not in tree.includes:
                # Made from a NAME.bpf.c: it belongs to the room of that.
                sources = [f for f in tree.files if f.endswith(f"/{skeleton[1]}.bpf.c")]
                if not sources:
                    yield f"src/{name}:{line}: includes {what}, but there is no {skeleton[1]}.bpf.c"
                    continue
                what = sources[0].replace(".bpf.c", ".skel.h")
            elif what not in tree.includes:
                yield f"src/{name}:{line}: includes {what}, which does not exist"
                continue
            theirs = room(what)
            if name in bpf_side:
                fine = what in SHARED or mine != "core" and theirs in {mine, "bpf"}
                why = f"the BPF side knows only src/bpf, its own folder, {', '.join(sorted(SHARED))}"
            else:
                fine = theirs == mine or LEVEL.get(theirs.split("/")[0], level) < level
                why = f"{mine} may not use {theirs}"
            if not fine:
                yield f"src/{name}:{line}: includes {what}: {why}"


def check_cycles(tree):
    """No file includes itself, directly or through others."""
    done = set()

    def walk(name, path):
        done.add(name)
        path = path + [name]
        for line, what in tree.includes.get(name, []):
            if what in path:
                circle = path[path.index(what) :] + [what]
                yield f"src/{name}:{line}: closes a circle: {' -> '.join(circle)}"
            elif what not in done:
                yield from walk(what, path)

    for name in tree.files:
        if name not in done:
            yield from walk(name, [])


def check_spdx(tree):
    """Each source file says its licence in its first lines."""
    paths = [tree.root / "dev", tree.root / ".ci/run"]
    for folder in ("src", "tests", "deploy"):
        paths += (tree.root / folder).rglob("*")
    for path in paths:
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            head = list(itertools.islice(file, 3))
        source = path.suffix in SOURCES or head and head[0].startswith("#!")
        if source and not any("SPDX-License-Identifier:" in line for line in head):
            yield f"{path.relative_to(tree.root)}:1: has no SPDX-License-Identifier line"


def check_built(tree):
    """Each C file is named in a meson.build; an event kind's and a target's by its name."""
    built = set()
    for build in [tree.root / "meson.build", *tree.src.rglob("meson.build")]:
        text = "\n".join(line.split("#")[0] for line in tree.read(build).splitlines())
        for named in re.findall(r"'([^'\n]+)'", text):
            built.add((build.parent / named).resolve())
            if build.parent == tree.src / "events" and (build.parent / named).is_dir():
                folder = (build.parent / named).resolve()
                # All of a kind's C files are built, its test by the kind's name.
                built |= {f for f in folder.glob("*.c") if not f.name.startswith("test_")}
                built.add(folder / f"test_{named}.c")
            if build.parent == tree.src / "targets":
                built |= {(build.parent / f"{before}{named}.c").resolve() for before in ("", "test_")}
    for name in tree.files:
        if name.endswith(".c") and (tree.src / name).resolve() not in built:
            yield f"src/{name}:1: is in no meson.build, so nobody builds it"


CHECKS = [check_layers, check_cycles, check_spdx, check_built]

# A tree that is wrong in each line marked WRONG, and nowhere else.
SPDX = "// SPDX-License-Identifier: Apache-2.0"
SAMPLE = {
    "meson.build": "executable('x', 'src/main.c') # 'src/core/orphan.c'",
    "src/main.c": [SPDX, '#include "cli/cli.h"', "#include <core/base.h>"],
    "src/cli/cli.h": [SPDX, '#include "agent/agent.h"'],
    "src/agent/agent.h": [SPDX, '#include "store/store.h"', '#include "cli/cli.h" // WRONG'],
    "src/store/store.h": [SPDX, '#include "kernel/kernel.h"', '#include "enrich/names.h" // WRONG'],
    "src/enrich/names.h": [SPDX, "#include <linux/types.h>", '#include "gone.h" // WRONG'],
    "src/kernel/kernel.h": [SPDX, '#include "core/base.h"', "#include <agent/agent.h> // WRONG"],
    "src/core/base.h": ["int unlicensed; // WRONG"],
    "src/core/wire.h": [SPDX, '#include "core/packet.h"', '#include "core/base.h" // WRONG'],
    "src/core/packet.h": [SPDX],
    "src/core/orphan.c": [SPDX + " but nobody builds it: WRONG"],
    "src/bpf/common.h": [SPDX, '#include "core/wire.h"', '#include "bpf/more.h"'],
    "src/bpf/more.h": [SPDX, '#include "bpf/common.h"'],
    "src/attic/old.h": [SPDX + " but in a room without a place: WRONG"],
    "src/events/meson.build": "event_names = ['oom', 'drop']",
    "src/targets/meson.build": "target_names = ['here']",
    "src/targets/here.c": [SPDX, '#include "store/store.h"', '#include "core/base.h"'],
    "src/targets/test_here.c": [SPDX],
    "src/targets/there.c": [SPDX + " but nobody builds it: WRONG"],
    "src/events/oom/oom.h": [SPDX, '#include "core/wire.h"'],
    "src/events/oom/oom.bpf.c": [
        SPDX,
        '#include "bpf/common.h"',
        '#include "oom.h"',
        '#include "events/drop/drop.h" // WRONG',
    ],
    "src/events/oom/oom.c": [SPDX, '#include "oom.skel.h"', '#include "drop.skel.h" // WRONG'],
    "src/events/oom/test_other.c": [SPDX + " but nobody builds it: WRONG"],
    "src/events/drop/drop.bpf.c": [SPDX],
    "src/events/drop/drop.h": [SPDX],
    "src/events/drop/drop.c": [
        SPDX,
        '#include "drop.h"',
        '#include "core/base.h"',
        '#include "events/oom/oom.h" // WRONG',
        '#include "bpf/more.h" // WRONG',
    ],
}


def check_sample(_):
    """The checks find what they are there for, in a tree that is wrong on purpose."""
    expected = set()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name, lines in SAMPLE.items():
            lines = [lines] if isinstance(lines, str) else lines
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            expected |= {f"{name}:{n}" for n, line in enumerate(lines, 1) if "WRONG" in line}
        findings = [finding for check in CHECKS for finding in check(Tree(root))]
    # Where a circle is closed depends on where it was entered, so circles are only counted.
    circles = [finding for finding in findings if "closes a circle" in finding]
    found = {":".join(f.split(":")[:2]) for f in findings if f not in circles}
    for place in sorted(expected ^ found):
        what = "overlooked" if place in expected else "wrongly reported"
        yield f"tests/layers.py:1: in the sample, {place} is {what}"
    if len(circles) != 3:
        yield f"tests/layers.py:1: the sample has 3 circles, found were {circles}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--junit", metavar="FILE", help="write the results there")
    parser.add_argument("--root", metavar="TREE", type=Path, default=Path(__file__).parent.parent)
    options = parser.parse_args()
    tree = Tree(options.root.resolve())
    if not tree.files:
        sys.exit(f"layers: there are no C sources under {tree.src}")
    report = ElementTree.Element("testsuite", name="layers")
    failed = 0
    for check in CHECKS + [check_sample]:
        findings = sorted(set(check(tree)))
        case = ElementTree.SubElement(report, "testcase", name=check.__name__, classname="layers")
        if findings:
            failed += 1
            ElementTree.SubElement(case, "failure", message="\n".join(findings))
        print("not ok:" if findings else "ok:", check.__doc__.splitlines()[0])
        for finding in findings:
            print("   ", finding)
    if options.junit:
        ElementTree.ElementTree(report).write(options.junit, encoding="unicode")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
