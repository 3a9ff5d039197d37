"""A system container: its web server over one connection, while its other services go on."""
import http.client

from witness import Witness

witness = Witness()
connection = http.client.HTTPConnection(witness.address, 80)
connection.sock = witness.connect(80)
connection.auto_open = False


def step(at):
    begin = at * 7919 % 10_000_000
    connection.request("GET", "/numbers", headers={"Range": f"bytes={begin}-{begin + 99}"})
    response = connection.getresponse()
    body = response.read()
    numbers = body.split(b"\n")[1:-1]
    right = all(int(a) + 1 == int(b) for a, b in zip(numbers, numbers[1:]))
    witness.want(response.status == 206 and len(body) == 100 and len(numbers) > 5 and right, f"request {at}: {response.status} {body}")


witness.run(step)
