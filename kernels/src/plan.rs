//! What the kernel needs to know about a record: pure preparation, the same for a device and for the tests on the CPU.

use compression::{CHUNK_ELEMENTS, MergeOver, Rule, State, TILE, TransitionError, Weighted, check_record, clip_factors, norms};

use crate::KernelError;

/// One tensor as a matrix of tiles, and how it steps: the kernel's `Task`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub rows: u64,
    pub cols: u64,
    pub tile_rows: u64,
    pub tile_cols: u64,
    pub payloads: u64,
    pub lr: f32,
    pub over_all: f32,
}

impl Task {
    /// A 1-D tensor is a matrix of one row, cut into runs.
    fn new(shape: &[usize], payloads: usize, lr: f32, over_all: f32) -> Self {
        let len: usize = shape.iter().product();
        let [rows, cols, tile_rows, tile_cols] = match shape {
            [_, .., last] => [len / last, *last, TILE, TILE],
            _ => [1, len, 1, CHUNK_ELEMENTS],
        }
        .map(|size| size as u64);
        Self { rows, cols, tile_rows, tile_cols, payloads: payloads as u64, lr, over_all }
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> u64 {
        self.rows * self.cols
    }

    /// Blocks of the launch, one per chunk; `None` if they are too many for one.
    pub fn blocks(&self) -> Option<u32> {
        let chunks = self.rows.div_ceil(self.tile_rows) * self.cols.div_ceil(self.tile_cols);
        i32::try_from(chunks).ok().map(i32::cast_unsigned)
    }
}

/// Where one payload's sections of one tensor start, how it is coded, and what it counts for: the kernel's `Source`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub sections: [u64; 3],
    pub k: u64,
    /// Weight times clip factor.
    pub factor: f32,
    pub weight: f32,
}

/// A checked record, ready for the kernel.
pub(crate) struct Plan {
    /// All payloads, one behind the other.
    pub bytes: Vec<u8>,
    /// Per tensor in layout order, its sources in record order.
    pub tensors: Vec<(Task, Vec<Source>)>,
}

impl Plan {
    fn new(state: &State, payloads: &[Weighted<'_>], rule: &Rule) -> Self {
        let norms: Vec<Vec<f64>> = payloads.iter().map(|entry| norms(entry.payload)).collect();
        let over_all = match rule.over {
            MergeOver::Senders => 0.0,
            MergeOver::All => payloads.iter().fold(0.0, |sum, entry| sum + entry.weight),
        };
        let mut bytes = Vec::new();
        let start = |entry: &Weighted<'_>| {
            let start = bytes.len();
            bytes.extend_from_slice(entry.payload.bytes());
            start
        };
        let starts: Vec<usize> = payloads.iter().map(start).collect();
        let plan_tensor = |(tensor, spec): (usize, &compression::TensorSpec)| {
            let of_tensor: Vec<f64> = norms.iter().map(|of_payload| of_payload[tensor]).collect();
            let entries = payloads.iter().zip(&starts).zip(clip_factors(&of_tensor));
            let sources = entries.map(|((&Weighted { payload, weight }, start), clip)| Source {
                sections: payload.sections(tensor).map(|offset| (start + offset) as u64),
                k: payload.codec().k.into(),
                factor: weight * clip,
                weight,
            });
            (Task::new(&spec.shape, payloads.len(), rule.lr, over_all), sources.collect())
        };
        let tensors = state.layout().tensors().iter().enumerate().map(plan_tensor).collect();
        Self { bytes, tensors }
    }
}

/// Computes the tensors after a plan's step from those before.
pub(crate) trait Step {
    fn step(&self, plan: &Plan, tensors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, KernelError>;
}

/// [`compression::transition`] with its arithmetic done by `step`; the same checks, the same errors.
pub(crate) fn transition(step: &impl Step, state: &mut State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), KernelError> {
    check_record(state, payloads)?;
    if !payloads.is_empty() {
        let stepped = step.step(&Plan::new(state, payloads, rule), state.tensors())?;
        for (spec, theta) in state.layout().tensors().iter().zip(&stepped) {
            if !theta.iter().all(|v| v.is_finite()) {
                return Err(TransitionError::NonFinite(spec.name.clone()).into());
            }
        }
        state.tensors_mut().iter_mut().zip(stepped).for_each(|(theta, next)| *theta = next);
    }
    state.round += 1;
    Ok(())
}
