#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command on a terminal of its own and draws what it showed: docs/picture/terminal.svg.

usage, as root, in a mount namespace so that the store of this machine is left alone:
    unshare --mount sh -c 'mount -t tmpfs none /var/lib &&
        docs/picture/terminal.py build/huatuo run --demo --duration 3s'
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from html import escape
from pathlib import Path

COLUMNS = 112
WIDTH, HEIGHT, MARGIN = 8.43, 19, 18  # of a character, of a line, around all; px at 14 px
STYLES = {"1": "bold", "2": "dim", "31": "red", "33": "yellow", "36": "cyan"}
CSS = """
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d5dae1;
       white-space: pre }
.bold { font-weight: bold; fill: #fff } .dim { fill: #7d8794 } .cyan { fill: #56c8d8 }
.red { fill: #ff7a85 } .yellow { fill: #e5c07b } .prompt { fill: #98c379 }
"""


def capture(command):
    """What the command writes to a terminal of that width."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    output = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: everybody has closed it
            piece = b""
        if not piece:
            break
        output += piece
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit(f"terminal.py: {' '.join(command)} failed:\n{output.decode()}")
    return output.decode().replace("\r\n", "\n")


def cells(text):
    """(character, style) for each cell, lines wrapped as a terminal does."""
    rows, styles = [[]], []
    for code, character in re.findall(r"\x1b\[([\d;]*)m|([^\x1b])", text):
        if not character:
            styles = [] if code in ("", "0") else styles + [STYLES[c] for c in code.split(";")]
        elif character == "\n":
            rows.append([])
        else:
            if len(rows[-1]) == COLUMNS:
                rows.append([])
            rows[-1].append((character, " ".join(styles)))
    return rows if rows[-1] else rows[:-1]


def draw(rows, title):
    size = f"{COLUMNS * WIDTH + 2 * MARGIN:.0f} {len(rows) * HEIGHT + 2 * MARGIN:.0f}"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">'
    yield f"<title>{escape(title)}</title>"
    yield f"<style>{CSS}</style>"
    yield '<rect width="100%" height="100%" rx="8" fill="#171b21"/>'
    for number, row in enumerate(rows):
        line, at = "", 0
        while at < len(row):
            style, end = row[at][1], at
            while end < len(row) and row[end][1] == style:
                end += 1
            part = escape("".join(character for character, _ in row[at:end]), quote=False)
            line += f'<tspan class="{style}">{part}</tspan>' if style else part
            at = end
        y = MARGIN + (number + 0.75) * HEIGHT
        yield f'<text x="{MARGIN}" y="{y:.0f}" xml:space="preserve">{line}</text>'
    yield "</svg>"


def main():
    command = sys.argv[1:]
    if not command:
        sys.exit(__doc__)
    shown = [[(character, "prompt") for character in "# " + " ".join(command)]]
    rows = shown + cells(capture(command))
    picture = Path(__file__).with_name("terminal.svg")
    picture.write_text("\n".join(draw(rows, "A terminal: " + " ".join(command))) + "\n", encoding="utf-8")
    print("\n".join("".join(character for character, _ in row) for row in rows))


if __name__ == "__main__":
    main()
