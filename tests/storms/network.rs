//! A network of real roles, each a task of this thread, in virtual time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use aggregator::Aggregator;
use chain::{Blocks, Chain as _, Ledger, LedgerConfig, RAO_PER_TAO};
use checkpoints::{Event, Events, Identity, Progress, Replica, Run, Shutdown, Step, Stopwatch};
use dataset::Dataset;
use gauntlet::{Validator, ValidatorOptions};
use model::{Activations, Device};
use protocol::{ChainSection, Digest, Keypair, Launch, Manifest, ObjectKey, RunConfig};
use storage::{Access, Budget, Stores};
use tokio::{task::JoinHandle, time::Instant};
use trainer::{Miner, MinerOptions, Strategy};

use super::{
    clock::{BLOCK, VirtualChain},
    weather::{Trouble, Weather, What},
};

/// Who takes part: validators first, then miners, then the aggregator.
pub const VALIDATORS: usize = 3;
pub const MINERS: usize = 24;
pub const NODES: usize = VALIDATORS + MINERS + 1;

pub struct Network {
    dir: tempfile::TempDir,
    pub weather: Weather,
    chain: Arc<VirtualChain>,
    dataset: Arc<Dataset>,
    url: String,
    keys: Vec<Keypair>,
    buckets: Vec<String>,
    start: Instant,
    /// What was heard of the nodes.
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// By round, of each node.
    roots: Vec<BTreeMap<u64, Digest>>,
    /// Of each node.
    warnings: Vec<Vec<String>>,
    /// The block in which a miner's envelope of a round was first seen in its bucket, by round and node.
    envelopes: BTreeMap<(u64, usize), u64>,
}

impl Network {
    pub async fn new(config: &RunConfig, data: &Path, weather: Weather, seed: u64) -> Rc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let dataset = Arc::new(Dataset::open(data, &dir.path().join("cache")).unwrap());
        let key = |number: u64| Keypair::from_seed(&Digest::derive("a storm", &[&seed.to_le_bytes(), &number.to_le_bytes()]).0);
        let owner = key(u64::MAX);
        let ledger_config = LedgerConfig { tempo: 50, weights_rate_limit: 50, ..LedgerConfig::new(Blocks::Lockstep, owner.hotkey()) };
        let ledger = Ledger::create(&dir.path().join("ledger.sqlite"), &ledger_config).unwrap();
        ledger.join("the clock").unwrap();
        let keys: Vec<Keypair> = (0..NODES as u64).map(key).collect();
        for (number, key) in keys.iter().enumerate() {
            ledger.enroll(1, key.hotkey(), key.hotkey()).unwrap();
            if number < VALIDATORS {
                ledger.endow(1, key.hotkey(), (100 - 10 * number as u64) * RAO_PER_TAO).unwrap();
            }
        }
        let start_block = ledger.next_block(0).await.unwrap().number;
        let on_chain = ChainSection { genesis: ledger.genesis().await.unwrap(), netuid: 1, launch_key: owner.hotkey(), start_block };
        let manifest = Manifest::resolve(config.clone(), Launch { chain: on_chain, data: dataset.section() }).unwrap();
        // memory is the whole process's
        let place = format!("memory:///storm-{seed}-{}", manifest.run_id());
        let url = format!("{place}/{}", manifest.run_id());
        let folder = Stores::from(Access::Trusted).open(&url, Access::Own).unwrap();
        folder.put(&ObjectKey::Manifest, manifest.to_bytes().into()).await.unwrap();
        let buckets = keys.iter().map(|key| format!("{place}/{}", key.hotkey().ss58())).collect();
        let told = Mutex::new(Told { roots: vec![BTreeMap::new(); NODES], warnings: vec![Vec::new(); NODES], ..Told::default() });
        let chain = VirtualChain::new(ledger).await;
        Rc::new(Self { dir, weather, chain, dataset, url, keys, buckets, start: Instant::now(), told })
    }

    /// Seconds since the start.
    pub fn second(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    /// Runs everybody until all have passed `rounds` rounds.
    pub async fn run(self: &Rc<Self>, rounds: u64) {
        let chain = self.chain.clone();
        let clock = tokio::task::spawn_local(async move { chain.run().await });
        let nodes: Vec<_> = (0..NODES).map(|node| tokio::task::spawn_local(self.clone().live(node))).collect();
        // by then whatever failed has had time to be mended
        let patience = BLOCK * u32::try_from(rounds * 40).unwrap() + Duration::from_secs(3600);
        while !self.all_passed(rounds) {
            tokio::time::sleep(BLOCK).await;
            self.look_for_envelopes().await;
            if self.start.elapsed() > patience {
                let standings = self.standings();
                let warned: Vec<_> = self.told.lock().unwrap().warnings.iter().map(|all| all.last().cloned()).collect();
                panic!("after {} s they stand at {:?}, and warned last: {warned:#?}", self.second(), standings);
            }
            if let Some(node) = nodes.iter().position(JoinHandle::is_finished) {
                panic!("node {node} ended by itself");
            }
        }
        nodes.iter().for_each(JoinHandle::abort);
        for node in nodes {
            let _ = node.await;
        }
        clock.abort();
    }

    /// Looks into the miners' buckets, past all faults.
    async fn look_for_envelopes(&self) {
        let block = self.chain.head().await.unwrap().number;
        let newest = self.standings().into_iter().flatten().max().map_or(0, |round| round + 1);
        let run = self.url.rsplit('/').next().unwrap();
        for node in VALIDATORS..VALIDATORS + MINERS {
            let bucket = Stores::from(Access::Trusted).open(&self.buckets[node], Access::Trusted).unwrap().join(run);
            for round in newest.saturating_sub(1)..=newest {
                let known = self.told.lock().unwrap().envelopes.contains_key(&(round, node));
                if !known && bucket.size(&ObjectKey::Envelope(round)).await.unwrap().is_some() {
                    self.told.lock().unwrap().envelopes.insert((round, node), block);
                }
            }
        }
    }

    /// The miners whose envelopes of a round were there by a block.
    pub fn sealed_by(&self, round: u64, block: u64) -> Vec<usize> {
        let told = self.told.lock().unwrap();
        told.envelopes.range((round, 0)..(round + 1, 0)).filter(|(_, seen)| **seen <= block).map(|((_, node), _)| *node).collect()
    }

    fn all_passed(&self, rounds: u64) -> bool {
        self.told.lock().unwrap().roots.iter().all(|roots| roots.last_key_value().is_some_and(|(round, _)| round + 1 >= rounds))
    }

    fn standings(&self) -> Vec<Option<u64>> {
        self.told.lock().unwrap().roots.iter().map(|roots| roots.last_key_value().map(|(round, _)| *round)).collect()
    }

    pub fn warnings(&self) -> usize {
        self.told.lock().unwrap().warnings.iter().map(Vec::len).sum()
    }

    pub fn warnings_of(&self, node: usize) -> Vec<String> {
        self.told.lock().unwrap().warnings[node].clone()
    }

    /// A node's life: started, killed, started again; what ends by a fault is started again after a block.
    async fn live(self: Rc<Self>, node: usize) {
        let mut kills: Vec<Trouble> = self.weather.troubles.iter().filter(|t| t.node == node && t.what == What::Kill).cloned().collect();
        kills.reverse();
        loop {
            let life = self.clone().serve(node);
            let Some(kill) = kills.pop() else {
                let why = life.await.unwrap_err();
                assert!(why.contains("no good answer") || why.contains("denies access") || why.contains("no run at"), "node {node}: {why}");
                tokio::time::sleep(BLOCK).await;
                continue;
            };
            let killed = self.start + Duration::from_secs(kill.when.start);
            match tokio::time::timeout_at(killed, life).await {
                Err(_) => tokio::time::sleep_until(self.start + Duration::from_secs(kill.when.end)).await,
                Ok(ended) => {
                    let why = ended.unwrap_err();
                    assert!(
                        why.contains("no good answer") || why.contains("denies access") || why.contains("no run at"),
                        "node {node}: {why}"
                    );
                    tokio::time::sleep(BLOCK).await;
                    kills.push(kill);
                }
            }
        }
    }

    /// A role from its start to its end, which is always an error.
    async fn serve(self: Rc<Self>, node: usize) -> Result<(), String> {
        let faults = self.weather.faults(node, &self.buckets, self.second());
        let stores = Stores { peers: Access::Trusted, budget: Budget::default(), faults: Some(faults) };
        let run = Run::open(&self.url, self.chain.clone(), stores).await.map_err(|e| e.to_string())?;
        let bucket = run.stores().open(&self.buckets[node], Access::Own).map_err(|e| e.to_string())?;
        let identity = Identity { keypair: self.keys[node].clone(), home: self.home(node), bucket };
        let (events, mut received) = Events::channel();
        let network = self.clone();
        let listen = async move {
            while let Some(event) = received.recv().await {
                network.hear(node, event);
            }
        };
        let (_stopper, shutdown) = Shutdown::pair();
        let (dataset, device) = (self.dataset.clone(), Device::Cpu);
        let work = async {
            match node {
                ..VALIDATORS => {
                    let options = ValidatorOptions { identity, dataset, device, held_out: 0, distortion: None };
                    let validator = Validator::start(run, options, events, shutdown).await.map_err(|e| e.to_string())?;
                    validator.run().await.map_err(|e| e.to_string())
                }
                _ if node == NODES - 1 => {
                    let aggregator = Aggregator::start(run, identity, events, shutdown).await.map_err(|e| e.to_string())?;
                    aggregator.run().await.map_err(|e| e.to_string())
                }
                _ => {
                    let (devices, activations) = (device.into(), Activations::default());
                    let options = MinerOptions { identity, dataset, devices, activations, offload: false, strategy: Strategy::Honest };
                    let miner = Miner::start(run, options, events, shutdown).await.map_err(|e| e.to_string())?;
                    miner.run().await.map_err(|e| e.to_string())
                }
            }
        };
        let (ended, ()) = tokio::join!(work, listen);
        ended.and_then(|()| Err("it stopped without being asked to".into()))
    }

    fn home(&self, node: usize) -> PathBuf {
        self.dir.path().join("homes").join(node.to_string())
    }

    fn hear(&self, node: usize, event: Event) {
        let mut told = self.told.lock().unwrap();
        match event {
            Event::Stepped { round, root, .. } => {
                // a node that was killed before the step was durable takes it again
                let first = *told.roots[node].entry(round).or_insert(root);
                assert_eq!(first, root, "node {node} has two roots of round {round}");
            }
            Event::Warning { message } => {
                told.warnings[node].push(message);
            }
            _ => {}
        }
    }

    /// Every round, replayed from genesis by somebody whose link is sound.
    pub async fn replay(&self) -> Vec<Arc<Step>> {
        let run = Run::open(&self.url, self.chain.clone(), Access::Trusted).await.unwrap();
        let head = self.chain.head().await.unwrap().number;
        let (mut replica, mut steps) = (Replica::genesis(run).unwrap(), Vec::new());
        while let Progress::Stepped(step) = replica.advance(head, &mut Stopwatch::default()).await.unwrap() {
            steps.push(step);
        }
        steps
    }

    /// The seconds in which a block was the head.
    pub fn seconds_of(&self, block: u64) -> u64 {
        block.saturating_sub(1) * BLOCK.as_secs()
    }

    /// The number of the node with this uid: the owner has 0.
    pub fn node_of(&self, uid: u16) -> usize {
        usize::from(uid) - 1
    }

    pub fn node_named(&self, hotkey: protocol::Hotkey) -> usize {
        self.keys.iter().position(|key| key.hotkey() == hotkey).expect("a node of this network")
    }

    /// One root per round, whoever tells it: equal to the replayed ones.
    pub fn assert_roots(&self, steps: &[Arc<Step>]) {
        for (node, roots) in self.told.lock().unwrap().roots.iter().enumerate() {
            for (round, root) in roots {
                assert_eq!(steps[*round as usize].record.value.root, *root, "node {node} differs in round {round}");
            }
        }
    }
}
