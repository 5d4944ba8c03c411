//! docs/errors.md is the table of errors, and nothing else.

use std::fmt::Write;
use std::path::Path;

use headpond::http::{ErrorKind, TABLE};

fn rendered() -> String {
    let mut text = "# Errors\n\n\
        What `/v2/` answers, as an envelope `{\"errors\": [{\"code\": …, \"message\": …}]}`. The message says what\n\
        happened, and where there is something to be done about it, what. This file is made from the table in\n\
        `src/http/error_response.rs`: `UPDATE_DOCS=1 cargo nextest run errors` writes it.\n\n\
        | status | code | when |\n|---|---|---|\n"
        .to_owned();
    for (_, status, code, when) in TABLE {
        writeln!(text, "| {status} | `{}` | {when} |", code.as_str()).unwrap();
    }
    text + "\nA request head that is too long is answered 431 and one that is no HTTP 400, both without an envelope; the\nconnection is then closed.\n"
}

#[test]
fn errors_are_documented_as_they_are() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, rendered()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), rendered(), "run with UPDATE_DOCS=1 to write the file");
}

#[test]
fn every_kind_of_error_has_its_row() {
    for (row, (kind, ..)) in TABLE.iter().enumerate() {
        assert_eq!(*kind as usize, row, "rows stand in the order of the kinds");
    }
    // A kind that comes behind this one makes the match incomplete.
    let last = match TABLE[TABLE.len() - 1].0 {
        ErrorKind::PathNotFound
        | ErrorKind::MethodNotAllowed
        | ErrorKind::Unsupported
        | ErrorKind::NameInvalid
        | ErrorKind::TagInvalid
        | ErrorKind::DigestInvalid
        | ErrorKind::PageSizeInvalid
        | ErrorKind::Unauthorized
        | ErrorKind::Denied
        | ErrorKind::NameUnknown
        | ErrorKind::ManifestUnknown
        | ErrorKind::BlobUnknown
        | ErrorKind::RangeNotSatisfiable
        | ErrorKind::UpstreamDenied
        | ErrorKind::TooManyRequests
        | ErrorKind::UpstreamInvalid
        | ErrorKind::UpstreamUnavailable => false,
        ErrorKind::Unavailable => true,
    };
    assert!(last);
}
