# SPDX-License-Identifier: Apache-2.0
"""The store under faults: full, read-only, hung and damaged disks, kill -9 at any moment, and what may
be relied on without faults: retention, stacks once, record files that say what `list --json` says."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from disk import disk, full  # noqa: F401 (a fixture)
from harness import wait_until
from dropwatch import (
    CLIENT,
    SERVER,
    check_drop,
    counts,
    drop_all,
    drops,
    flood,  # noqa: F401 (a fixture)
    flood_program,  # noqa: F401 (a fixture)
    hosts,  # noqa: F401 (a fixture)
)

SOURCE_PORT = 65535  # the lower port tells packets apart: each of another destination port is recorded
QUEUE_MAX = 20_000
QUEUE_MAX_BYTES = 64 << 20
TITLE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) Host=(\S+) Region=(\S*)")


def begin(agent, store=None, ready=True, **options):
    """An agent that watches drops only, on a store that may be given; store__max_size="1MiB"."""
    options = {"agent.resolve_names": "false", **{k.replace("__", "."): v for k, v in options.items()}}
    sets = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    return agent("--events", "dropwatch", *sets, store=store, ready=ready)


@pytest.fixture
def client(hosts):  # noqa: F811
    """A namespace in which all that is sent is dropped."""
    drop_all(hosts[0], "cli0")
    return hosts[0]


@pytest.fixture
def lose(client, flood):  # noqa: F811
    """lose(first, count): drops of `count` different packets, to ports from `first` on."""

    def run(first, count):
        flood(client, 4, SOURCE_PORT, first, count, keys=count)
        return list(range(first, first + count))

    return run


def ports(one, client):
    """Where the packets that were recorded were sent to, in the order of the list."""
    return [r["tracer_data"]["dport"] for r in drops(one, netns=client.inode, sport=SOURCE_PORT)]


def wait_ports(one, client, expected, timeout=30):
    """Each of these packets was recorded, once."""
    one.wait_settled("dropwatch", timeout)
    wait_until(lambda: len(ports(one, client)) >= len(expected), timeout, f"{len(expected)} records")
    assert sorted(ports(one, client)) == sorted(expected)


def store_state(one):
    return one.status()["store"]


def wait_problem(one, *words):
    """Waits until the store can't be written and status says so, and what to do, in these words."""
    state = wait_until(
        lambda: (s := store_state(one))["writing"] is False and s["queued"] and s, 15, "writing: false"
    )
    assert str(one.store) in state["problem"], state
    for word in words:
        assert word in state["problem"], state
    return state


def wait_mended(one):
    wait_until(
        lambda: (s := store_state(one))["writing"] is True and s["problem"] == "",
        15,
        lambda: f"a store that is written; {store_state(one)}",
    )


# ---- record files


def read_record_file(path):
    """The documents of a record file, in order; fails if it holds anything but whole records."""
    text = path.read_text()
    documents = []
    at = 0
    while at < len(text):
        end = text.find("\n}\n\n", at)
        assert end >= 0, f"{path} ends in the middle of a record:\n{text[at:][:2000]}"
        title, _, body = text[at : end + 2].partition("\n")
        found = TITLE.fullmatch(title)
        assert found, f"{path}: no title: {title!r}"
        document = json.loads(body)
        assert body == json.dumps(document, indent=2, ensure_ascii=False), body
        assert found[1] == document["time"][:19]
        assert (found[2], found[3]) == (document["hostname"], document["region"])
        documents.append(document)
        at = end + 4
    return documents


def check_record_files(one):
    """The record files say what the list says, in the same order, and nothing twice."""
    folder = one.store / "records"
    assert {path.name for path in folder.iterdir()} == {"coverage", "dropwatch"}
    path = folder / "dropwatch"
    assert read_record_file(folder / "coverage") == one.records("coverage")
    listed = one.records()
    assert listed
    assert wait_until(
        lambda: len(documents := read_record_file(path)) >= len(one.records()) and documents, 10, "the files"
    )[: len(listed)] == listed
    assert len({record["tracer_id"] for record in listed}) == len(listed)


def test_record_files_are_the_list(agent, client, lose):
    one = begin(agent, agent__region="here", agent__hostname="a-host")
    wait_ports(one, client, lose(1000, 100))
    check_record_files(one)
    assert one.records()[0]["region"] == "here" and one.records()[0]["hostname"] == "a-host"
    # Readable for its user, its group and root only, as packets are nobody else's business.
    for path in (one.store, one.store / "huatuo.db", one.store / "records", one.store / "records/dropwatch"):
        assert path.stat().st_mode & 0o027 == 0, path


def test_record_files_rotate(agent, client, lose):
    one = begin(agent, store__record_file_size="64KiB", store__record_file_count="3")
    expected = lose(1000, 300)
    wait_ports(one, client, expected)
    one.stop()
    folder = one.store / "records"
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["coverage", "dropwatch", "dropwatch.1", "dropwatch.2"]
    found = []
    for name in ("dropwatch.2", "dropwatch.1", "dropwatch"):
        size = (folder / name).stat().st_size
        assert size <= 64 << 10, name
        found += read_record_file(folder / name)
    # The newest, without a gap.
    assert found == one.records()[-len(found) :]


def test_record_file_taken_away(agent, client, lose):
    one = begin(agent)
    wait_ports(one, client, lose(1000, 10))
    (one.store / "records/dropwatch").rename(one.store / "taken")
    wait_ports(one, client, [*range(1000, 1010), *lose(2000, 10)])
    path = one.store / "records/dropwatch"
    wait_until(lambda: path.exists() and len(read_record_file(path)) >= 10, 10, "the new record file")
    # Nothing is missing, and nothing is in both.
    listed = one.records()
    both = wait_until(
        lambda: len(both := read_record_file(one.store / "taken") + read_record_file(path)) >= len(listed) and both,
        10,
        "the record files",
    )
    assert both[: len(listed)] == listed and len({r["tracer_id"] for r in both}) == len(both)


def test_half_record_is_cut_off(agent, client, lose):
    """As it stands at the end of a file when the power failed."""
    one = begin(agent)
    wait_ports(one, client, lose(1000, 20))
    one.stop()
    path = one.store / "records/dropwatch"
    whole = path.read_text()
    for half in ("2025-06-11 15:", whole[:1000], whole[:-1][-300:]):
        path.write_text(whole + half)
        two = begin(agent, store=one.store)
        expected = len(two.records()) + 5
        lose(2000, 5)
        wait_until(lambda n=expected: len(two.records()) >= n, 10, "new records")
        two.stop()
        assert read_record_file(path) == two.records()
        whole = path.read_text()


# ---- a disk of the test's own


def test_full_disk(disk, agent, client, lose):
    at = disk(16)
    one = begin(agent, store=at)
    expected = lose(1000, 50)
    wait_ports(one, client, expected)
    with full(at):
        expected += lose(2000, 2000)
        state = wait_problem(one, "the disk is full", "free space")
        wait_until(lambda: counts(one)["unaccounted"] == store_state(one)["queued"], 10, "all in the queue")
        # What is there can be read, and nothing is lost yet.
        assert set(ports(one, client)) >= set(range(1000, 1050))
        assert counts(one)["lost"] == 0, counts(one)["lost_by"]
        text = one.huatuo("status").stdout.decode()
        assert state["problem"] in text
        # Said once and not every second.
        time.sleep(2.5)
        assert one.stderr.count("the disk is full") == 1, one.stderr
    wait_mended(one)
    wait_ports(one, client, expected)
    assert counts(one)["lost"] == 0
    check_record_files(one)
    assert "is written again" in one.stderr
    one.stop()


def test_full_disk_from_the_start(disk, agent, client, lose):
    at = disk(16)
    with full(at):
        one = begin(agent, store=at)
        expected = lose(1000, 100)
        wait_problem(one, "the disk is full", "free space")
    wait_mended(one)
    wait_ports(one, client, expected)
    assert counts(one)["lost"] == 0
    one.stop()


def test_full_disk_after_kill(disk, agent, client, lose):
    """What the agent before has left may be more than there is room for: it waits, and goes on when there is."""
    at = disk(16)
    one = begin(agent, store=at)
    expected = lose(1000, 100)
    wait_ports(one, client, expected)
    with full(at):
        one.kill(one.proper())
        one = begin(agent, store=at)
        expected += lose(2000, 100)
        wait_problem(one, "the disk is full", "free space")
    wait_mended(one)
    one.wait_settled("dropwatch", 30)
    assert counts(one)["lost"] == 0
    one.stop()
    assert sorted(ports(one, client)) == sorted(expected)


@pytest.mark.alone("it loses packets faster than other agents can record them")
def test_full_disk_full_queue(disk, agent, client, lose):
    """What no longer fits into the queue is lost, no sooner, and counted."""
    at = disk(256)
    more = {"dropwatch__repeat_keys": "65536", "dropwatch__ring_size": "64MiB"}
    one = begin(agent, store=at, **more)
    with full(at):
        lose(1000, 500)
        wait_problem(one, "the disk is full")
        sent = [*range(1000, 1500), *lose(2000, 24_500)]
        wait_until(lambda: counts(one)["seen"] >= len(sent), 30, "all seen")
        wait_until(
            lambda: (s := one.status())["events"]["dropwatch"]["unaccounted"] == s["store"]["queued"],
            60,
            lambda: f"all in the queue or lost: {one.status()}",
        )
        status = one.status()
        count, queued = status["events"]["dropwatch"], status["store"]["queued"]
        assert count["lost"] == count["lost_by"]["queue_full"] == count["seen"] - count["filtered"] - (
            count["suppressed"] + count["recorded"] + queued
        )
    wait_mended(one)
    one.wait_settled("dropwatch", 60)
    # The bound was really reached: in number, or in bytes (of which the last one did not fit).
    lines = one.huatuo("list", "--json").stdout.splitlines()
    assert queued == QUEUE_MAX or sum(len(line) for line in lines) > QUEUE_MAX_BYTES - (1 << 20)
    assert len(lines) >= queued
    # The oldest are kept, and none is there twice.
    kept = ports(one, client)
    assert sorted(kept) == sent[: len(kept)]
    one.stop()


def immutable(path, on, index):
    """What root may do to files that nobody should change; `index`: to SQLite's shared memory, too."""
    skipped = {"agent.sock"} | (set() if index else {"huatuo.db-shm"})
    files = [str(p) for p in (*path.rglob("*"), path) if p.name not in skipped]
    subprocess.run(["chattr", "+i" if on else "-i", *files], check=True)


@pytest.mark.parametrize("index", [False, True], ids=["files", "files and index"])
def test_read_only_files(disk, agent, client, lose, index):
    at = disk(16)
    one = begin(agent, store=at)
    expected = lose(1000, 50)
    wait_ports(one, client, expected)
    immutable(at, True, index)
    try:
        expected += lose(2000, 200)
        wait_problem(one, "cannot write")
        wait_until(lambda: counts(one)["unaccounted"] == store_state(one)["queued"], 10, "all in the queue")
        assert set(ports(one, client)) >= set(range(1000, 1050))
        time.sleep(2.5)
        assert one.stderr.count("error: ") <= 2, one.stderr  # the database, the record files
    finally:
        immutable(at, False, index)
    wait_mended(one)
    wait_ports(one, client, expected)
    assert counts(one)["lost"] == 0
    check_record_files(one)
    one.stop()


def test_record_files_are_completed(disk, agent, client, lose):
    """While they can't be written the database is, and says so; what is missing is added later, by the
    same agent or by the next."""
    one = begin(agent, store=disk(16))
    expected = lose(1000, 10)
    wait_ports(one, client, expected)
    path = one.store / "records/dropwatch"
    for mended in (False, True):
        immutable(one.store / "records", True, False)
        try:
            expected += lose(2000 + 1000 * mended, 100)
            wait_ports(one, client, expected)
            state = wait_until(lambda: (s := store_state(one))["problem"] and s, 10, "a problem")
            assert state["writing"] is True and str(path.parent) + "/" in state["problem"], state
            # Said once, of the first try and the first file; status tells of the last.
            why = state["problem"].partition(": ")[2]
            assert "the database goes on" in why
            wait_until(lambda: f"record file {path.parent}/" in one.stderr and why in one.stderr, 5, lambda: one.stderr)
            if not mended:
                one.kill([pid for pid in one.processes() if pid != one.pid][0])
        finally:
            immutable(one.store / "records", False, False)
        if mended:
            wait_mended(one)
        else:
            one = begin(agent, store=one.store)
        check_record_files(one)
    one.stop()


def test_disk_breaks(disk, agent, client, lose):
    """The kernel finds its file system broken and makes it read-only. The agent goes on and says so; it
    can be read, and it ends in time, although nothing can be written any more."""
    at = disk(16)
    one = begin(agent, store=at)
    wait_ports(one, client, lose(1000, 50))
    (device,) = subprocess.check_output(["findmnt", "-no", "SOURCE", str(at.parent)], text=True).split()
    Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1")
    lose(2000, 200)
    wait_problem(one, "cannot write")
    wait_until(lambda: "it is read-only" in store_state(one)["problem"], 5, lambda: store_state(one))
    records = store_state(one)["records"]
    lose(3000, 10)
    wait_until(lambda: store_state(one)["queued"] >= 210, 10, lambda: f"more in the queue: {store_state(one)}")
    assert store_state(one)["records"] == records
    assert set(ports(one, client)) == set(range(1000, 1050))
    begun = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    code = one.wait_end()
    assert time.monotonic() - begun < 12
    assert "killed" not in one.stderr, one.stderr
    assert re.search(r"error: \d+ records could not be written .* are lost", one.stderr), one.stderr
    assert code == 0


def test_read_only_from_the_start(disk, agent):
    """One that can't be locked is not begun on: another agent might be writing."""
    at = disk(16)
    subprocess.run(["mount", "-o", "remount,ro", str(at.parent)], check=True)
    one = begin(agent, store=at, ready=False)
    assert one.wait_end() == 1
    assert str(at) in one.stderr and "Read-only file system" in one.stderr, one.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(at.parent)], check=True)
    begin(agent, store=at).stop()


def test_hung_disk(disk, agent, client, lose):
    """A disk that does not answer keeps nobody waiting but the thread that writes to it."""
    at = disk(32)
    one = begin(agent, store=at)
    expected = lose(1000, 50)
    wait_ports(one, client, expected)
    subprocess.run(["fsfreeze", "-f", str(at.parent)], check=True)
    try:
        expected += lose(2000, 1000)
        wait_until(lambda: store_state(one)["queued"] >= 1000, 10, "all in the queue")
        begun = time.monotonic()
        assert one.status()["running"] is True
        assert time.monotonic() - begun < 2
        assert counts(one)["lost"] == 0
    finally:
        subprocess.run(["fsfreeze", "-u", str(at.parent)], check=True)
    wait_ports(one, client, expected)
    check_record_files(one)
    one.stop()


# ---- damage


def damage_header(path):
    with open(path, "r+b") as file:
        file.write(b"This is no database any more. " * 200)


def damage_middle(path):
    """Pages in the middle, as by a disk that wrote something else there."""
    page = 4096
    pages = path.stat().st_size // page
    assert pages > 40
    with open(path, "r+b") as file:
        file.seek(pages // 2 * page)
        file.write(random.Random(1).randbytes(4 * page))


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [damage_header, damage_middle, cut_off])
def test_damaged_database(agent, client, lose, damage):
    one = begin(agent)
    before = lose(1000, 200)
    wait_ports(one, client, before)
    one.stop()
    old = one.records()
    path = one.store / "huatuo.db"
    damage(path)
    broken = path.read_bytes()

    two = begin(agent, store=one.store)
    wait_until(lambda: "is damaged" in two.stderr, 15, "the log to tell of the damage")
    aside = [p for p in two.store.glob("huatuo.db.damaged-*") if not p.name.endswith(("-wal", "-shm"))]
    assert len(aside) == 1, aside
    (aside,) = aside
    assert aside.read_bytes() == broken
    assert str(aside) in two.stderr and ".recover" in two.stderr, two.stderr
    wait_ports(two, client, lose(2000, 100))
    # The record files go on behind what they hold.
    two.stop()
    path = two.store / "records/dropwatch"
    assert read_record_file(path) == old + two.records()


def test_foreign_database_is_left_alone(agent):
    """A file that is a database, but of another program, is not written to and not moved."""
    store = Path(tempfile.mkdtemp(prefix="huatuo-e2e-foreign-"))
    store.chmod(0o755)
    path = store / "huatuo.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE cats(name)")
        db.commit()
    path.chmod(0o666)
    before = path.read_bytes()
    try:
        one = begin(agent, store=store, ready=False)
        assert one.wait_end() == 1
        assert "not a database of this program" in one.stderr and str(path) in one.stderr, one.stderr
        assert path.read_bytes() == before
        assert not list(store.glob("*damaged*"))
    finally:
        shutil.rmtree(store)


# ---- kill -9


class Lister(threading.Thread):
    """Reads all the time. Whatever was listed once stays, in its place."""

    def __init__(self, one):
        super().__init__()
        self.one, self.lines, self.lists = one, [], 0
        self.wrong, self.end = None, threading.Event()

    def check(self):
        output = self.one.huatuo("list", "--json").stdout
        assert output.endswith(b"\n") or not output, "the last line is cut"
        lines = output.split(b"\n")[:-1]
        assert lines[: len(self.lines)] == self.lines, (
            f"of {len(self.lines)} records that were listed before, the first that is not in its place is "
            f"{next(n for n, old in enumerate(self.lines) if lines[n : n + 1] != [old])} of {len(lines)}"
        )
        for line in lines[len(self.lines) :]:
            json.loads(line)
        self.lines = lines
        self.lists += 1

    def run(self):
        try:
            while not self.end.is_set():
                self.check()
        except BaseException as error:
            self.wrong = error

    def stop(self):
        self.end.set()
        self.join()
        if self.wrong:
            raise self.wrong


def wait_for_write(store):
    """Comes back as soon as the database is being written, or after a second."""

    def stamps():
        with contextlib.suppress(FileNotFoundError):
            return [os.stat(store / name).st_mtime_ns for name in ("huatuo.db", "huatuo.db-wal")]

    before, end = stamps(), time.monotonic() + 1
    while stamps() == before and time.monotonic() < end:
        pass


@pytest.mark.long
def test_kill_at_any_moment(agent, client, flood_program):  # noqa: F811
    """Fifty times, in turn the agent proper and the root part: while they start, at random, and in the
    middle of a commit, when what is in the database and what is in the record files differ."""
    chance = random.Random(20)
    one = begin(agent)
    store = one.store
    lister = Lister(one)
    target = [CLIENT[4], SERVER[4], str(SOURCE_PORT), "1000", "1000000", "60000", "100"]
    with client:
        drops_flow = subprocess.Popen([str(flood_program), *target], stdout=subprocess.DEVNULL)
    killed = Counter()
    lister.start()
    try:
        for nth in range(50):
            if nth:
                one = begin(agent, store=store, ready=nth % 5 != 0)
            time.sleep(chance.uniform(0, 0.4))
            proper = [pid for pid in one.processes() if pid != one.pid]
            if nth % 4 > 1:
                wait_for_write(store)
            victim = proper[0] if proper and nth % 2 == 0 else one.pid
            began = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                code = one.kill(victim)
            assert time.monotonic() - began < 12
            killed["root" if victim == one.pid else "agent"] += 1
            assert code == (-signal.SIGKILL if victim == one.pid else 1), one.stderr
        assert not lister.wrong, lister.wrong
        last = begin(agent, store=store)
        seen_before = len(lister.lines)
        wait_until(lambda: len(lister.lines) > seen_before or lister.wrong, 15, "new records")
    finally:
        drops_flow.kill()
        drops_flow.wait()
        lister.stop()
    assert killed["agent"] >= 20 and killed["root"] >= 20, killed
    assert lister.lists >= 20 and len(lister.lines) >= 200, (lister.lists, len(lister.lines))
    last.stop()
    lister.check()
    ids = [json.loads(line)["tracer_id"] for line in lister.lines]
    assert len(set(ids)) == len(ids)
    assert "damaged" not in last.stderr and not list(store.glob("*damaged*"))
    documents = [json.loads(line) for line in lister.lines]
    for name in ("dropwatch", "coverage"):
        assert read_record_file(store / "records" / name) == [d for d in documents if d["tracer_name"] == name]
    # Of each run it is known from when to when it watched.
    changes = Counter(d["tracer_data"]["change"] for d in documents if d["tracer_name"] == "coverage")
    assert changes["begin"] == changes["end"] >= 20, changes


# ---- one writer


def test_second_agent_is_refused(agent, client, lose):
    one = begin(agent)
    two = begin(agent, store=one.store, ready=False)
    assert two.wait_end() == 1
    said = re.search(r"in use by process (\d+)", two.stderr)
    assert said and int(said[1]) in one.processes(), two.stderr
    assert str(one.store) in two.stderr
    # The first one is none the worse for it.
    assert one.status()["running"] is True
    wait_ports(one, client, lose(1000, 20))
    one.stop()
    # A lock that was left behind keeps nobody out.
    assert (one.store / "lock").exists()
    begin(agent, store=one.store).stop()


# ---- retention, stacks


@pytest.mark.alone("it loses packets faster than other agents can record them")
def test_size_is_kept(agent, client, lose):
    limit = 8 << 20
    one = begin(agent, store__max_size="8MiB")
    last, largest = 1000 + 10_000, 0
    for first in range(1000, last, 1000):
        lose(first, 1000)
        one.wait_settled("dropwatch", 30)
        files = [one.store / f"huatuo.db{end}" for end in ("", "-wal")]
        largest = max(largest, sum(file.stat().st_size for file in files))
    state = wait_until(
        lambda: (s := store_state(one))["deleted"] > 0 and s["size_bytes"] <= limit and s,
        20,
        lambda: f"a database below its limit: {store_state(one)}",
    )
    # What was written before anything was deleted, and the WAL beside it: some more, but not without end.
    assert largest < 3 * limit, largest
    # The oldest have gone and no others, and the accounts don't care.
    left = sorted(ports(one, client))
    assert 100 < len(left) < 10_000 - 100
    assert left == list(range(last - len(left), last))
    count = counts(one)
    assert count["recorded"] >= 10_000 and count["lost"] == 0, count
    assert abs(count["recorded"] - state["deleted"] - len(one.records())) <= count["recorded"] // 100
    check_record_files_hold(one, last)
    one.stop()


def test_wal_is_kept_short(agent, client, lose):
    """An eighth of the limit: what a start after kill -9 has to read again, and reading has to search."""
    one = begin(agent, store__max_size="16MiB")
    largest = 0
    for first in range(1000, 4000, 300):
        lose(first, 300)
        one.wait_settled("dropwatch", 30)
        largest = max(largest, (one.store / "huatuo.db-wal").stat().st_size)
    assert store_state(one)["deleted"] == 0  # or this had nothing to do with it
    assert largest < 4 << 20, largest
    assert (one.store / "huatuo.db").stat().st_size > 2 << 20


def check_record_files_hold(one, last):
    """Retention is the database's; the record files have rotation."""
    documents = read_record_file(one.store / "records/dropwatch")
    found = {d["tracer_data"].get("dport") for d in documents}
    assert found >= set(range(1000, last))


def test_equal_stacks_are_stored_once(agent, client, lose):
    one = begin(agent)
    wait_ports(one, client, lose(1000, 1000))
    records = drops(one, netns=client.inode, sport=SOURCE_PORT)
    one.stop()
    with contextlib.closing(sqlite3.connect(f"file:{one.store}/huatuo.db?mode=ro", uri=True)) as db:
        ((n_records,),) = db.execute("SELECT count(*) FROM records WHERE tracer_name = 'dropwatch'")
        stacks = db.execute("SELECT text, uses FROM stacks").fetchall()
        where = f"""WHERE json LIKE '%"netns":{client.inode},%'"""
        ours = [text for (text,) in db.execute(f"SELECT stacks FROM records {where}")]
        ((whole,),) = db.execute("SELECT count(*) FROM records WHERE json LIKE '%entry_SYSCALL_64%'")
    assert n_records >= len(ours) >= 1000
    different = {text.partition(":")[0] for text in ours}  # "id:offset"
    assert len(different) < len(ours) // 50, f"{len(different)} stacks of {len(ours)} records"
    assert len({text for text, _ in stacks}) == len(stacks)
    assert sum(uses for _, uses in stacks) == n_records
    assert whole == 0
    # And each record shows its own.
    for record in records[:20]:
        assert "dev_queue_xmit" in check_drop(record)["stack"]
