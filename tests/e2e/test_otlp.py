# SPDX-License-Identifier: Apache-2.0
"""Records on their way to a receiver of OTLP/HTTP, which checks each request; alone, and beside another target."""

import json
import re
import time

import pytest
import upload
from elasticsearch import server  # noqa: F401 (a fixture)
from harness import patience, wait_until
from otlp import REQUEST, Wrong, receiver  # noqa: F401 (a fixture)
from upload import filled, huatuo, ids, rejected, stored_ids, wait_uploaded  # noqa: F401 (a fixture)

pytestmark = pytest.mark.host_only("nothing of it depends on the kernel")


def begin(agent, url, **options):
    return upload.begin(agent, url, section="otlp", **options)


def target(one, name="otlp"):
    return upload.target(one, name)


def flat(record, prefix=""):
    """A record as attributes."""
    found = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_receiver_is_strict():
    """What the tests of this file rest on."""
    log = {"timeUnixNano": "1", "observedTimeUnixNano": "2", "body": {"stringValue": "x"}}

    def request(log):
        return {"resourceLogs": [{"resource": {"attributes": []}, "scopeLogs": [{"scope": {}, "logRecords": [log]}]}]}

    REQUEST(request(log), "request")
    for change in (
        {"timeUnixNano": 1}, {"time_unix_nano": "1"}, {"severityNumber": "SEVERITY_NUMBER_WARN"}, {"body": "x"},
        {"body": {"intValue": 1}}, {"body": {"stringValue": "x", "intValue": "1"}}, {"timeUnixNano": "-1"},
        {"attributes": [{"key": "a"}]}, {"attributes": {"a": 1}}, {"attributes": [{"key": "", "value": {}}]},
        {"attributes": 2 * [{"key": "a", "value": {}}]}, {"body": {"kvlistValue": {"a": 1}}}, {"body": None},
    ):
        with pytest.raises(Wrong):
            REQUEST(request({**log, **change}), "request")
    with pytest.raises(Wrong):
        REQUEST({"resource_logs": []}, "request")


def test_records(agent, receiver):  # noqa: F811
    """Each record is one log, and nothing of it is missing."""
    otlp = receiver()
    one = begin(agent, otlp.url, agent__region="north", agent__hostname="node-7")
    wait_uploaded(one, otlp)
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 10, lambda: target(one))
    last = one.stop()
    records = [json.loads(line) for line in one.huatuo("list", "--json").stdout.decode().splitlines()]
    assert len(records) == 2  # the last one was sent at the end
    assert set(otlp.documents) == {record["tracer_id"] for record in records}
    for record in records:
        resource, log, attributes = otlp.documents[record["tracer_id"]]
        assert resource == {"service.name": "huatuo", "host.name": "node-7", "region": "north"}
        assert log["timeUnixNano"] == str(int(record["tracer_id"][:16], 16))
        assert log["body"] == {"stringValue": record["summary"]}
        assert (log["severityText"], log["severityNumber"]) == ("INFO", 9)
        assert log["eventName"] == "huatuo.coverage"
        assert 0 <= int(log["observedTimeUnixNano"]) - int(log["timeUnixNano"]) < 60 * 10**9
        assert attributes.pop("log.record.uid") == record["tracer_id"]
        elsewhere = ("hostname", "region", "summary", "time", "tracer_time", "uploaded_time")
        assert attributes == flat({key: value for key, value in record.items() if key not in elsewhere})
    state = last["targets"]["otlp"]
    assert (state["state"], state["problem"], state["warning"]) == ("ok", "", "")
    assert (state["uploaded"], state["rejected"], state["deleted"], state["retried"]) == (2, 0, 0, 0)
    assert list(last["targets"]) == ["otlp"]
    assert "otlp: ok, uploaded 2\n" in one.huatuo("status").stdout.decode()


@pytest.mark.parametrize("compress", ["true", "false"])
def test_many(filled, agent, receiver, compress):  # noqa: F811
    otlp = receiver()
    odd = {"text": 'ü "\\ \u2028', "list": [1, -2.5, True, None, {"a": {"b": []}}], "object": {"x y.z": {}}, "": 1}
    store = filled(2500, lambda i, data: data.update(odd if i % 100 == 0 else {})).store
    one = begin(agent, otlp.url, store=store, compress=compress)
    wait_uploaded(one, otlp)
    one.stop()
    assert max(otlp.arrivals.values()) == 1 and 500 <= otlp.largest <= 1000
    (found,) = [values for *_, values in otlp.documents.values() if values.get("tracer_data.number") == 300]
    assert found["tracer_data.text"] == odd["text"] and found["tracer_data.list"] == odd["list"]


def test_one_bad_among_a_thousand(filled, agent, receiver):  # noqa: F811
    """400 does not say which record it is for. It is found; the others arrive, once."""
    otlp = receiver()
    otlp.bad = lambda values: values.get("tracer_data.number") == 617
    one = begin(agent, otlp.url, store=filled(1000).store)
    wait_until(lambda: target(one)["rejected"] == 1, 30, lambda: target(one))
    (refused,) = rejected(one)
    assert refused["record"]["tracer_data"]["number"] == 617
    assert refused["target"] == "otlp" and refused["reason"] == "400: bad data"
    wait_uploaded(one, otlp, but=[refused["record"]["tracer_id"]])
    assert max(otlp.arrivals.values()) == 1 and len(otlp.times) < 40
    assert target(one)["state"] == "ok"
    otlp.bad = lambda values: False
    code, output, _ = huatuo("export", "--to", "otlp", "--store", one.store, "--set", f"otlp.url={otlp.url}")
    assert code == 0 and output == f"otlp has {len(ids(one))}\n"
    assert set(ids(one)) <= set(otlp.documents)


def test_partial_success(filled, agent, receiver):  # noqa: F811
    """It is not said which, and nothing is sent again: all of that request are shown as doubtful."""
    otlp = receiver()
    otlp.refuse = lambda values: values.get("tracer_data.number") in (3, 4)
    otlp.message = "too \x1b[31mold"
    one = begin(agent, otlp.url, store=filled(20).store)
    refused = rejected(one, 20)
    assert {found["reason"] for found in refused} == {
        f"2 of the {len(refused)} records of a request were refused, and not said which: too \x1b[31mold"
    }
    assert {3, 4} <= {found["record"]["tracer_data"].get("number") for found in refused}
    wait_until(lambda: set(otlp.arrivals) >= set(stored_ids(one)), 10, "all to be sent")
    one.stop()
    assert max(otlp.arrivals.values()) == 1
    state = one.status()["targets"]["otlp"]
    assert state["state"] == "ok" and state["uploaded"] + state["rejected"] == len(ids(one))


def test_all_refused(filled, agent, receiver):  # noqa: F811
    otlp = receiver()
    otlp.refuse = lambda values: True
    otlp.message = "not here"
    one = begin(agent, otlp.url, store=filled(5).store)
    assert {found["reason"] for found in rejected(one, 5)} == {"refused: not here"}


@pytest.mark.parametrize("status", [429, 502, 503, 504, 401, 404, 500])
def test_statuses(agent, receiver, status):  # noqa: F811
    """What the protocol calls transient, and what an operator can mend: nothing is given up."""
    otlp = receiver()
    otlp.status = status
    one = begin(agent, otlp.url)
    wait_until(lambda: f"status {status}: as the test wants" in target(one)["problem"], 10, lambda: target(one))
    otlp.status = None
    wait_uploaded(one, otlp)
    wait_until(lambda: target(one)["state"] == "ok", 10, lambda: target(one))
    assert target(one)["rejected"] == 0 and max(otlp.arrivals.values()) == 1


def test_retry_after(agent, receiver):  # noqa: F811
    otlp = receiver()
    otlp.status, otlp.headers = 503, {"Retry-After": "4"}
    one = begin(agent, otlp.url)
    wait_until(lambda: otlp.times, 10, "a request")
    otlp.status = None
    wait_until(lambda: len(otlp.times) >= 2, 20, "another")
    assert otlp.times[1] - otlp.times[0] >= 4
    wait_uploaded(one, otlp)


@pytest.mark.parametrize("answer", ["<html>login</html>", {"status": "ok"}, {"partialSuccess": {"rejectedLogRecords": "-1"}}])
def test_somebody_else_answers(agent, receiver, answer):  # noqa: F811
    otlp = receiver()
    otlp.answer = answer
    one = begin(agent, otlp.url)
    wait_until(lambda: "is not that of otlp" in target(one)["problem"], 10, lambda: target(one))
    assert target(one)["uploaded"] == 0
    otlp.answer = ""  # the empty message
    wait_until(lambda: target(one)["uploaded"] >= 1, 20, lambda: target(one))


def test_cut(filled, agent, receiver):  # noqa: F811
    """It is not known whether they arrived: they are sent again, under the same uid."""
    otlp = receiver()
    otlp.cut = 2
    one = begin(agent, otlp.url, store=filled(50).store)
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 30, lambda: target(one))
    assert max(otlp.arrivals.values()) == 3 and set(otlp.documents) == set(ids(one))


def test_one_target_down(filled, agent, receiver, server):  # noqa: F811
    """Two targets: each has what is in the store, however the other is."""
    otlp, elastic = receiver(), server()
    elastic.status = 503
    one = begin(agent, otlp.url, store=filled(1500).store, elasticsearch__url=elastic.url)
    wait_uploaded(one, otlp)
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 10, lambda: target(one))
    assert target(one)["state"] == "ok" and target(one)["retried"] == 0
    wait_until(lambda: target(one, "elasticsearch")["state"] == "failing", 10, lambda: target(one, "elasticsearch"))
    state = target(one, "elasticsearch")
    assert state["uploaded"] == 0 and state["oldest_not_uploaded_s"] >= 0
    text = one.huatuo("status").stdout.decode()
    assert re.search(r"^elasticsearch: failing", text, re.M) and re.search(r"^otlp: ok, uploaded", text, re.M)
    otlp.status, elastic.status = 503, None
    wait_until(lambda: set(elastic.documents) >= set(stored_ids(one)), 30, lambda: target(one, "elasticsearch"))
    one.stop()
    # The last record waits for that one alone.
    state = one.status()["targets"]
    assert state["elasticsearch"]["uploaded"] == len(ids(one)) == state["otlp"]["uploaded"] + 1
    otlp.status = None
    again = begin(agent, otlp.url, store=one.store, elasticsearch__url=elastic.url)
    wait_uploaded(again, otlp)
    again.stop()
    assert set(otlp.documents) == set(elastic.documents) == set(ids(again))
    assert max(otlp.arrivals.values()) == max(elastic.arrivals.values()) == 1


def test_one_target_hangs_at_the_end(agent, receiver, server):  # noqa: F811
    """The one that gives no answer takes nothing of the other's time to send what was written last."""
    otlp, elastic = receiver(), server()
    elastic.hang = 3600
    one = begin(agent, otlp.url, elasticsearch__url=elastic.url, flush_interval="1h")
    wait_until(lambda: elastic.requests, 10, "a request that hangs")
    assert not otlp.documents  # it still waits for others
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < patience(8)
    assert set(otlp.documents) == set(ids(one)) and len(ids(one)) == 2
