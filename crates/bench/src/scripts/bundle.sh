# Makes a bundle for runc out of the image's root, which is tarred on standard input, and prints runc's own config.json.
set -eu
rm -rf /run/bench/bundle
mkdir -p /run/bench/bundle/rootfs
tar -C /run/bench/bundle/rootfs -xf -
cd /run/bench/bundle
runc spec
cat config.json
