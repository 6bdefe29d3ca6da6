//! A TCP proxy in front of a node, whose connections can be cut, refused, delayed and frozen.

use std::io::Result;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// Counts the cuts: a connection lives as long as its number is the newest.
    generation: u64,
    refuse: bool,
    freeze: bool,
    delay: Duration,
}

#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// In front of the node at `port`.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("it listens").port();
        let mode = watch::Sender::new(Mode::default());
        let listening = tokio::spawn(listen(listener, port, mode.clone()));
        Self { port: own, mode, listening }
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.generation += 1);
    }

    /// Cuts all connections and takes none, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        self.mode.send_modify(|mode| (mode.generation, mode.refuse) = (mode.generation + 1, refuse));
    }

    /// Passes nothing on, or goes on where it was.
    pub fn freeze(&self, freeze: bool) {
        self.mode.send_modify(|mode| mode.freeze = freeze);
    }

    /// Passes every answer on only after so long.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse(true);
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, port: u16, mode: watch::Sender<Mode>) {
    while let Ok((client, _)) = listener.accept().await {
        if !mode.borrow().refuse {
            tokio::spawn(connection(client, port, mode.subscribe()));
        }
    }
}

async fn connection(client: TcpStream, port: u16, mut mode: watch::Receiver<Mode>) {
    let Ok(node) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let generation = mode.borrow().generation;
    let ((from_client, to_client), (from_node, to_node)) = (client.into_split(), node.into_split());
    tokio::select! {
        _ = pass(from_client, to_node, mode.clone(), false) => {}
        _ = pass(from_node, to_client, mode.clone(), true) => {}
        _ = mode.wait_for(|mode| mode.generation != generation) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>, answers: bool) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let delay = mode.borrow().delay;
        if answers && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if mode.wait_for(|mode| !mode.freeze).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
