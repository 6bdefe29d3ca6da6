//! The command line: subcommands and the options that several of them share.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use storage::{Access, Budget, Faults, Rates, Stores};

use crate::{
    amend, arena, chain_cmd, check, codec, context, data, demo, doctor, eval, explain, export, launch, plan, pull, role, scores, status,
    store, verify, wallet,
};

/// Train one language model with strangers: bit-exact, replayable, paid by measured loss.
#[derive(Debug, Parser)]
#[command(name = "tributary", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole network on this machine and leave a verified checkpoint.
    Demo(demo::DemoArgs),
    /// Join a run as a miner: train, and upload what was learned.
    Mine(role::MineArgs),
    /// Join a run as a validator: measure, record, pay.
    Validate(role::ValidateArgs),
    /// Publish each round's payloads as one bundle.
    Aggregate(role::AggregateArgs),
    /// Write a new run's genesis: manifest and data set.
    Launch(launch::LaunchArgs),
    /// Change a running run, with its launch key.
    Amend(amend::AmendArgs),
    /// Show where a run stands: rounds, miners, scores, weights.
    Status(status::StatusArgs),
    /// Show a round's public score sheet, checked; or recompute the scores from all sheets.
    Scores(scores::ScoresArgs),
    /// Say in plain words how a miner fares, why it is paid what it is, and what it can do.
    Explain(explain::ExplainArgs),
    /// Attack the scoring: populations of honest and adversarial miners against real validators.
    Arena(arena::ArenaArgs),
    /// Check how a run came to be: every signature, every step that can still be replayed.
    Verify(verify::VerifyArgs),
    /// Download a run's newest snapshot, checked against its log.
    Pull(pull::PullArgs),
    /// Turn a snapshot into a folder that other tools load.
    Export(export::ExportArgs),
    /// Bits per byte of a snapshot on a text, or a sample of what it writes.
    Eval(eval::EvalArgs),
    /// Check a run's config and print what it costs.
    Check(check::CheckArgs),
    /// Size a run before it is launched: what a round takes over a given link, which term binds, what the store costs.
    Plan(plan::PlanArgs),
    /// Measure this machine and its link, and say which runs it can mine, and at what share of a round.
    Doctor(doctor::DoctorArgs),
    /// Use the codec on tensor files, and explain payloads.
    Codec(codec::CodecArgs),
    /// Turn text into token shards.
    Data(data::DataArgs),
    /// Object storage: what a run's buckets hold and cost, retention, a server for labs.
    Store(store::StoreArgs),
    /// Make, list and use keys.
    Wallet(wallet::WalletArgs),
    /// Keys on a chain, the embedded ledger, consensus and pay by themselves.
    Chain(chain_cmd::ChainArgs),
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Demo(args) => demo::run(args),
            Command::Mine(args) => role::mine(args),
            Command::Validate(args) => role::validate(args),
            Command::Aggregate(args) => role::aggregate(args),
            Command::Launch(args) => context::block_on(launch::run(args)),
            Command::Amend(args) => context::block_on(amend::run(args)),
            Command::Status(args) => context::block_on(status::run(args)),
            Command::Scores(args) => context::block_on(scores::run(args)),
            Command::Explain(args) => context::block_on(explain::run(args)),
            Command::Arena(args) => arena::run(args),
            Command::Verify(args) => context::block_on(verify::run(args)),
            Command::Pull(args) => context::block_on(pull::run(args)),
            Command::Export(args) => context::block_on(export::run(args)),
            Command::Eval(args) => context::block_on(eval::run(args)),
            Command::Check(args) => check::run(&args),
            Command::Plan(args) => plan::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Codec(args) => codec::run(args),
            Command::Data(args) => data::run(args),
            Command::Store(args) => store::run(args),
            Command::Wallet(args) => wallet::run(args),
            Command::Chain(args) => chain_cmd::run(args),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "tributary", &mut std::io::stdout());
                Ok(())
            }
        }
    }
}

/// Which run, on which chain.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Address of the run's folder, e.g. file:///srv/store/RUN_ID or s3://bucket/RUN_ID.
    #[arg(long, value_name = "URL", env = "TRIBUTARY_RUN")]
    pub run: String,
    /// The chain: Subtensor's nodes (wss://ONE,wss://ANOTHER) or ledger:/path/to/ledger.sqlite. By default the ledger beside a run in a local folder.
    #[arg(long, value_name = "URL", env = "TRIBUTARY_CHAIN")]
    pub chain: Option<String>,
    /// Let other nodes' buckets be local folders or private addresses, as with a ledger: only where all nodes are your own.
    #[arg(long, visible_alias = "allow-private")]
    pub lab: bool,
    #[command(flatten)]
    pub link: LinkArgs,
}

/// How much of the link stores may take.
#[derive(Clone, Debug, Args)]
pub struct LinkArgs {
    /// The most that goes up to stores, in Mbit/s.
    #[arg(long, value_name = "MBIT/S")]
    pub up_limit: Option<NonZeroU32>,
    /// The most that comes down from stores, in Mbit/s.
    #[arg(long, value_name = "MBIT/S")]
    pub down_limit: Option<NonZeroU32>,
    /// Connections to stores at once. More fill a link that is fast, far and loses packets.
    #[arg(long, value_name = "N", default_value_t = Budget::CONNECTIONS)]
    pub connections: usize,
    /// Let this process's requests to stores suffer the faults of a file such as configs/faults/hostile.toml, to see how a run bears them.
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Draw the faults with this seed instead of the file's.
    #[arg(long, value_name = "N", requires = "faults")]
    pub fault_seed: Option<u64>,
}

impl Default for LinkArgs {
    fn default() -> Self {
        Self { up_limit: None, down_limit: None, connections: Budget::CONNECTIONS, faults: None, fault_seed: None }
    }
}

impl LinkArgs {
    /// How buckets are opened; other nodes' as far as `peers` says. Fails where a file of faults cannot be read.
    pub fn stores(&self, peers: Access) -> Result<Stores> {
        let bytes = |limit: Option<NonZeroU32>| limit.map(|mbit| NonZeroU64::from(mbit).saturating_mul(BYTES_PER_MBIT));
        let rates = Rates { up: bytes(self.up_limit), down: bytes(self.down_limit) };
        let budget = Budget::new(Budget::MEMORY, self.connections, rates);
        let faults = self.faults.as_deref().map(read_faults).transpose()?;
        let faults = faults.map(|faults| self.fault_seed.map_or(faults.clone(), |seed| faults.with_seed(seed)));
        Ok(Stores { peers, budget, faults })
    }
}

/// Reads a file of faults; its clock starts now.
pub fn read_faults(path: &Path) -> Result<Faults> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Faults::parse(&text).with_context(|| path.display().to_string())
}

/// 10⁶ bits.
const BYTES_PER_MBIT: NonZeroU64 = NonZeroU64::new(125_000).expect("it is not zero");

/// Whose keys.
#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    /// Folder of the wallets.
    #[arg(long, value_name = "DIR", env = "TRIBUTARY_WALLETS", default_value = "~/.bittensor/wallets")]
    pub wallet_path: PathBuf,
    /// The wallet's name.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub wallet: String,
    /// The hotkey's name within the wallet.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub hotkey: String,
}
