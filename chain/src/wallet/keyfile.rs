//! The JSON inside a key file.

use std::path::Path;

use protocol::{Hotkey, Keypair};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Phrase, WalletError};

/// sr25519, the one `cryptoType` in use.
const SR25519: u64 = 1;
/// Room for the JSON of any key, so that writing it leaves no copies behind by growing.
const CAPACITY: usize = 2048;

/// A text that is wiped on drop.
struct Secret(Zeroizing<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Secret {
    fn hex(bytes: &[u8]) -> Self {
        let digits = Zeroizing::new(hex::encode(bytes));
        Self(Zeroizing::new(["0x", &digits].concat()))
    }

    /// `N` bytes of hex, with or without 0x.
    fn bytes<const N: usize>(&self) -> Option<Zeroizing<[u8; N]>> {
        let mut bytes = Zeroizing::new([0; N]);
        let digits = self.0.strip_prefix("0x").unwrap_or(&self.0);
        hex::decode_to_slice(digits, &mut *bytes).ok().map(|()| bytes)
    }
}

/// The fields of btcli; others are ignored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_phrase: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_seed: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ss58_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crypto_type: Option<Value>,
}

impl Fields {
    fn parse(json: &[u8], path: &Path) -> Result<Self, WalletError> {
        // serde's own message could quote a secret
        let fields: Self =
            serde_json::from_slice(json).map_err(|_| WalletError::Format { path: path.to_owned(), what: "it is not the JSON of a key" })?;
        match &fields.crypto_type {
            None | Some(Value::Null) => Ok(fields),
            Some(Value::Number(number)) if number.as_u64() == Some(SR25519) => Ok(fields),
            Some(Value::String(text)) if text == "1" => Ok(fields),
            Some(other) => Err(WalletError::CryptoType { path: path.to_owned(), found: other.to_string() }),
        }
    }

    /// The address the file states; where it is stated several times, all agree.
    fn stored(&self, path: &Path) -> Result<Hotkey, WalletError> {
        let refuse = |what| WalletError::Format { path: path.to_owned(), what };
        let mut stated = Vec::new();
        for key in [&self.public_key, &self.account_id].into_iter().flatten() {
            let mut bytes = [0; 32];
            hex::decode_to_slice(key.strip_prefix("0x").unwrap_or(key), &mut bytes)
                .map_err(|_| refuse("its public key is not 32 bytes of hex"))?;
            stated.push(Hotkey(bytes));
        }
        if let Some(address) = &self.ss58_address {
            stated.push(address.parse().map_err(|_| refuse("its address is not SS58 of prefix 42"))?);
        }
        let first = *stated.first().ok_or_else(|| refuse("it states neither address nor public key"))?;
        if stated.iter().all(|key| *key == first) { Ok(first) } else { Err(refuse("its address and public keys differ")) }
    }

    /// The pairs of all secrets that can be read; there are real files with an unreadable seed beside a good private key.
    fn pairs(&self) -> impl Iterator<Item = Keypair> {
        let seed = self.secret_seed.as_ref().and_then(|s| s.bytes()).map(|seed| Keypair::from_seed(&seed));
        let phrase = || self.secret_phrase.as_ref().and_then(|s| s.0.parse::<Phrase>().ok()).map(|phrase| phrase.keypair());
        let private = || self.private_key.as_ref().and_then(|s| s.bytes()).and_then(|key| Keypair::from_secret(&key));
        seed.into_iter().chain(std::iter::once_with(private).flatten()).chain(std::iter::once_with(phrase).flatten())
    }
}

/// The public key a (public or plain) key file states.
pub(super) fn public(json: &[u8], path: &Path) -> Result<Hotkey, WalletError> {
    Fields::parse(json, path)?.stored(path)
}

/// The key pair of a plain key file: of its secrets, the first that gives the stated address.
pub(super) fn keypair(json: &[u8], path: &Path) -> Result<Keypair, WalletError> {
    let fields = Fields::parse(json, path)?;
    let stored = fields.stored(path)?;
    let mut pairs = fields.pairs().peekable();
    if pairs.peek().is_none() {
        return Err(WalletError::NoSecret(path.to_owned()));
    }
    pairs.find(|pair| pair.hotkey() == stored).ok_or_else(|| WalletError::AddressMismatch { path: path.to_owned(), stored })
}

fn fields(key: Hotkey) -> Fields {
    let hex = format!("0x{}", hex::encode(key.0));
    Fields {
        account_id: Some(hex.clone()),
        public_key: Some(hex),
        private_key: None,
        secret_phrase: None,
        secret_seed: None,
        ss58_address: Some(key.ss58()),
        crypto_type: Some(SR25519.into()),
    }
}

fn to_json(fields: &Fields) -> Zeroizing<Vec<u8>> {
    let mut json = Zeroizing::new(Vec::with_capacity(CAPACITY));
    serde_json::to_writer(&mut *json, fields).expect("strings can be written to memory");
    json
}

/// The file of a public key.
pub(super) fn public_json(key: Hotkey) -> Zeroizing<Vec<u8>> {
    to_json(&fields(key))
}

/// The plain file of a phrase's key.
pub(super) fn secret_json(phrase: &Phrase) -> Zeroizing<Vec<u8>> {
    let pair = phrase.keypair();
    let mut fields = fields(pair.hotkey());
    fields.private_key = Some(Secret::hex(pair.secret().as_slice()));
    fields.secret_phrase = Some(Secret(Zeroizing::new(phrase.reveal().to_owned())));
    fields.secret_seed = Some(Secret::hex(phrase.seed().as_slice()));
    to_json(&fields)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn phrase() -> Phrase {
        "bottom drive obey lake curtain smoke basket hold race lonely fit walk".parse().unwrap()
    }

    fn read(value: &Value) -> Result<Keypair, WalletError> {
        keypair(value.to_string().as_bytes(), Path::new("key"))
    }

    fn written() -> Value {
        serde_json::from_slice(&secret_json(&phrase())).unwrap()
    }

    #[test]
    fn any_one_secret_is_enough() {
        let address = phrase().keypair().hotkey();
        for kept in ["secretSeed", "secretPhrase", "privateKey"] {
            let value = json!({ kept: written()[kept], "ss58Address": address.ss58() });
            assert_eq!(read(&value).unwrap().hotkey(), address, "{kept}");
        }
    }

    #[test]
    fn an_unreadable_seed_does_not_hide_a_good_private_key() {
        let mut value = written();
        value["secretSeed"] = json!("0x\u{7}\u{7}");
        value["secretPhrase"] = Value::Null;
        assert_eq!(read(&value).unwrap().hotkey(), phrase().keypair().hotkey());
    }

    #[test]
    fn other_types_of_key_are_refused() {
        let with = |crypto_type: Value| {
            let mut value = written();
            value["cryptoType"] = crypto_type;
            read(&value)
        };
        assert!(with(json!("1")).is_ok() && with(Value::Null).is_ok());
        for other in [json!(0), json!("0"), json!(2), json!("ed25519"), json!(true)] {
            assert!(matches!(with(other.clone()), Err(WalletError::CryptoType { .. })), "{other}");
        }
    }

    #[test]
    fn a_secret_of_another_address_is_refused() {
        let other = Phrase::generate().unwrap().keypair().hotkey();
        let value = json!({ "secretSeed": written()["secretSeed"], "ss58Address": other.ss58() });
        assert!(matches!(read(&value), Err(WalletError::AddressMismatch { stored, .. }) if stored == other));
        let mut value = written();
        value["ss58Address"] = json!(other.ss58());
        assert!(matches!(read(&value), Err(WalletError::Format { .. })), "address and public key differ");
    }

    #[test]
    fn what_is_no_key_is_refused_without_quoting_it() {
        let address = phrase().keypair().hotkey().ss58();
        assert!(matches!(read(&json!({ "ss58Address": address })), Err(WalletError::NoSecret(_))));
        assert!(matches!(read(&json!({ "secretSeed": written()["secretSeed"] })), Err(WalletError::Format { .. })));
        assert!(matches!(read(&json!({ "ss58Address": "5Nothing" })), Err(WalletError::Format { .. })));
        let error = read(&json!({ "secretPhrase": ["top secret"] })).unwrap_err();
        assert!(matches!(error, WalletError::Format { .. }) && !error.to_string().contains("top"));
    }
}
