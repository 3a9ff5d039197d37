"""A web server: requests over one connection, and a long download in flight over another (of lines 1, 2, 3, ...).
web.py ADDRESS PORT KIND: `files` asks for /numbers and parts of it, `counter` for the connection's next number."""
import http.client
import json
import threading

from witness import Witness

witness = Witness("port", "kind")
port = int(witness.options.port)
connection = http.client.HTTPConnection(witness.address, port)
connection.sock = witness.connect(port)
# It would be opened again in silence.
connection.auto_open = False
LINES = 2_000_000
whole = None
received = {"lines": 0, "bytes": 0}


def get(path, headers=None, method="GET"):
    connection.request(method, path, headers={"Connection": "keep-alive", **(headers or {})})
    response = connection.getresponse()
    return response.status, response.read()


def download():
    """Reads slowly what the server sends slowly, to the end of the visit."""
    slow = witness.connect(port)
    slow.send(b"GET /slow HTTP/1.1\r\nHost: zoo\r\n\r\n")
    with slow.makefile("rb") as lines:
        while lines.readline().strip():
            pass
        while not witness.stopped():
            line = lines.readline()
            if not line:
                break
            received["lines"] += 1
            received["bytes"] += len(line)
            if line != b"%d\n" % received["lines"]:
                witness.want(False, f"the download has {line} in line {received['lines']}")
                return
    witness.want(witness.stopped() or received["lines"] == LINES, f"the download ended after {received['lines']} lines")


def files(at):
    global whole
    if whole is None:
        whole = b"".join(b"%d\n" % number for number in range(1, LINES + 1))
        threading.Thread(target=download, daemon=True).start()
    begin = at * 7919 % (len(whole) - 20_000)
    status, body = get("/numbers", {"Range": f"bytes={begin}-{begin + 9_999}"})
    witness.want(status == 206 and body == whole[begin:begin + 10_000], f"request {at}: {status}, {len(body)} bytes")


def counter(at):
    status, body = get("/", method="POST")
    witness.want(status == 200 and json.loads(body) == {"next": at + 1}, f"request {at}: {status} {body}")


def finish():
    if witness.options.kind == "files":
        witness.want(received["bytes"] > 100_000, f"the download had {received['bytes']} bytes in all")


witness.run({"files": files, "counter": counter}[witness.options.kind], finish=finish)
