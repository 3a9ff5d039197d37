"""What the zoo's witnesses share. A witness uses a container from outside, over connections that it never opens again,
and keeps its own account of what must be true. It prints `ready` when it is under way, works until the file --stop is
there, and says in one line of JSON what it found."""
import argparse
import json
import os
import socket
import sys
import time


class Witness:
    def __init__(self, *more):
        parser = argparse.ArgumentParser()
        parser.add_argument("--stop", required=True, help="the file that ends it")
        parser.add_argument("address")
        for name in more:
            parser.add_argument(name)
        self.options = parser.parse_args()
        self.address = self.options.address
        self.operations = 0
        self.wrong = []
        self.gap = 0.0
        self.last = None

    def want(self, condition, text):
        if not condition and len(self.wrong) < 20:
            self.wrong.append(text() if callable(text) else text)

    def done(self):
        """One more operation has been answered."""
        now = time.monotonic()
        if self.last is not None:
            self.gap = max(self.gap, now - self.last)
        self.last = now
        self.operations += 1

    def stopped(self):
        return os.path.exists(self.options.stop)

    def connect(self, port, patience=60):
        """A connection to the container; whoever has just been started may need a moment before it listens."""
        end = time.monotonic() + patience
        while True:
            try:
                connection = socket.create_connection((self.address, port), timeout=30)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def run(self, step, pause=0.002, finish=None):
        """Calls `step` until it is stopped; each call is an operation."""
        try:
            step(0)
            self.done()
            print("ready", flush=True)
            at = 1
            while not self.stopped():
                step(at)
                self.done()
                at += 1
                time.sleep(pause)
            if finish:
                finish()
        except Exception as error:  # a lost connection is a finding
            self.want(False, f"{type(error).__name__}: {error}")
        self.report()

    def report(self):
        ok = not self.wrong and self.operations > 0
        print(json.dumps({"ok": ok, "operations": self.operations, "wrong": self.wrong,
                          "longest_gap_ms": self.gap * 1e3}), flush=True)
        sys.exit(0)
