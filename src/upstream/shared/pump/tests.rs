use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use std::cell::Cell;
use std::future::poll_fn;

use super::*;
use crate::cluster::slot::Slot;
use crate::latency::Arrival;
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::net::read_buffer::ReadBuffer;
use crate::net::stream::Stream;
use crate::net::tls::Floor;
use crate::net::tls::accept::{HandshakeLog, ServerTls, Welcomed};
use crate::net::tls::client::{ClientProfile, ClientTls};
use crate::net::tls::gate::HandshakeGate;
use crate::net::tls::names::Names;
use crate::net::tls::read_ahead::ReadAhead;
use crate::net::tls::server::{ClientCertificates, ServerProfile};
use crate::net::tls::testing::Authority;
use crate::net::tls::trust::Trust;
use crate::resp::Resp;
use crate::topology::{Address, Generation, Topology};
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::parts::Parts;
use crate::upstream::redirects::{NodeLane, Redirects, SlotLanes};
use crate::upstream::shared::queue::settle::Settled;
use crate::upstream::shared::queue::{IfLost, LossCause};
use crate::upstream::tests::parts;

const READ: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
const WRITE: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n";

struct Bench {
    parts: Parts,
    lane: Rc<Lane>,
    buffers: Rc<Buffers>,
    _topology: watch::Sender<Topology>,
}

impl Bench {
    fn new() -> Self {
        let buffers = Rc::new(Buffers::alone(1 << 20));
        let (parts, topology) = parts(buffers.clone());
        let identity = parts.dialing.identities.own().clone();
        let lane = Lane::new(ConnectionKey::new(identity, 0, Resp::V2), false);
        Self { parts, lane, buffers, _topology: topology }
    }

    fn client(&self) -> Rc<Replies> {
        Replies::new(self.buffers.clone(), Account::new(self.buffers.share()), 1 << 20)
    }

    /// Absorbs what a server sends on a new connection.
    async fn handle_replies(&self, sent: &[u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let read = ReadBuffer::with(1024, sent);
        let (generation, began) = (Generation(1), tokio::time::Instant::now());
        let link = Connection {
            stream: Stream::Tcp(stream),
            read,
            generation,
            began,
            round_trip: std::time::Duration::ZERO,
            retires: None,
            id: Default::default(),
            unnaming: false,
        };
        let mut pump = Pump::new(link, false);
        pump.handle_replies(&self.lane, &self.parts.lanes)
    }
}

async fn taken(client: &Replies) -> Vec<u8> {
    let mut taken = Vec::new();
    poll_fn(|cx| client.poll_write_to(cx, &mut taken)).await.unwrap();
    assert_eq!(client.awaited(), 0, "nothing more may be awaited");
    taken
}

fn locally(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(test);
}

#[test]
fn a_reply_never_reaches_the_client_of_a_write_that_was_not_sent_again() {
    locally(async {
        let bench = Bench::new();
        let clients = [bench.client(), bench.client(), bench.client(), bench.client()];
        let requests = [(READ, IfLost::Resend), (WRITE, IfLost::ReportUnknown)];
        for (client, (request, if_lost)) in clients.iter().zip(requests.iter().cycle()) {
            bench.lane.push(request, client, *if_lost, false, Arrival::default());
        }
        {
            let mut queue = bench.lane.queue.borrow_mut();
            queue.wrote(1024);
            assert_eq!(queue.settle(LossCause::Broken), Settled { unknown: 2, resent: 2 });
            queue.wrote(1024);
        }
        bench.handle_replies(b"+first\r\n+third\r\n").await.unwrap();
        assert_eq!(taken(&clients[0]).await, b"+first\r\n");
        assert!(taken(&clients[1]).await.starts_with(b"-OUTCOMEUNKNOWN "));
        assert_eq!(taken(&clients[2]).await, b"+third\r\n");
        assert!(taken(&clients[3]).await.starts_with(b"-OUTCOMEUNKNOWN "));
        assert!(bench.lane.queue.borrow().is_empty());
    });
}

/// A cluster with two nodes: all commands belong to the second, once that is known.
struct TwoNodes {
    second: Rc<Lane>,
    is_known: Cell<bool>,
}

impl TwoNodes {
    fn second(&self) -> NodeLane {
        NodeLane { lane: self.second.clone(), generation: self.is_known.get().then_some(Generation(2)) }
    }
}

impl SlotLanes for TwoNodes {
    fn at(&self, _: &Address, _: &ConnectionKey) -> Option<NodeLane> {
        self.is_known.get().then(|| self.second())
    }

    fn of(&self, _: Slot, _: &ConnectionKey) -> NodeLane {
        self.second()
    }

    fn moved(&self, _: Slot, _: &Address) {}

    fn is_on_its_way(&self, _: Slot) {}
}

/// Makes the bench's lane that of the first of two nodes. Returns what follows its redirects, and the nodes.
fn clustered(bench: &mut Bench) -> (Rc<Redirects>, Rc<TwoNodes>) {
    let Parts { dialing, pool, lanes, .. } = &bench.parts;
    let counters = dialing.reports.counters.clone();
    let redirects = Redirects::new(dialing.config.clone(), counters, tokio::sync::mpsc::channel(1).0);
    let second = Lane::new(bench.lane.key().clone(), false);
    let nodes = Rc::new(TwoNodes { second, is_known: Cell::new(true) });
    let lanes_of_nodes: Rc<dyn SlotLanes> = nodes.clone();
    redirects.send_by(Rc::downgrade(&lanes_of_nodes));
    redirects.set_active(true);
    let lanes = Lanes::new(pool.clone(), lanes.room.clone(), false).redirected_by(redirects.clone());
    bench.parts.lanes = Rc::new(lanes);
    (redirects, nodes)
}

async fn until_sent(lane: &Lane, expected: &[u8]) {
    let sent = async {
        while lane.queue.borrow().unwritten().len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), sent).await.expect("requests that are sent");
    assert_eq!(lane.queue.borrow().unwritten(), expected);
}

#[test]
fn a_redirected_command_goes_to_the_other_node_and_keeps_the_place_of_its_reply() {
    locally(async {
        let mut bench = Bench::new();
        let (redirects, nodes) = clustered(&mut bench);
        let client = bench.client();
        for _ in 0..4 {
            bench.lane.push(READ, &client, IfLost::Resend, false, Arrival::default());
        }
        bench.lane.queue.borrow_mut().wrote(1024);
        let sent = b"+first\r\n-MOVED 1 b:2\r\n-ASK 1 b:2\r\n+fourth\r\n";
        bench.handle_replies(sent).await.unwrap();
        assert!(bench.lane.queue.borrow().is_empty());
        assert_eq!(
            (client.awaited(), client.window(100)),
            (3, 0),
            "nothing may overtake what was redirected"
        );
        bench.lane = nodes.second.clone();
        until_sent(&bench.lane, &[READ, b"*1\r\n$6\r\nASKING\r\n", READ].concat()).await;
        bench.lane.queue.borrow_mut().wrote(1024);
        // The node does not run the first of its commands yet: its reply still comes before that of the second.
        bench.handle_replies(b"-TRYAGAIN x\r\n+OK\r\n+third\r\n").await.unwrap();
        assert_eq!(client.awaited(), 1);
        let waiting = tokio::task::spawn_local(redirects.send_waiting());
        until_sent(&bench.lane, READ).await;
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"+second\r\n").await.unwrap();
        assert_eq!(taken(&client).await, b"+first\r\n+second\r\n+third\r\n+fourth\r\n");
        assert!(client.window(100) > 0);
        waiting.abort();
    });
}

/// A switch has replaced the cluster: such an error is the primary's own.
#[test]
fn an_error_of_a_primary_that_is_no_cluster_s_is_its_reply() {
    locally(async {
        let mut bench = Bench::new();
        let (redirects, nodes) = clustered(&mut bench);
        redirects.set_active(false);
        let client = bench.client();
        bench.lane.push(READ, &client, IfLost::Resend, false, Arrival::default());
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"-MOVED 1 b:2\r\n").await.unwrap();
        assert_eq!(taken(&client).await, b"-MOVED 1 b:2\r\n");
        assert!(nodes.second.queue.borrow().is_empty());
    });
}

#[test]
fn a_read_that_a_replica_redirects_goes_to_the_primary_of_its_slot() {
    locally(async {
        let mut bench = Bench::new();
        let (redirects, nodes) = clustered(&mut bench);
        let Parts { pool, lanes, .. } = bench.parts.clone();
        let of_replica = Lanes::of_replica(pool.clone(), lanes.room.clone());
        bench.parts.lanes = Rc::new(of_replica.redirected_by(redirects));
        let client = bench.client();
        for _ in 0..5 {
            bench.lane.push(READ, &client, IfLost::Resend, false, Arrival::default());
        }
        bench.lane.queue.borrow_mut().wrote(1024);
        // It does not matter where the replica sends it, nor that it says ASK.
        let sent = b"+first\r\n-MOVED 1 nowhere:1\r\n-ASK 1 nowhere:1\r\n+fourth\r\n-CLUSTERDOWN x\r\n";
        bench.handle_replies(sent).await.unwrap();
        bench.lane.queue.borrow_mut().settle(LossCause::Superseded);
        assert_eq!(bench.lane.queue.borrow().len(), 1, "a replica that finds the cluster down is left");
        bench.lane.queue.borrow_mut().move_to(&mut nodes.second.queue.borrow_mut());
        until_sent(&nodes.second, &[READ, READ, READ].concat()).await;
        let counters = &bench.parts.dialing.reports.counters;
        assert_eq!((counters.redirects_moved.get(), counters.redirects_ask.get()), (1, 1));
        assert_eq!(counters.replica_reads_returned.get(), 2);
        bench.lane = nodes.second.clone();
        bench.parts.lanes = Rc::new(Lanes::new(pool.clone(), lanes.room.clone(), false));
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"+second\r\n+third\r\n+fifth\r\n").await.unwrap();
        assert_eq!(taken(&client).await, b"+first\r\n+second\r\n+third\r\n+fourth\r\n+fifth\r\n");
    });
}

#[test]
fn a_command_that_nodes_redirect_for_ever_fails() {
    locally(async {
        let mut bench = Bench::new();
        let (redirects, nodes) = clustered(&mut bench);
        let client = bench.client();
        let waiting = tokio::task::spawn_local(redirects.send_waiting());
        bench.lane.push(WRITE, &client, IfLost::ReportUnknown, false, Arrival::default());
        bench.lane.queue.borrow_mut().wrote(1024);
        for _ in 0..16 {
            bench.handle_replies(b"-MOVED 1 b:2\r\n").await.unwrap();
            bench.lane = nodes.second.clone();
            until_sent(&bench.lane, WRITE).await;
            bench.lane.queue.borrow_mut().wrote(1024);
        }
        bench.handle_replies(b"-MOVED 1 b:2\r\n").await.unwrap();
        let reply = String::from_utf8(taken(&client).await).unwrap();
        assert!(reply.starts_with("-ERR respgate: the nodes of the cluster redirected"), "{reply}");
        assert!(reply.ends_with("said: MOVED 1 b:2\r\n"), "{reply}");
        let counters = &bench.parts.dialing.reports.counters;
        assert_eq!((counters.redirects_moved.get(), counters.redirects_failed.get()), (17, 1));
        waiting.abort();
    });
}

#[test]
fn without_a_cluster_the_client_gets_what_the_server_says() {
    locally(async {
        let bench = Bench::new();
        let client = bench.client();
        bench.lane.push(READ, &client, IfLost::Resend, false, Arrival::default());
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"-MOVED 1 b:2\r\n").await.unwrap();
        assert_eq!(taken(&client).await, b"-MOVED 1 b:2\r\n");
    });
}

#[test]
fn what_a_lost_connection_owes_goes_behind_redirected_commands_of_the_same_client() {
    locally(async {
        let mut bench = Bench::new();
        let (redirects, nodes) = clustered(&mut bench);
        nodes.is_known.set(false);
        let (client, other) = (bench.client(), bench.client());
        let requests = ["a", "b", "c"].map(|key| format!("*2\r\n$3\r\nGET\r\n$1\r\n{key}\r\n"));
        for request in &requests {
            bench.lane.push(request.as_bytes(), &client, IfLost::Resend, false, Arrival::default());
            bench.lane.push(READ, &other, IfLost::Resend, false, Arrival::default());
        }
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"-MOVED 1 b:2\r\n+0\r\n").await.unwrap();
        bench.lane.queue.borrow_mut().settle(LossCause::Superseded);
        redirects.keep_order(&bench.lane, Generation(1));
        assert_eq!(bench.lane.queue.borrow().len(), 2, "the other client's requests stay");
        let waiting = tokio::task::spawn_local(redirects.send_waiting());
        nodes.is_known.set(true);
        until_sent(&nodes.second, requests.concat().as_bytes()).await;
        bench.lane = nodes.second.clone();
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"+1\r\n+2\r\n+3\r\n").await.unwrap();
        assert_eq!(taken(&client).await, b"+1\r\n+2\r\n+3\r\n");
        waiting.abort();
    });
}

/// Both ends of a TLS connection whose sockets take little at a time.
async fn secured() -> (Stream, TlsStream<ReadAhead>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let authority = Authority::new("ca");
    let leaf = authority.issue(&["localhost"]);
    let server = ServerProfile {
        chain: write("chain.pem", &leaf.chain_pem),
        key: write("key.pem", &leaf.key_pem),
        clients: ClientCertificates::Ignored,
        trust: Trust::default(),
        floor: Floor::Tls12,
        handshake_timeout: Duration::from_secs(5),
    };
    let trust = Trust { paths: vec![write("ca.pem", authority.pem())], ..Trust::default() };
    let client = ClientProfile { trust, ..ClientProfile::default() };
    let (_keep, server) = watch::channel(server.load(None).unwrap());
    let (_keep, client) = watch::channel(client.load().unwrap());
    let server = ServerTls::new(server, Duration::from_secs(5));
    let client = ClientTls::new(client, Names::default());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let (address, log) = (Address::tcp("localhost", 1), HandshakeLog::default());
    let gate = HandshakeGate::new(&crate::poll_meter::PollMeter::new());
    let (stream, welcomed) =
        tokio::join!(client.connect(&address, stream), server.accept(accepted, &log, &gate));
    let Ok(Welcomed { stream: accepted, .. }) = welcomed else { panic!("no handshake") };
    (Stream::Tls(Box::new(stream.unwrap().into())), accepted)
}

/// What TLS has taken counts as sent: a demoted node must get it, to refuse it.
#[test]
fn a_demoted_node_refuses_also_what_tls_had_not_sent() {
    locally(async {
        let bench = Bench::new();
        let client = bench.client();
        for _ in 0..100_000 {
            bench.lane.push(WRITE, &client, IfLost::ReportUnknown, false, Arrival::default());
        }
        let (stream, mut server) = secured().await;
        let (read, began) = (ReadBuffer::new(64 * 1024), tokio::time::Instant::now());
        let link = Connection {
            stream,
            read,
            generation: Generation(1),
            began,
            round_trip: std::time::Duration::ZERO,
            retires: None,
            id: Default::default(),
            unnaming: false,
        };
        let mut pump = Pump::new(link, false);
        let node = async {
            let (mut chunk, mut seen, mut refused) = (vec![0; 64 * 1024], 0, 0);
            while let Ok(count @ 1..) = server.read(&mut chunk).await {
                seen += count;
                let refusals = b"-READONLY x\r\n".repeat(seen / WRITE.len() - refused);
                refused = seen / WRITE.len();
                server.write_all(&refusals).await.unwrap();
                server.flush().await.unwrap();
                // The first refusal arrives while much is still on its way.
                tokio::time::sleep(Duration::from_millis(if seen < 64 * 1024 { 50 } else { 0 })).await;
            }
        };
        let end = poll_fn(|cx| pump.poll(cx, &bench.lane, &bench.parts.lanes));
        let end = tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! { end = end => end, () = node => panic!("the node left") }
        });
        assert!(matches!(end.await, Ok(PumpEnd::NotPrimary)), "it waits for what the node never got");
        let settled = bench.lane.queue.borrow_mut().settle(LossCause::Broken);
        assert_eq!(settled.unknown, 0);
    });
}

#[test]
fn a_slow_reply_is_no_silence() {
    locally(async {
        let bench = Bench::new();
        let client = bench.client();
        bench.lane.push(READ, &client, IfLost::Resend, false, Arrival::default());
        bench.lane.queue.borrow_mut().wrote(READ.len());
        let before = bench.lane.queue.borrow().progress();
        bench.handle_replies(b"$9\r\nhalf").await.unwrap();
        assert_ne!(bench.lane.queue.borrow().progress(), before);
    });
}

#[test]
fn a_demoted_node_s_replies_are_not_taken_for_those_of_lost_writes() {
    locally(async {
        let bench = Bench::new();
        let clients = [bench.client(), bench.client(), bench.client()];
        let requests =
            [(READ, IfLost::Resend), (WRITE, IfLost::ReportUnknown), (WRITE, IfLost::ReportUnknown)];
        for (client, (request, if_lost)) in clients.iter().zip(requests).take(2) {
            bench.lane.push(request, client, if_lost, false, Arrival::default());
        }
        {
            let mut queue = bench.lane.queue.borrow_mut();
            queue.wrote(1024);
            assert_eq!(queue.settle(LossCause::Broken), Settled { unknown: 1, resent: 1 });
        }
        bench.lane.push(WRITE, &clients[2], IfLost::ReportUnknown, false, Arrival::default());
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"-MASTERDOWN x\r\n+taken\r\n").await.unwrap();
        bench.lane.queue.borrow_mut().settle(LossCause::Broken);
        bench.lane.queue.borrow_mut().wrote(1024);
        bench.handle_replies(b"+read\r\n").await.unwrap();
        assert_eq!(taken(&clients[0]).await, b"+read\r\n");
        assert!(taken(&clients[1]).await.starts_with(b"-OUTCOMEUNKNOWN "));
        assert_eq!(taken(&clients[2]).await, b"+taken\r\n");
    });
}

#[test]
fn replies_before_a_fault_still_reach_their_client() {
    locally(async {
        for fault in [&b"+one\r\nHTTP\r\n"[..], b"+one\r\n+two\r\n"] {
            let bench = Bench::new();
            let client = bench.client();
            bench.lane.push(READ, &client, IfLost::Resend, false, Arrival::default());
            bench.lane.queue.borrow_mut().wrote(1024);
            bench.handle_replies(fault).await.unwrap_err();
            assert_eq!(taken(&client).await, b"+one\r\n");
        }
    });
}
