//! From selected values to codes, and what the codes decode to: always one look-up in a table of four.

pub(crate) mod reference;
mod sign1;
mod sign2;

use crate::codec::Quantizer;
use crate::floor::Floor;
pub(crate) use reference::{MAX_MAGNITUDE, Reference, TABLE_BYTES};
pub use sign1::SIGN1;
pub(crate) use sign2::MAX_SCALE;
pub use sign2::SIGN2;

/// What the codes of a chunk of this scale decode to; `None` for the reference quantizer, whose table is the tensor's.
pub(crate) fn scale_table(quantizer: Quantizer, scale: u8) -> Option<&'static [f32; 4]> {
    match quantizer {
        Quantizer::Sign2 => Some(&SIGN2[usize::from(scale)]),
        Quantizer::Sign1 => Some(&SIGN1[usize::from(scale)]),
        Quantizer::Reference => None,
    }
}

/// How the values of one chunk are coded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Coder {
    Sign2(u8),
    Sign1(u8),
    Reference(Reference),
}

impl Coder {
    /// The best coder for a chunk's selected values; `reference` is the tensor's, if that is the quantizer.
    pub fn choose(quantizer: Quantizer, selected: &[f32], reference: Option<Reference>, floor: Floor, fixed: &mut Vec<u16>) -> Self {
        match quantizer {
            Quantizer::Reference => Self::Reference(reference.unwrap_or_else(|| Reference::fit(selected))),
            Quantizer::Sign1 => Self::Sign1(sign1::choose_scale(selected)),
            Quantizer::Sign2 => Self::Sign2(sign2::choose_scale(floor, selected, fixed)),
        }
    }

    /// The chunk's scale code, if it has one.
    pub fn scale(&self) -> Option<u8> {
        match *self {
            Self::Sign2(scale) | Self::Sign1(scale) => Some(scale),
            Self::Reference(_) => None,
        }
    }

    /// A value's code.
    pub fn code(&self, value: f32) -> u8 {
        match self {
            Self::Sign2(scale) => sign2::code(*scale, value),
            Self::Sign1(scale) => sign1::code(*scale, value),
            Self::Reference(fitted) => fitted.code(value),
        }
    }

    /// What the codes decode to.
    pub fn table(&self) -> [f32; 4] {
        match self {
            Self::Sign2(scale) => SIGN2[usize::from(*scale)],
            Self::Sign1(scale) => SIGN1[usize::from(*scale)],
            Self::Reference(fitted) => fitted.table([true; 4]),
        }
    }
}
