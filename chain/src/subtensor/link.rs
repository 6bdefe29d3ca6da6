//! The link to the chain: several nodes, one of them in use, and the newest finalized block of any.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::Digest;
use subxt::SubstrateConfig;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::fault::Fault;
use super::node::Node;
use super::patience::Patience;
use crate::{Block, ChainError};

/// How far a node may be behind the newest block known, and behind the clock, before another is preferred.
const LAG_BLOCKS: u64 = 10;
const LAG: Duration = Duration::from_secs(600);

/// Several nodes of one chain.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    urls: Vec<String>,
    patience: Patience,
    config: SubstrateConfig,
    genesis: OnceLock<Digest>,
    node: Mutex<Option<Arc<Node>>>,
    /// The node to try first.
    turn: AtomicUsize,
    head: watch::Sender<Block>,
}

/// A node's address as it may be shown: scheme and host. Before the host there may be a password, behind it the key of whoever pays for the node.
pub(super) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

impl Link {
    /// Connects to the first of `urls` that answers, and follows the chain until dropped.
    pub(super) async fn open(urls: Vec<String>, patience: Patience) -> Result<Self, ChainError> {
        let none = Block { number: 0, hash: Digest([0; 32]), time_ms: 0 };
        let shared = Arc::new(Shared {
            urls,
            patience,
            config: SubstrateConfig::new(),
            genesis: OnceLock::new(),
            node: Mutex::new(None),
            turn: AtomicUsize::new(0),
            head: watch::Sender::new(none),
        });
        let head = shared.read(|node| async move { node.head().await }).await?;
        shared.publish(head);
        let follower = tokio::spawn(follow(shared.clone()));
        Ok(Self { shared, follower })
    }

    pub(super) fn genesis(&self) -> Digest {
        *self.shared.genesis.get().expect("set by the first connection, which `open` made")
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.shared.patience
    }

    /// The newest finalized block seen.
    pub(super) fn head(&self) -> Block {
        *self.shared.head.borrow()
    }

    /// Waits for a head whose number exceeds `after`.
    pub(super) async fn next(&self, after: u64) -> Block {
        let mut heads = self.shared.head.subscribe();
        let head = heads.wait_for(|head| head.number > after).await.expect("the sender lives as long as this link");
        *head
    }

    /// Asks the node in use; where it fails, the next, and so on for a while.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(Arc<Node>) -> F) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.shared.read(ask).await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Shared {
    async fn read<T, F>(&self, ask: impl Fn(Arc<Node>) -> F) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut tried = Vec::new();
        let Patience { mut pause, longest_pause, attempts, request, .. } = self.patience;
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest_pause);
            }
            let node = match self.node().await {
                Ok(node) => node,
                Err(reasons) => {
                    tried = reasons;
                    continue;
                }
            };
            let answer = tokio::time::timeout(request, ask(node.clone())).await;
            match answer.unwrap_or_else(|_| Err(Fault::Node(format!("no answer within {request:?}")))) {
                Ok(value) => return Ok(value),
                Err(fault) if fault.is_nodes() => {
                    self.lost(&node, &fault).await;
                    tried.push(format!("{}: {fault}", node.url));
                }
                Err(fault) => return Err(self.answer(&node, fault)),
            }
        }
        tried.dedup();
        Err(ChainError::Unreachable(tried.join("; ")))
    }

    /// The caller's error for a fault that no other node would mend.
    fn answer(&self, node: &Node, fault: Fault) -> ChainError {
        match fault {
            Fault::Answer(error) => *error,
            Fault::Missing(what) => ChainError::NotInThisRuntime { what, runtime: node.url.clone() },
            Fault::Refused { code, message } => ChainError::NodeRefused { url: node.url.clone(), code, message },
            Fault::Codec(reason) => ChainError::Undecodable { url: node.url.clone(), reason },
            Fault::Node(_) | Fault::Pruned => ChainError::Unreachable(format!("{}: {fault}", node.url)),
        }
    }

    /// The node in use, or the first that can be connected; otherwise why each cannot.
    async fn node(&self) -> Result<Arc<Node>, Vec<String>> {
        let mut current = self.node.lock().await;
        if let Some(node) = &*current {
            return Ok(node.clone());
        }
        let first = self.turn.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        let mut lagging: Option<(Block, Node)> = None;
        for url in self.urls.iter().cycle().skip(first % self.urls.len()).take(self.urls.len()) {
            match self.connect(url).await {
                Ok((head, node)) if self.is_current(&head) => return Ok(self.take(&mut current, node)),
                Ok((head, node)) => {
                    reasons.push(format!("{}: it lags, its newest finalized block is {}", node.url, head.number));
                    if lagging.as_ref().is_none_or(|(best, _)| head.number > best.number) {
                        lagging = Some((head, node));
                    }
                }
                Err(fault) => reasons.push(format!("{}: {fault}", shown(url))),
            }
        }
        // where all are late, the chain itself may have halted
        match lagging {
            Some((head, node)) if self.knows_newest(&head) => {
                tracing::warn!(url = node.url, block = head.number, "no node has a recent finalized block; going on with this one");
                Ok(self.take(&mut current, node))
            }
            _ => Err(reasons),
        }
    }

    fn take(&self, current: &mut Option<Arc<Node>>, node: Node) -> Arc<Node> {
        tracing::info!(url = node.url, "connected");
        current.insert(Arc::new(node)).clone()
    }

    /// Connects, and checks that it is the same chain.
    async fn connect(&self, url: &str) -> Result<(Block, Node), Fault> {
        let node = Node::connect(url, &self.config, &self.patience).await?;
        let (found, expected) = (node.genesis(), *self.genesis.get_or_init(|| node.genesis()));
        if found != expected {
            return Err(ChainError::WrongGenesis { url: node.url, found, expected }.into());
        }
        let head = tokio::time::timeout(self.patience.request, node.head()).await;
        let head = head.unwrap_or_else(|_| Err(Fault::Node("it does not name its newest block".into())))?;
        Ok((head, node))
    }

    fn is_current(&self, head: &Block) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(Duration::from_millis(head.time_ms));
        self.knows_newest(head) && age < LAG
    }

    /// Whether a node whose newest block is `head` is no more than a few blocks behind the others.
    fn knows_newest(&self, head: &Block) -> bool {
        head.number + LAG_BLOCKS >= self.head.borrow().number
    }

    /// Gives up a node; the next one is tried first.
    async fn lost(&self, node: &Arc<Node>, fault: &Fault) {
        let mut current = self.node.lock().await;
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, node)) {
            tracing::warn!(url = node.url, %fault, "node given up");
            *current = None;
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Heads only ever rise, whichever node told them.
    fn publish(&self, head: Block) {
        self.head.send_if_modified(|newest| {
            let newer = head.number > newest.number || newest.hash == Digest([0; 32]);
            if newer {
                *newest = head;
            }
            newer
        });
    }

    /// Follows one node's finalized blocks until it fails.
    async fn follow_once(&self) -> Result<(), String> {
        let node = self.node().await.map_err(|reasons| reasons.join("; "))?;
        let stalled = self.patience.stalled;
        let followed = async {
            let mut heads = node.rpc.chain_subscribe_finalized_heads().await?;
            self.publish(node.head().await?);
            loop {
                let Ok(head) = tokio::time::timeout(stalled, heads.next()).await else {
                    return Err(Fault::Node(format!("no finalized block for {stalled:?}")));
                };
                head.ok_or_else(|| Fault::Node("it ended the subscription".into()))??;
                // the header's number alone would do, but its hash and time are wanted too
                self.publish(node.head().await?);
            }
        };
        let ended: Result<(), Fault> = followed.await;
        match ended {
            Err(fault) => {
                self.lost(&node, &fault).await;
                Err(format!("{}: {fault}", node.url))
            }
            Ok(()) => Ok(()),
        }
    }
}

async fn follow(shared: Arc<Shared>) {
    let Patience { pause: first, longest_pause, .. } = shared.patience;
    let mut pause = first;
    loop {
        let before = shared.head.borrow().number;
        if let Err(reason) = shared.follow_once().await {
            tracing::debug!(reason, "not following the chain");
        }
        pause = if shared.head.borrow().number > before { first } else { (pause * 2).min(longest_pause) };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn no_secret_of_an_address_is_shown() {
        for (url, expected) in [
            ("wss://me:secret@node.example:443/path", "wss://node.example:443"),
            ("wss://node.example/v1/secret?key=secret#secret", "wss://node.example"),
            ("ws://127.0.0.1:9944", "ws://127.0.0.1:9944"),
            ("me:secret@node.example", "node.example"),
            ("wss://me:sec@ret@node.example", "wss://node.example"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
