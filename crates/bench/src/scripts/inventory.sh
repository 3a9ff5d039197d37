# What there is on a node that a move could leave behind, a line each.
cut -d' ' -f2,3 /proc/mounts | sed 's/^/mount /'
ip -o link | cut -d: -f2 | sed 's/^/link/'
# What is in a container's mounts goes with them.
find /run/drover /var/lib/drover /run/netns /tmp /var/tmp -xdev -mindepth 1 \
  -path /var/lib/drover/images -prune -o -print 2>/dev/null | sed 's/^/file /'
find /sys/fs/cgroup -type d -path '*drover*' | sed 's/^/cgroup /'
nft list ruleset 2>/dev/null | sed 's/^/nft /'
for process in /proc/[0-9]*; do
  line=$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null) || continue
  # Those that end are on their way, and this script is none of the node's.
  case $line in '' | *lab-host* | *inventory.sh*) ;; *) echo "process $line" ;; esac
done
true
