# SPDX-License-Identifier: Apache-2.0
"""Counts the tests of JUnit files: prints "PASSED FAILED SKIPPED" and, on standard error, what was skipped
and why, and what has passed at its second attempt only. With CI=true in the environment a test that was
skipped has failed, unless MAY_SKIP knows it. What a file NAME-again.xml says of a test is its second attempt."""

import os
import re
import sys
import xml.etree.ElementTree as ElementTree

# What a test says when it is skipped (cmocka's say their name), and why CI can do without it.
MAY_SKIP = {
    "tracefs is mounted on this machine": "it is about machines without; those of doctor bring a tree that has none",
    "this kernel has no /proc/sys/kernel/ns_last_pid": "it takes CONFIG_CHECKPOINT_RESTORE, which is the machine's",
    "user namespaces may not be made here": "the machine's policy",
    "kernel.kptr_restrict may not be set here": "in a container it is the host's",
    "test_todays_line_has_no_date": "midnight",
    "memory.oom.group is of cgroup v2": "the guests of ./dev test vm have it",
    "only cgroup v2 has memory.high": "the guests of ./dev test vm have it",
    "this kernel has no bonding": "the guests of ./dev test vm have it",
    "this kernel has bonding": "then the tests run that are about bonds",
    "only a guest's clock may be set": "the guests of ./dev test vm have one",
    "this host is too large to be filled": "a guest is small enough to run out of memory",
    "the kernel's detector is set in guests of our own only": "the guests of ./dev test vm are",
    "only a guest can be stopped and continued": "the guests of ./dev test vm are",
    "no CPU of this machine sleeps for long enough": "others keep them busy; the guests of ./dev test vm have some that do",
    "this machine is not to be held for seconds": "the guests of ./dev test vm are",
    "this machine is not to be harmed": "a guest that calls itself something else: the fault module is to refuse it",
    "this kernel has no fentry/tcp_conn_request": "some guests of ./dev test vm have it",
    "this kernel has no kprobe/tcp_conn_request": "the guests of ./dev test vm have it",
    "this kernel has neither fentry nor kprobes": "the guests of ./dev test vm have",
    "only a guest has a card that can be made to lose packets": "the guests of ./dev test vm have",
    "this kernel does not know the reason": "rules that go by it match nothing there; newer kernels run them",
}


def outcome(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def skipped(case):
    """Says so, and what it counts as."""
    reason = case.find("skipped").get("message") or case.findtext("system-out") or "it does not say why"
    why = next((why for known, why in MAY_SKIP.items() if reason.startswith(known)), None)
    fails = os.environ.get("CI") == "true" and why is None
    note = f" ({why})" if why else "; a failure, as MAY_SKIP in tests/count.py does not know it" if fails else ""
    print(f"skipped: {case.get('classname')}.{case.get('name')}: {reason}{note}", file=sys.stderr)
    return "failed" if fails else "skipped"


def cases_of(paths):
    """[(name, case)]. xdist adds the group to the name."""
    trees = (ElementTree.parse(path) for path in paths)
    return [(f"{c.get('classname')}.{re.sub(AT_GROUP, '', c.get('name'))}", c) for tree in trees for c in tree.iter("testcase")]


AT_GROUP = r"@[^\]]*$"
is_again = re.compile(r"-again\.xml$").search
again = {}
for name, case in cases_of(filter(is_again, sys.argv[1:])):
    again.setdefault(name, []).append(outcome(case))
outcomes = []
for name, case in cases_of(path for path in sys.argv[1:] if not is_again(path)):
    one = outcome(case)
    if one == "failed" and set(again.get(name, ["failed"])) == {"passed"}:
        one = "passed"
        print(f"second attempt: {name} failed among the others, and passed by itself", file=sys.stderr)
    outcomes.append(skipped(case) if one == "skipped" else one)
print(*(outcomes.count(o) for o in ("passed", "failed", "skipped")))
