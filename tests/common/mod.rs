//! A whole network for tests: the real binary, a process per role, a ledger in lockstep and buckets in a temporary folder.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod lead;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use chain::{Blocks, Chain as _, Ledger, LedgerConfig, Phrase, RAO_PER_TAO, Wallet};
use checkpoints::{Event, Progress, Replica, Run, Step, Stopwatch};
use dataset::{PrepareOptions, Source, Tokenizer};
use protocol::{Digest, Hotkey, Keypair};
use storage::Access;
use tokio::runtime::Runtime;

/// Longer than anything here takes on a loaded machine; only a hang reaches it.
pub const HANG: Duration = Duration::from_secs(240);

pub const CONFIG: &str = r#"
name = "test"
[model]
vocab_size = 257
hidden_size = 32
layers = 1
heads = 2
kv_heads = 1
head_dim = 16
intermediate_size = 64
sequence_length = 32
rope_theta = 10000.0
norm_eps = 1e-5
tied_embeddings = true
init_std = 0.02
[data]
tokenizer = "bytes"
[inner]
steps = 4
batch = 4
micro_batch = 4
lr = 3e-3
warmup = 4
decay = 1000
[round]
train = 12
reveal = 4
judge = 6
span = 3
early_close = true
[judge]
assigned = 16
random = 16
floor = 0.001
probation = 1000
[checkpoints]
every = 3
"#;

pub fn tributary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.env("OMP_NUM_THREADS", "1").env("RAYON_NUM_THREADS", "1").env_remove("RUST_LOG");
    command
}

/// The one line that a failed command says.
pub fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// What a role is started as.
#[derive(Clone, Debug)]
pub struct Role {
    pub name: String,
    pub args: Vec<String>,
    pub uid: u16,
    pub keypair: Keypair,
}

struct Running {
    child: Child,
    reader: thread::JoinHandle<()>,
}

pub struct Net {
    pub dir: tempfile::TempDir,
    pub ledger: Ledger,
    pub run: String,
    pub roles: BTreeMap<String, Role>,
    running: BTreeMap<String, Running>,
    events: Arc<Mutex<BTreeMap<String, Vec<Event>>>>,
}

/// Text that is always there: this repository's own.
fn text() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["protocol", "compression", "chain", "dataset", "storage", "model", "checkpoints"]
        .map(|name| root.join(name).join("README.md").display().to_string())
        .to_vec()
}

impl Net {
    /// `miners` honest ones, `cheats`, `validators` by descending stake, and an aggregator; nothing runs yet.
    pub fn new(config: &str, miners: usize, cheats: usize, validators: usize) -> Self {
        let stakes: Vec<u64> = (1..=validators as u64).map(|i| 110 - 10 * i).collect();
        Self::with_stakes(config, miners, cheats, &stakes)
    }

    /// A network with one validator for each of `stakes`, in TAO.
    pub fn with_stakes(config: &str, miners: usize, cheats: usize, stakes: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let options = PrepareOptions::new(Source::Paths(text()), "this repository", Tokenizer::Bytes);
        dataset::prepare(&PrepareOptions { held_out_share: 0.3, ..options }, &at("data")).unwrap();
        fs::write(at("config.toml"), config).unwrap();
        fs::create_dir(at("store")).unwrap();
        let wallet = Wallet::create(&at("wallets"), "test", &Phrase::generate().unwrap(), None).unwrap();
        let owner = wallet.create_hotkey("owner", &Phrase::generate().unwrap()).unwrap();
        let ledger_config = LedgerConfig { tempo: 10, weights_rate_limit: 10, ..LedgerConfig::new(Blocks::Lockstep, owner.hotkey()) };
        let path = at("store").join("ledger.sqlite");
        let ledger = Ledger::create(&path, &ledger_config).unwrap();
        ledger.join("test").unwrap();
        let mut roles = BTreeMap::new();
        let mut add = |name: String, args: &[&str], stake: u64| {
            let keypair = wallet.create_hotkey(&name, &Phrase::generate().unwrap()).unwrap();
            let uid = ledger.enroll(1, keypair.hotkey(), wallet.coldkey_public().unwrap()).unwrap();
            if stake > 0 {
                ledger.endow(1, keypair.hotkey(), stake * RAO_PER_TAO).unwrap();
            }
            let args = args.iter().map(ToString::to_string).collect();
            roles.insert(name.clone(), Role { name, args, uid, keypair });
        };
        for i in 1..=miners {
            // the second one has two ranks
            let args: &[&str] = if i == 2 { &["mine", "--devices", "cpu,cpu", "--recompute"] } else { &["mine", "--device", "cpu"] };
            add(format!("miner-{i}"), args, 0);
        }
        for i in 1..=cheats {
            add(format!("cheat-{i}"), &["mine", "--device", "cpu", "--strategy", "noise"], 0);
        }
        for (i, stake) in (1..).zip(stakes) {
            add(format!("validator-{i}"), &["validate", "--device", "cpu", "--held-out", "4"], *stake);
        }
        add("aggregator".into(), &["aggregate"], 0);
        block_on(ledger.next_block(0));
        ledger.leave().unwrap();
        let mut launch = tributary();
        launch.args(["launch", "--json", "--wallet", "test", "--hotkey", "owner", "--start-block", "1"]);
        launch.arg(at("config.toml")).arg("--store").arg(at("store")).arg("--data").arg(at("data")).arg("--wallet-path").arg(at("wallets"));
        let output = launch.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let launched: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let run = launched["url"].as_str().unwrap().to_owned();
        Self { dir, ledger: Ledger::open(&path).unwrap(), run, roles, running: BTreeMap::new(), events: Arc::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn hotkey(&self, name: &str) -> Hotkey {
        self.roles[name].keypair.hotkey()
    }

    /// The folder of a role's objects of this run.
    pub fn bucket(&self, name: &str) -> PathBuf {
        let id = self.run.rsplit('/').next().unwrap();
        self.path("store").join("peers").join(self.hotkey(name).ss58()).join(id)
    }

    /// The command that runs a role.
    pub fn command(&self, name: &str) -> Command {
        let role = &self.roles[name];
        let mut command = tributary();
        command.args(&role.args).args(["--json", "--run", &self.run, "--wallet", "test", "--hotkey", name]);
        command.arg("--wallet-path").arg(self.path("wallets")).arg("--home").arg(self.path("homes").join(name));
        command
    }

    /// Starts roles together: no block passes before all of them take part.
    pub fn start(&mut self, names: &[&str]) {
        let hotkeys: Vec<String> = names.iter().map(|n| self.hotkey(n).ss58()).collect();
        self.ledger.expect(&hotkeys.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        for name in names {
            let mut child = self.command(name).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
            let stdout = BufReader::new(child.stdout.take().unwrap());
            let (events, key) = (self.events.clone(), (*name).to_owned());
            let reader = thread::spawn(move || {
                for line in stdout.lines().map_while(Result::ok) {
                    let event: Event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{key}: {line}: {e}"));
                    events.lock().unwrap().entry(key.clone()).or_default().push(event);
                }
            });
            self.running.insert((*name).to_owned(), Running { child, reader });
        }
    }

    pub fn start_all(&mut self) {
        let names: Vec<String> = self.roles.keys().cloned().collect();
        self.start(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// kill -9.
    pub fn kill(&mut self, name: &str) {
        let mut running = self.running.remove(name).expect("it runs");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running.reader.join().unwrap();
    }

    /// SIGTERM, and a clean exit.
    pub fn stop(&mut self, name: &str) {
        let running = self.running.remove(name).expect("it runs");
        terminate(&running.child);
        ended_cleanly(name, running);
    }

    pub fn stop_all(&mut self) {
        // all at once: in lockstep, nobody waits for one that is asked to stop
        for running in self.running.values() {
            terminate(&running.child);
        }
        for (name, running) in std::mem::take(&mut self.running) {
            ended_cleanly(&name, running);
        }
    }

    pub fn events(&self, name: &str) -> Vec<Event> {
        self.events.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    /// Roots by round, as the role told them; two different roots of one round are a failure.
    pub fn roots(&self, name: &str) -> BTreeMap<u64, Digest> {
        let mut roots = BTreeMap::new();
        for event in self.events(name) {
            if let Event::Stepped { round, root, .. } = event {
                assert_eq!(*roots.entry(round).or_insert(root), root, "{name} has two roots of round {round}");
            }
        }
        roots
    }

    /// Applied uids by round, as the role told them.
    pub fn applied(&self, name: &str) -> BTreeMap<u64, Vec<u16>> {
        let stepped = self.events(name).into_iter();
        stepped.filter_map(|e| if let Event::Stepped { round, applied, .. } = e { Some((round, applied)) } else { None }).collect()
    }

    /// Waits until the role has stepped past `round`.
    pub fn wait_round(&mut self, name: &str, round: u64) {
        self.wait(&format!("{name} to pass round {round}"), |net| net.roots(name).keys().next_back().is_some_and(|r| *r >= round));
    }

    /// Waits for a condition; fails if a process ends by itself, or after [`HANG`].
    pub fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            self.check_running(what);
            assert!(start.elapsed() < HANG, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails if a process has ended by itself.
    pub fn check_running(&mut self, what: &str) {
        for (name, running) in &mut self.running {
            if let Some(status) = running.child.try_wait().unwrap() {
                panic!("{name} ended with {status} while waiting for {what}");
            }
        }
    }

    /// A stranger's view of the ledger.
    pub fn open_ledger(&self) -> Ledger {
        Ledger::open(&self.path("store").join("ledger.sqlite")).unwrap()
    }

    /// Every round so far, as whoever replays the log finds it.
    pub fn replay(&self) -> Vec<Arc<Step>> {
        runtime().block_on(async {
            let run = Run::open(&self.run, Arc::new(self.open_ledger()), Access::Trusted).await.unwrap();
            let head = run.chain.head().await.unwrap().number;
            let (mut replica, mut steps) = (Replica::genesis(run).unwrap(), Vec::new());
            while let Progress::Stepped(step) = replica.advance(head, &mut Stopwatch::default()).await.unwrap() {
                steps.push(step);
            }
            steps
        })
    }

    /// Every role's roots agree wherever two of them know a round; returns the newest round that all of `names` know.
    pub fn assert_equal_roots(&self, names: &[&str]) -> u64 {
        let mut all: BTreeMap<u64, Digest> = BTreeMap::new();
        for name in names {
            for (round, root) in self.roots(name) {
                assert_eq!(*all.entry(round).or_insert(root), root, "{name} differs in round {round}");
            }
        }
        names.iter().map(|n| self.roots(n).keys().next_back().copied().expect("every role stepped")).min().expect("some names")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for running in self.running.values_mut() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

fn terminate(child: &Child) {
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

fn ended_cleanly(name: &str, mut running: Running) {
    let status = running.child.wait().unwrap();
    assert!(status.success(), "{name} ended with {status}");
    running.reader.join().unwrap();
}

pub fn block_on<T>(future: impl Future<Output = Result<T, chain::ChainError>>) -> T {
    runtime().block_on(future).unwrap()
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Who was first in rank in a round.
pub fn first(step: &Step) -> Hotkey {
    step.record.value.validators[0].hotkey
}
