<?php
// Pushes a job as soon as a client waits for one.

require __DIR__ . '/transcript.php';

$r = connect();
$deadline = microtime(true) + 20;
while ((int) $r->info('clients')['blocked_clients'] === 0) {
    if (microtime(true) > $deadline) {
        exit(1);
    }
    usleep(5000);
}
$r->rPush('queue', 'job');
