//! Fetching payloads and checking them, cheapest first; every way to fail is a [`Refusal`] of that one miner.

use std::collections::HashMap;

use compression::{Payload, ReadError, parse_bundle};
use futures::StreamExt;
use protocol::{Applied, Digest, Envelope, Hasher, ObjectKey, Opener, Refusal, SealContext, SealList, Sealed, Signed};
use storage::{Bucket, Download, StorageError};

use crate::{
    Run, RunError,
    copies::{PATIENCE, keepers},
    pipe,
};

/// Payloads that a node fetches at a time: one of them has a share of the connections only, and one slow bucket delays nobody else's.
pub const PAYLOADS_AT_ONCE: usize = 8;
/// Bundles that do not complete a record, after which no more are looked at.
const USELESS_BUNDLES: usize = 4;

/// The envelope of one seal-list entry, checked against run, round, uid and base root, without any download.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn check_envelope(
    run: &Run,
    round: u64,
    base_root: Digest,
    hotkey: protocol::Hotkey,
    sealed: &Sealed,
) -> Result<Signed<Envelope>, Refusal> {
    let signed = sealed.open().map_err(|e| Refusal::Envelope(e.to_string()))?;
    let envelope = &signed.value;
    if signed.signer != hotkey {
        return Err(Refusal::WrongSigner);
    }
    if envelope.run != run.id {
        return Err(Refusal::WrongRun);
    }
    if envelope.round != round {
        return Err(Refusal::WrongRound);
    }
    if envelope.base_root != base_root {
        return Err(Refusal::WrongRoot);
    }
    let allowed = run.sealed_len();
    if !allowed.contains(&envelope.sealed_len) {
        return Err(Refusal::WrongSize { found: envelope.sealed_len, least: *allowed.start(), most: *allowed.end() });
    }
    Ok(signed)
}

/// Fetches, opens and parses the payload behind a checked envelope as it comes, so that no more than a few parts of it are in memory beside
/// the result.
///
/// # Errors
/// The first [`Refusal`] that applies; a store that fails counts as [`Refusal::Missing`].
pub async fn fetch_payload(run: &Run, bucket: &Bucket, envelope: &Signed<Envelope>) -> Result<Payload, Refusal> {
    let (claim, hotkey) = (&envelope.value, envelope.signer);
    let context = SealContext { run: run.id, round: claim.round, hotkey, base_root: claim.base_root };
    let key = bucket.get(&ObjectKey::PayloadKey(claim.round), 32).await.ok().flatten();
    let key: [u8; 32] = key.as_deref().and_then(|k| k.try_into().ok()).ok_or(Refusal::NotRevealed)?;
    let sealed = match bucket.download(&ObjectKey::Payload(claim.round), claim.sealed_len, 0).await {
        Ok(Some(sealed)) if sealed.size() == claim.sealed_len => sealed,
        Ok(Some(_)) | Err(StorageError::TooLarge { .. }) => return Err(Refusal::SealedDigest),
        Ok(None) | Err(_) => return Err(Refusal::Missing),
    };
    let format = run.format.clone();
    let (opened, parsed) = pipe::new(move |bytes| Payload::read(bytes, &format));
    let came = open_all(sealed, context.opener(&key), opened).await?;
    let parsed = parsed.finish().await.map_err(|_| Refusal::Missing)?;
    if came.sealed != claim.sealed {
        return Err(Refusal::SealedDigest);
    }
    if came.opened.ok_or(Refusal::Unopenable)? != claim.payload {
        return Err(Refusal::PayloadDigest);
    }
    let payload = parsed.map_err(|error| match error {
        ReadError::Payload(fault) => Refusal::Malformed(fault.to_string()),
        ReadError::Io(error) => Refusal::Malformed(error.to_string()),
    })?;
    if !owned_by(&payload, &context) {
        return Err(Refusal::WrongOwner);
    }
    Ok(payload)
}

/// Hashes of what came, and of what it is once opened; `None` if it cannot be opened.
struct Came {
    sealed: Digest,
    opened: Option<Digest>,
}

/// Reads a sealed payload to its end, and passes on what it opens to, as far as that goes: which of its faults a payload is refused for must
/// not depend on which is met first.
async fn open_all(mut sealed: Download, opener: Opener, pipe: pipe::Writer) -> Result<Came, Refusal> {
    let (mut sealed_hash, mut opened_hash) = (Hasher::default(), Hasher::default());
    let mut open = Some(opener);
    while let Some(bytes) = sealed.next().await.map_err(|_| Refusal::Missing)? {
        sealed_hash.update(&bytes);
        let Some(opener) = &mut open else { continue };
        match opener.push(&bytes) {
            Some(opened) => {
                opened_hash.update(&opened);
                pipe.write(opened).await;
            }
            None => open = None,
        }
    }
    let last = open.and_then(Opener::finish);
    if let Some(opened) = &last {
        opened_hash.update(opened);
        pipe.write(opened.clone()).await;
    }
    Ok(Came { sealed: sealed_hash.digest(), opened: last.map(|_| opened_hash.digest()) })
}

pub(crate) fn owned_by(payload: &Payload, context: &SealContext) -> bool {
    let header = payload.header();
    header.run == context.run.0
        && header.round == context.round
        && header.hotkey == context.hotkey.0
        && header.base_root == context.base_root.0
}

/// The payloads of a record, in its order: from `known`, from a bundle, or one by one. `None` if some cannot be had now.
/// The list's envelopes passed [`check_envelope`] before, so that no size asked for here is beyond what a payload of the run can have.
///
/// # Errors
/// Only the chain's own.
pub async fn fetch_applied(
    run: &Run,
    round: u64,
    applied: &[Applied],
    list: &SealList,
    known: &HashMap<Digest, Payload>,
) -> Result<Option<Vec<Payload>>, RunError> {
    let mut found: HashMap<Digest, Payload> = HashMap::new();
    let missing = |found: &HashMap<Digest, Payload>| {
        applied.iter().filter(|a| !known.contains_key(&a.payload) && !found.contains_key(&a.payload)).cloned().collect::<Vec<_>>()
    };
    if !missing(&found).is_empty() {
        from_bundles(run, round, applied, &mut found).await?;
    }
    let fetches = missing(&found).into_iter().map(|wanted| from_owner(run, list, wanted));
    let mut fetched = futures::stream::iter(fetches).buffer_unordered(PAYLOADS_AT_ONCE);
    while let Some(payload) = fetched.next().await {
        found.extend(payload?.map(|payload| (Digest(payload.digest()), payload)));
    }
    Ok(applied.iter().map(|a| known.get(&a.payload).or_else(|| found.get(&a.payload)).cloned()).collect())
}

/// A listed payload from its owner's bucket, if it can be had now.
async fn from_owner(run: &Run, list: &SealList, wanted: Applied) -> Result<Option<Payload>, RunError> {
    let Some(bucket) = run.bucket_of(&wanted.hotkey).await? else { return Ok(None) };
    let envelope = list.entries.iter().find(|entry| entry.uid == wanted.uid).and_then(|entry| entry.open().ok());
    let Some(envelope) = envelope else { return Ok(None) };
    Ok(fetch_payload(run, &bucket, &envelope).await.ok())
}

/// Looks for a bundle in everybody's bucket, the validators' first, until one holds payloads of the record. After a few that do not help it
/// is cheaper to fetch payloads one by one: anybody can offer something large that is no bundle.
async fn from_bundles(run: &Run, round: u64, applied: &[Applied], found: &mut HashMap<Digest, Payload>) -> Result<(), RunError> {
    let (cap, mut useless) = (compression::bundle_len(&run.format, applied.len()), 0);
    let head = run.chain.head().await?.number;
    for bucket in keepers(run, head).await? {
        let Ok(Some(bytes)) = bucket.with_limits(PATIENCE).get_large(&ObjectKey::Bundle(round), cap).await else { continue };
        let payloads = parse_bundle(&bytes, &run.format, applied.len()).unwrap_or_default();
        found.extend(payloads.into_iter().map(|p| (Digest(p.digest()), p)).filter(|(d, _)| applied.iter().any(|a| a.payload == *d)));
        useless += 1;
        if useless == USELESS_BUNDLES || applied.iter().all(|a| found.contains_key(&a.payload)) {
            break;
        }
    }
    Ok(())
}
