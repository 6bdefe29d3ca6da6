//! The submitter on the embedded ledger, in the open and by hash, from every block of an epoch.

#![allow(clippy::unwrap_used)]

use chain::weights::{Standing, Submitter};
use chain::{Blocks, Chain, Ledger, LedgerConfig};
use protocol::Keypair;

const TEMPO: u64 = 6;
const ROW: [(u16, u16); 1] = [(0, 65535)];

/// Submits after `blocks` blocks and follows at each block; the blocks until the row is confirmed.
async fn confirmed_after(blocks: u64, reveal_period: Option<u64>) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let [owner, validator] = [1, 2].map(|n| Keypair::from_seed(&[n; 32]));
    let mut config = LedgerConfig::new(Blocks::Manual, owner.hotkey());
    (config.tempo, config.weights_rate_limit, config.reveal_period) = (TEMPO, 1, reveal_period);
    let ledger = Ledger::create(&dir.path().join("chain.sqlite"), &config).unwrap();
    let uid = ledger.enroll(config.netuid, validator.hotkey(), validator.hotkey()).unwrap();
    ledger.endow(config.netuid, validator.hotkey(), 1_000).unwrap();
    ledger.advance(blocks).unwrap();
    let file = dir.path().join("committed-weights.json");
    let mut submitter = Submitter::open(config.netuid, &file).unwrap();
    submitter.submit(&ledger, &validator, ROW.to_vec()).await.unwrap();
    let start = ledger.head().await.unwrap().number;
    loop {
        let now = ledger.advance(1).unwrap().number;
        // a validator that restarts at every block
        if reveal_period.is_some() && submitter.is_waiting() {
            submitter = Submitter::open(config.netuid, &file).unwrap();
        }
        match submitter.follow(&ledger, &validator, uid).await.unwrap() {
            Standing::Waiting => assert!(now < start + 5 * TEMPO, "not confirmed from block {start} on"),
            Standing::Confirmed(row) => {
                assert_eq!(row, ROW);
                return now - start;
            }
            other => panic!("{other:?} at block {now}, submitted at {start}"),
        }
    }
}

#[tokio::test]
async fn a_row_is_confirmed_whenever_in_an_epoch_it_was_submitted() {
    for blocks in 2 * TEMPO..3 * TEMPO {
        assert_eq!(confirmed_after(blocks, None).await, 1);
        for period in [1, 2] {
            let passed = confirmed_after(blocks, Some(period)).await;
            assert!(passed > (period - 1) * TEMPO && passed <= (period + 1) * TEMPO, "{passed} blocks after block {blocks}");
        }
    }
}
