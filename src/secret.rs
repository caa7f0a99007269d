//! Holds values that must never be printed.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A password. Its `Debug` and `Display` print a fixed mask, its comparison takes constant time,
/// and dropping it wipes its memory.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps the bytes of a password. Any byte is allowed.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Returns the password itself, for the code that sends or compares it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns true if the passwords are equal. The time depends only on their lengths, not on
    /// where they differ.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.expose().ct_eq(other).into()
    }
}

impl PartialEq for Secret {
    /// See [`Secret::matches`].
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.expose())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user name and its password. Without a name, the server's `default` user is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; `None` sends the one-argument form of AUTH.
    pub username: Option<String>,
    /// The password.
    pub password: Secret,
}

impl Credentials {
    /// Returns the user's name, or `default` if none is given.
    pub fn user(&self) -> &str {
        self.username.as_deref().unwrap_or("default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let credentials = Credentials { username: Some("app".into()), password: Secret::new("hunter2") };
        assert!(!format!("{credentials:?}").contains("hunter2"));
        assert_eq!(format!("{}", credentials.password), "***");
    }

    #[test]
    fn comparison_tells_length_and_content_apart() {
        let secret = Secret::new("abc");
        assert!(secret.matches(b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcabc", b""] {
            assert!(!secret.matches(other));
        }
        assert!(Secret::new("").matches(b""));
        assert!(!Secret::new("").matches(b"x"));
    }
}
