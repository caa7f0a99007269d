use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const A: &str = "128596c30364928b30da62b892c746503f4ddca2";
const B: &str = "a92636fa6b7ed663f8a81544fa63a7f56fcf4c9d";

fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

/// A range of CLUSTER SLOTS with one node.
fn slots(nodes: &[(Value, i64, &str)]) -> Value {
    let ranges = nodes.iter().map(|(host, port, id)| {
        let node =
            Value::Array(vec![host.clone(), Value::Integer(*port), text(id), Value::Array(Vec::new())]);
        Value::Array(vec![Value::Integer(0), Value::Integer(100), node])
    });
    Value::Array(ranges.collect())
}

fn read(nodes: &str, slots: &Value) -> Option<ClusterView> {
    view(&text(nodes), slots, &Address::tcp("seed", 7000), &HashMap::new())
}

fn addresses(view: &ClusterView) -> Vec<Option<String>> {
    view.nodes.iter().map(|claim| claim.address.as_ref().map(ToString::to_string)).collect()
}

#[test]
fn only_the_times_of_pings_do_not_matter() {
    let line = |ping: u64, pong: u64, rest: &str| {
        without_times(&format!("{A} 127.0.0.1:1@2,h.example master - {ping} {pong} {rest}\n"))
    };
    assert_eq!(line(0, 1, "1 connected 0-5"), line(2, 3, "1 connected 0-5"));
    for other in ["2 connected 0-5", "1 disconnected 0-5", "1 connected 0-6", "1 connected 0-5 [6->-x]"] {
        assert_ne!(line(0, 1, "1 connected 0-5"), line(0, 1, other));
    }
    let named = |place: &str| without_times(&format!("{A} {place} master - 0 1 1 connected 0-5\n"));
    assert_ne!(named("127.0.0.1:1@2"), named("127.0.0.1:1@2,h.example"));
}

#[test]
fn what_servers_say_is_read() {
    // Seen on Valkey 8.0.1, 9.1.2, Redis 7.0.15 and 8.0.6, which all write this.
    let nodes = format!(
        "{A} 127.0.0.1:11803@11903,h3.example myself,master - 0 1795935530000 2 connected 0-100 200 [300->-{B}] [301-<-{B}] [x->-{B}] 400-16383\n\
         {B} 127.0.0.1:11801@11901,h1.example slave,fail? {A} 0 1795935530401 2 connected [7->-{A}]\n\
         8d2c944744477e765351b801f85c7c7ac0df93c5 ::1:11804@11904,,shard-id=x slave - 0 1795935530967 1 connected\n"
    );
    let view = read(&nodes, &slots(&[(text("127.0.0.1"), 11803, A)])).unwrap();
    let [primary, replica] = &view.nodes[..] else { panic!("{view:?}") };
    assert_eq!(primary.slots, [0..=100, 200..=200, 400..=16_383]);
    assert_eq!((primary.epoch, primary.is_myself, &primary.role), (2, true, &ClaimedRole::Primary));
    assert_eq!(primary.moving, [300, 301].map(|number| Slot::new(number).unwrap()));
    assert_eq!(replica.moving, [], "only the node itself knows");
    assert_eq!(replica.role, ClaimedRole::Replica(A.into()));
    assert!(!replica.has_failed, "a node that is only suspected");
    assert_eq!(addresses(&view), [Some("127.0.0.1:11803".into()), Some("127.0.0.1:11801".into())]);
}

#[test]
fn the_preferred_endpoint_counts() {
    let nodes = format!(
        "{A} 10.0.0.1:1@11,h1.example master - 0 0 2 connected 0-100\n\
         {B} 10.0.0.2:2@12,h2.example myself,master - 0 0 1 connected\n"
    );
    let shown =
        |slots: Value| addresses(&read(&nodes, &slots).unwrap()).into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(shown(slots(&[(text("10.0.0.1"), 1, A)])), ["10.0.0.1:1", "10.0.0.2:2"]);
    assert_eq!(shown(slots(&[(text("h1.example"), 1, A)])), ["h1.example:1", "h2.example:2"]);
    // `unknown-endpoint`: the host at which the speaker was asked, and another port.
    assert_eq!(shown(slots(&[(Value::Null, 1, A)])), ["seed:1", "seed:2"]);
    assert_eq!(shown(slots(&[(text(""), 1, A)])), ["seed:1", "seed:2"]);
    // No hostname is known although it is preferred.
    assert_eq!(shown(slots(&[(text("?"), 1, A)])), ["10.0.0.1:1", "10.0.0.2:2"]);
    assert_eq!(shown(Value::Error(Bytes::from_static(b"NOPERM x"))), ["10.0.0.1:1", "10.0.0.2:2"]);
}

#[test]
fn a_node_that_does_not_know_its_ip_is_where_it_was_asked() {
    let nodes = format!(
        "{A} :7001@17001 myself,master - 0 0 0 connected 0-5\n{B} :0@0 master,noaddr - 0 0 3 disconnected\n"
    );
    assert_eq!(addresses(&read(&nodes, &Value::Null).unwrap()), [Some("seed:7001".into()), None]);
}

#[test]
fn announced_addresses_are_mapped() {
    let nodes = format!("{A} 10.0.0.1:1@11 myself,master - 0 0 2 connected 0-100\n");
    let nat = HashMap::from([(Address::tcp("10.0.0.1", 1), Address::tcp("outside", 9))]);
    let view = view(&text(&nodes), &Value::Null, &Address::tcp("seed", 1), &nat).unwrap();
    assert_eq!(addresses(&view), [Some("outside:9".into())]);
}

#[test]
fn absurd_lines_are_left_out() {
    let own = format!("{A} 10.0.0.1:1@11 myself,master - 0 0 2 connected 0-100\n");
    for absurd in [
        "x 10.0.0.1:1@11 master - 0 0 2 connected 1",
        &format!("{B} 10.0.0.1:1@11 master - 0 0 -2 connected 1"),
        &format!("{B} 10.0.0.1:1@11 master - 0 0 99999999999999999999 connected 1"),
        &format!("{B} 10.0.0.1:1@11 handshake,master - 0 0 0 connected 1"),
        &format!("{B} 10.0.0.1"),
        &format!("{A} 10.0.0.9:1@11 master - 0 0 9 connected 1"),
    ] {
        let view = read(&format!("{own}{absurd}\n"), &Value::Null).unwrap();
        assert_eq!(view.nodes.len(), 1, "{absurd}");
    }
    let view =
        read(&format!("{own}{B} a b:99999@1 master - 0 0 3 c 5-4 7-16384 16384 x 3-3-3 8-9\n"), &Value::Null);
    assert!(view.unwrap().nodes.iter().all(|claim| *claim.id == *A));
    let odd = format!("{own}{B} h:99999@1 master - 0 0 3 c 5-4 7-16384 16384 x 3-3-3 8-9\n");
    let view = read(&odd, &Value::Null).unwrap();
    assert_eq!((view.nodes[1].address.clone(), view.nodes[1].slots.clone()), (None, vec![8..=9]));
    assert_eq!(read("", &Value::Null), None);
    assert_eq!(read(&own.replace("myself,", ""), &Value::Null), None, "nobody speaks");
}

proptest! {
    #[test]
    fn no_text_is_too_much(nodes in "([a-f0-9]{40} |[a-z:@,.0-9-]{0,20}|myself|master| |\n|[0-9-]{1,9} ){0,60}") {
        let _ = read(&nodes, &Value::Null);
    }
}
