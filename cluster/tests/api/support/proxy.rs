//! A way to the API that can be cut.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

pub struct Proxy {
    pub port: u16,
    open: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    /// Bytes from the API.
    received: Arc<AtomicU64>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Self {
            port: listener.local_addr().expect("its address").port(),
            open: Arc::new(AtomicBool::new(true)),
            connections: Arc::default(),
            received: Arc::default(),
        };
        let (open, connections) = (Arc::clone(&proxy.open), Arc::clone(&proxy.connections));
        let received = Arc::clone(&proxy.received);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let copies = [client.try_clone(), server.try_clone()];
                connections
                    .lock()
                    .expect("connections")
                    .extend(copies.into_iter().flatten());
                let (c, s) = (
                    client.try_clone().expect("it"),
                    server.try_clone().expect("it"),
                );
                std::thread::spawn(move || copy(client, server, None));
                let received = Arc::clone(&received);
                std::thread::spawn(move || copy(s, c, Some(&received)));
            }
        });
        proxy
    }

    /// From now on nothing gets through.
    pub fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        for connection in self.connections.lock().expect("connections").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, count: Option<&AtomicU64>) {
    let mut buffer = [0; 16384];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
        if let Some(count) = count {
            count.fetch_add(read as u64, Ordering::SeqCst);
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
