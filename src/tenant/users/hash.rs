//! Passwords as hashes: argon2 in the PHC format, `$argon2id$v=19$m=19456,t=2,p=1$…`.

use std::fmt;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier, SaltString};

/// The most memory that one check may take, in KiB.
const MAX_MEMORY: u32 = 256 * 1024;

/// What a password must hash to. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PasswordHash {
    /// Parses what [`hash`] gives.
    ///
    /// # Errors
    /// What is wrong and how to make one. The text itself is not repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        const HOW: &str = "make one with: respgate hash-password";
        let parsed =
            password_hash::PasswordHash::new(text).map_err(|_| format!("is not a password's hash; {HOW}"))?;
        let params = argon2::Params::try_from(&parsed).ok();
        match params.filter(|_| parsed.algorithm.as_str().starts_with("argon2") && parsed.hash.is_some()) {
            None => Err(format!("is not an argon2 hash; {HOW}")),
            Some(params) if params.m_cost() > MAX_MEMORY => Err(format!(
                "takes {} KiB of memory for each check, more than {MAX_MEMORY}; {HOW}",
                params.m_cost()
            )),
            Some(_) => Ok(Self(text.into())),
        }
    }

    /// The text, for a digest of it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether a password hashes to this. Takes tens of milliseconds and megabytes.
    pub fn matches(&self, password: &[u8]) -> bool {
        password_hash::PasswordHash::new(&self.0)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
    }

    #[cfg(test)]
    pub(crate) fn quick(password: &[u8]) -> Self {
        let params = argon2::Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let salt = SaltString::generate(&mut OsRng);
        Self(argon2.hash_password(password, &salt).unwrap().to_string())
    }
}

/// Hashes a password with a new salt: argon2id with 19 MiB and two passes, as OWASP advises.
///
/// # Errors
/// The password is longer than argon2 takes.
pub fn hash(password: &[u8]) -> Result<String, String> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password, &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_only() {
        let text = hash(b"secret").unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.matches(b"secret"));
        assert!(!hash.matches(b"Secret"));
        assert_eq!(format!("{hash:?}"), "***");
    }

    #[test]
    fn other_texts_are_faults_and_not_repeated() {
        for text in [
            "secret",
            "",
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ",
            "$pbkdf2-sha256$i=1000$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$m=9999999,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        ] {
            let fault = PasswordHash::parse(text).unwrap_err();
            assert!(fault.contains("respgate hash-password") && !fault.contains("c2Fsd"), "{fault}");
        }
    }
}
