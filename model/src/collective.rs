//! What ranks do together. A rank is one device with its part of a model; all ranks call the same operations in the same order.

use tch::Tensor;

use crate::ModelError;

/// How ranks exchange tensors. Whatever is exchanged is flat and of the same length on every rank.
///
/// What is handed over must not change until the next [`Collective::all_reduce`] has returned: a slower rank may still read it.
pub(crate) trait Collective: Send {
    /// This rank's number, below `size`.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Starts putting all ranks' shares together, [share] → [size · share], in the ranks' order.
    fn all_gather(&self, share: Tensor) -> Result<Pending<'_>, ModelError>;

    /// Starts adding up all ranks' tensors, of which each rank gets its share: [size · share] → [share].
    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending<'_>, ModelError>;

    /// The sum over all ranks, with the same bits on every rank.
    fn all_reduce(&self, values: Tensor) -> Result<Tensor, ModelError>;

    /// Whether nothing was aborted: what an exchange that was ended left behind is no result.
    fn check(&self) -> Result<(), ModelError>;

    /// Ends this and every later exchange on every rank, because this one cannot take part any more.
    fn abort(&self, reason: &str);
}

/// An exchange on its way. Nothing waits for it before [`Pending::finish`].
pub(crate) struct Pending<'a>(Box<dyn FnOnce() -> Result<Tensor, ModelError> + 'a>);

impl<'a> Pending<'a> {
    /// An exchange that `finish` ends.
    pub(crate) fn new(finish: impl FnOnce() -> Result<Tensor, ModelError> + 'a) -> Self {
        Self(Box::new(finish))
    }

    /// What came of it, for everything that this rank computes from now on.
    pub(crate) fn finish(self) -> Result<Tensor, ModelError> {
        (self.0)()
    }
}

/// One rank: nothing is exchanged, and nothing copied.
pub(crate) struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, share: Tensor) -> Result<Pending<'_>, ModelError> {
        Ok(Pending::new(|| Ok(share)))
    }

    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending<'_>, ModelError> {
        Ok(Pending::new(|| Ok(whole)))
    }

    fn all_reduce(&self, values: Tensor) -> Result<Tensor, ModelError> {
        Ok(values)
    }

    fn check(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn abort(&self, _: &str) {}
}
