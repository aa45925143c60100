# SPDX-License-Identifier: Apache-2.0
"""Counts the tests of JUnit files: prints "PASSED FAILED SKIPPED"."""

import sys
import xml.etree.ElementTree as ElementTree


def outcome(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


outcomes = [outcome(case) for path in sys.argv[1:] for case in ElementTree.parse(path).iter("testcase")]
print(*(outcomes.count(o) for o in ("passed", "failed", "skipped")))
