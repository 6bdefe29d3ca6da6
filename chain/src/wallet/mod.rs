//! Wallets as btcli lays them out: `ROOT/NAME/{coldkey, coldkeypub.txt, hotkeys/KEY, hotkeys/KEYpub.txt}`.

mod encryption;
mod error;
mod keyfile;
mod password;
mod phrase;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use encryption::Cost;
pub use error::WalletError;
pub use password::{password_variable, unmask_password};
pub use phrase::Phrase;
use protocol::{Hotkey, Keypair};
use zeroize::Zeroizing;

/// The largest file that is read as a key.
const MAX_KEYFILE: u64 = 64 << 10;
const PUBLIC_SUFFIX: &str = "pub.txt";

/// A wallet: one coldkey, which owns, and hotkeys, which act. Holds no secrets itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    dir: PathBuf,
    name: String,
}

impl Wallet {
    /// Creates a wallet whose coldkey is `phrase`'s, encrypted if there is a password (which takes several seconds and 512 MiB).
    ///
    /// # Errors
    /// [`WalletError::Exists`] if there is a coldkey of that name, and what the file system says.
    pub fn create(root: &Path, name: &str, phrase: &Phrase, password: Option<&str>) -> Result<Self, WalletError> {
        let wallet = Self::at(root, name)?;
        write_pair(&wallet.dir.join("coldkey"), phrase, password, Cost::BTCLI)?;
        Ok(wallet)
    }

    /// An existing wallet; it may have hotkeys only, as on machines that must not hold a coldkey.
    ///
    /// # Errors
    /// [`WalletError::Missing`] if there is none.
    pub fn open(root: &Path, name: &str) -> Result<Self, WalletError> {
        let wallet = Self::at(root, name)?;
        if wallet.dir.is_dir() { Ok(wallet) } else { Err(WalletError::Missing(wallet.dir)) }
    }

    /// The wallets under `root`, by name; none if there is no such folder.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list(root: &Path) -> Result<Vec<Self>, WalletError> {
        names(root)?.into_iter().filter(|name| root.join(name).is_dir()).map(|name| Self::at(root, &name)).collect()
    }

    fn at(root: &Path, name: &str) -> Result<Self, WalletError> {
        Ok(Self { dir: root.join(checked(name)?), name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn hotkey_path(&self, hotkey: &str) -> Result<PathBuf, WalletError> {
        Ok(self.dir.join("hotkeys").join(checked(hotkey)?))
    }

    /// Writes `phrase`'s key as the hotkey `hotkey`, not encrypted, since miners and validators start unattended.
    ///
    /// # Errors
    /// [`WalletError::Exists`] if there is a hotkey of that name, and what the file system says.
    pub fn create_hotkey(&self, hotkey: &str, phrase: &Phrase) -> Result<Keypair, WalletError> {
        write_pair(&self.hotkey_path(hotkey)?, phrase, None, Cost::BTCLI)?;
        Ok(phrase.keypair())
    }

    /// The names of its hotkeys, sorted.
    ///
    /// # Errors
    /// What the file system says.
    pub fn hotkeys(&self) -> Result<Vec<String>, WalletError> {
        let all = names(&self.dir.join("hotkeys"))?;
        Ok(all.into_iter().filter(|name| !name.ends_with(PUBLIC_SUFFIX)).collect())
    }

    /// A hotkey's pair; `password` is only used if the file is encrypted.
    ///
    /// # Errors
    /// [`WalletError`] says whether the file, its contents or the password is at fault.
    pub fn hotkey(&self, hotkey: &str, password: Option<&str>) -> Result<Keypair, WalletError> {
        read_pair(&self.hotkey_path(hotkey)?, password, Cost::BTCLI)
    }

    /// A hotkey's address, without its secret.
    ///
    /// # Errors
    /// [`WalletError`] if neither its public nor its plain file can be read.
    pub fn hotkey_public(&self, hotkey: &str) -> Result<Hotkey, WalletError> {
        read_public(&self.hotkey_path(hotkey)?)
    }

    /// The coldkey's pair; `password` is only used if the file is encrypted.
    ///
    /// # Errors
    /// [`WalletError`] says whether the file, its contents or the password is at fault.
    pub fn coldkey(&self, password: Option<&str>) -> Result<Keypair, WalletError> {
        read_pair(&self.dir.join("coldkey"), password, Cost::BTCLI)
    }

    /// The coldkey's address, without its secret.
    ///
    /// # Errors
    /// [`WalletError`] if neither its public nor its plain file can be read.
    pub fn coldkey_public(&self) -> Result<Hotkey, WalletError> {
        read_public(&self.dir.join("coldkey"))
    }
}

/// Only plain file names, so that a name never leads out of the wallet's folder.
fn checked(name: &str) -> Result<&str, WalletError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = (1..=64).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.');
    if fits { Ok(name) } else { Err(WalletError::Name(name.to_owned())) }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> WalletError {
    move |source| match source.kind() {
        ErrorKind::NotFound => WalletError::Missing(path.to_owned()),
        ErrorKind::AlreadyExists => WalletError::Exists(path.to_owned()),
        _ => WalletError::Io { path: path.to_owned(), source },
    }
}

/// The plain names in a folder, sorted; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>, WalletError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io(dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(io(dir))?.file_name().into_string();
        names.extend(name.ok().filter(|name| checked(name).is_ok()));
    }
    names.sort();
    Ok(names)
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PUBLIC_SUFFIX);
    name.into()
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, WalletError> {
    let file = File::open(path).map_err(io(path))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_KEYFILE + 1).read_to_end(&mut bytes).map_err(io(path))?;
    if bytes.len() as u64 > MAX_KEYFILE { Err(WalletError::TooLarge(path.to_owned())) } else { Ok(bytes) }
}

fn read_pair(path: &Path, password: Option<&str>, cost: Cost) -> Result<Keypair, WalletError> {
    let file = read(path)?;
    if let Some(method) = encryption::old_method(&file) {
        return Err(WalletError::OldEncryption { path: path.to_owned(), method });
    }
    let Some(sealed) = encryption::sealed(&file) else {
        return keyfile::keypair(&file, path);
    };
    let password = password.ok_or_else(|| WalletError::PasswordNeeded(path.to_owned()))?;
    let plain = encryption::unseal(sealed, password, cost)?.ok_or_else(|| WalletError::WrongPassword(path.to_owned()))?;
    keyfile::keypair(&plain, path)
}

/// From the public file or, where that is missing, from the plain key file.
fn read_public(path: &Path) -> Result<Hotkey, WalletError> {
    let public = public_path(path);
    match read(&public) {
        Ok(json) => keyfile::public(&json, &public),
        Err(WalletError::Missing(_)) => read_pair(path, None, Cost::BTCLI).map(|pair| pair.hotkey()),
        Err(error) => Err(error),
    }
}

fn write_pair(path: &Path, phrase: &Phrase, password: Option<&str>, cost: Cost) -> Result<(), WalletError> {
    let public = public_path(path);
    if let Some(taken) = [path, &public].into_iter().find(|path| path.exists()) {
        return Err(WalletError::Exists(taken.to_owned()));
    }
    let plain = keyfile::secret_json(phrase);
    match password {
        Some("") => return Err(WalletError::EmptyPassword),
        Some(password) => write_new(path, &encryption::seal(&plain, password, cost)?)?,
        None => write_new(path, &plain)?,
    }
    write_new(&public, &keyfile::public_json(phrase.keypair().hotkey()))
}

/// Writes a file that only its owner may read, whole or not at all, and never over another.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), WalletError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // unlike a rename, a link fails if the name is taken
        fs::hard_link(&temporary, path)
    };
    let written = write();
    let cleaned = fs::remove_file(&temporary);
    written.and(cleaned).map_err(io(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use protocol::Domain;

    use super::*;

    const DEV: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

    /// Files that btcli's own library (bittensor-wallet 4.1.1) wrote.
    fn foreign() -> Wallet {
        foreign_of("alice")
    }

    fn foreign_of(name: &str) -> Wallet {
        Wallet::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wallets"), name).unwrap()
    }

    #[test]
    fn files_of_btcli_are_read() {
        let wallet = foreign();
        assert_eq!(wallet.hotkeys().unwrap(), ["phrase", "seed"]);
        assert_eq!(wallet.coldkey_public().unwrap().ss58(), DEV);
        assert_eq!(wallet.hotkey("phrase", None).unwrap().hotkey().ss58(), DEV);
        // its secretSeed is garbled, as that library writes it for keys made from a seed
        let seed = wallet.hotkey("seed", None).unwrap().hotkey();
        assert_eq!(seed.ss58(), "5EsNLFaGe9XK5LzWH3i6eC2Wqv6YqZS1442N1C4yeSdP6uxy");
        assert_eq!(wallet.hotkey_public("seed").unwrap(), seed);
    }

    #[test]
    fn plain_coldkeys_and_bare_private_keys_of_btcli_are_read() {
        let wallet = foreign_of("bob");
        assert_eq!(wallet.coldkey_public().unwrap().ss58(), DEV);
        let coldkey = wallet.coldkey(None).unwrap();
        assert_eq!(coldkey.hotkey().ss58(), DEV);
        assert_eq!(wallet.hotkey("private", None).unwrap().secret(), coldkey.secret());
        assert!(matches!(wallet.hotkey("ed25519", None), Err(WalletError::CryptoType { found, .. }) if found == "0"));
        // what that library signed with the coldkey
        let signature = "fe35d6791761fb93f86ac6e1afbd3fec52ee1cbbac59326f23737a9d1c92a844b227f67a830ccc183155d0205e57cabda0c5cef5da499f06d25b6af0bf69d582";
        let signature: [u8; 64] = hex::decode(signature).unwrap().try_into().unwrap();
        assert!(protocol::verify(&coldkey.hotkey(), Domain::Text, b"a text that both sign", &signature));
        assert!(!protocol::verify(&coldkey.hotkey(), Domain::Text, b"another text", &signature));
    }

    #[test]
    fn a_coldkey_that_btcli_encrypted_opens() {
        assert!(matches!(foreign().coldkey(None), Err(WalletError::PasswordNeeded(_))));
        assert_eq!(foreign().coldkey(Some("correct horse")).unwrap().hotkey().ss58(), DEV);
    }

    #[test]
    fn what_is_written_reads_back_and_only_the_owner_may_read_it() {
        let root = tempfile::tempdir().unwrap();
        let (cold, hot) = (Phrase::generate().unwrap(), Phrase::generate().unwrap());
        assert_eq!(Wallet::list(&root.path().join("none")).unwrap(), []);
        let wallet = Wallet::create(root.path(), "w", &cold, None).unwrap();
        wallet.create_hotkey("h", &hot).unwrap();
        let wallet = Wallet::open(root.path(), "w").unwrap();
        assert_eq!(Wallet::list(root.path()).unwrap(), std::slice::from_ref(&wallet));
        assert_eq!(wallet.hotkeys().unwrap(), ["h"]);
        assert_eq!(wallet.coldkey_public().unwrap(), cold.keypair().hotkey());
        assert_eq!(wallet.coldkey(None).unwrap().hotkey(), cold.keypair().hotkey());
        assert_eq!(wallet.hotkey("h", None).unwrap().secret(), hot.keypair().secret());
        for file in ["coldkey", "coldkeypub.txt", "hotkeys/h", "hotkeys/hpub.txt"] {
            let mode = fs::metadata(root.path().join("w").join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert_eq!(fs::read_dir(root.path().join("w/hotkeys")).unwrap().count(), 2, "no temporary file is left");
        fs::remove_file(root.path().join("w/hotkeys/hpub.txt")).unwrap();
        assert_eq!(wallet.hotkey_public("h").unwrap(), hot.keypair().hotkey());
    }

    #[test]
    fn encrypted_keys_need_their_password() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let phrase = Phrase::generate().unwrap();
        assert!(matches!(write_pair(&path, &phrase, Some(""), Cost::TRIVIAL), Err(WalletError::EmptyPassword)));
        write_pair(&path, &phrase, Some("pass"), Cost::TRIVIAL).unwrap();
        assert!(matches!(read_pair(&path, Some("word"), Cost::TRIVIAL), Err(WalletError::WrongPassword(_))));
        assert_eq!(read_pair(&path, Some("pass"), Cost::TRIVIAL).unwrap().hotkey(), phrase.keypair().hotkey());
        assert_eq!(read_public(&path).unwrap(), phrase.keypair().hotkey());
    }

    #[test]
    fn no_key_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (Phrase::generate().unwrap(), Phrase::generate().unwrap());
        Wallet::create(root.path(), "w", &first, None).unwrap();
        assert!(matches!(Wallet::create(root.path(), "w", &second, None), Err(WalletError::Exists(_))));
        fs::remove_file(root.path().join("w/coldkey")).unwrap();
        assert!(matches!(Wallet::create(root.path(), "w", &second, None), Err(WalletError::Exists(_))), "the public file is another's");
        assert!(matches!(write_new(&root.path().join("w/coldkeypub.txt"), b""), Err(WalletError::Exists(_))));
        assert_eq!(Wallet::open(root.path(), "w").unwrap().coldkey_public().unwrap(), first.keypair().hotkey());
    }

    #[test]
    fn names_never_lead_out_of_the_wallet() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", "..", ".hidden", "a/b", "/etc", "a\0b", &"x".repeat(65)] {
            assert!(matches!(Wallet::open(root.path(), name), Err(WalletError::Name(_))), "{name:?}");
        }
        assert!(matches!(foreign().hotkey("../coldkey", None), Err(WalletError::Name(_))));
    }

    #[test]
    fn missing_huge_and_old_files_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(Wallet::open(root.path(), "w"), Err(WalletError::Missing(_))));
        assert!(matches!(foreign().hotkey("nobody", None), Err(WalletError::Missing(_))));
        let path = root.path().join("key");
        fs::write(&path, vec![b' '; MAX_KEYFILE as usize + 1]).unwrap();
        assert!(matches!(read_pair(&path, None, Cost::TRIVIAL), Err(WalletError::TooLarge(_))));
        for (old, method) in [("$ANSIBLE_VAULT;1.1", "Ansible vault"), ("gAAAAABk", "Fernet")] {
            fs::write(&path, old).unwrap();
            assert!(matches!(read_pair(&path, None, Cost::TRIVIAL), Err(WalletError::OldEncryption { method: m, .. }) if m == method));
        }
    }
}
