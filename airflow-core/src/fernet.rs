//! Fernet: how passwords, extras and values of variables are encrypted, byte for byte as Airflow does it.
//!
//! A token is version, time, initialisation vector, AES-128-CBC ciphertext and HMAC-SHA256, in URL-safe base64. Start
//! with [`Fernet::new`]. Reading is as lenient as Airflow's: characters outside of the alphabet are passed over, so
//! whatever Airflow could read can be read here.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aes::Aes128;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

const VERSION: u8 = 0x80;
/// Version, time, initialisation vector.
const HEAD: usize = 1 + 8 + 16;
/// The code at the end.
const TAIL: usize = 32;

/// Why a text cannot be encrypted or decrypted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FernetError {
    /// A key is not 32 bytes in base64.
    #[error(
        "the fernet key number {number} has {problem}; a key is 32 random bytes in URL-safe base64 (44 characters), \
         several are separated by commas"
    )]
    BadKey {
        /// Which of the keys, 1 for the first.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// No key fits, or the token was changed.
    #[error(
        "the value cannot be decrypted: none of the {keys} fernet keys fits, or it was changed; add the key it was \
         encrypted with to `core.fernet_key`, after the current one"
    )]
    InvalidToken {
        /// How many keys were tried.
        keys: usize,
    },
    /// It was decrypted, but is no text.
    #[error("the decrypted value is no text in UTF-8")]
    NotText,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    NoRandomness(String),
}

/// One key: the first half signs, the second half encrypts.
#[derive(Clone)]
struct Key {
    signing: [u8; 16],
    encryption: [u8; 16],
}

/// Encrypts with its first key and decrypts with any; without keys it leaves texts as they are.
///
/// ```
/// use airflow_core::fernet::Fernet;
///
/// let old = Fernet::generate_key()?;
/// let token = Fernet::new(&old)?.encrypt("pa55")?;
///
/// // A new key comes first; the old one stays until everything has been rotated.
/// let both = Fernet::new(&format!("{},{old}", Fernet::generate_key()?))?;
/// assert_eq!(both.decrypt(&token)?, "pa55");
/// let rotated = both.rotate(&token)?;
/// assert!(Fernet::new(&old)?.decrypt(&rotated).is_err());
/// # Ok::<(), airflow_core::fernet::FernetError>(())
/// ```
#[derive(Clone, Default)]
pub struct Fernet(Vec<Key>);

impl fmt::Debug for Fernet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fernet({} keys)", self.0.len())
    }
}

impl Fernet {
    /// Reads keys separated by commas, as in `core.fernet_key`. An empty text is no key: nothing is encrypted.
    ///
    /// # Errors
    ///
    /// [`FernetError::BadKey`].
    pub fn new(keys: &str) -> Result<Self, FernetError> {
        if keys.is_empty() {
            return Ok(Self::default());
        }
        let key = |(at, text)| read_key(at + 1, text);
        keys.split(',').enumerate().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`FernetError::NoRandomness`].
    pub fn generate_key() -> Result<String, FernetError> {
        Ok(URL_SAFE.encode(random::<32>()?))
    }

    /// Whether there is a key.
    pub fn is_encrypting(&self) -> bool {
        !self.0.is_empty()
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.0.len()
    }

    /// Encrypts a text with the first key; without keys it stays as it is.
    ///
    /// # Errors
    ///
    /// [`FernetError::NoRandomness`].
    pub fn encrypt(&self, text: &str) -> Result<String, FernetError> {
        // Nobody reads the time of a token but those who rotate it.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.encrypt_at(text, now)
    }

    fn encrypt_at(&self, text: &str, seconds: u64) -> Result<String, FernetError> {
        if !self.is_encrypting() {
            return Ok(text.to_owned());
        }
        Ok(self.encrypt_with(text, seconds, random()?))
    }

    /// Encrypts with a given time, in seconds since 1970, and initialisation vector, for those who compare tokens. One
    /// vector must never be used twice.
    pub fn encrypt_with(&self, text: &str, seconds: u64, vector: [u8; 16]) -> String {
        let Some(key) = self.0.first() else { return text.to_owned() };
        let body = cbc::Encryptor::<Aes128>::new(&key.encryption.into(), &vector.into())
            .encrypt_padded_vec_mut::<Pkcs7>(text.as_bytes());
        let mut token = Vec::with_capacity(HEAD + body.len() + TAIL);
        token.push(VERSION);
        token.extend_from_slice(&seconds.to_be_bytes());
        token.extend_from_slice(&vector);
        token.extend_from_slice(&body);
        let code = signer(key).chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&code);
        URL_SAFE.encode(token)
    }

    /// Decrypts a token; without keys it is taken for a text that is not encrypted.
    ///
    /// # Errors
    ///
    /// [`FernetError::InvalidToken`], [`FernetError::NotText`].
    pub fn decrypt(&self, token: &str) -> Result<String, FernetError> {
        if !self.is_encrypting() {
            return Ok(token.to_owned());
        }
        self.open(token).map(|(_, text)| text)
    }

    /// Decrypts a token and encrypts it again with the first key. The time of the token stays.
    ///
    /// # Errors
    ///
    /// As [`decrypt`](Self::decrypt) and [`encrypt`](Self::encrypt).
    pub fn rotate(&self, token: &str) -> Result<String, FernetError> {
        if !self.is_encrypting() {
            return Ok(token.to_owned());
        }
        let (seconds, text) = self.open(token)?;
        self.encrypt_at(&text, seconds)
    }

    /// When a token was first made, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// As [`decrypt`](Self::decrypt).
    pub fn timestamp(&self, token: &str) -> Result<u64, FernetError> {
        self.open(token).map(|(seconds, _)| seconds)
    }

    fn open(&self, token: &str) -> Result<(u64, String), FernetError> {
        let invalid = || FernetError::InvalidToken { keys: self.0.len() };
        let bytes = lenient_base64(token).ok_or_else(invalid)?;
        if bytes.len() < HEAD + TAIL || bytes[0] != VERSION {
            return Err(invalid());
        }
        let (signed, code) = bytes.split_at(bytes.len() - TAIL);
        let fits = |key: &&Key| signer(key).chain_update(signed).verify_slice(code).is_ok();
        let key = self.0.iter().find(fits).ok_or_else(invalid)?;
        let (head, body) = signed.split_at(HEAD);
        let (time, vector) = head[1..].split_at(8);
        let decryptor = cbc::Decryptor::<Aes128>::new_from_slices(&key.encryption, vector);
        let decryptor = decryptor.map_err(|_| invalid())?;
        let text = decryptor.decrypt_padded_vec_mut::<Pkcs7>(body).map_err(|_| invalid())?;
        let seconds = time.try_into().map(u64::from_be_bytes).map_err(|_| invalid())?;
        Ok((seconds, String::from_utf8(text).map_err(|_| FernetError::NotText)?))
    }
}

fn signer(key: &Key) -> Hmac<Sha256> {
    Hmac::new_from_slice(&key.signing).expect("an HMAC takes keys of any length")
}

fn read_key(number: usize, text: &str) -> Result<Key, FernetError> {
    let bad = |problem: String| FernetError::BadKey { number, problem };
    if !text.is_ascii() {
        return Err(bad("characters that base64 does not have".to_owned()));
    }
    let bytes = lenient_base64(text).ok_or_else(|| bad("incorrect padding".to_owned()))?;
    let (signing, encryption) = bytes.split_at_checked(16).unwrap_or_default();
    match (signing.try_into(), encryption.try_into()) {
        (Ok(signing), Ok(encryption)) => Ok(Key { signing, encryption }),
        _ => Err(bad(format!("{} bytes", bytes.len()))),
    }
}

/// Reads base64 as Python does: both alphabets, other characters passed over, everything after the padding ignored,
/// missing padding refused.
fn lenient_base64(text: &str) -> Option<Vec<u8>> {
    let mut digits = String::with_capacity(text.len());
    let mut pads = 0;
    for c in text.chars() {
        match c {
            '-' => digits.push('+'),
            '_' => digits.push('/'),
            'A'..='Z' | 'a'..='z' | '0'..='9' | '+' | '/' => digits.push(c),
            '=' if digits.len() % 4 >= 2 => {
                pads += 1;
                if digits.len() % 4 + pads >= 4 {
                    return decode(&digits);
                }
                continue;
            }
            _ => continue,
        }
        pads = 0;
    }
    if digits.len().is_multiple_of(4) { STANDARD.decode(digits).ok() } else { None }
}

/// Reads digits without padding; bits that stand for nothing are ignored.
fn decode(digits: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    engine.decode(digits).ok()
}

fn random<const N: usize>() -> Result<[u8; N], FernetError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| FernetError::NoRandomness(error.to_string()))?;
    Ok(bytes)
}
