//! Parameters as a rank keeps them, and how they come together block by block.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::ModelError;
use crate::collective::{Collective, Pending};
use crate::packing::Packing;

/// One rank's share of the parameters, and its way to the others'.
pub(crate) struct Weights {
    pub(crate) packing: Packing,
    /// One per block, f32 [share].
    pub(crate) shares: Vec<Tensor>,
    pub(crate) collective: Box<dyn Collective>,
    /// What is multiplied in, and what parameters are sent in: f32 or bf16.
    pub(crate) compute: Kind,
}

impl Weights {
    /// Zeros.
    pub(crate) fn new(packing: Packing, collective: Box<dyn Collective>, device: Device, compute: Kind) -> Result<Self, ModelError> {
        let shares = packing.zeros(device).map_err(ModelError::torch)?;
        Ok(Self { packing, shares, collective, compute })
    }

    /// The shares in the arithmetic's precision, for several passes.
    pub(crate) fn cast(&self) -> Result<Vec<Tensor>, ModelError> {
        self.shares.iter().map(|share| share.f_to_kind(self.compute)).collect::<Result<_, _>>().map_err(ModelError::torch)
    }

    /// The blocks of `order`, one after the other, in the arithmetic's precision; while one is computed with, the next one is on its way. `shares` are
    /// these, or what [`Weights::cast`] made of them.
    pub(crate) fn gathers<'a, I: Iterator<Item = usize>>(&'a self, shares: &'a [Tensor], order: I) -> Gathers<'a, I> {
        Gathers { weights: self, shares, kind: self.compute, order, next: None }
    }

    /// All blocks as they are, in f32.
    pub(crate) fn all(&self) -> Gathers<'_, Range<usize>> {
        Gathers { weights: self, shares: &self.shares, kind: Kind::Float, order: 0..self.packing.blocks(), next: None }
    }
}

/// Whole blocks, on their way.
pub(crate) struct Gathers<'a, I> {
    weights: &'a Weights,
    shares: &'a [Tensor],
    kind: Kind,
    order: I,
    next: Option<(usize, Pending<'a>)>,
}

impl<I: Iterator<Item = usize>> Gathers<'_, I> {
    /// The next block's groups.
    pub(crate) fn next(&mut self) -> Result<Vec<Tensor>, ModelError> {
        let (block, whole) = self.whole()?.ok_or_else(|| ModelError::Torch("more blocks were asked for than announced".to_owned()))?;
        self.weights.packing.groups(block, &whole).map_err(ModelError::torch)
    }

    /// The next block and its elements, flat.
    pub(crate) fn whole(&mut self) -> Result<Option<(usize, Tensor)>, ModelError> {
        if self.next.is_none() {
            self.start()?;
        }
        let Some((block, pending)) = self.next.take() else { return Ok(None) };
        self.start()?;
        Ok(Some((block, pending.finish()?)))
    }

    fn start(&mut self) -> Result<(), ModelError> {
        let Some(block) = self.order.next() else { return Ok(()) };
        let share = self.shares[block].f_to_kind(self.kind).map_err(ModelError::torch)?;
        self.next = Some((block, self.weights.collective.all_gather(share)?));
        Ok(())
    }
}

/// A rank's share of the gradients, summed over ranks and micro-batches, as flat pieces per block.
pub(crate) struct Sums<'a> {
    weights: &'a Weights,
    blocks: Vec<Vec<Tensor>>,
    under_way: Option<(usize, Pending<'a>)>,
}

impl<'a> Sums<'a> {
    /// Nothing yet.
    pub(crate) fn new(weights: &'a Weights) -> Self {
        Self { weights, blocks: (0..weights.packing.blocks()).map(|_| Vec::new()).collect(), under_way: None }
    }

    /// Adds this rank's gradients of a block's groups, and everybody else's. The sum is on its way until the next one.
    pub(crate) fn add(&mut self, block: usize, groups: &[Tensor]) -> Result<(), ModelError> {
        if self.weights.collective.size() == 1 {
            let pieces = groups.iter().map(|group| group.f_reshape([-1])).collect::<Result<_, _>>();
            return self.accumulate(block, pieces.map_err(ModelError::torch)?);
        }
        self.settle()?;
        let whole = self.weights.packing.join(block, groups).map_err(ModelError::torch)?;
        self.under_way = Some((block, self.weights.collective.reduce_scatter(whole)?));
        Ok(())
    }

    fn settle(&mut self) -> Result<(), ModelError> {
        let Some((block, pending)) = self.under_way.take() else { return Ok(()) };
        let pieces = self.weights.packing.pieces_of(block, &pending.finish()?).map_err(ModelError::torch)?;
        self.accumulate(block, pieces)
    }

    /// The sums are f32, whatever the pieces.
    fn accumulate(&mut self, block: usize, pieces: Vec<Tensor>) -> Result<(), ModelError> {
        let sums = &mut self.blocks[block];
        let done = if sums.is_empty() {
            let first = pieces.iter().map(|piece| piece.f_to_kind(Kind::Float)).collect::<Result<_, _>>();
            first.map(|first| *sums = first)
        } else {
            crate::ffi::foreach_add(sums, &pieces)
        };
        done.map_err(ModelError::torch)
    }

    /// The pieces of all blocks, as [`Packing::pieces`] of the parameters.
    pub(crate) fn finish(mut self) -> Result<Vec<Tensor>, ModelError> {
        self.settle()?;
        Ok(self.blocks.into_iter().flatten().collect())
    }
}
