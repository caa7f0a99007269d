use super::*;

fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn list(items: &[&str]) -> Value {
    Value::Array(items.iter().map(|item| text(item)).collect())
}

fn config() -> SentinelConfig {
    SentinelConfig::new(vec![Address::tcp("s1", 26379)], "mymaster")
}

const ID: &str = "0123456789abcdef0123456789abcdef01234567";

fn no_others() -> Value {
    Value::Array(vec![])
}

#[test]
fn the_address_comes_from_one_reply_and_the_epoch_from_the_other() {
    let get = list(&["10.0.0.2", "6379"]);
    // A leader that still reconfigures replicas shows the old address with the new epoch.
    let primary = list(&[
        "ip",
        "10.0.0.1",
        "port",
        "6379",
        "runid",
        ID,
        "flags",
        "master,failover_in_progress",
        "config-epoch",
        "7",
        "failover-state",
        "reconf_slaves",
    ]);
    let claim = view(&get, &primary, &no_others(), &config()).unwrap().claim.unwrap();
    assert_eq!((claim.address, claim.epoch), (Address::tcp("10.0.0.2", 6379), 7));
    assert_eq!(claim.run_id, None, "that run id is the old node's");
    assert_eq!(claim.failover_state.as_deref(), Some("reconf_slaves"));

    let primary = list(&["ip", "10.0.0.2", "port", "6379", "runid", ID, "config-epoch", "7"]);
    let claim = view(&get, &primary, &no_others(), &config()).unwrap().claim.unwrap();
    assert_eq!(claim.run_id.as_deref(), Some(ID));
}

#[test]
fn an_unknown_name_an_error_and_nonsense_differ() {
    let refused = Value::Error(Bytes::from_static(b"ERR No such master with that name"));
    let unknown = view(&Value::Null, &refused, &refused, &config()).unwrap();
    assert_eq!(unknown, View { claim: None, others: vec![], total: 1 });
    let noperm = Value::Error(Bytes::from_static(b"NOPERM this user"));
    assert!(matches!(view(&noperm, &refused, &refused, &config()), Err(BadReply::Error(_))));
    for get in [
        list(&["h"]),
        list(&["", "1"]),
        list(&["h", "0"]),
        list(&["h", "70000"]),
        list(&["a b", "1"]),
        text("x"),
    ] {
        assert!(matches!(view(&get, &refused, &refused, &config()), Err(BadReply::Malformed(_))), "{get:?}");
    }
    // An ACL that hides the epoch still leaves a usable answer.
    assert_eq!(view(&list(&["h", "1"]), &noperm, &noperm, &config()).unwrap().claim.unwrap().epoch, 0);
}

#[test]
fn dead_and_portless_sentinels_are_counted_but_not_dialled() {
    let entry =
        |ip: &str, port: &str, flags: &str| list(&["ip", ip, "port", port, "runid", ID, "flags", flags]);
    let sentinels = Value::Array(vec![
        entry("10.0.0.2", "26379", "sentinel"),
        entry("10.0.0.3", "26379", "s_down,sentinel,disconnected"),
        entry("10.0.0.4", "0", "sentinel"),
        entry("fe80::5", "26379", "sentinel,master_down"),
    ]);
    let seen = view(&Value::Null, &Value::Null, &sentinels, &config()).unwrap();
    let addresses: Vec<_> = seen.others.iter().map(|peer| peer.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.2:26379", "[fe80::5]:26379"]);
    assert_eq!(seen.total, 5);
    assert_eq!(seen.others[0].id.as_deref(), Some(ID));
}

#[test]
fn nat_is_applied_to_primary_and_sentinels() {
    let mut config = config();
    config.nat.insert(Address::tcp("10.0.0.1", 6379), Address::tcp("127.0.0.1", 16379));
    config.nat.insert(Address::tcp("10.0.0.2", 26379), Address::tcp("127.0.0.1", 36379));
    let sentinels = Value::Array(vec![list(&["ip", "10.0.0.2", "port", "26379", "flags", "sentinel"])]);
    let seen = view(&list(&["10.0.0.1", "6379"]), &Value::Null, &sentinels, &config).unwrap();
    assert_eq!(seen.claim.unwrap().address, Address::tcp("127.0.0.1", 16379));
    assert_eq!(seen.others[0].address, Address::tcp("127.0.0.1", 36379));
}

#[test]
fn a_switch_is_read_from_the_right() {
    let expect = |payload, from, to| {
        let notice = notice("+switch-master", payload, "mymaster");
        assert_eq!(notice, Some(Notice::Switched { from, to }));
    };
    expect(
        "mymaster 10.0.0.1 6379 10.0.0.2 6380",
        Address::tcp("10.0.0.1", 6379),
        Address::tcp("10.0.0.2", 6380),
    );
    expect("mymaster ::1 6379 fe80::2 6380", Address::tcp("::1", 6379), Address::tcp("fe80::2", 6380));
    expect("mymaster a.example 1 b.example 2", Address::tcp("a.example", 1), Address::tcp("b.example", 2));
    for other in
        ["other 10.0.0.1 1 10.0.0.2 2", "mymaster 1 2 3", "", "mymaster a 1 b x", "x mymaster a 1 b 2"]
    {
        assert_eq!(notice("+switch-master", other, "mymaster"), None, "{other}");
    }
    assert!(notice("+switch-master", "my db a 1 b 2", "my db").is_some());
}

#[test]
fn events_are_typed_and_filtered_by_primary() {
    let about = |channel| notice(channel, "master mymaster 10.0.0.1 6379 #quorum 2/2", "mymaster").unwrap();
    assert_eq!(about("+odown"), Notice::ObjectivelyDown(true));
    assert_eq!(about("-sdown"), Notice::SubjectivelyDown(false));
    assert_eq!(about("+try-failover"), Notice::Failover(FailoverStep::Started));
    assert_eq!(about("+elected-leader"), Notice::Failover(FailoverStep::Elected));
    assert_eq!(about("-failover-abort-no-good-slave"), Notice::Failover(FailoverStep::Aborted));
    assert_eq!(about("+reset-master"), Notice::Other);
    let replica = "slave 10.0.0.3:6379 10.0.0.3 6379 @ mymaster 10.0.0.1 6379";
    assert_eq!(notice("+sdown", replica, "mymaster"), Some(Notice::Other));
    assert_eq!(
        notice("+promoted-slave", replica, "mymaster"),
        Some(Notice::Failover(FailoverStep::Promoted))
    );
    assert_eq!(notice("+sdown", replica, "other"), None);
    assert_eq!(notice("+odown", "master other 10.0.0.1 6379 #quorum 2/2", "mymaster"), None);
    assert_eq!(notice("+new-epoch", "7", "mymaster"), Some(Notice::Other));
    assert_eq!(notice("+tilt", "#tilt mode entered", "mymaster"), Some(Notice::Other));
}

#[test]
fn events_name_the_nodes_they_are_about() {
    let mut config = config();
    config.nat.insert(Address::tcp("10.0.0.3", 6379), Address::tcp("127.0.0.1", 7003));
    let of = |channel, payload| {
        let sentinel_event = sentinel_event(channel, payload, &config).unwrap();
        [sentinel_event.primary, sentinel_event.replica].map(|node| node.map(|node| node.to_string()))
    };
    let node = |text: &str| Some(text.to_owned());
    let primary = node("10.0.0.1:6379");
    assert_eq!(of("+odown", "master mymaster 10.0.0.1 6379 #quorum 2/2"), [primary.clone(), None]);
    assert_eq!(of("+try-failover", "master mymaster fe80::1 6379"), [node("[fe80::1]:6379"), None]);
    let replica = "slave 10.0.0.3:6379 10.0.0.3 6379 @ mymaster 10.0.0.1 6379";
    assert_eq!(of("+selected-slave", replica), [primary.clone(), node("127.0.0.1:7003")]);
    let sentinel = "sentinel 0f 10.0.0.9 26379 @ mymaster 10.0.0.1 6379";
    assert_eq!(of("+sentinel", sentinel), [primary.clone(), None]);
    assert_eq!(of("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.3 6379"), [primary, None]);
    assert_eq!(of("+new-epoch", "7"), [None, None]);
    assert_eq!(of("+odown", "master mymaster 10.0.0.1"), [None, None]);
}

#[test]
fn no_channel_is_listed_twice() {
    let mut channels = CHANNELS.to_vec();
    channels.sort_unstable();
    channels.dedup();
    assert_eq!(channels.len(), CHANNELS.len());
}

#[test]
fn the_age_of_a_replicas_info_is_read() {
    let mut config = config();
    let entry = |host: &str, fields: &[&str]| list(&[&["ip", host, "port", "6379"], fields].concat());
    let replicas = Value::Array(vec![
        entry("10.0.0.2", &["info-refresh", "640", "role-reported", "slave"]),
        entry("10.0.0.3", &["info-refresh", "3", "role-reported", "master"]),
        entry("10.0.0.4", &["role-reported", "slave"]),
    ]);
    let at = |host: &str| Address::tcp(host, 6379);
    let age = |age, shows_primary| Some(InfoAge { age: Duration::from_millis(age), shows_primary });
    assert_eq!(info_age(&replicas, &at("10.0.0.2"), &config), age(640, false));
    assert_eq!(info_age(&replicas, &at("10.0.0.3"), &config), age(3, true));
    for unknown in ["10.0.0.4", "10.0.0.5"] {
        assert_eq!(info_age(&replicas, &at(unknown), &config), None);
    }
    config.nat.insert(at("10.0.0.2"), at("outside"));
    assert_eq!(info_age(&replicas, &at("outside"), &config), age(640, false));
    assert_eq!(info_age(&Value::Error(Bytes::from_static(b"NOPERM x")), &at("10.0.0.2"), &config), None);
}
