# SPDX-License-Identifier: Apache-2.0
"""Records of many hosts, made of a real one of each kind (examples.ndjson, as an agent wrote them).

What differs from host to host and from record to record is other here, too: names, ids, times, addresses,
ports, processes, and where the kernel was loaded (KASLR), so that an index does not compress them better
than real ones. What they are about does not: all stacks of a kind have the same functions.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import uuid
from datetime import datetime, timezone
from pathlib import Path

import pytest

# An address in the kernel, one of IPv4, a number that is none of the few that mean something.
VARIES = re.compile(r"\b(ffffffff[0-9a-f]{8})\b|\b(\d+\.\d+\.\d+\.\d+)\b|\b([1-9]\d{3,18})\b")
ENVELOPE = ("hostname", "boot_id", "uploaded_time", "time", "tracer_time", "tracer_id")


def read_examples():
    """{tracer_name: (what is a host's or a moment's, the rest as text)}"""
    examples = {}
    for line in Path(__file__).with_name("examples.ndjson").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        envelope = {key: record.pop(key) for key in ENVELOPE}
        examples[record["tracer_name"]] = (envelope, json.dumps(record, separators=(",", ":")))
    return examples


EXAMPLES = read_examples()
KINDS = sorted(EXAMPLES)


class Host:
    """Makes its records: `record(kind)`, the next one `apart_s` later than the last."""

    def __init__(self, name, begin_s, apart_s=0.05):
        self.name, self.time_s, self.apart_s = name, begin_s, apart_s
        self.random = random.Random(name)
        self.boot_id = str(uuid.UUID(int=self.random.getrandbits(128)))
        self.kaslr = self.random.randrange(0, 512) << 21

    def varied(self, text):
        """The same number or address becomes the same everywhere in the text."""
        known = {}

        def other(match):
            address, ip, number = match.groups()
            if address:
                return f"{0xFFFFFFFF80000000 + (int(address, 16) + self.kaslr) % (1 << 30):x}"
            if match[0] not in known:
                digits = "".join(self.random.choices("0123456789", k=len(number) - 1)) if number else ""
                addressed = ".".join(str(self.random.randrange(1, 255)) for _ in range(3))
                known[match[0]] = number[0] + digits if number else f"10.{addressed}"
            return known[match[0]]

        return VARIES.sub(other, text)

    def record(self, kind):
        """One line of JSON."""
        envelope, rest = EXAMPLES[kind]
        self.time_s += self.apart_s
        ns = int(self.time_s * 1e9)
        when = datetime.fromtimestamp(self.time_s, timezone.utc)
        spec = when.strftime("%Y-%m-%d %H:%M:%S.") + f"{ns // 1000000 % 1000:03d} +0000"
        envelope = dict(
            envelope,
            hostname=self.name,
            boot_id=self.boot_id,
            uploaded_time=when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ns % 1000000000:09d}+00:00",
            time=spec,
            tracer_time=spec,
            tracer_id=f"{ns:016x}{self.random.getrandbits(48):012x}",
        )
        return json.dumps(envelope, separators=(",", ":"))[:-1] + "," + self.varied(rest)[1:]


def fill(store, lines):
    """`huatuo import`, into a new store or one that nobody uses."""
    done = subprocess.run(
        [os.environ["HUATUO"], "import", "-", "--store", str(store)],
        input="\n".join(lines).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == f"imported {len(lines)}\n".encode(), done.stdout


def memory(pids):
    """PSS of all of them: what they share is counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
            total += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) * 1024
    return total


def peak(pid):
    """The most memory that a process has ever had, in bytes (RSS)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"^VmHWM:\s+(\d+) kB", text, re.M)[1]) * 1024


@pytest.fixture
def figures(request):
    """figures(name=value, …): what was measured, a line of JSON for each test in the file HUATUO_FIGURES."""

    def keep(**values):
        line = json.dumps({"test": request.node.name, **values})
        print(line)
        if path := os.environ.get("HUATUO_FIGURES"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    return keep
