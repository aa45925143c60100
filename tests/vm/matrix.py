#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The kernel matrix: the same binary, the same tests, on every kernel of GUESTS and on this machine's.

usage: matrix.py [--build DIR] [--results DIR] [--all] [GUEST...]    runs them, all or those
       matrix.py --fetch [GUEST...]    fetches what they need; prints why that cannot be done, if so
       matrix.py [--build DIR] --shell GUEST    a shell in a guest

A run of all guests writes its tables into docs/kernels.md. Without --all it is what each kind's tests have
marked for it, which has to be done in time; with it, all that makes sense in a guest.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import guest
from kernels import CannotFetch, Kernel

PAGE = guest.TREE / "docs/kernels.md"
BEGIN, END = "<!-- written by ./dev test vm: begin -->", "<!-- end -->"
AT_A_TIME = 4  # on two CPUs, which are busy then; with three, the last runs alone for minutes
LIMIT_S = 2400  # of one guest, which should take a quarter of an hour
SLOWNESS = 4  # how much longer tests wait than on a machine of their own
NEAR_THE_LIMIT = 0.8  # of the verifier's instructions
ONLY_ENOUGH = "setpriv --bounding-set=-all,+setuid,+setgid,+chown,+kill,+cap_38,+cap_39"

# Of what is of no kind, what the kernel has a say in.
MODULE = "tests/vm/test_fault_module.py"
E2E = ["tests/e2e/test_hooks.py", "tests/e2e/test_reload.py::test_hook_changes", "tests/e2e/test_doctor.py::test_this_machine"]
ALL = ["-m", "not host_only", "src/events", *E2E, MODULE]


@dataclass
class Guest:
    """One column."""

    what: str
    kernel: str = ""  # of kernels.SUITES; "": this machine's own
    tests: list = field(default_factory=lambda: ALL)
    options: dict = field(default_factory=dict)  # of guest.boot()
    through: str = ""  # what starts the agent

    @property
    def whole(self):
        """Whether all kinds are tested there: a kernel, not one that is changed in one thing."""
        return "src/events" in self.tests and "-k" not in self.tests


GUESTS = {
    "5.10": Guest("Debian 11", "5.10"),
    "6.1": Guest("Debian 12", "6.1"),
    "6.12": Guest("Debian 13", "6.12"),
    "sid": Guest("Debian's newest", "sid"),
    "here": Guest("this machine", tests=[word for word in ALL if word != MODULE]),
    "cgroup1": Guest("cgroup v1", "6.1", ["-k", "uses_cgroup", "src/events"], {"cgroup": 1}),
    "lockdown": Guest("lockdown=integrity", "6.12", E2E[:1], {"append": "lockdown=integrity"}),
    "capabilities": Guest("an agent with no more capabilities than it insists on", "6.1", [MODULE], {"product": "another machine"}, ONLY_ENOUGH),
    "64cpus": Guest("64 virtual CPUs", "sid", [], {"cpus": 64, "memory": "2048M"}),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Column:
    """What a guest has left in its folder, and what that means."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.problem = None  # why there is nothing, or not all
        self.seconds = 0
        self.over = False

    def read(self, name):
        path = self.folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def rows(self, name):
        """The objects of a file with one a line. It is being written until the guest is over."""
        if not self.over:
            return []
        return [json.loads(line) for line in self.read(name).splitlines() if line.startswith("{") and line.endswith("}")]

    @property
    def version(self):
        return self.read("version").strip()

    @property
    def status(self):
        try:
            return json.loads(self.read("status.json"))
        except ValueError:
            return {"events": {}}

    @property
    def provoked(self):
        return {row["event"]: row for row in self.rows("try.json")}

    def cases(self):
        """[(where, name, "passed"|"failed"|"skipped", message)] of everything that was tested."""
        yield "vm", "boots", "failed" if self.problem else "passed", self.problem or ""
        if not self.version:
            return
        problem = "" if self.status.get("ready") else f"the agent does not become ready: {self.read('agent.log')}"
        yield "vm", "is ready", "failed" if problem else "passed", problem
        for kind, event in self.status["events"].items():
            fine = event["state"] == "watching"
            yield f"vm.{kind}", "watched", "passed" if fine else "failed", event.get("reason", event["state"])
            if GUESTS[self.name].whole and self.read("tests.xml"):
                tested = any(case[2] == "passed" for case in self.tests() if case[0].startswith(f"src.events.{kind}."))
                yield f"vm.{kind}", "tested", "passed" if tested else "failed", "not one of its tests has passed"
            row = self.provoked.get(kind, {"outcome": "nothing said"})
            if row["outcome"] != "cannot be provoked":
                fine = row["outcome"] == "recorded"
                yield f"vm.{kind}", "provoked", "passed" if fine else "failed", row.get("reason", row["outcome"])
        for row in self.rows("programs.json"):
            problem = too_large(row)
            yield f"vm.{row['object']}", row["program"], "failed" if problem else "passed", problem
        yield from self.tests()

    def tests(self):
        """The same of pytest's. What passes at its second attempt has passed."""
        again = self.second_attempts()
        for where, name, outcome, text in self.tests_of("tests.xml"):
            yield where, name, "passed" if (where, name) in again else outcome, text

    def second_attempts(self):
        """{(where, name)} of those that have passed only then."""
        outcomes = {}
        for where, name, outcome, _ in self.tests_of("tests-again.xml"):
            outcomes.setdefault((where, name), set()).add(outcome)
        return {key for key, found in outcomes.items() if found == {"passed"}}

    def tests_of(self, file):
        if not self.read(file):
            return
        for case in ElementTree.parse(self.folder / file).iter("testcase"):
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            skipped = case.find("skipped")
            outcome = "failed" if bad is not None else "passed" if skipped is None else "skipped"
            told = bad if bad is not None else skipped
            text = "" if told is None else "\n".join(filter(None, (told.get("message"), told.text)))
            yield case.get("classname"), case.get("name"), outcome, text

    def seconds_of(self, where):
        """How long those tests have taken, with what was made ready for them."""
        if not self.read("tests.xml"):
            return 0
        cases = ElementTree.parse(self.folder / "tests.xml").iter("testcase")
        return sum(float(case.get("time")) for case in cases if re.match(where, case.get("classname")))

    def counts(self, where):
        outcomes = [outcome for place, _, outcome, _ in self.cases() if re.match(where, place)]
        return {outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")}


def too_large(row):
    """Why a program has not enough room left; "" if it has."""
    if row.get("errno") == 7:  # E2BIG
        return f"{row['program']} is too large for this kernel's verifier"
    if row.get("verified", 0) > NEAR_THE_LIMIT * row.get("limit", 1):
        return f"{row['program']}: the verifier goes through {row['verified']} instructions, of {row['limit']} that it may"
    return ""


# ---- running them


def run_guest(name, results, build, choice):
    """Fills a folder with what the guest leaves. `choice` of tests: pytest's arguments."""
    one, folder = GUESTS[name], results / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    column = Column(name, folder)
    slowness = SLOWNESS * max(1, one.options.get("cpus", 2) // 16)
    environment = {
        "TREE": guest.TREE, "BUILD": build, "THROUGH": one.through, "PROGRAMS": one.whole or "", "HUATUO_TEST_SLOWNESS": slowness,
    }  # fmt: skip
    words = [str(guest.HERE / "inside"), *(choice if one.tests else []), *one.tests]
    say(f"vm: {name} ({one.what}) begins")
    began = time.monotonic()
    try:
        if one.kernel:
            environment |= {"SHARED": "/shared", "HUATUO_FAULT_MODULE": "/shared/huatuo_fault.ko"}
            variables = [f"export {k}={shlex.quote(str(v))}" for k, v in environment.items()]
            script = "\n".join([*variables, f"exec bash {shlex.join(words)}"])
            kernel = Kernel(one.kernel)
            kernel.build_module(guest.TREE / "tests/faults/module", folder)
            status = guest.boot(kernel, folder, script, timeout=LIMIT_S, **one.options)
        else:
            environment = {**os.environ, **{k: str(v) for k, v in environment.items()}, "SHARED": str(folder)}
            with open(folder / "console.log", "wb") as log:
                status = subprocess.run(
                    ["bash", *words], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=LIMIT_S, check=False
                ).returncode  # fmt: skip
        if one.tests and not (folder / "tests.xml").exists():
            column.problem = f"pytest came to no end, status {status}: see {folder}/console.log"
    except (guest.GuestFailed, CannotFetch, subprocess.TimeoutExpired) as e:
        column.problem = f"{e} ({folder})"
    column.seconds, column.over = time.monotonic() - began, True
    counts = column.counts("")
    say(f"vm: {name}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped in {column.seconds:.0f} s")
    again = column.second_attempts()
    for where, case, outcome, message in column.cases():
        if outcome == "failed" or (where, case) in again:
            said = "FAILED" if outcome == "failed" else "passed at the second attempt:"
            say(f"vm: {name}: {said} {where} {case}: {first_line(message)}")
    return column


def first_line(text):
    return next((line.strip()[:300] for line in text.splitlines() if line.strip()), "")


def run_guests(names, results, build, choice, write):
    columns = {name: Column(name, results / name) for name in names}
    write(columns)
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        for future in concurrent.futures.as_completed(pool.submit(run_guest, name, results, build, choice) for name in names):
            column = future.result()
            columns[column.name] = column
            write(columns)
    return columns


def write_junit(columns, path):
    suite = ElementTree.Element("testsuite", name="vm")
    for column in columns.values():
        for where, name, outcome, message in column.cases():
            case = ElementTree.SubElement(suite, "testcase", classname=f"{column.name}.{where}", name=name)
            if outcome != "passed":
                tag = {"failed": "failure", "skipped": "skipped"}[outcome]
                clean = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "?", message)
                ElementTree.SubElement(case, tag, message=first_line(clean)).text = clean
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


# ---- the tables


def cell_of_tests(column, where):
    counts, seconds = column.counts(where), column.seconds_of(where)
    if column.problem:
        return "🟥 **FAIL** came to no end"
    if counts["failed"]:
        return f"🟥 **FAIL** {counts['failed']} of {counts['passed'] + counts['failed']} in {seconds:.0f} s"
    if not counts["passed"]:
        return "🟥 **FAIL** none" if GUESTS[column.name].whole and where.startswith("src") else "–"
    again = sum(bool(re.match(where, place)) for place, _ in column.second_attempts())
    notes = [f", {counts['skipped']} left out"] * bool(counts["skipped"]) + [f", {again} at the second attempt"] * bool(again)
    return f"{counts['passed']} in {seconds:.0f} s{''.join(notes)}"


def cell(column, text):
    """A cell of a guest that said nothing is red, whatever would have stood there."""
    if not column.over:
        return "not run"
    return "🟥 **FAIL**" if column.problem and not column.version else text


def rows_of_kind(kind, column):
    event, provoked = column.status["events"].get(kind), column.provoked.get(kind, {})
    watched = event and event["state"] == "watching"
    outcome = provoked.get("outcome", "nothing said")
    shown = {"recorded": "yes", "cannot be provoked": "by the tests"}
    return {
        "hooks": event["hook"].replace(", ", "<br>") if watched else "🟥 **FAIL**",
        "provoked, and recorded": shown.get(outcome, f"🟥 **FAIL** {outcome}"),
        "tests": cell_of_tests(column, rf"src\.events\.{kind}\."),
    }


def rows_of_agent(column):
    milliseconds, resident = (int(n) for n in (column.read("started").split() or ("0", "0")))
    ready = column.status.get("ready")
    return {
        "version": column.version,
        "ready after": f"{milliseconds / 1000:.1f} s" if ready else "🟥 **FAIL**",
        "memory": f"{resident / 2**20:.1f} MiB",
        "tests of no kind": cell_of_tests(column, r"tests\."),
    }


def cell_of_program(column, name):
    row = next((row for row in column.rows("programs.json") if (row["object"], row["program"]) == name), None)
    if not row:
        return "🟥 **FAIL**"
    if too_large(row):
        return f"🟥 **FAIL** {row.get('verified', 'too large')}"
    if "errno" in row:
        return f"– ({row['refused']})"
    return f"{row['verified']:,} / {row['xlated_bytes'] // 8:,} / {row['jited_bytes'] / 1024:.1f}"


def table(title, head, rows):
    """rows: {label: [cell of each column]}"""
    lines = [f"### {title}", "", "| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    return [*lines, *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows.items()), ""]


def transpose(columns, rows_of):
    """{label: [cell of each column]} from rows_of(column): {label: cell}."""
    filled = [rows_of(column) for column in columns]
    return {label: [cell(c, rows[label]) for c, rows in zip(columns, filled)] for label in filled[0]}


def tables(columns):
    columns = list(columns.values())
    whole = [c for c in columns if GUESTS[c.name].whole]
    head = [f"{GUESTS[c.name].what}" for c in columns]
    kinds = dict.fromkeys(kind for c in columns for kind in c.status["events"])
    programs = dict.fromkeys((row["object"], row["program"]) for c in whole for row in c.rows("programs.json"))
    lines = table("The agent", head, transpose(columns, rows_of_agent))
    for kind in kinds:
        lines += table(kind, head, transpose(columns, lambda c, k=kind: rows_of_kind(k, c)))
    rows = {f"{o}: `{p}`": [cell(c, cell_of_program(c, (o, p))) for c in whole] for o, p in programs}
    return "\n".join(lines + table("BPF programs", [GUESTS[c.name].what for c in whole], rows))


def write_page(text, path):
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


# ---- the commands


def fetch(names):
    for kernel in dict.fromkeys(GUESTS[name].kernel for name in names if GUESTS[name].kernel):
        say(f"vm: fetching the kernel of {kernel}, unless it is here")
        try:
            Kernel(kernel).fetch()
        except CannotFetch as e:
            print(f"{kernel}: {e}")
            return 0
    return 0


def shell(name, build):
    one = GUESTS[name]
    variables = {
        "HUATUO": build / "huatuo",
        "HUATUO_FAULTS": build / "tests",
        "HUATUO_TEST_SLOWNESS": SLOWNESS,
        "PATH": f"{build}:$PATH",
        "PYTHONPATH": guest.TREE / "tests/e2e",
    }
    script = [f'export {k}="{v}"' for k, v in variables.items()]
    script += [f"cd {shlex.quote(str(guest.TREE))}", "exec setsid -c -w bash -i </dev/ttyS0 >/dev/ttyS0 2>&1"]
    folder = build / "vm-shell"
    say(f"vm: {name}: `exit` ends the guest, Ctrl-a x kills it; /shared there is {folder} here")
    return guest.boot(Kernel(one.kernel).fetch(), folder, "\n".join(script), console="ours", **one.options)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.partition("usage: ")[2])
    parser.add_argument("--build", type=Path, default=guest.TREE / "build")
    parser.add_argument("--results", type=Path, default=guest.TREE / "build/results")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--shell", action="store_true")
    parser.add_argument("guests", nargs="*")
    options = parser.parse_args()
    unknown = [name for name in options.guests if name not in GUESTS]
    if unknown or (options.shell and len(options.guests) != 1):
        parser.error(f"there is no {' '.join(unknown) or 'guest named'}, but: {' '.join(GUESTS)}")
    names = options.guests or list(GUESTS)
    if options.fetch:
        return fetch(names)
    if options.shell:
        return shell(names[0], options.build.resolve())

    results = options.results.resolve() / "vm"
    whole = set(names) == set(GUESTS)

    def write(columns):
        if whole:
            tests = "all tests" if options.all else "the tests that are marked for it"
            write_page(f"A run of {tests}.\n\n{tables(columns)}", PAGE)

    choice = [] if options.all else ["--matrix"]
    columns = run_guests(names, results, options.build.resolve(), choice, write)
    write_junit(columns, results.parent / "vm.xml")
    print(tables(columns))
    if not whole:
        say("vm: docs/kernels.md is left as it is, as not all of them have run")
    return 1 if any(column.counts("")["failed"] for column in columns.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
