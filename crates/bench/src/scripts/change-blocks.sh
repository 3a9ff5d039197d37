# Writes other bytes into 5 % of the blocks of 8 KiB of a file, at random; prints how many bytes
# those are.
set -eu
exec perl -e '
  my ($size, $path) = (8192, "/var/lib/drover/bench/blocks/file");
  open(my $file, "+<", $path) or die "cannot open $path: $!";
  open(my $random, "<", "/dev/urandom") or die;
  my $blocks = (-s $file) / $size;
  my %chosen;
  $chosen{int(rand($blocks))} = 1 while keys %chosen < $blocks / 20;
  for my $block (sort { $a <=> $b } keys %chosen) {
    sysread($random, my $bytes, $size) == $size or die;
    sysseek($file, $block * $size, 0) or die;
    syswrite($file, $bytes) == $size or die;
  }
  print $size * keys(%chosen), "\n";'
