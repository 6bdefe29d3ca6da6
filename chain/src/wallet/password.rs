//! Passwords in the environment, as btcli puts them there: masked, under a name that follows from the key file's path.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::WalletError;

/// The environment variable in which btcli looks for the password of the key file at `path`: `BT_PW_` and the path as it is written, with `/` and
/// `.` as `_`, in capitals.
pub fn password_variable(path: &Path) -> String {
    format!("BT_PW_{}", path.to_string_lossy().replace(['/', '.'], "_")).to_uppercase()
}

/// The password in the value of such a variable: base64 of password ⊕ variable's name, which is repeated. This hides it from a glance only.
///
/// # Errors
/// [`WalletError::MaskedPassword`] if the value is not of that form.
pub fn unmask_password(variable: &str, value: &str) -> Result<Zeroizing<String>, WalletError> {
    let refuse = || WalletError::MaskedPassword(variable.to_owned());
    let mut bytes = Zeroizing::new(STANDARD.decode(value.trim()).map_err(|_| refuse())?);
    for (byte, mask) in bytes.iter_mut().zip(variable.bytes().cycle()) {
        *byte ^= mask;
    }
    let password = std::str::from_utf8(&bytes).map_err(|_| refuse())?;
    if password.is_empty() { Err(WalletError::EmptyPassword) } else { Ok(Zeroizing::new(password.to_owned())) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_and_values_are_those_of_bittensor_wallet() {
        // answers of bittensor-wallet 4.1.1: Keyfile.env_var_name and save_password_to_env
        assert_eq!(password_variable(Path::new("./rel/c")), "BT_PW___REL_C");
        assert_eq!(password_variable(Path::new("/a/../b//c d/k-é.x")), "BT_PW__A____B__C D_K-É_X");
        let variable = password_variable(Path::new("/tmp/btd16hdwe5/ali.ce-x/coldkey"));
        assert_eq!(variable, "BT_PW__TMP_BTD16HDWE5_ALI_CE-X_COLDKEY");
        assert_eq!(*unmask_password(&variable, "MjUsI3conOI/NA==").unwrap(), "pass wörd");
    }

    #[test]
    fn other_values_are_refused_without_quoting_them() {
        for value in ["plain password", "////", "MjUsI3conOI/N"] {
            let error = unmask_password("BT_PW_X", value).unwrap_err();
            assert!(matches!(error, WalletError::MaskedPassword(_)) && !error.to_string().contains(value), "{value}");
        }
        assert!(matches!(unmask_password("BT_PW_X", ""), Err(WalletError::EmptyPassword)));
    }
}
