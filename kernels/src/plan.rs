//! What the kernel needs to know about a record: pure preparation, the same for a device and for the tests on the CPU.

use compression::{
    Format, Indices, MergeOver, Part, Quantizer, Rule, Select, State, TransitionError, Weighted, check_record, clip_factors, norms,
};

use crate::KernelError;

/// A part of a tensor as a matrix of tiles, how it is coded and how it steps: the kernel's `Task`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// Rows, columns, rows and columns of a tile.
    pub shape: [u64; 4],
    pub payloads: u64,
    /// Where table, scale codes, value codes and indices start in a section.
    pub offsets: [u64; 4],
    /// K or the elements of a group, selector, quantizer.
    pub codec: [u32; 3],
    pub lr: f32,
    pub over_all: f32,
    pub padding: u32,
}

impl Task {
    fn new(part: &Part, payloads: usize, lr: f32, over_all: f32) -> Self {
        let (parameter, select) = match part.codec.select {
            Select::TopK { k, indices: Indices::Packed12 } => (k.into(), 0),
            Select::TopK { k, .. } => (k.into(), 1),
            Select::GroupMax { group } => (group.elements() as u32, 2),
        };
        let quantizer = match part.codec.quantizer {
            Quantizer::Sign2 => 0,
            Quantizer::Sign1 => 1,
            Quantizer::Reference => 2,
        };
        Self {
            shape: part.grid.matrix().map(|size| size as u64),
            payloads: payloads as u64,
            offsets: part.offsets().map(|offset| offset as u64),
            codec: [parameter, select, quantizer],
            lr,
            over_all,
            padding: 0,
        }
    }

    /// Elements of the part.
    pub fn elements(&self) -> u64 {
        self.shape[0] * self.shape[1]
    }

    /// Blocks of the launch, one per chunk; `None` if they are too many for one.
    pub fn blocks(&self) -> Option<u32> {
        let [rows, cols, tile_rows, tile_cols] = self.shape;
        i32::try_from(rows.div_ceil(tile_rows) * cols.div_ceil(tile_cols)).ok().map(i32::cast_unsigned)
    }
}

/// Where one payload's section starts, and what the payload counts for: the kernel's `Source`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub section: u64,
    /// Weight times clip factor.
    pub factor: f32,
    pub weight: f32,
}

/// One launch: some rows of a tensor.
pub(crate) struct Launch {
    pub task: Task,
    /// The section of each payload, in record order.
    pub sources: Vec<Source>,
}

/// A checked record, ready for the kernel.
pub(crate) struct Plan {
    /// All payloads' sections, one behind the other.
    pub bytes: Vec<u8>,
    /// Per tensor in layout order, its parts in order: together they are its elements.
    pub tensors: Vec<Vec<Launch>>,
}

impl Plan {
    fn new(format: &Format, payloads: &[Weighted<'_>], rule: &Rule) -> Self {
        let norms: Vec<Vec<f64>> = payloads.iter().map(|entry| norms(entry.payload)).collect();
        let over_all = match rule.over {
            MergeOver::Senders => 0.0,
            MergeOver::All => payloads.iter().fold(0.0, |sum, entry| sum + entry.weight),
        };
        let mut plan = Self { bytes: Vec::new(), tensors: format.codecs().iter().map(|_| Vec::new()).collect() };
        for section in 0..format.sections() {
            let mut append = |entry: &Weighted<'_>| {
                let start = plan.bytes.len() as u64;
                plan.bytes.extend_from_slice(entry.payload.section(section));
                start
            };
            let starts: Vec<u64> = payloads.iter().map(&mut append).collect();
            for part in format.parts(section) {
                let of_tensor: Vec<f64> = norms.iter().map(|of_payload| of_payload[part.tensor]).collect();
                let entries = payloads.iter().zip(&starts).zip(clip_factors(&of_tensor));
                let source = |((entry, &section), clip): ((&Weighted<'_>, &u64), f32)| Source {
                    section,
                    factor: entry.weight * clip,
                    weight: entry.weight,
                };
                let task = Task::new(part, payloads.len(), rule.lr, over_all);
                plan.tensors[part.tensor].push(Launch { task, sources: entries.map(source).collect() });
            }
        }
        plan
    }
}

/// Computes the tensors after a plan's step from those before.
pub(crate) trait Step {
    fn step(&self, plan: &Plan, tensors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, KernelError>;
}

/// [`compression::transition`] with its arithmetic done by `step`; the same checks, the same errors, but for the lossy merges that only the CPU can do.
pub(crate) fn transition(step: &impl Step, state: &mut State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), KernelError> {
    check_record(state, payloads, rule)?;
    if rule.resparsify.is_some() {
        return Err(KernelError::Lossy);
    }
    if let Some(first) = payloads.first() {
        let stepped = step.step(&Plan::new(first.payload.format(), payloads, rule), state.tensors())?;
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
