//! `tributary chain register|stake`: keys on any chain.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use chain::{Chain, Ledger};
use clap::Args;

use super::rao;
use crate::wallet::PasswordArgs;
use crate::{cli::KeyArgs, context};

/// Options of `tributary chain register`.
#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

/// Options of `tributary chain stake`.
#[derive(Debug, Args)]
pub(super) struct StakeArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How much, in TAO.
    tao: u64,
}

/// Which hotkey, and where.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// A ledger's file, or a chain's address: wss://ONE,wss://ANOTHER or http://HOST:PORT.
    chain: String,
    /// The subnet, where the chain has several.
    #[arg(long, default_value_t = 1)]
    netuid: u16,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    password: PasswordArgs,
}

/// A chain by its address, or a ledger by its file.
pub(super) async fn open(chain: &str) -> Result<Arc<dyn Chain>> {
    match operated(chain)? {
        Some(ledger) => Ok(Arc::new(ledger)),
        None => context::open_chain(chain, None).await,
    }
}

/// A ledger on this machine, whose operator this process is; `None` for the address of any other chain.
fn operated(chain: &str) -> Result<Option<Ledger>> {
    let path = chain.strip_prefix("ledger:").unwrap_or(chain);
    match path.contains("://") {
        true => Ok(None),
        false => Ledger::open(Path::new(path)).with_context(|| path.to_owned()).map(Some),
    }
}

/// Runs `tributary chain register`.
pub(super) async fn register(RegisterArgs { place }: &RegisterArgs) -> Result<()> {
    let wallet = context::open_wallet(&place.keys)?;
    let hotkey = wallet.hotkey_public(&place.keys.hotkey)?;
    if let Some(ledger) = operated(&place.chain)? {
        let uid = ledger.enroll(ledger.config().netuid, hotkey, wallet.coldkey_public()?)?;
        say!("{hotkey} has uid {uid} from the next block on");
        return Ok(());
    }
    let chain = open(&place.chain).await?;
    let burn = chain.subnet(place.netuid).await?.burn;
    eprintln!("a registration on subnet {} costs {:.6} TAO now", place.netuid, burn as f64 / chain::RAO_PER_TAO as f64);
    let uid = chain.burned_register(&place.password.coldkey(&wallet)?, place.netuid, hotkey).await?;
    say!("{hotkey} has uid {uid}");
    Ok(())
}

/// Runs `tributary chain stake`.
pub(super) async fn stake(StakeArgs { place, tao }: &StakeArgs) -> Result<()> {
    let wallet = context::open_wallet(&place.keys)?;
    let hotkey = wallet.hotkey_public(&place.keys.hotkey)?;
    if let Some(ledger) = operated(&place.chain)? {
        ledger.endow(ledger.config().netuid, hotkey, rao(*tao)?)?;
        say!("{hotkey} has {tao} TAO more at stake from the next block on");
        return Ok(());
    }
    let chain = open(&place.chain).await?;
    chain.add_stake(&place.password.coldkey(&wallet)?, place.netuid, hotkey, rao(*tao)?).await?;
    say!("{hotkey} has {tao} TAO more at stake");
    Ok(())
}
