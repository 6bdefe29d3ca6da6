//! From θ before and after the inner steps to a payload: what `cuda/encode.cu` needs to know, prepared.

use std::io::Write;

use compression::{Codec, EncodeError, Format, Header, Quantizer, Select, write_sections};

use crate::KernelError;
use crate::elements::{Elements, Float, check_tensors};
use crate::machine::{Argument, Machine, NO_FAULT, read_fault};
use crate::part::{Grid, section_starts};

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

/// The sections of [`compression::encode`]'s payload, in memory's form and one behind the other; error feedback moves on.
pub(crate) fn sections<M: Machine>(machine: &M, format: &Format, gradient: &PseudoGradient, beta: f32) -> Result<Vec<u8>, KernelError> {
    if let Some(codec) = format.codecs().iter().find(|codec| !is_supported(codec)) {
        return Err(KernelError::Codec(*codec));
    }
    let [theta, feedback] = [&gradient.before, &gradient.feedback].map(|tensors| tensors.first().map_or(Float::F32, Elements::float));
    let tensors =
        [(&gradient.before, theta), (&gradient.after, theta), (&gradient.feedback, feedback), (&gradient.next_feedback, feedback)];
    tensors.into_iter().try_for_each(|(tensors, float)| check_tensors(format.layout(), tensors, float))?;
    let (starts, bytes) = section_starts(format);
    let sections = machine.zeros(bytes)?;
    let (mut grid, mut jobs, mut tensor_of_part) = (Grid::default(), Vec::new(), Vec::new());
    for (section, start) in starts.into_iter().enumerate() {
        for part in format.parts(section) {
            jobs.extend(grid.add(part)?);
            let elements = tensors.map(|(tensors, _)| tensors[part.tensor].address_of(part.start()));
            jobs.extend(elements.into_iter().chain([machine.address(&sections) + start as u64]).flat_map(u64::to_le_bytes));
            tensor_of_part.push(part.tensor);
        }
    }
    let jobs = machine.put(&jobs)?;
    let owner = machine.put(&grid.owner())?;
    let fault = machine.put(&NO_FAULT.to_le_bytes())?;
    let [on_jobs, on_owner, on_tables, on_fault] =
        [&jobs, &owner, machine.tables(), &fault].map(|memory| Argument::Address(machine.address(memory)));
    // SAFETY: these are the arguments of the kernels `encode_*`. They read and write the elements of the parts' chunks, which the tensors have and whoever
    // made `gradient` lends, in the types that the kernel is called after; of `sections` they write the bytes of the parts. All memory of this function
    // lives until the fault is read, which waits for the kernel.
    unsafe { machine.run(kernel(theta, feedback), grid.blocks(), &[on_jobs, on_owner, Argument::F32(beta), on_tables, on_fault])? };
    match read_fault(machine, &fault)? {
        None => machine.get(&sections),
        Some(part) => Err(EncodeError::NonFinite(format.layout().tensors()[tensor_of_part[part]].name.clone()).into()),
    }
}

/// The payload of [`sections`], coded as it is sent by all cores.
pub(crate) fn encode_to<M: Machine, W: Write>(
    machine: &M,
    write: W,
    format: &Format,
    header: &Header,
    gradient: &PseudoGradient,
    beta: f32,
) -> Result<W, KernelError> {
    let sections = sections(machine, format, gradient, beta)?;
    let (starts, _) = section_starts(format);
    let section = |number: usize| &sections[starts[number]..][..format.section_bytes(number)];
    Ok(write_sections(write, format, header, section).map_err(EncodeError::Io)?)
}

/// Top-k with a scale per chunk. The reference quantizer depends on whole tensors, and group-max is there to be compared with.
pub(crate) fn is_supported(codec: &Codec) -> bool {
    matches!(codec.select, Select::TopK { .. }) && codec.quantizer != Quantizer::Reference
}

fn kernel(theta: Float, feedback: Float) -> &'static str {
    match (theta, feedback) {
        (Float::F32, Float::F32) => "encode_f32_f32",
        (Float::F32, Float::Bf16) => "encode_f32_bf16",
        (Float::Bf16, Float::F32) => "encode_bf16_f32",
        (Float::Bf16, Float::Bf16) => "encode_bf16_bf16",
    }
}
