//! redis-rs, blocking and asynchronous API: what an application does in a day, in RESP2 and RESP3.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use redis::{AsyncCommands, Client, Commands, Connection, RedisResult, Script, Value, cmd, pipe};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    // A run that hangs is a failed run.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(100));
        eprintln!("the run takes too long");
        std::process::exit(1);
    });
    let mut arguments = std::env::args().rev();
    let (port, host) = (arguments.next().ok_or("a port")?, arguments.next().ok_or("a host")?);
    for protocol in ["resp2", "resp3"] {
        println!("--- {protocol}");
        let client = Client::open(format!("redis://{host}:{port}/?protocol={protocol}"))?;
        let mut c = client.get_connection()?;
        basics(&mut c)?;
        pipelines(&mut c)?;
        transactions(&client, &mut c)?;
        scripts(&mut c)?;
        blocking(&client, &mut c)?;
        messages(&client, &mut c)?;
        tokio::runtime::Runtime::new()?.block_on(crowd(&client))?;
        say("flushed", c.flushall::<Value>());
        say("scripts flushed", cmd("SCRIPT").arg("FLUSH").query::<Value>(&mut c));
    }
    Ok(())
}

/// Prints one line of the transcript.
fn say<T: Debug>(label: &str, reply: RedisResult<T>) {
    match reply {
        Ok(value) => println!("{label} {value:?}"),
        Err(error) => println!("{label} error: {error}"),
    }
}

/// Runs a command given as its words.
fn run(c: &mut Connection, words: &[&str]) -> RedisResult<Value> {
    words.iter().skip(1).fold(&mut cmd(words[0]), |command, word| command.arg(word)).query(c)
}

fn basics(c: &mut Connection) -> Outcome {
    // Older servers have one database in a cluster. The program then uses it in place of the other one.
    let other = if std::env::var_os("ONE_DATABASE").is_some() { "0" } else { "5" };
    for words in [
        &["PING"][..],
        &["ECHO", "hello"],
        &["SET", "k", "v", "EX", "100"],
        &["GET", "k"],
        &["GET", "nothing"],
        &["LPUSH", "k", "x"],
        &["NOSUCH", "a"],
        &["GET"],
        &["HSET", "h", "a", "1"],
        &["HGETALL", "h"],
        &["HINCRBYFLOAT", "h", "a", "1.5"],
        &["SADD", "s", "one"],
        &["SMEMBERS", "s"],
        &["ZADD", "z", "1", "a", "2.5", "b"],
        &["ZSCORE", "z", "b"],
        &["ZRANGE", "z", "0", "-1", "WITHSCORES"],
        &["CONFIG", "GET", "maxmemory-policy"],
        &["CLIENT", "SETNAME", "worker"],
        &["CLIENT", "GETNAME"],
        &["SELECT", other],
        &["SET", "here", "1"],
        &["DBSIZE"],
        &["SELECT", "0"],
        &["EXISTS", "here"],
        &["SELECT", "99"],
    ] {
        say(&words.join(" "), run(c, words));
    }
    let binary: Vec<u8> = (0..=255).collect::<Vec<u8>>().repeat(40);
    let () = c.set(&binary, &binary)?;
    println!("binary comes back {}", c.get::<_, Vec<u8>>(&binary)? == binary);
    let () = c.set("large", vec![b'x'; 3_000_000])?;
    println!("large {}", c.get::<_, Vec<u8>>("large")?.len());
    let pairs: Vec<(String, usize)> = (0..500).map(|i| (format!("key:{i}"), i)).collect();
    let () = c.mset(&pairs)?;
    let mut keys: Vec<String> = c.scan_match("key:*")?.collect();
    keys.sort();
    keys.dedup();
    println!("scan {}", keys.len());
    Ok(())
}

fn pipelines(c: &mut Connection) -> Outcome {
    let mut pipeline = pipe();
    for i in 0..2000 {
        pipeline.set("p", i).ignore().get("p");
    }
    println!("pipeline in order {}", pipeline.query::<Vec<usize>>(c)? == (0..2000).collect::<Vec<_>>());
    say("pipeline with an error", pipe().set("a", 1).lpush("a", 2).get("a").query::<Value>(c));
    say("after the error", run(c, &["GET", "a"]));
    Ok(())
}

fn transactions(client: &Client, c: &mut Connection) -> Outcome {
    say("transaction", pipe().atomic().set("a", 1).incr("a", 1).get("a").query::<Value>(c));
    say("aborted transaction", pipe().atomic().set("a", 9).cmd("NOSUCH").query::<Value>(c));
    let mut other = client.get_connection()?;
    say("watch", run(c, &["WATCH", "a"]));
    say("changed by another", run(&mut other, &["SET", "a", "changed"]));
    say("watch conflict", pipe().atomic().set("a", "mine").query::<Value>(c));
    say("after the conflict", run(c, &["GET", "a"]));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            thread::spawn(move || -> RedisResult<()> {
                let mut c = client.get_connection()?;
                for _ in 0..20 {
                    let () = redis::transaction(&mut c, &["watched"], |c, pipeline| {
                        let value: Option<usize> = c.get("watched")?;
                        pipeline.set("watched", value.unwrap_or(0) + 1).ignore().query::<Option<()>>(c)
                    })?;
                }
                Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    say("watched counter", run(c, &["GET", "watched"]));
    Ok(())
}

fn scripts(c: &mut Connection) -> Outcome {
    let script = Script::new("return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}");
    say("unknown script", run(c, &["EVALSHA", script.get_hash(), "1", "n", "5"]));
    for by in 5..7 {
        say("script", script.key("n").arg(by).invoke::<Value>(c));
    }
    say("flush", run(c, &["SCRIPT", "FLUSH"]));
    say("script after a flush", script.key("n").arg(1).invoke::<Value>(c));
    say("script error", run(c, &["EVAL", "return redis.call('HGET', KEYS[1], 'f')", "1", "n"]));
    Ok(())
}

fn blocking(client: &Client, c: &mut Connection) -> Outcome {
    let mut other = client.get_connection()?;
    let waiter = thread::spawn(move || other.blpop::<_, Value>("queue", 20.0));
    say("push", run(c, &["RPUSH", "queue", "job"]));
    say("blocking pop", waiter.join().map_err(|_| "the waiter panicked")?);
    say("blocking pop that finds nothing", run(c, &["BLPOP", "queue", "0.05"]));
    say("stream", run(c, &["XADD", "log", "1-0", "f", "v"]));
    say("blocking read", run(c, &["XREAD", "BLOCK", "5000", "STREAMS", "log", "0"]));
    Ok(())
}

fn messages(client: &Client, c: &mut Connection) -> Outcome {
    let mut subscriber = client.get_connection()?;
    let mut pubsub = subscriber.as_pubsub();
    pubsub.set_read_timeout(Some(Duration::from_secs(20)))?;
    pubsub.subscribe("news")?;
    pubsub.subscribe("more")?;
    pubsub.psubscribe("n*")?;
    say("receivers", run(c, &["PUBLISH", "news", "hello"]));
    say("receivers", run(c, &["PUBLISH", "more", "a\0\r\nb"]));
    say("receivers", run(c, &["PUBLISH", "unheard", "x"]));
    for _ in 0..3 {
        let message = pubsub.get_message()?;
        let pattern: Option<String> = message.get_pattern()?;
        println!("message {:?} {pattern:?} {:?}", message.get_channel_name(), message.get_payload_bytes());
    }
    say("numsub", run(c, &["PUBSUB", "NUMSUB", "news", "unheard"]));
    for i in 0..100 {
        let _: Value = c.publish("more", i)?;
    }
    let heard: Vec<usize> =
        (0..100).map(|_| pubsub.get_message()?.get_payload()).collect::<RedisResult<_>>()?;
    println!("all heard {}", heard == (0..100).collect::<Vec<_>>());
    pubsub.unsubscribe("more")?;
    drop(pubsub);
    say("the same connection again", run(&mut subscriber, &["GET", "k"]));
    Ok(())
}

/// Many tasks share one connection. Each must read its own writes.
async fn crowd(client: &Client) -> Outcome {
    let connection = client.get_multiplexed_async_connection().await?;
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let mut c = connection.clone();
            tokio::spawn(async move {
                let key = format!("c:{i}");
                let mut right = true;
                for j in 0..20 {
                    let () = c.set(&key, j).await?;
                    right &= c.get::<_, i32>(&key).await? == j;
                }
                RedisResult::Ok(right)
            })
        })
        .collect();
    let mut right = true;
    for task in tasks {
        right &= task.await??;
    }
    println!("crowd {right}");
    Ok(())
}
