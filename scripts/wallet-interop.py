#!/usr/bin/env python3
"""Wallets both ways: tributary against bittensor-wallet, the library under btcli.

Run by hand with a Python that has the library:

    python3 -m venv venv && venv/bin/pip install bittensor-wallet==4.1.1
    venv/bin/python scripts/wallet-interop.py target/debug/tributary

Takes about a minute: an encrypted key takes seconds to open, on either side. Prints a line per check, then "N passed, N failed".
"""

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from bittensor_wallet import Keyfile, Keypair, Wallet

PHRASE = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
SEED = "0x" + "42" * 32
PASSWORD = "corréct horse battery staple " * 3
MESSAGE = "a text that both sign"

passed = failed = 0


def check(name, holds):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    print(f"{'ok    ' if holds else 'FAILED'}  {name}", flush=True)


class Tributary:
    def __init__(self, binary, root):
        self.binary, self.root = binary, root

    def run(self, *args, env=None, password=None):
        """The command's JSON, or None if it failed; the password goes through a file descriptor."""
        command = [self.binary, "wallet", *args, "--json"]
        if password is not None:
            command += ["--password-fd", "0"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BT_PW")}
        done = subprocess.run(command, input=(password or "") + "\n", capture_output=True, text=True, env=clean | (env or {}))
        return json.loads(done.stdout) if done.returncode == 0 else None

    def sign(self, wallet, *args, **how):
        where = ["--wallet-path", self.root, "--wallet", wallet]
        return self.run("sign", *where, "--message", MESSAGE, *args, **how)

    def opens(self, wallet, keypair, *args, **how):
        """Whether the key is opened and its signature is the keypair's."""
        signed = self.sign(wallet, *args, **how)
        if signed is None or signed["address"] != keypair.ss58_address:
            return False
        return keypair.verify(MESSAGE.encode(), bytes.fromhex(signed["signature"][2:]))

    def verifies(self, keypair, signature):
        found = self.run("verify", "--address", keypair.ss58_address, "--message", MESSAGE, "--signature", signature.hex())
        return found is not None and found["valid"]


def modes(folder):
    return {oct(stat.S_IMODE(file.stat().st_mode)) for file in Path(folder).rglob("*") if file.is_file()}


def rewrite(path, keep):
    """Leaves only some fields of a plain key file."""
    fields = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({key: fields[key] for key in keep}))


def we_open_theirs(tributary, root):
    phrase, seed = Keypair.create_from_mnemonic(PHRASE), Keypair.create_from_seed(SEED)
    wallet = Wallet(name="theirs", hotkey="phrase", path=root)
    wallet.set_coldkeypub(phrase, overwrite=True)
    wallet.set_hotkey(phrase, encrypt=False, overwrite=True)
    check("a hotkey from a phrase", tributary.opens("theirs", phrase, "--hotkey", "phrase"))
    Wallet(name="theirs", hotkey="seed", path=root).set_hotkey(seed, encrypt=False, overwrite=True)
    check("a hotkey from a seed", tributary.opens("theirs", seed, "--hotkey", "seed"))
    private = Keypair.create_from_private_key(json.loads(Path(root, "theirs/hotkeys/phrase").read_text())["privateKey"])
    Wallet(name="theirs", hotkey="private", path=root).set_hotkey(private, encrypt=False, overwrite=True)
    check("a hotkey from a private key", tributary.opens("theirs", phrase, "--hotkey", "private"))
    for field in ["secretPhrase", "secretSeed", "privateKey"]:
        Wallet(name="theirs", hotkey=field, path=root).set_hotkey(phrase, encrypt=False, overwrite=True)
        rewrite(f"{root}/theirs/hotkeys/{field}", [field, "ss58Address"])
        check(f"a hotkey with its {field} alone", tributary.opens("theirs", phrase, "--hotkey", field))
    other = Keypair.create_from_uri("//Alice")
    Wallet(name="theirs", hotkey="forged", path=root).set_hotkey(phrase, encrypt=False, overwrite=True)
    path = Path(root, "theirs/hotkeys/forged")
    path.write_text(path.read_text().replace(phrase.ss58_address, other.ss58_address))
    check("a hotkey under another's address is refused", tributary.sign("theirs", "--hotkey", "forged") is None)
    ed25519 = Keypair.create_from_mnemonic(PHRASE, crypto_type=0)
    Wallet(name="theirs", hotkey="ed25519", path=root).set_hotkey(ed25519, encrypt=False, overwrite=True)
    check("an ed25519 hotkey is refused", tributary.sign("theirs", "--hotkey", "ed25519") is None)
    for name in ["forged", "ed25519"]:
        for file in Path(root, "theirs/hotkeys").glob(f"{name}*"):
            file.unlink()
    wallet.set_coldkey(phrase, encrypt=False, overwrite=True)
    check("a plain coldkey", tributary.opens("theirs", phrase, "--coldkey"))
    shown = tributary.run("show", "theirs", "--wallet-path", root)
    check("a coldkeypub", shown is not None and shown["coldkey"] == phrase.ss58_address)
    wallet.set_coldkey(phrase, encrypt=True, overwrite=True, coldkey_password=PASSWORD)
    check("an encrypted coldkey", tributary.opens("theirs", phrase, "--coldkey", password=PASSWORD))
    check("not with another password", tributary.sign("theirs", "--coldkey", password="wrong") is None)
    keyfile = wallet.coldkey_file
    masked = {keyfile.env_var_name(): keyfile.save_password_to_env(PASSWORD)}
    check("an encrypted coldkey by btcli's variable", tributary.opens("theirs", phrase, "--coldkey", env=masked))
    damaged = {name: "not masked" for name in masked}
    check("not by a damaged one", tributary.sign("theirs", "--coldkey", env=damaged | {"BT_PW": PASSWORD}) is None)
    check("an encrypted coldkey by BT_PW", tributary.opens("theirs", phrase, "--coldkey", env={"BT_PW": PASSWORD}))
    keyfile.remove_password_from_env()
    check("their signature", tributary.verifies(phrase, phrase.sign(MESSAGE.encode())))
    check("not somebody else's", not tributary.verifies(phrase, other.sign(MESSAGE.encode())))


def they_open_ours(tributary, root):
    new = ["--wallet-path", root, "--hotkey", "hot", "--quiet-phrase"]
    plain = tributary.run("new", "plain", *new)
    wallet = Wallet(name="plain", hotkey="hot", path=root)
    check("our plain coldkey", wallet.get_coldkey().ss58_address == plain["coldkey"])
    check("our coldkeypub", wallet.get_coldkeypub().ss58_address == plain["coldkey"])
    check("our hotkey", wallet.get_hotkey().ss58_address == plain["hotkeys"][0]["address"])
    check("our hotkeypub", wallet.get_hotkeypub().ss58_address == plain["hotkeys"][0]["address"])
    signature = wallet.get_hotkey().sign(MESSAGE.encode())
    check("what they sign with our hotkey", tributary.verifies(wallet.get_hotkey(), signature))
    check("what we sign with it", tributary.opens("plain", wallet.get_hotkeypub(), "--hotkey", "hot"))
    sealed = tributary.run("new", "sealed", "--encrypt", *new, password=PASSWORD)
    wallet = Wallet(name="sealed", hotkey="hot", path=root)
    check("our encrypted coldkey is one to them", wallet.coldkey_file.is_encrypted())
    check("our encrypted coldkey", wallet.get_coldkey(PASSWORD).ss58_address == sealed["coldkey"])
    wallet.coldkey_file.save_password_to_env(PASSWORD)
    check("our encrypted coldkey by their variable", Keyfile(wallet.coldkey_file.path, "c").get_keypair(None).ss58_address == sealed["coldkey"])
    wallet.coldkey_file.remove_password_from_env()
    check("our files are for their owner only", modes(f"{root}/plain") == modes(f"{root}/sealed") == {"0o600"})


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as root:
        tributary = Tributary(os.path.abspath(sys.argv[1]), root)
        we_open_theirs(tributary, root)
        they_open_ours(tributary, root)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
