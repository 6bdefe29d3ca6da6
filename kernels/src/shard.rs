//! One rank's part of the encoding.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use compression::{EncodeError, Format, Header, Layout, LayoutError, Part, write_sections};

use crate::elements::{Elements, Float};
use crate::encode::{Launch, Running, check_codecs, not_finite};
use crate::machine::{Machine, Memory, Place};
use crate::part::section_starts;
use crate::{KernelError, Kernels};

/// Parts start at multiples of so many elements, so that kernels read and write four at once.
const ALIGNMENT: usize = 4;

/// The share of device memory left over that a shard may take for itself, as a divisor: gradients and activations have not come yet.
const SHARE_OF_LEFT: usize = 4;

/// One rank's share of a payload, consecutive sections, with θ before the inner steps and error feedback of their elements: f32, 8 bytes per
/// element of the share.
///
/// A round is [`Shard::begin`] with every tensor before the inner steps and [`Shard::encode`] with every tensor after them, some at a time, then
/// [`Shard::finish`]. The first two wait for nothing, and what goes wrong in them is told by the last: ranks that work together are not held up by one of
/// them. Tensors are f32 and come with their number in the layout.
pub struct Shard {
    machine: Arc<dyn Machine>,
    format: Arc<Format>,
    sections: Range<usize>,
    /// Of `parts`, one behind the other.
    before: Memory,
    feedback: Feedback,
    /// The sections in memory's form.
    coded: Memory,
    /// What this round's calls came to so far.
    round: Result<Round, KernelError>,
}

/// A share's error feedback, to be read from wherever it lies, on any thread.
#[derive(Clone)]
pub struct Feedback {
    machine: Arc<dyn Machine>,
    layout: Arc<Layout>,
    parts: Arc<[Own]>,
    memory: Arc<Memory>,
}

/// A part of the share.
struct Own {
    part: Part,
    /// Its first element's number in this rank's memory.
    at: usize,
    /// Where its section starts in the sections' memory.
    section: usize,
}

#[derive(Default)]
struct Round {
    running: Vec<Running>,
    /// Parts encoded.
    done: usize,
}

/// Coded sections of one rank, in memory's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    numbers: Range<usize>,
    bytes: Vec<u8>,
}

impl Kernels {
    /// The share of rank `rank` of `size`, with error feedback of zero. With `place` `None`, what it keeps lies with the device if that takes no more
    /// than a quarter of what the device has left, else with the host.
    ///
    /// # Errors
    /// [`KernelError::Codec`], [`KernelError::OutOfMemory`] or [`KernelError::Driver`].
    ///
    /// # Panics
    /// Unless `rank` is below `size`.
    pub fn shard(&self, format: &Arc<Format>, rank: usize, size: usize, place: Option<Place>) -> Result<Shard, KernelError> {
        assert!(rank < size, "rank {rank} of {size}");
        check_codecs(format)?;
        let machine = self.machine.clone();
        let sections = share(format, rank, size);
        let (starts, coded) = section_starts(format, sections.clone());
        let (mut parts, mut elements) = (Vec::new(), 0);
        for (section, start) in sections.clone().zip(starts) {
            for part in format.parts(section) {
                parts.push(Own { part: *part, at: elements, section: start });
                elements += part.grid.elements().next_multiple_of(ALIGNMENT);
            }
        }
        let bytes = elements * Float::F32.bytes();
        let place = match place {
            Some(place) => place,
            None if 2 * bytes <= machine.left()? / SHARE_OF_LEFT => Place::Device,
            None => Place::Host,
        };
        let (before, memory) = (machine.zeros(bytes, place)?, Arc::new(machine.zeros(bytes, place)?));
        let feedback = Feedback { machine: machine.clone(), layout: format.layout().clone(), parts: parts.into(), memory };
        let coded = machine.zeros(coded, Place::Device)?;
        Ok(Shard { machine, format: format.clone(), sections, before, feedback, coded, round: Ok(Round::default()) })
    }
}

/// The sections of a rank: about as many elements as any other's.
fn share(format: &Format, rank: usize, size: usize) -> Range<usize> {
    let elements = |section| format.parts(section).iter().map(|part| part.grid.elements()).sum::<usize>();
    let starts: Vec<usize> = (0..format.sections())
        .scan(0, |end, section| {
            let start = *end;
            *end += elements(section);
            Some(start)
        })
        .collect();
    let all = format.layout().parameters();
    let first = |rank: usize| starts.partition_point(|&start| start as u128 * (size as u128) < rank as u128 * all as u128);
    first(rank)..first(rank + 1)
}

impl Shard {
    /// Forgets what has become of this round so far, and what went wrong in it. A round that is given up needs it, before the next one.
    pub fn reset(&mut self) {
        self.round = Ok(Round::default());
    }

    /// Starts to copy what the share has of these tensors.
    pub fn begin(&mut self, tensors: &[(usize, Elements)]) {
        self.try_round(|shard, _| {
            for (own, before) in shard.own(tensors)? {
                let (from, len) = (before.address_of(own.part.start()), own.part.grid.elements() * Float::F32.bytes());
                // SAFETY: whoever made `before`, which has the layout's length and type, lends it.
                unsafe { shard.machine.copy(&shard.before, own.byte(), from, len)? };
            }
            Ok(())
        });
    }

    /// Replaces the error feedback.
    ///
    /// # Errors
    /// [`KernelError::Layout`] or [`KernelError::Driver`].
    pub fn load_feedback(&mut self, feedback: &[Vec<f32>]) -> Result<(), KernelError> {
        compression::check_lengths(self.format.layout(), feedback)?;
        self.feedback.parts.iter().try_for_each(|own| {
            let bytes = bytemuck::cast_slice(&feedback[own.part.tensor][own.elements()]);
            self.machine.write(&self.feedback.memory, own.byte(), bytes)
        })
    }

    /// The share's error feedback as it will be when what was started has ended. [`Shard::encode`] changes it.
    pub fn feedback(&self) -> Feedback {
        self.feedback.clone()
    }

    /// Starts to encode what the share has of these tensors, each of which comes once in a round; the error feedback moves on.
    pub fn encode(&mut self, tensors: &[(usize, Elements)], beta: f32) {
        self.try_round(|shard, round| {
            let mut launch = Launch::new([Float::F32; 2]);
            for (own, after) in shard.own(tensors)? {
                let [before, feedback] = [&shard.before, &*shard.feedback.memory].map(|memory| memory.address + own.byte() as u64);
                let elements = [before, after.address_of(own.part.start()), feedback, feedback];
                launch.add(&own.part, elements, shard.coded.address + own.section as u64)?;
                round.done += 1;
            }
            if launch.blocks() > 0 {
                // SAFETY: `before` and `feedback` have the elements of all own parts and `coded` the bytes of their sections, and nobody else knows of them;
                // whoever made `after`, which has the layout's length and type, lends it.
                round.running.push(unsafe { launch.start(&*shard.machine, beta)? });
            }
            Ok(())
        });
    }

    /// The own parts of some tensors, with those.
    fn own<'a>(&'a self, tensors: &'a [(usize, Elements)]) -> Result<impl Iterator<Item = (&'a Own, &'a Elements)>, KernelError> {
        tensors.iter().try_for_each(|(tensor, elements)| check(self.format.layout(), *tensor, elements))?;
        let parts = |(tensor, elements): &'a (usize, Elements)| {
            self.feedback.parts.iter().filter(move |own| own.part.tensor == *tensor).map(move |own| (own, elements))
        };
        Ok(tensors.iter().flat_map(parts))
    }

    /// Does something for the round, unless something went wrong before.
    fn try_round(&mut self, work: impl FnOnce(&Self, &mut Round) -> Result<(), KernelError>) {
        let round = std::mem::replace(&mut self.round, Ok(Round::default()));
        self.round = round.and_then(|mut round| work(self, &mut round).map(|()| round));
    }

    /// Waits for what was started in this round: the coded sections.
    ///
    /// # Errors
    /// [`KernelError::Encode`] if something was not finite, [`KernelError::Unfinished`], or what went wrong before. Error feedback is void
    /// then, and has to be loaded from where it was last kept.
    pub fn finish(&mut self) -> Result<Sections, KernelError> {
        let round = std::mem::replace(&mut self.round, Ok(Round::default()))?;
        let faults = round.running.into_iter().map(|running| running.finish(&*self.machine)).collect::<Result<Vec<_>, _>>()?;
        if let Some(tensor) = faults.into_iter().flatten().next() {
            return Err(not_finite(&self.format, tensor));
        }
        if round.done != self.feedback.parts.len() {
            return Err(KernelError::Unfinished { done: round.done, of: self.feedback.parts.len() });
        }
        Ok(Sections { numbers: self.sections.clone(), bytes: self.machine.get(&self.coded)? })
    }
}

impl Feedback {
    /// Copies it to its places in one vector per tensor.
    ///
    /// # Errors
    /// [`KernelError::Layout`] or [`KernelError::Driver`].
    pub fn unload(&self, feedback: &mut [Vec<f32>]) -> Result<(), KernelError> {
        compression::check_lengths(&self.layout, feedback)?;
        self.parts.iter().try_for_each(|own| {
            let bytes = bytemuck::cast_slice_mut(&mut feedback[own.part.tensor][own.elements()]);
            self.machine.read(&self.memory, own.byte(), bytes)
        })
    }
}

impl Own {
    /// Its elements in its tensor.
    fn elements(&self) -> Range<usize> {
        let start = self.part.start();
        start..start + self.part.grid.elements()
    }

    /// Its first byte in this rank's memory.
    fn byte(&self) -> usize {
        self.at * Float::F32.bytes()
    }
}

fn check(layout: &Layout, tensor: usize, elements: &Elements) -> Result<(), KernelError> {
    let specs = layout.tensors();
    let spec = specs.get(tensor).ok_or(LayoutError::Count { expected: specs.len(), found: tensor + 1 })?;
    if spec.len() != elements.len() {
        return Err(LayoutError::Data { name: spec.name.clone(), expected: spec.len(), found: elements.len() }.into());
    }
    if elements.float() != Float::F32 {
        return Err(KernelError::Float { name: spec.name.clone(), expected: Float::F32, found: elements.float() });
    }
    Ok(())
}

/// The payload of all ranks' sections, in the ranks' order, coded as it is sent by all cores.
///
/// # Errors
/// [`KernelError::Unfinished`] if sections are missing, [`KernelError::Encode`] if `write` fails.
pub fn write_payload<W: Write>(write: W, format: &Format, header: &Header, ranks: &[Sections]) -> Result<W, KernelError> {
    let mut places = Vec::with_capacity(format.sections());
    for Sections { numbers, bytes } in ranks {
        let (starts, end) = section_starts(format, numbers.clone());
        if numbers.start == places.len() && end == bytes.len() {
            places.extend(starts.into_iter().map(|start| &bytes[start..]));
        }
    }
    if places.len() != format.sections() {
        return Err(KernelError::Unfinished { done: places.len(), of: format.sections() });
    }
    let section = |number: usize| &places[number][..format.section_bytes(number)];
    Ok(write_sections(write, format, header, section).map_err(EncodeError::Io)?)
}
