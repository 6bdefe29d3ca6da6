//! What the link to a store carries: probe objects go up in a folder of their own, come down and are deleted.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use anyhow::{Context as _, Result};
use protocol::ObjectKey;
use serde::Serialize;
use storage::{Access, Bucket, Limits, StorageError, Stores};

use crate::context;

/// Sizes of the objects that go up, one after the other, until one takes long enough to tell the rate.
const SIZES: [usize; 5] = [1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20];
/// Seconds that are long enough.
const ENOUGH: f64 = 1.0;
/// Questions whose round trips are taken; the first one, which connects, does not count.
const QUESTIONS: usize = 5;
/// A store that a miner could not use should be known soon.
const ATTEMPTS: u32 = 3;

/// A store, as it is seen from here.
#[derive(Clone, Debug, Serialize)]
pub struct Store {
    /// The bucket that was named.
    pub url: String,
    /// Until the store answers.
    pub round_trip_seconds: f64,
    /// Of one large object on its way up.
    pub up_bytes_per_second: f64,
    /// Of the same on its way down.
    pub down_bytes_per_second: f64,
}

/// Measures a bucket that may be written.
pub async fn measure(stores: &Stores, address: &str) -> Result<Store> {
    let limits = Limits { attempts: ATTEMPTS, ..Limits::default() };
    let url = context::url_of(address)?;
    let bucket = stores.open(&url, Access::Own)?.with_limits(limits);
    // no node's object has such a path, and no two probes have the same
    let folder = bucket.join(&format!("doctor-{:016x}", RandomState::new().hash_one(address)));
    let mut tried = 0;
    let measured = probe(&folder, url, &mut tried).await;
    let cleared = clear(&folder, tried).await;
    let store = measured?;
    cleared.context("removing the probe objects")?;
    Ok(store)
}

/// `tried` counts the objects that may have gone up.
async fn probe(folder: &Bucket, url: String, tried: &mut usize) -> Result<Store> {
    let mut trips = Vec::new();
    for _ in 0..QUESTIONS {
        let start = Instant::now();
        folder.size(&key(0)).await?;
        trips.push(start.elapsed().as_secs_f64());
    }
    let trips = &mut trips[1..];
    trips.sort_by(f64::total_cmp);
    let mut up = 0.0;
    for size in SIZES {
        *tried += 1;
        let seconds = upload(folder, *tried - 1, size).await?;
        up = size as f64 / seconds;
        if seconds > ENOUGH {
            break;
        }
    }
    let down_bytes_per_second = download(folder, *tried - 1).await?;
    Ok(Store { url, round_trip_seconds: trips[trips.len() / 2], up_bytes_per_second: up, down_bytes_per_second })
}

/// The object of the how-manieth size.
fn key(number: usize) -> ObjectKey {
    ObjectKey::Payload(number as u64)
}

/// Seconds that an object takes up.
async fn upload(folder: &Bucket, number: usize, size: usize) -> Result<f64, StorageError> {
    let bytes = vec![number as u8; size].into();
    let start = Instant::now();
    folder.put_large(&key(number), bytes).await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Bytes per second of an object on its way down.
async fn download(folder: &Bucket, number: usize) -> Result<f64> {
    let start = Instant::now();
    let mut object = folder.download(&key(number), SIZES[number] as u64, 0).await?.context("the store has lost an object that it took")?;
    let mut came = 0;
    while let Some(part) = object.next().await? {
        came += part.len();
    }
    Ok(came as f64 / start.elapsed().as_secs_f64())
}

/// Deletes what went up, and of a local folder the folder too.
async fn clear(folder: &Bucket, tried: usize) -> Result<()> {
    for number in 0..tried {
        folder.delete(&key(number)).await?;
    }
    if let Some(path) = context::local_path(folder.url()).filter(|path| path.exists()) {
        std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_in_the_store() {
        let stores = Stores::from(Access::Trusted);
        let store = measure(&stores, "memory:///doctor").await.unwrap();
        assert!([store.up_bytes_per_second, store.down_bytes_per_second].iter().all(|rate| rate.is_finite() && *rate > 0.0), "{store:?}");
        let bucket = stores.open("memory:///doctor", Access::Own).unwrap();
        assert!(bucket.list("", 10).await.unwrap().is_empty());
    }
}
