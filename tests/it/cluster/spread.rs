//! Commands that concern several shards, in front of real clusters: each reply must be the one of a single server with the same data.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(commands_for_several_shards_answer_as_one_server_does);
on_both_servers!(pipelines_over_all_shards_stay_in_order);
on_both_servers!(a_scan_is_complete_through_two_gateways);
on_both_servers!(a_part_whose_shard_is_down_waits_and_then_fails_the_whole);
on_both_servers!(parts_follow_slots_that_move);
on_both_servers!(clients_may_leave_while_parts_are_under_way);

const CROSS_SLOT: &str = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";

fn cluster(flavor: Flavor) -> Cluster {
    Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) })
}

fn gateway(cluster: &Cluster, settings: &str) -> Proxy {
    let toml = format!("[upstreams.main]\nurl = \"{}\"\n{settings}\n", cluster.url());
    let mut proxy = Proxy::start_file(1, &toml);
    // The seeds have not answered yet.
    proxy.allow_log("the cluster is not known: the primary has not been looked up yet");
    proxy
}

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

fn command(name: &str, keys: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(keys.iter().cloned()).collect()
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

fn text(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).into_owned()
}

fn commands_for_several_shards_answer_as_one_server_does(flavor: Flavor) {
    let (cluster, server) = (cluster(flavor), Server::start(flavor));
    let proxy = gateway(&cluster, "");
    let splitting = gateway(&cluster, "cross-slot-writes = \"split\"");
    for version in ["2", "3"] {
        let (mut through, mut direct) = (Client::connect(proxy.port), server.client());
        through.call(&["HELLO", version]);
        direct.call(&["HELLO", version]);
        let mut same = |command: &[String]| {
            let (got, expected) = (through.call(command), direct.call(command));
            assert_eq!(text(&got), text(&expected), "{command:?} with RESP{version}");
        };
        let many = keys("k", 60);
        many.iter().take(40).for_each(|key| same(&["SET".into(), key.clone(), format!("value of {key}")]));
        same(&words("LPUSH list x"));
        for name in ["MGET", "EXISTS", "TOUCH"] {
            same(&command(name, &many));
        }
        let script = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        same(&["SCRIPT".into(), "LOAD".into(), "return 1".into()]);
        for line in [
            "MGET k1 nothing k1 list k2",
            "MGET {a}1 {a}2",
            "MGET",
            "EXISTS k1 k1 k2 k1",
            "DBSIZE",
            "DEL k1 k2 nothing",
            "UNLINK k3 k4 k3",
            "DBSIZE",
            "KEYS nothing*",
            "RANDOMKEY x",
            &format!("SCRIPT EXISTS {script} {}", "0".repeat(40)),
            &format!("EVALSHA {script} 1 k7"),
            &format!("EVALSHA {script} 1 k9"),
            "SCRIPT FLUSH",
            &format!("SCRIPT EXISTS {script}"),
            "FUNCTION DELETE nothing",
            "FUNCTION FLUSH",
            "SCAN x",
            "SCAN 0 COUNT x",
            "SCAN 0 NOTHING",
            "FLUSHDB",
            "DBSIZE",
            "RANDOMKEY",
            "KEYS *",
            "FLUSHALL SYNC",
            "FLUSHALL NOTHING",
        ] {
            same(&words(line));
        }
        let library = "#!lua name=l\nredis.register_function('f', function() return 7 end)";
        for _ in 0..2 {
            same(&["FUNCTION".into(), "LOAD".into(), library.into()]);
        }
        ["FCALL f 1 k5", "FCALL f 1 k6", "FUNCTION DELETE l"].map(words).iter().for_each(|line| same(line));
        through.expect(&["MSET", "k1", "1", "k2", "2"], CROSS_SLOT);
        through.expect(&["RENAME", "k1", "k2"], CROSS_SLOT);
        // 10,000 keys.
        let many = keys("many", 10_000);
        let pairs: Vec<String> =
            many.iter().flat_map(|key| [key.clone(), format!("value of {key}")]).collect();
        let mut writer = Client::connect(splitting.port);
        writer.expect(&command("MSET", &pairs), "+OK\r\n");
        direct.expect(&command("MSET", &pairs), "+OK\r\n");
        let reversed: Vec<String> = many.into_iter().rev().collect();
        for name in ["MGET", "EXISTS", "DEL"] {
            let (got, expected) =
                (through.call(&command(name, &reversed)), direct.call(&command(name, &reversed)));
            assert!(got == expected, "{name} of 10,000 keys with RESP{version}: {} bytes", got.len());
        }
        let refused = text(&through.call(&command("MGET", &keys("k", 100_001))));
        assert!(refused.starts_with("-ERR respgate: this command has keys in several slots"), "{refused}");
    }
}

fn pipelines_over_all_shards_stay_in_order(flavor: Flavor) {
    let (cluster, server) = (cluster(flavor), Server::start(flavor));
    let proxy = gateway(&cluster, "");
    let mut through = Client::connect(proxy.port);
    let mut direct = server.client();
    let mut random = 1_u64;
    let mut key = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("k{}", (random >> 33) % 40)
    };
    let mut commands = Vec::new();
    for number in 0..2000 {
        let (a, b, c) = (key(), key(), key());
        commands.push(match number % 8 {
            0 => format!("SET {a} {number}"),
            1 => format!("MGET {a} {b} {c}"),
            2 => format!("INCR n{a}"),
            3 => format!("DEL {a} {b}"),
            4 => format!("EXISTS {a} {b} {a}"),
            5 => format!("GET {a}"),
            6 => "DBSIZE".to_owned(),
            _ => format!("ECHO {number}"),
        });
    }
    let bytes: Vec<u8> = commands.iter().flat_map(|line| encode(&words(line))).collect();
    let mut writer = through.writer();
    let writes = bytes.clone();
    let written = std::thread::spawn(move || writer.send(writes));
    direct.send(&bytes);
    for line in &commands {
        assert_eq!(text(&through.reply()), text(&direct.reply()), "{line}");
    }
    written.join().expect("the writer");
}

fn a_scan_is_complete_through_two_gateways(flavor: Flavor) {
    let cluster = cluster(flavor);
    let gateways = [gateway(&cluster, "cross-slot-writes = \"split\""), gateway(&cluster, "")];
    let mut clients = gateways.each_ref().map(|proxy| Client::connect(proxy.port));
    let many = keys("scanned", 3000);
    let pairs: Vec<String> = many.iter().flat_map(|key| [key.clone(), "1".to_owned()]).collect();
    clients[0].expect(&command("MSET", &pairs), "+OK\r\n");
    clients[1].expect(&["LPUSH", "list", "x"], ":1\r\n");
    for options in ["", "COUNT 500", "MATCH scanned1* COUNT 100", "TYPE list COUNT 1000"] {
        let mut seen = BTreeSet::new();
        let mut cursor = "0".to_owned();
        for step in 0.. {
            let scan = words(&format!("SCAN {cursor} {options}"));
            let reply = text(&clients[step % 2].call(&scan));
            let mut lines = reply.lines().filter(|line| !line.starts_with(['*', '$']));
            lines.next().expect("a cursor").clone_into(&mut cursor);
            seen.extend(lines.map(str::to_owned));
            assert!(cursor.parse::<i64>().is_ok_and(|cursor| cursor >= 0), "{cursor}");
            if cursor == "0" {
                break;
            }
            assert!(step < 5000, "the scan does not end");
        }
        let list = BTreeSet::from(["list".to_owned()]);
        let expected: BTreeSet<String> = match options {
            "TYPE list COUNT 1000" => list,
            "MATCH scanned1* COUNT 100" => {
                many.iter().filter(|key| key.starts_with("scanned1")).cloned().collect()
            }
            _ => many.iter().cloned().chain(list).collect(),
        };
        assert_eq!(seen, expected, "{options}");
    }
}

fn a_part_whose_shard_is_down_waits_and_then_fails_the_whole(flavor: Flavor) {
    // The others go on serving their slots.
    let options = ["--cluster-require-full-coverage", "no"];
    let mut cluster =
        Cluster::start(&ClusterPlan { replicas: 0, options: &options, ..ClusterPlan::new(flavor) });
    let mut proxy = gateway(&cluster, "hold-timeout = \"2s\"");
    proxy.allow_log("");
    let mut client = Client::connect(proxy.port);
    let (up, down) = (key_of("up", 1), key_of("down", 16_000));
    client.expect(&["SET", &up, "1"], "+OK\r\n");
    client.expect(&["MGET", &up, &down], "*2\r\n$1\r\n1\r\n$-1\r\n");
    cluster.kill(2);
    let mut other = Client::connect(proxy.port);
    client.send_command(&["MGET", &up, &down]);
    client.expect_silence(Duration::from_millis(500));
    // The others are not held.
    other.expect(&["MGET", &up, &format!("{{{up}}}other")], "*2\r\n$1\r\n1\r\n$-1\r\n");
    let failed = text(&client.reply());
    // The seconds are those that it waited, which are more on a busy machine.
    let seconds = failed.strip_prefix("-ERR respgate: no primary to send to for ");
    let seconds = seconds.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 2), "{failed}");
    client.expect(&["GET", &up], "$1\r\n1\r\n");
}

fn parts_follow_slots_that_move(flavor: Flavor) {
    let cluster = cluster(flavor);
    let proxy = gateway(&cluster, "cross-slot-writes = \"split\"");
    let slots = [7, 8, 9];
    let many: Vec<String> = slots.iter().map(|slot| key_of("moved", *slot)).chain(keys("k", 30)).collect();
    let port = proxy.port;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, of_thread) = (stop.clone(), many);
    let writer = std::thread::spawn(move || {
        let mut client = Client::connect(port);
        let mut rounds = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            rounds += 1;
            let pairs: Vec<String> =
                of_thread.iter().flat_map(|key| [key.clone(), rounds.to_string()]).collect();
            client.send_command(&command("MSET", &pairs));
            client.send_command(&command("MGET", &of_thread));
            client.expect_reply("+OK\r\n");
            let value = format!("${}\r\n{rounds}\r\n", rounds.to_string().len());
            client.expect_reply(&format!("*{}\r\n{}", of_thread.len(), value.repeat(of_thread.len())));
        }
        rounds
    });
    for round in 0..4 {
        for slot in slots {
            cluster.move_slot(slot, 1 + round % 2);
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let rounds = writer.join().expect("the writer");
    assert!(rounds > 3, "{rounds} rounds");
}

fn clients_may_leave_while_parts_are_under_way(flavor: Flavor) {
    let cluster = cluster(flavor);
    let proxy = gateway(&cluster, "");
    for size in (2..400).step_by(40) {
        let mut client = Client::connect(proxy.port);
        (0..3).for_each(|_| client.send_command(&command("MGET", &keys("k", size))));
    }
    let mut client = Client::connect(proxy.port);
    client.expect(&["DBSIZE"], ":0\r\n");
    wait::until("the clients to be gone", || {
        text(&client.call(&["CLIENT", "LIST"])).matches("id=").count() == 1
    });
}
