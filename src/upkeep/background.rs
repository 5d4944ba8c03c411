//! Runs that nobody asked for, now and then.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::run::Teller;
use super::scrub::{Scrub, ScrubOptions};
use super::{Upkeep, unless_ended};

impl Upkeep {
    /// Scrubs the disk now and then. A bucket is not read by itself: that costs money.
    pub fn scrub_in_the_background(&self) {
        let (upkeep, interval) = (self.clone(), self.parts.limits.scrub_interval);
        if interval.is_zero() {
            return;
        }
        self.parts.tasks.spawn("scrub in the background", async move {
            loop {
                tokio::time::sleep(jittered(interval)).await;
                // A command's run does as well.
                let Some((place, ended)) = upkeep.scrubs.take_for_background() else { continue };
                let scrub = Scrub::new(Arc::clone(&upkeep.parts), ScrubOptions::default(), Teller::silent());
                unless_ended(&ended, async { drop(scrub.run().await) }).await;
                drop(place);
            }
        });
    }
}

/// The interval, and up to a tenth more or less: replicas that started together do not work together.
fn jittered(interval: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() % 1000;
    let share = 0.9 + 0.2 * (random as f64 / 1000.0);
    interval.mul_f64(share)
}
