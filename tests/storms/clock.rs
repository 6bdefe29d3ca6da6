//! The ledger in virtual time: a block each twelve seconds, and what cannot change any more is read once for all nodes.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chain::{Block, Chain, ChainError, Commitment, Ledger, Neuron, Subnet};
use protocol::{Digest, Hotkey, Keypair};
use tokio::sync::watch;

pub const BLOCK: Duration = Duration::from_secs(12);

/// The one handle of all nodes.
#[derive(Debug)]
pub struct VirtualChain {
    ledger: Ledger,
    head: watch::Sender<Block>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    blocks: HashMap<u64, Block>,
    neurons: HashMap<u64, Vec<Neuron>>,
    commitments: HashMap<u64, Vec<Commitment>>,
    /// As of the head.
    buckets: Option<(u64, Vec<(Hotkey, String)>)>,
}

impl VirtualChain {
    /// Over a ledger in lockstep in which nobody else takes part.
    pub async fn new(ledger: Ledger) -> Arc<Self> {
        let head = ledger.head().await.unwrap();
        Arc::new(Self { ledger, head: watch::Sender::new(head), seen: Mutex::default() })
    }

    /// Makes blocks for ever.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(BLOCK).await;
            let head = self.head.borrow().number;
            let next = self.ledger.next_block(head).await.unwrap();
            self.head.send_replace(next);
        }
    }

    fn newest(&self) -> Block {
        *self.head.borrow()
    }
}

#[async_trait]
impl Chain for VirtualChain {
    async fn genesis(&self) -> Result<Digest, ChainError> {
        self.ledger.genesis().await
    }

    async fn head(&self) -> Result<Block, ChainError> {
        Ok(self.newest())
    }

    async fn block(&self, number: u64) -> Result<Option<Block>, ChainError> {
        let known = self.seen.lock().unwrap().blocks.get(&number).copied();
        if known.is_some() {
            return Ok(known);
        }
        let block = self.ledger.block(number).await?;
        self.seen.lock().unwrap().blocks.extend(block.map(|block| (number, block)));
        Ok(block)
    }

    async fn next_block(&self, after: u64) -> Result<Block, ChainError> {
        let mut head = self.head.subscribe();
        Ok(*head.wait_for(|head| head.number > after).await.expect("the chain outlives its nodes"))
    }

    async fn subnet(&self, netuid: u16) -> Result<Subnet, ChainError> {
        self.ledger.subnet(netuid).await
    }

    async fn neurons(&self, netuid: u16, at: u64) -> Result<Vec<Neuron>, ChainError> {
        if let Some(known) = self.seen.lock().unwrap().neurons.get(&at) {
            return Ok(known.clone());
        }
        let neurons = self.ledger.neurons(netuid, at).await?;
        self.seen.lock().unwrap().neurons.insert(at, neurons.clone());
        Ok(neurons)
    }

    async fn set_bucket(&self, signer: &Keypair, netuid: u16, url: &str) -> Result<(), ChainError> {
        self.ledger.set_bucket(signer, netuid, url).await
    }

    async fn buckets(&self, netuid: u16) -> Result<Vec<(Hotkey, String)>, ChainError> {
        let head = self.newest().number;
        if let Some((at, known)) = &self.seen.lock().unwrap().buckets
            && *at == head
        {
            return Ok(known.clone());
        }
        let buckets = self.ledger.buckets(netuid).await?;
        self.seen.lock().unwrap().buckets = Some((head, buckets.clone()));
        Ok(buckets)
    }

    async fn commit(&self, signer: &Keypair, netuid: u16, data: &[u8]) -> Result<(), ChainError> {
        self.ledger.commit(signer, netuid, data).await
    }

    async fn commitments(&self, netuid: u16, blocks: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError> {
        let mut all = Vec::new();
        for block in *blocks.start()..=(*blocks.end()).min(self.newest().number) {
            let known = self.seen.lock().unwrap().commitments.get(&block).cloned();
            let of_block = match known {
                Some(known) => known,
                None => {
                    let read = self.ledger.commitments(netuid, block..=block).await?;
                    self.seen.lock().unwrap().commitments.insert(block, read.clone());
                    read
                }
            };
            all.extend(of_block);
        }
        Ok(all)
    }

    async fn balance(&self, account: Hotkey) -> Result<u64, ChainError> {
        self.ledger.balance(account).await
    }

    async fn burned_register(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey) -> Result<u16, ChainError> {
        self.ledger.burned_register(coldkey, netuid, hotkey).await
    }

    async fn add_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.ledger.add_stake(coldkey, netuid, hotkey, rao).await
    }

    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        self.ledger.set_weights(signer, netuid, weights).await
    }

    async fn commit_weights(&self, signer: &Keypair, netuid: u16, commitment: Digest) -> Result<(), ChainError> {
        self.ledger.commit_weights(signer, netuid, commitment).await
    }

    async fn reveal_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)], salt: &[u16]) -> Result<(), ChainError> {
        self.ledger.reveal_weights(signer, netuid, weights, salt).await
    }

    async fn commit_timelocked_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<u64, ChainError> {
        self.ledger.commit_timelocked_weights(signer, netuid, weights).await
    }

    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError> {
        self.ledger.weights(netuid, uid).await
    }
}
