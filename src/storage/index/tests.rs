use proptest::prelude::*;

use super::*;

fn digest(number: u64) -> Digest {
    if number.is_multiple_of(5) {
        // The same first half as another one, so that the second has to tell.
        let text = format!("sha512:{}{number:064x}", "00".repeat(32));
        return Digest::parse(&text).unwrap();
    }
    Digest::of(&number.to_le_bytes())
}

/// A blob of the model.
#[derive(Clone, Copy)]
struct Blob {
    digest: Digest,
    bytes: u64,
    used_ms: u64,
}

/// An exact list, oldest first, done the slow way.
#[derive(Default)]
struct Model {
    ordered: Vec<Blob>,
    pinned: Vec<Blob>,
}

impl Model {
    fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        for list in [&mut self.ordered, &mut self.pinned] {
            if let Some(at) = list.iter().position(|it| it.digest == *digest) {
                return Some(list.remove(at));
            }
        }
        None
    }

    fn is_pinned(&self, digest: &Digest) -> bool {
        self.pinned.iter().any(|it| it.digest == *digest)
    }

    fn put(&mut self, blob: Blob, pinned: bool) {
        let list = if pinned { &mut self.pinned } else { &mut self.ordered };
        let at = list.iter().rposition(|it| it.used_ms <= blob.used_ms).map_or(0, |at| at + 1);
        list.insert(at, blob);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    Touch(u64),
    Pin(u64),
    Unpin(u64),
    Remove(u64),
    TakeOldest,
    PutBack,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..40_u64;
    prop_oneof![
        4 => (number.clone(), 0..10_000_u64).prop_map(|(number, sectors)| Step::Insert(number, sectors * 512)),
        4 => number.clone().prop_map(Step::Touch),
        1 => number.clone().prop_map(Step::Pin),
        1 => number.clone().prop_map(Step::Unpin),
        2 => number.prop_map(Step::Remove),
        2 => Just(Step::TakeOldest),
        1 => Just(Step::PutBack),
    ]
}

proptest! {
    #[test]
    fn order_and_totals_are_those_of_an_exact_list(steps in proptest::collection::vec(step(), 0..300)) {
        let (mut index, mut model) = (Index::default(), Model::default());
        index.walk_is_over();
        for (now_ms, step) in steps.into_iter().enumerate() {
            let now_ms = now_ms as u64;
            match step {
                Step::Insert(number, bytes) => {
                    let pinned = model.is_pinned(&digest(number));
                    model.remove(&digest(number));
                    model.put(Blob { digest: digest(number), bytes, used_ms: now_ms }, pinned);
                    index.insert(&digest(number), bytes, now_ms);
                }
                Step::Touch(number) => {
                    let pinned = model.is_pinned(&digest(number));
                    if let Some(blob) = model.remove(&digest(number)) {
                        model.put(Blob { used_ms: now_ms, ..blob }, pinned);
                    }
                    index.touch(&digest(number), now_ms, true);
                }
                Step::Pin(number) => {
                    let known = model.remove(&digest(number));
                    known.into_iter().for_each(|blob| model.put(blob, true));
                    prop_assert_eq!(index.pin(&digest(number)), known.is_some());
                }
                Step::Unpin(number) => {
                    if let Some(blob) = model.remove(&digest(number)) {
                        model.put(blob, false);
                    }
                    index.unpin(&digest(number));
                }
                Step::Remove(number) => {
                    let taken = index.remove(&digest(number)).map(|taken| taken.disk_bytes);
                    prop_assert_eq!(taken, model.remove(&digest(number)).map(|blob| blob.bytes));
                }
                Step::TakeOldest => {
                    let oldest = (!model.ordered.is_empty()).then(|| model.ordered.remove(0));
                    let oldest = oldest.map(|blob| (blob.digest, blob.bytes));
                    prop_assert_eq!(index.take_oldest().map(|taken| (taken.digest, taken.disk_bytes)), oldest);
                }
                Step::PutBack => {
                    let oldest = index.take_oldest();
                    oldest.iter().for_each(|taken| index.put_back(taken));
                }
            }
            prop_assert_eq!(index.len(), model.ordered.len() + model.pinned.len());
            prop_assert_eq!(index.evictable_bytes(), model.ordered.iter().map(|it| it.bytes).sum::<u64>());
            prop_assert_eq!(index.pinned_bytes(), model.pinned.iter().map(|it| it.bytes).sum::<u64>());
        }
    }

    #[test]
    fn what_a_walk_finds_is_put_in_order_behind_what_was_used_meanwhile(
        modified in proptest::collection::vec(0..1_000_u64, 1..60),
        touched in proptest::collection::vec(0..60_u64, 0..20),
    ) {
        let mut index = Index::default();
        let mut waiting: Vec<_> =
            modified.iter().zip(0..).filter_map(|(ms, number)| index.seen(&digest(number), 512, *ms, 1 << 30)).collect();
        let mut used = Vec::new();
        for (number, now_ms) in touched.into_iter().zip(10_000..) {
            index.touch(&digest(number), now_ms, true);
            if (number as usize) < modified.len() {
                used.retain(|it| *it != number);
                used.push(number);
            }
        }
        waiting.sort_unstable_by(|one, other| other.cmp(one));
        waiting.chunks(7).for_each(|some| index.settle(some));
        index.walk_is_over();
        let taken: Vec<_> = std::iter::from_fn(|| index.take_oldest()).collect();
        prop_assert_eq!(taken.len(), modified.len());
        prop_assert!(taken.is_sorted_by_key(|taken| taken.used_ms));
        let last: Vec<_> = taken[taken.len() - used.len()..].iter().map(|taken| taken.digest).collect();
        prop_assert_eq!(last, used.into_iter().map(digest).collect::<Vec<_>>());
    }
}

#[test]
fn small_blobs_wait_until_the_records_have_said_which_are_manifests() {
    let mut index = Index::default();
    let (manifest, config, layer) = (digest(1), digest(2), digest(3));
    let mut waiting: Vec<_> = [(manifest, 10, 1_000), (config, 20, 1_000), (layer, 30, 1 << 30)]
        .into_iter()
        .filter_map(|(digest, modified_ms, length)| index.seen(&digest, 4096, modified_ms, length))
        .collect();
    assert_eq!(index.take_oldest().map(|taken| taken.digest), Some(layer));
    assert_eq!(index.take_oldest(), None);
    assert!(index.pin(&manifest));
    waiting.reverse();
    index.settle(&waiting);
    assert_eq!(index.take_oldest().map(|taken| taken.digest), Some(config));
    assert_eq!(index.take_oldest(), None);
    assert_eq!((index.pinned_bytes(), index.evictable_bytes()), (4096, 0));
}

#[test]
fn blob_used_before_the_walk_saw_it_keeps_that_time() {
    let mut index = Index::default();
    index.touch(&digest(1), 5_000, true);
    let waiting: Vec<_> = [2, 1].into_iter().filter_map(|number| index.seen(&digest(number), 512, 100, 1 << 30)).collect();
    index.settle(&waiting);
    assert_eq!(index.take_oldest().map(|taken| taken.digest), Some(digest(2)));
    assert_eq!(index.take_oldest().map(|taken| taken.used_ms), Some(5_000));
}

#[test]
fn file_is_told_of_a_use_once_in_a_while() {
    let mut index = Index::default();
    index.insert(&digest(1), 512, 1_000_000);
    let later = |seconds: u64| 1_000_000 + seconds * 1000;
    assert!(!index.touch(&digest(1), later(1), true), "its commit is recent");
    assert!(!index.touch(&digest(1), later(600), false), "it cannot be told");
    assert!(index.touch(&digest(1), later(600), true));
    assert!(!index.touch(&digest(1), later(1199), true));
    assert!(index.touch(&digest(1), later(1200), true));
    assert!(!index.touch(&digest(2), later(5000), true), "it is not there");
}

#[test]
fn held_blob_stays_from_before_it_comes_until_it_is_released() {
    let mut index = Index::default();
    index.hold(&digest(1));
    index.hold(&digest(2));
    index.insert(&digest(1), 512, 1);
    let waiting = index.seen(&digest(2), 512, 0, 1 << 30).unwrap();
    index.settle(&[waiting]);
    assert_eq!((index.take_oldest(), index.pinned_bytes()), (None, 1024));
    index.release(&digest(2));
    index.release(&digest(3));
    assert_eq!(index.take_oldest().map(|taken| taken.digest), Some(digest(2)));
    assert_eq!(index.take_oldest(), None);
}

#[test]
fn released_blob_goes_by_its_last_use_and_not_by_its_release() {
    let mut index = Index::default();
    index.walk_is_over();
    (1..=3).for_each(|number| index.hold(&digest(number)));
    (1..=6).for_each(|number| index.insert(&digest(number), 512, number));
    index.touch(&digest(2), 7, true);
    [3, 2, 1].iter().for_each(|number| index.release(&digest(*number)));
    let taken: Vec<_> = std::iter::from_fn(|| index.take_oldest()).map(|taken| taken.digest).collect();
    assert_eq!(taken, [1, 3, 4, 5, 6, 2].map(digest));
}
