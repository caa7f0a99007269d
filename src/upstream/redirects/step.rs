//! Decides how a command goes on that a node of a cluster has not run. No I/O.

use std::time::Duration;

use crate::cluster::redirect::Redirect;
use crate::topology::Address;
use crate::upstream::replies::Tries;

/// The number of redirects after which a command fails.
const MAX_REDIRECTS: u8 = 16;
/// The number of redirects that are followed without a pause. More show that the nodes do not agree yet.
const AT_ONCE: u8 = 4;
/// The first pause before a command is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause before a command is sent again.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How a command goes on that a node has not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct NextStep {
    /// The node that gets it; `None` if that is the one that serves its slot.
    pub(in crate::upstream) to: Option<Address>,
    /// True if ASKING must precede it there.
    pub(in crate::upstream) asks: bool,
    /// The time before it may be sent.
    pub(in crate::upstream) pause: Duration,
    /// How often it was redirected and had to wait, with this time.
    pub(in crate::upstream) tries: Tries,
}

/// The command was redirected too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct TooManyRedirects;

impl NextStep {
    /// Returns how a command goes on that got `redirect` from the node at `asked`. `tries` says how it has fared before.
    ///
    /// # Errors
    /// Returns an error if the command was redirected [`MAX_REDIRECTS`] times before.
    pub(in crate::upstream) fn after(
        redirect: &Redirect,
        asked: Option<&Address>,
        tries: Tries,
    ) -> Result<Self, TooManyRedirects> {
        match redirect {
            Redirect::Moved { to, .. } | Redirect::Ask { to, .. } => {
                if tries.redirects >= MAX_REDIRECTS {
                    return Err(TooManyRedirects);
                }
                let to = to.address(asked);
                let asks = matches!(redirect, Redirect::Ask { .. }) && to.is_some();
                let pause = growing(tries.redirects.checked_sub(AT_ONCE));
                Ok(Self { to, asks, pause, tries: Tries { redirects: tries.redirects + 1, ..tries } })
            }
            Redirect::TryAgain | Redirect::ClusterDown => {
                let pause = growing(Some(tries.waits));
                let waits = tries.waits.saturating_add(1);
                Ok(Self { to: None, asks: false, pause, tries: Tries { waits, ..tries } })
            }
        }
    }
}

/// Returns a pause that doubles with `count`; none if there is no count.
fn growing(count: Option<u8>) -> Duration {
    count
        .map_or(Duration::ZERO, |count| FIRST_PAUSE.saturating_mul(1_u32 << count.min(16)).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(line: &str) -> Redirect {
        Redirect::of(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_redirect_leads_to_the_node_that_it_names() {
        let asked = Address::tcp("10.0.0.1", 1);
        let step = |line, tries| NextStep::after(&redirect(line), Some(&asked), tries);
        let tries = Tries { redirects: 1, waits: 0 };
        let to = Some(Address::tcp("10.0.0.2", 7));
        let moved = NextStep { to, asks: false, pause: Duration::ZERO, tries };
        assert_eq!(step("MOVED 1 10.0.0.2:7", Tries::default()), Ok(moved.clone()));
        assert_eq!(step("ASK 1 10.0.0.2:7", Tries::default()), Ok(NextStep { asks: true, ..moved.clone() }));
        let same_host = Some(Address::tcp("10.0.0.1", 7));
        assert_eq!(step("MOVED 1 :7", Tries::default()), Ok(NextStep { to: same_host, ..moved }));
        // ASKING means nothing at a node that was not named.
        let anywhere = NextStep { to: None, asks: false, pause: Duration::ZERO, tries };
        assert_eq!(step("ASK 1 ?:7", Tries::default()), Ok(anywhere));
    }

    #[test]
    fn redirects_are_bounded_and_slow_down() {
        let (mut tries, mut pauses) = (Tries::default(), Duration::ZERO);
        let mut redirects = 0;
        while let Ok(step) = NextStep::after(&redirect("MOVED 1 a:1"), None, tries) {
            tries = step.tries;
            pauses += step.pause;
            redirects += 1;
            assert!(redirects > 4 || pauses.is_zero());
        }
        assert_eq!(redirects, 16);
        assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&pauses), "{pauses:?}");
    }

    #[test]
    fn waits_do_not_count_as_redirects_and_slow_down() {
        let (mut tries, mut pauses) = (Tries::default(), Duration::ZERO);
        for _ in 0..300 {
            let step = NextStep::after(&redirect("TRYAGAIN x"), None, tries).unwrap();
            assert!(step.pause >= FIRST_PAUSE && step.pause <= LONGEST_PAUSE && step.to.is_none());
            tries = step.tries;
            pauses += step.pause;
        }
        assert_eq!(tries, Tries { redirects: 0, waits: 255 });
        assert!(NextStep::after(&redirect("MOVED 1 a:1"), None, tries).is_ok());
    }
}
