//! Hashes and checks passwords: argon2 in the PHC format, `$argon2id$v=19$m=19456,t=2,p=1$…`.

use std::fmt;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{self, PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Block, Version};
use subtle::ConstantTimeEq;

/// Limit of the memory of one check, in KiB.
const MAX_MEMORY: u32 = 256 * 1024;
/// Limit of the memory that is kept between checks, in KiB: enough for hashes that [`hash`] makes.
const KEPT_MEMORY: usize = 32 * 1024;

/// Limit of a password of respgate's own users, in bytes.
pub const LONGEST_PASSWORD: usize = 4096;

/// Holds the memory of one thread that checks passwords. It keeps up to 32 MiB between checks. If a hash needed
/// more (up to 256 MiB), the memory is given back after its check.
#[derive(Default)]
pub struct Memory(Vec<Block>);

impl Memory {
    /// Returns `count` blocks of 1 KiB; `None` if the system has no memory left.
    fn blocks(&mut self, count: usize) -> Option<&mut [Block]> {
        let missing = count.saturating_sub(self.0.len());
        self.0.try_reserve_exact(missing).ok()?;
        self.0.resize(count.max(self.0.len()), Block::default());
        self.0.get_mut(..count)
    }

    /// Gives the memory back if it exceeds [`KEPT_MEMORY`].
    fn give_back_excess(&mut self) {
        if self.0.capacity() > KEPT_MEMORY {
            self.give_back();
        }
    }

    /// Gives all memory back to the allocator.
    pub fn give_back(&mut self) {
        self.0 = Vec::new();
    }

    /// Returns the number of bytes kept.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.0.capacity() * Block::SIZE
    }
}

/// The hash of a password. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PasswordHash {
    /// Parses a hash that [`hash`] made.
    ///
    /// # Errors
    /// Returns what is wrong and how to make a hash. Does not repeat the text itself.
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

    /// Returns the text, for a digest of it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns true if the password has this hash; `None` if there is no memory for the check. Takes tens of
    /// milliseconds.
    pub fn matches(&self, password: &[u8], memory: &mut Memory) -> Option<bool> {
        let right = self.compare(password, memory);
        memory.give_back_excess();
        right
    }

    fn compare(&self, password: &[u8], memory: &mut Memory) -> Option<bool> {
        let Some((argon2, salt, expected)) = self.parts() else { return Some(false) };
        let blocks = memory.blocks(argon2.params().block_count())?;
        let mut hashed = vec![0; expected.len()];
        let done = argon2.hash_password_into_with_memory(password, &salt, &mut hashed, blocks);
        Some(done.is_ok() && hashed.ct_eq(&expected).into())
    }

    /// Returns the algorithm with its parameters, the salt, and the expected output. Always `Some` for a hash
    /// that [`Self::parse`] accepted.
    fn parts(&self) -> Option<(Argon2<'static>, Vec<u8>, Vec<u8>)> {
        let parsed = password_hash::PasswordHash::new(&self.0).ok()?;
        let algorithm = Algorithm::try_from(parsed.algorithm).ok()?;
        let version = parsed.version.map_or(Some(Version::default()), |version| version.try_into().ok())?;
        let params = argon2::Params::try_from(&parsed).ok()?;
        let mut salt = [0; 64];
        let salt = parsed.salt?.decode_b64(&mut salt).ok()?.to_vec();
        Some((Argon2::new(algorithm, version, params), salt, parsed.hash?.as_bytes().to_vec()))
    }

    #[cfg(test)]
    pub(crate) fn quick(password: &[u8]) -> Self {
        Self::with_memory(password, 8)
    }

    /// Makes a hash with one pass over `kib` KiB.
    #[cfg(test)]
    pub(crate) fn with_memory(password: &[u8], kib: u32) -> Self {
        let params = argon2::Params::new(kib, 1, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let salt = SaltString::generate(&mut OsRng);
        Self(argon2.hash_password(password, &salt).unwrap().to_string())
    }
}

/// Hashes a password with a new salt: argon2id with 19 MiB and two passes, as OWASP advises.
///
/// # Errors
/// Returns argon2's error text if the password is longer than argon2 accepts.
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
        let mut memory = Memory::default();
        assert_eq!(hash.matches(b"secret", &mut memory), Some(true));
        assert_eq!(hash.matches(b"Secret", &mut memory), Some(false));
        assert_eq!(format!("{hash:?}"), "***");
    }

    /// What an earlier check left in the memory changes nothing, and memory is kept within a bound.
    #[test]
    fn memory_is_used_again() {
        let (small, usual) = (PasswordHash::quick(b"small"), PasswordHash::with_memory(b"usual", 19_456));
        let large = PasswordHash::with_memory(b"large", 64 * 1024);
        let mut memory = Memory::default();
        for _ in 0..2 {
            assert_eq!(usual.matches(b"usual", &mut memory), Some(true));
            assert_eq!(memory.kept(), 19_456 * 1024);
            let place = memory.0.as_ptr();
            assert_eq!(small.matches(b"small", &mut memory), Some(true));
            assert_eq!(usual.matches(b"small", &mut memory), Some(false));
            assert_eq!(memory.0.as_ptr(), place, "the same memory");
            assert_eq!(large.matches(b"large", &mut memory), Some(true));
            assert_eq!(memory.kept(), 0);
        }
    }

    #[test]
    fn other_variants_and_lengths_are_checked_too() {
        for text in [
            "$argon2i$v=19$m=64,t=2,p=2$c2FsdHNhbHRzYWx0$",
            "$argon2d$v=16$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$",
            "$argon2id$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$",
        ] {
            for length in [16, 32, 64] {
                let unknown = PasswordHash(format!("{text}{}", "AAAAAAAA".repeat(length / 8 * 4 / 3)));
                let Some((argon2, salt, expected)) = unknown.parts() else { continue };
                let mut hashed = vec![0; expected.len()];
                argon2.hash_password_into(b"secret", &salt, &mut hashed).unwrap();
                let encoded = password_hash::Output::new(&hashed).unwrap().to_string();
                let hash = PasswordHash::parse(&format!("{text}{encoded}")).unwrap();
                use argon2::password_hash::PasswordVerifier;
                for password in [&b"secret"[..], b"other"] {
                    let parsed = password_hash::PasswordHash::new(&hash.0).unwrap();
                    let expected = Argon2::default().verify_password(password, &parsed).is_ok();
                    assert_eq!(
                        hash.matches(password, &mut Memory::default()),
                        Some(expected),
                        "{text} {length}"
                    );
                }
            }
        }
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
            let error = PasswordHash::parse(text).unwrap_err();
            assert!(error.contains("respgate hash-password") && !error.contains("c2Fsd"), "{error}");
        }
    }
}
