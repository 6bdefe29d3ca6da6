//! A step tried out: sparse changes in place, and the old values put back.

use std::ops::Range;

use tch::{TchError, Tensor};

use crate::packing::Packing;
use crate::{Llama, ModelError};

impl Llama {
    /// What `work` makes of the model at `θ − step · change`; afterwards, whatever came of it and also if it panicked, every parameter has its
    /// old bits again.
    ///
    /// `changes` has one list per tensor of [`protocol::Architecture::tensors`], in that order, which may be empty: (element, change),
    /// elements counted row by row, ascending. Each product and each difference is rounded once to f32, on every device alike. Old values
    /// and places take 12 bytes per change, on the parameters' device.
    ///
    /// # Errors
    /// [`ModelError::Shape`], [`ModelError::Element`] or [`ModelError::Order`] for changes that do not fit, before anything is changed; what
    /// `work` fails with; [`ModelError::NotRestored`] if libtorch fails on the way back, after which parameters must be loaded.
    pub fn stepped<T>(
        &mut self,
        step: f32,
        changes: &[Vec<(usize, f32)>],
        work: impl FnOnce(&Self) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        self.weights.packing.check_changes(changes)?;
        let mut patch = Patch::default();
        let applied = patch.apply(&self.weights.packing, &self.weights.shares, step, changes);
        let result = applied.map_err(ModelError::torch).and_then(|()| work(self));
        patch.undo().map_err(ModelError::not_restored)?;
        result
    }
}

/// What is changed, tensor by tensor; puts the old values back when it is dropped.
#[derive(Default)]
struct Patch(Vec<Part>);

/// Changed elements of one canonical tensor, as far as this rank keeps them.
struct Part {
    /// The tensor's elements, in the parameters' memory.
    elements: Tensor,
    /// Which of them are changed.
    places: Tensor,
    /// Their values before.
    old: Tensor,
}

impl Patch {
    /// Takes a step with [checked](Packing::check_changes) changes. Of a step that fails half-way, [`Patch::undo`] knows as much as was taken.
    fn apply(&mut self, packing: &Packing, shares: &[Tensor], step: f32, changes: &[Vec<(usize, f32)>]) -> Result<(), TchError> {
        for (span, elements) in packing.spans(shares)? {
            let Range { start, end } = span.elements;
            let before = |limit| changes[span.tensor].partition_point(|&(element, _)| element < limit);
            let changes = &changes[span.tensor][before(start)..before(end)];
            if changes.is_empty() {
                continue;
            }
            let device = elements.device();
            let step = |&(element, change)| ((element - start) as i64, step * change);
            let (places, steps): (Vec<i64>, Vec<f32>) = changes.iter().map(step).unzip();
            let places = Tensor::f_from_slice(&places)?.f_to_device(device)?;
            let old = elements.f_index_select(0, &places)?;
            let new = old.f_sub(&Tensor::f_from_slice(&steps)?.f_to_device(device)?)?;
            self.0.push(Part { elements, places, old });
            if let Some(part) = self.0.last_mut() {
                _ = part.elements.f_index_copy_(0, &part.places, &new)?;
            }
        }
        Ok(())
    }

    /// Puts the old values back, once.
    fn undo(&mut self) -> Result<(), TchError> {
        self.0.iter_mut().try_for_each(|part| part.elements.f_index_copy_(0, &part.places, &part.old).map(drop))?;
        self.0.clear();
        Ok(())
    }
}

impl Drop for Patch {
    fn drop(&mut self) {
        // Only a panic comes here with anything left to undo.
        _ = self.undo();
    }
}
