//! How canonical tensors lie in memory. Neighbours that multiply the same input are one matrix; a layer's are one block; and of each block
//! every rank keeps an equal share.

use std::ops::Range;

use protocol::Architecture;
use tch::{Device, Kind, TchError, Tensor};

use crate::{ModelError, ffi};

/// Per layer: norm, q‖k‖v, o, norm, gate‖up, down.
const LAYER: [usize; 6] = [1, 3, 1, 1, 2, 1];

/// Groups and shares start at multiples of so many elements, 64 bytes of f32, as memory of their own would.
const ALIGNMENT: usize = 16;

/// Canonical tensors that are stacked along their first dimension into one. Stacking rows keeps the order of elements, so a group's memory
/// is its parts' memory, end to end.
#[derive(Clone, PartialEq)]
struct Group {
    shape: Vec<i64>,
    /// Of the block's elements.
    place: Range<usize>,
}

/// What is gathered at once: the embedding, a layer, or what follows the last layer. Flat; what lies between groups and behind them is zero.
#[derive(Clone, PartialEq)]
struct Block {
    groups: Vec<Group>,
    /// Elements of one rank's share.
    share: usize,
}

/// Consecutive elements of a canonical tensor that this rank keeps.
#[derive(Clone, PartialEq)]
pub(crate) struct Span {
    /// The tensor's number.
    pub(crate) tensor: usize,
    /// Which of its elements, row-major.
    pub(crate) elements: Range<usize>,
    block: usize,
    /// Where the first of them lies in the rank's share of the block.
    at: usize,
}

/// Consecutive elements of one group in this rank's share of its block.
#[derive(Clone, PartialEq)]
pub(crate) struct Piece {
    block: usize,
    place: Range<usize>,
    /// Whether the group has two dimensions.
    pub(crate) matrix: bool,
}

/// Blocks in canonical order, and what one rank keeps of them.
#[derive(Clone, PartialEq)]
pub(crate) struct Packing {
    /// Names and lengths of the canonical tensors.
    tensors: Vec<(String, usize)>,
    /// Where each of them lies: its block, and which of the block's elements.
    places: Vec<(usize, Range<usize>)>,
    blocks: Vec<Block>,
    spans: Vec<Span>,
    pieces: Vec<Piece>,
    size: usize,
}

impl Packing {
    /// The share of rank `rank` of `size`.
    pub(crate) fn new(architecture: &Architecture, rank: usize, size: usize) -> Self {
        let tensors: Vec<_> = architecture.tensors().into_iter().map(|(spec, _)| spec).collect();
        let last: &[usize] = if architecture.tied_embeddings { &[1] } else { &[1, 1] };
        let layers = (0..architecture.layers).map(|_| LAYER.as_slice());
        let blocks: Vec<&[usize]> = std::iter::once([1].as_slice()).chain(layers).chain([last]).collect();
        let mut packing = Self { tensors: Vec::new(), places: Vec::new(), blocks: Vec::new(), spans: Vec::new(), pieces: Vec::new(), size };
        let mut specs = tensors.iter();
        for counts in blocks {
            let (block, first_tensor, mut start, mut groups) = (packing.blocks.len(), packing.tensors.len(), 0, Vec::new());
            for &count in counts {
                let members: Vec<_> = specs.by_ref().take(count).collect();
                let mut shape: Vec<i64> = members[0].shape.iter().map(|&d| d as i64).collect();
                shape[0] = members.iter().map(|spec| spec.shape[0] as i64).sum();
                let first = start;
                for spec in members {
                    packing.places.push((block, start..start + spec.len()));
                    packing.tensors.push((spec.name.clone(), spec.len()));
                    start += spec.len();
                }
                groups.push(Group { shape, place: first..start });
                start = start.next_multiple_of(ALIGNMENT);
            }
            let share = start.div_ceil(size).next_multiple_of(ALIGNMENT);
            let own = rank * share..(rank + 1) * share;
            let places = packing.places.iter().enumerate().skip(first_tensor);
            packing.spans.extend(places.filter_map(|(tensor, (_, place))| span(block, tensor, place, &own)));
            packing.pieces.extend(groups.iter().filter_map(|group| piece(block, group, &own)));
            packing.blocks.push(Block { groups, share });
        }
        packing
    }

    /// Number of blocks: the layers and two.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Elements of all tensors together.
    pub(crate) fn elements(&self) -> usize {
        self.tensors.iter().map(|(_, len)| len).sum()
    }

    /// This rank's share of each block, f32 [share], zero.
    pub(crate) fn zeros(&self, device: Device) -> Result<Vec<Tensor>, TchError> {
        self.blocks.iter().map(|block| Tensor::f_zeros([block.share as i64], (Kind::Float, device))).collect()
    }

    /// Canonical tensors of zeros.
    pub(crate) fn blank(&self) -> Vec<Vec<f32>> {
        self.tensors.iter().map(|(_, len)| vec![0.0; *len]).collect()
    }

    /// Refuses tensors that are not the canonical ones in number or length.
    pub(crate) fn check(&self, canonical: &[Vec<f32>]) -> Result<(), ModelError> {
        self.check_number(canonical.len())?;
        match self.tensors.iter().zip(canonical).find(|((_, len), data)| *len != data.len()) {
            Some(((name, expected), data)) => Err(ModelError::Shape { what: name.clone(), found: data.len(), expected: *expected }),
            None => Ok(()),
        }
    }

    /// Refuses changes that are not one list per canonical tensor, of elements that it has, ascending.
    pub(crate) fn check_changes(&self, changes: &[Vec<(usize, f32)>]) -> Result<(), ModelError> {
        self.check_number(changes.len())?;
        self.tensors.iter().zip(changes).try_for_each(|((name, len), changes)| check_elements(name, *len, changes))
    }

    fn check_number(&self, found: usize) -> Result<(), ModelError> {
        let expected = self.tensors.len();
        if found == expected { Ok(()) } else { Err(ModelError::Shape { what: "number of tensors".into(), found, expected }) }
    }

    /// Refuses another architecture's, or another rank's.
    pub(crate) fn check_same(&self, other: &Self) -> Result<(), ModelError> {
        let (found, expected) = (other.elements(), self.elements());
        if self == other { Ok(()) } else { Err(ModelError::Shape { what: "parameters of another architecture".into(), found, expected }) }
    }

    /// The canonical tensors' elements in this rank's shares, each with a flat view of them.
    pub(crate) fn spans<'a>(&'a self, shares: &[Tensor]) -> Result<Vec<(&'a Span, Tensor)>, TchError> {
        let view = |span: &Span| shares[span.block].f_narrow(0, span.at as i64, span.elements.len() as i64);
        self.spans.iter().map(|span| Ok((span, view(span)?))).collect()
    }

    /// The groups' elements in this rank's shares, each as a flat view.
    pub(crate) fn pieces<'a>(&'a self, shares: &[Tensor]) -> Result<Vec<(&'a Piece, Tensor)>, TchError> {
        self.pieces.iter().map(|piece| Ok((piece, piece.of(&shares[piece.block])?))).collect()
    }

    /// [`Packing::pieces`] of one block.
    pub(crate) fn pieces_of(&self, block: usize, share: &Tensor) -> Result<Vec<Tensor>, TchError> {
        self.pieces.iter().filter(|piece| piece.block == block).map(|piece| piece.of(share)).collect()
    }

    /// The canonical tensors of a block, by number, and which of its elements they are.
    pub(crate) fn places(&self, block: usize) -> impl Iterator<Item = (usize, &Range<usize>)> {
        self.places.iter().enumerate().filter(move |(_, (of, _))| *of == block).map(|(tensor, (_, place))| (tensor, place))
    }

    /// The groups of a block whose shares lie end to end, in the shapes that are computed with.
    pub(crate) fn groups(&self, block: usize, whole: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let view = |group: &Group| whole.f_narrow(0, group.place.start as i64, group.place.len() as i64)?.f_view(&*group.shape);
        self.blocks[block].groups.iter().map(view).collect()
    }

    /// The groups of a block, f32, laid into all ranks' shares end to end, with zeros where nothing lies.
    pub(crate) fn join(&self, block: usize, groups: &[Tensor]) -> Result<Tensor, TchError> {
        let Block { groups: places, share } = &self.blocks[block];
        let whole = Tensor::f_zeros([(share * self.size) as i64], (Kind::Float, groups[0].device()))?;
        for (group, Group { place, .. }) in groups.iter().zip(places) {
            whole.f_narrow(0, place.start as i64, place.len() as i64)?.f_copy_(&group.f_reshape([-1])?)?;
        }
        Ok(whole)
    }

    /// Overwrites this rank's shares with what it keeps of [checked](Self::check) tensors.
    pub(crate) fn load(&self, canonical: &[Vec<f32>], shares: &[Tensor]) -> Result<(), TchError> {
        for (span, mut view) in self.spans(shares)? {
            ffi::copy_from_slice(&mut view, &canonical[span.tensor][span.elements.clone()])?;
        }
        Ok(())
    }

    /// Overwrites what this rank keeps of the canonical tensors.
    pub(crate) fn unload(&self, shares: &[Tensor], canonical: &mut [Vec<f32>]) -> Result<(), TchError> {
        for (span, view) in self.spans(shares)? {
            ffi::copy_to_slice(&view, &mut canonical[span.tensor][span.elements.clone()])?;
        }
        Ok(())
    }
}

impl Piece {
    fn of(&self, share: &Tensor) -> Result<Tensor, TchError> {
        share.f_narrow(0, self.place.start as i64, self.place.len() as i64)
    }
}

/// The part of `place` that lies in `own`; `None` if that is nothing.
fn overlap(place: &Range<usize>, own: &Range<usize>) -> Option<Range<usize>> {
    let both = place.start.max(own.start)..place.end.min(own.end);
    (!both.is_empty()).then_some(both)
}

fn span(block: usize, tensor: usize, place: &Range<usize>, own: &Range<usize>) -> Option<Span> {
    let both = overlap(place, own)?;
    let elements = both.start - place.start..both.end - place.start;
    Some(Span { tensor, elements, block, at: both.start - own.start })
}

fn piece(block: usize, group: &Group, own: &Range<usize>) -> Option<Piece> {
    let both = overlap(&group.place, own)?;
    Some(Piece { block, place: both.start - own.start..both.end - own.start, matrix: group.shape.len() >= 2 })
}

fn check_elements(name: &str, len: usize, changes: &[(usize, f32)]) -> Result<(), ModelError> {
    let mut least = 0;
    for &(element, _) in changes {
        if element >= len {
            return Err(ModelError::Element { tensor: name.to_owned(), element, len });
        }
        if element < least {
            return Err(ModelError::Order { tensor: name.to_owned(), element, previous: least - 1 });
        }
        least = element + 1;
    }
    Ok(())
}
