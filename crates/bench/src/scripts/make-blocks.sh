# Makes a file of 1 GiB that cannot be compressed, if it is not there.
set -eu
place=/var/lib/drover/bench
[ ! -e "$place/blocks" ] || exit 0
mkdir -p "$place/new"
head -c 1G /dev/urandom >"$place/new/file"
mv "$place/new" "$place/blocks"
