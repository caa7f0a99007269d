// redigo: what an application does in a day. The library speaks RESP2.
package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

func newPool(active int) *redis.Pool {
	return &redis.Pool{
		MaxIdle:   active,
		MaxActive: active,
		Wait:      true,
		Dial: func() (redis.Conn, error) {
			return redis.Dial("tcp", address(), redis.DialReadTimeout(30*time.Second), redis.DialClientName("worker"))
		},
		TestOnBorrow: func(c redis.Conn, _ time.Time) error {
			_, err := c.Do("PING")
			return err
		},
	}
}

// do runs a command and returns its reply, or its error as the reply.
func do(c redis.Conn, command string, arguments ...interface{}) interface{} {
	reply, err := c.Do(command, arguments...)
	if err != nil {
		return err
	}
	return reply
}

func basics(c redis.Conn) {
	say("ping", do(c, "PING"), do(c, "ECHO", "hello"))
	say("name", do(c, "CLIENT", "GETNAME"))
	say("set", do(c, "SET", "k", "v", "EX", 100), do(c, "GET", "k"), do(c, "GET", "nothing"), do(c, "SET", "k", "w", "NX"))
	say("wrong type", do(c, "LPUSH", "k", "x"))
	say("unknown command", do(c, "NOSUCH", "a"))
	say("wrong number of arguments", do(c, "GET"))
	say("hash", do(c, "HSET", "h", "a", 1, "b", 2.5), do(c, "HINCRBYFLOAT", "h", "b", 1))
	hash, err := redis.StringMap(c.Do("HGETALL", "h"))
	say("hash as a map", hash, err)
	say("scores", do(c, "ZADD", "z", 1, "a", 2.5, "b"), do(c, "ZRANGE", "z", 0, -1, "WITHSCORES"))
	binary := make([]byte, 256*40)
	for i := range binary {
		binary[i] = byte(i)
	}
	say("binary", do(c, "SET", binary, binary))
	back, err := redis.Bytes(c.Do("GET", binary))
	say("binary comes back", string(back) == string(binary), err)
	large := make([]byte, 3_000_000)
	say("large", do(c, "SET", "large", large))
	back, err = redis.Bytes(c.Do("GET", "large"))
	say("large comes back", len(back), err)
}

func pipelines(c redis.Conn) {
	for i := 0; i < 2000; i++ {
		must(c.Send("SET", "p", i))
		must(c.Send("INCR", "counted"))
	}
	must(c.Flush())
	inOrder := true
	for i := 0; i < 2000; i++ {
		set, err := redis.String(c.Receive())
		must(err)
		count, err := redis.Int(c.Receive())
		must(err)
		inOrder = inOrder && set == "OK" && count == i+1
	}
	say("pipeline in order", inOrder)
	must(c.Send("SET", "a", 1))
	must(c.Send("LPUSH", "a", 2))
	must(c.Send("GET", "a"))
	must(c.Flush())
	for i := 0; i < 3; i++ {
		reply, err := c.Receive()
		say("pipeline with an error", reply, err)
	}
	must(c.Send("SET", "a", 5))
	must(c.Send("GET", "a"))
	say("flushed by do", do(c, ""))
}

func transactions(pool *redis.Pool, c redis.Conn) {
	must(c.Send("MULTI"))
	must(c.Send("SET", "a", 1))
	must(c.Send("INCR", "a"))
	must(c.Send("LPUSH", "a", 1))
	say("transaction", do(c, "EXEC"))
	say("queued", do(c, "MULTI"), do(c, "SET", "a", 2), do(c, "NOSUCH"), do(c, "EXEC"))
	say("discarded", do(c, "MULTI"), do(c, "SET", "a", 3), do(c, "DISCARD"), do(c, "GET", "a"))
	say("watch", do(c, "WATCH", "a"), do(c, "GET", "a"))
	other := pool.Get()
	say("changed by another", do(other, "SET", "a", "changed"))
	must(other.Close())
	say("watch conflict", do(c, "MULTI"), do(c, "SET", "a", "mine"), do(c, "EXEC"), do(c, "GET", "a"))
	say("unwatched", do(c, "WATCH", "a"), do(c, "UNWATCH"), do(c, "MULTI"), do(c, "GET", "a"), do(c, "EXEC"))

	// Workers add to one number; each starts again when another was faster.
	var workers sync.WaitGroup
	for i := 0; i < 5; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for added := 0; added < 20; {
				if addOne(pool) {
					added++
				}
			}
		}()
	}
	workers.Wait()
	say("watched counter", do(c, "GET", "watched"))
}

// addOne returns true if the transaction was executed.
func addOne(pool *redis.Pool) bool {
	c := pool.Get()
	defer c.Close()
	_, err := c.Do("WATCH", "watched")
	must(err)
	value, err := redis.Int(c.Do("GET", "watched"))
	if err != redis.ErrNil {
		must(err)
	}
	must(c.Send("MULTI"))
	must(c.Send("SET", "watched", value+1))
	reply, err := c.Do("EXEC")
	must(err)
	return reply != nil
}

func scripts(c redis.Conn) {
	script := redis.NewScript(1, "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}")
	say("unknown script", do(c, "EVALSHA", script.Hash(), 1, "n", 1))
	for i := 0; i < 2; i++ {
		reply, err := script.Do(c, "n", 5)
		say("script", reply, err)
	}
	say("flush", do(c, "SCRIPT", "FLUSH"), do(c, "SCRIPT", "EXISTS", script.Hash()))
	reply, err := script.Do(c, "n", 1)
	say("script after a flush", reply, err)
	must(script.Load(c))
	must(script.SendHash(c, "n", 2))
	must(c.Flush())
	reply, err = c.Receive()
	say("script by its hash", reply, err)
	say("script error", do(c, "EVAL", "return redis.call('HGET', KEYS[1], 'f')", 1, "n"))
}

func blocking(pool *redis.Pool, c redis.Conn) {
	popped := make(chan interface{})
	go func() {
		waiter := pool.Get()
		defer waiter.Close()
		popped <- do(waiter, "BLPOP", "queue", 20)
	}()
	say("push", do(c, "RPUSH", "queue", "job"))
	say("blocking pop", <-popped)
	say("blocking pop that finds nothing", do(c, "BLPOP", "queue", 0.05))
	say("move", do(c, "RPUSH", "queue", "a"), do(c, "BLMOVE", "queue", "{queue}other", "LEFT", "RIGHT", 5), do(c, "LRANGE", "{queue}other", 0, -1))
	say("pop of a scored member", do(c, "ZADD", "scored", 1, "m"), do(c, "BZPOPMIN", "scored", 5))
	say("unblocked by a stream", do(c, "XADD", "log", "1-0", "f", "v"), do(c, "XREAD", "BLOCK", 5000, "STREAMS", "log", 0))
}

func messages(pool *redis.Pool, c redis.Conn) {
	subscriber := redis.PubSubConn{Conn: pool.Get()}
	must(subscriber.Subscribe("news", "more"))
	must(subscriber.PSubscribe("n*"))
	receive := func(count int) {
		for i := 0; i < count; i++ {
			switch m := subscriber.ReceiveWithTimeout(20 * time.Second).(type) {
			case redis.Message:
				say("message", m.Channel, m.Pattern, m.Data)
			case redis.Subscription:
				say(m.Kind, m.Channel, m.Count)
			case redis.Pong:
				say("pong", m.Data)
			case error:
				say("subscriber", m)
			}
		}
	}
	receive(3)
	say("receivers", do(c, "PUBLISH", "news", "hello"), do(c, "PUBLISH", "more", "\x00\r\n\xff"), do(c, "PUBLISH", "unheard", "x"))
	receive(3)
	say("subscribers", do(c, "PUBSUB", "NUMSUB", "news", "unheard"), do(c, "PUBSUB", "NUMPAT"))
	must(subscriber.Ping("still there"))
	receive(1)
	for i := 0; i < 100; i++ {
		must(c.Send("PUBLISH", "more", i))
	}
	say("hundred published", len(do(c, "").([]interface{})))
	receive(100)
	must(subscriber.Unsubscribe("news", "more"))
	must(subscriber.PUnsubscribe())
	receive(3)
	// The pool takes the connection back and uses it for commands again.
	must(subscriber.Close())
	again := pool.Get()
	say("after the subscriptions", do(again, "GET", "nothing"))
	must(again.Close())
}

func scans(c redis.Conn) {
	for i := 0; i < 500; i++ {
		must(c.Send("SET", keyName(i), i))
	}
	say("keys", len(do(c, "").([]interface{})))
	seen, cursor := map[string]bool{}, 0
	for {
		reply, err := redis.Values(c.Do("SCAN", cursor, "MATCH", "key:*", "COUNT", 50))
		must(err)
		var keys []string
		_, err = redis.Scan(reply, &cursor, &keys)
		must(err)
		for _, key := range keys {
			seen[key] = true
		}
		if cursor == 0 {
			break
		}
	}
	say("scan", len(seen))
}

func keyName(i int) string {
	return "key:" + string(rune('a'+i/26)) + string(rune('a'+i%26))
}

// crowd lets many goroutines share few connections. Each must read its own writes.
func crowd() {
	pool := newPool(10)
	defer pool.Close()
	var workers sync.WaitGroup
	wrong := make(chan int, 50)
	for i := 0; i < 50; i++ {
		workers.Add(1)
		go func(i int) {
			defer workers.Done()
			for j := 0; j < 20; j++ {
				c := pool.Get()
				_, err := c.Do("SET", keyName(i), j)
				must(err)
				value, err := redis.Int(c.Do("GET", keyName(i)))
				must(err)
				if value != j {
					wrong <- i
					j = 20
				}
				must(c.Close())
			}
		}(i)
	}
	workers.Wait()
	say("crowd", len(wrong), pool.ActiveCount() <= 10)

	// A connection that goes back to the pool in the middle of its work leaves nothing behind.
	c := pool.Get()
	say("left open", do(c, "WATCH", "a"), do(c, "MULTI"), do(c, "SET", "a", "left"))
	must(c.Close())
	for i := 0; i < 10; i++ {
		c := pool.Get()
		_, err := c.Do("SET", "b", i)
		must(err)
		must(c.Close())
	}
	c = pool.Get()
	say("left behind", do(c, "GET", "a"), do(c, "GET", "b"))
	must(c.Close())
}

func databases() {
	c, err := redis.DialURL(fmt.Sprintf("redis://%s/%d", address(), database(5)))
	must(err)
	defer c.Close()
	say("database 5", do(c, "SET", "here", 1), do(c, "DBSIZE"))
	say("database 0", do(c, "SELECT", 0), do(c, "EXISTS", "here"))
	say("no such database", do(c, "SELECT", 99))
}

func main() {
	endAfterLimit()
	pool := newPool(8)
	defer pool.Close()
	c := pool.Get()
	defer c.Close()
	basics(c)
	pipelines(c)
	say("flushed", do(c, "FLUSHALL"))
	transactions(pool, c)
	scripts(c)
	blocking(pool, c)
	messages(pool, c)
	scans(c)
	say("flushed", do(c, "FLUSHALL"))
	crowd()
	databases()
}
