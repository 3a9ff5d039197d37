"""Runs a command again and again until SIGTERM; each must succeed and print what it must.

job.py [--prints TEXT] [--sha256 SUM] -- COMMAND...
"""
import argparse
import hashlib
import subprocess

import exhibit

parser = argparse.ArgumentParser()
parser.add_argument("--prints", help="text that must be printed each time")
parser.add_argument("--sha256", help="sum of what must be printed each time")
parser.add_argument("command", nargs="+")
options = parser.parse_args()


def step(at):
    ran = subprocess.run(options.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    end = ran.stdout[-300:].decode(errors="replace")
    exhibit.want(ran.returncode == 0, f"run {at} ended with {ran.returncode}: {end}")
    if options.prints:
        exhibit.want(options.prints.encode() in ran.stdout, f"run {at} printed: {end}")
    if options.sha256:
        exhibit.want(hashlib.sha256(ran.stdout).hexdigest() == options.sha256, f"run {at} printed something else: {end}")


exhibit.run(step, 0)
