//! What is asked for.

/// What a principal wants to do with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read manifests, blobs and lists of tags.
    Pull,
    /// Pull, and have upstream asked now whether a tag has moved (`Cache-Control: no-cache`).
    Refresh,
}
