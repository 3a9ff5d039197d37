"""pgbench with four connections; in the end the sums agree, its connections are the first ones, and every transaction
that it logged is there."""
import glob
import os
import subprocess
import time

from witness import Witness

witness = Witness()
BIN = "/usr/lib/postgresql/17/bin/"
DATABASE = ["-h", witness.address, "-U", "postgres"]


def query(sql):
    return subprocess.run([BIN + "psql", *DATABASE, "-Atc", sql], check=True, capture_output=True, text=True).stdout.strip()


end = time.monotonic() + 90
while True:
    try:
        query("SELECT 1")
        break
    except subprocess.CalledProcessError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
subprocess.run([BIN + "pgbench", *DATABASE, "-i", "-q", "-s", "2", "postgres"], check=True, capture_output=True)
log = f"/run/pgbench.{os.getpid()}"
load = subprocess.Popen([BIN + "pgbench", *DATABASE, "-n", "-c", "4", "-j", "1", "-R", "200", "-T", "3600", "-l",
                         f"--log-prefix={log}", "postgres"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
MINE = "FROM pg_stat_activity WHERE application_name = 'pgbench'"
while query(f"SELECT count(*) {MINE}") != "4":
    time.sleep(0.05)
first = query(f"SELECT string_agg(pid::text, ',' ORDER BY pid) {MINE}")
print("ready", flush=True)
while not witness.stopped() and load.poll() is None:
    time.sleep(0.05)
witness.want(load.poll() is None, lambda: f"pgbench ended: {load.stderr.read()[-300:]}")
witness.want(query(f"SELECT string_agg(pid::text, ',' ORDER BY pid) {MINE}") == first, "the connections are other ones")
# pgbench writes its log to the end when it has lost its connections.
query(f"SELECT pg_terminate_backend(pid) {MINE}")
load.wait(30)
times = sorted(float(line.split()[4]) + float(line.split()[5]) / 1e6 for name in glob.glob(log + "*") for line in open(name))
witness.operations = len(times)
witness.gap = max((b - a for a, b in zip(times, times[1:])), default=0)
sums = query("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
             "(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
witness.want(len(set(sums.split("|"))) == 1, f"the sums differ: {sums}")
history = int(query("SELECT count(*) FROM pgbench_history"))
# What was being committed when the connections were ended may be there and not be logged.
witness.want(len(times) <= history <= len(times) + 4, f"{history} transactions are there, {len(times)} are logged")
witness.report()
