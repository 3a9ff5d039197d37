# Makes the target's copy of a tree equal, and prints how many nanoseconds that took: rsync.sh TREE OPTION...
# In place and by blocks, as is best for files that are changed in place.
set -eu
tree=$1
shift
begin=$(date +%s%N)
rsync -a --inplace --no-whole-file --delete "$@" "/var/lib/drover/bench/rsync/$tree/" "rsync://$TARGET/bench/$tree/"
echo $(($(date +%s%N) - begin))
