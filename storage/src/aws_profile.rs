//! Credentials from AWS' shared files, for processes whose environment has none.
//!
//! Of the formats that the AWS command line reads, this is the static one: `aws_access_key_id`, `aws_secret_access_key` and
//! `aws_session_token` in a section of the credentials file, `region` in the config file. Profiles that name a role or a process are not run.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The longest file that is read.
const MAX_FILE: u64 = 1 << 20;
const DEFAULT: &str = "default";

/// Where and as whom to sign.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// `aws_access_key_id`.
    pub(crate) access: String,
    /// `aws_secret_access_key`.
    pub(crate) secret: String,
    /// `aws_session_token`, of temporary credentials.
    pub(crate) token: Option<String>,
    /// `region`.
    pub(crate) region: Option<String>,
}

impl fmt::Debug for Profile {
    /// Without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("access", &self.access).field("region", &self.region).finish_non_exhaustive()
    }
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or `default`, of `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`. `None` if the
    /// environment has credentials itself (`AWS_ACCESS_KEY_ID`), which then count alone, or if there is no such file or section.
    ///
    /// # Errors
    /// What is wrong, without what stands in the file: a profile that was asked for and is not there, or half a key pair.
    pub(crate) fn from_env() -> Result<Option<Self>, String> {
        Self::find(|name| std::env::var(name).ok().filter(|value| !value.is_empty()), std::env::home_dir())
    }

    fn find(env: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Option<Self>, String> {
        if env("AWS_ACCESS_KEY_ID").is_some() {
            return Ok(None);
        }
        let file = |variable: &str, name: &str| env(variable).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".aws").join(name)));
        let Some(credentials) = file("AWS_SHARED_CREDENTIALS_FILE", "credentials") else { return Ok(None) };
        let (asked, text) = (env("AWS_PROFILE"), read(&credentials)?);
        let name = asked.as_deref().unwrap_or(DEFAULT);
        let section = text.as_deref().and_then(|text| section(text, |head| head == name));
        let Some(section) = section else {
            return match asked {
                Some(name) => Err(format!("{} has no profile [{name}], which AWS_PROFILE names", credentials.display())),
                None => Ok(None),
            };
        };
        let (Some(access), Some(secret)) = (value(&section, "aws_access_key_id"), value(&section, "aws_secret_access_key")) else {
            let path = credentials.display();
            return Err(format!("[{name}] in {path} needs aws_access_key_id and aws_secret_access_key"));
        };
        let config = file("AWS_CONFIG_FILE", "config").map(|path| read(&path)).transpose()?.flatten();
        // the config file calls all but the default "profile NAME"
        let configured = config.as_deref().and_then(|text| {
            self::section(text, |head| head.strip_prefix("profile ").map_or(head == name && name == DEFAULT, |other| other.trim() == name))
        });
        let region = configured.and_then(|section| value(&section, "region")).or_else(|| value(&section, "region"));
        Ok(Some(Self { access, secret, token: value(&section, "aws_session_token"), region }))
    }
}

/// A file's text; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    io::read_to_string(io::Read::take(file, MAX_FILE)).map(Some).map_err(told)
}

/// The settings of the sections whose head `wanted` takes, in order; `None` if there is no such section.
fn section(text: &str, wanted: impl Fn(&str) -> bool) -> Option<Vec<(&str, &str)>> {
    let (mut settings, mut inside, mut found) = (Vec::new(), false, false);
    for line in text.lines() {
        // what is indented belongs to the setting above it, of a kind that is not read here
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(head, _)| head.trim()) {
            inside = wanted(head);
            found |= inside;
        } else if inside
            && !nested
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            settings.push((name.trim(), value.trim()));
        }
    }
    found.then_some(settings)
}

/// The last value that a setting is given.
fn value(settings: &[(&str, &str)], name: &str) -> Option<String> {
    let found = settings.iter().rev().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
    found.map(|(_, value)| (*value).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# a comment
[default]
aws_access_key_id = AKIADEFAULT
aws_secret_access_key=one=two/three
  nested = value

[ other ]
AWS_ACCESS_KEY_ID=AKIAOTHER
aws_secret_access_key = hush
aws_session_token = token
; aws_session_token = old

[half]
aws_access_key_id = AKIAHALF
aws_secret_access_key =
";
    const CONFIG: &str =
        "[default]\nregion = eu-west-1\n[profile other]\nregion=us-west-2\ns3 =\n  region = nested\n[other]\nregion = wrong\n";

    fn find(variables: &[(&str, &str)], home: &Path) -> Result<Option<Profile>, String> {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Profile::find(env, Some(home.to_owned()))
    }

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".aws")).expect("a folder");
        std::fs::write(home.path().join(".aws/credentials"), CREDENTIALS).expect("written");
        std::fs::write(home.path().join(".aws/config"), CONFIG).expect("written");
        home
    }

    #[test]
    fn the_profile_that_is_asked_for_is_read() {
        let home = home();
        let default = find(&[], home.path()).expect("it is there").expect("it is there");
        assert_eq!((default.access.as_str(), default.secret.as_str(), default.token), ("AKIADEFAULT", "one=two/three", None));
        assert_eq!(default.region.as_deref(), Some("eu-west-1"));
        let other = find(&[("AWS_PROFILE", "other")], home.path()).expect("it is there").expect("it is there");
        assert_eq!((other.access.as_str(), other.secret.as_str()), ("AKIAOTHER", "hush"));
        assert_eq!((other.token.as_deref(), other.region.as_deref()), (Some("token"), Some("us-west-2")));
        assert!(!format!("{other:?}").contains("hush") && !format!("{other:?}").contains("token"));

        let elsewhere = home.path().join("mine");
        std::fs::write(&elsewhere, "[default]\naws_access_key_id=A\naws_secret_access_key=B\nregion=r\n").expect("written");
        let mine = [("AWS_SHARED_CREDENTIALS_FILE", elsewhere.to_str().expect("UTF-8")), ("AWS_CONFIG_FILE", "/none")];
        let mine = find(&mine, home.path()).expect("it is there").expect("it is there");
        assert_eq!((mine.access.as_str(), mine.region.as_deref()), ("A", Some("r")));
    }

    #[test]
    fn the_environment_counts_more_and_no_file_is_no_error() {
        let (home, empty) = (home(), tempfile::tempdir().expect("a folder"));
        assert_eq!(find(&[("AWS_ACCESS_KEY_ID", "A"), ("AWS_PROFILE", "none")], home.path()), Ok(None));
        assert_eq!(find(&[], empty.path()), Ok(None));
        assert_eq!(Profile::find(|_| None, None), Ok(None));
    }

    #[test]
    fn what_is_missing_is_told_without_secrets() {
        let home = home();
        let missing = find(&[("AWS_PROFILE", "none")], home.path()).expect_err("no such profile");
        assert!(missing.contains("no profile [none]"), "{missing}");
        let half = find(&[("AWS_PROFILE", "half")], home.path()).expect_err("half a pair");
        assert!(half.contains("[half]") && half.contains("aws_secret_access_key") && !half.contains("AKIAHALF"), "{half}");
        let folder = find(&[("AWS_SHARED_CREDENTIALS_FILE", "/")], home.path()).expect_err("a folder");
        assert!(folder.starts_with("/: "), "{folder}");
    }
}
