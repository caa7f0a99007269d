//! An address that can be pointed at another server, as a Service or a DNS name can.

use std::io::copy;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Forwards TCP connections. Those that are open stay where they are when it is pointed elsewhere.
pub struct Forwarder {
    pub port: u16,
    address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Listens on a free port and forwards to `target`.
    pub fn start(target: SocketAddr) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), target)
    }

    /// Listens at `address` and forwards to `target`.
    pub fn start_at(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (targets, stop) = (Arc::new(Mutex::new(vec![target])), Arc::new(AtomicBool::new(false)));
        let (chosen, ended, turn) = (Arc::clone(&targets), Arc::clone(&stop), AtomicUsize::new(0));
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let targets = chosen.lock().expect("the targets").clone();
                let target = targets[turn.fetch_add(1, Ordering::Relaxed) % targets.len()];
                if let Ok(server) = TcpStream::connect(target) {
                    join(client, server);
                }
            }
        });
        Self { port: address.port(), address, targets, stop, thread: Some(thread) }
    }

    /// New connections go to these servers in turn.
    pub fn point_at(&self, targets: &[SocketAddr]) {
        *self.targets.lock().expect("the targets") = targets.to_vec();
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies both ways, each on a thread that ends with the connection.
fn join(client: TcpStream, server: TcpStream) {
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || one_way(from, to));
    thread::spawn(move || one_way(server, client));
}

fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
