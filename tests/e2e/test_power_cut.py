# SPDX-License-Identifier: Apache-2.0
"""A power cut: what the disk has been given at that moment is all there is afterwards."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
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


@contextlib.contextmanager
def power_cut(one, image, before=lambda: None):
    """A store's disk as it is now, mounted anew: (where, what before() said at that moment).

    A copy of the loop device's image has what the file system has written, but nothing of what it still
    keeps in memory."""
    copy, at = image.with_name("copy"), image.with_name("copied")
    at.mkdir(exist_ok=True)
    processes = one.processes()
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        said = before()
        shutil.copyfile(image, copy)
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    subprocess.run(["mount", "-o", "loop", str(copy), str(at)], check=True)
    try:
        yield at, said
    finally:
        subprocess.run(["umount", str(at)], check=True)


def ids_in(store):
    """What is in a store that nobody uses, in the order of the list."""
    command = [os.environ["HUATUO"], "list", "--json", "--store", str(store)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [record["tracer_id"] for record in map(json.loads, out.splitlines())]


def ids_in_files(store):
    """What is in the record files of dropwatch, oldest first."""
    files = sorted(
        (store / "records").glob("dropwatch*"),
        key=lambda file: -int(file.suffix[1:] or 0),
    )
    return [
        line.split('"')[3]
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith('  "tracer_id": "')
    ]


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
        with power_cut(one, image, ids) as (copied, shown):
            kept = ids_in(copied)
        assert shown and shown <= set(kept), sorted(shown - set(kept))
        assert len(kept) == len(set(kept))


@pytest.mark.parametrize("size", ["64MiB", "64KiB"], ids=["newest file", "rotated files"])
def test_power_cut_record_files(disk, agent, hosts, flood, size):  # noqa: F811
    """What the database calls written is on the disk, in the newest file and in those before it; else the
    next start would not add it, and it would be missing for ever."""
    image, at = disk
    client, _ = hosts
    drop_all(client, "cli0")
    options = ("--events", "dropwatch", "--set", "store.record_file_count=1000")
    options += ("--set", "agent.resolve_names=false", "--set", f"store.record_file_size={size}")
    one = agent(*options, store=at)
    synced, more = 60, 20
    flood(client, 4, SOURCE_PORT, 1000, synced, keys=synced)
    wait_until(lambda: len(drops(one, netns=client.inode)) == synced, 20, "records")
    time.sleep(8)  # synced at least every five seconds, and remembered when nothing else is to do
    flood(client, 4, SOURCE_PORT, 2000, more, keys=more)
    wait_until(lambda: len(drops(one, netns=client.inode)) == synced + more, 20, "more records")
    assert (at / "records/dropwatch.1").exists() == (size == "64KiB")
    with power_cut(one, image) as (copied, _):
        assert len(ids_in(copied)) >= synced + more
        assert len(ids_in_files(copied)) >= synced
        two = agent(*options, store=copied)
        wait_until(lambda: len(ids_in_files(copied)) >= synced + more, 10, "what was missing")
        two.stop()
        listed = [r["tracer_id"] for r in two.records("dropwatch")]
        assert sorted(ids_in_files(copied)) == sorted(listed)
