//! What miners and validators sign: envelopes, seal lists, records, countersignatures; and what they commit on the chain.

use wincode::{SchemaRead, SchemaWrite};

use crate::{Digest, Document, DocumentError, Domain, Hotkey, RunId, Signed};

/// Neurons of a subnet at most, and so entries of a seal list.
pub const MAX_NEURONS: usize = 4096;

macro_rules! bincode_document {
    ($type:ty, $domain:expr, $cap:expr) => {
        impl Document for $type {
            const DOMAIN: Domain = $domain;
            const CAP: u64 = $cap;
            fn encode(&self) -> Vec<u8> {
                wincode::serialize(self).expect("lengths are within the encoder's limit")
            }
            fn decode(body: &[u8]) -> Result<Self, DocumentError> {
                wincode::deserialize_exact(body).map_err(|e| DocumentError::Body(e.to_string()))
            }
        }
    };
}

/// A miner's claim to a sealed payload of one round.
#[derive(Clone, Debug, PartialEq, Eq, SchemaRead, SchemaWrite)]
pub struct Envelope {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// Root of the state the miner trained from.
    pub base_root: Digest,
    /// BLAKE3 of the sealed payload.
    pub sealed: Digest,
    /// Its bytes.
    pub sealed_len: u64,
    /// BLAKE3 of the payload once opened.
    pub payload: Digest,
    /// How many sequences of the miner's assignment, from its start, were trained.
    pub sequences: u64,
    /// Tokens trained.
    pub tokens: u64,
}

bincode_document!(Envelope, Domain::Envelope, 512);

/// One entry of a seal list.
#[derive(Clone, Debug, PartialEq, Eq, SchemaRead, SchemaWrite)]
pub struct Sealed {
    /// The miner's uid at the round's open block.
    pub uid: u16,
    /// The signed envelope's bytes.
    pub envelope: Vec<u8>,
}

impl Sealed {
    /// The envelope, its signature checked.
    ///
    /// # Errors
    /// As [`Signed::parse`].
    pub fn open(&self) -> Result<Signed<Envelope>, DocumentError> {
        Signed::parse(&self.envelope)
    }
}

/// The envelopes that a lead fetched by the round's close: only these can be judged.
#[derive(Clone, Debug, PartialEq, Eq, SchemaRead, SchemaWrite)]
pub struct SealList {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// Ascending by uid, each uid at most once.
    pub entries: Vec<Sealed>,
}

bincode_document!(SealList, Domain::SealList, 3 << 20);

/// One payload that a record applies.
#[derive(Clone, Debug, PartialEq, SchemaRead, SchemaWrite)]
pub struct Applied {
    /// The miner's uid at the round's open block.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// BLAKE3 of the payload.
    pub payload: Digest,
    /// Weight in the merge.
    pub weight: f32,
}

/// A validator as the record's lead saw it on the chain.
#[derive(Clone, Debug, PartialEq, Eq, SchemaRead, SchemaWrite)]
pub struct Validator {
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// Its stake in rao.
    pub stake: u64,
}

/// One transition of the run's log.
#[derive(Clone, Debug, PartialEq, SchemaRead, SchemaWrite)]
pub struct Record {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// Digest of the record before (the run id for round 0).
    pub previous: Digest,
    /// Digest of the seal list it was made under.
    pub seal_list: Digest,
    /// Digest of the lead's score sheet.
    pub score_sheet: Digest,
    /// The validators by rank, at the round's open block.
    pub validators: Vec<Validator>,
    /// That block.
    pub open_block: u64,
    /// The payloads applied, in order.
    pub applied: Vec<Applied>,
    /// Root before.
    pub base_root: Digest,
    /// Root after.
    pub root: Digest,
}

bincode_document!(Record, Domain::Record, 1 << 20);

/// A validator's word on a record's testimony.
#[derive(Clone, Debug, PartialEq, SchemaRead, SchemaWrite)]
pub struct Countersign {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// The record.
    pub record: Digest,
    /// Where the validator's own measurement contradicts the sheet's; none means agreement.
    pub dissents: Vec<Dissent>,
}

/// One contradiction.
#[derive(Clone, Debug, PartialEq, SchemaRead, SchemaWrite)]
pub struct Dissent {
    /// The miner.
    pub uid: u16,
    /// What the sheet says and what was found, in words.
    pub reason: String,
}

bincode_document!(Countersign, Domain::Countersign, 1 << 20);

/// What an amendment can change.
#[derive(Clone, Copy, Debug, PartialEq, SchemaRead, SchemaWrite)]
pub enum Change {
    /// The outer learning rate.
    OuterLr(f32),
    /// Payloads per record at most, G.
    Top(u32),
}

/// What a validator says of what another committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SchemaRead, SchemaWrite)]
pub enum Vote {
    /// The bytes behind the digest cannot be had.
    Withheld,
    /// The record's testimony agrees with what was measured here.
    Agrees,
    /// It contradicts what was measured here; the countersignature says where.
    Contradicts,
}

/// What a hotkey commits on the chain, in the chain's order. At most 128 bytes.
#[derive(Clone, Debug, PartialEq, SchemaRead, SchemaWrite)]
pub enum Announcement {
    /// A lead's seal list of a round.
    SealList {
        /// The run.
        run: RunId,
        /// The round.
        round: u64,
        /// [`Signed::digest`] of the list.
        digest: Digest,
    },
    /// A lead's record of a round.
    Record {
        /// The run.
        run: RunId,
        /// The round.
        round: u64,
        /// [`Signed::digest`] of the record.
        digest: Digest,
    },
    /// What the sender, a validator, says of another's seal list or record.
    Vote {
        /// The run.
        run: RunId,
        /// The round.
        round: u64,
        /// The seal list's or record's digest.
        digest: Digest,
        /// What it says.
        vote: Vote,
    },
    /// A change to a running run. Counts from the launch key only, in every round from `from_round` on that opens after this commitment's
    /// block; of two changes to one thing the later one holds.
    Amendment {
        /// The run.
        run: RunId,
        /// The first round it holds for.
        from_round: u64,
        /// What changes.
        change: Change,
    },
}

const ANNOUNCEMENT_MAGIC: &[u8; 4] = b"TRB1";

impl Announcement {
    /// Bytes to commit.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = ANNOUNCEMENT_MAGIC.to_vec();
        bytes.extend(wincode::serialize(self).expect("fixed size"));
        bytes
    }

    /// Bytes to commit when the same was committed before and did not count, because it slipped out of the lead's span: a chain stores equal
    /// bytes once, so the block meant (8 bytes LE) follows.
    pub fn encode_again(&self, block: u64) -> Vec<u8> {
        [self.encode().as_slice(), &block.to_le_bytes()].concat()
    }

    /// Reads a commitment; `None` for everything that is not ours, which a chain may carry too.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let body = bytes.strip_prefix(ANNOUNCEMENT_MAGIC)?;
        let exact = |body: &[u8]| wincode::deserialize_exact(body).ok();
        exact(body).or_else(|| exact(&body[..body.len().checked_sub(8)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Keypair;

    fn envelope() -> Envelope {
        let d = Digest::of(b"x");
        Envelope { run: d, round: 3, base_root: d, sealed: d, sealed_len: 9, payload: d, sequences: 4, tokens: 512 }
    }

    #[test]
    fn a_signed_document_reads_back_and_every_flipped_bit_is_refused() {
        let signed = Signed::new(envelope(), &Keypair::from_seed(&[1; 32]));
        let bytes = signed.to_bytes().to_vec();
        assert_eq!(Signed::<Envelope>::parse(&bytes), Ok(signed));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Signed::<Envelope>::parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn truncated_and_oversized_documents_are_refused() {
        let bytes = Signed::new(envelope(), &Keypair::from_seed(&[1; 32])).to_bytes().to_vec();
        for len in 0..bytes.len() {
            assert!(Signed::<Envelope>::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(matches!(Signed::<Envelope>::parse(&[0; 513]), Err(DocumentError::TooLarge { found: 513, cap: 512 })));
    }

    #[test]
    fn a_body_with_trailing_bytes_is_refused_even_when_signed() {
        let pair = Keypair::from_seed(&[1; 32]);
        let mut body = envelope().encode();
        body.push(0);
        let mut bytes = pair.sign(Domain::Envelope, &body).to_vec();
        bytes.extend_from_slice(&pair.hotkey().0);
        bytes.extend(body);
        assert!(matches!(Signed::<Envelope>::parse(&bytes), Err(DocumentError::Body(_))));
    }

    #[test]
    fn an_envelope_does_not_pass_as_a_seal_list() {
        let bytes = Signed::new(envelope(), &Keypair::from_seed(&[1; 32])).to_bytes().to_vec();
        assert_eq!(Signed::<SealList>::parse(&bytes).err(), Some(DocumentError::Signature));
    }

    #[test]
    fn bodies_are_their_fields_in_order() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let envelope = Envelope { run: a, round: 3, base_root: b, sealed: a, sealed_len: 9, payload: b, sequences: 4, tokens: 512 };
        let [three, nine, four, tokens] = [3u64, 9, 4, 512].map(u64::to_le_bytes);
        assert_eq!(envelope.encode(), [&a.0[..], &three, &b.0, &a.0, &nine, &b.0, &four, &tokens].concat());
        let list = SealList { run: a, round: 3, entries: vec![Sealed { uid: 258, envelope: vec![7; 4] }] };
        let [one] = [1u64].map(u64::to_le_bytes);
        assert_eq!(list.encode(), [&a.0[..], &three, &one, &[2, 1], &four, &[7; 4]].concat());
        let said = Announcement::Vote { run: a, round: 3, digest: b, vote: Vote::Contradicts };
        assert_eq!(said.encode(), [&b"TRB1"[..], &2u32.to_le_bytes(), &a.0, &three, &b.0, &2u32.to_le_bytes()].concat());
    }

    #[test]
    fn a_list_that_claims_more_entries_than_bytes_is_refused() {
        let mut body = SealList { run: Digest::default(), round: 0, entries: vec![] }.encode();
        let count = body.len() - 8;
        body[count..].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(SealList::decode(&body).is_err());
        body[count..].copy_from_slice(&(1u64 << 20).to_le_bytes());
        assert!(SealList::decode(&body).is_err());
    }

    #[test]
    fn the_largest_documents_fit_their_caps() {
        let pair = Keypair::from_seed(&[1; 32]);
        let envelope = Signed::new(envelope(), &pair).to_bytes().to_vec();
        let sealed = Sealed { uid: 0, envelope: vec![0; Envelope::CAP as usize] };
        let list = SealList { run: Digest::default(), round: 0, entries: vec![sealed; MAX_NEURONS] };
        assert!(envelope.len() as u64 <= Envelope::CAP);
        assert!(Signed::<SealList>::parse(Signed::new(list, &pair).to_bytes()).is_ok());
        let d = Digest::default();
        let record = Record {
            run: d,
            round: 0,
            previous: d,
            seal_list: d,
            score_sheet: d,
            validators: vec![Validator { hotkey: pair.hotkey(), stake: 1 }; MAX_NEURONS],
            open_block: 0,
            applied: vec![Applied { uid: 0, hotkey: pair.hotkey(), payload: d, weight: 1.0 }; MAX_NEURONS],
            base_root: d,
            root: d,
        };
        assert!(Signed::<Record>::parse(Signed::new(record, &pair).to_bytes()).is_ok());
    }

    #[test]
    fn bodies_are_bincode() {
        let e = Envelope { tokens: u64::MAX, ..envelope() };
        let fields = (e.run.0, e.round, e.base_root.0, e.sealed.0, e.sealed_len, e.payload.0, e.sequences, e.tokens);
        assert_eq!(Ok(e.encode()), bincode::encode_to_vec(fields, bincode::config::legacy()).map_err(|e| e.to_string()));
        let (a, b) = (Sealed { uid: 1, envelope: vec![1, 2, 3] }, Sealed { uid: 700, envelope: Vec::new() });
        let list = SealList { run: e.run, round: 9, entries: vec![a.clone(), b.clone()] };
        let fields = (list.run.0, list.round, vec![(a.uid, a.envelope), (b.uid, b.envelope)]);
        assert_eq!(Ok(list.encode()), bincode::encode_to_vec(fields, bincode::config::legacy()).map_err(|e| e.to_string()));
    }

    #[test]
    fn announcements_read_back_and_foreign_commitments_are_passed_over() {
        let said = Announcement::Record { run: Digest::of(b"r"), round: 7, digest: Digest::of(b"d") };
        assert_eq!(Announcement::decode(&said.encode()), Some(said.clone()));
        assert!(said.encode().len() <= 128);
        assert_eq!(Announcement::decode(b"https://example.org/bucket"), None);
        assert_eq!(Announcement::decode(&said.encode_again(99)), Some(said.clone()));
        assert_ne!(said.encode_again(99), said.encode_again(100));
        let mut long = said.encode();
        long.push(0);
        assert_eq!(Announcement::decode(&long), None);
    }
}
