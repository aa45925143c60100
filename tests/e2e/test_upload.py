# SPDX-License-Identifier: Apache-2.0
"""Records on their way to Elasticsearch, with a server that misbehaves: each arrives, and is there once."""

import json
import os
import random
import re
import shutil
import ssl
import time
from pathlib import Path

import pytest
from disk import disk, full  # noqa: F401 (a fixture)
from harness import SANITIZER_OPTIONS, patience, wait_until
from elasticsearch import certificate, server  # noqa: F401 (fixtures)
from upload import KIND, begin, filled, huatuo, ids, rejected, target, wait_uploaded  # noqa: F401 (a fixture)

pytestmark = pytest.mark.host_only("nothing of it depends on the kernel")


def test_documents(agent, server):  # noqa: F811
    """Every record is a document, in the index of its day, with its id, as it is in the store."""
    elastic = server()
    one = begin(agent, elastic.url)
    wait_uploaded(one, elastic)
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 10, lambda: target(one))
    last = one.stop()
    records = [json.loads(line) for line in one.huatuo("list", "--json").stdout.decode().splitlines()]
    assert len(records) == 2  # the last one was sent at the end
    for record in records:
        index = "huatuo_" + record["time"].partition(" ")[0]
        document = elastic.indices[index][record["tracer_id"]]
        assert abs(document.pop("es_index_time") / 1000 - time.time()) < 600
        assert document == record
    assert list(elastic.indices) == [index]
    state = last["targets"]["elasticsearch"]
    assert (state["uploaded"], state["rejected"], state["deleted"], state["retried"]) == (2, 0, 0, 0)
    assert state["oldest_not_uploaded_s"] == 0 and state["state"] == "ok" and state["problem"] == ""
    assert max(elastic.arrivals.values()) == 1
    text = one.huatuo("status").stdout.decode()
    assert "elasticsearch: ok, uploaded 2\n" in text


def test_datastream(agent, server):  # noqa: F811
    elastic = server()
    one = begin(agent, elastic.url, mode="datastream", index="fleet", compress="false")
    wait_uploaded(one, elastic)
    assert list(elastic.indices) == ["fleet"]
    for document in elastic.documents.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}([+-]\d\d:\d\d|Z)", document["@timestamp"])


def test_without(agent):
    """Nobody uploads who has not been told where to."""
    one = agent("--events", KIND)
    assert one.status()["targets"] == {}
    threads = [open(f"/proc/{one.proper()}/task/{t}/comm").read().strip() for t in os.listdir(f"/proc/{one.proper()}/task")]
    assert "store" in threads and "upload" not in threads


def test_down_at_start(agent, server):  # noqa: F811
    first = server()
    port = first.port
    first.close()
    one = begin(agent, first.url)
    wait_until(lambda: target(one)["state"] == "failing", 10, "a failure")
    state = target(one)
    assert "does the server run" in state["problem"] and state["url"] == first.url
    wait_until(lambda: target(one)["oldest_not_uploaded_s"] >= 1, 10, "a record that waits")
    assert one.stderr.count("uploading to elasticsearch at") == 1  # it does not say it each time
    text = one.huatuo("status").stdout.decode()
    assert "elasticsearch: failing" in text and "the oldest waits for" in text
    elastic = server(port=port)
    wait_uploaded(one, elastic)
    wait_until(lambda: "works again" in one.stderr, 10, "a line that says so")
    wait_until(lambda: target(one)["state"] == "ok", 10, "its recovery")


def test_goes_on_after_restart(agent, server):  # noqa: F811
    """The cursor is the store's: what was there is not sent again, what came meanwhile is."""
    elastic = server()
    one = begin(agent, elastic.url)
    wait_uploaded(one, elastic)
    one.stop()
    without = agent("--events", KIND, store=one.store)
    without.stop()
    third = begin(agent, elastic.url, store=one.store)
    wait_uploaded(third, elastic)
    third.stop()
    assert set(elastic.documents) == set(ids(third)) and len(ids(third)) == 6
    assert max(elastic.arrivals.values()) == 1


def test_reload(agent, server, tmp_path):  # noqa: F811
    """SIGHUP: another server, from the place where the agent before was."""
    first, second = server(), server()
    config = tmp_path / "huatuo.yaml"
    config.write_text(f"elasticsearch:\n  url: {first.url}\n  flush_interval: 20ms\n")
    one = agent("--events", KIND, "--config", str(config))
    wait_uploaded(one, first)
    config.write_text(f"elasticsearch:\n  url: {second.url}\n  flush_interval: 20ms\noom:\n  repeat_keys: 32\n")
    one.reload()
    assert target(one)["url"] == second.url
    one.stop()
    assert set(first.documents) | set(second.documents) == set(ids(one))
    assert not set(first.documents) & set(second.documents)


def test_many(filled, agent, server):  # noqa: F811
    elastic = server()
    one = begin(agent, elastic.url, store=filled(3000).store)
    wait_uploaded(one, elastic)
    one.stop()
    assert max(elastic.arrivals.values()) == 1
    assert 500 <= elastic.largest <= 1000


def test_one_bad_among_a_thousand(filled, agent, server):  # noqa: F811
    elastic = server()
    reason = "failed to parse field [number]: \x1b[31m\"617\""
    elastic.bad = lambda document: reason if document["tracer_data"].get("number") == 617 else None
    one = begin(agent, elastic.url, store=filled(1000).store)
    wait_until(lambda: target(one)["rejected"] == 1, 30, lambda: target(one))
    (bad,) = [r["tracer_id"] for r in one.records("coverage") if r["tracer_data"].get("number") == 617]
    wait_uploaded(one, elastic, but=[bad])
    assert bad not in elastic.documents
    assert elastic.arrivals[bad] == 1  # it is not tried again
    # The server has them a moment before the agent has read its answer.
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)) - 1, 10, lambda: target(one))
    assert target(one)["state"] == "ok"
    (refused,) = rejected(one)
    assert refused["record"]["tracer_id"] == bad and refused["target"] == "elasticsearch"
    assert refused["reason"] == f"400 mapper_parsing_exception: {reason}"
    text = one.huatuo("list", "--rejected").stdout.decode()
    assert "refused by elasticsearch, 20" in text and "\\x1b[31m" in text and "\x1b[31m" not in text
    assert "huatuo list --rejected" in one.huatuo("status").stdout.decode()


def test_busy(filled, agent, server):  # noqa: F811
    """429 for each document, twice."""
    elastic = server()
    elastic.busy = 2
    one = begin(agent, elastic.url, store=filled(50).store)
    wait_uploaded(one, elastic)
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 10, lambda: target(one))
    assert target(one)["rejected"] == 0
    assert target(one)["retried"] >= 100


def test_cut(filled, agent, server):  # noqa: F811
    """A proxy that leaves off in the middle of the answer: sent again, there once."""
    elastic = server()
    elastic.cut = 3
    one = begin(agent, elastic.url, store=filled(50).store)
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 30, lambda: target(one))
    wait_uploaded(one, elastic)
    assert max(elastic.arrivals.values()) == 4


def test_hangs(agent, server):  # noqa: F811
    """No answer at all. Recording goes on, and so does the end of the agent."""
    elastic = server()
    elastic.hang = 3600
    one = begin(agent, elastic.url, timeout="1s")
    wait_until(lambda: "timed out" in target(one)["problem"], 15, lambda: target(one))
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < patience(8)
    assert len(ids(one)) == 2


def test_too_large(filled, agent, server):  # noqa: F811
    elastic = server()
    elastic.max_bytes = 20_000
    one = begin(agent, elastic.url, store=filled(500).store, compress="false")
    wait_uploaded(one, elastic)
    assert target(one)["rejected"] == 0 and elastic.largest < 50
    assert target(one)["state"] == "ok"


def test_wrong_password(agent, server, tmp_path):  # noqa: F811
    elastic = server()
    elastic.user = ("huatuo", "geheim-1")
    password = tmp_path / "password"
    password.write_text("geheim-2\n")
    password.chmod(0o600)  # root reads it
    one = begin(agent, elastic.url, username="huatuo", password_file=password)
    wait_until(lambda: target(one)["state"] == "failing", 10, "a failure")
    assert "status 401: unable to authenticate user; the user, the password" in target(one)["problem"]
    password.write_text("geheim-1\n")
    one.reload()
    wait_uploaded(one, elastic)
    assert "geheim" not in one.stderr + json.dumps(one.status())
    shown = one.huatuo("status").stdout.decode()
    assert "geheim" not in shown
    for process in one.processes():
        assert b"geheim" not in open(f"/proc/{process}/cmdline", "rb").read()


def test_secret_of_environment(agent, server):  # noqa: F811
    elastic = server()
    elastic.user = ("huatuo", "geheim-3")
    one = begin(agent, elastic.url, username="huatuo", env={"HUATUO_ELASTICSEARCH_PASSWORD": "geheim-3"})
    wait_uploaded(one, elastic)


def test_password_in_url(tmp_path):
    config = tmp_path / "huatuo.yaml"
    config.write_text("elasticsearch:\n  url: https://elastic:geheim@example.org:9200\n")
    code, _, errors = huatuo("config", "check", config)
    assert code == 1 and "password_file" in errors and "geheim" not in errors


def test_tls(agent, server, certificate):  # noqa: F811
    ours, context = certificate("ours")
    other, _ = certificate("other")
    elastic = server(context=context)
    one = begin(agent, elastic.url, ca_file=other["ca"])
    wait_until(lambda: target(one)["state"] == "failing", 10, "a failure")
    assert "certificate must be valid and come from a CA of ca_file" in target(one)["problem"]
    one.stop()
    assert not elastic.requests
    right = begin(agent, elastic.url, ca_file=ours["ca"], store=one.store)
    wait_uploaded(right, elastic)
    right.stop()
    unchecked = begin(agent, elastic.url, tls_verify="none", store=one.store)
    wait_uploaded(unchecked, elastic)


def test_expired_certificate(agent, server, certificate):  # noqa: F811
    expired, context = certificate("expired", days=0)
    elastic = server(context=context)
    one = begin(agent, elastic.url, ca_file=expired["ca"])
    wait_until(lambda: "expired" in target(one)["problem"], 10, lambda: target(one))
    assert not elastic.requests and "certificate has expired" in one.stderr


def test_client_certificate(agent, server, certificate):  # noqa: F811
    ours, context = certificate("ours")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ours["ca"])
    elastic = server(context=context)
    one = begin(agent, elastic.url, ca_file=ours["ca"])
    wait_until(lambda: target(one)["state"] == "failing", 10, "a failure")
    one.stop()
    assert not elastic.requests
    with_one = begin(agent, elastic.url, ca_file=ours["ca"], cert_file=ours["cert"], key_file=ours["key"], store=one.store)
    wait_uploaded(with_one, elastic)


def test_own_traffic(agent, server):  # noqa: F811
    """What the agent sends to a server that is not there is dropped, and is no event."""
    closed = server()
    closed.close()
    one = agent("--events", "dropwatch", "--set", f"elasticsearch.url={closed.url}", "--set", "elasticsearch.flush_interval=10ms")
    wait_until(lambda: one.status()["events"]["dropwatch"]["filtered_by"]["own"] >= 3, 30, lambda: one.status()["events"])
    ports = [(r["tracer_data"]["sport"], r["tracer_data"]["dport"]) for r in one.records("dropwatch")]
    assert not [pair for pair in ports if closed.port in pair]


def test_failover(agent, server):  # noqa: F811
    first, second = server(), server()
    first.close()
    one = begin(agent, f"{first.url},{second.url}")
    wait_uploaded(one, second)
    assert target(one)["url"] == second.url and target(one)["state"] == "ok"


def test_unprivileged(agent, server):  # noqa: F811
    """It is the agent proper that talks to the server, without rights, and not the root part."""
    elastic = server()
    elastic.hang = 1
    one = begin(agent, elastic.url)
    wait_until(lambda: elastic.requests, 10, "a request")
    tasks = os.listdir(f"/proc/{one.proper()}/task")
    threads = {open(f"/proc/{one.proper()}/task/{t}/comm").read().strip(): t for t in tasks}
    status = open(f"/proc/{one.proper()}/task/{threads['upload']}/status").read()
    assert re.search(r"^CapEff:\s*0+$", status, re.M) and re.search(r"^Seccomp:\s*2$", status, re.M)
    assert not re.search(r"^Uid:\s*0", status, re.M)


@pytest.mark.parametrize("flavour", ["elasticsearch", "opensearch"])
def test_setup(agent, server, flavour):  # noqa: F811
    """The index template and the policy, for either; then nothing is to be warned of."""
    elastic = server()
    elastic.version = {"distribution": "opensearch"} if flavour == "opensearch" else {}
    policy = {"elasticsearch": "/_ilm/policy/huatuo", "opensearch": "/_plugins/_ism/policies/huatuo"}[flavour]
    one = begin(agent, elastic.url)
    wait_until(lambda: "huatuo elasticsearch setup" in target(one)["warning"], 10, "a warning")
    wait_uploaded(one, elastic)
    assert target(one)["state"] == "ok" and "there is no index template huatuo" in one.stderr
    one.stop()

    words = ["elasticsearch", "setup", "--set", f"elasticsearch.url={elastic.url}", "--set", "elasticsearch.retain=9d"]
    for _ in range(2):  # and again, after an update
        code, output, errors = huatuo(*words)
        assert code == 0 and not errors
        assert f"policy {policy} is installed" in output and "index template /_index_template/huatuo" in output
    if flavour == "opensearch":
        assert ("PUT", policy + "?if_seq_no=7&if_primary_term=1") in elastic.requests
    assert sorted(elastic.others) == sorted([policy, "/_index_template/huatuo"])
    assert '"9d"' in json.dumps(elastic.others[policy])
    printed = huatuo(*words, "--print", flavour)[1].split("\n\n")
    for text in printed:
        first, _, body = text.partition("\n")
        assert elastic.others[first.removeprefix("PUT ")] == json.loads(body)

    again = begin(agent, elastic.url, store=one.store)
    wait_until(lambda: ("GET", "/_index_template/huatuo") in elastic.requests[-4:], 10, "a look at the template")
    again.stop()
    assert again.status()["targets"]["elasticsearch"]["warning"] == ""


def test_setup_fails(server, tmp_path):  # noqa: F811
    elastic = server()
    words = ["elasticsearch", "setup", "--set", f"elasticsearch.url={elastic.url}"]
    elastic.forbidden = "_ilm"
    code, output, errors = huatuo(*words)
    assert code == 1 and "ILM policy /_ilm/policy/huatuo failed with status 403: not for you" in errors
    settings = elastic.others["/_index_template/huatuo"]["template"]["settings"]
    assert "index.lifecycle.name" not in settings  # which would name what is not there
    elastic.user = ("admin", "geheim")
    code, output, errors = huatuo(*words)
    assert code == 1 and not output and "status 401" in errors
    elastic.close()
    code, output, errors = huatuo(*words)
    assert code == 1 and not output and "does the server run" in errors
    code, _, errors = huatuo("elasticsearch", "setup", "--config", tmp_path / "nowhere")
    assert code == 1 and "cannot be read" in errors
    (tmp_path / "empty").write_text("")
    code, _, errors = huatuo("elasticsearch", "setup", "--config", tmp_path / "empty")
    assert code == 1 and "elasticsearch.url is not set" in errors
    for wrong in (["elasticsearch"], ["elasticsearch", "install"], ["elasticsearch", "setup", "--print", "x"]):
        assert huatuo(*wrong)[0] == 2


def test_retention(filled, agent, server):  # noqa: F811
    """What has to go before the server is back is counted and said."""
    elastic = server()
    elastic.status = 503
    before = filled(500, lambda i, data: data.update(text="x" * 4000))
    one = begin(agent, elastic.url, store=before.store, store__max_size="1MiB")
    wait_until(lambda: target(one)["deleted"] > 100, 30, lambda: target(one))
    assert "records had to be deleted" in one.stderr
    elastic.status = None
    wait_uploaded(one, elastic)
    deleted = target(one)["deleted"]
    one.stop()
    state = one.status()["targets"]["elasticsearch"]
    assert state["deleted"] == deleted
    assert state["uploaded"] + state["deleted"] == 500 + 4
    assert "deleted before they were uploaded" in one.huatuo("status").stdout.decode()


def peak_bytes(pid):
    """The most memory that it has ever had."""
    return int(re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)[1]) * 1024


def test_down_holds_nothing(filled, agent, server):  # noqa: F811
    """What waits for a server is in the store and not in memory, while it is down and when it is back."""
    elastic = server()
    elastic.status = 503
    store = filled(25_000, lambda i, data: data.update(text="x" * 4000)).store
    # Address sanitizer keeps what was freed for a while; not here, where it would be counted.
    env = {"ASAN_OPTIONS": SANITIZER_OPTIONS["ASAN_OPTIONS"] + ":quarantine_size_mb=1"}
    one = agent("--events", KIND, store=store, env=env)
    without = peak_bytes(one.proper())
    one.stop()
    one = begin(agent, elastic.url, store=store, env=env)
    wait_until(lambda: len(elastic.requests) >= 4, 30, "some attempts")
    elastic.status = None
    wait_uploaded(one, elastic, timeout=90)
    assert peak_bytes(one.proper()) - without < 40 << 20  # of 100 MB
    assert target(one)["deleted"] == 0


def test_full_disk(disk, filled, agent, server):  # noqa: F811
    """What the disk has is uploaded although it is full. How far the server has got is not kept then, nor what
    it refused: if the agent is killed, that is found out once more. Afterwards all is right."""
    elastic = server()
    elastic.bad = lambda document: "no " * 300 if document["tracer_data"].get("number", 1) % 2 == 0 else None
    elastic.status = 503
    at = disk(16, block_bytes=4096)
    shutil.copytree(filled(3000).store, at, ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True)
    one = begin(agent, elastic.url, store=at)
    wait_until(lambda: target(one)["state"] == "failing", 10, "a failure")

    def full_disk():
        state = wait_until(lambda: (s := one.status()["store"])["problem"] and s, 15, "what is said of the disk")
        return "the disk is full" in state["problem"] and state["writing"] is False

    with full(at):
        elastic.status = None
        wait_until(lambda: len(elastic.arrivals) >= 3000, 30, lambda: target(one))
        assert full_disk(), one.status()["store"]
        one.kill(one.proper())
        one = begin(agent, elastic.url, store=at)
        assert full_disk(), one.status()["store"]
    wait_until(lambda: one.status()["store"]["writing"], 15, lambda: one.status()["store"])
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)) - 1500, 30, lambda: target(one))
    assert sum(n >= 2 for n in elastic.arrivals.values()) >= 3000
    state = target(one)
    assert (state["rejected"], state["deleted"], state["state"]) == (1500, 0, "ok")
    refused = [row["record"]["tracer_id"] for row in rejected(one, 1500)]
    assert len(refused) == 1500 and set(elastic.documents) == set(ids(one)) - set(refused)


@pytest.mark.long
def test_killed_while_uploading(filled, agent, server):  # noqa: F811
    """kill -9 at any moment: at the end each record is there once."""
    elastic = server()
    elastic.hang = 0.02  # or all would be there before it is killed
    store = filled(4000).store
    for _ in range(8):
        one = begin(agent, elastic.url, store=store, batch_size="16KiB")
        proper, enough = one.proper(), len(elastic.documents) + random.randrange(1, 200)
        wait_until(lambda: len(elastic.documents) >= enough, 30, "some to be sent", every=0.005)
        one.kill(proper)
    assert len(elastic.documents) < 4000
    last = begin(agent, elastic.url, store=store)
    wait_uploaded(last, elastic)
    last.stop()
    assert set(elastic.documents) == set(ids(last))
    state = last.status()["targets"]["elasticsearch"]
    assert state["uploaded"] == len(ids(last)) and state["rejected"] == state["deleted"] == 0
