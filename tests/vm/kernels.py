# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels: fetched by apt, unpacked, kept outside of the tree.

apt runs with a configuration of its own (lists, cache, no installed packages), so the system's is not
touched; which mirror, and how to get there, is what the system's apt is configured for.
"""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

# Suites are Debian's; of several the newest version is taken.
SUITES = {
    "5.10": ["bullseye", "bullseye-security"],
    "6.1": ["bookworm", "bookworm-security"],
    "6.12": ["trixie", "trixie-security"],
    "sid": ["sid"],
}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Newest kernels are spread over several packages.
OF_THE_KERNEL = re.compile(r"linux-(image|binary|modules|base)-\d")
OWN_MOUNTS = Path(__file__).parents[1] / "own-mounts.sh"
# What it takes to build a module, beside the kernel's headers, with the compiler that built the kernel.
TOOLS = ["make", "dash", "bash", "sed", "grep", "mawk", "coreutils", "findutils", "diffutils"]
FRESH_S = 24 * 3600
APT_CONF = """\
Dir::Etc::SourceList "{apt}/sources.list";
Dir::Etc::SourceParts "{apt}/none";
Dir::State::Lists "{apt}/lists";
Dir::State::Status "{apt}/status";
Dir::Cache "{apt}/cache";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"""


class CannotFetch(Exception):
    pass


def cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huatuo/kernels"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise CannotFetch(f"`{' '.join(map(str, command))}` failed: {said[-400:]}")
    return done.stdout


def mirrors():
    """Where the system gets (its release, what is fixed in it) from."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if not codename or not shutil.which("apt-get"):
        raise CannotFetch("kernels are fetched by Debian's apt-get, which is not here")
    # Unlike `apt-get indextargets` this does not need lists that were fetched before.
    uris = re.findall(r"^'(\S+)/dists/(\S+)/InRelease'", run("apt-get", "--print-uris", "update"), re.M)
    found = {release: uri for uri, release in reversed(uris)}
    if codename not in found:
        raise CannotFetch(f"apt's sources (/etc/apt/sources.list, sources.list.d) do not name {codename}")
    return found[codename], found.get(f"{codename}-security")


class Kernel:
    """A kernel of Debian's, unpacked in its folder of the cache."""

    def __init__(self, name):
        self.name, self.folder = name, cache() / name
        self.apt = self.folder / "apt"

    @property
    def version(self):
        """As uname -r says it."""
        (folder,) = (self.folder / "image/lib/modules").iterdir()
        return folder.name

    @property
    def vmlinuz(self):
        for path in (f"image/boot/vmlinuz-{self.version}", f"image/lib/modules/{self.version}/vmlinuz"):
            if (self.folder / path).is_file():
                return self.folder / path
        raise CannotFetch(f"there is no vmlinuz for {self.version} in {self.folder}/image")

    @property
    def modules(self):
        return self.folder / "image/lib/modules" / self.version

    def fetch(self):
        """Sees to it that the newest of its suites is here, and what it takes to build modules for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stamp = self.folder / "fetched"
            if stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH_S:
                return self
            self.configure_apt()
            self.apt_get("update", "-o", "APT::Update::Error-Mode=any")
            kernel = [p for p in self.depends_of("linux-image-amd64") if OF_THE_KERNEL.match(p[0])]
            if not kernel:
                raise CannotFetch(f"linux-image-amd64 of {SUITES[self.name]} depends on no kernel")
            self.unpack("image", kernel)
            self.unpack("build", self.depends_of("linux-headers-amd64", *TOOLS))
            run("depmod", "-b", self.folder / "image", self.version)
            shutil.rmtree(self.apt / "cache")
            stamp.touch()
        return self

    def build_module(self, source, target):
        """Builds the one module of the folder `source`, with the compiler that built the kernel, in a root of
        its own; leaves NAME.ko in `target`."""
        root = self.folder / "build"
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(root / "module", ignore_errors=True)
            shutil.copytree(source, root / "module")
            for folder in ("dev", "proc"):
                (root / folder).mkdir(exist_ok=True)
            if not (root / "usr/bin/awk").is_symlink():  # an installation would have made it
                (root / "usr/bin/awk").symlink_to("mawk")
            inside = 'for f in dev proc; do mount --rbind /$f "$0/$f" || exit; done; exec chroot "$0" "$@"'
            make = ("make", "-C", f"/usr/src/linux-headers-{self.version}", "M=/module", "modules")
            run(OWN_MOUNTS, "sh", "-c", inside, root, *make)
            for module in (root / "module").glob("*.ko"):
                shutil.copy(module, target)

    def configure_apt(self):
        main, security = mirrors()
        for folder in ("none", "lists/partial", "cache/archives/partial"):
            (self.apt / folder).mkdir(parents=True, exist_ok=True)
        (self.apt / "status").touch()
        (self.apt / "apt.conf").write_text(APT_CONF.format(apt=self.apt))
        lines = []
        for suite in SUITES[self.name]:
            mirror = security if suite.endswith("-security") else main
            if mirror:  # its release alone will do
                lines.append(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        (self.apt / "sources.list").write_text("".join(lines))

    def apt_get(self, *arguments, **options):
        environment = {**os.environ, "APT_CONFIG": str(self.apt / "apt.conf"), "LC_ALL": "C"}
        return run("apt-get", "-q", *arguments, env=environment, **options)

    def depends_of(self, *packages):
        """[(name, version)] of what an installation from nothing would install."""
        plan = self.apt_get("-s", "install", *packages)
        return re.findall(r"^Inst (\S+) \((\S+) ", plan, re.M)

    def unpack(self, name, packages):
        """Into a folder of this name that holds nothing else."""
        wanted = "\n".join(f"{package} {version}" for package, version in sorted(packages))
        folder, marker = self.folder / name, self.folder / f"{name}.packages"
        if marker.exists() and marker.read_text() == wanted:
            return
        marker.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        for directory in ("bin", "sbin", "lib", "lib64"):  # as in Debian, whose packages still use both names
            (folder / "usr" / directory).mkdir(parents=True)
            (folder / directory).symlink_to(f"usr/{directory}")
        archives = self.apt / "cache/archives"
        self.apt_get("download", *(f"{p}={v}" for p, v in packages), cwd=archives)
        for archive in sorted(archives.glob("*.deb")):
            tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
            run("tar", "-x", "--keep-directory-symlink", "-C", folder, stdin=tar.stdout)
            tar.stdout.close()
            if tar.wait() != 0:
                raise CannotFetch(f"{archive.name} is damaged: {archive}")
            archive.unlink()
        marker.write_text(wanted)
