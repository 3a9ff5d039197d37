# Makes the network namespace `ct` that a peer's container is put into: wire.sh here|there
# The link is of the kind that Drover's containers have, so that the client's packets take the same way.
set -eu
ip netns del ct 2>/dev/null || true
ip netns add ct
# MLD and neighbour discovery of the waiting copy would teach the switch a wrong port.
ip netns exec ct sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
ip link add link eth0 name ct0 address 02:77:00:00:00:50 type macvlan mode bridge
ip link set ct0 netns ct name eth0
# Where the container is awaited, nobody answers for its address before it is there.
[ "$1" = here ] || ip netns exec ct sh -c 'echo 8 >/proc/sys/net/ipv4/conf/all/arp_ignore'
ip -n ct link set lo up
ip -n ct addr add 10.77.0.50/16 dev eth0
ip -n ct link set eth0 up
# The switch still knows where the last container with this address was.
[ "$1" != here ] || ip netns exec ct busybox arping -q -U -c 1 -I eth0 10.77.0.50 || true
