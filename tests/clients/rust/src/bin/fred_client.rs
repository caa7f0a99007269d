//! fred: what an application does in a day, in RESP2 and RESP3.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand, RespVersion};

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
    tokio::runtime::Runtime::new()?.block_on(async {
        for version in [RespVersion::RESP2, RespVersion::RESP3] {
            println!("--- {version:?}");
            let mut config = Config::from_url(&format!("redis://{host}:{port}"))?;
            config.version = version;
            let client = Builder::from_config(config).build()?;
            client.init().await?;
            basics(&client).await?;
            transactions(&client).await?;
            others(&client).await?;
            say("flushed", client.flushall::<Value>(false).await);
            client.quit().await?;
        }
        Ok(())
    })
}

/// Prints one line of the transcript.
fn say<T: Debug>(label: &str, reply: Result<T, Error>) {
    match reply {
        Ok(value) => println!("{label} {value:?}"),
        Err(error) => println!("{label} error: {error}"),
    }
}

/// Runs a command given as its words.
async fn run(client: &Client, words: &[&str]) -> Result<Value, Error> {
    let command = CustomCommand::new(words[0].to_owned(), ClusterHash::FirstKey, false);
    client.custom(command, words[1..].iter().map(|word| (*word).to_owned()).collect()).await
}

async fn basics(client: &Client) -> Outcome {
    for words in [
        &["PING"][..],
        &["ECHO", "hello"],
        &["SET", "k", "v", "EX", "100"],
        &["GET", "k"],
        &["GET", "nothing"],
        &["LPUSH", "k", "x"],
        &["NOSUCH", "a"],
        &["HSET", "h", "a", "1"],
        &["HGETALL", "h"],
        &["ZADD", "z", "1", "a", "2.5", "b"],
        &["ZSCORE", "z", "b"],
        &["CLIENT", "SETNAME", "worker"],
        &["CLIENT", "GETNAME"],
        &["XADD", "s", "1-1", "f", "v"],
        &["XRANGE", "s", "-", "+"],
    ] {
        say(&words.join(" "), run(client, words).await);
    }
    let () = client.set("large", "x".repeat(3_000_000), None, None, false).await?;
    println!("large {}", client.get::<String, _>("large").await?.len());
    // Many callers at once on one connection.
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let _: i64 = client.incr("counter").await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    say("counter", client.get::<i64, _>("counter").await);
    let pipeline = client.pipeline();
    for _ in 0..500 {
        let () = pipeline.incr("p").await?;
    }
    println!("pipeline {}", pipeline.all::<Vec<i64>>().await? == (1..=500).collect::<Vec<_>>());
    Ok(())
}

async fn transactions(client: &Client) -> Outcome {
    for word in ["INCR", "NOSUCH"] {
        let transaction = client.multi();
        let _: Value = transaction.set("a", 1, None, None, false).await?;
        let command = CustomCommand::new(word, ClusterHash::FirstKey, false);
        let _: Value = transaction.custom(command, vec!["a"]).await?;
        say(word, transaction.exec::<Value>(true).await);
    }
    say("after both", client.get::<Value, _>("a").await);
    Ok(())
}

async fn others(client: &Client) -> Outcome {
    let script = "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}";
    say("script", client.eval::<Value, _, _, _>(script, vec!["n"], vec!["5"]).await);
    let (waiter, listener) = (client.clone_new(), client.clone_new());
    waiter.init().await?;
    listener.init().await?;
    let popped = tokio::spawn(async move {
        let popped = waiter.blpop::<Value, _>("queue", 20.0).await;
        waiter.quit().await?;
        popped
    });
    say("pushed", client.rpush::<Value, _, _>("queue", "job").await);
    say("popped", popped.await?);
    let mut messages = listener.message_rx();
    let () = listener.subscribe("news").await?;
    // Nobody listens until the server has run SUBSCRIBE.
    while client.publish::<i64, _, _>("news", "hello").await? == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let message = messages.recv().await?;
    println!("message {} {:?}", message.channel, message.value);
    listener.quit().await?;
    Ok(())
}
