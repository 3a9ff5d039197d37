"""An interactive shell over SSH, in a terminal: its variable counts what was typed."""
import os
import pty
import select
import time

from witness import Witness

witness = Witness()
witness.connect(22).close()
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("ssh", ["ssh", "-tt", "-i", "/root/key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                      "-o", "LogLevel=ERROR", f"root@{witness.address}"])
seen = b""


def until(end, patience=30):
    global seen
    limit = time.monotonic() + patience
    while end not in seen:
        if not select.select([terminal], [], [], max(0, limit - time.monotonic()))[0]:
            raise TimeoutError(f"{end} did not come: {seen[-200:]}")
        seen += os.read(terminal, 4096)
    before, seen = seen.split(end, 1)
    return before


os.write(terminal, b"PS1=; n=0; stty -echo; echo be''gun\n")
until(b"begun\r\n")


def step(at):
    os.write(terminal, b"n=$((n+1)); echo =$n=\n")
    until(b"=\r\n" if False else b"=%d=\r\n" % (at + 1))


witness.run(step)
