//! btcli's encryption of key files: `$NACL` ‖ nonce (24 bytes) ‖ XSalsa20-Poly1305 under an Argon2i key.

use argon2::{Algorithm, Argon2, Params, Version};
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};
use zeroize::Zeroizing;

use super::WalletError;

/// What an encrypted file begins with.
const PREFIX: &[u8] = b"$NACL";
const NONCE: usize = 24;
/// The salt of every btcli installation.
const SALT: [u8; 16] = [0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1];

/// The price of one guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    memory_kib: u32,
    passes: u32,
}

impl Cost {
    /// What btcli uses, libsodium's "sensitive": 512 MiB, 8 passes; several seconds.
    pub(super) const BTCLI: Self = Self { memory_kib: 512 << 10, passes: 8 };
    /// For tests.
    #[cfg(test)]
    pub(super) const TRIVIAL: Self = Self { memory_kib: 64, passes: 1 };

    fn cipher(self, password: &str) -> Result<XSalsa20Poly1305, WalletError> {
        let failed = |e: argon2::Error| WalletError::Derivation(e.to_string());
        let params = Params::new(self.memory_kib, self.passes, 1, Some(32)).map_err(failed)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &SALT, &mut *key)
            .map_err(failed)?;
        Ok(XSalsa20Poly1305::new((&*key).into()))
    }
}

/// The bytes after `$NACL`, if the file is encrypted so.
pub(super) fn sealed(file: &[u8]) -> Option<&[u8]> {
    file.strip_prefix(PREFIX)
}

/// The encryption of earlier btcli versions that the file has, if any.
pub(super) fn old_method(file: &[u8]) -> Option<&'static str> {
    match file {
        _ if file.starts_with(b"$ANSIBLE_VAULT") => Some("Ansible vault"),
        _ if file.starts_with(b"gAAAAA") => Some("Fernet"),
        _ => None,
    }
}

/// Decrypts what [`sealed`] returned; `None` if the password is wrong or the bytes were changed.
pub(super) fn unseal(sealed: &[u8], password: &str, cost: Cost) -> Result<Option<Zeroizing<Vec<u8>>>, WalletError> {
    let Some((nonce, ciphertext)) = sealed.split_first_chunk::<NONCE>() else {
        return Ok(None);
    };
    Ok(cost.cipher(password)?.decrypt(nonce.into(), ciphertext).ok().map(Zeroizing::new))
}

/// An encrypted file.
pub(super) fn seal(plain: &[u8], password: &str, cost: Cost) -> Result<Vec<u8>, WalletError> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|e| WalletError::Random(e.to_string()))?;
    let ciphertext = cost.cipher(password)?.encrypt((&nonce).into(), plain).expect("a key file is shorter than the cipher's limit");
    Ok([PREFIX, &nonce, &ciphertext].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_password_opens_and_every_byte_counts() {
        let mut file = seal(b"secret", "pass", Cost::TRIVIAL).unwrap();
        let open = |file: &[u8], password| unseal(sealed(file).unwrap(), password, Cost::TRIVIAL).unwrap().map(|plain| plain.to_vec());
        assert_eq!(open(&file, "pass").as_deref(), Some(&b"secret"[..]));
        assert_eq!(open(&file, "Pass"), None);
        assert_eq!(open(&file[..20], "pass"), None);
        *file.last_mut().unwrap() ^= 1;
        assert_eq!(open(&file, "pass"), None);
    }
}
