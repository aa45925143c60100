# SPDX-License-Identifier: Apache-2.0
"""An agent that uploads, and a store that is full of records: for the tests with a server."""

import json
import os
import random
import sqlite3
import subprocess

import pytest
from harness import SANITIZER_REPORT, wait_until

KIND = "oom"  # it watches, and hardly ever has anything to say: records are those of its coverage


def begin(agent, url, *arguments, store=None, env=None, ready=True, events=KIND, section="elasticsearch", **options):
    """options: timeout="1s" is elasticsearch.timeout, store__max_size="1MiB" store.max_size."""
    options = {"url": url, "flush_interval": "20ms", **options}
    sets = {key.replace("__", ".") if "__" in key else f"{section}.{key}": value for key, value in options.items()}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    return agent("--events", events, *words, *arguments, store=store, env=env, ready=ready)


def target(one, name="elasticsearch"):
    return one.status()["targets"][name]


def ids(one):
    return [json.loads(line)["tracer_id"] for line in one.huatuo("list", "--json").stdout.decode().splitlines()]


def stored_ids(one):
    """The same, from the database itself: among thousands it is looked for many times."""
    db = sqlite3.connect(f"file:{one.store}/huatuo.db?mode=ro", uri=True)
    try:
        return [key for key, in db.execute("SELECT id FROM records ORDER BY seq")]
    finally:
        db.close()


def wait_uploaded(one, server, timeout=30, but=()):
    """Everything that is in the store is at the server, as it is in the store: at least that the agent has begun."""
    wait_until(
        lambda: (stored := set(stored_ids(one))) and set(server.documents) >= stored - set(but),
        timeout,
        lambda: f"{len(stored_ids(one))} records at the server, which has {len(server.documents)}; {one.status()['targets']}",
    )


def rejected(one, n=1):
    """Waits for what `list --rejected` says: it is counted when it is known, and written a moment later."""

    def lines():
        found = one.huatuo("list", "--rejected", "--json").stdout.decode().splitlines()
        return found if len(found) >= n else None

    return [json.loads(line) for line in wait_until(lines, 15, lambda: f"{n} refused records")]


@pytest.fixture
def filled(agent):
    """filled(n): a store in which n records are, without an agent. They differ in their ids and numbers.
    `change(i, data)` may change what is in `tracer_data` of the i-th; other arguments are fields of
    the record, functions of i."""

    def fill(n, change=lambda i, data: None, **envelope):
        one = agent("--events", KIND)
        one.stop()
        db = sqlite3.connect(one.store / "huatuo.db")
        seq, when, text = db.execute("SELECT seq, time, json FROM records").fetchone()
        record = json.loads(text)
        rows = []
        for i in range(n):
            key = f"{when + i:016x}{random.getrandbits(48):012x}"
            record.update(tracer_id=key, tracer_data={"number": i})
            record.update({name: of(i) for name, of in envelope.items()})
            change(i, record["tracer_data"])
            rows.append((key, when + i, record["tracer_name"], json.dumps(record, separators=(",", ":"))))
        first = db.execute("SELECT next_seq FROM state").fetchone()[0]
        db.executemany(
            f"INSERT INTO records(seq, id, time, tracer_name, json) VALUES({first} + ?, ?, ?, ?, ?)",
            [(i, *row) for i, row in enumerate(rows)],
        )
        db.execute(f"UPDATE state SET next_seq = next_seq + {n}, n_records = n_records + {n}, files_seq = next_seq + {n} - 1")
        db.commit()
        db.close()
        return one

    return fill


def huatuo(*words):
    binary = os.environ.get("HUATUO") or "build-test/huatuo"
    done = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, check=False)
    assert not SANITIZER_REPORT.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr
