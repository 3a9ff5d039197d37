# Takes away what an earlier pgbench has logged. Nothing of it need be there.
rm -f /run/bench.pgbench.*
