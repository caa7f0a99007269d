# Redis.pm: what an application does in a day. The library speaks RESP2.

use strict;
use warnings;

use Digest::SHA qw(sha1_hex);
use Redis;

$| = 1;
my ($host, $port) = @ARGV[-2, -1];
# Older servers have one database in a cluster.
my $database = exists $ENV{ONE_DATABASE} ? 0 : 5;

# A run that hangs is a failed run: the signal ends the process.
alarm 100;

sub connected {
    return Redis->new(server => "$host:$port", read_timeout => 30, encoding => undef, @_);
}

# Prints one line of the transcript.
sub report {
    my ($label, @values) = @_;
    print join(' ', $label, map { shown($_) } @values), "\n";
}

# Formats a value as text that shows every byte.
sub shown {
    my ($value) = @_;
    return 'undef' unless defined $value;
    return '[' . join(', ', map { shown($_) } @$value) . ']' if ref $value eq 'ARRAY';
    $value =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/ge;
    return qq("$value");
}

# Returns what the code returns, or the error that it dies with, without the place in this file.
sub attempt {
    my ($code) = @_;
    my $value = eval { $code->() };
    return $value unless $@;
    (my $error = $@) =~ s/,? at \S+ line \d+\.?\s*\z//s;
    return "error: $error";
}

sub basics {
    my ($r) = @_;
    report 'ping', $r->ping, $r->echo('hi');
    report 'name', $r->client_getname;
    report 'set', $r->set('k', 'v', 'EX', 100), $r->get('k'), $r->get('nothing'), $r->set('k', 'w', 'NX');
    report 'wrong type', attempt(sub { $r->lpush('k', 'x') });
    report 'unknown command', attempt(sub { $r->nosuch('a') });
    report 'hash', $r->hset('h', 'a', 1), $r->hset('h', 'b', 2), {$r->hgetall('h')}->{b}, $r->hincrbyfloat('h', 'a', 1.5);
    report 'scores', $r->zadd('z', 1, 'a', 2.5, 'b'), [$r->zrange('z', 0, -1, 'WITHSCORES')];
    my $binary = join('', map { chr } 0 .. 255) x 40;
    report 'binary', $r->set($binary, $binary), $r->get($binary) eq $binary, $r->strlen($binary);
    report 'large', $r->set('large', 'x' x 3_000_000), length $r->get('large');
    report 'many keys', $r->mset(map { ("key:$_", $_) } 0 .. 499);
    my $sum = 0;
    $sum += $_ for $r->mget(map { "key:$_" } 0 .. 499);
    report 'sum', $sum;
    my ($cursor, %seen) = (0);
    do {
        ($cursor, my $keys) = $r->scan($cursor, 'MATCH', 'key:*', 'COUNT', 50);
        $seen{$_} = 1 for @$keys;
    } while ($cursor);
    report 'scan', scalar keys %seen;
    report 'info', $r->info('replication')->{role};
    report 'database 5', $r->select($database), $r->set('here', 1), $r->dbsize;
    report 'database 0', $r->select(0), $r->exists('here');
    report 'no such database', attempt(sub { $r->select(99) });
}

sub pipelines {
    my ($r) = @_;
    my @replies;
    for my $i (0 .. 1999) {
        $r->set("p:$i", $i, sub { push @replies, $_[0] });
        $r->get("p:$i", sub { push @replies, $_[0] });
    }
    $r->wait_all_responses;
    report 'pipeline in order', "@replies" eq join(' ', map { ('OK', $_) } 0 .. 1999);
    $r->set('a', 1, sub { report 'pipelined set', @_ });
    $r->lpush('a', 2, sub { report 'pipelined error', @_ });
    $r->get('a', sub { report 'pipelined get', @_ });
    $r->wait_all_responses;
}

sub transactions {
    my ($r) = @_;
    report 'transaction', $r->multi, $r->set('a', 1), $r->incr('a'), $r->get('a'), [$r->exec];
    report 'transaction with an error', $r->multi, $r->set('a', 1), $r->lpush('a', 2), attempt(sub { [$r->exec] });
    report 'aborted transaction', $r->multi, attempt(sub { $r->nosuch }), attempt(sub { [$r->exec] });
    report 'discarded', $r->multi, $r->set('a', 7), $r->discard, $r->get('a');
    my $other = connected();
    report 'watch', $r->watch('a'), $other->set('a', 'changed');
    report 'watch conflict', $r->multi, $r->set('a', 'mine'), attempt(sub { scalar $r->exec }), $r->get('a');
    report 'watch without a conflict', $r->watch('a'), $r->multi, $r->set('a', 'mine'), [$r->exec], $r->get('a');
    report 'unwatched', $r->watch('a'), $other->set('a', 'changed'), $r->unwatch, $r->multi, $r->get('a'), [$r->exec];
    $other->quit;
}

sub scripts {
    my ($r) = @_;
    my $source = "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}";
    my $hash   = sha1_hex($source);
    my $run    = sub {
        my $reply = eval { [$r->evalsha($hash, 1, 'n', @_)] };
        return $reply unless $@;
        die $@ unless $@ =~ /NOSCRIPT/;
        return ['fallback', [$r->eval($source, 1, 'n', @_)]];
    };
    report 'script', $run->(5), $run->(6);
    report 'flush', $r->script_flush, [$r->script_exists($hash)];
    report 'script after a flush', $run->(1);
    report 'load', $r->script_flush, $r->script_load($source) eq $hash, $run->(2);
    report 'script error', attempt(sub { $r->eval("return redis.call('HGET', KEYS[1], 'f')", 1, 'n') });
}

sub blocking {
    my ($r) = @_;
    defined(my $child = fork) or die "cannot fork: $!";
    if (!$child) {
        my $pusher = connected();
        my $deadline = time + 20;
        # In a cluster, INFO shows the blocked clients of one node only.
        until ($pusher->client_list =~ / flags=\w*b/) {
            exit 1 if time > $deadline;
            select undef, undef, undef, 0.005;
        }
        $pusher->rpush('queue', 'job');
        exit 0;
    }
    report 'blocking pop', [$r->blpop('queue', '{queue}2', 20)];
    waitpid $child, 0;
    report 'pusher', $?;
    report 'blocking pop that finds nothing', $r->blpop('queue', 0.1);
    report 'move', $r->rpush('queue', 'a', 'b'), $r->brpoplpush('queue', '{queue}other', 5), [$r->lrange('{queue}other', 0, -1)];
    report 'stream', $r->xadd('log', '1-0', 'f', 'v'), $r->xread('BLOCK', 5000, 'STREAMS', 'log', 0);
}

sub messages {
    my ($r) = @_;
    my $subscriber = connected();
    my $heard = sub { report 'heard', @_ };
    $subscriber->subscribe('news', 'more', $heard);
    $subscriber->psubscribe('n*', $heard);
    report 'receivers', $r->publish('news', 'hello'), $r->publish('more', "\0\r\n\xff"), $r->publish('unheard', 'x');
    my $left = 3;
    $left -= $subscriber->wait_for_messages(0.01) while $left > 0;
    report 'subscribers', [$r->pubsub('NUMSUB', 'news', 'unheard')], $r->pubsub('NUMPAT');
    $r->publish('more', $_, sub { }) for 0 .. 99;
    $r->wait_all_responses;
    $left = 100;
    $left -= $subscriber->wait_for_messages(0.01) while $left > 0;
    $subscriber->unsubscribe('news', 'more', $heard);
    $subscriber->punsubscribe('n*', $heard);
    report 'the same connection again', $subscriber->get('k');
    $subscriber->quit;
}

my $client = connected(name => 'worker');
my @parts = (
    [basics => \&basics], [pipelines => \&pipelines], [transactions => \&transactions],
    [scripts => \&scripts], [blocking => \&blocking], [messages => \&messages],
);
for (@parts) {
    my ($name, $part) = @$_;
    print "--- $name\n";
    $part->($client);
}
report 'flushed', $client->flushall;
report 'quit', $client->quit;
