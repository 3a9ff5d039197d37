# Writes 1,000 of the small files anew, at random; prints how many bytes those are.
set -eu
exec perl -e '
  open(my $random, "<", "/dev/urandom") or die;
  my (%chosen, $total);
  $chosen{int(rand(100)) . "/" . int(rand(1000))} = 1 while keys %chosen < 1000;
  for my $name (keys %chosen) {
    sysread($random, my $bytes, 1024 + int(rand(7168)));
    open(my $file, ">", "/var/lib/drover/bench/files/$name") or die;
    $total += syswrite($file, $bytes) or die;
  }
  print "$total\n";'
