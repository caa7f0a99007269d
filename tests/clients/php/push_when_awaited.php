<?php
// Pushes a job as soon as a client waits for one.

require __DIR__ . '/transcript.php';

$r = connect();
$deadline = microtime(true) + 20;
// In a cluster, INFO shows the blocked clients of one node only.
while (!array_filter($r->client('list'), fn ($client) => str_contains($client['flags'], 'b'))) {
    if (microtime(true) > $deadline) {
        exit(1);
    }
    usleep(5000);
}
$r->rPush('queue', 'job');
