//! The runtime that the node says it runs: metadata, version 15, built from this node's own types.

use frame_metadata::v15::{
    CustomMetadata, ExtrinsicMetadata, OuterEnums, PalletCallMetadata, PalletErrorMetadata, PalletEventMetadata, PalletMetadata,
    PalletStorageMetadata, RuntimeApiMetadata, RuntimeApiMethodMetadata, RuntimeApiMethodParamMetadata, RuntimeMetadataV15,
    SignedExtensionMetadata,
};
use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};
use parity_scale_codec::{Compact, Encode};
use scale_info::{MetaType, Type, TypeDef, meta_type};

use super::extrinsic::{ChargeTransactionPayment, CheckMetadataHash, CheckMortality, CheckNonce, Nothing};
use super::metagraph::Metagraph;
use super::storage;
use super::types::*;

/// A version of the runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub spec_version: u32,
    /// Added to every pallet's index, as another version may have it.
    pub shift: u8,
    /// Names that it lacks: `Pallet`, `Pallet.storage`, `Pallet.call`, `Api.method`.
    pub lacks: Vec<&'static str>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { spec_version: 300, shift: 0, lacks: vec![] }
    }
}

/// The version of the form of extrinsics.
pub const TRANSACTION_VERSION: u32 = 1;

impl Runtime {
    /// What `Core_version` answers.
    pub fn version(&self) -> Vec<u8> {
        let apis: Vec<([u8; 8], u32)> = vec![];
        ("node-subtensor", "node-subtensor", 1u32, self.spec_version, 1u32, apis, TRANSACTION_VERSION, 1u8).encode()
    }

    fn has(&self, name: &str) -> bool {
        !self.lacks.contains(&name)
    }

    /// What `Metadata_metadata_at_version(15)` answers, without the option around it.
    pub fn metadata(&self) -> Vec<u8> {
        let pallets = [
            (0, "System", meta_type::<SystemCall>(), Some(meta_type::<SystemEvent>()), None),
            (2, "Timestamp", meta_type::<TimestampCall>(), None, None),
            (7, "SubtensorModule", meta_type::<SubtensorCall>(), None, Some(meta_type::<SubtensorError>())),
            (11, "Utility", meta_type::<UtilityCall>(), None, None),
            (18, "Commitments", meta_type::<CommitmentsCall>(), None, Some(meta_type::<CommitmentsError>())),
        ];
        let pallets = pallets.into_iter().filter(|pallet| self.has(pallet.1)).map(|(index, name, calls, event, error)| PalletMetadata {
            name,
            storage: self.storage(name),
            calls: Some(PalletCallMetadata { ty: calls }),
            event: event.map(|ty| PalletEventMetadata { ty }),
            constants: vec![],
            error: error.map(|ty| PalletErrorMetadata { ty }),
            index: index + self.shift,
            docs: vec![],
        });
        let outer_enums = OuterEnums {
            call_enum_ty: meta_type::<RuntimeCall>(),
            event_enum_ty: meta_type::<RuntimeEvent>(),
            error_enum_ty: meta_type::<DispatchError>(),
        };
        let custom = CustomMetadata { map: Default::default() };
        let mut metadata = RuntimeMetadataV15::new(pallets.collect(), extrinsic(), meta_type::<()>(), self.apis(), outer_enums, custom);
        for ty in &mut metadata.types.types {
            // clients find this type by its path
            if ty.ty.path.segments.last().is_some_and(|name| name == "DispatchError") {
                ty.ty.path.segments = ["sp_runtime", "DispatchError"].map(String::from).to_vec();
            }
            self.drop_calls(&mut ty.ty);
        }
        RuntimeMetadataPrefixed(0x6174_656d, RuntimeMetadata::V15(metadata)).encode()
    }

    fn storage(&self, pallet: &'static str) -> Option<PalletStorageMetadata> {
        let entries = storage::entries().into_iter().filter(|(of, entry)| *of == pallet && self.has(&format!("{pallet}.{}", entry.name)));
        Some(PalletStorageMetadata { prefix: pallet, entries: entries.map(|(_, entry)| entry).collect() })
    }

    fn apis(&self) -> Vec<RuntimeApiMetadata> {
        let get_metagraph = RuntimeApiMethodMetadata {
            name: "get_metagraph",
            inputs: vec![RuntimeApiMethodParamMetadata { name: "netuid", ty: meta_type::<u16>() }],
            output: meta_type::<Option<Metagraph>>(),
            docs: vec![],
        };
        let methods = [get_metagraph].into_iter().filter(|method| self.has(&format!("SubnetInfoRuntimeApi.{}", method.name)));
        let api = RuntimeApiMetadata { name: "SubnetInfoRuntimeApi", methods: methods.collect(), docs: vec![] };
        [api].into_iter().filter(|api| self.has(api.name)).collect()
    }

    /// Takes the calls that the runtime lacks out of a pallet's calls.
    fn drop_calls(&self, ty: &mut Type<scale_info::form::PortableForm>) {
        let pallet = match ty.path.segments.last().map(String::as_str) {
            Some("SubtensorCall") => "SubtensorModule",
            Some("CommitmentsCall") => "Commitments",
            _ => return,
        };
        if let TypeDef::Variant(calls) = &mut ty.type_def {
            calls.variants.retain(|call| self.has(&format!("{pallet}.{}", call.name)));
        }
    }

    /// The answer with its option and length.
    pub fn opaque_metadata(&self) -> Vec<u8> {
        let metadata = self.metadata();
        [vec![1], Compact(metadata.len() as u32).encode(), metadata].concat()
    }
}

fn extrinsic() -> ExtrinsicMetadata {
    let none = meta_type::<()>();
    let nothing = meta_type::<Nothing>();
    let extension = |identifier, ty: MetaType, additional_signed| SignedExtensionMetadata { identifier, ty, additional_signed };
    ExtrinsicMetadata {
        version: 4,
        address_ty: meta_type::<MultiAddress>(),
        call_ty: meta_type::<RuntimeCall>(),
        signature_ty: meta_type::<MultiSignature>(),
        extra_ty: none,
        signed_extensions: vec![
            extension("CheckNonZeroSender", nothing, none),
            extension("CheckSpecVersion", nothing, meta_type::<u32>()),
            extension("CheckTxVersion", nothing, meta_type::<u32>()),
            extension("CheckGenesis", nothing, meta_type::<H256>()),
            extension("CheckMortality", meta_type::<CheckMortality>(), meta_type::<H256>()),
            extension("CheckNonce", meta_type::<CheckNonce>(), none),
            extension("CheckWeight", nothing, none),
            extension("ChargeTransactionPayment", meta_type::<ChargeTransactionPayment>(), none),
            extension("SubtensorTransactionExtension", nothing, none),
            extension("CheckMetadataHash", meta_type::<CheckMetadataHash>(), meta_type::<Option<[u8; 32]>>()),
        ],
    }
}
