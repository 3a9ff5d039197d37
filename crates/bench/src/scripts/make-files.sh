# Makes 100,000 files of 1 KiB to 8 KiB in 100 directories, if they are not there.
set -eu
place=/var/lib/drover/bench
[ ! -e "$place/files" ] || exit 0
mkdir -p "$place/new"
exec perl -e '
  my $place = $ARGV[0];
  open(my $random, "<", "/dev/urandom") or die;
  for my $directory (0 .. 99) {
    mkdir "$place/new/$directory" or die;
    for my $number (0 .. 999) {
      sysread($random, my $bytes, 1024 + int(rand(7168)));
      open(my $file, ">", "$place/new/$directory/$number") or die;
      syswrite($file, $bytes) == length($bytes) or die;
    }
  }
  rename("$place/new", "$place/files") or die;' "$place"
