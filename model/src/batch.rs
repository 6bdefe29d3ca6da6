//! Token ids on their way to the device. Checked first: libtorch reads beyond the embedding, or dies, on an id that does not exist.

use std::ops::RangeInclusive;

use protocol::Architecture;
use tch::{Device, Tensor};

use crate::ModelError;

/// A checked batch, cut into the ranks' parts.
pub struct Staged {
    /// Per rank, [sequences, length + 1].
    pub(crate) windows: Vec<Tensor>,
}

/// Prepares batches for [`crate::Ranks`], on any thread, also while those work: a copy to a GPU then takes place between two pieces of its work.
#[derive(Clone, Debug)]
pub struct Stager {
    pub(crate) architecture: Architecture,
    pub(crate) devices: Vec<Device>,
}

impl Stager {
    /// Checks the sequences, which are as [`crate::Llama::sequence_losses`] takes them, and copies them to where [`crate::Ranks::stager`] says.
    ///
    /// # Errors
    /// For sequences that do not fit the model, [`ModelError::Uneven`], or if libtorch fails.
    pub fn stage(&self, batch: &[Vec<u32>]) -> Result<Staged, ModelError> {
        let (architecture, ranks) = (&self.architecture, self.devices.len());
        let lengths = 2..=architecture.sequence_length + 1;
        check(batch, lengths.clone(), architecture)?;
        check_even(batch.len(), ranks)?;
        let parts = batch.chunks(batch.len() / ranks).zip(&self.devices);
        let windows = parts.map(|(part, device)| to_tensor(part, lengths.clone(), architecture, *device)).collect::<Result<_, _>>()?;
        Ok(Staged { windows })
    }
}

/// Refuses sequences that the ranks cannot share equally.
pub(crate) fn check_even(sequences: usize, ranks: usize) -> Result<(), ModelError> {
    if sequences.is_multiple_of(ranks) { Ok(()) } else { Err(ModelError::Uneven { sequences, ranks }) }
}

/// Refuses sequences that are none, not of one length, or not within `lengths` and the vocabulary. Their length.
pub(crate) fn check<S: AsRef<[u32]>>(
    batch: &[S],
    lengths: RangeInclusive<usize>,
    architecture: &Architecture,
) -> Result<usize, ModelError> {
    let first = batch.first().ok_or(ModelError::Empty)?.as_ref().len();
    for (index, sequence) in batch.iter().enumerate() {
        let sequence = sequence.as_ref();
        let length = sequence.len();
        if !lengths.contains(&length) {
            return Err(ModelError::Length { index, length, least: *lengths.start(), most: *lengths.end() });
        }
        if length != first {
            return Err(ModelError::Ragged { index, length, first });
        }
        if let Some(&token) = sequence.iter().find(|&&token| token as usize >= architecture.vocab_size) {
            return Err(ModelError::Token { token, vocab_size: architecture.vocab_size });
        }
    }
    Ok(first)
}

/// [Checked](check) sequences as an i64 tensor [sequences, length].
pub(crate) fn to_tensor<S: AsRef<[u32]>>(
    batch: &[S],
    lengths: RangeInclusive<usize>,
    architecture: &Architecture,
    device: Device,
) -> Result<Tensor, ModelError> {
    let length = check(batch, lengths, architecture)?;
    let ids: Vec<i64> = batch.iter().flat_map(|sequence| sequence.as_ref()).map(|&token| i64::from(token)).collect();
    let tensor = Tensor::f_from_slice(&ids).and_then(|ids| ids.f_view([batch.len() as i64, length as i64])?.f_to_device(device));
    tensor.map_err(ModelError::torch)
}
