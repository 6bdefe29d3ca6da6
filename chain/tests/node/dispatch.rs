//! What the runtime does with calls, and what it tells of a subnet.

use parity_scale_codec::{Compact, Encode};
use sp_crypto_hashing::blake2_256;

use super::metagraph::Metagraph;
use super::storage::*;
use super::types::*;
use SubtensorError as E;

/// Executes a call at block `now`.
pub fn dispatch(state: &mut State, signer: AccountId32, call: RuntimeCall, now: u64) -> Result<(), DispatchError> {
    match call {
        RuntimeCall::System(_) => Ok(()),
        RuntimeCall::Timestamp(_) => Err(DispatchError::BadOrigin),
        RuntimeCall::Utility(UtilityCall::batch { calls }) => calls.into_iter().try_for_each(|call| dispatch(state, signer, call, now)),
        RuntimeCall::Commitments(CommitmentsCall::set_commitment { netuid, info }) => set_commitment(state, signer, netuid, info, now),
        RuntimeCall::SubtensorModule(call) => subtensor(state, signer, call, now).map_err(DispatchError::from),
    }
}

fn set_commitment(state: &mut State, signer: AccountId32, netuid: u16, info: CommitmentInfo, now: u64) -> Result<(), DispatchError> {
    state.get(&UIDS, (netuid, signer)).ok_or(CommitmentsError::AccountNotAllowedCommit)?;
    if info.fields.0.len() > 3 {
        return Err(CommitmentsError::TooManyFieldsInCommitmentInfo.into());
    }
    state.put(&COMMITMENT_OF, (netuid, signer), Registration { deposit: 0, block: now as u32, info });
    Ok(())
}

fn subtensor(state: &mut State, signer: AccountId32, call: SubtensorCall, now: u64) -> Result<(), SubtensorError> {
    match call {
        SubtensorCall::burned_register { netuid, hotkey } => burned_register(state, signer, netuid, hotkey, now),
        SubtensorCall::add_stake { hotkey, netuid, amount_staked } => add_stake(state, signer, netuid, hotkey, amount_staked),
        SubtensorCall::set_weights { netuid, dests, weights, version_key } => {
            if state.or_default(&COMMIT_REVEAL, netuid) {
                return Err(E::CommitRevealEnabled);
            }
            let uid = may_weigh(state, signer, netuid, version_key)?;
            let mut updates = state.or_default(&LAST_UPDATE, netuid);
            if now - updates[usize::from(uid)] < state.or_default(&RATE_LIMIT, netuid) {
                return Err(E::SettingWeightsTooFast);
            }
            set_row(state, netuid, uid, &dests, &weights)?;
            updates[usize::from(uid)] = now;
            state.put(&LAST_UPDATE, netuid, updates);
            Ok(())
        }
        SubtensorCall::commit_weights { netuid, commit_hash } => {
            committing(state, signer, netuid)?;
            let mut commits = state.or_default(&COMMITS, (netuid, signer));
            commits.push((commit_hash, now, 0, 0));
            state.put(&COMMITS, (netuid, signer), commits);
            Ok(())
        }
        SubtensorCall::reveal_weights { netuid, uids, values, salt, version_key } => {
            committing(state, signer, netuid)?;
            let revealed = blake2_256(&(signer, netuid, &uids, &values, salt, version_key).encode());
            let mut commits = state.get(&COMMITS, (netuid, signer)).filter(|commits| !commits.is_empty()).ok_or(E::NoWeightsCommitFound)?;
            let place = commits.iter().position(|commit| commit.0 == H256(revealed)).ok_or(E::InvalidRevealCommitHashNotMatch)?;
            let epoch = |block: u64| block / u64::from(state.get(&TEMPO, netuid).unwrap_or(10));
            if epoch(now) < epoch(commits[place].1) + state.get(&REVEAL_PERIOD, netuid).unwrap_or(1) {
                return Err(E::RevealTooEarly);
            }
            let uid = may_weigh(state, signer, netuid, version_key)?;
            commits.remove(place);
            state.put(&COMMITS, (netuid, signer), commits);
            set_row(state, netuid, uid, &uids, &values)
        }
        SubtensorCall::commit_timelocked_weights { netuid, commit, reveal_round, commit_reveal_version } => {
            committing(state, signer, netuid)?;
            if commit_reveal_version != state.get(&COMMIT_REVEAL_VERSION, ()).unwrap_or(4) {
                return Err(E::IncorrectCommitRevealVersion);
            }
            let epoch = state.or_default(&EPOCH_INDEX, netuid);
            let mut commits = state.or_default(&TIMELOCKED, (netuid, epoch));
            commits.push((signer, now, commit.0, reveal_round));
            state.put(&TIMELOCKED, (netuid, epoch), commits);
            Ok(())
        }
    }
}

fn burned_register(state: &mut State, coldkey: AccountId32, netuid: u16, hotkey: AccountId32, now: u64) -> Result<(), SubtensorError> {
    exists(state, netuid)?;
    if state.get(&UIDS, (netuid, hotkey)).is_some() {
        return Err(E::HotKeyAlreadyRegisteredInSubNet);
    }
    let burn = state.or_default(&BURN, netuid);
    pay(state, coldkey, burn)?;
    enroll(state, netuid, coldkey, hotkey, now);
    Ok(())
}

/// Gives a hotkey the next uid.
pub fn enroll(state: &mut State, netuid: u16, coldkey: AccountId32, hotkey: AccountId32, now: u64) {
    let uid = state.or_default(&SUBNETWORK_N, netuid);
    state.put(&SUBNETWORK_N, netuid, uid + 1);
    state.put(&UIDS, (netuid, hotkey), uid);
    state.put(&KEYS, (netuid, uid), hotkey);
    state.put(&OWNER, hotkey, coldkey);
    state.put(&REGISTERED, (netuid, uid), now);
    let mut updates = state.or_default(&LAST_UPDATE, netuid);
    updates.push(now);
    state.put(&LAST_UPDATE, netuid, updates);
    let mut permits = state.or_default(&PERMITS, netuid);
    permits.push(false);
    state.put(&PERMITS, netuid, permits);
}

/// Stake gives a permit at once here; the real runtime gives it at the next epoch.
fn add_stake(state: &mut State, coldkey: AccountId32, netuid: u16, hotkey: AccountId32, rao: u64) -> Result<(), SubtensorError> {
    exists(state, netuid)?;
    let uid = state.get(&UIDS, (netuid, hotkey)).ok_or(E::HotKeyNotRegisteredInSubNet)?;
    pay(state, coldkey, rao)?;
    let stake = state.or_default(&STAKE, (hotkey, netuid)) + rao;
    state.put(&STAKE, (hotkey, netuid), stake);
    let mut permits = state.or_default(&PERMITS, netuid);
    permits[usize::from(uid)] = true;
    state.put(&PERMITS, netuid, permits);
    Ok(())
}

fn pay(state: &mut State, coldkey: AccountId32, rao: u64) -> Result<(), SubtensorError> {
    let mut account = state.or_default(&ACCOUNT, coldkey);
    account.data.free = account.data.free.checked_sub(rao).ok_or(E::NotEnoughBalanceToStake)?;
    state.put(&ACCOUNT, coldkey, account);
    Ok(())
}

fn exists(state: &State, netuid: u16) -> Result<(), SubtensorError> {
    if state.or_default(&NETWORKS_ADDED, netuid) { Ok(()) } else { Err(E::SubnetNotExists) }
}

/// Whether the signer may commit to weights.
fn committing(state: &State, signer: AccountId32, netuid: u16) -> Result<(), SubtensorError> {
    if !state.or_default(&COMMIT_REVEAL, netuid) {
        return Err(E::CommitRevealDisabled);
    }
    state.get(&UIDS, (netuid, signer)).map(drop).ok_or(E::HotKeyNotRegisteredInSubNet)
}

/// The signer's uid, if it may set weights.
fn may_weigh(state: &State, signer: AccountId32, netuid: u16, version_key: u64) -> Result<u16, SubtensorError> {
    exists(state, netuid)?;
    let uid = state.get(&UIDS, (netuid, signer)).ok_or(E::HotKeyNotRegisteredInSubNet)?;
    if state.or_default(&STAKE, (signer, netuid)) < state.or_default(&STAKE_THRESHOLD, ()) {
        return Err(E::NotEnoughStakeToSetWeights);
    }
    if version_key != state.or_default(&VERSION_KEY, netuid) {
        return Err(E::IncorrectWeightVersionKey);
    }
    if !state.or_default(&PERMITS, netuid)[usize::from(uid)] {
        return Err(E::NeuronNoValidatorPermit);
    }
    Ok(uid)
}

fn set_row(state: &mut State, netuid: u16, uid: u16, dests: &[u16], weights: &[u16]) -> Result<(), SubtensorError> {
    let uids = state.or_default(&SUBNETWORK_N, netuid);
    let mut seen = std::collections::BTreeSet::new();
    match () {
        () if dests.len() != weights.len() => return Err(E::WeightVecNotEqualSize),
        () if dests.iter().any(|dest| *dest >= uids) => return Err(E::UidVecContainInvalidOne),
        () if !dests.iter().all(|dest| seen.insert(*dest)) => return Err(E::DuplicateUids),
        () if dests.is_empty() => return Err(E::WeightVecLengthIsLow),
        () => {}
    }
    let row = dests.iter().copied().zip(weights.iter().copied()).collect();
    state.put(&WEIGHTS, (netuid, uid), row);
    Ok(())
}

/// What `get_metagraph` answers.
pub fn metagraph(state: &State, netuid: u16, block: u64) -> Option<Metagraph> {
    state.get(&NETWORKS_ADDED, netuid).filter(|added| *added)?;
    let uids = 0..state.or_default(&SUBNETWORK_N, netuid);
    let hotkeys: Vec<_> = uids.clone().map(|uid| state.or_default(&KEYS, (netuid, uid))).collect();
    let coldkeys: Vec<_> = hotkeys.iter().map(|hotkey| state.or_default(&OWNER, *hotkey)).collect();
    let tempo = state.get(&TEMPO, netuid).unwrap_or(10);
    let zeros = || uids.clone().map(|_| Compact(0u16)).collect();
    Some(Metagraph {
        netuid,
        name: b"test".map(Compact).to_vec(),
        owner_hotkey: hotkeys.first().copied().unwrap_or_default(),
        owner_coldkey: coldkeys.first().copied().unwrap_or_default(),
        block,
        tempo,
        last_step: block / u64::from(tempo) * u64::from(tempo),
        blocks_since_last_step: block % u64::from(tempo),
        min_allowed_weights: 1,
        max_weights_limit: u16::MAX,
        weights_version: state.or_default(&VERSION_KEY, netuid),
        weights_rate_limit: state.or_default(&RATE_LIMIT, netuid),
        max_validators: 64,
        burn: state.or_default(&BURN, netuid),
        immunity_period: 100,
        commit_reveal_weights_enabled: state.or_default(&COMMIT_REVEAL, netuid),
        commit_reveal_period: state.get(&REVEAL_PERIOD, netuid).unwrap_or(1),
        active: vec![true; hotkeys.len()],
        validator_permit: state.or_default(&PERMITS, netuid),
        last_update: state.or_default(&LAST_UPDATE, netuid).into_iter().map(Compact).collect(),
        emission: uids.clone().map(|_| Compact(0)).collect(),
        dividends: zeros(),
        incentives: zeros(),
        block_at_registration: uids.clone().map(|uid| Compact(state.or_default(&REGISTERED, (netuid, uid)))).collect(),
        total_stake: hotkeys.iter().map(|hotkey| Compact(state.or_default(&STAKE, (*hotkey, netuid)))).collect(),
        hotkeys,
        coldkeys,
    })
}
