"""A connection on which a line N is answered with N + 1. lines.py ADDRESS PORT java|half"""
import socket
import time

from witness import Witness

witness = Witness("port", "kind")
port = int(witness.options.port)
connection = witness.connect(port)
lines = connection.makefile("rb")
half = None


def answer(word):
    connection.send(word + b"\n")
    return lines.readline().strip()


def step(at):
    global half
    if at == 0 and witness.options.kind == "half":
        half = witness.connect(port)
        half.send(b"half\n")
        witness.want(half.recv(1) == b"", "the other side did not close")
    witness.want(answer(b"%d" % at) == b"%d" % (at + 1), f"no right answer to {at}")
    if half:
        half.send(b"%d\n" % at)
    if at % 100 == 0:
        other = witness.connect(port)
        other.send(b"41\n")
        witness.want(other.recv(10) == b"42\n", "a new connection is answered otherwise")
        other.close()


def finish():
    if witness.options.kind == "java":
        passed, wrong = map(int, answer(b"state").split())
        witness.want(wrong == 0 and passed > 1000, f"the threads passed {passed} numbers on, {wrong} of them wrong")
    else:
        half.shutdown(socket.SHUT_WR)
        end = time.monotonic() + 10
        told = b""
        while told != b"%d" % witness.operations and time.monotonic() < end:
            told = answer(b"told")
            time.sleep(0.05)
        witness.want(told == b"%d" % witness.operations, f"{told} of {witness.operations} lines came over the half closed one")


witness.run(step, finish=finish)
