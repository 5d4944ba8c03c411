//! Runs that nobody asked for, now and then.

use std::sync::Arc;

use super::gc::{Gc, GcOptions};
use super::run::Teller;
use super::scrub::{Scrub, ScrubOptions};
use super::{Upkeep, unless_ended};
use crate::tasks::jittered;

/// The first run comes after this share of the interval: a server that is restarted every day has its
/// runs, too.
const FIRST_SHARE: u32 = 10;

impl Upkeep {
    /// Scrubs the disk now and then. A bucket is not read by itself: that costs money.
    pub fn scrub_in_the_background(&self) {
        let (upkeep, interval) = (self.clone(), self.parts.limits.scrub_interval);
        if interval.is_zero() {
            return;
        }
        self.parts.tasks.spawn("scrub in the background", async move {
            let mut wait = interval / FIRST_SHARE;
            loop {
                tokio::time::sleep(jittered(std::mem::replace(&mut wait, interval))).await;
                // A command's run does as well.
                let Some((place, ended)) = upkeep.scrubs.take_for_background() else { continue };
                let scrub = Scrub::new(Arc::clone(&upkeep.parts), ScrubOptions::default(), Teller::silent());
                let run = Box::pin(scrub.run());
                unless_ended(&ended, async { drop(run.await) }).await;
                drop(place);
            }
        });
    }

    /// Collects garbage now and then. Replicas that do so at the same time do not get in each other's way.
    pub fn gc_in_the_background(&self) {
        let (upkeep, interval) = (self.clone(), self.parts.limits.gc_interval);
        if interval.is_zero() {
            return;
        }
        self.parts.tasks.spawn("gc in the background", async move {
            let mut wait = interval / FIRST_SHARE;
            loop {
                tokio::time::sleep(jittered(std::mem::replace(&mut wait, interval))).await;
                let Some((place, ended)) = upkeep.collections.take_for_background() else { continue };
                let gc = Gc::new(Arc::clone(&upkeep.parts), GcOptions::default(), Teller::silent());
                let run = Box::pin(gc.run());
                unless_ended(&ended, async { drop(run.await) }).await;
                drop(place);
            }
        });
    }
}
