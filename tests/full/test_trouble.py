# SPDX-License-Identifier: Apache-2.0
"""Uploading to a real OpenSearch, long: whatever happens to the agent, the server or the disk, at the end each
record that the store has is in the index, once."""

import random
import signal
import threading
import time

import pytest
from disk import disk, full  # noqa: F401 (a fixture)
from dropwatch import counts, drop_all, flood, flood_program, hosts  # noqa: F401 (fixtures)
from fleet import KINDS, Host, figures, fill, peak  # noqa: F401 (a fixture)
from harness import wait_until
from there import MINUTE, indexed, wait_there
from upload import begin, stored_ids, target

# Nothing asks for names: those of the packets' addresses are nobody's.
DROPS = {"events": "dropwatch", "agent__resolve_names": "false", "dropwatch__repeat_limit": "1000000"}
SOURCE_PORT = 65535
KILLS, RECORDS = 100, 10_000
BACKLOG = 100_000
PER_SECOND = 200  # that are recorded meanwhile
MEMORY = 64 << 20  # that the agent proper may have, whatever waits


def records(count):
    host = Host(f"host-{random.getrandbits(32):08x}", time.time() - count * 0.01, 0.01)
    return [host.record(KINDS[i % len(KINDS)]) for i in range(count)]


def wait_uploaded(one, timeout):
    """By what the agent says; wait_there() then asks the server."""
    wait_until(
        lambda: target(one)["state"] == "ok" and target(one)["oldest_not_uploaded_s"] == 0,
        timeout,
        lambda: f"all to be uploaded: {target(one)}",
        every=1,
    )


@pytest.mark.limit_s(30 * MINUTE)
def test_killed_a_hundred_times(folder, cluster, agent, figures):  # noqa: F811
    """kill -9 of either process at any moment, from the start of the agent on. When it is the root part, the
    agent proper ends as always, and sends for a moment more."""
    store, began = folder / "store", time.monotonic()
    fill(store, records(RECORDS))
    filled = RECORDS
    killed = dict.fromkeys(("agent", "root part", "while it started"), 0)
    for _ in range(KILLS):
        which = random.choices(list(killed), (80, 10, 10))[0]
        before, _ = indexed(cluster)
        if filled - before < 1000:  # or there would be nothing to interrupt
            fill(store, records(1000))
            filled += 1000
        # A few in a request, or it would be over too soon.
        one = begin(agent, cluster.url, store=store, batch_size="4KiB", flush_interval="1ms", ready=False)
        pid = one.pid
        if which == "agent":
            wait_until(lambda one=one: len(one.processes()) == 2, MINUTE, "the agent proper", every=0.01)
            pid = one.proper()
        if which != "while it started":
            enough = before + random.randrange(1, 200)
            wait_until(lambda n=enough: indexed(cluster)[0] >= n, MINUTE, "some to be sent", every=0.002)
        time.sleep(random.uniform(0, 0.4 if which == "while it started" else 0.02))
        one.kill(pid)
        killed[which] += 1
    there, refused = indexed(cluster)
    assert there < len(stored_ids(one)), "nothing was left to be sent when the last one was killed"
    last = begin(agent, cluster.url, store=store)
    wait_uploaded(last, 5 * MINUTE)
    wait_there(cluster, last)
    state = last.stop()["targets"]["elasticsearch"]
    wait_there(cluster, last)
    assert state["uploaded"] == len(stored_ids(last)) > RECORDS
    assert state["rejected"] == state["deleted"] == 0
    figures(
        killed=killed,
        in_the_store=len(stored_ids(last)),
        in_the_index=len(cluster.document_ids()),
        there_when_the_last_was_killed=there,
        sent_twice_and_refused=refused,
        seconds=round(time.monotonic() - began),
    )


class Losses:
    """Packets of a namespace that are dropped all the while: each an event that is recorded in full."""

    def __init__(self, flood, client, per_second):  # noqa: F811
        self.sent, self.over, self.failure = 0, threading.Event(), None
        self.thread = threading.Thread(target=self.run, args=(flood, client, per_second))
        self.thread.start()

    def run(self, flood, client, per_second):  # noqa: F811
        try:
            while not self.over.is_set():
                count = 5 * per_second
                flood(client, 4, SOURCE_PORT, 1000, count, keys=count, per_second=per_second)
                self.sent += count
        except BaseException as failure:  # the test's thread asks for it
            self.failure = failure

    def end(self):
        self.over.set()
        self.thread.join()
        if self.failure:
            raise self.failure
        return self.sent


def down(cluster, one):
    """For a while. Nobody listens there."""
    cluster.kill()
    wait_until(lambda: "does the server run" in target(one)["problem"], MINUTE, lambda: target(one))
    time.sleep(15)
    cluster.start()


def killed(cluster, _):
    """In the middle of a bulk, and started again at once."""
    before, _ = indexed(cluster)
    wait_until(lambda: indexed(cluster)[0] > before, MINUTE, "documents on their way", every=0.002)
    cluster.kill()
    cluster.start()


def hangs(cluster, one):
    """It takes connections and requests, and says nothing."""
    cluster.send(signal.SIGSTOP)
    try:
        wait_until(lambda: "timed out" in target(one)["problem"], MINUTE, lambda: target(one))
        time.sleep(5)
    finally:
        cluster.send(signal.SIGCONT)


def busy(cluster, one):
    """429 to every request."""
    cluster.kill()
    cluster.start(indexing_pressure__memory__limit="1kb")
    wait_until(lambda: "429" in target(one)["problem"], MINUTE, lambda: target(one))
    time.sleep(10)
    cluster.kill()
    cluster.start()


@pytest.mark.limit_s(60 * MINUTE)
def test_troubles(folder, cluster, agent, hosts, flood, figures):  # noqa: F811
    """What waits is many times what an agent may have of memory, and real events go on meanwhile."""
    store, began = folder / "store", time.monotonic()
    backlog = records(BACKLOG)
    backlog_bytes = sum(map(len, backlog))
    fill(store, backlog)
    del backlog
    drop_all(hosts[0], "cli0")
    cluster.kill()
    one = begin(agent, cluster.url, store=store, timeout="5s", **DROPS)
    proper = one.proper()
    at_first = peak(proper)
    losses = Losses(flood, hosts[0], PER_SECOND)
    cluster.start()
    try:
        troubles = [down, killed, hangs, busy] * 2
        random.shuffle(troubles)
        for trouble in troubles:
            before = target(one)["uploaded"]
            wait_until(lambda n=before: target(one)["uploaded"] > n, 2 * MINUTE, lambda: target(one))
            time.sleep(random.uniform(0, 2))
            trouble(cluster, one)
    finally:
        sent = losses.end()
    one.wait_settled("dropwatch")
    count = counts(one)
    assert count["recorded"] >= sent and count["lost"] == 0, count
    wait_uploaded(one, 10 * MINUTE)
    wait_there(cluster, one)
    at_most = peak(proper)
    retried = target(one)["retried"]
    state = one.stop()["targets"]["elasticsearch"]
    wait_there(cluster, one)
    assert state["rejected"] == state["deleted"] == 0
    assert state["uploaded"] == len(stored_ids(one)) >= BACKLOG + sent
    assert backlog_bytes > 3 * MEMORY and at_most < MEMORY
    figures(
        troubles=[trouble.__name__ for trouble in troubles],
        waited_at_first_bytes=backlog_bytes,
        recorded_meanwhile=count["recorded"],
        lost=count["lost"],
        in_the_store=len(stored_ids(one)),
        in_the_index=len(cluster.document_ids()),
        sent_again=retried,
        peak_rss_before_uploading=at_first,
        peak_rss=at_most,
        seconds=round(time.monotonic() - began),
    )


@pytest.mark.limit_s(20 * MINUTE)
def test_full_disk(disk, cluster, agent, hosts, flood, figures):  # noqa: F811
    """The server is down for so long that the disk is full, and then the queue. What the disk has is uploaded
    while it is still full; what waited in the queue, once there is room."""
    at, began = disk(256), time.monotonic()
    drop_all(hosts[0], "cli0")
    cluster.kill()
    with full(at, but_bytes=24 << 20):
        one = begin(agent, cluster.url, store=at, dropwatch__repeat_keys="65536", **DROPS)
        sent = 0
        while not counts(one)["lost"]:
            flood(hosts[0], 4, SOURCE_PORT, 1000, 5000, keys=5000, per_second=1000)
            sent += 5000
        state = one.status()["store"]
        assert state["writing"] is False and "the disk is full" in state["problem"], state
        assert "the disk is full" in one.stderr
        kept, queued = len(stored_ids(one)), state["queued"]
        cluster.start()
        wait_until(lambda: indexed(cluster)[0] >= kept, 3 * MINUTE, lambda: f"{kept} documents; {target(one)}", every=1)
        assert one.status()["store"]["writing"] is False
    wait_until(lambda: one.status()["store"]["writing"], MINUTE, lambda: one.status()["store"])
    one.wait_settled("dropwatch", MINUTE)
    wait_uploaded(one, 3 * MINUTE)
    wait_there(cluster, one)
    count = counts(one)
    assert count["lost"] == count["lost_by"]["queue_full"] and count["recorded"] + count["lost"] >= sent, count
    targets = one.stop()["targets"]["elasticsearch"]
    wait_there(cluster, one)
    assert targets["rejected"] == targets["deleted"] == 0
    assert targets["uploaded"] == len(stored_ids(one)) >= kept + queued
    figures(
        events=count["seen"],
        uploaded_while_the_disk_was_full=kept,
        queued=queued,
        lost_and_counted=count["lost"],
        in_the_store=len(stored_ids(one)),
        in_the_index=len(cluster.document_ids()),
        seconds=round(time.monotonic() - began),
    )
