//! How canonical tensors lie in the tensors that are computed with: neighbours that multiply the same input are one matrix.

use protocol::Architecture;
use tch::{Device, Kind, TchError, Tensor};

use crate::ModelError;

/// Per layer: norm, q‖k‖v, o, norm, gate‖up, down.
const LAYER: [usize; 6] = [1, 3, 1, 1, 2, 1];

/// Canonical tensors that are stacked along their first dimension into one.
#[derive(Clone, PartialEq)]
struct Group {
    shape: Vec<i64>,
    parts: Vec<(String, usize)>,
}

/// The groups in canonical order. Stacking rows keeps the order of elements, so a group's memory is its parts' memory, end to end.
#[derive(Clone, PartialEq)]
pub(crate) struct Packing(Vec<Group>);

impl Packing {
    pub(crate) fn new(architecture: &Architecture) -> Self {
        let mut counts = vec![1];
        (0..architecture.layers).for_each(|_| counts.extend(LAYER));
        counts.extend(if architecture.tied_embeddings { vec![1] } else { vec![1, 1] });
        let mut specs = architecture.tensors().into_iter().map(|(spec, _)| spec);
        let group = |count| {
            let members: Vec<_> = specs.by_ref().take(count).collect();
            let mut shape: Vec<i64> = members[0].shape.iter().map(|&d| d as i64).collect();
            shape[0] = members.iter().map(|spec| spec.shape[0] as i64).sum();
            Group { shape, parts: members.into_iter().map(|spec| (spec.len(), spec.name)).map(|(len, name)| (name, len)).collect() }
        };
        Self(counts.into_iter().map(group).collect())
    }

    /// Elements of all tensors together.
    pub(crate) fn elements(&self) -> usize {
        self.0.iter().flat_map(|group| &group.parts).map(|(_, len)| len).sum()
    }

    /// One f32 tensor of zeros per group.
    pub(crate) fn zeros(&self, device: Device) -> Result<Vec<Tensor>, TchError> {
        self.0.iter().map(|group| Tensor::f_zeros(&group.shape, (Kind::Float, device))).collect()
    }

    /// Refuses tensors that are not the canonical ones in number or length.
    pub(crate) fn check(&self, canonical: &[Vec<f32>]) -> Result<(), ModelError> {
        let parts = || self.0.iter().flat_map(|group| &group.parts);
        let mismatch = |what: &str, found, expected| ModelError::Shape { what: what.to_owned(), found, expected };
        if canonical.len() != parts().count() {
            return Err(mismatch("number of tensors", canonical.len(), parts().count()));
        }
        match parts().zip(canonical).find(|((_, len), data)| *len != data.len()) {
            Some(((name, len), data)) => Err(mismatch(name, data.len(), *len)),
            None => Ok(()),
        }
    }

    /// Refuses changes that are not one list per canonical tensor, of elements that it has, ascending.
    pub(crate) fn check_changes(&self, changes: &[Vec<(usize, f32)>]) -> Result<(), ModelError> {
        let parts = || self.0.iter().flat_map(|group| &group.parts);
        let (found, expected) = (changes.len(), parts().count());
        if found != expected {
            return Err(ModelError::Shape { what: "number of tensors".into(), found, expected });
        }
        parts().zip(changes).try_for_each(|((name, len), changes)| check_elements(name, *len, changes))
    }

    /// Flat views of the canonical tensors in the groups' memory.
    pub(crate) fn views(&self, groups: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
        let mut views = Vec::new();
        for (group, tensor) in self.0.iter().zip(groups) {
            let lengths: Vec<i64> = group.parts.iter().map(|(_, len)| *len as i64).collect();
            views.extend(tensor.detach().f_view([-1])?.f_split_with_sizes(lengths, 0)?);
        }
        Ok(views)
    }

    /// Refuses another architecture's.
    pub(crate) fn check_same(&self, other: &Self) -> Result<(), ModelError> {
        let (found, expected) = (other.elements(), self.elements());
        if self == other { Ok(()) } else { Err(ModelError::Shape { what: "parameters of another architecture".into(), found, expected }) }
    }

    /// Overwrites the groups' tensors with [checked](Self::check) canonical ones.
    pub(crate) fn load(&self, canonical: &[Vec<f32>], groups: &[Tensor]) -> Result<(), TchError> {
        let mut data = canonical.iter();
        for (group, tensor) in self.0.iter().zip(groups) {
            let flat = tensor.detach().f_view([-1])?;
            let mut start = 0;
            for ((_, len), data) in group.parts.iter().zip(data.by_ref()) {
                flat.f_narrow(0, start, *len as i64)?.f_copy_(&Tensor::f_from_slice(data)?)?;
                start += *len as i64;
            }
        }
        Ok(())
    }

    /// The canonical tensors, copied out of the groups'.
    pub(crate) fn unload(&self, groups: &[Tensor]) -> Result<Vec<Vec<f32>>, TchError> {
        let mut canonical = Vec::new();
        for (group, tensor) in self.0.iter().zip(groups) {
            let flat = tensor.detach().f_to_device(Device::Cpu)?.f_view([-1])?;
            let mut start = 0;
            for (_, len) in &group.parts {
                canonical.push(Vec::try_from(flat.f_narrow(0, start, *len as i64)?)?);
                start += *len as i64;
            }
        }
        Ok(canonical)
    }
}

fn check_elements(name: &str, len: usize, changes: &[(usize, f32)]) -> Result<(), ModelError> {
    let mut least = 0;
    for &(element, _) in changes {
        if element >= len {
            return Err(ModelError::Element { tensor: name.to_owned(), element, len });
        }
        if element < least {
            return Err(ModelError::Order { tensor: name.to_owned(), element, previous: least - 1 });
        }
        least = element + 1;
    }
    Ok(())
}
