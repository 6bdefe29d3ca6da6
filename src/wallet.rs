//! `tributary wallet`: make, list and use keys, in the files of btcli.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use chain::wallet::{password_variable, unmask_password};
use chain::{Phrase, Wallet, WalletError};
use clap::{ArgGroup, Args, Subcommand};
use protocol::{Domain, Hotkey, Keypair};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{cli::KeyArgs, context, output};

/// The environment variable with any key's password, plain. btcli's own variables, one for each key file, come before it.
const PASSWORD_VARIABLE: &str = "BT_PW";
/// The longest password or message line that is read, in bytes.
const MAX_LINE: u64 = 4096;

/// Options of `tributary wallet`.
#[derive(Debug, Args)]
#[command(after_help = "\
A wallet is a folder as btcli lays it out: a coldkey, which owns, and hotkeys, which act. Miners and validators need their hotkey only.

Examples:
  tributary wallet new alice --encrypt
  tributary wallet new alice --hotkey miner-2
  tributary wallet sign --wallet alice --message hello
  tributary wallet verify --address 5F… --message hello --signature 0x…")]
pub struct WalletArgs {
    #[command(subcommand)]
    command: WalletCommand,
}

#[derive(Debug, Subcommand)]
enum WalletCommand {
    /// Make a wallet with a coldkey and a hotkey, or one more hotkey of a wallet.
    New(NewArgs),
    /// List the wallets and their hotkeys.
    List(ListArgs),
    /// Show one wallet's addresses.
    Show(ShowArgs),
    /// Sign a text with a hotkey or a coldkey.
    Sign(SignArgs),
    /// Check the signature of a text.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct RootArgs {
    /// Folder of the wallets.
    #[arg(long, value_name = "DIR", env = "TRIBUTARY_WALLETS", default_value = "~/.bittensor/wallets")]
    wallet_path: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct NewArgs {
    /// The wallet's name.
    name: String,
    /// The new hotkey's name.
    #[arg(long, value_name = "NAME", default_value = "default")]
    hotkey: String,
    /// Encrypt the new coldkey (hotkeys stay plain: miners and validators start unattended).
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    password: PasswordArgs,
    /// Do not show the secret phrases. They are shown once, on the terminal, and never where standard error is no terminal.
    #[arg(long)]
    quiet_phrase: bool,
    #[command(flatten)]
    root: RootArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    root: RootArgs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The wallet's name.
    name: String,
    #[command(flatten)]
    root: RootArgs,
}

#[derive(Debug, Args)]
struct SignArgs {
    #[command(flatten)]
    keys: KeyArgs,
    /// Sign with the coldkey instead of the hotkey.
    #[arg(long)]
    coldkey: bool,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    password: PasswordArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Who signed: an address (ss58).
    #[arg(long, value_name = "SS58")]
    address: Hotkey,
    #[command(flatten)]
    message: MessageArgs,
    /// The signature: 128 hex digits.
    #[arg(long, value_name = "HEX", value_parser = parse_signature)]
    signature: [u8; 64],
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("content").required(true))]
struct MessageArgs {
    /// The text.
    #[arg(long, value_name = "TEXT", group = "content")]
    message: Option<String>,
    /// A file with the text, which is taken byte for byte.
    #[arg(long, value_name = "PATH", group = "content")]
    file: Option<PathBuf>,
}

/// Where a password comes from.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Read the password from this open file descriptor, up to the line's end. Otherwise it is taken from the environment: from the variable
    /// that btcli fills for the key file (BT_PW_ and its path), or from BT_PW, where it stands as it is; and otherwise asked for.
    #[arg(long, value_name = "N")]
    password_fd: Option<u32>,
}

/// Runs the command.
pub fn run(args: WalletArgs) -> Result<()> {
    match args.command {
        WalletCommand::New(args) => new(&args),
        WalletCommand::List(ListArgs { root }) => {
            let wallets = Wallet::list(&context::expand(&root.wallet_path))?;
            let wallets = Listing(wallets.iter().map(Addresses::of).collect::<Result<_>>()?);
            output::report(&wallets, root.json);
            Ok(())
        }
        WalletCommand::Show(ShowArgs { name, root }) => {
            let wallet = Wallet::open(&context::expand(&root.wallet_path), &name)?;
            output::report(&Addresses::of(&wallet)?, root.json);
            Ok(())
        }
        WalletCommand::Sign(args) => sign(&args),
        WalletCommand::Verify(args) => verify(&args),
    }
}

fn new(args: &NewArgs) -> Result<()> {
    let root = context::expand(&args.root.wallet_path);
    let wallet = match Wallet::open(&root, &args.name) {
        Ok(wallet) if args.encrypt => bail!("wallet {} exists; --encrypt is for a new wallet's coldkey, so leave it out", wallet.name()),
        Ok(wallet) => wallet,
        Err(WalletError::Missing(_)) => {
            let password = if args.encrypt { Some(args.password.choose(&root.join(&args.name).join("coldkey"))?) } else { None };
            let phrase = Phrase::generate()?;
            let wallet = Wallet::create(&root, &args.name, &phrase, password.as_deref().map(String::as_str))?;
            args.reveal("coldkey", &phrase);
            wallet
        }
        Err(error) => return Err(error.into()),
    };
    let phrase = Phrase::generate()?;
    wallet.create_hotkey(&args.hotkey, &phrase)?;
    args.reveal(&format!("hotkey {}", args.hotkey), &phrase);
    output::report(&Addresses::of(&wallet)?, args.root.json);
    Ok(())
}

impl NewArgs {
    /// Shows a phrase to somebody who sits at a terminal: what goes into a pipe or a file may be kept by others.
    fn reveal(&self, key: &str, phrase: &Phrase) {
        if !self.quiet_phrase && std::io::stderr().is_terminal() {
            let warning = "whoever knows it has the key; write it down on paper, it is not shown again";
            eprintln!("The secret phrase of the {key} ({warning}):\n\n    {}\n", phrase.reveal());
        }
    }
}

fn sign(args: &SignArgs) -> Result<()> {
    let wallet = Wallet::open(&context::expand(&args.keys.wallet_path), &args.keys.wallet)?;
    let open = |password: Option<&str>| match args.coldkey {
        true => wallet.coldkey(password),
        false => wallet.hotkey(&args.keys.hotkey, password),
    };
    let keypair = match open(None) {
        Err(WalletError::PasswordNeeded(path)) => open(Some(&args.password.ask(&path)?))?,
        opened => opened?,
    };
    output::report(&SignedText::new(&keypair, &args.message.read()?), args.json);
    Ok(())
}

fn verify(args: &VerifyArgs) -> Result<()> {
    let holds = protocol::verify(&args.address, Domain::Text, &args.message.read()?, &args.signature);
    ensure!(holds, "the signature is not {}'s over this text", args.address);
    match args.json {
        true => output::say_json(&serde_json::json!({ "address": args.address, "valid": true })),
        false => output::say(format!("{} signed this text", args.address)),
    }
    Ok(())
}

impl MessageArgs {
    fn read(&self) -> Result<Vec<u8>> {
        match (&self.message, &self.file) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(path)) => std::fs::read(path).with_context(|| path.display().to_string()),
            (None, None) => bail!("pass --message or --file"),
        }
    }
}

impl PasswordArgs {
    /// A wallet's coldkey, with its password if it needs one.
    pub fn coldkey(&self, wallet: &Wallet) -> Result<Keypair> {
        match wallet.coldkey(None) {
            Err(WalletError::PasswordNeeded(path)) => Ok(wallet.coldkey(Some(&self.ask(&path)?))?),
            opened => Ok(opened?),
        }
    }

    /// The password of an existing key file.
    fn ask(&self, file: &Path) -> Result<Zeroizing<String>> {
        match self.given(file)? {
            Some(password) => Ok(password),
            None => prompt(&format!("Password of {}: ", file.display())),
        }
    }

    /// A password for a new key file.
    fn choose(&self, file: &Path) -> Result<Zeroizing<String>> {
        if let Some(password) = self.given(file)? {
            return Ok(password);
        }
        let password = prompt("Password for the new coldkey: ")?;
        ensure!(password == prompt("Once more: ")?, "the two passwords differ; nothing was written");
        Ok(password)
    }

    fn given(&self, file: &Path) -> Result<Option<Zeroizing<String>>> {
        if let Some(descriptor) = self.password_fd {
            return read_descriptor(descriptor).map(Some);
        }
        let variable = password_variable(file);
        match std::env::var(&variable).map(Zeroizing::new) {
            Ok(value) => Ok(Some(unmask_password(&variable, &value)?)),
            Err(_) => Ok(std::env::var(PASSWORD_VARIABLE).ok().map(Zeroizing::new)),
        }
    }
}

fn prompt(question: &str) -> Result<Zeroizing<String>> {
    let no_terminal = || format!("there is no terminal to ask for a password; pass --password-fd or set {PASSWORD_VARIABLE}");
    Ok(Zeroizing::new(rpassword::prompt_password(question).with_context(no_terminal)?))
}

fn read_descriptor(descriptor: u32) -> Result<Zeroizing<String>> {
    let name = || format!("file descriptor {descriptor}");
    let file = File::open(format!("/dev/fd/{descriptor}")).with_context(name)?;
    let mut line = Zeroizing::new(String::with_capacity(MAX_LINE as usize));
    let read = BufReader::new(file.take(MAX_LINE)).read_line(&mut line).with_context(name)?;
    if read as u64 == MAX_LINE {
        bail!("{}: its first line is longer than {} bytes", name(), MAX_LINE - 1);
    }
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

fn parse_signature(text: &str) -> Result<[u8; 64], String> {
    let mut signature = [0; 64];
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode_to_slice(digits, &mut signature).map_err(|_| "it is not 128 hex digits".to_owned())?;
    Ok(signature)
}

/// A wallet's public side.
#[derive(Debug, Serialize)]
struct Addresses {
    name: String,
    /// None on machines that hold hotkeys only.
    coldkey: Option<Hotkey>,
    hotkeys: Vec<Named>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    address: Hotkey,
}

impl Addresses {
    fn of(wallet: &Wallet) -> Result<Self> {
        let coldkey = match wallet.coldkey_public() {
            Err(WalletError::Missing(_)) => None,
            found => Some(found?),
        };
        let named = |name: String| Ok(Named { address: wallet.hotkey_public(&name)?, name });
        let hotkeys = wallet.hotkeys()?.into_iter().map(named).collect::<Result<_, WalletError>>()?;
        Ok(Self { name: wallet.name().to_owned(), coldkey, hotkeys })
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = output::Table::new(3, &[&self.name]);
        let coldkey = self.coldkey.map_or("not on this machine".to_owned(), |key| key.to_string());
        table.row(["  coldkey".to_owned(), String::new(), coldkey]);
        for Named { name, address } in &self.hotkeys {
            table.row(["  hotkey".to_owned(), name.clone(), address.to_string()]);
        }
        table.fmt(f)
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Listing(Vec<Addresses>);

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no wallets; make one with `tributary wallet new NAME`");
        }
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

#[derive(Debug, Serialize)]
struct SignedText {
    address: Hotkey,
    signature: String,
}

impl SignedText {
    fn new(keypair: &Keypair, message: &[u8]) -> Self {
        let signature = hex::encode(keypair.sign(Domain::Text, message));
        Self { address: keypair.hotkey(), signature: format!("0x{signature}") }
    }
}

impl fmt::Display for SignedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address    {}\nsignature  {}", self.address, self.signature)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_signature_reads_back_from_its_hex_digits() {
        let keypair = Keypair::from_seed(&[5; 32]);
        let signed = SignedText::new(&keypair, b"hello");
        let signature = parse_signature(&signed.signature).unwrap();
        assert!(protocol::verify(&keypair.hotkey(), Domain::Text, b"hello", &signature));
        assert_eq!(parse_signature(&signed.signature[2..]).unwrap(), signature);
        for bad in ["", "0x", &signed.signature[..129], &format!("{}00", signed.signature), &"é".repeat(64), &"x".repeat(128)] {
            assert!(parse_signature(bad).is_err(), "{bad:?}");
        }
    }
}
