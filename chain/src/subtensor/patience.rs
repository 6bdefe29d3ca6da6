//! How long the client waits, and how often it tries.

use std::time::Duration;

/// Waiting times and attempts; the default suits public nodes and blocks of 12 s.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// First pause before the next attempt; each later one is twice as long.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// Attempts of a request, each on the next node.
    pub attempts: u32,
    /// How long a connection may take.
    pub connecting: Duration,
    /// How long one request may take.
    pub request: Duration,
    /// Without a finalized block for so long, the node in use is given up.
    pub stalled: Duration,
    /// Pause before a call is signed anew, so that the node's pool has seen the block.
    pub anew: Duration,
    /// After so long without inclusion, and again each time, the runtime is asked whether an extrinsic is still valid.
    pub doubt: Duration,
    /// How long the chain may take for the blocks within which an extrinsic must be included.
    pub inclusion: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            // with their pauses about 15 s
            attempts: 6,
            connecting: Duration::from_secs(20),
            request: Duration::from_secs(60),
            stalled: Duration::from_secs(120),
            anew: Duration::from_secs(1),
            doubt: Duration::from_secs(15),
            inclusion: Duration::from_secs(15 * 60),
        }
    }
}
