//! What an upstream says of an error, fit to be quoted.

use serde::Deserialize;

/// Longest quotation, in characters.
const MAX_QUOTED_CHARS: usize = 200;

/// The error envelope of the distribution specification ("Error Codes"); codes are an open set.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Entry>,
    #[serde(flatten)]
    bare: Entry,
}

#[derive(Deserialize)]
struct Entry {
    code: Option<String>,
    message: Option<String>,
    /// Docker Hub's realm says its errors here.
    details: Option<String>,
}

impl Entry {
    fn quoted(&self) -> Option<String> {
        let parts = [self.code.as_deref(), self.message.as_deref().or(self.details.as_deref())];
        let said = parts.into_iter().flatten().map(harmless).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        (!said.is_empty()).then_some(said)
    }
}

/// The first error's code and message. `None` for anything but JSON errors: pages of HTML and XML
/// say nothing an operator could use, and may hold signed URLs.
pub(super) fn quote(body: &[u8]) -> Option<String> {
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    envelope.errors.first().and_then(Entry::quoted).or_else(|| envelope.bare.quoted())
}

/// Without control characters (they would forge log lines and terminals) and not long.
pub(super) fn harmless(text: &str) -> String {
    let mut quoted: String = text.chars().filter(|c| !c.is_control()).take(MAX_QUOTED_CHARS + 1).collect();
    if quoted.chars().count() > MAX_QUOTED_CHARS {
        quoted.pop();
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_error_is_quoted() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m entry\n","detail":{"x":1}},{"code":"OTHER"}]}"#;
        assert_eq!(quote(body).as_deref(), Some("DENIED: no[31m entry"));
        assert_eq!(quote(br#"{"details":"incorrect username or password"}"#).as_deref(), Some("incorrect username or password"));
    }

    #[test]
    fn what_is_no_error_is_not_quoted() {
        for body in ["", "<html>", "[]", "{}", r#"{"errors":[]}"#, r#"{"errors":[{}]}"#, r#"{"errors":{"code":1}}"#] {
            assert_eq!(quote(body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn quotations_are_short_and_without_control_characters(message in "\\PC*|[\\x00-\\x1f]*|.{150,400}") {
            let quoted = harmless(&message);
            prop_assert!(quoted.chars().count() <= MAX_QUOTED_CHARS + 1);
            prop_assert!(!quoted.chars().any(char::is_control));
        }
    }
}
