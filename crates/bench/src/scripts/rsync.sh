# Makes the target's copy of a tree equal, and prints how many nanoseconds that took: rsync.sh TREE
# In place and by blocks, as is best for files that are changed in place.
set -eu
begin=$(date +%s%N)
rsync -a --inplace --no-whole-file --delete "/var/lib/drover/bench/$1/" "rsync://$TARGET/bench/$1/tree/"
echo $(($(date +%s%N) - begin))
