# SPDX-License-Identifier: Apache-2.0
"""Whether what is in a store is at a server, too."""

from harness import wait_until
from upload import huatuo, stored_ids, target

MINUTE = 60


def wait_there(cluster, one, index="huatuo*", but=()):
    """All that is in the store is at the server, once; and there is something."""
    found = []

    def there():
        # A document that is there twice is in two indices.
        found[:] = [hit["_id"] for hit in cluster.search(index=index, _source=False)["hits"]]
        return found and sorted(found) == sorted(set(stored_ids(one)) - set(but))

    wait_until(there, 2 * MINUTE, lambda: f"{len(stored_ids(one))} records; there are {len(found)}; {target(one)}", every=1)


def set_up(cluster, url=None, index="huatuo", **options):
    options = {"url": url or cluster.url, "index": index, **options}
    words = [word for key, value in options.items() for word in ("--set", f"elasticsearch.{key}={value}")]
    code, output, errors = huatuo("elasticsearch", "setup", *words)
    assert f"index template /_index_template/{index} is installed" in output, errors
    assert code == 1 and "policy" in errors  # that archive has neither ILM nor ISM
