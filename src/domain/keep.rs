//! Which checkpoints of a run are kept beside its last, previous and best ones.

/// How many of the newest epochs are all kept, and the maximum number of epochs before them.
const RECENT: u32 = 8;
const EARLIER: u32 = 32;

/// Which checkpoints of the ends of epochs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Those of the last [`RECENT`] epochs, and at most [`EARLIER`] before them, evenly spread.
    #[default]
    Thin,
    All,
    /// None beside the last, the previous and the best.
    Last,
}

impl Keep {
    pub const ALL: [Keep; 3] = [Keep::Thin, Keep::All, Keep::Last];

    pub const fn name(self) -> &'static str {
        match self {
            Keep::Thin => "thin",
            Keep::All => "all",
            Keep::Last => "last",
        }
    }

    /// The choice with this name.
    pub fn named(name: &str) -> Option<Self> {
        Keep::ALL.into_iter().find(|keep| keep.name() == name)
    }

    /// Whether the checkpoint of an epoch stays when `newest` is the newest epoch. Epochs after it, which a run has gone
    /// back from, do not.
    pub fn keeps(self, epoch: u32, newest: u32) -> bool {
        if epoch > newest {
            return false;
        }
        match self {
            Keep::All => true,
            Keep::Last => false,
            Keep::Thin => {
                let earlier = newest.saturating_sub(RECENT);
                // A power of two: what a wider spacing keeps, every narrower one has kept.
                let spacing = earlier.div_ceil(EARLIER).max(1).next_power_of_two();
                epoch > earlier || epoch.is_multiple_of(spacing)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_last_epochs_and_an_even_spread_of_the_others() {
        let mut kept = Vec::new();
        for newest in 1..=3000u32 {
            kept.push(newest);
            kept.retain(|epoch| Keep::Thin.keeps(*epoch, newest));
            let recent = kept.iter().filter(|epoch| **epoch + RECENT > newest);
            assert_eq!(recent.count(), newest.min(RECENT) as usize, "{newest}");
            let earlier = newest.saturating_sub(RECENT);
            let others: Vec<u32> = kept.iter().copied().filter(|e| *e <= earlier).collect();
            assert!(others.len() <= EARLIER as usize, "{newest}: {others:?}");
            assert!(earlier < 1 || others.len() >= (earlier.min(EARLIER) / 2) as usize);
            // Evenly: all neighbours are equally far apart, and nothing that fits is missing.
            let spacing = others.first().copied().unwrap_or(1);
            assert!(others.windows(2).all(|pair| pair[1] - pair[0] == spacing));
            assert_eq!(others.len() as u32, earlier / spacing, "{newest}");
        }
    }

    #[test]
    fn epochs_that_a_run_went_back_from_go() {
        for keep in Keep::ALL {
            assert!(!keep.keeps(6, 5));
            assert_eq!(Keep::named(keep.name()), Some(keep));
        }
        assert!(Keep::All.keeps(1, 10_000) && !Keep::Last.keeps(5, 5));
        assert_eq!(Keep::named("some"), None);
    }
}
