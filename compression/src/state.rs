//! The replicated state, θ and its round, and the Merkle root that stands for it.

use std::sync::Arc;

use rayon::prelude::*;

use crate::{Layout, LayoutError};

/// Elements per Merkle leaf: 2^18 f32 = 1 MiB.
pub const LEAF_ELEMENTS: usize = 1 << 18;

/// A state root: 32 bytes of BLAKE3.
pub type Root = [u8; 32];

/// The global model after `round` transitions: f32 tensors in the layout's canonical order.
#[derive(Clone, Debug)]
pub struct State {
    layout: Arc<Layout>,
    /// Transitions taken since genesis (0 = genesis).
    pub round: u64,
    tensors: Vec<Vec<f32>>,
    /// A bound on the elements' magnitudes, as far as it is known.
    reach: Option<f64>,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        (self.round, &self.layout, &self.tensors) == (other.round, &other.layout, &other.tensors)
    }
}

impl State {
    /// A state from its parts.
    ///
    /// # Errors
    /// [`LayoutError::Data`] if a tensor's length is not the layout's.
    pub fn new(layout: Arc<Layout>, round: u64, tensors: Vec<Vec<f32>>) -> Result<Self, LayoutError> {
        check_lengths(&layout, &tensors)?;
        Ok(Self { layout, round, tensors, reach: None })
    }

    /// The names and shapes.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The tensors' elements, row-major, in canonical order.
    pub fn tensors(&self) -> &[Vec<f32>] {
        &self.tensors
    }

    /// The model's tensors alone, without the residual of lossy merges.
    pub fn model(&self) -> &[Vec<f32>] {
        &self.tensors[..self.layout.model().len()]
    }

    /// Mutable elements; lengths must stay as they are.
    pub fn tensors_mut(&mut self) -> &mut [Vec<f32>] {
        self.reach = None;
        &mut self.tensors
    }

    /// A bound on the elements' magnitudes; NaN or infinite if one of them is.
    pub(crate) fn reach(&self) -> f64 {
        self.reach.unwrap_or_else(|| {
            let largest = |elements: &[f32]| elements.iter().map(|v| v.abs().to_bits()).fold(0, u32::max);
            let runs = self.tensors.par_iter().flat_map(|tensor| tensor.par_chunks(LEAF_ELEMENTS));
            f32::from_bits(runs.map(largest).max().unwrap_or_default()).into()
        })
    }

    /// Changes the elements in a way that keeps their magnitudes within `reach`.
    pub(crate) fn change_within(&mut self, reach: f64, change: impl FnOnce(&mut [Vec<f32>])) {
        change(&mut self.tensors);
        self.reach = Some(reach);
    }

    /// The Merkle root over [`LEAF_ELEMENTS`]-sized leaves, bound to the round and the layout.
    ///
    /// leaf = BLAKE3(little-endian f32 bytes of up to 2^18 elements of one tensor); parent = BLAKE3(0x01 ‖ left ‖ right), an odd
    /// last node moves up unchanged; root = BLAKE3-derive("tributary 2026 state root v1", round u64 LE ‖ layout digest ‖ top).
    pub fn root(&self) -> Root {
        root_of_leaves(&self.layout, self.round, self.leaves())
    }

    /// The hashes of its leaves, tensor by tensor: with them, a state that comes in pieces can be checked piece by piece.
    pub fn leaves(&self) -> Vec<Root> {
        let leaves: Vec<&[f32]> = self.tensors.iter().flat_map(|t| t.chunks(LEAF_ELEMENTS)).collect();
        leaves.par_iter().map(|leaf| hash_leaf(leaf)).collect()
    }
}

/// The root of a state of this layout after `round` transitions whose leaves have these hashes; see [`State::root`].
///
/// # Panics
/// If there are no leaves.
pub fn root_of_leaves(layout: &Layout, round: u64, leaves: Vec<Root>) -> Root {
    let mut level = leaves;
    while level.len() > 1 {
        level = level.chunks(2).map(hash_pair).collect();
    }
    let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 state root v1");
    hasher.update(&round.to_le_bytes());
    hasher.update(&layout.digest());
    hasher.update(&level[0]);
    *hasher.finalize().as_bytes()
}

/// Whether `tensors` has exactly the layout's lengths.
///
/// # Errors
/// [`LayoutError::Data`] names the first tensor that differs.
pub fn check_lengths(layout: &Layout, tensors: &[Vec<f32>]) -> Result<(), LayoutError> {
    if layout.tensors().len() != tensors.len() {
        return Err(LayoutError::Count { expected: layout.tensors().len(), found: tensors.len() });
    }
    for (spec, data) in layout.tensors().iter().zip(tensors) {
        if spec.len() != data.len() {
            return Err(LayoutError::Data { name: spec.name.clone(), expected: spec.len(), found: data.len() });
        }
    }
    Ok(())
}

fn hash_leaf(leaf: &[f32]) -> Root {
    #[cfg(target_endian = "big")]
    compile_error!("leaves are hashed as little-endian bytes");
    *blake3::hash(bytemuck::cast_slice(leaf)).as_bytes()
}

fn hash_pair(pair: &[Root]) -> Root {
    match pair {
        [left, right] => {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[1]).update(left).update(right);
            *hasher.finalize().as_bytes()
        }
        _ => pair[0],
    }
}
