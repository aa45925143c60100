# SPDX-License-Identifier: Apache-2.0
"""The other end of a TCP connection, played by the test: it may break every rule of the protocol.

It sits behind a tun device, so that no second kernel answers, resets or drops anything by itself.
"""

import contextlib
import fcntl
import ipaddress
import os
import random
import select
import socket
import struct
import time
from dataclasses import dataclass, field

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


def flags_text(flags):
    return "|".join(name for bit, name in enumerate(FLAG_NAMES) if flags >> bit & 1)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(saddr, daddr, protocol, length):
    addresses = ipaddress.ip_address(saddr).packed + ipaddress.ip_address(daddr).packed
    if ":" in saddr:
        return addresses + struct.pack("!II", length, protocol)
    return addresses + struct.pack("!HH", protocol, length)


def ip_packet(saddr, daddr, protocol, body):
    addresses = ipaddress.ip_address(saddr).packed + ipaddress.ip_address(daddr).packed
    if ":" in saddr:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + addresses + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


@dataclass
class Segment:
    """A TCP segment with its addresses."""

    saddr: str
    daddr: str
    sport: int
    dport: int
    seq: int = 0
    ack_seq: int = 0
    flags: int = SYN
    payload: bytes = b""
    window: int = 65535
    options: bytes = b""
    good_checksum: bool = True
    raw: bytes = field(default=b"", repr=False)

    @property
    def end_seq(self):
        """What comes behind it: SYN and FIN take up a number each."""
        length = len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)
        return (self.seq + length) & 0xFFFFFFFF

    def pack(self):
        offset = (20 + len(self.options)) // 4 << 12
        ports = struct.pack("!HHII", self.sport, self.dport, self.seq, self.ack_seq)
        head = ports + struct.pack("!HHHH", offset | self.flags, self.window, 0, 0) + self.options
        body = head + self.payload
        pseudo = pseudo_header(self.saddr, self.daddr, socket.IPPROTO_TCP, len(body))
        check = checksum(pseudo + body) ^ (0 if self.good_checksum else 0x5555)
        body = body[:16] + struct.pack("!H", check) + body[18:]
        return ip_packet(self.saddr, self.daddr, socket.IPPROTO_TCP, body)

    @staticmethod
    def parse(raw):
        """The segment in an IP packet, or None."""
        if raw[0] >> 4 == 4 and raw[9] == socket.IPPROTO_TCP:
            saddr, daddr, tcp = raw[12:16], raw[16:20], raw[(raw[0] & 15) * 4 :]
        elif raw[0] >> 4 == 6 and raw[6] == socket.IPPROTO_TCP:
            saddr, daddr, tcp = raw[8:24], raw[24:40], raw[40:]
        else:
            return None
        sport, dport, seq, ack_seq, offset, window = struct.unpack("!HHIIHH", tcp[:16])
        length = (offset >> 12) * 4
        return Segment(
            str(ipaddress.ip_address(saddr)),
            str(ipaddress.ip_address(daddr)),
            sport,
            dport,
            seq,
            ack_seq,
            offset & 0xFF,
            tcp[length:],
            window,
            tcp[20:length],
            raw=raw,
        )


class Connection:
    """One connection, seen from the peer. `sent` is the last segment that it sent."""

    def __init__(self, peer, local, remote):
        self.peer = peer
        self.saddr, self.sport = local
        self.daddr, self.dport = remote
        self.snd_nxt = random.getrandbits(32)
        self.rcv_nxt = 0
        self.sent = None

    def send(self, flags=ACK, payload=b"", seq=None, **more):
        """Sends a segment in sequence, or with a number of the caller's choice (snd_nxt stays)."""
        self.sent = Segment(
            self.saddr,
            self.daddr,
            self.sport,
            self.dport,
            self.snd_nxt if seq is None else seq & 0xFFFFFFFF,
            self.rcv_nxt if flags & ACK else 0,
            flags,
            payload,
            **more,
        )
        self.peer.write(self.sent.pack())
        if seq is None:
            self.snd_nxt = self.sent.end_seq
        return self.sent

    def receive(self, flags=0, timeout=5):
        """The next segment of this connection that has all of these flags; takes its data."""

        def mine(segment):
            ends = (segment.saddr, segment.sport, segment.daddr, segment.dport)
            here = (self.daddr, self.dport, self.saddr, self.sport)
            return ends == here and segment.flags & flags == flags

        segment = self.peer.read(mine, timeout)
        if not segment.flags & RST:
            self.rcv_nxt = segment.end_seq
        return segment


class TcpPeer:
    """Opens a tun device in a namespace, which gets addresses; the peer has all the others there."""

    ADDRESS = {4: "10.66.0.2", 6: "fd66::2"}
    KERNEL_ADDRESS = {4: "10.66.0.1", 6: "fd66::1"}

    def __init__(self, ns, device="tun0"):
        self.ns, self.device = ns, device
        with ns:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            request = struct.pack("16sH22x", os.fsencode(device), IFF_TUN | IFF_NO_PI)
            fcntl.ioctl(self.fd, TUNSETIFF, request)
        ns.ip("address", "add", self.KERNEL_ADDRESS[4] + "/24", "dev", device)
        ns.ip("address", "add", self.KERNEL_ADDRESS[6] + "/64", "dev", device, "nodad")
        ns.ip("link", "set", device, "up")
        # The kernel makes it its own a little later.
        while self.KERNEL_ADDRESS[6] not in ns.ip("-6", "route", "show", "table", "local"):
            time.sleep(0.01)
        self.next_port = random.randrange(30000, 40000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def write(self, packet):
        os.write(self.fd, packet)

    def read(self, predicate, timeout=5):
        """The next segment for which predicate(segment) is true; others are dropped silently."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                segment = Segment.parse(os.read(self.fd, 65536))
                if segment and predicate(segment):
                    return segment
        raise TimeoutError(f"no such segment came in {timeout} s")

    def connection(self, family, port):
        """A connection to a port of the kernel's, nothing sent yet."""
        self.next_port += 1
        return Connection(
            self, (self.ADDRESS[family], self.next_port), (self.KERNEL_ADDRESS[family], port)
        )

    def listener(self, family, backlog=8):
        """A listening socket of the kernel, on an address that the peer can reach."""
        with self.ns:
            listener = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
        listener.bind((self.KERNEL_ADDRESS[family], 0))
        listener.listen(backlog)
        return listener

    def connect(self, family, listener):
        """Connects to the listener; the handshake is over when this returns."""
        connection = self.connection(family, listener.getsockname()[1])
        connection.send(SYN)
        connection.receive(SYN | ACK)
        connection.send(ACK)
        return connection


class Sniffer:
    """What passes a device: `with Sniffer(ns, "eth0") as s: ...; s.find(lambda segment: ...)`."""

    def __init__(self, ns, device):
        with ns or contextlib.nullcontext():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.socket.bind((device, 0x0003))  # ETH_P_ALL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What nobody reads is thrown away with the socket, which would be drops of its own.
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(65536)
        self.socket.close()

    def find(self, predicate, timeout=5):
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                segment = Segment.parse(self.socket.recv(65536))
                if segment and predicate(segment):
                    return segment
        raise TimeoutError(f"no such segment came in {timeout} s")
