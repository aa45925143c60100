# SPDX-License-Identifier: Apache-2.0
"""A guest: one of the kernels in QEMU, with the host's root file system below it and a shared folder."""

import contextlib
import lzma
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE.parents[1]
MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"]
# Emulation, so that it is the same wherever it runs. Without -cx16 the allocator of 6.12 can panic under it.
QEMU = ["qemu-system-x86_64", "-cpu", "max,-cx16", "-nographic", "-no-reboot", "-nodefaults"]
# Without no_timer_check a guest that is not given its turn in time takes its timer for broken.
# Nor its time stamp counter, without which its clocks count 4 ms at a time.
# With norandmaps a program is at the same addresses each time that it is run, and what QEMU has translated
# of it is used again: a fifth less CPU time, and tests that start programs take two thirds of theirs.
APPEND = "no_timer_check tsc=reliable norandmaps console=ttyS0 quiet panic=1 oops=panic mitigations=off"
PRODUCT = "huatuo test guest"  # without this name the fault module does not load


class GuestFailed(Exception):
    pass


def make_initrd(kernel, path):
    """Busybox, tests/vm/init, and the modules that it takes to see the host's files, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "bin").mkdir()
        (root / "modules").mkdir()
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        shutil.copy(HERE / "init", root / "init")
        (root / "init").chmod(0o755)
        files = []
        for module in MODULES:
            command = ["modprobe", "-d", kernel.folder / "image", "-S", kernel.version, "--show-depends", module]
            for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
                word, *rest = line.split()
                if word == "insmod" and rest[0] not in files:
                    files.append(rest[0])
        for n, file in enumerate(files):
            data = Path(file).read_bytes()
            if file.endswith(".xz"):
                data = lzma.decompress(data)
            (root / f"modules/{n:02}-{Path(file).name.partition('.')[0]}.ko").write_bytes(data)
        names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*")))
        with open(path, "wb") as out:
            subprocess.run(
                ["busybox", "cpio", "-o", "-H", "newc"],
                input=names.encode(), stdout=out, stderr=subprocess.DEVNULL, cwd=root, check=True,
            )  # fmt: skip


def stand_still(process, request):
    """The guest asks for it: `stop SECONDS`, by the monitor, or `freeze SECONDS`, as when its host is suspended.
    The file is gone when it is over."""
    how, seconds = request.read_text().split()
    if how == "stop":
        process.stdin.write(b"stop\n")
    else:
        process.send_signal(signal.SIGSTOP)
    time.sleep(float(seconds))
    if how == "stop":
        process.stdin.write(b"cont\n")
    else:
        process.send_signal(signal.SIGCONT)
    request.unlink()


def attend(process, shared, timeout):
    """Until it is over."""
    deadline = time.monotonic() + (timeout or float("inf"))
    while process.poll() is None:
        if (shared / "stand-still").exists():
            stand_still(process, shared / "stand-still")
        if time.monotonic() > deadline:
            raise GuestFailed(f"it was not over after {timeout} s")
        time.sleep(0.1)


def boot(kernel, shared, command, *, cgroup=2, append="", cpus=2, memory="1536M", product=PRODUCT, timeout=None, console=None):
    """Boots, runs the bash script `command` there, and waits until it is over. The guest's /shared is
    this folder. Its console goes to console.log there, or is ours. Returns the exit status of the command."""
    shared.mkdir(parents=True, exist_ok=True)
    (shared / "status").unlink(missing_ok=True)
    variables = {"TREE": TREE, "MODULES": kernel.modules, "CGROUP": cgroup}
    (shared / "environment").write_text("".join(f"{k}={shlex.quote(str(v))}\n" for k, v in variables.items()))
    (shared / "command").write_text(command)
    make_initrd(kernel, shared / "initrd")
    # With many CPUs, threads for all of them would wait for one another more than run.
    threads = "multi" if cpus <= os.cpu_count() else "single"
    serial = ["mon:stdio"] if console == "ours" else [f"file:{shared}/console.log", "-monitor", "stdio"]
    qemu = [
        *QEMU, "-accel", f"tcg,thread={threads}", "-smp", str(cpus), "-m", memory, "-smbios", f"type=1,product={product}", "-serial", *serial,
        "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
        "-fsdev", f"local,id=shared,path={shared},security_model=none",
        "-device", "virtio-9p-pci,fsdev=shared,mount_tag=shared",
        "-kernel", kernel.vmlinuz, "-initrd", shared / "initrd", "-append", f"{APPEND} {append}",
    ]  # fmt: skip
    streams = {} if console == "ours" else {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(qemu, bufsize=0, **streams) as process:
        try:
            attend(process, shared, timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            (shared / "initrd").unlink()
    if not (shared / "status").exists():
        raise GuestFailed("it ended before its command did: see console.log")
    return int((shared / "status").read_text())
