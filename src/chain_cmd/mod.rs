//! `tributary chain`: make and look after an embedded ledger.

mod yuma;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chain::{Blocks, Chain as _, Ledger, LedgerConfig, RAO_PER_TAO};
use clap::{Args, Subcommand};

use crate::{cli::KeyArgs, context};

/// Options of `tributary chain`.
#[derive(Debug, Args)]
pub struct ChainArgs {
    #[command(subcommand)]
    command: ChainCommand,
}

#[derive(Debug, Subcommand)]
enum ChainCommand {
    /// Make a new ledger with one subnet, owned by the hotkey.
    New {
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
        #[command(flatten)]
        keys: KeyArgs,
    },
    /// Give a hotkey a uid.
    Register {
        /// The ledger's file.
        path: PathBuf,
        #[command(flatten)]
        keys: KeyArgs,
    },
    /// Add stake to a hotkey; enough of it makes a validator.
    Stake {
        /// The ledger's file.
        path: PathBuf,
        /// How much, in TAO.
        tao: u64,
        #[command(flatten)]
        keys: KeyArgs,
    },
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
        /// The ledger's file.
        path: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Recompute every block's hash and every call's signature.
    Audit {
        /// The ledger's file.
        path: PathBuf,
    },
    /// Compute one epoch of Yuma consensus from stake, weights and bonds.
    Yuma(yuma::YumaArgs),
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
pub async fn run(args: ChainArgs) -> Result<()> {
    match args.command {
        ChainCommand::New { path, blocks, tempo, weights_rate_limit, keys } => {
            let owner = context::open_hotkey(&keys)?.hotkey();
            if path.exists() {
                bail!("{} exists; a ledger is never overwritten", path.display());
            }
            let config = LedgerConfig { tempo, weights_rate_limit, ..LedgerConfig::new(blocks, owner) };
            let ledger = Ledger::create(&path, &config)?;
            println!("ledger:{} with genesis {}", path.display(), ledger.genesis().await?);
        }
        ChainCommand::Register { path, keys } => {
            let ledger = open(&path)?;
            let hotkey = context::open_hotkey(&keys)?.hotkey();
            let uid = ledger.enroll(ledger.config().netuid, hotkey, context::open_wallet(&keys)?.coldkey_public()?)?;
            println!("{hotkey} has uid {uid} from the next block on");
        }
        ChainCommand::Stake { path, tao, keys } => {
            let ledger = open(&path)?;
            let hotkey = context::open_hotkey(&keys)?.hotkey();
            let rao = tao.checked_mul(RAO_PER_TAO).with_context(|| format!("{tao} TAO are more than there can be"))?;
            ledger.endow(ledger.config().netuid, hotkey, rao)?;
            println!("{hotkey} has {tao} TAO more at stake from the next block on");
        }
        ChainCommand::Advance { path, blocks } => println!("block {}", open(&path)?.advance(blocks)?.number),
        ChainCommand::Show { path, json } => show(&open(&path)?, json).await?,
        ChainCommand::Audit { path } => {
            open(&path)?.audit()?;
            println!("every block and every signature holds");
        }
        ChainCommand::Yuma(args) => yuma::run(&args)?,
    }
    Ok(())
}

fn open(path: &Path) -> Result<Ledger> {
    Ledger::open(path).with_context(|| path.display().to_string())
}

async fn show(ledger: &Ledger, json: bool) -> Result<()> {
    let head = ledger.head().await?;
    let neurons = ledger.neurons(ledger.config().netuid, head.number).await?;
    if json {
        let neurons: Vec<_> = neurons
            .iter()
            .map(|n| {
                serde_json::json!({ "uid": n.uid, "hotkey": n.hotkey, "stake": n.stake, "permit": n.permit,
                    "incentive": n.incentive, "dividends": n.dividends, "emission": n.emission })
            })
            .collect();
        println!("{}", serde_json::json!({ "block": head.number, "hash": head.hash, "neurons": neurons }));
        return Ok(());
    }
    println!("block {} {}", head.number, head.hash);
    println!(
        "{:>5} {:<48} {:>14} {:>6} {:>9} {:>9} {:>14}",
        "uid", "hotkey", "stake TAO", "permit", "incentive", "dividends", "earned TAO"
    );
    let tao = |rao: u64| rao as f64 / RAO_PER_TAO as f64;
    for n in neurons {
        let permit = if n.permit { "yes" } else { "no" };
        let hotkey = n.hotkey.ss58();
        let (stake, earned) = (tao(n.stake), tao(n.emission));
        println!("{:>5} {hotkey:<48} {stake:>14.3} {permit:>6} {:>9} {:>9} {earned:>14.6}", n.uid, n.incentive, n.dividends);
    }
    Ok(())
}
