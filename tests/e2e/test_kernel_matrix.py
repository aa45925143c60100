# SPDX-License-Identifier: Apache-2.0
"""The kernel matrix (tests/vm): whatever goes wrong in a guest is a failed test and a red cell."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vm"))
import matrix  # noqa: E402

PROGRAM = {"object": "oom", "program": "mark", "section": "tp_btf/mark", "instructions": 10, "verified": 799_999, "limit": 1_000_000, "xlated_bytes": 80, "jited_bytes": 2048}  # fmt: skip
STATUS = {"ready": True, "events": {"oom": {"state": "watching", "hook": "tp_btf/mark, iter/task"}}}
TRY = {"event": "oom", "outcome": "recorded"}
FINE = '<testcase classname="src.events.oom.test_oom" name="a" time="1.5"/>'
SKIPPED = '<testcase classname="src.events.oom.test_oom" name="b" time="0"><skipped message="no v2"/></testcase>'
FAILED = '<testcase classname="src.events.oom.test_oom" name="c" time="2"><failure message="m">\x1b text</failure></testcase>'


@pytest.fixture
def column(tmp_path):
    """column(status=…, …): of a guest that has left this behind; None: nothing under that name."""

    def make(problem=None, over=True, **files):
        files = {
            "version": "6.1.0",
            "started": "2500 1048576",
            "status.json": STATUS,
            "try.json": TRY,
            "programs.json": PROGRAM,
            "tests.xml": f"<testsuite>{FINE}{SKIPPED}</testsuite>",
            **{name.replace("_", "."): content for name, content in files.items()},
        }
        for name, content in files.items():
            if content is not None:
                (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        one = matrix.Column("6.1", tmp_path)
        one.problem, one.over = problem, over
        return one

    return make


def red(one):
    return [line for line in matrix.tables({"6.1": one}).splitlines() if "FAIL" in line]


def failed(one):
    return [(where, name) for where, name, outcome, _ in one.cases() if outcome == "failed"]


def test_all_is_well(column):
    one = column()
    assert not red(one) and not failed(one)
    assert one.counts("") == {"passed": 7, "failed": 0, "skipped": 1}
    text = matrix.tables({"6.1": one})
    for row in (
        "| version | 6.1.0 |",
        "| ready after | 2.5 s |",
        "| memory | 1.0 MiB |",
        "| hooks | tp_btf/mark<br>iter/task |",
        "| provoked, and recorded | yes |",
        "| tests | 1 in 2 s, 1 left out |",
        "| oom: `mark` | 799,999 / 10 / 2.0 |",
    ):
        assert row in text.splitlines(), text


UNWATCHED = {"ready": True, "events": {"oom": {"state": "failed", "hook": "", "reason": "load: refused"}}}


@pytest.mark.parametrize(
    "broken, row, case",
    [
        ({"status_json": UNWATCHED}, "hooks", ("vm.oom", "watched")),
        ({"status_json": {**STATUS, "ready": False}}, "ready after", ("vm", "is ready")),
        ({"status_json": None}, "ready after", ("vm", "is ready")),
        ({"try_json": {**TRY, "outcome": "not recorded"}}, "provoked", ("vm.oom", "provoked")),
        ({"try_json": None}, "provoked", ("vm.oom", "provoked")),
        ({"tests_xml": f"<testsuite>{FINE}{FAILED}</testsuite>".replace("\x1b", "?")}, "tests", ("src.events.oom.test_oom", "c")),
        ({"tests_xml": f"<testsuite>{SKIPPED}</testsuite>"}, "tests", ("vm.oom", "tested")),
        ({"programs_json": {**PROGRAM, "verified": 800_001}}, "oom: `mark`", ("vm.oom", "mark")),
        ({"programs_json": {"object": "oom", "program": "mark", "section": "x", "errno": 7, "refused": "too big"}}, "oom: `mark`", ("vm.oom", "mark")),
    ],
)  # fmt: skip
def test_what_is_broken_is_red(column, broken, row, case):
    one = column(**broken)
    assert case in failed(one)
    if broken != {"status_json": None}:
        assert [line for line in red(one) if line.startswith(f"| {row}")], red(one)


def test_silent_guest(column):
    """Its column is red all over, in rows that others have filled."""
    fine, silent = column(), matrix.Column("5.10", Path("/nowhere"))
    silent.problem, silent.over = "it was not over after 1 s", True
    assert failed(silent) == [("vm", "boots")]
    lines = [line for line in matrix.tables({"6.1": fine, "5.10": silent}).splitlines() if line.startswith("| ")]
    for line in lines:
        if not line.startswith("| |"):
            assert line.endswith("🟥 **FAIL** |"), line


def test_tests_that_did_not_end(column):
    one = column(problem="pytest came to no end", tests_xml=None)
    assert failed(one) == [("vm", "boots")]
    assert len(red(one)) == 2  # those of the kind, and those of none


def test_not_run_yet(column):
    one = column(over=False)
    assert "yes" not in matrix.tables({"6.1": one}) and "not run" in matrix.tables({"6.1": one})


def test_junit(column, tmp_path):
    one = column(tests_xml=f"<testsuite>{FINE}{SKIPPED}{FAILED}</testsuite>".replace("\x1b", "?"))
    matrix.write_junit({"6.1": one}, tmp_path / "vm.xml")
    cases = list(ElementTree.parse(tmp_path / "vm.xml").iter("testcase"))
    assert len(cases) == 9 and {case.get("classname").partition(".")[0] for case in cases} == {"6"}
    assert len([case for case in cases if case.find("failure") is not None]) == 1
    assert len([case for case in cases if case.find("skipped") is not None]) == 1


def test_page(tmp_path):
    page = tmp_path / "kernels.md"
    page.write_text(f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n")
    matrix.write_page("new", page)
    assert page.read_text() == f"before\n{matrix.BEGIN}\n\nnew\n{matrix.END}\nafter\n"
