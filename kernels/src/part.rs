//! What the kernels know about a part of a tensor, and which block works on what.

use std::ops::Range;

use compression::{CHUNK_ELEMENTS, Format, Indices, Part, Quantizer, Select};

use crate::KernelError;
use crate::elements::Float;

/// The parts of one launch in the order in which they were added, and a block for each of their chunks.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    owner: Vec<u32>,
    parts: u32,
}

impl Grid {
    /// Adds a part. Returns the kernels' `Part`, as 32-bit numbers. All fit: a part has at most 1024 chunks, or is one row of tiles of at most 2^24
    /// columns. `is_aligned` says whether its first element's address is a multiple of a group's bytes in every tensor.
    ///
    /// # Errors
    /// [`KernelError::TooManyChunks`].
    pub fn add(&mut self, part: &Part, is_aligned: bool) -> Result<Vec<u8>, KernelError> {
        let first_block = self.owner.len();
        let blocks = first_block + part.grid.chunks();
        if i32::try_from(blocks).is_err() {
            return Err(KernelError::TooManyChunks);
        }
        self.owner.resize(blocks, self.parts);
        self.parts += 1;
        let (select, group) = match part.codec.select {
            Select::TopK { indices: Indices::Packed12, .. } => (0, 0),
            Select::TopK { .. } => (1, 0),
            Select::GroupMax { group } => (2, group.elements()),
        };
        let quantizer = match part.codec.quantizer {
            Quantizer::Sign2 => 0,
            Quantizer::Sign1 => 1,
            Quantizer::Reference => 2,
        };
        let [rows, cols, tile_rows, tile_cols] = part.grid.matrix();
        let shape = [rows, cols, tile_rows, tile_cols, cols.div_ceil(tile_cols)];
        let numbers = shape
            .into_iter()
            .chain(part.offsets())
            .chain([select, group, quantizer])
            .chain(codings(part, is_aligned))
            .chain([first_block, 0]);
        Ok(numbers.flat_map(|number| (number as u32).to_le_bytes()).collect())
    }

    /// Blocks of the launch.
    pub fn blocks(&self) -> u32 {
        self.owner.len() as u32
    }

    /// The number of each block's part, u32.
    pub fn owner(&self) -> Vec<u8> {
        self.owner.iter().flat_map(|part| part.to_le_bytes()).collect()
    }
}

/// Elements that a thread reads and writes together, the kernels' `GROUP`.
const GROUP: usize = 4;

/// Whether a group of elements at an address of this type can be read at once.
pub(crate) fn is_aligned(address: u64, float: Float) -> bool {
    address.is_multiple_of((GROUP * float.bytes()) as u64)
}

/// The kernels' `Coding` of a chunk in any row of tiles but the last and in the last one, each in any tile but the last and in the last one.
fn codings(part: &Part, is_aligned: bool) -> impl Iterator<Item = usize> {
    let codec = part.codec;
    let [rows, cols, tile_rows, tile_cols] = part.grid.matrix();
    let sizes = |all: usize, tile: usize| [tile.min(all), all - (all.div_ceil(tile) - 1) * tile];
    let (heights, widths) = (sizes(rows, tile_rows), sizes(cols, tile_cols));
    let at_once = move |[height, width]: [usize; 2]| {
        let is_side_by_side = height == 1 || (width == 64 && cols % GROUP == 0);
        is_aligned && is_side_by_side && height * width == CHUNK_ELEMENTS
    };
    let shapes = heights.into_iter().flat_map(move |height| widths.map(|width| [height, width]));
    shapes.flat_map(move |shape| {
        let elements = shape[0] * shape[1];
        let sizes = [codec.chunk_k(elements), codec.index_bits(elements) as usize, codec.code_bytes(elements), codec.index_bytes(elements)];
        sizes.into_iter().chain([at_once(shape).into()])
    })
}

/// Where each of some sections starts in memory that holds them one behind the other; and how long that is.
pub(crate) fn section_starts(format: &Format, sections: Range<usize>) -> (Vec<usize>, usize) {
    let mut end = 0;
    let start = |section| {
        let start = end;
        end += format.section_bytes(section);
        start
    };
    (sections.map(start).collect(), end)
}
