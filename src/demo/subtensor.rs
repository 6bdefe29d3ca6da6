//! A demo on a development chain of Subtensor's: a subnet of its own, its nodes registered and staked by //Alice.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use chain::subtensor::dev::{self, Rules};
use chain::{Chain as _, RAO_PER_TAO, Subtensor, Wallet};
use protocol::Keypair;

use super::DemoArgs;
use super::setup::{Place, TEMPO, crew_of};

/// Makes a subnet, registers every node, and waits until the validators have their permits.
pub(super) async fn settle(url: &str, wallet: &Wallet, owner: &Keypair, args: &DemoArgs) -> Result<Place> {
    let chain = Subtensor::open(url).await?;
    let root = dev::alice();
    let tempo = u16::try_from(TEMPO)?;
    eprintln!("making a subnet");
    let netuid = chain.create_subnet(&root, owner.hotkey(), Rules { tempo, weights_rate_limit: TEMPO, commit_reveal: false }).await?;
    let mut planned = crew_of(wallet, args)?;
    for one in &mut planned {
        eprintln!("registering {}", one.node.name);
        one.node.uid = chain.register_patiently(&root, netuid, one.key.hotkey()).await.with_context(|| one.node.name.clone())?;
        if one.stake > 0 {
            chain.add_stake(&root, netuid, one.key.hotkey(), one.stake * RAO_PER_TAO).await?;
        }
    }
    eprintln!("waiting for an epoch to give permits");
    let mut head = chain.head().await?;
    loop {
        let neurons = chain.neurons(netuid, head.number).await?;
        let permitted = |uid: u16| neurons.iter().any(|neuron| neuron.uid == uid && neuron.permit);
        if planned.iter().filter(|one| one.stake > 0).all(|one| permitted(one.node.uid)) {
            break;
        }
        head = chain.next_block(head.number).await?;
    }
    let nodes = planned.into_iter().map(|one| one.node).collect();
    Ok(Place { chain: Arc::new(chain), url: url.to_owned(), netuid, start: head.number + 1, nodes })
}
