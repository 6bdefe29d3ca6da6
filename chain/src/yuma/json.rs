//! An epoch's inputs as JSON (the crate's README gives the form) and the checks that make them safe to compute.

use std::collections::HashSet;

use serde::Deserialize;

use super::{InputError, Inputs, MAX_UIDS, Params, Row, permits};

/// Inputs as typed: whatever is left out is such that everything counts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    params: Params,
    block: Option<u64>,
    last_epoch: Option<u64>,
    owner: Option<usize>,
    stake: Vec<u64>,
    permit: Option<Vec<bool>>,
    registered: Option<Vec<u64>>,
    last_update: Option<Vec<u64>>,
    open_commit: Option<Vec<Option<u64>>>,
    weights: Vec<TypedRow>,
    bonds: Option<Vec<TypedRow>>,
    #[serde(default)]
    emission: u64,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a row is [uid, value] pairs or one value for each uid, all whole numbers from 0 to 65535")]
enum TypedRow {
    Sparse(Row),
    Dense(Vec<u16>),
}

impl TypedRow {
    /// As the chain stores it: a zero of a dense row is no entry.
    fn stored(self, name: &'static str, row: usize, uids: usize) -> Result<Row, InputError> {
        match self {
            Self::Sparse(row) => Ok(row),
            Self::Dense(values) if values.len() != uids => Err(InputError::NotSquare { name, row, found: values.len(), expected: uids }),
            Self::Dense(values) => Ok((0..).zip(values).filter(|&(_, value)| value > 0).collect()),
        }
    }
}

/// Reads inputs and parameters of one epoch, in the form that the crate's README gives.
///
/// # Errors
/// Every [`InputError`].
pub fn parse(json: &str) -> Result<(Inputs, Params), InputError> {
    let document: Document = serde_json::from_str(json).map_err(InputError::Json)?;
    let n = document.stake.len();
    if n > MAX_UIDS {
        return Err(InputError::TooManyUids(n));
    }
    let stored = |name, rows: Vec<TypedRow>| -> Result<Vec<Row>, InputError> {
        rows.into_iter().enumerate().map(|(row, typed)| typed.stored(name, row, n)).collect()
    };
    let registered = document.registered.unwrap_or_else(|| vec![0; n]);
    let newest = registered.iter().chain(document.last_update.iter().flatten()).max().copied().unwrap_or(0);
    let block = document.block.unwrap_or(newest.saturating_add(2));
    let owner = document.owner.filter(|&owner| owner < n);
    if let (Some(uid), None) = (document.owner, owner) {
        return Err(InputError::UnknownUid { place: "owner".into(), uid, uids: n });
    }
    let inputs = Inputs {
        block,
        last_epoch: document.last_epoch.unwrap_or(block),
        owner,
        permit: document.permit.unwrap_or_else(|| permits(&document.stake, owner, &document.params)),
        stake: document.stake,
        registered,
        last_update: document.last_update.unwrap_or_else(|| vec![block; n]),
        open_commit: document.open_commit.unwrap_or_else(|| vec![None; n]),
        weights: stored("weights", document.weights)?,
        bonds: document.bonds.map_or_else(|| Ok(vec![Row::new(); n]), |rows| stored("bonds", rows))?,
        emission: document.emission,
    };
    inputs.validate(&document.params)?;
    Ok((inputs, document.params))
}

impl Inputs {
    /// Refuses what [`epoch`](super::epoch) cannot compute and what no chain stores.
    ///
    /// # Errors
    /// Every [`InputError`] but those of the JSON form.
    pub fn validate(&self, params: &Params) -> Result<(), InputError> {
        let uids = self.stake.len();
        let lengths = [
            ("permit", self.permit.len()),
            ("registered", self.registered.len()),
            ("last_update", self.last_update.len()),
            ("open_commit", self.open_commit.len()),
            ("weights", self.weights.len()),
            ("bonds", self.bonds.len()),
        ];
        if uids > MAX_UIDS {
            return Err(InputError::TooManyUids(uids));
        }
        if let Some((name, found)) = lengths.into_iter().find(|&(_, found)| found != uids) {
            return Err(InputError::Length { name, found, expected: uids });
        }
        if let Some(uid) = self.owner.filter(|&owner| owner >= uids) {
            return Err(InputError::UnknownUid { place: "owner".into(), uid, uids });
        }
        if params.bonds_moving_average > 1_000_000 {
            return Err(InputError::MovingAverage(params.bonds_moving_average));
        }
        validate_rows("weights", &self.weights)?;
        validate_rows("bonds", &self.bonds)
    }
}

fn validate_rows(name: &'static str, rows: &[Row]) -> Result<(), InputError> {
    for (row, entries) in rows.iter().enumerate() {
        let mut seen = HashSet::new();
        for &(uid, _) in entries {
            if usize::from(uid) >= rows.len() {
                return Err(InputError::UnknownUid { place: format!("row {row} of the {name}"), uid: uid.into(), uids: rows.len() });
            }
            if !seen.insert(uid) {
                return Err(InputError::Repeated { name, row, uid });
            }
        }
    }
    Ok(())
}
