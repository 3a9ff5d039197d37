"""Watchers of files (inotify): watch.py tail|entr|raw."""
import os
import subprocess
import sys
import time

import exhibit
from exhibit import want

kind = sys.argv[1]
os.makedirs("/tmp/watched", exist_ok=True)
file = open("/tmp/watched/file", "wb", buffering=0)


def lines(reader, limit=5):
    """The next line, or none within so many seconds."""
    import select
    return reader.readline() if select.select([reader], [], [], limit)[0] else b""


if kind == "tail":
    tail = subprocess.Popen(["tail", "-n", "+1", "-f", "/tmp/watched/file"], stdout=subprocess.PIPE, bufsize=0)

    def step(at):
        file.write(b"%d\n" % at)
        got = lines(tail.stdout)
        want(got == b"%d\n" % at, lambda: f"tail printed {got} where {at} is due")
elif kind == "entr":
    entr = subprocess.Popen(["entr", "-n", "cat", "/tmp/watched/file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    entr.stdin.write(b"/tmp/watched/file\n")
    entr.stdin.close()
    lines(entr.stdout, 2)

    def step(at):
        # One line, of which entr tells when it has seen the change.
        os.pwrite(file.fileno(), b"%08d\n" % at, 0)
        end = time.monotonic() + 8
        got = b""
        while time.monotonic() < end and got != b"%08d\n" % at:
            got = lines(entr.stdout)
        want(got == b"%08d\n" % at, lambda: f"entr printed {got} where {at} is due")
        time.sleep(0.05)
else:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(0)
    # IN_CREATE | IN_DELETE in a directory.
    want(libc.inotify_add_watch(fd, b"/tmp/watched", 0x300) > 0, "no watch")

    def step(at):
        name = f"/tmp/watched/{at}"
        open(name, "w").close()
        os.unlink(name)
        import select
        seen = b""
        while seen.count(b"%d\0" % at) < 2:
            if not select.select([fd], [], [], 5)[0]:
                want(False, f"no event of {at}: {seen}")
                return
            seen += os.read(fd, 4096)

exhibit.run(step)
