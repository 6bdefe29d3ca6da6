/// Why bytes are not the code of an index set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// Unused bits that are not zero.
    #[error("unused bits are not zero")]
    Padding,
    /// Another number of indices than the chunk sends.
    #[error("the bitmap does not hold as many ones as there are indices")]
    Count,
    /// An index that is not above the one before it.
    #[error("the indices do not strictly ascend")]
    Order,
    /// An index beyond the chunk's last element.
    #[error("an index lies outside its chunk")]
    Range,
    /// A scale code in a bit stream that is no byte.
    #[error("a scale code is none of 0 to 255")]
    Scale,
    /// A bit stream that is over before its last chunk is.
    #[error("the bit stream is too short")]
    End,
    /// A bit stream with bytes that no chunk reads.
    #[error("the bit stream is too long")]
    Trailing,
}
