//! Whom a client certificate names: subject and alternative names (RFC 5280 §4.1), as its bytes have them.
//!
//! An upstream that knows this server by a certificate gives what that name may have, so the name is part
//! of the source. Serial number, validity, and mostly the key, are others after each renewal. Nothing is
//! verified here: the certificate is this server's own.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::oci::Digest;

/// DER tags (X.690 §8.1.2).
const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// `[0] version` and `[3] extensions` of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// A name for whom the first certificate in `pem` names. One that names nobody is named by its key.
/// `None` where there is no certificate, or none that can be read.
pub(super) fn of_pem(pem: &[u8]) -> Option<String> {
    let own = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    Some(Digest::of(&named(&own)?).hex())
}

/// The bytes that name somebody.
fn named(certificate: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = inside(certificate, SEQUENCE)?;
    let (mut rest, _) = inside(body, SEQUENCE)?;
    if let Some((_, after)) = inside(rest, VERSION) {
        rest = after;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        rest = Element::read(rest)?.after;
    }
    let subject = Element::read(rest).filter(|element| element.tag == SEQUENCE)?;
    let key = Element::read(subject.after)?;
    let alternatives = alternative_names(key.after).unwrap_or_default();
    let is_nobody = subject.contents.is_empty() && alternatives.is_empty();
    Some(if is_nobody { key.contents.to_vec() } else { [subject.contents, &[0], alternatives].concat() })
}

/// The value of that extension, among what follows the key.
fn alternative_names(mut rest: &[u8]) -> Option<&[u8]> {
    let extensions = loop {
        let element = Element::read(rest)?;
        if element.tag == EXTENSIONS {
            break element.contents;
        }
        rest = element.after;
    };
    let (mut list, _) = inside(extensions, SEQUENCE)?;
    loop {
        let (extension, others) = inside(list, SEQUENCE)?;
        let (kind, mut value) = inside(extension, OBJECT_IDENTIFIER)?;
        if kind == SUBJECT_ALT_NAME {
            // Whether it is critical may stand before it.
            let first = Element::read(value)?;
            if first.tag != OCTET_STRING {
                value = first.after;
            }
            return Some(inside(value, OCTET_STRING)?.0);
        }
        list = others;
    }
}

/// What an element with this tag holds, and what follows it.
fn inside(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    Element::read(bytes).filter(|element| element.tag == tag).map(|element| (element.contents, element.after))
}

/// The first element of a row.
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    after: &'a [u8],
}

impl<'a> Element<'a> {
    /// `None` where it does not end within the bytes, or its length is not of DER's forms (X.690 §8.1.3).
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[tag, length], rest) = bytes.split_first_chunk()?;
        let (length, rest) = match length {
            0..0x80 => (usize::from(length), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (digits.iter().fold(0, |number, digit| number << 8 | usize::from(*digit)), rest)
            }
            0x80 | 0x85.. => return None,
        };
        let (contents, after) = rest.split_at_checked(length)?;
        Some(Self { tag, contents, after })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// A certificate with this common name and these alternative names, of this serial number.
    fn certificate(common_name: Option<&str>, names: &[&str], serial: u64, key: &KeyPair) -> String {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.serial_number = Some(serial.into());
        params.self_signed(key).unwrap().pem()
    }

    fn name(pem: &str) -> String {
        of_pem(pem.as_bytes()).unwrap()
    }

    #[test]
    fn a_renewal_names_the_same_and_another_subject_or_name_another() {
        let (key, next_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let long = "a-name-that-needs-a-long-form-of-length.".repeat(6) + "example";
        for (common_name, names) in [(Some("ci"), &[][..]), (None, &["ci.example"]), (Some("ci"), &["ci.example", &long])] {
            let first = name(&certificate(common_name, names, 1, &key));
            assert_eq!(first, name(&certificate(common_name, names, 2, &next_key)), "{common_name:?} {names:?}");
            for (other, others) in [(Some("cd"), names), (common_name, &["cd.example"][..])] {
                assert_ne!(first, name(&certificate(other, others, 1, &key)), "{other:?} {others:?}");
            }
        }
    }

    #[test]
    fn one_that_names_nobody_is_named_by_its_key() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let first = name(&certificate(None, &[], 1, &key));
        assert_eq!(first, name(&certificate(None, &[], 2, &key)));
        assert_ne!(first, name(&certificate(None, &[], 1, &other)));
    }

    #[test]
    fn the_first_certificate_is_the_own_one_wherever_the_key_stands() {
        let key = KeyPair::generate().unwrap();
        let (own, issuer) = (certificate(Some("ci"), &[], 1, &key), certificate(Some("ca"), &[], 1, &key));
        assert_eq!(name(&format!("{}{own}{issuer}", key.serialize_pem())), name(&own));
        for nothing in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key.serialize_pem()] {
            assert_eq!(of_pem(nothing.as_bytes()), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..1000) {
            let _ = named(&bytes);
            let key = KeyPair::generate().unwrap();
            let whole = CertificateDer::from_pem_slice(certificate(Some("ci"), &["ci.example"], 1, &key).as_bytes()).unwrap();
            let mut broken = whole.to_vec();
            broken.truncate(cut);
            let _ = named(&broken);
            for (place, byte) in bytes.iter().enumerate() {
                if let Some(at) = broken.get_mut(place * 7) { *at = *byte; }
            }
            let _ = named(&broken);
        }
    }
}
