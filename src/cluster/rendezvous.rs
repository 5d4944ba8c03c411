//! Who owns what: rendezvous hashing. Pure.
//!
//! Every replica scores every member for a key; the highest score owns it, the next one stands in for
//! it. A member that comes or goes moves only the keys it gets or had.

use std::net::SocketAddr;

use sha2::{Digest as _, Sha256};

/// The members by how far they are responsible for `key`, the owner first. The order of `members`
/// does not matter, and every replica, whatever its version, finds the same.
#[must_use]
pub fn ranked(members: &[SocketAddr], key: &str) -> Vec<SocketAddr> {
    let mut scored: Vec<_> = members.iter().map(|member| (score(*member, key), *member)).collect();
    scored.sort_unstable_by(|one, other| other.cmp(one));
    scored.into_iter().map(|(_, member)| member).collect()
}

fn score(member: SocketAddr, key: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(member.to_string());
    hasher.update([0]);
    hasher.update(key);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 5000))
    }

    fn owner(members: &[SocketAddr], key: &str) -> SocketAddr {
        ranked(members, key)[0]
    }

    proptest! {
        #[test]
        fn a_member_that_leaves_moves_only_its_own_keys(
            numbers in prop::collection::btree_set(0u16..500, 2..12),
            leaver in any::<prop::sample::Index>(),
            keys in prop::collection::vec("[a-z0-9/:]{1,40}", 1..50),
        ) {
            let members: Vec<_> = numbers.iter().map(|number| member(*number)).collect();
            let gone = members[leaver.index(members.len())];
            let left: Vec<_> = members.iter().copied().filter(|member| *member != gone).collect();
            for key in keys {
                let before = ranked(&members, &key);
                let after = ranked(&left, &key);
                let expected: Vec<_> = before.into_iter().filter(|member| *member != gone).collect();
                prop_assert_eq!(after, expected);
            }
        }

        #[test]
        fn the_order_in_which_names_resolve_does_not_matter(
            numbers in prop::collection::btree_set(0u16..500, 1..8),
            key in "[a-z0-9]{1,20}",
        ) {
            let members: Vec<_> = numbers.iter().map(|number| member(*number)).collect();
            let reversed: Vec<_> = members.iter().rev().copied().collect();
            prop_assert_eq!(ranked(&members, &key), ranked(&reversed, &key));
        }
    }

    #[test]
    fn keys_are_spread_over_the_members() {
        let members: Vec<_> = (0..3).map(member).collect();
        let mut owned = [0; 3];
        for key in 0..3000 {
            let owner = owner(&members, &format!("sha256:{key}"));
            owned[members.iter().position(|member| *member == owner).unwrap()] += 1;
        }
        assert!(owned.iter().all(|count| (850..1150).contains(count)), "{owned:?}");
    }

    /// Replicas of two versions run side by side while a new one is rolled out.
    #[test]
    fn owners_are_the_same_in_every_version() {
        let members: Vec<_> = (0..5).map(member).collect();
        let owners: Vec<_> = ["a", "docker-hub/library/nginx", "sha256:0"].iter().map(|key| owner(&members, key).to_string()).collect();
        assert_eq!(owners, ["10.0.0.4:5000", "10.0.0.0:5000", "10.0.0.2:5000"]);
    }
}
