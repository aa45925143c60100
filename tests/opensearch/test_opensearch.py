# SPDX-License-Identifier: Apache-2.0
"""Records in real servers: each there, once, and found by what it holds."""

import json
import os
from pathlib import Path

import pytest
from cluster import SERVERS, Cluster
from harness import wait_until
from upload import begin, filled, huatuo, ids, target  # noqa: F401 (a fixture)


@pytest.fixture(scope="module", params=list(SERVERS))
def cluster(request):
    one = Cluster(request.param, Path(os.environ["HUATUO_SERVERS"]))
    try:
        yield one.start()
    finally:
        one.close()


def wait_there(cluster, one, index="huatuo*"):
    """All that is in the store is at the server, once."""

    def there():
        found = [hit["_id"] for hit in cluster.search(index=index, _source=False)["hits"]]
        return sorted(found) == sorted(ids(one))

    wait_until(there, 60, lambda: f"{len(ids(one))} records; {target(one)}", every=1)


@pytest.fixture
def clean(cluster):
    """No index of ours, and the template as `setup` makes it."""
    cluster.ask("DELETE", "/huatuo*")
    code, output, errors = huatuo("elasticsearch", "setup", "--set", f"elasticsearch.url={cluster.url}")
    assert "index template /_index_template/huatuo is installed" in output, errors
    assert code == 1 and "policy" in errors  # that archive has neither ILM nor ISM
    return cluster


def test_real_events(clean, agent):
    """--demo makes one of each kind happen; they can be searched for."""
    one = begin(agent, clean.url, "--demo", events="dropwatch,oom,softirq,memreclaim")
    wait_until(lambda: {"dropwatch", "oom"} <= {r["tracer_name"] for r in one.records()}, 60, "events")
    one.stop()
    wait_there(clean, one)
    hits = clean.search(sort=[{"time": "asc"}], fields=["time"])["hits"]
    assert [hit["sort"] for hit in hits] == sorted(hit["sort"] for hit in hits)
    for hit in hits:
        source = {**hit["_source"]}
        source.pop("es_index_time")
        assert source == json.loads(one.huatuo("show", hit["_id"], "--json").stdout)
        assert hit["_index"].endswith(source["time"][:10])
        assert "_cases_" in hit["_index"] if source["tracer_name"] in ("oom", "directreclaim") else "_cases_" not in hit["_index"]

    drop = next(r for r in one.records("dropwatch") if r["tracer_data"].get("saddr"))
    net = "::/0" if ":" in drop["tracer_data"]["saddr"] else drop["tracer_data"]["saddr"].rpartition(".")[0] + ".0/24"
    found = clean.search(query={"term": {"tracer_data.saddr": net}})["hits"]
    assert drop["tracer_id"] in [hit["_id"] for hit in found]
    word = drop["tracer_data"]["stack"].partition("/")[0]
    found = clean.search(query={"match": {"tracer_data.stack": word}})["hits"]
    assert drop["tracer_id"] in [hit["_id"] for hit in found]
    assert clean.search(query={"exists": {"field": "_ignored"}})["total"]["value"] == 0


def test_bad_among_a_thousand(clean, agent, filled):  # noqa: F811
    """A number that is an object in one record: that is refused, and the others are not."""

    def change(i, data):
        if i == 617:
            data["number"] = {"of": "another type"}

    one = begin(agent, clean.url, store=filled(1000, change).store)
    wait_until(lambda: target(one)["rejected"] == 1, 60, lambda: target(one))
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)) - 1, 60, lambda: target(one))
    (line,) = one.huatuo("list", "--rejected", "--json").stdout.decode().splitlines()
    rejected = json.loads(line)
    assert rejected["record"]["tracer_data"]["number"] == {"of": "another type"}
    assert rejected["reason"].startswith("400 mapper_parsing_exception: ")


def test_server_killed(clean, agent, filled):  # noqa: F811
    """In the middle of bulk requests, three times."""
    one = begin(agent, clean.url, store=filled(9000).store, batch_size="64KiB")
    for i in range(3):
        wait_until(lambda i=i: target(one)["uploaded"] > 2000 * (i + 1), 60, lambda: target(one))
        clean.kill()
        clean.start()
    wait_there(clean, one)
