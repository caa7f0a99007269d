<?php
// Publishes the first message as soon as its channel has a subscriber.

require __DIR__ . '/transcript.php';

$r = connect();
$deadline = microtime(true) + 20;
while ($r->publish('news', 'first') === 0) {
    if (microtime(true) > $deadline) {
        exit(1);
    }
    usleep(5000);
}
