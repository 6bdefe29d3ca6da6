//! What a model's tensors are called, how large they are, and in which order everything speaks of them.

use crate::LayoutError;

/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 4;
/// The longest tensor name, in bytes.
pub const MAX_NAME: usize = 128;

/// One tensor's name and shape (row-major).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name as in a safetensors file, e.g. `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Sizes of the dimensions, outermost first; every size is at least 1.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A spec from a name and a shape.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements (never true inside a [`Layout`]).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The model's tensors in canonical order: the order given at construction, which every node derives from the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TensorSpec>,
    /// How many of them are the model's; the rest is residual.
    model: usize,
    parameters: usize,
}

impl Layout {
    /// Checks names (unique, 1 to [`MAX_NAME`] bytes) and shapes (1 to [`MAX_RANK`] dimensions, none zero, product in `usize`).
    ///
    /// # Errors
    /// [`LayoutError`] names the first tensor that breaks a rule.
    pub fn new(tensors: Vec<TensorSpec>) -> Result<Self, LayoutError> {
        let mut seen = std::collections::HashSet::new();
        let mut parameters = 0usize;
        for tensor in &tensors {
            if tensor.name.is_empty() || tensor.name.len() > MAX_NAME {
                return Err(LayoutError::Name(tensor.name.clone()));
            }
            if !seen.insert(tensor.name.as_str()) {
                return Err(LayoutError::Repeated(tensor.name.clone()));
            }
            let rank_fits = (1..=MAX_RANK).contains(&tensor.shape.len());
            let len = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            match len.filter(|&n| rank_fits && n > 0).and_then(|n| parameters.checked_add(n)) {
                Some(total) => parameters = total,
                None => return Err(LayoutError::Shape { name: tensor.name.clone(), shape: tensor.shape.clone() }),
            }
        }
        if tensors.is_empty() {
            return Err(LayoutError::Empty);
        }
        Ok(Self { model: tensors.len(), tensors, parameters })
    }

    /// The layout of a state that also holds, per tensor of the model, what lossy merges have left over: `residual.NAME`, of the same shape.
    ///
    /// # Errors
    /// [`LayoutError`] if a name gets too long or is taken, or the elements are too many to count.
    pub fn with_residual(&self) -> Result<Self, LayoutError> {
        let residual = self.model().iter().map(|spec| TensorSpec::new(format!("residual.{}", spec.name), &spec.shape));
        Ok(Self { model: self.model, ..Self::new(self.model().iter().cloned().chain(residual).collect())? })
    }

    /// The model's tensors.
    pub fn model(&self) -> &[TensorSpec] {
        &self.tensors[..self.model]
    }

    /// Whether there are residual tensors.
    pub fn has_residual(&self) -> bool {
        self.model < self.tensors.len()
    }

    /// The tensors in canonical order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Elements of all tensors together.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// BLAKE3 over every name and shape, in order.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 layout v1");
        hasher.update(&(self.tensors.len() as u64).to_le_bytes());
        for tensor in &self.tensors {
            hasher.update(&(tensor.name.len() as u64).to_le_bytes());
            hasher.update(tensor.name.as_bytes());
            hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
            for &dim in &tensor.shape {
                hasher.update(&(dim as u64).to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}
