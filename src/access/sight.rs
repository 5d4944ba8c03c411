//! What a principal may see of everything there is.

use super::{Action, Authorized, Authorizer, Principal};
use crate::oci::RepositoryName;
use crate::rules::{RuleTable, Target};

/// The repositories of a registry as one principal may see them. Lists that are about no single
/// target (the catalog) take this in place of an [`Authorized`] one, and get one for each name.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    rules: &'a RuleTable,
    authorizer: Authorizer,
    principal: &'a Principal,
}

impl<'a> Sight<'a> {
    /// What `principal` may see under these rules.
    #[must_use]
    pub const fn new(rules: &'a RuleTable, authorizer: Authorizer, principal: &'a Principal) -> Self {
        Self { rules, authorizer, principal }
    }

    /// The stored repository of that name, if it may be pulled under it. Without a rule its own record
    /// has the last word. A rule that came later may lead the name elsewhere: then it names nothing.
    #[must_use]
    pub fn of(&self, name: &RepositoryName) -> Option<Authorized<Target>> {
        let target = self.rules.resolve(name, None).ok().filter(|target| target.repository() == name)?;
        self.authorizer.authorize(self.principal, Action::Pull, target).ok()
    }
}
