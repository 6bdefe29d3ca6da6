//! `tributary chain`: keys on a chain, the embedded ledger, consensus and pay by themselves.

mod accounts;
mod plot;
mod serve;
mod simulate;
mod yuma;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chain::{Blocks, Chain, Ledger, LedgerConfig, RAO_PER_TAO};
use clap::{Args, Subcommand};
use protocol::Hotkey;

use crate::{cli::KeyArgs, context};

/// Options of `tributary chain`.
#[derive(Debug, Args)]
pub struct ChainArgs {
    #[command(subcommand)]
    command: ChainCommand,
}

#[derive(Debug, Subcommand)]
enum ChainCommand {
    /// Share a ledger with other machines over HTTP.
    Serve(serve::ServeArgs),
    /// Simulate emission, pools and pay over days: who earns what.
    Simulate(simulate::SimulateArgs),
    /// Compute one epoch of Yuma consensus from stake, weights and bonds.
    Yuma(yuma::YumaArgs),
    #[command(flatten)]
    Ledger(LedgerCommand),
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Make a new ledger with one subnet, owned by the hotkey.
    New(NewArgs),
    /// Give a hotkey a uid: on a ledger's file by its operator, on any other chain for the subnet's burn, which the coldkey pays.
    Register(accounts::RegisterArgs),
    /// Mint TAO for a coldkey, which may then register hotkeys and stake.
    Fund {
        /// The ledger's file.
        path: PathBuf,
        /// The coldkey's address.
        coldkey: Hotkey,
        /// How much, in TAO.
        tao: u64,
    },
    /// Put stake behind a hotkey; enough of it makes a validator. A ledger's operator mints it, on any other chain the coldkey pays.
    Stake(accounts::StakeArgs),
    /// Make blocks by hand.
    Advance {
        /// The ledger's file.
        path: PathBuf,
        /// How many.
        #[arg(default_value_t = 1)]
        blocks: u64,
    },
    /// Show the head and every neuron.
    Show {
        /// The ledger's file, or a chain's address.
        chain: String,
        /// The subnet, where the chain has several.
        #[arg(long, default_value_t = 1)]
        netuid: u16,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Recompute every block's hash and every call's signature.
    Audit {
        /// The ledger's file.
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
struct NewArgs {
    /// The ledger's file.
    path: PathBuf,
    /// Where blocks come from: wall:MILLISECONDS, lockstep (virtual time), or manual.
    #[arg(long, default_value = "wall:12000", value_parser = parse_blocks)]
    blocks: Blocks,
    /// Blocks from epoch to epoch.
    #[arg(long, default_value_t = 360)]
    tempo: u64,
    /// Blocks between two weight settings of one validator.
    #[arg(long, default_value_t = 100)]
    weights_rate_limit: u64,
    /// How many uids there can be; a later registration then replaces the neuron that earned least.
    #[arg(long, default_value_t = 256)]
    max_uids: u16,
    /// Blocks after its registration in which a uid is not replaced.
    #[arg(long, default_value_t = 4096)]
    immunity: u64,
    /// Have weights committed by their hash and revealed so many epochs later.
    #[arg(long, value_name = "EPOCHS")]
    commit_reveal: Option<u64>,
    #[command(flatten)]
    keys: KeyArgs,
}

impl NewArgs {
    fn config(&self, owner: Hotkey, owner_coldkey: Hotkey) -> LedgerConfig {
        LedgerConfig {
            owner_coldkey,
            tempo: self.tempo,
            weights_rate_limit: self.weights_rate_limit,
            max_uids: self.max_uids,
            immunity_period: self.immunity,
            reveal_period: self.commit_reveal,
            ..LedgerConfig::new(self.blocks, owner)
        }
    }
}

fn parse_blocks(text: &str) -> Result<Blocks, String> {
    match text.split_once(':') {
        None if text == "lockstep" => Ok(Blocks::Lockstep),
        None if text == "manual" => Ok(Blocks::Manual),
        Some(("wall", ms)) => ms.parse().map(|block_ms| Blocks::Wall { block_ms }).map_err(|e| format!("{ms:?}: {e}")),
        _ => Err("expected wall:MILLISECONDS, lockstep or manual".into()),
    }
}

/// Runs the command.
pub fn run(args: ChainArgs) -> Result<()> {
    match args.command {
        ChainCommand::Serve(args) => serve::run(args),
        ChainCommand::Simulate(args) => simulate::run(&args),
        ChainCommand::Yuma(args) => yuma::run(&args),
        ChainCommand::Ledger(command) => context::block_on(look_after(command)),
    }
}

async fn look_after(command: LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::New(args) => {
            let (owner, coldkey) = (context::open_hotkey(&args.keys)?.hotkey(), context::open_wallet(&args.keys)?.coldkey_public()?);
            if args.path.exists() {
                bail!("{} exists; a ledger is never overwritten", args.path.display());
            }
            if let Some(folder) = args.path.parent() {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            let ledger = Ledger::create(&args.path, &args.config(owner, coldkey))?;
            say!("ledger:{} with genesis {}", args.path.display(), ledger.genesis().await?);
        }
        LedgerCommand::Fund { path, coldkey, tao } => {
            open(&path)?.fund(coldkey, rao(tao)?)?;
            say!("{coldkey} has {tao} TAO more from the next block on");
        }
        LedgerCommand::Register(args) => accounts::register(&args).await?,
        LedgerCommand::Stake(args) => accounts::stake(&args).await?,
        LedgerCommand::Advance { path, blocks } => say!("block {}", open(&path)?.advance(blocks)?.number),
        LedgerCommand::Show { chain, netuid, json } => show(&*accounts::open(&chain).await?, netuid, json).await?,
        LedgerCommand::Audit { path } => {
            open(&path)?.audit()?;
            say!("every block and every signature holds");
        }
    }
    Ok(())
}

fn rao(tao: u64) -> Result<u64> {
    tao.checked_mul(RAO_PER_TAO).with_context(|| format!("{tao} TAO are more than there can be"))
}

fn open(path: &Path) -> Result<Ledger> {
    Ledger::open(path).with_context(|| path.display().to_string())
}

async fn show(chain: &dyn Chain, netuid: u16, json: bool) -> Result<()> {
    let head = chain.head().await?;
    let neurons = chain.neurons(netuid, head.number).await?;
    if json {
        let neurons: Vec<_> = neurons
            .iter()
            .map(|n| {
                serde_json::json!({ "uid": n.uid, "hotkey": n.hotkey, "stake": n.stake, "permit": n.permit,
                    "incentive": n.incentive, "dividends": n.dividends, "emission": n.emission })
            })
            .collect();
        say!("{}", serde_json::json!({ "block": head.number, "hash": head.hash, "neurons": neurons }));
        return Ok(());
    }
    let earnings = chain.subnet(netuid).await?.earnings;
    say!("block {} {}", head.number, head.hash);
    say!(
        "{:>5} {:<48} {:>14} {:>6} {:>9} {:>9} {:>14}",
        "uid",
        "hotkey",
        "stake TAO",
        "permit",
        "incentive",
        "dividends",
        earnings.title()
    );
    let tao = |rao: u64| rao as f64 / RAO_PER_TAO as f64;
    for n in neurons {
        let permit = if n.permit { "yes" } else { "no" };
        let hotkey = n.hotkey.ss58();
        let (stake, earned) = (tao(n.stake), tao(n.emission));
        say!("{:>5} {hotkey:<48} {stake:>14.3} {permit:>6} {:>9} {:>9} {earned:>14.6}", n.uid, n.incentive, n.dividends);
    }
    Ok(())
}
