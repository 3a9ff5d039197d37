"""One of several services: tells syslog a number ten times a second, for ever."""
import syslog
import time

syslog.openlog("zoo-ticker")
number = 0
while True:
    number += 1
    syslog.syslog(f"tick {number}")
    time.sleep(0.1)
