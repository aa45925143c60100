# SPDX-License-Identifier: Apache-2.0
"""A name server for reverse look-ups that answers as told, late, or never, and remembers questions."""

import ipaddress
import socket
import struct
import threading
import time


def reverse_name(address):
    return ipaddress.ip_address(address).reverse_pointer


def parse_name(message, offset):
    labels = []
    while message[offset]:
        labels.append(message[offset + 1 : offset + 1 + message[offset]].decode("latin-1"))
        offset += 1 + message[offset]
    return ".".join(labels), offset + 1


def encode_name(name):
    """Labels are bytes: a name server may say anything."""
    name = name if isinstance(name, bytes) else name.encode()
    return b"".join(bytes([len(label)]) + label for label in name.split(b".") if label) + b"\0"


class DnsServer:
    """Answers PTR questions on UDP from {address: name}; others do not exist. `delay` None: never."""

    def __init__(self, names=None, delay=0.0, address="127.0.0.1"):
        self.names = {reverse_name(a): n for a, n in (names or {}).items()}
        self.delay = delay
        self.questions, self.clients = [], set()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.settimeout(0.1)
        self.stopping = False
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def server(self):
        """As the configuration wants it."""
        address, port = self.socket.getsockname()
        return f"{address}:{port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join()
        self.socket.close()

    def serve(self):
        while not self.stopping:
            try:
                message, client = self.socket.recvfrom(4096)
            except TimeoutError:
                continue
            name, end = parse_name(message, 12)
            self.questions.append(name)
            self.clients.add(client)
            if self.delay is None:
                continue
            time.sleep(self.delay)
            self.socket.sendto(self.answer(message, name.lower(), end), client)

    def answer(self, message, name, end):
        question = message[12 : end + 4]
        if name not in self.names:
            return message[:2] + struct.pack("!HHHHH", 0x8183, 1, 0, 0, 0) + question
        data = encode_name(self.names[name])
        record = struct.pack("!HHHIH", 0xC00C, 12, 1, 60, len(data)) + data
        return message[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + question + record
