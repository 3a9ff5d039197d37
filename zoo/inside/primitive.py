"""One kind of kernel object each, used again and again, with what must hold looked at each time: primitive.py NAME."""
import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

import exhibit
from exhibit import want

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def timers():
    """A timerfd, an interval timer and a POSIX timer, each of 10 ms, and none may stop or run away."""
    fd = os.timerfd_create(time.CLOCK_MONOTONIC)
    os.timerfd_settime(fd, initial=0.01, interval=0.01)
    ticks = {"timerfd": 0, "itimer": 0, "posix": 0}
    signal.signal(signal.SIGALRM, lambda *_: ticks.update(itimer=ticks["itimer"] + 1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    number = signal.SIGRTMIN + 1
    signal.signal(number, lambda *_: ticks.update(posix=ticks["posix"] + 1))
    # struct sigevent: value, signo, notify (SIGEV_SIGNAL is 0), padding.
    event = ctypes.create_string_buffer(struct.pack("QiI", 7, number, 0), 64)
    timer = ctypes.c_void_p()
    call("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(timer))
    spec = struct.pack("qqqq", 0, 10_000_000, 0, 10_000_000)
    call("timer_settime", timer, 0, spec, None)
    begin = time.monotonic()

    def step(_):
        ticks["timerfd"] += struct.unpack("Q", os.read(fd, 8))[0]

    def finish(_):
        expected = (time.monotonic() - begin) / 0.01
        for name, count in ticks.items():
            # Signals that are pending merge into one; expirations of a timerfd are counted.
            least = 0.8 if name == "timerfd" else 0.3
            want(least * expected < count < 1.05 * expected + 5, f"{name}: {count} ticks where {expected:.0f} are due")

    exhibit.run(step, 0, finish)


def signals():
    """A signalfd with queued real-time signals and their values, some of them pending while it is moved."""
    number = signal.SIGRTMIN + 2
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    mask = struct.pack("Q", 1 << (number - 1)) + bytes(120)
    fd = call("signalfd", -1, mask, 0)
    libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]

    def step(at):
        for value in range(3):
            call("sigqueue", os.getpid(), number, at * 3 + value)
        time.sleep(0.003)
        for value in range(3):
            info = os.read(fd, 128)
            signo, = struct.unpack_from("I", info)
            got, = struct.unpack_from("Q", info, 48)
            want(signo == number and got == at * 3 + value, f"signal {signo} with {got} where {at * 3 + value} is due")

    exhibit.run(step)


def eventfd():
    fd = os.eventfd(5)
    want_value = [5]

    def step(at):
        os.eventfd_write(fd, at % 7 + 1)
        want_value[0] += at % 7 + 1
        time.sleep(0.002)
        if at % 3 == 0:
            got = os.eventfd_read(fd)
            want(got == want_value[0], f"{got} where {want_value[0]} is due")
            want_value[0] = 0

    exhibit.run(step)


def epoll():
    """Level, edge and one-shot, on pipes with data that nobody has read yet, and a set within a set."""
    outer, inner = select.epoll(), select.epoll()
    pipes = [os.pipe() for _ in range(16)]
    for at, (read, _) in enumerate(pipes):
        flags = [0, select.EPOLLET, select.EPOLLONESHOT][at % 3]
        inner.register(read, select.EPOLLIN | flags)
    outer.register(inner.fileno(), select.EPOLLIN)

    def step(at):
        which = at % 16
        read, write = pipes[which]
        os.write(write, b"%d." % at)
        time.sleep(0.002)
        want(outer.poll(1) == [(inner.fileno(), select.EPOLLIN)], "the outer set says nothing")
        events = inner.poll(1)
        want(events == [(read, select.EPOLLIN)], lambda: f"{events} where descriptor {read} is due")
        got = os.read(read, 64)
        want(got == b"%d." % at, lambda: f"{got} where {at} is due")
        if which % 3 == 2:
            inner.modify(read, select.EPOLLIN | select.EPOLLONESHOT)

    exhibit.run(step)


def socketpair():
    """Of all three types, with messages under way, and a descriptor in one of them."""
    kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]
    pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in kinds]
    for at in range(4):
        for a, _ in pairs:
            a.send(b"%08d" % at)

    def step(at):
        for a, b in pairs:
            a.send(b"%08d" % (at + 4))
            got = b.recv(8)
            want(got == b"%08d" % at, lambda: f"{got} where {at} is due")
            b.send(b"back")
            want(a.recv(4) == b"back", "nothing came back")

    exhibit.run(step)


def unix():
    """A listening socket with a path, connections from a child, one that waits to be accepted, and an abstract one."""
    path, children = "/tmp/zoo.sock", []
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(8)
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind("\0zoo")
    if os.fork() == 0:
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.connect("\0zoo")
        while True:
            got = client.recv(8)
            if not got:
                os._exit(0)
            sender.send(got)
            client.send(got)
    served, _ = server.accept()
    children.append(served)

    def step(at):
        served.send(b"%08d" % at)
        want(served.recv(8) == b"%08d" % at, f"answer {at} is another one")
        want(datagrams.recv(8) == b"%08d" % at, f"datagram {at} is another one")
        if at % 50 == 0:
            late = socket.socket(socket.AF_UNIX)
            late.connect(path)
            late.send(b"late")
            got, _ = server.accept()
            want(got.recv(4) == b"late", "a new connection fails")
            late.close()
            got.close()

    exhibit.run(step)


def pipe():
    """A pipe and a named pipe that are nearly full all the time, through a child."""
    os.mkfifo("/tmp/fifo")
    back = os.open("/tmp/fifo", os.O_RDWR)
    read, write = os.pipe()
    fcntl.fcntl(write, 1031, 1 << 18)  # F_SETPIPE_SZ
    if os.fork() == 0:
        os.close(write)
        while True:
            data = os.read(read, 4096)
            if not data:
                os._exit(0)
            os.write(back, data)
    count = {"out": 0, "in": 0}
    pending = bytearray()

    def step(_):
        while count["out"] - count["in"] < 12_000:
            os.write(write, struct.pack("Q", count["out"]))
            count["out"] += 1
        pending.extend(os.read(back, 4096))
        whole = len(pending) // 8 * 8
        for number, in struct.iter_unpack("Q", bytes(pending[:whole])):
            want(number == count["in"], f"{number} where {count['in']} is due")
            count["in"] += 1
        del pending[:whole]

    exhibit.run(step)


def pty():
    """A terminal with a shell of its own, its size and its modes."""
    import pty as terminals
    import termios
    pid, fd = terminals.fork()
    if pid == 0:
        os.execvp("sh", ["sh"])
    modes = termios.tcgetattr(fd)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, modes)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    os.write(fd, b"PS1=; n=0\n")
    time.sleep(0.3)
    os.set_blocking(fd, False)
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        pass
    os.set_blocking(fd, True)

    def step(at):
        os.write(fd, b"n=$((n+1)); echo =$n=\n")
        got = b""
        while not got.endswith(b"=\r\n"):
            got += os.read(fd, 4096)
        want(got == b"=%d=\r\n" % (at + 1), lambda: f"{got} where {at + 1} is due")
        size = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
        want(size[:2] == (33, 111), f"the terminal is {size[:2]}")
        want(not termios.tcgetattr(fd)[3] & termios.ECHO, "the terminal echoes")

    exhibit.run(step)


def locks():
    """flock, POSIX and open file description locks, each of which keeps a child out."""
    names = ["flock", "posix", "ofd"]
    files = {name: open(f"/tmp/lock.{name}", "w+b") for name in names}
    record = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 10, 20, 0)

    def take(name, file):
        if name == "flock":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.fcntl(file, fcntl.F_SETLK if name == "posix" else 37, record)  # F_OFD_SETLK

    ask, asked = os.pipe()
    answers, answer = os.pipe()
    if os.fork() == 0:
        while os.read(ask, 1):
            held = 0
            for at, name in enumerate(names):
                with open(f"/tmp/lock.{name}", "r+b") as file:
                    try:
                        take(name, file)
                    except OSError as error:
                        held |= (error.errno in (errno.EAGAIN, errno.EACCES)) << at
            os.write(answer, bytes([held]))
        os._exit(0)
    for name, file in files.items():
        take(name, file)

    def step(_):
        os.write(asked, b"?")
        held = os.read(answers, 1)[0]
        want(held == 7, lambda: f"lost: {[n for at, n in enumerate(names) if not held >> at & 1]}")

    exhibit.run(step)


def sysv():
    """System V shared memory and semaphores between two processes."""
    shm = call("shmget", 0x5A00, 65536, 0o1666)
    libc.shmat.restype = ctypes.c_void_p
    memory = (ctypes.c_uint64 * 8192).from_address(libc.shmat(shm, None, 0))
    sem = call("semget", 0x5A01, 2, 0o1666)
    queue = call("msgget", 0x5A02, 0o1666)
    message = struct.pack("q8s", 3, b"lies here")
    call("msgsnd", queue, message, 8, 0)

    def operate(which, value):
        while libc.semop(sem, struct.pack("Hhh", which, value, 0), 1) < 0:
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), "semop")

    if os.fork() == 0:
        while True:
            operate(0, -1)
            for at in range(8192):
                memory[at] += 1
            operate(1, 1)

    def step(at):
        operate(0, 1)
        operate(1, -1)
        values = set(memory)
        want(values == {at + 1}, lambda: f"{sorted(values)[:3]} where {at + 1} is due")

    def finish(_):
        got = ctypes.create_string_buffer(64)
        call("msgrcv", queue, got, 48, 0, 0)
        want(got.raw[8:16] == b"lies her", lambda: f"the queue holds {got.raw[:24]}")

    exhibit.run(step, finish=finish)


def posix():
    """POSIX shared memory with semaphores in it, between two processes."""
    fd = os.open("/dev/shm/zoo", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 65536)
    memory = mmap.mmap(fd, 65536)
    words = (ctypes.c_uint64 * 8192).from_buffer(memory)
    there, back = ctypes.addressof(words), ctypes.addressof(words) + 64
    for address in (there, back):
        call("sem_init", ctypes.c_void_p(address), 1, 0)

    def wait(address):
        while libc.sem_wait(ctypes.c_void_p(address)) < 0:
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), "sem_wait")

    if os.fork() == 0:
        while True:
            wait(there)
            for at in range(16, 8192):
                words[at] += 1
            call("sem_post", ctypes.c_void_p(back))

    def step(at):
        call("sem_post", ctypes.c_void_p(there))
        wait(back)
        values = set(words[16:])
        want(values == {at + 1}, lambda: f"{sorted(values)[:3]} where {at + 1} is due")

    exhibit.run(step)


def files():
    """Files that are open and deleted, appended to, sparse, mapped, and of a memfd."""
    deleted = open("/tmp/deleted", "w+b")
    os.unlink("/tmp/deleted")
    log = open("/tmp/log", "ab", buffering=0)
    sparse = open("/tmp/sparse", "w+b")
    memfd = os.memfd_create("zoo")
    os.ftruncate(memfd, 1 << 20)
    shared = mmap.mmap(memfd, 1 << 20)
    mapped = open("/tmp/mapped", "w+b")
    mapped.truncate(1 << 20)
    view = mmap.mmap(mapped.fileno(), 1 << 20)

    def step(at):
        line = b"%07d\n" % at
        place = at * 8
        os.pwrite(deleted.fileno(), line, place)
        log.write(line)
        os.pwrite(sparse.fileno(), line, at * 16384)
        where = place % (1 << 20)
        shared[where:where + 8] = line
        view[where:where + 8] = line
        if at:
            before = b"%07d\n" % (at - 1)
            want(os.pread(deleted.fileno(), 8, place - 8) == before, "deleted file")
            want(os.pread(sparse.fileno(), 8, (at - 1) * 16384) == before, "sparse file")
            where = (place - 8) % (1 << 20)
            want(shared[where:where + 8] == before, "memfd")
            want(os.pread(mapped.fileno(), 8, where) == before, "mapped file")

    def finish(count):
        expected = b"".join(b"%07d\n" % at for at in range(count))
        want(open("/tmp/log", "rb").read() == expected, "the log")
        want(os.pread(deleted.fileno(), count * 8 + 1, 0) == expected, "the whole of the deleted file")

    exhibit.run(step, finish=finish)


def threads():
    """Threads with robust, recursive and plain locks, and conditions."""
    lock, turn, value = threading.Condition(), [0], [0]

    def work(me):
        while True:
            with lock:
                lock.wait_for(lambda: turn[0] % 17 == me)
                value[0] += 1
                turn[0] += 1
                lock.notify_all()

    for me in range(1, 17):
        threading.Thread(target=work, args=(me,), daemon=True).start()

    def step(at):
        with lock:
            want(lock.wait_for(lambda: turn[0] % 17 == 0, 60), "the threads stand still")
            want(value[0] == at * 16, f"{value[0]} where {at * 16} is due")
            turn[0] += 1
            lock.notify_all()

    exhibit.run(step)


def udp():
    """Answers each datagram with the next number of its sender, on both families."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", 9000))
    server.settimeout(0.2)
    counts = {}

    def step(_):
        try:
            data, sender = server.recvfrom(2048)
        except TimeoutError:
            return
        counts[sender] = counts.get(sender, 0) + 1
        server.sendto(data + b" %d" % counts[sender], sender)

    exhibit.run(step, 0)


def tcp():
    """A listener; line by line: 'N' gives N+1, 'half' has this side closed for writing, and what comes then is counted
    and told to the next connection that asks 'told'."""
    server = socket.create_server(("::", 9000), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True)
    told = []

    def serve(connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                word = line.strip()
                if word == b"half":
                    connection.shutdown(socket.SHUT_WR)
                    told.append(sum(1 for at, rest in enumerate(lines) if int(rest) == at))
                    return
                connection.send(b"%d\n" % (told[-1] if word == b"told" and told else -1 if word == b"told" else int(word) + 1))

    server.settimeout(0.2)

    def step(_):
        try:
            connection, _ = server.accept()
        except TimeoutError:
            return
        connection.settimeout(None)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()

    exhibit.run(step, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
