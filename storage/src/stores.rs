//! How a process opens buckets.

use crate::{Access, Bucket, Budget, Faults, StorageError};

/// How a process opens buckets. Cheap to clone; clones share the budget.
#[derive(Clone, Debug)]
pub struct Stores {
    /// How far other nodes' buckets are trusted.
    pub peers: Access,
    /// What all transfers use together.
    pub budget: Budget,
    /// What their requests suffer, to see how a node bears it.
    pub faults: Option<Faults>,
}

impl From<Access> for Stores {
    /// Other nodes' buckets are trusted as far as `peers` says; default budget.
    fn from(peers: Access) -> Self {
        Self { peers, budget: Budget::default(), faults: None }
    }
}

impl Stores {
    /// Opens a bucket as [`Bucket::open`] does.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn open(&self, address: &str, access: Access) -> Result<Bucket, StorageError> {
        let bucket = Bucket::open(address, access)?.with_budget(self.budget.clone());
        Ok(self.faults.iter().fold(bucket, Bucket::with_faults))
    }

    /// Opens another node's bucket.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn open_peer(&self, address: &str) -> Result<Bucket, StorageError> {
        self.open(address, self.peers)
    }
}
