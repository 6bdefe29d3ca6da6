//! The server: one ledger behind a listener. Nothing a client sends is believed but a signature.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::{Digest, Hotkey};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::wire::{LONG_POLL, MAX_CALL_BYTES, MAX_COMMITMENTS, REQUEST, SignedCall};
use crate::ledger::commitments::Page;
use crate::{Block, Blocks, Chain, ChainError, Commitment, Ledger, LedgerError, Neuron, Subnet};

/// Connections at a time; later ones wait to be accepted. Each has one request at a time.
const CONNECTIONS: usize = 256;
/// How long a client may take for a request's head, idle time before it included.
const HEAD: Duration = Duration::from_secs(15);
/// How long a connection lives before it is asked to end; it ends hard after `GRACE` more.
const LIFETIME: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(3);
/// Pause after a failure that has nothing to do with a client.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves `ledger` on `listener` until `shutdown` completes; pending requests then get a few seconds.
///
/// # Errors
/// [`LedgerError::LockstepIsLocal`] for a ledger in lockstep, whose blocks wait for processes of this machine.
pub async fn serve(ledger: Arc<Ledger>, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), ChainError> {
    if ledger.config().blocks == Blocks::Lockstep {
        return Err(LedgerError::LockstepIsLocal.into());
    }
    let (stop, stopped) = watch::channel(false);
    let (found, heads) = watch::channel(ledger.head().await?);
    let service = routes(Served { ledger: ledger.clone(), heads });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(stream, service.clone(), stopped.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = follow(&ledger, &found) => {}
        () = shutdown => {}
    }
    let _ = stop.send(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Tells `found` each new head: one wait on the ledger for all clients.
async fn follow(ledger: &Ledger, found: &watch::Sender<Block>) {
    loop {
        let head = found.borrow().number;
        match ledger.next_block(head).await {
            Ok(block) => drop(found.send(block)),
            Err(error) => {
                tracing::warn!(%error, "the ledger's head could not be read");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One client's requests, until it goes, its time is up, or the server stops.
async fn connection(stream: TcpStream, service: Router, mut stopped: watch::Receiver<bool>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    tokio::select! {
        result = serving.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection broke");
            }
            return;
        }
        _ = stopped.wait_for(|&stopped| stopped) => {}
        () = sleep(LIFETIME) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, serving).await;
}

/// What handlers share.
#[derive(Clone)]
struct Served {
    ledger: Arc<Ledger>,
    heads: watch::Receiver<Block>,
}

fn routes(served: Served) -> Router {
    Router::new()
        .route("/v1/genesis", get(genesis))
        .route("/v1/head", get(head))
        .route("/v1/next", get(next))
        .route("/v1/blocks/{number}", get(block))
        .route("/v1/accounts/{account}", get(balance))
        .route("/v1/subnets/{netuid}", get(subnet))
        .route("/v1/subnets/{netuid}/neurons", get(neurons))
        .route("/v1/subnets/{netuid}/buckets", get(buckets))
        .route("/v1/subnets/{netuid}/commitments", get(commitments))
        .route("/v1/subnets/{netuid}/weights/{uid}", get(weights))
        .route("/v1/subnets/{netuid}/stakers/{hotkey}", get(stakers))
        .route("/v1/calls", post(call))
        .layer(DefaultBodyLimit::max(MAX_CALL_BYTES))
        .layer(from_fn(in_time))
        .with_state(served)
}

async fn in_time(request: Request, next: Next) -> Response {
    match timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    }
}

type Reply<T> = Result<Json<T>, Refusal>;

/// A chain's refusal, as JSON with status 409; the ledger's own failures stay on this machine.
struct Refusal(ChainError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self.0 {
            ChainError::Ledger(error) => {
                tracing::error!(%error, "a request failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "the ledger failed; its server's log says why").into_response()
            }
            error => (StatusCode::CONFLICT, Json(error)).into_response(),
        }
    }
}

fn reply<T>(result: Result<T, ChainError>) -> Reply<T> {
    result.map(Json).map_err(Refusal)
}

async fn genesis(State(served): State<Served>) -> Reply<Digest> {
    reply(served.ledger.genesis().await)
}

async fn head(State(served): State<Served>) -> Reply<Block> {
    reply(served.ledger.head().await)
}

#[derive(Deserialize)]
struct After {
    after: u64,
}

/// The head once it exceeds `after`; null if that takes too long.
async fn next(State(mut served): State<Served>, Query(After { after }): Query<After>) -> Reply<Option<Block>> {
    let found = timeout(LONG_POLL, served.heads.wait_for(|head| head.number > after)).await;
    Ok(Json(found.ok().and_then(Result::ok).map(|head| *head)))
}

async fn block(State(served): State<Served>, Path(number): Path<u64>) -> Reply<Option<Block>> {
    reply(served.ledger.block(number).await)
}

async fn balance(State(served): State<Served>, Path(account): Path<Hotkey>) -> Reply<u64> {
    reply(served.ledger.balance(account).await)
}

async fn subnet(State(served): State<Served>, Path(netuid): Path<u16>) -> Reply<Subnet> {
    reply(served.ledger.subnet(netuid).await)
}

#[derive(Deserialize)]
struct At {
    at: u64,
}

async fn neurons(State(served): State<Served>, Path(netuid): Path<u16>, Query(At { at }): Query<At>) -> Reply<Vec<Neuron>> {
    reply(served.ledger.neurons(netuid, at).await)
}

async fn buckets(State(served): State<Served>, Path(netuid): Path<u16>) -> Reply<Vec<(Hotkey, String)>> {
    reply(served.ledger.buckets(netuid).await)
}

/// From the call at `index` of `block` on, up to block `end`.
#[derive(Deserialize)]
struct Span {
    block: u64,
    index: u32,
    end: u64,
}

/// At most [`MAX_COMMITMENTS`]; more may follow a full answer.
async fn commitments(State(served): State<Served>, Path(netuid): Path<u16>, Query(span): Query<Span>) -> Reply<Vec<Commitment>> {
    let page = Page { start: (span.block, span.index), end: span.end, limit: MAX_COMMITMENTS };
    reply(served.ledger.commitments_page(netuid, page).await)
}

async fn weights(State(served): State<Served>, Path((netuid, uid)): Path<(u16, u16)>) -> Reply<Vec<(u16, u16)>> {
    reply(served.ledger.weights(netuid, uid).await)
}

async fn stakers(State(served): State<Served>, Path((netuid, hotkey)): Path<(u16, Hotkey)>) -> Reply<Vec<(Hotkey, u64)>> {
    reply(served.ledger.stakers(netuid, hotkey).await)
}

async fn call(State(served): State<Served>, Json(signed): Json<SignedCall>) -> Reply<Option<u16>> {
    reply(apply(&served.ledger, signed).await)
}

async fn apply(ledger: &Ledger, signed: SignedCall) -> Result<Option<u16>, ChainError> {
    let expected = ledger.genesis().await?;
    if signed.genesis != expected {
        return Err(ChainError::OtherGenesis { found: signed.genesis, expected });
    }
    if signed.netuid != ledger.config().netuid {
        return Err(ChainError::SubnetNotExists(signed.netuid));
    }
    let kind = signed.kind.chars().take(32).collect();
    ledger.apply(signed.into_call().ok_or(ChainError::MalformedCall(kind))?).await
}
