//! How a tensor is cut into chunks of at most 4096 elements, each with its own scale and its own share of selected values.

use std::ops::Range;

/// Elements of a full chunk.
pub const CHUNK_ELEMENTS: usize = 4096;
/// Side of a full square tile; `TILE * TILE == CHUNK_ELEMENTS`.
pub const TILE: usize = 64;

/// A tensor's chunk grid.
///
/// A tensor of two or more dimensions is viewed as a matrix `[product of the leading dimensions, last dimension]` and cut into
/// 64×64 tiles, tile row by tile row; tiles at the right and lower edge are smaller. A 1-D tensor is cut into runs of 4096, the last
/// one shorter. The chunks of one tile row, a *band*, cover one contiguous run of elements, so that bands can be worked on in parallel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    len: usize,
    row: usize,
    tile_rows: usize,
    tile_cols: usize,
}

/// One chunk: a `height` × `width` window into row-major elements. Index `i` within it is row `i / width`, column `i % width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Position of the first element.
    pub start: usize,
    /// Distance between the first elements of two rows.
    pub stride: usize,
    /// Rows, 1 to 64.
    pub height: usize,
    /// Columns, 1 to 64 (1 to 4096 in a 1-D tensor).
    pub width: usize,
}

impl Chunk {
    /// Number of elements, 1 to 4096.
    pub fn elements(&self) -> usize {
        self.height * self.width
    }

    /// Where element `index` of the chunk lies.
    pub fn position(&self, index: usize) -> usize {
        self.start + index / self.width * self.stride + index % self.width
    }

    /// The chunk's rows as ranges of positions, in the order of its indices.
    pub fn rows(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.height).map(move |row| {
            let start = self.start + row * self.stride;
            start..start + self.width
        })
    }
}

impl Grid {
    /// The grid of a tensor of `shape`; every size is at least 1, as a [`crate::Layout`] guarantees.
    pub fn new(shape: &[usize]) -> Self {
        let len = shape.iter().product();
        match shape {
            [_, .., last] => Self { len, row: *last, tile_rows: TILE, tile_cols: TILE },
            _ => Self { len, row: CHUNK_ELEMENTS, tile_rows: 1, tile_cols: CHUNK_ELEMENTS },
        }
    }

    /// The grid that the deployed reference cuts: tiles and runs of the largest divisors up to 64, so that all chunks are whole.
    pub fn reference(shape: &[usize]) -> Self {
        let len = shape.iter().product();
        let divisor = |size: usize| (1..=TILE).rev().find(|d| size.is_multiple_of(*d)).unwrap_or(1);
        match shape {
            [_, .., last] => Self { len, row: *last, tile_rows: divisor(len / last), tile_cols: divisor(*last) },
            _ => Self { len, row: divisor(len), tile_rows: 1, tile_cols: divisor(len) },
        }
    }

    /// Rows and columns of the tensor as a matrix, and of a tile; a 1-D tensor is one row.
    pub fn matrix(&self) -> [usize; 4] {
        if self.tile_rows == 1 && self.row == self.tile_cols {
            return [1, self.len, 1, self.tile_cols];
        }
        [self.len / self.row, self.row, self.tile_rows, self.tile_cols]
    }

    /// The grid of `bands` alone, as if they were a tensor.
    pub(crate) fn part(&self, bands: Range<usize>) -> Self {
        let start = bands.start * self.band_elements();
        Self { len: self.len.min(bands.end * self.band_elements()) - start, ..*self }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.len
    }

    /// Elements of every band but the last, which may be shorter.
    pub fn band_elements(&self) -> usize {
        self.row.saturating_mul(self.tile_rows)
    }

    /// Number of bands.
    pub fn bands(&self) -> usize {
        self.len.div_ceil(self.band_elements())
    }

    /// Chunks of every band.
    pub fn band_chunks(&self) -> usize {
        self.row.div_ceil(self.tile_cols)
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.bands() * self.band_chunks()
    }

    /// Chunk number `chunk`, its positions counted from the tensor's first element.
    pub fn chunk(&self, chunk: usize) -> Chunk {
        self.band_chunk(chunk / self.band_chunks(), chunk % self.band_chunks())
    }

    /// Chunk number `tile` of `band`, its positions counted from the tensor's first element.
    pub(crate) fn band_chunk(&self, band: usize, tile: usize) -> Chunk {
        let in_band = self.chunk_in_band(band, tile);
        Chunk { start: band * self.band_elements() + in_band.start, ..in_band }
    }

    /// Chunk number `tile` of `band`, its positions counted from the band's first element.
    pub fn chunk_in_band(&self, band: usize, tile: usize) -> Chunk {
        let elements = self.band_elements().min(self.len - band * self.band_elements());
        let height = (elements / self.row).max(1);
        let stride = elements / height;
        let start = tile * self.tile_cols;
        Chunk { start, stride, height, width: self.tile_cols.min(stride - start) }
    }

    /// The sum of `size(elements)` over all chunks before number `chunk`, in constant time.
    pub(crate) fn sum_before(&self, chunk: usize, size: impl Fn(usize) -> usize) -> usize {
        let (band, tile) = (chunk / self.band_chunks(), chunk % self.band_chunks());
        let bands_before = if band == 0 { 0 } else { band * self.sum_band(0, &size) };
        bands_before + tile * size(self.chunk_in_band(band, 0).elements())
    }

    /// The sum of `size(elements)` over the chunks of one band.
    pub(crate) fn sum_band(&self, band: usize, size: impl Fn(usize) -> usize) -> usize {
        let last = self.band_chunks() - 1;
        last * size(self.chunk_in_band(band, 0).elements()) + size(self.chunk_in_band(band, last).elements())
    }

    /// The sum of `size(elements)` over all chunks.
    pub(crate) fn sum(&self, size: impl Fn(usize) -> usize) -> usize {
        let last = self.chunks() - 1;
        self.sum_before(last, &size) + size(self.chunk(last).elements())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [&[usize]; 12] =
        [&[1], &[4095], &[4096], &[10_000], &[1, 1], &[64, 64], &[65, 64], &[64, 65], &[130, 200], &[3, 50, 7], &[500, 1], &[1, 9000]];

    #[test]
    fn every_element_is_in_exactly_one_chunk() {
        for shape in SHAPES {
            for grid in [Grid::new(shape), Grid::reference(shape)] {
                let mut seen = vec![0u8; grid.len];
                for number in 0..grid.chunks() {
                    let chunk = grid.chunk(number);
                    assert!((1..=CHUNK_ELEMENTS).contains(&chunk.elements()));
                    let by_rows: Vec<usize> = chunk.rows().flatten().collect();
                    let by_index: Vec<usize> = (0..chunk.elements()).map(|i| chunk.position(i)).collect();
                    assert_eq!(by_rows, by_index, "{shape:?}");
                    by_rows.into_iter().for_each(|position| seen[position] += 1);
                }
                assert!(seen.iter().all(|&count| count == 1), "{shape:?}");
            }
        }
    }

    #[test]
    fn sums_match_a_loop() {
        for shape in SHAPES {
            let grid = Grid::new(shape);
            let size = |n: usize| n * 7 + 3;
            let mut sum = 0;
            for number in 0..grid.chunks() {
                assert_eq!(grid.sum_before(number, size), sum, "{shape:?} chunk {number}");
                sum += size(grid.chunk(number).elements());
            }
            assert_eq!(grid.sum(size), sum);
        }
    }

    #[test]
    fn the_references_chunks_are_whole() {
        assert_eq!(Grid::reference(&[100, 75]).chunk(1), Chunk { start: 25, stride: 75, height: 50, width: 25 });
        assert_eq!(Grid::reference(&[128]).chunk(1), Chunk { start: 64, stride: 64, height: 1, width: 64 });
        assert_eq!(Grid::reference(&[67]).chunks(), 67);
    }

    #[test]
    fn a_part_is_the_same_chunks_from_its_own_start() {
        for shape in SHAPES {
            let grid = Grid::new(shape);
            let part = grid.part(grid.bands() / 2..grid.bands());
            let before = grid.chunks() - part.chunks();
            let start = grid.bands() / 2 * grid.band_elements();
            for number in 0..part.chunks() {
                let whole = grid.chunk(before + number);
                assert_eq!(part.chunk(number), Chunk { start: whole.start - start, ..whole }, "{shape:?}");
            }
        }
    }

    #[test]
    fn tiles_go_row_by_row() {
        let grid = Grid::new(&[2, 50, 130]);
        assert_eq!((grid.bands(), grid.band_chunks()), (2, 3));
        assert_eq!(grid.chunk(2), Chunk { start: 128, stride: 130, height: 64, width: 2 });
        assert_eq!(grid.chunk(3), Chunk { start: 64 * 130, stride: 130, height: 36, width: 64 });
    }
}
