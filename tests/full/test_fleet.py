# SPDX-License-Identifier: Apache-2.0
"""A fleet on one machine, and what a larger one would need: what docs/fleet.md says is measured here."""

import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fleet import KINDS, Host, figures, fill, memory  # noqa: F401 (a fixture)
from harness import session_processes, wait_until
from there import MINUTE, indexed, set_up
from upload import begin, rejected, stored_ids, target

HOSTS, EACH = 200, 500
AT_ONCE = 4  # agents that start at the same time, and exports
OF_A_KIND = 20_000
# Bytes of a request, and how many records are sent in such: fewer, where each takes longer.
BULKS = {"1KiB": 1000, "16KiB": 5000, "160KiB": 10_000, "4MiB": 20_000}


def export(store, cluster, *words):
    """`huatuo export`, which sends as an agent does, and ends."""
    command = [os.environ["HUATUO"], "export", "--to", "elasticsearch", "--store", str(store)]
    command += ["--set", f"elasticsearch.url={cluster.url}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def merged(cluster, index):
    """(documents, bytes) of indices as they are in the end: of one segment a shard."""
    cluster.ask("POST", f"/{index}/_forcemerge?max_num_segments=1")
    cluster.ask("POST", f"/{index}/_flush?force=true")

    def settled():
        total = cluster.ask("GET", f"/{index}/_stats/docs,store,segments")["_all"]["primaries"]
        found = (total["docs"]["count"], total["store"]["size_in_bytes"])
        seen.append(found)
        return found if seen[-3:] == [found] * 3 else None

    seen = []
    return wait_until(settled, MINUTE, lambda: f"an index that stays as it is: {seen[-3:]}", every=1)


@pytest.mark.limit_s(40 * MINUTE)
def test_two_hundred_hosts(folder, cluster, agent, figures):  # noqa: F811
    """Agents of many hosts, each with a name, a store and records of its own, all of which wait for one server
    and come at the same time when it is there. Real are agents, uploaders, stores and server; simulated is that
    each has a machine to itself, and what happened there."""
    cluster.kill()
    names = [f"host-{i:03d}" for i in range(HOSTS)]
    begin_s = time.time() - EACH

    def start(name):
        host = Host(name, begin_s)
        fill(folder / name, [host.record(kind) for kind in host.random.choices(KINDS, k=EACH)])
        options = {"agent__hostname": name, "flush_interval": "1s"}  # which is the default
        return begin(agent, cluster.url, store=folder / name, **options)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        agents = list(pool.map(start, names))
    fleet_bytes = memory(pid for one in agents for pid in session_processes(one.pid))
    total = sum(len(stored_ids(one)) for one in agents)
    assert total >= HOSTS * (EACH + 1)  # each has begun to watch

    cluster.start()
    began = time.monotonic()

    def there():
        return indexed(cluster)[0]

    first_s = wait_until(lambda: there() and time.monotonic() - began, MINUTE, "the first documents", every=0.1)
    all_s = wait_until(
        lambda: there() >= total and time.monotonic() - began,
        15 * MINUTE,
        lambda: f"{total} documents; there are {there()}",
        every=0.1,
    )
    connections = cluster.ask("GET", "/_nodes/stats/http")["nodes"]
    (connections,) = (node["http"]["current_open"] for node in connections.values())
    put_off = cluster.ask("GET", "/_nodes/stats/thread_pool")["nodes"]
    (put_off,) = (node["thread_pool"]["write"]["rejected"] for node in put_off.values())

    def dealt_with(one):
        state = target(one)
        return state if state["uploaded"] + state["rejected"] + state["deleted"] > EACH else None

    states = [wait_until(lambda one=one: dealt_with(one), MINUTE, lambda one=one: target(one)) for one in agents]
    refused = {row["reason"] for one, end in zip(agents, states, strict=True) if end["rejected"] for row in rejected(one)}
    assert not refused and not any(end["deleted"] for end in states), refused

    # By host: each has its own, all of them, and nobody another's.
    def same(one, name):
        hits = cluster.search(query={"term": {"hostname": name}}, _source=False)["hits"]
        return sorted(hit["_id"] for hit in hits) == sorted(stored_ids(one))

    for one, name in zip(agents, names, strict=True):
        wait_until(lambda one=one, name=name: same(one, name), MINUTE, f"the records of {name}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda one: one.stop(), agents))
    total = sum(end["targets"]["elasticsearch"]["uploaded"] for end in ends)
    assert len(cluster.document_ids()) == total >= HOSTS * (EACH + 1)
    documents, size = merged(cluster, "huatuo*")
    assert documents == total
    figures(
        hosts=HOSTS,
        records=total,
        agents_pss_bytes=fleet_bytes,
        first_document_s=round(first_s, 1),
        all_documents_s=round(all_s, 1),
        records_sent_again=sum(state["retried"] for state in states),
        refused_as_they_were_there=indexed(cluster)[1],
        bulks_put_off_by_the_server=put_off,
        connections=connections,
        bytes_a_document=round(size / documents),
    )


@pytest.mark.limit_s(30 * MINUTE)
def test_sizes(cluster, folder, figures):  # noqa: F811
    """What a document of each kind takes on the server's disk, after all is merged."""
    hosts = [Host(f"host-{i:03d}", time.time() - 3600, 0.1) for i in range(HOSTS)]
    found = {}
    for kind in KINDS:
        lines = [random.choice(hosts).record(kind) for _ in range(OF_A_KIND)]
        store, index = folder / kind, f"size-{kind.replace('_', '-')}"
        fill(store, lines)
        set_up(cluster, index=index)
        export(store, cluster, "--set", f"elasticsearch.index={index}")
        documents, size = merged(cluster, f"{index}_*")
        assert documents == OF_A_KIND
        in_store = (store / "huatuo.db").stat().st_size
        found[kind] = {
            "record_bytes": round(sum(map(len, lines)) / OF_A_KIND),
            "store_bytes": round(in_store / OF_A_KIND),
            "index_bytes": round(size / OF_A_KIND),
        }
        cluster.ask("DELETE", f"/{index}_*")
    assert all(row["index_bytes"] > 50 for row in found.values())
    figures(documents_of_a_kind=OF_A_KIND, kinds=found)


@pytest.mark.limit_s(30 * MINUTE)
@pytest.mark.parametrize("refresh", ["1s", "30s"])
def test_bulks(cluster, folder, figures, refresh):  # noqa: F811
    """What the number of documents in a request makes of the documents that one server takes in a second."""
    found = {}
    for size, count in BULKS.items():
        index = f"bulk-{size.lower()}"
        set_up(cluster, index=index)
        path = f"/_index_template/{index}"
        template = cluster.ask("GET", path)["index_templates"][0]["index_template"]
        template["template"]["settings"]["index.refresh_interval"] = refresh
        cluster.ask("PUT", path, template)
        stores = [folder / f"{index}-{i}" for i in range(AT_ONCE)]
        for store in stores:
            host = Host(store.name, time.time() - 3600, 0.1)
            lines = [host.record(kind) for kind in host.random.choices(KINDS, k=count // AT_ONCE)]
            fill(store, lines)
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            words = ["--set", f"elasticsearch.index={index}", "--set", f"elasticsearch.batch_size={size}"]
            list(pool.map(lambda store, words=words: export(store, cluster, *words), stores))
        took = time.monotonic() - began
        assert len(cluster.document_ids(f"{index}_*")) == count
        mean = sum(map(len, lines)) / len(lines)
        limit = int(size[:-3]) << (20 if size.endswith("MiB") else 10)
        found[size] = {
            "documents": count,
            "of_bytes": round(mean),
            "in_a_request_about": min(1000, max(1, limit // round(mean + 100))),
            "documents_a_second": round(count / took),
        }
        cluster.ask("DELETE", f"/{index}_*")
        for store in stores:
            shutil.rmtree(store)
    figures(refresh_interval=refresh, uploaders=AT_ONCE, bulks=found)
