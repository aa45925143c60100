#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What watching costs on this machine: a hook's program a hit, the agent by itself.

docs/benchmarks.md says how it is measured and what the figures mean. `./dev bench` builds what is needed
and sets HUATUO (the agent) and HUATUO_TESTS (where bench and flood are).
"""

import argparse
import contextlib
import gzip
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/opensearch")]
import http_server  # noqa: E402
from cluster import Cluster, fetch  # noqa: E402

HOOKS_S = 75  # for all cases together, but at most CASE_S for one
CASE_S = 4
STARTS = 5
IDLE_S = 15
LOAD_S = 15
EVENTS_PER_S = 1000
STORED = 60000
READY_S = 30
SETTLE_S = 60
TRACEFS = "/sys/kernel/tracing"
UPLOADED = 100000
BEFORE_UPLOAD_S = 5  # in which an agent starts
UPLOAD_S = 3600
OWN_MOUNTS = str(ROOT / "tests/own-mounts.sh")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Failed(Exception):
    """Something could not be measured, or is not what it was taken for."""


# ---- the machine


def read(path, otherwise=""):
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return otherwise


def first_field(text, name):
    for line in text.splitlines():
        if line.partition(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""


def machine():
    cpu = read("/proc/cpuinfo")
    return {
        "kernel": f"{platform.release()} {platform.machine()}",
        "cpu": first_field(cpu, "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in first_field(cpu, "flags").split(),
        "memory_bytes": int((first_field(read("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) * 1024,
        "bpf_jit": read("/proc/sys/net/core/bpf_jit_enable", "unknown"),
        "load": os.getloadavg()[0],
    }


# ---- hooks


def bench(tests, *arguments):
    command = [str(tests / "bench/bench"), *map(str, arguments)]
    if not os.path.exists(f"{TRACEFS}/events"):  # a classic tracepoint's number is read there
        command = [OWN_MOUNTS, "sh", "-c", f'mount -t tracefs tracefs {TRACEFS}; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr.strip().removeprefix("bench: ") or f"bench {arguments} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def difference(samples, one, other):
    """What `one` costs over `other`: by the fastest batches of all, and by the median of what rounds say."""
    pairs = zip(samples[one]["median_ns"], samples[other]["median_ns"], strict=True)
    return {
        "min_ns": min(samples[one]["min_ns"]) - min(samples[other]["min_ns"]),
        "median_ns": statistics.median(a - b for a, b in pairs),
    }


def absolute(samples, name):
    return {"min_ns": min(samples[name]["min_ns"]), "median_ns": statistics.median(samples[name]["median_ns"])}


def figures(samples):
    ratio = absolute(samples, "ours")["min_ns"] / absolute(samples, "empty")["min_ns"]
    found = {
        "nothing": absolute(samples, "nothing"),
        "empty_over_nothing": difference(samples, "empty", "nothing"),
        "ours_over_empty": difference(samples, "ours", "empty"),
        "noise": difference(samples, "empty_again", "empty"),
        "ratio": ratio,
    }
    if "ours_read" in samples:
        found["ours_read_over_empty"] = difference(samples, "ours_read", "empty")
    return found


def hooks(tests, options):
    listed = [row for row in bench(tests, "list") if options.kind in (None, row["kind"])]
    wanted = [row for row in listed if "case" in row and (row["first"] or options.all_ways)]
    # Two ways may have a program in common.
    cases = list({(row["kind"], row["case"], row["section"]): row for row in reversed(wanted)}.values())[::-1]
    if not cases:
        raise Failed("there is nothing to measure; do the hooks load here (huatuo doctor)?")
    seconds = 0 if options.count else min(CASE_S, HOOKS_S / len(cases)) * options.scale
    for row in cases:
        say(f"{row['kind']} {row['case']}: {row['section']}")
        try:
            (result,) = bench(tests, "hook", row["kind"], row["case"], row["way"], seconds)
        except Failed as failure:
            say(failure)
            row["failed"] = str(failure)
            continue
        samples = result.pop("samples")
        row.update(result)
        if samples:
            row.update(figures(samples))
            if options.samples:
                row["samples"] = samples
    return cases, [row for row in listed if "not_measured" in row]


# ---- the agent


class Agent:
    """`huatuo run`, timed until it says that it is ready (sd_notify(3))."""

    def __init__(self, huatuo, folder, *settings, store=None, words=()):
        self.huatuo, self.store = str(huatuo), store or folder / f"store{time.monotonic_ns()}"
        self.log = open(folder / "log", "wb")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            path = str(folder / f"notify{time.monotonic_ns()}")
            notify.bind(path)
            notify.settimeout(READY_S)
            # No names: others' addresses would be asked for outside this machine.
            words = [*words, *(w for s in ("agent.resolve_names=false", *settings) for w in ("--set", s))]
            begin = time.monotonic()
            self.process = subprocess.Popen(
                [self.huatuo, "run", "--store", str(self.store), "--output", "none", *words],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                env={**os.environ, "NOTIFY_SOCKET": path},
            )
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
            except TimeoutError:
                self.stop()
                raise Failed(f"the agent was not ready within {READY_S} s: {read(folder / 'log')}") from None
            self.start_ms = (time.monotonic() - begin) * 1000
            self.start_cpu_ms = self.cpu_ns() / 1e6

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()

    def pids(self):
        children = read(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.split())]

    def cpu_ns(self, thread=None):
        """Of all threads that are alive, or those of a name: the kernel's ticks (/proc/PID/stat) are too coarse."""
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    if thread in (None, (task / "comm").read_text().strip()):
                        total += int((task / "schedstat").read_text().split()[0])
        return total

    def memory(self):
        """`pss`: what two processes share is counted half in each, so that it can be added."""
        sums = {"rss_bytes": 0, "pss_bytes": 0}
        for pid in self.pids():
            text = read(f"/proc/{pid}/smaps_rollup")
            for name in ("Rss", "Pss"):
                sums[f"{name.lower()}_bytes"] += int(first_field(text, name).split()[0]) * 1024
        return sums

    def peak_bytes(self):
        """The most memory that each of its processes has ever had, added."""
        return sum(int(first_field(read(f"/proc/{pid}/status"), "VmHWM").split()[0]) * 1024 for pid in self.pids())

    def status(self):
        done = subprocess.run(
            [self.huatuo, "status", "--json", "--store", str(self.store)], capture_output=True, check=True
        )
        return json.loads(done.stdout)

    def counts(self):
        return self.status()["events"]

    def settled(self):
        """The counts, once all that was seen is written: that is work for what happened before."""
        end = time.monotonic() + SETTLE_S
        while True:
            counts = self.counts()
            if not any(kind["unaccounted"] for kind in counts.values()):
                return counts
            if time.monotonic() > end:
                raise Failed(f"after {SETTLE_S} s the agent has not written what it has seen: {counts}")
            time.sleep(0.2)

    def while_doing(self, action):
        """CPU time and memory of the agent meanwhile, and what it has counted."""
        before, cpu, begin = self.counts(), self.cpu_ns(), time.monotonic()
        action()
        took = time.monotonic() - begin
        after = self.settled()
        cpu = self.cpu_ns() - cpu
        names = ("seen", "recorded", "suppressed", "filtered", "lost")
        counted = {n: sum(after[kind][n] - before[kind][n] for kind in after) for n in names}
        percent = cpu / took / 1e7
        return {"seconds": took, "cpu_percent": percent, "cpu_ns": cpu, **self.memory(), "events": counted}


def flood(tests, seconds, keys):
    """SYNs in a namespace of their own, dropped for their checksums. Keys: so many ports take turns."""
    numbers = ["1000", "20000", str(int(seconds * EVENTS_PER_S)), str(keys), str(EVENTS_PER_S)]
    command = 'ip link set lo up && exec "$@"'
    subprocess.run(
        ["unshare", "-n", "sh", "-c", command, "sh", str(tests / "flood"), "127.0.0.1", "127.0.0.1", *numbers],
        check=True,
        capture_output=True,
    )


def under_load(huatuo, tests, folder, seconds, what):
    """What became of the flood has to be what it is said to be, others' events aside."""
    keys, settings = {"recorded": (4000, ("dropwatch.repeat_limit=1000000",)), "suppressed": (1, ())}[what]
    sent = int(seconds * EVENTS_PER_S)

    with Agent(huatuo, folder, *settings) as one:
        found = one.while_doing(lambda: flood(tests, seconds, keys))
    if found["events"][what] < sent - sent // 100 - 10:  # the first ten of a key are recorded
        raise Failed(f"of {sent} events only some were {what}: {found['events']}")
    found["cpu_us_per_event"] = found["cpu_ns"] / 1000 / sent
    return found


def agent(huatuo, tests, options):
    idle_s, load_s = IDLE_S * options.scale, LOAD_S * options.scale
    with tempfile.TemporaryDirectory(prefix="huatuo-bench-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # an agent without privileges has to get through
        say("agent: start-up")
        starts, cpu = [], []
        for _ in range(max(1, int(STARTS * options.scale))):
            with Agent(huatuo, folder) as one:
                starts.append(one.start_ms)
                cpu.append(one.start_cpu_ms)
        say("agent: idle")
        with Agent(huatuo, folder) as one:
            idle = one.while_doing(lambda: time.sleep(idle_s))
        found = {
            "start_ms": {"min": min(starts), "median": statistics.median(starts)},
            "start_cpu_ms": {"min": min(cpu), "median": statistics.median(cpu)},
            "idle": idle,
        }
        for what in ("recorded", "suppressed"):
            say(f"agent: {EVENTS_PER_S} events/s, {what}")
            found[f"load_{what}"] = under_load(huatuo, tests, folder, load_s, what)
        say("agent: store")
        store = folder / "bench"
        store.mkdir()
        n = max(2000, int(STORED * options.scale))
        (found["store"],) = bench(tests, "records", "dropwatch", "recorded", store, n)
    return found


# ---- uploading


class Sink(http_server.Server):
    """Says of every document that it is stored, and does nothing but count them."""

    def __init__(self):
        self.documents = self.requests = self.bytes = 0
        super().__init__(Answer)


class Answer(http_server.Handler):
    def do_POST(self):
        body = self.body()
        self.server.bytes += len(body)
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        count = body.count(b"\n") // 2
        self.server.documents += count
        self.server.requests += 1
        self.answer(200, '{"errors":false,"items":[' + ",".join(['{"create":{"status":201}}'] * count) + "]}")

    def do_GET(self):
        self.answer(404, {})


def uploading(huatuo, folder, store, url, *settings):
    """An agent catches up with what is in a store; it begins when it has started and been looked at."""
    settings = (f"elasticsearch.url={url}", f"elasticsearch.flush_interval={BEFORE_UPLOAD_S}s", "store.max_size=1TiB", *settings)
    # The kind that says least.
    with Agent(huatuo, folder, *settings, store=store, words=("--events", "oom")) as one:

        def uploaded():
            return one.status()["targets"]["elasticsearch"]["uploaded"]

        cpu, thread, peak = one.cpu_ns(), one.cpu_ns("upload"), one.peak_bytes()
        if uploaded():
            raise Failed(f"the agent uploads before it can be looked at: it took longer than {BEFORE_UPLOAD_S} s to start")
        while not uploaded():
            time.sleep(0.05)
        began, first = time.monotonic(), uploaded()
        while one.status()["targets"]["elasticsearch"]["oldest_not_uploaded_s"]:
            if time.monotonic() > began + UPLOAD_S:
                raise Failed(f"after {UPLOAD_S} s not all is uploaded: {one.status()['targets']}")
            time.sleep(0.2)
        took, count = time.monotonic() - began, uploaded()
        return {
            "records": count,
            "per_second": (count - first) / took,
            "cpu_ns": (one.cpu_ns() - cpu) / count,
            "upload_thread_cpu_ns": (one.cpu_ns("upload") - thread) / count,
            "peak_rss_before_bytes": peak,
            "peak_rss_bytes": one.peak_bytes(),
        }


def upload(huatuo, tests, options):
    n = options.records or max(2000, int(UPLOADED * options.scale))
    found = {}
    with tempfile.TemporaryDirectory(prefix="huatuo-bench-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)

        def measure(what, url, *settings):
            store = folder / "upload"
            store.mkdir()
            say(f"upload: {n} records are made")
            bench(tests, "records", "dropwatch", "recorded", store, n)
            say(f"upload: {what}")
            found[what] = uploading(huatuo, folder, store, url, *settings)
            found[what]["store_bytes"] = sum(file.stat().st_size for file in store.glob("huatuo.db*"))
            shutil.rmtree(store)
            if found[what]["records"] < n:
                raise Failed(f"of {n} records {found[what]['records']} were uploaded")

        for what, compress in (("sink", "true"), ("sink, not compressed", "false")):
            sink = Sink()
            measure(what, sink.url, f"elasticsearch.compress={compress}")
            sink.close()
            found[what].update(requests=sink.requests, request_bytes=sink.bytes / sink.documents)
        if options.opensearch:
            servers = Path(os.environ["HUATUO_SERVERS"])
            fetch(servers)
            cluster = Cluster("opensearch", servers)
            try:
                cluster.start()
                words = ["--set", f"elasticsearch.url={cluster.url}"]
                subprocess.run([str(huatuo), "elasticsearch", "setup", *words], capture_output=True, check=False)
                cluster.ask("GET", "/_index_template/huatuo")  # there is no policy in that server
                measure(f"OpenSearch {cluster.version}", cluster.url)
                if cluster.search(size=0)["total"]["value"] < n:
                    raise Failed("not all records are in the index")
            finally:
                cluster.close()
    return found


# ---- what is printed


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        rest = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        print("  " + "  ".join(first + rest).rstrip())


def pair(value):
    return f"{round(value['min_ns'])} / {round(value['median_ns'])}"


def print_hooks(cases, omitted):
    print("\nns a hit, fastest / median. `nothing`: what provokes it costs with nothing attached; `empty`: what an")
    print("empty program adds; `ours`: what ours adds to that; `noise`: a second empty program against the first.")
    rows = [("program", "case", "nothing", "+ empty", "+ ours", "noise", "ours : empty", "hits")]
    for row in cases:
        name = row["section"] + ("" if row["used"] else " (*)")
        if "failed" in row:
            rows.append((name, row["case"], "failed", "", "", "", "", ""))
            continue
        hits = f"{row['counted']} of {row['claimed']}"
        if "nothing" not in row:
            rows.append((name, row["case"], "-", "-", "-", "-", "-", hits))
            continue
        common = (pair(row["nothing"]), pair(row["empty_over_nothing"]))
        rows.append(
            (name, row["case"], *common, pair(row["ours_over_empty"]), pair(row["noise"]), f"{row['ratio']:.2f}", hits)
        )
        if "ours_read_over_empty" in row:
            rows.append(("", "  and a reader woken", "", "", pair(row["ours_read_over_empty"]), "", "", ""))
    table(rows)
    if not all(row["used"] for row in cases):
        print("  (*) works here, but the agent prefers another")
    for row in omitted:
        print(f"  not measured: {row['kind']}: {row['section']}: {row['not_measured']}")


def print_agent(found):
    mib = 1024 * 1024

    def row(name, part):
        cpu = f"{part['cpu_percent']:.2f} %"
        each = f"{part['cpu_us_per_event']:.1f} µs" if "cpu_us_per_event" in part else ""
        memory = (f"{part['rss_bytes'] / mib:.1f}", f"{part['pss_bytes'] / mib:.1f}")
        return (name, str(part["events"]["seen"]), cpu, each, *memory)

    print("\nThe agent, both processes; CPU in percent of one.")
    table(
        [
            ("", "events", "CPU", "an event", "RSS MiB", "PSS MiB"),
            row("idle", found["idle"]),
            row(f"{EVENTS_PER_S}/s recorded", found["load_recorded"]),
            row(f"{EVENTS_PER_S}/s suppressed", found["load_suppressed"]),
        ]
    )
    store, start = found["store"], found["start_ms"]
    cpu = found["start_cpu_ms"]
    print(f"  ready after {start['min']:.0f} ms at best, {start['median']:.0f} ms by the median; ", end="")
    print(f"of CPU time {cpu['min']:.0f} and {cpu['median']:.0f} ms")
    print(f"  a record of {store['record_bytes']:.0f} bytes is made in {store['decode_ns'] / 1000:.1f} µs; ", end="")
    print(f"{store['per_second']:.0f} records/s are made and committed, ", end="")
    print(f"{store['cpu_ns'] / 1000:.1f} µs of CPU time for each")


def print_upload(found):
    mib = 1024 * 1024
    print("\nFrom a full store to a server; CPU time and memory are the agent's, both processes.")
    rows = [("to", "records", "records/s", "CPU a record", "of it uploading", "peak RSS MiB before", "and after", "store MiB")]
    for what, part in found.items():
        rows.append(
            (
                what,
                str(part["records"]),
                f"{part['per_second']:.0f}",
                f"{part['cpu_ns'] / 1000:.1f} µs",
                f"{part['upload_thread_cpu_ns'] / 1000:.1f} µs",
                f"{part['peak_rss_before_bytes'] / mib:.1f}",
                f"{part['peak_rss_bytes'] / mib:.1f}",
                f"{part['store_bytes'] / mib:.0f}",
            )
        )
    table(rows)
    for what, part in found.items():
        if "requests" in part:
            print(f"  {what}: {part['requests']} requests, {part['request_bytes']:.0f} bytes a record")


def main():
    parser = argparse.ArgumentParser(prog="./dev bench", description="What watching costs on this machine.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--kind", help="the hooks of this kind of event only")
    parser.add_argument("--all-ways", action="store_true", help="all ways to a hook that work here, not just the first")
    parser.add_argument("--only", choices=("hooks", "agent", "upload"), help="one part")
    parser.add_argument("--scale", type=float, default=1, help="0.1: a tenth of the time; default 1, about 3 minutes")
    parser.add_argument("--count", action="store_true", help="only compare claimed with counted hits; measures nothing")
    parser.add_argument("--opensearch", action="store_true", help="upload to a real one, too: downloads it (110 MB, once)")
    parser.add_argument("--records", type=int, help=f"how many are uploaded; default {UPLOADED}")
    parser.add_argument("--samples", action="store_true", help="with --json: each round's figures, too")
    parser.add_argument("--folder", default="/var/tmp", help="on whose disk the store is measured")
    options = parser.parse_args()
    huatuo, tests = Path(os.environ["HUATUO"]), Path(os.environ["HUATUO_TESTS"])

    if os.geteuid() != 0:
        say("only root can load BPF programs; run it as root")
        return 1
    found = {"machine": machine()}
    try:
        if options.only in (None, "hooks"):
            found["hooks"], found["not_measured"] = hooks(tests, options)
        if options.only in (None, "agent") and not options.count:
            found["agent"] = agent(huatuo, tests, options)
        if options.only in (None, "upload") and not options.count:
            found["upload"] = upload(huatuo, tests, options)
    except Failed as failure:
        say(failure)
        return 1
    failed = any("failed" in row for row in found.get("hooks", ()))
    found["machine"]["load_at_the_end"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(found))
        return failed
    here = found["machine"]
    where = "a virtual machine" if here["virtual"] else "no virtual machine"
    print(f"{here['cpu']}, {here['cpus']} CPUs, {where}, Linux {here['kernel']}, ", end="")
    print(f"load {here['load']:.1f} before and {here['load_at_the_end']:.1f} after")
    if "hooks" in found:
        print_hooks(found["hooks"], found["not_measured"])
    if "agent" in found:
        print_agent(found["agent"])
    if "upload" in found:
        print_upload(found["upload"])
    return failed


if __name__ == "__main__":
    sys.exit(main())
