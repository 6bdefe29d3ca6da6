//! Plain selection from dense vectors, for values that are sent as they are: no payload can hold these.

use compression::Grid;

use crate::coding::{Select, SentChunk};

/// Selects values of one tensor, and takes them away from it.
pub fn send(grid: &Grid, tensor: &mut [f32], select: Select) -> Vec<SentChunk> {
    let pick = |number| {
        let chunk = grid.chunk(number);
        let elements: Vec<f32> = chunk.rows().flat_map(|row| tensor[row].iter().copied()).collect();
        let indices = match select {
            Select::TopK(_) => top_k(&elements, select.count(elements.len())),
            Select::GroupMax(group) => group_max(&elements, group.into()),
        };
        let values = indices.iter().map(|&i| elements[usize::from(i)]).collect();
        SentChunk { indices, values, ..SentChunk::default() }
    };
    let chunks: Vec<SentChunk> = (0..grid.chunks()).map(pick).collect();
    for (number, sent) in chunks.iter().enumerate() {
        let chunk = grid.chunk(number);
        for (&index, &value) in sent.indices.iter().zip(&sent.values) {
            tensor[chunk.position(index.into())] -= value;
        }
    }
    chunks
}

fn top_k(elements: &[f32], k: usize) -> Vec<u16> {
    let key = |i: u16| (std::cmp::Reverse(elements[usize::from(i)].abs().to_bits()), i);
    let mut order: Vec<u16> = (0..elements.len() as u16).collect();
    order.select_nth_unstable_by_key(k - 1, |&i| key(i));
    order.truncate(k);
    order.sort_unstable();
    order
}

fn group_max(elements: &[f32], group: usize) -> Vec<u16> {
    let largest = |(number, part): (usize, &[f32])| {
        let best = (1..part.len()).fold(0, |best, i| if part[i].abs() > part[best].abs() { i } else { best });
        (number * group + best) as u16
    };
    elements.chunks(group).enumerate().map(largest).collect()
}
