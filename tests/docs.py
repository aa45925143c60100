#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the documents say what the code says.

docs/configuration.md is compared with what `huatuo config docs` prints; the program is taken from the
environment, HUATUO, and is otherwise build-test/huatuo.

usage: docs.py [--junit FILE] [--root TREE]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOMS = r"(?:src|tests|docs|deploy|\.ci)/"
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w/.$-])(?:\./)?({ROOMS}[\w./*-]*[\w/*])")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')

# What writes the fields of which table: page, section, sources. Event kinds come on top of these.
FIELD = re.compile(r'\brecord_(?:u64|i64|bool|str|strf|host|stack|open|list|numbers)\(r, "(\w+)"')
ENVELOPE = re.compile(r'\badd_(?:known|string_field|number_field|key)\(t, "(\w+)"')
TABLES = [
    ("docs/records.md", ("Envelope", "Process"), "src/core/record.c", ENVELOPE),
    ("docs/records.md", ("Closing records", "Episodes"), "src/agent/agent.c", FIELD),
    ("docs/records.md", ("Coverage records",), "src/agent/coverage.c", FIELD),
    ("docs/records.md", ("What is collected",), "src/agent/pending.c", FIELD),
]


class Page:
    """A Markdown file: lines of text, those of code blocks apart, and what section each is in."""

    def __init__(self, root, path):
        self.name = str(path.relative_to(root))
        self.folder = path.parent
        self.text, self.blocks, self.headings = [], [], []
        section, block = "", None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.lstrip().startswith("```"):
                if block is None:
                    block = (number, line.strip()[3:], [])
                    self.blocks.append(block)
                else:
                    block = None
            elif block is not None:
                block[2].append(line)
            else:
                if re.match(r"#+ ", line):
                    section = line.lstrip("# ")
                    self.headings.append((number, section))
                self.text.append((number, section, line))

    def anchors(self):
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for _, heading in self.headings)
        return {heading.replace(" ", "-") for heading in plain}

    def rows(self, section):
        """(line, cells) for each row of the tables in a section, but headings."""
        for number, inside, line in self.text:
            if inside == section and line.startswith("|"):
                cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)]
                if CODE.match(cells[1]):
                    yield number, cells[1:-1]

    def line_of(self, section):
        return next((number for number, heading in self.headings if heading == section), 1)


class Tree:
    def __init__(self, root, program):
        self.root, self.program = root, Path(program)
        paths = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
        self.pages = {str(p.relative_to(root)): Page(root, p) for p in paths if p.is_file()}
        registry = self.read("src/events/meson.build")
        self.kinds = re.findall(r"'(\w+)'", re.search(r"event_names = \[(.*?)\]", registry, re.S)[1])

    def read(self, name):
        path = self.root / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""

def check_configuration(tree):
    """docs/configuration.md is what `huatuo config docs` prints."""
    page, program = "docs/configuration.md", tree.program
    if not program.is_file():
        yield f"{page}:1: cannot be checked, there is no {program}; build it, or set HUATUO"
        return
    run = subprocess.run([program, "config", "docs"], capture_output=True, text=True, check=False)
    if run.returncode != 0 or not run.stdout:
        yield f"{page}:1: `{program} config docs` failed with {run.returncode}: {run.stderr.strip()}"
        return
    ours, theirs = tree.read(page).splitlines(), run.stdout.splitlines()
    for number in range(max(len(ours), len(theirs))):
        if ours[number : number + 1] != theirs[number : number + 1]:
            yield f"{page}:{number + 1}: differs; write it with `huatuo config docs > {page}`"
            return


def alternatives(conditions):
    return sorted(" ".join(one.split()) for one in conditions.split(";"))


def check_noise_rules(tree):
    """The tables of noise rules are those of the sources: names and conditions."""
    for kind in tree.kinds:
        source = re.sub(r"/\*.*?\*/", "", tree.read(f"src/events/{kind}/noise.c"), flags=re.S)
        page = tree.pages.get(f"docs/events/{kind}.md")
        if not source or not page:
            continue
        rules = {}
        for name, strings in re.findall(r'\.name = "(\w+)",\s*\.conditions =([^.]*?),\s*\.', source):
            rules[name] = alternatives("".join(STRING.findall(strings)))
        if len(rules) != source.count(".name ="):
            yield f"{page.name}:1: src/events/{kind}/noise.c is not of the form that is understood here"
        for number, (name, conditions, *_) in page.rows("Noise rules"):
            expected = rules.pop(CODE.match(name)[1], None)
            if expected is None:
                yield f"{page.name}:{number}: there is no rule {name} in src/events/{kind}/noise.c"
            elif sorted(" ".join(c.split()) for c in CODE.findall(conditions)) != expected:
                yield f"{page.name}:{number}: rule {name} is in the source: {'; '.join(expected)}"
        for name in rules:
            yield f"{page.name}:{page.line_of('Noise rules')}: rule {name} of the source is missing"


def check_links(tree):
    """What relative links point to exists, headings too."""
    for page in tree.pages.values():
        for number, _, line in page.text:
            for target in LINK.findall(re.sub(CODE, "", line)):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                path = (page.folder / file).resolve() if file else tree.root / page.name
                if not path.exists():
                    yield f"{page.name}:{number}: links to {target}, which does not exist"
                    continue
                other = tree.pages.get(str(path.relative_to(tree.root)))
                if anchor and (not other or anchor not in other.anchors()):
                    yield f"{page.name}:{number}: links to {target}, where there is no such heading"


def check_paths(tree):
    """Files and folders that are named exist; words in capitals stand for any name."""
    for page in tree.pages.values():
        lines = [(number, line) for number, _, line in page.text]
        for first, _, block in page.blocks:
            lines += enumerate(block, first + 1)
        for number, line in lines:
            for path in PATH.findall(re.sub(LINK, "", line)):
                if not any(tree.root.glob(re.sub(r"\b[A-Z]{2,}\b", "*", path).rstrip("/"))):
                    # Files such as README.md are in capitals themselves.
                    if not (tree.root / path).exists():
                        yield f"{page.name}:{number}: names {path}, which does not exist"


def check_kinds(tree):
    """Each kind of event has its page, to which README.md links, and there are no other pages."""
    readme = tree.read("README.md")
    for kind in tree.kinds:
        name = f"docs/events/{kind}.md"
        if name not in tree.pages:
            yield f"src/events/meson.build:1: the kind {kind} has no {name}"
        elif f"]({name})" not in readme:
            yield f"README.md:1: does not link to {name}"
    for name in tree.pages:
        if name.startswith("docs/events/") and Path(name).stem not in tree.kinds:
            yield f"{name}:1: there is no such kind of event in src/events/meson.build"


def fields_of(tree, kind):
    """What the kind's decode() writes into tracer_data."""
    folder = tree.root / "src/events" / kind
    source = "".join(p.read_text() for p in folder.glob("*.c") if not p.name.startswith("test_"))
    fields = set(FIELD.findall(source))
    if "packet_record_" in source:
        fields |= set(FIELD.findall(tree.read("src/core/packet.c")))
    if "cpus_record(" in source:
        fields |= set(FIELD.findall(tree.read("src/kernel/cpus.c")))
    if "record_owner(" in source:
        fields |= set(re.findall(r'\\"(owner_\w+)\\":', tree.read("src/core/record.c")))
    return fields


def check_fields(tree):
    """The tables of fields are those that the sources write, no more and no fewer."""
    tables = [(f"docs/events/{kind}.md", ("Fields",), fields_of(tree, kind)) for kind in tree.kinds]
    tables += [(name, sections, set(what.findall(tree.read(c)))) for name, sections, c, what in TABLES]
    for name, sections, written in tables:
        page = tree.pages.get(name)
        if not page:
            yield f"{name}:1: is missing"
            continue
        documented = set()
        for section in sections:
            for number, cells in page.rows(section):
                fields = set(CODE.findall(cells[0]))
                documented |= fields
                for field in sorted(fields - written):
                    yield f"{name}:{number}: nothing writes a field {field}"
        for field in sorted(written - documented):
            yield f"{name}:{page.line_of(sections[0])}: the field {field} is written and not documented"


def check_examples(tree):
    """Examples in JSON are JSON, and have no fields that are not written."""
    envelope = {"repeat", *ENVELOPE.findall(tree.read("src/core/record.c"))}
    envelope |= set(FIELD.findall(tree.read("src/agent/coverage.c")))
    for page in tree.pages.values():
        for number, language, lines in page.blocks:
            if language != "json":
                continue
            try:
                record = json.loads("\n".join(lines))
            except ValueError as error:
                yield f"{page.name}:{number}: this is not JSON: {error}"
                continue
            known = envelope.union(*(fields_of(tree, kind) for kind in tree.kinds))
            for field in [*record, *record.get("tracer_data", {}), *record.get("process", {})]:
                if "tracer_name" in record and field not in known:
                    yield f"{page.name}:{number}: nothing writes a field {field}"


def types_of(value, path):
    """(path, type) of each field; of lists that of their elements."""
    if isinstance(value, dict):
        yield path, "object"
        for key, inner in value.items():
            yield from types_of(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from types_of(inner, path)
    else:
        yield path, {str: "string", bool: "boolean"}.get(type(value), "number")


def check_types(tree):
    """Examples of different kinds have no field of the same name and another type: kinds share indices."""
    first = {}
    for page in tree.pages.values():
        for number, language, lines in page.blocks:
            try:
                record = json.loads("\n".join(lines)) if language == "json" else {}
            except ValueError:
                continue  # check_examples() says so
            if "tracer_name" not in record:
                continue
            for path, kind in types_of(record, "record"):
                was, where = first.setdefault(path, (kind, f"{page.name}:{number}"))
                if kind != was:
                    yield f"{page.name}:{number}: {path.partition('.')[2]} is {kind}, at {where} it is {was}"


WRITER = "tests/dashboards.py"
DASHBOARDS = "deploy/dashboards.ndjson"


def check_dashboards(tree):
    """The objects for Kibana and OpenSearch Dashboards are up to date, and name fields that are written."""
    written = {"tracer_data", "process"}.union(*(set(what.findall(tree.read(c))) for _, _, c, what in TABLES))
    written = written.union(*(fields_of(tree, kind) for kind in tree.kinds))
    run = subprocess.run([sys.executable, tree.root / WRITER], capture_output=True, text=True, check=False)
    ours, theirs = tree.read(DASHBOARDS).splitlines(), run.stdout.splitlines()
    if run.returncode != 0 or not theirs:
        yield f"{WRITER}:1: failed with {run.returncode}: {run.stderr.strip()}"
        return
    for number in range(max(len(ours), len(theirs))):
        if ours[number : number + 1] != theirs[number : number + 1]:
            yield f"{DASHBOARDS}:{number + 1}: differs; write it with `{WRITER} --write`"
            return
    for number, line in enumerate(ours, 1):
        for field in sorted(set(re.findall(r"(?:tracer_data|process)\.(\w+)", line)) - written):
            yield f"{DASHBOARDS}:{number}: nothing writes a field {field}"


# What the agent says: its log, and the errors that are passed on to it.
SAID = re.compile(r"\b(?:log_(?:error|warning|info)\(|snprintf\(|problem\(r,[^;\"]*?,(?=\s*\"))\s*")
BUFFERS = re.compile(r"(?:error,\s*error_size|ret,\s*ret_size|note,\s*note_size|problem,\s*sizeof\(problem\)|(?:\w+->reason),\s*sizeof\(\w+->reason\)),\s*")
CONVERSION = re.compile(r"%[-0-9.*]*(?:ll|j|z|l)?[a-zA-Z]")


def literal(text, at):
    """The string that begins there, its pieces put together."""
    whole = ""
    while match := re.compile(r'\s*"((?:[^"\\]|\\.)*)"').match(text, at):
        whole += match[1].replace('\\"', '"')
        at = match.end()
    return whole


def messages_of(tree):
    """(file, line, format) of each message of the agent that says anything by itself."""
    for path in sorted((tree.root / "src").rglob("*.c")):
        text = path.read_text(encoding="utf-8")
        if path.name.startswith("test_") or path.name.endswith(".bpf.c"):
            continue
        for match in SAID.finditer(text):
            at = match.end()
            if match[0].startswith("snprintf"):
                buffer = BUFFERS.match(text, at)
                if not buffer:
                    continue
                at = buffer.end()
            said = literal(text, at)
            if re.search(r"[a-z]{3}", CONVERSION.sub("", said)):
                yield path.relative_to(tree.root), text.count("\n", 0, match.start()) + 1, said


def shape(said):
    """A message as a pattern: what is put in at run time is written in capitals, or left out."""
    pieces = [re.escape(piece) for piece in CONVERSION.split(said.replace("`", ""))]
    return re.compile("[A-Z_]*".join(pieces))


def check_messages(tree):
    """docs/troubleshooting.md explains each message that the agent can print, and no others."""
    name = "docs/troubleshooting.md"
    page = tree.pages.get(name)
    if not page:
        yield f"{name}:1: is missing"
        return
    rows = {}
    for number, _, line in page.text:
        cells = re.split(r"(?<!\\)\|", line)
        if line.startswith("| `") and len(cells) > 3:
            rows[re.sub(r"\s+", " ", cells[1].replace("`", "")).strip()] = number
            if not cells[2].strip():
                yield f"{name}:{number}: it is not said what this means"
    explained = set()
    for path, number, said in messages_of(tree):
        pattern = shape(said)
        found = [row for row in rows if pattern.fullmatch(row)]
        explained.update(found)
        if not found:
            yield f"{path}:{number}: {name} does not explain: {said}"
    for row in sorted(set(rows) - explained):
        yield f"{name}:{rows[row]}: nothing says: {row}"


CHECKS = [
    check_configuration,
    check_noise_rules,
    check_links,
    check_paths,
    check_kinds,
    check_fields,
    check_examples,
    check_types,
    check_dashboards,
    check_messages,
]

# A tree that is wrong in each line marked WRONG, and nowhere else.
SAMPLE = {
    "program": ["#!/bin/sh", "echo one; echo two"],
    "docs/configuration.md": ["one", "three WRONG"],
    "README.md": [
        "# No link to the page of oom WRONG",
        "[good](docs/events/drop.md#noise-rules) [web](https://example.org) `[code](x)`",
        "[gone](docs/gone.md) WRONG",
        "[no heading](docs/events/drop.md#nowhere) WRONG",
        "`src/events/KIND/KIND.c`, `./src/core/packet.c` and /usr/src/linux",
        "`tests/gone.py` WRONG",
        "```json",
        '{"a": 1}',
        "```",
        "```json",
        '{"a": }',
        "```",
        "```json",
        '{"tracer_name": "drop", "time": 1, "tracer_data": {"reason": 1, "bogus": 2}}',
        "```",
    ],
    "src/events/meson.build": ["event_names = ['drop', 'oom', 'lost'] # WRONG: lost has no page"],
    "src/events/drop/drop.c": [
        'record_str(r, "reason", x);',
        'record_u64(r, "silent", x);',
        "packet_record_addresses(r, p);",
    ],
    "src/events/drop/noise.c": [
        '{.name = "right", .conditions = "a=b|c d=e; " /* why */ "f=g",',
        " .why = x},",
        '{.name = "changed", .conditions = "a=b", .why = x},',
        '{.name = "new", .conditions = "a=b", .why = x},',
    ],
    "src/core/packet.c": ['record_str(r, "saddr", x);'],
    "src/core/record.c": [
        'add_known(t, "time", x);',
        'add_key(t, "tracer_name"); add_key(t, "tracer_data");',
    ],
    "src/agent/agent.c": ['record_str(r, "of", x);'],
    "src/agent/coverage.c": ['record_str(r, "change", x);'],
    "src/agent/pending.c": ['record_str(r, "incomplete", x);'],
    "docs/troubleshooting.md": [
        "# Troubleshooting",
        "| `right NAME: REASON` | do this |",
        "| `in two pieces, perhaps` | do that |",
        "| `nobody says this` | WRONG |",
        "| `not explained NAME` | |",
    ],
    "src/store/store.c": [
        'log_error("right %s: %-3llu", a, b);',
        'log_warning("in two "',
        '            "pieces%s, perhaps", c);',
        'log_info("missing on the page WRONG");',
        'snprintf(error, error_size, "missing too WRONG");',
        'snprintf(other, size, "for nobody");',
        'log_error("%s", error);',
        'log_error("not explained %s", name);',
    ],
    "docs/events/oom.md": [
        "# oom",
        "```json",
        '{"tracer_name": "oom", "tracer_data": {"reason": [{"of": "x"}]}}',
        "```",
    ],
    "tests/dashboards.py": ["print('tracer_data.reason'); print('tracer_data.bogus WRON' + 'G'); print(3)"],
    "deploy/dashboards.ndjson": ["tracer_data.reason", "tracer_data.bogus WRONG", "3"],
    "docs/events/stray.md": ["# WRONG"],
    "docs/events/drop.md": [
        "# drop",
        "## Fields",
        "(one is missing: WRONG)",
        "| `reason` | string |",
        "| `saddr` | string |",
        "| `made_up` | WRONG |",
        "## Noise rules",
        "(one is missing: WRONG)",
        "| rule | conditions |",
        "|---|---|",
        "| `right` | `f=g`<br>or `a=b\\|c d=e` |",
        "| `changed` | `a=b x=y` WRONG |",
        "| `old` | `a=b` WRONG |",
    ],
    "docs/records.md": [
        "# Records",
        "## Envelope",
        "| `time` | string |",
        "| `tracer_name`, `tracer_data` | string |",
        "## Closing records",
        "| `of` | string |",
        "## Coverage records",
        "| `change` | string |",
        "| `made_up` | WRONG |",
        "## What is collected",
        "| `incomplete` | string |",
    ],
}
# Findings that cannot stand in their own line.
ELSEWHERE = {
    "README.md:10",
    "README.md:13",
    "docs/events/drop.md:2",
    "docs/events/drop.md:7",
    "docs/events/lost.md:1",
    "docs/events/oom.md:2",
    "docs/troubleshooting.md:5",
}


def check_sample(_):
    """The checks find what they are there for, in a tree that is wrong on purpose."""
    expected = set(ELSEWHERE)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name, lines in SAMPLE.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            expected |= {
                f"{name}:{n}"
                for n, line in enumerate(lines, 1)
                if "WRONG" in line and "(one is missing" not in line
            }
        (root / "program").chmod(0o755)
        tree = Tree(root, root / "program")
        found = {":".join(f.split(":")[:2]) for check in CHECKS for f in check(tree)}
    for place in sorted(expected ^ found):
        what = "overlooked" if place in expected else "wrongly reported"
        yield f"tests/docs.py:1: in the sample, {place} is {what}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--junit", metavar="FILE", help="write the results there")
    parser.add_argument("--root", metavar="TREE", type=Path, default=Path(__file__).parent.parent)
    options = parser.parse_args()
    root = options.root.resolve()
    tree = Tree(root, os.environ.get("HUATUO", root / "build-test/huatuo"))
    if not tree.pages:
        sys.exit(f"docs: there are no documents under {root}")
    report = ElementTree.Element("testsuite", name="docs")
    failed = 0
    for check in CHECKS + [check_sample]:
        findings = sorted(set(check(tree)))
        case = ElementTree.SubElement(report, "testcase", name=check.__name__, classname="docs")
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
