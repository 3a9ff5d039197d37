"""What the zoo's programs inside containers share: they work until SIGTERM, then say in one line of JSON what was wrong."""
import json
import signal
import sys
import time

stopped = False
wrong = []
operations = 0


def _stop(*_):
    global stopped
    stopped = True


def want(condition, text):
    """Notes that something is not as it must be."""
    if not condition and len(wrong) < 20:
        wrong.append(text() if callable(text) else text)


def run(step, pause=0.005, finish=None):
    """Calls `step` again and again, each call one operation; the longest pause between two is the gap."""
    global operations
    signal.signal(signal.SIGTERM, _stop)
    print("ready", flush=True)
    last, gap = time.monotonic(), 0.0
    try:
        while not stopped:
            step(operations)
            operations += 1
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            if pause:
                time.sleep(pause)
        if finish:
            finish(operations)
    except Exception as error:  # what is not foreseen is a finding, too
        wrong.append(f"{type(error).__name__}: {error}")
    ok = not wrong and operations > 0
    print(json.dumps({"ok": ok, "operations": operations, "wrong": wrong, "longest_gap_ms": gap * 1e3}), flush=True)
    sys.exit(0)
