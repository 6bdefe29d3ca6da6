//! Matrices by rows of (column, value). An entry of value 0 is not the same as none: see [`bonds`](super::bonds).

use super::Fixed;

/// One row for each validator, with entries for miners in the order in which the chain stores them.
pub(super) type Rows = Vec<Vec<(usize, Fixed)>>;

/// `f` of (row, column, value) in place of each value.
pub(super) fn map(rows: &Rows, mut f: impl FnMut(usize, usize, Fixed) -> Fixed) -> Rows {
    let mapped = |(i, row): (usize, &Vec<(usize, Fixed)>)| row.iter().map(|&(j, x)| (j, f(i, j, x))).collect();
    rows.iter().enumerate().map(mapped).collect()
}

/// The entries that `keep` says, by (row, column).
pub(super) fn filter(rows: Rows, keep: impl Fn(usize, usize) -> bool) -> Rows {
    let kept = |(i, mut row): (usize, Vec<(usize, Fixed)>)| {
        row.retain(|&(j, _)| keep(i, j));
        row
    };
    rows.into_iter().enumerate().map(kept).collect()
}

/// A row with all its `n` columns.
pub(super) fn dense(row: &[(usize, Fixed)], n: usize) -> Vec<Fixed> {
    let mut dense = vec![Fixed::ZERO; n];
    for &(j, x) in row {
        dense[j] = x;
    }
    dense
}

/// x over its sum; all zeros stay zeros.
pub(super) fn normalized(x: Vec<Fixed>) -> Vec<Fixed> {
    let sum: Fixed = x.iter().copied().sum();
    if sum == Fixed::ZERO { x } else { x.into_iter().map(|x| x.over(sum)).collect() }
}

/// Each row over its sum.
pub(super) fn normalized_rows(rows: &Rows) -> Rows {
    let sums = row_sums(rows);
    map(rows, |i, _, x| if sums[i] > Fixed::ZERO { x.over(sums[i]) } else { x })
}

/// Each column over its sum.
pub(super) fn normalized_columns(rows: &Rows) -> Rows {
    scaled_columns(rows, |sum, x| *sum = *sum + x)
}

/// Each column over its largest value.
pub(super) fn upscaled_columns(rows: &Rows) -> Rows {
    scaled_columns(rows, |largest, x| *largest = x.max(*largest))
}

/// Each column over what `fold` makes of it.
fn scaled_columns(rows: &Rows, fold: impl Fn(&mut Fixed, Fixed)) -> Rows {
    let mut scales = vec![Fixed::ZERO; rows.len()];
    for &(j, x) in rows.iter().flatten() {
        fold(&mut scales[j], x);
    }
    map(rows, |_, j, x| if scales[j] == Fixed::ZERO { x } else { x.over(scales[j]) })
}

/// Σ_j x_ij.
pub(super) fn row_sums(rows: &Rows) -> Vec<Fixed> {
    rows.iter().map(|row| row.iter().map(|&(_, x)| x).sum()).collect()
}

/// Σ_i v_i x_ij.
pub(super) fn weighted_columns(rows: &Rows, v: &[Fixed]) -> Vec<Fixed> {
    let mut sums = vec![Fixed::ZERO; v.len()];
    for (row, &v) in rows.iter().zip(v) {
        for &(j, x) in row {
            sums[j] = sums[j] + v * x;
        }
    }
    sums
}

/// Σ_j x_ij v_j.
pub(super) fn weighted_rows(rows: &Rows, v: &[Fixed]) -> Vec<Fixed> {
    rows.iter().map(|row| row.iter().map(|&(j, x)| x * v[j]).sum()).collect()
}
