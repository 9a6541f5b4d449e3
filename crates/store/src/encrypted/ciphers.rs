//! The ciphers of `EncryptionConfiguration`, in upstream's formats: nonce or initialization vector, then the ciphertext.

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, AeadCore, OsRng, Payload};
use aes_gcm::{AesGcm, KeyInit};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit};
use crypto_secretbox::XSalsa20Poly1305;

/// A key with its cipher.
pub trait Cipher: Send + Sync {
    /// `name` is the key in the store: ciphers that can bind a value to it.
    fn seal(&self, name: &str, plain: &[u8]) -> Option<Vec<u8>>;
    /// `None` if the value was changed, or is of another key.
    fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>>;
}

/// `aescbc`, `aesgcm` or `secretbox` with a key; `None` if the key has the wrong length.
pub fn cipher(kind: &str, key: &[u8]) -> Option<Box<dyn Cipher>> {
    Some(match (kind, key.len()) {
        ("aescbc", 16) => Box::new(Cbc::<aes::Aes128>::new(key)),
        ("aescbc", 24) => Box::new(Cbc::<aes::Aes192>::new(key)),
        ("aescbc", 32) => Box::new(Cbc::<aes::Aes256>::new(key)),
        ("aesgcm", 16) => Box::new(Authenticated::<AesGcm<aes::Aes128, U12>>::new(key, true)?),
        ("aesgcm", 24) => Box::new(Authenticated::<AesGcm<aes::Aes192, U12>>::new(key, true)?),
        ("aesgcm", 32) => Box::new(Authenticated::<AesGcm<aes::Aes256, U12>>::new(key, true)?),
        ("secretbox", 32) => Box::new(Authenticated::<XSalsa20Poly1305>::new(key, false)?),
        _ => return None,
    })
}

/// AES-CBC with PKCS#7 padding. It isn't authenticated; upstream keeps it for compatibility.
struct Cbc<C> {
    key: Vec<u8>,
    cipher: std::marker::PhantomData<C>,
}

const BLOCK: usize = 16;

impl<C> Cbc<C> {
    fn new(key: &[u8]) -> Self {
        Cbc { key: key.to_vec(), cipher: std::marker::PhantomData }
    }
}

impl<C> Cipher for Cbc<C>
where
    C: cbc::cipher::BlockCipher
        + cbc::cipher::BlockEncryptMut
        + cbc::cipher::BlockDecryptMut
        + cbc::cipher::KeyInit
        + Send
        + Sync,
{
    fn seal(&self, _: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let vector: [u8; BLOCK] = rand::random();
        let cipher = cbc::Encryptor::<C>::new_from_slices(&self.key, &vector).ok()?;
        let mut sealed = vector.to_vec();
        sealed.extend(cipher.encrypt_padded_vec_mut::<Pkcs7>(plain));
        Some(sealed)
    }

    fn open(&self, _: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (vector, rest) = sealed.split_at_checked(BLOCK)?;
        let cipher = cbc::Decryptor::<C>::new_from_slices(&self.key, vector).ok()?;
        cipher.decrypt_padded_vec_mut::<Pkcs7>(rest).ok()
    }
}

/// An authenticated cipher (AEAD).
struct Authenticated<C> {
    cipher: C,
    /// Whether a value is bound to its key in the store.
    bound: bool,
}

impl<C: KeyInit> Authenticated<C> {
    fn new(key: &[u8], bound: bool) -> Option<Self> {
        Some(Authenticated { cipher: C::new_from_slice(key).ok()?, bound })
    }
}

impl<C: Aead + AeadCore + Send + Sync> Cipher for Authenticated<C> {
    fn seal(&self, name: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let nonce = C::generate_nonce(&mut OsRng);
        let aad = if self.bound { name.as_bytes() } else { b"" };
        let sealed = self.cipher.encrypt(&nonce, Payload { msg: plain, aad }).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let length = C::generate_nonce(&mut OsRng).len();
        let (nonce, rest) = sealed.split_at_checked(length)?;
        let aad = if self.bound { name.as_bytes() } else { b"" };
        self.cipher.decrypt(nonce.into(), Payload { msg: rest, aad }).ok()
    }
}
