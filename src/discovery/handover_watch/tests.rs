use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const INFO: &str = "role:master\r\nmaster_replid:new\r\nmaster_replid2:old\r\n";

/// Starts a node that answers every INFO with [`INFO`] and refuses REPLCONF if `refuses` is true. Returns a connection to it,
/// and the task that ends with what it has read.
async fn node(refuses: bool) -> (Node, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::tcp("127.0.0.1", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        let mut answered = (0, 0);
        while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
            let text = String::from_utf8_lossy(&read);
            let asked = (text.matches("REPLCONF").count(), text.matches("replication\r\n").count());
            let mut reply = String::new();
            if refuses {
                reply.push_str(&"-NOPERM no permission\r\n".repeat(asked.0 - answered.0));
            }
            reply.push_str(&format!("${}\r\n{INFO}\r\n", INFO.len()).repeat(asked.1 - answered.1));
            answered = asked;
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
        String::from_utf8(read).unwrap()
    });
    let stream = Dialer::default().dial(&address).await.unwrap();
    (Node { control: Control::new(stream), acknowledges: true }, server)
}

#[tokio::test]
async fn a_replica_is_asked_to_acknowledge_until_it_refuses() {
    for (refuses, requests) in [(false, 3), (true, 1)] {
        let (mut node, server) = node(refuses).await;
        for _ in 0..3 {
            assert_eq!(node.acknowledge().await, ReplicationState::from_info(INFO), "refuses: {refuses}");
        }
        drop(node);
        let read = server.await.unwrap();
        assert_eq!(read.matches("GETACK").count(), requests, "refuses: {refuses}");
    }
}
