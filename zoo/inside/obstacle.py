"""Plants something that CRIU cannot dump: obstacle.py NAME."""
import ctypes
import os
import socket
import sys

import exhibit

libc = ctypes.CDLL(None, use_errno=True)


def queue():
    fd = libc.mq_open(b"/zoo", os.O_RDWR | os.O_CREAT, 0o600, None)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    return fd


def packets():
    return os.pipe2(os.O_DIRECT)


def linked():
    file = open("/tmp/one", "w")
    os.link("/tmp/one", "/tmp/other")
    os.unlink("/tmp/one")
    return file


def large():
    file = open("/tmp/large", "w")
    file.truncate(3 << 29)
    os.unlink("/tmp/large")
    return file


def mptcp():
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)


kept = {"queue": queue, "packets": packets, "linked": linked, "large": large, "mptcp": mptcp}[sys.argv[1]]()
exhibit.run(lambda at: None)
