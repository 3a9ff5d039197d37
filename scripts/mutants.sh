#!/usr/bin/env bash
# Breaks the protocol's own source text, one line at a time, and wants the simulation to find each break.
# mutants.sh [SEEDS]; prints one line for each break and fails if one was not found.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${1:-60000}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r Cargo.toml Cargo.lock crates "$copy"
export CARGO_TARGET_DIR=${DROVER_MUTANTS_TARGET:-$copy/target}

# NAME@@FILE below crates/protocol/src@@TEXT@@WHAT STANDS THERE INSTEAD: fixed strings, the first occurrence.
breaks='
commit without a record@@source.rs@@(Step::Restoring, In::Heard(ToSource::Restored)) => {@@(Step::Restoring, In::Heard(ToSource::Restored)) if true => { self.commit(now); } (Step::Restoring, In::Heard(ToSource::Restored)) => {
unknown is absent@@source.rs@@self.failure = Some(why);\n                self.read_record();@@self.roll_back(now, why);
a cancel after the decision@@source/decided.rs@@In::Connected => {@@In::Cancelled => { self.roll_back(now, explained("broken")); } In::Connected => {
a lost link after the decision thaws@@source/decided.rs@@In::LinkLost(_) => {\n                self.link_up = false;\n                self.reconnect();@@In::LinkLost(why) => {\n                self.link_up = false;\n                self.roll_back(now, why);
destroyed when resumed@@source/decided.rs@@In::Heard(ToSource::Resumed) => {@@In::Heard(ToSource::Resumed) if true => { self.settle(now); } In::Heard(ToSource::Resumed) => {
no recall without a link@@source.rs@@} else {\n            self.reconnect();\n        }\n    }\n\n    fn reconnect@@} else {\n            self.finish();\n        }\n    }\n\n    fn reconnect
restored before promised@@target.rs@@(Step::Restoring, In::Restored) => self.order(now, Step::Promising, TargetOutput::RecordPromise),@@(Step::Restoring, In::Restored) => { self.say(ToSource::Restored); self.order(now, Step::Promising, TargetOutput::RecordPromise); }
a promise ends with silence@@target.rs@@self.step = Step::Promised;\n                self.deadline = None;@@self.step = Step::Restoring;
owned before the last page@@target.rs@@self.order(now, Step::Following, TargetOutput::AwaitArrival);@@self.order(now, Step::Owning, TargetOutput::RecordOwned);
what is lost is not ended@@target.rs@@self.outputs.push_back(TargetOutput::Kill(why));@@drop(why);
accepted before its files are durable@@ownership.rs@@Some(Mark::Promised) => Self::GivenBack,@@Some(Mark::Promised) => Self::Accepted,
a decided container stays@@ownership.rs@@Some(Mark::Commit) => Self::Leaves,@@Some(Mark::Commit) if alive => Self::Stays,\n            Some(Mark::Commit) => Self::Leaves,
discarded is owned@@ownership.rs@@(Some(Mark::Discarded), _) => Some(ToSource::Aborted),@@(Some(Mark::Discarded), _) => Some(ToSource::Committed),
a torn line is appended to@@journal.rs@@if self.torn {@@if false {
the last written is the newest@@journal.rs@@Some(known) => *known = entry,@@Some(_) => {\n            latest.retain(|known| known.migration != entry.migration);\n            latest.push(entry);\n        }
read back without writing anew@@journal.rs@@write_anew(&mut self.storage, &latest)?;\n        self.torn = false;\n        self.latest = latest;@@self.latest = latest;
'
failed=0
while IFS= read -r line; do
  [ -n "$line" ] || continue
  name=$(sed 's/@@.*//' <<<"$line")
  LINE=$line python3 - "$copy/crates/protocol/src" crates/protocol/src <<'PY'
import os, sys
name, file, text, broken = (part.replace("\\n", "\n") for part in os.environ["LINE"].split("@@"))
whole = open(f"{sys.argv[2]}/{file}").read()
if text not in whole:
    sys.exit(f"{name}: {file} has no such text any more: mend this list")
open(f"{sys.argv[1]}/{file}", "w").write(whole.replace(text, broken, 1))
PY
  if ! (cd "$copy" && cargo build --release --quiet --locked --package drover-sim --example seeds 2>"$copy/log"); then
    sed 's/^/  /' "$copy/log"
    echo "$name: does not build: mend this list"
    failed=1
  elif found=$("$CARGO_TARGET_DIR/release/examples/seeds" "$seeds"); then
    echo "$name: NOT FOUND within $seeds seeds"
    failed=1
  else
    echo "$name: $found"
  fi
  cp -r crates/protocol/src "$copy/crates/protocol/"
done <<<"$breaks"
exit $failed
