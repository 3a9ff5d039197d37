"""A publisher and three subscribers (MQTT 3.1.1, QoS 1): every message reaches each of them, once and in order."""
import struct

from witness import Witness

witness = Witness()


def text(word):
    return struct.pack(">H", len(word)) + word


class Client:
    def __init__(self, name):
        self.connection = witness.connect(1883)
        self.stream = self.connection.makefile("rb")
        self.send(0x10, text(b"MQTT") + bytes([4, 2]) + struct.pack(">H", 600) + text(name))
        witness.want(self.receive()[0] == 0x20, "no CONNACK")

    def send(self, kind, body):
        size, length = b"", len(body)
        while True:
            length, low = divmod(length, 128)
            size += bytes([low | (128 if length else 0)])
            if not length:
                break
        self.connection.send(bytes([kind]) + size + body)

    def receive(self):
        kind, size, shift = self.stream.read(1)[0], 0, 0
        while True:
            byte = self.stream.read(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return kind, self.stream.read(size)


publisher = Client(b"publisher")
subscribers = [Client(b"subscriber%d" % number) for number in range(3)]
for subscriber in subscribers:
    subscriber.send(0x82, struct.pack(">H", 1) + text(b"zoo/#") + b"\1")
    witness.want(subscriber.receive()[0] == 0x90, "no SUBACK")


def step(at):
    publisher.send(0x32, text(b"zoo/numbers") + struct.pack(">H", at % 65535 + 1) + b"%d" % at)
    witness.want(publisher.receive() == (0x40, struct.pack(">H", at % 65535 + 1)), f"message {at} was not taken")
    for subscriber in subscribers:
        kind, body = subscriber.receive()
        number = body[2 + len(b"zoo/numbers"):][:2]
        witness.want(kind & 0xF0 == 0x30 and body[15:] == b"%d" % at, f"{body} where {at} is due")
        subscriber.send(0x40, number)


witness.run(step)
