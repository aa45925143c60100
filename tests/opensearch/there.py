# SPDX-License-Identifier: Apache-2.0
"""Whether what is in a store is at a server, too."""

from harness import wait_until
from upload import huatuo, stored_ids, target

MINUTE = 60


def wait_there(cluster, one, index="huatuo*", but=(), timeout=2 * MINUTE):
    """All that is in the store is at the server, once; and there is something."""
    found = []

    def there():
        found[:] = cluster.document_ids(index)
        return found and sorted(found) == sorted(set(stored_ids(one)) - set(but))

    wait_until(there, timeout, lambda: f"{len(stored_ids(one))} records; there are {len(found)}; {target(one)}", every=1)


def indexed(cluster):
    """How many documents were created since the server's start, and how many not, as they were there already: at
    once, as nobody has to find them yet."""
    totals = cluster.ask("GET", "/huatuo*/_stats/indexing?filter_path=_all.primaries.indexing")
    totals = totals.get("_all", {}).get("primaries", {}).get("indexing", {})
    return totals.get("index_total", 0), totals.get("index_failed", 0)


def set_up(cluster, url=None, index="huatuo", **options):
    options = {"url": url or cluster.url, "index": index, **options}
    words = [word for key, value in options.items() for word in ("--set", f"elasticsearch.{key}={value}")]
    code, output, errors = huatuo("elasticsearch", "setup", *words)
    assert f"index template /_index_template/{index} is installed" in output, errors
    assert code == 1 and "policy" in errors  # that archive has neither ILM nor ISM
