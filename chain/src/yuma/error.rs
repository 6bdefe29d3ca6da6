//! What can be wrong with an epoch's inputs.

use super::MAX_UIDS;

/// Why inputs are no epoch.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Not JSON of the form that the crate's README gives.
    #[error("not an epoch's inputs as JSON: {0}")]
    Json(serde_json::Error),
    /// More uids than a subnet has.
    #[error("{0} uids are more than a subnet's {MAX_UIDS}")]
    TooManyUids(usize),
    /// A vector or matrix whose length is not the number of stakes.
    #[error("{name} has {found} entries, one for each of {expected} stakes is needed")]
    Length {
        /// Which one.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The number of stakes.
        expected: usize,
    },
    /// A dense row of a matrix that is not as long as there are uids.
    #[error("row {row} of the {name} has {found} numbers, one for each of {expected} stakes is needed: matrices are square")]
    NotSquare {
        /// Which matrix.
        name: &'static str,
        /// The validator's uid.
        row: usize,
        /// The row's length.
        found: usize,
        /// The number of stakes.
        expected: usize,
    },
    /// A uid that has no stake.
    #[error("{place} names uid {uid}, but there are {uids} stakes")]
    UnknownUid {
        /// Where.
        place: String,
        /// The uid.
        uid: usize,
        /// The number of stakes.
        uids: usize,
    },
    /// Two entries for one miner in one row.
    #[error("row {row} of the {name} has uid {uid} twice")]
    Repeated {
        /// Which matrix.
        name: &'static str,
        /// The validator's uid.
        row: usize,
        /// The miner's uid.
        uid: u16,
    },
    /// A moving average above 1.
    #[error("a bonds moving average of {0} is above 1,000,000 millionths")]
    MovingAverage(u32),
}
