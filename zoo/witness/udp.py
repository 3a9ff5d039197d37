"""Datagrams, each answered with its sender's next number. A datagram may be lost as on any network: then it is sent again
within 50 ms, and more than one loss in ten is wrong."""
import socket
import time

from witness import Witness

witness = Witness()
family = socket.AF_INET6 if ":" in witness.address else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.connect((witness.address, 9000))
client.settimeout(0.05)
state = {"number": 0, "lost": 0}


def step(at):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            client.send(b"%d" % at)
            data = client.recv(100)
            while int(data.split()[0]) < at:
                data = client.recv(100)
            break
        except (TimeoutError, ConnectionError):
            state["lost"] += at > 0
            time.sleep(0.02)
    else:
        raise TimeoutError(f"no answer to {at}")
    number = int(data.split()[1])
    witness.want(at == 0 or number > state["number"], f"number {number} after {state['number']}: it began anew")
    state["number"] = number


def finish():
    witness.want(state["lost"] * 10 <= witness.operations, f"{state['lost']} of {witness.operations} were lost")


witness.run(step, finish=finish)
