//! From θ before and after the inner steps to a payload: what `cuda/encode.cu` needs to know, prepared.

use std::io::Write;

use compression::{CHUNK_ELEMENTS, Codec, EncodeError, Format, Header, Part, Quantizer, Select, write_sections};

use crate::KernelError;
use crate::elements::{Elements, Float, check_tensors};
use crate::machine::{Argument, Fault, Machine, Memory, Place};
use crate::part::{Grid, is_aligned, section_starts};

/// A pseudo-gradient and error feedback in a machine's memory; each one tensor after the other in layout order.
#[derive(Clone, Debug)]
pub struct PseudoGradient {
    /// θ before the inner steps, f32 or bf16.
    pub before: Vec<Elements>,
    /// θ after them, of the same type.
    pub after: Vec<Elements>,
    /// Error feedback, f32 or bf16.
    pub feedback: Vec<Elements>,
    /// Gets the next error feedback, of the same type; may be the memory of `feedback`.
    pub next_feedback: Vec<Elements>,
}

/// Values of a chunk for which there is a kernel that selects them while many blocks share a multiprocessor, its `FEW`.
const FEW: usize = 512;

/// What one launch works on.
pub(crate) struct Launch {
    /// Of θ and of error feedback.
    floats: [Float; 2],
    grid: Grid,
    jobs: Vec<u8>,
    /// Values that are selected of a chunk, at most.
    most: usize,
    /// Of each part, the tensor.
    tensors: Vec<usize>,
}

/// A launch whose end nobody has waited for.
pub(crate) struct Running {
    fault: Fault,
    tensors: Vec<usize>,
    /// What the kernel reads.
    _memory: [Memory; 2],
}

impl Launch {
    /// A launch without parts, for θ and error feedback of these types.
    pub fn new(floats: [Float; 2]) -> Self {
        Self { floats, grid: Grid::default(), jobs: Vec::new(), most: 0, tensors: Vec::new() }
    }

    /// Adds a part: addresses of its first element before, after, of error feedback and of the next one; and of its section.
    pub fn add(&mut self, part: &Part, elements: [u64; 4], section: u64) -> Result<(), KernelError> {
        let [theta, feedback] = self.floats;
        let is_aligned = elements.into_iter().zip([theta, theta, feedback, feedback]).all(|(address, float)| is_aligned(address, float));
        self.jobs.extend(self.grid.add(part, is_aligned)?);
        self.most = self.most.max(part.codec.chunk_k(CHUNK_ELEMENTS));
        self.jobs.extend(elements.into_iter().chain([section]).flat_map(u64::to_le_bytes));
        self.tensors.push(part.tensor);
        Ok(())
    }

    /// Chunks added.
    pub fn blocks(&self) -> u32 {
        self.grid.blocks()
    }

    /// Starts the kernel; waits for nothing.
    ///
    /// # Safety
    /// At the addresses of each part are all elements of its chunks, in the launch's types, and all bytes of its section. Until the kernel has ended, nobody
    /// else uses what it writes or writes what it reads, but for work that the machine's order puts behind it.
    pub unsafe fn start(self, machine: &dyn Machine, beta: f32) -> Result<Running, KernelError> {
        let (jobs, owner, fault) = (machine.put(self.jobs)?, machine.put(self.grid.owner())?, Fault::none(machine)?);
        let [on_jobs, on_owner, on_tables, on_fault] =
            [&jobs, &owner, machine.tables(), &fault.0].map(|memory| Argument::Address(memory.address));
        let arguments = [on_jobs, on_owner, Argument::F32(beta), on_tables, on_fault];
        // SAFETY: these are the arguments of the kernels `encode_*`. They read and write the elements of the parts' chunks in the types that the kernel is
        // called after, and write the bytes of the parts in their sections, for which the caller vouches. `Running` keeps the rest.
        unsafe { machine.run(kernel(self.floats, self.most), self.grid.blocks(), &arguments)? };
        Ok(Running { fault, tensors: self.tensors, _memory: [jobs, owner] })
    }
}

impl Running {
    /// Waits for the kernel. The number of a tensor that was not finite.
    pub fn finish(self, machine: &dyn Machine) -> Result<Option<usize>, KernelError> {
        Ok(self.fault.read(machine)?.map(|part| self.tensors[part]))
    }
}

/// Refuses a format that only the CPU can encode.
pub(crate) fn check_codecs(format: &Format) -> Result<(), KernelError> {
    format.codecs().iter().find(|codec| !is_supported(codec)).map_or(Ok(()), |codec| Err(KernelError::Codec(*codec)))
}

/// The refusal of a tensor that is not finite.
pub(crate) fn not_finite(format: &Format, tensor: usize) -> KernelError {
    EncodeError::NonFinite(format.layout().tensors()[tensor].name.clone()).into()
}

/// The sections of [`compression::encode`]'s payload, in memory's form and one behind the other; error feedback moves on.
pub(crate) fn sections(machine: &dyn Machine, format: &Format, gradient: &PseudoGradient, beta: f32) -> Result<Vec<u8>, KernelError> {
    check_codecs(format)?;
    let [theta, feedback] = [&gradient.before, &gradient.feedback].map(|tensors| tensors.first().map_or(Float::F32, Elements::float));
    let tensors =
        [(&gradient.before, theta), (&gradient.after, theta), (&gradient.feedback, feedback), (&gradient.next_feedback, feedback)];
    tensors.into_iter().try_for_each(|(tensors, float)| check_tensors(format.layout(), tensors, float))?;
    let (starts, bytes) = section_starts(format, 0..format.sections());
    let sections = machine.zeros(bytes, Place::Device)?;
    let mut launch = Launch::new([theta, feedback]);
    for (section, start) in starts.into_iter().enumerate() {
        for part in format.parts(section) {
            let elements = tensors.map(|(tensors, _)| tensors[part.tensor].address_of(part.start()));
            launch.add(part, elements, sections.address + start as u64)?;
        }
    }
    // SAFETY: the tensors have the elements of all parts, `sections` the bytes; whoever made `gradient` lends the former, and the latter are this function's.
    let running = unsafe { launch.start(machine, beta)? };
    match running.finish(machine)? {
        None => machine.get(&sections),
        Some(tensor) => Err(not_finite(format, tensor)),
    }
}

/// The payload of [`sections`], coded as it is sent by all cores.
pub(crate) fn encode_to<W: Write>(
    machine: &dyn Machine,
    write: W,
    format: &Format,
    header: &Header,
    gradient: &PseudoGradient,
    beta: f32,
) -> Result<W, KernelError> {
    let sections = sections(machine, format, gradient, beta)?;
    let (starts, _) = section_starts(format, 0..format.sections());
    let section = |number: usize| &sections[starts[number]..][..format.section_bytes(number)];
    Ok(write_sections(write, format, header, section).map_err(EncodeError::Io)?)
}

/// Top-k with a scale per chunk. The reference quantizer depends on whole tensors, and group-max is there to be compared with.
pub(crate) fn is_supported(codec: &Codec) -> bool {
    matches!(codec.select, Select::TopK { .. }) && codec.quantizer != Quantizer::Reference
}

/// The kernel for these types that selects at most so many values of a chunk.
fn kernel(floats: [Float; 2], most: usize) -> &'static str {
    match (floats, most <= FEW) {
        ([Float::F32, Float::F32], true) => "encode_f32_f32",
        ([Float::F32, Float::Bf16], true) => "encode_f32_bf16",
        ([Float::Bf16, Float::F32], true) => "encode_bf16_f32",
        ([Float::Bf16, Float::Bf16], true) => "encode_bf16_bf16",
        ([Float::F32, Float::F32], false) => "encode_any_f32_f32",
        ([Float::F32, Float::Bf16], false) => "encode_any_f32_bf16",
        ([Float::Bf16, Float::F32], false) => "encode_any_bf16_f32",
        ([Float::Bf16, Float::Bf16], false) => "encode_any_bf16_bf16",
    }
}
