# frozen_string_literal: true

# redis-rb: what an application does in a day. This version of the library speaks RESP2.

require_relative "transcript"
require "connection_pool"
require "digest"

def basics(r)
  say "ping", r.ping, r.ping("hello"), r.echo("hi")
  say "name", r.call(:client, :getname)
  say "set", r.set("k", "v", ex: 100), r.get("k"), r.get("nothing"), r.set("k", "w", nx: true)
  say "wrong type", attempt { r.lpush("k", "x") }
  say "unknown command", attempt { r.call(:nosuch, "a") }
  say "hash", r.hset("h", "a", 1, "b", 2), r.hgetall("h"), r.hincrbyfloat("h", "a", 1.5)
  say "members", r.sadd("s", %w[a b c]), r.smembers("s").sort
  say "scores", r.zadd("z", [[1, "a"], [2.5, "b"]]), r.zrange("z", 0, -1, with_scores: true)
  binary = (0..255).map(&:chr).join.b * 40
  say "binary", r.set(binary, binary), r.get(binary).b == binary, r.strlen(binary)
  say "large", r.set("large", "x" * 3_000_000), r.get("large").size
  say "many keys", r.mset(*(0...500).flat_map { |i| ["key:#{i}", i] })
  say "sum", r.mget(*(0...500).map { |i| "key:#{i}" }).sum(&:to_i)
  say "scan", r.scan_each(match: "key:*", count: 50).to_a.uniq.size
  say "hscan", r.hscan_each("h").to_a
  say "role", r.role.first, r.info("replication")["role"]
end

def pipelines(r)
  replies = r.pipelined { |p| 2000.times { |i| p.set("p:#{i}", i); p.get("p:#{i}") } }
  say "pipeline in order", replies == (0...2000).flat_map { |i| ["OK", i.to_s] }
  say "pipeline with an error", attempt { r.pipelined { |p| p.set("a", 1); p.lpush("a", 2); p.get("a") } }
  say "after the error", r.get("a")
end

def transactions(r)
  say "transaction", r.multi { |t| t.set("a", 1); t.incr("a"); t.get("a") }
  say "transaction with an error", attempt { r.multi { |t| t.set("a", 1); t.lpush("a", 2) } }
  say "aborted transaction", attempt { r.multi { |t| t.set("a", 9); t.call([:nosuch]) } }, r.get("a")
  say "raised inside", attempt { r.multi { |t| t.set("a", 7); raise "mine" } }, r.get("a")
  other = connect
  conflict = r.watch("a") do
    other.set("a", "changed")
    r.multi { |t| t.set("a", "mine") }
  end
  say "watch conflict", conflict, r.get("a")
  say "watch without a conflict", r.watch("a") { r.multi { |t| t.set("a", "mine") } }
  say "unwatched", r.watch("a") { r.unwatch }
  other.close
  workers = 5.times.map do
    Thread.new do
      own = connect
      20.times { nil until add_one(own) }
      own.close
    end
  end
  workers.each(&:join)
  say "watched counter", r.get("watched")
end

# Returns nil if another client changed the number meanwhile.
def add_one(r)
  r.watch("watched") do
    value = r.get("watched").to_i
    r.multi { |t| t.set("watched", value + 1) }
  end
end

def scripts(r)
  source = "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}"
  hash = Digest::SHA1.hexdigest(source)
  run = lambda do |by|
    r.evalsha(hash, ["n"], [by])
  rescue Redis::CommandError => e
    raise unless e.message.start_with?("NOSCRIPT")

    ["fallback", r.eval(source, ["n"], [by])]
  end
  say "script", run.call(5), run.call(6)
  say "flush", r.script(:flush), r.script(:exists, hash)
  say "script after a flush", run.call(1)
  say "load", r.script(:flush), r.script(:load, source) == hash, run.call(2)
  say "script error", attempt { r.eval("return redis.call('HGET', KEYS[1], 'f')", ["n"]) }
  say "script in a pipeline", r.pipelined { |p| p.evalsha(hash, ["n"], [1]); p.get("n") }
end

def blocking(r)
  waiter = Thread.new { connect.blpop("queue", "{queue}2", timeout: 20) }
  say "push", r.rpush("queue", "job")
  say "blocking pop", waiter.value
  say "blocking pop that finds nothing", r.blpop("queue", timeout: 0.1)
  say "move", r.rpush("queue", %w[a b]), r.blmove("queue", "{queue}other", "LEFT", "RIGHT", timeout: 5), r.lrange("{queue}other", 0, -1)
  say "pop of a scored member", r.zadd("scored", 1, "m"), r.bzpopmin("scored", timeout: 5)
  say "stream", r.xadd("log", { "f" => "v" }, id: "1-0"), r.xread("log", "0", block: 5000)
  say "group", r.xgroup(:create, "log", "g", "0"), r.xreadgroup("g", "one", "log", ">"), r.xack("log", "g", "1-0")
end

def messages(r)
  subscriber = connect
  seen = Queue.new
  thread = Thread.new do
    subscriber.subscribe("news", "more") do |on|
      on.subscribe { |channel, count| seen << ["subscribe", channel, count] }
      on.message do |channel, text|
        seen << ["message", channel, text]
        subscriber.psubscribe("n*") if text == "patterns"
        subscriber.unsubscribe("news", "more") if text == "channels end"
      end
      on.psubscribe { |pattern, count| seen << ["psubscribe", pattern, count] }
      on.pmessage do |pattern, channel, text|
        seen << ["pmessage", pattern, channel, text]
        subscriber.punsubscribe if text == "patterns end"
      end
      on.unsubscribe { |channel, count| seen << ["unsubscribe", channel, count] }
      on.punsubscribe { |pattern, count| seen << ["punsubscribe", pattern, count] }
    end
  end
  show = ->(count) { count.times { say "heard", seen.pop } }
  show.call(2)
  say "receivers", r.publish("news", "hello"), r.publish("more", "\0\r\n\xff".b), r.publish("unheard", "x")
  show.call(2)
  say "receivers", r.publish("more", "patterns")
  show.call(2)
  say "receivers", r.publish("news", "to both")
  show.call(2)
  say "subscribers", r.pubsub(:numsub, "news", "unheard"), r.pubsub(:numpat)
  say "receivers", r.publish("news", "patterns end")
  show.call(3)
  say "receivers", r.publish("more", "channels end")
  show.call(3)
  thread.join
  say "the same connection again", subscriber.get("k")
  subscriber.close
  say "no message in time", attempt { connect(timeout: 30).subscribe_with_timeout(0.2, "quiet") { |_| nil } }
end

# Many threads share few connections. Each must read its own writes.
def crowd
  pool = ConnectionPool.new(size: 5, timeout: 30) { connect }
  right = 30.times.map do |i|
    Thread.new do
      20.times.all? do |j|
        pool.with { |r| r.set("c:#{i}", j) }
        pool.with { |r| r.get("c:#{i}") } == j.to_s
      end
    end
  end
  say "crowd", right.all?(&:value)
  # A thread that is ended in the middle of a wait leaves no reply to the next one.
  10.times do
    waiting = Thread.new { Timeout.timeout(0.02) { pool.with { |r| r.blpop("none", timeout: 20) } } }
    waiting.abort_on_exception = waiting.report_on_exception = false
    attempt { waiting.join }
  end
  say "after abandoned waits", (0...10).map { |i| pool.with { |r| r.echo(i.to_s) } }
  pool.shutdown(&:close)
end

def databases
  r = connect(db: database(5))
  say "database 5", r.set("here", 1), r.dbsize
  say "database 0", r.select(0), r.exists?("here")
  say "no such database", attempt { r.select(99) }
end

client = connect(id: "worker")
%i[basics pipelines transactions scripts blocking messages].each do |part|
  puts "--- #{part}"
  send(part, client)
end
say "flushed", client.flushall
crowd
databases
say "flushed", client.flushall
