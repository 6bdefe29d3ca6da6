//! A record's outer step: what `cuda/apply.cu` needs to know, prepared.

use compression::{Format, MergeOver, Rule, TransitionError, Weighted, check_payloads, clip_factors, norms};

use crate::KernelError;
use crate::elements::{Elements, Float, check_tensors};
use crate::machine::{Argument, Fault, Machine, NULL};
use crate::part::{Grid, is_aligned, section_starts};

/// θ in a machine's memory.
#[derive(Clone, Debug)]
pub struct Theta {
    /// One per tensor in layout order, f32.
    pub tensors: Vec<Elements>,
    /// The same tensors in bf16, which get every element of the new θ, rounded; or none.
    pub shadow: Vec<Elements>,
}

/// Takes a record's step in place; see [`crate::Kernels::step`].
pub(crate) fn step(machine: &dyn Machine, theta: &Theta, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), KernelError> {
    check_payloads(payloads)?;
    if rule.resparsify.is_some() {
        return Err(KernelError::Lossy);
    }
    let Some(first) = payloads.first() else { return Ok(()) };
    let format = first.payload.format();
    check_tensors(format.layout(), &theta.tensors, Float::F32)?;
    if !theta.shadow.is_empty() {
        check_tensors(format.layout(), &theta.shadow, Float::Bf16)?;
    }
    let sections = payloads.iter().map(|entry| machine.put(all_sections(format, entry))).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<u64> = sections.iter().map(|memory| memory.address).collect();
    let (mut grid, mut steps, mut tensor_of_part) = (Grid::default(), Vec::new(), Vec::new());
    for part in (0..format.sections()).flat_map(|section| format.parts(section)) {
        let elements = theta.tensors[part.tensor].address_of(part.start());
        let shadow = theta.shadow.get(part.tensor).map_or(NULL, |shadow| shadow.address_of(part.start()));
        let first_source = tensor_of_part.len() * payloads.len();
        steps.extend(grid.add(part, is_aligned(elements, Float::F32) && is_aligned(shadow, Float::Bf16))?);
        steps.extend([elements, shadow, first_source as u64].map(u64::to_le_bytes).as_flattened());
        tensor_of_part.push(part.tensor);
    }
    let steps = machine.put(steps)?;
    let owner = machine.put(grid.owner())?;
    let sources = machine.put(sources(format, payloads, &addresses))?;
    let fault = Fault::none(machine)?;
    let over_all = match rule.over {
        MergeOver::Senders => 0.0,
        MergeOver::All => payloads.iter().fold(0.0, |sum, entry| sum + entry.weight),
    };
    let [on_steps, on_owner, on_sources, on_tables, on_fault] =
        [&steps, &owner, &sources, machine.tables(), &fault.0].map(|memory| Argument::Address(memory.address));
    let [count, lr, over_all] = [Argument::U32(payloads.len() as u32), Argument::F32(rule.lr), Argument::F32(over_all)];
    // SAFETY: these are the arguments of `apply`. It reads and writes the elements of the parts' chunks, which the tensors have and whoever made `theta`
    // lends; of each payload it reads the bytes of the parts, which parsing proved to be complete and to have indices below each chunk's number of
    // elements. All memory of this function lives until the fault is read, which waits for the kernel.
    unsafe { machine.run("apply", grid.blocks(), &[on_steps, on_owner, on_sources, count, lr, over_all, on_tables, on_fault])? };
    match fault.read(machine)? {
        None => Ok(()),
        Some(part) => Err(TransitionError::NonFinite(format.layout().tensors()[tensor_of_part[part]].name.clone()).into()),
    }
}

/// A payload's sections, one behind the other.
fn all_sections(format: &Format, entry: &Weighted<'_>) -> Vec<u8> {
    (0..format.sections()).flat_map(|section| entry.payload.section(section)).copied().collect()
}

/// Per part the `Source` of each payload: its section, weight times clip factor, weight.
fn sources(format: &Format, payloads: &[Weighted<'_>], addresses: &[u64]) -> Vec<u8> {
    let norms: Vec<Vec<f64>> = payloads.iter().map(|entry| norms(entry.payload)).collect();
    let factors = |tensor: usize| {
        let of_tensor: Vec<f64> = norms.iter().map(|of_payload| of_payload[tensor]).collect();
        payloads.iter().zip(clip_factors(&of_tensor)).map(|(entry, clip)| entry.weight * clip).collect()
    };
    let factors: Vec<Vec<f32>> = (0..format.codecs().len()).map(factors).collect();
    let (starts, _) = section_starts(format, 0..format.sections());
    let mut sources = Vec::new();
    for (section, start) in starts.into_iter().enumerate() {
        for part in format.parts(section) {
            for ((entry, address), factor) in payloads.iter().zip(addresses).zip(&factors[part.tensor]) {
                sources.extend((address + start as u64).to_le_bytes());
                sources.extend([factor.to_le_bytes(), entry.weight.to_le_bytes()].as_flattened());
            }
        }
    }
    sources
}
