//! A variant: what of a pseudo-gradient is sent, and how the next state comes of it.

use std::sync::Arc;

use anyhow::Result;
use compression::{ErrorFeedback, Grid, Header, Layout, MergeOver, Payload, Rule, State, TensorSpec, Weighted, clip_factors, transition};

use crate::{
    selection,
    sizes::{self, IndexCode},
    wire,
};

/// Which values of a chunk are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The k of 4096 of largest magnitude.
    TopK(u16),
    /// The largest of each so many consecutive elements.
    GroupMax(u16),
}

impl Select {
    /// Values sent of a chunk of `n` elements.
    pub fn count(self, n: usize) -> usize {
        match self {
            Self::TopK(k) => (usize::from(k) * n / compression::CHUNK_ELEMENTS).clamp(1, n),
            Self::GroupMax(group) => n.div_ceil(group.into()),
        }
    }
}

/// How a selected value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// As it is, in 32 bits.
    None,
    /// A sign under a chunk's scale.
    Sign1,
    /// A sign and one of two magnitudes under a chunk's scale.
    Sign2,
    /// One of four levels per tensor, as deployed.
    Reference,
}

impl Values {
    /// Bits per value.
    pub fn bits(self) -> usize {
        match self {
            Self::None => 32,
            Self::Sign1 => 1,
            Self::Sign2 | Self::Reference => 2,
        }
    }

    /// Whether a chunk has a scale code.
    pub fn scaled(self) -> bool {
        matches!(self, Self::Sign1 | Self::Sign2)
    }
}

/// A way to send pseudo-gradients.
#[derive(Clone, Copy, Debug)]
pub enum Variant {
    /// All of it, in f32.
    Dense,
    /// Some of it.
    Sparse {
        /// Which values.
        select: Select,
        /// How they are written.
        values: Values,
        /// How their places are written.
        indices: IndexCode,
    },
}

impl Variant {
    /// The variant of this name.
    pub fn parse(name: &str, indices: IndexCode) -> Option<Self> {
        if name == "dense" {
            return Some(Self::Dense);
        }
        let (values, select) = name.split_once('-')?;
        let values = match values {
            "none" => Values::None,
            "sign1" => Values::Sign1,
            "sign2" => Values::Sign2,
            "reference" => Values::Reference,
            _ => return None,
        };
        let select = match select.strip_prefix("gmax") {
            Some(group) => Select::GroupMax(group.parse().ok().filter(|g| [16, 32, 64].contains(g))?),
            None => match select.strip_prefix('k')? {
                "N" => Select::TopK(sizes::k_of_equal_bytes(values, indices)),
                k => Select::TopK(k.parse().ok().filter(|k| (1..=4096).contains(k))?),
            },
        };
        Some(Self::Sparse { select, values, indices })
    }
}

/// What one miner sends of one chunk.
#[derive(Clone, Debug, Default)]
pub struct SentChunk {
    /// Places in the chunk, ascending.
    pub indices: Vec<u16>,
    /// What is decoded there.
    pub values: Vec<f32>,
    /// The values' codes, without their signs where the quantizer has a bit for these; empty if there are none.
    pub codes: Vec<u8>,
    /// The chunk's scale code, if the quantizer has one.
    pub scale: Option<u8>,
}

/// What one miner sends in one round.
pub enum Message {
    /// Everything.
    Dense(Vec<Vec<f32>>),
    /// Each tensor's chunks, their values as they are.
    Chunks(Vec<Vec<SentChunk>>),
    /// A payload, and its bytes.
    Payload(Payload, usize),
}

/// Codes and merges one run's messages.
pub struct Coder {
    variant: Variant,
    layout: Arc<Layout>,
    grids: Vec<Grid>,
    wire: Option<wire::Wire>,
}

impl Coder {
    /// For a model of this layout.
    pub fn new(variant: Variant, layout: Arc<Layout>) -> Result<Self> {
        let wire = match variant {
            Variant::Dense => None,
            Variant::Sparse { select, values, indices } => wire::Wire::new(select, values, indices, &layout)?,
        };
        let grid = |(tensor, spec): (usize, &TensorSpec)| wire.as_ref().map_or_else(|| Grid::new(&spec.shape), |wire| wire.grid(tensor));
        let grids = layout.tensors().iter().enumerate().map(grid).collect();
        Ok(Self { variant, layout, grids, wire })
    }

    /// The values that are sent and how, unless everything is.
    pub fn sparse(&self) -> Option<(Select, Values, IndexCode)> {
        match self.variant {
            Variant::Dense => None,
            Variant::Sparse { select, values, indices } => Some((select, values, indices)),
        }
    }

    /// How each tensor is cut into chunks.
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// Encodes one pseudo-gradient and moves the error feedback on.
    pub fn send(&self, header: &Header, feedback: &mut ErrorFeedback, gradient: Vec<Vec<f32>>, beta: f32) -> Result<Message> {
        match (&self.wire, self.variant) {
            (Some(wire), _) => {
                let (payload, bytes) = wire.send(header, feedback, &gradient, beta)?;
                Ok(Message::Payload(payload, bytes))
            }
            (None, Variant::Dense) => Ok(Message::Dense(gradient)),
            (None, Variant::Sparse { select, .. }) => {
                let mut tensors = accumulated(feedback, &gradient, beta);
                let chunks = self.grids.iter().zip(&mut tensors).map(|(grid, a)| selection::send(grid, a, select)).collect();
                *feedback = ErrorFeedback::from_tensors(&self.layout, tensors)?;
                Ok(Message::Chunks(chunks))
            }
        }
    }

    /// What a message says of each tensor's chunks; `None` for one that says everything.
    pub fn chunks(&self, message: &Message) -> Option<Vec<Vec<SentChunk>>> {
        match message {
            Message::Dense(_) => None,
            Message::Chunks(chunks) => Some(chunks.clone()),
            Message::Payload(payload, _) => Some(wire::chunks(payload, &self.grids)),
        }
    }

    /// Bytes of a message.
    pub fn bytes(&self, message: &Message) -> f64 {
        match (message, self.variant) {
            (Message::Payload(_, bytes), _) => *bytes as f64,
            (Message::Chunks(tensors), Variant::Sparse { select, values, indices }) => {
                let of_tensor = |(grid, chunks): (&Grid, &Vec<SentChunk>)| -> f64 {
                    let chunks = chunks.iter().enumerate();
                    chunks.map(|(i, c)| sizes::chunk_bits(select, values, indices, grid.chunk(i).elements(), Some(&c.indices))).sum()
                };
                let frame = sizes::frame_bytes(self.grids.iter().map(Grid::chunks).sum());
                frame + (self.grids.iter().zip(tensors).map(of_tensor).sum::<f64>() / 8.0).ceil()
            }
            _ => 4.0 * self.layout.parameters() as f64,
        }
    }

    /// Takes one outer step.
    pub fn merge(&self, state: &mut State, messages: &[Message], rule: &Rule) -> Result<()> {
        let payloads: Vec<Weighted<'_>> = messages.iter().filter_map(|m| weighted(m, 1.0)).collect();
        if payloads.len() == messages.len() {
            return Ok(transition(state, &payloads, rule)?);
        }
        for tensor in 0..self.layout.tensors().len() {
            let theta = &mut state.tensors_mut()[tensor];
            let (sums, over) = self.sums(tensor, theta.len(), messages, rule.over);
            let moved = theta.iter_mut().zip(sums.iter().zip(&over)).filter(|(_, (_, over))| **over != 0.0);
            moved.for_each(|(theta, (sum, over))| *theta -= rule.lr * (sum / over));
        }
        state.round += 1;
        Ok(())
    }

    /// Per coordinate of one tensor, what is summed and what it is divided by.
    fn sums(&self, tensor: usize, len: usize, messages: &[Message], over: MergeOver) -> (Vec<f32>, Vec<f32>) {
        let (mut sums, mut senders) = (vec![0.0; len], vec![0.0; len]);
        let norms: Vec<f64> = messages.iter().map(|message| norm(message, tensor)).collect();
        for (message, clip) in messages.iter().zip(clip_factors(&norms)) {
            match message {
                Message::Dense(gradient) => {
                    sums.iter_mut().zip(&gradient[tensor]).for_each(|(sum, g)| *sum += g);
                    senders.iter_mut().for_each(|count| *count += 1.0);
                }
                Message::Chunks(tensors) => {
                    for (number, sent) in tensors[tensor].iter().enumerate() {
                        let chunk = self.grids[tensor].chunk(number);
                        for (&index, &value) in sent.indices.iter().zip(&sent.values).filter(|(_, v)| **v != 0.0) {
                            let position = chunk.position(index.into());
                            sums[position] += clip * value;
                            senders[position] += 1.0;
                        }
                    }
                }
                Message::Payload(..) => unreachable!("a run's messages are all of one kind"),
            }
        }
        if over == MergeOver::All {
            senders.fill(messages.len() as f32);
        }
        (sums, senders)
    }
}

/// β·e + g.
pub fn accumulated(feedback: &ErrorFeedback, gradient: &[Vec<f32>], beta: f32) -> Vec<Vec<f32>> {
    let add = |(e, g): (&Vec<f32>, &Vec<f32>)| e.iter().zip(g).map(|(e, g)| beta * e + g).collect();
    feedback.tensors().iter().zip(gradient).map(add).collect()
}

fn weighted(message: &Message, weight: f32) -> Option<Weighted<'_>> {
    match message {
        Message::Payload(payload, _) => Some(Weighted { payload, weight }),
        _ => None,
    }
}

/// The norm of what a message says of a tensor. Dense messages are averaged as they are: theirs are all 1.
fn norm(message: &Message, tensor: usize) -> f64 {
    match message {
        Message::Chunks(tensors) => {
            let values = tensors[tensor].iter().flat_map(|chunk| &chunk.values);
            values.map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
        }
        _ => 1.0,
    }
}
