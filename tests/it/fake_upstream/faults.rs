//! What can go wrong, for which requests, and how often.

use std::sync::Mutex;
use std::time::Duration;

/// Kinds of request a fault may be planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// Every request, tokens and the second port too.
    Any,
    /// `/token`.
    Token,
    /// HEAD of a manifest.
    ManifestHead,
    /// GET of a manifest.
    ManifestGet,
    /// Either.
    Manifests,
    /// HEAD of a blob. With blobs redirected, this and the next two are at the second port.
    BlobHead,
    /// GET of a blob.
    BlobGet,
    /// Either.
    Blobs,
    /// `tags/list`.
    Tags,
    /// `referrers/…`.
    Referrers,
}

/// What a request is, as far as faults go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Token,
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// Anything else: `/v2/`, and the first half of a redirected blob.
    Other,
}

impl On {
    fn matches(self, kind: Kind, is_head: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Token => kind == Kind::Token,
            Self::ManifestHead => kind == Kind::Manifest && is_head,
            Self::ManifestGet => kind == Kind::Manifest && !is_head,
            Self::Manifests => kind == Kind::Manifest,
            Self::BlobHead => kind == Kind::Blob && is_head,
            Self::BlobGet => kind == Kind::Blob && !is_head,
            Self::Blobs => kind == Kind::Blob,
            Self::Tags => kind == Kind::Tags,
            Self::Referrers => kind == Kind::Referrers,
        }
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This status, with an OCI error body.
    Status(u16),
    /// This status with a `Retry-After`.
    StatusRetryAfter(u16, String),
    /// This status with this body.
    StatusBody(u16, &'static str),
    /// The head comes late.
    DelayHead(Duration),
    /// The head comes when the fake is released.
    HangHead,
    /// The connection is closed without an answer.
    HangUp,
    /// A redirect to this URL.
    RedirectTo(String),
    /// A redirect to the same URL.
    RedirectLoop,
    /// The body stops at this byte until the fake is released.
    HoldBodyAt(u64),
    /// The connection is cut when the body comes to this byte.
    CutBodyAt(u64),
    /// The body comes in pieces of so many bytes, with a pause before each.
    Drip(usize, Duration),
    /// The middle byte of the content is wrong.
    FlipByte,
    /// `Content-Length` is off by so many bytes, and the body is not.
    LengthOff(i64),
    /// No `Content-Length`.
    Chunked,
    /// Zeros without end follow the content, chunked.
    Endless,
    /// `Range` is ignored: 200 with all.
    IgnoreRange,
    /// `Content-Range` names other bytes.
    WrongContentRange,
    /// This instead of the content, with status 200.
    Instead(Vec<u8>),
    /// This header is set.
    Header(&'static str, String),
    /// This header is left out.
    WithoutHeader(&'static str),
}

struct Planned {
    on: On,
    path_part: String,
    /// How many more requests it is for; none: until cleared.
    remaining: Option<usize>,
    fault: Fault,
}

#[derive(Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
    pub(super) redirect_blobs: bool,
}

impl Faults {
    pub(super) fn clear(&mut self) {
        self.planned.clear();
        self.redirect_blobs = false;
    }

    /// The faults of one request: all that are planned for always, and the next counted one. So counted
    /// faults happen one after the other, in the order of their planning.
    pub(super) fn take(&mut self, kind: Kind, is_head: bool, path: &str) -> Vec<Fault> {
        let mut taken = Vec::new();
        let mut has_counted = false;
        for planned in &mut self.planned {
            let is_next = planned.remaining.is_none_or(|remaining| remaining > 0 && !has_counted);
            if !is_next || !planned.on.matches(kind, is_head) || !path.contains(&planned.path_part) {
                continue;
            }
            has_counted |= planned.remaining.is_some();
            planned.remaining = planned.remaining.map(|remaining| remaining - 1);
            taken.push(planned.fault.clone());
        }
        taken
    }
}

/// A fault about to be planned.
pub(crate) struct Plan<'a> {
    faults: &'a Mutex<Faults>,
    on: On,
    path_part: String,
}

impl<'a> Plan<'a> {
    pub(super) fn new(faults: &'a Mutex<Faults>, on: On) -> Self {
        Self { faults, on, path_part: String::new() }
    }

    /// Only for paths that hold this text: a repository, a tag, a digest.
    pub(crate) fn of(mut self, path_part: &impl ToString) -> Self {
        self.path_part = path_part.to_string();
        self
    }

    /// For the next request, after those that other counted faults were planned for.
    pub(crate) fn once(self, fault: Fault) {
        self.times(1, fault);
    }

    /// For the next `count` requests, likewise.
    pub(crate) fn times(self, count: usize, fault: Fault) {
        self.plan(Some(count), fault);
    }

    /// Until cleared, together with whatever else is planned.
    pub(crate) fn always(self, fault: Fault) {
        self.plan(None, fault);
    }

    fn plan(self, remaining: Option<usize>, fault: Fault) {
        let planned = Planned { on: self.on, path_part: self.path_part, remaining, fault };
        self.faults.lock().unwrap().planned.push(planned);
    }
}
