//! From θ before and after the inner steps to a payload.

use std::sync::Arc;

use compression::{EncodeError, ErrorFeedback, Format, Header, Payload};
use kernels::{Elements, Feedback, Float, KernelError, Kernels, Place, Shard, write_payload};
use model::{Device, Devices, Ranks, Whole};

use crate::MinerError;

/// Encodes payloads, and keeps the error feedback. Whoever does the work, the bytes are those of [`compression::encode`].
pub enum Encoder {
    /// The host, which copies θ out of the ranks.
    Host(Arc<ErrorFeedback>),
    /// The ranks' devices, in place: each encodes its share, and keeps the error feedback of that.
    Devices(Vec<Shard>),
}

impl Encoder {
    /// On the GPUs if all devices are, with error feedback in the host's memory if `offload` says so or theirs is short; else on the host. Error
    /// feedback is zero. If the GPUs could train but not encode, the second value says why.
    ///
    /// # Errors
    /// [`MinerError::Kernels`] if a GPU fails.
    pub fn new(devices: &Devices, format: &Arc<Format>, offload: bool) -> Result<(Self, Option<KernelError>), MinerError> {
        let gpu = |device: &Device| match device {
            Device::Cpu => None,
            Device::Cuda(index) => Some(*index),
        };
        let Some(gpus) = devices.as_slice().iter().map(gpu).collect::<Option<Vec<usize>>>() else {
            return Ok((Self::host(format), None));
        };
        let place = offload.then_some(Place::Host);
        let on_devices = || {
            let kernels = gpus.iter().map(|&gpu| Kernels::shared(gpu)).collect::<Result<Vec<_>, _>>()?;
            Self::on_devices(&kernels, format, place)
        };
        match on_devices() {
            Ok(encoder) => Ok((encoder, None)),
            Err(reason @ (KernelError::NoNvrtc | KernelError::Compile { .. } | KernelError::Codec(_))) => {
                Ok((Self::host(format), Some(reason)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn host(format: &Format) -> Self {
        Self::Host(Arc::new(ErrorFeedback::zeros(format.layout())))
    }

    /// One rank's kernels after the other.
    fn on_devices(kernels: &[Kernels], format: &Arc<Format>, place: Option<Place>) -> Result<Self, KernelError> {
        let shard = |(rank, on_rank): (usize, &Kernels)| on_rank.shard(format, rank, kernels.len(), place);
        Ok(Self::Devices(kernels.iter().enumerate().map(shard).collect::<Result<_, _>>()?))
    }

    /// Starts a round from the ranks' parameters.
    ///
    /// # Errors
    /// [`MinerError::Model`].
    pub fn begin(&mut self, ranks: &mut Ranks) -> Result<(), MinerError> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Devices(shards) => {
                shards.iter_mut().for_each(Shard::reset);
                Ok(ranks.visit(shards, |shard, tensors| shard.begin(&elements(tensors)))?)
            }
        }
    }

    /// The payload of what the ranks' parameters are away from `theta`, which they were when the round [began](Self::begin); the error feedback moves on.
    ///
    /// # Errors
    /// [`MinerError::Encode`] if that is not finite, and [`MinerError::Kernels`]: unless the host encodes, the error feedback is void then, and has to be
    /// [loaded](Self::load_feedback) from where it was last kept.
    pub fn encode(
        &mut self,
        ranks: &mut Ranks,
        theta: &[Vec<f32>],
        format: &Format,
        header: &Header,
        beta: f32,
    ) -> Result<Vec<u8>, MinerError> {
        match self {
            Self::Host(feedback) => {
                // in place: a model's worth of memory is not had in no time
                let mut gradient = ranks.parameters()?;
                for (start, end) in theta.iter().zip(&mut gradient) {
                    start.iter().zip(end).for_each(|(start, end)| *end = start - *end);
                }
                Ok(compression::encode(format, header, Arc::make_mut(feedback), &gradient, beta)?)
            }
            Self::Devices(shards) => {
                ranks.visit(shards, |shard, tensors| shard.encode(&elements(tensors), beta))?;
                // every rank ends its round, whatever one of them says
                let finished: Vec<_> = shards.iter_mut().map(Shard::finish).collect();
                let sections = finished.into_iter().collect::<Result<Vec<_>, _>>()?;
                let room = *compression::payload_len(format).end() as usize;
                Ok(write_payload(Vec::with_capacity(room), format, header, &sections)?)
            }
        }
    }

    /// What reads the error feedback, on any thread, before the next payload is encoded.
    pub fn feedback(&self, format: &Format) -> impl FnOnce() -> Result<Arc<ErrorFeedback>, KernelError> + Send + 'static {
        let kept = match self {
            Self::Host(feedback) => Ok(feedback.clone()),
            Self::Devices(shards) => Err(shards.iter().map(Shard::feedback).collect::<Vec<Feedback>>()),
        };
        let layout = format.layout().clone();
        move || {
            kept.or_else(|shares| {
                let mut tensors: Vec<Vec<f32>> = layout.tensors().iter().map(|spec| vec![0.0; spec.len()]).collect();
                shares.iter().try_for_each(|share| share.unload(&mut tensors))?;
                Ok(Arc::new(ErrorFeedback::from_tensors(&layout, tensors)?))
            })
        }
    }

    /// Replaces the error feedback.
    ///
    /// # Errors
    /// [`MinerError::Kernels`].
    pub fn load_feedback(&mut self, kept: ErrorFeedback) -> Result<(), MinerError> {
        match self {
            Self::Host(feedback) => *feedback = Arc::new(kept),
            Self::Devices(shards) => shards.iter_mut().try_for_each(|shard| shard.load_feedback(kept.tensors()))?,
        }
        Ok(())
    }

    /// Puts back what a payload said, because no round applied it.
    ///
    /// # Errors
    /// [`MinerError::Encode`] for a payload of other tensors, [`MinerError::Kernels`].
    pub fn absorb(&mut self, payload: &Payload) -> Result<(), MinerError> {
        let into = |feedback: &mut ErrorFeedback| feedback.absorb(payload).map_err(EncodeError::from);
        if let Self::Host(feedback) = self {
            return Ok(into(Arc::make_mut(feedback))?);
        }
        let mut feedback = Arc::unwrap_or_clone(self.feedback(payload.format())()?);
        into(&mut feedback)?;
        self.load_feedback(feedback)
    }
}

/// The tensors that a visit shows.
fn elements(tensors: &[Whole]) -> Vec<(usize, Elements)> {
    // SAFETY: the tensor is in the device's memory for all work that libtorch's current stream orders before what follows, and the kernels work on that
    // stream; nobody writes to the parameters before they have ended.
    let elements = |whole: &Whole| unsafe { Elements::new(whole.address, whole.len, Float::F32) };
    tensors.iter().map(|whole| (whole.tensor, elements(whole))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use compression::{Codec, Indices, Layout, Quantizer};
    use model::Activations;
    use protocol::{Architecture, Inner};

    use super::*;

    const HEADER: Header = Header { run: [1; 32], round: 3, hotkey: [2; 32], base_root: [4; 32] };
    const BETA: f32 = 0.95;

    fn architecture() -> Architecture {
        Architecture {
            vocab_size: 130,
            hidden_size: 72,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 18,
            intermediate_size: 100,
            sequence_length: 8,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            tied_embeddings: true,
            init_std: 0.1,
        }
    }

    fn format() -> Arc<Format> {
        let specs = architecture().tensors().into_iter().map(|(spec, _)| spec).collect();
        Arc::new(Format::uniform(Arc::new(Layout::new(specs).unwrap()), Codec::top_k(64, Quantizer::Sign2, Indices::Golomb)).unwrap())
    }

    /// A model on so many CPU ranks, and its parameters.
    fn ranks(number: usize) -> (Ranks, Vec<Vec<f32>>) {
        let inner = serde_json::json!({ "steps": 2, "batch": 6, "micro_batch": 2, "lr": 0.02, "warmup": 1, "decay": 20 });
        let inner: Inner = serde_json::from_value(inner).unwrap();
        let devices = vec!["cpu"; number].join(",").parse().unwrap();
        let mut ranks = Ranks::new(&architecture(), &inner, &devices, Activations::Kept).unwrap();
        let mut theta = ranks.parameters().unwrap();
        theta.iter_mut().flatten().enumerate().for_each(|(i, x)| *x = (i as f32).sin() / 4.0);
        ranks.load(&theta).unwrap();
        (ranks, theta)
    }

    fn train(ranks: &mut Ranks, step: u64) {
        let sequence = |i: u64| (0..9).map(|j| ((i * j + i + step) % 130) as u32).collect();
        ranks.step_at(&(1..7).map(sequence).collect::<Vec<_>>(), step).unwrap();
    }

    /// The kernels, emulated, on the memory of ranks that train on the CPU: payloads and error feedback are the host's, bit for bit.
    #[test]
    fn ranks_encode_what_the_host_would() {
        model::set_threads(1);
        let (format, kernels) = (format(), Kernels::emulated().unwrap());
        for (number, place) in [(1, None), (3, Some(Place::Host))] {
            let (mut ranks, mut theta) = ranks(number);
            let mut host = Encoder::host(&format);
            let mut devices = Encoder::on_devices(&vec![kernels.clone(); number], &format, place).unwrap();
            for round in 0..3 {
                [&mut host, &mut devices].into_iter().for_each(|encoder| encoder.begin(&mut ranks).unwrap());
                train(&mut ranks, round);
                let mut payloads =
                    [&mut host, &mut devices].map(|encoder| encoder.encode(&mut ranks, &theta, &format, &HEADER, BETA).unwrap());
                assert!(payloads[0] == payloads[1], "round {round}, {number} ranks");
                let payload = Payload::parse(&std::mem::take(&mut payloads[0]), &format).unwrap();
                if round == 1 {
                    [&mut host, &mut devices].into_iter().for_each(|encoder| encoder.absorb(&payload).unwrap());
                }
                assert!(host.feedback(&format)().unwrap() == devices.feedback(&format)().unwrap(), "round {round}, {number} ranks");
                theta = ranks.parameters().unwrap();
            }
            let zero = ErrorFeedback::zeros(format.layout());
            assert!(*devices.feedback(&format)().unwrap() != zero);
            devices.load_feedback(zero.clone()).unwrap();
            assert!(*devices.feedback(&format)().unwrap() == zero);
        }
    }

    /// Whichever rank's share it is in; and the round after that is a round like any other.
    #[test]
    fn what_is_not_finite_is_refused_by_name() {
        let (format, kernels) = (format(), Kernels::emulated().unwrap());
        let (mut ranks, theta) = ranks(2);
        let zero = ErrorFeedback::zeros(format.layout());
        let mut expected = None;
        for mut encoder in [Encoder::host(&format), Encoder::on_devices(&[kernels.clone(), kernels], &format, None).unwrap()] {
            for (tensor, spec) in format.layout().tensors().iter().enumerate() {
                let mut broken = theta.clone();
                broken[tensor][7] = f32::NAN;
                ranks.load(&theta).unwrap();
                encoder.begin(&mut ranks).unwrap();
                ranks.load(&broken).unwrap();
                let refused = encoder.encode(&mut ranks, &theta, &format, &HEADER, BETA).unwrap_err();
                assert!(matches!(&refused, MinerError::Encode(EncodeError::NonFinite(name)) if *name == spec.name), "{refused}");
            }
            encoder.load_feedback(zero.clone()).unwrap();
            ranks.load(&theta).unwrap();
            encoder.begin(&mut ranks).unwrap();
            // a round that is given up
            encoder.begin(&mut ranks).unwrap();
            let moved: Vec<Vec<f32>> = theta.iter().map(|tensor| tensor.iter().map(|x| x * 1.01).collect()).collect();
            ranks.load(&moved).unwrap();
            let payload = encoder.encode(&mut ranks, &theta, &format, &HEADER, BETA).unwrap();
            assert!(*expected.get_or_insert_with(|| payload.clone()) == payload);
        }
    }

    #[test]
    fn cpus_encode_on_the_host() {
        let (encoder, why_not) = Encoder::new(&"cpu,cpu".parse().unwrap(), &format(), true).unwrap();
        assert!(matches!(encoder, Encoder::Host(_)) && why_not.is_none());
    }
}
