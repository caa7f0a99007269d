<?php
// PHP sessions in the server, by phpredis' session handler with locking: 4 processes add to one session, each in turn.

require __DIR__ . '/transcript.php';

const PROCESSES = 4;
const ROUNDS = 10;

ini_set('session.save_handler', 'redis');
ini_set('session.save_path', 'tcp://' . HOST . ':' . PORT . '?prefix=SESSION:&timeout=10&persistent=0');
ini_set('session.gc_maxlifetime', '1000');
ini_set('session.use_cookies', '0');
ini_set('session.use_only_cookies', '0');
ini_set('session.cache_limiter', '');
ini_set('redis.session.locking_enabled', '1');
ini_set('redis.session.lock_expire', '60');
ini_set('redis.session.lock_wait_time', '2000');
ini_set('redis.session.lock_retries', '10000');

/** Opens the session, which locks it, changes it, and writes it back. */
function add(string $id, string $by): void
{
    session_id($id);
    session_start() or exit(3);
    $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
    $_SESSION['by'][$by] = ($_SESSION['by'][$by] ?? 0) + 1;
    $_SESSION['bytes'] = "\0\r\n\xff";
    session_write_close() or exit(4);
    $_SESSION = [];
}

if ($argv[1] === 'add') {
    for ($i = 0; $i < ROUNDS; $i++) {
        add('shared', $argv[2]);
    }
    exit(0);
}

// PHP changes sessions only before it has written anything.
ob_start();
add('alone', 'main');
$r = connect();
say('keys', $r->keys('*'));
say('value', $r->get('SESSION:alone'));
say('expiry', $r->ttl('SESSION:alone') > 990);

$adders = array_map(fn ($i) => proc_open([PHP_BINARY, __FILE__, 'add', "p$i", HOST, (string) PORT], [], $pipes), range(1, PROCESSES));
say('adders', array_map('proc_close', $adders));
$stored = $r->get('SESSION:shared');
session_id('shared');
session_start();
ksort($_SESSION['by']);
say('locked', $r->exists('SESSION:shared_LOCK'), $_SESSION);
say('regenerated', session_regenerate_id(true), $r->exists('SESSION:shared'), session_id() !== 'shared');
say('destroyed', session_destroy(), count($r->keys('*')));

// A locked session is not written: the other process gives up.
$r->set('SESSION:taken_LOCK', 'somebody');
ini_set('redis.session.lock_retries', '3');
session_id('taken');
say('taken', @session_start(), @session_write_close(), $r->get('SESSION:taken'), $r->get('SESSION:taken_LOCK'));
