//! `tributary amend`: a change to a running run, by its launch key.

use anyhow::{Result, bail};
use clap::Args;
use protocol::{Announcement, Change};

use crate::{
    cli::{KeyArgs, RunArgs},
    context,
};

/// Options of `tributary amend`.
#[derive(Debug, Args)]
#[command(after_help = "\
The change is committed on the chain and is part of the run's log: every node applies it, and so does every replay. It holds in each round from
--from-round on that opens after the commitment's block.

Example:
  tributary amend --run demo/store/RUN_ID --wallet-path demo/wallets --wallet demo --hotkey owner --from-round 30 --outer-lr 0.65")]
pub struct AmendArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The first round the change holds for.
    #[arg(long, value_name = "ROUND")]
    from_round: u64,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ChangeArgs {
    /// The outer learning rate.
    #[arg(long, value_name = "RATE")]
    outer_lr: Option<f32>,
    /// Payloads per record at most.
    #[arg(long, value_name = "N")]
    top: Option<u32>,
}

/// Runs the command.
pub async fn run(args: AmendArgs) -> Result<()> {
    let change = match (args.change.outer_lr, args.change.top) {
        (Some(lr), _) if lr.is_finite() && lr > 0.0 => Change::OuterLr(lr),
        (None, Some(top)) if (1..=protocol::MAX_NEURONS as u32).contains(&top) => Change::Top(top),
        _ => bail!("an outer learning rate is a positive number, and a record applies 1 to {} payloads", protocol::MAX_NEURONS),
    };
    let run = context::open_run(&args.run, None).await?;
    let keypair = context::open_hotkey(&args.keys)?;
    let launch_key = run.manifest.chain.launch_key;
    if keypair.hotkey() != launch_key {
        bail!("{} did not launch this run; only {launch_key} can amend it", keypair.hotkey());
    }
    let announcement = Announcement::Amendment { run: run.id, from_round: args.from_round, change };
    run.chain.commit(&keypair, run.manifest.chain.netuid, &announcement.encode()).await?;
    let words = match change {
        Change::OuterLr(lr) => format!("an outer learning rate of {lr}"),
        Change::Top(payloads) => format!("at most {payloads} payloads per record"),
    };
    say!("committed: {words} from round {} on", args.from_round);
    Ok(())
}
