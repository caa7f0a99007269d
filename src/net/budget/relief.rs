//! Chooses the clients that respgate disconnects when the budget is spent.

/// One client, as [`relief`] must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The client's weight; see [`Account::weigh`](super::Account::weigh).
    pub weight: usize,
    /// Bytes that become free when the client is disconnected.
    pub held: usize,
}

impl Holding {
    /// Returns the client's weight beside others. While any client holds more than the equal
    /// `share`, a client that holds at most that share weighs nothing.
    fn weight_above(&self, share: usize) -> usize {
        if self.held > share { self.weight } else { 0 }
    }
}

/// Returns the weight of the weightiest client that holds more than the equal `share`, or 0 if no
/// client does.
pub fn weightiest(clients: &[Holding], share: usize) -> usize {
    clients.iter().map(|client| client.weight_above(share)).max().unwrap_or(0)
}

/// Chooses the clients that a worker disconnects so that `missing` bytes become free. It takes the
/// worker's weightiest clients first, and only clients that weigh at least `others`, the largest
/// weight on any other worker. While any client holds more than an equal `share`, it chooses no
/// client that holds at most that share. `leaving` is the number of bytes of clients that are
/// already ending; they count as free.
///
/// Returns indexes of `clients`, the weightiest first.
pub fn relief(
    clients: &[Holding],
    share: usize,
    leaving: usize,
    missing: usize,
    others: usize,
) -> Vec<usize> {
    // `others` is above 0 only if a client of another worker holds more than the equal share,
    // because `weightiest` ignores smaller clients. If no worker has such a client, all clients are
    // compared by their full weight.
    let above = clients.iter().any(|client| client.held > share) || others > 0;
    let weight = |client: &Holding| if above { client.weight_above(share) } else { client.weight };
    let mut order: Vec<(usize, usize, usize)> = clients
        .iter()
        .enumerate()
        .map(|(index, client)| (weight(client), client.held, index))
        .filter(|(weight, ..)| *weight > 0 && *weight >= others)
        .collect();
    order.sort_unstable_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
    let mut missing = missing.saturating_sub(leaving);
    let mut chosen = Vec::new();
    for (_, held, index) in order {
        if missing == 0 {
            break;
        }
        missing = missing.saturating_sub(held);
        chosen.push(index);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clients(held: &[usize]) -> Vec<Holding> {
        held.iter().map(|held| Holding { weight: *held, held: *held }).collect()
    }

    #[test]
    fn the_client_that_holds_most_goes_first_wherever_it_is() {
        let clients = clients(&[10, 500, 0, 300, 400]);
        assert_eq!(relief(&clients, 0, 0, 1, 0), [1]);
        assert_eq!(relief(&clients, 0, 0, 900, 0), [1, 4]);
        assert_eq!(relief(&clients, 0, 0, 900, 450), [1], "the next largest is another worker's");
        assert!(relief(&clients, 0, 0, 1, 501).is_empty(), "the largest is another worker's");
        assert!(relief(&clients, 0, 1, 1, 0).is_empty(), "what leaves is enough");
        assert_eq!(relief(&clients, 0, 0, usize::MAX, 0), [1, 4, 3, 0], "who holds nothing stays");
    }

    /// Clients that hold more than an equal share go first, however long smaller clients have held
    /// their bytes.
    #[test]
    fn a_client_below_an_equal_share_stays_while_another_is_above() {
        let small = Holding { weight: 16 * 64, held: 64 };
        let (large, new) = (Holding { weight: 900, held: 900 }, Holding { weight: 0, held: 3000 });
        assert_eq!(relief(&[small, large, small, new], 500, 0, 10_000, 0), [1]);
        assert!(relief(&[small, new], 500, 0, 10_000, 0).is_empty(), "the large one is looked at again");
        assert!(relief(&[small, small], 500, 0, 10_000, 900).is_empty(), "another worker has a large one");
        assert_eq!(relief(&[small, small], 500, 0, 1, 0).len(), 1);
        assert_eq!((weightiest(&[small, large], 500), weightiest(&[small], 500)), (900, 0));
    }

    proptest! {
        /// No spared client holds more than a chosen one, and no more clients are chosen than
        /// needed.
        #[test]
        fn relief_is_fair_and_enough(held in proptest::collection::vec(0..1000usize, 0..40), overdraft in 0..20_000usize) {
            let chosen = relief(&clients(&held), 0, 0, overdraft, 0);
            let freed: usize = chosen.iter().map(|at| held[*at]).sum();
            prop_assert!(freed >= overdraft.min(held.iter().sum()));
            if let Some(last) = chosen.last() {
                prop_assert!(freed - held[*last] < overdraft);
                let spared = (0..held.len()).filter(|at| !chosen.contains(at));
                prop_assert!(spared.map(|at| held[at]).all(|bytes| bytes <= held[*last]));
            }
        }
    }
}
