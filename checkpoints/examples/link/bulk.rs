//! How fast large objects go over the link, at the sizes of a 72B run: what many connections make of it once all of them are busy.

use std::fs::{self, File};
use std::path::Path;

use bytes::Bytes;
use checkpoints::PAYLOADS_AT_ONCE;
use futures::{StreamExt, stream};
use protocol::{Hasher, ObjectKey};
use storage::{Access, Stores};

use crate::prepare::{ENDPOINT, MINERS, PEER, bucket};
use crate::round::Timeline;

const PIECE: u64 = 1 << 20;

pub async fn run(dir: &Path, stores: Stores, up: u64, down: u64) -> Timeline {
    // holes are read as zeros, which go over the link like any other bytes
    let file = dir.join("store/bulk").join(ObjectKey::Payload(0).to_string());
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    File::create(file).unwrap().set_len(down).unwrap();
    let own = stores.open(&format!("s3://{}?endpoint={ENDPOINT}", bucket(PEER)), Access::Own).unwrap();
    let key = ObjectKey::Payload(1);
    own.delete(&key).await.unwrap();
    let mut timeline = Timeline::start();
    let piece = Bytes::from(vec![7; PIECE as usize]);
    let pieces = (0..up.div_ceil(PIECE)).map(|i| Ok(piece.slice(..(up - i * PIECE).min(PIECE) as usize)));
    timeline.measure("upload", up, own.upload(&key, up, Hasher::default().digest(), stream::iter(pieces))).await.unwrap();
    own.delete(&key).await.unwrap();
    let theirs = stores.open(&format!("s3://bulk?endpoint={ENDPOINT}"), Access::Trusted).unwrap();
    let fetches = (0..MINERS).map(|_| async {
        let (mut object, mut hash) = (theirs.download(&ObjectKey::Payload(0), down, 0).await.unwrap().unwrap(), Hasher::default());
        while let Some(bytes) = object.next().await.unwrap() {
            hash.update(&bytes);
        }
    });
    let fetches = stream::iter(fetches).buffer_unordered(PAYLOADS_AT_ONCE).collect::<Vec<()>>();
    timeline.measure("fetch", down * u64::from(MINERS), fetches).await;
    timeline
}
