//! What a check found.

use serde::Serialize;

/// What is tried, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The host's name has an address.
    Name,
    /// It can be connected to, and answers.
    Connect,
    /// What it asks for.
    Challenge,
    /// A token, where it asks for one.
    Token,
    /// HEAD of a manifest.
    Manifest,
    /// The first byte of a blob.
    Blob,
    /// Pulls that are left.
    Quota,
}

impl StepName {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Challenge => "challenge",
            Self::Token => "token",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Quota => "quota",
        }
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// A pull would fail here.
    Failed,
    /// Not tried.
    Skipped,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which.
    pub step: StepName,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

impl Step {
    pub(super) const fn ok(step: StepName, seen: String) -> Self {
        Self { step, outcome: Outcome::Ok, seen, hint: None }
    }

    pub(super) const fn failed(step: StepName, seen: String, hint: &'static str) -> Self {
        Self { step, outcome: Outcome::Failed, seen, hint: Some(hint) }
    }
}

/// The steps up to the first that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// URL of the upstream.
    pub upstream: String,
    /// In the order in which they were tried.
    pub steps: Vec<Step>,
    /// Of each mirror, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<CheckReport>,
}

impl CheckReport {
    /// Whether nothing failed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.steps.iter().all(|step| step.outcome != Outcome::Failed) && self.mirrors.iter().all(Self::is_ok)
    }

    /// Enters a step. `None` where it failed, and what depends on it need not be tried.
    pub(super) fn add(&mut self, step: Step) -> Option<()> {
        self.has_added(step).then_some(())
    }

    /// Enters a step. False where it failed.
    pub(super) fn has_added(&mut self, step: Step) -> bool {
        let is_ok = step.outcome != Outcome::Failed;
        self.steps.push(step);
        is_ok
    }

    pub(super) fn skip(&mut self, why: &str, hint: &'static str) {
        self.steps.push(Step { step: StepName::Manifest, outcome: Outcome::Skipped, seen: why.to_owned(), hint: Some(hint) });
    }
}
