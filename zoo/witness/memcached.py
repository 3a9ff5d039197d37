"""One connection that sets, counts and reads items, and knows what each holds."""
import random

from witness import Witness

witness = Witness()
connection = witness.connect(11211)
lines = connection.makefile("rb")
model, random = {}, random.Random(7)


def put(key, value):
    connection.send(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
    witness.want(lines.readline() == b"STORED\r\n", "a value was not taken")
    model[key] = value


def get(key):
    connection.send(b"get %s\r\n" % key)
    head = lines.readline().split()
    if head[:1] != [b"VALUE"]:
        return None
    value = lines.read(int(head[3]) + 2)[:-2]
    lines.readline()
    return value


put(b"count", b"0")
del model[b"count"]


def step(at):
    connection.send(b"incr count 1\r\n")
    witness.want(lines.readline() == b"%d\r\n" % (at + 1), f"the counter is not {at + 1}")
    put(b"key%d" % random.randrange(500), random.randbytes(2000))
    other = random.choice(list(model))
    witness.want(get(other) == model[other], f"{other} holds something else")


def finish():
    for key, value in model.items():
        witness.want(get(key) == value, f"{key} holds something else")


witness.run(step, finish=finish)
