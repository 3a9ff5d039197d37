# What CRIU is told besides what runc and Podman know how to tell it.
set -eu
mkdir -p /etc/criu /run/bench
# The usual lock forks iptables-restore, which costs 75 ms at each end.
printf 'network-lock nftables\n' >/etc/criu/runc.conf
