<?php
// phpredis: what an application does in a day. The extension speaks RESP2.

require __DIR__ . '/transcript.php';

function basics(Redis $r): void
{
    say('ping', $r->ping(), $r->ping('hello'), $r->echo('hi'));
    say('set', $r->set('k', 'v', ['ex' => 100]), $r->get('k'), $r->get('nothing'), $r->set('k', 'w', ['nx']));
    say('name', $r->client('setname', 'worker'), $r->client('getname'));
    say('wrong type', $r->lPush('k', 'x'), $r->getLastError());
    $r->clearLastError();
    say('unknown command', $r->rawCommand('NOSUCH', 'a'), $r->getLastError());
    $r->clearLastError();
    say('hash', $r->hMSet('h', ['a' => 1, 'b' => 2]), $r->hGetAll('h'), $r->hIncrByFloat('h', 'a', 1.5), $r->hMGet('h', ['a', 'none']));
    say('scores', $r->zAdd('z', 1, 'a', 2.5, 'b'), $r->zRange('z', 0, -1, true), $r->zScore('z', 'b'));
    $binary = str_repeat(implode('', array_map('chr', range(0, 255))), 40);
    say('binary', $r->set($binary, $binary), $r->get($binary) === $binary, $r->strLen($binary));
    say('large', $r->set('large', str_repeat('x', 3000000)), strlen($r->get('large')));
    say('many keys', $r->mSet(array_combine(array_map(fn ($i) => "key:$i", range(0, 499)), range(0, 499))));
    say('sum', array_sum($r->mGet(array_map(fn ($i) => "key:$i", range(0, 499)))));
    foreach ([Redis::SERIALIZER_PHP, Redis::SERIALIZER_JSON, Redis::SERIALIZER_NONE] as $serializer) {
        $r->setOption(Redis::OPT_SERIALIZER, $serializer);
        if ($serializer !== Redis::SERIALIZER_NONE) {
            say('serialized', $r->set('array', ['a' => [1, 2.5, null]]), $r->get('array'));
        }
    }
    $r->setOption(Redis::OPT_PREFIX, 'mine:');
    say('prefix', $r->set('p', 1), $r->get('p'), $r->keys('*'));
    $r->setOption(Redis::OPT_PREFIX, '');
    say('info', $r->info('replication')['role']);
    say('database 5', $r->select(database(5)), $r->set('here', 1), $r->dbSize());
    say('database 0', $r->select(0), $r->exists('here'));
    say('no such database', attempt(fn () => $r->select(99)), $r->getLastError());
    $r->clearLastError();
}

function pipelines(Redis $r): void
{
    $pipe = $r->multi(Redis::PIPELINE);
    for ($i = 0; $i < 2000; $i++) {
        $pipe->set("p:$i", $i)->get("p:$i");
    }
    $replies = $pipe->exec();
    $expected = [];
    for ($i = 0; $i < 2000; $i++) {
        array_push($expected, true, (string) $i);
    }
    say('pipeline in order', $replies === $expected);
    say('pipeline with an error', $r->pipeline()->set('a', 1)->lPush('a', 2)->get('a')->exec(), $r->getLastError());
    $r->clearLastError();
    // A transaction inside a pipeline.
    say('transaction in a pipeline', $r->pipeline()->multi()->set('a', 5)->incr('a')->exec()->get('a')->exec());
}

function transactions(Redis $r): void
{
    say('transaction', $r->multi()->set('a', 1)->incr('a')->get('a')->exec());
    say('transaction with an error', $r->multi()->set('a', 1)->lPush('a', 2)->exec(), $r->getLastError());
    $r->clearLastError();
    say('discarded', $r->multi()->set('a', 7)->discard(), $r->get('a'));
    $other = connect();
    say('watch', $r->watch('a'), $other->set('a', 'changed'), $r->multi()->set('a', 'mine')->exec(), $r->get('a'));
    say('watch without a conflict', $r->watch(['a', '{a}b']), $r->multi()->set('a', 'mine')->exec(), $r->get('a'));
    say('unwatched', $r->watch('a'), $other->set('a', 'changed'), $r->unwatch(), $r->multi()->get('a')->exec());
    $other->close();
}

function scripts(Redis $r): void
{
    $source = "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}";
    $hash = sha1($source);
    $run = function (int $by) use ($r, $source, $hash) {
        $reply = $r->evalSha($hash, ['n', $by], 1);
        if ($reply === false && str_starts_with((string) $r->getLastError(), 'NOSCRIPT')) {
            $r->clearLastError();
            return ['fallback', $r->eval($source, ['n', $by], 1)];
        }
        return $reply;
    };
    say('script', $run(5), $run(6));
    say('flush', $r->script('flush'), $r->script('exists', $hash));
    say('script after a flush', $run(1));
    say('load', $r->script('flush'), $r->script('load', $source) === $hash, $run(2));
    say('script error', $r->eval("return redis.call('HGET', KEYS[1], 'f')", ['n'], 1), $r->getLastError());
    $r->clearLastError();
}

function blocking(Redis $r): void
{
    $waiter = popen(PHP_BINARY . ' ' . escapeshellarg(__DIR__ . '/push_when_awaited.php') . ' ' . HOST . ' ' . PORT, 'r');
    say('blocking pop', $r->blPop(['queue', '{queue}2'], 20));
    stream_get_contents($waiter);
    say('pusher', pclose($waiter));
    say('blocking pop that finds nothing', $r->blPop('queue', 1));
    say('move', $r->rPush('queue', 'a', 'b'), $r->bRPopLPush('queue', '{queue}other', 5), $r->lRange('{queue}other', 0, -1));
    say('pop of a scored member', $r->zAdd('scored', 1, 'm'), $r->bzPopMin('scored', 5));
    say('stream', $r->xAdd('log', '1-0', ['f' => 'v']), $r->xRead(['log' => '0'], 10, 5000));
    say('group', $r->xGroup('CREATE', 'log', 'g', '0'), $r->xReadGroup('g', 'one', ['log' => '>'], 1), $r->xAck('log', 'g', ['1-0']));
}

function messages(Redis $r): void
{
    $publisher = connect();
    $published = 0;
    $seen = function (Redis $subscriber, ...$message) use ($publisher, &$published) {
        say('message', ...$message);
        if ($published < 20) {
            $publisher->publish('more', "m\0\r\n" . $published++);
        } else {
            $pattern = count($message) === 3;
            $pattern ? $subscriber->punsubscribe(['m*', 'n*']) : $subscriber->unsubscribe(['news', 'more']);
            // The extension would wait for further messages for ever.
            $subscriber->close();
        }
    };
    $start = fn () => popen(PHP_BINARY . ' ' . escapeshellarg(__DIR__ . '/publish_when_heard.php') . ' ' . HOST . ' ' . PORT, 'r');
    foreach ([fn () => $r->subscribe(['news', 'more'], $seen), fn () => $r->psubscribe(['m*', 'n*'], $seen)] as $subscribe) {
        $published = 0;
        $helper = $start();
        say('ends', attempt($subscribe));
        stream_get_contents($helper);
        say('publisher', pclose($helper));
        $r->close();
        $r->connect(HOST, PORT, 10);
    }
    say('receivers', $r->publish('unheard', 'x'), $r->pubsub('numsub', ['news', 'unheard']));
}

function scans(Redis $r): void
{
    $r->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
    $seen = [];
    $cursor = null;
    while (($keys = $r->scan($cursor, 'key:*', 50)) !== false) {
        foreach ($keys as $key) {
            $seen[$key] = true;
        }
    }
    say('scan', count($seen));
    $cursor = null;
    say('hscan', $r->hScan('h', $cursor));
}

/** Persistent connections outlive their object, and come back from a pool with whatever a former user left. */
function persistent(): void
{
    ini_set('redis.pconnect.pooling_enabled', '1');
    $first = connect(true);
    say('persistent', $first->set('k', 'v'), $first->client('setname', 'kept'));
    unset($first);
    $second = connect(true);
    say('from the pool', $second->get('k'), $second->client('getname'), $second->select(database(3)), $second->set('k', 3));
    unset($second);
    $third = connect(true);
    say('database of a pooled connection', $third->get('k'), $third->select(0));
    $crowd = array_map(fn ($i) => connect(true, "id$i"), range(0, 19));
    foreach ($crowd as $i => $r) {
        $r->set("own:$i", $i);
    }
    say('own values', array_map(fn ($i) => $crowd[$i]->get("own:$i"), range(0, 19)));
    array_map(fn ($r) => $r->close(), $crowd);
    $again = array_map(fn ($i) => connect(true, "id$i"), range(0, 19));
    say('own values again', array_map(fn ($i) => $again[$i]->get("own:$i"), range(0, 19)));
}

$r = connect();
foreach (['basics', 'pipelines', 'transactions', 'scripts', 'blocking', 'scans'] as $part) {
    echo "--- $part\n";
    $part($r);
}
say('flushed', $r->flushAll());
messages($r);
persistent();
say('flushed', $r->flushAll());
