//! JSON-RPC as nodes speak it, each answer open to a fault.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonrpsee::server::{ServerBuilder, ServerConfig, ServerHandle};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{PendingSubscriptionSink, RpcModule};
use parity_scale_codec::{Decode, Encode};
use protocol::Hotkey;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::blocks::{Block, Blocks, hex};
use super::dispatch::metagraph;
use super::types::AccountId32;

pub type Answer = Result<Value, ErrorObjectOwned>;
/// Answers a request, with what an honest node would answer at hand.
pub type Fault = Box<dyn Fn(&Request, &dyn Fn() -> Answer) -> Answer + Send + Sync>;

pub struct Request<'a> {
    pub method: &'a str,
    pub params: &'a [Value],
}

/// A chain and whom to tell of its heads.
#[derive(Debug)]
pub struct Shared {
    blocks: Mutex<Blocks>,
    pub heads: watch::Sender<u64>,
    /// The extrinsic that the pools said last to have dropped.
    pub dropped: watch::Sender<Option<[u8; 32]>>,
}

impl Shared {
    pub fn new(blocks: Blocks) -> Self {
        Self { blocks: Mutex::new(blocks), heads: watch::Sender::new(0), dropped: watch::Sender::new(None) }
    }

    pub fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node's view of the chain.
pub struct View {
    pub shared: Arc<Shared>,
    /// How many final blocks it does not know yet.
    pub lag: u64,
    pub fault: Mutex<Option<Fault>>,
}

const METHODS: [&str; 10] = [
    "chain_getBlockHash",
    "chain_getFinalizedHead",
    "chain_getHeader",
    "chain_getBlock",
    "state_call",
    "state_getStorage",
    "state_getKeysPaged",
    "state_queryStorageAt",
    "system_accountNextIndex",
    "author_submitExtrinsic",
];

/// Serves a view on a free port; returns the port.
pub async fn serve(view: Arc<View>) -> (u16, ServerHandle) {
    let mut module = RpcModule::new(view);
    for method in METHODS {
        let registered = module.register_method(method, move |params, view: &Arc<View>, _| -> Answer {
            let params: Option<Vec<Value>> = params.parse()?;
            view.answer(&Request { method, params: &params.unwrap_or_default() })
        });
        registered.expect("each method once");
    }
    let subscribed = module.register_subscription(
        "chain_subscribeFinalizedHeads",
        "chain_finalizedHead",
        "chain_unsubscribeFinalizedHeads",
        |_, pending, view, _| async move { tell_heads(pending, &view).await },
    );
    subscribed.expect("each method once");
    let watched = module.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        |params, pending, view, _| async move {
            let params: Vec<Value> = params.parse().unwrap_or_default();
            tell_fate(&params, pending, &view).await;
        },
    );
    watched.expect("each method once");
    let config = ServerConfig::builder().max_response_body_size(1 << 26).build();
    let server = ServerBuilder::default().set_config(config).build("127.0.0.1:0").await.expect("a free port");
    let port = server.local_addr().expect("it listens").port();
    (port, server.start(module))
}

async fn tell_heads(pending: PendingSubscriptionSink, view: &View) {
    let Ok(sink) = pending.accept().await else { return };
    let mut heads = view.shared.heads.subscribe();
    loop {
        let request = Request { method: "chain_finalizedHead", params: &[] };
        let head = view.answer(&request).ok().filter(|head| !head.is_null());
        if let Some(head) = head.and_then(|head| serde_json::value::to_raw_value(&head).ok())
            && sink.send(head).await.is_err()
        {
            return;
        }
        tokio::select! {
            changed = heads.changed() => if changed.is_err() { return },
            () = sink.closed() => return,
        }
    }
}

/// Submits an extrinsic, and tells if the pool drops it.
async fn tell_fate(params: &[Value], pending: PendingSubscriptionSink, view: &View) {
    let submitted = view.answer(&Request { method: "author_submitExtrinsic", params });
    let hash = match submitted {
        Ok(hash) => hash,
        Err(refusal) => return pending.reject(refusal).await,
    };
    let Ok(sink) = pending.accept().await else { return };
    let mut dropped = view.shared.dropped.subscribe();
    let is_it = |dropped: &Option<[u8; 32]>| dropped.is_some_and(|dropped| json!(hex(&dropped)) == hash);
    let told = async { dropped.wait_for(is_it).await.is_ok() };
    let is_dropped = tokio::select! {
        found = told => found,
        () = sink.closed() => false,
    };
    if is_dropped && let Ok(status) = serde_json::value::to_raw_value("dropped") {
        let _ = sink.send(status).await;
    }
}

fn error(code: i32, message: &str) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, None::<()>)
}

fn bytes(value: Option<&Value>) -> Option<Vec<u8>> {
    ::hex::decode(value?.as_str()?.strip_prefix("0x")?).ok()
}

fn malformed() -> ErrorObjectOwned {
    error(-32602, "Invalid params")
}

impl View {
    fn answer(&self, request: &Request) -> Answer {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &*fault {
            Some(fault) => fault(request, &|| self.honest(request)),
            None => self.honest(request),
        }
    }

    fn honest(&self, request: &Request) -> Answer {
        let params = request.params;
        let mut blocks = self.shared.blocks();
        let finalized = blocks.finalized.saturating_sub(self.lag);
        match request.method {
            "chain_getFinalizedHead" => Ok(json!(hex(&blocks.chain[finalized as usize].hash))),
            "chain_finalizedHead" => Ok(blocks.chain[finalized as usize].header()),
            "chain_getBlockHash" => {
                let number = params.first().and_then(Value::as_u64).unwrap_or(blocks.best().number);
                let known = number + self.lag <= blocks.best().number;
                Ok(blocks.chain.get(number as usize).filter(|_| known).map_or(Value::Null, |block| json!(hex(&block.hash))))
            }
            "chain_getHeader" => Ok(self.block(&blocks, params.first()).map_or(Value::Null, Block::header)),
            "chain_getBlock" => Ok(self.block(&blocks, params.first()).map_or(Value::Null, |block| {
                let extrinsics: Vec<String> = block.extrinsics.iter().map(|bytes| hex(bytes)).collect();
                json!({ "block": { "header": block.header(), "extrinsics": extrinsics }, "justifications": null })
            })),
            "system_accountNextIndex" => {
                let account: Option<Hotkey> = params.first().and_then(Value::as_str).and_then(|text| text.parse().ok());
                Ok(json!(blocks.next_index(AccountId32(account.ok_or_else(malformed)?.0))))
            }
            "author_submitExtrinsic" => {
                let submitted = blocks.submit(&bytes(params.first()).ok_or_else(malformed)?);
                submitted.map(|hash| json!(hex(&hash))).map_err(|refusal| {
                    let (code, message, data) = refusal.told();
                    ErrorObjectOwned::owned(code, message, Some(data))
                })
            }
            _ => self.state(&blocks, request),
        }
    }

    /// Answers what is asked of the state at the block that is the last parameter.
    fn state(&self, blocks: &Blocks, request: &Request) -> Answer {
        let params = request.params;
        let at = self
            .block(blocks, params.last())
            .ok_or_else(|| error(4003, "Client error: UnknownBlock: Header was not found in the database"))?;
        if at.state.0.is_empty() {
            let message = format!("Client error: Api called for an unknown Block: State already discarded for {}", hex(&at.hash));
            return Err(error(4003, &message));
        }
        let value = |key: &[u8]| at.state.0.get(key).map_or(Value::Null, |value| json!(hex(value)));
        match request.method {
            "state_getStorage" => Ok(value(&bytes(params.first()).ok_or_else(malformed)?)),
            "state_getKeysPaged" => {
                let prefix = bytes(params.first()).ok_or_else(malformed)?;
                let count = params.get(1).and_then(Value::as_u64).ok_or_else(malformed)?;
                let keys = at.state.keys(&prefix, count as usize, bytes(params.get(2)).as_deref());
                Ok(json!(keys.iter().map(|key| hex(key)).collect::<Vec<_>>()))
            }
            "state_queryStorageAt" => {
                let keys = params.first().and_then(Value::as_array).ok_or_else(malformed)?;
                let changes: Vec<Value> = keys.iter().map(|key| json!([key, value(&bytes(Some(key)).unwrap_or_default())])).collect();
                Ok(json!([{ "block": hex(&at.hash), "changes": changes }]))
            }
            "state_call" => {
                let name = params.first().and_then(Value::as_str).ok_or_else(malformed)?;
                runtime_call(at, name, &bytes(params.get(1)).ok_or_else(malformed)?).map(|answer| json!(hex(&answer)))
            }
            _ => Err(error(-32601, "Method not found")),
        }
    }

    /// A block that this node knows, by its hash.
    fn block<'a>(&self, blocks: &'a Blocks, hash: Option<&Value>) -> Option<&'a Block> {
        let hash = bytes(hash)?.try_into().ok()?;
        blocks.by_hash(&hash).filter(|block| block.number + self.lag <= blocks.best().number)
    }
}

fn runtime_call(at: &Block, name: &str, mut arguments: &[u8]) -> Result<Vec<u8>, ErrorObjectOwned> {
    match name {
        "Core_version" => Ok(at.runtime.version()),
        "Metadata_metadata_versions" => Ok(vec![14u32, 15].encode()),
        "Metadata_metadata_at_version" => Ok(at.runtime.opaque_metadata()),
        "SubnetInfoRuntimeApi_get_metagraph" => {
            let netuid = u16::decode(&mut arguments).map_err(|_| malformed())?;
            Ok(metagraph(&at.state, netuid, at.number).encode())
        }
        _ => Err(error(4003, "Client error: Execution failed: method not found")),
    }
}
