# SPDX-License-Identifier: Apache-2.0
"""A power cut: what the disk has been given at that moment is all there is afterwards."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from harness import wait_until
from dropwatch import drop_all, drops, flood, flood_program, hosts  # noqa: F401 (fixtures)

SOURCE_PORT = 65535
ROUNDS = 8


@pytest.fixture
def disk():
    """A journalled file system on a loop device: (image, where it is mounted)."""
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-power-"))
    folder.chmod(0o755)
    image, at = folder / "image", folder / "disk"
    at.mkdir()
    with open(image, "wb") as file:
        file.truncate(48 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    # Nothing reaches the disk by the mere passing of time, or the test would prove nothing.
    done = subprocess.run(["mount", "-o", "loop,commit=300", str(image), str(at)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop device to cut the power of: {done.stderr.strip()}")
    yield image, at
    subprocess.run(["umount", str(at)], check=True)
    shutil.rmtree(folder)


def after_power_cut(one, image, ids):
    """What was shown, and what a store shows whose disk holds just what it holds now.

    A copy of the loop device's image has what the file system has written, but nothing of what it still
    keeps in memory."""
    copy, at = image.with_name("copy"), image.with_name("copied")
    at.mkdir(exist_ok=True)
    processes = one.processes()
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        shown = ids()
        shutil.copyfile(image, copy)
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    subprocess.run(["mount", "-o", "loop", str(copy), str(at)], check=True)
    try:
        out = subprocess.run(
            [os.environ["HUATUO"], "list", "--json", "--store", str(at)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    finally:
        subprocess.run(["umount", str(at)], check=True)
    return shown, [json.loads(line)["tracer_id"] for line in out.splitlines()]


def test_power_cut(disk, agent, hosts, flood):  # noqa: F811
    image, at = disk
    client, _ = hosts
    drop_all(client, "cli0")
    one = agent("--events", "dropwatch", "--set", "agent.resolve_names=false", store=at)

    def ports():
        return {r["tracer_data"]["dport"] for r in drops(one, netns=client.inode)}

    def ids():
        return {r["tracer_id"] for r in drops(one, netns=client.inode)}

    for nth in range(ROUNDS):
        first = 1000 + 100 * nth
        flood(client, 4, SOURCE_PORT, first, 1 + 7 * nth, keys=1 + 7 * nth)
        wait_until(lambda f=first: f in ports(), 20, "a record")
        shown, kept = after_power_cut(one, image, ids)
        assert shown and shown <= set(kept), sorted(shown - set(kept))
        assert len(kept) == len(set(kept))
