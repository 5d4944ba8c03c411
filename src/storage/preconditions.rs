//! What the conditional writes of a store are worth.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// What a store does with one kind of precondition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// It has not been tried yet.
    #[default]
    Unknown,
    /// It holds, for every process that writes.
    Honoured,
    /// It does nothing, or is refused: only this process's own lock holds.
    Ignored,
}

impl Support {
    /// The value of the metric: 0 ignored, 1 honoured, -1 unknown.
    #[must_use]
    pub const fn gauge(self) -> i64 {
        match self {
            Self::Unknown => -1,
            Self::Ignored => 0,
            Self::Honoured => 1,
        }
    }
}

/// What a store does with each kind of precondition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-None-Match: *` on PUT: of many who create a record, one does.
    pub create: Support,
    /// `If-Match` on PUT: a record is written over only by who has seen it.
    pub update: Support,
    /// `If-None-Match: *` on the completion of an upload in parts.
    pub complete: Support,
}

impl Preconditions {
    /// Of a store that has none, such as local disk: one process holds it, and its locks do.
    pub const NONE: Self = Self { create: Support::Ignored, update: Support::Ignored, complete: Support::Ignored };
}

/// How an entity tag has to be written into `If-Match`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ETagForm {
    /// As the store tells it, in quotes: as the standard has it.
    #[default]
    Quoted,
    /// Without them: Ceph RGW 16 finds no quoted one equal to any.
    Bare,
}

impl ETagForm {
    /// An entity tag, as the store has told it, in this form.
    #[must_use]
    pub fn write(self, e_tag: &str) -> String {
        match self {
            Self::Quoted => e_tag,
            Self::Bare => e_tag.trim_matches('"'),
        }
        .to_owned()
    }
}

/// What is known of it by now; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct KnownPreconditions(Arc<ArcSwap<(Preconditions, ETagForm)>>);

impl KnownPreconditions {
    /// Known from the start.
    #[must_use]
    pub fn of(preconditions: Preconditions) -> Self {
        Self(Arc::new(ArcSwap::from_pointee((preconditions, ETagForm::Quoted))))
    }

    /// What is known now.
    #[must_use]
    pub fn get(&self) -> Preconditions {
        self.0.load().0
    }

    /// How `If-Match` is written.
    #[must_use]
    pub fn e_tag_form(&self) -> ETagForm {
        self.0.load().1
    }

    /// Notes what was found out.
    pub(super) fn set(&self, preconditions: Preconditions, form: ETagForm) {
        self.0.store(Arc::new((preconditions, form)));
    }
}
