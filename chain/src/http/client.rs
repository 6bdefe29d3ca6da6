//! The client: a [`Chain`] whose ledger another machine serves.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{Digest, Hotkey, Keypair};
use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use super::wire::{MAX_ANSWER_BYTES, MAX_COMMITMENTS, REQUEST, SignedCall};
use crate::ledger::action::{Action, VersionedRow};
use crate::ledger::calls::Call;
use crate::{Block, Chain, ChainError, Commitment, Neuron, Subnet};

const CONNECT: Duration = Duration::from_secs(5);
/// Pauses between attempts double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(4);
/// How often a call is signed anew because its block was over.
const SIGNINGS: u32 = 16;

/// A ledger that `tributary chain serve` offers at a URL. It is believed like a node of one's own: answers are not proven.
///
/// Requests that got no answer are repeated for some seconds. That is safe for calls too: the server applies the same signed bytes once.
#[derive(Debug)]
pub struct HttpLedger {
    client: reqwest::Client,
    url: String,
    genesis: Digest,
}

/// Why a request gave no result.
enum Failure {
    /// What was asked for is refused, or the answer makes no sense.
    Final(ChainError),
    /// No answer, or a failure of the server's: it may pass.
    Passing(String),
}

impl HttpLedger {
    /// Connects to the server at `url` (`http://` or `https://`).
    ///
    /// # Errors
    /// [`ChainError::Url`] if that is not such an address, [`ChainError::Server`] if nobody answers there, or not as a ledger does.
    pub async fn open(url: &str) -> Result<Self, ChainError> {
        let parsed = Url::parse(url).map_err(|_| ChainError::Url(url.to_owned()))?;
        let plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none() && parsed.fragment().is_none();
        if !matches!(parsed.scheme(), "http" | "https") || !plain {
            return Err(ChainError::Url(url.to_owned()));
        }
        // an error means that the process already chose a provider, which serves as well
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("tributary/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            // a little longer than the server, whose answer says more
            .timeout(REQUEST + CONNECT)
            .build();
        let url = url.trim_end_matches('/').to_owned();
        let client =
            client.map_err(|error| ChainError::Server { url: url.clone(), what: format!("cannot be asked: {}", causes(&error)) })?;
        let mut ledger = Self { client, url, genesis: Digest::default() };
        ledger.genesis = ledger.get("genesis").await?;
        Ok(ledger)
    }

    /// Moves `rao` of the coldkey's stake behind `hotkey` back to its balance.
    ///
    /// # Errors
    /// [`ChainError::NotEnoughStakeToWithdraw`], or [`ChainError::AmountTooLow`] for nothing.
    pub async fn remove_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.submit(coldkey, netuid, Action::RemoveStake { hotkey, rao }).await.map(drop)
    }

    /// The coldkeys that stake behind `hotkey` and how much each does, in rao, by coldkey.
    ///
    /// # Errors
    /// [`ChainError::Server`].
    pub async fn stakers(&self, netuid: u16, hotkey: Hotkey) -> Result<Vec<(Hotkey, u64)>, ChainError> {
        self.get(&format!("subnets/{netuid}/stakers/{hotkey}")).await
    }

    fn failed(&self, what: String) -> ChainError {
        ChainError::Server { url: self.url.clone(), what }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ChainError> {
        self.ask(|| self.client.get(format!("{}/v1/{path}", self.url))).await
    }

    /// Signs `action` for the next block and sends it; again for a later one if that block is over.
    async fn submit(&self, signer: &Keypair, netuid: u16, action: Action) -> Result<Option<u16>, ChainError> {
        let mut block = self.head().await?.number + 1;
        for _ in 0..SIGNINGS {
            let call = Call::signed(&self.genesis, netuid, block, &action, signer);
            let body = SignedCall::new(self.genesis, netuid, call).and_then(|call| serde_json::to_vec(&call).ok());
            let body = body.ok_or_else(|| self.failed("cannot be sent this call".into()))?;
            let request = || {
                let post = self.client.post(format!("{}/v1/calls", self.url));
                post.header("content-type", "application/json").body(body.clone())
            };
            match self.ask(request).await {
                Err(ChainError::StaleCall { next, .. }) => block = next,
                answer => return answer,
            }
        }
        Err(self.failed(format!("made blocks faster than {SIGNINGS} calls could be sent")))
    }

    /// Sends a request until it is answered, for some seconds.
    async fn ask<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder) -> Result<T, ChainError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(what)) if pause > LAST_PAUSE => return Err(self.failed(what)),
                Err(Failure::Passing(what)) => tracing::debug!(url = self.url, what, "asking the ledger again"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn once<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let mut response = request.send().await.map_err(|error| Failure::Passing(format!("does not answer: {}", causes(&error))))?;
        let status = response.status();
        let mut body = Vec::new();
        let broken = |error: reqwest::Error| Failure::Passing(format!("broke off: {}", causes(&error)));
        while let Some(bytes) = response.chunk().await.map_err(broken)? {
            if body.len() + bytes.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Final(self.failed(format!("answered more than {MAX_ANSWER_BYTES} bytes"))));
            }
            body.extend_from_slice(&bytes);
        }
        match status {
            StatusCode::OK => self.read(&body).map_err(Failure::Final),
            StatusCode::CONFLICT => Err(Failure::Final(self.read(&body).unwrap_or_else(|error| error))),
            _ => {
                let said: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect();
                let what = format!("answered {status}: {said}");
                let passing = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
                Err(if passing { Failure::Passing(what) } else { Failure::Final(self.failed(what)) })
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ChainError> {
        serde_json::from_slice(body).map_err(|error| self.failed(format!("does not answer as a ledger of this version does: {error}")))
    }

    async fn row(&self, netuid: u16, weights: &[(u16, u16)]) -> Result<VersionedRow, ChainError> {
        Ok(VersionedRow { version_key: self.subnet(netuid).await?.version_key, weights: weights.to_vec() })
    }
}

/// An error with what caused it, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(error.source(), |error| error.source());
    std::iter::once(error.to_string()).chain(chain.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

#[async_trait]
impl Chain for HttpLedger {
    async fn genesis(&self) -> Result<Digest, ChainError> {
        Ok(self.genesis)
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.get("head").await
    }

    async fn block(&self, number: u64) -> Result<Option<Block>, ChainError> {
        self.get(&format!("blocks/{number}")).await
    }

    async fn next_block(&self, after: u64) -> Result<Block, ChainError> {
        let path = format!("next?after={after}");
        loop {
            match self.get::<Option<Block>>(&path).await? {
                Some(block) if block.number > after => return Ok(block),
                Some(_) => return Err(self.failed(format!("answered an older block when asked for one after {after}"))),
                None => {}
            }
        }
    }

    async fn subnet(&self, netuid: u16) -> Result<Subnet, ChainError> {
        self.get(&format!("subnets/{netuid}")).await
    }

    async fn neurons(&self, netuid: u16, at: u64) -> Result<Vec<Neuron>, ChainError> {
        self.get(&format!("subnets/{netuid}/neurons?at={at}")).await
    }

    async fn set_bucket(&self, signer: &Keypair, netuid: u16, url: &str) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::Bucket(url.to_owned())).await.map(drop)
    }

    async fn buckets(&self, netuid: u16) -> Result<Vec<(Hotkey, String)>, ChainError> {
        self.get(&format!("subnets/{netuid}/buckets")).await
    }

    async fn commit(&self, signer: &Keypair, netuid: u16, data: &[u8]) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::Commit(data.to_vec())).await.map(drop)
    }

    async fn commitments(&self, netuid: u16, blocks: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError> {
        let mut all: Vec<Commitment> = Vec::new();
        let (mut start, end) = ((*blocks.start(), 0), *blocks.end());
        loop {
            let path = format!("subnets/{netuid}/commitments?block={}&index={}&end={end}", start.0, start.1);
            let page: Vec<Commitment> = self.get(&path).await?;
            let full = page.len() >= MAX_COMMITMENTS as usize;
            for commitment in page {
                let place = (commitment.block, commitment.index);
                if place < start || commitment.block > end {
                    return Err(self.failed("answered commitments out of their order".into()));
                }
                start = (place.0, place.1.saturating_add(1));
                all.push(commitment);
            }
            if !full {
                return Ok(all);
            }
        }
    }

    async fn balance(&self, account: Hotkey) -> Result<u64, ChainError> {
        self.get(&format!("accounts/{account}")).await
    }

    async fn burned_register(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey) -> Result<u16, ChainError> {
        let uid = self.submit(coldkey, netuid, Action::BurnedRegister { hotkey }).await?;
        uid.ok_or_else(|| self.failed("registered a hotkey without a uid".into()))
    }

    async fn add_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.submit(coldkey, netuid, Action::AddStake { hotkey, rao }).await.map(drop)
    }

    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let row = self.row(netuid, weights).await?;
        self.submit(signer, netuid, Action::Weights(row)).await.map(drop)
    }

    async fn commit_weights(&self, signer: &Keypair, netuid: u16, commitment: Digest) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::CommitWeights(commitment)).await.map(drop)
    }

    async fn reveal_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)], salt: &[u16]) -> Result<(), ChainError> {
        let row = self.row(netuid, weights).await?;
        self.submit(signer, netuid, Action::RevealWeights { row, salt: salt.to_vec() }).await.map(drop)
    }

    async fn commit_timelocked_weights(&self, _: &Keypair, _: u16, _: &[(u16, u16)]) -> Result<u64, ChainError> {
        Err(ChainError::NotInThisRuntime { what: "commit_timelocked_weights".into(), runtime: "embedded ledger".into() })
    }

    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError> {
        self.get(&format!("subnets/{netuid}/weights/{uid}")).await
    }
}
