# Counts the bytes of the packets that this host itself sends to the other node: count.sh PEER-ADDRESS
# Containers' packets do not pass the host's output hook.
set -eu
nft delete table inet bench 2>/dev/null || true
nft "add table inet bench; add counter inet bench wire; add chain inet bench out { type filter hook output priority 0; };
  add rule inet bench out ip daddr $1 counter name wire"
