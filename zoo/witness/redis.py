"""One connection that sets, counts and reads keys, and knows what each holds."""
import random

from witness import Witness

witness = Witness()
connection = witness.connect(6379)
lines = connection.makefile("rb")
model, random = {}, random.Random(7)


def ask(*words):
    connection.send(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    head = lines.readline()
    if head[:1] != b"$":
        return head.strip()
    size = int(head[1:])
    return None if size < 0 else lines.read(size + 2)[:-2]


def step(at):
    witness.want(ask(b"INCR", b"count") == b":%d" % (at + 1), f"the counter is not {at + 1}")
    key, value = b"key%d" % random.randrange(500), random.randbytes(2000)
    witness.want(ask(b"SET", key, value) == b"+OK", "a value was not taken")
    model[key] = value
    other = random.choice(list(model))
    witness.want(ask(b"GET", other) == model[other], f"{other} holds something else")


def finish():
    for key, value in model.items():
        witness.want(ask(b"GET", key) == value, f"{key} holds something else")


witness.run(step, finish=finish)
