<?php
// Where to connect, and how to print: the last two arguments are HOST PORT.

[$host, $port] = array_slice($argv, -2);
define('HOST', $host);
define('PORT', (int) $port);

error_reporting(E_ALL);
ini_set('display_errors', 'stderr');

// A run that hangs is a failed run. The signal ends the process, also while it waits for a reply.
if (function_exists('pcntl_alarm')) {
    pcntl_alarm(100);
}

/** Prints one line of the transcript. */
function say(string $label, mixed ...$values): void
{
    echo $label, ' ', implode(' ', array_map('shown', $values)), "\n";
}

/** Formats a value as text that shows every byte. */
function shown(mixed $value): string
{
    if (is_string($value)) {
        return '"' . addcslashes($value, "\0..\37\"\\\177..\377") . '"';
    }
    if (is_array($value)) {
        $texts = array_map(fn ($key, $item) => (is_int($key) ? $key : shown($key)) . ' => ' . shown($item), array_keys($value), $value);
        return '[' . implode(', ', $texts) . ']';
    }
    if ($value instanceof Throwable) {
        return get_class($value) . ': ' . $value->getMessage();
    }
    return json_encode($value, JSON_PRESERVE_ZERO_FRACTION);
}

/** Returns the number of the database to use. Older servers have one database in a cluster, used in place of each other one. */
function database(int $number): int
{
    return getenv('ONE_DATABASE') === false ? $number : 0;
}

/** Returns what the call returns, or the exception that it throws. */
function attempt(callable $call): mixed
{
    try {
        return $call();
    } catch (Throwable $error) {
        return $error;
    }
}

function connect(bool $persistent = false, string $id = ''): Redis
{
    $redis = new Redis();
    $persistent ? $redis->pconnect(HOST, PORT, 10, $id) : $redis->connect(HOST, PORT, 10);
    return $redis;
}
