//! The link between a replica and its primary, which a test can pause: the replica still serves, and still believes that it is connected.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::read;

/// Forwards TCP connections while it is not paused.
pub struct Link {
    pub port: u16,
    paused: Arc<AtomicBool>,
}

impl Link {
    /// Listens on a free port and forwards to `target`. Its thread ends with the process.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let paused = Arc::new(AtomicBool::new(false));
        let gate = Arc::clone(&paused);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { continue };
                for (from, to) in [(from, to), (server, client)] {
                    let gate = Arc::clone(&gate);
                    thread::spawn(move || copy(from, to, &gate));
                }
            }
        });
        Self { port, paused }
    }

    /// Holds every byte back, or lets all of them pass again.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, paused: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = read::once(&mut from, &mut bytes) {
        while paused.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
