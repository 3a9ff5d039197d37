"""sysbench oltp_read_write with four connections, and one session of our own that inserts rows which we remember."""
import subprocess
import time

from witness import Witness

witness = Witness()
CLIENT = ["mariadb", "--no-defaults", "-h", witness.address, "-u", "zoo", "--batch", "--skip-column-names", "--skip-reconnect", "--skip-ssl"]
SYSBENCH = ["sysbench", "oltp_read_write", "--db-driver=mysql", f"--mysql-host={witness.address}", "--mysql-user=zoo",
            "--mysql-db=zoo", "--mysql-ssl=DISABLED", "--tables=1", "--table-size=5000"]


def query(sql):
    return subprocess.run(CLIENT + ["-e", sql], check=True, capture_output=True, text=True).stdout.strip()


end = time.monotonic() + 90
while True:
    try:
        query("SELECT 1 FROM mysql.user WHERE user = 'zoo'")
        break
    except subprocess.CalledProcessError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
ran = subprocess.run(SYSBENCH + ["prepare"], capture_output=True, text=True)
if ran.returncode:
    ran = subprocess.run([word for word in SYSBENCH if "ssl" not in word] + ["prepare"], capture_output=True, text=True)
    SYSBENCH = [word for word in SYSBENCH if "ssl" not in word]
witness.want(ran.returncode == 0, lambda: f"sysbench prepare: {(ran.stdout + ran.stderr)[-300:]}")
load = subprocess.Popen(SYSBENCH + ["--threads=4", "--time=3600", "--rate=50", "run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
session = subprocess.Popen(CLIENT + ["--unbuffered", "zoo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def ask(sql):
    session.stdin.write(sql + ";\n")
    session.stdin.flush()
    line = session.stdout.readline()
    if not line:
        raise ConnectionError("the session ended")
    return line.strip()


me = ask("CREATE TABLE mine (id INT PRIMARY KEY, text VARCHAR(40)) ENGINE=InnoDB; SET @n = 0; SELECT CONNECTION_ID()")


def step(at):
    # The variable is the session's own.
    witness.want(ask(f"SET @n = @n + 1; INSERT INTO mine VALUES ({at}, HEX({at})); SELECT @n") == str(at + 1), f"not {at + 1}")


def finish():
    witness.want(ask("SELECT CONNECTION_ID()") == me, "it is another connection")
    rows = query("SELECT id, text FROM zoo.mine ORDER BY id").splitlines()
    # HEX of a number gives its hexadecimal digits.
    witness.want(rows == [f"{n}\t{n:X}" for n in range(witness.operations)], f"{len(rows)} rows are there")
    witness.want(load.poll() is None, lambda: f"sysbench ended: {load.stdout.read()[-300:]}")
    witness.want(query("SELECT count(*) FROM information_schema.processlist WHERE db = 'zoo'") == "5", "connections were lost")
    witness.want("OK" in query("CHECK TABLE zoo.sbtest1"), "the table is corrupt")
    load.kill()


witness.run(step, pause=0.005, finish=finish)
