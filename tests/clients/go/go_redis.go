// go-redis 5: what an application does in a day. This version of the library speaks RESP2.
package main

import (
	"sort"
	"sync"
	"time"

	"gopkg.in/redis.v5"
)

func connect() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: address(), PoolSize: 10, ReadTimeout: 30 * time.Second})
}

// do runs a command and returns its reply, or its error as the reply.
func do(c *redis.Client, words ...interface{}) interface{} {
	command := redis.NewCmd(words...)
	if err := c.Process(command); err != nil {
		return err
	}
	return command.Val()
}

func basics(c *redis.Client) {
	say("ping", do(c, "PING"), do(c, "ECHO", "hello"))
	say("set", do(c, "SET", "k", "v", "EX", 100), do(c, "GET", "k"), do(c, "GET", "nothing"), do(c, "SET", "k", "w", "NX"))
	say("wrong type", do(c, "LPUSH", "k", "x"))
	say("unknown command", do(c, "NOSUCH", "a"))
	say("hash", do(c, "HSET", "h", "a", 1), do(c, "HINCRBYFLOAT", "h", "a", 1.5), c.HGetAll("h").Val())
	say("scores", do(c, "ZADD", "z", 1, "a", 2.5, "b"), do(c, "ZRANGE", "z", 0, -1, "WITHSCORES"))
	large := make([]byte, 3_000_000)
	say("large", c.Set("large", large, 0).Val(), len(c.Get("large").Val()))
	for i := 0; i < 500; i++ {
		must(c.Set("key:"+string(rune('0'+i%10))+string(rune('a'+i/10%26)), i, 0).Err())
	}
	var keys []string
	for cursor := uint64(0); ; {
		page, next, err := c.Scan(cursor, "key:*", 50).Result()
		must(err)
		keys = append(keys, page...)
		if cursor = next; cursor == 0 {
			break
		}
	}
	sort.Strings(keys)
	say("scan", len(keys))
}

func pipelines(c *redis.Client) {
	pipe := c.Pipeline()
	for i := 0; i < 2000; i++ {
		pipe.Incr("p")
	}
	commands, err := pipe.Exec()
	say("pipeline", len(commands), c.Get("p").Val(), err)
	tx := c.TxPipeline()
	tx.Set("a", 1, 0)
	tx.LPush("a", 2)
	tx.Incr("a")
	_, err = tx.Exec()
	say("transaction with an error", err, c.Get("a").Val())
	var group sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for done := 0; done < 20; {
				err := c.Watch(func(tx *redis.Tx) error {
					value, err := tx.Get("watched").Int64()
					if err != nil && err != redis.Nil {
						return err
					}
					_, err = tx.Pipelined(func(pipe *redis.Pipeline) error {
						pipe.Set("watched", value+1, 0)
						return nil
					})
					return err
				}, "watched")
				if err == nil {
					done++
				} else if err != redis.TxFailedErr {
					must(err)
				}
			}
		}()
	}
	group.Wait()
	say("watched counter", c.Get("watched").Val())
}

func others(c *redis.Client) {
	script := redis.NewScript("return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}")
	for _, by := range []int{5, 6} {
		reply, err := script.Run(c, []string{"n"}, by).Result()
		say("script", reply, err)
	}
	popped := make(chan []string)
	go func() { popped <- c.BLPop(20*time.Second, "queue").Val() }()
	say("pushed", do(c, "RPUSH", "queue", "job"))
	say("popped", <-popped)
	listener, err := c.Subscribe("news")
	must(err)
	for c.Publish("news", "hello").Val() == 0 {
		time.Sleep(time.Millisecond)
	}
	message, err := listener.ReceiveMessage()
	must(err)
	say("message", message.Channel, message.Payload)
	must(listener.Close())
}

func main() {
	endAfterLimit()
	c := connect()
	basics(c)
	pipelines(c)
	others(c)
	say("flushed", do(c, "FLUSHALL"))
	must(c.Close())
}
